//! Clients that speak HTTP/2: how they get to it, and how many requests share a connection, whatever the endpoint
//! speaks.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use tokio::sync::Semaphore;

use crate::support::http2::{Http2, Message, collect, get, whole};
use crate::support::{Authority, Proxy, Setup, Upstream, Wire, curl, eventually, within};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn echo() -> Upstream {
    Upstream::responding(|request| {
        let target = request.target();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len()).into_bytes()
    })
    .await
}

async fn secure(upstream: &Upstream) -> (Authority, Proxy) {
    let authority = Authority::new();
    let setup = Setup::new().certificate(&authority.pair(&["shop.test"]));
    (authority, setup.backend(&[upstream.url()], "").start().await)
}

async fn plain(proxy: &Proxy) -> Http2 {
    Http2::over(proxy.connect().await).await
}

fn text(message: &Message) -> &str {
    std::str::from_utf8(&message.body).expect("the body is text")
}

#[tokio::test]
async fn tls_clients_get_the_protocol_they_ask_for() {
    let upstream = echo().await;
    let (authority, proxy) = secure(&upstream).await;
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = authority.connect(proxy.https(), "shop.test", offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        if agreed == Some(b"h2") {
            let (status, message) = Http2::over(stream).await.fetch("/h2").await;
            assert!(!message.headers.contains_key("connection"));
            assert_eq!((status.as_u16(), text(&message)), (200, "/h2"));
        } else {
            let answer = Wire::new(stream).exchange("GET /h1 HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
            assert_eq!(answer.text(), "/h1");
        }
    }
    assert!(upstream.requests().iter().all(|received| received.head.value("x-forwarded-proto") == Some("https")));
}

#[tokio::test]
async fn curl_speaks_each_version_to_us() {
    let upstream = echo().await;
    let (_authority, proxy) = secure(&upstream).await;
    let (http, https) = (proxy.http(), proxy.https());
    let show = ["--insecure", "--write-out", " %{http_version}"];
    for (version, url, shown) in [
        ("--http1.0", format!("http://{http}/a"), "/a 1"),
        ("--http1.1", format!("http://{http}/a"), "/a 1.1"),
        // curl asks to upgrade; prior knowledge is the only way to HTTP/2 without TLS.
        ("--http2", format!("http://{http}/a"), "/a 1.1"),
        ("--http2-prior-knowledge", format!("http://{http}/a"), "/a 2"),
        ("--http1.1", format!("https://{https}/a"), "/a 1.1"),
        ("--http2", format!("https://{https}/a"), "/a 2"),
    ] {
        let arguments = [&show[..], &[version, &url]].concat();
        assert_eq!(curl(&arguments).await, shown, "{version} {url}");
    }
}

#[tokio::test]
async fn a_preface_may_come_byte_by_byte() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut wire = proxy.connect().await;
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        wire.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    // An empty SETTINGS, byte by byte, too.
    for byte in [0, 0, 0, 4, 0, 0, 0, 0, 0] {
        wire.send([byte]).await;
    }
    let frame = wire.bytes(9).await;
    assert_eq!(frame[3], 4, "we answer with our own SETTINGS");
}

#[tokio::test]
async fn what_begins_like_a_preface_may_still_be_http1() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut wire = proxy.connect().await;
    for byte in b"PROPFIND /x HTTP/1.1\r\nhost: shop.test\r\n\r\n" {
        wire.send([*byte]).await;
    }
    assert_eq!(wire.answer().await.text(), "/x");
    assert_eq!(upstream.request().head.line, "PROPFIND /x HTTP/1.1");
}

