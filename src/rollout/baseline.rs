//! A rollout's baseline: a fresh copy of stable, started when the candidate was. As long as it gets as many requests as
//! the candidate, the two are compared: both are cold, and both are small, which a warm stable with nearly all of the
//! requests is not.
//!
//! Whatever is known of the candidate beside one of the two says nothing of it beside the other: evidence is kept for each
//! of them by itself, and each has a half of the chance of an error.

use serde::{Deserialize, Serialize};

use super::error::RolloutError;
use super::evidence::{ALPHA, Count, REQUESTS_MIN};
use super::machine::Traffic;
use super::record::Record;
use crate::analysis::ProportionBound;
use crate::config::{EndpointConfig, ServiceConfig};
use crate::model::{BackendName, Plan, ServiceName, Step};
use crate::state::{Backend, Service};

/// So much more often than stable, and at least so much, a baseline may fail.
const FACTOR: f64 = 10.0;
const MARGIN: f64 = 0.05;
/// The bound is tightest at about as many requests.
const BEST_AT: f64 = 1000.0;

/// What is written down of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Baseline {
    pub(super) endpoints: Vec<String>,
    /// Failures that the candidate has cost beyond the rate of what it was compared with, before a restart.
    #[serde(default)]
    pub(super) excess: f64,
}

/// What a candidate is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    Stable,
    Baseline,
}

impl Reference {
    pub(super) fn of(record: &Record) -> Self {
        if record.state.traffic(&record.plan).has_baseline() { Self::Baseline } else { Self::Stable }
    }
}

impl Traffic {
    /// What the baseline has, in percent.
    pub(super) fn baseline(self) -> f64 {
        match self {
            Self::Shared { baseline, .. } => baseline,
            Self::Exchanged => 0.0,
        }
    }

    pub(super) fn has_baseline(self) -> bool {
        self.baseline() > 0.0
    }
}

impl Record {
    /// Whom the candidate is compared with at present.
    pub(super) fn reference(&self) -> &BackendName {
        match (Reference::of(self), &self.plan.baseline) {
            (Reference::Baseline, Some(baseline)) => baseline,
            _ => &self.stable,
        }
    }
}

/// How strong evidence has to be where a candidate is compared with one thing after another, or with stable alone.
pub(super) fn limit(plan: &Plan) -> f64 {
    if plan.baseline.is_some() { 2.0 / ALPHA } else { 1.0 / ALPHA }
}

/// The part of a baseline's requests that may fail: it is cold.
fn tolerated(stable: Count) -> f64 {
    (stable.share() * FACTOR).max(stable.share() + MARGIN)
}

/// Why nothing passes for comparing well with a baseline; `None`: it is fine, as far as one can see.
pub(super) fn doubt(baseline: Count, stable: Count) -> Option<String> {
    let Count { requests, failures } = baseline;
    if requests < REQUESTS_MIN {
        return Some(format!("{requests} requests of its baseline are too few to compare with"));
    }
    let fails = baseline.share() > tolerated(stable);
    fails.then(|| {
        format!("{failures} of {requests} requests of its baseline failed, which are too many to compare with")
    })
}

/// Why a baseline is nothing to compare with: it fails beyond doubt, and not because it is cold. `None` while it is fine.
pub(super) fn fault(baseline: Count, stable: Count) -> Option<String> {
    let tolerated = tolerated(stable);
    if baseline.requests < REQUESTS_MIN || baseline.share() <= tolerated {
        return None;
    }
    let at_least = ProportionBound::new(BEST_AT, ALPHA).lower(baseline.failures, baseline.requests);
    (at_least > tolerated).then(|| {
        format!(
            "the baseline is bad itself, so there is nothing to compare with: {} of its {} requests failed, so at least {:.1} % \
             do; stable is at {:.2} %",
            baseline.failures,
            baseline.requests,
            at_least * 100.0,
            stable.share() * 100.0
        )
    })
}

/// Why a baseline is nothing to compare with at this moment, as far as one can see without counting.
pub(super) fn lost(service: &Service, record: &Record) -> Option<String> {
    let name = record.plan.baseline.as_ref().filter(|_| Reference::of(record) == Reference::Baseline)?;
    let backend = service.backend(name.as_str())?;
    if *backend.revision != *record.stable_revision {
        return Some(format!("the baseline {name} runs {:?} now, by the file", backend.revision));
    }
    if let Some(drain) = &backend.drain {
        let by = drain.by.as_deref().unwrap_or("the guard");
        return Some(format!("the baseline {name} was drained by {by}: {}", drain.reason));
    }
    (!backend.is_available()).then(|| format!("no endpoint of the baseline {name} is available"))
}

