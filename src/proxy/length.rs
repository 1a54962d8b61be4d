//! How large a request's body says it is.

use http::Request;
use http_body::Body;

use super::exchange::Exchange;
use super::reply::{Failure, Reason};
use crate::upstream::RequestBody;

/// Refuses a body that is too large by its own account, before anything of it is read. What doesn't say is stopped
/// on its way.
pub(super) fn check(exchange: &Exchange, request: &Request<RequestBody>) -> Result<(), Failure> {
    let Some(max) = exchange.service().service.config.body_max else { return Ok(()) };
    if request.body().size_hint().lower() > max { Err(Reason::BodyTooLarge.into()) } else { Ok(()) }
}
