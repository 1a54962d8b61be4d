//! Requests that a candidate fails and stable answers: which, and who is told and charged.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::Reason;
use serde_json::Value;

use crate::support::http2::http2_endpoint;
use crate::support::{OK, Proxy, Refusing, Setup, Upstream, Wire, eventually, get, named};

const FAILED: &str = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops";

/// `blue` is stable, but chance sends next to everything to the canary.
fn settings(service: &str, blue: &str, canary: &str, of_canary: &str) -> String {
    format!(
        "[services.shop]\nstable = \"blue\"\n{service}\n\
         [services.shop.backends.blue]\nweight = 0.000001\nendpoints = [{blue:?}]\n\
         [services.shop.backends.canary]\nweight = 1000000\nendpoints = [{canary:?}]\n{of_canary}"
    )
}

async fn before(service: &str, blue: &str, canary: &str) -> Proxy {
    let setup = Setup::new().top("access_log = \"./access.log\"");
    setup.settings(&settings(service, blue, canary, "")).start().await
}

/// The first line of the access log.
async fn logged(proxy: &Proxy) -> Value {
    let text = || fs::read_to_string(proxy.folder().join("access.log")).unwrap_or_default();
    eventually("a line is logged", || text().contains('\n')).await;
    serde_json::from_str(text().lines().next().unwrap()).expect("a line is JSON")
}

/// How many requests `backend` is charged with, by class of status.
async fn charged(proxy: &Proxy, backend: &str, code: &str) -> u64 {
    proxy.metric("tidegate_requests_total", &format!("backend=\"{backend}\",code=\"{code}\"")).await
}

#[tokio::test]
async fn what_the_candidate_fails_stable_answers_and_both_are_charged_for_their_own() {
    let blue = named("blue").await;
    let failing: [&'static str; 6] = [
        FAILED,
        "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 504 Gateway Timeout\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "",
        "nonsense\r\n\r\n",
    ];
    for answer in failing {
        let canary = Upstream::scripted(move |mut wire: Wire, _| async move {
            if wire.next_head().await.is_some() {
                wire.send(answer).await;
            }
        })
        .await;
        let proxy = before("", &blue.url(), &canary.url()).await;
        let got = proxy.fetch("/").await;
        assert_eq!((got.status(), got.text()), (200, "blue"), "{answer}");
        assert_eq!(got.head.value("tidegate-backend"), None, "nobody is told");
        assert_eq!((charged(&proxy, "canary", "5xx").await, charged(&proxy, "blue", "2xx").await), (1, 1));
        proxy.metric_becomes("tidegate_requests_total", "shop", 2).await;
        proxy.metric_becomes("tidegate_rescues_total", "canary\",result=\"answered", 1).await;
        assert_eq!(proxy.metric("tidegate_requests_in_flight", "shop").await, 0);
        let line = logged(&proxy).await;
        assert_eq!((line["backend"].as_str(), line["selected"].as_str()), (Some("blue"), Some("canary")));
        assert_eq!((line["attempts"].as_u64(), line["status"].as_u64()), (Some(2), Some(200)));
        assert_eq!(line["endpoint"].as_str(), Some(&*blue.address.to_string()));
    }
}

#[tokio::test]
async fn a_candidate_that_refuses_connections_or_hangs_is_rescued_too() {
    let blue = named("blue").await;
    let refusing = Refusing::new();
    // Otherwise it would be left after five.
    let proxy = before("guard = \"off\"\nejection = \"off\"", &blue.url(), &refusing.url()).await;
    for _ in 0..10 {
        assert_eq!(proxy.fetch("/").await.text(), "blue");
    }
    // It was never sent, so anything may be: with its body.
    let request = "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 4\r\n\r\nbody";
    assert_eq!(proxy.exchange(request).await.text(), "blue");
    assert_eq!(blue.requests().last().unwrap().body, b"body");
    assert_eq!(charged(&proxy, "canary", "5xx").await, 11);

    let hanging = Upstream::scripted(|mut wire: Wire, _| async move { drop(wire.rest().await) }).await;
    let proxy = before("timeouts = { response_header = \"150ms\" }", &blue.url(), &hanging.url()).await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    assert_eq!(charged(&proxy, "canary", "5xx").await, 1);
}

