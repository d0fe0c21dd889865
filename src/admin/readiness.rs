//! Whether the processor can do its work now, and if not, why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use jiff::Timestamp;
use serde::Serialize;

use crate::link::Link;
use crate::pool::status::{Status, Worker, WorkerState};
use crate::shutdown::Shutdown;

/// Workers that are named in one answer, of each pool.
const WORKERS_NAMED_MAX: usize = 100;

/// What readiness is judged from.
#[derive(Debug)]
pub struct Readiness {
    started: AtomicBool,
    since: SystemTime,
    shutdown: Shutdown,
    watched: OnceLock<Watched>,
}

/// What can make a processor that runs unready.
#[derive(Debug, Default)]
pub struct Watched {
    /// Pools by the name of their trigger or allocator.
    pub pools: Vec<(String, Arc<Status>)>,
    /// Links by the name of their trigger.
    pub links: Vec<(String, Link)>,
}

/// One cause of not being ready, or of being ready with less than everything.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct Reason {
    /// `starting`, `draining`, `no_worker`, `worker_starting`, `worker_restarting`, `worker_stopped`,
    /// `trigger_disconnected`, `stuck`.
    pub code: &'static str,
    /// Trigger or shared pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger: Option<String>,
    /// Index of the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<usize>,
    /// How often in a row the worker ended before it was steady.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// RFC 3339.
    pub since: String,
}

/// Why the processor is not ready, and what it lacks though it is.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Empty: it is ready.
    pub reasons: Vec<Reason>,
    /// Workers that are away while others of their pool serve on.
    pub degraded: Vec<Reason>,
}

impl Readiness {
    /// Not ready until [`Readiness::started`].
    pub fn new(shutdown: Shutdown) -> Self {
        Self { started: AtomicBool::new(false), since: SystemTime::now(), shutdown, watched: OnceLock::new() }
    }

    /// What to watch, once it exists.
    pub fn watch(&self, watched: Watched) {
        self.watched.set(watched).unwrap_or_default(); // Set once, at start.
    }

    /// The start has ended well.
    pub fn started(&self) {
        self.started.store(true, Ordering::Release);
    }

    fn pools(&self) -> &[(String, Arc<Status>)] {
        self.watched.get().map_or(&[], |watched| &watched.pools)
    }

    fn links(&self) -> &[(String, Link)] {
        self.watched.get().map_or(&[], |watched| &watched.links)
    }

    /// Whether events are accepted, every pool has a worker, no worker restarts repeatedly and every link is up.
    pub fn ready(&self) -> bool {
        self.started.load(Ordering::Acquire)
            && !self.shutdown.draining.is_cancelled()
            && self.live()
            && self.pools().iter().all(|(_, status)| status.ready())
            && self.links().iter().all(|(_, link)| link.state().is_none())
    }

    /// False only when nothing but a restart of the process helps.
    pub fn live(&self) -> bool {
        self.pools().iter().all(|(_, status)| status.beyond_help().is_none())
    }

    /// Why it is ready or not, in full.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        let reasons = &mut verdict.reasons;
        if !self.started.load(Ordering::Acquire) {
            reasons.push(Reason::new("starting", self.since));
        }
        if self.shutdown.draining.is_cancelled() {
            reasons.push(Reason::new("draining", self.shutdown.draining_since().unwrap_or(self.since)));
        }
        reasons.extend(self.dead_reasons());
        for (name, link) in self.links() {
            if let Some(down) = link.state() {
                reasons.push(Reason::new("trigger_disconnected", down.since).of(name, down.cause));
            }
        }
        for (name, status) in self.pools() {
            judge(name, &status.workers(), &mut verdict);
        }
        verdict
    }

    /// Why it is not live.
    pub fn dead_reasons(&self) -> Vec<Reason> {
        let stuck = self.pools().iter().filter_map(|(name, status)| Some((name, status.beyond_help()?)));
        let cause = "too many calls into the handler do not return";
        stuck.map(|(name, since)| Reason::new("stuck", since).of(name, cause)).collect()
    }
}

/// What is wrong with one pool.
fn judge(name: &str, workers: &[Worker], verdict: &mut Verdict) {
    let away = |worker: &Worker| worker.state != WorkerState::Ready;
    let none_ready = workers.iter().all(away);
    if none_ready {
        let since = workers.iter().map(|worker| worker.since).max().unwrap_or(SystemTime::UNIX_EPOCH);
        let cause = format!("none of its {} workers is ready", workers.len());
        verdict.reasons.push(Reason::new("no_worker", since).of(name, cause));
    }
    let concerned = |worker: &Worker| away(worker) || worker.restarts_repeatedly();
    let named = workers.iter().enumerate().filter(|(_, worker)| concerned(worker)).take(WORKERS_NAMED_MAX);
    for (index, worker) in named {
        let code = match worker.state {
            WorkerState::Starting => "worker_starting",
            WorkerState::Ready | WorkerState::Restarting(_) => "worker_restarting",
            WorkerState::Stopped => "worker_stopped",
        };
        let mut reason = Reason::new(code, worker.since);
        (reason.trigger, reason.worker) = (Some(name.to_owned()), Some(index));
        reason.failures = (worker.failures > 0).then_some(worker.failures);
        reason.cause = (!worker.cause.is_empty()).then(|| worker.cause.clone());
        let counts = none_ready || worker.restarts_repeatedly();
        if counts { &mut verdict.reasons } else { &mut verdict.degraded }.push(reason);
    }
}

