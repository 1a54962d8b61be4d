//! Asks endpoints whether they are well, each in a task of its own, as long as a snapshot names it and its backend has
//! checks.
//!
//! An endpoint that nobody has asked yet counts as well, and its first check decides alone, either way: as in HAProxy,
//! and unlike Envoy, which lets new ones wait for their first check. A restart of the proxy must not take a working
//! service down for the time of a check.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::check::check;
use crate::config::HealthCheckConfig;
use crate::state::Service;
use crate::upstream::Endpoint;

/// Checks under way at once: with their connections, far below what the system allows a process to open.
const CHECKS_MAX: usize = 512;
/// While the outcome changes, the next check comes this much earlier, and no later than after a second.
const CHANGING_FACTOR: u32 = 5;
const CHANGING_MAX: Duration = Duration::from_secs(1);
/// Intervals vary by so much either way: what began together is not to ask together for ever.
const JITTER: f64 = 0.1;

/// All checks there are.
pub(super) struct Prober {
    permits: Rc<Semaphore>,
    /// By endpoint.
    probes: HashMap<u64, Probe>,
}

/// One endpoint's checks; they end with it.
struct Probe {
    endpoint: Arc<Endpoint>,
    config: Rc<RefCell<Arc<HealthCheckConfig>>>,
    task: AbortHandle,
}

impl Prober {
    pub(super) fn new() -> Self {
        Self { permits: Rc::new(Semaphore::new(CHECKS_MAX)), probes: HashMap::new() }
    }

    /// Asks the endpoints of `services`, all there are, as they are configured now. What was found out stays.
    pub(super) fn take_up<'a>(&mut self, services: impl Iterator<Item = &'a Service>) {
        let mut asked = HashSet::new();
        for service in services {
            for (config, backend) in service.config.backends.iter().zip(&service.backends) {
                let Some(config) = &config.health else { continue };
                for endpoint in &backend.endpoints {
                    asked.insert(endpoint.id);
                    self.ask(endpoint, config);
                }
            }
        }
        self.probes.retain(|id, _| asked.contains(id));
    }

    fn ask(&mut self, endpoint: &Arc<Endpoint>, config: &Arc<HealthCheckConfig>) {
        if let Some(probe) = self.probes.get(&endpoint.id) {
            probe.config.replace(Arc::clone(config));
            return;
        }
        let config = Rc::new(RefCell::new(Arc::clone(config)));
        let probing = probe(Arc::clone(endpoint), Rc::clone(&config), Rc::clone(&self.permits));
        let task = tokio::task::spawn_local(probing).abort_handle();
        self.probes.insert(endpoint.id, Probe { endpoint: Arc::clone(endpoint), config, task });
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
        // Nobody would ever take it back.
        if self.endpoint.health.is_check_failed() {
            self.endpoint.health.set_check_failed(false);
        }
    }
}

async fn probe(endpoint: Arc<Endpoint>, config: Rc<RefCell<Arc<HealthCheckConfig>>>, permits: Rc<Semaphore>) {
    let mut course = Course::default();
    loop {
        let asked = Arc::clone(&config.borrow());
        let outcome = {
            let Ok(_permit) = permits.acquire().await else { return };
            let checked = tokio::time::timeout(asked.timeout, check(&endpoint, &asked)).await;
            checked.unwrap_or_else(|_| Err(format!("no answer within {:?}", asked.timeout)))
        };
        let changed = course.take(outcome.is_ok(), asked.rise, asked.fall);
        {
            let mut notes = endpoint.health.notes();
            notes.checks += 1;
            notes.checks_failed += u64::from(outcome.is_err());
            notes.check_error = outcome.err();
        }
        if changed {
            endpoint.health.set_check_failed(course.failed);
        }
        let jitter = rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER);
        tokio::time::sleep(course.pause(asked.interval).mul_f64(jitter)).await;
    }
}

/// What one endpoint's checks have come to.
#[derive(Debug, Default)]
struct Course {
    asked: bool,
    failed: bool,
    /// Outcomes in a row that say otherwise than `failed`.
    against: u32,
}

impl Course {
    /// Takes a check's outcome in; whether that changes anything.
    fn take(&mut self, good: bool, rise: u32, fall: u32) -> bool {
        let first = !std::mem::replace(&mut self.asked, true);
        if good != self.failed {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let needed = if self.failed { rise } else { fall };
        if self.against < needed && !first {
            return false;
        }
        (self.failed, self.against) = (!self.failed, 0);
        true
    }

    /// Until the next check.
    fn pause(&self, interval: Duration) -> Duration {
        if self.against == 0 { interval } else { (interval / CHANGING_FACTOR).min(CHANGING_MAX) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After each outcome, whether the endpoint counts as failed.
    fn course(outcomes: &[bool]) -> Vec<bool> {
        let mut course = Course::default();
        let mut failed = Vec::new();
        for good in outcomes {
            course.take(*good, 2, 3);
            failed.push(course.failed);
        }
        failed
    }

    #[test]
    fn three_failures_in_a_row_take_an_endpoint_out_and_two_successes_bring_it_back() {
        let outcomes = [true, false, false, true, false, false, false, true, false, true, true];
        let failed = [false, false, false, false, false, false, true, true, true, true, false];
        assert_eq!(course(&outcomes), failed);
    }

    #[test]
    fn the_first_check_decides_alone() {
        assert_eq!(course(&[false, true, true]), [true, true, false]);
        assert_eq!(course(&[true, false]), [false, false]);
    }

    #[test]
    fn checks_come_faster_while_the_outcome_changes() {
        let mut course = Course::default();
        let pause = |course: &Course| course.pause(Duration::from_secs(5)).as_secs();
        course.take(true, 2, 3);
        assert_eq!(pause(&course), 5);
        course.take(false, 2, 3);
        assert_eq!(pause(&course), 1);
        course.take(false, 2, 3);
        assert!(course.take(false, 2, 3) && course.failed);
        assert_eq!(pause(&course), 5, "settled again");
    }
}
