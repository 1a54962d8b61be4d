//! What a service changes in headers: names and values that there can be, and none that are ours to say.

use http::uri::Authority;
use http::{HeaderName, HeaderValue};

use super::{Check, Fault};
use crate::config::file::HeaderChangesFile;
use crate::config::key_path::KeyPath;
use crate::config::table::Table;
use crate::model::HeaderChanges;

/// About one connection, or about where a message ends.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
];

/// Said by tidegate in requests; endpoints rely on it.
const OURS: [&str; 14] = [
    "client-cert",
    "client-cert-chain",
    "forwarded",
    "proxy",
    "tidegate-mirror",
    "traceparent",
    "tracestate",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

impl Check<'_, '_> {
    pub(super) fn request_headers(&mut self, at: &KeyPath, file: &HeaderChangesFile) -> Option<HeaderChanges> {
        let changes = self.header_changes(at, file, request_name);
        let is_host = |name: &str| name.eq_ignore_ascii_case("host");
        let added = file.add.0.iter().filter(|(name, _)| is_host(name)).map(|(name, _)| at.key("add").key(name));
        let removed = file.remove.iter().enumerate().filter(|(_, name)| is_host(name));
        let removed = removed.map(|(index, _)| at.key("remove").index(index));
        for at in added.chain(removed) {
            self.report.problem(&at, "a request has one host", "name another by set = { host = \"shop.internal\" }");
        }
        let set = file.set.0.iter().filter(|(name, _)| is_host(name));
        for (name, _) in set.filter(|(_, host)| Authority::try_from(host.as_str()).is_err() || host.contains('@')) {
            let hint = "write a host and, if it needs one, a port: \"shop.internal:8080\"";
            self.report.problem(&at.key("set").key(name), "this is no host", hint);
        }
        changes
    }

    pub(super) fn response_headers(&mut self, at: &KeyPath, file: &HeaderChangesFile) -> Option<HeaderChanges> {
        self.header_changes(at, file, response_name)
    }

    fn header_changes(
        &mut self,
        at: &KeyPath,
        file: &HeaderChangesFile,
        check: fn(&str) -> Result<HeaderName, Fault>,
    ) -> Option<HeaderChanges> {
        let set = self.header_values(&at.key("set"), &file.set, check);
        let add = self.header_values(&at.key("add"), &file.add, check);
        let at_remove = at.key("remove");
        let remove: Vec<_> = file.remove.iter().enumerate().collect();
        let remove: Vec<_> =
            remove.into_iter().map(|(index, name)| self.accept(&at_remove.index(index), check(name))).collect();
        if file.set.0.is_empty() && file.add.0.is_empty() && file.remove.is_empty() && !self.report.has_broken_part(at)
        {
            let hint = "write set = { name = \"value\" }, add = { name = \"value\" } or remove = [\"name\"]";
            self.report.absent(at, "nothing is changed here", hint);
        }
        Some(HeaderChanges { remove: remove.into_iter().collect::<Option<_>>()?, set: set?, add: add? })
    }

    fn header_values(
        &mut self,
        at: &KeyPath,
        file: &Table<String>,
        check: fn(&str) -> Result<HeaderName, Fault>,
    ) -> Option<Vec<(HeaderName, HeaderValue)>> {
        let mut values: Vec<(HeaderName, HeaderValue)> = Vec::new();
        let mut whole = true;
        for (name, text) in &file.0 {
            let at = at.key(name);
            let name = self.accept(&at, check(name));
            let value = self.accept(&at, header_value(text));
            let (Some(name), Some(value)) = (name, value) else {
                whole = false;
                continue;
            };
            if values.iter().any(|(other, _)| *other == name) {
                self.report.problem(&at, "this header is named twice", "case doesn't matter in header names; keep one");
            }
            values.push((name, value));
        }
        whole.then_some(values)
    }
}

/// The value isn't shown: it may be a secret.
fn header_value(text: &str) -> Result<HeaderValue, Fault> {
    let refused = || Fault::new("no header can have this value", "no line breaks, no spaces around it");
    if text.trim() == text { HeaderValue::from_str(text).map_err(|_| refused()) } else { Err(refused()) }
}

fn request_name(name: &str) -> Result<HeaderName, Fault> {
    let parsed = response_name(name)?;
    // A program behind the endpoint may take one for the other.
    let read = parsed.as_str().replace(['_', '.'], "-");
    if OURS.contains(&read.as_str()) {
        let hint = "docs/forwarding.md says what endpoints are told about clients; services can't say otherwise";
        return Err(Fault::new(format!("{name} is said by tidegate itself"), hint));
    }
    Ok(parsed)
}

pub(super) fn response_name(name: &str) -> Result<HeaderName, Fault> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Fault::new(format!("{name:?} is no header name"), "header names are letters, digits and -"))?;
    if FRAMING.contains(&parsed.as_str()) {
        let hint = "headers about connections and lengths are tidegate's own; remove this one from the list";
        return Err(Fault::new(format!("{name} is about a connection or a message's length"), hint));
    }
    Ok(parsed)
}
