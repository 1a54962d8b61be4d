//! The ways in which a candidate goes bad, and those in which it only seems to.

use std::time::Duration;

use clap::ValueEnum;

use crate::origin::Conduct;

/// How long a flapping candidate stays as it is.
pub(crate) const FLAP: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    Dead,
    Reset,
    Refused,
    Errors10,
    Errors1,
    NotFound,
    Truncated,
    Hangs,
    Late,
    Flapping,
    Slower,
    MoreErrors,
    Both1,
    Both50,
    BothLate,
    BothPause,
    Healthy,
}

impl Fault {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Dead => "dead: 500 to everything",
            Self::Reset => "reset",
            Self::Refused => "refused",
            Self::Errors10 => "10 % errors",
            Self::Errors1 => "1 % errors",
            Self::NotFound => "404 to everything",
            Self::Truncated => "truncated bodies",
            Self::Hangs => "hangs",
            Self::Late => "+200 ms on every answer",
            Self::Flapping => "flapping, 5 s bad, 5 s good",
            Self::Slower => "20 % slower",
            Self::MoreErrors => "3 % errors, stable 2 %",
            Self::Both1 => "both 1 % errors",
            Self::Both50 => "both 50 % errors",
            Self::BothLate => "both +200 ms",
            Self::BothPause => "both pause 300 ms every 10 s, in turn",
            Self::Healthy => "healthy, both 0.5 % errors",
        }
    }

    /// What the two do from the moment the fault begins: stable, candidate.
    pub(crate) fn conducts(self) -> (Conduct, Conduct) {
        let errors = |share| Conduct::Answers { status: 500, share };
        let both = |conduct| (conduct, conduct);
        let candidate = |conduct| (Conduct::Healthy, conduct);
        match self {
            Self::Dead | Self::Flapping => candidate(errors(1.0)),
            Self::Reset => candidate(Conduct::Resets),
            Self::Refused => candidate(Conduct::Refuses),
            Self::Errors10 => candidate(errors(0.1)),
            Self::Errors1 => candidate(errors(0.01)),
            Self::NotFound => candidate(Conduct::Answers { status: 404, share: 1.0 }),
            Self::Truncated => candidate(Conduct::Truncates),
            Self::Hangs => candidate(Conduct::Hangs),
            Self::Late => candidate(Conduct::Lags { more: LATE }),
            Self::Slower => candidate(Conduct::Plods { factor: 1.2 }),
            Self::MoreErrors => (errors(0.02), errors(0.03)),
            Self::Both1 => both(errors(0.01)),
            Self::Both50 => both(errors(0.5)),
            Self::BothLate => both(Conduct::Lags { more: LATE }),
            Self::BothPause => (Conduct::Pauses { at: 0 }, Conduct::Pauses { at: 5 }),
            Self::Healthy => both(errors(0.005)),
        }
    }

    /// Nobody should be drained for it.
    pub(crate) fn is_calm(self) -> bool {
        matches!(self, Self::Slower | Self::MoreErrors | Self::Both1 | Self::Both50 | Self::BothLate | Self::Healthy)
    }

    /// It shows in how long answers take, which a revision's first 30 seconds say little about.
    pub(crate) fn is_about_time(self) -> bool {
        matches!(self, Self::Hangs | Self::Late | Self::Slower | Self::BothLate | Self::BothPause)
    }

    /// Its failures never reach the candidate: they are counted by the kernel, for one proxy at a time.
    pub(crate) fn is_alone(self) -> bool {
        self == Self::Refused
    }
}
