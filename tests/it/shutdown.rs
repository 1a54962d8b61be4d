//! SIGTERM and SIGINT: nothing new, what is under way finishes within its deadline, exit code 0.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::{Authority, Gate, Proxy, Setup, Signal, Wire, eventually, get};

async fn before(gate: &Gate, deadlines: &str) -> Proxy {
    let setup = Setup::new().workers(2).backend(&[gate.upstream.url()], "");
    setup.settings(&format!("[shutdown]\n{deadlines}")).start().await
}

async fn refuses_connections(proxy: &Proxy) {
    let address = proxy.http();
    eventually("new connections are refused", || TcpStream::connect(address).is_err()).await;
}

async fn ends_well(mut proxy: Proxy) {
    assert_eq!(proxy.wait().await.code(), Some(0));
    proxy.logs("stopped").await;
}

async fn finishes_what_is_under_way(signal: Signal) {
    let gate = Gate::shut().await;
    let proxy = before(&gate, "").await;
    let mut silent = proxy.connect().await;
    let (mut parked, mut idle) = (proxy.connect().await, proxy.connect().await);
    parked.exchange(get("/", "")).await;
    proxy.metric_becomes("tidegate_connections_parked", "", 1).await;
    idle.exchange(get("/", "")).await;
    let (mut held, mut half, mut upload) = (proxy.connect().await, proxy.connect().await, proxy.connect().await);
    held.send(get("/held", "")).await;
    half.send(get("/half", "")).await;
    half.head().await;
    upload.send("POST /up HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 6\r\n\r\nabc").await;
    gate.received("/held").await;
    gate.received("/up").await;

    proxy.signal(signal);
    for wire in [&mut silent, &mut parked, &mut idle] {
        assert_eq!(wire.rest().await, b"");
    }
    refuses_connections(&proxy).await;
    upload.send("def").await;
    let answer = upload.answer().await;
    assert_eq!((answer.text(), answer.head.value("connection")), ("ok", Some("close")));
    gate.open();
    let answer = held.answer().await;
    assert_eq!((answer.text(), answer.head.value("connection")), ("ok", Some("close")));
    assert_eq!(half.bytes(10).await, b"firstafter");
    for wire in [&mut held, &mut half, &mut upload] {
        assert_eq!(wire.rest().await, b"");
    }
    ends_well(proxy).await;
}

#[tokio::test]
async fn sigterm_finishes_what_is_under_way_and_closes_what_idles() {
    finishes_what_is_under_way(Signal::TERM).await;
}

#[tokio::test]
async fn sigint_does_the_same() {
    finishes_what_is_under_way(Signal::INT).await;
}

