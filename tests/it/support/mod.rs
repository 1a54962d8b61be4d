//! What the tests are made of: the proxy as a process, endpoints that do as they are told, and raw connections.

mod address;
mod api;
mod certificates;
mod command;
mod curl;
mod exposition;
mod fleet;
pub mod frames;
mod gate;
mod grpc;
mod head;
pub mod http2;
mod load;
mod mirrored;
mod nginx;
mod proxy;
mod restarting;
pub mod rollouts;
mod upstream;
mod wire;

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

pub use address::free_address;
pub use api::{OK, backend, get, named};
pub use certificates::{Authority, Pair, connect};
pub use command::{Ran, tidegate};
pub use curl::curl;
pub use exposition::Exposition;
pub use fleet::Fleet;
pub use gate::{Gate, OPEN_SOCKET};
pub use grpc::{Grpc, ServingStatus};
pub use head::Head;
pub use load::Load;
pub use mirrored::mirrored;
pub use nginx::Nginx;
pub use proxy::{Proxy, Setup, Signal};
pub use restarting::Restarting;
pub use upstream::{Received, Refusing, Upstream};
pub use wire::{Answer, Wire};

/// What takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
pub const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits for something that must come.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let waited = tokio::time::timeout(PATIENCE, future).await;
    waited.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} until {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
