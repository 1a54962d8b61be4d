//! Sending a request to an endpoint of the chosen backend, and again where that is safe.
//!
//! Safe means: not a byte was sent (any request); or the connection had idled and broke before a byte of an
//! answer came, and the request is idempotent and has no body, so that doing it twice is doing it once
//! (RFC 9110, 9.2.2); or the endpoint says that it didn't look at it (HTTP/2's REFUSED_STREAM and GOAWAY).

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::ext::Protocol;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::body::Source;
use super::compress;
use super::exchange::Exchange;
use super::headers::rewrite_response;
use super::reply::{Answer, Failure, Reason};
use super::{queue, restart};
use crate::config::Scheme;
use crate::timers::Timer;
use crate::upstream::{ConnectError, Freshness, Lease, LocalEndpoint, RequestBody, UpgradedStream, pick};

/// Connections tried for one request, replays included.
const ATTEMPTS_MAX: usize = 3;
/// How long an HTTP/2 endpoint has to say, on a new connection, whether it takes extended CONNECT.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);

/// An endpoint's response to an ordinary request, as the client gets it.
pub(super) fn answer(exchange: &mut Exchange, response: Response<Incoming>, lease: Lease) -> Result<Answer, Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Reason::BadSwitch.into());
    }
    if !is_unambiguous(&response) {
        return Err(Reason::EndpointBroke.into());
    }
    let received = response.version();
    let mut response = response.map(|incoming| Source::Endpoint { incoming, lease });
    // hyper answers in the client's version.
    *response.version_mut() = Version::HTTP_11;
    let client = exchange.client();
    rewrite_response(response.headers_mut(), received, &exchange.additions(), || client.worker.date());
    if let Some(compression) = exchange.compression() {
        compress::apply(exchange, compression, &mut response);
    }
    if lasts(response.headers()) {
        client.lifeline.mark_long();
        exchange.lasts();
    }
    Ok(Answer::new(response))
}

/// Whether there is one way to tell where an HTTP/1 answer ends. Two lengths, or a coding that we would have to pass on
/// undone, are how an answer is read in two ways.
fn is_unambiguous(response: &Response<Incoming>) -> bool {
    // Most have a length and nothing else: hyper reads a body by its length only where there is no coding.
    if response.version() == Version::HTTP_2 || response.body().size_hint().exact().is_some() {
        return true;
    }
    let headers = response.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => {
            only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") && !headers.contains_key(CONTENT_LENGTH)
        }
        (Some(_), Some(_)) => false,
    }
}

/// Server-sent events and gRPC streams end when somebody wants them to.
fn lasts(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        value.as_bytes().starts_with(b"text/event-stream") || value.as_bytes().starts_with(b"application/grpc")
    })
}

/// What a request needs of its connection.
pub(super) enum Need {
    Nothing,
    /// The raw stream, should the endpoint switch protocols.
    Upgrade(Option<oneshot::Receiver<UpgradedStream>>),
    /// Extended CONNECT.
    ExtendedConnect,
}

impl Need {
    async fn prepare(&mut self, lease: &Lease) -> Result<(), Reason> {
        match self {
            Self::Nothing => Ok(()),
            Self::Upgrade(stream) => {
                *stream = lease.expect_upgrade();
                Ok(())
            }
            Self::ExtendedConnect if lease.takes_extended_connect(SETTINGS_WAIT).await => Ok(()),
            Self::ExtendedConnect => Err(Reason::UpgradeUnsupported),
        }
    }
}

