//! When a request is tried again, and where.

use super::{Check, Fault, unless_reported};
use crate::config::file::{RescueFile, RescueTableFile, RetryFile, RetryTableFile, ServiceFile};
use crate::config::key_path::KeyPath;
use crate::config::types::{AttemptsConfig, BudgetConfig, RescueConfig, RetryConfig};
use crate::model::FailureSet;

/// Enough for messages and forms; whoever sends more streams it.
const REPLAY_BUFFER: u64 = 64 << 10;
/// A body is held for each request under way.
const REPLAY_BUFFER_MAX: u64 = 16 << 20;

impl Check<'_, '_> {
    /// `at`: the service.
    pub(super) fn attempts(&mut self, at: &KeyPath, file: &ServiceFile) -> Option<AttemptsConfig> {
        let defaults = RetryTableFile::default();
        let (retry_file, is_on) = match &file.retry {
            None => (&defaults, Some(true)),
            Some(RetryFile::Table(file)) => (file, Some(true)),
            Some(RetryFile::Word(word)) => (&defaults, self.off(&at.key("retry"), word).map(|()| false)),
        };
        let retry = self.retry(&at.key("retry"), retry_file);
        let budget = self.budget(&at.key("retry"), retry_file);
        let rescue = self.rescue(&at.key("rescue"), file.rescue.as_ref());
        let replay_buffer = match &file.replay_buffer {
            None => Some(REPLAY_BUFFER),
            Some(text) => {
                let at = at.key("replay_buffer");
                let size = self.size(&at, text);
                let checked = size.map(|size| match size {
                    0..=REPLAY_BUFFER_MAX => Ok(size),
                    _ => {
                        Err(Fault::new(format!("{:?} is out of bounds", text.0), "give it at most 16 MiB; 0B for none"))
                    }
                });
                checked.and_then(|checked| self.accept(&at, checked))
            }
        };
        let is_on = is_on?;
        Some(AttemptsConfig {
            retry: Some(retry?).filter(|_| is_on),
            budget: budget?,
            rescue: rescue?,
            idempotent: file.idempotent,
            replay_buffer: usize::try_from(replay_buffer?).unwrap_or(usize::MAX),
            tell_backend: file.backend_header,
        })
    }

    fn retry(&mut self, at: &KeyPath, file: &RetryTableFile) -> Option<RetryConfig> {
        let on = self.failures(&at.key("on"), &file.on);
        let per_try = file.per_try.as_ref().map(|text| self.positive_duration(&at.key("per_try"), text));
        Some(RetryConfig { attempts: file.attempts, on: on?, per_try: unless_reported(per_try)? })
    }

    fn budget(&mut self, at: &KeyPath, file: &RetryTableFile) -> Option<BudgetConfig> {
        let share = Some(file.budget).filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| {
            Fault::new(format!("{} is no share of the requests", file.budget), "give it 0 to 1: 0.2 is a fifth")
        });
        Some(BudgetConfig { share: self.accept(&at.key("budget"), share)?, floor: file.floor })
    }

    #[expect(clippy::option_option, reason = "reported, off and on are three things")]
    fn rescue(&mut self, at: &KeyPath, file: Option<&RescueFile>) -> Option<Option<RescueConfig>> {
        let defaults = RescueTableFile::default();
        let file = match file {
            None => &defaults,
            Some(RescueFile::Table(file)) => file,
            Some(RescueFile::Word(word)) => return self.off(at, word).map(|()| None),
        };
        let on = self.failures(&at.key("on"), &file.on);
        Some(Some(RescueConfig { on: on?, idempotency_key: file.idempotency_key }))
    }

    fn off(&mut self, at: &KeyPath, word: &str) -> Option<()> {
        let hint = "write \"off\", or a table of what differs from the default";
        let checked = (word == "off").then_some(()).ok_or_else(|| Fault::new(format!("{word:?} means nothing"), hint));
        self.accept(at, checked)
    }

    fn failures(&mut self, at: &KeyPath, words: &[String]) -> Option<FailureSet> {
        let mut failures = FailureSet::default();
        let mut all_known = true;
        for (index, word) in words.iter().enumerate() {
            if !failures.add(word) {
                let hint = "write \"connect\", \"reset\", \"timeout\", or a status from \"500\" to \"599\"";
                self.report.problem(&at.index(index), format!("{word:?} is no failure"), hint);
                all_known = false;
            }
        }
        Some(failures).filter(|_| all_known)
    }
}
