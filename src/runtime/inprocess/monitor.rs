//! The thread that watches calls into handlers: keeps I/O and timers polled while some take long, gets threads of the
//! reserve up for them, answers at the deadline, gives up what does not return.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

use super::batch::Callers;
use super::reserve::{Need, Reserve};
use super::{Broken, Desk, lend_on, locked};
use crate::event::HandlerError;
use crate::fields;
use crate::logging::Logger;
use crate::metrics::RestartReason;
use crate::queue::Queue;
use crate::runtime::plugin::{CANCELLED_CLIENT_GONE, CANCELLED_DEADLINE};

/// How often calls are looked at, and how long one may take before others are looked after.
const TICK: Duration = Duration::from_micros(250);
/// The same while calls are short: looking costs them more than the first that is long has to wait.
const SHORT_TICK: Duration = Duration::from_millis(1);
/// While a call takes longer than a tick, some thread is woken this often to poll I/O and timers.
const NUDGE: Duration = Duration::from_micros(500);
/// Calls that take this long on average are not waited for one by one: all their workers get threads.
const LONG_ON_AVERAGE: Duration = Duration::from_micros(50);
/// Tasks that fit into the queue of one thread of the runtime.
const ONE_THREADS_TASKS: usize = 256;
/// Requests for a worker, per worker, after which it is known how long calls take.
const KNOWN_AFTER: u64 = 16;
/// Weight of the calls before in the average, against the last one.
const AVERAGE_OVER: u64 = 16;
/// Ticks without a call before the thread sleeps until the next one, which then has to wake it.
const QUIET_TICKS: u32 = 2;
/// How long a call may go on after its deadline before it is given up.
const GRACE: Duration = Duration::from_millis(500);

/// The watched side of one worker. Aligned, as its worker is: two workers that lay in one line of the cache would take
/// it from each other at each call.
#[derive(Debug)]
#[repr(align(128))]
pub struct Slot {
    index: usize,
    /// Nanoseconds since the monitor's start, plus one; 0: no call.
    begun: AtomicU64,
    /// Moving average of the time of its calls, nanoseconds.
    average: AtomicU64,
    /// How many calls that is of.
    calls: AtomicU64,
    /// How many the monitor knew of when it looked last.
    calls_seen: AtomicU64,
    reply: Mutex<Option<Callers>>,
    cancelled: Arc<AtomicU8>,
    given_up: AtomicBool,
    /// How many events the call has; more than one in a batch.
    events: AtomicUsize,
    /// A streamed answer is cut off: the deadline passed. With whoever waits for its next piece.
    cut: Mutex<(bool, Option<Waker>)>,
}

impl Slot {
    /// For the worker of that index.
    pub fn new(index: usize) -> Self {
        Self {
            index,
            begun: AtomicU64::new(0),
            average: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            calls_seen: AtomicU64::new(0),
            reply: Mutex::new(None),
            cancelled: Arc::default(),
            given_up: AtomicBool::new(false),
            events: AtomicUsize::new(1),
            cut: Mutex::default(),
        }
    }

    fn cut(&self) {
        let mut cut = locked(&self.cut);
        cut.0 = true;
        if let Some(waker) = cut.1.take() {
            waker.wake();
        }
    }

    /// Ready once the deadline of a streamed answer has passed.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        let mut cut = locked(&self.cut);
        if cut.0 {
            return Poll::Ready(());
        }
        cut.1 = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The next call has that many events.
    pub fn set_events(&self, count: usize) {
        self.events.store(count, Ordering::Relaxed);
    }

    /// Of its worker.
    pub fn index(&self) -> usize {
        self.index
    }

    /// What the handler can ask: why its answer is not wanted any more.
    pub fn cancelled(&self) -> &Arc<AtomicU8> {
        &self.cancelled
    }

    /// The call returned. The reply is still there unless the deadline took it.
    pub fn close(&self) -> Option<Callers> {
        self.unmark();
        locked(&self.reply).take()
    }

    /// The thread is no longer inside the handler.
    pub fn unmark(&self) {
        self.begun.store(0, Ordering::Release);
    }

