//! One copy of a request: its place among the others, and what it waits for before it is sent.

use std::future::poll_fn;
use std::rc::Rc;

use http::{HeaderValue, Request};
use http_body::Body;
use tokio::time::Instant;

use super::comparison::Comparison;
use super::errand::{Errand, Target};
use super::leg::takes_copies;
use super::meeting::Meeting;
use super::{Chosen, CopiedHead, Primary};
use crate::config::{LargeBody, MirrorConfig};
use crate::model::Ends;
use crate::observe::{MirrorDrop, MirrorShare};
use crate::state::{InLine, Mirror, Place};
use crate::upstream::{CopiedBody, RequestBody};
use crate::worker::{View, Worker};

/// A request of which copies are made.
#[derive(Debug)]
pub struct Asked<'a> {
    pub worker: &'a Rc<Worker>,
    pub view: &'a Rc<View>,
    /// Indices of its service, its route and the backend that was selected for it.
    pub service: usize,
    pub route: Option<u32>,
    pub backend: usize,
    pub ends: &'a Ends,
    pub request_id: &'a HeaderValue,
    /// Fit for any endpoint.
    pub request: &'a Request<RequestBody>,
}

/// Sends copies to the mirrors that were `chosen`. Where answers are compared, the client's must be captured.
pub fn begin(asked: &Asked<'_>, chosen: Chosen) -> Option<Primary> {
    let service = &asked.view.snapshot.services[asked.service];
    let mut meeting = None;
    let mut compared = Vec::new();
    for index in chosen.indices() {
        let Some(mirror) = service.mirrors.as_ref().and_then(|mirrors| mirrors.get(index)) else { continue };
        match Copy::new(asked, mirror, index, &mut meeting) {
            Ok(copy) => {
                compared.extend(mirror.config.compare.clone());
                tokio::task::spawn_local(copy.run());
            }
            Err(why) => mirror.metrics.cell(asked.worker.index).dropped(why),
        }
    }
    let meeting = meeting?;
    Some(Primary::new(meeting, compared, asked.share()))
}

impl Asked<'_> {
    /// Of the memory that all mirrors have.
    pub(super) fn share(&self) -> MirrorShare {
        MirrorShare::new(&self.worker.process.mirror_memory, self.view.snapshot.limits.mirror_memory)
    }

    /// A copy of the body, from here on.
    pub(super) fn body(&self, config: &MirrorConfig) -> Result<Option<CopiedBody>, MirrorDrop> {
        let body = self.request.body();
        let Some(progress) = body.progress() else { return Ok(None) };
        if config.large_body == LargeBody::Skip && body.size_hint().lower() > config.body_max as u64 {
            return Err(MirrorDrop::BodyTooLarge);
        }
        Ok(Some(progress.copy(config.body_max, config.large_body, self.share())))
    }
}

/// A copy on its way.
struct Copy {
    worker: Rc<Worker>,
    view: Rc<View>,
    service: usize,
    mirror: usize,
    ends: Ends,
    standing: Standing,
    head: CopiedHead,
    body: Option<CopiedBody>,
    comparison: Option<Box<Comparison>>,
}

/// What a copy has before it is sent.
enum Standing {
    Place(Place),
    InLine(InLine),
    /// Its body is still to come, whole, and places are for those that can be sent; what its head holds meanwhile.
    AwaitsBody(MirrorShare),
}

