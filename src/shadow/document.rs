//! JSON as it is compared: numbers as they were written, keys that stand twice, and bounds on what is read.
//!
//! A reader of our own, since the usual ones make of a number what fits a machine word and of two equal keys one, and
//! both may be the very difference.

use std::borrow::Cow;

/// As deep as serde_json goes.
const DEPTH_MAX: usize = 128;
/// Values in a document: 2 to 8 MB of memory at worst.
const NODES_MAX: usize = 32_768;

/// A value. An object's members are in order of their keys; those with the same key as they were written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node<'a> {
    Null,
    Bool(bool),
    /// As written.
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Vec<(Cow<'a, str>, Self)>),
}

/// Why a document isn't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is no JSON.
    Broken,
    /// It is too deep, or has too many values.
    TooMuch,
}

/// Reads a whole document.
pub(super) fn read(bytes: &[u8]) -> Result<Node<'_>, Unread> {
    let text = std::str::from_utf8(bytes).map_err(|_| Unread::Broken)?;
    let mut reader = Reader { text, at: 0, nodes: 0 };
    let node = reader.value(0)?;
    reader.skip_space();
    if reader.at == text.len() { Ok(node) } else { Err(Unread::Broken) }
}

/// Whether two numbers are the same, to the last digit: 1, 1.0 and 10e-1 are, as in JSON itself; and nothing is rounded.
pub(super) fn is_same_number(a: &str, b: &str) -> bool {
    a == b || matches!((Decimal::of(a), Decimal::of(b)), (Some(a), Some(b)) if a == b)
}

