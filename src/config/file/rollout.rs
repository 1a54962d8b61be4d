//! A rollout's plan.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConditionsFile, DurationText, FreezeFile, MetricFile, PreviewFile, SmokeFile, WebhookFile};
use crate::config::table::Table;

/// How a new release is rolled out.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct RolloutFile {
    /// "canary": little by little; "blue-green": all at once, and back at once; "cohort": chosen clients first; "shadow": copies first; "canary" when left out.
    pub(in crate::config) strategy: Option<StrategyFile>,
    /// What happens one after the other: [{ weight = 1, advance_below = "5%" }, { weight = 100, watch = "10m" }]; the strategy's own when left out.
    #[schemars(length(min = 1, max = 32))]
    pub(in crate::config) steps: Option<Vec<StepFile>>,
    /// The new release may fail so many times as often as stable, at least 1, like 1.5.
    pub(in crate::config) margin: Option<f64>,
    /// Failures beyond stable's own rate that a rollout may cost in all; no limit when left out.
    #[schemars(range(min = 1, max = 1000000000))]
    pub(in crate::config) damage_budget: Option<u64>,
    /// A step that comes to nothing for so long, besides its own time, pauses, like "10m".
    pub(in crate::config) deadline: Option<DurationText>,
    /// How sure the proof of a step must be, like "95%".
    pub(in crate::config) confidence: Option<PercentText>,
    /// A third backend with weight = 0, for a fresh copy of stable that the new release is compared with; stable itself when left out.
    pub(in crate::config) baseline: Option<String>,
    /// Clients that get the new release first: [{ headers = { x-beta = "yes" } }]; needs a step { cohort = true }.
    #[serde(default)]
    pub(in crate::config) cohort: Vec<ConditionsFile>,
    /// Requests that get the new release while a rollout is under way, whatever its step: [{ headers = { x-preview = "yes" } }, { host = "preview.shop.example.com" }].
    #[serde(default)]
    pub(in crate::config) preview: Vec<PreviewFile>,
    /// Requests that the new release must answer before it gets any of the clients'.
    pub(in crate::config) smoke: Option<SmokeFile>,
    /// Who is asked whether a rollout may go on, by names of your choice.
    pub(in crate::config) webhooks: Table<WebhookFile>,
    /// Numbers of a Prometheus server that must stay within bounds, by names of your choice.
    pub(in crate::config) metrics: Table<MetricFile>,
    /// When nothing goes toward a new release: [{ weekdays = ["fri"], hours = "16:00-24:00", time_zone = "Europe/Berlin" }].
    pub(in crate::config) freeze: Vec<FreezeFile>,
}

/// A part of a whole: "5%", "0.5%".
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub(in crate::config) struct PercentText(pub(in crate::config) String);

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub(in crate::config) enum StrategyFile {
    Canary,
    BlueGreen,
    Cohort,
    Shadow,
}

/// One step: a weight, an approval, a cohort or copies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct StepFile {
    /// The new release's share of the requests, in percent, above 0 and up to 100; the last step has 100.
    pub(in crate::config) weight: Option<f64>,
    /// The step is over once less than this fails, beyond doubt, like "0.5%".
    pub(in crate::config) advance_below: Option<PercentText>,
    /// The step is over after so long without harm, like "1m".
    pub(in crate::config) hold: Option<DurationText>,
    /// The share that stays on the old side meanwhile to be compared with, like "2%"; with weight = 100.
    pub(in crate::config) holdback: Option<PercentText>,
    /// How long the new release is watched before the old side is given up, like "10m"; with weight = 100.
    pub(in crate::config) watch: Option<DurationText>,
    /// Who has to approve, in any words: "release managers".
    #[schemars(length(min = 1, max = 256))]
    pub(in crate::config) approve: Option<String>,
    /// true: the clients that cohort names, and nobody else.
    pub(in crate::config) cohort: Option<bool>,
    /// Copies of this share of the requests, in percent, above 0 and up to 100: the step is over once they are known to be answered as stable answers.
    pub(in crate::config) mirror: Option<f64>,
    /// How long it may take until that is known, like "2m"; with mirror.
    #[serde(rename = "for")]
    pub(in crate::config) time: Option<DurationText>,
}
