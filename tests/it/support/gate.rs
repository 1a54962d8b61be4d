//! An endpoint that keeps its clients waiting until the test lets go.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::{OK, Upstream, Wire, eventually};

/// Answers `/` at once, `/held` once the gate is open, `/half` by half before and by half after that, `/lines` by a
/// line of text before and one after that. `/socket` becomes a tunnel that echoes; `/events` is a stream of events with one sent, that ends once the gate is open.
pub struct Gate {
    pub upstream: Upstream,
    permits: Arc<Semaphore>,
}

impl Gate {
    pub async fn shut() -> Self {
        let permits = Arc::new(Semaphore::new(0));
        let known = Arc::clone(&permits);
        let upstream = Upstream::scripted(move |wire, _| answer(wire, Arc::clone(&known))).await;
        Self { upstream, permits }
    }

    /// Lets everything pass, now and later.
    pub fn open(&self) {
        self.permits.add_permits(1_000_000);
    }

    /// Waits until an endpoint's connection has received `text`.
    pub async fn received(&self, text: &str) {
        let holds = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        let received = || (0..self.upstream.connections()).any(|index| holds(&self.upstream.bytes(index)));
        eventually(&format!("{text:?} reaches the endpoint"), received).await;
    }
}

async fn answer(mut wire: Wire, gate: Arc<Semaphore>) {
    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfirst";
    const LINES: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n6\r\nfirst\n\r\n";
    const EVENTS: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
    let open = async || gate.acquire().await.expect("nobody closes it").forget();
    while let Some(head) = wire.next_head().await {
        wire.request_body(&head).await;
        let sent = match head.line.split(' ').nth(1) {
            Some("/held") => {
                open().await;
                wire.try_send(OK).await
            }
            Some("/half") => {
                // The proxy may have left meanwhile.
                drop(wire.try_send(HALF).await);
                open().await;
                wire.try_send("after").await
            }
            Some("/lines") => {
                drop(wire.try_send(LINES).await);
                open().await;
                wire.try_send("6\r\nafter\n\r\n0\r\n\r\n").await
            }
            Some("/events") => {
                drop(wire.try_send(EVENTS).await);
                open().await;
                wire.try_send("0\r\n\r\n").await
            }
            Some("/socket") => {
                drop(wire.try_send(SWITCH).await);
                return echo(wire).await;
            }
            _ => wire.try_send(OK).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn echo(mut wire: Wire) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = wire.read(&mut buffer).await {
        if wire.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

/// A WebSocket's opening for `/socket`; the key is that of RFC 6455, 1.3.
pub const OPEN_SOCKET: &str = "GET /socket HTTP/1.1\r\nhost: shop.test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                               sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl Wire {
    /// Opens the tunnel of a [`Gate`].
    pub async fn open_socket(&mut self) {
        self.send(OPEN_SOCKET).await;
        assert_eq!(self.head().await.status(), 101);
        self.assert_echo("hello").await;
    }

    /// The tunnel carries `text` there and back.
    pub async fn assert_echo(&mut self, text: &str) {
        self.send(text).await;
        assert_eq!(self.bytes(text.len()).await, text.as_bytes());
    }
}
