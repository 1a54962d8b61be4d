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

/// A head, and what it says about its connection.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) response: Response<()>,
    pub(super) framing: Framing,
    /// The endpoint will take another request.
    pub(super) keeps_alive: bool,
}

/// Takes a head out of `buffer`; `None` until it is whole. `scanned`: how much of it has been looked at in vain;
/// `to_head`: what was asked for is the head alone.
pub(super) fn take_head(buffer: &mut BytesMut, scanned: &mut usize, to_head: bool) -> Result<Option<Head>, Malformed> {
    if *scanned > 0 && !has_end(&buffer[scanned.saturating_sub(3)..]) {
        return more(buffer, scanned);
    }
    // The parser would skip any number of empty lines, anew each time.
    if buffer.starts_with(b"\n\n") || buffer.starts_with(b"\r\n\r\n") {
        return Err(Malformed("there are empty lines before the head"));
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
    let mut connection = ConnectionFields::default();
    for Place { name, value } in &places[..count] {
        let name = HeaderName::from_bytes(&head[name.0 as usize..name.1 as usize]);
        let value = HeaderValue::from_maybe_shared(head.slice(value.0 as usize..value.1 as usize));
        let name = name.map_err(|_| Malformed("a field has no name"))?;
        let value = value.map_err(|_| Malformed("a field has no value"))?;
        connection.note(&name, &value)?;
        headers.append(name, value);
    }
    let framing = connection.framing(code, version, to_head)?;
    let keeps_alive = connection.keeps_alive(version) && framing != Framing::Close;
    let mut response = Response::new(());
    *response.status_mut() = code;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    if let Some(reason) = reason {
        response.extensions_mut().insert(reason);
    }
    Ok(Some(Head { response, framing, keeps_alive }))
}

fn more(buffer: &BytesMut, scanned: &mut usize) -> Result<Option<Head>, Malformed> {
    *scanned = buffer.len();
    if buffer.len() > HEAD_BYTES { Err(Malformed("the head is too long")) } else { Ok(None) }
}

/// Whether an empty line ends somewhere in `bytes`.
fn has_end(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|end| end == b"\n\n") || bytes.windows(3).any(|end| end == b"\n\r\n")
}

/// The fields that are about the connection.
#[derive(Debug, Default)]
struct ConnectionFields {
    length: Option<u64>,
    /// There is a transfer coding; the last one is `chunked`.
    chunked: Option<bool>,
    close: bool,
    keep_alive: bool,
}

impl ConnectionFields {
    fn note(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Malformed> {
        let value = value.as_bytes();
        if *name == CONTENT_LENGTH {
            let length = digits(value).ok_or(Malformed("the length is none"))?;
            if self.length.replace(length).is_some_and(|before| before != length) {
                return Err(Malformed("there are two lengths"));
            }
        } else if *name == TRANSFER_ENCODING {
            let last = value.rsplit(|b| *b == b',').next().unwrap_or_default();
            self.chunked = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        } else if *name == CONNECTION {
            for option in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
                self.close |= option.eq_ignore_ascii_case(b"close");
                self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        Ok(())
    }

    /// How the end of an answer is told (RFC 9112, 6.3).
    fn framing(&self, status: StatusCode, version: Version, to_head: bool) -> Result<Framing, Malformed> {
        if self.chunked.is_some() && version == Version::HTTP_10 {
            return Err(Malformed("HTTP/1.0 has no transfer encodings"));
        }
        if to_head || status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok(Framing::Ended);
        }
        Ok(match (self.chunked, self.length) {
            (Some(true), _) => Framing::Chunked(Chunk::Size(0)),
            (None, Some(length)) => Framing::Length(length),
            (Some(false), _) | (None, None) => Framing::Close,
        })
    }

    fn keeps_alive(&self, version: Version) -> bool {
        !self.close && (self.keep_alive || version != Version::HTTP_10)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str, to_head: bool) -> Result<Option<Head>, Malformed> {
        take_head(&mut BytesMut::from(text), &mut 0, to_head)
    }

    fn head(text: &str) -> Head {
        take(text, false).unwrap().unwrap()
    }

    #[test]
    fn a_head_is_taken_once_it_is_whole_and_what_follows_is_left() {
        let text = b"HTTP/1.1 200 OK\r\nServer: a\r\nX-Twice: 1\r\nx-twice: \xe92\r\n\r\nbody";
        let (mut buffer, mut scanned) = (BytesMut::new(), 0);
        for byte in &text[..text.len() - 5] {
            buffer.extend_from_slice(&[*byte]);
            assert!(take_head(&mut buffer, &mut scanned, false).unwrap().is_none());
        }
        buffer.extend_from_slice(&text[text.len() - 5..]);
        let response = take_head(&mut buffer, &mut scanned, false).unwrap().unwrap().response;
        assert_eq!((response.status(), response.version()), (StatusCode::OK, Version::HTTP_11));
        assert_eq!((response.headers().len(), response.headers()["server"].as_bytes()), (3, &b"a"[..]));
        assert_eq!(response.headers().get_all("x-twice").iter().next_back().unwrap().as_bytes(), b"\xe92");
        assert_eq!((&buffer[..], scanned), (&b"body"[..], 0));
    }

    #[test]
    fn a_reason_of_ones_own_is_kept() {
        let reason = |line: &str| head(&format!("{line}\r\n\r\n")).response.extensions().get::<ReasonPhrase>().cloned();
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
            assert!(take(bad, false).is_err(), "{bad:?}");
        }
        let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(HEAD_BYTES));
        assert!(take(&long, false).is_err() && take(&long[..long.len() - 4], false).is_err());
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(FIELDS_MAX + 1));
        assert!(take(&many, false).is_err());
    }

    #[test]
    fn an_answers_end_is_told_in_one_way() {
        let of =
            |lines: &str| take(&format!("HTTP/1.1 200 OK\r\n{lines}\r\n"), false).map(|head| head.unwrap().framing);
        assert_eq!(of("content-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(of("content-length: 12\r\ncontent-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(of("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked(Chunk::Size(0))));
        assert_eq!(of("transfer-encoding: gzip\r\n"), Ok(Framing::Close));
        assert_eq!(of(""), Ok(Framing::Close));
        for bad in ["+1", "1 2", "1, 1", "", "0x1", "-1", "99999999999999999999"] {
            assert!(of(&format!("content-length: {bad}\r\n")).is_err(), "{bad:?}");
        }
        assert!(of("content-length: 1\r\ncontent-length: 2\r\n").is_err());
        assert!(take("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", false).is_err());
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for (line, to_head) in [("200 OK", true), ("204 No Content", false), ("304 Not Modified", false)] {
            let head = take(&format!("HTTP/1.1 {line}\r\ncontent-length: 5\r\n\r\n"), to_head).unwrap().unwrap();
            assert_eq!(head.framing, Framing::Ended, "{line}");
        }
    }

    #[test]
    fn a_connection_lives_on_where_both_ends_say_so() {
        for (text, keeps) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\n\r\n", false),
            ("HTTP/1.1 204 No Content\r\nconnection: keep-alive, Close\r\n\r\n", false),
            ("HTTP/1.0 204 No Content\r\n\r\n", false),
            ("HTTP/1.0 204 No Content\r\nConnection: Keep-Alive\r\n\r\n", true),
        ] {
            assert_eq!(head(text).keeps_alive, keeps, "{text}");
        }
    }
}
