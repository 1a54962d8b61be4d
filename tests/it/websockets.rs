//! WebSockets by a real implementation, over every pair of protocols.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::support::http2::{Http2, Stream, http2_endpoint};
use crate::support::{Authority, Proxy, Setup, Upstream, Wire, eventually, within};

/// Says every message again until the client closes.
async fn echo(mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) {
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn http1_echo() -> Upstream {
    Upstream::scripted(|wire: Wire, _| async move {
        if let Ok(socket) = accept_async(wire).await {
            echo(socket).await;
        }
    })
    .await
}

async fn http2_echo() -> Upstream {
    http2_endpoint(None, |stream| async move {
        assert_eq!((stream.protocol(), stream.request.method().as_str()), (Some("websocket"), "CONNECT"));
        assert_eq!(
            (stream.request.uri().path(), &stream.request.headers()["sec-websocket-version"]),
            ("/chat", &"13".parse().unwrap())
        );
        assert!(!stream.request.headers().contains_key("sec-websocket-key"));
        echo(WebSocketStream::from_raw_socket(stream.switch(), Role::Server, None).await).await;
    })
    .await
}

/// Talks for a while, in small and in large, and says goodbye.
async fn talk(mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) {
    let large = Message::binary((0..200_000_u32).map(|at| at.to_le_bytes()[0]).collect::<Vec<_>>());
    for message in [Message::text("hello"), large, Message::text("")] {
        socket.send(message.clone()).await.expect("the tunnel is open");
        let echoed = within("the echo", socket.next()).await.expect("the tunnel is open");
        assert_eq!(echoed.expect("the tunnel is open"), message);
    }
    socket.send(Message::Ping("are you there".into())).await.expect("the tunnel is open");
    let pong = within("the pong", socket.next()).await.expect("the tunnel is open").expect("the tunnel is open");
    assert_eq!(pong, Message::Pong("are you there".into()));
    socket.close(None).await.expect("the tunnel is open");
    let last = within("the goodbye", socket.next()).await;
    assert!(matches!(last, Some(Ok(Message::Close(_)))), "{last:?}");
    assert!(within("the end", socket.next()).await.is_none());
}

async fn http1_client(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let (socket, response) = within("the upgrade", client_async("ws://shop.test/chat", stream)).await.expect("a yes");
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    talk(socket).await;
}

async fn http2_client(client: &Http2) {
    // tonic's and browsers' clients send the version; ours doesn't, and an HTTP/1 endpoint must get it all the same.
    let (response, stream) = within("the upgrade", client.open_websocket("/chat")).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    talk(WebSocketStream::from_raw_socket(stream.expect("a yes"), Role::Client, None).await).await;
}

async fn before(upstream: &Upstream, protocol: &str) -> (Authority, Proxy) {
    let authority = Authority::new();
    let setup = Setup::new().certificate(&authority.pair(&["shop.test"]));
    let proxy = setup.backend(&[upstream.url()], &format!("protocol = {protocol:?}")).start().await;
    (authority, proxy)
}

/// What must hold once all clients are gone.
async fn nothing_stays(proxy: &Proxy) {
    proxy.metric_becomes("tidegate_tunnels_open", "", 0).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
}

#[tokio::test]
async fn a_websocket_passes_over_http1_to_an_http1_endpoint() {
    let upstream = http1_echo().await;
    let (authority, proxy) = before(&upstream, "h1").await;
    http1_client(proxy.connect().await).await;
    http1_client(Box::new(authority.connect(proxy.https(), "shop.test", &["http/1.1"]).await)).await;
    nothing_stays(&proxy).await;
    eventually("the endpoint's ends are closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn a_websocket_passes_over_http2_to_an_http1_endpoint() {
    let upstream = http1_echo().await;
    let (authority, proxy) = before(&upstream, "h1").await;
    let plain = Http2::over(proxy.connect().await).await;
    http2_client(&plain).await;
    http2_client(&plain).await;
    http2_client(&Http2::over(authority.connect(proxy.https(), "shop.test", &["h2"]).await).await).await;
    nothing_stays(&proxy).await;
    eventually("the endpoint's ends are closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn a_websocket_passes_over_http1_to_an_http2_endpoint() {
    let upstream = http2_echo().await;
    let (authority, proxy) = before(&upstream, "h2").await;
    http1_client(proxy.connect().await).await;
    http1_client(Box::new(authority.connect(proxy.https(), "shop.test", &[]).await)).await;
    nothing_stays(&proxy).await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_websocket_passes_over_http2_to_an_http2_endpoint() {
    let upstream = http2_endpoint(None, |stream| async move {
        echo(WebSocketStream::from_raw_socket(stream.switch(), Role::Server, None).await).await;
    })
    .await;
    let (_authority, proxy) = before(&upstream, "h2").await;
    let client = Http2::over(proxy.connect().await).await;
    http2_client(&client).await;
    http2_client(&client).await;
    nothing_stays(&proxy).await;
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_http2_endpoint_may_take_a_moment_to_say_that_it_knows_websockets() {
    let upstream = Upstream::scripted(|wire: Wire, _| async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut builder = h2::server::Builder::new();
        let handshake = builder.enable_connect_protocol().handshake::<_, Bytes>(wire);
        let mut connection = handshake.await.expect("the handshake works");
        while let Some(Ok((request, respond))) = connection.accept().await {
            let stream = Stream { request, respond, index: 0 }.switch();
            tokio::spawn(async { echo(WebSocketStream::from_raw_socket(stream, Role::Server, None).await).await });
        }
    })
    .await;
    let (_authority, proxy) = before(&upstream, "h2").await;
    http1_client(proxy.connect().await).await;
}

#[tokio::test]
async fn a_refusal_is_passed_on_as_it_is() {
    let upstream = Upstream::answering("HTTP/1.1 403 Forbidden\r\nx-why: no\r\ncontent-length: 7\r\n\r\nkeep ou").await;
    let (_authority, proxy) = before(&upstream, "h1").await;
    let refused = within("the answer", client_async("ws://shop.test/chat", proxy.connect().await)).await;
    let Err(tungstenite::Error::Http(response)) = refused else { panic!("no answer of HTTP") };
    assert_eq!((response.status().as_u16(), &response.headers()["x-why"]), (403, &"no".parse().unwrap()));
    let client = Http2::over(proxy.connect().await).await;
    let (response, stream) = client.open_websocket("/chat").await;
    assert_eq!((response.status().as_u16(), stream.is_none()), (403, true));
    nothing_stays(&proxy).await;
}

#[tokio::test]
async fn an_http2_endpoint_that_knows_no_websockets_is_a_502() {
    let upstream = Upstream::scripted(|wire: Wire, _| async move {
        let mut connection = h2::server::handshake(wire).await.expect("the handshake works");
        assert!(connection.accept().await.is_none(), "nothing is sent that it can't understand");
    })
    .await;
    let (_authority, proxy) = before(&upstream, "h2").await;
    let refused = within("the answer", client_async("ws://shop.test/chat", proxy.connect().await)).await;
    assert!(matches!(refused, Err(tungstenite::Error::Http(response)) if response.status() == 502));
    let client = Http2::over(proxy.connect().await).await;
    assert_eq!(client.open_websocket("/chat").await.0.status(), 502);
}
