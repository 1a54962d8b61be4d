//! The trial of one revision of a candidate: its judge, and one more for each route that is judged by itself.

use std::collections::{HashMap, HashSet};

use super::judge::{Alarm, Evidence, Failure, Judge, Verdict};
use crate::analysis::{RatioTally, Side};
use crate::model::{FailureKind, RouteId};

/// Failures of one route.
#[derive(Debug, Clone, Copy, Default)]
struct Stratum {
    candidate: [u64; 4],
    stable: [u64; 4],
}

/// The route that weighs most in a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weightiest {
    pub(super) route: Option<RouteId>,
    pub(super) candidate: u64,
    pub(super) stable: u64,
}

/// Who has found the candidate guilty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guilty {
    /// By the judge of all.
    OfAll,
    /// By the judge of this route.
    OnRoute(RouteId),
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Trial {
    all: Judge,
    alpha: f64,
    routes: HashMap<RouteId, Judge>,
    strata: HashMap<Option<RouteId>, Stratum>,
}

impl Trial {
    /// At level `alpha` in all, `counted` failures after it began. Half of the level is for routes that are judged by
    /// themselves, where there are any.
    pub(super) fn new(alpha: f64, judged: &[RouteId], counted: [u64; 4]) -> Self {
        let all = if judged.is_empty() { alpha } else { alpha / 2.0 };
        let (all, routes, strata) = (Judge::resumed(all, counted), HashMap::new(), HashMap::new());
        let mut trial = Self { all, alpha, routes, strata };
        trial.judge_routes(judged);
        trial
    }

    /// The candidate is compared with something else from now on. The level holds over all of it: no fresh stake.
    pub(super) fn begin_anew(&mut self) {
        self.all.begin_anew();
        self.routes.values_mut().for_each(Judge::begin_anew);
        self.strata.clear();
    }

    /// Follows a new file: what is known of a route stays with it, wherever it stands now.
    pub(super) fn take_up(&mut self, present: &[RouteId], judged: &[RouteId]) {
        let present: HashSet<&RouteId> = present.iter().collect();
        self.strata.retain(|route, _| route.as_ref().is_none_or(|route| present.contains(route)));
        self.routes.retain(|route, _| judged.contains(route));
        self.judge_routes(judged);
    }

    fn judge_routes(&mut self, judged: &[RouteId]) {
        let each = self.alpha / 2.0 / judged.len() as f64;
        // A route's judge may have counted as many as the judge of all: a stake too small is never wrong.
        let counted = self.all.counted();
        for route in judged {
            self.routes.entry(*route).or_insert_with(|| Judge::resumed(each, counted));
        }
    }

    pub(super) fn observe(&mut self, failure: &Failure, route: Option<RouteId>) -> (Option<Guilty>, Option<Alarm>) {
        let stratum = self.strata.entry(route).or_default();
        let kind = failure.kind as usize;
        match failure.side {
            Side::Candidate => stratum.candidate[kind] += 1,
            Side::Stable => stratum.stable[kind] += 1,
        }
        let (verdict, alarm) = self.all.observe(failure);
        if verdict == Verdict::Fail {
            return (Some(Guilty::OfAll), alarm);
        }
        let own = route.and_then(|route| Some((route, self.routes.get_mut(&route)?)));
        let found = own
            .and_then(|(route, judge)| (judge.observe(failure).0 == Verdict::Fail).then_some(Guilty::OnRoute(route)));
        (found, alarm)
    }

    /// The route with most of the candidate's failures of a kind.
    pub(super) fn weightiest_route(&self, kind: FailureKind) -> Option<Weightiest> {
        let kind = kind as usize;
        let heaviest = self.strata.iter().max_by_key(|(route, stratum)| (stratum.candidate[kind], **route))?;
        let (route, stratum) = heaviest;
        let (candidate, stable) = (stratum.candidate[kind], stratum.stable[kind]);
        (candidate > 0).then_some(Weightiest { route: *route, candidate, stable })
    }

    pub(super) fn evidence(&self) -> Evidence {
        self.all.evidence()
    }

