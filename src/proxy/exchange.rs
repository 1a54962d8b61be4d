//! What happened to one request: collected on the way, recorded once, when dropped. Whatever path a request takes,
//! a client that leaves included, it is counted here and nowhere else.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::Instant;

use super::headers::ResponseAdditions;
use super::identifiers::{Trace, given_id, given_trace, new_id, new_trace, trace_id};
use super::names::RequestNames;
use super::origin::Origin;
use super::reply::Reason;
use super::select::{Draw, Selection};
use super::{Client, compress, target};
use crate::config::{BackendLimits, CompressionConfig, ErrorPages, ServiceConfig, UpstreamProtocol};
use crate::guard::Report;
use crate::mirror::{Chosen, Primary};
use crate::model::{Coding, FailureKind, Format, Weight, grpc_blames_server};
use crate::observe::{AccessLine, BackendCell, CodeClass};
use crate::shadow::AnswerEnd;
use crate::upstream::{BodyLimits, Limiter, LocalEndpoint, RequestBody, RequestProgress};
use crate::worker::{BackendView, ServiceView, View};

/// A client that gives a request up within this time hardly wanted its answer.
const CUT_WITHIN: Duration = Duration::from_secs(1);

/// One request on its way.
#[derive(Debug)]
pub(crate) struct Exchange {
    client: Rc<Client>,
    view: Rc<View>,
    origin: Origin,
    request_id: HeaderValue,
    trace: Trace,
    /// The service that takes it, once known.
    routed: Option<usize>,
    /// Which of the service's routes it took.
    route: Option<u32>,
    /// Service and backend, once known.
    target: Option<(usize, usize)>,
    /// Stable has taken the selected backend's place. Boxed: rare.
    rescue: Option<Box<Rescue>>,
    /// The request takes part in the comparison of its service's backends.
    trial: Option<Trial>,
    started: Instant,
    /// Endpoints asked, replays included.
    attempts: u32,
    /// What it had to wait for before it could be sent on.
    waited: Duration,
    first_byte: Option<Duration>,
    request_progress: Option<Rc<RequestProgress>>,
    status: Option<StatusCode>,
    reason: Option<Reason>,
    received: u64,
    sent: u64,
    lasting: bool,
    /// When the service's limit for a whole request has passed.
    deadline: Option<Instant>,
    /// How long the endpoint may be silent in the middle of its answer.
    silence: Duration,
    version: Version,
    /// The client speaks gRPC and reads failures in its terms.
    is_grpc: bool,
    /// The client wants a head alone.
    is_head: bool,
    /// What the client wants our own answers to be.
    format: Format,
    /// What the client would have the answer compressed with.
    coding: Option<Coding>,
    /// For a client that is new to a sticky service, whatever the answer.
    cookie: Option<Box<HeaderValue>>,
    endpoint: Option<SocketAddr>,
    logged: Option<Box<Logged>>,
    /// Mirrors that get a copy.
    mirrors: Chosen,
    /// The answer is compared with those to copies. Boxed: rare.
    primary: Option<Box<Primary>>,
}

/// A judged request: what was decided about it when its backend was drawn, and what became of its first attempt.
#[derive(Debug, Clone, Copy)]
struct Trial {
    draw: Draw,
    slow_after: Option<Duration>,
    /// Which kinds of failure were reported, as bits.
    reported: u8,
    /// What happens from now on happens to another attempt.
    over: bool,
}

/// How stable came to take another backend's place.
#[derive(Debug)]
struct Rescue {
    /// The backend that was selected.
    selected: usize,
    /// When stable was first asked.
    asked: Instant,
}

/// The parts of a request that only its access line needs.
#[derive(Debug)]
struct Logged {
    time: SystemTime,
    method: Method,
    uri: Uri,
    host: String,
    user_agent: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
}

