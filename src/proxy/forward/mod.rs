//! Sending a request to an endpoint of the selected backend, and again where that is safe.
//!
//! Safe means: not a byte was sent (any request); or the endpoint says that it didn't look at it (HTTP/2's
//! REFUSED_STREAM and GOAWAY); or to do it twice is to do it once (RFC 9110, 9.2.2), and its body, if it has one, was
//! kept while it streamed. What is tried again, where and how often is decided in `tries.rs`.

mod attempt;
mod copy;
mod hedge;
mod tries;

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::body::Source;
use super::compress;
use super::exchange::Exchange;
use super::headers::rewrite_response;
use super::reply::{Answer, Failure, Reason};
use super::{queue, restart};
use crate::model::{AttemptFailure, FailureKind, GRPC_STATUS};
use crate::upstream::{
    AnswerBody, AttemptEnd, ConnectError, Freshness, Lease, LocalEndpoint, Permit, RequestBody, UpgradedStream, Why,
    pick,
};
use attempt::{Broken, Event, attempt};
use copy::{RequestCopy, copied};
use hedge::{Raced, race};
use tries::{Hedge, Tries};

/// How long an HTTP/2 endpoint has to say, on a new connection, whether it takes extended CONNECT.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);
/// Says which backend answered to whoever the configuration lets know it.
const BACKEND: HeaderName = HeaderName::from_static("tidegate-backend");

/// An endpoint's response to an ordinary request, as the client gets it.
pub(super) fn answer(exchange: &mut Exchange, response: Response<AnswerBody>, lease: Lease) -> Result<Answer, Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Reason::BadSwitch.into());
    }
    if !is_unambiguous(&response) {
        return Err(Reason::EndpointBroke.into());
    }
    if let Some(primary) = exchange.captured() {
        primary.head(response.status(), response.headers());
    }
    let received = response.version();
    let mut response = response.map(|incoming| Source::Endpoint { incoming, lease });
    // hyper answers in the client's version.
    *response.version_mut() = Version::HTTP_11;
    let client = exchange.client();
    rewrite_response(response.headers_mut(), received, &exchange.additions(), || client.worker.date());
    tell_backend(exchange, response.headers_mut());
    if let Some(compression) = exchange.compression() {
        compress::apply(exchange, compression, &mut response);
    }
    if lasts(response.headers()) {
        client.lifeline.mark_long();
        exchange.lasts();
    }
    Ok(Answer::new(response))
}

/// Says which backend answers, where that may be known.
pub(super) fn tell_backend(exchange: &Exchange, headers: &mut HeaderMap) {
    if let Some(name) = exchange.told_backend() {
        headers.insert(BACKEND, name);
    }
}