    /// What a verdict rests on.
    pub(super) fn evidence_of(&self, guilty: Guilty) -> Evidence {
        match guilty {
            Guilty::OfAll => self.all.evidence(),
            Guilty::OnRoute(route) => self.routes.get(&route).unwrap_or(&self.all).evidence(),
        }
    }

    pub(super) fn tallies(&self) -> &[RatioTally; 4] {
        self.all.tallies()
    }

    pub(super) fn counted(&self) -> [u64; 4] {
        self.all.counted()
    }

    pub(super) fn e_value(&self) -> f64 {
        self.all.e_value()
    }

    /// Its answers come late so much more often than stable's that those still awaited hardly come in time.
    pub(super) fn is_suspect(&self) -> bool {
        const SUSPECT_FROM: f64 = 10.0;
        self.all.e_value_of(FailureKind::Slow) >= SUSPECT_FROM
    }

    pub(super) fn restart_alarm(&mut self) {
        self.all.restart_alarm();
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::guard::ALPHA;

    fn route(name: &str) -> RouteId {
        RouteId::new(name)
    }

    fn failure(side: Side) -> Failure {
        let request_id = HeaderValue::from_static("1");
        Failure { side, kind: FailureKind::Server, share: 0.05, key: None, request_id, endpoint: None, unix_ms: 0 }
    }

    #[test]
    fn a_broken_route_is_found_by_its_own_judge_though_the_others_hide_it() {
        let run = |judged: &[RouteId]| {
            let mut trial = Trial::new(ALPHA, judged, [0; 4]);
            for n in 0..6_000 {
                // Both sides fail alike on most routes; on one, the candidate alone does, once in a while.
                let (side, route) = match n * 37 % 100 {
                    0..5 => (Side::Candidate, Some(route("/"))),
                    5 => (Side::Candidate, Some(route("/pay"))),
                    _ => (Side::Stable, Some(route("/"))),
                };
                if let (Some(found), _) = trial.observe(&failure(side), route) {
                    return Some(found);
                }
            }
            None
        };
        assert_eq!(run(&[]), None);
        assert_eq!(run(&[route("/pay")]), Some(Guilty::OnRoute(route("/pay"))));
        assert_eq!(run(&[route("/")]), None);
    }

    #[test]
    fn the_route_that_fails_most_is_named() {
        let mut trial = Trial::new(ALPHA, &[], [0; 4]);
        assert_eq!(trial.weightiest_route(FailureKind::Server), None);
        for (side, at) in [(Side::Stable, "/"), (Side::Stable, "/"), (Side::Candidate, "/pay"), (Side::Stable, "/pay")]
        {
            trial.observe(&failure(side), Some(route(at)));
        }
        let wanted = Weightiest { route: Some(route("/pay")), candidate: 1, stable: 1 };
        assert_eq!(trial.weightiest_route(FailureKind::Server), Some(wanted));
    }

    #[test]
    fn a_new_file_keeps_what_is_known_of_the_routes_that_stay_and_judges_those_it_names() {
        let (first, pay, gone) = (route("/"), route("/pay"), route("/gone"));
        let mut trial = Trial::new(ALPHA, &[gone], [0; 4]);
        for at in [pay, pay, gone] {
            trial.observe(&failure(Side::Candidate), Some(at));
        }
        trial.take_up(&[pay, first], &[pay]);
        assert!(!trial.strata.contains_key(&Some(gone)) && !trial.routes.contains_key(&gone));
        let known = Weightiest { route: Some(pay), candidate: 2, stable: 0 };
        assert_eq!(trial.weightiest_route(FailureKind::Server), Some(known));
        assert_eq!(trial.routes[&pay].counted(), [3, 0, 0, 0], "no fresh stake");
    }

    #[test]
    fn one_slow_answer_raises_no_suspicion_and_a_few_do() {
        let mut trial = Trial::new(ALPHA, &[], [0; 4]);
        let slow = Failure { kind: FailureKind::Slow, ..failure(Side::Candidate) };
        trial.observe(&slow, None);
        assert!(!trial.is_suspect());
        for _ in 0..2 {
            trial.observe(&slow, None);
        }
        assert!(trial.is_suspect());
    }
}
