//! An endpoint's body, compressed on its way.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

use super::DIGESTS;
use super::encoder::Encoder;
use crate::upstream::{AnswerBody, BodyError, Lease};
use crate::worker::Worker;

/// Compressed in one go; then others have their turn.
const PIECE_BYTES: usize = 64 * 1024;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Compressed {
    incoming: AnswerBody,
    pub(in crate::proxy) lease: Lease,
    /// `None` once the last byte has come out of it.
    encoder: Option<Encoder>,
    /// Received, and not compressed yet.
    unread: Bytes,
    /// Something has gone into the encoder and may not have come out.
    held_back: bool,
    lingered: bool,
    trailers: Option<HeaderMap>,
    _place: Place,
}

/// One of the places that a worker has for answers under compression.
#[derive(Debug)]
pub(super) struct Place(Rc<Worker>);

impl Place {
    /// `None` when all are taken.
    pub(super) fn take(worker: &Rc<Worker>, places: u32) -> Option<Self> {
        let taken = &worker.cell().compressions;
        if taken.value() >= u64::from(places) {
            return None;
        }
        taken.increase();
        Some(Self(Rc::clone(worker)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.cell().compressions.decrease();
    }
}

impl Compressed {
    pub(super) fn new(incoming: AnswerBody, lease: Lease, encoder: Encoder, place: Place) -> Self {
        Self {
            incoming,
            lease,
            encoder: Some(encoder),
            unread: Bytes::new(),
            held_back: false,
            lingered: false,
            trailers: None,
            _place: place,
        }
    }

    /// The endpoint's body ended well, and all of it has been handed on.
    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }

    /// What comes from the endpoint is shown to `captured` before it is compressed.
    pub(in crate::proxy) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        mut captured: impl FnMut(&Bytes),
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some(encoder) = &mut self.encoder else {
                return Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))));
            };
            if !self.unread.is_empty() {
                let piece = self.unread.split_to(self.unread.len().min(PIECE_BYTES));
                encoder.write(&piece).map_err(BodyError::Encoder)?;
                self.held_back = true;
                let output = encoder.output();
                if !output.is_empty() {
                    return data(output);
                }
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        captured(&data);
                        self.unread = data;
                        self.lingered = false;
                        continue;
                    }
                    Err(frame) => {
                        self.trailers = frame.into_trailers().ok();
                        if let Some(trailers) = &mut self.trailers {
                            for sum in &DIGESTS {
                                trailers.remove(sum);
                            }
                        }
                    }
                },
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => {}
                Poll::Pending if !self.held_back => return Poll::Pending,
                // There may be more in a moment: an HTTP/2 connection is a task of its own, an HTTP/1 one gives others
                // their turn now and then. It gets one, since to flush each time would cost much of the compression.
                Poll::Pending if !self.lingered => {
                    self.lingered = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending => {
                    encoder.flush().map_err(BodyError::Encoder)?;
                    (self.held_back, self.lingered) = (false, false);
                    let output = encoder.output();
                    return if output.is_empty() { Poll::Pending } else { data(output) };
                }
            }
            if let Some(encoder) = self.encoder.take() {
                let output = encoder.finish().map_err(BodyError::Encoder)?;
                if !output.is_empty() {
                    return data(output);
                }
            }
        }
    }
}

fn data(output: Bytes) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    Poll::Ready(Some(Ok(Frame::data(output))))
}
