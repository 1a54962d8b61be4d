//! Endpoints that are asked whether they are well, by HTTP, gRPC and TCP; and the shares that follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::support::{
    Answer, Authority, Gate, Grpc, Load, Nginx, OK, POLL_INTERVAL, Proxy, Ran, Received, Refusing, ServingStatus,
    Setup, Upstream, Wire, eventually, tidegate, within,
};

const FAST: &str = "path = \"/healthz\", interval = \"50ms\", timeout = \"1s\"";

/// An endpoint that answers everybody with its name, and checks by whether it is well.
struct Patient {
    upstream: Upstream,
    well: Arc<AtomicBool>,
    checks: Arc<AtomicUsize>,
}

impl Patient {
    async fn named(name: &'static str) -> Self {
        let (well, checks) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicUsize>::default());
        let (known, counted) = (Arc::clone(&well), Arc::clone(&checks));
        let upstream = Upstream::responding(move |received: &Received| {
            let is_check = received.target().starts_with("/healthz");
            counted.fetch_add(usize::from(is_check), Ordering::SeqCst);
            let status = if is_check && !known.load(Ordering::SeqCst) { "503 No" } else { "200 OK" };
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len()).into_bytes()
        });
        Self { upstream: upstream.await, well, checks }
    }

    fn set_well(&self, well: bool) {
        self.well.store(well, Ordering::SeqCst);
    }

    /// Requests that were no checks.
    fn served(&self) -> usize {
        self.upstream.requests().iter().filter(|received| !received.target().starts_with("/healthz")).count()
    }

    fn url(&self) -> String {
        self.upstream.url()
    }
}

fn checked(name: &str, weight: f64, urls: &[String], health: &str) -> String {
    format!("[services.shop.backends.{name}]\nweight = {weight}\nendpoints = {urls:?}\nhealth = {{ {health} }}\n")
}

#[tokio::test]
async fn an_endpoint_whose_checks_fail_gets_no_requests_until_they_succeed() {
    let (one, other) = (Patient::named("one").await, Patient::named("other").await);
    let setup = Setup::new().settings("[services.shop]\nslow_start = \"0s\"");
    let proxy = setup.settings(&checked("blue", 1.0, &[one.url(), other.url()], FAST)).start().await;
    // The first check would decide alone.
    proxy.metric_reaches("tidegate_endpoint_checks_total", &one.url(), 1).await;
    one.set_well(false);
    let down = proxy.endpoint_becomes(0, 0, "check failed").await;
    assert_eq!(down["reason"], "it answered 503 Service Unavailable");
    let before = one.served();
    for _ in 0..30 {
        assert_eq!(proxy.fetch("/").await.text(), "other");
    }
    assert_eq!(one.served(), before);
    proxy.metric_becomes("tidegate_endpoint_up", "", 1).await;
    assert!(proxy.metric("tidegate_endpoint_checks_failed_total", &one.url()).await >= 3);
    one.set_well(true);
    proxy.endpoint_becomes(0, 0, "up").await;
    for _ in 0..30 {
        proxy.fetch("/").await;
    }
    assert!(one.served() > before);
    let (down, up) = (proxy.event("endpoint_down").await, proxy.event("endpoint_up").await);
    assert!(down["id"].as_u64() < up["id"].as_u64(), "{down:#} {up:#}");
    assert_eq!(down["detail"]["reason"], "its checks fail: it answered 503 Service Unavailable");
}

#[tokio::test]
async fn the_share_of_a_backend_that_fails_goes_to_the_others_at_once_and_comes_back_slowly() {
    let (blue, canary) = (Patient::named("blue").await, Patient::named("canary").await);
    let settings = checked("blue", 50.0, &[blue.url()], FAST) + &checked("canary", 50.0, &[canary.url()], FAST);
    let setup = Setup::new().workers(2).settings("[services.shop]\nstable = \"blue\"\nslow_start = \"2s\"");
    let proxy = setup.settings(&settings).start().await;
    let load = Load::on(proxy.http(), 4, 0);
    load.goes_on(100).await;
    assert!(canary.served() > 0);
    canary.set_well(false);
    proxy.endpoint_becomes(1, 0, "check failed").await;
    proxy.share_becomes(1, 0.0..=0.0).await;
    // What is under way has been sent already.
    load.comes_around().await;
    let before = canary.served();
    load.goes_on(200).await;
    assert_eq!(canary.served(), before);
    canary.set_well(true);
    proxy.endpoint_becomes(1, 0, "recovering").await;
    proxy.share_becomes(1, 0.001..=0.4).await;
    proxy.endpoint_becomes(1, 0, "up").await;
    proxy.share_becomes(1, 0.5..=0.5).await;
    load.goes_on(100).await;
    load.finish().await;
    assert!(canary.served() > before);
}

