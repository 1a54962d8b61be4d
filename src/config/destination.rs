//! Where calls of ours go: hooks and metrics of others.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};

use super::types::{EndpointHost, Scheme, Secret};
use crate::tls::UpstreamTls;

/// Whom to call, over what, and what we show there.
#[derive(Clone, PartialEq)]
pub struct Destination {
    pub scheme: Scheme,
    pub host: EndpointHost,
    pub port: u16,
    /// As `Host` has it.
    pub authority: HeaderValue,
    /// May hold a secret.
    pub path: PathAndQuery,
    /// Where the scheme is https.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Sent with each call; may be secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Signs each call.
    pub secret: Option<Secret>,
    /// For a call as a whole, from the look-up of the name to the answer's last byte.
    pub timeout: Duration,
}

/// Without its path, which is what vouches for us with many a chat.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority.to_str().unwrap_or_default())
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}
