//! Shadows that are reached by TLS, HTTP/2, gRPC or with a PROXY header: real servers at both ends.

use serde_json::Value;
use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Shown;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::support::{Authority, Grpc, Nginx, POLL_INTERVAL, Proxy, ServingStatus, Setup, backend, get, named, within};

/// A shop that is mirrored to an nginx of these settings, reached as `keys` say.
async fn mirrored_to_nginx(server: &str, scheme: &str, keys: &str) -> (crate::support::Upstream, Nginx, Proxy) {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    let blue = named("blue").await;
    let certificate = "ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;";
    let nginx = Nginx::start(
        &format!("{} {server}", if scheme == "https" { certificate } else { "" }),
        &[("cert.pem", &pair.cert), ("key.pem", &pair.key)],
    )
    .await;
    let settings = format!(
        "[services.shop.mirror]\nbackend = \"green\"\ncompare = true\n{}[services.shop.backends.green]\nweight = 0\n\
         endpoints = [\"{scheme}://{}\"]\n{keys}\n",
        backend("blue", 1.0, &blue),
        nginx.address
    );
    let proxy = Setup::new().file("ca.pem", &authority.pem).settings(&settings).start().await;
    (blue, nginx, proxy)
}

const TLS: &str = "tls = { ca = \"ca.pem\" }";

#[tokio::test]
async fn a_shadow_is_reached_by_tls_and_http2_and_with_a_proxy_header() {
    for (listen, scheme, keys, shown) in [
        ("listen {address} ssl;", "https", TLS.to_owned(), "GET /x HTTP/1.1"),
        ("listen {address} ssl http2;", "https", format!("protocol = \"h2\"\n{TLS}"), "GET /x HTTP/2.0"),
        ("listen {address} http2;", "http", "protocol = \"h2\"".to_owned(), "GET /x HTTP/2.0"),
        ("listen {address} proxy_protocol;", "http", "proxy_protocol = \"v1\"".to_owned(), "GET /x HTTP/1.1"),
        ("listen {address} ssl proxy_protocol;", "https", format!("proxy_protocol = \"v2\"\n{TLS}"), "GET /x HTTP/1.1"),
    ] {
        let server = format!("{listen} location / {{ return 200 blue; }}");
        let (blue, nginx, proxy) = mirrored_to_nginx(&server, scheme, &keys).await;
        let mut client = proxy.connect().await;
        for _ in 0..5 {
            assert_eq!(client.exchange(get("/x", "")).await.text(), "blue");
        }
        proxy.copies_answered(5).await;
        proxy.metric_becomes("tidegate_mirror_copies_total", "code=\"2xx\"", 5).await;
        assert_eq!(proxy.all_copies_dropped().await, 0, "{listen}");
        let log = nginx.access_log(5).await;
        assert!(log.lines().all(|line| line.starts_with(shown) && line.contains("|shop.test|127.0.0.1|")), "{log}");
        assert_eq!(blue.requests().len(), 5);
    }
}

/// Two tonic servers, of which one is the other's shadow, and a channel to the proxy before them.
async fn grpc(mirror: &str) -> (Grpc, Grpc, Proxy, Channel) {
    let (blue, green) = (Grpc::start().await, Grpc::start().await);
    let backend = |name: &str, weight: u32, server: &Grpc| {
        let address = server.address;
        format!(
            "[services.shop.backends.{name}]\nweight = {weight}\nendpoints = [\"http://{address}\"]\nprotocol = \"h2\"\n"
        )
    };
    let settings = format!(
        "[services.shop.mirror]\nbackend = \"green\"\nmethods = [\"POST\"]\n{mirror}\n{}{}",
        backend("blue", 1, &blue),
        backend("green", 0, &green)
    );
    let proxy = Setup::new().settings(&settings).start().await;
    let front = Endpoint::try_from(format!("http://{}", proxy.http())).expect("a URI is a URI");
    let channel = within("a channel", front.connect()).await.expect("it connects");
    (blue, green, proxy, channel)
}

fn asking(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn verdict(proxy: &Proxy) -> Value {
    proxy.view("/v1/services/shop/mirror").await["mirrors"][0]["verdict"].clone()
}

#[tokio::test]
async fn unary_calls_of_tonic_are_copied_and_compared_with_their_statuses() {
    let (_blue, mut green, proxy, channel) = grpc("compare = { noise = true }").await;
    let mut health = HealthClient::new(channel);
    // Both refuse alike: a status in trailers, and no body.
    for _ in 0..3 {
        let status = within("an answer", health.check(asking("unknown"))).await.expect_err("nobody knows it");
        assert_eq!(status.code(), tonic::Code::NotFound);
    }
    proxy.copies_answered(3).await;
    assert_eq!(proxy.metric("tidegate_shadow_pairs_total", "result=\"different\"").await, 0);
    green.reporter.set_service_status("shop", ServingStatus::NotServing).await;
    let differs = async {
        loop {
            let answer = within("an answer", health.check(asking("shop"))).await.expect("it is known");
            assert_eq!(answer.into_inner().status(), Shown::Serving);
            let verdict = verdict(&proxy).await;
            if verdict["outcome"] != "inconclusive" {
                return verdict;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let verdict = within("a verdict", differs).await;
    assert_eq!(verdict["fields"], serde_json::json!(["body changed"]), "{verdict}");
    // What the shadow doesn't know fails there alone.
    green.reporter.clear_service_status("shop").await;
    let fails = async {
        loop {
            within("an answer", health.check(asking("shop"))).await.expect("it is known");
            let fields = proxy.view("/v1/services/shop/mirror").await["mirrors"][0]["fields"].to_string();
            if fields.contains("header grpc-status") {
                return;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    within("the status to differ", fails).await;
    assert_eq!(proxy.all_copies_dropped().await, 0);
}

#[tokio::test]
async fn calls_of_tonic_that_stream_both_ways_are_copied_as_they_go() {
    let (_blue, green, proxy, channel) = grpc("large_body = \"stream\"").await;
    for round in 1..=2 {
        let (ask, questions) = mpsc::channel(8);
        let mut reflection = ServerReflectionClient::new(channel.clone());
        let symbol = MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned());
        let question = || ServerReflectionRequest { host: String::new(), message_request: Some(symbol.clone()) };
        ask.try_send(question()).expect("the stream is open");
        let calling = reflection.server_reflection_info(ReceiverStream::new(questions));
        let mut answers = within("the head", calling).await.expect("it is served").into_inner();
        for _ in 0..5 {
            assert!(within("an answer", answers.message()).await.expect("the stream is open").is_some());
            ask.try_send(question()).expect("the stream is open");
        }
        drop(ask);
        while within("the end", answers.message()).await.expect("the stream is open").is_some() {}
        if round == 1 {
            proxy.copies_answered(1).await;
            assert_eq!(proxy.all_copies_dropped().await, 0);
        }
    }
    proxy.copies_answered(2).await;
    // A shadow that is gone is nothing that a call notices.
    drop(green);
    let mut health = HealthClient::new(channel);
    for _ in 0..3 {
        within("an answer", health.check(asking("shop"))).await.expect("it is known");
    }
    proxy.copies_are_over().await;
}
