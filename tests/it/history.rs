//! What must outlive the process: live weights and events, whatever ends it and whatever happens to the disk.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{Proxy, Ran, Setup, Signal, Upstream, Wire, backend, named, tidegate, within};

const JSON: &str = "content-type: application/json\r\n";

/// A shop of two backends whose state outlives the proxies that use it.
struct Shop {
    state: TempDir,
    blue: Upstream,
    canary: Upstream,
}

impl Shop {
    async fn new() -> Self {
        let state = TempDir::new().expect("there is room for temporary files");
        Self { state, blue: named("blue").await, canary: named("canary").await }
    }

    fn settings(&self, blue: f64, canary: f64) -> String {
        backend("blue", blue, &self.blue) + &backend("canary", canary, &self.canary)
    }

    fn setup(&self) -> Setup {
        Setup::new().state_dir(self.state.path().to_str().expect("the path is text"))
    }

    async fn open(&self) -> Proxy {
        self.setup().settings(&self.settings(90.0, 10.0)).start().await
    }

    fn journal(&self) -> std::path::PathBuf {
        self.state.path().join("journal.db")
    }
}

/// In force, as JSON has them.
async fn weights(proxy: &Proxy) -> Value {
    let view = proxy.view("/v1/services/shop").await;
    json!([0, 1].map(|index| view["backends"][index]["weight"]["effective"].clone()))
}

async fn kinds(proxy: &Proxy) -> Vec<String> {
    let view = proxy.view("/v1/events?limit=1000").await;
    let events = view["events"].as_array().expect("events are a list").iter();
    events.map(|event| event["kind"].as_str().expect("kinds are text").to_owned()).collect()
}

async fn command(proxy: &Proxy, arguments: &[&str]) -> Ran {
    let admin = proxy.admin().to_string();
    Ran::of(tidegate(arguments).args(["--admin", &admin]).env("TIDEGATE_BY", "ada")).await
}

