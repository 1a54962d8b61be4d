//! What a sink is sent of an event. Pure.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::cdevents::cdevent;
use crate::config::{SinkConfig, SinkKind};
use crate::journal::{Event, told};
use crate::model::parse_timestamp;
use crate::outbound::Call;

/// What is read of an answer; nobody looks at it.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
/// The most that a chat takes, with room for its own limits.
const TEXT_CHARS_MAX: usize = 3_000;

/// Whether a sink hears of an event at all.
pub(super) fn is_wanted(sink: &SinkConfig, event: &Event) -> bool {
    let of_service = |service: &str| sink.services.iter().any(|wanted| wanted.as_str() == service);
    (sink.services.is_empty() || event.service.as_deref().is_some_and(of_service))
        && sink.events.iter().any(|pattern| pattern.takes(&event.kind))
        // Nobody is told in vain that they couldn't be told.
        && !(event.kind == "notify_skipped" && event.detail["sink"] == sink.name.as_str())
        && call(sink, event).is_some()
}

/// The call that tells a sink; `None`: it has no word for this event.
pub(super) fn call(sink: &SinkConfig, event: &Event) -> Option<Call> {
    let id = id(event);
    let (body, content_type, headers) = match &sink.kind {
        SinkKind::Webhook => (serde_json::to_value(event).ok()?, "application/json", HeaderMap::new()),
        SinkKind::Slack => (json!({ "text": escaped(&text(sink, event)) }), "application/json", HeaderMap::new()),
        SinkKind::Grafana => {
            let mut tags = vec!["tidegate", &event.kind];
            tags.extend(event.service.as_deref());
            let body = json!({ "time": unix_ms(event), "tags": tags, "text": text(sink, event) });
            (body, "application/json", HeaderMap::new())
        }
        SinkKind::CdEvents { environment, source } => {
            let told = cdevent(event, &id, environment, source)?;
            let headers = [
                ("ce-specversion", "1.0"),
                ("ce-id", &id),
                ("ce-source", source),
                ("ce-type", told.kind),
                ("ce-subject", &told.subject),
                ("ce-time", &event.at),
            ];
            let header = |(name, value): (&'static str, &str)| {
                Some((HeaderName::from_static(name), HeaderValue::try_from(value).ok()?))
            };
            (told.body, "application/cdevents+json", headers.into_iter().map(header).collect::<Option<_>>()?)
        }
    };
    Some(message(&body, content_type, headers, id))
}

fn message(body: &Value, content_type: &'static str, mut headers: HeaderMap, id: String) -> Call {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    let body = Bytes::from(body.to_string());
    Call { method: Method::POST, path: None, headers, body, id: Some(id), answer_bytes_max: ANSWER_BYTES_MAX }
}

/// Tells an event from all others, those of another journal included, as far as a millisecond can; the same when it is
/// sent again.
fn id(event: &Event) -> String {
    format!("{}-{}", unix_ms(event), event.id)
}

fn unix_ms(event: &Event) -> u64 {
    let at = parse_timestamp(&event.at).and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    at.map_or(0, |at| at.as_millis() as u64)
}

/// What people read of it.
fn text(sink: &SinkConfig, event: &Event) -> String {
    let service = event.service.as_deref().unwrap_or("tidegate");
    let text = match &sink.text {
        None => format!("{service}: {} {} (by {})", event.kind.replace('_', " "), told(event), event.by),
        Some(template) => template.fill(|name| match name {
            "id" => event.id.to_string(),
            "at" => event.at.clone(),
            "by" => event.by.clone(),
            "kind" => event.kind.clone(),
            "service" => service.to_owned(),
            "text" => told(event),
            name => match &event.detail[name] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
        }),
    };
    text.chars().take(TEXT_CHARS_MAX).collect()
}

