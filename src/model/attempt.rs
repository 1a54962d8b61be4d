//! How one attempt at an endpoint can fail, and sets of such failures: after which another attempt is worth it.

use http::StatusCode;

/// How an attempt failed, as seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptFailure {
    /// No connection: refused, too late, TLS failed.
    Connect,
    /// The connection or the stream ended before a head, or what came was no head.
    Reset,
    /// No head in time.
    Timeout,
    /// A head with this status.
    Status(StatusCode),
}

/// Failures, and statuses from 500 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FailureSet {
    pub connect: bool,
    pub reset: bool,
    pub timeout: bool,
    /// Bit n is status 500 + n.
    statuses: u128,
}

impl FailureSet {
    #[must_use]
    pub fn contains(self, failure: AttemptFailure) -> bool {
        match failure {
            AttemptFailure::Connect => self.connect,
            AttemptFailure::Reset => self.reset,
            AttemptFailure::Timeout => self.timeout,
            AttemptFailure::Status(status) => self.has_status(status),
        }
    }

    fn has_status(self, status: StatusCode) -> bool {
        let above = status.as_u16().checked_sub(500).filter(|above| *above < 100);
        above.is_some_and(|above| self.statuses & 1 << above != 0)
    }

    /// Adds what `word` means: `connect`, `reset`, `timeout`, or a status from 500 to 599. False when it means nothing.
    #[must_use]
    pub fn add(&mut self, word: &str) -> bool {
        match word {
            "connect" => self.connect = true,
            "reset" => self.reset = true,
            "timeout" => self.timeout = true,
            _ => match word.parse::<u16>() {
                Ok(status @ 500..600) if word.len() == 3 => self.statuses |= 1 << (status - 500),
                _ => return false,
            },
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(words: &[&str]) -> FailureSet {
        let mut set = FailureSet::default();
        for word in words {
            assert!(set.add(word), "{word}");
        }
        set
    }

    #[test]
    fn a_set_contains_what_was_added_and_nothing_else() {
        let status = |code| AttemptFailure::Status(StatusCode::from_u16(code).unwrap());
        let some = set(&["connect", "503", "599", "500"]);
        let contained = [AttemptFailure::Connect, status(500), status(503), status(599)];
        assert!(contained.iter().all(|failure| some.contains(*failure)));
        let others =
            [AttemptFailure::Reset, AttemptFailure::Timeout, status(502), status(499), status(600), status(200)];
        assert!(others.iter().all(|failure| !some.contains(*failure)));
        assert!(set(&["reset", "timeout"]).contains(AttemptFailure::Timeout));
    }

    #[test]
    fn words_that_mean_no_failure_are_refused() {
        for word in ["", "404", "600", "5xx", "+503", "0503", "Connect"] {
            assert!(!FailureSet::default().add(word), "{word}");
        }
    }
}
