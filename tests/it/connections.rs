//! How many connections are let in, how long one is used, and what becomes of those that carry no request.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use h2::client;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::Value;

use crate::support::http2::{self, Http2};
use crate::support::{Answer, Authority, OK, Proxy, Setup, Upstream, Wire, eventually, get, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn limited(upstream: &Upstream, settings: &str) -> Proxy {
    let setup = Setup::new().workers(2).top("access_log = \"stdout\"").settings(settings);
    setup.backend(&[upstream.url()], "").start().await
}

/// The lines of the access log that have an `error`.
fn errors(proxy: &Proxy) -> Vec<Value> {
    let text = std::fs::read_to_string(proxy.stdout()).expect("the proxy writes there");
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line.get("error").is_some()).collect()
}

async fn logged(proxy: &Proxy, error: &str, status: Option<u16>) {
    eventually(&format!("{error} is logged"), || {
        errors(proxy).iter().any(|line| {
            line["error"] == error
                && line["client"] == "127.0.0.1"
                && line.get("status") == status.map(Value::from).as_ref()
        })
    })
    .await;
}

/// Whether a connection is served rather than closed.
async fn is_served(mut wire: Wire) -> bool {
    if wire.try_send(get("/", "")).await.is_err() {
        return false;
    }
    wire.next_head().await.is_some()
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_others_go_on() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "[limits]\nconnections = 3").await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut wire = proxy.connect().await;
        assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
        inside.push(wire);
    }
    for _ in 0..20 {
        assert!(!is_served(proxy.connect().await).await);
    }
    proxy.metric_becomes("tidegate_connections_refused_total", "limit=\"connections\"", 20).await;
    proxy.metric_becomes("tidegate_connections_accepted_total", "", 3).await;
    for wire in &mut inside {
        assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
    }
    inside.pop();
    proxy.metric_becomes("tidegate_connections_open", "", 2).await;
    let mut next = proxy.connect().await;
    assert_eq!(next.exchange(get("/", "")).await.status(), 200);
    assert_eq!(upstream.requests().len(), 7);
}

#[tokio::test]
async fn one_client_can_not_take_the_places_of_others() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "[limits]\nconnections_per_client = 2").await;
    let greedy = Ipv4Addr::new(127, 0, 0, 2);
    let mut inside =
        vec![Wire::connect_from(greedy, proxy.http()).await, Wire::connect_from(greedy, proxy.http()).await];
    for wire in &mut inside {
        assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
    }
    for _ in 0..10 {
        assert!(!is_served(Wire::connect_from(greedy, proxy.http()).await).await);
    }
    proxy.metric_becomes("tidegate_connections_refused_total", "limit=\"connections_per_client\"", 10).await;
    assert_eq!(proxy.fetch("/").await.status(), 200, "another client isn't concerned");
    inside.pop();
    proxy.metric_becomes("tidegate_connections_open", "", 1).await;
    assert!(is_served(Wire::connect_from(greedy, proxy.http()).await).await);
}

#[tokio::test]
async fn a_listener_has_a_limit_of_its_own_that_a_reload_changes() {
    let upstream = Upstream::answering(OK).await;
    let small = "[[listeners]]\naddress = \"127.0.0.1:0\"\nconnections = 1";
    let backend = format!("[services.shop.backends.blue]\nweight = 1\nendpoints = [{:?}]", upstream.url());
    let mut proxy = Setup::new().settings(&format!("{small}\n{backend}")).start().await;
    let listening = proxy.log().into_iter().filter(|line| line["message"] == "listening").collect::<Vec<_>>();
    let address = listening[1]["address"].as_str().and_then(|text| text.parse().ok()).expect("an address is logged");
    let mut first = Wire::connect(address).await;
    assert_eq!(first.exchange(get("/", "")).await.status(), 200);
    assert!(!is_served(Wire::connect(address).await).await);
    assert_eq!(proxy.fetch("/").await.status(), 200, "the other listener isn't concerned");
    proxy.metric_becomes("tidegate_connections_refused_total", "limit=\"listener\"", 1).await;

    proxy.rewrite(&format!("{}\n{backend}", small.replace("= 1", "= 2")));
    proxy.reload_well().await;
    let mut second = Wire::connect(address).await;
    assert_eq!(second.exchange(get("/", "")).await.status(), 200);
    assert!(!is_served(Wire::connect(address).await).await, "who came before the reload counts");
}

