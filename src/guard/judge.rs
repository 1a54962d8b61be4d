//! One candidate revision on trial.
//!
//! ```text
//!             failures of both sides, one by one
//!                          |
//!      server   slow   client   abandoned     four comparisons, each with what it tolerates
//!            \     \      /     /
//!             average of e-values  >= 1/alpha  and at least three of its own failures  ->  Fail
//!
//!      the same with the sides exchanged       ->  an alarm: stable is the bad one
//! ```
//!
//! There is no Pass: a candidate that isn't found guilty goes on being watched.

use std::collections::HashSet;
use std::net::SocketAddr;

use http::HeaderValue;

use crate::analysis::{Comparison, RatioTally, Side, average};
use crate::model::FailureKind;

/// The chance that a candidate revision is ever drained though it is no worse than tolerated.
pub const ALPHA: f64 = 1e-4;
/// A verdict needs this many failures of the accused, and on a sticky service as many clients.
const FAILURES_MIN: u64 = 3;
/// Clients of a sticky service whose failure was counted. When there are more, none is counted any more: a client's
/// second failure would be counted as if it had been drawn anew.
const KEYS_MAX: usize = 65_536;

/// A failed first attempt of a request that was sent to one of the two sides at random.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub side: Side,
    pub kind: FailureKind,
    /// Probability that the request went to the candidate, of the two sides.
    pub share: f64,
    /// The client's key on a sticky service.
    pub key: Option<u64>,
    pub request_id: HeaderValue,
    pub endpoint: Option<SocketAddr>,
    pub unix_ms: u64,
}

/// What the judge says after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Undecided,
    /// The candidate fails more often than tolerated: [`Judge::evidence`] says why.
    Fail,
}

/// Stable fails more often than tolerated, as if it were the candidate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Alarm {
    pub e_value: f64,
}

/// What a verdict rests on. Everything in it can be computed again from the failures.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// Average of the four; at least `1 / alpha` in a verdict.
    pub e_value: f64,
    pub alpha: f64,
    pub kinds: [KindEvidence; 4],
    /// The one that weighs most.
    pub weightiest: FailureKind,
    /// All of the candidate's failures of the weightiest kind came from this endpoint.
    pub only_endpoint: Option<SocketAddr>,
    pub first_request: Option<HeaderValue>,
    pub last_request: Option<HeaderValue>,
    pub first_unix_ms: u64,
    pub last_unix_ms: u64,
    /// On a sticky service: how many clients the candidate failed.
    pub clients: Option<u64>,
}

impl Evidence {
    /// Leaves out what failures of one kind say.
    pub(super) fn set_aside(&mut self, kind: FailureKind) {
        let others = self.kinds.iter().filter(|part| part.kind != kind);
        self.e_value = others.clone().map(|part| part.e_value).sum::<f64>() / self.kinds.len() as f64;
        let weightiest = others.max_by(|a, b| a.e_value.total_cmp(&b.e_value));
        self.weightiest = weightiest.map_or(self.weightiest, |part| part.kind);
    }
}

/// One comparison's part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KindEvidence {
    pub kind: FailureKind,
    pub candidate: u64,
    pub stable: u64,
    pub e_value: f64,
    /// How many times as often as stable the candidate fails: the best guess, where there is one.
    pub ratio: Option<f64>,
    /// And at least, with 95 % confidence whenever one looks; 0 when nothing is known.
    pub ratio_at_least: f64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Judge {
    alpha: f64,
    sides: [Accused; 2],
    tallies: [RatioTally; 4],
    /// Keys whose failure was counted, by kind.
    keys: HashSet<(FailureKind, u64)>,
}

/// One side as the accused: the candidate for a verdict, stable for an alarm.
#[derive(Debug)]
struct Accused {
    comparisons: [Comparison; 4],
    failures: [u64; 4],
    clients: HashSet<u64>,
    traces: [Trace; 4],
}

/// Where and when a side's failures of one kind happened.
#[derive(Debug, Clone, Default)]
struct Trace {
    first: Option<(HeaderValue, u64)>,
    last: Option<(HeaderValue, u64)>,
    endpoint: Option<SocketAddr>,
    several_endpoints: bool,
}

impl Judge {
    /// A trial at level `alpha`; [`ALPHA`] unless there is a reason.
    #[must_use]
    pub fn new(alpha: f64) -> Self {
        Self::resumed(alpha, [0; 4])
    }

    /// Goes on after a restart, with the failures counted before, by kind: the level holds over the whole life.
    #[must_use]
    pub fn resumed(alpha: f64, counted: [u64; 4]) -> Self {
        let accused = || Accused::new(counted);
        Self { alpha, sides: [accused(), accused()], tallies: Default::default(), keys: HashSet::new() }
    }

