//! SIGHUP: a new file is applied whole or refused whole, and nothing under way notices.

use std::fs::{self, File};
use std::io::Write;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::support::{Gate, Proxy, Setup, Signal, Upstream, backend, eventually, get, named, within};

/// A service of one backend with this route.
fn service(name: &str, route: &str, upstream: &Upstream) -> String {
    format!(
        "[services.{name}]\nroutes = [{{ {route} }}]\n\
         [services.{name}.backends.main]\nweight = 1\nendpoints = [{:?}]\n",
        upstream.url()
    )
}

#[tokio::test]
async fn routes_services_and_endpoints_are_those_of_the_new_file() {
    let (blue, green) = (named("blue").await, named("green").await);
    let first = service("shop", "path = \"/shop\"", &blue) + &service("cart", "path = \"/cart\"", &blue);
    let mut proxy = Setup::new().settings(&first).start().await;
    let mut client = proxy.connect().await;
    assert_eq!(client.exchange(get("/shop", "")).await.text(), "blue");
    assert_eq!(client.exchange(get("/new", "")).await.status(), 404);

    proxy.rewrite(&(service("shop", "path = \"/shop\"", &green) + &service("more", "path = \"/new\"", &green)));
    proxy.reload_well().await;
    assert_eq!(client.exchange(get("/shop", "")).await.text(), "green");
    assert_eq!(client.exchange(get("/new", "")).await.text(), "green");
    assert_eq!(client.exchange(get("/cart", "")).await.status(), 404);
    let view = proxy.view("/v1/services").await;
    let services = view["services"].as_array().expect("services are a list");
    let names: Vec<_> = services.iter().map(|service| &service["name"]).collect();
    assert_eq!(names, ["shop", "more"]);
    assert_eq!(view["process"]["last_reload"]["applied"], true);
}

#[tokio::test]
async fn a_file_with_a_problem_is_refused_whole_and_says_why_everywhere() {
    let (blue, green) = (named("blue").await, named("green").await);
    let good = backend("blue", 1.0, &blue);
    let mut proxy = Setup::new().settings(&good).start().await;
    let version = proxy.view("/v1/services").await["version"].clone();
    // What is good in it must not be applied, either.
    let bad = backend("blue", 1.0, &green) + "wieght = 2\n[services.shop.backends.canary]\nweight = -1\n";
    proxy.rewrite(&bad);
    assert!(!proxy.reload().await);
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    let view = proxy.view("/v1/services").await;
    assert_eq!(view["version"], version);
    let last = &view["process"]["last_reload"];
    assert_eq!(last["applied"], false);
    let told = last["messages"].to_string();
    for problem in ["wieght: there is no such key", "did you mean `weight`?", "not -1", "endpoints", "problems"] {
        assert!(told.contains(problem), "{problem}: {told}");
        proxy.logs(problem).await;
    }
    proxy.logs("configuration not reloaded, the old one stays in force").await;
    proxy.metric_becomes("tidegate_reloads_total", "result=\"refused\"", 1).await;
    assert_eq!(proxy.metric("tidegate_reloads_total", "result=\"applied\"").await, 0);

    proxy.rewrite(&backend("blue", 1.0, &green));
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.text(), "green");
    let last = proxy.view("/v1/services").await["process"]["last_reload"].clone();
    assert_eq!((&last["applied"], &last["messages"]), (&json!(true), &json!([])));
}

#[tokio::test]
async fn a_file_that_is_gone_or_broken_is_refused() {
    let blue = named("blue").await;
    let proxy = Proxy::before(&blue).await;
    let file = proxy.folder().join("proxy.toml");
    for content in [None, Some(&b""[..]), Some(b"state_dir = \"sta"), Some(b"\xff\xfe")] {
        match content {
            None => fs::remove_file(&file).expect("the file is ours"),
            Some(bytes) => fs::write(&file, bytes).expect("the file is ours"),
        }
        assert!(!proxy.reload().await, "{content:?}");
        assert_eq!(proxy.fetch("/").await.text(), "blue");
    }
}

