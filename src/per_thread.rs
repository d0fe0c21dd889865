//! One of a thing for each thread, more or less: what every event writes to lies where no other processor does, which
//! would have to give the memory up each time. A number is then the sum over all of them.

use std::cell::Cell;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::available_parallelism;

use crossbeam_utils::CachePadded;

/// For processors of machines as they are; more cost a little memory, fewer bring threads together.
const PLACES_MIN: usize = 32;
/// Of very large machines threads share the last place.
const PLACES_MAX: usize = 128;
/// Of the threads there are, those that work change.
const PLACES_PER_CORE: usize = 4;

static PLACES: LazyLock<usize> = LazyLock::new(|| {
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    (cores * PLACES_PER_CORE).clamp(PLACES_MIN, PLACES_MAX)
});
/// How many places have had a thread, and which of them have none any more.
static TAKEN: Mutex<(usize, Vec<usize>)> = Mutex::new((0, Vec::new()));

thread_local! {
    static PLACE: Cell<Option<Place>> = const { Cell::new(None) };
    /// Gives the place to another thread when this one ends.
    static LEASE: Lease = const { Lease };
}

/// Where a thread finds what is its own.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    /// No other thread has it.
    alone: bool,
}

impl Place {
    fn mine() -> Self {
        PLACE.get().unwrap_or_else(Self::take)
    }

    #[cold]
    fn take() -> Self {
        // A thread that is ending could not give it back.
        let own = LEASE.try_with(|_| ()).ok().and_then(|()| {
            let (taken, free) = &mut *TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            free.pop().or_else(|| {
                let next = (*taken < *PLACES - 1).then_some(*taken)?;
                *taken += 1;
                Some(next)
            })
        });
        let place = own.map_or_else(Self::shared, |index| Self { index, alone: true });
        PLACE.set(Some(place));
        place
    }

    /// The last one, for all threads that have none of their own.
    fn shared() -> Self {
        Self { index: *PLACES - 1, alone: false }
    }
}

struct Lease;

impl Drop for Lease {
    fn drop(&mut self) {
        // What else ends with the thread may still count.
        if let Some(place) = PLACE.replace(Some(Place::shared()))
            && place.alone
        {
            TAKEN.lock().unwrap_or_else(PoisonError::into_inner).1.push(place.index);
        }
    }
}

/// See the module. Threads may share a place, so `T` must be for several.
#[derive(Debug)]
pub struct PerThread<T>(Box<[CachePadded<T>]>);

impl<T: Default> Default for PerThread<T> {
    fn default() -> Self {
        Self((0..*PLACES).map(|_| CachePadded::default()).collect())
    }
}

impl<T> PerThread<T> {
    /// This thread's.
    pub fn mine(&self) -> &T {
        &self.0[Place::mine().index]
    }

    /// Every thread's.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|place| &**place)
    }
}

/// What a thread has counted. Only for [`PerThread::mine`]: a thread that is alone in its place adds without keeping
/// others from it.
#[derive(Debug, Default)]
pub struct Tally(AtomicU64);

impl Tally {
    /// Adds to it. Wraps around, so that a negative number may be added in two's complement.
    pub fn add(&self, number: u64) {
        if Place::mine().alone {
            self.0.store(self.0.load(Relaxed).wrapping_add(number), Relaxed);
        } else {
            self.0.fetch_add(number, Relaxed);
        }
    }

    /// What it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_its_own_and_nothing_is_lost() {
        let counts = PerThread::<Tally>::default();
        let address = |count: &Tally| std::ptr::from_ref(count).addr();
        let mine = address(counts.mine());
        // More than there are places.
        std::thread::scope(|scope| {
            for _ in 0..4 * PLACES_MAX {
                scope.spawn(|| (0..1000).for_each(|_| counts.mine().add(1)));
            }
        });
        assert_eq!(address(counts.mine()), mine, "the same at each look");
        assert_eq!(counts.all().map(Tally::get).sum::<u64>(), 4000 * PLACES_MAX as u64);
        assert!(counts.all().filter(|count| count.get() > 0).count() > 1);
    }

    #[test]
    fn threads_that_end_leave_their_places_to_others() {
        let alone = (0..2 * PLACES_MAX).map(|_| std::thread::spawn(|| Place::mine().alone).join().unwrap());
        assert!(alone.filter(|alone| *alone).count() > PLACES_MAX, "one after the other");
    }
}
