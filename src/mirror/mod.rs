//! Copies of requests for a backend that answers nobody.
//!
//! ```text
//! request -> decision -> its own endpoint -----------------> answer -> client
//!               |                                              | captured, if answers are compared
//!               |                                              v
//!               +-> copy -> place -> body -> endpoint -> answer read -> pair -> shadow::Queue
//! ```
//!
//! A request never waits for its copy: the copy is a task of its own, with connections of its own, and whatever there
//! is too much of (copies, bytes, time) ends it, counted by reason (`observe::MirrorDrop`). Nothing that becomes of it
//! is told to the guard, to endpoints' health or to the backend's own numbers.

mod capture;
mod comparison;
mod copy;
mod decision;
mod errand;
mod head;
mod leg;
mod meeting;

pub use capture::Capture;
pub use copy::{Asked, begin};
pub use decision::{Chosen, choose};
pub use head::{CopiedHead, MARK};
pub use meeting::{Meeting, Primary};
