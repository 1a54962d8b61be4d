//! Where calls of ours go, and what they show there.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue};

use super::{Check, Fault, endpoint, unless_reported};
use crate::config::destination::Destination;
use crate::config::file::{BackendTlsFile, DurationText, SecretFile};
use crate::config::key_path::KeyPath;
use crate::config::table::Table;
use crate::config::types::{EndpointHost, Scheme, Secret, UpstreamProtocol};

/// What is read of a secret's file: far above any secret.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// A call's own business: where its message ends, whom it is for, and what it is signed with.
const NOT_A_CALLS: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "te",
    "transfer-encoding",
    "upgrade",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];

/// What a table of the file says of a destination.
#[derive(Clone, Copy)]
pub(super) struct DestinationKeys<'f> {
    pub(super) url: &'f str,
    pub(super) headers: &'f Table<String>,
    /// `None` also where nothing is signed.
    pub(super) secret: Option<&'f SecretFile>,
    pub(super) tls: Option<&'f BackendTlsFile>,
    pub(super) timeout: &'f DurationText,
}

impl Check<'_, '_> {
    /// `at`: the table that has the keys.
    pub(super) fn destination(&mut self, at: &KeyPath, keys: DestinationKeys<'_>) -> Option<Arc<Destination>> {
        let url = self.accept(&at.key("url"), url(keys.url));
        let headers = keys.headers.0.iter().map(|(name, value)| {
            let at = at.key("headers").key(name);
            self.accept(&at, header(name, value))
        });
        let headers = headers.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>();
        let secret = keys.secret.map(|file| self.secret(&at.key("secret"), file));
        let timeout = self.positive_duration(&at.key("timeout"), keys.timeout);
        let (endpoint, authority, path) = url?;
        if endpoint.scheme == Scheme::Http && keys.tls.is_some() {
            let hint = "write https://, or leave `tls` out";
            self.report.problem(&at.key("tls"), "the URL is no https, so nothing of TLS is used", hint);
        }
        let tls = match endpoint.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(self.upstream_tls(&at.key("tls"), keys.tls, UpstreamProtocol::Http1)?),
        };
        Some(Arc::new(Destination {
            scheme: endpoint.scheme,
            host: endpoint.host,
            port: endpoint.port,
            authority,
            path,
            tls,
            headers: headers?,
            secret: unless_reported(secret)?,
            timeout: timeout?,
        }))
    }

    fn secret(&mut self, at: &KeyPath, file: &SecretFile) -> Option<Secret> {
        let text = match (&file.env, &file.file) {
            (Some(name), None) => {
                let found = (self.env)(name);
                let hint = format!("set {name} where tidegate is started");
                self.accept(&at.key("env"), found.ok_or_else(|| Fault::new(format!("{name} isn't set"), hint)))?
            }
            (None, Some(path)) => {
                let path = self.file_path(&at.key("file"), path)?;
                let read = read_secret(&path);
                let fault = |error: io::Error| {
                    let hint = "it holds the secret and nothing else, and tidegate may read it";
                    Fault::new(format!("{} can't be read: {error}", path.display()), hint)
                };
                self.accept(&at.key("file"), read.map_err(fault))?
            }
            _ => {
                let hint = "write secret = { env = \"NAME\" } or secret = { file = \"path\" }";
                self.report.problem(at, "a secret comes from the environment or from a file of its own", hint);
                return None;
            }
        };
        if text.trim().is_empty() {
            self.report.problem(at, "the secret is empty", "`openssl rand -hex 32` makes a good one");
            return None;
        }
        Some(Secret::new(text.trim().to_owned()))
    }
}

fn read_secret(path: &std::path::Path) -> io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::other("it is too large for a secret"));
    }
    Ok(text)
}

type Url = (crate::config::types::EndpointConfig, HeaderValue, PathAndQuery);

/// The text isn't repeated: its path may be a secret.
fn url(text: &str) -> Result<Url, Fault> {
    let hint = "write it like \"https://ci.example.com/hooks/shop\"";
    let refuse = |message: &str| Fault::new(message, hint);
    let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("this is no URL: it has no scheme"))?;
    if rest.contains('#') {
        return Err(refuse("a fragment is never sent"));
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(Fault::new("the URL has a user name", "write headers = { authorization = \"Bearer ${TOKEN}\" }"));
    }
    let endpoint = endpoint::endpoint(&format!("{scheme}://{authority}"))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let path = path.parse().map_err(|_| refuse("the URL's path can't be sent"))?;
    let usual = if endpoint.scheme == Scheme::Https { 443 } else { 80 };
    let host = match &endpoint.host {
        EndpointHost::Address(std::net::IpAddr::V6(address)) => format!("[{address}]"),
        EndpointHost::Address(address) => address.to_string(),
        EndpointHost::Name(name) => name.clone(),
    };
    let authority = if endpoint.port == usual { host } else { format!("{host}:{}", endpoint.port) };
    let authority = HeaderValue::try_from(authority).map_err(|_| refuse("the URL's host can't be sent"))?;
    Ok((endpoint, authority, path))
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Fault> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Fault::new(format!("{name:?} is no header name"), "header names are letters, digits and -"))?;
    if NOT_A_CALLS.contains(&parsed.as_str()) {
        let hint = "remove it; tidegate sets it itself where it is needed";
        return Err(Fault::new(format!("{name} is not this table's to say"), hint));
    }
    let refuse = || Fault::new("this is no value of a header", "no line breaks, no spaces around it");
    let mut checked = HeaderValue::from_str(value).map_err(|_| refuse())?;
    checked.set_sensitive(true);
    if value.trim() == value { Ok((parsed, checked)) } else { Err(refuse()) }
}
