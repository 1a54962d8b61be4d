//! One accepted connection: which protocol it speaks, and then speaking it.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::admission::Place;
use super::http1::{FIRST_REQUEST_GRACE, poll_first};
use super::{http1, http2, proxied, refusal};
use crate::model::Ends;
use crate::observe::{ConnectionError, HandshakeError};
use crate::proxy::Client;
use crate::state::Listener;
use crate::tls::ClientCertificate;
use crate::worker::{Lifeline, Registration, Signal, Worker};

/// What an HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection that was let in.
pub(super) struct Arrival {
    pub(super) worker: Rc<Worker>,
    pub(super) listener: Arc<Listener>,
    pub(super) ends: Ends,
    pub(super) lifeline: Rc<Lifeline>,
    /// Until it ends, the worker can reach it.
    pub(super) _registration: Registration,
    pub(super) place: Place,
}

/// Serves a connection to its end.
#[expect(clippy::manual_async_fn, reason = "an async function holds what it is given twice")]
pub(super) fn run(mut stream: TcpStream, mut arrival: Arrival) -> impl Future<Output = ()> {
    async move {
        if !arrival.listener.proxy_protocol.is_empty() {
            // Boxed: rare, and over soon.
            if let Err(cause) = Box::pin(arrival.introduced(&mut stream)).await {
                let cell = arrival.worker.cell();
                return cause.into_iter().for_each(|cause| cell.connection_errors[cause as usize].add(1));
            }
        }
        let (worker, lifeline) = (Rc::clone(&arrival.worker), Rc::clone(&arrival.lifeline));
        match arrival.listener.tls.clone() {
            None => plain(stream, Client::new(worker, lifeline, arrival.ends, false, None)).await,
            // Boxed, so that a plain connection's task isn't as large as a secure one's.
            Some(config) => Box::pin(secure(stream, config, worker, lifeline, arrival.ends)).await,
        }
        drop(arrival);
    }
}

impl Arrival {
    /// Learns from the PROXY header who the client is, and whether there is room for it.
    async fn introduced(&mut self, stream: &mut TcpStream) -> Result<(), Option<ConnectionError>> {
        if let Some(told) = proxied::read(stream, &self.worker, &self.lifeline).await? {
            self.ends = told;
        }
        let view = self.worker.view();
        self.place.claim(self.ends.client.ip(), &view.snapshot).map_err(|limit| {
            self.worker.cell().connections_refused[limit as usize].add(1);
            None
        })
    }
}

async fn plain(mut stream: TcpStream, client: Rc<Client>) {
    match opening(&mut stream, &client).await {
        Opening::Http1(first) => http1::run(stream, first, Rc::clone(&client)).await,
        Opening::Http2(first) => http2::run(stream, first, Rc::clone(&client)).await,
        Opening::Gone => {}
    }
    client.forget_tunnel();
}

async fn secure(stream: TcpStream, config: Arc<ServerConfig>, worker: Rc<Worker>, lifeline: Rc<Lifeline>, ends: Ends) {
    let limit = worker.view().snapshot.timeouts.tls_handshake;
    // Boxed: a handshake is large, and over long before its connection is.
    let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
    let accepted = worker.timers.timeout(limit, unless_closed(&lifeline, handshake)).await;
    let failed = |cause: HandshakeError| worker.cell().tls_handshake_errors[cause as usize].add(1);
    // Boxed: more than a kilobyte, which whoever takes it would have room for once more.
    let stream = match accepted {
        Ok(Some(Ok(stream))) => Box::new(stream),
        Ok(Some(Err(error))) => {
            tracing::debug!(%error, client = %ends.client, "TLS handshake failed");
            return failed(handshake_error(&error));
        }
        Ok(None) => return,
        Err(_elapsed) => return failed(HandshakeError::Timeout),
    };
    let session = &stream.get_ref().1;
    let shown = session.peer_certificates().and_then(|chain| chain.first()).map(ClientCertificate::new);
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let client = Client::new(worker, lifeline, ends, true, shown);
    if is_http2 {
        http2::run(stream, Bytes::new(), Rc::clone(&client)).await;
    } else {
        http1::run(stream, Bytes::new(), Rc::clone(&client)).await;
    }
    client.forget_tunnel();
}

fn handshake_error(error: &io::Error) -> HandshakeError {
    use rustls::Error;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        None => HandshakeError::Closed,
        Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => HandshakeError::NotTls,
        Some(Error::PeerIncompatible(_) | Error::NoApplicationProtocol) => HandshakeError::Incompatible,
        Some(Error::NoCertificatesPresented | Error::InvalidCertificate(_)) => HandshakeError::ClientCertificate,
        Some(Error::AlertReceived(_)) => HandshakeError::Alert,
        Some(_) => HandshakeError::Other,
    }
}

/// `None` when the connection was told to close first.
pub(super) async fn unless_closed<F: Future>(lifeline: &Lifeline, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if lifeline.heard(cx) == Signal::Close => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// A plain connection's first bytes.
enum Opening {
    Http1(Bytes),
    Http2(Bytes),
    Gone,
}

/// Reads until it is clear whether an HTTP/2 preface comes. Nothing is buffered while nothing has come.
async fn opening(stream: &mut TcpStream, client: &Client) -> Opening {
    let timer = client.worker.timers.timer();
    let timeouts = client.worker.view().snapshot.timeouts;
    timer.set(timeouts.keep_alive);
    let mut first = Bytes::new();
    let mut hurried = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(read) = poll_first(Pin::new(stream), client, cx) {
                let Some(read) = read else { return Poll::Ready(Opening::Gone) };
                // A preface that comes in pieces is rare.
                first = if first.is_empty() { read } else { [&first[..], &read].concat().into() };
                let length = first.len().min(PREFACE.len());
                if first[..length] != PREFACE[..length] {
                    return Poll::Ready(Opening::Http1(std::mem::take(&mut first)));
                }
                if length == PREFACE.len() {
                    return Poll::Ready(Opening::Http2(std::mem::take(&mut first)));
                }
                timer.set(timeouts.header_read);
                continue;
            }
            let told = match client.lifeline.heard(cx) {
                Signal::Serve => false,
                Signal::Drain => {
                    if first.is_empty() && !std::mem::replace(&mut hurried, true) {
                        timer.set(FIRST_REQUEST_GRACE);
                    }
                    false
                }
                Signal::Close => true,
            };
            let late = timer.poll(cx).is_ready();
            if late && !first.is_empty() {
                refusal::record(client, "HTTP/2", ConnectionError::HeaderTimeout, None);
            }
            return if told || late { Poll::Ready(Opening::Gone) } else { Poll::Pending };
        }
    })
    .await
}
