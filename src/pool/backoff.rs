//! How long to wait before a worker is replaced: not at all the first time, then longer and longer.

use std::time::Duration;

/// A worker that lived this long starts with a clean record.
const LIVED: Duration = Duration::from_secs(1);
/// First wait.
const FIRST: Duration = Duration::from_millis(50);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(10);

/// Remembers how often in a row a worker did not live long.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    short_lives: u32,
}

impl Backoff {
    /// The wait before the next start, after a worker that lived for `lived`.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= LIVED {
            self.short_lives = 0;
        }
        self.short_lives += 1;
        let Some(doublings) = self.short_lives.checked_sub(2) else { return Duration::ZERO };
        let wait = FIRST.saturating_mul(1 << doublings.min(16)).min(LONGEST);
        wait.mul_f64(0.8 + 0.4 * fastrand::f64()) // Workers that died together do not come back together.
    }

    /// The same after a worker that was ended although it had done nothing wrong, which does not count: a timer that
    /// ticks too fast must not start processes without a pause.
    pub(super) fn without_blame(lived: Duration) -> Duration {
        if lived >= LIVED { Duration::ZERO } else { FIRST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_replacement_comes_at_once_and_later_ones_ever_later_up_to_a_cap() {
        let mut backoff = Backoff::default();
        let mut last = backoff.after(Duration::ZERO);
        assert_eq!(last, Duration::ZERO);
        for _ in 0..7 {
            let next = backoff.after(Duration::ZERO);
            assert!(next > last, "{next:?} after {last:?}");
            last = next;
        }
        (0..20).for_each(|_| last = backoff.after(Duration::ZERO));
        assert!(last <= LONGEST.mul_f64(1.2));
        assert_eq!(backoff.after(LIVED), Duration::ZERO);
    }

    #[test]
    fn a_worker_that_did_nothing_wrong_is_replaced_at_once_or_nearly_so() {
        assert_eq!(Backoff::without_blame(LIVED), Duration::ZERO);
        assert_eq!(Backoff::without_blame(Duration::ZERO), FIRST);
    }
}
