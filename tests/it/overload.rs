//! Memory that runs out: requests are refused before it has, then connections, and all is well again afterwards.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::support::{Proxy, Setup, Upstream, Wire, backend, eventually, get, named, within};

/// Settings that allow `percent` of the memory that the proxy uses now to be that much of its limit.
fn limit(proxy: &Proxy, percent: usize, upstream: &Upstream) -> String {
    let bytes = proxy.memory_kb() * 1024 * 100 / percent;
    format!("[limits]\nmemory = \"{bytes}B\"\n{}", backend("blue", 1.0, upstream))
}

async fn reload_to(proxy: &mut Proxy, settings: &str, level: u64) {
    proxy.rewrite(settings);
    proxy.reload_well().await;
    proxy.metric_becomes("tidegate_overload", "", level).await;
}

#[tokio::test]
async fn requests_are_refused_before_memory_runs_out() {
    let blue = named("blue").await;
    // Idle connections would go by themselves soon.
    let pool = "pool = { idle_timeout = \"10m\" }";
    let plenty = backend("blue", 1.0, &blue) + pool;
    let mut proxy = Setup::new().top("access_log = \"stdout\"").settings(&plenty).start().await;
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
    assert_eq!(blue.open(), 1);
    // What reloads and scrapes allocate is there already.
    for _ in 0..5 {
        proxy.reload_well().await;
    }
    let short = limit(&proxy, 88, &blue) + pool;
    reload_to(&mut proxy, &short, 1).await;
    // What idles goes first.
    eventually("the endpoint's idle connection is closed", || blue.open() == 0).await;

    let answer = client.exchange(get("/", "")).await;
    assert_eq!((answer.status(), answer.head.value("retry-after")), (503, Some("1")));
    assert_eq!(answer.head.value("connection"), None, "the connection is good for a later try");
    let mut other = proxy.connect().await;
    let post = "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 100\r\n\r\n";
    let answer = other.exchange(post).await;
    assert_eq!((answer.status(), answer.head.value("connection")), (503, Some("close")));
    let call = "POST /a.B/C HTTP/1.1\r\nhost: shop.test\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n\r\n";
    let answer = proxy.exchange(call).await;
    assert_eq!((answer.status(), answer.head.value("grpc-status")), (200, Some("14")));
    assert_eq!(answer.head.value("retry-after"), Some("1"));
    assert_eq!(blue.requests().len(), 1);
    proxy.metric_becomes("tidegate_request_errors_total", "reason=\"overloaded\"", 3).await;
    let (used, limit) =
        (proxy.metric("tidegate_memory_bytes", "").await, proxy.metric("tidegate_memory_limit_bytes", "").await);
    assert!(used > limit / 2 && used < limit, "{used} of {limit}");
    let logged = || std::fs::read_to_string(proxy.stdout()).unwrap().matches("\"error\":\"overloaded\"").count();
    eventually("they are logged", || logged() == 3).await;

    reload_to(&mut proxy, &plenty, 0).await;
    assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
}

#[tokio::test]
async fn connections_are_refused_when_memory_has_nearly_run_out() {
    let blue = named("blue").await;
    let plenty = backend("blue", 1.0, &blue);
    let mut proxy = Setup::new().settings(&plenty).start().await;
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
    let none = limit(&proxy, 120, &blue);
    reload_to(&mut proxy, &none, 2).await;
    for _ in 0..3 {
        assert_eq!(proxy.connect().await.rest().await, b"");
    }
    proxy.metric_becomes("tidegate_connections_refused_total", "limit=\"memory\"", 3).await;
    assert_eq!(client.exchange(get("/", "")).await.status(), 503, "who is in is told");
    reload_to(&mut proxy, &plenty, 0).await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
}

/// A connection that has asked, and the status of its answer; `None` when it was closed instead.
async fn asked(proxy: &Proxy, request: &str) -> (Wire, Option<u16>) {
    let mut wire = proxy.connect().await;
    // Where the connection is refused, there may be nobody to take it.
    let sent = wire.try_send(request).await;
    let head = if sent.is_ok() { wire.next_head().await } else { None };
    (wire, head.map(|head| head.status()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_of_large_answers_are_bounded_in_all_and_forgotten() {
    const LIMIT_KB: usize = 192 * 1024;
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        let block = vec![b'x'; 1 << 20];
        while wire.next_head().await.is_some() {
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n";
            let mut sent = wire.write_all(head.as_bytes()).await;
            while sent.is_ok() {
                sent = wire.write_all(&block).await;
            }
        }
    })
    .await;
    let blue = named("blue").await;
    let settings = format!(
        "[limits]\nmemory = \"{LIMIT_KB}KiB\"\n[services.other]\nroutes = [{{ host = \"other.test\" }}]\n\
         [services.other.backends.main]\nweight = 1\nendpoints = [{:?}]\n{}",
        blue.url(),
        backend("blue", 1.0, &upstream)
    );
    let proxy = Setup::new().settings(&settings).start().await;
    let other = "GET / HTTP/1.1\r\nhost: other.test\r\n\r\n";
    assert_eq!(proxy.exchange(other).await.text(), "blue");
    let (mut readers, mut refused, mut most_kb) = (Vec::new(), 0, 0);
    while refused < 20 {
        assert!(readers.len() < 2_000, "nobody is refused: {} KB", proxy.memory_kb());
        let (reader, status) = asked(&proxy, &get("/", "")).await;
        match status {
            Some(200) => readers.push(reader),
            Some(503) | None => refused += 1,
            other => panic!("{other:?}"),
        }
        most_kb = most_kb.max(proxy.memory_kb());
    }
    println!("{} readers, {most_kb} KB of {LIMIT_KB}", readers.len());
    assert!(most_kb < LIMIT_KB, "{most_kb} KB");
    let begun = Instant::now();
    drop(readers);
    let recovered = async {
        while asked(&proxy, other).await.1 != Some(200) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("memory to suffice again", recovered).await;
    println!("after {:?}: {} KB", begun.elapsed(), proxy.memory_kb());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(proxy.metric("tidegate_request_errors_total", "reason=\"overloaded\"").await > 0);
}
