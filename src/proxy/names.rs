//! The names in a request's head that mean something to us, found in one pass.

use http::{HeaderMap, HeaderName};

use crate::model::Format;

/// How often a request's head has the names that matter, counted in one pass: asking the map for each would cost a
/// hash a name. A map holds at most 32,768 fields.
#[derive(Debug, Default, Clone, Copy)]
pub struct RequestNames {
    pub(super) hosts: u16,
    pub(super) upgrades: u16,
    pub(super) connections: u16,
    pub(super) transfer_encodings: u16,
    pub(super) tes: u16,
    pub(super) cookies: u16,
    pub(super) vias: u16,
    /// `traceparent` and `tracestate`.
    pub(super) traces: u16,
    /// What only a trusted peer is believed.
    pub(super) claims: u16,
    /// What doesn't go on, or not as it is, if the peer is a stranger.
    pub(super) dropped: u16,
    /// What our own answers had better be: not text where any line of `Accept` wants that.
    pub(super) format: Format,
    /// The size of all fields in HTTP/1.
    pub(super) bytes: usize,
}

/// What a name in a request's head is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Host,
    Accept,
    Cookie,
    Connection,
    Te,
    TransferEncoding,
    Upgrade,
    Via,
    Trace,
    /// Said anew in every request that goes on: `x-forwarded-for` and its like, `x-request-id`.
    Replaced,
    /// Tells what a trusted peer's other values do; told anew where that is wanted.
    Forwarded,
    /// Goes on if the peer is believed in `X-Forwarded-*`.
    Claim,
    /// Tells of a client's certificate; goes on if the peer is believed about that.
    Certificate,
    /// Never goes on.
    Dropped,
    /// Goes on as it is, whatever `Connection` says.
    Kept,
    Other,
}

/// What every `x-forwarded-*` begins with, those of other programs included.
const FORWARDED_PREFIX: &[u8] = b"x-forwarded-";
/// Envoy's word for a certificate, and what Traefik's two begin with.
const CERTIFICATES: [&[u8]; 2] = [b"x-forwarded-client-cert", b"x-forwarded-tls-client-cert"];

impl RequestNames {
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut names = Self::default();
        for (name, value) in headers {
            names.bytes += name.as_str().len() + value.len() + ": \r\n".len();
            match Kind::of(name) {
                Kind::Other | Kind::Kept => {}
                Kind::Host => names.hosts += 1,
                Kind::Accept => {
                    if names.format == Format::Text {
                        names.format = Format::wanted_by(value.as_bytes());
                    }
                }
                Kind::Cookie => names.cookies += 1,
                Kind::Connection => names.connections += 1,
                Kind::Via => names.vias += 1,
                Kind::Trace => names.traces += 1,
                Kind::Replaced => names.claims += 1,
                Kind::Dropped => names.dropped += 1,
                Kind::TransferEncoding => {
                    names.transfer_encodings += 1;
                    names.dropped += 1;
                }
                Kind::Te => {
                    names.tes += 1;
                    names.dropped += 1;
                }
                Kind::Upgrade => {
                    names.upgrades += 1;
                    names.dropped += 1;
                }
                Kind::Forwarded | Kind::Claim | Kind::Certificate => {
                    names.claims += 1;
                    names.dropped += 1;
                }
            }
        }
        names
    }
}

