//! Certificates are read again at SIGHUP, even when proxy.toml is the same.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, HandshakeKind};

use crate::support::{Authority, Pair, Proxy, Setup, Upstream, Wire, connect, get, named};

async fn before(upstream: &Upstream, pair: &Pair) -> Proxy {
    Setup::new().workers(2).backend(&[upstream.url()], "").certificate(pair).start().await
}

fn replace(folder: &Path, cert: &str, key: &str) {
    fs::write(folder.join("listener-0.pem"), cert).expect("the folder is ours");
    fs::write(folder.join("listener-0.key"), key).expect("the folder is ours");
}

/// What a new client is shown.
async fn shown(proxy: &Proxy, authority: &Authority) -> CertificateDer<'static> {
    let stream = authority.connect(proxy.https(), "shop.test", &["http/1.1"]).await;
    let chain = stream.get_ref().1.peer_certificates().expect("a server shows a certificate");
    chain[0].clone().into_owned()
}

#[tokio::test]
async fn a_new_pair_is_shown_to_new_clients_and_old_connections_go_on() {
    let (upstream, authority) = (named("blue").await, Authority::new());
    let (old, new) = (authority.pair(&["shop.test"]), authority.pair(&["shop.test"]));
    let proxy = before(&upstream, &old).await;
    let mut open = Wire::new(authority.connect(proxy.https(), "shop.test", &["http/1.1"]).await);
    assert_eq!(open.exchange(get("/", "")).await.status(), 200);
    assert_eq!(shown(&proxy, &authority).await, old.der());

    replace(proxy.folder(), &new.cert, &new.key);
    proxy.reload_well().await;
    for _ in 0..8 {
        assert_eq!(shown(&proxy, &authority).await, new.der());
    }
    assert_eq!(open.exchange(get("/", "")).await.status(), 200);
}

#[tokio::test]
async fn a_bad_pair_keeps_the_old_one_and_says_so() {
    let (upstream, authority) = (named("blue").await, Authority::new());
    let (old, new) = (authority.pair(&["shop.test"]), authority.pair(&["shop.test"]));
    let proxy = before(&upstream, &old).await;
    let half = &new.cert[..new.cert.len() / 2];
    for (what, cert, key) in [
        ("the key of another", new.cert.as_str(), old.key.as_str()),
        ("half a certificate", half, &new.key),
        ("nothing", "", ""),
        ("no key", &new.cert, "not a key"),
    ] {
        replace(proxy.folder(), cert, key);
        proxy.reload_well().await;
        assert_eq!(shown(&proxy, &authority).await, old.der(), "{what}");
        let told = proxy.view("/v1/services").await["process"]["last_reload"]["messages"].to_string();
        assert!(told.contains("listener-0."), "{what}: {told}");
    }
    fs::remove_file(proxy.folder().join("listener-0.key")).expect("the folder is ours");
    proxy.reload_well().await;
    assert_eq!(shown(&proxy, &authority).await, old.der());

    replace(proxy.folder(), &new.cert, &new.key);
    proxy.reload_well().await;
    assert_eq!(shown(&proxy, &authority).await, new.der(), "a good one is taken up after bad ones");
}

#[tokio::test]
async fn a_bad_pair_keeps_nothing_else_of_the_file_from_being_applied() {
    let (blue, green, authority) = (named("blue").await, named("green").await, Authority::new());
    let old = authority.pair(&["shop.test"]);
    let mut proxy = before(&blue, &old).await;
    replace(proxy.folder(), &old.cert, "not a key");
    proxy.rewrite(&crate::support::backend("blue", 1.0, &green));
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.text(), "green");
    assert_eq!(shown(&proxy, &authority).await, old.der());
}

/// How a client that was here before is greeted.
async fn greeted(proxy: &Proxy, client: &Arc<ClientConfig>) -> HandshakeKind {
    let stream = connect(Arc::clone(client), proxy.https(), "shop.test").await.expect("the handshake works");
    let kind = stream.get_ref().1.handshake_kind().expect("the handshake is over");
    // Tickets come after the handshake.
    assert_eq!(Wire::new(stream).exchange(get("/", "")).await.status(), 200);
    kind
}

#[tokio::test]
async fn sessions_survive_a_reload_and_a_new_certificate() {
    let (upstream, authority) = (named("blue").await, Authority::new());
    let (old, new) = (authority.pair(&["shop.test"]), authority.pair(&["shop.test"]));
    let proxy = before(&upstream, &old).await;
    let client = Arc::new(authority.client(&["http/1.1"]));
    assert_eq!(greeted(&proxy, &client).await, HandshakeKind::Full);
    assert_eq!(greeted(&proxy, &client).await, HandshakeKind::Resumed);
    proxy.reload_well().await;
    assert_eq!(greeted(&proxy, &client).await, HandshakeKind::Resumed);
    replace(proxy.folder(), &new.cert, &new.key);
    proxy.reload_well().await;
    assert_eq!(greeted(&proxy, &client).await, HandshakeKind::Resumed);
    assert_eq!(shown(&proxy, &authority).await, new.der());
}

#[tokio::test]
async fn an_authority_for_endpoints_is_read_again_too() {
    let (first, second) = (Authority::new(), Authority::new());
    let upstream =
        Upstream::responding_over(Some(second.pair(&["127.0.0.1"]).acceptor(&[])), |_| crate::support::OK.into()).await;
    let setup = Setup::new().file("ca.pem", &first.pem).backend(&[upstream.url()], "tls = { ca = \"ca.pem\" }");
    let proxy = setup.start().await;
    assert_eq!(proxy.fetch("/").await.status(), 502, "the endpoint is somebody else's");
    fs::write(proxy.folder().join("ca.pem"), &second.pem).expect("the folder is ours");
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.status(), 200);
}
