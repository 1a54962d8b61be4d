//! The text that Prometheus scrapes.
//!
//! Counters and gauges go through the `metrics` facade into its exporter, as absolute values at each scrape, so
//! that the request path never meets them. Each page has a recorder of its own: one that lived on would go on
//! showing backends that are gone, and would not let a counter that starts anew fall. Histograms are rendered here
//! and appended: the exporter's own would have to be fed one observation at a time.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Label, counter, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::{
    BackendTotals, CodeClass, ConnectionError, ConnectionLimit, HandshakeError, HistogramTotals, MirrorDrop,
    MirrorTotals, PairDrop, ProcessMetrics, Reason,
};
use crate::model::Weight;
use crate::state::{Backend, Mirror, Service, Snapshot};
use crate::upstream::Endpoint;

/// Renders everything that is counted.
#[derive(Debug)]
pub struct Renderer {
    process: Arc<ProcessMetrics>,
}

impl Renderer {
    #[must_use]
    pub fn new(process: Arc<ProcessMetrics>) -> Self {
        Self { process }
    }

    /// The whole page.
    #[must_use]
    pub fn render(&self, snapshot: &Snapshot) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let mut histograms = Histograms::default();
        with_local_recorder(&recorder, || {
            describe();
            self.process(snapshot);
            for service in &snapshot.services {
                record_service(service);
                for backend in &service.backends {
                    let totals = backend.metrics.totals();
                    record_backend(service, backend, &totals);
                    histograms.add(service, backend, &totals);
                }
                for mirror in service.mirrors.iter().flatten() {
                    let totals = mirror.metrics.totals();
                    record_mirror(service, mirror, &totals);
                    histograms.add_mirror(service, mirror, &totals);
                }
            }
        });
        let mut page = recorder.handle().render();
        histograms.write(&mut page);
        page
    }

    fn process(&self, snapshot: &Snapshot) {
        let process = &self.process;
        let totals = process.totals();
        gauge!("tidegate_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        gauge!("tidegate_start_time_seconds").set(unix_seconds(process.started));
        gauge!("tidegate_workers").set(process.workers.len() as f64);
        gauge!("tidegate_memory_bytes").set(process.memory.used() as f64);
        gauge!("tidegate_memory_limit_bytes").set(process.memory.limit() as f64);
        gauge!("tidegate_mirror_memory_bytes").set(process.mirror_memory.used() as f64);
        gauge!("tidegate_overload").set(f64::from(process.memory.overload() as u8));
        gauge!("tidegate_open_files").set(process.headroom.files().used as f64);
        gauge!("tidegate_open_files_limit").set(process.headroom.files().limit as f64);
        gauge!("tidegate_headroom").set(f64::from(u8::from(process.headroom.suffices())));
        gauge!("tidegate_snapshot_version").set(snapshot.version as f64);
        gauge!("tidegate_connections_open").set(totals.connections_open as f64);
        gauge!("tidegate_connections_parked").set(totals.connections_parked as f64);
        gauge!("tidegate_tunnels_open").set(totals.tunnels_open as f64);
        counter!("tidegate_connections_accepted_total").absolute(totals.connections_accepted);
        counter!("tidegate_accept_errors_total").absolute(process.sum(|w| w.accept_errors.value()));
        for cause in ConnectionLimit::ALL {
            let count = process.sum(|w| w.connections_refused[*cause as usize].value());
            counter!("tidegate_connections_refused_total", "limit" => cause.label()).absolute(count);
        }
        for cause in ConnectionError::ALL {
            let count = process.sum(|w| w.connection_errors[*cause as usize].value());
            counter!("tidegate_connection_errors_total", "reason" => cause.label()).absolute(count);
        }
        for cause in HandshakeError::ALL {
            let count = process.sum(|w| w.tls_handshake_errors[*cause as usize].value());
            counter!("tidegate_tls_handshake_errors_total", "reason" => cause.label()).absolute(count);
        }
        for reason in Reason::ALL {
            let count = process.sum(|w| w.request_errors[*reason].value());
            counter!("tidegate_request_errors_total", "reason" => reason.label()).absolute(count);
        }
        let refused = "tidegate_requests_refused_total";
        counter!(refused, "code" => "400").absolute(process.sum(|w| w.refused_bad_request.value()));
        counter!(refused, "code" => "404").absolute(process.sum(|w| w.refused_not_found.value()));
        counter!(refused, "code" => "408").absolute(process.sum(|w| w.refused_timeout.value()));
        counter!(refused, "code" => "431").absolute(process.sum(|w| w.refused_head_too_large.value()));
        counter!(refused, "code" => "other").absolute(process.sum(|w| w.refused_other.value()));
        gauge!("tidegate_compressions").set(process.sum(|w| w.compressions.value()) as f64);
        counter!("tidegate_compressions_skipped_total").absolute(process.sum(|w| w.compressions_skipped.value()));
        let last = process.last_reload.lock().expect("no holder of this lock panics");
        let reloads = "tidegate_reloads_total";
        counter!(reloads, "result" => "applied").absolute(process.reloads_applied.load(Ordering::Relaxed));
        counter!(reloads, "result" => "refused").absolute(process.reloads_refused.load(Ordering::Relaxed));
        if let Some((at, outcome)) = &*last {
            let applied = matches!(outcome, super::ReloadOutcome::Applied { .. });
            gauge!("tidegate_last_reload_successful").set(f64::from(u8::from(applied)));
            gauge!("tidegate_last_reload_time_seconds").set(unix_seconds(*at));
        }
        self.journal();
        self.notifications();
        self.guard();
        self.shadows();
        self.rollouts();
        self.dora();
        counter!("tidegate_access_log_dropped_total").absolute(process.access_log_dropped.load(Ordering::Relaxed));
        counter!("tidegate_resolve_errors_total").absolute(process.resolve_errors.load(Ordering::Relaxed));
    }

    fn journal(&self) {
        let journal = &self.process.journal;
        counter!("tidegate_journal_written_total").absolute(journal.written.load(Ordering::Relaxed));
        counter!("tidegate_journal_errors_total").absolute(journal.errors.load(Ordering::Relaxed));
        counter!("tidegate_journal_dropped_total").absolute(journal.dropped.load(Ordering::Relaxed));
        gauge!("tidegate_journal_backlog").set(journal.backlog.load(Ordering::Relaxed) as f64);
        gauge!("tidegate_journal_usable").set(f64::from(u8::from(journal.usable.load(Ordering::Relaxed))));
    }

    fn notifications(&self) {
        for (sink, totals) in self.process.notify.totals() {
            let labels = || vec![Label::new("sink", sink.clone())];
            counter!("tidegate_notify_delivered_total", labels()).absolute(totals.delivered);
            counter!("tidegate_notify_failed_total", labels()).absolute(totals.failed);
            counter!("tidegate_notify_skipped_total", labels()).absolute(totals.skipped);
            gauge!("tidegate_notify_waiting", labels()).set(totals.waiting as f64);
        }
    }

    fn guard(&self) {
        let guard = &self.process.guard;
        counter!("tidegate_guard_drains_total").absolute(guard.drains.load(Ordering::Relaxed));
        counter!("tidegate_guard_suspensions_total").absolute(guard.suspensions.load(Ordering::Relaxed));
        counter!("tidegate_guard_would_drain_total").absolute(guard.would_drain.load(Ordering::Relaxed));
        counter!("tidegate_guard_alarms_total").absolute(guard.alarms.load(Ordering::Relaxed));
        counter!("tidegate_guard_reports_dropped_total").absolute(guard.dropped.load(Ordering::Relaxed));
    }

    /// The latest of each service.
    fn rollouts(&self) {
        let services = self.process.rollout.services.lock().expect("no holder of this lock panics");
        for rollout in &*services {
            let service = || Label::new("service", rollout.service.clone());
            let state = vec![service(), Label::new("state", rollout.state)];
            gauge!("tidegate_rollout_state", state).set(1.0);
            gauge!("tidegate_rollout_step", vec![service()]).set(rollout.step as f64);
            gauge!("tidegate_rollout_steps", vec![service()]).set(rollout.steps as f64);
            gauge!("tidegate_rollout_share", vec![service()]).set(rollout.share);
            for (outcome, count) in &rollout.ended {
                let labels = vec![service(), Label::new("outcome", *outcome)];
                counter!("tidegate_rollouts_total", labels).absolute(*count);
            }
        }
    }

    fn dora(&self) {
        for sample in self.process.dora.samples() {
            let labels = || vec![Label::new("service", sample.service.clone())];
            gauge!("tidegate_dora_deployments", labels()).set(sample.deployments as f64);
            gauge!("tidegate_dora_deployments_per_day", labels()).set(sample.deployments_per_day);
            let known = [
                ("tidegate_dora_lead_time_seconds", sample.lead_time_seconds),
                ("tidegate_dora_change_failure_ratio", sample.change_failure_ratio),
                ("tidegate_dora_time_to_restore_seconds", sample.time_to_restore_seconds),
            ];
            for (name, value) in known {
                if let Some(value) = value {
                    gauge!(name, labels()).set(value);
                }
            }
        }
    }

    /// Comparisons under way.
    fn shadows(&self) {
        let shadow = &self.process.shadow;
        let mirrors = shadow.mirrors.lock().expect("no holder of this lock panics");
        for mirror in &*mirrors {
            let labels = |name: &'static str, value: &'static str| {
                let service = Label::new("service", mirror.service.clone());
                vec![service, Label::new("backend", mirror.backend.clone()), Label::new(name, value)]
            };
            for (result, count) in [("same", mirror.same), ("different", mirror.different), ("skipped", mirror.skipped)]
            {
                counter!("tidegate_shadow_pairs_total", labels("result", result)).absolute(count);
            }
            for (state, count) in [("seen", mirror.fields), ("different", mirror.fields_found)] {
                gauge!("tidegate_shadow_fields", labels("state", state)).set(count as f64);
            }
            gauge!("tidegate_shadow_verdict", labels("verdict", mirror.verdict)).set(1.0);
            let mut plain = labels("", "");
            plain.pop();
            gauge!("tidegate_shadow_difference_at_most", plain).set(mirror.difference_at_most);
        }
    }
}

