//! The thread that decides who is available, and sees to it that shares follow.
//!
//! Whatever makes an endpoint unavailable, or available again, shows in its [`Health`]; this thread looks at them ten times
//! a second, and at once when the alarm rings. It is the one place where changes are told and where the store hears of
//! them, first of all. Services that no request has reached, and that are as they began, are looked at only when the alarm
//! rings: nothing else can happen to them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use foldhash::fast::RandomState;
use rand::RngExt;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::ejection::{BackendSight, Cause, EndpointSight, LATELY_MS, Suspicion, cause, milliseconds, time_away};
use super::prober::Prober;
use super::window::Window;
use crate::analysis::Attempts;
use crate::config::EjectionConfig;
use crate::control::Control;
use crate::journal::Fact;
use crate::model::{BackendName, GuardMode, ServiceName};
use crate::state::{Backend, Change, Service, Snapshot};
use crate::upstream::{Availability, Endpoint, Health};

/// How often everything is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks that the alarm asks for: what fails in a storm is seen together.
const PAUSE: Duration = Duration::from_millis(1);
/// Between two looks at services with an endpoint under suspicion: a few answers of others decide.
const SUSPICION_PAUSE: Duration = Duration::from_millis(3);
/// How long such services are looked at so often; those with little traffic aren't in a hurry.
const SUSPICION_MAX_MS: u64 = 1_000;
/// How long the request that tries out an endpoint may take before another one does: its client may have left.
const TRIAL_MAX_MS: u64 = 10_000;
/// Answers that come so often, and then none for a second, are missing.
const OFTEN_PER_SECOND: u64 = 5;
/// Peaks are remembered by so many spans of so many ticks: three minutes.
const PEAK_SPANS: usize = 18;
const PEAK_SPAN_TICKS: u32 = 100;

/// The running thread.
#[derive(Debug)]
pub struct HealthThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl HealthThread {
    /// Starts it.
    ///
    /// # Errors
    /// When the system refuses a thread or what its runtime needs.
    pub fn start(control: Arc<Control>) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (report, started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("tidegate-health".to_owned()).spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    drop(report.send(Ok(())));
                    runtime.block_on(run(control, stopped));
                }
                Err(error) => drop(report.send(Err(error))),
            }
        })?;
        started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Self { stop, thread })
    }

    /// Ends it, with all checks.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the thread that watches endpoints ended in a panic");
        }
    }
}

