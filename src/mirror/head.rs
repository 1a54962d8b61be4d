//! The head of a copy: what the request's own endpoint sees, marked, and without what is to stay here.

use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};

use crate::config::RedactConfig;
use crate::upstream::{AnswerBody, Lease, RequestBody, SendError, adapt};

/// Says that a request is a copy, and for whom: `shop/green`.
pub const MARK: HeaderName = HeaderName::from_static("tidegate-mirror");

/// See the module's text.
#[derive(Debug)]
pub struct CopiedHead(Request<RequestBody>);

impl CopiedHead {
    /// Of a request that is fit for any endpoint.
    #[must_use]
    pub fn of<B>(request: &Request<B>, mark: HeaderValue, redact: &RedactConfig, host_suffix: Option<&str>) -> Self {
        let mut copy = head(request, RequestBody::Empty);
        let headers = copy.headers_mut();
        headers.insert(MARK, mark);
        for name in &redact.headers {
            headers.remove(name);
        }
        if !redact.cookies.is_empty() {
            redact_cookies(headers, &redact.cookies);
        }
        if let Some(suffix) = host_suffix {
            add_suffix(headers, suffix);
        }
        Self(copy)
    }

    /// Sends it with a body; it can be sent again.
    pub(super) fn send(
        &mut self,
        lease: &mut Lease,
        body: RequestBody,
    ) -> impl Future<Output = Result<Response<AnswerBody>, Box<SendError>>> + use<> {
        if lease.is_http2() {
            let mut request = head(&self.0, body);
            adapt(&mut request, lease);
            return lease.send(&mut request);
        }
        // HTTP/1 leaves the head where it is.
        *self.0.body_mut() = body;
        lease.send(&mut self.0)
    }

    /// About how many bytes it holds.
    pub(super) fn cost(&self) -> usize {
        const HEAD_BYTES: usize = 512;
        const FIELD_BYTES: usize = 64;
        let path = self.0.uri().path_and_query().map_or(0, |path| path.as_str().len());
        let fields = self.0.headers().iter().map(|(name, value)| FIELD_BYTES + name.as_str().len() + value.len());
        HEAD_BYTES + path + fields.sum::<usize>()
    }

    pub(super) fn method(&self) -> &Method {
        self.0.method()
    }

    pub(super) fn uri(&self) -> &Uri {
        self.0.uri()
    }
}

fn head<B>(request: &Request<B>, body: RequestBody) -> Request<RequestBody> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

fn redact_cookies(headers: &mut HeaderMap, names: &[String]) {
    let lines = headers.get_all(COOKIE).iter();
    let is_kept = |pair: &&[u8]| {
        let name = pair.split(|b| *b == b'=').next().unwrap_or_default().trim_ascii();
        !names.iter().any(|redacted| redacted.as_bytes() == name)
    };
    let pairs = lines.flat_map(|line| line.as_bytes().split(|b| *b == b';')).map(<[u8]>::trim_ascii).filter(is_kept);
    let kept: Vec<&[u8]> = pairs.filter(|pair| !pair.is_empty()).collect();
    match HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        Ok(line) if !kept.is_empty() => drop(headers.insert(COOKIE, line)),
        _ => drop(headers.remove(COOKIE)),
    }
}

/// Before the port, if there is one. An address has no names below it, and stays.
fn add_suffix(headers: &mut HeaderMap, suffix: &str) {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return };
    if host.starts_with('[') {
        return;
    }
    let (name, port) = host.split_at(host.find(':').unwrap_or(host.len()));
    if name.parse::<std::net::Ipv4Addr>().is_ok() {
        return;
    }
    if let Ok(host) = HeaderValue::try_from(format!("{name}{suffix}{port}")) {
        headers.insert(HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(fields: &[(&'static str, &'static str)], redact: &RedactConfig, suffix: Option<&str>) -> HeaderMap {
        let mut request = Request::new(());
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        CopiedHead::of(&request, HeaderValue::from_static("shop/green"), redact, suffix).0.headers().clone()
    }

    #[test]
    fn a_suffix_comes_before_the_port_and_never_after_an_address() {
        for (host, wanted) in [
            ("shop.test", "shop.test-shadow"),
            ("shop.test:8080", "shop.test-shadow:8080"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(copied(&[("host", host)], &RedactConfig::default(), Some("-shadow"))[HOST], wanted);
        }
    }

    #[test]
    fn what_is_redacted_is_gone_and_the_rest_is_as_it_was() {
        let redact = RedactConfig {
            headers: vec![HeaderName::from_static("authorization")],
            cookies: vec!["session".into(), "s".into()],
        };
        let fields = [("authorization", "secret"), ("cookie", "a=1; session=x;s=2"), ("cookie", "session = y; b=3")];
        let headers = copied(&fields, &redact, None);
        assert!(!headers.contains_key("authorization"));
        assert_eq!(headers[COOKIE], "a=1; b=3");
        assert_eq!(headers[MARK], "shop/green");
        assert!(!copied(&[("cookie", "session=x; s")], &redact, None).contains_key(COOKIE));
    }
}
