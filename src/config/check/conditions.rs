//! Conditions on headers, query parameters, cookies and client addresses, of routes and of rules.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;
use regex::RegexBuilder;

use super::{Check, Fault};
use crate::config::file::{ConditionsFile, ValueFile};
use crate::config::key_path::KeyPath;
use crate::config::table::Table;
use crate::model::{Pattern, RuleMatch, ValueMatch};

/// What one compiled regular expression may occupy. `\w` with its Unicode tables takes a tenth of it.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Deep nesting costs stack while a regular expression is read.
const REGEX_DEPTH_MAX: u32 = 50;

/// What is asked of a request, wherever the file says so.
pub(super) struct RuleConditions<'f> {
    pub(super) headers: &'f Table<ValueFile>,
    pub(super) query: &'f Table<ValueFile>,
    pub(super) cookies: &'f Table<ValueFile>,
    pub(super) networks: Option<&'f [String]>,
}

impl<'f> From<&'f ConditionsFile> for RuleConditions<'f> {
    fn from(file: &'f ConditionsFile) -> Self {
        let ConditionsFile { headers, query, cookies, networks } = file;
        Self { headers, query, cookies, networks: networks.as_deref() }
    }
}

impl Check<'_, '_> {
    /// At least one condition.
    pub(super) fn rule_match(&mut self, at: &KeyPath, file: &RuleConditions<'_>) -> Option<RuleMatch> {
        let rule = self.conditions(at, file)?;
        if rule.headers.is_empty() && rule.query.is_empty() && rule.cookies.is_empty() && rule.networks.is_empty() {
            let hint = "add headers, query, cookies or networks; a weight moves requests without conditions";
            self.report.absent(at, "the rule has no condition, so it would take every request", hint);
        }
        Some(rule)
    }

    /// Any number of them.
    pub(super) fn conditions(&mut self, at: &KeyPath, file: &RuleConditions<'_>) -> Option<RuleMatch> {
        let headers = self.headers(&at.key("headers"), file.headers);
        let query = self.query(&at.key("query"), file.query);
        let cookies = self.cookies(&at.key("cookies"), file.cookies);
        let networks = self.networks(&at.key("networks"), file.networks.unwrap_or_default());
        Some(RuleMatch { headers: headers?, query: query?, cookies: cookies?, networks: networks? })
    }

    pub(super) fn headers(&mut self, at: &KeyPath, file: &Table<ValueFile>) -> Option<Vec<(HeaderName, ValueMatch)>> {
        let headers: Vec<_> = file.0.iter().map(|(name, value)| self.header(&at.key(name), name, value)).collect();
        let headers: Vec<_> = headers.into_iter().collect::<Option<_>>()?;
        for (index, (name, _)) in headers.iter().enumerate() {
            if headers[..index].iter().any(|(other, _)| other == name) {
                let at = at.key(&file.0[index].0);
                self.report.problem(&at, "this header is named twice", "case doesn't matter in header names; keep one");
            }
        }
        Some(headers)
    }

    pub(super) fn query(&mut self, at: &KeyPath, file: &Table<ValueFile>) -> Option<Vec<(String, ValueMatch)>> {
        self.named_values(at, file, |name| {
            if name.is_empty() {
                Err(Fault::new("the parameter has no name", "write its name before the ="))
            } else {
                Ok(())
            }
        })
    }

    pub(super) fn cookies(&mut self, at: &KeyPath, file: &Table<ValueFile>) -> Option<Vec<(String, ValueMatch)>> {
        self.named_values(at, file, cookie_name)
    }

    fn header(&mut self, at: &KeyPath, name: &str, file: &ValueFile) -> Option<(HeaderName, ValueMatch)> {
        let value = self.value_match(at, file);
        let name = self.accept(at, header_name(name));
        if let Some(ValueMatch::Exact(text)) = &value
            && (HeaderValue::from_str(text).is_err() || text.trim() != text)
        {
            self.report.problem(
                at,
                format!("no header can have the value {text:?}"),
                "no line breaks, no spaces around it",
            );
        }
        Some((name?, value?))
    }

