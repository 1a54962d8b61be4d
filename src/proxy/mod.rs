//! The life of one request, top to bottom: route, select, rewrite, forward, reply. Every path, however it ends,
//! ends in the `Exchange` being dropped, which is where it is counted and logged.

mod body;
mod client;
mod compress;
mod copies;
mod exchange;
mod forward;
mod headers;
mod hold;
mod identifiers;
mod length;
mod names;
mod origin;
mod pages;
mod policy;
mod preview;
mod queue;
mod reply;
mod restart;
mod select;
mod target;
mod trailers;
mod tunnel;
mod upgrade;

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

pub use body::ResponseBody;
pub use client::{Activity, Client, Stage, Turn};
pub use headers::{ForwardedClient, Introduction, ResponseAdditions, rewrite_request, rewrite_response};
pub use identifiers::{Trace, new_id};
pub use names::RequestNames;
pub use origin::Origin;
pub use tunnel::Tunnel;

use crate::mirror;
use crate::model::{RequestFacts, ServiceName, decide_path, is_loop};
use crate::state::Hold;
use crate::upstream::RequestBody;
use exchange::Exchange;
use forward::Need;
use reply::{Failure, Reason};
use select::{Draw, Selection};
use upgrade::Upgrade;

/// Answers one request.
///
/// # Errors
/// Never: whatever goes wrong is an answer, too.
pub async fn serve(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Infallible> {
    let mut request = request.map(|incoming| RequestBody::new(incoming, trailers::clean_request));
    let names = RequestNames::of(request.headers());
    let mut exchange = Exchange::begin(client, &request, names);
    let last = exchange.is_last();
    let mut reached = route(&mut exchange, &request, names);
    if let Ok(Reached::Hold(hold)) = reached {
        // Boxed: rare, and large.
        reached = Box::pin(hold::pass(&mut exchange, hold, &request)).await;
    }
    let upgrade = reached.and_then(|_| rewrite(&exchange, &mut request, names));
    let answered = match upgrade {
        Ok(None) => {
            if !exchange.chosen_mirrors().is_none() {
                copies::send(&mut exchange, &request);
            }
            forward::send(&mut exchange, &mut request, &mut Need::Nothing)
                .await
                .and_then(|(response, lease)| forward::answer(&mut exchange, response, lease))
        }
        // Boxed: rare, and large.
        Ok(Some(upgrade)) => Box::pin(upgrade::forward(&mut exchange, upgrade, request)).await,
        Err(failure) => Err(failure),
    };
    let mut response = match answered {
        Ok(answer) => answer.into_response(exchange),
        Err(failure) => failure.into_response(exchange),
    };
    if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// How far a request has come.
enum Reached {
    Backend,
    /// A service that takes it later.
    Hold(Arc<Hold>),
}

/// Finds the service and the backend.
fn route(exchange: &mut Exchange, request: &Request<RequestBody>, names: RequestNames) -> Result<Reached, Failure> {
    if !exchange.client().worker.process.memory.suffices() {
        return Err(Reason::Overloaded.into());
    }
    target::check_length(request, exchange.view().snapshot.limits.uri_bytes)?;
    check_size(exchange, request, names)?;
    target::check(request, names)?;
    let forwarding = &exchange.view().snapshot.forwarding;
    if names.vias > 0 && is_loop(request.headers(), forwarding.via.as_deref()) {
        return Err(Reason::Loop.into());
    }
    find(exchange, request, None)
}

/// Finds the service and the backend of a request that can have one. One that has waited has been let in by a service
/// before, whose limits have counted it.
fn find(
    exchange: &mut Exchange,
    request: &Request<RequestBody>,
    counted_by: Option<&ServiceName>,
) -> Result<Reached, Failure> {
    let host = target::host(request);
    let facts = RequestFacts {
        host: &host,
        path: request.uri().path(),
        query: request.uri().query(),
        method: request.method(),
        headers: request.headers(),
        client: exchange.origin().address,
    };
    let routes = &exchange.view().snapshot.routes;
    // The first reading asked about is the path's normal form.
    let mut route = None;
    let decided = decide_path(facts.path, |path| {
        let routed = routes.find(&RequestFacts { path, ..facts })?;
        route.get_or_insert(routed.route);
        Some(routed.service)
    })?;
    let index = decided.ok_or(Reason::NoRoute)?;
    exchange.routed(index, route.flatten());
    let service = &exchange.view().snapshot.services[index];
    if service.guarded {
        policy::admit(exchange, service, &facts, request)?;
        let shown = match preview::candidate(service, route.flatten(), &facts) {
            Ok(shown) => shown,
            Err(failure) => {
                exchange.unrouted();
                return Err(failure);
            }
        };
        if counted_by != Some(service.name()) {
            policy::count(exchange, service, &facts)?;
        }
        if let Some(hold) = &service.hold {
            return Ok(Reached::Hold(Arc::clone(hold)));
        }
        if let Some(backend) = shown {
            let selection = Selection { backend, cookie: None, draw: None, is_probe: false };
            selected(exchange, index, selection, &facts, request);
            return Ok(Reached::Backend);
        }
    }
    match select::select(&exchange.client().worker, service, &facts, exchange.origin().secure) {
        Some(mut selection) => {
            if let Some(backend) = service.on_trial
                && selection.draw.is_some()
                && exchange.claims_trial(index, backend, facts.method.is_safe())
            {
                (selection.backend, selection.is_probe) = (backend, true);
            }
            selected(exchange, index, selection, &facts, request);
            Ok(Reached::Backend)
        }
        None => {
            // A service that can't answer shows that in its own numbers: in stable's.
            let backend = service.config.stable;
            exchange.selected(index, Selection { backend, cookie: None, draw: None, is_probe: false });
            Err(Reason::NoBackend.into())
        }
    }
}

/// A backend will answer; who else gets a copy is drawn.
#[inline]
fn selected(
    exchange: &mut Exchange,
    index: usize,
    selection: Selection,
    facts: &RequestFacts<'_>,
    request: &Request<RequestBody>,
) {
    let service = &exchange.view().snapshot.services[index];
    let chosen = service.mirrors.as_ref().map(|mirrors| {
        let client = selection.draw.and_then(Draw::client);
        let worker = &exchange.client().worker;
        mirror::choose(service, mirrors, selection.backend, facts, client, || worker.draw())
    });
    exchange.selected(index, selection);
    if let Some(chosen) = chosen {
        exchange.mirrored(chosen);
    }
    exchange.negotiate(request);
}

/// HTTP/1 heads are measured while they are read.
fn check_size(exchange: &Exchange, request: &Request<RequestBody>, names: RequestNames) -> Result<(), Failure> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    let limits = &exchange.view().snapshot.limits;
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if request.headers().len() > limits.headers || names.bytes + path > limits.header_bytes as usize {
        return Err(Reason::HeadTooLarge.into());
    }
    Ok(())
}

/// Makes the head fit for any endpoint; what it asked for besides an answer is taken out of it.
fn rewrite(
    exchange: &Exchange,
    request: &mut Request<RequestBody>,
    names: RequestNames,
) -> Result<Option<Upgrade>, Failure> {
    let upgrade = Upgrade::asked_by(request, names)?;
    let introduction = Introduction {
        client: &exchange.client().forwarded,
        origin: exchange.origin(),
        request_id: exchange.request_id(),
        trace: exchange.trace(),
        via: exchange.view().via.as_ref(),
        forwarded: exchange.view().snapshot.forwarding.forwarded,
        changes: exchange.service().request_headers.as_ref(),
    };
    rewrite_request(request, names, &introduction);
    Ok(upgrade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_output<F, A, B>(_: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_request_is_small() {
        // It is moved into place with every request.
        let size = size_of_output(serve);
        assert!(size <= 3072, "{size} bytes");
    }
}
