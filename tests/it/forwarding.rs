//! Who a request comes from and which way it came: what strangers say about that is dropped, what trusted proxies say
//! is believed, and the endpoint is told.

use std::net::Ipv4Addr;

use http::Request;
use serde_json::Value;

use crate::support::http2::{Http2, http2_endpoint};
use crate::support::{Answer, Authority, OK, Proxy, Received, Setup, Upstream, Wire, eventually};

/// Where trusted proxies connect from in these tests.
const TRUSTED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Everything that a stranger could say about itself, twice and in all spellings.
const LIES: &str = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7\r\nX-Forwarded-Host: evil.test\r\n\
    X-Forwarded-Proto: https\r\nX-Forwarded-Port: 1\r\nX-Forwarded-User: root\r\nX-Real-IP: 6.6.6.6\r\n\
    Forwarded: for=6.6.6.6\r\nX-Request-Id: mine\r\nClient-Cert: :AAAA:\r\nClient-Cert-Chain: :AAAA:\r\nProxy: evil\r\n\
    X_Forwarded_For: 6.6.6.6\r\nX.Forwarded.For: 6.6.6.6\r\nX-Forwarded_Proto: https\r\nx_real_ip: 6.6.6.6\r\n\
    X_Request_Id: mine\r\nClient_Cert: :AAAA:\r\nX.Forwarded-User: root\r\nContent_Length: 5\r\nRemote_User: me\r\n";

async fn trusting(upstream: &Upstream, settings: &str) -> Proxy {
    let setup = Setup::new().top("trusted_proxies = [\"127.0.0.2\", \"10.0.0.0/8\"]\naccess_log = \"./access.log\"");
    setup.backend(&[upstream.url()], "").settings(settings).start().await
}

async fn ask_as(client: Ipv4Addr, proxy: &Proxy, fields: &str) -> Answer {
    let mut wire = Wire::connect_from(client, proxy.http()).await;
    wire.exchange(format!("GET / HTTP/1.1\r\nhost: shop.test\r\n{fields}\r\n")).await
}

/// What the endpoint receives of a request with `fields`.
async fn received(client: Ipv4Addr, proxy: &Proxy, upstream: &Upstream, fields: &str) -> Received {
    assert_eq!(ask_as(client, proxy, fields).await.status(), 200, "{fields}");
    upstream.requests().pop().expect("a request has come")
}

/// The only value of each header, in the order of `names`.
fn values(received: &Received, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| received.head.values(name).join(" and ")).collect()
}