#[tokio::test]
async fn with_every_backend_failed_all_of_them_are_used() {
    let (blue, canary) = (Patient::named("blue").await, Patient::named("canary").await);
    let settings = checked("blue", 50.0, &[blue.url()], FAST) + &checked("canary", 50.0, &[canary.url()], FAST);
    let proxy = Setup::new().settings("[services.shop]\nstable = \"blue\"").settings(&settings).start().await;
    blue.set_well(false);
    canary.set_well(false);
    proxy.metric_becomes("tidegate_service_panicking", "shop", 1).await;
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(proxy.fetch("/").await.text().to_owned());
    }
    assert!(answers.contains(&"blue".to_owned()) && answers.contains(&"canary".to_owned()), "{answers:?}");
    proxy.metric_becomes("tidegate_service_panics_total", "shop", 1).await;
    assert_eq!(proxy.view("/v1/services/shop").await["panicking"], true);
    blue.set_well(true);
    proxy.metric_becomes("tidegate_service_panicking", "shop", 0).await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
}

#[tokio::test]
async fn a_large_share_falls_onto_a_small_backend_with_a_limit() {
    let (blue, canary) = (Patient::named("blue").await, Patient::named("canary").await);
    let settings = checked("blue", 95.0, &[blue.url()], FAST) + &checked("canary", 5.0, &[canary.url()], FAST);
    let proxy = Setup::new().settings(&settings).start().await;
    blue.set_well(false);
    overflow_limit_becomes(&proxy, Some(16)).await;
    assert_eq!(proxy.fetch("/").await.text(), "canary");
    blue.set_well(true);
    overflow_limit_becomes(&proxy, None).await;
}

