//! HTTP/1 client connections: many requests on one, parked and woken, pipelined, and how they end.

use std::time::Duration;

use crate::support::{Proxy, Refusing, Setup, Upstream, Wire, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
/// Longer than an idle connection waits to be parked.
const PAUSE: Duration = Duration::from_millis(800);

/// Answers with the target that was asked for.
async fn echo() -> Upstream {
    Upstream::responding(|request| {
        let target = request.target();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len()).into_bytes()
    })
    .await
}

async fn before(upstream: &Upstream, timeouts: &str) -> Proxy {
    Setup::new().backend(&[upstream.url()], "").settings(&format!("[timeouts]\n{timeouts}")).start().await
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for index in 0..200 {
        let answer = client.exchange(format!("GET /{index} HTTP/1.1\r\nhost: shop.test\r\n\r\n")).await;
        assert_eq!(answer.text(), format!("/{index}"));
    }
    assert_eq!((upstream.requests().len(), upstream.connections()), (200, 1));
}

#[tokio::test]
async fn an_idle_connection_is_parked_and_woken_again_and_again() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for round in 0..3 {
        proxy.metric_becomes("tidegate_connections_parked", "", u64::from(round > 0)).await;
        let answer =
            client.exchange(format!("POST /{round} HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")).await;
        assert_eq!(answer.text(), format!("/{round}"));
        assert_eq!(upstream.requests()[round].body, b"abc");
    }
}

#[tokio::test]
async fn a_head_in_pieces_wakes_a_parked_connection_once() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.exchange(GET).await;
    proxy.metric_becomes("tidegate_connections_parked", "", 1).await;
    client.send("GE").await;
    proxy.metric_becomes("tidegate_connections_parked", "", 0).await;
    tokio::time::sleep(PAUSE).await;
    client.send("T /pieces HTTP/1.1\r\nhost: sh").await;
    tokio::time::sleep(PAUSE).await;
    let answer = client.exchange("op.test\r\n\r\n").await;
    assert_eq!(answer.text(), "/pieces");
    assert_eq!(upstream.requests()[1].head.value("host"), Some("shop.test"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    let requests: String = (0..20).map(|index| format!("GET /{index} HTTP/1.1\r\nhost: shop.test\r\n\r\n")).collect();
    client.send(requests).await;
    for index in 0..20 {
        assert_eq!(client.answer().await.text(), format!("/{index}"));
    }
}

#[tokio::test]
async fn a_pipelined_head_may_come_in_two_parts_with_a_pause_between() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    let both = "GET /1 HTTP/1.1\r\nhost: shop.test\r\n\r\nGET /2 HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    // Through the first head's end, through the second one's, and with one byte of it.
    for cut in [36, 37, 45, 60, both.len() - 1] {
        let first = client.exchange(&both[..cut]).await;
        assert_eq!(first.text(), "/1");
        tokio::time::sleep(PAUSE).await;
        assert_eq!(client.exchange(&both[cut..]).await.text(), "/2", "cut at {cut}");
    }
}

#[tokio::test]
async fn a_line_end_too_many_after_a_body_begins_no_request() {
    let upstream = echo().await;
    let proxy = before(&upstream, "header_read = \"200ms\"").await;
    let mut client = proxy.connect().await;
    client.exchange("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 1\r\n\r\nx").await;
    client.send("\r\n").await;
    assert_eq!(client.until_silent(Duration::from_millis(900)).await, b"", "no 408 that the next request would take");
    assert_eq!(client.exchange(GET).await.status(), 200);
}

#[tokio::test]
async fn a_head_that_takes_too_long_is_answered_408() {
    let upstream = echo().await;
    let proxy = before(&upstream, "header_read = \"400ms\"").await;
    let mut fresh = proxy.connect().await;
    fresh.send("GET / HTTP/1.1\r\n").await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    fresh.send("host: shop").await;
    let answer = fresh.answer().await;
    assert_eq!((answer.status(), answer.head.value("connection")), (408, Some("close")));
    assert_eq!(fresh.rest().await, b"");

    let mut used = proxy.connect().await;
    used.exchange(format!("{GET}GET / HT")).await;
    assert_eq!(used.answer().await.status(), 408);
    assert_eq!(used.rest().await, b"");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_keep_alive_time() {
    let upstream = echo().await;
    let proxy = before(&upstream, "keep_alive = \"200ms\"").await;
    let mut silent = proxy.connect().await;
    assert_eq!(silent.rest().await, b"");
    let mut used = proxy.connect().await;
    used.exchange(GET).await;
    assert_eq!(used.rest().await, b"");
}

#[tokio::test]
async fn a_connection_idles_out_after_a_body_nobody_wanted() {
    let nobody = Refusing::new();
    let settings = "[timeouts]\nkeep_alive = \"200ms\"\nrestart_wait = \"0s\"";
    let proxy = Setup::new().backend(&[nobody.url()], "").settings(settings).start().await;
    let mut client = proxy.connect().await;
    let answer = client.exchange("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn connection_close_is_honoured_and_said() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    let answer = client.exchange("GET /last HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n").await;
    assert_eq!((answer.text(), answer.head.value("connection")), ("/last", Some("close")));
    assert_eq!(client.rest().await, b"");
    assert_eq!(proxy.fetch("/next").await.text(), "/next");
    assert_eq!(upstream.connections(), 1, "the client's close says nothing about the endpoint's connection");
}

#[tokio::test]
async fn an_http10_client_gets_a_plain_body_and_the_end() {
    let upstream =
        Upstream::answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send("GET /old HTTP/1.0\r\n\r\n").await;
    let head = client.head().await;
    assert_eq!((head.status(), head.value("transfer-encoding")), (200, None));
    assert_eq!(client.rest().await, b"ok");
    assert_eq!(upstream.request().head.line, "GET /old HTTP/1.1");
}

#[tokio::test]
async fn an_http10_client_may_ask_to_stay() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        let answer = client.exchange("GET / HTTP/1.0\r\nhost: shop.test\r\nconnection: keep-alive\r\n\r\n").await;
        assert_eq!((answer.text(), answer.head.value("connection")), ("ok", Some("keep-alive")));
    }
    let answer = client.exchange("GET / HTTP/1.0\r\nhost: shop.test\r\n\r\n").await;
    assert_eq!(answer.text(), "ok");
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    for request in [GET, "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 10\r\n\r\nhalf"] {
        let mut client = proxy.connect().await;
        client.send(request).await;
        eventually("the request has arrived", || upstream.open() == 1).await;
        drop(client);
        eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
    }
    proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
    assert_eq!(upstream.connections(), 2);
}
