//! What a request is called: `x-request-id` and traces, at the endpoint, at the client and in the access log.

use std::collections::HashSet;

use serde_json::Value;

use crate::support::{OK, Proxy, Setup, Upstream, eventually, get};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn logging(upstream: &Upstream, settings: &str) -> Proxy {
    let setup = Setup::new().top("access_log = \"./access.log\"").backend(&[upstream.url()], "");
    setup.settings(settings).start().await
}

async fn log(proxy: &Proxy, count: usize) -> Vec<Value> {
    let text = || std::fs::read_to_string(proxy.folder().join("access.log")).unwrap_or_default();
    eventually("the lines are written", || text().lines().count() >= count).await;
    text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[tokio::test]
async fn the_endpoint_the_client_and_the_log_have_the_same_id() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nx-request-id: theirs\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = logging(&upstream, "[forwarding]\nreturn_request_id = true").await;
    let mut client = proxy.connect().await;
    let mut ids = HashSet::new();
    for _ in 0..20 {
        let answer = client.exchange(get("/", "x-request-id: mine\r\n")).await;
        ids.insert(answer.head.values("x-request-id").join(" and "));
    }
    assert_eq!(ids.len(), 20);
    let received: HashSet<_> =
        upstream.requests().iter().map(|r| r.head.values("x-request-id").join(" and ")).collect();
    let logged: HashSet<_> =
        log(&proxy, 20).await.iter().map(|line| line["request_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, received);
    assert_eq!(ids, logged);
}

#[tokio::test]
async fn an_answer_of_our_own_has_the_id_too() {
    let upstream = Upstream::answering(OK).await;
    let proxy = logging(&upstream, "").await;
    let answer = proxy.exchange("GET / HTTP/1.1\r\nhost: a b\r\n\r\n").await;
    assert_eq!(answer.status(), 400);
    let line = &log(&proxy, 1).await[0];
    assert_eq!(
        (answer.head.value("x-request-id"), line["error"].as_str()),
        (line["request_id"].as_str(), Some("bad_host"))
    );
}

#[tokio::test]
async fn an_endpoints_own_id_passes_unless_ours_is_wanted() {
    let upstream = Upstream::responding(|request| match request.target() {
        "/own" => "HTTP/1.1 200 OK\r\nx-request-id: theirs\r\ncontent-length: 0\r\n\r\n".into(),
        _ => OK.into(),
    })
    .await;
    let proxy = logging(&upstream, "").await;
    assert_eq!(proxy.fetch("/").await.head.value("x-request-id"), None);
    assert_eq!(proxy.fetch("/own").await.head.value("x-request-id"), Some("theirs"));
}

#[tokio::test]
async fn a_trace_passes_as_it_came_and_a_broken_one_goes_nowhere() {
    let upstream = Upstream::answering(OK).await;
    let proxy = logging(&upstream, "").await;
    let state = "tracestate: a=1\r\ntracestate: b=2\r\n";
    for (fields, parent, states) in [
        (format!("traceparent: {TRACE}\r\n{state}"), Some(TRACE), &["a=1", "b=2"][..]),
        (format!("traceparent: {TRACE}\r\ntraceparent: {TRACE}\r\n{state}"), None, &[]),
        (format!("traceparent: {TRACE}0\r\n{state}"), None, &[]),
        (format!("traceparent: 00-{}-00f067aa0ba902b7-01\r\n{state}", "0".repeat(32)), None, &[]),
        (state.to_owned(), None, &[]),
        (String::new(), None, &[]),
    ] {
        proxy.exchange(&get("/", &fields)).await;
        let head = upstream.requests().pop().expect("a request has come").head;
        assert_eq!((head.value("traceparent"), head.values("tracestate").as_slice()), (parent, states), "{fields}");
    }
    let lines = log(&proxy, 6).await;
    assert_eq!(lines[0]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(lines[1..].iter().all(|line| line["trace_id"].is_null()));
}

#[tokio::test]
async fn traces_begin_here_where_that_is_wanted() {
    for (share, sampled) in [("1", "01"), ("0.0", "00")] {
        let upstream = Upstream::answering(OK).await;
        let proxy = logging(&upstream, &format!("[forwarding]\ntrace_sample = {share}")).await;
        proxy.fetch("/").await;
        proxy.exchange(&get("/", "traceparent: nonsense\r\ntracestate: a=1\r\n")).await;
        proxy.exchange(&get("/", &format!("traceparent: {TRACE}\r\n"))).await;
        let (requests, lines) = (upstream.requests(), log(&proxy, 3).await);
        for (request, line) in requests.iter().zip(&lines).take(2) {
            let parent = request.head.value("traceparent").expect("a trace has begun");
            let parts: Vec<_> = parent.split('-').collect();
            assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2]);
            assert_eq!((parts[0], parts[1], parts[3]), ("00", line["trace_id"].as_str().unwrap(), sampled));
            assert_eq!(request.head.value("tracestate"), None);
        }
        assert_eq!(requests[2].head.values("traceparent"), [TRACE]);
    }
}
