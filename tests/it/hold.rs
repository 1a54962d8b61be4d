//! Holding a service's new requests while something is swapped underneath, and letting them go.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::http2::Http2;
use crate::support::{
    Gate, Load, OPEN_SOCKET, Proxy, Ran, Setup, Signal, Upstream, Wire, backend, get, named, tidegate, within,
};

const JSON: &str = "content-type: application/json\r\n";

async fn shop(upstream: &Upstream) -> Proxy {
    Setup::new().settings(&backend("blue", 1.0, upstream)).start().await
}

async fn hold(proxy: &Proxy, body: &str) {
    let answer = proxy.call("PUT", "/v1/services/shop/hold", JSON, body).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

async fn release(proxy: &Proxy) {
    let answer = proxy.call("DELETE", "/v1/services/shop/hold", "", "").await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
}

/// Sends a request that is going to wait, and returns once it does.
async fn waits(proxy: &Proxy, request: &str, number: u64) -> Wire {
    let mut client = proxy.connect().await;
    client.send(request).await;
    proxy.metric_becomes("tidegate_requests_held", "", number).await;
    client
}

#[tokio::test]
async fn a_swap_under_a_hold_loses_no_request() {
    let (blue, green) = (named("blue").await, named("green").await);
    let backends = backend("blue", 1.0, &blue) + &backend("green", 0.0, &green);
    let proxy = Setup::new().workers(2).settings(&backends).start().await;
    let load = Load::on(proxy.http(), 8, 2);
    load.goes_on(100).await;
    hold(&proxy, r#"{"for": "30s"}"#).await;
    proxy.metric_becomes("tidegate_requests_held", "", 10).await;
    let before = blue.requests().len();
    proxy.shift(r#"{"blue": 0, "green": 1}"#).await;
    assert_eq!((blue.requests().len(), green.requests().len()), (before, 0), "all of them wait");
    release(&proxy).await;
    load.goes_on(100).await;
    let answered = load.finish().await;
    assert_eq!(blue.requests().len(), before, "those that waited went where new ones go");
    assert_eq!(before + green.requests().len(), answered, "every request came once");
    let told = &proxy.event("released").await["detail"];
    assert_eq!((&told["gave_up"], &told["refused"]), (&json!(0), &json!(0)));
    assert!(told["waited"].as_u64().is_some_and(|waited| waited >= 10), "{told}");
}

#[tokio::test]
async fn requests_go_in_the_order_in_which_they_came() {
    let upstream = named("blue").await;
    let one = "limits = { requests = 1 }";
    let proxy = Setup::new().settings(&(backend("blue", 1.0, &upstream) + one)).start().await;
    hold(&proxy, r#"{"for": "30s"}"#).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        clients.push(waits(&proxy, &get(&format!("/{number}"), ""), number + 1).await);
    }
    release(&proxy).await;
    for client in &mut clients {
        assert_eq!(client.answer().await.status(), 200);
    }
    let came: Vec<_> = upstream.requests().iter().map(|received| received.target().to_owned()).collect();
    assert_eq!(came, (0..20).map(|number| format!("/{number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_hold_ends_by_itself_and_another_one_replaces_its_time() {
    let upstream = named("blue").await;
    let proxy = shop(&upstream).await;
    hold(&proxy, r#"{"for": "5m"}"#).await;
    let mut client = waits(&proxy, &get("/", ""), 1).await;
    let began = Instant::now();
    hold(&proxy, r#"{"for": "300ms", "requests": 7}"#).await;
    assert_eq!(client.answer().await.status(), 200);
    assert!(began.elapsed() >= Duration::from_millis(295), "{:?}", began.elapsed());
    let held = proxy.told("held", 2).await;
    assert_eq!(held[1]["detail"], json!({ "service": "shop", "seconds": 0.3, "requests": 7 }));
    let released = proxy.event("released").await;
    assert_eq!(released["detail"], json!({ "service": "shop", "waited": 1, "gave_up": 0, "refused": 0 }));
    let view = proxy.view("/v1/services/shop").await;
    assert!(view.get("hold").is_none(), "{view}");
    assert_eq!(proxy.fetch("/").await.status(), 200);
}

#[tokio::test]
async fn requests_beyond_the_bound_are_refused_at_once_and_told_when_to_come_again() {
    let upstream = named("blue").await;
    let proxy = Setup::new()
        .top("access_log = \"stdout\"")
        .settings(&format!("[errors]\nheader = true\n{}", backend("blue", 1.0, &upstream)))
        .start()
        .await;
    hold(&proxy, r#"{"for": "100s", "requests": 2}"#).await;
    let mut first = waits(&proxy, &get("/", ""), 1).await;
    let second = waits(&proxy, &get("/", ""), 2).await;
    let answer = proxy.fetch("/").await;
    assert_eq!((answer.status(), answer.head.value("tidegate-error")), (503, Some("hold_full")));
    let seconds: u64 = answer.head.value("retry-after").and_then(|value| value.parse().ok()).expect("it says when");
    assert!((90..=100).contains(&seconds), "{seconds}");
    let view = proxy.view("/v1/services/shop").await;
    assert_eq!((&view["hold"]["waiting"], &view["hold"]["refused"]), (&json!(2), &json!(1)));
    // Who leaves makes room.
    drop(second);
    proxy.metric_becomes("tidegate_requests_held", "", 1).await;
    let mut third = waits(&proxy, &get("/", ""), 2).await;
    release(&proxy).await;
    assert_eq!((first.answer().await.status(), third.answer().await.status()), (200, 200));
    assert_eq!(
        proxy.event("released").await["detail"],
        json!({ "service": "shop", "waited": 3, "gave_up": 1, "refused": 1 })
    );
    proxy.metric_becomes("tidegate_request_errors_total", "client_left", 1).await;
    proxy.metric_becomes("tidegate_requests_held_total", "", 3).await;
    assert_eq!(upstream.requests().len(), 2, "who left is forgotten");
}

#[tokio::test]
async fn websockets_http2_and_bodies_wait_alike() {
    let gate = Gate::shut().await;
    let proxy = shop(&gate.upstream).await;
    hold(&proxy, r#"{"for": "30s"}"#).await;
    let mut socket = waits(&proxy, OPEN_SOCKET, 1).await;
    let http2 = Http2::over(proxy.connect().await).await;
    let asked = http2.ask(crate::support::http2::get("/")).await;
    proxy.metric_becomes("tidegate_requests_held", "", 2).await;
    let post = "POST / HTTP/1.1\r\nhost: shop.test\r\ncontent-length: 5\r\n\r\nhello";
    let mut body = waits(&proxy, post, 3).await;
    assert_eq!(gate.upstream.connections(), 0);
    release(&proxy).await;
    assert_eq!(socket.head().await.status(), 101);
    socket.assert_echo("hello").await;
    let (status, _) = crate::support::http2::whole(asked).await;
    assert_eq!((status.as_u16(), body.answer().await.status()), (200, 200));
}

#[tokio::test]
async fn a_request_whose_own_time_is_over_is_told_so() {
    let upstream = named("blue").await;
    let timeouts = "[services.shop]\ntimeouts = { request = \"300ms\" }\n";
    let proxy = Setup::new().settings(&(timeouts.to_owned() + &backend("blue", 1.0, &upstream))).start().await;
    hold(&proxy, r#"{"for": "30s"}"#).await;
    assert_eq!(proxy.fetch("/").await.status(), 504);
    proxy.metric_becomes("tidegate_request_errors_total", "request_timeout", 1).await;
    release(&proxy).await;
    assert_eq!(proxy.event("released").await["detail"]["gave_up"], 1);
    assert_eq!(upstream.requests().len(), 0);
}

#[tokio::test]
async fn waiting_counts_in_the_requests_duration_but_not_as_the_endpoints() {
    let upstream = named("blue").await;
    let proxy = Setup::new().top("access_log = \"stdout\"").settings(&backend("blue", 1.0, &upstream)).start().await;
    assert_eq!(proxy.fetch("/warm").await.status(), 200);
    hold(&proxy, r#"{"for": "30s"}"#).await;
    let mut client = waits(&proxy, &get("/", ""), 1).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    release(&proxy).await;
    assert_eq!(client.answer().await.status(), 200);
    let line = within("the access line", async {
        loop {
            let log = std::fs::read_to_string(proxy.stdout()).unwrap_or_default();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            if let Some(line) = lines.into_iter().find(|line| line["path"] == "/") {
                return line;
            }
            tokio::time::sleep(crate::support::POLL_INTERVAL).await;
        }
    })
    .await;
    let (duration, first_byte) = (line["duration_ms"].as_f64().unwrap(), line["first_byte_ms"].as_f64().unwrap());
    assert!(duration >= 600.0 && first_byte < 500.0, "{line}");
}

#[tokio::test]
async fn a_drain_lets_those_that_wait_go_and_holds_nobody_any_more() {
    let upstream = named("blue").await;
    let mut proxy = shop(&upstream).await;
    hold(&proxy, r#"{"for": "5m"}"#).await;
    let mut client = waits(&proxy, &get("/", ""), 1).await;
    proxy.signal(Signal::TERM);
    assert_eq!(client.answer().await.status(), 200);
    assert!(proxy.wait().await.success());
}

#[tokio::test]
async fn a_hold_outlives_a_reload_unless_its_service_goes() {
    let (blue, other) = (named("blue").await, named("other").await);
    let mut proxy = shop(&blue).await;
    hold(&proxy, r#"{"for": "5m"}"#).await;
    let mut client = waits(&proxy, &get("/", ""), 1).await;
    proxy.rewrite(&(backend("blue", 2.0, &blue) + "[services.shop]\nbody_max = \"1MiB\"\n"));
    proxy.reload_well().await;
    proxy.metric_becomes("tidegate_requests_held", "", 1).await;
    proxy.rewrite(&backend("main", 1.0, &other).replace("shop", "other"));
    proxy.reload_well().await;
    assert_eq!(client.answer().await.text(), "other");
    assert_eq!(
        proxy.event("released").await["detail"],
        json!({ "service": "shop", "waited": 1, "gave_up": 0, "refused": 0 })
    );
}

#[tokio::test]
async fn limits_count_a_request_that_waits_once() {
    let upstream = named("blue").await;
    let limits = "[[services.shop.rate_limits]]\nrequests = 1\nper = \"1h\"\n";
    let proxy = Setup::new().settings(&(limits.to_owned() + &backend("blue", 1.0, &upstream))).start().await;
    hold(&proxy, r#"{"for": "30s"}"#).await;
    let mut client = waits(&proxy, &get("/", ""), 1).await;
    assert_eq!(proxy.fetch("/").await.status(), 429, "one too many is told before it waits");
    release(&proxy).await;
    assert_eq!(client.answer().await.status(), 200);
}

#[tokio::test]
async fn nonsense_is_refused_and_nobody_is_held() {
    let upstream = named("blue").await;
    let proxy = shop(&upstream).await;
    for (body, status, says) in [
        (r#"{"for": "6m"}"#, 422, "from 1ms to 5m"),
        (r#"{"for": "0s"}"#, 422, "from 1ms to 5m"),
        (r#"{"for": "soon"}"#, 422, "no duration"),
        (r#"{"for": "1s", "requests": 0}"#, 422, "1 to 100000 requests"),
        (r#"{"for": "1s", "times": 3}"#, 422, "unknown field"),
        ("{}", 422, "missing field `for`"),
    ] {
        let answer = proxy.call("PUT", "/v1/services/shop/hold", JSON, body).await;
        assert!(answer.status() == status && answer.text().contains(says), "{body}: {}", answer.text());
    }
    assert_eq!(proxy.call("PUT", "/v1/services/shoe/hold", JSON, r#"{"for": "1s"}"#).await.status(), 404);
    assert_eq!(proxy.call("DELETE", "/v1/services/shoe/hold", "", "").await.status(), 404);
    release(&proxy).await;
    assert_eq!(proxy.fetch("/").await.status(), 200);
}

#[tokio::test]
async fn the_command_line_holds_shows_and_releases() {
    let upstream = named("blue").await;
    let proxy = shop(&upstream).await;
    let admin = proxy.admin().to_string();
    let run = async |arguments: &[&str]| {
        let ran = Ran::of(tidegate(arguments).args(["--admin", &admin]).env("TIDEGATE_BY", "ada")).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        ran.out
    };
    let shown = run(&["hold", "shop", "--for", "1m30s", "--requests", "50"]).await;
    assert!(shown.contains("held for another") && shown.contains("0 wait"), "{shown}");
    let _client = waits(&proxy, &get("/", ""), 1).await;
    assert!(run(&["status", "shop"]).await.contains("1 wait, 0 gave up"));
    assert!(!run(&["release", "shop"]).await.contains("held for"));
    let events = run(&["events", "shop"]).await;
    assert!(events.contains("new requests wait, up to 90 s and 50 at once  by ada (cli)"), "{events}");
    assert!(
        events.contains("requests go on: 1 had waited, 0 gave up before, 0 found no room  by ada (cli)"),
        "{events}"
    );
}
