//! HTTP/2 byte by byte: frames and field blocks as a test writes them, whether HTTP/2 allows them or not.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;

use super::{Wire, within};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A field of a block: any bytes.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A frame as it goes over the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame isn't that long").to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A block of fields, each a literal that no table remembers (RFC 7541, 6.2.2).
pub fn block(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        push_string(&mut block, name);
        push_string(&mut block, value);
    }
    block
}

/// One field that both ends' tables remember (RFC 7541, 6.2.1); the newest is number 62.
pub fn remembered((name, value): Field) -> Vec<u8> {
    let mut block = vec![0x40];
    push_string(&mut block, name);
    push_string(&mut block, value);
    block
}

/// A string without Huffman's code (RFC 7541, 5.2).
fn push_string(block: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text.len();
    if rest < 127 {
        block.push(rest as u8);
    } else {
        block.push(127);
        rest -= 127;
        while rest >= 128 {
            block.push((rest % 128) as u8 | 128);
            rest /= 128;
        }
        block.push(rest as u8);
    }
    block.extend_from_slice(text);
}

/// `GET path` for shop.test, whole.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    let fields: [Field; 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"shop.test"), (b":path", path.as_bytes())];
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(&fields))
}

/// `POST path` for shop.test, whose body is still to come.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    let fields: [Field; 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"shop.test"), (b":path", path.as_bytes())];
    frame(HEADERS, END_HEADERS, stream, &block(&fields))
}

/// A setting of RFC 9113, 6.5.2.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// What became of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The status, where it is one of those that HPACK has numbers for; otherwise 0.
    Answered(u16),
    /// By RST_STREAM, with its error.
    Reset(u32),
    /// All of the connection, by GOAWAY with its error.
    GoneAway(u32),
    /// All of the connection, without a word.
    Closed,
}

/// A client's connection.
pub struct Frames {
    pub wire: Wire,
}

impl Frames {
    /// Connects and says what every client says first.
    pub async fn open(address: SocketAddr) -> Self {
        let mut wire = Wire::connect(address).await;
        wire.send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await;
        Self { wire }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.wire.send(bytes).await;
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        within("a frame", self.wire.read_exact(&mut head)).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        within("a frame's payload", self.wire.read_exact(&mut payload)).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], stream, payload })
    }

    /// Reads until it is known what becomes of a stream. Frames of other streams are lost.
    pub async fn fate(&mut self, stream: u32) -> Fate {
        loop {
            let Some(frame) = self.next().await else { return Fate::Closed };
            match frame.kind {
                HEADERS if frame.stream == stream => return Fate::Answered(status(&frame.payload)),
                RST_STREAM if frame.stream == stream => return Fate::Reset(number(&frame.payload)),
                GOAWAY => return Fate::GoneAway(number(&frame.payload[4..])),
                _ => {}
            }
        }
    }
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().expect("four bytes"))
}

/// Of a block that begins with one of the static table's statuses.
fn status(block: &[u8]) -> u16 {
    match block.first() {
        Some(0x88) => 200,
        Some(0x89) => 204,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        Some(0x8e) => 500,
        _ => 0,
    }
}
