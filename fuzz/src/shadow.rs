//! Two answers that are compared, and what of them is shown.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderValue};
use tidegate::shadow::{Answer, AnswerEnd, Differences, Level, Mirror, Pair, Rules, Settings, Subject};

/// Rows of a mirror's table for one pair: as many fields as are told apart, and one for the rest.
const FIELDS_MAX: usize = 65;

/// Two JSON bodies, with a zero byte between.
pub fn shadow(data: &[u8]) {
    let middle = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (first, second) = (&data[..middle], data.get(middle + 1..).unwrap_or_default());
    let there = differences(first, second);
    let back = differences(second, first);
    assert!(differences(first, first).is_empty(), "what is the same differs");
    assert_eq!(there.is_empty(), back.is_empty(), "a difference has two sides");
    assert!(!there.is_empty() || are_alike(first, second), "a difference was missed");
    assert!(there.iter().count() <= FIELDS_MAX);
    for (field, values) in there.iter() {
        for text in [&*field.place, &*values.primary, &*values.shadow] {
            assert!(text.len() <= 260 && !text.contains(char::is_control), "{text:?} is no line of a table");
        }
    }
}

/// As far as serde_json, which knows no more than machine words, can tell.
fn are_alike(first: &[u8], second: &[u8]) -> bool {
    let read = |body| serde_json::from_slice::<serde_json::Value>(body);
    let whole = |value: &serde_json::Value| !value.to_string().contains(['.', 'e', 'E']);
    match (read(first), read(second)) {
        // Numbers with a point may be one and look like two.
        (Ok(first), Ok(second)) => first == second || !whole(&first) || !whole(&second),
        (Err(error), _) | (_, Err(error)) => first == second || is_beyond(&error),
    }
}

/// serde_json reads no further, and we do.
fn is_beyond(error: &serde_json::Error) -> bool {
    let told = error.to_string();
    told.contains("out of range") || told.contains("recursion limit")
}

fn differences(primary: &[u8], shadow: &[u8]) -> Differences {
    let answer = |body: &[u8]| Answer {
        end: AnswerEnd::Whole,
        status: 200,
        headers: vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body: Bytes::copy_from_slice(body),
        body_length: body.len() as u64,
        truncated: false,
        encoding: false,
        head_after: Duration::ZERO,
        whole_after: Duration::ZERO,
    };
    let pair = Pair {
        service: "shop".into(),
        mirror: "green".into(),
        revision: "2".into(),
        primary_backend: "blue".into(),
        primary_revision: "1".into(),
        asked: Instant::now(),
        route: None,
        method: Method::GET,
        path: "/".into(),
        request_id: "1".into(),
        primary: answer(primary),
        shadow: answer(shadow),
        noise: None,
    };
    let subject = Subject {
        service: "shop".into(),
        backend: "green".into(),
        revision: "2".into(),
        stable: "blue".into(),
        stable_revision: "1".into(),
    };
    let level = Level { alpha: 0.01, tolerated: 0.01, noise: false };
    let mirror = Mirror {
        subject,
        settings: Settings { level, rules: Rules::default(), examples: 5, headers: Vec::new(), body_max: 1 << 18 },
        slow_after: None,
    };
    let sight = mirror.look(&pair).expect("it is of the same revision");
    sight.shadow.expect("both are whole")
}