async fn run(control: Arc<Control>, mut stopped: oneshot::Receiver<()>) {
    let alarm = Arc::clone(control.store().alarm());
    let mut keeper = Keeper::new(control);
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            _ = ticks.tick() => keeper.pass(alarm.now_ms(), Occasion::Tick),
            () = tokio::time::sleep(SUSPICION_PAUSE), if keeper.suspects(alarm.now_ms()) => {
                keeper.pass(alarm.now_ms(), Occasion::Suspicion);
            }
            () = alarm.rung() => {
                keeper.pass(alarm.now_ms(), Occasion::Alarm);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Why everything is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    Tick,
    Alarm,
    /// Only services with an endpoint under suspicion are.
    Suspicion,
}

/// Everything that is kept of services between two looks.
struct Keeper {
    control: Arc<Control>,
    prober: Prober,
    /// Of the snapshot that `services` follow.
    version: u64,
    services: Vec<Kept>,
    /// Indices of those that every look is at.
    followed: Vec<usize>,
}

impl Keeper {
    fn new(control: Arc<Control>) -> Self {
        Self { control, prober: Prober::new(), version: 0, services: Vec::new(), followed: Vec::new() }
    }

    fn pass(&mut self, now_ms: u64, occasion: Occasion) {
        let store = Arc::clone(self.control.store());
        let current = store.current();
        if current.version != self.version {
            self.take_up(&current);
        }
        for index in current.used.iter() {
            self.follow(index);
        }
        drop(current);
        let (mut changed, mut news) = (HashSet::new(), Vec::new());
        let mut look = |service: &mut Kept| {
            if service.look(now_ms, occasion, &mut news) {
                changed.insert(service.service.name().clone());
            }
        };
        if occasion == Occasion::Alarm {
            self.services.iter_mut().for_each(look);
            for index in 0..self.services.len() {
                if !self.services[index].is_followed && !self.services[index].is_as_it_began() {
                    self.follow(index);
                }
            }
        } else {
            let all = occasion == Occasion::Tick;
            for index in &self.followed {
                let service = &mut self.services[*index];
                if all || service.suspected_ms.is_some() {
                    look(service);
                }
            }
        }
        if !changed.is_empty() {
            // Only configurations and weights are ever refused.
            drop(store.apply(Change::Availability(changed)));
        }
        for News { fact, is_logged } in news {
            if !is_logged {
                tell(&fact);
            }
            self.control.note(fact);
        }
    }

    /// Whether a service has an endpoint under suspicion, and traffic that is likely to decide soon.
    fn suspects(&self, now_ms: u64) -> bool {
        let mut suspected = self.followed.iter().filter_map(|index| self.services[*index].suspected_ms);
        suspected.any(|at_ms| now_ms.saturating_sub(at_ms) < SUSPICION_MAX_MS)
    }

    /// From now on every look is at this service, too.
    fn follow(&mut self, index: usize) {
        if let Some(service) = self.services.get_mut(index)
            && !std::mem::replace(&mut service.is_followed, true)
        {
            self.followed.push(index);
        }
    }

    fn take_up(&mut self, snapshot: &Snapshot) {
        // What is the same service still needs nothing.
        let now: HashSet<_, RandomState> = snapshot.services.iter().map(Arc::as_ptr).collect();
        let (same, gone): (Vec<_>, Vec<_>) =
            self.services.drain(..).partition(|old| now.contains(&Arc::as_ptr(&old.service)));
        let same = same.into_iter().map(|old| (Arc::as_ptr(&old.service), old));
        let mut same: HashMap<_, _, RandomState> = same.collect();
        let mut known = Known::of(gone);
        let services = snapshot.services.iter();
        let services = services.map(|service| {
            let same = same.remove(&Arc::as_ptr(service));
            same.unwrap_or_else(|| known.take_up(service))
        });
        self.services.extend(services);
        self.followed.clear();
        for index in 0..self.services.len() {
            let service = &mut self.services[index];
            if std::mem::take(&mut service.is_followed) || !service.is_as_it_began() {
                self.follow(index);
            }
        }
        self.prober.take_up(snapshot.services.iter().map(|service| &**service));
        self.version = snapshot.version;
    }
}

/// What services that have changed leave to what they are now.
struct Known {
    /// By the endpoint's id.
    records: HashMap<u64, Record>,
    services: HashMap<ServiceName, KnownService>,
}

struct KnownService {
    /// By the backend's name.
    peaks: Vec<(BackendName, Peak)>,
    panicking: bool,
    is_followed: bool,
}

impl Known {
    fn of(gone: Vec<Kept>) -> Self {
        let mut known = Self { records: HashMap::new(), services: HashMap::new() };
        for Kept { service, records, peaks, is_followed, .. } in gone {
            let names = service.backends.iter().map(|backend| backend.name.clone());
            let of = KnownService { peaks: names.zip(peaks).collect(), panicking: service.panicking, is_followed };
            known.services.insert(service.name().clone(), of);
            known.records.extend(records.into_iter().flatten().map(|record| (record.endpoint.id, record)));
        }
        known
    }

    fn take_up(&mut self, service: &Arc<Service>) -> Kept {
        let mut known = self.services.remove(service.name());
        tell_panic(service, known.as_ref().is_some_and(|known| known.panicking));
        let records = service.backends.iter().map(|backend| {
            let record = |e: &Arc<Endpoint>| self.records.remove(&e.id).unwrap_or_else(|| Record::new(e));
            backend.endpoints.iter().map(record).collect()
        });
        let records: Vec<Vec<Record>> = records.collect();
        let mut peak = |backend: &Backend| {
            let peaks = &mut known.as_mut()?.peaks;
            let at = peaks.iter().position(|(name, _)| *name == backend.name)?;
            Some(peaks.swap_remove(at).1)
        };
        let peaks = service.backends.iter().map(|backend| peak(backend).unwrap_or_default()).collect();
        let suspected_ms = records.iter().flatten().filter_map(Record::suspected_ms).max();
        let is_followed = known.is_some_and(|known| known.is_followed);
        Kept { service: Arc::clone(service), records, peaks, suspected_ms, is_followed }
    }
}

/// Something that changed.
struct News {
    fact: Fact,
    is_logged: bool,
}

/// One service, in the snapshot's order.
struct Kept {
    service: Arc<Service>,
    /// By backend and endpoint.
    records: Vec<Vec<Record>>,
    /// By backend.
    peaks: Vec<Peak>,
    /// Since when an endpoint is under suspicion; of several, the last.
    suspected_ms: Option<u64>,
    /// A request has reached it, or something else has happened to it.
    is_followed: bool,
}

impl Kept {
    /// No attempt has ended, and there is nothing that time would change.
    fn is_as_it_began(&self) -> bool {
        self.records.iter().flatten().all(Record::is_as_it_began)
    }

    /// Whether requests have to see something new.
    fn look(&mut self, now_ms: u64, occasion: Occasion, news: &mut Vec<News>) -> bool {
        let ejection = self.service.config.ejection;
        for record in self.records.iter_mut().flatten() {
            if occasion == Occasion::Tick {
                record.note(now_ms, ejection.as_ref());
            }
        }
        let mut changed = false;
        if let Some(config) = ejection {
            self.eject(&config, now_ms);
        }
        let nobody_answers = ejection.is_some_and(|config| self.has_ejected() && self.nobody_answers(&config, now_ms));
        for record in self.records.iter_mut().flatten() {
            changed |= record.advance(ejection.as_ref(), nobody_answers, now_ms);
            changed |= record.tell(now_ms, news);
        }
        if occasion == Occasion::Tick && self.service.backends.len() > 1 {
            // What overflows into a backend isn't what it is used to.
            let overflowing = self.service.backends.iter().any(|backend| backend.overflow_limit.is_some());
            for (backend, peak) in self.service.backends.iter().zip(&mut self.peaks).filter(|_| !overflowing) {
                let in_flight = u32::try_from(backend.metrics.in_flight()).unwrap_or(u32::MAX);
                backend.watch.set_peak_in_flight(peak.observe(in_flight));
            }
        }
        changed
    }

    /// Ejects whom it is time to, one after the other: who has gone is no longer there for the next.
    fn eject(&mut self, config: &EjectionConfig, now_ms: u64) {
        self.suspected_ms = None;
        for backend in 0..self.records.len() {
            for endpoint in 0..self.records[backend].len() {
                self.suspect(config, (backend, endpoint), now_ms);
                if !self.records[backend][endpoint].may_be_bad(config, now_ms) {
                    continue;
                }
                let sights: Vec<_> = (0..self.records.len()).map(|index| self.sight(index)).collect();
                if let Some(cause) = cause(config, &sights, (backend, endpoint), now_ms) {
                    drop(sights);
                    self.records[backend][endpoint].eject(config, now_ms, cause);
                }
            }
        }
    }

    fn has_ejected(&self) -> bool {
        self.records.iter().flatten().any(|record| record.phase != Phase::In)
    }

    /// What is left of the service answers nothing: all has failed lately, or what came often until lately comes no more.
    /// Whoever is ejected may do better by now.
    fn nobody_answers(&self, config: &EjectionConfig, now_ms: u64) -> bool {
        let left = || self.records.iter().flatten().filter(|record| record.health().is_available());
        let since = |begin_ms: u64| -> Attempts {
            left().map(|record| record.window.since(begin_ms, record.health().attempts())).sum()
        };
        let lately = since(now_ms.saturating_sub(LATELY_MS));
        let under_way: u64 = left().map(|record| record.health().in_flight()).sum();
        let was_often = || {
            let window_ms = milliseconds(config.window);
            since(now_ms.saturating_sub(window_ms)).answered * 1_000 >= OFTEN_PER_SECOND * window_ms
        };
        let enough = u64::from(config.consecutive);
        lately.answered == 0 && (lately.failed >= enough || (under_way >= enough && was_often()))
    }

    fn suspect(&mut self, config: &EjectionConfig, (backend, endpoint): (usize, usize), now_ms: u64) {
        let it = &self.records[backend][endpoint];
        let suspect = it.is_suspect(config);
        if suspect != it.suspicion.is_some() {
            let attempts = |e: &Record| (e.endpoint.id, e.health().attempts());
            let totals = || self.records.iter().flatten().map(attempts).collect();
            let suspicion = suspect.then(|| Suspicion { at_ms: now_ms, totals: totals() });
            self.records[backend][endpoint].suspicion = suspicion;
        }
        self.suspected_ms = self.suspected_ms.max(self.records[backend][endpoint].suspected_ms());
    }

    fn sight(&self, backend: usize) -> BackendSight<'_> {
        BackendSight {
            // By the file's word alone: whoever stops the guard live wants nothing else to take its place.
            dispensable: backend != self.service.config.stable && self.service.config.guard == GuardMode::Off,
            weighted: {
                let backend = &self.service.backends[backend];
                !backend.wanted.is_zero() && backend.drain.is_none()
            },
            endpoints: self.records[backend].iter().map(Record::sight).collect(),
        }
    }
}

