//! Endpoints whose requests fail: those that are worse than others get none for a while, and what all share ejects
//! nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;

use crate::support::{OK, Proxy, Refusing, Restarting, Setup, Upstream, Wire, within};

const BAD: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\n\r\nbad";
/// Ejections that a test can wait for.
const SHORT: &str = "ejection = { time = \"200ms\", max = \"2s\" }\nslow_start = \"0s\"";

/// An endpoint of whose requests every so manieth fails.
struct Fickle {
    upstream: Upstream,
    /// 0: none fails.
    every: Arc<AtomicUsize>,
}

impl Fickle {
    async fn failing(every: usize) -> Self {
        let every = Arc::new(AtomicUsize::new(every));
        let (known, count) = (Arc::clone(&every), AtomicUsize::new(0));
        let upstream = Upstream::responding(move |_| {
            let every = known.load(Ordering::SeqCst);
            // Spread as chance would, and the same in each run.
            let count = count.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            if every > 0 && count % every == 0 { BAD.into() } else { OK.into() }
        });
        Self { upstream: upstream.await, every }
    }

    fn fail_every(&self, every: usize) {
        self.every.store(every, Ordering::SeqCst);
    }

    fn served(&self) -> usize {
        self.upstream.requests().len()
    }

    fn url(&self) -> String {
        self.upstream.url()
    }
}

fn backend(name: &str, weight: f64, urls: &[String]) -> String {
    format!("[services.shop.backends.{name}]\nweight = {weight}\nendpoints = {urls:?}\n")
}

async fn shop(keys: &str, backends: &str) -> Proxy {
    // What fails is to be seen.
    retrying(&format!("retry = \"off\"\nrescue = \"off\"\n{keys}"), backends).await
}

async fn retrying(keys: &str, backends: &str) -> Proxy {
    Setup::new().workers(2).settings(&format!("[services.shop]\n{keys}\n{backends}")).start().await
}

/// How many of so many requests, by a few clients at once, failed.
async fn failures(proxy: &Proxy, requests: usize) -> usize {
    const CLIENTS: usize = 8;
    let clients = (0..CLIENTS).map(|_| async {
        let mut failed = 0;
        for _ in 0..requests / CLIENTS {
            failed += usize::from(proxy.fetch("/").await.status() != 200);
        }
        failed
    });
    join_all(clients).await.into_iter().sum()
}

async fn ejections(proxy: &Proxy) -> u64 {
    proxy.metric("tidegate_endpoint_ejections_total", "").await
}

#[tokio::test]
async fn an_endpoint_that_fails_beside_fine_ones_is_left_and_comes_back_by_one_request() {
    let endpoints = [Fickle::failing(0).await, Fickle::failing(0).await, Fickle::failing(1).await];
    let urls: Vec<_> = endpoints.iter().map(Fickle::url).collect();
    let proxy = shop("ejection = { time = \"3s\" }\nslow_start = \"0s\"", &backend("blue", 1.0, &urls)).await;
    let failed = failures(&proxy, 400).await;
    assert!((5..40).contains(&failed), "{failed}");
    let reason = proxy.event("endpoint_down").await["detail"]["reason"].clone();
    assert!(reason.as_str().is_some_and(|reason| reason.ends_with("requests failed in a row")), "{reason}");
    // The next is the one that tries it out, and it fails.
    proxy.endpoint_becomes(0, 2, "on trial").await;
    let before = endpoints[2].served();
    assert_eq!(failures(&proxy, 200).await, 1);
    assert_eq!(endpoints[2].served(), before + 1);
    endpoints[2].fail_every(0);
    proxy.endpoint_becomes(0, 2, "on trial").await;
    assert_eq!(failures(&proxy, 200).await, 0);
    proxy.endpoint_becomes(0, 2, "up").await;
    assert!(ejections(&proxy).await >= 2);
}

