//! Copies of requests: which are made, what they carry, and that nothing but their own numbers shows them.

use bytes::Bytes;
use http::Request;

use crate::support::http2::{Http2, get as get_http2, http2_endpoint, whole};
use crate::support::{Gate, Proxy, Setup, Upstream, Wire, backend, eventually, get, mirrored, named};

async fn green() -> Upstream {
    Upstream::answering("HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await
}

/// `POST /` with a body of a known length.
fn post(body: &[u8]) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn copies(green: &Upstream, count: usize) {
    eventually(&format!("{count} copies arrive"), || green.requests().len() >= count).await;
    assert_eq!(green.requests().len(), count);
}

#[tokio::test]
async fn a_copy_is_the_request_as_its_own_endpoint_got_it_and_says_that_it_is_one() {
    let (blue, green) = (named("blue").await, green().await);
    let proxy = mirrored(&blue, &green, "", "").start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let fields = format!("cookie: a=1\r\nx-mine: yes\r\ntraceparent: {trace}\r\ntidegate-mirror: shop/blue\r\n");
    let answer = proxy.exchange(&get("/path?query=1", &fields)).await;
    assert_eq!((answer.status(), answer.text()), (200, "blue"));
    copies(&green, 1).await;
    let (request, copy) = (blue.request().head, green.request().head);
    assert_eq!(copy.line, "GET /path?query=1 HTTP/1.1");
    // What a stranger says of copies is not believed.
    assert_eq!((request.value("tidegate-mirror"), copy.value("tidegate-mirror")), (None, Some("shop/green")));
    for name in ["host", "cookie", "x-mine", "x-request-id", "x-forwarded-for", "via", "traceparent"] {
        assert!(copy.value(name).is_some(), "{name} is missing");
        assert_eq!(copy.value(name), request.value(name), "{name}");
    }
    proxy.copies_answered(1).await;
    proxy.metric_becomes("tidegate_mirror_copies_total", "code=\"2xx\"", 1).await;
    assert_eq!(proxy.all_copies_dropped().await, 0);
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn a_copy_asks_for_another_host_and_lacks_what_is_redacted() {
    let (blue, green) = (named("blue").await, green().await);
    let keys = "host_suffix = \"-shadow\"\nredact = { headers = [\"authorization\"], cookies = [\"session\"] }";
    let proxy = mirrored(&blue, &green, keys, "").start().await;
    proxy.exchange(&get("/", "authorization: Basic c2VjcmV0\r\ncookie: session=1; theme=dark\r\n")).await;
    copies(&green, 1).await;
    let copy = green.request().head;
    assert_eq!((copy.value("host"), copy.value("authorization")), (Some("shop.test-shadow"), None));
    assert_eq!((copy.value("cookie"), copy.value("x-forwarded-host")), (Some("theme=dark"), Some("shop.test")));
    assert!(blue.request().head.value("authorization").is_some());
}

#[tokio::test]
async fn only_what_is_asked_for_is_copied() {
    let (blue, green) = (named("blue").await, green().await);
    let keys = "routes = [{ path = \"/api\" }, { path_exact = \"/one\" }]
match = { headers = { x-tenant = \"acme\" }, networks = [\"127.0.0.0/8\"] }";
    let proxy = mirrored(&blue, &green, keys, "").start().await;
    let acme = "x-tenant: acme\r\n";
    for (target, fields) in
        [("/", acme), ("/apix", acme), ("/one/two", acme), ("/api", ""), ("/one", "x-tenant: b\r\n")]
    {
        assert_eq!(proxy.exchange(&get(target, fields)).await.status(), 200);
    }
    let api = get("/api/x", acme);
    proxy.exchange(&api.replacen("GET", "POST", 1)).await;
    proxy.exchange(&api.replacen("GET", "DELETE", 1)).await;
    proxy.exchange(&api).await;
    proxy.exchange(&get("/one", acme)).await;
    copies(&green, 2).await;
    let targets: Vec<_> = green.requests().iter().map(|copy| copy.target().to_owned()).collect();
    assert_eq!(targets, ["/api/x", "/one"]);
    assert_eq!(proxy.all_copies_dropped().await, 0);
}

#[tokio::test]
async fn what_a_rule_sends_somewhere_is_copied_and_what_goes_to_the_mirror_itself_is_not() {
    let (blue, green) = (named("blue").await, named("green").await);
    let rules = "[[services.shop.rules]]\nbackend = \"green\"\nheaders = { x-to = \"green\" }\n\
                 [[services.shop.rules]]\nbackend = \"blue\"\nheaders = { x-to = \"blue\" }\n";
    let proxy = mirrored(&blue, &green, "", rules).start().await;
    assert_eq!(proxy.exchange(&get("/", "x-to: green\r\n")).await.text(), "green");
    assert_eq!(proxy.exchange(&get("/", "x-to: blue\r\n")).await.text(), "blue");
    proxy.copies_answered(1).await;
    let marks: Vec<_> = green.requests().iter().map(|r| r.head.value("tidegate-mirror").map(str::to_owned)).collect();
    assert_eq!(marks, [None, Some("shop/green".to_owned())]);
    assert_eq!(blue.requests().len(), 1);
    // Only what a client was answered counts as the backend's.
    proxy.metric_becomes("tidegate_requests_total", "backend=\"green\"", 1).await;
}

#[tokio::test]
async fn a_websocket_is_never_copied() {
    let (gate, green) = (Gate::shut().await, green().await);
    let proxy = mirrored(&gate.upstream, &green, "", "").start().await;
    let mut client = proxy.connect().await;
    client.open_socket().await;
    client.assert_echo("more").await;
    proxy.fetch("/").await;
    copies(&green, 1).await;
    assert_eq!(green.request().target(), "/");
}

#[tokio::test]
async fn second_attempts_are_not_copied() {
    let (blue, green) = (named("blue").await, green().await);
    let broken = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.next_head().await;
    })
    .await;
    let urls = [broken.url(), blue.url()];
    let settings = format!(
        "[services.shop.mirror]\nbackend = \"green\"\n[services.shop.backends.blue]\nweight = 1\nendpoints = {urls:?}\n{}",
        backend("green", 0.0, &green)
    );
    let proxy = Setup::new().settings(&settings).start().await;
    for _ in 0..20 {
        assert_eq!(proxy.fetch("/").await.status(), 200);
    }
    assert!(proxy.metric("tidegate_retries_total", "").await > 0);
    copies(&green, 20).await;
}

#[tokio::test]
async fn several_mirrors_get_a_copy_each() {
    let (blue, green, red) = (named("blue").await, green().await, green().await);
    let settings = format!(
        "[[services.shop.mirror]]\nbackend = \"green\"\n[[services.shop.mirror]]\nbackend = \"red\"\nmethods = [\"POST\"]\n{}{}{}",
        backend("blue", 1.0, &blue),
        backend("green", 0.0, &green),
        backend("red", 0.0, &red)
    );
    let proxy = Setup::new().settings(&settings).start().await;
    proxy.fetch("/").await;
    proxy.exchange(&String::from_utf8(post(b"body")).expect("it is text")).await;
    copies(&green, 1).await;
    copies(&red, 1).await;
    assert_eq!((green.request().head.line.as_str(), red.request().body.as_slice()), ("GET / HTTP/1.1", &b"body"[..]));
}

#[tokio::test]
async fn a_body_is_copied_whole_whatever_its_framing() {
    let (blue, green) = (named("blue").await, green().await);
    let proxy = mirrored(&blue, &green, "methods = [\"POST\"]", "").start().await;
    proxy.connect().await.exchange(post(b"known length")).await;
    copies(&green, 1).await;
    let chunked = "POST / HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n\r\n\
                   3\r\none\r\n3\r\ntwo\r\n0\r\nx-sum: 6\r\n\r\n";
    proxy.exchange(chunked).await;
    copies(&green, 2).await;
    let client = Http2::over(tokio::net::TcpStream::connect(proxy.http()).await.expect("it listens")).await;
    let request = Request::post("http://shop.test/").body(()).expect("it is one");
    let (response, mut body) = client.begin(request).await;
    body.send_data(Bytes::from_static(b"over "), false).expect("the stream is open");
    body.send_data(Bytes::from_static(b"HTTP/2"), true).expect("the stream is open");
    assert_eq!(whole(response).await.0, 200);
    copies(&green, 3).await;
    let bodies: Vec<_> = green.requests().iter().map(|copy| String::from_utf8(copy.body.clone()).unwrap()).collect();
    assert_eq!(bodies, ["known length", "onetwo", "over HTTP/2"]);
    assert_eq!(bodies, blue.requests().iter().map(|r| String::from_utf8(r.body.clone()).unwrap()).collect::<Vec<_>>());
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn a_larger_body_is_not_copied_or_streamed_as_configured() {
    let (blue, green) = (named("blue").await, green().await);
    let keys = "methods = [\"POST\"]\nbody_max = \"64KiB\"\nanswer_max = \"1KiB\"";
    let body = vec![b'x'; 10 << 20];
    let chunked = |body: &[u8]| {
        let head =
            format!("POST / HTTP/1.1\r\nhost: shop.test\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n", body.len());
        [head.as_bytes(), body, b"\r\n0\r\n\r\n"].concat()
    };
    let proxy = mirrored(&blue, &green, keys, "").start().await;
    for request in [post(&body), chunked(&body)] {
        assert_eq!(proxy.connect().await.exchange(request).await.status(), 200);
    }
    proxy.copies_dropped("body_too_large", 2).await;
    assert_eq!(green.requests().len(), 0);
    // Sent in one piece, it comes faster than anybody could take it: a client that waits for us doesn't.
    let keys = format!("{keys}\nlarge_body = \"stream\"").replace("64KiB", "8MiB");
    let proxy = mirrored(&blue, &green, &keys, "").start().await;
    for request in [post(&body), chunked(&body)] {
        let mut client = proxy.connect().await;
        for piece in request.chunks(1 << 20) {
            client.send(piece).await;
        }
        assert_eq!(client.answer().await.status(), 200);
    }
    copies(&green, 2).await;
    assert!(green.requests().iter().all(|copy| copy.body == body));
    proxy.copies_are_over().await;
}

#[tokio::test]
async fn http2_clients_and_http2_backends_have_copies_too() {
    let blue = http2_endpoint(None, |stream| async move { stream.answer("blue") }).await;
    let (tell, mut told) = tokio::sync::mpsc::channel(16);
    let green = http2_endpoint(None, move |stream| {
        let tell = tell.clone();
        async move {
            let mark = stream.request.headers()["tidegate-mirror"].clone();
            tell.try_send((stream.request.uri().to_string(), mark)).expect("there is room");
            stream.answer("green");
        }
    })
    .await;
    let settings = format!(
        "[services.shop.mirror]\nbackend = \"green\"\nhost_suffix = \"-shadow\"\n{}protocol = \"h2\"\n{}protocol = \"h2\"\n",
        backend("blue", 1.0, &blue),
        backend("green", 0.0, &green)
    );
    let proxy = Setup::new().settings(&settings).start().await;
    let client = Http2::over(tokio::net::TcpStream::connect(proxy.http()).await.expect("it listens")).await;
    for _ in 0..5 {
        assert_eq!(client.exchange(get_http2("/x")).await.1.body, b"blue");
    }
    proxy.copies_answered(5).await;
    let (uri, mark) = told.recv().await.expect("it was asked");
    assert_eq!((uri.as_str(), mark.to_str().unwrap()), ("http://shop.test-shadow/x", "shop/green"));
    // Connections of their own, and only one for all.
    assert_eq!((blue.connections(), green.connections()), (1, 1));
}

#[tokio::test]
async fn a_share_of_the_requests_is_copied_or_all_requests_of_a_share_of_the_clients() {
    let (blue, green) = (named("blue").await, green().await);
    let by_request = mirrored(&blue, &green, "percent = 30", "").start().await;
    let mut client = by_request.connect().await;
    for _ in 0..400 {
        client.exchange(get("/", "")).await;
    }
    by_request.copies_are_over().await;
    let copied = green.requests().len();
    // Five standard deviations: once in two million runs.
    assert!((74..=166).contains(&copied), "{copied} of 400");

    let sticky = "[services.shop.sticky]\nheader = \"x-user\"\n";
    let green = self::green().await;
    let by_client = mirrored(&blue, &green, "percent = 30\nby = \"client\"", sticky).start().await;
    let mut client = by_client.connect().await;
    for _ in 0..4 {
        for user in 0..60 {
            client.exchange(get("/", &format!("x-user: {user}\r\n"))).await;
        }
    }
    by_client.copies_are_over().await;
    let mut users = std::collections::BTreeMap::<String, usize>::new();
    for copy in green.requests() {
        *users.entry(copy.head.value("x-user").unwrap().to_owned()).or_default() += 1;
    }
    assert!((5..=35).contains(&users.len()), "{users:?}");
    assert!(users.values().all(|count| *count == 4), "{users:?}");
}

#[tokio::test]
async fn copies_use_connections_of_their_own_again_and_again() {
    let (blue, green) = (named("blue").await, named("green").await);
    let proxy = mirrored(&blue, &green, "", "").start().await;
    let mut client = proxy.connect().await;
    for count in 1..=20 {
        client.exchange(get("/", "")).await;
        proxy.copies_answered(count).await;
    }
    assert_eq!((blue.connections(), green.connections()), (1, 1));
}

#[tokio::test]
async fn a_shadow_that_fails_is_nobodys_failure() {
    let (blue, green) =
        (named("blue").await, Upstream::answering("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await);
    let proxy = mirrored(&blue, &green, "", "").start().await;
    let mut client = proxy.connect().await;
    for count in 1..=50 {
        assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
        proxy.copies_answered(count).await;
    }
    proxy.metric_becomes("tidegate_mirror_copies_total", "code=\"5xx\"", 50).await;
    assert_eq!(proxy.endpoint(1, 0).await["state"], "up");
    for name in ["tidegate_endpoint_ejections_total", "tidegate_guard_drains_total"] {
        assert_eq!(proxy.metric(name, "").await, 0, "{name}");
    }
    assert_eq!(proxy.metric("tidegate_requests_total", "backend=\"green\"").await, 0);
    let view = proxy.view("/v1/services/shop").await;
    assert_eq!((&view["mirrors"][0]["answered"], &view["backends"][1]["errors"]), (&50.into(), &0.into()));
    assert_eq!(Proxy::before(&blue).await.view("/v1/services/shop").await["mirrors"], serde_json::Value::Null);
}
