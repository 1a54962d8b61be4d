//! `tidegate status`: the services as a table.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::Duration;

use super::args::StatusArgs;
use super::client::{Client, segment};
use super::shadow::{HELD_BACK, word};
use super::{CliError, Reader, show};
use crate::admin::view::{BackendView, EndpointView, MirrorView, ServiceView, ServicesView};
use crate::model::GuardMode;

pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// What is shown of a reason: it may hold an endpoint's own words.
const REASON_CHARS: usize = 80;
/// Moves to the top left and clears what is below.
pub(super) const CLEAR: &str = "\x1b[H\x1b[J";

pub(super) async fn run(args: &StatusArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    loop {
        let page = page(&client, args).await?;
        let clear = if args.watch && io::stdout().is_terminal() { CLEAR } else { "" };
        let reader = show(&format!("{clear}{}", page.trim_end()))?;
        if !args.watch || reader == Reader::Gone {
            return Ok(());
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

async fn page(client: &Client, args: &StatusArgs) -> Result<String, CliError> {
    let json = |value: serde_json::Value| serde_json::to_string_pretty(&value).map_err(CliError::failed);
    if let Some(name) = &args.service {
        let path = format!("/v1/services/{}", segment(name));
        return if args.json { json(client.get(&path).await?) } else { Ok(service(&client.get(&path).await?)) };
    }
    if args.json {
        return json(client.get("/v1/services").await?);
    }
    let all: ServicesView = client.get("/v1/services").await?;
    Ok(header(&all) + &all.services.iter().map(|s| format!("\n{}", service(s))).collect::<String>())
}

fn header(all: &ServicesView) -> String {
    let process = &all.process;
    let mut text = format!(
        "tidegate {}  pid {}  up {}  {} connection{}  snapshot {}\n",
        process.tidegate,
        process.pid,
        crate::model::format_duration(Duration::from_secs(process.uptime_s)),
        process.connections_open,
        super::plural(process.connections_open as usize),
        all.version
    );
    if let Some(problem) = &process.journal_problem {
        let _ = writeln!(text, "{problem}");
    }
    match process.guard {
        Some(GuardMode::Off) => text += "the guard judges nobody; back: tidegate guard on\n",
        Some(GuardMode::Observe) => text += "the guard only observes, everywhere; back: tidegate guard on\n",
        Some(GuardMode::Drain) | None => {}
    }
    if let Some(reload) = process.last_reload.as_ref().filter(|reload| !reload.messages.is_empty()) {
        let how = if reload.applied { "was applied, with warnings" } else { "was refused, the old file is in force" };
        let _ = writeln!(text, "the last reload ({}) {how}:", reload.at);
        for line in &reload.messages {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// One service as a table.
pub(super) fn service(service: &ServiceView) -> String {
    let mut notes = vec![format!("stable {}", service.stable)];
    notes.extend(service.sticky.as_ref().map(|by| format!("sticky by {by}")));
    notes.extend(service.panicking.then(|| "NO ENDPOINT IS AVAILABLE, ALL ARE USED".to_owned()));
    match service.guard {
        GuardMode::Drain => {}
        GuardMode::Observe => notes.push("the guard observes".to_owned()),
        GuardMode::Off => notes.push("no guard".to_owned()),
    }
    notes.extend(service.rollout.map(|id| format!("rollout {id} is under way")));
    notes.extend(service.overridden.then(|| "weights changed live".to_owned()));
    notes.extend(service.hold.as_ref().map(|hold| {
        format!("held for another {:.1} s at most: {} wait, {} gave up", hold.seconds_left, hold.waiting, hold.gave_up)
    }));
    let mut text = format!("{}  ({})\n", service.name, notes.join(", "));
    if let Some(problem) = &service.journal_problem {
        let _ = writeln!(text, "  {problem}");
    }
    let width = service.backends.iter().map(|b| b.name.len()).max().unwrap_or(0).max("BACKEND".len());
    let _ = writeln!(
        text,
        "  {:width$}  {:>14}  {:>8}  {:>10}  {:>7}  {:>9}  {:>9}  {:>9}  ENDPOINTS",
        "BACKEND", "WEIGHT", "SHARE", "REQUESTS", "ERRORS", "IN FLIGHT", "P50", "P99"
    );
    for backend in &service.backends {
        let _ = writeln!(text, "  {}", row(backend, width));
        for endpoint in backend.endpoints.iter().filter(|endpoint| endpoint.state != "up") {
            let _ = writeln!(text, "  {:width$}    {}", "", trouble(endpoint));
        }
    }
    for backend in service.backends.iter().filter(|backend| backend.deployed) {
        let _ = writeln!(text, "  {} runs {}, deployed live", backend.name, backend.revision);
    }
    for (name, drain) in service.backends.iter().filter_map(|b| Some((&b.name, b.drain.as_ref()?))) {
        let how = match (drain.probation, &drain.until) {
            (None, None) => "drained".to_owned(),
            (None, Some(until)) => format!("suspended until {until}"),
            (Some(share), _) => format!("on probation with {} % of the requests, drained before", share * 100.0),
        };
        let _ = writeln!(text, "  {name} is {how} by {} at {}: {}", drain.by, drain.at, drain.reason);
        if drain.until.is_none() {
            let _ = writeln!(text, "    back: tidegate undrain {}/{name}", service.name);
        }
    }
    for copies in &service.mirrors {
        let _ = writeln!(text, "  {}", mirror(copies));
        if copies.held_back {
            let _ = writeln!(text, "    held back: {} {HELD_BACK}", copies.backend);
        }
        if let Some(verdict) = &copies.verdict {
            let _ =
                writeln!(text, "    compared with {}: {}: {}", service.stable, word(verdict.outcome), verdict.reason);
        }
    }
    if service.stable_alarm {
        let _ = writeln!(
            text,
            "  {} fails more often than a candidate; clients see candidates' failures meanwhile",
            service.stable
        );
    }
    for trial in service.trials.iter().filter(|trial| trial.weightiest.is_some()) {
        let _ = writeln!(text, "  {} so far: {}", trial.backend, trial.reason());
    }
    text
}

fn mirror(mirror: &MirrorView) -> String {
    let file = if mirror.is_changed() { format!(" (file: {} %)", mirror.configured_percent) } else { String::new() };
    let dropped: u64 = mirror.dropped.values().sum();
    let mut text = format!(
        "mirrored to {}: {} %{file}, {} copies answered, {dropped} dropped, {} in flight, p50 {}, p99 {}",
        mirror.backend,
        mirror.percent,
        mirror.answered,
        mirror.in_flight,
        milliseconds(mirror.p50_ms),
        milliseconds(mirror.p99_ms),
    );
    if dropped > 0 {
        let reasons: Vec<String> = mirror.dropped.iter().map(|(why, count)| format!("{why} {count}")).collect();
        text += &format!(" ({})", reasons.join(", "));
    }
    text
}

fn row(backend: &BackendView, width: usize) -> String {
    let weight = backend.weight;
    let shown = if weight.configured.to_bits() == weight.effective.to_bits() {
        weight.effective.to_string()
    } else {
        format!("{} (file: {})", weight.effective, weight.configured)
    };
    format!(
        "{:width$}  {:>14}  {:>7.2}%  {:>10}  {:>7}  {:>9}  {:>9}  {:>9}  {}",
        backend.name,
        shown,
        backend.share * 100.0,
        backend.requests,
        backend.errors,
        backend.in_flight,
        milliseconds(backend.p50_ms),
        milliseconds(backend.p99_ms),
        if backend.endpoints.is_empty() {
            "no endpoint has an address".to_owned()
        } else {
            backend.endpoints.iter().map(|endpoint| endpoint.address.as_str()).collect::<Vec<_>>().join(" ")
        },
    )
}

/// Why an endpoint gets less than its share, on a line of its own.
fn trouble(endpoint: &EndpointView) -> String {
    let mut text = format!("{}: {}", endpoint.address, endpoint.state);
    if let Some(until) = &endpoint.until {
        text += &format!(" until {until}");
    }
    if let Some(reason) = &endpoint.reason {
        // One line, whatever the endpoint says.
        let plain = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
        text += " (";
        text.extend(plain.clone().take(REASON_CHARS));
        text += if reason.chars().nth(REASON_CHARS).is_some() { "…)" } else { ")" };
    }
    text
}

/// With as many digits as say something.
fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.2} ms"),
        Some(ms) => format!("{ms:.0} ms"),
    }
}