    fn named_values(
        &mut self,
        at: &KeyPath,
        file: &Table<ValueFile>,
        check: impl Fn(&str) -> Result<(), Fault>,
    ) -> Option<Vec<(String, ValueMatch)>> {
        let checked = file.0.iter().map(|(name, value)| {
            let at = at.key(name);
            let value = self.value_match(&at, value);
            self.accept(&at, check(name))?;
            Some((name.clone(), value?))
        });
        checked.collect::<Vec<_>>().into_iter().collect()
    }

    fn value_match(&mut self, at: &KeyPath, file: &ValueFile) -> Option<ValueMatch> {
        let pattern = match file {
            ValueFile::Exact(text) => return Some(ValueMatch::Exact(text.clone())),
            ValueFile::Pattern(pattern) => pattern,
        };
        match (pattern.present, &pattern.regex) {
            (Some(true), None) => Some(ValueMatch::Present),
            (None, Some(text)) => self.accept(&at.key("regex"), regex(text)).map(ValueMatch::Regex),
            (Some(false), None) => {
                let hint = "conditions say what must be there; give the requests without it to another route or rule";
                self.report.problem(&at.key("present"), "only true makes sense here", hint);
                None
            }
            (None, None) | (Some(_), Some(_)) => {
                let hint = "write one of \"exact text\", { present = true } and { regex = \"…\" }";
                self.report.absent(at, "the condition must say exactly one thing", hint);
                None
            }
        }
    }

    pub(super) fn networks(&mut self, at: &KeyPath, texts: &[String]) -> Option<Vec<IpNet>> {
        let networks = texts.iter().enumerate().map(|(index, text)| self.network(&at.index(index), text));
        networks.collect::<Vec<_>>().into_iter().collect()
    }

    pub(super) fn network(&mut self, at: &KeyPath, text: &str) -> Option<IpNet> {
        let parsed = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network: IpNet = self.accept(
            at,
            parsed.map_err(|_| {
                Fault::new(
                    format!("{text:?} is no network"),
                    "write it like \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"",
                )
            }),
        )?;
        if network != network.trunc() {
            let message = format!("{network} has bits behind its prefix, which count for nothing");
            self.report.warning(at, message, format!("write \"{}\"", network.trunc()));
        }
        Some(network.trunc())
    }
}

pub(super) fn header_name(name: &str) -> Result<HeaderName, Fault> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| Fault::new(format!("{name:?} is no header name"), "header names are letters, digits and -"))?;
    if parsed == http::header::HOST {
        let hint = "use a route's `host`: HTTP/2 requests have no such header";
        return Err(Fault::new("the host is not matched as a header", hint));
    }
    Ok(parsed)
}

/// RFC 6265 section 4.1.1: a token.
pub(super) fn cookie_name(name: &str) -> Result<(), Fault> {
    if is_token(name) {
        return Ok(());
    }
    Err(Fault::new(format!("{name:?} is no cookie name"), "use letters, digits, - and _"))
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(super) fn regex(text: &str) -> Result<Pattern, Fault> {
    let built = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).nest_limit(REGEX_DEPTH_MAX).build();
    built.map(Pattern::from).map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => Fault::new(
            format!("the regular expression takes more than {} KiB of memory", REGEX_BYTES_MAX >> 10),
            "use smaller repetitions, or [0-9] and [A-Za-z] instead of \\d and \\w",
        ),
        error => {
            // The library draws the place over several lines; the last of them says what it is.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            let reason = last.strip_prefix("error: ").unwrap_or(last);
            Fault::new(
                format!("the regular expression is broken: {reason}"),
                "in TOML, 'single quotes' keep backslashes as they are",
            )
        }
    })
}
