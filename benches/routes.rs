//! Route lookup: what it costs to find a request's service among 1, 100 and 10,000 routes.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Method};
use tidegate::model::{HostMatch, PathMatch, RequestFacts, RouteMatch};
use tidegate::state::RouteTable;

fn route(host: HostMatch, path: PathMatch) -> RouteMatch {
    RouteMatch { host, path, methods: vec![], headers: vec![], query: vec![], cookies: vec![] }
}

/// A third each of exact hosts, wildcard hosts, and prefixes of one host.
fn table(routes: usize) -> RouteTable {
    let route = |n: usize| match n % 3 {
        0 => route(HostMatch::Exact(format!("shop{n}.example.com")), PathMatch::Prefix("/".into())),
        1 => route(HostMatch::Wildcard(format!("team{n}.example.com")), PathMatch::Prefix("/api".into())),
        _ => route(HostMatch::Any, PathMatch::Prefix(format!("/app{n}/v1"))),
    };
    RouteTable::new((0..routes).map(|n| (n, route(n))), None)
}

fn lookup(criterion: &mut Criterion) {
    let headers = HeaderMap::new();
    let facts = |host, path| RequestFacts {
        host,
        path,
        query: None,
        method: &Method::GET,
        headers: &headers,
        client: [127, 0, 0, 1].into(),
    };
    let requests = [
        ("exact_host", facts("shop0.example.com", "/cart/items/17")),
        ("wildcard_host", facts("eu.team1.example.com", "/api/v2/users/9")),
        ("prefix", facts("whatever.test", "/app2/v1/things/3/parts")),
        ("no_route", facts("whatever.test", "/nothing/here/at/all")),
    ];
    let mut group = criterion.benchmark_group("route");
    for routes in [1, 100, 10_000] {
        let table = table(routes);
        for (name, request) in &requests {
            group.bench_function(format!("{name}_among_{routes}"), |b| b.iter(|| table.find(black_box(request))));
        }
    }
    group.finish();
}

criterion_group!(benches, lookup);
criterion_main!(benches);
