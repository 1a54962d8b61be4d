//! A release goes from 0 to 100 % by its plan, or back; what people may say meanwhile, and what they are told.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::rollouts::{Asking, Shop, becomes, command, deploy, latest, reaches, shares};
use crate::support::{Refusing, Upstream, named};

const FAILING: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno";
const JSON: &str = "content-type: application/json\r\n";
const AT_ONCE: Duration = Duration::ZERO;

/// Little by little, and quick enough for a test.
const CANARY: &str = r#"steps = [
    { weight = 10, advance_below = "20%" },
    { weight = 50, hold = "200ms" },
    { weight = 100, holdback = "10%", watch = "300ms" },
]"#;
/// Waits for a person at once.
const GATED: &str = r#"steps = [{ approve = "ada" }, { weight = 50, hold = "100ms" }, { weight = 100, watch = "0s" }]"#;

async fn failing() -> Upstream {
    Upstream::responding(|_| FAILING.into()).await
}

#[tokio::test]
async fn a_good_release_gets_everything_step_by_step_and_becomes_stable() {
    let (shop, green) = (Shop::new(CANARY).await, named("green").await);
    let proxy = shop.open().await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    let about = ["--wait", "--commit", "4f2a", "--commit-time", "2026-11-21T13:52:55+01:00", "--author", "ada"];
    let deployed = deploy(&proxy, "v2", &green, &about).await;
    assert_eq!(deployed.code, Some(0), "{}\n{}", deployed.out, deployed.err);
    assert!(deployed.out.contains("step 1 of 3") && deployed.out.contains("completed"), "{}", deployed.out);

    assert_eq!(shares(&proxy).await, [0.0, 1.0]);
    let service = proxy.view("/v1/services/shop").await;
    assert_eq!((&service["stable"], &service["backends"][1]["revision"]), (&json!("green"), &json!("v2")));
    assert!(asking.finish().await.iter().all(|status| *status == 200));
    assert_eq!(shop.old_green.requests().len(), 0, "what the file had there is gone");

    let ended = &proxy.event("rollout_ended").await["detail"];
    let steps: Vec<_> = proxy.events("rollout_advanced").await.iter().map(|e| e["detail"]["what"].clone()).collect();
    assert_eq!(steps, ["10 % until below 20 %", "50 % for 200ms", "100 % but 10 %, watched for 300ms"]);
    assert_eq!((&ended["outcome"], &ended["receipt"]["failures"]), (&json!("completed"), &json!(0)));
    assert_eq!(latest(&proxy).await["commit"], "4f2a");
    let told = command(&proxy, &["rollouts", "shop"]).await.out;
    assert!(told.contains("shop #1  v2 into green, beside blue  (canary, by ada (cli))"), "{told}");
    assert_eq!(command(&proxy, &["events", "shop"]).await.code, Some(0));
}

#[tokio::test]
async fn a_bad_release_is_back_within_a_handful_of_requests_and_nobody_saw_it() {
    let (shop, green) = (Shop::new(CANARY).await, failing().await);
    let proxy = shop.open().await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    let deployed = deploy(&proxy, "v2", &green, &["--wait"]).await;
    assert_eq!(deployed.code, Some(1), "{}\n{}", deployed.out, deployed.err);
    assert!(deployed.err.contains("v2 was not rolled out: rolled back"), "{}", deployed.err);
    let failed = green.requests().len();
    assert!((1..=20).contains(&failed), "{failed} requests failed");
    assert_eq!(shares(&proxy).await, [1.0, 0.0]);
    assert!(asking.finish().await.iter().all(|status| *status == 200));

    let view = latest(&proxy).await;
    let receipt = &view["receipt"];
    assert_eq!(receipt["failures"].as_u64().unwrap() as usize, failed, "{view:#}");
    assert_eq!(receipt["rescued"].as_u64().unwrap() as usize, failed, "{view:#}");
    assert_eq!(receipt["seen_by_clients"], 0, "{view:#}");
    let ended = &proxy.event("rollout_ended").await["detail"];
    assert_eq!(ended["receipt"], *receipt, "the history has the same");
    assert_eq!(proxy.event("rollout_ending").await["detail"]["outcome"], "rolled back");
    assert!(receipt["restored_after_ms"].as_u64().unwrap() < 5_000, "{view:#}");

    // It isn't deployed again by mistake.
    let again = deploy(&proxy, "v2", &green, &[]).await;
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("was rolled back at") && again.err.contains("--retry"), "{}", again.err);
    let mended = named("mended").await;
    let retried = deploy(&proxy, "v2", &mended, &["--retry"]).await;
    assert_eq!(retried.code, Some(0), "{}", retried.err);
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    becomes(&proxy, "completed").await;
    asking.finish().await;
}