impl Exchange {
    pub(super) fn begin(client: Rc<Client>, request: &Request<RequestBody>, names: RequestNames) -> Self {
        let view = client.worker.view();
        let forwarding = &view.snapshot.forwarding;
        let origin = Origin::of(&client.forwarded, &forwarding.trust, request, names);
        let given = origin.told.as_ref().and_then(|_| given_id(request.headers())).cloned();
        let request_id = given.unwrap_or_else(|| {
            let mut random = [0; 16];
            client.worker.fill(&mut random);
            new_id(random)
        });
        let trace = if names.traces == 0 && forwarding.trace_sample.is_none() {
            Trace::Untouched
        } else {
            trace(&client, forwarding.trace_sample, request)
        };
        client.activity.request(!request.body().is_empty());
        let logged = client.worker.access_log.as_ref().map(|_| {
            Box::new(Logged {
                time: SystemTime::now(),
                method: request.method().clone(),
                uri: request.uri().clone(),
                host: target::host(request).into_owned(),
                user_agent: request.headers().get(USER_AGENT).cloned(),
                traceparent: match &trace {
                    Trace::Untouched if names.traces > 0 => given_trace(request.headers()).cloned(),
                    Trace::Untouched | Trace::Broken => None,
                    Trace::Started(parent) => Some((**parent).clone()),
                },
            })
        });
        Self {
            view,
            client,
            origin,
            request_id,
            trace,
            routed: None,
            route: None,
            target: None,
            rescue: None,
            trial: None,
            started: Instant::now(),
            attempts: 0,
            waited: Duration::ZERO,
            first_byte: None,
            request_progress: request.body().progress(),
            status: None,
            reason: None,
            received: 0,
            sent: 0,
            lasting: false,
            deadline: None,
            silence: Duration::ZERO,
            version: request.version(),
            is_grpc: *request.method() == Method::POST
                && request.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc")),
            is_head: *request.method() == Method::HEAD,
            format: names.format,
            coding: None,
            cookie: None,
            endpoint: None,
            logged,
            mirrors: Chosen::default(),
            primary: None,
        }
    }

    /// The connection has carried all it may with this request, and HTTP/1 says so in the answer.
    pub(super) fn is_last(&self) -> bool {
        self.client.activity.begun() >= self.view.snapshot.limits.requests_per_connection && !self.is_http2()
    }

