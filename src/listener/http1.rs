//! One HTTP/1 connection, parked while it idles.
//!
//! ```text
//!            first bytes                       request under way
//!   parked ---------------> serving ------------------------------+
//!     ^   a small future,     ^  |  hyper's machinery, kilobytes   |
//!     |   no buffers          |  +---------------------------------+
//!     +-----------------------+--> tunnel, after a 101
//!        idle for PARK_AFTER
//! ```
//!
//! hyper holds 24 KB for a connection whether it works or not. Most connections of a busy proxy don't, so once
//! nothing of one is left in hyper the socket is taken back, and hyper starts anew with the next byte.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::Instant;

use super::connection::unless_closed;
use super::io::Io;
use super::refusal;
use crate::config::ClientTimeouts;
use crate::observe::ConnectionError;
use crate::passage::Plain;
use crate::proxy::{Client, Stage, Turn, serve};
use crate::stream::Reset;
use crate::timers::Timer;
use crate::worker::Signal;

/// How long a connection idles before it is parked: longer than a busy client pauses.
const PARK_AFTER: Duration = Duration::from_millis(500);

/// Header fields that hyper takes unless told otherwise.
const HEADERS_DEFAULT: usize = 100;
/// How long a client may take to take its last bytes.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How long a drain waits for the first request of a connection that has had none: it may be on its way.
pub(super) const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// What was received and not passed on, and what is to be sent: a client that reads nothing holds this much of either.
/// Uploads are handed on in pieces of this size, which stay in the processor's cache on their way; of 64 KiB they don't.
const BUFFER_BYTES: usize = 32 * 1024;

const TIMEOUT_ANSWER: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// How serving ended.
enum Ended<T> {
    /// The connection is closed, or about to be.
    Closed,
    /// Nothing is under way; what was read ahead belongs to the next request.
    Idle(T, Bytes),
    /// HTTP is over; the bytes belong to the tunnel.
    Tunnel(T, Bytes),
    /// A request's head takes too long.
    HeadTimeout(T),
    /// Answered before all of the body was read, and our side is about to be closed.
    BodyUnread(T),
    /// An answer broke off whose end the client would take for a whole one's, were it not told.
    BrokenOff(T),
}

/// Serves a connection to its end. `first` is what was read from it already.
pub(super) async fn run<T>(mut stream: T, mut first: Bytes, client: Rc<Client>)
where
    T: AsyncRead + AsyncWrite + Plain + Reset + Unpin + 'static,
{
    client.is_passable.set(stream.plain().is_some());
    let timer = client.worker.timers.timer();
    loop {
        if first.is_empty() {
            first = match parked(&mut stream, &client, &timer).await {
                Some(first) => first,
                None => return close(&mut stream, &client, b"").await,
            };
        }
        // Boxed, so that a parked connection's future is small.
        match Box::pin(serving(stream, std::mem::take(&mut first), &client, &timer)).await {
            Ended::Closed => return,
            Ended::Idle(back, read_ahead) => (stream, first) = (back, read_ahead),
            Ended::Tunnel(stream, read_ahead) => {
                let tunnel = client.tunnel.borrow_mut().take();
                if let Some(tunnel) = tunnel {
                    Box::pin(tunnel.run(stream, read_ahead)).await;
                }
                return;
            }
            Ended::BodyUnread(mut stream) => return drain(&mut stream, &client).await,
            Ended::BrokenOff(stream) => return stream.reset(),
            Ended::HeadTimeout(mut stream) => {
                refusal::record(&client, "HTTP/1.1", ConnectionError::HeaderTimeout, Some(408));
                return close(&mut stream, &client, TIMEOUT_ANSWER).await;
            }
        }
    }
}

/// Says `last` and closes. A client that doesn't take it, or is gone, is not waited for.
async fn close<T: AsyncWrite + Unpin>(stream: &mut T, client: &Client, last: &[u8]) {
    let closing = async {
        stream.write_all(last).await?;
        stream.shutdown().await
    };
    let _ = client.worker.timers.timeout(CLOSE_LIMIT, closing).await;
}

/// Reads what the client still sends: to close with bytes unread would reset the connection, and a reset overtakes
/// the answer.
async fn drain<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut T, client: &Client) {
    let reading = async {
        // The client learns that the answer was all.
        let _ = stream.shutdown().await;
        poll_fn(|cx| {
            loop {
                if std::task::ready!(poll_first(Pin::new(stream), client, cx)).is_none() {
                    return Poll::Ready(());
                }
            }
        })
        .await;
    };
    let _ = client.worker.timers.timeout(CLOSE_LIMIT, unless_closed(&client.lifeline, reading)).await;
}

