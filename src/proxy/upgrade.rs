//! Requests that want to stop speaking HTTP: HTTP/1.1 `Upgrade` (WebSocket, or anything both ends agree on) and
//! WebSocket over HTTP/2 (extended CONNECT, RFC 8441), each towards endpoints of either protocol.
//!
//! Nothing the client sends after such a request reaches the endpoint before the endpoint has agreed.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;

use super::body::Source;
use super::exchange::Exchange;
use super::forward::{Need, answer, send, tell_backend};
use super::headers::rewrite_response;
use super::names::RequestNames;
use super::reply::{Answer, Failure, Reason};
use super::tunnel::{ClientEnd, EndpointEnd, Opening};
use crate::config::UpstreamProtocol;
use crate::upstream::{AnswerBody, Lease, RequestBody};

/// What the client asked for.
#[derive(Debug)]
pub(super) enum Upgrade {
    Http1 { protocol: HeaderValue, websocket_key: Option<HeaderValue> },
    Http2 { stream: OnUpgrade },
}

impl Upgrade {
    /// Takes the request to upgrade out of a head; `None` for ordinary requests. A request for h2c is ordinary:
    /// prior knowledge is the only way to HTTP/2 without TLS.
    pub(super) fn asked_by<B>(request: &mut Request<B>, names: RequestNames) -> Result<Option<Self>, Failure> {
        if *request.method() == Method::CONNECT
            && let Some(protocol) = request.extensions_mut().remove::<Protocol>()
        {
            let stream = request.extensions_mut().remove::<OnUpgrade>().ok_or(Reason::BadUpgrade)?;
            if protocol.as_str() != "websocket" {
                return Err(Reason::UpgradeUnsupported.into());
            }
            return Ok(Some(Self::Http2 { stream }));
        }
        if names.upgrades == 0
            || request.version() != Version::HTTP_11
            || !has_token(request.headers(), &CONNECTION, "upgrade")
        {
            return Ok(None);
        }
        if has_token(request.headers(), &UPGRADE, "h2c") {
            return Ok(None);
        }
        let Some(protocol) = request.headers().get(UPGRADE).cloned() else { return Ok(None) };
        let websocket = has_token(request.headers(), &UPGRADE, "websocket");
        let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
        if websocket && (key.is_none() || *request.method() != Method::GET) {
            return Err(Reason::BadUpgrade.into());
        }
        Ok(Some(Self::Http1 { protocol, websocket_key: key.filter(|_| websocket) }))
    }
}

fn has_token(headers: &HeaderMap, name: &http::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// Forwards a request to upgrade, whose head has been rewritten. The endpoint may refuse with any ordinary answer.
pub(super) async fn forward(
    exchange: &mut Exchange,
    upgrade: Upgrade,
    request: Request<RequestBody>,
) -> Result<Answer, Failure> {
    if !request.body().is_empty() {
        return Err(Reason::BadUpgrade.into());
    }
    match exchange.protocol() {
        UpstreamProtocol::Http1 => to_http1(exchange, upgrade, request).await,
        UpstreamProtocol::Http2 => to_http2(exchange, upgrade, request).await,
    }
}

async fn to_http1(
    exchange: &mut Exchange,
    upgrade: Upgrade,
    mut request: Request<RequestBody>,
) -> Result<Answer, Failure> {
    let (client, expected) = match upgrade {
        Upgrade::Http1 { protocol, .. } => {
            request.headers_mut().insert(UPGRADE, protocol);
            (ClientEnd::Http1, None)
        }
        Upgrade::Http2 { stream } => {
            let key = fresh_key(exchange);
            *request.method_mut() = Method::GET;
            request.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
            request.headers_mut().entry(SEC_WEBSOCKET_VERSION).or_insert(HeaderValue::from_static("13"));
            let expected = accept(key.as_bytes());
            request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
            (ClientEnd::Http2(stream), Some(expected))
        }
    };
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    let mut need = Need::Upgrade(None);
    let (response, lease) = send(exchange, &mut request, &mut need).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        lease.forget_upgrade();
        return refused(exchange, response, lease, &client);
    }
    let agreed = expected.is_none_or(|expected| response.headers().get(SEC_WEBSOCKET_ACCEPT) == Some(&expected));
    let Need::Upgrade(Some(switched)) = need else { return Err(Reason::BadSwitch.into()) };
    let protocol = response.headers().get(UPGRADE).filter(|_| agreed).cloned().ok_or(Reason::BadSwitch)?;
    let head = switched_head(exchange, response, &client, protocol, None);
    Ok(Answer::switching(head, Opening { client, endpoint: EndpointEnd::Http1(switched), lease }))
}

