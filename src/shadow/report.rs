//! What the comparison of one mirror has come to, as the API, the history, the command line and a rollout read it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::examples::{Example, Examples};
use super::fields::Field;
use super::judge::{Finding, Judge, Row, Trouble, needed};

/// Fields that a verdict names.
const FIELDS_NAMED_MAX: usize = 10;

/// Whether what runs behind a mirror is the same as stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub outcome: Outcome,
    /// In a line.
    pub reason: String,
    /// What differs, the surest first; at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
    /// About so many more pairs until it is known, if they go on as before; absent where that can't be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more_pairs: Option<u64>,
}

/// Inconclusive is neither: more has to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Same,
    Different,
    Inconclusive,
}

impl From<&Finding> for Outcome {
    fn from(finding: &Finding) -> Self {
        match finding {
            Finding::Same => Self::Same,
            Finding::Different => Self::Different,
            Finding::Inconclusive { .. } => Self::Inconclusive,
        }
    }
}

impl Outcome {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// The comparison of one revision of a mirror's backend with stable, so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowView {
    pub service: String,
    /// The mirror's backend.
    pub backend: String,
    pub revision: String,
    /// What it is compared with.
    pub stable: String,
    pub stable_revision: String,
    /// When it began: RFC 3339, UTC.
    pub since: String,
    pub verdict: Verdict,
    /// "noise leg": a second copy to stable tells noise from difference. "ignore rules": the file does.
    pub mode: String,
    /// The chance of a wrong verdict, either way.
    pub alpha: f64,
    /// Part of the pairs that may really differ of what is the same.
    pub tolerated: f64,
    /// At most such a part really differs, as far as is known.
    pub difference_at_most: f64,
    pub pairs: PairsView,
    pub failures: TroubleView,
    pub slow: TroubleView,
    /// From when on an answer is slow; absent while that isn't known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_after_ms: Option<f64>,
    /// Those that differ first, then those with the most evidence.
    pub fields: Vec<FieldView>,
    pub examples: Vec<ExampleView>,
}

/// Pairs of answers, by what was done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairsView {
    pub seen: u64,
    pub compared: u64,
    /// Of those compared: in which the shadow differs, by noise or not.
    pub different: u64,
    /// The second copy came to nothing.
    pub without_noise: u64,
    /// Broken off, or the primary failed.
    pub skipped: u64,
    /// Answered by another backend than stable.
    pub not_stable: u64,
    /// Of another revision than the present one.
    pub outdated: u64,
}

/// Failures, or slow answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TroubleView {
    pub shadow_only: u64,
    pub primary_only: u64,
    pub both: u64,
    /// Evidence that the shadow has more than twice as many: 1 when there is none.
    pub e_value: f64,
    pub found: bool,
}

/// One field, in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldView {
    /// `status`, `header location`, `body`, or a place in a JSON body like `$.items[*].price`.
    pub place: String,
    /// "changed", "type changed", "missing", "added", "length" or "not json".
    pub change: String,
    /// Pairs in which it differs for the shadow, and not for the second copy.
    pub shadow_only: u64,
    /// For the second copy, and not for the shadow.
    pub noise_only: u64,
    /// For both: noise.
    pub both: u64,
    /// Evidence that this is no noise, and what suffices; absent without a noise leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e_value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<f64>,
    /// It really differs.
    pub found: bool,
}

/// One request whose answers differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExampleView {
    /// RFC 3339, UTC.
    pub at: String,
    pub request_id: String,
    pub method: String,
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    pub place: String,
    pub change: String,
    /// What each side had there, redacted; empty: nothing.
    pub primary: String,
    pub shadow: String,
}

/// Whom and what a comparison is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    pub service: String,
    pub backend: String,
    pub revision: String,
    pub stable: String,
    pub stable_revision: String,
}

impl ShadowView {
    pub(super) fn new(
        subject: &Subject,
        since: SystemTime,
        judge: &Judge,
        finding: &Finding,
        examples: &Examples,
    ) -> Self {
        let (level, counts) = (judge.level(), judge.counts());
        // Without a noise leg there is no evidence, but how often.
        let weight = |row: &Row| if level.noise { row.alone.e_value(1.0) } else { row.shadow() as f64 };
        let mut weighed: Vec<(f64, &Field, &Row)> = judge.fields().map(|(f, row)| (weight(row), f, row)).collect();
        weighed.sort_by(|(weight, _, row), (other, _, another)| {
            another.found.cmp(&row.found).then(other.total_cmp(weight)).then(another.both.cmp(&row.both))
        });
        let fields: Vec<(&Field, &Row)> = weighed.iter().map(|(_, field, row)| (*field, *row)).collect();
        Self {
            service: subject.service.clone(),
            backend: subject.backend.clone(),
            revision: subject.revision.clone(),
            stable: subject.stable.clone(),
            stable_revision: subject.stable_revision.clone(),
            since: told(since),
            verdict: verdict(judge, finding, &fields),
            mode: if level.noise { "noise leg" } else { "ignore rules" }.to_owned(),
            alpha: level.alpha,
            tolerated: level.tolerated,
            difference_at_most: judge.difference_at_most(),
            pairs: PairsView {
                seen: counts.pairs,
                compared: counts.compared,
                different: counts.different,
                without_noise: counts.without_noise,
                skipped: counts.skipped,
                not_stable: 0,
                outdated: 0,
            },
            failures: TroubleView::new(judge.failures()),
            slow: TroubleView::new(judge.slow()),
            slow_after_ms: None,
            fields: fields.iter().map(|(field, row)| FieldView::new(field, row, judge)).collect(),
            examples: examples.iter().map(ExampleView::new).collect(),
        }
    }

