//! How many requests a failing candidate costs before it is drained, how many of them its clients notice, and what is
//! never drained: measured on running proxies, tidegate and its peers, with 5 % of 1,000 requests a second.
//!
//! `benches/faults/run` gets what it needs and starts it; `docs/benchmarks.md` has results.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line that reports")]

mod admin;
mod fault;
#[path = "../load.rs"]
mod load;
mod origin;
mod proxy;
mod report;
mod trial;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use fault::Fault;
use proxy::{Contender, Programs};
use report::{Cell, HEADER};
use trial::{Outcome, Plan};

/// Measures what failing candidates cost behind tidegate and its peers.
#[derive(Debug, Parser)]
struct Args {
    /// Which faults; all unless given.
    #[arg(value_enum)]
    faults: Vec<Fault>,
    /// Which proxies.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "tidegate")]
    proxies: Vec<Contender>,
    /// Trials of each, each with a fresh process.
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// Failures that both backends have behind them: an hour at 1,000 requests a second and 0.01 % has 360.
    #[arg(long, value_delimiter = ',', default_value = "0,360")]
    history: Vec<u64>,
    /// Requests per second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Workers of tidegate; its default unless given.
    #[arg(long)]
    workers: Option<usize>,
    /// Requests per second while nobody should be drained, since an hour is long.
    #[arg(long, default_value_t = 4000)]
    calm_rate: u64,
    /// Seconds of it.
    #[arg(long, default_value_t = 60)]
    calm: u64,
    /// Seconds to wait for a drain; default: 120 for 1 % errors and flapping, 30 for others.
    #[arg(long)]
    limit: Option<u64>,
    /// Seconds to go on watching after it.
    #[arg(long, default_value_t = 1.5)]
    after: f64,
    /// Trials at a time.
    #[arg(long, default_value_t = 4)]
    parallel: usize,
    /// Where all figures go, as JSON; the tables go beside it, as Markdown.
    #[arg(long, default_value = "target/faults/results.json")]
    out: PathBuf,
    /// tidegate's binary.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_tidegate"))]
    tidegate: PathBuf,
    /// Envoy's binary, where it isn't on the path.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Given by `cargo bench`; without it, this is a test.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if !std::env::args().any(|argument| argument == "--bench") {
        trial::smoke();
        return ExitCode::SUCCESS;
    }
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> io::Result<()> {
    let programs = Programs { tidegate: args.tidegate.clone(), envoy: args.envoy.clone() };
    let faults = if args.faults.is_empty() { Fault::value_variants() } else { &args.faults };
    let mut cells = Vec::new();
    print!("{HEADER}");
    for &fault in faults {
        for &contender in &args.proxies {
            let Some(program) = contender.program(&programs) else {
                eprintln!("{} is left out: it isn't installed", contender.title());
                continue;
            };
            for &history in &args.history {
                let plan = plan(args, fault, contender, history);
                let parallel = if fault.is_alone() { 1 } else { args.parallel };
                let trials = run_all(plan, &program, args.runs, parallel);
                cells.push(Cell::new(&plan, args.runs, trials));
                print!("{}", cells[cells.len() - 1].line());
                write(&cells, &args.out)?;
            }
        }
    }
    Ok(())
}

fn plan(args: &Args, fault: Fault, contender: Contender, history: u64) -> Plan {
    let patience = match fault {
        _ if fault.is_calm() => args.calm,
        Fault::Errors1 | Fault::Flapping => args.limit.unwrap_or(120),
        _ => args.limit.unwrap_or(30),
    };
    Plan {
        contender,
        fault,
        history,
        per_second: if fault.is_calm() { args.calm_rate } else { args.rate },
        workers: args.workers,
        limit: Duration::from_secs(patience),
        after: Duration::from_secs_f64(args.after),
    }
}

/// All trials of one plan, some at a time.
fn run_all(plan: Plan, program: &Path, runs: usize, parallel: usize) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..parallel.min(runs) {
            scope.spawn(|| {
                while next.fetch_add(1, Ordering::SeqCst) < runs {
                    let outcome = trial::run(plan, program);
                    let outcome = outcome.inspect_err(|error| eprintln!("a trial is left out: {error}"));
                    outcomes.lock().expect("nobody panics while holding it").push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().expect("nobody panics while holding it").into_iter().flatten().collect()
}

fn write(cells: &[Cell], out: &Path) -> io::Result<()> {
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(out, serde_json::to_string_pretty(cells)?)?;
    let lines: String = cells.iter().map(Cell::line).collect();
    fs::write(out.with_extension("md"), format!("{HEADER}{lines}"))
}
