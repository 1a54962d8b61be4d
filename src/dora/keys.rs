//! From events to the four keys. Pure. See `docs/dora.md` for what counts as what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::journal::Event;
use crate::model::parse_timestamp;

/// Kinds of events that say something of it.
pub const KINDS: [&str; 4] = ["rollout_ended", "roll_took_out", "roll_ended", "swapped"];

/// The four keys of one service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct KeysView {
    pub service: String,
    /// Changes that got all requests.
    pub deployments: u64,
    /// Deployment frequency.
    pub deployments_per_day: f64,
    /// Lead time for changes: the median, from the commit to all requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead_time_seconds: Option<f64>,
    /// Deployments whose commit's time is known.
    pub lead_times: u64,
    /// Changes that got requests, and were completed or failed.
    pub changes: u64,
    pub failed_changes: u64,
    /// Change failure rate: the failed part of the changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_failure_ratio: Option<f64>,
    /// Time to restore: the median, from the first request that failed until nothing went to the release any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_to_restore_seconds: Option<f64>,
    /// Failed changes of which that is known.
    pub restored: u64,
}

/// The four keys of every service that had a change.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DoraView {
    /// The last so many.
    pub days: u32,
    /// By name.
    pub services: Vec<KeysView>,
}

/// What became of one change.
#[derive(Debug, Clone, Default)]
struct Change {
    completed: bool,
    failed: bool,
    lead_time: Option<Duration>,
    restored_after: Option<Duration>,
}

