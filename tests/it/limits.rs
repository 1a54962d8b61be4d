//! What the machine runs out of, and how little an idle client takes of it.

use std::time::{Duration, Instant};

use crate::support::{Load, OK, Proxy, Setup, Upstream, Wire, backend, eventually, get, named};

/// File descriptors of a proxy in want: a process with one worker has about thirty of its own.
const DESCRIPTORS: &str = "--nofile=80:80";

async fn in_want(upstream: &Upstream) -> Proxy {
    // By itself it would let in no more clients than it has descriptors for.
    let settings = format!("[limits]\nconnections = 1000\n{}", backend("blue", 1.0, upstream));
    Setup::new().run_by(&["prlimit", DESCRIPTORS]).settings(&settings).start().await
}

fn descriptors(proxy: &Proxy) -> usize {
    let folder = format!("/proc/{}/fd", proxy.pid().as_raw_nonzero());
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[tokio::test]
async fn without_descriptors_it_waits_and_then_goes_on() {
    let blue = named("blue").await;
    let proxy = in_want(&blue).await;
    let mut first = proxy.connect().await;
    assert_eq!(first.exchange(get("/", "")).await.text(), "blue");
    // The kernel accepts for the proxy what the proxy can't.
    let mut crowd = Vec::new();
    for _ in 0..120 {
        crowd.push(Wire::connect(proxy.http()).await);
    }
    proxy.logs("can't accept connections; trying again").await;
    eventually("every descriptor is taken", || descriptors(&proxy) >= 80).await;

    let (before, start) = (proxy.processor_time(), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (used, passed) = (proxy.processor_time().saturating_sub(before), start.elapsed());
    assert!(used < passed / 5, "{used:?} of processor time in {passed:?}");
    let warnings = proxy.log().iter().filter(|line| line["message"].to_string().contains("can't accept")).count();
    assert!(warnings < 100, "{warnings} lines about it");
    assert_eq!(first.exchange(get("/", "")).await.text(), "blue", "who is in goes on");

    crowd.truncate(20);
    assert_eq!(Wire::connect(proxy.http()).await.exchange(get("/", "")).await.text(), "blue");
    for wire in &mut crowd {
        assert_eq!(wire.exchange(get("/", "")).await.text(), "blue");
    }
    drop(crowd);
    assert!(proxy.metric("tidegate_accept_errors_total", "").await > 0);
}

#[tokio::test]
async fn clients_that_wait_are_let_in_as_others_leave() {
    let blue = named("blue").await;
    let proxy = in_want(&blue).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut wire = Wire::connect(proxy.http()).await;
        wire.send(get("/", "connection: close\r\n")).await;
        crowd.push(wire);
    }
    for wire in &mut crowd {
        let answer = wire.answer().await;
        // An endpoint's connection needs a descriptor as well.
        assert!([200, 502, 503].contains(&answer.status()), "{}", answer.status());
    }
    assert_eq!(proxy.fetch("/").await.text(), "blue");
}

/// Clients that have asked once and idle since, `count` more of them with each batch: what all were to need at once
/// would be the memory of busy connections.
async fn idle_clients(proxy: &Proxy, batches: usize, count: usize) -> Vec<Wire> {
    let mut wires = Vec::new();
    for _ in 0..batches {
        for _ in 0..count {
            let mut wire = proxy.connect().await;
            assert_eq!(wire.exchange(get("/", "")).await.status(), 200);
            wires.push(wire);
        }
        proxy.metric_becomes("tidegate_connections_parked", "", wires.len() as u64).await;
    }
    wires
}

#[tokio::test]
async fn two_thousand_idle_clients_cost_little_memory_each() {
    const BATCHES: usize = 20;
    const CLIENTS: usize = 100;
    const BYTES_MAX: usize = 4 * 1024;
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    // What is allocated once is there already.
    drop(idle_clients(&proxy, 1, CLIENTS).await);
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
    let before = proxy.memory_kb();
    let clients = idle_clients(&proxy, BATCHES, CLIENTS).await;
    let each = proxy.memory_kb().saturating_sub(before) * 1024 / clients.len();
    println!("{each} bytes of memory for each of {} idle connections", clients.len());
    assert!(each < BYTES_MAX, "{each} bytes for each idle connection");
    drop(clients);
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
}

#[tokio::test]
async fn a_rush_of_connections_is_not_paid_for_when_it_is_over() {
    const CLIENTS: usize = 2_000;
    const LEFT_KB: usize = 8 * 1024;
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    drop(idle_clients(&proxy, 1, 100).await);
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
    let before_kb = proxy.memory_kb();
    let mut wires = Vec::new();
    for _ in 0..CLIENTS {
        wires.push(proxy.connect().await);
    }
    // Heads that don't end: all of them are in hyper's hands at once.
    for wire in &mut wires {
        wire.send("GET / HTTP/1.1\r\n").await;
    }
    proxy.metric_becomes("tidegate_connections_parked", "", 0).await;
    eventually("it costs something", || proxy.memory_kb() > before_kb + 4 * LEFT_KB).await;
    drop(wires);
    proxy.metric_becomes("tidegate_connections_open", "", 0).await;
    eventually("the memory is given back", || proxy.memory_kb() < before_kb + LEFT_KB).await;
}

#[tokio::test]
async fn traffic_leaves_no_memory_and_no_descriptor_behind() {
    let upstream = Upstream::answering(OK).await;
    let proxy = Proxy::before(&upstream).await;
    let round = async || {
        let load = Load::on(proxy.http(), 4, 4);
        load.goes_on(1_500).await;
        load.finish().await;
        proxy.metric_becomes("tidegate_connections_open", "", 0).await;
    };
    round().await;
    let (memory_kb, open) = (proxy.memory_kb(), descriptors(&proxy));
    for _ in 0..3 {
        round().await;
    }
    let grown_kb = proxy.memory_kb().saturating_sub(memory_kb);
    // The allocator takes memory two megabytes at a time.
    assert!(grown_kb < 4_096, "{grown_kb} KB more after three times the same");
    assert!(descriptors(&proxy) <= open + 4, "{} descriptors, then {open}", descriptors(&proxy));
}
