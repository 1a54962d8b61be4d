//! The route table: which service takes a request. The most specific route that holds wins:
//!
//! 1. host: an exact name, then the longest `*.` wildcard, then any;
//! 2. path: exact, then regular expressions (longer text first), then the longest prefix;
//! 3. the number of further conditions (method, headers, query, cookies);
//! 4. the order of the file.
//!
//! A route whose further conditions fail gives way to the next one in this order, down to less specific hosts.
//! The service without routes comes last. Hosts, exact paths and path segments are hashed, so a lookup costs the
//! same with one route and with ten thousand; only regular expressions of the same host add up.

use std::cmp::Reverse;
use std::collections::HashMap;

use foldhash::fast::RandomState;

use crate::model::{HostMatch, PathMatch, Pattern, RequestFacts, RouteMatch};

type Map<V> = HashMap<Box<str>, V, RandomState>;

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routed {
    /// Index of the service.
    pub service: usize,
    /// Index among the service's routes; `None`: it takes what no other service takes.
    pub route: Option<u32>,
}

/// All routes of a configuration, arranged for lookup.
#[derive(Debug, Default)]
pub struct RouteTable {
    exact: Map<PathTable>,
    /// By the part after `*.`.
    wildcard: Map<PathTable>,
    any: PathTable,
    fallback: Option<usize>,
}

#[derive(Debug, Default)]
struct PathTable {
    exact: Map<Candidates>,
    /// Longer text first, then more conditions.
    regexes: Vec<(Pattern, Candidate)>,
    prefixes: PrefixTree,
}

/// Routes with equal host and path, the most conditions first.
#[derive(Debug, Default)]
struct Candidates(Vec<Candidate>);

#[derive(Debug)]
struct Candidate {
    routed: Routed,
    conditions: usize,
    route: RouteMatch,
}

impl RouteTable {
    /// Arranges `(service index, route)` pairs, in the order of the file.
    pub fn new(routes: impl IntoIterator<Item = (usize, RouteMatch)>, fallback: Option<usize>) -> Self {
        let mut table = Self { fallback, ..Self::default() };
        let mut counts: HashMap<usize, u32> = HashMap::new();
        for (service, route) in routes {
            let count = counts.entry(service).or_default();
            let routed = Routed { service, route: Some(*count) };
            *count += 1;
            let paths = match &route.host {
                HostMatch::Any => &mut table.any,
                HostMatch::Exact(name) => table.exact.entry(name.as_str().into()).or_default(),
                HostMatch::Wildcard(suffix) => table.wildcard.entry(suffix.as_str().into()).or_default(),
            };
            paths.insert(routed, route);
        }
        for paths in table.exact.values_mut().chain(table.wildcard.values_mut()).chain([&mut table.any]) {
            // Stable: equals stay in the order of the file.
            paths.regexes.sort_by_key(|(regex, route)| Reverse((regex.as_str().len(), route.conditions)));
        }
        table
    }

    /// The index of the service that takes this request.
    #[must_use]
    pub fn find(&self, facts: &RequestFacts<'_>) -> Option<Routed> {
        self.exact
            .get(facts.host)
            .and_then(|paths| paths.find(facts))
            .or_else(|| self.find_wildcard(facts))
            .or_else(|| self.any.find(facts))
            .or(self.fallback.map(|service| Routed { service, route: None }))
    }

    fn find_wildcard(&self, facts: &RequestFacts<'_>) -> Option<Routed> {
        if self.wildcard.is_empty() {
            return None;
        }
        let mut rest = facts.host;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(found) = self.wildcard.get(suffix).and_then(|paths| paths.find(facts)) {
                return Some(found);
            }
            rest = suffix;
        }
        None
    }
}

impl PathTable {
    fn insert(&mut self, routed: Routed, route: RouteMatch) {
        let candidates = match &route.path {
            PathMatch::Exact(path) => self.exact.entry(path.as_str().into()).or_default(),
            PathMatch::Prefix(prefix) => self.prefixes.insert(prefix),
            PathMatch::Regex(regex) => {
                self.regexes.push((regex.clone(), Candidate::new(routed, route)));
                return;
            }
        };
        candidates.insert(Candidate::new(routed, route));
    }