/// What becomes of an endpoint's ejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not ejected.
    In,
    Away {
        since_ms: u64,
        until_ms: u64,
    },
    /// The next request that may tries it out.
    Due,
    OnTrial {
        since_ms: u64,
    },
}

/// What is kept of one endpoint.
struct Record {
    endpoint: Arc<Endpoint>,
    window: Window,
    suspicion: Option<Suspicion>,
    phase: Phase,
    /// Ejected so many times in a row; forgotten one by one while all is well.
    times: u32,
    /// It is tried out before its time, for want of anybody better.
    is_early: bool,
    /// Since when nothing was counted in or out of `times`.
    steady_ms: u64,
    was_available: bool,
    /// Why it wasn't, when it last wasn't.
    was: Availability,
    /// In tenths, as shares follow.
    ramp: u32,
}

impl Record {
    fn new(endpoint: &Arc<Endpoint>) -> Self {
        let mut window = Window::default();
        // What it is compared with at first: nothing.
        window.note(0, endpoint.health.attempts(), 0);
        Self {
            endpoint: Arc::clone(endpoint),
            window,
            suspicion: None,
            phase: Phase::In,
            times: 0,
            is_early: false,
            steady_ms: 0,
            was_available: true,
            was: Availability::Up,
            ramp: 10,
        }
    }

