//! Mirrors of a service: what is copied, where to, and what of the answers is compared.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderName, Method};

use super::conditions::cookie_name;
use super::header_changes::response_name;
use super::{Check, Fault};
use crate::config::file::{
    CompareFile, CompareTableFile, LargeBodyFile, MirrorByFile, MirrorFile, MirrorsFile, RedactFile, ServiceFile,
};
use crate::config::key_path::KeyPath;
use crate::config::types::{CompareConfig, LargeBody, MIRRORS_MAX, MirrorBy, MirrorConfig, RedactConfig};
use crate::model::{JsonPath, JsonPathError, Percent};

/// With more differences nobody would look at the examples, and each is kept in memory.
const IGNORED_MAX: usize = 100;
/// A label of a host name has 63 bytes (RFC 1035, 2.3.4).
const HOST_SUFFIX_BYTES_MAX: usize = 63;
/// More is no suspicion any more, and most of the answers no few.
const PART_MAX: f64 = 0.5;

impl Check<'_, '_> {
    pub(super) fn mirrors(&mut self, service: &KeyPath, file: &ServiceFile) -> Option<Vec<Arc<MirrorConfig>>> {
        let at = service.key("mirror");
        let files: Vec<(KeyPath, &MirrorFile)> = match &file.mirror {
            None => return Some(Vec::new()),
            Some(MirrorsFile::One(one)) => vec![(at.clone(), one)],
            Some(MirrorsFile::Several(several)) => {
                several.iter().enumerate().map(|(index, file)| (at.index(index), file)).collect()
            }
        };
        if files.len() > MIRRORS_MAX {
            let message = format!("{} mirrors are more than a service can have", files.len());
            self.report.problem(
                &at,
                message,
                format!("keep to {MIRRORS_MAX}; each copies the same requests once more"),
            );
            return None;
        }
        let mut mirrors: Vec<Arc<MirrorConfig>> = Vec::new();
        let mut whole = true;
        for (at, mirror) in files {
            let Some(mirror) = self.mirror(service, &at, mirror, file) else {
                whole = false;
                continue;
            };
            if mirrors.iter().any(|other| other.backend == mirror.backend) {
                let hint = "a mirror is known by its backend: keep one, and give it all of `routes`";
                self.report.problem(&at.key("backend"), "the service mirrors to this backend already", hint);
            }
            mirrors.push(Arc::new(mirror));
        }
        whole.then_some(mirrors)
    }

    /// `service`: the service's own place.
    pub(super) fn mirror(
        &mut self,
        service: &KeyPath,
        at: &KeyPath,
        file: &MirrorFile,
        of: &ServiceFile,
    ) -> Option<MirrorConfig> {
        let backend = self.backend_index(service, &at.key("backend"), &file.backend, of);
        let hint = "write a number from 0 to 100, like 10 or 0.001";
        let percent = Percent::new(file.percent).map_err(|error| Fault::new(error.to_string(), hint));
        let percent = self.accept(&at.key("percent"), percent);
        let methods = match &file.methods {
            Some(methods) => self.methods(&at.key("methods"), Some(methods)),
            None => Some(vec![Method::GET, Method::HEAD]),
        };
        let routes = file.routes.iter().flatten().enumerate();
        let routes: Vec<_> = routes.map(|(index, route)| self.route(&at.key("routes").index(index), route)).collect();
        let conditions = match &file.conditions {
            Some(conditions) => self.conditions(&at.key("match"), &conditions.into()).map(Some),
            None => Some(None),
        };
        let timeout = self.positive_duration(&at.key("timeout"), &file.timeout);
        let body_max = self.positive_size(&at.key("body_max"), &file.body_max);
        let answer_max = self.positive_size(&at.key("answer_max"), &file.answer_max);
        let host_suffix = match &file.host_suffix {
            Some(text) => self.accept(&at.key("host_suffix"), host_suffix(text)).map(Some),
            None => Some(None),
        };
        let redact = self.redact(&at.key("redact"), &file.redact);
        let compare = match &file.compare {
            None | Some(CompareFile::Switch(false)) => Some(None),
            Some(CompareFile::Switch(true)) => self.compare(&at.key("compare"), &CompareTableFile::default()).map(Some),
            Some(CompareFile::Table(table)) => self.compare(&at.key("compare"), table).map(Some),
        };
        Some(MirrorConfig {
            backend: backend?,
            percent: percent?,
            by: match file.by {
                MirrorByFile::Request => MirrorBy::Request,
                MirrorByFile::Client => MirrorBy::Client,
            },
            methods: methods?,
            routes: routes.into_iter().collect::<Option<_>>()?,
            conditions: conditions?,
            timeout: timeout?,
            requests_max: file.max_requests,
            queue: file.queue,
            body_max: usize::try_from(body_max?).unwrap_or(usize::MAX),
            large_body: match file.large_body {
                LargeBodyFile::Skip => LargeBody::Skip,
                LargeBodyFile::Stream => LargeBody::Stream,
            },
            answer_max: answer_max?,
            host_suffix: host_suffix?,
            redact: redact?,
            compare: compare?.map(Arc::new),
        })
    }

