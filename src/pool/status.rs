//! What a pool says of itself: read by probes at any time, written only when a worker's state changes.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::metrics::{PoolCounters, WORKER_STATES};

/// A worker that ended this often in a row, each time before it was [`STEADY`], restarts repeatedly.
pub const REPEATEDLY: u32 = 3;
/// A worker that was ready for this long has recovered.
pub const STEADY: Duration = Duration::from_secs(1);

/// State of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerState {
    /// Not ready for the first time yet.
    Starting,
    /// Handles events.
    Ready,
    /// Its predecessor ended; why.
    Restarting(String),
    /// Told to end.
    Stopped,
}

impl WorkerState {
    fn index(&self) -> usize {
        match self {
            Self::Starting => 0,
            Self::Ready => 1,
            Self::Restarting(_) => 2,
            Self::Stopped => 3,
        }
    }

    /// For people, for the web admin and for metrics.
    pub fn word(&self) -> &'static str {
        WORKER_STATES[self.index()]
    }
}

/// One worker as probes see it.
#[derive(Debug, Clone)]
pub struct Worker {
    /// What it does now.
    pub state: WorkerState,
    /// Since when it does that, or since when it restarts repeatedly.
    pub since: SystemTime,
    /// How often in a row it ended before it was steady; 0: it is steady.
    pub failures: u32,
    /// Why it ended last; empty: it never did, or has recovered.
    pub cause: String,
}

impl Worker {
    /// Whether replacing it does not help: it ends again and again.
    pub fn restarts_repeatedly(&self) -> bool {
        self.failures >= REPEATEDLY
    }
}

/// All workers of a pool.
#[derive(Debug)]
pub struct Status {
    workers: Mutex<Vec<Entry>>,
    counters: Arc<PoolCounters>,
    beyond_help: Mutex<Option<SystemTime>>,
}

#[derive(Debug, Clone)]
struct Entry {
    state: WorkerState,
    since: SystemTime,
    /// The same by a clock that nobody sets.
    changed: Instant,
    failures: u32,
    failing_since: SystemTime,
    cause: String,
}

impl Entry {
    fn is_steady(&self, now: Instant) -> bool {
        self.state == WorkerState::Ready && now.saturating_duration_since(self.changed) >= STEADY
    }

    fn restarts_repeatedly(&self, now: Instant) -> bool {
        self.failures >= REPEATEDLY && !self.is_steady(now)
    }

    fn enter(&mut self, state: WorkerState, blamed: bool) {
        let now = Instant::now();
        if self.is_steady(now) {
            self.failures = 0;
            self.cause.clear();
        }
        if let WorkerState::Restarting(cause) = &state {
            if self.failures == 0 {
                self.failing_since = SystemTime::now();
            }
            self.failures = self.failures.saturating_add(u32::from(blamed));
            self.cause.clone_from(cause);
        }
        if self.state.index() != state.index() {
            (self.since, self.changed) = (SystemTime::now(), now);
        }
        self.state = state;
    }

    fn view(&self, now: Instant) -> Worker {
        let steady = self.is_steady(now);
        Worker {
            state: self.state.clone(),
            since: if self.restarts_repeatedly(now) { self.failing_since } else { self.since },
            failures: if steady { 0 } else { self.failures },
            cause: if steady { String::new() } else { self.cause.clone() },
        }
    }
}

