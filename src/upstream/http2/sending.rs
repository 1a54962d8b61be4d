//! Opening a stream for a request, sending it, and waiting for the head of its answer.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;

use super::upload::Upload;
use super::{Http2Body, Http2Connection};
use crate::upstream::RequestBody;
use crate::upstream::send::{AnswerBody, SendError};

/// See the module's text.
#[derive(Debug)]
pub(in crate::upstream) struct Http2Sending(State);

#[derive(Debug)]
enum State {
    /// Nothing was sent.
    Failed(Option<Box<SendError>>),
    Sent {
        connection: Rc<super::State>,
        answer: ResponseFuture,
        sent: Sent,
    },
}

/// What is sent after the head.
#[derive(Debug)]
enum Sent {
    /// Nothing, or no more.
    All,
    Body(Box<Upload>),
    /// What its two ends will agree on.
    Tunnel(SendStream<Bytes>),
}

impl Http2Connection {
    /// Sends a request that has the form of HTTP/2.
    pub(in crate::upstream) fn send(&self, request: Request<RequestBody>) -> Http2Sending {
        Http2Sending(self.open_stream(request).unwrap_or_else(|error| State::Failed(Some(error))))
    }

    fn open_stream(&self, request: Request<RequestBody>) -> Result<State, Box<SendError>> {
        let mut sender = self.sender.borrow_mut();
        let mut beside = None;
        // A sender takes no request while the one before waits for the endpoint's leave to begin; a second one does.
        let sender = match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => &mut *sender,
            Poll::Pending => beside.insert(sender.clone()),
            Poll::Ready(Err(error)) => {
                self.state.closed.set(true);
                return Err(Box::new(SendError::http2(error, self.state.timed_out.get(), Some(request))));
            }
        };
        let (head, body) = request.into_parts();
        let mut head = Request::from_parts(head, ());
        let is_tunnel = head.method() == Method::CONNECT && head.extensions().get::<Protocol>().is_some();
        let is_last = !is_tunnel && body.is_end_stream();
        if !is_tunnel {
            tell_length(&mut head, &body);
        }
        let (answer, stream) =
            sender.send_request(head, is_last).map_err(|error| Box::new(SendError::http2(error, false, None)))?;
        let sent = match (is_tunnel, is_last) {
            (true, _) => Sent::Tunnel(stream),
            (false, true) => Sent::All,
            (false, false) => Sent::Body(Box::new(Upload::new(body, stream))),
        };
        Ok(State::Sent { connection: Rc::clone(&self.state), answer, sent })
    }
}

/// An endpoint may want to know that there is no body where there could be one.
fn tell_length(head: &mut Request<()>, body: &RequestBody) {
    let Some(length) = body.size_hint().exact() else { return };
    let could_be = matches!(*head.method(), Method::POST | Method::PUT | Method::PATCH);
    if (length > 0 || could_be) && !head.headers().contains_key(CONTENT_LENGTH) {
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

impl Future for Http2Sending {
    type Output = Result<Response<AnswerBody>, Box<SendError>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (connection, answer, sent) = match &mut self.get_mut().0 {
            State::Failed(error) => return error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error))),
            State::Sent { connection, answer, sent } => (connection, answer, sent),
        };
        if let Sent::Body(upload) = sent
            && Pin::new(&mut **upload).poll(cx).is_ready()
        {
            *sent = Sent::All;
        }
        let response = match ready!(Pin::new(answer).poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(Box::new(SendError::http2(error, connection.timed_out.get(), None)))),
        };
        let sent = std::mem::replace(sent, Sent::All);
        let (head, answer) = response.into_parts();
        let mut body = Http2Body::new(&head, answer);
        match sent {
            Sent::All => {}
            // In a task of its own: neither may wait for the other.
            Sent::Body(upload) => body.goes_on(tokio::task::spawn_local(upload)),
            Sent::Tunnel(stream) => body.may_tunnel(stream),
        }
        Poll::Ready(Ok(Response::from_parts(head, AnswerBody::Http2(body))))
    }
}
