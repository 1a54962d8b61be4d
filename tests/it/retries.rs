//! Requests that an endpoint fails and another one of its backend answers: which, how often, and with what body.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::{OK, Proxy, Setup, Upstream, Wire, get, within};

const FAILED: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\ndown";

/// Two endpoints of one backend, of which one does `first` to the first request that either gets, after its head and
/// `read` bytes of its body; then both answer with what they got of a body. Returns how many requests came, too.
async fn failing_once(first: &'static str, read: usize) -> (Vec<Upstream>, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let endpoint = || {
        let requests = Arc::clone(&requests);
        Upstream::scripted(move |mut wire: Wire, _| {
            let requests = Arc::clone(&requests);
            async move {
                while let Some(head) = wire.next_head().await {
                    if requests.fetch_add(1, Ordering::SeqCst) == 0 {
                        wire.bytes(read).await;
                        wire.send(first).await;
                        return;
                    }
                    let Some(body) = wire.whole_request_body(&head).await else { return };
                    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len())).await;
                    wire.send(body).await;
                }
            }
        })
    };
    let endpoints = vec![endpoint().await, endpoint().await];
    (endpoints, requests)
}

async fn before(endpoints: &[Upstream], service: &str) -> Proxy {
    let urls: Vec<_> = endpoints.iter().map(Upstream::url).collect();
    Setup::new().settings(&format!("[services.shop]\n{service}")).backend(&urls, "").start().await
}

#[tokio::test]
async fn what_an_endpoint_fails_another_one_answers() {
    for first in [
        FAILED,
        "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 504 Gateway Timeout\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n",
        "",
        "this is no HTTP\r\n\r\n",
    ] {
        let (endpoints, requests) = failing_once(first, 0).await;
        let proxy = before(&endpoints, "").await;
        assert_eq!(proxy.fetch("/").await.status(), 200, "{first}");
        assert_eq!(requests.load(Ordering::SeqCst), 2);
        proxy.metric_becomes("tidegate_retries_total", "blue", 1).await;
        // One request, and one that went well: what the endpoint did wrong is told by the count above.
        proxy.metric_becomes("tidegate_requests_total", "backend=\"blue\"", 1).await;
        proxy.metric_becomes("tidegate_requests_total", "code=\"2xx\"", 1).await;
        assert_eq!(proxy.metric("tidegate_requests_in_flight", "blue").await, 0);
    }
}

#[tokio::test]
async fn what_is_not_a_failure_or_not_worth_it_is_passed_on() {
    for (first, service) in [
        ("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno", ""),
        ("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno", ""),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno", "retry = \"off\""),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno", "retry = { on = [\"502\"] }"),
        ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\nno", "retry = { attempts = 1 }"),
    ] {
        let (endpoints, requests) = failing_once(first, 0).await;
        let proxy = before(&endpoints, service).await;
        let answer = proxy.fetch("/").await;
        assert!(first.contains(&answer.status().to_string()), "{service}: {}", answer.status());
        assert_eq!((answer.text(), requests.load(Ordering::SeqCst)), ("no", 1), "{service}");
    }
    let (endpoints, _) = failing_once("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n", 0).await;
    let proxy = before(&endpoints, "retry = { on = [\"500\"] }").await;
    assert_eq!(proxy.fetch("/").await.status(), 200);
}

#[tokio::test]
async fn only_what_may_be_done_twice_is_sent_twice() {
    for (method, service, status) in [
        ("GET", "", 200),
        ("PUT", "", 200),
        ("DELETE", "", 200),
        ("POST", "", 503),
        ("PATCH", "", 503),
        ("POST", "idempotent = true", 200),
    ] {
        let (endpoints, requests) = failing_once(FAILED, 0).await;
        let proxy = before(&endpoints, service).await;
        let answer = proxy.exchange(&format!("{method} / HTTP/1.1\r\nhost: shop.test\r\n\r\n")).await;
        assert_eq!(answer.status(), status, "{method} {service}");
        assert_eq!(requests.load(Ordering::SeqCst), if status == 200 { 2 } else { 1 }, "{method} {service}");
    }
}

/// `length` bytes, none like the next.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

