//! tidegate: the front door that ships your releases.
//!
//! Data flows one way, and what requests see changes at exactly one door, `state::Store::apply`:
//!
//! ```text
//! config -> state -> worker -> listener -> proxy -> upstream
//!             ^                              |
//!             +--- apply <--- admin       observe
//! ```
//!
//! In reading order:

pub mod model;

pub mod config;
pub mod tls;
