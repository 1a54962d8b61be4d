//! A revision on its way: deployed with one call, and watched until its rollout is over.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use super::backends::SERVICE;
use super::invocation::Invocation;
use super::line::{Line, Style};
use crate::cli::{CliError, Client};
use crate::model::Strategy;
use crate::rollout::{DeployBody, RolloutView};

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What is deployed, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Release {
    pub(super) revision: &'static str,
    pub(super) endpoint: SocketAddr,
    /// `None`: as the file says, which is a canary.
    pub(super) strategy: Option<Strategy>,
}

impl Release {
    /// What is about to be done.
    pub(super) fn announcement(&self, title: &str, invocation: &Invocation) -> Vec<Line> {
        vec![
            Line::default(),
            Line::default().with(Style::Bold, format!("  {title}")),
            Line::from(format!("        $ {}", invocation.deploy(self))),
        ]
    }

    /// Begins its rollout.
    pub(super) async fn begin(&self, client: &Client) -> Result<RolloutView, CliError> {
        let body = DeployBody {
            revision: self.revision.to_owned(),
            endpoints: vec![format!("http://{}", self.endpoint)],
            strategy: self.strategy,
            ..DeployBody::default()
        };
        client.post(&path(), serde_json::to_vec(&body).map_err(CliError::failed)?).await
    }
}

/// Waits until a rollout is as far as that.
pub(super) async fn until(
    client: &Client,
    mut view: RolloutView,
    is_there: impl Fn(&RolloutView) -> bool,
) -> Result<RolloutView, CliError> {
    while !is_there(&view) {
        sleep(LOOK_INTERVAL).await;
        view = client.get(&format!("{}/{}", path(), view.id)).await?;
    }
    Ok(view)
}

pub(super) fn failed(error: &CliError) -> Vec<Line> {
    vec![Line::default().with(Style::Red, format!("        {}", error.text))]
}

fn path() -> String {
    format!("/v1/services/{SERVICE}/rollouts")
}
