//! HTTP/1 messages that two readers could read in two ways. Each is refused, with 400 and the end of its connection,
//! or passed on so that it can be read in one way only: then the client's next request, which came in the same write,
//! and another client's, on the same connection to the endpoint, arrive as what they are.

use std::fmt::Write;
use std::time::Duration;

use crate::support::{Proxy, Received, Upstream, Wire, eventually};

const FIRST: &str = "POST /first HTTP/1.1\r\nhost: shop.test\r\n";
const SECOND: &str = "GET /second HTTP/1.1\r\nhost: shop.test\r\n\r\n";

/// What has to become of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    /// 400, the end of the connection, and no endpoint sees a whole request.
    Refused,
    /// The same with 431.
    TooLarge,
    /// The endpoint gets this body; the connection goes on.
    Kept(&'static str),
    /// The endpoint gets this body; the connection ends with the answer.
    Closed(&'static str),
}
use Fate::{Closed, Kept, Refused, TooLarge};

async fn echo() -> Upstream {
    Upstream::responding(|request| {
        let target = request.target();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len()).into_bytes()
    })
    .await
}

/// Sends each message with another request behind it, and looks at all four ends.
async fn assert_fates(cases: impl IntoIterator<Item = (String, Fate)>) {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut wrong = String::new();
    for (message, fate) in cases {
        let before = upstream.requests().len();
        let mut client = proxy.connect().await;
        client.send(format!("{message}{SECOND}")).await;
        let mut statuses = Vec::new();
        let mut closing = false;
        while statuses.len() < 2
            && let Some(head) = client.next_head().await
        {
            closing = head.value("connection") == Some("close");
            client.bytes(head.content_length().unwrap_or(0)).await;
            statuses.push(head.status());
        }
        let ended = statuses.len() < 2;
        // Whatever came before, the endpoint's connections are in step.
        let after = proxy.fetch("/after").await;
        assert_eq!((after.status(), after.text()), (200, "/after"), "{message:?}");
        let received: Vec<_> = upstream.requests().split_off(before);
        let targets: Vec<&str> = received.iter().map(Received::target).collect();
        let body = received.first().map(|request| String::from_utf8_lossy(&request.body).into_owned());
        let right = match fate {
            Refused => statuses == [400] && ended && targets == ["/after"],
            TooLarge => statuses == [431] && ended && targets == ["/after"],
            Kept(wanted) => {
                statuses == [200, 200] && targets == ["/first", "/second", "/after"] && body.as_deref() == Some(wanted)
            }
            Closed(wanted) => {
                let once = statuses == [200] && ended && closing;
                once && targets == ["/first", "/after"] && body.as_deref() == Some(wanted)
            }
        };
        for request in &received {
            let framings = request.head.values("content-length").len() + request.head.values("transfer-encoding").len();
            assert!(framings <= 1, "{message:?} arrives as {request:?}");
        }
        if !right {
            let shown = message.chars().take(160).collect::<String>();
            let body = body.map(|body| body.chars().take(40).collect::<String>());
            writeln!(wrong, "{shown:?}: {fate:?}, but {statuses:?} and {targets:?} with {body:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    // All that any endpoint read ends its lines with CR LF.
    for connection in 0..upstream.connections() {
        let bytes = upstream.bytes(connection);
        let bare = bytes.windows(2).filter(|pair| pair[1] == b'\n' && pair[0] != b'\r').count();
        assert_eq!(bare, 0, "{}", String::from_utf8_lossy(&bytes));
    }
}

fn with_fields<'a>(cases: &'a [(&str, &str, Fate)]) -> impl Iterator<Item = (String, Fate)> + 'a {
    cases.iter().map(|(fields, body, fate)| (format!("{FIRST}{fields}\r\n{body}"), *fate))
}

fn with_chunks<'a>(cases: &'a [(&str, Fate)]) -> impl Iterator<Item = (String, Fate)> + 'a {
    cases.iter().map(|(chunks, fate)| (format!("{FIRST}transfer-encoding: chunked\r\n\r\n{chunks}"), *fate))
}

