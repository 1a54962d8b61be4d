//! The process around the traffic: what its end and a reload do to connections, and what it writes down.

use std::fs;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Notify;

use crate::support::http2::{Http2, get, whole};
use crate::support::{Proxy, Setup, Signal, Upstream, Wire, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";

/// Answers only after `go`.
async fn waiting(go: Arc<Notify>) -> Upstream {
    Upstream::scripted(move |mut wire: Wire, _| {
        let go = Arc::clone(&go);
        async move {
            wire.head().await;
            go.notified().await;
            wire.send(OK).await;
            wire.rest().await;
        }
    })
    .await
}

#[tokio::test]
async fn the_end_waits_for_requests_and_for_nobody_else() {
    let go = Arc::new(Notify::new());
    let upstream = waiting(Arc::clone(&go)).await;
    let mut proxy = Proxy::before(&upstream).await;
    let (mut silent, mut http1) = (proxy.connect().await, proxy.connect().await);
    let http2 = Http2::over(proxy.connect().await).await;
    http1.send(GET).await;
    let stream = http2.ask(get("/")).await;
    eventually("both are under way", || upstream.connections() == 2).await;
    proxy.signal(Signal::TERM);
    assert_eq!(silent.rest().await, b"");
    go.notify_waiters();
    let answer = http1.answer().await;
    assert_eq!((answer.text(), answer.head.value("connection")), ("ok", Some("close")));
    assert_eq!(whole(stream).await.0, 200);
    assert!(proxy.wait().await.success());
}

#[tokio::test]
async fn a_reload_keeps_clients_connections_and_moves_their_next_request() {
    let old = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nold").await;
    let new = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew").await;
    let mut proxy = Setup::new().workers(3).backend(&[old.url()], "").start().await;
    let mut clients = Vec::new();
    for _ in 0..24 {
        let mut client = proxy.connect().await;
        assert_eq!(client.exchange(GET).await.text(), "old");
        clients.push(client);
    }
    proxy.rewrite(&format!("[services.shop.backends.blue]\nweight = 1\nendpoints = [{:?}]", new.url()));
    proxy.signal(Signal::HUP);
    let reloaded = || proxy.log().iter().any(|line| line["message"] == "configuration reloaded");
    eventually("the new file is in force", reloaded).await;
    for client in &mut clients {
        assert_eq!(client.exchange(GET).await.text(), "new");
    }
    eventually("connections to the old endpoint are closed", || old.open() == 0).await;
}

#[tokio::test]
async fn each_request_leaves_one_line_that_says_how_it_ended() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        let head = wire.head().await;
        match head.line.split(' ').nth(1) {
            Some("/cut") => wire.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut").await,
            Some("/broken") => {}
            _ => wire.send(OK).await,
        }
    })
    .await;
    let setup = Setup::new().top("access_log = \"stdout\"").backend(&[upstream.url()], "");
    let proxy = setup.start().await;
    for path in ["/whole", "/cut", "/broken"] {
        let mut client = proxy.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n")).await;
        client.rest().await;
    }
    let lines = || fs::read_to_string(proxy.stdout()).expect("the folder is ours");
    eventually("the lines are written", || lines().lines().count() == 3).await;
    let text = lines();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    let ends: Vec<_> =
        lines.map(|line| (line["path"].clone(), line["status"].clone(), line["error"].clone())).collect();
    let expected = |path: &str, status: u16, error: Value| (path.into(), status.into(), error);
    assert_eq!(ends[0], expected("/whole", 200, Value::Null));
    assert_eq!(ends[1], expected("/cut", 200, "response_broken".into()));
    assert_eq!(ends[2], expected("/broken", 502, "endpoint_broke".into()));
}
