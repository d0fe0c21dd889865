//! Settings particular to triggers of kind `cron` and `kickstart`: when they fire, and what their event holds.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::error::Problem;
use super::ignored::Ignored;
use super::schedule::Schedule;
#[cfg(test)]
use super::schema::generate;
use super::source::Source;
use super::trigger::TriggerSource;

/// Settings of a `cron` trigger.
#[derive(Debug, Clone)]
pub struct CronTrigger {
    /// When it ticks.
    pub timetable: Timetable,
    /// `concurrencyPolicy`: what happens to a tick while an earlier one is in work.
    pub concurrency: ConcurrencyPolicy,
    /// `missedRuns`: what happens to ticks that came while the process stood still or the clock jumped.
    pub missed: MissedRuns,
    /// What every tick sends.
    pub event: EventTemplate,
}

/// When a `cron` trigger ticks.
#[derive(Debug, Clone)]
pub enum Timetable {
    /// `interval`: at a fixed rate from the start, whatever the clock does.
    Every(Duration),
    /// `schedule`: by the clock.
    Schedule(Schedule),
}

/// `concurrencyPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConcurrencyPolicy {
    /// The tick is dropped.
    Forbid,
    /// It is sent, as long as the trigger has fewer events in work than workers; else it is dropped.
    Allow,
    /// It is sent, and the earlier one is taken back: it stops running. Where handlers cannot be stopped: as `Forbid`.
    Replace,
}

/// `missedRuns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissedRuns {
    /// One event for all of them.
    Once,
    /// One event for each, in order, one after the other.
    All,
    /// None of them.
    None,
}

/// What the events of a timer hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "TimerEvent"))]
#[serde(default, rename_all = "camelCase")]
pub struct EventTemplate {
    /// The body, as text.
    pub body: String,
    /// Names with values of any kind.
    pub headers: serde_json::Map<String, serde_json::Value>,
    /// The path; Python shows an empty one as `/`.
    pub path: String,
    /// The method.
    pub method: String,
}

/// `attributes` of a `cron` trigger.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct CronAttributes {
    /// Time between ticks, as Go duration; wins over `schedule`.
    #[cfg_attr(test, schemars(schema_with = "generate::duration"))]
    interval: String,
    /// Five fields, or six with the seconds first, or `@hourly` and the like; `TZ=Zone` may stand in front.
    schedule: String,
    /// A tick while an earlier one is in work: `Forbid` drops it, `Allow` sends it to another worker, `Replace` ends the
    /// earlier one for it; in process that cannot be, so there it counts as `Forbid`.
    #[cfg_attr(test, schemars(extend("examples" = ["Forbid", "Allow", "Replace"], "default" = "Forbid")))]
    concurrency_policy: String,
    /// Ticks that came while the process stood still: `once` sends one event for all, `all` one for each, `none` nothing.
    #[cfg_attr(test, schemars(extend("examples" = ["once", "all", "none"], "default" = "once")))]
    missed_runs: String,
    /// What every tick sends.
    event: EventTemplate,
    /// Retries of the jobs that the platform makes itself.
    // compat: the processor has no use for it.
    _job_backoff_limit: Ignored,
}

/// `attributes` of a `kickstart` trigger.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct KickstartAttributes {
    /// What is sent once, at the start.
    event: EventTemplate,
}

/// Resolves what stands in the file about a `kickstart` trigger.
pub(super) fn kickstart(
    place: &TriggerSource<'_>,
    source: &mut Source,
) -> Result<EventTemplate, Box<Problem>> {
    place.attributes::<KickstartAttributes>(source).map(|attributes| attributes.event)
}

/// Resolves what stands in the file about a `cron` trigger.
pub(super) fn cron(place: &TriggerSource<'_>, source: &mut Source) -> Result<CronTrigger, Box<Problem>> {
    let attributes: CronAttributes = place.attributes(source)?;
    Ok(CronTrigger {
        timetable: timetable(&attributes, place, source)?,
        concurrency: concurrency(&attributes.concurrency_policy, place, source)?,
        missed: missed(&attributes.missed_runs, place, source)?,
        event: attributes.event,
    })
}

