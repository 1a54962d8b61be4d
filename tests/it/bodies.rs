//! Bodies under way: large ones, slow ones, and ones that break off. Neither side may take a broken message for a
//! whole one, nor a body for a request.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::support::{Proxy, Upstream, Wire, eventually, within};

const GET: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";
const MEGABYTE: usize = 1 << 20;
const LARGE: usize = 100 * MEGABYTE;
/// What a body under way may cost, whatever its size.
const MEMORY_KB: usize = 12 * 1024;
/// More than the sockets of both connections hold.
const BUFFERED_MAX: usize = 40 * MEGABYTE;
/// A stopped sender has sent nothing for this long.
const STILL: Duration = Duration::from_millis(300);

/// Sends `count` bytes in pieces, and counts those that were taken.
async fn pour(wire: &mut Wire, count: usize, poured: &AtomicUsize) {
    let piece = vec![b'x'; 64 * 1024];
    let mut left = count;
    while left > 0 {
        let size = left.min(piece.len());
        // Whoever stops us decides for how long.
        tokio::io::AsyncWriteExt::write_all(wire, &piece[..size]).await.expect("the other end is there");
        poured.fetch_add(size, Ordering::SeqCst);
        left -= size;
    }
}

/// Reads `count` bytes and forgets them.
async fn drink(wire: &mut Wire, count: usize) {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = count;
    while left > 0 {
        let size = left.min(buffer.len());
        let read = within("more bytes", wire.read(&mut buffer[..size])).await.expect("the other end is there");
        assert!(read > 0, "ended {left} bytes short");
        left -= read;
    }
}

