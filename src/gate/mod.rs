//! What somebody else has to say before a rollout goes on: requests that the candidate must answer (`smoke.rs`), hooks
//! (`webhook.rs`) and numbers of a Prometheus server (`metric.rs`). Each is asked in a task of its own, with a limit on
//! everything, and what it said becomes a [`Standing`]; what follows from that is for the rollout's machine to decide.

mod asking;
mod metric;
mod smoke;
mod standing;
mod webhook;

pub use asking::Asking;
pub use metric::watch;
pub use smoke::smoke;
pub use standing::Standing;
pub use webhook::{Notice, ask};
