//! Our events in the vocabulary of pipelines: CDEvents 0.5.1 (<https://cdevents.dev>). Pure.
//!
//! | ours | theirs | its subject |
//! |---|---|---|
//! | `rollout_began` | service deployed | `shop/green`, with the new revision |
//! | `rollout_ended`, completed; `roll_ended`, `swapped` with a revision | service upgraded | `shop`, with the new revision |
//! | `rollout_ended`, rolled back | service rolledback | `shop`, with stable's revision |
//! | `rollout_ended`, aborted or failed | service removed | `shop/green` |
//! | `drained` by the guard, `stable_alarm` | incident detected | `shop/green/drained`, `shop/stable` |
//! | `undrained`, `stable_alarm_ended` | incident resolved | the same |

use serde_json::{Value, json};

use crate::journal::Event;

/// The version of the specification that this page of ours speaks.
const VERSION: &str = "0.5.1";

/// What an event is in that vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CdEvent {
    pub(super) kind: &'static str,
    pub(super) subject: String,
    pub(super) body: Value,
}

/// `None`: pipelines have no word for it. `id`: the event's, in the whole world.
pub(super) fn cdevent(event: &Event, id: &str, environment: &str, source: &str) -> Option<CdEvent> {
    let service = event.service.as_deref()?;
    let text = |key: &str| event.detail[key].as_str().filter(|text| !text.is_empty());
    let instance = || Some(format!("{service}/{}", text("backend")?));
    let (kind, subject, artifact) = match (event.kind.as_str(), text("outcome")) {
        ("rollout_began", _) => ("dev.cdevents.service.deployed.0.3.0", instance()?, Some(text("revision")?)),
        ("rollout_ended" | "roll_ended" | "swapped", Some("completed")) => {
            ("dev.cdevents.service.upgraded.0.3.0", service.to_owned(), Some(text("revision")?))
        }
        ("rollout_ended", Some("rolled back")) => {
            ("dev.cdevents.service.rolledback.0.3.0", service.to_owned(), Some(text("stable_revision")?))
        }
        ("rollout_ended", _) => ("dev.cdevents.service.removed.0.3.0", instance()?, None),
        // A person knows what they do.
        ("drained", _) if event.by == "tidegate" => {
            ("dev.cdevents.incident.detected.0.3.0", format!("{}/drained", instance()?), None)
        }
        ("undrained", _) => ("dev.cdevents.incident.resolved.0.3.0", format!("{}/drained", instance()?), None),
        ("stable_alarm", _) => ("dev.cdevents.incident.detected.0.3.0", format!("{service}/stable"), None),
        ("stable_alarm_ended", _) => ("dev.cdevents.incident.resolved.0.3.0", format!("{service}/stable"), None),
        _ => return None,
    };
    let mut content = json!({ "environment": { "id": environment } });
    if let Some(revision) = artifact {
        content["artifactId"] = purl(service, revision).into();
    }
    if kind.starts_with("dev.cdevents.incident.") {
        content["service"] = json!({ "id": service });
        if let Some(reason) = text("reason") {
            content["description"] = reason.into();
        }
    }
    let body = json!({
        "context": { "specversion": VERSION, "id": id, "source": source, "type": kind, "timestamp": event.at },
        "subject": { "id": subject, "content": content },
        "customData": event,
        "customDataContentType": "application/json",
    });
    Some(CdEvent { kind, subject, body })
}

/// A package URL (<https://github.com/package-url/purl-spec>): the revision where it is one, else one of no kind that is
/// known.
fn purl(service: &str, revision: &str) -> String {
    if revision.starts_with("pkg:") {
        return revision.to_owned();
    }
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b':');
    let version: String =
        revision.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect();
    format!("pkg:generic/{service}@{version}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(kind: &str, by: &str, detail: Value) -> Option<CdEvent> {
        let (at, service) = ("2026-11-21T13:52:55.000Z".to_owned(), Some("shop".to_owned()));
        let event = Event { id: 7, at, by: by.to_owned(), kind: kind.to_owned(), service, detail };
        cdevent(&event, "1-7", "production", "/tidegate")
    }

    #[test]
    fn a_release_is_deployed_and_then_upgraded_or_rolled_back() {
        let detail = |outcome: &str| json!({ "backend": "green", "revision": "sha256:4f/2a", "stable_revision": "pkg:oci/shop@1", "outcome": outcome });
        let deployed = told("rollout_began", "ada", detail("")).unwrap();
        assert_eq!((deployed.kind, &*deployed.subject), ("dev.cdevents.service.deployed.0.3.0", "shop/green"));
        assert_eq!(
            deployed.body,
            json!({
                "context": {
                    "specversion": "0.5.1", "id": "1-7", "source": "/tidegate",
                    "type": "dev.cdevents.service.deployed.0.3.0", "timestamp": "2026-11-21T13:52:55.000Z"
                },
                "subject": {
                    "id": "shop/green",
                    "content": { "environment": { "id": "production" }, "artifactId": "pkg:generic/shop@sha256:4f%2F2a" }
                },
                "customData": {
                    "id": 7, "at": "2026-11-21T13:52:55.000Z", "by": "ada", "kind": "rollout_began", "service": "shop",
                    "detail": detail("")
                },
                "customDataContentType": "application/json"
            })
        );
        let outcomes = [
            ("completed", "service.upgraded", "shop", json!("pkg:generic/shop@sha256:4f%2F2a")),
            ("rolled back", "service.rolledback", "shop", json!("pkg:oci/shop@1")),
            ("aborted", "service.removed", "shop/green", Value::Null),
            ("failed", "service.removed", "shop/green", Value::Null),
        ];
        for (outcome, kind, subject, artifact) in outcomes {
            let ended = told("rollout_ended", "tidegate", detail(outcome)).unwrap();
            assert_eq!(ended.kind, format!("dev.cdevents.{kind}.0.3.0"));
            assert_eq!((&*ended.subject, &ended.body["subject"]["content"]["artifactId"]), (subject, &artifact));
        }
    }

    #[test]
    fn what_the_guard_finds_is_an_incident_and_what_nobody_has_a_word_for_is_nothing() {
        let detail = || json!({ "backend": "green", "reason": "fails" });
        let detected = told("drained", "tidegate", detail()).unwrap();
        assert_eq!(detected.kind, "dev.cdevents.incident.detected.0.3.0");
        assert_eq!(
            detected.body["subject"],
            json!({
                "id": "shop/green/drained",
                "content": { "environment": { "id": "production" }, "service": { "id": "shop" }, "description": "fails" }
            })
        );
        assert_eq!(told("undrained", "ada", detail()).unwrap().subject, detected.subject);
        assert_eq!(told("drained", "ada", detail()), None);
        assert_eq!(told("held", "ada", detail()), None);
        assert_eq!(told("roll_ended", "ada", json!({ "outcome": "completed" })), None, "nobody said what it brought");
    }
}
