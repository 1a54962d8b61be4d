//! From the weights that are wanted to those that requests see.

use crate::model::{Drain, Weight};

/// What decides about one backend's share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) wanted: Weight,
    /// It has somebody to answer.
    pub(super) available: bool,
    pub(super) drain: Option<&'a Drain>,
}

impl Claim<'_> {
    fn is_drained_by_person(&self) -> bool {
        self.drain.is_some_and(|drain| drain.by.is_some())
    }

    /// Its share, where `total` is what all ask for.
    fn weight(&self, total: f64) -> Weight {
        match self.drain {
            _ if !self.available => Weight::ZERO,
            None => self.wanted,
            // Of nothing it gets nothing: a trial is no reason to send requests where nobody wants them.
            Some(Drain { probation: Some(share), .. }) if !self.wanted.is_zero() => {
                Weight::new(share * total).unwrap_or(self.wanted)
            }
            Some(_) => Weight::ZERO,
        }
    }
}

/// The weights that requests see. Whoever can't or mustn't answer yields its share to the others, and if nobody is left
/// stable gets everything, whatever its weight. The last one that could answer is never taken out: rather a backend
/// that the guard has drained than none.
pub(super) fn effective(claims: &[Claim<'_>], stable: usize) -> Vec<Weight> {
    let total: f64 = claims.iter().map(|claim| claim.wanted.value()).sum();
    let weights: Vec<Weight> = claims.iter().map(|claim| claim.weight(total)).collect();
    if weights.iter().any(|weight| !weight.is_zero()) {
        return weights;
    }
    let takes_all = |chosen: usize| {
        let one = Weight::new(1.0).expect("1 is a weight");
        (0..claims.len()).map(|index| if index == chosen { one } else { Weight::ZERO }).collect()
    };
    if claims[stable].available && claims[stable].drain.is_none() {
        return takes_all(stable);
    }
    let last = claims.iter().position(|c| c.available && !c.is_drained_by_person() && !c.wanted.is_zero());
    last.map_or(weights, takes_all)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn drain(by: Option<&str>, probation: Option<f64>) -> Drain {
        Drain {
            service: "shop".parse().unwrap(),
            backend: "canary".parse().unwrap(),
            revision: "1".into(),
            by: by.map(str::to_owned),
            at: SystemTime::UNIX_EPOCH,
            reason: String::new(),
            times: 1,
            probation,
            until: None,
        }
    }

    fn weights(claims: &[(f64, bool, Option<&Drain>)]) -> Vec<f64> {
        let claims: Vec<_> = claims
            .iter()
            .map(|(wanted, available, drain)| Claim {
                wanted: Weight::new(*wanted).unwrap(),
                available: *available,
                drain: *drain,
            })
            .collect();
        effective(&claims, 0).into_iter().map(Weight::value).collect()
    }

    #[test]
    fn who_can_not_or_must_not_answer_yields_its_share() {
        let guards = drain(None, None);
        assert_eq!(weights(&[(90.0, true, None), (10.0, true, None)]), [90.0, 10.0]);
        assert_eq!(weights(&[(90.0, true, None), (10.0, false, None)]), [90.0, 0.0]);
        assert_eq!(weights(&[(90.0, true, None), (10.0, true, Some(&guards))]), [90.0, 0.0]);
        assert_eq!(weights(&[(90.0, false, None), (10.0, true, None)]), [0.0, 10.0]);
    }

    #[test]
    fn a_trial_gets_its_share_of_all_and_nothing_where_nobody_wants_it() {
        let trial = drain(None, Some(0.01));
        assert_eq!(weights(&[(90.0, true, None), (10.0, true, Some(&trial))]), [90.0, 1.0]);
        assert_eq!(weights(&[(90.0, true, None), (0.0, true, Some(&trial))]), [90.0, 0.0]);
    }

    #[test]
    fn stable_takes_everything_when_nobody_else_is_left() {
        let guards = drain(None, None);
        assert_eq!(weights(&[(0.0, true, None), (100.0, true, Some(&guards))]), [1.0, 0.0]);
        assert_eq!(weights(&[(0.0, true, None), (100.0, false, None)]), [1.0, 0.0]);
    }

    #[test]
    fn the_last_that_can_answer_is_asked_though_the_guard_has_drained_it_but_not_if_a_person_has() {
        let (guards, persons) = (drain(None, None), drain(Some("ada"), None));
        assert_eq!(weights(&[(90.0, false, None), (10.0, true, Some(&guards))]), [0.0, 1.0]);
        assert_eq!(weights(&[(90.0, false, None), (10.0, true, Some(&persons))]), [0.0, 0.0]);
        assert_eq!(weights(&[(90.0, true, Some(&persons)), (10.0, true, None)]), [0.0, 10.0]);
    }
}
