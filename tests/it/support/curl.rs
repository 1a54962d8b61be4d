//! curl, as users have it.

use std::process::Stdio;

use tokio::process::Command;

use super::within;

/// Runs curl quietly and returns what it wrote; it must succeed.
pub async fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "15"]).args(arguments);
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = within("curl", command.output()).await.expect("curl is installed");
    assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("the output is text")
}
