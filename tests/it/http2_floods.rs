//! Floods of frames that cost their sender little: each ends, or is bounded, while a well-behaved client on the same
//! worker is served, memory stays within a bound, and no endpoint is left with work that nobody wants.
//!
//! With `--nocapture` each test prints a line for docs/security.md.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinHandle;

use crate::support::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Field, GOAWAY, HEADERS, PING, PREFACE, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame, get, post, remembered, setting,
};
use crate::support::{Proxy, Setup, Upstream, Wire, eventually};

/// RFC 9113, 7.
const ENHANCE_YOUR_CALM: u32 = 11;
/// What a flood may cost at its peak: 100 streams, each with a head, a send buffer and an endpoint's connection.
const MEMORY_KB: usize = 80 * 1024;
/// Requests of the neighbour that have to be answered while a flood goes on, and after it.
const NEIGHBOURS_REQUESTS: usize = 20;
/// A sender that nothing has been taken from for this long is stopped by us, by not reading.
const STALLED: Duration = Duration::from_secs(2);

/// How a flood ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// We said GOAWAY with this error.
    GoAway(u32),
    /// We closed the connection.
    Closed,
    /// We read no more.
    Stalled,
    /// All of it was taken.
    Endured,
}

/// An attacker's connection.
struct Attacker {
    writer: OwnedWriteHalf,
    heard: Arc<Heard>,
    reader: JoinHandle<()>,
    sent: usize,
    frames: usize,
}

/// What came back.
#[derive(Default)]
struct Heard {
    ended: AtomicBool,
    /// The error of a GOAWAY, plus one.
    goaway: AtomicU32,
    /// Acknowledged PINGs.
    pongs: AtomicUsize,
    bytes: AtomicUsize,
}

