//! From the file's shapes to checked values: what the schema can't say.
//!
//! Every function reports what it finds and goes on; `None` stands for a value that was reported, and a
//! configuration with any problem is thrown away whole.

mod admin;
mod attempts;
mod backend;
mod compression;
mod conditions;
mod destination;
mod ejection;
mod endpoint;
mod fault;
mod forwarding;
mod freeze;
mod gates;
mod guard;
mod header_changes;
mod health;
mod host;
mod limits;
mod listeners;
mod mirror;
mod notify;
mod outputs;
mod pages;
mod policy;
mod preview;
mod rollout;
mod routes;
mod services;
mod sticky;
mod tls_files;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::model::{parse_bytes, parse_duration};

use super::file::{DurationText, File, ShutdownFile, SizeText, TimeoutsFile};
use super::key_path::KeyPath;
use super::report::Report;
use super::types::{ClientTimeouts, Config, EndpointConfig, ErrorPages, RequestTimeouts, ShutdownConfig};
use fault::Fault;
use tls_files::TlsFiles;

/// One address of a backend by itself; see [`super::endpoint`].
pub(super) fn endpoint(text: &str) -> Result<EndpointConfig, String> {
    endpoint::endpoint(text).map_err(|fault| format!("{}\n  hint: {}", fault.message, fault.hint))
}

/// What services take from the whole file where they don't say otherwise.
struct Defaults {
    /// `None` when they were reported.
    timeouts: Option<RequestTimeouts>,
    errors: ErrorPages,
}

/// One checking of one file.
pub(super) struct Check<'c, 'a> {
    path: &'c Path,
    now: SystemTime,
    env: &'c dyn Fn(&str) -> Option<String>,
    report: &'c mut Report<'a>,
    tls_files: TlsFiles<'c>,
}

impl<'c, 'a> Check<'c, 'a> {
    pub(super) fn new(
        path: &'c Path,
        now: SystemTime,
        env: &'c dyn Fn(&str) -> Option<String>,
        previous: Option<&'c Config>,
        report: &'c mut Report<'a>,
    ) -> Self {
        Self { path, now, env, report, tls_files: TlsFiles::new(previous) }
    }

    /// The checked configuration; `None` when a part of it was reported.
    pub(super) fn config(mut self, file: &File) -> Option<Config> {
        let root = KeyPath::root();
        let limits = self.limits(&root.key("limits"), &file.limits);
        let client_timeouts = self.client_timeouts(&root.key("timeouts"), &file.timeouts);
        let request_timeouts = self.request_timeouts(&root.key("timeouts"), &file.timeouts);
        let listeners = self.listeners(&root.key("listeners"), &file.listeners);
        let forwarding = self.forwarding(&root, file);
        let admin = file.admin.as_ref().map(|admin| self.admin(&root.key("admin"), admin));
        self.address_clashes(&listeners, admin.as_ref().and_then(Option::as_ref));
        let errors = self.error_pages(&root.key("errors"), &file.errors, &ErrorPages::default());
        let defaults = Defaults { timeouts: request_timeouts, errors: errors.clone().unwrap_or_default() };
        let services = self.services(&root.key("services"), &file.services, &defaults);
        self.redirects(&root.key("services"), file);
        let notify = self.notify(&root.key("notify"), &file.notify, services.as_deref());
        let state_dir = self.state_dir(&root.key("state_dir"), &file.state_dir);
        let access_log = self.access_log(&root.key("access_log"), &file.access_log);
        let log = self.log(&root.key("log"), &file.log);
        let resolve_interval = self.positive_duration(&root.key("resolve_interval"), &file.resolve_interval);
        let shutdown = self.shutdown(&root.key("shutdown"), &file.shutdown);
        Some(Config {
            path: self.path.to_owned(),
            state_dir: state_dir?,
            workers: file.workers.and_then(NonZeroUsize::new),
            listeners: listeners.into_iter().collect::<Option<_>>()?,
            forwarding: Arc::new(forwarding?),
            admin: unless_reported(admin)?,
            services: services?.into_iter().map(Arc::new).collect(),
            notify: notify?,
            limits: limits?,
            timeouts: client_timeouts?,
            shutdown: shutdown?,
            access_log: access_log?,
            log: log?,
            resolve_interval: resolve_interval?,
            errors: errors?,
        })
    }

