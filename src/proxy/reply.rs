//! Every response that tidegate makes itself, and the reasons for it. A reason's name is stable: the access log
//! has it, and people's alerts match it. The client learns the status and, unless configured, nothing else.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::{ResponseBody, Source};
use super::exchange::Exchange;
use super::identifiers::X_REQUEST_ID;
use super::pages::{self, Configured};
use super::tunnel::Opening;
use crate::config::MaintenanceConfig;

/// Says the reason to whoever the configuration lets know it.
const ERROR: HeaderName = HeaderName::from_static("tidegate-error");
use crate::model::PathFault;
pub(super) use crate::observe::Reason;
use crate::upstream::BodyFault;

impl Reason {
    /// What has become of the request's body says why the request failed.
    pub(super) fn of(fault: BodyFault) -> Self {
        match fault {
            BodyFault::Broken => Self::RequestBroken,
            BodyFault::Stalled => Self::RequestStalled,
            BodyFault::TooLarge => Self::BodyTooLarge,
            BodyFault::Late => Self::RequestTimeout,
        }
    }

    /// The rest of the request's body isn't read, so that nothing can follow it on an HTTP/1 connection.
    fn leaves_body(self) -> bool {
        matches!(self, Self::BodyTooLarge | Self::RequestStalled) || self.is_overload()
    }

    /// There is too much to do, which may be otherwise in a moment.
    fn is_overload(self) -> bool {
        matches!(self, Self::Overloaded | Self::Exhausted | Self::HoldFull | Self::QueueFull | Self::QueueTimeout)
    }

    /// Where the request ends, and so where the next one begins, is not sure.
    fn doubts_end(self) -> bool {
        matches!(self, Self::BadFraming | Self::BadTarget)
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BadHost
            | Self::BadFraming
            | Self::BadTarget
            | Self::BadPath
            | Self::AmbiguousPath
            | Self::BadUpgrade
            | Self::RequestBroken => StatusCode::BAD_REQUEST,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoRoute => StatusCode::NOT_FOUND,
            // Unless configured otherwise.
            Self::Maintenance => StatusCode::SERVICE_UNAVAILABLE,
            Self::AccessDenied => StatusCode::FORBIDDEN,
            // Not 301, after which clients may turn a POST into a GET.
            Self::HttpsRedirect => StatusCode::PERMANENT_REDIRECT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded
            | Self::Exhausted
            | Self::HoldFull
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::NoBackend
            | Self::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestStalled => StatusCode::REQUEST_TIMEOUT,
            Self::ConnectTimeout | Self::ResponseTimeout | Self::RequestTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ConnectFailed
            | Self::EndpointBroke
            | Self::BadSwitch
            | Self::UpgradeUnsupported
            | Self::ResponseBroken
            | Self::ResponseStalled
            | Self::ClientStalled
            | Self::ClientLeft
            | Self::Shutdown => StatusCode::BAD_GATEWAY,
        }
    }
}

/// When a client may try again that came while there was too much to do.
const RETRY_SECONDS: &str = "1";

/// A request that no endpoint answered.
#[derive(Debug)]
pub(crate) struct Failure {
    reason: Reason,
    /// What the answer says besides.
    headers: Option<Box<HeaderMap>>,
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self { reason, headers: None }
    }
}

impl From<PathFault> for Failure {
    fn from(fault: PathFault) -> Self {
        match fault {
            PathFault::Bad => Reason::BadPath.into(),
            PathFault::Ambiguous => Reason::AmbiguousPath.into(),
        }
    }
}

impl Failure {
    pub(super) fn with(reason: Reason, headers: HeaderMap) -> Self {
        Self { reason, headers: Some(Box::new(headers)) }
    }