impl Attacker {
    async fn connect(address: SocketAddr) -> Self {
        let attacker = Self::deaf(address, false).await;
        let mut attacker = attacker;
        attacker.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat(), 1).await;
        attacker
    }

    /// One that has said nothing yet, and reads nothing if it is deaf.
    async fn deaf(address: SocketAddr, deaf: bool) -> Self {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        if deaf {
            // The kernel would let either grow to megabytes.
            socket.set_recv_buffer_size(4096).expect("the socket is open");
            socket.set_send_buffer_size(64 * 1024).expect("the socket is open");
        }
        let stream = socket.connect(address).await.expect("connecting works");
        stream.set_nodelay(true).expect("the socket is open");
        let (mut reader, writer) = stream.into_split();
        let heard = Arc::<Heard>::default();
        let ears = Arc::clone(&heard);
        let reader = tokio::spawn(async move {
            if deaf {
                std::future::pending::<()>().await;
            }
            let mut head = [0; 9];
            let mut payload = Vec::new();
            while reader.read_exact(&mut head).await.is_ok() {
                payload.resize(u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize, 0);
                if reader.read_exact(&mut payload).await.is_err() {
                    break;
                }
                ears.bytes.fetch_add(9 + payload.len(), Ordering::SeqCst);
                if head[3] == PING && head[4] & ACK != 0 {
                    ears.pongs.fetch_add(1, Ordering::SeqCst);
                }
                if head[3] == GOAWAY {
                    let error = u32::from_be_bytes(payload[4..8].try_into().expect("four bytes"));
                    ears.goaway.store(error + 1, Ordering::SeqCst);
                }
            }
            ears.ended.store(true, Ordering::SeqCst);
        });
        Self { writer, heard, reader, sent: 0, frames: 0 }
    }

    /// Sends so many frames; the end, once there is one.
    async fn send(&mut self, bytes: &[u8], frames: usize) -> Option<End> {
        let sending = tokio::time::timeout(STALLED, self.writer.write_all(bytes)).await;
        if let Some(end) = self.end() {
            return Some(end);
        }
        match sending {
            Err(_) => Some(End::Stalled),
            Ok(Err(_)) => {
                // What was said before the end is still to be read.
                self.settle().await;
                Some(self.end().unwrap_or(End::Closed))
            }
            Ok(Ok(())) => {
                self.sent += bytes.len();
                self.frames += frames;
                None
            }
        }
    }

    /// Waits until everything sent so far has been looked at; the end, should it come first.
    async fn looked_at(&mut self) -> Option<End> {
        let before = self.heard.pongs.load(Ordering::SeqCst);
        if let Some(end) = self.send(&frame(PING, 0, 0, &[0; 8]), 1).await {
            return Some(end);
        }
        let heard = &self.heard;
        let answered = || heard.pongs.load(Ordering::SeqCst) > before || heard.ended.load(Ordering::SeqCst);
        eventually("the PING is answered", answered).await;
        self.end()
    }

    /// Sends the same over and over.
    async fn repeat(&mut self, bytes: &[u8], frames: usize, times: usize) -> End {
        for _ in 0..times {
            if let Some(end) = self.send(bytes, frames).await {
                return end;
            }
        }
        self.verdict().await
    }

    /// After the last frame: what the other end makes of it.
    async fn verdict(&mut self) -> End {
        self.settle().await;
        self.end().unwrap_or(End::Endured)
    }

    /// Waits a little for the connection's end.
    async fn settle(&self) {
        let begun = Instant::now();
        while !self.heard.ended.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_millis(500) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn end(&self) -> Option<End> {
        match self.heard.goaway.load(Ordering::SeqCst) {
            0 => self.heard.ended.load(Ordering::SeqCst).then_some(End::Closed),
            error => Some(End::GoAway(error - 1)),
        }
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// A client beside the attacker that asks one request after the other.
struct Neighbour {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    task: JoinHandle<Duration>,
}

impl Neighbour {
    fn of(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&answered));
        let task = tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::SeqCst) {
                let begun = Instant::now();
                let answer = wire.exchange("GET /neighbour HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
                assert_eq!(answer.status(), 200);
                slowest = slowest.max(begun.elapsed());
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            slowest
        });
        Self { stop, answered, task }
    }

    async fn is_served(&self) {
        let wanted = self.answered.load(Ordering::SeqCst) + NEIGHBOURS_REQUESTS;
        let failed = || self.task.is_finished();
        eventually("the neighbour is served", || failed() || self.answered.load(Ordering::SeqCst) >= wanted).await;
        assert!(!failed(), "the neighbour failed");
    }

    /// Requests answered, and how long the slowest took.
    async fn finish(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let slowest = self.task.await.expect("the neighbour is served");
        (self.answered.load(Ordering::SeqCst), slowest)
    }
}

/// The highest memory between two moments.
struct Peak {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Peak {
    fn of(proxy: &Proxy) -> Self {
        let path = format!("/proc/{}/status", proxy.pid().as_raw_nonzero());
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::SeqCst) {
                let status = fs::read_to_string(&path).unwrap_or_default();
                let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
                peak = peak.max(rss.trim().trim_end_matches(" kB").parse().unwrap_or(0));
                std::thread::sleep(Duration::from_millis(5));
            }
            peak
        });
        Self { stop, thread }
    }

    fn kb(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("reading a file doesn't panic")
    }
}

/// What a flood did.
struct Report {
    end: End,
    /// Connections that the endpoint has ever seen, the neighbour's included.
    upstream_connections: usize,
}

/// Answers the neighbour, and leaves everybody else without an answer.
async fn holding() -> Upstream {
    Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            if !head.line.contains("/neighbour") {
                wire.rest().await;
                return;
            }
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await
}

async fn proxy_before(upstream: &Upstream) -> Proxy {
    // One worker, so that attacker and neighbour meet.
    Setup::new().workers(1).backend(&[upstream.url()], "").start().await
}

