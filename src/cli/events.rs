//! `tidegate events`: what happened, who decided it, and on what grounds.

use super::args::EventsArgs;
use super::client::{Client, segment};
use super::{CliError, Reader, show};
use crate::admin::view::EventsView;
use crate::journal::{Event, told};

pub(super) async fn run(args: &EventsArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let service = args.service.as_ref().map_or(String::new(), |name| format!("&service={}", segment(name)));
    let path = format!("/v1/events?limit={}{service}", args.limit);
    let print = |event: &Event, json: &str| show(&if args.json { json.to_owned() } else { line(event) });
    if args.follow {
        let follow = |data: &str| {
            let event: Event = serde_json::from_str(data).map_err(CliError::failed)?;
            print(&event, data)
        };
        return match client.follow(&path, follow).await? {
            Reader::Gone => Ok(()),
            Reader::There => Err(CliError::failed("the proxy ended the stream: it is stopping, or has been stopped")),
        };
    }
    let page: EventsView = client.get(&path).await?;
    for event in &page.events {
        let json = serde_json::to_string(event).map_err(CliError::failed)?;
        if print(event, &json)? == Reader::Gone {
            break;
        }
    }
    Ok(())
}

/// One event, as people read it.
fn line(event: &Event) -> String {
    let service = event.service.as_deref().unwrap_or("-");
    let (at, id, kind, by) = (&event.at, event.id, &event.kind, &event.by);
    format!("{at}  #{id:<5} {kind:<16} {service:<12} {}  by {by}", told(event))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = Event {
            id: 7,
            at: "2026-01-01T00:00:00.000Z".into(),
            by: "ada (cli)".into(),
            kind: "weights_changed".into(),
            service: Some("shop".into()),
            detail: json!({ "service": "shop", "from": { "blue": 95.0, "canary": 5.0 }, "to": { "blue": 50.0, "canary": 50.5 } }),
        };
        let said = "2026-01-01T00:00:00.000Z  #7     weights_changed  shop         \
                    blue=50 canary=50.5  (was blue=95 canary=5)  by ada (cli)";
        assert_eq!(line(&event), said);
    }
}
