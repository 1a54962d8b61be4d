//! A connection that has stopped speaking HTTP: bytes both ways until both sides are done, nobody has said
//! anything for too long, or the worker closes.
//!
//! Bytes are read into the worker's shared buffer and written on at once; only what the other side doesn't take
//! is kept, and then nothing more is read. So an idle tunnel owns no buffer, and a full one a single read's worth.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::ReadBuf;
use tokio::sync::oneshot;

use super::Client;
use super::exchange::Exchange;
use super::reply::Reason;
use crate::upstream::{Lease, Stream, UpgradedStream};
use crate::worker::{Signal, Worker};

/// Reads in a row before other connections get their turn.
const READS_MAX: usize = 16;

/// The client's side of an agreed upgrade.
#[derive(Debug)]
pub(super) enum ClientEnd {
    /// The whole connection, once the 101 is written; its owner runs the tunnel.
    Http1,
    /// One stream.
    Http2(OnUpgrade),
}

/// The endpoint's side of an agreed upgrade.
#[derive(Debug)]
pub(super) enum EndpointEnd {
    Http1(oneshot::Receiver<UpgradedStream>),
    /// There once it has agreed.
    Http2(UpgradedStream),
}

/// An agreed upgrade whose answer isn't sent yet.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(super) client: ClientEnd,
    pub(super) endpoint: EndpointEnd,
    pub(super) lease: Lease,
}

impl Opening {
    /// Lets the tunnel begin as soon as the client's side is there.
    pub(super) fn begin(self, exchange: Exchange) {
        let client = Rc::clone(exchange.client());
        client.lifeline.mark_long();
        let owns_connection = matches!(self.client, ClientEnd::Http1);
        let tunnel = Tunnel { owns_connection, endpoint: self.endpoint, _lease: self.lease, exchange };
        match self.client {
            ClientEnd::Http1 => *client.tunnel.borrow_mut() = Some(tunnel),
            ClientEnd::Http2(stream) => {
                tokio::task::spawn_local(async move {
                    // A client that left meanwhile has no stream; dropping the tunnel records that.
                    if let Ok(stream) = stream.await {
                        tunnel.run(TokioIo::new(stream), Bytes::new()).await;
                    }
                });
            }
        }
    }
}

/// One side of an agreed upgrade, waiting for the other.
#[derive(Debug)]
pub struct Tunnel {
    owns_connection: bool,
    endpoint: EndpointEnd,
    /// Counts as in flight at its endpoint.
    _lease: Lease,
    exchange: Exchange,
}

impl Tunnel {
    /// Passes bytes between the client and the endpoint until the tunnel ends; `read_ahead` is what the client
    /// sent after its request.
    pub(crate) async fn run(mut self, client: impl Stream, read_ahead: Bytes) {
        let endpoint = match self.endpoint {
            EndpointEnd::Http1(stream) => stream.await.ok(),
            EndpointEnd::Http2(stream) => Some(stream),
        };
        let Some(endpoint) = endpoint else {
            self.exchange.failed(Reason::ResponseBroken);
            return;
        };
        let shared = Rc::clone(self.exchange.client());
        shared.worker.cell().tunnels_open.increase();
        let mut ends = Ends::new(self.owns_connection, client, read_ahead, endpoint);
        if ends.run(&shared).await.is_err() {
            self.exchange.failed(Reason::ResponseBroken);
        }
        self.exchange.tunnelled(ends.up.bytes, ends.down.bytes);
        shared.worker.cell().tunnels_open.decrease();
    }
}

struct Ends<C> {
    /// The client's side is a whole connection.
    owns_connection: bool,
    client: C,
    endpoint: Box<dyn Stream>,
    /// From the client to the endpoint.
    up: Direction,
    down: Direction,
}

/// How far one direction has come.
#[derive(Debug, Default)]
struct Direction {
    /// Read, and not yet taken by the other side.
    pending: Bytes,
    bytes: u64,
    ended: bool,
    shut: bool,
}

impl<C: Stream> Ends<C> {
    fn new(owns_connection: bool, client: C, read_ahead: Bytes, endpoint: UpgradedStream) -> Self {
        let direction = |pending: Bytes| Direction { bytes: pending.len() as u64, pending, ..Direction::default() };
        Self {
            owns_connection,
            client,
            endpoint: endpoint.stream,
            up: direction(read_ahead),
            down: direction(endpoint.read_ahead),
        }
    }

    async fn run(&mut self, shared: &Client) -> io::Result<()> {
        let timer = shared.worker.timers.timer();
        let idle = shared.worker.view().snapshot.timeouts.tunnel_idle;
        timer.set(idle);
        poll_fn(|cx| {
            let before = self.up.bytes + self.down.bytes;
            let up = self.up.poll(cx, &shared.worker, &mut self.client, &mut self.endpoint)?;
            let down = self.down.poll(cx, &shared.worker, &mut self.endpoint, &mut self.client)?;
            if up.is_ready() && down.is_ready() {
                return Poll::Ready(Ok(()));
            }
            // A tunnel within an HTTP/2 connection ends with that, which is who listens.
            if self.owns_connection && shared.lifeline.heard(cx) == Signal::Close {
                return Poll::Ready(Ok(()));
            }
            if self.up.bytes + self.down.bytes > before {
                timer.set(idle);
            }
            timer.poll(cx).map(Ok)
        })
        .await
    }
}

impl Direction {
    /// Moves what can be moved; ready once the source has ended and the target knows it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        source: &mut (impl Stream + ?Sized),
        target: &mut (impl Stream + ?Sized),
    ) -> Poll<io::Result<()>> {
        let (mut source, mut target) = (Pin::new(source), Pin::new(target));
        for _ in 0..READS_MAX {
            while !self.pending.is_empty() {
                match target.as_mut().poll_write(cx, &self.pending)? {
                    Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => self.pending.advance(written),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.shut {
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                std::task::ready!(target.as_mut().poll_shutdown(cx))?;
                self.shut = true;
                return Poll::Ready(Ok(()));
            }
            let moved = worker.with_scratch(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                std::task::ready!(source.as_mut().poll_read(cx, &mut buffer))?;
                let read = buffer.filled();
                self.ended = read.is_empty();
                self.bytes += read.len() as u64;
                let written = match read {
                    [] => 0,
                    read => match target.as_mut().poll_write(cx, read)? {
                        Poll::Ready(written) => written,
                        Poll::Pending => 0,
                    },
                };
                self.pending = Bytes::copy_from_slice(&read[written..]);
                Poll::Ready(io::Result::Ok(()))
            })?;
            if moved.is_pending() {
                // What is written so far may wait in a TLS buffer.
                let _ = target.as_mut().poll_flush(cx)?;
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
