//! One address of a backend: `http://host:port` or `https://host`.

use std::net::{IpAddr, Ipv6Addr};

use super::{Fault, host};
use crate::config::types::{EndpointConfig, EndpointHost, Scheme};

const HINT: &str = "write it like \"http://127.0.0.1:9001\" or \"https://app.internal\"";

pub(super) fn endpoint(text: &str) -> Result<EndpointConfig, Fault> {
    if text.contains('@') {
        // The text may hold a password, so it isn't repeated.
        return Err(Fault::new("the endpoint has a user name", "write scheme, host and port alone"));
    }
    let (scheme, authority) = scheme(text)?;
    if authority.contains(['/', '?', '#']) {
        let hint = "write scheme, host and port alone: the path of a request is passed on as it is";
        return Err(Fault::new(format!("{text:?} has a path"), hint));
    }
    let (host, port) = split_port(text, authority)?;
    let port = match port {
        None if scheme == Scheme::Https => 443,
        None => 80,
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|port| *port != 0 && digits.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| Fault::new(format!("{digits:?} is no port"), "ports are numbers from 1 to 65535"))?,
    };
    Ok(EndpointConfig { scheme, host, port })
}

fn scheme(text: &str) -> Result<(Scheme, &str), Fault> {
    let Some((scheme, authority)) = text.split_once("://") else {
        return Err(Fault::new(
            format!("{text:?} has no scheme"),
            format!("write \"http://{text}\" or \"https://{text}\""),
        ));
    };
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Ok((Scheme::Http, authority)),
        "https" => Ok((Scheme::Https, authority)),
        other => {
            let hint = match other {
                "h2" | "h2c" | "grpc" => "write \"http://…\" and add protocol = \"h2\" to the backend",
                "grpcs" => "write \"https://…\" and add protocol = \"h2\" to the backend",
                "ws" => "write \"http://…\": WebSockets pass by themselves",
                "wss" => "write \"https://…\": WebSockets pass by themselves",
                _ => HINT,
            };
            Err(Fault::new(format!("{scheme:?} is no scheme of an endpoint"), hint))
        }
    }
}

fn split_port<'t>(text: &str, authority: &'t str) -> Result<(EndpointHost, Option<&'t str>), Fault> {
    let refuse = |hint: &str| Fault::new(format!("{text:?} has no usable host"), hint);
    if let Some(rest) = authority.strip_prefix('[') {
        let (ip, rest) = rest.split_once(']').ok_or_else(|| refuse("close the bracket after the IPv6 address"))?;
        let ip: Ipv6Addr = ip.parse().map_err(|_| refuse("only an IPv6 address stands in brackets"))?;
        let port = match rest {
            "" => None,
            rest => {
                Some(rest.strip_prefix(':').ok_or_else(|| refuse("only a port follows the bracket, as in [::1]:80"))?)
            }
        };
        return Ok((EndpointHost::Address(IpAddr::V6(ip)), port));
    }
    let (name, port) = match authority.split_once(':') {
        Some((_, rest)) if rest.contains(':') => {
            return Err(refuse("write an IPv6 address in brackets, as in http://[::1]:80"));
        }
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    let name = host::name(name).map_err(|fault| refuse(&fault.hint))?;
    let host = name.parse().map_or_else(|_| EndpointHost::Name(name.clone()), EndpointHost::Address);
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_brought_into_one_form() {
        let address =
            |scheme, ip: &str, port| EndpointConfig { scheme, host: EndpointHost::Address(ip.parse().unwrap()), port };
        let name =
            |scheme, name: &str, port| EndpointConfig { scheme, host: EndpointHost::Name(name.to_owned()), port };
        assert_eq!(endpoint("http://127.0.0.1:9001"), Ok(address(Scheme::Http, "127.0.0.1", 9001)));
        assert_eq!(endpoint("http://127.0.0.1"), Ok(address(Scheme::Http, "127.0.0.1", 80)));
        assert_eq!(endpoint("HTTPS://App.Internal."), Ok(name(Scheme::Https, "app.internal", 443)));
        assert_eq!(endpoint("https://[::1]:8443"), Ok(address(Scheme::Https, "::1", 8443)));
        assert_eq!(endpoint("http://[::1]"), Ok(address(Scheme::Http, "::1", 80)));
        assert_eq!(endpoint("http://my_app:80"), Ok(name(Scheme::Http, "my_app", 80)));
    }

    #[test]
    fn what_can_not_be_connected_to_is_refused() {
        for text in [
            "",
            "http://",
            "127.0.0.1:9001",
            "ftp://a",
            "grpc://a:50051",
            "http://a/",
            "http://a/x",
            "http://a?x",
            "http://u:p@a",
            "http://a:0",
            "http://a:65536",
            "http://a:",
            "http://a:+80",
            "http://::1:80",
            "http://[::1",
            "http://[::1]80",
            "http://[a]:80",
            "http://10.0.0.256",
            "http://a b",
            "http://*.example.com",
            "http://b\u{fc}cher.example",
        ] {
            assert!(endpoint(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_password_in_an_endpoint_is_not_repeated() {
        for text in ["http://user:hunter2@a:80", "http://user:hunter2@a/x", "user:hunter2@a"] {
            assert!(!format!("{:?}", endpoint(text)).contains("hunter2"), "{text}");
        }
    }
}
