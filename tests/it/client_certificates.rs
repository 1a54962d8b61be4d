//! Clients that show certificates: who gets in, and what the endpoint learns of it.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind};
use serde_json::Value;

use crate::support::http2::{self, Http2};
use crate::support::{Authority, OK, Pair, Proxy, Setup, Upstream, Wire, connect, curl, eventually, get};

/// A listener that asks for certificates of `clients`, behind a plain one and one with TLS alone.
async fn asking(upstream: &Upstream, servers: &Authority, clients: &Authority, mode: &str) -> (Proxy, SocketAddr) {
    let pair = servers.pair(&["shop.test", "127.0.0.1"]);
    let listener = format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\ntls = [{{ cert = \"listener-0.pem\", key = \"listener-0.key\" }}]\n\
         client_auth = {{ ca = \"clients.pem\"{mode} }}"
    );
    let setup = Setup::new().top("access_log = \"stdout\"").certificate(&pair).file("clients.pem", &clients.pem);
    let proxy = setup.settings(&listener).backend(&[upstream.url()], "").start().await;
    let lines = proxy.log().into_iter().filter(|line| line["message"] == "listening").collect::<Vec<_>>();
    let address = lines[2]["address"].as_str().and_then(|text| text.parse().ok()).expect("an address is logged");
    (proxy, address)
}

fn client(servers: &Authority, shown: Option<&Pair>, alpn: &[&str]) -> Arc<ClientConfig> {
    Arc::new(servers.client_showing(shown, alpn, &[&TLS13, &TLS12]))
}

/// One request by TLS; `None` when the connection isn't for us. With TLS 1.3 a client learns that from its first read.
async fn asked(config: Arc<ClientConfig>, address: SocketAddr, fields: &str) -> Option<u16> {
    let mut wire = Wire::new(connect(config, address, "shop.test").await.ok()?);
    wire.try_send(get("/", fields)).await.ok()?;
    wire.next_head().await.map(|head| head.status())
}

fn header(pair: &Pair) -> String {
    format!(":{}:", STANDARD.encode(pair.der()))
}

#[tokio::test]
async fn only_who_shows_a_good_certificate_gets_in_and_the_endpoint_learns_it() {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = asking(&upstream, &servers, &clients, "").await;
    let (good, bad) = (clients.pair(&["alice"]), strangers.pair(&["alice"]));
    assert_eq!(asked(client(&servers, None, &[]), address, "").await, None);
    assert_eq!(asked(client(&servers, Some(&bad), &[]), address, "").await, None);
    proxy.metric_becomes("tidegate_tls_handshake_errors_total", "reason=\"client_certificate\"", 2).await;
    assert_eq!(upstream.connections(), 0);

    let spoofed = "client-cert: :c3Bvb2Y=:\r\nclient-cert-chain: :c3Bvb2Y=:\r\n";
    assert_eq!(asked(client(&servers, Some(&good), &[]), address, spoofed).await, Some(200));
    let head = &upstream.requests()[0].head;
    assert_eq!(head.values("client-cert"), [header(&good)]);
    assert_eq!(head.value("client-cert-chain"), None);
    // The same over HTTP/2, for each of its requests.
    let stream = connect(client(&servers, Some(&good), &["h2"]), address, "shop.test").await.expect("it is let in");
    let http2 = Http2::over(stream).await;
    for _ in 0..2 {
        let mut request = http2::get("/");
        request.headers_mut().insert("client-cert", "spoofed".parse().expect("it is one"));
        assert_eq!(http2.exchange(request).await.0, 200);
    }
    assert_eq!(upstream.requests()[2].head.values("client-cert"), [header(&good)]);
    // `Connection` takes nothing of ours away.
    let named = "connection: client-cert\r\n";
    assert_eq!(asked(client(&servers, Some(&good), &[]), address, named).await, Some(200));
    assert_eq!(upstream.requests()[3].head.values("client-cert"), [header(&good)]);

    // Other listeners don't ask, and pass no such header on.
    assert_eq!(asked(client(&servers, None, &[]), proxy.https(), spoofed).await, Some(200));
    assert_eq!(proxy.exchange(&get("/", spoofed)).await.status(), 200);
    for index in [4, 5] {
        assert_eq!(upstream.requests()[index].head.value("client-cert"), None);
    }
    let fingerprint: String = {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &good.der());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let logged = || {
        let text = fs::read_to_string(proxy.stdout()).expect("the proxy writes there");
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON")).collect::<Vec<_>>()
    };
    eventually("all is logged", || logged().len() == 6).await;
    let shown: Vec<bool> = logged().iter().map(|line| line["client_cert"] == fingerprint).collect();
    assert_eq!(shown, [true, true, true, true, false, false]);
}

#[tokio::test]
async fn where_it_is_optional_a_client_without_one_gets_in_as_nobody() {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let upstream = Upstream::answering(OK).await;
    let (_proxy, address) = asking(&upstream, &servers, &clients, ", mode = \"optional\"").await;
    let good = clients.pair(&["alice"]);
    let spoofed = format!("client-cert: {}\r\n", header(&good));
    assert_eq!(asked(client(&servers, None, &[]), address, &spoofed).await, Some(200));
    assert_eq!(upstream.requests()[0].head.value("client-cert"), None);
    assert_eq!(asked(client(&servers, Some(&good), &[]), address, "").await, Some(200));
    assert_eq!(upstream.requests()[1].head.values("client-cert"), [header(&good)]);
    assert_eq!(
        asked(client(&servers, Some(&strangers.pair(&["eve"])), &[]), address, "").await,
        None,
        "none is better than a bad one"
    );
}

#[tokio::test]
async fn a_session_of_another_listener_is_no_certificate() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = asking(&upstream, &servers, &clients, "").await;
    let good = clients.pair(&["alice"]);
    for version in [&TLS12, &TLS13] {
        let silent = Arc::new(servers.client_showing(None, &[], &[version]));
        // Here the client is known and comes back by its session.
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let stream = connect(Arc::clone(&silent), proxy.https(), "shop.test").await.expect("nobody is asked there");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind), "{version:?}");
            assert_eq!(Wire::new(stream).exchange(get("/", "")).await.status(), 200);
        }
        let asked_before = upstream.requests().len();
        assert_eq!(asked(Arc::clone(&silent), address, "").await, None, "{version:?}");
        assert_eq!(upstream.requests().len(), asked_before);
        // Nor is there a session of this listener's own, which would outlive its authority.
        let known = Arc::new(servers.client_showing(Some(&good), &[], &[version]));
        for _ in 0..2 {
            let stream = connect(Arc::clone(&known), address, "shop.test").await.expect("it is let in");
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full), "{version:?}");
            assert_eq!(Wire::new(stream).exchange(get("/", "")).await.status(), 200);
        }
    }
}

