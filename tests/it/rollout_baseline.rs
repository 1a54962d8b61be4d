//! A release beside a fresh copy of stable: both as cold, both as small, and neither of them blamed for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::rollouts::{Asking, Shop, becomes, command, deploy, latest, reaches, shares};
use crate::support::{OK, Proxy, Signal, Upstream, backend, eventually, named};

const FAILING: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno";
const JSON: &str = "content-type: application/json\r\n";
const AT_ONCE: Duration = Duration::ZERO;

const STEPS: &str = r#"steps = [
    { weight = 20, hold = "1h" },
    { weight = 60, hold = "1h" },
    { weight = 100, holdback = "10%", watch = "1h" },
]"#;

/// Fails as many of a hundred requests as it is told to, evenly.
struct Cold {
    upstream: Upstream,
    percent: Arc<AtomicUsize>,
}

impl Cold {
    async fn new(percent: usize) -> Self {
        let (percent, asked) = (Arc::new(AtomicUsize::new(percent)), AtomicUsize::new(0));
        let failing = Arc::clone(&percent);
        let respond = move |_: &_| {
            let (nth, percent) = (asked.fetch_add(1, Ordering::SeqCst), failing.load(Ordering::SeqCst));
            if (nth + 1) * percent / 100 > nth * percent / 100 { FAILING.to_vec() } else { OK.into() }
        };
        Self { upstream: Upstream::responding(respond).await, percent }
    }

    async fn is_asked(&self, requests: usize) {
        eventually("it had its requests", || self.upstream.requests().len() >= requests).await;
    }
}

/// A shop with a third backend, in which nobody listens by the file.
struct Beside {
    shop: Shop,
    old_fresh: Upstream,
}

impl Beside {
    async fn new(plan: &str) -> Self {
        Self { shop: Shop::new(&format!("{plan}\nbaseline = \"fresh\"")).await, old_fresh: named("old fresh").await }
    }

    fn settings(&self) -> String {
        let stable = "[services.shop]\nstable = \"blue\"\n";
        format!("{stable}{}{}", self.shop.settings(), backend("fresh", 0.0, &self.old_fresh))
    }

    async fn open(&self) -> Proxy {
        self.shop.setup().settings(&self.settings()).start().await
    }
}

/// `tidegate deploy`, beside a copy of stable at `fresh`.
async fn deploy_beside(proxy: &Proxy, green: &Upstream, fresh: &Upstream) {
    let url = fresh.url();
    let deployed = deploy(proxy, "v2", green, &["--baseline-endpoint", &url]).await;
    assert_eq!(deployed.code, Some(0), "{}", deployed.err);
    reaches(proxy, 1).await;
}

fn is_about(shares: &[f64], wanted: [f64; 3]) -> bool {
    shares.iter().zip(wanted).all(|(share, wanted)| (share - wanted).abs() < 1e-9)
}

#[tokio::test]
async fn a_release_as_cold_as_a_fresh_copy_of_stable_stays_where_a_warm_stable_would_have_it_sent_back() {
    let steps = r#"steps = [{ weight = 25, hold = "1h" }, { weight = 100, watch = "1h" }]"#;
    let (beside, green, fresh) = (Beside::new(steps).await, Cold::new(4).await, Cold::new(4).await);
    let proxy = beside.open().await;
    deploy_beside(&proxy, &green.upstream, &fresh.upstream).await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    green.is_asked(400).await;
    fresh.is_asked(400).await;
    let view = latest(&proxy).await;
    assert_eq!((&view["state"], &view["step"]), (&json!("under way"), &json!(1)), "{view:#}");
    assert_eq!(view["progress"]["compared_with"], "fresh");
    assert!(view["progress"]["failures"].as_u64().unwrap() >= 12, "{view:#}");
    assert!(is_about(&shares(&proxy).await, [0.5, 0.25, 0.25]));
    let service = proxy.view("/v1/services/shop").await;
    let trials = service["trials"].as_array().unwrap();
    let compared: Vec<_> = trials.iter().map(|trial| (&trial["backend"], &trial["stable"])).collect();
    assert_eq!(compared, [(&json!("fresh"), &json!("blue")), (&json!("green"), &json!("fresh"))]);
    assert!(trials[0]["e_value"].as_f64().unwrap() > 100.0, "it is worse than stable, and stays: {service:#}");
    let told = command(&proxy, &["rollouts", "shop"]).await.out;
    assert!(told.contains("baseline fresh: a fresh copy of blue; compared with fresh now"), "{told}");

    // The same without a baseline.
    command(&proxy, &["abort", "shop"]).await;
    asking.finish().await;
    let (plain, green) = (Shop::new(steps).await, Cold::new(4).await);
    let proxy = plain.open().await;
    deploy(&proxy, "v2", &green.upstream, &[]).await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    becomes(&proxy, "rolled back").await;
    asking.finish().await;
    assert!(green.upstream.requests().len() < 400);
}

