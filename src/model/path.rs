//! What a path may mean to whoever reads it.
//!
//! An endpoint gets the path as it was received, and endpoints read paths in many ways: some decode twice, some take
//! `%2f` or `\` for `/`, some drop `;parameters`. Routing decides on one reading, the normal form, and a request whose
//! other readings would be decided differently is refused. So nothing gets to a service through a path that means
//! something else behind it.

use std::ops::ControlFlow;

/// Why a path is not acted upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathFault {
    /// It means nothing: a broken percent-encoding, an encoded NUL or overlong UTF-8, or a way out above the root.
    Bad,
    /// Its readings lead to different places.
    Ambiguous,
}

/// Whether everybody reads this path alike, so that it is its own normal form. Nearly every path is so.
#[must_use]
pub fn is_plain_path(path: &str) -> bool {
    let mut before = 0;
    for byte in path.bytes() {
        let odd = match byte {
            b'%' | b'\\' | b';' | 0x80.. => true,
            b'/' | b'.' => before == b'/',
            _ => false,
        };
        if odd {
            return false;
        }
        before = byte;
    }
    // "*" is OPTIONS for the whole server, and the empty path is CONNECT's.
    path.starts_with('/') || path == "*" || path.is_empty()
}

/// What `decide` says of the normal form of `path`, if it says the same of every other reading.
///
/// # Errors
/// When it doesn't, or the path means nothing.
pub fn decide_path<T: PartialEq>(path: &str, mut decide: impl FnMut(&str) -> T) -> Result<T, PathFault> {
    if is_plain_path(path) {
        return Ok(decide(path));
    }
    let decided = decide(&normal_path(path)?);
    let told = readings(path, |reading| {
        if decide(reading) == decided { ControlFlow::Continue(()) } else { ControlFlow::Break(PathFault::Ambiguous) }
    });
    told.map(|()| decided)
}

/// The normal form: what is percent-encoded without need is decoded, other percent-encodings are in upper case, and
/// dot segments are followed.
///
/// # Errors
/// When the path means nothing.
pub fn normal_path(path: &str) -> Result<String, PathFault> {
    if !path.starts_with('/') {
        return Err(PathFault::Bad);
    }
    follow_dots(&decode(path.as_bytes(), Taken::default())?).map(text)
}

/// What a reader may do with a path besides decoding it, as bits: any of them, or none.
/// `%2F` is `/`.
const TAKES_SLASHES: u8 = 1;
/// `\` and `%5C` are `/`.
const TAKES_BACKSLASHES: u8 = 2;
/// `%3B` is `;`.
const DROPS_PARAMETERS: u8 = 4;
/// `%3F` and `%23` end the path.
const TAKES_ENDS: u8 = 8;
const MERGES_SLASHES: u8 = 16;
const FOLLOWS_DOTS: u8 = 32;
const DOES_ALL: u8 = 63;

/// How a reader decodes.
#[derive(Debug, Default, Clone, Copy)]
struct Taken {
    /// Bits of what the reader does: those about characters say which are decoded, too, and taken for what they are.
    does: u8,
    /// `%25` is `%`, for another time of decoding.
    percents: bool,
    /// What is read was decoded before, so a `%` that encodes nothing stands for itself.
    again: bool,
}

impl Taken {
    fn takes(self, what: u8) -> bool {
        self.does & what > 0
    }
}

/// A path with more readings than these is refused for that alone: nobody writes one in good faith, and looking at
/// all of them would be work for nothing.
const READINGS_MAX: u32 = 64;
/// The same for all of its readings together: what a stranger may have us read for one request.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Shows all readings of `path`. Where it has nothing to disagree on, they are few.
fn readings(path: &str, mut show: impl FnMut(&str) -> ControlFlow<PathFault>) -> Result<(), PathFault> {
    // The most that anybody can see in it tells what there is to disagree on.
    let most = Taken { does: DOES_ALL, percents: true, again: false };
    let twice = |taken: Taken| decode(&decode(path.as_bytes(), taken)?, Taken { again: true, ..taken });
    let full = twice(most)?;
    let slashes = |text: &[u8]| text.iter().filter(|byte| **byte == b'/').count();
    let some_slashes = slashes(&twice(Taken { does: DOES_ALL & !TAKES_BACKSLASHES, ..most })?);
    let has = |byte: u8| full.contains(&byte);
    let has_pair = |pair: &[u8; 2]| full.windows(2).any(|found| found == pair);
    let mut possible = 0;
    for (any, does) in [
        (some_slashes != slashes(path.as_bytes()), TAKES_SLASHES),
        (slashes(&full) != some_slashes, TAKES_BACKSLASHES),
        (has(b';'), DROPS_PARAMETERS),
        (has(b'?') || has(b'#'), TAKES_ENDS),
        (has_pair(b"//") || has(b';'), MERGES_SLASHES),
        (has_pair(b"/."), FOLLOWS_DOTS),
    ] {
        possible |= if any { does } else { 0 };
    }
    let times = if path.contains("%25") { 2 } else { u32::from(path.contains('%')) };
    let readings = (times + 1) << possible.count_ones();
    if readings > READINGS_MAX || readings as usize * path.len() > READ_BYTES_MAX {
        return Err(PathFault::Ambiguous);
    }
    for times in 0..=times {
        for does in (0..=possible).filter(|does| does & !possible == 0) {
            if let ControlFlow::Break(fault) = show(&reading(path, times, does)?) {
                return Err(fault);
            }
        }
    }
    Ok(())
}

