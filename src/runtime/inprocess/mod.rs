//! Handlers in our own process. While calls are short, whoever has an event calls the handler itself. Else a worker is
//! a task, woken so that it runs next on the thread that read the request, and the request's task keeps the connection.
//! A thread that is inside a handler polls nothing, so [`monitor`] sees to it that another one does, and that deadlines
//! hold.

pub mod balance;
mod batch;
pub mod monitor;
pub mod reserve;
mod seat;
mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};

use super::plugin;
use super::plugin::worker::{CallOutcome, Control};
use super::{StartError, builtin};
use crate::event::{Event, HandlerError, WorkerId};
use crate::logging::Logger;
use crate::metrics::RestartReason;
use crate::queue::{Job, Lend, Queue, Reply, ReplySender};
use crate::trace::Call;
use crate::turns::{hand_on, own};
use batch::Callers;
use monitor::{Monitor, Slot};
use seat::{Hold, Seat};
use stream::Streamed;

/// Bytes of stack of every thread that calls handlers.
pub const STACK_BYTES: usize = 8 << 20;

/// What is called.
enum Callable {
    Builtin,
    Plugin(Box<plugin::worker::Worker>),
}

/// A worker while it is lent out or idle.
#[repr(align(128))]
pub struct Desk {
    index: usize,
    callable: Callable,
    slot: Arc<Slot>,
    seat: Hold,
}

impl Desk {
    /// Its call was given up: the plugin must not see its worker stopped.
    fn abandon(self) {
        let Self { callable, seat, .. } = self;
        std::mem::forget(callable);
        drop(seat);
    }

    /// Stops the worker where that may take long: the monitor does not watch it any more.
    fn retire(self: Box<Self>) {
        drop(tokio::task::spawn_blocking(move || drop(self)));
    }
}

impl PartialEq for Desk {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot)
    }
}

impl Lend for Box<Desk> {
    const ONE_PLACE: bool = true;
}

/// A worker that has to be replaced.
#[derive(Debug, Clone, Copy)]
pub struct Broken {
    /// Its place in the pool.
    pub index: usize,
    /// What it is counted under.
    pub reason: RestartReason,
}

/// The workers of one pool.
pub struct Workers {
    queue: Arc<Queue<Box<Desk>>>,
    monitor: Monitor,
    calls: Option<Arc<Semaphore>>,
    runtime: Handle,
    event_timeout: Option<Duration>,
    broken: mpsc::Sender<Broken>,
    logger: Logger,
}

/// What becomes of an event that was handed in.
#[derive(Debug)]
pub enum Submitted {
    /// It has been handled.
    Answered(Reply),
    /// Its answer comes here.
    Waits(oneshot::Receiver<Reply>),
}

/// What a worker's task does next.
enum Work {
    /// It calls the handler.
    Call(Job),
    /// It pulls an answer of a call that has returned.
    Stream(Box<Streamed>),
}

/// When an event was handed in, and when its call began.
#[derive(Clone, Copy)]
struct Waited {
    submitted: Instant,
    begun: Instant,
}

/// What came of a call, and who waits for it.
enum Concluded {
    Answer { answer: Reply, reply: Option<ReplySender>, lent_on: bool },
    Stream(Box<Desk>, Box<Streamed>),
}

/// A call that has returned.
struct Called {
    outcome: CallOutcome,
    reply: Option<ReplySender>,
    taken: Duration,
    /// `None`: not recorded.
    span: Option<Box<Call>>,
}

fn fail(span: &mut Option<Box<Call>>, error: &'static str) {
    if let Some(span) = span {
        span.fail(error);
    }
}

/// Makes workers of one kind.
#[derive(Clone)]
pub enum Source {
    /// The handler inside the processor.
    Builtin,
    /// A loaded library.
    Library(Arc<plugin::Library>),
}

impl Workers {
    /// A pool without workers, whose calls need permits of `calls`. `broken` is told of every worker that has to be
    /// replaced; everything else is as the monitor has it.
    pub fn new(monitor: Monitor, calls: Option<Arc<Semaphore>>, broken: mpsc::Sender<Broken>) -> Arc<Self> {
        let watch = monitor.settings();
        let (queue, runtime, logger) = (watch.queue.clone(), watch.runtime.clone(), watch.logger.clone());
        let event_timeout = watch.event_timeout;
        Arc::new(Self { queue, monitor, calls, runtime, event_timeout, broken, logger })
    }

