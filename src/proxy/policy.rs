//! What a service asks of a request before it chooses a backend: that its client is let in, that it comes over TLS,
//! that the service is open, that its body isn't too large, that it isn't one too many. In this order: who isn't let in
//! learns nothing else, and only requests that the others let through are counted against a limit.

use http::header::{HeaderName, LOCATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Uri};

use super::exchange::Exchange;
use super::length;
use super::reply::{Failure, Reason};
use crate::model::RequestFacts;
use crate::observe::ServiceCell;
use crate::rate_limit::{Exhausted, RateLimit};
use crate::state::Service;
use crate::upstream::RequestBody;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Refuses what the service doesn't take.
pub(super) fn admit(
    exchange: &Exchange,
    service: &Service,
    facts: &RequestFacts<'_>,
    request: &Request<RequestBody>,
) -> Result<(), Failure> {
    if let Some(access) = &service.config.access
        && !access.admits(facts.client)
    {
        cell(exchange, service).denied.add(1);
        return Err(Reason::AccessDenied.into());
    }
    if let Some(port) = service.config.https_redirect
        && !exchange.origin().secure
    {
        let location = location(facts.host, port, request.uri()).ok_or(Reason::BadHost)?;
        cell(exchange, service).redirected.add(1);
        return Err(Failure::with(Reason::HttpsRedirect, HeaderMap::from_iter([(LOCATION, location)])));
    }
    if let Some(maintenance) = &service.config.maintenance
        && !maintenance.allow.contains(facts.client)
    {
        cell(exchange, service).maintenance_answers.add(1);
        let retry_after = maintenance.retry_after.clone().map(|value| (RETRY_AFTER, value));
        return Err(Failure::with(Reason::Maintenance, retry_after.into_iter().collect()));
    }
    if length::is_too_large(&service.config, request) {
        cell(exchange, service).too_large.add(1);
        return Err(Reason::BodyTooLarge.into());
    }
    Ok(())
}

/// Counts the request against the service's limits, once.
pub(super) fn count(exchange: &Exchange, service: &Service, facts: &RequestFacts<'_>) -> Result<(), Failure> {
    if let Err((limit, exhausted)) = RateLimit::take_all(&service.rate_limits, facts) {
        cell(exchange, service).limited.add(1);
        return Err(Failure::with(Reason::RateLimited, allowance(limit, exhausted)));
    }
    Ok(())
}

fn cell<'a>(exchange: &Exchange, service: &'a Service) -> &'a ServiceCell {
    service.metrics.cell(exchange.client().worker.index)
}

/// The same place over TLS: path and query as received. `None` when the host is no host.
fn location(host: &str, port: u16, uri: &Uri) -> Option<HeaderValue> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let address = |inner: &str| inner.parse::<std::net::Ipv6Addr>().is_ok();
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if host.is_empty() || !(host.bytes().all(plain) || bracketed.is_some_and(address)) {
        return None;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path } else { "/" };
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    HeaderValue::try_from(format!("https://{host}{port}{path}")).ok()
}

/// When to come again, in the old words and in those of draft-ietf-httpapi-ratelimit-headers.
fn allowance(limit: &RateLimit, exhausted: Exhausted) -> HeaderMap {
    let seconds = exhausted.retry_after_s;
    let left = HeaderValue::try_from(format!("\"default\";r=0;t={seconds}")).expect("numbers are plain ASCII");
    HeaderMap::from_iter([
        (RETRY_AFTER, HeaderValue::from(seconds)),
        (RATE_LIMIT, left),
        (RATE_LIMIT_POLICY, limit.policy().clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_keeps_path_and_query_as_received_and_goes_to_hosts_only() {
        let to = |host, port, uri: &'static str| location(host, port, &Uri::from_static(uri));
        let to = |host, port, uri| to(host, port, uri).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(to("shop.test", 443, "/a%2f/../b?x=%20&y").as_deref(), Some("https://shop.test/a%2f/../b?x=%20&y"));
        assert_eq!(to("shop.test", 8443, "//evil.test/").as_deref(), Some("https://shop.test:8443//evil.test/"));
        assert_eq!(to("[::1]", 443, "http://[::1]").as_deref(), Some("https://[::1]/"));
        assert_eq!(to("shop.test", 443, "*").as_deref(), Some("https://shop.test/"));
        for host in ["", "a b", "shop.test/x", "a\\b", "[::1", "[x]", "a%2f", "a@b", "shop.test#"] {
            assert_eq!(to(host, 443, "/"), None, "{host}");
        }
    }
}