/// Lets `flood` loose on a proxy before `upstream`.
async fn endure<F, A>(name: &str, upstream: &Upstream, proxy: &Proxy, flood: F) -> Report
where
    F: FnOnce(SocketAddr) -> A,
    A: Future<Output = (Attacker, End)>,
{
    let neighbour = Neighbour::of(proxy.http());
    neighbour.is_served().await;
    let before = proxy.memory_kb();
    let peak = Peak::of(proxy);
    let (cpu, begun) = (proxy.processor_time(), Instant::now());
    let (attacker, end) = flood(proxy.http()).await;
    let (cpu, took) = (proxy.processor_time().saturating_sub(cpu), begun.elapsed());
    // The attacker is still there, where it wasn't sent away.
    neighbour.is_served().await;
    let (sent, frames, heard) = (attacker.sent, attacker.frames, attacker.heard.bytes.load(Ordering::SeqCst));
    drop(attacker);
    proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
    neighbour.is_served().await;
    let peak = peak.kb();
    let after = proxy.memory_kb();
    let (served, slowest) = neighbour.finish().await;
    eventually("nothing is left at the endpoint", || upstream.open() <= 1).await;
    let upstream_connections = upstream.connections();
    eprintln!(
        "| {name} | {end:?} after {frames} frames, {} KB sent, {} KB received, {} ms | CPU {} ms | upstream connections \
         {upstream_connections} | RSS {before} / {peak} / {after} KB | neighbour {served} served, slowest {} ms |",
        sent / 1024,
        heard / 1024,
        took.as_millis(),
        cpu.as_millis(),
        slowest.as_millis()
    );
    assert!(peak < before + MEMORY_KB, "{name}: {before} KB before, {peak} KB at the peak");
    Report { end, upstream_connections }
}

