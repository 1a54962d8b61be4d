//! What a client would rather have: `Accept` and `Accept-Encoding`.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderValue};
use tidegate::model::{Coding, Format};

const CODINGS: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

/// Lines of either header, one after another.
pub fn preference(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        check_format(line);
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(ACCEPT_ENCODING, value);
        }
    }
    check_coding(&headers);
}

fn check_format(line: &[u8]) {
    let wanted = Format::wanted_by(line);
    let says = |word: &[u8]| contains(line, word);
    match wanted {
        Format::Text => {}
        // `text/*;q=0.1, */*` is one for JSON.
        Format::Html => assert!(says(b"text/") || says(b"*/*"), "nobody asked for HTML: {}", line.escape_ascii()),
        Format::Json => assert!(says(b"application/") || says(b"*/*"), "nor for JSON: {}", line.escape_ascii()),
    }
    assert_eq!(Format::wanted_by(&line.to_ascii_uppercase()), wanted, "case means nothing: {}", line.escape_ascii());
    let spaced = [b" ", line, b"\t"].concat();
    assert_eq!(Format::wanted_by(&spaced), wanted, "nor do spaces around it: {}", line.escape_ascii());
}

fn check_coding(headers: &HeaderMap) {
    let lines: Vec<_> = headers.get_all(ACCEPT_ENCODING).iter().map(HeaderValue::as_bytes).collect();
    let says = |word: &[u8]| lines.iter().any(|line| contains(line, word));
    assert_eq!(Coding::wanted_by(headers, &[]), None);
    let wanted = Coding::wanted_by(headers, &CODINGS);
    if let Some(coding) = wanted {
        let named = says(coding.name().as_bytes()) || says(b"*");
        assert!(named, "nobody asked for {}: {headers:?}", coding.name());
        assert_eq!(Coding::wanted_by(headers, &[coding]), wanted, "nor is it wanted less alone: {headers:?}");
    }
    for coding in CODINGS {
        let mut refused = headers.clone();
        refused.remove(ACCEPT_ENCODING);
        refused.append(ACCEPT_ENCODING, HeaderValue::from_static(coding.name()));
        assert_eq!(Coding::wanted_by(&refused, &CODINGS), Some(coding));
        let alone = Coding::wanted_by(headers, &[coding]);
        assert!(alone.is_none() || wanted.is_some(), "one of three is more than that one: {headers:?}");
    }
}

fn contains(line: &[u8], word: &[u8]) -> bool {
    line.windows(word.len()).any(|found| found.eq_ignore_ascii_case(word))
}
