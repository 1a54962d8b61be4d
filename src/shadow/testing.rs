//! Answers for tests.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use http::header::CONTENT_TYPE;

use super::pair::{Answer, AnswerEnd, Pair};

/// A whole answer of 200 without a content type.
pub(super) fn answer(body: &str) -> Answer {
    Answer {
        end: AnswerEnd::Whole,
        status: 200,
        headers: Vec::new(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        body_length: body.len() as u64,
        truncated: false,
        encoding: false,
        head_after: Duration::from_millis(5),
        whole_after: Duration::from_millis(6),
    }
}

pub(super) fn json(body: &str) -> Answer {
    let content_type = HeaderValue::from_static("application/json; charset=utf-8");
    Answer { headers: vec![(CONTENT_TYPE, content_type)], ..answer(body) }
}

pub(super) fn pair(primary: Answer, shadow: Answer, noise: Option<Answer>) -> Pair {
    Pair {
        service: "shop".into(),
        mirror: "green".into(),
        revision: "2".into(),
        primary_backend: "blue".into(),
        primary_revision: "1".into(),
        asked: Instant::now(),
        route: None,
        method: http::Method::GET,
        path: "/cart?token=1".to_owned(),
        request_id: "id-1".to_owned(),
        primary,
        shadow,
        noise,
    }
}
