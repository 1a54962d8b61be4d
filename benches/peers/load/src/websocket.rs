//! WebSocket messages that come back. Masked, as a client must, with a mask of zeros.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::connect;

const MESSAGE_BYTES: usize = 64;
/// The key and its answer are RFC 6455's own example.
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const HEAD: &[u8] = b"GET /ws HTTP/1.1\r\nhost: shop.test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

pub(crate) async fn run(address: SocketAddr, connections: usize, time: Duration) -> io::Result<()> {
    let messages = Rc::new(Cell::new(0));
    let end = Instant::now() + time;
    let clients: Vec<_> =
        (0..connections).map(|_| tokio::task::spawn_local(talk_until(end, address, Rc::clone(&messages)))).collect();
    for client in clients {
        client.await??;
    }
    println!("{{\"requests\": {}}}", messages.get());
    Ok(())
}

async fn talk_until(end: Instant, address: SocketAddr, messages: Rc<Cell<u64>>) -> io::Result<()> {
    let mut stream = connect(address).await?;
    stream.write_all(HEAD).await?;
    let head = read_head(&mut stream).await?;
    if !head.starts_with("HTTP/1.1 101") {
        return Err(io::Error::other(head));
    }
    let mut message = vec![0x82, 0x80 | MESSAGE_BYTES as u8, 0, 0, 0, 0];
    message.resize(message.len() + MESSAGE_BYTES, b'x');
    let mut echo = [0; 2 + MESSAGE_BYTES];
    while Instant::now() < end {
        stream.write_all(&message).await?;
        stream.read_exact(&mut echo).await?;
        messages.update(|n| n + 1);
    }
    Ok(())
}

pub(crate) async fn read_head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
