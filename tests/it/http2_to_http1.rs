//! HTTP/2 messages that would become something else as HTTP/1. Each is sent as raw frames between two requests on the
//! same connection, one begun before it and one after: no byte of it may reach the endpoint, and where the fault is
//! one stream's, its neighbours don't notice.

use std::fmt::Write;

use crate::support::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Fate, Field, Frames, HEADERS, block, frame, get, post,
};
use crate::support::{Proxy, Upstream, Wire, eventually};

/// RFC 9113, 7.
const PROTOCOL_ERROR: u32 = 1;
const COMPRESSION_ERROR: u32 = 9;

const METHOD: Field = (b":method", b"GET");
const SCHEME: Field = (b":scheme", b"http");
const AUTHORITY: Field = (b":authority", b"shop.test");
const PATH: Field = (b":path", b"/bad");

async fn echo() -> Upstream {
    Upstream::responding(|request| {
        let target = request.target();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len()).into_bytes()
    })
    .await
}

/// What has to become of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    /// RST_STREAM; the neighbours live.
    Reset,
    /// 400 by us; the neighbours live.
    BadRequest,
    /// The field block itself is not one, so that the connection ends (RFC 9113, 5.4.1 allows it for any stream
    /// error, too).
    GoAway,
    /// The endpoint gets it, with this request line.
    Passes(&'static str),
}
use Answer::{BadRequest, GoAway, Passes, Reset};

struct Case {
    name: &'static str,
    /// Frames of stream 3, with all that belongs to the request.
    frames: Vec<u8>,
    answer: Answer,
}

fn head(name: &'static str, fields: &[Field], answer: Answer) -> Case {
    Case { name, frames: frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(fields)), answer }
}

/// A request that is good but for one more field.
fn field(name: &'static str, field: Field, answer: Answer) -> Case {
    head(name, &[METHOD, SCHEME, AUTHORITY, PATH, field], answer)
}

/// A request that is good but for the value of one pseudo-field.
fn pseudo(name: &'static str, (changed, value): Field, answer: Answer) -> Case {
    let fields =
        [METHOD, SCHEME, AUTHORITY, PATH].map(|(name, good)| (name, if name == changed { value } else { good }));
    head(name, &fields, answer)
}

