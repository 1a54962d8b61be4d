//! How a service's rollouts go: whether the steps make sense, one by one and one after the other.

use std::sync::Arc;
use std::time::Duration;

use super::gates::asked;
use super::guard::is_stable_known;
use super::{Check, Fault, unless_reported};
use crate::config::file::{ConditionsFile, MirrorFile, PercentText, RolloutFile, ServiceFile, StepFile, StrategyFile};
use crate::config::key_path::KeyPath;
use crate::config::types::{MIRRORS_MAX, MirrorConfig, RolloutConfig};
use crate::model::{BackendName, CONFIDENCE, DEADLINE, MARGIN, Plan, RuleMatch, Step, Strategy};

/// More would let anything pass.
const MARGIN_MAX: f64 = 100.0;
/// More than half would be no holdback.
const HOLDBACK_MAX: f64 = 0.5;
/// Less takes hundreds of thousands of requests.
const BELOW_MIN: f64 = 1e-5;
/// Less is a coin.
const CONFIDENCE_MIN: f64 = 0.5;
/// More takes for ever.
const CONFIDENCE_MAX: f64 = 0.999_999;
/// How long a flip is watched where nobody says.
const WATCH: Duration = Duration::from_secs(600);
/// What stays on the old side meanwhile, but for a flip of everything at once.
const HOLDBACK: f64 = 0.02;

impl Check<'_, '_> {
    /// `mirrors`: the service's own; `None`: they were reported.
    pub(super) fn rollout(
        &mut self,
        service: &KeyPath,
        file: &ServiceFile,
        mirrors: Option<&[Arc<MirrorConfig>]>,
    ) -> Option<Arc<RolloutConfig>> {
        let (at, rollout) = (service.key("rollout"), &file.rollout);
        if is_given(rollout) {
            self.rollout_sides(&at, file);
        }
        let strategy = match rollout.strategy {
            Some(StrategyFile::Canary) | None => Strategy::Canary,
            Some(StrategyFile::BlueGreen) => Strategy::BlueGreen,
            Some(StrategyFile::Cohort) => Strategy::Cohort,
            Some(StrategyFile::Shadow) => Strategy::Shadow,
        };
        let cohort = self.cohort(&at.key("cohort"), &rollout.cohort);
        let preview = self.previews(&at.key("preview"), &rollout.preview);
        let steps = match &rollout.steps {
            Some(files) => self.steps(&at.key("steps"), files, strategy),
            None => Some(Plan::usual(strategy).steps),
        };
        if let Some(steps) = &steps {
            self.cohort_is_used(&at, steps, rollout);
        }
        let margin = Some(rollout.margin.unwrap_or(MARGIN)).filter(|margin| (1.0..=MARGIN_MAX).contains(margin));
        if margin.is_none() {
            let message = "a margin is how many times as often as stable the new release may fail";
            self.report.problem(&at.key("margin"), message, format!("write a number from 1 to {MARGIN_MAX}"));
        }
        let deadline = match &rollout.deadline {
            Some(text) => self.positive_duration(&at.key("deadline"), text),
            None => Some(DEADLINE),
        };
        let confidence = match &rollout.confidence {
            Some(text) => self.part(&at.key("confidence"), text, CONFIDENCE_MIN, CONFIDENCE_MAX),
            None => Some(CONFIDENCE),
        };
        let baseline = match (&rollout.baseline, &steps) {
            (Some(name), Some(steps)) => Some(self.baseline(&at.key("baseline"), name, steps, file)),
            _ => None,
        };
        let gates = self.gates(&at, rollout);
        let (gates, asked) = (gates?, asked(rollout));
        let plan = Plan {
            strategy,
            steps: steps?,
            margin: margin?,
            damage_budget: rollout.damage_budget,
            deadline: deadline?,
            confidence: confidence?,
            gates: asked,
            baseline: unless_reported(baseline)?,
        };
        let mirrors = self.rollout_mirrors(service, &at, &plan, file, mirrors?);
        Some(Arc::new(RolloutConfig { plan, cohort: cohort?, preview: preview?, mirrors: mirrors?, gates }))
    }

