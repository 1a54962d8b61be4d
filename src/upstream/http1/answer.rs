//! The head of an answer: read once it is whole, its values left in the buffer they came in.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use super::framing::{Chunk, Framing};
use super::{FIELDS_MAX, HEAD_BYTES, Malformed};

/// Room for what a proxy adds to an answer, so that its table is made once.
const ADDED_FIELDS: usize = 3;

/// Where a name and its value stand in the buffer.
#[derive(Clone, Copy, Default)]
struct Place {
    name: (u32, u32),
    value: (u32, u32),
}

/// Takes a head out of `buffer`; `None` until it is whole. `scanned`: how much of it has been looked at in vain.
pub(super) fn take_head(buffer: &mut BytesMut, scanned: &mut usize) -> Result<Option<Response<()>>, Malformed> {
    if *scanned > 0 && !has_end(&buffer[scanned.saturating_sub(3)..]) {
        return more(buffer, scanned);
    }
    let mut fields = [const { MaybeUninit::<httparse::Header<'_>>::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, buffer, &mut fields);
    let length = match status {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES => length,
        Ok(httparse::Status::Complete(_)) => return Err(Malformed("the head is too long")),
        Ok(httparse::Status::Partial) => return more(buffer, scanned),
        Err(_) => return Err(Malformed("the head can't be read")),
    };
    let start = buffer.as_ptr().addr();
    let place = |part: &[u8]| {
        let at = part.as_ptr().addr().wrapping_sub(start);
        // Below the limit of a head's length.
        (at as u32, (at + part.len()) as u32)
    };
    let mut places = [Place::default(); FIELDS_MAX];
    let count = parsed.headers.len();
    for (kept, field) in places.iter_mut().zip(parsed.headers.iter()) {
        *kept = Place { name: place(field.name.as_bytes()), value: place(field.value) };
    }
    let code = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed("the status is none"))?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let reason = parsed.reason.filter(|reason| code.canonical_reason() != Some(reason) && !reason.is_empty());
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());

    *scanned = 0;
    let head = buffer.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(count + ADDED_FIELDS);
    for Place { name, value } in &places[..count] {
        let name = HeaderName::from_bytes(&head[name.0 as usize..name.1 as usize]);
        let value = HeaderValue::from_maybe_shared(head.slice(value.0 as usize..value.1 as usize));
        headers.append(
            name.map_err(|_| Malformed("a field has no name"))?,
            value.map_err(|_| Malformed("a field has no value"))?,
        );
    }
    let mut response = Response::new(());
    *response.status_mut() = code;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    Ok(Some(response))
}

fn more(buffer: &BytesMut, scanned: &mut usize) -> Result<Option<Response<()>>, Malformed> {
    *scanned = buffer.len();
    if buffer.len() > HEAD_BYTES { Err(Malformed("the head is too long")) } else { Ok(None) }
}

/// Whether an empty line ends somewhere in `bytes`.
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|end| end == b"\n\n") || bytes.windows(3).any(|end| end == b"\n\r\n")
}

/// How an answer's end is told; `to_head`: what was asked for is the head alone.
pub(super) fn framing(response: &Response<()>, to_head: bool) -> Result<Framing, Malformed> {
    let status = response.status();
    let headers = response.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next_back();
    if coding.is_some() && response.version() == Version::HTTP_10 {
        return Err(Malformed("HTTP/1.0 has no transfer encodings"));
    }
    let length = length(headers)?;
    if to_head || status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(Framing::Ended);
    }
    Ok(match (coding, length) {
        (Some(coding), _) if ends_in_chunked(coding) => Framing::Chunked(Chunk::Size(0)),
        (Some(_), _) => Framing::Close,
        (None, Some(length)) => Framing::Length(length),
        (None, None) => Framing::Close,
    })
}

fn ends_in_chunked(coding: &HeaderValue) -> bool {
    let last = coding.as_bytes().rsplit(|b| *b == b',').next().unwrap_or_default();
    last.trim_ascii().eq_ignore_ascii_case(b"chunked")
}

