//! An endpoint that fails as it is told, at run time, and counts what it did to whom.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use rand::RngExt;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::time::sleep;

/// Of every whole answer.
const BODY: [u8; 1024] = [b'x'; 1024];
const HEAD_MAX_BYTES: usize = 16 * 1024;
/// The median of how long an answer takes. A logarithmic normal distribution, as real services have: a tenth takes
/// twice as long, one in a hundred three times.
const SERVICE_TIME: Duration = Duration::from_millis(5);
const SERVICE_TIME_SIGMA: f64 = 0.5;
const PAUSE: Duration = Duration::from_millis(300);
const PAUSE_EVERY: Duration = Duration::from_secs(10);

/// What an origin does with requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Conduct {
    Healthy,
    /// Answers this share of its requests with `status`.
    Answers {
        status: u16,
        share: f64,
    },
    /// Reads the request, then breaks the connection.
    Resets,
    /// Listens no more, and is gone from the connections it had.
    Refuses,
    /// Reads the request and says nothing.
    Hangs,
    /// Promises a body and breaks off in the middle.
    Truncates,
    /// Answers later by `more`, which is a failure.
    Lags {
        more: Duration,
    },
    /// Takes `factor` times as long, which isn't.
    Plods {
        factor: f64,
    },
    /// Stands still for a moment every ten seconds, as a collection of garbage does, `at` which second of them.
    Pauses {
        at: u64,
    },
}

/// Where it is reached and how it is told.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    conduct: watch::Sender<Conduct>,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    since: Instant,
    received: AtomicU64,
    failed: AtomicU64,
    /// When it received the last one, by the clock that events are told by.
    last_unix_us: AtomicU64,
}

/// Two origins on one thread, so that when this machine stalls, it stalls for both. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Origins {
    pub(crate) stable: Origin,
    pub(crate) candidate: Origin,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Origins {
    /// On free ports, healthy.
    pub(crate) fn start() -> io::Result<Self> {
        let (stable, serve_stable) = Origin::new()?;
        let (candidate, serve_candidate) = Origin::new()?;
        let (end, ended) = oneshot::channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = ended => {}
                    () = serve_stable => {}
                    () = serve_candidate => {}
                }
            });
        });
        Ok(Self { stable, candidate, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Origins {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Origin {
    /// One, and what it does.
    fn new() -> io::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts {
            since: Instant::now(),
            received: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            last_unix_us: AtomicU64::new(0),
        });
        let (conduct, told) = watch::channel(Conduct::Healthy);
        let shared = Arc::clone(&counts);
        let serve = async move {
            let listener = TcpListener::from_std(listener).expect("the runtime takes sockets");
            accept_all(listener, address, told, shared).await;
        };
        Ok((Self { address, conduct, counts }, serve))
    }

    pub(crate) fn conduct(&self, conduct: Conduct) {
        self.conduct.send_replace(conduct);
    }

    pub(crate) fn received(&self) -> u64 {
        self.counts.received.load(Ordering::SeqCst)
    }

    /// When the last request came.
    pub(crate) fn last_received(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.counts.last_unix_us.load(Ordering::SeqCst))
    }

    /// Requests that it received and failed, counted when they came.
    pub(crate) fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::SeqCst)
    }
}

async fn accept_all(
    listener: TcpListener,
    address: SocketAddr,
    mut told: watch::Receiver<Conduct>,
    counts: Arc<Counts>,
) {
    let mut listener = Some(listener);
    loop {
        let refuses = *told.borrow_and_update() == Conduct::Refuses;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("the port is still ours"));
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok((stream, _)) = accepted => {
                let mut leave = told.clone();
                let (told, counts) = (told.clone(), Arc::clone(&counts));
                tokio::spawn(async move {
                    tokio::select! {
                        // The client has gone, or was told to.
                        _ = serve(stream, &told, &counts) => {}
                        _ = leave.wait_for(|conduct| *conduct == Conduct::Refuses) => {}
                    }
                });
            }
            Ok(()) = told.changed() => {}
            else => return,
        }
    }
}

/// Answers one request after the other on a connection. Requests have no bodies.
async fn serve(mut stream: TcpStream, told: &watch::Receiver<Conduct>, counts: &Counts) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    loop {
        let head = loop {
            if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if unread.len() > HEAD_MAX_BYTES || stream.read_buf(&mut unread).await? == 0 {
                return Ok(());
            }
        };
        unread.drain(..head);
        let conduct = *told.borrow();
        let fails = match conduct {
            Conduct::Healthy | Conduct::Plods { .. } | Conduct::Pauses { .. } => false,
            Conduct::Answers { share, .. } => rand::rng().random_bool(share),
            _ => true,
        };
        counts.received.fetch_add(1, Ordering::SeqCst);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        counts.last_unix_us.store(now.as_micros() as u64, Ordering::SeqCst);
        counts.failed.fetch_add(u64::from(fails), Ordering::SeqCst);
        let held = Held { counts, settled: fails };
        match conduct {
            Conduct::Resets | Conduct::Refuses => return SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
            Conduct::Hangs => return stream.read_buf(&mut unread).await.map(drop),
            Conduct::Truncates => {
                sleep(service_time()).await;
                return answer(&mut stream, 200, BODY.len() / 2).await;
            }
            Conduct::Healthy | Conduct::Answers { .. } => sleep(service_time()).await,
            Conduct::Lags { more } => sleep(service_time() + more).await,
            Conduct::Plods { factor } => sleep(service_time().mul_f64(factor)).await,
            Conduct::Pauses { at } => sleep(pause(counts.since.elapsed(), at) + service_time()).await,
        }
        let status = match conduct {
            Conduct::Answers { status, .. } if fails => status,
            _ => 200,
        };
        held.answered();
        answer(&mut stream, status, BODY.len()).await?;
    }
}

/// A request under way: failed when it is dropped without an answer, as when the origin goes away.
struct Held<'a> {
    counts: &'a Counts,
    settled: bool,
}

impl Held<'_> {
    fn answered(mut self) {
        self.settled = true;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.counts.failed.fetch_add(u64::from(!self.settled), Ordering::SeqCst);
    }
}

/// Sends a head that promises the whole body, and `bytes` of it.
async fn answer(stream: &mut TcpStream, status: u16, bytes: usize) -> io::Result<()> {
    let mut all = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", BODY.len()).into_bytes();
    all.extend_from_slice(&BODY[..bytes]);
    stream.write_all(&all).await
}

/// How much of a pause is left.
fn pause(elapsed: Duration, at: u64) -> Duration {
    let into = (elapsed + PAUSE_EVERY).saturating_sub(Duration::from_secs(at));
    let into = Duration::from_micros((into.as_micros() % PAUSE_EVERY.as_micros()) as u64);
    PAUSE.saturating_sub(into)
}

fn service_time() -> Duration {
    // Box and Muller: two uniform numbers make a normal one.
    let (u, v): (f64, f64) = (rand::rng().random(), rand::rng().random());
    let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    SERVICE_TIME.mul_f64((SERVICE_TIME_SIGMA * normal).exp())
}
