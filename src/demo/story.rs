//! What happens while the traffic flows: a list of acts, played one after the other.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::backends::SERVICE;
use super::invocation::Invocation;
use super::line::{Line, Style};
use super::table::millis;
use crate::cli::{Client, put_weights};

/// A shift of weights, and why somebody would want it.
#[derive(Debug)]
struct Act {
    /// Since the act before.
    after: Duration,
    title: &'static str,
    weights: &'static [(&'static str, f64)],
}

const ACTS: [Act; 1] = [Act {
    after: Duration::from_secs(5),
    title: "Release green: most of the traffic moves over from blue, with one call.",
    weights: &[("blue", 20.0), ("green", 70.0), ("canary", 10.0)],
}];

/// Where the acts' lines go.
pub(super) type Teller = mpsc::Sender<Vec<Line>>;

/// Plays all acts, through the admin API of the proxy. In a demo that `lasts` only so long, they come early enough
/// for their effect to be seen.
pub(super) async fn play(client: Client, invocation: Invocation, lasts: Option<Duration>, teller: Teller) {
    let soonest = lasts.map_or(Duration::MAX, |lasts| lasts / (ACTS.len() as u32 + 1));
    for act in &ACTS {
        tokio::time::sleep(act.after.min(soonest)).await;
        // An error says that the demo is over.
        if teller.send(act.announcement(&invocation)).await.is_err()
            || teller.send(act.shift(&client).await).await.is_err()
        {
            return;
        }
    }
}

impl Act {
    fn announcement(&self, invocation: &Invocation) -> Vec<Line> {
        vec![
            Line::default(),
            Line::default().with(Style::Bold, format!("  {}", self.title)),
            Line::from(format!("        $ {}", invocation.weights(self.weights))),
            Line::default().with(Style::Dim, format!("        {}", self.call())),
        ]
    }

    /// Sets the weights; says how it went.
    async fn shift(&self, client: &Client) -> Vec<Line> {
        let weights: Vec<(String, f64)> = self.weights.iter().map(|(name, w)| ((*name).to_owned(), *w)).collect();
        let begun = Instant::now();
        let line = match put_weights(client, SERVICE, weights).await {
            Ok(_) => Line::default().with(Style::Dim, format!("        answered in {}", millis(Some(begun.elapsed())))),
            Err(error) => Line::default().with(Style::Red, format!("        {}", error.text)),
        };
        vec![line]
    }

    /// The HTTP call behind the command.
    fn call(&self) -> String {
        let weights: Vec<String> = self.weights.iter().map(|(name, w)| format!("\"{name}\":{w}")).collect();
        format!("PUT /v1/services/{SERVICE}/weights {{{}}}", weights.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::super::backends::DEPLOYMENTS;
    use super::*;

    #[test]
    fn every_act_sets_the_weights_of_all_backends() {
        for act in &ACTS {
            assert!(act.weights.iter().map(|(name, _)| *name).eq(DEPLOYMENTS.iter().map(|d| d.name)), "{}", act.title);
        }
    }

    #[test]
    fn the_call_is_shown_as_it_is_made() {
        let call = "PUT /v1/services/shop/weights {\"blue\":20,\"green\":70,\"canary\":10}";
        assert_eq!(ACTS[0].call(), call);
    }
}
