//! What is known of the two sides of a rollout, and what it proves.
//!
//! Two proofs let a step go on, whichever comes first. The candidate's own rate of failures is below what the step asks
//! for: a confidence sequence over its requests. Or it fails less than five times as often as stable: the comparison
//! of the guard, with the sides exchanged. Both hold whenever one looks, so one may look after every request. Where there
//! is a baseline, that is what it is compared with, in place of stable.

use serde::{Deserialize, Serialize};

use super::baseline::{doubt, fault, limit};
use crate::analysis::{ProportionBound, RatioTally};
use crate::gate::Standing;
use crate::model::{FailureKind, Gate, GateKind, Plan};
use crate::shadow::{Outcome, Verdict};

/// The chance that a candidate within the margin is ever sent back for what it did beside stable.
pub const ALPHA: f64 = 1e-3;
/// What is excluded where a step goes on by comparison.
pub(super) const HARM: f64 = 5.0;
/// Fewer requests than this prove nothing, however long they took.
pub(super) const REQUESTS_MIN: u64 = 10;
/// No verdict rests on fewer failures.
const FAILURES_MIN: u64 = 3;
/// The bound is tightest at about as many requests: what a proof of half a percent takes.
const BEST_AT: f64 = 1000.0;
/// Evidence beyond which time alone lets nothing pass.
const DOUBT: f64 = 10.0;
/// Where there is nothing to compare with: so much more often than stable before, and at least so much.
const ABSOLUTE_FACTOR: f64 = 5.0;
const ABSOLUTE_MARGIN: f64 = 0.02;
/// A stable that fails this often isn't healthy: what fails beside it may well fail there.
const STABLE_SHARE_MAX: f64 = 0.05;

/// Requests and server failures of one side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub requests: u64,
    pub failures: u64,
}

impl Count {
    /// What came since `earlier`, an older count of the same.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
        }
    }

    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { requests: self.requests + other.requests, failures: self.failures + other.failures }
    }

    /// Failures beyond another side's rate.
    #[must_use]
    pub fn beyond(self, other: Self) -> f64 {
        self.failures as f64 - other.share() * self.requests as f64
    }

    /// Failed part; 0 of nothing.
    #[must_use]
    pub fn share(self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.failures as f64 / self.requests as f64 }
    }
}

/// What is known at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// The candidate's endpoints can all be reached.
    pub ready: bool,
    /// Somebody counts failures.
    pub judged: bool,
    /// Stable fails more often than the candidate.
    pub stable_alarm: bool,
    /// Of the candidate since the step began: what chance sent there, or, in a cohort's step, all of it.
    pub step: Count,
    /// Of both sides since the rollout began.
    pub candidate: Count,
    pub stable: Count,
    /// Of the baseline, since it is what the candidate is compared with; `None`: that is stable.
    pub baseline: Option<Count>,
    /// Failures of the candidate beyond the rate of what it was compared with, since the rollout began.
    pub excess: f64,
    /// Of the last seconds.
    pub stable_lately: Count,
    /// Failures of the two that are compared, one by one, in the order of [`FailureKind::ALL`].
    pub tallies: [RatioTally; 4],
    /// Server failures alone, since the step began.
    pub step_tally: RatioTally,
    pub likeness: Likeness,
    /// Gates that were asked since the present phase began, by kind and name.
    pub gates: Vec<(GateKind, String, Standing)>,
    /// Why nothing may go on at this time, whoever is well.
    pub frozen: Option<String>,
}

/// Whether the candidate answers copies of requests as stable does; in each, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Likeness {
    Same(String),
    Different(String),
    Unknown(String),
}

impl Default for Likeness {
    fn default() -> Self {
        Self::Unknown("nobody compares".to_owned())
    }
}

impl From<Verdict> for Likeness {
    fn from(verdict: Verdict) -> Self {
        match verdict.outcome {
            Outcome::Same => Self::Same(verdict.reason),
            Outcome::Different => Self::Different(verdict.reason),
            Outcome::Inconclusive => Self::Unknown(verdict.reason),
        }
    }
}

