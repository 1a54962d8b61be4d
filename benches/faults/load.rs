//! Clients in an open loop: requests begin when they begin, however long earlier ones take, at intervals of a Poisson
//! process. A latency is counted from the moment a request should have begun, so that a stall is not left out.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

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
    pub(crate) begin: std::time::Instant,
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

impl Load {
    pub(crate) fn start(proxy: SocketAddr, per_second: u64) -> Self {
        let control = Control { per_second: AtomicU64::new(per_second), stop: AtomicBool::default() };
        let control = Arc::new(control);
        let shared = Arc::clone(&control);
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
            LocalSet::new().block_on(&runtime, send_all(proxy, &shared))
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

type Connection = SendRequest<Empty<Bytes>>;

/// Connections that wait for their next request; the last one in is the first one out.
type Idle = Rc<RefCell<Vec<Connection>>>;

async fn send_all(proxy: SocketAddr, control: &Control) -> Vec<Sample> {
    let idle = Idle::default();
    let samples = Rc::new(RefCell::new(Vec::with_capacity(100_000)));
    let under_way = Rc::new(());
    let mut begin = Instant::now();
    while !control.stop.load(Ordering::SeqCst) {
        let mean = 1.0 / control.per_second.load(Ordering::SeqCst) as f64;
        begin += Duration::from_secs_f64(-mean * (1.0 - rand::rng().random::<f64>()).ln());
        sleep_until(begin).await;
        let (idle, samples, held) = (Rc::clone(&idle), Rc::clone(&samples), Rc::clone(&under_way));
        tokio::task::spawn_local(async move {
            let outcome = timeout_at(begin + PATIENCE, ask(proxy, &idle)).await.unwrap_or(Outcome::TimedOut);
            samples.borrow_mut().push(Sample { begin: begin.into_std(), latency: begin.elapsed(), outcome });
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

async fn ask(proxy: SocketAddr, idle: &Idle) -> Outcome {
    loop {
        let waiting = idle.borrow_mut().pop();
        let is_new = waiting.is_none();
        let connected = match waiting {
            Some(connection) => Some(connection),
            None => connect(proxy).await,
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
        request.headers_mut().insert("host", HeaderValue::from_static("shop.test"));
        let Ok(answer) = connection.send_request(request).await else { return Outcome::Broken };
        let status = answer.status().as_u16();
        if answer.into_body().collect().await.is_err() {
            return Outcome::Broken;
        }
        idle.borrow_mut().push(connection);
        return Outcome::Answered(status);
    }
}

async fn connect(proxy: SocketAddr) -> Option<Connection> {
    let stream = TcpStream::connect(proxy).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::task::spawn_local(connection);
    Some(sender)
}
