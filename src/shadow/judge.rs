//! Is what runs behind a mirror the same as stable? The evidence of one revision, pair by pair. Pure.
//!
//! With a noise leg, each field is a sign test: the shadow and the second copy both get the request after the primary,
//! so what differs by itself (a time, an id, a race) differs for either of them equally often. Only pairs count in which
//! exactly one of both does ([`Discordance`]); noise may be as frequent as it likes, and no threshold has to be guessed.
//!
//! Many fields are tested at once. Half the level is theirs, and the `n`-th in order of first appearance has `1/(n(n+1))`
//! of it: those sum up to 1, so however many fields there are, and however they depend on each other, a shadow that is
//! the same is called different with a probability of at most the level. A thousand noisy fields before it cost a
//! real difference 20 more pairs (each doubles the evidence). The order must not know which side differed: a pair's fields
//! come in theirs. Failures and slow answers have a quarter of the level each; they are compared with the primary's own
//! and tolerated twice as often, as the guard does.
//!
//! Without a noise leg nothing tells noise from difference but the file's `ignore`. Then the rate of pairs that differ at
//! all is bounded from both sides, by a confidence sequence: different where it is certainly above what is tolerated.
//!
//! The same: where the rate of pairs that really differ is certainly below what is tolerated. With a noise leg that is
//! the rate of pairs in which only the shadow differs, less that in which only the second copy does.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::fields::{Differences, Field};
use crate::analysis::{Discordance, ProportionBound};

/// Fields of one mirror that are told apart; one more stands for the rest.
const FIELDS_MAX: usize = 1_000;
/// How many times as often as the primary a shadow may fail, or be slow.
const TOLERATED: f64 = 2.0;
/// Parts of the level.
const FAILURES_PART: f64 = 0.25;
const SLOW_PART: f64 = 0.25;
const FIELDS_PART: f64 = 0.5;
/// The bounds are tightest at about so many pairs.
const PAIRS_BEST: f64 = 1_000.0;
/// Farther ahead nobody can tell.
const PAIRS_MAX: u64 = 1 << 32;

/// How sure is sure, and what is the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Of calling a shadow different that isn't; and, by itself, of calling one the same that isn't.
    pub alpha: f64,
    /// Part of the pairs that may really differ, above 0.
    pub tolerated: f64,
    /// There is a noise leg.
    pub noise: bool,
}

/// What one pair showed.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// In what the shadow differs from the primary; `None` where they can't be compared.
    pub shadow: Option<Differences>,
    /// In what the second copy does.
    pub noise: Option<Differences>,
    /// The shadow failed, and the primary did; `None` where one of them says nothing.
    pub failed: Option<Sides>,
    /// The second copy failed.
    pub noise_failed: bool,
    /// As `failed`.
    pub slow: Option<Sides>,
}

/// What holds of either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sides {
    pub shadow: bool,
    pub primary: bool,
}

/// What came of all pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Pairs that were looked at.
    pub pairs: u64,
    /// Those whose answers could be compared, with the noise where there is a leg for it.
    pub compared: u64,
    /// Those of them in which the shadow differs, whether the second copy does or not.
    pub different: u64,
    /// Those that lack the second copy's answer.
    pub without_noise: u64,
    /// Those that say nothing: broken off, or the primary failed.
    pub skipped: u64,
}

/// What is known of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Row {
    /// Its place in the order of first appearance, from 1.
    pub order: u32,
    /// Pairs in which it differed for one side only.
    pub alone: Discordance,
    /// Pairs in which it differed for both.
    pub both: u64,
    /// The evidence sufficed, once.
    pub found: bool,
}

impl Row {
    /// Pairs in which it differed for the shadow.
    #[must_use]
    pub fn shadow(&self) -> u64 {
        self.alone.candidate_only + self.both
    }
}

/// Failures, or slow answers, of the shadow and of the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trouble {
    pub alone: Discordance,
    pub both: u64,
    pub found: bool,
}

impl Trouble {
    fn observe(&mut self, sides: Sides, alpha: f64) {
        self.alone.observe(sides.shadow, sides.primary);
        self.both += u64::from(sides.shadow && sides.primary);
        self.found |= self.e_value() >= 1.0 / alpha;
    }

    #[must_use]
    pub fn e_value(&self) -> f64 {
        self.alone.e_value(TOLERATED)
    }
}

/// Where a comparison stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    Same,
    Different,
    /// `more`: about so many more pairs, if they go on as before; `None`: nobody can tell.
    Inconclusive {
        more: Option<u64>,
    },
}

