//! Latencies in an open loop, by transport.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use crate::load::{Client, Http1, Load, Outcome, connect};
use crate::transport::{Connector, Secure, Transport};

/// HTTP/2 clients take turns on so many connections.
const HTTP2_CONNECTIONS: usize = 8;

pub(crate) fn run(
    transport: Transport,
    address: SocketAddr,
    host: &str,
    secure: &Secure,
    rate: u64,
    warm_up: Duration,
    time: Duration,
) -> io::Result<()> {
    let secure = secure.clone();
    let host = HeaderValue::from_str(host).map_err(io::Error::other)?;
    let load = match transport {
        Transport::Plain => Load::start(move || Http1::new(host, async move || connect(address).await), rate / 2),
        Transport::Tls => {
            let connector = secure.speaking("http/1.1");
            Load::start(move || Http1::new(host, async move || connector.connect(address).await), rate / 2)
        }
        Transport::H2 => Load::start(move || Http2::new(secure.speaking("h2"), address), rate / 2),
    };
    // Most connections are made before their number is needed.
    sleep(warm_up);
    load.rate(rate);
    sleep(warm_up);
    let begin = Instant::now();
    sleep(time);
    let mut samples = load.finish();
    samples.retain(|sample| sample.begin >= begin);
    let failed = samples.iter().filter(|sample| !sample.outcome.is_good()).count();
    let mut micros: Vec<f64> = samples.iter().map(|sample| sample.latency.as_secs_f64() * 1e6).collect();
    micros.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = (micros.len() as f64 * q).ceil() as usize;
        at.checked_sub(1).and_then(|at| micros.get(at)).copied().unwrap_or(0.0)
    };
    println!(
        "{{\"requests\": {}, \"failed\": {failed}, \"p50\": {:.1}, \"p99\": {:.1}, \"p99.9\": {:.1}, \"longest\": {:.1}}}",
        micros.len(),
        quantile(0.5),
        quantile(0.99),
        quantile(0.999),
        quantile(1.0)
    );
    Ok(())
}

/// HTTP/2 clients, which share connections.
struct Http2 {
    connector: Connector,
    address: SocketAddr,
    open: RefCell<Vec<SendRequest<Empty<Bytes>>>>,
}

impl Http2 {
    fn new(connector: Connector, address: SocketAddr) -> Self {
        Self { connector, address, open: RefCell::default() }
    }

    async fn handshake(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let stream = self.connector.connect(self.address).await.ok()?;
        let (sender, connection) = handshake(Spawner, TokioIo::new(stream)).await.ok()?;
        tokio::task::spawn_local(connection);
        Some(sender)
    }
}

impl Client for Http2 {
    async fn ask(&self) -> Outcome {
        let waiting = {
            let mut open = self.open.borrow_mut();
            let count = open.len();
            (count >= HTTP2_CONNECTIONS).then(|| {
                open.rotate_left(1);
                open[0].clone()
            })
        };
        let mut sender = match waiting {
            Some(sender) => sender,
            None => match self.handshake().await {
                Some(sender) => {
                    self.open.borrow_mut().push(sender.clone());
                    sender
                }
                None => return Outcome::Broken,
            },
        };
        let request = Request::get("https://shop.test/").body(Empty::new()).expect("the parts above are valid");
        let answered = async {
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            answer.into_body().collect().await?;
            Ok::<_, hyper::Error>(status)
        };
        match answered.await {
            Ok(status) => Outcome::Answered(status),
            Err(_) => {
                // Whichever it was, new ones replace all.
                self.open.borrow_mut().clear();
                Outcome::Broken
            }
        }
    }
}

/// Runs what hyper spawns on this thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spawner;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Spawner {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
