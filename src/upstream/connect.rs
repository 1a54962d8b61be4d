//! Opening connections to an endpoint: TCP, TLS, HTTP/1 or HTTP/2.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http2;
use hyper::rt::Executor;
use hyper_util::rt::TokioTimer;
use rustix::io::Errno;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::body::RequestBody;
use super::endpoint::{Endpoint, EndpointTls};
use super::http1::{Http1Connection, Io};
use crate::config::UpstreamProtocol;
use crate::executor::LocalExecutor;
use crate::model::{Ends, local_proxy_header, write_proxy_header};
use crate::stream::{HyperStream, keep_alive};

/// Receive windows of an HTTP/2 connection to an endpoint: a stream may hold this much that a slow client
/// hasn't taken, and the connection sixteen such streams before others wait.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// A response's head, and its trailers: twice what we take from a client.
const HEAD_BYTES: u32 = 64 * 1024;
/// HTTP/2: a request's bytes that wait in one stream for the endpoint.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// A silent HTTP/2 connection is asked for a sign of life this often, and given this long.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no connection was opened.
#[derive(Debug)]
pub enum ConnectError {
    Timeout,
    Tcp(io::Error),
    Tls(io::Error),
    /// The endpoint doesn't speak HTTP/2, as its backend is configured to.
    NoHttp2,
    Http(hyper::Error),
}

impl ConnectError {
    /// Nobody listens there, or not for long: the process is gone, or about to go.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset};
        matches!(self, Self::Tcp(error) | Self::Tls(error) if matches!(error.kind(), ConnectionRefused | ConnectionReset))
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

/// An HTTP/2 connection's sending side, and what its other end allows.
#[derive(Debug)]
pub(super) struct Http2Connection {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) settings: Rc<Settings>,
}

/// What an HTTP/2 endpoint allows, as last heard.
///
/// hyper reads a connection in a task of its own, while only the future of another task can tell what was read, and
/// that one isn't woken by it. So it is woken after each of the first few reads, with which the settings come, and
/// after every read while somebody waits for them.
#[derive(Debug, Default)]
pub(super) struct Settings {
    streams_max: Cell<usize>,
    extended_connect: Cell<bool>,
    heard: Notify,
    waiting: Cell<usize>,
    reads: Cell<usize>,
    /// Wakes the task that hears.
    hearing: RefCell<Option<Waker>>,
}

impl Settings {
    pub(super) fn streams_max(&self) -> usize {
        self.streams_max.get()
    }

    /// Waits until the endpoint says that it takes extended CONNECT; a client may not use it before (RFC 8441, 3).
    pub(super) async fn extended_connect(&self) {
        if self.extended_connect.get() {
            return;
        }
        let _waiting = Waiting::begin(&self.waiting);
        self.progressed();
        while !self.extended_connect.get() {
            self.heard.notified().await;
        }
    }

    /// Something may have been read.
    fn progressed(&self) {
        const FIRST_READS: usize = 16;
        let reads = self.reads.get();
        self.reads.set(reads.saturating_add(1));
        if (self.waiting.get() > 0 || reads < FIRST_READS)
            && let Some(hearing) = self.hearing.take()
        {
            hearing.wake();
        }
    }

    fn hear(&self, streams_max: usize, extended_connect: bool, cx: &Context<'_>) {
        self.hearing.replace(Some(cx.waker().clone()));
        self.streams_max.set(streams_max);
        if extended_connect && !self.extended_connect.replace(true) {
            self.heard.notify_waiters();
        }
    }
}

/// Counts somebody as waiting.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Spawns hyper's tasks for one HTTP/2 connection, and tells its settings of their progress.
#[derive(Debug, Clone)]
struct Spawner(Rc<Settings>);

impl<F: Future<Output = ()> + 'static> Executor<F> for Spawner {
    fn execute(&self, future: F) {
        let settings = Rc::clone(&self.0);
        LocalExecutor.execute(async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                let polled = future.as_mut().poll(cx);
                settings.progressed();
                polled
            })
            .await;
        });
    }
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

pub(super) async fn http2(endpoint: &Endpoint) -> Result<Http2Connection, ConnectError> {
    let tcp = tcp(endpoint).await?;
    let Some(tls) = &endpoint.tls else { return http2_over(tcp).await };
    let stream = handshake(tls, tcp).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(ConnectError::NoHttp2);
    }
    http2_over(stream).await
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

async fn http2_over<T>(stream: T) -> Result<Http2Connection, ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = Rc::new(Settings::default());
    let (sender, mut connection) = http2::Builder::new(Spawner(Rc::clone(&settings)))
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEAD_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(HyperStream::in_turns(stream))
        .await
        .map_err(ConnectError::Http)?;
    settings.streams_max.set(connection.current_max_send_streams());
    let heard = Rc::clone(&settings);
    // Errors are not lost: hyper hands them to the requests they concern.
    tokio::task::spawn_local(poll_fn(move |cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        heard.hear(connection.current_max_send_streams(), connection.is_extended_connect_protocol_enabled(), cx);
        ended.map(drop)
    }));
    Ok(Http2Connection { sender, settings })
}
