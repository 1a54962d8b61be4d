//! `tidegate mirror`: how much of a service is copied to a backend.

use super::args::{MirrorArgs, MirrorShare};
use super::client::{Client, segment};
use super::{CliError, print, status};
use crate::admin::view::{MirrorBody, ServiceView};

pub(super) async fn run(args: &MirrorArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let path = format!("/v1/services/{}", segment(&args.service));
    let view: ServiceView = match (&args.backend, args.share) {
        (Some(backend), Some(share)) => {
            let percent = match share {
                MirrorShare::Percent(percent) => Some(percent),
                MirrorShare::File => None,
            };
            let body =
                serde_json::to_vec(&MirrorBody { backend: backend.clone(), percent }).map_err(CliError::failed)?;
            client.put(&format!("{path}/mirror"), body).await?
        }
        _ => client.get(&path).await?,
    };
    if args.json {
        return print(&serde_json::to_string_pretty(&view).map_err(CliError::failed)?);
    }
    print(status::service(&view).trim_end())
}
