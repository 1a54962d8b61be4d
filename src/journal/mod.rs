//! Durable history: what was changed, by whom, and what must still hold after a restart. A SQLite file in the state
//! directory, written by one thread.
//!
//! ```text
//! toward a candidate:  record -> written and synced -> apply      a crash loses no acknowledged move
//! toward stable:       apply  -> record later, retried            safety never waits for a disk
//! ```
//!
//! A file that can't be read is left exactly as it is: what it forbids is unknown, so [`Journal::open`] fails and the
//! proxy sends everything to stable until somebody has looked.

mod database;
mod event;
mod told;
mod writer;

pub use database::{Kept, OpenError, Page, Query};
pub use event::{Entry, Event, Fact, Lasting, PastDrains, RolloutMemory, ShadowMemory, TrialMemory};
pub use told::told;
pub use writer::{Journal, WriteError};

/// The file's name in the state directory.
pub const FILE_NAME: &str = "journal.db";