#[tokio::test]
async fn a_length_that_is_not_one_number_is_refused() {
    assert_fates(with_fields(&[
        ("content-length: 2\r\n", "ab", Kept("ab")),
        ("content-length: 2\r\nContent-Length: 2\r\n", "ab", Kept("ab")),
        ("content-length:   2  \r\n", "ab", Kept("ab")),
        ("content-length:\t2\r\n", "ab", Kept("ab")),
        ("content-length: 2\r\ncontent-length: 3\r\n", "abc", Refused),
        ("content-length: 0\r\ncontent-length: 2\r\n", "ab", Refused),
        ("content-length: 5,5\r\n", "abcde", Refused),
        ("content-length: 5, 6\r\n", "abcde", Refused),
        ("content-length: 5 5\r\n", "abcde", Refused),
        ("content-length: +5\r\n", "abcde", Refused),
        ("content-length: -5\r\n", "abcde", Refused),
        ("content-length: 0x5\r\n", "abcde", Refused),
        ("content-length: 5.0\r\n", "abcde", Refused),
        ("content-length: 5_0\r\n", "abcde", Refused),
        ("content-length: \"5\"\r\n", "abcde", Refused),
        ("content-length: \x0b5\r\n", "abcde", Refused),
        ("content-length: \u{665}\r\n", "abcde", Refused),
        ("content-length:\r\n", "", Refused),
        ("content-length: 18446744073709551615\r\n", "abcde", TooLarge),
        ("content-length: 18446744073709551616\r\n", "abcde", Refused),
        ("content-length: 36893488147419103237\r\n", "abcde", Refused),
    ]))
    .await;
}

#[tokio::test]
async fn a_transfer_encoding_is_chunked_alone_or_refused() {
    const ABC: &str = "3\r\nabc\r\n0\r\n\r\n";
    assert_fates(with_fields(&[
        ("transfer-encoding: chunked\r\n", ABC, Kept("abc")),
        ("Transfer-Encoding: Chunked\r\n", ABC, Kept("abc")),
        ("transfer-encoding:\tchunked \r\n", ABC, Kept("abc")),
        ("transfer-encoding: gzip, chunked\r\n", ABC, Refused),
        ("transfer-encoding: chunked, chunked\r\n", ABC, Refused),
        ("transfer-encoding: , chunked\r\n", ABC, Refused),
        ("transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n", ABC, Refused),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", ABC, Refused),
        ("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", ABC, Refused),
        ("transfer-encoding: chunked, gzip\r\n", ABC, Refused),
        ("transfer-encoding: chunked,\r\n", ABC, Refused),
        ("transfer-encoding: identity\r\n", "", Refused),
        ("transfer-encoding: xchunked\r\n", ABC, Refused),
        ("transfer-encoding: chunkedx\r\n", ABC, Refused),
        ("transfer-encoding: \"chunked\"\r\n", ABC, Refused),
        ("transfer-encoding: chunked;q=1\r\n", ABC, Refused),
        ("transfer-encoding: \x0bchunked\r\n", ABC, Refused),
        ("transfer-encoding: \x0cchunked\r\n", ABC, Refused),
        ("transfer-encoding: chunked\0\r\n", ABC, Refused),
        ("transfer-encoding:\r\n", ABC, Refused),
        ("transfer-encoding : chunked\r\n", ABC, Refused),
        ("transfer-encoding\t: chunked\r\n", ABC, Refused),
        ("x: y\r\n transfer-encoding: chunked\r\n", ABC, Refused),
        ("transfer-encoding:\r\n chunked\r\n", ABC, Refused),
        ("content-length: 2\r\ntransfer-encoding: identity\r\n", "ab", Refused),
    ]))
    .await;
}

#[tokio::test]
async fn of_a_length_and_chunks_only_the_chunks_pass_and_the_connection_ends() {
    const ABC: &str = "3\r\nabc\r\n0\r\n\r\n";
    assert_fates(with_fields(&[
        ("content-length: 4\r\ntransfer-encoding: chunked\r\n", ABC, Closed("abc")),
        ("transfer-encoding: chunked\r\ncontent-length: 4\r\n", ABC, Closed("abc")),
        ("transfer-encoding: chunked\r\ncontent-length: 13\r\n", ABC, Closed("abc")),
        ("content-length: 0\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n", ABC, Closed("abc")),
        ("content-length: 4\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n", ABC, Refused),
    ]))
    .await;
}

