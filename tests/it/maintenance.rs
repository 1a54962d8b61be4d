//! A service under maintenance: closed to all but some, by the file alone.

use crate::support::http2::{Http2, get as http2_get, http2_endpoint};
use crate::support::{Gate, OK, OPEN_SOCKET, Proxy, Setup, Upstream, Wire, backend, get};

async fn closed(upstream: &Upstream, keys: &str) -> Proxy {
    let maintenance = format!("[services.shop.maintenance]\nenabled = true\n{keys}");
    Setup::new()
        .file("back.json", r#"{"back":"soon","status":{status}}"#)
        .settings(&maintenance)
        .backend(&[upstream.url()], "")
        .start()
        .await
}

#[tokio::test]
async fn maintenance_closes_a_service_to_all_but_some_until_a_reload_opens_it() {
    let upstream = Upstream::answering(OK).await;
    let with = |keys: &str| format!("[services.shop.maintenance]\n{keys}\n{}", backend("blue", 1.0, &upstream));
    let closed = "enabled = true\nretry_after = \"90s\"\nhtml = \"back.html\"\nallow = [\"127.0.0.9\"]";
    let mut proxy = Setup::new().file("back.html", "<p>back soon").settings(&with(closed)).start().await;
    let answer = proxy.exchange(&get("/", "accept: text/html\r\n")).await;
    assert_eq!((answer.status(), answer.text()), (503, "<p>back soon"));
    assert_eq!(answer.head.value("retry-after"), Some("90"));
    assert_eq!(upstream.connections(), 0);
    let mut insider = Wire::connect_from([127, 0, 0, 9].into(), proxy.http()).await;
    assert_eq!(insider.exchange(get("/", "")).await.text(), "ok");
    proxy.metric_becomes("tidegate_maintenance_answers_total", "service=\"shop\"", 1).await;
    proxy.rewrite(&with("enabled = false"));
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
}

#[tokio::test]
async fn its_status_and_its_pages_are_the_operators_choice() {
    let upstream = Upstream::answering(OK).await;
    let proxy = closed(&upstream, "status = 520\njson = \"back.json\"").await;
    let answer = proxy.exchange(&get("/", "accept: application/json\r\n")).await;
    assert_eq!((answer.status(), answer.text()), (520, r#"{"back":"soon","status":520}"#));
    assert_eq!(answer.head.value("content-type"), Some("application/json"));
    assert_eq!((answer.head.value("cache-control"), answer.head.value("retry-after")), (Some("no-store"), None));
    // What is built in stands in for what wasn't chosen, and a status needs no name.
    assert_eq!(proxy.fetch("/").await.text(), "520 Error\n");
    let html = proxy.exchange(&get("/", "accept: text/html\r\n")).await;
    assert!(html.text().contains("<title>520 Error</title>"), "{}", html.text());
    let (status, message) = Http2::over(proxy.connect().await).await.fetch("/").await;
    assert_eq!((status.as_u16(), message.body), (520, b"520 Error\n".to_vec()));
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn grpc_clients_read_it_in_their_terms() {
    let upstream = http2_endpoint(None, |stream| async { stream.answer("never") }).await;
    let proxy = closed(&upstream, "retry_after = \"1500ms\"").await;
    let client = Http2::over(proxy.connect().await).await;
    let mut request = http2_get("/pkg.Service/Method");
    *request.method_mut() = http::Method::POST;
    request.headers_mut().insert("content-type", http::HeaderValue::from_static("application/grpc"));
    let (status, message) = client.exchange(request).await;
    assert_eq!((status.as_u16(), message.body.len()), (200, 0));
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "14"), ("retry-after", "2")] {
        assert_eq!(message.headers[name], value);
    }
    proxy.metric_becomes("tidegate_maintenance_answers_total", "", 1).await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn it_refuses_new_tunnels_and_leaves_open_ones() {
    let gate = Gate::shut().await;
    let with = |keys: &str| format!("{keys}\n{}", backend("blue", 1.0, &gate.upstream));
    let mut proxy = Setup::new().settings(&with("")).start().await;
    let mut tunnel = proxy.connect().await;
    tunnel.open_socket().await;
    proxy.rewrite(&with("[services.shop.maintenance]\nenabled = true"));
    proxy.reload_well().await;
    let mut late = proxy.connect().await;
    let answer = late.exchange(OPEN_SOCKET).await;
    assert_eq!((answer.status(), answer.text()), (503, "503 Service Unavailable\n"));
    // HTTP goes on for whoever was refused.
    assert_eq!(late.exchange(get("/", "")).await.status(), 503);
    let (refused, stream) = Http2::over(proxy.connect().await).await.open_websocket("/socket").await;
    assert!(refused.status() == 503 && stream.is_none());
    tunnel.assert_echo("still here").await;
    assert_eq!(gate.upstream.connections(), 1);
}

#[tokio::test]
async fn who_is_denied_does_not_learn_of_it_and_it_uses_no_allowance() {
    let upstream = Upstream::answering(OK).await;
    let policy = "deny = [\"127.0.0.7\"]\nrate_limits = [{ requests = 1, per = \"1h\", burst = 1 }]";
    let with = |enabled: bool| {
        let backend = backend("blue", 1.0, &upstream);
        format!("[services.shop]\n{policy}\nmaintenance = {{ enabled = {enabled} }}\n{backend}")
    };
    let mut proxy = Setup::new().settings(&with(true)).start().await;
    let mut denied = Wire::connect_from([127, 0, 0, 7].into(), proxy.http()).await;
    assert_eq!(denied.exchange(get("/", "")).await.status(), 403);
    for _ in 0..3 {
        assert_eq!(proxy.fetch("/").await.status(), 503);
    }
    proxy.rewrite(&with(false));
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.status(), 200);
    let limited = proxy.exchange(&get("/", "accept: application/json\r\n")).await;
    assert_eq!((limited.status(), limited.head.value("content-type")), (429, Some("application/problem+json")));
    assert!(limited.head.value("retry-after").is_some());
    proxy.metric_becomes("tidegate_maintenance_answers_total", "service=\"shop\"", 3).await;
}
