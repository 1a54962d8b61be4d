//! The third act: a release that fails is back before anybody notices.

use std::time::Duration;

use super::backends::SERVICE;
use super::fault::Fault;
use super::invocation::Invocation;
use super::line::{Line, Style};
use super::release::{Release, failed, until};
use super::table::{grouped, millis};
use crate::cli::Client;
use crate::rollout::RolloutView;

const TITLE: &str = "Release the next one, which answers 500 to everything.";

/// A release that is broken.
#[derive(Debug)]
pub(super) struct Breakdown {
    pub(super) client: Client,
    pub(super) release: Release,
    pub(super) fault: Fault,
}

impl Breakdown {
    pub(super) fn announcement(&self, invocation: &Invocation) -> Vec<Line> {
        self.release.announcement(TITLE, invocation)
    }

    /// Sees it fail; says what that came to.
    pub(super) async fn run(&self, invocation: &Invocation) -> Vec<Line> {
        self.fault.begin();
        let over = async {
            let begun = self.release.begin(&self.client).await?;
            until(&self.client, begun, RolloutView::is_over).await
        };
        let over = over.await;
        self.fault.end();
        match over {
            Ok(view) => conclusion(&view, invocation),
            Err(error) => failed(&error),
        }
    }
}

fn conclusion(view: &RolloutView, invocation: &Invocation) -> Vec<Line> {
    let receipt = &view.receipt;
    let plural = |count| if count == 1 { "" } else { "s" };
    let lasted = receipt.restored_after_ms.map(Duration::from_millis);
    let out = lasted.map_or(String::new(), |lasted| format!(", and was out {} after the first", millis(Some(lasted))));
    let (failures, rescued, seen) = (receipt.failures, receipt.rescued, receipt.seen_by_clients);
    let style = if seen == 0 { Style::Green } else { Style::Red };
    vec![
        Line::from(format!("        It failed {} request{}{out}.", grouped(failures), plural(failures))),
        Line::from(format!("        {} answered {} of them in its place; ", view.stable, grouped(rescued)))
            .with(style, format!("clients saw {} error{}", grouped(seen), plural(seen)))
            .with(Style::Plain, "."),
        Line::from(format!(
            "        {SERVICE} won't take {} again by mistake. Who decided what, and why:",
            view.revision
        )),
        Line::from(format!("        $ {}", invocation.events())),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_clients_saw_is_told_as_it_is() {
        let invocation = Invocation::new(SocketAddr::from(([127, 0, 0, 1], 1)));
        let told = |rescued: u64, seen: u64, restored: Option<u64>| {
            let mut view = json!({
                "id": 2, "version": 7, "service": "shop", "backend": "blue", "stable": "green", "revision": "v1.6.0-rc.1",
                "endpoints": [], "by": "ada", "strategy": "canary", "state": "rolled back", "plan": [], "percent": 0.0,
                "began": "", "ended": "", "steps": [],
                "receipt": { "requests": 6, "failures": 6, "rescued": rescued, "seen_by_clients": seen },
            });
            if let Some(ms) = restored {
                view["receipt"]["restored_after_ms"] = ms.into();
            }
            let lines = conclusion(&serde_json::from_value(view).unwrap(), &invocation);
            lines.iter().map(|line| line.render(false)).collect::<Vec<_>>()
        };
        let lines = told(5, 1, Some(150));
        assert_eq!(lines[0], "        It failed 6 requests, and was out 150 ms after the first.");
        assert_eq!(lines[1], "        green answered 5 of them in its place; clients saw 1 error.");
        assert!(lines[3].ends_with(" events shop --admin 127.0.0.1:1"), "{}", lines[3]);
        let lines = told(6, 0, None);
        assert_eq!(lines[0], "        It failed 6 requests.");
        assert_eq!(lines[1], "        green answered 6 of them in its place; clients saw 0 errors.");
    }
}
