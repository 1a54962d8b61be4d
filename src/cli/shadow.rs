//! `tidegate shadow`: whether what runs behind a mirror answers as stable does; else where it doesn't, with examples.

use std::fmt::Write;
use std::io::{self, IsTerminal};

use super::args::ShadowArgs;
use super::client::{Client, segment};
use super::status::{CLEAR, WATCH_INTERVAL};
use super::{CliError, Reader, show};
use crate::admin::view::ShadowsView;
use crate::shadow::{ExampleView, FieldView, Outcome, ShadowView, TroubleView, percent};

/// What terminals have room for.
const WIDTH: usize = 80;
/// Fields that are shown.
const FIELDS_MAX: usize = 20;
/// Columns of numbers.
const NUMBERS_WIDTH: usize = 42;

pub(super) async fn run(args: &ShadowArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let path = format!("/v1/services/{}/mirror", segment(&args.service));
    if args.reset {
        return shown(&client.post(&format!("{path}/reset"), Vec::new()).await?, args).map(|_| ());
    }
    loop {
        let reader = shown(&client.get(&path).await?, args)?;
        if !args.watch || reader == Reader::Gone {
            return Ok(());
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

fn shown(view: &ShadowsView, args: &ShadowArgs) -> Result<Reader, CliError> {
    if args.json {
        return show(&serde_json::to_string_pretty(view).map_err(CliError::failed)?);
    }
    let clear = if args.watch && io::stdout().is_terminal() { CLEAR } else { "" };
    show(&format!("{clear}{}", page(view).trim_end()))
}

fn page(view: &ShadowsView) -> String {
    if view.mirrors.is_empty() {
        let name = &view.service;
        return format!(
            "no mirror of {name} compares answers\n  hint: [services.{name}.mirror] with backend and compare = true"
        );
    }
    let is_held_back = |mirror: &ShadowView| view.held_back.contains(&mirror.backend);
    view.mirrors.iter().map(|each| mirror(each, is_held_back(each))).collect::<Vec<_>>().join("\n")
}

/// Of a shadow.
pub(super) const HELD_BACK: &str = "has broken every copy, and gets a probe every few seconds";

pub(super) fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Same => "SAME",
        Outcome::Different => "DIFFERENT",
        Outcome::Inconclusive => "NOT KNOWN YET",
    }
}

fn mirror(view: &ShadowView, is_held_back: bool) -> String {
    let verdict = &view.verdict;
    let word = word(verdict.outcome);
    let pairs = &view.pairs;
    let mut text = format!("{}: {} against {}, since {}\n", view.service, view.backend, view.stable, view.since);
    text += &wrapped("  ", &format!("{word}: {}", verdict.reason));
    let mut notes = vec![format!("{} compared, {} differ", pairs.compared, pairs.different)];
    for (count, what) in [
        (pairs.without_noise, "without a second copy"),
        (pairs.skipped, "broken off or failed"),
        (pairs.not_stable, "not by stable"),
        (pairs.outdated, "of another revision"),
    ] {
        notes.extend((count > 0).then(|| format!("{count} {what}")));
    }
    text += &wrapped("  pairs         ", &notes.join(", "));
    if is_held_back {
        text += &wrapped("  held back     ", &format!("it {HELD_BACK}"));
    }
    let by =
        if view.has_noise_leg() { "a second copy to stable tells noise" } else { "no noise leg: ignore rules alone" };
    let at_most = format!(
        "at most {} of them; {} are tolerated; {by}",
        percent(view.difference_at_most),
        percent(view.tolerated)
    );
    text += &wrapped("  really differ ", &at_most);
    text += &wrapped("  failures      ", &trouble(&view.failures));
    let limit = view
        .slow_after_ms
        .map_or_else(|| " (from when on isn't known)".to_owned(), |ms| format!(" (after {ms:.0} ms)"));
    text += &wrapped("  slow answers  ", &(trouble(&view.slow) + &limit));
    if !view.fields.is_empty() {
        text += "\n";
        fields(&mut text, view);
    }
    if !view.examples.is_empty() {
        text += "\n  examples\n";
        view.examples.iter().for_each(|each| example(&mut text, each));
    }
    text
}

fn trouble(view: &TroubleView) -> String {
    let found = if view.found { ": MORE THAN THE PRIMARY" } else { "" };
    format!(
        "{} of the shadow alone, {} of the primary, {} of both{found}",
        view.shadow_only, view.primary_only, view.both
    )
}

fn fields(text: &mut String, view: &ShadowView) {
    let width = WIDTH - NUMBERS_WIDTH - 4;
    // Writing to a string can't fail.
    if view.has_noise_leg() {
        let _ = writeln!(text, "  {:width$}  {:>9} {:>9} {:>9} {:>12}", "FIELD", "SHADOW", "NOISE", "BOTH", "EVIDENCE");
    } else {
        let _ = writeln!(text, "  {:width$}  {:>9} {:>9}", "FIELD", "PAIRS", "SHARE");
    }
    for field in view.fields.iter().take(FIELDS_MAX) {
        let name = shortened(&format!("{} {}", field.place, field.change), width);
        let pad = " ".repeat(width.saturating_sub(name.chars().count()));
        let _ = if view.has_noise_leg() {
            let (shadow, noise, both) = (field.shadow_only, field.noise_only, field.both);
            writeln!(text, "  {name}{pad}  {shadow:>9} {noise:>9} {both:>9} {:>12}", evidence(field))
        } else {
            let share = field.shadow_only as f64 / view.pairs.compared.max(1) as f64;
            writeln!(text, "  {name}{pad}  {:>9} {:>9}", field.shadow_only, percent(share))
        };
    }
    let more = view.fields.len().saturating_sub(FIELDS_MAX);
    if more > 0 {
        let _ = writeln!(text, "  and {more} more: --json");
    }
}

/// Whether a field really differs, or how far that is from sure.
fn evidence(field: &FieldView) -> String {
    if field.found {
        return "DIFFERENT".to_owned();
    }
    match (field.e_value, field.needed) {
        (Some(e_value), Some(needed)) if e_value > 1.0 => format!("{e_value:.0} of {needed:.0}"),
        _ => "noise".to_owned(),
    }
}

fn example(text: &mut String, view: &ExampleView) {
    *text += &wrapped("    ", &format!("{} {}  {} {}", view.method, view.path, view.place, view.change));
    for (name, value) in [("primary", &view.primary), ("shadow", &view.shadow)] {
        let value = if value.is_empty() { "(nothing)" } else { value };
        let value = shortened(value, WIDTH - 16);
        let _ = writeln!(text, "      {name:8}{value}");
    }
    let _ = writeln!(text, "      {:8}{} {}", "id", view.request_id, view.at);
}

/// On one line: its begin and its end, which in a place say most.
fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let head = (width - 1) / 2;
    let begin: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length - (width - 1 - head)).collect();
    format!("{begin}…{end}")
}