    /// A call took so long.
    pub fn took(&self, time: Duration) {
        let before = self.average.load(Ordering::Relaxed); // Written by one call at a time.
        let share = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / AVERAGE_OVER;
        self.average.store(before - before / AVERAGE_OVER + share, Ordering::Relaxed);
        self.calls.store(self.calls.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The average, if there were calls since this was last asked. For the monitor.
    fn news(&self) -> Option<u64> {
        let calls = self.calls.load(Ordering::Relaxed);
        let seen = self.calls_seen.swap(calls, Ordering::Relaxed);
        (calls != seen).then(|| self.average.load(Ordering::Relaxed))
    }

    /// Whether the call was given up; decided under the lock that also decides who answers.
    pub fn given_up(&self) -> bool {
        let _decided = locked(&self.reply);
        self.given_up.load(Ordering::SeqCst)
    }
}

/// Hands calls to the watching thread. Cheap to clone.
#[derive(Clone)]
pub struct Monitor(Arc<Shared>);

struct Shared {
    start: Instant,
    slots: Mutex<Vec<Arc<Slot>>>,
    asleep: AtomicBool,
    /// See [`Monitor::are_calls_short`].
    short: AtomicBool,
    /// See [`Monitor::are_tasks_many`].
    crowded: AtomicBool,
    thread: Mutex<Option<Thread>>,
    stuck: AtomicUsize,
    returned: Notify,
    settings: Settings,
}

/// What the monitor needs to know of its pool.
pub struct Settings {
    /// Longest time of one event.
    pub event_timeout: Option<Duration>,
    /// Where calls run.
    pub runtime: Handle,
    /// Of the pool.
    pub queue: Arc<Queue<Box<Desk>>>,
    /// Told of every worker given up.
    pub given_up: mpsc::Sender<Broken>,
    /// Where further threads come from.
    pub reserve: Arc<Reserve>,
    /// For what happened.
    pub logger: Logger,
}

/// What the monitor sees at one look.
struct Seen {
    /// Calls take long on average.
    long_on_average: bool,
    /// Calls that run.
    running: usize,
    /// Those that take longer than a tick.
    long: usize,
    /// Threads that calls block, or soon will.
    blocked: usize,
}

impl Monitor {
    /// Starts the watching thread, which lasts as long as the process.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        let monitor = Self(Arc::new(Shared {
            start: Instant::now(),
            slots: Mutex::default(),
            asleep: AtomicBool::new(false),
            short: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            thread: Mutex::default(),
            stuck: AtomicUsize::new(0),
            returned: Notify::new(),
            settings,
        }));
        let shared = monitor.0.clone();
        let thread = std::thread::Builder::new().name("monitor".into()).stack_size(256 << 10);
        let thread = thread.spawn(move || shared.run())?;
        *locked(&monitor.0.thread) = Some(thread.thread().clone());
        Ok(monitor)
    }

    /// What it knows of its pool.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Watches a worker from now on.
    pub fn watch(&self, slot: Arc<Slot>) {
        locked(&self.0.slots).push(slot);
    }

    /// Watches a worker no more.
    pub fn forget(&self, slot: &Arc<Slot>) {
        locked(&self.0.slots).retain(|other| !Arc::ptr_eq(other, slot));
    }

    /// A call begins; the deadline may take its reply.
    pub fn open(&self, slot: &Slot, reply: Option<Callers>, begun: Instant) {
        slot.cancelled.store(0, Ordering::Relaxed);
        if self.0.settings.event_timeout.is_some() {
            locked(&slot.cut).0 = false;
        }
        if reply.is_some() {
            *locked(&slot.reply) = reply;
        }
        self.mark(slot, begun);
    }

    /// The thread is inside the handler from now on.
    pub fn mark(&self, slot: &Slot, now: Instant) {
        let since = now.saturating_duration_since(self.0.start).as_nanos() as u64;
        // Both sides write first and read then, so one of them sees the other: the monitor the call, or we its sleep.
        slot.begun.store(since + 1, Ordering::SeqCst);
        if self.0.asleep.load(Ordering::SeqCst)
            && let Some(thread) = &*locked(&self.0.thread)
        {
            thread.unpark();
        }
    }

    /// Whether calls have been so short lately that the next one may keep back whoever waits for it. Never where calls
    /// have a deadline, at which somebody else has to answer.
    pub fn are_calls_short(&self) -> bool {
        self.0.short.load(Ordering::Relaxed)
    }

    /// Whether a thread may run a task from the queue that all threads share while another waits for this thread alone:
    /// tasks get there only when more are ready than fit into a thread's own queue.
    pub fn are_tasks_many(&self) -> bool {
        self.0.crowded.load(Ordering::Relaxed)
    }

    /// A call that had been given up returned after all.
    pub fn returned(&self) {
        self.0.stuck.fetch_sub(1, Ordering::Relaxed);
        self.0.returned.notify_one();
    }

    /// Lasts until a call that had been given up returns, or has since it was last asked. For one who waits.
    pub async fn wait_returned(&self) {
        self.0.returned.notified().await;
    }

    /// Calls given up that have not returned.
    pub fn stuck(&self) -> usize {
        self.0.stuck.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn run(&self) {
        let reserve = &self.settings.reserve;
        let mut need = Need::of(reserve.clone());
        let (mut quiet, mut events) = (0, 0);
        let mut nudged = Instant::now();
        let (mut known, mut long_on_average) = (false, false);
        loop {
            let now = Instant::now();
            let seen = self.look(now, long_on_average);
            long_on_average = seen.long_on_average;
            known = known || self.is_known();
            let short = known && !long_on_average && self.settings.event_timeout.is_none();
            self.short.store(short, Ordering::Relaxed);
            if !short {
                self.settings.queue.release_kept().into_iter().for_each(lend_on);
            }
            self.settings.queue.note_idle();
            let tasks = self.settings.runtime.metrics().num_alive_tasks();
            self.crowded.store(tasks > ONE_THREADS_TASKS, Ordering::Relaxed);
            need.set(seen.blocked, now);
            let admitted = self.settings.queue.counters().allocations();
            reserve.balance(now, admitted.saturating_sub(events));
            // Asked first: whoever is asleep by then is among those who fell asleep.
            let settled = reserve.is_settled();
            let late = seen.long > 0 && now.duration_since(nudged) >= NUDGE;
            if late || reserve.take_fallen_asleep() {
                nudged = now;
                self.settings.runtime.spawn(async {});
            }
            // Short calls come and go between two looks.
            let busy = seen.running > 0 || admitted != events || !settled;
            events = admitted;
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet < QUIET_TICKS {
                std::thread::park_timeout(if short && seen.long == 0 && settled { SHORT_TICK } else { TICK });
                continue;
            }
            self.asleep.store(true, Ordering::SeqCst);
            let seen = self.look(Instant::now(), long_on_average);
            long_on_average = seen.long_on_average;
            if seen.running == 0 {
                std::thread::park();
            }
            self.asleep.store(false, Ordering::SeqCst);
            quiet = 0;
        }
    }

    /// Whether there have been enough calls to know how long they take.
    fn is_known(&self) -> bool {
        let counters = self.settings.queue.counters();
        counters.allocations() >= KNOWN_AFTER * counters.workers.len() as u64
    }

    /// `was_long`: what was seen of the average when calls last returned.
    fn look(&self, now: Instant, was_long: bool) -> Seen {
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        let (mut running, mut long) = (0, 0);
        let mut given_up = Vec::new();
        let slots = locked(&self.slots);
        for slot in slots.iter() {
            let Some(begun) = slot.begun.load(Ordering::SeqCst).checked_sub(1) else { continue };
            running += 1;
            let age = Duration::from_nanos(now.saturating_sub(begun));
            if age < TICK {
                continue;
            }
            long += 1;
            self.look_at(slot, begun, age, &mut given_up);
        }
        let long_on_average = are_long(&slots, was_long);
        let busy = if long_on_average { slots.len() } else { long };
        let blocked = busy + self.stuck.load(Ordering::Relaxed);
        drop(slots);
        for slot in given_up {
            self.give_up(&slot.0, slot.1);
        }
        Seen { long_on_average, running, long, blocked }
    }

    /// `begun`, `age`: of the call that was seen.
    fn look_at(
        &self,
        slot: &Arc<Slot>,
        begun: u64,
        age: Duration,
        given_up: &mut Vec<(Arc<Slot>, Duration)>,
    ) {
        let late = self.settings.event_timeout.filter(|limit| age >= *limit);
        let mut reply = locked(&slot.reply);
        if slot.begun.load(Ordering::SeqCst) != begun + 1 {
            return; // It has returned since, and what is there now may be the next call's.
        }
        if let Some(limit) = late {
            if let Some(reply) = reply.take() {
                slot.cancelled.store(CANCELLED_DEADLINE, Ordering::Relaxed);
                let events = reply.count() as u64;
                self.settings.queue.counters().event_timeouts.fetch_add(events, Ordering::Relaxed);
                reply.fail(&HandlerError::TimedOut);
            } else {
                slot.cut();
            }
            if age >= limit + GRACE {
                slot.given_up.store(true, Ordering::SeqCst);
                self.stuck.fetch_add(1, Ordering::Relaxed); // Before the call can return and take it back.
                given_up.push((slot.clone(), age));
            }
        } else if reply.as_ref().is_some_and(Callers::all_left) {
            slot.cancelled.store(CANCELLED_CLIENT_GONE, Ordering::Relaxed);
        }
    }

    fn give_up(&self, slot: &Arc<Slot>, age: Duration) {
        locked(&self.slots).retain(|other| !Arc::ptr_eq(other, slot));
        for _ in 1..slot.events.load(Ordering::Relaxed) {
            self.settings.queue.finished_beside_others(slot.index, age);
        }
        self.settings.queue.finished(slot.index, age);
        let fields = fields! {"worker" => slot.index, "stuck" => self.stuck.load(Ordering::Relaxed)};
        self.settings.logger.error("Handler does not return; its thread is given up", fields);
        let broken = Broken { index: slot.index, reason: RestartReason::Timeout };
        self.settings.given_up.try_send(broken).unwrap_or_default(); // As many places as workers.
    }
}

