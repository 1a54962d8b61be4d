//! The client's side: sockets, workers' threads, connections.

mod accept;
mod admission;
mod connection;
mod http1;
mod http2;
mod io;
mod proxied;
mod refusal;
mod resets;
mod sockets;
mod stalls;
#[cfg(test)]
mod tests;
mod thread;

pub use admission::Admission;
pub use sockets::{BindError, Bound, bind};
pub use thread::{Command, WorkerThread, WorkerThreadConfig};
