//! The life of one rollout. Pure: no clock, no I/O; what happens next follows from the state, an event and the time.
//!
//! ```text
//!                  endpoints up          proof, or hold without harm, or approval, or promote
//!    Starting ------------------> At(0) ---------> At(1) ---------> ... ---------> At(flip) --- watched ---> completed
//!       |                          |  ^                                               |                         |
//!       | deadline                 |  | resume                                        |                         | rollback
//!       v                          v  |                                               v                         v
//!     failed                     Paused(n)  <-- pause, deadline, stable alarm, no      |                    rolled back
//!                                   |           endpoint on either side, a baseline   |
//!                                   |           that is lost, a gate that says no or  |
//!                                   |           nothing                               |
//!                                   +---------------------+---------------------------+
//!                                                         |
//!       harm, other answers to copies, the guard's verdict, no endpoint of the candidate, rollback  -->  rolled back
//!       abort, a person's drain, a file that says otherwise                -->  aborted
//! ```
//!
//! Before each arrow to the right, but a person's `promote`, gates are asked ([`Action::Ask`]), and all have to pass while
//! what else the step asks for holds. An approval that has gates behind it is remembered ([`Phase::Approved`]). In a freeze
//! nothing goes to the right by itself.
//!
//! What requests see follows from the state alone ([`State::traffic`]), so that a restart, wherever it comes, brings it
//! about again. Where a plan has a baseline, that gets as much as the candidate at each step that leaves room for both; and
//! nothing before and after, or once it is lost, until somebody has the rollout go on. Time is the rollout's own:
//! milliseconds in which the process ran. It doesn't go backwards, and a hold or a watch begins anew after a restart, since
//! nobody has seen what happened meanwhile.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::{Evidence, Likeness, Proof};
use crate::gate::Standing;
use crate::model::{Gate, GateKind, OnFailure, Plan, Point, Step, format_duration};

/// Where a rollout stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub phase: Phase,
    /// The rollout's own time when this was last changed.
    pub at_ms: u64,
    /// It is paused since there is no baseline any more: stable is what the candidate is compared with meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub baseline_lost: bool,
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
    /// The same, where the step's approval was given and gates are asked.
    Approved {
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

    /// In metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::RolledBack => "rolled_back",
            other => other.name(),
        }
    }

    pub const ALL: [Self; 4] = [Self::Completed, Self::RolledBack, Self::Aborted, Self::Failed];
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
    /// There is nothing to compare the candidate with: why.
    BaselineLost(String),
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
    /// Gates have to pass before it goes on; those that haven't been asked since the present phase began.
    Ask,
    /// Somebody wants to know.
    Tell(Point),
}

