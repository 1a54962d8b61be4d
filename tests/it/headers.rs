//! Headers on their way through: what is about one connection goes, what tells about the client comes, the rest
//! stays as it was.

use crate::support::{Proxy, Upstream};

#[tokio::test]
async fn path_query_and_host_reach_the_endpoint_as_they_were() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let proxy = Proxy::before(&upstream).await;
    let answer = proxy.exchange("GET /a%2Fb/../c?x=1&y=%20 HTTP/1.1\r\nhost: Shop.test:81\r\n\r\n").await;
    assert_eq!((answer.status(), answer.text()), (200, "ok"));
    let received = upstream.request();
    assert_eq!(received.head.line, "GET /a%2Fb/../c?x=1&y=%20 HTTP/1.1");
    assert_eq!(received.head.value("host"), Some("Shop.test:81"));
}

#[tokio::test]
async fn headers_about_the_clients_connection_stay_behind() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let request = "GET / HTTP/1.1\r\nhost: shop.test\r\nConnection: X-Foo, close\r\nconnection: x-bar\r\nX-Foo: 1\r\n\
        X-Bar: 2\r\nX-Kept: 3\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\
        Proxy-Authorization: Basic eDp5\r\nHTTP2-Settings: AAMAAABk\r\nAuthorization: Basic eDp5\r\n\r\n";
    proxy.exchange(request).await;
    let head = upstream.request().head;
    for gone in ["x-foo", "x-bar", "keep-alive", "proxy-connection", "proxy-authorization", "http2-settings", "te"] {
        assert_eq!(head.value(gone), None, "{gone}");
    }
    assert_eq!(head.value("connection"), None, "the endpoint's connection is ours to keep");
    assert_eq!(head.value("x-kept"), Some("3"));
    assert_eq!(head.value("authorization"), Some("Basic eDp5"));
}

#[tokio::test]
async fn what_frames_the_message_is_not_the_clients_to_drop() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let request = "POST / HTTP/1.1\r\nhost: shop.test\r\nconnection: host, content-length, x-forwarded-for\r\n\
        content-length: 4\r\n\r\nbody";
    proxy.exchange(request).await;
    let received = upstream.request();
    assert_eq!(received.body, b"body");
    assert_eq!(received.head.value("host"), Some("shop.test"));
    assert_eq!(received.head.value("x-forwarded-for"), Some("127.0.0.1"));
}

#[tokio::test]
async fn the_endpoint_learns_about_its_client_from_us_alone() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let request = "GET / HTTP/1.1\r\nhost: shop.test\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\n\
        X-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 6.6.6.6\r\n\
        Forwarded: for=6.6.6.6\r\n\r\n";
    proxy.exchange(request).await;
    let head = upstream.request().head;
    assert_eq!(head.value("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.value("x-forwarded-host"), Some("shop.test"));
    assert_eq!(head.value("x-forwarded-proto"), Some("http"));
    assert_eq!(head.value("x-forwarded-port"), Some(proxy.http().port().to_string().as_str()));
    for gone in ["x-real-ip", "forwarded"] {
        assert_eq!(head.value(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn headers_about_the_endpoints_connection_stay_behind() {
    let response = "HTTP/1.1 200 OK\r\nConnection: X-Foo, keep-alive\r\nX-Foo: 1\r\nKeep-Alive: timeout=5\r\n\
        Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-Kept: 2\r\nContent-Length: 2\r\n\r\nok";
    let upstream = Upstream::answering(response).await;
    let proxy = Proxy::before(&upstream).await;
    let answer = proxy.fetch("/").await;
    for gone in ["x-foo", "keep-alive", "proxy-authenticate", "upgrade", "connection"] {
        assert_eq!(answer.head.value(gone), None, "{gone}");
    }
    assert_eq!(answer.head.value("x-kept"), Some("2"));
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn an_answer_without_a_date_gets_one_and_another_keeps_its_own() {
    let upstream = Upstream::responding(|request| match request.target() {
        "/dated" => "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 0\r\n\r\n".into(),
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into(),
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    assert_eq!(proxy.fetch("/dated").await.head.value("date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    let answer = proxy.fetch("/").await;
    let date = httpdate::parse_http_date(answer.head.value("date").expect("there is a date")).expect("and it is one");
    assert!(date.elapsed().is_ok_and(|age| age.as_secs() < 10));
}

#[tokio::test]
async fn each_set_cookie_stays_a_line_of_its_own() {
    let response =
        "HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\nx: y\r\nSet-Cookie: b=2, c\r\ncontent-length: 0\r\n\r\n";
    let upstream = Upstream::answering(response).await;
    let proxy = Proxy::before(&upstream).await;
    assert_eq!(proxy.fetch("/").await.head.values("set-cookie"), ["a=1; Path=/", "b=2, c"]);
}

#[tokio::test]
async fn bytes_beyond_ascii_pass_both_ways() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nx-name: caf\u{e9}\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = Proxy::before(&upstream).await;
    let answer = proxy.exchange("GET / HTTP/1.1\r\nhost: shop.test\r\nx-name: na\u{ef}ve\r\n\r\n").await;
    assert_eq!(answer.head.value("x-name"), Some("caf\u{e9}"));
    assert_eq!(upstream.request().head.value("x-name"), Some("na\u{ef}ve"));
}