impl Reason {
    fn new(code: &'static str, since: SystemTime) -> Self {
        let since = Timestamp::try_from(since).unwrap_or_default().to_string();
        Self { code, trigger: None, worker: None, failures: None, cause: None, since }
    }

    fn of(self, trigger: &str, cause: impl Into<String>) -> Self {
        Self { trigger: Some(trigger.to_owned()), cause: Some(cause.into()), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::PoolCounters;

    fn running(workers: usize) -> (Readiness, Arc<Status>, Link, Shutdown) {
        let (shutdown, link) = (Shutdown::default(), Link::default());
        let status = Arc::new(Status::new(PoolCounters::new(workers)));
        (0..workers).for_each(|worker| status.set(worker, WorkerState::Ready));
        let readiness = Readiness::new(shutdown.clone());
        let pools = vec![("web".to_owned(), status.clone())];
        readiness.watch(Watched { pools, links: vec![("orders".to_owned(), link.clone())] });
        readiness.started();
        (readiness, status, link, shutdown)
    }

    /// The codes of both lists, which must agree with the plain answer.
    fn codes(readiness: &Readiness) -> (Vec<&'static str>, Vec<&'static str>) {
        let verdict = readiness.verdict();
        assert_eq!(readiness.ready(), verdict.reasons.is_empty(), "{verdict:?}");
        let codes = |reasons: &[Reason]| reasons.iter().map(|reason| reason.code).collect();
        (codes(&verdict.reasons), codes(&verdict.degraded))
    }

    #[test]
    fn a_link_that_is_down_is_a_reason_until_it_is_up_again() {
        let (readiness, _, link, _) = running(1);
        assert_eq!(codes(&readiness), (vec![], vec![]));
        link.down("broker at 127.0.0.1:4222 refuses connections");
        assert_eq!(codes(&readiness), (vec!["trigger_disconnected"], vec![]));
        let reason = readiness.verdict().reasons.remove(0);
        assert_eq!(reason.trigger.as_deref(), Some("orders"));
        assert_eq!(reason.cause.as_deref(), Some("broker at 127.0.0.1:4222 refuses connections"));
        assert!(readiness.live(), "a restart would not bring the broker back");
        link.up();
        assert_eq!(codes(&readiness), (vec![], vec![]));
    }

    #[test]
    fn one_worker_of_several_that_is_replaced_is_told_and_no_reason() {
        let (readiness, status, _, _) = running(2);
        status.set(1, WorkerState::Restarting("killed by signal 9".into()));
        assert_eq!(codes(&readiness), (vec![], vec!["worker_restarting"]));
        status.set(0, WorkerState::Restarting("killed by signal 9".into()));
        let all = vec!["no_worker", "worker_restarting", "worker_restarting"];
        assert_eq!(codes(&readiness), (all, vec![]));
        assert!(readiness.live(), "they are being replaced");
        (0..2).for_each(|worker| status.set(worker, WorkerState::Ready));
        assert_eq!(codes(&readiness), (vec![], vec![]));
    }

    #[test]
    fn a_worker_that_restarts_repeatedly_is_a_reason_also_in_the_moments_it_is_ready() {
        let (readiness, status, _, _) = running(2);
        for _ in 0..3 {
            status.set(1, WorkerState::Restarting("exited with code 7".into()));
        }
        status.set(1, WorkerState::Ready);
        assert_eq!(codes(&readiness), (vec!["worker_restarting"], vec![]));
        let reason = readiness.verdict().reasons.remove(0);
        assert_eq!((reason.worker, reason.failures), (Some(1), Some(3)));
        assert_eq!(reason.cause.as_deref(), Some("exited with code 7"));
    }

    #[test]
    fn what_only_a_restart_of_the_process_helps_is_neither_ready_nor_live() {
        let (readiness, status, _, shutdown) = running(3);
        status.set_beyond_help(true);
        assert_eq!(codes(&readiness), (vec!["stuck"], vec![]));
        assert!(!readiness.live());
        shutdown.drain();
        assert_eq!(codes(&readiness), (vec!["draining", "stuck"], vec![]));
        status.set_beyond_help(false);
        assert_eq!(codes(&readiness), (vec!["draining"], vec![]));
        assert!(readiness.live());
    }

    #[test]
    fn an_answer_names_a_bounded_number_of_workers() {
        let (readiness, status, _, _) = running(1000);
        (0..1000).for_each(|worker| status.set(worker, WorkerState::Restarting("gone".into())));
        assert_eq!(readiness.verdict().reasons.len(), 1 + WORKERS_NAMED_MAX);
    }
}
