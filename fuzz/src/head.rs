//! A head as text: a first line, then fields. What no HTTP parser would let through is left out.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The first line, and the fields of the others that are any.
pub(crate) fn parse(data: &[u8]) -> (&[u8], HeaderMap) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let mut headers = HeaderMap::new();
    for line in lines.take(200) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    (first, headers)
}

/// All values of `name`, in order.
pub(crate) fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a [u8]> {
    headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
}

/// Whether a line of `Connection` names `name`.
pub(crate) fn connection_names(headers: &HeaderMap, name: &str) -> bool {
    let mut tokens = headers.get_all("connection").iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
}
