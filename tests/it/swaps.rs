//! What runs behind a service is swapped by a command while its requests wait.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::rollouts::command;
use crate::support::{Fleet, Load, Proxy, Ran, Setup};

async fn before(fleet: &Fleet) -> Proxy {
    Setup::new().workers(2).backend(&fleet.urls(), "").impatient().start().await
}

/// `tidegate swap shop` with more arguments.
async fn swap(proxy: &Proxy, more: &[&str]) -> Ran {
    command(proxy, &[&["swap", "shop"][..], more].concat()).await
}

async fn last(proxy: &Proxy, kind: &str) -> Value {
    let view = proxy.view("/v1/events?limit=1000").await;
    let events = view["events"].as_array().expect("events are a list");
    events.iter().rfind(|event| event["kind"] == kind).map(|event| event["detail"].clone()).unwrap_or_default()
}

#[tokio::test]
async fn the_only_process_is_swapped_and_no_request_fails() {
    let fleet = Fleet::of(1).await;
    let (proxy, port) = (before(&fleet).await, fleet.addresses[0].port().to_string());
    let load = Load::on(proxy.http(), 8, 2);
    load.goes_on(100).await;
    for version in ["v2", "v3"] {
        let swapped = swap(&proxy, &["--revision", version, "--", &fleet.script("replace"), &port, version]).await;
        assert_eq!(swapped.code, Some(0), "{}\n{}", swapped.out, swapped.err);
        assert!(swapped.out.contains("requests waited"), "{}", swapped.out);
        assert_eq!(proxy.fetch("/").await.text(), version);
        load.goes_on(100).await;
    }
    load.finish().await;
    let told = last(&proxy, "swapped").await;
    assert_eq!((&told["outcome"], &told["revision"]), (&json!("completed"), &json!("v3")));
    assert!(proxy.view("/v1/services/shop").await.get("hold").is_none());
}

#[tokio::test]
async fn a_swap_that_fails_leaves_what_was_there_and_requests_go_on() {
    let fleet = Fleet::of(1).await;
    let proxy = before(&fleet).await;
    let load = Load::on(proxy.http(), 4, 0);
    load.goes_on(50).await;
    let failed = swap(&proxy, &["--", "sh", "-c", "exit 7"]).await;
    assert_eq!(failed.code, Some(1));
    assert!(failed.err.contains("was not swapped, and requests go on: sh failed: exit status: 7"), "{}", failed.err);
    load.goes_on(50).await;
    load.finish().await;
    assert_eq!(last(&proxy, "swapped").await["outcome"], "stopped");
}

#[tokio::test]
async fn what_does_not_come_back_is_waited_for_until_the_hold_is_over_and_no_longer() {
    let fleet = Fleet::of(1).await;
    let (proxy, port) = (before(&fleet).await, fleet.addresses[0].port().to_string());
    let began = Instant::now();
    let late = swap(&proxy, &["--for", "3s", "--", &fleet.script("stop"), &port]).await;
    assert_eq!(late.code, Some(1));
    assert!(late.err.contains("wasn't ready in time: Connection refused"), "{}", late.err);
    assert!(began.elapsed() >= Duration::from_millis(2_950), "{:?}", began.elapsed());
    assert_eq!(proxy.fetch("/").await.status(), 502, "requests go on to what there is");
}

#[tokio::test]
async fn a_service_that_is_held_already_is_left_alone() {
    let fleet = Fleet::of(1).await;
    let proxy = before(&fleet).await;
    assert_eq!(command(&proxy, &["hold", "shop"]).await.code, Some(0));
    let refused = swap(&proxy, &["--", "true"]).await;
    assert!(refused.err.contains("shop is held already; first: tidegate release shop"), "{}", refused.err);
    assert!(proxy.view("/v1/services/shop").await.get("hold").is_some());
}
