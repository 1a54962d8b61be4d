//! A backend that fails more often than stable takes itself out, and what people can do about it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Proxy, Ran, Refusing, Setup, Signal, Upstream, Wire, backend, eventually, get, named, tidegate, within,
};

const FAILING: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno";
const MISSING: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
const CUT: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbut these are fewer";
const WELL: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// An endpoint that changes its mind.
struct Moody {
    upstream: Upstream,
    mood: Arc<AtomicU8>,
}

impl Moody {
    async fn new(moods: &'static [&'static [u8]]) -> Self {
        let mood = Arc::new(AtomicU8::new(0));
        let now = Arc::clone(&mood);
        let upstream = Upstream::responding(move |_| moods[usize::from(now.load(Ordering::SeqCst))].to_vec()).await;
        Self { upstream, mood }
    }

    fn turn(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }
}

/// An endpoint that always answers alike; one that cuts its answers off ends the connection with them.
async fn answering(answer: &'static [u8]) -> Upstream {
    Upstream::scripted(move |mut wire, _| async move {
        while wire.next_head().await.is_some() {
            wire.send(answer).await;
            if answer == CUT {
                return;
            }
        }
    })
    .await
}

fn shop(stable: &Upstream, canary: &Upstream) -> String {
    backend("blue", 95.0, stable) + &backend("canary", 5.0, canary)
}

async fn start(stable: &Upstream, canary: &Upstream) -> Proxy {
    Setup::new().settings(&shop(stable, canary)).start().await
}

/// Sends requests one after the other, however they end.
async fn ask(proxy: &Proxy, count: usize) {
    let mut wire = proxy.connect().await;
    for _ in 0..count {
        wire.send(get("/", "")).await;
        let head = wire.head().await;
        let length = head.content_length().unwrap_or(0);
        // A cut answer ends the connection.
        if length == 100 || head.value("connection") == Some("close") {
            wire = proxy.connect().await;
        } else {
            wire.bytes(length).await;
        }
    }
}

/// Sends requests until the canary is drained; at most so many.
async fn ask_until_drained(proxy: &Proxy, most: usize) {
    for _ in 0..most / 20 {
        ask(proxy, 20).await;
        if effective(proxy).await[1] == 0.0 {
            return;
        }
    }
    panic!("still not drained after {most} requests:\n{:#}", proxy.view("/v1/services/shop").await);
}

async fn effective(proxy: &Proxy) -> Vec<f64> {
    let view = proxy.view("/v1/services/shop").await;
    let backends = view["backends"].as_array().expect("backends are a list").iter();
    backends.map(|backend| backend["weight"]["effective"].as_f64().expect("a weight is a number")).collect()
}

async fn command(proxy: &Proxy, arguments: &[&str]) -> Ran {
    let admin = proxy.admin().to_string();
    Ran::of(tidegate(arguments).args(["--admin", &admin]).env("TIDEGATE_BY", "ada")).await
}

#[tokio::test]
async fn a_canary_that_answers_500_is_out_within_a_handful_of_requests_and_the_evidence_says_why() {
    let (blue, canary) = (named("blue").await, Upstream::responding(|_| FAILING.into()).await);
    let proxy = start(&blue, &canary).await;
    ask_until_drained(&proxy, 2_000).await;
    ask(&proxy, 200).await;
    let failed = canary.requests();
    assert!(failed.len() <= 6, "{} requests failed", failed.len());
    assert_eq!(effective(&proxy).await, [95.0, 0.0]);

    let event = proxy.event("drained").await;
    assert_eq!((&event["by"], &event["detail"]["backend"]), (&json!("tidegate"), &json!("canary")));
    let evidence = &event["detail"]["evidence"];
    let reason = event["detail"]["reason"].as_str().unwrap();
    // By the row or, where stable was drawn too seldom meanwhile, by the comparison.
    assert!(reason.contains("in a row failed, while blue answered ") || reason.contains("server failures"), "{reason}");
    assert_eq!(evidence["weightiest"], "server");
    assert_eq!(evidence["only_endpoint"], json!(canary.address.to_string()));
    assert_eq!(evidence["first"]["id"], json!(failed[0].head.value("x-request-id").unwrap()));
    let last = evidence["last"]["id"].as_str().unwrap();
    assert!(failed.iter().any(|request| request.head.value("x-request-id") == Some(last)), "{evidence:#}");
    assert!(evidence["kinds"][0]["ratio_at_least"].as_f64().unwrap() > 2.0, "{evidence:#}");

    let status = command(&proxy, &["status", "shop"]).await.out;
    assert!(status.contains("canary is drained by guard at "), "{status}");
    proxy.metric_becomes("tidegate_guard_drains_total", "", 1).await;
    proxy.metric_becomes("tidegate_backend_drained", "canary", 1).await;
}

