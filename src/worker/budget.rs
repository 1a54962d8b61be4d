//! How many more requests a service may cause than its clients make.
//!
//! A count of retries per request multiplies the load of a service at the very moment when it fails; a share of its
//! requests does not (as in Finagle, linkerd and Envoy). Here nothing is paid in when a request succeeds: what the
//! service has earned since is worked out from its counters when something wants to be spent.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::config::BudgetConfig;
use crate::model::ServiceName;

/// What has been earned is forgotten with this time constant: a quiet hour doesn't pay for a storm.
const WINDOW: Duration = Duration::from_secs(10);

/// Requests before the first failure that earn something.
const REQUESTS_FIRST: u64 = 1000;

/// What each service has left on this worker, across snapshots; for those that ever spent any.
#[derive(Debug, Default)]
pub(super) struct Budgets(RefCell<HashMap<ServiceName, Budget, RandomState>>);

impl Budgets {
    /// Takes one from what `service` has, if there is one; `requests` is what this worker has counted of it so far.
    pub(super) fn spend(&self, service: &ServiceName, terms: &Terms, requests: u64, now: Instant) -> bool {
        let mut budgets = self.0.borrow_mut();
        if let Some(budget) = budgets.get_mut(service) {
            return budget.spend(terms, requests, now);
        }
        budgets.entry(service.clone()).or_insert_with(|| Budget::new(terms, requests, now)).spend(terms, requests, now)
    }

    /// Forgets all services but these. Looks no further than until it has seen that there is nothing to forget.
    pub(super) fn retain<'a>(&self, services: impl Iterator<Item = &'a ServiceName> + Clone) {
        let mut budgets = self.0.borrow_mut();
        let known = services.clone().filter(|service| budgets.contains_key(*service)).take(budgets.len()).count();
        if known < budgets.len() {
            let services: HashSet<_> = services.collect();
            budgets.retain(|service, _| services.contains(service));
        }
    }
}

/// How a service earns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Of its requests.
    share: f64,
    /// A second, on one worker.
    floor: f64,
}

impl Terms {
    /// The floor is a service's, and each of the workers gives its part.
    pub(super) fn of(config: &BudgetConfig, workers: usize) -> Self {
        Self { share: config.share, floor: f64::from(config.floor) / workers.max(1) as f64 }
    }
}

#[derive(Debug)]
struct Budget {
    /// Earned by time, and by requests.
    floor: f64,
    share: f64,
    requests: u64,
    at: Instant,
}

impl Budget {
    /// How fast the requests so far came isn't known: they earn as if there had been few.
    fn new(terms: &Terms, requests: u64, now: Instant) -> Self {
        let share = terms.share * requests.min(REQUESTS_FIRST) as f64;
        Self { floor: terms.floor_max(), share, requests, at: now }
    }

    fn spend(&mut self, terms: &Terms, requests: u64, now: Instant) -> bool {
        let elapsed = (now - self.at).as_secs_f64() / WINDOW.as_secs_f64();
        // Counters begin anew when a backend goes.
        let more = requests.saturating_sub(self.requests) as f64;
        let kept = (-elapsed).exp();
        // What came evenly over the time has in part been forgotten, too.
        let fresh = if elapsed > 0.0 { (1.0 - kept) / elapsed } else { 1.0 };
        self.floor = (self.floor + terms.floor * elapsed * WINDOW.as_secs_f64()).min(terms.floor_max());
        self.share = self.share * kept + terms.share * more * fresh;
        (self.requests, self.at) = (requests, now);
        let purse = if self.share >= 1.0 { &mut self.share } else { &mut self.floor };
        let spent = *purse >= 1.0;
        if spent {
            *purse -= 1.0;
        }
        spent
    }
}

impl Terms {
    fn floor_max(&self) -> f64 {
        // A floor is for quiet services, and one in hand is the least that is of use.
        if self.floor > 0.0 { (self.floor * WINDOW.as_secs_f64()).max(1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(budget: &mut Budget, terms: &Terms, requests: u64, now: Instant) -> usize {
        std::iter::repeat_with(|| budget.spend(terms, requests, now)).take_while(|spent| *spent).take(100_000).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_service_has_its_floor_and_saves_ten_seconds_of_it() {
        let (terms, now) = (Terms { share: 0.2, floor: 3.0 }, Instant::now());
        let mut budget = Budget::new(&terms, 0, now);
        assert_eq!(spent(&mut budget, &terms, 0, now), 30);
        assert_eq!(spent(&mut budget, &terms, 0, now + Duration::from_secs(2)), 6);
        assert_eq!(spent(&mut budget, &terms, 0, now + Duration::from_secs(3600)), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn services_that_are_no_more_are_forgotten_and_others_keep_what_they_have_left() {
        let (terms, now, budgets) = (Terms { share: 0.0, floor: 1.0 }, Instant::now(), Budgets::default());
        let names = ["a", "b", "c"].map(|name| name.parse::<ServiceName>().unwrap());
        for name in &names {
            while budgets.spend(name, &terms, 0, now) {}
        }
        budgets.retain([&names[2], &names[0]].into_iter());
        assert_eq!(names.each_ref().map(|name| budgets.spend(name, &terms, 0, now)), [false, true, false]);
        budgets.retain(std::iter::empty());
        assert!(names.iter().all(|name| budgets.spend(name, &terms, 0, now)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_storm_gets_its_share_of_the_requests_and_no_more() {
        let (terms, start) = (Terms { share: 0.2, floor: 0.0 }, Instant::now());
        let mut budget = Budget::new(&terms, 0, start);
        let mut passed = 0;
        // 1,000 requests a second for a minute, all of which fail.
        for request in 1..=60_000 {
            passed += u32::from(budget.spend(&terms, request, start + Duration::from_millis(request)));
        }
        assert!((11_500..=12_000).contains(&passed), "{passed}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_hour_does_not_pay_for_a_storm() {
        let (terms, start) = (Terms { share: 0.2, floor: 0.0 }, Instant::now());
        let mut budget = Budget::new(&terms, 0, start);
        let spent = spent(&mut budget, &terms, 3_600_000, start + Duration::from_secs(3600));
        // Ten seconds' worth of 1,000 a second.
        assert!((1_990..=2_000).contains(&spent), "{spent}");
    }

    #[tokio::test(start_paused = true)]
    async fn workers_share_the_floor_and_each_has_at_least_one() {
        let mut config = BudgetConfig { share: 0.0, floor: 10 };
        let now = Instant::now();
        let floor = |config: &BudgetConfig, workers| {
            let terms = Terms::of(config, workers);
            spent(&mut Budget::new(&terms, 0, now), &terms, 0, now)
        };
        assert_eq!((floor(&config, 1), floor(&config, 4), floor(&config, 1000)), (100, 25, 1));
        config.floor = 0;
        assert_eq!(floor(&config, 1), 0);
    }
}
