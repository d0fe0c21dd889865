//! How many events a busy worker may hold ahead: more than one only while its handler is fast.

use std::time::{Duration, Instant};

/// While the average is below this, events are written ahead.
const FAST: Duration = Duration::from_micros(200);
/// One event that takes longer stops it, until with those since then the average would be below `FAST` again: what was
/// written ahead waits for a slow event, though another worker may be free by then, and so what is lost by that stays in
/// proportion. So does what is lost without, where the handler was not slow, but the system kept a CPU from it for a
/// moment: each event then waits for a wake-up of its own.
const SLOW: Duration = Duration::from_millis(2);
/// It is not stopped for longer than this.
const STOPPED_MAX: Duration = Duration::from_secs(1);
/// Weight of the newest event in the average: 1/8.
const WEIGHT: u32 = 8;

/// Moving average of a worker's handler time.
#[derive(Debug)]
pub(super) struct Pace {
    average: Duration,
    /// So many events are to be fast before others are written ahead again, or one after the time beside it.
    stopped: Option<(u32, Instant)>,
    ahead_max: usize,
}

impl Pace {
    /// Starts carefully, as if the handler were slow. At most `ahead_max` events are written ahead.
    pub(super) fn new(ahead_max: usize) -> Self {
        Self { average: FAST, stopped: None, ahead_max }
    }

    /// The worker took so long for a call that ended at `now`.
    pub(super) fn observe(&mut self, taken: Duration, now: Instant) {
        self.average = (self.average * (WEIGHT - 1) + taken) / WEIGHT;
        let left = self.stopped.filter(|(_, until)| now < *until);
        self.stopped = if taken > SLOW {
            let calls = u32::try_from(taken.as_nanos() / FAST.as_nanos()).unwrap_or(u32::MAX);
            Some((calls.max(left.map_or(0, |(calls, _)| calls)), now + STOPPED_MAX))
        } else {
            left.filter(|(calls, _)| *calls > 1).map(|(calls, until)| (calls - 1, until))
        };
    }

    /// Events that may be written ahead now.
    pub(super) fn ahead(&self) -> usize {
        if self.stopped.is_some() || self.average >= FAST { 0 } else { self.ahead_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events of 10 µs at that time until others are written ahead.
    fn fast_ones(pace: &mut Pace, now: Instant) -> u32 {
        let mut count = 0;
        while pace.ahead() == 0 {
            pace.observe(Duration::from_micros(10), now);
            count += 1;
        }
        count
    }

    #[test]
    fn only_fast_handlers_get_events_ahead() {
        let (mut pace, now) = (Pace::new(4), Instant::now());
        assert_eq!(pace.ahead(), 0);
        assert!(fast_ones(&mut pace, now) < 10);
        assert_eq!(pace.ahead(), 4);
        (0..40).for_each(|_| pace.observe(Duration::from_micros(300), now));
        assert_eq!(pace.ahead(), 0);
        assert!(fast_ones(&mut pace, now) < 20);
    }

    #[test]
    fn a_slow_event_stops_it_for_as_many_events_as_its_time_is_worth() {
        let (mut pace, now) = (Pace::new(4), Instant::now());
        fast_ones(&mut pace, now);
        for (millis, events) in [(4, 20), (100, 500), (1_000, 5_000)] {
            pace.observe(Duration::from_millis(millis), now);
            pace.observe(Duration::from_millis(3), now); // is worth less
            assert_eq!(fast_ones(&mut pace, now), events, "{millis} ms");
        }
        // One of twenty that is slow keeps it off.
        for _ in 0..100 {
            pace.observe(Duration::from_millis(10), now);
            for _ in 0..19 {
                pace.observe(Duration::from_micros(10), now);
                assert_eq!(pace.ahead(), 0);
            }
        }
    }

    #[test]
    fn a_slow_event_stops_it_for_a_second_at_most() {
        let (mut pace, now) = (Pace::new(4), Instant::now());
        fast_ones(&mut pace, now);
        pace.observe(Duration::from_millis(50), now);
        (0..100).for_each(|_| pace.observe(Duration::from_micros(10), now));
        assert_eq!(pace.ahead(), 0);
        pace.observe(Duration::from_micros(10), now + Duration::from_millis(1001));
        assert_eq!(pace.ahead(), 4);
    }
}
