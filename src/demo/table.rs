//! The table of the split: one row for each backend, in as many columns as the terminal has room for.

use std::time::Duration;

use super::line::{Line, Style};
use super::reading::Row;

/// Between columns, and before the first.
const GAP: &str = "  ";
const BAR_MIN: usize = 8;
const BAR_MAX: usize = 40;
const DRAINED: &str = "drained";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Backend,
    Weight,
    Share,
    /// The share drawn, so many characters long.
    Bar(usize),
    Requests,
    Errors,
    P50,
    P99,
}

/// In the order of the table.
const COLUMNS: [Column; 7] =
    [Column::Backend, Column::Weight, Column::Share, Column::Requests, Column::Errors, Column::P50, Column::P99];

/// What a terminal too narrow for everything goes without, first things first.
const DISPENSABLE: [Column; 4] = [Column::P50, Column::Errors, Column::Requests, Column::P99];

/// The table, with its header, within `width` columns where at all possible.
pub(super) fn table(rows: &[Row], width: usize) -> Vec<Line> {
    let columns = columns(rows, width);
    let header = columns.iter().fold(Line::default(), |line, (column, width)| {
        line.with(Style::Plain, GAP).with(Style::Dim, column.aligned(column.title(), *width))
    });
    let body = rows.iter().map(|row| {
        columns.iter().fold(Line::default(), |line, (column, width)| {
            line.with(Style::Plain, GAP).with(column.style(row), column.aligned(&column.cell(row), *width))
        })
    });
    std::iter::once(header).chain(body).collect()
}

/// The columns that fit, with their widths. What is left over is the bar's.
fn columns(rows: &[Row], width: usize) -> Vec<(Column, usize)> {
    let mut columns: Vec<(Column, usize)> = COLUMNS.iter().map(|column| (*column, column.width(rows))).collect();
    let needed = |columns: &[(Column, usize)]| columns.iter().map(|(_, width)| GAP.len() + width).sum::<usize>();
    for dispensable in DISPENSABLE {
        if needed(&columns) <= width {
            break;
        }
        columns.retain(|(column, _)| *column != dispensable);
    }
    let room = width.saturating_sub(needed(&columns) + GAP.len());
    if room >= BAR_MIN {
        let bar = room.min(BAR_MAX);
        columns.insert(3, (Column::Bar(bar), bar));
    }
    columns
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Backend => "BACKEND",
            Self::Weight => "WEIGHT",
            Self::Share => "SHARE",
            Self::Bar(_) => "",
            Self::Requests => "REQUESTS",
            Self::Errors => "ERRORS",
            Self::P50 => "P50",
            Self::P99 => "P99",
        }
    }

    fn cell(self, row: &Row) -> String {
        match self {
            Self::Backend => row.name.clone(),
            Self::Weight => row.weight.to_string(),
            Self::Share => share(row),
            Self::Bar(length) => bar(row.share.unwrap_or(0.0), length),
            Self::Requests => grouped(row.requests),
            Self::Errors => grouped(row.errors),
            Self::P50 => millis(row.p50),
            Self::P99 => millis(row.p99),
        }
    }

    fn style(self, row: &Row) -> Style {
        match self {
            Self::Share if row.drained => Style::Red,
            Self::Backend | Self::Share | Self::Bar(_) => row.style,
            Self::Errors if row.errors > 0 => Style::Red,
            _ => Style::Plain,
        }
    }

    /// Wide enough for what the column holds most of the time, so that the table doesn't jump about.
    fn width(self, rows: &[Row]) -> usize {
        let usual = match self {
            Self::P50 | Self::P99 => 8,
            Self::Share => DRAINED.len(),
            _ => self.title().len(),
        };
        rows.iter().map(|row| self.cell(row).chars().count()).fold(usual, usize::max)
    }

    /// Names and bars to the left, numbers to the right.
    fn aligned(self, text: &str, width: usize) -> String {
        match self {
            Self::Backend | Self::Bar(_) => format!("{text:width$}"),
            _ => format!("{text:>width$}"),
        }
    }
}

/// What a backend gets, or that it gets nothing, whatever its weight.
pub(super) fn share(row: &Row) -> String {
    if row.drained { DRAINED.to_owned() } else { percent(row.share) }
}

/// `share` of `length` blocks; anything above nothing shows.
fn bar(share: f64, length: usize) -> String {
    let blocks = (share * length as f64).round() as usize;
    let blocks = if share > 0.0 { blocks.max(1) } else { blocks };
    "█".repeat(blocks.min(length))
}

/// `20.3%`; a dash where there is nothing to have a share of.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or("-".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

/// A latency, to about three digits; a dash where there is none.
pub(super) fn millis(duration: Option<Duration>) -> String {
    match duration.map(|d| d.as_secs_f64() * 1000.0) {
        None => "-".to_owned(),
        Some(ms) if ms < 99.95 => format!("{ms:.1} ms"),
        Some(ms) => format!("{ms:.0} ms"),
    }
}

/// `12,345`
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |name: &str, style, weight, share, requests, p99| Row {
            name: name.to_owned(),
            style,
            weight,
            drained: false,
            expected: weight / 100.0,
            share,
            recent: 0,
            requests,
            errors: 0,
            p50: p99,
            p99,
        };
        vec![
            row("blue", Style::Blue, 99.5, Some(0.995), 1_234_567, Some(Duration::from_micros(4_321))),
            row("canary", Style::Green, 0.5, Some(0.005), 42, Some(Duration::from_millis(1234))),
            row("green", Style::Green, 0.0, None, 0, None),
        ]
    }

    fn shown(width: usize) -> Vec<String> {
        table(&rows(), width).iter().map(|line| line.render(false)).collect()
    }

    #[test]
    fn eighty_columns_hold_everything() {
        assert_eq!(
            shown(80),
            [
                "  BACKEND  WEIGHT    SHARE                  REQUESTS  ERRORS       P50       P99",
                "  blue       99.5    99.5%  █████████████  1,234,567       0    4.3 ms    4.3 ms",
                "  canary      0.5     0.5%  █                     42       0   1234 ms   1234 ms",
                "  green         0        -                         0       0         -         -",
            ]
        );
    }

    #[test]
    fn every_width_that_a_terminal_can_have_is_kept_to() {
        for width in 27..200 {
            assert!(table(&rows(), width).iter().all(|line| line.width() <= width), "{width}");
        }
        assert_eq!(shown(30)[0], "  BACKEND  WEIGHT    SHARE");
        assert_eq!(table(&rows(), 3).len(), 4);
    }

    #[test]
    fn a_drained_backend_says_so_at_every_width() {
        let mut rows = rows();
        (rows[1].drained, rows[1].weight, rows[1].share) = (true, 0.0, Some(0.0));
        for width in [27, 40, 80, 120] {
            let canary = table(&rows, width).remove(2).render(false);
            assert!(canary.starts_with("  canary        0  drained"), "{canary}");
        }
    }

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(percent(Some(0.12345)), "12.3%");
        assert_eq!(millis(Some(Duration::from_micros(99_960))), "100 ms");
        assert_eq!((bar(0.001, 10), bar(0.0, 10), bar(1.0, 4)), ("█".into(), String::new(), "████".into()));
    }
}
