//! What all trials of a kind came to.

use std::fmt::Write;

use serde::Serialize;

use crate::trial::{Outcome, Plan};

pub(crate) const HEADER: &str = "\
| proxy | fault | history | failures until drained: median (least to most) | drained | after, ms | in force within, ms | failures in all | \
client errors | client p99 before, during, ms | longest, ms |
|---|---|---|---|---|---|---|---|---|---|---|
";

/// All trials of one plan.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Cell {
    pub(crate) proxy: &'static str,
    pub(crate) fault: &'static str,
    pub(crate) history: u64,
    pub(crate) per_second: u64,
    pub(crate) trials: Vec<Outcome>,
    /// Trials that came to nothing, for reasons told when they did.
    pub(crate) left_out: usize,
}

impl Cell {
    pub(crate) fn new(plan: &Plan, runs: usize, trials: Vec<Outcome>) -> Self {
        Self {
            proxy: plan.contender.title(),
            fault: plan.fault.title(),
            history: plan.history,
            per_second: plan.per_second,
            left_out: runs - trials.len(),
            trials,
        }
    }

    /// A line of a table in Markdown.
    pub(crate) fn line(&self) -> String {
        let Self { proxy, fault, trials, .. } = self;
        let history = match self.history {
            0 => "none".to_owned(),
            failures => format!("{failures} failures"),
        };
        let drained: Vec<f64> = trials.iter().filter_map(|trial| trial.drained_ms).collect();
        let each = |of: fn(&Outcome) -> f64| trials.iter().map(of).collect::<Vec<f64>>();
        let failures = spread(each(|t| t.failures as f64));
        let after = if drained.is_empty() { "-".to_owned() } else { format!("{:.0}", median(drained.clone())) };
        let effects: Vec<f64> = trials.iter().filter_map(|trial| trial.effect_ms).collect();
        let effect = if effects.is_empty() { "-".to_owned() } else { spread(effects) };
        let in_all = median(each(|t| t.failures_in_all as f64));
        let errors: u64 = trials.iter().map(|trial| trial.errors).sum();
        let requests: u64 = trials.iter().map(|trial| trial.requests).sum();
        let (p99_before, p99_during) = (median(each(|t| t.p99_before_ms)), median(each(|t| t.p99_during_ms)));
        let longest = median(each(|t| t.max_during_ms));
        let left_out = match self.left_out {
            0 => String::new(),
            some => format!(", {some} left out"),
        };
        let mut line = format!(
            "| {proxy} | {fault} | {history} | {failures} | {} of {}{left_out} | {after} | {effect} | {in_all:.0} | {errors} of {requests} | \
             {p99_before:.0}, {p99_during:.0} | {longest:.0} |\n",
            drained.len(),
            trials.len()
        );
        let phases: Vec<String> =
            trials.iter().filter(|t| !t.phases.is_empty()).map(|t| format!("{:?}", t.phases)).collect();
        if !phases.is_empty() {
            let _ = writeln!(line, "\nfailures in each bad phase: {}\n", phases.join("; "));
        }
        line
    }
}

fn spread(values: Vec<f64>) -> String {
    let least = values.iter().copied().reduce(f64::min).unwrap_or(0.0);
    let most = values.iter().copied().reduce(f64::max).unwrap_or(0.0);
    format!("{:.0} ({least:.0} to {most:.0})", median(values))
}

/// The upper one of two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
