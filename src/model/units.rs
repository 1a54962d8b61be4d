//! Durations and sizes as people write them in proxy.toml and on the command line: `250ms`, `30s`, `1h30m`, `2d`;
//! `512B`, `64KiB`, `10MiB`, `1GiB`.

use std::fmt;
use std::time::{Duration, SystemTime};

/// The longest duration accepted: a year. Longer ones are typing errors, and the bound keeps sums of instants safe.
const DURATION_MAX: Duration = Duration::from_hours(366 * 24);

/// The largest size accepted: a petabyte. Larger ones are typing errors, and the bound keeps sums from overflowing.
const BYTES_MAX: u64 = 1 << 50;

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitError {
    Empty,
    NoUnit(String),
    Unit(String),
    Fraction,
    TooLong,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a duration is a number and a unit, like \"30s\""),
            Self::NoUnit(number) => write!(f, "{number:?} has no unit; write \"{number}s\" for seconds"),
            Self::Unit(unit) => write!(f, "{unit:?} is no unit of time; use ms, s, m, h or d"),
            Self::Fraction => write!(f, "durations are whole numbers: write \"200ms\" for 0.2 s, \"90s\" for 1.5 m"),
            Self::TooLong => write!(f, "durations go up to a year (366d)"),
        }
    }
}

impl std::error::Error for UnitError {}

/// Reads one or more number-unit pairs, as in `1h30m`. `0` needs no unit.
///
/// # Errors
/// When a number or unit is missing or unknown, or the sum is above a year.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(if unit.is_empty() { UnitError::Empty } else { UnitError::Unit(rest.to_owned()) });
        }
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "" if tail.starts_with(['.', ',']) => return Err(UnitError::Fraction),
            "" if tail.is_empty() => return Err(UnitError::NoUnit(number.to_owned())),
            "" => return Err(UnitError::Unit(tail.to_owned())),
            unknown => return Err(UnitError::Unit(unknown.to_owned())),
        };
        let number: u64 = number.parse().map_err(|_| UnitError::TooLong)?;
        let part = Duration::from_millis(number.checked_mul(unit_ms).ok_or(UnitError::TooLong)?);
        total = total.checked_add(part).filter(|sum| *sum <= DURATION_MAX).ok_or(UnitError::TooLong)?;
        rest = tail.trim_start();
    }
    if text.trim().is_empty() { Err(UnitError::Empty) } else { Ok(total) }
}

/// Writes a duration so that [`parse_duration`] reads it back, to the millisecond.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest_ms = duration.as_millis();
    if rest_ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        let count = rest_ms / unit_ms;
        if count > 0 {
            text += &format!("{count}{unit}");
            rest_ms %= unit_ms;
        }
    }
    text
}

/// Reads a moment as RFC 3339 writes it: `2026-11-21T13:52:55Z`, with fractions of a second if need be, or with another
/// zone's offset. `None` when it is none.
#[must_use]
pub fn parse_timestamp(text: &str) -> Option<SystemTime> {
    const SECONDS_MAX: u64 = 24 * 3600;
    if let Ok(at) = humantime::parse_rfc3339(text) {
        return Some(at);
    }
    // Git and most others write the zone they are in.
    let at = text.len().checked_sub("+00:00".len())?;
    let (local, offset) = (text.get(..at)?, text.get(at..)?);
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let seconds = digits(hours)? * 3600 + digits(minutes)? * 60;
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok().filter(|_| seconds < SECONDS_MAX)?;
    match offset.as_bytes().first()? {
        b'+' => local.checked_sub(Duration::from_secs(seconds)),
        b'-' => local.checked_add(Duration::from_secs(seconds)),
        _ => None,
    }
}

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SizeError {
    Empty,
    NoUnit(String),
    Unit(String),
    Fraction,
    TooLarge,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "a size is a number and a unit, like \"64KiB\""),
            Self::NoUnit(number) => write!(f, "{number:?} has no unit; write \"{number}B\" for bytes"),
            Self::Unit(unit) => {
                write!(f, "{unit:?} is no unit of size; use B, KiB, MiB, GiB or TiB (or kB, MB, GB, TB)")
            }
            Self::Fraction => write!(f, "sizes are whole numbers: write \"1536KiB\" for 1.5 MiB"),
            Self::TooLarge => write!(f, "sizes go up to a petabyte (1024TiB)"),
        }
    }
}