#[tokio::test]
async fn without_connections_it_ends_at_once() {
    let gate = Gate::shut().await;
    let proxy = before(&gate, "").await;
    proxy.fetch("/").await;
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    ends_well(proxy).await;
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn secure_connections_are_closed_and_finished_alike() {
    let (gate, authority) = (Gate::shut().await, Authority::new());
    let setup = Setup::new().backend(&[gate.upstream.url()], "").certificate(&authority.pair(&["shop.test"]));
    let proxy = setup.start().await;
    // Has not even begun its handshake.
    let mut silent = Wire::connect(proxy.https()).await;
    let mut connected = Vec::new();
    for _ in 0..2 {
        connected.push(Wire::new(authority.connect(proxy.https(), "shop.test", &["http/1.1"]).await));
    }
    let [idle, held] = &mut connected[..] else { unreachable!() };
    idle.exchange(get("/", "")).await;
    held.send(get("/held", "")).await;
    gate.received("/held").await;
    proxy.signal(Signal::TERM);
    assert_eq!(idle.rest().await, b"");
    gate.open();
    let answer = held.answer().await;
    assert_eq!((answer.text(), answer.head.value("connection")), ("ok", Some("close")));
    drop(held.rest().await);
    silent.finish().await;
    ends_well(proxy).await;
}

// RFC 9113, 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;

/// One frame: its type, flags, stream and payload.
async fn frame(wire: &mut Wire) -> (u8, u8, u32, Vec<u8>) {
    let head = wire.bytes(9).await;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
    (head[3], head[4], stream, wire.bytes(length).await)
}

#[tokio::test]
async fn http2_clients_are_told_to_go_away_and_get_their_answers() {
    let gate = Gate::shut().await;
    let proxy = before(&gate, "").await;
    let mut wire = proxy.connect().await;
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // GET http /held shop.test on stream 1, and its end.
    let block = b"\x82\x86\x44\x05/held\x41\x09shop.test";
    wire.send([&[0, 0, block.len() as u8, HEADERS, 5, 0, 0, 0, 1], &block[..]].concat()).await;
    gate.received("/held").await;
    proxy.signal(Signal::TERM);
    let mut goaways = Vec::new();
    let mut ended = false;
    while !ended {
        let (kind, flags, stream, payload) = frame(&mut wire).await;
        match kind {
            // The ping measures a round trip, so that requests on their way are still taken.
            PING if flags == 0 => wire.send([&[0, 0, 8, PING, 1, 0, 0, 0, 0], &payload[..]].concat()).await,
            SETTINGS if flags == 0 => wire.send([0, 0, 0, SETTINGS, 1, 0, 0, 0, 0]).await,
            GOAWAY => {
                let word = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
                assert_eq!(word(4), 0, "no error");
                goaways.push(word(0));
                if goaways.len() == 2 {
                    gate.open();
                }
            }
            // `:status: 200` is the static table's eighth.
            HEADERS => assert_eq!((stream, payload[0]), (1, 0x88)),
            DATA => {
                assert_eq!(stream, 1);
                ended = flags & END_STREAM != 0;
            }
            _ => {}
        }
    }
    assert_eq!(goaways, [i32::MAX as u32, 1]);
    drop(wire.rest().await);
    ends_well(proxy).await;
}

#[tokio::test]
async fn an_idle_http2_client_is_told_to_go_away_and_does_not_hold_the_end_up() {
    let gate = Gate::shut().await;
    let proxy = before(&gate, "").await;
    let client = crate::support::http2::Http2::over(proxy.connect().await).await;
    assert_eq!(client.fetch("/").await.0, 200);
    let start = Instant::now();
    proxy.signal(Signal::TERM);
    ends_well(proxy).await;
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test]
async fn requests_that_hang_are_cut_at_their_deadline_and_streams_at_theirs() {
    let gate = Gate::shut().await;
    let proxy = before(&gate, "requests = \"300ms\"\nstreams = \"2500ms\"").await;
    let (mut held, mut half) = (proxy.connect().await, proxy.connect().await);
    let (mut socket, mut events) = (proxy.connect().await, proxy.connect().await);
    held.send(get("/held", "")).await;
    half.send(get("/half", "")).await;
    half.head().await;
    socket.open_socket().await;
    events.send(get("/events", "")).await;
    events.head().await;
    assert_eq!(events.chunk().await, b"data: 1\n\n");
    gate.received("/held").await;

    let start = Instant::now();
    proxy.signal(Signal::TERM);
    refuses_connections(&proxy).await;
    assert_eq!(held.rest().await, b"");
    assert_eq!(half.rest().await, b"first");
    assert!(start.elapsed() >= Duration::from_millis(300), "{:?}", start.elapsed());
    socket.assert_echo("streams have longer").await;
    assert_eq!(socket.rest().await, b"");
    assert!(start.elapsed() >= Duration::from_millis(2500), "{:?}", start.elapsed());
    assert_eq!(events.rest().await, b"");
    ends_well(proxy).await;
}

#[tokio::test]
async fn streams_that_end_by_themselves_end_the_process() {
    let gate = Gate::shut().await;
    let proxy = before(&gate, "requests = \"200ms\"").await;
    let (mut socket, mut events) = (proxy.connect().await, proxy.connect().await);
    socket.open_socket().await;
    events.send(get("/events", "")).await;
    events.head().await;
    assert_eq!(events.chunk().await, b"data: 1\n\n");
    proxy.signal(Signal::TERM);
    refuses_connections(&proxy).await;
    socket.assert_echo("bye").await;
    socket.finish().await;
    assert_eq!(socket.rest().await, b"");
    gate.open();
    assert_eq!(events.chunk().await, b"", "the stream ends whole");
    assert_eq!(events.rest().await, b"\r\n");
    ends_well(proxy).await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let signals = [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::INT), (Signal::TERM, Signal::INT)];
    for (first, second) in signals {
        let gate = Gate::shut().await;
        let mut proxy = before(&gate, "").await;
        let (mut held, mut socket) = (proxy.connect().await, proxy.connect().await);
        held.send(get("/held", "")).await;
        socket.open_socket().await;
        gate.received("/held").await;
        proxy.signal(first);
        proxy.logs("draining").await;
        refuses_connections(&proxy).await;
        assert!(!proxy.has_ended(), "requests have half a minute");
        let start = Instant::now();
        proxy.signal(second);
        assert_eq!(held.rest().await, b"");
        proxy.wait().await;
        proxy.logs("stopping at once").await;
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_reload_while_draining_changes_nothing() {
    let gate = Gate::shut().await;
    let proxy = before(&gate, "").await;
    let mut held = proxy.connect().await;
    held.send(get("/held", "")).await;
    gate.received("/held").await;
    proxy.signal(Signal::TERM);
    refuses_connections(&proxy).await;
    proxy.signal(Signal::HUP);
    gate.open();
    assert_eq!(held.answer().await.status(), 200);
    ends_well(proxy).await;
}
