//! One worker's accept loop on one socket.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tracing::warn;

use super::admission::{Admission, Place};
use super::connection::{self, Arrival};
use super::proxied;
use crate::model::{Ends, Overload};
use crate::observe::{ConnectionError, ConnectionLimit};
use crate::state::{Listener, ListenerKey};
use crate::worker::{Lifeline, Signal, Worker};

/// How long to wait after the system ran out of something: file descriptors come back as connections end, and
/// asking again at once would only burn the processor that ends them.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Accepts until told to stop, then what is still waiting, then closes the socket and drains its connections.
pub(super) async fn run(
    worker: Rc<Worker>,
    admission: Arc<Admission>,
    key: ListenerKey,
    listener: TcpListener,
    stop: oneshot::Receiver<()>,
    stopped: Rc<tokio::sync::Notify>,
) {
    let mut stop = stop;
    // A socket on one address accepts connections to that one alone.
    let address = listener.local_addr().ok().filter(|address| !address.ip().is_unspecified());
    let mut door = Door { worker, admission, key, address, listener: None };
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => door.let_in(stream, address),
            Err(error) => {
                door.worker.cell().accept_errors.add(1);
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
                door.let_in(stream, address);
            }
        }
    }
    door.worker.signal(Signal::Drain, |lifeline| lifeline.listener() == key);
    stopped.notify_one();
}

/// What every connection of a listener comes through.
struct Door {
    worker: Rc<Worker>,
    admission: Arc<Admission>,
    key: ListenerKey,
    /// Where all of its connections come to, where that is one address.
    address: Option<SocketAddr>,
    /// How the listener was last known to be.
    listener: Option<Arc<Listener>>,
}

impl Door {
    /// Begins a connection, or closes it.
    fn let_in(&mut self, stream: TcpStream, peer: SocketAddr) {
        if let Err(limit) = self.start(stream, peer) {
            self.worker.cell().connections_refused[limit as usize].add(1);
        }
    }

    fn start(&mut self, stream: TcpStream, peer: SocketAddr) -> Result<(), ConnectionLimit> {
        let worker = &self.worker;
        if worker.process.memory.overload() == Overload::Connections {
            return Err(ConnectionLimit::Memory);
        }
        let view = worker.view();
        // A listener that a reload has just removed is still accepted from until its socket is empty.
        if let Some(listener) = view.snapshot.listener(self.key) {
            self.listener = Some(Arc::clone(listener));
        }
        let Some(listener) = self.listener.clone() else { return Ok(()) };
        let mut place = Place::take(&self.admission, &listener, &view.snapshot)?;
        if listener.proxy_protocol.is_empty() {
            place.claim(peer.ip(), &view.snapshot)?;
        } else if !proxied::is_trusted(&listener.proxy_protocol, peer) {
            // Nobody else may say who they are, and nobody may leave it out here.
            worker.cell().connection_errors[ConnectionError::ProxyUntrusted as usize].add(1);
            return Ok(());
        }
        worker.cell().connections_accepted.add(1);
        let lifeline = Lifeline::new(self.key);
        let server = self.address.or_else(|| stream.local_addr().ok()).unwrap_or(listener.address);
        let ends = Ends { client: peer, server };
        let arrival = Arrival {
            worker: Rc::clone(worker),
            listener,
            ends,
            _registration: worker.register(&lifeline),
            lifeline,
            place,
        };
        tokio::task::spawn_local(connection::run(stream, arrival));
        Ok(())
    }
}

/// The process or the system is out of file descriptors or memory.
fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| exhausted.contains(&errno))
}
