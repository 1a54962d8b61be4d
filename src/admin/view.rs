//! What the API says, as JSON. The command line reads the same types back.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;

pub use super::roll_view::{EndBody, EndpointsView, ReadinessView, RenewBody, RollBody, RollView};
use crate::guard::TrialView;
use crate::journal::Event;
use crate::model::{Drain, GuardMode, Sticky};
use crate::observe::{MirrorDrop, ProcessMetrics, ReloadOutcome};
use crate::shadow::{Results, ShadowView, Verdict};
use crate::state::{Backend, Hold, Mirror, Service, Snapshot};
use crate::upstream::{Availability, Endpoint};

/// All services, with what belongs to the whole process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServicesView {
    /// Version of what requests see; grows with each change.
    pub version: u64,
    pub process: ProcessView,
    pub services: Vec<ServiceView>,
}

/// The process as a whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessView {
    /// tidegate's own version.
    pub tidegate: String,
    pub pid: u32,
    pub workers: usize,
    pub uptime_s: u64,
    pub connections_open: u64,
    pub tunnels_open: u64,
    /// Why live changes can't be made and stable gets everything; absent when all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_problem: Option<String>,
    /// The most that the guard may do anywhere, where somebody has said so live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<GuardMode>,
    /// How the last reload ended; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadView>,
}

/// How a reload ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReloadView {
    /// RFC 3339, UTC.
    pub at: String,
    pub applied: bool,
    /// Warnings where it was applied, the reasons where it was refused.
    pub messages: Vec<String>,
}

/// One service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServiceView {
    pub name: String,
    /// Number of routes; 0: takes what no other service takes.
    pub routes: usize,
    pub stable: String,
    /// By what clients keep their backend; absent: not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// Weights were changed live and differ from the file.
    pub overridden: bool,
    /// No backend with a weight has an available endpoint, so all of them are used.
    #[serde(default)]
    pub panicking: bool,
    /// The rollout that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<u64>,
    /// Grows with each change of its configuration or its weights; the ETag that `If-Match` takes.
    pub revision: u64,
    /// New requests wait; absent: they don't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldView>,
    /// What follows from the guard's verdict, by the file.
    pub guard: GuardMode,
    /// From when on an answer is slow; absent while that isn't known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_after_ms: Option<f64>,
    /// Stable fails more often than a candidate: nothing is sent to it in the candidate's place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stable_alarm: bool,
    pub backends: Vec<BackendView>,
    /// Copies of its requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<MirrorView>,
    /// How candidates stand against stable; of one service only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trials: Vec<TrialView>,
    /// Why the journal can't be used, so that stable gets everything; of one service only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_problem: Option<String>,
}

/// A service whose new requests wait.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HoldView {
    /// Until it ends by itself.
    pub seconds_left: f64,
    /// The most that wait at once.
    pub requests_max: u64,
    /// Now.
    pub waiting: u64,
    /// Since it began, those included that wait now or gave up.
    pub waited: u64,
    /// Whose client left, or whose own time was over.
    pub gave_up: u64,
    /// Which found no room.
    pub refused: u64,
}

/// Copies of a service's requests for one backend; counts are since the mirror was first configured in this process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MirrorView {
    pub backend: String,
    /// Of the requests that it is for; what the file says, or what was set live.
    pub percent: f64,
    /// What the file says.
    pub configured_percent: f64,
    /// Copies whose answers were read.
    pub answered: u64,
    /// Copies that weren't sent, or whose answers weren't read to the end, by reason.
    pub dropped: BTreeMap<String, u64>,
    pub in_flight: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// Whether what runs there answers as stable does; absent where that isn't compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

impl MirrorView {
    /// Another share than the file's was set live.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.percent.to_bits() != self.configured_percent.to_bits()
    }
}

/// `{"backend": "green", "percent": 10}`; without a percentage, the file's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorBody {
    pub backend: String,
    pub percent: Option<f64>,
}

/// `{"for": "30s"}`; `requests` is how many may wait at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldBody {
    #[serde(rename = "for")]
    pub time: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
}

/// One backend; counts and latencies are since it was first configured in this process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendView {
    pub name: String,
    /// What runs there; the endpoints stand for it where the file doesn't say.
    pub revision: String,
    /// Why it gets no new requests, or few.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
    /// It was deployed live: the revision isn't the file's, or the endpoints aren't.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deployed: bool,
    /// The evidence against it: 1 when there is none.
    pub e_value: f64,
    pub weight: WeightView,
    /// Part of the service's randomised requests, 0 to 1.
    pub share: f64,
    pub endpoints: Vec<EndpointView>,
    /// Requests it may have under way while a failed larger backend's share falls to it; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow_limit: Option<u32>,
    pub requests: u64,
    /// Answers with a status of 500 and above.
    pub errors: u64,
    pub in_flight: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}

