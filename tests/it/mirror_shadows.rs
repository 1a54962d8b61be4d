//! Shadows that are slow, broken or hostile. The client's answer is the same as without them, and comes as soon; what
//! became of the copies is counted under one reason each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::http2::{Http2, http2_endpoint};
use crate::support::{Proxy, Refusing, Setup, Upstream, Wire, backend, eventually, get, mirrored, named, within};

/// What a client notices. Far less than any shadow here takes.
const NOTICED: Duration = Duration::from_secs(1);
const REQUESTS: u64 = 10;
/// Copies in a row that must break before others are held back, and the shortest time between two probes then.
const BROKEN_MAX: u64 = 32;
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// Asks as an HTTP/1 and as an HTTP/2 client, each several times; every answer is blue's, and none is late.
async fn ask(proxy: &Proxy) {
    let mut http1 = proxy.connect().await;
    let http2 = Http2::over(TcpStream::connect(proxy.http()).await.expect("it listens")).await;
    let start = Instant::now();
    for _ in 0..REQUESTS / 2 {
        let answer = http1.exchange(get("/", "")).await;
        assert_eq!((answer.status(), answer.text()), (200, "blue"));
        let (status, answer) = http2.fetch("/").await;
        assert_eq!((status.as_u16(), answer.body.as_slice()), (200, &b"blue"[..]));
    }
    assert!(start.elapsed() < NOTICED, "{:?}", start.elapsed());
}

/// All copies are dropped for `why` where green does as `script` says with each connection.
async fn dropped<F>(why: &str, keys: &str, script: impl Fn(Wire, usize) -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (blue, green) = (named("blue").await, Upstream::scripted(script).await);
    let proxy = mirrored(&blue, &green, keys, "").start().await;
    ask(&proxy).await;
    proxy.copies_dropped(why, REQUESTS).await;
    assert_eq!(proxy.all_copies_dropped().await, REQUESTS);
    assert_eq!(proxy.metric("tidegate_mirror_copies_total", "").await, 0);
    assert_eq!(blue.requests().len() as u64, REQUESTS);
    proxy.copies_are_over().await;
    eventually("connections of dropped copies are closed", || green.open() == 0).await;
}

/// Reads and never answers.
async fn silence(mut wire: Wire, _: usize) {
    wire.rest().await;
}

#[tokio::test]
async fn one_that_never_answers_is_given_up() {
    dropped("timeout", "timeout = \"300ms\"", silence).await;
}

#[tokio::test]
async fn one_that_answers_garbage_is_broken() {
    dropped("broken", "", |mut wire: Wire, _| async move {
        wire.next_head().await;
        drop(wire.try_send("\0\x01 this is no HTTP\r\n\r\n").await);
        wire.rest().await;
    })
    .await;
}

#[tokio::test]
async fn one_that_hangs_up_is_broken() {
    dropped("broken", "", |mut wire: Wire, _| async move {
        wire.next_head().await;
    })
    .await;
}

#[tokio::test]
async fn one_that_resets_the_connection_is_broken() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let url = format!("http://{}", listener.local_addr().expect("it has an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            // Closed so, what is left is thrown away and the other side told at once.
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("it is open");
        }
    });
    let blue = named("blue").await;
    let settings = format!(
        "[services.shop.mirror]\nbackend = \"green\"\n{}[services.shop.backends.green]\nweight = 0\nendpoints = [{url:?}]\n",
        backend("blue", 1.0, &blue)
    );
    let proxy = Setup::new().settings(&settings).start().await;
    ask(&proxy).await;
    proxy.copies_dropped("broken", REQUESTS).await;
    assert_eq!(proxy.all_copies_dropped().await, REQUESTS);
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn one_that_breaks_off_in_the_middle_is_broken() {
    dropped("broken", "", |mut wire: Wire, _| async move {
        wire.next_head().await;
        drop(wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await);
    })
    .await;
}