#[tokio::test]
async fn without_a_limit_the_descriptors_set_one() {
    let upstream = Upstream::answering(OK).await;
    let setup = Setup::new().run_by(&["prlimit", "--nofile=200:200"]).backend(&[upstream.url()], "");
    let proxy = setup.start().await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(Wire::connect(proxy.http()).await);
    }
    proxy.metric_becomes("tidegate_connections_open", "", 75).await;
    // Their requests find descriptors for the other side.
    let answers = crowd.iter_mut().take(75);
    for wire in answers {
        assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
    }
    assert_eq!(proxy.metric("tidegate_accept_errors_total", "").await, 0);
    proxy.metric_becomes("tidegate_connections_refused_total", "limit=\"connections\"", 25).await;
}

#[tokio::test]
async fn a_descriptor_that_we_lack_is_not_held_against_the_endpoint() {
    const LAST: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let upstream = Upstream::answering(LAST).await;
    let proxy = Proxy::before(&upstream).await;
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get("/", "")).await.status(), 200);
    let limit = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(1_000) };
        prlimit(Some(proxy.pid()), Resource::Nofile, limit).expect("the process is ours");
    };
    limit(0);
    let answer = client.exchange(get("/", "")).await;
    assert_eq!((answer.status(), answer.head.value("retry-after")), (503, Some("1")));
    limit(1_000);
    assert_eq!(proxy.fetch("/").await.status(), 200, "at once");
    proxy.metric_becomes("tidegate_request_errors_total", "reason=\"exhausted\"", 1).await;
    assert_eq!(proxy.metric("tidegate_upstream_connect_errors_total", "").await, 0);
}

#[tokio::test]
async fn an_http1_connection_says_in_its_last_answer_that_it_is_the_last() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "[limits]\nrequests_per_connection = 3").await;
    for pipelined in [false, true] {
        let mut wire = proxy.connect().await;
        if pipelined {
            wire.send(get("/", "").repeat(5)).await;
        }
        let mut said = Vec::new();
        for _ in 0..3 {
            let answer: Answer = if pipelined { wire.answer().await } else { wire.exchange(get("/", "")).await };
            assert_eq!(answer.status(), 200);
            said.push(answer.head.value("connection").map(str::to_owned));
        }
        assert_eq!(said, [None, None, Some("close".to_owned())]);
        assert_eq!(wire.rest().await, b"", "and is closed");
    }
    // Our own answers count, too.
    let mut wire = proxy.connect().await;
    let bad = "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n";
    for wanted in [None, None, Some("close")] {
        let answer = wire.exchange(bad).await;
        assert_eq!((answer.status(), answer.head.value("connection")), (400, wanted));
    }
    assert_eq!(wire.rest().await, b"");
    assert_eq!(upstream.requests().len(), 6);
}

#[tokio::test]
async fn an_http2_connection_is_told_to_go_away_after_its_last_request() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "[limits]\nrequests_per_connection = 3").await;
    let stream = tokio::net::TcpStream::connect(proxy.http()).await.expect("connecting works");
    let (mut sender, connection) = client::handshake(stream).await.expect("the handshake works");
    let ended = tokio::spawn(connection);
    for _ in 0..3 {
        sender = sender.ready().await.expect("it isn't told before its last request");
        let (response, _) = sender.send_request(http2::get("/"), true).expect("the request is one");
        assert_eq!(http2::whole(response).await.0, 200);
    }
    drop(sender);
    within("the end", ended).await.expect("it runs").expect("a graceful end is no error");
    assert_eq!(upstream.requests().len(), 3);
}

