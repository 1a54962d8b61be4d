//! Comparing what a shadow answers with what the primary answered.

mod pair;
mod queue;

pub use pair::{Answer, AnswerEnd, Pair};
pub use queue::{Full, Queue};