/// Sends `request` until a response head comes or sending again isn't safe.
pub(super) async fn send(
    exchange: &mut Exchange,
    mut request: Request<RequestBody>,
    need: &mut Need,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let mut avoid = Vec::new();
    let mut freshness = Freshness::Any;
    let mut attempts = 1;
    loop {
        let mut lease = match lease(exchange, &avoid, freshness).await {
            Ok(lease) => lease,
            Err((failure, Some(endpoint))) if attempts < ATTEMPTS_MAX => {
                debug!(reason = failure.label(), request_id = %exchange.request_id_text(), "trying another endpoint");
                avoid.push(endpoint);
                attempts += 1;
                continue;
            }
            // Boxed: rare.
            Err((failure, _)) => Box::pin(restart::lease_again(exchange, failure, freshness)).await?,
        };
        need.prepare(&lease).await?;
        let reused = lease.reused();
        let may_fail_unseen = reused || lease.is_http2();
        let copy = if may_fail_unseen && attempts < ATTEMPTS_MAX && is_replayable(&request, lease.is_http2()) {
            Some(HeadCopy::of(&request))
        } else {
            None
        };
        // A first attempt on an idle connection began when its request did.
        let begun = if attempts == 1 && reused { exchange.started() } else { Instant::now() };
        match attempt(exchange, &mut lease, request).await {
            Ok(response) => {
                let now = Instant::now();
                // How long a client takes to send its body says nothing about the endpoint.
                if exchange.request_progress().is_none() {
                    lease.endpoint().observe(now - begun, now);
                }
                exchange.head_received(now);
                // An answer may come before the request has been read.
                let latency = exchange.request_read_at().map(|read_at| now - begun.max(read_at));
                exchange.first_attempt_answered(&response, latency);
                return Ok((response, lease));
            }
            Err(Broken::Late(reason)) => return Err(reason.into()),
            Err(Broken::Connection(error)) => {
                let endpoint = lease.endpoint().endpoint.display();
                debug!(error = %error.error(), %endpoint, request_id = %exchange.request_id_text(), "no answer");
                request = again(exchange, *error, copy, attempts, reused)?;
            }
        }
        if let Some(cell) = exchange.cell() {
            cell.replays.add(1);
        }
        freshness = Freshness::New;
        attempts += 1;
    }
}

/// A connection to one endpoint. On failure, the endpoint that failed, where there is another to try.
pub(super) async fn lease(
    exchange: &mut Exchange,
    avoid: &[Rc<LocalEndpoint>],
    freshness: Freshness,
) -> Result<Lease, (Reason, Option<Rc<LocalEndpoint>>)> {
    let worker = Rc::clone(&exchange.client().worker);
    let endpoints = &exchange.backend().endpoints;
    let others = endpoints.len() > 1;
    let (endpoint, permit) = match exchange.limits().copied() {
        None => (pick(endpoints, avoid, || worker.draw()).cloned(), None),
        Some(limits) => {
            let permit = match queue::enter(exchange, &limits, avoid) {
                Some(permit) => permit,
                // Boxed: rare.
                None => Box::pin(queue::wait(exchange, &limits, avoid)).await.map_err(|reason| (reason, None))?,
            };
            (Some(Rc::clone(permit.endpoint())), Some(permit))
        }
    };
    let Some(endpoint) = endpoint else { return Err((Reason::NoEndpoint, None)) };
    exchange.attempts(endpoint.endpoint.identity.address);
    let mut limit = exchange.service().service.config.timeouts.connect;
    if let Some(deadline) = exchange.deadline() {
        limit = limit.min(deadline.saturating_duration_since(Instant::now()));
        if limit.is_zero() {
            return Err((Reason::RequestTimeout, None));
        }
    }
    let ends = &exchange.client().ends;
    let leased = Lease::acquire(&endpoint, &worker.timers, limit, freshness, ends, permit).await;
    match leased {
        Ok(lease) => {
            if !lease.reused() {
                endpoint.accepted();
                exchange.cell().inspect(|cell| cell.connects.add(1));
            }
            Ok(lease)
        }
        Err(error) => {
            let now = Instant::now();
            endpoint.refused(now, &error);
            if error.is_refusal() {
                endpoint.nobody_listens(now);
            }
            exchange.cell().inspect(|cell| cell.connect_errors.add(1));
            let reason = match error {
                ConnectError::Timeout => Reason::ConnectTimeout,
                _ => Reason::ConnectFailed,
            };
            Err((reason, others.then_some(endpoint)))
        }
    }
}

enum Broken {
    /// No head within the time allowed.
    Late(Reason),
    Connection(Box<TrySendError<Request<RequestBody>>>),
}

pin_project! {
    /// A request on its way, until the head of its response comes. Written out rather than an async block, which
    /// would hold what it awaits twice: this is part of every request's future.
    struct Attempt<'a, F> {
        #[pin]
        sending: F,
        exchange: &'a Exchange,
        timer: Timer,
        limit: Duration,
    }
}

impl<F> Future for Attempt<'_, F>
where
    F: Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>>,
{
    type Output = Result<Response<Incoming>, Broken>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(sent) = this.sending.poll(cx) {
            return Poll::Ready(sent.map_err(|error| Broken::Connection(Box::new(error))));
        }
        if this.timer.poll(cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(deadline) = this.exchange.deadline()
            && deadline <= Instant::now()
        {
            return Poll::Ready(Err(Broken::Late(Reason::RequestTimeout)));
        }
        // The clock starts when the client's body has been read: until then it runs anew.
        let left = match this.exchange.request_read_at() {
            Some(read_at) => this.limit.saturating_sub(read_at.elapsed()),
            None => *this.limit,
        };
        if left.is_zero() {
            return Poll::Ready(Err(Broken::Late(Reason::ResponseTimeout)));
        }
        this.timer.set(within(left, this.exchange.deadline()));
        this.timer.poll(cx).map(|()| Err(Broken::Late(Reason::ResponseTimeout)))
    }
}

