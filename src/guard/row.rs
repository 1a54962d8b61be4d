//! Failures of a candidate one after the other, with nothing but failures between, while stable answers. Quicker than
//! the comparison by a request or two, and good where a process is plainly dead; a shared dependency that is down makes
//! stable's answers fail as well, and then this says nothing.

use std::collections::HashSet;

use crate::analysis::{Attempts, chance_if_alike};

/// On a sticky service so many clients must have met the failures: one may come back to the same broken page.
const KEYS_MIN: usize = 3;
/// The row is the candidate's own, rather than bad luck, if there is less chance than this that it would look so.
const CHANCE_MAX: f64 = 1e-4;
/// A stable that fails this often in the same time isn't fine.
const STABLE_SHARE_MAX: f64 = 0.2;

/// Failures in a row so far.
#[derive(Debug)]
pub(super) struct Row {
    /// What stable's attempts had come to when it began.
    stable_before: Attempts,
    /// Failures that were in a row before anybody looked.
    before: u32,
    seen: u32,
    keys: HashSet<u64>,
}

impl Row {
    fn new(stable: Attempts, length: u32) -> Self {
        Self { stable_before: stable, before: length.saturating_sub(1), seen: 0, keys: HashSet::new() }
    }

    /// Takes note of a failure: `length` are in a row now, over all of the candidate's endpoints, and stable's attempts
    /// have come to `stable`. What stable did meanwhile, once the row is as long as `consecutive` and can't be luck.
    pub(super) fn fail(
        row: &mut Option<Self>,
        length: u32,
        consecutive: u32,
        stable: Attempts,
        key: Option<u64>,
    ) -> Option<Attempts> {
        // A shorter one has been broken by an answer, and began anew.
        if row.as_ref().is_none_or(|row| length <= 1 || length < row.seen) {
            *row = Some(Self::new(stable, length));
        }
        let row = row.as_mut()?;
        row.seen = length;
        if row.keys.len() < KEYS_MIN {
            row.keys.extend(key);
        }
        let meanwhile = stable.since(row.stable_before);
        let is_fine = meanwhile.failed as f64 <= STABLE_SHARE_MAX * meanwhile.ended() as f64;
        let length = length - row.before;
        let own = Attempts { answered: 0, failed: length.into() };
        let known = key.is_none() || row.keys.len() >= KEYS_MIN;
        (length >= consecutive && known && is_fine && chance_if_alike(own, meanwhile) <= CHANCE_MAX)
            .then_some(meanwhile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable(answered: u64, failed: u64) -> Attempts {
        Attempts { answered, failed }
    }

    #[test]
    fn five_in_a_row_while_stable_answers_are_the_candidates_own() {
        let mut row = None;
        for length in 1..5 {
            assert_eq!(Row::fail(&mut row, length, 5, stable(u64::from(length) * 20, 0), None), None);
        }
        assert_eq!(Row::fail(&mut row, 5, 5, stable(100, 0), None), Some(stable(80, 0)));
    }

    #[test]
    fn it_takes_stables_answers_or_stables_failures_forbid_it() {
        let run = |each: Attempts| {
            let mut row = None;
            let at = |n: u64| stable(each.answered * n, each.failed * n);
            (1..=9).find(|length| Row::fail(&mut row, *length, 5, at(u64::from(*length)), None).is_some())
        };
        assert_eq!(run(stable(19, 0)), Some(5));
        assert_eq!(run(stable(1, 0)), Some(9), "nine take eight answers");
        assert_eq!(run(stable(15, 5)), None);
        assert_eq!(run(stable(0, 0)), None);
    }

    #[test]
    fn what_was_answered_before_the_row_says_nothing() {
        let mut row = None;
        Row::fail(&mut row, 1, 5, stable(0, 0), None);
        assert_eq!(Row::fail(&mut row, 1, 5, stable(1_000, 0), None), None);
        assert_eq!(Row::fail(&mut row, 5, 5, stable(1_000, 10), None), None);
    }

    #[test]
    fn failures_of_before_the_trial_are_not_counted() {
        let mut row = None;
        for length in 6..=9 {
            assert_eq!(Row::fail(&mut row, length, 5, stable(u64::from(length) * 20, 0), None), None);
        }
        assert!(Row::fail(&mut row, 10, 5, stable(200, 0), None).is_some());
    }

    #[test]
    fn on_a_sticky_service_three_clients_must_have_met_it() {
        let (mut one, mut three) = (None, None);
        for length in 1..=9 {
            let stable = stable(u64::from(length) * 20, 0);
            assert_eq!(Row::fail(&mut one, length, 5, stable, Some(7)), None);
            let found = Row::fail(&mut three, length, 5, stable, Some(u64::from(length)));
            assert_eq!(found.is_some(), length >= 5);
        }
    }
}
