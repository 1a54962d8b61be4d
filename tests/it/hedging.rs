//! Stable asked, too, while a suspect candidate is waited for. What the judge would have found out is set by hand, so
//! the proxy runs inside the test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidegate::app::App;
use tidegate::observe::{BackendTotals, CodeClass};
use tidegate::state::Service;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::support::{Answer, Upstream, Wire, eventually, get, named, within};

/// A proxy whose chance sends next to everything to the canary, while `blue` is stable.
struct Inside {
    app: App,
    saying: Option<AbortHandle>,
    _folder: TempDir,
}

impl Inside {
    async fn start(service: &str, blue: &Upstream, canary: &Upstream) -> Self {
        let folder = TempDir::new().expect("there is room for temporary files");
        let file = format!(
            "state_dir = \"{}\"\nworkers = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
             [services.shop]\nguard = \"off\"\nstable = \"blue\"\n{service}\n\
             [services.shop.backends.blue]\nweight = 0.000001\nendpoints = [{:?}]\n\
             [services.shop.backends.canary]\nweight = 1000000\nendpoints = [{:?}]\n",
            folder.path().display(),
            blue.url(),
            canary.url()
        );
        let loaded = tidegate::config::parse(&file, Path::new("proxy.toml"), &|_| None, None);
        let config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
        let app = App::start(config, None).await.expect("the proxy starts");
        let proxy = Self { app, saying: None, _folder: folder };
        // The judge, which is off, withdraws what isn't its own: first now, then each second.
        proxy.service().watch.set_slow_after(Some(SLOW));
        eventually("the judge has looked", || proxy.service().watch.slow_after().is_none()).await;
        proxy
    }

    fn service(&self) -> Arc<Service> {
        Arc::clone(&self.app.store().current().services[0])
    }

    /// What the judge says when answers are slow after `slow_after`, and those of the canary won't come.
    fn suspect(mut self, slow_after: Duration) -> Self {
        self.say(slow_after, true);
        self
    }

    /// Says so again and again, since it is withdrawn.
    fn say(&mut self, slow_after: Duration, suspect: bool) {
        let service = self.service();
        let say = move || {
            service.watch.set_slow_after(Some(slow_after));
            service.backends[1].watch.set_suspect(suspect);
        };
        say();
        let saying = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                say();
            }
        });
        if let Some(before) = self.saying.replace(saying.abort_handle()) {
            before.abort();
        }
    }

    async fn exchange(&self, request: &str) -> Answer {
        Wire::connect(self.app.addresses()[0]).await.exchange(request).await
    }

    fn totals(&self, backend: usize) -> BackendTotals {
        self.service().backends[backend].metrics.totals()
    }

    /// Waits until nothing is under way, and stops.
    async fn stop(self) {
        eventually("all requests have ended", || (0..2).all(|index| self.totals(index).in_flight == 0)).await;
        self.app.stop(std::future::pending()).await;
    }
}

const SLOW: Duration = Duration::from_millis(30);

async fn hanging() -> Upstream {
    Upstream::scripted(|mut wire: Wire, _| async move { drop(wire.rest().await) }).await
}

