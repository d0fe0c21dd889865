//! Keeps workers: starts them, replaces the dead, ends them. The only place that knows when and how often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::Stop;
use super::backoff::Backoff;
use super::recycle::Recycling;
use super::status::{Status, WorkerState};
use crate::event::{HandlerError, WorkerId};
use crate::fields;
use crate::metrics::RestartReason;
use crate::queue::ReplySender;
use crate::runtime::StartError;
use crate::runtime::inprocess::{Broken, Source, Workers};
use crate::runtime::shim::process::{Process, describe, oom_kills, restart_reason};
use crate::runtime::shim::protocol::v2::ControlCode;
use crate::runtime::shim::start::{Recipe, Running};
use crate::runtime::shim::worker::{Command, Ended};

/// How long the end of a process is waited for before its events are answered.
const EXIT_WAIT: Duration = Duration::from_millis(250);
/// From the deadline to SIGABRT, which makes the shim show where it is.
const ABORT_AFTER: Duration = Duration::from_millis(100);
/// From SIGABRT to SIGKILL.
const KILL_AFTER: Duration = Duration::from_millis(400);
/// How long the end of a process is waited for whose event was taken back, before the next one starts.
const RETIRED_WAIT: Duration = Duration::from_millis(1000);
/// How long a shim may take to exit once its connection is closed, and then after SIGTERM.
const EXIT_GRACE: Duration = Duration::from_millis(1000);
/// The same for a shim that has used up its time already.
const LATE_GRACE: Duration = Duration::from_millis(100);
/// Shortest wait before a replacement that did not start is tried again, where the old worker still serves.
const RECYCLE_AGAIN: Duration = Duration::from_secs(1);

/// What keeps one shim worker.
#[derive(Clone)]
pub(super) struct ShimKeeper {
    pub(super) recipe: Arc<Recipe>,
    pub(super) id: WorkerId,
    pub(super) status: Arc<Status>,
    /// Restarts at the same time are few.
    pub(super) restarts: Arc<Semaphore>,
    /// When it is replaced by a fresh one; `None`: never.
    pub(super) recycling: Option<Recycling>,
    /// Of the pool's workers one is recycled at a time: until it has ended, there is one process more.
    pub(super) recycles: Arc<Semaphore>,
    /// Asked for: end the worker and do not replace it.
    pub(super) stop: Stop,
}

/// What became of a worker.
enum Fate {
    /// It was told to.
    Stopped,
    /// By itself, or it had to be.
    Lost,
    /// It had done nothing wrong: an event was taken back.
    Replaced,
    /// It has served long enough, and another one serves in its place.
    Succeeded(Running),
}

/// A worker that serves in the place of another.
struct Successor {
    running: Running,
    /// Why the other one goes.
    cause: String,
    /// Kept until the other one has ended.
    permit: OwnedSemaphorePermit,
}