/// What requests see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Traffic {
    /// The candidate has so many percent of what it shares with stable, and so has its baseline; with `cohort`, the cohort
    /// as well; and copies of `mirrored` percent of all requests.
    Shared { percent: f64, baseline: f64, cohort: bool, mirrored: f64 },
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
        Self { phase: Phase::Starting, at_ms: 0, baseline_lost: false }
    }

    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// Requests may go to the candidate, and it goes on by itself.
    #[must_use]
    pub fn is_at_step(&self) -> bool {
        matches!(self.phase, Phase::At { .. } | Phase::Approved { .. })
    }

    /// An approval was given, and gates are asked.
    #[must_use]
    pub fn is_at_approved(&self) -> bool {
        matches!(self.phase, Phase::Approved { .. })
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

    /// In metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match &self.phase {
            Phase::Starting => "starting",
            Phase::At { .. } | Phase::Approved { .. } => "under_way",
            Phase::Paused { .. } => "paused",
            Phase::Ended { outcome, .. } => outcome.label(),
        }
    }

    /// The step that it is at, or goes on with.
    #[must_use]
    pub fn step(&self) -> Option<usize> {
        match self.phase {
            Phase::At { step } | Phase::Approved { step } => Some(step),
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
        let shared = so_far.iter().rev().find_map(|step| Some((step.percent()?, step.baseline_percent())));
        let (percent, beside) = shared.unwrap_or_default();
        let baseline = if plan.baseline.is_some() && !self.baseline_lost { beside } else { 0.0 };
        let cohort = so_far.iter().any(|step| matches!(step, Step::Cohort { .. }));
        let mirrored = match so_far.last() {
            Some(Step::Mirror { percent, .. }) => *percent,
            _ => 0.0,
        };
        Traffic::Shared { percent, baseline, cohort, mirrored }
    }

    /// What follows from an event at `now_ms` of the rollout's own time.
    ///
    /// # Errors
    /// When a person's word makes no sense now. Nothing follows from it then.
    pub fn next(&self, plan: &Plan, event: &Event, now_ms: u64) -> Result<(Self, Vec<Action>), Unfit> {
        let now_ms = now_ms.max(self.at_ms);
        let (phase, decision, baseline_lost) = match self.decide(plan, event, now_ms)? {
            Turn::Stay => return Ok((self.clone(), Vec::new())),
            Turn::Ask => return Ok((self.clone(), vec![Action::Ask])),
            Turn::Move(phase, decision) => (phase, decision, self.baseline_lost && *event == Event::Restarted),
            Turn::Lose(reason) => {
                let phase = Phase::Paused { step: self.step(), reason: reason.clone() };
                (phase, Some(Decision::Paused { reason }), true)
            }
        };
        let next = Self { phase, at_ms: now_ms, baseline_lost };
        let (before, after) = (self.traffic(plan), next.traffic(plan));
        let shift = (before != after).then_some(Action::Shift(after));
        let point = match next.outcome() {
            None => None,
            Some(Outcome::Completed) => Some(Point::After),
            Some(_) => Some(Point::Rollback),
        };
        let told = point.filter(|point| plan.gates.iter().any(|gate| gate.at.contains(point)));
        let actions = shift.into_iter().chain(decision.map(Action::Record)).chain(told.map(Action::Tell));
        Ok((next, actions.collect()))
    }

    fn decide(&self, plan: &Plan, event: &Event, now_ms: u64) -> Result<Turn, Unfit> {
        if let Phase::Ended { outcome, .. } = &self.phase {
            return match event {
                Event::Operator(Word::Rollback) if *outcome == Outcome::Completed => {
                    Ok(ended(Outcome::RolledBack, "a person said so"))
                }
                Event::Operator(Word::Rollback) => Err(Unfit::NotCompleted),
                Event::Operator(_) => Err(Unfit::Ended),
                _ => Ok(Turn::Stay),
            };
        }
        Ok(match event {
            Event::Tick(evidence) => self.tick(plan, evidence, now_ms),
            Event::Verdict(reason) => ended(Outcome::RolledBack, reason),
            Event::EndpointsGone { stable_up } => self.without_endpoints(*stable_up),
            // Whoever has paused it should know of it as well.
            Event::BaselineLost(reason) if self.traffic(plan).has_baseline() => Turn::Lose(reason.clone()),
            Event::BaselineLost(_) => Turn::Stay,
            Event::Overruled(reason) => ended(Outcome::Aborted, reason),
            // What was seen before is lost, so the present step's time begins anew.
            Event::Restarted => Turn::Move(self.phase.clone(), None),
            Event::Operator(word) => self.told(plan, *word)?,
        })
    }

    fn told(&self, plan: &Plan, word: Word) -> Result<Turn, Unfit> {
        let approval =
            |step: Option<usize>| step.filter(|step| matches!(plan.steps.get(*step), Some(Step::Approve { .. })));
        let is_approved = matches!(self.phase, Phase::Approved { .. });
        match (word, &self.phase) {
            (Word::Abort, _) => Ok(ended(Outcome::Aborted, "a person said so")),
            (Word::Rollback, _) => Ok(ended(Outcome::RolledBack, "a person said so")),
            (Word::Pause, Phase::Paused { .. }) => Err(Unfit::PausedAlready),
            (Word::Pause, _) => Ok(paused(self.step(), "a person said so")),
            (Word::Resume, Phase::Paused { step, .. }) => {
                let phase = step.map_or(Phase::Starting, |step| Phase::At { step });
                Ok(Turn::Move(phase, Some(Decision::Resumed)))
            }
            (Word::Resume, _) => Err(Unfit::NotPaused),
            (Word::Approve, _) => {
                let step = approval(self.step()).filter(|_| !is_approved).ok_or(Unfit::NothingToApprove)?;
                let is_gated = plan.gates_after(Some(step)).next().is_some();
                let phase = if is_gated { Phase::Approved { step } } else { advanced(plan, step).0 };
                Ok(Turn::Move(phase, Some(Decision::Approved { step })))
            }
            (Word::Promote | Word::PromoteFull, _) => {
                let step = self.step().ok_or(Unfit::NotStarted)?;
                if word == Word::PromoteFull {
                    return Ok(ended(Outcome::Completed, "a person said so"));
                }
                if approval(Some(step)).is_some() && !is_approved {
                    return Err(Unfit::NeedsApproval);
                }
                Ok(go_on(plan, Some(step), "a person said so".to_owned()))
            }
        }
    }

    fn without_endpoints(&self, stable_up: bool) -> Turn {
        match (&self.phase, stable_up) {
            // They were never asked for anything.
            (Phase::Starting | Phase::Paused { step: None, .. }, _) => Turn::Stay,
            (_, true) => ended(Outcome::RolledBack, "none of its endpoints is available"),
            // To go back would mend nothing, and to go back and forth even less.
            (Phase::Paused { .. }, false) => Turn::Stay,
            (_, false) => paused(self.step(), "no endpoint is available on either side"),
        }
    }

    fn tick(&self, plan: &Plan, evidence: &Evidence, now_ms: u64) -> Turn {
        let step = self.step().and_then(|index| plan.steps.get(index));
        let alone = match step {
            Some(Step::Cohort { .. }) => true,
            Some(Step::Flip { holdback, .. }) => *holdback <= 0.0,
            _ => false,
        };
        if let Some(reason) = step.and_then(|_| evidence.harm(plan, alone)) {
            return ended(Outcome::RolledBack, &reason);
        }
        if let (Some(Step::Mirror { .. }), Likeness::Different(what)) = (step, &evidence.likeness) {
            return ended(Outcome::RolledBack, &format!("it answers copies otherwise than stable: {what}"));
        }
        if self.traffic(plan).has_baseline()
            && let Some(reason) = evidence.baseline_fault()
        {
            return Turn::Lose(reason);
        }
        let waited = Duration::from_millis(now_ms - self.at_ms);
        match &self.phase {
            Phase::Starting if evidence.ready => {
                self.through_gates(plan, evidence, waited, "its endpoints are up".to_owned())
            }
            Phase::Starting if waited >= plan.deadline => {
                let reason = format!("its endpoints weren't all up within {}", format_duration(plan.deadline));
                ended(Outcome::Failed, &reason)
            }
            Phase::At { .. } | Phase::Approved { .. } if evidence.stable_alarm => {
                paused(self.step(), "stable fails more often than the candidate")
            }
            Phase::At { step } => {
                match refused_metric(plan, *step, evidence).unwrap_or_else(|| at(plan, *step, evidence, waited)) {
                    Course::On(reason) => self.through_gates(plan, evidence, waited, reason),
                    Course::Wait => Turn::Stay,
                    Course::Turn(turn) => turn,
                }
            }
            Phase::Approved { step } => match refused_metric(plan, *step, evidence) {
                Some(Course::Turn(turn)) => turn,
                _ => self.through_gates(plan, evidence, waited, "approved".to_owned()),
            },
            Phase::Starting | Phase::Paused { .. } | Phase::Ended { .. } => Turn::Stay,
        }
    }

    /// Goes on, unless it is frozen or a gate is in the way.
    fn through_gates(&self, plan: &Plan, evidence: &Evidence, waited: Duration, mut reason: String) -> Turn {
        if evidence.frozen.is_some() {
            return Turn::Stay;
        }
        let step = self.step();
        let own = step.and_then(|step| plan.steps.get(step)).map_or(Duration::ZERO, own_time);
        let late = waited >= own + plan.deadline;
        let mut waits = false;
        for gate in plan.gates_after(step) {
            match evidence.standing(gate) {
                Standing::Passed(said) => reason += &format!("; {gate}: {said}"),
                Standing::Refused(said) => return refused(gate, step, &said),
                // It may come to its senses.
                standing if gate.kind == GateKind::Metric => {
                    if late {
                        let within = format_duration(own + plan.deadline);
                        return paused(step, &format!("no progress within {within}: {gate}: {}", standing.reason()));
                    }
                    waits = true;
                }
                Standing::Silent(said) => return paused(step, &format!("{gate} says nothing: {said}")),
                Standing::Pending(_) => waits = true,
            }
        }
        if waits { Turn::Ask } else { go_on(plan, step, reason) }
    }
}

