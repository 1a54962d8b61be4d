//! The access log: one JSON line for each request, however it ended.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Gate, Proxy, Refusing, Setup, Signal, Upstream, backend, eventually, get, named};

async fn logging(settings: &str) -> (Proxy, PathBuf) {
    let proxy = Setup::new().top("access_log = \"./access.log\"").settings(settings).start().await;
    let path = proxy.folder().join("access.log");
    (proxy, path)
}

/// The lines of a log once there are `count` of them.
async fn lines(path: &PathBuf, count: usize) -> Vec<Value> {
    let text = || fs::read_to_string(path).unwrap_or_default();
    eventually(&format!("{count} lines are written"), || text().lines().count() >= count).await;
    let lines: Vec<Value> = text().lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!(lines.len(), count);
    lines
}

#[tokio::test]
async fn a_proxied_request_is_told_with_everything_about_it() {
    let blue = named("blue").await;
    let (proxy, path) = logging(&backend("blue", 1.0, &blue)).await;
    let request = "POST /cart?item=1{} HTTP/1.1\r\nHost: Shop.Test:8080\r\nuser-agent: test/1\r\n\
                   content-length: 3\r\n\r\nabc";
    assert_eq!(proxy.exchange(request).await.status(), 200);
    let line = lines(&path, 1).await.remove(0);
    for (field, wanted) in [
        ("client", "127.0.0.1".into()),
        ("protocol", "HTTP/1.1".into()),
        ("method", "POST".into()),
        ("host", "shop.test".into()),
        ("path", "/cart?item=1{}".into()),
        ("service", "shop".into()),
        ("backend", "blue".into()),
        ("endpoint", blue.address.to_string().into()),
        ("status", Value::from(200)),
        ("received_bytes", 3.into()),
        ("sent_bytes", 4.into()),
        ("user_agent", "test/1".into()),
        ("error", Value::Null),
    ] {
        assert_eq!(line[field], wanted, "{field}");
    }
    let (duration, first_byte) = (line["duration_ms"].as_f64(), line["first_byte_ms"].as_f64());
    assert!(first_byte > Some(0.0) && duration >= first_byte && duration < Some(20_000.0), "{line}");
    let time = line["time"].as_str().expect("a time is text");
    let logged = humantime::parse_rfc3339(time).expect("a time is RFC 3339");
    assert!(logged.elapsed().expect("it is past").as_secs() < 60 && time.ends_with('Z'));
}

