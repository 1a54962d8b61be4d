//! The life of one rollout. Pure: no clock, no I/O; what happens next follows from the state, an event and the time.
//!
//! ```text
//!                  endpoints up          proof, or hold without harm, or approval, or promote
//!    Starting ------------------> At(0) ---------> At(1) ---------> ... ---------> At(flip) --- watched ---> completed
//!       |                          |  ^                                               |                         |
//!       | deadline                 |  | resume                                        |                         | rollback
//!       v                          v  |                                               v                         v
//!     failed                     Paused(n)  <-- pause, deadline, stable alarm, no      |                    rolled back
//!                                   |           endpoint on either side               |
//!                                   +---------------------+---------------------------+
//!                                                         |
//!       harm, other answers to copies, the guard's verdict, no endpoint of the candidate, rollback  -->  rolled back
//!       abort, a person's drain, a file that says otherwise                -->  aborted
//! ```
//!
//! What requests see follows from the state alone ([`State::traffic`]), so that a restart, wherever it comes, brings it
//! about again. Time is the rollout's own: milliseconds in which the process ran. It doesn't go backwards, and a hold or a
//! watch begins anew after a restart, since nobody has seen what happened meanwhile.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Likeness, Proof};
use crate::model::{Plan, Step, format_duration};

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    /// The rollout's own time when this was last changed.
    pub at_ms: u64,
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// The candidate's endpoints aren't all up yet.
    Starting,
    /// At a step of the plan, since `at_ms`.
    At {
        step: usize,
    },
    /// Somebody has to decide. `step`: where it goes on; `None`: it starts again.
    Paused {
        step: Option<usize>,
        reason: String,
    },
    Ended {
        outcome: Outcome,
        reason: String,
    },
}

/// How a rollout ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The candidate is stable now.
    Completed,
    /// Evidence, or somebody, has found the candidate bad.
    RolledBack,
    /// Somebody stopped it, for another reason.
    Aborted,
    /// It never got to its first step.
    Failed,
}

impl Outcome {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::RolledBack => "rolled back",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

/// What happens to a rollout.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Time goes by.
    Tick(Box<Evidence>),
    /// The guard has found the candidate bad.
    Verdict(String),
    /// Nobody could answer at the candidate's. `stable_up`: at stable's somebody could.
    EndpointsGone { stable_up: bool },
    /// A person has drained the candidate, or the file says otherwise.
    Overruled(String),
    /// The process is another one.
    Restarted,
    /// A person's word.
    Operator(Word),
}

/// What a person may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Pause,
    Resume,
    /// To the next step, whatever this one waits for.
    Promote,
    /// To the end.
    PromoteFull,
    Approve,
    Abort,
    Rollback,
}

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Requests see something else from now on.
    Shift(Traffic),
    /// For the history: what was decided, and why.
    Record(Decision),
}

/// What requests see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Traffic {
    /// The candidate has so many percent of what the two share; with `cohort`, the cohort as well; and copies of
    /// `mirrored` percent of all requests.
    Shared { percent: f64, cohort: bool, mirrored: f64 },
    /// The candidate is stable, and has all of it.
    Exchanged,
}

/// A line of the rollout's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Advanced { step: usize, reason: String },
    Paused { reason: String },
    Resumed,
    Approved { step: usize },
    Ended { outcome: Outcome, reason: String },
}

/// A word that makes no sense now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    Ended,
    NotCompleted,
    NotPaused,
    PausedAlready,
    NotStarted,
    NeedsApproval,
    NothingToApprove,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ended => "the rollout has ended",
            Self::NotCompleted => "the rollout has ended, and its release isn't in force",
            Self::NotPaused => "the rollout isn't paused",
            Self::PausedAlready => "the rollout is paused already",
            Self::NotStarted => "its endpoints can't all be reached yet",
            Self::NeedsApproval => "the step waits for an approval: tidegate approve",
            Self::NothingToApprove => "the step waits for no approval",
        })
    }
}

impl std::error::Error for Unfit {}

