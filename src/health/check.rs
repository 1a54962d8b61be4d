//! One check of one endpoint, on a connection of its own: that new connections are taken is part of being well.

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme as UriScheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::task::AbortHandle;

use crate::config::{HealthCheckConfig, HealthCheckKind, HttpCheckConfig, Scheme, UpstreamProtocol};
use crate::executor::LocalExecutor;
use crate::model::GRPC_STATUS;
use crate::upstream::{Endpoint, for_check};

/// What is read of an answer's body.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;
/// What of an endpoint's own words is told to people.
const TOLD_BYTES_MAX: usize = 100;
/// A health check's answer is two bytes, and five before it say so.
const GRPC_PREFIX_BYTES: usize = 5;
const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";

/// Asks once. The caller limits the time.
///
/// # Errors
/// When the endpoint isn't well: why, in a few words.
pub(super) async fn check(endpoint: &Endpoint, config: &HealthCheckConfig) -> Result<(), String> {
    match &config.kind {
        HealthCheckKind::Tcp => for_check(endpoint).await.map(drop).map_err(|error| error.to_string()),
        HealthCheckKind::Http(asked) => http_check(endpoint, asked).await,
        HealthCheckKind::Grpc { service, host } => grpc_check(endpoint, service, host.as_ref()).await,
    }
}

async fn http_check(endpoint: &Endpoint, asked: &HttpCheckConfig) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.extend(asked.headers.iter().cloned());
    let question = Question {
        method: asked.method.clone(),
        path: asked.path.clone(),
        host: asked.host.as_ref(),
        headers,
        body: Bytes::new(),
    };
    let (response, _connection) = question.ask(endpoint).await?;
    let status = response.status();
    if !asked.statuses.iter().any(|good| good.contains(&status.as_u16())) {
        return Err(format!("it answered {status}"));
    }
    let Some(pattern) = &asked.body else { return Ok(()) };
    let (body, _) = read(response, BODY_BYTES_MAX).await?;
    if pattern.is_match(&String::from_utf8_lossy(&body)) {
        Ok(())
    } else {
        Err(format!("its answer doesn't contain what it has to: {:?}", told(&body)))
    }
}

/// `Check` of grpc.health.v1. Both messages have one field, so they are written and read by hand.
async fn grpc_check(endpoint: &Endpoint, service: &str, host: Option<&HeaderValue>) -> Result<(), String> {
    let headers = [(CONTENT_TYPE, "application/grpc"), (TE, "trailers")];
    let question = Question {
        method: Method::POST,
        path: PathAndQuery::from_static(GRPC_PATH),
        host,
        headers: headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect(),
        body: grpc_request(service),
    };
    let (response, _connection) = question.ask(endpoint).await?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("it answered {status}"));
    }
    let head = response.headers().clone();
    let (body, trailers) = read(response, BODY_BYTES_MAX).await?;
    // An answer without a message is all head.
    let trailers = trailers.unwrap_or(head);
    match trailers.get(&GRPC_STATUS).map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(b"5") => return Err(format!("it knows no service {service:?}")),
        Some(b"12") => return Err("it has no health service (grpc.health.v1.Health)".to_owned()),
        Some(other) => return Err(format!("grpc-status {}", told(other))),
        None => return Err("it is no gRPC server: its answer has no grpc-status".to_owned()),
    }
    match serving_status(&body) {
        Some(1) => Ok(()),
        Some(2) => Err("it is not serving".to_owned()),
        Some(_) => Err("it doesn't know whether it serves".to_owned()),
        None => Err("its answer is no HealthCheckResponse".to_owned()),
    }
}

/// A HealthCheckRequest in its frame: field 1, a string.
fn grpc_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        put_varint(&mut message, service.len());
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(message);
    frame.into()
}

fn put_varint(to: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        to.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// The status in a framed HealthCheckResponse: field 1, an enum; left out when it is 0.
fn serving_status(frame: &[u8]) -> Option<u8> {
    let (prefix, message) = frame.split_at_checked(GRPC_PREFIX_BYTES)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?);
    if prefix[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status] => Some(*status),
        _ => None,
    }
}