#[tokio::test]
async fn what_the_proxy_answers_itself_is_told_with_its_reason() {
    let refusing = Refusing::new();
    let settings = format!(
        "[timeouts]\nrestart_wait = \"0s\"\n[services.shop]\nroutes = [{{ host = \"shop.test\" }}]\n\
         [services.shop.backends.blue]\nweight = 1\nendpoints = [{:?}]\n",
        refusing.url()
    );
    let (proxy, path) = logging(&settings).await;
    for (index, (request, status, error, service)) in [
        (get("/", ""), 502, "connect_failed", Value::from("shop")),
        ("GET / HTTP/1.1\r\nhost: nobody.test\r\n\r\n".to_owned(), 404, "no_route", Value::Null),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_host", Value::Null),
        (
            "CONNECT shop.test:443 HTTP/1.1\r\nhost: shop.test:443\r\n\r\n".to_owned(),
            405,
            "method_not_allowed",
            Value::Null,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(proxy.exchange(&request).await.status(), status, "{request}");
        let line = lines(&path, index + 1).await.remove(index);
        assert_eq!((&line["status"], &line["error"], &line["service"]), (&status.into(), &error.into(), &service));
        let asked = if service.is_null() { Value::Null } else { refusing.address.to_string().into() };
        assert_eq!((&line["endpoint"], &line["first_byte_ms"]), (&asked, &Value::Null), "{line}");
    }
}

#[tokio::test]
async fn requests_that_their_clients_gave_up_are_told_too() {
    let gate = Gate::shut().await;
    let (proxy, path) = logging(&backend("blue", 1.0, &gate.upstream)).await;
    let mut waiting = proxy.connect().await;
    waiting.send(get("/held", "")).await;
    gate.received("/held").await;
    drop(waiting);
    let line = lines(&path, 1).await.remove(0);
    assert_eq!((&line["path"], &line["status"], &line["backend"]), (&"/held".into(), &Value::Null, &"blue".into()));
    let mut reading = proxy.connect().await;
    reading.send(get("/half", "")).await;
    reading.head().await;
    drop(reading);
    let line = lines(&path, 2).await.remove(1);
    assert_eq!((&line["path"], &line["status"], &line["error"]), (&"/half".into(), &200.into(), &"client_left".into()));
}

#[tokio::test]
async fn a_tunnel_is_one_line_at_its_end() {
    let gate = Gate::shut().await;
    let (proxy, path) = logging(&backend("blue", 1.0, &gate.upstream)).await;
    let mut socket = proxy.connect().await;
    socket.open_socket().await;
    drop(socket);
    let line = lines(&path, 1).await.remove(0);
    assert_eq!((&line["status"], &line["path"]), (&101.into(), &"/socket".into()));
    assert_eq!((&line["received_bytes"], &line["sent_bytes"]), (&5.into(), &5.into()));
}

#[tokio::test]
async fn what_a_client_sends_cannot_break_a_line() {
    let blue = named("blue").await;
    let (proxy, path) = logging(&backend("blue", 1.0, &blue)).await;
    let mut client = proxy.connect().await;
    client.send(b"GET /\xc3\xa9\"{}\\?\\{ HTTP/1.1\r\nhost: shop.test\r\nuser-agent: \"}\t{\\\r\n\r\n").await;
    assert_eq!(client.answer().await.status(), 200);
    let line = lines(&path, 1).await.remove(0);
    assert_eq!((&line["path"], &line["user_agent"]), (&"/\u{e9}\"{}\\?\\{".into(), &"\"}\t{\\".into()));
}

#[tokio::test]
async fn a_renamed_log_is_left_and_a_new_one_begun() {
    let blue = named("blue").await;
    let (mut proxy, path) = logging(&backend("blue", 1.0, &blue)).await;
    let mut client = proxy.connect().await;
    client.exchange(get("/before", "")).await;
    lines(&path, 1).await;
    let old = path.with_extension("log.1");
    fs::rename(&path, &old).expect("the folder is ours");
    proxy.reload_well().await;
    client.exchange(get("/after", "")).await;
    assert_eq!(lines(&path, 1).await[0]["path"], "/after");
    assert_eq!(lines(&old, 1).await[0]["path"], "/before");
    // A refused file doesn't keep a log from being rotated.
    proxy.rewrite("nonsense = 1");
    fs::rename(&path, path.with_extension("log.2")).expect("the folder is ours");
    assert!(!proxy.reload().await);
    client.exchange(get("/again", "")).await;
    assert_eq!(lines(&path, 1).await[0]["path"], "/again");
}

#[tokio::test]
async fn the_last_line_is_written_before_the_end() {
    let gate = Gate::shut().await;
    let (mut proxy, path) = logging(&backend("blue", 1.0, &gate.upstream)).await;
    let mut held = proxy.connect().await;
    held.send(get("/held", "")).await;
    gate.received("/held").await;
    proxy.signal(Signal::TERM);
    proxy.logs("draining").await;
    gate.open();
    held.answer().await;
    proxy.wait().await;
    let text = fs::read_to_string(&path).expect("it is there");
    assert_eq!((text.lines().count(), text.contains("/held")), (1, true));
}

#[tokio::test]
async fn on_stdout_there_is_the_access_log_and_nothing_else() {
    let blue: Upstream = named("blue").await;
    let setup = Setup::new().workers(2).top("access_log = \"stdout\"").backend(&[blue.url()], "");
    let proxy = setup.start().await;
    let mut client = proxy.connect().await;
    for index in 0..500 {
        client.exchange(get(&format!("/{index}"), "")).await;
    }
    let lines = lines(&proxy.stdout(), 500).await;
    for (index, line) in lines.iter().enumerate() {
        assert_eq!(line["path"], format!("/{index}"));
    }
    assert_eq!(proxy.metric("tidegate_access_log_dropped_total", "").await, 0);
}

#[tokio::test]
async fn off_means_off() {
    let blue = named("blue").await;
    let proxy = Proxy::before(&blue).await;
    proxy.fetch("/").await;
    proxy.metric_becomes("tidegate_requests_total", "code=\"2xx\"", 1).await;
    assert_eq!(fs::read(proxy.stdout()).expect("it is there"), b"");
}
