//! Calls of our own: one HTTP request to somebody outside, from the control side. Requests that clients make never
//! come here.
//!
//! A call has one deadline for everything and reads an answer up to a limit. It follows no redirects, since whoever is
//! called might otherwise have us call anybody; it uses no proxy of the environment; and it is sent once: whether to
//! try again is for whoever calls to know.

mod call;
mod signature;

pub use call::{Answer, Call, CallError, call};
pub use signature::{SIGNATURE, Signer, TIMESTAMP, WEBHOOK_ID};
