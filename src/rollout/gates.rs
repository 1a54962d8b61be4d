//! Gates of one rollout at work: who is being asked, and what was heard since the present phase began.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::machine::State;
use super::record::Record;
use super::sight::Sides;
use crate::config::{GatesConfig, ServiceConfig};
use crate::gate::{Asking, Notice, Standing, ask, smoke, watch};
use crate::model::{Gate, GateKind, Point, filled};

/// Who is asked, and since when it is about this.
#[derive(Debug, Default)]
pub(super) struct Gates {
    /// The rollout's state when they were asked: an answer is about that alone.
    state: Option<State>,
    asked: Vec<(GateKind, String, Asking)>,
}

impl Gates {
    /// What was heard is of use as long as the state is the same.
    pub(super) fn note(&mut self, state: &State) {
        if self.state.as_ref() != Some(state) {
            self.asked.clear();
            self.state = Some(state.clone());
        }
    }

    /// Asks whom there is to ask before it goes on, each once.
    pub(super) fn ask(&mut self, record: &Record, sides: Sides<'_>) {
        for gate in record.plan.gates_after(record.state.step()).filter(|gate| gate.kind != GateKind::Metric) {
            if !self.is_asked(gate) {
                let asking = match asking(gate, record, sides) {
                    Some(asking) => asking,
                    None => Asking::once(async { Standing::Silent(GONE.to_owned()) }),
                };
                self.asked.push((gate.kind, gate.name.clone(), asking));
            }
        }
    }

    /// Watches metrics from the beginning of each step.
    pub(super) fn watch(&mut self, record: &Record, sides: Sides<'_>) {
        let metrics = record.plan.gates.iter().filter(|gate| gate.kind == GateKind::Metric);
        for gate in metrics.filter(|_| record.state.is_at_step()) {
            if self.is_asked(gate) {
                continue;
            }
            let config = &sides.service.config.rollout.gates.metrics;
            let asking = match config.iter().find(|(name, _)| *name == gate.name) {
                None => Asking::once(async { Standing::Silent(GONE.to_owned()) }),
                Some((_, metric)) => {
                    let (metric, query) = (Arc::clone(metric), query_about(&metric.query, record));
                    Asking::again(|tell| watch(metric, query, tell))
                }
            };
            self.asked.push((gate.kind, gate.name.clone(), asking));
        }
    }

    fn is_asked(&self, gate: &Gate) -> bool {
        self.asked.iter().any(|(kind, name, _)| *kind == gate.kind && *name == gate.name)
    }

    pub(super) fn standings(&self) -> Vec<(GateKind, String, Standing)> {
        let standings = self.asked.iter().map(|(kind, name, asking)| (*kind, name.clone(), asking.standing()));
        standings.collect()
    }
}

/// Said of a gate that the plan has and the file hasn't any more.
const GONE: &str = "the file has it no more";

fn asking(gate: &Gate, record: &Record, sides: Sides<'_>) -> Option<Asking> {
    let config = &sides.service.config.rollout.gates;
    match gate.kind {
        GateKind::Metric => None,
        GateKind::Smoke => {
            let (checks, endpoints) = (Arc::clone(config.smoke.as_ref()?), sides.candidate.endpoints.to_vec());
            Some(Asking::once(smoke(checks, endpoints)))
        }
        GateKind::Webhook => {
            let step = record.state.step();
            let next = step.map_or(0, |step| step + 1);
            let point = match step {
                None if gate.at.contains(&Point::Before) => Point::Before,
                Some(_) if gate.at.contains(&Point::Step) => Point::Step,
                _ => Point::Promotion,
            };
            let mut body = about(record, point);
            body["next"] =
                record.plan.steps.get(next).map_or_else(|| "completed".to_owned(), ToString::to_string).into();
            let (_, hook) = config.webhooks.iter().find(|(name, _)| *name == gate.name)?;
            Some(Asking::once(ask(Arc::clone(hook), Notice { id: id(gate, record, point), body })))
        }
    }
}

/// Tells hooks that something has ended; nobody waits for them.
pub(super) fn tell(record: &Record, config: &GatesConfig, point: Point) {
    for gate in record.plan.gates.iter().filter(|gate| gate.at.contains(&point)) {
        let Some((_, hook)) = config.webhooks.iter().find(|(name, _)| *name == gate.name) else { continue };
        let mut body = about(record, point);
        body["outcome"] = record.state.outcome().map(super::Outcome::name).into();
        body["reason"] = record.state.end_reason().into();
        body["receipt"] = serde_json::to_value(&record.receipt).unwrap_or_default();
        let telling = ask(Arc::clone(hook), Notice { id: id(gate, record, point), body });
        let (gate, service, rollout) = (gate.to_string(), record.service.clone(), record.id);
        tokio::spawn(async move {
            let standing = telling.await;
            if !standing.is_passed() {
                tracing::warn!(%service, rollout, gate, reason = standing.reason(), "a hook wasn't told how a rollout ended");
            }
        });
    }
}

/// Tells one saying from every other one; the same after a restart, where the same is asked again.
fn id(gate: &Gate, record: &Record, point: Point) -> String {
    format!("{}-{}-{}-{}-{}", record.service, record.id, record.version, point.name(), gate.name)
}

/// What every hook is told.
fn about(record: &Record, point: Point) -> Value {
    json!({
        "point": point.name(),
        "service": record.service,
        "rollout": record.id,
        "backend": record.candidate,
        "revision": record.revision,
        "stable": record.stable,
        "stable_revision": record.stable_revision,
        "strategy": record.plan.strategy.name(),
        "step": record.state.step().map(|step| step + 1),
        "steps": record.plan.steps.len(),
        "by": record.by,
        "commit": record.about.commit,
        "link": record.about.link,
    })
}

/// A query about this rollout. Label values in PromQL are Go strings.
fn query_about(query: &str, record: &Record) -> String {
    let revision = record.revision.replace('\\', "\\\\").replace('"', "\\\"");
    let values = [
        ("service", record.service.as_str()),
        ("backend", record.candidate.as_str()),
        ("stable", record.stable.as_str()),
        ("revision", &revision),
    ];
    filled(query, &values)
}

/// Why nothing may go toward a new release now.
pub(super) fn frozen(config: &ServiceConfig, now: SystemTime) -> Option<String> {
    let window = config.rollout.gates.freeze.iter().find(|window| window.holds(now))?;
    Some(format!("releases are frozen ({window})"))
}
