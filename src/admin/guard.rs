//! Who may call: with a token, whoever has it; without one, programs on this machine, but not pages in a browser
//! on it. A page of any site can send requests to 127.0.0.1, and can even read the answers once its own name
//! resolves there (DNS rebinding), so requests that a browser marks as another site's, or that name a host we
//! can't be, are refused.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::{HeaderMap, StatusCode};

use crate::config::Secret;

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Denied {
    pub(super) status: StatusCode,
    pub(super) reason: &'static str,
}

/// Checks one call's head.
pub(super) fn check(headers: &HeaderMap, token: Option<&Secret>) -> Result<(), Denied> {
    if headers.contains_key(ORIGIN) || headers.get("sec-fetch-site").is_some_and(|site| site != "none") {
        return Err(Denied { status: StatusCode::FORBIDDEN, reason: "the admin API doesn't answer web pages" });
    }
    match token {
        Some(token) => check_token(headers, token),
        None => check_host(headers),
    }
}

fn check_token(headers: &HeaderMap, token: &Secret) -> Result<(), Denied> {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let equal = given.is_some_and(|given| verify_slices_are_equal(given, token.expose().as_bytes()).is_ok());
    if equal {
        return Ok(());
    }
    let reason = "a token is needed: send it as `Authorization: Bearer …`, or set TIDEGATE_TOKEN for the command line";
    Err(Denied { status: StatusCode::UNAUTHORIZED, reason })
}

/// An address, or `localhost`: names that no other site can have.
fn check_host(headers: &HeaderMap) -> Result<(), Denied> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    if name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok() {
        return Ok(());
    }
    let reason = "call the admin API by its address or as localhost, not by another name";
    Err(Denied { status: StatusCode::MISDIRECTED_REQUEST, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn programs_on_this_machine_may_call_and_web_pages_may_not() {
        for host in ["127.0.0.1:9900", "localhost", "LOCALHOST:1", "[::1]:9900", "127.0.0.1"] {
            assert!(check(&headers(&[("host", host)]), None).is_ok(), "{host}");
        }
        for host in ["evil.example:9900", "", "localhost.evil.example", "127.0.0.1.evil.example:80"] {
            assert_eq!(check(&headers(&[("host", host)]), None).unwrap_err().status, 421, "{host}");
        }
        let page = headers(&[("host", "127.0.0.1"), ("origin", "https://evil.example")]);
        assert_eq!(check(&page, None).unwrap_err().status, 403);
        let image = headers(&[("host", "127.0.0.1"), ("sec-fetch-site", "cross-site")]);
        assert_eq!(check(&image, None).unwrap_err().status, 403);
    }

    #[test]
    fn with_a_token_only_its_bearer_may_call() {
        let token = Secret::new("s3cret".to_owned());
        assert!(check(&headers(&[("host", "a.test"), ("authorization", "Bearer s3cret")]), Some(&token)).is_ok());
        for wrong in ["Bearer s3cre", "Bearer s3crets", "s3cret", "Bearer ", "Basic s3cret"] {
            let denied = check(&headers(&[("host", "127.0.0.1"), ("authorization", wrong)]), Some(&token));
            assert_eq!(denied.unwrap_err().status, 401, "{wrong}");
        }
        assert!(check(&headers(&[("host", "127.0.0.1")]), Some(&token)).is_err());
    }
}
