//! Endpoints that answer too much, too long or in two ways: what their clients get, and that nobody else notices.

use std::fmt::Write;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Response;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use crate::support::http2::{Stream, http2_endpoint};
use crate::support::{OK, Proxy, Setup, Upstream, Wire, eventually, get, named, within};

/// More than any limit and all sockets on the way hold.
const ENDLESS: usize = 32 << 20;
/// Of a proxy that keeps none of it: its own code, which the first request brings in, is megabytes in a debug build.
const GROWTH_MAX_KB: usize = 16 << 10;
/// What small frames may take that were read at once, each with a head of its own.
const ROUND_KB: usize = 40 << 10;

/// An endpoint whose first connection answers its first request with `hostile`, and that is good on all others.
async fn hostile<F>(hostile: impl Fn(Wire) -> F + Send + Sync + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    let hostile = Arc::new(hostile);
    Upstream::scripted(move |mut wire: Wire, number| {
        let hostile = Arc::clone(&hostile);
        async move {
            if number == 0 {
                wire.head().await;
                return hostile(wire).await;
            }
            while wire.next_head().await.is_some() {
                if wire.try_send(OK).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// The same, with bytes for an answer.
async fn answering_first(answer: &'static [u8]) -> Upstream {
    hostile(move |mut wire| async move {
        drop(wire.try_send(answer).await);
        wire.rest().await;
    })
    .await
}

/// What no other request may notice: the next on the client's connection and the next of another client are answered
/// on a connection of their own.
async fn assert_unharmed(proxy: &Proxy, client: &mut Wire, upstream: &Upstream) {
    let answer = client.exchange(get("/next", "")).await;
    assert_eq!((answer.status(), answer.text()), (200, "ok"));
    assert_eq!(proxy.fetch("/other").await.text(), "ok");
    assert_eq!(upstream.connections(), 2);
    eventually("the hostile connection is closed", || upstream.open() == 1).await;
    let first = String::from_utf8(upstream.bytes(0)).unwrap();
    assert_eq!(first.matches("HTTP/1.1\r\n").count(), 1, "nothing follows on it: {first}");
}

async fn errors(proxy: &Proxy, reason: &str) -> u64 {
    proxy.metric("tidegate_request_errors_total", &format!("reason=\"{reason}\"")).await
}

#[tokio::test]
async fn a_head_without_end_is_a_502() {
    for (begin, more) in [
        ("HTTP/1.1 200 OK\r\n", "x-more: 1234567890\r\n"),
        ("HTTP/1.1 200 OK\r\nx-large: ", "1234567890123456"),
        ("HTTP/1.1 200 ", "never an end of it"),
        ("", "never HTTP at all "),
    ] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let upstream = hostile(move |mut wire| {
            let counter = Arc::clone(&counter);
            async move {
                drop(wire.try_send(begin).await);
                let block = more.repeat(1024);
                while counter.load(Ordering::SeqCst) < ENDLESS && wire.try_send(&block).await.is_ok() {
                    counter.fetch_add(block.len(), Ordering::SeqCst);
                }
            }
        })
        .await;
        let proxy = Proxy::before(&upstream).await;
        let before = proxy.memory_kb();
        let mut client = proxy.connect().await;
        assert_eq!(client.exchange(get("/", "")).await.status(), 502, "{begin}{more}");
        assert_unharmed(&proxy, &mut client, &upstream).await;
        assert!(sent.load(Ordering::SeqCst) < ENDLESS, "{begin}{more}");
        assert!(proxy.memory_kb() < before + GROWTH_MAX_KB);
        assert_eq!(errors(&proxy, "endpoint_broke").await, 1);
    }
}

#[tokio::test]
async fn heads_just_below_the_limit_pass_and_above_it_do_not() {
    for (size, status) in [(63 << 10, 200), (66 << 10, 502)] {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-large: {}\r\n\r\nok", "x".repeat(size));
        let upstream = Upstream::responding(move |_| head.clone().into_bytes()).await;
        let proxy = Proxy::before(&upstream).await;
        assert_eq!(proxy.fetch("/").await.status(), status);
    }
}

#[tokio::test]
async fn informational_answers_without_end_are_a_504_and_others_are_served_meanwhile() {
    let flooding = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&flooding);
    let upstream = hostile(move |mut wire| {
        let counter = Arc::clone(&counter);
        async move {
            let block = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n".repeat(100);
            while wire.try_send(&block).await.is_ok() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    // The connection that serves meanwhile idles until the flood has ended.
    let pool = "pool = { idle_timeout = \"1m\" }";
    let settings = "[timeouts]\nresponse_header = \"6s\"";
    let proxy = Setup::new().backend(&[upstream.url()], pool).settings(settings).start().await;
    let before = proxy.memory_kb();
    let mut client = proxy.connect().await;
    client.send(get("/", "")).await;
    eventually("the flood has begun", || flooding.load(Ordering::SeqCst) > 10).await;
    assert_eq!(proxy.fetch("/meanwhile").await.text(), "ok");
    assert_eq!(client.answer().await.status(), 504);
    assert!(proxy.memory_kb() < before + GROWTH_MAX_KB);
    assert_unharmed(&proxy, &mut client, &upstream).await;
    assert_eq!(errors(&proxy, "response_timeout").await, 1);
}

#[tokio::test]
async fn what_follows_an_answer_is_nobodys_answer() {
    const CASES: [(&str, &[u8], u16, &str); 6] = [
        (
            "GET",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
            200,
            "ok",
        ),
        ("GET", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntrailer: x-sum\r\n\r\nokx-sum: 1\r\n\r\n", 200, "ok"),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            200,
            "ok",
        ),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad", 200, ""),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad", 204, ""),
        ("GET", b"HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\ncontent-length: 3\r\n\r\nbad", 304, ""),
    ];
    for (method, bytes, status, body) in CASES {
        let upstream = answering_first(bytes).await;
        let proxy = Proxy::before(&upstream).await;
        let mut client = proxy.connect().await;
        client.send(get("/", "").replacen("GET", method, 1)).await;
        let head = client.head().await;
        assert_eq!(head.status(), status);
        let got = match head.content_length() {
            _ if body.is_empty() => Vec::new(),
            Some(length) => client.bytes(length).await,
            None => client.chunked().await.0,
        };
        assert_eq!(got, body.as_bytes());
        assert_unharmed(&proxy, &mut client, &upstream).await;
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_thrown_away() {
    let (go, closed) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (told, end) = (Arc::clone(&go), Arc::clone(&closed));
    let upstream = hostile(move |mut wire| {
        let (told, end) = (Arc::clone(&told), Arc::clone(&end));
        async move {
            wire.send(OK).await;
            told.notified().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad").await;
            wire.rest().await;
            end.notify_one();
        }
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get("/", "")).await.text(), "ok");
    go.notify_one();
    within("the connection's end", closed.notified()).await;
    assert_unharmed(&proxy, &mut client, &upstream).await;
}

#[tokio::test]
async fn an_endpoint_that_answers_before_it_is_asked_can_do_so_once() {
    let upstream = Upstream::scripted(|mut wire: Wire, number| async move {
        if number == 0 {
            drop(wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await);
            wire.rest().await;
            return;
        }
        while wire.next_head().await.is_some() && wire.try_send(OK).await.is_ok() {}
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    // It is the answer, if it comes late enough to be taken for one.
    let answer = client.exchange(get("/", "")).await;
    assert!(["early", "ok"].contains(&answer.text()), "{answer:?}");
    eventually("a good connection is used", || upstream.connections() < 3).await;
    upstream.close_all().await;
    assert_eq!(client.exchange(get("/", "")).await.text(), "ok");
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_a_502() {
    const CASES: [&[u8]; 15] = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n3\r\nbad\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\nbad",
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 2\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3, 2\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\ncontent-length : 3\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\nx-folded: 1\r\n content-length: 3\r\n\r\nbad",
        b"HTTP/1.1 200 OK\r\nx-nul: \0\r\ncontent-length: 3\r\n\r\nbad",
        b"HTTP/2.0 200 OK\r\ncontent-length: 3\r\n\r\nbad",
    ];
    for bytes in CASES {
        let upstream = answering_first(bytes).await;
        let proxy = Proxy::before(&upstream).await;
        let mut client = proxy.connect().await;
        let answer = client.exchange(get("/", "")).await;
        assert_eq!(answer.status(), 502, "{}", String::from_utf8_lossy(bytes));
        assert!(!answer.text().contains("bad"));
        assert_unharmed(&proxy, &mut client, &upstream).await;
        assert_eq!(errors(&proxy, "endpoint_broke").await, 1);
    }
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_502() {
    let upstream =
        answering_first(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nbad").await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get("/", "")).await.status(), 502);
    assert_unharmed(&proxy, &mut client, &upstream).await;
    assert_eq!(errors(&proxy, "bad_switch").await, 1);
}

#[tokio::test]
async fn a_body_that_breaks_its_own_framing_is_cut() {
    const CASES: [&[u8]; 6] = [
        b"content-length: 5\r\n\r\nok",
        b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\nFFFFFFFFFFFFFFFFF\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\nno size\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n-1\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\nokbad\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
    ];
    for rest in CASES {
        let upstream = hostile(move |mut wire| async move {
            wire.send([b"HTTP/1.1 200 OK\r\n", rest].concat()).await;
        })
        .await;
        let proxy = Proxy::before(&upstream).await;
        let mut client = proxy.connect().await;
        client.send(get("/", "")).await;
        let got = String::from_utf8(client.rest().await).unwrap();
        assert!(got.starts_with("HTTP/1.1 ") && !got.ends_with("0\r\n\r\n") && !got.contains("bad"), "{got}");
        assert_unharmed(&proxy, &mut proxy.connect().await, &upstream).await;
        // Where head and fault come together, the head may still be ours to answer.
        let broken = errors(&proxy, "response_broken").await + errors(&proxy, "endpoint_broke").await;
        assert_eq!(broken, 1, "{got}");
    }
}

#[tokio::test]
async fn chunk_extensions_and_trailers_without_end_are_cut() {
    for begin in ["2\r\nok\r\n1;", "2\r\nok\r\n0\r\nx-trailer: "] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let upstream = hostile(move |mut wire| {
            let counter = Arc::clone(&counter);
            async move {
                let head = "HTTP/1.1 200 OK\r\ntrailer: x-trailer\r\ntransfer-encoding: chunked\r\n\r\n";
                drop(wire.try_send(format!("{head}{begin}")).await);
                let block = "x".repeat(16 << 10);
                while counter.load(Ordering::SeqCst) < ENDLESS && wire.try_send(&block).await.is_ok() {
                    counter.fetch_add(block.len(), Ordering::SeqCst);
                }
            }
        })
        .await;
        let proxy = Proxy::before(&upstream).await;
        let mut client = proxy.connect().await;
        client.send(get("/", "te: trailers\r\nconnection: te\r\n")).await;
        let got = String::from_utf8(client.rest().await).unwrap();
        assert!(got.contains("2\r\nok\r\n") && !got.contains("0\r\n"), "{got}");
        assert_unharmed(&proxy, &mut proxy.connect().await, &upstream).await;
        assert!(sent.load(Ordering::SeqCst) < ENDLESS);
    }
}

#[tokio::test]
async fn a_body_without_end_ends_with_its_client() {
    let upstream = hostile(|mut wire| async move {
        drop(wire.try_send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await);
        let block = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
        while wire.try_send(&block).await.is_ok() {}
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let before = proxy.memory_kb();
    let mut client = proxy.connect().await;
    client.send(get("/", "")).await;
    client.head().await;
    let mut buffer = vec![0; 1 << 16];
    let mut taken = 0;
    while taken < ENDLESS {
        taken += within("more of the body", client.read(&mut buffer)).await.unwrap();
    }
    assert!(proxy.memory_kb() < before + 12 * 1024);
    drop(client);
    assert_unharmed(&proxy, &mut proxy.connect().await, &upstream).await;
    assert_eq!(errors(&proxy, "client_left").await, 1);
}

/// A proxy before an HTTP/2 endpoint.
async fn before_http2(upstream: &Upstream) -> Proxy {
    Setup::new().backend(&[upstream.url()], "protocol = \"h2\"").start().await
}

#[tokio::test]
async fn a_bad_stream_does_no_harm_to_its_neighbours() {
    let (held, asked) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (gate, counter) = (Arc::clone(&held), Arc::clone(&asked));
    let upstream = http2_endpoint(None, move |stream| {
        let (gate, counter) = (Arc::clone(&gate), Arc::clone(&counter));
        async move {
            let Stream { request, mut respond, index } = stream;
            let send = |respond: &mut h2::server::SendResponse<Bytes>, name: &'static str, value: &str| {
                let response = Response::builder().header(name, value).body(()).unwrap();
                respond.send_response(response, false).expect("the stream is open")
            };
            match request.uri().path() {
                "/held" => {
                    gate.notified().await;
                    Stream { request, respond, index }.answer("held");
                }
                "/large-head" => {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let mut body = send(&mut respond, "x-large", &"x".repeat(100 << 10));
                    body.send_data(Bytes::from_static(b"bad"), true).expect("the stream is open");
                }
                "/reset" => {
                    counter.fetch_add(1, Ordering::SeqCst);
                    respond.send_reset(h2::Reason::CANCEL);
                }
                "/too-long" => {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let mut body = send(&mut respond, "content-length", "2");
                    body.send_data(Bytes::from_static(b"okbad"), true).expect("the stream is open");
                }
                "/too-short" => {
                    counter.fetch_add(1, Ordering::SeqCst);
                    let mut body = send(&mut respond, "content-length", "5");
                    body.send_data(Bytes::from_static(b"ok"), true).expect("the stream is open");
                }
                _ => Stream { request, respond, index }.answer("ok"),
            }
        }
    })
    .await;
    let proxy = before_http2(&upstream).await;
    let mut neighbour = proxy.connect().await;
    assert_eq!(neighbour.exchange(get("/", "")).await.text(), "ok");
    neighbour.send(get("/held", "")).await;
    for (number, path) in ["/reset", "/large-head", "/too-long", "/too-short"].iter().enumerate() {
        let mut client = proxy.connect().await;
        client.send(get(path, "")).await;
        let got = String::from_utf8(client.begun_until_silent(std::time::Duration::from_millis(300)).await).unwrap();
        assert!(!got.contains("bad") && !got.ends_with("0\r\n\r\n"), "{path}: {got}");
        if number < 2 {
            assert!(got.starts_with("HTTP/1.1 502 "), "{got}");
        }
        assert_eq!(asked.load(Ordering::SeqCst), number + 1, "{path} is asked once");
        assert_eq!(proxy.fetch("/").await.text(), "ok");
    }
    held.notify_one();
    assert_eq!(neighbour.answer().await.text(), "held");
    assert_eq!(upstream.connections(), 1);
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// `:status: 200` of HPACK's static table.
const STATUS_OK: &[u8] = &[0x88];

/// Reads frames until `count` requests have begun; their streams.
async fn requests(wire: &mut Wire, count: usize) -> Vec<u32> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let head = wire.bytes(9).await;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        wire.bytes(length).await;
        if head[3] == HEADERS {
            streams.push(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
    streams
}

/// An HTTP/2 endpoint whose first connection is `hostile`, after its settings, once `count` requests have come; the
/// others answer "ok".
async fn hostile_http2<F>(count: usize, hostile: impl Fn(Wire, Vec<u32>) -> F + Send + Sync + 'static) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    let hostile = Arc::new(hostile);
    Upstream::scripted(move |mut wire: Wire, number| {
        let hostile = Arc::clone(&hostile);
        async move {
            if number == 0 {
                wire.bytes(24).await;
                wire.send(frame(SETTINGS, 0, 0, &[])).await;
                let streams = requests(&mut wire, count).await;
                return hostile(wire, streams).await;
            }
            let Ok(mut accepted) = h2::server::handshake(wire).await else { return };
            while let Some(Ok((request, respond))) = accepted.accept().await {
                Stream { request, respond, index: 0 }.answer("ok");
            }
        }
    })
    .await
}

/// Frames for a stream.
type Frames = fn(u32) -> Vec<u8>;

#[tokio::test]
async fn floods_of_frames_are_a_502_and_end_the_connection() {
    let floods: [(&str, Frames, Frames); 3] = [
        (
            "continuations",
            |stream| frame(HEADERS, 0, stream, STATUS_OK),
            |stream| frame(CONTINUATION, 0, stream, &[b"\x00\x01a\x01b".as_slice(); 100].concat()),
        ),
        (
            "empty continuations",
            |stream| frame(HEADERS, 0, stream, STATUS_OK),
            |stream| frame(CONTINUATION, 0, stream, &[]),
        ),
        ("frames for streams that were never begun", |_| Vec::new(), |_| frame(DATA, 0, 99, b"x")),
    ];
    for (name, begin, more) in floods {
        let upstream = hostile_http2(1, move |mut wire, streams| async move {
            drop(wire.try_send(begin(streams[0])).await);
            let block = more(streams[0]).repeat(100);
            let mut sent = 0;
            while wire.try_send(&block).await.is_ok() {
                sent += block.len();
                assert!(sent < ENDLESS, "{name}: nobody stops it");
            }
        })
        .await;
        let proxy = before_http2(&upstream).await;
        let before = proxy.memory_kb();
        let mut client = proxy.connect().await;
        assert_eq!(client.exchange(get("/", "")).await.status(), 502, "{name}");
        assert_eq!(client.exchange(get("/", "")).await.text(), "ok", "{name}");
        eventually("the hostile connection is closed", || upstream.open() == 1).await;
        assert!(proxy.memory_kb() < before + 8192, "{name}");
    }
}

#[tokio::test]
async fn pings_and_settings_without_end_leave_memory_and_other_requests_alone() {
    for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[])] {
        let upstream = hostile_http2(1, move |mut wire, _| async move {
            let block = frame(kind, 0, 0, payload).repeat(100);
            // Acknowledgements aren't read, so that they pile up if they can.
            while wire.try_send(&block).await.is_ok() {}
        })
        .await;
        let healthy = named("healthy").await;
        let settings = format!(
            "[timeouts]\nresponse_header = \"1500ms\"\n[services.other]\nroutes = [{{ host = \"other.test\" }}]\n\
             [services.other.backends.main]\nweight = 1\nendpoints = [{:?}]",
            healthy.url()
        );
        let proxy = Setup::new().backend(&[upstream.url()], "protocol = \"h2\"").settings(&settings).start().await;
        let before = proxy.memory_kb();
        let mut client = proxy.connect().await;
        client.send(get("/", "")).await;
        let answer = proxy.exchange("GET / HTTP/1.1\r\nhost: other.test\r\n\r\n").await;
        assert_eq!(answer.text(), "healthy");
        assert!([502, 504].contains(&client.answer().await.status()));
        assert!(proxy.memory_kb() < before + 8192, "{} KB", proxy.memory_kb() - before);
    }
}

#[tokio::test]
async fn informational_heads_without_end_on_http2_are_a_504() {
    let upstream = hostile_http2(1, move |mut wire, streams| async move {
        let block = frame(HEADERS, END_HEADERS, streams[0], b"\x08\x03103").repeat(100);
        while wire.try_send(&block).await.is_ok() {}
    })
    .await;
    let settings = "[timeouts]\nresponse_header = \"2s\"";
    let setup = Setup::new().backend(&[upstream.url()], "protocol = \"h2\"").settings(settings);
    let proxy = setup.start().await;
    let before = proxy.memory_kb();
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get("/", "")).await.status(), 504);
    // As many as come in one round of reads, before the request that they belong to has its turn.
    assert!(proxy.memory_kb() < before + ROUND_KB, "{} KB", proxy.memory_kb() - before);
}

#[tokio::test]
async fn a_goaway_in_the_middle_costs_only_what_was_under_way() {
    let upstream = hostile_http2(2, |mut wire, streams| async move {
        let mut answer = frame(HEADERS, END_HEADERS, streams[0], STATUS_OK);
        answer.extend(frame(DATA, 0, streams[0], b"first half"));
        // Of the second it promises that nothing was done.
        answer.extend(frame(GOAWAY, 0, 0, &[streams[0].to_be_bytes(), [0; 4]].concat()));
        wire.send(answer).await;
        wire.send(frame(DATA, END_STREAM, streams[0], b", second half")).await;
        wire.rest().await;
    })
    .await;
    let proxy = before_http2(&upstream).await;
    let (mut first, mut second) = (proxy.connect().await, proxy.connect().await);
    first.send(get("/first", "")).await;
    eventually("the first is there", || upstream.bytes(0).len() > 24 + 9).await;
    second.send("POST /second HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(first.answer().await.text(), "first half, second half");
    assert_eq!(second.answer().await.text(), "ok");
    assert_eq!(upstream.connections(), 2);

    let upstream = hostile_http2(1, |mut wire, streams| async move {
        let mut answer = frame(HEADERS, END_HEADERS, streams[0], STATUS_OK);
        answer.extend(frame(DATA, 0, streams[0], b"first half"));
        answer.extend(frame(GOAWAY, 0, 0, &[streams[0].to_be_bytes(), [0, 0, 0, 2]].concat()));
        wire.send(answer).await;
    })
    .await;
    let proxy = before_http2(&upstream).await;
    let mut client = proxy.connect().await;
    client.send(get("/", "")).await;
    let mut got = String::new();
    write!(got, "{}", String::from_utf8_lossy(&client.rest().await)).unwrap();
    assert!(!got.ends_with("0\r\n\r\n"), "{got}");
    assert_eq!(proxy.fetch("/").await.text(), "ok");
}
