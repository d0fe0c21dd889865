//! Which of the workers that wait gets the next event.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};

use crossbeam_utils::atomic::AtomicCell;

use super::{Job, Queue, State};

/// A worker as the queue knows it.
pub trait Lend: PartialEq + Sized {
    /// Whoever has it is the only one, and it is nowhere else: neither idle while it is lent nor asking for events
    /// ahead.
    const ONE_PLACE: bool = false;

    /// Events that it has, if it may have several: of the workers that wait, the one with the fewest gets the next.
    fn load(&self) -> usize {
        0
    }

    /// Lends one of its places; it goes on waiting for events. `None`: it has one place only, or this is its last, and it
    /// is lent as a whole.
    fn lend_place(&self) -> Option<Self> {
        None
    }
}

/// The worker that gets the next event: the first of those with the fewest.
pub(super) fn lend<W: Lend>(idle: &mut VecDeque<W>) -> Option<W> {
    let (mut place, mut fewest) = (0, usize::MAX);
    for (other, worker) in idle.iter().enumerate() {
        let load = worker.load();
        if load < fewest {
            (place, fewest) = (other, load);
        }
        if load == 0 {
            break;
        }
    }
    idle.get(place)?.lend_place().or_else(|| idle.remove(place))
}

/// The worker that a thread keeps, if any.
pub(super) struct Kept<W> {
    worker: AtomicCell<Option<W>>,
    /// Whether there is one, for who only looks. It is told before the look at [`Queue::wanted`], and others look at it
    /// after they have been counted there: one of both sees the other.
    there: AtomicBool,
}

impl<W> Default for Kept<W> {
    fn default() -> Self {
        Self { worker: AtomicCell::new(None), there: AtomicBool::new(false) }
    }
}

impl<W> Kept<W> {
    /// Takes the worker, if there is one.
    pub(super) fn take(&self) -> Option<W> {
        if !self.there.load(SeqCst) {
            return None;
        }
        self.there.store(false, Relaxed); // Whoever puts one down after this says so again.
        self.worker.take()
    }

    /// Puts a worker down. Another one was there if two threads share the place.
    fn put(&self, worker: W) -> Option<W> {
        let other = self.worker.swap(Some(worker));
        self.there.store(true, SeqCst);
        other
    }
}

/// An event that looks for a worker is counted as wanting one meanwhile.
pub(super) struct Seeking<'a>(Option<&'a AtomicUsize>);

impl<'a> Seeking<'a> {
    pub(super) fn of<W: Lend>(queue: &'a Queue<W>) -> Self {
        let wanted = W::ONE_PLACE.then_some(&queue.wanted);
        if let Some(wanted) = wanted {
            wanted.fetch_add(1, SeqCst);
        }
        Self(wanted)
    }
}

impl Drop for Seeking<'_> {
    fn drop(&mut self) {
        if let Some(wanted) = self.0 {
            wanted.fetch_sub(1, Relaxed);
        }
    }
}

impl<W: Lend> Queue<W> {
    /// An idle worker for one event that whoever asks hands to it at once, without a job: the one that this thread
    /// keeps, else the one that has been idle for longest, else one that another thread keeps. `None`: there is none, or
    /// others wait for one, or the pool stops; then nothing has been counted.
    pub fn lend_idle(&self) -> Option<W> {
        if !self.open(1) {
            return None;
        }
        let kept = if self.is_wanted() { None } else { self.kept.mine().take() };
        let (worker, idle_percent) = match kept {
            Some(worker) => (Some(worker), self.idle_percent.load(Relaxed)),
            None => {
                let mut state = self.lock();
                let idle_percent = self.measure_idle(&state);
                let others = !state.waiting.is_empty();
                (if others { None } else { self.idle_worker(&mut state) }, idle_percent)
            }
        };
        if worker.is_none() {
            self.ended(1);
            return None;
        }
        self.counters.allocating(idle_percent);
        self.counters.allocated_at_once();
        worker
    }

    /// As [`Queue::next`], for who got the worker by [`Queue::lend_idle`]: unless somebody wants it, this thread keeps it
    /// for the next event that comes here, which costs no memory that other processors write to.
    pub fn next_here(&self, worker: W) -> Option<(W, Job)> {
        const { assert!(W::ONE_PLACE, "others would not find it") };
        if self.is_wanted() {
            return self.next(worker);
        }
        if let Some(other) = self.kept.mine().put(worker) {
            return self.next(other);
        }
        if self.is_wanted()
            && let Some(worker) = self.kept.mine().take()
        {
            return self.next(worker);
        }
        None
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(SeqCst) > 0
    }

    /// The worker that gets the next event, wherever it is idle. An event that waits if there is none is counted as
    /// [`Seeking`] before this looks, and until it waits.
    pub(super) fn idle_worker(&self, state: &mut State<W>) -> Option<W> {
        let kept = || if W::ONE_PLACE { self.kept.all().find_map(Kept::take) } else { None };
        lend(&mut state.idle).or_else(kept)
    }

    /// What threads keep at this moment becomes idle as any other, or gets an event that waits.
    pub fn release_kept(&self) -> Vec<(W, Job)> {
        let mut state = self.lock();
        let kept = self.kept.all().filter_map(Kept::take);
        kept.filter_map(|worker| self.pop_for(&mut state, worker)).collect()
    }

    /// Remembers how many workers are idle. That is asked now and then: to know it at each event would cost more than
    /// an empty handler does.
    pub fn note_idle(&self) {
        let kept = self.kept.all().filter(|kept| kept.there.load(Relaxed)).count();
        self.kept_count.store(kept, Relaxed);
        self.idle_percent.store(self.measure_idle(&self.lock()), Relaxed);
    }

