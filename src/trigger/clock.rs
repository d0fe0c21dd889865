//! Which ticks of a timetable are due. Pure: it is told what time it is, waits for nothing and sends nothing.
//!
//! An interval counts on the monotonic clock from the start, so its ticks neither drift nor follow a clock that is
//! set. A schedule follows the clock of the day: a clock that jumps forward, or a process that stood still, makes ticks
//! late, and [`MissedRuns`] says what becomes of them; a clock that is set back a little repeats nothing.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use jiff::{SignedDuration, Timestamp};

use crate::config::schedule::Schedule;
use crate::config::{MissedRuns, Timetable};

/// What is later than this was missed.
const LATE: Duration = Duration::from_secs(1);
/// Ticks that are sent after all.
pub(super) const CATCH_UP_MAX: usize = 100;
/// Longest time without a look at the clock, which may have been set.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Shortest wait: ticks that come faster than timers do are sent together.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);
/// A clock that is set back further has been wrong before: ticks start over from what it says now.
const SET_BACK_MAX: SignedDuration = SignedDuration::from_hours(1);
/// Ticks counted one by one; of more than that only a lower bound is known.
const COUNTED_MAX: usize = 1000;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: Timestamp,
    pub(super) steady: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { wall: Timestamp::now(), steady: Instant::now() }
    }

    /// What the clock showed at an earlier moment, as far as it shows the right time now.
    fn at(self, steady: Instant) -> Timestamp {
        let ago = SignedDuration::try_from(self.steady.saturating_duration_since(steady)).unwrap_or_default();
        self.wall.checked_sub(ago).unwrap_or(self.wall)
    }
}

/// A tick to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tick {
    /// When it was to come.
    pub(super) scheduled: Timestamp,
    /// Ticks before it that are not sent because it stands for them, or because they were too many.
    pub(super) missed: u64,
}

impl Tick {
    pub(super) fn time(self) -> SystemTime {
        self.scheduled.into()
    }
}

/// What became due since the last look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// To send, in order.
    pub(super) ticks: Vec<Tick>,
    /// Not to send.
    pub(super) missed: u64,
    /// The oldest of all was late, not just a moment behind.
    pub(super) late: bool,
}

/// The ticks of one trigger.
pub(super) struct Clock {
    pace: Pace,
    policy: MissedRuns,
}

enum Pace {
    Every { interval: Duration, next: Option<Instant> },
    Schedule { schedule: Schedule, last: Timestamp },
}

impl Clock {
    /// Ticks after `start`.
    pub(super) fn new(timetable: &Timetable, policy: MissedRuns, start: Moment) -> Self {
        let pace = match timetable {
            Timetable::Every(interval) => {
                Pace::Every { interval: *interval, next: start.steady.checked_add(*interval) }
            }
            Timetable::Schedule(schedule) => Pace::Schedule { schedule: schedule.clone(), last: start.wall },
        };
        Self { pace, policy }
    }

    /// How long nothing can be due.
    pub(super) fn wait(&self, now: Moment) -> Duration {
        let wait = match &self.pace {
            Pace::Every { next, .. } => next.map(|next| next.saturating_duration_since(now.steady)),
            Pace::Schedule { schedule, last } => {
                let from = if now.wall + SET_BACK_MAX < *last { now.wall } else { *last };
                let wait = schedule.next_after(from).map(|next| next.duration_since(now.wall));
                wait.map(|wait| Duration::try_from(wait).unwrap_or_default())
            }
        };
        wait.unwrap_or(LOOK_EVERY).clamp(SHORTEST_WAIT, LOOK_EVERY)
    }