    /// Failures counted over the whole life, of both sides, by kind.
    #[must_use]
    pub fn counted(&self) -> [u64; 4] {
        FailureKind::ALL.map(|kind| self.sides[1].comparisons[index(kind)].failures())
    }

    /// What is known so far is about another comparison. The level holds over the whole life: the failures that were counted
    /// go on counting as such, and whoever was drawn once isn't drawn anew.
    pub fn begin_anew(&mut self) {
        let counted = self.counted();
        self.sides = [Accused::new(counted), Accused::new(counted)];
        self.tallies = Default::default();
    }

    /// An alarm was heard: another one takes new evidence.
    pub fn restart_alarm(&mut self) {
        self.sides[0] = Accused::new([0; 4]);
    }

    /// The evidence that the candidate fails more often in this way; 1 when there is none.
    #[must_use]
    pub fn e_value_of(&self, kind: FailureKind) -> f64 {
        self.sides[1].comparisons[index(kind)].e_value()
    }

    /// Failures so far, in the order of [`FailureKind::ALL`].
    #[must_use]
    pub fn tallies(&self) -> &[RatioTally; 4] {
        &self.tallies
    }

    /// All evidence against the candidate.
    #[must_use]
    pub fn e_value(&self) -> f64 {
        self.sides[1].e_value()
    }

    /// Counts a failure and says what follows from all so far.
    pub fn observe(&mut self, failure: &Failure) -> (Verdict, Option<Alarm>) {
        if !self.is_new(failure) {
            return (Verdict::Undecided, None);
        }
        let kind = index(failure.kind);
        self.tallies[kind].observe(failure.side, failure.share);
        let [stable, candidate] = &mut self.sides;
        candidate.comparisons[kind].observe(failure.side, failure.share);
        stable.comparisons[kind].observe(other(failure.side), 1.0 - failure.share);
        match failure.side {
            Side::Candidate => candidate.failed(failure),
            Side::Stable => stable.failed(failure),
        }
        let verdict = match &self.sides[1] {
            accused if accused.is_guilty(self.alpha, failure.key.is_some()) => Verdict::Fail,
            _ => Verdict::Undecided,
        };
        let alarmed = self.sides[0].is_guilty(self.alpha, failure.key.is_some());
        (verdict, alarmed.then(|| Alarm { e_value: self.sides[0].e_value() }))
    }

    /// A client of a sticky service was drawn once, so it counts once for each kind.
    fn is_new(&mut self, failure: &Failure) -> bool {
        let Some(key) = failure.key else { return true };
        self.keys.len() < KEYS_MAX && self.keys.insert((failure.kind, key))
    }

    /// What is known so far.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        let candidate = &self.sides[1];
        let kinds = FailureKind::ALL.map(|kind| {
            let tally = &self.tallies[index(kind)];
            let (failed, stable) = tally.failures();
            KindEvidence {
                kind,
                candidate: failed,
                stable,
                e_value: candidate.comparisons[index(kind)].e_value(),
                ratio: tally.estimate(),
                ratio_at_least: tally.lower(0.05),
            }
        });
        let weightiest =
            kinds.iter().max_by(|a, b| a.e_value.total_cmp(&b.e_value)).map_or(FailureKind::Server, |k| k.kind);
        let trace = &candidate.traces[index(weightiest)];
        Evidence {
            e_value: candidate.e_value(),
            alpha: self.alpha,
            kinds,
            weightiest,
            only_endpoint: trace.endpoint.filter(|_| !trace.several_endpoints),
            first_request: trace.first.as_ref().map(|(request, _)| request.clone()),
            last_request: trace.last.as_ref().map(|(request, _)| request.clone()),
            first_unix_ms: trace.first.as_ref().map_or(0, |(_, at)| *at),
            last_unix_ms: trace.last.as_ref().map_or(0, |(_, at)| *at),
            clients: (!candidate.clients.is_empty()).then_some(candidate.clients.len() as u64),
        }
    }
}

