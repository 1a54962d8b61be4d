//! What an HTTP/1.1 `Upgrade` opens, byte for byte: when it opens, and how its ends close.

use std::time::Duration;

use http::StatusCode;

use crate::support::http2::Http2;
use crate::support::{Proxy, Setup, Upstream, Wire, eventually};

const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nhost: shop.test\r\nconnection: keep-alive, Upgrade\r\nupgrade: echo/1\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\n";

/// Switches, then says everything again until its client has finished.
async fn echo() -> Upstream {
    Upstream::scripted(|mut wire: Wire, _| async move {
        let head = wire.head().await;
        assert_eq!((head.value("connection"), head.value("upgrade")), (Some("upgrade"), Some("echo/1")));
        wire.send(SWITCH).await;
        let all = wire.rest().await;
        wire.send(all).await;
    })
    .await
}

async fn switched(proxy: &Proxy) -> Wire {
    let mut client = proxy.connect().await;
    client.send(UPGRADE).await;
    let head = client.head().await;
    assert_eq!(
        (head.status(), head.value("upgrade"), head.value("connection")),
        (101, Some("echo/1"), Some("upgrade"))
    );
    client
}

#[tokio::test]
async fn a_client_that_has_finished_still_hears_the_endpoint() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = switched(&proxy).await;
    client.send("first, ").await;
    client.send("second").await;
    client.finish().await;
    assert_eq!(client.rest().await, b"first, second");
    proxy.metric_becomes("tidegate_tunnels_open", "", 0).await;
}

#[tokio::test]
async fn an_endpoint_that_has_finished_still_hears_the_client() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.send(format!("{SWITCH}all I have to say")).await;
        wire.finish().await;
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = switched(&proxy).await;
    assert_eq!(client.rest().await, b"all I have to say");
    client.send("a late word").await;
    let arrived = || upstream.bytes(0).ends_with(b"a late word");
    eventually("the endpoint hears it", arrived).await;
    client.finish().await;
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn what_follows_the_request_waits_for_the_101() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        assert_eq!(wire.until_silent(Duration::from_millis(300)).await, b"", "nothing comes before our yes");
        wire.send(SWITCH).await;
        assert_eq!(wire.bytes(5).await, b"early");
        wire.send("heard").await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send(format!("{UPGRADE}early")).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.rest().await, b"heard");
}

#[tokio::test]
async fn much_that_follows_the_request_is_not_lost() {
    const EARLY_BYTES: usize = 40_000;
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.send(SWITCH).await;
        let early = wire.bytes(EARLY_BYTES).await;
        assert!(early.iter().enumerate().all(|(at, byte)| *byte == (at % 251) as u8), "every byte, in its place");
        wire.send("heard").await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    // In one write, so that it is read at once, and more of it than hyper reads before it has answered.
    let early: Vec<u8> = (0..EARLY_BYTES).map(|at| (at % 251) as u8).collect();
    client.send([UPGRADE.as_bytes(), &early].concat()).await;
    assert_eq!(client.head().await.status(), 101);
    assert_eq!(client.bytes(5).await, b"heard");
}

#[tokio::test]
async fn what_follows_a_refused_request_never_reaches_the_endpoint_as_bytes() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(format!("{UPGRADE}not a request\r\n\r\n")).await.text(), "no");
    assert_eq!(client.answer().await.status(), 400);
    assert_eq!(upstream.request().target(), "/chat");
    assert!(!String::from_utf8_lossy(&upstream.bytes(0)).contains("not a request"));
}

#[tokio::test]
async fn a_refusal_keeps_both_connections_in_use() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        assert_eq!(client.exchange(UPGRADE).await.text(), "no");
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.text(), "no");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_switch_nobody_asked_for_is_a_502() {
    let upstream = Upstream::answering(SWITCH).await;
    let proxy = Proxy::before(&upstream).await;
    assert_eq!(proxy.fetch("/").await.status(), 502);
    let client = Http2::over(proxy.connect().await).await;
    assert_eq!(client.fetch("/").await.0, StatusCode::BAD_GATEWAY);
    eventually("the endpoint's connections are closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn a_websocket_accepted_with_the_wrong_key_is_a_502() {
    let accept = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let upstream = Upstream::answering(accept).await;
    let proxy = Proxy::before(&upstream).await;
    let client = Http2::over(proxy.connect().await).await;
    assert_eq!(client.open_websocket("/chat").await.0.status(), StatusCode::BAD_GATEWAY);
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn a_silent_tunnel_is_closed_in_time() {
    let upstream = echo().await;
    let setup = Setup::new().backend(&[upstream.url()], "").settings("[timeouts]\ntunnel_idle = \"300ms\"");
    let proxy = setup.start().await;
    let mut client = switched(&proxy).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.send("still here").await;
    }
    assert_eq!(client.rest().await, b"");
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
    assert!(upstream.bytes(0).ends_with(b"still herestill herestill here"));
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_leaves_no_tunnel() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send(UPGRADE).await;
    eventually("the request has arrived", || !upstream.bytes(0).is_empty()).await;
    drop(client);
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
}
