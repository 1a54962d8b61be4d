//! The command as a user types it.

use std::process::Stdio;

use tokio::process::Command;

use super::within;

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Runs a command to its end.
    pub async fn of(command: &mut Command) -> Self {
        Self::reading(command, Stdio::null()).await
    }

    /// Runs a command that reads `input`.
    pub async fn reading(command: &mut Command, input: impl Into<Stdio>) -> Self {
        let running = command.stdin(input).kill_on_drop(true).output();
        let output = within("the command to end", running).await.expect("the command can be run");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("what is printed is text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// `tidegate` with arguments, and without what the tester's own environment would tell it.
pub fn tidegate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments);
    for name in ["RUST_LOG", "TIDEGATE_ADMIN", "TIDEGATE_TOKEN"] {
        command.env_remove(name);
    }
    command
}
