//! Answers that the proxy makes itself: what they look like to whom, and that they tell a stranger no more than the
//! status.

use crate::support::http2::{Http2, get as http2_get};
use crate::support::{Answer, OK, Proxy, Refusing, Setup, Upstream, get};

const BROWSER: &str = "accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n";
const SCRIPT: &str = "accept: application/json, text/plain, */*\r\n";

/// A proxy whose only service can't be reached.
async fn unreachable(setup: Setup) -> (Refusing, Proxy) {
    let nobody = Refusing::new();
    let proxy = setup.backend(&[nobody.url()], "").impatient().start().await;
    (nobody, proxy)
}

#[tokio::test]
async fn a_failure_comes_in_the_format_that_the_client_wants() {
    let (_nobody, proxy) = unreachable(Setup::new()).await;
    for (fields, kind, part) in [
        ("", "text/plain; charset=utf-8", "502 Bad Gateway\n"),
        ("accept: */*\r\n", "text/plain; charset=utf-8", "502 Bad Gateway\n"),
        ("accept: image/avif,*/*;q=0.8\r\n", "text/plain; charset=utf-8", "502 Bad Gateway\n"),
        (BROWSER, "text/html; charset=utf-8", "<title>502 Bad Gateway</title>"),
        (SCRIPT, "application/problem+json", r#"{"type":"about:blank","title":"Bad Gateway","status":502,"#),
        ("accept: image/png\r\naccept: text/html\r\n", "text/html; charset=utf-8", "<h1>Bad Gateway</h1>"),
    ] {
        let answer = proxy.exchange(&get("/", fields)).await;
        assert_eq!(answer.status(), 502);
        assert_eq!(answer.head.value("content-type"), Some(kind), "{fields}");
        assert_eq!(answer.head.value("cache-control"), Some("no-store"));
        assert_eq!(answer.head.value("tidegate-error"), None);
        assert!(answer.text().contains(part), "{}", answer.text());
        let id = answer.head.value("x-request-id").unwrap();
        assert_eq!(answer.text().contains(id), !kind.starts_with("text/plain"), "{}", answer.text());
    }
}

#[tokio::test]
async fn the_answer_to_head_is_a_head_with_the_length_that_get_would_have() {
    let (_nobody, proxy) = unreachable(Setup::new()).await;
    let length = proxy.exchange(&get("/", BROWSER)).await.body.len();
    let mut client = proxy.connect().await;
    client.send(format!("HEAD / HTTP/1.1\r\nhost: shop.test\r\n{BROWSER}\r\n")).await;
    assert_eq!(client.head().await.content_length(), Some(length));
    // Nothing stands between that head and the next.
    assert_eq!(client.exchange(get("/", "")).await.text(), "502 Bad Gateway\n");

    let client = Http2::over(proxy.connect().await).await;
    let mut head = http2_get("/");
    *head.method_mut() = http::Method::HEAD;
    head.headers_mut().insert("accept", "text/html".parse().unwrap());
    let (status, message) = client.exchange(head).await;
    assert_eq!((status.as_u16(), message.body.len()), (502, 0));
    assert_eq!(message.headers["content-length"], length.to_string().as_str());
}

#[tokio::test]
async fn a_service_has_pages_of_its_own_and_takes_the_rest_from_all() {
    let nobody = Refusing::new();
    let proxy = Setup::new()
        .file("all.html", "<p>all {status}")
        .file("all.json", r#"{"status":{status},"title":"{title}","id":"{request_id}"}"#)
        .file("shop.html", "<p>shop {title}{request_id}")
        .impatient()
        .settings("[errors]\nhtml = \"all.html\"\njson = \"all.json\"\nheader = true")
        .settings("[services.shop]\nroutes = [{ host = \"shop.test\" }]\nerrors = { html = \"shop.html\" }")
        .backend(&[nobody.url()], "")
        .start()
        .await;
    let answer = proxy.exchange(&get("/", BROWSER)).await;
    let id = |answer: &Answer| answer.head.value("x-request-id").unwrap().to_owned();
    assert_eq!((answer.status(), answer.text()), (502, &*format!("<p>shop Bad Gateway{}", id(&answer))));
    assert_eq!(answer.head.value("tidegate-error"), Some("connect_failed"));
    let answer = proxy.exchange(&get("/", SCRIPT)).await;
    assert_eq!(answer.text(), format!(r#"{{"status":502,"title":"Bad Gateway","id":"{}"}}"#, id(&answer)));
    assert_eq!(answer.head.value("content-type"), Some("application/json"));
    let answer = proxy.exchange(&format!("GET / HTTP/1.1\r\nhost: other.test\r\n{BROWSER}\r\n")).await;
    assert_eq!((answer.status(), answer.text()), (404, "<p>all 404"));
    assert_eq!(answer.head.value("tidegate-error"), Some("no_route"));
}

#[tokio::test]
async fn pages_are_read_again_at_a_reload_and_a_bad_one_refuses_it() {
    let (_nobody, proxy) =
        unreachable(Setup::new().file("a.html", "one").settings("[errors]\nhtml = \"a.html\"")).await;
    let shown = async || proxy.exchange(&get("/", BROWSER)).await.text().to_owned();
    assert_eq!(shown().await, "one");
    std::fs::write(proxy.folder().join("a.html"), "two").unwrap();
    proxy.reload_well().await;
    assert_eq!(shown().await, "two");
    std::fs::write(proxy.folder().join("a.html"), "").unwrap();
    assert!(!proxy.reload().await);
    assert_eq!(shown().await, "two");
}

#[tokio::test]
async fn an_endpoints_own_error_answer_is_passed_as_it_is() {
    const OWN: &str = "HTTP/1.1 503 Mine\r\ncontent-type: text/x-own\r\ncontent-length: 4\r\n\r\nmine";
    let upstream = Upstream::answering(OWN).await;
    let proxy = Setup::new()
        .file("a.html", "ours")
        .settings("[errors]\nhtml = \"a.html\"\nheader = true")
        .backend(&[upstream.url()], "")
        .start()
        .await;
    let answer = proxy.exchange(&get("/", BROWSER)).await;
    assert_eq!((answer.status(), answer.text()), (503, "mine"));
    assert_eq!(answer.head.value("content-type"), Some("text/x-own"));
    assert_eq!(answer.head.value("tidegate-error"), None);
    assert_eq!(answer.head.value("cache-control"), None);
}

#[tokio::test]
async fn an_endpoint_receives_accept_as_the_client_sent_it() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    proxy.exchange(&get("/", BROWSER)).await;
    let accept = upstream.request().head;
    assert_eq!(accept.value("accept"), Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"));
}
