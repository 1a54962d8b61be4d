//! What a trial rests on, as the API, the history and the command line tell it.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::judge::{Evidence, KindEvidence};

/// The trial of one backend's revision, so far or at its end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialView {
    pub service: String,
    pub backend: String,
    pub revision: String,
    /// What the candidate is compared with: stable or, in a rollout that has one, its baseline.
    pub stable: String,
    /// Evidence that the candidate is worse than tolerated: 1 when there is none; it is drained at `1 / alpha`.
    pub e_value: f64,
    /// The chance that a candidate no worse than tolerated is ever drained.
    pub alpha: f64,
    pub kinds: Vec<KindView>,
    /// The kind of failure that weighs most; absent while nothing has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weightiest: Option<String>,
    /// The endpoint that all of the candidate's failures of that kind came from, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_endpoint: Option<String>,
    /// The route with most of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteView>,
    /// Ids and times of the first and the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<RequestView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<RequestView>,
    /// Requests that the candidate has taken since the trial began.
    pub requests: u64,
    /// Of those, answered by stable in its place.
    pub rescued: u64,
    /// Of those, answered with a status of 500 and above, or not at all.
    pub seen_by_clients: u64,
    /// On a sticky service: how many clients the candidate failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<u64>,
    /// From when on an answer is slow; absent while that isn't known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_after_ms: Option<f64>,
}

/// Failures of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KindView {
    pub kind: String,
    pub candidate: u64,
    pub stable: u64,
    pub e_value: f64,
    /// How many times as often as stable the candidate fails; absent while there is no guess, or no failure of stable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// At least, with 95 % confidence; 0 when nothing is known.
    pub ratio_at_least: f64,
}

/// Failures of one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteView {
    pub route: String,
    pub candidate: u64,
    pub stable: u64,
    /// Its own judge has spoken.
    pub judged: bool,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestView {
    pub id: String,
    /// RFC 3339, UTC, to the millisecond.
    pub at: String,
}

impl RequestView {
    pub(super) fn new(id: Option<&http::HeaderValue>, unix_ms: u64) -> Option<Self> {
        let at = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string();
        Some(Self { id: id?.to_str().ok()?.to_owned(), at })
    }
}

impl KindView {
    fn new(kind: &KindEvidence) -> Self {
        Self {
            kind: kind.kind.name().to_owned(),
            candidate: kind.candidate,
            stable: kind.stable,
            e_value: kind.e_value,
            // JSON has no infinity.
            ratio: kind.ratio.filter(|ratio| ratio.is_finite()),
            ratio_at_least: kind.ratio_at_least,
        }
    }
}

impl TrialView {
    /// Of an evidence alone; what else there is to tell, the caller fills in.
    pub(super) fn new(service: &str, backend: &str, revision: &str, stable: &str, evidence: &Evidence) -> Self {
        let failed = evidence.first_request.is_some();
        Self {
            service: service.to_owned(),
            backend: backend.to_owned(),
            revision: revision.to_owned(),
            stable: stable.to_owned(),
            e_value: evidence.e_value,
            alpha: evidence.alpha,
            kinds: evidence.kinds.iter().map(KindView::new).collect(),
            weightiest: failed.then(|| evidence.weightiest.name().to_owned()),
            only_endpoint: evidence.only_endpoint.map(|endpoint| endpoint.to_string()),
            route: None,
            first: RequestView::new(evidence.first_request.as_ref(), evidence.first_unix_ms),
            last: RequestView::new(evidence.last_request.as_ref(), evidence.last_unix_ms),
            requests: 0,
            rescued: 0,
            seen_by_clients: 0,
            clients: evidence.clients,
            slow_after_ms: None,
        }
    }

    /// In a line: what failed, how often, and how sure that is.
    #[must_use]
    pub fn reason(&self) -> String {
        let Some(kind) = self.weightiest.as_ref().and_then(|name| self.kinds.iter().find(|kind| kind.kind == *name))
        else {
            return "nothing has failed".to_owned();
        };
        let what = match kind.kind.as_str() {
            "server" => "server failures",
            "slow" => "slow answers",
            "client" => "answers of 4xx",
            _ => "requests given up by their clients",
        };
        let more = if kind.ratio_at_least >= 1.0 {
            format!(", at least {:.1} times {}'s rate", kind.ratio_at_least, self.stable)
        } else {
            String::new()
        };
        let route = self.route.as_ref().filter(|route| route.judged);
        let place = route.map_or(String::new(), |route| format!(" on {}", route.route));
        // Beyond that, more says no more.
        let evidence = if self.e_value < 1e9 { format!("{:.0}", self.e_value) } else { "over 1e9".to_owned() };
        format!(
            "{} {what}{place} against {} of {}{more} (evidence {evidence}, needed {:.0})",
            kind.candidate,
            kind.stable,
            self.stable,
            1.0 / self.alpha
        )
    }
}