/// The length that all its lines give.
fn length(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(None) };
    if lines.any(|line| line != first) {
        return Err(Malformed("there are two lengths"));
    }
    digits(first.as_bytes()).map(Some).ok_or(Malformed("the length is none"))
}

/// A number in decimal digits and nothing else.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether the endpoint will take another request on the connection.
pub(super) fn keeps_alive(response: &Response<()>) -> bool {
    let mut keeps = response.version() != Version::HTTP_10;
    for line in response.headers().get_all(CONNECTION) {
        for option in line.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if option.eq_ignore_ascii_case(b"close") {
                return false;
            }
            keeps |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    keeps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Response<()> {
        let mut buffer = BytesMut::from(text);
        take_head(&mut buffer, &mut 0).unwrap().unwrap()
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole_and_what_follows_is_left() {
        let text = b"HTTP/1.1 200 OK\r\nServer: a\r\nX-Twice: 1\r\nx-twice: \xe92\r\n\r\nbody";
        let (mut buffer, mut scanned) = (BytesMut::new(), 0);
        for byte in &text[..text.len() - 5] {
            buffer.extend_from_slice(&[*byte]);
            assert!(take_head(&mut buffer, &mut scanned).unwrap().is_none());
        }
        buffer.extend_from_slice(&text[text.len() - 5..]);
        let response = take_head(&mut buffer, &mut scanned).unwrap().unwrap();
        assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_11));
        assert_eq!((response.headers().len(), response.headers()["server"].as_bytes()), (3, &b"a"[..]));
        assert_eq!(response.headers().get_all("x-twice").iter().next_back().unwrap().as_bytes(), b"\xe92");
        assert_eq!((&buffer[..], scanned), (&b"body"[..], 0));
    }

    #[test]
    fn a_reason_of_ones_own_is_kept() {
        let reason = |line: &str| head(&format!("{line}\r\n\r\n")).extensions().get::<ReasonPhrase>().cloned();
        assert_eq!(reason("HTTP/1.1 200 Fine").unwrap().as_bytes(), b"Fine");
        assert!(reason("HTTP/1.1 404 Not Found").is_none() && reason("HTTP/1.1 200").is_none());
    }

    #[test]
    fn heads_that_are_none_or_too_long_are_refused() {
        for bad in [
            "HTTP/2 200\r\n\r\n",
            "hello\r\n\r\n",
            "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: \0\r\n\r\n",
        ] {
            assert!(take_head(&mut BytesMut::from(bad), &mut 0).is_err(), "{bad:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(HEAD_BYTES));
        assert!(take_head(&mut BytesMut::from(&long[..]), &mut 0).is_err());
        assert!(take_head(&mut BytesMut::from(&long[..long.len() - 4]), &mut 0).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        assert!(take_head(&mut BytesMut::from(&many[..]), &mut 0).is_err());
    }

    #[test]
    fn an_answers_end_is_told_in_one_way() {
        let of = |lines: &str| framing(&head(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n")), false);
        assert_eq!(of("content-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(of("content-length: 12\r\ncontent-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(of("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked(Chunk::Size(0))));
        assert_eq!(of("transfer-encoding: gzip\r\n"), Ok(Framing::Close));
        assert_eq!(of(""), Ok(Framing::Close));
        for bad in ["+1", "1 2", "1, 1", "", "0x1", "-1", "99999999999999999999"] {
            assert!(of(&format!("content-length: {bad}\r\n")).is_err(), "{bad:?}");
        }
        assert!(of("content-length: 1\r\ncontent-length: 2\r\n").is_err());
        let old = head("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        assert!(framing(&old, false).is_err());
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for (line, to_head) in [("200 OK", true), ("204 No Content", false), ("304 Not Modified", false)] {
            let response = head(&format!("HTTP/1.1 {line}\r\ncontent-length: 5\r\n\r\n"));
            assert_eq!(framing(&response, to_head), Ok(Framing::Ended), "{line}");
        }
    }

    #[test]
    fn a_connection_lives_on_where_both_ends_say_so() {
        for (text, keeps) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nconnection: keep-alive, Close\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\n\r\n", false),
            ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            assert_eq!(keeps_alive(&head(text)), keeps, "{text}");
        }
    }
}
