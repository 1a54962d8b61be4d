//! `tidegate run`: the process, from its first line of log to its last.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use super::CliError;
use super::args::RunArgs;
use crate::app::App;
use crate::config::{self, LogConfig, LogFormat};

pub(super) fn run(args: &RunArgs) -> Result<(), CliError> {
    let loaded = config::load(&args.config, None).map_err(|problems| CliError::listed(&problems))?;
    start_log(&loaded.config.log)?;
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::failed)?;
    runtime.block_on(serve(loaded.config, args))
}

async fn serve(config: config::Config, args: &RunArgs) -> Result<(), CliError> {
    // Before anything is started, so that no signal meets its default action.
    let mut signals = Signals::new().map_err(CliError::failed)?;
    let path = config.path.display().to_string();
    let mut app = App::start(config, args.workers).await.map_err(CliError::failed)?;
    let admin = app.admin().map(|address| address.to_string());
    info!(version = env!("CARGO_PKG_VERSION"), config = %path, admin, pid = std::process::id(), "ready");
    while signals.next().await == Asked::Reload {
        tokio::select! {
            read = app.read_again() => drop(app.reload(read).await),
            // Of a disk that hangs, it may never come.
            () = signals.end() => break,
        }
    }
    app.stop(async { while signals.next().await == Asked::Reload {} }).await;
    info!("stopped");
    Ok(())
}

/// The signals that a running proxy listens to.
pub(crate) struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
        }
    }

    /// Lets other signals wait.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What a signal asks for. Several of a kind that come while one is being done are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Reload,
    End,
}

/// Logs to stderr, as the file says; `RUST_LOG` outranks its filter.
fn start_log(log: &LogConfig) -> Result<(), CliError> {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(filter_of(log)));
    let filter = filter.map_err(|e| CliError::failed(format!("log.filter {:?} is no filter: {e}", log.filter)))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    match log.format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// h2 warns of what clients send against its rules, once for each frame: a log that strangers can fill. Whoever asks
/// for it by name still gets it.
fn filter_of(log: &LogConfig) -> String {
    format!("h2=error,{}", log.filter)
}
