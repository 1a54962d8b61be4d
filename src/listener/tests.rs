//! Clients that are gone without a word, or won't go: what ends their connections when nothing else does. The clock is
//! paused, since it takes minutes.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};

use super::{http1, http2};
use crate::config;
use crate::guard::Reporter;
use crate::model::Ends;
use crate::observe::ProcessMetrics;
use crate::passage::Plain;
use crate::proxy::Client;
use crate::state::{History, ListenerKey, LiveChanges, Store};
use crate::stream::Reset;
use crate::timers::TICK;
use crate::tls::ServerTls;
use crate::worker::{CookieKey, Lifeline, Registration, Signal, Worker};

/// Nothing that these tests ask for has a service.
const FILE: &str = "[[listeners]]\naddress = '127.0.0.1:8080'\n[services.shop]\nroutes = [{ host = 'shop.test' }]\n\
    [services.shop.backends.blue]\nweight = 1\nendpoints = ['http://127.0.0.1:9001']\n";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// No window for any answer's body.
const NO_WINDOW: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
/// GET http / for a, whole, on stream 1.
const GET: &[u8] = &[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 1, b'a'];
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

impl Plain for DuplexStream {
    fn plain(&self) -> Option<&TcpStream> {
        None
    }
}

impl Reset for DuplexStream {
    fn reset(self) {}
}

/// A connection that is being served, and its client's end of it.
struct Served {
    wire: DuplexStream,
    serving: JoinHandle<()>,
    client: Rc<Client>,
    worker: Rc<Worker>,
    _registration: Registration,
}

impl Served {
    /// The wire holds so many bytes in each direction.
    fn new(bytes: usize, is_http2: bool) -> Self {
        let config = config::parse(FILE, Path::new("proxy.toml"), &|_| None, None).unwrap().config;
        let tls = ServerTls::new().unwrap();
        let (store, _) =
            Store::new(&Arc::new(config), HashMap::new(), 1, tls, History::Known(LiveChanges::default())).unwrap();
        let key = Arc::new(CookieKey::new(&[7; 32]));
        let process = Arc::new(ProcessMetrics::new(1));
        let (reporter, _) = Reporter::new(Arc::clone(&process.guard));
        let worker =
            Worker::new(0, store.shared(), process, key, None, reporter, Arc::new(crate::shadow::Queue::new().0));
        let ticking = Rc::clone(&worker);
        spawn_local(async move {
            loop {
                sleep(TICK).await;
                ticking.tick();
            }
        });
        let address = "127.0.0.1:8080".parse().unwrap();
        let lifeline = Lifeline::new(ListenerKey { address, nth: 0 });
        let registration = worker.register(&lifeline);
        let ends = Ends { client: address, server: address };
        let client = Client::new(Rc::clone(&worker), lifeline, ends, false, None);
        let (wire, stream) = duplex(bytes);
        let served = Rc::clone(&client);
        let serving = spawn_local(async move {
            if is_http2 {
                http2::run(stream, Bytes::new(), served).await;
            } else {
                http1::run(stream, Bytes::new(), served).await;
            }
        });
        Self { wire, serving, client, worker, _registration: registration }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.wire.write_all(bytes).await.unwrap();
    }

    /// The next frame's kind, flags and payload; `None` at the end.
    async fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.wire.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        self.wire.read_exact(&mut payload).await.ok()?;
        Some((head[3], head[4], payload))
    }

    /// The next frame of one kind that is no acknowledgement.
    async fn frame_of(&mut self, kind: u8) -> Option<Vec<u8>> {
        loop {
            match self.frame().await? {
                (found, 0, payload) if found == kind => return Some(payload),
                _ => {}
            }
        }
    }
}

/// Seconds, give or take what coarse timers may take or give.
fn assert_seconds(since: Instant, wanted: u64) {
    let (found, wanted) = (since.elapsed(), Duration::from_secs(wanted));
    assert!(found >= wanted && found < wanted + Duration::from_millis(700), "{found:?} in place of {wanted:?}");
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_is_gone_is_found_out_by_a_ping_even_with_requests_open() {
    LocalSet::new()
        .run_until(async {
            let mut served = Served::new(1 << 20, true);
            let begun = Instant::now();
            served.send(&[PREFACE, NO_WINDOW, GET].concat()).await;
            served.frame_of(PING).await.unwrap();
            assert_seconds(begun, 30);
            assert_eq!(served.client.activity.requests(), 1, "its answer waits");
            while served.frame().await.is_some() {}
            assert_seconds(begun, 50);
            served.serving.await.unwrap();
            assert_eq!(served.client.activity.requests(), 0);
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_answers_pings_stays_for_as_long_as_it_may_idle() {
    LocalSet::new()
        .run_until(async {
            let mut served = Served::new(1 << 20, true);
            let begun = Instant::now();
            served.send(&[PREFACE, &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]].concat()).await;
            let mut pings = 0;
            let ended = loop {
                match served.frame().await.unwrap() {
                    (PING, 0, payload) => {
                        pings += 1;
                        served.send(&[&[0, 0, 8, PING, 1, 0, 0, 0, 0], &payload[..]].concat()).await;
                    }
                    (GOAWAY, _, payload) => break payload,
                    _ => {}
                }
            };
            assert_eq!(ended[4..8], [0; 4], "no error");
            assert_seconds(begun, 300);
            assert!(pings >= 8, "{pings}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_http2_client_that_does_not_leave_when_told_is_closed() {
    LocalSet::new()
        .run_until(async {
            let mut served = Served::new(1 << 20, true);
            served.send(&[PREFACE, &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]].concat()).await;
            served.frame_of(SETTINGS).await.unwrap();
            let told = Instant::now();
            served.worker.signal(Signal::Drain, |_| true);
            served.frame_of(GOAWAY).await.unwrap();
            assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
            // It answers neither that nor the PING that goes with it.
            while served.frame().await.is_some() {}
            assert_seconds(told, 5);
            served.serving.await.unwrap();
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_that_does_not_take_its_last_bytes_is_not_waited_for() {
    LocalSet::new()
        .run_until(async {
            let mut served = Served::new(16, false);
            let begun = Instant::now();
            // Late with its head, it gets a 408, of which there is room for 16 bytes.
            served.send(b"GET / HTTP/1.1\r\nh").await;
            (&mut served.serving).await.unwrap();
            assert_seconds(begun, 15);
            let mut taken = Vec::new();
            served.wire.read_to_end(&mut taken).await.unwrap();
            assert_eq!(taken, b"HTTP/1.1 408 Req");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_http1_client_that_never_ends_a_body_that_nobody_wants_is_closed() {
    LocalSet::new()
        .run_until(async {
            let mut served = Served::new(1 << 20, false);
            let begun = Instant::now();
            served.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").await;
            while served.wire.write_all(b"x").await.is_ok() {
                sleep(TICK).await;
            }
            assert_seconds(begun, 5);
            let mut answer = Vec::new();
            served.wire.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", answer.escape_ascii());
        })
        .await;
}
