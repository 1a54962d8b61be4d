//! What can be said on the command line.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::model::parse_duration;

/// As many as the file may ask for.
const WORKERS_MAX: usize = 1024;

/// The front door that ships your releases: a reverse proxy that splits traffic by weight.
///
/// Exit codes: 0 done, 1 failed or rolled back, 2 wrong use, 3 the running proxy can't be reached.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, max_term_width = 100)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the proxy (the default)
    Run(RunArgs),
    /// Check a configuration file; every problem at once
    Check(CheckArgs),
    /// See it work: traffic, a release that is compared, one that fails, and a flip
    Demo(DemoArgs),
    /// Show services, their backends and what they do
    Status(StatusArgs),
    /// Change the weights of a service, all at once
    Weights(WeightsArgs),
    /// Show where live weights and deployments differ from the file
    Diff(DiffArgs),
    /// Put a service's weights back to the file's, and what was deployed live
    Reset(ResetArgs),
    /// Have a service's new requests wait while something is swapped underneath
    Hold(HoldArgs),
    /// Let the requests of a held service go, in order
    Release(ReleaseArgs),
    /// Give a backend, or one of its endpoints, no new requests, whatever its weight
    Drain(DrainArgs),
    /// Give a drained backend or endpoint what its weight says again
    Undrain(UndrainArgs),
    /// Show or change how much of a service is copied to a backend that answers nobody
    Mirror(MirrorArgs),
    /// Run a command for each endpoint of a backend, one after another, while it gets no requests
    Roll(RollArgs),
    /// Run a command while a service's requests wait, and let them go once what runs there is ready
    Swap(SwapArgs),
    /// Put a new revision into the backend that isn't stable, and roll it out by the plan
    Deploy(DeployArgs),
    /// Have a rollout go on to its next step, or to its end, whatever it waits for
    Promote(PromoteArgs),
    /// Have a rollout stay as it is; what fails is taken back all the same
    Pause(RolloutArgs),
    /// Have a paused rollout go on
    Resume(RolloutArgs),
    /// Approve the step that a rollout waits at
    Approve(ApproveArgs),
    /// Take a rollout back to stable; its revision may be deployed again
    Abort(RolloutArgs),
    /// Go back to the last good revision, also after a rollout; what is left is remembered as bad
    Rollback(RolloutArgs),
    /// Show the rollouts of a service
    Rollouts(RolloutsArgs),
    /// Show or limit what the guard may do, everywhere at once
    Guard(GuardArgs),
    /// Show whether a mirror's backend answers as stable does, and where it doesn't
    Shadow(ShadowArgs),
    /// Show what happened, and who decided it
    Events(EventsArgs),
    /// Show how often services are deployed, how long it takes, how much of it fails, and for how long: DORA's four keys
    Dora(DoraArgs),
    /// Print the JSON Schema of the configuration file, for editors
    Schema,
    /// Print a shell's completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Default for Command {
    fn default() -> Self {
        Self::Run(RunArgs { config: "proxy.toml".into(), workers: None })
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The configuration file
    #[arg(value_name = "FILE", conflicts_with = "config")]
    file: Option<PathBuf>,
    /// The configuration file
    #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
    config: PathBuf,
}

impl CheckArgs {
    pub(crate) fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(&self.config)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The configuration file
    #[arg(long, short, default_value = "proxy.toml", value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Data-plane threads, instead of what the file says (default: one per core)
    #[arg(long, value_name = "N", value_parser = parse_workers)]
    pub(crate) workers: Option<NonZeroUsize>,
}

/// What the demo can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// End by itself after this time, like 20s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
}