fn timetable(
    attributes: &CronAttributes,
    place: &TriggerSource<'_>,
    source: &mut Source,
) -> Result<Timetable, Box<Problem>> {
    match (attributes.interval.as_str(), attributes.schedule.as_str()) {
        ("", "") => {
            let problem = place.place(source, "attributes");
            let problem =
                problem.problem("Cron trigger configuration must contain either interval or schedule");
            let name = place.name();
            Err(problem.remedy(format!("in trigger `{name}` add interval: 1m or schedule: \"0 * * * *\"")))
        }
        ("", text) => schedule(text, place, source).map(Timetable::Schedule),
        (text, schedule) => {
            if !schedule.is_empty() {
                let text = "ignored, because the interval counts; remove one of them";
                source.warn(&place.place(source, "attributes.schedule"), text);
            }
            interval(text, place, source).map(Timetable::Every)
        }
    }
}

fn interval(text: &str, place: &TriggerSource<'_>, source: &Source) -> Result<Duration, Box<Problem>> {
    let here = place.place(source, "attributes.interval");
    let failed = |problem: Box<Problem>| {
        let problem =
            problem.cause(format!("Failed to parse interval from cron trigger configuration: {text}"));
        problem.cause("Failed to set cron interval")
    };
    let interval = here.duration(text).map_err(failed)?;
    if interval.is_zero_or_less() {
        let problem = here.problem(format!("an interval must be longer than nothing, found {text:?}"));
        return Err(failed(problem.remedy("write a positive time, for example 30s, 1m30s or 500ms")));
    }
    Ok(interval.to_std().unwrap_or_default())
}

fn schedule(text: &str, place: &TriggerSource<'_>, source: &Source) -> Result<Schedule, Box<Problem>> {
    let here = place.place(source, "attributes.schedule");
    let failed = |wrong: String, remedy: &str| {
        let problem = here.problem(wrong).remedy(remedy);
        let problem =
            problem.cause(format!("Failed to parse schedule from cron trigger configuration: {text}"));
        problem.cause("Failed to set cron schedule")
    };
    let schedule = Schedule::parse(text, &TimeZone::system()).map_err(|error| {
        let error = error.to_string();
        let remedy = if error.contains("unknown time zone") {
            "name a zone of the time zone database, for example TZ=Europe/Berlin, or remove the prefix"
        } else {
            "write minute, hour, day of month, month, day of week, with seconds in front if wanted, for example \
             \"30 2 * * *\" or \"0 30 2 * * *\", or @hourly, @daily, @every 90s"
        };
        failed(error, remedy)
    })?;
    if schedule.next_after(Timestamp::now()).is_none() {
        let remedy = "choose a day that the month has";
        return Err(failed(format!("the schedule {text:?} never comes within five years"), remedy));
    }
    Ok(schedule)
}

fn concurrency(
    text: &str,
    place: &TriggerSource<'_>,
    source: &Source,
) -> Result<ConcurrencyPolicy, Box<Problem>> {
    match text.to_ascii_lowercase().as_str() {
        "" | "forbid" => Ok(ConcurrencyPolicy::Forbid),
        "allow" => Ok(ConcurrencyPolicy::Allow),
        "replace" => Ok(ConcurrencyPolicy::Replace),
        _ => {
            let problem = place.place(source, "attributes.concurrencyPolicy");
            Err(problem.problem(format!("unknown policy {text:?}")).remedy("write Forbid, Allow or Replace"))
        }
    }
}

fn missed(text: &str, place: &TriggerSource<'_>, source: &Source) -> Result<MissedRuns, Box<Problem>> {
    match text.to_ascii_lowercase().as_str() {
        "" | "once" => Ok(MissedRuns::Once),
        "all" => Ok(MissedRuns::All),
        "none" => Ok(MissedRuns::None),
        _ => {
            let problem = place.place(source, "attributes.missedRuns");
            Err(problem.problem(format!("unknown word {text:?}")).remedy("write once, all or none"))
        }
    }
}

impl Timetable {
    /// In words, for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Every(interval) => format!("every {}", super::duration::format(*interval)),
            Self::Schedule(schedule) => format!("schedule {}", schedule.text()),
        }
    }
}

impl ConcurrencyPolicy {
    /// As written in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forbid => "Forbid",
            Self::Allow => "Allow",
            Self::Replace => "Replace",
        }
    }
}

impl MissedRuns {
    /// As written in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::All => "all",
            Self::None => "none",
        }
    }
}
