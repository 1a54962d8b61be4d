//! TLS handshakes: connect, one request, close.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::transport::{Connector, Secure};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n";

#[derive(Debug, Default)]
struct Counts {
    requests: Cell<u64>,
    resumed: Cell<u64>,
}

pub(crate) async fn run(
    address: SocketAddr,
    secure: &Secure,
    resumed: bool,
    connections: usize,
    time: Duration,
) -> io::Result<()> {
    let counts = Rc::new(Counts::default());
    // A ticket is good for one connection, so each client has its own.
    let secure = || if resumed { secure.clone().remembering() } else { secure.clone().forgetting() };
    let end = Instant::now() + time;
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            tokio::task::spawn_local(connect_until(end, address, secure().speaking("http/1.1"), Rc::clone(&counts)))
        })
        .collect();
    for client in clients {
        client.await??;
    }
    println!("{{\"requests\": {}, \"resumed\": {}}}", counts.requests.get(), counts.resumed.get());
    Ok(())
}

async fn connect_until(end: Instant, address: SocketAddr, connector: Connector, counts: Rc<Counts>) -> io::Result<()> {
    let mut answer = Vec::new();
    while Instant::now() < end {
        let mut stream = connector.connect(address).await?;
        stream.write_all(REQUEST).await?;
        answer.clear();
        // A close without TLS's own goodbye is as good here.
        let _ = stream.read_to_end(&mut answer).await;
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
        }
        counts.requests.update(|n| n + 1);
        let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        counts.resumed.update(|n| n + u64::from(is_resumed));
    }
    Ok(())
}