    /// How copies for each backend are made where a step asks for them: as the service's own mirror to it says, were it
    /// for its comparison.
    fn rollout_mirrors(
        &mut self,
        service: &KeyPath,
        at: &KeyPath,
        plan: &Plan,
        file: &ServiceFile,
        own: &[Arc<MirrorConfig>],
    ) -> Option<Vec<Arc<MirrorConfig>>> {
        if !plan.steps.iter().any(|step| matches!(step, Step::Mirror { .. })) {
            return Some(Vec::new());
        }
        if own.len() >= MIRRORS_MAX {
            let hint = format!("a service has at most {MIRRORS_MAX} mirrors; remove one, or the step");
            self.report.absent(&at.key("steps"), "there is no room for the rollout's own mirror", hint);
        }
        let of = |(index, (name, _)): (usize, &(String, _))| {
            let usual = self.mirror(service, at, &MirrorFile::compared(name.clone()), file)?;
            let own = own.iter().find(|own| own.backend == index);
            let own = own
                .map(|own| MirrorConfig { compare: own.compare.clone().or(usual.compare.clone()), ..(**own).clone() });
            Some(Arc::new(own.unwrap_or(usual)))
        };
        file.backends.0.iter().enumerate().map(of).collect()
    }

    /// It takes two, and one of them must be known to be the old one.
    fn rollout_sides(&mut self, at: &KeyPath, file: &ServiceFile) {
        if file.backends.0.len() < 2 {
            let hint = "add another backend with weight = 0, which new releases are put into";
            self.report.absent(at, "a rollout needs two backends, and the service has one", hint);
        } else if !is_stable_known(file) {
            let hint = "say stable = \"NAME\", or give one backend the largest weight";
            self.report.absent(
                at,
                "a rollout goes from stable to another backend, and which is stable is a guess",
                hint,
            );
        }
    }

    fn cohort(&mut self, at: &KeyPath, files: &[ConditionsFile]) -> Option<Vec<RuleMatch>> {
        let rules = files.iter().enumerate().map(|(index, file)| self.rule_match(&at.index(index), &file.into()));
        rules.collect::<Vec<_>>().into_iter().collect()
    }

    /// Rules without a step do nothing, and a step without rules is for nobody.
    fn cohort_is_used(&mut self, at: &KeyPath, steps: &[Step], file: &RolloutFile) {
        let asked = steps.iter().any(|step| matches!(step, Step::Cohort { .. }));
        if asked && file.cohort.is_empty() {
            let hint = "say who: cohort = [{ headers = { x-beta = \"yes\" } }]";
            self.report.absent(&at.key("cohort"), "there is a step for the cohort, and nobody is in it", hint);
        } else if !asked && !file.cohort.is_empty() {
            let hint = "begin with the step { cohort = true, hold = \"10m\" }, or use strategy = \"cohort\"";
            self.report.problem(&at.key("cohort"), "no step is for the cohort", hint);
        }
    }

    /// A third backend that gets nothing but beside a candidate.
    fn baseline(&mut self, at: &KeyPath, name: &str, steps: &[Step], file: &ServiceFile) -> Option<BackendName> {
        let backends = &file.backends.0;
        let Some((_, backend)) = backends.iter().find(|(known, _)| known == name) else {
            let known: Vec<_> = backends.iter().map(|(name, _)| name.as_str()).collect();
            let message = format!("there is no backend {name:?}");
            self.report.problem(at, message, format!("the service has: {}", known.join(", ")));
            return None;
        };
        let is_stable = match &file.stable {
            Some(stable) => stable == name,
            None => backends.iter().all(|(_, other)| other.weight <= backend.weight) && backend.weight > 0.0,
        };
        let fault = if is_stable {
            let hint = "name a third backend, with weight = 0, for a fresh copy of it";
            Some((format!("{name} is stable, and can't be compared with itself"), hint))
        } else if backends.len() < 3 {
            let hint = "add another backend with weight = 0 for the fresh copy of stable";
            Some((format!("{name} is the only backend that a new release could go into"), hint))
        } else if backend.weight > 0.0 {
            let hint = "write weight = 0 there: it gets as much as the new release, while there is one";
            Some((format!("{name} has a weight of its own"), hint))
        } else if !steps.iter().any(|step| step.baseline_percent() > 0.0) {
            let hint = "add a step with a weight of up to 50, or remove `baseline`";
            Some(("no step leaves room for a baseline beside the new release".to_owned(), hint))
        } else {
            None
        };
        if let Some((message, hint)) = fault {
            self.report.problem(at, message, hint);
            return None;
        }
        name.parse().ok()
    }