/// Whether calls take long on average, of those workers that are called: threads may keep a few, and the others' averages
/// grow old.
fn are_long(slots: &[Arc<Slot>], were_long: bool) -> bool {
    let (mut called, mut averages) = (0_u64, 0_u64);
    for average in slots.iter().filter_map(|slot| slot.news()) {
        called += 1;
        averages += average;
    }
    let average = averages.checked_div(called).map(Duration::from_nanos);
    average.map_or(were_long, |average| average >= LONG_ON_AVERAGE)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::metrics::PoolCounters;

    #[test]
    fn calls_are_long_on_average_however_many_workers_are_not_called() {
        let slots: Vec<_> = (0..64).map(|index| Arc::new(Slot::new(index))).collect();
        let look = |were_long| are_long(&slots, were_long);
        let call = |micros| (0..64).for_each(|_| slots[0].took(Duration::from_micros(micros)));
        call(500);
        assert!(look(false), "the one that is called takes long");
        assert!(look(true) && !look(false), "nothing new");
        call(5);
        assert!(!look(true));
        slots.iter().for_each(|slot| slot.took(Duration::from_micros(5)));
        slots[1].took(Duration::from_millis(10));
        assert!(!look(false), "one outlier");
    }

    #[tokio::test]
    async fn a_call_seen_late_is_not_taken_for_the_next_one() {
        let (given_up, mut broken) = mpsc::channel(1);
        let monitor = Monitor::start(Settings {
            event_timeout: Some(Duration::from_secs(3600)),
            runtime: Handle::current(),
            queue: Arc::new(Queue::new(PoolCounters::new(1), 1)),
            given_up,
            reserve: Reserve::start(&Handle::current(), 0, 1, Arc::default()),
            logger: Logger::silent(),
        });
        let monitor = monitor.unwrap();
        let slot = Arc::new(Slot::new(0));
        let now = Instant::now();
        let (reply, mut answer) = oneshot::channel();
        monitor.open(&slot, Some(Callers::One(reply)), now);
        let begun = slot.begun.load(Ordering::SeqCst) - 1;
        let (age, mut given_up) = (Duration::from_secs(7200), Vec::new());
        monitor.0.look_at(&slot, begun + 1, age, &mut given_up); // Of the call before.
        assert!(given_up.is_empty() && answer.try_recv().is_err());
        monitor.0.look_at(&slot, begun, age, &mut given_up);
        assert!(matches!(answer.try_recv(), Ok(Err(_))));
        assert_eq!((given_up.len(), monitor.stuck()), (1, 1));
        monitor.0.give_up(&given_up[0].0, age);
        assert_eq!(broken.try_recv().unwrap().index, 0);
    }
}