/// How to reach the running proxy.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AdminArgs {
    /// Address of the admin API
    #[arg(
        long = "admin",
        env = "TIDEGATE_ADMIN",
        default_value = "127.0.0.1:9900",
        value_name = "ADDRESS",
        global = true
    )]
    pub(crate) address: String,
    /// Token of the admin API, if it asks for one
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true, value_name = "TOKEN", global = true)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Only this service
    pub(crate) service: Option<String>,
    /// Show it again every second, until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WeightsArgs {
    /// The service
    pub(crate) service: String,
    /// Every backend with its weight; shows the present ones when none is given
    #[arg(value_name = "BACKEND=WEIGHT", value_parser = parse_weight)]
    pub(crate) weights: Vec<(String, f64)>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// Only this service
    pub(crate) service: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ResetArgs {
    /// The service
    pub(crate) service: String,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct HoldArgs {
    /// The service
    pub(crate) service: String,
    /// At most this long, up to 5m
    #[arg(long = "for", default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Requests that may wait at once; more get 503 [default: 10000]
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u64>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReleaseArgs {
    /// The service
    pub(crate) service: String,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DrainArgs {
    /// The backend, or one of its endpoints by its address and port
    #[arg(value_name = "SERVICE/BACKEND[/ADDRESS]", value_parser = parse_backend)]
    pub(crate) backend: BackendRef,
    /// Why, for the history; of a whole backend
    #[arg(long, short, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UndrainArgs {
    /// The backend, or one of its endpoints by its address and port
    #[arg(value_name = "SERVICE/BACKEND[/ADDRESS]", value_parser = parse_backend)]
    pub(crate) backend: BackendRef,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct MirrorArgs {
    /// The service
    pub(crate) service: String,
    /// The backend that gets the copies
    #[arg(requires = "share")]
    pub(crate) backend: Option<String>,
    /// Of the requests: 10%, 0.001%, off; file: as the file says
    #[arg(value_name = "PERCENT", value_parser = parse_share)]
    pub(crate) share: Option<MirrorShare>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// How much is copied.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum MirrorShare {
    Percent(f64),
    /// What the file says.
    File,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RollArgs {
    /// The backend
    #[arg(value_name = "SERVICE/BACKEND", value_parser = parse_backend)]
    pub(crate) backend: BackendRef,
    /// Endpoints at once
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) wave: NonZeroUsize,
    /// Wait at most this long until nothing is under way at an endpoint; then the command runs all the same
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) idle: Duration,
    /// After the command, an endpoint must be ready within this time
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) ready: Duration,
    /// Watch an endpoint that has requests again for this long, before the next one
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) watch: Duration,
    /// Endpoints are back if the proxy hears nothing of this command for so long
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) lease: Duration,
    /// What is rolled out: the backend's revision once all endpoints have had their turn
    #[arg(long, value_name = "TEXT")]
    pub(crate) revision: Option<String>,
    /// As JSON; the command's output goes to stderr
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// The command, with {endpoint}, {host} and {port} for what it is about
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SwapArgs {
    /// The service
    pub(crate) service: String,
    /// Requests wait at most this long, up to 5m
    #[arg(long = "for", default_value = "30s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Requests that may wait at once; more get 503 [default: 10000]
    #[arg(long, value_name = "N")]
    pub(crate) requests: Option<u64>,
    /// Wait at most this long until nothing is under way; then the command runs all the same
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) idle: Duration,
    /// What is swapped in: the backend's revision once it is ready
    #[arg(long, value_name = "TEXT")]
    pub(crate) revision: Option<String>,
    /// The backend that the command swaps; the others aren't waited for [default: all that get requests]
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// As JSON; the command's output goes to stderr
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
    /// The command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeployArgs {
    /// The service
    pub(crate) service: String,
    /// What is deployed: an image digest, a git sha, any text that never changes its meaning
    #[arg(long, value_name = "TEXT")]
    pub(crate) revision: String,
    /// Where it listens, like http://127.0.0.1:9002; again for each
    #[arg(long = "endpoint", required = true, value_name = "URL")]
    pub(crate) endpoints: Vec<String>,
    /// Where a fresh copy of stable listens that it is compared with; again for each [default: as in proxy.toml]
    #[arg(long = "baseline-endpoint", value_name = "URL")]
    pub(crate) baseline_endpoints: Vec<String>,
    /// The backend that it is put into [default: the one that isn't stable]
    #[arg(long, value_name = "NAME")]
    pub(crate) backend: Option<String>,
    /// Another way than the service's own, by its usual steps
    #[arg(long, value_name = "NAME")]
    pub(crate) strategy: Option<DeployStrategy>,
    /// Show how it goes, until it is over; exit code 1 unless it is completed
    #[arg(long, short)]
    pub(crate) wait: bool,
    /// Though this revision was rolled back before
    #[arg(long)]
    pub(crate) retry: bool,
    /// Though releases are frozen: why, for the history
    #[arg(long, value_name = "WHY")]
    pub(crate) override_freeze: Option<String>,
    /// The commit that it was built from, for the history
    #[arg(long, value_name = "SHA")]
    pub(crate) commit: Option<String>,
    /// When that was made, like 2026-11-21T13:52:55Z
    #[arg(long, value_name = "TIME")]
    pub(crate) commit_time: Option<String>,
    /// Who made it
    #[arg(long, value_name = "NAME")]
    pub(crate) author: Option<String>,
    /// Where more is said of it
    #[arg(long, value_name = "URL")]
    pub(crate) link: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// How a revision may go out, whatever the file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DeployStrategy {
    /// Little by little
    Canary,
    /// All at once, and watched
    BlueGreen,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RolloutArgs {
    /// The service
    pub(crate) service: String,
    /// Why, for the history
    #[arg(long, short, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PromoteArgs {
    /// To the end: all requests, at once
    #[arg(long)]
    pub(crate) full: bool,
    /// Though releases are frozen: why, for the history
    #[arg(long, value_name = "WHY")]
    pub(crate) override_freeze: Option<String>,
    #[command(flatten)]
    pub(crate) rollout: RolloutArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ApproveArgs {
    /// Though releases are frozen: why, for the history
    #[arg(long, value_name = "WHY")]
    pub(crate) override_freeze: Option<String>,
    #[command(flatten)]
    pub(crate) rollout: RolloutArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RolloutsArgs {
    /// The service
    pub(crate) service: String,
    /// How many of the latest
    #[arg(long, short = 'n', default_value_t = 10, value_name = "N")]
    pub(crate) limit: usize,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GuardArgs {
    /// The most that it may do: nothing, say what it would do, or what the file says
    pub(crate) mode: Option<GuardLimit>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

/// The most that the guard may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum GuardLimit {
    Off,
    Observe,
    On,
}

/// A backend or one of its endpoints, as people name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendRef {
    pub(crate) service: String,
    pub(crate) backend: String,
    pub(crate) address: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ShadowArgs {
    /// The service
    pub(crate) service: String,
    /// Show it again every second, until Ctrl-C
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Forget what is known and begin anew
    #[arg(long, conflicts_with = "watch")]
    pub(crate) reset: bool,
    /// As JSON, with all fields
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    /// Only of this service
    pub(crate) service: Option<String>,
    /// Go on with what happens next, until Ctrl-C
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// How many of the latest
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// As JSON, one a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DoraArgs {
    /// Only this service
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Of the last so many days
    #[arg(long, default_value_t = 30, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub(crate) days: u32,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) admin: AdminArgs,
}

fn parse_workers(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|n: &NonZeroUsize| n.get() <= WORKERS_MAX);
    number.ok_or_else(|| format!("a number from 1 to {WORKERS_MAX}"))
}

fn parse_backend(text: &str) -> Result<BackendRef, String> {
    let mut parts = text.splitn(3, '/').map(|part| Some(part.to_owned()).filter(|part| !part.is_empty()));
    let wrong = "write SERVICE/BACKEND, like shop/canary, or SERVICE/BACKEND/ADDRESS, like shop/canary/127.0.0.1:9001";
    let mut name = || parts.next().flatten().ok_or(wrong);
    let (service, backend) = (name()?, name()?);
    let address = parts.next().map(|address| address.ok_or(wrong)).transpose()?;
    Ok(BackendRef { service, backend, address })
}

fn parse_weight(text: &str) -> Result<(String, f64), String> {
    let (name, weight) = text.split_once('=').ok_or("write BACKEND=WEIGHT, like blue=90")?;
    let number = weight.strip_suffix('%').unwrap_or(weight);
    let weight = number.parse().map_err(|_| format!("{weight:?} is not a number"))?;
    Ok((name.to_owned(), weight))
}

fn parse_share(text: &str) -> Result<MirrorShare, String> {
    match text {
        "off" => Ok(MirrorShare::Percent(0.0)),
        "file" => Ok(MirrorShare::File),
        _ => {
            let number = text.strip_suffix('%').unwrap_or(text).trim_end();
            let percent = number.parse().map_err(|_| "write a percentage like 10% or 0.001%, or off, or file")?;
            Ok(MirrorShare::Percent(percent))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_backend_is_named_with_its_service() {
        let wanted = BackendRef { service: "shop".into(), backend: "canary".into(), address: None };
        assert_eq!(parse_backend("shop/canary"), Ok(wanted.clone()));
        let wanted = BackendRef { address: Some("[::1]:9001".into()), ..wanted };
        assert_eq!(parse_backend("shop/canary/[::1]:9001"), Ok(wanted));
        for wrong in ["shop", "/canary", "shop/", "shop/canary/", ""] {
            assert!(parse_backend(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_a_percentage_or_a_word() {
        assert_eq!(parse_share("0.001%"), Ok(MirrorShare::Percent(0.001)));
        assert_eq!(parse_share("10"), Ok(MirrorShare::Percent(10.0)));
        assert_eq!(parse_share("off"), Ok(MirrorShare::Percent(0.0)));
        assert_eq!(parse_share("file"), Ok(MirrorShare::File));
        assert!(parse_share("some").is_err());
    }

    #[test]
    fn weights_are_name_and_number() {
        assert_eq!(parse_weight("blue=2.5"), Ok(("blue".to_owned(), 2.5)));
        assert_eq!(parse_weight("blue=50%"), Ok(("blue".to_owned(), 50.0)));
        assert!(parse_weight("blue").is_err());
        assert!(parse_weight("blue=many").is_err());
    }
}