    /// For what happens.
    pub fn logger(&self) -> &Logger {
        &self.logger
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<Queue<Box<Desk>>> {
        &self.queue
    }

    /// Starts one worker and puts it to work. Runs the handler's own initialization, so it may take long.
    ///
    /// # Errors
    /// What the handler said.
    pub fn start_worker(self: &Arc<Self>, source: &Source, id: &WorkerId) -> Result<(), StartError> {
        let slot = Arc::new(Slot::new(id.index));
        let callable = match source {
            Source::Builtin => Callable::Builtin,
            Source::Library(library) => {
                let worker = plugin::worker::Worker::start(library.clone(), id, self.logger_of(id))?;
                Callable::Plugin(Box::new(worker))
            }
        };
        self.monitor.watch(slot.clone());
        let seat = Arc::new(Seat::default());
        self.runtime.spawn(own(self.clone().serve(seat.clone())));
        let desk = Box::new(Desk { index: id.index, callable, slot, seat: Hold(seat) });
        self.free(desk, false, || {});
        Ok(())
    }

    /// Calls given up that have not returned.
    pub fn stuck(&self) -> usize {
        self.monitor.stuck()
    }

    /// Lasts until one of them returns, or has since this was last asked.
    pub async fn wait_returned(&self) {
        self.monitor.wait_returned().await;
    }

    fn logger_of(&self, id: &WorkerId) -> Logger {
        let kind = if id.trigger_kind.is_empty() { "shared" } else { &id.trigger_kind };
        self.logger.child(&format!("{kind}.w{}.golang", id.index))
    }

    /// Takes a job in; it is answered through its reply whatever happens.
    pub fn submit(&self, job: Job) {
        self.queue.admit(job).into_iter().for_each(lend_on);
    }

    /// The same for one event. While calls are short its handler is called on this very thread, which saves the
    /// worker's task and the way there and back; but nobody sees then before it returns that the client has left.
    pub fn submit_here(&self, event: Box<Event>, wait: Duration) -> Submitted {
        if self.monitor.are_calls_short()
            && event.body.stream.is_none()
            && let Some(permit) = self.permit_now()
            && let Some(desk) = self.queue.lend_idle()
        {
            return self.handle_here(desk, event, permit);
        }
        let (job, reply) = Job::new(event, wait);
        self.submit(job);
        Submitted::Waits(reply)
    }

    /// The worker is free, then its event ends: once the last one has, all workers must be where they can be stopped.
    /// `here`: the event came by [`Workers::submit_here`], as the next one may. True: the worker has been lent on, so
    /// that its task is what this thread runs next.
    fn free(&self, desk: Box<Desk>, here: bool, end_event: impl FnOnce()) -> bool {
        let lent = if here { self.queue.next_here(desk) } else { self.queue.next(desk) };
        end_event();
        lent.map(lend_on).is_some()
    }

    /// A worker's task: one call after the other.
    async fn serve(self: Arc<Self>, seat: Arc<Seat>) {
        while let Some((desk, work)) = seat.next().await {
            let job = match work {
                Work::Call(job) => job,
                Work::Stream(answer) => {
                    Box::pin(self.stream(desk, answer)).await;
                    continue;
                }
            };
            // Threads are as many as permits: whoever has to wait for one blocks none.
            let permit = self.permit().await;
            if job.batch.is_some() {
                self.call_batch(desk, job);
            } else {
                self.handle(desk, job, permit).await;
            }
        }
    }

    async fn handle(&self, mut desk: Box<Desk>, job: Job, permit: Option<SemaphorePermit<'_>>) {
        let waited = Waited { submitted: job.submitted, begun: Instant::now() };
        let called = self.call_desk(&mut desk, job.event, Some(job.reply), waited);
        drop(permit);
        let Some(called) = called else { return desk.abandon() };
        match self.conclude(desk, called, false) {
            Concluded::Answer { answer, reply, .. } => {
                if let Some(reply) = reply {
                    drop(reply.send(answer)); // The client may have left.
                }
            }
            // Boxed: few answers are streams, and every worker has a task.
            Concluded::Stream(desk, answer) => Box::pin(self.stream(desk, answer)).await,
        }
    }

    /// Calls the handler for whoever asks, on this thread. What else waits for it is handed on, before the call and
    /// after.
    fn handle_here(
        &self,
        mut desk: Box<Desk>,
        event: Box<Event>,
        permit: Option<SemaphorePermit<'_>>,
    ) -> Submitted {
        if self.monitor.are_tasks_many() {
            hand_on();
        }
        let begun = Instant::now();
        let called = self.call_desk(&mut desk, event, None, Waited { submitted: begun, begun });
        let woken = permit.is_some(); // Perhaps: whoever waits for the permit.
        drop(permit);
        let Some(called) = called else {
            desk.abandon(); // Not while calls with a deadline are made elsewhere.
            return Submitted::Answered(Err(HandlerError::TimedOut.into()));
        };
        match self.conclude(desk, called, true) {
            Concluded::Answer { answer, lent_on, .. } => {
                if lent_on || woken {
                    hand_on(); // The caller may have another event for this thread.
                }
                Submitted::Answered(answer)
            }
            Concluded::Stream(desk, mut answer) => {
                let (reply, receiver) = oneshot::channel();
                answer.reply = Some(reply);
                give(desk, Work::Stream(answer)); // The worker's task pulls it, beside the connection's that sends it.
                Submitted::Waits(receiver)
            }
        }
    }

    async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.as_ref()?.acquire().await.ok()
    }

