//! Who waits for a worker, how many, how long. One queue per pool: events in the order they came, idle workers in
//! the order they became idle, but for those that threads keep for themselves. It knows no runtime: a worker is whatever
//! its pool lends out. `batch` has what is particular to jobs of several events, `lend` says which of the idle workers
//! is next, `open` knows when no event is under way.

mod batch;
mod lend;
mod open;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::event::{Event, HandlerError, Response};
use crate::metrics::PoolCounters;
use crate::per_thread::PerThread;

pub use self::batch::Member;
pub use self::lend::Lend;
use self::lend::{Kept, Seeking};

/// Why an event got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// No worker became free in time, or too many events wait already.
    #[error("No available workers")]
    NoWorkers,
    /// The processor stops.
    #[error("All workers are terminated")]
    Stopping,
    /// Its trigger has taken it back, for the next one's sake.
    #[error("The event was replaced by the next one of its trigger")]
    Replaced,
    /// A worker had it.
    #[error(transparent)]
    Handler(#[from] HandlerError),
}

/// How an event ended.
pub type Reply = Result<Response, SubmitError>;
/// Whoever handles an event answers here, once. Closed: nobody waits for the answer any more.
pub type ReplySender = oneshot::Sender<Reply>;

/// How often a full queue is searched for jobs whose clients have left.
const CLEAR_EVERY: Duration = Duration::from_millis(100);
/// Longest wait of a job that went back to the queue.
const AGAIN_WAIT_MAX: Duration = Duration::from_secs(3600);

/// An event on its way to a worker, or a batch of them.
#[derive(Debug)]
pub struct Job {
    /// What the handler gets.
    pub event: Box<Event>,
    /// Where the answer goes.
    pub reply: ReplySender,
    /// When it was submitted.
    pub submitted: Instant,
    expires: Instant,
    /// The further events of a batch, which a handler gets as one list; `None`: this is no batch.
    pub batch: Option<Vec<Member>>,
}

impl Job {
    /// A job and the end its answer arrives at. `wait`: how long it may wait for a worker.
    pub fn new(event: Box<Event>, wait: Duration) -> (Self, oneshot::Receiver<Reply>) {
        let (reply, receiver) = oneshot::channel();
        let submitted = Instant::now();
        (Self { event, reply, submitted, expires: submitted + wait, batch: None }, receiver)
    }

    /// A job that goes back to the queue; it waits practically as long as it takes, for it had been accepted.
    pub fn again(event: Box<Event>, reply: ReplySender, submitted: Instant) -> Self {
        Self { event, reply, submitted, expires: submitted + AGAIN_WAIT_MAX, batch: None }
    }
}

/// Events of a pool that wait, and workers that wait for events. `W` identifies a worker that is lent out.
pub struct Queue<W> {
    state: Mutex<State<W>>,
    counters: Arc<PoolCounters>,
    waiting_max: usize,
    expiry_changed: Notify,
    closed: AtomicBool,
    streams_bodies: AtomicBool,
    serves_web: AtomicBool,
    /// Events admitted that have not ended, wherever they are: the sum over threads, of which each counts those that
    /// came or ended there.
    open: PerThread<AtomicIsize>,
    all_ended: Notify,
    /// Events that wait, and those that look for a worker because they would have to.
    wanted: AtomicUsize,
    /// Idle workers that threads keep for the next event that comes to them.
    kept: PerThread<Kept<W>>,
    /// How many of all workers were idle when that was last looked at, percent.
    idle_percent: AtomicU64,
    /// How many threads kept one then.
    kept_count: AtomicUsize,
}

struct State<W> {
    waiting: VecDeque<Job>,
    /// Events of `waiting`: more than jobs where there are batches.
    waiting_events: usize,
    idle: VecDeque<W>,
    /// Busy workers that would take an event ahead.
    hungry: VecDeque<W>,
    next_expiry: Option<Instant>,
    cleared: Option<Instant>,
}

