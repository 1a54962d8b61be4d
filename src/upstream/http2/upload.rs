//! A request's body on its way into its stream.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use crate::upstream::{BodyError, RequestBody};

/// Ready once all of the body was handed over, or the stream takes no more of it; whoever reads the answer learns why.
#[derive(Debug)]
pub(super) struct Upload {
    body: RequestBody,
    stream: SendStream<Bytes>,
    /// Something was sent. What comes first goes without asking for room: it is one piece, and mostly all there is.
    has_begun: bool,
    /// Waits for room in the stream's window, with whether it is the last.
    waiting: Option<(Bytes, bool)>,
}

impl Upload {
    pub(super) fn new(body: RequestBody, stream: SendStream<Bytes>) -> Self {
        Self { body, stream, has_begun: false, waiting: None }
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            if let Some((data, is_last)) = self.waiting.take() {
                // Room is asked for only with something in hand: reserved and unused, it would be taken from others.
                while self.stream.capacity() == 0 {
                    match self.stream.poll_capacity(cx) {
                        Poll::Ready(Some(Ok(_))) => {}
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                        Poll::Ready(None) => return Poll::Ready(Ok(())),
                        Poll::Pending => {
                            self.waiting = Some((data, is_last));
                            return Poll::Pending;
                        }
                    }
                }
                self.stream.send_data(data, is_last)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(cx)) else {
                return Poll::Ready(self.stream.send_data(Bytes::new(), true));
            };
            match frame.map(http_body::Frame::into_data) {
                Ok(Ok(data)) => {
                    let is_last = self.body.is_end_stream();
                    if self.has_begun && !data.is_empty() {
                        self.stream.reserve_capacity(1);
                        self.waiting = Some((data, is_last));
                        continue;
                    }
                    self.has_begun = true;
                    self.stream.send_data(data, is_last)?;
                    if is_last {
                        return Poll::Ready(Ok(()));
                    }
                }
                Ok(Err(frame)) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.reserve_capacity(0);
                        return Poll::Ready(self.stream.send_trailers(trailers));
                    }
                }
                Err(error) => {
                    self.stream.send_reset(reason(&error));
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl Future for Upload {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.poll_all(cx).is_ready() {
            return Poll::Ready(());
        }
        // An endpoint that wants no more of it may say so while there is nothing to send.
        this.stream.poll_reset(cx).map(drop)
    }
}

/// What the endpoint is told of a body that broke off: what the client said, if it said something.
fn reason(error: &BodyError) -> Reason {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(reason) = cause.downcast_ref::<h2::Error>().and_then(h2::Error::reason) {
            return reason;
        }
        source = cause.source();
    }
    Reason::INTERNAL_ERROR
}
