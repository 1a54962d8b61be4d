//! How much of the memory that there is may be in use before requests are turned away.

/// What is done about it. In the order of need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Overload {
    #[default]
    None,
    /// New requests are answered 503.
    Requests,
    /// New connections are closed, too.
    Connections,
}

/// Percent of the limit from which a level holds, and below which it ends. Apart, so that what a level does to the
/// memory doesn't end it at once.
const REQUESTS: (u64, u64) = (85, 80);
const CONNECTIONS: (u64, u64) = (95, 90);

impl Overload {
    /// The level after `self`, with so much of `limit` in use.
    #[must_use]
    pub fn next(self, used: u64, limit: u64) -> Self {
        let holds = |level: Self, (from, until): (u64, u64)| {
            let percent = if self >= level { until } else { from };
            u128::from(used) * 100 >= u128::from(limit) * u128::from(percent)
        };
        if holds(Self::Connections, CONNECTIONS) {
            Self::Connections
        } else if holds(Self::Requests, REQUESTS) {
            Self::Requests
        } else {
            Self::None
        }
    }

    /// From its number; what is no level's is the worst.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Requests,
            _ => Self::Connections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The levels on the way through `percents` of a limit.
    fn levels(percents: &[u64]) -> Vec<u8> {
        let mut level = Overload::None;
        let mut seen = Vec::new();
        for percent in percents {
            level = level.next(percent * 10, 1000);
            seen.push(level as u8);
        }
        seen
    }

    #[test]
    fn levels_begin_where_they_should() {
        assert_eq!(levels(&[0, 84, 85, 94, 95, 200]), [0, 0, 1, 1, 2, 2]);
        assert_eq!(levels(&[95]), [2]);
    }

    #[test]
    fn a_level_ends_well_below_where_it_began() {
        assert_eq!(levels(&[85, 84, 80, 79, 84]), [1, 1, 1, 0, 0]);
        assert_eq!(levels(&[95, 94, 90, 89, 94, 80, 79]), [2, 2, 2, 1, 1, 1, 0]);
        assert_eq!(levels(&[95, 10]), [2, 0]);
    }

    #[test]
    fn around_a_threshold_nothing_flickers() {
        let mut used = Vec::new();
        for _ in 0..10 {
            used.extend([86, 83]);
        }
        assert_eq!(levels(&used), vec![1; 20]);
    }

    #[test]
    fn no_size_overflows() {
        assert_eq!(Overload::None.next(u64::MAX, u64::MAX), Overload::Connections);
        assert_eq!(Overload::None.next(u64::MAX / 2, u64::MAX), Overload::None);
    }

    #[test]
    fn numbers_are_levels() {
        for level in [Overload::None, Overload::Requests, Overload::Connections] {
            assert_eq!(Overload::from_number(level as u8), level);
        }
    }
}
