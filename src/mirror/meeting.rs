//! Where the answer that the client got waits for its copies', or the other way round.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Capture;
use crate::config::CompareConfig;
use crate::observe::MirrorShare;
use crate::shadow::{Answer, AnswerEnd};

/// The answer that the client got, for those who compare.
#[derive(Debug)]
pub(super) struct Told {
    /// `None`: too little memory.
    pub(super) answer: Option<Answer>,
    /// Index of the backend that it came from.
    pub(super) backend: usize,
    _share: Option<MirrorShare>,
}

/// Of one request and its copies.
#[derive(Debug, Default)]
pub struct Meeting {
    told: RefCell<Option<Rc<Told>>>,
    came: Notify,
}

impl Meeting {
    /// What the client got, once that has ended.
    pub(super) async fn primary(&self) -> Rc<Told> {
        loop {
            if let Some(told) = self.told.borrow().clone() {
                return told;
            }
            self.came.notified().await;
        }
    }
}

/// The answer that the client gets, captured while it passes.
#[derive(Debug)]
pub struct Primary {
    meeting: Rc<Meeting>,
    capture: Capture,
    /// Of each mirror that compares.
    compared: Vec<Arc<CompareConfig>>,
    sent: Instant,
    whole: Option<Duration>,
}

impl Primary {
    #[must_use]
    pub fn new(meeting: Rc<Meeting>, compared: Vec<Arc<CompareConfig>>, share: MirrorShare) -> Self {
        let body_max = compared.iter().map(|compare| compare.body_max).max().unwrap_or(0);
        Self { meeting, capture: Capture::new(body_max, share), compared, sent: Instant::now(), whole: None }
    }

    /// An endpoint's head, `after` the request was sent, that is about to be passed on.
    pub fn head(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.capture.head(status, headers, names(&self.compared));
    }

    /// A head has come to the request that was written, or whose body had come whole, at `sent`.
    pub fn answered(&mut self, sent: Instant, now: Instant) {
        self.sent = sent;
        self.capture.head_after(now.saturating_duration_since(sent));
    }

    pub fn data(&mut self, data: &Bytes) {
        // Nobody compares any more where all copies have been given up.
        if Rc::strong_count(&self.meeting) > 1 {
            self.capture.data(data);
        }
    }

    pub fn trailers(&mut self, trailers: &HeaderMap) {
        self.capture.trailers(trailers, names(&self.compared));
    }

    /// The endpoint's answer has ended well, and all of it was passed on.
    pub fn ended(&mut self) {
        self.whole = Some(self.sent.elapsed());
    }

    /// Tells those who compare: `status` is what the client got, unless it has left; `otherwise` how the answer ended
    /// if it didn't end well.
    pub fn tell(mut self, status: Option<StatusCode>, otherwise: AnswerEnd, backend: usize) {
        let end = if self.whole.is_some() { AnswerEnd::Whole } else { otherwise };
        if let Some(status) = status.filter(|_| !self.capture.has_head()) {
            self.capture.replaced(status);
        }
        let after = self.whole.unwrap_or_else(|| self.sent.elapsed());
        let (answer, share) = self.capture.finish(end, after).unzip();
        self.meeting.told.replace(Some(Rc::new(Told { answer, backend, _share: share })));
        // Several copies may wait; those that come later look first.
        self.meeting.came.notify_waiters();
    }
}

/// Every header that some mirror compares, once.
fn names(compared: &[Arc<CompareConfig>]) -> impl Iterator<Item = &HeaderName> {
    let before = |index: usize, name: &HeaderName| compared[..index].iter().any(|other| other.headers.contains(name));
    let each = compared.iter().enumerate();
    each.flat_map(move |(index, compare)| compare.headers.iter().filter(move |name| !before(index, name)))
}
