//! Others are told of events: in order, each at least once, through failures and restarts, and nobody waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::rollouts::{Asking, Shop, becomes, deploy};
use crate::support::{OK, Proxy, Received, Restarting, Setup, Signal, Upstream, backend, eventually, named};

const SHIFTS: &str = "events = [\"weights_changed\"]";

/// `[[notify]]` with more keys.
fn sink(name: &str, kind: &str, url: &str, more: &str) -> String {
    format!("[[notify]]\nname = {name:?}\nkind = {kind:?}\nurl = \"{url}/told\"\n{more}\n")
}

/// A shop of two backends whose weights can be shifted, and its sinks.
async fn shop(sinks: &str) -> (Proxy, [Upstream; 2]) {
    let (blue, green) = (named("blue").await, named("green").await);
    let setup = Setup::new().file("hook.secret", "a secret\n");
    let proxy = setup.settings(&format!("{sinks}{}", backends(&blue, &green)));
    (proxy.start().await, [blue, green])
}

fn backends(blue: &Upstream, green: &Upstream) -> String {
    backend("blue", 1.0, blue) + &backend("green", 0.0, green)
}

async fn start_with(state: &TempDir, settings: &str) -> Proxy {
    let state = state.path().to_str().expect("the path is text");
    Setup::new().state_dir(state).settings(settings).start().await
}

/// Gives green so much; one event.
async fn shift(proxy: &Proxy, green: u32) {
    proxy.shift(&format!(r#"{{"blue": 100, "green": {green}}}"#)).await;
}

fn body(received: &Received) -> Value {
    serde_json::from_slice(&received.body).expect("it is JSON")
}

/// How much green got by each event that was told.
fn told(requests: &[Received]) -> Vec<f64> {
    requests.iter().map(|received| body(received)["detail"]["to"]["green"].as_f64().expect("a shift")).collect()
}

async fn hears(upstream: &Upstream, requests: usize) {
    eventually(&format!("{requests} events are told"), || upstream.requests().len() >= requests).await;
}

#[tokio::test]
async fn a_webhook_hears_of_every_event_in_order_once_and_signed() {
    let hook = Upstream::answering("HTTP/1.1 204 No Content\r\n\r\n").await;
    let more =
        format!("{SHIFTS}\nservices = [\"shop\"]\nsecret = {{ file = \"hook.secret\" }}\nheaders = {{ x-us = \"1\" }}");
    let (proxy, _shop) = shop(&sink("hook", "webhook", &hook.url(), &more)).await;
    for green in 1..=5 {
        shift(&proxy, green).await;
    }
    hears(&hook, 5).await;
    let requests = hook.requests();
    assert_eq!(told(&requests), [1.0, 2.0, 3.0, 4.0, 5.0]);
    let events = proxy.events("weights_changed").await;
    assert_eq!(body(&requests[0]), events[0], "it is the event as the API tells it");
    for received in &requests {
        let header = |name: &str| received.head.value(name).unwrap_or_else(|| panic!("{name}: {:?}", received.head));
        assert_eq!((received.target(), header("content-type"), header("x-us")), ("/told", "application/json", "1"));
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret");
        let signed = [header("webhook-id"), header("webhook-timestamp"), ""].join(".");
        let signature = hmac::sign(&key, &[signed.as_bytes(), &received.body].concat());
        assert_eq!(header("webhook-signature"), format!("v1,{}", STANDARD.encode(signature)));
    }
    proxy.metric_becomes("tidegate_notify_delivered_total", "hook", 5).await;
    assert_eq!(proxy.metric("tidegate_notify_waiting", "hook").await, 0);
}

#[tokio::test]
async fn what_fails_is_tried_again_and_nobody_overtakes_it() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let hook = Upstream::responding(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n".into(),
        _ => OK.into(),
    })
    .await;
    let (proxy, _shop) = shop(&sink("hook", "webhook", &hook.url(), SHIFTS)).await;
    shift(&proxy, 1).await;
    shift(&proxy, 2).await;
    hears(&hook, 3).await;
    let requests = hook.requests();
    assert_eq!(told(&requests), [1.0, 1.0, 2.0]);
    let id = |index: usize| requests[index].head.value("webhook-id").map(str::to_owned);
    assert!(id(0) == id(1) && id(1) != id(2), "a receiver can tell what it has heard before");
    proxy.metric_becomes("tidegate_notify_failed_total", "hook", 1).await;
}

