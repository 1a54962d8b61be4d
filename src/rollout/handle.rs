//! The way to the task, for whoever wants something of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::error::RolloutError;
use super::machine::Word;
use super::view::{DeployBody, RolloutView, RolloutsView, WordBody};
use crate::config::{EndpointConfig, EndpointHost, endpoint};
use crate::model::{check_revision, parse_timestamp};
use crate::upstream::resolve_once;

/// Words and questions that may wait.
const COMMANDS_MAX: usize = 64;
/// Endpoints of one deployment.
const ENDPOINTS_MAX: usize = 256;
/// What is kept of what is said about a revision, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// How long a deployment waits for the addresses of its endpoints.
const RESOLVE_WAIT: Duration = Duration::from_secs(5);

pub(super) type Answer<T> = oneshot::Sender<Result<T, RolloutError>>;

/// What is asked of the task.
#[derive(Debug)]
pub(super) enum Command {
    Deploy {
        service: String,
        body: Box<DeployBody>,
        sought: Sought,
        by: String,
        expected: Option<u64>,
        answer: Answer<(RolloutView, Fresh)>,
    },
    Say(Say),
    List {
        service: String,
        answer: Answer<RolloutsView>,
    },
}

/// Where a deployment is to be found.
#[derive(Debug)]
pub(super) struct Sought {
    pub(super) endpoints: Vec<EndpointConfig>,
    /// Of the baseline; empty: where the file says.
    pub(super) baseline: Vec<EndpointConfig>,
    pub(super) resolved: HashMap<String, Vec<IpAddr>>,
}

/// A person's word.
#[derive(Debug)]
pub(super) struct Say {
    pub(super) service: String,
    /// `None`: the latest.
    pub(super) id: Option<u64>,
    pub(super) word: Word,
    pub(super) by: String,
    pub(super) reason: Option<String>,
    /// Why it goes on in a freeze.
    pub(super) override_freeze: Option<String>,
    pub(super) expected: Option<u64>,
    pub(super) answer: Answer<RolloutView>,
}

/// Whether a call began something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    Begun,
    /// It was so already.
    Known,
}

/// Asks for rollouts. Clones ask the same task.
#[derive(Debug, Clone)]
pub struct Rollouts {
    commands: mpsc::Sender<Command>,
    urgent: mpsc::Sender<Say>,
}

/// What has come to the task's end.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) commands: mpsc::Receiver<Command>,
    /// What takes requests back, or keeps them from going on.
    pub(super) urgent: mpsc::Receiver<Say>,
}

impl Rollouts {
    /// Both ends.
    pub(super) fn new() -> (Self, Inbox) {
        let (ask, commands) = mpsc::channel(COMMANDS_MAX);
        let (hurry, urgent) = mpsc::channel(COMMANDS_MAX);
        (Self { commands: ask, urgent: hurry }, Inbox { commands, urgent })
    }

    /// Puts a revision into a backend and begins its rollout; nothing happens where it is there already. `expected`: the
    /// service's revision that the caller has seen.
    ///
    /// # Errors
    /// When it can't be begun: why.
    pub async fn deploy(
        &self,
        service: &str,
        body: DeployBody,
        by: &str,
        expected: Option<u64>,
    ) -> Result<(RolloutView, Fresh), RolloutError> {
        let (endpoints, baseline) = checked(&body)?;
        let names = endpoints.iter().chain(&baseline).filter_map(|endpoint| match &endpoint.host {
            EndpointHost::Name(name) => Some(name.clone()),
            EndpointHost::Address(_) => None,
        });
        // Here, since it may take long, and other rollouts don't wait for it.
        let resolved = resolve_once(names.collect(), RESOLVE_WAIT).await;
        let sought = Sought { endpoints, baseline, resolved };
        let (service, body, by) = (service.to_owned(), Box::new(body), by.to_owned());
        self.ask(|answer| Command::Deploy { service, body, sought, by, expected, answer }).await
    }

