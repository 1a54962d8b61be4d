//! Compression of answers: for clients that take it, of content that shrinks, and never where somebody would notice
//! more than fewer bytes. RFC 9110 sees another representation in it, so validators become weak and ranges go.

mod body;
mod encoder;

use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderName, VARY,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};

pub(crate) use body::Compressed;

use super::body::Source;
use super::exchange::Exchange;
use crate::config::CompressionConfig;
use crate::model::Coding;
use body::Place;
use encoder::Encoder;

/// Sums over the bytes as the endpoint made them; whoever sends one wants them unchanged.
const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// The coding for this request's answer, should that be fit for one. HTTP/1.0 has no chunks, so a client of it could
/// not tell a broken answer from a whole one.
pub(super) fn wanted<B>(config: &CompressionConfig, request: &Request<B>) -> Option<Coding> {
    let headers = request.headers();
    if request.version() < Version::HTTP_11 || has_token(headers, &CACHE_CONTROL, "no-transform") {
        return None;
    }
    Coding::wanted_by(headers, &config.codings)
}

/// Compresses an endpoint's answer, or leaves it.
pub(super) fn apply(exchange: &Exchange, config: &CompressionConfig, response: &mut Response<Source>) {
    let coding = exchange.coding();
    if response.status() == StatusCode::NOT_MODIFIED {
        // What the client has may be compressed, and has a weak validator then. A weak one fits a strong one, too.
        if coding.is_some() {
            weaken(response.headers_mut());
        }
        return;
    }
    if !is_compressible(config, response.status(), response.headers()) {
        return;
    }
    vary(response.headers_mut());
    let Some(coding) = coding else { return };
    // The head alone is the one that GET would get.
    if !exchange.is_head() && !compress(exchange, config, coding, response.body_mut()) {
        return;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    headers.remove(CONTENT_LENGTH);
    headers.remove(ACCEPT_RANGES);
    weaken(headers);
}

/// False when it was left as it is.
fn compress(exchange: &Exchange, config: &CompressionConfig, coding: Coding, body: &mut Source) -> bool {
    let Source::Endpoint { incoming, .. } = &body else { return false };
    if http_body::Body::is_end_stream(incoming) {
        return false;
    }
    let worker = &exchange.client().worker;
    let place = Place::take(worker, config.at_once);
    let (Some(place), Ok(encoder)) = (place, Encoder::new(coding)) else {
        worker.cell().compressions_skipped.add(1);
        return false;
    };
    if let Source::Endpoint { incoming, lease } = std::mem::replace(body, Source::Ended) {
        *body = Source::Compressed(Box::new(Compressed::new(incoming, lease, encoder, place)));
    }
    true
}

/// Whether clients that take it would get this answer compressed.
fn is_compressible(config: &CompressionConfig, status: StatusCode, headers: &HeaderMap) -> bool {
    let is_whole = !status.is_informational()
        && !matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::PARTIAL_CONTENT)
        && !headers.contains_key(CONTENT_RANGE);
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    is_whole
        && content_type.is_some_and(|found| config.types.contain(found) && !is_stream(found))
        && length.is_none_or(|length| length >= config.min_bytes)
        && headers.get_all(CONTENT_ENCODING).iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
        && !has_token(headers, &CACHE_CONTROL, "no-transform")
        && !DIGESTS.iter().any(|name| headers.contains_key(name))
}

/// Events and gRPC messages are read one by one, each to be seen at once.
fn is_stream(content_type: &[u8]) -> bool {
    [&b"text/event-stream"[..], b"application/grpc"]
        .iter()
        .any(|kind| content_type.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind)))
}

/// A validator of the endpoint's bytes says nothing about ours but that they mean the same (RFC 9110, 8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) else { return };
    let weak = tag.as_bytes().starts_with(b"\"").then(|| HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()));
    match weak {
        Some(Ok(weak)) => drop(headers.insert(ETAG, weak)),
        // No tag at all.
        _ => drop(headers.remove(ETAG)),
    }
}

/// Tells caches that another client may get another answer.
fn vary(headers: &mut HeaderMap) {
    if !has_token(headers, &VARY, "*") && !has_token(headers, &VARY, ACCEPT_ENCODING.as_str()) {
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    lines
        .flat_map(|line| line.split(|b| *b == b','))
        .any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter();
        fields.map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_strong_tag_becomes_weak_and_what_is_no_tag_goes() {
        for (before, after) in [("\"a\"", Some("W/\"a\"")), ("W/\"a\"", Some("W/\"a\"")), ("a", None)] {
            let mut headers = headers(&[("etag", before)]);
            weaken(&mut headers);
            assert_eq!(headers.get(ETAG).map(|tag| tag.to_str().unwrap()), after);
        }
    }

    #[test]
    fn vary_names_accept_encoding_once() {
        for (before, lines) in [("origin", 2), ("Accept-Encoding, Origin", 1), ("*", 1)] {
            let mut headers = headers(&[("vary", before)]);
            vary(&mut headers);
            assert_eq!(headers.get_all(VARY).iter().count(), lines, "{before}");
        }
    }
}
