//! A request as it is written: its head at once, its body as it comes.

use std::io::IoSlice;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, HOST, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request};
use http_body::Body;
use tokio::io::AsyncWrite;

use super::answer::digits;
use super::io::Io;
use crate::upstream::{BodyError, RequestBody};

/// What is written at once is gathered up to this size: copying it costs less than a longer path through the kernel,
/// or one TLS record more.
const GATHER_BYTES: usize = 8 * 1024;
const LINE_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n";

/// How the endpoint is told where a body ends.
#[derive(Debug)]
enum Framing {
    /// There is none, or all of it has been taken.
    Ended,
    /// So many bytes are still to come.
    Length(u64),
    /// With these trailers, if they come.
    Chunked(Option<Box<[HeaderValue]>>),
}

/// Why a request can't be written to its end.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The endpoint takes no more.
    Io(std::io::Error),
    Body(BodyError),
    /// It isn't as long as its head says.
    Length,
}

/// What is still to be written.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Goes first, from `written` on.
    gathered: Vec<u8>,
    written: usize,
    /// Goes then: what is too much to be copied.
    data: Bytes,
    /// And then the end of its chunk.
    owes_line_end: bool,
    body: RequestBody,
    framing: Framing,
    /// Something is in the stream's own buffers, perhaps.
    unflushed: bool,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            gathered: Vec::new(),
            written: 0,
            data: Bytes::new(),
            owes_line_end: false,
            body: RequestBody::Empty,
            framing: Framing::Ended,
            unflushed: false,
        }
    }
}

impl Outgoing {
    /// Everything has been written.
    pub(super) fn is_done(&self) -> bool {
        let is_written = self.gathered.is_empty() && self.data.is_empty() && !self.owes_line_end && !self.unflushed;
        is_written && matches!(self.framing, Framing::Ended)
    }

    /// Begins with another request, whose body is taken out of it. `authority` is for requests that name no host.
    pub(super) fn begin(&mut self, request: &mut Request<RequestBody>, authority: &HeaderValue) {
        self.body = mem::replace(request.body_mut(), RequestBody::Empty);
        self.framing = write_head(&mut self.gathered, request, authority, self.body.is_empty());
    }

    /// Nothing is to be written for now: lets go of a large buffer.
    pub(super) fn rest(&mut self) {
        if self.gathered.capacity() > 2 * GATHER_BYTES {
            self.gathered = Vec::new();
        }
    }

    /// What it was to be sent is of no use any more.
    pub(super) fn give_up(&mut self) {
        *self = Self::default();
    }

    /// Writes what there is, until all has been.
    pub(super) fn poll(&mut self, io: &mut Io, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        loop {
            let pending = self.gather(cx)?;
            let gathered = &self.gathered[self.written..];
            if !gathered.is_empty() || !self.data.is_empty() {
                let stream = Pin::new(&mut *io);
                let wrote = match (gathered, &*self.data) {
                    ([], data) => stream.poll_write(cx, data),
                    (gathered, []) => stream.poll_write(cx, gathered),
                    (gathered, data) => stream.poll_write_vectored(cx, &[IoSlice::new(gathered), IoSlice::new(data)]),
                };
                let count = ready!(wrote).map_err(WriteError::Io)?;
                if count == 0 {
                    return Poll::Ready(Err(WriteError::Io(std::io::ErrorKind::WriteZero.into())));
                }
                self.wrote(count);
                continue;
            }
            if self.unflushed {
                ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(WriteError::Io)?;
                self.unflushed = false;
            }
            return if pending { Poll::Pending } else { Poll::Ready(Ok(())) };
        }
    }

    fn wrote(&mut self, count: usize) {
        let of_gathered = count.min(self.gathered.len() - self.written);
        self.written += of_gathered;
        if self.written == self.gathered.len() {
            self.gathered.clear();
            self.written = 0;
        }
        self.data.advance(count - of_gathered);
        self.unflushed = true;
    }

