//! `tidegate deploy`: begin a rollout, and with `--wait` see it through.

use std::time::{Duration, Instant};

use super::args::{DeployArgs, DeployStrategy};
use super::client::Client;
use super::rollout::{path, progress, rollout};
use super::{CliError, Reader, print, show};
use crate::model::Strategy;
use crate::rollout::{DeployBody, RolloutView};

const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// Between two lines about a step that goes on.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// A proxy that restarts is back within this.
const PATIENCE: Duration = Duration::from_secs(30);
const BAR_CELLS: usize = 20;

pub(super) async fn run(args: &DeployArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let body = DeployBody {
        revision: args.revision.clone(),
        endpoints: args.endpoints.clone(),
        baseline_endpoints: args.baseline_endpoints.clone(),
        backend: args.backend.clone(),
        commit: args.commit.clone(),
        commit_time: args.commit_time.clone(),
        author: args.author.clone(),
        link: args.link.clone(),
        strategy: args.strategy.map(|strategy| match strategy {
            DeployStrategy::Canary => Strategy::Canary,
            DeployStrategy::BlueGreen => Strategy::BlueGreen,
        }),
        retry: args.retry,
        override_freeze: args.override_freeze.clone(),
    };
    let body = serde_json::to_vec(&body).map_err(CliError::failed)?;
    let mut view: RolloutView = client.post(&path(&args.service), body).await?;
    if args.wait {
        view = wait(&client, view, args.json).await?;
    }
    if args.json {
        print(&serde_json::to_string_pretty(&view).map_err(CliError::failed)?)?;
    } else {
        print(rollout(&view).trim_end())?;
    }
    // What only began isn't over; what is over says how.
    if view.is_over() && view.state != "completed" {
        return Err(CliError::failed(format!("{} was not rolled out: {}", view.revision, ending(&view))));
    }
    Ok(())
}

fn ending(view: &RolloutView) -> String {
    let reason = view.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
    format!("{}{reason}", view.state)
}

/// Until it is over.
async fn wait(client: &Client, mut view: RolloutView, json: bool) -> Result<RolloutView, CliError> {
    let path = format!("{}/{}", path(&view.service), view.id);
    let (mut told, mut told_at, mut answered) = (None, Instant::now(), Instant::now());
    loop {
        let now = (view.state.clone(), view.step);
        if !json && (told.as_ref() != Some(&now) || told_at.elapsed() >= LINE_INTERVAL) {
            if show(&line(&view))? == Reader::Gone {
                return Ok(view);
            }
            (told, told_at) = (Some(now), Instant::now());
        }
        if view.is_over() {
            return Ok(view);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
        match client.get(&path).await {
            Ok(now) => (view, answered) = (now, Instant::now()),
            // It goes on after a restart of the proxy, and so do we.
            Err(error) if answered.elapsed() >= PATIENCE => return Err(error),
            Err(_) => {}
        }
    }
}

/// `[=====               ]  25 %  step 3 of 4  …`
fn line(view: &RolloutView) -> String {
    let filled = ((view.percent / 100.0 * BAR_CELLS as f64).round() as usize).min(BAR_CELLS);
    let bar = format!("[{}{}]", "=".repeat(filled), " ".repeat(BAR_CELLS - filled));
    let step = view.step.map_or(String::new(), |step| format!("  step {step} of {}", view.plan.len()));
    let what = match view.state.as_str() {
        "under way" | "starting" => progress(view),
        _ => ending(view),
    };
    format!("{bar} {:>5} %{step}  {what}", (view.percent * 100.0).round() / 100.0)
}