async fn to_http2(
    exchange: &mut Exchange,
    upgrade: Upgrade,
    mut request: Request<RequestBody>,
) -> Result<Answer, Failure> {
    let (client, accepted) = match upgrade {
        Upgrade::Http1 { websocket_key: Some(key), .. } => (ClientEnd::Http1, Some(accept(key.as_bytes()))),
        Upgrade::Http1 { websocket_key: None, .. } => return Err(Reason::UpgradeUnsupported.into()),
        Upgrade::Http2 { stream } => (ClientEnd::Http2(stream), None),
    };
    *request.method_mut() = Method::CONNECT;
    request.headers_mut().remove(SEC_WEBSOCKET_KEY);
    request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
    let (response, lease) = send(exchange, &mut request, &mut Need::ExtendedConnect).await?;
    if response.status() != StatusCode::OK {
        return refused(exchange, response, lease, &client);
    }
    let (head, body) = response.into_parts();
    let endpoint = EndpointEnd::Http2(body.into_tunnel().ok_or(Reason::BadSwitch)?);
    let response = Response::from_parts(head, ());
    let head = switched_head(exchange, response, &client, HeaderValue::from_static("websocket"), accepted);
    Ok(Answer::switching(head, Opening { client, endpoint, lease }))
}

/// An ordinary answer. To extended CONNECT a 2xx would mean yes, so an endpoint that says it without switching is
/// at fault.
fn refused(
    exchange: &mut Exchange,
    response: Response<AnswerBody>,
    lease: Lease,
    client: &ClientEnd,
) -> Result<Answer, Failure> {
    let status = response.status();
    if status.is_informational() || (status.is_success() && matches!(client, ClientEnd::Http2(_))) {
        return Err(Reason::BadSwitch.into());
    }
    answer(exchange, response, lease)
}

/// The head that tells the client that HTTP ends here.
fn switched_head<B>(
    exchange: &Exchange,
    response: Response<B>,
    client: &ClientEnd,
    protocol: HeaderValue,
    accepted: Option<HeaderValue>,
) -> Response<Source> {
    let received = response.version();
    let mut response = response.map(|_| Source::Ended);
    *response.version_mut() = Version::HTTP_11;
    let worker = &exchange.client().worker;
    let headers = response.headers_mut();
    rewrite_response(headers, received, &exchange.additions(), || worker.date());
    tell_backend(exchange, headers);
    headers.remove(CONTENT_LENGTH);
    match client {
        ClientEnd::Http1 => {
            headers.insert(UPGRADE, protocol);
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            if let Some(accepted) = accepted {
                headers.insert(SEC_WEBSOCKET_ACCEPT, accepted);
            }
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        ClientEnd::Http2(_) => {
            headers.remove(SEC_WEBSOCKET_ACCEPT);
            *response.status_mut() = StatusCode::OK;
        }
    }
    response
}

/// A random `Sec-WebSocket-Key` for a client that, over HTTP/2, needs none.
fn fresh_key(exchange: &Exchange) -> HeaderValue {
    let mut random = [0; 16];
    exchange.client().worker.fill(&mut random);
    HeaderValue::try_from(STANDARD.encode(random)).expect("base64 is plain ASCII")
}

/// The `Sec-WebSocket-Accept` that answers `key` (RFC 6455, 4.2.2).
fn accept(key: &[u8]) -> HeaderValue {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    HeaderValue::try_from(STANDARD.encode(context.finish())).expect("base64 is plain ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_rfc_6455() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn only_a_connection_that_says_so_asks_for_an_upgrade() {
        let asked = |headers: &[(&str, &str)]| {
            let mut request = request(headers);
            let names = RequestNames::of(request.headers());
            Upgrade::asked_by(&mut request, names).map(|u| u.is_some()).ok()
        };
        assert_eq!(asked(&[("upgrade", "foo"), ("connection", "keep-alive, Upgrade")]), Some(true));
        assert_eq!(asked(&[("upgrade", "foo")]), Some(false));
        assert_eq!(asked(&[("connection", "upgrade")]), Some(false));
        assert_eq!(asked(&[("upgrade", "h2c"), ("connection", "upgrade, http2-settings")]), Some(false));
        assert_eq!(asked(&[("upgrade", "websocket"), ("connection", "upgrade")]), None, "no key");
    }
}
