//! What a text gives away of somebody: numbers of payment cards, tokens, mail addresses.

use std::ops::Range;

/// What begins like a token and is longer is one.
const TOKEN_BYTES_MIN: usize = 40;
/// Shorter keys without a pattern are names.
const RANDOM_BYTES_MIN: usize = 16;
/// In what is written at random a digit follows a letter, or the reverse, every few characters.
const RANDOM_CHANGES_MIN: usize = 4;

/// A key that stands for somebody or something, and isn't the name of a member.
#[must_use]
pub fn is_somebodys(key: &str) -> bool {
    is_signed_token(key) || is_random(key) || !mail_addresses(key).is_empty() || is_number(key)
}

/// A card's or a telephone's, or any other one with signs between its digits.
fn is_number(key: &str) -> bool {
    const DIGITS_MIN: usize = 7;
    key.bytes().filter(u8::is_ascii_digit).count() >= DIGITS_MIN
        && key.bytes().all(|b| b.is_ascii_digit() || matches!(b, b' ' | b'-' | b'+' | b'.' | b'(' | b')' | b'/'))
}

/// One word of letters and digits that change places again and again, as keys of an API do.
fn is_random(key: &str) -> bool {
    let is_word = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'=' | b'+' | b'/'));
    let changes = key.as_bytes().windows(2).filter(|pair| {
        pair[0].is_ascii_digit() && pair[1].is_ascii_alphabetic()
            || pair[0].is_ascii_alphabetic() && pair[1].is_ascii_digit()
    });
    is_word && key.len() >= RANDOM_BYTES_MIN && changes.count() >= RANDOM_CHANGES_MIN
}

/// Three parts in base64url, of which the first begins an object: a JSON web token stands in the text.
#[must_use]
pub fn is_signed_token(text: &str) -> bool {
    // One that is cut off lacks the dots.
    let is_whole = |word: &str| word.bytes().filter(|b| *b == b'.').count() >= 2;
    let is_token = |word: &str| word.starts_with("eyJ") && (is_whole(word) || word.len() > TOKEN_BYTES_MIN);
    text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '-' | '_')).any(is_token)
}

/// Where mail addresses stand, in order: a word, `@`, and a name with a dot.
#[must_use]
pub fn mail_addresses(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    // Whatever isn't ASCII may stand in an address.
    let is_local = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii() || b".!#$%*+_-{|}~^".contains(b);
    let is_host = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii() || matches!(b, b'-' | b'.');
    let (mut found, mut free) = (Vec::<Range<usize>>::new(), 0);
    for at in bytes.iter().enumerate().filter(|(_, b)| **b == b'@').map(|(at, _)| at) {
        if at < free {
            continue;
        }
        let start = at - bytes[free..at].iter().rev().take_while(|b| is_local(b)).count();
        let host = bytes[at + 1..].iter().take_while(|b| is_host(b)).count();
        // A dot at its end is the sentence's.
        let host = bytes[at + 1..at + 1 + host].iter().rposition(|b| *b != b'.').map_or(0, |last| last + 1);
        let has_dot = bytes[at + 1..at + 1 + host].iter().skip(1).any(|b| *b == b'.');
        if start < at && has_dot {
            free = at + 1 + host;
            found.push(start..free);
        }
    }
    found
}

/// Where numbers of cards stand, in order: of 13 to 19 digits, single spaces or dashes between them, that end with their
/// check digit. Among more digits those that begin and are as long as an issuer's.
#[must_use]
pub fn card_numbers(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        // The places of a run's digits.
        let mut places = Vec::new();
        while let Some(byte) = bytes.get(at) {
            if byte.is_ascii_digit() {
                places.push(at);
            } else if !matches!(byte, b' ' | b'-') || !bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
                break;
            }
            at += 1;
        }
        let digits: Vec<u8> = places.iter().map(|place| bytes[*place] - b'0').collect();
        if (13..=19).contains(&digits.len()) && has_check_digit(&digits) {
            found.push(places[0]..places[places.len() - 1] + 1);
            continue;
        }
        let mut first = 0;
        while first < digits.len() {
            let lengths = lengths_of_issuer(&digits[first..]).iter();
            let fits = |length: &&usize| digits.get(first..first + **length).is_some_and(has_check_digit);
            match lengths.copied().filter(|length| fits(&length)).max() {
                Some(length) => {
                    found.push(places[first]..places[first + length - 1] + 1);
                    first += length;
                }
                None => first += 1,
            }
        }
    }
    found
}

/// How many digits the cards of an issuer have, by their first ones.
fn lengths_of_issuer(digits: &[u8]) -> &'static [usize] {
    let first = |count: usize| digits.iter().take(count).fold(0_u32, |number, digit| number * 10 + u32::from(*digit));
    match (first(2), first(4)) {
        (34 | 37, _) => &[15],
        (30 | 36 | 38 | 39, _) => &[14, 16],
        (35 | 51..=55 | 60 | 64 | 65 | 81, _) | (_, 2200..=2204 | 2221..=2720) => &[16],
        (40..=49, _) => &[13, 16, 19],
        (50 | 56..=58 | 62 | 67, _) => &[16, 19],
        _ => &[],
    }
}

/// Luhn's formula.
fn has_check_digit(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(index, digit)| {
            let digit = u32::from(*digit);
            if index % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cards(text: &str) -> Vec<&str> {
        card_numbers(text).into_iter().map(|range| &text[range]).collect()
    }

    fn mails(text: &str) -> Vec<&str> {
        mail_addresses(text).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn a_card_is_found_whatever_digits_stand_beside_it() {
        for (text, wanted) in [
            ("4111111111111111", "4111111111111111"),
            ("4111 1111 1111 1111 12/27 123", "4111 1111 1111 1111"),
            ("4111111111111111 0827", "4111111111111111"),
            ("20261121 5500005555555559", "5500005555555559"),
            ("order 77: 3782 822463 10005 3", "3782 822463 10005"),
            ("0004111111111111111000", "4111111111111111"),
        ] {
            assert_eq!(cards(text), [wanted], "{text}");
        }
        assert_eq!(cards("4111111111111111 5500005555555559"), ["4111111111111111", "5500005555555559"]);
        for text in ["", "4111111111111112", "1699999999123", "2026-11-21 18:20:00", "550e8400e29b41d4"] {
            assert!(cards(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_mail_address_is_found_within_a_text() {
        assert_eq!(mails("to ada@shop.example. or <b.c+d@x-y.co.uk>"), ["ada@shop.example", "b.c+d@x-y.co.uk"]);
        assert_eq!(mails("jürgen@müller.example"), ["jürgen@müller.example"]);
        for text in ["", "@", "@type", "a@", "a@b", "@a.b", "a@.", "a@..", "1 @ 2.50", "a@.b"] {
            assert!(mails(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn keys_that_are_somebodys_are_told_from_names() {
        for key in [
            "ada@shop.example",
            "4111 1111 1111 1111",
            "+49 151 2345678",
            "eyJhbGciOi.eyJzdWIi.c2ln",
            "sk_live_4eC39HqLyjWDarjtT1zdp7dc",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        ] {
            assert!(is_somebodys(key), "{key}");
        }
        for key in
            ["", "price", "@type", "shippingAddressLine1", "sha256HashOfContent", "x-1", "2.0", "a", "utf8_general"]
        {
            assert!(!is_somebodys(key), "{key}");
        }
    }
}