    /// How many of all workers are idle, percent.
    pub(super) fn measure_idle(&self, state: &State<W>) -> u64 {
        let workers = self.counters.workers.len().max(1);
        // A worker with several connections may be idle several times over.
        let idle = state.idle.len() + self.kept_count.load(Relaxed);
        (idle * 100 / workers).min(100) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::metrics::PoolCounters;
    use crate::queue::tests::event;

    /// As workers in process are.
    #[derive(Debug, PartialEq)]
    struct Only(usize);

    impl Lend for Only {
        const ONE_PLACE: bool = true;
    }

    fn queue(workers: usize) -> Arc<Queue<Only>> {
        let queue = Queue::new(PoolCounters::new(workers), usize::MAX);
        (0..workers).for_each(|worker| assert!(queue.next(Only(worker)).is_none()));
        Arc::new(queue)
    }

    fn job() -> Job {
        let (job, reply) = Job::new(event("e"), Duration::from_secs(60));
        std::mem::forget(reply); // Or its client would have left.
        job
    }

    fn elsewhere<T: Send>(what: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| scope.spawn(what).join().unwrap())
    }

    #[test]
    fn a_thread_gets_the_worker_again_that_it_has_just_had() {
        let queue = queue(3);
        let worker = queue.lend_idle().unwrap();
        assert!(queue.next_here(worker).is_none());
        assert_eq!(queue.lend_idle(), Some(Only(0)), "and not the one that has been idle for longest");
        assert_eq!(elsewhere(|| queue.lend_idle()), Some(Only(1)));
    }

    #[test]
    fn a_worker_that_a_thread_keeps_is_idle_for_everybody() {
        let queue = queue(1);
        let keep = || assert!(queue.next_here(queue.lend_idle().unwrap()).is_none());
        keep();
        let lent = elsewhere(|| queue.lend_idle());
        assert_eq!(lent, Some(Only(0)), "by another thread's look");
        assert!(queue.next(Only(0)).is_none());
        keep();
        let lent = elsewhere(|| queue.admit(job()).map(|(worker, _)| worker));
        assert_eq!(lent, Some(Only(0)), "for an event that would wait");
        assert!(queue.next(Only(0)).is_none());
        keep();
        let lent = elsewhere(|| queue.put_back(job()).map(|(worker, _)| worker));
        assert_eq!(lent, Some(Only(0)), "for one that comes back");
        assert!(queue.next(Only(0)).is_none());
        keep();
        assert!(elsewhere(|| queue.release_kept().is_empty()));
        assert_eq!(queue.lock().idle.len(), 1, "once nobody is to keep it");
        keep();
        assert_eq!(elsewhere(|| queue.withdraw_idle()), [Only(0)], "to be stopped");
        assert_eq!(queue.wanted.load(Relaxed), 0);
    }

    #[test]
    fn an_event_that_waits_gets_the_worker_before_whoever_had_it() {
        let queue = queue(1);
        let worker = queue.lend_idle().unwrap();
        assert!(elsewhere(|| queue.admit(job()).is_none()), "it waits");
        assert!(queue.lend_idle().is_none(), "nobody overtakes it");
        assert!(queue.next_here(worker).is_some(), "it is next");
        assert_eq!(queue.wanted.load(Relaxed), 0);
    }

    #[test]
    fn what_the_monitor_notes_is_how_many_are_idle_wherever_they_are() {
        let queue = queue(4);
        let first = queue.lend_idle().unwrap();
        queue.counters.started(Duration::ZERO);
        queue.note_idle();
        assert_eq!(queue.idle_percent.load(Relaxed), 75);
        queue.finished(0, Duration::ZERO);
        assert!(queue.next_here(first).is_none());
        queue.note_idle();
        assert_eq!(queue.idle_percent.load(Relaxed), 100);
        assert_eq!(queue.measure_idle(&queue.lock()), 100, "the one that is kept is among them");
    }

    /// Fewer workers than threads, each of which calls on the spot or hands in a job as it comes: every event is handled,
    /// no worker has two, and none waits while a worker is idle.
    #[test]
    fn no_event_waits_while_a_thread_keeps_a_worker() {
        const THREADS: usize = 4;
        const WORKERS: usize = 2;
        const EVENTS: usize = 20_000;
        let queue = queue(WORKERS);
        let busy: [AtomicUsize; WORKERS] = Default::default();
        let handled = AtomicUsize::new(0);
        let serve = |worker: &Only| {
            assert_eq!(busy[worker.0].fetch_add(1, Ordering::SeqCst), 0, "one event at a time");
            busy[worker.0].fetch_sub(1, Ordering::SeqCst);
            queue.finished(worker.0, Duration::ZERO);
            handled.fetch_add(1, Ordering::SeqCst);
        };
        // As a worker's task: what waits comes first.
        let serve_all = |mut lent: Option<(Only, Job)>| {
            while let Some((worker, job)) = lent {
                queue.counters.started(Duration::ZERO);
                drop(job);
                serve(&worker);
                lent = queue.next(worker);
            }
        };
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (queue, serve, serve_all) = (&queue, &serve, &serve_all);
                scope.spawn(move || {
                    for round in 0..EVENTS {
                        let here = (number + round) % 3 > 0;
                        if here && let Some(worker) = queue.lend_idle() {
                            queue.counters.started(Duration::ZERO);
                            serve(&worker);
                            serve_all(queue.next_here(worker));
                        } else {
                            serve_all(queue.admit(job()));
                        }
                    }
                });
            }
        });
        assert_eq!(queue.wanted.load(Relaxed), 0, "none was forgotten");
        assert_eq!(handled.load(Ordering::SeqCst), THREADS * EVENTS);
        assert_eq!((queue.open_events(), queue.counters.in_flight()), (0, 0));
        assert_eq!(queue.withdraw_idle().len(), WORKERS);
    }
}
