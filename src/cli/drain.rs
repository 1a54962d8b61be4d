//! `tidegate drain` and `tidegate undrain`: whether a backend gets new requests at all.

use super::args::{BackendRef, DrainArgs, UndrainArgs};
use super::client::{Client, segment};
use super::{CliError, print, status};
use crate::admin::view::{DrainBody, ServiceView};

pub(super) async fn drain(args: &DrainArgs) -> Result<(), CliError> {
    let body = serde_json::to_vec(&DrainBody { reason: args.reason.clone() }).map_err(CliError::failed)?;
    let view = Client::new(&args.admin).put(&path(&args.backend), body).await?;
    show(&view, args.json)
}

pub(super) async fn undrain(args: &UndrainArgs) -> Result<(), CliError> {
    let view = Client::new(&args.admin).delete(&path(&args.backend)).await?;
    show(&view, args.json)
}

fn show(view: &ServiceView, json: bool) -> Result<(), CliError> {
    if json {
        return print(&serde_json::to_string_pretty(view).map_err(CliError::failed)?);
    }
    print(status::service(view).trim_end())
}

fn path(of: &BackendRef) -> String {
    let endpoint = of.address.as_ref().map_or(String::new(), |address| format!("/endpoints/{}", segment(address)));
    format!("/v1/services/{}/backends/{}{endpoint}/drain", segment(&of.service), segment(&of.backend))
}
