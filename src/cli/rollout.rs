//! `tidegate rollouts`, and a person's word about the latest: promote, pause, resume, approve, abort, rollback.

use std::fmt::Write;

use super::args::{ApproveArgs, PromoteArgs, RolloutArgs, RolloutsArgs};
use super::client::{Client, segment};
use super::{CliError, print};
use crate::rollout::{Receipt, RolloutView, RolloutsView, WordBody};

pub(super) async fn promote(args: &PromoteArgs) -> Result<(), CliError> {
    let (full, override_freeze) = (args.full, args.override_freeze.clone());
    post(&args.rollout, "promote", WordBody { full, override_freeze, ..WordBody::default() }).await
}

pub(super) async fn approve(args: &ApproveArgs) -> Result<(), CliError> {
    let override_freeze = args.override_freeze.clone();
    post(&args.rollout, "approve", WordBody { override_freeze, ..WordBody::default() }).await
}

pub(super) async fn say(args: &RolloutArgs, word: &str) -> Result<(), CliError> {
    post(args, word, WordBody::default()).await
}

async fn post(args: &RolloutArgs, word: &str, body: WordBody) -> Result<(), CliError> {
    let body = WordBody { reason: args.reason.clone(), ..body };
    let body = serde_json::to_vec(&body).map_err(CliError::failed)?;
    let path = format!("{}/latest/{word}", path(&args.service));
    show(&Client::new(&args.admin).post(&path, body).await?, args.json)
}

pub(super) async fn list(args: &RolloutsArgs) -> Result<(), CliError> {
    let mut all: RolloutsView = Client::new(&args.admin).get(&path(&args.service)).await?;
    all.rollouts.truncate(args.limit);
    if args.json {
        return print(&serde_json::to_string_pretty(&all).map_err(CliError::failed)?);
    }
    if all.rollouts.is_empty() {
        return print("there was none yet");
    }
    print(all.rollouts.iter().map(rollout).collect::<Vec<_>>().join("\n").trim_end())
}

pub(super) fn show(view: &RolloutView, json: bool) -> Result<(), CliError> {
    if json {
        return print(&serde_json::to_string_pretty(view).map_err(CliError::failed)?);
    }
    print(rollout(view).trim_end())
}

pub(super) fn path(service: &str) -> String {
    format!("/v1/services/{}/rollouts", segment(service))
}

/// One rollout, as people read it.
pub(super) fn rollout(view: &RolloutView) -> String {
    let RolloutView { service, id, revision, backend, stable, strategy, .. } = view;
    let mut text =
        format!("{service} #{id}  {revision} into {backend}, beside {stable}  ({strategy}, by {})\n", view.by);
    let reason = view.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    let _ = writeln!(text, "  {}{reason}", view.state);
    if let Some(baseline) = &view.baseline {
        let now = view.progress.as_ref().filter(|_| !view.is_over()).map(|progress| &progress.compared_with);
        let now = now.map_or(String::new(), |now| format!("; compared with {now} now"));
        let _ = writeln!(text, "  baseline {}: a fresh copy of {stable}{now}", baseline.backend);
    }
    for (index, step) in view.plan.iter().enumerate() {
        let mark = match view.step {
            Some(now) if now == index + 1 => ">",
            _ if view.steps.iter().any(|taken| taken.step == index + 1) => "x",
            _ => " ",
        };
        let _ = writeln!(text, "  {mark} {}. {step}", index + 1);
    }
    if !view.is_over() {
        let _ = writeln!(text, "  {}", progress(view));
    }
    for gate in view.progress.iter().flat_map(|progress| &progress.gates) {
        let _ = writeln!(text, "  {} {}: {} ({})", gate.kind, gate.name, gate.standing, gate.reason);
    }
    if let Some(freeze) = &view.freeze_override {
        let _ = writeln!(text, "  goes on in a freeze, says {}: {}", freeze.by, freeze.why);
    }
    let _ = writeln!(text, "  {}", receipt(&view.receipt));
    let ended = view.ended.as_ref().map_or(String::new(), |ended| format!(", ended {ended}"));
    let _ = writeln!(text, "  began {}{ended}", view.began);
    text
}

/// How far it has come, in a line.
pub(super) fn progress(view: &RolloutView) -> String {
    let Some(progress) = &view.progress else { return view.state.clone() };
    let mut text = format!("{} requests, {} failed", progress.requests, progress.failures);
    if !progress.missing.is_empty() {
        text += &format!("; {}", progress.missing);
    }
    let seconds = progress.seconds_needed.map(|seconds| format!("{seconds:.0} s"));
    match (progress.requests_needed, seconds) {
        (Some(requests), Some(seconds)) => text += &format!("; needs about {requests} more requests, {seconds}"),
        (Some(requests), None) => text += &format!("; needs about {requests} more requests"),
        (None, _) => {}
    }
    text
}

fn receipt(receipt: &Receipt) -> String {
    let Receipt { requests, failures, rescued, seen_by_clients, .. } = receipt;
    let mut text = format!(
        "{requests} requests in all: {failures} failed, {rescued} of them rescued by stable, {seen_by_clients} seen by clients"
    );
    if let Some(clients) = receipt.clients {
        text += &format!(", {clients} clients failed");
    }
    if let Some(ms) = receipt.restored_after_ms {
        text += &format!("; restored {ms} ms after the first");
    }
    text
}
