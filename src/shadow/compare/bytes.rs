//! Bodies as bytes: where the first difference is, and how long they are. Their contents aren't shown: what is secret in
//! them can't be told.

use crate::shadow::fields::{Change, Differences, Field, Values};
use crate::shadow::pair::Answer;

pub(super) fn compare(primary: &Answer, shadow: &Answer, found: &mut Differences) {
    let first = primary.body.iter().zip(&shadow.body).position(|(a, b)| a != b);
    let told = |answer: &Answer| format!("{} bytes", answer.body_length);
    let (change, place) = match first {
        Some(at) => (Change::Value, format!(", from byte {at}")),
        None if primary.body_length == shadow.body_length => return,
        None => (Change::Length, String::new()),
    };
    found.add(Field::new("body", change), || Values { primary: told(primary) + &place, shadow: told(shadow) });
}
