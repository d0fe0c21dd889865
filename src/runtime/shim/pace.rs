//! How many events a busy worker may hold ahead: more than one only while its handler is fast.

use std::time::Duration;

/// While the average is below this, events are written ahead.
const FAST: Duration = Duration::from_micros(200);
/// One event that takes longer stops it, until with those since then the average would be below `FAST` again: what was
/// written ahead waits for a slow event, though another worker may be free by then, and so what is lost by that stays in
/// proportion. So does what is lost without, where the handler was not slow, but the system kept a CPU from it for a
/// moment: each event then waits for a wake-up of its own.
const SLOW: Duration = Duration::from_millis(2);
/// It is stopped for not more events than these.
const STOPPED_MAX: u32 = 5_000;
/// Weight of the newest event in the average: 1/8.
const WEIGHT: u32 = 8;

/// Moving average of a worker's handler time.
#[derive(Debug)]
pub(super) struct Pace {
    average: Duration,
    /// So many events are to be fast before others are written ahead again.
    stopped: u32,
    ahead_max: usize,
}

impl Pace {
    /// Starts carefully, as if the handler were slow. At most `ahead_max` events are written ahead.
    pub(super) fn new(ahead_max: usize) -> Self {
        Self { average: FAST, stopped: 0, ahead_max }
    }

    /// The worker took so long for an event.
    pub(super) fn observe(&mut self, taken: Duration) {
        self.average = (self.average * (WEIGHT - 1) + taken) / WEIGHT;
        self.stopped = if taken > SLOW {
            let events = u32::try_from(taken.as_nanos() / FAST.as_nanos()).unwrap_or(STOPPED_MAX);
            self.stopped.max(events.min(STOPPED_MAX))
        } else {
            self.stopped.saturating_sub(1)
        };
    }

    /// Events that may be written ahead now.
    pub(super) fn ahead(&self) -> usize {
        if self.stopped > 0 || self.average >= FAST { 0 } else { self.ahead_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events of 10 µs until others are written ahead.
    fn fast_ones(pace: &mut Pace) -> u32 {
        let mut count = 0;
        while pace.ahead() == 0 {
            pace.observe(Duration::from_micros(10));
            count += 1;
        }
        count
    }

    #[test]
    fn only_fast_handlers_get_events_ahead() {
        let mut pace = Pace::new(4);
        assert_eq!(pace.ahead(), 0);
        assert!(fast_ones(&mut pace) < 10);
        assert_eq!(pace.ahead(), 4);
        (0..40).for_each(|_| pace.observe(Duration::from_micros(300)));
        assert_eq!(pace.ahead(), 0);
        assert!(fast_ones(&mut pace) < 20);
    }

    #[test]
    fn a_slow_event_stops_it_for_as_many_events_as_its_time_is_worth() {
        let mut pace = Pace::new(4);
        fast_ones(&mut pace);
        for (millis, events) in [(4, 20), (100, 500), (3_600_000, STOPPED_MAX)] {
            pace.observe(Duration::from_millis(millis));
            pace.observe(Duration::from_millis(millis) / 2);
            assert_eq!(fast_ones(&mut pace), if millis == 4 { events - 1 } else { events }, "{millis} ms");
        }
        // One of twenty that is slow keeps it off.
        for _ in 0..100 {
            pace.observe(Duration::from_millis(10));
            for _ in 0..19 {
                pace.observe(Duration::from_micros(10));
                assert_eq!(pace.ahead(), 0);
            }
        }
    }
}
