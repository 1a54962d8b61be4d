//! Rollouts: from stable to candidate by a plan, judged at each step, with the way back always open.
//!
//! ```text
//! people -- words --> Conductor --- event, state ---> machine ---> state, actions
//! guard -- verdicts -->  |  ^                                          |
//! counters, trials ------+  +------------- Control <-------------------+
//! ```
//!
//! `evidence`, `machine`, `record` and `change` are pure; `sight` counts, `task` acts.

mod change;
mod error;
mod evidence;
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
pub use evidence::{ALPHA, Count, Evidence, Proof};
pub use handle::{Fresh, Rollouts};
pub use machine::{Action, Decision, Event, Outcome, Phase, State, Traffic, Unfit, Word};
pub use record::{About, Receipt};
pub use task::Conductor;
pub use view::{DeployBody, ProgressView, RolloutView, RolloutsView, StepView, WordBody};
