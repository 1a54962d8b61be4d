//! Whom a service lets in, how often, and whether over TLS: what is refused reaches no endpoint.

use std::net::Ipv4Addr;

use bytes::Bytes;
use http::Request;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::http2::{self, Http2};
use crate::support::{Authority, Proxy, Received, Setup, Upstream, Wire, backend, eventually, get, named};

const GET: &str = "GET /a%2fb?x=/../y HTTP/1.1\r\nhost: Shop.test:80\r\n\r\n";

async fn shop(keys: &str) -> (Proxy, Upstream) {
    let blue = named("blue").await;
    let settings = format!("[services.shop]\n{keys}\n{}", backend("blue", 1.0, &blue));
    (Setup::new().workers(2).settings(&settings).start().await, blue)
}

#[tokio::test]
async fn only_clients_on_the_list_are_let_in_and_deny_outranks_allow() {
    let (proxy, blue) = shop("allow = [\"127.1.0.0/16\", \"127.2.0.1\"]\ndeny = [\"127.1.9.0/24\"]").await;
    for (client, status) in [
        ([127, 0, 0, 1], 403),
        ([127, 1, 0, 1], 200),
        ([127, 1, 9, 1], 403),
        ([127, 1, 10, 1], 200),
        ([127, 2, 0, 1], 200),
        ([127, 2, 0, 2], 403),
    ] {
        let mut wire = Wire::connect_from(Ipv4Addr::from(client), proxy.http()).await;
        let request = "GET / HTTP/1.1\r\nhost: shop.test\r\nx-forwarded-for: 127.1.0.1\r\n\r\n";
        assert_eq!(wire.exchange(request).await.status(), status, "{client:?}");
    }
    assert_eq!(blue.requests().len(), 3);
    proxy.metric_becomes("tidegate_requests_denied_total", "service=\"shop\"", 3).await;
}

#[tokio::test]
async fn a_rate_limit_lets_exactly_its_burst_through_whichever_worker_takes_it() {
    let (proxy, blue) = shop("rate_limits = [{ requests = 1, per = \"1h\", burst = 20 }]").await;
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let mut wire = proxy.connect().await;
        for _ in 0..5 {
            let answer = wire.exchange(GET).await;
            if answer.status() == 429 {
                let wait: u64 = answer.head.value("retry-after").unwrap().parse().unwrap();
                assert!((3590..=3600).contains(&wait), "{wait}");
                assert_eq!(answer.head.value("ratelimit"), Some(format!("\"default\";r=0;t={wait}").as_str()));
                assert_eq!(answer.head.value("ratelimit-policy"), Some("\"default\";q=1;w=3600"));
            }
            statuses.push(answer.status());
        }
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 20);
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 30);
    assert_eq!(blue.requests().len(), 20);
    proxy.metric_becomes("tidegate_requests_limited_total", "service=\"shop\"", 30).await;
    proxy.metric_becomes("tidegate_rate_limit_clients", "service=\"shop\"", 1).await;
}

#[tokio::test]
async fn an_unchanged_limit_outlives_a_reload_and_a_changed_one_begins_anew() {
    let blue = named("blue").await;
    let settings = |burst: u32, more: &str| {
        let limit = format!("rate_limits = [{{ requests = 1, per = \"1h\", burst = {burst} }}]");
        format!("[services.shop]\n{limit}\n{more}\n{}", backend("blue", 1.0, &blue))
    };
    let mut proxy = Setup::new().settings(&settings(1, "")).start().await;
    let mut wire = proxy.connect().await;
    assert_eq!(wire.exchange(GET).await.status(), 200);
    assert_eq!(wire.exchange(GET).await.status(), 429);
    for denied in ["192.0.2.1", "192.0.2.2"] {
        proxy.rewrite(&settings(1, &format!("deny = [{denied:?}]")));
        proxy.reload_well().await;
        assert_eq!(wire.exchange(GET).await.status(), 429);
    }
    proxy.rewrite(&settings(2, ""));
    proxy.reload_well().await;
    assert_eq!(wire.exchange(GET).await.status(), 200);
}

