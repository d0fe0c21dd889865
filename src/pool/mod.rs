//! A pool of workers of one runtime: events go in through [`Pool::submit`], whoever is free takes them. Knows no
//! trigger.

mod backoff;
mod keeper;
mod recycle;
pub mod status;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::event::{Event, WorkerId};
use crate::logging::Logger;
use crate::metrics::PoolCounters;
use crate::queue::{Job, Member, Queue, Reply};
use crate::reaper::Children;
pub use crate::runtime::inprocess::Submitted;
use crate::runtime::inprocess::monitor::{self, Monitor};
use crate::runtime::inprocess::reserve::Reserve;
use crate::runtime::inprocess::{Desk as InProcessDesk, Source, Workers};
use crate::runtime::shell;
use crate::runtime::shim::desk::Desk as TaskDesk;
use crate::runtime::shim::start::Recipe;
use crate::runtime::{Runtime, StartError};
use crate::turns::own;
use keeper::{InProcessKeeper, ShimKeeper};
pub use recycle::Recycling;
use status::{Status, WorkerState};

/// Most in-process calls at once, however many workers there are.
pub const CALLS_MAX: usize = 256;

/// What a pool needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Kind of the trigger that owns it; empty for a shared pool.
    pub trigger_kind: String,
    /// Trigger, or allocator of a shared pool.
    pub name: String,
    /// Number of workers.
    pub workers: usize,
    /// Longest time of one event.
    pub event_timeout: Option<Duration>,
    /// Events in work at once, per worker.
    pub in_flight_per_worker: usize,
    /// The trigger gathers batches.
    pub batches: bool,
    /// Events written ahead to a busy shim, at most.
    pub ahead_max: usize,
    /// Longest time until a shim is ready.
    pub start_timeout: Duration,
    /// Events that may wait for a worker.
    pub waiting_max: usize,
    /// In-process calls that may be stuck before the process is beyond help.
    pub stuck_max: usize,
    /// Permits for in-process calls, shared by all pools; `None`: there are threads for all of them.
    pub calls: Option<Arc<Semaphore>>,
    /// Threads for in-process calls that take long.
    pub reserve: Arc<Reserve>,
    /// INIT settings that do not depend on the worker.
    pub init: Vec<(&'static str, String)>,
    /// When workers behind a shim are replaced by fresh ones; `None`: never.
    pub recycling: Option<Recycling>,
    /// Where processes are entered.
    pub children: Children,
}

/// See the module.
pub struct Pool {
    shape: Shape,
    counters: Arc<PoolCounters>,
    status: Arc<Status>,
    stop: Stop,
    keepers: Mutex<Vec<JoinHandle<()>>>,
}

/// Tells keepers to end their workers.
#[derive(Debug, Clone, Default)]
struct Stop {
    asked: CancellationToken,
    /// How long a worker may take to end.
    allowed: Arc<OnceLock<Duration>>,
}

impl Stop {
    fn ask(&self, allowed: Duration) {
        self.allowed.get_or_init(|| allowed);
        self.asked.cancel();
    }

    fn allowed(&self) -> Duration {
        self.allowed.get().copied().unwrap_or_default()
    }
}

enum Shape {
    /// Workers are tasks: behind shims, or with a command.
    Tasks(Arc<Queue<TaskDesk>>),
    InProcess(Arc<Workers>),
}

impl Pool {
    /// Starts all workers at once and waits until they are ready; the first failure fails the pool. `events` is where
    /// calls and workers' tasks run; keepers run where this is called, on a thread that lasts as long as the process.
    ///
    /// # Errors
    /// A worker that cannot be started.
    pub async fn start(
        runtime: &Runtime,
        settings: Settings,
        events: Handle,
        logger: &Logger,
    ) -> Result<Arc<Self>, StartError> {
        let counters = PoolCounters::new(settings.workers);
        let status = Arc::new(Status::new(counters.clone()));
        match runtime {
            Runtime::Shim(language, launch) => {
                let queue = Self::queue(&settings, &counters, &events);
                let recipe = Recipe {
                    language,
                    launch: launch.clone(),
                    init: settings.init.clone(),
                    event_timeout: settings.event_timeout,
                    in_flight_max: settings.in_flight_per_worker,
                    batches: settings.batches,
                    ahead_max: settings.ahead_max,
                    start_timeout: settings.start_timeout,
                    runtime: events.clone(),
                    queue: queue.clone(),
                    logger: logger.clone(),
                    children: settings.children.clone(),
                };
                let pool = Self::new(Shape::Tasks(queue), counters, status);
                pool.start_shims(Arc::new(recipe), &settings).await?;
                Ok(Arc::new(pool))
            }
            Runtime::Shell(command) => {
                let queue = Self::queue(&settings, &counters, &events);
                let recipe = shell::worker::Recipe {
                    command: command.clone(),
                    queue: queue.clone(),
                    event_timeout: settings.event_timeout,
                    logger: logger.clone(),
                    children: settings.children.clone(),
                };
                let pool = Self::new(Shape::Tasks(queue), counters, status);
                pool.start_commands(&Arc::new(recipe), &settings);
                Ok(Arc::new(pool))
            }
            Runtime::InProcess(source) => {
                Self::start_in_process(source, settings, events, counters, status, logger).await
            }
        }
    }