/// Waits until the counter has stood still for a while, and returns it.
async fn stopped(counter: &AtomicUsize) -> usize {
    let (mut last, mut since) = (0, tokio::time::Instant::now());
    eventually("the sender is stopped", || {
        let now = counter.load(Ordering::SeqCst);
        if now != last || now == 0 {
            (last, since) = (now, tokio::time::Instant::now());
        }
        since.elapsed() >= STILL
    })
    .await;
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_answer_waits_for_a_slow_reader_outside_of_our_memory() {
    let poured = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&poured);
    let upstream = Upstream::scripted(move |mut wire: Wire, _| {
        let counter = Arc::clone(&counter);
        async move {
            wire.head().await;
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
            pour(&mut wire, LARGE, &counter).await;
            wire.rest().await;
        }
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let before = proxy.memory_kb();
    let mut client = proxy.connect().await;
    client.send(GET).await;
    assert_eq!(client.head().await.content_length(), Some(LARGE));
    assert!(stopped(&poured).await < BUFFERED_MAX);
    assert!(proxy.memory_kb() < before + MEMORY_KB);
    for _ in 0..10 {
        drink(&mut client, LARGE / 10).await;
        assert!(proxy.memory_kb() < before + MEMORY_KB);
    }
    assert_eq!(poured.load(Ordering::SeqCst), LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_waits_for_a_slow_endpoint_outside_of_our_memory() {
    let go = Arc::new(tokio::sync::Notify::new());
    let gone = Arc::clone(&go);
    let upstream = Upstream::scripted(move |mut wire: Wire, _| {
        let gone = Arc::clone(&gone);
        async move {
            assert_eq!(wire.head().await.content_length(), Some(LARGE));
            gone.notified().await;
            drink(&mut wire, LARGE).await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            wire.rest().await;
        }
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let before = proxy.memory_kb();
    let mut client = proxy.connect().await;
    let poured = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&poured);
    let sending = tokio::spawn(async move {
        client.send(format!("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {LARGE}\r\n\r\n")).await;
        pour(&mut client, LARGE, &counter).await;
        client.answer().await
    });
    assert!(stopped(&poured).await < BUFFERED_MAX);
    assert!(proxy.memory_kb() < before + MEMORY_KB);
    go.notify_one();
    let answer = within("the answer", sending).await.expect("sending works");
    assert_eq!(answer.text(), "ok");
    assert!(proxy.memory_kb() < before + MEMORY_KB);
}

/// Answers each request with these bytes and closes.
async fn breaking(response: &'static str) -> Upstream {
    Upstream::scripted(move |mut wire: Wire, _| async move {
        wire.head().await;
        wire.send(response).await;
    })
    .await
}

#[tokio::test]
async fn an_answer_cut_short_of_its_length_is_seen_to_be_cut() {
    let upstream = breaking("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    assert_eq!(client.head().await.content_length(), Some(100));
    assert_eq!(client.rest().await, b"only this");
}

#[tokio::test]
async fn a_chunked_answer_without_its_end_is_seen_to_be_cut() {
    let upstream = breaking("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send(GET).await;
    assert!(client.head().await.is_chunked());
    assert_eq!(client.rest().await, b"9\r\nonly this\r\n", "and no last chunk");
}

#[tokio::test]
async fn an_answer_cut_in_its_head_is_a_502() {
    for response in ["", "HTTP/1.1 200 OK\r\ncontent-le", "nonsense\r\n\r\n"] {
        let upstream = breaking(response).await;
        let proxy = Proxy::before(&upstream).await;
        assert_eq!(proxy.fetch("/").await.status(), 502, "{response:?}");
        assert_eq!(upstream.connections(), 1, "a fresh connection that breaks is no reason to try again");
    }
}

#[tokio::test]
async fn a_request_cut_short_never_looks_whole_to_the_endpoint() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    for (framing, part) in [("content-length: 100", "only this"), ("transfer-encoding: chunked", "9\r\nonly this\r\n")]
    {
        let connection = upstream.connections();
        let mut client = proxy.connect().await;
        client.send(format!("POST / HTTP/1.1\r\nhost: shop.test\r\n{framing}\r\n\r\n{part}")).await;
        let arrived = || String::from_utf8_lossy(&upstream.bytes(connection)).into_owned();
        eventually("the part arrives", || arrived().contains("only this")).await;
        drop(client);
        eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
        assert!(arrived().trim_end_matches("\r\n").ends_with("only this"), "{}", arrived());
    }
}

/// Answers each head at once, then takes whatever else comes, without reading it as HTTP.
async fn hasty(response: &'static str) -> Upstream {
    Upstream::scripted(move |mut wire: Wire, _| async move {
        wire.head().await;
        wire.send(response).await;
        wire.rest().await;
    })
    .await
}

#[tokio::test]
async fn a_request_that_is_accepted_before_its_end_still_reaches_its_endpoint_whole() {
    let (told, heard) = tokio::sync::oneshot::channel();
    let told = Arc::new(Mutex::new(Some(told)));
    let upstream = Upstream::scripted(move |mut wire: Wire, _| {
        let told = Arc::clone(&told);
        async move {
            let head = wire.head().await;
            wire.send("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").await;
            let body = wire.whole_request_body(&head).await;
            let told = told.lock().unwrap().take();
            drop(told.map(|told| told.send(body)));
        }
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nsome\r\n").await;
    assert_eq!(client.answer().await.status(), 202);
    client.send("7\r\n of it,\r\n0\r\n\r\n").await;
    assert_eq!(within("the end of the request", heard).await.unwrap().as_deref(), Some(&b"some of it,"[..]));
}

#[tokio::test]
async fn a_connection_answered_too_early_is_not_used_again() {
    let upstream = hasty("HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    let head = "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 1000\r\n\r\n";
    assert_eq!(client.exchange(format!("{head}some of it")).await.status(), 413);
    assert_eq!(proxy.fetch("/").await.status(), 413);
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_body_that_looks_like_a_request_is_never_taken_for_one() {
    const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    let upstream = hasty("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let length = SMUGGLED.len();
    let head = format!("POST /real HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {length}\r\n\r\n");
    let chunked = format!("POST /real HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n");
    // At once; after the answer, in one piece or two, soon or once the connection would have been parked.
    for (first, cut, pause) in [
        (format!("{head}{SMUGGLED}"), length, 0),
        (format!("{chunked}{SMUGGLED}\r\n0\r\n\r\n"), length, 0),
        (head.clone(), 0, 0),
        (head.clone(), 0, 800),
        (format!("{head}{}", &SMUGGLED[..10]), 10, 0),
        (format!("{head}{}", &SMUGGLED[..10]), 10, 800),
        (chunked.clone(), 0, 800),
    ] {
        let mut client = proxy.connect().await;
        assert_eq!(client.exchange(&first).await.status(), 200);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        // The proxy may have closed the connection, which is the other way to be safe.
        let _ = client.try_send(&SMUGGLED[cut..]).await;
        let _ = client.try_send("GET /after HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n").await;
        client.until_silent(STILL).await;
    }
    let lines: Vec<String> = (0..upstream.connections())
        .map(|index| String::from_utf8_lossy(&upstream.bytes(index)).lines().next().unwrap_or_default().to_owned())
        .collect();
    assert!(lines.iter().any(|line| line == "POST /real HTTP/1.1"));
    assert!(lines.iter().all(|line| !line.contains("smuggled")), "{lines:?}");
}

#[tokio::test]
async fn a_refused_body_that_looks_like_a_request_is_never_taken_for_one() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    let length = smuggled.len();
    // No Host, so tidegate answers by itself.
    for pause in [0, 800] {
        let mut client = proxy.connect().await;
        let answer = client.exchange(format!("POST / HTTP/1.1\r\ncontent-length: {length}\r\n\r\n")).await;
        assert_eq!(answer.status(), 400);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let _ = client.try_send(smuggled).await;
        client.until_silent(STILL).await;
    }
    assert_eq!(upstream.requests().len(), 0);
}
