//! Which of the workers that wait gets the next event.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{Queue, State};

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
        self.open.fetch_add(1, SeqCst); // First, as in `admit`.
        let (worker, idle_percent) =
            if self.closed.load(SeqCst) { (None, 0) } else { self.lend(&mut self.lock()) };
        if worker.is_none() {
            self.ended(1);
            return None;
        }
        self.counters.allocations.fetch_add(1, Relaxed);
        self.counters.allocated_at_once.fetch_add(1, Relaxed);
        self.counters.idle_percent_sum.fetch_add(idle_percent, Relaxed);
        worker
    }

    /// The worker that gets the next event, and how many of all were idle, percent.
    pub(super) fn lend(&self, state: &mut State<W>) -> (Option<W>, u64) {
        let workers = self.counters.workers.len().max(1);
        // A worker with several connections may be idle several times over.
        let idle_percent = (state.idle.len() * 100 / workers).min(100);
        (lend(&mut state.idle), idle_percent as u64)
    }
}
