//! One of a thing for each thread, more or less: what every event writes to lies where no other processor does, which
//! would have to give the memory up each time. A number is then the sum over all of them.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use crossbeam_utils::CachePadded;

/// For processors of machines as they are; some more cost a little memory, fewer bring threads together.
const PLACES_MIN: usize = 16;
/// Of very large machines threads share places.
const PLACES_MAX: usize = 64;
/// Threads that work are few of those there are, so two of them seldom have the same place.
const PLACES_PER_CORE: usize = 4;

static RANKS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static RANK: Cell<Option<usize>> = const { Cell::new(None) };
}

fn rank() -> usize {
    RANK.get().unwrap_or_else(|| {
        let rank = RANKS.fetch_add(1, Ordering::Relaxed);
        RANK.set(Some(rank));
        rank
    })
}

/// See the module. Threads may share a place, so `T` must be for several.
#[derive(Debug)]
pub struct PerThread<T>(Box<[CachePadded<T>]>);

impl<T: Default> Default for PerThread<T> {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let places = (cores * PLACES_PER_CORE).next_power_of_two().clamp(PLACES_MIN, PLACES_MAX);
        Self((0..places).map(|_| CachePadded::default()).collect())
    }
}

impl<T> PerThread<T> {
    /// This thread's.
    pub fn mine(&self) -> &T {
        &self.0[rank() & (self.0.len() - 1)]
    }

    /// Every thread's.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|place| &**place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own_and_nothing_is_lost() {
        let counts = PerThread::<AtomicUsize>::default();
        let address = |count: &AtomicUsize| std::ptr::from_ref(count).addr();
        let mine = address(counts.mine());
        std::thread::scope(|scope| {
            for _ in 0..100 {
                scope.spawn(|| counts.mine().fetch_add(1, Ordering::Relaxed));
            }
        });
        assert_eq!(address(counts.mine()), mine, "the same at each look");
        assert_eq!(counts.all().map(|count| count.load(Ordering::Relaxed)).sum::<usize>(), 100);
        assert!(counts.all().filter(|count| count.load(Ordering::Relaxed) > 0).count() > 1);
    }
}