async fn log(proxy: &Proxy, count: usize) -> Vec<Value> {
    let text = || std::fs::read_to_string(proxy.folder().join("access.log")).unwrap_or_default();
    eventually("the lines are written", || text().lines().count() >= count).await;
    text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

const TOLD: [&str; 4] = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"];

fn assert_truth(received: &Received, proxy: &Proxy, secure: bool) {
    let (proto, port) = if secure { ("https", proxy.https().port()) } else { ("http", proxy.http().port()) };
    assert_eq!(values(received, &TOLD), ["127.0.0.1", proto, "shop.test", &port.to_string()]);
    for gone in [
        "x-forwarded-user",
        "x-real-ip",
        "forwarded",
        "client-cert",
        "client-cert-chain",
        "proxy",
        "x_forwarded_for",
        "x.forwarded.for",
        "x-forwarded_proto",
        "x_real_ip",
        "x_request_id",
        "client_cert",
        "x.forwarded-user",
        "content_length",
    ] {
        assert_eq!(received.head.value(gone), None, "{gone}");
    }
    let id = received.head.values("x-request-id");
    assert!(id.len() == 1 && id[0].len() == 32 && id[0].bytes().all(|b| b.is_ascii_hexdigit()), "{id:?}");
    assert_eq!(received.head.value("remote_user"), Some("me"), "a name that isn't ours");
}

#[tokio::test]
async fn what_a_stranger_says_about_itself_goes_nowhere() {
    let upstream = Upstream::answering(OK).await;
    for top in ["", "trusted_proxies = [\"127.0.0.2\"]"] {
        let proxy = Setup::new().top(top).backend(&[upstream.url()], "").start().await;
        let received = received(Ipv4Addr::LOCALHOST, &proxy, &upstream, LIES).await;
        assert_truth(&received, &proxy, false);
        let raw = String::from_utf8(upstream.bytes(upstream.connections() - 1)).expect("the request is text");
        for lie in ["6.6.6.6", "7.7.7.7", "evil", "mine", "root", "AAAA"] {
            assert!(!raw.contains(lie), "{lie} in {raw}");
        }
    }
}

#[tokio::test]
async fn nor_does_it_over_http2() {
    let upstream = Upstream::answering(OK).await;
    let authority = Authority::new();
    let setup = Setup::new().certificate(&authority.pair(&["shop.test"])).top("trusted_proxies = [\"127.0.0.2\"]");
    let proxy = setup.backend(&[upstream.url()], "").start().await;
    let client = Http2::over(authority.connect(proxy.https(), "shop.test", &["h2"]).await).await;
    let mut request = Request::get("https://shop.test/");
    for (name, value) in LIES.lines().filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    assert_eq!(client.exchange(request.body(()).unwrap()).await.0, 200);
    assert_truth(&upstream.request(), &proxy, true);
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_about_its_client() {
    let upstream = Upstream::answering(OK).await;
    let proxy = trusting(&upstream, "").await;
    let fields = "X-Forwarded-For: 6.6.6.6, 198.51.100.7\r\nX-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-Host: www.shop.test\r\nX-Forwarded-Port: 8443\r\nX-Request-Id: from-the-edge/1\r\n\
        X-Forwarded-User: anna\r\nClient-Cert: :AAAA:\r\nX-Real-IP: 198.51.100.7\r\nX_Forwarded_For: 6.6.6.6\r\n";
    let head = received(TRUSTED, &proxy, &upstream, fields).await;
    assert_eq!(values(&head, &TOLD), ["6.6.6.6, 198.51.100.7, 10.1.2.3, 127.0.0.2", "https", "www.shop.test", "8443"]);
    assert_eq!(
        values(&head, &["x-request-id", "x-forwarded-user", "client-cert", "host", "x-real-ip", "x_forwarded_for"]),
        ["from-the-edge/1", "anna", "", "shop.test", "", ""]
    );
    let line = &log(&proxy, 1).await[0];
    assert_eq!((&line["client"], &line["request_id"]), (&"198.51.100.7".into(), &"from-the-edge/1".into()));
}

#[tokio::test]
async fn what_a_trusted_proxy_says_badly_is_replaced() {
    let upstream = Upstream::answering(OK).await;
    let proxy = trusting(&upstream, "").await;
    let port = proxy.http().port().to_string();
    for (fields, told) in [
        ("", ["127.0.0.2", "http", "shop.test", &port]),
        (
            "X-Forwarded-For: 198.51.100.7, nonsense\r\n",
            ["198.51.100.7, nonsense, 127.0.0.2", "http", "shop.test", &port],
        ),
        ("X-Forwarded-Proto: gopher\r\n", ["127.0.0.2", "http", "shop.test", &port]),
        ("X-Forwarded-Proto: https\r\nx-forwarded-proto: http\r\n", ["127.0.0.2", "http", "shop.test", &port]),
        ("X-Forwarded-Host: a@b\r\nX-Forwarded-Port: 99999\r\n", ["127.0.0.2", "http", "shop.test", &port]),
        ("X-Forwarded-Host: a\r\nX-Forwarded-Host: a\r\n", ["127.0.0.2", "http", "shop.test", &port]),
        ("X-Forwarded-Proto: https\r\n", ["127.0.0.2", "https", "shop.test", "443"]),
    ] {
        assert_eq!(values(&received(TRUSTED, &proxy, &upstream, fields).await, &TOLD), told, "{fields}");
    }
    assert!(log(&proxy, 7).await.iter().all(|line| line["client"] == "127.0.0.2"));
    for id in ["a b", "<script>", &"x".repeat(129)] {
        let made = received(TRUSTED, &proxy, &upstream, &format!("X-Request-Id: {id}\r\n")).await;
        assert_eq!(made.head.value("x-request-id").map(str::len), Some(32), "{id}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_in_the_words_that_the_file_names_alone() {
    let upstream = Upstream::answering(OK).await;
    let fields = "Forwarded: for=6.6.6.6;host=evil.test;proto=https\r\nX-Forwarded-For: 198.51.100.7\r\n\
        X-Forwarded-Host: www.shop.test\r\nX-Forwarded-Port: 81\r\nX-Forwarded-User: anna\r\n";
    let x_forwarded = ["198.51.100.7, 127.0.0.2", "http", "www.shop.test", "81"];
    for (believe, told, user) in [
        ("", x_forwarded, "anna"),
        ("believe = \"both\"", x_forwarded, "anna"),
        ("believe = \"forwarded\"", ["6.6.6.6, 127.0.0.2", "https", "evil.test", "443"], ""),
    ] {
        let proxy = trusting(&upstream, &format!("[forwarding]\n{believe}")).await;
        let head = received(TRUSTED, &proxy, &upstream, fields).await;
        assert_eq!(values(&head, &TOLD), told, "{believe}");
        assert_eq!(values(&head, &["x-forwarded-user", "forwarded"]), [user, ""], "{believe}");
        let client = told[0].split(',').next().unwrap();
        assert_eq!(log(&proxy, 1).await[0]["client"], client, "{believe}");
    }
}

#[tokio::test]
async fn what_strangers_say_in_other_words_goes_through_a_trusted_proxy_unheard() {
    let upstream = Upstream::answering(OK).await;
    for (settings, lie) in [
        ("", "Forwarded: for=6.6.6.6;proto=https\r\n"),
        ("[forwarding]\nbelieve = \"forwarded\"", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n"),
    ] {
        let proxy = trusting(&upstream, settings).await;
        let port = proxy.http().port().to_string();
        let head = received(TRUSTED, &proxy, &upstream, lie).await;
        assert_eq!(values(&head, &TOLD), ["127.0.0.2", "http", "shop.test", &port], "{lie}");
        assert_eq!(log(&proxy, 1).await[0]["client"], "127.0.0.2", "{lie}");
    }
}

#[tokio::test]
async fn a_certificate_that_a_trusted_proxy_tells_of_passes_only_where_the_file_says_so() {
    const NAMES: [&str; 4] =
        ["client-cert", "client-cert-chain", "x-forwarded-client-cert", "x-forwarded-tls-client-cert"];
    let upstream = Upstream::answering(OK).await;
    let fields: String = NAMES.iter().map(|name| format!("{name}: :AAAA:\r\n")).collect();
    for (settings, passed) in [
        ("", [""; 4]),
        ("client_cert = \"trust\"", [":AAAA:"; 4]),
        ("client_cert = \"trust\"\nbelieve = \"forwarded\"", [":AAAA:", ":AAAA:", "", ""]),
    ] {
        let proxy = trusting(&upstream, &format!("[forwarding]\n{settings}")).await;
        assert_eq!(values(&received(TRUSTED, &proxy, &upstream, &fields).await, &NAMES), passed, "{settings}");
        let stranger = received(Ipv4Addr::LOCALHOST, &proxy, &upstream, &fields).await;
        assert_eq!(values(&stranger, &NAMES), [""; 4], "{settings}");
    }
}

#[tokio::test]
async fn forwarded_is_believed_where_the_file_says_so() {
    let upstream = Upstream::answering(OK).await;
    let proxy = trusting(&upstream, "[forwarding]\nbelieve = \"forwarded\"").await;
    let fields = "Forwarded: for=6.6.6.6, For=\"[2001:db8::7]:4711\";Proto=https;host=\"www.shop.test:444\"\r\n\
        Forwarded: for=10.1.2.3\r\n";
    let head = received(TRUSTED, &proxy, &upstream, fields).await;
    assert_eq!(values(&head, &TOLD), ["2001:db8::7, 10.1.2.3, 127.0.0.2", "https", "www.shop.test:444", "444"]);
    assert_eq!(head.head.value("forwarded"), None, "unless it is wanted");
    received(TRUSTED, &proxy, &upstream, "Forwarded: for=6.6.6.6;proto=https, for=_hidden\r\n").await;
    let lines = log(&proxy, 2).await;
    assert_eq!((&lines[0]["client"], &lines[1]["client"]), (&"2001:db8::7".into(), &"127.0.0.2".into()));
}

#[tokio::test]
async fn forwarded_is_written_where_it_is_wanted() {
    let upstream = Upstream::answering(OK).await;
    let proxy = trusting(&upstream, "[forwarding]\nbelieve = \"both\"\nforwarded = true").await;
    for (client, fields, wanted) in [
        (Ipv4Addr::LOCALHOST, "Forwarded: for=6.6.6.6\r\n", "for=127.0.0.1;host=shop.test;proto=http"),
        (
            TRUSTED,
            "Forwarded: for=198.51.100.7;proto=https\r\n",
            "for=198.51.100.7;proto=https, for=127.0.0.2;host=shop.test;proto=https",
        ),
        (
            TRUSTED,
            "X-Forwarded-For: 2001:db8::7\r\nX-Forwarded-Host: a.test:81\r\nForwarded: for=6.6.6.6\r\n",
            "for=\"[2001:db8::7]\";host=\"a.test:81\";proto=http, for=127.0.0.2",
        ),
    ] {
        let head = received(client, &proxy, &upstream, fields).await;
        assert_eq!(head.head.values("forwarded"), [wanted]);
    }
}

#[tokio::test]
async fn rules_and_cookies_go_by_the_client_behind_a_trusted_proxy() {
    let (blue, green) = (Upstream::answering(OK).await, Upstream::answering(OK).await);
    let settings = format!(
        "[services.shop]\nstable = \"blue\"\nsticky = {{ cookie = \"id\" }}\n\
         rules = [{{ backend = \"green\", networks = [\"198.51.100.0/24\"] }}]\n\
         [services.shop.backends.blue]\nweight = 1\nendpoints = [{:?}]\n\
         [services.shop.backends.green]\nweight = 0\nendpoints = [{:?}]\n",
        blue.url(),
        green.url()
    );
    let proxy = Setup::new().top("trusted_proxies = [\"127.0.0.2\"]").settings(&settings).start().await;
    ask_as(TRUSTED, &proxy, "X-Forwarded-For: 198.51.100.7\r\n").await;
    assert_eq!((blue.requests().len(), green.requests().len()), (0, 1));
    let fields = "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n";
    let cookie = |answer: &Answer| answer.head.value("set-cookie").expect("a client is new").to_owned();
    assert!(cookie(&ask_as(TRUSTED, &proxy, fields).await).ends_with("; Secure"));
    assert!(!cookie(&ask_as(Ipv4Addr::LOCALHOST, &proxy, fields).await).contains("Secure"));
    ask_as(Ipv4Addr::LOCALHOST, &proxy, "X-Forwarded-For: 198.51.100.7\r\n").await;
    assert_eq!((blue.requests().len(), green.requests().len()), (3, 1), "a stranger isn't believed");
}

#[tokio::test]
async fn a_reload_changes_who_is_trusted_on_open_connections() {
    let upstream = Upstream::answering(OK).await;
    let service =
        |top: &str| format!("{top}\n[services.shop.backends.blue]\nweight = 1\nendpoints = [{:?}]\n", upstream.url());
    let proxy = Setup::new().top("trusted_proxies = [\"127.0.0.1\"]").settings(&service("")).start().await;
    let mut client = proxy.connect().await;
    let request = "GET / HTTP/1.1\r\nhost: shop.test\r\nx-forwarded-proto: https\r\n\r\n";
    client.exchange(request).await;
    let file = proxy.folder().join("proxy.toml");
    let text = std::fs::read_to_string(&file).expect("it is there").replace("trusted_proxies = [\"127.0.0.1\"]", "");
    std::fs::write(&file, text).expect("the folder is ours");
    proxy.reload_well().await;
    client.exchange(request).await;
    let told: Vec<_> = upstream.requests().iter().map(|r| values(r, &["x-forwarded-proto"]).remove(0)).collect();
    assert_eq!(told, ["https", "http"]);
}

#[tokio::test]
async fn via_tells_the_way_in_both_directions() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let answer = ask_as(Ipv4Addr::LOCALHOST, &proxy, "Via: 1.0 cache\r\n").await;
    assert_eq!(answer.head.values("via"), ["1.1 tidegate"]);
    assert_eq!(upstream.request().head.values("via"), ["1.0 cache", "1.1 tidegate"]);
    let client = Http2::over(proxy.connect().await).await;
    assert_eq!(client.fetch("/").await.1.headers["via"], "1.1 tidegate");
    assert_eq!(upstream.requests().pop().unwrap().head.values("via"), ["2 tidegate"]);
    proxy.exchange("GET / HTTP/1.0\r\nhost: shop.test\r\n\r\n").await;
    assert_eq!(upstream.requests().pop().unwrap().head.values("via"), ["1.0 tidegate"]);

    let silent = trusting(&upstream, "[forwarding]\nvia = \"off\"").await;
    assert_eq!(ask_as(Ipv4Addr::LOCALHOST, &silent, "Via: 1.0 cache\r\n").await.head.value("via"), None);
    assert_eq!(upstream.requests().pop().unwrap().head.values("via"), ["1.0 cache"]);

    let endpoint = http2_endpoint(None, |stream| async move {
        assert_eq!(stream.request.headers()["via"], "1.1 edge");
        stream.answer("ok");
    })
    .await;
    let setup = Setup::new().backend(&[endpoint.url()], "protocol = \"h2\"").settings("[forwarding]\nvia = \"edge\"");
    let proxy = setup.start().await;
    assert_eq!(proxy.fetch("/").await.head.values("via"), ["2 edge"]);
}

#[tokio::test]
async fn a_request_that_goes_in_circles_is_stopped() {
    let upstream = Upstream::answering(OK).await;
    let proxy = trusting(&upstream, "").await;
    let entries = |count: usize| format!("Via: {}\r\n", vec!["1.1 tidegate"; count].join(", "));
    assert_eq!(ask_as(Ipv4Addr::LOCALHOST, &proxy, &entries(10)).await.status(), 200);
    assert_eq!(ask_as(Ipv4Addr::LOCALHOST, &proxy, &entries(11)).await.status(), 508);
    assert_eq!(ask_as(Ipv4Addr::LOCALHOST, &proxy, &"Via: 1.1 a\r\n".repeat(51)).await.status(), 508);
    assert_eq!(upstream.requests().len(), 1);
    assert!(log(&proxy, 3).await[1..].iter().all(|line| line["error"] == "loop"));
}

#[tokio::test]
async fn connection_takes_nothing_away_that_an_endpoint_goes_by() {
    let upstream = Upstream::answering(OK).await;
    let proxy = trusting(&upstream, "[forwarding]\nclient_cert = \"trust\"").await;
    let names = "x-forwarded-for, X-Forwarded-Proto, x-forwarded-host, x-forwarded-port, via, x-request-id, host, \
        authorization, cookie, traceparent, client-cert, x-forwarded-user, x-gone";
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let fields = format!(
        "Connection: {names}\r\nconnection: close\r\nAuthorization: Basic eDp5\r\nCookie: a=1\r\ntraceparent: {trace}\r\n\
         x-forwarded-for: 198.51.100.7\r\nx-forwarded-user: anna\r\nclient-cert: :AAAA:\r\nvia: 1.1 a\r\nx-gone: 1\r\n"
    );
    let head = received(TRUSTED, &proxy, &upstream, &fields).await;
    let port = proxy.http().port().to_string();
    assert_eq!(values(&head, &TOLD), ["198.51.100.7, 127.0.0.2", "http", "shop.test", &port]);
    assert_eq!(
        values(&head, &["authorization", "cookie", "traceparent", "client-cert", "x-forwarded-user", "via", "host"]),
        ["Basic eDp5", "a=1", trace, ":AAAA:", "anna", "1.1 a and 1.1 tidegate", "shop.test"]
    );
    assert_eq!((head.head.value("x-gone"), head.head.value("connection")), (None, None));
}

#[tokio::test]
async fn thousands_of_names_that_go_cost_no_more_than_others() {
    let upstream = Upstream::answering(OK).await;
    let limits = "[limits]\nheaders = 2000\nheader_bytes = \"128KiB\"\n";
    let proxy = Setup::new().backend(&[upstream.url()], limits).start().await;
    let client = Http2::over(proxy.connect().await).await;
    let flood = |prefix: &str| {
        let mut request = Request::get("http://shop.test/");
        // What stays stands first, in the way of whoever looks for what goes.
        for index in 0..1_200 {
            request = request.header(format!("{}{index}", if index < 600 { "x-kept-" } else { prefix }), "");
        }
        request.body(()).unwrap()
    };
    let mut spent = Vec::new();
    for prefix in ["x-harmless-", "x_forwarded_", "x-forwarded-"] {
        let before = proxy.processor_time();
        for _ in 0..20 {
            assert_eq!(client.exchange(flood(prefix)).await.0, 200);
        }
        spent.push(proxy.processor_time().saturating_sub(before));
    }
    // Each name looked for among all others would take many times as long.
    assert!(spent[1..].iter().all(|time| *time < spent[0] * 3), "{spent:?}");
    let gone = &upstream.requests()[20..];
    assert!(gone.iter().all(|request| request.head.fields.len() < 612));
}