    /// With no more than what a line of history needs.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        self.fields.truncate(FIELDS_NAMED_MAX);
        self
    }

    /// The second copy tells noise from difference.
    #[must_use]
    pub fn has_noise_leg(&self) -> bool {
        self.mode == "noise leg"
    }
}

fn verdict(judge: &Judge, finding: &Finding, fields: &[(&Field, &Row)]) -> Verdict {
    let (level, counts) = (judge.level(), judge.counts());
    let at_most = judge.difference_at_most();
    match finding {
        Finding::Same => Verdict {
            outcome: Outcome::Same,
            reason: format!(
                "{} pairs compared: at most {} of them really differ, {} are tolerated",
                counts.compared,
                percent(at_most.min(level.tolerated)),
                percent(level.tolerated)
            ),
            fields: Vec::new(),
            more_pairs: None,
        },
        Finding::Different => {
            let named = |(field, row): &&(&Field, &Row)| row.found || !level.noise && !field.place.is_empty();
            let mut differing: Vec<String> = Vec::new();
            differing.extend(judge.failures().found.then(|| "failures".to_owned()));
            differing.extend(judge.slow().found.then(|| "slow answers".to_owned()));
            let places = fields.iter().filter(named).map(|(field, _)| field.to_string());
            differing.extend(places);
            let count = differing.len();
            differing.truncate(FIELDS_NAMED_MAX);
            let more =
                if count > differing.len() { format!(" and {} more", count - differing.len()) } else { String::new() };
            Verdict {
                outcome: Outcome::Different,
                reason: format!("{}{more}, in {} pairs", differing.join(", "), counts.pairs),
                fields: differing,
                more_pairs: None,
            }
        }
        Finding::Inconclusive { more } => Verdict {
            outcome: Outcome::Inconclusive,
            reason: missing(judge, *more),
            fields: Vec::new(),
            more_pairs: *more,
        },
    }
}

/// What it takes to know.
fn missing(judge: &Judge, more: Option<u64>) -> String {
    let (level, counts) = (judge.level(), judge.counts());
    match more {
        Some(more) if counts.pairs == 0 => format!("nothing was compared yet; it takes about {more} pairs"),
        _ if level.noise && counts.compared == 0 && counts.without_noise > 0 => {
            format!("none of {} pairs has its second copy's answer", counts.pairs)
        }
        _ if counts.compared == 0 && counts.pairs > 0 => {
            format!("none of {} pairs could be compared: they were broken off, or failed", counts.pairs)
        }
        Some(more) => format!("about {more} more pairs"),
        None if level.noise => {
            format!("more pairs than noise explains differ, but not yet surely: more than {}", percent(level.tolerated))
        }
        None => format!("about as many pairs differ as are tolerated, {}", percent(level.tolerated)),
    }
}

/// With as many digits as say something.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = match percent {
        _ if percent < 0.1 => 3,
        _ if percent < 10.0 => 2,
        _ => 0,
    };
    let text = format!("{percent:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "0" && share > 0.0 { "under 0.001 %".to_owned() } else { format!("{text} %") }
}

fn told(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

impl TroubleView {
    fn new(trouble: Trouble) -> Self {
        Self {
            shadow_only: trouble.alone.candidate_only,
            primary_only: trouble.alone.stable_only,
            both: trouble.both,
            e_value: trouble.e_value(),
            found: trouble.found,
        }
    }
}

impl FieldView {
    fn new(field: &Field, row: &Row, judge: &Judge) -> Self {
        let level = judge.level();
        Self {
            place: field.place.to_string(),
            change: field.change.name().to_owned(),
            shadow_only: row.alone.candidate_only,
            noise_only: row.alone.stable_only,
            both: row.both,
            e_value: level.noise.then(|| row.alone.e_value(1.0)),
            needed: level.noise.then(|| needed(level.alpha, row.order)),
            found: row.found,
        }
    }
}

impl ExampleView {
    fn new(example: &Example) -> Self {
        Self {
            at: told(example.at),
            request_id: example.request_id.clone(),
            method: example.method.clone(),
            path: example.path.clone(),
            route: example.route.clone(),
            place: example.field.place.to_string(),
            change: example.field.change.name().to_owned(),
            primary: example.values.primary.clone(),
            shadow: example.values.shadow.clone(),
        }
    }
}
