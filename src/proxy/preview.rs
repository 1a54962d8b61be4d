//! Requests by a preview's host: they are for the release alone. While there is none, or where more is asked than the
//! host, nobody answers them: whoever looks at a release must not be shown anything else.

use super::reply::{Failure, Reason};
use crate::model::RequestFacts;
use crate::state::{Backend, Service};

/// The release's backend, for a request that a preview's host has brought; `None`: another one has.
pub(super) fn candidate(
    service: &Service,
    route: Option<u32>,
    facts: &RequestFacts<'_>,
) -> Result<Option<usize>, Failure> {
    let config = &service.config;
    // The routes of previews come after the service's own.
    if route.is_none_or(|route| (route as usize) < config.routes.len()) {
        return Ok(None);
    }
    let mut previews = config.rollout.preview.iter();
    let is_shown =
        previews.any(|preview| preview.host.as_deref() == Some(facts.host) && facts.satisfies_rule(&preview.matches));
    let open = service.rollout().filter(|_| is_shown).ok_or(Reason::NoRoute)?;
    let is_it = |backend: &Backend| backend.name == open.candidate && !backend.is_drained();
    Ok(Some(service.backends.iter().position(is_it).ok_or(Reason::NoRoute)?))
}
