//! Whom a service lets in, how often, and whether over TLS.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderValue;

use super::Check;
use super::conditions::{cookie_name, header_name};
use crate::config::file::{DurationText, File, HstsFile, RateLimitByFile, RateLimitFile, ServiceFile};
use crate::config::key_path::KeyPath;
use crate::config::types::{RateLimitBy, RateLimitConfig};
use crate::model::{AccessList, NetworkSet, format_duration};

/// The least age that browsers ship with them (hstspreload.org).
const PRELOAD_AGE_MIN: Duration = Duration::from_hours(365 * 24);

/// How long an empty allowance may take to fill; the bound keeps sums of times from overflowing.
const REFILL_MAX: Duration = Duration::from_hours(366 * 24);

impl Check<'_, '_> {
    #[expect(clippy::option_option, reason = "left out, reported and checked are three things")]
    pub(super) fn access(&mut self, service: &KeyPath, file: &ServiceFile) -> Option<Option<AccessList>> {
        let allowed = file.allow.as_ref().map(|texts| self.network_set(&service.key("allow"), texts));
        let denied = file.deny.as_ref().map(|texts| self.network_set(&service.key("deny"), texts));
        Some(match (allowed, denied) {
            (None, None) => None,
            (allowed, denied) => {
                let allowed = super::unless_reported(allowed)?;
                Some(AccessList { allowed, denied: super::unless_reported(denied)?.unwrap_or_default() })
            }
        })
    }

    pub(super) fn network_set(&mut self, at: &KeyPath, texts: &[String]) -> Option<NetworkSet> {
        self.networks(at, texts).map(NetworkSet::new)
    }

    pub(super) fn https_redirect(&mut self, service: &KeyPath, file: &ServiceFile) -> Option<u16> {
        if file.https.is_none() && file.https_port.is_some() {
            let hint = "remove it, or set https = \"redirect\"";
            self.report.absent(&service.key("https_port"), "https_port is given, but nothing is sent there", hint);
        }
        file.https.map(|_| file.https_port.unwrap_or(443))
    }

    /// Warns of redirects that never end.
    pub(super) fn redirects(&mut self, services: &KeyPath, file: &File) {
        let may_come_by_tls = !file.trusted_proxies.is_empty() || file.listeners.iter().any(|l| l.tls.is_some());
        for (name, _) in file.services.0.iter().filter(|(_, service)| service.https.is_some() && !may_come_by_tls) {
            let hint = "give a listener tls, or name what terminates TLS in front in trusted_proxies";
            self.report.warning(&services.key(name).key("https"), "no request can come over TLS", hint);
        }
    }

    pub(super) fn hsts(&mut self, at: &KeyPath, file: &HstsFile) -> Option<HeaderValue> {
        let (age, include_subdomains, preload) = match file {
            HstsFile::Age(text) => (self.duration(at, &DurationText(text.clone())), false, false),
            HstsFile::Full(table) => {
                (self.duration(&at.key("max_age"), &table.max_age), table.include_subdomains, table.preload)
            }
        };
        let age = age?;
        if preload && (!include_subdomains || age < PRELOAD_AGE_MIN) {
            let hint = "preload wants include_subdomains = true and max_age = \"365d\" or more";
            self.report.problem(&at.key("preload"), "that is too little for browsers to ship it", hint);
        }
        let subdomains = if include_subdomains { "; includeSubDomains" } else { "" };
        let preload = if preload { "; preload" } else { "" };
        let value = format!("max-age={}{subdomains}{preload}", age.as_secs());
        Some(HeaderValue::try_from(value).expect("numbers and words are plain ASCII"))
    }

    pub(super) fn rate_limits(&mut self, at: &KeyPath, files: &[RateLimitFile]) -> Option<Vec<RateLimitConfig>> {
        let mut limits: Vec<Option<RateLimitConfig>> = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let at = at.index(index);
            let limit = self.rate_limit(&at, file);
            if limit.is_some() && limits.contains(&limit) {
                self.report.problem(&at, "the same limit stands there before", "remove one of them");
            }
            limits.push(limit);
        }
        limits.into_iter().collect()
    }

    fn rate_limit(&mut self, at: &KeyPath, file: &RateLimitFile) -> Option<RateLimitConfig> {
        let per = self.duration_above_zero(&at.key("per"), &file.per, "give a span, like \"1s\" or \"1m\"");
        let by = match &file.by {
            Some(by) => self.rate_limit_by(&at.key("by"), by),
            None => Some(RateLimitBy::Network { ipv4_bits: 32, ipv6_bits: 64 }),
        };
        let (requests, per) = (NonZeroU32::new(file.requests)?, per?);
        let burst = file.burst.map_or(Some(requests), NonZeroU32::new)?;
        let each = per / requests.get();
        if each.is_zero() {
            let hint = "that is more than one in a nanosecond; lower requests, or make per longer";
            self.report.problem(&at.key("requests"), "so many requests are no limit", hint);
        }
        if each.checked_mul(burst.get()).is_none_or(|refill| refill > REFILL_MAX) {
            let message = format!("after a burst, a client would wait longer than {}", format_duration(REFILL_MAX));
            self.report.absent(&at.key("burst"), message, "lower burst, or raise requests");
        }
        Some(RateLimitConfig { requests, per, burst, by: by?, clients_max: file.clients_max })
    }

    fn rate_limit_by(&mut self, at: &KeyPath, file: &RateLimitByFile) -> Option<RateLimitBy> {
        let hint = "write one of { cookie = \"NAME\" }, { header = \"NAME\" } and { network = {} }";
        match (&file.cookie, &file.header, &file.network) {
            (Some(name), None, None) => {
                self.accept(&at.key("cookie"), cookie_name(name)).map(|()| RateLimitBy::Cookie(name.clone()))
            }
            (None, Some(name), None) => self.accept(&at.key("header"), header_name(name)).map(RateLimitBy::Header),
            (None, None, Some(bits)) => Some(RateLimitBy::Network { ipv4_bits: bits.ipv4, ipv6_bits: bits.ipv6 }),
            (None, None, None) => {
                self.report.absent(at, "it isn't said what tells clients apart", hint);
                None
            }
            _ => {
                self.report.problem(at, "clients are told apart by one thing only", hint);
                None
            }
        }
    }
}
