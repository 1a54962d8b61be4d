//! Which backend answers: a rule's, else the client's own, else a random one.

use std::net::IpAddr;

use http::HeaderValue;

use crate::model::{ClientKey, RequestFacts, Sticky, leading_bits};
use crate::state::Service;
use crate::worker::{ClientId, Worker};

/// The backend chosen for one request.
#[derive(Debug)]
pub(super) struct Selection {
    /// Index in the service's backends.
    pub(super) backend: usize,
    /// A `Set-Cookie` for a client that had no id. Every arm's answers carry it alike: a cookie that only one arm
    /// set would let that arm's share creep up.
    pub(super) cookie: Option<HeaderValue>,
    /// How chance chose it; `None`: a rule did, so that its fate says nothing about the backend beside others.
    pub(super) draw: Option<Draw>,
    /// It tries out a backend that gets no other requests, so its fate says nothing about backends side by side.
    pub(super) is_probe: bool,
}

/// A choice by chance, fit for comparing backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// Of this request alone.
    Request,
    /// Of the client, once and for all of its requests.
    Client(ClientKey),
}

impl Draw {
    /// The client that was drawn.
    pub(super) fn client(self) -> Option<ClientKey> {
        match self {
            Self::Request => None,
            Self::Client(key) => Some(key),
        }
    }
}

/// `None` when no backend can take anything.
pub(super) fn select(worker: &Worker, service: &Service, facts: &RequestFacts<'_>, secure: bool) -> Option<Selection> {
    if let Some(backend) = service.forced(facts) {
        return Some(Selection { backend, cookie: None, draw: None, is_probe: false });
    }
    let salt = service.name().as_str();
    let key = match &service.config.sticky {
        None => None,
        Some(Sticky::Header(name)) => facts.headers.get(name).map(|value| ClientKey::new(salt, value.as_bytes())),
        Some(Sticky::Network { ipv4_bits, ipv6_bits }) => Some(network_key(salt, facts, *ipv4_bits, *ipv6_bits)),
        Some(Sticky::Cookie { name, max_age }) => {
            return select_by_cookie(worker, service, facts, name, max_age.as_secs(), secure);
        }
    };
    let (backend, draw) = match key {
        Some(key) => (service.sticky(key)?, Draw::Client(key)),
        None => (service.drawn(worker.draw())?, Draw::Request),
    };
    Some(Selection { backend, cookie: None, draw: Some(draw), is_probe: false })
}

fn select_by_cookie(
    worker: &Worker,
    service: &Service,
    facts: &RequestFacts<'_>,
    name: &str,
    max_age_s: u64,
    secure: bool,
) -> Option<Selection> {
    let salt = service.name().as_str();
    let known = facts.cookies(name).find_map(|value| worker.cookie_key.verify(value));
    let (id, cookie) = match known {
        Some(id) => (id, None),
        None => {
            let mut random = [0; 16];
            worker.fill(&mut random);
            let id = ClientId::new(random);
            (id, Some(set_cookie(name, &worker.cookie_key.sign(id), max_age_s, secure)))
        }
    };
    let key = ClientKey::new(salt, id.as_bytes());
    Some(Selection { backend: service.sticky(key)?, cookie, draw: Some(Draw::Client(key)), is_probe: false })
}

fn set_cookie(name: &str, value: &str, max_age_s: u64, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).expect("the configuration accepts cookie names of token characters only")
}

/// The leading bits of the client's address.
fn network_key(salt: &str, facts: &RequestFacts<'_>, ipv4_bits: u8, ipv6_bits: u8) -> ClientKey {
    match leading_bits(facts.client, ipv4_bits, ipv6_bits) {
        IpAddr::V4(address) => ClientKey::new(salt, &address.octets()),
        IpAddr::V6(address) => ClientKey::new(salt, &address.octets()),
    }
}
