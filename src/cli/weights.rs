//! `tidegate weights`: shift traffic.

use super::args::WeightsArgs;
use super::client::{Client, segment};
use super::{CliError, print, status};
use crate::admin::view::{ServiceView, WeightsBody};

pub(super) fn run(args: &WeightsArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin)?;
    let path = format!("/v1/services/{}", segment(&args.service));
    let view: ServiceView = if args.weights.is_empty() {
        client.get(&path)?
    } else {
        let body = serde_json::to_vec(&WeightsBody(args.weights.clone())).map_err(CliError::failed)?;
        client.put(&format!("{path}/weights"), body)?
    };
    if args.json {
        return print(&serde_json::to_string_pretty(&view).map_err(CliError::failed)?);
    }
    print(status::service(&view).trim_end())
}