#[tokio::test]
async fn what_speaks_against_an_endpoint_is_kept_while_other_things_change() {
    let (fine, bad) = (Fickle::failing(0).await, Fickle::failing(1).await);
    let proxy = shop("ejection = { time = \"1m\" }", &backend("blue", 1.0, &[fine.url(), bad.url()])).await;
    // Between two changes there is never enough to decide.
    for round in 0..60 {
        proxy.fetch("/").await;
        proxy.fetch("/").await;
        proxy.shift(&format!("{{\"blue\": {}}}", round % 2 + 2)).await;
    }
    proxy.endpoint_becomes(0, 1, "ejected").await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_left_by_all_workers() {
    let (one, other, dead) = (Fickle::failing(0).await, Fickle::failing(0).await, Refusing::new());
    let urls = [one.url(), dead.url(), other.url()];
    let proxy = retrying("ejection = { consecutive = 2 }", &backend("blue", 1.0, &urls)).await;
    while ejections(&proxy).await == 0 {
        assert_eq!(failures(&proxy, 80).await, 0);
    }
    assert_eq!(proxy.endpoint(0, 1).await["state"], "ejected");
    let tried = proxy.metric("tidegate_upstream_connect_errors_total", "").await;
    assert_eq!(failures(&proxy, 200).await, 0);
    proxy.metric_becomes("tidegate_upstream_connect_errors_total", "", tried).await;
}

#[tokio::test]
async fn without_a_guard_a_candidate_that_fails_yields_its_share_within_a_few_requests() {
    let (blue, canary) = (Fickle::failing(0).await, Fickle::failing(1).await);
    let backends = backend("blue", 80.0, &[blue.url()]) + &backend("canary", 20.0, &[canary.url()]);
    let keys = "stable = \"blue\"\nguard = \"off\"\nejection = { time = \"1s\" }\nslow_start = \"500ms\"";
    let proxy = shop(keys, &backends).await;
    let failed = failures(&proxy, 800).await;
    assert!((5..20).contains(&failed), "{failed}");
    proxy.share_becomes(1, 0.0..=0.0).await;
    assert_eq!(proxy.event("endpoint_down").await["detail"]["backend"], "canary");
    // One request tries it out, though the backend gets none.
    canary.fail_every(0);
    proxy.endpoint_becomes(1, 0, "on trial").await;
    let before = canary.served();
    while proxy.share(1).await.abs() < 1e-9 {
        assert_eq!(failures(&proxy, 8).await, 0);
    }
    assert!(canary.served() > before);
    proxy.endpoint_becomes(1, 0, "up").await;
    proxy.share_becomes(1, 0.2..=0.2).await;
}

#[tokio::test]
async fn the_request_that_tries_out_a_candidate_in_vain_is_answered_by_stable() {
    let (blue, canary) = (Fickle::failing(0).await, Fickle::failing(1).await);
    let backends = backend("blue", 80.0, &[blue.url()]) + &backend("canary", 20.0, &[canary.url()]);
    let proxy = retrying(&format!("stable = \"blue\"\nguard = \"off\"\n{SHORT}"), &backends).await;
    while ejections(&proxy).await < 4 {
        assert_eq!(failures(&proxy, 80).await, 0);
    }
    let rescued = proxy.metric("tidegate_rescues_total", "backend=\"canary\",result=\"answered\"").await;
    assert_eq!(rescued, canary.served() as u64);
}

#[tokio::test]
async fn an_endpoint_that_fails_again_and_again_stays_away_longer() {
    let endpoints = [Fickle::failing(0).await, Fickle::failing(1).await];
    let urls: Vec<_> = endpoints.iter().map(Fickle::url).collect();
    let proxy = shop(SHORT, &backend("blue", 1.0, &urls)).await;
    while ejections(&proxy).await < 4 {
        failures(&proxy, 40).await;
    }
    let aways: Vec<_> =
        proxy.log().iter().filter(|l| l["message"] == "an endpoint is ejected").map(|l| l["times"].clone()).collect();
    assert_eq!(aways[..4], [1, 2, 3, 4].map(serde_json::Value::from));
}

#[tokio::test]
async fn who_is_ejected_comes_back_early_where_nobody_else_answers() {
    let (mut stable, candidate) = (Restarting::new(), Fickle::failing(0).await);
    let backends = backend("stable", 95.0, &[stable.url()]) + &backend("candidate", 5.0, &[candidate.url()]);
    let proxy = retrying("ejection = { time = \"1h\", max = \"1h\" }\nslow_start = \"0s\"", &backends).await;
    while ejections(&proxy).await == 0 {
        failures(&proxy, 10).await;
    }
    proxy.share_becomes(0, 0.0..=0.0).await;
    assert_eq!(failures(&proxy, 100).await, 0, "the candidate has them all");
    stable.start();
    candidate.fail_every(1);
    let back = async {
        while stable.requests().is_empty() {
            failures(&proxy, 10).await;
        }
    };
    within("the request that tries it out", back).await;
    proxy.share_becomes(0, 0.95..=0.95).await;
    assert_eq!(failures(&proxy, 100).await, 0, "stable answers what the candidate doesn't");
}

#[tokio::test]
async fn the_last_endpoint_is_never_ejected() {
    let (bad, dead) = (Fickle::failing(1).await, Refusing::new());
    for urls in [vec![bad.url()], vec![dead.url()], vec![dead.url(), bad.url()]] {
        let proxy = shop(SHORT, &backend("blue", 1.0, &urls)).await;
        assert_eq!(failures(&proxy, 160).await, 160);
        let (last, last_refuses) = (urls.len() - 1, urls[urls.len() - 1] == dead.url());
        let shown = proxy.endpoint(0, last).await;
        assert_eq!(shown["state"], "failing", "{urls:?}");
        let what = if last_refuses { "connects" } else { "requests" };
        assert!(shown["reason"].as_str().is_some_and(|reason| reason.contains(what)), "{shown}");
        assert_eq!(proxy.metric("tidegate_service_panicking", "").await, 0);
    }
}

#[tokio::test]
async fn what_all_share_ejects_nobody() {
    for every in [1, 2] {
        let endpoints = [Fickle::failing(0).await, Fickle::failing(0).await, Fickle::failing(0).await];
        let urls: Vec<_> = endpoints.iter().map(Fickle::url).collect();
        let backends = backend("blue", 50.0, &urls[..2]) + &backend("canary", 50.0, &urls[2..]);
        let proxy = shop(&format!("stable = \"blue\"\n{SHORT}"), &backends).await;
        assert_eq!(failures(&proxy, 400).await, 0);
        for endpoint in &endpoints {
            endpoint.fail_every(every);
        }
        let failed = failures(&proxy, 1200).await;
        assert!(failed > 400, "{failed}");
        assert_eq!(ejections(&proxy).await, 0, "every {every}");
    }
}

#[tokio::test]
async fn broken_connections_and_late_answers_count_as_failures() {
    let fine = Fickle::failing(0).await;
    let broken = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
    })
    .await;
    let late = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await;
    for bad in [&broken, &late] {
        let urls = [fine.url(), bad.url()];
        let timeouts = "timeouts = { response_header = \"500ms\" }\nejection = { time = \"1m\" }";
        let proxy = shop(timeouts, &backend("blue", 1.0, &urls)).await;
        while ejections(&proxy).await == 0 {
            failures(&proxy, 40).await;
        }
        assert_eq!(proxy.endpoint(0, 1).await["state"], "ejected");
        // Those that were under way when it was ejected.
        failures(&proxy, 40).await;
        assert_eq!(failures(&proxy, 80).await, 0);
    }
}