/// Lines of at most `WIDTH`, broken between words, those after the first indented as far as the text.
fn wrapped(first: &str, text: &str) -> String {
    let indent = " ".repeat(first.len());
    let (mut lines, mut line) = (String::new(), first.to_owned());
    let mut is_empty = true;
    for word in text.split(' ') {
        let space = usize::from(!is_empty);
        if !is_empty && line.chars().count() + space + word.chars().count() > WIDTH {
            lines += line.trim_end();
            lines.push('\n');
            line.clone_from(&indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    lines + line.trim_end() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::{PairsView, Verdict};

    fn view() -> ShadowView {
        let field = |place: &str, shadow_only, both, found| FieldView {
            place: place.to_owned(),
            change: "changed".to_owned(),
            shadow_only,
            noise_only: 0,
            both,
            e_value: Some(if found { 1e12 } else { 1.0 }),
            needed: Some(400.0),
            found,
        };
        let none = TroubleView { shadow_only: 0, primary_only: 0, both: 0, e_value: 1.0, found: false };
        ShadowView {
            service: "shop".into(),
            backend: "green".into(),
            revision: "2".into(),
            stable: "blue".into(),
            stable_revision: "1".into(),
            since: "2026-01-01T00:00:00.000Z".into(),
            verdict: Verdict {
                outcome: Outcome::Different,
                reason: "$.items[*].price changed, in 214 pairs".into(),
                fields: vec!["$.items[*].price changed".into()],
                more_pairs: None,
            },
            mode: "noise leg".into(),
            alpha: 0.001,
            tolerated: 0.01,
            difference_at_most: 0.355,
            pairs: PairsView {
                seen: 217,
                compared: 214,
                different: 214,
                without_noise: 0,
                skipped: 3,
                not_stable: 0,
                outdated: 0,
            },
            failures: none,
            slow: none,
            slow_after_ms: Some(55.0),
            fields: vec![
                field("$.items[*].price", 60, 0, true),
                field("$.generated_at", 0, 214, false),
                field(&format!("$.{}.end", "long_name.".repeat(20)), 1, 0, false),
            ],
            examples: vec![ExampleView {
                at: "2026-01-01T00:00:01.000Z".into(),
                request_id: "7c0f".into(),
                method: "GET".into(),
                path: "/cart?token=(redacted)".into(),
                route: None,
                place: "$.items[*].price".into(),
                change: "changed".into(),
                primary: "1299".into(),
                shadow: "12.99".into(),
            }],
        }
    }

    #[test]
    fn a_page_has_the_verdict_the_fields_and_examples_on_eighty_columns() {
        let text = page(&ShadowsView { service: "shop".into(), mirrors: vec![view()], held_back: Vec::new() });
        let wanted = "\
shop: green against blue, since 2026-01-01T00:00:00.000Z
  DIFFERENT: $.items[*].price changed, in 214 pairs
  pairs         214 compared, 214 differ, 3 broken off or failed
  really differ at most 36 % of them; 1 % are tolerated; a second copy to stable
                tells noise
  failures      0 of the shadow alone, 0 of the primary, 0 of both
  slow answers  0 of the shadow alone, 0 of the primary, 0 of both (after 55 ms)

  FIELD                                  SHADOW     NOISE      BOTH     EVIDENCE
  $.items[*].price changed                   60         0         0    DIFFERENT
  $.generated_at changed                      0         0       214        noise
  $.long_name.long…name..end changed          1         0         0        noise

  examples
    GET /cart?token=(redacted)  $.items[*].price changed
      primary 1299
      shadow  12.99
      id      7c0f 2026-01-01T00:00:01.000Z
";
        assert_eq!(text, wanted, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
    }

    #[test]
    fn a_shadow_that_is_held_back_is_said_to_be() {
        let held_back = |backend: &str| {
            page(&ShadowsView { service: "shop".into(), mirrors: vec![view()], held_back: vec![backend.into()] })
        };
        let line = "  held back     it has broken every copy, and gets a probe every few seconds\n";
        assert!(held_back("green").contains(line) && !held_back("red").contains(line));
    }

    #[test]
    fn without_mirrors_it_says_how_to_have_one() {
        let text = page(&ShadowsView { service: "shop".into(), mirrors: Vec::new(), held_back: Vec::new() });
        assert!(text.contains("[services.shop.mirror]"), "{text}");
    }
}