#[tokio::test]
async fn an_http10_request_has_no_chunks() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    for fields in ["", "connection: keep-alive\r\n", "content-length: 4\r\nconnection: keep-alive\r\n"] {
        let head = format!("POST /first HTTP/1.0\r\nhost: shop.test\r\n{fields}transfer-encoding: chunked\r\n\r\n");
        let mut client = proxy.connect().await;
        client.send(format!("{head}3\r\nabc\r\n0\r\n\r\n{SECOND}")).await;
        assert_eq!(client.answer().await.status(), 400);
        assert_eq!(client.rest().await, b"");
    }
    // Without any length there is no body: what follows isn't one, and isn't a request either.
    let mut client = proxy.connect().await;
    client.send(format!("POST /first HTTP/1.0\r\nhost: shop.test\r\n\r\n{SECOND}")).await;
    assert_eq!(client.answer().await.text(), "/first");
    assert_eq!(client.rest().await, b"");
    let received = upstream.request();
    assert_eq!((received.target(), &received.body[..]), ("/first", &b""[..]));
}

#[tokio::test]
async fn a_head_that_is_not_written_as_a_head_is_refused() {
    const REST: &str = "content-length: 0\r\n\r\n";
    let lines = [
        "POST  /first HTTP/1.1\r\n",
        "POST\t/first\tHTTP/1.1\r\n",
        "POST /first  HTTP/1.1\r\n",
        "POST /first HTTP/1.1 \r\n",
        "POST /first HTTP/1.1 x\r\n",
        "POST /fir st HTTP/1.1\r\n",
        "POST /first\x01 HTTP/1.1\r\n",
        "POST /first\x7f HTTP/1.1\r\n",
        "POST /first\0 HTTP/1.1\r\n",
        "POST /first\r HTTP/1.1\r\n",
        "POST /first HTTP/1.2\r\n",
        "POST /first HTTP/2.0\r\n",
        "POST /first HTTP/11\r\n",
        "POST /first http/1.1\r\n",
        "POST /first\r\n",
        "POST first HTTP/1.1\r\n",
        "POST shop.test:80 HTTP/1.1\r\n",
        "POST * HTTP/1.1\r\n",
        "POST HTTP/1.1\r\n",
        " POST /first HTTP/1.1\r\n",
        "P@ST: /first HTTP/1.1\r\n",
        "POST /first HTTP/1.1\r\r\n",
        "POST /first HTTP/1.1\r\n x: 1\r\n",
    ];
    let fields = [
        "x-folded: 1\r\n 2\r\n",
        "x-folded: 1\r\n\t2\r\n",
        "x: 1\r\n \r\n",
        "x : 1\r\n",
        "x\t: 1\r\n",
        " x: 1\r\n",
        "x\r\n",
        ": 1\r\n",
        "x y: 1\r\n",
        "x(: 1\r\n",
        "x\0: 1\r\n",
        "x\u{e9}: 1\r\n",
        "x\r: 1\r\n",
        "x: a\0b\r\n",
        "x: a\x01b\r\n",
        "x: a\x08b\r\n",
        "x: a\x0bb\r\n",
        "x: a\x1bb\r\n",
        "x: a\x7fb\r\n",
        "x: a\rb: c\r\n",
        "x: a\r\r\n",
    ];
    let lines = lines.iter().map(|line| (format!("{line}host: shop.test\r\n{REST}"), Refused));
    let fields = fields.iter().map(|fields| (format!("{FIRST}{fields}{REST}"), Refused));
    assert_fates(lines.chain(fields)).await;
}

