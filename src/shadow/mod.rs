//! Shadows: what mirrored copies were answered, compared with what clients were, until it is known whether what runs
//! behind a mirror is the same as stable.
//!
//! ```text
//! workers -- Pair --> Queue --> sight (compare: json, bytes, headers) --> Judge --> Verdict: journal, API, metrics
//! ```
//!
//! All of it but `task` is pure; that runs on a thread of its own, which may be as busy as it likes with bodies: workers
//! hand pairs over and never wait.

mod board;
mod compare;
mod document;
mod examples;
mod fields;
mod judge;
mod memory;
mod pair;
mod queue;
mod redact;
mod report;
mod sight;
mod task;
#[cfg(test)]
mod testing;

pub use board::{Board, Mirror, Refusal, Settings, Turn};
pub use compare::Rules;
pub use examples::{Example, Examples};
pub use fields::{Change, Differences, Field, Values};
pub use judge::{Counts, Evidence, Finding, Judge, Level, Row, Sides, Sight, Trouble, needed};
pub use memory::{Memory, Terms};
pub use pair::{Answer, AnswerEnd, Pair};
pub use queue::{Full, Pairs, Queue};
pub use redact::Redaction;
pub(crate) use report::percent;
pub use report::{ExampleView, FieldView, Outcome, PairsView, ShadowView, Subject, TroubleView, Verdict};
pub use task::{Results, ShadowThread};
