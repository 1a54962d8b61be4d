//! What waits for one sink: its events in their order, the oldest first, and how far it has come. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::journal::Event;

/// After the first failure; it doubles with each one.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// What a sink may ask for, at most, before it is tried again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// See the module's text.
#[derive(Debug)]
pub(super) struct Outbox {
    waiting: VecDeque<Event>,
    /// Everything up to this event has been looked at.
    read_to: u64,
    max: usize,
    /// Failures of the oldest in a row.
    failures: u32,
    skipped: Option<Skipped>,
}

/// Events that a sink will never hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Skipped {
    pub(super) events: u64,
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) reason: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Attempt {
    Delivered,
    /// It may go better another time.
    Failed {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// It won't.
    Refused(String),
}

impl Outbox {
    /// One that has come as far as `cursor`.
    pub(super) fn new(cursor: u64, max: usize) -> Self {
        Self { waiting: VecDeque::new(), read_to: cursor, max, failures: 0, skipped: None }
    }

    /// Where to read on.
    pub(super) fn read_to(&self) -> u64 {
        self.read_to
    }

    /// The last event that the sink is done with: what a restart begins after.
    pub(super) fn cursor(&self) -> u64 {
        self.waiting.front().map_or(self.read_to, |oldest| oldest.id - 1)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn oldest(&self) -> Option<&Event> {
        self.waiting.front()
    }

    /// Takes in the journal's next events, of which the sink hears those that `wanted` takes. Where too many wait, the
    /// oldest go.
    pub(super) fn take_in(&mut self, events: Vec<Event>, wanted: impl Fn(&Event) -> bool) {
        for event in events {
            // The journal keeps so many, and has dropped what was before.
            let lost = (event.id - 1).checked_sub(self.read_to).filter(|lost| *lost > 0);
            if let Some(lost) = lost {
                self.skip(lost, self.read_to + 1, event.id - 1, "they are no longer kept");
            }
            self.read_to = self.read_to.max(event.id);
            if wanted(&event) {
                self.waiting.push_back(event);
            }
        }
        while self.waiting.len() > self.max {
            let Some(oldest) = self.waiting.pop_front() else { return };
            self.failures = 0;
            let reason = format!("more than {} waited", self.max);
            self.skip(1, oldest.id, oldest.id, &reason);
        }
    }

    /// The oldest was tried, and has been tried for `tried` in all; how long to wait before the next attempt.
    pub(super) fn tried(&mut self, attempt: Attempt, tried: Duration, limit: Duration) -> Duration {
        match attempt {
            Attempt::Delivered => drop(self.done()),
            Attempt::Refused(reason) => self.give_up(&reason),
            Attempt::Failed { reason, .. } if tried >= limit => self.give_up(&reason),
            Attempt::Failed { retry_after, .. } => {
                let doubled = BACKOFF.saturating_mul(1 << self.failures.min(10)).min(BACKOFF_MAX);
                self.failures = self.failures.saturating_add(1);
                return retry_after.map_or(doubled, |asked| asked.clamp(doubled, RETRY_AFTER_MAX.max(doubled)));
            }
        }
        Duration::ZERO
    }

    fn give_up(&mut self, reason: &str) {
        if let Some(oldest) = self.done() {
            self.skip(1, oldest.id, oldest.id, reason);
        }
    }

    fn done(&mut self) -> Option<Event> {
        self.failures = 0;
        self.waiting.pop_front()
    }

    /// What was skipped since this was last asked.
    pub(super) fn take_skipped(&mut self) -> Option<Skipped> {
        self.skipped.take()
    }

    fn skip(&mut self, events: u64, first: u64, last: u64, reason: &str) {
        let more = Skipped { events, first, last, reason: reason.to_owned() };
        self.skipped = Some(more.after(self.skipped.take()));
    }
}

impl Skipped {
    /// With what was skipped before.
    pub(super) fn after(self, before: Option<Self>) -> Self {
        match before {
            None => self,
            Some(before) => Self { events: before.events + self.events, first: before.first, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn event(id: u64, kind: &str) -> Event {
        let (at, by) = ("2026-11-21T13:52:55.000Z".to_owned(), "ada".to_owned());
        Event { id, at, by, kind: kind.to_owned(), service: Some("shop".to_owned()), detail: json!({}) }
    }

    fn outbox(max: usize, ids: &[u64]) -> Outbox {
        let mut outbox = Outbox::new(0, max);
        outbox.take_in(ids.iter().map(|id| event(*id, "held")).collect(), |_| true);
        outbox
    }

    fn failed() -> Attempt {
        Attempt::Failed { reason: "503".into(), retry_after: None }
    }

    #[test]
    fn events_wait_in_their_order_and_the_cursor_stands_before_the_oldest() {
        let mut outbox = outbox(10, &[1, 2, 3]);
        outbox.take_in(vec![event(4, "started")], |event| event.kind == "held");
        assert_eq!((outbox.cursor(), outbox.read_to(), outbox.waiting()), (0, 4, 3));
        for id in 1..=3 {
            assert_eq!(outbox.oldest().unwrap().id, id);
            assert_eq!(outbox.tried(failed(), HOUR / 2, HOUR), BACKOFF, "it stays the oldest");
            assert_eq!(outbox.tried(Attempt::Delivered, HOUR, HOUR), Duration::ZERO);
        }
        assert_eq!((outbox.cursor(), outbox.take_skipped()), (4, None));
    }

    #[test]
    fn whoever_fails_is_asked_less_and_less_often_and_may_say_when() {
        let mut outbox = outbox(10, &[1]);
        let waits: Vec<u64> = (0..8).map(|_| outbox.tried(failed(), HOUR / 2, HOUR).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let asked = |seconds| Attempt::Failed { reason: "429".into(), retry_after: Some(Duration::from_secs(seconds)) };
        assert_eq!(outbox.tried(asked(90), HOUR / 2, HOUR).as_secs(), 90);
        assert_eq!(outbox.tried(asked(1_000_000), HOUR / 2, HOUR), RETRY_AFTER_MAX);
        assert_eq!(outbox.tried(asked(0), HOUR / 2, HOUR), BACKOFF_MAX);
    }

    #[test]
    fn what_is_refused_or_tried_for_too_long_is_skipped_and_said() {
        let mut outbox = outbox(10, &[1, 2, 3]);
        outbox.tried(Attempt::Refused("404".into()), Duration::ZERO, HOUR);
        outbox.tried(failed(), HOUR, HOUR);
        assert_eq!(outbox.oldest().unwrap().id, 3);
        let skipped = Skipped { events: 2, first: 1, last: 2, reason: "503".into() };
        assert_eq!(outbox.take_skipped(), Some(skipped));
        assert_eq!(outbox.take_skipped(), None);
    }

    #[test]
    fn where_too_many_wait_the_oldest_go_and_what_is_no_longer_kept_is_counted() {
        let mut outbox = outbox(2, &[1, 2, 3, 4]);
        assert_eq!((outbox.cursor(), outbox.waiting()), (2, 2));
        outbox.take_in(vec![event(10, "held")], |_| true);
        let skipped = outbox.take_skipped().unwrap();
        assert_eq!((skipped.events, skipped.first, skipped.last), (2 + 5 + 1, 1, 3));
        assert_eq!(outbox.oldest().unwrap().id, 4);
    }
}
