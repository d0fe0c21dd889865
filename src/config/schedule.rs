//! When a cron trigger ticks: the schedules of the Go processor's parser, evaluated by `croner`.
//!
//! What is ours is the front end: five or six fields, descriptors, time zones, the words of the errors. Every field is
//! checked and written anew with plain numbers, so that both parsers mean the same. Nothing here waits or reads a
//! clock.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::duration::GoDuration;

/// A schedule that has no time within this many days never ticks, as far as anybody cares.
const HORIZON_DAYS: i64 = 5 * 366;
/// Shortest `@every`.
const EVERY_SECONDS_MIN: i64 = 1;

/// A schedule in its time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    text: String,
    rule: Rule,
}

#[derive(Debug, Clone)]
enum Rule {
    /// Fields of the clock in a time zone.
    Clock(Box<Cron>, TimeZone),
    /// `@every`: whole seconds, on the second.
    Every(SignedDuration),
}

/// Text that is no schedule. Displays as the Go processor's parser does where it refuses too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ScheduleError(String);

fn wrong<T>(message: impl Into<String>) -> Result<T, ScheduleError> {
    Err(ScheduleError(message.into()))
}

impl Schedule {
    /// Reads a schedule; `local` is the zone of those that name none.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, local: &TimeZone) -> Result<Self, ScheduleError> {
        let (zone, rest) = split_zone(text.trim(), local)?;
        if rest.is_empty() {
            return wrong("empty spec string");
        }
        let fields = match rest.strip_prefix('@') {
            Some(name) => match descriptor(name, rest)? {
                Descriptor::Every(every) => {
                    return Ok(Self { text: text.to_owned(), rule: Rule::Every(every) });
                }
                Descriptor::Fields(fields) => fields.to_owned(),
            },
            None => plain_fields(rest)?,
        };
        let parser = CronParser::builder().seconds(Seconds::Required).year(Year::Disallowed).build();
        let cron = parser.parse(&fields).map_err(|error| ScheduleError(error.to_string()))?;
        Ok(Self { text: text.to_owned(), rule: Rule::Clock(Box::new(cron), zone) })
    }

    /// As written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The first tick after `from`; `None` when there is none within five years. A time that daylight saving skips
    /// comes at the end of the gap, one that it repeats comes once.
    pub fn next_after(&self, from: Timestamp) -> Option<Timestamp> {
        match &self.rule {
            Rule::Every(every) => {
                let whole = Timestamp::from_second(from.as_second()).ok()?;
                whole.checked_add(*every).ok()
            }
            Rule::Clock(cron, zone) => {
                let next = cron.find_next_occurrence(&from.to_zoned(zone.clone()), false).ok()?.timestamp();
                let horizon = from.checked_add(SignedDuration::from_hours(24 * HORIZON_DAYS)).ok()?;
                (next <= horizon).then_some(next)
            }
        }
    }
}

/// Takes `TZ=Zone ` or `CRON_TZ=Zone ` off the front.
fn split_zone<'a>(text: &'a str, local: &TimeZone) -> Result<(TimeZone, &'a str), ScheduleError> {
    let Some(rest) = text.strip_prefix("CRON_TZ=").or_else(|| text.strip_prefix("TZ=")) else {
        return Ok((local.clone(), text));
    };
    let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let zone = match name {
        "" => TimeZone::UTC,
        "Local" => local.clone(),
        name => TimeZone::get(name)
            .map_err(|_| ScheduleError(format!("provided bad location {name}: unknown time zone {name}")))?,
    };
    Ok((zone, rest.trim()))
}

enum Descriptor {
    Fields(&'static str),
    Every(SignedDuration),
}

fn descriptor(name: &str, text: &str) -> Result<Descriptor, ScheduleError> {
    Ok(Descriptor::Fields(match name {
        "yearly" | "annually" => "0 0 0 1 1 *",
        "monthly" => "0 0 0 1 * *",
        "weekly" => "0 0 0 * * 0",
        "daily" | "midnight" => "0 0 0 * * *",
        "hourly" => "0 0 * * * *",
        _ => match name.strip_prefix("every ") {
            Some(duration) => return every(duration, text).map(Descriptor::Every),
            None => return wrong(format!("unrecognized descriptor: {text}")),
        },
    }))
}

fn every(duration: &str, text: &str) -> Result<SignedDuration, ScheduleError> {
    let duration = GoDuration::parse(duration)
        .map_err(|error| ScheduleError(format!("failed to parse duration {text}: {error}")))?;
    // compat: what is shorter than a second, negative included, is a second.
    let seconds = duration.to_std().map_or(0, |duration| duration.as_secs());
    Ok(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX).max(EVERY_SECONDS_MIN)))
}

