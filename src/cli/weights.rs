//! `tidegate weights`: shift traffic.

use super::args::WeightsArgs;
use super::client::{Client, segment};
use super::{CliError, print, status};
use crate::admin::view::{ServiceView, WeightsBody};

pub(super) async fn run(args: &WeightsArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let view = if args.weights.is_empty() {
        client.get(&path(&args.service)).await?
    } else {
        put_weights(&client, &args.service, args.weights.clone()).await?
    };
    if args.json {
        return print(&serde_json::to_string_pretty(&view).map_err(CliError::failed)?);
    }
    print(status::service(&view).trim_end())
}

/// Sets all weights of a service at once; answers what is in force then.
async fn put_weights(client: &Client, service: &str, weights: Vec<(String, f64)>) -> Result<ServiceView, CliError> {
    let body = serde_json::to_vec(&WeightsBody(weights)).map_err(CliError::failed)?;
    client.put(&format!("{}/weights", path(service)), body).await
}

fn path(service: &str) -> String {
    format!("/v1/services/{}", segment(service))
}
