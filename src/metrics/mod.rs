//! What is counted. The event path adds to plain atomics; a scrape reads them ([`text`]) and never holds anything
//! that an event could wait for.

pub mod process;
pub mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use tokio::sync::Notify;

use crate::per_thread::{PerThread, Tally};

/// Whoever waits for a number of events looks this often by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Counters of one trigger.
#[derive(Debug, Default)]
pub struct TriggerCounters {
    answered: PerThread<Answered>,
    /// Events that did not.
    pub failure: AtomicU64,
    /// The same failures, by [`Cause::ALL`].
    pub failures: [AtomicU64; 8],
    /// Events of a timer that were not sent or got no worker, by [`DropReason::ALL`].
    pub dropped: [AtomicU64; 3],
}

/// What nearly every event of a trigger counts.
#[derive(Debug, Default)]
struct Answered {
    success: Tally,
    response_bytes: Histogram,
}

impl TriggerCounters {
    /// Counts one finished event.
    pub fn count(&self, outcome: Result<(), Cause>) {
        match outcome {
            Ok(()) => self.answered.mine().success.add(1),
            Err(cause) => {
                self.failures[cause as usize].fetch_add(1, Relaxed);
                self.failure.fetch_add(1, Relaxed);
            }
        }
    }

    /// Counts an answer of so many bytes.
    pub fn responded(&self, bytes: u64) {
        self.answered.mine().response_bytes.count(bytes);
    }

    /// Events that ended with an answer of the handler.
    pub fn success(&self) -> u64 {
        self.answered.all().map(|mine| mine.success.get()).sum()
    }

    /// Sizes of answers, bytes.
    fn response_bytes(&self) -> Distribution {
        Distribution::of(self.answered.all().map(|mine| &mine.response_bytes))
    }

    /// Counts events that nobody will handle.
    pub fn dropped(&self, reason: DropReason, count: u64) {
        let at = DropReason::ALL.iter().position(|other| *other == reason).unwrap_or_default();
        self.dropped[at].fetch_add(count, Relaxed);
    }
}

/// Why an event that was due is not handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// An earlier one is still in work.
    Busy,
    /// Its time was over before it could be sent.
    Missed,
    /// No worker became free in time.
    NoWorker,
}

impl DropReason {
    /// All, in the order of their counters.
    pub const ALL: [Self; 3] = [Self::Busy, Self::Missed, Self::NoWorker];

    /// Value of the label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Missed => "missed",
            Self::NoWorker => "no_worker",
        }
    }
}

/// Why an event failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The handler said so, or raised an error.
    Handler,
    /// It passed its deadline.
    Timeout,
    /// Its worker was lost.
    WorkerLost,
    /// No worker became free in time, or too many events waited.
    NoWorker,
    /// The processor stopped.
    Stopping,
    /// It was refused before a worker was asked for.
    Refused,
    /// Its client left before the answer.
    ClientLeft,
    /// Its trigger has taken it back, for the next one's sake.
    Replaced,
}

impl Cause {
    /// All, in the order of their counters.
    pub const ALL: [Self; 8] = [
        Self::Handler,
        Self::Timeout,
        Self::WorkerLost,
        Self::NoWorker,
        Self::Stopping,
        Self::Refused,
        Self::ClientLeft,
        Self::Replaced,
    ];

    /// Value of the label `cause`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Timeout => "timeout",
            Self::WorkerLost => "worker_lost",
            Self::NoWorker => "no_worker",
            Self::Stopping => "stopping",
            Self::Refused => "refused",
            Self::ClientLeft => "client_left",
            Self::Replaced => "replaced",
        }
    }
}

/// Words for what a worker does, in the order of [`PoolCounters::states`]. The reference knows the first, the second
/// and the last.
pub const WORKER_STATES: [&str; 4] = ["initializing", "ready", "restarting", "stopped"];

/// Why a worker was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartReason {
    /// It ended by itself.
    Exit,
    /// A signal killed it.
    Signal,
    /// The kernel killed it for want of memory.
    Oom,
    /// An event passed its deadline.
    Timeout,
    /// It broke the protocol.
    Protocol,
    /// It had done nothing wrong, but its state is not known any more.
    Recycle,
}

impl RestartReason {
    /// All, in the order of their counters.
    pub const ALL: [Self; 6] =
        [Self::Exit, Self::Signal, Self::Oom, Self::Timeout, Self::Protocol, Self::Recycle];

