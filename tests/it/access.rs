//! Whom a service lets in, how often, and whether over TLS: what is refused reaches no endpoint.

use std::net::Ipv4Addr;

use crate::support::{Authority, Proxy, Setup, Upstream, Wire, backend, named};

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
    assert_eq!(proxy.metric("tidegate_requests_denied_total", "service=\"shop\"").await, 3);
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
    assert_eq!(proxy.metric("tidegate_requests_limited_total", "service=\"shop\"").await, 30);
    assert_eq!(proxy.metric("tidegate_rate_limit_clients", "service=\"shop\"").await, 1);
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
    proxy.rewrite(&settings(1, "deny = [\"192.0.2.1\"]"));
    proxy.reload_well().await;
    assert_eq!(wire.exchange(GET).await.status(), 429);
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
    assert_eq!(proxy.metric("tidegate_requests_redirected_total", "service=\"shop\"").await, 1);
}