async fn assert_answers(cases: Vec<Case>) {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let mut wrong = String::new();
    for Case { name, frames, answer } in cases {
        let before = upstream.requests().len();
        let mut client = Frames::open(proxy.http()).await;
        client.send(&post(1, "/begun-before")).await;
        client.send(&frames).await;
        let fate = client.fate(3).await;
        let right = match answer {
            Reset => fate == Fate::Reset(PROTOCOL_ERROR),
            BadRequest => fate == Fate::Answered(400),
            GoAway => matches!(fate, Fate::GoneAway(PROTOCOL_ERROR | COMPRESSION_ERROR)),
            Passes(_) => fate == Fate::Answered(200),
        };
        if !right {
            writeln!(wrong, "{name}: {answer:?}, but {fate:?}").unwrap();
        }
        if !matches!(fate, Fate::GoneAway(_) | Fate::Closed) {
            client.send(&frame(DATA, END_STREAM, 1, b"body")).await;
            assert_eq!(client.fate(1).await, Fate::Answered(200), "the neighbour before {name}");
            client.send(&get(5, "/begun-after")).await;
            assert_eq!(client.fate(5).await, Fate::Answered(200), "the neighbour after {name}");
        }
        // Whatever came before, the endpoint's connections are in step.
        assert_eq!(proxy.fetch("/another").await.text(), "/another", "{name}");
        let mut lines: Vec<_> = upstream.requests().split_off(before).into_iter().map(|r| r.head.line).collect();
        lines.retain(|line| !line.contains("/begun-") && !line.contains("/another"));
        let wanted = if let Passes(line) = answer { vec![line] } else { vec![] };
        if lines != wanted {
            writeln!(wrong, "{name}: the endpoint should get {wanted:?}, but got {lines:?}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[tokio::test]
async fn a_field_that_http1_would_read_as_two_or_as_its_own_is_refused() {
    assert_answers(vec![
        field("CR LF in a value", (b"x", b"a\r\nsmuggled: 1"), GoAway),
        field("LF in a value", (b"x", b"a\nsmuggled: 1"), GoAway),
        field("CR in a value", (b"x", b"a\rb"), GoAway),
        field("NUL in a value", (b"x", b"a\0b"), GoAway),
        field("a control character in a value", (b"x", b"a\x01b"), GoAway),
        field("DEL in a value", (b"x", b"a\x7fb"), GoAway),
        field("CR LF in a name", (b"x\r\nsmuggled", b"1"), GoAway),
        field("a colon in a name", (b"x:y", b"1"), GoAway),
        field("a space in a name", (b"x y", b"1"), GoAway),
        field("NUL in a name", (b"x\0y", b"1"), GoAway),
        field("an empty name", (b"", b"1"), GoAway),
        field("a name in upper case", (b"X-Upper", b"1"), GoAway),
        field("transfer-encoding", (b"transfer-encoding", b"chunked"), Reset),
        field("connection", (b"connection", b"close"), Reset),
        field("connection naming a field", (b"connection", b"authorization"), Reset),
        field("keep-alive", (b"keep-alive", b"timeout=5"), Reset),
        field("proxy-connection", (b"proxy-connection", b"close"), Reset),
        field("upgrade", (b"upgrade", b"h2c"), Reset),
        field("te other than trailers", (b"te", b"gzip"), Reset),
        field("te of trailers and more", (b"te", b"trailers, chunked"), Reset),
        field("te of trailers", (b"te", b"trailers"), Passes("GET /bad HTTP/1.1")),
    ])
    .await;
}

#[tokio::test]
async fn pseudo_fields_are_there_once_first_and_known() {
    assert_answers(vec![
        head("no method", &[SCHEME, AUTHORITY, PATH], Reset),
        head("no scheme", &[METHOD, AUTHORITY, PATH], Reset),
        head("no path", &[METHOD, SCHEME, AUTHORITY], Reset),
        head("no authority and no host", &[METHOD, SCHEME, PATH], BadRequest),
        head("a host alone", &[METHOD, SCHEME, PATH, (b"host", b"shop.test")], Passes("GET /bad HTTP/1.1")),
        head("two methods", &[METHOD, METHOD, SCHEME, AUTHORITY, PATH], Reset),
        head("two paths", &[METHOD, SCHEME, AUTHORITY, PATH, (b":path", b"/other")], Reset),
        head("two authorities", &[METHOD, SCHEME, AUTHORITY, AUTHORITY, PATH], Reset),
        head("two schemes", &[METHOD, SCHEME, SCHEME, AUTHORITY, PATH], Reset),
        head("a pseudo-field after a field", &[METHOD, SCHEME, AUTHORITY, (b"x", b"1"), PATH], Reset),
        head("an unknown pseudo-field", &[METHOD, SCHEME, AUTHORITY, PATH, (b":unknown", b"1")], GoAway),
        head("a status", &[METHOD, SCHEME, AUTHORITY, PATH, (b":status", b"200")], Reset),
        head("a protocol without CONNECT", &[METHOD, SCHEME, AUTHORITY, PATH, (b":protocol", b"websocket")], Reset),
        field("another host", (b"host", b"other.test"), BadRequest),
        field("the same host", (b"host", b"shop.test"), Passes("GET /bad HTTP/1.1")),
        head(
            "two hosts",
            &[METHOD, SCHEME, AUTHORITY, PATH, (b"host", b"shop.test"), (b"host", b"shop.test")],
            BadRequest,
        ),
    ])
    .await;
}

#[tokio::test]
async fn what_becomes_the_request_line_and_the_host_has_no_room_for_more() {
    assert_answers(vec![
        pseudo("CR LF in the method", (b":method", b"GET / HTTP/1.1\r\nx: "), GoAway),
        pseudo("a space in the method", (b":method", b"GET /other"), GoAway),
        pseudo("an empty method", (b":method", b""), GoAway),
        pseudo("CONNECT with a path", (b":method", b"CONNECT"), Reset),
        pseudo("CR LF in the path", (b":path", b"/ HTTP/1.1\r\nx: 1"), Reset),
        pseudo("a space in the path", (b":path", b"/other HTTP/1.1"), Reset),
        pseudo("NUL in the path", (b":path", b"/\0"), Reset),
        pseudo("a fragment in the path", (b":path", b"/bad#fragment"), Passes("GET /bad HTTP/1.1")),
        pseudo("an empty path", (b":path", b""), Reset),
        pseudo("a path without a slash", (b":path", b"bad"), Reset),
        pseudo("an absolute URI for a path", (b":path", b"http://other.test/bad"), Reset),
        pseudo("a star for a path", (b":path", b"*"), BadRequest),
        pseudo("CR LF in the authority", (b":authority", b"shop.test\r\nx: 1"), Reset),
        pseudo("a space in the authority", (b":authority", b"shop.test x"), Reset),
        pseudo("a path in the authority", (b":authority", b"shop.test/other"), Reset),
        pseudo("an empty authority", (b":authority", b""), Reset),
        pseudo("a name and password in the authority", (b":authority", b"name:word@shop.test"), BadRequest),
        pseudo("CR LF in the scheme", (b":scheme", b"http\r\nx: 1"), Reset),
        pseudo("a URI in the scheme", (b":scheme", b"http://other.test/?"), Reset),
    ])
    .await;
}

/// POST with a declared length, then DATA.
fn body(name: &'static str, length: &[u8], parts: &[&[u8]], answer: Answer) -> Case {
    let fields = [(&b":method"[..], &b"POST"[..]), SCHEME, AUTHORITY, PATH, (b"content-length", length)];
    let ended = if parts.is_empty() { END_STREAM } else { 0 };
    let mut frames = frame(HEADERS, END_HEADERS | ended, 3, &block(&fields));
    for (at, part) in parts.iter().enumerate() {
        let flags = if at + 1 == parts.len() { END_STREAM } else { 0 };
        frames.extend(frame(DATA, flags, 3, part));
    }
    Case { name, frames, answer }
}

#[tokio::test]
async fn a_body_is_as_long_as_its_head_says() {
    assert_answers(vec![
        body("as long", b"4", &[b"ab", b"cd"], Passes("POST /bad HTTP/1.1")),
        body("longer", b"2", &[b"abcd"], Reset),
        body("longer by a request", b"2", &[b"ab", b"GET /smuggled HTTP/1.1\r\n\r\n"], Reset),
        body("longer than nothing", b"0", &[b"GET /smuggled HTTP/1.1\r\n\r\n"], Reset),
        body("shorter", b"10", &[b"abcd"], Reset),
        body("none", b"10", &[], Reset),
        body("no number", b"x", &[b"abcd"], Reset),
        body("a sign", b"+4", &[b"abcd"], Reset),
        body("two numbers", b"4, 4", &[b"abcd"], Reset),
        body("larger than a number", b"18446744073709551620", &[b"abcd"], Reset),
        {
            let lengths: [Field; 2] = [(b"content-length", b"4"), (b"content-length", b"5")];
            let fields = [&[(&b":method"[..], &b"POST"[..]), SCHEME, AUTHORITY, PATH][..], &lengths].concat();
            let frames = [frame(HEADERS, END_HEADERS, 3, &block(&fields)), frame(DATA, END_STREAM, 3, b"abcd")];
            Case { name: "two lengths", frames: frames.concat(), answer: Reset }
        },
    ])
    .await;
}

fn trailers(name: &'static str, fields: &[Field], answer: Answer) -> Case {
    let mut frames = post(3, "/bad");
    frames.extend(frame(DATA, 0, 3, b"body"));
    frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, 3, &block(fields)));
    Case { name, frames, answer }
}

#[tokio::test]
async fn trailers_are_fields_and_nothing_else() {
    assert_answers(vec![
        trailers("a field", &[(b"x-sum", b"1")], Passes("POST /bad HTTP/1.1")),
        // h2 drops it.
        trailers("a pseudo-field", &[(b":path", b"/other")], Passes("POST /bad HTTP/1.1")),
        trailers("transfer-encoding", &[(b"transfer-encoding", b"chunked")], Reset),
        trailers("connection", &[(b"connection", b"close")], Reset),
        trailers("CR LF", &[(b"x", b"a\r\n\r\nGET /smuggled HTTP/1.1")], GoAway),
        Case {
            name: "trailers that end nothing",
            frames: [post(3, "/bad"), frame(HEADERS, END_HEADERS, 3, &block(&[(b"x", b"1")]))].concat(),
            answer: Reset,
        },
    ])
    .await;
}

#[tokio::test]
async fn frames_out_of_their_order_end_the_connection() {
    let upstream = echo().await;
    let proxy = Proxy::before(&upstream).await;
    let open = || frame(HEADERS, END_STREAM, 3, &block(&[METHOD, SCHEME]));
    for (name, frames) in [
        ("another frame within a field block", [open(), frame(DATA, 0, 1, b"x")].concat()),
        ("another stream's CONTINUATION", [open(), frame(CONTINUATION, END_HEADERS, 5, &[])].concat()),
        ("a CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 3, &block(&[PATH]))),
        ("DATA of a stream that never was", frame(DATA, 0, 9, b"x")),
        ("HEADERS on stream 0", frame(HEADERS, END_HEADERS | END_STREAM, 0, &block(&[METHOD]))),
        ("HEADERS on a server's stream", frame(HEADERS, END_HEADERS | END_STREAM, 2, &block(&[METHOD, SCHEME]))),
        ("a block that is no HPACK", frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0xff; 8])),
        ("a reference to nothing", frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0xbe])),
    ] {
        let mut client = Frames::open(proxy.http()).await;
        client.send(&frames).await;
        let fate = client.fate(3).await;
        assert!(matches!(fate, Fate::GoneAway(1..)), "{name}: {fate:?}");
    }
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(proxy.fetch("/after").await.text(), "/after");
}

#[tokio::test]
async fn a_body_that_turns_out_wrong_never_looks_whole_to_the_endpoint() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await;
    let proxy = Proxy::before(&upstream).await;
    for (index, case) in
        [body("longer", b"6", &[b"ab", b"cdefGET /smuggled"], Reset), body("shorter", b"6", &[b"ab", b"c"], Reset)]
            .into_iter()
            .enumerate()
    {
        let mut client = Frames::open(proxy.http()).await;
        // The head and a part first, and the rest once the endpoint has them.
        let first = case.frames.windows(2).position(|pair| pair == b"ab").expect("it stands there") + 2;
        client.send(&case.frames[..first]).await;
        eventually("the part arrives", || upstream.bytes(index).ends_with(b"ab")).await;
        client.send(&case.frames[first..]).await;
        assert_eq!(client.fate(3).await, Fate::Reset(PROTOCOL_ERROR), "{}", case.name);
        eventually("the endpoint's connection is closed", || upstream.open() == 0).await;
        let received = upstream.bytes(index);
        let at = received.windows(4).position(|end| end == b"\r\n\r\n").expect("there is a head") + 4;
        assert!(received.len() - at < 6, "{}", String::from_utf8_lossy(&received));
    }
}