#[tokio::test]
async fn heads_that_are_too_large_are_answered_431_and_nothing_reaches_the_endpoint() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "[limits]\nheader_bytes = \"4KiB\"\nheaders = 20").await;
    let many = "x-a: b\r\n".repeat(21);
    let long = format!("x-a: {}\r\n", "b".repeat(4096));
    for more in [&many, &long] {
        let mut wire = proxy.connect().await;
        let answer = wire.exchange(get("/", more)).await;
        assert_eq!((answer.status(), answer.head.value("connection")), (431, Some("close")));
        assert_eq!(wire.rest().await, b"");
    }
    logged(&proxy, "head_too_large", Some(431)).await;
    // An endless line, that never comes to its end.
    let mut wire = proxy.connect().await;
    wire.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-a: {}", "b".repeat(5000))).await;
    assert_eq!(wire.answer().await.status(), 431);
    proxy.metric_becomes("tidegate_requests_refused_total", "code=\"431\"", 3).await;
    proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"head_too_large\"", 3).await;

    let http2 = Http2::over(tokio::net::TcpStream::connect(proxy.http()).await.expect("connecting works")).await;
    let mut crumbs = http2::get("/");
    for index in 0..21 {
        crumbs.headers_mut().append("cookie", format!("a{index}=b").parse().expect("it is one"));
    }
    assert_eq!(http2.exchange(crumbs).await.0, 431, "each crumb of a cookie is a field");
    proxy.metric_becomes("tidegate_requests_refused_total", "code=\"431\"", 4).await;
    for bytes in [4096, 12_000] {
        let mut large = http2::get("/");
        large.headers_mut().insert("x-a", "b".repeat(bytes).parse().expect("it is one"));
        // h2 answers far too large ones by itself, and resets the stream.
        let answer = within("an answer", http2.ask(large).await).await.expect("an answer comes");
        assert_eq!(answer.status(), 431);
        proxy.metric_becomes("tidegate_requests_refused_total", "code=\"431\"", 5).await;
    }
    assert_eq!(http2.fetch("/").await.0, 200, "the connection goes on");
    let mut endless = http2::get("/");
    endless.headers_mut().insert("x-a", "b".repeat(60_000).parse().expect("it is one"));
    assert!(within("an end", http2.ask(endless).await).await.is_err(), "until it is an attack");
    logged(&proxy, "flood", None).await;
    assert_eq!(upstream.requests().len(), 1);
    // Twenty fields, and a head just below the limit.
    let answer = proxy.exchange(&get("/", &"x-a: b\r\n".repeat(19))).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(proxy.exchange(&get("/", &format!("x-a: {}\r\n", "b".repeat(3900)))).await.status(), 200);
}

