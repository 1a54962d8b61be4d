//! Connections that only have to be there.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, stdin};
use tokio::net::TcpStream;

use crate::load::connect;
use crate::open::Spawner;
use crate::transport::{Connector, Secure, Transport};

/// So many connect at the same time.
const AT_ONCE: usize = 200;
/// The least that a slow reader's kernel takes in for it.
const SMALL_BUFFER_BYTES: usize = 4096;

/// Kept open as long as it isn't dropped.
enum Connection {
    Http1 { _stream: Box<dyn Stream> },
    Http2 { _sender: SendRequest<Empty<Bytes>> },
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

pub(crate) async fn run(
    address: SocketAddr,
    transport: Transport,
    secure: Secure,
    connections: usize,
    slow: Option<String>,
) -> io::Result<()> {
    let connector = secure.speaking(if transport == Transport::H2 { "h2" } else { "http/1.1" });
    let mut held = Vec::with_capacity(connections);
    while held.len() < connections {
        let opening: Vec<_> = (0..AT_ONCE.min(connections - held.len()))
            .map(|_| tokio::task::spawn_local(open(address, transport, connector.clone(), slow.clone())))
            .collect();
        for connection in opening {
            held.push(connection.await??);
        }
    }
    println!("{{\"connections\": {}}}", held.len());
    let _ = stdin().read_u8().await;
    Ok(())
}

async fn open(
    address: SocketAddr,
    transport: Transport,
    connector: Connector,
    slow: Option<String>,
) -> io::Result<Connection> {
    match (transport, slow) {
        (_, Some(path)) => read_slowly(address, &path).await,
        (Transport::Plain, None) => ask(connect(address).await?).await,
        (Transport::Tls, None) => ask(connector.connect(address).await?).await,
        (Transport::H2, None) => {
            let stream = TokioIo::new(connector.connect(address).await?);
            let (mut sender, connection) = handshake(Spawner, stream).await.map_err(io::Error::other)?;
            tokio::task::spawn_local(connection);
            let request = Request::get("https://shop.test/").body(Empty::new()).map_err(io::Error::other)?;
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            answer.into_body().collect().await.map_err(io::Error::other)?;
            Ok(Connection::Http2 { _sender: sender })
        }
    }
}

async fn ask(mut stream: impl Stream + 'static) -> io::Result<Connection> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await?;
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer).await?;
    if !answer[..read].starts_with(b"HTTP/1.1 200") {
        return Err(io::Error::other(String::from_utf8_lossy(&answer[..read]).into_owned()));
    }
    Ok(Connection::Http1 { _stream: Box::new(stream) })
}

async fn read_slowly(address: SocketAddr, path: &str) -> io::Result<Connection> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
    socket.connect(&address.into())?;
    socket.set_nonblocking(true)?;
    let mut stream = TcpStream::from_std(socket.into())?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\n\r\n").as_bytes()).await?;
    stream.read_exact(&mut [0; 512]).await?;
    Ok(Connection::Http1 { _stream: Box::new(stream) })
}
