//! One deployment of a service: its weight, endpoints, protocol and connections.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use super::{Check, Fault, endpoint, unless_reported};
use crate::config::file::{BackendFile, BackendLimitsFile, PoolFile, ProtocolFile, ProxyVersionFile};
use crate::config::key_path::KeyPath;
use crate::config::types::{BackendConfig, BackendLimits, EndpointConfig, PoolConfig, Scheme, UpstreamProtocol};
use crate::model::{BackendName, ProxyVersion, Weight};

/// Stands for the revision of a backend that names none: other endpoints, another revision. The same for every process
/// and version, since it is remembered.
fn revision_of(endpoints: &[EndpointConfig]) -> String {
    let mut told: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    told.sort_unstable();
    let digest = digest(&SHA256, told.join("\n").as_bytes());
    let start = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("endpoints:{start}")
}

impl Check<'_, '_> {
    pub(super) fn backend(&mut self, at: &KeyPath, name: &str, file: &BackendFile) -> Option<BackendConfig> {
        let name = self.name::<BackendName>(at, name);
        let weight = Weight::new(file.weight).map_err(|error| Fault::new(error.to_string(), WEIGHT_HINT));
        let weight = self.accept(&at.key("weight"), weight);
        let endpoints = self.endpoints(&at.key("endpoints"), &file.endpoints);
        let protocol = match file.protocol {
            ProtocolFile::H1 => UpstreamProtocol::Http1,
            ProtocolFile::H2 => UpstreamProtocol::Http2,
        };
        let proxy_protocol = file.proxy_protocol.map(|version| match version {
            ProxyVersionFile::V1 => ProxyVersion::V1,
            ProxyVersionFile::V2 => ProxyVersion::V2,
        });
        if proxy_protocol.is_some() && protocol == UpstreamProtocol::Http2 {
            self.report.problem(
                &at.key("proxy_protocol"),
                "a connection that begins with a PROXY header is one client's, and HTTP/2 shares connections",
                "write protocol = \"h1\", or leave `proxy_protocol` out: x-forwarded-for names the client, too",
            );
        }
        let at_tls = at.key("tls");
        let tls = match endpoints.as_deref().and_then(<[_]>::first).map(|endpoint| endpoint.scheme) {
            Some(Scheme::Https) => self.upstream_tls(&at_tls, file.tls.as_ref(), protocol).map(Some),
            Some(Scheme::Http) if file.tls.is_some() => {
                let hint = "write https:// in `endpoints`, or remove `tls`";
                self.report.problem(&at_tls, "`tls` is given, but the endpoints are http", hint);
                None
            }
            _ => Some(None),
        };
        let pool = self.pool(&at.key("pool"), &file.pool);
        let health = file.health.as_ref().map(|health| self.health(&at.key("health"), health, protocol));
        let limits = file.limits.as_ref().map(|limits| self.backend_limits(&at.key("limits"), limits));
        let endpoints = endpoints?;
        let revision = file.revision.clone().unwrap_or_else(|| revision_of(&endpoints));
        Some(BackendConfig {
            name: name?,
            weight: weight?,
            revision,
            endpoints,
            protocol,
            proxy_protocol,
            tls: tls?,
            pool: pool?,
            health: unless_reported(health)?.map(Arc::new),
            limits: unless_reported(limits)?,
        })
    }

    fn endpoints(&mut self, at: &KeyPath, texts: &[String]) -> Option<Vec<EndpointConfig>> {
        let mut endpoints: Vec<Option<EndpointConfig>> = Vec::with_capacity(texts.len());
        let mut seen = std::collections::HashMap::new();
        for (index, text) in texts.iter().enumerate() {
            let at = at.index(index);
            let endpoint = self.accept(&at, endpoint::endpoint(text));
            if let Some(endpoint) = &endpoint {
                if let Some(first) = seen.get(endpoint) {
                    let message = format!("{text:?} is the same endpoint as {}", self.report.place(first));
                    self.report.problem(&at, message, "remove one of them; a larger share is a matter of weight");
                } else {
                    seen.insert(endpoint.clone(), at);
                }
            }
            endpoints.push(endpoint);
        }
        let endpoints: Vec<_> = endpoints.into_iter().collect::<Option<_>>()?;
        if endpoints.iter().any(|endpoint| endpoint.scheme != endpoints[0].scheme) {
            let hint = "use one scheme for all, or make two backends of it";
            self.report.problem(at, "http and https are mixed in one backend", hint);
            return None;
        }
        Some(endpoints)
    }

    fn pool(&mut self, at: &KeyPath, file: &PoolFile) -> Option<PoolConfig> {
        let idle_timeout = self.positive_duration(&at.key("idle_timeout"), &file.idle_timeout);
        Some(PoolConfig { idle_max: file.idle_max, idle_timeout: idle_timeout? })
    }

    fn backend_limits(&mut self, at: &KeyPath, file: &BackendLimitsFile) -> Option<BackendLimits> {
        let queue_timeout = self.positive_duration(&at.key("queue_timeout"), &file.queue_timeout);
        if file.requests.is_none() && file.requests_per_endpoint.is_none() {
            let hint = "give it requests or requests_per_endpoint, or remove `limits`";
            self.report.problem(at, "`limits` without a limit", hint);
        }
        Some(BackendLimits {
            requests: file.requests,
            requests_per_endpoint: file.requests_per_endpoint,
            queue: file.queue,
            queue_timeout: queue_timeout?,
        })
    }
}

const WEIGHT_HINT: &str = "weights are relative to each other: 95 and 5 split as 19 and 1 do; 0 gets nothing";