#[tokio::test]
async fn only_what_may_be_done_twice_is_done_twice() {
    let blue = named("blue").await;
    let key = "idempotency-key: 7f3a\r\n";
    for (method, fields, service, status) in [
        ("PUT", "", "", 200),
        ("POST", "", "", 500),
        ("POST", key, "", 500),
        ("POST", "", "rescue = { idempotency_key = true }", 500),
        ("POST", key, "rescue = { idempotency_key = true }", 200),
        ("POST", "", "idempotent = true", 200),
    ] {
        let canary = Upstream::answering(FAILED).await;
        let proxy = before(service, &blue.url(), &canary.url()).await;
        let request = format!("{method} / HTTP/1.1\r\nhost: shop.test\r\n{fields}content-length: 4\r\n\r\nbody");
        let answer = proxy.exchange(&request).await;
        assert_eq!(answer.status(), status, "{method} {fields} {service}");
        if status == 200 {
            assert_eq!(blue.requests().last().unwrap().body, b"body");
        }
    }
}

#[tokio::test]
async fn what_need_not_be_rescued_is_passed_on() {
    let blue = named("blue").await;
    let not_found = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno";
    let unimplemented = "HTTP/1.1 501 Not Implemented\r\ncontent-length: 2\r\n\r\nno";
    for (answer, service, status) in [
        (not_found, "", 404),
        (unimplemented, "", 501),
        (FAILED, "rescue = \"off\"", 500),
        (FAILED, "rescue = { on = [\"connect\", \"503\"] }", 500),
        // The rule decides, and so does who wrote it.
        (FAILED, "rules = [{ backend = \"canary\", networks = [\"127.0.0.1\"] }]", 500),
        (FAILED, "retry = { budget = 0.0, floor = 0 }", 500),
        (FAILED, "retry = \"off\"", 200),
        (unimplemented, "rescue = { on = [\"501\"] }", 200),
    ] {
        let canary = Upstream::answering(answer).await;
        let proxy = before(service, &blue.url(), &canary.url()).await;
        assert_eq!(proxy.fetch("/").await.status(), status, "{service}");
        let rescues = u64::from(status == 200);
        proxy.metric_becomes("tidegate_rescues_total", "canary", rescues).await;
        let is_exhausted = service.contains("budget");
        let exhausted = proxy.metric("tidegate_retry_budget_exhausted_total", "canary").await;
        assert_eq!(exhausted, u64::from(is_exhausted), "{service}");
    }
}

#[tokio::test]
async fn a_stable_that_wants_no_requests_gets_none() {
    let (blue, canary) = (named("blue").await, Upstream::answering(FAILED).await);
    let settings = settings("", &blue.url(), &canary.url(), "").replace("weight = 0.000001", "weight = 0");
    let proxy = Setup::new().settings(&settings).start().await;
    assert_eq!(proxy.fetch("/").await.status(), 500);
    assert_eq!(blue.requests().len(), 0);
}

#[tokio::test]
async fn when_stable_fails_too_its_answer_is_passed_on() {
    let blue = Upstream::answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nblue").await;
    let canary = Upstream::answering(FAILED).await;
    let proxy = before("", &blue.url(), &canary.url()).await;
    let answer = proxy.fetch("/").await;
    assert_eq!((answer.status(), answer.text()), (503, "blue"));
    assert_eq!((blue.requests().len(), canary.requests().len()), (1, 1));
    proxy.metric_becomes("tidegate_rescues_total", "canary\",result=\"failed", 1).await;
    assert_eq!((charged(&proxy, "canary", "5xx").await, charged(&proxy, "blue", "5xx").await), (1, 1));
}

#[tokio::test]
async fn whoever_may_know_is_told_which_backend_answered() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let proxy = before("backend_header = true", &blue.url(), &canary.url()).await;
    assert_eq!(proxy.fetch("/").await.head.value("tidegate-backend"), Some("canary"));
    let failing = Upstream::answering(FAILED).await;
    let proxy = before("backend_header = true", &blue.url(), &failing.url()).await;
    assert_eq!(proxy.fetch("/").await.head.value("tidegate-backend"), Some("blue"));
    let nobody = Refusing::new();
    let proxy = before("backend_header = true", &nobody.url(), &nobody.url()).await;
    let answer = proxy.fetch("/").await;
    assert_eq!((answer.status(), answer.head.value("tidegate-backend")), (502, None));
}

#[tokio::test]
async fn the_whole_request_has_one_deadline() {
    let hanging = || async { Upstream::scripted(|mut wire: Wire, _| async move { drop(wire.rest().await) }).await };
    let (blue, canary) = (hanging().await, hanging().await);
    let service = "timeouts = { response_header = \"200ms\", request = \"300ms\" }\nerrors = { header = true }";
    let proxy = before(service, &blue.url(), &canary.url()).await;
    let answer = proxy.fetch("/").await;
    assert_eq!((answer.status(), answer.head.value("tidegate-error")), (504, Some("request_timeout")));
}