/// Waits for the next request's first bytes. `None`: the client left, idled too long, or has to go.
async fn parked<T: AsyncRead + Unpin>(stream: &mut T, client: &Client, timer: &Timer) -> Option<Bytes> {
    timer.set(client.worker.view().snapshot.timeouts.keep_alive);
    client.worker.cell().connections_parked.increase();
    let mut hurried = false;
    let first = poll_fn(|cx| {
        // Bytes first: a request that is already here is answered, even while draining.
        if let Poll::Ready(first) = poll_first(Pin::new(stream), client, cx) {
            return Poll::Ready(first);
        }
        match client.lifeline.heard(cx) {
            Signal::Serve => {}
            Signal::Drain if client.activity.begun() == 0 => {
                if !std::mem::replace(&mut hurried, true) {
                    timer.set(FIRST_REQUEST_GRACE);
                }
            }
            Signal::Drain | Signal::Close => return Poll::Ready(None),
        }
        timer.poll(cx).map(|()| None)
    })
    .await;
    client.worker.cell().connections_parked.decrease();
    first
}

/// Reads what there is, without a buffer of the connection's own. `None` at the end or on an error.
pub(super) fn poll_first<T: AsyncRead>(
    stream: Pin<&mut T>,
    client: &Client,
    cx: &mut Context<'_>,
) -> Poll<Option<Bytes>> {
    client.worker.with_scratch(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        let read = std::task::ready!(stream.poll_read(cx, &mut buffer));
        let filled = buffer.filled();
        Poll::Ready((read.is_ok() && !filled.is_empty()).then(|| Bytes::copy_from_slice(filled)))
    })
}

/// Lets hyper serve until the connection ends or idles.
async fn serving<T>(stream: T, first: Bytes, client: &Rc<Client>, timer: &Timer) -> Ended<T>
where
    T: AsyncRead + AsyncWrite + Plain + Unpin + 'static,
{
    client.activity.restart();
    let service = service_fn({
        let client = Rc::clone(client);
        move |request| serve(Rc::clone(&client), request)
    });
    let io = Io::new(stream, first, Rc::clone(client));
    let view = client.worker.view();
    let (limits, timeouts) = (view.snapshot.limits, view.snapshot.timeouts);
    drop(view);
    let mut builder = http1::Builder::new();
    builder
        .auto_date_header(false)
        .max_header_size(limits.header_bytes as usize)
        .max_buf_size(BUFFER_BYTES.max(limits.header_bytes as usize))
        // Ours: hyper's runs while a connection idles, too.
        .header_read_timeout(None);
    // Asking for hyper's own number would cost it an allocation a head.
    if limits.headers != HEADERS_DEFAULT {
        builder.max_headers(limits.headers);
    }
    let mut connection = builder.serve_connection(io, service);
    let begun = client.activity.begun();
    let mut watch =
        Watch { client, timer, timeouts, stage: Stage::Busy, write_timed: false, deadline: None, told: false, begun };
    let stopped = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(Stopped::Ended(ended));
            }
            match watch.look(cx) {
                Poll::Ready(Seen::Drain) => Pin::new(&mut connection).graceful_shutdown(),
                Poll::Ready(Seen::Stop(stopped)) => return Poll::Ready(stopped),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    let stage = client.activity.stage();
    client.activity.set_stalled(matches!(stopped, Stopped::ClientStalled));
    // Whatever is still under way ends here.
    let parts = connection.into_parts();
    let (stream, unread) = parts.io.into_inner();
    let rest = joined(&parts.read_buf, unread);
    match stopped {
        Stopped::Ended(Ok(())) if client.tunnel.borrow().is_some() => Ended::Tunnel(stream, rest),
        Stopped::Ended(ended) => {
            if let Err(error) = &ended {
                tracing::debug!(%error, client = %client.address, "connection ended");
                if let Some((cause, status)) = refusal::http1(error) {
                    refusal::record(client, "HTTP/1.1", cause, status);
                }
            }
            if client.activity.is_broken_off() {
                Ended::BrokenOff(stream)
            } else if ended.is_ok() && stage == Stage::BodyUnread {
                Ended::BodyUnread(stream)
            } else {
                Ended::Closed
            }
        }
        // What waits in the kernel would go on waiting there.
        Stopped::ClientStalled => Ended::BrokenOff(stream),
        Stopped::Idle => Ended::Idle(stream, rest),
        // Some clients end a body with a line end too many, which begins no request (RFC 9112, 2.2).
        Stopped::HeadTimeout if rest.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => {
            Ended::Idle(stream, Bytes::new())
        }
        Stopped::HeadTimeout => Ended::HeadTimeout(stream),
        Stopped::Closed => Ended::Closed,
    }
}

