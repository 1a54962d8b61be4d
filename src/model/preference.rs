//! What a client would rather have: the format of a page, the coding of a body (RFC 9110, 12.5).

use std::cmp::Reverse;

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// Items of one line that are looked at; longer lists are nobody's real preferences.
const ITEMS_MAX: usize = 64;
/// Also that of whatever stands there without one.
const QUALITY_MAX: u16 = 1000;

/// The formats that our own answers come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Text,
    Html,
    Json,
}

/// How much one thing is wanted, and by how clear a word.
#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    /// 0 where nothing was said.
    clarity: u8,
    quality: u16,
    position: usize,
}

impl Wish {
    /// The clearest word counts; of equally clear ones the one that wants it most.
    fn hear(&mut self, clarity: u8, quality: u16, position: usize) {
        if (clarity, quality) > (self.clarity, self.quality) {
            *self = Self { clarity, quality, position };
        }
    }
}

impl Format {
    /// The format that an `Accept` line wants most: text unless it asks for another by name or by a narrower range.
    #[must_use]
    pub fn wanted_by(accept: &[u8]) -> Self {
        // What most programs say.
        if accept == b"*/*" {
            return Self::Text;
        }
        let (mut text, mut html, mut json) = <(Wish, Wish, Wish)>::default();
        for (position, (range, parameters)) in items(accept).enumerate() {
            let named = match range.len() {
                9 if range.eq_ignore_ascii_case(b"text/html") => Some(Self::Html),
                10 if range.eq_ignore_ascii_case(b"text/plain") => Some(Self::Text),
                16.. if is_json(range) => Some(Self::Json),
                _ => None,
            };
            let ranges: &mut [&mut Wish] = match (named, range.len()) {
                (Some(Self::Text), _) => &mut [&mut text],
                (Some(Self::Html), _) => &mut [&mut html],
                (Some(Self::Json), _) => &mut [&mut json],
                (None, 3) if range == b"*/*" => &mut [&mut text, &mut html, &mut json],
                (None, 6) if range.eq_ignore_ascii_case(b"text/*") => &mut [&mut text, &mut html],
                (None, 13) if range.eq_ignore_ascii_case(b"application/*") => &mut [&mut json],
                _ => continue,
            };
            let Some(quality) = quality_of(parameters) else { continue };
            if let Some(format) = named
                && quality == QUALITY_MAX
            {
                // Nothing after it could be wanted more, and pages' and scripts' lines begin like this.
                return format;
            }
            let clarity = if named.is_some() {
                3
            } else if range.len() == 3 {
                1
            } else {
                2
            };
            for wish in ranges {
                wish.hear(clarity, quality, position);
            }
        }
        // Of equals, the last is found: text.
        let wishes = [(Self::Json, json), (Self::Html, html), (Self::Text, text)];
        let wanted = wishes.into_iter().filter(|(_, wish)| wish.quality > 0);
        let best = wanted.max_by_key(|(_, wish)| (wish.quality, wish.clarity, Reverse(wish.position)));
        best.map_or(Self::Text, |(format, _)| format)
    }
}

fn is_json(range: &[u8]) -> bool {
    let Some((kind, subtype)) = range.split_at_checked(12) else { return false };
    let suffix = subtype.len().checked_sub(5).map(|at| &subtype[at..]);
    kind.eq_ignore_ascii_case(b"application/")
        && (subtype.eq_ignore_ascii_case(b"json") || suffix.is_some_and(|s| s.eq_ignore_ascii_case(b"+json")))
}

/// A content coding that we can apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Zstd,
    Brotli,
    Gzip,
}

impl Coding {
    /// As `Content-Encoding` names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    fn is_named(self, name: &[u8]) -> bool {
        name.eq_ignore_ascii_case(self.name().as_bytes())
            || (self == Self::Gzip && name.eq_ignore_ascii_case(b"x-gzip"))
    }

    /// Which of `offered`, in our order, a head's `Accept-Encoding` wants most; `None` where it wants none, or would
    /// rather have the body as it is.
    #[must_use]
    pub fn wanted_by(headers: &HeaderMap, offered: &[Self]) -> Option<Self> {
        let lines = headers.get_all(ACCEPT_ENCODING);
        let wish = |is_it: &dyn Fn(&[u8]) -> bool, wildcard: bool| {
            let mut wish = Wish::default();
            for (name, parameters) in lines.iter().flat_map(|line| items(line.as_bytes())) {
                let clarity = match name {
                    name if is_it(name) => 2,
                    b"*" if wildcard => 1,
                    _ => continue,
                };
                if let Some(quality) = quality_of(parameters) {
                    wish.hear(clarity, quality, 0);
                }
            }
            wish.quality
        };
        let as_it_is = wish(&|name| name.eq_ignore_ascii_case(b"identity"), false);
        let wishes = offered.iter().rev().map(|coding| (*coding, wish(&|name| coding.is_named(name), true)));
        // Of equals, the last is found: our first.
        let (coding, quality) = wishes.max_by_key(|(_, quality)| *quality)?;
        (quality > 0 && quality >= as_it_is).then_some(coding)
    }
}

/// The items of a list with their parameters.
fn items(line: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    line.split(|b| *b == b',').take(ITEMS_MAX).map(|item| {
        let end = item.iter().position(|b| *b == b';').unwrap_or(item.len());
        (item[..end].trim_ascii(), &item[end..])
    })
}

