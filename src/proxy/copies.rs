//! Copies of a request for its service's mirrors, once it is known where the request itself goes.

use http::Request;

use super::exchange::Exchange;
use crate::mirror::{Asked, MARK, begin};
use crate::upstream::RequestBody;

/// Sends copies to the mirrors that were chosen; the request's head has been rewritten.
pub(super) fn send(exchange: &mut Exchange, request: &Request<RequestBody>) {
    // What is a copy itself isn't copied again.
    if request.headers().contains_key(MARK) {
        return;
    }
    let Some((service, backend)) = exchange.target() else { return };
    let asked = Asked {
        worker: &exchange.client().worker,
        view: exchange.shared_view(),
        service,
        route: exchange.route(),
        backend,
        ends: &exchange.client().ends,
        request_id: exchange.request_id(),
        request,
    };
    let primary = begin(&asked, exchange.chosen_mirrors());
    exchange.captures(primary);
}
