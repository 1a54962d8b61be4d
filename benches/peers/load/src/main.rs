//! Load and origins for benches/peers, where wrk, h2load and nginx don't do: each command is one of them, and prints
//! one line of JSON at its end.

mod handshakes;
mod held;
#[path = "../../../load.rs"]
mod load;
mod open;
mod origin;
mod relay;
mod transport;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use transport::{Secure, Transport};

#[derive(Debug, Parser)]
enum Command {
    /// GETs in an open loop: how long they take from when they should have begun, in microseconds.
    Open {
        address: SocketAddr,
        #[arg(long, value_enum)]
        transport: Transport,
        #[arg(long, default_value = "shop.test")]
        host: String,
        #[arg(long)]
        cert: PathBuf,
        #[arg(long)]
        rate: u64,
        #[arg(long)]
        seconds: u64,
        /// Seconds at half the rate, and as many at the rate, before it counts.
        #[arg(long, default_value_t = 0.5)]
        warm_up: f64,
    },
    /// Connections over TLS with one request each.
    Handshakes {
        address: SocketAddr,
        #[arg(long)]
        cert: PathBuf,
        #[arg(long)]
        resumed: bool,
        #[arg(long, default_value_t = 16)]
        connections: usize,
        #[arg(long)]
        seconds: u64,
    },
    /// Messages of 64 bytes over WebSocket that come back, one at a time on each connection.
    Websocket {
        address: SocketAddr,
        #[arg(long, default_value_t = 64)]
        connections: usize,
        #[arg(long)]
        seconds: u64,
    },
    /// Connections that carry a request each and stay; prints a line when they are there, closes them at the end of
    /// its input.
    Held {
        address: SocketAddr,
        #[arg(long, value_enum)]
        transport: Transport,
        #[arg(long)]
        cert: PathBuf,
        #[arg(long)]
        connections: usize,
        /// Asks for this path and reads hardly anything of its answer.
        #[arg(long)]
        slow: Option<String>,
    },
    /// Hands bytes on, and knows nothing of what they mean.
    Relay { listen: SocketAddr, to: SocketAddr },
    /// Answers gRPC and WebSocket.
    Origin {
        #[arg(long, required = true)]
        grpc: Vec<SocketAddr>,
        #[arg(long, required = true)]
        websocket: Vec<SocketAddr>,
    },
}

fn main() -> ExitCode {
    let command = Command::parse();
    match run(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    match command {
        Command::Open { address, transport, host, cert, rate, seconds, warm_up } => {
            let warm_up = Duration::from_secs_f64(warm_up);
            open::run(transport, address, &host, &Secure::trusting(&cert)?, rate, warm_up, Duration::from_secs(seconds))
        }
        Command::Handshakes { address, cert, resumed, connections, seconds } => {
            let time = Duration::from_secs(seconds);
            let secure = Secure::trusting(&cert)?;
            local.block_on(&runtime, handshakes::run(address, &secure, resumed, connections, time))
        }
        Command::Websocket { address, connections, seconds } => {
            local.block_on(&runtime, websocket::run(address, connections, Duration::from_secs(seconds)))
        }
        Command::Held { address, transport, cert, connections, slow } => {
            local.block_on(&runtime, held::run(address, transport, Secure::trusting(&cert)?, connections, slow))
        }
        Command::Relay { listen, to } => relay::run(listen, to),
        Command::Origin { grpc, websocket } => local.block_on(&runtime, origin::run(grpc, websocket)),
    }
}
