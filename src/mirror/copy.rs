//! One copy of a request: from its place among the others to the pair of answers that are compared.

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request};
use http_body::Body;
use tokio::time::Instant;
use tracing::debug;

use super::leg::{Leg, Read, takes_copies};
use super::meeting::{Meeting, Told};
use super::{Capture, Chosen, CopiedHead, Primary};
use crate::config::{LargeBody, MirrorConfig};
use crate::model::Ends;
use crate::observe::{CodeClass, MirrorCell, MirrorDrop, MirrorShare, PairDrop};
use crate::shadow::{Answer, AnswerEnd, Pair};
use crate::state::{InLine, Mirror, Place};
use crate::upstream::{CopiedBody, RequestBody};
use crate::worker::{ServiceView, View, Worker};

/// How long a shadow's answer waits for the primary's to end.
const PRIMARY_WAIT: Duration = Duration::from_secs(60);
/// What is told of a path.
const PATH_BYTES_MAX: usize = 512;

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
    fn share(&self) -> MirrorShare {
        MirrorShare::new(&self.worker.process.mirror_memory, self.view.snapshot.limits.mirror_memory)
    }

    /// A copy of the body, from here on.
    fn body(&self, config: &MirrorConfig) -> Result<Option<CopiedBody>, MirrorDrop> {
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

/// What a copy needs where its answer is compared.
struct Comparison {
    meeting: Rc<Meeting>,
    capture: Capture,
    noise: Option<Noise>,
    route: Option<u32>,
    request_id: HeaderValue,
    asked: std::time::Instant,
}

/// A second copy, for the backend that answers the client.
struct Noise {
    backend: usize,
    head: CopiedHead,
    body: Option<CopiedBody>,
    capture: Capture,
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
        let comparison = match &config.compare {
            None => None,
            Some(compare) => {
                let capture = || Capture::new(compare.body_max, asked.share());
                let noise = compare.noise && takes_noise(view, asked.backend);
                let noise = match noise.then(|| asked.body(config)) {
                    Some(Ok(body)) => Some(Noise {
                        backend: asked.backend,
                        head: head(asked.backend, None),
                        body,
                        capture: capture(),
                    }),
                    Some(Err(_)) | None => None,
                };
                let meeting = Rc::clone(meeting.get_or_insert_default());
                Some(Box::new(Comparison {
                    meeting,
                    capture: capture(),
                    noise,
                    route: asked.route,
                    request_id: asked.request_id.clone(),
                    asked: std::time::Instant::now(),
                }))
            }
        };
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
        let config = &*mirror.config;
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
        let leg = |backend: usize| Leg {
            worker: &worker,
            view: &target.service.backends[backend],
            config,
            connect: target.service.service.config.timeouts.connect,
            connects: &mirror.connects,
            ends: &ends,
        };
        let began = Instant::now();
        let Some(mut comparison) = comparison else {
            let leg = leg(target.backend);
            let asking = leg.ask(&mut head, body.as_ref(), None);
            let read = worker.background.unless_given_up(asking).await.unwrap_or(Err(MirrorDrop::Overloaded));
            return count(cell, read, began.elapsed());
        };
        let mut noise = comparison.noise.take();
        let again = noise.as_ref().and_then(|noise| target.again(seen, noise.backend));
        let (shadow, counted) = (leg(target.backend), Cell::new(false));
        let asking = async {
            tokio::join!(
                async {
                    let read = shadow.ask(&mut head, body.as_ref(), Some(&mut comparison.capture)).await;
                    let after = began.elapsed();
                    counted.set(true);
                    count(cell, read, after);
                    (read, after)
                },
                async {
                    let (noise, backend) = (noise.as_mut()?, again?);
                    cell.noise.add(1);
                    let body = noise.body.as_ref();
                    let read = leg(backend).ask(&mut noise.head, body, Some(&mut noise.capture)).await;
                    Some((read, began.elapsed()))
                }
            )
        };
        let Some((read, noise_read)) = worker.background.unless_given_up(asking).await else {
            if counted.get() {
                return cell.pair_dropped(PairDrop::Memory);
            }
            return cell.dropped(MirrorDrop::Overloaded);
        };
        // Whoever is waited for from here on isn't the shadow.
        drop((place, body));
        let Some(end) = ended(read.0) else { return };
        let noise = noise
            .zip(noise_read)
            .and_then(|(noise, (read, after))| Some((noise.backend, noise.capture, ended(read)?, after)));
        let Comparison { meeting, capture, route, request_id, asked, .. } = *comparison;
        let told = worker.timers.timeout(PRIMARY_WAIT, meeting.primary());
        let told = match worker.background.unless_given_up(told).await {
            Some(Ok(told)) => told,
            Some(Err(_)) => return cell.pair_dropped(PairDrop::Late),
            None => return cell.pair_dropped(PairDrop::Memory),
        };
        let shadow = capture.finish(end, read.1);
        let noise = match noise {
            // Another backend has answered in the end: the second copy tells nothing about that one.
            Some((backend, ..)) if backend != told.backend => None,
            Some((_, capture, end, after)) => capture.finish(end, after),
            None => None,
        };
        let (Some(primary), Some((shadow, _share))) = (primary(&told, config), shadow) else {
            return cell.pair_dropped(PairDrop::Memory);
        };
        let (noise, _share) = noise.unzip();
        debug!(
            service = %seen.service.name(),
            mirror = %mirror.backend,
            request_id = request_id.to_str().unwrap_or_default(),
            primary_backend = %seen.service.backends[told.backend].name,
            primary = %Shown(&primary),
            shadow = %Shown(&shadow),
            noise = noise.as_ref().map(|noise| tracing::field::display(Shown(noise))),
            "a pair of answers"
        );
        let route = route.and_then(|route| seen.service.config.routes.get(route as usize));
        let path = head.uri().path_and_query().map_or("/", |path| path.as_str());
        let answered = &seen.service.backends[told.backend];
        let pair = Pair {
            service: seen.service.name().as_str().into(),
            mirror: mirror.backend.as_str().into(),
            revision: Arc::clone(&target.service.service.backends[target.backend].revision),
            primary_backend: answered.name.as_str().into(),
            primary_revision: Arc::clone(&answered.revision),
            asked,
            route: route.map(|route| route.to_string().into()),
            method: head.method().clone(),
            path: path[..path.floor_char_boundary(PATH_BYTES_MAX)].to_owned(),
            request_id: request_id.to_str().unwrap_or_default().to_owned(),
            primary,
            shadow,
            noise,
        };
        match worker.pairs.offer(pair) {
            Ok(()) => cell.pairs.add(1),
            Err(_) => cell.pair_dropped(PairDrop::Full),
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

/// Where a copy goes.
#[derive(Clone, Copy)]
struct Target<'v> {
    service: &'v ServiceView,
    /// Its index there.
    backend: usize,
}

impl<'v> Target<'v> {
    fn of(service: &'v ServiceView, mirror: &Mirror) -> Self {
        Self { service, backend: mirror.config.backend }
    }

    /// As things are by now.
    fn find(
        worker: &Worker,
        view: &'v View,
        index: usize,
        seen: &ServiceView,
        mirror: &Mirror,
    ) -> Result<Self, MirrorDrop> {
        let name = seen.service.name();
        let services = &view.snapshot.services;
        let stays = services.get(index).is_some_and(|service| service.name() == name);
        let index = if stays { Some(index) } else { services.iter().position(|service| service.name() == name) };
        let service = worker.service(view, index.ok_or(MirrorDrop::Removed)?);
        let mut mirrors = service.service.mirrors.iter().flatten();
        let now = mirrors.find(|now| now.backend == mirror.backend && !now.percent.is_zero());
        let target = Self::of(service, now.ok_or(MirrorDrop::Removed)?);
        takes_copies(&service.service.backends[target.backend], &service.backends[target.backend])?;
        Ok(target)
    }

    /// Where a second copy goes, if what answers the client is still stable, and the same.
    fn again(self, seen: &ServiceView, backend: usize) -> Option<usize> {
        let answers = &seen.service.backends[backend];
        let service = &self.service.service;
        let index = service.backends.iter().position(|now| now.name == answers.name)?;
        let is_same = service.backends[index].revision == answers.revision;
        (is_same && takes_noise(self.service, index)).then_some(index)
    }
}

/// Whether the backend that answers is what shadows are compared with, and can take a second copy.
fn takes_noise(view: &ServiceView, backend: usize) -> bool {
    backend == view.service.config.stable
        && takes_copies(&view.service.backends[backend], &view.backends[backend]).is_ok()
}

fn count(cell: &MirrorCell, read: Result<Read, MirrorDrop>, after: Duration) {
    match read {
        Ok(Read { status }) => {
            cell.answered(CodeClass::of(status));
            cell.duration.record(after);
        }
        Err(why) => cell.dropped(why),
    }
}

/// How a shadow's answer ended; `None` where the shadow didn't get what the primary got.
fn ended(read: Result<Read, MirrorDrop>) -> Option<AnswerEnd> {
    match read {
        Ok(_) => Some(AnswerEnd::Whole),
        Err(MirrorDrop::Timeout) => Some(AnswerEnd::TimedOut),
        Err(why @ (MirrorDrop::Connect | MirrorDrop::Broken)) => Some(AnswerEnd::Failed(why.label())),
        Err(MirrorDrop::AnswerTooLarge) => Some(AnswerEnd::Aborted),
        Err(_) => None,
    }
}

/// An answer in a line, without what it says.
struct Shown<'a>(&'a Answer);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Answer { end, status, headers, body, body_length, .. } = self.0;
        write!(f, "{end:?} {status}, {} headers, {} of {body_length} bytes", headers.len(), body.len())
    }
}

/// What this mirror compares of the answer that the client got.
fn primary(told: &Told, config: &MirrorConfig) -> Option<Answer> {
    let mut answer = told.answer.clone()?;
    let compare = config.compare.as_ref()?;
    if answer.body.len() > compare.body_max {
        answer.body = answer.body.slice(..compare.body_max);
        answer.truncated = true;
    }
    let is_always = |name: &http::HeaderName| name == http::header::CONTENT_TYPE || name == "grpc-status";
    answer.headers.retain(|(name, _)| is_always(name) || compare.headers.contains(name));
    Some(answer)
}
