//! Who may call the admin API, and what its probes say while the proxy lives and ends.

use serde_json::{Value, json};

use crate::support::{Gate, OK, Proxy, Setup, Signal, Upstream, Wire, eventually};

async fn guarded(upstream: &Upstream) -> Proxy {
    Setup::new().admin("token = \"s3cret\"").backend(&[upstream.url()], "").start().await
}

async fn status(proxy: &Proxy, method: &str, path: &str, fields: &str) -> u16 {
    proxy.call(method, path, fields, "").await.status()
}

#[tokio::test]
async fn web_pages_are_refused_whatever_they_ask_for() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let json = "content-type: application/json\r\n";
    for (method, path, fields) in [
        ("GET", "/v1/services", "origin: https://evil.example\r\n"),
        ("GET", "/v1/services", "origin: null\r\n"),
        ("GET", "/v1/services", "origin: http://127.0.0.1:9900\r\n"),
        ("GET", "/metrics", "sec-fetch-site: cross-site\r\n"),
        ("GET", "/metrics", "sec-fetch-site: same-site\r\n"),
        ("PUT", "/v1/services/shop/weights", &format!("{json}origin: https://evil.example\r\n")),
        (
            "OPTIONS",
            "/v1/services/shop/weights",
            "origin: https://evil.example\r\naccess-control-request-method: PUT\r\n",
        ),
    ] {
        let answer = proxy.call(method, path, fields, r#"{"blue": 2}"#).await;
        assert_eq!(answer.status(), 403, "{method} {path} {fields}");
        assert_eq!(answer.text(), r#"{"error":"the admin API doesn't answer web pages"}"#);
        let allowed = answer.head.fields.iter().any(|(name, _)| name.to_lowercase().starts_with("access-control"));
        assert!(!allowed, "{:?}", answer.head);
    }
    assert_eq!(proxy.view("/v1/services/shop").await["overridden"], false);
}

#[tokio::test]
async fn names_that_another_site_could_have_are_refused() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    for host in ["evil.example", "evil.example:9900", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
        assert_eq!(status(&proxy, "GET", "/v1/services", &format!("host: {host}\r\n")).await, 421, "{host}");
    }
    for host in ["localhost", "LocalHost:1", "127.0.0.1:9900", "[::1]:9900", "10.1.2.3"] {
        assert_eq!(status(&proxy, "GET", "/v1/services", &format!("host: {host}\r\n")).await, 200, "{host}");
    }
}

