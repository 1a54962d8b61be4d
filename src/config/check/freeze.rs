//! When nothing goes toward a new release.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

use super::{Check, Fault, unless_reported};
use crate::config::file::{FreezeFile, WeekdayFile};
use crate::config::freeze::FreezeWindow;
use crate::config::key_path::KeyPath;

impl Check<'_, '_> {
    pub(super) fn freeze(&mut self, at: &KeyPath, file: &FreezeFile) -> Option<FreezeWindow> {
        if file.weekdays.is_none() && file.dates.is_none() && file.hours.is_none() {
            let hint = "say when: weekdays = [\"fri\"], dates = [\"2026-12-24\"] or hours = \"16:00-24:00\"";
            self.report.absent(at, "nothing would ever be released", hint);
        }
        let zone = file.time_zone.as_ref().map(|text| self.accept(&at.key("time_zone"), zone(text)));
        let dates = file.dates.as_ref().map(|texts| self.accept(&at.key("dates"), dates(texts)));
        let hours = file.hours.as_ref().map(|text| self.accept(&at.key("hours"), hours(text)));
        Some(FreezeWindow {
            zone: unless_reported(zone)?.unwrap_or(TimeZone::UTC),
            weekdays: file.weekdays.iter().flatten().map(|day| weekday(*day)).collect(),
            dates: unless_reported(dates)?,
            minutes: unless_reported(hours)?.unwrap_or(FreezeWindow::ALL_DAY),
        })
    }
}

fn weekday(file: WeekdayFile) -> Weekday {
    match file {
        WeekdayFile::Mon => Weekday::Monday,
        WeekdayFile::Tue => Weekday::Tuesday,
        WeekdayFile::Wed => Weekday::Wednesday,
        WeekdayFile::Thu => Weekday::Thursday,
        WeekdayFile::Fri => Weekday::Friday,
        WeekdayFile::Sat => Weekday::Saturday,
        WeekdayFile::Sun => Weekday::Sunday,
    }
}

fn zone(text: &str) -> Result<TimeZone, Fault> {
    let hint = "write a name of the IANA time zone database, like \"Europe/Berlin\" or \"UTC\"";
    TimeZone::get(text).map_err(|_| Fault::new(format!("{text:?} is no time zone"), hint))
}

fn dates(texts: &[String]) -> Result<(Date, Date), Fault> {
    let hint = "write first and last day like [\"2026-12-20\", \"2027-01-02\"], or one day like [\"2026-12-24\"]";
    let date = |text: &String| text.parse().map_err(|_| Fault::new(format!("{text:?} is no date"), hint));
    let (first, last) = match texts {
        [day] => (day, day),
        [first, last] => (first, last),
        _ => return Err(Fault::new(format!("{} dates are no first and last day", texts.len()), hint)),
    };
    let (from, to): (Date, Date) = (date(first)?, date(last)?);
    if from > to {
        return Err(Fault::new(format!("{last} comes before {first}"), hint));
    }
    Ok((from, to))
}

/// "16:00-24:00"
fn hours(text: &str) -> Result<(u16, u16), Fault> {
    let hint = "write them like \"16:00-24:00\"; what goes past midnight is two windows";
    let refuse = || Fault::new(format!("{text:?} are no hours of a day"), hint);
    let minutes = |clock: &str| {
        let (hour, minute) = clock.trim().split_once(':')?;
        let number = |digits: &str| digits.parse::<u16>().ok().filter(|_| digits.len() == 2);
        let (hour, minute) = (number(hour)?, number(minute)?);
        (hour < 24 && minute < 60 || hour == 24 && minute == 0).then_some(hour * 60 + minute)
    };
    let (from, to) = text.split_once('-').and_then(|(from, to)| minutes(from).zip(minutes(to))).ok_or_else(refuse)?;
    if from < to { Ok((from, to)) } else { Err(refuse()) }
}
