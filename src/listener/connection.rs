//! One accepted connection: which protocol it speaks, and then speaking it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::http1::{FIRST_REQUEST_GRACE, poll_first};
use super::{http1, http2};
use crate::proxy::Client;
use crate::worker::{Registration, Signal};

/// What an HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end.
pub(super) async fn run(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    client: Rc<Client>,
    registration: Registration,
) {
    match tls {
        None => plain(stream, &client).await,
        // Boxed, so that a plain connection's task isn't as large as a secure one's.
        Some(config) => Box::pin(secure(stream, config, &client)).await,
    }
    // An upgrade that was agreed on but never begun holds the client, and the client holds it.
    drop(client.tunnel.borrow_mut().take());
    drop(registration);
}

async fn plain(mut stream: TcpStream, client: &Rc<Client>) {
    match opening(&mut stream, client).await {
        Opening::Http1(first) => http1::run(stream, first, Rc::clone(client)).await,
        Opening::Http2(first) => http2::run(stream, first, Rc::clone(client)).await,
        Opening::Gone => {}
    }
}

async fn secure(stream: TcpStream, config: Arc<ServerConfig>, client: &Rc<Client>) {
    let worker = &client.worker;
    let limit = worker.view().snapshot.timeouts.tls_handshake;
    // Boxed: a handshake is large, and over long before its connection is.
    let handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
    let accepted = worker.timers.timeout(limit, unless_closed(client, handshake)).await;
    let stream = match accepted {
        Ok(Some(Ok(stream))) => stream,
        Ok(Some(Err(error))) => {
            tracing::debug!(%error, client = %client.address, "TLS handshake failed");
            return worker.cell().tls_handshake_errors.add(1);
        }
        Ok(None) => return,
        Err(_elapsed) => return worker.cell().tls_handshake_errors.add(1),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2::run(stream, Bytes::new(), Rc::clone(client)).await;
    } else {
        http1::run(stream, Bytes::new(), Rc::clone(client)).await;
    }
}

/// `None` when the connection was told to close first.
pub(super) async fn unless_closed<F: Future>(client: &Client, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if client.lifeline.heard(cx) == Signal::Close => Poll::Ready(None),
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
            return if told || timer.poll(cx).is_ready() { Poll::Ready(Opening::Gone) } else { Poll::Pending };
        }
    })
    .await
}