    fn redact(&mut self, at: &KeyPath, file: &RedactFile) -> Option<RedactConfig> {
        let (at_headers, at_cookies) = (at.key("headers"), at.key("cookies"));
        let headers = file.headers.iter().enumerate();
        let headers: Vec<_> =
            headers.map(|(index, name)| self.accept(&at_headers.index(index), redacted(name))).collect();
        let cookies = file.cookies.iter().enumerate();
        let cookies: Vec<_> = cookies
            .map(|(index, name)| self.accept(&at_cookies.index(index), cookie_name(name).map(|()| name.clone())))
            .collect();
        Some(RedactConfig {
            headers: headers.into_iter().collect::<Option<_>>()?,
            cookies: cookies.into_iter().collect::<Option<_>>()?,
        })
    }

    fn compare(&mut self, at: &KeyPath, file: &CompareTableFile) -> Option<CompareConfig> {
        let (at_headers, at_ignore) = (at.key("headers"), at.key("ignore"));
        let headers = file.headers.iter().enumerate();
        let headers: Vec<_> =
            headers.map(|(index, name)| self.accept(&at_headers.index(index), response_name(name))).collect();
        let body_max = self.positive_size(&at.key("body_max"), &file.body_max);
        if file.ignore.len() > IGNORED_MAX {
            let message = format!("{} parts to ignore are more than are looked for", file.ignore.len());
            self.report.problem(&at_ignore, message, format!("keep to {IGNORED_MAX}, or name what is above them"));
        }
        let ignore = file.ignore.iter().enumerate();
        let ignore: Vec<_> = ignore.map(|(index, path)| self.accept(&at_ignore.index(index), ignored(path))).collect();
        if file.redact.len() > IGNORED_MAX {
            let message = format!("{} names to redact are more than are looked for", file.redact.len());
            self.report.problem(&at.key("redact"), message, format!("keep to {IGNORED_MAX}; parts of names will do"));
        }
        let tolerated = self.accept(&at.key("tolerated"), part(file.tolerated, "part of the answers", "0.01"));
        let alpha = self.accept(&at.key("alpha"), part(file.alpha, "chance of an error", "0.001"));
        let mut headers = headers.into_iter().collect::<Option<Vec<HeaderName>>>()?;
        headers.retain(|name| *name != CONTENT_TYPE);
        Some(CompareConfig {
            headers,
            body_max: usize::try_from(body_max?).unwrap_or(usize::MAX),
            noise: file.noise,
            ignore: ignore.into_iter().collect::<Option<_>>()?,
            redact: file.redact.clone(),
            examples: file.examples as usize,
            tolerated: tolerated?,
            alpha: alpha?,
        })
    }
}

fn ignored(path: &str) -> Result<JsonPath, Fault> {
    path.parse().map_err(|error: JsonPathError| {
        Fault::new(format!("{path:?} names no place in a JSON body"), error.to_string())
    })
}

fn part(number: f64, what: &str, like: &str) -> Result<f64, Fault> {
    let hint = || format!("write a number above 0 and at most {PART_MAX}, like {like}");
    if number > 0.0 && number <= PART_MAX {
        Ok(number)
    } else {
        Err(Fault::new(format!("{number} is no {what}"), hint()))
    }
}

/// A request without one of these would be another request.
fn redacted(name: &str) -> Result<HeaderName, Fault> {
    let parsed = response_name(name)?;
    if parsed == HOST || parsed == CONTENT_TYPE {
        let hint = "name headers that hold secrets, like \"authorization\"; cookies are named one by one";
        return Err(Fault::new(format!("a request can't be read without {name}"), hint));
    }
    Ok(parsed)
}

fn host_suffix(text: &str) -> Result<String, Fault> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if (1..=HOST_SUFFIX_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_plain) && !text.ends_with(['-', '.']) {
        return Ok(text.to_owned());
    }
    let hint = "write lower case letters, digits, - and ., like \"-shadow\" or \".shadow.internal\"";
    Err(Fault::new(format!("no host name can end with {text:?}"), hint))
}