#[tokio::test]
async fn the_next_release_answers_for_nothing_that_the_one_before_it_did() {
    // The guard only observes, so that it drains nobody, which would have it forget.
    let plan = "steps = [{ weight = 50, hold = \"300ms\" }, { weight = 100, holdback = \"10%\", watch = \"100ms\" }]";
    let (shop, broken, mended) = (Shop::new(plan).await, failing().await, named("mended").await);
    let settings = shop.settings_with(plan, "") + "[services.shop]\nguard = \"observe\"\nstable = \"blue\"\n";
    let proxy = shop.setup().settings(&settings).start().await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    assert_eq!(deploy(&proxy, "v2", &broken, &["--wait"]).await.code, Some(1));
    let next = deploy(&proxy, "v3", &mended, &["--wait"]).await;
    assert_eq!(next.code, Some(0), "{}\n{}", next.out, next.err);
    asking.finish().await;
}

#[tokio::test]
async fn a_release_that_is_tried_again_answers_for_nothing_it_did_the_last_time() {
    // The same as for another one: nobody has drained it, which would have the guard forget.
    let plan = "steps = [{ weight = 50, hold = \"300ms\" }, { weight = 100, holdback = \"10%\", watch = \"100ms\" }]";
    let (shop, broken, mended) = (Shop::new(plan).await, failing().await, named("mended").await);
    let settings = shop.settings_with(plan, "") + "[services.shop]\nguard = \"observe\"\nstable = \"blue\"\n";
    let proxy = shop.setup().settings(&settings).start().await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    assert_eq!(deploy(&proxy, "v2", &broken, &["--wait"]).await.code, Some(1));
    assert!(proxy.events("drained").await.is_empty());
    let again = deploy(&proxy, "v2", &mended, &["--wait", "--retry"]).await;
    assert_eq!(again.code, Some(0), "{}\n{}", again.out, again.err);
    asking.finish().await;
    let view = latest(&proxy).await;
    assert_eq!(
        (&view["receipt"]["failures"], &view["receipt"]["first_failure"]),
        (&json!(0), &Value::Null),
        "{view:#}"
    );
}

