//! Pages of the answers that tidegate makes itself, read from their files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use http::{HeaderValue, StatusCode};

use super::{Check, Fault, unless_reported};
use crate::config::file::{DurationText, ErrorsFile, MaintenanceFile};
use crate::config::key_path::KeyPath;
use crate::config::types::{ErrorPages, MaintenanceConfig};
use crate::model::{Page, PageKind, PageValues};

/// A page is sent whole, and as often as strangers like.
const PAGE_BYTES_MAX: u64 = 256 << 10;

impl Check<'_, '_> {
    /// What `file` leaves out is taken from `defaults`.
    pub(super) fn error_pages(&mut self, at: &KeyPath, file: &ErrorsFile, defaults: &ErrorPages) -> Option<ErrorPages> {
        let html = self.page(&at.key("html"), file.html.as_deref(), PageKind::Html);
        let json = self.page(&at.key("json"), file.json.as_deref(), PageKind::Json);
        Some(ErrorPages {
            html: html?.or_else(|| defaults.html.clone()),
            json: json?.or_else(|| defaults.json.clone()),
            header: file.header.unwrap_or(defaults.header),
        })
    }

    /// Checked even where it isn't enabled, so that it works on the day; then `Some(None)`.
    #[expect(clippy::option_option, reason = "reported, not enabled and enabled are three things")]
    pub(super) fn maintenance(&mut self, at: &KeyPath, file: &MaintenanceFile) -> Option<Option<MaintenanceConfig>> {
        let html = self.page(&at.key("html"), file.html.as_deref(), PageKind::Html);
        let json = self.page(&at.key("json"), file.json.as_deref(), PageKind::Json);
        let retry_after = file.retry_after.as_ref().map(|text| self.retry_after(&at.key("retry_after"), text));
        let allow = self.network_set(&at.key("allow"), &file.allow);
        let config = MaintenanceConfig {
            status: StatusCode::from_u16(file.status).ok()?,
            retry_after: unless_reported(retry_after)?,
            html: html?,
            json: json?,
            allow: allow?,
        };
        Some(file.enabled.then_some(config))
    }

    /// In whole seconds, rounded up.
    fn retry_after(&mut self, at: &KeyPath, text: &DurationText) -> Option<HeaderValue> {
        let duration = self.positive_duration(at, text)?;
        Some(HeaderValue::from(duration.as_millis().div_ceil(1000) as u64))
    }

    /// `None` when it was reported.
    #[expect(clippy::option_option, reason = "left out, reported and checked are three things")]
    pub(super) fn page(&mut self, at: &KeyPath, path: Option<&str>, kind: PageKind) -> Option<Option<Page>> {
        let page = path.map(|path| {
            let path = self.file_path(at, path)?;
            self.accept(at, read(&path).and_then(|text| checked(&path, &text, kind)))
        });
        unless_reported(page)
    }
}

fn read(path: &Path) -> Result<String, Fault> {
    let mut bytes = Vec::new();
    let file = File::open(path).and_then(|file| file.take(PAGE_BYTES_MAX + 1).read_to_end(&mut bytes));
    let name = path.display();
    file.map_err(|error| {
        Fault::new(format!("{name} can't be read: {error}"), "relative paths start at the folder of this file")
    })?;
    if bytes.len() as u64 > PAGE_BYTES_MAX {
        let message = format!("{name} is larger than {} KiB", PAGE_BYTES_MAX >> 10);
        return Err(Fault::new(message, "link to what is large instead of including it"));
    }
    String::from_utf8(bytes).map_err(|_| Fault::new(format!("{name} is not UTF-8"), "save the file as UTF-8"))
}

fn checked(path: &Path, text: &str, kind: PageKind) -> Result<Page, Fault> {
    let name = path.display();
    if text.trim().is_empty() {
        return Err(Fault::new(format!("{name} is empty"), "leave the key out for what is built in"));
    }
    let page = Page::new(kind, text);
    if kind == PageKind::Json {
        let filled = page.fill(PageValues { status: 503, title: "Service Unavailable", request_id: "id" });
        if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&filled) {
            let message = format!("{name} is no JSON once it is filled in: {error}");
            let hint = "write {status} without quotes, \"{title}\" and \"{request_id}\" with them";
            return Err(Fault::new(message, hint));
        }
    }
    Ok(page)
}