impl State {
    /// A rollout that begins.
    #[must_use]
    pub fn begun() -> Self {
        Self { phase: Phase::Starting, at_ms: 0 }
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    #[must_use]
    pub fn outcome(&self) -> Option<Outcome> {
        match self.phase {
            Phase::Ended { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// Why it ended.
    #[must_use]
    pub fn end_reason(&self) -> Option<&str> {
        match &self.phase {
            Phase::Ended { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// The step that it is at, or goes on with.
    #[must_use]
    pub fn step(&self) -> Option<usize> {
        match self.phase {
            Phase::At { step } => Some(step),
            Phase::Paused { step, .. } => step,
            Phase::Starting | Phase::Ended { .. } => None,
        }
    }

    /// What requests are to see.
    #[must_use]
    pub fn traffic(&self, plan: &Plan) -> Traffic {
        if self.outcome() == Some(Outcome::Completed) {
            return Traffic::Exchanged;
        }
        let so_far = self.step().map_or(&[][..], |step| plan.steps.get(..=step).unwrap_or(&plan.steps));
        let percent = so_far.iter().rev().find_map(Step::percent).unwrap_or(0.0);
        let cohort = so_far.iter().any(|step| matches!(step, Step::Cohort { .. }));
        let mirrored = match so_far.last() {
            Some(Step::Mirror { percent, .. }) => *percent,
            _ => 0.0,
        };
        Traffic::Shared { percent, cohort, mirrored }
    }

    /// What follows from an event at `now_ms` of the rollout's own time.
    ///
    /// # Errors
    /// When a person's word makes no sense now. Nothing follows from it then.
    pub fn next(&self, plan: &Plan, event: &Event, now_ms: u64) -> Result<(Self, Vec<Action>), Unfit> {
        let now_ms = now_ms.max(self.at_ms);
        let Some((phase, decision)) = self.decide(plan, event, now_ms)? else {
            return Ok((self.clone(), Vec::new()));
        };
        let next = Self { phase, at_ms: now_ms };
        let (before, after) = (self.traffic(plan), next.traffic(plan));
        let shift = (before != after).then_some(Action::Shift(after));
        Ok((next, shift.into_iter().chain(decision.map(Action::Record)).collect()))
    }

    /// The next phase and what there is to tell; `None`: everything stays as it is.
    fn decide(&self, plan: &Plan, event: &Event, now_ms: u64) -> Result<Option<(Phase, Option<Decision>)>, Unfit> {
        if let Phase::Ended { outcome, .. } = &self.phase {
            return match event {
                Event::Operator(Word::Rollback) if *outcome == Outcome::Completed => {
                    Ok(Some(ended(Outcome::RolledBack, "a person said so")))
                }
                Event::Operator(Word::Rollback) => Err(Unfit::NotCompleted),
                Event::Operator(_) => Err(Unfit::Ended),
                _ => Ok(None),
            };
        }
        Ok(match event {
            Event::Tick(evidence) => self.tick(plan, evidence, now_ms),
            Event::Verdict(reason) => Some(ended(Outcome::RolledBack, reason)),
            Event::EndpointsGone { stable_up } => self.without_endpoints(*stable_up),
            Event::Overruled(reason) => Some(ended(Outcome::Aborted, reason)),
            // What was seen before is lost, so the present step's time begins anew.
            Event::Restarted => Some((self.phase.clone(), None)),
            Event::Operator(word) => Some(self.told(plan, *word)?),
        })
    }

    fn told(&self, plan: &Plan, word: Word) -> Result<(Phase, Option<Decision>), Unfit> {
        let approval =
            |step: Option<usize>| step.filter(|step| matches!(plan.steps.get(*step), Some(Step::Approve { .. })));
        match (word, &self.phase) {
            (Word::Abort, _) => Ok(ended(Outcome::Aborted, "a person said so")),
            (Word::Rollback, _) => Ok(ended(Outcome::RolledBack, "a person said so")),
            (Word::Pause, Phase::Paused { .. }) => Err(Unfit::PausedAlready),
            (Word::Pause, _) => Ok(paused(self.step(), "a person said so")),
            (Word::Resume, Phase::Paused { step, .. }) => {
                Ok((step.map_or(Phase::Starting, |step| Phase::At { step }), Some(Decision::Resumed)))
            }
            (Word::Resume, _) => Err(Unfit::NotPaused),
            (Word::Approve, _) => {
                let step = approval(self.step()).ok_or(Unfit::NothingToApprove)?;
                Ok((advanced(plan, step).0, Some(Decision::Approved { step })))
            }
            (Word::Promote | Word::PromoteFull, _) => {
                let step = self.step().ok_or(Unfit::NotStarted)?;
                if word == Word::PromoteFull {
                    return Ok(ended(Outcome::Completed, "a person said so"));
                }
                if approval(Some(step)).is_some() {
                    return Err(Unfit::NeedsApproval);
                }
                let (phase, decision) = advanced(plan, step);
                Ok((phase, Some(decision("a person said so".to_owned()))))
            }
        }
    }

    fn without_endpoints(&self, stable_up: bool) -> Option<(Phase, Option<Decision>)> {
        match (&self.phase, stable_up) {
            // They were never asked for anything.
            (Phase::Starting | Phase::Paused { step: None, .. }, _) => None,
            (_, true) => Some(ended(Outcome::RolledBack, "none of its endpoints is available")),
            // To go back would mend nothing, and to go back and forth even less.
            (Phase::Paused { .. }, false) => None,
            (_, false) => Some(paused(self.step(), "no endpoint is available on either side")),
        }
    }

    fn tick(&self, plan: &Plan, evidence: &Evidence, now_ms: u64) -> Option<(Phase, Option<Decision>)> {
        let step = self.step().and_then(|index| plan.steps.get(index));
        let alone = match step {
            Some(Step::Cohort { .. }) => true,
            Some(Step::Flip { holdback, .. }) => *holdback <= 0.0,
            _ => false,
        };
        if let Some(reason) = step.and_then(|_| evidence.harm(plan, alone)) {
            return Some(ended(Outcome::RolledBack, &reason));
        }
        if let (Some(Step::Mirror { .. }), Likeness::Different(what)) = (step, &evidence.likeness) {
            return Some(ended(Outcome::RolledBack, &format!("it answers copies otherwise than stable: {what}")));
        }
        let waited = Duration::from_millis(now_ms - self.at_ms);
        match &self.phase {
            Phase::Starting if evidence.ready => {
                let reason = "its endpoints are up".to_owned();
                Some((Phase::At { step: 0 }, Some(Decision::Advanced { step: 0, reason })))
            }
            Phase::Starting => {
                let late = waited >= plan.deadline;
                let reason = || format!("its endpoints weren't all up within {}", format_duration(plan.deadline));
                late.then(|| ended(Outcome::Failed, &reason()))
            }
            Phase::At { .. } if evidence.stable_alarm => {
                Some(paused(self.step(), "stable fails more often than the candidate"))
            }
            Phase::At { step } => at(plan, *step, evidence, waited),
            Phase::Paused { .. } | Phase::Ended { .. } => None,
        }
    }
}

/// At a step for so long.
fn at(plan: &Plan, index: usize, evidence: &Evidence, waited: Duration) -> Option<(Phase, Option<Decision>)> {
    let (own, missing) = match plan.steps.get(index)? {
        // A person's pace is their own.
        Step::Approve { .. } => return None,
        Step::Mirror { time, .. } => {
            return match &evidence.likeness {
                Likeness::Same(reason) => {
                    Some(go_on(plan, index, format!("it answers copies as stable does: {reason}")))
                }
                // Time alone says nothing of answers that nobody could compare.
                Likeness::Unknown(missing) if waited >= *time => {
                    let reason = format!("not known to be the same within {}: {missing}", format_duration(*time));
                    Some(paused(Some(index), &reason))
                }
                _ => None,
            };
        }
        Step::Weight { advance_below, hold, .. } => {
            let missing = match evidence.proof(*advance_below, plan.confidence) {
                // One proof is as good as the other, but a step with a time and nothing else asks for its time.
                Proof::Given(reason) if advance_below.is_some() || hold.is_none() => {
                    return Some(go_on(plan, index, reason));
                }
                Proof::Given(reason) | Proof::Missing { reason, .. } => reason,
            };
            match hold.map(|hold| (hold, over(evidence, plan, hold, waited))) {
                Some((_, Ok(reason))) => return Some(go_on(plan, index, reason)),
                Some((hold, Err(reason))) => (hold, reason),
                None => (Duration::ZERO, missing),
            }
        }
        Step::Cohort { hold } => match over(evidence, plan, *hold, waited) {
            Ok(reason) => return Some(go_on(plan, index, reason)),
            Err(reason) => (*hold, reason),
        },
        Step::Flip { watch, .. } if watch.is_zero() => {
            return Some(go_on(plan, index, "nothing is watched".to_owned()));
        }
        Step::Flip { watch, .. } => match over(evidence, plan, *watch, waited) {
            Ok(reason) => return Some(go_on(plan, index, reason)),
            Err(reason) => (*watch, reason),
        },
    };
    let late = waited >= own + plan.deadline;
    let reason = || format!("no progress within {}: {missing}", format_duration(own + plan.deadline));
    late.then(|| paused(Some(index), &reason()))
}

/// Whether a time has passed without harm; else what is missing.
fn over(evidence: &Evidence, plan: &Plan, time: Duration, waited: Duration) -> Result<String, String> {
    if waited < time {
        return Err("its time isn't over".to_owned());
    }
    evidence.is_harmless(plan)?;
    let (failures, requests) = (evidence.step.failures, evidence.step.requests);
    Ok(format!("{} without harm: {failures} of {requests} requests failed", format_duration(time)))
}

fn go_on(plan: &Plan, index: usize, reason: String) -> (Phase, Option<Decision>) {
    let (phase, decision) = advanced(plan, index);
    (phase, Some(decision(reason)))
}

/// What comes after a step.
fn advanced(plan: &Plan, index: usize) -> (Phase, impl FnOnce(String) -> Decision + use<>) {
    let next = index + 1;
    let is_last = next >= plan.steps.len();
    let phase = if is_last {
        Phase::Ended { outcome: Outcome::Completed, reason: "all steps are done".to_owned() }
    } else {
        Phase::At { step: next }
    };
    let decision = move |reason| {
        if is_last {
            Decision::Ended { outcome: Outcome::Completed, reason }
        } else {
            Decision::Advanced { step: next, reason }
        }
    };
    (phase, decision)
}

fn paused(step: Option<usize>, reason: &str) -> (Phase, Option<Decision>) {
    let reason = reason.to_owned();
    (Phase::Paused { step, reason: reason.clone() }, Some(Decision::Paused { reason }))
}

fn ended(outcome: Outcome, reason: &str) -> (Phase, Option<Decision>) {
    let reason = reason.to_owned();
    (Phase::Ended { outcome, reason: reason.clone() }, Some(Decision::Ended { outcome, reason }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Strategy;

    fn plan(steps: Vec<Step>) -> Plan {
        Plan { steps, ..Plan::usual(Strategy::Canary) }
    }

    fn weight(percent: f64) -> Step {
        Step::Weight { percent, advance_below: None, hold: Some(Duration::from_secs(60)) }
    }

    fn flip() -> Step {
        Step::Flip { holdback: 0.02, watch: Duration::from_secs(60) }
    }

    fn at(step: usize) -> State {
        State { phase: Phase::At { step }, at_ms: 0 }
    }

    fn tick(change: impl FnOnce(&mut Evidence)) -> Event {
        let mut evidence = Evidence { ready: true, judged: true, ..Evidence::default() };
        change(&mut evidence);
        Event::Tick(Box::new(evidence))
    }

    #[test]
    fn a_stable_that_is_the_bad_one_stops_a_rollout_where_it_is() {
        let plan = plan(vec![weight(5.0), flip()]);
        let (next, actions) = at(0).next(&plan, &tick(|seen| seen.stable_alarm = true), 1_000).unwrap();
        assert!(matches!(&next.phase, Phase::Paused { step: Some(0), reason } if reason.contains("stable fails")));
        assert_eq!(next.traffic(&plan), at(0).traffic(&plan));
        assert!(matches!(&actions[..], [Action::Record(Decision::Paused { .. })]));
    }

    #[test]
    fn a_candidate_without_endpoints_is_given_up_where_stable_has_some() {
        let plan = plan(vec![weight(5.0), flip()]);
        let gone = |stable_up| at(1).next(&plan, &Event::EndpointsGone { stable_up }, 1_000).unwrap().0;
        assert_eq!(gone(true).outcome(), Some(Outcome::RolledBack));
        assert!(matches!(gone(false).phase, Phase::Paused { .. }));
        let starting = State::begun().next(&plan, &Event::EndpointsGone { stable_up: true }, 1_000).unwrap().0;
        assert_eq!(starting, State::begun(), "they are waited for");
    }

    #[test]
    fn what_was_reached_holds_while_somebody_is_waited_for() {
        let approve = || Step::Approve { who: "ada".to_owned() };
        let cohort = Step::Cohort { hold: Duration::from_secs(60) };
        let plan = plan(vec![approve(), cohort, approve(), weight(5.0), approve(), flip()]);
        let traffic: Vec<_> = (0..6).map(|step| at(step).traffic(&plan)).collect();
        let shared = |percent, cohort| Traffic::Shared { percent, cohort, mirrored: 0.0 };
        let wanted = [
            shared(0.0, false),
            shared(0.0, true),
            shared(0.0, true),
            shared(5.0, true),
            shared(5.0, true),
            shared(98.0, true),
        ];
        assert_eq!(traffic, wanted);
    }

    #[test]
    fn a_hold_is_over_after_its_time_with_requests_and_pauses_after_its_deadline_without() {
        let plan = plan(vec![weight(5.0), flip()]);
        let asked = |seen: &mut Evidence| seen.step = super::super::Count { requests: 100, failures: 0 };
        assert_eq!(at(0).next(&plan, &tick(asked), 59_999).unwrap().0, at(0));
        assert_eq!(at(0).next(&plan, &tick(asked), 60_000).unwrap().0.step(), Some(1));
        assert_eq!(at(0).next(&plan, &tick(|_| {}), 60_000).unwrap().0, at(0));
        let late = at(0).next(&plan, &tick(|_| {}), 60_000 + 600_000).unwrap().0;
        assert!(matches!(late.phase, Phase::Paused { .. }), "{late:?}");
        // A clock that goes back takes nothing back.
        assert_eq!(late.next(&plan, &Event::Operator(Word::Resume), 0).unwrap().0.at_ms, late.at_ms);
    }

    #[test]
    fn copies_go_on_once_they_are_answered_the_same_and_never_because_time_is_over() {
        let time = Duration::from_secs(60);
        let plan = plan(vec![Step::Mirror { percent: 20.0, time }, Step::Approve { who: "ada".to_owned() }, flip()]);
        assert_eq!(at(0).traffic(&plan), Traffic::Shared { percent: 0.0, cohort: false, mirrored: 20.0 });
        assert_eq!(at(1).traffic(&plan), Traffic::Shared { percent: 0.0, cohort: false, mirrored: 0.0 });
        let seen = |likeness: Likeness, now_ms| {
            at(0).next(&plan, &tick(|evidence| evidence.likeness = likeness), now_ms).unwrap().0
        };
        assert_eq!(seen(Likeness::Same("300 pairs".to_owned()), 1_000).step(), Some(1));
        assert_eq!(seen(Likeness::Different("status changed".to_owned()), 1_000).outcome(), Some(Outcome::RolledBack));
        let unknown = || Likeness::Unknown("about 200 more pairs".to_owned());
        assert_eq!(seen(unknown(), 59_999), at(0));
        let late = seen(unknown(), 60_000);
        let Phase::Paused { step: Some(0), reason } = &late.phase else { panic!("{late:?}") };
        assert_eq!(reason, "not known to be the same within 1m: about 200 more pairs");
        assert_eq!(late.traffic(&plan), at(0).traffic(&plan), "more is learned meanwhile");
        // Whoever waits for a person isn't exempt.
        let different = tick(|evidence| evidence.likeness = Likeness::Different("status changed".to_owned()));
        assert_eq!(late.next(&plan, &different, 61_000).unwrap().0.outcome(), Some(Outcome::RolledBack));
    }

    #[test]
    fn a_word_that_makes_no_sense_is_refused() {
        let plan = plan(vec![Step::Approve { who: "ada".to_owned() }, weight(5.0), flip()]);
        let said = |state: &State, word| state.next(&plan, &Event::Operator(word), 0).unwrap_err();
        assert_eq!(said(&State::begun(), Word::Promote), Unfit::NotStarted);
        assert_eq!(said(&at(0), Word::Promote), Unfit::NeedsApproval);
        assert_eq!(said(&at(1), Word::Approve), Unfit::NothingToApprove);
        assert_eq!(said(&at(1), Word::Resume), Unfit::NotPaused);
        let aborted = at(1).next(&plan, &Event::Operator(Word::Abort), 0).unwrap().0;
        assert_eq!(said(&aborted, Word::Pause), Unfit::Ended);
        assert_eq!(said(&aborted, Word::Rollback), Unfit::NotCompleted);
    }
}
