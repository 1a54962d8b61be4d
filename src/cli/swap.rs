//! `tidegate swap`: a command under a hold. Requests wait while it runs, and go on once what runs there is ready; at the
//! latest when the hold's time is over.

use std::collections::HashMap;
use std::time::Instant;

use serde_json::json;
use tokio::sync::watch;

use super::args::SwapArgs;
use super::child::{Output, Stop, Template, pause};
use super::client::{Client, segment};
use super::roll::{LOOK_INTERVAL, bytes, line};
use super::{CliError, Signals, plural, print, show};
use crate::admin::view::{EndBody, EndpointsView, HoldBody, ReadinessView, ServiceView};
use crate::model::{RollOutcome, format_duration};

pub(super) async fn run(args: &SwapArgs) -> Result<(), CliError> {
    let output = if args.json { Output::Stderr } else { Output::Ours };
    let command = Template::new(&args.command, &["service"], output)?;
    let mut signals = Signals::new().map_err(CliError::failed)?;
    let (tell, stop) = watch::channel(None);
    let swap =
        Swap { args, client: Client::new(&args.admin), path: format!("/v1/services/{}", segment(&args.service)), stop };
    let before: ServiceView = swap.client.get(&swap.path).await?;
    if before.hold.is_some() {
        return Err(CliError::failed(format!(
            "{} is held already; first: tidegate release {}",
            args.service, args.service
        )));
    }
    let backend = swapped_backend(args, &before)?;
    let body = HoldBody { time: format_duration(args.duration), requests: args.requests };
    let held: ServiceView = swap.client.put(&format!("{}/hold", swap.path), bytes(&body)?).await?;
    let watching = async {
        signals.next().await;
        tell.send_replace(Some("interrupted".to_owned()));
        std::future::pending::<()>().await;
    };
    let done = tokio::select! {
        done = swap.swapped(&command, &held) => done,
        () = watching => unreachable!("it waits for ever"),
    };
    let ServiceView { hold, .. } = swap.client.get(&swap.path).await?;
    let done = done.and_then(|()| {
        let late = || format!("requests went on after {}, before it was done", format_duration(args.duration));
        hold.as_ref().map(|_| ()).ok_or_else(late)
    });
    // Whatever is there now is what there is.
    let after: ServiceView = swap.client.delete(&format!("{}/hold", swap.path)).await?;
    let outcome = if done.is_ok() { RollOutcome::Completed } else { RollOutcome::Stopped };
    let waited = hold.map_or(0, |hold| hold.waited);
    let reason = match &done {
        Ok(()) => format!("{waited} request{} waited", plural(waited as usize)),
        Err(reason) => reason.clone(),
    };
    let end = EndBody { outcome, reason: line(&reason), revision: args.revision.clone(), backend };
    let told = swap.client.tell(&format!("{}/swaps", swap.path), bytes(&end)?).await;
    if args.json {
        let shown = json!({ "outcome": outcome, "reason": reason, "waited": waited, "service": after });
        print(&serde_json::to_string_pretty(&shown).map_err(CliError::failed)?)?;
    }
    match done {
        Ok(()) if told.is_err() => told.map_err(|error| CliError {
            exit: error.exit,
            text: format!("{} is swapped, and what was to be told at its end was not: {}", args.service, error.text),
        }),
        Ok(()) if args.json => Ok(()),
        Ok(()) => print(&format!("{} is swapped: {reason}", args.service)),
        Err(reason) => Err(CliError::failed(format!("{} was not swapped, and requests go on: {reason}", args.service))),
    }
}

