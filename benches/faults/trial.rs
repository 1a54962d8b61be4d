//! One fresh proxy, one fault, and what came of it.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use http::HeaderValue;
use serde::Serialize;
use serde_json::Value;

use crate::admin::Admin;
use crate::fault::{FLAP, Fault};
use crate::load::{Http1, Load, Sample, connect};
use crate::origin::{Conduct, Origin, Origins};
use crate::proxy::{Contender, Proxy};

/// A candidate that hasn't been asked for this long, while stable was asked so often, isn't asked any more.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_REQUESTS: u64 = 500;
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// After a start, and between a history and the fault.
const SETTLE: Duration = Duration::from_secs(3);
/// What is slow is known only then.
const REVISION_WARM: Duration = Duration::from_secs(33);
/// Latencies of this long before the fault are compared with those of as long after, or until the end.
const BESIDE: Duration = Duration::from_secs(3);
/// An hour's history in seconds: more requests, more of which fail.
const HISTORY_PER_SECOND: u64 = 4000;
const HISTORY_ERRORS: f64 = 0.02;

/// What is to be tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) contender: Contender,
    pub(crate) fault: Fault,
    /// Failures that both backends together have behind them, at the same rate.
    pub(crate) history: u64,
    pub(crate) per_second: u64,
    /// Of tidegate; its default unless given.
    pub(crate) workers: Option<usize>,
    /// How long to wait for the drain.
    pub(crate) limit: Duration,
    /// How long to go on watching after it.
    pub(crate) after: Duration,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    /// Requests and failures of both before the fault: stable, candidate.
    pub(crate) history_requests: u64,
    pub(crate) history_failures: (u64, u64),
    /// Requests of the candidate that it failed from the fault's beginning until it was drained, or to the end.
    pub(crate) failures: u64,
    /// And to the end.
    pub(crate) failures_in_all: u64,
    /// Requests that it got after the proxy said that it was drained.
    pub(crate) late: u64,
    /// From the fault's beginning to the drain.
    pub(crate) drained_ms: Option<f64>,
    /// From tidegate's verdict to the last request that the candidate got; less than nothing where it got none after
    /// that.
    pub(crate) effect_ms: Option<f64>,
    /// Requests whose clients saw something else than a whole answer of 200, and all of them.
    pub(crate) errors: u64,
    pub(crate) requests: u64,
    pub(crate) watched_s: f64,
    pub(crate) p99_before_ms: f64,
    pub(crate) p99_during_ms: f64,
    pub(crate) max_during_ms: f64,
    /// Of a flapping candidate, for each bad phase.
    pub(crate) phases: Vec<u64>,
    /// tidegate's events from its start to the fault's beginning.
    pub(crate) events_before: Vec<Value>,
    /// And since, with their evidence.
    pub(crate) events: Vec<Value>,
}

