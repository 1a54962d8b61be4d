//! The PROXY protocol's header, versions 1 and 2: who a connection comes from, told by whoever passes it on
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8] = b"PROXY ";
/// The shortest line of version 1, and so the shortest header.
const LINE_BYTES_MIN: usize = b"PROXY UNKNOWN\r\n".len();
/// The longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;
/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;
/// The longest header of version 2 that is read: the largest address, and TLVs such as a certificate's names.
const HEADER_BYTES_MAX: usize = FIXED_BYTES + 4096;

/// Both ends of a connection: the client's, and the address that the client connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    pub client: SocketAddr,
    pub server: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyVersion {
    V1,
    V2,
}

/// How far the reading of a header has come.
#[derive(Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// Not complete. At least this many more bytes belong to it, so reading no more takes nothing that doesn't.
    Needs(usize),
    /// Complete; `None`: the connection is the sender's own, or from a family we don't know.
    Read(Option<Ends>),
}

/// What comes is no PROXY header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoProxyHeader(&'static str);

impl fmt::Display for NoProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for NoProxyHeader {}

/// Reads the header that `bytes`, all that has come so far, begin with.
///
/// # Errors
/// As soon as no more bytes could make a header of it.
pub fn read_proxy_header(bytes: &[u8]) -> Result<ProxyHeader, NoProxyHeader> {
    if bytes.is_empty() {
        return Ok(ProxyHeader::Needs(LINE_BYTES_MIN));
    }
    let begins = |whole: &[u8]| bytes.iter().zip(whole).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        return binary(bytes);
    }
    if begins(WORD) {
        return line(bytes);
    }
    Err(NoProxyHeader("it begins like neither version"))
}

