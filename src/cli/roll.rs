//! `tidegate roll`: a command for each endpoint of a backend, one after another or in waves, while it gets no requests.
//!
//! ```text
//! for each wave:  taken out -> idle -> command -> ready -> put back -> watched
//! ```
//!
//! The command runs here; the proxy holds the endpoints out, for as long as it hears of us. Whatever goes wrong here, a
//! Ctrl-C included, ends the roll, and everybody is back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;

use super::args::RollArgs;
use super::child::{Output, Stop, Template, pause};
use super::client::{Client, segment};
use super::{CliError, Exit, Signals, plural, print, show};
use crate::admin::view::{EndBody, EndpointsView, ReadinessView, RenewBody, RollBody, RollView};
use crate::model::{RollOutcome, format_duration};

pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A proxy that restarts is back within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// A lease is renewed so often while it lasts.
const RENEWALS: u32 = 4;

pub(super) async fn run(args: &RollArgs) -> Result<(), CliError> {
    let (service, backend) = (&args.backend.service, &args.backend.backend);
    if args.backend.address.is_some() {
        return Err(CliError::failed("a roll is of a whole backend: SERVICE/BACKEND"));
    }
    let output = if args.json { Output::Stderr } else { Output::Ours };
    let known = ["endpoint", "host", "port", "service", "backend"];
    let command = Template::new(&args.command, &known, output)?;
    // Before anything has begun, so that no signal meets its default action.
    let mut signals = Signals::new().map_err(CliError::failed)?;
    let client = Client::new(&args.admin);
    let path = format!("/v1/services/{}/backends/{}", segment(service), segment(backend));
    let body = RollBody { lease: Some(format_duration(args.lease)), revision: args.revision.clone() };
    let roll: RollView = client.post(&format!("{path}/rolls"), bytes(&body)?).await?;
    let (tell, stop) = watch::channel(None);
    let tell = Arc::new(tell);
    let rolling = Rolling { args, client: &client, roll: format!("{path}/rolls/{}", roll.id), path, command, stop };
    let (told, interrupted) = (Arc::clone(&tell), async move {
        signals.next().await;
        "interrupted".to_owned()
    });
    let watching = async {
        let reason = tokio::select! {
            reason = interrupted => reason,
            reason = rolling.renew(args.lease / RENEWALS) => reason,
        };
        told.send_replace(Some(reason));
        std::future::pending::<()>().await;
    };
    let done = tokio::select! {
        done = rolling.all() => done,
        () = watching => unreachable!("it waits for ever"),
    };
    let outcome = if done.is_ok() { RollOutcome::Completed } else { RollOutcome::Stopped };
    let reason = match &done {
        Ok(endpoints) => format!("{endpoints} endpoint{} had their turn", plural(*endpoints)),
        Err(reason) => reason.clone(),
    };
    let end = EndBody { outcome, reason: line(&reason), revision: None, backend: None };
    let ended: Result<EndpointsView, CliError> = client.post(&format!("{}/end", rolling.roll), bytes(&end)?).await;
    if args.json {
        let told = json!({ "outcome": outcome, "reason": reason, "endpoints": ended.as_ref().map(|view| &view.endpoints).ok() });
        print(&serde_json::to_string_pretty(&told).map_err(CliError::failed)?)?;
    }
    match (done, ended) {
        (Ok(_), Ok(_)) if args.json => Ok(()),
        (Ok(endpoints), Ok(_)) => {
            print(&format!("{service}/{backend} is rolled: {endpoints} endpoint{}", plural(endpoints)))
        }
        (Ok(_), Err(error)) => Err(CliError {
            exit: error.exit,
            text: format!("{service}/{backend} is rolled, and what was to be told at its end was not: {}", error.text),
        }),
        (Err(reason), Ok(_)) => Err(CliError::failed(format!(
            "{service}/{backend} was not rolled to the end, and all endpoints are back: {reason}"
        ))),
        (Err(reason), Err(error)) => Err(CliError {
            exit: error.exit,
            text: format!("{service}/{backend} was not rolled to the end: {reason}\n  {}", error.text),
        }),
    }
}

/// A line that the history takes.
pub(super) fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(250).collect()
}

pub(super) fn bytes(body: &impl serde::Serialize) -> Result<Vec<u8>, CliError> {
    serde_json::to_vec(body).map_err(CliError::failed)
}

/// A roll under way, from here.
struct Rolling<'a> {
    args: &'a RollArgs,
    client: &'a Client,
    /// Of the backend, and of the roll.
    path: String,
    roll: String,
    command: Template<'a>,
    stop: Stop,
}

