//! What routing and splitting look at in a request, borrowed from it.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::COOKIE;
use http::{HeaderMap, Method};

use super::{RouteMatch, RuleMatch, ValueMatch};

/// The parts of a request that decide where it goes.
#[derive(Debug, Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Lower case, without port and trailing dot; empty when the request names none.
    pub host: &'a str,
    /// Starts with `/`, without the query.
    pub path: &'a str,
    /// As received, without the `?`.
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub client: IpAddr,
}

impl<'a> RequestFacts<'a> {
    /// Whether the conditions of a route besides host and path hold.
    #[must_use]
    pub fn satisfies_route(&self, route: &RouteMatch) -> bool {
        (route.methods.is_empty() || route.methods.contains(self.method))
            && self.satisfies(&route.headers, &route.query, &route.cookies)
    }

    /// Whether all conditions of a rule hold.
    #[must_use]
    pub fn satisfies_rule(&self, rule: &RuleMatch) -> bool {
        (rule.networks.is_empty() || rule.networks.iter().any(|net| net.contains(&self.client)))
            && self.satisfies(&rule.headers, &rule.query, &rule.cookies)
    }

    fn satisfies(
        &self,
        headers: &[(http::HeaderName, ValueMatch)],
        query: &[(String, ValueMatch)],
        cookies: &[(String, ValueMatch)],
    ) -> bool {
        headers.iter().all(|(name, wanted)| self.headers.get_all(name).iter().any(|v| wanted.matches(v.as_bytes())))
            && query.iter().all(|(name, wanted)| self.parameters(name).any(|v| wanted.matches(v.as_bytes())))
            && cookies.iter().all(|(name, wanted)| self.cookies(name).any(|v| wanted.matches(v.as_bytes())))
    }

    /// Values of the query parameter `name`, decoded.
    fn parameters(&self, name: &'a str) -> impl Iterator<Item = Cow<'a, str>> {
        form_urlencoded::parse(self.query.unwrap_or_default().as_bytes())
            .filter_map(move |(found, value)| (found == name).then_some(value))
    }

    /// Values of the cookie `name`, as received; a client may send several of one name.
    pub fn cookies(&self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(move |(found, _)| *found == name)
            .map(|(_, value)| value.trim_matches('"'))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn facts<'a>(headers: &'a HeaderMap, query: &'a str) -> RequestFacts<'a> {
        RequestFacts {
            host: "",
            path: "/",
            query: Some(query),
            method: &Method::GET,
            headers,
            client: [10, 0, 0, 7].into(),
        }
    }

    #[test]
    fn cookies_are_found_on_any_line_and_at_any_place() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; b=2;c=3"));
        headers.append(COOKIE, HeaderValue::from_static("b=\"4\"; bb=5"));
        let facts = facts(&headers, "");
        assert_eq!(facts.cookies("b").collect::<Vec<_>>(), ["2", "4"]);
        assert_eq!(facts.cookies("c").collect::<Vec<_>>(), ["3"]);
        assert_eq!(facts.cookies("d").count(), 0);
    }

    #[test]
    fn a_rule_holds_when_all_its_conditions_do() {
        let mut headers = HeaderMap::new();
        headers.insert("x-beta", HeaderValue::from_static("yes"));
        let facts = facts(&headers, "v=2&name=a%20b");
        let rule = RuleMatch {
            headers: vec![("x-beta".parse().unwrap(), ValueMatch::Exact("yes".into()))],
            query: vec![("name".into(), ValueMatch::Exact("a b".into()))],
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            ..RuleMatch::default()
        };
        assert!(facts.satisfies_rule(&rule));
        let elsewhere = RuleMatch { networks: vec!["192.0.2.0/24".parse().unwrap()], ..rule.clone() };
        assert!(!facts.satisfies_rule(&elsewhere));
        let other = RuleMatch { query: vec![("v".into(), ValueMatch::Exact("3".into()))], ..rule };
        assert!(!facts.satisfies_rule(&other));
    }

    #[test]
    fn a_value_can_be_asked_to_be_there_or_to_look_like_something() {
        let regex = ValueMatch::Regex(regex::Regex::new("^v[0-9]+$").unwrap().into());
        assert!(regex.matches(b"v12") && !regex.matches(b"vx") && !regex.matches(b"\xff"));
        assert!(ValueMatch::Present.matches(b""));
    }
}
