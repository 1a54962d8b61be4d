//! HTTP/1 messages: how bodies are framed, what has none, what is refused.

use crate::support::{Proxy, Refusing, Setup, Upstream, Wire};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_chunked_request_stays_chunked_and_whole() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n").await;
    let answer = client.exchange("6\r\n world\r\n0\r\n\r\n").await;
    assert_eq!(answer.text(), "ok");
    let received = upstream.request();
    assert_eq!(received.body, b"hello world");
    assert!(received.head.is_chunked());
    assert_eq!(received.head.content_length(), None);
}

#[tokio::test]
async fn a_get_keeps_its_body_even_where_its_length_is_unknown() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        let search =
            "GET /_search HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nquery\r\n0\r\n\r\n";
        assert_eq!(client.exchange(search).await.text(), "ok");
    }
    let received = upstream.requests();
    assert!(received.iter().all(|request| request.body == b"query" && request.head.is_chunked()));
    assert_eq!((received.len(), upstream.connections()), (2, 1), "the connection is used again");
}

#[tokio::test]
async fn each_chunk_of_an_answer_arrives_before_the_next_is_sent() {
    let (go, went) = tokio::sync::mpsc::channel::<()>(8);
    let went = std::sync::Arc::new(tokio::sync::Mutex::new(went));
    let upstream = Upstream::scripted(move |mut wire: Wire, _| {
        let went = std::sync::Arc::clone(&went);
        async move {
            wire.head().await;
            wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            for chunk in ["3\r\none\r\n", "3\r\ntwo\r\n", "0\r\n\r\n"] {
                went.lock().await.recv().await;
                wire.send(chunk).await;
            }
        }
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    client.send("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
    assert!(client.head().await.is_chunked());
    for chunk in ["one", "two", ""] {
        go.try_send(()).expect("the endpoint listens");
        assert_eq!(client.chunk().await, chunk.as_bytes());
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_becomes_a_chunked_one() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\n\r\nto the end").await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        let answer = client.exchange("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        assert!(answer.head.is_chunked());
        assert_eq!(answer.text(), "to the end");
    }
}

#[tokio::test]
async fn an_http10_endpoint_is_understood() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold").await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    for _ in 0..2 {
        let answer = proxy.fetch("/").await;
        assert_eq!((answer.head.line.as_str(), answer.text()), ("HTTP/1.1 200 OK", "old"));
    }
}

#[tokio::test]
async fn answers_without_a_body_keep_their_connection_in_step() {
    let upstream = Upstream::responding(|request| match request.head.line.split(' ').collect::<Vec<_>>()[..2] {
        ["HEAD", _] => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".into(),
        [_, "/204"] => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        [_, "/304"] => "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n".into(),
        _ => OK.into(),
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!((head.status(), head.content_length()), (200, Some(1000)));
        let answer = client.exchange("GET /204 HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        assert_eq!((answer.status(), answer.head.value("content-length")), (204, None));
        assert!(!answer.head.is_chunked());
        let answer = client.exchange("GET /304 HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        assert_eq!((answer.status(), answer.head.value("etag")), (304, Some("\"1\"")));
        assert_eq!(client.exchange("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.text(), "ok");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_client_that_expects_100_gets_it_and_then_sends() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    let head = "POST / HTTP/1.1\r\nhost: shop.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    assert_eq!(client.exchange(head).await.status(), 100);
    assert_eq!(client.exchange("body").await.text(), "ok");
    let received = upstream.request();
    assert_eq!(received.body, b"body");
    assert_eq!(received.head.value("expect"), None);
}

#[tokio::test]
async fn a_client_that_expects_100_learns_of_a_refusal_before_it_sends() {
    let nobody = Refusing::new();
    let proxy = Setup::new().backend(&[nobody.url()], "").impatient().start().await;
    let mut client = proxy.connect().await;
    let head = "POST / HTTP/1.1\r\nhost: shop.test\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
    assert_eq!(client.exchange(head).await.status(), 502);
}

#[tokio::test]
async fn declared_trailers_pass_both_ways() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        let head = wire.head().await;
        assert_eq!((head.value("te"), head.value("connection")), (Some("trailers"), Some("te")));
        let (body, trailers) = wire.chunked().await;
        assert_eq!(body, b"body");
        assert_eq!(trailers, [("x-sum".to_owned(), "1".to_owned())]);
        let head = "HTTP/1.1 200 OK\r\ntrailer: x-result\r\ntransfer-encoding: chunked\r\n\r\n";
        wire.send(format!("{head}2\r\nok\r\n0\r\nx-result: fine\r\n\r\n")).await;
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let head = "POST / HTTP/1.1\r\nhost: shop.test\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n\
        transfer-encoding: chunked\r\n\r\n";
    let answer = proxy.exchange(&format!("{head}4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n")).await;
    assert_eq!(answer.text(), "ok");
    assert_eq!(answer.trailers, [("x-result".to_owned(), "fine".to_owned())]);
}

#[tokio::test]
async fn a_client_that_does_not_take_trailers_gets_none() {
    let response = "HTTP/1.1 200 OK\r\ntrailer: x-result\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\
        x-result: fine\r\n\r\n";
    let upstream = Upstream::answering(response).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        let answer = client.exchange("GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
        assert_eq!(answer.text(), "ok");
        assert_eq!(answer.trailers, []);
    }
}

#[tokio::test]
async fn an_absolute_uri_names_the_host() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let answer = proxy.exchange("GET http://shop.test:81/x?y=1 HTTP/1.1\r\nhost: other.test\r\n\r\n").await;
    assert_eq!(answer.status(), 200);
    let head = upstream.request().head;
    assert_eq!((head.line.as_str(), head.value("host")), ("GET /x?y=1 HTTP/1.1", Some("shop.test:81")));
    let answer = proxy.exchange("GET http://shop.test?x=1 HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(upstream.requests()[1].head.line, "GET /?x=1 HTTP/1.1", "a query stands behind a path");
}

#[tokio::test]
async fn options_for_the_server_itself_passes() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    assert_eq!(proxy.exchange("OPTIONS * HTTP/1.1\r\nhost: shop.test\r\n\r\n").await.status(), 200);
    assert_eq!(upstream.request().head.line, "OPTIONS * HTTP/1.1");
}

#[tokio::test]
async fn a_request_that_cannot_be_trusted_is_refused_and_goes_nowhere() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let chunked = "transfer-encoding: chunked\r\n";
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost:\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: user@a\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: a,b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.0\r\nhost: a:b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: [::1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: caf\u{e9}\r\n\r\n".to_owned(), 400),
        ("GET http://user:pass@a/ HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), 400),
        ("GET http://a/ HTTP/1.1\r\nhost: a b\r\n\r\n".to_owned(), 400),
        ("CONNECT shop.test:443 HTTP/1.1\r\nhost: shop.test:443\r\n\r\n".to_owned(), 405),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(), 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na".to_owned(), 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        (format!("POST / HTTP/1.0\r\nhost: a\r\n{chunked}\r\n0\r\n\r\n"), 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nx-folded: 1\r\n 2\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n".to_owned(), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
    ] {
        assert_eq!(proxy.exchange(&request).await.status(), status, "{request:?}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn of_two_framings_one_reaches_the_endpoint() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let request = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
        3\r\nabc\r\n0\r\n\r\n";
    let answer = proxy.exchange(request).await;
    if answer.status() == 200 {
        let received = upstream.request();
        assert!(received.head.is_chunked() && received.head.content_length().is_none(), "{received:?}");
        assert_eq!(received.body, b"abc");
    } else {
        assert_eq!((answer.status(), upstream.connections()), (400, 0));
    }
}
