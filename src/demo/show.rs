//! What is seen: an opening with what to open and try, the table as it changes, and a closing summary.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::history::{History, clock};
use super::invocation::Invocation;
use super::line::{Line, Style};
use super::notes::Notes;
use super::reading::{Reading, Row};
use super::screen::Screen;
use super::stage::{ADMIN_PORT, PROXY_PORT, Stage};
use super::table::{grouped, millis, share, table};
use super::traffic::Tally;
use crate::state::Store;

/// How long what counts as recent goes back.
const RECENT: Duration = Duration::from_secs(1);
/// Readings are taken a few times a second.
const READINGS_MAX: usize = 16;
/// Where lines can't be redrawn, there is one for each such time.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

/// The demo as it is shown.
#[derive(Debug)]
pub(super) struct Show {
    proxy: SocketAddr,
    admin: SocketAddr,
    store: Arc<Store>,
    tally: Arc<Tally>,
    screen: Screen,
    notes: Notes,
    invocation: Invocation,
    lasts: Option<Duration>,
    started: Instant,
    history: History,
    /// Oldest first.
    recent: VecDeque<Reading>,
    next_line: Instant,
}

impl Show {
    pub(super) fn new(stage: &Stage, notes: Notes, invocation: Invocation, lasts: Option<Duration>) -> Self {
        let (store, started) = (stage.store(), Instant::now());
        let first = Reading::take(&store, started);
        Self {
            proxy: stage.proxy,
            admin: stage.admin,
            store,
            tally: stage.tally(),
            screen: Screen::stdout(),
            notes,
            invocation,
            lasts,
            started,
            history: History::new(first.clone()),
            recent: VecDeque::from([first]),
            next_line: started + LINE_INTERVAL,
        }
    }

