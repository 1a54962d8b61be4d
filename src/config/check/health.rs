//! How endpoints are asked whether they are well.

use std::ops::RangeInclusive;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method};

use super::conditions::regex;
use super::routes::method;
use super::{Check, Fault, unless_reported};
use crate::config::file::{HealthFile, HealthKindFile};
use crate::config::key_path::KeyPath;
use crate::config::types::{HealthCheckConfig, HealthCheckKind, HttpCheckConfig, UpstreamProtocol};

/// A check's own business: where its message ends and whom it is for.
const NOT_A_CHECKS: [&str; 6] = ["connection", "content-length", "host", "te", "transfer-encoding", "upgrade"];

impl Check<'_, '_> {
    pub(super) fn health(
        &mut self,
        at: &KeyPath,
        file: &HealthFile,
        protocol: UpstreamProtocol,
    ) -> Option<HealthCheckConfig> {
        let interval = self.positive_duration(&at.key("interval"), &file.interval);
        let timeout = self.positive_duration(&at.key("timeout"), &file.timeout);
        self.keys_of_other_kinds(at, file);
        let host = file.host.as_ref().map(|text| self.accept(&at.key("host"), host(text)));
        let kind = match file.kind {
            HealthKindFile::Http => self.http_check(at, file, unless_reported(host)).map(HealthCheckKind::Http),
            HealthKindFile::Grpc => {
                if protocol == UpstreamProtocol::Http1 {
                    let hint = "write protocol = \"h2\", or ask by http or tcp";
                    self.report.problem(&at.key("kind"), "gRPC needs HTTP/2, and the backend speaks HTTP/1.1", hint);
                }
                let service = file.service.clone().unwrap_or_default();
                unless_reported(host).map(|host| HealthCheckKind::Grpc { service, host })
            }
            HealthKindFile::Tcp => Some(HealthCheckKind::Tcp),
        };
        Some(HealthCheckConfig {
            kind: kind?,
            interval: interval?,
            timeout: timeout?,
            rise: file.rise,
            fall: file.fall,
        })
    }

    fn keys_of_other_kinds(&mut self, at: &KeyPath, file: &HealthFile) {
        let http = file.kind == HealthKindFile::Http;
        let tcp = file.kind == HealthKindFile::Tcp;
        let given = [
            ("path", file.path.is_some() && !http),
            ("method", file.method.is_some() && !http),
            ("host", file.host.is_some() && tcp),
            ("headers", !file.headers.0.is_empty() && !http),
            ("status", file.status.is_some() && !http),
            ("body", file.body.is_some() && !http),
            ("service", file.service.is_some() && file.kind != HealthKindFile::Grpc),
        ];
        for (key, _) in given.iter().filter(|(_, wrong)| *wrong) {
            let kind = match file.kind {
                HealthKindFile::Http => "http",
                HealthKindFile::Grpc => "grpc",
                HealthKindFile::Tcp => "tcp",
            };
            let hint = format!("remove `{key}`, or write another kind");
            self.report.problem(&at.key(key), format!("a check of kind {kind:?} has no `{key}`"), hint);
        }
    }

    /// How a probe asks: GET unless the file says otherwise.
    pub(super) fn probe_method(&mut self, at: &KeyPath, text: Option<&str>) -> Option<Method> {
        let method = match text {
            Some(text) => self.accept(at, method(text)),
            None => Some(Method::GET),
        };
        if method == Some(Method::CONNECT) {
            self.report.problem(at, "CONNECT asks for a tunnel", "write \"GET\" or \"HEAD\"");
        }
        method
    }

    /// What a probe may be answered: any 2xx unless the file says otherwise.
    pub(super) fn good_statuses(&mut self, at: &KeyPath, texts: Option<&[String]>) -> Option<Vec<RangeInclusive<u16>>> {
        let Some(texts) = texts else { return Some(vec![200..=299]) };
        let statuses = texts.iter().enumerate();
        let statuses = statuses.map(|(index, text)| self.accept(&at.index(index), statuses_of(text)));
        statuses.collect::<Vec<_>>().into_iter().collect()
    }

    /// `host`: `None` when it was reported.
    #[expect(clippy::option_option, reason = "left out, reported and checked are three things")]
    fn http_check(
        &mut self,
        at: &KeyPath,
        file: &HealthFile,
        host: Option<Option<HeaderValue>>,
    ) -> Option<HttpCheckConfig> {
        let path = self.accept(&at.key("path"), path(file.path.as_deref().unwrap_or("/")));
        let method = self.probe_method(&at.key("method"), file.method.as_deref());
        let headers = file.headers.0.iter().map(|(name, value)| {
            let at = at.key("headers").key(name);
            self.accept(&at, header(name, value))
        });
        let headers = headers.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>();
        let statuses = self.good_statuses(&at.key("status"), file.status.as_deref());
        let body = file.body.as_ref().map(|text| self.accept(&at.key("body"), regex(text)));
        if body.is_some() && method == Some(Method::HEAD) {
            self.report.problem(&at.key("body"), "answers to HEAD have no body", "write method = \"GET\"");
        }
        Some(HttpCheckConfig {
            method: method?,
            path: path?,
            host: host?,
            headers: headers?,
            statuses: statuses?,
            body: unless_reported(body)?,
        })
    }
}

pub(super) fn path(text: &str) -> Result<PathAndQuery, Fault> {
    let hint = "write it like \"/healthz\" or \"/status?brief=1\"";
    if !text.starts_with('/') {
        return Err(Fault::new(format!("{text:?} doesn't begin with /"), hint));
    }
    text.parse().ok().filter(|_| !text.contains('#')).ok_or_else(|| Fault::new(format!("{text:?} is no path"), hint))
}

pub(super) fn host(text: &str) -> Result<HeaderValue, Fault> {
    let hint = "write a host and, if it needs one, a port: \"shop.internal:8080\"";
    let refuse = || Fault::new(format!("{text:?} is no host"), hint);
    Authority::try_from(text).ok().filter(|host| !host.as_str().contains('@')).ok_or_else(refuse)?;
    HeaderValue::from_str(text).map_err(|_| refuse())
}

pub(super) fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Fault> {
    let name = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Fault::new(format!("{name:?} is no header name"), "header names are letters, digits and -"))?;
    if NOT_A_CHECKS.contains(&name.as_str()) {
        return Err(Fault::new(
            format!("{name} is not a check's to say"),
            "`host` says whom it is for; remove the rest",
        ));
    }
    let refuse = || Fault::new("this is no value of a header", "no line breaks, no spaces around it");
    let checked = HeaderValue::from_str(value).map_err(|_| refuse())?;
    if value.trim() == value { Ok((name, checked)) } else { Err(refuse()) }
}

/// "200" or "200-299".
fn statuses_of(text: &str) -> Result<RangeInclusive<u16>, Fault> {
    let status = |digits: &str| {
        let plain = digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|status| plain && (200..=599).contains(status))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = status(first).zip(status(last)).filter(|(first, last)| first <= last);
    range
        .map(|(first, last)| first..=last)
        .ok_or_else(|| Fault::new(format!("{text:?} is no status"), "write \"204\" or \"200-299\", from 200 to 599"))
}
