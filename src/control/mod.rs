//! Live changes, one at a time: each is checked, written down and put in force, in the order that is safe for it.
//!
//! A move toward a candidate is written first and refused if that fails: once it is acknowledged, a crash doesn't lose
//! it. A move toward stable is made first and written when the disk lets it: whoever takes traffic away from a
//! failing backend at 3 a.m. doesn't wait for a full disk.

mod drains;
mod endpoints;
mod hold;
mod mirrors;
mod revision;
mod rollout;
mod rolls;
mod turn;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;
use tracing::{info, warn};

use crate::config::Config;
use crate::journal::{Entry, Fact, Journal, Lasting, WriteError};
use crate::model::{Drain, GuardMode, LiveWeights, NamedWeights};
use crate::state::{Applied, Change, LiveChanges, Refused, Store, WeightsChange, WeightsPlan};

pub use hold::HOLD_REQUESTS;
pub use rolls::{ROLL_LEASE, RollSight};
use turn::Turn;
pub use turn::see_through;

/// Who tidegate is in its own history.
const SELF: &str = "tidegate";

/// Why drains end that nobody has ended.
const OTHER_REVISION: &str = "another revision runs there, or nothing";

/// Why a change was not made.
#[derive(Debug)]
pub enum ControlError {
    Refused(Refused),
    /// The service has changed since the caller looked.
    Outdated {
        now: u64,
    },
    /// It couldn't be written down.
    Journal(WriteError),
    /// The journal can't be used at all.
    ReadOnly {
        reason: String,
    },
    /// A rollout decides about the service's weights.
    RolloutUnderWay {
        service: String,
        id: u64,
    },
    /// It doesn't fit what goes on.
    Busy(String),
    /// A hold that nobody would release.
    Stopping,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::Outdated { now } => {
                write!(f, "the service has changed since you looked (it is at \"{now}\" now); look again, then decide")
            }
            Self::Journal(error) => {
                write!(f, "not changed: {error} (what moves traffic toward stable is made all the same)")
            }
            Self::RolloutUnderWay { service, id } => write!(
                f,
                "rollout {id} of {service} is under way, and decides about its weights and copies; `tidegate abort {service}` takes \
                 everything back to stable, `tidegate promote {service}` goes on"
            ),
            Self::Busy(reason) => f.write_str(reason),
            Self::Stopping => write!(f, "not held: tidegate is stopping"),
            Self::ReadOnly { reason } => {
                write!(
                    f,
                    "stable gets everything, and nothing can be moved away from it, because the journal can't be used: \
                     {reason}"
                )
            }
        }
    }
}

impl std::error::Error for ControlError {}

impl From<Refused> for ControlError {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// The one way to change things while they run.
#[derive(Debug)]
pub struct Control {
    store: Arc<Store>,
    /// Or why there is none.
    journal: Result<Journal, String>,
    /// Held through a whole change, so that what was checked is still so when it is made.
    turn: Turn,
    /// Nothing may be held any more.
    stopping: AtomicBool,
    /// What the guard may do everywhere, whatever the file says.
    guard: watch::Sender<Option<GuardMode>>,
    /// Under way. Locked for a moment, by those who change things and those who look.
    rolls: std::sync::Mutex<Vec<rolls::Held>>,
}

impl Control {
    #[must_use]
    pub fn new(store: Arc<Store>, journal: Result<Journal, String>, guard: Option<GuardMode>) -> Self {
        Self {
            store,
            journal,
            turn: Turn::default(),
            stopping: AtomicBool::new(false),
            guard: watch::Sender::new(guard),
            rolls: std::sync::Mutex::default(),
        }
    }

    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The history.
    ///
    /// # Errors
    /// When it can't be used: why.
    pub fn journal(&self) -> Result<&Journal, ControlError> {
        self.journal.as_ref().map_err(|reason| ControlError::ReadOnly { reason: reason.clone() })
    }

    /// Sets all weights of a service; the file's, when none are given. Once this returns, the next request on every
    /// worker sees them. Weights that are in force already change nothing. `expected`: the service's revision that
    /// the caller has seen.
    ///
    /// # Errors
    /// When the weights make no sense, the caller has seen an older state, or a move toward a candidate can't be
    /// written down.
    pub async fn set_weights(
        &self,
        service: &str,
        weights: Option<Vec<(String, f64)>>,
        by: &str,
        expected: Option<u64>,
    ) -> Result<(), ControlError> {
        let _turn = self.turn.take().await;
        let plan = self.store.plan(service, weights.as_deref())?;
        if expected.is_some_and(|expected| expected != plan.revision) {
            return Err(ControlError::Outdated { now: plan.revision });
        }
        if let Some(open) = &plan.rollout {
            return Err(ControlError::RolloutUnderWay { service: service.to_owned(), id: open.id });
        }
        // The file's weights are about what the file says runs there.
        let ends_deployment = weights.is_none() && plan.deployment.is_some();
        if plan.from == plan.to && !ends_deployment {
            return Ok(());
        }
        let mut entry = entry(&plan, by);
        if ends_deployment {
            entry = entry.with(Lasting::EndDeployment(plan.service.clone()));
        }
        if plan.is_toward_stable() && !ends_deployment {
            self.apply(weights, &plan, by)?;
            self.note_entry(entry);
        } else {
            self.journal()?.write(entry).await.map_err(ControlError::Journal)?;
            self.apply(weights, &plan, by)?;
        }
        Ok(())
    }

