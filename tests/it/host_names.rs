//! Endpoints named by host names: resolved at the start, at reloads, and again and again. The names are those of a
//! hosts file that only the proxy sees.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::support::{Gate, Load, OK, Proxy, Setup, Upstream, Wire, backend, eventually, get, named};

/// Mounts `hosts`, a file next to proxy.toml, over /etc/hosts for the process it becomes.
fn with_hosts(setup: Setup, hosts: &str) -> Setup {
    let setup = setup.file("hosts", hosts).file("nsswitch.conf", "hosts: files\n");
    let folder = setup.folder().display().to_string();
    let script = "mount --bind \"$0/hosts\" /etc/hosts && mount --bind \"$0/nsswitch.conf\" /etc/nsswitch.conf && \
                  exec \"$@\"";
    setup.run_by(&["unshare", "--map-root-user", "--mount", "sh", "-c", script, &folder])
}

/// In place: a mount sees the file and not its name.
fn rename(proxy: &Proxy, hosts: &str) {
    fs::write(proxy.folder().join("hosts"), hosts).expect("the folder is ours");
}

/// Endpoints that share a port at two addresses, each answering with its address.
async fn pair() -> (u16, [Arc<Mutex<usize>>; 2]) {
    let first = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let port = first.local_addr().expect("a bound socket has an address").port();
    let second = TcpListener::bind((Ipv4Addr::new(127, 0, 0, 2), port)).await.expect("nobody else is there");
    let counts: [Arc<Mutex<usize>>; 2] = Default::default();
    for (listener, count) in [first, second].into_iter().zip(counts.clone()) {
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let mut wire = Wire::new(stream);
                    while wire.next_head().await.is_some() {
                        *count.lock().await += 1;
                        if wire.try_send(OK).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
    }
    (port, counts)
}

fn by_name(port: u16) -> String {
    format!("[services.shop.backends.blue]\nweight = 1\nendpoints = [\"http://shop.internal:{port}\"]\n")
}

#[tokio::test]
async fn localhost_is_found_and_told_to_the_endpoint_by_its_name() {
    let blue = named("blue").await;
    let setup = Setup::new().backend(&[format!("http://localhost:{}", blue.address.port())], "");
    let proxy = with_hosts(setup, "127.0.0.1 localhost\n").start().await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    let view = proxy.view("/v1/services/shop").await;
    assert!(
        view["backends"][0]["endpoints"][0]["address"].as_str().is_some_and(|url| url.contains("localhost")),
        "{view}"
    );
}

#[tokio::test]
async fn a_name_that_nobody_knows_costs_its_service_503_and_nothing_else() {
    let blue = named("blue").await;
    let settings = format!(
        "resolve_interval = \"100ms\"\n[services.lost]\nroutes = [{{ host = \"lost.test\" }}]\n{}{}",
        by_name(blue.address.port()).replace("services.shop.backends.blue", "services.lost.backends.main"),
        backend("blue", 1.0, &blue)
    );
    let setup = settings.split_once('\n').map(|(top, rest)| Setup::new().top(top).settings(rest));
    let proxy = with_hosts(setup.expect("there are lines"), "127.0.0.1 localhost\n").start().await;
    let lost = "GET / HTTP/1.1\r\nhost: lost.test\r\n\r\n";
    assert_eq!(proxy.exchange(lost).await.status(), 503);
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    proxy.logs("can't be resolved").await;
    let line = proxy.log().into_iter().find(|line| line["host"] == "shop.internal");
    assert!(line.is_some_and(|line| line["level"] == "WARN" && line["reason"].is_string()));
    assert_eq!(proxy.view("/v1/services/lost").await["backends"][0]["weight"]["effective"], 0.0);

    // It may come later.
    rename(&proxy, "127.0.0.1 shop.internal\n");
    let mut client = proxy.connect().await;
    while client.exchange(lost).await.status() == 503 {}
    assert_eq!(client.exchange(lost).await.text(), "blue");
}

#[tokio::test]
async fn a_backend_whose_name_is_unknown_leaves_its_share_to_the_others() {
    let blue = named("blue").await;
    let settings = backend("blue", 1.0, &blue)
        + "[services.shop.backends.canary]\nweight = 9\nendpoints = [\"http://shop.internal:1\"]\n";
    let proxy = with_hosts(Setup::new().settings(&settings), "127.0.0.1 localhost\n").start().await;
    let mut client = proxy.connect().await;
    for _ in 0..50 {
        assert_eq!(client.exchange(get("/", "")).await.text(), "blue");
    }
}

#[tokio::test]
async fn addresses_that_come_and_go_under_load_lose_no_request() {
    let (port, counts) = pair().await;
    let setup = Setup::new().workers(2).top("resolve_interval = \"50ms\"").settings(&by_name(port));
    let proxy = with_hosts(setup, "127.0.0.1 shop.internal\n").start().await;
    let load = Load::on(proxy.http(), 5, 1);
    load.goes_on(100).await;
    assert_eq!(*counts[1].lock().await, 0);
    for _ in 0..3 {
        rename(&proxy, "127.0.0.1 shop.internal\n127.0.0.2 shop.internal\n");
        proxy.metric_becomes("tidegate_backend_endpoints", "", 2).await;
        load.goes_on(100).await;
        rename(&proxy, "127.0.0.2 shop.internal\n");
        proxy.metric_becomes("tidegate_backend_endpoints", "", 1).await;
        load.comes_around().await;
        let before = *counts[0].lock().await;
        load.goes_on(100).await;
        assert_eq!(*counts[0].lock().await, before, "an address that went gets nothing");
        rename(&proxy, "127.0.0.1 shop.internal\n");
        eventually("the first is back", || counts[0].try_lock().is_ok_and(|count| *count > before)).await;
    }
    load.finish().await;
    assert!(*counts[1].lock().await > 0);
}

#[tokio::test]
async fn a_resolver_that_fails_takes_no_address_away() {
    let blue = named("blue").await;
    let setup = Setup::new().top("resolve_interval = \"50ms\"").settings(&by_name(blue.address.port()));
    let proxy = with_hosts(setup, "127.0.0.1 shop.internal\n").start().await;
    rename(&proxy, "127.0.0.1 localhost\n");
    proxy.logs("can't be resolved").await;
    assert_eq!(proxy.fetch("/").await.text(), "blue");
    assert!(proxy.metric("tidegate_resolve_errors_total", "").await > 0);
}

#[tokio::test]
async fn requests_to_an_address_that_goes_are_finished() {
    let gate = Gate::shut().await;
    let setup = Setup::new().top("resolve_interval = \"50ms\"").settings(&by_name(gate.upstream.address.port()));
    let proxy = with_hosts(setup, "127.0.0.1 shop.internal\n").start().await;
    let mut held = proxy.connect().await;
    held.send(get("/held", "")).await;
    gate.received("/held").await;
    rename(&proxy, "127.0.0.3 shop.internal\n");
    proxy.logs("new addresses").await;
    gate.open();
    assert_eq!(held.answer().await.text(), "ok");
}

#[tokio::test]
async fn a_reload_that_turns_an_address_into_a_name_loses_no_request() {
    let blue: Upstream = named("blue").await;
    let address = backend("blue", 1.0, &blue);
    let setup = Setup::new().workers(2).settings(&address);
    let mut proxy = with_hosts(setup, "127.0.0.1 shop.internal other.internal\n").start().await;
    let load = Load::on(proxy.http(), 5, 1);
    for round in 0..10 {
        let named = by_name(blue.address.port());
        proxy.rewrite(&if round % 2 == 0 { named } else { named.replace("shop.internal", "other.internal") });
        proxy.reload_well().await;
        load.goes_on(20).await;
        proxy.rewrite(&address);
        proxy.reload_well().await;
    }
    load.finish().await;
}
