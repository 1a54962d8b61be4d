//! Bodies that stand still, and requests that take too long or are too large: whoever is to blame is let go, whoever
//! shares a connection with them isn't.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::AsyncReadExt;

use crate::support::frames::{self, Fate, Frames, RST_STREAM, WINDOW_UPDATE, frame, setting};
use crate::support::http2::{Http2, Stream, get as get2, http2_endpoint, whole};
use crate::support::{OK, Proxy, Setup, Upstream, Wire, eventually, get, within};

const IDLE: &str = "[timeouts]\nbody_idle = \"400ms\"\n";

/// In front of one endpoint, with an access log.
async fn before(upstream: &Upstream, more: &str, settings: &str) -> Proxy {
    Setup::new().top("access_log = \"stdout\"").backend(&[upstream.url()], more).settings(settings).start().await
}

/// Waits for `count` lines of the access log that name `error`.
async fn logged(proxy: &Proxy, error: &str, count: usize) {
    let wanted = format!("\"error\":\"{error}\"");
    eventually(&format!("{count} times {error} is logged"), || {
        std::fs::read_to_string(proxy.stdout()).unwrap().matches(&wanted).count() == count
    })
    .await;
}

/// Takes everything of every connection and answers nothing.
async fn silent() -> Upstream {
    Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await
}

fn post(framing: &str, part: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: shop.test\r\n{framing}\r\n\r\n{part}")
}

#[tokio::test]
async fn a_client_that_stalls_in_its_body_is_told_so_and_closed() {
    let upstream = silent().await;
    let proxy = before(&upstream, "", IDLE).await;
    for (number, framing) in ["content-length: 100", "transfer-encoding: chunked"].iter().enumerate() {
        let mut client = proxy.connect().await;
        let part = if framing.contains("chunked") { "9\r\nonly this\r\n" } else { "only this" };
        let answer = client.exchange(post(framing, part)).await;
        assert_eq!(answer.status(), 408);
        assert_eq!(answer.head.value("connection"), Some("close"));
        client.finish().await;
        assert_eq!(client.rest().await, b"");
        eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
        let arrived = String::from_utf8(upstream.bytes(number)).unwrap();
        assert!(arrived.trim_end_matches("\r\n").ends_with("only this"), "{arrived}");
        logged(&proxy, "request_stalled", number + 1).await;
    }
}

#[tokio::test]
async fn a_body_in_crumbs_counts_as_stalled() {
    let upstream = silent().await;
    let proxy = before(&upstream, "", IDLE).await;
    let mut client = proxy.connect().await;
    client.send(post("content-length: 100000", "")).await;
    let begun = std::time::Instant::now();
    // A byte now and then is always in time, and never enough.
    let answered = loop {
        let mut buffer = [0; 12];
        match tokio::time::timeout(Duration::from_millis(50), client.read(&mut buffer)).await {
            Ok(read) => break (read.unwrap(), buffer),
            Err(_) => drop(client.try_send("x").await),
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it is still waited for");
    };
    assert_eq!(&answered.1, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_body_at_the_asked_for_pace_may_take_long() {
    let upstream = Upstream::answering(OK).await;
    let proxy = before(&upstream, "", &format!("{IDLE}[limits]\nbody_pace = \"1B\"\n")).await;
    let mut client = proxy.connect().await;
    client.send(post("content-length: 12", "")).await;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.send("x").await;
    }
    assert_eq!(client.answer().await.status(), 200);
    assert_eq!(upstream.request().body.len(), 12);
}

#[tokio::test]
async fn a_body_waits_for_a_slow_endpoint_as_long_as_it_takes() {
    const LENGTH: usize = 30 << 20;
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        let head = wire.head().await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(wire.request_body(&head).await.len(), LENGTH);
        wire.send(OK).await;
        wire.rest().await;
    })
    .await;
    let proxy = before(&upstream, "", IDLE).await;
    let mut client = proxy.connect().await;
    client.send(post(&format!("content-length: {LENGTH}"), "")).await;
    client.send(vec![b'x'; LENGTH]).await;
    assert_eq!(client.answer().await.status(), 200);
}