#[tokio::test]
async fn ejection_can_be_turned_off_and_who_is_ejected_then_comes_back() {
    let endpoints = [Fickle::failing(0).await, Fickle::failing(1).await];
    let urls: Vec<_> = endpoints.iter().map(Fickle::url).collect();
    let mut proxy = shop("ejection = { time = \"1m\" }", &backend("blue", 1.0, &urls)).await;
    while ejections(&proxy).await == 0 {
        failures(&proxy, 40).await;
    }
    proxy.rewrite(&format!("[services.shop]\nretry = \"off\"\nejection = \"off\"\n{}", backend("blue", 1.0, &urls)));
    proxy.reload_well().await;
    proxy.endpoint_becomes(0, 1, "recovering").await;
    assert!(failures(&proxy, 400).await > 0);
    assert_eq!(ejections(&proxy).await, 1);
}

#[tokio::test]
async fn a_reload_keeps_an_ejection() {
    let endpoints = [Fickle::failing(0).await, Fickle::failing(1).await];
    let urls: Vec<_> = endpoints.iter().map(Fickle::url).collect();
    let keys = "[services.shop]\nejection = { time = \"1m\" }\n";
    let mut proxy = Setup::new().settings(&format!("{keys}{}", backend("blue", 1.0, &urls))).start().await;
    while ejections(&proxy).await == 0 {
        failures(&proxy, 40).await;
    }
    proxy.rewrite(&format!("{keys}body_max = \"1MiB\"\n{}", backend("blue", 2.0, &urls)));
    proxy.reload_well().await;
    assert_eq!(proxy.endpoint(0, 1).await["state"], "ejected");
    assert_eq!(failures(&proxy, 80).await, 0);
}
