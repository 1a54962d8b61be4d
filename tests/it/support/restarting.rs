//! An endpoint that is stopped and started at the same address, as a deployment in place does: it finishes what it has
//! begun, and nobody else gets its port meanwhile.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::{OK, Received, Wire};

/// Long enough for requests to be under way at the same time, so that their connections are kept.
const ANSWER_TIME: Duration = Duration::from_millis(5);

/// Stopped at first.
pub struct Restarting {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Received>>>,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
    /// Bound, and never listened on.
    _port: Socket,
}

impl Restarting {
    pub fn new() -> Self {
        let port = bound(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = port.local_addr().ok().and_then(|address| address.as_socket());
        let address = address.expect("a bound socket has an address");
        Self { address, requests: Arc::default(), running: None, _port: port }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn start(&mut self) {
        let socket = bound(self.address);
        socket.listen(1024).expect("a bound socket listens");
        let listener = TcpListener::from_std(socket.into()).expect("the socket is one");
        let (stop, stopping) = watch::channel(false);
        let running = tokio::spawn(serve(listener, Arc::clone(&self.requests), stopping));
        self.running = Some((stop, running));
    }

    /// Stops listening, finishes what has begun, closes all connections.
    pub async fn stop(&mut self) {
        let (stop, running) = self.running.take().expect("it runs");
        stop.send_replace(true);
        running.await.expect("it doesn't panic");
    }

    /// Requests received whole so far.
    pub fn requests(&self) -> Vec<Received> {
        self.requests.lock().unwrap().clone()
    }
}

fn bound(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are sockets");
    socket.set_reuse_port(true).and_then(|()| socket.set_nonblocking(true)).expect("Linux has both");
    socket.bind(&address.into()).expect("the port is ours");
    socket
}

async fn serve(listener: TcpListener, requests: Arc<Mutex<Vec<Received>>>, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("the listener is open");
                connections.spawn(answer(Wire::new(stream), Arc::clone(&requests), stopping.clone()));
            }
            _ = stopping.changed() => break,
        }
    }
    drop(listener);
    connections.join_all().await;
}

async fn answer(mut wire: Wire, requests: Arc<Mutex<Vec<Received>>>, mut stopping: watch::Receiver<bool>) {
    loop {
        let head = tokio::select! {
            biased;
            head = wire.next_head() => head,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        let Some(head) = head else { return };
        let Some(body) = wire.whole_request_body(&head).await else { return };
        requests.lock().unwrap().push(Received { head, body });
        tokio::time::sleep(ANSWER_TIME).await;
        if wire.try_send(OK).await.is_err() {
            return;
        }
    }
}
