//! Places in JSON documents, with positions in arrays folded: `$.items[*].price`.

use std::fmt;
use std::str::FromStr;

use super::is_somebodys;

/// The longest path that is written out or read.
const BYTES_MAX: usize = 200;

/// A place, or many that are alike: with everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<JsonStep>);

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
enum JsonStep {
    Key(Box<str>),
    /// `.*`: every key.
    AnyKey,
    /// `[*]`: every element of an array.
    Any,
}

/// One step of a walk through a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaceStep<'a> {
    Key(&'a str),
    /// One of many keys that are data, not names.
    Folded,
    Element,
}

impl<'a> PlaceStep<'a> {
    /// The step to a member. Keys that are ids are folded, as positions are: they would each be a place of their own.
    #[must_use]
    pub fn to(key: &'a str) -> Self {
        if is_id(key) { Self::Folded } else { Self::Key(key) }
    }
}

/// A number, or eight and more hexadecimal digits, a decimal one among them; dashes between, as UUIDs have them; or what
/// is somebody's, and not to be shown.
fn is_id(key: &str) -> bool {
    let is_number = |key: &str| !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit());
    let is_hex = |key: &str| {
        key.len() >= 8
            && key.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
            && key.bytes().any(|b| b.is_ascii_digit())
    };
    is_number(key) || is_hex(key) || is_somebodys(key)
}

impl JsonPath {
    /// Whether a place is this one, or below it.
    #[must_use]
    pub fn covers(&self, place: &[PlaceStep<'_>]) -> bool {
        place.len() >= self.0.len()
            && self.0.iter().zip(place).all(|(wanted, step)| match (wanted, step) {
                (JsonStep::Key(name), PlaceStep::Key(key)) => **name == **key,
                (JsonStep::AnyKey, PlaceStep::Key(_) | PlaceStep::Folded) | (JsonStep::Any, PlaceStep::Element) => true,
                _ => false,
            })
    }
}

impl JsonPath {
    /// Every value of a document that is at the place.
    #[must_use]
    pub fn select<'v>(&self, document: &'v serde_json::Value) -> Vec<&'v serde_json::Value> {
        let mut found = vec![document];
        for step in &self.0 {
            let below = found.into_iter().flat_map(|value| -> Vec<&serde_json::Value> {
                match step {
                    JsonStep::Key(key) => value.get(&**key).into_iter().collect(),
                    JsonStep::AnyKey => value.as_object().into_iter().flat_map(|members| members.values()).collect(),
                    JsonStep::Any => value.as_array().into_iter().flatten().collect(),
                }
            });
            found = below.collect();
        }
        found
    }
}

/// A place as people write it, cut where it gets too long.
#[must_use]
pub fn write_json_path(place: &[PlaceStep<'_>]) -> String {
    let mut text = String::from("$");
    for step in place {
        match step {
            PlaceStep::Element => text += "[*]",
            PlaceStep::Folded => text += ".*",
            PlaceStep::Key(key) => write_key(&mut text, key),
        }
        if text.len() > BYTES_MAX {
            text.truncate(text.floor_char_boundary(BYTES_MAX));
            return text + "…";
        }
    }
    text
}

fn write_key(text: &mut String, key: &str) {
    // The rest would be cut anyway, and one long key may be on the way to thousands of places.
    let key = &key[..key.floor_char_boundary(BYTES_MAX)];
    if is_name(key) {
        text.extend([".", key]);
        return;
    }
    // JSON escapes no more than the first 32 of them.
    let plain: String = key.chars().map(|c| if c.is_control() && c >= '\u{7f}' { '\u{fffd}' } else { c }).collect();
    text.extend(["[", &serde_json::Value::from(plain).to_string(), "]"]);
}

/// What needs no quotes.
fn is_name(key: &str) -> bool {
    key.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'_' | b'$' | b'@'))
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'$' | b'@'))
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<PlaceStep<'_>> = self
            .0
            .iter()
            .map(|step| match step {
                JsonStep::Key(key) => PlaceStep::Key(key),
                JsonStep::AnyKey => PlaceStep::Folded,
                JsonStep::Any => PlaceStep::Element,
            })
            .collect();
        f.write_str(&write_json_path(&steps))
    }
}

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPathError;

impl fmt::Display for JsonPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write places in JSON like $.timestamp, $.items[*].id, $.users.*.name or $[\"odd key\"]")
    }
}

impl std::error::Error for JsonPathError {}

impl FromStr for JsonPath {
    type Err = JsonPathError;

