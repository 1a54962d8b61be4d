//! What the proxy's own history says of the service while it happens: what the guard does, and what people do to it in
//! another terminal.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::backends::SERVICE;
use super::history::clock;
use super::line::{Line, Style};
use super::story::Teller;
use crate::cli::{CliError, Client, Reader};
use crate::journal::{Event, told as in_words};

/// Tells events as they come, for as long as the proxy lives.
#[derive(Debug)]
pub(super) struct Chronicle {
    /// When the show began.
    pub(super) started: Instant,
    pub(super) teller: Teller,
    /// Where the last verdict about green is put.
    pub(super) compared: watch::Sender<Option<Event>>,
}

impl Chronicle {
    pub(super) async fn keep(self, client: &Client) {
        let take = |data: &str| {
            let event: Event = serde_json::from_str(data).map_err(CliError::failed)?;
            if let Some(lines) = lines(self.started.elapsed(), &event) {
                // There is room but for those who change a lot at once; the history itself has all of it.
                let _ = self.teller.try_send(lines);
            }
            if event.kind == "shadow_verdict" {
                self.compared.send_replace(Some(event));
            }
            Ok(Reader::There)
        };
        if let Err(error) = client.follow(&format!("/v1/events?service={SERVICE}"), take).await {
            let line = Line::default().with(Style::Red, format!("  the history can't be read: {}", error.text));
            let _ = self.teller.try_send(vec![line]);
        }
    }
}

/// What and who, then why. `None` for weights: those in force are shown anyway, whoever has set them.
fn lines(elapsed: Duration, event: &Event) -> Option<Vec<Line>> {
    if matches!(event.kind.as_str(), "weights_changed" | "weights_reset" | "override_ended") {
        return None;
    }
    let line = Line::default()
        .with(Style::Dim, format!("  {}  ", clock(elapsed)))
        .with(Style::Bold, event.kind.replace('_', " "))
        .with(Style::Plain, format!(" by {}", event.by));
    Some(vec![line, Line::from(format!("        {}", in_words(event)))])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, by: &str, detail: serde_json::Value) -> Event {
        let at = "2026-01-01T00:00:00.000Z".into();
        Event { id: 7, at, by: by.into(), kind: kind.into(), service: Some(SERVICE.into()), detail }
    }

    fn told(event: &Event) -> Option<Vec<String>> {
        let lines = lines(Duration::from_secs(65), event)?;
        Some(lines.iter().map(|line| line.render(false)).collect())
    }

    #[test]
    fn an_event_is_told_with_who_and_why() {
        let drained = event("drained", "tidegate", json!({ "backend": "canary", "reason": "5 in a row" }));
        assert_eq!(told(&drained).unwrap(), ["  1:05  drained by tidegate", "        canary: 5 in a row"]);
        let held = event("held", "ada (cli)", json!({ "seconds": 30.0, "requests": 10 }));
        assert_eq!(told(&held).unwrap()[0], "  1:05  held by ada (cli)");
    }

    #[test]
    fn weights_are_not_told_twice() {
        assert_eq!(told(&event("weights_changed", "ada (cli)", json!({}))), None);
    }
}
