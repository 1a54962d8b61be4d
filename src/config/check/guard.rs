//! What the guard may do in a service.

use super::{Check, Fault};
use crate::config::file::{GuardFile, ProbationFile, ServiceFile};
use crate::config::key_path::KeyPath;
use crate::config::types::ProbationConfig;
use crate::model::GuardMode;

/// More would not be a trial but a rollout.
const PROBATION_PERCENT_MAX: f64 = 10.0;

/// Which backend is stable must be known before another is drained for being worse than it.
pub(super) fn guard(file: &ServiceFile) -> GuardMode {
    let mode = match file.guard {
        Some(GuardFile::Drain) | None => GuardMode::Drain,
        Some(GuardFile::Observe) => GuardMode::Observe,
        Some(GuardFile::Off) => GuardMode::Off,
    };
    if is_stable_known(file) { mode } else { mode.min(GuardMode::Observe) }
}

pub(super) fn is_stable_known(file: &ServiceFile) -> bool {
    let weights = || file.backends.0.iter().map(|(_, backend)| backend.weight);
    let largest = weights().fold(f64::NEG_INFINITY, f64::max);
    file.stable.is_some() || weights().filter(|weight| *weight >= largest).count() == 1
}

impl Check<'_, '_> {
    pub(super) fn probation(&mut self, at: &KeyPath, file: &ProbationFile) -> Option<ProbationConfig> {
        let after = self.positive_duration(&at.key("after"), &file.after);
        let pass = self.positive_duration(&at.key("pass"), &file.pass);
        let percent = if file.percent > 0.0 && file.percent <= PROBATION_PERCENT_MAX {
            Ok(file.percent)
        } else {
            let message = format!("{} is no share for a trial", file.percent);
            Err(Fault::new(message, format!("write a number above 0 and at most {PROBATION_PERCENT_MAX}")))
        };
        let percent = self.accept(&at.key("percent"), percent);
        Some(ProbationConfig { after: after?, share: percent? / 100.0, pass: pass? })
    }
}