    /// `None`: none is free. What is in it may be empty, as for [`Workers::permit`].
    fn permit_now(&self) -> Option<Option<SemaphorePermit<'_>>> {
        match &self.calls {
            None => Some(None),
            Some(calls) => calls.try_acquire().ok().map(Some),
        }
    }

    fn call_desk(
        &self,
        desk: &mut Desk,
        event: Box<Event>,
        reply: Option<ReplySender>,
        waited: Waited,
    ) -> Option<Called> {
        let Desk { callable, slot, .. } = desk;
        self.call(slot, event, reply, waited, |event, cancelled, deadline| match callable {
            Callable::Plugin(worker) => worker.call(event, cancelled, deadline),
            Callable::Builtin => CallOutcome::Answer(builtin::handle(event)),
        })
    }

    /// The call itself, watched. `None`: it was given up meanwhile.
    fn call(
        &self,
        slot: &Slot,
        event: Box<Event>,
        reply: Option<ReplySender>,
        Waited { submitted, begun }: Waited,
        handler: impl FnOnce(Box<Event>, &Arc<AtomicU8>, Option<Instant>) -> CallOutcome,
    ) -> Option<Called> {
        self.queue.counters().started(begun.duration_since(submitted));
        let mut span = Call::begin(event.trace.as_ref(), slot.index(), submitted, begun);
        let deadline = self.event_timeout.map(|limit| begun + limit);
        let is_awaited = reply.is_some();
        self.monitor.open(slot, reply.map(Callers::One), begun);
        let outcome = catch_unwind(AssertUnwindSafe(|| handler(event, slot.cancelled(), deadline)));
        // Not the handler's fault, whose own panics never come this far; the caller must not wait for ever.
        let outcome = outcome.unwrap_or_else(|_| {
            CallOutcome::Broken(HandlerError::Lost("the processor failed to handle the event".to_owned()))
        });
        let reply = if is_awaited {
            slot.close()
        } else {
            slot.unmark();
            None
        };
        let reply = match reply {
            Some(Callers::One(reply)) => Some(reply),
            _ => None, // The deadline took it, or there was none.
        };
        if deadline.is_some() && slot.given_up() {
            fail(&mut span, "timeout");
            self.monitor.returned();
            return None;
        }
        let taken = begun.elapsed();
        slot.took(taken);
        Some(Called { outcome, reply, taken, span })
    }

    /// Lends the worker on, unless the answer is a stream, which is still to be pulled. `here`: the event came by
    /// [`Workers::submit_here`], as the next one may.
    fn conclude(&self, desk: Box<Desk>, call: Called, here: bool) -> Concluded {
        let Called { outcome, reply, taken, mut span } = call;
        let index = desk.index;
        let answer = match outcome {
            CallOutcome::Answer(response) => {
                if response.status >= 500 {
                    fail(&mut span, "handler_failed");
                }
                Ok(response)
            }
            CallOutcome::Failed(error) => {
                fail(&mut span, "handler_failed");
                Err(error.into())
            }
            CallOutcome::Stream { head, pull } => {
                let begun = Instant::now() - taken;
                return Concluded::Stream(desk, Box::new(Streamed { head, pull, reply, begun, span }));
            }
            CallOutcome::Broken(error) => {
                fail(&mut span, "worker_lost");
                drop(span);
                self.queue.finished(index, taken);
                self.replace(desk);
                return Concluded::Answer { answer: Err(error.into()), reply, lent_on: false };
            }
        };
        drop(span); // Ended before the caller's, which is above it.
        let lent_on = self.free(desk, here, || self.queue.finished(index, taken));
        Concluded::Answer { answer, reply, lent_on }
    }

    /// Has another worker take the place of one that broke the contract.
    fn replace(&self, desk: Box<Desk>) {
        self.monitor.forget(&desk.slot);
        let broken = Broken { index: desk.index, reason: RestartReason::Protocol };
        self.broken.try_send(broken).unwrap_or_default(); // As many places as workers.
        desk.retire();
    }

    /// Ends all idle workers: termination callback, then stop. Call when nothing is in work.
    pub fn stop(&self) {
        for desk in self.queue.withdraw_idle() {
            match desk.callable {
                Callable::Plugin(mut worker) => {
                    drop(worker.control(Control::Terminate)); // Handlers need not have a callback.
                    worker.stop();
                }
                Callable::Builtin => {}
            }
        }
    }
}