#[tokio::test]
async fn a_stalled_stream_of_http2_is_told_so_and_its_neighbours_live_on() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            if head.line.starts_with("POST") {
                wire.rest().await;
                return;
            }
            wire.send(OK).await;
        }
    })
    .await;
    let proxy = before(&upstream, "", IDLE).await;
    let client = Http2::over(proxy.connect().await).await;
    let (response, _send) = client.begin(Request::post("http://shop.test/").body(()).unwrap()).await;
    assert_eq!(whole(response).await.0, 408);
    assert_eq!(client.fetch("/").await.0, 200);
    logged(&proxy, "request_stalled", 1).await;
}

const HALF: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this";

/// Answers `/half` with half of an answer, and all else well.
async fn halting() -> Upstream {
    Upstream::responding(|request| if request.target() == "/half" { HALF.into() } else { OK.into() }).await
}

#[tokio::test]
async fn an_endpoint_that_stalls_in_its_answer_is_let_go_and_the_client_sees_the_cut() {
    let upstream = halting().await;
    let proxy = before(&upstream, "", IDLE).await;
    let mut client = proxy.connect().await;
    client.send(get("/half", "")).await;
    assert_eq!(client.head().await.content_length(), Some(100));
    assert_eq!(client.rest().await, b"only this");
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
    logged(&proxy, "response_stalled", 1).await;

    let client = Http2::over(proxy.connect().await).await;
    let response = within("a head", client.ask(get2("/half")).await).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(within("data", body.data()).await.unwrap().unwrap(), "only this");
    let error = within("the cut", body.data()).await.unwrap().unwrap_err();
    assert!(error.is_reset(), "{error}");
    assert_eq!(client.fetch("/").await.0, 200, "on the same connection");
    logged(&proxy, "response_stalled", 2).await;
}

#[tokio::test]
async fn a_cut_answer_does_not_look_whole_to_a_client_that_goes_by_the_connections_end() {
    const UNBOUNDED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n";
    let upstream = Upstream::answering(UNBOUNDED).await;
    let proxy = before(&upstream, "", IDLE).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.0\r\nhost: shop.test\r\n\r\n").await;
    client.head().await;
    let mut body = Vec::new();
    let error = within("the end", client.read_to_end(&mut body)).await.unwrap_err();
    assert_eq!((error.kind(), &body[..]), (std::io::ErrorKind::ConnectionReset, &b"only this"[..]));
}

#[tokio::test]
async fn event_streams_may_be_silent_for_longer() {
    const EVENTS: &str =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n2\r\n\n\n\r\n";
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.send(EVENTS).await;
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        wire.send("0\r\n\r\n").await;
    })
    .await;
    let settings = "[timeouts]\nbody_idle = \"300ms\"\nrequest = \"500ms\"\n";
    let proxy = before(&upstream, "", settings).await;
    assert_eq!(proxy.fetch("/").await.text(), "\n\n");
}

/// An endless answer.
async fn endless() -> Upstream {
    Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            if !head.line.contains("/endless") {
                wire.send(OK).await;
                continue;
            }
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_usize << 40)).await;
            let piece = vec![b'x'; 64 * 1024];
            while tokio::io::AsyncWriteExt::write_all(&mut wire, &piece).await.is_ok() {}
            return;
        }
    })
    .await
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_closed() {
    let upstream = endless().await;
    let proxy = before(&upstream, "", IDLE).await;
    let mut client = proxy.connect().await;
    client.send(get("/endless", "")).await;
    client.head().await;
    logged(&proxy, "client_stalled", 1).await;
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
}

#[tokio::test]
async fn an_http2_connection_that_is_not_read_is_closed() {
    let upstream = endless().await;
    let proxy = before(&upstream, "", IDLE).await;
    let mut wire = proxy.connect().await;
    let mut settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // A window of 2 GiB for each stream, and as much for the connection.
    settings.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff]);
    settings.extend([0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0, 0]);
    // HEADERS with GET, http, /endless, shop.test.
    let mut block = vec![0x82, 0x86, 0x04, 8];
    block.extend(b"/endless");
    block.extend([0x01, 9]);
    block.extend(b"shop.test");
    for stream in [1, 3, 5] {
        settings.extend([0, 0, block.len() as u8, 1, 5, 0, 0, 0, stream]);
        settings.extend(&block);
    }
    wire.send(settings).await;
    logged(&proxy, "client_stalled", 3).await;
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
}