impl ShimKeeper {
    /// Lasts until the worker has been stopped. `first` learns how the first start went; after a failed one it ends.
    pub(super) async fn keep(self, first: oneshot::Sender<Result<(), StartError>>) {
        let mut first = Some(first);
        let mut backoff = Backoff::default();
        let mut leaving = JoinSet::new();
        while !self.stop.asked.is_cancelled() {
            let restarting = first.is_none();
            let permit = if restarting { self.restarts.acquire().await.ok() } else { None };
            let mut begun = Instant::now();
            let started = tokio::select! {
                started = self.recipe.start(&self.id) => started,
                () = self.stop.asked.cancelled() => break,
            };
            drop(permit);
            let mut pause = None;
            match (started, first.take()) {
                (Err(error), Some(first)) => return first.send(Err(error)).unwrap_or_default(),
                (Err(error), None) => {
                    let fields = fields! {"worker" => self.id.index, "err" => error.to_string()};
                    self.recipe.logger.error("Can't restart worker", fields);
                    self.status.set(self.id.index, WorkerState::Restarting(error.to_string()));
                }
                (Ok(running), first) => {
                    self.status.set(self.id.index, WorkerState::Ready);
                    if let Some(first) = first {
                        first.send(Ok(())).unwrap_or_default();
                    }
                    let mut running = running;
                    let fate = loop {
                        match self.attend(running, &mut leaving).await {
                            Fate::Succeeded(successor) => (running, begun) = (successor, Instant::now()),
                            fate => break fate,
                        }
                    };
                    match fate {
                        Fate::Stopped => break,
                        Fate::Lost | Fate::Succeeded(_) => {}
                        Fate::Replaced => pause = Some(Backoff::without_blame(begun.elapsed())),
                    }
                }
            }
            let pause = pause.unwrap_or_else(|| backoff.after(begun.elapsed()));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.asked.cancelled() => {}
            }
        }
        while leaving.join_next().await.is_some() {}
        self.status.set(self.id.index, WorkerState::Stopped);
    }

    /// Watches a worker until it ends, or another one serves in its place.
    async fn attend(&self, mut running: Running, leaving: &mut JoinSet<()>) -> Fate {
        let kills_before = oom_kills();
        let pid = running.process.pid();
        let ended = tokio::select! {
            biased; // A successor that is ready may have an event already.
            successor = self.successor(pid) => return self.hand_over(running, successor, leaving),
            ended = ended(&mut running) => ended,
            () = self.stop.asked.cancelled() => {
                self.end(running, self.stop.allowed()).await;
                return Fate::Stopped;
            }
        };
        self.settle(ended, running, kills_before, true).await
    }

    /// Says how a worker ended, answers its callers, and ends what is left of it. `missed`: nobody serves in its place.
    async fn settle(
        &self,
        (ended, waiting): (Ended, Vec<ReplySender>),
        mut running: Running,
        kills_before: u64,
        missed: bool,
    ) -> Fate {
        if matches!(ended, Ended::TimedOut { ahead: true } | Ended::Replaced { at_once: true }) {
            running.process.signal(Signal::ABORT); // Before it gets to events that others have now.
        }
        let (reason, cause) = self.explain(&ended, &mut running.process, kills_before).await;
        if missed {
            self.recipe.queue.counters().restarted(self.id.index, reason);
            // Before its callers are answered: whoever has an answer finds the probes of the same mind.
            let blamed = !matches!(ended, Ended::Replaced { .. });
            self.status.end(self.id.index, cause.clone(), blamed);
        }
        for reply in waiting {
            let error = HandlerError::Lost(format!("the worker that had this event was lost: {cause}"));
            drop(reply.send(Err(error.into()))); // The client may have left.
        }
        match ended {
            Ended::TimedOut { ahead } => drop(tokio::spawn(retire(running.process, ahead))),
            Ended::Replaced { at_once } => {
                // What replaces it must not run beside it; a process that cannot even be killed is not waited for.
                let retired = tokio::spawn(retire(running.process, at_once));
                drop(tokio::time::timeout(RETIRED_WAIT, retired).await);
                return Fate::Replaced;
            }
            _ => running.process.kill_group(),
        }
        Fate::Lost
    }

    /// Once the worker of this process has served long enough: starts another one. Lasts until that is ready; as long
    /// as it is not, the old one serves on. Dropped, it leaves nothing behind.
    async fn successor(&self, pid: i32) -> Successor {
        let Some(recycling) = &self.recycling else { return std::future::pending().await };
        let cause = recycling.due(pid, self.id.index, self.recipe.queue.counters()).await;
        let mut backoff = Backoff::default();
        let mut failures = 0_u32;
        loop {
            let Ok(permit) = self.recycles.clone().acquire_owned().await else {
                return std::future::pending().await; // Never closed.
            };
            match self.recipe.start(&self.id).await {
                Ok(running) => return Successor { running, cause, permit },
                Err(error) => {
                    let fields = fields! {
                        "trigger" => self.id.trigger_name, "worker" => self.id.index, "pid" => pid, "cause" => cause,
                        "err" => error.to_string()
                    };
                    let message = "Worker cannot be recycled, because its replacement does not start; it stays in service";
                    match failures {
                        0 => self.recipe.logger.warn(message, fields),
                        _ => self.recipe.logger.debug(message, fields),
                    }
                    failures += 1;
                }
            }
            drop(permit);
            tokio::time::sleep(backoff.after(Duration::ZERO).max(RECYCLE_AGAIN)).await;
        }
    }

    /// From now on the successor is the worker; the old one ends what it has begun, and goes.
    fn hand_over(&self, old: Running, successor: Successor, leaving: &mut JoinSet<()>) -> Fate {
        let Successor { running, cause, permit } = successor;
        let fields = fields! {
            "trigger" => self.id.trigger_name, "worker" => self.id.index, "pid" => old.process.pid(),
            "successor" => running.process.pid(), "cause" => cause
        };
        self.recipe.logger.info("Recycling worker", fields);
        self.recipe.queue.counters().restarted(self.id.index, RestartReason::Recycle);
        while leaving.try_join_next().is_some() {}
        leaving.spawn(self.clone().let_go(old, permit));
        Fate::Succeeded(running)
    }

    /// Lets a worker finish what it has begun, however long that takes, and ends it.
    async fn let_go(self, mut running: Running, permit: OwnedSemaphorePermit) {
        let kills_before = oom_kills();
        let (done, finished) = oneshot::channel();
        drop(running.commands.send(Command::Finish(done)).await);
        tokio::select! {
            biased; // Callers of one that has ended have to be answered.
            ended = ended(&mut running) => drop(self.settle(ended, running, kills_before, false).await),
            Ok(()) = finished => {
                let allowed = self.recycling.as_ref().map(|recycling| recycling.allowed);
                self.end(running, allowed.unwrap_or_default()).await;
            }
            () = self.stop.asked.cancelled() => self.end(running, self.stop.allowed()).await,
        }
        drop(permit);
    }

    /// Says in the log why a worker ended; reason and cause for the counters, the callers and the probes.
    async fn explain(
        &self,
        ended: &Ended,
        process: &mut Process,
        kills_before: u64,
    ) -> (RestartReason, String) {
        let logger = &self.recipe.logger;
        let (pid, worker, trigger) = (process.pid(), self.id.index, &self.id.trigger_name);
        match ended {
            Ended::TimedOut { .. } => {
                let elapsed = self.recipe.event_timeout.unwrap_or_default().as_secs_f64();
                let fields =
                    fields! {"trigger" => trigger, "worker" => worker, "elapsed" => elapsed, "pid" => pid};
                logger.info("Restarting worker due to timeout", fields);
                (RestartReason::Timeout, "event timed out".to_owned())
            }
            Ended::Replaced { .. } => {
                let fields = fields! {"trigger" => trigger, "worker" => worker, "pid" => pid};
                logger.info("Restarting worker, because its event was replaced by the next one", fields);
                (RestartReason::Recycle, "its event was replaced by the next one".to_owned())
            }
            Ended::Protocol(error) => {
                let fields = fields! {"worker" => worker, "pid" => pid, "err" => error};
                logger.error("Worker broke the shim protocol", fields);
                (RestartReason::Protocol, error.clone())
            }
            Ended::Recycled(cause) => {
                let fields = fields! {"worker" => worker, "pid" => pid, "cause" => cause};
                logger.info("Restarting worker", fields);
                (RestartReason::Recycle, cause.clone())
            }
            Ended::Lost | Ended::Closed => {
                let status = process.exited(EXIT_WAIT).await;
                let oom = oom_kills() > kills_before;
                let cause = match status {
                    Some(status) => describe(status, oom),
                    None => "closed its connection".to_owned(),
                };
                let fields = fields! {
                    "trigger" => trigger, "worker_id" => worker.to_string(), "pid" => pid, "status" => cause,
                    "exitCode" => status.and_then(|status| status.code())
                };
                logger.error("Unexpected termination of child process", fields);
                let reason = status.map_or(RestartReason::Exit, |status| restart_reason(status, oom));
                (reason, cause)
            }
        }
    }

    /// Ends a worker: termination callback, end of file, SIGTERM, SIGKILL; each with its time.
    async fn end(&self, mut running: Running, allowed: Duration) {
        let (done, outcome) = oneshot::channel();
        let terminate = Command::Control(ControlCode::Terminate, allowed, done);
        let mut grace = EXIT_GRACE;
        if running.commands.send(terminate).await.is_ok() {
            match tokio::time::timeout(allowed, outcome).await {
                Ok(Ok(Err(text))) => {
                    let fields = fields! {"worker" => self.id.index, "err" => text};
                    self.recipe.logger.warn("Termination callback failed", fields);
                }
                Ok(_) => {}
                Err(_) => {
                    let fields = fields! {"worker" => self.id.index, "pid" => running.process.pid()};
                    self.recipe.logger.warn("Termination callback took too long", fields);
                    grace = LATE_GRACE;
                }
            }
            drop(running.commands.send(Command::Close).await);
        }
        if running.process.exited(grace).await.is_none() {
            running.process.signal(Signal::TERM);
            if running.process.exited(grace).await.is_none() {
                running.process.kill_group();
                running.process.exited(EXIT_GRACE).await;
            }
        }
    }
}

