//! Who outside is told of events, of which, and in which words.

use super::destination::DestinationKeys;
use super::{Check, Fault, unless_reported};
use crate::config::SinkConfig;
use crate::config::file::{NotifyFile, NotifyKindFile};
use crate::config::key_path::KeyPath;
use crate::config::notify::SinkKind;
use crate::config::suggestion::closest;
use crate::config::types::ServiceConfig;
use crate::model::{EVENT_KINDS, EventPattern, ServiceName, TELLING_KINDS, TextTemplate};

/// Each has a task, and its events wait in memory.
const SINKS_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 63;

impl Check<'_, '_> {
    /// `services`: those of the file, where they are known.
    pub(super) fn notify(
        &mut self,
        at: &KeyPath,
        files: &[NotifyFile],
        services: Option<&[ServiceConfig]>,
    ) -> Option<Vec<SinkConfig>> {
        if files.len() > SINKS_MAX {
            let message = format!("{} are more than can be told", files.len());
            let hint = format!("keep to {SINKS_MAX}; one webhook can tell any number of others");
            self.report.problem(at, message, hint);
            return None;
        }
        let mut seen: Vec<&str> = Vec::new();
        let mut sinks = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let at = at.index(index);
            if seen.contains(&file.name.as_str()) {
                let hint = "give each a name of its own: it tells them apart in metrics and in what each has heard";
                self.report.problem(&at.key("name"), format!("another one is called {:?}", file.name), hint);
            }
            seen.push(&file.name);
            sinks.push(self.sink(&at, file, services));
        }
        sinks.into_iter().collect()
    }

    fn sink(&mut self, at: &KeyPath, file: &NotifyFile, services: Option<&[ServiceConfig]>) -> Option<SinkConfig> {
        let name = self.accept(&at.key("name"), name(&file.name));
        let keys = DestinationKeys {
            url: &file.url,
            headers: &file.headers,
            secret: file.secret.as_ref(),
            tls: file.tls.as_ref(),
            timeout: &file.timeout,
        };
        let to = self.destination(at, keys);
        let named = file.services.iter().flatten().enumerate().map(|(index, name)| {
            let at = at.key("services").index(index);
            let name = self.name::<ServiceName>(&at, name)?;
            let known = services.is_none_or(|services| services.iter().any(|service| service.name == name));
            if !known {
                self.report.problem(
                    &at,
                    format!("there is no service {name}"),
                    "name one of [services], or leave it out",
                );
            }
            Some(name)
        });
        let named: Option<Vec<ServiceName>> = named.collect::<Vec<_>>().into_iter().collect();
        let events = match &file.events {
            None => Some(usual(file.kind)),
            Some(events) => {
                let patterns = events.iter().enumerate().map(|(index, text)| {
                    let at = at.key("events").index(index);
                    self.accept(&at, pattern(text))
                });
                patterns.collect::<Vec<_>>().into_iter().collect()
            }
        };
        let text = file.text.as_ref().map(|text| {
            let at = at.key("text");
            let template = TextTemplate::parse(text);
            let hint =
                "write {service}, {kind}, {by}, {at}, {text} or what the event has, like {revision}; {{ is a brace";
            self.accept(&at, template.map_err(|error| Fault::new(error.to_string(), hint)))
        });
        let retry = self.positive_duration(&at.key("retry"), &file.retry);
        self.unfit(at, file);
        Some(SinkConfig {
            name: name?,
            kind: match file.kind {
                NotifyKindFile::Webhook => SinkKind::Webhook,
                NotifyKindFile::Slack => SinkKind::Slack,
                NotifyKindFile::Grafana => SinkKind::Grafana,
                NotifyKindFile::Cdevents => SinkKind::CdEvents {
                    environment: file.environment.clone().unwrap_or_else(|| "production".to_owned()),
                    source: file.source.clone().unwrap_or_else(|| "/tidegate".to_owned()),
                },
            },
            to: to?,
            services: named?,
            events: events?,
            text: unless_reported(text)?,
            backlog: file.backlog as usize,
            retry: retry?,
        })
    }

    /// What this kind of sink makes nothing of.
    fn unfit(&mut self, at: &KeyPath, file: &NotifyFile) {
        let is_text = matches!(file.kind, NotifyKindFile::Slack | NotifyKindFile::Grafana);
        if file.text.is_some() && !is_text {
            let hint = "leave it out, or say kind = \"slack\" or \"grafana\"";
            self.report.problem(&at.key("text"), "this kind is sent data, and no text", hint);
        }
        let theirs = [("environment", &file.environment), ("source", &file.source)];
        for (key, value) in theirs {
            let Some(value) = value else { continue };
            if file.kind != NotifyKindFile::Cdevents {
                self.report.problem(&at.key(key), "only cdevents have it", "leave it out, or say kind = \"cdevents\"");
            } else if value.is_empty() || !value.bytes().all(|b| b.is_ascii_graphic()) {
                let hint = "write it without spaces, like \"production\" or \"/teams/shop/tidegate\"";
                self.report.problem(&at.key(key), format!("{value:?} can't be sent in a header"), hint);
            }
        }
    }
}

/// What is told where the file doesn't say: all of it to machines, and to people what they may want to act on.
fn usual(kind: NotifyKindFile) -> Vec<EventPattern> {
    let kinds: &[&str] = match kind {
        NotifyKindFile::Webhook | NotifyKindFile::Cdevents => &["*"],
        NotifyKindFile::Slack | NotifyKindFile::Grafana => &TELLING_KINDS,
    };
    kinds.iter().filter_map(|kind| EventPattern::parse(kind)).collect()
}

fn pattern(text: &str) -> Result<EventPattern, Fault> {
    EventPattern::parse(text).ok_or_else(|| {
        let hint = closest(text, EVENT_KINDS.iter().copied()).map_or_else(
            || "docs/api.md has all kinds; \"rollout_*\" takes all that begin so".to_owned(),
            |kind| format!("did you mean {kind:?}?"),
        );
        Fault::new(format!("there is no event {text:?}"), hint)
    })
}

fn name(text: &str) -> Result<String, Fault> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(fits) {
        let hint = format!("use up to {NAME_BYTES_MAX} of a to z, 0 to 9 and -, like \"release-chat\"");
        return Err(Fault::new(format!("{text:?} is no name"), hint));
    }
    Ok(text.to_owned())
}