#[tokio::test]
async fn live_weights_outlive_a_kill_at_any_moment_once_they_are_acknowledged() {
    let shop = Shop::new().await;
    let mut proxy = shop.open().await;
    let mut asked = 10;
    for round in 1..=10 {
        // Killed with a change under way, so that only its own commit decides whether it happened.
        let acknowledged = asked + round;
        while asked < acknowledged {
            asked += 1;
            proxy.shift(&format!(r#"{{"blue": 90, "canary": {asked}}}"#)).await;
        }
        asked += 1;
        let mut last = Wire::connect(proxy.admin()).await;
        let body = format!(r#"{{"blue": 90, "canary": {asked}}}"#);
        let length = body.len();
        let head = format!(
            "PUT /v1/services/shop/weights HTTP/1.1\r\nhost: localhost\r\n{JSON}content-length: {length}\r\n\r\n"
        );
        last.send(head + &body).await;
        proxy.signal(Signal::KILL);
        proxy.wait().await;
        proxy = shop.open().await;
        let canary = weights(&proxy).await[1].clone();
        assert!(
            [json!(f64::from(acknowledged)), json!(f64::from(asked))].contains(&canary),
            "{canary} after {acknowledged}"
        );
    }
}

#[tokio::test]
async fn the_files_new_weights_win_over_live_ones_even_when_it_was_edited_while_nothing_ran() {
    let shop = Shop::new().await;
    let mut proxy = shop.open().await;
    proxy.shift(r#"{"blue": 50, "canary": 50}"#).await;
    proxy.signal(Signal::TERM);
    proxy.wait().await;

    let mut edited = shop.setup().settings(&shop.settings(80.0, 20.0)).start().await;
    assert_eq!(weights(&edited).await, json!([80.0, 20.0]));
    let view = edited.view("/v1/events?limit=1").await;
    assert_eq!(view["events"][0]["kind"], "override_ended");
    assert_eq!(view["events"][0]["detail"]["from"], json!({ "blue": 50.0, "canary": 50.0 }));
    assert_eq!(view["events"][0]["detail"]["to"], json!({ "blue": 80.0, "canary": 20.0 }));
    edited.signal(Signal::KILL);
    edited.wait().await;
    // Ended for good: the file's first weights don't bring it back.
    assert_eq!(weights(&shop.open().await).await, json!([90.0, 10.0]));
}

#[tokio::test]
async fn what_is_in_force_already_is_no_event() {
    let shop = Shop::new().await;
    let proxy = shop.open().await;
    let version = proxy.view("/v1/services").await["version"].clone();
    for _ in 0..2 {
        proxy.shift(r#"{"blue": 90, "canary": 10}"#).await;
    }
    assert_eq!(proxy.view("/v1/services").await["version"], version);
    assert_eq!(kinds(&proxy).await, ["started"]);
}

#[tokio::test]
async fn a_life_is_written_down_with_who_decided() {
    let shop = Shop::new().await;
    let mut proxy = shop.open().await;
    let shifted = command(&proxy, &["weights", "shop", "blue=50", "canary=50"]).await;
    assert_eq!(shifted.code, Some(0), "{}", shifted.err);
    let reset = command(&proxy, &["reset", "shop"]).await;
    assert_eq!(reset.code, Some(0), "{}", reset.err);
    assert_eq!(weights(&proxy).await, json!([90.0, 10.0]));
    proxy.rewrite("nonsense = 1");
    assert!(!proxy.reload().await);
    proxy.rewrite(&shop.settings(90.0, 10.0));
    proxy.reload_well().await;
    proxy.signal(Signal::TERM);
    assert!(proxy.wait().await.success());

    let next = shop.open().await;
    let wanted = ["started", "weights_changed", "weights_reset", "reload_refused", "reloaded", "stopped", "started"];
    assert_eq!(kinds(&next).await, wanted);
    let events = next.view("/v1/events").await;
    assert_eq!(events["events"][1]["by"], "ada (cli)");
    assert_eq!(events["events"][3]["by"], "tidegate");
    let told = command(&next, &["events", "shop"]).await.out;
    assert!(told.contains("blue=50 canary=50  (was blue=90 canary=10)  by ada (cli)"), "{told}");
    assert_eq!(told.lines().count(), 2);
}

#[tokio::test]
async fn a_caller_that_saw_an_older_state_is_told_so() {
    let shop = Shop::new().await;
    let proxy = shop.open().await;
    let seen = proxy.call("GET", "/v1/services/shop", "", "").await;
    let tag = seen.head.value("etag").expect("a service has a tag").to_owned();
    let put = async |tag: &str, canary: u8| {
        let fields = format!("{JSON}if-match: {tag}\r\n");
        let body = format!(r#"{{"blue": 90, "canary": {canary}}}"#);
        proxy.call("PUT", "/v1/services/shop/weights", &fields, &body).await
    };
    let first = put(&tag, 20).await;
    assert_eq!(first.status(), 200);
    let second = put(&tag, 30).await;
    assert_eq!(second.status(), 412, "{}", second.text());
    assert_eq!(weights(&proxy).await, json!([90.0, 20.0]));
    assert_eq!(put(first.head.value("etag").expect("so has the answer"), 30).await.status(), 200);
    assert_eq!(put("*", 40).await.status(), 200);
    assert_eq!(put("7", 50).await.status(), 400);
}

#[tokio::test]
async fn a_journal_that_cannot_be_written_stops_moves_toward_the_candidate_alone() {
    let shop = Shop::new().await;
    let setup = shop.setup().settings(&shop.settings(90.0, 10.0));
    // A state directory of its own small disk, which only the proxy sees by name.
    let script = "mount -t tmpfs -o size=600k,mode=700 none \"$0\" && exec \"$@\"";
    let state = shop.state.path().to_str().expect("the path is text").to_owned();
    let setup = setup.run_by(&["unshare", "--map-root-user", "--mount", "sh", "-c", script, &state]);
    let proxy = setup.start().await;
    let root = format!("/proc/{}/root{state}", proxy.pid().as_raw_nonzero());
    let filler = Path::new(&root).join("filler");
    // Written by now, since what is read comes after it.
    assert_eq!(kinds(&proxy).await, ["started"]);
    fill(&filler);

    let refused = proxy.put_weights(r#"{"blue": 50, "canary": 50}"#).await;
    assert_eq!(refused.status(), 503, "{}", refused.text());
    assert!(refused.text().contains("journal can't be used"), "{}", refused.text());
    assert_eq!(weights(&proxy).await, json!([90.0, 10.0]));
    proxy.shift(r#"{"blue": 100, "canary": 0}"#).await;
    assert_eq!(weights(&proxy).await, json!([100.0, 0.0]));
    proxy.metric_becomes("tidegate_journal_backlog", "", 1).await;

    fs::remove_file(&filler).expect("the filler is ours");
    proxy.metric_becomes("tidegate_journal_backlog", "", 0).await;
    assert_eq!(kinds(&proxy).await, ["started", "weights_changed"]);
    proxy.shift(r#"{"blue": 50, "canary": 50}"#).await;
}

/// Until not a byte fits.
fn fill(path: &Path) {
    use std::io::Write;
    let mut filler = fs::File::create(path).expect("there is room at first");
    for size in [4096, 1] {
        while filler.write_all(&vec![b'x'; size]).is_ok() {}
    }
}

async fn serves_stable_alone(shop: &Shop, says: &str) {
    let before = fs::read(shop.journal()).expect("the journal is there");
    let proxy = shop.open().await;
    assert_eq!(weights(&proxy).await, json!([1.0, 0.0]));
    for _ in 0..20 {
        assert_eq!(proxy.fetch("/").await.text(), "blue");
    }
    let refused = proxy.put_weights(r#"{"blue": 50, "canary": 50}"#).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains(says), "{}", refused.text());
    assert_eq!(proxy.call("DELETE", "/v1/services/shop/weights", "", "").await.status(), 503);
    assert_eq!(proxy.call("GET", "/v1/events", "", "").await.status(), 503);
    let status = command(&proxy, &["status"]).await;
    assert!(status.out.contains("stable gets everything, and nothing can be moved away from it"), "{}", status.out);
    assert!(!status.out.contains("weights changed live"), "{}", status.out);
    let status = command(&proxy, &["status", "shop"]).await;
    assert!(status.out.contains(says), "{}", status.out);
    assert_eq!(proxy.metric("tidegate_journal_usable", "").await, 0);
    proxy.reload_well().await;
    assert_eq!(weights(&proxy).await, json!([1.0, 0.0]));
    // Whatever takes requests away from a candidate doesn't wait for a mended disk.
    for arguments in [&["guard", "off"][..], &["drain", "shop/canary"], &["weights", "shop", "blue=2", "canary=0"]] {
        let made = command(&proxy, arguments).await;
        assert_eq!(made.code, Some(0), "{arguments:?}: {}", made.err);
    }
    assert_eq!(proxy.view("/v1/guard").await, json!({ "at_most": "off" }));
    assert_eq!(weights(&proxy).await, json!([2.0, 0.0]));
    let undrained = command(&proxy, &["undrain", "shop/canary"]).await;
    assert!(undrained.err.contains(says), "{}", undrained.err);
    drop(proxy);
    assert_eq!(fs::read(shop.journal()).expect("the journal is there"), before);
}

#[tokio::test]
async fn a_damaged_journal_is_left_alone_and_stable_gets_everything() {
    let shop = Shop::new().await;
    fs::write(shop.journal(), "not a journal at all ".repeat(500)).expect("the folder is ours");
    serves_stable_alone(&shop, "is damaged").await;
}

#[tokio::test]
async fn a_newer_journal_is_left_alone_and_stable_gets_everything() {
    let shop = Shop::new().await;
    let mut proxy = shop.open().await;
    proxy.shift(r#"{"blue": 1, "canary": 1}"#).await;
    proxy.signal(Signal::TERM);
    proxy.wait().await;
    // The version of the tables, in SQLite's header.
    let mut bytes = fs::read(shop.journal()).expect("the journal is there");
    bytes[60..64].copy_from_slice(&7_u32.to_be_bytes());
    fs::write(shop.journal(), bytes).expect("the folder is ours");
    serves_stable_alone(&shop, "was written by a newer tidegate (format 7").await;
}

#[tokio::test]
async fn events_come_in_pages_both_ways() {
    let shop = Shop::new().await;
    let proxy = shop.open().await;
    for canary in 1..=4 {
        proxy.shift(&format!(r#"{{"blue": 90, "canary": {}}}"#, canary * 2)).await;
    }
    let ids = async |query: &str| {
        let view = proxy.view(&format!("/v1/events?{query}")).await;
        let events = view["events"].as_array().expect("events are a list").iter();
        (events.map(|event| event["id"].as_u64().expect("ids are numbers")).collect::<Vec<_>>(), view["more"] == true)
    };
    assert_eq!(ids("limit=2").await, (vec![4, 5], true));
    assert_eq!(ids("limit=2&before=4").await, (vec![2, 3], true));
    assert_eq!(ids("limit=2&after=3").await, (vec![4, 5], false));
    assert_eq!(ids("service=shop&before=3").await, (vec![2], false));
    assert_eq!(ids("service=nobody").await, (vec![], false));
    for wrong in ["limit=0", "limit=x", "since=3", "after=-1"] {
        assert_eq!(proxy.call("GET", &format!("/v1/events?{wrong}"), "", "").await.status(), 400, "{wrong}");
    }
}

async fn lines_until(wire: &mut Wire, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        seen += &wire.line().await;
        seen.push('\n');
    }
    seen
}

#[tokio::test]
async fn a_stream_of_events_goes_on_where_the_last_one_ended() {
    let shop = Shop::new().await;
    let proxy = shop.open().await;
    proxy.shift(r#"{"blue": 90, "canary": 20}"#).await;
    let mut wire = Wire::connect(proxy.admin()).await;
    let head = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\nlast-event-id: 1\r\n\r\n";
    wire.send(head).await;
    let mut seen = lines_until(&mut wire, "\"to\":{\"blue\":90.0,\"canary\":20.0}").await;
    proxy.shift(r#"{"blue": 90, "canary": 30}"#).await;
    seen += &lines_until(&mut wire, "\"to\":{\"blue\":90.0,\"canary\":30.0}").await;
    assert!(seen.contains("event: weights_changed") && seen.contains("id: 3"), "{seen}");
    assert!(!seen.contains("event: started"), "{seen}");
    let garbage = "accept: text/event-stream\r\nlast-event-id: x\r\n";
    assert_eq!(proxy.call("GET", "/v1/events", garbage, "").await.status(), 400);
}

#[tokio::test]
async fn the_command_follows_events_as_they_happen() {
    let shop = Shop::new().await;
    let mut proxy = shop.open().await;
    let admin = proxy.admin().to_string();
    let mut command = tidegate(&["events", "-f", "--json", "--admin", &admin]);
    let mut running = command.stdout(std::process::Stdio::piped()).kill_on_drop(true).spawn().expect("it runs");
    let mut lines = BufReader::new(running.stdout.take().expect("stdout is piped")).lines();
    let mut next = async || -> Value {
        let line = within("a line", lines.next_line()).await.expect("it is text").expect("it goes on");
        serde_json::from_str(&line).expect("each line is JSON")
    };
    assert_eq!(next().await["kind"], "started");
    proxy.shift(r#"{"blue": 90, "canary": 20}"#).await;
    assert_eq!(next().await["kind"], "weights_changed");
    proxy.signal(Signal::TERM);
    proxy.wait().await;
    let ended = within("the command to end", running.wait()).await.expect("it is ours");
    assert_eq!(ended.code(), Some(1));
}

#[tokio::test]
async fn diff_shows_live_weights_beside_the_files() {
    let shop = Shop::new().await;
    let proxy = shop.open().await;
    let same = command(&proxy, &["diff"]).await;
    assert_eq!((same.code, same.out.as_str()), (Some(0), "every service is as its file says\n"));
    proxy.shift(r#"{"blue": 90, "canary": 30}"#).await;
    let drifted = command(&proxy, &["diff"]).await.out;
    assert!(drifted.contains("~ canary                   30  (file: 10)"), "{drifted}");
    assert!(drifted.contains("back: tidegate reset shop"), "{drifted}");
    let json: Value = serde_json::from_str(&command(&proxy, &["diff", "--json"]).await.out).expect("it is JSON");
    assert_eq!(json[0]["name"], "shop");
}