/// The backend that is swapped, if one is named or gets a revision: known before anything is held.
fn swapped_backend(args: &SwapArgs, service: &ServiceView) -> Result<Option<String>, CliError> {
    let name = &args.service;
    if let Some(backend) = &args.backend {
        let known: Vec<&str> = service.backends.iter().map(|known| known.name.as_str()).collect();
        if !known.contains(&backend.as_str()) {
            let text = format!("{name} has no backend \"{backend}\"; it has: {}", known.join(", "));
            return Err(CliError::failed(text));
        }
    }
    if args.revision.is_none() {
        return Ok(args.backend.clone());
    }
    if let Some(id) = service.rollout {
        let text = format!("rollout {id} of {name} is under way, and knows what runs there; leave --revision out");
        return Err(CliError::failed(text));
    }
    if args.backend.is_some() {
        return Ok(args.backend.clone());
    }
    let asked = service.backends.iter().filter(|backend| backend.weight.wanted > 0.0 && backend.drain.is_none());
    match asked.map(|backend| backend.name.as_str()).collect::<Vec<_>>()[..] {
        [only] => Ok(Some(only.to_owned())),
        [] => Err(CliError::failed(format!("no backend of {name} gets requests; leave --revision out"))),
        ref several => Err(CliError::failed(format!(
            "a revision is of one backend, and several of {name} get requests: {}; name it with --backend, or leave --revision out",
            several.join(", ")
        ))),
    }
}

struct Swap<'a> {
    args: &'a SwapArgs,
    client: Client,
    path: String,
    stop: Stop,
}

impl Swap<'_> {
    /// The command, and what runs there after it, ready; or why not. A command that failed may have left what was there
    /// before: requests wait until that is ready, too.
    async fn swapped(&self, command: &Template<'_>, held: &ServiceView) -> Result<(), String> {
        let until = Instant::now() + self.args.duration;
        self.idle().await?;
        let ran = command.run(&[("service", &self.args.service)], self.stop.clone()).await;
        let backends: Vec<&str> = match &self.args.backend {
            Some(only) => vec![only],
            None => held.backends.iter().filter(|b| b.weight.effective > 0.0).map(|b| b.name.as_str()).collect(),
        };
        let ready = self.ready(&backends, until).await;
        match (ran, ready) {
            (Ok(()), ready) => ready,
            (Err(failed), Ok(())) => Err(failed),
            (Err(failed), Err(_)) if self.stop.borrow().is_some() => Err(failed),
            (Err(failed), Err(late)) => Err(format!("{failed}; {late}")),
        }
    }

    /// Until nothing is under way, or for as long as that may take.
    async fn idle(&self) -> Result<(), String> {
        let until = Instant::now() + self.args.idle;
        let mut was_idle = false;
        loop {
            let service: ServiceView = self.client.get(&self.path).await.map_err(|error| error.text)?;
            let under_way: u64 = service.backends.iter().map(|backend| backend.in_flight).sum();
            if under_way == 0 && was_idle {
                return Ok(());
            }
            was_idle = under_way == 0;
            if Instant::now() >= until {
                if !self.args.json {
                    let _ = show(&format!("{under_way} requests are still under way; the command runs all the same"));
                }
                return Ok(());
            }
            pause(&self.stop, LOOK_INTERVAL / 4).await?;
        }
    }

    async fn ready(&self, backends: &[&str], until: Instant) -> Result<(), String> {
        let mut before: Option<HashMap<String, u64>> = None;
        // Nobody is asked any more once the hold is over.
        let mut reason = "nothing was heard of it yet".to_owned();
        loop {
            let now = self.endpoints(backends).await?;
            let checks = |endpoint: &ReadinessView| endpoint.checks.unwrap_or(0);
            let seen = before.get_or_insert_with(|| now.iter().map(|e| (e.address.clone(), checks(e))).collect());
            let is_ready = |endpoint: &&ReadinessView| {
                let since = checks(endpoint).saturating_sub(seen.get(&endpoint.address).copied().unwrap_or(0));
                endpoint.ready == Some(true) && (endpoint.checks.is_none() || since >= 2)
            };
            let Some(late) = now.iter().find(|endpoint| !is_ready(endpoint)) else { return Ok(()) };
            if let Some(now) = &late.reason {
                reason.clone_from(now);
            }
            if Instant::now() >= until {
                return Err(format!("{} wasn't ready in time: {reason}", late.address));
            }
            pause(&self.stop, LOOK_INTERVAL / 4).await?;
        }
    }

    async fn endpoints(&self, backends: &[&str]) -> Result<Vec<ReadinessView>, String> {
        let mut all = Vec::new();
        for backend in backends {
            let path = format!("{}/backends/{}/endpoints", self.path, segment(backend));
            let view: EndpointsView = self.client.get(&path).await.map_err(|error| error.text)?;
            all.extend(view.endpoints);
        }
        Ok(all)
    }
}
