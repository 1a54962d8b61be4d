//! HTTP/2 to endpoints, on the `h2` crate.
//!
//! hyper's client connection is a task that requests reach through a channel, and it spawns another for each answer. Here
//! a request's own task opens its stream, sends its body and reads its answer; what remains is one task for each
//! connection, which reads and writes for all of its streams.

mod body;
mod io;
mod sending;
mod tunnel;
mod upload;

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};

use self::io::Turns;
use crate::background::Background;
use crate::timers::{Timer, Timers};

pub use self::body::Http2Body;

/// Receive windows: a stream may hold this much that a slow client hasn't taken, and the connection sixteen such streams
/// before others wait.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// A response's head, and its trailers: twice what we take from a client.
const HEAD_BYTES: u32 = 64 * 1024;
/// A request's bytes that wait in one stream for the endpoint.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A silent connection is asked for a sign of life this often, and given this long.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams before the endpoint has said how many it allows: as many as every endpoint should (RFC 9113, 6.5.2).
const STREAMS_INITIAL: usize = 100;

/// A connection's sending side; its task ends once this is dropped and all streams are done.
#[derive(Debug)]
pub(super) struct Http2Connection {
    sender: RefCell<SendRequest<Bytes>>,
    state: Rc<State>,
}

/// What a connection's task and those who send share.
#[derive(Debug, Default)]
struct State {
    closed: Cell<bool>,
    /// It was closed because the endpoint gave no sign of life.
    timed_out: Cell<bool>,
    streams_max: Cell<usize>,
    /// Requests under way.
    streams: Cell<usize>,
    /// Bytes came since the last look.
    heard: Cell<bool>,
    /// Those who wait for the endpoint's settings.
    waiting: RefCell<Vec<Waker>>,
    /// Wakes the connection's task.
    task: RefCell<Option<Waker>>,
}

impl State {
    fn wake(&self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

impl Http2Connection {
    /// Begins HTTP/2 on a stream; the endpoint's settings are still to come. Its task takes turns in `background`.
    pub(super) async fn open<T>(
        stream: T,
        timers: &Rc<Timers>,
        background: Option<&Rc<Background>>,
    ) -> Result<Self, h2::Error>
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let state = Rc::new(State::default());
        let (sender, mut connection) = Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_INITIAL)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEAD_BYTES)
            .enable_push(false)
            .handshake::<_, Bytes>(Turns::new(stream, Rc::clone(&state)))
            .await?;
        state.streams_max.set(connection.max_concurrent_send_streams());
        let keep_alive = KeepAlive::new(connection.ping_pong(), timers.timer());
        let running = run(connection, Rc::clone(&state), keep_alive);
        match background.cloned() {
            None => tokio::task::spawn_local(running),
            Some(background) => {
                let enlisted = background.enlist();
                tokio::task::spawn_local(async move { background.in_turns(enlisted, running).await })
            }
        };
        Ok(Self { sender: RefCell::new(sender), state })
    }

    /// Takes no more requests.
    pub(super) fn is_closed(&self) -> bool {
        self.state.closed.get()
    }

    /// Requests that the endpoint allows at once, as last heard.
    pub(super) fn streams_max(&self) -> usize {
        self.state.streams_max.get()
    }

    /// Requests under way.
    pub(super) fn streams(&self) -> usize {
        self.state.streams.get()
    }

    /// One more is under way.
    pub(super) fn begin(&self) {
        self.state.streams.set(self.state.streams.get() + 1);
    }

    /// One of them has ended.
    pub(super) fn end(&self) {
        self.state.streams.set(self.state.streams.get() - 1);
    }

    /// Waits until the endpoint says that it takes extended CONNECT; a client may not use it before (RFC 8441, 3).
    pub(super) async fn extended_connect(&self) {
        poll_fn(|cx| {
            if self.sender.borrow().is_extended_connect_protocol_enabled() {
                return Poll::Ready(());
            }
            self.state.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Http2Connection {
    fn drop(&mut self) {
        // h2 looks whether it is still wanted when it is polled.
        self.state.wake();
    }
}

/// Reads and writes for all streams of a connection, to its end. Errors are not lost: h2 hands them to the streams.
async fn run<T>(mut connection: Connection<Turns<T>, Bytes>, state: Rc<State>, mut keep_alive: KeepAlive)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx).is_ready();
        state.streams_max.set(connection.max_concurrent_send_streams());
        state.waiting.take().into_iter().for_each(Waker::wake);
        if ended {
            return Poll::Ready(());
        }
        if keep_alive.poll(&state, cx).is_ready() {
            state.timed_out.set(true);
            return Poll::Ready(());
        }
        match &mut *state.task.borrow_mut() {
            Some(task) => task.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    })
    .await;
    // Before its streams hear of it.
    state.closed.set(true);
}

/// Asks an endpoint that is silent while requests are under way for a sign of life.
struct KeepAlive {
    pings: Option<PingPong>,
    timer: Timer,
    /// Armed once there is something to wait for.
    is_armed: bool,
    is_asked: bool,
}

