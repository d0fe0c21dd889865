//! What a pool says of itself: read by probes at any time, written only when a worker's state changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

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
    /// For people and for the web admin.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "initializing",
            Self::Ready => "ready",
            Self::Restarting(_) => "restarting",
            Self::Stopped => "stopped",
        }
    }
}

/// All workers of a pool.
#[derive(Debug)]
pub struct Status {
    workers: Mutex<Vec<(WorkerState, SystemTime)>>,
    not_ready: AtomicU64,
    beyond_help: AtomicBool,
}

impl Status {
    /// For a pool of that many workers, all of them starting.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: Mutex::new(vec![(WorkerState::Starting, SystemTime::now()); workers]),
            not_ready: AtomicU64::new(workers as u64),
            beyond_help: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(WorkerState, SystemTime)>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker's state changes.
    pub fn set(&self, worker: usize, state: WorkerState) {
        let mut workers = self.lock();
        if let Some(entry) = workers.get_mut(worker)
            && entry.0 != state
        {
            *entry = (state, SystemTime::now());
        }
        let not_ready = workers.iter().filter(|(state, _)| *state != WorkerState::Ready).count();
        self.not_ready.store(not_ready as u64, Ordering::Release);
    }

    /// Whether every worker is ready.
    pub fn ready(&self) -> bool {
        self.not_ready.load(Ordering::Acquire) == 0
    }

    /// All states, with the time each began.
    pub fn workers(&self) -> Vec<(WorkerState, SystemTime)> {
        self.lock().clone()
    }

    /// Only a restart of the whole process helps.
    pub fn set_beyond_help(&self, value: bool) {
        self.beyond_help.store(value, Ordering::Release);
    }

    /// Whether only a restart of the whole process helps.
    pub fn beyond_help(&self) -> bool {
        self.beyond_help.load(Ordering::Acquire)
    }
}
