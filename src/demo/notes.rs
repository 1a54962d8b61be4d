//! What the proxy logs while the table is on the screen: kept until there is a moment to show it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;

use super::line::{Line, Style};

/// As many are shown at a time; of the rest only the number.
const KEPT_MAX: usize = 3;
/// What changes are made by themselves is in the history as well, which the chronicle tells.
const LEVELS: &str = "warn,tidegate::control=off,tidegate::guard=off,tidegate::health=off";

/// Warnings and errors that haven't been shown yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    texts: Vec<String>,
    more: u64,
}

impl Notes {
    /// Sends this process's log here.
    pub(super) fn of_the_log() -> Self {
        let notes = Self::default();
        let writer = notes.clone();
        let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(LEVELS)).without_time().with_target(false);
        // Fails where a log is set up already; what is logged goes there then.
        let _ = log.with_ansi(false).with_writer(move || writer.clone()).try_init();
        notes
    }

    /// What has come since the last time.
    pub(super) fn take(&self) -> Vec<Line> {
        let kept = std::mem::take(&mut *self.kept());
        let mut lines: Vec<Line> =
            kept.texts.iter().map(|text| Line::default().with(Style::Red, format!("  {text}"))).collect();
        if kept.more > 0 {
            lines.push(Line::default().with(Style::Red, format!("  and {} more like these", kept.more)));
        }
        lines
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic while the lock is held leaves nothing half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for Notes {
    /// Each event comes as one piece.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut kept = self.kept();
        if kept.texts.len() < KEPT_MAX {
            kept.texts.push(String::from_utf8_lossy(event).trim().to_owned());
        } else {
            kept.more += 1;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use io::Write;

    use super::*;

    #[test]
    fn a_flood_of_warnings_takes_four_lines() {
        let mut notes = Notes::default();
        for number in 0..100 {
            notes.write_all(format!(" WARN number {number}\n").as_bytes()).unwrap();
        }
        let shown: Vec<String> = notes.take().iter().map(|line| line.render(false)).collect();
        assert_eq!(shown[0], "  WARN number 0");
        assert_eq!(shown[1..].last().unwrap(), "  and 97 more like these");
        assert!(notes.take().is_empty());
    }
}