impl KeepAlive {
    fn new(pings: Option<PingPong>, timer: Timer) -> Self {
        Self { pings, timer, is_armed: false, is_asked: false }
    }

    /// Ready once there was none.
    fn poll(&mut self, state: &State, cx: &mut Context<'_>) -> Poll<()> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        if self.is_asked && matches!(pings.poll_pong(cx), Poll::Ready(Ok(_))) {
            (self.is_asked, self.is_armed) = (false, false);
        }
        if !self.is_armed {
            self.is_armed = true;
            self.timer.set(PING_INTERVAL);
        }
        while self.timer.poll(cx).is_ready() {
            if self.is_asked {
                return Poll::Ready(());
            }
            let is_silent = !state.heard.replace(false);
            if is_silent && state.streams.get() > 0 && pings.send_ping(Ping::opaque()).is_ok() {
                self.is_asked = true;
                self.timer.set(PING_TIMEOUT);
            } else {
                self.timer.set(PING_INTERVAL);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::{LocalSet, spawn_local};
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::timers::TICK;
    use crate::upstream::{RequestBody, Why};

    /// A connection, and its endpoint's end.
    async fn connection() -> (Http2Connection, DuplexStream) {
        let timers = Timers::new();
        let (ours, endpoints) = duplex(64 * 1024);
        let connection = Http2Connection::open(ours, &timers, None).await.unwrap();
        spawn_local(async move {
            loop {
                sleep(TICK).await;
                timers.sweep();
            }
        });
        (connection, endpoints)
    }

    fn get() -> Request<RequestBody> {
        Request::get("http://shop.test/").body(RequestBody::Empty).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_gives_no_sign_of_life_is_given_up() {
        let silent = async {
            let (connection, mut endpoint) = connection().await;
            // Its settings, and not a word more.
            endpoint.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            spawn_local(async move { while endpoint.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {} });
            connection.begin();
            let begun = Instant::now();
            let error = connection.send(get()).await.unwrap_err();
            assert_eq!(error.why(), Why::Other, "{error}");
            let took = begun.elapsed();
            assert!(
                took > PING_TIMEOUT && took < 2 * PING_INTERVAL + PING_TIMEOUT + Duration::from_secs(1),
                "{took:?}"
            );
            assert!(connection.is_closed());
        };
        LocalSet::new().run_until(silent).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_takes_its_time_is_waited_for() {
        let slow = async {
            let (connection, endpoint) = connection().await;
            spawn_local(async move {
                let mut endpoint = h2::server::handshake(endpoint).await.unwrap();
                while let Some(Ok((_, mut respond))) = endpoint.accept().await {
                    spawn_local(async move {
                        sleep(Duration::from_secs(300)).await;
                        respond.send_response(Response::new(()), true).unwrap();
                    });
                }
            });
            connection.begin();
            assert_eq!(connection.send(get()).await.unwrap().status(), 200);
        };
        LocalSet::new().run_until(slow).await;
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_what_the_endpoint_allows_have_their_turn() {
        let one_by_one = async {
            let (connection, endpoint) = connection().await;
            spawn_local(async move {
                let allows_one = h2::server::Builder::new().max_concurrent_streams(1).handshake::<_, Bytes>(endpoint);
                let mut endpoint = allows_one.await.unwrap();
                while let Some(Ok((_, mut respond))) = endpoint.accept().await {
                    spawn_local(async move {
                        sleep(Duration::from_secs(1)).await;
                        respond.send_response(Response::new(()), true).unwrap();
                    });
                }
            });
            // So that its settings are known.
            connection.send(get()).await.unwrap();
            assert_eq!(connection.streams_max(), 1);
            let begun = Instant::now();
            let answers: Vec<_> = (0..3).map(|_| spawn_local(connection.send(get()))).collect();
            for answer in answers {
                assert_eq!(answer.await.unwrap().unwrap().status(), 200);
            }
            assert!(begun.elapsed() >= Duration::from_secs(3), "one after the other");
        };
        LocalSet::new().run_until(one_by_one).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_for_copies_takes_turns_with_them_until_its_end() {
        let taking_turns = async {
            let background = Rc::default();
            let (ours, mut endpoint) = duplex(64 * 1024);
            let connection = Http2Connection::open(ours, &Timers::new(), Some(&background)).await.unwrap();
            assert_eq!(background.enlisted(), 1);
            drop(connection);
            endpoint.read_to_end(&mut Vec::new()).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            assert_eq!(background.enlisted(), 0);
        };
        tokio::time::timeout(Duration::from_secs(1), LocalSet::new().run_until(taking_turns)).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_nobody_holds_is_closed() {
        let dropped = async {
            let (connection, mut endpoint) = connection().await;
            sleep(Duration::from_millis(1)).await;
            drop(connection);
            let mut all = Vec::new();
            endpoint.read_to_end(&mut all).await.unwrap();
            assert!(all.starts_with(b"PRI * HTTP/2.0"));
        };
        tokio::time::timeout(Duration::from_secs(1), LocalSet::new().run_until(dropped)).await.unwrap();
    }
}
