//! The command line: starts the process, or calls the admin API of a running one.

mod args;
mod child;
mod client;
mod deploy;
mod dora;
mod drain;
mod drift;
mod events;
mod guard;
mod hold;
mod mirror;
mod roll;
mod rollout;
mod run;
mod shadow;
mod status;
mod swap;
mod weights;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

pub(crate) use args::AdminArgs;
pub use args::DemoArgs;
use args::{Args, Command};
pub(crate) use client::Client;
pub(crate) use run::Signals;

use crate::config;

/// How a command failed, as pipelines see it: its exit code. 0 is success, and 2 is wrong use, with which clap
/// exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Unreachable = 3,
}

/// What a failed command tells its user.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl CliError {
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self { exit: Exit::Failed, text: error.to_string() }
    }

    /// A list whose lines begin with a place in a file, which editors and terminals make links of: each on a line of
    /// its own.
    pub(crate) fn listed(problems: &config::Problems) -> Self {
        Self { exit: Exit::Failed, text: format!("\n{problems}") }
    }
}

/// Reads the arguments, does what they say.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.command.unwrap_or_default() {
        Command::Run(run) => run::run(&run),
        Command::Check(args) => check(args.path()),
        Command::Schema => schema(),
        Command::Demo(demo) => crate::demo::run(&demo),
        Command::Status(status) => block_on(status::run(&status)),
        Command::Weights(weights) => block_on(weights::run(&weights)),
        Command::Diff(diff) => block_on(drift::diff(&diff)),
        Command::Reset(reset) => block_on(drift::reset(&reset)),
        Command::Hold(args) => block_on(hold::hold(&args)),
        Command::Release(args) => block_on(hold::release(&args)),
        Command::Drain(args) => block_on(drain::drain(&args)),
        Command::Undrain(args) => block_on(drain::undrain(&args)),
        Command::Mirror(args) => block_on(mirror::run(&args)),
        Command::Roll(args) => block_on(roll::run(&args)),
        Command::Swap(args) => block_on(swap::run(&args)),
        Command::Deploy(args) => block_on(deploy::run(&args)),
        Command::Promote(args) => block_on(rollout::promote(&args)),
        Command::Pause(args) => block_on(rollout::say(&args, "pause")),
        Command::Resume(args) => block_on(rollout::say(&args, "resume")),
        Command::Approve(args) => block_on(rollout::approve(&args)),
        Command::Abort(args) => block_on(rollout::say(&args, "abort")),
        Command::Rollback(args) => block_on(rollout::say(&args, "rollback")),
        Command::Rollouts(args) => block_on(rollout::list(&args)),
        Command::Guard(args) => block_on(guard::run(&args)),
        Command::Shadow(args) => block_on(shadow::run(&args)),
        Command::Events(events) => block_on(events::run(&events)),
        Command::Dora(args) => block_on(dora::run(&args)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "tidegate", &mut script);
            print(String::from_utf8_lossy(&script).trim_end())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when stderr is gone.
            let space = if error.text.starts_with('\n') { "" } else { " " };
            let _ = writeln!(io::stderr(), "error:{space}{}", error.text);
            ExitCode::from(error.exit as u8)
        }
    }
}

/// Runs a call of the admin API on a runtime of its own.
fn block_on(call: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
    runtime.block_on(call)
}

fn check(path: &std::path::Path) -> Result<(), CliError> {
    let loaded = config::load(path, None).map_err(|problems| CliError::listed(&problems))?;
    for warning in &loaded.warnings {
        let _ = writeln!(io::stderr(), "warning: {warning}");
    }
    let config = loaded.config;
    print(&format!(
        "{} is valid: {} listener{}, {} service{}, {} backend{}",
        path.display(),
        config.listeners.len(),
        plural(config.listeners.len()),
        config.services.len(),
        plural(config.services.len()),
        config.services.iter().map(|s| s.backends.len()).sum::<usize>(),
        plural(config.services.iter().map(|s| s.backends.len()).sum()),
    ))
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn schema() -> Result<(), CliError> {
    print(&serde_json::to_string_pretty(&config::schema()).map_err(CliError::failed)?)
}

/// A line on stdout. A reader that has gone away, as `head` does, is no failure.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    show(text).map(|_| ())
}

/// Whoever is at the other end of stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    Gone,
}

/// A line on stdout, for those who print until nobody reads any more.
pub(crate) fn show(text: &str) -> Result<Reader, CliError> {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(CliError::failed(error)),
    }
}