#[tokio::test]
async fn a_verdict_is_in_force_on_every_worker_at_once() {
    /// A hundred times what it takes, since other tests run beside this one; to look once a second would take longer.
    const LATEST: Duration = Duration::from_millis(250);
    let (broken, asked) = (Arc::new(AtomicU8::new(0)), Arc::new(Mutex::new(SystemTime::UNIX_EPOCH)));
    let (told, noted) = (Arc::clone(&broken), Arc::clone(&asked));
    let canary = Upstream::responding(move |_| {
        *noted.lock().unwrap() = SystemTime::now();
        if told.load(Ordering::SeqCst) == 1 { FAILING.into() } else { WELL.into() }
    })
    .await;
    let blue = answering(WELL).await;
    let settings = backend("blue", 80.0, &blue) + &backend("canary", 20.0, &canary);
    let proxy = Setup::new().workers(4).settings(&settings).start().await;
    let over = Arc::new(AtomicU8::new(0));
    let clients = (0..32).map(|_| {
        let (address, over) = (proxy.http(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            while over.load(Ordering::SeqCst) == 0 {
                assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    eventually("all workers to have asked the canary", || canary.connections() >= 4).await;
    broken.store(1, Ordering::SeqCst);
    let event = proxy.event("drained").await;
    tokio::time::sleep(2 * LATEST).await;
    over.store(1, Ordering::SeqCst);
    for client in clients {
        client.await.expect("every request is answered");
    }
    let decided = humantime::parse_rfc3339(event["at"].as_str().expect("an event has a time")).expect("a time");
    // Times are told to the millisecond.
    let late = asked.lock().unwrap().duration_since(decided).unwrap_or_default();
    assert!(late < LATEST, "{late:?} after the verdict");
}

#[tokio::test]
async fn a_canary_that_knows_nothing_or_cuts_its_answers_off_is_out_as_well() {
    for (answer, kind, most) in [(MISSING, "client", 9), (CUT, "server", 6)] {
        let (blue, canary) = (answering(WELL).await, answering(answer).await);
        let proxy = start(&blue, &canary).await;
        ask_until_drained(&proxy, 2_000).await;
        let event = proxy.event("drained").await;
        let evidence = &event["detail"]["evidence"];
        assert_eq!(evidence["weightiest"], kind);
        // Of those that it heard of until then: more are under way while it thinks, on a machine that lets it wait.
        let kinds = evidence["kinds"].as_array().unwrap();
        let failures = kinds.iter().find(|each| each["kind"] == kind).map(|each| each["candidate"].as_u64().unwrap());
        assert!(failures.is_some_and(|failures| failures <= most), "{evidence:#}");
    }
}

#[tokio::test]
async fn backends_that_fail_alike_both_stay() {
    let (blue, canary) = (answering(FAILING).await, answering(FAILING).await);
    let proxy = start(&blue, &canary).await;
    ask(&proxy, 2_000).await;
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
    assert_eq!(proxy.events("drained").await, [json!(null); 0]);
}

#[tokio::test]
async fn a_stable_that_fails_alone_raises_an_alarm_and_nobody_is_moved() {
    let (blue, canary) = (answering(FAILING).await, answering(WELL).await);
    let settings = "[services.shop]\nstable = \"blue\"\n".to_owned()
        + &backend("blue", 50.0, &blue)
        + &backend("canary", 50.0, &canary);
    let proxy = Setup::new().settings(&settings).start().await;
    ask(&proxy, 400).await;
    let event = proxy.event("stable_alarm").await;
    assert_eq!(event["detail"]["stable"], "blue");
    assert_eq!(effective(&proxy).await, [50.0, 50.0]);
    assert_eq!(proxy.view("/v1/services/shop").await["stable_alarm"], true);
    // Whoever turns the guard off doesn't leave its alarm behind.
    assert_eq!(command(&proxy, &["guard", "off"]).await.code, Some(0));
    let over = async {
        while !proxy.view("/v1/services/shop").await["stable_alarm"].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the alarm to be over", over).await;
}

#[tokio::test]
async fn a_guard_that_observes_says_once_what_it_would_have_done() {
    let (blue, canary) = (named("blue").await, Upstream::responding(|_| MISSING.into()).await);
    let settings = "[services.shop]\nguard = \"observe\"\n".to_owned() + &shop(&blue, &canary);
    let proxy = Setup::new().settings(&settings).start().await;
    ask(&proxy, 1_000).await;
    let event = proxy.event("would_drain").await;
    assert!(event["detail"]["reason"].as_str().unwrap().contains("answers of 4xx"), "{event:#}");
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
    proxy.metric_becomes("tidegate_guard_would_drain_total", "", 1).await;
}

#[tokio::test]
async fn the_kill_switch_holds_for_all_services_and_over_a_restart() {
    let state = TempDir::new().expect("there is room for temporary files");
    let (blue, canary) = (named("blue").await, Upstream::responding(|_| MISSING.into()).await);
    let setup = || Setup::new().state_dir(state.path().to_str().unwrap()).settings(&shop(&blue, &canary));
    let mut proxy = setup().start().await;
    let said = command(&proxy, &["guard", "off"]).await;
    assert_eq!((said.code, said.out.trim()), (Some(0), "the guard judges nobody; back: tidegate guard on"));
    ask(&proxy, 600).await;
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
    assert!(command(&proxy, &["status"]).await.out.contains("the guard judges nobody"));
    proxy.signal(Signal::TERM);
    proxy.wait().await;

    let proxy = setup().start().await;
    assert_eq!(proxy.view("/v1/guard").await, json!({ "at_most": "off" }));
    ask(&proxy, 600).await;
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
    assert_eq!(command(&proxy, &["guard", "on"]).await.code, Some(0));
    ask_until_drained(&proxy, 2_000).await;
    proxy.told("guard_changed", 2).await;
}

#[tokio::test]
async fn whoever_stops_the_guard_live_has_nothing_else_take_its_place() {
    let (blue, canary) = (named("blue").await, answering(FAILING).await);
    let settings = "[services.shop]\nrescue = \"off\"\n".to_owned() + &shop(&blue, &canary);
    let proxy = Setup::new().settings(&settings).start().await;
    assert_eq!(command(&proxy, &["guard", "off"]).await.code, Some(0));
    ask(&proxy, 600).await;
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
    assert_eq!(proxy.metric("tidegate_endpoint_ejections_total", "").await, 0);
}

#[tokio::test]
async fn a_drain_outlives_a_kill_and_ends_with_a_new_revision() {
    let state = TempDir::new().expect("there is room for temporary files");
    let (blue, canary) = (named("blue").await, Upstream::responding(|_| MISSING.into()).await);
    let settings = |revision: &str| shop(&blue, &canary) + &format!("revision = {revision:?}\n");
    let setup = || Setup::new().state_dir(state.path().to_str().unwrap());
    let mut proxy = setup().settings(&settings("sha:1")).start().await;
    ask_until_drained(&proxy, 2_000).await;
    proxy.event("drained").await;
    proxy.signal(Signal::KILL);
    proxy.wait().await;

    let mut proxy = setup().settings(&settings("sha:1")).start().await;
    assert_eq!(effective(&proxy).await, [95.0, 0.0]);
    let before = canary.requests().len();
    ask(&proxy, 200).await;
    assert_eq!(canary.requests().len(), before);
    proxy.shift(r#"{"blue": 50, "canary": 50}"#).await;
    assert_eq!(effective(&proxy).await, [50.0, 0.0], "weights don't bring it back");
    proxy.rewrite(&settings("sha:2"));
    proxy.reload_well().await;
    assert_eq!(effective(&proxy).await, [50.0, 50.0]);
    assert_eq!(proxy.event("undrained").await["detail"]["revision"], "sha:1");
}

#[tokio::test]
async fn a_restart_places_no_fresh_stake() {
    let state = TempDir::new().expect("there is room for temporary files");
    let (blue, canary) = (answering(FAILING).await, answering(FAILING).await);
    let setup = || Setup::new().state_dir(state.path().to_str().unwrap()).settings(&shop(&blue, &canary));
    let mut proxy = setup().start().await;
    ask(&proxy, 300).await;
    proxy.signal(Signal::TERM);
    proxy.wait().await;
    let proxy = setup().start().await;
    let judging = async {
        loop {
            if let Some(trial) = proxy.view("/v1/services/shop").await["trials"].get(0) {
                return trial.clone();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let trial = within("a trial to be under way", judging).await;
    // Of four comparisons, the one that has counted 300 failures has next to nothing left; the others haven't begun.
    let e_value = trial["e_value"].as_f64().unwrap();
    assert!((0.75..0.76).contains(&e_value), "{trial:#}");
}

#[tokio::test]
async fn a_restart_forgets_no_drain_so_that_each_return_has_less_to_spend() {
    let state = TempDir::new().expect("there is room for temporary files");
    let (blue, canary) = (named("blue").await, answering(MISSING).await);
    let setup = || Setup::new().state_dir(state.path().to_str().unwrap()).settings(&shop(&blue, &canary));
    for needed in ["10000", "20000", "60000"] {
        let mut proxy = setup().start().await;
        ask_until_drained(&proxy, 4_000).await;
        let view = proxy.view("/v1/services/shop").await;
        let reason = view["backends"][1]["drain"]["reason"].as_str().expect("a reason");
        assert!(reason.ends_with(&format!("needed {needed})")), "{reason}");
        assert_eq!(command(&proxy, &["undrain", "shop/canary"]).await.code, Some(0));
        proxy.signal(Signal::KILL);
        proxy.wait().await;
    }
}

#[tokio::test]
async fn a_person_brings_a_backend_back_and_it_is_judged_anew() {
    let (blue, canary) = (named("blue").await, Moody::new(&[MISSING, WELL]).await);
    let proxy = start(&blue, &canary.upstream).await;
    ask_until_drained(&proxy, 2_000).await;
    canary.turn(1);
    let undrained = command(&proxy, &["undrain", "shop/canary"]).await;
    assert_eq!(undrained.code, Some(0), "{}", undrained.err);
    ask(&proxy, 400).await;
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
    let event = proxy.event("undrained").await;
    assert_eq!((&event["by"], &event["detail"]["reason"]), (&json!("ada (cli)"), &json!("by hand")));
    canary.turn(0);
    ask_until_drained(&proxy, 2_000).await;
    proxy.told("drained", 2).await;
}

#[tokio::test]
async fn a_person_drains_a_backend_and_never_the_last_one() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let rule = "[[services.shop.rules]]\nbackend = \"canary\"\nheaders = { x-preview = \"yes\" }\n";
    let proxy = Setup::new().settings(&(shop(&blue, &canary) + rule)).start().await;
    let drained = command(&proxy, &["drain", "shop/canary", "--reason", "disk is being replaced"]).await;
    assert_eq!(drained.code, Some(0), "{}", drained.err);
    assert!(drained.out.contains("canary is drained by ada (cli) at "), "{}", drained.out);
    let mut wire = proxy.connect().await;
    for _ in 0..100 {
        assert_eq!(wire.exchange(get("/", "x-preview: yes\r\n")).await.text(), "blue", "rules don't reach it either");
    }
    assert_eq!(canary.requests().len(), 0);
    let last = command(&proxy, &["drain", "shop/blue"]).await;
    assert_eq!(last.code, Some(1));
    assert!(last.err.contains("blue is the last backend that could answer"), "{}", last.err);
    let unknown = command(&proxy, &["drain", "shop/green"]).await;
    assert!(unknown.err.contains("the service has no backend \"green\"; it has: blue, canary"), "{}", unknown.err);
    assert_eq!(proxy.event("drained").await["detail"]["reason"], "disk is being replaced");
}

#[tokio::test]
async fn a_second_drain_gives_another_reason_and_none_takes_none_away() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let proxy = start(&blue, &canary).await;
    for (reason, shown) in [("", "no reason given"), ("its disk", "its disk"), ("its fan", "its fan"), ("", "its fan")]
    {
        let arguments = ["drain", "shop/canary", "--reason", reason];
        let drained = command(&proxy, &arguments[..if reason.is_empty() { 2 } else { 4 }]).await;
        assert_eq!(drained.code, Some(0), "{}", drained.err);
        let line = drained.out.lines().find(|line| line.contains("is drained by ada")).unwrap_or_default();
        assert!(line.ends_with(&format!(": {shown}")), "{}", drained.out);
    }
    let told = proxy.told("drained", 3).await;
    let told: Vec<&str> = told.iter().filter_map(|event| event["detail"]["reason"].as_str()).collect();
    assert_eq!(told, ["no reason given", "its disk", "its fan"]);
    let path = "/v1/services/shop/backends/canary/drain";
    let long = proxy.call("PUT", path, "", &json!({ "reason": "x".repeat(1025) }).to_string()).await;
    assert_eq!((long.status(), long.text().contains("1024 bytes at most")), (400, true), "{}", long.text());
}

#[tokio::test]
async fn nobody_is_drained_in_favour_of_a_stable_that_can_not_answer() {
    let (nobody, canary) = (Refusing::new(), named("canary").await);
    let settings = format!(
        "[services.shop.backends.blue]\nweight = 95\nendpoints = [{:?}]\n\
         health = {{ kind = \"tcp\", interval = \"50ms\", timeout = \"1s\" }}\n",
        nobody.url()
    ) + &backend("canary", 5.0, &canary);
    let proxy = Setup::new().settings(&settings).start().await;
    let down = async {
        while effective(&proxy).await != [0.0, 5.0] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("blue to be out", down).await;
    let drained = command(&proxy, &["drain", "shop/canary"]).await;
    assert_eq!(drained.code, Some(1), "{}", drained.out);
    assert!(drained.err.contains("canary is the last backend that could answer"), "{}", drained.err);
    assert_eq!(proxy.fetch("/").await.text(), "canary");
}

#[tokio::test]
async fn a_person_drains_one_endpoint_of_several_and_never_the_last_one() {
    let (one, other) = (named("one").await, named("other").await);
    let proxy = Setup::new().backend(&[one.url(), other.url()], "").start().await;
    let place = |upstream: &Upstream| format!("shop/blue/{}", upstream.address);
    let drained = command(&proxy, &["drain", &place(&one)]).await;
    assert_eq!(drained.code, Some(0), "{}", drained.err);
    let mut wire = proxy.connect().await;
    for _ in 0..50 {
        assert_eq!(wire.exchange(get("/", "")).await.text(), "other");
    }
    let last = command(&proxy, &["drain", &place(&other)]).await;
    assert_eq!(last.code, Some(1));
    assert!(last.err.contains("is the last backend that could answer"), "{}", last.err);
    let unknown = command(&proxy, &["drain", "shop/blue/127.0.0.1:1"]).await;
    assert!(unknown.err.contains("the backend has no endpoint \"127.0.0.1:1\"; it has: "), "{}", unknown.err);
    let undrained = command(&proxy, &["undrain", &place(&one)]).await;
    assert_eq!(undrained.code, Some(0), "{}", undrained.err);
    let both = async { while wire.exchange(get("/", "")).await.text() != "one" {} };
    within("the endpoint to be asked again", both).await;
    assert_eq!(proxy.event("endpoint_drained").await["by"], "ada (cli)");
}

#[tokio::test]
async fn after_a_flip_a_backend_that_fails_by_itself_gives_everything_back() {
    let (blue, green) = (named("blue").await, Moody::new(&[WELL, MISSING, FAILING]).await);
    let settings = backend("blue", 100.0, &blue) + &backend("green", 0.0, &green.upstream);
    let proxy = Setup::new().settings(&settings).start().await;
    proxy.shift(r#"{"blue": 0, "green": 100}"#).await;
    ask(&proxy, 50).await;
    assert_eq!(effective(&proxy).await, [0.0, 100.0]);
    green.turn(2);
    let watched = async {
        while effective(&proxy).await[1] > 0.0 {
            ask(&proxy, 20).await;
        }
    };
    within("green to be drained", watched).await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    let event = proxy.event("drained").await;
    assert!(event["detail"]["reason"].as_str().unwrap().contains("requests failed"), "{event:#}");
}

/// A shop whose canary can be told to stand still, and that knows what is slow.
async fn standing_still(settings: &str) -> (Proxy, Upstream, Upstream, Arc<AtomicU8>) {
    let (blue, still) = (answering(WELL).await, Arc::new(AtomicU8::new(0)));
    let told = Arc::clone(&still);
    let canary = Upstream::scripted(move |mut wire, _| {
        let told = Arc::clone(&told);
        async move {
            while wire.next_head().await.is_some() {
                while told.load(Ordering::SeqCst) == 1 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                if wire.try_send(WELL).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let proxy = Setup::new().settings(&(settings.to_owned() + &shop(&blue, &canary))).start().await;
    let knowing = async {
        while proxy.view("/v1/services/shop").await["slow_after_ms"].is_null() {
            ask(&proxy, 100).await;
        }
    };
    within("what is slow to be known", knowing).await;
    (proxy, blue, canary, still)
}

/// Clients that go on asking until `over`; each answer must be good, and come long before a request is given up.
async fn crowd(address: SocketAddr, over: Arc<AtomicU8>) {
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                let mut wire = Wire::connect(address).await;
                while over.load(Ordering::SeqCst) == 0 {
                    let asked = std::time::Instant::now();
                    assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
                    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("every request is answered in time");
    }
}

#[tokio::test]
async fn a_canary_that_hangs_is_left_at_once_and_in_the_end_for_good_and_nobody_waits_for_it() {
    let (proxy, _blue, _canary, still) = standing_still("").await;
    still.store(1, Ordering::SeqCst);
    let over = Arc::new(AtomicU8::new(0));
    let clients = tokio::spawn(crowd(proxy.http(), Arc::clone(&over)));
    let event = proxy.event("drained").await;
    over.store(1, Ordering::SeqCst);
    clients.await.expect("no client fails");
    let detail = &event["detail"];
    assert!(detail["reason"].as_str().unwrap().starts_with("it stands still again and again: "), "{event:#}");
    assert_eq!(detail["evidence"]["weightiest"], "slow");
    let pauses: Vec<Value> = proxy.events("suspended").await.iter().map(|e| e["detail"]["for_ms"].clone()).collect();
    assert_eq!(pauses, [json!(2000), json!(4000)]);
    assert_eq!(effective(&proxy).await, [95.0, 0.0]);
}

#[tokio::test]
async fn a_canary_that_stands_still_for_a_moment_is_back_in_a_moment() {
    let (proxy, _blue, _canary, still) = standing_still("").await;
    still.store(1, Ordering::SeqCst);
    let over = Arc::new(AtomicU8::new(0));
    let clients = tokio::spawn(crowd(proxy.http(), Arc::clone(&over)));
    proxy.event("suspended").await;
    assert_eq!(effective(&proxy).await, [95.0, 0.0]);
    still.store(0, Ordering::SeqCst);
    proxy.event("resumed").await;
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
    over.store(1, Ordering::SeqCst);
    clients.await.expect("no client fails");
    assert_eq!(proxy.events("drained").await, [json!(null); 0]);
}

#[tokio::test]
async fn a_guard_that_observes_suspends_nobody_and_asks_nobody_else() {
    let (proxy, _blue, _canary, still) = standing_still("[services.shop]\nguard = \"observe\"\n").await;
    still.store(1, Ordering::SeqCst);
    let over = Arc::new(AtomicU8::new(0));
    let clients = tokio::spawn(crowd(proxy.http(), Arc::clone(&over)));
    let event = proxy.event("would_drain").await;
    assert_eq!(event["detail"]["evidence"]["weightiest"], "slow", "{event:#}");
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
    still.store(0, Ordering::SeqCst);
    over.store(1, Ordering::SeqCst);
    clients.await.expect("no client fails");
    for kind in ["suspended", "drained"] {
        assert_eq!(proxy.events(kind).await, [json!(null); 0], "{kind}");
    }
    assert_eq!(proxy.metric("tidegate_hedges_total", "canary").await, 0);
    assert_eq!(proxy.metric("tidegate_guard_suspensions_total", "").await, 0);
}

#[tokio::test]
async fn a_route_judged_by_itself_isn_t_hidden_by_the_others() {
    let canary = Upstream::responding(|request| {
        let broken = request.target() == "/pay" || request.target().ends_with('7');
        if broken { FAILING.into() } else { WELL.into() }
    })
    .await;
    // Everywhere but on /pay, stable fails as the canary does.
    let blue =
        Upstream::responding(|request| if request.target().ends_with('7') { FAILING.into() } else { WELL.into() });
    let blue = blue.await;
    let settings = "[services.shop]\nroutes = [{ path = \"/\" }, { path = \"/pay\", judged = true }]\n".to_owned()
        + &backend("blue", 90.0, &blue)
        + &backend("canary", 10.0, &canary);
    let proxy = Setup::new().settings(&settings).start().await;
    let mut wire = proxy.connect().await;
    let asking = async {
        loop {
            for path in ["/7", "/7", "/7", "/7", "/7", "/7", "/7", "/pay"] {
                wire.exchange(get(path, "")).await;
            }
            if effective(&proxy).await[1] == 0.0 {
                return;
            }
        }
    };
    within("the canary to be drained", asking).await;
    let event = proxy.event("drained").await;
    let route = &event["detail"]["evidence"]["route"];
    assert_eq!((&route["route"], &route["judged"]), (&json!("/pay"), &json!(true)), "{event:#}");
}

#[tokio::test]
async fn a_file_with_its_routes_in_another_order_mixes_up_no_evidence() {
    let canary = Upstream::responding(|request| if request.target() == "/pay" { FAILING.into() } else { WELL.into() });
    let (blue, canary) = (answering(WELL).await, canary.await);
    let settings = |routes: &str| {
        format!("[services.shop]\nstable = \"blue\"\nroutes = [{routes}]\n")
            + &backend("blue", 50.0, &blue)
            + &backend("canary", 50.0, &canary)
    };
    let (all, pay) = ("{ path = \"/\" }", "{ path = \"/pay\" }");
    let mut proxy = Setup::new().settings(&settings(&format!("{all}, {pay}"))).start().await;
    let mut wire = proxy.connect().await;
    let failures = |view: &Value| view["trials"][0]["route"].clone();
    let failing = async {
        while failures(&proxy.view("/v1/services/shop").await).is_null() {
            wire.exchange(get("/pay", "")).await;
        }
    };
    within("a failure of the canary", failing).await;
    let before = failures(&proxy.view("/v1/services/shop").await);
    assert_eq!(before["route"], "/pay");
    proxy.rewrite(&settings(&format!("{pay}, {all}")));
    proxy.reload_well().await;
    assert_eq!(failures(&proxy.view("/v1/services/shop").await), before);
}

#[tokio::test]
async fn probation_lets_a_backend_prove_itself_with_a_few_requests() {
    let (blue, canary) = (named("blue").await, Moody::new(&[MISSING, WELL]).await);
    let settings = "[services.shop]\nprobation = { after = \"1s\", percent = 10, pass = \"1s\" }\n".to_owned();
    let proxy = Setup::new().settings(&(settings + &shop(&blue, &canary.upstream))).start().await;
    ask_until_drained(&proxy, 2_000).await;
    canary.turn(1);
    proxy.event("probation_began").await;
    assert_eq!(effective(&proxy).await, [95.0, 10.0]);
    let proving = async {
        while proxy.events("undrained").await.is_empty() {
            ask(&proxy, 200).await;
        }
    };
    within("the canary to be back", proving).await;
    assert_eq!(effective(&proxy).await, [95.0, 5.0]);
}

#[tokio::test]
async fn a_backend_that_fails_on_probation_is_drained_again_and_waits_twice_as_long() {
    let (blue, canary) = (named("blue").await, answering(MISSING).await);
    let settings = "[services.shop]\nprobation = { after = \"1s\", percent = 10, pass = \"1m\" }\n".to_owned();
    let proxy = Setup::new().settings(&(settings + &shop(&blue, &canary))).start().await;
    let asking = async {
        while proxy.events("probation_began").await.len() < 3 {
            ask(&proxy, 40).await;
        }
    };
    within("three returns", asking).await;
    let at = |event: &Value| humantime::parse_rfc3339(event["at"].as_str().expect("a time")).expect("a time");
    let (drained, began) = (proxy.events("drained").await, proxy.events("probation_began").await);
    for (nth, pause_s) in [1.0, 2.0, 4.0_f64].into_iter().enumerate() {
        let pause = at(&began[nth]).duration_since(at(&drained[nth])).expect("it came back afterwards");
        assert!(pause.as_secs_f64() >= pause_s, "{nth}: {pause:?}");
    }
    for (nth, needed) in ["10000", "20000", "60000"].into_iter().enumerate() {
        let reason = drained[nth]["detail"]["reason"].as_str().expect("a reason");
        assert!(reason.ends_with(&format!("needed {needed})")), "{reason}");
    }
}
