//! What `/metrics` says: in Prometheus' format, true to what was sent, and bounded.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Exposition, Gate, Proxy, Ran, Refusing, Setup, Upstream, Wire, backend, get, named};

async fn read(proxy: &Proxy) -> Exposition {
    let answer = proxy.call("GET", "/metrics", "", "").await;
    assert_eq!(answer.head.value("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Exposition::parse(answer.text())
}

/// Answers with the status that the path names.
async fn obedient() -> Upstream {
    Upstream::responding(|request| {
        format!("HTTP/1.1 {} x\r\ncontent-length: 2\r\n\r\nok", &request.target()[1..4]).into_bytes()
    })
    .await
}

#[tokio::test]
async fn counters_equal_what_was_sent() {
    let upstream = obedient().await;
    let refusing = Refusing::new();
    let settings = format!(
        "[services.down]\nroutes = [{{ host = \"down.test\" }}]\n\
         [services.down.backends.main]\nweight = 1\nendpoints = [{:?}]\n\
         [services.shop]\nroutes = [{{ host = \"shop.test\" }}]\n{}",
        refusing.url(),
        backend("blue", 1.0, &upstream)
    );
    let proxy = Setup::new().workers(2).settings(&settings).impatient().start().await;
    let mut wires = [proxy.connect().await, proxy.connect().await];
    for (status, times) in [(200, 30), (201, 5), (301, 4), (404, 3), (500, 2), (503, 1)] {
        for time in 0..times {
            let answer = wires[time % 2].exchange(get(&format!("/{status}"), "")).await;
            assert_eq!(answer.status(), status);
        }
    }
    let post = "POST /200 HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 1000\r\n\r\n".to_owned() + &"x".repeat(1000);
    wires[0].exchange(post).await;
    assert_eq!(wires[0].exchange("GET / HTTP/1.1\r\nhost: down.test\r\n\r\n").await.status(), 502);
    assert_eq!(wires[0].exchange("GET / HTTP/1.1\r\nhost: nobody.test\r\n\r\n").await.status(), 404);
    assert_eq!(proxy.exchange("GET / HTTP/1.1\r\n\r\n").await.status(), 400);

    let page = read(&proxy).await;
    let shop =
        |code| page.count("tidegate_requests_total", &[("service", "shop"), ("backend", "blue"), ("code", code)]);
    assert_eq!(["2xx", "3xx", "4xx", "5xx"].map(shop), [36, 4, 3, 3]);
    assert_eq!(page.count("tidegate_requests_total", &[("service", "down"), ("code", "5xx")]), 1);
    let refused = |code| page.count("tidegate_requests_refused_total", &[("code", code)]);
    assert_eq!([refused("400"), refused("404"), refused("other")], [1, 1, 0]);
    let of_shop = |name: &str| page.count(name, &[("service", "shop")]);
    assert_eq!(of_shop("tidegate_request_bytes_total"), 1000);
    assert_eq!(of_shop("tidegate_response_bytes_total"), 46 * 2);
    assert_eq!(of_shop("tidegate_requests_in_flight"), 0);
    assert_eq!(of_shop("tidegate_upstream_connects_total"), upstream.connections() as u64);
    assert!(page.count("tidegate_upstream_connect_errors_total", &[("service", "down")]) > 0);
    assert_eq!(page.count("tidegate_connections_accepted_total", &[]), 3);
    assert_eq!(page.count("tidegate_workers", &[]), 2);
    assert_eq!(page.count("tidegate_build_info", &[("version", env!("CARGO_PKG_VERSION"))]), 1);
    for name in ["tidegate_request_duration_seconds", "tidegate_time_to_first_byte_seconds"] {
        assert_eq!(of_shop(&format!("{name}_count")), 46, "{name}");
        let sums = page.samples(&format!("{name}_sum"), &[("service", "shop")]);
        assert!(sums.iter().all(|sum| sum.value > 0.0 && sum.value < 46.0 * 5.0), "{name}: {sums:?}");
    }
}

#[tokio::test]
async fn prometheus_itself_finds_nothing_to_say() {
    let upstream = obedient().await;
    let proxy = Proxy::before(&upstream).await;
    for path in ["/200", "/404", "/500"] {
        proxy.fetch(path).await;
    }
    assert!(proxy.reload().await);
    let page = proxy.folder().join("metrics");
    std::fs::write(&page, proxy.call("GET", "/metrics", "", "").await.body).expect("the folder is ours");
    let page = std::fs::File::open(page).expect("it is there");
    let ran = Ran::reading(tokio::process::Command::new("promtool").args(["check", "metrics"]), page).await;
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
}

#[tokio::test]
async fn durations_fall_into_the_buckets_where_they_belong() {
    let gate = Gate::shut().await;
    let proxy = Proxy::before(&gate.upstream).await;
    let mut wire = proxy.connect().await;
    for _ in 0..10 {
        wire.exchange(get("/", "")).await;
    }
    wire.send(get("/half", "")).await;
    wire.head().await;
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    gate.open();
    wire.bytes(10).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
    let page = read(&proxy).await;
    let longer_than = |name: &str, seconds: f64| {
        let buckets = page.samples(&format!("{name}_bucket"), &[]);
        let buckets = buckets.iter().filter(|bucket| bucket.labels["le"] != "+Inf");
        let mut below =
            buckets.filter(|bucket| bucket.labels["le"].parse::<f64>().expect("a bound is a number") <= seconds);
        11 - below.next_back().map_or(0, |bucket| bucket.count())
    };
    // The head was fast, the body wasn't.
    assert_eq!(longer_than("tidegate_request_duration_seconds", 0.6), 1);
    assert_eq!(longer_than("tidegate_time_to_first_byte_seconds", 0.6), 0);
}

#[tokio::test]
async fn nothing_a_client_says_becomes_a_label() {
    let upstream = obedient().await;
    let proxy = Proxy::before(&upstream).await;
    proxy.fetch("/200").await;
    let series = |page: &Exposition| -> BTreeSet<(String, BTreeMap<String, String>)> {
        let samples = page.families.values().flat_map(|family| &family.samples);
        let bounded = samples.filter(|sample| !sample.name.ends_with("_bucket"));
        bounded.map(|sample| (sample.name.clone(), sample.labels.clone())).collect()
    };
    let before = series(&read(&proxy).await);
    let mut wire = proxy.connect().await;
    for index in 0..50 {
        let request = format!(
            "M{index} /200?q={index} HTTP/1.1\r\nhost: h{index}.test\r\nuser-agent: a{index}\r\ncookie: c{index}=1\r\n\r\n"
        );
        assert_eq!(wire.exchange(request).await.status(), 200);
    }
    assert_eq!(series(&read(&proxy).await), before);
    let names = before.iter().flat_map(|(_, labels)| labels.keys().map(String::as_str)).collect::<BTreeSet<_>>();
    assert_eq!(
        names,
        ["backend", "code", "endpoint", "kind", "limit", "reason", "result", "service", "version"].into()
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_as_none() {
    let gate = Gate::shut().await;
    let proxy = Proxy::before(&gate.upstream).await;
    let mut wire = proxy.connect().await;
    wire.send(get("/held", "")).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 1).await;
    drop(wire);
    proxy.metric_becomes("tidegate_requests_total", "code=\"none\"", 1).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
    proxy.metric_becomes("tidegate_request_duration_seconds_count", "", 1).await;
}

#[tokio::test]
async fn connections_and_tunnels_are_gauges_that_come_back_to_zero() {
    let gate = Gate::shut().await;
    let proxy = Proxy::before(&gate.upstream).await;
    let mut wires: Vec<Wire> = Vec::new();
    for _ in 0..5 {
        wires.push(proxy.connect().await);
    }
    wires[0].open_socket().await;
    proxy.metric_becomes("tidegate_connections_open", "", 5).await;
    proxy.metric_becomes("tidegate_tunnels_open", "", 1).await;
    wires[1].exchange(get("/", "")).await;
    proxy.metric_becomes("tidegate_connections_parked", "", 1).await;
    drop(wires);
    for name in ["connections_open", "tunnels_open", "connections_parked"] {
        proxy.metric_becomes(&format!("tidegate_{name}"), "", 0).await;
    }
}

#[tokio::test]
async fn a_removed_backend_leaves_the_page_and_starts_at_zero_when_it_returns() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let both = backend("blue", 1.0, &blue) + &backend("canary", 1.0, &canary);
    let mut proxy = Setup::new().settings(&both).start().await;
    let mut wire = proxy.connect().await;
    while canary.requests().len() < 3 {
        wire.exchange(get("/", "")).await;
    }
    let canaries = |page: &Exposition| {
        let samples = page.families.values().flat_map(|family| &family.samples);
        samples.filter(|sample| sample.labels.get("backend").is_some_and(|name| name == "canary")).count()
    };
    assert!(canaries(&read(&proxy).await) > 5);
    let blues = blue.requests().len();

    proxy.rewrite(&backend("blue", 1.0, &blue));
    proxy.reload_well().await;
    let page = read(&proxy).await;
    assert_eq!(canaries(&page), 0);
    let requests = |page: &Exposition, name: &str| {
        page.count("tidegate_requests_total", &[("backend", name), ("code", "2xx")]) as usize
    };
    assert_eq!(requests(&page, "blue"), blues, "what stays goes on counting");

    proxy.rewrite(&both);
    proxy.reload_well().await;
    assert_eq!(requests(&read(&proxy).await, "canary"), 0);
    while canary.requests().len() < 4 {
        wire.exchange(get("/", "")).await;
    }
    let page = read(&proxy).await;
    assert_eq!(requests(&page, "canary"), 1);
    assert_eq!(page.count("tidegate_request_duration_seconds_count", &[("backend", "canary")]), 1);
}