/// The path as it is read by who decodes it so many times and does these things.
fn reading(path: &str, times: u32, does: u8) -> Result<String, PathFault> {
    let taken = Taken { does, percents: false, again: false };
    let mut decoded = path.as_bytes().to_vec();
    if times == 0 {
        undecoded(&mut decoded, taken.takes(TAKES_BACKSLASHES));
    }
    for time in 1..=times {
        decoded = decode(&decoded, Taken { percents: time < times, again: time > 1, ..taken })?;
    }
    let mut left = Vec::with_capacity(decoded.len());
    let mut in_parameters = false;
    for byte in decoded {
        match byte {
            b'?' | b'#' if taken.takes(TAKES_ENDS) => break,
            b'/' => {
                in_parameters = false;
                if !(taken.takes(MERGES_SLASHES) && left.last() == Some(&b'/')) {
                    left.push(b'/');
                }
            }
            b';' if taken.takes(DROPS_PARAMETERS) => in_parameters = true,
            _ if in_parameters => {}
            byte => left.push(byte),
        }
    }
    if taken.takes(FOLLOWS_DOTS) { follow_dots(&left).map(text) } else { Ok(text(left)) }
}

/// Whoever doesn't decode gets the bytes; that percent-encodings mean the same in either case is for routes alone.
fn undecoded(path: &mut [u8], takes_backslashes: bool) {
    for at in 0..path.len() {
        match path[at] {
            b'%' => {
                let end = (at + 3).min(path.len());
                path[at..end].make_ascii_uppercase();
            }
            b'\\' if takes_backslashes => path[at] = b'/',
            _ => {}
        }
    }
}

/// One time of decoding. What can't stand in a path by itself stays encoded, or becomes so.
fn decode(path: &[u8], taken: Taken) -> Result<Vec<u8>, PathFault> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, tail @ ..] = rest {
        let code = if *byte == b'%' { code(tail) } else { None };
        let (byte, encoded) = match code {
            Some(code) => {
                rest = &tail[2..];
                (code, true)
            }
            None => {
                rest = tail;
                (*byte, false)
            }
        };
        match byte {
            0 => return Err(PathFault::Bad),
            b'%' if !encoded && !taken.again => return Err(PathFault::Bad),
            b'%' if !encoded => decoded.extend_from_slice(b"%25"),
            b'\\' if taken.takes(TAKES_BACKSLASHES) => decoded.push(b'/'),
            // No text has these bytes; they are slashes and dots in disguise.
            0xc0 | 0xc1 if continues(rest) => return Err(PathFault::Bad),
            _ if !encoded && byte.is_ascii() => decoded.push(byte),
            _ if is_taken(byte, taken) => decoded.push(byte),
            _ => decoded.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]),
        }
    }
    Ok(decoded)
}

/// The byte that the two digits behind a `%` stand for.
fn code(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    Some((digit(0)? << 4 | digit(1)?) as u8)
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Whether what follows, encoded or not, continues a character of UTF-8.
fn continues(rest: &[u8]) -> bool {
    match rest {
        [b'%', high, ..] => matches!(high, b'8' | b'9' | b'a' | b'b' | b'A' | b'B'),
        [byte, ..] => (0x80..0xc0).contains(byte),
        [] => false,
    }
}

/// Whether an encoded byte is taken for the character.
fn is_taken(byte: u8, taken: Taken) -> bool {
    match byte {
        b'/' => taken.takes(TAKES_SLASHES),
        b'\\' => taken.takes(TAKES_BACKSLASHES),
        b';' => taken.takes(DROPS_PARAMETERS),
        b'?' | b'#' => taken.takes(TAKES_ENDS),
        b'%' => taken.percents,
        _ => byte.is_ascii_graphic(),
    }
}

/// Follows `.` and `..` segments (RFC 3986, 5.2.4), but not above the root.
fn follow_dots(path: &[u8]) -> Result<Vec<u8>, PathFault> {
    let mut followed = Vec::with_capacity(path.len());
    let mut segments = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." => {}
            b".." => {
                let parent = followed.iter().rposition(|b| *b == b'/').ok_or(PathFault::Bad)?;
                followed.truncate(parent);
            }
            _ => {
                followed.push(b'/');
                followed.extend_from_slice(segment);
                continue;
            }
        }
        if last {
            followed.push(b'/');
        }
    }
    Ok(followed)
}