/// What isn't configured isn't shown.
fn record_service(service: &Service) {
    let labels = || vec![Label::new("service", service.name().as_str().to_owned())];
    let (config, metrics) = (&service.config, &service.metrics);
    gauge!("tidegate_service_panicking", labels()).set(f64::from(u8::from(service.panicking)));
    counter!("tidegate_service_panics_total", labels()).absolute(service.watch.panics());
    if let Some(limit) = service.watch.slow_after() {
        gauge!("tidegate_slow_seconds", labels()).set(limit.as_secs_f64());
    }
    if config.access.is_some() {
        counter!("tidegate_requests_denied_total", labels()).absolute(metrics.sum(|cell| cell.denied.value()));
    }
    if config.https_redirect.is_some() {
        counter!("tidegate_requests_redirected_total", labels()).absolute(metrics.sum(|cell| cell.redirected.value()));
    }
    let maintenance_answers = metrics.sum(|cell| cell.maintenance_answers.value());
    // Also after it is over: the last of them haven't been scraped yet.
    if config.maintenance.is_some() || maintenance_answers > 0 {
        counter!("tidegate_maintenance_answers_total", labels()).absolute(maintenance_answers);
    }
    if config.body_max.is_some() {
        counter!("tidegate_requests_too_large_total", labels()).absolute(metrics.sum(|cell| cell.too_large.value()));
    }
    let held = metrics.sum(|cell| cell.held.value());
    if service.hold.is_some() || held > 0 {
        let waiting = service.hold.as_ref().map_or(0, |hold| hold.counts().waiting);
        gauge!("tidegate_requests_held", labels()).set(waiting as f64);
        counter!("tidegate_requests_held_total", labels()).absolute(held);
    }
    if !service.rate_limits.is_empty() {
        let limits = || service.rate_limits.iter();
        counter!("tidegate_requests_limited_total", labels()).absolute(metrics.sum(|cell| cell.limited.value()));
        counter!("tidegate_rate_limit_overflows_total", labels()).absolute(limits().map(|l| l.overflows()).sum());
        gauge!("tidegate_rate_limit_clients", labels()).set(limits().map(|l| l.clients()).sum::<usize>() as f64);
    }
}