    /// Value of the label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Recycle => "recycle",
        }
    }
}

/// Counters of one pool of workers.
#[derive(Debug, Default)]
pub struct PoolCounters {
    flow: PerThread<Flow>,
    /// Attempts that got a worker after waiting.
    pub allocated_after_wait: AtomicU64,
    /// Attempts that got none.
    pub allocation_failures: AtomicU64,
    /// Microseconds waited by attempts that got a worker after waiting.
    pub wait_micros: AtomicU64,
    /// Events waiting now.
    pub waiting: AtomicI64,
    /// Events that passed their deadline.
    pub event_timeouts: AtomicU64,
    /// Replaced workers, by [`RestartReason::ALL`].
    pub restarts: [AtomicU64; 6],
    /// Streamed answers that ended well, and that were cut off.
    pub streams: [AtomicU64; 2],
    /// Workers now, by [`WORKER_STATES`].
    pub states: [AtomicU64; 4],
    /// One per worker.
    pub workers: Vec<CachePadded<WorkerCounters>>,
}

/// What every event of a pool counts.
#[derive(Debug, Default)]
struct Flow {
    allocations: Tally,
    allocated_at_once: Tally,
    idle_percent_sum: Tally,
    started: Tally,
    finished: Tally,
    handler_micros: Histogram,
    queue_wait_micros: Histogram,
}

/// Counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// Microseconds spent in the handler.
    pub busy_micros: AtomicU64,
    /// Events handled.
    pub events: AtomicU64,
    /// Times it was replaced.
    pub restarts: AtomicU64,
    /// Somebody waits until it has handled so many events; 0: nobody.
    mark: AtomicU64,
    marked: Notify,
}

impl PoolCounters {
    /// For a pool of that many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        let workers = (0..workers).map(|_| CachePadded::default()).collect();
        Arc::new(Self { workers, ..Self::default() })
    }

    /// An attempt to get a worker, before which so many of all were idle.
    pub fn allocating(&self, idle_percent: u64) {
        let flow = self.flow.mine();
        flow.allocations.add(1);
        flow.idle_percent_sum.add(idle_percent);
    }

    /// An attempt that found an idle worker.
    pub fn allocated_at_once(&self) {
        self.flow.mine().allocated_at_once.add(1);
    }

    /// Attempts to get a worker.
    pub fn allocations(&self) -> u64 {
        self.sum(|flow| &flow.allocations)
    }

    /// Attempts that found an idle worker.
    fn allocations_at_once(&self) -> u64 {
        self.sum(|flow| &flow.allocated_at_once)
    }

    /// Sum over attempts of the percentage of workers idle before it.
    fn idle_percent_sum(&self) -> u64 {
        self.sum(|flow| &flow.idle_percent_sum)
    }

    fn sum(&self, count: impl Fn(&Flow) -> &Tally) -> u64 {
        self.flow.all().map(|flow| count(flow).get()).sum()
    }

    /// Events with a worker now.
    pub fn in_flight(&self) -> u64 {
        let finished = self.sum(|flow| &flow.finished); // First, or an event could end that had not begun.
        self.sum(|flow| &flow.started).saturating_sub(finished)
    }

    /// Time in handlers.
    fn handler_micros(&self) -> Distribution {
        Distribution::of(self.flow.all().map(|flow| &flow.handler_micros))
    }

    /// Time events waited for a worker.
    fn queue_wait_micros(&self) -> Distribution {
        Distribution::of(self.flow.all().map(|flow| &flow.queue_wait_micros))
    }

    /// One event has a worker, `waited` after it was submitted.
    pub fn started(&self, waited: Duration) {
        let flow = self.flow.mine();
        flow.started.add(1);
        flow.queue_wait_micros.observe(waited);
    }

    /// One event left its worker after `taken`.
    pub fn finished(&self, worker: usize, taken: Duration) {
        self.finished_beside_others(worker, taken);
        if let Some(worker) = self.workers.get(worker) {
            worker.busy_micros.fetch_add(taken.as_micros() as u64, Relaxed);
        }
    }

    /// The same for an event of a batch of which others are still there: the worker was busy once, not once for each.
    pub fn finished_beside_others(&self, worker: usize, taken: Duration) {
        let flow = self.flow.mine();
        flow.finished.add(1);
        flow.handler_micros.observe(taken);
        if let Some(worker) = self.workers.get(worker) {
            let events = worker.events.fetch_add(1, Relaxed) + 1;
            if events == worker.mark.load(Relaxed) {
                worker.marked.notify_one();
            }
        }
    }

    /// Lasts until a worker has handled `more` events from now on. One at a time may wait for a worker.
    pub async fn handled(&self, worker: usize, more: u64) {
        let Some(worker) = self.workers.get(worker) else { return std::future::pending().await };
        let mark = worker.events.load(Relaxed).saturating_add(more);
        worker.mark.store(mark, Relaxed);
        // Looked at before each wait: an event may have ended while the mark was set.
        while worker.events.load(Relaxed) < mark {
            // One in between may have been counted before the mark could be seen.
            drop(tokio::time::timeout(LOOK_AGAIN, worker.marked.notified()).await);
        }
    }

    /// One worker is replaced.
    pub fn restarted(&self, worker: usize, reason: RestartReason) {
        let at = RestartReason::ALL.iter().position(|other| *other == reason).unwrap_or_default();
        self.restarts[at].fetch_add(1, Relaxed);
        if let Some(worker) = self.workers.get(worker) {
            worker.restarts.fetch_add(1, Relaxed);
        }
    }
}

