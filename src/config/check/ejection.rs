//! When an endpoint's failures take it out.

use super::Check;
use crate::config::file::EjectionFile;
use crate::config::key_path::KeyPath;
use crate::config::types::EjectionConfig;

impl Check<'_, '_> {
    /// The outer `None` where it is off.
    #[expect(clippy::option_option, reason = "off, reported and checked are three things")]
    pub(super) fn ejection(&mut self, at: &KeyPath, file: &EjectionFile) -> Option<Option<EjectionConfig>> {
        let file = match file {
            EjectionFile::On(file) => file,
            EjectionFile::Off(text) if text == "off" => return None,
            EjectionFile::Off(text) => {
                self.report.problem(
                    at,
                    format!("{text:?} is no ejection"),
                    "write \"off\", or a table: { consecutive = 5 }",
                );
                return Some(None);
            }
        };
        let window = self.positive_duration(&at.key("window"), &file.window);
        let time = self.positive_duration(&at.key("time"), &file.time);
        let time_max = self.positive_duration(&at.key("max"), &file.max);
        let ratio = Some(file.ratio).filter(|ratio| *ratio > 0.0 && *ratio <= 1.0);
        if ratio.is_none() {
            let message = format!("{} is no part of a whole", file.ratio);
            self.report.problem(&at.key("ratio"), message, "give it more than 0 and at most 1; 1: all of them failed");
        }
        if let (Some(time), Some(time_max)) = (time, time_max)
            && time_max < time
        {
            let hint = "make it at least as long as `time`";
            self.report.problem(&at.key("max"), "the longest ejection is shorter than the first", hint);
        }
        let checked = || {
            Some(EjectionConfig {
                consecutive: file.consecutive,
                ratio: ratio?,
                window: window?,
                min_requests: file.min_requests,
                time: time?,
                time_max: time_max?,
            })
        };
        Some(checked())
    }
}
