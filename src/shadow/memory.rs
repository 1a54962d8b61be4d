//! What of a comparison outlives the process: counts, and whose they are. No values, paths or examples.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::board::Settings;
use super::judge::{Evidence, Judge};
use super::report::{Outcome, Subject};

/// Where the comparison of one mirror stood. Taken up where the same is compared in the same way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    pub subject: Subject,
    pub terms: Terms,
    since_ms: u64,
    pub evidence: Evidence,
    pub not_stable: u64,
    pub outdated: u64,
    pub told: Outcome,
}

/// What counts depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    alpha: f64,
    tolerated: f64,
    noise: bool,
    ignore: Vec<String>,
    headers: Vec<String>,
    body_max: usize,
}

impl Terms {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            alpha: settings.level.alpha,
            tolerated: settings.level.tolerated,
            noise: settings.level.noise,
            ignore: settings.rules.ignore.iter().map(ToString::to_string).collect(),
            headers: settings.headers.iter().map(ToString::to_string).collect(),
            body_max: settings.body_max,
        }
    }
}

impl Memory {
    pub(super) fn new(
        subject: &Subject,
        settings: &Settings,
        since: SystemTime,
        judge: &Judge,
        (not_stable, outdated): (u64, u64),
        told: Outcome,
    ) -> Self {
        let since_ms = since.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
        let (subject, terms, evidence) = (subject.clone(), Terms::of(settings), judge.evidence().clone());
        Self { subject, terms, since_ms, evidence, not_stable, outdated, told }
    }

    /// Whether it is of the same revisions, compared in the same way.
    pub(super) fn is_of(&self, subject: &Subject, settings: &Settings) -> bool {
        self.subject == *subject && self.terms == Terms::of(settings)
    }

    pub(super) fn since(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.since_ms)).unwrap_or(UNIX_EPOCH)
    }
}