/// Powers of two from 1 to 2^30: enough for microseconds up to a quarter of an hour and bytes up to a gibibyte.
const BUCKETS: usize = 31;

/// One thread's histogram over powers of two: one addition to a bucket, one to the sum.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [Tally; BUCKETS + 1],
    sum: Tally,
}

impl Histogram {
    /// Counts a duration, in microseconds.
    fn observe(&self, value: Duration) {
        self.count(value.as_micros() as u64);
    }

    /// Counts a number.
    fn count(&self, value: u64) {
        // The smallest power of two that is not less than the value: the bucket's upper bound is inclusive.
        let bucket =
            value.saturating_sub(1).checked_ilog2().map_or(usize::from(value > 1), |log| log as usize + 1);
        self.buckets[bucket.min(BUCKETS)].add(1);
        self.sum.add(value);
    }
}

/// What histograms had counted when somebody looked.
#[derive(Debug, Default)]
struct Distribution {
    buckets: [u64; BUCKETS + 1],
    sum: u64,
}

impl Distribution {
    /// All that they have counted.
    fn of<'a>(histograms: impl Iterator<Item = &'a Histogram>) -> Self {
        let mut all = Self::default();
        for histogram in histograms {
            for (sum, bucket) in all.buckets.iter_mut().zip(&histogram.buckets) {
                *sum += bucket.get();
            }
            all.sum = all.sum.wrapping_add(histogram.sum.get());
        }
        all
    }

    /// Upper bounds with cumulative counts, without the last, unbounded one; then count and sum of all.
    fn cumulative(&self) -> (Vec<(u64, u64)>, u64, u64) {
        let mut total = 0;
        let mut bounds = Vec::with_capacity(BUCKETS);
        for (power, bucket) in self.buckets[..BUCKETS].iter().enumerate() {
            total += bucket;
            bounds.push((1 << power, total));
        }
        (bounds, total + self.buckets[BUCKETS], self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_a_number_of_events_is_woken_by_the_last_of_them() {
        let counters = PoolCounters::new(1);
        counters.finished(0, Duration::ZERO);
        let waiting = tokio::spawn({
            let counters = counters.clone();
            async move { counters.handled(0, 3).await }
        });
        for _ in 0..2 {
            tokio::task::yield_now().await;
            counters.finished(0, Duration::ZERO);
        }
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        counters.finished_beside_others(0, Duration::ZERO);
        tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap();
    }

    #[test]
    fn a_value_is_counted_under_the_first_bound_that_is_not_less() {
        for (value, bound) in [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1 << 30, 1 << 30)] {
            let histogram = Histogram::default();
            histogram.count(value);
            let (bounds, count, sum) = Distribution::of([&histogram].into_iter()).cumulative();
            let first = bounds.iter().find(|(_, count)| *count == 1).unwrap();
            assert_eq!((first.0, count, sum), (bound, 1, value), "{value}");
        }
        let histogram = Histogram::default();
        histogram.count(u64::MAX);
        let all = Distribution::of([&histogram].into_iter());
        assert!(all.cumulative().0.iter().all(|(_, count)| *count == 0));
    }
}
