//! One address of a backend: what all workers share of it, across snapshots.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use rustls::pki_types::ServerName;

use super::{EndpointLimit, Health, Limiter};
use crate::config::{PoolConfig, Scheme, UpstreamProtocol};
use crate::model::ProxyVersion;
use crate::tls::UpstreamTls;

/// Everything needed to open a connection that may carry requests for this endpoint. Two endpoints with equal
/// identities can share connections; anything that matters to a connection's trust is part of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointIdentity {
    pub service: crate::model::ServiceName,
    pub backend: crate::model::BackendName,
    pub scheme: Scheme,
    /// As configured: a name or an address.
    pub host: String,
    pub address: SocketAddr,
    /// Host and port, for requests that name none.
    pub authority: HeaderValue,
    pub protocol: UpstreamProtocol,
    pub proxy_protocol: Option<ProxyVersion>,
    pub tls_fingerprint: Option<[u8; 32]>,
    pub pool: PoolKey,
}

/// The pool's settings, comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub idle_max: usize,
    pub idle_timeout_ms: u64,
}

impl From<PoolConfig> for PoolKey {
    fn from(pool: PoolConfig) -> Self {
        let idle_timeout_ms = u64::try_from(pool.idle_timeout.as_millis()).unwrap_or(u64::MAX);
        Self { idle_max: pool.idle_max, idle_timeout_ms }
    }
}

/// A live endpoint.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process; names the endpoint in worker-local tables.
    pub id: u64,
    pub identity: EndpointIdentity,
    pub tls: Option<EndpointTls>,
    pub health: Health,
    /// Of its backend.
    pub limiter: Arc<Limiter>,
    /// Its own.
    pub limit: EndpointLimit,
    retired: AtomicBool,
}

/// How to open TLS to one endpoint.
#[derive(Debug, Clone)]
pub struct EndpointTls {
    pub config: Arc<UpstreamTls>,
    pub server_name: ServerName<'static>,
}

impl Endpoint {
    #[must_use]
    pub fn new(
        id: u64,
        identity: EndpointIdentity,
        tls: Option<EndpointTls>,
        health: Health,
        limiter: Arc<Limiter>,
    ) -> Self {
        Self { id, identity, tls, health, limiter, limit: EndpointLimit::default(), retired: AtomicBool::new(false) }
    }

    /// No snapshot names it from now on: workers close their idle connections to it.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// For people: `http://127.0.0.1:9001`, with the configured name and the address where they differ.
    #[must_use]
    pub fn display(&self) -> String {
        let identity = &self.identity;
        let scheme = match identity.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        let address = identity.address;
        if identity.host.parse::<std::net::IpAddr>().is_ok() {
            format!("{scheme}://{address}")
        } else {
            format!("{scheme}://{}:{} ({})", identity.host, address.port(), address.ip())
        }
    }
}
