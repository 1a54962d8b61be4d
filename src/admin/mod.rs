//! The admin API: what is going on, and the way to change it. On the control thread's runtime, so that it answers
//! while the data plane is full.

mod api;
mod dora;
mod events;
mod guard;
mod roll_view;
mod rollouts;
mod rolls;
mod server;
pub mod view;

pub use server::{Admin, serve};
