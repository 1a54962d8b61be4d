//! An endpoint that is restarted in place: nobody listens for a moment, and requests wait for it.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Load, Refusing, Restarting, Setup, backend, get, named};

/// A shop of one endpoint, and how long its requests wait.
fn settings(endpoint: &str, wait: &str) -> String {
    format!(
        "[services.shop]\ntimeouts = {{ restart_wait = \"{wait}\" }}\n\
         [services.shop.backends.blue]\nweight = 1\nendpoints = [\"{endpoint}\"]\n"
    )
}

#[tokio::test]
async fn a_restart_in_place_loses_no_request() {
    let mut upstream = Restarting::new();
    upstream.start();
    let proxy = Setup::new().workers(2).settings(&settings(&upstream.url(), "10s")).start().await;
    let load = Load::on(proxy.http(), 12, 0);
    load.goes_on(200).await;
    for _ in 0..2 {
        upstream.stop().await;
        let before = load.answered();
        // As long as a real process needs to come back.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(load.answered() - before <= 12, "nobody is there to answer");
        upstream.start();
        load.goes_on(200).await;
    }
    load.finish().await;
    assert_eq!(proxy.metric("tidegate_requests_total", "5xx").await, 0);
}

#[tokio::test]
async fn requests_of_any_method_wait_for_an_endpoint_that_starts_late() {
    let mut upstream = Restarting::new();
    let proxy = Setup::new().settings(&settings(&upstream.url(), "10s")).start().await;
    let mut post = proxy.connect().await;
    post.send("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 5\r\n\r\nhello").await;
    let mut asked = proxy.connect().await;
    asked.send(get("/", "")).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 2).await;
    upstream.start();
    assert_eq!((post.answer().await.status(), asked.answer().await.status()), (200, 200));
    assert_eq!(upstream.requests().iter().filter(|received| received.body == b"hello").count(), 1);
}

#[tokio::test]
async fn an_endpoint_that_stays_away_is_answered_for_at_once_after_the_window() {
    let nobody = Refusing::new();
    let proxy = Setup::new().settings(&settings(&nobody.url(), "500ms")).start().await;
    let began = Instant::now();
    assert_eq!(proxy.fetch("/").await.status(), 502);
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(500), "{waited:?}");
    let connects = proxy.metric("tidegate_upstream_connect_errors_total", "").await;
    assert!((2..=20).contains(&connects), "{connects}");
    for _ in 0..20 {
        assert_eq!(proxy.fetch("/").await.status(), 502);
    }
    let errors = proxy.metric("tidegate_upstream_connect_errors_total", "").await;
    assert_eq!(errors, connects + 20, "each was tried once, and not again");
}

#[tokio::test]
async fn one_of_those_that_wait_tries_for_all() {
    let nobody = Refusing::new();
    let proxy = Setup::new().settings(&settings(&nobody.url(), "1s")).start().await;
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = proxy.connect().await;
        client.send(get("/", "")).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer().await.status(), 502);
    }
    let errors = proxy.metric("tidegate_upstream_connect_errors_total", "").await;
    assert!((50..=50 + 21).contains(&errors), "{errors}: one for each, and one every 50 ms");
}

#[tokio::test]
async fn nobody_waits_where_another_backend_could_answer_or_where_waiting_is_off() {
    let (blue, nobody) = (named("blue").await, Refusing::new());
    let canary = format!("[services.shop.backends.canary]\nweight = 1\nendpoints = [{:?}]\n", nobody.url());
    let both = Setup::new().settings(&(backend("blue", 1.0, &blue) + "[timeouts]\nrestart_wait = \"1h\"\n" + &canary));
    let both = both.start().await;
    for _ in 0..20 {
        both.fetch("/").await;
    }
    let off = Setup::new().settings(&settings(&nobody.url(), "0s")).start().await;
    assert_eq!(off.fetch("/").await.status(), 502);
    off.metric_becomes("tidegate_upstream_connect_errors_total", "", 1).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_is_forgotten_and_another_tries() {
    let mut upstream = Restarting::new();
    let proxy = Setup::new().settings(&settings(&upstream.url(), "15s")).start().await;
    let mut first = proxy.connect().await;
    first.send(get("/first", "")).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 1).await;
    let mut second = proxy.connect().await;
    second.send(get("/second", "")).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 2).await;
    drop(first);
    proxy.metric_becomes("tidegate_requests_in_flight", "", 1).await;
    upstream.start();
    assert_eq!(second.answer().await.status(), 200);
    assert_eq!(upstream.requests().len(), 1);
    assert_eq!(upstream.requests()[0].target(), "/second");
}

#[tokio::test]
async fn a_request_whose_own_time_is_over_is_told_so() {
    let nobody = Refusing::new();
    let settings = settings(&nobody.url(), "1h").replace("{ restart", "{ request = \"300ms\", restart");
    let proxy = Setup::new().settings(&settings).start().await;
    assert_eq!(proxy.fetch("/").await.status(), 504);
    proxy.metric_becomes("tidegate_request_errors_total", "request_timeout", 1).await;
}