fn record_backend(service: &Service, backend: &Backend, totals: &BackendTotals) {
    let labels = || labels(service, backend);
    let with = |label: Label| labels().into_iter().chain([label]).collect::<Vec<_>>();
    for (class, count) in CodeClass::ALL.iter().zip(totals.codes) {
        // A class is shown once it has been seen; 2xx always, so that a rate exists from the start.
        if count > 0 || *class == CodeClass::Success {
            let code = Label::from_static_parts("code", class.label());
            counter!("tidegate_requests_total", with(code)).absolute(count);
        }
    }
    gauge!("tidegate_requests_in_flight", labels()).set(totals.in_flight as f64);
    counter!("tidegate_request_bytes_total", labels()).absolute(totals.received);
    counter!("tidegate_response_bytes_total", labels()).absolute(totals.sent);
    counter!("tidegate_upstream_connects_total", labels()).absolute(totals.connects);
    counter!("tidegate_upstream_connect_errors_total", labels()).absolute(totals.connect_errors);
    counter!("tidegate_upstream_replays_total", labels()).absolute(totals.replays);
    counter!("tidegate_retries_total", labels()).absolute(totals.retries);
    for (result, count) in [("answered", totals.rescues_answered), ("failed", totals.rescues_failed)] {
        counter!("tidegate_rescues_total", with(Label::from_static_parts("result", result))).absolute(count);
    }
    counter!("tidegate_hedges_total", labels()).absolute(totals.hedges);
    counter!("tidegate_retry_budget_exhausted_total", labels()).absolute(totals.budget_exhausted);
    if backend.limits.is_some() || totals.queue_full + totals.queue_timeouts > 0 {
        gauge!("tidegate_requests_queued", labels()).set(f64::from(backend.limiter.queued()));
        counter!("tidegate_queue_full_total", labels()).absolute(totals.queue_full);
        counter!("tidegate_queue_timeouts_total", labels()).absolute(totals.queue_timeouts);
    }
    gauge!("tidegate_backend_endpoints", labels()).set(backend.endpoints.len() as f64);
    let weight = |kind: &'static str, weight: Weight| {
        gauge!("tidegate_backend_weight", with(Label::from_static_parts("kind", kind))).set(weight.value());
    };
    weight("configured", backend.configured);
    weight("effective", backend.effective);
    gauge!("tidegate_backend_drained", labels()).set(f64::from(u8::from(backend.is_drained())));
    if service.backends.len() > 1 && backend.name != service.stable().name {
        gauge!("tidegate_guard_e_value", labels()).set(backend.watch.e_value());
    }
    if let Some(limit) = backend.overflow_limit {
        gauge!("tidegate_backend_overflow_limit", labels()).set(f64::from(limit));
    }
    let checked = service.config.backends.iter().any(|b| b.name == backend.name && b.health.is_some());
    for endpoint in &backend.endpoints {
        record_endpoint(endpoint, checked, &with(Label::new("endpoint", endpoint.display())));
    }
}

