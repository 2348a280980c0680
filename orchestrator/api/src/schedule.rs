//! A CronJob's schedule: five cron fields or a macro, read as Kubernetes reads them, and the moments that it names in a
//! time zone. Pure: the zones' rules are compiled in.

use jiff::civil::{Date, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A schedule that names no moment within so many days names none.
const HORIZON_DAYS: i32 = 5 * 366;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// When something is to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the moments that match all fields.
    Fields(Fields),
    /// `@every 90m`: so many seconds apart.
    Every(i64),
}

/// The moments of each field, a bit for each number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// The day of the month and of the week must both match, because one of them says "any".
    both_days: bool,
}

/// One field's bits, and whether it is a plain star.
type Field = (u64, bool);

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.starts_with("TZ=") || text.starts_with("CRON_TZ=") {
            return Err("cannot use TZ or CRON_TZ in schedule, use timeZone field instead".into());
        }
        let fields = match text.strip_prefix('@') {
            None => text,
            Some("yearly" | "annually") => "0 0 1 1 *",
            Some("monthly") => "0 0 1 * *",
            Some("weekly") => "0 0 * * 0",
            Some("daily" | "midnight") => "0 0 * * *",
            Some("hourly") => "0 * * * *",
            Some(other) => {
                let duration = other
                    .strip_prefix("every ")
                    .ok_or_else(|| format!("unrecognized descriptor: {text}"))?;
                return every(duration.trim());
            }
        };
        let words: Vec<&str> = fields.split_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = words.as_slice() else {
            let found = words.len();
            return Err(format!(
                "expected exactly 5 fields, found {found}: {fields}"
            ));
        };
        let (days, any_day) = field(days, 1, 31, &[])?;
        let (weekdays, any_weekday) = field(weekdays, 0, 6, &WEEKDAYS)?;
        Ok(Self::Fields(Fields {
            minutes: field(minutes, 0, 59, &[])?.0,
            hours: field(hours, 0, 23, &[])?.0,
            days,
            months: field(months, 1, 12, &MONTHS)?.0,
            weekdays,
            both_days: any_day || any_weekday,
        }))
    }

    /// The first moment later than `after`, by the clocks of `zone`. Moments that a clock change skips do not happen,
    /// those that it repeats happen twice. `None` when there is none within five years.
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(seconds) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::from_secs(*seconds)).ok()
            }
            Self::Fields(fields) => fields.next_after(after, zone),
        }
    }
}

impl Fields {
    fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut date = after.to_zoned(zone.clone()).date();
        for _ in 0..HORIZON_DAYS {
            if self.has_day(date) {
                let found = self.on_day(date, after, zone);
                if found.is_some() {
                    return found;
                }
            }
            date = date.checked_add(1.day()).ok()?;
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let bit = |bits: u64, number: i8| bits >> number & 1 == 1;
        let day = bit(self.days, date.day());
        let weekday = bit(self.weekdays, date.weekday().to_sunday_zero_offset());
        let days = if self.both_days {
            day && weekday
        } else {
            day || weekday
        };
        bit(self.months, date.month()) && days
    }

    /// The first moment of `date` later than `after`.
    fn on_day(&self, date: Date, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let offset = |time| zone.to_ambiguous_timestamp(date.to_datetime(time)).offset();
        let even = offset(Time::midnight()) == offset(Time::constant(23, 59, 59, 0));
        let mut first = None;
        for time in self.times() {
            for moment in moments(date, time, zone).into_iter().flatten() {
                if moment > after {
                    first = Some(first.map_or(moment, |first: Timestamp| first.min(moment)));
                }
            }
            // Without a clock change on that day, later times are later moments.
            if even && first.is_some() {
                break;
            }
        }
        first
    }

    fn times(&self) -> impl Iterator<Item = Time> + use<> {
        let (hours, minutes) = (self.hours, self.minutes);
        let hours = (0..24i8).filter(move |hour| hours >> hour & 1 == 1);
        hours.flat_map(move |hour| {
            let minutes = (0..60i8).filter(move |minute| minutes >> minute & 1 == 1);
            minutes.map(move |minute| Time::constant(hour, minute, 0, 0))
        })
    }
}