#[tokio::test]
async fn a_release_that_fails_more_often_than_the_fresh_copy_is_sent_back_and_says_beside_whom() {
    let (beside, green, fresh) = (Beside::new(STEPS).await, Cold::new(40).await, Cold::new(2).await);
    let proxy = beside.open().await;
    deploy_beside(&proxy, &green.upstream, &fresh.upstream).await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    let view = becomes(&proxy, "rolled back").await;
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("its baseline") || reason.contains("of fresh"), "{reason}");
    assert!(is_about(&shares(&proxy).await, [1.0, 0.0, 0.0]));
    let receipt = &view["receipt"];
    assert_eq!(receipt["requests"].as_u64().unwrap() as usize, green.upstream.requests().len(), "{view:#}");
    let asked = fresh.upstream.requests().len();
    asking.finish().await;
    assert!(fresh.upstream.requests().len() <= asked + 1, "it gets nothing after the end");
    let evidence = &proxy.event("rollout_ended").await["detail"]["evidence"];
    assert!(evidence["compared_with"] == "fresh" || evidence["stable"] == "fresh", "{evidence:#}");
}

#[tokio::test]
async fn it_gets_as_much_as_the_release_where_there_is_room_for_both_and_nothing_before_after_or_elsewhere() {
    let (beside, green, fresh) = (Beside::new(STEPS).await, named("green").await, named("fresh").await);
    let proxy = beside.open().await;
    assert!(is_about(&shares(&proxy).await, [1.0, 0.0, 0.0]));
    deploy_beside(&proxy, &green, &fresh).await;
    assert!(is_about(&shares(&proxy).await, [0.6, 0.2, 0.2]));
    let view = latest(&proxy).await;
    let wanted = json!({ "backend": "fresh", "endpoints": [fresh.url()], "percent": 20.0 });
    assert_eq!(view["baseline"], wanted, "{view:#}");
    let service = proxy.view("/v1/services/shop").await;
    assert_eq!(service["backends"][2]["revision"], service["backends"][0]["revision"], "it runs what stable runs");

    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    eventually("both get some", || green.requests().len().min(fresh.requests().len()) >= 60).await;
    let (ours, theirs) = (green.requests().len() as f64, fresh.requests().len() as f64);
    assert!((0.4..2.5).contains(&(ours / theirs)), "{ours} and {theirs}");
    for (step, wanted) in [(2, [0.4, 0.6, 0.0]), (3, [0.1, 0.9, 0.0])] {
        assert_eq!(command(&proxy, &["promote", "shop"]).await.code, Some(0));
        assert!(is_about(&shares(&proxy).await, wanted), "{:?}", shares(&proxy).await);
        let view = reaches(&proxy, step).await;
        assert_eq!(view["progress"]["compared_with"], "blue", "there is no room for it");
    }
    assert_eq!(command(&proxy, &["promote", "shop"]).await.code, Some(0));
    becomes(&proxy, "completed").await;
    assert!(is_about(&shares(&proxy).await, [0.0, 1.0, 0.0]));
    assert!(asking.finish().await.iter().all(|status| *status == 200));
    assert_eq!(beside.old_fresh.requests().len(), 0, "the file's endpoints are replaced");

    // The next release goes into blue by itself, and what the file says of the baseline is as good.
    let third = named("third").await;
    assert_eq!(deploy(&proxy, "v3", &third, &[]).await.code, Some(0));
    let view = reaches(&proxy, 1).await;
    assert_eq!((&view["backend"], &view["baseline"]["endpoints"]), (&json!("blue"), &json!([beside.old_fresh.url()])));
    assert!(is_about(&shares(&proxy).await, [0.2, 0.6, 0.2]));
    assert_eq!(command(&proxy, &["abort", "shop"]).await.code, Some(0));
    assert!(is_about(&shares(&proxy).await, [0.0, 1.0, 0.0]));
}

