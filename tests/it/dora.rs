//! DORA's four keys, from a history that is known.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::rollouts::command;
use crate::support::{Proxy, Setup, Signal, backend, named};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Writes an event of so many seconds ago into a journal that nobody has open.
fn write(journal: &Path, seconds_ago: u64, kind: &str, service: &str, detail: &Value) {
    let at = SystemTime::now() - Duration::from_secs(seconds_ago);
    let at_ms = i64::try_from(at.duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let database = rusqlite::Connection::open(journal).expect("the journal is there");
    let sql = "INSERT INTO events (at_ms, by, kind, service, detail) VALUES (?1, 'ada', ?2, ?3, ?4)";
    database.execute(sql, rusqlite::params![at_ms, kind, service, detail.to_string()]).expect("it takes events");
}

fn ended(rollout: u64, outcome: &str, seconds_ago: u64, lead: Option<u64>, restored_ms: Option<u64>) -> Value {
    let committed = lead.map(|lead| SystemTime::now() - Duration::from_secs(seconds_ago + lead));
    json!({
        "service": "shop", "rollout": rollout, "backend": "green", "revision": format!("v{rollout}"),
        "outcome": outcome, "reason": "",
        "commit_time": committed.map(|at| humantime::format_rfc3339_millis(at).to_string()),
        "receipt": { "restored_after_ms": restored_ms },
    })
}

async fn start(state: &TempDir) -> Proxy {
    let blue = named("blue").await;
    let setup = Setup::new().state_dir(state.path().to_str().expect("the path is text"));
    setup.settings(&backend("blue", 1.0, &blue)).start().await
}

/// Of ten days: three deployments, one of which was taken back later, and one that never was; and older ones.
async fn with_history(state: &TempDir) -> Proxy {
    let mut proxy = start(state).await;
    proxy.signal(Signal::TERM);
    proxy.wait().await;
    let journal = state.path().join("journal.db");
    for (rollout, outcome, ago, lead, restored) in [
        (1, "completed", 40 * DAY, Some(HOUR), None),
        (2, "completed", 9 * DAY, Some(2 * HOUR), None),
        (3, "rolled back", 8 * DAY, None, Some(3_000)),
        (4, "aborted", 7 * DAY, None, None),
        (5, "completed", 6 * DAY, Some(6 * HOUR), None),
        (5, "rolled back", 5 * DAY, None, Some(9_000)),
        (6, "completed", 4 * DAY, Some(4 * HOUR), None),
        (7, "failed", 3 * DAY, None, None),
    ] {
        write(&journal, ago, "rollout_ended", "shop", &ended(rollout, outcome, ago, lead, restored));
    }
    write(&journal, DAY, "swapped", "other", &json!({ "service": "other", "outcome": "completed", "reason": "" }));
    start(state).await
}

#[tokio::test]
async fn the_four_keys_follow_from_the_history() {
    let state = TempDir::new().expect("there is room for temporary files");
    let proxy = with_history(&state).await;
    let view = proxy.view("/v1/dora?service=shop&days=10").await;
    let shop = &view["services"][0];
    assert_eq!((&view["days"], view["services"].as_array().map(Vec::len)), (&json!(10), Some(1)));
    assert_eq!((&shop["deployments"], &shop["changes"], &shop["failed_changes"]), (&json!(3), &json!(4), &json!(2)));
    assert_eq!((&shop["deployments_per_day"], &shop["change_failure_ratio"]), (&json!(0.3), &json!(0.5)));
    let lead = shop["lead_time_seconds"].as_f64().expect("there were commits");
    assert!((lead - 4.0 * HOUR as f64).abs() < 5.0, "the median of 2, 4 and 6 hours: {lead}");
    assert_eq!((&shop["lead_times"], &shop["time_to_restore_seconds"]), (&json!(3), &json!(6.0)));
    // The one of long ago counts where it is asked for.
    assert_eq!(proxy.view("/v1/dora?days=90&service=shop").await["services"][0]["deployments"], 4);
    let all = proxy.view("/v1/dora").await;
    let names: Vec<_> = all["services"].as_array().unwrap().iter().map(|keys| keys["service"].clone()).collect();
    assert_eq!((names, &all["days"]), (vec![json!("other"), json!("shop")], &json!(30)));
}

#[tokio::test]
async fn they_are_a_table_and_metrics() {
    let state = TempDir::new().expect("there is room for temporary files");
    let proxy = with_history(&state).await;
    let table = command(&proxy, &["dora", "--service", "shop", "--days", "10"]).await;
    assert_eq!(table.code, Some(0), "{}", table.err);
    let row = table.out.lines().nth(1).expect("there is a row").split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(row, "shop 3 (0.30 a day) 4h 2 of 4 (50 %) 6s");
    let as_json = command(&proxy, &["dora", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&as_json.out).expect("it is JSON")["days"], 30);
    proxy.metric_becomes("tidegate_dora_deployments", "service=\"shop\"", 3).await;
    proxy.metric_becomes("tidegate_dora_time_to_restore_seconds", "shop", 6).await;
}

#[tokio::test]
async fn what_happens_counts_at_once_and_nonsense_is_refused() {
    let state = TempDir::new().expect("there is room for temporary files");
    let proxy = start(&state).await;
    let none = command(&proxy, &["dora"]).await;
    assert_eq!(none.out.trim(), "nothing was deployed in 30 days");
    let swapped = r#"{"outcome": "completed", "reason": "by hand", "revision": "v2"}"#;
    let said = proxy.call("POST", "/v1/services/shop/swaps", "content-type: application/json\r\n", swapped).await;
    assert_eq!(said.status(), 204, "{}", said.text());
    assert_eq!(proxy.view("/v1/dora").await["services"][0]["deployments"], 1);
    proxy.metric_becomes("tidegate_dora_deployments", "shop", 1).await;
    for (query, status) in [("days=0", 400), ("days=many", 400), ("since=1", 400), ("service=none", 404)] {
        assert_eq!(proxy.call("GET", &format!("/v1/dora?{query}"), "", "").await.status(), status, "{query}");
    }
}
