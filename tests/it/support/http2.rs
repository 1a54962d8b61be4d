//! HTTP/2 from either end, by the h2 crate alone, so that a test sees streams and not only messages.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use super::{Upstream, Wire, within};

/// A client's connection; closed when dropped.
pub struct Http2 {
    pub sender: client::SendRequest<Bytes>,
    driver: AbortHandle,
}

/// A whole message.
#[derive(Debug)]
pub struct Message {
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Http2 {
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        // What one stream doesn't take leaves room for others.
        let mut builder = client::Builder::new();
        let handshake = builder.initial_window_size(1 << 20).initial_connection_window_size(16 << 20).handshake(stream);
        let (sender, connection) = within("an HTTP/2 handshake", handshake).await.expect("the handshake works");
        let driver = tokio::spawn(async { drop(connection.await) }).abort_handle();
        Self { sender, driver }
    }

    /// Begins a request; its body is sent by the caller.
    pub async fn begin(&self, request: Request<()>) -> (client::ResponseFuture, SendStream<Bytes>) {
        self.start(request, false).await
    }

    /// A request without a body.
    pub async fn ask(&self, request: Request<()>) -> client::ResponseFuture {
        self.start(request, true).await.0
    }

    /// Asks for a WebSocket by extended CONNECT; the stream is good for anything once the answer is 200.
    pub async fn open_websocket(&self, target: &str) -> (Response<()>, Option<DuplexStream>) {
        while !self.sender.is_extended_connect_protocol_enabled() {
            tokio::time::sleep(super::POLL_INTERVAL).await;
        }
        let mut request = Request::connect(format!("http://shop.test{target}")).body(()).expect("a target is a target");
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let (response, send) = self.begin(request).await;
        let (parts, receive) = within("an answer", response).await.expect("an answer comes").into_parts();
        let stream = (parts.status == StatusCode::OK).then(|| duplex(send, receive));
        (Response::from_parts(parts, ()), stream)
    }

    async fn start(&self, request: Request<()>, ended: bool) -> (client::ResponseFuture, SendStream<Bytes>) {
        let sender = within("room for a stream", self.sender.clone().ready()).await;
        sender.expect("the connection is open").send_request(request, ended).expect("the request is one")
    }

    /// A request without a body, and its whole answer.
    pub async fn exchange(&self, request: Request<()>) -> (StatusCode, Message) {
        whole(self.ask(request).await).await
    }

    /// `GET target` for `shop.test`.
    pub async fn fetch(&self, target: &str) -> (StatusCode, Message) {
        self.exchange(get(target)).await
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// `GET target` for `shop.test`.
pub fn get(target: &str) -> Request<()> {
    Request::get(format!("http://shop.test{target}")).body(()).expect("a target is a target")
}

/// An answer to its end; it must have one.
pub async fn whole(response: client::ResponseFuture) -> (StatusCode, Message) {
    let response = within("an answer", response).await.expect("an answer comes");
    let (parts, body) = response.into_parts();
    let (body, trailers) = collect(body).await.expect("the body ends");
    (parts.status, Message { headers: parts.headers, body, trailers })
}

/// A body and its trailers.
pub async fn collect(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut bytes = Vec::new();
    while let Some(data) = within("more of the body", body.data()).await {
        let data = data?;
        bytes.extend_from_slice(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((bytes, within("the trailers", body.trailers()).await?))
}

/// One request at an HTTP/2 endpoint.
pub struct Stream {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
    /// Which of its connection's requests it is, from 0.
    pub index: usize,
}

impl Stream {
    /// Answers 200 with a body.
    pub fn answer(mut self, body: &str) {
        let mut stream = self.respond.send_response(Response::new(()), false).expect("the stream is open");
        stream.send_data(Bytes::copy_from_slice(body.as_bytes()), true).expect("the stream is open");
    }

    /// Agrees to an extended CONNECT.
    pub fn switch(mut self) -> DuplexStream {
        let send = self.respond.send_response(Response::new(()), false).expect("the stream is open");
        duplex(send, self.request.into_body())
    }

    /// What extended CONNECT asks for.
    pub fn protocol(&self) -> Option<&str> {
        self.request.extensions().get::<Protocol>().map(Protocol::as_str)
    }
}

/// The two halves of an HTTP/2 stream as one stream of bytes.
fn duplex(mut send: SendStream<Bytes>, mut receive: RecvStream) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut reader, mut writer) = tokio::io::split(ours);
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(count) = reader.read(&mut buffer).await {
            if send.send_data(Bytes::copy_from_slice(&buffer[..count]), count == 0).is_err() || count == 0 {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(data)) = receive.data().await {
            let _ = receive.flow_control().release_capacity(data.len());
            if writer.write_all(&data).await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    });
    theirs
}

/// An endpoint that speaks HTTP/2 and hands each request to `handle`.
pub async fn http2_endpoint<F>(
    tls: Option<TlsAcceptor>,
    handle: impl Fn(Stream) -> F + Send + Sync + 'static,
) -> Upstream
where
    F: Future<Output = ()> + Send + 'static,
{
    let handle = Arc::new(handle);
    let script = move |wire: Wire, _| {
        let handle = Arc::clone(&handle);
        async move {
            let mut builder = server::Builder::new();
            builder.enable_connect_protocol().max_concurrent_streams(100).initial_window_size(1 << 20);
            let Ok(mut accepted) = builder.handshake::<_, Bytes>(wire).await else { return };
            let mut index = 0;
            while let Some(Ok((request, respond))) = accepted.accept().await {
                tokio::spawn(handle(Stream { request, respond, index }));
                index += 1;
            }
        }
    };
    match tls {
        None => Upstream::scripted(script).await,
        Some(tls) => Upstream::scripted_over(tls, script).await,
    }
}