#[tokio::test]
async fn who_is_not_let_in_takes_nothing_of_the_limit() {
    let (proxy, blue) =
        shop("deny = [\"127.0.0.2\"]\nrate_limits = [{ requests = 1, per = \"1h\", by = { header = \"x-key\" } }]")
            .await;
    let request = "GET / HTTP/1.1\r\nhost: shop.test\r\nx-key: k\r\n\r\n";
    let mut denied = Wire::connect_from(Ipv4Addr::new(127, 0, 0, 2), proxy.http()).await;
    assert_eq!(denied.exchange(request).await.status(), 403);
    let mut wire = proxy.connect().await;
    assert_eq!(wire.exchange(request).await.status(), 200);
    assert_eq!(wire.exchange(request).await.status(), 429);
    assert_eq!(denied.exchange(request).await.status(), 403);
    assert_eq!(blue.requests().len(), 1);
}

#[tokio::test]
async fn the_body_of_a_refused_request_is_never_taken_for_the_next_request() {
    let (proxy, blue) = shop("rate_limits = [{ requests = 1, per = \"1h\", by = { header = \"x-key\" } }]").await;
    let inner = "GET /smuggled HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    let post =
        format!("POST / HTTP/1.1\r\nhost: shop.test\r\nx-key: k\r\ncontent-length: {}\r\n\r\n{inner}", inner.len());
    let next = "GET /next HTTP/1.1\r\nhost: shop.test\r\nx-key: other\r\nconnection: close\r\n\r\n";
    let mut wire = proxy.connect().await;
    assert_eq!(wire.exchange(&post).await.status(), 200);
    wire.send(format!("{post}{next}")).await;
    assert_eq!(wire.answer().await.status(), 429);
    // The next request is answered, or the connection ends.
    wire.rest().await;
    let targets: Vec<_> = blue.requests().iter().map(|request| request.target().to_owned()).collect();
    assert!(targets == ["/", "/next"] || targets == ["/"], "{targets:?}");
}

#[tokio::test]
async fn requests_without_tls_are_sent_to_https_and_browsers_are_told_to_stay_there() {
    let blue =
        Upstream::answering("HTTP/1.1 200 OK\r\nstrict-transport-security: max-age=1\r\ncontent-length: 2\r\n\r\nok")
            .await;
    let authority = Authority::new();
    let settings = format!(
        "[services.shop]\nhttps = \"redirect\"\nhttps_port = 8443\nhsts = {{ max_age = \"365d\", include_subdomains = true }}\n{}",
        backend("blue", 1.0, &blue)
    );
    let setup = Setup::new().certificate(&authority.pair(&["shop.test"])).settings(&settings);
    let proxy = setup.start().await;
    let mut wire = proxy.connect().await;
    let answer = wire.exchange(GET).await;
    assert_eq!(answer.status(), 308);
    assert_eq!(answer.head.value("location"), Some("https://shop.test:8443/a%2fb?x=/../y"));
    assert_eq!(answer.head.value("strict-transport-security"), None, "it means nothing without TLS");
    assert_eq!(wire.exchange("GET / HTTP/1.1\r\nhost: a\"b\r\n\r\n").await.status(), 400);
    assert_eq!(blue.connections(), 0);
    let mut secure = Wire::new(authority.connect(proxy.https(), "shop.test", &[]).await);
    let answer = secure.exchange(GET).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.head.value("strict-transport-security"), Some("max-age=31536000; includeSubDomains"));
    proxy.metric_becomes("tidegate_requests_redirected_total", "service=\"shop\"", 1).await;
}

