//! What of an answer may be kept and shown: values of fields whose names speak of secrets are hidden, and so is what
//! looks like a card's number, a token or an address of somebody's mail wherever it stands.

use std::ops::Range;

use super::document::Node;
use crate::model::{PlaceStep, card_numbers, is_signed_token, is_somebodys, mail_addresses};

/// The longest value that is kept.
const VALUE_BYTES_MAX: usize = 256;
/// How much of a structure is looked at for a value.
const DEPTH_MAX: usize = 4;
const HIDDEN: &str = "(redacted)";

/// Names, or parts of names, in lower case without dashes and underscores.
const NAMES: [&str; 19] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "authorization",
    "cookie",
    "apikey",
    "accesskey",
    "privatekey",
    "credential",
    "session",
    "signature",
    "cardnumber",
    "creditcard",
    "cvv",
    "cvc",
    "iban",
    "ssn",
];
/// Names that are only part of others that are no secret.
const WHOLE_NAMES: [&str; 5] = ["pin", "auth", "card", "jwt", "otp"];

/// Which names are hidden: the usual ones, and those that the file adds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redaction {
    /// As `NAMES`.
    more: Vec<String>,
}

impl Redaction {
    #[must_use]
    pub fn new(more: &[String]) -> Self {
        Self { more: more.iter().map(|name| plain(name)).filter(|name| !name.is_empty()).collect() }
    }

    /// Whether a name speaks of a secret.
    #[must_use]
    pub fn hides(&self, name: &str) -> bool {
        let name = plain(name);
        NAMES.iter().any(|secret| name.contains(secret))
            || WHOLE_NAMES.contains(&&*name)
            || self.more.iter().any(|secret| name.contains(secret.as_str()))
    }

    /// A path with its query.
    #[must_use]
    pub fn path(&self, path: &str) -> String {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut text = masked(path);
        let mut separator = '?';
        for parameter in query.into_iter().flat_map(|query| query.split('&')) {
            text.push(separator);
            separator = '&';
            match parameter.split_once('=') {
                Some((name, _)) if self.hides(&decoded(name)) => text += &format!("{name}={HIDDEN}"),
                _ => text += &masked(parameter),
            }
        }
        bounded(text)
    }

    /// The value of a header.
    pub(super) fn header(&self, name: &str, value: &[u8]) -> String {
        if self.hides(name) {
            return HIDDEN.to_owned();
        }
        let text = String::from_utf8_lossy(value);
        match name {
            // With a query, perhaps, which has names of its own.
            "location" | "content-location" | "refresh" | "link" => self.path(&text),
            _ => bounded(masked(&text)),
        }
    }

