//! DORA's four keys (<https://dora.dev/guides/dora-metrics>), from the history: how often a service is deployed, how long
//! a commit takes until it has all requests, how many changes fail, and how long one that failed is felt.
//!
//! `keys` is pure; `task` keeps the metrics of the last 30 days.

mod keys;
mod task;

pub use keys::{DoraView, KINDS, KeysView, keys};
pub use task::{DAYS, Gauges, read};