#[tokio::test]
async fn line_ends_without_a_return_and_lines_too_many_are_written_anew() {
    assert_fates([
        ("POST /first HTTP/1.1\nhost: shop.test\ncontent-length: 2\n\nab".to_owned(), Kept("ab")),
        ("POST /first HTTP/1.1\r\nhost: shop.test\ncontent-length: 2\r\n\nab".to_owned(), Kept("ab")),
        // Whoever takes only CR LF for a line's end would see no length here.
        (format!("{FIRST}x: y\ncontent-length: 2\r\n\r\nab"), Kept("ab")),
        (format!("{FIRST}x: y\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"), Kept("ab")),
        (format!("\r\n{FIRST}content-length: 2\r\n\r\nab"), Kept("ab")),
        (format!("\r\n\r\n\r\n{FIRST}content-length: 2\r\n\r\nab"), Kept("ab")),
        (format!("\n\n{FIRST}content-length: 2\r\n\r\nab"), Kept("ab")),
        (format!("{FIRST}content-length: 2\r\n\r\nab\r\n"), Kept("ab")),
        (format!("{FIRST}x:\r\nx:  \r\ncontent-length:2\r\n\r\nab"), Kept("ab")),
    ])
    .await;
}

#[tokio::test]
async fn chunks_are_written_anew_and_broken_ones_end_the_request() {
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(17 * 1024));
    let many = format!("{}0\r\n\r\n", "1;xxxxxxxx\r\na\r\n".repeat(3000));
    assert_fates(with_chunks(&[
        ("3;name=value;other=\"x\"\r\nabc\r\n0;last\r\n\r\n", Kept("abc")),
        ("003\r\nabc\r\n000\r\n\r\n", Kept("abc")),
        ("3 \r\nabc\r\n0\t\r\n\r\n", Kept("abc")),
        ("A\r\n0123456789\r\n0\r\n\r\n", Kept("0123456789")),
        ("3;x\ny\r\nabc\r\n0\r\n\r\n", Refused),
        ("3;x\n\r\nabc\r\n0\r\n\r\n", Refused),
        ("3;x\ry\r\nabc\r\n0\r\n\r\n", Refused),
        ("3\nabc\n0\n\n", Refused),
        ("3\rabc\r\n0\r\n\r\n", Refused),
        (&long, Refused),
        (&many, Refused),
        ("10000000000000003\r\nabc\r\n0\r\n\r\n", Refused),
        ("-3\r\nabc\r\n0\r\n\r\n", Refused),
        ("+3\r\nabc\r\n0\r\n\r\n", Refused),
        ("0x3\r\nabc\r\n0\r\n\r\n", Refused),
        (" 3\r\nabc\r\n0\r\n\r\n", Refused),
        ("3 3\r\nabc\r\n0\r\n\r\n", Refused),
        ("\r\n0\r\n\r\n", Refused),
        ("g\r\n\r\n", Refused),
        ("3\r\nabc0\r\n\r\n", Refused),
        ("3\r\nabc\n0\r\n\r\n", Refused),
        ("3\r\nabcd\r\n0\r\n\r\n", Refused),
        ("5\r\nabc\r\n0\r\n\r\n", Refused),
        ("3\r\nabc\r\n", Refused),
    ]))
    .await;
}

#[tokio::test]
async fn a_body_without_its_last_chunk_never_looks_whole() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    for (framing, body) in [
        ("transfer-encoding: chunked", "3\r\nabc\r\n"),
        ("transfer-encoding: chunked", "3\r\nabc\r\n0\r\n"),
        ("content-length: 4", "abc"),
    ] {
        let mut client = proxy.connect().await;
        client.send(format!("{FIRST}{framing}\r\n\r\n{body}")).await;
        client.finish().await;
        client.rest().await;
    }
    eventually("the endpoint's connections are closed", || upstream.open() == 0).await;
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(proxy.fetch("/after").await.text(), "/after");
}