/// A proxy whose service `denied` lets nobody in, whose `secure` wants TLS and whose `limited` takes one request; the
/// rest is the shop's.
async fn refusing() -> (Proxy, Upstream) {
    let blue = named("blue").await;
    let service = |name: &str, key: &str| {
        let url = blue.url();
        format!(
            "[services.{name}]\nroutes = [{{ path = \"/{name}\" }}]\n{key}\n\
             [services.{name}.backends.main]\nweight = 1\nendpoints = [{url:?}]\n"
        )
    };
    let settings = [
        service("denied", "allow = [\"192.0.2.0/24\"]"),
        service("secure", "https = \"redirect\""),
        service("limited", "rate_limits = [{ requests = 1, per = \"1h\" }]"),
        backend("blue", 1.0, &blue),
    ];
    let proxy = Setup::new().top("access_log = \"./access.log\"").settings(&settings.concat()).start().await;
    assert_eq!(proxy.fetch("/limited").await.status(), 200);
    (proxy, blue)
}

const REFUSALS: [(&str, u16); 3] = [("/denied", 403), ("/secure", 308), ("/limited", 429)];

#[tokio::test]
async fn a_refusal_is_logged_with_its_service_and_reason() {
    let (proxy, blue) = refusing().await;
    for (path, status) in REFUSALS {
        assert_eq!(proxy.fetch(path).await.status(), status, "{path}");
    }
    let text = || std::fs::read_to_string(proxy.folder().join("access.log")).unwrap_or_default();
    eventually("the lines are written", || text().lines().count() == 4).await;
    let lines: Vec<Value> = text().lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = |field: &str| lines.iter().map(|line| line[field].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>();
    assert_eq!(told("service"), ["denied", "secure", "limited"]);
    assert_eq!(told("error"), ["access_denied", "https_redirect", "rate_limited"]);
    assert_eq!((told("backend").concat(), told("endpoint").concat()), Default::default());
    assert_eq!(blue.requests().len(), 1);
    for code in ["400", "404", "other"] {
        let refused = proxy.metric("tidegate_requests_refused_total", &format!("code=\"{code}\"")).await;
        assert_eq!(refused, 0, "it found a service: {code}");
    }
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_is_the_one_that_policy_goes_by() {
    let blue = named("blue").await;
    let settings = format!(
        "[services.shop]\nallow = [\"198.51.100.0/24\"]\nhttps = \"redirect\"\nhsts = \"1h\"\n\
         rate_limits = [{{ requests = 1, per = \"1h\" }}]\n{}",
        backend("blue", 1.0, &blue)
    );
    let proxy = Setup::new().top("trusted_proxies = [\"127.0.0.9\"]").settings(&settings).start().await;
    let ask = async |from: [u8; 4], client: &str, proto: &str| {
        let fields = format!("x-forwarded-for: {client}\r\nx-forwarded-proto: {proto}\r\n");
        let answer = Wire::connect_from(Ipv4Addr::from(from), proxy.http()).await.exchange(get("/", &fields)).await;
        (answer.status(), answer.head.value("strict-transport-security").map(ToOwned::to_owned))
    };
    let (trusted, stranger, told) = ([127, 0, 0, 9], [127, 0, 0, 1], Some("max-age=3600".to_owned()));
    assert_eq!(ask(stranger, "198.51.100.1", "https").await, (403, None));
    assert_eq!(ask(trusted, "192.0.2.1", "https").await, (403, told.clone()));
    assert_eq!(ask(trusted, "198.51.100.1", "http").await, (308, None));
    assert_eq!(ask(trusted, "198.51.100.1", "https").await, (200, told.clone()));
    assert_eq!(ask(trusted, "198.51.100.1", "https").await, (429, told.clone()));
    assert_eq!(ask(trusted, "198.51.100.2", "https").await, (200, told));
    assert_eq!(blue.requests().len(), 2);
}

#[tokio::test]
async fn grpc_clients_are_refused_in_grpcs_own_terms() {
    let (proxy, blue) = refusing().await;
    let client = Http2::over(TcpStream::connect(proxy.http()).await.expect("connecting works")).await;
    for (path, code) in [("/denied", "7"), ("/secure", "9"), ("/limited", "8")] {
        let request = Request::post(format!("http://shop.test{path}")).header("content-type", "application/grpc");
        let (status, message) = client.exchange(request.body(()).unwrap()).await;
        assert_eq!((status.as_u16(), message.body.as_slice()), (200, &b""[..]), "{path}");
        assert_eq!(message.headers["grpc-status"], code, "{path}");
        assert_eq!(message.headers.contains_key("retry-after"), path == "/limited");
    }
    for name in ["denied", "redirected", "limited"] {
        proxy.metric_becomes(&format!("tidegate_requests_{name}_total"), "", 1).await;
    }
    assert_eq!(blue.requests().len(), 1);
}

#[tokio::test]
async fn http2_streams_are_refused_one_by_one_and_their_bodies_take_no_room_for_long() {
    let (proxy, blue) = refusing().await;
    let client = Http2::over(TcpStream::connect(proxy.http()).await.expect("connecting works")).await;
    let post = |path: &str| Request::post(format!("http://shop.test{path}")).body(()).unwrap();
    // Of the connection's window, 1 MiB, they would take 6 MiB.
    for _ in 0..32 {
        for (path, wanted) in REFUSALS {
            let (response, mut body) = client.begin(post(path)).await;
            body.send_data(Bytes::from(vec![b'x'; 64 * 1024]), false).unwrap();
            let (status, message) = http2::whole(response).await;
            assert_eq!(status, wanted, "{path}");
            assert_eq!(message.headers.get("location").is_some(), wanted == 308);
        }
    }
    let (response, mut body) = client.begin(post("/next")).await;
    body.send_data(Bytes::from(vec![b'x'; 2 << 20]), true).unwrap();
    assert_eq!(http2::whole(response).await.0, 200);
    let received = blue.requests();
    assert_eq!(received.iter().map(Received::target).collect::<Vec<_>>(), ["/limited", "/next"]);
    assert_eq!(received[1].body.len(), 2 << 20);
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_a_body_and_takes_no_part_of_it_for_a_request() {
    let (proxy, blue) = refusing().await;
    let inner = "GET /smuggled HTTP/1.1\r\nhost: shop.test\r\n\r\n";
    for (path, status) in REFUSALS {
        for (framing, body) in [
            // Whole, unfinished and endless.
            ("transfer-encoding: chunked", format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len())),
            ("transfer-encoding: chunked", format!("1000\r\n{inner}")),
            ("content-length: 1000000000", inner.to_owned()),
        ] {
            let mut wire = proxy.connect().await;
            wire.send(format!("POST {path} HTTP/1.1\r\nhost: shop.test\r\n{framing}\r\n\r\n{body}")).await;
            assert_eq!(wire.answer().await.status(), status, "{path} {framing}");
            wire.finish().await;
            assert_eq!(String::from_utf8_lossy(&wire.rest().await), "", "{path} {framing}");
        }
    }
    assert_eq!(blue.requests().len(), 1);
}

#[tokio::test]
async fn other_methods_and_upgrades_are_refused_alike_and_the_connection_goes_on() {
    let (proxy, blue) = refusing().await;
    let mut wire = proxy.connect().await;
    for (path, status) in REFUSALS {
        for method in ["OPTIONS", "DELETE", "TRACE"] {
            let answer = wire.exchange(format!("{method} {path} HTTP/1.1\r\nhost: shop.test\r\n\r\n")).await;
            assert_eq!(answer.status(), status, "{method} {path}");
        }
        let socket = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                      sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert_eq!(wire.exchange(get(path, socket)).await.status(), status, "a WebSocket {path}");
        wire.send(format!("HEAD {path} HTTP/1.1\r\nhost: shop.test\r\n\r\n")).await;
        assert_eq!(wire.head().await.status(), status, "HEAD {path}");
    }
    assert_eq!(wire.exchange(get("/", "")).await.text(), "blue", "no body came between");
    assert_eq!(blue.requests().len(), 2);
}

#[tokio::test]
async fn a_flood_of_made_up_keys_takes_no_memory_and_no_allowance_of_known_clients() {
    const KEPT: usize = 1000;
    const BATCH: usize = 100;
    const KEYS: usize = 20_000;
    let limit =
        format!("{{ requests = 1, per = \"1h\", burst = 4, by = {{ header = \"x-key\" }}, clients_max = {KEPT} }}");
    let (proxy, _blue) = shop(&format!("rate_limits = [{limit}]")).await;
    let mut known = proxy.connect().await;
    assert_eq!(known.exchange(get("/", "x-key: known\r\n")).await.status(), 200);
    let mut wire = proxy.connect().await;
    let padding = "x".repeat(4096);
    let mut let_through = 0;
    let mut before = 0;
    for first in (0..KEYS).step_by(BATCH) {
        if first == 2 * KEPT {
            // The table is full, and what is allocated once is there.
            before = proxy.memory_kb();
        }
        if first % 5000 == 0 {
            wire = proxy.connect().await;
        }
        let requests: Vec<_> =
            (first..first + BATCH).map(|key| get("/", &format!("x-key: {padding}{key}\r\n"))).collect();
        wire.send(requests.concat()).await;
        for _ in 0..BATCH {
            let_through += usize::from(wire.answer().await.status() == 200);
        }
    }
    let grown_kb = proxy.memory_kb().saturating_sub(before);
    println!("{grown_kb} KB more after {} keys of {} bytes", KEYS - 2 * KEPT, padding.len());
    // Buffers of connections and the allocator's megabytes come and go.
    assert!(grown_kb < 16 * 1024, "{grown_kb} KB more; the keys are {} KB", (KEYS - 2 * KEPT) * padding.len() / 1024);
    // Those that found a place, and four on the allowance that the others share.
    assert_eq!(let_through, KEPT - 1 + 4);
    proxy.metric_becomes("tidegate_rate_limit_clients", "service=\"shop\"", KEPT as u64).await;
    let overflows = proxy.metric("tidegate_rate_limit_overflows_total", "service=\"shop\"").await;
    assert_eq!(overflows, (KEYS - KEPT + 1) as u64);
    let statuses = [200, 200, 200, 429];
    for status in statuses {
        assert_eq!(known.exchange(get("/", "x-key: known\r\n")).await.status(), status);
    }
}

#[tokio::test]
async fn a_request_that_one_limit_refuses_is_counted_in_none() {
    let address = "{ requests = 1, per = \"1h\", burst = 5 }";
    let key = "{ requests = 1, per = \"1h\", burst = 2, by = { header = \"x-key\" } }";
    let (proxy, blue) = shop(&format!("rate_limits = [{address}, {key}]")).await;
    let mut wire = proxy.connect().await;
    let mut ask = async |key: &str| wire.exchange(get("/", &format!("x-key: {key}\r\n"))).await.status();
    for tries in 0..20 {
        assert_eq!(ask("one").await, if tries < 2 { 200 } else { 429 });
    }
    // Three of the address's five are left.
    assert_eq!([ask("two").await, ask("two").await, ask("three").await], [200; 3]);
    assert_eq!([ask("three").await, ask("four").await], [429; 2]);
    assert_eq!(blue.requests().len(), 5);
}

#[tokio::test]
async fn a_body_that_is_said_to_be_too_large_counts_for_the_service_and_in_no_backend_or_limit() {
    let (proxy, blue) = shop("body_max = \"100B\"\nrate_limits = [{ requests = 1, per = \"1h\", burst = 2 }]").await;
    for _ in 0..5 {
        let answer = proxy.exchange("POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 101\r\n\r\n").await;
        assert_eq!((answer.status(), answer.head.value("connection")), (413, Some("close")));
    }
    proxy.metric_becomes("tidegate_requests_too_large_total", "service=\"shop\"", 5).await;
    proxy.metric_becomes("tidegate_request_errors_total", "reason=\"body_too_large\"", 5).await;
    let whole = "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 3\r\n\r\nabc";
    for status in [200, 200, 429] {
        assert_eq!(proxy.exchange(whole).await.status(), status);
    }
    assert_eq!(blue.requests().len(), 2);
    proxy.metric_becomes("tidegate_requests_total", "service=\"shop\",backend=\"blue\",code=\"2xx\"", 2).await;
    assert_eq!(proxy.metric("tidegate_requests_total", "code=\"4xx\"").await, 0);
}