/// What Slack reads as markup is meant as text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::uri::PathAndQuery;

    use super::*;
    use crate::config::{Destination, EndpointHost, Scheme};
    use crate::model::{EventPattern, TextTemplate};

    fn sink(kind: SinkKind) -> SinkConfig {
        let to = Destination {
            scheme: Scheme::Http,
            host: EndpointHost::Name("localhost".to_owned()),
            port: 80,
            authority: HeaderValue::from_static("localhost"),
            path: PathAndQuery::from_static("/"),
            tls: None,
            headers: Vec::new(),
            secret: None,
            timeout: Duration::from_secs(1),
        };
        SinkConfig {
            name: "ops".into(),
            kind,
            to: Arc::new(to),
            services: Vec::new(),
            events: vec![EventPattern::parse("*").unwrap()],
            text: None,
            backlog: 10,
            retry: Duration::from_secs(1),
        }
    }

    fn event(kind: &str, detail: Value) -> Event {
        let (at, service) = ("1970-01-01T00:00:01.500Z".to_owned(), Some("shop".to_owned()));
        Event { id: 7, at, by: "ada".into(), kind: kind.into(), service, detail }
    }

    fn body(sink: &SinkConfig, event: &Event) -> Value {
        serde_json::from_slice(&call(sink, event).unwrap().body).unwrap()
    }

    #[test]
    fn a_webhook_gets_the_event_as_the_api_tells_it() {
        let drained = event("drained", json!({ "backend": "green", "reason": "it <b>fails</b> & hangs" }));
        let call = call(&sink(SinkKind::Webhook), &drained).unwrap();
        assert_eq!(serde_json::from_slice::<Event>(&call.body).unwrap(), drained);
        assert_eq!(call.id.as_deref(), Some("1500-7"), "the same whenever it is sent");
    }

    #[test]
    fn a_chat_gets_text_without_markup_and_a_dashboard_a_moment() {
        let drained = event("drained", json!({ "backend": "green", "reason": "it <b>fails</b> & hangs" }));
        let mut chat = sink(SinkKind::Slack);
        let text = "shop: drained green: it &lt;b&gt;fails&lt;/b&gt; &amp; hangs (by ada)";
        assert_eq!(body(&chat, &drained), json!({ "text": text }));
        chat.text = Some(TextTemplate::parse("{backend} {none}{{{kind}}} {id}").unwrap());
        assert_eq!(body(&chat, &drained), json!({ "text": "green {drained} 7" }));
        let told = body(&sink(SinkKind::Grafana), &drained);
        assert_eq!((&told["time"], &told["tags"]), (&json!(1500), &json!(["tidegate", "drained", "shop"])));
    }

    #[test]
    fn a_pipeline_gets_what_it_has_words_for_and_the_same_in_headers() {
        let pipeline = sink(SinkKind::CdEvents { environment: "production".into(), source: "/tidegate".into() });
        let began = event("rollout_began", json!({ "backend": "green", "revision": "v2" }));
        let call = call(&pipeline, &began).unwrap();
        let header = |name: &str| call.headers[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "application/cdevents+json");
        assert_eq!(header("ce-type"), "dev.cdevents.service.deployed.0.3.0");
        assert_eq!((header("ce-id"), header("ce-subject")), ("1500-7".into(), "shop/green".into()));
        assert_eq!((header("ce-specversion"), header("ce-time")), ("1.0".into(), began.at.clone()));
        assert!(!is_wanted(&pipeline, &event("held", json!({}))));
    }

    #[test]
    fn filters_are_by_service_and_kind_and_nobody_hears_of_itself() {
        let mut ops = sink(SinkKind::Webhook);
        let skipped = |sink: &str| event("notify_skipped", json!({ "sink": sink }));
        assert!(is_wanted(&ops, &skipped("chat")) && !is_wanted(&ops, &skipped("ops")));
        ops.services = vec!["api".parse().unwrap()];
        assert!(!is_wanted(&ops, &event("held", json!({}))));
        let nobodys = Event { service: None, ..event("started", json!({})) };
        assert!(!is_wanted(&ops, &nobodys));
        ops.services = vec!["shop".parse().unwrap()];
        ops.events = vec![EventPattern::parse("rollout_*").unwrap()];
        assert!(is_wanted(&ops, &event("rollout_ended", json!({}))) && !is_wanted(&ops, &event("held", json!({}))));
    }
}
