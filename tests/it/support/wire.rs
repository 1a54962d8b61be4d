//! A raw connection, from either end: what is sent is exactly what the test says, what came is exactly what came.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::{Head, within};

/// Any stream below the HTTP.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection with what was read from it and not yet looked at.
pub struct Wire {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
    /// Everything that ever came.
    record: Arc<Mutex<Vec<u8>>>,
}

/// A response with its body, and the trailers of a chunked one.
#[derive(Debug)]
pub struct Answer {
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(address)).await.expect("connecting works");
        stream.set_nodelay(true).expect("the socket is open");
        Self::new(stream)
    }

    /// Connects as a client at another address of this machine, of which 127.0.0.0/8 has many.
    pub async fn connect_from(client: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("there are sockets");
        socket.bind((client, 0).into()).expect("the address is this machine's");
        let stream = within("a connection", socket.connect(address)).await.expect("connecting works");
        stream.set_nodelay(true).expect("the socket is open");
        Self::new(stream)
    }

    pub fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), unread: Vec::new(), record: Arc::default() }
    }

    /// Keeps all that comes in `record`, too.
    pub fn recorded(self, record: Arc<Mutex<Vec<u8>>>) -> Self {
        Self { record, ..self }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("the other end takes bytes");
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let sending = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        within("the other end to take bytes", sending).await
    }

    /// Ends what we send; the other end can go on.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("the connection is open");
    }

    /// Sends a request and reads its whole answer; not for HEAD.
    pub async fn exchange(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.answer().await
    }

    /// A whole response; not for one to HEAD.
    pub async fn answer(&mut self) -> Answer {
        let head = self.head().await;
        let (body, trailers) = if head.is_chunked() {
            self.chunked().await
        } else if let Some(length) = head.content_length() {
            (self.bytes(length).await, Vec::new())
        } else if matches!(head.status(), 204 | 304) || head.status() < 200 {
            (Vec::new(), Vec::new())
        } else {
            (self.rest().await, Vec::new())
        };
        Answer { head, body, trailers }
    }

    /// The next head; there must be one.
    pub async fn head(&mut self) -> Head {
        self.next_head().await.expect("a head comes before the end")
    }

    /// The next head; `None` at the end of the connection.
    pub async fn next_head(&mut self) -> Option<Head> {
        loop {
            if let Some(at) = self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                return Some(Head::parse(&self.unread.drain(..at + 4).collect::<Vec<_>>()));
            }
            if !within("a head", self.more()).await {
                assert!(self.unread.is_empty(), "ended within a head: {:?}", String::from_utf8_lossy(&self.unread));
                return None;
            }
        }
    }

    /// The next bytes, exactly so many.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            let more = within("more bytes", self.more()).await;
            assert!(
                more,
                "ended {} bytes short: {:?}",
                count - self.unread.len(),
                String::from_utf8_lossy(&self.unread)
            );
        }
        self.unread.drain(..count).collect()
    }

    /// One line, without its end.
    pub async fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.unread.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).expect("a line is text");
            }
            assert!(within("a line", self.more()).await, "ended within a line");
        }
    }

    /// One chunk's data; empty for the last, whose trailers are still to be read.
    pub async fn chunk(&mut self) -> Vec<u8> {
        let line = self.line().await;
        let size = line.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("{line:?} is no chunk's size"));
        let data = self.bytes(size).await;
        if size > 0 {
            assert_eq!(self.line().await, "");
        }
        data
    }

    /// A chunked body and its trailers.
    pub async fn chunked(&mut self) -> (Vec<u8>, Vec<(String, String)>) {
        let mut body = Vec::new();
        loop {
            let chunk = self.chunk().await;
            if chunk.is_empty() {
                break;
            }
            body.extend_from_slice(&chunk);
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await;
            match line.split_once(':') {
                Some((name, value)) => trailers.push((name.to_owned(), value.trim().to_owned())),
                None => return (body, trailers),
            }
        }
    }

    /// The body that belongs to a request's head.
    pub async fn request_body(&mut self, head: &Head) -> Vec<u8> {
        if head.is_chunked() { self.chunked().await.0 } else { self.bytes(head.content_length().unwrap_or(0)).await }
    }

    /// The body that belongs to a request's head; `None` when the connection ends before the body does.
    pub async fn whole_request_body(&mut self, head: &Head) -> Option<Vec<u8>> {
        loop {
            let whole = if head.is_chunked() {
                whole_chunks(&self.unread)
            } else {
                let length = head.content_length().unwrap_or(0);
                (self.unread.len() >= length).then(|| (self.unread[..length].to_vec(), length))
            };
            if let Some((body, length)) = whole {
                self.unread.drain(..length);
                return Some(body);
            }
            if !within("more of a body", self.more()).await {
                return None;
            }
        }
    }

    /// Everything up to the end; a reset is an end, too.
    pub async fn rest(&mut self) -> Vec<u8> {
        while within("the end of the connection", self.more()).await {}
        std::mem::take(&mut self.unread)
    }

    /// What has come and what comes until nothing has for `pause`.
    pub async fn until_silent(&mut self, pause: Duration) -> Vec<u8> {
        while let Ok(true) = tokio::time::timeout(pause, self.more()).await {}
        std::mem::take(&mut self.unread)
    }

    /// The same, once something has come, however long that takes.
    pub async fn begun_until_silent(&mut self, pause: Duration) -> Vec<u8> {
        if self.unread.is_empty() {
            within("something to come", self.more()).await;
        }
        self.until_silent(pause).await
    }

    /// Reads once; false at the end.
    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 16 * 1024];
        let count = self.stream.read(&mut buffer).await.unwrap_or(0);
        self.record.lock().unwrap().extend_from_slice(&buffer[..count]);
        self.unread.extend_from_slice(&buffer[..count]);
        count > 0
    }
}

/// The data of a chunked body, and the number of bytes it takes with its trailers; `None` as long as it isn't whole.
fn whole_chunks(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |from: usize| bytes[from..].windows(2).position(|window| window == b"\r\n").map(|length| from + length);
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let end = line(at)?;
        let size = String::from_utf8_lossy(&bytes[at..end]).into_owned();
        let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("{size:?} is no chunk's size"));
        at = end + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        assert_eq!(bytes.get(at + size..at + size + 2)?, b"\r\n", "a chunk ends with its line");
        at += size + 2;
    }
    loop {
        let end = line(at)?;
        if end == at {
            return Some((body, at + 2));
        }
        at = end + 2;
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let count = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread.drain(..count).collect::<Vec<_>>());
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.record.lock().unwrap().extend_from_slice(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
