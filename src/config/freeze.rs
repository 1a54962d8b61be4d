//! When nothing goes toward a new release: parts of a week, or of a year, in somebody's time zone.

use std::fmt;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

/// Minutes of a day.
const DAY_MINUTES: u16 = 24 * 60;

/// All of it must hold.
#[derive(Debug, Clone, PartialEq)]
pub struct FreezeWindow {
    pub zone: TimeZone,
    /// Empty: every day.
    pub weekdays: Vec<Weekday>,
    /// First and last day; `None`: all year.
    pub dates: Option<(Date, Date)>,
    /// Minutes of the day, the latter exclusive.
    pub minutes: (u16, u16),
}

impl FreezeWindow {
    /// The whole day.
    pub const ALL_DAY: (u16, u16) = (0, DAY_MINUTES);

    /// Whether it is frozen at that moment. A time that the calendar doesn't know is frozen.
    #[must_use]
    pub fn holds(&self, now: SystemTime) -> bool {
        let Ok(now) = Timestamp::try_from(now) else { return true };
        let local = now.to_zoned(self.zone.clone()).datetime();
        let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
        (self.weekdays.is_empty() || self.weekdays.contains(&local.weekday()))
            && self.dates.is_none_or(|(first, last)| (first..=last).contains(&local.date()))
            && (self.minutes.0..self.minutes.1).contains(&minute)
    }
}

/// For people: `fri, 16:00-24:00, Europe/Berlin`.
impl fmt::Display for FreezeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        if !self.weekdays.is_empty() {
            parts.push(self.weekdays.iter().map(|day| short(*day)).collect::<Vec<_>>().join(" "));
        }
        if let Some((first, last)) = self.dates {
            parts.push(if first == last { first.to_string() } else { format!("{first} to {last}") });
        }
        if self.minutes != Self::ALL_DAY {
            let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
            parts.push(format!("{}-{}", clock(self.minutes.0), clock(self.minutes.1)));
        }
        parts.push(self.zone.iana_name().unwrap_or("UTC").to_owned());
        f.write_str(&parts.join(", "))
    }
}

/// As the file has it.
fn short(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "mon",
        Weekday::Tuesday => "tue",
        Weekday::Wednesday => "wed",
        Weekday::Thursday => "thu",
        Weekday::Friday => "fri",
        Weekday::Saturday => "sat",
        Weekday::Sunday => "sun",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        text.parse::<Timestamp>().unwrap().into()
    }

    fn window(zone: &str) -> FreezeWindow {
        let zone = TimeZone::get(zone).unwrap();
        FreezeWindow { zone, weekdays: Vec::new(), dates: None, minutes: FreezeWindow::ALL_DAY }
    }

    #[test]
    fn a_friday_afternoon_is_one_by_the_clocks_of_its_zone_in_summer_and_in_winter() {
        let friday =
            FreezeWindow { weekdays: vec![Weekday::Friday], minutes: (16 * 60, 1440), ..window("Europe/Berlin") };
        assert_eq!(friday.to_string(), "fri, 16:00-24:00, Europe/Berlin");
        // Winter: an hour ahead of UTC. Summer: two.
        let frozen = ["2026-11-20T15:00:00Z", "2026-11-20T22:59:59Z", "2026-07-24T14:00:00Z", "2026-07-24T21:59:59Z"];
        let free = ["2026-11-20T14:59:59Z", "2026-11-20T23:00:00Z", "2026-07-24T13:59:59Z", "2026-07-24T22:00:00Z"];
        assert!(frozen.iter().all(|time| friday.holds(at(time))));
        assert!(!free.iter().any(|time| friday.holds(at(time))));
    }

    #[test]
    fn dates_are_whole_days_first_and_last_included() {
        let date = |text: &str| text.parse::<Date>().unwrap();
        let days = FreezeWindow { dates: Some((date("2026-12-20"), date("2027-01-02"))), ..window("Asia/Tokyo") };
        assert_eq!(days.to_string(), "2026-12-20 to 2027-01-02, Asia/Tokyo");
        assert!(days.holds(at("2026-12-19T15:00:00Z")) && days.holds(at("2027-01-02T14:59:59Z")));
        assert!(!days.holds(at("2026-12-19T14:59:59Z")) && !days.holds(at("2027-01-02T15:00:00Z")));
        assert!(window("UTC").holds(at("2026-01-01T00:00:00Z")));
    }
}
