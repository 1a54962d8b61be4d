//! What runs at a backend's endpoints is replaced, one after another, by a command, and no request notices.

use std::process::Stdio;

use rustix::process::{Pid, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Child;

use crate::support::rollouts::command;
use crate::support::{Fleet, Load, Proxy, Ran, Setup, Signal, eventually, named, tidegate, within};

const JSON: &str = "content-type: application/json\r\n";
const QUICKLY: [&str; 3] = ["shop/blue", "--watch", "50ms"];

async fn before(fleet: &Fleet, more: &str) -> Proxy {
    Setup::new().workers(2).backend(&fleet.urls(), more).start().await
}

/// `tidegate roll shop/blue` with more arguments.
async fn roll(proxy: &Proxy, more: &[&str]) -> Ran {
    command(proxy, &[&["roll"][..], &QUICKLY, more].concat()).await
}

/// The same, under way.
fn rolling(proxy: &Proxy, more: &[&str]) -> Child {
    let admin = proxy.admin().to_string();
    let mut command = tidegate(&[&["roll"][..], &QUICKLY, more].concat());
    command.env("TIDEGATE_ADMIN", &admin).env("TIDEGATE_BY", "ada").stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the binary runs")
}

async fn states(proxy: &Proxy) -> Vec<Value> {
    let view = proxy.view("/v1/services/shop/backends/blue/endpoints").await;
    view["endpoints"].as_array().expect("endpoints are a list").iter().map(|e| e["state"].clone()).collect()
}

/// What a process answers by itself.
async fn version(address: std::net::SocketAddr) -> String {
    let answer = crate::support::Wire::connect(address).await.exchange("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    answer.text().to_owned()
}

/// What runs in blue, and whether that is a live change.
async fn runs(proxy: &Proxy) -> (Value, bool) {
    let view = proxy.view("/v1/services/shop").await;
    let blue = &view["backends"][0];
    (blue["revision"].clone(), blue["deployed"] == true)
}

#[tokio::test]
async fn every_endpoint_has_its_turn_and_no_request_is_lost() {
    let fleet = Fleet::of(3).await;
    let proxy = before(&fleet, "").await;
    let load = Load::on(proxy.http(), 8, 2);
    load.goes_on(100).await;
    let rolled = roll(&proxy, &["--revision", "v2", "--", &fleet.script("replace"), "{port}", "v2"]).await;
    assert_eq!(rolled.code, Some(0), "{}\n{}", rolled.out, rolled.err);
    load.goes_on(100).await;
    load.finish().await;
    for address in &fleet.addresses {
        assert_eq!(version(*address).await, "v2");
        assert!(rolled.out.contains(&format!("replacing {address}")), "it is in the environment: {}", rolled.out);
    }
    let taken: Vec<_> = proxy.told("roll_took_out", 3).await.iter().map(|e| e["detail"]["endpoints"].clone()).collect();
    assert_eq!(taken, fleet.addresses.iter().map(|address| json!([address.to_string()])).collect::<Vec<_>>());
    proxy.told("roll_put_back", 3).await;
    let ended = &proxy.event("roll_ended").await["detail"];
    assert_eq!((&ended["outcome"], &ended["revision"]), (&json!("completed"), &json!("v2")));
}

#[tokio::test]
async fn what_was_rolled_is_the_backends_revision_until_the_file_or_a_person_says_otherwise() {
    let (fleet, state) = (Fleet::of(3).await, TempDir::new().expect("there is room for temporary files"));
    let file = |revision: &str, endpoints: usize| {
        let urls = &fleet.urls()[..endpoints];
        format!(
            "[services.shop.backends.blue]\nweight = 1\nrevision = {revision:?}\nendpoints = {urls:?}\n\
             [services.shop.backends.green]\nweight = 0\nendpoints = [\"http://127.0.0.1:1\"]"
        )
    };
    let start = || Setup::new().state_dir(state.path().to_str().expect("the path is text")).settings(&file("v1", 2));
    let mut proxy = start().start().await;
    assert_eq!(runs(&proxy).await, ("v1".into(), false));
    assert_eq!(roll(&proxy, &["--revision", "v2", "--", "true"]).await.code, Some(0));
    assert_eq!(runs(&proxy).await, ("v2".into(), true));
    for told in ["status", "diff"] {
        let told = command(&proxy, &[told]).await.out;
        assert!(told.contains("blue") && told.contains("runs v2, deployed live"), "{told}");
    }
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    let mut proxy = start().start().await;
    assert_eq!(runs(&proxy).await, ("v2".into(), true), "a roll is written down");

    // A rollout knows what it leaves.
    let green = named("green").await;
    let deployed = crate::support::rollouts::deploy(&proxy, "v9", &green, &["--backend", "green"]).await;
    assert_eq!(deployed.code, Some(0), "{}", deployed.err);
    assert_eq!(command(&proxy, &["abort", "shop"]).await.code, Some(0));
    assert_eq!(proxy.event("rollout_ended").await["detail"]["stable_revision"], "v2");

    // More endpoints are no other revision, and another revision is one.
    proxy.rewrite(&file("v1", 3));
    proxy.reload_well().await;
    assert_eq!((runs(&proxy).await, states(&proxy).await.len()), (("v2".into(), true), 3));
    assert_eq!(command(&proxy, &["reset", "shop"]).await.code, Some(0));
    assert_eq!(runs(&proxy).await, ("v1".into(), false));
    assert_eq!(roll(&proxy, &["--revision", "v3", "--", "true"]).await.code, Some(0));
    assert_eq!(runs(&proxy).await, ("v3".into(), true));
    proxy.rewrite(&file("v4", 3));
    proxy.reload_well().await;
    assert_eq!(runs(&proxy).await, ("v4".into(), false), "the file wins");
    // Back to what the file says, there is nothing live any more.
    assert_eq!(roll(&proxy, &["--revision", "v5", "--", "true"]).await.code, Some(0));
    assert_eq!(roll(&proxy, &["--revision", "v4", "--", "true"]).await.code, Some(0));
    assert_eq!(runs(&proxy).await, ("v4".into(), false));
}

#[tokio::test]
async fn waves_take_out_several_at_once_and_never_all() {
    let fleet = Fleet::of(3).await;
    let proxy = before(&fleet, "").await;
    let all = roll(&proxy, &["--wave", "3", "--", &fleet.script("replace"), "{port}", "v2"]).await;
    assert_eq!(all.code, Some(1));
    assert!(all.err.contains("would be left to answer"), "{}", all.err);
    assert!(proxy.events("roll_took_out").await.is_empty());
    let waves = roll(&proxy, &["--wave", "2", "--json", "--", &fleet.script("replace"), "{port}", "v2"]).await;
    assert_eq!(waves.code, Some(0), "{}", waves.err);
    let view: Value = serde_json::from_str(&waves.out).expect("it is JSON, whatever the command prints");
    assert_eq!(view["outcome"], "completed");
    let taken = proxy.told("roll_took_out", 2).await;
    let sizes: Vec<_> = taken.iter().map(|e| e["detail"]["endpoints"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [2, 1]);
}

#[tokio::test]
async fn the_only_endpoint_is_never_taken_out() {
    let fleet = Fleet::of(1).await;
    let proxy = before(&fleet, "").await;
    let rolled = roll(&proxy, &["--", &fleet.script("replace"), "{port}", "v2"]).await;
    assert_eq!(rolled.code, Some(1));
    assert!(rolled.err.contains("tidegate swap shop"), "{}", rolled.err);
    assert_eq!(version(fleet.addresses[0]).await, "v1");
}

#[tokio::test]
async fn a_command_that_fails_stops_it_and_everybody_is_back() {
    let fleet = Fleet::of(3).await;
    let proxy = before(&fleet, "").await;
    let second = fleet.addresses[1].port();
    let script = format!("test \"$TIDEGATE_PORT\" != {second} && {} {{port}} v2", fleet.script("replace"));
    let was = runs(&proxy).await;
    let rolled = roll(&proxy, &["--revision", "v2", "--", "sh", "-c", &script]).await;
    assert_eq!(rolled.code, Some(1));
    assert!(rolled.err.contains(&format!("{}: sh failed: exit status: 1", fleet.addresses[1])), "{}", rolled.err);
    assert_eq!(version(fleet.addresses[0]).await, "v2");
    assert_eq!(version(fleet.addresses[2]).await, "v1", "its turn never came");
    assert!(states(&proxy).await.iter().all(|state| *state != "rolling"));
    let ended = &proxy.event("roll_ended").await["detail"];
    assert_eq!((&ended["outcome"], &ended["revision"]), (&json!("stopped"), &json!("v2")));
    assert_eq!(runs(&proxy).await, was, "not all of it runs v2");
}

#[tokio::test]
async fn an_endpoint_that_does_not_come_back_stops_it() {
    let fleet = Fleet::of(2).await;
    let proxy = before(&fleet, "health = { kind = \"http\", path = \"/\", interval = \"100ms\" }").await;
    let load = Load::on(proxy.http(), 4, 0);
    load.goes_on(50).await;
    let rolled = roll(&proxy, &["--ready", "600ms", "--", &fleet.script("stop"), "{port}"]).await;
    assert_eq!(rolled.code, Some(1));
    assert!(rolled.err.contains("wasn't ready within 600ms"), "{}", rolled.err);
    assert_eq!(version(fleet.addresses[1]).await, "v1");
    load.goes_on(50).await;
    load.finish().await;
}

#[tokio::test]
async fn a_command_line_that_is_gone_loses_the_lease_and_the_endpoint_is_back() {
    let fleet = Fleet::of(2).await;
    let proxy = before(&fleet, "").await;
    let mut gone = rolling(&proxy, &["--lease", "1s", "--", "sleep", "60"]);
    proxy.event("roll_took_out").await;
    assert_eq!(states(&proxy).await[0], "rolling");
    gone.kill().await.expect("the process is ours");
    let ended = &proxy.event("roll_ended").await["detail"];
    assert_eq!((&ended["outcome"], &ended["reason"]), (&json!("lost"), &json!("nothing was heard of it for 1 s")));
    assert!(states(&proxy).await.iter().all(|state| *state != "rolling"));
}

#[tokio::test]
async fn an_interrupt_ends_the_command_and_puts_everybody_back() {
    let fleet = Fleet::of(2).await;
    let proxy = before(&fleet, "").await;
    let (begun, ended) = (fleet.file("begun"), fleet.file("ended"));
    // What the shell begins may miss a signal, and ends by itself.
    let wait = "while true; do sleep 0.1; done";
    let script = format!("trap 'touch {}; exit 0' TERM; touch {}; {wait}", ended.display(), begun.display());
    let child = rolling(&proxy, &["--", "sh", "-c", &script]);
    eventually("the command runs", || begun.exists()).await;
    assert_eq!(states(&proxy).await[0], "rolling");
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it runs");
    kill_process(pid, Signal::INT).expect("the process is ours");
    let output = within("the command to end", child.wait_with_output()).await.expect("the process is ours");
    let said = String::from_utf8(output.stderr).expect("what is printed is text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    assert!(ended.exists(), "it was asked to end, and was waited for");
    assert_eq!(proxy.event("roll_ended").await["detail"]["outcome"], "stopped");
    assert!(states(&proxy).await.iter().all(|state| *state != "rolling"));
}

#[tokio::test]
async fn of_two_who_roll_one_is_told_who_the_other_is() {
    let fleet = Fleet::of(2).await;
    let proxy =
        before(&fleet, "[services.shop.backends.green]\nweight = 0\nendpoints = [\"http://127.0.0.1:1\"]").await;
    let _first = rolling(&proxy, &["--", "sleep", "60"]);
    proxy.event("roll_took_out").await;
    let second = roll(&proxy, &["--", "true"]).await;
    assert_eq!(second.code, Some(1));
    let out = fleet.addresses[0];
    assert!(
        second.err.contains(&format!("ada (cli) is rolling shop/blue; out at the moment: {out}")),
        "{}",
        second.err
    );
    let green = named("green").await;
    let deployed = crate::support::rollouts::deploy(&proxy, "v2", &green, &["--backend", "green"]).await;
    assert!(deployed.err.contains("ada (cli) is rolling shop/blue"), "{}", deployed.err);
}

#[tokio::test]
async fn who_is_out_stays_out_through_a_kill_until_the_lease_is_over() {
    let (fleet, state) = (Fleet::of(2).await, TempDir::new().expect("there is room for temporary files"));
    let start = || async {
        let setup = Setup::new().state_dir(state.path().to_str().expect("the path is text"));
        setup.backend(&fleet.urls(), "").start().await
    };
    let mut proxy = start().await;
    let path = "/v1/services/shop/backends/blue/rolls";
    let begun = proxy.call("POST", path, JSON, r#"{"lease": "2s"}"#).await;
    assert_eq!(begun.status(), 201, "{}", begun.text());
    let begun: Value = serde_json::from_str(begun.text()).expect("it is JSON");
    let body = format!(r#"{{"out": ["{}"]}}"#, fleet.addresses[0]);
    let taken = proxy.call("PUT", &format!("{path}/{}", begun["id"]), JSON, &body).await;
    assert_eq!(taken.status(), 200, "{}", taken.text());
    proxy.signal(Signal::KILL);
    proxy.wait().await;
    let proxy = start().await;
    assert_eq!(states(&proxy).await, ["rolling", "up"]);
    // Whoever holds it goes on as if nothing had happened; and then says nothing more.
    let renewed = proxy.call("PUT", &format!("{path}/{}", begun["id"]), JSON, "{}").await;
    assert_eq!(renewed.status(), 200, "{}", renewed.text());
    assert_eq!(proxy.event("roll_ended").await["detail"]["outcome"], "lost");
    assert!(states(&proxy).await.iter().all(|state| *state != "rolling"));
    let late = proxy.call("PUT", &format!("{path}/{}", begun["id"]), JSON, "{}").await;
    assert_eq!(late.status(), 409, "{}", late.text());
}

#[tokio::test]
async fn what_makes_no_sense_is_told_and_nobody_is_taken_out() {
    let fleet = Fleet::of(2).await;
    let proxy = before(&fleet, "").await;
    let post = async |path: &str, body: &str| proxy.call("POST", path, JSON, body).await;
    let path = "/v1/services/shop/backends/blue/rolls";
    let bad = [
        (r#"{"lease": "1ms"}"#, "from 1s to 5m"),
        (r#"{"lease": "soon"}"#, "no duration"),
        (r#"{"revision": " "}"#, "a revision is a text of 1 to 256 bytes"),
    ];
    for (body, said) in bad {
        let answer = post(path, body).await;
        assert!(answer.status() == 422 && answer.text().contains(said), "{body}: {}", answer.text());
    }
    assert_eq!(post("/v1/services/shop/backends/red/rolls", "{}").await.status(), 422);
    assert_eq!(post("/v1/services/none/backends/blue/rolls", "{}").await.status(), 404);
    let nobody = proxy.call("PUT", &format!("{path}/7"), JSON, "{}").await;
    assert_eq!(nobody.status(), 409, "{}", nobody.text());
    let unknown = roll(&proxy, &["--", "echo", "{name}"]).await;
    assert!(unknown.err.contains("the command asks for {name}; there are: {endpoint}, {host}"), "{}", unknown.err);
    let missing = roll(&proxy, &["--", "no-such-command"]).await;
    assert!(missing.err.contains("no-such-command can't be run"), "{}", missing.err);
    assert!(states(&proxy).await.iter().all(|state| *state != "rolling"));
}
