//! Which service takes a request, and which backend rules force on it, through the running proxy.

use std::net::Ipv4Addr;

use crate::support::{Proxy, Setup, Upstream, Wire, backend, named};

/// A service of one backend, whose endpoint answers with the service's name.
struct Service {
    name: &'static str,
    upstream: Upstream,
}

impl Service {
    async fn open(name: &'static str) -> Self {
        Self { name, upstream: named(name).await }
    }

    fn settings(&self, routes: &str) -> String {
        let Self { name, upstream } = self;
        format!(
            "[services.{name}]\n{routes}\n[services.{name}.backends.main]\nweight = 1\nendpoints = [{:?}]\n",
            upstream.url()
        )
    }
}

/// Starts a proxy before services named and routed so.
async fn start(services: &[(&'static str, &str)]) -> (Proxy, Vec<Service>) {
    let mut setup = Setup::new();
    let mut opened = Vec::new();
    for (name, routes) in services {
        let service = Service::open(name).await;
        setup = setup.settings(&service.settings(routes));
        opened.push(service);
    }
    (setup.start().await, opened)
}

/// Who answers to a request; the status where nobody does.
async fn taker(wire: &mut Wire, line: &str, host: &str, fields: &str) -> String {
    let answer = wire.exchange(format!("{line} HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n")).await;
    if answer.status() == 200 { answer.text().to_owned() } else { answer.status().to_string() }
}

#[tokio::test]
async fn hosts_are_matched_exactly_then_by_wildcard_then_by_whoever_takes_the_rest() {
    let (proxy, _services) = start(&[
        ("exact", "routes = [{ host = \"shop.example.com\" }]"),
        ("wildcard", "routes = [{ host = \"*.example.com\" }]"),
        ("deeper", "routes = [{ host = \"*.eu.example.com\" }]"),
        ("rest", ""),
    ])
    .await;
    let mut wire = proxy.connect().await;
    for (host, wanted) in [
        ("shop.example.com", "exact"),
        ("SHOP.Example.COM", "exact"),
        ("shop.example.com:8080", "exact"),
        ("shop.example.com.", "exact"),
        ("cart.example.com", "wildcard"),
        ("a.b.example.com", "wildcard"),
        ("shop.eu.example.com", "deeper"),
        ("example.com", "rest"),
        ("example.org", "rest"),
        ("127.0.0.1", "rest"),
        ("[::1]:80", "rest"),
    ] {
        assert_eq!(taker(&mut wire, "GET /", host, "").await, wanted, "{host}");
    }
}

#[tokio::test]
async fn what_no_service_takes_is_answered_404() {
    let (proxy, services) = start(&[("shop", "routes = [{ host = \"shop.example.com\", path = \"/api\" }]")]).await;
    let mut wire = proxy.connect().await;
    assert_eq!(taker(&mut wire, "GET /api", "shop.example.com", "").await, "shop");
    assert_eq!(taker(&mut wire, "GET /other", "shop.example.com", "").await, "404");
    assert_eq!(taker(&mut wire, "GET /api", "cart.example.com", "").await, "404");
    assert_eq!(services[0].upstream.requests().len(), 1);
    proxy.metric_becomes("tidegate_requests_refused_total", "code=\"404\"", 2).await;
}

#[tokio::test]
async fn paths_are_matched_exactly_then_by_expression_then_by_the_longest_prefix() {
    let (proxy, _services) = start(&[
        ("exact", "routes = [{ path_exact = \"/api/status\" }]"),
        ("regex", "routes = [{ path_regex = '/api/users/[0-9]+' }]"),
        ("deep", "routes = [{ path = \"/api/users\" }]"),
        ("api", "routes = [{ path = \"/api\" }]"),
        ("root", "routes = [{ path = \"/\" }]"),
    ])
    .await;
    let mut wire = proxy.connect().await;
    for (path, wanted) in [
        ("/api/status", "exact"),
        ("/api/status?x=1", "exact"),
        ("/api/status/", "api"),
        ("/api/users/42", "regex"),
        ("/api/users/42x", "deep"),
        ("/api/users/42/cart", "deep"),
        ("/api/users", "deep"),
        ("/api/usersx", "api"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/apix", "root"),
        ("/", "root"),
        ("/?/api", "root"),
    ] {
        assert_eq!(taker(&mut wire, &format!("GET {path}"), "any.test", "").await, wanted, "{path}");
    }
}

#[tokio::test]
async fn method_header_query_and_cookie_are_conditions_and_the_most_conditions_win() {
    let (proxy, _services) = start(&[
        ("reads", "routes = [{ path = \"/a\", methods = [\"GET\", \"HEAD\"] }]"),
        ("tenant", "routes = [{ path = \"/a\", headers = { x-tenant = \"acme\" } }]"),
        ("debug", "routes = [{ path = \"/a\", methods = [\"GET\"], query = { debug = { present = true } } }]"),
        ("beta", "routes = [{ path = \"/b\", cookies = { beta = { regex = \"^(yes|on)$\" } } }]"),
        ("rest", ""),
    ])
    .await;
    let mut wire = proxy.connect().await;
    for (line, fields, wanted) in [
        ("GET /a", "", "reads"),
        ("POST /a", "content-length: 0\r\n", "rest"),
        ("POST /a", "content-length: 0\r\nX-Tenant: acme\r\n", "tenant"),
        ("POST /a", "content-length: 0\r\nx-tenant: Acme\r\n", "rest"),
        ("GET /a?debug", "", "debug"),
        ("GET /a?x=1&debug=2", "", "debug"),
        ("GET /a?debugger=1", "", "reads"),
        ("GET /b", "cookie: beta=yes\r\n", "beta"),
        ("GET /b", "cookie: alpha=1; beta=on\r\n", "beta"),
        ("GET /b", "cookie: beta=yesterday\r\n", "rest"),
        ("GET /b", "cookie: betamax=on\r\n", "rest"),
    ] {
        assert_eq!(taker(&mut wire, line, "any.test", fields).await, wanted, "{line} {fields}");
    }
}

/// A proxy whose split sends everything to blue, with rules before it.
async fn ruled(rules: &str) -> (Proxy, [Upstream; 2]) {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let backends = backend("blue", 1.0, &blue) + &backend("canary", 0.0, &canary);
    (Setup::new().settings(&format!("{rules}\n{backends}")).start().await, [blue, canary])
}

#[tokio::test]
async fn rules_by_header_cookie_and_query_outrank_the_split() {
    let (proxy, _upstreams) = ruled(
        "[[services.shop.rules]]\nbackend = \"canary\"\nheaders = { x-preview = \"canary\" }\n\
         [[services.shop.rules]]\nbackend = \"canary\"\ncookies = { preview = { regex = \"^c\" } }\n\
         [[services.shop.rules]]\nbackend = \"canary\"\nquery = { preview = \"a b\", really = { present = true } }\n",
    )
    .await;
    let mut wire = proxy.connect().await;
    for (target, fields, wanted) in [
        ("/", "", "blue"),
        ("/", "x-preview: canary\r\n", "canary"),
        ("/", "x-preview: blue\r\nx-preview: canary\r\n", "canary"),
        ("/", "x-preview: canary2\r\n", "blue"),
        ("/", "cookie: preview=canary\r\n", "canary"),
        ("/", "cookie: a=1\r\ncookie: preview=c\r\n", "canary"),
        ("/", "cookie: preview=blue\r\n", "blue"),
        ("/?preview=a+b&really", "", "canary"),
        ("/?really=1&preview=a%20b", "", "canary"),
        ("/?preview=a+b", "", "blue"),
    ] {
        assert_eq!(taker(&mut wire, &format!("GET {target}"), "any.test", fields).await, wanted, "{target} {fields}");
    }
}

#[tokio::test]
async fn the_first_rule_that_holds_decides_even_for_clients_that_stick() {
    let (proxy, _upstreams) = ruled(
        "[services.shop]\nsticky = { header = \"x-user\" }\n\
         [[services.shop.rules]]\nbackend = \"blue\"\nheaders = { x-preview = \"canary\", x-safe = \"yes\" }\n\
         [[services.shop.rules]]\nbackend = \"canary\"\nheaders = { x-preview = \"canary\" }\n",
    )
    .await;
    let mut wire = proxy.connect().await;
    let mut ask = async |fields: &str| taker(&mut wire, "GET /", "any.test", fields).await;
    assert_eq!(ask("x-user: 1\r\n").await, "blue");
    assert_eq!(ask("x-user: 1\r\nx-preview: canary\r\n").await, "canary");
    assert_eq!(ask("x-user: 1\r\nx-preview: canary\r\nx-safe: yes\r\n").await, "blue");
    assert_eq!(ask("x-user: 1\r\n").await, "blue");
}

#[tokio::test]
async fn rules_by_network_look_at_the_client_and_not_at_what_it_says() {
    let (proxy, _upstreams) =
        ruled("[[services.shop.rules]]\nbackend = \"canary\"\nnetworks = [\"127.9.0.0/16\", \"127.8.0.1\"]\n").await;
    for (client, wanted) in [
        ([127, 0, 0, 1], "blue"),
        ([127, 9, 0, 1], "canary"),
        ([127, 9, 255, 254], "canary"),
        ([127, 10, 0, 1], "blue"),
        ([127, 8, 0, 1], "canary"),
        ([127, 8, 0, 2], "blue"),
    ] {
        let mut wire = Wire::connect_from(Ipv4Addr::from(client), proxy.http()).await;
        let fields = "x-forwarded-for: 127.9.0.1\r\n";
        assert_eq!(taker(&mut wire, "GET /", "any.test", fields).await, wanted, "{client:?}");
    }
}