    fn from_str(text: &str) -> Result<Self, JsonPathError> {
        let mut rest = text.strip_prefix('$').filter(|_| text.len() <= BYTES_MAX).ok_or(JsonPathError)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = if let Some(after) = rest.strip_prefix("[*]") {
                (JsonStep::Any, after)
            } else if let Some(after) = rest.strip_prefix(".*") {
                (JsonStep::AnyKey, after)
            } else if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let (name, after) = after.split_at(end);
                if !is_name(name) {
                    return Err(JsonPathError);
                }
                (key(name), after)
            } else {
                quoted(rest).ok_or(JsonPathError)?
            };
            steps.push(step);
            rest = after;
        }
        Ok(Self(steps))
    }
}

/// What stands for a key: ids are folded in documents, too.
fn key(name: &str) -> JsonStep {
    match PlaceStep::to(name) {
        PlaceStep::Key(name) => JsonStep::Key(name.into()),
        _ => JsonStep::AnyKey,
    }
}

/// `["odd key"]`, and what follows it.
fn quoted(text: &str) -> Option<(JsonStep, &str)> {
    let inner = text.strip_prefix('[')?;
    let mut values = serde_json::Deserializer::from_str(inner).into_iter::<String>();
    let name = values.next()?.ok()?;
    let after = inner[values.byte_offset()..].strip_prefix(']')?;
    Some((key(&name), after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_it_is_written() {
        for text in ["$", "$.a", "$.items[*].price", "$[*][*]", "$.users.*.name", "$[\"odd key\"].x", "$[\"a\\\"]b\"]"]
        {
            assert_eq!(text.parse::<JsonPath>().unwrap().to_string(), text);
        }
        for wrong in
            ["", "a", "$.", "$..a", "$a", "$[0]", "$.a b", "$[\"a\"", "$[a]", "$.*x", &format!("$.{}", "a".repeat(300))]
        {
            assert_eq!(wrong.parse::<JsonPath>(), Err(JsonPathError), "{wrong}");
        }
    }

    #[test]
    fn a_path_covers_what_is_below_it() {
        let covers = |path: &str, place: &[PlaceStep<'_>]| path.parse::<JsonPath>().unwrap().covers(place);
        let place = [PlaceStep::Key("items"), PlaceStep::Element, PlaceStep::Key("id")];
        for path in ["$", "$.items", "$.items[*]", "$.items[*].id", "$.*[*].id"] {
            assert!(covers(path, &place), "{path}");
        }
        for path in ["$.item", "$.items.id", "$.items[*].id.x", "$[*]", "$.items[*].ids"] {
            assert!(!covers(path, &place), "{path}");
        }
        assert!(covers(
            "$.users[\"123\"].name",
            &[PlaceStep::Key("users"), PlaceStep::to("77"), PlaceStep::Key("name")]
        ));
    }

    #[test]
    fn keys_that_are_ids_are_folded() {
        for id in ["ada@shop.example", "1", "4711", "550e8400-e29b-41d4-a716-446655440000", "deadbeef01", "20260101"] {
            assert_eq!(PlaceStep::to(id), PlaceStep::Folded, "{id}");
        }
        for name in ["", "a1", "price", "facade", "defaced", "x-1", "feedface"] {
            assert_eq!(PlaceStep::to(name), PlaceStep::Key(name));
        }
    }

    #[test]
    fn values_are_found_wherever_a_path_leads() {
        let document =
            serde_json::json!({ "ok": true, "items": [{ "id": 1 }, { "id": 2 }, {}], "by": { "77": { "n": 3 } } });
        let found = |path: &str| {
            let found = path.parse::<JsonPath>().unwrap().select(&document).into_iter().cloned().collect::<Vec<_>>();
            serde_json::Value::from(found).to_string()
        };
        assert_eq!(found("$.ok"), "[true]");
        assert_eq!(found("$.items[*].id"), "[1,2]");
        assert_eq!(found("$.by.*.n"), "[3]");
        assert_eq!((found("$.none"), found("$.ok.x"), found("$[*]")), ("[]".into(), "[]".into(), "[]".into()));
    }

    #[test]
    fn a_long_place_is_cut_between_characters() {
        let key = "ä".repeat(500);
        let text = write_json_path(&[PlaceStep::Key(&key)]);
        assert!(text.len() <= BYTES_MAX + 3 && text.ends_with('…'), "{text}");
        assert_eq!(write_json_path(&[PlaceStep::Key("\u{7f}\u{85}\n")]), "$[\"\u{fffd}\u{fffd}\\n\"]");
    }
}