/// Runs one plan from a fresh process to its end.
pub(crate) fn run(plan: Plan, program: &Path) -> io::Result<Outcome> {
    let origins = Origins::start()?;
    let (stable, candidate) = (&origins.stable, &origins.candidate);
    let begun = Instant::now();
    let proxy = Proxy::start(plan.contender, program, plan.fault, plan.workers, (stable.address, candidate.address))?;
    let mut admin = match plan.contender {
        Contender::Tidegate => Some(Admin::connect(proxy.admin)?),
        _ => None,
    };
    let load = load_on(proxy.address, plan.per_second);
    sleep(SETTLE);
    let history_failures = live_through(plan, &load, stable, candidate);
    if plan.fault.is_about_time() && plan.contender == Contender::Tidegate {
        sleep(REVISION_WARM.saturating_sub(begun.elapsed()));
    }
    let history_requests = stable.received() + candidate.received();
    let known = admin.as_mut().map(Admin::events).transpose()?.unwrap_or_default();
    if admin.as_mut().map(Admin::is_drained).transpose()? == Some(true) {
        let last = known.last().map(Value::to_string).unwrap_or_default();
        return Err(io::Error::other(format!("the candidate was drained before anything was wrong with it: {last}")));
    }

    let counter = Counter::start(plan.fault, stable, candidate);
    let (for_stable, for_candidate) = plan.fault.conducts();
    let fault = Instant::now();
    stable.conduct(for_stable);
    candidate.conduct(for_candidate);
    let mut watch = Watch { fault, counter, drained: None, phases: Vec::new(), bad: true };
    watch.until_drained(plan, (stable, candidate), admin.as_mut())?;

    let watched = fault.elapsed();
    let failures_in_all = watch.counter.failures(candidate);
    let late = watch.drained.map_or(0, |drain| candidate.received() - drain.received);
    let events = admin.as_mut().map(Admin::events).transpose()?.unwrap_or_default();
    let samples = load.finish();
    let touched: Vec<&Sample> = samples.iter().filter(|sample| sample.begin + sample.latency >= fault).collect();
    let before = latencies(&samples, |begin| begin < fault && begin + BESIDE >= fault);
    let during = latencies(&samples, |begin| begin >= fault && begin < fault + BESIDE);
    let events: Vec<Value> = events.into_iter().skip(known.len()).collect();
    Ok(Outcome {
        history_requests,
        history_failures,
        failures: watch.drained.map_or(failures_in_all, |drain| drain.failures),
        failures_in_all,
        late: if admin.is_some() { late } else { 0 },
        drained_ms: watch.drained.map(|drain| ms(drain.after)),
        errors: touched.iter().filter(|sample| !sample.outcome.is_good()).count() as u64,
        requests: touched.len() as u64,
        watched_s: watched.as_secs_f64(),
        p99_before_ms: quantile(&before, 0.99),
        p99_during_ms: quantile(&during, 0.99),
        max_during_ms: quantile(&during, 1.0),
        phases: watch.phases,
        effect_ms: effect(&events, candidate),
        events_before: known,
        events,
    })
}

/// See [`Outcome::effect_ms`].
fn effect(events: &[Value], candidate: &Origin) -> Option<f64> {
    let drained = events.iter().find(|event| event["kind"] == "drained")?;
    let decided = humantime::parse_rfc3339(drained["at"].as_str()?).ok()?;
    Some(match candidate.last_received().duration_since(decided) {
        Ok(after) => ms(after),
        Err(before) => -ms(before.duration()),
    })
}

fn load_on(address: SocketAddr, per_second: u64) -> Load {
    let host = HeaderValue::from_static("shop.test");
    Load::start(move || Http1::new(host, async move || connect(address).await), per_second)
}

/// Both backends fail at the same rate, more often than in life, until they have as many failures behind them as an
/// hour brings. What both were failing before the fault: stable, candidate.
fn live_through(plan: Plan, load: &Load, stable: &Origin, candidate: &Origin) -> (u64, u64) {
    if plan.history > 0 {
        let errors = Conduct::Answers { status: 500, share: HISTORY_ERRORS };
        stable.conduct(errors);
        candidate.conduct(errors);
        load.rate(HISTORY_PER_SECOND);
        while stable.failed() + candidate.failed() < plan.history {
            sleep(LOOK_EVERY);
        }
        stable.conduct(Conduct::Healthy);
        candidate.conduct(Conduct::Healthy);
        load.rate(plan.per_second);
        sleep(SETTLE + BESIDE);
    }
    (stable.failed(), candidate.failed())
}

/// What reaches the candidate, or tries to: its own counts, and the kernel's of connections that were refused.
#[derive(Debug)]
struct Counter {
    refused: bool,
    base: u64,
    asked: u64,
    /// When `asked` was seen to grow, and what stable had received by then.
    grown: (Instant, u64),
}

impl Counter {
    fn start(fault: Fault, stable: &Origin, candidate: &Origin) -> Self {
        let refused = fault.is_alone();
        let mut counter = Self { refused, base: 0, asked: 0, grown: (Instant::now(), stable.received()) };
        counter.base = counter.failures(candidate);
        counter
    }

    fn refused(&self) -> u64 {
        if self.refused { refused_connections() } else { 0 }
    }

    /// Failed requests since the start.
    fn failures(&self, candidate: &Origin) -> u64 {
        candidate.failed() + self.refused() - self.base
    }

    /// For how long the candidate hasn't been asked, if that is no chance.
    fn quiet(&mut self, stable: &Origin, candidate: &Origin) -> Option<Duration> {
        let (asked, others) = (candidate.received() + self.refused(), stable.received());
        if asked != self.asked {
            (self.asked, self.grown) = (asked, (Instant::now(), others));
        }
        let quiet = self.grown.0.elapsed();
        (quiet >= QUIET && others - self.grown.1 >= QUIET_REQUESTS).then_some(quiet)
    }
}