#[tokio::test]
async fn another_host_name_is_no_way_around() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::answering(OK).await;
    let (_proxy, address) = asking(&upstream, &servers, &clients, "").await;
    for name in ["shop.test", "127.0.0.1"] {
        let Ok(stream) = connect(client(&servers, None, &[]), address, name).await else { continue };
        let mut wire = Wire::new(stream);
        let _ = wire.try_send("GET / HTTP/1.1\r\nhost: open.test\r\n\r\n").await;
        assert_eq!(wire.rest().await, b"");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn the_authority_is_read_again_and_a_bad_file_keeps_the_old_one() {
    let (servers, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = asking(&upstream, &servers, &old, "").await;
    let (alice, bob) = (old.pair(&["alice"]), new.pair(&["bob"]));
    let mut open = Wire::new(connect(client(&servers, Some(&alice), &[]), address, "shop.test").await.expect("let in"));
    assert_eq!(open.exchange(get("/", "")).await.status(), 200);
    assert_eq!(asked(client(&servers, Some(&bob), &[]), address, "").await, None);

    fs::write(proxy.folder().join("clients.pem"), "nothing").expect("the folder is ours");
    proxy.reload_well().await;
    assert_eq!(asked(client(&servers, Some(&alice), &[]), address, "").await, Some(200));
    let told = proxy.view("/v1/services").await["process"]["last_reload"]["messages"].to_string();
    assert!(told.contains("clients.pem"), "{told}");

    fs::write(proxy.folder().join("clients.pem"), &new.pem).expect("the folder is ours");
    proxy.reload_well().await;
    assert_eq!(asked(client(&servers, Some(&alice), &[]), address, "").await, None);
    assert_eq!(asked(client(&servers, Some(&bob), &[]), address, "").await, Some(200));
    assert_eq!(open.exchange(get("/", "")).await.status(), 200, "who is in stays in");
}

#[tokio::test]
async fn curl_shows_its_certificate() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let upstream = Upstream::answering(OK).await;
    let (proxy, address) = asking(&upstream, &servers, &clients, "").await;
    let pair = clients.pair(&["alice"]);
    let path = |name: &str, content: &str| {
        let path = proxy.folder().join(name);
        fs::write(&path, content).expect("the folder is ours");
        path.display().to_string()
    };
    let (ca, cert, key) = (path("ca.pem", &servers.pem), path("a.pem", &pair.cert), path("a.key", &pair.key));
    let url = format!("https://{address}/");
    for version in ["--http1.1", "--http2", "--tls-max=1.2"] {
        let version = version.replace('=', " ");
        let mut arguments: Vec<&str> = version.split(' ').collect();
        arguments.extend(["--cacert", &ca, "--cert", &cert, "--key", &key, &url]);
        assert_eq!(curl(&arguments).await, "ok");
    }
    assert!(upstream.requests().iter().all(|request| request.head.values("client-cert") == [header(&pair)]));
}
