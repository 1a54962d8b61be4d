//! An event in words.

use serde_json::Value;

use super::Event;

/// What an event tells beside its kind.
#[must_use]
pub fn told(event: &Event) -> String {
    let detail = &event.detail;
    let text = |key: &str| detail[key].as_str().unwrap_or_default().to_owned();
    let shift = || format!("{}  (was {})", weights(&detail["to"]), weights(&detail["from"]));
    match event.kind.as_str() {
        "started" => format!("tidegate {} with {} as process {}", text("version"), text("config"), detail["pid"]),
        "stopped" => String::new(),
        "reloaded" => {
            detail["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
        }
        "reload_refused" => text("problems").lines().next().unwrap_or_default().to_owned(),
        "weights_changed" | "weights_reset" | "override_ended" => shift(),
        "endpoint_down" | "endpoint_up" => {
            format!("{} {} ({})", text("backend"), text("endpoint"), text("reason"))
        }
        "roll_began" => {
            let revision = detail["revision"].as_str().map_or(String::new(), |revision| format!(" to {revision}"));
            let endpoints = match detail["endpoints"].as_u64() {
                Some(1) => "its endpoint".to_owned(),
                _ => format!("{} endpoints, one after another", detail["endpoints"]),
            };
            format!("{}: {endpoints}{revision}", text("backend"))
        }
        "roll_took_out" | "roll_put_back" => {
            let endpoints = detail["endpoints"].as_array().into_iter().flatten().filter_map(Value::as_str);
            format!("{}: {}", text("backend"), endpoints.collect::<Vec<_>>().join(", "))
        }
        "roll_ended" | "swapped" => {
            let backend = detail["backend"].as_str().map_or(String::new(), |backend| format!("{backend} "));
            let revision = detail["revision"].as_str().filter(|_| text("outcome") == "completed");
            let runs = revision.map_or(String::new(), |revision| format!(", {revision} runs there"));
            format!("{backend}{}{runs}: {}", text("outcome"), text("reason"))
        }
        "notify_skipped" => {
            let (events, first, last) = (&detail["events"], &detail["first"], &detail["last"]);
            format!("{} didn't hear of {events} events, #{first} to #{last}: {}", text("sink"), text("reason"))
        }
        "held" => {
            format!("new requests wait, up to {} s and {} at once", number(&detail["seconds"]), detail["requests"])
        }
        "released" => {
            let (waited, gave_up, refused) = (&detail["waited"], &detail["gave_up"], &detail["refused"]);
            format!("requests go on: {waited} had waited, {gave_up} gave up before, {refused} found no room")
        }
        "drained" | "would_drain" | "suspended" => format!("{}: {}", text("backend"), text("reason")),
        "undrained" => format!("{} gets its share again: {}", text("backend"), text("reason")),
        "probation_began" => format!("{}: {} of the requests", text("backend"), percent(&detail["share"])),
        "endpoint_drained" | "endpoint_undrained" => format!("{}: {}", text("backend"), text("endpoint")),
        "resumed" => format!("{} gets requests again", text("backend")),
        "stable_alarm" => format!("{} fails more often than {}", text("stable"), text("backend")),
        "stable_alarm_ended" => format!("{} is no worse than the others any more", text("stable")),
        "shadow_verdict" => {
            let verdict = text("verdict");
            let article = if verdict == "same" { "the " } else { "" };
            format!("{} is {article}{verdict}: {}", text("backend"), text("reason"))
        }
        "shadow_reset" => "what was known of its shadows is forgotten".to_owned(),
        "mirror_changed" => {
            format!("{}: {} %  (before: {} %)", text("backend"), number(&detail["to"]), number(&detail["from"]))
        }
        "mirror_ended" => format!("{}: no more {} %", text("backend"), number(&detail["percent"])),
        "rollout_began" => format!(
            "#{} {} into {}, {}, beside {}",
            detail["rollout"],
            text("revision"),
            text("backend"),
            text("strategy"),
            text("stable")
        ),
        "freeze_overridden" => format!("#{} {}: {}", detail["rollout"], text("window"), text("why")),
        "rollout_advanced" => format!(
            "#{} step {} of {}, {}: {}",
            detail["rollout"],
            detail["step"],
            detail["steps"],
            text("what"),
            text("reason")
        ),
        "rollout_approved" => format!("#{} step {} {}", detail["rollout"], detail["step"], text("why")),
        "rollout_paused" => format!("#{} {}", detail["rollout"], text("reason")),
        "rollout_resumed" => format!("#{}", detail["rollout"]),
        "rollout_ending" => format!("#{} {}: {}", detail["rollout"], text("outcome"), text("reason")),
        "rollout_ended" => {
            format!("#{} {} {}: {}", detail["rollout"], text("revision"), text("outcome"), text("reason"))
        }
        "deployment_ended" => format!("{}", detail["backends"]),
        "guard_changed" => format!("{}  (before: {})", guard(&text("to")), guard(&text("from"))),
        _ => detail.to_string(),
    }
}

/// What the guard may do everywhere.
fn guard(mode: &str) -> &'static str {
    match mode {
        "off" => "the guard judges nobody",
        "observe" => "the guard only observes, everywhere",
        _ => "the guard does what the file says",
    }
}

fn weights(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(name, weight)| format!("{name}={}", number(weight))).collect::<Vec<_>>().join(" ")
}

fn percent(share: &Value) -> String {
    format!("{} %", share.as_f64().unwrap_or_default() * 100.0)
}

/// Without the ".0" of a whole number.
fn number(value: &Value) -> String {
    value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(kind: &str, detail: Value) -> String {
        let (at, by) = ("2026-01-01T00:00:00.000Z".to_owned(), "ada".to_owned());
        told(&Event { id: 1, at, by, kind: kind.to_owned(), service: None, detail })
    }

    #[test]
    fn what_runs_since_a_swap_or_a_roll_is_said_where_it_came_to_its_end() {
        let swapped = |outcome: &str| json!({ "backend": "green", "revision": "v3", "outcome": outcome, "reason": "1 request waited" });
        assert_eq!(said("swapped", swapped("completed")), "green completed, v3 runs there: 1 request waited");
        assert_eq!(said("roll_ended", swapped("stopped")), "green stopped: 1 request waited");
        assert_eq!(said("swapped", json!({ "outcome": "completed", "reason": "" })), "completed: ");
    }

    #[test]
    fn one_endpoint_is_not_several() {
        let began = |endpoints: u64| said("roll_began", json!({ "backend": "green", "endpoints": endpoints }));
        assert_eq!(began(1), "green: its endpoint");
        assert_eq!(began(3), "green: 3 endpoints, one after another");
    }
}
