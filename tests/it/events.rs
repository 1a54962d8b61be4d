//! Server-sent events: each arrives when it is sent, not when there is enough.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

use crate::support::http2::{Http2, collect, get};
use crate::support::{Authority, Proxy, Setup, Upstream, Wire, eventually, within};

/// Sends an event whenever told to.
async fn source() -> (mpsc::Sender<&'static str>, Upstream) {
    let (tell, told) = mpsc::channel(8);
    let told = Arc::new(Mutex::new(told));
    let upstream = Upstream::scripted(move |mut wire: Wire, _| {
        let told = Arc::clone(&told);
        async move {
            wire.head().await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
            wire.send(head).await;
            while let Some(event) = told.lock().await.recv().await {
                let event = format!("data: {event}\n\n");
                if wire.try_send(format!("{:x}\r\n{event}\r\n", event.len())).await.is_err() {
                    return;
                }
            }
            wire.send("0\r\n\r\n").await;
        }
    })
    .await;
    (tell, upstream)
}

const GET: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
const EVENTS: [&str; 3] = ["one", "two", "three"];

#[tokio::test]
async fn events_arrive_one_by_one_over_http1() {
    let (tell, upstream) = source().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    assert_eq!(client.head().await.value("content-type"), Some("text/event-stream"));
    for event in EVENTS {
        tell.try_send(event).expect("the endpoint listens");
        assert_eq!(client.chunk().await, format!("data: {event}\n\n").as_bytes());
    }
    drop(tell);
    assert_eq!(client.chunk().await, b"");
}

#[tokio::test]
async fn events_arrive_one_by_one_over_http2_and_tls() {
    let (tell, upstream) = source().await;
    let authority = Authority::new();
    let setup = Setup::new().certificate(&authority.pair(&["shop.test"]));
    let proxy = setup.backend(&[upstream.url()], "").start().await;
    let client = Http2::over(authority.connect(proxy.https(), "shop.test", &["h2"]).await).await;
    let response = within("the head", client.ask(get("/")).await).await.expect("the head comes");
    let mut body = response.into_body();
    for event in EVENTS {
        tell.try_send(event).expect("the endpoint listens");
        let data = within("an event", body.data()).await.expect("the body goes on").expect("the stream is open");
        assert_eq!(data, format!("data: {event}\n\n"));
    }
    drop(tell);
    assert_eq!(collect(body).await.expect("the body ends").0, b"");
}

#[tokio::test]
async fn a_listener_that_leaves_ends_the_stream_at_the_endpoint() {
    let (tell, upstream) = source().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    client.head().await;
    tell.try_send("one").expect("the endpoint listens");
    client.chunk().await;
    drop(client);
    // The endpoint only finds out by writing.
    eventually("the endpoint's connection is closed", || {
        let _ = tell.try_send("more");
        upstream.open() == 0
    })
    .await;
}