fn line(bytes: &[u8]) -> Result<ProxyHeader, NoProxyHeader> {
    let Some(end) = bytes.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') else {
        // Within the shortest line, all of that; then the end may be a byte or two away.
        let end = if bytes.ends_with(b"\r") { 1 } else { 2 };
        if bytes.len() + end > LINE_BYTES_MAX {
            return Err(NoProxyHeader("the line is too long"));
        }
        return Ok(ProxyHeader::Needs(LINE_BYTES_MIN.saturating_sub(bytes.len()).max(end)));
    };
    let line = bytes[WORD.len()..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(NoProxyHeader("the line isn't one"))?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Ok(ProxyHeader::Read(None));
    }
    let mut words = line.split(' ');
    let (family, client, server) = (words.next(), words.next(), words.next());
    let (client_port, server_port, nothing) = (words.next(), words.next(), words.next());
    let address = |text: Option<&str>| -> Option<IpAddr> {
        match family? {
            "TCP4" => text?.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let end = |ip: Option<&str>, port: Option<&str>| Some(SocketAddr::new(address(ip)?, number(port?)?));
    match (end(client, client_port), end(server, server_port), nothing) {
        (Some(client), Some(server), None) => Ok(ProxyHeader::Read(Some(Ends { client, server }))),
        _ => Err(NoProxyHeader("the line isn't one")),
    }
}

/// A port as the specification writes it: digits alone, and none too many in front.
fn number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn binary(bytes: &[u8]) -> Result<ProxyHeader, NoProxyHeader> {
    let Some((fixed, rest)) = bytes.split_at_checked(FIXED_BYTES) else {
        return Ok(ProxyHeader::Needs(FIXED_BYTES - bytes.len()));
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if FIXED_BYTES + length > HEADER_BYTES_MAX {
        return Err(NoProxyHeader("it is too long"));
    }
    // The version, and whether the connection is somebody's or the sender's own.
    let proxied = match fixed[12] {
        0x20 => false,
        0x21 => true,
        _ => return Err(NoProxyHeader("it is of no version or command that exists")),
    };
    if rest.len() < length {
        return Ok(ProxyHeader::Needs(length - rest.len()));
    }
    let body = &rest[..length];
    let port = |at: usize| body.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    let v4 = |at: usize| body.get(at..at + 4).and_then(|ip| <[u8; 4]>::try_from(ip).ok()).map(IpAddr::from);
    let v6 = |at: usize| body.get(at..at + 16).and_then(|ip| <[u8; 16]>::try_from(ip).ok()).map(IpAddr::from);
    let (client, server) = match fixed[13] {
        _ if !proxied => return Ok(ProxyHeader::Read(None)),
        // TCP over IPv4, TCP over IPv6; others exist, and say nothing about a TCP client.
        0x11 => (v4(0).zip(port(8)), v4(4).zip(port(10))),
        0x21 => (v6(0).zip(port(32)), v6(16).zip(port(34))),
        _ => return Ok(ProxyHeader::Read(None)),
    };
    let ends = client.zip(server).ok_or(NoProxyHeader("it is too short for its addresses"))?;
    Ok(ProxyHeader::Read(Some(Ends { client: SocketAddr::from(ends.0), server: SocketAddr::from(ends.1) })))
}

/// The header that a connection begins with.
#[must_use]
pub fn write_proxy_header(version: ProxyVersion, ends: Ends) -> Vec<u8> {
    // Both have to be of one family.
    let (client, server) = (ends.client.ip().to_canonical(), ends.server.ip().to_canonical());
    let (client, server) = match (client, server) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => (client, server),
        (IpAddr::V4(client), server) => (client.to_ipv6_mapped().into(), server),
        (client, IpAddr::V4(server)) => (client, server.to_ipv6_mapped().into()),
    };
    let (client_port, server_port) = (ends.client.port(), ends.server.port());
    if version == ProxyVersion::V1 {
        let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
        return format!("PROXY {family} {client} {server} {client_port} {server_port}\r\n").into_bytes();
    }
    let mut header = SIGNATURE.to_vec();
    let (family, length) = if client.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
    header.extend([0x21, family, 0, length]);
    for address in [client, server] {
        match address {
            IpAddr::V4(ip) => header.extend(ip.octets()),
            IpAddr::V6(ip) => header.extend(ip.octets()),
        }
    }
    header.extend(client_port.to_be_bytes());
    header.extend(server_port.to_be_bytes());
    header
}

/// The header of a connection that is the sender's own.
#[must_use]
pub fn local_proxy_header(version: ProxyVersion) -> &'static [u8] {
    match version {
        ProxyVersion::V1 => b"PROXY UNKNOWN\r\n",
        ProxyVersion::V2 => b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn our_own_header_is_read_as_nobodys() {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            assert_eq!(read_proxy_header(local_proxy_header(version)), Ok(ProxyHeader::Read(None)));
        }
    }

    fn ends(client: &str, server: &str) -> Ends {
        Ends { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    fn read(bytes: &[u8]) -> Result<Option<Ends>, NoProxyHeader> {
        match read_proxy_header(bytes)? {
            ProxyHeader::Read(ends) => Ok(ends),
            ProxyHeader::Needs(more) => panic!("{more} more bytes for {bytes:?}"),
        }
    }

    #[test]
    fn lines_are_read_as_the_specification_writes_them() {
        let shop = ends("192.0.2.1:56324", "198.51.100.1:443");
        assert_eq!(read(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"), Ok(Some(shop)));
        let shop = ends("[2001:db8::1]:1", "[::1]:65535");
        assert_eq!(read(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"), Ok(Some(shop)));
        assert_eq!(read(b"PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(read(b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n"), Ok(None));
        for bad in [
            "PROXY \r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 65536\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 01 443\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1\r\n",
            "proxy TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert!(read_proxy_header(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_shortest_line_is_read_and_no_byte_behind_it() {
        assert_eq!(read_proxy_header(b""), Ok(ProxyHeader::Needs(LINE_BYTES_MIN)));
        for come in 0..LINE_BYTES_MIN {
            let needs = read_proxy_header(&b"PROXY UNKNOWN\r\n"[..come]);
            assert_eq!(needs, Ok(ProxyHeader::Needs(LINE_BYTES_MIN - come)));
        }
    }

    #[test]
    fn the_longest_line_is_read_however_it_comes_and_a_longer_one_never() {
        let longest = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 91], b"\r\n"].concat();
        assert_eq!(longest.len(), LINE_BYTES_MAX);
        for come in 0..LINE_BYTES_MAX {
            let Ok(ProxyHeader::Needs(more)) = read_proxy_header(&longest[..come]) else { panic!("after {come}") };
            assert!(come + more <= LINE_BYTES_MAX, "after {come}");
        }
        assert_eq!(read(&longest), Ok(None));
        let longer = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 92], b"\r\n"].concat();
        for come in 106..=longer.len() {
            assert!(read_proxy_header(&longer[..come]).is_err(), "after {come}");
        }
    }

    #[test]
    fn binary_headers_carry_addresses_and_whatever_follows_them() {
        let shop = ends("192.0.2.1:56324", "198.51.100.1:443");
        let mut header = write_proxy_header(ProxyVersion::V2, shop);
        header[15] += 4;
        header.extend([0xee, 0, 1, 7]);
        assert_eq!(read(&header), Ok(Some(shop)));
        let with = |at: usize, value: u8| {
            let mut changed = header.clone();
            changed[at] = value;
            read_proxy_header(&changed)
        };
        assert_eq!(with(12, 0x20), Ok(ProxyHeader::Read(None)), "LOCAL");
        assert_eq!(with(13, 0x00), Ok(ProxyHeader::Read(None)), "UNSPEC");
        assert_eq!(with(13, 0x31), Ok(ProxyHeader::Read(None)), "UNIX");
        assert!(with(12, 0x22).is_err(), "no such command");
        assert!(with(12, 0x11).is_err(), "no such version");
        assert!(with(13, 0x21).is_err(), "too short for IPv6");
        assert!(with(14, 0x10).is_err(), "above 4 KiB");
        assert!(with(5, 0).is_err(), "no signature");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_byte_by_byte_and_no_byte_too_far(
            client: SocketAddr, server: SocketAddr, v2: bool,
        ) {
            let version = if v2 { ProxyVersion::V2 } else { ProxyVersion::V1 };
            let header = write_proxy_header(version, Ends { client, server });
            let mut come = 0;
            let read = loop {
                match read_proxy_header(&header[..come]).unwrap() {
                    ProxyHeader::Needs(more) => {
                        prop_assert!(more > 0 && come + more <= header.len());
                        come += more;
                    }
                    ProxyHeader::Read(ends) => break ends.unwrap(),
                }
            };
            prop_assert_eq!(come, header.len());
            let plain = |a: SocketAddr, b: SocketAddr| {
                (a.ip().to_canonical(), a.port()) == (b.ip().to_canonical(), b.port())
            };
            prop_assert!(plain(read.client, client) && plain(read.server, server));
        }

        #[test]
        fn no_bytes_make_the_reader_panic_or_read_on_for_ever(tail: Vec<u8>, kind in 0..3) {
            let mut bytes = [b"PROXY ".to_vec(), SIGNATURE.to_vec(), Vec::new()][kind as usize].clone();
            bytes.extend(tail);
            if let Ok(ProxyHeader::Needs(more)) = read_proxy_header(&bytes) {
                prop_assert!(more > 0 && bytes.len() + more <= HEADER_BYTES_MAX);
            }
        }
    }
}
