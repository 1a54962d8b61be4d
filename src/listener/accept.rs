//! One worker's accept loop on one socket.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tracing::warn;

use super::connection;
use crate::proxy::Client;
use crate::state::ListenerKey;
use crate::worker::{Signal, Worker};

/// How long to wait after the system ran out of something: file descriptors come back as connections end, and
/// asking again at once would only burn the processor that ends them.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Accepts until told to stop, then what is still waiting, then closes the socket and drains its connections.
pub(super) async fn run(
    worker: Rc<Worker>,
    key: ListenerKey,
    listener: TcpListener,
    stop: oneshot::Receiver<()>,
    stopped: Rc<tokio::sync::Notify>,
) {
    let mut stop = stop;
    let mut tls = None;
    let port = listener.local_addr().map_or(key.address.port(), |address| address.port());
    // Made here, so that no other worker counts its references.
    let port = HeaderValue::from(port);
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => start(&worker, key, &port, &mut tls, stream, address),
            Err(error) => {
                worker.cell().accept_errors.add(1);
                if is_exhaustion(&error) {
                    warn!(%error, address = %key.address, "can't accept connections; trying again");
                    tokio::time::sleep(EXHAUSTED_WAIT).await;
                }
            }
        }
    }
    // Whoever is in the queue was told by the kernel that we are here. The socket itself is asked, since the runtime
    // may not have heard of the last ones yet.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, address)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                start(&worker, key, &port, &mut tls, stream, address);
            }
        }
    }
    worker.signal(Signal::Drain, |lifeline| lifeline.listener() == key);
    stopped.notify_one();
}

/// `tls` is how this listener was last known to be.
fn start(
    worker: &Rc<Worker>,
    key: ListenerKey,
    port: &HeaderValue,
    tls: &mut Option<Arc<ServerConfig>>,
    stream: TcpStream,
    address: SocketAddr,
) {
    worker.cell().connections_accepted.add(1);
    // Without this a small answer may wait for the client's delayed acknowledgement. It fails only on a
    // connection that is gone already, which reading will find out.
    let _ = stream.set_nodelay(true);
    let view = worker.view();
    // A listener that a reload has just removed is still accepted from until its socket is empty.
    if let Some(listener) = view.snapshot.listener(key) {
        tls.clone_from(&listener.tls);
    }
    let client = Client::new(Rc::clone(worker), address, tls.is_some(), key, port.clone());
    let registration = worker.register(&client.lifeline);
    tokio::task::spawn_local(connection::run(stream, tls.clone(), client, registration));
}

/// The process or the system is out of file descriptors or memory.
fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}
