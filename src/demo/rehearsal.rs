//! The first act: before green gets any traffic it gets copies of it, and adds up wrongly, which its answers show.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use super::backends::{GREEN, SERVICE, STABLE};
use super::fault::Fault;
use super::invocation::Invocation;
use super::line::{Line, Style};
use crate::admin::view::{MirrorBody, ServiceView, ShadowsView};
use crate::cli::{CliError, Client};
use crate::journal::Event;
use crate::shadow::ExampleView;

const TITLE: &str = "Mirror green: it gets a copy of every request, and answers nobody.";

/// Copies that are under way are answered by then.
const SETTLE: Duration = Duration::from_millis(300);

/// A release that is about to be compared.
#[derive(Debug)]
pub(super) struct Rehearsal {
    pub(super) client: Client,
    pub(super) mistake: Fault,
    /// The last verdict about green.
    pub(super) compared: watch::Receiver<Option<Event>>,
}

impl Rehearsal {
    pub(super) fn announcement(invocation: &Invocation) -> Vec<Line> {
        vec![
            Line::default(),
            Line::default().with(Style::Bold, format!("  {TITLE}")),
            Line::from(format!("        $ {}", invocation.mirror(GREEN))),
        ]
    }

    /// Has green answer wrongly until that is found; says what it was. `None` when there is no history to tell of it.
    pub(super) async fn run(mut self, invocation: &Invocation) -> Option<Vec<Line>> {
        self.mistake.begin();
        self.compared.mark_unchanged();
        let mirrored = mirror(&self.client, 100.0).await;
        if let Err(error) = mirrored {
            self.mistake.end();
            return Some(failed(&error));
        }
        let told = self.compared.wait_for(|event| event.as_ref().is_some_and(is_different)).await.is_ok();
        let path = format!("/v1/services/{SERVICE}/mirror");
        let found: Result<ShadowsView, CliError> = self.client.get(&path).await;
        self.mistake.end();
        // What is under way now is of before.
        sleep(SETTLE).await;
        let anew: Result<ShadowsView, CliError> = self.client.post(&format!("{path}/reset"), Vec::new()).await;
        if !told {
            return None;
        }
        match (found, anew) {
            (Ok(found), Ok(_)) => {
                let example = found.mirrors.first().and_then(|mirror| mirror.examples.first());
                Some(conclusion(example, invocation))
            }
            (Err(error), _) | (_, Err(error)) => Some(failed(&error)),
        }
    }

    /// No more copies: green gets requests of its own.
    pub(super) async fn end(client: &Client) {
        // Somebody may have been quicker, and that is fine.
        let _ = mirror(client, 0.0).await;
    }
}

/// Sets which share is copied.
async fn mirror(client: &Client, percent: f64) -> Result<(), CliError> {
    let body = MirrorBody { backend: GREEN.to_owned(), percent: Some(percent) };
    let body = serde_json::to_vec(&body).map_err(CliError::failed)?;
    client.put::<ServiceView>(&format!("/v1/services/{SERVICE}/mirror"), body).await.map(|_| ())
}

fn is_different(event: &Event) -> bool {
    event.detail["verdict"] == "different"
}

fn failed(error: &CliError) -> Vec<Line> {
    vec![Line::default().with(Style::Red, format!("        {}", error.text))]
}

fn conclusion(example: Option<&ExampleView>, invocation: &Invocation) -> Vec<Line> {
    let said = example.map(|example| {
        let (place, right, wrong) = (&example.place, &example.primary, &example.shadow);
        Line::from(format!("        {STABLE} says {place} is {right}, "))
            .with(Style::Red, format!("{GREEN} says {wrong}"))
            .with(Style::Plain, ". Nobody but tidegate has seen it.")
    });
    let told = [
        Line::from(format!("        Times and order numbers always differ: a second copy to {STABLE} tells that.")),
        Line::from(format!("        {GREEN} is repaired by now, and compared anew:")),
        Line::from(format!("        $ {}", invocation.compare_anew())),
    ];
    said.into_iter().chain(told).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn what_both_said_is_shown() {
        let example = ExampleView {
            at: "2026-01-01T00:00:00.000Z".into(),
            request_id: "7c0f".into(),
            method: "GET".into(),
            path: "/cart".into(),
            route: None,
            place: "$.total".into(),
            change: "changed".into(),
            primary: "19.99".into(),
            shadow: "19.98".into(),
        };
        let invocation = Invocation::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        let lines = conclusion(Some(&example), &invocation);
        let lines: Vec<String> = lines.iter().map(|line| line.render(false)).collect();
        assert_eq!(lines[0], "        blue says $.total is 19.99, green says 19.98. Nobody but tidegate has seen it.");
        assert!(lines[3].ends_with(" shadow shop --reset --admin 127.0.0.1:1"), "{}", lines[3]);
        assert_eq!(conclusion(None, &invocation).len(), 3);
    }
}
