//! Host names: of routes, where `*` may stand for some, and of endpoints.

use std::net::{IpAddr, Ipv6Addr};

use super::Fault;
use crate::model::HostMatch;

/// RFC 1035 section 2.3.4.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// A route's host: `shop.example.com`, `*.example.com` or `*`.
pub(super) fn host_match(text: &str) -> Result<HostMatch, Fault> {
    if text == "*" {
        return Ok(HostMatch::Any);
    }
    let refuse = |hint: &str| Err(Fault::new(format!("{text:?} can't be the host of a request"), hint));
    if text.contains("://") {
        return refuse("write the host alone, without http:// or https://");
    }
    if text.contains('/') {
        return refuse("write the host alone; what follows it goes into `path`");
    }
    if let Some(inside) = text.strip_prefix('[') {
        return match inside.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
            Some(Ok(ip)) => Ok(HostMatch::Exact(format!("[{ip}]"))),
            _ => refuse("write an IPv6 address in brackets and without a port, like \"[::1]\""),
        };
    }
    if text.contains(':') {
        return refuse("write the host without a port: a route takes its host on every port");
    }
    if let Some(suffix) = text.strip_prefix("*.") {
        return Ok(HostMatch::Wildcard(name(suffix).map_err(|fault| about(text, fault))?));
    }
    Ok(HostMatch::Exact(name(text).map_err(|fault| about(text, fault))?))
}

/// A host name in lower case and without a trailing dot. An IPv4 address is one too.
pub(super) fn name(text: &str) -> Result<String, Fault> {
    let refuse = |hint: String| Err(Fault::new(format!("{text:?} can't be a host name"), hint));
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if !name.is_ascii() {
        return refuse("write it in punycode, as it is sent: \"xn--…\"".to_owned());
    }
    if name.contains('*') {
        return refuse("a * may only stand for the whole first part, as in \"*.example.com\"".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return refuse(format!("host names have at most {NAME_BYTES_MAX} characters"));
    }
    for label in name.split('.') {
        if label.is_empty() {
            return refuse("there is nothing between two dots, or nothing at all".to_owned());
        }
        if label.len() > LABEL_BYTES_MAX {
            return refuse(format!("the parts between dots have at most {LABEL_BYTES_MAX} characters"));
        }
        if let Some(c) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
            return refuse(format!("{c:?} doesn't occur in host names"));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return refuse("the parts between dots neither begin nor end with -".to_owned());
        }
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) && name.parse::<IpAddr>().is_err() {
        return refuse("a name that ends in a number must be an IPv4 address, like 192.0.2.7".to_owned());
    }
    Ok(name)
}

/// The fault of a part, told of the whole.
fn about(text: &str, fault: Fault) -> Fault {
    Fault::new(format!("{text:?} can't be the host of a request"), fault.hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_brought_into_one_form() {
        let exact = |text: &str| Ok(HostMatch::Exact(text.to_owned()));
        assert_eq!(host_match("*"), Ok(HostMatch::Any));
        assert_eq!(host_match("Shop.Example.COM."), exact("shop.example.com"));
        assert_eq!(host_match("*.Example.com"), Ok(HostMatch::Wildcard("example.com".to_owned())));
        assert_eq!(host_match("127.0.0.1"), exact("127.0.0.1"));
        assert_eq!(host_match("[0:0::1]"), exact("[::1]"));
        assert_eq!(host_match("my_app"), exact("my_app"));
        assert_eq!(host_match("xn--bcher-kva.example"), exact("xn--bcher-kva.example"));
    }

    #[test]
    fn what_no_request_can_name_is_refused() {
        let long = format!("{}.example", "x".repeat(64));
        for text in [
            "",
            ".",
            "a..b",
            ".a",
            "*.",
            "**",
            "a.*.b",
            "*a.example",
            "*.*.example",
            "a.example:80",
            "http://a.example",
            "a.example/x",
            "::1",
            "[::1",
            "[::1]:80",
            "b\u{fc}cher.example",
            "a b",
            "-a.example",
            "a-.example",
            "10.0.0.256",
            "a@b",
            &long,
            &"a.".repeat(128),
        ] {
            assert!(host_match(text).is_err(), "{text:?}");
        }
    }
}
