//! All comparisons under way: one for each mirror that compares, of the revisions that are there now. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::compare::Rules;
use super::examples::Examples;
use super::judge::{Finding, Judge, Level, Sight};
use super::memory::Memory;
use super::pair::Pair;
use super::redact::Redaction;
use super::report::{Outcome, ShadowView, Subject, Verdict};
use super::sight;
use http::HeaderName;

use crate::config::CompareConfig;
use crate::observe::ShadowTotals;

/// How a mirror's pairs are compared. A change of it begins anew.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub level: Level,
    pub rules: Rules,
    /// How many are kept.
    pub examples: usize,
    /// What of answers is kept to be compared.
    pub headers: Vec<HeaderName>,
    pub body_max: usize,
}

impl Settings {
    #[must_use]
    pub fn of(config: &CompareConfig) -> Self {
        Self {
            level: Level { alpha: config.alpha, tolerated: config.tolerated, noise: config.noise },
            rules: Rules { ignore: config.ignore.clone(), redaction: Redaction::new(&config.redact) },
            examples: config.examples,
            headers: config.headers.clone(),
            body_max: config.body_max,
        }
    }
}

/// A mirror as it is now.
#[derive(Debug, Clone)]
pub struct Mirror {
    pub subject: Subject,
    pub settings: Settings,
    /// From when on an answer is slow, where that is known.
    pub slow_after: Option<Duration>,
}

impl Mirror {
    /// The same revisions, compared in the same way.
    fn is_same(&self, other: &Self) -> bool {
        self.subject == other.subject && self.settings == other.settings
    }

    /// Why a pair isn't looked at.
    fn refusal(&self, pair: &Pair) -> Option<Refusal> {
        if *pair.revision != *self.subject.revision {
            Some(Refusal::Outdated)
        } else if *pair.primary_backend != *self.subject.stable {
            Some(Refusal::NotStable)
        } else if *pair.primary_revision != *self.subject.stable_revision {
            Some(Refusal::Outdated)
        } else {
            None
        }
    }

    /// What a pair shows; the part that takes time.
    ///
    /// # Errors
    /// When it shows nothing.
    pub fn look(&self, pair: &Pair) -> Result<Sight, Refusal> {
        self.refusal(pair).map_or_else(|| Ok(sight::look(pair, &self.settings.rules, self.slow_after)), Err)
    }
}

/// Why a pair says nothing about a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It was sent to another revision than is there now, or answered by another one of stable.
    Outdated,
    /// Whoever answered wasn't stable: a candidate is no measure.
    NotStable,
}

/// Where all comparisons stand.
#[derive(Debug, Default)]
pub struct Board {
    /// By service and backend.
    records: BTreeMap<(String, String), Record>,
    /// From before the last start; mirrors that are there then take them up.
    memories: Vec<Memory>,
    /// Since they were remembered last.
    has_changed: bool,
}

/// Where one stands.
#[derive(Debug)]
struct Record {
    mirror: Arc<Mirror>,
    since: SystemTime,
    /// Requests that were copied before say nothing.
    began: Instant,
    judge: Judge,
    examples: Examples,
    not_stable: u64,
    outdated: u64,
    finding: Finding,
    /// What has been told.
    told: Outcome,
}

impl Record {
    fn new(mirror: Arc<Mirror>, began: Instant) -> Self {
        let mut judge = Judge::new(mirror.settings.level);
        let finding = judge.look();
        Self {
            since: SystemTime::now(),
            began,
            judge,
            examples: Examples::new(mirror.settings.examples),
            mirror,
            not_stable: 0,
            outdated: 0,
            finding,
            told: Outcome::Inconclusive,
        }
    }

    /// One that goes on where another process has ended. Examples were never written down.
    fn going_on(mirror: Arc<Mirror>, began: Instant, memory: Memory) -> Self {
        let (since, not_stable, outdated, told) = (memory.since(), memory.not_stable, memory.outdated, memory.told);
        let mut judge = Judge::going_on(mirror.settings.level, memory.evidence);
        let finding = judge.look();
        Self { since, judge, not_stable, outdated, finding, told, ..Self::new(mirror, began) }
    }

    fn memory(&self) -> Memory {
        let (mirror, apart) = (&self.mirror, (self.not_stable, self.outdated));
        Memory::new(&mirror.subject, &mirror.settings, self.since, &self.judge, apart, self.told)
    }

