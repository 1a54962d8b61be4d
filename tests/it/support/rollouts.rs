//! A shop with a stable backend and an idle one, and a release that goes into the idle one.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::{POLL_INTERVAL, Proxy, Ran, Setup, Upstream, Wire, backend, get, named, tidegate, within};

/// Blue is stable; green is idle, and the file's green has nobody in it.
pub struct Shop {
    state: TempDir,
    pub blue: Upstream,
    pub old_green: Upstream,
    pub plan: String,
}

impl Shop {
    /// `plan`: the keys of `[services.shop.rollout]`.
    pub async fn new(plan: &str) -> Self {
        let state = TempDir::new().expect("there is room for temporary files");
        Self { state, blue: named("blue").await, old_green: named("old green").await, plan: plan.to_owned() }
    }

    pub fn settings(&self) -> String {
        self.settings_with(&self.plan, "")
    }

    /// With another plan, and more tables.
    pub fn settings_with(&self, plan: &str, more: &str) -> String {
        let (blue, green) = (backend("blue", 100.0, &self.blue), backend("green", 0.0, &self.old_green));
        format!("{more}\n{blue}{green}[services.shop.rollout]\n{plan}\n")
    }

    pub fn setup(&self) -> Setup {
        Setup::new().state_dir(self.state.path().to_str().expect("the path is text"))
    }

    pub fn journal(&self) -> PathBuf {
        self.state.path().join("journal.db")
    }

    pub async fn open(&self) -> Proxy {
        self.setup().settings(&self.settings()).start().await
    }
}

/// `tidegate` at the proxy, as `ada`.
pub async fn command(proxy: &Proxy, arguments: &[&str]) -> Ran {
    let admin = proxy.admin().to_string();
    Ran::of(tidegate(arguments).env("TIDEGATE_ADMIN", &admin).env("TIDEGATE_BY", "ada")).await
}

/// `tidegate deploy shop` of a revision that runs at an upstream, with more arguments.
pub async fn deploy(proxy: &Proxy, revision: &str, green: &Upstream, more: &[&str]) -> Ran {
    let url = green.url();
    let arguments = [&["deploy", "shop", "--revision", revision, "--endpoint", &url][..], more].concat();
    command(proxy, &arguments).await
}

/// The latest rollout, as the API shows it.
pub async fn latest(proxy: &Proxy) -> Value {
    proxy.view("/v1/services/shop/rollouts/latest").await
}

/// Waits until the latest rollout's state is this one.
pub async fn becomes(proxy: &Proxy, state: &str) -> Value {
    let becoming = async {
        loop {
            let view = latest(proxy).await;
            // What was taken back is counted to its end.
            let is_whole = !matches!(state, "rolled back" | "aborted") || view.get("ended").is_some();
            if view["state"] == state && is_whole {
                return view;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    within(&format!("the rollout to be {state}"), becoming).await
}

/// Waits until it is at this step.
pub async fn reaches(proxy: &Proxy, step: u64) -> Value {
    let reaching = async {
        loop {
            let view = latest(proxy).await;
            if view["step"] == step {
                return view;
            }
            assert!(view.get("ended").is_none(), "it is over: {view:#}");
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    within(&format!("step {step}"), reaching).await
}

/// Shares of the service's backends, as requests see them.
pub async fn shares(proxy: &Proxy) -> Vec<f64> {
    let view = proxy.view("/v1/services/shop").await;
    let backends = view["backends"].as_array().expect("backends are a list").iter();
    backends.map(|backend| backend["share"].as_f64().expect("a share is a number")).collect()
}

/// A client that goes on asking, however it is answered.
pub struct Asking {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Vec<u16>>,
}

impl Asking {
    /// `GET /` again and again, with more fields, and a pause between two.
    pub async fn on(proxy: &Proxy, fields: &str, pause: Duration) -> Self {
        let (stop, request) = (Arc::<AtomicBool>::default(), get("/", fields));
        let (stopped, mut wire) = (Arc::clone(&stop), Wire::connect(proxy.http()).await);
        let asking = tokio::spawn(async move {
            let mut statuses = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                statuses.push(wire.exchange(&request).await.status());
                tokio::time::sleep(pause).await;
            }
            statuses
        });
        Self { stop, asking }
    }

    /// How each request was answered.
    pub async fn finish(self) -> Vec<u16> {
        self.stop.store(true, Ordering::SeqCst);
        self.asking.await.expect("every request is answered")
    }
}