/// What an item's parameters say, in thousandths; `None` where it can't be read.
fn quality_of(parameters: &[u8]) -> Option<u16> {
    let weight = parameters.split(|b| *b == b';').map(<[u8]>::trim_ascii).find_map(|parameter| {
        let (name, value) = parameter.split_at_checked(2)?;
        name.eq_ignore_ascii_case(b"q=").then_some(value)
    });
    weight.map_or(Some(QUALITY_MAX), quality)
}

/// `0.75` as 750 (RFC 9110, 12.4.2).
fn quality(text: &[u8]) -> Option<u16> {
    let (whole, fraction) = text.split_first()?;
    let digits = match fraction {
        [] => fraction,
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    let thousandths = [100, 10, 1]
        .into_iter()
        .zip(digits)
        .try_fold(0, |sum, (unit, digit)| digit.is_ascii_digit().then(|| sum + unit * u16::from(digit - b'0')))?;
    match whole {
        b'0' => Some(thousandths),
        b'1' if thousandths == 0 => Some(QUALITY_MAX),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_the_one_that_is_wanted_most() {
        for (accept, format) in [
            ("", Format::Text),
            ("*/*", Format::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Format::Html),
            ("image/avif,image/webp,*/*;q=0.8", Format::Text),
            ("image/png", Format::Text),
            ("application/json, text/plain, */*", Format::Json),
            ("text/plain, application/json", Format::Text),
            ("application/problem+json", Format::Json),
            ("Application/Vnd.Api+JSON", Format::Json),
            ("application/*", Format::Json),
            ("text/*", Format::Text),
            ("text/html;q=0.1, */*", Format::Text),
            ("text/html;q=0, */*;q=0.1", Format::Text),
            ("text/plain;q=0, */*;q=0.1, text/html;level=1;q=0.3", Format::Html),
            ("text/html;q=0.5,application/json;q=0.6", Format::Json),
            ("text/html;q=nonsense,application/json;q=0.001", Format::Json),
            ("text/html;q=2, application/json;q=0.0001", Format::Text),
            (",,;;q=,text/html;Q=1.000,", Format::Html),
            ("application/", Format::Text),
        ] {
            assert_eq!(Format::wanted_by(accept.as_bytes()), format, "{accept}");
        }
    }

    fn chosen(lines: &[&str], offered: &[Coding]) -> Option<Coding> {
        let lines = lines.iter().map(|line| (ACCEPT_ENCODING, HeaderValue::from_str(line).unwrap()));
        Coding::wanted_by(&lines.collect(), offered)
    }

    #[test]
    fn the_coding_is_the_one_that_is_wanted_most_then_our_first() {
        const ALL: &[Coding] = &[Coding::Zstd, Coding::Brotli, Coding::Gzip];
        for (line, coding) in [
            ("gzip, deflate, br, zstd", Some(Coding::Zstd)),
            ("gzip, br", Some(Coding::Brotli)),
            ("gzip;q=1.0, br;q=0.9", Some(Coding::Gzip)),
            ("X-GZip", Some(Coding::Gzip)),
            ("*", Some(Coding::Zstd)),
            ("zstd;q=0, *;q=0.5", Some(Coding::Brotli)),
            ("*;q=0", None),
            ("*;q=0, gzip", Some(Coding::Gzip)),
            ("identity", None),
            ("identity;q=0", None),
            ("identity;q=0, gzip;q=0.1", Some(Coding::Gzip)),
            ("identity, gzip;q=0.5", None),
            ("identity, gzip", Some(Coding::Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=0.000", None),
            ("gzip;q=x", None),
            ("gzip;q=1.5", None),
            ("gzipped, brr, zst", None),
            (";;;,,q=1", None),
            ("", None),
        ] {
            assert_eq!(chosen(&[line], ALL), coding, "{line}");
        }
        assert_eq!(chosen(&["zstd", "br;q=0.1"], &[Coding::Gzip, Coding::Brotli]), Some(Coding::Brotli));
        assert_eq!(chosen(&[], ALL), None);
        assert_eq!(chosen(&["*"], &[]), None);
    }

    /// Lines made of the words that matter, and of noise.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let words = prop::sample::select(
            &[
                "gzip",
                "br",
                "zstd",
                "*",
                "*/*",
                "text/html",
                "application/json",
                "identity",
                ";q=",
                "q=0",
                "0.5",
                "1",
                "0.",
                ",",
                ";",
                " ",
                "\t",
                "/",
                "+json",
            ][..],
        );
        let word = prop_oneof![
            4 => words.prop_map(|word| word.as_bytes().to_vec()),
            1 => prop::collection::vec(0x20..=0xffu8, 0..4)
        ];
        prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn only_what_is_named_and_offered_is_chosen(line in line(), offered in 0..8u8) {
            let all = [Coding::Zstd, Coding::Brotli, Coding::Gzip];
            let offered: Vec<_> = (0..3).filter(|bit| offered & (1 << bit) != 0).map(|bit| all[bit]).collect();
            let names = |name: &str| line.windows(name.len()).any(|w| w.eq_ignore_ascii_case(name.as_bytes()));
            match Format::wanted_by(&line) {
                Format::Text => {}
                Format::Html => prop_assert!(names("text/html")),
                Format::Json => prop_assert!(names("json")),
            }
            if let Ok(value) = HeaderValue::from_bytes(&line)
                && let Some(chosen) = Coding::wanted_by(&HeaderMap::from_iter([(ACCEPT_ENCODING, value)]), &offered)
            {
                prop_assert!(offered.contains(&chosen));
                prop_assert!(names(chosen.name()) || line.contains(&b'*'));
            }
        }
    }
}
