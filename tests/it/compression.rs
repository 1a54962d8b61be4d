//! Answers compressed on their way, and those that must not be.

use std::io::Read;

use crate::support::http2::{Http2, collect, get as http2_get};
use crate::support::{Answer, Gate, Proxy, Setup, Upstream, Wire, curl, get, within};

const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

async fn proxy(upstream: &Upstream) -> Proxy {
    Setup::new().settings("[services.shop]\ncompression = {}").backend(&[upstream.url()], "").start().await
}

/// What can be read of a compressed body, whole or not, up to `limit` bytes.
fn readable(coding: &str, bytes: &[u8], limit: usize) -> Vec<u8> {
    let mut decoder: Box<dyn Read> = match coding {
        "zstd" => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        // Brotli's decoder wants to fill its buffer, or the end.
        "br" => Box::new(brotli::Decompressor::new(bytes, 1)),
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        other => panic!("{other}"),
    };
    let (mut out, mut byte) = (Vec::new(), [0]);
    while out.len() < limit && matches!(decoder.read(&mut byte), Ok(1)) {
        out.push(byte[0]);
    }
    out
}

fn decode(coding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "zstd" => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        other => panic!("{other}"),
    }
    .unwrap();
    out
}

fn decoded(answer: &Answer) -> Vec<u8> {
    decode(answer.head.value("content-encoding").expect("it is compressed"), &answer.body)
}

/// Text of two thousand bytes, all the same.
async fn text() -> Upstream {
    Upstream::responding(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2000\r\n\r\n";
        format!("{head}{}", "x".repeat(2000)).into_bytes()
    })
    .await
}

#[tokio::test]
async fn a_body_comes_back_byte_for_byte_in_every_coding_and_framing() {
    let upstream = Upstream::responding(|received| {
        let (kind, size) = received.target()[1..].split_once('/').unwrap();
        let body: Vec<u8> = (0..size.parse().unwrap()).map(|n: u32| (n % 251 + n / 7919) as u8).collect();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\netag: \"a\"\r\naccept-ranges: bytes\r\n";
        if kind == "cl" {
            return [format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), &body].concat();
        }
        let mut all = format!("{head}trailer: x-end\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
        for chunk in body.chunks(10_000) {
            all.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            all.extend_from_slice(&[chunk, b"\r\n"].concat());
        }
        [&all[..], b"0\r\nx-end: 1\r\n\r\n"].concat()
    })
    .await;
    let proxy = proxy(&upstream).await;
    for coding in CODINGS {
        for target in ["/chunked/0", "/chunked/1", "/chunked/1023", "/chunked/1048576", "/cl/1024", "/cl/1048576"] {
            let answer = proxy.exchange(&get(target, &format!("accept-encoding: {coding}\r\nte: trailers\r\n"))).await;
            assert_eq!(answer.head.value("content-encoding"), Some(coding), "{target}");
            assert_eq!(answer.head.value("etag"), Some("W/\"a\""));
            assert_eq!(answer.head.value("vary"), Some("accept-encoding"));
            assert_eq!((answer.head.content_length(), answer.head.value("accept-ranges")), (None, None));
            let size: u32 = target.rsplit('/').next().unwrap().parse().unwrap();
            assert!(decoded(&answer) == (0..size).map(|n| (n % 251 + n / 7919) as u8).collect::<Vec<_>>(), "{target}");
            if target.starts_with("/chunked") {
                assert_eq!(answer.trailers, [("x-end".to_owned(), "1".to_owned())], "{target}");
            }
        }
        let small = proxy.exchange(&get("/cl/1023", &format!("accept-encoding: {coding}\r\n"))).await;
        assert_eq!((small.head.value("content-encoding"), small.body.len()), (None, 1023));
    }
    let plain = proxy.exchange(&get("/cl/2000", "")).await;
    assert_eq!((plain.head.value("content-encoding"), plain.head.value("vary")), (None, Some("accept-encoding")));
    assert_eq!((plain.head.value("etag"), plain.body.len()), (Some("\"a\""), 2000));
}

#[tokio::test]
async fn what_must_not_be_compressed_is_not() {
    const LONG: &str = "content-length: 2000\r\n";
    for (status, fields) in [
        ("200 OK", "content-type: text/plain\r\ncontent-encoding: br\r\n"),
        ("200 OK", "content-type: text/plain\r\ncache-control: public, No-Transform\r\n"),
        ("200 OK", "content-type: text/event-stream\r\n"),
        ("200 OK", "content-type: application/grpc+json\r\n"),
        ("200 OK", "content-type: image/png\r\n"),
        ("200 OK", "content-type: text/plain\r\nrepr-digest: sha-256=:AA==:\r\n"),
        ("206 Partial Content", "content-type: text/plain\r\ncontent-range: bytes 0-1999/9000\r\n"),
        ("200 OK", ""),
    ] {
        let upstream = Upstream::responding(move |_| {
            format!("HTTP/1.1 {status}\r\n{fields}{LONG}\r\n{}", "x".repeat(2000)).into_bytes()
        })
        .await;
        let proxy = proxy(&upstream).await;
        let answer = proxy.exchange(&get("/", "accept-encoding: gzip\r\n")).await;
        assert_eq!(answer.body, vec![b'x'; 2000], "{fields}");
        assert_eq!(upstream.request().head.value("accept-encoding"), Some("gzip"));
    }
}

