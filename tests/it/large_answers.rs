//! Answers large enough for the kernel to carry them past us, over plain connections: every byte has to come, in its
//! place, and to the one who asked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::support::{Proxy, Setup, Upstream, Wire, eventually, within};

const LARGE: usize = 3_000_017;
/// What has been answered by a connection that is then held up.
const HALF: usize = 300_000;
/// More than a worker has pipes.
const CLIENTS: usize = 80;

/// Bytes that tell where they belong.
fn bytes(seed: usize, length: usize) -> Vec<u8> {
    // A prime's length, so that no two pieces of a round size are alike.
    let block: Vec<u8> = (0..65_521).map(|at| ((at + seed).wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut bytes = block.repeat(length / block.len() + 1);
    bytes.truncate(length);
    bytes
}

/// What is asked for says how long the answer is and how it begins: `/3000017`.
fn length_of(line: &str) -> usize {
    line.split(['/', ' ']).nth(2).and_then(|length| length.parse().ok()).expect("a path that is a length")
}

fn get(length: usize) -> String {
    format!("GET /{length} HTTP/1.1\r\nhost: shop.test\r\n\r\n")
}

/// Answers in pieces of these sizes, in turn.
async fn in_pieces(sizes: &'static [usize]) -> Upstream {
    Upstream::scripted(move |mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            let length = length_of(&head.line);
            let (body, mut at) = (bytes(length, length), 0);
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
            for size in sizes.iter().cycle() {
                let piece = &body[at..length.min(at + size)];
                if piece.is_empty() || wire.try_send(piece).await.is_err() {
                    break;
                }
                at += piece.len();
                tokio::task::yield_now().await;
            }
        }
    })
    .await
}

/// Answers with its beginning, and with the rest once it may.
async fn in_halves(rest: Arc<Semaphore>) -> Upstream {
    Upstream::scripted(move |mut wire: Wire, _| {
        let rest = Arc::clone(&rest);
        async move {
            while let Some(head) = wire.next_head().await {
                let length = length_of(&head.line);
                let body = bytes(length, length);
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")).await;
                let _ = wire.try_send(&body[..HALF]).await;
                rest.acquire().await.expect("nobody closes it").forget();
                let _ = wire.try_send(&body[HALF..]).await;
            }
        }
    })
    .await
}

/// Ends of pipes that the proxy has.
fn pipes(proxy: &Proxy) -> usize {
    let folder = format!("/proc/{}/fd", proxy.pid().as_raw_nonzero());
    let links =
        std::fs::read_dir(folder).expect("the proxy runs").filter_map(|entry| entry.ok()?.path().read_link().ok());
    links.filter(|link| link.to_string_lossy().starts_with("pipe:")).count()
}

#[tokio::test]
async fn every_byte_of_large_answers_comes_in_its_place() {
    let upstream = in_pieces(&[1, 1_447, 65_536, 7, 300_000, 4_096, 131_071]).await;
    let proxy = Proxy::before(&upstream).await;
    let before = pipes(&proxy);
    let mut client = proxy.connect().await;
    for length in [LARGE, 10, 65_535, 65_536, 70_000, 262_144, 262_145, 1_048_576, 0, LARGE + 1] {
        let answer = client.exchange(get(length)).await;
        assert!(answer.body == bytes(length, length), "{length} bytes");
    }
    assert_eq!(pipes(&proxy), before + 2, "one pipe, which is used again");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn answers_to_requests_sent_at_once_follow_each_other() {
    let upstream = in_pieces(&[200_000]).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    let lengths = [LARGE, 5, 1_000_000, 100_000, 70_000];
    client.send(lengths.map(get).concat()).await;
    for length in lengths {
        assert!(client.answer().await.body == bytes(length, length), "{length} bytes");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_it_whole_and_the_end_of_its_connection() {
    let upstream = in_pieces(&[100_000]).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send(format!("GET /{LARGE} HTTP/1.0\r\nhost: shop.test\r\n\r\n")).await;
    assert_eq!(client.head().await.content_length(), Some(LARGE));
    assert!(client.rest().await == bytes(LARGE, LARGE));
}

#[tokio::test]
async fn without_a_pipe_left_answers_are_copied() {
    let rest = Arc::new(Semaphore::new(0));
    let upstream = in_halves(Arc::clone(&rest)).await;
    let proxy = Setup::new().workers(1).backend(&[upstream.url()], "").start().await;
    let before = pipes(&proxy);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = proxy.connect().await;
        client.send(get(1_000_000)).await;
        client.head().await;
        assert!(client.bytes(HALF).await == bytes(1_000_000, 1_000_000)[..HALF]);
        clients.push(client);
    }
    assert_eq!(pipes(&proxy), before + 128);
    rest.add_permits(CLIENTS);
    for client in &mut clients {
        assert!(client.bytes(1_000_000 - HALF).await == bytes(1_000_000, 1_000_000)[HALF..]);
    }
    // All of them can be had again.
    rest.add_permits(CLIENTS);
    assert!(clients[CLIENTS - 1].exchange(get(1_000_000)).await.body == bytes(1_000_000, 1_000_000));
    assert_eq!(pipes(&proxy), before + 128);
}

#[tokio::test]
async fn clients_that_leave_take_no_pipe_with_them_and_leave_nothing_in_one() {
    let upstream = in_pieces(&[LARGE]).await;
    let proxy = Setup::new().workers(1).backend(&[upstream.url()], "").start().await;
    let before = pipes(&proxy);
    for _ in 0..CLIENTS * 2 {
        let mut client = proxy.connect().await;
        client.send(get(LARGE * 4)).await;
        client.bytes(100).await;
    }
    eventually("they are gone", || upstream.open() == 0).await;
    assert!(pipes(&proxy) <= before + 128);
    assert!(proxy.fetch(&format!("/{LARGE}")).await.body == bytes(LARGE, LARGE));
}

#[tokio::test]
async fn an_answer_cut_on_its_way_is_seen_to_be_cut() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n")).await;
        wire.send(&bytes(0, LARGE)[..LARGE - 1]).await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
    client.head().await;
    assert!(client.rest().await == bytes(0, LARGE)[..LARGE - 1]);
    proxy.metric_becomes("tidegate_request_errors_total", "reason=\"response_broken\"", 1).await;
}

#[tokio::test]
async fn a_slow_client_is_not_taken_for_a_silent_endpoint() {
    let upstream = in_pieces(&[10_000]).await;
    let settings = "[services.shop.timeouts]\nbody_idle = \"1s\"\n";
    let proxy = Setup::new().backend(&[upstream.url()], "").settings(settings).start().await;
    let mut client = proxy.connect().await;
    let length = 40 << 20;
    client.send(get(length)).await;
    client.head().await;
    let body = bytes(length, length);
    for part in body.chunks(length / 2) {
        // Longer than the endpoint may say nothing.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(within("more bytes", client.bytes(part.len())).await == part);
    }
}
