//! Where a worker's task finds what is there for it: the events lent to it, and which of those it has need a look.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::queue::{Job, Lend};

/// A worker as the queue knows it. Two desks are the same if they are one worker's.
#[derive(Debug, Clone, Default)]
pub struct Desk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// How many events a worker may have that may have several; how many it has; how many lie on the desk.
    places: AtomicUsize,
    taken: AtomicUsize,
    lent: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Keys whose bells have rung.
    rung: Vec<usize>,
    waker: Option<Waker>,
}

impl PartialEq for Desk {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Lend for Desk {
    fn load(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed) + self.0.lent.load(Ordering::Relaxed)
    }

    fn lend_place(&self) -> Option<Self> {
        (self.load() + 1 < self.0.places.load(Ordering::Relaxed)).then(|| self.clone())
    }
}

impl Desk {
    /// The worker has room for so many events at once, more than one.
    pub(super) fn set_places(&self, places: usize) {
        self.0.places.store(places, Ordering::Relaxed);
    }

    /// The worker has so many events now, without those on the desk.
    pub(super) fn set_taken(&self, taken: usize) {
        self.0.taken.store(taken, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is there and wakes the worker's task.
    fn put(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Lends the worker an event and wakes its task.
    pub fn hand(&self, job: Job) {
        self.put(|state| {
            state.jobs.push_back(job);
            self.0.lent.store(state.jobs.len(), Ordering::Relaxed);
        });
    }

    /// An event lent before, without waiting.
    pub fn take(&self) -> Option<Job> {
        self.pop(&mut self.lock())
    }

    fn pop(&self, state: &mut State) -> Option<Job> {
        let job = state.jobs.pop_front()?;
        self.0.lent.store(state.jobs.len(), Ordering::Relaxed);
        Some(job)
    }

    /// The next event that is lent, for a task whose events ring no bells.
    pub fn poll_job(&self, cx: &Context<'_>) -> Poll<Job> {
        self.poll_take(cx, &mut Vec::new())
    }

    /// The next event that is lent. Whatever comes of it, the keys of bells that have rung are added to `rung`; each
    /// further one wakes the task.
    pub(super) fn poll_take(&self, cx: &Context<'_>, rung: &mut Vec<usize>) -> Poll<Job> {
        let mut state = self.lock();
        rung.append(&mut state.rung);
        if let Some(job) = self.pop(&mut state) {
            return Poll::Ready(job);
        }
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// Wakers for the places of a worker, so that it learns which of its events something happened to, instead of looking at
/// all of them. A place's bell serves all events that come to it, so what rings may concern the one before.
#[derive(Debug, Default)]
pub(super) struct Bells(Vec<Option<(Arc<Bell>, Waker)>>);

#[derive(Debug)]
struct Bell {
    desk: Desk,
    key: usize,
    /// It lies on the desk.
    rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.desk.put(|state| state.rung.push(self.key));
        }
    }
}

impl Bells {
    /// What rings for that place, from now on: look at it afterwards, for what was before may have been missed.
    pub(super) fn reset(&mut self, key: usize, desk: &Desk) -> &Waker {
        if self.0.len() <= key {
            self.0.resize_with(key + 1, || None);
        }
        let (bell, waker) = self.0[key].get_or_insert_with(|| {
            let bell = Arc::new(Bell { desk: desk.clone(), key, rung: AtomicBool::new(false) });
            (bell.clone(), bell.into())
        });
        bell.rung.store(false, Ordering::Release);
        waker
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::PoolCounters;
    use crate::queue::Queue;
    use crate::queue::tests::event;

    #[test]
    fn of_workers_with_several_places_the_one_with_the_fewest_events_gets_the_next() {
        let queue = Queue::new(PoolCounters::new(2), 9);
        let desks = [Desk::default(), Desk::default()];
        for desk in &desks {
            desk.set_places(4);
            assert!(queue.next(desk.clone()).is_none());
        }
        let admit = || {
            let (job, reply) = Job::new(event("e"), Duration::from_secs(1));
            std::mem::forget(reply);
            let (desk, job) = queue.admit(job)?;
            desk.hand(job);
            desks.iter().position(|other| *other == desk)
        };
        // They are lent on while none of the two has come to look.
        assert_eq!([admit(), admit(), admit()], [Some(0), Some(1), Some(0)]);
        while desks[0].take().is_some() {}
        desks[0].set_taken(3);
        assert_eq!([admit(), admit()], [Some(1), Some(1)]);
        assert_eq!([admit(), admit()], [Some(0), Some(1)], "the last place of each");
        assert_eq!(admit(), None, "both are full");
        desks[0].set_taken(0);
        assert!(queue.next(desks[0].clone()).is_some(), "what waited");
    }

    #[test]
    fn only_the_keys_of_bells_that_rang_are_found_each_once() {
        let (desk, mut bells) = (Desk::default(), Bells::default());
        let wakers: Vec<Waker> = (0..1000).map(|key| bells.reset(key, &desk).clone()).collect();
        let cx = Context::from_waker(Waker::noop());
        let mut rung = Vec::new();
        assert!(desk.poll_take(&cx, &mut rung).is_pending() && rung.is_empty());
        for key in [700, 3, 700, 700] {
            wakers[key].wake_by_ref();
        }
        assert!(desk.poll_take(&cx, &mut rung).is_pending());
        assert_eq!(rung, [700, 3]);
        rung.clear();
        assert!(wakers[700].will_wake(bells.reset(700, &desk)), "the same bell serves the place on");
        wakers[700].wake_by_ref();
        assert!(desk.poll_take(&cx, &mut rung).is_pending());
        assert_eq!(rung, [700]);
    }
}