/// Of the second backend. It comes and goes with what requests see, a moment after the endpoint's own state.
async fn overflow_limit_becomes(proxy: &Proxy, wanted: Option<u64>) {
    let becoming = async {
        while proxy.view("/v1/services/shop").await["backends"][1]["overflow_limit"].as_u64() != wanted {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    within(&format!("an overflow limit of {wanted:?}"), becoming).await;
}

#[tokio::test]
async fn what_a_small_backend_can_not_take_of_a_large_share_gets_an_honest_answer() {
    let (blue, canary) = (Patient::named("blue").await, Gate::shut().await);
    let settings = checked("blue", 95.0, &[blue.url()], FAST) + &checked("canary", 5.0, &[canary.upstream.url()], "");
    let proxy = Setup::new().workers(2).settings(&settings).start().await;
    blue.set_well(false);
    overflow_limit_becomes(&proxy, Some(16)).await;
    let (answers, ()) = tokio::join!(join_all((0..20).map(|_| proxy.fetch("/held"))), async {
        proxy.metric_becomes("tidegate_queue_timeouts_total", "canary", 4).await;
        canary.open();
    });
    let statuses: Vec<_> = answers.iter().map(Answer::status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 16, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 4, "{statuses:?}");
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_of_endpoints_and_asks_new_ones() {
    let (one, other, third) =
        (Patient::named("one").await, Patient::named("other").await, Patient::named("third").await);
    one.set_well(false);
    third.set_well(false);
    let mut proxy = Setup::new().settings(&checked("blue", 1.0, &[one.url(), other.url()], FAST)).start().await;
    proxy.endpoint_becomes(0, 0, "check failed").await;
    // The next check is an hour away: what the reload knows, it knows from before.
    let rare = "path = \"/healthz\", interval = \"1h\"";
    proxy.rewrite(&checked("blue", 1.0, &[one.url(), other.url(), third.url()], rare));
    proxy.reload_well().await;
    assert_eq!(proxy.endpoint(0, 0).await["state"], "check failed");
    proxy.endpoint_becomes(0, 2, "check failed").await;
    for _ in 0..20 {
        assert_eq!(proxy.fetch("/").await.text(), "other");
    }
    // Without checks nobody knows of a failure.
    let urls = [one.url(), other.url(), third.url()];
    proxy.rewrite(&format!("[services.shop.backends.blue]\nweight = 1\nendpoints = {urls:?}\n"));
    proxy.reload_well().await;
    for endpoint in 0..3 {
        let is_used = async {
            while proxy.endpoint(0, endpoint).await["state"] == "check failed" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within("the endpoint to be used again", is_used).await;
    }
    let asked = [&one, &other, &third].map(|patient| patient.checks.load(Ordering::SeqCst));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!([&one, &other, &third].map(|patient| patient.checks.load(Ordering::SeqCst)), asked, "checks have ended");
}

#[tokio::test]
async fn the_first_check_decides_alone_and_nobody_waits_for_it() {
    let silent = Upstream::scripted(|mut wire: Wire, _| async move {
        let head = wire.head().await;
        if head.line.contains("/healthz") {
            wire.rest().await;
        } else {
            wire.send(OK).await;
        }
    })
    .await;
    let health = "path = \"/healthz\", interval = \"1h\", timeout = \"700ms\"";
    let proxy = Setup::new().settings(&checked("blue", 1.0, &[silent.url()], health)).start().await;
    assert_eq!(proxy.fetch("/").await.status(), 200);
    let down = proxy.endpoint_becomes(0, 0, "check failed").await;
    assert_eq!(down["reason"], "no answer within 700ms");
}

#[tokio::test]
async fn a_check_asks_as_it_is_told_and_reads_the_answer() {
    let upstream = Upstream::responding(|received: &Received| {
        let body = if received.target().contains("ready") { "all is ready" } else { "starting" };
        format!("HTTP/1.1 299 Well\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    })
    .await;
    let asked = "path = \"/status?ready\", method = \"OPTIONS\", host = \"shop.internal\", headers = { x-probe = \"1\" }, \
                 status = [\"204\", \"290-299\"], body = \"all is r[a-z]+\"";
    let proxy = Setup::new().settings(&checked("blue", 1.0, &[upstream.url()], asked)).start().await;
    proxy.metric_reaches("tidegate_endpoint_checks_total", "", 1).await;
    assert_eq!(proxy.metric("tidegate_endpoint_checks_failed_total", "").await, 0);
    let head = &upstream.requests()[0].head;
    assert_eq!(head.line, "OPTIONS /status?ready HTTP/1.1");
    assert_eq!(head.values("host"), ["shop.internal"]);
    assert_eq!(head.values("x-probe"), ["1"]);
    assert_eq!(head.values("connection"), ["close"]);
    let wrong = "body = \"all is ready\"";
    let proxy =
        Setup::new().settings(&checked("blue", 1.0, &[upstream.url()], &format!("{wrong}, status = [\"299\"]")));
    let proxy = proxy.start().await;
    let down = proxy.endpoint_becomes(0, 0, "check failed").await;
    assert_eq!(down["reason"], "its answer doesn't contain what it has to: \"starting\"");
}

#[tokio::test]
async fn nginx_is_well_while_it_says_so() {
    let server = "listen {address}; location /healthz { return 204; } location / { return 200 \"ok\\n\"; }";
    let nginx = Nginx::start(server, &[]).await;
    let url = format!("http://{}", nginx.address);
    let proxy = Setup::new().settings(&checked("blue", 1.0, &[url], FAST)).start().await;
    proxy.metric_reaches("tidegate_endpoint_checks_total", "", 3).await;
    assert_eq!(proxy.metric("tidegate_endpoint_checks_failed_total", "").await, 0);
    assert_eq!(proxy.endpoint(0, 0).await["state"], "up");
    drop(nginx);
    let down = proxy.endpoint_becomes(0, 0, "check failed").await;
    assert!(down["reason"].as_str().is_some_and(|reason| reason.contains("refused")), "{down}");
}

#[tokio::test]
async fn a_grpc_server_says_for_itself_which_services_it_serves() {
    let server = Grpc::start().await;
    let urls = [format!("http://{}", server.address)];
    let health = "kind = \"grpc\", service = \"shop\", interval = \"50ms\"";
    let setup = Setup::new().settings(&checked("blue", 1.0, &urls, health)).settings("protocol = \"h2\"");
    let proxy = setup.start().await;
    proxy.metric_reaches("tidegate_endpoint_checks_total", "", 1).await;
    assert_eq!(proxy.endpoint(0, 0).await["state"], "up");
    server.reporter.set_service_status("shop", ServingStatus::NotServing).await;
    assert_eq!(proxy.endpoint_becomes(0, 0, "check failed").await["reason"], "it is not serving");
    server.reporter.set_service_status("shop", ServingStatus::Serving).await;
    proxy.endpoint_becomes(0, 0, "recovering").await;
    let unknown = "kind = \"grpc\", service = \"nobody\"";
    let setup = Setup::new().settings(&checked("blue", 1.0, &urls, unknown)).settings("protocol = \"h2\"");
    let down = setup.start().await.endpoint_becomes(0, 0, "check failed").await;
    assert_eq!(down["reason"], "it knows no service \"nobody\"");
}

#[tokio::test]
async fn a_tcp_check_connects_and_needs_no_words() {
    let (upstream, refusing) = (Upstream::answering(OK).await, Refusing::new());
    let urls = [upstream.url(), refusing.url()];
    let proxy = Setup::new().settings(&checked("blue", 1.0, &urls, "kind = \"tcp\"")).start().await;
    let down = proxy.endpoint_becomes(0, 1, "check failed").await;
    assert!(down["reason"].as_str().is_some_and(|reason| reason.contains("refused")), "{down}");
    eventually("the other is asked, too", || upstream.connections() > 0).await;
    assert_eq!(proxy.endpoint(0, 0).await["state"], "up");
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn checks_come_with_the_backends_own_proxy_header_and_tls() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await;
    let health = "path = \"/healthz\", timeout = \"100ms\", interval = \"1h\"";
    let setup = Setup::new().settings(&checked("blue", 1.0, &[upstream.url()], health));
    let _proxy = setup.settings("proxy_protocol = \"v1\"").start().await;
    eventually("it is asked", || upstream.bytes(0).ends_with(b"\r\n\r\n")).await;
    let said = String::from_utf8(upstream.bytes(0)).unwrap();
    assert!(said.starts_with("PROXY UNKNOWN\r\nGET /healthz HTTP/1.1\r\n"), "{said}");
    // Nobody vouches for this one's certificate.
    let authority = Authority::new();
    let secure = Upstream::responding_over(Some(authority.pair(&["localhost"]).acceptor(&[])), |_| OK.into()).await;
    let proxy = Setup::new().settings(&checked("blue", 1.0, &[secure.url()], "interval = \"1h\"")).start().await;
    let down = proxy.endpoint_becomes(0, 0, "check failed").await;
    assert!(down["reason"].as_str().is_some_and(|reason| reason.starts_with("TLS handshake failed")), "{down}");
}

#[tokio::test]
async fn status_says_who_is_down_and_why() {
    let (one, other) = (Patient::named("one").await, Refusing::new());
    let proxy = Setup::new().settings(&checked("blue", 1.0, &[one.url(), other.url()], FAST)).start().await;
    proxy.endpoint_becomes(0, 1, "check failed").await;
    let ran = Ran::of(tidegate(&["status"]).env("TIDEGATE_ADMIN", proxy.admin().to_string())).await;
    let line = ran.out.lines().find(|line| line.contains("check failed")).unwrap_or_default();
    assert!(line.contains(&other.url()) && line.contains("refused"), "{}", ran.out);
    assert!(line.chars().count() < 180, "{line}");
}

#[tokio::test]
async fn checks_that_hang_hold_up_nobody_elses() {
    let hanging = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await;
    let well = Patient::named("well").await;
    let health = "path = \"/healthz\", interval = \"20ms\", timeout = \"10s\"";
    let _proxy = Setup::new().settings(&checked("blue", 1.0, &[hanging.url(), well.url()], health)).start().await;
    let start = Instant::now();
    eventually("the other is asked again and again", || well.checks.load(Ordering::SeqCst) > 10).await;
    assert!(start.elapsed() < Duration::from_secs(9));
}