/// What follows from an event.
enum Turn {
    Stay,
    Ask,
    Move(Phase, Option<Decision>),
    /// Paused, without its baseline.
    Lose(String),
}

/// What a step's own condition has come to.
enum Course {
    /// It holds.
    On(String),
    Wait,
    Turn(Turn),
}

/// A metric is no condition of the next step alone: it is watched all along.
fn refused_metric(plan: &Plan, step: usize, evidence: &Evidence) -> Option<Course> {
    let mut metrics = plan.gates.iter().filter(|gate| gate.kind == GateKind::Metric);
    metrics.find_map(|gate| match evidence.standing(gate) {
        Standing::Refused(said) => Some(Course::Turn(refused(gate, Some(step), &said))),
        _ => None,
    })
}

fn refused(gate: &Gate, step: Option<usize>, said: &str) -> Turn {
    let reason = format!("{gate}: {said}");
    match gate.on_failure {
        OnFailure::Pause => paused(step, &reason),
        OnFailure::Rollback => ended(Outcome::RolledBack, &reason),
    }
}

/// What a step asks for by itself, before a deadline counts.
fn own_time(step: &Step) -> Duration {
    match step {
        Step::Mirror { time: own, .. } | Step::Cohort { hold: own } | Step::Flip { watch: own, .. } => *own,
        Step::Weight { hold, .. } => hold.unwrap_or(Duration::ZERO),
        Step::Approve { .. } => Duration::ZERO,
    }
}