/// Digits without zeros at either end, and how many places they stand to the left.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// `None` for exponents beyond reason, which are compared as written.
    fn of(text: &str) -> Option<Self> {
        const EXPONENT_DIGITS_MAX: usize = 12;
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            None => (text, 0),
            Some((_, exponent)) if exponent.len() > EXPONENT_DIGITS_MAX => return None,
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        };
        let unsigned = mantissa.strip_prefix('-');
        let (whole, part) = unsigned.unwrap_or(mantissa).split_once('.').unwrap_or((unsigned.unwrap_or(mantissa), ""));
        let mut digits: Vec<u8> = whole.bytes().chain(part.bytes()).skip_while(|digit| *digit == b'0').collect();
        let kept = digits.iter().rposition(|digit| *digit != b'0').map_or(0, |last| last + 1);
        let exponent =
            exponent.checked_add_unsigned((digits.len() - kept) as u64)?.checked_sub_unsigned(part.len() as u64)?;
        digits.truncate(kept);
        let is_zero = digits.is_empty();
        Some(Self { negative: unsigned.is_some() && !is_zero, digits, exponent: if is_zero { 0 } else { exponent } })
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Node<'a>, Unread> {
        self.nodes += 1;
        if depth >= DEPTH_MAX || self.nodes > NODES_MAX {
            return Err(Unread::TooMuch);
        }
        self.skip_space();
        match self.peek().ok_or(Unread::Broken)? {
            b'n' => self.word("null", Node::Null),
            b't' => self.word("true", Node::Bool(true)),
            b'f' => self.word("false", Node::Bool(false)),
            b'"' => self.string().map(Node::Text),
            b'-' | b'0'..=b'9' => self.number().map(Node::Number),
            b'[' => self.array(depth),
            b'{' => self.object(depth),
            _ => Err(Unread::Broken),
        }
    }

    fn array(&mut self, depth: usize) -> Result<Node<'a>, Unread> {
        self.at += 1;
        let mut elements = Vec::new();
        if self.takes_after_space(b']') {
            return Ok(Node::Array(elements));
        }
        loop {
            elements.push(self.value(depth + 1)?);
            if self.takes_after_space(b']') {
                return Ok(Node::Array(elements));
            }
            self.expect(b',')?;
        }
    }

    fn object(&mut self, depth: usize) -> Result<Node<'a>, Unread> {
        self.at += 1;
        let mut members: Vec<(Cow<'a, str>, Node<'a>)> = Vec::new();
        if self.takes_after_space(b'}') {
            return Ok(Node::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(Unread::Broken);
            }
            let key = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            members.push((key, self.value(depth + 1)?));
            if self.takes_after_space(b'}') {
                // Stable: of equal keys, the first stays the first.
                members.sort_by(|(a, _), (b, _)| a.cmp(b));
                return Ok(Node::Object(members));
            }
            self.expect(b',')?;
        }
    }

    fn word(&mut self, word: &str, node: Node<'a>) -> Result<Node<'a>, Unread> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Unread::Broken);
        }
        self.at += word.len();
        Ok(node)
    }

    fn number(&mut self) -> Result<&'a str, Unread> {
        let start = self.at;
        self.takes(b'-');
        if !self.takes(b'0') {
            self.digits()?;
        }
        if self.takes(b'.') {
            self.digits()?;
        }
        if self.takes(b'e') || self.takes(b'E') {
            if !self.takes(b'+') {
                self.takes(b'-');
            }
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), Unread> {
        let rest = &self.text.as_bytes()[self.at..];
        let count = rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        if count == 0 { Err(Unread::Broken) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Unread> {
        self.at += 1;
        let mut unescaped: Option<String> = None;
        loop {
            let rest = &self.text[self.at..];
            let length = rest.bytes().position(|b| b == b'"' || b == b'\\' || b < 0x20).ok_or(Unread::Broken)?;
            let plain = &rest[..length];
            self.at += length + 1;
            match rest.as_bytes()[length] {
                b'"' => {
                    return Ok(match unescaped {
                        None => Cow::Borrowed(plain),
                        Some(text) => Cow::Owned(text + plain),
                    });
                }
                b'\\' => {
                    let text = unescaped.get_or_insert_default();
                    text.push_str(plain);
                    let escaped = self.escape()?;
                    unescaped.get_or_insert_default().push(escaped);
                }
                _ => return Err(Unread::Broken),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Unread> {
        let kind = self.peek().ok_or(Unread::Broken)?;
        self.at += 1;
        Ok(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                let code = if (0xD800..0xDC00).contains(&first) {
                    self.expect(b'\\')?;
                    self.expect(b'u')?;
                    let second = self.hex()?;
                    if !(0xDC00..0xE000).contains(&second) {
                        return Err(Unread::Broken);
                    }
                    0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
                } else {
                    first
                };
                char::from_u32(code).ok_or(Unread::Broken)?
            }
            _ => return Err(Unread::Broken),
        })
    }

    fn hex(&mut self) -> Result<u32, Unread> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or(Unread::Broken)?;
        self.at += 4;
        digits.iter().try_fold(0, |code, digit| {
            let digit = char::from(*digit).to_digit(16).ok_or(Unread::Broken)?;
            Ok(code << 4 | digit)
        })
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn takes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn takes_after_space(&mut self, byte: u8) -> bool {
        self.skip_space();
        self.takes(byte)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Unread> {
        if self.takes(byte) { Ok(()) } else { Err(Unread::Broken) }
    }

    fn skip_space(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    /// As serde_json sees it; of equal keys the last, numbers as it reads them.
    fn plain(node: &Node<'_>) -> Value {
        match node {
            Node::Null => Value::Null,
            Node::Bool(value) => Value::Bool(*value),
            Node::Number(text) => serde_json::from_str(text).unwrap(),
            Node::Text(text) => Value::from(&**text),
            Node::Array(elements) => elements.iter().map(plain).collect(),
            Node::Object(members) => members.iter().map(|(key, node)| (key.to_string(), plain(node))).collect(),
        }
    }

    #[test]
    fn whatever_serde_json_reads_is_read_alike_and_nothing_else_is() {
        let seeds = [
            r#"{"a":[1,-2.50e+3,0.1,true,false,null],"b":{"c":"x\n\u00e4\ud83d\ude00","":{}},"a":[]}"#,
            "[[[\"\\\\\"]], 0, -0, 1E5 , \"\\/\\b\\f\\r\\t\"]",
            " \"text\" ",
            "1234567890123456789012345678901234567890",
        ];
        let mut random = StdRng::seed_from_u64(6);
        let mut read_whole = 0;
        for round in 0..60_000 {
            let mut bytes = seeds[round % seeds.len()].as_bytes().to_vec();
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..3) {
                    0 => drop(bytes.remove(at)),
                    1 => bytes[at] = b"{}[]\",:\\u0e+-.1tn \x1f\xc3"[random.random_range(0..20)],
                    _ => bytes.insert(at, b"{}[]\",:\\u0e+-.1tn \x1f\xc3"[random.random_range(0..20)]),
                }
            }
            let ours = read(&bytes);
            let told = String::from_utf8_lossy(&bytes);
            match serde_json::from_slice::<Value>(&bytes) {
                Ok(value) => {
                    assert_eq!(plain(ours.as_ref().unwrap()), value, "{told}");
                    read_whole += 1;
                }
                // Numbers that fit no machine word are read all the same.
                Err(error) if error.to_string().contains("out of range") => {}
                Err(_) => assert!(ours.is_err(), "{told}"),
            }
            if ours.is_ok() {
                assert!(serde_json::from_slice::<IgnoredAny>(&bytes).is_ok(), "{told}");
            }
        }
        assert!(read_whole > 10_000, "{read_whole}");
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_left_alone() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(read(nested(128).as_bytes()).is_ok());
        assert_eq!(read(nested(129).as_bytes()), Err(Unread::TooMuch));
        assert_eq!(read("[".repeat(1_000_000).as_bytes()), Err(Unread::TooMuch));
        assert_eq!(read("{\"a\":".repeat(1_000_000).as_bytes()), Err(Unread::TooMuch));
        let many = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(read(many(NODES_MAX - 1).as_bytes()).is_ok());
        assert_eq!(read(many(NODES_MAX).as_bytes()), Err(Unread::TooMuch));
    }

    #[test]
    fn equal_keys_stay_in_the_order_in_which_they_were_written() {
        let Ok(Node::Object(members)) = read(br#"{"b":1,"a":2,"b":3}"#) else { panic!("it is an object") };
        let told: Vec<(&str, &Node<'_>)> = members.iter().map(|(key, node)| (&**key, node)).collect();
        assert_eq!(told, [("a", &Node::Number("2")), ("b", &Node::Number("1")), ("b", &Node::Number("3"))]);
    }

    #[test]
    fn numbers_are_compared_to_the_last_digit() {
        for (a, b) in [("1", "1.0"), ("1", "10e-1"), ("-0", "0.00"), ("0.1", "1E-1"), ("1200", "1.2e+3"), ("0e9", "0")]
        {
            assert!(is_same_number(a, b) && is_same_number(b, a), "{a} {b}");
        }
        for (a, b) in [
            ("1", "-1"),
            ("1", "10"),
            ("0.1", "0.10000000000000001"),
            ("9007199254740992", "9007199254740993"),
            ("123456789012345678901234567890", "123456789012345678901234567891"),
            ("1e999", "1e998"),
            ("1e99999999999999999999", "1e99999999999999999998"),
        ] {
            assert!(!is_same_number(a, b) && !is_same_number(b, a), "{a} {b}");
        }
    }
}