/// The fields, checked, as six that `croner` reads.
fn plain_fields(text: &str) -> Result<String, ScheduleError> {
    let mut fields: Vec<&str> = text.split_whitespace().collect();
    match fields.len() {
        5 => fields.insert(0, "0"),
        // compat: a star in the field of the seconds means second 0; every second is `*/1`.
        6 if fields[0] == "*" => fields[0] = "0",
        6 => {}
        count => {
            return wrong(format!("expected 5 to 6 fields, found {count}: [{}]", fields.join(" ")));
        }
    }
    let plain: Result<Vec<String>, _> =
        FIELDS.iter().zip(fields).map(|(field, text)| field.plain(text)).collect();
    Ok(plain?.join(" "))
}

/// What may stand in a field.
struct Field {
    min: u32,
    /// The end of `*` and of `a/n`.
    max: u32,
    /// Largest number that may be written: 7 is Sunday too.
    highest: u32,
    names: &'static [&'static str],
    /// Letters and signs by which an expression is one that the Go processor does not know: last day, nearest
    /// working day, n-th weekday. `croner` checks those.
    further: &'static [char],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 6] = [
    Field { min: 0, max: 59, highest: 59, names: &[], further: &[] },
    Field { min: 0, max: 59, highest: 59, names: &[], further: &[] },
    Field { min: 0, max: 23, highest: 23, names: &[], further: &[] },
    Field { min: 1, max: 31, highest: 31, names: &[], further: &['L', 'W'] },
    Field { min: 1, max: 12, highest: 12, names: MONTHS, further: &[] },
    Field { min: 0, max: 6, highest: 7, names: DAYS, further: &['L', '#'] },
];

impl Field {
    /// The field with numbers in place of everything else, or a star.
    fn plain(&self, text: &str) -> Result<String, ScheduleError> {
        let mut expressions = Vec::new();
        let mut star = false;
        for expression in text.split(',').filter(|expression| !expression.is_empty()) {
            let upper = expression.to_ascii_uppercase();
            let is_name = self.names.contains(&&*expression.to_ascii_lowercase());
            if !is_name && upper.contains(self.further) {
                expressions.push(upper);
                continue;
            }
            match self.range(expression)? {
                Some(range) => expressions.push(range),
                None => star = true,
            }
        }
        // compat: an empty field matches nothing; a star beside something else counts for all.
        match (star, expressions.is_empty()) {
            (true, _) => Ok("*".to_owned()),
            (false, true) => wrong(format!("empty field in schedule: {text}")),
            (false, false) => Ok(expressions.join(",")),
        }
    }

    /// `a`, `a-b`, `*`, each with or without `/n`; `None`: everything.
    fn range(&self, text: &str) -> Result<Option<String>, ScheduleError> {
        let mut parts = text.split('/');
        let (range, step) = (parts.next().unwrap_or_default(), parts.next());
        if parts.next().is_some() {
            return wrong(format!("too many slashes: {text}"));
        }
        let bounds: Vec<&str> = range.split('-').collect();
        let is_star = matches!(bounds[0], "*" | "?");
        let (start, mut end) = match bounds[..] {
            _ if is_star => (self.min, self.max),
            [one] => {
                let number = self.number(one)?;
                (number, number)
            }
            [first, last] => (self.number(first)?, self.number(last)?),
            _ => return wrong(format!("too many hyphens: {text}")),
        };
        let step = match step {
            None => 1,
            Some(step) => {
                if bounds.len() == 1 {
                    end = self.max.max(start);
                }
                integer(step)?
            }
        };
        self.check(start, end, step, text)?;
        Ok(match (start, end, step) {
            // With a step of one a star stays a star, so that it does not count as a restriction of the day.
            (.., 1) if is_star => None,
            (start, end, step) if step > end - start => Some(start.to_string()),
            (start, end, 1) => Some(format!("{start}-{end}")),
            (start, end, step) => Some(format!("{start}-{end}/{step}")),
        })
    }

