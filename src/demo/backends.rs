//! The backends of the demo: HTTP servers inside this process that say who they are, after the few milliseconds
//! that a real one would take.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::fault::Fault;
use super::line::Style;
use super::side_thread::{SideThread, Stopped};

/// The service that all of them are backends of.
pub(super) const SERVICE: &str = "shop";
/// What the others are compared with.
pub(super) const STABLE: &str = "blue";
/// The one that is released first, after its answers were compared with stable's.
pub(super) const GREEN: &str = "green";

/// One backend as it is made up for the demo.
#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) name: &'static str,
    pub(super) revision: &'static str,
    /// Its weight at the start.
    pub(super) weight: u32,
    pub(super) style: Style,
    /// Background of its page.
    colour: &'static str,
    /// Half of its answers take less than this.
    median_ms: f64,
}

/// What the items of a cart cost, and what green makes of that.
const TOTAL: f64 = 19.99;
const MISTAKEN_TOTAL: f64 = 19.98;

/// What is in the backends at the start, in the order of the table.
pub(super) const DEPLOYMENTS: [Deployment; 2] = [
    Deployment { name: STABLE, revision: "v1.4.2", weight: 100, style: Style::Blue, colour: "#1d4ed8", median_ms: 4.0 },
    Deployment { name: GREEN, revision: "v1.5.0", weight: 0, style: Style::Green, colour: "#15803d", median_ms: 3.0 },
];

/// What goes into blue once that is idle: broken at first.
pub(super) const NEXT: Deployment =
    Deployment { name: STABLE, revision: "v1.6.0", weight: 0, style: Style::Blue, colour: "#a16207", median_ms: 5.0 };
/// What it is called while it is broken.
pub(super) const NEXT_BROKEN: &str = "v1.6.0-rc.1";

/// All backends, answering.
#[derive(Debug)]
pub(super) struct Backends {
    /// In the order of [`DEPLOYMENTS`]; then [`NEXT`]'s.
    pub(super) addresses: Vec<SocketAddr>,
    /// The next one's: it answers 500.
    pub(super) fault: Fault,
    /// Green's: it adds up wrongly.
    pub(super) mistake: Fault,
    thread: SideThread,
}

impl Backends {
    pub(super) fn start() -> io::Result<Self> {
        let listeners = all().map(|_| listen()).collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
        let (fault, mistake) = (Fault::default(), Fault::default());
        let (nexts, greens) = (fault.clone(), mistake.clone());
        let thread = SideThread::start("demo-backends", |stopped| serve_all(listeners, nexts, greens, stopped))?;
        Ok(Self { addresses, fault, mistake, thread })
    }

    pub(super) async fn stop(self) {
        self.thread.stop().await;
    }
}

/// Everything that answers.
fn all() -> impl Iterator<Item = &'static Deployment> {
    DEPLOYMENTS.iter().chain(std::iter::once(&NEXT))
}

fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve_all(listeners: Vec<TcpListener>, nexts: Fault, greens: Fault, mut stopped: Stopped) {
    for (listener, deployment) in listeners.into_iter().zip(all()) {
        let fault = match deployment.name {
            _ if deployment.revision == NEXT.revision => nexts.clone(),
            GREEN => greens.clone(),
            _ => Fault::default(),
        };
        tokio::spawn(accept(listener, deployment, fault));
    }
    // An error says that nobody is left to tell.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Accepts until the runtime ends. Only the proxy connects, so its own limits bound the connections.
async fn accept(listener: TcpListener, deployment: &'static Deployment, fault: Fault) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, backend = deployment.name, "the backend can't listen"),
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let fault = fault.clone();
                let service = service_fn(move |request| answer(request, deployment, fault.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Err(error) => {
                tracing::warn!(%error, backend = deployment.name, "the backend can't accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    deployment: &'static Deployment,
    fault: Fault,
) -> Result<Response<Full<Bytes>>, Infallible> {
    tokio::time::sleep(deployment.think_time(rand::random())).await;
    let strikes = fault.strikes();
    if strikes && deployment.revision == NEXT.revision {
        let mut response = Response::new(Full::from(format!("{SERVICE}: {} is broken\n", deployment.name)));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return Ok(response);
    }
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (content_type, text) = deployment.page(accept, strikes);
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    // So that a browser's reload asks again.
    response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    Ok(response)
}

impl Deployment {
    /// How long one answer takes, `draw` being uniform in [0, 1): never under two thirds of the median, and with the
    /// long tail that services have (one in a hundred takes about three times the median).
    fn think_time(&self, draw: f64) -> Duration {
        let tail = -(1.0 - draw).ln() / std::f64::consts::LN_2;
        Duration::from_secs_f64(self.median_ms / 1000.0 * (2.0 + tail) / 3.0)
    }

    /// What it says, in the format that the client prefers: its media type and text.
    fn page(&self, accept: &str, is_mistaken: bool) -> (&'static str, String) {
        let Self { name, revision, colour, .. } = self;
        if accept.contains("text/html") {
            let html = format!(
                "<!doctype html>\n<html lang=\"en\"><title>{SERVICE}: {name}</title>\n\
                 <body style=\"background:{colour};color:#fff;font:1.5rem/1.5 system-ui;text-align:center;padding-top:25vh\">\n\
                 <h1>{name}</h1>\n<p>revision {revision} of {SERVICE}</p>\n\
                 <p>Reload: each request is split anew.</p>\n"
            );
            ("text/html; charset=utf-8", html)
        } else if accept.contains("application/json") {
            ("application/json", format!("{}\n", self.cart(is_mistaken)))
        } else {
            ("text/plain; charset=utf-8", format!("{SERVICE}: {name}, revision {revision}\n"))
        }
    }

    /// As shops answer: with a time and a number that are never the same again, and a sum that is, if it is right.
    fn cart(&self, is_mistaken: bool) -> serde_json::Value {
        let at = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        serde_json::json!({
            "service": SERVICE,
            "backend": self.name,
            "revision": self.revision,
            "at": at,
            "order": rand::random::<u32>(),
            "items": [{ "sku": "mug", "price": 12.5 }, { "sku": "tea", "price": 7.49 }],
            "total": if is_mistaken { MISTAKEN_TOTAL } else { TOTAL },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_takes_a_few_milliseconds_and_now_and_then_a_few_more() {
        let blue = &DEPLOYMENTS[0];
        assert!((blue.think_time(0.5).as_secs_f64() - 0.004).abs() < 1e-6);
        assert!(blue.think_time(0.0) > Duration::from_micros(2_600));
        assert!(blue.think_time(0.99) < Duration::from_millis(13));
        assert!(blue.think_time(0.99) > Duration::from_millis(10));
    }

    #[test]
    fn browsers_get_a_page_programs_json_and_everybody_else_text() {
        let next = &NEXT;
        assert!(next.page("text/html,application/xhtml+xml,*/*;q=0.8", false).1.contains("<h1>blue</h1>"));
        let json = |is_mistaken| {
            let (content_type, text) = next.page("application/json", is_mistaken);
            assert_eq!(content_type, "application/json");
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        };
        assert_eq!((&json(false)["backend"], &json(false)["total"]), (&"blue".into(), &19.99.into()));
        assert_eq!(json(true)["total"], 19.98);
        assert_ne!(json(false)["order"], json(false)["order"]);
        assert_eq!(next.page("*/*", false).1, "shop: blue, revision v1.6.0\n");
    }
}
