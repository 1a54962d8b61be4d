//! Clients in an open loop: requests begin when they begin, however long earlier ones take, at intervals of a Poisson
//! process. A latency is counted from the moment a request should have begun, so that a stall is not left out.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::{timeout, timeout_at};

/// A client gives up after this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How a request ended, as its client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Answered(u16),
    /// No whole answer: the connection broke or couldn't be made.
    Broken,
    TimedOut,
}

impl Outcome {
    pub(crate) fn is_good(self) -> bool {
        self == Self::Answered(200)
    }
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// When it should have begun.
    pub(crate) begin: Instant,
    pub(crate) latency: Duration,
    pub(crate) outcome: Outcome,
}

/// Load under way, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Load {
    control: Arc<Control>,
    thread: JoinHandle<Vec<Sample>>,
}

#[derive(Debug)]
struct Control {
    per_second: AtomicU64,
    stop: AtomicBool,
}

/// Sends one request at a time, on a connection that it keeps or makes.
pub(crate) trait Client: 'static {
    fn ask(&self) -> impl Future<Output = Outcome>;
}

impl Load {
    pub(crate) fn start<C: Client>(client: impl FnOnce() -> C + Send + 'static, per_second: u64) -> Self {
        let control = Control { per_second: AtomicU64::new(per_second), stop: AtomicBool::default() };
        let control = Arc::new(control);
        let shared = Arc::clone(&control);
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            LocalSet::new().block_on(&runtime, send_all(Rc::new(client()), &shared))
        });
        Self { control, thread }
    }

    pub(crate) fn rate(&self, per_second: u64) {
        self.control.per_second.store(per_second, Ordering::SeqCst);
    }

    /// Begins no more requests, waits for those under way, and tells of all.
    pub(crate) fn finish(self) -> Vec<Sample> {
        self.control.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("no client panics")
    }
}

async fn send_all(client: Rc<impl Client>, control: &Control) -> Vec<Sample> {
    let samples = Rc::new(RefCell::new(Vec::with_capacity(100_000)));
    let under_way = Rc::new(());
    let alarm = Alarm::new().expect("the system has timers");
    let mut begin = Instant::now();
    while !control.stop.load(Ordering::SeqCst) {
        let mean = 1.0 / control.per_second.load(Ordering::SeqCst) as f64;
        begin += Duration::from_secs_f64(-mean * (1.0 - rand::rng().random::<f64>()).ln());
        alarm.sleep_until(begin).await.expect("a timer can be set and read");
        let (client, samples, held) = (Rc::clone(&client), Rc::clone(&samples), Rc::clone(&under_way));
        tokio::task::spawn_local(async move {
            let outcome = timeout_at((begin + PATIENCE).into(), client.ask()).await.unwrap_or(Outcome::TimedOut);
            samples.borrow_mut().push(Sample { begin, latency: begin.elapsed(), outcome });
            drop(held);
        });
    }
    let all_ended = async {
        while Rc::strong_count(&under_way) > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE * 2, all_ended).await.expect("patience has an end");
    samples.take()
}

/// The kernel's finest timer: tokio's own are whole milliseconds, longer than most answers take.
#[derive(Debug)]
struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        #[expect(deprecated, reason = "sound with an OwnedFd, which stays what it is; what replaces it is unsafe")]
        Ok(Self(AsyncFd::new(timer)?))
    }

    async fn sleep_until(&self, when: Instant) -> io::Result<()> {
        let rest = when.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            // Late; but answers must be read, too.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(rest).map_err(io::Error::other)?,
        };
        rustix::time::timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            if ready.try_io(|timer| Ok(rustix::io::read(timer, &mut [0; 8])?)).is_ok() {
                return Ok(());
            }
        }
    }
}

/// HTTP/1.1 clients, on connections that `connect` makes.
pub(crate) struct Http1<C> {
    host: HeaderValue,
    connect: C,
    /// Connections that wait for their next request; the last one in is the first one out.
    idle: RefCell<Vec<SendRequest<Empty<Bytes>>>>,
}

impl<C> Http1<C> {
    pub(crate) fn new(host: HeaderValue, connect: C) -> Self {
        Self { host, connect, idle: RefCell::default() }
    }
}

impl<C, S> Client for Http1<C>
where
    C: AsyncFn() -> io::Result<S> + 'static,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    async fn ask(&self) -> Outcome {
        loop {
            let waiting = self.idle.borrow_mut().pop();
            let is_new = waiting.is_none();
            let connected = match waiting {
                Some(connection) => Some(connection),
                None => self.handshake().await,
            };
            let Some(mut connection) = connected else { return Outcome::Broken };
            if connection.ready().await.is_err() {
                // The last answer on it said that it would close.
                if is_new {
                    return Outcome::Broken;
                }
                continue;
            }
            let mut request = Request::new(Empty::new());
            request.headers_mut().insert("host", self.host.clone());
            let Ok(answer) = connection.send_request(request).await else { return Outcome::Broken };
            let status = answer.status().as_u16();
            if answer.into_body().collect().await.is_err() {
                return Outcome::Broken;
            }
            self.idle.borrow_mut().push(connection);
            return Outcome::Answered(status);
        }
    }
}

impl<C, S> Http1<C>
where
    C: AsyncFn() -> io::Result<S>,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    async fn handshake(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let stream = (self.connect)().await.ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::task::spawn_local(connection);
        Some(sender)
    }
}

pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