/// What a deployment asks for of its baseline. `candidate`: what the revision is put into; `given`: where the fresh copy
/// listens, or nothing: where the file says.
pub(super) fn baseline(
    service: &Service,
    file: &ServiceConfig,
    plan: &Plan,
    candidate: &[String],
    given: &[EndpointConfig],
) -> Result<Option<Baseline>, RolloutError> {
    let conflict = |reason: String| Err(RolloutError::Conflict(reason));
    let Some(name) = &plan.baseline else { return Ok(None) };
    let Some(backend) = service.backend(name.as_str()) else {
        return conflict(format!("the file has no backend {name} any more, which is the baseline"));
    };
    if !backend.wanted.is_zero() {
        return conflict(format!(
            "the baseline {name} has a weight of {}, and begins with none; shift the weights first",
            backend.wanted.value()
        ));
    }
    if let Some(person) = backend.drain.as_ref().and_then(|drain| drain.by.as_ref()) {
        let first = format!("first: tidegate undrain {}/{name}", service.name());
        return conflict(format!("the baseline {name} is drained by {person}; {first}"));
    }
    let listed = |of: &ServiceConfig, name: &BackendName| {
        let found = of.backends.iter().find(|backend| backend.name == *name);
        let endpoints = found.map(|backend| backend.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>());
        endpoints.unwrap_or_default()
    };
    let endpoints: Vec<String> =
        if given.is_empty() { listed(file, name) } else { given.iter().map(ToString::to_string).collect() };
    if endpoints.is_empty() {
        return conflict(format!(
            "the baseline {name} has no endpoints; say where it listens, with --baseline-endpoint"
        ));
    }
    let stable = listed(&service.config, &service.stable().name);
    let sides = [("stable", stable.as_slice()), ("the new release", candidate)];
    for (side, theirs) in sides {
        if let Some(shared) = endpoints.iter().find(|endpoint| theirs.contains(endpoint)) {
            return conflict(format!("{shared} is {side}, and a baseline is a fresh copy of stable beside both"));
        }
    }
    Ok(Some(Baseline { endpoints, excess: 0.0 }))
}

