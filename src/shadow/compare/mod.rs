//! What differs between two answers: their status, headers that were chosen, their bodies. Pure, and bounded in time and
//! memory whatever the bodies are.
//!
//! Bodies are compared by structure where both say and are JSON, else by their bytes. Answers with different statuses
//! are not compared further: an error's page has nothing in common with what it stands for.

mod bytes;
mod headers;
mod json;

use std::cell::OnceCell;

use super::document::{Node, Unread, read};
use super::fields::{Change, Differences, Field, Values};
use super::pair::{Answer, AnswerEnd};
use super::redact::Redaction;
use crate::model::{JsonPath, grpc_status_blames_server};

/// What is compared, and what of it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Places in JSON bodies that are left alone, with all below them.
    pub ignore: Vec<JsonPath>,
    pub redaction: Redaction,
}

/// The answer that others are compared with; its body is read once, where it has to be.
pub(super) struct Primary<'a> {
    answer: &'a Answer,
    document: OnceCell<Result<Node<'a>, Unread>>,
}

impl<'a> Primary<'a> {
    pub(super) fn new(answer: &'a Answer) -> Self {
        Self { answer, document: OnceCell::new() }
    }

    /// In what `other` differs. Both must be whole.
    pub(super) fn differences(&self, other: &Answer, rules: &Rules) -> Differences {
        let mut found = Differences::default();
        let (primary, shadow) = (self.answer, other);
        if primary.status != shadow.status {
            let values = || Values { primary: primary.status.to_string(), shadow: shadow.status.to_string() };
            found.add(Field::new("status", Change::Value), values);
            return found;
        }
        headers::compare(&primary.headers, &shadow.headers, rules, &mut found);
        self.compare_bodies(other, rules, &mut found);
        found
    }

    fn compare_bodies(&self, shadow: &Answer, rules: &Rules, found: &mut Differences) {
        let primary = self.answer;
        if primary.encoding != shadow.encoding {
            let told = |encoded: bool| if encoded { "encoded".to_owned() } else { String::new() };
            let change = if shadow.encoding { Change::Added } else { Change::Missing };
            let values = || Values { primary: told(primary.encoding), shadow: told(shadow.encoding) };
            found.add(Field::new("header content-encoding", change), values);
            return;
        }
        let is_whole = shadow.end == AnswerEnd::Whole;
        if is_whole && primary.body_length == shadow.body_length && primary.body == shadow.body {
            return;
        }
        if !is_json(primary) || !is_json(shadow) {
            bytes::compare(primary, shadow, found);
            return;
        }
        let primary_document = self.document.get_or_init(|| read(&primary.body));
        match (primary_document, read(&shadow.body)) {
            (Ok(primary), Ok(shadow)) => json::compare(primary, &shadow, rules, found),
            (Ok(_), Err(Unread::Broken)) => not_json("JSON", "not JSON", found),
            (Err(Unread::Broken), Ok(_)) => not_json("not JSON", "JSON", found),
            _ => bytes::compare(primary, shadow, found),
        }
    }
}

fn not_json(primary: &str, shadow: &str, found: &mut Differences) {
    let values = || Values { primary: primary.to_owned(), shadow: shadow.to_owned() };
    found.add(Field::new("$", Change::NotJson), values);
}

/// It says that it is JSON, and all of it is here.
fn is_json(answer: &Answer) -> bool {
    let content_type = answer.headers.iter().find(|(name, _)| *name == http::header::CONTENT_TYPE);
    let says_so = content_type.is_some_and(|(_, value)| {
        let kind = value.as_bytes().split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
        kind.eq_ignore_ascii_case(b"application/json")
            || kind.len() > 5 && kind[kind.len() - 5..].eq_ignore_ascii_case(b"+json")
    });
    says_so && answer.end == AnswerEnd::Whole && !answer.truncated && !answer.encoding
}

/// Whether an answer is a failure of whoever gave it; `None` where it says nothing about them.
pub(super) fn is_failure(answer: &Answer) -> Option<bool> {
    match answer.end {
        AnswerEnd::Whole => Some(answer.status >= 500 || is_grpc_failure(answer)),
        AnswerEnd::Failed(_) | AnswerEnd::TimedOut => Some(true),
        AnswerEnd::Aborted => None,
    }
}

/// Its trailers are among its headers.
fn is_grpc_failure(answer: &Answer) -> bool {
    let status = answer.headers.iter().find(|(name, _)| name.as_str() == "grpc-status");
    status.is_some_and(|(_, status)| grpc_status_blames_server(status))
}