impl Copy {
    fn new(
        asked: &Asked<'_>,
        mirror: &Mirror,
        index: usize,
        meeting: &mut Option<Rc<Meeting>>,
    ) -> Result<Self, MirrorDrop> {
        let config = &mirror.config;
        if !asked.worker.process.headroom.suffices() {
            return Err(MirrorDrop::Overloaded);
        }
        let view = asked.worker.service(asked.view, asked.service);
        takes_copies(&view.service.backends[config.backend], &view.backends[config.backend])?;
        if !mirror.breaker.lets_through(Instant::now()) {
            return Err(MirrorDrop::HeldBack);
        }
        let body = asked.body(config)?;
        let head =
            |backend: usize, suffix| CopiedHead::of(asked.request, view.marks[backend].clone(), &config.redact, suffix);
        let awaits_body = body.is_some() && config.large_body == LargeBody::Skip;
        let standing = if awaits_body { None } else { Some(stand(mirror)?) };
        let shadow_head = head(config.backend, config.host_suffix.as_deref());
        let standing = match standing {
            Some(standing) => standing,
            None => {
                let mut held = asked.share();
                if !held.take(shadow_head.cost()) {
                    return Err(MirrorDrop::Memory);
                }
                Standing::AwaitsBody(held)
            }
        };
        let compare = config.compare.as_ref();
        let comparison = compare.map(|compare| Box::new(Comparison::new(asked, config, compare, meeting)));
        Ok(Self {
            worker: Rc::clone(asked.worker),
            view: Rc::clone(asked.view),
            service: asked.service,
            mirror: index,
            ends: *asked.ends,
            standing,
            head: shadow_head,
            body,
            comparison,
        })
    }

    fn run(self) -> impl Future<Output = ()> {
        let worker = Rc::clone(&self.worker);
        let enlisted = worker.background.enlist();
        async move { worker.background.in_turns(enlisted, self.make()).await }
    }

    async fn make(self) {
        let Self { worker, view, service, mirror, ends, standing, mut head, body, comparison } = self;
        let seen = worker.service(&view, service);
        let Some(mirror) = seen.service.mirrors.as_ref().and_then(|mirrors| mirrors.get(mirror)) else { return };
        let cell = mirror.metrics.cell(worker.index);
        let has_waited = !matches!(standing, Standing::Place(_));
        let place = match worker.background.unless_given_up(standing.place(mirror, body.as_ref(), &worker)).await {
            Some(Ok(place)) => place,
            Some(Err(why)) => return cell.dropped(why),
            None => return cell.dropped(MirrorDrop::Overloaded),
        };
        // What it was meant for may be gone by now, or be drained.
        let view = if has_waited { worker.view() } else { Rc::clone(&view) };
        let target =
            if has_waited { Target::find(&worker, &view, service, seen, mirror) } else { Ok(Target::of(seen, mirror)) };
        let target = match target {
            Ok(target) => target,
            Err(why) => return cell.dropped(why),
        };
        let began = Instant::now();
        let Some(pass) = mirror.breaker.pass(began) else { return cell.dropped(MirrorDrop::HeldBack) };
        let errand = Errand { worker: &worker, seen, mirror, target, ends: &ends, began };
        // Boxed, each of them: a copy is moved seven times until it runs, and what asks is many kilobytes.
        match comparison {
            Some(comparison) => Box::pin(comparison.run(&errand, pass, head, body, place)).await,
            None => {
                let asking = Box::pin(errand.ask(pass, &mut head, body.as_ref(), None));
                if worker.background.unless_given_up(asking).await.is_none() {
                    cell.dropped(MirrorDrop::Overloaded);
                }
            }
        }
    }
}

/// A place at once, or one in line.
fn stand(mirror: &Mirror) -> Result<Standing, MirrorDrop> {
    match mirror.places.take(mirror.config.requests_max) {
        Some(place) => Ok(Standing::Place(place)),
        None => mirror.places.line_up(mirror.config.queue).map(Standing::InLine).ok_or(MirrorDrop::Full),
    }
}

impl Standing {
    /// The place that a copy has in the end.
    async fn place(self, mirror: &Mirror, body: Option<&CopiedBody>, worker: &Worker) -> Result<Place, MirrorDrop> {
        let config = &mirror.config;
        let standing = match (self, body) {
            (Self::AwaitsBody(held), Some(body)) => {
                let coming = worker.timers.timeout(config.timeout, poll_fn(|cx| body.poll_end(cx)));
                coming.await.map_err(|_| MirrorDrop::BodyTimeout)??;
                drop(held);
                stand(mirror)?
            }
            (standing, _) => standing,
        };
        match standing {
            Self::Place(place) => Ok(place),
            Self::InLine(line) => {
                let waited = line.wait(config.requests_max, config.timeout, &worker.timers).await;
                waited.ok_or(MirrorDrop::QueueTimeout)
            }
            Self::AwaitsBody(_) => Err(MirrorDrop::RequestBroken),
        }
    }
}