    /// A person's word about a rollout; `None`: about the latest. `expected`: its version that the caller has seen.
    ///
    /// # Errors
    /// When the word has no effect: why.
    pub async fn say(
        &self,
        service: &str,
        id: Option<u64>,
        word: Word,
        by: &str,
        body: WordBody,
        expected: Option<u64>,
    ) -> Result<RolloutView, RolloutError> {
        says_why(body.override_freeze.as_ref())?;
        let (answer, heard) = oneshot::channel();
        let (service, by) = (service.to_owned(), by.to_owned());
        let WordBody { reason, override_freeze, .. } = body;
        let say = Say { service, id, word, by, reason, override_freeze, expected, answer };
        let sent = match word {
            Word::Abort | Word::Rollback | Word::Pause => self.urgent.try_send(say).is_ok(),
            _ => self.commands.try_send(Command::Say(say)).is_ok(),
        };
        if !sent {
            return Err(RolloutError::Stopping);
        }
        heard.await.unwrap_or(Err(RolloutError::Stopping))
    }

    /// The rollouts of a service, the latest first.
    ///
    /// # Errors
    /// When there is no such service.
    pub async fn list(&self, service: &str) -> Result<RolloutsView, RolloutError> {
        let service = service.to_owned();
        self.ask(|answer| Command::List { service, answer }).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, RolloutError> {
        let (answer, heard) = oneshot::channel();
        self.commands.try_send(command(answer)).map_err(|_| RolloutError::Stopping)?;
        heard.await.unwrap_or(Err(RolloutError::Stopping))
    }
}

/// What is asked for makes sense by itself: where the release listens, and where its baseline does.
fn checked(body: &DeployBody) -> Result<(Vec<EndpointConfig>, Vec<EndpointConfig>), RolloutError> {
    let invalid = |reason: String| Err(RolloutError::Invalid(reason));
    check_revision(&body.revision).map_err(RolloutError::Invalid)?;
    let texts = [&body.commit, &body.commit_time, &body.author, &body.link];
    if texts.into_iter().flatten().any(|text| text.len() > TEXT_BYTES_MAX || text.contains(char::is_control)) {
        return invalid(format!("commit, commit time, author and link are lines of up to {TEXT_BYTES_MAX} bytes"));
    }
    says_why(body.override_freeze.as_ref())?;
    if let Some(text) = body.commit_time.as_ref().filter(|text| parse_timestamp(text).is_none()) {
        return invalid(format!("{text:?} is no time like \"2026-11-21T13:52:55Z\""));
    }
    if body.endpoints.is_empty() || body.endpoints.len() > ENDPOINTS_MAX {
        return invalid(format!("a deployment has 1 to {ENDPOINTS_MAX} endpoints"));
    }
    if body.baseline_endpoints.len() > ENDPOINTS_MAX {
        return invalid(format!("a baseline has up to {ENDPOINTS_MAX} endpoints"));
    }
    Ok((endpoints(&body.endpoints)?, endpoints(&body.baseline_endpoints)?))
}

/// Each once.
fn endpoints(texts: &[String]) -> Result<Vec<EndpointConfig>, RolloutError> {
    let mut endpoints: Vec<EndpointConfig> = Vec::new();
    for text in texts {
        let found = endpoint(text).map_err(RolloutError::Invalid)?;
        if !endpoints.contains(&found) {
            endpoints.push(found);
        }
    }
    Ok(endpoints)
}

/// Whoever overrides a freeze says why.
fn says_why(override_freeze: Option<&String>) -> Result<(), RolloutError> {
    let is_text =
        |why: &&String| !why.trim().is_empty() && why.len() <= TEXT_BYTES_MAX && !why.contains(char::is_control);
    match override_freeze {
        Some(why) if !is_text(&why) => {
            let reason = format!("why a freeze is overridden is a line of 1 to {TEXT_BYTES_MAX} bytes");
            Err(RolloutError::Invalid(reason))
        }
        _ => Ok(()),
    }
}

impl Say {
    /// Why, for the history.
    pub(super) fn why(&self) -> Option<serde_json::Value> {
        self.reason
            .as_ref()
            .filter(|reason| reason.len() <= TEXT_BYTES_MAX)
            .map(|reason| serde_json::json!({ "reason": reason }))
    }
}