#[tokio::test]
async fn a_stream_that_is_not_taken_is_reset_and_its_neighbours_live_on() {
    let upstream = endless().await;
    let proxy = before(&upstream, "", IDLE).await;
    let client = Http2::over(proxy.connect().await).await;
    let taken = within("a head", client.ask(get2("/endless")).await).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.fetch("/").await.0, 200);
    }
    logged(&proxy, "client_stalled", 1).await;
    let mut body = taken.into_body();
    let error = loop {
        match within("the reset", body.data()).await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    assert_eq!(client.fetch("/").await.0, 200, "on the same connection");
}

#[tokio::test]
async fn an_answer_of_our_own_that_is_not_taken_is_reset_too() {
    let upstream = endless().await;
    let proxy = before(&upstream, "", &format!("[[services.shop.routes]]\nhost = \"other.test\"\n{IDLE}")).await;
    let mut client = Frames::open(proxy.http()).await;
    // No window for any body.
    client.send(&setting(4, 0)).await;
    client.send(&frames::get(1, "/nowhere")).await;
    // Which is written once it is over.
    logged(&proxy, "no_route", 1).await;
}

#[tokio::test]
async fn a_whole_request_has_a_time_if_one_is_given() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            if head.line.contains("/slow") {
                wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await;
                while wire.try_send("x").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                return;
            }
            if head.line.contains("/never") {
                wire.rest().await;
                return;
            }
            wire.send(OK).await;
        }
    })
    .await;
    let proxy = before(&upstream, "", "[services.shop.timeouts]\nrequest = \"400ms\"\n").await;
    assert_eq!(proxy.fetch("/never").await.status(), 504);
    let mut client = proxy.connect().await;
    client.send(get("/slow", "")).await;
    assert_eq!(client.head().await.status(), 200);
    assert!(client.rest().await.len() < 1000);
    logged(&proxy, "request_timeout", 2).await;
    // Its own body is part of a request's time.
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange("POST /never HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx").await.status(), 504);
    eventually("the endpoint's connections are closed", || upstream.open() == 0).await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
}

#[tokio::test]
async fn a_client_that_stops_reading_outlasts_no_deadline() {
    let upstream = endless().await;
    let proxy = before(&upstream, "", "[services.shop.timeouts]\nrequest = \"1s\"\n").await;
    // HTTP/1, and HTTP/2 with a socket that isn't read: windows of 2 GiB.
    let mut client = proxy.connect().await;
    client.send(get("/endless", "")).await;
    client.head().await;
    logged(&proxy, "request_timeout", 1).await;
    let mut deaf = Frames::open(proxy.http()).await;
    deaf.send(&[setting(4, 0x7fff_ffff), frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())].concat()).await;
    deaf.send(&[frames::get(1, "/endless"), frames::get(3, "/endless")].concat()).await;
    logged(&proxy, "request_timeout", 3).await;
    // Nor with windows that are shut, at once or when they are full.
    for window in [0, 100_000] {
        let mut shut = Frames::open(proxy.http()).await;
        shut.send(&setting(4, window)).await;
        shut.send(&frames::get(1, "/endless")).await;
        assert_eq!(shut.fate(1).await, Fate::Answered(200));
        loop {
            let frame = shut.next().await.expect("the connection lives on");
            if frame.kind == RST_STREAM {
                break;
            }
        }
        shut.send(&frames::get(3, "/")).await;
        assert_eq!(shut.fate(3).await, Fate::Answered(200), "on the same connection");
    }
    logged(&proxy, "request_timeout", 5).await;
    eventually("the endpoint's connections are closed", || upstream.open() <= 1).await;
}

#[tokio::test]
async fn a_path_longer_than_allowed_is_refused() {
    let upstream = Upstream::answering(OK).await;
    let proxy = before(&upstream, "", "[limits]\nuri_bytes = \"100B\"\n").await;
    let path = format!("/{}?{}", "a".repeat(49), "b".repeat(49));
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get(&path, "")).await.status(), 200);
    assert_eq!(client.exchange(get(&(path.clone() + "b"), "")).await.status(), 414);
    assert_eq!(client.exchange(get("/", "")).await.status(), 200, "on the same connection");
    let client = Http2::over(proxy.connect().await).await;
    assert_eq!(client.fetch(&(path + "b")).await.0, 414);
    assert_eq!(upstream.requests().len(), 2);
    logged(&proxy, "uri_too_long", 2).await;
}

