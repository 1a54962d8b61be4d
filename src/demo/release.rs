//! The first act: a release moves most of the traffic, through the admin API of the proxy.

use std::time::Instant;

use super::backends::SERVICE;
use super::invocation::Invocation;
use super::line::{Line, Style};
use super::table::millis;
use crate::cli::{Client, put_weights};

const TITLE: &str = "Release green: most of the traffic moves over from blue, with one call.";
const WEIGHTS: [(&str, f64); 3] = [("blue", 20.0), ("green", 70.0), ("canary", 10.0)];

/// What is about to be done.
pub(super) fn announcement(invocation: &Invocation) -> Vec<Line> {
    vec![
        Line::default(),
        Line::default().with(Style::Bold, format!("  {TITLE}")),
        Line::from(format!("        $ {}", invocation.weights(&WEIGHTS))),
        Line::default().with(Style::Dim, format!("        {}", call())),
    ]
}

/// Sets the weights; says how it went.
pub(super) async fn shift(client: &Client) -> Vec<Line> {
    let weights = WEIGHTS.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
    let begun = Instant::now();
    let line = match put_weights(client, SERVICE, weights).await {
        Ok(_) => Line::default().with(Style::Dim, format!("        answered in {}", millis(Some(begun.elapsed())))),
        Err(error) => Line::default().with(Style::Red, format!("        {}", error.text)),
    };
    vec![line]
}

/// The HTTP call behind the command.
fn call() -> String {
    let weights: Vec<String> = WEIGHTS.iter().map(|(name, weight)| format!("\"{name}\":{weight}")).collect();
    format!("PUT /v1/services/{SERVICE}/weights {{{}}}", weights.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::backends::DEPLOYMENTS;
    use super::*;

    #[test]
    fn the_weights_of_all_backends_are_set() {
        assert!(WEIGHTS.iter().map(|(name, _)| *name).eq(DEPLOYMENTS.iter().map(|d| d.name)));
    }

    #[test]
    fn the_call_is_shown_as_it_is_made() {
        assert_eq!(call(), "PUT /v1/services/shop/weights {\"blue\":20,\"green\":70,\"canary\":10}");
    }
}
