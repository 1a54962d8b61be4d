//! Endpoints that speak HTTP/2: requests of many clients on one connection, and what an endpoint may do to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::sync::Notify;

use crate::support::http2::{Http2, Stream, collect, http2_endpoint, whole};
use crate::support::{Authority, Proxy, Setup, Upstream, Wire, eventually};

async fn before(upstream: &Upstream) -> Proxy {
    Setup::new().backend(&[upstream.url()], "protocol = \"h2\"").start().await
}

#[tokio::test]
async fn requests_of_many_clients_share_one_connection() {
    let (arrived, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counter, gate) = (Arc::clone(&arrived), Arc::clone(&go));
    let upstream = http2_endpoint(None, move |stream| {
        let (counter, gate) = (Arc::clone(&counter), Arc::clone(&gate));
        async move {
            let opened = gate.notified();
            counter.fetch_add(1, Ordering::SeqCst);
            opened.await;
            let target = stream.request.uri().path().to_owned();
            stream.answer(&target);
        }
    })
    .await;
    let proxy = before(&upstream).await;
    let targets: Vec<String> = (0..50).map(|index| format!("/{index}")).collect();
    let answers = join_all(targets.iter().map(|target| proxy.fetch(target)));
    let (answers, ()) = tokio::join!(answers, async {
        eventually("all of them are there at once", || arrived.load(Ordering::SeqCst) == 50).await;
        go.notify_waiters();
    });
    for (answer, target) in answers.iter().zip(&targets) {
        assert_eq!((answer.status(), answer.text()), (200, target.as_str()));
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn the_endpoint_sees_an_http2_request() {
    let upstream = http2_endpoint(None, |stream| async move {
        let (parts, headers) = (stream.request.uri().clone(), stream.request.headers());
        assert_eq!(parts, "http://shop.test:81/a?b=1");
        for gone in ["host", "connection", "transfer-encoding", "keep-alive"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
        assert_eq!(
            (&headers["te"], &headers["x-forwarded-for"]),
            (&"trailers".parse().unwrap(), &"127.0.0.1".parse().unwrap())
        );
        stream.answer("ok");
    })
    .await;
    let proxy = before(&upstream).await;
    let request = "GET /a?b=1 HTTP/1.1\r\nhost: shop.test:81\r\nte: trailers\r\nconnection: te, keep-alive\r\n\r\n";
    assert_eq!(proxy.exchange(request).await.text(), "ok");
}

#[tokio::test]
async fn a_host_that_is_none_never_becomes_the_endpoints_own_name() {
    let upstream = http2_endpoint(None, |stream| async move {
        let authority = stream.request.uri().authority().map(ToString::to_string);
        stream.answer(&authority.unwrap_or_default());
    })
    .await;
    let proxy = before(&upstream).await;
    for host in ["a b", "user@a", "a/b", "a\"b", "[::1", "caf\u{e9}", ""] {
        assert_eq!(proxy.exchange(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await.status(), 400, "{host}");
    }
    for host in ["[2001:db8::1]:81", "Shop.Test.:81", "a_b"] {
        assert_eq!(proxy.exchange(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await.text(), host);
    }
}

#[tokio::test]
async fn an_https_endpoint_agrees_to_http2_by_alpn() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    let upstream = http2_endpoint(Some(pair.acceptor(&["h2"])), |stream| async move {
        assert_eq!(stream.request.uri().scheme_str(), Some("https"));
        stream.answer("ok");
    })
    .await;
    let more = "protocol = \"h2\"\ntls = { ca = \"ca.pem\" }";
    let setup = Setup::new().file("ca.pem", &authority.pem).backend(&[upstream.url()], more);
    let proxy = setup.start().await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
    assert_eq!(proxy.fetch("/").await.text(), "ok");
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_https_endpoint_that_does_not_agree_is_a_502() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    let upstream =
        http2_endpoint(Some(pair.acceptor(&["http/1.1"])), |stream| async move { stream.answer("ok") }).await;
    let more = "protocol = \"h2\"\ntls = { ca = \"ca.pem\" }";
    let proxy = Setup::new().file("ca.pem", &authority.pem).backend(&[upstream.url()], more).start().await;
    assert_eq!(proxy.fetch("/").await.status(), 502);
}

#[tokio::test]
async fn bodies_and_trailers_pass_from_end_to_end() {
    let upstream = http2_endpoint(None, |Stream { request, mut respond, .. }| async move {
        let (body, trailers) = collect(request.into_body()).await.expect("the body ends");
        assert_eq!(
            (body.len(), &trailers.expect("there are trailers")["x-sum"]),
            (300_000, &HeaderValue::from_static("1"))
        );
        let mut stream = respond.send_response(Response::new(()), false).expect("the stream is open");
        stream.send_data(Bytes::from(body), false).expect("the stream is open");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-result", HeaderValue::from_static("fine"));
        stream.send_trailers(trailers).expect("the stream is open");
    })
    .await;
    let proxy = before(&upstream).await;
    let client = Http2::over(proxy.connect().await).await;
    let (response, mut body) = client.begin(Request::post("http://shop.test/").body(()).unwrap()).await;
    body.send_data(Bytes::from(vec![b'x'; 300_000]), false).expect("the stream is open");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    body.send_trailers(trailers).expect("the stream is open");
    let (status, message) = whole(response).await;
    assert_eq!((status.as_u16(), message.body.len()), (200, 300_000));
    assert_eq!(message.trailers.expect("there are trailers")["x-result"], "fine");
}

/// Fields for the end of a message.
fn trailers(names: &[&'static str]) -> HeaderMap {
    names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("7"))).collect()
}

#[tokio::test]
async fn trailers_say_nothing_that_only_a_head_may_say() {
    const ASKED: [&str; 11] = [
        "x-forwarded-for",
        "x_forwarded_for",
        "x-request-id",
        "client-cert",
        "host",
        "content-length",
        "authorization",
        "cookie",
        "cache-control",
        "x-sum",
        "grpc-status",
    ];
    const ANSWERED: [&str; 6] = ["set-cookie", "x_forwarded_user", "content-type", "x-request-id", "x-sum", "location"];
    let upstream = http2_endpoint(None, |Stream { request, mut respond, .. }| async move {
        let only_bad = request.uri().path() == "/bad";
        let (body, came) = collect(request.into_body()).await.expect("the body ends");
        assert_eq!(body, b"abc");
        let wanted = if only_bad { None } else { Some(trailers(&["x-sum", "grpc-status"])) };
        assert_eq!(came.filter(|came| !came.is_empty()), wanted);
        let mut stream = respond.send_response(Response::new(()), false).expect("the stream is open");
        stream.send_data(Bytes::from_static(b"ok"), false).expect("the stream is open");
        stream.send_trailers(trailers(if only_bad { &ANSWERED[..2] } else { &ANSWERED })).expect("the stream is open");
    })
    .await;
    let proxy = before(&upstream).await;
    let client = Http2::over(proxy.connect().await).await;
    for (target, asked, answered) in
        [("/", &ASKED[..], Some(trailers(&["x-request-id", "x-sum"]))), ("/bad", &ASKED[..9], None)]
    {
        let request = Request::post(format!("http://shop.test{target}")).body(()).unwrap();
        let (response, mut body) = client.begin(request).await;
        body.send_data(Bytes::from_static(b"abc"), false).expect("the stream is open");
        body.send_trailers(trailers(asked)).expect("the stream is open");
        let (status, message) = whole(response).await;
        assert_eq!((status.as_u16(), &message.body[..], message.trailers), (200, &b"ok"[..], answered));

        let fields: String = asked.iter().map(|name| format!("{name}: 7\r\n")).collect();
        let head = format!("POST {target} HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n");
        let answer = proxy.exchange(&format!("{head}\r\n3\r\nabc\r\n0\r\n{fields}\r\n")).await;
        assert_eq!(answer.text(), "ok", "from HTTP/1");
    }
    assert_eq!(upstream.connections(), 1, "each answer is over");
}

#[tokio::test]
async fn a_refused_stream_is_sent_again() {
    let upstream = http2_endpoint(None, |mut stream| async move {
        match stream.index {
            1 => stream.respond.send_reset(Reason::REFUSED_STREAM),
            _ => stream.answer("ok"),
        }
    })
    .await;
    let proxy = before(&upstream).await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
    // Not idempotent, but the endpoint promises that it did nothing.
    let answer = proxy.exchange("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!((answer.status(), answer.text()), (200, "ok"));
    proxy.metric_becomes("tidegate_upstream_replays_total", "blue", 1).await;
}

#[tokio::test]
async fn a_refusal_on_a_new_connection_is_sent_again_too() {
    let upstream = http2_endpoint(None, |mut stream| async move {
        match stream.index {
            0 => stream.respond.send_reset(Reason::REFUSED_STREAM),
            _ => stream.answer("ok"),
        }
    })
    .await;
    let proxy = before(&upstream).await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
}

#[tokio::test]
async fn a_stream_that_breaks_otherwise_is_a_502() {
    let upstream = http2_endpoint(None, |mut stream| async move {
        match stream.index {
            1 => stream.respond.send_reset(Reason::INTERNAL_ERROR),
            _ => stream.answer("ok"),
        }
    })
    .await;
    let proxy = before(&upstream).await;
    assert_eq!(proxy.fetch("/").await.text(), "ok");
    let answer = proxy.exchange("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(answer.status(), 502);
    assert_eq!(upstream.connections(), 1);
    assert_eq!(proxy.fetch("/").await.text(), "ok", "the connection is as good as before");
}

/// Serves requests; after the first on each connection it says GOAWAY, and finishes what is under way.
async fn leaving(finish: Arc<Notify>) -> Upstream {
    Upstream::scripted(move |wire: Wire, _| {
        let finish = Arc::clone(&finish);
        async move {
            let mut connection = h2::server::handshake(wire).await.expect("the handshake works");
            let mut first = true;
            while let Some(Ok((request, respond))) = connection.accept().await {
                let finish = Arc::clone(&finish);
                tokio::spawn(async move {
                    if request.uri().path() == "/slow" {
                        finish.notified().await;
                    }
                    Stream { request, respond, index: 0 }.answer("ok");
                });
                if std::mem::take(&mut first) {
                    connection.graceful_shutdown();
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_endpoint_that_goes_away_finishes_and_is_asked_on_a_new_connection() {
    let finish = Arc::new(Notify::new());
    let upstream = leaving(Arc::clone(&finish)).await;
    let proxy = before(&upstream).await;
    let mut slow = proxy.connect().await;
    slow.send("GET /slow HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
    eventually("it is under way", || upstream.connections() == 1).await;
    for _ in 0..10 {
        let answer = proxy.fetch("/").await;
        assert_eq!((answer.status(), answer.text()), (200, "ok"));
    }
    finish.notify_one();
    assert_eq!(slow.answer().await.text(), "ok");
}

#[tokio::test]
async fn an_endpoint_that_restarts_is_not_noticed_between_requests() {
    let upstream = http2_endpoint(None, |stream| async move { stream.answer("ok") }).await;
    let proxy = before(&upstream).await;
    for round in 1..4 {
        assert_eq!(proxy.fetch("/").await.text(), "ok");
        assert_eq!(upstream.connections(), round);
        upstream.close_all().await;
    }
}

#[tokio::test]
async fn neither_direction_waits_for_the_other() {
    let upstream = http2_endpoint(None, |Stream { request, mut respond, .. }| async move {
        // All of the answer's windows are full long before a byte of the request is read.
        let mut stream = respond.send_response(Response::new(()), false).expect("the stream is open");
        stream.send_data(Bytes::from(vec![b'y'; 8 << 20]), true).expect("the stream is open");
        let (body, _) = collect(request.into_body()).await.expect("the body ends");
        assert_eq!(body.len(), 3_000_000);
    })
    .await;
    let proxy = before(&upstream).await;
    let client = Http2::over(proxy.connect().await).await;
    let (response, mut body) = client.begin(Request::post("http://shop.test/").body(()).unwrap()).await;
    let response = response.await.expect("the answer begins");
    // Nothing of it is taken before all of the request has gone.
    let mut left = 3_000_000;
    while left > 0 {
        body.reserve_capacity(left);
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.expect("it is open").expect("it is open");
        let piece = room.min(left);
        left -= piece;
        body.send_data(Bytes::from(vec![b'x'; piece]), left == 0).expect("the stream is open");
    }
    let (body, _) = collect(response.into_body()).await.expect("the answer ends");
    assert_eq!(body.len(), 8 << 20);
}

#[tokio::test]
async fn an_answer_that_a_client_takes_back_ends_the_rest_of_its_request() {
    let (ended, wait) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (told, code) = (Arc::clone(&ended), Arc::clone(&wait));
    let upstream = http2_endpoint(None, move |Stream { request, mut respond, .. }| {
        let (told, code) = (Arc::clone(&told), Arc::clone(&code));
        async move {
            let _stream = respond.send_response(Response::new(()), false).expect("the stream is open");
            let error = collect(request.into_body()).await.expect_err("it is reset");
            code.store(error.reason().map_or(99, |reason| u32::from(reason) as usize), Ordering::SeqCst);
            told.notify_one();
        }
    })
    .await;
    let proxy = before(&upstream).await;
    let client = Http2::over(proxy.connect().await).await;
    let (response, mut body) = client.begin(Request::post("http://shop.test/").body(()).unwrap()).await;
    body.send_data(Bytes::from_static(b"half of it"), false).expect("the stream is open");
    drop(response.await.expect("the answer begins"));
    body.send_reset(Reason::CANCEL);
    ended.notified().await;
    assert_eq!(wait.load(Ordering::SeqCst), u32::from(Reason::CANCEL) as usize);
}