    /// Takes what there is of the body, as long as that is little; true while there is nothing and more is to come.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, WriteError> {
        if self.owes_line_end && self.data.is_empty() {
            self.gathered.extend_from_slice(LINE_END);
            self.owes_line_end = false;
        }
        while !matches!(self.framing, Framing::Ended) && self.data.is_empty() && self.gathered.len() < GATHER_BYTES {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return Ok(true) };
            let Some(frame) = frame.transpose().map_err(WriteError::Body)? else {
                self.end(None)?;
                break;
            };
            match frame.into_data() {
                Ok(data) => {
                    self.data(data)?;
                    if self.body.is_end_stream() && !self.owes_line_end {
                        self.end(None)?;
                    }
                }
                Err(frame) => self.end(frame.trailers_ref())?,
            }
        }
        Ok(false)
    }

    fn data(&mut self, data: Bytes) -> Result<(), WriteError> {
        // An empty chunk would be the last one.
        if data.is_empty() {
            return Ok(());
        }
        let is_chunk = match &mut self.framing {
            Framing::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WriteError::Length)?;
                false
            }
            Framing::Chunked(_) => {
                write_hex(&mut self.gathered, data.len());
                self.gathered.extend_from_slice(LINE_END);
                true
            }
            Framing::Ended => return Err(WriteError::Length),
        };
        if self.gathered.len() + data.len() <= GATHER_BYTES {
            self.gathered.extend_from_slice(&data);
            if is_chunk {
                self.gathered.extend_from_slice(LINE_END);
            }
        } else {
            (self.data, self.owes_line_end) = (data, is_chunk);
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), WriteError> {
        // It may hold what was kept of it, or its client's connection.
        self.body = RequestBody::Empty;
        match mem::replace(&mut self.framing, Framing::Ended) {
            Framing::Length(0) | Framing::Ended => {}
            Framing::Length(_) => return Err(WriteError::Length),
            Framing::Chunked(declared) => {
                self.gathered.extend_from_slice(LAST_CHUNK);
                for (name, value) in trailers.into_iter().flatten() {
                    if declared.iter().flatten().any(|names| declares(names, name.as_str())) {
                        write_field(&mut self.gathered, name.as_str().as_bytes(), value.as_bytes());
                    }
                }
                self.gathered.extend_from_slice(LINE_END);
            }
        }
        Ok(())
    }
}

/// Writes the head of a request in the form that HTTP/1.1 has for it; returns how its body's end is told.
fn write_head(out: &mut Vec<u8>, request: &Request<RequestBody>, authority: &HeaderValue, is_empty: bool) -> Framing {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.extend_from_slice(b" ");
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // A query may stand alone in an absolute URI.
    if path.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut length = None;
    let mut names_host = false;
    for (name, value) in request.headers() {
        // Written below, once, and as what it is.
        if *name == CONTENT_LENGTH {
            length = length.or_else(|| digits(value.as_bytes()));
            continue;
        }
        if *name == TRANSFER_ENCODING {
            continue;
        }
        names_host |= *name == HOST;
        write_field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    // Only HTTP/1.0 may do without, and what we send on is HTTP/1.1.
    if !names_host {
        write_field(out, HOST.as_str().as_bytes(), authority.as_bytes());
    }
    let framing = match length {
        _ if is_empty => {
            if length.is_some() {
                write_field(out, CONTENT_LENGTH.as_str().as_bytes(), b"0");
            }
            Framing::Ended
        }
        Some(length) => {
            write_field(out, CONTENT_LENGTH.as_str().as_bytes(), length.to_string().as_bytes());
            Framing::Length(length)
        }
        None => {
            write_field(out, TRANSFER_ENCODING.as_str().as_bytes(), b"chunked");
            let declared = request.headers().get_all(TRAILER).iter().cloned().collect::<Box<[_]>>();
            Framing::Chunked(Some(declared).filter(|declared| !declared.is_empty()))
        }
    };
    out.extend_from_slice(LINE_END);
    framing
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(LINE_END);
}

fn write_hex(out: &mut Vec<u8>, number: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for at in (0..digits).rev() {
        out.extend_from_slice(&[DIGITS[(number >> (4 * at)) & 15]]);
    }
}

/// Whether a `Trailer` line names a field: others would be news to whoever reads them.
fn declares(names: &HeaderValue, field: &str) -> bool {
    names.as_bytes().split(|b| *b == b',').any(|name| name.trim_ascii().eq_ignore_ascii_case(field.as_bytes()))
}
