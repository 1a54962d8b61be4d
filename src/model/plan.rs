//! How a rollout goes from stable to candidate: ordered steps, and what it may cost.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{BackendName, Gate, GateKind, Point, format_duration};

/// A rollout stops where nothing can be said for so long, besides what its steps ask for.
pub const DEADLINE: Duration = Duration::from_secs(600);
/// How many times as often as stable the candidate may fail.
pub const MARGIN: f64 = 1.5;
/// Of the proof that a step asks for.
pub const CONFIDENCE: f64 = 0.95;

/// The usual ways from stable to candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Little by little, as fast as the proof allows.
    Canary,
    /// All at once, and watched; the old side stays as it was.
    BlueGreen,
    /// Chosen clients first, then everyone.
    Cohort,
    /// Copies first, whose answers nobody sees; then as a canary.
    Shadow,
}

/// An ordered list of steps, each of which asks for something before the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub strategy: Strategy,
    /// At least one; weights grow, and the last is a flip.
    pub steps: Vec<Step>,
    /// The candidate may fail so many times as often as stable; at least 1.
    pub margin: f64,
    /// Failures beyond stable's own rate that the whole rollout may cost; `None`: any number that the margin leaves.
    pub damage_budget: Option<u64>,
    /// A step that comes to nothing for so long, besides its own time, pauses.
    pub deadline: Duration,
    /// Of the proof, between 0.5 and 1.
    pub confidence: f64,
    /// Who else is asked.
    #[serde(default)]
    pub gates: Vec<Gate>,
    /// A backend with a fresh copy of stable, which the candidate is compared with; `None`: with stable itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<BackendName>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Step {
    /// Copies of so many percent of the requests, until their answers are known to be the same; for so long at most.
    Mirror { percent: f64, time: Duration },
    /// The clients that the cohort's rules name, and nobody else.
    Cohort { hold: Duration },
    /// So many percent of the requests.
    Weight {
        percent: f64,
        /// It goes on once the candidate's rate of failures is proven to be below this, a part of 1.
        advance_below: Option<f64>,
        /// Or after so long without harm.
        hold: Option<Duration>,
    },
    /// Somebody has to approve.
    Approve { who: String },
    /// All requests, but for a part of 1 that stays on the old side to be compared with, watched for a while.
    Flip { holdback: f64, watch: Duration },
}

impl Plan {
    /// What a service gets that doesn't say otherwise.
    #[must_use]
    pub fn usual(strategy: Strategy) -> Self {
        let ramp = |percent: f64, below: f64| Step::Weight { percent, advance_below: Some(below), hold: None };
        let watch = Duration::from_secs(600);
        let canary = [ramp(1.0, 0.05), ramp(5.0, 0.01), ramp(25.0, 0.01), Step::Flip { holdback: 0.02, watch }];
        let steps = match strategy {
            Strategy::Canary => canary.to_vec(),
            Strategy::Shadow => [&[Step::Mirror { percent: 100.0, time: watch }], &canary[..]].concat(),
            Strategy::BlueGreen => vec![Step::Flip { holdback: 0.0, watch }],
            Strategy::Cohort => vec![Step::Cohort { hold: watch }, Step::Flip { holdback: 0.02, watch }],
        };
        Self {
            strategy,
            steps,
            margin: MARGIN,
            damage_budget: None,
            deadline: DEADLINE,
            confidence: CONFIDENCE,
            gates: Vec::new(),
            baseline: None,
        }
    }

    /// All at once and unwatched: for what is known to be good.
    #[must_use]
    pub fn at_once() -> Self {
        let steps = vec![Step::Flip { holdback: 0.0, watch: Duration::ZERO }];
        Self { steps, ..Self::usual(Strategy::BlueGreen) }
    }

    /// What has to pass before it goes on from a step; `None`: before the first.
    pub fn gates_after(&self, step: Option<usize>) -> impl Iterator<Item = &Gate> {
        let next = step.map_or(0, |step| step + 1);
        let promotes = matches!(self.steps.get(next), Some(Step::Flip { .. }));
        let is_here = move |point: &Point| match point {
            Point::Before => step.is_none(),
            Point::Step => step.is_some(),
            Point::Promotion => promotes,
            Point::After | Point::Rollback => false,
        };
        // A metric has nothing to say before there was a step.
        self.gates.iter().filter(move |gate| match gate.kind {
            GateKind::Metric => step.is_some(),
            GateKind::Smoke | GateKind::Webhook => gate.at.iter().any(is_here),
        })
    }
}

impl Step {
    /// The candidate's percent of what it shares with stable, where the step changes that.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        match self {
            Self::Mirror { .. } | Self::Approve { .. } => None,
            Self::Cohort { .. } => Some(0.0),
            Self::Weight { percent, .. } => Some(*percent),
            Self::Flip { holdback, .. } => Some(100.0 - holdback * 100.0),
        }
    }

    /// What a baseline gets beside the candidate: as much, where that leaves room for both; else nothing.
    #[must_use]
    pub fn baseline_percent(&self) -> f64 {
        match self {
            Self::Weight { percent, .. } if 2.0 * percent <= 100.0 => *percent,
            _ => 0.0,
        }
    }
}

impl Strategy {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::BlueGreen => "blue-green",
            Self::Cohort => "cohort",
            Self::Shadow => "shadow",
        }
    }
}

/// For people: `5 % until below 0.5 %`.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mirror { percent, time } => {
                write!(
                    f,
                    "copies of {percent} % until known to be answered the same, within {}",
                    format_duration(*time)
                )
            }
            Self::Cohort { hold } => write!(f, "the cohort for {}", format_duration(*hold)),
            Self::Weight { percent, advance_below, hold } => {
                write!(f, "{percent} %")?;
                match (advance_below, hold) {
                    (None, None) => write!(f, " until proven harmless"),
                    (Some(below), None) => write!(f, " until below {} %", told(*below)),
                    (None, Some(hold)) => write!(f, " for {}", format_duration(*hold)),
                    (Some(below), Some(hold)) => {
                        write!(f, " until below {} %, or for {}", told(*below), format_duration(*hold))
                    }
                }
            }
            Self::Approve { who } => write!(f, "approval by {who}"),
            Self::Flip { watch, .. } if watch.is_zero() => write!(f, "100 %"),
            Self::Flip { holdback, watch } if *holdback > 0.0 => {
                write!(f, "100 % but {} %, watched for {}", told(*holdback), format_duration(*watch))
            }
            Self::Flip { watch, .. } => write!(f, "100 %, watched for {}", format_duration(*watch)),
        }
    }
}

/// A part of 1 in percent, without the dust of binary fractions.
fn told(part: f64) -> f64 {
    (part * 1e6).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_in_a_few_words() {
        let told: Vec<_> = Plan::usual(Strategy::Canary).steps.iter().map(ToString::to_string).collect();
        let wanted =
            ["1 % until below 5 %", "5 % until below 1 %", "25 % until below 1 %", "100 % but 2 %, watched for 10m"];
        assert_eq!(told, wanted);
        let first = Plan::usual(Strategy::Shadow).steps[0].to_string();
        assert_eq!(first, "copies of 100 % until known to be answered the same, within 10m");
        assert_eq!(Plan::at_once().steps[0].to_string(), "100 %");
        let both = Step::Weight { percent: 0.5, advance_below: Some(0.003), hold: Some(Duration::from_secs(60)) };
        assert_eq!(both.to_string(), "0.5 % until below 0.3 %, or for 1m");
    }
}
