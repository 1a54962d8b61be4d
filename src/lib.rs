//! tidegate: the front door that ships your releases.
//!
//! Data flows one way, and what requests see changes at exactly one door, `state::Store::apply`:
//!
//! ```text
//! config -> state -> worker -> listener -> proxy -> upstream
//!             ^                              |
//!             +--- apply <- control          observe
//!                              ^
//!                    journal --+-- admin
//! ```
//!
//! In reading order:

pub mod model;

pub mod tls;

pub mod config;

pub mod observe;

pub mod analysis;

pub mod journal;

pub mod timers;

pub mod background;
pub mod executor;

mod passage;
mod stream;

pub mod upstream;

pub mod rate_limit;

pub mod state;

pub mod control;

pub mod guard;

pub mod shadow;

pub mod outbound;

pub mod notify;

pub mod dora;
pub mod gate;

pub mod rollout;

pub mod health;

pub mod worker;

pub mod mirror;

pub mod proxy;

pub mod listener;

pub mod admin;

pub mod app;

pub mod cli;
pub(crate) mod demo;