/// One change of a service: what it was, and its number.
type ChangeId = (&'static str, u64);

/// The keys of each service, from what happened in `days` until now; the oldest events first.
#[must_use]
pub fn keys(events: &[Event], days: u32) -> DoraView {
    let mut services: BTreeMap<&str, BTreeMap<ChangeId, Change>> = BTreeMap::new();
    // Rolls that have changed something.
    let mut began: BTreeSet<(&str, u64)> = BTreeSet::new();
    for event in events {
        let Some(service) = event.service.as_deref() else { continue };
        let number = |key: &str| event.detail[key].as_u64();
        let outcome = event.detail["outcome"].as_str().unwrap_or_default();
        let (id, has_failed) = match (event.kind.as_str(), number("rollout"), number("roll")) {
            // Somebody's change of mind, and what never came up, are nobody's failure.
            ("rollout_ended", Some(id), _) => (("rollout", id), outcome == "rolled back"),
            ("roll_took_out", _, Some(id)) => {
                began.insert((service, id));
                continue;
            }
            ("roll_ended", _, Some(id)) => (("roll", id), outcome != "completed" && began.contains(&(service, id))),
            ("swapped", ..) => (("swap", event.id), outcome != "completed"),
            _ => continue,
        };
        let has_completed = outcome == "completed";
        if !has_completed && !has_failed {
            continue;
        }
        let change = services.entry(service).or_default().entry(id).or_default();
        change.completed |= has_completed;
        // What was completed and then taken back is one change, which failed.
        change.failed |= has_failed;
        if has_completed {
            change.lead_time = lead_time(event);
        }
        let restored_ms = event.detail["receipt"]["restored_after_ms"].as_u64();
        change.restored_after = restored_ms.map(Duration::from_millis).filter(|_| has_failed).or(change.restored_after);
    }
    let services = services.into_iter().map(|(service, changes)| of(service, &changes, days)).collect();
    DoraView { days, services }
}

fn of(service: &str, changes: &BTreeMap<ChangeId, Change>, days: u32) -> KeysView {
    let count = |is: fn(&Change) -> bool| changes.values().filter(|change| is(change)).count() as u64;
    let (deployments, failed) = (count(|change| change.completed), count(|change| change.failed));
    let lead_times: Vec<Duration> = changes.values().filter_map(|change| change.lead_time).collect();
    let restored: Vec<Duration> = changes.values().filter_map(|change| change.restored_after).collect();
    let all = changes.len() as u64;
    KeysView {
        service: service.to_owned(),
        deployments,
        deployments_per_day: deployments as f64 / f64::from(days.max(1)),
        lead_times: lead_times.len() as u64,
        lead_time_seconds: median(lead_times),
        changes: all,
        failed_changes: failed,
        change_failure_ratio: (all > 0).then(|| failed as f64 / all as f64),
        restored: restored.len() as u64,
        time_to_restore_seconds: median(restored),
    }
}

/// `None`: nobody said when it was committed, or it was committed after it was live.
fn lead_time(event: &Event) -> Option<Duration> {
    let time = |text: &str| -> Option<SystemTime> { parse_timestamp(text) };
    time(&event.at)?.duration_since(time(event.detail["commit_time"].as_str()?)?).ok()
}

fn median(mut times: Vec<Duration>) -> Option<f64> {
    times.sort_unstable();
    let middle = times.len() / 2;
    let upper = times.get(middle)?.as_secs_f64();
    Some(if times.len().is_multiple_of(2) { f64::midpoint(times[middle - 1].as_secs_f64(), upper) } else { upper })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::{Value, json};

    use super::*;

    const DAY: u64 = 86_400;

    fn event(id: u64, seconds: u64, kind: &str, detail: Value) -> Event {
        let at = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_secs(seconds)).to_string();
        Event { id, at, by: "ada".into(), kind: kind.into(), service: Some("shop".into()), detail }
    }

    fn rollout(id: u64, seconds: u64, outcome: &str, more: Value) -> Event {
        let mut detail = json!({ "rollout": id, "outcome": outcome });
        let (all, Value::Object(more)) = (detail.as_object_mut().unwrap(), more) else { unreachable!() };
        all.extend(more);
        event(id, seconds, "rollout_ended", detail)
    }

    fn shop(events: &[Event]) -> KeysView {
        keys(events, 10).services.into_iter().next().unwrap_or_default()
    }

    #[test]
    fn a_deployment_counts_from_its_commit_to_all_requests() {
        let events = [
            rollout(1, 2 * DAY, "completed", json!({ "commit_time": "1970-01-02T00:00:00Z" })),
            rollout(2, 3 * DAY, "completed", json!({ "commit_time": "1970-01-03T12:00:00Z" })),
            rollout(3, 4 * DAY, "completed", json!({})),
        ];
        let view = shop(&events);
        assert_eq!((view.deployments, view.lead_times, view.failed_changes), (3, 2, 0));
        assert!((view.deployments_per_day - 0.3).abs() < 1e-9);
        assert_eq!(view.lead_time_seconds, Some(0.75 * DAY as f64), "the median of a day and half a day");
        assert_eq!((view.change_failure_ratio, view.time_to_restore_seconds), (Some(0.0), None));
    }

    #[test]
    fn what_was_taken_back_has_failed_also_after_its_end_and_what_was_aborted_is_nothing() {
        let back = |ms: u64| json!({ "receipt": { "restored_after_ms": ms } });
        let events = [
            rollout(1, 1, "rolled back", back(3_000)),
            rollout(2, 2, "completed", json!({})),
            rollout(2, 3, "rolled back", back(1_000)),
            rollout(3, 4, "completed", json!({})),
            rollout(4, 5, "aborted", json!({})),
            rollout(5, 6, "failed", json!({})),
        ];
        let view = shop(&events);
        assert_eq!((view.changes, view.failed_changes, view.deployments), (3, 2, 2));
        assert_eq!((view.restored, view.time_to_restore_seconds), (2, Some(2.0)));
        assert!((view.change_failure_ratio.unwrap() - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn rolls_and_swaps_are_changes_and_a_roll_that_touched_nobody_is_none() {
        let roll = |id: u64, kind: &str, outcome: &str| {
            event(id, id, kind, json!({ "roll": 7 + id / 10, "outcome": outcome }))
        };
        let events = [
            roll(1, "roll_took_out", ""),
            roll(2, "roll_ended", "completed"),
            roll(11, "roll_took_out", ""),
            roll(12, "roll_ended", "lost"),
            roll(22, "roll_ended", "stopped"),
            event(30, 30, "swapped", json!({ "outcome": "completed" })),
            event(31, 31, "swapped", json!({ "outcome": "stopped" })),
            event(32, 32, "held", json!({})),
        ];
        let view = shop(&events);
        assert_eq!((view.deployments, view.changes, view.failed_changes), (2, 4, 2));
    }

    #[test]
    fn where_nothing_happened_nothing_is_claimed() {
        assert_eq!(keys(&[], 30), DoraView { days: 30, services: Vec::new() });
        assert_eq!(shop(&[rollout(1, 1, "aborted", json!({}))]), KeysView::default());
    }

    /// Histories from seeds: whatever happened, the keys say what was put in.
    #[test]
    fn of_any_history_the_keys_say_what_was_put_in() {
        for seed in 0..200 {
            let mut random = StdRng::seed_from_u64(seed);
            let (mut events, mut completed, mut failed, mut leads, mut restores) =
                (Vec::new(), 0, 0, Vec::new(), Vec::new());
            for id in 1..=random.random_range(1..60) {
                let at = id * 3_600 + DAY;
                match random.random_range(0..4) {
                    0 => {
                        let lead = random.random_range(1..DAY);
                        let committed = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(at - lead));
                        events.push(rollout(id, at, "completed", json!({ "commit_time": committed.to_string() })));
                        (completed, leads) = (completed + 1, [leads, vec![lead as f64]].concat());
                    }
                    1 => {
                        let ms = random.random_range(1..10_000_u64);
                        events.push(rollout(id, at, "rolled back", json!({ "receipt": { "restored_after_ms": ms } })));
                        (failed, restores) =
                            (failed + 1, [restores, vec![Duration::from_millis(ms).as_secs_f64()]].concat());
                    }
                    2 => events.push(rollout(id, at, "aborted", json!({}))),
                    _ => {
                        events.push(rollout(id, at, "completed", json!({})));
                        events.push(rollout(id, at + 60, "rolled back", json!({ "receipt": {} })));
                        (completed, failed) = (completed + 1, failed + 1);
                    }
                }
            }
            let view = shop(&events);
            assert_eq!((view.deployments, view.failed_changes), (completed, failed), "seed {seed}");
            for (known, said) in [(leads, view.lead_time_seconds), (restores, view.time_to_restore_seconds)] {
                let mut known: Vec<f64> = known;
                known.sort_by(f64::total_cmp);
                // As many below the median as above it.
                let below = |limit: f64| known.iter().filter(|time| **time < limit).count();
                let above = |limit: f64| known.iter().filter(|time| **time > limit).count();
                assert!(said.map_or(known.is_empty(), |m| below(m) == above(m) || known.contains(&m)), "seed {seed}");
            }
        }
    }
}
