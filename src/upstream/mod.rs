//! The endpoints: choosing one, and connections to it.

mod balance;
mod body;
mod connect;
mod copied;
mod endpoint;
mod form;
mod health;
mod http1;
mod http2;
mod kept;
mod limiter;
mod local;
mod pool;
mod resolve;
mod restart;
mod send;

pub use balance::{has_other, pick};
pub use body::{BodyError, BodyFault, BodyLimits, RequestBody, RequestProgress};
pub use connect::{ConnectError, UpgradedStream};
pub(crate) use connect::{Stream, for_check};
pub use copied::{CopiedBody, CopiedReader};
pub use endpoint::{Endpoint, EndpointIdentity, EndpointTls};
pub use form::adapt;
pub use health::{Alarm, AttemptEnd, Availability, Health, HealthNotes, TrialClaim};
pub use http1::{Http1Error, Malformed};
pub use http2::Http2Body;
pub use kept::{KeptBody, KeptReader};
pub use limiter::{EndpointLimit, Limiter, NoRoom, Permit};
pub use local::LocalEndpoint;
pub use pool::{Freshness, Lease};
pub use resolve::{Resolver, host_names, resolve_once};
pub use restart::{Probe, Restart, Waiting};
pub use send::{AnswerBody, SendError, Why};
