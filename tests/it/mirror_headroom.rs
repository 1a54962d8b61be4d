//! When memory or descriptors get short, copies are what is given up first, long before a request is refused.

use crate::support::{Gate, Proxy, Setup, Wire, backend, get, mirrored, named};

async fn hold(proxy: &Proxy, gate: &Gate, count: usize) {
    let mut client = proxy.connect().await;
    for _ in 0..count {
        assert_eq!(client.exchange(get("/held", "")).await.text(), "blue");
    }
    gate.received("tidegate-mirror").await;
    proxy.metric_becomes("tidegate_mirror_in_flight", "", count as u64).await;
}

async fn headroom(proxy: &Proxy, suffices: bool) {
    proxy.metric_becomes("tidegate_headroom", "", suffices.into()).await;
}

#[tokio::test]
async fn copies_are_given_up_before_descriptors_run_out() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let more = "[limits]\nconnections = 1000\n";
    let setup = mirrored(&blue, &gate.upstream, "timeout = \"20s\"", more).run_by(&["prlimit", "--nofile=200:200"]);
    let proxy = setup.start().await;
    hold(&proxy, &gate, 10).await;
    headroom(&proxy, true).await;
    proxy.metric_becomes("tidegate_open_files_limit", "", 200).await;
    let mut crowd = Vec::new();
    for _ in 0..140 {
        crowd.push(Wire::connect(proxy.http()).await);
    }
    headroom(&proxy, false).await;
    // What is under way goes, with its connections, and no more comes.
    proxy.copies_dropped("overloaded", 10).await;
    proxy.copies_are_over().await;
    let mut client = crowd.pop().expect("there is a crowd");
    for _ in 0..5 {
        assert_eq!(client.exchange(get("/held", "")).await.text(), "blue");
    }
    proxy.copies_dropped("overloaded", 15).await;
    assert_eq!(proxy.metric("tidegate_request_errors_total", "").await, 0);
    assert!(proxy.metric("tidegate_open_files", "").await < 200);
    drop(crowd);
    headroom(&proxy, true).await;
    gate.open();
    assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
    proxy.copies_answered(1).await;
}

#[tokio::test]
async fn copies_are_given_up_before_memory_runs_out() {
    let (blue, gate) = (named("blue").await, Gate::shut().await);
    let settings = |limits: &str| {
        let backends = backend("blue", 1.0, &blue) + &backend("green", 0.0, &gate.upstream);
        format!("{limits}[services.shop.mirror]\nbackend = \"green\"\ntimeout = \"20s\"\n{backends}")
    };
    let mut proxy = Setup::new().settings(&settings("")).start().await;
    // What reloads and scrapes allocate is there already.
    for _ in 0..5 {
        proxy.reload_well().await;
    }
    hold(&proxy, &gate, 3).await;
    let bytes = proxy.memory_kb() * 1024 * 100 / 79;
    proxy.rewrite(&settings(&format!("[limits]\nmemory = \"{bytes}B\"\n")));
    proxy.reload_well().await;
    headroom(&proxy, false).await;
    proxy.copies_dropped("overloaded", 3).await;
    assert_eq!(proxy.fetch("/").await.text(), "blue", "requests go on");
    assert_eq!(proxy.metric("tidegate_overload", "").await, 0);
    proxy.copies_dropped("overloaded", 4).await;
    proxy.rewrite(&settings(""));
    proxy.reload_well().await;
    headroom(&proxy, true).await;
    gate.open();
    proxy.fetch("/").await;
    proxy.copies_answered(1).await;
}