/// Enough of it is known to be compared: all, or the beginning of one that was too long to be read to its end.
pub(super) fn is_comparable(copy: &Answer) -> bool {
    copy.end == AnswerEnd::Whole || copy.end == AnswerEnd::Aborted && copy.status != 0
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::shadow::testing::{answer, json};

    fn found(primary: &Answer, shadow: &Answer) -> Vec<String> {
        found_by(primary, shadow, &Rules::default())
    }

    fn found_by(primary: &Answer, shadow: &Answer, rules: &Rules) -> Vec<String> {
        Primary::new(primary).differences(shadow, rules).iter().map(|(field, _)| field.to_string()).collect()
    }

    #[test]
    fn equal_answers_have_no_difference() {
        for body in [r#"{"a":[1,2,{"b":null}]}"#, "not json", ""] {
            assert!(found(&json(body), &json(body)).is_empty());
        }
        assert!(found(&json(r#"{"a":1,"b":[1.0,"x"]}"#), &json(" {\"b\":[1, \"\\u0078\"], \"a\":1e0}")).is_empty());
    }

    #[test]
    fn every_kind_of_difference_is_told_at_its_place() {
        let primary =
            r#"{"total":5,"items":[{"price":1,"name":"a"},{"price":2,"name":"b"}],"tags":[1,2],"old":1,"n":1}"#;
        let shadow =
            r#"{"total":6,"items":[{"price":1,"name":"a"},{"price":3,"name":"c"}],"tags":[1],"new":1,"n":"1"}"#;
        assert_eq!(
            found(&json(primary), &json(shadow)),
            [
                "$.items[*].name changed",
                "$.items[*].price changed",
                "$.n type changed",
                "$.new added",
                "$.old missing",
                "$.tags length",
                "$.total changed",
            ]
        );
        assert_eq!(found(&json("[1]"), &json("{}")), ["$ type changed"]);
        assert_eq!(found(&json("true"), &json("null")), ["$ type changed"]);
        assert_eq!(found(&json("true"), &json("false")), ["$ changed"]);
    }

    #[test]
    fn keys_that_are_ids_are_one_place() {
        let primary = json(r#"{"users":{"1":{"n":1},"2":{"n":1}}}"#);
        assert_eq!(found(&primary, &json(r#"{"users":{"1":{"n":2},"2":{"n":2}}}"#)), ["$.users.*.n changed"]);
        assert_eq!(
            found(&primary, &json(r#"{"users":{"1":{"n":1},"3":{"n":1}}}"#)),
            ["$.users.* missing", "$.users.* added"]
        );
    }

    #[test]
    fn a_key_that_stands_twice_is_compared_each_time() {
        let twice = json(r#"{"a":1,"a":2}"#);
        assert_eq!(found(&twice, &json(r#"{"a":2}"#)), ["$.a changed", "$.a missing"]);
        assert_eq!(found(&json(r#"{"a":1}"#), &twice), ["$.a added"]);
        assert!(found(&twice, &twice).is_empty());
        assert_eq!(found(&twice, &json(r#"{"a":1,"a":3}"#)), ["$.a changed"]);
    }

    #[test]
    fn what_is_ignored_is_ignored_with_all_below_it() {
        let rules =
            Rules { ignore: vec!["$.at".parse().unwrap(), "$.items[*].meta".parse().unwrap()], ..Rules::default() };
        let primary = json(r#"{"at":1,"items":[{"meta":{"x":1},"id":1}]}"#);
        let shadow = json(r#"{"items":[{"meta":[2],"id":2}]}"#);
        assert_eq!(found_by(&primary, &shadow, &rules), ["$.items[*].id changed"]);
    }

    #[test]
    fn other_statuses_are_all_there_is_to_say() {
        let error = Answer { status: 404, ..json("{\"error\":1}") };
        assert_eq!(found(&json("{\"a\":1}"), &error), ["status changed"]);
    }

    #[test]
    fn chosen_headers_are_compared_value_by_value() {
        let with = |values: &[(&'static str, &'static str)]| {
            let headers =
                values.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            Answer { headers: headers.collect(), ..answer("") }
        };
        let primary = with(&[("location", "/a"), ("vary", "a"), ("vary", "b"), ("etag", "1")]);
        let shadow = with(&[("location", "/b"), ("vary", "a"), ("x-new", "1")]);
        assert_eq!(
            found(&primary, &shadow),
            ["header etag missing", "header location changed", "header vary changed", "header x-new added"]
        );
        assert!(found(&primary, &primary).is_empty());
    }

    #[test]
    fn what_is_no_json_is_compared_by_its_bytes() {
        let plain = |text: &str| answer(text);
        let values = |primary: &Answer, shadow: &Answer| {
            let found = Primary::new(primary).differences(shadow, &Rules::default());
            found
                .iter()
                .map(|(field, values)| format!("{field}: {} / {}", values.primary, values.shadow))
                .collect::<Vec<_>>()
        };
        assert_eq!(values(&plain("abcd"), &plain("abxd")), ["body changed: 4 bytes, from byte 2 / 4 bytes"]);
        assert_eq!(values(&plain("abcd"), &plain("ab")), ["body length: 4 bytes / 2 bytes"]);
        // Only beginnings are known, and they are the same.
        let cut = |length| Answer { body_length: length, truncated: true, ..plain("abcd") };
        assert_eq!(values(&cut(10_000_000_000), &cut(9)), ["body length: 10000000000 bytes / 9 bytes"]);
        assert!(found(&cut(9), &cut(9)).is_empty());
        // One that was too long to be read on is at least as long as that.
        let endless = Answer { end: AnswerEnd::Aborted, ..cut(1_000) };
        assert_eq!(values(&cut(9), &endless), ["body length: 9 bytes / over 1000 bytes"]);
        assert!(found(&cut(2_000), &endless).is_empty());
        assert_eq!(found(&json("{}"), &Answer { headers: json("").headers, ..endless }), ["body changed"]);
        let zipped = |text: &str| Answer { encoding: true, ..json(text) };
        assert_eq!(found(&zipped("{\"a\":1}"), &zipped("{\"a\":2}")), ["body changed"]);
        assert_eq!(found(&zipped("{}"), &json("{}")), ["header content-encoding missing"]);
    }

    #[test]
    fn broken_json_is_a_difference_unless_both_are() {
        assert_eq!(found(&json("{\"a\":1}"), &json("{\"a\":")), ["$ not json"]);
        assert_eq!(found(&json("<html>"), &json("{}")), ["$ not json"]);
        assert_eq!(found(&json("<html>"), &json("<body>")), ["body changed"]);
        let deep = |last: &str| json(&format!("{}{last}{}", "[".repeat(500), "]".repeat(500)));
        assert_eq!(found(&deep("1"), &deep("2")), ["body changed"]);
        assert_eq!(found(&json("[1]"), &deep("2")), ["body changed"]);
    }

    #[test]
    fn a_hostile_body_costs_little() {
        let started = std::time::Instant::now();
        let keys = |value: &str| {
            json(&format!("{{{}}}", (0..15_000).map(|n| format!("\"k{n}x\":{value}")).collect::<Vec<_>>().join(",")))
        };
        assert_eq!(found(&keys("1"), &keys("2")).len(), 65);
        assert_eq!(found(&keys("1"), &json("{}")).len(), 65);
        let below = |value: &str| {
            let members: Vec<String> = (0..8_000).map(|n| format!("\"k{n}x\":{value}")).collect();
            json(&format!("{{\"{}\":{{{}}}}}", "ä".repeat(80_000), members.join(",")))
        };
        // Cut, all of them are the same place.
        assert_eq!(found(&below("1"), &below("2")).len(), 2);
        let digits = |last: &str| json(&format!("{}{last}", "9".repeat(250_000)));
        assert_eq!(found(&digits("1"), &digits("2")), ["$ changed"]);
        let text = |end: &str| json(&format!("\"{}{end}\"", "\\u00e4".repeat(40_000)));
        assert_eq!(found(&text("a"), &text("b")), ["$ changed"]);
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }

    #[test]
    fn failures_are_the_servers_own() {
        let ended = |end, status| is_failure(&Answer { end, status, ..answer("") });
        assert_eq!(ended(AnswerEnd::Whole, 404), Some(false));
        assert_eq!(ended(AnswerEnd::Whole, 503), Some(true));
        let grpc = |status| {
            let headers = vec![(HeaderName::from_static("grpc-status"), HeaderValue::from_static(status))];
            is_failure(&Answer { headers, ..answer("") })
        };
        assert_eq!((grpc("0"), grpc("5"), grpc("14")), (Some(false), Some(false), Some(true)));
        assert_eq!(ended(AnswerEnd::Failed("reset"), 200), Some(true));
        assert_eq!(ended(AnswerEnd::TimedOut, 0), Some(true));
        assert_eq!(ended(AnswerEnd::Aborted, 200), None);
    }
}