    /// Takes what is due.
    pub(super) fn due(&mut self, now: Moment) -> Due {
        let (times, count) = self.pace.pass(now);
        let Some((oldest, newest)) = times.front().copied().zip(times.back().copied()) else {
            return Due::default();
        };
        let is_late =
            |time: Timestamp| Duration::try_from(now.wall.duration_since(time)).is_ok_and(|late| late > LATE);
        let mut ticks = Vec::new();
        match self.policy {
            MissedRuns::Once => ticks.push(newest),
            MissedRuns::None => ticks.extend((!is_late(newest)).then_some(newest)),
            MissedRuns::All => ticks.extend(times.iter().copied()),
        }
        let missed = count - ticks.len() as u64;
        let mut ticks: Vec<Tick> = ticks.into_iter().map(|scheduled| Tick { scheduled, missed: 0 }).collect();
        if let Some(first) = ticks.first_mut() {
            first.missed = missed;
        }
        Due { ticks, missed, late: is_late(oldest) }
    }
}

impl Pace {
    /// The newest of the ticks up to now, and how many there were; they are over.
    fn pass(&mut self, now: Moment) -> (VecDeque<Timestamp>, u64) {
        match self {
            Self::Every { interval, next } => {
                let Some(first) = next.filter(|next| *next <= now.steady) else { return Default::default() };
                let nanos = interval.as_nanos().max(1);
                let more = (now.steady.duration_since(first).as_nanos() / nanos) as u64;
                let time_of = |tick: u64| first + nanoseconds(nanos * u128::from(tick));
                let oldest = more.saturating_sub(CATCH_UP_MAX as u64 - 1);
                let times = (oldest..=more).map(|tick| now.at(time_of(tick))).collect();
                *next = time_of(more).checked_add(*interval);
                (times, more + 1)
            }
            Self::Schedule { schedule, last } => {
                if now.wall + SET_BACK_MAX < *last {
                    *last = now.wall;
                }
                let mut times = VecDeque::new();
                let (mut count, mut in_a_row) = (0, 0);
                while let Some(next) = schedule.next_after(*last).filter(|next| *next <= now.wall) {
                    *last = next;
                    count += 1;
                    in_a_row += 1;
                    if times.len() == CATCH_UP_MAX {
                        times.pop_front();
                    }
                    times.push_back(next);
                    if in_a_row == COUNTED_MAX {
                        // Half of the rest is passed over each time, so that a year of seconds costs nothing.
                        in_a_row = 0;
                        *last += now.wall.duration_since(next) / 2;
                    }
                }
                (times, count)
            }
        }
    }
}

