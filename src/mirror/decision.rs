//! Which mirrors get a copy of a request. Decided once, when its backend is known, and from what its client sent.

use std::net::IpAddr;

use crate::config::{MIRRORS_MAX, MirrorBy};
use crate::model::{ClientKey, RequestFacts, decide_path, leading_bits};
use crate::state::{Mirror, Service};

/// Mirrors of a service, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chosen(u8);

const _: () = assert!(MIRRORS_MAX <= u8::BITS as usize, "a bit for each");

impl Chosen {
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    pub fn indices(self) -> impl Iterator<Item = usize> {
        (0..MIRRORS_MAX).filter(move |index| self.0 & 1 << index != 0)
    }
}

/// The mirrors that get a copy. `backend`: the one that answers, which needs none; `client`: who asks, where the service
/// knows its clients; `draw`: a number uniform over all `u64`.
pub fn choose(
    service: &Service,
    mirrors: &[Mirror],
    backend: usize,
    facts: &RequestFacts<'_>,
    client: Option<ClientKey>,
    draw: impl Fn() -> u64,
) -> Chosen {
    let mut chosen = 0;
    for (index, mirror) in mirrors.iter().enumerate() {
        let wants = !mirror.percent.is_zero()
            && mirror.config.backend != backend
            && mirror.config.methods.contains(facts.method)
            && mirror.percent.takes(match mirror.config.by {
                MirrorBy::Request => draw(),
                MirrorBy::Client => client.unwrap_or_else(|| by_address(service, facts)).draw(mirror.backend.as_str()),
            })
            && mirror.config.conditions.as_ref().is_none_or(|conditions| facts.satisfies_rule(conditions))
            && lies_on_a_route(mirror, facts);
        chosen |= u8::from(wants) << index;
    }
    Chosen(chosen)
}

fn lies_on_a_route(mirror: &Mirror, facts: &RequestFacts<'_>) -> bool {
    let Some(routes) = &mirror.routes else { return true };
    let found =
        decide_path(facts.path, |path| routes.find(&RequestFacts { path, ..*facts }).map(|routed| routed.service));
    matches!(found, Ok(Some(_)))
}

/// Told apart as clients of a sticky service are where nothing else is said.
fn by_address(service: &Service, facts: &RequestFacts<'_>) -> ClientKey {
    let salt = service.name().as_str();
    match leading_bits(facts.client, 32, 64) {
        IpAddr::V4(address) => ClientKey::new(salt, &address.octets()),
        IpAddr::V6(address) => ClientKey::new(salt, &address.octets()),
    }
}
