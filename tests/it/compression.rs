//! Answers compressed on their way, and those that must not be.

use std::io::Read;

use crate::support::{Answer, Proxy, Setup, Upstream, Wire, get};

async fn proxy(upstream: &Upstream) -> Proxy {
    Setup::new().settings("[services.shop]\ncompression = {}").backend(&[upstream.url()], "").start().await
}

fn decoded(answer: &Answer) -> Vec<u8> {
    let (mut out, bytes) = (Vec::new(), &answer.body[..]);
    match answer.head.value("content-encoding") {
        Some("zstd") => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out),
        Some("br") => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out),
        Some("gzip") => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out),
        other => panic!("{other:?}"),
    }
    .unwrap();
    out
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
    for coding in ["zstd", "br", "gzip"] {
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
async fn what_the_endpoint_has_sent_is_not_held_back_and_a_broken_answer_is_seen() {
    for coding in ["zstd", "br", "gzip"] {
        let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
            wire.head().await;
            wire.send(
                "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n6\r\nfirst\n\r\n",
            )
            .await;
            // The client answers for the endpoint's going on: it asks for the rest by closing nothing.
            wire.until_silent(std::time::Duration::from_millis(300)).await;
        })
        .await;
        let proxy = proxy(&upstream).await;
        let mut client = proxy.connect().await;
        client.send(get("/", &format!("accept-encoding: {coding}\r\n"))).await;
        assert_eq!(client.head().await.value("content-encoding"), Some(coding));
        let mut seen = Vec::new();
        let mut line = [0; 6];
        loop {
            let chunk = client.chunk().await;
            assert!(!chunk.is_empty(), "{coding}: the line never comes");
            seen.extend_from_slice(&chunk);
            let read = match coding {
                "zstd" => zstd::stream::read::Decoder::new(&seen[..]).unwrap().read_exact(&mut line),
                "br" => brotli::Decompressor::new(&seen[..], 1).read_exact(&mut line),
                _ => flate2::read::GzDecoder::new(&seen[..]).read_exact(&mut line),
            };
            if read.is_ok() {
                break;
            }
        }
        assert_eq!(&line, b"first\n");
        let rest = client.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{coding}: a broken answer looks whole");
    }
}
