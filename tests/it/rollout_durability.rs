//! What outlives the process of a rollout, and who is right when the file says something else.

use serde_json::json;

use crate::support::rollouts::{Shop, becomes, command, deploy, latest, reaches, shares};
use crate::support::{Signal, named};

const GATED: &str = r#"steps = [
    { weight = 10, hold = "1h" },
    { approve = "ada" },
    { weight = 50, hold = "1h" },
    { weight = 100, watch = "0s" },
]"#;

#[tokio::test]
async fn a_kill_at_any_step_resumes_the_same_rollout() {
    let (shop, green) = (Shop::new(GATED).await, named("green").await);
    let mut proxy = shop.open().await;
    assert_eq!(deploy(&proxy, "v2", &green, &["--commit", "4f2a"]).await.code, Some(0));
    let mut seen = reaches(&proxy, 1).await;
    for (word, step, canary) in [("promote", 2, 0.1), ("approve", 3, 0.5)] {
        let said = command(&proxy, &[word, "shop"]).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        proxy.signal(Signal::KILL);
        proxy.wait().await;
        proxy = shop.open().await;
        let view = latest(&proxy).await;
        assert_eq!((&view["id"], &view["step"], &view["commit"]), (&json!(1), &json!(step), &json!("4f2a")));
        assert_eq!(view["began"], seen["began"]);
        assert!((shares(&proxy).await[1] - canary).abs() < 1e-9);
        seen = view;
    }
    assert_eq!(command(&proxy, &["promote", "shop", "--full"]).await.code, Some(0));
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    let proxy = shop.open().await;
    assert_eq!(latest(&proxy).await["state"], "completed");
    assert_eq!((proxy.fetch("/").await.text(), shares(&proxy).await), ("green", vec![0.0, 1.0]));
    let service = proxy.view("/v1/services/shop").await;
    assert_eq!((&service["stable"], &service["backends"][1]["revision"]), (&json!("green"), &json!("v2")));
    // The way back outlives it as well.
    assert_eq!(command(&proxy, &["rollback", "shop"]).await.code, Some(0));
    assert_eq!(proxy.fetch("/").await.text(), "blue");
}

#[tokio::test]
async fn a_kill_after_a_rollback_leaves_everything_with_stable() {
    let (shop, green) = (Shop::new(GATED).await, named("green").await);
    let mut proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    command(&proxy, &["rollback", "shop", "--reason", "it smells"]).await;
    // Toward stable is made first and written down after it: wait until it is.
    becomes(&proxy, "rolled back").await;
    proxy.event("rollout_ended").await;
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    let proxy = shop.open().await;
    assert_eq!(latest(&proxy).await["state"], "rolled back");
    assert_eq!(shares(&proxy).await, [1.0, 0.0]);
    assert!(deploy(&proxy, "v2", &green, &[]).await.err.contains("was rolled back"), "it is remembered");
}

#[tokio::test]
async fn a_reload_that_is_about_something_else_disturbs_nothing_and_another_plan_is_for_the_next() {
    let (shop, green) = (Shop::new(GATED).await, named("green").await);
    let mut proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    let before = reaches(&proxy, 1).await;
    let plan = r#"steps = [{ weight = 100, watch = "0s" }]"#;
    proxy.rewrite(&shop.settings_with(plan, "[timeouts]\nconnect = \"2s\""));
    proxy.reload_well().await;
    let after = latest(&proxy).await;
    assert_eq!((&after["step"], &after["plan"]), (&json!(1), &before["plan"]));
    assert!((shares(&proxy).await[1] - 0.1).abs() < 1e-9);
    assert_eq!(proxy.view("/v1/services/shop").await["backends"][1]["revision"], "v2");
}

#[tokio::test]
async fn the_files_new_weights_win_over_a_rollout_and_end_it() {
    let (shop, green) = (Shop::new(GATED).await, named("green").await);
    let mut proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    proxy.rewrite(&shop.settings().replace("weight = 0\n", "weight = 25\n"));
    proxy.reload_well().await;
    let ended = becomes(&proxy, "aborted").await;
    assert_eq!(ended["reason"], "the file's weights have changed");
    assert_eq!(shares(&proxy).await, [0.8, 0.2]);
    assert!(proxy.view("/v1/services/shop").await.get("rollout").is_none());
}

#[tokio::test]
async fn the_files_new_endpoints_win_over_what_was_deployed_also_when_it_was_edited_while_nothing_ran() {
    let (mut shop, green) = (Shop::new(GATED).await, named("green").await);
    let mut proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    shop.old_green = named("new green").await;
    let proxy = shop.open().await;
    let ended = becomes(&proxy, "aborted").await;
    assert!(ended["reason"].as_str().unwrap().starts_with("green runs "), "{ended:#}");
    let view = proxy.view("/v1/services/shop").await;
    assert_eq!(view["backends"][1]["endpoints"][0]["address"], shop.old_green.url());
    assert_eq!(shares(&proxy).await, [1.0, 0.0], "what the file has there was never judged");
    proxy.event("deployment_ended").await;
}

#[tokio::test]
async fn the_way_back_waits_for_no_disk_and_takes_back_what_does() {
    let (shop, green) = (Shop::new(GATED).await, named("green").await);
    let proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    command(&proxy, &["promote", "shop"]).await;
    // Somebody else's lock is as good as a disk that hangs.
    let blocker = rusqlite::Connection::open(shop.journal()).expect("it can be opened");
    blocker.execute_batch("BEGIN IMMEDIATE").expect("it can be locked");
    let say = async |word: &str| proxy.call("POST", &format!("/v1/services/shop/rollouts/latest/{word}"), "", "").await;
    let asked = std::time::Instant::now();
    let back = async {
        // It comes while the approval waits, or before; the approval has no effect either way.
        let answer = say("abort").await;
        (answer.status(), asked.elapsed(), shares(&proxy).await)
    };
    let (approved, (status, took, shares)) = tokio::join!(say("approve"), back);
    assert_eq!((status, shares), (200, vec![1.0, 0.0]));
    assert!([409, 503].contains(&approved.status()), "{}", approved.text());
    // What waits for the disk is refused after a second.
    assert!(took < std::time::Duration::from_millis(900), "{took:?}");
    blocker.execute_batch("ROLLBACK").expect("it can be unlocked");
    assert_eq!(latest(&proxy).await["state"], "aborted");
}

#[tokio::test]
async fn a_person_who_drains_the_release_ends_its_rollout() {
    let (shop, green) = (Shop::new(GATED).await, named("green").await);
    let proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    assert_eq!(command(&proxy, &["drain", "shop/green"]).await.code, Some(0));
    let ended = becomes(&proxy, "aborted").await;
    assert_eq!(ended["reason"], "ada (cli) has drained green");
    assert!(deploy(&proxy, "v3", &green, &[]).await.err.contains("green is drained by ada (cli)"));
}
