//! The guard: judges every candidate against stable, for as long as both get traffic, and says when one has to go.
//! Pure; what it decides is carried out elsewhere.

mod judge;

pub use judge::{ALPHA, Alarm, Evidence, Failure, Judge, KindEvidence, Verdict};
