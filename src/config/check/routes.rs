//! Routes: conditions that a request can meet, in one form, so that two that mean the same look the same.

use std::fmt::Write;

use http::Method;

use super::conditions::{is_token, regex};
use super::{Check, Fault, host};
use crate::config::file::RouteFile;
use crate::config::key_path::KeyPath;
use crate::config::suggestion::closest;
use crate::model::{HostMatch, PathMatch, RouteMatch, ValueMatch, normal_path};

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"];

impl Check<'_, '_> {
    pub(super) fn route(&mut self, at: &KeyPath, file: &RouteFile) -> Option<RouteMatch> {
        let host = file.host.as_deref().unwrap_or("*");
        let host = self.accept(&at.key("host"), host::host_match(host));
        let path = self.path_match(at, file);
        let methods = self.methods(&at.key("methods"), file.methods.as_deref());
        let headers = self.headers(&at.key("headers"), &file.headers);
        let query = self.query(&at.key("query"), &file.query);
        let cookies = self.cookies(&at.key("cookies"), &file.cookies);
        Some(RouteMatch {
            host: host?,
            path: path?,
            methods: methods?,
            headers: headers?,
            query: query?,
            cookies: cookies?,
        })
    }

    fn path_match(&mut self, at: &KeyPath, file: &RouteFile) -> Option<PathMatch> {
        match (&file.path, &file.path_exact, &file.path_regex) {
            (None, None, None) => Some(PathMatch::Prefix("/".to_owned())),
            (Some(text), None, None) => self.accept(&at.key("path"), prefix(text)),
            (None, Some(text), None) => {
                let path = path(text).map(|()| PathMatch::Exact(text.clone()));
                self.accept(&at.key("path_exact"), path)
            }
            (None, None, Some(text)) => self.accept(&at.key("path_regex"), whole_path(text)),
            _ => {
                let hint = "keep one of path, path_exact and path_regex";
                self.report.problem(at, "the route describes its path more than once", hint);
                None
            }
        }
    }

    /// Sorted and without repetitions; empty: every method.
    pub(super) fn methods(&mut self, at: &KeyPath, texts: Option<&[String]>) -> Option<Vec<Method>> {
        let Some(texts) = texts else { return Some(Vec::new()) };
        if texts.is_empty() {
            self.report.problem(
                at,
                "the route takes no method at all",
                "name some, or leave the key out for every method",
            );
            return None;
        }
        let methods: Vec<_> =
            texts.iter().enumerate().map(|(index, text)| self.accept(&at.index(index), method(text))).collect();
        let mut methods = methods.into_iter().collect::<Option<Vec<_>>>()?;
        methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        methods.dedup();
        Some(methods)
    }
}

/// Text that is the same for two routes exactly when their conditions are.
pub(super) fn identity(route: &RouteMatch) -> String {
    let mut identity = match &route.host {
        HostMatch::Any => "*".to_owned(),
        HostMatch::Exact(name) => format!("exact {name}"),
        HostMatch::Wildcard(suffix) => format!("wildcard {suffix}"),
    };
    let path = match &route.path {
        PathMatch::Prefix(text) => ("prefix", text.as_str()),
        PathMatch::Exact(text) => ("exact", text.as_str()),
        PathMatch::Regex(regex) => ("regex", regex.as_str()),
    };
    let headers = sorted(route.headers.iter().map(|(name, value)| (name.as_str(), value)));
    let query = sorted(route.query.iter().map(|(name, value)| (name.as_str(), value)));
    let cookies = sorted(route.cookies.iter().map(|(name, value)| (name.as_str(), value)));
    write!(identity, "{path:?} {:?} {headers:?} {query:?} {cookies:?}", route.methods)
        .expect("writing to a String can't fail");
    identity
}

type Condition<'r> = (&'r str, &'static str, &'r str);

fn sorted<'r>(conditions: impl Iterator<Item = (&'r str, &'r ValueMatch)>) -> Vec<Condition<'r>> {
    let mut sorted: Vec<_> = conditions
        .map(|(name, value)| match value {
            ValueMatch::Present => (name, "present", ""),
            ValueMatch::Exact(text) => (name, "exact", text.as_str()),
            ValueMatch::Regex(regex) => (name, "regex", regex.as_str()),
        })
        .collect();
    sorted.sort_unstable();
    sorted
}

