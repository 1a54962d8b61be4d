//! What one pair shows: the step from answers to evidence. Pure.

use std::time::Duration;

use super::compare::{Primary, Rules, is_comparable, is_failure};
use super::judge::{Sides, Sight};
use super::pair::{Answer, AnswerEnd, Pair};

/// Looks at a pair. `slow_after`: from when on an answer is slow, where that is known.
pub(super) fn look(pair: &Pair, rules: &Rules, slow_after: Option<Duration>) -> Sight {
    let failed = sides(pair, |answer| {
        let is_fair = answer.end != AnswerEnd::TimedOut || had_its_time(answer, &pair.primary);
        is_failure(answer).filter(|_| is_fair)
    });
    let slow = slow_after.and_then(|limit| sides(pair, |answer| is_slow(answer, limit)));
    let noise_failed = pair.noise.as_ref().and_then(is_failure) == Some(true);
    let mut sight = Sight { failed, noise_failed, slow, ..Sight::default() };
    if pair.primary.end == AnswerEnd::Whole && is_failure(&pair.primary) == Some(false) {
        let primary = Primary::new(&pair.primary);
        let differences = |other: Option<&Answer>| {
            other.filter(|other| is_comparable(other)).map(|other| primary.differences(other, rules))
        };
        sight.shadow = differences(Some(&pair.shadow));
        sight.noise = differences(pair.noise.as_ref());
    }
    sight
}

fn sides(pair: &Pair, holds: impl Fn(&Answer) -> Option<bool>) -> Option<Sides> {
    Some(Sides { shadow: holds(&pair.shadow)?, primary: holds(&pair.primary)? })
}

/// A copy may have less time than its request: one that was given up says something only where the primary was quicker.
fn had_its_time(answer: &Answer, primary: &Answer) -> bool {
    primary.whole_after <= answer.whole_after
}

/// Whoever has failed otherwise was neither slow nor quick.
fn is_slow(answer: &Answer, limit: Duration) -> Option<bool> {
    match answer.end {
        AnswerEnd::Whole => Some(answer.head_after > limit),
        AnswerEnd::TimedOut if answer.whole_after > limit => Some(true),
        AnswerEnd::TimedOut | AnswerEnd::Failed(_) | AnswerEnd::Aborted => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{answer, json, pair};
    use super::*;

    const LIMIT: Option<Duration> = Some(Duration::from_millis(100));

    fn seen(primary: Answer, shadow: Answer) -> Sight {
        look(&pair(primary, shadow, None), &Rules::default(), LIMIT)
    }

    fn ended(end: AnswerEnd) -> Answer {
        Answer { end, status: 0, ..answer("") }
    }

    fn after(ms: u64) -> Answer {
        Answer { head_after: Duration::from_millis(ms), whole_after: Duration::from_millis(ms), ..answer("") }
    }

    #[test]
    fn both_whole_are_compared_and_neither_failed() {
        let sight =
            look(&pair(json("{\"a\":1}"), json("{\"a\":2}"), Some(json("{\"a\":1}"))), &Rules::default(), LIMIT);
        assert_eq!(sight.failed, Some(Sides { shadow: false, primary: false }));
        assert!(!sight.shadow.unwrap().is_empty());
        assert!(sight.noise.unwrap().is_empty());
    }

    #[test]
    fn failures_are_told_apart_by_side_and_what_was_broken_off_says_nothing() {
        let failed = seen(answer(""), ended(AnswerEnd::Failed("reset")));
        assert_eq!(failed.failed, Some(Sides { shadow: true, primary: false }));
        assert!(failed.shadow.is_none() && failed.slow.is_none());
        let reverse = seen(Answer { status: 503, ..answer("x") }, answer("y"));
        assert_eq!(reverse.failed, Some(Sides { shadow: false, primary: true }));
        assert!(reverse.shadow.is_none(), "a failed primary is no measure");
        assert_eq!(seen(answer(""), ended(AnswerEnd::Aborted)).failed, None);
        assert_eq!(seen(ended(AnswerEnd::Aborted), answer("")).failed, None);
    }

    #[test]
    fn slow_is_who_answers_late_while_the_other_does_not() {
        assert_eq!(seen(after(5), after(300)).slow, Some(Sides { shadow: true, primary: false }));
        assert_eq!(seen(after(300), after(5)).slow, Some(Sides { shadow: false, primary: true }));
        assert_eq!(look(&pair(after(5), after(300), None), &Rules::default(), None).slow, None);
        let given_up = Answer { end: AnswerEnd::TimedOut, ..after(5_000) };
        let sight = seen(after(5), given_up.clone());
        assert_eq!(sight.slow, Some(Sides { shadow: true, primary: false }));
        assert_eq!(sight.failed, Some(Sides { shadow: true, primary: false }));
        assert_eq!(seen(after(9_000), given_up).failed, None, "the primary took longer still");
    }
}