/// The moments that a clock shows this time on this day: none, one or two.
fn moments(date: Date, time: Time, zone: &TimeZone) -> [Option<Timestamp>; 2] {
    let local = date.to_datetime(time);
    let at = |offset: jiff::tz::Offset| offset.to_timestamp(local).ok();
    match zone.to_ambiguous_timestamp(local).offset() {
        AmbiguousOffset::Unambiguous { offset } => [at(offset), None],
        AmbiguousOffset::Gap { .. } => [None, None],
        AmbiguousOffset::Fold { before, after } => [at(before), at(after)],
    }
}

/// `1h30m`, in whole seconds, at least one.
fn every(text: &str) -> Result<Schedule, String> {
    let bad = || format!("failed to parse duration @every {text}");
    let (mut seconds, mut rest) = (0f64, text);
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let after = &rest[digits..];
        let end = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        seconds += number
            * match &after[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return Err(bad()),
            };
        rest = &after[end..];
    }
    if seconds.is_nan() || seconds > 1e9 {
        return Err(bad());
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bounded above, rounded down on purpose"
    )]
    let whole = seconds.max(1.0) as i64;
    Ok(Schedule::Every(whole))
}

fn field(text: &str, least: u32, most: u32, names: &[&str]) -> Result<Field, String> {
    let (mut bits, mut star) = (0, false);
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (part_bits, part_star) = range(part, least, most, names)?;
        bits |= part_bits;
        star |= part_star;
    }
    if bits == 0 {
        return Err(format!("no value in {text:?}"));
    }
    Ok((bits, star))
}

/// `*`, `7`, `mon-fri`, `*/5`, `10/5`, `10-30/5`.
fn range(text: &str, least: u32, most: u32, names: &[&str]) -> Result<Field, String> {
    let number = |word: &str| -> Result<u32, String> {
        let named = names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(word));
        let named = named.and_then(|index| u32::try_from(index).ok());
        match named {
            Some(index) => Ok(index + least),
            None => word
                .parse()
                .map_err(|_| format!("failed to parse int from {word:?} in {text:?}")),
        }
    };
    let (span, step) = match text.split_once('/') {
        Some((span, step)) => (span, Some(number(step)?)),
        None => (text, None),
    };
    let star = span == "*" || span == "?";
    let (first, last) = match span.split_once('-') {
        _ if star => (least, most),
        Some((first, last)) => (number(first)?, number(last)?),
        None if step.is_some() => (number(span)?, most),
        None => (number(span)?, number(span)?),
    };
    if first < least {
        return Err(format!(
            "beginning of range ({first}) below minimum ({least}): {text}"
        ));
    }
    if last > most {
        return Err(format!(
            "end of range ({last}) above maximum ({most}): {text}"
        ));
    }
    if first > last {
        return Err(format!(
            "beginning of range ({first}) beyond end of range ({last}): {text}"
        ));
    }
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let numbers = (first..=last).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    let bits = numbers.fold(0, |bits, number| bits | 1u64 << number);
    Ok((bits, star && step == 1))
}

