//! Who else has to say yes before a rollout goes on: smoke checks, webhooks, metrics and the calendar.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::header::CONTENT_TYPE;

use super::destination::DestinationKeys;
use super::header_changes::response_name;
use super::health::{header, host, path};
use super::{Check, Fault, unless_reported};
use crate::config::file::{
    AskedAtFile, JsonValueFile, MetricFile, OnFailureFile, PointFile, RolloutFile, SmokeCheckFile, SmokeFile,
    WebhookFile,
};
use crate::config::gates::{GatesConfig, MetricConfig, SmokeCheck, SmokeConfig, WebhookConfig};
use crate::config::key_path::KeyPath;
use crate::model::{BackendName, Gate, GateKind, JsonPath, JsonPathError, OnFailure, Point};

/// Of each kind: more would keep nobody safer, and each is a task while it is asked.
const GATES_MAX: usize = 32;
/// Of a smoke check's request. Each of them is in memory for as long as the file is in force.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// What a query is sent in is a URL.
const QUERY_BYTES_MAX: usize = 4096;

/// The plan's part of what the file says: who is asked when, but not where and with which secrets.
pub(super) fn asked(file: &RolloutFile) -> Vec<Gate> {
    let on_failure = |file: OnFailureFile| match file {
        OnFailureFile::Pause => OnFailure::Pause,
        OnFailureFile::Rollback => OnFailure::Rollback,
    };
    let smoke = file.smoke.iter().map(|smoke| Gate {
        name: "smoke".to_owned(),
        kind: GateKind::Smoke,
        at: smoke.at.iter().map(|at| asked_at(*at)).collect(),
        on_failure: on_failure(smoke.on_failure),
    });
    let webhooks = file.webhooks.0.iter().map(|(name, hook)| Gate {
        name: name.clone(),
        kind: GateKind::Webhook,
        at: hook.at.iter().map(|at| point(*at)).collect(),
        on_failure: on_failure(hook.on_failure),
    });
    let metrics = file.metrics.0.iter().map(|(name, metric)| Gate {
        name: name.clone(),
        kind: GateKind::Metric,
        at: Vec::new(),
        on_failure: on_failure(metric.on_failure),
    });
    smoke.chain(webhooks).chain(metrics).collect()
}

fn asked_at(file: AskedAtFile) -> Point {
    match file {
        AskedAtFile::Before => Point::Before,
        AskedAtFile::Step => Point::Step,
        AskedAtFile::Promotion => Point::Promotion,
    }
}

fn point(file: PointFile) -> Point {
    match file {
        PointFile::Before => Point::Before,
        PointFile::Step => Point::Step,
        PointFile::Promotion => Point::Promotion,
        PointFile::After => Point::After,
        PointFile::Rollback => Point::Rollback,
    }
}

impl Check<'_, '_> {
    /// `at`: the rollout's table.
    pub(super) fn gates(&mut self, at: &KeyPath, file: &RolloutFile) -> Option<GatesConfig> {
        let smoke = file.smoke.as_ref().map(|smoke| self.smoke(&at.key("smoke"), smoke));
        let at_webhooks = at.key("webhooks");
        let webhooks = file.webhooks.0.iter().map(|(name, hook)| {
            let at = at_webhooks.key(name);
            let checked = self.webhook(&at, hook);
            self.gate_name(&at, name).zip(checked)
        });
        let webhooks: Vec<_> = webhooks.collect();
        let at_metrics = at.key("metrics");
        let metrics = file.metrics.0.iter().map(|(name, metric)| {
            let at = at_metrics.key(name);
            let checked = self.metric(&at, metric);
            self.gate_name(&at, name).zip(checked)
        });
        let metrics: Vec<_> = metrics.collect();
        for (at, count) in [(at_webhooks, webhooks.len()), (at_metrics, metrics.len())] {
            if count > GATES_MAX {
                let hint = format!("keep to {GATES_MAX}");
                self.report.problem(&at, format!("{count} are more than a rollout asks"), hint);
            }
        }
        let at_freeze = at.key("freeze");
        let freeze = file.freeze.iter().enumerate().map(|(index, file)| self.freeze(&at_freeze.index(index), file));
        let freeze: Vec<_> = freeze.collect();
        Some(GatesConfig {
            smoke: unless_reported(smoke)?.map(Arc::new),
            webhooks: webhooks.into_iter().collect::<Option<_>>()?,
            metrics: metrics.into_iter().collect::<Option<_>>()?,
            freeze: freeze.into_iter().collect::<Option<_>>()?,
        })
    }

    /// Names of gates are told, and stand in ids, as other names are.
    fn gate_name(&mut self, at: &KeyPath, name: &str) -> Option<String> {
        let checked = name.parse::<BackendName>().map(|_| name.to_owned());
        let fault = |error: crate::model::NameError| Fault::new(error.to_string(), "write a name like \"ci\"");
        self.accept(at, checked.map_err(fault))
    }

    fn smoke(&mut self, at: &KeyPath, file: &SmokeFile) -> Option<SmokeConfig> {
        let at_checks = at.key("checks");
        let checks = file.checks.iter().enumerate();
        let checks: Vec<_> = checks.map(|(index, file)| self.smoke_check(&at_checks.index(index), file)).collect();
        let timeout = self.positive_duration(&at.key("timeout"), &file.timeout);
        let checks = checks.into_iter().collect::<Option<_>>()?;
        Some(SmokeConfig { checks, timeout: timeout?, retries: file.retries })
    }