impl Status {
    /// For the pool of these counters, all of its workers starting.
    pub fn new(counters: Arc<PoolCounters>) -> Self {
        let entry = Entry {
            state: WorkerState::Starting,
            since: SystemTime::now(),
            changed: Instant::now(),
            failures: 0,
            failing_since: SystemTime::now(),
            cause: String::new(),
        };
        let workers = counters.workers.len();
        counters.states[WorkerState::Starting.index()].store(workers as u64, Relaxed);
        Self { workers: Mutex::new(vec![entry; workers]), counters, beyond_help: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's state changes. Each [`WorkerState::Restarting`] is one more end of this worker.
    pub fn set(&self, worker: usize, state: WorkerState) {
        self.change(worker, state, true);
    }

    /// A worker has ended and is replaced. `blamed`: it counts as one of the ends in a row that make a worker one that
    /// ends again and again.
    pub fn end(&self, worker: usize, cause: String, blamed: bool) {
        self.change(worker, WorkerState::Restarting(cause), blamed);
    }

    fn change(&self, worker: usize, state: WorkerState, blamed: bool) {
        let mut workers = self.lock();
        let Some(entry) = workers.get_mut(worker) else { return };
        self.counters.states[entry.state.index()].fetch_sub(1, Relaxed);
        self.counters.states[state.index()].fetch_add(1, Relaxed);
        entry.enter(state, blamed);
    }

    /// Whether events are served well: some worker is ready, and none restarts repeatedly.
    pub fn ready(&self) -> bool {
        let now = Instant::now();
        let workers = self.lock();
        workers.iter().any(|entry| entry.state == WorkerState::Ready)
            && !workers.iter().any(|entry| entry.restarts_repeatedly(now))
    }

    /// All workers, in order.
    pub fn workers(&self) -> Vec<Worker> {
        let now = Instant::now();
        self.lock().iter().map(|entry| entry.view(now)).collect()
    }

    /// Whether only a restart of the whole process helps, from now on. Said again it stays the same trouble.
    pub fn set_beyond_help(&self, beyond: bool) {
        let mut since = self.beyond_help.lock().unwrap_or_else(PoisonError::into_inner);
        *since = beyond.then(|| since.unwrap_or_else(SystemTime::now));
    }

    /// Since when only a restart of the whole process helps; `None`: it is not so.
    pub fn beyond_help(&self) -> Option<SystemTime> {
        *self.beyond_help.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(workers: usize) -> Status {
        let status = Status::new(PoolCounters::new(workers));
        (0..workers).for_each(|worker| status.set(worker, WorkerState::Ready));
        status
    }

    fn die(status: &Status, worker: usize) {
        status.set(worker, WorkerState::Restarting("exited with code 1".into()));
    }

    /// As if a worker had been in its state for longer.
    fn age(status: &Status, worker: usize, by: Duration) {
        let entry = &mut status.lock()[worker];
        entry.changed = entry.changed.checked_sub(by).unwrap();
    }

    #[test]
    fn a_pool_is_ready_while_one_of_several_workers_is_replaced_and_not_without_any() {
        let status = Status::new(PoolCounters::new(2));
        assert!(!status.ready());
        (0..2).for_each(|worker| status.set(worker, WorkerState::Ready));
        assert!(status.ready());
        die(&status, 0);
        assert!(status.ready());
        die(&status, 1);
        assert!(!status.ready());
        status.set(0, WorkerState::Ready);
        assert!(status.ready());
    }

    #[test]
    fn a_worker_that_ends_again_and_again_makes_its_pool_unready_until_it_is_steady() {
        let status = status(2);
        for _ in 1..REPEATEDLY {
            die(&status, 1);
            assert!(status.ready());
            status.set(1, WorkerState::Ready);
        }
        die(&status, 1);
        assert!(!status.ready());
        status.set(1, WorkerState::Ready);
        assert!(!status.ready(), "it has not shown that it stays");
        assert_eq!((status.workers()[1].failures, status.workers()[1].restarts_repeatedly()), (3, true));
        age(&status, 1, STEADY);
        assert!(status.ready());
        assert_eq!((status.workers()[1].failures, status.workers()[1].cause.as_str()), (0, ""));
        die(&status, 1);
        assert!(status.ready(), "its record was clean");
        assert_eq!(status.workers()[1].failures, 1);
    }

    #[test]
    fn starts_that_fail_count_as_ends() {
        let status = status(2);
        (0..REPEATEDLY).for_each(|_| die(&status, 0));
        assert!(!status.ready());
        assert!(status.workers()[0].restarts_repeatedly());
        age(&status, 0, STEADY * 60);
        assert!(!status.ready(), "time alone heals nothing");
    }

    #[test]
    fn ends_that_are_nobodys_fault_do_not_count() {
        let status = status(1);
        for _ in 0..REPEATEDLY * 2 {
            status.end(0, "its event was replaced".into(), false);
            assert!(!status.ready());
            status.set(0, WorkerState::Ready);
            assert!(status.ready());
        }
        assert_eq!(status.workers()[0].failures, 0);
    }

    #[test]
    fn states_are_counted() {
        let status = status(3);
        die(&status, 2);
        die(&status, 2);
        status.set(0, WorkerState::Stopped);
        let counts: Vec<u64> = status.counters.states.iter().map(|count| count.load(Relaxed)).collect();
        assert_eq!(counts, [0, 1, 1, 1]);
    }
}
