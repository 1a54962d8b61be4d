//! HTTP/2 clients that take nothing: the one stream that isn't taken is reset, its neighbours live on; a connection
//! that isn't read at all is closed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;

use crate::executor::LocalExecutor;
use crate::proxy::{Client, Turn};
use crate::timers::Timer;

/// Spawns hyper's tasks for a client's streams, and ends those whose answers stand still.
#[derive(Debug, Clone)]
pub(super) struct StreamExecutor {
    pub(super) client: Rc<Client>,
    pub(super) limit: Duration,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for StreamExecutor {
    fn execute(&self, future: F) {
        let client = Rc::clone(&self.client);
        let watched = Watched { stream: Some(future), client, limit: self.limit, timer: None, blocked: false };
        LocalExecutor.execute(watched);
    }
}

pin_project! {
    /// One stream. hyper asks an answer's body for more only once the last of it fits into the stream's window, so a
    /// body that had something and wasn't asked since waits for its client.
    struct Watched<F> {
        #[pin]
        stream: Option<F>,
        client: Rc<Client>,
        limit: Duration,
        timer: Option<Timer>,
        blocked: bool,
    }
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(stream) = this.stream.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        let activity = &this.client.activity;
        // Another stream's.
        let _ = activity.take_turn();
        if stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match activity.take_turn() {
            Some(Turn::Client(deadline)) => {
                *this.blocked = true;
                let timer = this.timer.get_or_insert_with(|| this.client.worker.timers.timer());
                timer.set_until(*this.limit, deadline);
            }
            Some(Turn::Endpoint) => *this.blocked = false,
            None => {}
        }
        let Some(timer) = this.timer.as_ref().filter(|_| *this.blocked) else { return Poll::Pending };
        ready!(timer.poll(cx));
        activity.set_stalled(true);
        this.stream.set(None);
        activity.set_stalled(false);
        Poll::Ready(())
    }
}

/// Watches whether a whole connection takes what there is for it.
pub(super) struct WriteWatch {
    limit: Duration,
    timer: Option<Timer>,
    blocked: bool,
}

impl WriteWatch {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: None, blocked: false }
    }

    /// Ready once the client has taken nothing for too long.
    pub(super) fn poll(&mut self, client: &Client, cx: &mut Context<'_>) -> Poll<()> {
        let wrote = client.activity.take_wrote();
        let was_blocked = std::mem::replace(&mut self.blocked, client.activity.is_write_blocked());
        if !self.blocked {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| client.worker.timers.timer());
        if wrote || !was_blocked {
            timer.set(self.limit);
        }
        timer.poll(cx)
    }
}