    fn apply(&self, weights: Option<Vec<(String, f64)>>, plan: &WeightsPlan, by: &str) -> Result<(), Refused> {
        let service = plan.service.to_string();
        let change = match weights {
            Some(weights) => Change::Weights(WeightsChange { service, weights }),
            None => Change::Reset { service },
        };
        let applied = self.store.apply(change)?;
        self.note_undrained(&applied.undrained, OTHER_REVISION);
        let version = applied.version;
        let weights: Vec<String> = plan.to.iter().map(|(name, weight)| format!("{name}={}", weight.value())).collect();
        info!(service = %plan.service, weights = %weights.join(" "), by, version, "weights changed");
        Ok(())
    }

    /// Puts a new file in force, already checked.
    ///
    /// # Errors
    /// When it can't be.
    pub async fn reload(&self, config: Arc<Config>, resolved: HashMap<String, Vec<IpAddr>>) -> Result<u64, Refused> {
        let _turn = self.turn.take().await;
        let before = self.store.current();
        let Applied { version, ended, undrained, unmirrored, replaced } =
            self.store.apply(Change::Config { config, resolved })?;
        let ended = LiveChanges { weights: ended, drains: undrained, mirrors: unmirrored, deployments: replaced };
        self.note_ended(&ended);
        self.note_orphaned_holds(&before);
        Ok(version)
    }

    /// Writes down that live changes ended because the file changed.
    pub fn note_ended(&self, ended: &LiveChanges) {
        ended.mirrors.iter().for_each(|live| self.note_unmirrored(live));
        self.note_undrained(&ended.drains, OTHER_REVISION);
        for was in &ended.deployments {
            info!(service = %was.service, "what was deployed live has ended, or a part of it: the file says something else");
            let now = self.store.current();
            let now = now.service(was.service.as_str()).and_then(|service| service.deployment.clone());
            let lasting = match now {
                Some(now) => Lasting::SetDeployment((*now).clone()),
                None => Lasting::EndDeployment(was.service.clone()),
            };
            let backends = was.backends.iter().map(|b| (b.backend.to_string(), b.revision.clone())).collect();
            let fact = Fact::DeploymentEnded { service: was.service.to_string(), backends };
            self.note_entry(Entry::now(SELF, fact).with(lasting));
        }
        for live in &ended.weights {
            info!(service = %live.service, "live weights ended: the file's weights for this service changed");
            let now = self.store.current();
            let now = now.service(live.service.as_str());
            let to = now.map(|s| s.backends.iter().map(|b| (b.name.clone(), b.configured)).collect());
            let fact = Fact::OverrideEnded {
                service: live.service.to_string(),
                from: told(&live.weights),
                to: told(&to.unwrap_or_default()),
            };
            self.note_entry(Entry::now(SELF, fact).with(Lasting::EndWeights(live.service.clone())));
        }
    }

    fn note_undrained(&self, drains: &[Drain], reason: &str) {
        for drain in drains {
            let (service, backend) = (&drain.service, &drain.backend);
            info!(%service, %backend, reason, "a drain ended");
            self.note_entry(undrained(SELF, drain, reason));
        }
    }

    /// Writes down something that tidegate itself did.
    pub fn note(&self, fact: Fact) {
        self.note_entry(Entry::now(SELF, fact));
    }

    /// Writes down that somebody has what is known of a service's shadows forgotten.
    pub fn note_shadow_reset(&self, service: &str, comparisons: usize, by: &str) {
        info!(service, comparisons, by, "comparing shadows begins anew");
        let fact = Fact::ShadowReset { service: service.to_owned(), comparisons: comparisons as u64 };
        self.note_entry(Entry::now(by, fact));
    }

    /// Writes an entry down when the disk lets it. What is changed without a journal ends with the process: it is a move
    /// toward stable, which gets everything then.
    fn note_entry(&self, entry: Entry) {
        match &self.journal {
            Ok(journal) => journal.write_later(entry),
            Err(_) if !entry.changes.is_empty() => {
                let service = entry.fact.service().unwrap_or_default();
                warn!(service, by = %entry.by, "a change can't be written down, and ends with the process");
            }
            Err(_) => {}
        }
    }

    /// Has the history end in order.
    pub fn finish(&self) {
        if let Ok(journal) = &self.journal {
            journal.finish();
        }
    }
}

fn undrained(by: &str, drain: &Drain, reason: &str) -> Entry {
    let fact = Fact::Undrained {
        service: drain.service.to_string(),
        backend: drain.backend.to_string(),
        revision: drain.revision.clone(),
        reason: reason.to_owned(),
    };
    Entry::now(by, fact).with(Lasting::EndDrain(drain.service.clone(), drain.backend.clone()))
}

fn entry(plan: &WeightsPlan, by: &str) -> Entry {
    let (service, from, to) = (plan.service.to_string(), told(&plan.from), told(&plan.to));
    let fact = if plan.to == plan.configured {
        Fact::WeightsReset { service, from, to }
    } else {
        Fact::WeightsChanged { service, from, to }
    };
    Entry::now(by, fact).with(lasting(plan))
}

/// What of a plan must hold after a restart.
fn lasting(plan: &WeightsPlan) -> Lasting {
    if plan.to == plan.configured {
        return Lasting::EndWeights(plan.service.clone());
    }
    let (service, weights, replaced) = (plan.service.clone(), plan.to.clone(), plan.configured.clone());
    Lasting::SetWeights(LiveWeights { service, weights, replaced })
}

fn told(weights: &NamedWeights) -> BTreeMap<String, f64> {
    weights.iter().map(|(name, weight)| (name.to_string(), weight.value())).collect()
}