#[tokio::test]
async fn a_body_larger_than_allowed_is_refused_before_or_on_its_way() {
    let upstream = silent().await;
    let proxy = before(&upstream, "", "[services.shop]\nbody_max = \"100B\"\n").await;
    // By its own account: nothing reaches the endpoint, and nobody is asked to go on.
    let mut client = proxy.connect().await;
    let answer = client.exchange(post("content-length: 101\r\nexpect: 100-continue", "")).await;
    assert_eq!((answer.status(), answer.head.value("connection")), (413, Some("close")));
    assert_eq!(upstream.connections(), 0);
    // On its way.
    let mut client = proxy.connect().await;
    let chunk = format!("32\r\n{}\r\n", "x".repeat(50));
    client.send(post("transfer-encoding: chunked", &chunk)).await;
    client.send(chunk.repeat(3)).await;
    let answer = client.answer().await;
    assert_eq!((answer.status(), answer.head.value("connection")), (413, Some("close")));
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
    let arrived = String::from_utf8(upstream.bytes(0)).unwrap();
    assert!(!arrived.ends_with("0\r\n\r\n"), "{arrived}");
    // Nothing, where all of it came at once.
    let body = arrived.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    assert!(body.matches('x').count() <= 100, "{body}");
    logged(&proxy, "body_too_large", 2).await;

    let client = Http2::over(proxy.connect().await).await;
    let (response, mut send) = client.begin(Request::post("http://shop.test/").body(()).unwrap()).await;
    send.send_data(Bytes::from(vec![b'x'; 200]), false).unwrap();
    assert_eq!(whole(response).await.0, 413);
    logged(&proxy, "body_too_large", 3).await;
}

#[tokio::test]
async fn a_refused_body_that_goes_on_does_not_cost_the_client_its_answer() {
    const LENGTH: usize = 20 << 20;
    let upstream = silent().await;
    let proxy = before(&upstream, "", "[services.shop]\nbody_max = \"1KiB\"\n").await;
    let mut client = proxy.connect().await;
    client.send(post(&format!("content-length: {LENGTH}"), "")).await;
    client.send(vec![b'x'; LENGTH]).await;
    assert_eq!(client.answer().await.status(), 413);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_streams_of_a_shared_endpoint_connection_do_not_stop_their_neighbours() {
    const STALLED: usize = 40;
    let upstream = http2_endpoint(None, |stream: Stream| async move {
        if stream.request.uri().path() != "/endless" {
            return stream.answer("ok");
        }
        let mut respond = stream.respond;
        let mut send = respond.send_response(http::Response::new(()), false).unwrap();
        loop {
            send.reserve_capacity(64 * 1024);
            let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
            if send.send_data(Bytes::from(vec![b'x'; room]), false).is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = before(&upstream, "protocol = \"h2\"", "[timeouts]\nbody_idle = \"3s\"\n").await;
    // Readers that read nothing: half of them streams of one connection, half connections of their own.
    let one = Http2::over(proxy.connect().await).await;
    let (mut streams, mut wires) = (Vec::new(), Vec::new());
    for _ in 0..STALLED / 2 {
        streams.push(within("a head", one.ask(get2("/endless")).await).await.unwrap());
        let mut wire = proxy.connect().await;
        wire.send(get("/endless", "")).await;
        wire.head().await;
        wires.push(wire);
    }
    // Until all windows are full.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let neighbour = Http2::over(proxy.connect().await).await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let begun = std::time::Instant::now();
        assert_eq!(neighbour.fetch("/").await.0, 200);
        times.push(begun.elapsed());
    }
    times.sort();
    // Who waits for a stalled stream waits for all of body_idle.
    assert!(times[197] < Duration::from_secs(1), "p99 of neighbours: {:?}", times[197]);
    assert_eq!(upstream.connections(), 1);
    logged(&proxy, "client_stalled", STALLED).await;
    assert_eq!(neighbour.fetch("/").await.0, 200);
    assert_eq!(upstream.connections(), 1, "all of it on one connection");
}
