//! What a request was answered by the primary, by the shadow, and, where the noise is measured, by the primary's backend
//! a second time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerEnd {
    Whole,
    /// Without an answer, or in its middle; why, in a word.
    Failed(&'static str),
    TimedOut,
    /// Broken off by us or the client, which says nothing about whoever answered.
    Aborted,
}

/// What one side answered to a mirrored request.
#[derive(Debug, Clone)]
pub struct Answer {
    pub end: AnswerEnd,
    /// 0 when there was no head.
    pub status: u16,
    /// Only those that the mirror's `compare` names; content-type always.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// At most compare.body_max bytes, decoded by nobody.
    pub body: Bytes,
    /// Whole length seen.
    pub body_length: u64,
    /// `body` is only the beginning.
    pub truncated: bool,
    /// Had a content-encoding other than identity: compared as bytes.
    pub encoding: bool,
    /// Request written to head.
    pub head_after: Duration,
    /// To the end of the body.
    pub whole_after: Duration,
}

/// A mirrored request and its answers.
#[derive(Debug)]
pub struct Pair {
    pub service: Arc<str>,
    /// The mirror backend's name.
    pub mirror: Arc<str>,
    /// Of the mirror backend.
    pub revision: Arc<str>,
    pub primary_backend: Arc<str>,
    /// Of the backend that answered the client, when it was asked.
    pub primary_revision: Arc<str>,
    /// When the request was copied.
    pub asked: Instant,
    pub route: Option<Arc<str>>,
    pub method: Method,
    /// At most 512 bytes, query included.
    pub path: String,
    pub request_id: String,
    pub primary: Answer,
    pub shadow: Answer,
    /// Second copy to the backend that answered the client.
    pub noise: Option<Answer>,
}
