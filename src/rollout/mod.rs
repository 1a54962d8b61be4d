//! Rollouts: from stable to candidate by a plan, judged at each step, with the way back always open.
//!
//! ```text
//! people -- words --> Conductor --- event, state ---> machine ---> state, actions
//! guard -- verdicts -->  |  ^                                          |
//! counters, trials ------+  +------------- Control <-------------------+
//! ```
//!
//! `evidence`, `machine`, `baseline`, `record` and `change` are pure; `sight` counts, `gates` asks, `task` acts.

mod baseline;
mod change;
mod error;
mod evidence;
mod gates;
mod handle;
mod history;
mod machine;
mod record;
mod settling;
mod sight;
#[cfg(test)]
mod simulation;
mod task;
mod view;

pub use error::RolloutError;
pub use evidence::{ALPHA, Count, Evidence, Likeness, Proof};
pub use handle::{Fresh, Rollouts};
pub use machine::{Action, Decision, Event, Outcome, Phase, State, Traffic, Unfit, Word};
pub use record::{About, FreezeOverride, Receipt};
pub use task::Conductor;
pub use view::{BaselineView, DeployBody, GateView, ProgressView, RolloutView, RolloutsView, StepView, WordBody};
