//! Which endpoint is ejected for what its requests came to, and for how long. Pure: it sees numbers and says a word.
//!
//! An endpoint that refuses connections is bad whatever the others do. Bad answers say less: when a database that all
//! endpoints share has a bad minute, every one of them fails, and to eject any would only burden the rest. So they count
//! against an endpoint only beside others that are fine *in the same time*: other endpoints of its backend, or, for a
//! backend that isn't stable, another backend as a whole. Stable as a whole is never left for bad answers: what does
//! better beside it is for people to judge. Nor is a backend that the guard judges: to take its last endpoint away would
//! take the guard's evidence away, too.
//!
//! Connections that take too long are between the two. A machine that is gone takes none, and no backend can be kept for
//! that; but neither does a network, or a machine of all of them, that stands still for a second. So they count as bad
//! answers do, beside others that answer after it; those of any backend.
//!
//! Percentages of a set ("at most 10 % may be ejected") mean nothing for two or three endpoints. The rule is absolute
//! instead: the last available endpoint of a service stays.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use super::window::Window;
use crate::analysis::{Attempts, chance_if_alike};
use crate::config::EjectionConfig;

/// Who fails more often than this can't be a witness against another.
const FINE_RATIO_MAX: f64 = 0.2;
/// A span with fewer attempts says nothing about the part that failed.
const FINE_ATTEMPTS_MIN: u64 = 5;
/// An endpoint is bad, rather than unlucky, if there is less chance than this that it would look so. Five failures in a
/// row take fourteen answers of others; eight take eight.
const CHANCE_MAX: f64 = 1e-4;
/// Others must be fine in every span from this one up.
pub(super) const LATELY_MS: u64 = 1_000;

/// One endpoint, as the decision sees it.
#[derive(Debug, Clone)]
pub(super) struct EndpointSight<'a> {
    pub(super) id: u64,
    pub(super) available: bool,
    /// In a row, of which so many at the end were failed connects, of which so many took too long.
    pub(super) failures: u32,
    pub(super) refusals: u32,
    pub(super) unreached: u32,
    pub(super) totals: Attempts,
    pub(super) window: &'a Window,
    /// Since it failed too often in a row.
    pub(super) suspicion: Option<&'a Suspicion>,
}

/// One backend and its endpoints.
#[derive(Debug)]
pub(super) struct BackendSight<'a> {
    /// It may be left as a whole for bad answers: it isn't stable, and no guard judges it.
    pub(super) dispensable: bool,
    /// It gets requests by chance, so that its endpoints can stand in for others.
    pub(super) weighted: bool,
    pub(super) endpoints: Vec<EndpointSight<'a>>,
}

/// Why an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cause {
    /// So many connects failed in a row.
    Refused(u32),
    /// So many attempts failed in a row.
    Consecutive(u32),
    /// So much of what ended failed.
    Ratio(Attempts),
    /// The request that tried it out failed.
    Trial,
}

impl Cause {
    /// Stable, for metrics.
    #[must_use]
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Consecutive(_) => "consecutive",
            Self::Ratio(_) => "ratio",
            Self::Trial => "trial",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(count) => write!(f, "{count} connects failed in a row"),
            Self::Consecutive(count) => write!(f, "{count} requests failed in a row"),
            Self::Ratio(attempts) => {
                write!(f, "{} of {} requests failed", attempts.failed, attempts.failed + attempts.answered)
            }
            Self::Trial => write!(f, "the request that tried it out failed"),
        }
    }
}

/// What all endpoints of a service had come to when one of them had failed too often in a row: what the others do from
/// then on is the evidence. What they did before would mislead, since it may have been before a trouble that all share.
#[derive(Debug)]
pub(super) struct Suspicion {
    pub(super) at_ms: u64,
    /// By endpoint: snapshots come and go meanwhile. One that is new has come to nothing before.
    pub(super) totals: HashMap<u64, Attempts>,
}

impl Suspicion {
    /// What an endpoint has come to since.
    fn since(&self, it: &EndpointSight<'_>) -> Attempts {
        it.totals.since(self.totals.get(&it.id).copied().unwrap_or_default())
    }
}

