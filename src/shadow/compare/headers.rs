//! Headers that were chosen: all values of a name, in their order.

use std::collections::BTreeSet;

use http::{HeaderName, HeaderValue};

use super::Rules;
use crate::shadow::fields::{Change, Differences, Field, Values};

type Headers = [(HeaderName, HeaderValue)];

pub(super) fn compare(primary: &Headers, shadow: &Headers, rules: &Rules, found: &mut Differences) {
    if primary == shadow {
        return;
    }
    let names: BTreeSet<&str> = primary.iter().chain(shadow).map(|(name, _)| name.as_str()).collect();
    for name in names {
        let (ours, theirs) = (values(primary, name), values(shadow, name));
        let change = match (ours.is_empty(), theirs.is_empty()) {
            _ if ours == theirs => continue,
            (false, true) => Change::Missing,
            (true, false) => Change::Added,
            _ => Change::Value,
        };
        let told = |values: &[&HeaderValue]| {
            let joined = values.iter().map(|value| value.as_bytes()).collect::<Vec<_>>().join(&b", "[..]);
            rules.redaction.header(name, &joined)
        };
        found.add(Field::new(&format!("header {name}"), change), || Values {
            primary: told(&ours),
            shadow: told(&theirs),
        });
    }
}

fn values<'a>(headers: &'a Headers, wanted: &str) -> Vec<&'a HeaderValue> {
    headers.iter().filter(|(name, _)| name.as_str() == wanted).map(|(_, value)| value).collect()
}