impl std::error::Error for SizeError {}

/// Reads a number of bytes with its unit, as in `64KiB`. `0` needs no unit.
///
/// # Errors
/// When the number or the unit is missing or unknown, or the size is above a petabyte.
pub fn parse_bytes(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    if text == "0" {
        return Ok(0);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_bytes: u64 = match unit.trim_start() {
        unit if number.is_empty() => {
            return Err(if unit.is_empty() { SizeError::Empty } else { SizeError::Unit(unit.to_owned()) });
        }
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "" => return Err(SizeError::NoUnit(number.to_owned())),
        unit if unit.starts_with(['.', ',']) => return Err(SizeError::Fraction),
        unknown => return Err(SizeError::Unit(unknown.to_owned())),
    };
    let number: u64 = number.parse().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(unit_bytes).filter(|bytes| *bytes <= BYTES_MAX).ok_or(SizeError::TooLarge)
}

/// Writes a size so that [`parse_bytes`] reads it back, in the largest binary unit that needs no fraction.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    let units = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, size)| bytes >= *size && bytes.is_multiple_of(*size));
    let (unit, size) = unit.unwrap_or(("B", 1));
    format!("{}{unit}", bytes / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_any_zone_and_nothing_else_is() {
        let at = parse_timestamp("2026-11-21T13:52:55Z").unwrap();
        for same in ["2026-11-21T14:52:55+01:00", "2026-11-21T09:22:55-04:30", "2026-11-21T13:52:55.000Z"] {
            assert_eq!(parse_timestamp(same), Some(at), "{same}");
        }
        for wrong in [
            "",
            "yesterday",
            "2026-11-21",
            "2026-11-21T13:52:55",
            "2026-11-21T13:52:55+25:00",
            "+01:00",
            "\u{e9}+01:00",
        ] {
            assert_eq!(parse_timestamp(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them_and_print_back() {
        for (text, ms, printed) in [
            ("250ms", 250, "250ms"),
            ("30s", 30_000, "30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("1m 30s", 90_000, "1m30s"),
            ("90s", 90_000, "1m30s"),
            ("30d", 2_592_000_000, "30d"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration.as_millis(), ms, "{text}");
            assert_eq!(format_duration(duration), printed);
        }
    }

    #[test]
    fn a_duration_that_could_mean_two_things_is_refused() {
        assert_eq!(parse_duration("30"), Err(UnitError::NoUnit("30".into())));
        assert_eq!(parse_duration(""), Err(UnitError::Empty));
        assert_eq!(parse_duration("5min"), Err(UnitError::Unit("min".into())));
        assert_eq!(parse_duration("1.5s"), Err(UnitError::Fraction));
        assert!(parse_duration("-1s").is_err());
        assert!(parse_duration("s").is_err());
        assert_eq!(parse_duration("99999999999999999999s"), Err(UnitError::TooLong));
        assert_eq!(parse_duration("400d"), Err(UnitError::TooLong));
    }

    #[test]
    fn sizes_read_as_people_write_them_and_print_back() {
        for (text, bytes, printed) in [
            ("512B", 512, "512B"),
            ("64KiB", 65_536, "64KiB"),
            ("10 MiB", 10_485_760, "10MiB"),
            ("1500kB", 1_500_000, "1500000B"),
            ("1GiB", 1 << 30, "1GiB"),
            ("0", 0, "0B"),
            ("0B", 0, "0B"),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
            assert_eq!(format_bytes(bytes), printed);
            assert_eq!(parse_bytes(printed), Ok(bytes));
        }
    }

    #[test]
    fn a_size_that_could_mean_two_things_is_refused() {
        assert_eq!(parse_bytes("64"), Err(SizeError::NoUnit("64".into())));
        assert_eq!(parse_bytes("64K"), Err(SizeError::Unit("K".into())));
        assert_eq!(parse_bytes("KiB"), Err(SizeError::Unit("KiB".into())));
        assert_eq!(parse_bytes(""), Err(SizeError::Empty));
        assert_eq!(parse_bytes("1.5MiB"), Err(SizeError::Fraction));
        assert!(parse_bytes("-1B").is_err());
        assert_eq!(parse_bytes("2000TiB"), Err(SizeError::TooLarge));
        assert_eq!(parse_bytes("99999999999999999999B"), Err(SizeError::TooLarge));
    }
}