    fn health(&self) -> &Health {
        &self.endpoint.health
    }

    fn is_as_it_began(&self) -> bool {
        let health = self.health();
        let (begun, totals) = (Attempts::default(), health.attempts());
        self.was_available && self.phase == Phase::In && self.times == 0 && health.is_plain() && totals == begun
    }

    fn note(&mut self, now_ms: u64, config: Option<&EjectionConfig>) {
        let Some(config) = config else { return };
        self.window.note(now_ms, self.endpoint.health.attempts(), milliseconds(config.window));
    }

    /// It has failed too often in a row to be fine itself, but perhaps no worse than others.
    fn is_suspect(&self, config: &EjectionConfig) -> bool {
        self.phase == Phase::In && self.health().is_available() && self.health().failures() >= config.consecutive
    }

    /// Since when it is under suspicion.
    fn suspected_ms(&self) -> Option<u64> {
        self.suspicion.as_ref().map(|suspicion| suspicion.at_ms)
    }

    /// A first look, so that the whole service is looked at only where there is a reason.
    fn may_be_bad(&self, config: &EjectionConfig, now_ms: u64) -> bool {
        if self.phase != Phase::In || !self.health().is_available() {
            return false;
        }
        let recent = || {
            let begin_ms = now_ms.saturating_sub(milliseconds(config.window));
            self.window.since(begin_ms, self.health().attempts())
        };
        let too_many = || {
            let recent = recent();
            recent.failed > 0 && recent.failed as f64 >= config.ratio * (recent.failed + recent.answered) as f64
        };
        self.health().failures() >= config.consecutive || too_many()
    }

