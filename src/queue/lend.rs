//! Which of the workers that wait gets the next event.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

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

impl<W: Lend> Queue<W> {
    /// An idle worker for one event that whoever asks hands to it at once, without a job. `None`: there is none, or the
    /// pool stops; then nothing has been counted.
    pub fn lend_idle(&self) -> Option<W> {
        if !self.open(1) {
            return None;
        }
        let (worker, idle_percent) = match self.take_kept() {
            Some(worker) => (Some(worker), self.idle_percent.load(Relaxed)),
            None => {
                let mut state = self.lock();
                let idle_percent = self.measure_idle(&state);
                (self.idle_worker(&mut state), idle_percent)
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

    /// As [`Queue::next`], for who got the worker by [`Queue::lend_idle`]: this thread keeps it for the next event that
    /// comes here, which costs no memory that other processors write to. Nobody waits longer for that.
    pub fn next_here(&self, worker: W) -> Option<(W, Job)> {
        if self.counters.waiting.load(Relaxed) > 0 {
            return self.next(worker);
        }
        if let Some(other) = self.kept.mine().swap(Some(worker)) {
            return self.next(other);
        }
        // Whoever waits has been counted before it took what is kept here, or it takes this.
        if self.counters.waiting.load(SeqCst) > 0
            && let Some(worker) = self.kept.mine().take()
        {
            return self.next(worker);
        }
        None
    }

    /// The worker that this thread keeps, unless others wait for one.
    fn take_kept(&self) -> Option<W> {
        if self.counters.waiting.load(Relaxed) > 0 {
            return None;
        }
        self.kept.mine().take()
    }

    /// The worker that gets the next event, wherever it is idle. Before this finds none for an event that waits then, the
    /// event is counted as one that waits.
    pub(super) fn idle_worker(&self, state: &mut State<W>) -> Option<W> {
        let kept = || if W::ONE_PLACE { self.kept.all().find_map(AtomicCell::take) } else { None };
        lend(&mut state.idle).or_else(kept)
    }

    /// No thread keeps a worker any more.
    pub fn release_kept(&self) -> Vec<(W, Job)> {
        let kept = self.kept.all().filter_map(AtomicCell::take);
        kept.filter_map(|worker| self.next(worker)).collect()
    }

    /// Remembers how many workers are idle. That is asked now and then: to know it at each event would cost more than
    /// an empty handler does.
    pub fn note_idle(&self) {
        let idle_here = self.lock().idle.len();
        let workers = self.counters.workers.len();
        let idle = workers.saturating_sub(usize::try_from(self.counters.in_flight()).unwrap_or(0));
        self.kept_count.store(idle.saturating_sub(idle_here), Relaxed);
        self.idle_percent.store((idle * 100 / workers.max(1)) as u64, Relaxed);
    }

    /// How many of all workers are idle, percent.
    pub(super) fn measure_idle(&self, state: &State<W>) -> u64 {
        let workers = self.counters.workers.len().max(1);
        // A worker with several connections may be idle several times over.
        let idle = state.idle.len() + self.kept_count.load(Relaxed);
        (idle * 100 / workers).min(100) as u64
    }
}