    fn client_timeouts(&mut self, at: &KeyPath, file: &TimeoutsFile) -> Option<ClientTimeouts> {
        let tls_handshake = self.positive_duration(&at.key("tls_handshake"), &file.tls_handshake);
        let header_read = self.positive_duration(&at.key("header_read"), &file.header_read);
        let keep_alive = self.positive_duration(&at.key("keep_alive"), &file.keep_alive);
        let tunnel_idle = self.positive_duration(&at.key("tunnel_idle"), &file.tunnel_idle);
        // Reported with the times of requests.
        let body_idle = parse_duration(&file.body_idle.0).ok();
        Some(ClientTimeouts {
            tls_handshake: tls_handshake?,
            header_read: header_read?,
            keep_alive: keep_alive?,
            tunnel_idle: tunnel_idle?,
            body_idle: body_idle?,
        })
    }

    fn request_timeouts(&mut self, at: &KeyPath, file: &TimeoutsFile) -> Option<RequestTimeouts> {
        let connect = self.positive_duration(&at.key("connect"), &file.connect);
        let response_header = self.positive_duration(&at.key("response_header"), &file.response_header);
        let body_idle = self.positive_duration(&at.key("body_idle"), &file.body_idle);
        let request = file.request.as_ref().map(|text| self.positive_duration(&at.key("request"), text));
        let restart_wait = self.duration(&at.key("restart_wait"), &file.restart_wait);
        Some(RequestTimeouts {
            connect: connect?,
            response_header: response_header?,
            restart_wait: restart_wait?,
            body_idle: body_idle?,
            request: unless_reported(request)?,
        })
    }

    fn shutdown(&mut self, at: &KeyPath, file: &ShutdownFile) -> Option<ShutdownConfig> {
        let delay = self.duration(&at.key("delay"), &file.delay);
        let requests = self.duration(&at.key("requests"), &file.requests);
        let streams = self.duration(&at.key("streams"), &file.streams);
        Some(ShutdownConfig { delay: delay?, requests: requests?, streams: streams? })
    }

    fn duration(&mut self, at: &KeyPath, text: &DurationText) -> Option<Duration> {
        let duration = parse_duration(&text.0);
        let duration =
            duration.map_err(|error| Fault::new(error.to_string(), "write durations like \"250ms\" or \"1h30m\""));
        self.accept(at, duration)
    }

    fn positive_duration(&mut self, at: &KeyPath, text: &DurationText) -> Option<Duration> {
        self.duration_above_zero(at, text, "give it some time, or leave the key out for its default")
    }

    fn duration_above_zero(&mut self, at: &KeyPath, text: &DurationText, hint: &'static str) -> Option<Duration> {
        let duration = self.duration(at, text)?;
        if duration.is_zero() {
            self.report.problem(at, "zero leaves no time at all", hint);
        }
        Some(duration).filter(|duration| !duration.is_zero())
    }

    fn size(&mut self, at: &KeyPath, text: &SizeText) -> Option<u64> {
        let size = parse_bytes(&text.0);
        let size = size.map_err(|error| Fault::new(error.to_string(), "write sizes like \"64KiB\" or \"10MiB\""));
        self.accept(at, size)
    }

    /// A number of bytes above zero.
    fn positive_size(&mut self, at: &KeyPath, text: &SizeText) -> Option<u64> {
        let size = self.size(at, text)?;
        if size == 0 {
            self.report.problem(at, "zero leaves room for nothing", "give it some room, or leave the key out");
        }
        Some(size).filter(|size| *size > 0)
    }

    /// A path in the file, which starts at the file's folder unless it is absolute.
    fn file_path(&mut self, at: &KeyPath, text: &str) -> Option<PathBuf> {
        if text.is_empty() || text.contains('\0') {
            self.report.problem(at, format!("{text:?} is no path"), "relative paths start at the folder of this file");
            return None;
        }
        Some(self.path.parent().unwrap_or(Path::new("")).join(text))
    }

    /// Reports what is wrong at `at`, if anything is.
    fn accept<T>(&mut self, at: &KeyPath, checked: Result<T, Fault>) -> Option<T> {
        match checked {
            Ok(value) => Some(value),
            Err(fault) => {
                self.report.problem(at, fault.message, fault.hint);
                None
            }
        }
    }
}

/// What may be left out of the file: `None` only when it was given and then reported.
#[expect(clippy::option_option, reason = "left out, reported and checked are three things")]
fn unless_reported<T>(given: Option<Option<T>>) -> Option<Option<T>> {
    given.map_or(Some(None), |checked| checked.map(Some))
}
