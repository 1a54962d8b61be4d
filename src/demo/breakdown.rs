//! The second act: the canary begins to fail, and is drained before anybody notices.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::backends::{CANARY, SERVICE, STABLE};
use super::fault::Fault;
use super::invocation::Invocation;
use super::line::{Line, Style};
use super::table::{grouped, millis};
use super::traffic::Tally;
use crate::journal::Event;
use crate::observe::BackendTotals;
use crate::state::Store;

/// How often is looked whether something has come about.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The last requests that the canary failed have an answer by then.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// A canary that is about to break.
#[derive(Debug)]
pub(super) struct Breakdown {
    pub(super) store: Arc<Store>,
    pub(super) tally: Arc<Tally>,
    pub(super) fault: Fault,
    /// The last drain of the canary.
    pub(super) drained: watch::Receiver<Option<Event>>,
}

/// What became of the requests that the canary failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    failed: u64,
    /// Answered by stable in its place.
    rescued: u64,
    /// What clients got that was an error, or no answer.
    seen: u64,
}

impl Breakdown {
    pub(super) fn announcement() -> Vec<Line> {
        let title = "  The canary breaks: from now on it answers 500 to everything.";
        vec![Line::default(), Line::default().with(Style::Bold, title)]
    }

    /// Waits until the canary gets requests, should somebody have taken them away: else nobody would notice anything.
    pub(super) async fn opportunity(&self) {
        while !self.canary_is_asked() {
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Breaks the canary until it is drained; says what that came to. `None` when there is no history to tell of it.
    pub(super) async fn run(mut self, invocation: &Invocation) -> Option<Vec<Line>> {
        let before = self.outcome();
        self.drained.mark_unchanged();
        self.fault.begin();
        let told = self.drained.changed().await;
        self.fault.end();
        told.ok()?;
        let settled = Instant::now() + SETTLE_MAX;
        while !self.outcome().since(before).is_complete() && Instant::now() < settled {
            sleep(LOOK_INTERVAL).await;
        }
        let lasted = self.drained.borrow().as_ref().and_then(first_failure_to_drain);
        Some(conclusion(self.outcome().since(before), lasted, invocation))
    }

    fn canary_is_asked(&self) -> bool {
        let snapshot = self.store.current();
        let canary = snapshot.service(SERVICE).and_then(|service| service.backend(CANARY));
        canary.is_some_and(|canary| !canary.effective.is_zero())
    }

    /// Since the demo began.
    fn outcome(&self) -> Outcome {
        let snapshot = self.store.current();
        let canary = snapshot.service(SERVICE).and_then(|service| service.backend(CANARY));
        let totals = canary.map_or_else(BackendTotals::default, |canary| canary.metrics.totals());
        let seen = self.tally.errors() + self.tally.lost();
        Outcome { failed: self.fault.failed(), rescued: totals.rescues_answered, seen }
    }
}

impl Outcome {
    fn since(self, before: Self) -> Self {
        Self {
            failed: self.failed.saturating_sub(before.failed),
            rescued: self.rescued.saturating_sub(before.rescued),
            seen: self.seen.saturating_sub(before.seen),
        }
    }

    /// Nothing is under way any more.
    fn is_complete(self) -> bool {
        self.rescued + self.seen >= self.failed
    }
}

/// How long the guard took, by the event's own evidence; a drain by a person has none.
fn first_failure_to_drain(event: &Event) -> Option<Duration> {
    let first = event.detail["evidence"]["first"]["at"].as_str()?;
    let time = |text: &str| humantime::parse_rfc3339(text).ok();
    time(&event.at)?.duration_since(time(first)?).ok()
}

fn conclusion(outcome: Outcome, lasted: Option<Duration>, invocation: &Invocation) -> Vec<Line> {
    let Outcome { failed, rescued, seen } = outcome;
    let plural = |count| if count == 1 { "" } else { "s" };
    let out = lasted.map_or(String::new(), |lasted| format!(", and was out {} after the first", millis(Some(lasted))));
    let style = if seen == 0 { Style::Green } else { Style::Red };
    vec![
        Line::from(format!("        It failed {} request{}{out}.", grouped(failed), plural(failed))),
        Line::from(format!("        {STABLE} answered {} of them in its place; ", grouped(rescued)))
            .with(style, format!("clients saw {} error{}", grouped(seen), plural(seen)))
            .with(Style::Plain, "."),
        Line::from("        It is repaired by now, and stays out until a new release or your word:"),
        Line::from(format!("        $ {}", invocation.undrain(CANARY))),
        Line::from("        Who decided what, and why (with --json: on what evidence):"),
        Line::from(format!("        $ {}", invocation.events())),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::json;

    use super::*;

    fn event(detail: serde_json::Value) -> Event {
        let (by, kind) = ("tidegate".into(), "drained".into());
        Event { id: 7, at: "2026-01-01T00:00:01.250Z".into(), by, kind, service: None, detail }
    }

    #[test]
    fn the_time_is_that_of_the_evidence() {
        let guards = json!({ "evidence": { "first": { "id": "a", "at": "2026-01-01T00:00:01.100Z" } } });
        assert_eq!(first_failure_to_drain(&event(guards)), Some(Duration::from_millis(150)));
        assert_eq!(first_failure_to_drain(&event(json!({ "reason": "a person said so" }))), None);
    }

    #[test]
    fn requests_are_all_accounted_for_before_it_is_told_what_became_of_them() {
        let outcome = |failed, rescued, seen| Outcome { failed, rescued, seen };
        assert!(!outcome(6, 4, 0).is_complete());
        assert!(outcome(6, 6, 0).is_complete());
        assert!(outcome(6, 5, 1).is_complete());
        assert_eq!(outcome(9, 8, 1).since(outcome(3, 2, 1)), outcome(6, 6, 0));
    }

    #[test]
    fn what_clients_saw_is_told_as_it_is() {
        let invocation = Invocation::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        let told = |outcome, lasted| {
            let lines = conclusion(outcome, lasted, &invocation);
            lines.iter().map(|line| line.render(false)).collect::<Vec<_>>()
        };
        let lines = told(Outcome { failed: 6, rescued: 5, seen: 1 }, Some(Duration::from_millis(150)));
        assert_eq!(lines[0], "        It failed 6 requests, and was out 150 ms after the first.");
        assert_eq!(lines[1], "        blue answered 5 of them in its place; clients saw 1 error.");
        assert!(lines[3].ends_with(" undrain shop/canary --admin 127.0.0.1:1"), "{}", lines[3]);
        let lines = told(Outcome { failed: 6, rescued: 6, seen: 0 }, None);
        assert_eq!(lines[0], "        It failed 6 requests.");
        assert_eq!(lines[1], "        blue answered 6 of them in its place; clients saw 0 errors.");
    }
}
