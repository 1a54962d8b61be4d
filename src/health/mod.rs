//! Who is well: endpoints are asked again and again (`prober.rs`), and judged by what their requests came to
//! (`ejection.rs`). On a thread of its own, which alone decides (`keeper.rs`); requests read the outcome from
//! [`crate::upstream::Health`], and shares follow it through [`crate::state::Change::Availability`].

mod check;
mod ejection;
mod keeper;
mod prober;
mod window;

pub(crate) use check::{BODY_BYTES_MAX, Question, read};
pub use keeper::HealthThread;
