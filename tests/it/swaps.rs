//! What runs behind a service is swapped by a command while its requests wait.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::rollouts::{command, deploy};
use crate::support::{Fleet, Load, Proxy, Ran, Setup, named};

async fn before(fleet: &Fleet) -> Proxy {
    Setup::new().workers(2).backend(&fleet.urls(), "").impatient().start().await
}

/// `tidegate swap shop` with more arguments.
async fn swap(proxy: &Proxy, more: &[&str]) -> Ran {
    command(proxy, &[&["swap", "shop"][..], more].concat()).await
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
        assert!(swapped.out.contains(" waited"), "{}", swapped.out);
        assert_eq!(proxy.fetch("/").await.text(), version);
        let view = proxy.view("/v1/services/shop").await;
        assert_eq!(view["backends"][0]["revision"], version, "{view:#}");
        load.goes_on(100).await;
    }
    load.finish().await;
    let told = &proxy.told("swapped", 2).await[1]["detail"];
    assert_eq!((&told["outcome"], &told["revision"]), (&json!("completed"), &json!("v3")));
    assert!(proxy.view("/v1/services/shop").await.get("hold").is_none());
}

#[tokio::test]
async fn a_swap_that_fails_leaves_what_was_there_and_requests_go_on() {
    let fleet = Fleet::of(1).await;
    let proxy = before(&fleet).await;
    let load = Load::on(proxy.http(), 4, 0);
    load.goes_on(50).await;
    let was = proxy.view("/v1/services/shop").await["backends"][0]["revision"].clone();
    let failed = swap(&proxy, &["--revision", "v2", "--", "sh", "-c", "exit 7"]).await;
    assert_eq!(failed.code, Some(1));
    assert!(failed.err.contains("was not swapped, and requests go on: sh failed: exit status: 7"), "{}", failed.err);
    load.goes_on(50).await;
    load.finish().await;
    assert_eq!(proxy.event("swapped").await["detail"]["outcome"], "stopped");
    assert_eq!(proxy.view("/v1/services/shop").await["backends"][0]["revision"], was);
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

#[tokio::test]
async fn a_revision_that_could_be_several_backends_is_refused_before_anything_is_held() {
    let fleet = Fleet::of(2).await;
    let [blue, green] = &fleet.urls()[..] else { unreachable!() };
    let settings = format!(
        "[services.shop.backends.blue]\nweight = 1\nendpoints = [{blue:?}]\n\
         [services.shop.backends.green]\nweight = 1\nendpoints = [{green:?}]"
    );
    let proxy = Setup::new().settings(&settings).start().await;
    let refused = swap(&proxy, &["--revision", "v2", "--", "true"]).await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.err.contains("several of shop get requests: blue, green; name it with --backend"),
        "{}",
        refused.err
    );
    assert!(proxy.events("held").await.is_empty());
    assert_eq!(swap(&proxy, &["--", "true"]).await.code, Some(0));

    let unknown = swap(&proxy, &["--backend", "red", "--", "true"]).await;
    assert!(unknown.err.contains("shop has no backend \"red\"; it has: blue, green"), "{}", unknown.err);
    // The other one needn't even be ready.
    let other = fleet.addresses[0].port().to_string();
    assert!(std::process::Command::new(fleet.script("stop")).arg(&other).status().expect("it runs").success());
    let named = swap(&proxy, &["--revision", "v2", "--backend", "green", "--", "true"]).await;
    assert_eq!(named.code, Some(0), "{}", named.err);
    let view = proxy.view("/v1/services/shop").await;
    assert_eq!(view["backends"][1]["revision"], "v2", "{view:#}");
    assert_ne!(view["backends"][0]["revision"], "v2", "{view:#}");

    // Who calls the API says which.
    let path = "/v1/services/shop/swaps";
    let call = async |body: &str| proxy.call("POST", path, "content-type: application/json\r\n", body).await;
    let none = call(r#"{"outcome": "completed", "reason": "", "revision": "v3"}"#).await;
    assert!(none.status() == 422 && none.text().contains("say \\\"backend\\\""), "{}", none.text());
    let one = call(r#"{"outcome": "completed", "reason": "", "revision": "v3", "backend": "green"}"#).await;
    assert_eq!(one.status(), 204, "{}", one.text());
    let view = proxy.view("/v1/services/shop").await;
    assert_eq!(view["backends"][1]["revision"], "v3", "{view:#}");
    let told = proxy.told("swapped", 3).await;
    assert_eq!((&told[1]["detail"]["backend"], &told[2]["detail"]["backend"]), (&json!("green"), &json!("green")));
}

#[tokio::test]
async fn a_swap_in_a_rollout_leaves_it_what_it_knows() {
    let fleet = Fleet::of(1).await;
    let green = "[services.shop.backends.green]\nweight = 0\nendpoints = [\"http://127.0.0.1:1\"]\n\
                 [services.shop.rollout]\nsteps = [{ approve = \"ada\" }, { weight = 100 }]";
    let proxy = Setup::new().backend(&fleet.urls(), green).start().await;
    let other = named("green").await;
    assert_eq!(deploy(&proxy, "v2", &other, &[]).await.code, Some(0));
    let refused = swap(&proxy, &["--revision", "v3", "--", "true"]).await;
    assert!(refused.err.contains("rollout 1 of shop is under way"), "{}", refused.err);
    assert!(proxy.events("held").await.is_empty());
    let body = r#"{"outcome": "completed", "reason": "", "revision": "v3", "backend": "green"}"#;
    let late = proxy.call("POST", "/v1/services/shop/swaps", "content-type: application/json\r\n", body).await;
    assert!(late.status() == 409 && late.text().contains("stays \\\"v2\\\""), "{}", late.text());
    assert_eq!(proxy.event("swapped").await["detail"]["revision"], "v3", "it is told all the same");
}