fn nanoseconds(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::tz::TimeZone;

    const START: &str = "2026-01-01T00:00:00Z";

    fn timetable(text: &str) -> Timetable {
        Timetable::Schedule(Schedule::parse(text, &TimeZone::UTC).unwrap())
    }

    /// A clock, and what time it is any number of seconds later on both clocks.
    fn start(timetable: &Timetable, policy: MissedRuns) -> (Clock, impl Fn(f64, f64) -> Moment + use<>) {
        let begin = Moment { wall: START.parse().unwrap(), steady: Instant::now() };
        let later = move |wall: f64, steady: f64| Moment {
            wall: begin.wall + SignedDuration::from_secs_f64(wall),
            steady: begin.steady + Duration::from_secs_f64(steady),
        };
        (Clock::new(timetable, policy, begin), later)
    }

    /// Seconds after the start.
    fn times(due: &Due) -> Vec<f64> {
        let start: Timestamp = START.parse().unwrap();
        due.ticks.iter().map(|tick| tick.scheduled.duration_since(start).as_secs_f64()).collect()
    }

    #[test]
    fn an_interval_keeps_its_rate_however_late_it_is_looked_at() {
        let (mut clock, at) = start(&Timetable::Every(Duration::from_secs(1)), MissedRuns::Once);
        assert_eq!(clock.wait(at(0.0, 0.0)), Duration::from_secs(1));
        assert_eq!(clock.due(at(0.9, 0.9)), Due::default());
        for second in 1..=10 {
            let now = f64::from(second);
            assert_eq!(times(&clock.due(at(now + 0.4, now + 0.4))), [now]);
        }
    }

    #[test]
    fn an_interval_does_not_follow_a_clock_that_is_set() {
        let (mut clock, at) = start(&Timetable::Every(Duration::from_secs(10)), MissedRuns::All);
        assert_eq!(clock.due(at(100_000.0, 9.0)), Due::default());
        assert_eq!(times(&clock.due(at(-500.0, 10.0))), [-500.0]);
    }

    #[test]
    fn what_was_missed_becomes_one_event_or_all_or_none() {
        let every = Timetable::Every(Duration::from_secs(1));
        for (table, policy, expected) in [
            (&every, MissedRuns::Once, &[10.0][..]),
            (&every, MissedRuns::All, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]),
            (&every, MissedRuns::None, &[10.0]),
            (&timetable("*/5 * * * * *"), MissedRuns::Once, &[10.0]),
            (&timetable("*/5 * * * * *"), MissedRuns::All, &[5.0, 10.0]),
            (&timetable("*/9 * * * * *"), MissedRuns::None, &[]),
        ] {
            let (mut clock, at) = start(table, policy);
            let due = clock.due(at(10.5, 10.5));
            assert_eq!(times(&due), expected, "{policy:?}");
            assert!(due.late);
            assert_eq!(
                due.ticks.first().map_or(0, |tick| tick.missed),
                if expected.is_empty() { 0 } else { due.missed }
            );
            assert_eq!(clock.due(at(10.6, 10.6)), Due::default());
        }
    }

    /// The vector `cron-tick-08`, which wants a clock that can be moved: second 0 of every fifth minute.
    #[test]
    fn a_star_in_the_seconds_is_second_0() {
        let (mut clock, at) = start(&timetable("* */5 * * * *"), MissedRuns::Once);
        let mut ticks = Vec::new();
        for second in 0..=900 {
            ticks.extend(times(&clock.due(at(f64::from(second) + 0.1, f64::from(second) + 0.1))));
        }
        assert_eq!(ticks, [300.0, 600.0, 900.0]);
    }

    #[test]
    fn a_clock_set_back_a_little_repeats_nothing_and_far_back_starts_over() {
        let (mut clock, at) = start(&timetable("0 * * * *"), MissedRuns::Once);
        assert_eq!(times(&clock.due(at(3600.0, 3600.0))), [3600.0]);
        // Ten minutes back: the hour comes again, the tick does not.
        assert_eq!(clock.due(at(3000.0, 3601.0)), Due::default());
        assert_eq!(clock.due(at(3600.0, 4201.0)), Due::default());
        assert_eq!(times(&clock.due(at(7200.0, 7801.0))), [7200.0]);
        // A day back.
        assert_eq!(clock.due(at(7200.0 - 86400.0, 7802.0)), Due::default());
        assert_eq!(times(&clock.due(at(10_800.0 - 86400.0, 11_402.0))), [10_800.0 - 86400.0]);
    }

    #[test]
    fn a_year_of_seconds_is_over_quickly() {
        let (mut clock, at) = start(&timetable("*/1 * * * * *"), MissedRuns::All);
        let year = 365.0 * 86400.0;
        let begun = Instant::now();
        let due = clock.due(at(year, year));
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(due.ticks.len(), CATCH_UP_MAX);
        assert_eq!(times(&due).last(), Some(&year));
        let (mut clock, at) = start(&Timetable::Every(Duration::from_nanos(1)), MissedRuns::All);
        assert_eq!(clock.due(at(year, year)).ticks.len(), CATCH_UP_MAX);
    }

    #[test]
    fn the_clock_is_looked_at_now_and_then_however_far_the_next_tick() {
        let (clock, at) = start(&timetable("@yearly"), MissedRuns::Once);
        assert_eq!(clock.wait(at(0.0, 0.0)), LOOK_EVERY);
        let (clock, at) = start(&Timetable::Every(Duration::from_nanos(1)), MissedRuns::Once);
        assert_eq!(clock.wait(at(1.0, 1.0)), SHORTEST_WAIT, "no busy loop");
        let (clock, at) = start(&Timetable::Every(Duration::MAX), MissedRuns::Once);
        assert_eq!(clock.wait(at(0.0, 0.0)), LOOK_EVERY);
    }
}