#[tokio::test]
async fn what_is_deployed_already_is_left_alone_and_only_one_release_goes_at_a_time() {
    let (shop, green, other) = (Shop::new(GATED).await, named("green").await, named("other").await);
    let proxy = shop.open().await;
    assert_eq!(deploy(&proxy, "v2", &green, &[]).await.code, Some(0));
    reaches(&proxy, 1).await;
    let version = latest(&proxy).await["version"].clone();
    let again = deploy(&proxy, "v2", &green, &["--json"]).await;
    let told: Value = serde_json::from_str(&again.out).expect("it is JSON");
    assert_eq!((again.code, &told["version"]), (Some(0), &version), "nothing happens");
    let body = format!(r#"{{"revision": "v2", "endpoints": [{:?}]}}"#, green.url());
    assert_eq!(proxy.call("POST", "/v1/services/shop/rollouts", JSON, &body).await.status(), 200);

    let refused = deploy(&proxy, "v3", &other, &[]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("rollout 1 of shop is under way, with revision \"v2\""), "{}", refused.err);
    // Weights are the rollout's meanwhile.
    let weights = proxy.put_weights(r#"{"blue": 1, "green": 1}"#).await;
    assert_eq!(weights.status(), 409, "{}", weights.text());
    assert_eq!(command(&proxy, &["reset", "shop"]).await.code, Some(1));

    assert_eq!(command(&proxy, &["abort", "shop", "--reason", "not today"]).await.code, Some(0));
    assert_eq!(becomes(&proxy, "aborted").await["reason"], "a person said so");
    // An abort is no verdict.
    assert_eq!(deploy(&proxy, "v2", &green, &[]).await.code, Some(0));
    reaches(&proxy, 1).await;
    assert_eq!(command(&proxy, &["promote", "shop", "--full"]).await.code, Some(0));
    assert_eq!(becomes(&proxy, "completed").await["id"], 2);
    let body = format!(r#"{{"revision": "v2", "endpoints": [{:?}]}}"#, green.url());
    let known = proxy.call("POST", "/v1/services/shop/rollouts", JSON, &body).await;
    assert_eq!(known.status(), 200, "it is in force: {}", known.text());
}

#[tokio::test]
async fn people_pause_resume_approve_and_promote_and_one_of_two_who_race_is_told_so() {
    let (shop, green) = (Shop::new(GATED).await, named("green").await);
    let proxy = shop.open().await;
    assert_eq!(deploy(&proxy, "v2", &green, &[]).await.code, Some(0));
    let view = reaches(&proxy, 1).await;
    assert_eq!(shares(&proxy).await, [1.0, 0.0]);
    let waits = view["progress"]["missing"].as_str().expect("it says what it waits for");
    assert_eq!(waits, "approval by ada: tidegate approve shop");

    let promoted = command(&proxy, &["promote", "shop"]).await;
    assert!(promoted.err.contains("waits for an approval"), "{}", promoted.err);
    let seen = format!("if-match: \"{}\"\r\n", view["version"]);
    let say = |word: &str| format!("/v1/services/shop/rollouts/latest/{word}");
    assert_eq!(proxy.call("POST", &say("pause"), &seen, "").await.status(), 200);
    let late = proxy.call("POST", &say("approve"), &seen, "").await;
    assert_eq!(late.status(), 412, "{}", late.text());
    assert_eq!(latest(&proxy).await["state"], "paused");
    assert!(command(&proxy, &["pause", "shop"]).await.err.contains("paused already"));
    assert_eq!(command(&proxy, &["resume", "shop"]).await.code, Some(0));

    let approved = command(&proxy, &["approve", "shop", "--reason", "looked at the dashboards"]).await;
    assert_eq!(approved.code, Some(0), "{}", approved.err);
    assert_eq!(shares(&proxy).await, [0.5, 0.5]);
    let event = proxy.event("rollout_approved").await;
    assert_eq!((&event["by"], &event["detail"]["why"]), (&json!("ada (cli)"), &json!("looked at the dashboards")));
    // Nobody asks anything, so time alone proves nothing.
    let asked = latest(&proxy).await;
    assert_eq!(
        asked["progress"]["missing"].as_str().map(|missing| missing.contains("too few") || missing.contains("s of")),
        Some(true)
    );
    assert_eq!(command(&proxy, &["promote", "shop"]).await.code, Some(0));
    becomes(&proxy, "completed").await;
    for word in ["pause", "abort", "promote", "approve"] {
        assert!(command(&proxy, &[word, "shop"]).await.err.contains("the rollout has ended"), "{word}");
    }
}

#[tokio::test]
async fn the_last_good_release_is_one_command_away_also_after_the_end() {
    let (shop, green) = (Shop::new(GATED).await, named("green").await);
    let proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    command(&proxy, &["promote", "shop", "--full"]).await;
    assert_eq!(proxy.fetch("/").await.text(), "green");

    let back = command(&proxy, &["rollback", "shop"]).await;
    assert_eq!(back.code, Some(0), "{}", back.err);
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    assert_eq!(proxy.view("/v1/services/shop").await["stable"], "blue");
    assert!(command(&proxy, &["rollback", "shop"]).await.err.contains("isn't in force"));
    assert!(deploy(&proxy, "v2", &green, &[]).await.err.contains("was rolled back"));
}

#[tokio::test]
async fn the_next_release_goes_into_the_other_backend_and_a_known_good_one_goes_at_once() {
    let (shop, green, third) = (Shop::new(GATED).await, named("green").await, named("third").await);
    let proxy = shop.open().await;
    for (revision, upstream, backend) in [("v2", &green, "green"), ("v3", &third, "blue")] {
        assert_eq!(deploy(&proxy, revision, upstream, &[]).await.code, Some(0));
        assert_eq!(reaches(&proxy, 1).await["backend"], backend);
        command(&proxy, &["promote", "shop", "--full"]).await;
    }
    assert_eq!(proxy.fetch("/").await.text(), "third");
    // v2 is still in green, and has proven itself.
    let known = deploy(&proxy, "v2", &green, &["--wait"]).await;
    assert_eq!(known.code, Some(0), "{}\n{}", known.out, known.err);
    assert_eq!(proxy.fetch("/").await.text(), "green");
    assert_eq!(command(&proxy, &["diff"]).await.out.matches("deployed live").count(), 2);
    // And back to what the file says, all of it.
    assert_eq!(command(&proxy, &["reset", "shop"]).await.code, Some(0));
    assert_eq!((proxy.fetch("/").await.text(), shares(&proxy).await), ("blue", vec![1.0, 0.0]));
    assert_eq!(proxy.view("/v1/services/shop").await["stable"], "blue");
}

#[tokio::test]
async fn endpoints_that_never_come_up_get_no_request_and_end_the_rollout() {
    let (shop, gone) = (Shop::new(&format!("deadline = \"600ms\"\n{CANARY}")).await, Refusing::new());
    let proxy = shop.open().await;
    let url = gone.url();
    let failed = command(&proxy, &["deploy", "shop", "--revision", "v2", "--endpoint", &url, "--wait"]).await;
    assert_eq!(failed.code, Some(1));
    assert!(failed.err.contains("weren't all up within 600ms"), "{}", failed.err);
    assert_eq!(shares(&proxy).await, [1.0, 0.0]);
    let green = named("green").await;
    assert_eq!(deploy(&proxy, "v2", &green, &[]).await.code, Some(0), "it may come up another time");
}

#[tokio::test]
async fn where_nothing_can_be_said_it_pauses_and_never_passes() {
    let plan = r#"deadline = "400ms"
steps = [{ weight = 50, hold = "100ms" }, { weight = 100, watch = "0s" }]"#;
    let (shop, green) = (Shop::new(plan).await, named("green").await);
    let proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    let paused = becomes(&proxy, "paused").await;
    assert!(paused["reason"].as_str().unwrap().contains("0 requests are too few"), "{paused:#}");
    proxy.event("rollout_paused").await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    command(&proxy, &["resume", "shop"]).await;
    becomes(&proxy, "completed").await;
    asking.finish().await;
}

#[tokio::test]
async fn both_sides_that_fail_alike_stop_it_where_it_is() {
    let plan = r#"deadline = "500ms"
steps = [{ weight = 50, hold = "300ms" }, { weight = 100, watch = "0s" }]"#;
    let shop = Shop::new(plan).await;
    let (blue, green) = (failing().await, failing().await);
    let settings = crate::support::backend("blue", 100.0, &blue)
        + &crate::support::backend("green", 0.0, &shop.old_green)
        + &format!("[services.shop]\nejection = \"off\"\nstable = \"blue\"\n[services.shop.rollout]\n{plan}\n");
    let proxy = shop.setup().settings(&settings).start().await;
    let asking = Asking::on(&proxy, "", Duration::from_millis(2)).await;
    deploy(&proxy, "v2", &green, &[]).await;
    let paused = becomes(&proxy, "paused").await;
    assert!(paused["reason"].as_str().unwrap().contains("both sides fail"), "{paused:#}");
    assert_eq!(shares(&proxy).await, [0.5, 0.5], "to go back would mend nothing");
    asking.finish().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_told_and_changes_nothing() {
    let (shop, green) = (Shop::new(CANARY).await, named("green").await);
    let proxy = shop.open().await;
    let url = green.url();
    let post = async |body: &str| proxy.call("POST", "/v1/services/shop/rollouts", JSON, body).await;
    for (body, said) in [
        (r#"{"revision": "v2", "endpoints": []}"#.to_owned(), "1 to 256 endpoints"),
        (r#"{"revision": "", "endpoints": ["http://a"]}"#.to_owned(), "a revision is a text"),
        (r#"{"revision": "v2", "endpoints": ["a:80"]}"#.to_owned(), "has no scheme"),
        (r#"{"revision": "v2", "endpoints": ["https://a"]}"#.to_owned(), "are http in proxy.toml"),
        (format!(r#"{{"revision": "v2", "endpoints": [{url:?}], "backend": "red"}}"#), "the service has no backend"),
        (format!(r#"{{"revision": "v2", "endpoints": [{url:?}], "commit_time": "yesterday"}}"#), "is no time"),
    ] {
        let answer = post(&body).await;
        assert!((400..500).contains(&answer.status()) && answer.text().contains(said), "{body}: {}", answer.text());
    }
    let stable = post(&format!(r#"{{"revision": "v2", "endpoints": [{url:?}], "backend": "blue"}}"#)).await;
    assert_eq!(stable.status(), 409, "{}", stable.text());
    let nobody = proxy.call("GET", "/v1/services/shop/rollouts/latest", "", "").await;
    assert_eq!(nobody.status(), 404);
    let word = proxy.call("POST", "/v1/services/shop/rollouts/latest/dance", "", "").await;
    assert_eq!(word.status(), 404, "{}", word.text());
    assert_eq!(proxy.call("GET", "/v1/services/none/rollouts", "", "").await.status(), 404);
    assert!(command(&proxy, &["abort", "shop"]).await.err.contains("there was no rollout of shop yet"));
    let view = proxy.view("/v1/services/shop").await;
    let stale = format!("{JSON}if-match: \"{}\"\r\n", view["revision"].as_u64().unwrap() + 1);
    let body = format!(r#"{{"revision": "v2", "endpoints": [{url:?}]}}"#);
    assert_eq!(proxy.call("POST", "/v1/services/shop/rollouts", &stale, &body).await.status(), 412);
    assert_eq!(proxy.view("/v1/services/shop/rollouts").await, json!({ "rollouts": [] }));
    assert_eq!(proxy.view("/v1/services").await["version"], 1);
}
