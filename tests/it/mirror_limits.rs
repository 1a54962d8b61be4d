//! Mirrors have limits of their own and keep to their backend's: what is beyond is dropped, and what clients wait for
//! comes first.

use std::time::Duration;

use crate::support::{Gate, OK, Proxy, Signal, Upstream, Wire, get, mirrored, named, within};

/// A shadow whose answers wait for the gate.
async fn ask_for_held(proxy: &Proxy, count: usize) {
    let mut client = proxy.connect().await;
    for _ in 0..count {
        assert_eq!(client.exchange(get("/held", "")).await.text(), "blue");
    }
}

#[tokio::test]
async fn copies_beyond_the_limit_wait_or_are_dropped() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let proxy = mirrored(&blue, &gate.upstream, "max_requests = 2\nqueue = 3\ntimeout = \"20s\"", "").start().await;
    ask_for_held(&proxy, 10).await;
    proxy.copies_dropped("full", 5).await;
    proxy.metric_becomes("tidegate_mirror_in_flight", "", 2).await;
    gate.open();
    proxy.copies_answered(5).await;
    assert_eq!(proxy.all_copies_dropped().await, 5);
    assert!(gate.upstream.connections() <= 2);
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn copies_that_wait_in_vain_are_dropped() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let proxy = mirrored(&blue, &gate.upstream, "max_requests = 1\nqueue = 1\ntimeout = \"300ms\"", "").start().await;
    ask_for_held(&proxy, 2).await;
    // The first one's place may be free in time for the second, whose own time begins anew then.
    let over = async {
        while proxy.all_copies_dropped().await < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("both copies to be dropped", over).await;
    assert!(proxy.metric("tidegate_mirror_dropped_total", "reason=\"timeout\"").await >= 1);
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn bodies_of_all_copies_have_one_bound() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let keys = "methods = [\"POST\"]\nmax_requests = 1000\nqueue = 1000\ntimeout = \"20s\"";
    let setup = mirrored(&blue, &gate.upstream, keys, "[limits]\nmirror_memory = \"100KiB\"\n");
    let proxy = setup.start().await;
    let body = "x".repeat(30 << 10);
    let post =
        |rest: &str| format!("POST /held HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {}\r\n\r\n{rest}", body.len());
    // Held until the rest of the body comes.
    let mut clients = Vec::new();
    for _ in 0..10 {
        let mut client = proxy.connect().await;
        client.send(post(&body[1..])).await;
        clients.push(client);
    }
    proxy.copies_dropped("memory", 7).await;
    assert!(proxy.metric("tidegate_mirror_memory_bytes", "").await <= 100 << 10);
    for client in &mut clients {
        assert_eq!(client.exchange("x").await.text(), "blue");
    }
    gate.open();
    proxy.copies_answered(3).await;
    proxy.copies_are_over().await;
    assert!(blue.requests().iter().all(|request| request.body.len() == body.len()));
}

#[tokio::test]
async fn memory_stays_flat_while_a_shadow_hangs() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let keys = "methods = [\"POST\"]\nlarge_body = \"stream\"\nmax_requests = 200\ntimeout = \"20s\"\ncompare = true";
    let proxy = mirrored(&blue, &gate.upstream, keys, "[limits]\nmirror_memory = \"4MiB\"\n").start().await;
    let body = "x".repeat(60 << 10);
    let post = format!("POST /held HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut client = proxy.connect().await;
    // Every copy of these that can be under way is.
    for _ in 0..400 {
        client.exchange(&post).await;
    }
    let before = proxy.memory_kb();
    for _ in 0..2000 {
        assert_eq!(client.exchange(&post).await.text(), "blue");
    }
    let grown = proxy.memory_kb().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB");
    assert!(proxy.metric("tidegate_mirror_memory_bytes", "").await <= 4 << 20);
}

#[tokio::test]
async fn a_copy_never_takes_the_place_of_a_request() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let more = "limits = { requests = 1, queue = 5 }\n[[services.shop.rules]]\nbackend = \"green\"\nheaders = { x-to = \"green\" }\n";
    let proxy = mirrored(&blue, &gate.upstream, "timeout = \"20s\"", more).start().await;
    // A copy is under way, and a request finds its place.
    ask_for_held(&proxy, 1).await;
    gate.received("tidegate-mirror").await;
    let mut live = proxy.connect().await;
    live.send(get("/held", "x-to: green\r\nx-live: yes\r\n")).await;
    gate.received("x-live: yes").await;
    // While it is there, copies aren't made.
    ask_for_held(&proxy, 3).await;
    proxy.copies_dropped("backend_full", 3).await;
    gate.open();
    assert_eq!(live.answer().await.status(), 200);
    proxy.copies_answered(1).await;
}

#[tokio::test]
async fn a_drained_backend_gets_no_copies() {
    let (blue, green) = (named("blue").await, Upstream::answering(OK).await);
    let proxy = mirrored(&blue, &green, "", "").start().await;
    proxy.fetch("/").await;
    proxy.copies_answered(1).await;
    let drain = "/v1/services/shop/backends/green/drain";
    assert_eq!(proxy.call("PUT", drain, "", "").await.status(), 200);
    proxy.fetch("/").await;
    proxy.copies_dropped("drained", 1).await;
    assert_eq!(proxy.call("DELETE", drain, "", "").await.status(), 200);
    proxy.fetch("/").await;
    proxy.copies_answered(2).await;
}

#[tokio::test]
async fn nobody_waits_for_copies_when_the_process_ends() {
    let (blue, green) = (
        named("blue").await,
        Upstream::scripted(|mut wire: Wire, _| async move {
            wire.rest().await;
        })
        .await,
    );
    let mut proxy = mirrored(&blue, &green, "timeout = \"20s\"", "").start().await;
    for _ in 0..5 {
        proxy.fetch("/").await;
    }
    proxy.metric_becomes("tidegate_mirror_in_flight", "", 5).await;
    let start = tokio::time::Instant::now();
    proxy.signal(Signal::TERM);
    assert!(proxy.wait().await.success());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
