//! The guard: judges every candidate against stable, for as long as both get traffic, and drains the one that has to go.
//!
//! ```text
//! workers -- Report --> Guard --(Failure)--> Judge --(Verdict)--> Control::drain_by_guard --> the next request
//!                         |                                                                    goes elsewhere
//!                         +-- each second: what is slow, absolute rules, probation, alarms
//! ```
//!
//! `judge`, `slowness`, `standstill`, `absolute`, `row` and `trial` are pure; `task` asks them and acts.

mod absolute;
mod evidence;
mod judge;
mod report;
mod row;
mod slowness;
mod standstill;
mod task;
mod trial;

pub use evidence::{KindView, TrialView};
pub use judge::{ALPHA, Alarm, Evidence, Failure, Judge, KindEvidence, Verdict};
pub use report::{Report, Reporter};
pub use task::{Convicted, Guard, Questions, TrialSight};
