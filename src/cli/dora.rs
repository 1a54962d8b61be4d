//! `tidegate dora`: the four keys as a table.

use std::fmt::Write;
use std::time::Duration;

use super::args::DoraArgs;
use super::client::{Client, segment};
use super::{CliError, print};
use crate::dora::{DoraView, KeysView};

pub(super) async fn run(args: &DoraArgs) -> Result<(), CliError> {
    let service = args.service.as_ref().map_or(String::new(), |name| format!("&service={}", segment(name)));
    let view: DoraView = Client::new(&args.admin).get(&format!("/v1/dora?days={}{service}", args.days)).await?;
    if args.json {
        return print(&serde_json::to_string_pretty(&view).map_err(CliError::failed)?);
    }
    print(table(&view).trim_end())
}

fn table(view: &DoraView) -> String {
    if view.services.is_empty() {
        return format!("nothing was deployed in {} days", view.days);
    }
    let width = view.services.iter().map(|keys| keys.service.len()).max().unwrap_or(0).max("SERVICE".len());
    let mut text = format!(
        "{:width$}  {:>20}  {:>16}  {:>18}  {:>16}\n",
        "SERVICE", "DEPLOYMENTS", "LEAD TIME", "FAILED CHANGES", "TIME TO RESTORE"
    );
    for keys in &view.services {
        let _ = writeln!(text, "{}", row(keys, width));
    }
    text + &format!("of the last {} days; times are medians\n", view.days)
}

fn row(keys: &KeysView, width: usize) -> String {
    let failed = keys.change_failure_ratio.map_or("-".to_owned(), |ratio| {
        format!("{} of {} ({:.0} %)", keys.failed_changes, keys.changes, ratio * 100.0)
    });
    format!(
        "{:width$}  {:>20}  {:>16}  {:>18}  {:>16}",
        keys.service,
        format!("{} ({:.2} a day)", keys.deployments, keys.deployments_per_day),
        time(keys.lead_time_seconds),
        failed,
        time(keys.time_to_restore_seconds),
    )
}

/// With the two largest units, which is as much as anybody compares.
fn time(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else { return "-".to_owned() };
    let whole = match seconds {
        s if s < 60.0 => Duration::from_millis((s * 1000.0) as u64),
        s => Duration::from_secs(s as u64),
    };
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_a_row_and_what_is_not_known_is_a_dash() {
        let shop = KeysView {
            service: "shop".into(),
            deployments: 6,
            deployments_per_day: 0.2,
            lead_time_seconds: Some(93_784.0),
            lead_times: 5,
            changes: 8,
            failed_changes: 2,
            change_failure_ratio: Some(0.25),
            time_to_restore_seconds: Some(1.5),
            restored: 2,
        };
        let api = KeysView { service: "api".into(), ..KeysView::default() };
        let text = table(&DoraView { days: 30, services: vec![api, shop] });
        let rows: Vec<&str> = text.lines().collect();
        let words = |row: &str| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(rows[1]), "api 0 (0.00 a day) - - -");
        assert_eq!(words(rows[2]), "shop 6 (0.20 a day) 1day 2h 2 of 8 (25 %) 1s 500ms");
        assert_eq!(rows[0].len(), rows[2].len());
    }
}