/// What hyper has read and not used, and what it has not read of what we had. Copied, since even an empty rest would
/// keep all of hyper's buffer alive.
fn joined(read: &[u8], unread: Bytes) -> Bytes {
    if read.is_empty() { unread } else { [read, &unread].concat().into() }
}

enum Stopped {
    Ended(hyper::Result<()>),
    Idle,
    HeadTimeout,
    /// The client takes nothing of its answer.
    ClientStalled,
    Closed,
}

/// What was seen between two polls of a connection.
enum Seen {
    /// Finish, and say so to the client.
    Drain,
    Stop(Stopped),
}

/// Watches a connection from outside of hyper.
struct Watch<'a> {
    client: &'a Client,
    timer: &'a Timer,
    timeouts: ClientTimeouts,
    /// When last looked.
    stage: Stage,
    /// The timer runs because the client takes nothing.
    write_timed: bool,
    /// By when the client must have taken the answer.
    deadline: Option<Instant>,
    told: bool,
    /// Requests begun on the connection before.
    begun: u64,
}

impl Watch<'_> {
    fn look(&mut self, cx: &mut Context<'_>) -> Poll<Seen> {
        let stage = self.client.activity.stage();
        match self.client.lifeline.heard(cx) {
            Signal::Serve => {}
            // A parked connection looks for a last request before it closes. Where that has begun to come, hyper would
            // drop it if it had served one before, and a new hyper connection hasn't.
            Signal::Drain if stage == Stage::Idle || (stage == Stage::ReadingHead && self.served()) => {
                return Poll::Ready(Seen::Stop(Stopped::Idle));
            }
            Signal::Drain if !self.told => {
                self.told = true;
                return Poll::Ready(Seen::Drain);
            }
            Signal::Drain => {}
            Signal::Close => return Poll::Ready(Seen::Stop(Stopped::Closed)),
        }
        self.enter(stage);
        match stage {
            Stage::Busy => self.writing(cx).map(|()| Seen::Stop(Stopped::ClientStalled)),
            Stage::BodyUnread => self.timer.poll(cx).map(|()| Seen::Stop(Stopped::Closed)),
            Stage::ReadingHead => self.timer.poll(cx).map(|()| Seen::Stop(Stopped::HeadTimeout)),
            Stage::Idle => self.timer.poll(cx).map(|()| Seen::Stop(Stopped::Idle)),
        }
    }

    /// Ready once the client has taken nothing for too long of what there is for it.
    fn writing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wrote = self.client.activity.take_wrote();
        if let Some(Turn::Client(deadline)) = self.client.activity.take_turn() {
            self.deadline = deadline;
        }
        if !self.client.activity.is_write_blocked() {
            if std::mem::take(&mut self.write_timed) {
                self.timer.clear();
            }
            return Poll::Pending;
        }
        if wrote || !self.write_timed {
            self.write_timed = true;
            self.timer.set_until(self.timeouts.body_idle, self.deadline);
        }
        self.timer.poll(cx)
    }

    /// A request began since hyper was attached.
    fn served(&self) -> bool {
        self.client.activity.begun() > self.begun
    }

    /// Arms the timer of a stage that has just begun. Idling begins anew after each request, even when the
    /// request came and went between two looks.
    fn enter(&mut self, stage: Stage) {
        if stage == self.stage && !self.client.activity.take_progress() {
            return;
        }
        self.stage = stage;
        self.write_timed = false;
        self.deadline = None;
        match stage {
            Stage::Busy => self.timer.clear(),
            Stage::BodyUnread => self.timer.set(self.timeouts.keep_alive),
            Stage::ReadingHead => self.timer.set(self.timeouts.header_read),
            Stage::Idle => self.timer.set(PARK_AFTER),
        }
    }
}