    /// Where workers that are tasks get their events; whoever waits too long there is refused.
    fn queue(settings: &Settings, counters: &Arc<PoolCounters>, events: &Handle) -> Arc<Queue<TaskDesk>> {
        let queue = Arc::new(Queue::new(counters.clone(), settings.waiting_max));
        events.spawn({
            let queue = queue.clone();
            own(async move { queue.expire().await })
        });
        queue
    }

    fn new(shape: Shape, counters: Arc<PoolCounters>, status: Arc<Status>) -> Self {
        Self { shape, counters, status, stop: Stop::default(), keepers: Mutex::default() }
    }

    fn add_keeper(&self, keeper: JoinHandle<()>) {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner).push(keeper);
    }

    async fn start_shims(&self, recipe: Arc<Recipe>, settings: &Settings) -> Result<(), StartError> {
        let restarts = Arc::new(Semaphore::new((settings.workers / 4).max(2)));
        let recycles = Arc::new(Semaphore::new(1));
        let mut starts = Vec::new();
        for index in 0..settings.workers {
            let keeper = ShimKeeper {
                recipe: recipe.clone(),
                id: settings.worker_id(index),
                status: self.status.clone(),
                restarts: restarts.clone(),
                recycling: settings.recycling,
                recycles: recycles.clone(),
                stop: self.stop.clone(),
            };
            let (first, started) = oneshot::channel();
            self.add_keeper(tokio::spawn(keeper.keep(first)));
            starts.push(started);
        }
        for started in starts {
            let stopped = || StartError::new("the processor was stopped", "a worker was still starting");
            started.await.unwrap_or_else(|_| Err(stopped()))?;
        }
        Ok(())
    }

    /// Nothing to wait for: there is no process before the first event.
    fn start_commands(&self, recipe: &Arc<shell::worker::Recipe>, settings: &Settings) {
        for index in 0..settings.workers {
            let id = settings.worker_id(index);
            self.add_keeper(tokio::spawn(shell::worker::serve(recipe.clone(), id, self.stop.asked.clone())));
            self.status.set(index, WorkerState::Ready);
        }
    }

    async fn start_in_process(
        source: &Source,
        settings: Settings,
        events: Handle,
        counters: Arc<PoolCounters>,
        status: Arc<Status>,
        logger: &Logger,
    ) -> Result<Arc<Self>, StartError> {
        let queue: Arc<Queue<Box<InProcessDesk>>> =
            Arc::new(Queue::new(counters.clone(), settings.waiting_max));
        let (broken, replace) = mpsc::channel(settings.workers.max(1));
        let watch = monitor::Settings {
            event_timeout: settings.event_timeout,
            runtime: events.clone(),
            queue: queue.clone(),
            given_up: broken.clone(),
            reserve: settings.reserve.clone(),
            logger: logger.clone(),
        };
        let monitor = Monitor::start(watch)
            .map_err(|error| StartError::new("cannot start the monitor's thread", error.to_string()))?;
        events.spawn({
            let queue = queue.clone();
            own(async move { queue.expire().await })
        });
        if matches!(source, Source::Library(library) if library.streams_bodies()) {
            queue.stream_bodies();
        }
        let workers = Workers::new(monitor, settings.calls.clone(), broken);
        let mut starts = Vec::new();
        for index in 0..settings.workers {
            let (workers, source, id) = (workers.clone(), source.clone(), settings.worker_id(index));
            match source {
                // Nothing to wait for, and thousands of them need no threads.
                Source::Builtin => workers.start_worker(&source, &id)?,
                Source::Library(_) => {
                    let start = move || workers.start_worker(&source, &id);
                    starts.push((index, tokio::task::spawn_blocking(start)));
                }
            }
        }
        for (index, start) in starts {
            let failed = |error: tokio::task::JoinError| {
                StartError::new("a worker failed to start", error.to_string())
            };
            start.await.map_err(failed)??;
            status.set(index, WorkerState::Ready);
        }
        (0..settings.workers).for_each(|index| status.set(index, WorkerState::Ready));
        let pool = Self::new(Shape::InProcess(workers.clone()), counters, status.clone());
        let keeper = InProcessKeeper {
            workers,
            source: source.clone(),
            pool: settings.worker_id(0),
            status,
            stuck_max: settings.stuck_max,
            stop: pool.stop.clone(),
        };
        pool.add_keeper(tokio::spawn(keeper.keep(replace)));
        Ok(Arc::new(pool))
    }

    /// Hands an event to a worker, now or when one is free within `wait`; what is awaited is its answer. Dropping
    /// that future is a client that left: the worker goes on undisturbed, its answer is thrown away.
    pub fn submit(&self, event: Box<Event>, wait: Duration) -> oneshot::Receiver<Reply> {
        let (job, reply) = Job::new(event, wait);
        self.take_in(job);
        reply
    }

    /// The same; the handler may be called meanwhile on this thread, which nobody may wait for then.
    pub fn submit_here(&self, event: Box<Event>, wait: Duration) -> Submitted {
        match &self.shape {
            Shape::InProcess(workers) => workers.submit_here(event, wait),
            Shape::Tasks(_) => Submitted::Waits(self.submit(event, wait)),
        }
    }

    /// Hands several events to one worker at once, in the same way. Each is answered through its own reply.
    pub fn submit_batch(&self, members: Vec<Member>, wait: Duration) {
        if let Some(job) = Job::batch(members, wait) {
            self.take_in(job);
        }
    }

    fn take_in(&self, job: Job) {
        match &self.shape {
            Shape::Tasks(queue) => {
                if let Some((desk, job)) = queue.admit(job) {
                    desk.hand(job);
                }
            }
            Shape::InProcess(workers) => workers.submit(job),
        }
    }

    /// Whether its handlers take bodies as they come.
    pub fn streams_bodies(&self) -> bool {
        match &self.shape {
            Shape::Tasks(queue) => queue.streams_bodies(),
            Shape::InProcess(workers) => workers.queue().streams_bodies(),
        }
    }

    /// Whether its handler is a web application, which gets requests as they are.
    pub fn serves_web(&self) -> bool {
        matches!(&self.shape, Shape::Tasks(queue) if queue.serves_web())
    }

    /// Whether a handler that runs can be ended, because it has a process of its own.
    pub fn ends_handlers(&self) -> bool {
        matches!(self.shape, Shape::Tasks(_))
    }

    /// Its counters.
    pub fn counters(&self) -> &Arc<PoolCounters> {
        &self.counters
    }

    /// Its workers' states.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Refuses new events from now on.
    pub fn close(&self) {
        match &self.shape {
            Shape::Tasks(queue) => queue.close(),
            Shape::InProcess(workers) => workers.queue().close(),
        }
    }

    /// Lasts until no event waits or is in work. Call after [`Pool::close`].
    pub async fn drained(&self) {
        match &self.shape {
            Shape::Tasks(queue) => queue.drained().await,
            Shape::InProcess(workers) => workers.queue().drained().await,
        }
    }

    /// Ends all workers: termination callbacks, then the processes. `allowed`: how long that may take; what takes
    /// longer is killed.
    pub async fn stop(&self, allowed: Duration) {
        self.stop.ask(allowed);
        let keepers = std::mem::take(&mut *self.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        for keeper in keepers {
            drop(keeper.await); // A keeper that panicked has nothing left to wait for.
        }
        if let Shape::InProcess(workers) = &self.shape {
            let workers = workers.clone();
            let stop = tokio::task::spawn_blocking(move || workers.stop());
            drop(tokio::time::timeout(allowed, stop).await);
        }
    }
}

impl Settings {
    fn worker_id(&self, index: usize) -> WorkerId {
        WorkerId { trigger_kind: self.trigger_kind.clone(), trigger_name: self.name.clone(), index }
    }
}
