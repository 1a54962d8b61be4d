//! By what a service recognises its clients.

use std::time::Duration;

use super::Check;
use super::conditions::{cookie_name, header_name};
use crate::config::file::StickyFile;
use crate::config::key_path::KeyPath;
use crate::model::Sticky;

/// Longer than most rollouts, shorter than what browsers keep at most (400 days).
const COOKIE_MAX_AGE: Duration = Duration::from_hours(30 * 24);

impl Check<'_, '_> {
    pub(super) fn sticky(&mut self, at: &KeyPath, file: &StickyFile) -> Option<Sticky> {
        if file.max_age.is_some() && file.cookie.is_none() {
            let hint = "only cookies have an age; remove it, or set cookie = \"NAME\"";
            self.report.absent(&at.key("max_age"), "max_age is given without a cookie", hint);
        }
        match (&file.cookie, &file.header, &file.network) {
            (Some(name), None, None) => {
                let max_age = match &file.max_age {
                    Some(text) => self.positive_duration(&at.key("max_age"), text),
                    None => Some(COOKIE_MAX_AGE),
                };
                self.accept(&at.key("cookie"), cookie_name(name))?;
                Some(Sticky::Cookie { name: name.clone(), max_age: max_age? })
            }
            (None, Some(name), None) => self.accept(&at.key("header"), header_name(name)).map(Sticky::Header),
            (None, None, Some(bits)) => Some(Sticky::Network { ipv4_bits: bits.ipv4, ipv6_bits: bits.ipv6 }),
            (None, None, None) => {
                self.report.absent(at, "it isn't said by what clients are recognised", HINT);
                None
            }
            _ => {
                self.report.problem(at, "clients are recognised by one thing only", HINT);
                None
            }
        }
    }
}

const HINT: &str = "write one of { cookie = \"NAME\" }, { header = \"NAME\" } and { network = {} }";