/// The stream of a client's `n`th request, from 0.
fn stream(n: usize) -> u32 {
    1 + 2 * u32::try_from(n).expect("there are fewer streams")
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reset_before_they_are_seen_end_the_connection() {
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let report = endure("rapid reset, at once", &upstream, &proxy, async |address| {
        let mut attacker = Attacker::connect(address).await;
        for batch in 0..1000 {
            let frames = (batch * 100..batch * 100 + 100).flat_map(|n| [get(stream(n), "/held"), reset(stream(n))]);
            if let Some(end) = attacker.send(&frames.collect::<Vec<_>>().concat(), 200).await {
                return (attacker, end);
            }
        }
        (attacker, End::Endured)
    })
    .await;
    // What the attacker goes on to send is answered with a reset, which may overtake the GOAWAY.
    assert!(matches!(report.end, End::GoAway(ENHANCE_YOUR_CALM) | End::Closed), "{:?}", report.end);
    assert!(report.upstream_connections < 200, "{}", report.upstream_connections);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reset_once_they_are_under_way_end_the_connection() {
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let report = endure("rapid reset, under way", &upstream, &proxy, async |address| {
        let mut attacker = Attacker::connect(address).await;
        for batch in 0..100 {
            let streams = batch * 50..batch * 50 + 50;
            let begin = streams.clone().flat_map(|n| get(stream(n), "/held")).collect::<Vec<_>>();
            let end = streams.flat_map(|n| reset(stream(n))).collect::<Vec<_>>();
            if let Some(end) = attacker.send(&begin, 50).await {
                return (attacker, end);
            }
            if let Some(end) = attacker.looked_at().await {
                return (attacker, end);
            }
            if let Some(end) = attacker.send(&end, 50).await {
                return (attacker, end);
            }
        }
        (attacker, End::Endured)
    })
    .await;
    assert_eq!(report.end, End::Closed);
    assert!(report.upstream_connections < 700, "{}", report.upstream_connections);
    proxy.metric_becomes("tidegate_connection_errors_total", "resets", 1).await;
}

#[tokio::test]
async fn a_client_that_takes_back_some_of_its_requests_keeps_its_connection() {
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let mut attacker = Attacker::connect(proxy.http()).await;
    // A third is taken back: 600 of 1,800.
    for batch in 0..60 {
        let streams = batch * 30..batch * 30 + 30;
        let begin = streams.clone().flat_map(|n| get(stream(n), if n % 3 == 0 { "/held" } else { "/neighbour" }));
        assert_eq!(attacker.send(&begin.collect::<Vec<_>>(), 30).await, None);
        let heard = attacker.heard.bytes.load(Ordering::SeqCst);
        eventually("the others are answered", || attacker.heard.bytes.load(Ordering::SeqCst) > heard).await;
        assert_eq!(attacker.looked_at().await, None);
        let end = streams.filter(|n| n % 3 == 0).flat_map(|n| reset(stream(n))).collect::<Vec<_>>();
        assert_eq!(attacker.send(&end, 10).await, None);
    }
    assert_eq!(attacker.verdict().await, End::Endured);
    assert_eq!(proxy.metric("tidegate_connection_errors_total", "resets").await, 0);
}

/// Begins requests and then makes us reset them.
async fn made_you_reset(name: &str, fault: impl Fn(u32) -> Vec<u8>) {
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let report = endure(name, &upstream, &proxy, async |address| {
        let mut attacker = Attacker::connect(address).await;
        for batch in 0..100 {
            let streams = batch * 50..batch * 50 + 50;
            let begin = streams.clone().flat_map(|n| get(stream(n), "/held")).collect::<Vec<_>>();
            if let Some(end) = attacker.send(&begin, 50).await {
                return (attacker, end);
            }
            if let Some(end) = attacker.looked_at().await {
                return (attacker, end);
            }
            let faults = streams.flat_map(|n| fault(stream(n))).collect::<Vec<_>>();
            if let Some(end) = attacker.send(&faults, 50).await {
                return (attacker, end);
            }
        }
        (attacker, End::Endured)
    })
    .await;
    assert!(matches!(report.end, End::Closed | End::GoAway(_)), "{name}: {:?}", report.end);
    assert!(report.upstream_connections < 1200, "{name}: {}", report.upstream_connections);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_that_make_us_reset_end_the_connection() {
    let window = |size: u32| move |stream| frame(WINDOW_UPDATE, 0, stream, &size.to_be_bytes());
    made_you_reset("MadeYouReset, window of 0", window(0)).await;
    made_you_reset("MadeYouReset, window overflow", window(0x7fff_ffff)).await;
    made_you_reset("MadeYouReset, DATA after the end", |stream| frame(DATA, 0, stream, b"x")).await;
    made_you_reset("MadeYouReset, HEADERS after the end", |stream| get(stream, "/again")).await;
    let itself = |stream: u32| frame(PRIORITY, 0, stream, &[&stream.to_be_bytes()[..], &[0]].concat());
    made_you_reset("MadeYouReset, dependency on itself", itself).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_no_requests_end_the_connection_once_there_are_a_thousand() {
    const HEADS_MAX: usize = 1024;
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let fields: [Field; 5] = [
        (b":method", b"GET"),
        (b":scheme", b"http"),
        (b":authority", b"shop.test"),
        (b":path", b"/held"),
        (b"connection", b"close"),
    ];
    // Each is reset before anybody learns of it, so that it is no request that could be taken back.
    let head = |n| frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &block(&fields));
    let report = endure("heads that are no requests", &upstream, &proxy, async |address| {
        let mut attacker = Attacker::connect(address).await;
        for batch in 0..HEADS_MAX / 64 {
            let heads: Vec<u8> = (batch * 64..batch * 64 + 64).flat_map(head).collect();
            assert_eq!(attacker.send(&heads, 64).await, None);
            assert_eq!(attacker.looked_at().await, None, "after {}", attacker.frames);
        }
        let end = attacker.repeat(&head(HEADS_MAX), 1, 1).await;
        (attacker, end)
    })
    .await;
    assert_eq!(report.end, End::GoAway(ENHANCE_YOUR_CALM));
    assert_eq!(report.upstream_connections, 1, "the neighbour's");
    proxy.metric_becomes("tidegate_connection_errors_total", "flood", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_block_without_an_end_ends_the_connection() {
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let filler = block(&[(b"x", &[b'a'; 16_000])]);
    for (name, piece) in [("of 16 KB", &filler[..]), ("of a byte", &[0x82]), ("of nothing", &[])] {
        let report = endure(&format!("CONTINUATION {name}"), &upstream, &proxy, async |address| {
            let mut attacker = Attacker::connect(address).await;
            attacker.send(&frame(HEADERS, END_STREAM, 1, &block(&[(b":method", b"GET")])), 1).await;
            let end = attacker.repeat(&frame(CONTINUATION, 0, 1, piece), 1, 10_000).await;
            (attacker, end)
        })
        .await;
        assert!(matches!(report.end, End::GoAway(1..) | End::Closed), "{name}: {:?}", report.end);
        assert_eq!(report.upstream_connections, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_block_that_unpacks_to_much_ends_the_connection() {
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let pseudo: [Field; 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"shop.test"), (b":path", b"/held")];
    let report = endure("HPACK bomb, one request", &upstream, &proxy, async |address| {
        let mut attacker = Attacker::connect(address).await;
        // 12,000 references of a byte each to a field of 4,000 bytes: 48 MB.
        let bomb = [block(&pseudo), remembered((b"cookie", &[b'a'; 4000])), vec![0xbe; 12_000]].concat();
        let frames = frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb[..16_000]);
        attacker.send(&frames, 1).await;
        let end = attacker.verdict().await;
        (attacker, end)
    })
    .await;
    assert_eq!(report.end, End::GoAway(ENHANCE_YOUR_CALM));
    let report = endure("HPACK, 100 requests of 56 KB each", &upstream, &proxy, async |address| {
        let mut attacker = Attacker::connect(address).await;
        // As much as is allowed, on as many streams as are allowed, held.
        let first = [block(&pseudo), remembered((b"cookie", &[b'a'; 4000])), vec![0xbe; 13]].concat();
        attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &first), 1).await;
        let others = [block(&pseudo), vec![0xbe; 14]].concat();
        for n in 1..1000 {
            if let Some(end) = attacker.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &others), 1).await {
                return (attacker, end);
            }
        }
        let end = attacker.verdict().await;
        (attacker, end)
    })
    .await;
    assert!(matches!(report.end, End::Endured | End::GoAway(_)), "{:?}", report.end);
    assert!(report.upstream_connections <= 110, "{}", report.upstream_connections);
}

/// A flood of frames that are allowed, sent by one that listens and by one that doesn't.
async fn control_flood(name: &str, opening: &[u8], flood: &[u8], frames: usize, times: usize) -> [End; 2] {
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let mut ends = [End::Endured; 2];
    for (end, deaf) in ends.iter_mut().zip([false, true]) {
        let name = format!("{name}, {}", if deaf { "answers not read" } else { "answers read" });
        let report = endure(&name, &upstream, &proxy, async |address| {
            let mut attacker = Attacker::deaf(address, deaf).await;
            attacker.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), opening].concat(), 2).await;
            let end = attacker.repeat(flood, frames, times).await;
            (attacker, end)
        })
        .await;
        *end = report.end;
    }
    ends
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_that_want_answers_stop_when_nobody_reads_them() {
    // More than the proxy's sockets hold of what is sent and of our answers: 10 MB where the kernel is generous.
    let pings = frame(PING, 0, 0, b"12345678").repeat(1000);
    let settings = frame(SETTINGS, 0, 0, &[]).repeat(1000);
    for (name, flood) in [("PING", pings), ("SETTINGS", settings)] {
        let ends = control_flood(name, &[], &flood, 1000, 1600).await;
        assert!(matches!(ends[0], End::Endured | End::GoAway(_)), "{name}: {ends:?}");
        assert_ne!(ends[1], End::Endured, "{name}: {ends:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_that_want_no_answer_leave_nothing_behind() {
    let acks = frame(PING, ACK, 0, b"12345678").repeat(1000);
    let windows = frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()).repeat(1000);
    let unknown = frame(0xbb, 0, 0, b"12345678").repeat(1000);
    let goaways = frame(GOAWAY, 0, 0, &[0; 8]).repeat(1000);
    let priorities: Vec<u8> = (0..1000).flat_map(|n| frame(PRIORITY, 0, stream(n + 50), &[0, 0, 0, 1, 16])).collect();
    let resets: Vec<u8> = (0..1000).flat_map(|_| reset(1)).collect();
    let tables: Vec<u8> = (0..1000).flat_map(|n| setting(4, 65_535 + n % 2)).collect();
    let streams: Vec<u8> = (0..100).flat_map(|n| get(stream(n), "/held")).collect();
    for (name, opening, flood) in [
        ("PING acknowledgements", &[][..], acks),
        ("WINDOW_UPDATE", &[], windows),
        ("unknown frames", &[], unknown),
        ("GOAWAY", &[], goaways),
        ("PRIORITY", &[], priorities),
        ("RST_STREAM of one stream", &streams[..], resets),
        ("windows of 100 streams to and fro", &streams[..], tables),
    ] {
        control_flood(name, opening, &flood, 1000, 50).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_of_data_that_is_hardly_any_end_the_connection() {
    let open: Vec<u8> = (0..100).flat_map(|n| post(stream(n), "/held")).collect();
    let empty: Vec<u8> = (0..100).flat_map(|n| frame(DATA, 0, stream(n), &[])).collect();
    let padded: Vec<u8> = (0..100).flat_map(|n| frame(DATA, 8, stream(n), &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0])).collect();
    let bytes: Vec<u8> = (0..100).flat_map(|n| frame(DATA, 0, stream(n), b"x")).collect();
    for (name, flood) in [("empty DATA", empty), ("padded empty DATA", padded), ("DATA of a byte", bytes)] {
        let ends = control_flood(name, &open, &flood, 100, 1000).await;
        assert_eq!(ends[0], End::GoAway(ENHANCE_YOUR_CALM), "{name}: {ends:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_large_answers_that_nobody_takes_wait_outside_of_our_memory() {
    const LARGE: usize = 10 << 20;
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            if head.line.contains("/neighbour") {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                continue;
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
            let piece = vec![b'x'; 64 * 1024];
            if wire.write_all(head.as_bytes()).await.is_err() {
                return;
            }
            for _ in 0..LARGE / piece.len() {
                // Whoever stops us decides for how long.
                if wire.write_all(&piece).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let proxy = proxy_before(&upstream).await;
    for (name, window) in [("zero windows", 0), ("windows of a byte", 1), ("windows as large as they get", 0x7fff_ffff)]
    {
        endure(&format!("100 answers of 10 MB, {name}"), &upstream, &proxy, async |address| {
            // With large windows it is the socket that nobody reads.
            let mut attacker = Attacker::deaf(address, true).await;
            let update = frame(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes());
            attacker.send(&[PREFACE, &setting(4, window), &update[..]].concat(), 3).await;
            let requests = (0..100).flat_map(|n| get(stream(n), "/large")).collect::<Vec<_>>();
            attacker.send(&requests, 100).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            let end = attacker.end().unwrap_or(End::Endured);
            (attacker, end)
        })
        .await;
    }
}

#[tokio::test]
async fn frames_against_the_rules_do_not_fill_the_log() {
    let upstream = holding().await;
    let proxy = proxy_before(&upstream).await;
    let mut attacker = Attacker::connect(proxy.http()).await;
    let before = proxy.log().len();
    // Acknowledgements of pings that were never sent.
    attacker.repeat(&frame(PING, ACK, 0, b"12345678").repeat(100), 100, 10).await;
    assert!(proxy.log().len() < before + 10, "{:?}", proxy.log().last());
}
