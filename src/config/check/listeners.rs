//! Addresses to bind, their certificates, and whether two of them are after the same port.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Check, Fault};
use crate::config::file::ListenerFile;
use crate::config::key_path::KeyPath;
use crate::config::types::{AdminConfig, ListenerConfig};

impl Check<'_, '_> {
    /// As many as the file has, so that indexes stay what they are.
    pub(super) fn listeners(&mut self, at: &KeyPath, files: &[ListenerFile]) -> Vec<Option<ListenerConfig>> {
        files.iter().enumerate().map(|(index, file)| self.listener(&at.index(index), file)).collect()
    }

    pub(super) fn address(&mut self, at: &KeyPath, text: &str) -> Option<SocketAddr> {
        self.accept(at, address(text))
    }

    /// Reports listeners, and the admin API, that are after an address which an earlier one already has.
    pub(super) fn address_clashes(&mut self, listeners: &[Option<ListenerConfig>], admin: Option<&AdminConfig>) {
        let at = |index| KeyPath::root().key("listeners").index(index).key("address");
        let listeners =
            listeners.iter().enumerate().filter_map(|(index, listener)| Some((at(index), listener.as_ref()?.address)));
        let admin = admin.map(|admin| (KeyPath::root().key("admin").key("address"), admin.address));
        let mut taken: Vec<(KeyPath, SocketAddr)> = Vec::new();
        for (at, address) in listeners.chain(admin) {
            if let Some((other_at, other)) = taken.iter().find(|(_, other)| clash(address, *other)) {
                let place = self.report.place(other_at);
                let message = if address == *other {
                    format!("{address} is already taken by {place}")
                } else {
                    format!("{address} overlaps {other}, which {place} takes")
                };
                self.report.problem(&at, message, "give each its own port, or remove one");
            }
            taken.push((at, address));
        }
    }

    fn listener(&mut self, at: &KeyPath, file: &ListenerFile) -> Option<ListenerConfig> {
        let address = self.address(&at.key("address"), &file.address);
        let pairs = file.tls.iter().flatten().enumerate();
        let tls: Vec<_> = pairs.map(|(index, pair)| self.listener_pair(&at.key("tls").index(index), pair)).collect();
        let proxy_protocol = file.proxy_protocol.as_deref().unwrap_or_default();
        let proxy_protocol = self.networks(&at.key("proxy_protocol"), proxy_protocol);
        let at_auth = at.key("client_auth");
        if file.client_auth.is_some() && file.tls.is_none() {
            self.report.problem(
                &at_auth,
                "`client_auth` is given without `tls`",
                "clients show certificates in a TLS handshake: add `tls`, or remove it",
            );
        }
        let client_auth = file.client_auth.as_ref().map(|auth| self.client_auth(&at_auth, auth));
        // Without its certificates the listener still has its address, which may clash with another.
        Some(ListenerConfig {
            address: address?,
            tls: tls.into_iter().flatten().collect(),
            connections: file.connections,
            proxy_protocol: proxy_protocol.unwrap_or_default().into(),
            client_auth: client_auth.flatten(),
        })
    }
}

fn address(text: &str) -> Result<SocketAddr, Fault> {
    text.parse().map_err(|_| Fault::new(format!("{text:?} is no IP address with a port"), address_hint(text)))
}

fn address_hint(text: &str) -> String {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return format!("add a port, like \"{}\"", SocketAddr::new(ip, 8080));
    }
    if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        return format!("write \"0.0.0.0:{port}\" for every IPv4 address, or \"[::]:{port}\" for every address");
    }
    if let Some(port) = text.strip_prefix("localhost:") {
        return format!("write \"127.0.0.1:{port}\" or \"[::1]:{port}\"");
    }
    if text.contains("://") {
        return "write the address and port alone, like \"127.0.0.1:8080\"".to_owned();
    }
    if text.parse::<u16>().is_ok() {
        return format!("add an address, like \"127.0.0.1:{text}\"");
    }
    "write it like \"127.0.0.1:8080\", \"0.0.0.0:80\" or \"[::]:443\"".to_owned()
}

/// Whether the second of both can't be bound. Port 0 is a different free port each time.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |wide: IpAddr, narrow: IpAddr| match wide {
        // A socket on [::] takes IPv4 too.
        IpAddr::V6(ip) => ip == Ipv6Addr::UNSPECIFIED,
        IpAddr::V4(ip) => ip.is_unspecified() && narrow.is_ipv4(),
    };
    let scope = |address: SocketAddr| if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
    let (ip_a, ip_b) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port()
        && a.port() != 0
        && ((ip_a == ip_b && scope(a) == scope(b)) || covers(ip_a, ip_b) || covers(ip_b, ip_a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_clash_when_one_of_them_takes_the_others_clients() {
        let clashes = |a: &str, b: &str| {
            let (a, b) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(clash(a, b), clash(b, a));
            clash(a, b)
        };
        assert!(clashes("127.0.0.1:80", "127.0.0.1:80"));
        assert!(clashes("0.0.0.0:80", "127.0.0.1:80"));
        assert!(clashes("[::]:80", "127.0.0.1:80"));
        assert!(clashes("[::]:80", "0.0.0.0:80"));
        assert!(clashes("[::]:80", "[::1]:80"));
        assert!(clashes("[::ffff:127.0.0.1]:80", "127.0.0.1:80"));
        assert!(!clashes("0.0.0.0:80", "[::1]:80"));
        assert!(!clashes("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!clashes("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!clashes("[::]:0", "[::]:0"));
        assert!(!clashes("[fe80::1%1]:80", "[fe80::1%2]:80"));
    }

    #[test]
    fn what_is_no_address_is_told_how_to_become_one() {
        for (text, hint) in [
            (":8080", "write \"0.0.0.0:8080\" for every IPv4 address, or \"[::]:8080\" for every address"),
            ("*:80", "write \"0.0.0.0:80\" for every IPv4 address, or \"[::]:80\" for every address"),
            ("localhost:80", "write \"127.0.0.1:80\" or \"[::1]:80\""),
            ("http://127.0.0.1:80", "write the address and port alone, like \"127.0.0.1:8080\""),
            ("10.0.0.1", "add a port, like \"10.0.0.1:8080\""),
            ("::1", "add a port, like \"[::1]:8080\""),
            ("8080", "add an address, like \"127.0.0.1:8080\""),
            ("127.0.0.1:99999", "write it like \"127.0.0.1:8080\", \"0.0.0.0:80\" or \"[::]:443\""),
        ] {
            assert_eq!(address(text).unwrap_err().hint, hint, "{text}");
        }
    }
}
