//! TLS on both sides: which certificate clients are shown, and whom we believe to be an endpoint.

use std::sync::Arc;
use std::time::Duration;

use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{Authority, Nginx, Pair, Proxy, Setup, Upstream, Wire, connect};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nhost: shop.test\r\n\r\n";

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream.get_ref().1.peer_certificates().expect("there is a certificate");
    chain[0].clone().into_owned()
}

#[tokio::test]
async fn the_name_asked_for_chooses_the_certificate() {
    let upstream = Upstream::answering(OK).await;
    let authority = Authority::new();
    let first = authority.pair(&["first.test", "10.0.0.1"]);
    let wildcard = authority.pair(&["*.example.test"]);
    let exact = authority.pair(&["shop.example.test"]);
    let setup = Setup::new().certificate(&first).certificate(&wildcard).certificate(&exact);
    let proxy = setup.backend(&[upstream.url()], "").start().await;
    for (name, pair) in [
        ("first.test", &first),
        ("shop.example.test", &exact),
        ("Shop.Example.Test", &exact),
        ("other.example.test", &wildcard),
        // No name at all is sent for an address.
        ("10.0.0.1", &first),
    ] {
        let stream = authority.connect(proxy.https(), name, &[]).await;
        assert_eq!(shown(&stream), pair.der(), "{name}");
        assert_eq!(Wire::new(stream).exchange(GET).await.text(), "ok");
    }
    // Names of nobody are shown the first certificate, and it's for the client to refuse it.
    for name in ["a.b.example.test", "unknown.test"] {
        let refused = connect(Arc::new(authority.client(&[])), proxy.https(), name).await;
        assert!(refused.is_err_and(|error| error.to_string().contains("not valid for name")), "{name}");
    }
}

async fn secure(timeouts: &str) -> (Authority, Upstream, Proxy) {
    let upstream = Upstream::answering(OK).await;
    let authority = Authority::new();
    let setup = Setup::new().certificate(&authority.pair(&["shop.test"])).backend(&[upstream.url()], "");
    let proxy = setup.settings(timeouts).start().await;
    (authority, upstream, proxy)
}

#[tokio::test]
async fn clients_of_both_tls_versions_come_in_and_come_back_faster() {
    let (authority, _upstream, proxy) = secure("").await;
    for version in [&TLS12, &TLS13] {
        let mut config = rustls::ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let config = Arc::new(config);
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            let stream = connect(Arc::clone(&config), proxy.https(), "shop.test").await.expect("the handshake works");
            let session = &stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.handshake_kind(), Some(kind), "{version:?}");
            // The answer comes after the tickets.
            assert_eq!(Wire::new(stream).exchange(GET).await.text(), "ok");
        }
    }
}

#[tokio::test]
async fn a_slow_handshake_is_given_up() {
    let (_authority, _upstream, proxy) = secure("[timeouts]\ntls_handshake = \"300ms\"").await;
    // Nothing at all, and the beginning of a ClientHello.
    for sent in [&[][..], &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]] {
        let mut wire = Wire::connect(proxy.https()).await;
        wire.send(sent).await;
        assert_eq!(wire.rest().await, b"");
    }
    proxy.metric_becomes("tidegate_tls_handshake_errors_total", "", 2).await;
}

