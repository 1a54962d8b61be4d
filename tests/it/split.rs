//! Randomised splits: each request goes to a backend with its exact probability.

use std::collections::HashMap;

use crate::support::{Proxy, Setup, Upstream, Wire, backend, get, named};

/// Four standard deviations of a binomial count: a right split fails once in 16,000 runs.
pub fn assert_share(count: usize, total: usize, share: f64) {
    let (count, total) = (count as f64, total as f64);
    let deviation = (total * share * (1.0 - share)).sqrt();
    let off = (count - total * share) / deviation;
    assert!(off.abs() <= 4.0, "{count} of {total} are {off:.1} standard deviations away from {share}");
}

async fn shop(workers: usize, backends: &[(&str, f64, &Upstream)]) -> Proxy {
    let setup = Setup::new().workers(workers);
    let setup = backends
        .iter()
        .fold(setup, |setup, (name, weight, upstream)| setup.settings(&backend(name, *weight, upstream)));
    setup.start().await
}

/// Answers by text, of `requests` on each of `connections`, sent in batches.
async fn count(proxy: &Proxy, connections: usize, requests: usize) -> HashMap<String, usize> {
    const BATCH: usize = 100;
    let mut counts = HashMap::new();
    let mut wires = Vec::new();
    for _ in 0..connections {
        wires.push(proxy.connect().await);
    }
    let batch = get("/", "").repeat(BATCH);
    for _ in 0..requests / BATCH {
        for wire in &mut wires {
            wire.send(&batch).await;
        }
        for wire in &mut wires {
            for _ in 0..BATCH {
                *counts.entry(wire.answer().await.text().to_owned()).or_default() += 1;
            }
        }
    }
    counts
}

#[tokio::test]
async fn a_hundred_thousand_requests_split_as_the_weights_say() {
    let (blue, green, canary) = (named("blue").await, named("green").await, named("canary").await);
    let proxy = shop(2, &[("blue", 90.0, &blue), ("green", 9.5, &green), ("canary", 0.5, &canary)]).await;
    let counts = count(&proxy, 20, 5_000).await;
    assert_eq!(counts.values().sum::<usize>(), 100_000);
    assert_share(counts["blue"], 100_000, 0.9);
    assert_share(counts["green"], 100_000, 0.095);
    assert_share(counts["canary"], 100_000, 0.005);
    let view = proxy.view("/v1/services/shop").await;
    for (index, name) in ["blue", "green", "canary"].iter().enumerate() {
        let seen = &view["backends"][index];
        assert_eq!((&seen["name"], &seen["requests"]), (&(*name).into(), &counts[*name].into()));
    }
}

#[tokio::test]
async fn weights_are_relative_and_may_be_fractions() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let proxy = shop(1, &[("blue", 0.75, &blue), ("canary", 0.25, &canary)]).await;
    let counts = count(&proxy, 2, 2_000).await;
    assert_share(counts["canary"], 4_000, 0.25);
}

#[tokio::test]
async fn a_backend_without_weight_gets_nothing() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let proxy = shop(1, &[("blue", 1.0, &blue), ("canary", 0.0, &canary)]).await;
    assert_eq!(count(&proxy, 1, 1_000).await, HashMap::from([("blue".to_owned(), 1_000)]));
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn requests_of_one_connection_are_split_one_by_one() {
    let (blue, canary) = (named("blue").await, named("canary").await);
    let proxy = shop(1, &[("blue", 1.0, &blue), ("canary", 1.0, &canary)]).await;
    let mut client = Wire::connect(proxy.http()).await;
    let mut changes = 0;
    let mut last = String::new();
    for _ in 0..400 {
        let text = client.exchange(get("/", "")).await.text().to_owned();
        changes += usize::from(text != last);
        last = text;
    }
    // Independent draws change sides every other time.
    assert_share(changes, 400, 0.5);
}
