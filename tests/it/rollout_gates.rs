//! What others have to say before a rollout goes on: smoke checks, webhooks, metrics, and the calendar.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::rollouts::{Asking, Shop, becomes, command, deploy, latest, reaches, shares};
use crate::support::{Proxy, Received, Refusing, Signal, Upstream, eventually, free_address, named};

const NO: &str = "HTTP/1.1 403 Forbidden\r\ncontent-length: 9\r\n\r\nnot today";
const YES: &str = "HTTP/1.1 204 No Content\r\n\r\n";
/// A step that is over at once.
const STEPS: &str = r#"steps = [{ approve = "ada" }, { weight = 100, watch = "0s" }]"#;

fn hook(to: &str, more: &str) -> String {
    format!("{STEPS}\n[services.shop.rollout.webhooks.ci]\nurl = {to:?}\n{more}\n")
}

fn said(request: &Received) -> Value {
    serde_json::from_slice(&request.body).expect("a hook is told JSON")
}

/// What the present step waits for, once that contains `text`.
async fn waits_for(proxy: &Proxy, text: &str) -> Value {
    let waiting = async {
        loop {
            let view = latest(proxy).await;
            if view["progress"]["missing"].as_str().is_some_and(|missing| missing.contains(text)) {
                return view;
            }
            assert!(view.get("ended").is_none(), "it is over: {view:#}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    crate::support::within(&format!("a rollout that waits for {text:?}"), waiting).await
}

#[tokio::test]
async fn a_hook_is_asked_at_each_point_and_each_of_its_calls_is_signed() {
    let ci = Upstream::answering(YES).await;
    let more = r#"at = ["before", "step", "promotion", "after"]
secret = { file = "hook.secret" }
headers = { authorization = "Bearer us" }"#;
    let (shop, green) = (Shop::new(&hook(&ci.url(), more)).await, named("green").await);
    let setup = shop.setup().file("hook.secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    let proxy = setup.settings(&shop.settings()).start().await;
    deploy(&proxy, "v2", &green, &["--commit", "4f2a"]).await;
    let view = reaches(&proxy, 1).await;
    let reason = view["steps"][0]["reason"].as_str().unwrap();
    assert_eq!(reason, "its endpoints are up; webhook ci: it answered 204 No Content");
    command(&proxy, &["approve", "shop"]).await;
    becomes(&proxy, "completed").await;
    eventually("the end is told", || ci.requests().len() == 4).await;
    let requests = ci.requests();
    let told: Vec<Value> = requests.iter().map(said).collect();
    let points: Vec<&str> = told.iter().map(|told| told["point"].as_str().unwrap()).collect();
    assert_eq!(points, ["before", "step", "step", "after"]);
    assert_eq!(
        (&told[0]["revision"], &told[0]["commit"], &told[0]["next"]),
        (&json!("v2"), &json!("4f2a"), &json!("approval by ada"))
    );
    assert_eq!((&told[3]["outcome"], &told[3]["receipt"]["failures"]), (&json!("completed"), &json!(0)));
    let mut ids = Vec::new();
    for request in &requests {
        let field = |name: &str| request.head.value(name).unwrap_or_default().to_owned();
        assert_eq!((field("authorization"), field("content-type")), ("Bearer us".into(), "application/json".into()));
        let signer = tidegate::outbound::Signer::new(&tidegate::config::Secret::new(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
        ));
        let (id, at) = (field("webhook-id"), field("webhook-timestamp").parse().unwrap());
        assert_eq!(field("webhook-signature"), signer.sign(&id, at, &request.body));
        ids.push(id);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each is another message");
}

#[tokio::test]
async fn a_hook_that_says_no_pauses_a_rollout_or_takes_it_back_as_the_file_says() {
    for (on_failure, state) in [("pause", "paused"), ("rollback", "rolled back")] {
        let ci = Upstream::answering(NO).await;
        let more = format!("at = [\"before\", \"rollback\"]\non_failure = {on_failure:?}");
        let (shop, green) = (Shop::new(&hook(&ci.url(), &more)).await, named("green").await);
        let proxy = shop.open().await;
        deploy(&proxy, "v2", &green, &[]).await;
        let view = becomes(&proxy, state).await;
        assert_eq!(view["reason"], "webhook ci: it answered 403 Forbidden: not today");
        assert_eq!(shares(&proxy).await, [1.0, 0.0]);
        if state == "paused" {
            // It is asked anew; and where a person knows better, they can say so.
            assert_eq!(command(&proxy, &["resume", "shop"]).await.code, Some(0));
            eventually("it is asked again", || ci.requests().len() >= 2).await;
            becomes(&proxy, "paused").await;
            assert_eq!(command(&proxy, &["abort", "shop"]).await.code, Some(0));
        }
        let points = || ci.requests().iter().map(|request| said(request)["point"].clone()).collect::<Vec<_>>();
        eventually("it is told of the end", || points().last() == Some(&json!("rollback"))).await;
    }
}

#[tokio::test]
async fn a_hook_that_hangs_or_is_gone_pauses_a_rollout_whatever_a_no_would_mean() {
    let hanging = Upstream::scripted(|mut wire, _| async move {
        wire.next_head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let (gone, garbage) = (Refusing::new(), Upstream::answering("SSH-2.0-OpenSSH_9.2p1\r\n\r\n").await);
    for (url, wanted) in [
        (hanging.url(), "no answer within 100ms"),
        (gone.url(), "connect failed"),
        (garbage.url(), "no answer: invalid HTTP version parsed"),
    ] {
        let more = "at = [\"before\"]\non_failure = \"rollback\"\ntimeout = \"100ms\"\nretries = 1";
        let (shop, green) = (Shop::new(&hook(&url, more)).await, named("green").await);
        let proxy = shop.open().await;
        deploy(&proxy, "v2", &green, &[]).await;
        let view = becomes(&proxy, "paused").await;
        let reason = view["reason"].as_str().unwrap();
        assert!(reason.starts_with("webhook ci says nothing: ") && reason.contains(wanted), "{reason}");
        assert_eq!(shares(&proxy).await, [1.0, 0.0]);
    }
    assert_eq!(hanging.connections(), 2, "it was tried again");
}

#[tokio::test]
async fn a_hook_that_is_busy_is_asked_again_with_the_same_id_and_progress_says_so() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let tries = AtomicUsize::new(0);
    let ci = Upstream::responding(move |_| {
        let first = tries.fetch_add(1, Ordering::SeqCst) < 2;
        (if first { busy } else { YES }).into()
    })
    .await;
    let (shop, green) = (Shop::new(&hook(&ci.url(), "at = [\"before\"]")).await, named("green").await);
    let proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    waits_for(&proxy, "webhook ci: no answer yet").await;
    let told = command(&proxy, &["rollouts", "shop"]).await.out;
    assert!(told.contains("webhook ci: pending (no answer yet)"), "{told}");
    reaches(&proxy, 1).await;
    let requests = ci.requests();
    assert_eq!(requests.len(), 3);
    let ids: Vec<_> = requests.iter().map(|request| request.head.value("webhook-id").unwrap().to_owned()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test]
async fn after_a_crash_the_approval_is_remembered_and_the_same_is_asked_again() {
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    let ci = Upstream::responding(move |_| {
        let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        (if is_open.load(Ordering::SeqCst) { YES } else { busy }).into()
    })
    .await;
    let plan = hook(&ci.url(), "at = [\"promotion\"]\nretries = 10");
    let (shop, green) = (Shop::new(&plan).await, named("green").await);
    let mut proxy = shop.open().await;
    deploy(&proxy, "v2", &green, &[]).await;
    reaches(&proxy, 1).await;
    assert_eq!(ci.requests().len(), 0, "the hook is for the promotion alone");
    assert_eq!(command(&proxy, &["approve", "shop"]).await.code, Some(0));
    assert!(command(&proxy, &["approve", "shop"]).await.err.contains("waits for no approval"));
    eventually("it is asked", || !ci.requests().is_empty()).await;
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    let before = ci.requests().len();
    let proxy = shop.open().await;
    eventually("it is asked again", || ci.requests().len() > before).await;
    assert_eq!((&latest(&proxy).await["step"], shares(&proxy).await), (&json!(1), vec![1.0, 0.0]));
    open.store(true, Ordering::SeqCst);
    becomes(&proxy, "completed").await;
    let ids: Vec<_> = ci.requests().iter().map(|request| request.head.value("webhook-id").map(str::to_owned)).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

/// A release that answers with JSON.
async fn answering(body: &'static str) -> Upstream {
    Upstream::responding(move |received| {
        let body = if received.target() == "/stock" { body } else { "{}" };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-version: 2";
        format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await
}

const SMOKE: &str = r#"
[services.shop.rollout.smoke]
retries = 0
checks = [
    { path = "/", host = "shop.example.com", headers = { x-probe = "yes" }, answer_headers = { x-version = "2" } },
    { path = "/stock", json = { "$.items[*].stock" = 1, "$.open" = true } },
    { path = "/search", method = "POST", body = '{"q": "tide"}', headers = { content-type = "application/json" } },
]"#;

#[tokio::test]
async fn a_release_that_passes_its_smoke_checks_gets_requests_and_one_that_fails_gets_none() {
    let shop = Shop::new(&format!("{STEPS}{SMOKE}")).await;
    let mut proxy = shop.open().await;
    let good = answering(r#"{"open": true, "items": [{"stock": 1}, {"stock": 1.0}]}"#).await;
    deploy(&proxy, "v2", &good, &[]).await;
    let view = reaches(&proxy, 1).await;
    assert_eq!(view["steps"][0]["reason"], "its endpoints are up; smoke checks: 3 requests, 1 endpoints");
    let heads = good.requests();
    assert_eq!(heads.iter().map(Received::target).collect::<Vec<_>>(), ["/", "/stock", "/search"]);
    assert_eq!((heads[2].head.line.split(' ').next(), &heads[2].body[..]), (Some("POST"), &br#"{"q": "tide"}"#[..]));
    assert_eq!(heads[2].head.value("content-type"), Some("application/json"));
    assert_eq!(heads[2].head.content_length(), Some(13));
    assert_eq!((heads[0].head.value("host"), heads[0].head.value("x-probe")), (Some("shop.example.com"), Some("yes")));
    command(&proxy, &["abort", "shop"]).await;

    for (body, wanted) in [
        (r#"{"open": true, "items": [{"stock": 1}, {"stock": 0}]}"#, "$.items[*].stock should be 1.0, and is 0"),
        (r#"{"open": true, "items": []}"#, "its body has no $.items[*].stock"),
        ("<html>", "its body is no JSON"),
    ] {
        let bad = answering(body).await;
        deploy(&proxy, wanted, &bad, &[]).await;
        let view = becomes(&proxy, "rolled back").await;
        let reason = view["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("smoke checks: GET /stock of http://127.0.0.1:") && reason.contains(wanted),
            "{reason}"
        );
        assert_eq!(view["receipt"]["requests"], 0, "clients never saw it");
        let again = deploy(&proxy, wanted, &bad, &[]).await;
        assert!(again.err.contains("was rolled back at"), "{}", again.err);
        // One that is under way is no longer in the way of the next.
        assert_eq!(shares(&proxy).await, [1.0, 0.0]);
    }
    let hanging = Upstream::scripted(|mut wire, _| async move {
        wire.next_head().await;
        std::future::pending::<()>().await;
    })
    .await;
    proxy.rewrite(
        &shop.settings_with(&format!("{STEPS}{}", SMOKE.replace("retries", "timeout = \"50ms\"\nretries")), ""),
    );
    proxy.reload_well().await;
    deploy(&proxy, "hanging", &hanging, &[]).await;
    let view = becomes(&proxy, "rolled back").await;
    assert!(view["reason"].as_str().unwrap().ends_with("no answer within 50ms"), "{view:#}");
}

/// A Prometheus that answers with what it is told to, by its API's form.
async fn prometheus(values: &'static [&'static str]) -> Upstream {
    let asked = AtomicUsize::new(0);
    Upstream::responding(move |_| {
        let value = values[asked.fetch_add(1, Ordering::SeqCst).min(values.len() - 1)];
        let body = format!(
            r#"{{"status":"success","data":{{"resultType":"vector","result":[{{"metric":{{}},"value":[1,"{value}"]}}]}}}}"#
        );
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await
}

fn metric(url: &str, more: &str) -> String {
    let steps = r#"steps = [{ weight = 50, hold = "100ms" }, { weight = 100, watch = "0s" }]"#;
    let query = r#"query = 'errors{revision="{revision}",backend="{backend}"}'"#;
    format!("{steps}\n[services.shop.rollout.metrics.errors]\nurl = {url:?}\n{query}\ninterval = \"50ms\"\n{more}\n")
}

#[tokio::test]
async fn a_metric_within_bounds_lets_a_rollout_go_on_and_one_that_leaves_them_takes_it_back() {
    let good = prometheus(&["2"]).await;
    let (shop, green) = (Shop::new(&metric(&format!("{}/prefix/", good.url()), "max = 3")).await, named("green").await);
    let proxy = shop.open().await;
    let asking = Asking::on(&proxy, "", Duration::ZERO).await;
    deploy(&proxy, "v\"2", &green, &[]).await;
    let view = becomes(&proxy, "completed").await;
    assert!(view["steps"][1]["reason"].as_str().unwrap().ends_with("; metric errors: it is 2"), "{view:#}");
    let query = "/prefix/api/v1/query?query=errors%7Brevision%3D%22v%5C%222%22%2Cbackend%3D%22green%22%7D";
    assert_eq!(good.requests()[0].target(), query);
    asking.finish().await;

    // It flaps once, which two in a row aren't; then it stays bad.
    let bad = prometheus(&["2", "4", "2", "4", "5"]).await;
    let plan = metric(&bad.url(), "max = 3\nfailures = 2").replace("hold = \"100ms\"", "hold = \"5m\"");
    let shop = Shop::new(&plan).await;
    let proxy = shop.open().await;
    let asking = Asking::on(&proxy, "", Duration::from_millis(1)).await;
    deploy(&proxy, "v2", &green, &[]).await;
    let view = becomes(&proxy, "rolled back").await;
    assert_eq!(view["reason"], "metric errors: it is 5, above 3");
    assert_eq!(shares(&proxy).await, [1.0, 0.0]);
    assert!(bad.requests().len() >= 5, "once isn't twice in a row");
    let ended = &proxy.event("rollout_ended").await["detail"];
    assert_eq!(ended["evidence"]["gates"][0]["standing"], "refused");
    asking.finish().await;
}

#[tokio::test]
async fn a_prometheus_that_is_down_or_answers_garbage_holds_a_rollout_until_its_deadline() {
    let garbage = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>").await;
    let (gone, empty) = (Refusing::new(), prometheus(&["NaN"]).await);
    for (url, wanted) in [
        (garbage.url(), "it answered 200 OK, and no Prometheus would say: \"<html>\""),
        (gone.url(), "connect failed"),
        (empty.url(), "the query's result is no number: NaN"),
    ] {
        let plan = format!("deadline = \"2s\"\n{}", metric(&url, "max = 3"));
        let (shop, green) = (Shop::new(&plan).await, named("green").await);
        let proxy = shop.open().await;
        let asking = Asking::on(&proxy, "", Duration::ZERO).await;
        deploy(&proxy, "v2", &green, &[]).await;
        let view = becomes(&proxy, "paused").await;
        let reason = view["reason"].as_str().unwrap();
        assert!(reason.starts_with("no progress within 2s"), "{reason}");
        assert!(reason.contains(": metric errors: ") && reason.contains(wanted), "{reason}");
        assert_eq!(view["step"], 1, "nothing is taken back for want of an answer");
        asking.finish().await;
    }
}

#[tokio::test]
async fn in_a_freeze_nobody_deploys_or_promotes_without_a_reason_and_the_way_back_is_free() {
    let freeze = "freeze = [{ dates = [\"2020-01-01\", \"2999-12-31\"], time_zone = \"Europe/Berlin\" }]";
    let frozen = format!("{freeze}\n{STEPS}");
    let (shop, green) = (Shop::new(&frozen).await, named("green").await);
    let mut proxy = shop.open().await;
    let refused = deploy(&proxy, "v2", &green, &[]).await;
    assert_eq!(refused.code, Some(1));
    let window = "releases are frozen (2020-01-01 to 2999-12-31, Europe/Berlin)";
    assert!(refused.err.contains(window) && refused.err.contains("--override-freeze"), "{}", refused.err);
    assert_eq!(deploy(&proxy, "v2", &green, &["--override-freeze", " "]).await.code, Some(1), "a reason is a text");
    assert_eq!(deploy(&proxy, "v2", &green, &["--override-freeze", "a hole is closed"]).await.code, Some(0));
    reaches(&proxy, 1).await;
    assert_eq!(latest(&proxy).await["freeze_override"], json!({ "by": "ada (cli)", "why": "a hole is closed" }));
    let overridden = proxy.event("freeze_overridden").await;
    assert_eq!((&overridden["by"], &overridden["detail"]["why"]), (&json!("ada (cli)"), &json!("a hole is closed")));
    assert_eq!(command(&proxy, &["approve", "shop"]).await.code, Some(0), "it holds for the whole rollout");
    becomes(&proxy, "completed").await;
    assert_eq!(command(&proxy, &["rollback", "shop"]).await.code, Some(0));
    assert_eq!(shares(&proxy).await, [1.0, 0.0]);

    // The freeze begins while a rollout is under way.
    proxy.rewrite(&shop.settings_with(STEPS, ""));
    proxy.reload_well().await;
    assert_eq!(deploy(&proxy, "v3", &green, &[]).await.code, Some(0));
    reaches(&proxy, 1).await;
    proxy.rewrite(&shop.settings());
    proxy.reload_well().await;
    waits_for(&proxy, window).await;
    proxy.metric_becomes("tidegate_rollout_state", "state=\"under_way\"", 1).await;
    proxy.metric_becomes("tidegate_rollout_step", "", 1).await;
    proxy.metric_becomes("tidegate_rollout_steps", "", 2).await;
    for word in [&["approve", "shop"][..], &["promote", "shop", "--full"]] {
        let refused = command(&proxy, word).await;
        assert!(refused.code == Some(1) && refused.err.contains(window), "{}", refused.err);
    }
    let approved = command(&proxy, &["approve", "shop", "--override-freeze", "it can't wait"]).await;
    assert_eq!(approved.code, Some(0), "{}", approved.err);
    becomes(&proxy, "completed").await;
    proxy.told("freeze_overridden", 2).await;
    let ended = async |outcome: &str| proxy.metric("tidegate_rollouts_total", &format!("outcome=\"{outcome}\"")).await;
    assert_eq!((ended("completed").await, ended("rolled_back").await, ended("aborted").await), (2, 1, 0));
    proxy.metric_becomes("tidegate_rollout_state", "service=\"shop\",state=\"completed\"", 1).await;
    proxy.metric_becomes("tidegate_rollout_share", "service=\"shop\"", 1).await;
}

/// Debian's Prometheus, on an address of its own.
struct Server {
    process: std::process::Child,
    address: std::net::SocketAddr,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::TempDir::new().expect("there is room for temporary files");
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, "global: {}\n").expect("the folder is ours");
        let address = free_address();
        let process = std::process::Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("prometheus is installed");
        let server = Self { process, address, _folder: folder };
        let ready = async {
            loop {
                if let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
                    use tokio::io::{AsyncReadExt, AsyncWriteExt};
                    let asked = b"GET /-/ready HTTP/1.0\r\n\r\n";
                    let mut answer = String::new();
                    if stream.write_all(asked).await.is_ok()
                        && stream.read_to_string(&mut answer).await.is_ok()
                        && answer.contains(" 200 OK")
                    {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        crate::support::within("Prometheus", ready).await;
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_real_prometheus_is_understood() {
    let server = Server::start().await;
    let url = format!("http://{}", server.address);
    for (query, state, wanted) in [
        ("vector(2)", "completed", "all steps are done"),
        ("scalar(vector(4))", "rolled back", "metric errors: it is 4, above 3"),
        ("up", "paused", "the query has no result"),
        ("vector(1) or label_replace(vector(2), \"a\", \"b\", \"\", \"\")", "paused", "the query has 2 results"),
        ("sum(", "paused", "it answered 400 Bad Request: invalid parameter \"query\""),
        ("\"text\"", "paused", "the query is for a string"),
    ] {
        let plan = format!("deadline = \"2s\"\n{}", metric(&url, "max = 3"));
        let plan = plan.replace("'errors{revision=\"{revision}\",backend=\"{backend}\"}'", &format!("'{query}'"));
        let (shop, green) = (Shop::new(&plan).await, named("green").await);
        let proxy = shop.open().await;
        let asking = Asking::on(&proxy, "", Duration::ZERO).await;
        deploy(&proxy, "v2", &green, &[]).await;
        let view = becomes(&proxy, state).await;
        assert!(view["reason"].as_str().unwrap().contains(wanted), "{query}: {view:#}");
        asking.finish().await;
    }
}