/// All that a comparison has come to, to be gone on with later.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    counts: Counts,
    #[serde(with = "pairs")]
    fields: BTreeMap<Field, Row>,
    failures: Trouble,
    slow: Trouble,
    /// Pairs in which the shadow differs somewhere where the second copy doesn't, or only the shadow failed; and the
    /// reverse.
    suspicious: Discordance,
    /// Pairs of `suspicious`, those that agree included.
    suspected: u64,
    same: bool,
    different: bool,
}

/// A field is no key of a JSON object.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Field, Row};

    pub(super) fn serialize<S: Serializer>(fields: &BTreeMap<Field, Row>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(fields)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Field, Row>, D::Error> {
        Ok(Vec::<(Field, Row)>::deserialize(from)?.into_iter().collect())
    }
}

/// The comparison of one revision with stable.
#[derive(Debug, Clone)]
pub struct Judge {
    level: Level,
    evidence: Evidence,
}

impl Judge {
    #[must_use]
    pub fn new(level: Level) -> Self {
        Self { level, evidence: Evidence::default() }
    }

    /// One that goes on where another has ended.
    #[must_use]
    pub fn going_on(level: Level, mut evidence: Evidence) -> Self {
        while evidence.fields.len() > FIELDS_MAX + 1 {
            evidence.fields.pop_last();
        }
        Self { level, evidence }
    }

    /// What it has come to.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Takes note of a pair.
    pub fn observe(&mut self, sight: &Sight) {
        let alpha = self.level.alpha;
        self.evidence.counts.pairs += 1;
        if let Some(sides) = sight.failed {
            self.evidence.failures.observe(sides, FAILURES_PART * alpha);
        }
        if let Some(sides) = sight.slow {
            self.evidence.slow.observe(sides, SLOW_PART * alpha);
        }
        let shadow_failed = sight.failed.is_some_and(|sides| sides.shadow && !sides.primary);
        match (&sight.shadow, &sight.noise) {
            (Some(shadow), Some(noise)) if self.level.noise => self.compare(shadow, noise, shadow_failed),
            (Some(_), None) if self.level.noise && !sight.noise_failed => self.evidence.counts.without_noise += 1,
            (Some(shadow), _) if !self.level.noise => self.compare(shadow, &Differences::default(), shadow_failed),
            // One of both copies failed where the primary didn't: all that can be said of them.
            _ if shadow_failed || sight.noise_failed && sight.failed.is_some_and(|sides| !sides.primary) => {
                self.evidence.suspicious.observe(shadow_failed, sight.noise_failed);
                self.evidence.suspected += 1;
            }
            _ => self.evidence.counts.skipped += 1,
        }
    }

    fn compare(&mut self, shadow: &Differences, noise: &Differences, shadow_failed: bool) {
        // What differs on both sides may hide all that is below it: two refusals say nothing about what was refused.
        let is_blind = shadow.iter().any(|(field, _)| field.hides_others() && noise.contain(field));
        if is_blind && !shadow_failed {
            self.evidence.counts.skipped += 1;
        } else {
            self.evidence.counts.compared += 1;
            self.evidence.counts.different += u64::from(!shadow.is_empty());
            self.evidence.suspected += 1;
            self.evidence.suspicious.observe(shadow_failed || shadow.exceed(noise), noise.exceed(shadow));
        }
        if shadow.is_empty() && noise.is_empty() {
            return;
        }
        let mut others = (false, false);
        // In their own order, whichever side they are of.
        let places: BTreeSet<&Field> = shadow.iter().chain(noise.iter()).map(|(field, _)| field).collect();
        for field in places {
            let (by_shadow, by_noise) = (shadow.contain(field), noise.contain(field));
            if self.has_room_for(field) {
                self.count(field.clone(), by_shadow, by_noise);
            } else {
                others = (others.0 || by_shadow, others.1 || by_noise);
            }
        }
        if others.0 || others.1 {
            self.count(Field::others(), others.0, others.1);
        }
    }

    fn has_room_for(&self, field: &Field) -> bool {
        *field != Field::others()
            && (self.evidence.fields.len() < FIELDS_MAX || self.evidence.fields.contains_key(field))
    }

