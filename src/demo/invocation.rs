//! How the person at the keyboard calls tidegate, so that every command shown can be copied and run.

use std::net::SocketAddr;

use super::backends::SERVICE;
use super::release::Release;
use super::stage::ADMIN_PORT;

/// The program and the proxy that its commands are to reach.
#[derive(Debug, Clone)]
pub(super) struct Invocation {
    program: String,
    admin: SocketAddr,
}

impl Invocation {
    pub(super) fn new(admin: SocketAddr) -> Self {
        let program = std::env::args().next().unwrap_or_else(|| "tidegate".to_owned());
        Self { program, admin }
    }

    /// The program itself, as it was called.
    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// The command that deploys a release.
    pub(super) fn deploy(&self, release: &Release) -> String {
        let strategy = release.strategy.map_or(String::new(), |strategy| format!(" --strategy {}", strategy.name()));
        let Release { revision, endpoint, .. } = release;
        self.command(&format!("deploy {SERVICE} --revision {revision} --endpoint http://{endpoint}{strategy}"))
    }

    /// The command that goes back to the last good release.
    pub(super) fn rollback(&self) -> String {
        self.command(&format!("rollback {SERVICE}"))
    }

    /// The command that shows how the rollouts stand.
    pub(super) fn rollouts(&self) -> String {
        self.command(&format!("rollouts {SERVICE}"))
    }

    /// The command that has all requests copied to a backend.
    pub(super) fn mirror(&self, backend: &str) -> String {
        self.command(&format!("mirror {SERVICE} {backend} 100%"))
    }

    /// The command that has answers compared anew.
    pub(super) fn compare_anew(&self) -> String {
        self.command(&format!("shadow {SERVICE} --reset"))
    }

    /// The command that shows the history.
    pub(super) fn events(&self) -> String {
        self.command(&format!("events {SERVICE}"))
    }

    fn command(&self, what: &str) -> String {
        // Without --admin, commands go to the usual port, unless the environment says otherwise.
        let usual = self.admin.port() == ADMIN_PORT && std::env::var_os("TIDEGATE_ADMIN").is_none();
        let admin = if usual { String::new() } else { format!(" --admin {}", self.admin) };
        format!("{} {what}{admin}", self.program)
    }
}
