//! Opening connections to an endpoint: TCP, TLS, HTTP/1 or HTTP/2.

use std::fmt;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use rustix::io::Errno;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::AttemptEnd;
use super::endpoint::{Endpoint, EndpointTls};
use super::http1::{Http1Connection, Io};
use super::http2::Http2Connection;
use crate::config::UpstreamProtocol;
use crate::model::{Ends, local_proxy_header, write_proxy_header};
use crate::stream::keep_alive;
use crate::timers::Timers;

/// Why no connection was opened.
#[derive(Debug)]
pub enum ConnectError {
    Timeout,
    Tcp(io::Error),
    Tls(io::Error),
    /// The endpoint doesn't speak HTTP/2, as its backend is configured to.
    NoHttp2,
    Http(h2::Error),
}

impl ConnectError {
    /// Nobody listens there, or not for long: the process is gone, or about to go.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset};
        matches!(self, Self::Tcp(error) | Self::Tls(error) if matches!(error.kind(), ConnectionRefused | ConnectionReset))
    }

    /// As an endpoint is judged by it.
    #[must_use]
    pub fn end(&self) -> AttemptEnd {
        match self {
            Self::Timeout => AttemptEnd::Unreached,
            _ => AttemptEnd::Refused,
        }
    }

    /// We have run out of descriptors, ports or buffers, which says nothing about the endpoint.
    #[must_use]
    pub fn is_exhaustion(&self) -> bool {
        const EXHAUSTED: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
        let Self::Tcp(error) = self else { return false };
        Errno::from_io_error(error).is_some_and(|errno| EXHAUSTED.contains(&errno))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => write!(f, "connecting took too long"),
            Self::Tcp(e) => write!(f, "connect failed: {e}"),
            Self::Tls(e) => write!(f, "TLS handshake failed: {e}"),
            Self::NoHttp2 => write!(f, "the endpoint did not agree to HTTP/2 (ALPN h2)"),
            Self::Http(e) => write!(f, "HTTP handshake failed: {e}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Any stream, once its type no longer matters.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A connection that has stopped speaking HTTP, with what was read after the last HTTP byte.
pub struct UpgradedStream {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) read_ahead: Bytes,
}

impl fmt::Debug for UpgradedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpgradedStream").field("read_ahead", &self.read_ahead.len()).finish_non_exhaustive()
    }
}

pub(super) async fn http1(endpoint: &Endpoint, ends: Ends) -> Result<Http1Connection, ConnectError> {
    let mut tcp = tcp(endpoint).await?;
    if let Some(version) = endpoint.identity.proxy_protocol {
        let header = write_proxy_header(version, ends);
        tcp.write_all(&header).await.map_err(ConnectError::Tcp)?;
    }
    Ok(Http1Connection::new(match &endpoint.tls {
        None => Io::Tcp(tcp),
        Some(tls) => Io::Tls(Box::new(handshake(tls, tcp).await?)),
    }))
}

/// A connection for one check of the endpoint's health: as requests would have it, only that it is nobody's.
pub(crate) async fn for_check(endpoint: &Endpoint) -> Result<Box<dyn Stream>, ConnectError> {
    let mut tcp = tcp(endpoint).await?;
    if let Some(version) = endpoint.identity.proxy_protocol {
        tcp.write_all(local_proxy_header(version)).await.map_err(ConnectError::Tcp)?;
    }
    let Some(tls) = &endpoint.tls else { return Ok(Box::new(tcp)) };
    let stream = handshake(tls, tcp).await?;
    if endpoint.identity.protocol == UpstreamProtocol::Http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(ConnectError::NoHttp2);
    }
    Ok(Box::new(stream))
}

pub(super) async fn http2(endpoint: &Endpoint, timers: &Rc<Timers>) -> Result<Http2Connection, ConnectError> {
    let tcp = tcp(endpoint).await?;
    let Some(tls) = &endpoint.tls else {
        return Http2Connection::open(tcp, timers).await.map_err(ConnectError::Http);
    };
    let stream = handshake(tls, tcp).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(ConnectError::NoHttp2);
    }
    Http2Connection::open(stream, timers).await.map_err(ConnectError::Http)
}

async fn tcp(endpoint: &Endpoint) -> Result<TcpStream, ConnectError> {
    let stream = TcpStream::connect(endpoint.identity.address).await.map_err(ConnectError::Tcp)?;
    stream.set_nodelay(true).map_err(ConnectError::Tcp)?;
    SockRef::from(&stream).set_tcp_keepalive(&keep_alive()).map_err(ConnectError::Tcp)?;
    Ok(stream)
}

async fn handshake(
    tls: &EndpointTls,
    tcp: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ConnectError> {
    let connector = TlsConnector::from(std::sync::Arc::clone(&tls.config.client));
    connector.connect(tls.server_name.clone(), tcp).await.map_err(ConnectError::Tls)
}