/// An event goes to the worker that it has been lent.
fn lend_on((desk, job): (Box<Desk>, Job)) {
    give(desk, Work::Call(job));
}

/// Has the worker's task do something.
fn give(desk: Box<Desk>, work: Work) {
    let seat = desk.seat.0.clone();
    seat.give(desk, work);
}

/// A value behind a mutex that no panic can poison for good.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::PoolCounters;
    use crate::queue::SubmitError;
    use crate::queue::tests::event;

    /// Workers of the built-in handler, and what says which of them have to be replaced.
    fn workers(count: usize, event_timeout: Option<Duration>) -> (Arc<Workers>, mpsc::Receiver<Broken>) {
        let (broken, replace) = mpsc::channel(1);
        let watch = monitor::Settings {
            event_timeout,
            runtime: Handle::current(),
            queue: Arc::new(Queue::new(PoolCounters::new(count), 1)),
            given_up: broken.clone(),
            reserve: reserve::Reserve::start(&Handle::current(), 0, 1, Arc::default()),
            logger: Logger::silent(),
        };
        let workers = Workers::new(Monitor::start(watch).unwrap(), None, broken);
        for index in 0..count {
            let id = WorkerId { trigger_kind: String::new(), trigger_name: String::new(), index };
            workers.start_worker(&Source::Builtin, &id).unwrap();
        }
        (workers, replace)
    }

    #[tokio::test]
    async fn a_panic_of_ours_breaks_the_worker_and_leaves_the_caller_an_answer() {
        let (workers, _replace) = workers(1, None);
        let (reply, _answer) = oneshot::channel();
        let waited = Waited { submitted: Instant::now(), begun: Instant::now() };
        let call = workers.call(&Slot::new(0), event("e"), Some(reply), waited, |_, _, _| panic!("ours"));
        assert!(matches!(call, Some(Called { outcome: CallOutcome::Broken(_), reply: Some(_), .. })));
    }

    /// Whether the event was handled before it was handed back.
    async fn is_handled_here(workers: &Arc<Workers>) -> bool {
        match workers.submit_here(event("e"), Duration::from_secs(60)) {
            Submitted::Answered(reply) => reply.map(|_| true).unwrap(),
            Submitted::Waits(reply) => reply.await.unwrap().map(|_| false).unwrap(),
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn handlers_are_called_on_the_spot_once_their_calls_are_known_to_be_short() {
        let (quick, _replace) = workers(2, None);
        assert!(!is_handled_here(&quick).await, "nothing is known yet");
        let begun = Instant::now();
        while !is_handled_here(&quick).await {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        quick.queue().close();
        let refused = quick.submit_here(event("e"), Duration::ZERO);
        let Submitted::Waits(reply) = refused else { panic!("{refused:?}") };
        assert!(matches!(reply.await, Ok(Err(SubmitError::Stopping))));
        let (limited, _replace) = workers(1, Some(Duration::from_secs(60)));
        for _ in 0..1000 {
            assert!(!is_handled_here(&limited).await, "somebody else has to answer at the deadline");
        }
    }
}