fn record_mirror(service: &Service, mirror: &Mirror, totals: &MirrorTotals) {
    let labels = || {
        let service = Label::new("service", service.name().as_str().to_owned());
        vec![service, Label::new("mirror", mirror.backend.as_str().to_owned())]
    };
    let with = |name, value| labels().into_iter().chain([Label::from_static_parts(name, value)]).collect::<Vec<_>>();
    for (class, count) in CodeClass::ALL.iter().zip(totals.codes) {
        // As for requests.
        if count > 0 || *class == CodeClass::Success {
            counter!("tidegate_mirror_copies_total", with("code", class.label())).absolute(count);
        }
    }
    for (why, count) in MirrorDrop::ALL.iter().zip(totals.dropped) {
        counter!("tidegate_mirror_dropped_total", with("reason", why.label())).absolute(count);
    }
    gauge!("tidegate_mirror_in_flight", labels()).set(mirror.places.taken() as f64);
    gauge!("tidegate_mirror_held_back", labels()).set(f64::from(u8::from(mirror.breaker.is_open())));
    gauge!("tidegate_mirror_percent", labels()).set(mirror.percent.value());
    if mirror.config.compare.is_some() {
        counter!("tidegate_mirror_noise_total", labels()).absolute(totals.noise);
        counter!("tidegate_mirror_pairs_total", labels()).absolute(totals.pairs);
        for (why, count) in PairDrop::ALL.iter().zip(totals.pairs_dropped) {
            counter!("tidegate_mirror_pairs_dropped_total", with("reason", why.label())).absolute(count);
        }
    }
}

