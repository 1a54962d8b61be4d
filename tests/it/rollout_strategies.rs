//! Each strategy on the running proxy: who gets the release when, and the way back.

use std::time::Duration;

use serde_json::json;

use crate::support::rollouts::{Asking, Shop, becomes, command, deploy, latest, reaches, shares};
use crate::support::{Load, Upstream, get, named};

const FAILING: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno";
const POST: &str = "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn blue_green_flips_every_worker_at_once_and_back_with_one_command() {
    let plan = "strategy = \"blue-green\"";
    let (shop, green) = (Shop::new(plan).await, named("green").await);
    let proxy = shop.setup().workers(4).settings(&shop.settings()).start().await;
    let load = Load::on(proxy.http(), 4, 2);
    load.goes_on(50).await;
    assert_eq!(deploy(&proxy, "v2", &green, &[]).await.code, Some(0));
    reaches(&proxy, 1).await;
    assert_eq!(shares(&proxy).await, [0.0, 1.0]);
    // What was under way is finished; then blue gets nothing more, on any worker.
    load.comes_around().await;
    let before = shop.blue.requests().len();
    load.goes_on(200).await;
    assert_eq!(shop.blue.requests().len(), before, "blue is warm, and gets nothing");
    assert_eq!(
        latest(&proxy).await["progress"]["missing"].as_str().map(|missing| missing.contains("s of 600 s")),
        Some(true)
    );

    assert_eq!(command(&proxy, &["rollback", "shop"]).await.code, Some(0));
    for _ in 0..8 {
        assert_eq!(proxy.fetch("/").await.text(), "blue");
    }
    load.comes_around().await;
    let before = green.requests().len();
    load.goes_on(200).await;
    assert_eq!(green.requests().len(), before);
    load.finish().await;
}

#[tokio::test]
async fn a_flip_to_a_release_that_fails_is_taken_back_though_there_is_nothing_to_compare_with() {
    let (shop, green) = (Shop::new("strategy = \"blue-green\"").await, Upstream::responding(|_| FAILING.into()).await);
    let proxy = shop.open().await;
    let mut wire = proxy.connect().await;
    for _ in 0..50 {
        assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
    }
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    // Requests that can't be sent twice, so that nothing hides what the release does.
    let asking = async {
        while latest(&proxy).await.get("ended").is_none() {
            wire.exchange(POST).await;
        }
    };
    crate::support::within("the flip back", asking).await;
    assert_eq!(latest(&proxy).await["state"], "rolled back");
    assert_eq!((shares(&proxy).await, wire.exchange(POST).await.status()), (vec![1.0, 0.0], 200));
}

#[tokio::test]
async fn a_flip_with_a_holdback_goes_on_being_compared() {
    let plan = r#"strategy = "blue-green"
steps = [{ weight = 100, holdback = "20%", watch = "400ms" }]"#;
    let (shop, green) = (Shop::new(plan).await, named("green").await);
    let proxy = shop.open().await;
    let asking = Asking::on(&proxy, "", Duration::ZERO).await;
    deploy(&proxy, "v2", &green, &[]).await;
    let view = reaches(&proxy, 1).await;
    assert_eq!(view["percent"], 80.0);
    assert!((shares(&proxy).await[0] - 0.2).abs() < 1e-9);
    becomes(&proxy, "completed").await;
    assert_eq!(shares(&proxy).await, [0.0, 1.0]);
    asking.finish().await;
}

