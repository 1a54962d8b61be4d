//! Draining and undraining single endpoints, by a person. Not durable: an address means something else after a restart
//! of what runs there, and with it goes whoever has drained it.

use std::collections::HashSet;
use std::sync::Arc;

use tracing::info;

use super::{Control, ControlError};
use crate::journal::{Entry, Fact};
use crate::state::{Change, Refused};
use crate::upstream::Endpoint;

impl Control {
    /// Has an endpoint, named by its address and port, get no new requests, or get them again. Once this returns, the
    /// next request on every worker sees it.
    ///
    /// # Errors
    /// When there is no such endpoint, or nobody else would answer.
    pub async fn set_endpoint_drained(
        &self,
        service: &str,
        backend: &str,
        address: &str,
        drained: bool,
        by: &str,
    ) -> Result<(), ControlError> {
        let _turn = self.turn.take().await;
        let plan = self.store.plan_drain(service, backend)?;
        let current = self.store.current();
        let services = current.services.iter().filter(|found| *found.name() == plan.service);
        let backends = services.flat_map(|found| &found.backends);
        let named: Vec<&Arc<Endpoint>> =
            backends.clone().filter(|found| found.name == plan.backend).flat_map(|found| &found.endpoints).collect();
        let found = named.iter().find(|endpoint| endpoint.identity.address.to_string() == address);
        let Some(endpoint) = found else {
            let known = named.iter().map(|endpoint| endpoint.identity.address.to_string()).collect();
            return Err(Refused::NoEndpoint { name: address.to_owned(), known }.into());
        };
        if endpoint.health.is_drained() == drained {
            return Ok(());
        }
        let mut weighted = backends.filter(|found| !found.effective.is_zero()).flat_map(|found| &found.endpoints);
        if drained && !weighted.any(|other| other.id != endpoint.id && other.health.is_available()) {
            return Err(Refused::LastBackend { name: address.to_owned() }.into());
        }
        endpoint.health.set_drained(drained);
        self.store.apply(Change::Availability(HashSet::from([plan.service.clone()])))?;
        let (service, backend, endpoint) = (service.to_owned(), backend.to_owned(), address.to_owned());
        info!(%service, %backend, %endpoint, drained, by, "an endpoint was drained, or undrained");
        let fact = if drained {
            Fact::EndpointDrained { service, backend, endpoint }
        } else {
            Fact::EndpointUndrained { service, backend, endpoint }
        };
        self.note_entry(Entry::now(by, fact));
        Ok(())
    }
}