    fn count(&mut self, field: Field, by_shadow: bool, by_noise: bool) {
        let next = self.evidence.fields.len() as u32 + 1;
        let row = match self.evidence.fields.entry(field) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Row { order: next, ..Row::default() }),
        };
        row.alone.observe(by_shadow, by_noise);
        row.both += u64::from(by_shadow && by_noise);
        // As many of one side as of the other are no evidence, whatever their order.
        let leads = row.alone.candidate_only > row.alone.stable_only;
        if self.level.noise && by_shadow && !by_noise && leads && !row.found {
            row.found = row.alone.e_value(1.0) >= needed(self.level.alpha, row.order);
        }
    }

    /// Looks whether it is known by now. Once the same is proven it stays so, unless the shadow turns out to differ; and
    /// that stays.
    pub fn look(&mut self) -> Finding {
        self.evidence.different |= self.evidence.failures.found
            || self.evidence.slow.found
            || self.evidence.fields.values().any(|row| row.found);
        if !self.level.noise && !self.evidence.different {
            let bound = ProportionBound::new(PAIRS_BEST, FIELDS_PART * self.level.alpha);
            let (events, pairs) = (self.evidence.suspicious.candidate_only, self.evidence.suspected);
            self.evidence.different = events > 0 && bound.lower(events, pairs) > self.level.tolerated;
        }
        self.evidence.same |= !self.evidence.different && self.difference_at_most() <= self.level.tolerated;
        match (self.evidence.different, self.evidence.same) {
            (true, _) => Finding::Different,
            (false, true) => Finding::Same,
            (false, false) => Finding::Inconclusive { more: self.pairs_missing() },
        }
    }

    /// The highest rate of pairs that really differ which what was seen leaves plausible.
    #[must_use]
    pub fn difference_at_most(&self) -> f64 {
        self.at_most(
            self.evidence.suspicious.candidate_only,
            self.evidence.suspicious.stable_only,
            self.evidence.suspected,
        )
    }

    fn at_most(&self, shadow: u64, noise: u64, pairs: u64) -> f64 {
        if !self.level.noise {
            return ProportionBound::new(PAIRS_BEST, self.level.alpha).upper(shadow, pairs);
        }
        // Both bounds must hold.
        let bound = ProportionBound::new(PAIRS_BEST, self.level.alpha / 2.0);
        let by_itself = if noise == 0 { 0.0 } else { bound.lower(noise, pairs) };
        (bound.upper(shadow, pairs) - by_itself).max(0.0)
    }

    /// About how many more pairs it takes until the same is proven, if they go on as before.
    fn pairs_missing(&self) -> Option<u64> {
        let (shadow, noise, pairs) =
            (self.evidence.suspicious.candidate_only, self.evidence.suspicious.stable_only, self.evidence.suspected);
        let later = |rate: u64, more: u64| rate + (rate as f64 / pairs.max(1) as f64 * more as f64).round() as u64;
        let suffices =
            |more: u64| self.at_most(later(shadow, more), later(noise, more), pairs + more) <= self.level.tolerated;
        if shadow.saturating_sub(noise) as f64 >= self.level.tolerated * pairs.max(1) as f64 || !suffices(PAIRS_MAX) {
            return None;
        }
        let (mut short, mut enough) = (0, PAIRS_MAX);
        while enough - short > 1 {
            let middle = short + (enough - short) / 2;
            if suffices(middle) { enough = middle } else { short = middle }
        }
        Some(enough)
    }

    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        self.evidence.counts
    }

    #[must_use]
    pub fn failures(&self) -> Trouble {
        self.evidence.failures
    }

    #[must_use]
    pub fn slow(&self) -> Trouble {
        self.evidence.slow
    }

    /// All fields that ever differed.
    pub fn fields(&self) -> impl Iterator<Item = (&Field, &Row)> {
        self.evidence.fields.iter()
    }

    #[must_use]
    pub fn row(&self, field: &Field) -> Option<&Row> {
        self.evidence.fields.get(field)
    }
}