    fn view(&self) -> ShadowView {
        let mut view = ShadowView::new(&self.mirror.subject, self.since, &self.judge, &self.finding, &self.examples);
        view.pairs.not_stable = self.not_stable;
        view.pairs.outdated = self.outdated;
        view.slow_after_ms = self.mirror.slow_after.map(|limit| limit.as_secs_f64() * 1000.0);
        view
    }
}

/// A verdict that has changed.
#[derive(Debug, Clone)]
pub struct Turn {
    pub was: Outcome,
    pub now: ShadowView,
}

impl Board {
    /// One that goes on with what is remembered.
    #[must_use]
    pub fn remembering(memories: Vec<Memory>) -> Self {
        Self { memories, ..Self::default() }
    }

    /// What is to be remembered, if that has changed since it was asked for last.
    pub fn memories(&mut self) -> Option<Vec<Memory>> {
        std::mem::take(&mut self.has_changed).then(|| self.records.values().map(Record::memory).collect())
    }

    /// Begins, goes on with or ends comparisons, so that there is one for each mirror. `since`: when the mirrors became
    /// as they are.
    pub fn follow(&mut self, mirrors: Vec<Mirror>, since: Instant) {
        let mut before = std::mem::take(&mut self.records);
        let mut memories = std::mem::take(&mut self.memories);
        self.has_changed = true;
        for mirror in mirrors {
            let key = (mirror.subject.service.clone(), mirror.subject.backend.clone());
            let known = before.remove(&key).filter(|record| record.mirror.is_same(&mirror));
            let mirror = Arc::new(mirror);
            let record = match known {
                Some(record) => Record { mirror, ..record },
                None => {
                    let is_its = |memory: &Memory| memory.is_of(&mirror.subject, &mirror.settings);
                    match memories.iter().position(is_its) {
                        Some(index) => Record::going_on(mirror, since, memories.swap_remove(index)),
                        None => Record::new(mirror, since),
                    }
                }
            };
            self.records.insert(key, record);
        }
    }

    /// A mirror as it was followed last.
    #[must_use]
    pub fn mirror(&self, pair: &Pair) -> Option<Arc<Mirror>> {
        let key = (pair.service.to_string(), pair.mirror.to_string());
        self.records.get(&key).map(|record| Arc::clone(&record.mirror))
    }

    /// Takes note of what a pair showed to a mirror that is still the same. Those whose requests came before all
    /// began anew are of no use any more.
    pub fn observe(&mut self, mirror: &Mirror, pair: &Pair, seen: &Result<Sight, Refusal>) {
        let key = (mirror.subject.service.clone(), mirror.subject.backend.clone());
        let Some(record) = self.records.get_mut(&key).filter(|record| record.mirror.is_same(mirror)) else {
            return;
        };
        self.has_changed = true;
        match seen {
            _ if pair.asked < record.began => record.outdated += 1,
            Err(Refusal::Outdated) => record.outdated += 1,
            Err(Refusal::NotStable) => record.not_stable += 1,
            Ok(sight) => {
                record.judge.observe(sight);
                let comparable = !mirror.settings.level.noise || sight.noise.is_some();
                if let Some(shadow) = sight.shadow.as_ref().filter(|_| comparable) {
                    let redaction = &mirror.settings.rules.redaction;
                    record.examples.offer(pair, shadow, sight.noise.as_ref(), &record.judge, redaction);
                }
            }
        }
    }

    /// Looks what is known by now; answers which verdicts have changed.
    pub fn look(&mut self) -> Vec<Turn> {
        let mut turns = Vec::new();
        for record in self.records.values_mut() {
            record.finding = record.judge.look();
            let outcome = Outcome::from(&record.finding);
            if outcome != record.told {
                turns.push(Turn { was: record.told, now: record.view() });
                record.told = outcome;
            }
        }
        turns
    }

    /// Begins anew with what is known of a service; answers how many comparisons that were.
    pub fn reset(&mut self, service: &str) -> usize {
        self.has_changed = true;
        let named = self.records.values_mut().filter(|record| record.mirror.subject.service == service);
        named.map(|record| *record = Record::new(Arc::clone(&record.mirror), Instant::now())).count()
    }

