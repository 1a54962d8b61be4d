//! `Via` (RFC 9110, 7.6.3): which proxies a message came through. Ours more often than makes sense is a loop.

use http::header::VIA;
use http::{HeaderMap, HeaderValue, Version};

/// Two or three in a row may share a name; a request that goes in circles comes by until somebody stops it.
const OURS_MAX: usize = 10;
/// More than any way that makes sense.
const ENTRIES_MAX: usize = 50;

/// Our entries, made once for each view of a worker, so that threads don't share their memory.
#[derive(Debug, Clone)]
pub struct Via {
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// `pseudonym` is a token.
    #[must_use]
    pub fn new(pseudonym: &str) -> Self {
        let entry = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).expect("the configuration accepts tokens only")
        };
        Self { http10: entry("1.0"), http11: entry("1.1"), http2: entry("2") }
    }

    /// Adds our entry to a message that came in `received`.
    pub fn add(&self, headers: &mut HeaderMap, received: Version) {
        let entry = match received {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 => &self.http10,
            _ => &self.http11,
        };
        headers.append(VIA, entry.clone());
    }
}

/// Whether a request has come by too often; `pseudonym` is ours.
#[must_use]
pub fn is_loop(headers: &HeaderMap, pseudonym: Option<&str>) -> bool {
    let (mut ours, mut all) = (0, 0);
    let lines = headers.get_all(VIA).iter();
    for entry in lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')) {
        let mut words = entry.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
        let name = words.nth(1).unwrap_or_default();
        all += 1;
        ours += usize::from(pseudonym.is_some_and(|pseudonym| name.eq_ignore_ascii_case(pseudonym.as_bytes())));
        if all > ENTRIES_MAX || ours > OURS_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_come_by_ten_times() {
        let headers = |entry: &str, lines: usize, times: usize| {
            let mut headers = HeaderMap::new();
            for _ in 0..lines {
                headers.append(VIA, HeaderValue::try_from(vec![entry; times].join(", ")).unwrap());
            }
            headers
        };
        assert!(!is_loop(&headers("1.1 Tidegate", 1, 10), Some("tidegate")));
        assert!(is_loop(&headers("1.1 Tidegate", 1, 11), Some("tidegate")));
        assert!(is_loop(&headers("2  tidegate (x)", 11, 1), Some("tidegate")));
        assert!(!is_loop(&headers("1.1 tidegate", 1, 11), None));
        assert!(!is_loop(&headers("1.1 tidegates", 5, 10), Some("tidegate")));
        assert!(is_loop(&headers("1.1 other", 51, 1), None));
    }
}
