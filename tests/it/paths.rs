//! One request, one path: what routes decide on is what endpoints read, however they read it, and what they get is
//! what was sent.

use crate::support::{Proxy, Received, Setup, Upstream, Wire, eventually, named};

/// Whatever lies below /admin goes to `admin`, the rest to `site`.
async fn guarded() -> (Proxy, [Upstream; 2]) {
    let (site, admin) = (named("site").await, named("admin").await);
    let settings = format!(
        "[services.site.backends.main]\nweight = 1\nendpoints = [{:?}]\n\
         [services.admin]\nroutes = [{{ path = \"/admin\" }}]\n\
         [services.admin.backends.main]\nweight = 1\nendpoints = [{:?}]\n",
        site.url(),
        admin.url()
    );
    (Setup::new().top("access_log = \"stdout\"").settings(&settings).start().await, [site, admin])
}

/// Waits until so many requests, and no others, are logged with this error.
async fn logged(proxy: &Proxy, error: &str, requests: usize) {
    let lines = || std::fs::read_to_string(proxy.stdout()).unwrap();
    eventually("all are logged", || lines().lines().count() == requests).await;
    let wanted = format!("\"error\":\"{error}\"");
    assert!(lines().lines().all(|line| line.contains(&wanted)), "{}", lines());
}

async fn ask(wire: &mut Wire, path: &str) -> String {
    let answer = wire.exchange(format!("GET {path} HTTP/1.1\r\nhost: shop.test\r\n\r\n")).await;
    if answer.status() == 200 { answer.text().to_owned() } else { answer.status().to_string() }
}

#[tokio::test]
async fn a_path_that_endpoints_might_read_differently_is_refused() {
    let (proxy, [site, admin]) = guarded().await;
    let mut wire = proxy.connect().await;
    let paths = [
        "/a/../admin",
        "/a/%2e%2e/admin",
        "/a/%2E./admin",
        "/admin/../a",
        "/admin/%2e%2e/a",
        "//admin",
        "/.//admin",
        "/a/..%2fadmin",
        "/a/..%2Fadmin",
        "/a/..%5cadmin",
        "/a\\..\\admin",
        "/\\admin",
        "/admin%2fx",
        "/admin;x=1/y",
        "/a/..;/admin",
        "/a/%252e%252e/admin",
        "/a/..%252fadmin",
        "/%61dmin",
        "/%2561dmin",
        "/admin%3fx",
        "/pub/%2e%2e%2fadmin/..;/pub",
    ];
    for path in paths {
        assert_eq!(ask(&mut wire, path).await, "400", "{path}");
    }
    assert_eq!(site.connections() + admin.connections(), 0, "no byte of them went on");
    logged(&proxy, "ambiguous_path", paths.len()).await;
}

#[tokio::test]
async fn a_path_that_means_nothing_is_refused() {
    let (proxy, [site, admin]) = guarded().await;
    let mut wire = proxy.connect().await;
    let paths =
        ["/a%00", "/a%2500", "/a%", "/a%zz", "/a%4", "/..", "/../admin", "/a/../..", "/..%2f..%2fetc", "/%c0%ae/"];
    for path in paths {
        assert_eq!(ask(&mut wire, path).await, "400", "{path}");
    }
    assert_eq!(site.connections() + admin.connections(), 0, "no byte of them went on");
    logged(&proxy, "bad_path", paths.len()).await;
}

#[tokio::test]
async fn an_odd_path_that_leads_to_one_service_goes_on_byte_for_byte() {
    let (proxy, [site, admin]) = guarded().await;
    let mut wire = proxy.connect().await;
    let paths = [
        ("/a/../b", "site"),
        ("/a/%2e%2e/b?x=/../admin&y=%00", "site"),
        ("/a//b", "site"),
        ("/@scope%2fname", "site"),
        ("/%40scope%2Fname", "site"),
        ("/a;v=1/b", "site"),
        ("/a\\b", "site"),
        ("/100%25", "site"),
        ("/adminx", "site"),
        ("/a%2fadmin", "site"),
        ("/ADMIN", "site"),
        ("/admin/a%20b%c3%a4", "admin"),
        ("/admin/x/../y", "admin"),
        ("/admin/x%2fy", "admin"),
        ("/admin//", "admin"),
    ];
    for (path, taker) in paths {
        assert_eq!(ask(&mut wire, path).await, taker, "{path}");
    }
    for (upstream, name) in [(site, "site"), (admin, "admin")] {
        let wanted: Vec<_> = paths.iter().filter(|(_, taker)| *taker == name).map(|(path, _)| *path).collect();
        let received = upstream.requests();
        assert_eq!(received.iter().map(Received::target).collect::<Vec<_>>(), wanted);
    }
}

#[tokio::test]
async fn requests_without_a_path_are_as_before() {
    let (proxy, [site, _admin]) = guarded().await;
    let mut wire = proxy.connect().await;
    let answer = wire.exchange("OPTIONS * HTTP/1.1\r\nhost: shop.test\r\n\r\n").await;
    assert_eq!(answer.text(), "site");
    assert_eq!(site.request().head.line, "OPTIONS * HTTP/1.1");
    let answer = wire.exchange("CONNECT shop.test:80 HTTP/1.1\r\nhost: shop.test:80\r\n\r\n").await;
    assert_eq!(answer.status(), 405);
}