#[tokio::test]
async fn plain_text_on_the_tls_port_is_refused() {
    let (_authority, upstream, proxy) = secure("").await;
    let mut wire = Wire::connect(proxy.https()).await;
    wire.send(GET).await;
    assert!(!String::from_utf8_lossy(&wire.rest().await).contains("HTTP"));
    proxy.metric_becomes("tidegate_tls_handshake_errors_total", "", 1).await;
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn an_idle_tls_connection_is_parked_and_woken() {
    let (authority, upstream, proxy) = secure("").await;
    let mut wire = Wire::new(authority.connect(proxy.https(), "shop.test", &[]).await);
    for _ in 0..2 {
        assert_eq!(wire.exchange(GET).await.text(), "ok");
        proxy.metric_becomes("tidegate_connections_parked", "", 1).await;
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn a_client_that_closes_mid_handshake_leaves_nothing_behind() {
    let (_authority, _upstream, proxy) = secure("").await;
    let mut wire = Wire::connect(proxy.https()).await;
    wire.send([0x16, 0x03]).await;
    drop(wire);
    proxy.metric_becomes("tidegate_tls_handshake_errors_total", "", 1).await;
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
}

/// A proxy before one HTTPS endpoint that shows `pair`, with `tls` for the backend.
async fn before_https(pair: &Pair, files: &[(&str, &str)], tls: &str) -> (Upstream, Proxy) {
    let upstream = Upstream::responding_over(Some(pair.acceptor(&[])), |_| OK.into()).await;
    let setup = files.iter().fold(Setup::new(), |setup, (name, content)| setup.file(name, content));
    let proxy = setup.backend(&[upstream.url()], &format!("tls = {tls}")).start().await;
    (upstream, proxy)
}

#[tokio::test]
async fn an_endpoint_is_verified_against_the_authority_given() {
    let (ours, other) = (Authority::new(), Authority::new());
    let files = [("ca.pem", ours.pem.as_str())];
    let by_address = ours.pair(&["127.0.0.1"]);
    let by_name = ours.pair(&["api.internal"]);
    let foreign = other.pair(&["127.0.0.1"]);
    let (ca, named) = ("{ ca = \"ca.pem\" }", "{ ca = \"ca.pem\", server_name = \"api.internal\" }");
    for (pair, tls, status) in [
        (&by_address, ca, 200),
        (&by_name, named, 200),
        (&by_name, ca, 502),
        (&by_address, named, 502),
        (&foreign, ca, 502),
        // The system's authorities don't know ours.
        (&by_address, "{}", 502),
    ] {
        let (upstream, proxy) = before_https(pair, &files, tls).await;
        assert_eq!(proxy.fetch("/").await.status(), status, "{tls}");
        assert_eq!(upstream.requests().len(), usize::from(status == 200), "nothing is said to a stranger");
    }
}

#[tokio::test]
async fn an_endpoint_may_ask_who_we_are() {
    let authority = Authority::new();
    let acceptor = authority.acceptor_for_known_clients(&authority.pair(&["127.0.0.1"]));
    let upstream = Upstream::responding_over(Some(acceptor), |_| OK.into()).await;
    let ours = authority.pair(&["tidegate"]);
    for (tls, status) in
        [("tls = { ca = \"ca.pem\", cert = \"cert.pem\", key = \"key.pem\" }", 200), ("tls = { ca = \"ca.pem\" }", 502)]
    {
        let setup = Setup::new().file("ca.pem", &authority.pem).file("cert.pem", &ours.cert).file("key.pem", &ours.key);
        let proxy = setup.backend(&[upstream.url()], tls).start().await;
        assert_eq!(proxy.fetch("/").await.status(), status, "{tls}");
    }
}

#[tokio::test]
async fn an_endpoint_that_never_finishes_its_handshake_is_a_504() {
    let upstream = Upstream::scripted(|mut wire: Wire, _| async move {
        wire.rest().await;
    })
    .await;
    let url = upstream.url().replace("http:", "https:");
    let setup = Setup::new().backend(&[url], "").settings("[services.shop.timeouts]\nconnect = \"300ms\"");
    let proxy = setup.start().await;
    let start = tokio::time::Instant::now();
    assert_eq!(proxy.fetch("/").await.status(), 504);
    assert!(start.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn nginx_with_tls_is_an_endpoint_like_any_other() {
    let authority = Authority::new();
    let pair = authority.pair(&["127.0.0.1"]);
    let files = [("cert.pem", pair.cert.as_str()), ("key.pem", pair.key.as_str()), ("index.html", "from nginx\n")];
    let server = "listen {address} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; \
        root {folder};";
    let nginx = Nginx::start(server, &files).await;
    let url = format!("https://{}", nginx.address);
    let setup = Setup::new().file("ca.pem", &authority.pem).backend(&[url], "tls = { ca = \"ca.pem\" }");
    let proxy = setup.start().await;
    for _ in 0..20 {
        let answer = proxy.fetch("/index.html").await;
        assert_eq!((answer.status(), answer.text()), (200, "from nginx\n"));
        assert_eq!(answer.head.values("server").len(), 1);
    }
    let log = nginx.access_log(20).await;
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split('|').collect()).collect();
    assert!(lines.iter().all(|line| line[..3] == ["GET /index.html HTTP/1.1", "shop.test", "127.0.0.1"]), "{log}");
    assert!(lines.iter().all(|line| line[3] == lines[0][3]), "one connection carries them all: {log}");
}
