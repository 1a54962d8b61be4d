//! How the person at the keyboard calls tidegate, so that every command shown can be copied and run.

use std::net::SocketAddr;

use super::backends::SERVICE;
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

    /// The command that sets these weights.
    pub(super) fn weights(&self, weights: &[(&str, f64)]) -> String {
        let weights: String = weights.iter().map(|(name, weight)| format!(" {name}={weight}")).collect();
        self.command(&format!("weights {SERVICE}{weights}"))
    }

    /// The command that gives a drained backend its requests back.
    pub(super) fn undrain(&self, backend: &str) -> String {
        self.command(&format!("undrain {SERVICE}/{backend}"))
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
