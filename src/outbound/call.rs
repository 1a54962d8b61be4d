//! One call.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use super::signature::{Signer, TIMESTAMP, WEBHOOK_ID};
use crate::config::{Destination, EndpointHost};

/// What is read of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// What is said to a destination.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    /// Instead of the destination's own.
    pub path: Option<PathAndQuery>,
    /// Besides the destination's, which outrank them.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Tells this message from every other one, and stays the same where it is sent again; a token of ASCII.
    pub id: Option<String>,
    /// Of the answer's body; what is longer isn't read.
    pub answer_bytes_max: usize,
}

/// What came back, whatever its status.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The body ended within the limit.
    pub is_whole: bool,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum CallError {
    Timeout(Duration),
    /// The name has no address, or can't be looked up.
    Name(String),
    Connect(io::Error),
    Tls(io::Error),
    /// Broken off, or no HTTP.
    Http(hyper::Error),
    /// The call itself makes no request.
    Malformed(http::Error),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(limit) => write!(f, "no answer within {limit:?}"),
            Self::Name(reason) => write!(f, "its name can't be looked up: {reason}"),
            Self::Connect(error) => write!(f, "connect failed: {error}"),
            Self::Tls(error) => write!(f, "TLS handshake failed: {error}"),
            Self::Http(error) => {
                // hyper's errors say the least outside and the most inside.
                write!(f, "no answer: {error}")?;
                let mut source = std::error::Error::source(error);
                while let Some(cause) = source {
                    write!(f, ": {cause}")?;
                    source = cause.source();
                }
                Ok(())
            }
            Self::Malformed(error) => write!(f, "it can't be sent: {error}"),
        }
    }
}

impl std::error::Error for CallError {}

/// Sends a call, on a connection of its own, and waits for the answer.
///
/// # Errors
/// When there is none within the destination's time.
pub async fn call(to: &Destination, call: Call) -> Result<Answer, CallError> {
    let deadline = Instant::now() + to.timeout;
    let answered = timeout_at(deadline, answered(to, call, deadline)).await;
    answered.unwrap_or(Err(CallError::Timeout(to.timeout)))
}

async fn answered(to: &Destination, call: Call, deadline: Instant) -> Result<Answer, CallError> {
    let max = call.answer_bytes_max;
    let request = request(to, call, SystemTime::now()).map_err(CallError::Malformed)?;
    let stream = connect(to, deadline).await?;
    match &to.tls {
        None => exchange(stream, request, max).await,
        Some(tls) => {
            let name = tls.server_name.clone().map_or_else(|| server_name(&to.host), Ok)?;
            let connector = TlsConnector::from(std::sync::Arc::clone(&tls.client));
            exchange(connector.connect(name, stream).await.map_err(CallError::Tls)?, request, max).await
        }
    }
}

fn server_name(host: &EndpointHost) -> Result<ServerName<'static>, CallError> {
    match host {
        EndpointHost::Address(address) => Ok(ServerName::from(*address)),
        EndpointHost::Name(name) => {
            let bad = |error| CallError::Tls(io::Error::new(io::ErrorKind::InvalidInput, error));
            ServerName::try_from(name.clone()).map_err(bad)
        }
    }
}

fn request(to: &Destination, call: Call, now: SystemTime) -> Result<Request<Full<Bytes>>, http::Error> {
    let Call { method, path, mut headers, body, id, .. } = call;
    headers.extend(to.headers.iter().cloned());
    headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"))));
    headers.insert(HOST, to.authority.clone());
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(id) = id {
        let unix_seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        headers.insert(WEBHOOK_ID, HeaderValue::try_from(&id)?);
        headers.insert(TIMESTAMP, HeaderValue::from(unix_seconds));
        if let Some(secret) = &to.secret {
            Signer::new(secret).put(&mut headers, &id, unix_seconds, &body);
        }
    }
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| to.path.clone()));
    *request.headers_mut() = headers;
    Ok(request)
}

/// To the first address that answers; each has its share of what is left of the time.
async fn connect(to: &Destination, deadline: Instant) -> Result<TcpStream, CallError> {
    let addresses: Vec<SocketAddr> = match &to.host {
        EndpointHost::Address(address) => vec![SocketAddr::new(*address, to.port)],
        EndpointHost::Name(name) => {
            let found = tokio::net::lookup_host((name.as_str(), to.port)).await;
            found.map_err(|error| CallError::Name(error.to_string()))?.take(ADDRESSES_MAX).collect()
        }
    };
    let mut failed = CallError::Name("it has no address".to_owned());
    for (index, address) in addresses.iter().enumerate() {
        let left = (addresses.len() - index) as u32;
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        failed = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(CallError::Connect)?;
                return Ok(stream);
            }
            Ok(Err(error)) => CallError::Connect(error),
            Err(_) => CallError::Timeout(to.timeout),
        };
    }
    Err(failed)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    max: usize,
) -> Result<Answer, CallError> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(CallError::Http)?;
    // What goes wrong is told to the request on it.
    let driving = tokio::spawn(async { drop(connection.await) });
    let _connection = Driven(driving.abort_handle());
    let response = sender.send_request(request).await.map_err(CallError::Http)?;
    read(response, max).await.map_err(CallError::Http)
}

