//! The readings of a path.

use std::cell::RefCell;

use http::uri::PathAndQuery;
use tidegate::model::{PathFault, decide_path, is_plain_path, normal_path};

/// What one request may have us look at, and how often.
const READINGS_MAX: usize = 65;
const BYTES_MAX: usize = 64 * 1024;

/// One path a line.
pub fn path(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // What can't stand in a request's target never gets here.
    let targets = text.split('\n').filter_map(|line| PathAndQuery::try_from(line).ok());
    targets.for_each(|target| check(target.path()));
}

fn check(path: &str) {
    let seen = RefCell::new(Vec::new());
    let shown = decide_path(path, |reading| seen.borrow_mut().push(reading.to_owned()));
    let seen = seen.into_inner();
    if is_plain_path(path) {
        assert_eq!((shown, &seen[..]), (Ok(()), &[path.to_owned()][..]), "everybody reads it alike");
        return;
    }
    assert!(seen.len() <= READINGS_MAX, "{} readings of {path:?}", seen.len());
    // Each byte may become three, but no reading is longer than that.
    assert!(seen.iter().map(String::len).sum::<usize>() <= 4 * BYTES_MAX + 3 * path.len(), "{path:?} is too much work");

    let normal = normal_path(path);
    match (&normal, shown) {
        (Err(fault), shown) => {
            assert_eq!(shown, Err(*fault), "{path:?}");
            assert!(seen.is_empty(), "what means nothing is not decided upon");
        }
        (Ok(normal), Ok(())) => {
            assert_eq!(seen.first(), Some(normal), "the normal form comes first");
            check_known_readers(path, &seen);
        }
        // Some reading of it means nothing, or there are too many.
        (Ok(_), Err(_)) => {}
    }
    if let Ok(normal) = normal {
        check_normal(path, &normal);
        check_decision(path, &seen, shown);
    }
}

/// A normal form has no dots left to follow, and is its own.
fn check_normal(path: &str, normal: &str) {
    assert!(normal.starts_with('/'), "{path:?} became {normal:?}");
    assert!(!normal.split('/').any(|segment| segment == "." || segment == ".."), "{path:?} became {normal:?}");
    assert!(normal.bytes().all(|byte| byte.is_ascii_graphic()), "{path:?} became {normal:?}");
    assert_eq!(normal_path(normal).as_deref(), Ok(normal), "{path:?}");
}

/// Whatever is shown is asked of, so that nothing is let through that two readings disagree on.
fn check_decision(path: &str, seen: &[String], shown: Result<(), PathFault>) {
    let Some(first) = seen.first() else { return };
    if shown.is_err() {
        return;
    }
    for odd in seen.iter().filter(|reading| *reading != first) {
        let decided = decide_path(path, |reading| reading == odd);
        assert_eq!(decided, Err(PathFault::Ambiguous), "{path:?} is also {odd:?}");
    }
}

/// Programs of the plainest kind are among those that are thought of.
fn check_known_readers(path: &str, seen: &[String]) {
    let raw: String = upper(path);
    assert!(seen.contains(&raw), "{path:?} as it is, {raw:?}, is no reading of it");
    let merged = merge(&raw);
    assert!(seen.contains(&merged), "{path:?} with its slashes merged, {merged:?}, is no reading of it");
}

/// With the digits of percent-encodings in upper case.
fn upper(path: &str) -> String {
    let mut bytes = path.as_bytes().to_vec();
    for at in (0..bytes.len()).filter(|at| path.as_bytes()[*at] == b'%') {
        let end = (at + 3).min(bytes.len());
        bytes[at..end].make_ascii_uppercase();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn merge(path: &str) -> String {
    let mut merged = String::new();
    for character in path.chars() {
        if !(character == '/' && merged.ends_with('/')) {
            merged.push(character);
        }
    }
    merged
}