#[tokio::test]
async fn live_weights_survive_until_the_file_changes_those_of_their_service() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let shop = |weight, more: &str| backend("blue", 1.0, &blue) + &backend("canary", weight, &canary) + more;
    let mut proxy = Setup::new().settings(&shop(0.0, "")).start().await;
    let mut client = proxy.connect().await;
    proxy.shift(r#"{"blue": 0, "canary": 7}"#).await;
    let effective = async |proxy: &Proxy| {
        let view = proxy.view("/v1/services/shop").await;
        let weights = [0, 1].map(|index| view["backends"][index]["weight"]["effective"].as_f64().expect("a number"));
        (weights, view["overridden"] == true)
    };
    proxy.reload_well().await;
    assert_eq!(effective(&proxy).await, ([0.0, 7.0], true));
    // Another service, and something else of this one.
    let other = service("other", "host = \"other.test\"", &blue);
    proxy.rewrite(&shop(0.0, &format!("pool = {{ idle_max = 7 }}\n{other}")));
    proxy.reload_well().await;
    assert_eq!(effective(&proxy).await, ([0.0, 7.0], true));
    assert_eq!(client.exchange(get("/", "")).await.text(), "canary");
    // A refused file ends nothing.
    proxy.rewrite(&shop(-1.0, ""));
    assert!(!proxy.reload().await);
    assert_eq!(effective(&proxy).await, ([0.0, 7.0], true));
    // The weights of this service.
    proxy.rewrite(&shop(0.0, "").replace("weight = 1\n", "weight = 2\n"));
    proxy.reload_well().await;
    assert_eq!(effective(&proxy).await, ([2.0, 0.0], false));
    assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
    proxy.logs("live weights ended").await;
}

#[tokio::test]
async fn live_weights_end_when_a_backend_comes_or_goes() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let both = backend("blue", 1.0, &blue) + &backend("canary", 0.0, &canary);
    let mut proxy = Setup::new().settings(&both).start().await;
    proxy.shift(r#"{"blue": 0, "canary": 1}"#).await;
    proxy.rewrite(&(both + &backend("green", 0.0, &canary)));
    proxy.reload_well().await;
    let view = proxy.view("/v1/services/shop").await;
    assert_eq!(view["overridden"], false);
    assert_eq!(proxy.fetch("/").await.text(), "blue");
}

#[tokio::test]
async fn a_service_that_a_reload_leaves_as_it_was_keeps_its_revision_and_one_that_it_changes_does_not() {
    let (blue, green) = (named("blue").await, named("green").await);
    let of = |cart: &Upstream| {
        let by_name = service("mail", "path = \"/mail\"", &blue).replace("127.0.0.1", "localhost");
        service("shop", "path = \"/shop\"", &blue) + &by_name + &service("cart", "path = \"/cart\"", cart)
    };
    let mut proxy = Setup::new().settings(&of(&blue)).start().await;
    let revision = async |proxy: &Proxy, name| proxy.view(&format!("/v1/services/{name}")).await["revision"].clone();
    let revisions = async |proxy: &Proxy| {
        [revision(proxy, "shop").await, revision(proxy, "mail").await, revision(proxy, "cart").await]
    };
    let before = revisions(&proxy).await;
    proxy.rewrite(&of(&green));
    proxy.reload_well().await;
    for (path, name) in [("/shop", "blue"), ("/mail", "blue"), ("/cart", "green")] {
        assert_eq!(proxy.fetch(path).await.text(), name);
    }
    let now = revisions(&proxy).await;
    assert_eq!(now[..2], before[..2]);
    assert_ne!(now[2], before[2]);
}

#[tokio::test]
async fn connections_requests_and_tunnels_under_way_survive() {
    let gate = Gate::shut().await;
    let blue = named("blue").await;
    let before = backend("blue", 1.0, &gate.upstream);
    let mut proxy = Setup::new().workers(2).settings(&before).start().await;
    let (mut idle, mut parked) = (proxy.connect().await, proxy.connect().await);
    let (mut held, mut half) = (proxy.connect().await, proxy.connect().await);
    let (mut events, mut socket) = (proxy.connect().await, proxy.connect().await);
    parked.exchange(get("/", "")).await;
    proxy.metric_becomes("tidegate_connections_parked", "", 1).await;
    held.send(get("/held", "")).await;
    half.send(get("/half", "")).await;
    assert_eq!(half.head().await.status(), 200);
    events.send(get("/events", "")).await;
    events.head().await;
    assert_eq!(events.chunk().await, b"data: 1\n\n");
    socket.open_socket().await;
    idle.exchange(get("/", "")).await;
    gate.received("/held").await;

    // Their backend is gone from the new file; what has begun there ends there.
    proxy.rewrite(&backend("green", 1.0, &blue));
    proxy.reload_well().await;
    assert_eq!(idle.exchange(get("/", "")).await.text(), "blue");
    assert_eq!(parked.exchange(get("/", "")).await.text(), "blue");
    socket.assert_echo("still there").await;
    gate.open();
    let answer = held.answer().await;
    assert_eq!((answer.text(), answer.head.value("connection")), ("ok", None));
    assert_eq!(half.bytes(10).await, b"firstafter");
    assert_eq!(events.chunk().await, b"");
    assert_eq!(events.line().await, "");
    for wire in [&mut held, &mut half, &mut events] {
        assert_eq!(wire.exchange(get("/", "")).await.text(), "blue", "the connection goes on");
    }
    socket.assert_echo("and still").await;
}