#[tokio::test]
async fn candidates_and_stable_may_speak_different_protocols() {
    let blue = named("blue").await;
    let canary = http2_endpoint(None, |mut stream| async move {
        if stream.request.uri().path() == "/refused" {
            stream.respond.send_reset(Reason::REFUSED_STREAM);
        } else {
            let response = http::Response::builder().status(500).body(()).unwrap();
            stream.respond.send_response(response, true).unwrap();
        }
    })
    .await;
    let settings = settings("", &blue.url(), &canary.url(), "protocol = \"h2\"");
    let proxy = Setup::new().settings(&settings).start().await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    // What the endpoint says it hasn't looked at is safe to send, whatever it is.
    let answer = proxy.exchange("POST /refused HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer.text(), "blue");
    let received = blue.requests();
    assert_eq!(received[1].head.line, "POST /refused HTTP/1.1");
    assert_eq!(received[1].head.value("host"), Some("shop.test"));

    // And the other way round.
    let blue = http2_endpoint(None, |stream| async move { stream.answer("blue") }).await;
    let canary = Upstream::answering(FAILED).await;
    let mut settings = self::settings("", &blue.url(), &canary.url(), "");
    settings = settings.replace("weight = 0.000001", "weight = 0.000001\nprotocol = \"h2\"");
    let proxy = Setup::new().settings(&settings).start().await;
    let put = "PUT / HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n";
    assert_eq!(proxy.exchange(put).await.text(), "blue");
}

#[tokio::test]
async fn a_candidate_with_another_endpoint_is_left_only_for_what_was_sent() {
    let (blue, canary, refusing) = (named("blue").await, named("canary").await, Refusing::new());
    let failing = Upstream::answering(FAILED).await;
    let settings = |other: &str| {
        let urls = format!("endpoints = [{other:?}, {:?}]", canary.url());
        settings("", &blue.url(), "X", "").replace("endpoints = [\"X\"]", &urls)
    };
    let proxy = Setup::new().settings(&settings(&refusing.url())).start().await;
    for _ in 0..20 {
        assert_eq!(proxy.fetch("/").await.text(), "canary");
    }
    assert_eq!(proxy.metric("tidegate_rescues_total", "canary").await, 0);
    let proxy = Setup::new().settings(&settings(&failing.url())).start().await;
    let mut answers = Vec::new();
    for _ in 0..40 {
        answers.push(proxy.fetch("/").await.text().to_owned());
    }
    assert!(answers.iter().all(|answer| answer == "blue" || answer == "canary"));
    assert_eq!(answers.iter().filter(|answer| *answer == "blue").count(), failing.requests().len());
    assert_eq!(proxy.metric("tidegate_retries_total", "canary").await, 0);
}

#[tokio::test]
async fn http_1_and_2_clients_are_rescued_alike() {
    let (blue, canary) = (named("blue").await, Upstream::answering(FAILED).await);
    let proxy = before("", &blue.url(), &canary.url()).await;
    let client = crate::support::http2::Http2::over(proxy.connect().await).await;
    let (status, message) = client.fetch("/").await;
    assert_eq!((status.as_u16(), &*message.body), (200, &b"blue"[..]));
    let mut client = proxy.connect().await;
    for _ in 0..3 {
        assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
    }
    assert_eq!(canary.connections(), 1);
}

#[tokio::test]
async fn a_reset_that_was_replayed_in_vain_is_one_failure_of_one_request() {
    let (blue, asked) = (named("blue").await, Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let canary = Upstream::scripted(move |mut wire: Wire, _| {
        let count = Arc::clone(&count);
        async move {
            while wire.next_head().await.is_some() {
                if count.fetch_add(1, Ordering::SeqCst) > 0 {
                    return;
                }
                wire.send(OK).await;
            }
        }
    })
    .await;
    let proxy = before("", &blue.url(), &canary.url()).await;
    for text in ["ok", "blue"] {
        assert_eq!(proxy.fetch("/").await.text(), text);
    }
    // On the idle connection, and on a new one: only then it is known that it wasn't age that broke the first.
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    proxy.metric_becomes("tidegate_upstream_replays_total", "canary", 1).await;
    assert_eq!(charged(&proxy, "canary", "5xx").await, 1);
    let trial = proxy.view("/v1/services/shop").await["trials"][0].clone();
    assert_eq!(trial["kinds"][0]["candidate"], 1, "{trial:#}");
}
