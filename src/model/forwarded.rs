//! What proxies in front say about a client: entries of `X-Forwarded-For`, elements of `Forwarded` (RFC 7239).
//!
//! Both grow to the right: the last entry is by the peer itself, the one before it by whoever that entry names.
//! So both are read from the right, and what a client wrote before can't hide what was added behind it.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// An address as proxies write it: plain or with a port; IPv6 with or without brackets.
#[must_use]
pub fn parse_node(text: &str) -> Option<IpAddr> {
    let plain = || text.parse().ok();
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    plain().or_else(with_port).or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

/// Commas within one element's quotes; each is tried as the end of the element before.
const COMMAS_MAX: usize = 64;

/// One element of `Forwarded`, as far as it concerns us.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ForwardedElement<'a> {
    /// `for`: an address, `unknown`, or a name that hides one.
    pub node: Option<Cow<'a, str>>,
    pub proto: Option<Cow<'a, str>>,
    pub host: Option<Cow<'a, str>>,
}

impl<'a> ForwardedElement<'a> {
    /// The last element of a line, and what stands before it; `None` when the line doesn't end in one.
    #[must_use]
    pub fn last_of(line: &'a str) -> Option<(&'a str, Self)> {
        // A comma within quotes has an unpaired quote to its right, which is no part of any element.
        for (tried, (comma, _)) in line.rmatch_indices(',').enumerate() {
            if tried == COMMAS_MAX {
                return None;
            }
            if let Some(element) = Self::parse(&line[comma + 1..]) {
                return Some((&line[..comma], element));
            }
        }
        Some(("", Self::parse(line)?))
    }

    fn parse(text: &'a str) -> Option<Self> {
        let mut element = Self::default();
        let mut rest = text.trim();
        loop {
            let (name, after) = rest.split_once('=')?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
                return None;
            }
            let (value, after) = parse_value(after)?;
            let seat = match name {
                name if name.eq_ignore_ascii_case("for") => Some(&mut element.node),
                name if name.eq_ignore_ascii_case("proto") => Some(&mut element.proto),
                name if name.eq_ignore_ascii_case("host") => Some(&mut element.host),
                _ => None,
            };
            if let Some(seat) = seat
                && seat.replace(value).is_some()
            {
                return None;
            }
            rest = after.trim_start();
            if rest.is_empty() {
                return Some(element);
            }
            rest = rest.strip_prefix(';')?.trim_start();
        }
    }
}

/// A token or a quoted string, and what follows it. Tokens may have the colons and brackets that belong in quotes.
fn parse_value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        let value = &text[..end];
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b',' | b'=' | b'\\');
        return (!value.is_empty() && value.bytes().all(plain)).then_some((value.into(), &text[end..]));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value.into(), &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            character => value.push(character),
        }
    }
    None
}

/// Adds an element to the text of a `Forwarded`. `host` is an authority, which has neither quotes nor backslashes.
pub fn write_forwarded(text: &mut String, node: IpAddr, about: Option<(&str, &str)>) {
    if !text.is_empty() {
        text.push_str(", ");
    }
    // Writing to a string doesn't fail.
    let _ = match node {
        IpAddr::V4(address) => write!(text, "for={address}"),
        IpAddr::V6(address) => write!(text, "for=\"[{address}]\""),
    };
    let Some((host, proto)) = about else { return };
    let is_token = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'));
    let quote = if is_token { "" } else { "\"" };
    if !host.is_empty() {
        let _ = write!(text, ";host={quote}{host}{quote}");
    }
    let _ = write!(text, ";proto={proto}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_read_in_any_of_its_forms() {
        for (text, wanted) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:80", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("unknown", None),
            ("_hidden", None),
            ("", None),
            ("192.0.2.1:_p", None),
            ("[192.0.2.1]", None),
            ("010.0.0.1", None),
        ] {
            assert_eq!(parse_node(text).map(|address| address.to_string()).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn an_element_of_commas_without_end_is_none() {
        let element = |commas: usize| format!("for=192.0.2.1;a=\"{}\"", ",".repeat(commas));
        assert!(ForwardedElement::last_of(&element(COMMAS_MAX - 1)).is_some());
        assert_eq!(ForwardedElement::last_of(&element(COMMAS_MAX + 1)), None);
    }

    fn last(line: &str) -> Option<(&str, [String; 3])> {
        let (rest, element) = ForwardedElement::last_of(line)?;
        let text = |value: Option<Cow<'_, str>>| value.unwrap_or_default().into_owned();
        Some((rest, [text(element.node), text(element.proto), text(element.host)]))
    }

    #[test]
    fn elements_are_read_from_the_right() {
        let element = |node: &str, proto: &str, host: &str| [node.to_owned(), proto.to_owned(), host.to_owned()];
        assert_eq!(last("for=192.0.2.1"), Some(("", element("192.0.2.1", "", ""))));
        assert_eq!(
            last(r#"for=a, For="[2001:db8::1]:80" ; PROTO=https;host="shop.test:81";by=_x"#),
            Some(("for=a", element("[2001:db8::1]:80", "https", "shop.test:81")))
        );
        assert_eq!(last(r#"for="a, \"b""#), Some(("", element("a, \"b", "", ""))), "quotes hide commas");
        assert_eq!(
            last(r#"for="x, for=192.0.2.1"#),
            Some((r#"for="x"#, element("192.0.2.1", "", ""))),
            "an open quote"
        );
        assert_eq!(last("host=shop.test:81"), Some(("", element("", "", "shop.test:81"))), "quotes left out");
        for broken in ["", "for", "for=", "for=a;", "for=a;for=b", "for=\"a", "for=a b", "fo r=a", "for=a=b"] {
            assert_eq!(last(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_stands_within_quotes_is_never_taken_for_an_element() {
        for host in [r"a, for=6.6.6.6", r"a, for=6.6.6.6;x=", r#"a, for=6.6.6.6;x=\""#, r#"a, for=\"6.6.6.6"#] {
            let line = format!("for=192.0.2.1;host=\"{host}\"");
            assert_eq!(last(&line).map(|(_, element)| element[0].clone()), Some("192.0.2.1".to_owned()), "{line}");
        }
    }

    #[test]
    fn an_element_is_written_as_it_is_read() {
        let mut text = String::new();
        write_forwarded(&mut text, "2001:db8::1".parse().unwrap(), Some(("shop.test:81", "https")));
        write_forwarded(&mut text, "192.0.2.1".parse().unwrap(), Some(("shop.test", "http")));
        write_forwarded(&mut text, "192.0.2.2".parse().unwrap(), None);
        assert_eq!(
            text,
            "for=\"[2001:db8::1]\";host=\"shop.test:81\";proto=https, for=192.0.2.1;host=shop.test;proto=http, \
             for=192.0.2.2"
        );
    }

    proptest! {
        #[test]
        fn what_was_added_last_is_what_is_read(before in "[ -~]{0,60}", address: [u8; 4]) {
            let line = format!("{before}, for={};proto=https", IpAddr::from(address));
            let (rest, element) = ForwardedElement::last_of(&line).expect("a good element stands last");
            prop_assert_eq!(rest, before);
            prop_assert_eq!(element.node, Some(IpAddr::from(address).to_string().into()));
        }
    }
}