fn prefix(text: &str) -> Result<PathMatch, Fault> {
    path(text)?;
    if let Some(before) = text.strip_suffix("/*") {
        let before = if before.is_empty() { "/" } else { before };
        let hint = format!("write \"{before}\": `path` takes everything below it by itself");
        return Err(Fault::new(format!("in {text:?}, the * would be taken as it stands"), hint));
    }
    let trimmed = text.trim_end_matches('/');
    Ok(PathMatch::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.to_owned()))
}

fn path(text: &str) -> Result<(), Fault> {
    let refuse = |hint: &str| Err(Fault::new(format!("no request can have the path {text:?}"), hint));
    if !text.starts_with('/') {
        return refuse("paths start with /");
    }
    if text.contains('?') {
        return refuse("what follows the ? is matched by query = { NAME = \"value\" }");
    }
    if text.contains('#') {
        return refuse("what follows a # never reaches a server");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse("write it as it is sent, percent-encoded: a space is %20");
    }
    match normal_path(text) {
        Ok(normal) if normal == text => Ok(()),
        Ok(normal) => refuse(&format!("paths are compared in their normal form: write \"{normal}\"")),
        Err(_) => refuse("a % begins a percent-encoding, and .. stays below the root"),
    }
}

/// The expression is compiled by itself first, so that it can't step out of the group that anchors it.
fn whole_path(text: &str) -> Result<PathMatch, Fault> {
    regex(text)?;
    let start = text.trim_start_matches('^');
    if start.starts_with(|c: char| c.is_ascii_alphanumeric()) && !text.contains('|') {
        return Err(Fault::new(
            "no path matches this regular expression",
            "it must match the whole path, and paths start with /",
        ));
    }
    Ok(PathMatch::Regex(regex(&format!("^(?:{text})$"))?))
}

pub(super) fn method(text: &str) -> Result<Method, Fault> {
    let refuse = |hint: String| Err(Fault::new(format!("{text:?} is no method"), hint));
    if !is_token(text) {
        return refuse("methods are words like GET".to_owned());
    }
    let upper = text.to_ascii_uppercase();
    if upper != text {
        return refuse(format!("methods are told apart by case: write \"{upper}\""));
    }
    if let Some(meant) = closest(text, METHODS)
        && meant != text
    {
        return refuse(format!("did you mean \"{meant}\"?"));
    }
    Method::from_bytes(text.as_bytes()).or_else(|_| refuse("methods are words like GET".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_loses_its_last_slash_but_never_its_first() {
        let canonical = |text| match prefix(text) {
            Ok(PathMatch::Prefix(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(canonical("/"), "/");
        assert_eq!(canonical("/api/"), "/api");
        assert_eq!(canonical("/api"), "/api");
        assert_eq!(canonical("/a%20b"), "/a%20b");
        for text in
            ["", "api", "/a?b", "/a#b", "/a b", "/\u{e4}", "/api/*", "/*", "/a/../b", "/%61", "/%c3%a4", "/%", "/.."]
        {
            assert!(prefix(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_regex_must_match_the_whole_path() {
        let regex = |text| match whole_path(text) {
            Ok(PathMatch::Regex(regex)) => regex,
            other => panic!("{other:?}"),
        };
        assert!(regex("/a|/b").is_match("/b"));
        for path in ["/ac", "/bc", "x/a", "x/b"] {
            assert!(!regex("/a|/b").is_match(path), "{path}");
        }
        assert!(regex("^/v[0-9]+/.*$").is_match("/v1/x"));
        for text in ["/a)|(/b", "(", "api/.*", "^api", "(?:[a-z]{1000}){1000}", "\\w{10000}", &"(".repeat(10_000)] {
            assert!(whole_path(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn methods_are_upper_case_and_slips_are_caught() {
        assert_eq!(method("GET").unwrap(), Method::GET);
        assert_eq!(method("PROPFIND").unwrap().as_str(), "PROPFIND");
        for text in ["get", "", "G T", "GTE", "DELET", "GET\n"] {
            assert!(method(text).is_err(), "{text:?}");
        }
    }
}
