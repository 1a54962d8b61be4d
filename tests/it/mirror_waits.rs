//! Copies that can't be sent at once: what they wait for, for how long, and that they still go where they should.

use std::time::Duration;

use crate::support::http2::{Http2, whole};
use crate::support::{Gate, Proxy, Upstream, Wire, backend, eventually, get, mirrored, named};

const POSTS: &str = "methods = [\"GET\", \"POST\"]\n";

/// A client that has sent half of its request's body.
async fn half_sent(proxy: &Proxy) -> Wire {
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 8\r\n\r\nhalf").await;
    client
}

/// Waits until a backend has half a body, after which the copy is there, too.
async fn half_received(blue: &Upstream) {
    eventually("half of a body arrives", || blue.bytes(blue.connections().max(1) - 1).ends_with(b"half")).await;
}

async fn drain(proxy: &Proxy, backend: &str) {
    let path = format!("/v1/services/shop/backends/{backend}/drain");
    assert_eq!(proxy.call("PUT", &path, "", "").await.status(), 200);
}

#[tokio::test]
async fn a_body_that_is_still_to_come_takes_no_place_from_other_copies() {
    let (blue, green) = (named("blue").await, named("green").await);
    let keys = format!("{POSTS}max_requests = 1\ntimeout = \"20s\"");
    let proxy = mirrored(&blue, &green, &keys, "").start().await;
    let mut slow = half_sent(&proxy).await;
    half_received(&blue).await;
    let mut quick = proxy.connect().await;
    for count in 1..=5 {
        assert_eq!(quick.exchange(get("/", "")).await.text(), "blue");
        proxy.copies_answered(count).await;
    }
    assert!(proxy.metric("tidegate_mirror_memory_bytes", "").await > 512, "what waits counts with its head");
    assert_eq!(slow.exchange("done").await.text(), "blue");
    proxy.copies_answered(6).await;
    assert_eq!(green.requests().last().unwrap().body, b"halfdone");
    assert_eq!(proxy.all_copies_dropped().await, 0);
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn a_body_that_takes_too_long_has_its_copy_given_up_and_goes_on() {
    for large_body in ["skip", "stream"] {
        let (blue, green) = (named("blue").await, named("green").await);
        let keys = format!("{POSTS}large_body = \"{large_body}\"\ntimeout = \"300ms\"");
        let proxy = mirrored(&blue, &green, &keys, "").start().await;
        let mut slow = half_sent(&proxy).await;
        let client = Http2::over(tokio::net::TcpStream::connect(proxy.http()).await.expect("it listens")).await;
        let request = http::Request::post("http://shop.test/").body(()).expect("it is one");
        let (response, mut body) = client.begin(request).await;
        body.send_data("half".into(), false).expect("the stream is open");
        proxy.copies_dropped("body_timeout", 2).await;
        proxy.copies_are_over().await;
        assert_eq!(slow.exchange("done").await.text(), "blue");
        body.send_data("done".into(), true).expect("the stream is open");
        assert_eq!(whole(response).await.1.body, b"blue");
        assert_eq!(proxy.all_copies_dropped().await, 2);
        assert!(green.requests().is_empty(), "{large_body}");
    }
}

#[tokio::test]
async fn a_body_that_streams_slowly_keeps_its_copy_as_long_as_it_goes_on() {
    let (blue, green) = (named("blue").await, named("green").await);
    let keys = format!("{POSTS}large_body = \"stream\"\ntimeout = \"1s\"");
    let proxy = mirrored(&blue, &green, &keys, "").start().await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 15\r\n\r\n").await;
    for _ in 0..14 {
        client.send("x").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.exchange("x").await.text(), "blue");
    proxy.copies_answered(1).await;
    assert_eq!(green.request().body.len(), 15);
}

#[tokio::test]
async fn a_copy_that_has_waited_does_not_go_where_nothing_is_to_go_any_more() {
    let (blue, green) = (named("blue").await, named("green").await);
    let mut proxy = mirrored(&blue, &green, &format!("{POSTS}timeout = \"20s\""), "").start().await;
    let mut slow = half_sent(&proxy).await;
    half_received(&blue).await;
    drain(&proxy, "green").await;
    assert_eq!(slow.exchange("done").await.text(), "blue");
    proxy.copies_dropped("drained", 1).await;
    assert_eq!(proxy.call("DELETE", "/v1/services/shop/backends/green/drain", "", "").await.status(), 200);

    slow.send("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 8\r\n\r\nhalf").await;
    eventually("half of it arrives", || blue.bytes(0).ends_with(b"half")).await;
    let body = r#"{"backend": "green", "percent": 0}"#;
    let json = "content-type: application/json\r\n";
    assert_eq!(proxy.call("PUT", "/v1/services/shop/mirror", json, body).await.status(), 200);
    assert_eq!(slow.exchange("done").await.text(), "blue");
    proxy.copies_dropped("removed", 1).await;
    let body = r#"{"backend": "green", "percent": 100}"#;
    assert_eq!(proxy.call("PUT", "/v1/services/shop/mirror", json, body).await.status(), 200);

    slow.send("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 8\r\n\r\nhalf").await;
    eventually("half of it arrives", || blue.bytes(0).ends_with(b"half")).await;
    proxy.rewrite(&backend("blue", 1.0, &blue));
    proxy.reload_well().await;
    assert_eq!(slow.exchange("done").await.text(), "blue");
    proxy.metric_becomes("tidegate_mirror_memory_bytes", "", 0).await;
    assert!(green.requests().is_empty());
}

#[tokio::test]
async fn a_copy_in_line_does_not_go_to_a_backend_that_is_drained_meanwhile() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let keys = "max_requests = 1\nqueue = 1\ntimeout = \"20s\"";
    let proxy = mirrored(&blue, &gate.upstream, keys, "").start().await;
    for order in ["first", "second"] {
        assert_eq!(proxy.exchange(&get("/held", &format!("x-order: {order}\r\n"))).await.text(), "blue");
    }
    gate.received("x-order: first").await;
    drain(&proxy, "green").await;
    gate.open();
    proxy.copies_dropped("drained", 1).await;
    proxy.copies_answered(1).await;
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn a_burst_of_copies_opens_a_few_connections_at_a_time() {
    // What answers no handshake keeps everybody connecting.
    let (blue, green) =
        (named("blue").await, Upstream::scripted(|mut wire: Wire, _| async move { drop(wire.rest().await) }).await);
    let url = green.url().replace("http:", "https:");
    let settings = format!(
        "[services.shop.mirror]\nbackend = \"green\"\ntimeout = \"20s\"\n[services.shop.timeouts]\nconnect = \"20s\"\n\
         {}[services.shop.backends.green]\nweight = 0\nendpoints = [{url:?}]\ntls = {{ ca = \"ca.pem\" }}\n",
        backend("blue", 1.0, &blue)
    );
    let authority = crate::support::Authority::new();
    let proxy = crate::support::Setup::new().file("ca.pem", &authority.pem).settings(&settings).start().await;
    let mut client = proxy.connect().await;
    for _ in 0..60 {
        assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
    }
    proxy.metric_becomes("tidegate_mirror_in_flight", "", 60).await;
    eventually("connections are opened", || green.connections() >= 16).await;
    for _ in 0..20 {
        assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
    }
    assert_eq!(green.connections(), 16);
}

#[tokio::test]
async fn how_long_a_copy_took_is_the_shadows_time_and_not_the_second_copys() {
    let blue = Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            if head.value("tidegate-mirror").is_some() {
                tokio::time::sleep(Duration::from_millis(600)).await;
            }
            if wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nblue").await.is_err() {
                return;
            }
        }
    })
    .await;
    let green = named("green").await;
    let proxy = mirrored(&blue, &green, "compare = { noise = true }", "").start().await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    proxy.metric_becomes("tidegate_mirror_pairs_total", "", 1).await;
    let view = proxy.view("/v1/services/shop").await;
    let took = view["mirrors"][0]["p99_ms"].as_f64().expect("it was answered");
    assert!(took < 500.0, "{took} ms");
    proxy.metric_becomes("tidegate_mirror_noise_total", "", 1).await;
}