#[tokio::test]
async fn a_cohort_gets_the_release_first_and_then_everyone() {
    let plan = r#"strategy = "cohort"
cohort = [{ headers = { x-beta = "yes" } }, { cookies = { beta = "1" } }]
steps = [{ cohort = true, hold = "1s" }, { approve = "ada" }, { weight = 100, watch = "0s" }]"#;
    let (shop, green) = (Shop::new(plan).await, named("green").await);
    let proxy = shop.open().await;
    let beta = "x-beta: yes\r\n";
    assert_eq!(proxy.exchange(&get("/", beta)).await.text(), "blue", "there is no release yet");
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    let asking = Asking::on(&proxy, beta, Duration::from_millis(5)).await;
    assert_eq!(proxy.exchange(&get("/", beta)).await.text(), "green");
    assert_eq!(proxy.exchange(&get("/", "cookie: beta=1\r\n")).await.text(), "green");
    assert_eq!(proxy.exchange(&get("/", "")).await.text(), "blue");
    assert_eq!(shares(&proxy).await, [1.0, 0.0]);

    // They keep it while the rollout waits for an approval.
    reaches(&proxy, 2).await;
    assert_eq!(proxy.exchange(&get("/", beta)).await.text(), "green");
    assert_eq!(proxy.exchange(&get("/", "")).await.text(), "blue");
    command(&proxy, &["approve", "shop"]).await;
    becomes(&proxy, "completed").await;
    assert_eq!(proxy.exchange(&get("/", "")).await.text(), "green");
    asking.finish().await;

    command(&proxy, &["rollback", "shop"]).await;
    assert_eq!(proxy.exchange(&get("/", beta)).await.text(), "blue");
}

#[tokio::test]
async fn a_release_that_fails_its_cohort_is_taken_back_before_anybody_else_sees_it() {
    let plan = r#"cohort = [{ headers = { x-beta = "yes" } }]
steps = [{ cohort = true, hold = "1m" }, { weight = 100 }]"#;
    let (shop, green) = (Shop::new(plan).await, Upstream::responding(|_| FAILING.into()).await);
    let proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    let beta = Asking::on(&proxy, "x-beta: yes\r\n", Duration::from_millis(2)).await;
    let others = Asking::on(&proxy, "", Duration::from_millis(2)).await;
    becomes(&proxy, "rolled back").await;
    assert!(beta.finish().await.contains(&500), "a rule's requests aren't rescued");
    assert!(others.finish().await.iter().all(|status| *status == 200));
    assert_eq!(proxy.exchange(&get("/", "x-beta: yes\r\n")).await.text(), "blue");
}

#[tokio::test]
async fn a_third_backend_keeps_its_share() {
    let plan = r#"steps = [{ weight = 25, hold = "1m" }, { weight = 100, watch = "0s" }]"#;
    let (shop, green, other) = (Shop::new(plan).await, named("green").await, named("other").await);
    let third = crate::support::backend("other", 100.0, &other);
    let settings = format!("[services.shop]\nstable = \"blue\"\n{}{third}", shop.settings());
    let proxy = shop.setup().settings(&settings).start().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    assert_eq!(shares(&proxy).await, [0.375, 0.125, 0.5]);
    command(&proxy, &["promote", "shop", "--full"]).await;
    assert_eq!(shares(&proxy).await, [0.0, 0.5, 0.5]);
}

