//! The second act: a whole canary, from its first few requests to all of them.

use super::backends::{DEPLOYMENTS, GREEN};
use super::invocation::Invocation;
use super::line::Line;
use super::release::{Release, failed, until};
use super::table::grouped;
use crate::cli::Client;
use crate::rollout::RolloutView;

const TITLE: &str = "Release it as a canary: 5 %, 25 %, then all, each step if nothing speaks against it.";

/// A good release.
#[derive(Debug)]
pub(super) struct Canary {
    pub(super) client: Client,
    /// Green's.
    pub(super) release: Release,
}

impl Canary {
    pub(super) fn announcement(&self, invocation: &Invocation) -> Vec<Line> {
        self.release.announcement(TITLE, invocation)
    }

    /// Sees it through; says what it came to.
    pub(super) async fn run(&self) -> Vec<Line> {
        let over = async {
            let begun = self.release.begin(&self.client).await?;
            until(&self.client, begun, RolloutView::is_over).await
        };
        match over.await {
            Ok(view) => conclusion(&view),
            Err(error) => failed(&error),
        }
    }
}

fn conclusion(view: &RolloutView) -> Vec<Line> {
    let (requests, failures) = (grouped(view.receipt.requests), grouped(view.receipt.failures));
    let mut lines = vec![Line::from(format!("        It has taken {requests} requests, and failed {failures}."))];
    if view.state == "completed" {
        let old = DEPLOYMENTS.iter().find(|deployment| deployment.name != GREEN).map_or("", |old| old.revision);
        let text = format!("        {} is stable now; {} stays warm with {old}.", view.backend, view.stable);
        lines.push(Line::from(text));
    }
    lines
}
