//! `tidegate events`: what happened, who decided it, and on what grounds.

use serde_json::Value;

use super::args::EventsArgs;
use super::client::{Client, segment};
use super::{CliError, Reader, show};
use crate::admin::view::EventsView;
use crate::journal::Event;

pub(super) async fn run(args: &EventsArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let service = args.service.as_ref().map_or(String::new(), |name| format!("&service={}", segment(name)));
    let path = format!("/v1/events?limit={}{service}", args.limit);
    let print = |event: &Event, json: &str| show(&if args.json { json.to_owned() } else { line(event) });
    if args.follow {
        let follow = |data: &str| {
            let event: Event = serde_json::from_str(data).map_err(CliError::failed)?;
            print(&event, data)
        };
        return match client.follow(&path, follow).await? {
            Reader::Gone => Ok(()),
            Reader::There => Err(CliError::failed("the proxy ended the stream: it is stopping, or has been stopped")),
        };
    }
    let page: EventsView = client.get(&path).await?;
    for event in &page.events {
        let json = serde_json::to_string(event).map_err(CliError::failed)?;
        if print(event, &json)? == Reader::Gone {
            break;
        }
    }
    Ok(())
}

/// One event, as people read it.
fn line(event: &Event) -> String {
    let service = event.service.as_deref().unwrap_or("-");
    let (at, id, kind, by) = (&event.at, event.id, &event.kind, &event.by);
    format!("{at}  #{id:<5} {kind:<16} {service:<12} {}  by {by}", told(event))
}

/// What an event tells beside its kind.
pub(crate) fn told(event: &Event) -> String {
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
            format!("{}: {} endpoints, one after another{revision}", text("backend"), detail["endpoints"])
        }
        "roll_took_out" | "roll_put_back" => {
            let endpoints = detail["endpoints"].as_array().into_iter().flatten().filter_map(Value::as_str);
            format!("{}: {}", text("backend"), endpoints.collect::<Vec<_>>().join(", "))
        }
        "roll_ended" => format!("{} {}: {}", text("backend"), text("outcome"), text("reason")),
        "swapped" => format!("{}: {}", text("outcome"), text("reason")),
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

    #[test]
    fn an_event_is_one_line() {
        let event = Event {
            id: 7,
            at: "2026-01-01T00:00:00.000Z".into(),
            by: "ada (cli)".into(),
            kind: "weights_changed".into(),
            service: Some("shop".into()),
            detail: json!({ "service": "shop", "from": { "blue": 95.0, "canary": 5.0 }, "to": { "blue": 50.0, "canary": 50.5 } }),
        };
        let said = "2026-01-01T00:00:00.000Z  #7     weights_changed  shop         \
                    blue=50 canary=50.5  (was blue=95 canary=5)  by ada (cli)";
        assert_eq!(line(&event), said);
    }
}