    fn sight(&self) -> EndpointSight<'_> {
        let health = self.health();
        EndpointSight {
            id: self.endpoint.id,
            available: health.is_available(),
            failures: health.failures(),
            refusals: health.refusals(),
            unreached: health.unreached(),
            totals: health.attempts(),
            window: &self.window,
            suspicion: self.suspicion.as_ref(),
        }
    }

    fn eject(&mut self, config: &EjectionConfig, now_ms: u64, cause: Cause) {
        // What fails for want of anybody better is no worse for that.
        self.times = self.times.saturating_add(u32::from(!self.is_early)).max(1);
        self.is_early = false;
        let away = time_away(config, self.times, rand::rng().random());
        self.phase = Phase::Away { since_ms: now_ms, until_ms: now_ms.saturating_add(milliseconds(away)) };
        self.health().eject();
        let mut notes = self.health().notes();
        notes.ejected_for = Some(cause.to_string());
        notes.ejected_until = Some(SystemTime::now() + away);
        notes.ejections += 1;
        drop(notes);
        let identity = &self.endpoint.identity;
        let (service, backend, endpoint) = (&identity.service, &identity.backend, self.endpoint.display());
        let kind = cause.label();
        warn!(%service, %backend, %endpoint, %cause, kind, times = self.times, ?away, "an endpoint is ejected");
    }

    /// Moves an ejection on, sooner where nobody else answers; whether requests have to see something new.
    fn advance(&mut self, config: Option<&EjectionConfig>, nobody_answers: bool, now_ms: u64) -> bool {
        let Some(config) = config else {
            // It was turned off meanwhile.
            if self.phase != Phase::In {
                self.readmit(now_ms);
            }
            return false;
        };
        match self.phase {
            Phase::In => {
                if self.times > 0 && now_ms.saturating_sub(self.steady_ms) >= milliseconds(config.time) {
                    (self.times, self.steady_ms) = (self.times - 1, now_ms);
                }
                false
            }
            Phase::Away { since_ms, until_ms } => {
                self.is_early = now_ms < until_ms;
                let is_due = !self.is_early || (nobody_answers && now_ms.saturating_sub(since_ms) >= LATELY_MS);
                is_due && self.offer_trial()
            }
            Phase::Due | Phase::OnTrial { .. } => match (self.health().trial_outcome(), self.phase) {
                (Some(true), _) => {
                    self.readmit(now_ms);
                    false
                }
                (Some(false), _) => {
                    self.eject(config, now_ms, Cause::Trial);
                    true
                }
                (None, Phase::OnTrial { since_ms }) if now_ms.saturating_sub(since_ms) > TRIAL_MAX_MS => {
                    self.offer_trial()
                }
                (None, Phase::Due) if self.health().is_on_trial() => {
                    self.phase = Phase::OnTrial { since_ms: now_ms };
                    true
                }
                (None, _) => false,
            },
        }
    }

    fn offer_trial(&mut self) -> bool {
        self.phase = Phase::Due;
        self.health().offer_trial();
        true
    }

    fn readmit(&mut self, now_ms: u64) {
        (self.phase, self.steady_ms) = (Phase::In, now_ms);
        // What it did before is settled.
        self.window = Window::default();
        self.window.note(now_ms, self.endpoint.health.attempts(), 0);
        self.health().readmit();
        self.health().notes().ejected_until = None;
    }

    /// Tells what has changed, and lets a recovered endpoint's share grow; whether requests have to see something new.
    fn tell(&mut self, now_ms: u64, news: &mut Vec<News>) -> bool {
        let available = self.health().is_available();
        if available == self.was_available {
            return self.health().is_recovering() && self.grow();
        }
        self.was_available = available;
        if available {
            self.health().begin_recovery();
            self.steady_ms = now_ms;
        } else {
            self.health().end_recovery();
            self.was = self.health().availability();
        }
        self.ramp = 0;
        // An ejection has a line of its own in the log, with more in it.
        let is_logged = !available && self.was == Availability::Ejected;
        news.push(News { fact: self.fact(available), is_logged });
        true
    }

    fn grow(&mut self) -> bool {
        let ramp = self.health().ramp();
        if ramp >= 1.0 {
            self.health().end_recovery();
        }
        let step = (ramp * 10.0) as u32;
        std::mem::replace(&mut self.ramp, step) != step
    }

    fn fact(&self, available: bool) -> Fact {
        let identity = &self.endpoint.identity;
        let (service, backend) = (identity.service.to_string(), identity.backend.to_string());
        let endpoint = self.endpoint.display();
        let notes = self.health().notes();
        let told = |text: &Option<String>| text.clone().unwrap_or_default();
        if available {
            let reason = match self.was {
                Availability::CheckFailed => "its checks succeed",
                Availability::Drained => "it is no longer drained",
                Availability::Rolling => "its roll is over",
                _ => "its ejection is over",
            };
            return Fact::EndpointUp { service, backend, endpoint, reason: reason.to_owned() };
        }
        let reason = match self.was {
            Availability::Drained => "drained".to_owned(),
            Availability::Rolling => "rolling".to_owned(),
            Availability::CheckFailed => format!("its checks fail: {}", told(&notes.check_error)),
            _ => told(&notes.ejected_for),
        };
        Fact::EndpointDown { service, backend, endpoint, reason }
    }
}