fn record_endpoint(endpoint: &Endpoint, checked: bool, labels: &[Label]) {
    let labels = || labels.to_vec();
    let notes = endpoint.health.notes();
    gauge!("tidegate_endpoint_up", labels()).set(f64::from(u8::from(endpoint.health.is_available())));
    counter!("tidegate_endpoint_ejections_total", labels()).absolute(notes.ejections);
    if checked {
        counter!("tidegate_endpoint_checks_total", labels()).absolute(notes.checks);
        counter!("tidegate_endpoint_checks_failed_total", labels()).absolute(notes.checks_failed);
    }
}

fn labels(service: &Service, backend: &Backend) -> Vec<Label> {
    vec![
        Label::new("service", service.name().as_str().to_owned()),
        Label::new("backend", backend.name.as_str().to_owned()),
    ]
}

fn describe() {
    use metrics::{describe_counter as counter, describe_gauge as gauge};
    counter!("tidegate_requests_total", "Requests answered, by service, backend and class of status code.");
    counter!("tidegate_requests_refused_total", "Requests refused before a service was found.");
    counter!("tidegate_request_errors_total", "Requests answered in an endpoint's place or broken off, by reason.");
    counter!("tidegate_maintenance_answers_total", "Requests answered in place of a service under maintenance.");
    gauge!("tidegate_compressions", "Answers under compression.");
    counter!("tidegate_compressions_skipped_total", "Answers not compressed because too many were at once.");
    counter!("tidegate_requests_denied_total", "Requests of clients that the service's access lists don't let in.");
    counter!("tidegate_requests_redirected_total", "Requests without TLS that were sent to https.");
    counter!("tidegate_requests_too_large_total", "Requests refused because their body was said to be too large.");
    counter!("tidegate_requests_limited_total", "Requests refused because their client had used up a rate limit.");
    gauge!("tidegate_requests_held", "Requests that wait because their service is held.");
    counter!("tidegate_requests_held_total", "Requests that waited because their service was held.");
    counter!("tidegate_rate_limit_overflows_total", "Requests that found no place in a rate limit's table of clients.");
    gauge!("tidegate_rate_limit_clients", "Clients that rate limits keep apart now.");
    gauge!("tidegate_requests_in_flight", "Requests begun and not ended.");
    counter!("tidegate_request_bytes_total", "Bytes of request bodies.");
    counter!("tidegate_response_bytes_total", "Bytes of response bodies.");
    counter!("tidegate_upstream_connects_total", "Connections opened to endpoints.");
    counter!("tidegate_upstream_connect_errors_total", "Connections to endpoints that could not be opened.");
    counter!("tidegate_upstream_replays_total", "Requests sent again after an idle connection turned out closed.");
    counter!("tidegate_retries_total", "Requests sent again to another endpoint of the backend.");
    counter!("tidegate_rescues_total", "Requests of a failed backend that stable was given, by result.");
    counter!("tidegate_hedges_total", "Requests that stable was asked for, too, because the backend didn't answer.");
    counter!(
        "tidegate_retry_budget_exhausted_total",
        "Failures passed on because the service had no more to spend on another attempt."
    );
    gauge!("tidegate_requests_queued", "Requests that wait because their backend is at its limit.");
    counter!("tidegate_queue_full_total", "Requests refused because as many waited for their backend as may.");
    counter!("tidegate_queue_timeouts_total", "Requests refused because they waited for their backend in vain.");
    gauge!("tidegate_backend_endpoints", "Endpoints a backend has now.");
    gauge!("tidegate_backend_weight", "Weight of a backend: configured by the file, effective for requests.");
    gauge!(
        "tidegate_backend_overflow_limit",
        "Requests a backend may have under way while a larger one's share falls to it."
    );
    gauge!("tidegate_endpoint_up", "1 if the endpoint gets requests; 0: drained, its checks fail, or it is ejected.");
    counter!("tidegate_endpoint_ejections_total", "Times an endpoint was ejected for what its requests came to.");
    counter!("tidegate_endpoint_checks_total", "Health checks of an endpoint.");
    counter!("tidegate_endpoint_checks_failed_total", "Health checks of an endpoint that failed.");
    gauge!("tidegate_service_panicking", "1 while no endpoint of a service is available and all of them are used.");
    counter!("tidegate_service_panics_total", "Times no endpoint of a service was available any more.");
    gauge!("tidegate_backend_drained", "1 while a backend gets no new requests, whatever its weight.");
    gauge!("tidegate_guard_e_value", "Evidence that a backend is worse than stable: 1 when there is none.");
    gauge!("tidegate_slow_seconds", "From when on an answer is slow, as the guard sees it.");
    counter!("tidegate_guard_drains_total", "Backends that the guard has drained.");
    counter!("tidegate_guard_suspensions_total", "Backends that got nothing for a while because they stood still.");
    counter!("tidegate_guard_would_drain_total", "Backends that the guard would have drained, if it were allowed to.");
    counter!("tidegate_guard_alarms_total", "How often stable was found to fail more often than a candidate.");
    counter!("tidegate_guard_reports_dropped_total", "Failures that nobody judged because too many waited.");
    counter!("tidegate_shadow_pairs_total", "Answers of a mirror's present revision, by what comparing them showed.");
    gauge!("tidegate_shadow_fields", "Fields of answers that differed at all, and those that really do.");
    gauge!(
        "tidegate_shadow_difference_at_most",
        "Part of the answers that really differs at most, as far as is known."
    );
    gauge!("tidegate_rollout_state", "Always 1; how a service's latest rollout stands is in the label.");
    gauge!("tidegate_rollout_step", "The step that it is at, from 1; 0 before the first and after the last.");
    gauge!("tidegate_rollout_steps", "Steps of its plan.");
    gauge!("tidegate_rollout_share", "The candidate's part of what it shares with stable, from 0 to 1.");
    counter!("tidegate_rollouts_total", "Rollouts that have ended, by how.");
    gauge!("tidegate_shadow_verdict", "Always 1; whether a mirror's backend is the same as stable is in the label.");
    counter!("tidegate_mirror_copies_total", "Copies of requests whose answers were read, by class of status code.");
    counter!("tidegate_mirror_dropped_total", "Copies not sent, or whose answers weren't read to the end, by reason.");
    gauge!("tidegate_mirror_in_flight", "Copies of requests under way.");
    gauge!("tidegate_mirror_held_back", "1 while a mirror's backend gets only probes, since it has broken every copy.");
    gauge!("tidegate_mirror_percent", "Share of the requests that is copied, in percent.");
    counter!("tidegate_mirror_noise_total", "Second copies sent to the backends that answered.");
    counter!("tidegate_mirror_pairs_total", "Pairs of answers handed on to be compared.");
    counter!("tidegate_mirror_pairs_dropped_total", "Pairs of answers that weren't compared, by reason.");
    gauge!("tidegate_mirror_memory_bytes", "Bytes of bodies that mirrors hold.");
    gauge!("tidegate_memory_bytes", "Memory in use.");
    gauge!("tidegate_memory_limit_bytes", "Memory that may be in use.");
    gauge!("tidegate_open_files", "Files that are open.");
    gauge!("tidegate_open_files_limit", "Files that may be open.");
    gauge!("tidegate_headroom", "Whether there is enough memory and files to spare for copies of requests: 1, or 0.");
    gauge!("tidegate_overload", "What is refused for lack of memory: 0 nothing, 1 requests, 2 connections, too.");
    gauge!("tidegate_connections_open", "Client connections open.");
    gauge!("tidegate_connections_parked", "Client connections that idle and hold almost no memory.");
    counter!("tidegate_connections_accepted_total", "Client connections accepted.");
    counter!("tidegate_accept_errors_total", "Failed accepts: the system ran out of something.");
    counter!("tidegate_connections_refused_total", "Client connections closed at once, by the limit they were over.");
    counter!("tidegate_connection_errors_total", "Client connections ended for what came on them, by reason.");
    counter!("tidegate_tls_handshake_errors_total", "TLS handshakes with clients that failed, by reason.");
    gauge!("tidegate_tunnels_open", "WebSockets and other upgraded connections open.");
    counter!("tidegate_reloads_total", "Reloads of the configuration, by result.");
    gauge!("tidegate_last_reload_successful", "1 if the last reload was applied, 0 if it was refused.");
    gauge!("tidegate_last_reload_time_seconds", "Unix time of the last reload.");
    counter!("tidegate_journal_written_total", "Events written to the journal.");
    counter!("tidegate_journal_errors_total", "Failed tries to write to the journal.");
    counter!("tidegate_journal_dropped_total", "Events given up because too many waited to be written.");
    gauge!("tidegate_journal_backlog", "Events that wait to be written.");
    gauge!(
        "tidegate_journal_usable",
        "1 if the journal is in use; 0: everything goes to stable, and nothing can be moved away from it."
    );
    counter!("tidegate_notify_delivered_total", "Events that a sink has taken.");
    counter!("tidegate_notify_failed_total", "Failed attempts to tell a sink of an event.");
    counter!("tidegate_notify_skipped_total", "Events that a sink will never hear of.");
    gauge!("tidegate_notify_waiting", "Events that wait for a sink.");
    gauge!("tidegate_dora_deployments", "Changes of the last 30 days that got all requests.");
    gauge!("tidegate_dora_deployments_per_day", "The same, by day.");
    gauge!("tidegate_dora_lead_time_seconds", "Median from commit to all requests, of the last 30 days.");
    gauge!("tidegate_dora_change_failure_ratio", "Part of the last 30 days' changes that failed.");
    gauge!(
        "tidegate_dora_time_to_restore_seconds",
        "Median from the first failed request to the end of a failed change, of the last 30 days."
    );
    gauge!("tidegate_snapshot_version", "Version of what requests see.");
    gauge!("tidegate_build_info", "Always 1; the version is in the label.");
    gauge!("tidegate_start_time_seconds", "Unix time at which the process started.");
    gauge!("tidegate_workers", "Data-plane threads.");
    counter!("tidegate_access_log_dropped_total", "Access log lines dropped because the output can't keep up.");
    counter!("tidegate_resolve_errors_total", "Host names that could not be resolved.");
}