#[tokio::test]
async fn what_the_endpoint_has_sent_is_not_held_back() {
    for coding in CODINGS {
        let gate = Gate::shut().await;
        let proxy = proxy(&gate.upstream).await;
        let mut client = proxy.connect().await;
        client.send(get("/lines", &format!("accept-encoding: {coding}\r\n"))).await;
        assert_eq!(client.head().await.value("content-encoding"), Some(coding));
        let mut seen = Vec::new();
        while readable(coding, &seen, 6) != b"first\n" {
            let chunk = client.chunk().await;
            assert!(!chunk.is_empty(), "{coding}: the line never comes");
            seen.extend_from_slice(&chunk);
        }
        // Only now does the endpoint go on.
        gate.open();
        seen.extend_from_slice(&client.chunked().await.0);
        assert_eq!(decode(coding, &seen), b"first\nafter\n", "{coding}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_made_whole() {
    for coding in CODINGS {
        let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
            wire.head().await;
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
            wire.send(format!("{head}6\r\nfirst\n\r\n")).await;
        })
        .await;
        let proxy = proxy(&upstream).await;
        let mut client = proxy.connect().await;
        client.send(get("/", &format!("accept-encoding: {coding}\r\n"))).await;
        assert_eq!(client.head().await.value("content-encoding"), Some(coding));
        let rest = client.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{coding}: a broken answer looks whole");
        let client = Http2::over(proxy.connect().await).await;
        let response = within("an answer", client.ask(http2_request("/", coding)).await).await.expect("a head comes");
        let broken = collect(response.into_body()).await.expect_err("a broken answer looks whole");
        assert!(broken.is_reset(), "{broken}");
        proxy.metric_becomes("tidegate_compressions", "", 0).await;
    }
}

fn http2_request(target: &str, coding: &'static str) -> http::Request<()> {
    let mut request = http2_get(target);
    request.headers_mut().insert("accept-encoding", http::HeaderValue::from_static(coding));
    request
}

