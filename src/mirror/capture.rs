//! What is kept of an answer while it passes, to be compared: a few headers and the beginning of the body.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::observe::MirrorShare;
use crate::shadow::{Answer, AnswerEnd};

/// Smaller pieces are copied: each would keep the whole buffer that it was read into.
const COPIED_BELOW: usize = 4096;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// See the module's text.
#[derive(Debug)]
pub struct Capture {
    body_max: usize,
    status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    encoding: bool,
    head_after: Duration,
    pieces: Vec<Bytes>,
    /// Small pieces since the last large one.
    small: BytesMut,
    kept: usize,
    length: u64,
    share: MirrorShare,
    lacks_memory: bool,
}

impl Capture {
    /// Of an answer that is still to come.
    #[must_use]
    pub fn new(body_max: usize, share: MirrorShare) -> Self {
        Self {
            body_max,
            status: 0,
            headers: Vec::new(),
            encoding: false,
            head_after: Duration::ZERO,
            pieces: Vec::new(),
            small: BytesMut::new(),
            kept: 0,
            length: 0,
            share,
            lacks_memory: false,
        }
    }

    /// The head has come; in place of one that wasn't passed on. `names`: what is compared of it.
    pub fn head<'n>(&mut self, status: StatusCode, headers: &HeaderMap, names: impl Iterator<Item = &'n HeaderName>) {
        self.status = status.as_u16();
        self.headers.clear();
        let is_identity = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
        self.encoding = !headers.get_all(CONTENT_ENCODING).iter().all(is_identity);
        self.add(headers, names);
    }

    /// How long after the request the head came.
    pub fn head_after(&mut self, time: Duration) {
        self.head_after = time;
    }

    /// Where gRPC says how a call ended, and others what could be said in a head as well.
    pub fn trailers<'n>(&mut self, trailers: &HeaderMap, names: impl Iterator<Item = &'n HeaderName>) {
        self.add(trailers, names);
    }

    fn add<'n>(&mut self, headers: &HeaderMap, names: impl Iterator<Item = &'n HeaderName>) {
        let mut add = |name: &HeaderName| {
            // Copied: a value of an HTTP/1 head keeps the buffer that it was read into.
            let values = headers.get_all(name).iter().filter_map(|v| HeaderValue::from_bytes(v.as_bytes()).ok());
            self.headers.extend(values.map(|value| (name.clone(), value)));
        };
        add(&CONTENT_TYPE);
        add(&GRPC_STATUS);
        names.filter(|name| **name != GRPC_STATUS).for_each(add);
    }

    /// Some of the body has come.
    pub fn data(&mut self, data: &Bytes) {
        self.length += data.len() as u64;
        let wanted = data.len().min(self.body_max - self.kept);
        if wanted == 0 || self.lacks_memory {
            return;
        }
        if !self.share.take(wanted) {
            self.lacks_memory = true;
            return;
        }
        self.kept += wanted;
        if wanted < COPIED_BELOW {
            self.small.extend_from_slice(&data[..wanted]);
        } else {
            self.end_small();
            self.pieces.push(data.slice(..wanted));
        }
    }

    fn end_small(&mut self) {
        if !self.small.is_empty() {
            self.pieces.push(self.small.split().freeze());
        }
    }

    /// The body is so long at least, by what its head says.
    pub fn announced(&mut self, length: u64) {
        self.length = self.length.max(length);
    }

    /// Bytes of the body so far, those that aren't kept included.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// A head has come.
    #[must_use]
    pub fn has_head(&self) -> bool {
        self.status != 0
    }

    /// There is no endpoint's answer: this is what the client gets instead.
    pub fn replaced(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    /// What was kept, with the memory that it holds; `None` where that was too much.
    #[must_use]
    pub fn finish(mut self, end: AnswerEnd, whole_after: Duration) -> Option<(Answer, MirrorShare)> {
        if self.lacks_memory {
            return None;
        }
        self.end_small();
        let body = match self.pieces.len() {
            1 => self.pieces.remove(0),
            _ => self.pieces.concat().into(),
        };
        let answer = Answer {
            end,
            status: self.status,
            headers: self.headers,
            truncated: (body.len() as u64) < self.length,
            body,
            body_length: self.length,
            encoding: self.encoding,
            head_after: self.head_after,
            whole_after,
        };
        Some((answer, self.share))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::observe::MirrorMemory;

    fn capture(body_max: usize, memory: &Arc<MirrorMemory>, memory_max: u64) -> Capture {
        Capture::new(body_max, MirrorShare::new(memory, memory_max))
    }

    #[test]
    fn pieces_large_and_small_become_one_body() {
        let memory = Arc::default();
        let mut capture = capture(20_000, &memory, 1 << 20);
        let (large, mut whole) = (Bytes::from(vec![b'l'; 5000]), Vec::new());
        for piece in
            [Bytes::from_static(b"a"), Bytes::from_static(b"b"), large.clone(), Bytes::from_static(b"c"), large]
        {
            capture.data(&piece);
            whole.extend_from_slice(&piece);
        }
        let (answer, share) = capture.finish(AnswerEnd::Whole, Duration::ZERO).unwrap();
        assert_eq!(answer.body, whole);
        assert_eq!((answer.body_length, answer.truncated), (whole.len() as u64, false));
        assert_eq!(memory.used(), whole.len() as u64);
        drop(share);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted_and_not_kept() {
        let memory = Arc::default();
        let mut capture = capture(10, &memory, 1 << 20);
        for _ in 0..3 {
            capture.data(&Bytes::from_static(b"1234567"));
        }
        let (answer, _share) = capture.finish(AnswerEnd::Whole, Duration::ZERO).unwrap();
        assert_eq!(answer.body, "1234567123");
        assert_eq!((answer.body_length, answer.truncated), (21, true));
    }

    #[test]
    fn what_a_head_has_announced_counts_though_it_is_not_read() {
        let mut capture = capture(10, &Arc::default(), 1 << 20);
        capture.data(&Bytes::from_static(b"1234567"));
        capture.announced(1 << 40);
        let (answer, _share) = capture.finish(AnswerEnd::Aborted, Duration::ZERO).unwrap();
        assert_eq!((answer.body_length, answer.truncated), (1 << 40, true));
    }

    #[test]
    fn an_answer_that_finds_no_memory_is_none() {
        let memory = Arc::default();
        let mut capture = capture(100, &memory, 10);
        capture.data(&Bytes::from_static(b"1234567"));
        capture.data(&Bytes::from_static(b"1234567"));
        assert!(capture.finish(AnswerEnd::Whole, Duration::ZERO).is_none());
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn chosen_headers_are_kept_from_heads_and_trailers() {
        let mut capture = capture(0, &Arc::default(), 0);
        let headers = |fields: &[(&'static str, &'static str)]| -> HeaderMap {
            let fields = fields.iter();
            fields.map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
        };
        let names = [HeaderName::from_static("location")];
        capture.head(StatusCode::BAD_GATEWAY, &headers(&[("location", "/passed-over")]), names.iter());
        let head =
            headers(&[("content-type", "a/b"), ("location", "/x"), ("date", "now"), ("content-encoding", "gzip")]);
        capture.head(StatusCode::FOUND, &head, names.iter());
        capture.trailers(&headers(&[("grpc-status", "0"), ("other", "1")]), names.iter());
        let (answer, _share) = capture.finish(AnswerEnd::Whole, Duration::ZERO).unwrap();
        let kept: Vec<_> = answer.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(kept, [("content-type", "a/b"), ("location", "/x"), ("grpc-status", "0")]);
        assert_eq!((answer.status, answer.encoding), (302, true));
    }
}