    fn find(&self, facts: &RequestFacts<'_>) -> Option<Routed> {
        self.exact
            .get(facts.path)
            .and_then(|candidates| candidates.find(facts))
            .or_else(|| self.find_regex(facts))
            .or_else(|| self.prefixes.find(facts))
    }

    fn find_regex(&self, facts: &RequestFacts<'_>) -> Option<Routed> {
        let found = self.regexes.iter().find(|(regex, route)| route.holds(facts) && regex.is_match(facts.path));
        found.map(|(_, route)| route.routed)
    }
}

impl Candidates {
    fn insert(&mut self, candidate: Candidate) {
        let at = self.0.partition_point(|other| other.conditions >= candidate.conditions);
        self.0.insert(at, candidate);
    }

    fn find(&self, facts: &RequestFacts<'_>) -> Option<Routed> {
        self.0.iter().find(|candidate| candidate.holds(facts)).map(|candidate| candidate.routed)
    }
}

impl Candidate {
    fn new(routed: Routed, route: RouteMatch) -> Self {
        let conditions =
            usize::from(!route.methods.is_empty()) + route.headers.len() + route.query.len() + route.cookies.len();
        Self { routed, conditions, route }
    }

    fn holds(&self, facts: &RequestFacts<'_>) -> bool {
        self.conditions == 0 || facts.satisfies_route(&self.route)
    }
}

/// Prefixes by segment: node 0 is `/`, its child `api` is `/api`. A lookup walks down as far as the path has
/// nodes, then back up until a node's routes hold.
#[derive(Debug)]
struct PrefixTree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    parent: Option<usize>,
    children: Map<usize>,
    candidates: Candidates,
}

