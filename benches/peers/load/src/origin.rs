//! An origin for what nginx can't answer: gRPC, with its trailers, and WebSocket.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::open::Spawner;
use crate::websocket::{ACCEPT, read_head};

/// A message of 13 bytes, in gRPC's framing.
const GRPC_ANSWER: &[u8] = b"\0\0\0\0\x0d\x0a\x0bhello there";

pub(crate) async fn run(grpc: Vec<SocketAddr>, websocket: Vec<SocketAddr>) -> io::Result<()> {
    for address in grpc {
        let listener = TcpListener::bind(address).await?;
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let serving = http2::Builder::new(Spawner)
                    .max_concurrent_streams(10_000)
                    .serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::task::spawn_local(serving);
            }
        });
    }
    for address in websocket {
        let listener = TcpListener::bind(address).await?;
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(echo(stream));
            }
        });
    }
    std::future::pending().await
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, hyper::Error> {
    request.into_body().collect().await?;
    let trailers = async {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    };
    let mut response = Response::new(Full::new(Bytes::from_static(GRPC_ANSWER)).with_trailers(Box::pin(trailers)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    read_head(&mut stream).await?;
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut message = [0; 6 + 125];
    loop {
        stream.read_exact(&mut message[..6]).await?;
        // The mask is all zeros: the payload goes back as it came.
        let length = usize::from(message[1] & 0x7f);
        let Some(payload) = message.get_mut(6..6 + length) else { return Ok(()) };
        stream.read_exact(payload).await?;
        message[4] = message[0];
        message[5] = length as u8;
        stream.write_all(&message[4..6 + length]).await?;
    }
}