/// Whether endpoint `endpoint` of backend `backend` is to be ejected now.
pub(super) fn cause(
    config: &EjectionConfig,
    service: &[BackendSight<'_>],
    (backend, endpoint): (usize, usize),
    now_ms: u64,
) -> Option<Cause> {
    let own = &service[backend];
    let it = &own.endpoints[endpoint];
    if !it.available {
        return None;
    }
    let siblings = || own.endpoints.iter().filter(|other| other.id != it.id && other.available);
    let elsewhere = || service.iter().enumerate().filter(|(index, other)| *index != backend && other.weighted);
    if it.refusals.saturating_sub(it.unreached) >= config.consecutive {
        let mut others = siblings().chain(elsewhere().flat_map(|(_, other)| &other.endpoints));
        return others.any(|other| other.available && other.refusals == 0).then_some(Cause::Refused(it.refusals));
    }
    if it.failures >= config.consecutive {
        let suspicion = it.suspicion?;
        let row = Attempts { answered: 0, failed: it.failures.into() };
        let witness = |other: &EndpointSight<'_>| Witness::new(other, suspicion.since(other), suspicion.at_ms);
        let beside: Vec<_> = siblings().map(witness).collect();
        let is_better = |(_, other): (usize, &BackendSight<'_>)| {
            let available = other.endpoints.iter().filter(|other| other.available);
            stand_against(row, &[Witness::sum(&available.map(witness).collect::<Vec<_>>())])
        };
        let is_unreached = it.refusals >= config.consecutive;
        let may_go = own.dispensable || is_unreached;
        let instead = stand_against(row, &beside) || (may_go && elsewhere().any(is_better));
        let cause = if is_unreached { Cause::Refused(it.refusals) } else { Cause::Consecutive(it.failures) };
        return instead.then_some(cause);
    }
    let begin_ms = now_ms.saturating_sub(milliseconds(config.window));
    let recent = it.window.since(begin_ms, it.totals);
    let ended = recent.answered + recent.failed;
    if ended < config.min_requests || (recent.failed as f64) < config.ratio * ended as f64 {
        return None;
    }
    let witness = |other: &EndpointSight<'_>| {
        Witness::new(other, other.window.since(begin_ms, other.totals), now_ms.saturating_sub(LATELY_MS))
    };
    stand_against(recent, &siblings().map(witness).collect::<Vec<_>>()).then_some(Cause::Ratio(recent))
}

/// What another endpoint did in the same time.
struct Witness {
    since: Attempts,
    /// In spans of all lengths, from the longest remembered.
    spans: Vec<Attempts>,
}

impl Witness {
    fn new(it: &EndpointSight<'_>, since: Attempts, begin_ms: u64) -> Self {
        Self { since, spans: it.window.spans(begin_ms, it.totals).collect() }
    }

    fn sum(each: &[Self]) -> Self {
        let longest = each.iter().map(|it| it.spans.len()).max().unwrap_or(0);
        let spans = (0..longest).rev().map(|nth| {
            // By distance from the end, where spans are alike; who remembers less has had less.
            let of = |it: &Self| it.spans.iter().rev().nth(nth).or(it.spans.first()).copied().unwrap_or_default();
            each.iter().map(of).sum()
        });
        Self { since: each.iter().map(|it| it.since).sum(), spans: spans.collect() }
    }

    /// In no span did more than a fifth fail: what comes and goes, and now happens to be gone, is no health.
    fn is_fine(&self) -> bool {
        let bad = |it: &Attempts| {
            let ended = it.answered + it.failed;
            ended >= FINE_ATTEMPTS_MIN && it.failed as f64 > FINE_RATIO_MAX * ended as f64
        };
        !bad(&self.since) && !self.spans.iter().any(bad)
    }

    /// Fine, and so much better that it is no matter of luck.
    fn stands_against(&self, own: Attempts, chance_max: f64) -> bool {
        self.is_fine() && chance_if_alike(own, self.since) <= chance_max
    }
}

/// Whether others show that it is the endpoint that is bad: one of them, or all together.
fn stand_against(own: Attempts, others: &[Witness]) -> bool {
    // The more there are to choose from, the luckier is the luckiest.
    let each = CHANCE_MAX / others.len().max(1) as f64;
    Witness::sum(others).stands_against(own, CHANCE_MAX) || others.iter().any(|it| it.stands_against(own, each))
}

