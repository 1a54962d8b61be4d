//! Endpoints inside the test: each connection runs a script, and what came is kept.

use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::{Head, Wire};

/// One request as an endpoint received it.
#[derive(Debug, Clone)]
pub struct Received {
    pub head: Head,
    pub body: Vec<u8>,
}

impl Received {
    /// Path and query.
    pub fn target(&self) -> &str {
        self.head.line.split(' ').nth(1).expect("a request line has a target")
    }
}

/// An endpoint; gone when dropped, which also fails the test if a script panicked.
pub struct Upstream {
    pub address: SocketAddr,
    secure: bool,
    state: Arc<State>,
    accepting: AbortHandle,
}

#[derive(Default)]
struct State {
    requests: Mutex<Vec<Received>>,
    /// By connection.
    bytes: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    open: AtomicUsize,
    running: Mutex<Vec<AbortHandle>>,
    panicked: AtomicBool,
}

impl Upstream {
    /// Answers every request with `response`, byte for byte, and keeps the connection.
    pub async fn answering(response: &'static str) -> Self {
        Self::responding(move |_| response.into()).await
    }

    /// Answers every request with what `respond` makes of it, byte for byte, and keeps the connection.
    pub async fn responding(respond: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::responding_over(None, respond).await
    }

    /// The same over TLS, or not.
    pub async fn responding_over(
        tls: Option<TlsAcceptor>,
        respond: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let state = Arc::new(State::default());
        let (respond, known) = (Arc::new(respond), Arc::clone(&state));
        let script = move |mut wire: Wire, _| {
            let (respond, known) = (Arc::clone(&respond), Arc::clone(&known));
            async move {
                while let Some(head) = wire.next_head().await {
                    // One that breaks off is none.
                    let Some(body) = wire.whole_request_body(&head).await else { return };
                    let received = Received { head, body };
                    known.requests.lock().unwrap().push(received.clone());
                    if wire.try_send(respond(&received)).await.is_err() {
                        return;
                    }
                }
            }
        };
        Self::start(tls, state, script).await
    }

    /// Runs `script` on every connection, which is closed when it ends. The script also gets the connection's
    /// number, from 0.
    pub async fn scripted<F>(script: impl Fn(Wire, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(None, Arc::default(), script).await
    }

    /// The same over TLS.
    pub async fn scripted_over<F>(tls: TlsAcceptor, script: impl Fn(Wire, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(Some(tls), Arc::default(), script).await
    }

    async fn start<F>(
        tls: Option<TlsAcceptor>,
        state: Arc<State>,
        script: impl Fn(Wire, usize) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let secure = tls.is_some();
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&state), Arc::new(script))).abort_handle();
        Self { address, secure, state, accepting }
    }

    /// As proxy.toml names it.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.address)
    }

    /// Requests received whole so far; scripted endpoints don't count any.
    pub fn requests(&self) -> Vec<Received> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The one request received so far.
    pub fn request(&self) -> Received {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().expect("there is one")
    }

    /// All bytes received so far on a connection.
    pub fn bytes(&self, connection: usize) -> Vec<u8> {
        let record = self.state.bytes.lock().unwrap().get(connection).cloned();
        record.map(|record| record.lock().unwrap().clone()).unwrap_or_default()
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.state.bytes.lock().unwrap().len()
    }

    /// Connections whose script hasn't ended.
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Closes all connections, as a restart does.
    pub async fn close_all(&self) {
        self.state.running.lock().unwrap().drain(..).for_each(|script| script.abort());
        super::eventually("all connections are closed", || self.open() == 0).await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.running.lock().unwrap().drain(..).for_each(|script| script.abort());
        if !std::thread::panicking() {
            assert!(!self.state.panicked.load(Ordering::SeqCst), "a script of the endpoint panicked");
        }
    }
}

async fn accept<F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    state: Arc<State>,
    script: Arc<impl Fn(Wire, usize) -> F + Send + Sync + 'static>,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.expect("the listener is open");
        stream.set_nodelay(true).expect("the socket is open");
        let record = Arc::default();
        let connection = {
            let mut records = state.bytes.lock().unwrap();
            records.push(Arc::clone(&record));
            records.len() - 1
        };
        let open = Open::begin(&state);
        let (tls, script, known) = (tls.clone(), Arc::clone(&script), Arc::clone(&state));
        let run = async move {
            let _open = open;
            let wire = match tls {
                None => Wire::new(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Wire::new(stream),
                    Err(_) => return,
                },
            };
            if AssertUnwindSafe(script(wire.recorded(record), connection)).catch_unwind().await.is_err() {
                known.panicked.store(true, Ordering::SeqCst);
            }
        };
        state.running.lock().unwrap().push(tokio::spawn(run).abort_handle());
    }
}

/// Counts a connection as open.
struct Open(Arc<State>);

impl Open {
    fn begin(state: &Arc<State>) -> Self {
        state.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An address that refuses every connection, and that nobody else gets meanwhile.
pub struct Refusing {
    pub address: SocketAddr,
    _socket: Socket,
}

impl Refusing {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("there are sockets");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("loopback has free ports");
        let address = socket.local_addr().ok().and_then(|address| address.as_socket());
        Self { address: address.expect("a bound socket has an address"), _socket: socket }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
