//! The life of one request, top to bottom: route, select, rewrite, forward, reply. Every path, however it ends,
//! ends in the [`Exchange`] being dropped, which is where it is counted and logged.

mod body;
mod client;
mod exchange;
mod forward;
mod headers;
mod reply;
mod select;
mod target;
mod tunnel;
mod upgrade;

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;

use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;

pub use body::ResponseBody;
pub use client::{Activity, Client, Stage};
pub use headers::{rewrite_request, rewrite_response};
pub use tunnel::Tunnel;

use crate::model::RequestFacts;
use crate::upstream::RequestBody;
use exchange::Exchange;
use reply::{Answer, Failure, Reason};
use select::Selection;
use upgrade::Upgrade;

/// Answers one request.
///
/// # Errors
/// Never: whatever goes wrong is an answer, too.
pub async fn serve(client: Rc<Client>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Infallible> {
    let (mut parts, incoming) = request.into_parts();
    let body = RequestBody::new(incoming);
    let mut exchange = Exchange::begin(client, &parts, &body);
    let answered = match route(&mut exchange, &mut parts) {
        Ok(selection) => answer(&mut exchange, &selection, parts, body).await,
        Err(failure) => Err(failure),
    };
    Ok(match answered {
        Ok(answer) => answer.into_response(exchange),
        Err(failure) => failure.into_response(exchange),
    })
}

/// Finds the service and the backend.
fn route(exchange: &mut Exchange, parts: &mut Parts) -> Result<Selection, Failure> {
    target::check(parts)?;
    let host = target::host(parts);
    let client = exchange.client();
    let address: IpAddr = client.address.ip();
    let facts = RequestFacts {
        host: &host,
        path: parts.uri.path(),
        query: parts.uri.query(),
        method: &parts.method,
        headers: &parts.headers,
        client: address,
    };
    let index = exchange.view().snapshot.routes.find(&facts).ok_or(Reason::NoRoute)?;
    let service = &exchange.view().snapshot.services[index];
    let selection = select::select(&client.worker, service, &facts, client.secure).ok_or(Reason::NoBackend)?;
    exchange.selected(index, selection.backend);
    Ok(selection)
}

/// Passes the request on and the answer back.
async fn answer(
    exchange: &mut Exchange,
    selection: &Selection,
    mut parts: Parts,
    body: RequestBody,
) -> Result<Answer, Failure> {
    let upgrade = Upgrade::asked_by(&mut parts)?;
    headers::rewrite_request(&mut parts, exchange.client());
    let mut answer = match upgrade {
        None => forward::forward(exchange, Request::from_parts(parts, body)).await?,
        Some(upgrade) => upgrade::forward(exchange, upgrade, parts).await?,
    };
    if let Some(cookie) = &selection.cookie {
        answer.set_cookie(cookie.clone());
    }
    Ok(answer)
}
