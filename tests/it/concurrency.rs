//! Limits of a backend's and an endpoint's requests at once, as the endpoints see them, and the line before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::http2::{Http2, get as get_http2, http2_endpoint};
use crate::support::{Gate, OK, Proxy, Setup, Upstream, get};

/// How many requests are at an endpoint, and the most that ever were.
#[derive(Clone, Default)]
struct Watched {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    all: Arc<AtomicUsize>,
}

impl Watched {
    fn begin(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.all.fetch_add(1, Ordering::SeqCst);
    }

    fn end(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// An endpoint that takes a moment for each answer.
    async fn endpoint(&self) -> Upstream {
        let watched = self.clone();
        Upstream::scripted(move |mut wire, _| {
            let watched = watched.clone();
            async move {
                while let Some(head) = wire.next_head().await {
                    watched.begin();
                    wire.request_body(&head).await;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    watched.end();
                    if wire.try_send(OK).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }
}

fn limited(upstreams: &[&Upstream], limits: &str) -> Setup {
    let urls: Vec<_> = upstreams.iter().map(|upstream| upstream.url()).collect();
    Setup::new().settings("[errors]\nheader = true\n").backend(&urls, &format!("limits = {{ {limits} }}\n"))
}

/// The statuses of so many requests at once, each on a connection of its own.
async fn ask_at_once(proxy: &Proxy, count: usize) -> Vec<u16> {
    let address = proxy.http();
    let mut asking = JoinSet::new();
    for _ in 0..count {
        asking.spawn(async move { crate::support::Wire::connect(address).await.exchange(get("/", "")).await.status() });
    }
    asking.join_all().await
}

#[tokio::test]
async fn an_endpoint_never_sees_more_than_the_limit_whatever_the_number_of_workers() {
    for workers in [1, 2] {
        let watched = Watched::default();
        let upstream = watched.endpoint().await;
        let proxy = limited(&[&upstream], "requests = 10, queue_timeout = \"20s\"").workers(workers).start().await;
        let statuses = ask_at_once(&proxy, 100).await;
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        assert_eq!(watched.all.load(Ordering::SeqCst), 100);
        assert!((5..=10).contains(&watched.most()), "{}", watched.most());
        assert_eq!(proxy.metric("tidegate_requests_queued", "").await, 0);
    }
}

#[tokio::test]
async fn each_endpoint_has_a_limit_of_its_own() {
    let (one, other) = (Watched::default(), Watched::default());
    let upstreams = [one.endpoint().await, other.endpoint().await];
    let limits = "requests_per_endpoint = 3, queue_timeout = \"20s\"";
    let proxy = limited(&[&upstreams[0], &upstreams[1]], limits).workers(2).start().await;
    let statuses = ask_at_once(&proxy, 100).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(one.most() <= 3 && other.most() <= 3, "{} {}", one.most(), other.most());
    assert_eq!(one.all.load(Ordering::SeqCst) + other.all.load(Ordering::SeqCst), 100);
    assert!(one.all.load(Ordering::SeqCst) > 20 && other.all.load(Ordering::SeqCst) > 20, "both are used");
}

#[tokio::test]
async fn ten_thousand_streams_of_http2_clients_are_as_many_as_the_limit_at_the_endpoint() {
    let watched = Watched::default();
    let known = watched.clone();
    let upstream = http2_endpoint(None, move |stream| {
        let watched = known.clone();
        async move {
            watched.begin();
            tokio::time::sleep(Duration::from_millis(1)).await;
            watched.end();
            stream.answer("ok");
        }
    })
    .await;
    let limits = "limits = { requests = 50, queue = 10000, queue_timeout = \"10m\" }";
    let setup = Setup::new().workers(2).settings("[limits]\nstreams = 1000\n");
    let proxy = setup.backend(&[upstream.url()], &format!("protocol = \"h2\"\n{limits}")).start().await;
    let mut asking = JoinSet::new();
    for _ in 0..10 {
        let client = Arc::new(Http2::over(proxy.connect().await).await);
        for _ in 0..1000 {
            let client = Arc::clone(&client);
            // As long as it takes: ten thousand are many for a debug build.
            asking.spawn(
                async move { client.ask(get_http2("/")).await.await.map_or(0, |answer| answer.status().as_u16()) },
            );
        }
    }
    let statuses = asking.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 10_000);
    assert!((25..=50).contains(&watched.most()), "{}", watched.most());
}

#[tokio::test]
async fn a_full_line_refuses_at_once_and_a_long_wait_in_the_end() {
    let gate = Gate::shut().await;
    let proxy = limited(&[&gate.upstream], "requests = 1, queue = 1, queue_timeout = \"500ms\"").start().await;
    let mut inside = proxy.connect().await;
    inside.send(get("/held", "")).await;
    gate.received("/held").await;
    let mut in_line = proxy.connect().await;
    in_line.send(get("/", "")).await;
    proxy.metric_becomes("tidegate_requests_queued", "", 1).await;
    let answer = proxy.fetch("/").await;
    assert_eq!((answer.status(), answer.head.value("tidegate-error")), (503, Some("queue_full")));
    assert_eq!(answer.head.value("retry-after"), Some("1"));
    let answer = in_line.answer().await;
    assert_eq!((answer.status(), answer.head.value("tidegate-error")), (503, Some("queue_timeout")));
    assert_eq!(answer.head.value("retry-after"), Some("1"));
    gate.open();
    assert_eq!(inside.answer().await.status(), 200);
    assert_eq!(proxy.fetch("/").await.status(), 200);
    proxy.metric_becomes("tidegate_queue_full_total", "blue", 1).await;
    proxy.metric_becomes("tidegate_queue_timeouts_total", "blue", 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_back_wherever_it_was() {
    let gate = Gate::shut().await;
    let proxy = limited(&[&gate.upstream], "requests = 1, queue = 1, queue_timeout = \"20s\"").start().await;
    for _ in 0..3 {
        let mut inside = proxy.connect().await;
        inside.send(get("/held", "")).await;
        proxy.metric_becomes("tidegate_requests_in_flight", "", 1).await;
        let mut in_line = proxy.connect().await;
        in_line.send(get("/", "")).await;
        proxy.metric_becomes("tidegate_requests_queued", "", 1).await;
        drop(in_line);
        proxy.metric_becomes("tidegate_requests_queued", "", 0).await;
        let mut next = proxy.connect().await;
        next.send(get("/", "")).await;
        proxy.metric_becomes("tidegate_requests_queued", "", 1).await;
        drop(inside);
        assert_eq!(next.answer().await.status(), 200);
    }
}

#[tokio::test]
async fn a_tunnel_counts_while_it_is_open() {
    let gate = Gate::shut().await;
    let proxy = limited(&[&gate.upstream], "requests = 1, queue = 0").start().await;
    let mut socket = proxy.connect().await;
    socket.open_socket().await;
    assert_eq!(proxy.fetch("/").await.status(), 503);
    drop(socket);
    proxy.metric_becomes("tidegate_tunnels_open", "", 0).await;
    assert_eq!(proxy.fetch("/").await.status(), 200);
}

#[tokio::test]
async fn what_fails_or_times_out_gives_its_place_back() {
    let upstream = Upstream::scripted(|mut wire, _| async move {
        while let Some(head) = wire.next_head().await {
            match head.line.split(' ').nth(1) {
                Some("/broken") => return,
                Some("/late") => {
                    wire.rest().await;
                    return;
                }
                _ => wire.send(OK).await,
            }
        }
    })
    .await;
    let timeouts = "[timeouts]\nresponse_header = \"200ms\"\n";
    let proxy = limited(&[&upstream], "requests = 1, queue = 0").settings(timeouts).start().await;
    for (target, status) in [("/broken", 502), ("/", 200), ("/late", 504), ("/", 200), ("/broken", 502), ("/", 200)] {
        assert_eq!(proxy.fetch(target).await.status(), status, "{target}");
    }
}

#[tokio::test]
async fn a_reload_changes_a_limit_and_forgets_nobody() {
    let gate = Gate::shut().await;
    let mut proxy = limited(&[&gate.upstream], "requests = 1, queue = 0").start().await;
    let mut inside = proxy.connect().await;
    inside.send(get("/held", "")).await;
    gate.received("/held").await;
    assert_eq!(proxy.fetch("/").await.status(), 503);
    let shop = |limits: &str| {
        format!("[services.shop.backends.blue]\nweight = 1\nendpoints = [{:?}]\n{limits}", gate.upstream.url())
    };
    proxy.rewrite(&shop("limits = { requests = 2, queue = 0 }"));
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.status(), 200);
    proxy.rewrite(&shop("limits = { requests = 1, queue = 0 }"));
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.status(), 503, "the first is still counted");
    gate.open();
    assert_eq!(inside.answer().await.status(), 200);
    assert_eq!(proxy.fetch("/").await.status(), 200);
}

#[tokio::test]
async fn a_burst_of_several_connections_in_line_is_served_in_order() {
    let permits = Arc::new(Semaphore::new(0));
    let known = Arc::clone(&permits);
    let upstream = Upstream::scripted(move |mut wire, _| {
        let permits = Arc::clone(&known);
        async move {
            while let Some(head) = wire.next_head().await {
                permits.acquire().await.expect("nobody closes it").forget();
                let target = head.line.split(' ').nth(1).unwrap_or_default().to_owned();
                wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len())).await;
            }
        }
    })
    .await;
    let proxy = limited(&[&upstream], "requests = 1, queue_timeout = \"20s\"").workers(2).start().await;
    let mut clients = Vec::new();
    for number in 0..10 {
        let mut client = proxy.connect().await;
        client.send(get(&format!("/{number}"), "")).await;
        proxy.metric_becomes("tidegate_requests_in_flight", "", number + 1).await;
        clients.push(client);
    }
    proxy.metric_becomes("tidegate_requests_queued", "", 9).await;
    for (number, client) in clients.iter_mut().enumerate() {
        permits.add_permits(1);
        assert_eq!(client.answer().await.text(), format!("/{number}"));
    }
}
