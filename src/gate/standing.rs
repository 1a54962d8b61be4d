//! How a gate stands.

use serde::{Deserialize, Serialize};

/// In each, for people: what is waited for, or what was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "standing", content = "reason", rename_all = "snake_case")]
pub enum Standing {
    /// There is no answer yet.
    Pending(String),
    Passed(String),
    /// Somebody has looked, and says no.
    Refused(String),
    /// Nobody could be asked, or what came is no answer. It isn't a no, either.
    Silent(String),
}

impl Standing {
    /// Nobody has been asked.
    #[must_use]
    pub fn unasked() -> Self {
        Self::Pending("not asked yet".to_owned())
    }

    #[must_use]
    pub fn is_passed(&self) -> bool {
        matches!(self, Self::Passed(_))
    }

    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending(_) => "pending",
            Self::Passed(_) => "passed",
            Self::Refused(_) => "refused",
            Self::Silent(_) => "silent",
        }
    }

    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Pending(reason) | Self::Passed(reason) | Self::Refused(reason) | Self::Silent(reason) => reason,
        }
    }
}
