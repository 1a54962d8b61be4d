//! What a request is called in logs: `x-request-id`, and its trace (W3C Trace Context).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// An id from elsewhere that is longer stays behind.
const ID_BYTES_MAX: usize = 128;

/// What becomes of a request's trace.
#[derive(Debug)]
pub enum Trace {
    /// There is none, or it goes on as it came.
    Untouched,
    /// It can't be read, and goes no further.
    Broken,
    /// It begins here.
    Started(Box<HeaderValue>),
}

/// 128 random bits, as 32 hexadecimal digits.
#[must_use]
pub fn new_id(random: [u8; 16]) -> HeaderValue {
    let mut text = [0; 32];
    write_hex(&mut text, &random);
    shared(text)
}

/// The id that a trusted peer gave, if it is one.
pub(super) fn given_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(X_REQUEST_ID).iter();
    let id = lines.next().filter(|_| lines.next().is_none())?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"._-=+/:@".contains(b);
    ((1..=ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(plain)).then_some(id)
}

/// The `traceparent` of a request, if there is one and it is one.
pub(super) fn given_trace(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut lines = headers.get_all(TRACEPARENT).iter();
    let parent = lines.next().filter(|_| lines.next().is_none())?;
    is_traceparent(parent.as_bytes()).then_some(parent)
}

/// `00-{32 digits}-{16 digits}-{2 digits}`; later versions may add to it.
fn is_traceparent(value: &[u8]) -> bool {
    let Some((known, more)) = value.split_at_checked(55) else { return false };
    let is_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|b| *b != b'0');
    let version = &known[..2];
    (known[2], known[35], known[52]) == (b'-', b'-', b'-')
        && is_hex(version)
        && version != b"ff"
        && is_id(&known[3..35])
        && is_id(&known[36..52])
        && is_hex(&known[53..])
        && (more.is_empty() || (version != b"00" && more[0] == b'-'))
}

/// The trace's own part of a valid `traceparent`.
pub(super) fn trace_id(parent: &HeaderValue) -> Option<&str> {
    parent.to_str().ok()?.get(3..35)
}

/// A new trace and a span in it.
pub(super) fn new_trace(random: [u8; 24], sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000001-0000000000000001-00";
    // An id of zeros alone is none; random bits hardly ever are.
    for (bytes, digits) in [(&random[..16], 3..35), (&random[16..], 36..52)] {
        if bytes.iter().any(|byte| *byte != 0) {
            write_hex(&mut text[digits], bytes);
        }
    }
    text[54] = if sampled { b'1' } else { b'0' };
    shared(text)
}

/// A value of one allocation, however often it is cloned.
fn shared<const N: usize>(text: [u8; N]) -> HeaderValue {
    let mut value =
        HeaderValue::from_maybe_shared(Bytes::from_owner(text)).expect("hexadecimal digits are plain ASCII");
    // No two are the same: HTTP/2 need not remember them in its tables.
    value.set_sensitive(true);
    value
}

fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::try_from(*line).unwrap())).collect()
    }

    #[test]
    fn an_id_is_plain_text_of_128_bytes_at_most() {
        let given = |lines: &[&str]| given_id(&headers(&X_REQUEST_ID, lines)).is_some();
        assert!(given(&["aZ09._-=+/:@"]) && given(&[&"a".repeat(128)]));
        for lines in [&["a b"][..], &["a\"b"], &[""], &[&"a".repeat(129)], &["a", "b"], &["{}"], &["\u{e9}"], &[]] {
            assert!(!given(lines), "{lines:?}");
        }
    }

    #[test]
    fn a_trace_is_believed_only_in_its_form() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let given = |lines: &[&str]| given_trace(&headers(&TRACEPARENT, lines)).is_some();
        assert!(given(&[good]) && given(&[&good.replace("00-4", "cc-4")]));
        assert!(given(&[&format!("{}-more", good.replace("00-4", "01-4"))]));
        for broken in [
            String::new(),
            good[..54].to_owned(),
            format!("{good}-more"),
            format!("{}0", good.replace("00-4", "01-4")),
            good.replace("00-4", "ff-4"),
            good.replace("4bf", "4BF"),
            good.replace('-', "_"),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            good.replace("-01", "-0g"),
        ] {
            assert!(!given(&[&broken]), "{broken}");
        }
        assert!(!given(&[good, good]));
    }

    #[test]
    fn what_is_made_here_would_be_believed_elsewhere() {
        let id = new_id([0xab; 16]);
        assert_eq!(id, "ab".repeat(16));
        for random in [[0; 24], [0xff; 24], [7; 24]] {
            let trace = new_trace(random, true);
            assert!(is_traceparent(trace.as_bytes()) && trace.as_bytes().ends_with(b"-01"));
            assert_eq!(trace_id(&trace).map(str::len), Some(32));
        }
        assert!(new_trace([1; 24], false).as_bytes().ends_with(b"-00"));
    }
}