    pub(super) fn into_response(self, mut exchange: Exchange) -> Response<ResponseBody> {
        let is_maintenance = self.reason == Reason::Maintenance;
        let maintenance = exchange.service_config().filter(|_| is_maintenance);
        let maintenance = maintenance.and_then(|service| service.maintenance.as_ref());
        let status = maintenance.map_or(self.reason.status(), |maintenance| maintenance.status);
        let says_reason = exchange.error_pages().header;
        let page = (!exchange.is_grpc()).then(|| page(&exchange, maintenance, status));
        exchange.failed(self.reason);
        let date = exchange.client().worker.date();
        let cookie = exchange.take_cookie();
        let close =
            self.reason.doubts_end() || (self.reason.leaves_body() && !exchange.request_read() && !exchange.is_http2());
        let id = exchange.request_id().clone();
        let hsts = exchange.hsts();
        // Counted as the failure it is, even where gRPC wraps it in a 200.
        exchange.answered(status);
        let mut response = match page {
            Some((content_type, page)) => page_failure(status, content_type, page, exchange),
            None => grpc_failure(status, exchange),
        };
        let headers = response.headers_mut();
        if let Some(more) = self.headers {
            headers.extend(*more);
        }
        headers.insert(DATE, date);
        headers.insert(X_REQUEST_ID, id);
        if self.reason != Reason::HttpsRedirect {
            // What is wrong now may be mended at the next request.
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if says_reason {
            headers.insert(ERROR, HeaderValue::from_static(self.reason.label()));
        }
        if self.reason.is_overload() {
            headers.entry(RETRY_AFTER).or_insert(HeaderValue::from_static(RETRY_SECONDS));
        }
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        add_hsts(headers, hsts);
        // A new client keeps the backend that failed it: to draw again would favour the other backends.
        add_cookie(headers, cookie);
        response
    }
}

/// The content type and the body of a failure, in the format that the client wants.
fn page(exchange: &Exchange, maintenance: Option<&MaintenanceConfig>, status: StatusCode) -> (HeaderValue, Bytes) {
    let errors = exchange.error_pages();
    let configured = Configured {
        html: maintenance.and_then(|m| m.html.as_ref()).or(errors.html.as_ref()),
        json: maintenance.and_then(|m| m.json.as_ref()).or(errors.json.as_ref()),
    };
    pages::write(exchange.format(), configured, status, exchange.request_id_text())
}

/// Adds a cookie. It is for this client only, so no shared cache may keep the answer that carries it.
fn add_cookie(headers: &mut HeaderMap, cookie: Option<HeaderValue>) {
    let Some(cookie) = cookie else { return };
    headers.append(SET_COOKIE, cookie);
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("private"));
}

/// Replaces what the endpoint says, so that all backends of a service say the same.
fn add_hsts(headers: &mut HeaderMap, hsts: Option<HeaderValue>) {
    if let Some(hsts) = hsts {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
}

fn page_failure(
    status: StatusCode,
    content_type: HeaderValue,
    page: Bytes,
    exchange: Exchange,
) -> Response<ResponseBody> {
    let (length, is_head) = (page.len(), exchange.is_head());
    let source = if is_head { Source::Ended } else { Source::Whole(page) };
    let mut response = Response::new(ResponseBody::new(source, Some(exchange)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    if is_head {
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// A gRPC client takes any body for a message of its protocol, so it is told in a head alone ("Trailers-Only"), with
/// the status that the protocol's mapping gives to `status`.
fn grpc_failure(status: StatusCode, exchange: Exchange) -> Response<ResponseBody> {
    let (code, message) = match status {
        StatusCode::BAD_REQUEST => ("13", "bad request"),
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => ("12", "no such service"),
        StatusCode::FORBIDDEN => ("7", "not allowed"),
        StatusCode::PERMANENT_REDIRECT => ("9", "use TLS"),
        // The mapping has 14 for 429; this is what gRPC itself calls it, and what a client backs off from.
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("8", "too much")
        }
        _ => ("14", "no endpoint answered"),
    };
    let mut response = Response::new(ResponseBody::new(Source::Ended, Some(exchange)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    headers.insert("grpc-message", HeaderValue::from_static(message));
    response
}

/// An endpoint's answer, ready for the client but for the exchange.
#[derive(Debug)]
pub(crate) struct Answer {
    response: Response<Source>,
    /// HTTP ends with this answer.
    opening: Option<Box<Opening>>,
}

impl Answer {
    pub(super) fn new(response: Response<Source>) -> Self {
        Self { response, opening: None }
    }

    pub(super) fn switching(response: Response<Source>, opening: Opening) -> Self {
        Self { response, opening: Some(Box::new(opening)) }
    }

    pub(super) fn into_response(mut self, mut exchange: Exchange) -> Response<ResponseBody> {
        exchange.answered(self.response.status());
        add_cookie(self.response.headers_mut(), exchange.take_cookie());
        add_hsts(self.response.headers_mut(), exchange.hsts());
        let exchange = match self.opening {
            None => Some(exchange),
            Some(opening) => {
                opening.begin(exchange);
                None
            }
        };
        self.response.map(|source| ResponseBody::new(source, exchange))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_in_the_operators_table_with_its_status() {
        let docs = include_str!("../../docs/operations.md");
        for reason in Reason::ALL {
            let row = docs.lines().find_map(|line| line.strip_prefix(&format!("| `{}` | ", reason.label())));
            let row = row.unwrap_or_else(|| panic!("{} is not in docs/operations.md", reason.label()));
            let status = row.split(' ').next().unwrap();
            // In brackets is the endpoint's own status, sent before the trouble began.
            assert!(status.starts_with('(') || status == reason.status().as_str(), "{}: {status}", reason.label());
        }
    }
}
