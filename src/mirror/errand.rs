//! A copy that waits for nothing more: where it goes, and what becomes of it.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::leg::{Leg, Read, takes_copies};
use super::{Capture, CopiedHead};
use crate::model::Ends;
use crate::observe::{CodeClass, MirrorCell, MirrorDrop};
use crate::state::{BROKEN_MAX, Ending, Mirror, Pass, Turn};
use crate::upstream::CopiedBody;
use crate::worker::{ServiceView, View, Worker};

/// See the module's text.
pub(super) struct Errand<'a> {
    pub(super) worker: &'a Rc<Worker>,
    /// As the request saw it.
    pub(super) seen: &'a ServiceView,
    pub(super) mirror: &'a Mirror,
    pub(super) target: Target<'a>,
    pub(super) ends: &'a Ends,
    pub(super) began: Instant,
}

/// What came of asking, and how long after the copy began.
pub(super) type Heard = (Result<Read, MirrorDrop>, Duration);

impl Errand<'_> {
    pub(super) fn cell(&self) -> &MirrorCell {
        self.mirror.metrics.cell(self.worker.index)
    }

    /// Asks the mirror's backend, and counts what came of it.
    pub(super) async fn ask(
        &self,
        pass: Pass<'_>,
        head: &mut CopiedHead,
        body: Option<&CopiedBody>,
        capture: Option<&mut Capture>,
    ) -> Heard {
        let (read, after) = self.ask_backend(self.target.backend, head, body, capture).await;
        match read {
            Ok(Read { status }) => {
                self.cell().answered(CodeClass::of(status));
                self.cell().duration.record(after);
            }
            Err(why) => self.cell().dropped(why),
        }
        if let Some(how) = ending(read) {
            let turn = pass.ended(how, Instant::now(), self.worker.draw());
            turn.inspect(|turn| self.tell(*turn, read.err()));
        }
        (read, after)
    }

    /// Asks one of the backends, of which nothing is counted here.
    pub(super) async fn ask_backend(
        &self,
        backend: usize,
        head: &mut CopiedHead,
        body: Option<&CopiedBody>,
        capture: Option<&mut Capture>,
    ) -> Heard {
        let service = self.target.service;
        let leg = Leg {
            worker: self.worker,
            view: &service.backends[backend],
            config: &self.mirror.config,
            connect: service.service.config.timeouts.connect,
            connects: &self.mirror.connects,
            ends: self.ends,
        };
        let read = leg.ask(head, body, capture).await;
        (read, self.began.elapsed())
    }

    fn tell(&self, turn: Turn, why: Option<MirrorDrop>) {
        let (service, backend) = (self.seen.service.name(), &self.mirror.backend);
        match turn {
            Turn::HeldBack => {
                let reason = why.map_or("", MirrorDrop::label);
                warn!(%service, %backend, copies = BROKEN_MAX, reason, "copies are held back, since a shadow breaks each");
            }
            Turn::LetGo => info!(%service, %backend, "a shadow gets copies again"),
        }
    }
}

/// What the end of a copy says about its shadow.
fn ending(read: Result<Read, MirrorDrop>) -> Option<Ending> {
    match read {
        Ok(_) => Some(Ending::Well),
        Err(MirrorDrop::Broken | MirrorDrop::AnswerTooLarge) => Some(Ending::Broken),
        Err(MirrorDrop::Connect | MirrorDrop::Timeout) => Some(Ending::Unanswered),
        Err(_) => None,
    }
}

/// Where a copy goes.
#[derive(Clone, Copy)]
pub(super) struct Target<'v> {
    pub(super) service: &'v ServiceView,
    /// Its index there.
    pub(super) backend: usize,
}

impl<'v> Target<'v> {
    pub(super) fn of(service: &'v ServiceView, mirror: &Mirror) -> Self {
        Self { service, backend: mirror.config.backend }
    }

    /// As things are by now.
    pub(super) fn find(
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
    pub(super) fn again(self, seen: &ServiceView, backend: usize) -> Option<usize> {
        let answers = &seen.service.backends[backend];
        let service = &self.service.service;
        let index = service.backends.iter().position(|now| now.name == answers.name)?;
        let is_same = service.backends[index].revision == answers.revision;
        (is_same && takes_noise(self.service, index)).then_some(index)
    }
}

/// Whether the backend that answers is what shadows are compared with, and can take a second copy.
pub(super) fn takes_noise(view: &ServiceView, backend: usize) -> bool {
    backend == view.service.config.stable
        && takes_copies(&view.service.backends[backend], &view.backends[backend]).is_ok()
}
