//! The life of one request, top to bottom: route, select, rewrite, forward, reply. Every path, however it ends,
//! ends in the `Exchange` being dropped, which is where it is counted and logged.

mod body;
mod client;
mod compress;
mod exchange;
mod forward;
mod headers;
mod pages;
mod reply;
mod select;
mod target;
mod tunnel;
mod upgrade;

use std::convert::Infallible;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;

pub use body::{BodyError, ResponseBody};
pub use client::{Activity, Client, Stage};
pub use headers::{ForwardedClient, RequestNames, rewrite_request, rewrite_response};
pub use tunnel::Tunnel;

use crate::model::RequestFacts;
use crate::upstream::RequestBody;
use exchange::Exchange;
use forward::Need;
use reply::{Failure, Reason};
use select::Selection;
use upgrade::Upgrade;

/// Answers one request.
///
/// # Errors
/// Never: whatever goes wrong is an answer, too.
pub async fn serve(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Infallible> {
    let mut request = request.map(RequestBody::new);
    let mut exchange = Exchange::begin(client, &request);
    let names = RequestNames::of(request.headers());
    exchange.prefers(names.format);
    let upgrade = route(&mut exchange, &request, names).and_then(|()| rewrite(&exchange, &mut request, names));
    let answered = match upgrade {
        Ok(None) => forward::send(&mut exchange, request, &mut Need::Nothing)
            .await
            .and_then(|(response, lease)| forward::answer(&exchange, response, lease)),
        // Boxed: rare, and large.
        Ok(Some(upgrade)) => Box::pin(upgrade::forward(&mut exchange, upgrade, request)).await,
        Err(failure) => Err(failure),
    };
    Ok(match answered {
        Ok(answer) => answer.into_response(exchange),
        Err(failure) => failure.into_response(exchange),
    })
}

/// Finds the service and the backend.
fn route(exchange: &mut Exchange, request: &Request<RequestBody>, names: RequestNames) -> Result<(), Failure> {
    target::check(request, names)?;
    let host = target::host(request);
    let facts = RequestFacts {
        host: &host,
        path: request.uri().path(),
        query: request.uri().query(),
        method: request.method(),
        headers: request.headers(),
        client: exchange.client().address.ip(),
    };
    let index = exchange.view().snapshot.routes.find(&facts).ok_or(Reason::NoRoute)?;
    exchange.routed(index, request);
    let client = exchange.client();
    let service = &exchange.view().snapshot.services[index];
    if let Some(maintenance) = &service.config.maintenance
        && !maintenance.allow.iter().any(|network| network.contains(&facts.client))
    {
        return Err(Reason::Maintenance.into());
    }
    match select::select(&client.worker, service, &facts, client.forwarded.secure) {
        Some(selection) => {
            exchange.selected(index, selection);
            Ok(())
        }
        None => {
            // A service that can't answer shows that in its own numbers: in stable's.
            let backend = service.config.stable;
            exchange.selected(index, Selection { backend, cookie: None });
            Err(Reason::NoBackend.into())
        }
    }
}

/// Makes the head fit for any endpoint; what it asked for besides an answer is taken out of it.
fn rewrite(
    exchange: &Exchange,
    request: &mut Request<RequestBody>,
    names: RequestNames,
) -> Result<Option<Upgrade>, Failure> {
    let upgrade = Upgrade::asked_by(request, names)?;
    rewrite_request(request, names, &exchange.client().forwarded);
    Ok(upgrade)
}
