//! One HTTP/2 connection. It can't be parked: its compression tables and windows are its state. One that has
//! carried nothing for the keep-alive time is told to go away.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite};

use super::io::Io;
use super::stalls::{StreamExecutor, WriteWatch};
use super::{refusal, resets};
use crate::observe::ConnectionError;
use crate::passage::Plain;
use crate::proxy::{Client, serve};
use crate::worker::Signal;

/// A response's bytes that wait in one stream for its client.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// h2 answers 431 to larger heads by itself, and nobody learns of it. So it is given twice the limit: nearly all heads
/// over it are answered, counted and logged as requests, and memory stays bounded for the others.
const HEADER_BYTES_FACTOR: u32 = 2;
/// Requests taken back before we have seen them, at once; and heads that are no requests, or requests reset for another
/// fault of the client's, ever. One more of either, and h2 ends the connection. Most of the latter are requests taken
/// back, too, of which `resets` takes fewer; not those that are seen by nobody, or no longer new.
const UNSEEN_RESETS_MAX: usize = 20;
const FAULTS_MAX: usize = 1024;
/// A silent client is asked for a sign of life this often, and given this long.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a client told to go away may take to close an idle connection.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves a connection to its end. `first` is what was read from it already.
pub(super) async fn run<T>(stream: T, first: Bytes, client: Rc<Client>)
where
    T: AsyncRead + AsyncWrite + Plain + Unpin + 'static,
{
    let service = service_fn({
        let client = Rc::clone(&client);
        // hyper and the runtime move a stream's future seven times; an HTTP/1 connection's they hold in place.
        move |request| Box::pin(serve(Rc::clone(&client), request))
    });
    let view = client.worker.view();
    let (limits, timeouts) = (view.snapshot.limits, view.snapshot.timeouts);
    drop(view);
    let io = Io::new(stream, first, Rc::clone(&client));
    let executor = StreamExecutor { client: Rc::clone(&client), limit: timeouts.body_idle };
    let mut connection = Box::pin(
        http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .auto_date_header(false)
            .enable_connect_protocol()
            .max_concurrent_streams(limits.streams)
            .initial_stream_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_header_list_size(limits.header_bytes.saturating_mul(HEADER_BYTES_FACTOR))
            .max_pending_accept_reset_streams(UNSEEN_RESETS_MAX)
            .max_local_error_reset_streams(FAULTS_MAX)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .serve_connection(io, service),
    );
    let timer = client.worker.timers.timer();
    timer.set(timeouts.keep_alive);
    let mut writing = WriteWatch::new(timeouts.body_idle);
    let mut going = false;
    let ended = poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended);
            }
            if writing.poll(&client, cx).is_ready() {
                client.activity.set_stalled(true);
                return Poll::Ready(Ok(()));
            }
            if resets::too_many(&client.activity) {
                refusal::record(&client, "HTTP/2", ConnectionError::Resets, None);
                return Poll::Ready(Ok(()));
            }
            let idle = client.activity.requests() == 0;
            if !idle {
                timer.clear();
            } else if client.activity.take_progress() {
                timer.set(if going { GOODBYE } else { timeouts.keep_alive });
            }
            let signal = client.lifeline.heard(cx);
            if signal == Signal::Close || (going && timer.poll(cx).is_ready()) {
                return Poll::Ready(Ok(()));
            }
            let spent = client.activity.begun() >= limits.requests_per_connection;
            if going || (signal == Signal::Serve && !spent && timer.poll(cx).is_pending()) {
                return Poll::Pending;
            }
            going = true;
            connection.as_mut().graceful_shutdown();
            if idle {
                timer.set(GOODBYE);
            }
        }
    })
    .await;
    if let Err(error) = ended {
        tracing::debug!(%error, client = %client.address, "connection ended");
        if let Some(cause) = refusal::http2(&error) {
            refusal::record(&client, "HTTP/2", cause, None);
        }
    }
}