impl<W: Lend> Queue<W> {
    /// An empty queue in which at most `waiting_max` events wait.
    pub fn new(counters: Arc<PoolCounters>, waiting_max: usize) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            waiting_events: 0,
            idle: VecDeque::new(),
            hungry: VecDeque::new(),
            next_expiry: None,
            cleared: None,
        };
        Self {
            state: Mutex::new(state),
            counters,
            waiting_max,
            expiry_changed: Notify::new(),
            closed: AtomicBool::new(false),
            streams_bodies: AtomicBool::new(false),
            serves_web: AtomicBool::new(false),
            open: PerThread::default(),
            all_ended: Notify::new(),
            wanted: AtomicUsize::new(0),
            kept: PerThread::default(),
            idle_percent: AtomicU64::new(100),
            kept_count: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its workers have said that they take bodies as they come.
    pub fn stream_bodies(&self) {
        self.streams_bodies.store(true, Ordering::Relaxed);
    }

    /// Whether an event's body may still be arriving when it is submitted.
    pub fn streams_bodies(&self) -> bool {
        self.streams_bodies.load(Ordering::Relaxed)
    }

    /// Its workers have said that their handler is a web application.
    pub fn serve_web(&self) {
        self.serves_web.store(true, Ordering::Relaxed);
    }

    /// Whether events are requests to a web application.
    pub fn serves_web(&self) -> bool {
        self.serves_web.load(Ordering::Relaxed)
    }

    /// The pool's counters.
    pub fn counters(&self) -> &Arc<PoolCounters> {
        &self.counters
    }

    /// Lends an idle worker to the job, or lets it wait (`None`), or refuses it: it may not wait, too many do, or
    /// the pool stops. A refused job has been answered.
    pub fn admit(&self, job: Job) -> Option<(W, Job)> {
        let events = job.events();
        if !self.open(events) {
            job.refuse(SubmitError::Stopping);
            return None;
        }
        let counters = &self.counters;
        let mut state = self.lock();
        counters.allocating(self.measure_idle(&state));
        let _seeking = Seeking::of(self);
        if let Some(worker) = self.idle_worker(&mut state) {
            drop(state);
            counters.allocated_at_once();
            return Some((worker, job));
        }
        if state.waiting_events >= self.waiting_max {
            self.clear(&mut state, job.submitted);
        }
        if job.expires <= job.submitted || state.waiting_events >= self.waiting_max {
            drop(state);
            counters.allocation_failures.fetch_add(1, Ordering::Relaxed);
            job.refuse(SubmitError::NoWorkers);
            self.ended(events);
            return None;
        }
        if let Some(worker) = state.hungry.pop_front() {
            drop(state);
            counters.allocated_at_once();
            return Some((worker, job));
        }
        if state.next_expiry.is_none_or(|next| job.expires < next) {
            state.next_expiry = Some(job.expires);
            self.expiry_changed.notify_one();
        }
        state.waiting.push_back(job);
        self.count_waiting(&mut state, events);
        None
    }

    fn count_waiting(&self, state: &mut State<W>, events: usize) {
        state.waiting_events += events;
        self.wanted.fetch_add(events, Ordering::SeqCst);
        self.counters.waiting.fetch_add(events as i64, Ordering::Relaxed);
    }

    fn uncount_waiting(&self, state: &mut State<W>, events: usize) {
        state.waiting_events -= events;
        self.wanted.fetch_sub(events, Ordering::Relaxed);
        self.counters.waiting.fetch_sub(events as i64, Ordering::Relaxed);
    }

    /// Takes out the events that nobody waits for any more; not at every call, for it looks at all of them.
    fn clear(&self, state: &mut State<W>, now: Instant) {
        if state.cleared.is_some_and(|cleared| now.saturating_duration_since(cleared) < CLEAR_EVERY) {
            return;
        }
        state.cleared = Some(now);
        let mut all_gone = 0;
        state.waiting.retain_mut(|job| {
            let (gone, empty) = job.drop_gone();
            all_gone += gone;
            !empty
        });
        self.uncount_waiting(state, all_gone);
        self.ended(all_gone);
    }

    /// The worker is free: it gets the next job, or is idle from now on (`None`).
    pub fn next(&self, worker: W) -> Option<(W, Job)> {
        let mut state = self.lock();
        if !W::ONE_PLACE {
            state.hungry.retain(|other| *other != worker);
        }
        self.pop_for(&mut state, worker)
    }

    /// The next job with the worker, which is idle from now on if there is none.
    fn pop_for(&self, state: &mut State<W>, worker: W) -> Option<(W, Job)> {
        if let Some(job) = self.pop(state) {
            return Some((worker, job));
        }
        if W::ONE_PLACE || !state.idle.contains(&worker) {
            state.idle.push_back(worker);
        }
        None
    }

    /// A job for a worker that is still busy, if one waits and no worker is idle; otherwise `worker` is told when
    /// one comes that nobody else can take.
    pub fn take_ahead(&self, worker: W) -> Option<Job> {
        let mut state = self.lock();
        if state.idle.is_empty()
            && let Some(job) = self.pop(&mut state)
        {
            return Some(job);
        }
        if !state.hungry.contains(&worker) {
            state.hungry.push_back(worker);
        }
        None
    }

    /// The first job that somebody still waits for.
    fn pop(&self, state: &mut State<W>) -> Option<Job> {
        use std::sync::atomic::Ordering::Relaxed;
        while let Some(mut job) = state.waiting.pop_front() {
            self.uncount_waiting(state, job.events());
            let (gone, empty) = job.drop_gone();
            self.ended(gone); // Their clients left while they waited.
            if empty {
                continue;
            }
            self.counters.allocated_after_wait.fetch_add(1, Relaxed);
            self.counters.wait_micros.fetch_add(job.submitted.elapsed().as_micros() as u64, Relaxed);
            return Some(job);
        }
        None
    }

    /// Takes a worker out: nothing is lent to it any more. True: it was idle or hungry. Not for workers that threads may
    /// keep ([`Queue::next_here`]).
    pub fn withdraw(&self, worker: &W) -> bool {
        let mut state = self.lock();
        let before = state.idle.len() + state.hungry.len();
        state.idle.retain(|other| other != worker);
        state.hungry.retain(|other| other != worker);
        state.idle.len() + state.hungry.len() < before
    }

    /// Takes all idle workers out, for stopping them.
    pub fn withdraw_idle(&self) -> Vec<W> {
        let mut state = self.lock(); // Until the end: none may be on its way from there to here.
        state.idle.drain(..).chain(self.kept.all().filter_map(Kept::take)).collect()
    }

    /// A job that a worker had not begun when it ended: to an idle worker, else to the head of the queue.
    pub fn put_back(&self, job: Job) -> Option<(W, Job)> {
        let mut state = self.lock();
        let _seeking = Seeking::of(self);
        if let Some(worker) = self.idle_worker(&mut state) {
            return Some((worker, job));
        }
        self.count_waiting(&mut state, job.events());
        state.next_expiry = Some(state.next_expiry.map_or(job.expires, |next| next.min(job.expires)));
        self.expiry_changed.notify_one();
        state.waiting.push_front(job);
        None
    }

    /// An event has left its worker, whatever came of it.
    pub fn finished(&self, worker: usize, taken: Duration) {
        self.counters.finished(worker, taken);
        self.ended(1);
    }

    /// An event has left its worker, where others of its batch still are: the time is counted with the last of them.
    pub fn finished_beside_others(&self, worker: usize, taken: Duration) {
        self.counters.finished_beside_others(worker, taken);
        self.ended(1);
    }

    /// An event has left a worker that never began it.
    pub fn dropped(&self) {
        self.ended(1);
    }

    /// Refuses jobs that have waited too long. Lasts as long as the pool.
    pub async fn expire(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        loop {
            let next = self.lock().next_expiry;
            let changed = self.expiry_changed.notified();
            match next {
                None => changed.await,
                Some(next) => {
                    tokio::select! {
                        () = changed => continue,
                        () = tokio::time::sleep_until(next.into()) => {}
                    }
                }
            }
            for job in self.take_expired(Instant::now()) {
                self.counters.allocation_failures.fetch_add(1, Relaxed);
                let events = job.events();
                job.refuse(SubmitError::NoWorkers);
                self.ended(events);
            }
        }
    }

    fn take_expired(&self, now: Instant) -> Vec<Job> {
        let mut state = self.lock();
        let mut expired = Vec::new();
        // In the usual case all jobs wait equally long and only the front expires.
        let mut at = 0;
        while at < state.waiting.len() {
            if state.waiting[at].expires <= now {
                if let Some(job) = state.waiting.remove(at) {
                    self.uncount_waiting(&mut state, job.events());
                    expired.push(job);
                }
            } else {
                at += 1;
            }
        }
        state.next_expiry = state.waiting.iter().map(|job| job.expires).min();
        expired
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;
    use std::time::SystemTime;

    use super::*;
    use crate::event::{EventBody, EventId, Target, TriggerInfo};

    static TRIGGER: LazyLock<TriggerInfo> =
        LazyLock::new(|| TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "h".into() });

    /// An event that nothing is known of but its id.
    pub(crate) fn event(id: &str) -> Box<Event> {
        Box::new(Event {
            id: EventId::Text(id.into()),
            trigger: &TRIGGER,
            timestamp: SystemTime::UNIX_EPOCH,
            target: Target::Plain { method: String::new(), path: String::new(), url: String::new() },
            header_map: http::HeaderMap::new(),
            body: EventBody::none(),
            log_buffer: None,
            trace: None,
            extra: None,
            web: None,
        })
    }

    impl Lend for usize {}

    fn job(id: &str, wait_ms: u64) -> (Job, oneshot::Receiver<Reply>) {
        Job::new(event(id), Duration::from_millis(wait_ms))
    }

    pub(super) fn queue(workers: usize, waiting_max: usize) -> Queue<usize> {
        let queue = Queue::new(PoolCounters::new(workers), waiting_max);
        for worker in 0..workers {
            assert!(queue.next(worker).is_none());
        }
        queue
    }

    pub(super) fn id(job: &Job) -> &str {
        job.event.id.as_str()
    }

    #[test]
    fn workers_are_lent_in_the_order_they_became_idle_and_jobs_in_the_order_they_came() {
        let queue = queue(2, 9);
        let mut replies = Vec::new();
        let mut admit = |name| {
            let (job, reply) = job(name, 1000);
            replies.push(reply);
            queue.admit(job).map(|(worker, job)| (worker, id(&job).to_owned()))
        };
        assert_eq!(admit("a"), Some((0, "a".into())));
        assert_eq!(admit("b"), Some((1, "b".into())));
        assert_eq!((admit("c"), admit("d")), (None, None));
        let (worker, job) = queue.next(1).unwrap();
        assert_eq!((worker, id(&job)), (1, "c"));
        assert_eq!(id(&queue.next(0).unwrap().1), "d");
        assert!(queue.next(0).is_none());
    }

    #[test]
    fn a_job_that_may_not_wait_or_finds_the_queue_full_is_refused_at_once() {
        let queue = queue(0, 1);
        for (wait, expect_refused) in [(0, true), (1000, false), (1000, true)] {
            let (job, mut reply) = job("x", wait);
            assert!(queue.admit(job).is_none());
            let refused = matches!(reply.try_recv(), Ok(Err(SubmitError::NoWorkers)));
            assert_eq!(refused, expect_refused);
            std::mem::forget(reply); // still waiting
        }
    }

    #[test]
    fn a_job_whose_client_left_is_skipped() {
        let queue = queue(0, 9);
        let (gone, reply) = job("gone", 1000);
        let (here, _reply) = job("here", 1000);
        queue.admit(gone);
        queue.admit(here);
        drop(reply);
        assert_eq!(id(&queue.next(0).unwrap().1), "here");
        assert_eq!(queue.counters.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn clients_that_left_make_room_in_a_full_queue() {
        let queue = queue(0, 2);
        let mut replies = Vec::new();
        for name in ["gone", "here"] {
            let (waits, reply) = job(name, 1000);
            assert!(queue.admit(waits).is_none());
            replies.push(reply);
        }
        drop(replies.remove(0));
        let (late, mut reply) = job("late", 1000);
        assert!(queue.admit(late).is_none());
        assert!(reply.try_recv().is_err(), "it waits");
        assert_eq!(queue.counters.waiting.load(Ordering::Relaxed), 2);
        assert_eq!(queue.open_events(), 2);
        assert_eq!(id(&queue.next(0).unwrap().1), "here");
        assert_eq!(id(&queue.next(0).unwrap().1), "late");
    }

    #[test]
    fn busy_workers_take_ahead_only_while_none_is_idle() {
        let queue = queue(1, 9);
        assert!(queue.take_ahead(7).is_none());
        let (first, _a) = job("a", 1000);
        let (second, _b) = job("b", 1000);
        assert_eq!(queue.admit(first).unwrap().0, 0);
        assert_eq!(queue.admit(second).unwrap().0, 7, "the hungry worker gets what no idle one can take");
        let (third, _c) = job("c", 1000);
        assert!(queue.admit(third).is_none());
        assert_eq!(id(&queue.take_ahead(7).unwrap()), "c");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_waited_too_long_is_refused() {
        let queue = Arc::new(queue(0, 9));
        let expiry = {
            let queue = queue.clone();
            tokio::spawn(async move { queue.expire().await })
        };
        let (long, mut long_reply) = job("long", 50);
        let (short, short_reply) = job("short", 10);
        queue.admit(long);
        queue.admit(short);
        assert!(matches!(short_reply.await, Ok(Err(SubmitError::NoWorkers))));
        assert!(long_reply.try_recv().is_err());
        assert!(matches!(long_reply.await, Ok(Err(SubmitError::NoWorkers))));
        assert_eq!(queue.counters.waiting.load(Ordering::Relaxed), 0);
        expiry.abort();
    }

    #[tokio::test]
    async fn a_closed_queue_refuses_and_drains() {
        let queue = queue(1, 9);
        let (held, _reply) = job("held", 1000);
        let (worker, _job) = queue.admit(held).unwrap();
        queue.counters.started(Duration::ZERO);
        queue.close();
        let (late, late_reply) = job("late", 1000);
        assert!(queue.admit(late).is_none());
        assert!(matches!(late_reply.await, Ok(Err(SubmitError::Stopping))));
        let finish = async {
            tokio::task::yield_now().await;
            queue.finished(worker, Duration::ZERO);
        };
        tokio::join!(queue.drained(), finish);
    }

    #[tokio::test]
    async fn a_queue_is_drained_when_its_last_job_turns_out_to_be_nobodys() {
        let queue = queue(1, 9);
        let (held, _reply) = job("held", 1000);
        let (gone, reply) = job("gone", 1000);
        let (worker, _job) = queue.admit(held).unwrap();
        assert!(queue.admit(gone).is_none());
        drop(reply);
        queue.close();
        let finish = async {
            queue.finished(worker, Duration::ZERO);
            tokio::task::yield_now().await; // The waiting side has looked.
            assert!(queue.next(worker).is_none());
        };
        tokio::join!(queue.drained(), finish);
    }

    #[tokio::test]
    async fn a_job_between_queue_and_worker_keeps_the_queue_from_being_drained() {
        let queue = queue(1, 9);
        let (held, _reply) = job("held", 1000);
        let (worker, _job) = queue.admit(held).unwrap();
        queue.close(); // No worker has counted it as its own yet.
        tokio::select! {
            biased;
            () = queue.drained() => panic!("drained with a job under way"),
            () = tokio::task::yield_now() => {}
        }
        queue.finished(worker, Duration::ZERO);
        queue.drained().await;
    }
}
