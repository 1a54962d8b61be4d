//! Headers that a service sets, adds and removes, on requests and on responses.

use crate::support::http2::http2_endpoint;
use crate::support::{Setup, Upstream, get};

const CHANGES: &str = "[services.shop.request_headers]
set = { host = \"shop.internal:81\", X-Tier = \"gold\", x-forwarded-prefix = \"/shop\" }
add = { x-label = \"edge\" }
remove = [\"X-Debug\", \"cookie\"]
[services.shop.response_headers]
set = { Strict-Transport-Security = \"max-age=1\", server = \"\" }
add = { vary = \"x-tier\" }
remove = [\"X-Powered-By\", \"via\", \"set-cookie\"]
";

#[tokio::test]
async fn a_service_changes_its_headers_both_ways() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nserver: x/1\r\nserver: y\r\nx-powered-by: php\r\nvary: accept\r\nset-cookie: a=1\r\n\
         strict-transport-security: none\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let proxy = Setup::new().backend(&[upstream.url()], "").settings(CHANGES).start().await;
    // Asked twice, so that a connection and a view that have served before are tested, too.
    for _ in 0..2 {
        let fields = "x-tier: a\r\nx-tier: b\r\nx-label: mine\r\nx-debug: 1\r\nx-debug: 2\r\ncookie: a=1\r\n\
            x-forwarded-prefix: /evil\r\nconnection: x-tier, x-label, host\r\n";
        let answer = proxy.exchange(&get("/", fields)).await;
        let head = upstream.requests().pop().expect("a request has come").head;
        for (name, wanted) in [
            ("host", &["shop.internal:81"][..]),
            ("x-forwarded-host", &["shop.test"]),
            ("x-tier", &["gold"]),
            ("x-forwarded-prefix", &["/shop"]),
            ("x-label", &["edge"]),
            ("x-debug", &[]),
            ("cookie", &[]),
            ("via", &["1.1 tidegate"]),
        ] {
            assert_eq!(head.values(name), wanted, "{name}");
        }
        for (name, wanted) in [
            ("strict-transport-security", &["max-age=1"][..]),
            ("server", &[""]),
            ("vary", &["accept", "x-tier"]),
            ("x-powered-by", &[]),
            ("via", &[]),
            ("set-cookie", &[]),
        ] {
            assert_eq!(answer.head.values(name), wanted, "{name}");
        }
        assert_eq!(answer.text(), "ok");
    }
}

#[tokio::test]
async fn a_host_that_is_set_is_the_authority_at_an_http2_endpoint() {
    let upstream = http2_endpoint(None, |stream| async move {
        let authority = stream.request.uri().authority().map(ToString::to_string);
        let host = stream.request.headers().get("x-forwarded-host").cloned();
        stream.answer(&format!("{} {:?}", authority.unwrap_or_default(), host.unwrap()));
    })
    .await;
    let setup = Setup::new().backend(&[upstream.url()], "protocol = \"h2\"").settings(CHANGES);
    let proxy = setup.start().await;
    assert_eq!(proxy.fetch("/").await.text(), "shop.internal:81 \"shop.test\"");
}

#[tokio::test]
async fn the_cookie_that_keeps_a_client_on_its_backend_is_not_a_services_to_remove() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nset-cookie: a=1\r\ncontent-length: 0\r\n\r\n").await;
    let sticky = format!("{CHANGES}[services.shop]\nsticky = {{ cookie = \"id\" }}\n");
    let proxy = Setup::new().settings(&sticky).backend(&[upstream.url()], "").start().await;
    let answer = proxy.fetch("/").await;
    let cookies = answer.head.values("set-cookie");
    assert!(cookies.len() == 1 && cookies[0].starts_with("id="), "{cookies:?}");
}

#[tokio::test]
async fn a_reload_changes_the_changes() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 0\r\n\r\n").await;
    let service = format!("[services.shop.backends.blue]\nweight = 1\nendpoints = [{:?}]\n", upstream.url());
    let mut proxy = Setup::new().settings(&service).start().await;
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get("/", "")).await.head.value("server"), Some("x"));
    proxy.rewrite(&format!("{service}[services.shop.response_headers]\nremove = [\"server\"]\n"));
    proxy.reload_well().await;
    assert_eq!(client.exchange(get("/", "")).await.head.value("server"), None);
}