    /// When it began.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Says what there is to see.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let (proxy, admin) = (self.proxy, self.admin);
        let title = "tidegate demo: one service, its releases, and real requests through the proxy";
        let link = |label: &str, url: String, what: &str| {
            Line::from(format!("  {label:8}{url:35}")).with(Style::Dim, format!("  {what}"))
        };
        let mut lines = vec![
            Line::default().with(Style::Bold, title),
            Line::default(),
            link("open", format!("http://{proxy}/"), "each reload is split anew"),
            link("", format!("http://{admin}/v1/services"), "what is in force"),
            link("", format!("http://{admin}/metrics"), "for Prometheus"),
            Line::from("  try     in another terminal:"),
            Line::from(format!("          {}", self.invocation.rollouts())),
        ];
        for (address, port) in [(proxy, PROXY_PORT), (admin, ADMIN_PORT)] {
            if address.port() != port {
                let text = format!("  note    port {port} is in use here, so this is on port {}", address.port());
                lines.push(Line::from(text));
            }
        }
        if !self.screen.is_live() {
            lines.push(Line::default());
            lines.push(self.history.weights_in_force(self.started));
        }
        self.tell(&lines)
    }

    /// Says something about what is going on.
    pub(super) fn tell(&mut self, lines: &[Line]) -> io::Result<()> {
        self.screen.tell(lines)?;
        self.refresh()
    }

    /// Takes a reading and shows it, with what else there is to say by now.
    pub(super) fn refresh(&mut self) -> io::Result<()> {
        let reading = Reading::take(&self.store, Instant::now());
        let mut news = self.notes.take();
        news.extend(self.history.see(&reading));
        if !news.is_empty() {
            self.screen.tell(&news)?;
        }
        self.remember(&reading);
        let rows = self.recent.front().map(|earlier| (reading.since(earlier), reading.at - earlier.at));
        let Some((rows, span)) = rows else { return Ok(()) };
        if self.screen.is_live() {
            return self.screen.draw(self.frame(&rows, span));
        }
        if reading.at < self.next_line {
            return Ok(());
        }
        self.next_line += LINE_INTERVAL;
        self.screen.tell(&[self.line(&rows, span)])
    }

    /// Keeps what is recent, and only what came under the present weights, so that a change shows at once.
    fn remember(&mut self, reading: &Reading) {
        let changed_at = self.history.changed_at();
        self.recent.push_back(reading.clone());
        let outdated = |second: &Reading| reading.at - second.at >= RECENT;
        while self.recent.len() > READINGS_MAX
            || self.recent.front().is_some_and(|first| first.at < changed_at)
            || self.recent.get(1).is_some_and(outdated)
        {
            self.recent.pop_front();
        }
    }

    /// What a terminal shows in place.
    fn frame(&self, rows: &[Row], span: Duration) -> Vec<Line> {
        let width = Screen::width();
        let mut lines = vec![Line::default()];
        lines.extend(table(rows, width));
        lines.push(Line::default());
        let time = clock(self.started.elapsed());
        let time = self.lasts.map_or(time.clone(), |lasts| format!("{time} of {}", clock(lasts)));
        let tally = &self.tally;
        let bad = |count| if count > 0 { Style::Red } else { Style::Plain };
        let status = Line::default()
            .with(Style::Dim, format!("  {time}  "))
            .with(Style::Plain, format!("{}  {} sent  ", rate(rows, span), grouped(tally.sent())))
            .with(bad(tally.errors()), format!("{} errors  ", grouped(tally.errors())))
            .with(bad(tally.lost()), format!("{} lost", grouped(tally.lost())));
        let hint = "Ctrl-C ends";
        let room = width.saturating_sub(status.width());
        let padded = if room > hint.len() + 2 { format!("  {hint}") } else { String::new() };
        lines.push(status.with(Style::Dim, padded));
        lines
    }

    /// The same for a reader of lines.
    fn line(&self, rows: &[Row], span: Duration) -> Line {
        let backends = rows.iter().map(|row| {
            let p99 = row.p99.filter(|_| !row.drained);
            let p99 = p99.map_or(String::new(), |p99| format!(" (p50 {}, p99 {})", millis(row.p50), millis(Some(p99))));
            format!("  {} {}{p99}", row.name, share(row))
        });
        let backends: String = backends.collect();
        let time = clock(self.started.elapsed());
        let (errors, lost) = (self.tally.errors(), self.tally.lost());
        Line::from(format!("  {time}  {}{backends}  {errors} errors  {lost} lost", rate(rows, span)))
    }

    /// Says that the end has begun.
    pub(super) fn stopping(&mut self) -> io::Result<()> {
        let time = clock(self.started.elapsed());
        let text = "stopping, with answers to all requests under way (Ctrl-C again: at once)";
        self.tell(&[Line::default().with(Style::Dim, format!("  {time}  {text}"))])
    }

    /// Says what it came to. Everything has stopped by now, which took so long.
    pub(super) fn close(&mut self, stopping_took: Duration) -> io::Result<()> {
        let end = Reading::take(&self.store, Instant::now());
        let mut lines = self.notes.take();
        lines.push(Line::default());
        lines.push(Line::default().with(Style::Bold, "  What each backend got (and what its weight says):"));
        lines.extend(self.history.summary(&end));
        let tally = &self.tally;
        let rescued = "of them rescued by stable";
        let mut counts = vec![(tally.answered(), "answered"), (tally.errors(), "errors"), (tally.lost(), "lost")];
        if end.rescued() > 0 {
            counts.insert(1, (end.rescued(), rescued));
        }
        if tally.under_way() > 0 {
            counts.push((tally.under_way(), "cut off by the hurried end"));
        }
        let counts = counts.iter().map(|(count, what)| format!("{} {what}", grouped(*count)));
        let counts = counts.collect::<Vec<_>>().join(", ");
        let program = self.invocation.program();
        lines.extend([
            Line::default(),
            Line::default().with(Style::Bold, format!("  {} requests: {counts}.", grouped(tally.sent()))),
            Line::from(format!("  Stopped in {}.", millis(Some(stopping_took)))),
            Line::default(),
            Line::from("  Next: put your own backends into proxy.toml, then"),
            Line::from(format!("        {program} check && {program} run")),
        ]);
        self.screen.tell(&lines)
    }
}

fn rate(rows: &[Row], span: Duration) -> String {
    let requests: u64 = rows.iter().map(|row| row.recent).sum();
    let seconds = span.as_secs_f64();
    let rate = if seconds > 0.0 { requests as f64 / seconds } else { 0.0 };
    format!("{rate:.0} requests/s")
}
