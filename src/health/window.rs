//! What an endpoint's attempts came to in any recent span: totals, noted now and then, of which two are compared.

use std::collections::VecDeque;

use crate::analysis::Attempts;

/// Totals by time. What has no attempts costs nothing: only changes are kept.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The oldest stands for everything before it.
    notes: VecDeque<(u64, Attempts)>,
}

impl Window {
    /// Notes the totals of now, and forgets what is older than `span_ms`.
    pub(super) fn note(&mut self, now_ms: u64, totals: Attempts, span_ms: u64) {
        if self.notes.back().is_none_or(|(_, last)| *last != totals) {
            self.notes.push_back((now_ms, totals));
        }
        let begin_ms = now_ms.saturating_sub(span_ms);
        // One from before the span is what those in it are compared with.
        while self.notes.get(1).is_some_and(|(at_ms, _)| *at_ms <= begin_ms) {
            self.notes.pop_front();
        }
    }

    /// What came since `begin_ms`, or a little before, up to `totals`.
    pub(super) fn since(&self, begin_ms: u64, totals: Attempts) -> Attempts {
        let before = self.notes.partition_point(|(at_ms, _)| *at_ms <= begin_ms).saturating_sub(1);
        self.notes.get(before).map_or(Attempts::default(), |(_, earlier)| totals.since(*earlier))
    }

    /// What came in each span that ends now and is no shorter than from `begin_ms`.
    pub(super) fn spans(&self, begin_ms: u64, totals: Attempts) -> impl Iterator<Item = Attempts> {
        let last = self.notes.partition_point(|(at_ms, _)| *at_ms <= begin_ms).max(1);
        self.notes.iter().take(last).map(move |(_, earlier)| totals.since(*earlier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(answered: u64, failed: u64) -> Attempts {
        Attempts { answered, failed }
    }

    #[test]
    fn a_span_holds_what_came_in_it() {
        let mut window = Window::default();
        for second in 0..30 {
            window.note(second * 1_000, totals(second * 10, second), 10_000);
        }
        let now = totals(300, 30);
        assert_eq!(window.since(29_000, now), totals(10, 1));
        assert_eq!(window.since(25_500, now), totals(50, 5), "a little more rather than less");
        assert_eq!(window.since(0, now), totals(110, 11), "no more than is remembered");
        assert_eq!(window.spans(28_000, now).last(), Some(totals(20, 2)));
    }

    #[test]
    fn what_has_no_attempts_keeps_nothing() {
        let mut window = Window::default();
        for second in 0..1_000 {
            window.note(second * 1_000, totals(3, 1), 10_000);
        }
        assert_eq!(window.notes.len(), 1);
        assert_eq!(window.since(999_000, totals(3, 1)), totals(0, 0));
    }
}