impl Default for PrefixTree {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

impl PrefixTree {
    /// The routes at `prefix`, which starts with `/` and has no other `/` at its end.
    fn insert(&mut self, prefix: &str) -> &mut Candidates {
        let mut at = 0;
        for segment in prefix.split('/').skip(1).filter(|_| prefix != "/") {
            at = match self.nodes[at].children.get(segment) {
                Some(child) => *child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node { parent: Some(at), ..Node::default() });
                    self.nodes[at].children.insert(segment.into(), child);
                    child
                }
            };
        }
        &mut self.nodes[at].candidates
    }

    fn find(&self, facts: &RequestFacts<'_>) -> Option<Routed> {
        let mut node = &self.nodes[0];
        for segment in facts.path.split('/').skip(1) {
            match node.children.get(segment) {
                Some(child) => node = &self.nodes[*child],
                None => break,
            }
        }
        loop {
            if let Some(found) = node.candidates.find(facts) {
                return Some(found);
            }
            node = &self.nodes[node.parent?];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use http::{HeaderMap, HeaderValue, Method};
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;
    use crate::model::ValueMatch;

    fn route(host: &str, path: &str) -> RouteMatch {
        let host = match host.strip_prefix("*.") {
            Some(suffix) => HostMatch::Wildcard(suffix.into()),
            None if host.is_empty() => HostMatch::Any,
            None => HostMatch::Exact(host.into()),
        };
        let path = match path.split_at(1) {
            ("=", exact) => PathMatch::Exact(exact.into()),
            ("~", regex) => PathMatch::Regex(Regex::new(&format!("^(?:{regex})$")).unwrap().into()),
            _ => PathMatch::Prefix(path.into()),
        };
        RouteMatch { host, path, methods: vec![], headers: vec![], query: vec![], cookies: vec![] }
    }

    fn find(table: &RouteTable, host: &str, path: &str) -> Option<usize> {
        find_with(table, host, path, &Method::GET, &HeaderMap::new())
    }

    fn find_with(table: &RouteTable, host: &str, path: &str, method: &Method, headers: &HeaderMap) -> Option<usize> {
        let client = [127, 0, 0, 1].into();
        table.find(&RequestFacts { host, path, query: None, method, headers, client }).map(|routed| routed.service)
    }

    fn table(routes: &[(&str, &str)]) -> RouteTable {
        RouteTable::new(routes.iter().map(|(host, path)| route(host, path)).enumerate(), None)
    }

    #[test]
    fn a_prefix_matches_on_segment_boundaries_and_the_longest_wins() {
        let table = table(&[("", "/api"), ("", "/api/v1"), ("", "/")]);
        assert_eq!(find(&table, "h", "/api"), Some(0));
        assert_eq!(find(&table, "h", "/api/"), Some(0));
        assert_eq!(find(&table, "h", "/api/v2/x"), Some(0));
        assert_eq!(find(&table, "h", "/api/v1"), Some(1));
        assert_eq!(find(&table, "h", "/api/v1/x/y/z"), Some(1));
        assert_eq!(find(&table, "h", "/apix"), Some(2));
        assert_eq!(find(&table, "h", "/"), Some(2));
        assert_eq!(find(&table, "h", "//api"), Some(2));
    }

    #[test]
    fn an_exact_host_beats_a_longer_wildcard_beats_a_shorter_beats_any() {
        let table = table(&[("", "/"), ("*.com", "/"), ("*.example.com", "/"), ("a.example.com", "/")]);
        assert_eq!(find(&table, "a.example.com", "/"), Some(3));
        assert_eq!(find(&table, "b.example.com", "/"), Some(2));
        assert_eq!(find(&table, "c.b.example.com", "/"), Some(2));
        assert_eq!(find(&table, "example.com", "/"), Some(1));
        assert_eq!(find(&table, "com", "/"), Some(0));
        assert_eq!(find(&table, "", "/"), Some(0));
    }

    #[test]
    fn exact_paths_beat_regular_expressions_beat_prefixes() {
        let table = table(&[("", "/a"), ("", "~/a/.*"), ("", "~/a/b[0-9]+.*"), ("", "=/a/b1")]);
        assert_eq!(find(&table, "h", "/a/b1"), Some(3));
        assert_eq!(find(&table, "h", "/a/b12"), Some(2));
        assert_eq!(find(&table, "h", "/a/c"), Some(1));
        assert_eq!(find(&table, "h", "/a"), Some(0));
        assert_eq!(find(&table, "h", "/b"), None);
    }

    #[test]
    fn more_conditions_win_and_a_failing_condition_gives_way() {
        let plain = route("x.test", "/");
        let mut post = route("x.test", "/");
        post.methods = vec![Method::POST];
        let mut beta = post.clone();
        beta.headers = vec![("x-beta".parse().unwrap(), ValueMatch::Present)];
        let table = RouteTable::new([(0, plain), (1, post), (2, beta), (3, route("", "/"))], Some(4));
        let mut headers = HeaderMap::new();
        assert_eq!(find_with(&table, "x.test", "/", &Method::GET, &headers), Some(0));
        assert_eq!(find_with(&table, "x.test", "/", &Method::POST, &headers), Some(1));
        headers.insert("x-beta", HeaderValue::from_static(""));
        assert_eq!(find_with(&table, "x.test", "/", &Method::POST, &headers), Some(2));
        assert_eq!(find_with(&table, "y.test", "/", &Method::GET, &headers), Some(3));
    }

    #[test]
    fn a_host_whose_routes_all_fail_gives_way_to_less_specific_hosts_and_then_the_fallback() {
        let mut post = route("a.example.com", "/");
        post.methods = vec![Method::POST];
        let table = RouteTable::new([(0, post), (1, route("*.example.com", "/shop"))], Some(2));
        assert_eq!(find(&table, "a.example.com", "/shop/x"), Some(1));
        assert_eq!(find(&table, "a.example.com", "/"), Some(2));
    }

    #[test]
    fn between_regular_expressions_of_one_length_conditions_decide_and_then_the_file() {
        let mut beta = route("", "~/[xy]/x");
        beta.headers = vec![("x-beta".parse().unwrap(), ValueMatch::Present)];
        let table = RouteTable::new([(0, route("", "~/x/[xy]")), (1, beta), (2, route("", "~/x/[x-]"))], None);
        let mut headers = HeaderMap::new();
        assert_eq!(find_with(&table, "h", "/x/x", &Method::GET, &headers), Some(0));
        headers.insert("x-beta", HeaderValue::from_static(""));
        assert_eq!(find_with(&table, "h", "/x/x", &Method::GET, &headers), Some(1));
    }

    #[test]
    fn the_first_in_the_file_wins_between_equals() {
        let table = table(&[("", "/a"), ("", "/a")]);
        assert_eq!(find(&table, "h", "/a"), Some(0));
    }

    /// How specific a route is for a request that it takes, as the top of this file says it; the larger wins.
    type Rank = ((usize, usize), (usize, usize), usize);

    /// The rank of `route`, looked at for itself; `None` when it doesn't take the request.
    fn rank(route: &RouteMatch, facts: &RequestFacts<'_>) -> Option<Rank> {
        let below = |whole: &str, end: &str| whole.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
        let host = match &route.host {
            HostMatch::Exact(name) => (facts.host == name).then_some((2, 0)),
            HostMatch::Wildcard(suffix) => below(facts.host, suffix).then_some((1, suffix.len())),
            HostMatch::Any => Some((0, 0)),
        };
        let within = |prefix: &str| {
            let rest = facts.path.strip_prefix(prefix);
            prefix == "/" || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let path = match &route.path {
            PathMatch::Exact(path) => (facts.path == path).then_some((2, 0)),
            PathMatch::Regex(regex) => regex.is_match(facts.path).then_some((1, regex.as_str().len())),
            PathMatch::Prefix(prefix) => within(prefix).then_some((0, prefix.len())),
        };
        let conditions = usize::from(!route.methods.is_empty()) + route.headers.len() + route.query.len();
        facts.satisfies_route(route).then_some((host?, path?, conditions))
    }

    /// The service of the largest rank, the first in the file among equals.
    fn find_slowly(routes: &[RouteMatch], facts: &RequestFacts<'_>) -> Option<usize> {
        let ranked = routes.iter().enumerate().filter_map(|(index, route)| Some((rank(route, facts)?, index)));
        ranked.max_by_key(|(rank, index)| (*rank, Reverse(*index))).map(|(_, index)| index)
    }

    /// So few names that routes and requests often meet.
    fn a_host() -> impl Strategy<Value = String> {
        prop_oneof![Just("a"), Just("b.a"), Just("c.b.a"), Just("c.a"), Just(".a"), Just("")].prop_map(str::to_owned)
    }

    fn a_path() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(&["", "x", "x", "y", "xy"][..]), 1..4)
            .prop_map(|segments| format!("/{}", segments.join("/")))
    }

    /// Pairs of equal length, and one that takes more than a longer one. Made once: making them is slow.
    static REGEXES: LazyLock<Vec<Pattern>> = LazyLock::new(|| {
        ["^/x.*$", "^/.*x$", "^/x/[xy]$", "^/[xy]/x$", "^.*$"].map(|regex| Regex::new(regex).unwrap().into()).into()
    });

    fn a_route() -> impl Strategy<Value = RouteMatch> {
        let host = prop_oneof![
            3 => Just(HostMatch::Any),
            2 => a_host().prop_map(HostMatch::Exact),
            2 => prop::sample::select(&["a", "b.a"][..]).prop_map(|suffix| HostMatch::Wildcard(suffix.to_owned())),
        ];
        let path = prop_oneof![
            a_path().prop_map(|path| PathMatch::Prefix(match path.trim_end_matches('/') {
                "" => "/".to_owned(),
                path => path.to_owned(),
            })),
            a_path().prop_map(PathMatch::Exact),
            prop::sample::select(&REGEXES[..]).prop_map(PathMatch::Regex),
        ];
        (host, path, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(host, path, posts, beta, old)| {
            RouteMatch {
                host,
                path,
                methods: if posts { vec![Method::POST] } else { vec![] },
                headers: if beta { vec![("x-beta".parse().unwrap(), ValueMatch::Present)] } else { vec![] },
                query: if old { vec![("v".to_owned(), ValueMatch::Exact("1".to_owned()))] } else { vec![] },
                cookies: vec![],
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_table_finds_what_trying_every_route_finds(
            routes in prop::collection::vec(a_route(), 0..12),
            host in a_host(),
            path in prop_oneof![9 => a_path(), 1 => Just("*".to_owned())],
            posts: bool, beta: bool, old: bool,
        ) {
            let mut headers = HeaderMap::new();
            if beta {
                headers.insert("x-beta", HeaderValue::from_static("1"));
            }
            let facts = RequestFacts {
                host: &host,
                path: &path,
                query: old.then_some("v=1"),
                method: if posts { &Method::POST } else { &Method::GET },
                headers: &headers,
                client: [127, 0, 0, 1].into(),
            };
            let table = RouteTable::new(routes.iter().cloned().enumerate(), Some(routes.len()));
            prop_assert_eq!(table.find(&facts).map(|routed| routed.service), find_slowly(&routes, &facts).or(Some(routes.len())));
        }
    }
}