#[tokio::test]
async fn idle_connections_to_endpoints_that_stay_are_kept() {
    let (blue, green) = (named("blue").await, named("green").await);
    let mut proxy = Setup::new().settings(&backend("blue", 1.0, &blue)).start().await;
    let mut client = proxy.connect().await;
    client.exchange(get("/", "")).await;
    for round in 0..3_u8 {
        let other = backend("green", 0.0, &green).replace("green", &format!("green{round}"));
        proxy.rewrite(&(backend("blue", 1.0 + f64::from(round), &blue) + &other));
        proxy.reload_well().await;
        client.exchange(get("/", "")).await;
    }
    assert_eq!(blue.connections(), 1);
}

#[tokio::test]
async fn idle_connections_to_an_endpoint_that_goes_are_closed_at_once() {
    let (blue, green) = (named("blue").await, named("green").await);
    let pool = "pool = { idle_timeout = \"1h\" }\n";
    let mut proxy = Setup::new().settings(&(backend("blue", 1.0, &blue) + pool)).start().await;
    let mut client = proxy.connect().await;
    client.exchange(get("/", "")).await;
    assert_eq!(blue.open(), 1);
    proxy.rewrite(&backend("blue", 1.0, &green));
    proxy.reload_well().await;
    eventually("the old connection is closed", || blue.open() == 0).await;
}

#[tokio::test]
async fn a_burst_of_signals_ends_with_the_last_file() {
    let (blue, green) = (named("blue").await, named("green").await);
    let mut proxy = Setup::new().settings(&backend("blue", 1.0, &blue)).start().await;
    for _ in 0..50 {
        proxy.signal(Signal::HUP);
    }
    proxy.rewrite(&backend("blue", 1.0, &green));
    proxy.signal(Signal::HUP);
    let mut client = proxy.connect().await;
    while client.exchange(get("/", "")).await.text() != "green" {}
    // The last signal is answered by a reload of its own at most.
    let mut reloads = proxy.reloads().await;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let now = proxy.reloads().await;
        if now == reloads {
            break;
        }
        reloads = now;
    }
    assert!((1..=51).contains(&reloads), "{reloads}");
    assert_eq!(proxy.metric("tidegate_reloads_total", "result=\"refused\"").await, 0);
}

#[tokio::test]
async fn what_needs_a_restart_is_said_and_the_rest_applied() {
    let (blue, green) = (named("blue").await, named("green").await);
    let mut proxy = Setup::new().settings(&backend("blue", 1.0, &blue)).start().await;
    proxy.rewrite(&backend("blue", 1.0, &green));
    let file = proxy.folder().join("proxy.toml");
    let text = fs::read_to_string(&file).expect("the file is ours");
    let text = format!("workers = 3\naccess_log = \"./access.log\"\n{text}").replace("\"state\"", "\"elsewhere\"");
    fs::write(&file, text).expect("the file is ours");
    proxy.reload_well().await;
    assert_eq!(proxy.fetch("/").await.text(), "green");
    let told = proxy.view("/v1/services").await["process"]["last_reload"]["messages"].to_string();
    for key in ["state_dir", "workers", "access_log"] {
        assert!(told.contains(&format!("a change of {key} takes effect at the next start")), "{told}");
    }
    assert!(!proxy.folder().join("elsewhere").exists());
}

/// Has the proxy read a pipe in place of its file. What the file was, and where the proxy waits for it.
async fn reading(proxy: &Proxy) -> (String, File) {
    let path = proxy.folder().join("proxy.toml");
    let text = fs::read_to_string(&path).expect("it is there");
    fs::remove_file(&path).expect("the folder is ours");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("the folder is ours");
    proxy.signal(Signal::HUP);
    // Which waits for a reader.
    let opening = tokio::task::spawn_blocking(move || File::options().write(true).open(path));
    let opened = within("the file to be read", opening).await;
    (text, opened.expect("it has no panic").expect("it is ours"))
}

#[tokio::test]
async fn a_file_that_takes_its_time_keeps_neither_requests_nor_operators_waiting() {
    let (blue, green) = (named("blue").await, named("green").await);
    let proxy = Setup::new().settings(&(backend("blue", 1.0, &blue) + &backend("green", 0.0, &green))).start().await;
    let (text, mut file) = reading(&proxy).await;
    proxy.shift(r#"{"blue": 0, "green": 1}"#).await;
    assert_eq!(proxy.fetch("/").await.text(), "green");
    assert_eq!(proxy.reloads().await, 0);
    file.write_all(text.as_bytes()).expect("somebody reads it");
    drop(file);
    proxy.reloads_become(1).await;
    assert_eq!(proxy.fetch("/").await.text(), "green", "what was changed meanwhile stays");
}

#[tokio::test]
async fn a_file_that_never_comes_does_not_keep_the_process_from_ending() {
    let blue = named("blue").await;
    let mut proxy = Setup::new().settings(&backend("blue", 1.0, &blue)).start().await;
    let _never_written = reading(&proxy).await;
    proxy.signal(Signal::TERM);
    assert!(proxy.wait().await.success());
}
