//! Events go out: to webhooks, chats, dashboards and pipelines.
//!
//! ```text
//! journal -- pages after the cursor --> outbox -- the oldest --> payload -- call --> sink
//!    ^                                     |                                           |
//!    +---------- cursor, what was skipped -+<------- delivered, refused, again --------+
//! ```
//!
//! The journal is the queue: whoever decides writes there and waits for nobody outside. Each sink has a task, a cursor
//! that outlives the process, and its events in their order, each at least once. `outbox`, `payload` and `cdevents` only
//! decide.

mod cdevents;
mod outbox;
mod payload;
mod task;

pub use task::Notifier;
