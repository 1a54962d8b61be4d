//! A request whose service is held: it waits in front of the choice of a backend, so that what was changed meanwhile
//! holds for it, too.

use std::sync::Arc;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderValue, Request};
use tokio::time::Instant;

use super::exchange::Exchange;
use super::reply::{Failure, Reason};
use super::{Reached, find};
use crate::state::Hold;
use crate::upstream::RequestBody;

/// Waits, then finds service and backend anew; again, if that service is held, too.
pub(super) async fn pass(
    exchange: &mut Exchange,
    mut hold: Arc<Hold>,
    request: &Request<RequestBody>,
) -> Result<Reached, Failure> {
    loop {
        wait(exchange, &hold).await?;
        let service = exchange.service_config().map(|service| service.name.clone());
        exchange.look_again();
        match find(exchange, request, service.as_ref())? {
            Reached::Backend => return Ok(Reached::Backend),
            Reached::Hold(next) => hold = next,
        }
    }
}

async fn wait(exchange: &mut Exchange, hold: &Arc<Hold>) -> Result<(), Failure> {
    let Some(_held) = hold.enter() else {
        let seconds = hold.ends().saturating_duration_since(Instant::now()).as_secs() + 1;
        return Err(Failure::with(Reason::HoldFull, HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from(seconds))])));
    };
    exchange.count_held();
    let began = Instant::now();
    let timers = &exchange.client().worker.timers;
    let in_time = match exchange.service_config().and_then(|service| service.timeouts.request) {
        Some(limit) => timers.timeout(exchange.left_of(limit), hold.over()).await.is_ok(),
        None => {
            hold.over().await;
            true
        }
    };
    exchange.waited(began.elapsed());
    if in_time { Ok(()) } else { Err(Reason::RequestTimeout.into()) }
}