    /// A value in a document, by the way to it.
    pub(super) fn value(&self, place: &[PlaceStep<'_>], node: &Node<'_>) -> String {
        let is_secret = place.iter().any(|step| matches!(step, PlaceStep::Key(key) if self.hides(key)));
        if is_secret {
            return HIDDEN.to_owned();
        }
        let mut text = String::new();
        self.write(&mut text, node, 0);
        bounded(text)
    }

    fn write(&self, text: &mut String, node: &Node<'_>, depth: usize) {
        if text.len() > VALUE_BYTES_MAX {
            return;
        }
        match node {
            Node::Null => *text += "null",
            Node::Bool(value) => *text += if *value { "true" } else { "false" },
            Node::Number(number) => *text += &masked(beginning(number)),
            Node::Text(value) => *text += &quoted(&masked(beginning(value))),
            Node::Array(elements) if depth < DEPTH_MAX => {
                text.push('[');
                for (index, element) in elements.iter().enumerate().take(VALUE_BYTES_MAX) {
                    *text += if index > 0 { "," } else { "" };
                    self.write(text, element, depth + 1);
                }
                text.push(']');
            }
            Node::Object(members) if depth < DEPTH_MAX => {
                text.push('{');
                for (index, (key, member)) in members.iter().enumerate().take(VALUE_BYTES_MAX) {
                    *text += if index > 0 { "," } else { "" };
                    let key = beginning(key);
                    *text += &if is_somebodys(key) { "*".to_owned() } else { quoted(&masked(key)) };
                    text.push(':');
                    if self.hides(key) { *text += HIDDEN } else { self.write(text, member, depth + 1) }
                }
                text.push('}');
            }
            Node::Array(_) => *text += "[…]",
            Node::Object(_) => *text += "{…}",
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Only names have to be read, so whatever else is escaped may stay so.
fn decoded(name: &str) -> String {
    form_urlencoded::parse(name.as_bytes()).next().map_or(String::new(), |(name, _)| name.into_owned())
}

fn plain(name: &str) -> String {
    beginning(name).chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Some more than is shown, so that what would be hidden isn't cut into something that is shown.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(4 * VALUE_BYTES_MAX)]
}

/// At most `VALUE_BYTES_MAX` bytes, on one line.
fn bounded(mut text: String) -> String {
    if text.len() > VALUE_BYTES_MAX {
        text.truncate(text.floor_char_boundary(VALUE_BYTES_MAX - '…'.len_utf8()));
        text.push('…');
    }
    if text.contains(char::is_control) {
        text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
    text
}

/// Without card numbers, mail addresses, tokens, and what follows the name of a scheme.
fn masked(text: &str) -> String {
    let text = beginning(text);
    let is_scheme = |word: &str| word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic");
    if text.split_once(' ').is_some_and(|(word, _)| is_scheme(word)) || is_signed_token(text) {
        return HIDDEN.to_owned();
    }
    let text = without(text, &card_numbers(text), "(card)");
    without(&text, &mail_addresses(&text), "(mail)")
}

/// With `mark` in place of what lies in `ranges`, which are in order and apart.
fn without(text: &str, ranges: &[Range<usize>], mark: &str) -> String {
    let (mut kept, mut from) = (String::new(), 0);
    for range in ranges {
        kept.extend([&text[from..range.start], mark]);
        from = range.end;
    }
    kept + &text[from..]
}

#[cfg(test)]
mod tests {
    use super::super::document::read;
    use super::*;

    fn shown(json: &str) -> String {
        Redaction::default().value(&[], &read(json.as_bytes()).unwrap())
    }

    #[test]
    fn secrets_are_hidden_by_their_names_at_any_depth() {
        let redaction = Redaction::new(&["Tax-Id".to_owned()]);
        for name in
            ["password", "user_Password2", "X-API-Key", "accessToken", "Set-Cookie", "pin", "taxid", "my_tax_id"]
        {
            assert!(redaction.hides(name), "{name}");
        }
        for name in ["price", "shipping", "author", "discard", "name", "id", ""] {
            assert!(!redaction.hides(name), "{name}");
        }
        assert_eq!(
            shown(r#"{"user":{"name":"ada","password":"x","keys":[{"api_key":1}]}}"#),
            r#"{"user":{"keys":[{"api_key":(redacted)}],"name":"ada","password":(redacted)}}"#
        );
        let secret = redaction.value(&[PlaceStep::Key("tokens"), PlaceStep::Element], &Node::Number("1"));
        assert_eq!(secret, HIDDEN);
        assert_eq!(redaction.header("authorization", b"x"), HIDDEN);
        assert_eq!(redaction.header("location", b"/a\nb"), "/a b");
    }

    #[test]
    fn cards_and_tokens_are_hidden_wherever_they_stand() {
        for (value, wanted) in [
            ("4111 1111 1111 1111", "(card)"),
            ("paid with 4111-1111-1111-1111, thanks", "paid with (card), thanks"),
            ("5500005555555559", "(card)"),
            ("4111 1111 1111 1112", "4111 1111 1111 1112"),
            ("order 12 4111 1111 1111 1111", "order 12 (card)"),
            ("4111-1111-1111-1111 2027-11", "(card) 2027-11"),
            ("ada@shop.example, or Bob <bob.b+x@a-b.co.uk>", "(mail), or Bob <(mail)>"),
            ("1699999999123", "1699999999123"),
            ("Bearer abc", HIDDEN),
            ("x eyJhbGciOi.eyJzdWIi.c2ln", HIDDEN),
        ] {
            assert_eq!(masked(value), wanted);
        }
        assert_eq!(shown("5500005555555559"), "(card)");
    }

    #[test]
    fn keys_that_are_somebodys_are_not_shown() {
        assert_eq!(shown(r#"{"ada@shop.example":{"n":1},"b":2}"#), r#"{*:{"n":1},"b":2}"#);
    }

    #[test]
    fn of_a_path_the_query_is_hidden_by_name() {
        let path = Redaction::default().path("/pay/4111111111111111?a=1&access_token=s3cret&b&api%5Fkey=7");
        assert_eq!(path, "/pay/(card)?a=1&access_token=(redacted)&b&api%5Fkey=(redacted)");
    }

    #[test]
    fn values_are_short_and_on_one_line() {
        let long = format!("\"{}\"", "ä".repeat(100_000));
        assert!(shown(&long).len() <= VALUE_BYTES_MAX);
        let wide = format!("[{}0]", "[[[[[{\"a\":1}]]]]],".repeat(3_000));
        assert!(shown(&wide).len() <= VALUE_BYTES_MAX);
        assert_eq!(shown("\"a\\u0000\\nb\""), "\"a\\u0000\\nb\"");
        assert!(!Redaction::default().path("/a\u{85}b").contains(char::is_control));
    }
}
