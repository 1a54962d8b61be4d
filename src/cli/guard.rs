//! `tidegate guard`: the most that the guard may do, everywhere at once.

use super::args::{GuardArgs, GuardLimit};
use super::client::Client;
use super::{CliError, print};
use crate::admin::view::GuardView;
use crate::model::GuardMode;

const PATH: &str = "/v1/guard";

pub(super) async fn run(args: &GuardArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let view: GuardView = match args.mode {
        None => client.get(PATH).await?,
        Some(limit) => {
            let at_most = match limit {
                GuardLimit::Off => Some(GuardMode::Off),
                GuardLimit::Observe => Some(GuardMode::Observe),
                GuardLimit::On => None,
            };
            let body = serde_json::to_vec(&GuardView { at_most }).map_err(CliError::failed)?;
            client.put(PATH, body).await?
        }
    };
    if args.json {
        return print(&serde_json::to_string_pretty(&view).map_err(CliError::failed)?);
    }
    print(match view.at_most {
        None | Some(GuardMode::Drain) => "the guard does what the file says of each service",
        Some(GuardMode::Observe) => {
            "the guard drains nobody, and says what it would have done; back: tidegate guard on"
        }
        Some(GuardMode::Off) => "the guard judges nobody; back: tidegate guard on",
    })
}