impl Rolling<'_> {
    /// Keeps the lease until it is lost: why.
    async fn renew(&self, every: Duration) -> String {
        let mut heard = Instant::now();
        loop {
            tokio::time::sleep(every).await;
            let body = bytes(&RenewBody::default()).unwrap_or_default();
            match self.client.put::<RollView>(&self.roll, body).await {
                Ok(_) => heard = Instant::now(),
                Err(error) if error.exit == Exit::Unreachable && heard.elapsed() < PATIENCE => {}
                Err(error) => return error.text,
            }
        }
    }

    /// Every endpoint in its turn; how many there were, or why it stops.
    async fn all(&self) -> Result<usize, String> {
        let endpoints = self.endpoints().await?;
        let all: Vec<&ReadinessView> = endpoints.endpoints.iter().collect();
        if all.is_empty() {
            return Err("the backend has no endpoints".to_owned());
        }
        let waves = all.chunks(self.args.wave.get());
        let count = waves.len();
        for (index, wave) in waves.enumerate() {
            let names = wave.iter().map(|endpoint| endpoint.address.as_str()).collect::<Vec<_>>().join(", ");
            self.say(&format!("{} of {count}  {names}", index + 1));
            self.wave(wave).await?;
        }
        Ok(all.len())
    }

    async fn wave(&self, wave: &[&ReadinessView]) -> Result<(), String> {
        self.set_out(wave).await?;
        self.idle(wave).await?;
        let commands = wave.iter().map(|endpoint| {
            let port = endpoint.port.to_string();
            let (service, backend) = (&self.args.backend.service, &self.args.backend.backend);
            let address = endpoint.address.clone();
            let host = endpoint.host.clone();
            async move {
                let values = [
                    ("endpoint", &*address),
                    ("host", &*host),
                    ("port", &*port),
                    ("service", service),
                    ("backend", backend),
                ];
                self.command.run(&values, self.stop.clone()).await.map_err(|error| format!("{address}: {error}"))
            }
        });
        // All of them end, so that none is left running.
        join_all(commands).await.into_iter().collect::<Result<(), String>>()?;
        self.ready(wave).await?;
        self.set_out(&[]).await?;
        self.watch(wave).await
    }

    /// Until nothing is under way there; what takes too long is cut off by the command.
    async fn idle(&self, wave: &[&ReadinessView]) -> Result<(), String> {
        let until = Instant::now() + self.args.idle;
        // Two looks in a row: a request may have been on its way there at the first.
        let mut was_idle = false;
        loop {
            let under_way: u64 = self.of(wave).await?.iter().map(|endpoint| endpoint.in_flight).sum();
            if under_way == 0 && was_idle {
                return Ok(());
            }
            was_idle = under_way == 0;
            if Instant::now() >= until {
                self.say(&format!("  {under_way} requests are still under way; the command runs all the same"));
                return Ok(());
            }
            pause(&self.stop, LOOK_INTERVAL / 4).await?;
        }
    }

    /// Until all of them could take requests. Two checks must have ended since the command has: the first may have begun
    /// before.
    async fn ready(&self, wave: &[&ReadinessView]) -> Result<(), String> {
        let until = Instant::now() + self.args.ready;
        let before: HashMap<String, u64> =
            self.of(wave).await?.into_iter().map(|endpoint| (endpoint.address, endpoint.checks.unwrap_or(0))).collect();
        loop {
            let now = self.of(wave).await?;
            let is_ready = |endpoint: &&ReadinessView| {
                let since = endpoint
                    .checks
                    .map(|checks| checks.saturating_sub(before.get(&endpoint.address).copied().unwrap_or(0)));
                endpoint.ready == Some(true) && since.is_none_or(|since| since >= 2)
            };
            let Some(late) = now.iter().find(|endpoint| !is_ready(endpoint)) else { return Ok(()) };
            if Instant::now() >= until {
                let reason = late.reason.clone().unwrap_or_else(|| "its checks say nothing".to_owned());
                let within = format_duration(self.args.ready);
                return Err(format!("{} wasn't ready within {within}: {reason}", late.address));
            }
            pause(&self.stop, LOOK_INTERVAL).await?;
        }
    }

    /// Nobody takes it out again for as long as it is watched.
    async fn watch(&self, wave: &[&ReadinessView]) -> Result<(), String> {
        let until = Instant::now() + self.args.watch;
        while Instant::now() < until {
            pause(&self.stop, LOOK_INTERVAL.min(self.args.watch)).await?;
            let bad = |endpoint: &&ReadinessView| {
                matches!(endpoint.state.as_str(), "ejected" | "on trial" | "failing" | "check failed")
            };
            if let Some(endpoint) = self.of(wave).await?.iter().find(bad) {
                return Err(format!("{} is {} since its turn", endpoint.address, endpoint.state));
            }
        }
        Ok(())
    }

    async fn set_out(&self, wave: &[&ReadinessView]) -> Result<(), String> {
        let out = Some(wave.iter().map(|endpoint| endpoint.address.clone()).collect());
        let body = bytes(&RenewBody { out }).map_err(|error| error.text)?;
        self.patiently(|| self.client.put::<RollView>(&self.roll, body.clone())).await?;
        Ok(())
    }

    /// How these stand now. One that has gone from the backend ends the roll.
    async fn of(&self, wave: &[&ReadinessView]) -> Result<Vec<ReadinessView>, String> {
        let all = self.endpoints().await?.endpoints;
        let named = |endpoint: &ReadinessView| wave.iter().any(|of| of.address == endpoint.address);
        let found: Vec<ReadinessView> = all.into_iter().filter(named).collect();
        if found.len() < wave.len() {
            return Err("the backend's endpoints have changed meanwhile".to_owned());
        }
        Ok(found)
    }

    async fn endpoints(&self) -> Result<EndpointsView, String> {
        let path = format!("{}/endpoints", self.path);
        self.patiently(|| self.client.get::<EndpointsView>(&path)).await
    }

    /// A call that waits for a proxy that restarts.
    async fn patiently<T, F>(&self, call: impl Fn() -> F) -> Result<T, String>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<T, CliError>>,
    {
        let began = Instant::now();
        loop {
            match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.exit == Exit::Unreachable && began.elapsed() < PATIENCE => {
                    pause(&self.stop, LOOK_INTERVAL).await?;
                }
                Err(error) => return Err(error.text),
            }
        }
    }

    fn say(&self, text: &str) {
        if !self.args.json {
            // A reader that has gone away doesn't stop what has begun.
            let _ = show(text);
        }
    }
}
