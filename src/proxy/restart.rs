//! Requests whose backend is being restarted in place: all its endpoints refuse connections, and no other backend could
//! answer. They wait for as long as a restart takes; none of them has been sent anywhere, so any method may.
//!
//! ```text
//! first refusal                      timeouts.restart_wait later
//! |-- requests wait, one tries again ---|-- requests fail at once, until a connection is accepted
//! ```

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::exchange::Exchange;
use super::forward::lease;
use super::reply::Reason;
use crate::model::Weight;
use crate::upstream::{Freshness, Lease, LocalEndpoint};
use crate::worker::BackendView;

/// Between two tries.
const BACKOFF: Duration = Duration::from_millis(50);

/// A lease after all, when what failed with `failure` may be a restart; otherwise `failure`.
pub(super) async fn lease_again(
    exchange: &mut Exchange,
    failure: Reason,
    freshness: Freshness,
) -> Result<Lease, Reason> {
    let Some(end) = window_end(exchange).filter(|_| failure == Reason::ConnectFailed) else { return Err(failure) };
    let began = Instant::now();
    let leased = wait(exchange, end, freshness).await;
    exchange.waited(began.elapsed());
    leased.unwrap_or(Err(failure))
}

/// `None` when the wait was in vain.
async fn wait(exchange: &mut Exchange, end: Instant, freshness: Freshness) -> Option<Result<Lease, Reason>> {
    let waiting = exchange.backend().restart.enter()?;
    let end = exchange.deadline().map_or(end, |deadline| deadline.min(end));
    while Instant::now() < end {
        let probe = waiting.probe();
        if probe.is_some() {
            tokio::time::sleep_until(end.min(Instant::now() + BACKOFF)).await;
        } else if tokio::time::timeout_at(end, waiting.news()).await.is_err() {
            break;
        } else if is_refusing(exchange.backend()) {
            continue;
        }
        match lease(exchange, &[], freshness).await {
            Ok(lease) => {
                if let Some(probe) = probe {
                    probe.succeeded();
                }
                return Some(Ok(lease));
            }
            Err((Reason::ConnectFailed, _)) => {}
            Err((other, _)) => return Some(Err(other)),
        }
    }
    let late = exchange.deadline().is_some_and(|deadline| deadline <= Instant::now());
    late.then_some(Err(Reason::RequestTimeout))
}

/// When requests stop waiting, if they may wait at all now.
fn window_end(exchange: &Exchange) -> Option<Instant> {
    let view = exchange.service();
    let began = exchange.backend().endpoints.iter().map(|e| e.refused_since()).reduce(Option::max)??;
    let elsewhere = || {
        let others = view.service.backends.iter().zip(&view.backends);
        others.into_iter().any(|(backend, view)| backend.effective != Weight::ZERO && !is_refusing(view))
    };
    let end = began + view.service.config.timeouts.restart_wait;
    let waits = Instant::now() < end && is_refusing(exchange.backend()) && !(exchange.is_drawn() && elsewhere());
    waits.then_some(end)
}

/// Whether connecting to any of its endpoints is in vain, as far as is known.
fn is_refusing(backend: &BackendView) -> bool {
    let refuses = |endpoint: &Rc<LocalEndpoint>| endpoint.refused_since().is_some();
    backend.endpoints.iter().all(refuses)
}
