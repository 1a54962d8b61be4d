//! Commands that `roll` and `swap` run: in a process group of their own, so that a Ctrl-C is ours to pass on.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::CliError;
use crate::model::filled;

/// A command that was asked to end and hasn't within this is killed.
const END_WAIT: Duration = Duration::from_secs(5);

/// Why everything is to stop; `None`: nothing speaks against going on.
pub(super) type Stop = watch::Receiver<Option<String>>;

/// Where a command's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Where ours does.
    Ours,
    /// To stderr, since stdout is JSON.
    Stderr,
}

/// A command and its arguments, with names in braces for what it is about.
#[derive(Debug)]
pub(super) struct Template<'a> {
    words: &'a [String],
    output: Output,
}

impl<'a> Template<'a> {
    /// Checks that the command asks for nothing that isn't there.
    pub(super) fn new(words: &'a [String], known: &[&str], output: Output) -> Result<Self, CliError> {
        for word in words {
            for name in braced(word) {
                if !known.contains(&name) {
                    let known = known.iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ");
                    return Err(CliError::failed(format!("the command asks for {{{name}}}; there are: {known}")));
                }
            }
        }
        Ok(Self { words, output })
    }

    /// Runs it to its end. `values`: what its names stand for; it finds them in its environment, too, as
    /// `TIDEGATE_ENDPOINT` and so on.
    pub(super) async fn run(&self, values: &[(&str, &str)], stop: Stop) -> Result<(), String> {
        let words: Vec<String> = self.words.iter().map(|word| filled(word, values)).collect();
        let (program, arguments) = words.split_first().ok_or("there is no command")?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0).stdin(Stdio::null()).kill_on_drop(true);
        command.envs(values.iter().map(|(name, value)| (format!("TIDEGATE_{}", name.to_uppercase()), value)));
        if self.output == Output::Stderr {
            command.stdout(std::io::stderr());
        }
        let child = command.spawn().map_err(|error| format!("{program} can't be run: {error}"))?;
        let status = ended(child, stop).await.map_err(|error| format!("{program}: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("{program} failed: {status}")) }
    }
}

/// Waits for a command, or ends it.
async fn ended(mut child: Child, mut stop: Stop) -> Result<ExitStatus, String> {
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let reason = tokio::select! {
        status = child.wait() => return status.map_err(|error| error.to_string()),
        reason = stopped(&mut stop) => reason,
    };
    let tell = |signal| group.map(|group| kill_process_group(group, signal));
    tell(Signal::TERM);
    if tokio::time::timeout(END_WAIT, child.wait()).await.is_err() {
        tell(Signal::KILL);
        // It is gone, whatever it says.
        let _ = child.wait().await;
    }
    Err(reason)
}

/// Waits until everything is to stop: why.
async fn stopped(stop: &mut Stop) -> String {
    match stop.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        // Nobody is left who could say so.
        Err(_) => std::future::pending().await,
    }
}

/// Lets so much time pass, unless everything is to stop: why.
pub(super) async fn pause(stop: &Stop, time: Duration) -> Result<(), String> {
    let mut stop = stop.clone();
    tokio::select! {
        biased;
        reason = stopped(&mut stop) => Err(reason),
        () = tokio::time::sleep(time) => Ok(()),
    }
}

/// The names in braces of a word.
fn braced(word: &str) -> impl Iterator<Item = &str> {
    let is_name = |text: &&str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase());
    word.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name).filter(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_are_filled_in_and_others_are_refused() {
        let words = ["ssh", "{host}", "restart --port={port} ${x} {}"].map(str::to_owned);
        assert!(Template::new(&words, &["host", "port"], Output::Ours).is_err(), "${{x}} is none of them");
        let words = ["ssh", "{host}", "restart --port={port} ${X} {}"].map(str::to_owned);
        assert!(Template::new(&words, &["host", "port"], Output::Ours).is_ok());
        let filled: Vec<_> = words.iter().map(|word| filled(word, &[("host", "a"), ("port", "80")])).collect();
        assert_eq!(filled, ["ssh", "a", "restart --port=80 ${X} {}"]);
    }
}