#[tokio::test]
async fn what_is_no_http_is_answered_400_logged_and_counted() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "").await;
    for nonsense in
        ["\x16\x03\x01 hello\r\n\r\n", "GET / HTTP/1.1\r\nhost : a\r\n\r\n", "GET / HTTP/1.1\r\n folded: a\r\n\r\n"]
    {
        let mut wire = proxy.connect().await;
        let answer = wire.exchange(nonsense).await;
        assert_eq!(answer.status(), 400, "{nonsense:?}");
        assert_eq!(wire.rest().await, b"");
    }
    logged(&proxy, "malformed_head", Some(400)).await;
    proxy.metric_becomes("tidegate_requests_refused_total", "code=\"400\"", 3).await;
    proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"malformed_head\"", 3).await;
    assert_eq!(upstream.connections(), 0);

    // A client that just leaves, in the middle of a head or of a preface, has done nothing wrong.
    for half in ["GET / HTTP/1.1\r\nhos", "PRI * HT", ""] {
        let mut wire = proxy.connect().await;
        wire.send(half).await;
    }
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
    proxy.metric_becomes("tidegate_connection_errors_total", "", 3).await;
    eventually("all of it is logged", || errors(&proxy).len() == 3).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_logged_and_counted_as_408() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "[timeouts]\nheader_read = \"300ms\"").await;
    let mut wire = proxy.connect().await;
    wire.send("GET / HTTP/1.1\r\nx: ").await;
    // A byte now and then buys no time.
    let slow = async {
        while wire.try_send("a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let beside = async {
        let mut beside = proxy.connect().await;
        for _ in 0..20 {
            assert_eq!(beside.exchange(get("/", "")).await.status(), 200);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    within("the end of both", async { tokio::join!(slow, beside) }).await;
    logged(&proxy, "header_timeout", Some(408)).await;
    proxy.metric_becomes("tidegate_requests_refused_total", "code=\"408\"", 1).await;
    // The same with half a preface, which has no answer.
    let mut wire = proxy.connect().await;
    wire.send(&PREFACE[..10]).await;
    assert_eq!(wire.rest().await, b"");
    proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"header_timeout\"", 2).await;
}

#[tokio::test]
async fn frames_that_make_no_sense_end_their_connection_alone() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "").await;
    let beside = Http2::over(tokio::net::TcpStream::connect(proxy.http()).await.expect("connecting works")).await;
    // DATA on stream 0.
    let mut wire = proxy.connect().await;
    wire.send([PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 1, 0, 0, 0, 0, 0, 0, 7]].concat()).await;
    assert!(goaway(&wire.rest().await).is_some_and(|code| code == 1), "PROTOCOL_ERROR");
    logged(&proxy, "protocol_error", None).await;
    assert_eq!(beside.fetch("/").await.0, 200);
    proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"protocol_error\"", 1).await;
}

#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_opened_end_their_connection_alone() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.head().await;
        wire.rest().await;
    })
    .await;
    let proxy = limited(&upstream, "").await;
    let mut wire = proxy.connect().await;
    wire.send([PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).await;
    // `:method GET`, `:scheme http`, `:path /`, `:authority a`.
    let head = [0x82, 0x86, 0x84, 0x41, 1, b'a'];
    let mut flood = Vec::new();
    for id in (1_u32..4001).step_by(2) {
        flood.extend([0, 0, head.len() as u8, 1, 5].iter().chain(&id.to_be_bytes()).chain(&head));
        flood.extend([0, 0, 4, 3, 0].iter().chain(&id.to_be_bytes()).chain(&8_u32.to_be_bytes()));
    }
    let _ = wire.try_send(flood).await;
    assert!(goaway(&wire.rest().await).is_some_and(|code| code == 11), "ENHANCE_YOUR_CALM");
    logged(&proxy, "flood", None).await;
    proxy.metric_becomes("tidegate_connection_errors_total", "reason=\"flood\"", 1).await;
    proxy.metric_becomes("tidegate_requests_in_flight", "", 0).await;
    eventually("nothing is left upstream", || upstream.open() == 0).await;
}

/// The error code of a GOAWAY among frames.
fn goaway(mut frames: &[u8]) -> Option<u32> {
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, next) = rest.split_at_checked(length)?;
        if head[3] == 7 {
            return payload.get(4..8).map(|code| u32::from_be_bytes(code.try_into().expect("it has four bytes")));
        }
        frames = next;
    }
    None
}