    fn check(&self, start: u32, end: u32, step: u32, text: &str) -> Result<(), ScheduleError> {
        let Self { min, max, highest, .. } = self;
        if start < *min {
            return wrong(format!("beginning of range ({start}) below minimum ({min}): {text}"));
        }
        if end > *highest {
            return wrong(format!("end of range ({end}) above maximum ({max}): {text}"));
        }
        if start > end {
            return wrong(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
        }
        if step == 0 {
            return wrong(format!("step of range should be a positive number: {text}"));
        }
        Ok(())
    }

    fn number(&self, text: &str) -> Result<u32, ScheduleError> {
        let name = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        match name {
            Some(place) => Ok(place as u32 + self.min),
            None => integer(text),
        }
    }
}

/// A whole number as Go's parser takes it.
fn integer(text: &str) -> Result<u32, ScheduleError> {
    let number = text.parse::<i64>().map_err(|_| {
        ScheduleError(format!(
            "failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"
        ))
    })?;
    if number < 0 {
        return wrong(format!("negative number ({number}) not allowed: {text}"));
    }
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn vectors() -> Vec<Value> {
        let text = include_str!("../../tests/vectors/triggers.json");
        let all: Value = serde_json::from_str(text).unwrap();
        all["schedules"].as_array().unwrap().clone()
    }

    fn zone(vector: &Value) -> TimeZone {
        TimeZone::get(vector["tz"].as_str().unwrap_or("UTC")).unwrap()
    }

    /// What is wrong with our answer to a vector.
    fn difference(vector: &Value) -> Option<String> {
        let zone = zone(vector);
        let schedule =
            match (Schedule::parse(vector["spec"].as_str().unwrap(), &zone), vector["error"].as_str()) {
                (Ok(schedule), None) => schedule,
                (Err(error), Some(wanted)) => {
                    let said = error.to_string();
                    return (wanted != "any" && !said.contains(wanted)).then_some(said);
                }
                (Ok(_), Some(_)) => return Some("accepted".to_owned()),
                (Err(error), None) => return Some(error.to_string()),
            };
        let mut at: Timestamp = vector["from"].as_str().unwrap().parse().unwrap();
        if vector["never"] == true {
            return schedule.next_after(at).map(|next| format!("ticks at {next}"));
        }
        for wanted in vector["next"].as_array().unwrap() {
            let wanted: Timestamp = wanted.as_str().unwrap().parse().unwrap();
            at = match schedule.next_after(at) {
                Some(next) if next == wanted => next,
                next => return Some(format!("{next:?} instead of {wanted}")),
            };
        }
        None
    }

    #[test]
    fn all_schedules_of_the_vectors_tick_when_they_should() {
        let vectors = vectors();
        assert_eq!(vectors.len(), 51);
        let wrong: Vec<String> = vectors
            .iter()
            .filter_map(|vector| Some(format!("{}: {}", vector["spec"], difference(vector)?)))
            .collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    fn next(text: &str, from: &str) -> Option<String> {
        let schedule = Schedule::parse(text, &TimeZone::UTC).expect(text);
        Some(schedule.next_after(from.parse().unwrap())?.to_string())
    }

    #[test]
    fn restrictions_of_the_day_are_those_of_the_go_parser() {
        // Written out, the whole month is a restriction: either field matches. A star with a step of one is none.
        assert_eq!(next("0 0 1-31 * MON", "2026-01-01T00:00:00Z").unwrap(), "2026-01-02T00:00:00Z");
        assert_eq!(next("0 0 */1 * MON", "2026-01-01T00:00:00Z").unwrap(), "2026-01-05T00:00:00Z");
        assert_eq!(next("0 0 *,5 * MON", "2026-01-01T00:00:00Z").unwrap(), "2026-01-05T00:00:00Z");
        assert_eq!(next("0 0 2/40 * ?", "2026-01-01T00:00:00Z").unwrap(), "2026-01-02T00:00:00Z");
        assert_eq!(next("0 0 * * 5-7", "2026-01-03T00:00:00Z").unwrap(), "2026-01-04T00:00:00Z");
    }

    #[test]
    fn what_the_go_parser_does_not_know_is_served_or_named() {
        assert_eq!(next("0 0 * * FRI#2", "2026-01-01T00:00:00Z").unwrap(), "2026-01-09T00:00:00Z");
        assert_eq!(next("0 0 * * 5L", "2026-01-01T00:00:00Z").unwrap(), "2026-01-30T00:00:00Z");
        assert_eq!(next("0 0 15W * *", "2026-02-01T00:00:00Z").unwrap(), "2026-02-16T00:00:00Z");
        for (text, message) in [
            ("L * * * *", "failed to parse int from L: "),
            ("0 0 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("1/2/3 * * * *", "too many slashes: 1/2/3"),
            ("-1 * * * *", "failed to parse int from : "),
            ("*/-1 * * * *", "negative number (-1) not allowed: -1"),
            ("0 0 * * 8", "end of range (8) above maximum (6): 8"),
            (", * * * *", "empty field in schedule: ,"),
            ("TZ= @reboot", "unrecognized descriptor: @reboot"),
            ("0 0 32W * *", ""),
        ] {
            let error = Schedule::parse(text, &TimeZone::UTC).expect_err(text).to_string();
            assert!(error.starts_with(message), "{text}: {error}");
        }
    }

    #[test]
    fn a_schedule_that_never_comes_is_known_soon() {
        let begun = Instant::now();
        assert_eq!(next("0 0 30 2 *", "2026-01-01T00:00:00Z"), None);
        assert!(begun.elapsed().as_secs() < 5);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in r"[@0-9*/,?LW# a-zA-Z=-]{0,30}") {
            if let Ok(schedule) = Schedule::parse(&text, &TimeZone::UTC) {
                schedule.next_after(Timestamp::UNIX_EPOCH);
            }
        }

        #[test]
        fn the_next_tick_is_later(
            fields in r"([0-5]?[0-9]|\*/[1-9]) (\*|[0-5]?[0-9]) (\*|1?[0-9]) (\*|[1-9]) (\*|[1-9]) (\*|[0-6])",
            from in 0i64..4_000_000_000,
        ) {
            let from = Timestamp::from_second(from).unwrap();
            let schedule = Schedule::parse(&fields, &TimeZone::get("Europe/Berlin").unwrap()).unwrap();
            prop_assert!(schedule.next_after(from).is_none_or(|next| next > from));
        }
    }
}