#[tokio::test]
async fn http2_clients_get_data_and_trailers() {
    let upstream = Upstream::responding(|_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntrailer: x-end\r\ntransfer-encoding: chunked\r\n";
        format!("{head}\r\n30d40\r\n{}\r\n0\r\nx-end: 1\r\nrepr-digest: ours\r\n\r\n", "x".repeat(200_000)).into_bytes()
    })
    .await;
    let proxy = proxy(&upstream).await;
    let client = Http2::over(proxy.connect().await).await;
    for coding in CODINGS {
        let (status, message) = client.exchange(http2_request("/", coding)).await;
        assert_eq!((status.as_u16(), &message.headers["content-encoding"]), (200, &coding.parse().unwrap()));
        assert!(!message.headers.contains_key("content-length"));
        assert_eq!(decode(coding, &message.body), vec![b'x'; 200_000]);
        let trailers = message.trailers.expect("there are trailers");
        assert_eq!(
            (trailers.len(), &trailers["x-end"]),
            (1, &"1".parse().unwrap()),
            "{coding}: the sum isn't true any more"
        );
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn curl_understands_every_coding() {
    let upstream = text().await;
    for coding in CODINGS {
        let settings = format!("[services.shop]\ncompression = {{ algorithms = [{coding:?}] }}");
        let proxy = Setup::new().settings(&settings).backend(&[upstream.url()], "").start().await;
        let url = format!("http://{}/", proxy.http());
        let shown = curl(&["--compressed", "--write-out", "\n%{size_download}", &url]).await;
        let (body, size) = shown.rsplit_once('\n').unwrap();
        assert_eq!(body, "x".repeat(2000), "{coding}");
        assert!(size.parse::<usize>().unwrap() < 100, "{coding}: {size}");
    }
}

#[tokio::test]
async fn answers_without_a_body_stay_without_one() {
    let upstream = Upstream::responding(|received| {
        let head = match received.target() {
            "/204" => "HTTP/1.1 204 No Content\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\n",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 2000\r\naccept-ranges: bytes\r\n",
        };
        format!("{head}content-type: text/plain\r\netag: \"a\"\r\n\r\n").into_bytes()
    })
    .await;
    let proxy = proxy(&upstream).await;
    let mut client = proxy.connect().await;
    for (method, target, etag, coding) in
        [("HEAD", "/", "W/\"a\"", Some("br")), ("GET", "/204", "\"a\"", None), ("GET", "/304", "W/\"a\"", None)]
    {
        client.send(format!("{method} {target} HTTP/1.1\r\nhost: shop.test\r\naccept-encoding: br\r\n\r\n")).await;
        // The next head follows at once: there is nothing between them.
        let head = client.head().await;
        assert_eq!((head.value("etag"), head.value("content-encoding")), (Some(etag), coding), "{target}");
        assert_eq!(head.value("vary").is_some(), coding.is_some(), "{target}");
        assert_eq!(head.content_length(), None, "{target}");
    }
    let client = Http2::over(proxy.connect().await).await;
    let mut request = http2_request("/", "br");
    *request.method_mut() = http::Method::HEAD;
    let (_, message) = client.exchange(request).await;
    assert_eq!((&message.headers["content-encoding"], message.body.len()), (&"br".parse().unwrap(), 0));
    assert_eq!(upstream.connections(), 1);
    assert_eq!(proxy.metric("tidegate_compressions", "").await, 0);
}

#[tokio::test]
async fn a_client_gets_no_coding_that_it_did_not_ask_for() {
    let upstream = text().await;
    let proxy = proxy(&upstream).await;
    for (field, coding) in [
        ("accept-encoding: identity;q=0", None),
        ("accept-encoding: identity;q=0, gzip;q=0.001", Some("gzip")),
        ("accept-encoding: gzip;q=0, *", Some("zstd")),
        ("accept-encoding: *;q=0", None),
        ("accept-encoding: deflate", None),
        ("accept-encoding: gzip\r\ncache-control: no-cache, no-transform", None),
    ] {
        let answer = proxy.exchange(&get("/", &format!("{field}\r\n"))).await;
        assert_eq!((answer.status(), answer.head.value("content-encoding")), (200, coding), "{field}");
        let body = if coding.is_some() { decoded(&answer) } else { answer.body };
        assert_eq!(body, vec![b'x'; 2000], "{field}");
    }
    let old = proxy.exchange("GET / HTTP/1.0\r\nhost: shop.test\r\naccept-encoding: gzip\r\n\r\n").await;
    assert_eq!((old.head.value("content-encoding"), old.head.content_length()), (None, Some(2000)));
    assert_eq!(old.body.len(), 2000);
}

#[tokio::test]
async fn more_answers_than_fit_at_once_are_sent_as_they_are() {
    let gate = Gate::shut().await;
    let settings = "[services.shop]\ncompression = { at_once = 2 }";
    let proxy = Setup::new().settings(settings).backend(&[gate.upstream.url()], "").start().await;
    let mut clients = Vec::new();
    for coding in [Some("gzip"), Some("gzip"), None] {
        let mut client = proxy.connect().await;
        client.send(get("/lines", "accept-encoding: gzip\r\n")).await;
        let head = client.head().await;
        assert_eq!(head.value("content-encoding"), coding);
        assert_eq!(head.value("vary"), Some("accept-encoding"));
        clients.push(client);
    }
    proxy.metric_becomes("tidegate_compressions", "", 2).await;
    proxy.metric_becomes("tidegate_compressions_skipped_total", "", 1).await;
    gate.open();
    let mut plain = clients.pop().unwrap();
    assert_eq!(plain.chunked().await.0, b"first\nafter\n");
    for client in &mut clients {
        assert_eq!(decode("gzip", &client.chunked().await.0), b"first\nafter\n");
    }
    proxy.metric_becomes("tidegate_compressions", "", 0).await;
    let answer = plain.exchange(get("/lines", "accept-encoding: gzip\r\n")).await;
    assert_eq!(decoded(&answer), b"first\nafter\n");
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_leaves_nothing_behind() {
    for coding in CODINGS {
        let gate = Gate::shut().await;
        let proxy = proxy(&gate.upstream).await;
        let mut client = proxy.connect().await;
        client.send(get("/lines", &format!("accept-encoding: {coding}\r\n"))).await;
        client.head().await;
        let other = Http2::over(proxy.connect().await).await;
        let response = within("an answer", other.ask(http2_request("/lines", coding)).await).await.unwrap();
        proxy.metric_becomes("tidegate_compressions", "", 2).await;
        drop((client, response));
        proxy.metric_becomes("tidegate_compressions", "", 0).await;
        proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
        // Half an answer is still on its way on those connections, so nobody else gets them.
        gate.open();
        let answer = proxy.exchange(&get("/lines", &format!("accept-encoding: {coding}\r\n"))).await;
        assert_eq!(decoded(&answer), b"first\nafter\n");
        assert_eq!(gate.upstream.connections(), 3);
    }
}

#[tokio::test]
async fn both_connections_are_used_again() {
    let upstream = text().await;
    let proxy = proxy(&upstream).await;
    let mut client = proxy.connect().await;
    for coding in CODINGS {
        for fields in [&*format!("accept-encoding: {coding}\r\n"), ""] {
            let answer = client.exchange(get("/", fields)).await;
            let body = if fields.is_empty() { answer.body } else { decoded(&answer) };
            assert_eq!(body, vec![b'x'; 2000], "{coding}");
        }
    }
    assert_eq!((upstream.connections(), upstream.requests().len()), (1, 6));
}