/// Whether there is one way to tell where an HTTP/1 answer ends. Two lengths, or a coding that we would have to pass on
/// undone, are how an answer is read in two ways.
fn is_unambiguous(response: &Response<AnswerBody>) -> bool {
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

/// Sends `request` until there is a head to pass on, or nobody is left who could be asked.
pub(super) async fn send(
    exchange: &mut Exchange,
    request: &mut Request<RequestBody>,
    need: &mut Need,
) -> Result<(Response<AnswerBody>, Lease), Failure> {
    let mut tries = Tries::new(need);
    let mut pause = Duration::ZERO;
    loop {
        if !pause.is_zero() {
            // Boxed: rare.
            Box::pin(tokio::time::sleep(pause)).await;
        }
        let mut lease = match lease(exchange, &tries.tried, tries.freshness).await {
            Ok(lease) => lease,
            Err((reason, None)) => return Err(reason.into()),
            Err((reason, Some(endpoint))) => {
                debug!(reason = reason.label(), request_id = %exchange.request_id_text(), "no connection");
                tries.failed(exchange);
                if tries.next(exchange, &endpoint, AttemptFailure::Connect, true).is_some() {
                    continue;
                }
                // Boxed: rare.
                Box::pin(restart::lease_again(exchange, reason, tries.freshness)).await?
            }
        };
        // What can't be sent twice isn't sent to where nobody reads it: an idle connection is closed at any moment.
        if lease.reused() && !request.method().is_idempotent() && lease.is_gone() {
            tries.freshness = Freshness::New;
            continue;
        }
        let endpoint = Rc::clone(lease.endpoint());
        need.prepare(&lease).await?;
        let kept = tries.keep(exchange, request, &lease);
        let copy = kept.as_ref().filter(|_| lease.is_http2()).map(|_| copied(request));
        // A first attempt on a connection that was there began when its request did.
        let is_at_once = tries.is_first() && !tries.has_replayed() && !lease.waited();
        let begun = if is_at_once { exchange.started() } else { Instant::now() };
        let slow_after = exchange.slow_after().filter(|_| tries.is_first());
        let mut attempt = pin!(attempt(exchange, &mut lease, request, begun, slow_after));
        // HTTP/1 has left the head where it is.
        if let Some(copy) = copy {
            *request = copy;
        }
        let copy = kept.map(|body| RequestCopy::new(request, body));
        let ended = loop {
            // What an await is matched on is held as long as its arms last, so none of them awaits.
            let stable = match poll_fn(|cx| attempt.as_mut().poll_event(exchange, cx)).await {
                Event::Ended(ended) => break ended,
                Event::Slow => {
                    exchange.first_attempt_failed(FailureKind::Slow);
                    if tries.may_hedge(exchange, copy.as_ref()) {
                        attempt.as_mut().look();
                    }
                    continue;
                }
                Event::Look => match tries.hedge(exchange) {
                    Hedge::By(stable) => stable,
                    Hedge::NotYet => continue,
                    Hedge::Never => {
                        attempt.as_mut().look_no_more();
                        continue;
                    }
                },
            };
            attempt.as_mut().look_no_more();
            // Boxed: rare, and large.
            match Box::pin(race(exchange, attempt.as_mut(), stable, copy.as_ref())).await {
                Raced::First(ended) => break ended,
                Raced::Second(second) => return Ok(second.take(exchange, &mut tries, stable)),
            }
        };
        let (failure, failed) = match ended {
            Ok(response) => {
                let now = Instant::now();
                // How long a client takes to send its body says nothing about the endpoint.
                if exchange.request_progress().is_none() {
                    endpoint.observe(now - begun, now);
                }
                lease.ended(AttemptEnd::of(response.status(), exchange.is_grpc().then_some(response.headers())));
                exchange.head_received(begun, now);
                if tries.is_first() {
                    // An answer may come before the request has been read.
                    let latency = exchange.request_read_at().map(|read_at| now - begun.max(read_at));
                    exchange.first_attempt_answered(&response, latency);
                }
                match blamed(exchange, &response) {
                    None => {
                        copy.inspect(RequestCopy::give_up);
                        return Ok((response, lease));
                    }
                    Some(status) => (AttemptFailure::Status(status), Failed::Answered(response, lease)),
                }
            }
            Err(Broken::Late(reason)) => (AttemptFailure::Timeout, Failed::Late(reason, lease)),
            Err(Broken::Connection(mut error)) => {
                let address = endpoint.endpoint.display();
                let request_id = exchange.request_id_text();
                debug!(%error, endpoint = %address, %request_id, "no answer");
                let (unsent, why) = (error.take_unsent(), error.why());
                (AttemptFailure::Reset, Failed::Broken { unsent, why, lease })
            }
        };
        match again(exchange, &mut tries, &endpoint, copy, failure, failed)? {
            Again::Pass(response, lease) => return Ok((response, lease)),
            Again::Send(again, after) => (*request, pause) = (again, after),
        }
    }
}

/// What is left of an attempt that failed.
enum Failed {
    /// A head, which can still be passed on.
    Answered(Response<AnswerBody>, Lease),
    Late(Reason, Lease),
    Broken {
        unsent: Option<Request<RequestBody>>,
        why: Why,
        lease: Lease,
    },
}

/// What follows a failure.
enum Again {
    /// After a pause.
    Send(Request<RequestBody>, Duration),
    /// The endpoint's own words for it.
    Pass(Response<AnswerBody>, Lease),
}

/// What to do after an attempt failed.
fn again(
    exchange: &mut Exchange,
    tries: &mut Tries,
    endpoint: &Rc<LocalEndpoint>,
    copy: Option<RequestCopy<'_>>,
    failure: AttemptFailure,
    failed: Failed,
) -> Result<Again, Failure> {
    let copy = copy.filter(RequestCopy::is_whole);
    match failed {
        Failed::Answered(response, lease) => {
            tries.failed(exchange);
            let pause = copy.as_ref().and_then(|_| tries.next(exchange, endpoint, failure, false));
            let request = pause.and_then(|_| copy.as_ref()?.request());
            let Some((request, pause)) = request.zip(pause) else {
                copy.inspect(RequestCopy::give_up);
                return Ok(Again::Pass(response, lease));
            };
            discard(exchange, response, lease);
            Ok(Again::Send(request, pause))
        }
        Failed::Late(reason, mut lease) => {
            // A client that hasn't sent all of its request is late itself.
            if exchange.request_read() {
                tries.failed(exchange);
                lease.ended(AttemptEnd::TimedOut);
            }
            drop(lease);
            let request = copy.zip(tries.next(exchange, endpoint, failure, false));
            let request = request.and_then(|(copy, pause)| Some((copy.request()?, pause)));
            let is_over = exchange.deadline().is_some_and(|deadline| deadline <= Instant::now());
            let (request, pause) = request.ok_or(if is_over { Reason::RequestTimeout } else { reason })?;
            Ok(Again::Send(request, pause))
        }
        Failed::Broken { unsent, why, mut lease } => {
            let reused = lease.reused();
            let broke = Reason::EndpointBroke;
            let fault = exchange.request_progress().and_then(|progress| progress.fault());
            if let Some(fault) = fault.filter(|_| unsent.is_none()) {
                return Err(Reason::of(fault).into());
            }
            let is_unseen = unsent.is_some() || why == Why::NotLookedAt;
            let may_be_sent = unsent.is_some() || copy.is_some();
            if may_be_sent && tries.replay(exchange, endpoint, is_unseen, reused && why == Why::Closed) {
                lease.replay();
                let request = unsent.or_else(|| copy?.request());
                return Ok(Again::Send(request.ok_or(broke)?, Duration::ZERO));
            }
            tries.failed(exchange);
            tries.broke(&mut lease);
            drop(lease);
            if !reused {
                // It isn't age that breaks its connections: those that idle would only break, too, and be replayed.
                endpoint.let_go();
            }
            // What wasn't sent has the form of the connection it wasn't sent on; a copy fits any.
            let copied = copy.and_then(|copy| copy.request());
            tries.fits_all = copied.is_some();
            let request = copied.or(unsent).ok_or(broke)?;
            let pause = tries.next(exchange, endpoint, failure, is_unseen).ok_or(broke)?;
            Ok(Again::Send(request, pause))
        }
    }
}

/// The status that an answer means, where it blames the server. gRPC has its own in a head without a body.
fn blamed(exchange: &Exchange, response: &Response<AnswerBody>) -> Option<StatusCode> {
    if response.status().is_server_error() {
        return Some(response.status());
    }
    if !exchange.is_grpc() {
        return None;
    }
    match response.headers().get(&GRPC_STATUS)?.as_bytes() {
        // UNAVAILABLE
        b"14" => Some(StatusCode::SERVICE_UNAVAILABLE),
        // UNKNOWN, INTERNAL, DATA_LOSS
        b"2" | b"13" | b"15" => Some(StatusCode::INTERNAL_SERVER_ERROR),
        _ => None,
    }
}

/// An answer that isn't passed on. hyper reads the rest of a body that has come already, and otherwise closes.
fn discard(exchange: &Exchange, response: Response<AnswerBody>, mut lease: Lease) {
    drop(response);
    lease.forget_upgrade();
    if exchange.request_read() {
        lease.give_back();
    }
}

/// A connection to one endpoint of the backend that is asked. On failure, the endpoint that can't be connected to.
pub(super) async fn lease(
    exchange: &mut Exchange,
    avoid: &[Rc<LocalEndpoint>],
    freshness: Freshness,
) -> Result<Lease, (Reason, Option<Rc<LocalEndpoint>>)> {
    let backend = exchange.backend_index();
    let (endpoint, permit) = match exchange.limits_of(backend).copied() {
        None => (choose(exchange, backend, avoid).map_err(|reason| (reason, None))?, None),
        Some(limits) => {
            let permit = match queue::enter(exchange, backend, &limits, avoid) {
                Some(permit) => permit,
                // Boxed: rare.
                None => Box::pin(queue::wait(exchange, &limits, avoid)).await.map_err(|reason| (reason, None))?,
            };
            (Rc::clone(permit.endpoint()), Some(permit))
        }
    };
    exchange.attempts(endpoint.endpoint.identity.address);
    let leased = connect(exchange, backend, &endpoint, freshness, permit).await;
    leased.map_err(|reason| {
        (reason, Some(endpoint).filter(|_| !matches!(reason, Reason::RequestTimeout | Reason::Exhausted)))
    })
}

/// An endpoint of a backend, those that were tried last.
fn choose(exchange: &Exchange, backend: usize, tried: &[Rc<LocalEndpoint>]) -> Result<Rc<LocalEndpoint>, Reason> {
    let worker = &exchange.client().worker;
    pick(&exchange.backend_of(backend).endpoints, tried, || worker.draw()).cloned().ok_or(Reason::NoEndpoint)
}

/// A connection to one endpoint of a backend.
async fn connect(
    exchange: &Exchange,
    backend: usize,
    endpoint: &Rc<LocalEndpoint>,
    freshness: Freshness,
    permit: Option<Permit>,
) -> Result<Lease, Reason> {
    // Before anybody else gets here: it was picked a moment ago.
    let trial = endpoint.begin_trial();
    let mut limit = exchange.service().service.config.timeouts.connect;
    if let Some(deadline) = exchange.deadline() {
        limit = limit.min(deadline.saturating_duration_since(Instant::now()));
        if limit.is_zero() {
            return Err(Reason::RequestTimeout);
        }
    }
    let timers = &exchange.client().worker.timers;
    match Lease::acquire(endpoint, timers, limit, freshness, &exchange.client().ends, permit).await {
        Ok(lease) => {
            let lease = lease.on_trial(trial);
            if !lease.reused() {
                endpoint.accepted();
                exchange.cell_of(backend).connects.add(1);
            }
            Ok(lease)
        }
        // No word about the endpoint: whoever is tried with it is tried again.
        Err(error) if error.is_exhaustion() => {
            if let Some(claim) = trial {
                endpoint.put_back(claim);
            }
            Err(Reason::Exhausted)
        }
        Err(error) => {
            let now = Instant::now();
            endpoint.refused(now, &error, trial);
            if error.is_refusal() {
                endpoint.nobody_listens(now);
            }
            exchange.cell_of(backend).connect_errors.add(1);
            Err(match error {
                ConnectError::Timeout => Reason::ConnectTimeout,
                _ => Reason::ConnectFailed,
            })
        }
    }
}