/// Whether a step may go on.
#[derive(Debug, Clone, PartialEq)]
pub enum Proof {
    /// For people.
    Given(String),
    /// What is missing, for people, and about how many more requests of the candidate it takes, where that can be said.
    Missing { reason: String, requests: Option<u64> },
}

impl Evidence {
    /// The evidence that the candidate fails more than `margin` times as often as stable: 1 when there is none.
    #[must_use]
    pub fn against(&self, margin: f64) -> f64 {
        let e_value = |(kind, tally): (FailureKind, &RatioTally)| {
            // Every release has some latency of its own, and may well be stricter: a margin is about what fails.
            let tolerated = if kind == FailureKind::Server { margin } else { margin.max(kind.tolerated()) };
            tally.ln_e_value(tolerated).exp()
        };
        let kinds = FailureKind::ALL.into_iter().zip(&self.tallies);
        let sum: f64 = kinds.map(e_value).map(|e| e.min(1e12)).sum();
        sum / FailureKind::ALL.len() as f64
    }

    /// Why the candidate has to go; `None` while it may stay. `alone`: nothing chance sent can be compared at this step.
    #[must_use]
    pub fn harm(&self, plan: &Plan, alone: bool) -> Option<String> {
        let against = self.against(plan.margin);
        let failed: u64 = self.tallies.iter().map(|tally| tally.failures().0).sum();
        if against >= limit(plan) && failed >= FAILURES_MIN {
            let (ours, theirs) =
                self.tallies.iter().map(RatioTally::failures).fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
            return Some(format!(
                "it fails more than {} times as often as {}: {ours} failures against {theirs} (evidence {against:.0}, needed {:.0})",
                plan.margin,
                self.reference(),
                limit(plan)
            ));
        }
        if let Some(budget) = plan.damage_budget.filter(|budget| self.excess >= *budget as f64) {
            return Some(format!(
                "it has cost {:.0} failures beyond {}'s own rate, and the damage budget is {budget}",
                self.excess,
                self.reference()
            ));
        }
        if alone && !self.both_fail() {
            let tolerated = (self.stable.share() * ABSOLUTE_FACTOR).max(self.stable.share() + ABSOLUTE_MARGIN);
            if self.step.failures >= FAILURES_MIN && self.step.share() > tolerated {
                let at_least = ProportionBound::new(BEST_AT, ALPHA).lower(self.step.failures, self.step.requests);
                if at_least > tolerated {
                    return Some(format!(
                        "{} of its {} requests failed, so at least {:.1} % do; stable was at {:.2} %",
                        self.step.failures,
                        self.step.requests,
                        at_least * 100.0,
                        self.stable.share() * 100.0
                    ));
                }
            }
        }
        None
    }

