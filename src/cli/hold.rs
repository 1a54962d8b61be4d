//! `tidegate hold` and `tidegate release`: have requests wait, and let them go.

use super::args::{HoldArgs, ReleaseArgs};
use super::client::{Client, segment};
use super::{CliError, print, status};
use crate::admin::view::{HoldBody, ServiceView};
use crate::model::format_duration;

pub(super) async fn hold(args: &HoldArgs) -> Result<(), CliError> {
    let body = HoldBody { time: format_duration(args.duration), requests: args.requests };
    let body = serde_json::to_vec(&body).map_err(CliError::failed)?;
    show(&Client::new(&args.admin).put(&path(&args.service), body).await?, args.json)
}

pub(super) async fn release(args: &ReleaseArgs) -> Result<(), CliError> {
    show(&Client::new(&args.admin).delete(&path(&args.service)).await?, args.json)
}

fn show(view: &ServiceView, json: bool) -> Result<(), CliError> {
    if json {
        return print(&serde_json::to_string_pretty(view).map_err(CliError::failed)?);
    }
    print(status::service(view).trim_end())
}

fn path(service: &str) -> String {
    format!("/v1/services/{}/hold", segment(service))
}