#[tokio::test]
async fn requests_share_a_connection_without_waiting_for_each_other() {
    let gate = Arc::new(Semaphore::new(0));
    let closed = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |mut wire: Wire, _| {
        let closed = Arc::clone(&closed);
        async move {
            while let Some(head) = wire.next_head().await {
                if head.line.contains("/slow") {
                    closed.acquire().await.expect("the gate stays").forget();
                }
                wire.send(OK).await;
            }
        }
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let client = plain(&proxy).await;
    let mut slow = Vec::new();
    for _ in 0..60 {
        slow.push(client.ask(get("/slow")).await);
    }
    eventually("they are all under way", || upstream.connections() == 60).await;
    assert_eq!(text(&client.fetch("/fast").await.1), "ok");
    gate.add_permits(slow.len());
    for response in slow {
        assert_eq!(whole(response).await.0, 200);
    }
}

#[tokio::test]
async fn the_authority_becomes_the_host() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let client = plain(&proxy).await;
    let request = Request::get("http://shop.test:81/a").header("x-forwarded-host", "evil.test").body(()).unwrap();
    assert_eq!(client.exchange(request).await.0, 200);
    let head = upstream.request().head;
    assert_eq!((head.line.as_str(), head.value("host")), ("GET /a HTTP/1.1", Some("shop.test:81")));
    assert_eq!(head.value("x-forwarded-host"), Some("shop.test:81"));
    let request = Request::get("http://shop.test/").header("host", "other.test").body(()).unwrap();
    assert_eq!(client.exchange(request).await.0, 400, "two names for one target");
    for uri in ["http://user@shop.test/", "http://a%20b/", "http://a;b/"] {
        let request = uri.parse().ok().and_then(|uri: http::Uri| Request::get(uri).body(()).ok());
        if let Some(request) = request {
            assert_eq!(client.exchange(request).await.0, 400, "{uri}");
        }
    }
    let request = Request::get("http://shop.test/").header("host", "shop.test@evil").body(()).unwrap();
    assert_eq!(client.exchange(request).await.0, 400);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn cookie_crumbs_reach_an_http1_endpoint_as_one_line() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let request = get("/").map(|()| ());
    let (mut parts, ()) = request.into_parts();
    for crumb in ["a=1", "b=2", "c=3"] {
        parts.headers.append("cookie", HeaderValue::from_static(crumb));
    }
    plain(&proxy).await.exchange(Request::from_parts(parts, ())).await;
    assert_eq!(upstream.request().head.values("cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn a_body_of_unknown_length_reaches_an_http1_endpoint_in_chunks() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let client = plain(&proxy).await;
    let (response, mut body) = client.begin(Request::post("http://shop.test/").body(()).unwrap()).await;
    for part in ["one", "two"] {
        body.send_data(Bytes::from(part), false).expect("the stream is open");
    }
    body.send_data(Bytes::new(), true).expect("the stream is open");
    assert_eq!(whole(response).await.0, 200);
    let received = upstream.request();
    assert!(received.head.is_chunked());
    assert_eq!(received.body, b"onetwo");
}

#[tokio::test]
async fn a_body_of_known_length_keeps_it() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let client = plain(&proxy).await;
    let request = Request::post("http://shop.test/").header("content-length", "6").body(()).unwrap();
    let (response, mut body) = client.begin(request).await;
    body.send_data(Bytes::from("onetwo"), true).expect("the stream is open");
    assert_eq!(whole(response).await.0, 200);
    let received = upstream.request();
    assert_eq!((received.head.content_length(), &received.body[..]), (Some(6), &b"onetwo"[..]));
}

#[tokio::test]
async fn trailers_pass_between_http2_and_an_http1_endpoint() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        let head = wire.head().await;
        assert_eq!((head.value("te"), head.value("trailer")), (Some("trailers"), Some("x-sum")));
        assert_eq!(wire.chunked().await, (b"body".to_vec(), vec![("x-sum".to_owned(), "1".to_owned())]));
        let head = "HTTP/1.1 200 OK\r\ntrailer: x-result\r\ntransfer-encoding: chunked\r\n\r\n";
        wire.send(format!("{head}2\r\nok\r\n0\r\nx-result: fine\r\n\r\n")).await;
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let client = plain(&proxy).await;
    let request = Request::post("http://shop.test/").header("te", "trailers").header("trailer", "x-sum");
    let (response, mut body) = client.begin(request.body(()).unwrap()).await;
    body.send_data(Bytes::from("body"), false).expect("the stream is open");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    body.send_trailers(trailers).expect("the stream is open");
    let (_, message) = whole(response).await;
    assert_eq!(text(&message), "ok");
    assert_eq!(message.trailers.expect("there are trailers")["x-result"], "fine");
}

#[tokio::test]
async fn an_answer_cut_short_resets_its_stream_and_no_other() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        let head = wire.head().await;
        let cut = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n";
        wire.send(if head.line.contains("/cut") { cut } else { OK }).await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let client = plain(&proxy).await;
    let response = within("an answer", client.ask(get("/cut")).await).await.expect("the head comes");
    let error = collect(response.into_body()).await.expect_err("the body breaks off");
    assert!(error.is_reset(), "{error}");
    assert_eq!(text(&client.fetch("/whole").await.1), "ok");
}

#[tokio::test]
async fn a_request_that_is_reset_ends_at_the_endpoint_too() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let client = plain(&proxy).await;
    let (_response, mut body) = client.begin(get("/")).await;
    eventually("the request has arrived", || upstream.open() == 1).await;
    body.send_reset(h2::Reason::CANCEL);
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn an_idle_connection_is_told_to_go_away() {
    let upstream = echo().await;
    let timeouts = "[timeouts]\nkeep_alive = \"300ms\"";
    let proxy = Setup::new().backend(&[upstream.url()], "").settings(timeouts).start().await;
    let client = plain(&proxy).await;
    client.fetch("/").await;
    let mut sender = client.sender.clone();
    let ended = async {
        loop {
            match sender.ready().await {
                Ok(ready) => sender = ready,
                Err(_) => return,
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within("the connection to go away", ended).await;
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
}