    pub(super) fn client(&self) -> &Rc<Client> {
        &self.client
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// The service has been found, and with it what may be done for this client; it may still refuse the request.
    pub(super) fn routed(&mut self, service: usize, route: Option<u32>) {
        self.routed = Some(service);
        self.route = route;
    }

    /// There is nothing for it there after all.
    pub(super) fn unrouted(&mut self) {
        (self.routed, self.route) = (None, None);
    }

    /// An endpoint will be asked: what its answer may be compressed with.
    pub(super) fn negotiate(&mut self, request: &Request<RequestBody>) {
        self.coding = self.compression().and_then(|config| compress::wanted(config, request));
    }

    /// These mirrors get a copy of it.
    pub(super) fn mirrored(&mut self, chosen: Chosen) {
        self.mirrors = chosen;
    }

    pub(super) fn chosen_mirrors(&self) -> Chosen {
        self.mirrors
    }

    /// Its answer is compared with those to its copies.
    pub(super) fn captures(&mut self, primary: Option<Primary>) {
        self.primary = primary.map(Box::new);
    }

    /// The capture of its answer, where that is compared.
    pub(super) fn captured(&mut self) -> Option<&mut Primary> {
        self.primary.as_deref_mut()
    }

    /// Indices of its service and of the backend that is asked, once known.
    pub(super) fn target(&self) -> Option<(usize, usize)> {
        self.target
    }

    /// Index of the service's route that it took.
    pub(super) fn route(&self) -> Option<u32> {
        self.route
    }

    pub(super) fn shared_view(&self) -> &Rc<View> {
        &self.view
    }

    /// It has been waiting, and what it looked at may have changed.
    pub(super) fn look_again(&mut self) {
        self.mirrors = Chosen::default();
        self.view = self.client.worker.view();
        self.routed = None;
    }

    /// It had to wait for so long, which is nobody's latency.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Its service is held.
    pub(super) fn count_held(&self) {
        if let Some(routed) = self.routed {
            self.view.snapshot.services[routed].metrics.cell(self.client.worker.index).held.add(1);
        }
    }

    /// What is left of `limit`, for the whole request.
    pub(super) fn left_of(&self, limit: Duration) -> Duration {
        limit.saturating_sub(self.started.elapsed())
    }

    /// How the service's answers are compressed; `None` where they aren't.
    pub(super) fn compression(&self) -> Option<&CompressionConfig> {
        self.service_config()?.compression.as_ref()
    }

    /// What the answer may be compressed with.
    pub(super) fn coding(&self) -> Option<Coding> {
        self.coding
    }

    /// The configuration of the service that takes the request; `None` where none does.
    pub(super) fn service_config(&self) -> Option<&ServiceConfig> {
        Some(&self.view.snapshot.services[self.routed?].config)
    }

    /// What the client gets from ourselves.
    pub(super) fn error_pages(&self) -> &ErrorPages {
        self.service_config().map_or(&self.view.snapshot.errors, |service| &service.errors)
    }

    pub(super) fn is_head(&self) -> bool {
        self.is_head
    }

    /// Who asks.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// What the request is called, here and at its endpoint.
    pub(super) fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    pub(super) fn request_id_text(&self) -> &str {
        self.request_id.to_str().unwrap_or_default()
    }

    pub(super) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What a browser is told about TLS with this answer.
    pub(super) fn hsts(&self) -> Option<HeaderValue> {
        let service = self.routed.filter(|_| self.origin.secure)?;
        self.view.snapshot.services[service].config.hsts.as_ref()?;
        self.client.worker.service(&self.view, service).hsts.clone()
    }

    /// What the selected service's responses get on their way.
    pub(super) fn additions(&self) -> ResponseAdditions<'_> {
        ResponseAdditions {
            via: self.view.via.as_ref(),
            request_id: self.view.snapshot.forwarding.return_request_id.then_some(&self.request_id),
            changes: self.service().response_headers.as_ref(),
        }
    }

    /// Whether this request is the one that tries out an ejected endpoint of a backend that gets no others. One that
    /// can't be sent twice leaves that to others, nearly always, unless nobody would get to see it: a service may have
    /// no others.
    pub(super) fn claims_trial(&self, service: usize, backend: usize, is_safe: bool) -> bool {
        const UNSAFE_ONE_IN: u64 = 64;
        let worker = &self.client.worker;
        let endpoints = &worker.service(&self.view, service).backends[backend].endpoints;
        let may = |endpoint: &LocalEndpoint| {
            is_safe || endpoint.endpoint.health.refusals() > 0 || worker.draw().is_multiple_of(UNSAFE_ONE_IN)
        };
        endpoints.iter().any(|endpoint| endpoint.endpoint.health.is_due() && may(endpoint) && endpoint.claim())
    }

    pub(super) fn selected(&mut self, service: usize, selection: Selection) {
        self.target = Some((service, selection.backend));
        let judged = &self.view.snapshot.services[service];
        self.trial = selection.draw.filter(|_| judged.backends.len() > 1).map(|draw| Trial {
            draw,
            slow_after: judged.watch.slow_after(),
            reported: 0,
            over: false,
        });
        self.cookie = selection.cookie.map(Box::new);
        if let Some(cell) = self.cell() {
            cell.in_flight.increase();
        }
        let service = &self.view.snapshot.services[service].config;
        let timeouts = &service.timeouts;
        self.deadline = timeouts.request.map(|limit| self.started + limit);
        self.silence = timeouts.body_idle;
        if let Some(progress) = &self.request_progress {
            let max = service.body_max.unwrap_or(u64::MAX);
            // A gRPC call's messages come when they come.
            let limits = if self.is_grpc {
                BodyLimits { idle: self.view.snapshot.timeouts.tunnel_idle, pace: 1, max }
            } else {
                BodyLimits { idle: timeouts.body_idle, pace: self.view.snapshot.limits.body_pace, max }
            };
            progress.limit(limits, &self.client.worker.timers);
        }
    }

