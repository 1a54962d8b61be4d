//! The weights that were in force one after the other, whoever set them, and what the backends got under each.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::line::{Line, Style};
use super::reading::{Reading, Row};
use super::table::{grouped, percent};

/// Older periods are forgotten.
const PERIODS_MAX: usize = 8;
/// How long after a change it is told what came of it: a second, less what timers are off by.
const EFFECT_AFTER: Duration = Duration::from_millis(990);

/// What has been in force since the start.
#[derive(Debug)]
pub(super) struct History {
    started: Instant,
    /// The last one is the present one. Never empty.
    periods: VecDeque<Period>,
}

/// A time during which no weight changed.
#[derive(Debug)]
struct Period {
    start: Reading,
    /// It was told what the backends got, or needn't be.
    told: bool,
}

impl History {
    pub(super) fn new(start: Reading) -> Self {
        Self { started: start.at, periods: VecDeque::from([Period { start, told: true }]) }
    }

    /// Takes note of `reading`; says what there is to tell about weights that have just changed, or had a while ago.
    pub(super) fn see(&mut self, reading: &Reading) -> Vec<Line> {
        let Some(present) = self.periods.back_mut() else { return Vec::new() };
        let time = clock(reading.at - self.started);
        if present.start.weights() != reading.weights() {
            self.periods.push_back(Period { start: reading.clone(), told: false });
            if self.periods.len() > PERIODS_MAX {
                self.periods.pop_front();
            }
            return vec![self.weights_in_force(reading.at)];
        }
        if present.told || reading.at - present.start.at < EFFECT_AFTER {
            return Vec::new();
        }
        present.told = true;
        let line = Line::default().with(Style::Dim, format!("  {time}  ")).with(Style::Plain, "the next second: ");
        vec![shares(line, &reading.since(&present.start))]
    }

    /// Says which weights are in force at this time.
    pub(super) fn weights_in_force(&self, at: Instant) -> Line {
        let weights = self.periods.back().map_or(String::new(), |present| present.start.weights());
        let line = Line::default().with(Style::Dim, format!("  {}  ", clock(at - self.started)));
        line.with(Style::Bold, weights).with(Style::Plain, " in force")
    }

    /// When the present weights came into force.
    pub(super) fn changed_at(&self) -> Instant {
        self.periods.back().map_or(self.started, |present| present.start.at)
    }

    /// One line for each period, the last of which ends with `end`.
    pub(super) fn summary(&self, end: &Reading) -> Vec<Line> {
        let ends = self.periods.iter().skip(1).map(|period| &period.start).chain(std::iter::once(end));
        let rows: Vec<Vec<Row>> = self.periods.iter().zip(ends.clone()).map(|(p, end)| period_rows(p, end)).collect();
        let names = rows.first().into_iter().flatten();
        let header = Line::default().with(Style::Dim, format!("  {:13}{:>10}", "TIME", "REQUESTS"));
        let header = names.fold(header, |line, row| line.with(row.style, format!("   {:15}", row.name)));
        let times = self.periods.iter().zip(ends).map(|(p, end)| (p.start.at - self.started, end.at - self.started));
        let body = times.zip(&rows).map(|((from, to), rows)| {
            let time = format!("{} to {}", clock(from), clock(to));
            let line = Line::from(format!("  {time:13}{:>10}", grouped(rows.iter().map(|row| row.recent).sum())));
            rows.iter().fold(line, |line, row| line.with(Style::Plain, format!("   {:15}", got(row))))
        });
        std::iter::once(header).chain(body).collect()
    }
}

/// What the backends got during `period`, under the weights that were in force then.
fn period_rows(period: &Period, end: &Reading) -> Vec<Row> {
    end.under_the_weights_of(&period.start).since(&period.start)
}

/// The share a backend got, and the one its weight stands for.
fn got(row: &Row) -> String {
    format!("{:>5} ({})", percent(row.share), percent(Some(row.expected)).replace(".0%", "%"))
}

/// `line`, followed by what each backend got.
fn shares(line: Line, rows: &[Row]) -> Line {
    let line = rows.iter().fold(line, |line, row| {
        line.with(row.style, format!("{} {}", row.name, percent(row.share))).with(Style::Plain, "  ")
    });
    line.with(Style::Plain, format!("of {} requests", grouped(rows.iter().map(|row| row.recent).sum())))
}

/// Minutes and seconds since the start, as in `1:05`.
pub(super) fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::super::reading::tests::reading;
    use super::*;

    fn text(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| line.render(false)).collect()
    }

    #[test]
    fn a_change_is_told_at_once_and_its_effect_a_second_later() {
        let start = Instant::now();
        let at = |ms, counts| reading(start + Duration::from_millis(ms), counts);
        let mut history = History::new(at(0, [(90.0, 0, 0), (10.0, 0, 0)]));
        assert!(history.see(&at(2_000, [(90.0, 180, 0), (10.0, 20, 0)])).is_empty());
        let told = history.see(&at(5_000, [(50.0, 450, 0), (50.0, 50, 0)]));
        assert_eq!(text(&told), ["  0:05  blue=50 canary=50 in force"]);
        assert!(history.see(&at(5_900, [(50.0, 500, 0), (50.0, 95, 0)])).is_empty());
        let told = history.see(&at(6_000, [(50.0, 501, 0), (50.0, 99, 0)]));
        assert_eq!(text(&told), ["  0:06  the next second: blue 51.0%  canary 49.0%  of 100 requests"]);
        assert!(history.see(&at(7_000, [(50.0, 550, 0), (50.0, 150, 0)])).is_empty());
        let end = at(65_000, [(50.0, 1_450, 0), (50.0, 1_050, 0)]);
        assert_eq!(
            text(&history.summary(&end)),
            [
                "  TIME           REQUESTS   blue              canary",
                "  0:00 to 0:05        500   90.0% (90%)       10.0% (10%)",
                "  0:05 to 1:05      2,000   50.0% (50%)       50.0% (50%)",
            ]
        );
    }

    #[test]
    fn only_the_last_periods_are_kept() {
        let start = Instant::now();
        let mut history = History::new(reading(start, [(1.0, 0, 0), (0.0, 0, 0)]));
        for weight in 0..100 {
            history.see(&reading(start, [(1.0, 0, 0), (f64::from(weight), 0, 0)]));
        }
        assert_eq!(history.periods.len(), PERIODS_MAX);
    }
}
