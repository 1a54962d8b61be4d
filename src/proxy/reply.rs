//! Every response that tidegate makes itself, and the reasons for it. A reason's name is stable: the access log
//! has it, and people's alerts match it. The client learns the status and nothing else.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, DATE, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::{ResponseBody, Source};
use super::exchange::Exchange;
use super::identifiers::X_REQUEST_ID;
use super::tunnel::Opening;
use crate::model::PathFault;

/// Why tidegate answered in an endpoint's place, or broke an answer off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// No `Host`, several, one that contradicts the authority, or one that is none.
    BadHost,
    /// A `Transfer-Encoding` other than `chunked`.
    BadFraming,
    /// A host and port, or `*`, in the place of a path.
    BadTarget,
    /// A path that means nothing.
    BadPath,
    /// A path that endpoints might read differently than the routes did.
    AmbiguousPath,
    /// The head has more bytes or more fields than [limits] allows.
    HeadTooLarge,
    /// A request to upgrade that contradicts itself.
    BadUpgrade,
    /// It came by again and again, as its `Via` says.
    Loop,
    /// CONNECT.
    MethodNotAllowed,
    NoRoute,
    /// The service's access lists don't let the client in.
    AccessDenied,
    /// The service is for TLS alone.
    HttpsRedirect,
    /// The client has used up its allowance.
    RateLimited,
    /// No backend has both a weight and an endpoint.
    NoBackend,
    NoEndpoint,
    ConnectFailed,
    ConnectTimeout,
    /// The endpoint closed or reset the connection, or answered nonsense, before a head.
    EndpointBroke,
    ResponseTimeout,
    /// The endpoint switched protocols unasked, or to WebSocket wrongly.
    BadSwitch,
    /// The endpoint can't do WebSocket over HTTP/2.
    UpgradeUnsupported,
    /// The client's body broke off.
    RequestBroken,
    /// The endpoint's body broke off.
    ResponseBroken,
    /// The client left before the answer or in the middle of it.
    ClientLeft,
    /// We are stopping, and the request outlasted its deadline.
    Shutdown,
}

impl Reason {
    /// Stable, for logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BadHost => "bad_host",
            Self::BadFraming => "bad_framing",
            Self::BadTarget => "bad_target",
            Self::BadPath => "bad_path",
            Self::AmbiguousPath => "ambiguous_path",
            Self::HeadTooLarge => "head_too_large",
            Self::BadUpgrade => "bad_upgrade",
            Self::Loop => "loop",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NoRoute => "no_route",
            Self::AccessDenied => "access_denied",
            Self::HttpsRedirect => "https_redirect",
            Self::RateLimited => "rate_limited",
            Self::NoBackend => "no_backend",
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::EndpointBroke => "endpoint_broke",
            Self::ResponseTimeout => "response_timeout",
            Self::BadSwitch => "bad_switch",
            Self::UpgradeUnsupported => "upgrade_unsupported",
            Self::RequestBroken => "request_broken",
            Self::ResponseBroken => "response_broken",
            Self::ClientLeft => "client_left",
            Self::Shutdown => "shutdown",
        }
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
            Self::AccessDenied => StatusCode::FORBIDDEN,
            // Not 301, after which clients may turn a POST into a GET.
            Self::HttpsRedirect => StatusCode::PERMANENT_REDIRECT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::NoBackend | Self::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout | Self::ResponseTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::ConnectFailed
            | Self::EndpointBroke
            | Self::BadSwitch
            | Self::UpgradeUnsupported
            | Self::ResponseBroken
            | Self::ClientLeft
            | Self::Shutdown => StatusCode::BAD_GATEWAY,
        }
    }
}

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
        let status = self.reason.status();
        exchange.failed(self.reason);
        let date = exchange.client().worker.date();
        let cookie = exchange.take_cookie();
        let id = exchange.request_id().clone();
        let hsts = exchange.hsts();
        // Counted as the failure it is, even where gRPC wraps it in a 200.
        exchange.answered(status);
        let mut response =
            if exchange.is_grpc() { grpc_failure(status, exchange) } else { plain_failure(status, exchange) };
        if let Some(headers) = self.headers {
            response.headers_mut().extend(*headers);
        }
        response.headers_mut().insert(DATE, date);
        if matches!(self.reason, Reason::BadFraming | Reason::BadTarget) {
            // Where this request ends, and so where the next one begins, is what we doubt.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.headers_mut().insert(X_REQUEST_ID, id);
        add_hsts(response.headers_mut(), hsts);
        // A new client keeps the backend that failed it: to draw again would favour the other backends.
        add_cookie(response.headers_mut(), cookie);
        response
    }
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

fn plain_failure(status: StatusCode, exchange: Exchange) -> Response<ResponseBody> {
    let text = format!("{} {}\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    let mut response = Response::new(ResponseBody::new(Source::Whole(Bytes::from(text)), Some(exchange)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
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