async fn read(response: Response<Incoming>, max: usize) -> Result<Answer, hyper::Error> {
    let (head, mut incoming) = response.into_parts();
    let (mut body, mut is_whole) = (Vec::new(), true);
    while let Some(frame) = incoming.frame().await {
        let Ok(data) = frame?.into_data() else { break };
        let room = max - body.len();
        body.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            is_whole = false;
            break;
        }
    }
    Ok(Answer { status: head.status, headers: head.headers, body: body.into(), is_whole })
}

/// A connection that runs until its call is over.
struct Driven(AbortHandle);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::config::{Scheme, Secret};
    use crate::tls::testing::Workshop;
    use crate::tls::{ALPN_HTTP1, CertifiedPair, Roots, ServerTls, UpstreamTls, UpstreamTlsSource};

    fn destination(port: u16) -> Destination {
        Destination {
            scheme: Scheme::Http,
            host: EndpointHost::Name("localhost".to_owned()),
            port,
            authority: HeaderValue::from_static("localhost"),
            path: PathAndQuery::from_static("/hook?key=1"),
            tls: None,
            headers: vec![(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer us"))],
            secret: Some(Secret::new("a secret".to_owned())),
            timeout: Duration::from_secs(10),
        }
    }

    fn post() -> Call {
        Call {
            method: Method::POST,
            path: None,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"{}"),
            id: Some("evt_1".to_owned()),
            answer_bytes_max: 16,
        }
    }

    /// Answers the first request with `answer`; what came is the task's.
    async fn serve(answer: &'static [u8]) -> (u16, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut came = Vec::new();
            while !came.ends_with(b"{}") {
                assert_ne!(stream.read_buf(&mut came).await.unwrap(), 0, "the request is whole");
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(came).unwrap()
        });
        (port, serving)
    }

    #[tokio::test]
    async fn a_call_says_who_we_are_and_proves_it() {
        let (port, serving) = serve(b"HTTP/1.1 202 Accepted\r\ncontent-length: 4\r\nx-a: b\r\n\r\nfine").await;
        let answer = call(&destination(port), post()).await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..], answer.is_whole), (202, &b"fine"[..], true));
        assert_eq!(answer.headers["x-a"], "b");
        let came = serving.await.unwrap();
        assert!(came.starts_with("POST /hook?key=1 HTTP/1.1\r\n"), "{came}");
        let header = |name: &str| came.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        assert_eq!(header("authorization"), Some("Bearer us"));
        assert_eq!(header("host"), Some("localhost"));
        assert_eq!(header("webhook-id"), Some("evt_1"));
        let at = header("webhook-timestamp").unwrap().parse().unwrap();
        let signer = Signer::new(&Secret::new("a secret".to_owned()));
        assert_eq!(header("webhook-signature"), Some(&*signer.sign("evt_1", at, b"{}")));
    }

    #[tokio::test]
    async fn a_long_answer_is_read_up_to_the_limit_and_a_redirect_is_an_answer() {
        let (port, _serving) =
            serve(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /\r\ncontent-length: 99999\r\n\r\n0123456789abcdefgh")
                .await;
        let answer = call(&destination(port), post()).await.unwrap();
        assert_eq!((answer.status.as_u16(), answer.is_whole), (307, false));
        assert_eq!(&answer.body[..], b"0123456789abcdef");
    }

    #[tokio::test]
    async fn whoever_says_nothing_or_nonsense_has_not_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hurried = Destination { timeout: Duration::from_millis(20), ..destination(port) };
        assert!(matches!(call(&hurried, post()).await, Err(CallError::Timeout(_))));
        drop(listener);
        assert!(matches!(call(&destination(port), post()).await, Err(CallError::Connect(_))));
        let (port, _serving) = serve(b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n").await;
        let error = call(&destination(port), post()).await.unwrap_err();
        assert!(matches!(error, CallError::Http(_)), "{error}");
        let (port, _serving) = serve(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nbroken").await;
        assert!(matches!(call(&destination(port), post()).await, Err(CallError::Http(_))));
    }

    #[tokio::test]
    async fn over_tls_only_the_named_authority_is_believed() {
        let shop = Workshop::new();
        let (cert, key) = shop.pair("a", &["localhost"]);
        let (other, _) = shop.pair("b", &["localhost"]);
        let pair = Arc::new(CertifiedPair::load(&cert, &key).unwrap());
        let acceptor = TlsAcceptor::from(ServerTls::new().unwrap().config(&[pair], None).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut came = Vec::new();
                while !came.ends_with(b"{}") {
                    stream.read_buf(&mut came).await.unwrap();
                }
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            }
        });
        let over_tls = |ca| {
            let source = UpstreamTlsSource { ca: None, client: None, server_name: None, alpn: ALPN_HTTP1 };
            let tls = UpstreamTls::build(source, &Roots::from_file(ca).unwrap(), None);
            Destination { scheme: Scheme::Https, tls: Some(Arc::new(tls)), ..destination(port) }
        };
        assert_eq!(call(&over_tls(&cert), post()).await.unwrap().status, 204);
        assert!(matches!(call(&over_tls(&other), post()).await, Err(CallError::Tls(_))));
    }

    #[test]
    fn neither_path_nor_secret_is_ever_told() {
        let to = destination(9001);
        assert_eq!(format!("{to} {to:?}"), "http://localhost Destination(http://localhost)");
    }
}
