//! Everything that runs: backends, the proxy in front of them, and traffic.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::backends::{Backends, DEPLOYMENTS, GREEN, SERVICE, STABLE};
use super::fault::Fault;
use super::state_dir::StateDir;
use super::traffic::{Tally, Traffic};
use crate::app::{App, StartError};
use crate::cli::CliError;
use crate::config;
use crate::listener::bind;
use crate::state::Store;

/// Taken where nobody else has them.
pub(super) const PROXY_PORT: u16 = 8080;
pub(super) const ADMIN_PORT: u16 = 9900;

/// All parts, running.
#[derive(Debug)]
pub(super) struct Stage {
    /// Where the proxy takes requests.
    pub(super) proxy: SocketAddr,
    /// Where the admin API answers.
    pub(super) admin: SocketAddr,
    /// Where green answers, and what comes after it.
    pub(super) green: SocketAddr,
    pub(super) next: SocketAddr,
    app: App,
    traffic: Traffic,
    backends: Backends,
    /// Last, so that it outlives those who use it.
    _state_dir: StateDir,
}

impl Stage {
    /// Starts everything; traffic flows when this returns.
    pub(super) async fn set() -> Result<Self, CliError> {
        let state_dir = StateDir::new().map_err(CliError::failed)?;
        let backends = Backends::start().map_err(CliError::failed)?;
        let app = start_proxy(&state_dir, &backends).await?;
        let listening = || CliError::failed("the proxy listens nowhere");
        let proxy = *app.addresses().first().ok_or_else(listening)?;
        let admin = app.admin().ok_or_else(listening)?;
        let traffic = Traffic::start(proxy).map_err(CliError::failed)?;
        let [.., green, next] = backends.addresses[..] else { return Err(listening()) };
        Ok(Self { proxy, admin, green, next, app, traffic, backends, _state_dir: state_dir })
    }

    /// What requests see.
    pub(super) fn store(&self) -> Arc<Store> {
        Arc::clone(self.app.store())
    }

    /// What the clients saw.
    pub(super) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.traffic.tally)
    }

    /// What can go wrong with the next release.
    pub(super) fn fault(&self) -> Fault {
        self.backends.fault.clone()
    }

    /// What can be wrong with what green says.
    pub(super) fn mistake(&self) -> Fault {
        self.backends.mistake.clone()
    }

    /// Ends everything in the order in which nothing is lost: no new requests, then no proxy, then no backends.
    /// `hurry` cuts it short.
    pub(super) async fn clear(self, hurry: impl Future<Output = ()>) {
        tokio::pin!(hurry);
        let hurried = tokio::select! {
            () = self.traffic.stop() => false,
            () = &mut hurry => true,
        };
        let hurry = async {
            if !hurried {
                hurry.await;
            }
        };
        self.app.stop(hurry).await;
        self.backends.stop().await;
    }
}

/// On the usual ports as far as they are free; on any, should somebody take them in this very moment.
async fn start_proxy(state_dir: &StateDir, backends: &Backends) -> Result<App, CliError> {
    match try_proxy(state_dir, backends, [free(PROXY_PORT), free(ADMIN_PORT)]).await? {
        Err(StartError::Bind(_)) => try_proxy(state_dir, backends, [local(0), local(0)]).await?,
        started => started,
    }
    .map_err(CliError::failed)
}

async fn try_proxy(
    state_dir: &StateDir,
    backends: &Backends,
    [proxy, admin]: [SocketAddr; 2],
) -> Result<Result<App, StartError>, CliError> {
    let text = proxy_toml(state_dir.path(), proxy, admin, &backends.addresses);
    let path = state_dir.path().join("proxy.toml");
    let loaded = config::parse(&text, &path, &|_| None, None).map_err(CliError::failed)?;
    Ok(App::start(loaded.config, None).await)
}

/// `port`, or any where somebody has that one.
fn free(port: u16) -> SocketAddr {
    let address = local(port);
    if bind(address, 1).is_ok() { address } else { local(0) }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The configuration, as anybody would write it.
fn proxy_toml(state_dir: &Path, proxy: SocketAddr, admin: SocketAddr, backends: &[SocketAddr]) -> String {
    let state_dir = toml::Value::from(state_dir.display().to_string());
    let mut text = format!(
        r#"state_dir = {state_dir}

[[listeners]]
address = "{proxy}"

[admin]
address = "{admin}"

[services.{SERVICE}]
stable = "{STABLE}"

[services.{SERVICE}.mirror]
backend = "{GREEN}"
percent = 0
compare = {{ noise = true, ignore = ["$.backend", "$.revision"] }}

[services.{SERVICE}.rollout]
steps = [
    {{ weight = 5, hold = "1500ms" }},
    {{ weight = 25, hold = "1500ms" }},
    {{ weight = 100, holdback = "5%", watch = "1500ms" }},
]
"#
    );
    for (deployment, address) in DEPLOYMENTS.iter().zip(backends) {
        text += &format!(
            r#"
[services.{SERVICE}.backends.{}]
weight = {}
endpoints = ["http://{address}"]
"#,
            deployment.name, deployment.weight
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_valid_on_the_usual_ports_and_on_any() {
        let backends = [([127, 0, 0, 1], 9001).into(), ([127, 0, 0, 1], 9002).into(), ([127, 0, 0, 1], 9003).into()];
        for (proxy, admin) in [(PROXY_PORT, ADMIN_PORT), (0, 0)] {
            let text = proxy_toml(
                Path::new("/tmp/a \"b\""),
                ([127, 0, 0, 1], proxy).into(),
                ([127, 0, 0, 1], admin).into(),
                &backends,
            );
            let loaded = config::parse(&text, Path::new("proxy.toml"), &|_| None, None).unwrap();
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            assert_eq!(loaded.config.state_dir, Path::new("/tmp/a \"b\""));
            assert_eq!(loaded.config.services[0].backends.len(), DEPLOYMENTS.len());
        }
    }
}