/// The time zone of this name from the compiled-in IANA database; UTC for an empty one.
///
/// # Errors
/// A sentence when there is none.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() || name == "UTC" || name == "Etc/UTC" {
        return Ok(TimeZone::UTC);
    }
    if name.eq_ignore_ascii_case("local") {
        return Err(
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
                .into(),
        );
    }
    jiff::tz::db()
        .get(name)
        .map_err(|_| format!("unknown time zone {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The next moments of a schedule.
    fn check(schedule: &str, zone: &str, after: &str, expect: &[&str]) {
        let (parsed, zone) = (Schedule::parse(schedule).unwrap(), time_zone(zone).unwrap());
        let mut moment: Timestamp = after.parse().unwrap();
        for expect in expect {
            moment = parsed.next_after(moment, &zone).unwrap();
            assert_eq!(moment.to_string(), *expect, "{schedule} after {after}");
        }
    }

    #[test]
    fn fields_name_moments() {
        let start = "2026-01-30T22:58:30Z";
        check(
            "* * * * *",
            "",
            start,
            &["2026-01-30T22:59:00Z", "2026-01-30T23:00:00Z"],
        );
        check(
            "*/20 9-10 * * *",
            "",
            start,
            &["2026-01-31T09:00:00Z", "2026-01-31T09:20:00Z"],
        );
        check(
            "0 0 31 * *",
            "",
            start,
            &["2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"],
        );
        check(
            "0 12 * feb mon-wed",
            "",
            start,
            &["2026-02-02T12:00:00Z", "2026-02-03T12:00:00Z"],
        );
        check(
            "0 0 13 * 5",
            "",
            start,
            &["2026-02-06T00:00:00Z", "2026-02-13T00:00:00Z"],
        );
        check("0 0 29 2 *", "", start, &["2028-02-29T00:00:00Z"]);
        check(
            "@weekly",
            "",
            start,
            &["2026-02-01T00:00:00Z", "2026-02-08T00:00:00Z"],
        );
        check("@every 1h30m", "", start, &["2026-01-31T00:28:30Z"]);
        assert_eq!(
            Schedule::parse("0 0 31 2 *")
                .unwrap()
                .next_after(start.parse().unwrap(), &TimeZone::UTC),
            None
        );
    }

    #[test]
    fn zones_keep_their_clock_changes() {
        // New York: 2026-03-08 has no 02:30, 2026-11-01 has two 01:30.
        check(
            "30 2 * * *",
            "America/New_York",
            "2026-03-07T12:00:00Z",
            &["2026-03-09T06:30:00Z"],
        );
        check(
            "30 1 * * *",
            "America/New_York",
            "2026-10-31T12:00:00Z",
            &[
                "2026-11-01T05:30:00Z",
                "2026-11-01T06:30:00Z",
                "2026-11-02T06:30:00Z",
            ],
        );
        check(
            "0 9 * * *",
            "Asia/Tokyo",
            "2026-01-01T00:00:00Z",
            &["2026-01-02T00:00:00Z"],
        );
        assert!(time_zone("Mars/Olympus").is_err() && time_zone("Local").is_err());
    }

    #[test]
    fn nonsense_is_named() {
        for (text, part) in [
            ("", "5 fields"),
            ("* * * *", "5 fields"),
            ("60 * * * *", "above maximum"),
            ("* * 0 * *", "below minimum"),
            ("5-1 * * * *", "beyond end"),
            ("*/0 * * * *", "positive"),
            ("a * * * *", "parse int"),
            ("* * * * 7", "above maximum"),
            ("TZ=UTC * * * * *", "timeZone field"),
            ("@never", "descriptor"),
            ("@every x", "duration"),
        ] {
            let found = Schedule::parse(text).unwrap_err();
            assert!(found.contains(part), "{text}: {found}");
        }
    }

    proptest! {
        #[test]
        fn moments_follow_each_other(minute in 0..60u32, hour in 0..24u32, start in 0..2_000_000_000i64) {
            let zone = time_zone("Europe/Berlin").unwrap();
            let schedule = Schedule::parse(&format!("{minute} {hour} * * *")).unwrap();
            let start = Timestamp::from_second(start).unwrap();
            let next = schedule.next_after(start, &zone).unwrap();
            prop_assert!(next > start && next.as_second() - start.as_second() <= 49 * 3600);
            let local = next.to_zoned(zone);
            prop_assert_eq!((local.hour(), local.minute(), local.second()), (hour as i8, minute as i8, 0));
        }

        #[test]
        fn any_text_is_answered(text in "[*/0-9,a-z@ -]{0,20}") {
            if let Ok(schedule) = Schedule::parse(&text) {
                let _ = schedule.next_after(Timestamp::UNIX_EPOCH, &TimeZone::UTC);
            }
        }
    }
}