#[tokio::test]
async fn a_baseline_that_dies_pauses_the_rollout_until_there_is_one_again() {
    let (beside, green, fresh) = (Beside::new(STEPS).await, named("green").await, Cold::new(0).await);
    let proxy = beside.open().await;
    deploy_beside(&proxy, &green, &fresh.upstream).await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    fresh.is_asked(20).await;
    fresh.percent.store(100, Ordering::SeqCst);
    let view = becomes(&proxy, "paused").await;
    let reason = view["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the baseline fresh was drained by the guard: ") && reason.contains("blue answered"),
        "{reason}"
    );
    assert!(is_about(&shares(&proxy).await, [0.8, 0.2, 0.0]), "the release keeps its share");
    assert_eq!(view["progress"]["compared_with"], "blue");

    // Whoever resumes without mending it is told again.
    command(&proxy, &["resume", "shop"]).await;
    becomes(&proxy, "paused").await;
    fresh.percent.store(0, Ordering::SeqCst);
    assert_eq!(command(&proxy, &["undrain", "shop/fresh"]).await.code, Some(0));
    assert_eq!(command(&proxy, &["resume", "shop"]).await.code, Some(0));
    assert!(is_about(&shares(&proxy).await, [0.6, 0.2, 0.2]));
    let before = fresh.upstream.requests().len();
    fresh.is_asked(before + 20).await;
    assert_eq!(latest(&proxy).await["state"], "under way");
    asking.finish().await;
}

#[tokio::test]
async fn a_baseline_that_is_broken_and_not_only_cold_proves_nothing() {
    let plan = r#"steps = [{ weight = 20 }, { weight = 100, watch = "1h" }]"#;
    let (beside, green, fresh) = (Beside::new(plan).await, Cold::new(0).await, Cold::new(30).await);
    let proxy = beside.open().await;
    deploy_beside(&proxy, &green.upstream, &fresh.upstream).await;
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    let view = becomes(&proxy, "paused").await;
    let reason = view["reason"].as_str().unwrap();
    assert!(reason.contains("the baseline is bad itself") && view["step"] == 1, "{reason}");
    assert!(is_about(&shares(&proxy).await, [0.8, 0.2, 0.0]));
    // The release is judged all the same, beside stable.
    green.percent.store(30, Ordering::SeqCst);
    becomes(&proxy, "rolled back").await;
    asking.finish().await;
}

#[tokio::test]
async fn a_kill_in_the_middle_resumes_with_the_baseline() {
    let (beside, green, fresh) = (Beside::new(STEPS).await, named("green").await, named("fresh").await);
    let mut proxy = beside.open().await;
    deploy_beside(&proxy, &green, &fresh).await;
    let before = latest(&proxy).await;
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    let proxy = beside.open().await;
    let view = latest(&proxy).await;
    assert_eq!((&view["id"], &view["step"], &view["baseline"]), (&json!(1), &json!(1), &before["baseline"]));
    assert!(is_about(&shares(&proxy).await, [0.6, 0.2, 0.2]));
    let asking = Asking::on(&proxy, "", AT_ONCE).await;
    eventually("the copy gets some", || !fresh.requests().is_empty()).await;
    asking.finish().await;
    assert_eq!(latest(&proxy).await["progress"]["compared_with"], "fresh");
    assert_eq!(command(&proxy, &["rollback", "shop"]).await.code, Some(0));
    assert!(is_about(&shares(&proxy).await, [1.0, 0.0, 0.0]));
}