/// The evidence that suffices for the field that was the `order`-th to differ.
#[must_use]
pub fn needed(alpha: f64, order: u32) -> f64 {
    let n = f64::from(order);
    n * (n + 1.0) / (FIELDS_PART * alpha)
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::fields::Change;
    use super::*;
    use crate::state::BROKEN_MAX;

    const NOISE: Level = Level { alpha: 0.01, tolerated: 0.01, noise: true };
    const ALONE: Level = Level { noise: false, ..NOISE };

    fn field(n: usize) -> Field {
        Field::new(&format!("$.f{n}"), Change::Value)
    }

    fn fields(wanted: &[usize]) -> Differences {
        wanted.iter().map(|n| field(*n)).collect()
    }

    fn sight(shadow: &[usize], noise: &[usize]) -> Sight {
        let fine = Some(Sides { shadow: false, primary: false });
        Sight {
            shadow: Some(fields(shadow)),
            noise: Some(fields(noise)),
            failed: fine,
            slow: fine,
            noise_failed: false,
        }
    }

    #[test]
    fn what_both_copies_hide_is_not_the_same() {
        let hidden = |field: Field| Sight {
            shadow: Some([field.clone()].into_iter().collect()),
            noise: Some([field].into_iter().collect()),
            ..sight(&[], &[])
        };
        for field in [Field::new("status", Change::Value), Field::new("$.items", Change::Length)] {
            let mut judge = judged(NOISE, repeat(hidden(field), 5_000));
            assert!(matches!(judge.look(), Finding::Inconclusive { .. }) && judge.counts().compared == 0);
        }
        assert_eq!(judged(NOISE, repeat(hidden(field(1)), 5_000)).look(), Finding::Same);
    }

    fn failed(shadow: bool, primary: bool) -> Sight {
        Sight { failed: Some(Sides { shadow, primary }), ..Sight::default() }
    }

    fn judged(level: Level, sights: impl IntoIterator<Item = Sight>) -> Judge {
        let mut judge = Judge::new(level);
        sights.into_iter().for_each(|sight| judge.observe(&sight));
        judge
    }

    fn repeat(sight: Sight, times: usize) -> impl Iterator<Item = Sight> {
        std::iter::repeat_n(sight, times)
    }

    #[test]
    fn a_real_difference_is_found_within_a_few_pairs() {
        let mut judge = judged(NOISE, repeat(sight(&[7], &[]), 9));
        assert!(matches!(judge.look(), Finding::Inconclusive { .. }));
        (0..3).for_each(|_| judge.observe(&sight(&[7], &[])));
        assert_eq!(judge.look(), Finding::Different);
        assert!(judge.row(&field(7)).unwrap().found);
    }

    #[test]
    fn noise_in_every_pair_hides_nothing_beside_it() {
        let mut judge = judged(NOISE, repeat(sight(&[1, 2, 3], &[1, 2, 3]), 1_000));
        assert_eq!(judge.look(), Finding::Same);
        (0..14).for_each(|_| judge.observe(&sight(&[1, 2, 3, 4], &[1, 2, 3])));
        assert_eq!(judge.look(), Finding::Different);
        let found: Vec<String> =
            judge.fields().filter(|(_, row)| row.found).map(|(field, _)| field.place.to_string()).collect();
        assert_eq!(found, ["$.f4"]);
    }

    #[test]
    fn equal_answers_are_the_same_once_there_are_enough() {
        for level in [NOISE, ALONE] {
            let mut judge = Judge::new(level);
            let Finding::Inconclusive { more: Some(more) } = judge.look() else { panic!("nothing is known yet") };
            assert!((500..1_000).contains(&more), "{more}");
            (0..more - 1).for_each(|_| judge.observe(&sight(&[], &[])));
            assert_eq!(judge.look(), Finding::Inconclusive { more: Some(1) });
            judge.observe(&sight(&[], &[]));
            assert_eq!(judge.look(), Finding::Same);
            assert!(judge.difference_at_most() <= 0.01);
        }
    }

    #[test]
    fn without_a_noise_leg_the_rate_of_differences_decides() {
        let every = |n: usize| (0..4_000).map(move |i| if i % n == 0 { sight(&[1], &[]) } else { sight(&[], &[]) });
        assert_eq!(judged(ALONE, every(10)).look(), Finding::Different);
        assert_eq!(judged(ALONE, every(1_000)).look(), Finding::Same);
        let Finding::Inconclusive { more } = judged(ALONE, every(100)).look() else { panic!("it is in between") };
        assert_eq!(more, None);
    }

    #[test]
    fn a_shadow_that_fails_more_than_the_primary_differs() {
        let mut judge = judged(NOISE, repeat(failed(true, false), 30));
        assert_eq!(judge.look(), Finding::Different);
        assert!(judge.failures().found);
        let mut judge = judged(NOISE, repeat(failed(true, true), 1_000));
        assert_eq!(judge.look(), Finding::Inconclusive { more: judge.pairs_missing() });
        // Up to twice as often is tolerated.
        let both = (0..3_000).map(|n| failed(n % 3 != 0, n % 3 == 0));
        assert!(!judged(NOISE, both).failures().found);
        let slow = Sight { slow: Some(Sides { shadow: true, primary: false }), ..sight(&[], &[]) };
        assert!(judged(NOISE, repeat(slow, 30)).slow().found);
    }

    /// By the file's defaults.
    #[test]
    fn one_that_breaks_every_copy_is_known_to_differ_before_copies_are_held_back() {
        for noise in [false, true] {
            let mut judge = Judge::new(Level { alpha: 0.001, tolerated: 0.01, noise });
            for _ in 0..BROKEN_MAX {
                judge.observe(&Sight { failed: Some(Sides { shadow: true, primary: false }), ..Sight::default() });
            }
            assert_eq!(judge.look(), Finding::Different);
        }
    }

    #[test]
    fn failures_now_and_then_forbid_the_same() {
        let every = |n: usize| (0..1_000).map(move |i| if i % n == 0 { failed(true, false) } else { sight(&[], &[]) });
        let mut judge = judged(NOISE, every(200));
        assert!(matches!(judge.look(), Finding::Inconclusive { .. }));
        assert!(judge.difference_at_most() > 0.01);
        assert_eq!(judged(NOISE, every(20)).look(), Finding::Different);
    }

    #[test]
    fn pairs_without_their_second_copy_say_nothing_of_fields() {
        let lone = Sight { noise: None, ..sight(&[1], &[]) };
        let mut judge = judged(NOISE, repeat(lone, 100));
        assert_eq!(judge.counts().without_noise, 100);
        assert_eq!(judge.counts().compared, 0);
        assert!(matches!(judge.look(), Finding::Inconclusive { .. }));
    }

    #[test]
    fn fields_are_bounded_and_those_beyond_are_one() {
        let mut judge = Judge::new(NOISE);
        for n in 0..3_000 {
            judge.observe(&sight(&[n], &[n]));
        }
        assert_eq!(judge.fields().count(), FIELDS_MAX + 1);
        assert_eq!(judge.row(&Field::others()).unwrap().both, 2_000);
        (0..60).for_each(|n| judge.observe(&sight(&[10_000 + n], &[])));
        assert!(judge.row(&Field::others()).unwrap().found);
    }

    /// Fields that differ by themselves, each at its rate, some of them together.
    fn noisy(random: &mut StdRng, fields: &[(Field, f64)]) -> Differences {
        let together = random.random_bool(0.1);
        let differs = fields.iter().enumerate().filter(
            |(n, (_, rate))| {
                if n % 4 == 0 { together } else { random.random_bool(*rate) }
            },
        );
        differs.map(|(_, (field, _))| field.clone()).collect()
    }

    #[test]
    fn a_shadow_that_is_the_same_is_hardly_ever_called_different() {
        const RUNS: u64 = 2_100;
        let fields: Vec<(Field, f64)> = (0..6).map(|n| (field(n), [0.002, 0.02, 0.1, 0.3, 0.5, 0.9][n % 6])).collect();
        let mut wrong = 0;
        for seed in 0..RUNS {
            let mut random = StdRng::seed_from_u64(seed);
            let mut judge = Judge::new(NOISE);
            for _ in 0..80 {
                let (shadow, noise) = (Some(noisy(&mut random, &fields)), Some(noisy(&mut random, &fields)));
                let slow = Some(Sides { shadow: random.random_bool(0.05), primary: random.random_bool(0.05) });
                judge.observe(&Sight { shadow, noise, slow, ..Sight::default() });
            }
            wrong += u64::from(judge.look() == Finding::Different);
        }
        // The level allows 21.
        assert!(wrong <= 21, "{wrong} of {RUNS}");
    }

    #[test]
    fn a_shadow_that_differs_more_than_tolerated_is_hardly_ever_called_the_same() {
        const RUNS: u64 = 120;
        let mut wrong = [0, 0];
        for seed in 0..RUNS {
            let mut random = StdRng::seed_from_u64(seed);
            for (level, wrong) in [NOISE, ALONE].into_iter().zip(&mut wrong) {
                let mut judge = Judge::new(level);
                for pair in 0..2_000 {
                    let differs = random.random_bool(0.012);
                    let (a, b) = (random.random_bool(0.02), random.random_bool(0.02));
                    let noise = |is: bool| if is && level.noise { &[1][..] } else { &[] };
                    let shadow: Vec<usize> = noise(a).iter().copied().chain(differs.then_some(2)).collect();
                    judge.observe(&sight(&shadow, noise(b)));
                    if pair % 50 == 49 && judge.look() == Finding::Same {
                        *wrong += 1;
                        break;
                    }
                }
            }
        }
        assert!(wrong[0] <= 2 && wrong[1] <= 2, "{wrong:?} of {RUNS}");
    }
}