/// The plan with its baseline, where that is of use; else without. `is_asked`: somebody has said where it listens.
pub(super) fn fitting(
    plan: Plan,
    own: &Plan,
    service: &ServiceName,
    stable: &Backend,
    candidate: &Backend,
    is_asked: bool,
) -> Result<Plan, RolloutError> {
    let Some(name) = &own.baseline else {
        if is_asked {
            let key = format!("baseline = \"NAME\" in [services.{service}.rollout]");
            return Err(RolloutError::Invalid(format!(
                "rollouts of {service} have no baseline; {key} says which it is"
            )));
        }
        return Ok(plan);
    };
    let other = [(stable, "stable"), (candidate, "what the release goes into")];
    if let Some((_, what)) = other.iter().find(|(backend, _)| backend.name == *name) {
        return Err(RolloutError::Conflict(format!("{name} is {what}, and by the file the baseline of {service}")));
    }
    let is_used = plan.steps.iter().any(|step| Step::baseline_percent(step) > 0.0);
    Ok(Plan { baseline: plan.baseline.filter(|_| is_used), ..plan })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::machine::{Action, Decision, Event, Phase, State, Word};
    use super::*;
    use crate::model::Strategy;

    fn plan() -> Plan {
        let weight = |percent| Step::Weight { percent, advance_below: None, hold: Some(Duration::from_secs(60)) };
        let approve = Step::Approve { who: "ada".to_owned() };
        let flip = Step::Flip { holdback: 0.5, watch: Duration::from_secs(60) };
        let cohort = Step::Cohort { hold: Duration::from_secs(60) };
        let steps = vec![cohort, weight(5.0), approve, weight(50.0), weight(60.0), flip];
        Plan { steps, baseline: Some("fresh".parse().unwrap()), ..Plan::usual(Strategy::Canary) }
    }

    fn at(step: usize) -> State {
        State { phase: Phase::At { step }, ..State::begun() }
    }

    fn lost(state: &State) -> (State, Vec<Action>) {
        state.next(&plan(), &Event::BaselineLost("it is gone".to_owned()), 1_000).unwrap()
    }

    #[test]
    fn it_gets_as_much_as_the_candidate_where_there_is_room_for_both_and_nothing_elsewhere() {
        let plan = plan();
        let given: Vec<f64> = (0..6).map(|step| at(step).traffic(&plan).baseline()).collect();
        assert_eq!(given, [0.0, 5.0, 5.0, 50.0, 0.0, 0.0], "a holdback is the old side, however large");
        assert!(!State::begun().traffic(&plan).has_baseline());
        for word in [Word::Abort, Word::Rollback, Word::PromoteFull] {
            let ended = at(3).next(&plan, &Event::Operator(word), 0).unwrap().0;
            assert!(!ended.traffic(&plan).has_baseline(), "{word:?}");
        }
        assert!(!at(1).traffic(&Plan { baseline: None, ..plan }).has_baseline());
    }

    #[test]
    fn one_that_is_lost_pauses_the_rollout_which_is_compared_with_stable_until_a_person_has_it_go_on() {
        let plan = plan();
        let (paused, actions) = lost(&at(2));
        assert!(matches!(&paused.phase, Phase::Paused { step: Some(2), reason } if reason == "it is gone"));
        let [Action::Shift(traffic), Action::Record(Decision::Paused { .. })] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!((traffic.baseline(), paused.traffic(&plan)), (0.0, *traffic));
        let Traffic::Shared { percent, .. } = traffic else { panic!("{traffic:?}") };
        assert!((percent - 5.0).abs() < 1e-9, "the candidate keeps its share");
        // It is told once, and a restart doesn't bring it back.
        assert_eq!(lost(&paused), (paused.clone(), Vec::new()));
        let restarted = paused.next(&plan, &Event::Restarted, 2_000).unwrap().0;
        assert!(!restarted.traffic(&plan).has_baseline());
        let resumed = restarted.next(&plan, &Event::Operator(Word::Resume), 3_000).unwrap().0;
        assert!(resumed.traffic(&plan).has_baseline() && resumed.is_at_step());
    }

    #[test]
    fn one_that_is_lost_while_a_person_has_it_paused_is_told_and_one_that_has_nothing_is_not_missed() {
        let plan = plan();
        let paused = at(1).next(&plan, &Event::Operator(Word::Pause), 0).unwrap().0;
        assert!(paused.traffic(&plan).has_baseline());
        let (without, actions) = lost(&paused);
        assert!(without.baseline_lost && actions.len() == 2, "{actions:?}");
        for state in [State::begun(), at(0), at(4), at(5)] {
            assert_eq!(lost(&state), (state, Vec::new()));
        }
    }

    #[test]
    fn a_cold_one_may_fail_more_often_than_stable_and_a_broken_one_is_nothing_to_compare_with() {
        let stable = Count { requests: 10_000, failures: 0 };
        let baseline = |requests, failures| fault(Count { requests, failures }, stable);
        assert_eq!(baseline(1_000, 20), None);
        assert_eq!(baseline(1_000, 60), None, "it may be chance");
        assert_eq!(baseline(9, 9), None, "too few to say anything");
        assert!(baseline(1_000, 150).unwrap().contains("at least"));
        let fresh = |requests, failures| doubt(Count { requests, failures }, stable).is_some();
        assert!(fresh(1_000, 60) && fresh(9, 0), "nothing passes meanwhile");
        assert!(!fresh(1_000, 40) && !fresh(10, 0));
        assert_eq!(fault(Count { requests: 1_000, failures: 150 }, Count { requests: 1_000, failures: 30 }), None);
    }

    #[test]
    fn a_state_without_the_word_is_one_of_before_there_were_baselines() {
        let state: State = serde_json::from_str(r#"{"phase": {"phase": "at", "step": 1}, "at_ms": 7}"#).unwrap();
        assert_eq!(state, State { at_ms: 7, ..at(1) });
        let mut told = serde_json::to_value(plan()).unwrap();
        told.as_object_mut().unwrap().remove("baseline");
        assert_eq!(serde_json::from_value::<Plan>(told).unwrap().baseline, None);
    }
}
