//! All comparisons under way: one for each mirror that compares, of the revisions that are there now. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::compare::Rules;
use super::examples::Examples;
use super::judge::{Finding, Judge, Level, Sight};
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
    /// It was sent to another revision than is there now.
    Outdated,
    /// Whoever answered wasn't stable: a candidate is no measure.
    NotStable,
}

/// Where all comparisons stand.
#[derive(Debug, Default)]
pub struct Board(BTreeMap<(String, String), Record>);

/// Where one stands.
#[derive(Debug)]
struct Record {
    mirror: Arc<Mirror>,
    since: SystemTime,
    /// The same moment.
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
    fn new(mirror: Arc<Mirror>) -> Self {
        let mut judge = Judge::new(mirror.settings.level);
        let finding = judge.look();
        Self {
            since: SystemTime::now(),
            began: Instant::now(),
            judge,
            examples: Examples::new(mirror.settings.examples),
            mirror,
            not_stable: 0,
            outdated: 0,
            finding,
            told: Outcome::Inconclusive,
        }
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
    /// Begins, goes on with or ends comparisons, so that there is one for each mirror.
    pub fn follow(&mut self, mirrors: Vec<Mirror>) {
        let mut before = std::mem::take(&mut self.0);
        for mirror in mirrors {
            let key = (mirror.subject.service.clone(), mirror.subject.backend.clone());
            let known = before.remove(&key).filter(|record| record.mirror.is_same(&mirror));
            let mirror = Arc::new(mirror);
            let record = match known {
                Some(record) => Record { mirror, ..record },
                None => Record::new(mirror),
            };
            self.0.insert(key, record);
        }
    }

    /// A mirror as it was followed last.
    #[must_use]
    pub fn mirror(&self, pair: &Pair) -> Option<Arc<Mirror>> {
        let key = (pair.service.to_string(), pair.mirror.to_string());
        self.0.get(&key).map(|record| Arc::clone(&record.mirror))
    }

    /// Takes note of what a pair showed to a mirror that is still the same. Those that came before all began anew are of
    /// no use any more.
    pub fn observe(&mut self, mirror: &Mirror, pair: &Pair, came: Instant, seen: &Result<Sight, Refusal>) {
        let key = (mirror.subject.service.clone(), mirror.subject.backend.clone());
        let Some(record) = self.0.get_mut(&key).filter(|record| record.mirror.is_same(mirror)) else {
            return;
        };
        match seen {
            _ if came < record.began => record.outdated += 1,
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
        for record in self.0.values_mut() {
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
        let named = self.0.values_mut().filter(|record| record.mirror.subject.service == service);
        named.map(|record| *record = Record::new(Arc::clone(&record.mirror))).count()
    }

    #[must_use]
    pub fn views(&self, service: &str) -> Vec<ShadowView> {
        let named = self.0.values().filter(|record| record.mirror.subject.service == service);
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
        self.0.values().map(totals).collect()
    }

    #[must_use]
    pub fn verdict(&self, service: &str, backend: &str) -> Option<Verdict> {
        let record = self.0.get(&(service.to_owned(), backend.to_owned()))?;
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
        board.observe(&mirror, pair, Instant::now(), &seen);
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
        board.follow(vec![mirror("2", &[])]);
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
        board.follow(vec![before.clone()]);
        show(&mut board, &different());
        board.follow(vec![Mirror { slow_after: Some(Duration::from_secs(1)), ..before.clone() }]);
        assert_eq!(seen(&board).seen, 1, "the same goes on");
        let mut promoted = before.clone();
        promoted.subject.stable_revision = "9".into();
        for after in [mirror("3", &[]), mirror("3", &["$.at"]), promoted] {
            board.follow(vec![after]);
            assert_eq!(seen(&board).seen, 0);
            let revision = board.views("shop")[0].revision.as_str().into();
            show(&mut board, &Pair { revision, ..different() });
            assert_eq!(seen(&board).seen, 1);
        }
        board.follow(Vec::new());
        assert!(board.mirror(&different()).is_none());
    }

    #[test]
    fn pairs_of_another_revision_or_another_primary_say_nothing() {
        let mut board = Board::default();
        board.follow(vec![mirror("2", &[])]);
        show(&mut board, &Pair { revision: "1".into(), ..different() });
        show(&mut board, &Pair { primary_backend: "canary".into(), ..different() });
        let pairs = seen(&board);
        assert_eq!((pairs.seen, pairs.outdated, pairs.not_stable), (0, 1, 1));
    }

    #[test]
    fn somebody_may_have_it_begin_anew() {
        let mut board = Board::default();
        board.follow(vec![mirror("2", &[])]);
        (0..20).for_each(|_| show(&mut board, &different()));
        assert_eq!(board.look().len(), 1);
        assert_eq!(board.reset("other"), 0);
        let (before, late) = (Instant::now(), different());
        let mirror = board.mirror(&late).unwrap();
        assert_eq!(board.reset("shop"), 1);
        board.observe(&mirror, &late, before, &mirror.look(&late));
        assert_eq!((seen(&board).seen, seen(&board).outdated), (0, 1), "what waited is of before");
        assert_eq!(board.verdict("shop", "green").unwrap().outcome, Outcome::Inconclusive);
        assert!(board.verdict("shop", "green").unwrap().reason.starts_with("nothing was compared yet"));
    }
}