/// How long an endpoint stays away the `times`th time in a row; `chance`, from 0 to 1, makes it up to a tenth longer, so
/// that what failed together doesn't come back together.
pub(super) fn time_away(config: &EjectionConfig, times: u32, chance: f64) -> Duration {
    let time = config.time.saturating_mul(times.max(1)).min(config.time_max);
    time.mul_f64(1.0 + chance.clamp(0.0, 1.0) / 10.0)
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};

    use super::*;

    const CONFIG: EjectionConfig = EjectionConfig {
        consecutive: 5,
        ratio: 0.5,
        window: Duration::from_secs(10),
        min_requests: 20,
        time: Duration::from_secs(10),
        time_max: Duration::from_secs(300),
    };

    /// A service whose requests come and fail by chance, at a rate.
    struct Simulation {
        now_ms: u64,
        rng: StdRng,
        /// By backend: is it stable, its weight, its endpoints.
        backends: Vec<(bool, f64, Vec<Simulated>)>,
    }

    #[derive(Default)]
    struct Simulated {
        id: u64,
        fails: f64,
        refuses: bool,
        /// Whose connections take too long.
        silent: bool,
        away: bool,
        failures: u32,
        refusals: u32,
        unreached: u32,
        totals: Attempts,
        window: Window,
        suspicion: Option<Suspicion>,
    }

    impl Simulation {
        fn new(seed: u64, shape: &[(f64, usize)]) -> Self {
            let mut id = 0;
            let backends = shape.iter().enumerate().map(|(index, (weight, endpoints))| {
                let endpoints = (0..*endpoints).map(|_| {
                    id += 1;
                    Simulated { id, ..Simulated::default() }
                });
                (index == 0, *weight, endpoints.collect())
            });
            let mut it = Self { now_ms: 1_000, rng: StdRng::seed_from_u64(seed), backends: backends.collect() };
            it.note();
            it
        }

        fn note(&mut self) {
            let now_ms = self.now_ms;
            self.backends.iter_mut().flat_map(|b| &mut b.2).for_each(|e| e.window.note(now_ms, e.totals, 10_000));
        }

        fn fail(&mut self, backend: usize, fails: f64) {
            self.backends[backend].2.iter_mut().for_each(|e| e.fails = fails);
        }

        /// Runs for a time at so many requests a second; the first ejections in the order they came.
        fn run(&mut self, seconds: u64, per_second: u64) -> Vec<((usize, usize), Cause)> {
            let (mut ejected, begun_ms) = (Vec::new(), self.now_ms);
            for tick in 0..seconds * 10 {
                let requests = per_second * (tick + 1) / 10 - per_second * tick / 10;
                for nth in 0..requests {
                    self.now_ms = begun_ms + tick * 100 + nth * 100 / requests;
                    let at = self.request();
                    self.suspect(at);
                    // Otherwise nothing has changed that matters before the next tick.
                    let suspect = self.backends[at.0].2[at.1].failures >= CONFIG.consecutive;
                    if let Some(cause) = suspect.then(|| self.decide(at)).flatten() {
                        self.backends[at.0].2[at.1].away = true;
                        ejected.push((at, cause));
                    }
                }
                self.now_ms = begun_ms + (tick + 1) * 100;
                self.note();
                for at in self.places() {
                    if let Some(cause) = self.decide(at) {
                        self.backends[at.0].2[at.1].away = true;
                        ejected.push((at, cause));
                    }
                }
            }
            ejected
        }

        fn suspect(&mut self, at: (usize, usize)) {
            let totals = self.backends.iter().flat_map(|b| &b.2).map(|e| (e.id, e.totals)).collect();
            let now_ms = self.now_ms;
            let it = &mut self.backends[at.0].2[at.1];
            if it.failures < CONFIG.consecutive {
                it.suspicion = None;
            } else if it.suspicion.is_none() {
                it.suspicion = Some(Suspicion { at_ms: now_ms, totals });
            }
        }

        fn places(&self) -> Vec<(usize, usize)> {
            let each = self.backends.iter().enumerate();
            each.flat_map(|(b, backend)| (0..backend.2.len()).map(move |e| (b, e))).collect()
        }

        fn request(&mut self) -> (usize, usize) {
            let live = |b: &(bool, f64, Vec<Simulated>)| if b.2.iter().any(|e| !e.away) { b.1 } else { 0.0 };
            let total: f64 = self.backends.iter().map(live).sum();
            let mut left = self.rng.random::<f64>() * total;
            let mut backend = 0;
            for (index, b) in self.backends.iter().enumerate() {
                if live(b) > 0.0 {
                    backend = index;
                    left -= live(b);
                    if left < 0.0 {
                        break;
                    }
                }
            }
            let here: Vec<usize> =
                (0..self.backends[backend].2.len()).filter(|e| !self.backends[backend].2[*e].away).collect();
            let endpoint = here[self.rng.next_u64() as usize % here.len()];
            let failed = self.rng.random::<f64>();
            let it = &mut self.backends[backend].2[endpoint];
            if it.refuses || it.silent || failed < it.fails {
                it.totals.failed += 1;
                it.failures += 1;
                it.refusals = if it.refuses || it.silent { it.refusals + 1 } else { 0 };
                it.unreached = if it.silent { it.unreached + 1 } else { 0 };
            } else {
                it.totals.answered += 1;
                (it.failures, it.refusals, it.unreached) = (0, 0, 0);
            }
            (backend, endpoint)
        }

        fn decide(&self, at: (usize, usize)) -> Option<Cause> {
            let sights = self.backends.iter().map(|(stable, weight, endpoints)| BackendSight {
                dispensable: !*stable,
                weighted: *weight > 0.0,
                endpoints: endpoints.iter().map(sight).collect(),
            });
            cause(&CONFIG, &sights.collect::<Vec<_>>(), at, self.now_ms)
        }
    }

    fn sight(it: &Simulated) -> EndpointSight<'_> {
        EndpointSight {
            id: it.id,
            available: !it.away,
            failures: it.failures,
            refusals: it.refusals,
            unreached: it.unreached,
            totals: it.totals,
            window: &it.window,
            suspicion: it.suspicion.as_ref(),
        }
    }

    const SEEDS: u64 = 3;
    const RATES: [u64; 3] = [10, 100, 500];

    #[test]
    fn an_endpoint_that_refuses_is_ejected_whatever_the_others_do() {
        for seed in 0..SEEDS {
            let mut service = Simulation::new(seed, &[(1.0, 3)]);
            service.backends[0].2[1].refuses = true;
            service.backends[0].2[0].fails = 0.5;
            let ejected = service.run(20, 100);
            assert!(ejected.iter().any(|(at, cause)| *at == (0, 1) && *cause == Cause::Refused(5)), "{ejected:?}");
        }
    }

    #[test]
    fn a_backend_that_takes_no_connections_in_time_is_left_for_one_that_answers() {
        for (seed, stable) in (0..SEEDS).flat_map(|seed| [0, 1].map(|stable| (seed, stable))) {
            let mut service = Simulation::new(seed, &[(95.0, 1), (5.0, 1)]);
            service.run(20, 100);
            service.backends[stable].2[0].silent = true;
            let ejected = service.run(30, 100);
            assert!(matches!(ejected[..], [((at, 0), Cause::Refused(5..))] if at == stable), "{ejected:?}");
        }
    }

    #[test]
    fn connections_that_take_too_long_everywhere_eject_nobody() {
        for (seed, shape) in
            (0..SEEDS).flat_map(|seed| [[(95.0, 1), (5.0, 1)], [(1.0, 3), (1.0, 2)]].map(|s| (seed, s)))
        {
            let mut service = Simulation::new(seed, &shape);
            service.run(20, 500);
            // A moment in which the machine that they share stands still.
            service.backends.iter_mut().flat_map(|b| &mut b.2).for_each(|e| e.silent = true);
            assert_eq!(service.run(1, 500), [], "{shape:?}");
            service.backends.iter_mut().flat_map(|b| &mut b.2).for_each(|e| e.silent = false);
            assert_eq!(service.run(20, 500), [], "{shape:?}");
        }
    }

    #[test]
    fn an_endpoint_that_fails_beside_fine_ones_is_ejected_within_a_few_failures() {
        for (seed, rate) in (0..SEEDS).flat_map(|seed| RATES.map(|rate| (seed, rate))) {
            let mut service = Simulation::new(seed, &[(1.0, 3)]);
            assert_eq!(service.run(20, rate), []);
            service.backends[0].2[2].fails = 1.0;
            let ejected = service.run(20, rate);
            assert!(matches!(ejected[..], [((0, 2), Cause::Consecutive(5..=14))]), "{rate}/s {ejected:?}");
        }
    }

    #[test]
    fn a_candidate_with_one_endpoint_is_ejected_beside_a_fine_stable() {
        for (seed, rate) in (0..SEEDS).flat_map(|seed| RATES.map(|rate| (seed, rate))) {
            let mut service = Simulation::new(seed, &[(95.0, 2), (5.0, 1)]);
            assert_eq!(service.run(20, rate), []);
            service.fail(1, 1.0);
            let ejected = service.run(200, rate);
            assert!(matches!(ejected[..], [((1, 0), Cause::Consecutive(5..=7))]), "{rate}/s {ejected:?}");
        }
    }

    #[test]
    fn an_endpoint_that_fails_more_often_than_not_is_ejected() {
        for seed in 0..SEEDS {
            let mut service = Simulation::new(seed, &[(1.0, 4)]);
            service.run(20, 100);
            service.backends[0].2[0].fails = 0.65;
            let ejected = service.run(60, 100);
            assert_eq!(ejected.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [(0, 0)], "{ejected:?}");
        }
    }

    #[test]
    fn what_fails_alike_everywhere_ejects_nobody() {
        let shapes: [&[(f64, usize)]; 5] =
            [&[(1.0, 3)], &[(1.0, 20)], &[(95.0, 1), (5.0, 1)], &[(95.0, 3), (5.0, 1)], &[(1.0, 2), (1.0, 2)]];
        for (seed, rate) in (0..SEEDS).flat_map(|seed| RATES.map(|rate| (seed, rate))) {
            for (shape, fails) in shapes.iter().flat_map(|shape| [0.05, 0.5, 1.0].map(|fails| (*shape, fails))) {
                let mut service = Simulation::new(seed, shape);
                service.run(11, rate);
                (0..shape.len()).for_each(|backend| service.fail(backend, fails));
                assert_eq!(service.run(12, rate), [], "{shape:?} {fails} {rate}/s {seed}");
            }
        }
    }

    #[test]
    fn stable_is_never_left_for_bad_answers() {
        for (seed, fails) in (0..SEEDS).flat_map(|seed| [0.5, 1.0].map(|fails| (seed, fails))) {
            let mut service = Simulation::new(seed, &[(50.0, 2), (50.0, 2)]);
            service.run(20, 100);
            service.fail(0, fails);
            assert_eq!(service.run(30, 100), [], "{fails}");
        }
    }

    #[test]
    fn the_last_endpoint_of_a_service_stays() {
        let mut alone = Simulation::new(1, &[(1.0, 1)]);
        alone.backends[0].2[0].refuses = true;
        assert_eq!(alone.run(10, 100), []);
        let mut service = Simulation::new(1, &[(1.0, 2), (1.0, 1)]);
        service.backends[0].2.iter_mut().for_each(|e| e.refuses = true);
        let ejected: Vec<_> = service.run(10, 100).into_iter().map(|(at, _)| at).collect();
        assert_eq!(ejected.len(), 2, "{ejected:?}");
        service.backends[1].2[0].refuses = true;
        assert_eq!(service.run(10, 100), []);
    }

    #[test]
    fn an_endpoint_that_came_or_went_meanwhile_confuses_no_suspicion() {
        let window = Window::default();
        let at_first = Attempts { answered: 1_000, failed: 0 };
        let suspicion = Suspicion { at_ms: 1_000, totals: [(7, Attempts::default()), (2, at_first)].into() };
        let own = EndpointSight {
            id: 7,
            available: true,
            failures: 5,
            refusals: 0,
            unreached: 0,
            totals: Attempts { answered: 0, failed: 5 },
            window: &window,
            suspicion: Some(&suspicion),
        };
        let other = |id, answered| EndpointSight {
            id,
            failures: 0,
            totals: Attempts { answered, failed: 0 },
            suspicion: None,
            ..own.clone()
        };
        let found = |endpoints: Vec<EndpointSight<'_>>| {
            let backend = BackendSight { dispensable: false, weighted: true, endpoints };
            cause(&CONFIG, &[backend], (0, 1), 2_000)
        };
        // The old one stands elsewhere now, behind a new one; neither has answered enough since.
        assert_eq!(found(vec![other(9, 3), own.clone(), other(2, 1_003)]), None);
        assert!(found(vec![other(9, 3), own.clone(), other(2, 1_011)]).is_some());
    }

    #[test]
    fn ejections_grow_to_a_limit_and_by_chance_a_little_longer() {
        let seconds = |times, chance| time_away(&CONFIG, times, chance).as_secs();
        assert_eq!([1, 2, 3, 100].map(|times| seconds(times, 0.0)), [10, 20, 30, 300]);
        assert_eq!(seconds(100, 1.0), 330);
    }
}