    fn steps(&mut self, at: &KeyPath, files: &[StepFile], strategy: Strategy) -> Option<Vec<Step>> {
        let steps: Vec<_> =
            files.iter().enumerate().map(|(index, file)| self.step(&at.index(index), file, strategy)).collect();
        let steps: Vec<Step> = steps.into_iter().collect::<Option<_>>()?;
        let mut percent = -1.0;
        for (index, step) in steps.iter().enumerate() {
            if matches!(steps[..index].last(), Some(Step::Flip { .. })) {
                let hint = "the step with weight = 100 comes last; what comes after it is its watch";
                self.report.problem(&at.index(index), "nothing can follow once the new release has everything", hint);
                return None;
            }
            let now = match step {
                Step::Flip { .. } => Some(100.0),
                step => step.percent(),
            };
            if matches!(step, Step::Mirror { .. }) && percent >= 0.0 {
                let hint = "begin with the copies: nobody should see what they would have shown";
                self.report.problem(&at.index(index), "copies come after requests", hint);
            }
            if let Some(now) = now {
                if now <= percent {
                    let hint = "each step gives the new release more than the one before";
                    let message = format!("{now} % follows {percent} %");
                    self.report.problem(&at.index(index), message, hint);
                }
                percent = now;
            }
        }
        if !matches!(steps.last(), Some(Step::Flip { .. })) {
            let hint = "end with { weight = 100, watch = \"10m\" }";
            self.report.problem(at, "the steps never come to 100 %", hint);
        }
        Some(steps)
    }

    fn step(&mut self, at: &KeyPath, file: &StepFile, strategy: Strategy) -> Option<Step> {
        let said = [
            ("weight", file.weight.is_some()),
            ("approve", file.approve.is_some()),
            ("cohort", file.cohort.is_some()),
            ("mirror", file.mirror.is_some()),
        ];
        let said: Vec<&str> = said.iter().filter(|(_, is_said)| *is_said).map(|(key, _)| *key).collect();
        let &[kind] = &said[..] else {
            let hint = "write one of weight = 5, approve = \"release managers\", cohort = true and mirror = 100";
            let message = if said.is_empty() {
                "the step doesn't say what it does".to_owned()
            } else {
                format!("{} are two steps", said.join(" and "))
            };
            self.report.problem(at, message, hint);
            return None;
        };
        let is_flip = file.weight.is_some_and(|weight| weight >= 100.0);
        let is_ramp = kind == "weight" && !is_flip;
        let fits = [
            ("advance_below", file.advance_below.is_some(), is_ramp, "a weight below 100"),
            ("hold", file.hold.is_some(), is_ramp || kind == "cohort", "a weight below 100, or cohort"),
            ("holdback", file.holdback.is_some(), is_flip, "weight = 100"),
            ("watch", file.watch.is_some(), is_flip, "weight = 100"),
            ("for", file.time.is_some(), kind == "mirror", "mirror"),
        ];
        for (key, is_given, fits, with) in fits {
            if is_given && !fits {
                let message = format!("`{key}` says nothing here");
                self.report.problem(&at.key(key), message, format!("it goes with {with}"));
            }
        }
        match kind {
            "weight" => self.weight_step(at, file, strategy),
            "approve" => Some(Step::Approve { who: file.approve.clone().unwrap_or_default() }),
            "cohort" => self.cohort_step(at, file),
            _ => self.mirror_step(at, file),
        }
    }