/// At a step for so long.
fn at(plan: &Plan, index: usize, evidence: &Evidence, waited: Duration) -> Course {
    let Some(step) = plan.steps.get(index) else { return Course::Wait };
    let missing = match step {
        // A person's pace is their own.
        Step::Approve { .. } => return Course::Wait,
        Step::Mirror { time, .. } => {
            return match &evidence.likeness {
                Likeness::Same(reason) => Course::On(format!("it answers copies as stable does: {reason}")),
                // Time alone says nothing of answers that nobody could compare.
                Likeness::Unknown(missing) if waited >= *time => {
                    let reason = format!("not known to be the same within {}: {missing}", format_duration(*time));
                    Course::Turn(paused(Some(index), &reason))
                }
                _ => Course::Wait,
            };
        }
        Step::Weight { advance_below, hold, .. } => {
            let missing = match evidence.proof(*advance_below, plan.confidence) {
                // One proof is as good as the other, but a step with a time and nothing else asks for its time.
                Proof::Given(reason) if advance_below.is_some() || hold.is_none() => return Course::On(reason),
                Proof::Given(reason) | Proof::Missing { reason, .. } => reason,
            };
            match hold.map(|hold| over(evidence, plan, hold, waited)) {
                Some(Ok(reason)) => return Course::On(reason),
                Some(Err(reason)) => reason,
                None => missing,
            }
        }
        Step::Flip { watch, .. } if watch.is_zero() => return Course::On("nothing is watched".to_owned()),
        Step::Cohort { hold: time } | Step::Flip { watch: time, .. } => match over(evidence, plan, *time, waited) {
            Ok(reason) => return Course::On(reason),
            Err(reason) => reason,
        },
    };
    let allowed = own_time(step) + plan.deadline;
    if waited < allowed {
        return Course::Wait;
    }
    Course::Turn(paused(Some(index), &format!("no progress within {}: {missing}", format_duration(allowed))))
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

/// From a step, or to the first.
fn go_on(plan: &Plan, step: Option<usize>, reason: String) -> Turn {
    let Some(index) = step else {
        return Turn::Move(Phase::At { step: 0 }, Some(Decision::Advanced { step: 0, reason }));
    };
    let (phase, decision) = advanced(plan, index);
    Turn::Move(phase, Some(decision(reason)))
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

fn paused(step: Option<usize>, reason: &str) -> Turn {
    let reason = reason.to_owned();
    Turn::Move(Phase::Paused { step, reason: reason.clone() }, Some(Decision::Paused { reason }))
}

fn ended(outcome: Outcome, reason: &str) -> Turn {
    let reason = reason.to_owned();
    Turn::Move(Phase::Ended { outcome, reason: reason.clone() }, Some(Decision::Ended { outcome, reason }))
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
        State { phase: Phase::At { step }, ..State::begun() }
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
        let shared = |percent, cohort| Traffic::Shared { percent, baseline: 0.0, cohort, mirrored: 0.0 };
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
        let copied = |mirrored| Traffic::Shared { percent: 0.0, baseline: 0.0, cohort: false, mirrored };
        assert_eq!((at(0).traffic(&plan), at(1).traffic(&plan)), (copied(20.0), copied(0.0)));
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

    fn gate(kind: GateKind, at: &[Point], on_failure: OnFailure) -> Gate {
        Gate { name: "ci".to_owned(), kind, at: at.to_vec(), on_failure }
    }

    /// At a step whose own condition holds, with one gate.
    fn seen(gate: &Gate, at: &State, standing: Option<Standing>, frozen: bool) -> (State, Vec<Action>) {
        let plan = Plan { gates: vec![gate.clone()], ..plan(vec![weight(5.0), weight(10.0), flip()]) };
        let event = tick(|evidence| {
            evidence.step = super::super::Count { requests: 100, failures: 0 };
            evidence.gates = standing.map(|standing| (gate.kind, gate.name.clone(), standing)).into_iter().collect();
            evidence.frozen = frozen.then(|| "it is friday".to_owned());
        });
        at.next(&plan, &event, 60_000).unwrap()
    }

    #[test]
    fn a_gate_is_asked_once_a_steps_own_condition_holds_and_its_answer_decides() {
        let said = || "says so".to_owned();
        let hook = gate(GateKind::Webhook, &[Point::Step], OnFailure::Rollback);
        assert_eq!(seen(&hook, &at(0), None, false), (at(0), vec![Action::Ask]));
        assert_eq!(seen(&hook, &at(0), Some(Standing::unasked()), false), (at(0), vec![Action::Ask]));
        let passed = seen(&hook, &at(0), Some(Standing::Passed(said())), false).0;
        assert_eq!(passed.step(), Some(1));
        let refused = |on_failure| {
            let hook = Gate { on_failure, ..hook.clone() };
            seen(&hook, &at(0), Some(Standing::Refused(said())), false).0.phase
        };
        let reason = "webhook ci: says so".to_owned();
        let outcome = Outcome::RolledBack;
        assert_eq!(refused(OnFailure::Rollback), Phase::Ended { outcome, reason: reason.clone() });
        assert_eq!(refused(OnFailure::Pause), Phase::Paused { step: Some(0), reason });
        // Silence is no verdict, whatever a no would mean.
        let silent = seen(&hook, &at(0), Some(Standing::Silent(said())), false).0.phase;
        assert_eq!(silent, Phase::Paused { step: Some(0), reason: "webhook ci says nothing: says so".to_owned() });
    }

    #[test]
    fn each_gate_is_asked_at_its_points_and_a_promotion_is_the_way_to_everything() {
        let asks = |at: &State, points: &[Point]| {
            seen(&gate(GateKind::Webhook, points, OnFailure::Pause), at, None, false).1.contains(&Action::Ask)
        };
        let before = State::begun();
        assert!(asks(&before, &[Point::Before]) && !asks(&before, &[Point::Step, Point::Promotion, Point::After]));
        assert!(asks(&at(0), &[Point::Step]) && !asks(&at(0), &[Point::Before, Point::Promotion, Point::Rollback]));
        assert!(asks(&at(1), &[Point::Promotion]) && !asks(&at(2), &[Point::Promotion]));
    }

    #[test]
    fn a_metric_is_a_veto_at_any_time_and_its_silence_holds_until_the_deadline() {
        let metric = gate(GateKind::Metric, &[], OnFailure::Rollback);
        let plan = Plan { gates: vec![metric.clone()], ..plan(vec![weight(5.0), flip()]) };
        let at_once = |standing: Standing, now_ms| {
            let event = tick(|evidence| evidence.gates = vec![(GateKind::Metric, "ci".to_owned(), standing)]);
            at(0).next(&plan, &event, now_ms).unwrap().0
        };
        let refused = at_once(Standing::Refused("it is 3, above 2".to_owned()), 1_000);
        assert_eq!(refused.end_reason(), Some("metric ci: it is 3, above 2"));
        assert_eq!(at_once(Standing::Silent("connect failed".to_owned()), 1_000), at(0));
        let waits = |now_ms| {
            let event = tick(|evidence| {
                evidence.step = super::super::Count { requests: 100, failures: 0 };
                evidence.gates =
                    vec![(GateKind::Metric, "ci".to_owned(), Standing::Silent("connect failed".to_owned()))];
            });
            at(0).next(&plan, &event, now_ms).unwrap().0.phase
        };
        assert_eq!(waits(60_000), Phase::At { step: 0 });
        let reason = "no progress within 11m: metric ci: connect failed".to_owned();
        assert_eq!(waits(660_000), Phase::Paused { step: Some(0), reason });
    }

    #[test]
    fn in_a_freeze_nothing_goes_on_and_nobody_is_asked_but_the_way_back_is_open() {
        let hook = gate(GateKind::Webhook, &[Point::Before, Point::Step], OnFailure::Pause);
        for state in [State::begun(), at(0), at(1)] {
            assert_eq!(seen(&hook, &state, None, true), (state.clone(), Vec::new()));
            let passed = Some(Standing::Passed(String::new()));
            assert_eq!(seen(&hook, &state, passed, true), (state, Vec::new()));
        }
    }

    #[test]
    fn an_approval_is_remembered_while_gates_are_asked() {
        let hook = gate(GateKind::Webhook, &[Point::Promotion], OnFailure::Pause);
        let plan = Plan { gates: vec![hook], ..plan(vec![Step::Approve { who: "ada".to_owned() }, flip()]) };
        let (approved, actions) = at(0).next(&plan, &Event::Operator(Word::Approve), 0).unwrap();
        assert_eq!(approved.phase, Phase::Approved { step: 0 });
        assert_eq!(actions, [Action::Record(Decision::Approved { step: 0 })]);
        assert_eq!(approved.next(&plan, &Event::Operator(Word::Approve), 0).unwrap_err(), Unfit::NothingToApprove);
        assert_eq!(approved.next(&plan, &tick(|_| {}), 0).unwrap().1, [Action::Ask]);
        let passed = tick(|evidence| {
            evidence.gates = vec![(GateKind::Webhook, "ci".to_owned(), Standing::Passed("fine".to_owned()))];
        });
        assert_eq!(approved.next(&plan, &passed, 0).unwrap().0.step(), Some(1));
        // A person's word outranks whoever else is asked.
        assert_eq!(approved.next(&plan, &Event::Operator(Word::Promote), 0).unwrap().0.step(), Some(1));
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
