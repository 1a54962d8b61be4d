//! The part of a copy that is about comparing: its answer, the second copy's and the client's become a pair.

use std::cell::Cell;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use tracing::debug;
use tracing::field::display;

use super::copy::Asked;
use super::errand::{Errand, Heard, takes_noise};
use super::leg::Read;
use super::meeting::{Meeting, Told};
use super::{Capture, CopiedHead};
use crate::config::{CompareConfig, MirrorConfig};
use crate::observe::{MirrorDrop, PairDrop};
use crate::shadow::{Answer, AnswerEnd, Pair};
use crate::state::{Pass, Place};
use crate::upstream::CopiedBody;

/// How long a shadow's answer waits for the primary's to end.
const PRIMARY_WAIT: Duration = Duration::from_secs(60);
/// What is told of a path.
const PATH_BYTES_MAX: usize = 512;

/// What a copy needs where its answer is compared.
pub(super) struct Comparison {
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

impl Comparison {
    /// `meeting`: of this request's copies, if one has needed it.
    pub(super) fn new(
        asked: &Asked<'_>,
        config: &MirrorConfig,
        compare: &CompareConfig,
        meeting: &mut Option<Rc<Meeting>>,
    ) -> Self {
        let view = asked.worker.service(asked.view, asked.service);
        let capture = || Capture::new(compare.body_max, asked.share());
        let noise = compare.noise && takes_noise(view, asked.backend);
        let noise = match noise.then(|| asked.body(config)) {
            Some(Ok(body)) => Some(Noise {
                backend: asked.backend,
                head: CopiedHead::of(asked.request, view.marks[asked.backend].clone(), &config.redact, None),
                body,
                capture: capture(),
            }),
            Some(Err(_)) | None => None,
        };
        Self {
            meeting: Rc::clone(meeting.get_or_insert_default()),
            capture: capture(),
            noise,
            route: asked.route,
            request_id: asked.request_id.clone(),
            asked: std::time::Instant::now(),
        }
    }

    /// Asks whoever is asked, waits for what the client got, and hands over what has come.
    pub(super) async fn run(
        mut self: Box<Self>,
        errand: &Errand<'_>,
        pass: Pass<'_>,
        mut head: CopiedHead,
        body: Option<CopiedBody>,
        place: Place,
    ) {
        let Some((shadow, noise)) = self.ask(errand, pass, &mut head, body.as_ref()).await else { return };
        // Whoever is waited for from here on isn't the shadow.
        drop((place, body));
        let Some(end) = ended(shadow.0) else { return };
        let cell = errand.cell();
        let told = errand.worker.timers.timeout(PRIMARY_WAIT, self.meeting.primary());
        let told = match errand.worker.background.unless_given_up(told).await {
            Some(Ok(told)) => told,
            Some(Err(_)) => return cell.pair_dropped(PairDrop::Late),
            None => return cell.pair_dropped(PairDrop::Memory),
        };
        let Comparison { capture, noise: second, route, request_id, asked, .. } = *self;
        let second = second.zip(noise).and_then(|(second, (read, after))| {
            // Where another backend has answered in the end, it tells nothing about that one.
            let is_same = second.backend == told.backend;
            second.capture.finish(ended(read)?, after).filter(|_| is_same)
        });
        // Held until the pair is handed over, which then counts elsewhere.
        let (noise, _share) = second.unzip();
        let (Some(primary), Some((shadow, _share_of_shadow))) =
            (primary(&told, &errand.mirror.config), capture.finish(end, shadow.1))
        else {
            return cell.pair_dropped(PairDrop::Memory);
        };
        show(errand, told.backend, &request_id, [Some(&primary), Some(&shadow), noise.as_ref()]);
        let route = route.and_then(|route| errand.seen.service.config.routes.get(route as usize));
        let path = head.uri().path_and_query().map_or("/", |path| path.as_str());
        let answered = &errand.seen.service.backends[told.backend];
        let target = errand.target;
        let pair = Pair {
            service: errand.seen.service.name().as_str().into(),
            mirror: errand.mirror.backend.as_str().into(),
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
        match errand.worker.pairs.offer(pair) {
            Ok(()) => cell.pairs.add(1),
            Err(_) => cell.pair_dropped(PairDrop::Full),
        }
    }

    /// What both copies came to; `None` where they were given up.
    async fn ask(
        &mut self,
        errand: &Errand<'_>,
        pass: Pass<'_>,
        head: &mut CopiedHead,
        body: Option<&CopiedBody>,
    ) -> Option<(Heard, Option<Heard>)> {
        let Self { capture, noise, .. } = self;
        let again = noise.as_ref().and_then(|noise| errand.target.again(errand.seen, noise.backend));
        let is_counted = Cell::new(false);
        // Where they stay: many kilobytes, which joining and racing would move about.
        let shadow = pin!(async {
            let heard = errand.ask(pass, head, body, Some(capture)).await;
            is_counted.set(true);
            heard
        });
        let noise = pin!(async {
            let (noise, backend) = (noise.as_mut()?, again?);
            errand.cell().noise.add(1);
            let (head, body) = (&mut noise.head, noise.body.as_ref());
            Some(errand.ask_backend(backend, head, body, Some(&mut noise.capture)).await)
        });
        let asking = async { tokio::join!(shadow, noise) };
        let asked = errand.worker.background.unless_given_up(asking).await;
        match asked {
            Some(_) => {}
            None if is_counted.get() => errand.cell().pair_dropped(PairDrop::Memory),
            None => errand.cell().dropped(MirrorDrop::Overloaded),
        }
        asked
    }
}

/// `answers`: the primary's, the shadow's, the second copy's.
fn show(errand: &Errand<'_>, primary: usize, request_id: &HeaderValue, answers: [Option<&Answer>; 3]) {
    let [primary_answer, shadow, noise] = answers.map(|answer| answer.map(|answer| display(Shown(answer))));
    debug!(
        service = %errand.seen.service.name(),
        mirror = %errand.mirror.backend,
        request_id = request_id.to_str().unwrap_or_default(),
        primary_backend = %errand.seen.service.backends[primary].name,
        primary = primary_answer,
        shadow,
        noise,
        "a pair of answers"
    );
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