    /// Without an answer's head so long after it was written to an open connection, a first attempt is slow. `None`
    /// where nobody compares, or nobody knows yet.
    pub(super) fn slow_after(&self) -> Option<Duration> {
        self.trial?.slow_after
    }

    /// The first attempt failed: evidence about its backend, whatever becomes of the request.
    pub(super) fn first_attempt_failed(&mut self, kind: FailureKind) {
        let (Some(trial), Some((service, backend))) = (&mut self.trial, self.target) else { return };
        let bit = 1 << kind as u8;
        if trial.over || trial.reported & bit != 0 {
            return;
        }
        trial.reported |= bit;
        let key = match trial.draw {
            Draw::Request => None,
            Draw::Client(key) => Some(key.value()),
        };
        self.client.worker.reporter.report(Report {
            service: Arc::clone(&self.view.snapshot.services[service]),
            index: service,
            backend,
            route: self.route,
            kind,
            key,
            request_id: self.request_id.clone(),
            endpoint: self.endpoint,
            at: SystemTime::now(),
        });
    }

    /// The head of the first attempt's answer has come, `latency` after it was written to an open connection.
    pub(super) fn first_attempt_answered<B>(&mut self, response: &Response<B>, latency: Option<Duration>) {
        let Some(trial) = &self.trial else { return };
        let slow = trial.slow_after.zip(latency).is_some_and(|(limit, latency)| latency > limit);
        if let (Some(latency), Some(cell)) = (latency, self.cell()) {
            cell.answer.record(latency);
        }
        if slow {
            self.first_attempt_failed(FailureKind::Slow);
        }
        let status = response.status();
        if status.is_server_error() || (self.is_grpc && grpc_blames_server(response.headers())) {
            self.first_attempt_failed(FailureKind::Server);
        } else if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
            self.first_attempt_failed(FailureKind::Client);
        }
    }

    /// What follows isn't the first attempt any more.
    pub(super) fn first_attempt_over(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.over = true;
        }
    }

    /// The answer's trailers, where gRPC says how a call ended.
    pub(super) fn trailers(&mut self, trailers: &HeaderMap) {
        if self.is_grpc && self.trial.is_some() && grpc_blames_server(trailers) {
            self.first_attempt_failed(FailureKind::Server);
        }
    }

    /// Stable, where it may answer in the selected backend's place: chance chose the backend, stable is another one that
    /// wants requests, and isn't the bad one itself.
    pub(super) fn fallback(&self) -> Option<usize> {
        let (service, backend) = self.target?;
        self.trial?;
        let service = &self.view.snapshot.services[service];
        let stable = service.config.stable;
        let can = stable != backend
            && service.config.attempts.rescue.is_some()
            && service.backends[stable].effective != Weight::ZERO
            && !service.watch.is_rescue_suspended();
        can.then_some(stable)
    }

    /// Stable, whose index this is, takes the place of the selected backend, which gave `code`. For the one the request
    /// has ended, for the other it begins at `asked`.
    pub(super) fn hand_over(&mut self, stable: usize, code: CodeClass, asked: Instant) {
        let Some((service, selected)) = self.target else { return };
        self.first_attempt_over();
        if let Some(cell) = self.cell() {
            cell.count(code);
            cell.duration.record(self.started.elapsed());
            if let Some(first_byte) = self.first_byte {
                cell.first_byte.record(first_byte);
            }
            cell.rescues_under_way.increase();
            cell.in_flight.decrease();
        }
        self.target = Some((service, stable));
        self.rescue = Some(Box::new(Rescue { selected, asked }));
        self.first_byte = None;
        if let Some(cell) = self.cell() {
            cell.in_flight.increase();
        }
    }

    /// The name of the backend that answers, for clients that may know it.
    pub(super) fn told_backend(&self) -> Option<HeaderValue> {
        let (service, backend) = self.target?;
        let service = &self.view.snapshot.services[service];
        let name = service.backends[backend].name.as_str();
        service.config.attempts.tell_backend.then(|| HeaderValue::from_str(name).ok()).flatten()
    }

    /// The answer is meant to last: its end is nobody's deadline, and either side may be silent for long.
    pub(super) fn lasts(&mut self) {
        self.deadline = None;
        self.silence = self.view.snapshot.timeouts.tunnel_idle;
        if let Some(progress) = &self.request_progress {
            progress.relax(self.silence);
        }
    }

    /// When the request has taken as long as it may.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The request has taken longer than it may.
    pub(super) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// How long the endpoint may be silent in the middle of its answer.
    pub(super) fn silence(&self) -> Duration {
        self.silence
    }

    pub(super) fn is_http2(&self) -> bool {
        self.version == Version::HTTP_2
    }

    /// The answer is cut off in its middle. A client of HTTP/1.0 may know its end by the connection's.
    pub(super) fn broken_off(&self) {
        if self.version < Version::HTTP_11 {
            self.client.activity.break_off();
        }
    }

    /// This worker's side of the selected service.
    pub(super) fn service(&self) -> &ServiceView {
        let (service, _) = self.target.expect("asked for only after a selection");
        self.client.worker.service(&self.view, service)
    }

    /// The index of the backend that is asked.
    pub(super) fn backend_index(&self) -> usize {
        let (_, backend) = self.target.expect("asked for only after a selection");
        backend
    }

    /// This worker's side of the backend that is asked.
    pub(super) fn backend(&self) -> &BackendView {
        self.backend_of(self.backend_index())
    }

    /// This worker's side of one of the selected service's backends.
    pub(super) fn backend_of(&self, backend: usize) -> &BackendView {
        &self.service().backends[backend]
    }

    /// The counters of one of the selected service's backends.
    pub(super) fn cell_of(&self, backend: usize) -> &BackendCell {
        self.service().service.backends[backend].metrics.cell(self.client.worker.index)
    }

    /// Stable has taken the selected backend's place.
    pub(super) fn is_rescued(&self) -> bool {
        self.rescue.is_some()
    }

    /// How many requests one of the selected service's backends may have at once; `None`: any number.
    pub(super) fn limits_of(&self, backend: usize) -> Option<&BackendLimits> {
        let (service, _) = self.target?;
        self.view.snapshot.services[service].backends[backend].limits.as_ref()
    }

    /// Counts the requests of one of the selected service's backends.
    pub(super) fn limiter_of(&self, backend: usize) -> &Limiter {
        let (service, _) = self.target.expect("asked for only after a selection");
        &self.view.snapshot.services[service].backends[backend].limiter
    }

    /// Chance chose the backend, so that another one would do as well.
    pub(super) fn is_drawn(&self) -> bool {
        self.trial.is_some()
    }

    /// What the selected backend speaks.
    pub(super) fn protocol(&self) -> UpstreamProtocol {
        self.protocol_of(self.backend_index())
    }

    /// What one of the selected service's backends speaks.
    pub(super) fn protocol_of(&self, backend: usize) -> UpstreamProtocol {
        self.service().service.config.backends[backend].protocol
    }

    /// There is evidence that the selected backend's slow answers won't come.
    pub(super) fn is_suspect(&self) -> bool {
        self.service().service.backends[self.backend_index()].watch.is_suspect()
    }

    /// The selected backend's counters.
    pub(super) fn cell(&self) -> Option<&BackendCell> {
        let (service, backend) = self.target?;
        Some(self.view.snapshot.services[service].backends[backend].metrics.cell(self.client.worker.index))
    }

    pub(super) fn request_progress(&self) -> Option<&Rc<RequestProgress>> {
        self.request_progress.as_ref()
    }

    /// All of the request has been read from the client.
    pub(super) fn request_read(&self) -> bool {
        self.request_progress.as_ref().is_none_or(|progress| progress.ended())
    }

    pub(super) fn take_cookie(&mut self) -> Option<HeaderValue> {
        self.cookie.take().map(|cookie| *cookie)
    }

    pub(super) fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// When the request could be sent on: when it began, later by what it had to wait.
    pub(super) fn started(&self) -> Instant {
        self.started + self.waited
    }

    /// When all of the request had been read from the client; `None` while it hasn't.
    pub(super) fn request_read_at(&self) -> Option<Instant> {
        match &self.request_progress {
            None => Some(self.started()),
            Some(progress) => progress.ended_at(),
        }
    }

    /// An endpoint is about to be asked.
    pub(super) fn attempts(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
        self.attempts += 1;
    }

    /// Stable is about to be asked, too.
    pub(super) fn hedges(&mut self) {
        self.attempts += 1;
        if let Some(cell) = self.cell() {
            cell.hedges.add(1);
        }
    }

    /// The endpoint that was asked, too, is the one that answers.
    pub(super) fn answers(&mut self, endpoint: SocketAddr) {
        self.endpoint = Some(endpoint);
    }

    /// An endpoint's head has come, to what was sent at `begun`.
    pub(super) fn head_received(&mut self, begun: Instant, now: Instant) {
        let read_at = self.request_read_at();
        if let Some(primary) = &mut self.primary {
            primary.answered(read_at.map_or(now, |read_at| read_at.max(begun)), now);
        }
        self.first_byte = Some(now.saturating_duration_since(self.started()));
    }

    pub(super) fn answered(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    pub(super) fn failed(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
        if matches!(reason, Reason::ResponseBroken | Reason::ResponseStalled) {
            self.first_attempt_failed(FailureKind::Server);
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// A tunnel's bytes; its duration says nothing about the backend and isn't recorded.
    pub(super) fn tunnelled(&mut self, received: u64, sent: u64) {
        self.lasting = true;
        self.received += received;
        self.sent += sent;
    }

    fn received(&self) -> u64 {
        self.received + self.request_progress.as_ref().map_or(0, |progress| progress.bytes())
    }

    fn record(&self) {
        let duration = self.started.elapsed();
        // What went before was another backend's.
        let asked = self.rescue.as_ref().map(|rescue| rescue.asked);
        let since = |start: Instant| asked.map_or(Duration::ZERO, |asked| asked.saturating_duration_since(start));
        self.record_rescue();
        if let Some(reason) = self.reason {
            self.client.worker.cell().request_errors[reason].add(1);
        }
        match self.cell() {
            Some(cell) => {
                cell.count(self.status.map_or(CodeClass::None, CodeClass::of));
                cell.in_flight.decrease();
                cell.received.add(self.received());
                cell.sent.add(self.sent);
                if !self.lasting {
                    cell.duration.record(duration.saturating_sub(since(self.started)));
                }
                if let Some(first_byte) = self.first_byte {
                    cell.first_byte.record(first_byte.saturating_sub(since(self.started())));
                }
            }
            // Counted where the service refused it.
            None if self.routed.is_some() => {}
            None => {
                let cell = self.client.worker.cell();
                match self.status {
                    Some(StatusCode::BAD_REQUEST) => cell.refused_bad_request.add(1),
                    Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => cell.refused_head_too_large.add(1),
                    Some(StatusCode::NOT_FOUND) => cell.refused_not_found.add(1),
                    _ => cell.refused_other.add(1),
                }
            }
        }
        if let Some(logged) = &self.logged {
            self.log(logged, duration);
        }
    }

    /// Whether stable did better is to the account of the backend whose place it took.
    fn record_rescue(&self) {
        let (Some((service, _)), Some(rescue)) = (self.target, &self.rescue) else { return };
        let metrics = &self.view.snapshot.services[service].backends[rescue.selected].metrics;
        let cell = metrics.cell(self.client.worker.index);
        let is_answered = self.status.is_some_and(|status| !status.is_server_error());
        if is_answered { &cell.rescues_answered } else { &cell.rescues_failed }.add(1);
        cell.rescues_under_way.decrease();
    }

    fn log(&self, logged: &Logged, duration: Duration) {
        let Some(log) = &self.client.worker.access_log else { return };
        let service = self.routed.map(|service| &self.view.snapshot.services[service]);
        let backend = service.zip(self.target).map(|(service, (_, backend))| service.backends[backend].name.as_str());
        let selected = service.zip(self.rescue.as_ref());
        let selected = selected.map(|(service, rescue)| service.backends[rescue.selected].name.as_str());
        log.write(&AccessLine {
            time: humantime::format_rfc3339_millis(logged.time).to_string(),
            client: self.origin.address,
            request_id: self.request_id_text(),
            trace_id: logged.traceparent.as_ref().and_then(trace_id),
            protocol: target::protocol(self.version),
            method: logged.method.as_str(),
            host: &logged.host,
            path: logged.uri.path_and_query().map_or("", |path| path.as_str()),
            service: service.map(|service| service.name().as_str()),
            backend,
            selected,
            attempts: Some(self.attempts).filter(|attempts| *attempts > 1),
            endpoint: self.endpoint,
            status: self.status.map(|status| status.as_u16()),
            error: self.reason.map(Reason::label),
            duration_ms: millis(duration),
            first_byte_ms: self.first_byte.map(millis),
            received_bytes: self.received(),
            sent_bytes: self.sent,
            client_cert: self.client.certificate(),
            user_agent: logged.user_agent.as_ref().and_then(|value| value.to_str().ok()),
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Nobody waits for the answer any more: the client left, or we close its connection.
            self.failed(if self.client.lifeline.is_closed() { Reason::Shutdown } else { Reason::ClientLeft });
            if self.reason == Some(Reason::ClientLeft) && self.endpoint.is_some() {
                self.first_attempt_failed(FailureKind::Abandoned);
            }
        }
        if self.reason == Some(Reason::ClientLeft) && self.started.elapsed() < CUT_WITHIN {
            self.client.activity.request_cut();
        }
        self.client.activity.request_ended(self.request_read());
        if let Some(primary) = self.primary.take() {
            primary.tell(self.status, unfinished(self.reason), self.target.map_or(0, |(_, backend)| backend));
        }
        self.record();
    }
}

/// How an answer ended that wasn't passed on whole.
fn unfinished(reason: Option<Reason>) -> AnswerEnd {
    match reason {
        Some(Reason::RequestTimeout | Reason::ResponseTimeout | Reason::ResponseStalled) => AnswerEnd::TimedOut,
        // For what the client did, or we did to it.
        None
        | Some(
            Reason::ClientLeft
            | Reason::ClientStalled
            | Reason::Shutdown
            | Reason::RequestBroken
            | Reason::RequestStalled
            | Reason::BodyTooLarge,
        ) => AnswerEnd::Aborted,
        Some(reason) => AnswerEnd::Failed(reason.label()),
    }
}

/// What becomes of the trace of a request that has one, or gets one.
fn trace(client: &Client, sample: Option<f64>, request: &Request<RequestBody>) -> Trace {
    match (given_trace(request.headers()), sample) {
        (Some(_), _) => Trace::Untouched,
        (None, None) => Trace::Broken,
        (None, Some(share)) => {
            let mut random = [0; 24];
            client.worker.fill(&mut random);
            // The 53 bits that a float between 0 and 1 can hold.
            let drawn = (client.worker.draw() >> 11) as f64 / (1_u64 << 53) as f64;
            Trace::Started(Box::new(new_trace(random, drawn < share)))
        }
    }
}

/// To the microsecond: what a person compares, not what a float can hold.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
