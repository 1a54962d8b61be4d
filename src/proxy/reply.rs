//! Every response that tidegate makes itself, and the reasons for it. A reason's name is stable: the access log
//! has it, and people's alerts match it. The client learns the status and nothing else.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, DATE, RETRY_AFTER, SET_COOKIE, STRICT_TRANSPORT_SECURITY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::body::{ResponseBody, Source};
use super::exchange::Exchange;
use super::identifiers::X_REQUEST_ID;
use super::tunnel::Opening;
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
        matches!(self, Self::BodyTooLarge | Self::RequestStalled | Self::Overloaded)
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
            Self::AccessDenied => StatusCode::FORBIDDEN,
            // Not 301, after which clients may turn a POST into a GET.
            Self::HttpsRedirect => StatusCode::PERMANENT_REDIRECT,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Overloaded | Self::NoBackend | Self::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
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

/// When a client may try again that came while memory was short.
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
        let status = self.reason.status();
        exchange.failed(self.reason);
        let date = exchange.client().worker.date();
        let cookie = exchange.take_cookie();
        let close =
            self.reason.doubts_end() || (self.reason.leaves_body() && !exchange.request_read() && !exchange.is_http2());
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
        response.headers_mut().insert(X_REQUEST_ID, id);
        if self.reason == Reason::Overloaded {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
        }
        if close {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
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
