//! The mirrors of a service, as requests see them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Breaker, RouteTable};
use crate::config::{MirrorConfig, ServiceConfig};
use crate::model::{BackendName, Percent, ServiceName};
use crate::observe::{MirrorMetrics, SharedGauge};
use crate::timers::Timers;

/// One mirror of a service.
#[derive(Debug)]
pub struct Mirror {
    pub config: Arc<MirrorConfig>,
    /// The backend that gets the copies; the mirror's name.
    pub backend: BackendName,
    /// What the file says, or what was set live.
    pub percent: Percent,
    /// `None`: all of the service's.
    pub routes: Option<RouteTable>,
    pub metrics: Arc<MirrorMetrics>,
    pub places: Arc<Places>,
    /// Of copies that open a connection.
    pub connects: Arc<Places>,
    pub breaker: Arc<Breaker>,
}

/// What a mirror keeps across snapshots.
#[derive(Debug, Clone)]
pub(super) struct KeptMirror {
    metrics: Arc<MirrorMetrics>,
    places: Arc<Places>,
    connects: Arc<Places>,
    breaker: Arc<Breaker>,
}

impl KeptMirror {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            metrics: Arc::new(MirrorMetrics::new(workers)),
            places: Arc::default(),
            connects: Arc::default(),
            breaker: Arc::default(),
        }
    }
}

impl Mirror {
    pub(super) fn new(
        service: &ServiceConfig,
        config: &Arc<MirrorConfig>,
        live: Option<Percent>,
        kept: KeptMirror,
    ) -> Self {
        let backend = service.backends[config.backend].name.clone();
        let routes = config.routes.iter().map(|route| (0, route.clone()));
        Self {
            percent: live.unwrap_or(config.percent),
            routes: (!config.routes.is_empty()).then(|| RouteTable::new(routes, None)),
            metrics: kept.metrics,
            places: kept.places,
            connects: kept.connects,
            breaker: kept.breaker,
            config: Arc::clone(config),
            backend,
        }
    }
}

/// What copies for a backend carry: `shop/green`.
#[must_use]
pub fn mark(service: &ServiceName, backend: &BackendName) -> String {
    format!("{service}/{backend}")
}

/// How many copies of a mirror are under way, or do something of which a few at a time are enough, over all workers;
/// and those that wait for others to end.
#[derive(Debug, Default)]
pub struct Places {
    taken: SharedGauge,
    waiting: SharedGauge,
    freed: Notify,
}

/// One copy's place, until dropped.
#[derive(Debug)]
pub struct Place(Arc<Places>);

impl Places {
    /// A place, at once.
    #[must_use]
    pub fn take(self: &Arc<Self>, max: u32) -> Option<Place> {
        self.taken.enter(max.into()).then(|| Place(Arc::clone(self)))
    }

    /// A place in line, at once.
    #[must_use]
    pub fn line_up(self: &Arc<Self>, max: u32) -> Option<InLine> {
        if max == 0 || !self.waiting.enter(max.into()) {
            return None;
        }
        // Whoever leaves either sees that somebody waits, or left before that one looks for a place.
        fence(Ordering::SeqCst);
        Some(InLine(Arc::clone(self)))
    }

    /// Copies under way.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.value()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.leave();
        fence(Ordering::SeqCst);
        if self.0.waiting.value() > 0 {
            self.0.freed.notify_one();
        }
    }
}

/// One that waits, until dropped.
#[derive(Debug)]
pub struct InLine(Arc<Places>);

impl InLine {
    /// Waits for a place, for at most `limit`.
    pub async fn wait(self, max: u32, limit: Duration, timers: &Rc<Timers>) -> Option<Place> {
        let place = async {
            loop {
                if let Some(place) = self.0.take(max) {
                    // Another may have been freed meanwhile, and told nobody but us.
                    self.0.freed.notify_one();
                    return place;
                }
                self.0.freed.notified().await;
            }
        };
        timers.timeout(limit, place).await.ok()
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.0.waiting.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_are_under_way_and_wait() {
        let (places, timers) = (Arc::<Places>::default(), Timers::new());
        let first = places.take(1).expect("nobody is there");
        assert!(places.take(1).is_none());
        let waiting = places.line_up(1).expect("nobody waits");
        assert!(places.line_up(1).is_none() && places.line_up(0).is_none());
        let (place, ()) = tokio::join!(waiting.wait(1, Duration::from_secs(1), &timers), async { drop(first) });
        assert!(place.is_some() && places.taken() == 1);
        drop(place);
        assert_eq!((places.taken(), places.waiting.value()), (0, 0));
    }
}