impl Accused {
    fn new(counted: [u64; 4]) -> Self {
        Self {
            comparisons: FailureKind::ALL.map(|kind| Comparison::resumed(kind.tolerated(), counted[index(kind)])),
            failures: [0; 4],
            clients: HashSet::new(),
            traces: Default::default(),
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.failures[index(failure.kind)] += 1;
        if let Some(key) = failure.key.filter(|_| self.clients.len() < KEYS_MAX) {
            self.clients.insert(key);
        }
        let trace = &mut self.traces[index(failure.kind)];
        let seen = (failure.request_id.clone(), failure.unix_ms);
        trace.first.get_or_insert_with(|| seen.clone());
        trace.last = Some(seen);
        trace.several_endpoints |= trace.endpoint.is_some() && trace.endpoint != failure.endpoint;
        trace.endpoint = failure.endpoint;
    }

    fn e_value(&self) -> f64 {
        average(&self.comparisons)
    }

    fn is_guilty(&self, alpha: f64, sticky: bool) -> bool {
        self.failures.iter().sum::<u64>() >= FAILURES_MIN
            && (!sticky || self.clients.len() as u64 >= FAILURES_MIN)
            && self.e_value() >= 1.0 / alpha
    }
}

fn index(kind: FailureKind) -> usize {
    match kind {
        FailureKind::Server => 0,
        FailureKind::Slow => 1,
        FailureKind::Client => 2,
        FailureKind::Abandoned => 3,
    }
}

fn other(side: Side) -> Side {
    match side {
        Side::Stable => Side::Candidate,
        Side::Candidate => Side::Stable,
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn failure(side: Side, kind: FailureKind) -> Failure {
        Failure {
            side,
            kind,
            share: 0.05,
            key: None,
            request_id: HeaderValue::from_static("1"),
            endpoint: None,
            unix_ms: 1_000,
        }
    }

    /// Failures of the candidate alone until it is found guilty.
    fn failures_until_guilty(judge: &mut Judge, mut next: impl FnMut(u64) -> Failure) -> u64 {
        let guilty = (1..1000).find(|n| matches!(judge.observe(&next(*n)).0, Verdict::Fail));
        guilty.expect("a candidate that only fails is found guilty")
    }

    #[test]
    fn a_dead_candidate_is_guilty_within_six_failures() {
        for kind in [FailureKind::Server, FailureKind::Slow] {
            let count = failures_until_guilty(&mut Judge::new(ALPHA), |_| failure(Side::Candidate, kind));
            assert_eq!(count, 6, "{kind:?}");
        }
        for kind in [FailureKind::Client, FailureKind::Abandoned] {
            let count = failures_until_guilty(&mut Judge::new(ALPHA), |_| failure(Side::Candidate, kind));
            assert!((7..=10).contains(&count), "{kind:?}: {count}");
        }
    }

    #[test]
    fn a_client_of_a_sticky_service_counts_once() {
        let mut judge = Judge::new(ALPHA);
        for _ in 0..100 {
            let again = Failure { key: Some(7), ..failure(Side::Candidate, FailureKind::Server) };
            assert_eq!(judge.observe(&again).0, Verdict::Undecided);
        }
        let count = failures_until_guilty(&mut judge, |n| Failure {
            key: Some(100 + n),
            ..failure(Side::Candidate, FailureKind::Server)
        });
        assert_eq!(count, 5);
    }

    /// The share of runs in which a tolerable candidate of a sticky service is found guilty. A client stays where it was
    /// drawn, and some clients fail again and again; `once`: what it fails with later is told to the judge as its own.
    fn sticky_false_alarms(runs: usize, once: bool) -> f64 {
        let (mut rng, share, clients) = (StdRng::seed_from_u64(20_261_121), 0.05, 40);
        // As often as tolerated: twice as many of its clients meet a failure, as of stable's.
        let found = |_: &usize| {
            let mut judge = Judge::new(0.01);
            let mut sides = vec![None; clients];
            (0..60_u64).any(|n| {
                // The square of a uniform number: the first ones fail most often.
                let client = (rng.random::<f64>().powi(2) * clients as f64) as usize;
                let drawn =
                    || if rng.random_bool(2.0 * share / (1.0 + share)) { Side::Candidate } else { Side::Stable };
                let side = *sides[client].get_or_insert_with(drawn);
                let key = if once { client as u64 } else { 1_000 + n };
                let seen = Failure { share, key: Some(key), ..failure(side, FailureKind::Server) };
                judge.observe(&seen).0 == Verdict::Fail
            })
        };
        (0..runs).filter(found).count() as f64 / runs as f64
    }

    #[test]
    fn twenty_thousand_tolerable_candidates_of_sticky_services_raise_fewer_false_alarms_than_the_level() {
        let alarms = sticky_false_alarms(20_000, true);
        assert!(alarms < 0.01, "{alarms}");
        // Were a client counted each time, its draw would count each time: that is what the rule is for.
        let alarms = sticky_false_alarms(1_000, false);
        assert!(alarms > 0.02, "{alarms}");
    }

    #[test]
    fn clients_beyond_the_table_are_counted_on_neither_side() {
        let mut judge = Judge::new(ALPHA);
        judge.keys.extend((0..KEYS_MAX as u64).map(|key| (FailureKind::Server, key)));
        for side in [Side::Candidate, Side::Stable] {
            judge.observe(&Failure { key: Some(u64::MAX), ..failure(side, FailureKind::Server) });
        }
        assert_eq!(judge.tallies[0].failures(), (0, 0));
    }

    #[test]
    fn beside_something_else_evidence_begins_anew_and_places_no_fresh_stake() {
        let mut judge = Judge::new(ALPHA);
        for n in 0..5 {
            judge.observe(&Failure { key: Some(n), ..failure(Side::Candidate, FailureKind::Server) });
        }
        assert!(judge.e_value() > 100.0);
        judge.begin_anew();
        assert_eq!((judge.tallies[0].failures(), judge.counted()), ((0, 0), [5, 0, 0, 0]));
        assert!(judge.e_value() <= 1.0, "what is left of the stake: {}", judge.e_value());
        judge.observe(&Failure { key: Some(0), ..failure(Side::Candidate, FailureKind::Server) });
        assert_eq!(judge.tallies[0].failures(), (0, 0), "a client that was drawn once isn't drawn anew");
    }

    /// The share of runs in which a candidate, within what is tolerated beside each of two, is ever found guilty.
    #[test]
    fn a_thousand_tolerable_candidates_beside_one_and_then_another_raise_fewer_false_alarms_than_the_level() {
        let mut rng = StdRng::seed_from_u64(7);
        let guilty = (0..1_000).filter(|_| {
            let mut judge = Judge::new(0.05);
            (0..4).any(|turn| {
                judge.begin_anew();
                let share = if turn % 2 == 0 { 0.5 } else { 0.05 };
                // Twice as often as the other: all that is tolerated.
                let is_ours = 2.0 * share / (1.0 + share);
                (0..60).any(|_| {
                    let side = if rng.random_bool(is_ours) { Side::Candidate } else { Side::Stable };
                    judge.observe(&Failure { share, ..failure(side, FailureKind::Server) }).0 == Verdict::Fail
                })
            })
        });
        let alarms = guilty.count() as f64 / 1_000.0;
        assert!(alarms < 0.05, "{alarms}");
    }

    #[test]
    fn both_failing_alike_drains_nobody_and_raises_no_alarm() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut judge = Judge::new(ALPHA);
        for _ in 0..20_000 {
            let side = if rng.random_bool(0.05) { Side::Candidate } else { Side::Stable };
            let kind = FailureKind::ALL[rng.random_range(0..4)];
            assert_eq!(judge.observe(&failure(side, kind)), (Verdict::Undecided, None));
        }
    }

    #[test]
    fn a_stable_that_alone_fails_raises_an_alarm_and_drains_nobody() {
        let mut judge = Judge::new(ALPHA);
        let alarmed = (0..2000).find(|_| {
            let (verdict, alarm) = judge.observe(&failure(Side::Stable, FailureKind::Server));
            assert_eq!(verdict, Verdict::Undecided);
            alarm.is_some()
        });
        assert!(alarmed.is_some());
    }

    #[test]
    fn the_evidence_names_what_failed_where_and_how_much_more_often() {
        let mut judge = Judge::new(ALPHA);
        let endpoint: SocketAddr = "127.0.0.1:9003".parse().unwrap();
        judge.observe(&failure(Side::Stable, FailureKind::Server));
        let mut n = 0;
        failures_until_guilty(&mut judge, |count| {
            n = count;
            Failure {
                request_id: HeaderValue::from(count),
                unix_ms: 1_000 + count,
                endpoint: Some(endpoint),
                ..failure(Side::Candidate, FailureKind::Server)
            }
        });
        let evidence = judge.evidence();
        assert!(evidence.e_value >= 1e4);
        assert_eq!(evidence.weightiest, FailureKind::Server);
        assert_eq!((evidence.kinds[0].candidate, evidence.kinds[0].stable), (n, 1));
        assert!(evidence.kinds[0].ratio_at_least > 2.0);
        let mut without = judge.evidence();
        without.set_aside(FailureKind::Slow);
        assert!(without.e_value >= 1e4 && without.weightiest == FailureKind::Server);
        without.set_aside(FailureKind::Server);
        assert!(without.e_value < 1.0 && without.weightiest != FailureKind::Server);
        assert_eq!(evidence.only_endpoint, Some(endpoint));
        assert_eq!(
            (evidence.first_request, evidence.last_request),
            (Some(HeaderValue::from(1)), Some(HeaderValue::from(n)))
        );
        assert_eq!((evidence.first_unix_ms, evidence.last_unix_ms), (1_001, 1_000 + n));
    }
}
