//! A request's place at a backend whose concurrency is limited: at once where there is room, else in line.

use std::rc::Rc;

use tokio::time::Instant;

use super::exchange::Exchange;
use super::reply::Reason;
use crate::config::BackendLimits;
use crate::upstream::{LocalEndpoint, NoRoom, Permit, pick};

/// A place at a backend of the selected service, at once; nobody overtakes those in line.
pub(super) fn enter(
    exchange: &Exchange,
    backend: usize,
    limits: &BackendLimits,
    avoid: &[Rc<LocalEndpoint>],
) -> Option<Permit> {
    let limiter = exchange.limiter_of(backend);
    if limiter.queued() > 0 {
        return None;
    }
    let permit = place(exchange, backend, limits, avoid);
    if permit.is_none() {
        limiter.nudge();
    }
    permit
}

/// A place at the backend that is asked, after a wait.
pub(super) async fn wait(
    exchange: &mut Exchange,
    limits: &BackendLimits,
    avoid: &[Rc<LocalEndpoint>],
) -> Result<Permit, Reason> {
    let began = Instant::now();
    let left = exchange.deadline().map(|deadline| deadline.saturating_duration_since(began));
    let limit = left.map_or(limits.queue_timeout, |left| left.min(limits.queue_timeout));
    let timers = &exchange.client().worker.timers;
    let backend = exchange.backend_index();
    let limiter = exchange.limiter_of(backend);
    let waited = limiter.wait(limits.queue, limit, timers, || place(exchange, backend, limits, avoid)).await;
    exchange.waited(began.elapsed());
    waited.map_err(|no_room| {
        let cell = exchange.cell();
        match no_room {
            NoRoom::Full => {
                cell.inspect(|cell| cell.queue_full.add(1));
                Reason::QueueFull
            }
            NoRoom::Late => {
                cell.inspect(|cell| cell.queue_timeouts.add(1));
                let late = exchange.deadline().is_some_and(|deadline| deadline <= Instant::now());
                if late { Reason::RequestTimeout } else { Reason::QueueTimeout }
            }
        }
    })
}

fn place(exchange: &Exchange, backend: usize, limits: &BackendLimits, avoid: &[Rc<LocalEndpoint>]) -> Option<Permit> {
    let worker = &exchange.client().worker;
    let endpoints = &exchange.backend_of(backend).endpoints;
    Permit::enter(exchange.limiter_of(backend), limits, || pick(endpoints, avoid, || worker.draw()).cloned())
}