/// Histograms of all backends, family by family, as the format wants them.
#[derive(Default)]
struct Histograms {
    duration: String,
    first_byte: String,
    mirror: String,
}

const DURATION: &str = "tidegate_request_duration_seconds";
const FIRST_BYTE: &str = "tidegate_time_to_first_byte_seconds";
const MIRROR: &str = "tidegate_mirror_duration_seconds";

impl Histograms {
    fn add(&mut self, service: &Service, backend: &Backend, totals: &BackendTotals) {
        // Names need no escaping in labels: they are checked where they are read.
        let labels = format!("service=\"{}\",backend=\"{}\"", service.name(), backend.name);
        write_histogram(&mut self.duration, DURATION, &labels, &totals.duration);
        write_histogram(&mut self.first_byte, FIRST_BYTE, &labels, &totals.first_byte);
    }

    fn add_mirror(&mut self, service: &Service, mirror: &Mirror, totals: &MirrorTotals) {
        let labels = format!("service=\"{}\",mirror=\"{}\"", service.name(), mirror.backend);
        write_histogram(&mut self.mirror, MIRROR, &labels, &totals.duration);
    }

    fn write(&self, page: &mut String) {
        let families = [
            (DURATION, "Requests begun to responses ended, without tunnels.", &self.duration),
            (FIRST_BYTE, "Requests begun to response heads received.", &self.first_byte),
            (MIRROR, "Copies of requests sent to their answers read.", &self.mirror),
        ];
        for (name, help, samples) in families {
            if !samples.is_empty() {
                *page += &format!("# HELP {name} {help}\n# TYPE {name} histogram\n{samples}\n");
            }
        }
    }
}

fn write_histogram(page: &mut String, name: &str, labels: &str, totals: &HistogramTotals) {
    if totals.count() == 0 {
        return;
    }
    // Writing to a string can't fail.
    for (upper_s, count) in totals.cumulative() {
        let _ = writeln!(page, "{name}_bucket{{{labels},le=\"{upper_s}\"}} {count}");
    }
    let count = totals.count();
    let _ = writeln!(page, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
    let _ = writeln!(page, "{name}_sum{{{labels}}} {}", totals.sum().as_secs_f64());
    let _ = writeln!(page, "{name}_count{{{labels}}} {count}");
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