/// Connections that this network namespace has seen refused (RFC 2012, tcpAttemptFails).
fn refused_connections() -> u64 {
    let text = fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
    let (Some(mut names), Some(mut values)) = (lines.next(), lines.next()) else { return 0 };
    let at = names.position(|name| name == "AttemptFails");
    at.and_then(|at| values.nth(at)?.parse().ok()).unwrap_or(0)
}

#[derive(Debug, Clone, Copy)]
struct Drain {
    /// The fault's beginning.
    after: Duration,
    failures: u64,
    received: u64,
}

#[derive(Debug)]
struct Watch {
    fault: Instant,
    counter: Counter,
    drained: Option<Drain>,
    phases: Vec<u64>,
    bad: bool,
}

impl Watch {
    /// Returns some time after the drain, or when time is up.
    fn until_drained(
        &mut self,
        plan: Plan,
        (stable, candidate): (&Origin, &Origin),
        mut admin: Option<&mut Admin>,
    ) -> io::Result<()> {
        let mut phase_base = 0;
        let end = |drained: Option<Drain>| match drained {
            Some(drain) if plan.fault != Fault::Flapping => self.fault + drain.after + plan.after,
            _ => self.fault + plan.limit,
        };
        let mut end_at = end(self.drained);
        while Instant::now() < end_at {
            sleep(LOOK_EVERY);
            if plan.fault == Fault::Flapping {
                let bad = (self.fault.elapsed().as_millis() / FLAP.as_millis()).is_multiple_of(2);
                if bad != self.bad {
                    self.bad = bad;
                    candidate.conduct(if bad { plan.fault.conducts().1 } else { Conduct::Healthy });
                    let failures = self.counter.failures(candidate);
                    if !bad {
                        self.phases.push(failures - phase_base);
                    }
                    phase_base = failures;
                }
            }
            if self.drained.is_some() {
                continue;
            }
            // Where nobody should be drained, a pause of seconds is told apart from it.
            let is_drained = if plan.fault.is_calm() { Admin::is_drained_for_good } else { Admin::is_drained };
            let said = admin.as_deref_mut().map(is_drained).transpose()?.unwrap_or(false);
            let quiet = self.counter.quiet(stable, candidate).filter(|_| admin.is_none() || !plan.fault.is_calm());
            if said || quiet.is_some() {
                let quiet = if said { Duration::ZERO } else { quiet.unwrap_or_default() };
                self.drained = Some(Drain {
                    after: self.fault.elapsed().saturating_sub(quiet),
                    failures: self.counter.failures(candidate),
                    received: candidate.received(),
                });
                end_at = end_at.min(end(self.drained));
            }
        }
        Ok(())
    }
}

/// In order, of requests that should have begun within a time.
fn latencies(samples: &[Sample], within: impl Fn(Instant) -> bool) -> Vec<Duration> {
    let mut latencies: Vec<Duration> =
        samples.iter().filter(|sample| within(sample.begin)).map(|sample| sample.latency).collect();
    latencies.sort_unstable();
    latencies
}

fn quantile(sorted: &[Duration], q: f64) -> f64 {
    let at = (sorted.len() as f64 * q).ceil() as usize;
    at.checked_sub(1).and_then(|at| sorted.get(at)).map_or(0.0, |latency| ms(*latency))
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Half a second of healthy load on an origin without a proxy: what the figures rest on works at all.
pub(crate) fn smoke() {
    let origins = Origins::start().expect("loopback has free ports");
    let origin = &origins.candidate;
    let load = load_on(origin.address, 200);
    sleep(Duration::from_millis(500));
    let samples = load.finish();
    assert!(samples.len() > 10, "{} requests", samples.len());
    assert!(samples.iter().all(|sample| sample.outcome.is_good()), "{samples:?}");
    assert_eq!(origin.received(), samples.len() as u64);
    origin.conduct(Conduct::Refuses);
    let gone = (0..500).any(|_| {
        sleep(Duration::from_millis(10));
        TcpStream::connect(origin.address).is_err()
    });
    assert!(gone, "an origin that refuses connections takes none");
}