/// One address of a backend.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndpointView {
    pub address: String,
    /// "up", "recovering", "drained", "check failed", "ejected" or "on trial".
    pub state: String,
    /// Why it gets no requests; absent where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when it is ejected: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Why a backend gets no new requests, or few.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DrainView {
    /// The person, or "guard".
    pub by: String,
    /// RFC 3339, UTC.
    pub at: String,
    pub reason: String,
    /// The share of the service's requests that it gets to prove itself; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation: Option<f64>,
    /// RFC 3339, UTC: it stands still and gets requests again then; absent: it doesn't by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// Why a backend is to be drained.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainBody {
    #[serde(default)]
    pub reason: Option<String>,
}

/// The most that the guard may do anywhere; `None`: what the file says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardView {
    pub at_most: Option<GuardMode>,
}

/// What the file says, what is wanted, and what requests see.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct WeightView {
    pub configured: f64,
    /// What the file or a live change says.
    pub wanted: f64,
    pub effective: f64,
}

/// A page of history, oldest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventsView {
    pub events: Vec<Event>,
    /// There are more: after the last when `after` was given, else before the first.
    pub more: bool,
}

/// Where the comparisons of a service's mirrors stand.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShadowsView {
    pub service: String,
    /// One for each mirror that compares.
    pub mirrors: Vec<ShadowView>,
}

/// Why a call was refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorView {
    pub error: String,
}

/// `{"blue": 90, "canary": 10}`, in the order given and with doubles kept, so that they can be refused.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightsBody(pub Vec<(String, f64)>);

impl<'de> Deserialize<'de> for WeightsBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = WeightsBody;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of backend names and weights, like {\"blue\": 90, \"canary\": 10}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightsBody, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(WeightsBody(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

impl Serialize for WeightsBody {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, weight)| (name, weight)))
    }
}

impl ServicesView {
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        process: &ProcessMetrics,
        journal_problem: Option<String>,
        guard: Option<GuardMode>,
    ) -> Self {
        Self {
            version: snapshot.version,
            process: ProcessView::new(process, journal_problem, guard),
            services: snapshot.services.iter().map(|service| ServiceView::new(service)).collect(),
        }
    }
}

impl ProcessView {
    fn new(process: &ProcessMetrics, journal_problem: Option<String>, guard: Option<GuardMode>) -> Self {
        let totals = process.totals();
        let last = process.last_reload.lock().expect("no holder of this lock panics");
        Self {
            tidegate: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            workers: process.workers.len(),
            uptime_s: process.started.elapsed().map_or(0, |up| up.as_secs()),
            connections_open: totals.connections_open,
            tunnels_open: totals.tunnels_open,
            journal_problem,
            guard,
            last_reload: last.as_ref().map(|(at, outcome)| ReloadView::new(*at, outcome)),
        }
    }
}

impl ReloadView {
    fn new(at: SystemTime, outcome: &ReloadOutcome) -> Self {
        let (applied, messages) = match outcome {
            ReloadOutcome::Applied { warnings, .. } => (true, warnings.clone()),
            ReloadOutcome::Refused { problems } => (false, problems.lines().map(str::to_owned).collect()),
        };
        let at = humantime::format_rfc3339_seconds(at.max(UNIX_EPOCH)).to_string();
        Self { at, applied, messages }
    }
}

impl ServiceView {
    #[must_use]
    pub fn new(service: &Service) -> Self {
        let total: f64 = service.backends.iter().map(|b| b.effective.value()).sum();
        let share = |backend: &Backend| if total > 0.0 { backend.effective.value() / total } else { 0.0 };
        Self {
            name: service.name().to_string(),
            routes: service.config.routes.len(),
            stable: service.backends[service.config.stable].name.to_string(),
            sticky: service.config.sticky.as_ref().map(describe),
            overridden: service.overridden,
            panicking: service.panicking,
            rollout: service.rollout().map(|open| open.id),
            revision: service.revision,
            hold: service.hold.as_deref().map(HoldView::new),
            guard: service.config.guard,
            slow_after_ms: service.watch.slow_after().map(|limit| limit.as_secs_f64() * 1000.0),
            stable_alarm: service.watch.is_rescue_suspended(),
            trials: Vec::new(),
            journal_problem: None,
            backends: service
                .backends
                .iter()
                .map(|b| {
                    let deployed = service.deployment.as_ref().is_some_and(|live| live.of(&b.name).is_some());
                    BackendView::new(b, share(b), deployed)
                })
                .collect(),
            mirrors: service.mirrors.iter().flatten().map(MirrorView::new).collect(),
        }
    }
}

