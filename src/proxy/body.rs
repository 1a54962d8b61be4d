//! A response's body on its way to the client; with it travel the endpoint's connection, which goes back to its
//! pool at the end, and the exchange, which is recorded then.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::client::Turn;
use super::compress::Compressed;
use super::exchange::Exchange;
use super::reply::Reason;
use super::trailers;
use crate::timers::Timer;
use crate::upstream::{AnswerBody, BodyError, BodyFault, Lease};

/// See the module's text.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    /// Absent from the empty body that begins a tunnel, which keeps the exchange.
    exchange: Option<Exchange>,
    /// There once the endpoint has been waited for.
    timer: Option<Timer>,
    waiting: bool,
}

/// Where a response's bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    Whole(Bytes),
    Endpoint {
        incoming: AnswerBody,
        lease: Lease,
    },
    /// Boxed: large, and rare.
    Compressed(Box<Compressed>),
    /// Ended; or there was nothing.
    Ended,
}

impl ResponseBody {
    pub(crate) fn new(source: Source, mut exchange: Option<Exchange>) -> Self {
        if let (Source::Endpoint { incoming, .. }, Some(exchange)) = (&source, &mut exchange)
            && incoming.is_passable()
            && exchange.captured().is_none()
            && let Some(inlet) = exchange.client().open_passage()
        {
            incoming.pass_through(inlet);
        }
        let body = Self { source, exchange, timer: None, waiting: false };
        // hyper doesn't ask for a byte before the client has a window for it.
        if !matches!(body.source, Source::Ended) {
            body.waits_for_client();
        }
        body
    }

    /// What there is is handed on, or would be. An answer of our own has no deadline: it may be about that.
    fn waits_for_client(&self) {
        let Some(exchange) = &self.exchange else { return };
        let deadline = exchange.deadline().filter(|_| !matches!(self.source, Source::Whole(_) | Source::Ended));
        exchange.client().activity.turn(Turn::Client(deadline));
    }

    fn sent(&mut self, data: &Bytes) {
        let Some(exchange) = &mut self.exchange else { return };
        exchange.sent(data.len());
        // What is compressed is captured before.
        if matches!(self.source, Source::Endpoint { .. })
            && let Some(primary) = exchange.captured()
        {
            primary.data(data);
        }
    }

    fn failed(&mut self, reason: Reason) {
        if let Some(exchange) = &mut self.exchange {
            exchange.failed(reason);
            exchange.broken_off();
        }
    }

    /// Dropped before its end: the client left, or we close its connection.
    fn broken_off(&mut self) {
        if let Some(exchange) = &mut self.exchange {
            let client = exchange.client();
            let reason = if client.activity.has_stalled() {
                if exchange.is_late() { Reason::RequestTimeout } else { Reason::ClientStalled }
            } else if client.lifeline.is_closed() {
                Reason::Shutdown
            } else {
                Reason::ClientLeft
            };
            exchange.failed(reason);
        }
    }

    /// The endpoint has nothing for us. Ready once it, or the whole request, has taken too long.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<BodyFault> {
        if matches!(&self.source, Source::Endpoint { incoming, .. } if incoming.waits_for_client()) {
            self.waiting = false;
            self.waits_for_client();
            return Poll::Pending;
        }
        let Some(exchange) = &self.exchange else { return Poll::Pending };
        exchange.client().activity.turn(Turn::Endpoint);
        let timer = self.timer.get_or_insert_with(|| exchange.client().worker.timers.timer());
        if !std::mem::replace(&mut self.waiting, true) {
            timer.set_until(exchange.silence(), exchange.deadline());
        }
        ready!(timer.poll(cx));
        Poll::Ready(if exchange.is_late() { BodyFault::Late } else { BodyFault::Stalled })
    }

    /// Breaks off: the client sees that something is missing, and the endpoint's connection isn't used again.
    fn cut(&mut self, fault: BodyFault) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.failed(match fault {
            BodyFault::Late => Reason::RequestTimeout,
            _ => Reason::ResponseStalled,
        });
        self.source = Source::Ended;
        Poll::Ready(Some(Err(BodyError::Fault(fault))))
    }

    /// The endpoint broke off, be it because the client's own body has failed.
    fn endpoint_broke(&mut self) {
        let fault = self.exchange.as_ref().and_then(Exchange::request_progress).and_then(|progress| progress.fault());
        self.failed(fault.map_or(Reason::ResponseBroken, Reason::of));
        self.source = Source::Ended;
    }

    /// The endpoint's answer has been passed on whole. Its connection can carry another request if it has taken
    /// all of this one: an endpoint that answers early may still be reading.
    fn endpoint_ended(&mut self) {
        let mut lease = match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Endpoint { lease, .. } => lease,
            Source::Compressed(compressed) => compressed.lease,
            Source::Whole(_) | Source::Ended => return,
        };
        if let Some(primary) = self.exchange.as_mut().and_then(Exchange::captured) {
            primary.ended();
        }
        if self.exchange.as_ref().is_some_and(Exchange::request_read) {
            lease.give_back();
        } else {
            lease.finish_request();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = match &mut this.source {
            Source::Endpoint { incoming, .. } => Pin::new(incoming).poll_frame(cx),
            Source::Compressed(compressed) => {
                let mut primary = this.exchange.as_mut().and_then(Exchange::captured);
                compressed.poll_frame(cx, |data| {
                    if let Some(primary) = &mut primary {
                        primary.data(data);
                    }
                })
            }
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.source = Source::Ended;
                this.sent(&bytes);
                // It may wait for the client's window as an endpoint's answer may.
                this.waits_for_client();
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Source::Ended => return Poll::Ready(None),
        };
        let Poll::Ready(mut frame) = polled else {
            let fault = ready!(this.wait(cx));
            return this.cut(fault);
        };
        this.waiting = false;
        this.waits_for_client();
        if this.exchange.as_ref().is_some_and(Exchange::is_late) {
            return this.cut(BodyFault::Late);
        }
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.sent(data);
                } else if let Some(trailers) = frame.trailers_mut() {
                    if let Some(exchange) = &mut this.exchange {
                        exchange.trailers(trailers);
                        if let Some(primary) = exchange.captured() {
                            primary.trailers(trailers);
                        }
                    }
                    trailers::clean_response(trailers);
                    if trailers.is_empty() {
                        this.endpoint_ended();
                        return Poll::Ready(None);
                    }
                }
            }
            Some(Err(_)) => this.endpoint_broke(),
            None => this.endpoint_ended(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Endpoint { incoming, .. } => incoming.is_end_stream(),
            Source::Compressed(compressed) => compressed.is_end_stream(),
            Source::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Endpoint { incoming, .. } => incoming.size_hint(),
            Source::Compressed(_) => SizeHint::default(),
            Source::Ended => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if matches!(self.source, Source::Whole(_) | Source::Ended) {
            return;
        }
        // hyper drops a body of known length after its last byte, without asking for the end.
        if self.is_end_stream() {
            self.endpoint_ended();
        } else {
            self.broken_off();
        }
    }
}
