//! Whether the processor can do its work now, and if not, why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;

use crate::pool::status::{Status, WorkerState};
use crate::shutdown::Shutdown;

/// What readiness is judged from.
#[derive(Debug)]
pub struct Readiness {
    started: AtomicBool,
    since: SystemTime,
    shutdown: Shutdown,
    /// Pools by the name of their trigger or allocator.
    pools: OnceLock<Vec<(String, Arc<Status>)>>,
}

/// One cause of not being ready.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Reason {
    /// `starting`, `draining`, `worker_starting`, `worker_restarting`, `worker_stopped`, `stuck`.
    pub code: &'static str,
    /// Trigger or shared pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Index of the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// RFC 3339.
    pub since: String,
}

impl Readiness {
    /// Not ready until [`Readiness::started`].
    pub fn new(shutdown: Shutdown) -> Self {
        Self { started: AtomicBool::new(false), since: SystemTime::now(), shutdown, pools: OnceLock::new() }
    }

    /// The pools, once they exist.
    pub fn watch(&self, pools: Vec<(String, Arc<Status>)>) {
        self.pools.set(pools).unwrap_or_default(); // Set once, at start.
    }

    /// The start has ended well.
    pub fn started(&self) {
        self.started.store(true, Ordering::Release);
    }

    fn pools(&self) -> &[(String, Arc<Status>)] {
        self.pools.get().map_or(&[], Vec::as_slice)
    }

    /// Whether events are accepted and every worker is ready.
    pub fn ready(&self) -> bool {
        self.started.load(Ordering::Acquire)
            && !self.shutdown.draining.is_cancelled()
            && self.pools().iter().all(|(_, status)| status.ready())
    }

    /// False only when nothing but a restart of the process helps.
    pub fn live(&self) -> bool {
        !self.pools().iter().any(|(_, status)| status.beyond_help())
    }

    /// Why it is not ready.
    pub fn reasons(&self) -> Vec<Reason> {
        let plain = |code| Reason { code, trigger: None, worker: None, cause: None, since: time(self.since) };
        let mut reasons = Vec::new();
        if !self.started.load(Ordering::Acquire) {
            reasons.push(plain("starting"));
        }
        if self.shutdown.draining.is_cancelled() {
            reasons.push(plain("draining"));
        }
        for (name, status) in self.pools() {
            for (index, (state, since)) in status.workers().into_iter().enumerate() {
                let (code, cause) = match state {
                    WorkerState::Ready => continue,
                    WorkerState::Starting => ("worker_starting", None),
                    WorkerState::Restarting(cause) => ("worker_restarting", Some(cause)),
                    WorkerState::Stopped => ("worker_stopped", None),
                };
                let since = time(since);
                reasons.push(Reason { code, trigger: Some(name.clone()), worker: Some(index), cause, since });
            }
        }
        reasons
    }

    /// Why it is not live.
    pub fn dead_reasons(&self) -> Vec<Reason> {
        let stuck = self.pools().iter().filter(|(_, status)| status.beyond_help());
        stuck
            .map(|(name, _)| Reason {
                code: "stuck",
                trigger: Some(name.clone()),
                worker: None,
                cause: Some("too many calls into the handler do not return".to_owned()),
                since: time(self.since),
            })
            .collect()
    }
}

fn time(at: SystemTime) -> String {
    Timestamp::try_from(at).unwrap_or_default().to_string()
}