fn text(path: Vec<u8>) -> String {
    String::from_utf8(path).unwrap_or_else(|broken| String::from_utf8_lossy(broken.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_normal_form_decodes_what_needs_no_encoding_and_follows_dots() {
        for (path, normal) in [
            ("/a/b", "/a/b"),
            ("/%61pi/%7euser", "/api/~user"),
            ("/%40scope%2fname", "/@scope%2Fname"),
            ("/a%20b%c3%a4", "/a%20b%C3%A4"),
            ("/a/../b", "/b"),
            ("/a/./b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/a/..", "/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/...", "/a/..."),
            ("/a//../b", "/a/b"),
            ("/a;x/..;/b", "/a;x/..;/b"),
            ("/a%252e", "/a%252e"),
            ("/a\\..\\b", "/a\\..\\b"),
            ("//a//", "//a//"),
            ("/.", "/"),
            ("/.hidden", "/.hidden"),
        ] {
            assert_eq!(normal_path(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn a_path_that_means_nothing_is_bad() {
        for path in [
            "/..",
            "/../a",
            "/a/../../b",
            "/%2e%2e",
            "/a%00",
            "/a%0",
            "/a%",
            "/%zz",
            "/a%+1b",
            "/%c0%af",
            "/%C1%9c",
            "a/.",
            "/%c0%AE%c0%ae/a",
        ] {
            assert_eq!(normal_path(path), Err(PathFault::Bad), "{path}");
        }
        // Nor may any other reading mean nothing.
        for path in ["/..%2f..%2fetc", "/a/..;/..;/b", "/a\\..\\..\\b", "/%252e%252e/a", "/a%2500"] {
            assert_eq!(decide_path(path, |_| ()), Err(PathFault::Bad), "{path}");
        }
    }

    /// The service of two: what lies below /admin, and the rest.
    fn decided(path: &str) -> Result<&'static str, PathFault> {
        let below = |path: &str, prefix| {
            path.strip_prefix(prefix).is_some_and(|rest: &str| rest.is_empty() || rest.starts_with('/'))
        };
        decide_path(path, |reading| if below(reading, "/admin") { "admin" } else { "site" })
    }

    #[test]
    fn a_path_that_leads_to_two_places_is_ambiguous() {
        for path in [
            "/a/../admin",
            "/a/%2e%2e/admin",
            "/admin/../a",
            "//admin",
            "/a/..//admin",
            "/a/..%2fadmin",
            "/a/..%5cadmin",
            "/a\\..\\admin",
            "/\\admin",
            "/%5Cadmin",
            "/admin%2fx",
            "/admin;x=1",
            "/;x/admin",
            "/a/..;/admin",
            "/a/..%3b/admin",
            "/a/%252e%252e/admin",
            "/a/..%252fadmin",
            "/a/%25%32%65%252e/admin",
            "/%61dmin",
            "/%2561dmin",
            "/admin%3fx",
            "/admin%23x",
            "/./admin",
            "/admin%253fx",
            // Too many readings to look at.
            "/a/./b;c\\d%2fe%252ff%3fg",
            // Those who read all of it, or nothing, agree; those who read some of it don't.
            "/pub/%2e%2e%2fadmin/..;/pub",
        ] {
            assert_eq!(decided(path), Err(PathFault::Ambiguous), "{path}");
        }
    }

    #[test]
    fn an_odd_path_that_leads_to_one_place_goes_there() {
        for (path, service) in [
            ("/admin", "admin"),
            ("/admin/", "admin"),
            ("/admin/a%20b", "admin"),
            ("/admin/%c3%A4", "admin"),
            ("/admin/@scope%2fname", "admin"),
            ("/admin/x/../y", "admin"),
            ("/admin/a;v=1", "admin"),
            ("/admin/100%25", "admin"),
            ("/admin//x", "admin"),
            ("/adminx%2f", "site"),
            ("/a//b", "site"),
            ("/a/./b%2fe%3fg", "site"),
            ("/a/./b\\c;d", "site"),
            ("/Admin%20", "site"),
            ("*", "site"),
            ("", "site"),
        ] {
            assert_eq!(decided(path), Ok(service), "{path}");
        }
    }

    #[test]
    fn an_odd_path_is_read_as_often_as_its_length_allows() {
        let odd = |length: usize| format!("/a/%2e/%5c;x//%3f{}", "%61".repeat(length / 3));
        assert_eq!(decide_path(&odd(300), |_| ()), Ok(()));
        assert_eq!(decide_path(&odd(6000), |_| ()), Err(PathFault::Ambiguous));
        assert_eq!(decide_path(&format!("/{}", "%61".repeat(2000)), |_| ()), Ok(()));
    }

    #[test]
    fn a_plain_path_is_one_that_everybody_reads_alike() {
        for path in ["/", "/a/b.c/d", "/a..b/c.", "/~user/@x:y", "*", ""] {
            assert!(is_plain_path(path), "{path}");
        }
        for path in ["/%41", "/a;b", "/a\\b", "//", "/a//b", "/.", "/a/./b", "/a/.b", "/\u{e4}", "a", "**"] {
            assert!(!is_plain_path(path), "{path}");
        }
    }

    /// Pieces that odd paths are made of.
    fn path() -> impl Strategy<Value = String> {
        let pieces = [
            "/", "/", "//", ".", "..", "/..", "/../", "/.", "a", "admin", "%2e", "%2F", "%5c", "\\", ";", "%3b", "%25",
            "%252e", "%252F", "%3F", "%41", "%c3%a4", "%20", "%00", "%", "~", "@",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..12)
            .prop_map(|pieces| "/".to_owned() + &pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_normal_form_is_its_own_and_never_longer(path in path()) {
            if let Ok(normal) = normal_path(&path) {
                prop_assert!(normal.len() <= path.len() && normal.starts_with('/'), "{normal}");
                prop_assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")), "{normal}");
                prop_assert_eq!(normal_path(&normal), Ok(normal));
            }
        }

        #[test]
        fn nobody_reads_a_plain_path_differently(path in "/[!-\"$->@-~]{0,12}(/[a-z.]{0,4}){0,4}") {
            if is_plain_path(&path) {
                prop_assert_eq!(normal_path(&path), Ok(path.clone()));
                let read = readings(&path, |reading| {
                    if reading == path { ControlFlow::Continue(()) } else { ControlFlow::Break(PathFault::Ambiguous) }
                });
                prop_assert_eq!(read, Ok(()));
            }
        }

        /// The readings of the servers that people run, each by itself, and none of them finds what routing didn't.
        #[test]
        fn what_goes_to_the_site_is_admin_to_no_server(path in path()) {
            if decided(&path) == Ok("site") {
                for times in 0..3 {
                    for does in 0..8u8 {
                        let read = served(&path, times, does);
                        prop_assert!(read != "/admin" && !read.starts_with("/admin/"), "{path} is {read}");
                    }
                }
            }
        }
    }

    /// A server of its own, written the plain way.
    fn served(path: &str, times: usize, does: u8) -> String {
        let mut path = path.split('?').next().unwrap().to_owned();
        for _ in 0..times {
            let mut decoded = Vec::new();
            let mut rest = path.as_bytes();
            while let [byte, tail @ ..] = rest {
                rest = tail;
                let code = tail.get(..2).and_then(|code| std::str::from_utf8(code).ok());
                match code.and_then(|code| u8::from_str_radix(code, 16).ok()).filter(|_| *byte == b'%') {
                    Some(code) => {
                        decoded.push(code);
                        rest = &tail[2..];
                    }
                    None => decoded.push(*byte),
                }
            }
            path = String::from_utf8_lossy(&decoded).into_owned();
        }
        if does & 1 > 0 {
            path = path.replace('\\', "/");
        }
        let mut segments: Vec<&str> = path.split('/').skip(1).collect();
        if does & 2 > 0 {
            segments = segments.into_iter().map(|segment| segment.split(';').next().unwrap()).collect();
        }
        if does & 4 > 0 {
            segments.retain(|segment| !segment.is_empty());
        }
        let mut followed: Vec<&str> = Vec::new();
        for segment in segments {
            match segment {
                "." => {}
                ".." => drop(followed.pop()),
                segment => followed.push(segment),
            }
        }
        "/".to_owned() + &followed.join("/")
    }
}
