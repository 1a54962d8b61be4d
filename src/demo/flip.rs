//! The fourth act: the release is repaired, and gets everything at once, as blue/green; the way back is one command.

use std::time::Instant;

use super::invocation::Invocation;
use super::line::Line;
use super::release::{Release, failed, until};
use super::table::millis;
use crate::cli::Client;

const TITLE: &str = "It is repaired. Release it blue/green: every request of every worker, at once.";

/// A release without any steps.
#[derive(Debug)]
pub(super) struct Flip {
    pub(super) client: Client,
    pub(super) release: Release,
}

impl Flip {
    pub(super) fn announcement(&self, invocation: &Invocation) -> Vec<Line> {
        self.release.announcement(TITLE, invocation)
    }

    /// Has it done; says how to have it undone.
    pub(super) async fn run(&self, invocation: &Invocation) -> Vec<Line> {
        let asked = Instant::now();
        let flipped = async {
            let begun = self.release.begin(&self.client).await?;
            until(&self.client, begun, |view| view.is_over() || view.percent >= 100.0).await
        };
        match flipped.await {
            Ok(view) => vec![
                Line::from(format!(
                    "        {} has all of it, {} after it was asked for, and is watched for 10 minutes.",
                    view.backend,
                    millis(Some(asked.elapsed()))
                )),
                Line::from("        Back, as quickly:"),
                Line::from(format!("        $ {}", invocation.rollback())),
            ],
            Err(error) => failed(&error),
        }
    }
}