    /// What it is compared with, for people.
    fn reference(&self) -> &'static str {
        if self.baseline.is_some() { "its baseline" } else { "stable" }
    }

    fn baseline_doubt(&self) -> Option<String> {
        self.baseline.and_then(|baseline| doubt(baseline, self.stable))
    }

    /// Why the baseline is nothing to compare with; `None` while it is fine, or there is none.
    #[must_use]
    pub fn baseline_fault(&self) -> Option<String> {
        self.baseline.filter(|_| !self.both_fail()).and_then(|baseline| fault(baseline, self.stable))
    }

    /// Stable fails as well: whatever it is, to go back wouldn't mend it.
    #[must_use]
    pub fn both_fail(&self) -> bool {
        self.stable_lately.requests >= REQUESTS_MIN && self.stable_lately.share() > STABLE_SHARE_MAX
    }

    /// How a gate stands.
    #[must_use]
    pub fn standing(&self, gate: &Gate) -> Standing {
        let mut known = self.gates.iter();
        let found = known.find(|(kind, name, _)| *kind == gate.kind && *name == gate.name);
        found.map_or_else(Standing::unasked, |(_, _, standing)| standing.clone())
    }

    /// Whether the candidate is proven good enough at this step; `below`: its rate of failures, a part of 1.
    #[must_use]
    pub fn proof(&self, below: Option<f64>, confidence: f64) -> Proof {
        let missing = |reason: String, requests| Proof::Missing { reason, requests };
        if !self.judged {
            return missing("nobody counts failures: the guard is off".to_owned(), None);
        }
        let (step, bound) = (self.step, ProportionBound::new(BEST_AT, 1.0 - confidence));
        if step.requests < REQUESTS_MIN {
            let wanted = below.and_then(|below| bound.requests_until_below(below, step.failures, step.requests));
            let few = REQUESTS_MIN - step.requests;
            return missing(format!("{} requests so far", step.requests), Some(wanted.unwrap_or(few).max(few)));
        }
        let at_most = bound.upper(step.failures, step.requests);
        if below.is_some_and(|below| at_most <= below) {
            return Proof::Given(format!(
                "{} of {} requests failed, so at most {:.2} % do",
                step.failures,
                step.requests,
                at_most * 100.0
            ));
        }
        let exchanged = self.step_tally.exchanged();
        let doubt = self.baseline_doubt();
        if doubt.is_none() && exchanged.ln_e_value(1.0 / HARM) >= -(1.0 - confidence).ln() {
            let (ours, theirs) = self.step_tally.failures();
            return Proof::Given(format!(
                "it fails less than {HARM} times as often as {}: {ours} failures against {theirs}",
                self.reference()
            ));
        }
        let Some(below) = below else {
            let (ours, theirs) = self.step_tally.failures();
            let reference = self.reference();
            let reason = format!("{HARM} times {reference}'s failures aren't excluded: {ours} against {theirs}");
            return missing(doubt.unwrap_or(reason), None);
        };
        let reason = format!(
            "{} of {} requests failed: at most {:.2} % do, and {} % are wanted",
            step.failures,
            step.requests,
            at_most * 100.0,
            below * 100.0
        );
        missing(reason, bound.requests_until_below(below, step.failures, step.requests))
    }

    /// Whether time alone may let a step go on: enough requests, and nothing that speaks against the candidate; else why
    /// not.
    ///
    /// # Errors
    /// When it mayn't: why.
    pub fn is_harmless(&self, plan: &Plan) -> Result<(), String> {
        if !self.judged {
            return Err("nobody counts failures: the guard is off".to_owned());
        }
        if self.step.requests < REQUESTS_MIN {
            return Err(format!("{} requests are too few to say anything", self.step.requests));
        }
        if self.both_fail() {
            return Err("both sides fail".to_owned());
        }
        if let Some(doubt) = self.baseline_doubt() {
            return Err(doubt);
        }
        let against = self.against(plan.margin);
        if against >= DOUBT {
            return Err(format!("there is doubt: evidence {against:.0} of {:.0}", limit(plan)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Side;
    use crate::model::Strategy;

    fn evidence(requests: u64, failures: u64) -> Evidence {
        Evidence { ready: true, judged: true, step: Count { requests, failures }, ..Evidence::default() }
    }

    fn tally(candidate: usize, stable: usize, share: f64) -> RatioTally {
        let mut tally = RatioTally::default();
        (0..candidate).for_each(|_| tally.observe(Side::Candidate, share));
        (0..stable).for_each(|_| tally.observe(Side::Stable, share));
        tally
    }

    fn is_given(proof: &Proof) -> bool {
        matches!(proof, Proof::Given(_))
    }

    #[test]
    fn as_many_requests_prove_a_rate_as_the_bound_says_and_the_rest_is_foretold() {
        assert!(is_given(&evidence(856, 0).proof(Some(0.005), 0.95)));
        let Proof::Missing { requests, .. } = evidence(500, 0).proof(Some(0.005), 0.95) else { panic!() };
        assert_eq!(requests, Some(856 - 500));
        assert!(!is_given(&evidence(856, 1).proof(Some(0.005), 0.95)));
    }

    #[test]
    fn without_requests_or_without_a_judge_nothing_is_proven() {
        for nothing in [evidence(0, 0), evidence(9, 0), Evidence { judged: false, ..evidence(10_000, 0) }] {
            assert!(!is_given(&nothing.proof(Some(0.5), 0.95)), "{nothing:?}");
            assert!(nothing.is_harmless(&Plan::usual(Strategy::Canary)).is_err());
        }
        assert_eq!(evidence(10, 0).is_harmless(&Plan::usual(Strategy::Canary)), Ok(()));
    }

    #[test]
    fn a_candidate_that_fails_as_stable_does_is_proven_by_comparison_however_often_both_fail() {
        let alike = Evidence { step_tally: tally(5, 95, 0.05), ..evidence(200, 60) };
        assert!(is_given(&alike.proof(Some(0.001), 0.95)));
        assert!(is_given(&alike.proof(None, 0.95)));
        let worse = Evidence { step_tally: tally(21, 79, 0.05), ..evidence(200, 60) };
        assert!(!is_given(&worse.proof(Some(0.001), 0.95)));
    }

    #[test]
    fn what_fails_beyond_the_margin_is_harm_and_so_is_what_costs_more_than_the_budget() {
        let mut plan = Plan::usual(Strategy::Canary);
        let mut found = evidence(100, 0);
        found.tallies[0] = tally(7, 5, 0.05);
        assert!(found.harm(&plan, false).unwrap().contains("1.5 times as often"));
        found.tallies[0] = tally(2, 0, 0.01);
        assert_eq!(found.harm(&plan, false), None, "two failures are chance");
        found.tallies[0] = tally(5, 95, 0.05);
        assert_eq!(found.harm(&plan, false), None);

        plan.damage_budget = Some(20);
        let stable = Count { requests: 10_000, failures: 100 };
        found.excess = Count { requests: 1_000, failures: 29 }.beyond(stable);
        assert_eq!(found.harm(&plan, false), None);
        found.excess = Count { requests: 1_000, failures: 30 }.beyond(stable);
        assert!(found.harm(&plan, false).unwrap().contains("damage budget is 20"));
    }

    #[test]
    fn beside_a_baseline_time_alone_passes_nothing_before_it_had_requests_and_harm_takes_twice_the_evidence() {
        let name = Some("fresh".parse().unwrap());
        let (plain, beside) = (Plan::usual(Strategy::Canary), Plan { baseline: name, ..Plan::usual(Strategy::Canary) });
        let few = Count { requests: 9, failures: 0 };
        let mut found = Evidence { baseline: Some(few), ..evidence(100, 0) };
        assert!(found.is_harmless(&beside).unwrap_err().contains("its baseline are too few"));
        found.baseline = Some(Count { requests: 10, ..few });
        assert_eq!(found.is_harmless(&beside), Ok(()));
        // One that is broken makes anybody look good.
        let broken = Evidence {
            baseline: Some(Count { requests: 100, failures: 30 }),
            step_tally: tally(10, 30, 0.5),
            ..evidence(100, 10)
        };
        assert!(!is_given(&broken.proof(None, 0.95)) && broken.is_harmless(&beside).is_err());
        let cold = Evidence { baseline: Some(Count { requests: 1_000, failures: 30 }), ..broken };
        assert!(is_given(&cold.proof(None, 0.95)));
        // Equal shares: each failure says less than it would beside a stable with nearly all of the requests.
        let failures = |plan: &Plan, share: f64| {
            (1..100).find(|n| {
                let mut found = found.clone();
                found.tallies[0] = tally(*n, 0, share);
                found.harm(plan, false).is_some()
            })
        };
        let needed = [failures(&plain, 0.05), failures(&plain, 0.5), failures(&beside, 0.5)];
        assert_eq!(needed, [Some(4), Some(19), Some(20)]);
        found.tallies[0] = tally(30, 0, 0.5);
        assert!(found.harm(&beside, false).unwrap().contains("1.5 times as often as its baseline"));
    }

    #[test]
    fn alone_it_is_measured_by_what_stable_was_like_unless_stable_fails_as_well() {
        let plan = Plan::usual(Strategy::BlueGreen);
        let before = Count { requests: 10_000, failures: 10 };
        let mut alone = Evidence { stable: before, ..evidence(1_000, 100) };
        assert!(alone.harm(&plan, true).is_some());
        assert_eq!(alone.harm(&plan, false), None);
        alone.stable_lately = Count { requests: 100, failures: 50 };
        assert_eq!(alone.harm(&plan, true), None);
        let few = Evidence { stable: before, ..evidence(1_000, 15) };
        assert_eq!(few.harm(&plan, true), None);
    }
}
