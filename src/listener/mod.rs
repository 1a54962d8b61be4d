//! The client's side: sockets, workers' threads, connections.

mod accept;
mod connection;
mod http1;
mod http2;
mod io;
mod sockets;
mod stalls;
mod thread;

pub use sockets::{BindError, Bound, bind};
pub use thread::{Command, WorkerThread, WorkerThreadConfig};