#[tokio::test]
async fn one_that_switches_protocols_unasked_is_broken() {
    dropped("broken", "", |mut wire: Wire, _| async move {
        wire.next_head().await;
        drop(wire.try_send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n").await);
        wire.rest().await;
    })
    .await;
}

#[tokio::test]
async fn one_that_sends_an_infinite_body_is_cut_off() {
    dropped("answer_too_large", "answer_max = \"256KiB\"", |mut wire: Wire, _| async move {
        wire.next_head().await;
        let piece = vec![b'x'; 64 * 1024];
        drop(wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n").await);
        while wire.try_send(&piece).await.is_ok() {}
    })
    .await;
}

#[tokio::test]
async fn one_that_sends_byte_by_byte_is_given_up() {
    dropped("timeout", "timeout = \"300ms\"", |mut wire: Wire, _| async move {
        wire.next_head().await;
        drop(wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await);
        while wire.try_send("x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_that_speaks_http2_badly_is_broken_or_given_up() {
    let blue = named("blue").await;
    // Takes requests and resets each of them; the client never notices.
    let green =
        http2_endpoint(None, |mut stream| async move { stream.respond.send_reset(h2::Reason::INTERNAL_ERROR) }).await;
    let more = "protocol = \"h2\"\n";
    let proxy = mirrored(&blue, &green, "", more).start().await;
    ask(&proxy).await;
    proxy.copies_dropped("broken", REQUESTS).await;
    assert_eq!(proxy.all_copies_dropped().await, REQUESTS);
    let silent = Upstream::scripted(silence).await;
    let proxy = mirrored(&blue, &silent, "timeout = \"300ms\"", more).start().await;
    ask(&proxy).await;
    proxy.copies_dropped("timeout", REQUESTS).await;
}

#[tokio::test]
async fn one_that_sends_an_infinite_stream_is_cut_off() {
    let blue = named("blue").await;
    let green = http2_endpoint(None, |mut stream| async move {
        let mut body = stream.respond.send_response(http::Response::new(()), false).expect("the stream is open");
        body.reserve_capacity(usize::MAX >> 33);
        while let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
            if body.send_data(vec![b'x'; room].into(), false).is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = mirrored(&blue, &green, "answer_max = \"256KiB\"", "protocol = \"h2\"\n").start().await;
    ask(&proxy).await;
    proxy.copies_dropped("answer_too_large", REQUESTS).await;
    assert_eq!(proxy.all_copies_dropped().await, REQUESTS);
    // One stream's end is not the connection's.
    assert_eq!(green.connections(), 1);
}

#[tokio::test]
async fn a_call_that_streams_both_ways_notices_no_shadow_whether_it_answers_or_hangs() {
    let echo = || {
        http2_endpoint(None, |mut stream| async move {
            let mut send = stream.respond.send_response(http::Response::new(()), false).expect("the stream is open");
            let mut receive = stream.request.into_body();
            while let Some(Ok(data)) = receive.data().await {
                receive.flow_control().release_capacity(data.len()).expect("it was received");
                send.send_data(data, false).expect("the stream is open");
            }
            drop(send.send_data(Bytes::new(), true));
        })
    };
    let (blue, answering) = (echo().await, echo().await);
    let hanging = Upstream::scripted(silence).await;
    for (green, dropped) in [(&answering, 0), (&hanging, 1)] {
        let settings = format!(
            "[services.shop.mirror]\nbackend = \"green\"\nmethods = [\"POST\"]\nlarge_body = \"stream\"\ntimeout = \"2s\"\n\
             {}protocol = \"h2\"\n{}protocol = \"h2\"\n",
            backend("blue", 1.0, &blue),
            backend("green", 0.0, green)
        );
        let proxy = Setup::new().settings(&settings).start().await;
        let client = Http2::over(TcpStream::connect(proxy.http()).await.expect("it listens")).await;
        let mut request = Request::post("http://shop.test/shop.Chat/Talk").body(()).expect("it is one");
        request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
        let (response, mut send) = client.begin(request).await;
        let mut receive = within("the head", response).await.expect("it comes").into_body();
        for message in ["one", "two", "three"] {
            send.send_data(message.into(), false).expect("the stream is open");
            let echoed = within("an echo", receive.data()).await.expect("the stream goes on").expect("it is open");
            assert_eq!(echoed, message);
        }
        send.send_data(Bytes::new(), true).expect("the stream is open");
        while within("the end", receive.data()).await.is_some() {}
        proxy.copies_answered(1 - dropped).await;
        proxy.copies_dropped("timeout", dropped).await;
        assert_eq!(proxy.all_copies_dropped().await, dropped);
        proxy.copies_are_over().await;
    }
}

#[tokio::test]
async fn one_that_is_not_there_is_asked_once_a_second() {
    let (blue, nobody) = (named("blue").await, Refusing::new());
    let settings = format!(
        "[services.shop.mirror]\nbackend = \"green\"\n{}[services.shop.backends.green]\nweight = 0\nendpoints = [{:?}]\n",
        backend("blue", 1.0, &blue),
        nobody.url()
    );
    let proxy = Setup::new().settings(&settings).start().await;
    proxy.fetch("/").await;
    proxy.copies_dropped("connect", 1).await;
    ask(&proxy).await;
    let (connect, unavailable) = (
        proxy.metric("tidegate_mirror_dropped_total", "reason=\"connect\"").await,
        proxy.metric("tidegate_mirror_dropped_total", "reason=\"unavailable\"").await,
    );
    assert!(connect <= 3 && connect + unavailable == REQUESTS + 1, "{connect} {unavailable}");
    // Whether it can be connected to is the copies' affair.
    assert_eq!(proxy.endpoint(1, 0).await["state"], "up");
}

#[tokio::test]
async fn one_that_breaks_every_copy_gets_but_probes_until_one_ends_well() {
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{}\r\n", "x".repeat(2_000));
    for (why, answer) in [
        ("broken", String::new()),
        ("broken", "\0\x01 this is no HTTP\r\n\r\n".to_owned()),
        ("answer_too_large", chunked),
        ("answer_too_large", "HTTP/1.1 200 OK\r\ncontent-length: 2000\r\n\r\n".to_owned()),
    ] {
        let (blue, is_well) = (named("blue").await, Arc::new(AtomicBool::new(false)));
        let sees = Arc::clone(&is_well);
        let green = Upstream::scripted(move |mut wire: Wire, _| {
            let (answer, is_well) = (answer.clone(), Arc::clone(&sees));
            async move {
                while wire.next_head().await.is_some() {
                    if !is_well.load(Ordering::SeqCst) {
                        return drop(wire.try_send(&answer).await);
                    }
                    drop(wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await);
                }
            }
        })
        .await;
        let proxy = mirrored(&blue, &green, "answer_max = \"1KiB\"", "").start().await;
        let mut client = proxy.connect().await;
        let start = Instant::now();
        for _ in 0..BROKEN_MAX {
            assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
        }
        proxy.copies_dropped(why, BROKEN_MAX).await;
        proxy.metric_becomes("tidegate_mirror_held_back", "mirror=\"green\"", 1).await;
        for _ in 0..100 {
            assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
        }
        proxy.copies_are_over().await;
        let probes = proxy.metric("tidegate_mirror_dropped_total", &format!("reason=\"{why}\"")).await - BROKEN_MAX;
        let held_back = proxy.metric("tidegate_mirror_dropped_total", "reason=\"held_back\"").await;
        assert_eq!(probes + held_back, 100);
        assert!(u128::from(probes) <= start.elapsed().as_millis() / PAUSE_MIN.as_millis() + 1, "{probes}");
        let mirror = proxy.view("/v1/services/shop").await["mirrors"][0].clone();
        assert_eq!((&mirror["held_back"], &mirror["dropped"]["held_back"]), (&true.into(), &held_back.into()));

        is_well.store(true, Ordering::SeqCst);
        let recovering = async {
            while proxy.metric("tidegate_mirror_copies_total", "").await == 0 {
                client.exchange(get("/", "")).await;
            }
        };
        within("a probe that ends well", recovering).await;
        proxy.metric_becomes("tidegate_mirror_held_back", "", 0).await;
        proxy.copies_are_over().await;
        let answered = proxy.metric("tidegate_mirror_copies_total", "").await;
        for _ in 0..REQUESTS {
            client.exchange(get("/", "")).await;
        }
        proxy.copies_answered(answered + REQUESTS).await;
    }
}

#[tokio::test]
async fn one_that_breaks_every_other_copy_gets_all_of_them() {
    let (blue, count) = (named("blue").await, Arc::new(AtomicUsize::new(0)));
    let green = Upstream::scripted(move |mut wire: Wire, _| {
        let breaks = count.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        async move {
            wire.next_head().await;
            if !breaks {
                drop(wire.try_send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await);
            }
        }
    })
    .await;
    let proxy = mirrored(&blue, &green, "", "").start().await;
    let mut client = proxy.connect().await;
    for _ in 0..4 * BROKEN_MAX {
        client.exchange(get("/", "")).await;
    }
    proxy.copies_answered(2 * BROKEN_MAX).await;
    proxy.copies_dropped("broken", 2 * BROKEN_MAX).await;
    assert_eq!(proxy.metric("tidegate_mirror_dropped_total", "reason=\"held_back\"").await, 0);
}

#[tokio::test]
async fn an_answer_that_announces_too_much_is_given_up_at_its_head() {
    let (blue, green) = (
        named("blue").await,
        Upstream::scripted(|mut wire: Wire, _| async move {
            wire.next_head().await;
            drop(wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n").await);
            wire.rest().await;
        })
        .await,
    );
    let proxy = mirrored(&blue, &green, "timeout = \"1h\"", "").start().await;
    proxy.fetch("/").await;
    proxy.copies_dropped("answer_too_large", 1).await;
    proxy.copies_are_over().await;
    eventually("its connection is closed", || green.open() == 0).await;
}

#[tokio::test]
async fn the_answer_to_a_head_may_announce_anything() {
    let length = "content-length: 999999999999\r\n\r\n";
    let blue = Upstream::scripted(move |mut wire: Wire, _| async move {
        while wire.next_head().await.is_some() {
            wire.send(format!("HTTP/1.1 200 OK\r\n{length}")).await;
        }
    })
    .await;
    // Whose end comes by itself, after the head.
    let green = http2_endpoint(None, |mut stream| async move {
        let response = http::Response::builder().header("content-length", "999999999999").body(()).expect("it is one");
        let mut body = stream.respond.send_response(response, false).expect("the stream is open");
        drop(body.send_data(Bytes::new(), true));
    })
    .await;
    let proxy = mirrored(&blue, &green, "", "protocol = \"h2\"\n").start().await;
    let mut client = proxy.connect().await;
    client.send("HEAD / HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
    assert_eq!(client.head().await.status(), 200);
    proxy.copies_answered(1).await;
    assert_eq!(proxy.all_copies_dropped().await, 0);
}

#[tokio::test]
async fn one_that_is_a_hundred_times_slower_gets_what_it_can_take() {
    let blue = named("blue").await;
    let green = Upstream::scripted(|mut wire: Wire, _| async move {
        while wire.next_head().await.is_some() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    })
    .await;
    let proxy = mirrored(&blue, &green, "max_requests = 3", "").start().await;
    ask(&proxy).await;
    proxy.copies_are_over().await;
    let full = proxy.metric("tidegate_mirror_dropped_total", "reason=\"full\"").await;
    let answered = proxy.metric("tidegate_mirror_copies_total", "").await;
    assert!(full > 0 && answered >= 3 && full + answered == REQUESTS, "{full} {answered}");
    assert!(green.connections() <= 3);
}

#[tokio::test]
async fn one_that_does_not_read_a_body_has_its_copy_given_up_and_slows_nobody() {
    let blue = named("blue").await;
    let green = Upstream::scripted(|mut wire: Wire, _| async move {
        let mut byte = [0];
        drop(wire.read(&mut byte).await);
        std::future::pending::<()>().await;
    })
    .await;
    let keys = "methods = [\"POST\"]\nlarge_body = \"stream\"\nbody_max = \"256KiB\"\nmax_requests = 1000";
    let proxy = mirrored(&blue, &green, keys, "").start().await;
    // More than sockets hold.
    let body = vec![b'x'; 40 << 20];
    let head = format!("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {}\r\n\r\n", body.len());
    for _ in 0..2 {
        let answer = proxy.connect().await.exchange([head.as_bytes(), &body].concat()).await;
        assert_eq!((answer.status(), answer.text()), (200, "blue"));
    }
    proxy.copies_dropped("too_slow", 2).await;
    proxy.copies_are_over().await;
    assert!(blue.requests().iter().all(|request| request.body == body));
}

#[tokio::test]
async fn one_that_answers_early_and_never_reads_holds_nothing() {
    let blue = named("blue").await;
    let green = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.next_head().await;
        drop(wire.try_send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await);
        std::future::pending::<()>().await;
    })
    .await;
    let keys = "methods = [\"POST\"]\nlarge_body = \"stream\"\nbody_max = \"256KiB\"";
    let proxy = mirrored(&blue, &green, keys, "").start().await;
    let body = vec![b'x'; 40 << 20];
    let head = format!("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = proxy.connect().await.exchange([head.as_bytes(), &body].concat()).await;
    assert_eq!((answer.status(), answer.text()), (200, "blue"));
    proxy.copies_answered(1).await;
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_takes_its_copy_with_it() {
    let (blue, green) = (named("blue").await, named("green").await);
    for large_body in ["skip", "stream"] {
        let keys = format!("methods = [\"POST\"]\nlarge_body = \"{large_body}\"");
        let proxy = mirrored(&blue, &green, &keys, "").start().await;
        let before = blue.connections();
        let head = "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 100\r\n\r\nhalf";
        let mut http1 = proxy.connect().await;
        http1.send(head).await;
        let http2 = Http2::over(TcpStream::connect(proxy.http()).await.expect("it listens")).await;
        let request = Request::post("http://shop.test/").body(()).expect("it is one");
        let (_response, mut stream) = http2.begin(request).await;
        stream.send_data(Bytes::from_static(b"half"), false).expect("the stream is open");
        let has_half = |connection: usize| blue.bytes(connection).windows(4).any(|bytes| bytes == b"half");
        eventually("both halves arrive", || (before..before + 2).all(has_half)).await;
        drop(http1);
        stream.send_reset(h2::Reason::CANCEL);
        proxy.copies_dropped("request_broken", 2).await;
        assert_eq!(proxy.all_copies_dropped().await, 2);
        proxy.copies_are_over().await;
    }
    // Nobody got half a request for a whole one.
    assert_eq!(green.requests().len(), 0);
}

#[tokio::test]
async fn an_endless_body_has_its_copy_given_up_and_goes_on() {
    let blue = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.next_head().await;
        let mut buffer = vec![0; 64 * 1024];
        let mut read = 0;
        while read < 20 << 20 {
            read += wire.read(&mut buffer).await.expect("the proxy is there");
        }
        wire.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nblue").await;
    })
    .await;
    let green = named("green").await;
    let proxy = mirrored(&blue, &green, "methods = [\"POST\"]", "").start().await;
    let mut client = proxy.connect().await;
    client.send("POST / HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let chunk = [&b"10000\r\n"[..], &vec![b'x'; 0x10000], b"\r\n"].concat();
    let mut sent = 0;
    while sent < 21 << 20 && client.write_all(&chunk).await.is_ok() {
        sent += chunk.len();
    }
    assert_eq!(client.head().await.status(), 200);
    proxy.copies_dropped("body_too_large", 1).await;
    proxy.copies_are_over().await;
}