/// One request to one endpoint.
pub(crate) struct Question<'a> {
    pub(crate) method: Method,
    pub(crate) path: PathAndQuery,
    /// `None`: the endpoint's own.
    pub(crate) host: Option<&'a HeaderValue>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Question<'_> {
    /// The head of the answer; its connection lives as long as the guard.
    pub(crate) async fn ask(self, endpoint: &Endpoint) -> Result<(Response<Incoming>, Connection), String> {
        let stream = TokioIo::new(for_check(endpoint).await.map_err(|error| error.to_string())?);
        let request = self.request(endpoint)?;
        match endpoint.identity.protocol {
            UpstreamProtocol::Http1 => {
                let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| words(&error))?;
                let connection = Connection::drive(connection);
                Ok((sender.send_request(request).await.map_err(|error| words(&error))?, connection))
            }
            UpstreamProtocol::Http2 => {
                let handshake = http2::handshake(LocalExecutor, stream).await;
                let (mut sender, connection) = handshake.map_err(|error| words(&error))?;
                let connection = Connection::drive(connection);
                Ok((sender.send_request(request).await.map_err(|error| words(&error))?, connection))
            }
        }
    }

    fn request(self, endpoint: &Endpoint) -> Result<Request<Full<Bytes>>, String> {
        let host = self.host.unwrap_or(&endpoint.identity.authority).clone();
        let mut request = Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        let headers = request.headers_mut();
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"))));
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(self.path);
        if endpoint.identity.protocol == UpstreamProtocol::Http2 {
            parts.authority = Authority::try_from(host.as_bytes()).ok();
            parts.scheme = Some(match endpoint.identity.scheme {
                Scheme::Http => UriScheme::HTTP,
                Scheme::Https => UriScheme::HTTPS,
            });
            *request.version_mut() = Version::HTTP_2;
        } else {
            headers.insert(HOST, host);
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| "the check's host and path make no URI".to_owned())?;
        Ok(request)
    }
}

/// Runs a connection until the check is done with it.
pub(crate) struct Connection(AbortHandle);

impl Connection {
    fn drive<E>(connection: impl Future<Output = Result<(), E>> + 'static) -> Self {
        // What goes wrong is told to the request on it.
        let driving = tokio::task::spawn_local(async { drop(connection.await) });
        Self(driving.abort_handle())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body up to `max` bytes, with its trailers if they came before that.
pub(crate) async fn read(mut response: Response<Incoming>, max: usize) -> Result<(Vec<u8>, Option<HeaderMap>), String> {
    let mut bytes = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        match frame.map_err(|error| words(&error))?.into_data() {
            Ok(data) => bytes.extend_from_slice(&data[..data.len().min(max - bytes.len())]),
            Err(frame) => return Ok((bytes, frame.into_trailers().ok())),
        }
        if bytes.len() == max {
            break;
        }
    }
    Ok((bytes, None))
}

/// hyper's errors say the least outside and the most inside.
fn words(error: &hyper::Error) -> String {
    let mut text = format!("no answer: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The beginning of what an endpoint said.
fn told(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TOLD_BYTES_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_asked_for_by_its_name() {
        assert_eq!(&grpc_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_request("shop")[..], *b"\0\0\0\0\x06\x0a\x04shop");
        let long = "s".repeat(300);
        assert_eq!(&grpc_request(&long)[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn only_a_whole_answer_says_that_an_endpoint_serves() {
        assert_eq!(serving_status(b"\0\0\0\0\x02\x08\x01"), Some(1));
        assert_eq!(serving_status(b"\0\0\0\0\x02\x08\x02"), Some(2));
        assert_eq!(serving_status(b"\0\0\0\0\0"), Some(0));
        for broken in [&b""[..], b"\0\0\0", b"\x01\0\0\0\x02\x08\x01", b"\0\0\0\0\x02\x08", b"\0\0\0\0\x02\x10\x01"] {
            assert_eq!(serving_status(broken), None, "{broken:?}");
        }
    }
}