    /// The same with what is known of one mirror.
    pub fn forget(&mut self, service: &str, backend: &str) {
        if let Some(record) = self.records.get_mut(&(service.to_owned(), backend.to_owned())) {
            self.has_changed = true;
            *record = Record::new(Arc::clone(&record.mirror), Instant::now());
        }
    }

    #[must_use]
    pub fn views(&self, service: &str) -> Vec<ShadowView> {
        let named = self.records.values().filter(|record| record.mirror.subject.service == service);
        named.map(Record::view).collect()
    }

    /// What is counted of all of them.
    #[must_use]
    pub fn totals(&self) -> Vec<ShadowTotals> {
        let totals = |record: &Record| {
            let (counts, subject) = (record.judge.counts(), &record.mirror.subject);
            ShadowTotals {
                service: subject.service.clone(),
                backend: subject.backend.clone(),
                same: counts.compared - counts.different,
                different: counts.different,
                skipped: counts.pairs - counts.compared + record.not_stable + record.outdated,
                fields: record.judge.fields().count() as u64,
                fields_found: record.judge.fields().filter(|(_, row)| row.found).count() as u64,
                difference_at_most: record.judge.difference_at_most(),
                verdict: Outcome::from(&record.finding).name(),
            }
        };
        self.records.values().map(totals).collect()
    }