impl ServiceView {
    /// The same with what comparing mirrors' answers has come to.
    pub(super) fn compared(mut self, results: &Results) -> Self {
        for mirror in &mut self.mirrors {
            mirror.verdict = results.verdict(&self.name, &mirror.backend);
        }
        self
    }
}

impl MirrorView {
    fn new(mirror: &Mirror) -> Self {
        let totals = mirror.metrics.totals();
        let quantile = |q| totals.duration.quantile(q).map(|d| d.as_micros() as f64 / 1000.0);
        let dropped = MirrorDrop::ALL.iter().zip(totals.dropped).filter(|(_, count)| *count > 0);
        Self {
            backend: mirror.backend.to_string(),
            percent: mirror.percent.value(),
            configured_percent: mirror.config.percent.value(),
            answered: totals.answered(),
            dropped: dropped.map(|(why, count)| (why.label().to_owned(), count)).collect(),
            in_flight: mirror.places.taken(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            verdict: None,
        }
    }
}

impl HoldView {
    fn new(hold: &Hold) -> Self {
        let counts = hold.counts();
        let left = hold.ends().saturating_duration_since(Instant::now());
        Self {
            seconds_left: left.as_millis() as f64 / 1000.0,
            requests_max: hold.requests_max(),
            waiting: counts.waiting,
            waited: counts.waited,
            gave_up: counts.gave_up,
            refused: counts.refused,
        }
    }
}

impl BackendView {
    fn new(backend: &Backend, share: f64, deployed: bool) -> Self {
        let totals = backend.metrics.totals();
        let quantile = |q| totals.duration.quantile(q).map(|d| d.as_micros() as f64 / 1000.0);
        Self {
            name: backend.name.to_string(),
            revision: backend.revision.to_string(),
            drain: backend.drain.as_deref().map(DrainView::new),
            deployed,
            e_value: backend.watch.e_value(),
            weight: WeightView {
                configured: backend.configured.value(),
                wanted: backend.wanted.value(),
                effective: backend.effective.value(),
            },
            share,
            endpoints: backend.endpoints.iter().map(|endpoint| EndpointView::new(endpoint)).collect(),
            overflow_limit: backend.overflow_limit,
            requests: totals.requests(),
            errors: totals.errors(),
            in_flight: totals.in_flight,
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

impl EndpointView {
    fn new(endpoint: &Endpoint) -> Self {
        let state = endpoint.health.availability();
        let notes = endpoint.health.notes();
        let (reason, until) = match state {
            Availability::CheckFailed => (notes.check_error.clone(), None),
            Availability::Ejected => (notes.ejected_for.clone(), notes.ejected_until),
            Availability::OnTrial => (notes.ejected_for.clone(), None),
            Availability::Failing => (Some(endpoint.health.streak_told()), None),
            Availability::Up | Availability::Recovering | Availability::Drained | Availability::Rolling => (None, None),
        };
        let until = until.map(|at| humantime::format_rfc3339_seconds(at.max(UNIX_EPOCH)).to_string());
        Self { address: endpoint.display(), state: state.label().to_owned(), reason, until }
    }
}

impl DrainView {
    fn new(drain: &Drain) -> Self {
        Self {
            by: drain.by.clone().unwrap_or_else(|| "guard".to_owned()),
            at: humantime::format_rfc3339_seconds(drain.at.max(UNIX_EPOCH)).to_string(),
            reason: drain.reason.clone(),
            probation: drain.probation,
            until: drain.until.map(|until| humantime::format_rfc3339_seconds(until.max(UNIX_EPOCH)).to_string()),
        }
    }
}

fn describe(sticky: &Sticky) -> String {
    match sticky {
        Sticky::Cookie { name, .. } => format!("cookie {name}"),
        Sticky::Header(name) => format!("header {name}"),
        Sticky::Network { ipv4_bits, ipv6_bits } => format!("network /{ipv4_bits} /{ipv6_bits}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_keep_their_order_and_their_doubles() {
        let body: WeightsBody = serde_json::from_str(r#"{"b": 1, "a": 2.5, "b": 3}"#).unwrap();
        assert_eq!(body.0, [("b".to_owned(), 1.0), ("a".to_owned(), 2.5), ("b".to_owned(), 3.0)]);
        assert!(serde_json::from_str::<WeightsBody>(r#"{"b": "1"}"#).is_err());
        assert!(serde_json::from_str::<WeightsBody>("[1]").is_err());
    }
}