#[tokio::test]
async fn a_baseline_that_never_comes_up_ends_the_rollout_before_its_first_step() {
    let plan = format!("deadline = \"500ms\"\n{STEPS}");
    let (beside, green) = (Beside::new(&plan).await, named("green").await);
    let proxy = beside.open().await;
    let gone = crate::support::Refusing::new().url();
    let failed = deploy(&proxy, "v2", &green, &["--wait", "--baseline-endpoint", &gone]).await;
    assert_eq!(failed.code, Some(1));
    assert!(failed.err.contains("weren't all up within 500ms"), "{}", failed.err);
    assert!(is_about(&shares(&proxy).await, [1.0, 0.0, 0.0]));
}

#[tokio::test]
async fn what_can_be_no_baseline_is_refused_and_the_same_call_again_does_nothing() {
    let (beside, green, fresh) = (Beside::new(STEPS).await, named("green").await, named("fresh").await);
    let proxy = beside.open().await;
    let post = async |more: Value| {
        let mut body = json!({ "revision": "v2", "endpoints": [green.url()] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = proxy.call("POST", "/v1/services/shop/rollouts", JSON, &body.to_string()).await;
        (answer.status(), answer.text().to_owned())
    };
    for (more, status, said) in [
        (
            json!({ "backend": "fresh" }),
            409,
            "fresh is what the release goes into, and by the file the baseline of shop",
        ),
        (json!({ "baseline_endpoints": [beside.shop.blue.url()] }), 409, "is stable, and a baseline is a fresh copy"),
        (json!({ "baseline_endpoints": [green.url()] }), 409, "is the new release, and a baseline is a fresh copy"),
        (json!({ "baseline_endpoints": ["https://a"] }), 422, "the endpoints of fresh are http in proxy.toml"),
        (json!({ "baseline_endpoints": ["a:80"] }), 422, "has no scheme"),
    ] {
        let (got, text) = post(more.clone()).await;
        assert!(got == status && text.contains(said), "{more}: {got} {text}");
    }
    assert_eq!(command(&proxy, &["weights", "shop", "blue=90", "green=0", "fresh=10"]).await.code, Some(0));
    let (status, text) = post(json!({})).await;
    assert!(status == 409 && text.contains("the baseline fresh has a weight of 10, and begins with none"), "{text}");
    assert_eq!(command(&proxy, &["reset", "shop"]).await.code, Some(0));
    assert_eq!(command(&proxy, &["drain", "shop/fresh"]).await.code, Some(0));
    let (status, text) = post(json!({})).await;
    assert!(status == 409 && text.contains("the baseline fresh is drained by ada"), "{text}");
    assert_eq!(command(&proxy, &["undrain", "shop/fresh"]).await.code, Some(0));

    let at = json!({ "baseline_endpoints": [fresh.url()] });
    assert_eq!(post(at.clone()).await.0, 201);
    assert_eq!((post(at).await.0, post(json!({})).await.0), (200, 200), "it is there already");
    let (status, text) = post(json!({ "baseline_endpoints": [beside.old_fresh.url()] })).await;
    assert!(status == 409 && text.contains("is under way"), "{text}");

    let plain = Shop::new(STEPS).await;
    let proxy = plain.open().await;
    let refused = deploy(&proxy, "v2", &green, &["--baseline-endpoint", &fresh.url()]).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("rollouts of shop have no baseline; baseline = \"NAME\" in"), "{}", refused.err);
}