impl Kind {
    /// By length first: hardly any name has to be compared with more than one of ours.
    ///
    /// A program that hands headers on as CGI's variables takes `x_forwarded_for`, and some take `x.forwarded.for`, for
    /// `x-forwarded-for`. So such a name is one of ours, and never goes on.
    pub(super) fn of(name: &HeaderName) -> Self {
        let name = name.as_str().as_bytes();
        match name.len() {
            2 if name == b"te" => Self::Te,
            3 if name == b"via" => Self::Via,
            4 if name == b"host" => Self::Host,
            5 if name == b"proxy" => Self::Dropped,
            6 if name == b"accept" => Self::Accept,
            6 if name == b"cookie" => Self::Cookie,
            6 if name == b"expect" => Self::Dropped,
            7 if name == b"upgrade" => Self::Upgrade,
            9 if name == b"forwarded" => Self::Forwarded,
            9 if is(name, b"x-real-ip") => Self::Dropped,
            10 if name == b"connection" => Self::Connection,
            10 if name == b"keep-alive" => Self::Dropped,
            10 if name == b"tracestate" => Self::Trace,
            11 if name == b"traceparent" => Self::Trace,
            11 if is(name, b"client-cert") => Self::Certificate.unless_alias(name, b"client-cert"),
            12 if is(name, b"x-request-id") => Self::Replaced.unless_alias(name, b"x-request-id"),
            13 if name == b"authorization" => Self::Kept,
            14 if name == b"http2-settings" => Self::Dropped,
            14 if is(name, b"content-length") => Self::Kept.unless_alias(name, b"content-length"),
            // An application that knows copies by it must not be told so by strangers.
            15 if is(name, b"tidegate-mirror") => Self::Claim.unless_alias(name, b"tidegate-mirror"),
            15 if is(name, b"x-forwarded-for") => Self::Replaced.unless_alias(name, b"x-forwarded-for"),
            16 if is(name, b"x-forwarded-host") => Self::Replaced.unless_alias(name, b"x-forwarded-host"),
            16 if is(name, b"x-forwarded-port") => Self::Replaced.unless_alias(name, b"x-forwarded-port"),
            16 if name == b"proxy-connection" => Self::Dropped,
            17 if is(name, b"x-forwarded-proto") => Self::Replaced.unless_alias(name, b"x-forwarded-proto"),
            17 if is(name, b"client-cert-chain") => Self::Certificate.unless_alias(name, b"client-cert-chain"),
            17 if is(name, b"transfer-encoding") => Self::TransferEncoding.unless_alias(name, b"transfer-encoding"),
            19 if name == b"proxy-authorization" => Self::Dropped,
            13.. if is(&name[..12], FORWARDED_PREFIX) => {
                Self::prefixed(name).unless_alias(&name[..12], FORWARDED_PREFIX)
            }
            _ => Self::Other,
        }
    }

    /// Of a name that begins with `x-forwarded-`.
    fn prefixed(name: &[u8]) -> Self {
        match CERTIFICATES.iter().find(|ours| name.len() >= ours.len() && is(&name[..ours.len()], ours)) {
            Some(ours) => Self::Certificate.unless_alias(&name[..ours.len()], ours),
            None => Self::Claim,
        }
    }

    fn unless_alias(self, name: &[u8], ours: &[u8]) -> Self {
        if name == ours { self } else { Self::Dropped }
    }

    /// Whether a request's `Connection` may name it, to have it removed on the way.
    pub(super) fn is_removable(self) -> bool {
        matches!(self, Self::Other | Self::Accept | Self::Dropped | Self::Connection)
    }
}

/// Whether `name` is `ours`, with `_` and `.` read as `-`. Both have the same length.
fn is(name: &[u8], ours: &[u8]) -> bool {
    name.iter().zip(ours).all(|(found, wanted)| found == wanted || (*wanted == b'-' && matches!(found, b'_' | b'.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &'static str) -> Kind {
        Kind::of(&HeaderName::from_static(name))
    }

    #[test]
    fn an_underscore_or_a_dot_makes_no_other_name() {
        for alias in [
            "x_forwarded_for",
            "x.forwarded.for",
            "x-forwarded_for",
            "x_forwarded-host",
            "x_forwarded_port",
            "x.forwarded-proto",
            "x_forwarded_user",
            "x-forwarded-client_cert",
            "x_real_ip",
            "x.request_id",
            "client_cert",
            "client.cert_chain",
            "content_length",
            "transfer_encoding",
        ] {
            assert_eq!(kind(alias), Kind::Dropped, "{alias}");
        }
        for other in
            ["remote_user", "x_forwarded", "x-forwarded-", "x_real_ips", "accept-encoding", "x-realm-ip", "v.a"]
        {
            assert_eq!(kind(other), Kind::Other, "{other}");
        }
    }

    #[test]
    fn names_of_ours_are_known() {
        for (names, wanted) in [
            (
                &["x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-request-id"][..],
                Kind::Replaced,
            ),
            (&["x-forwarded-user", "x-forwarded-prefix", "x-forwarded-client"], Kind::Claim),
            (
                &["client-cert", "client-cert-chain", "x-forwarded-client-cert", "x-forwarded-tls-client-cert-info"],
                Kind::Certificate,
            ),
            (&["proxy", "proxy-authorization", "keep-alive", "expect", "x-real-ip"], Kind::Dropped),
            (&["traceparent", "tracestate"], Kind::Trace),
            (&["content-length", "authorization"], Kind::Kept),
        ] {
            for name in names {
                assert_eq!(kind(name), wanted, "{name}");
            }
        }
    }
}
