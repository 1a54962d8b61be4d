//! How large a request's body says it is.

use http::Request;
use http_body::Body;

use crate::config::ServiceConfig;
use crate::upstream::RequestBody;

/// A body is too large by its own account, before anything of it is read. What doesn't say is stopped on its way.
pub(super) fn is_too_large(service: &ServiceConfig, request: &Request<RequestBody>) -> bool {
    service.body_max.is_some_and(|max| request.body().size_hint().lower() > max)
}