/// Waits until a worker has ended, with the callers who still wait.
async fn ended(running: &mut Running) -> (Ended, Vec<ReplySender>) {
    tokio::select! {
        ended = &mut running.ended => ended.unwrap_or((Ended::Lost, Vec::new())),
        _ = running.process.exit() => {
            // Its socket may still be open in something it forked.
            match tokio::time::timeout(EXIT_WAIT, &mut running.ended).await {
                Ok(ended) => ended.unwrap_or((Ended::Lost, Vec::new())),
                Err(_) => {
                    drop(running.commands.send(Command::Abort).await);
                    (&mut running.ended).await.unwrap_or((Ended::Lost, Vec::new()))
                }
            }
        }
    }
}

/// Ends a process whose handler does not return, and lets it show where it is.
async fn retire(mut process: Process, at_once: bool) {
    let grace = if at_once { Duration::ZERO } else { ABORT_AFTER };
    if process.exited(grace).await.is_none() {
        process.signal(Signal::ABORT);
        process.exited(KILL_AFTER).await;
    }
    process.kill_group();
    process.exit().await;
}

/// What keeps the in-process workers of a pool.
pub(super) struct InProcessKeeper {
    pub(super) workers: Arc<Workers>,
    pub(super) source: Source,
    /// The pool's name; the index does not matter.
    pub(super) pool: WorkerId,
    pub(super) status: Arc<Status>,
    pub(super) stuck_max: usize,
    /// Asked for: replace nobody any more.
    pub(super) stop: Stop,
}