#[tokio::test]
async fn an_http2_client_is_told_the_limits_that_are_configured() {
    let upstream = Upstream::answering(OK).await;
    let settings = "[limits]\nstreams = 7\nstream_window = \"32KiB\"\nconnection_window = \"128KiB\"";
    let proxy = limited(&upstream, settings).await;
    let mut wire = proxy.connect().await;
    wire.send([PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).await;
    let frames = wire.begun_until_silent(Duration::from_millis(300)).await;
    let length = u32::from_be_bytes([0, frames[0], frames[1], frames[2]]) as usize;
    let settings: Vec<(u16, u32)> = frames[9..9 + length]
        .chunks(6)
        .map(|s| (u16::from_be_bytes([s[0], s[1]]), u32::from_be_bytes([s[2], s[3], s[4], s[5]])))
        .collect();
    assert!(settings.contains(&(3, 7)), "streams: {settings:?}");
    assert!(settings.contains(&(4, 32 * 1024)), "window: {settings:?}");
    let update = frames.windows(13).find(|f| f[..4] == [0, 0, 4, 8]).expect("the connection's window is raised");
    assert_eq!(u32::from_be_bytes([update[9], update[10], update[11], update[12]]), 128 * 1024 - 65_535);
}

#[tokio::test]
async fn clients_that_never_begin_their_handshake_take_nothing_from_others() {
    const CROWD: usize = 200;
    let upstream = Upstream::answering(OK).await;
    let authority = Authority::new();
    let setup = Setup::new().certificate(&authority.pair(&["shop.test"])).backend(&[upstream.url()], "");
    let settings = "[timeouts]\ntls_handshake = \"800ms\"";
    let proxy = setup.settings(settings).start().await;
    let mut crowd = Vec::new();
    for index in 0..CROWD {
        let mut wire = Wire::connect(proxy.https()).await;
        // Half of them begin one: a record that promises 512 bytes.
        if index % 2 == 0 {
            wire.send(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03").await;
        }
        crowd.push(wire);
    }
    proxy.metric_becomes("tidegate_connections_open", "", CROWD as u64).await;
    let stream = authority.connect(proxy.https(), "shop.test", &[]).await;
    let mut good = Wire::new(stream);
    for _ in 0..20 {
        assert_eq!(good.exchange(get("/", "")).await.status(), 200);
    }
    for wire in &mut crowd {
        assert_eq!(wire.rest().await, b"");
    }
    proxy.metric_becomes("tidegate_tls_handshake_errors_total", "reason=\"timeout\"", CROWD as u64).await;
    assert_eq!(good.exchange(get("/", "")).await.status(), 200);
    proxy.metric_becomes("tidegate_connections_open", "", 1).await;
    // Other reasons have names of their own.
    let mut plain = Wire::connect(proxy.https()).await;
    plain.send(get("/", "")).await;
    plain.rest().await;
    proxy.metric_becomes("tidegate_tls_handshake_errors_total", "reason=\"not_tls\"", 1).await;
    let stranger = Authority::new();
    let refused = crate::support::connect(Arc::new(stranger.client(&[])), proxy.https(), "shop.test").await;
    assert!(refused.is_err());
    proxy.metric_becomes("tidegate_tls_handshake_errors_total", "reason=\"alert\"", 1).await;
}

#[tokio::test]
async fn a_flood_of_connections_costs_little_and_leaves_nothing_behind() {
    let upstream = Upstream::answering(OK).await;
    let proxy = limited(&upstream, "[limits]\nconnections = 50").await;
    let mut inside = proxy.connect().await;
    assert_eq!(inside.exchange(get("/", "")).await.status(), 200);
    let mut after_ten = 0;
    let counted = async || {
        let refused = proxy.metric("tidegate_connections_refused_total", "limit=\"connections\"").await;
        (refused, proxy.metric("tidegate_connections_accepted_total", "").await)
    };
    for round in 1..=30 {
        let mut crowd = Vec::new();
        for _ in 0..100 {
            crowd.push(Wire::connect(proxy.http()).await);
        }
        assert_eq!(inside.exchange(get("/", "")).await.status(), 200, "who is in goes on");
        let all = async { while counted().await != (51 * round, 1 + 49 * round) {} };
        within("all to be let in or refused", all).await;
        drop(crowd);
        proxy.metric_becomes("tidegate_connections_open", "", 1).await;
        // What is allocated once is there by then.
        if round == 10 {
            after_ten = proxy.memory_kb();
        }
    }
    let grown_kb = proxy.memory_kb().saturating_sub(after_ten);
    // The allocator takes 2 MiB at a time; what hyper holds for each connection would be ten times as much.
    assert!(grown_kb < 4096, "{grown_kb} KB more after three times the same");
    assert_eq!(proxy.fetch("/").await.status(), 200);
}