#[tokio::test]
async fn whoever_hangs_keeps_nobody_waiting() {
    let hanging = Upstream::scripted(|mut wire, _| async move {
        wire.next_head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let quick = Upstream::answering(OK).await;
    let sinks = sink("hanging", "webhook", &hanging.url(), "") + &sink("quick", "webhook", &quick.url(), SHIFTS);
    let (proxy, _shop) = shop(&sinks).await;
    shift(&proxy, 1).await;
    eventually("it hangs", || hanging.connections() > 0).await;
    let began = Instant::now();
    for green in 2..=20 {
        shift(&proxy, green).await;
    }
    hears(&quick, 20).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}, and one attempt lasts 10 s", began.elapsed());
    assert_eq!(told(&quick.requests()).len(), 20);
}

#[tokio::test]
async fn a_kill_loses_no_event_that_could_not_be_told_yet() {
    let (mut hook, state) = (Restarting::new(), TempDir::new().expect("there is room for temporary files"));
    let (blue, green) = (named("blue").await, named("green").await);
    let settings = sink("hook", "webhook", &hook.url(), SHIFTS) + &backends(&blue, &green);
    let start = || start_with(&state, &settings);
    let mut proxy = start().await;
    for green in 1..=3 {
        shift(&proxy, green).await;
    }
    proxy.metric_becomes("tidegate_notify_waiting", "hook", 3).await;
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    let proxy = start().await;
    shift(&proxy, 4).await;
    hook.start();
    eventually("all of it is told", || hook.requests().len() >= 4).await;
    assert_eq!(told(&hook.requests()), [1.0, 2.0, 3.0, 4.0]);
}

#[tokio::test]
async fn what_was_told_is_not_told_again_after_a_kill() {
    let (hook, state) = (Upstream::answering(OK).await, TempDir::new().expect("there is room for temporary files"));
    let (blue, green) = (named("blue").await, named("green").await);
    let settings = sink("hook", "webhook", &hook.url(), SHIFTS) + &backends(&blue, &green);
    let start = || start_with(&state, &settings);
    let mut proxy = start().await;
    for green in 1..=3 {
        shift(&proxy, green).await;
    }
    proxy.metric_becomes("tidegate_notify_delivered_total", "hook", 3).await;
    // Whatever is written after it stands behind it in the journal.
    shift(&proxy, 4).await;
    hears(&hook, 4).await;
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    let proxy = start().await;
    shift(&proxy, 5).await;
    eventually("the last one is told", || told(&hook.requests()).contains(&5.0)).await;
    let told = told(&hook.requests());
    assert_eq!(told[..4], [1.0, 2.0, 3.0, 4.0]);
    assert!(told[4..] == [5.0] || told[4..] == [4.0, 5.0], "at most the last one again: {told:?}");
}

#[tokio::test]
async fn where_too_many_wait_the_oldest_are_skipped_and_others_hear_of_it() {
    let (mut late, other) = (Restarting::new(), Upstream::answering(OK).await);
    let sinks = sink("late", "webhook", &late.url(), &format!("{SHIFTS}\nbacklog = 2"))
        + &sink("other", "webhook", &other.url(), "events = [\"notify_skipped\"]");
    let (proxy, _shop) = shop(&sinks).await;
    shift(&proxy, 1).await;
    proxy.metric_becomes("tidegate_notify_failed_total", "late", 1).await;
    for green in 2..=5 {
        shift(&proxy, green).await;
    }
    proxy.metric_becomes("tidegate_notify_skipped_total", "late", 3).await;
    late.start();
    eventually("the rest is told", || late.requests().len() >= 2).await;
    assert_eq!(told(&late.requests()), [4.0, 5.0]);
    // At once when it begins, and when it is over; not with each one in between.
    hears(&other, 2).await;
    let skipped: u64 = other.requests().iter().map(|told| body(told)["detail"]["events"].as_u64().unwrap()).sum();
    assert_eq!((skipped, other.requests().len()), (3, 2));
    let first = body(&other.requests()[0])["detail"].clone();
    assert_eq!((&first["sink"], &first["reason"]), (&json!("late"), &json!("more than 2 waited")));
}

#[tokio::test]
async fn what_is_refused_for_good_is_skipped_at_once() {
    let hook = Upstream::responding(|received| match body(received)["detail"]["to"]["green"].as_f64() {
        Some(1.0) => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(),
        _ => OK.into(),
    })
    .await;
    let (proxy, _shop) = shop(&sink("hook", "webhook", &hook.url(), SHIFTS)).await;
    shift(&proxy, 1).await;
    shift(&proxy, 2).await;
    hears(&hook, 2).await;
    assert_eq!(told(&hook.requests()), [1.0, 2.0]);
    proxy.metric_becomes("tidegate_notify_skipped_total", "hook", 1).await;
    proxy.logs("events were skipped").await;
}

#[tokio::test]
async fn a_release_is_told_to_chats_dashboards_and_pipelines_in_their_own_words() {
    let (chat, dashboard, pipeline) =
        (Upstream::answering(OK).await, Upstream::answering(OK).await, Upstream::answering(OK).await);
    let sinks =
        sink("chat", "slack", &chat.url(), "text = \"{service} {outcome}: {revision}\"\nevents = [\"rollout_ended\"]")
            + &sink("dashboard", "grafana", &dashboard.url(), "headers = { authorization = \"Bearer x\" }")
            + &sink("pipeline", "cdevents", &pipeline.url(), "environment = \"staging\"\nsource = \"/teams/shop\"");
    let plan =
        "steps = [{ weight = 50, advance_below = \"20%\" }, { weight = 100, holdback = \"10%\", watch = \"200ms\" }]";
    let shop = Shop::new(plan).await;
    let proxy = shop.setup().settings(&shop.settings_with(plan, &sinks)).start().await;
    let asking = Asking::on(&proxy, "", Duration::ZERO).await;
    let (good, bad) = (named("good").await, Upstream::answering("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await);
    assert_eq!(deploy(&proxy, "v2", &good, &["--wait"]).await.code, Some(0));
    assert_eq!(deploy(&proxy, "v3", &bad, &["--wait"]).await.code, Some(1));
    becomes(&proxy, "rolled back").await;
    asking.finish().await;

    hears(&chat, 2).await;
    let said: Vec<Value> = chat.requests().iter().map(body).collect();
    assert_eq!(said, [json!({ "text": "shop completed: v2" }), json!({ "text": "shop rolled back: v3" })]);

    eventually("pipelines hear of both", || pipeline.requests().len() >= 4).await;
    let heard: Vec<(String, Value, Value)> = pipeline
        .requests()
        .iter()
        .filter(|received| received.head.value("ce-type").is_some_and(|kind| kind.contains(".service.")))
        .map(|received| {
            let told = body(received);
            assert_eq!(received.head.value("content-type"), Some("application/cdevents+json"));
            assert_eq!(received.head.value("ce-specversion"), Some("1.0"));
            assert_eq!(received.head.value("ce-id"), told["context"]["id"].as_str());
            assert_eq!(received.head.value("ce-source"), Some("/teams/shop"));
            assert_eq!(told["subject"]["content"]["environment"]["id"], "staging");
            let kind = received.head.value("ce-type").unwrap().to_owned();
            assert_eq!(told["context"]["type"], kind.as_str());
            (kind, told["subject"]["id"].clone(), told["subject"]["content"]["artifactId"].clone())
        })
        .collect();
    let service = |verb: &str| format!("dev.cdevents.service.{verb}.0.3.0");
    // v3 goes into blue, which v2 has left.
    assert_eq!(
        heard,
        [
            (service("deployed"), json!("shop/green"), json!("pkg:generic/shop@v2")),
            (service("upgraded"), json!("shop"), json!("pkg:generic/shop@v2")),
            (service("deployed"), json!("shop/blue"), json!("pkg:generic/shop@v3")),
            (service("rolledback"), json!("shop"), json!("pkg:generic/shop@v2")),
        ]
    );

    eventually("dashboards hear of both", || dashboard.requests().len() >= 4).await;
    let note = body(&dashboard.requests()[0]);
    assert_eq!(note["tags"], json!(["tidegate", "rollout_began", "shop"]));
    assert!(note["time"].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{note}");
    assert!(note["text"].as_str().is_some_and(|text| text.contains("v2 into green")), "{note}");
    assert_eq!(dashboard.requests()[0].head.value("authorization"), Some("Bearer x"));
}

#[tokio::test]
async fn a_reload_brings_sinks_and_takes_them_away() {
    let (first, second) = (Upstream::answering(OK).await, Upstream::answering(OK).await);
    let (blue, green) = (named("blue").await, named("green").await);
    let shop = backend("blue", 1.0, &blue) + &backend("green", 0.0, &green);
    let settings = |name: &str, upstream: &Upstream| sink(name, "webhook", &upstream.url(), SHIFTS) + &shop;
    let mut proxy = Setup::new().settings(&settings("first", &first)).start().await;
    shift(&proxy, 1).await;
    hears(&first, 1).await;
    proxy.rewrite(&settings("second", &second));
    proxy.reload_well().await;
    // It is taken up within a second.
    proxy.logs("nobody is told by this name any more").await;
    shift(&proxy, 2).await;
    hears(&second, 1).await;
    assert_eq!(told(&second.requests()), [2.0], "it hears of what happens from now on");
    assert_eq!(told(&first.requests()), [1.0]);
}