impl InProcessKeeper {
    /// Replaces workers that broke or were given up, until the pool is stopped.
    pub(super) async fn keep(self, mut broken: mpsc::Receiver<Broken>) {
        let mut replacements = JoinSet::new();
        // Workers that are not replaced because too many calls hang.
        let mut missing: Vec<usize> = Vec::new();
        loop {
            let Broken { index, reason } = tokio::select! {
                () = self.stop.asked.cancelled() => break,
                Some(broken) = broken.recv() => broken,
                Some(_) = replacements.join_next() => continue,
                () = self.workers.wait_returned(), if !missing.is_empty() => {
                    if self.workers.stuck() <= self.stuck_max {
                        missing.drain(..).for_each(|index| self.replace(index, &mut replacements));
                        self.status.set_beyond_help(false);
                    }
                    continue;
                }
            };
            self.workers.queue().counters().restarted(index, reason);
            let too_many = self.workers.stuck() > self.stuck_max;
            let cause = match reason {
                _ if too_many => "more calls do not return than NUCLIO_STUCK_THREADS_MAX allows",
                RestartReason::Timeout => "its call does not return",
                _ => "it broke the handler ABI",
            };
            self.status.set(index, WorkerState::Restarting(cause.to_owned()));
            if too_many {
                self.status.set_beyond_help(true);
                missing.push(index);
                continue;
            }
            self.replace(index, &mut replacements);
        }
        // One that is inside the handler's initialization goes on there; nobody waits for it.
        replacements.shutdown().await;
    }

    /// One that is slow to start does not delay the others.
    fn replace(&self, index: usize, replacements: &mut JoinSet<()>) {
        let id = WorkerId { index, ..self.pool.clone() };
        replacements.spawn(replace(self.workers.clone(), self.source.clone(), id, self.status.clone()));
    }
}

/// Starts an in-process worker in the place of another, however often that takes.
async fn replace(workers: Arc<Workers>, source: Source, id: WorkerId, status: Arc<Status>) {
    let mut backoff = Backoff::default();
    backoff.after(Duration::ZERO); // Its predecessor was replaced at once.
    loop {
        let (starter, source, worker) = (workers.clone(), source.clone(), id.clone());
        let started = tokio::task::spawn_blocking(move || starter.start_worker(&source, &worker)).await;
        let error = match started {
            Ok(Ok(())) => return status.set(id.index, WorkerState::Ready),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        workers.logger().error("Can't restart worker", fields! {"worker" => id.index, "err" => error});
        status.set(id.index, WorkerState::Restarting(error));
        tokio::time::sleep(backoff.after(Duration::ZERO)).await;
    }
}