/// Answers its first request when told, with `answer`.
async fn answering_when(told: &Arc<Notify>, answer: &'static str) -> Upstream {
    let told = Arc::clone(told);
    Upstream::scripted(move |mut wire: Wire, _| {
        let told = Arc::clone(&told);
        async move {
            if wire.next_head().await.is_some() {
                told.notified().await;
                wire.send(answer).await;
                wire.rest().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn stable_answers_while_a_suspect_candidate_hangs() {
    let (blue, canary) = (named("blue").await, hanging().await);
    let proxy = Inside::start("", &blue, &canary).await.suspect(SLOW);
    for _ in 0..5 {
        let begun = Instant::now();
        let answer = proxy.exchange(&get("/", "")).await;
        assert_eq!(answer.text(), "blue");
        let took = begun.elapsed();
        assert!(took >= SLOW && took < Duration::from_secs(10), "{took:?}");
    }
    let (of_blue, of_canary) = (proxy.totals(0), proxy.totals(1));
    assert_eq!((of_canary.hedges, of_canary.rescues_answered), (5, 5));
    assert_eq!(of_canary.codes[CodeClass::None as usize], 5);
    assert_eq!((of_blue.requests(), of_blue.codes[CodeClass::Success as usize]), (5, 5));
    // What was waited before is no latency of stable's.
    assert!(of_blue.first_byte.sum() < SLOW * 5, "{:?}", of_blue.first_byte.sum());
    proxy.stop().await;
}

#[tokio::test]
async fn a_candidate_is_asked_alone_until_it_is_suspect() {
    let (blue, canary) = (named("blue").await, hanging().await);
    let mut proxy = Inside::start("", &blue, &canary).await;
    proxy.say(SLOW, false);
    let mut client = Wire::connect(proxy.app.addresses()[0]).await;
    client.send(get("/", "")).await;
    eventually("the candidate is asked", || canary.connections() == 1).await;
    assert_eq!(client.until_silent(SLOW * 5).await, b"");
    assert_eq!(proxy.totals(1).hedges, 0);
    proxy.say(SLOW, true);
    assert_eq!(client.answer().await.text(), "blue");
    proxy.stop().await;
}

#[tokio::test]
async fn only_harmless_requests_that_have_been_sent_whole_are_hedged() {
    for (service, request) in [
        ("", "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 0\r\n\r\n"),
        ("", "PUT / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 1\r\n\r\nx"),
        ("rescue = \"off\"", "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n"),
        ("retry = { budget = 0.0, floor = 0 }", "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n"),
        ("rules = [{ backend = \"canary\", networks = [\"127.0.0.1\"] }]", &get("/", "")),
    ] {
        let (blue, canary) = (named("blue").await, hanging().await);
        let service = format!("timeouts = {{ response_header = \"300ms\" }}\n{service}");
        let proxy = Inside::start(&service, &blue, &canary).await.suspect(SLOW);
        let answer = proxy.exchange(request).await;
        assert_eq!(proxy.totals(1).hedges, 0, "{service} {request}");
        assert_eq!(answer.status(), if request.starts_with("PUT") { 200 } else { 504 }, "{service} {request}");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn nobody_is_rescued_or_hedged_while_stable_is_the_bad_one() {
    let (blue, canary) = (named("blue").await, hanging().await);
    let proxy = Inside::start("timeouts = { response_header = \"300ms\" }", &blue, &canary).await.suspect(SLOW);
    proxy.service().watch.suspend_rescue(true);
    assert_eq!(proxy.exchange(&get("/", "")).await.status(), 504);
    assert_eq!((proxy.totals(1).hedges, blue.connections()), (0, 0));
    proxy.stop().await;
}

#[tokio::test]
async fn the_candidate_wins_when_its_good_answer_comes_first() {
    let told = Arc::new(Notify::new());
    let canary = answering_when(&told, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary").await;
    let blue = hanging().await;
    let proxy = Inside::start("", &blue, &canary).await.suspect(SLOW);
    let mut client = Wire::connect(proxy.app.addresses()[0]).await;
    client.send(get("/", "")).await;
    eventually("stable is asked, too", || blue.connections() == 1).await;
    told.notify_one();
    assert_eq!(client.answer().await.text(), "canary");
    let (of_blue, of_canary) = (proxy.totals(0), proxy.totals(1));
    assert_eq!((of_blue.requests(), of_blue.in_flight), (0, 0));
    assert_eq!((of_canary.hedges, of_canary.rescues_answered), (1, 0));
    within("the loser's connection to be closed", async {
        while blue.open() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_bad_answer_that_comes_first_waits_for_a_good_one() {
    let (canary_told, blue_told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let canary = answering_when(&canary_told, "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n").await;
    let blue = answering_when(&blue_told, "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nblue").await;
    let proxy = Inside::start("", &blue, &canary).await.suspect(SLOW);
    let mut client = Wire::connect(proxy.app.addresses()[0]).await;
    client.send(get("/", "")).await;
    eventually("stable is asked, too", || blue.connections() == 1).await;
    canary_told.notify_one();
    assert_eq!(client.until_silent(SLOW).await, b"");
    blue_told.notify_one();
    assert_eq!(client.answer().await.text(), "blue");
    let of_canary = proxy.totals(1);
    assert_eq!((of_canary.errors(), of_canary.rescues_answered), (1, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_leaves_a_hedged_request_is_counted_once() {
    let (blue, canary) = (hanging().await, hanging().await);
    let proxy = Inside::start("", &blue, &canary).await.suspect(SLOW);
    let mut client = Wire::connect(proxy.app.addresses()[0]).await;
    client.send(get("/", "")).await;
    eventually("stable is asked, too", || blue.connections() == 1).await;
    drop(client);
    eventually("the request has ended", || proxy.totals(1).requests() == 1).await;
    assert_eq!((proxy.totals(0).requests(), proxy.totals(0).in_flight), (0, 0));
    proxy.stop().await;
}