    fn weight_step(&mut self, at: &KeyPath, file: &StepFile, strategy: Strategy) -> Option<Step> {
        let percent = file.weight.filter(|weight| *weight > 0.0 && *weight <= 100.0);
        if percent.is_none() {
            let message = "a step's weight is the new release's share of the requests, in percent";
            self.report.problem(&at.key("weight"), message, "write a number above 0 and up to 100");
        }
        let advance_below =
            file.advance_below.as_ref().map(|text| self.part(&at.key("advance_below"), text, BELOW_MIN, 1.0));
        let hold = file.hold.as_ref().map(|text| self.positive_duration(&at.key("hold"), text));
        let holdback = file.holdback.as_ref().map(|text| self.part(&at.key("holdback"), text, 0.0, HOLDBACK_MAX));
        let watch = file.watch.as_ref().map(|text| self.duration(&at.key("watch"), text));
        let (advance_below, hold) = (unless_reported(advance_below)?, unless_reported(hold)?);
        let (holdback, watch) = (unless_reported(holdback)?, unless_reported(watch)?);
        if percent? < 100.0 {
            return Some(Step::Weight { percent: percent?, advance_below, hold });
        }
        let usual = if strategy == Strategy::BlueGreen { 0.0 } else { HOLDBACK };
        Some(Step::Flip { holdback: holdback.unwrap_or(usual), watch: watch.unwrap_or(WATCH) })
    }

    fn cohort_step(&mut self, at: &KeyPath, file: &StepFile) -> Option<Step> {
        if file.cohort != Some(true) {
            self.report.problem(&at.key("cohort"), "the step doesn't say what it does", "write cohort = true");
        }
        let Some(hold) = &file.hold else {
            let hint = "what chosen clients meet can't be compared, so say how long to wait: hold = \"10m\"";
            self.report.absent(&at.key("hold"), "a cohort's step ends after a time", hint);
            return None;
        };
        Some(Step::Cohort { hold: self.positive_duration(&at.key("hold"), hold)? })
    }

    fn mirror_step(&mut self, at: &KeyPath, file: &StepFile) -> Option<Step> {
        let percent = file.mirror.filter(|percent| *percent > 0.0 && *percent <= 100.0);
        if percent.is_none() {
            let message = "it is the share of the requests that are copied, in percent";
            self.report.problem(&at.key("mirror"), message, "write a number above 0 and up to 100");
        }
        let Some(time) = &file.time else {
            let hint = "say how long it may take to know whether the answers are the same: for = \"10m\"";
            self.report.absent(&at.key("for"), "copies aren't sent for ever", hint);
            return None;
        };
        let time = self.positive_duration(&at.key("for"), time);
        Some(Step::Mirror { percent: percent?, time: time? })
    }

    /// A percentage, as a part of 1 between `min` and `max`.
    fn part(&mut self, at: &KeyPath, text: &PercentText, min: f64, max: f64) -> Option<f64> {
        let number = text.0.trim().strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        let part = number.map(|number| number / 100.0).filter(|part| (min..=max).contains(part));
        let fault = || {
            let like = if min < CONFIDENCE_MIN { "5%" } else { "95%" };
            let hint = format!("write a percentage from {} to {}, like {like:?}", min * 100.0, max * 100.0);
            Fault::new(format!("{:?} can't stand here", text.0), hint)
        };
        self.accept(at, part.ok_or_else(fault))
    }
}

/// Somebody wants rollouts.
fn is_given(file: &RolloutFile) -> bool {
    let RolloutFile { strategy, steps, margin, damage_budget, deadline, confidence, cohort, preview, .. } = file;
    let RolloutFile { smoke, webhooks, metrics, freeze, baseline, .. } = file;
    strategy.is_some()
        || steps.is_some()
        || margin.is_some()
        || damage_budget.is_some()
        || deadline.is_some()
        || confidence.is_some()
        || !cohort.is_empty()
        || !preview.is_empty()
        || smoke.is_some()
        || !webhooks.0.is_empty()
        || !metrics.0.is_empty()
        || !freeze.is_empty()
        || baseline.is_some()
}
