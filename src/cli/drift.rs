//! `tidegate diff` and `tidegate reset`: where what is in force differs from the file, and back to the file.

use super::args::{DiffArgs, ResetArgs};
use super::client::{Client, segment};
use super::{CliError, print, status};
use crate::admin::view::{MirrorBody, MirrorView, ServiceView, ServicesView};

pub(super) async fn diff(args: &DiffArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let services: Vec<ServiceView> = match &args.service {
        Some(name) => vec![client.get(&format!("/v1/services/{}", segment(name))).await?],
        None => client.get::<ServicesView>("/v1/services").await?.services,
    };
    let drifted: Vec<&ServiceView> = services.iter().filter(|service| has_drifted(service)).collect();
    if args.json {
        return print(&serde_json::to_string_pretty(&drifted).map_err(CliError::failed)?);
    }
    if drifted.is_empty() {
        return print("every service is as its file says");
    }
    let lines = drifted.iter().flat_map(|service| {
        let weights = service.backends.iter().map(|backend| {
            let (file, live) = (backend.weight.configured, backend.weight.wanted);
            let mark = if file.to_bits() == live.to_bits() { ' ' } else { '~' };
            let deployed =
                if backend.deployed { format!("  runs {}, deployed live", backend.revision) } else { String::new() };
            format!("{mark} {:<16} {live:>10}  (file: {file}){deployed}", backend.name)
        });
        let mirrors = service.mirrors.iter().filter(|mirror| mirror.is_changed()).map(|mirror| {
            let to = format!("mirror to {}", mirror.backend);
            format!("~ {to:<16} {:>8} %  (file: {} %)", mirror.percent, mirror.configured_percent)
        });
        let lines = [service.name.clone()].into_iter().chain(weights).chain(mirrors);
        lines.chain([format!("  back: tidegate reset {}", service.name)])
    });
    print(&lines.collect::<Vec<_>>().join("\n"))
}

fn has_drifted(service: &ServiceView) -> bool {
    let deployed = service.backends.iter().any(|backend| backend.deployed);
    service.overridden || deployed || service.mirrors.iter().any(MirrorView::is_changed)
}

pub(super) async fn reset(args: &ResetArgs) -> Result<(), CliError> {
    let client = Client::new(&args.admin);
    let path = format!("/v1/services/{}", segment(&args.service));
    let mut view: ServiceView = client.delete(&format!("{path}/weights")).await?;
    for mirror in view.mirrors.clone().iter().filter(|mirror| mirror.is_changed()) {
        let body = MirrorBody { backend: mirror.backend.clone(), percent: None };
        let body = serde_json::to_vec(&body).map_err(CliError::failed)?;
        view = client.put(&format!("{path}/mirror"), body).await?;
    }
    if args.json {
        return print(&serde_json::to_string_pretty(&view).map_err(CliError::failed)?);
    }
    print(status::service(&view).trim_end())
}