fn attempt<'a>(
    exchange: &'a Exchange,
    lease: &mut Lease,
    mut request: Request<RequestBody>,
) -> impl Future<Output = Result<Response<Incoming>, Broken>> + use<'a> {
    adapt(&mut request, lease);
    let limit = exchange.service().service.config.timeouts.response_header;
    let timer = exchange.client().worker.timers.timer();
    timer.set(within(limit, exchange.deadline()));
    Attempt { sending: lease.send(request), exchange, timer, limit }
}

/// `limit`, or what is left until `deadline`.
fn within(limit: Duration, deadline: Option<Instant>) -> Duration {
    deadline.map_or(limit, |deadline| limit.min(deadline.saturating_duration_since(Instant::now())))
}

/// The request to send next, if another attempt is safe.
fn again(
    exchange: &Exchange,
    mut error: TrySendError<Request<RequestBody>>,
    copy: Option<HeadCopy>,
    attempts: usize,
    reused: bool,
) -> Result<Request<RequestBody>, Failure> {
    if let Some(unsent) = error.take_message()
        && attempts < ATTEMPTS_MAX
    {
        return Ok(unsent);
    }
    if let Some(fault) = exchange.request_progress().and_then(|progress| progress.fault()) {
        return Err(Reason::of(fault).into());
    }
    let copy = copy.filter(|copy| match why(error.error()) {
        Why::NotLookedAt => true,
        // Only a connection that had idled may have been closed before it saw the request.
        Why::Closed => reused && copy.method.is_idempotent(),
        Why::Other => false,
    });
    copy.map(HeadCopy::into_request).ok_or_else(|| Reason::EndpointBroke.into())
}

/// What a broken connection says about the request on it.
enum Why {
    /// The endpoint promises that it did nothing.
    NotLookedAt,
    /// The connection ended before a byte of an answer.
    Closed,
    Other,
}

fn why(error: &hyper::Error) -> Why {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            // Streams above a GOAWAY's last id are the ones that fail with it.
            let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM) || (h2.is_go_away() && h2.is_remote());
            return if refused {
                Why::NotLookedAt
            } else if h2.is_reset() || h2.is_library() {
                // The endpoint ended this one stream, or we broke off for what had come.
                Why::Other
            } else {
                Why::Closed
            };
        }
        source = cause.source();
    }
    if error.is_parse() || error.is_timeout() || error.is_user() { Why::Other } else { Why::Closed }
}

/// Whether a copy of the request could be of use.
fn is_replayable(request: &Request<RequestBody>, is_http2: bool) -> bool {
    request.body().is_empty() && (is_http2 || request.method().is_idempotent())
}

/// A copy of a request's head, for sending it again: hyper keeps none. Made for nearly every request and hardly ever
/// used, so it is no more than it has to be.
struct HeadCopy {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    protocol: Option<Protocol>,
}

impl HeadCopy {
    fn of(request: &Request<RequestBody>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
            protocol: request.extensions().get().cloned(),
        }
    }

    fn into_request(self) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::Empty);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        if let Some(protocol) = self.protocol {
            request.extensions_mut().insert(protocol);
        }
        request
    }
}

/// Puts the request into the form of the connection's protocol. Can be done again for another connection.
fn adapt(request: &mut Request<RequestBody>, lease: &Lease) {
    let identity = &lease.endpoint().endpoint.identity;
    if !lease.is_http2() {
        // Only HTTP/1.0 may do without a `Host`, and what we send on is HTTP/1.1.
        if request.version() == Version::HTTP_10 && !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, identity.authority.clone());
        }
        // hyper takes a GET or HEAD of unknown length for one without a body, unless told.
        if !request.body().is_empty() && !request.headers().contains_key(CONTENT_LENGTH) {
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        *request.version_mut() = Version::HTTP_11;
        return;
    }
    *request.version_mut() = Version::HTTP_2;
    let scheme = match identity.scheme {
        Scheme::Http => UriScheme::HTTP,
        Scheme::Https => UriScheme::HTTPS,
    };
    let host = request.headers_mut().remove(HOST);
    request.headers_mut().remove(CONNECTION);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = authority.or_else(|| request.uri().authority().cloned());
    let authority = authority.unwrap_or_else(|| {
        Authority::try_from(identity.authority.as_bytes()).expect("a host and a port are an authority")
    });
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query =
        Some(request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path make a URI");
}