#[tokio::test]
async fn a_single_release_may_go_another_way_than_the_others() {
    let plan = r#"steps = [{ approve = "ada" }, { weight = 50, hold = "1h" }, { weight = 100, watch = "0s" }]"#;
    let (shop, green) = (Shop::new(plan).await, named("green").await);
    let proxy = shop.open().await;
    let body = format!(r#"{{"revision": "v2", "endpoints": [{:?}], "strategy": "cohort"}}"#, green.url());
    let json = "content-type: application/json\r\n";
    let refused = proxy.call("POST", "/v1/services/shop/rollouts", json, &body).await;
    assert!(refused.status() == 422 && refused.text().contains("who is in the cohort"), "{}", refused.text());
    assert_eq!(deploy(&proxy, "v2", &green, &["--strategy", "blue-green"]).await.code, Some(0));
    let view = reaches(&proxy, 1).await;
    assert_eq!((&view["strategy"], shares(&proxy).await), (&json!("blue-green"), vec![0.0, 1.0]));
    assert_eq!(view["plan"], json!(["100 %, watched for 10m"]));
}

/// Answers with a number that only this backend has.
async fn answering(number: u32) -> Upstream {
    Upstream::responding(move |_| {
        let body = format!("{{\"total\": {number}}}");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json";
        format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await
}

/// A shop whose stable backend answers with 7, and whose rollouts begin with copies.
async fn mirroring(time: &str) -> (Shop, Upstream) {
    let plan = format!(
        "strategy = \"shadow\"\nsteps = [{{ mirror = 100, for = {time:?} }}, {{ approve = \"ada\" }}, {{ weight = 100, watch = \"0s\" }}]"
    );
    let mut shop = Shop::new(&plan).await;
    shop.blue = answering(7).await;
    (shop, answering(7).await)
}

#[tokio::test]
async fn a_shadow_sees_copies_first_and_goes_on_once_it_answers_them_as_stable_does() {
    let (shop, green) = mirroring("5m").await;
    // The file has a mirror for rollouts alone, and says how it is compared.
    let own = "[services.shop.mirror]\nbackend = \"green\"\npercent = 0\ncompare = { noise = true, tolerated = 0.1 }";
    let proxy = shop.setup().settings(&shop.settings_with(&shop.plan, own)).start().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    assert_eq!(shares(&proxy).await, [1.0, 0.0]);
    let view = proxy.view("/v1/services/shop").await;
    assert_eq!(
        (&view["mirrors"][0]["backend"], &view["mirrors"][0]["percent"]),
        (&"green".into(), &100.0.into()),
        "{view:#}"
    );
    let live = proxy
        .call(
            "PUT",
            "/v1/services/shop/mirror",
            "content-type: application/json\r\n",
            r#"{"backend": "green", "percent": 1}"#,
        )
        .await;
    assert_eq!(live.status(), 409, "the copies are the rollout's: {}", live.text());
    let asking = Asking::on(&proxy, "", Duration::ZERO).await;
    let view = reaches(&proxy, 2).await;
    asking.finish().await;
    assert!(view["steps"][1]["reason"].as_str().unwrap().contains("answers copies as stable does"), "{view:#}");
    assert!(!green.requests().is_empty());
    let view = proxy.view("/v1/services/shop").await;
    assert_eq!(view["mirrors"][0]["percent"], 0.0, "the copies end with their step: {view:#}");
    command(&proxy, &["approve", "shop"]).await;
    becomes(&proxy, "completed").await;
    assert_eq!(proxy.fetch("/").await.text(), "{\"total\": 7}");
}

#[tokio::test]
async fn a_shadow_that_answers_otherwise_is_taken_back_before_anybody_has_seen_it() {
    let (shop, _) = mirroring("5m").await;
    let (proxy, green) = (shop.open().await, answering(8).await);
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    let asking = Asking::on(&proxy, "", Duration::from_millis(1)).await;
    let view = becomes(&proxy, "rolled back").await;
    asking.finish().await;
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("answers copies otherwise than stable") && reason.contains("$.total changed"), "{reason}");
    assert_eq!(view["receipt"]["requests"], 0);
}

#[tokio::test]
async fn a_shadow_that_is_tried_again_answers_for_no_copy_of_the_last_time() {
    let (shop, same) = mirroring("5m").await;
    // A mirror of the file's own goes on being compared between rollouts.
    let own = "[services.shop.mirror]\nbackend = \"green\"\npercent = 0\ncompare = { noise = true, tolerated = 0.1 }";
    let (proxy, other) =
        (shop.setup().settings(&shop.settings_with(&shop.plan, own)).start().await, answering(8).await);
    deploy(&proxy, "v2", &other, &[]).await;
    reaches(&proxy, 1).await;
    let asking = Asking::on(&proxy, "", Duration::from_millis(1)).await;
    becomes(&proxy, "rolled back").await;
    assert_eq!(deploy(&proxy, "v2", &same, &["--retry"]).await.code, Some(0));
    let view = reaches(&proxy, 2).await;
    asking.finish().await;
    assert!(view["steps"][1]["reason"].as_str().unwrap().contains("answers copies as stable does"), "{view:#}");
}

#[tokio::test]
async fn copies_that_nobody_could_compare_in_time_pause_a_rollout() {
    let (shop, green) = mirroring("300ms").await;
    let proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    let view = becomes(&proxy, "paused").await;
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("not known to be the same within 300ms: nothing was compared yet"), "{reason}");
    assert_eq!(view["step"], 1);
}

#[tokio::test]
async fn a_preview_shows_the_release_to_who_asks_for_it_and_to_nobody_else() {
    let plan = r#"strategy = "blue-green"
preview = [{ headers = { x-preview = "yes" } }]
steps = [{ approve = "ada" }, { weight = 100, watch = "0s" }]"#;
    let (shop, green) = (Shop::new(plan).await, named("green").await);
    let proxy = shop.open().await;
    let preview = get("/", "x-preview: yes\r\n");
    assert_eq!(proxy.exchange(&preview).await.text(), "blue", "there is nothing to look at yet");
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    assert_eq!(proxy.exchange(&preview).await.text(), "green");
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    command(&proxy, &["abort", "shop"]).await;
    assert_eq!(proxy.exchange(&preview).await.text(), "blue");
}

#[tokio::test]
async fn a_previews_host_shows_the_release_while_there_is_one_and_never_anything_else() {
    let plan = r#"strategy = "blue-green"
preview = [{ host = "preview.example.com" }, { host = "locked.example.com", headers = { x-key = "s3cret" } }]
steps = [{ approve = "ada" }, { weight = 100, watch = "0s" }]"#;
    let (shop, green, other) = (Shop::new(plan).await, named("green").await, named("other").await);
    // Others would take its requests; and a rule of the file sends some of the shop's to blue.
    let more = format!(
        "[services.other]\nroutes = [{{ host = \"*.example.com\" }}, {{ path = \"/other\" }}]\n\
         [services.other.backends.only]\nweight = 1\nendpoints = [{:?}]\n\
         [services.shop]\nrules = [{{ backend = \"blue\", headers = {{ x-blue = \"yes\" }} }}]",
        other.url()
    );
    let proxy = shop.setup().settings(&shop.settings_with(plan, &more)).start().await;
    let ask = async |host: &str, path: &str, more: &str| {
        let asked = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{more}\r\n");
        let answer = proxy.exchange(&asked).await;
        (answer.status(), answer.text().to_owned())
    };
    let closed = async |host: &str, more: &str| assert_eq!(ask(host, "/", more).await.0, 404, "{host} {more}");
    let of = |name: &str| (200, name.to_owned());
    closed("preview.example.com", "").await;
    assert_eq!(ask("www.example.com", "/", "").await, of("other"));

    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    for (host, path) in [("preview.example.com", "/"), ("PREVIEW.example.com.:8080", "/other?x=1")] {
        assert_eq!(ask(host, path, "x-blue: yes\r\n").await, of("green"), "{host}{path}");
        let received = green.requests().pop().unwrap();
        assert_eq!((received.head.value("host"), received.target()), (Some(host), path), "as received");
    }
    closed("locked.example.com", "").await;
    closed("locked.example.com", "x-key: guessed\r\n").await;
    assert_eq!(ask("locked.example.com", "/", "x-key: s3cret\r\n").await, of("green"));
    assert_eq!(ask("shop", "/", "").await, of("blue"));
    assert_eq!(ask("www.example.com", "/", "").await, of("other"));
    let asked = green.requests().len() as u64;
    command(&proxy, &["abort", "shop"]).await;
    assert_eq!(becomes(&proxy, "aborted").await["receipt"]["requests"], asked, "they are requests like others");
    closed("preview.example.com", "").await;
    closed("locked.example.com", "x-key: s3cret\r\n").await;
    proxy.metric_becomes("tidegate_requests_refused_total", "code=\"404\"", 5).await;
}