#[tokio::test]
async fn trailers_never_become_what_frames_or_routes_a_message() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            let (_, trailers) = wire.chunked().await;
            assert_eq!(trailers, [("x-sum".to_owned(), "1".to_owned())], "{head:?}");
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let names = "content-length, transfer-encoding, host, te, authorization, set-cookie, trailer, content-type, \
        x-forwarded-for, x-request-id, x_forwarded_user, client-cert, cookie, via";
    let head = format!("{FIRST}te: trailers\r\ntrailer: x-sum, {names}\r\ntransfer-encoding: chunked\r\n\r\n");
    let fields = names.split(", ").map(|name| format!("{name}: 7\r\n")).collect::<String>();
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        let answer =
            client.exchange(format!("{head}3\r\nabc\r\n0\r\n{fields}x-sum: 1\r\nx-undeclared: 1\r\n\r\n")).await;
        assert_eq!(answer.text(), "ok");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_request_for_h2c_is_an_ordinary_one() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    let connections = ["Upgrade, HTTP2-Settings", "upgrade", "HTTP2-Settings"];
    for connection in connections {
        let fields = format!("connection: {connection}\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n");
        let answer = client.exchange(format!("GET /first HTTP/1.1\r\nhost: shop.test\r\n{fields}\r\n")).await;
        assert_eq!((answer.status(), answer.text()), (200, "/first"));
    }
    for received in upstream.requests() {
        for name in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(received.head.value(name), None, "{received:?}");
        }
    }
    assert_eq!((upstream.requests().len(), upstream.connections()), (3, 1));
}

#[tokio::test]
async fn connect_opens_nothing() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    for target in ["shop.test:443", "127.0.0.1:22", &upstream.address.to_string()] {
        let mut client = proxy.connect().await;
        client.send(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\nraw bytes\r\n\r\n")).await;
        let mut statuses = Vec::new();
        while let Some(head) = client.next_head().await {
            client.bytes(head.content_length().unwrap_or(0)).await;
            statuses.push(head.status());
        }
        assert_eq!(statuses[0], 405);
        assert!(statuses[1..].iter().all(|status| *status == 400), "{statuses:?}");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn whatever_a_client_expects_the_endpoint_sees_one_whole_request() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    for (expect, continues) in [
        ("expect: 100-continue\r\n", true),
        ("Expect: 100-CONTINUE\r\n", true),
        ("expect: y 100-continue\r\n", false),
        ("expect: 100-continue, other\r\n", false),
        ("expect: something\r\n", false),
        ("expect:\r\n", false),
    ] {
        let before = upstream.requests().len();
        let mut client = proxy.connect().await;
        client.send(format!("{FIRST}{expect}content-length: 4\r\n\r\n")).await;
        if continues {
            assert_eq!(client.head().await.status(), 100, "{expect:?}");
        }
        client.send(format!("body{SECOND}")).await;
        assert_eq!(client.answer().await.text(), "/first", "{expect:?}");
        assert_eq!(client.answer().await.text(), "/second", "{expect:?}");
        let received = upstream.requests().split_off(before);
        assert_eq!((received.len(), &received[0].body[..]), (2, &b"body"[..]));
        assert_eq!(received[0].head.value("expect"), None);
    }
    // One that promises a body and has none.
    let mut client = proxy.connect().await;
    for _ in 0..2 {
        let request = "GET /first HTTP/1.1\r\nhost: shop.test\r\nexpect: 100-continue\r\n\r\n";
        assert_eq!(client.exchange(request).await.text(), "/first");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn an_endpoints_early_words_do_not_shift_its_answers() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        while let Some(head) = wire.next_head().await {
            let early = "HTTP/1.1 100 Continue\r\n\r\n".repeat(3);
            let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
            wire.send(format!("{early}{hints}")).await;
            wire.request_body(&head).await;
            let target = head.line.split(' ').nth(1).unwrap_or_default();
            wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len())).await;
        }
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    for target in ["/one", "/two", "/three"] {
        let head = format!("POST {target} HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 4\r\n\r\nbody");
        assert_eq!(client.exchange(head).await.text(), target);
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_body_refused_in_place_of_a_100_is_never_read_as_a_request() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 2\r\n\r\nno").await;
        // Of this request's body at most, and never used for another.
        assert!(wire.rest().await.len() <= SECOND.len());
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    let length = SECOND.len();
    client.send(format!("{FIRST}expect: 100-continue\r\ncontent-length: {length}\r\n\r\n")).await;
    let mut head = client.head().await;
    if head.status() == 100 {
        head = client.head().await;
    }
    assert_eq!(head.status(), 417);
    assert_eq!(client.bytes(2).await, b"no");
    // The client goes on as if nothing had been said.
    let _ = client.try_send(SECOND).await;
    client.until_silent(Duration::from_millis(300)).await;
    drop(client);
    eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
    assert_eq!(upstream.connections(), 1);
}