    #[must_use]
    pub fn verdict(&self, service: &str, backend: &str) -> Option<Verdict> {
        let record = self.records.get(&(service.to_owned(), backend.to_owned()))?;
        Some(record.view().verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::PairsView;
    use super::super::testing::{json, pair};
    use super::*;

    fn mirror(revision: &str, ignore: &[&str]) -> Mirror {
        Mirror {
            subject: Subject {
                service: "shop".into(),
                backend: "green".into(),
                revision: revision.into(),
                stable: "blue".into(),
                stable_revision: "1".into(),
            },
            settings: Settings {
                level: Level { alpha: 0.01, tolerated: 0.01, noise: true },
                rules: Rules { ignore: ignore.iter().map(|path| path.parse().unwrap()).collect(), ..Rules::default() },
                examples: 5,
                headers: Vec::new(),
                body_max: 1 << 18,
            },
            slow_after: None,
        }
    }

    fn show(board: &mut Board, pair: &Pair) {
        let mirror = board.mirror(pair).unwrap();
        let seen = mirror.look(pair);
        board.observe(&mirror, pair, &seen);
    }

    fn different() -> Pair {
        let ours = || json(r#"{"total":1,"at":1}"#);
        pair(ours(), json(r#"{"total":2,"at":2}"#), Some(json(r#"{"total":1,"at":3}"#)))
    }

    fn seen(board: &Board) -> PairsView {
        board.views("shop")[0].pairs
    }

    #[test]
    fn a_difference_becomes_a_verdict_that_is_told_once() {
        let mut board = Board::default();
        board.follow(vec![mirror("2", &[])], Instant::now());
        (0..20).for_each(|_| show(&mut board, &different()));
        let turns = board.look();
        assert_eq!(turns.len(), 1);
        assert_eq!(turns[0].was, Outcome::Inconclusive);
        assert_eq!(turns[0].now.verdict.fields, ["$.total changed"]);
        assert_eq!(turns[0].now.verdict.reason, "$.total changed, in 20 pairs");
        assert!(board.look().is_empty());
        assert_eq!(board.verdict("shop", "green").unwrap().outcome, Outcome::Different);
        let view = &board.views("shop")[0];
        assert_eq!(view.examples.len(), 1);
        assert_eq!((&*view.examples[0].primary, &*view.examples[0].shadow), ("1", "2"));
        assert_eq!((&*view.fields[0].place, &*view.fields[1].place), ("$.total", "$.at"));
        assert_eq!(board.totals()[0].fields_found, 1);
        assert!(board.views("other").is_empty() && board.verdict("shop", "blue").is_none());
    }

    #[test]
    fn another_revision_another_stable_or_other_rules_begin_anew() {
        let mut board = Board::default();
        let before = mirror("2", &[]);
        board.follow(vec![before.clone()], Instant::now());
        show(&mut board, &different());
        board.follow(vec![Mirror { slow_after: Some(Duration::from_secs(1)), ..before.clone() }], Instant::now());
        assert_eq!(seen(&board).seen, 1, "the same goes on");
        let mut promoted = before.clone();
        promoted.subject.stable_revision = "9".into();
        for after in [mirror("3", &[]), mirror("3", &["$.at"]), promoted] {
            board.follow(vec![after], Instant::now());
            assert_eq!(seen(&board).seen, 0);
            let revision = board.views("shop")[0].revision.as_str().into();
            let primary_revision = board.views("shop")[0].stable_revision.as_str().into();
            show(&mut board, &Pair { revision, primary_revision, ..different() });
            assert_eq!(seen(&board).seen, 1);
        }
        board.follow(Vec::new(), Instant::now());
        assert!(board.mirror(&different()).is_none());
    }

    #[test]
    fn what_was_asked_before_stable_became_another_says_nothing_about_it() {
        let mut board = Board::default();
        let (old, before) = (mirror("2", &[]), different());
        board.follow(vec![old.clone()], Instant::now());
        let mut promoted = old;
        promoted.subject.stable_revision = "9".into();
        board.follow(vec![promoted], Instant::now());
        // Answered by what was stable then, whenever that was; and by what is stable now, but asked before it was.
        show(&mut board, &different());
        show(&mut board, &Pair { primary_revision: "9".into(), ..before });
        assert_eq!((seen(&board).seen, seen(&board).outdated), (0, 2));
        show(&mut board, &Pair { primary_revision: "9".into(), ..different() });
        assert_eq!((seen(&board).seen, seen(&board).outdated), (1, 2));
    }

    #[test]
    fn pairs_of_another_revision_or_another_primary_say_nothing() {
        let mut board = Board::default();
        board.follow(vec![mirror("2", &[])], Instant::now());
        show(&mut board, &Pair { revision: "1".into(), ..different() });
        show(&mut board, &Pair { primary_backend: "canary".into(), ..different() });
        let pairs = seen(&board);
        assert_eq!((pairs.seen, pairs.outdated, pairs.not_stable), (0, 1, 1));
    }

    #[test]
    fn what_is_remembered_goes_on_where_the_same_is_compared_in_the_same_way() {
        let mut board = Board::default();
        board.follow(vec![mirror("2", &[])], Instant::now());
        (0..20).for_each(|_| show(&mut board, &different()));
        assert_eq!(board.look().len(), 1);
        let before = board.views("shop");
        let memories = board.memories().unwrap();
        assert!(board.memories().is_none(), "nothing has changed");
        let written = serde_json::to_value(&memories).unwrap();
        assert!(!written.to_string().contains("cart"), "no requests: {written}");
        let memories: Vec<Memory> = serde_json::from_value(written).unwrap();

        let mut later = Board::remembering(memories.clone());
        later.follow(vec![mirror("2", &[])], Instant::now());
        assert!(later.look().is_empty(), "the verdict has been told");
        let after = later.views("shop");
        assert_eq!((&after[0].verdict, &after[0].pairs), (&before[0].verdict, &before[0].pairs));
        assert_eq!((&after[0].fields, &after[0].since), (&before[0].fields, &before[0].since));
        assert!(after[0].examples.is_empty());
        show(&mut later, &different());
        assert_eq!(seen(&later).seen, 21);

        for other in [mirror("3", &[]), mirror("2", &["$.at"])] {
            let mut later = Board::remembering(memories.clone());
            later.follow(vec![other], Instant::now());
            assert_eq!(seen(&later).seen, 0);
            later.follow(vec![mirror("2", &[])], Instant::now());
            assert_eq!(seen(&later).seen, 0, "what wasn't taken up is forgotten");
        }
    }

    #[test]
    fn somebody_may_have_it_begin_anew() {
        let mut board = Board::default();
        board.follow(vec![mirror("2", &[])], Instant::now());
        (0..20).for_each(|_| show(&mut board, &different()));
        assert_eq!(board.look().len(), 1);
        assert_eq!(board.reset("other"), 0);
        let late = different();
        let mirror = board.mirror(&late).unwrap();
        assert_eq!(board.reset("shop"), 1);
        board.observe(&mirror, &late, &mirror.look(&late));
        assert_eq!((seen(&board).seen, seen(&board).outdated), (0, 1), "what waited is of before");
        assert_eq!(board.verdict("shop", "green").unwrap().outcome, Outcome::Inconclusive);
        assert!(board.verdict("shop", "green").unwrap().reason.starts_with("nothing was compared yet"));
    }
}