#[tokio::test]
async fn with_a_token_only_those_who_have_it_may_call() {
    let upstream = Upstream::answering(OK).await;
    let proxy = guarded(&upstream).await;
    for path in ["/v1/services", "/v1/services/shop", "/metrics", "/nothing"] {
        for fields in
            ["", "authorization: Bearer s3cre\r\n", "authorization: Bearer s3crets\r\n", "authorization: s3cret\r\n"]
        {
            let answer = proxy.call("GET", path, fields, "").await;
            assert_eq!(answer.status(), 401, "{path} {fields}");
            assert!(answer.text().starts_with(r#"{"error":"a token is needed"#), "{}", answer.text());
        }
    }
    let known = "authorization: Bearer s3cret\r\n";
    assert_eq!(status(&proxy, "GET", "/v1/services", known).await, 200);
    assert_eq!(status(&proxy, "GET", "/v1/services", &format!("{known}host: tidegate.internal\r\n")).await, 200);
    assert_eq!(status(&proxy, "GET", "/v1/services", &format!("{known}origin: https://a.test\r\n")).await, 403);
    let json = format!("{known}content-type: application/json\r\n");
    assert_eq!(proxy.call("PUT", "/v1/services/shop/weights", &json, r#"{"blue": 2}"#).await.status(), 200);
    let unknown = "content-type: application/json\r\n";
    assert_eq!(proxy.call("PUT", "/v1/services/shop/weights", unknown, r#"{"blue": 3}"#).await.status(), 401);
}

#[tokio::test]
async fn the_token_is_never_shown() {
    let upstream = Upstream::answering(OK).await;
    let proxy = guarded(&upstream).await;
    let known = "authorization: Bearer s3cret\r\n";
    for path in ["/v1/services", "/metrics", "/nothing"] {
        assert!(!proxy.call("GET", path, known, "").await.text().contains("s3cret"), "{path}");
    }
    assert!(!proxy.log().iter().any(|line| line.to_string().contains("s3cret")));
}

#[tokio::test]
async fn probes_need_neither_token_nor_name() {
    let upstream = Upstream::answering(OK).await;
    let proxy = guarded(&upstream).await;
    for (path, text) in [("/livez", "live\n"), ("/readyz", "ready\n")] {
        let answer = proxy.call("GET", path, "host: node-7.cluster\r\n", "").await;
        assert_eq!((answer.status(), answer.text()), (200, text));
        assert_eq!(status(&proxy, "POST", path, "").await, 405);
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_call_is_told_as_json() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Setup::new().backend(&[upstream.url()], "").start().await;
    let drain = "/v1/services/shop/backends/blue/drain";
    let long = json!({ "reason": "x".repeat(70_000) }).to_string();
    for (method, path, body, status) in [
        ("POST", "/livez", "", 405),
        ("POST", "/readyz", "", 405),
        ("POST", drain, "", 405),
        ("PUT", drain, "{", 400),
        ("PUT", drain, &long, 413),
        ("GET", "/nothing", "", 404),
    ] {
        let answer = proxy.call(method, path, "", body).await;
        assert_eq!(answer.status(), status, "{method} {path}");
        let said: Value = serde_json::from_str(answer.text()).expect("JSON");
        assert!(said["error"].as_str().is_some_and(|error| !error.is_empty()), "{said}");
    }
}

#[tokio::test]
async fn while_draining_it_lives_and_is_not_ready() {
    let gate = Gate::shut().await;
    let setup = Setup::new().backend(&[gate.upstream.url()], "").settings("[shutdown]\ndelay = \"1500ms\"");
    let mut proxy = setup.start().await;
    let mut held = proxy.connect().await;
    held.send("GET /held HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
    gate.received("/held").await;
    proxy.signal(Signal::TERM);
    proxy.logs("not ready any more").await;
    // The load balancer learns that we go before anybody is refused.
    assert_eq!(status(&proxy, "GET", "/readyz", "").await, 503);
    assert_eq!(proxy.fetch("/").await.status(), 200);
    proxy.logs("draining").await;
    let refused = || std::net::TcpStream::connect(proxy.http()).is_err();
    eventually("new connections are refused", refused).await;
    assert_eq!(proxy.call("GET", "/readyz", "", "").await.text(), "draining\n");
    assert_eq!(status(&proxy, "GET", "/livez", "").await, 200);
    assert_eq!(status(&proxy, "GET", "/v1/services", "").await, 200);
    gate.open();
    assert_eq!(held.answer().await.status(), 200);
    assert_eq!(proxy.wait().await.code(), Some(0));
}

#[tokio::test]
async fn it_answers_while_every_worker_is_busy_with_slow_clients() {
    let gate = Gate::shut().await;
    let proxy = Proxy::before(&gate.upstream).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut wire = proxy.connect().await;
        wire.send("GET /held HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        held.push(wire);
    }
    proxy.metric_becomes("tidegate_requests_in_flight", "", 100).await;
    assert_eq!(proxy.view("/v1/services/shop").await["backends"][0]["in_flight"], 100);
    gate.open();
    for wire in &mut held {
        assert_eq!(wire.answer().await.status(), 200);
    }
    proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
}

#[tokio::test]
async fn a_caller_that_says_nothing_keeps_nobody_else_from_calling() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut wire = Wire::connect(proxy.admin()).await;
        wire.send("GET /v1/serv").await;
        silent.push(wire);
    }
    assert_eq!(status(&proxy, "GET", "/v1/services", "").await, 200);
}
