//! Bodies as bytes: where the first difference is, and how long they are. Their contents aren't shown: what is secret in
//! them can't be told.

use crate::shadow::fields::{Change, Differences, Field, Values};
use crate::shadow::pair::{Answer, AnswerEnd};

pub(super) fn compare(primary: &Answer, shadow: &Answer, found: &mut Differences) {
    let first = primary.body.iter().zip(&shadow.body).position(|(a, b)| a != b);
    let is_open = |answer: &Answer| answer.end != AnswerEnd::Whole;
    let told = |answer: &Answer| format!("{}{} bytes", if is_open(answer) { "over " } else { "" }, answer.body_length);
    let (change, place) = match first {
        Some(at) => (Change::Value, format!(", from byte {at}")),
        None if primary.body_length == shadow.body_length => return,
        // It might have gone on like the primary.
        None if is_open(shadow) && primary.body_length > shadow.body_length => return,
        None => (Change::Length, String::new()),
    };
    found.add(Field::new("body", change), || Values { primary: told(primary) + &place, shadow: told(shadow) });
}
