//! How many events a busy worker may hold ahead: more than one only while its handler is fast.

use std::time::{Duration, Instant};

/// While the average is below this, events are written ahead.
const FAST: Duration = Duration::from_micros(200);
/// One event that takes longer stops it…
const SLOW: Duration = Duration::from_millis(2);
/// …for this long.
const PENALTY: Duration = Duration::from_secs(1);
/// Weight of the newest event in the average: 1/8.
const WEIGHT: u32 = 8;

/// Moving average of a worker's handler time.
#[derive(Debug)]
pub(super) struct Pace {
    average: Duration,
    slow_until: Option<Instant>,
    ahead_max: usize,
}

impl Pace {
    /// Starts carefully, as if the handler were slow. At most `ahead_max` events are written ahead.
    pub(super) fn new(ahead_max: usize) -> Self {
        Self { average: FAST, slow_until: None, ahead_max }
    }

    /// The worker took `taken` for an event that ended at `now`.
    pub(super) fn observe(&mut self, taken: Duration, now: Instant) {
        self.average = (self.average * (WEIGHT - 1) + taken) / WEIGHT;
        if taken > SLOW {
            self.slow_until = Some(now + PENALTY);
        }
    }

    /// Events that may be written ahead at `now`.
    pub(super) fn ahead(&self, now: Instant) -> usize {
        let slow = self.slow_until.is_some_and(|until| now < until) || self.average >= FAST;
        if slow { 0 } else { self.ahead_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fast_handlers_get_events_ahead_and_a_slow_event_stops_it_for_a_second() {
        let mut pace = Pace::new(4);
        let now = Instant::now();
        assert_eq!(pace.ahead(now), 0);
        (0..20).for_each(|_| pace.observe(Duration::from_micros(10), now));
        assert_eq!(pace.ahead(now), 4);
        pace.observe(Duration::from_millis(3), now);
        (0..40).for_each(|_| pace.observe(Duration::from_micros(10), now));
        assert_eq!(pace.ahead(now + Duration::from_millis(999)), 0);
        assert_eq!(pace.ahead(now + Duration::from_millis(1001)), 4);
    }
}
