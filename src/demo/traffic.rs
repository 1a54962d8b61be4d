//! The stream of traffic: clients that ask for a page, look at it for a moment, and ask for the next. A slow answer
//! slows its client down, so there are never more requests under way than clients.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::side_thread::{SideThread, Stopped};

/// With the pauses below and answers of some milliseconds: about 400 requests a second.
const CLIENTS: usize = 16;
const PAUSE_MIN_MS: u64 = 5;
const PAUSE_MAX_MS: u64 = 65;
/// A request without an answer by then is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const PATHS: [&str; 4] = ["/", "/products", "/products/42", "/cart"];

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What the clients saw. They write it, the table reads it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sent: AtomicU64,
    answered: AtomicU64,
    errors: AtomicU64,
    lost: AtomicU64,
}

impl Tally {
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Requests with a whole answer, whatever its status.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// Answers with a status of 500 and above.
    pub(super) fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Requests that never got a whole answer.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Requests that have neither been answered nor lost yet.
    pub(super) fn under_way(&self) -> u64 {
        self.sent().saturating_sub(self.answered() + self.lost())
    }

    fn count(&self, answer: Option<StatusCode>) {
        match answer {
            Some(status) => {
                self.answered.fetch_add(1, Relaxed);
                self.errors.fetch_add(u64::from(status.is_server_error()), Relaxed);
            }
            None => {
                self.lost.fetch_add(1, Relaxed);
            }
        }
    }
}

/// All clients, at work.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) tally: Arc<Tally>,
    thread: SideThread,
}

impl Traffic {
    /// Sends requests to `proxy` until it is stopped.
    pub(super) fn start(proxy: SocketAddr) -> io::Result<Self> {
        let tally = Arc::new(Tally::default());
        let counted = Arc::clone(&tally);
        let thread = SideThread::start("demo-traffic", move |stopped| run(proxy, counted, stopped))?;
        Ok(Self { tally, thread })
    }

    /// No new requests; waits for the answers to those under way.
    pub(super) async fn stop(self) {
        self.thread.stop().await;
    }
}

async fn run(proxy: SocketAddr, tally: Arc<Tally>, stopped: Stopped) {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(browse(proxy, Arc::clone(&tally), stopped.clone()));
    }
    clients.join_all().await;
}

/// One client, with one connection that it keeps.
async fn browse(proxy: SocketAddr, tally: Arc<Tally>, mut stopped: Stopped) {
    let mut connection = None;
    while !told_to_stop_within(pause(), &mut stopped).await {
        tally.sent.fetch_add(1, Relaxed);
        let path = PATHS[rand::random_range(0..PATHS.len())];
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, ask(&mut connection, proxy, path)).await;
        let answer = answer.unwrap_or_else(|_| Err("no answer in time".into()));
        if let Err(error) = &answer {
            tracing::warn!("a request got no answer: {error}");
            connection = None;
        }
        tally.count(answer.ok());
    }
}

fn pause() -> Duration {
    Duration::from_millis(rand::random_range(PAUSE_MIN_MS..=PAUSE_MAX_MS))
}

async fn told_to_stop_within(pause: Duration, stopped: &mut Stopped) -> bool {
    tokio::time::timeout(pause, stopped.wait_for(|stopped| *stopped)).await.is_ok()
}

/// One request, on the kept connection or on a new one.
async fn ask(
    kept: &mut Option<SendRequest<Empty<Bytes>>>,
    proxy: SocketAddr,
    path: &str,
) -> Result<StatusCode, BoxError> {
    let mut sender = match kept.take().filter(|sender| !sender.is_closed()) {
        Some(sender) => sender,
        None => connect(proxy).await?,
    };
    sender.ready().await?;
    let request = Request::get(path)
        .header(HOST, proxy.to_string())
        .header(USER_AGENT, "tidegate-demo")
        .header(ACCEPT, "application/json");
    let response = sender.send_request(request.body(Empty::new())?).await?;
    let status = response.status();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    *kept = Some(sender);
    Ok(status)
}

async fn connect(proxy: SocketAddr) -> Result<SendRequest<Empty<Bytes>>, BoxError> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends with its sender; what went wrong shows at the request.
    tokio::spawn(connection);
    Ok(sender)
}
