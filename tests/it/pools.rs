//! Connections to endpoints: kept, bounded, closed, and replaced without anybody noticing where that is safe.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::support::{Nginx, Proxy, Refusing, Setup, Upstream, Wire, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn an_endpoint_that_restarts_is_not_noticed_between_requests() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for round in 1..5 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.text(), "ok");
        assert_eq!(upstream.connections(), round);
        upstream.close_all().await;
    }
}

/// Answers the first request of its first connection, and closes it on the second one; other connections are fine.
/// Counts heads.
async fn closing_on_reuse(heads: Arc<AtomicUsize>) -> Upstream {
    Upstream::scripted(move |mut wire: Wire, connection| {
        let heads = Arc::clone(&heads);
        async move {
            while let Some(head) = wire.next_head().await {
                heads.fetch_add(1, Ordering::SeqCst);
                wire.request_body(&head).await;
                if connection == 0 && head.line.contains("/second") {
                    return;
                }
                wire.send(OK).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_request_that_meets_a_closing_connection_is_sent_again_where_that_is_safe() {
    for (method, status, sent) in [("GET", 200, 3), ("PUT", 200, 3), ("DELETE", 200, 3), ("POST", 502, 2)] {
        let heads = Arc::new(AtomicUsize::new(0));
        let upstream = closing_on_reuse(Arc::clone(&heads)).await;
        let proxy = Proxy::before(&upstream).await;
        assert_eq!(proxy.fetch("/first").await.status(), 200);
        let answer = proxy.exchange(&format!("{method} /second HTTP/1.1\r\nhost: shop.test\r\n\r\n")).await;
        assert_eq!((answer.status(), heads.load(Ordering::SeqCst)), (status, sent), "{method}");
        proxy.metric_becomes("tidegate_upstream_replays_total", "blue", u64::from(status == 200)).await;
    }
}

#[tokio::test]
async fn a_body_is_never_sent_twice() {
    for method in ["POST", "PUT"] {
        let heads = Arc::new(AtomicUsize::new(0));
        let upstream = closing_on_reuse(Arc::clone(&heads)).await;
        let proxy = Proxy::before(&upstream).await;
        assert_eq!(proxy.fetch("/first").await.status(), 200);
        let request = format!("{method} /second HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 4\r\n\r\nbody");
        assert_eq!(proxy.exchange(&request).await.status(), 502, "{method}");
        assert_eq!((heads.load(Ordering::SeqCst), upstream.connections()), (2, 1), "{method}");
    }
}

#[tokio::test]
async fn an_endpoints_connection_close_is_believed() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
    let proxy = Proxy::before(&upstream).await;
    for round in 1..4 {
        assert_eq!(proxy.fetch("/").await.text(), "ok");
        assert_eq!(upstream.connections(), round);
        eventually("it is closed", || upstream.open() == 0).await;
    }
}

#[tokio::test]
async fn what_an_endpoint_says_unasked_is_nobodys_answer() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.send(format!("{OK}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")).await;
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    for _ in 0..5 {
        assert_eq!(proxy.fetch("/").await.text(), "ok");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Setup::new().backend(&[upstream.url()], "pool = { idle_timeout = \"300ms\" }").start().await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
    assert_eq!(proxy.fetch("/").await.text(), "ok");
    assert_eq!((upstream.connections(), upstream.open()), (1, 1));
    eventually("the idle connection is closed", || upstream.open() == 0).await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_allowed() {
    for idle_max in [0, 2] {
        let gate = Arc::new(Semaphore::new(0));
        let closed = Arc::clone(&gate);
        let upstream = Upstream::scripted(move |mut wire: Wire, _| {
            let closed = Arc::clone(&closed);
            async move {
                while wire.next_head().await.is_some() {
                    closed.acquire().await.expect("the gate stays").forget();
                    wire.send(OK).await;
                }
            }
        })
        .await;
        let pool = format!("pool = {{ idle_max = {idle_max}, idle_timeout = \"60s\" }}");
        let proxy = Setup::new().backend(&[upstream.url()], &pool).start().await;
        let (answers, ()) = tokio::join!(join_all((0..6).map(|_| proxy.fetch("/"))), async {
            eventually("six are under way", || upstream.open() == 6).await;
            gate.add_permits(6);
        });
        assert!(answers.iter().all(|answer| answer.text() == "ok"));
        eventually("the others are closed", || upstream.open() == idle_max).await;
        gate.add_permits(1);
        assert_eq!(proxy.fetch("/").await.text(), "ok");
        assert_eq!(upstream.connections(), if idle_max == 0 { 7 } else { 6 });
    }
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request() {
    let (dead, alive) = (Refusing::new(), Upstream::answering(OK).await);
    let proxy = Setup::new().backend(&[dead.url(), alive.url()], "").start().await;
    for _ in 0..50 {
        let answer = proxy.exchange("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 4\r\n\r\nbody").await;
        assert_eq!(answer.text(), "ok");
    }
    assert!(alive.requests().iter().all(|received| received.body == b"body"));
}

#[tokio::test]
async fn two_dead_endpoints_of_three_cost_no_request() {
    let (one, other, alive) = (Refusing::new(), Refusing::new(), Upstream::answering(OK).await);
    let proxy = Setup::new().backend(&[one.url(), other.url(), alive.url()], "").start().await;
    for _ in 0..50 {
        assert_eq!(proxy.fetch("/").await.status(), 200);
    }
}

#[tokio::test]
async fn a_backend_without_a_living_endpoint_is_a_502() {
    let (one, other) = (Refusing::new(), Refusing::new());
    let proxy = Setup::new().backend(&[one.url(), other.url()], "").impatient().start().await;
    let answer = proxy.fetch("/").await;
    assert_eq!((answer.status(), answer.text()), (502, "502 Bad Gateway\n"));
    assert!(proxy.metric("tidegate_upstream_connect_errors_total", "blue").await >= 2);
}

#[tokio::test]
async fn a_backend_whose_name_nobody_knows_is_a_503() {
    let proxy = Setup::new().backend(&["http://nobody.invalid:80".to_owned()], "").start().await;
    assert_eq!(proxy.fetch("/").await.status(), 503);
}

#[tokio::test]
async fn an_endpoint_that_does_not_answer_in_time_is_a_504_and_is_let_go() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await;
    let setup = Setup::new().backend(&[upstream.url()], "");
    let proxy = setup.settings("[services.shop.timeouts]\nresponse_header = \"300ms\"").start().await;
    let start = Instant::now();
    assert_eq!(proxy.fetch("/").await.status(), 504);
    assert!(start.elapsed() >= Duration::from_millis(300));
    eventually("the connection is closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn a_slow_upload_is_not_a_slow_answer() {
    let upstream = Upstream::answering(OK).await;
    let setup = Setup::new().backend(&[upstream.url()], "");
    let proxy = setup.settings("[services.shop.timeouts]\nresponse_header = \"300ms\"").start().await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 6\r\n\r\n").await;
    for byte in b"slowly" {
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.send([*byte]).await;
    }
    assert_eq!(client.answer().await.text(), "ok");
}

#[tokio::test]
async fn the_clock_for_an_answer_starts_when_the_upload_has_ended() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        let head = wire.head().await;
        wire.request_body(&head).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
        wire.send(OK).await;
        wire.rest().await;
    })
    .await;
    let setup = Setup::new().backend(&[upstream.url()], "");
    let proxy = setup.settings("[services.shop.timeouts]\nresponse_header = \"800ms\"").start().await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 2\r\n\r\nx").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.send("y").await;
    // A second after the request began, and 400 ms after it was whole.
    assert_eq!(client.answer().await.text(), "ok");
}

#[tokio::test]
async fn an_endpoint_that_does_not_accept_in_time_is_a_504() {
    // A queue for one that is full: further connects get no answer.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let _queued = Wire::connect(address).await;
    let setup = Setup::new().backend(&[format!("http://{address}")], "");
    let proxy = setup.settings("[services.shop.timeouts]\nconnect = \"300ms\"").start().await;
    assert_eq!(proxy.fetch("/").await.status(), 504);
}

#[tokio::test]
async fn nginx_may_close_its_idle_connections_whenever_it_likes() {
    let server = "listen {address}; keepalive_requests 3; keepalive_timeout 1s; return 200 \"ok\\n\";";
    let nginx = Nginx::start(server, &[]).await;
    let proxy = Setup::new().backend(&[format!("http://{}", nginx.address)], "").start().await;
    let mut client = proxy.connect().await;
    for _ in 0..100 {
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.text(), "ok\n");
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(client.exchange("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.text(), "ok\n");
    nginx.access_log(101).await;
}

#[tokio::test]
async fn a_dead_endpoint_is_tried_now_and_then_and_not_by_every_request() {
    let upstream = Upstream::answering(OK).await;
    let dead = [Refusing::new(), Refusing::new()];
    let urls = [dead[0].url(), upstream.url(), dead[1].url()];
    let proxy = Setup::new().backend(&urls, "").start().await;
    for _ in 0..50 {
        assert_eq!(proxy.fetch("/").await.status(), 200);
    }
    // Held back for a second after each failure; fifty requests take far less.
    let tried = proxy.metric("tidegate_upstream_connect_errors_total", "blue").await;
    assert!((1..=10).contains(&tried), "{tried} failed connects");
}
