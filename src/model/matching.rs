//! What a request must look like: the conditions of routes and of rules.

use std::fmt;
use std::hash::Hasher;

use http::{HeaderName, Method};
use ipnet::IpNet;
use siphasher::sip::SipHasher13;

use super::Pattern;

/// Which hosts a route takes. Text is lower case, without a port and without a trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostMatch {
    Any,
    Exact(String),
    /// The part after `*.`; matches one or more labels before it.
    Wildcard(String),
}

/// Which paths a route takes.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// Matches on segment boundaries: `/api` takes `/api` and `/api/x`, not `/apix`. Starts with `/`; ends with
    /// `/` only when it is `/`.
    Prefix(String),
    Exact(String),
    Regex(Pattern),
}

/// What a header, query parameter or cookie must hold.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatch {
    Present,
    Exact(String),
    Regex(Pattern),
}

impl ValueMatch {
    /// Whether a present value satisfies this.
    #[must_use]
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(wanted) => wanted.as_bytes() == value,
            Self::Regex(regex) => std::str::from_utf8(value).is_ok_and(|text| regex.is_match(text)),
        }
    }
}

/// All conditions of one route; every one of them must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteMatch {
    pub host: HostMatch,
    pub path: PathMatch,
    /// Empty: every method.
    pub methods: Vec<Method>,
    pub headers: Vec<(HeaderName, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    pub cookies: Vec<(String, ValueMatch)>,
}

impl RouteMatch {
    /// Everything that is asked of a host.
    #[must_use]
    pub fn of_host(host: &str) -> Self {
        Self {
            host: HostMatch::Exact(host.to_owned()),
            path: PathMatch::Prefix("/".to_owned()),
            methods: Vec::new(),
            headers: Vec::new(),
            query: Vec::new(),
            cookies: Vec::new(),
        }
    }
}

/// Names a route across reloads: equal conditions are the same route, wherever in the file they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(u64);

impl RouteId {
    /// `identity`: text that is the same for two routes exactly when their conditions are.
    #[must_use]
    pub fn new(identity: &str) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(identity.as_bytes());
        Self(hasher.finish())
    }
}

/// For people, in a line: `GET,HEAD shop.example.com/api`.
impl fmt::Display for RouteMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.methods.is_empty() {
            let methods: Vec<&str> = self.methods.iter().map(Method::as_str).collect();
            write!(f, "{} ", methods.join(","))?;
        }
        match &self.host {
            HostMatch::Any => {}
            HostMatch::Exact(name) => f.write_str(name)?,
            HostMatch::Wildcard(suffix) => write!(f, "*.{suffix}")?,
        }
        match &self.path {
            PathMatch::Prefix(path) | PathMatch::Exact(path) => f.write_str(path)?,
            PathMatch::Regex(regex) => write!(f, "~{regex}")?,
        }
        let conditions = self.headers.len() + self.query.len() + self.cookies.len();
        if conditions > 0 {
            write!(f, " and {conditions} more")?;
        }
        Ok(())
    }
}

/// All conditions of a rule that forces a backend; every one of them must hold, and there is at least one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RuleMatch {
    pub headers: Vec<(HeaderName, ValueMatch)>,
    pub query: Vec<(String, ValueMatch)>,
    pub cookies: Vec<(String, ValueMatch)>,
    /// The client's address lies in one of these; empty: any address.
    pub networks: Vec<IpNet>,
}
