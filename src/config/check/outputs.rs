//! What tidegate writes: its state, its log and the access log.

use std::path::PathBuf;

use tracing_subscriber::EnvFilter;

use super::Check;
use crate::config::file::{LogFile, LogFormatFile};
use crate::config::key_path::KeyPath;
use crate::config::types::{AccessLogOutput, LogConfig, LogFormat};

impl Check<'_, '_> {
    pub(super) fn state_dir(&mut self, at: &KeyPath, text: &str) -> Option<PathBuf> {
        let path = self.file_path(at, text)?;
        if path.is_file() {
            let message = format!("{} is a file", path.display());
            self.report.problem(at, message, "name a folder; it is made when it doesn't exist");
        }
        Some(path)
    }

    pub(super) fn access_log(&mut self, at: &KeyPath, text: &str) -> Option<AccessLogOutput> {
        match text {
            "off" => return Some(AccessLogOutput::Off),
            "stdout" => return Some(AccessLogOutput::Stdout),
            // A word like "none" or "Stdout" was not meant as the name of a file.
            word if !word.contains(['/', '.']) => {
                let hint = format!("write \"off\", \"stdout\", or \"./{word}\" for a file of that name");
                self.report.problem(at, format!("{word:?} is neither \"off\", \"stdout\" nor a path"), hint);
                return None;
            }
            _ => {}
        }
        let path = self.file_path(at, text)?;
        if path.is_dir() {
            self.report.problem(at, format!("{} is a folder", path.display()), "name a file in it");
        }
        Some(AccessLogOutput::File(path))
    }

    pub(super) fn log(&mut self, at: &KeyPath, file: &LogFile) -> Option<LogConfig> {
        if let Err(error) = EnvFilter::try_new(&file.filter) {
            let hint = "write a level (error, warn, info, debug, trace), or several by module: \"tidegate=debug,warn\"";
            self.report.problem(&at.key("filter"), format!("this is no filter: {error}"), hint);
            return None;
        }
        let format = match file.format {
            LogFormatFile::Text => LogFormat::Text,
            LogFormatFile::Json => LogFormat::Json,
        };
        Some(LogConfig { filter: file.filter.clone(), format })
    }
}