    fn smoke_check(&mut self, at: &KeyPath, file: &SmokeCheckFile) -> Option<SmokeCheck> {
        let path = self.accept(&at.key("path"), path(&file.path));
        let method = self.probe_method(&at.key("method"), file.method.as_deref());
        let host = file.host.as_ref().map(|text| self.accept(&at.key("host"), host(text)));
        let at_headers = at.key("headers");
        let headers =
            file.headers.0.iter().map(|(name, value)| self.accept(&at_headers.key(name), header(name, value)));
        let headers: Vec<_> = headers.collect();
        let body = file.body.as_ref().map(|text| self.smoke_body(at, text, file, method.as_ref()));
        let statuses = self.good_statuses(&at.key("status"), file.status.as_deref());
        let at_answer = at.key("answer_headers");
        let answer_headers = file.answer_headers.0.iter().map(|(name, value)| {
            let parsed = response_name(name).and_then(|name| {
                let value = value.parse().map_err(|_| Fault::new("this is no value of a header", "no line breaks"))?;
                Ok((name, value))
            });
            self.accept(&at_answer.key(name), parsed)
        });
        let answer_headers: Vec<_> = answer_headers.collect();
        let at_json = at.key("json");
        let json = file.json.0.iter().map(|(place, value)| {
            let parsed = place.parse::<JsonPath>().map_err(|error: JsonPathError| {
                Fault::new(format!("{place:?} names no place in a JSON body"), error.to_string())
            });
            self.accept(&at_json.key(place), parsed.map(|place| (place, json_value(value))))
        });
        let json: Vec<_> = json.collect();
        if !json.is_empty() && method == Some(Method::HEAD) {
            self.report.problem(&at_json, "answers to HEAD have no body", "write method = \"GET\"");
        }
        Some(SmokeCheck {
            method: method?,
            path: path?,
            host: unless_reported(host)?,
            headers: headers.into_iter().collect::<Option<_>>()?,
            body: unless_reported(body)?.unwrap_or_default(),
            statuses: statuses?,
            answer_headers: answer_headers.into_iter().collect::<Option<_>>()?,
            json: json.into_iter().collect::<Option<_>>()?,
        })
    }

    /// `method`: `None` when it was reported.
    fn smoke_body(
        &mut self,
        at: &KeyPath,
        text: &str,
        file: &SmokeCheckFile,
        method: Option<&Method>,
    ) -> Option<Bytes> {
        let at = at.key("body");
        if text.len() > BODY_BYTES_MAX {
            let message = format!("the body has {} bytes, and may have {BODY_BYTES_MAX}", text.len());
            self.report.problem(&at, message, "a smoke check asks for little; write a smaller one");
            return None;
        }
        if let Some(method) = method.filter(|method| has_no_body(method)) {
            let message = format!("a request of {method} has no body");
            self.report.problem(&at, message, "write method = \"POST\", or another one that has");
        }
        if !file.headers.0.iter().any(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE.as_str())) {
            let hint = "write headers = { content-type = \"application/json\" }";
            self.report.problem(&at, "nothing says what the body is", hint);
        }
        Some(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn webhook(&mut self, at: &KeyPath, file: &WebhookFile) -> Option<Arc<WebhookConfig>> {
        let keys = DestinationKeys {
            url: &file.url,
            headers: &file.headers,
            secret: file.secret.as_ref(),
            tls: file.tls.as_ref(),
            timeout: &file.timeout,
        };
        Some(Arc::new(WebhookConfig { to: self.destination(at, keys)?, retries: file.retries }))
    }

    fn metric(&mut self, at: &KeyPath, file: &MetricFile) -> Option<Arc<MetricConfig>> {
        let keys = DestinationKeys {
            url: &file.url,
            headers: &file.headers,
            secret: None,
            tls: file.tls.as_ref(),
            timeout: &file.timeout,
        };
        let to = self.destination(at, keys);
        let interval = self.positive_duration(&at.key("interval"), &file.interval);
        if file.query.trim().is_empty() || file.query.len() > QUERY_BYTES_MAX {
            let message = format!("a query has 1 to {QUERY_BYTES_MAX} bytes");
            self.report.problem(&at.key("query"), message, "write PromQL for one number");
        }
        match (file.min, file.max) {
            (None, None) => {
                let hint = "say what is good: max = 0.5, min = 1, or both";
                self.report.absent(&at.key("max"), "any number would do", hint);
            }
            (Some(min), Some(max)) if min > max => {
                let message = format!("no number is at least {min} and at most {max}");
                self.report.problem(&at.key("min"), message, "write the smaller one as min");
            }
            _ => {}
        }
        Some(Arc::new(MetricConfig {
            to: to?,
            query: file.query.clone(),
            min: file.min,
            max: file.max,
            interval: interval?,
            failures: file.failures,
        }))
    }
}

/// RFC 9110 section 9.3: a body says nothing there, and some servers refuse it.
fn has_no_body(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE)
}

fn json_value(file: &JsonValueFile) -> serde_json::Value {
    match file {
        JsonValueFile::Text(text) => text.clone().into(),
        JsonValueFile::Number(number) => (*number).into(),
        JsonValueFile::Switch(switch) => (*switch).into(),
    }
}