/// The most requests under way at once in the last minutes.
#[derive(Debug, Default)]
struct Peak {
    /// The newest first.
    spans: [u32; PEAK_SPANS],
    ticks: u32,
}

impl Peak {
    fn observe(&mut self, in_flight: u32) -> u32 {
        if self.ticks == PEAK_SPAN_TICKS {
            self.spans.rotate_right(1);
            (self.spans[0], self.ticks) = (0, 0);
        }
        self.ticks += 1;
        self.spans[0] = self.spans[0].max(in_flight);
        self.spans.iter().copied().max().unwrap_or(0)
    }
}

fn tell(fact: &Fact) {
    match fact {
        Fact::EndpointDown { service, backend, endpoint, reason } => {
            warn!(%service, %backend, %endpoint, %reason, "an endpoint is down");
        }
        Fact::EndpointUp { service, backend, endpoint, reason } => {
            info!(%service, %backend, %endpoint, %reason, "an endpoint is up");
        }
        _ => {}
    }
}

fn tell_panic(service: &Service, before: bool) {
    let name = service.name();
    match (before, service.panicking) {
        (false, true) => {
            service.watch.count_panic();
            warn!(service = %name, "no endpoint of the service is available; all of them are used");
        }
        (true, false) => info!(service = %name, "the service has available endpoints again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::state::{History, LiveChanges, Store};
    use crate::tls::ServerTls;

    /// Of two shops.
    fn config() -> Arc<Config> {
        let service = |name: &str, port: u16| {
            let backend = |name: &str, port: u16| {
                format!("[services.{name}]\nweight = 1\nendpoints = [\"http://127.0.0.1:{port}\"]\n")
            };
            let (blue, green) = (format!("{name}.backends.blue"), format!("{name}.backends.green"));
            format!("[services.{name}]\nroutes = [{{ host = \"{name}.test\" }}]\n")
                + &backend(&blue, port)
                + &backend(&green, port + 1)
        };
        let file = "[[listeners]]\naddress = \"127.0.0.1:0\"\n".to_owned() + &service("a", 1) + &service("b", 3);
        Arc::new(crate::config::parse(&file, std::path::Path::new("proxy.toml"), &|_| None, None).unwrap().config)
    }

    fn keeper() -> Keeper {
        let history = History::Known(LiveChanges::default());
        let store = Store::new(&config(), HashMap::new(), 1, ServerTls::new().unwrap(), history).unwrap().0;
        Keeper::new(Arc::new(Control::new(Arc::new(store), Err("there is none".to_owned()), None)))
    }

    #[tokio::test(start_paused = true)]
    async fn every_look_is_at_services_that_requests_have_reached_and_no_others() {
        let mut keeper = keeper();
        keeper.pass(100, Occasion::Tick);
        assert!(keeper.followed.is_empty());
        let store = Arc::clone(keeper.control.store());
        store.current().used.mark(1);
        keeper.pass(200, Occasion::Tick);
        assert_eq!(keeper.followed, [1]);
        // Also under later snapshots, where no request has reached it yet.
        assert!(store.apply(Change::Config { config: config(), resolved: HashMap::new() }).is_ok());
        keeper.pass(300, Occasion::Tick);
        assert_eq!(keeper.followed, [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn services_that_a_reload_leaves_as_they_were_are_known_as_they_were_wherever_they_are_now() {
        let mut keeper = keeper();
        keeper.pass(100, Occasion::Tick);
        let store = Arc::clone(keeper.control.store());
        store.current().used.mark(1);
        keeper.pass(200, Occasion::Tick);
        let before = store.current();
        let mut next = Config::clone(&store.config());
        next.services.swap(0, 1);
        assert!(store.apply(Change::Config { config: Arc::new(next), resolved: HashMap::new() }).is_ok());
        let now = store.current();
        assert!(
            Arc::ptr_eq(&before.services[0], &now.services[1]) && Arc::ptr_eq(&before.services[1], &now.services[0])
        );
        keeper.pass(300, Occasion::Suspicion);
        assert_eq!(keeper.followed, [0]);
        let known: Vec<_> = keeper.services.iter().map(|kept| kept.service.name().as_str()).collect();
        assert_eq!(known, ["b", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_to_a_service_without_requests_is_followed_to_its_end() {
        let mut keeper = keeper();
        keeper.pass(100, Occasion::Tick);
        let store = Arc::clone(keeper.control.store());
        let health = || Arc::clone(&store.current().services[0].backends[0].endpoints[0]);
        health().health.set_drained(true);
        keeper.pass(200, Occasion::Alarm);
        assert_eq!(keeper.followed, [0]);
        assert!(!keeper.services[0].records[0][0].was_available);
        health().health.set_drained(false);
        keeper.pass(300, Occasion::Tick);
        assert!(keeper.services[0].records[0][0].was_available);
    }

    #[test]
    fn a_peak_is_remembered_for_minutes() {
        let mut peak = Peak::default();
        assert_eq!(peak.observe(40), 40);
        for _ in 0..PEAK_SPAN_TICKS * (PEAK_SPANS as u32 - 1) {
            assert_eq!(peak.observe(3), 40);
        }
        for _ in 0..PEAK_SPAN_TICKS {
            peak.observe(3);
        }
        assert_eq!(peak.observe(3), 3);
    }
}