#[tokio::test]
async fn a_body_that_was_half_read_is_sent_again_from_its_start() {
    for (framing, chunked) in [("content-length: 20000", false), ("transfer-encoding: chunked", true)] {
        let (endpoints, _) = failing_once("", 3000).await;
        let proxy = before(&endpoints, "").await;
        let mut client = proxy.connect().await;
        let body = pattern(20_000);
        client.send(format!("PUT / HTTP/1.1\r\nhost: shop.test\r\n{framing}\r\n\r\n")).await;
        let (start, rest) = body.split_at(10_000);
        let framed = |bytes: &[u8]| {
            if chunked {
                [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
            } else {
                bytes.to_vec()
            }
        };
        client.send(framed(start)).await;
        // The first endpoint has broken off by now, and the rest goes to the second.
        proxy.metric_becomes("tidegate_retries_total", "blue", 1).await;
        client.send(framed(rest)).await;
        if chunked {
            client.send("0\r\n\r\n").await;
        }
        let answer = client.answer().await;
        assert_eq!((answer.status(), answer.body == body), (200, true), "{framing}");
        // The connection is where it should be, and what the client sent was counted once.
        assert_eq!(client.exchange(get("/", "")).await.status(), 200);
        proxy.metric_becomes("tidegate_request_bytes_total", "blue", 20_000).await;
    }
}

#[tokio::test]
async fn a_body_that_outgrows_the_buffer_is_not_sent_again() {
    for (length, service, status) in [
        (1000, "replay_buffer = \"1000B\"", 200),
        (1001, "replay_buffer = \"1000B\"", 503),
        (1, "replay_buffer = \"0B\"", 503),
        (70_000, "", 503),
        (60_000, "", 200),
    ] {
        for chunked in [false, true] {
            let (endpoints, requests) = failing_once(FAILED, length).await;
            let proxy = before(&endpoints, service).await;
            let framing = if chunked {
                format!("transfer-encoding: chunked\r\n\r\n{length:x}")
            } else {
                format!("content-length: {length}\r\n")
            };
            let mut request = format!("PUT / HTTP/1.1\r\nhost: shop.test\r\n{framing}\r\n").into_bytes();
            request.extend(pattern(length));
            if chunked {
                request.extend(b"\r\n0\r\n\r\n");
            }
            let answer = proxy.connect().await.exchange(&request).await;
            assert_eq!(answer.status(), status, "{length} {service} {chunked}");
            assert_eq!(answer.body == pattern(length), status == 200);
            assert_eq!(requests.load(Ordering::SeqCst), if status == 200 { 2 } else { 1 });
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_left_after_the_time_of_one_try() {
    let hanging = || async { Upstream::scripted(|mut wire: Wire, _| async move { drop(wire.rest().await) }).await };
    let endpoints = [hanging().await, Upstream::answering(OK).await];
    let proxy = before(&endpoints, "retry = { per_try = \"400ms\" }").await;
    for _ in 0..10 {
        let begun = Instant::now();
        assert_eq!(proxy.fetch("/").await.status(), 200);
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    // Where all hang, the whole has its limit, and the client learns which.
    let all = [hanging().await, hanging().await, hanging().await];
    let service = "retry = { per_try = \"200ms\", attempts = 10 }\ntimeouts = { request = \"300ms\" }\nerrors = { header = true }";
    let answer = before(&all, service).await.fetch("/").await;
    assert_eq!((answer.status(), answer.head.value("tidegate-error")), (504, Some("request_timeout")));
    let service = "retry = { per_try = \"50ms\" }\nerrors = { header = true }";
    let proxy = before(&all, service).await;
    let answer = proxy.fetch("/").await;
    assert_eq!((answer.status(), answer.head.value("tidegate-error")), (504, Some("response_timeout")));
    proxy.metric_becomes("tidegate_retries_total", "blue", 2).await;
}

#[tokio::test]
async fn an_answer_that_has_begun_is_never_begun_again() {
    let (endpoints, requests) = failing_once("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", 0).await;
    let proxy = before(&endpoints, "").await;
    let mut client = proxy.connect().await;
    client.send(get("/", "")).await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.rest().await, b"half");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn when_all_fail_retries_are_a_share_of_the_requests_and_the_rest_is_passed_on() {
    let all = [Upstream::answering(FAILED).await, Upstream::answering(FAILED).await];
    let begun = Instant::now();
    let proxy = before(&all, "retry = { budget = 0.0, floor = 1 }").await;
    for _ in 0..40 {
        let answer = proxy.fetch("/").await;
        assert_eq!((answer.status(), answer.text()), (503, "down"));
    }
    let retries = proxy.metric("tidegate_retries_total", "blue").await;
    // Ten seconds' worth to begin with, and one more each second.
    assert!((10..=11 + begun.elapsed().as_secs()).contains(&retries), "{retries}");
    let exhausted = proxy.metric("tidegate_retry_budget_exhausted_total", "blue").await;
    assert_eq!(exhausted + retries, 40);
    assert_eq!(all.iter().map(|endpoint| endpoint.requests().len() as u64).sum::<u64>(), 40 + retries);
}

#[tokio::test]
async fn the_budget_outlives_a_reload() {
    let all = [Upstream::answering(FAILED).await, Upstream::answering(FAILED).await];
    let mut proxy = before(&all, "retry = { budget = 0.0, floor = 1 }").await;
    for _ in 0..40 {
        proxy.fetch("/").await;
    }
    let urls = [all[0].url(), all[1].url()];
    proxy.rewrite(&format!(
        "[services.shop]\nbody_max = \"1MiB\"\nretry = {{ budget = 0.0, floor = 1 }}\n\
         [services.shop.backends.blue]\nweight = 1\nendpoints = {urls:?}"
    ));
    proxy.reload_well().await;
    let (before, begun) = (proxy.metric("tidegate_retries_total", "blue").await, Instant::now());
    for _ in 0..10 {
        proxy.fetch("/").await;
    }
    let more = proxy.metric("tidegate_retries_total", "blue").await - before;
    assert!(more <= 2 + begun.elapsed().as_secs(), "{more}");
}

#[tokio::test]
async fn a_client_that_breaks_off_its_body_is_not_the_endpoints_fault() {
    let reading = || async { Upstream::scripted(|mut wire: Wire, _| async move { drop(wire.rest().await) }).await };
    let endpoints = [reading().await, reading().await];
    let proxy = before(&endpoints, "").await;
    let mut client = proxy.connect().await;
    client.send("PUT / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 10\r\n\r\nabc").await;
    // Told to go on when the endpoint's connection is there.
    proxy.metric_becomes("tidegate_upstream_connects_total", "blue", 1).await;
    client.finish().await;
    client.rest().await;
    proxy.metric_becomes("tidegate_requests_in_flight", "blue", 0).await;
    assert_eq!(proxy.metric("tidegate_retries_total", "blue").await, 0);
    assert_eq!(endpoints.iter().map(Upstream::connections).sum::<usize>(), 1);
}

#[tokio::test]
async fn the_connection_of_an_answer_that_is_not_passed_on_is_used_again() {
    let failing = Upstream::answering(FAILED).await;
    let good = Upstream::answering(OK).await;
    let endpoints = [failing, good];
    let proxy = before(&endpoints, "retry = { floor = 1000 }").await;
    // Which one is asked first is drawn.
    let asked_twice = async {
        while endpoints[0].requests().len() < 2 {
            assert_eq!(proxy.fetch("/").await.text(), "ok");
        }
    };
    within("the failing one's turn", asked_twice).await;
    assert_eq!((endpoints[0].connections(), endpoints[1].connections()), (1, 1));
}

#[tokio::test]
async fn a_request_to_switch_protocols_is_sent_again_too() {
    let switched = Arc::new(Notify::new());
    let requests = Arc::new(AtomicUsize::new(0));
    let endpoint = || {
        let (requests, switched) = (Arc::clone(&requests), Arc::clone(&switched));
        Upstream::scripted(move |mut wire: Wire, _| {
            let (requests, switched) = (Arc::clone(&requests), Arc::clone(&switched));
            async move {
                wire.head().await;
                if requests.fetch_add(1, Ordering::SeqCst) == 0 {
                    return wire.send(FAILED).await;
                }
                wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").await;
                let said = wire.bytes(5).await;
                wire.send(said).await;
                switched.notified().await;
            }
        })
    };
    let endpoints = [endpoint().await, endpoint().await];
    let proxy = before(&endpoints, "").await;
    let mut client = proxy.connect().await;
    client.send(get("/", "connection: upgrade\r\nupgrade: echo\r\n")).await;
    assert_eq!(client.head().await.status(), 101);
    client.send("hello").await;
    assert_eq!(client.bytes(5).await, b"hello");
    switched.notify_waiters();
}
