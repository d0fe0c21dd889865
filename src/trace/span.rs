//! Spans that have ended, and the bounded queue that they wait in. Putting one in takes no lock and wakes nobody,
//! unless a batch has come together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method, Uri, Version};
use tokio::sync::Notify;

/// One span that has ended.
#[derive(Debug)]
pub struct Span {
    /// Its trace.
    pub trace_id: u128,
    /// Its own id.
    pub id: u64,
    /// The span above it; 0: none.
    pub parent: u64,
    /// The span above it is another program's.
    pub parent_is_remote: bool,
    /// Flags of the context.
    pub flags: u8,
    /// `tracestate` of the context.
    pub state: Option<HeaderValue>,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What it is about.
    pub kind: Kind,
    /// How it failed, as a word of few.
    pub error: Option<&'static str>,
}

/// What a span is about.
#[derive(Debug)]
pub enum Kind {
    /// A request to an HTTP trigger.
    Http(Box<HttpRequest>),
    /// An event of another trigger.
    Trigger {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The time of an event with a worker.
    Call {
        /// The worker's place in its pool.
        worker: usize,
        /// How long the event waited for it.
        waited: Duration,
    },
}

/// What is told of a request. No header's value but two, no query: those may hold secrets.
#[derive(Debug)]
pub struct HttpRequest {
    /// Method.
    pub method: Method,
    /// Target; the query is not told.
    pub uri: Uri,
    /// Version of HTTP.
    pub version: Version,
    /// Header `Host`.
    pub host: Option<HeaderValue>,
    /// Header `User-Agent`.
    pub user_agent: Option<HeaderValue>,
    /// Name of the trigger.
    pub trigger: String,
    /// Id of the event; empty where it did not come that far.
    pub event_id: String,
    /// Bytes of the body, where it was read.
    pub body_bytes: Option<usize>,
    /// Status of the answer; `None`: the client left before.
    pub status: Option<u16>,
}

/// How many spans went where.
#[derive(Debug, Default)]
pub struct SpanCounters {
    /// Taken by the collector.
    pub exported: AtomicU64,
    /// Lost because the queue was full.
    pub dropped: AtomicU64,
    /// Lost because the collector could not be reached or refused them.
    pub failed: AtomicU64,
}

/// Where ended spans go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Spans(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: SyncSender<Span>,
    waiting: AtomicUsize,
    batch: usize,
    batch_ready: Notify,
    counters: Arc<SpanCounters>,
}

/// Where ended spans come out.
pub struct Ended {
    queue: Receiver<Span>,
    shared: Arc<Shared>,
}

/// A queue of at most `spans_max` spans that says so when `batch` of them wait.
pub fn queue(spans_max: usize, batch: usize) -> (Spans, Ended) {
    let (sender, receiver) = sync_channel(spans_max);
    let shared = Arc::new(Shared {
        queue: sender,
        waiting: AtomicUsize::new(0),
        batch,
        batch_ready: Notify::new(),
        counters: Arc::default(),
    });
    (Spans(shared.clone()), Ended { queue: receiver, shared })
}

impl Spans {
    /// Puts a span in, or drops and counts it.
    pub fn put(&self, span: Span) {
        let shared = &self.0;
        // Counted before it can be taken out: the number never falls below nothing.
        let waiting = shared.waiting.fetch_add(1, Relaxed) + 1;
        if shared.queue.try_send(span).is_err() {
            shared.waiting.fetch_sub(1, Relaxed);
            shared.counters.dropped.fetch_add(1, Relaxed);
        } else if waiting == shared.batch {
            shared.batch_ready.notify_one();
        }
    }

    /// What became of all spans.
    pub fn counters(&self) -> &Arc<SpanCounters> {
        &self.0.counters
    }
}

impl Ended {
    /// The next one, if one waits.
    pub fn take(&mut self) -> Option<Span> {
        let span = self.queue.try_recv().ok()?;
        self.shared.waiting.fetch_sub(1, Relaxed);
        Some(span)
    }

    /// Whether a whole batch waits.
    pub fn has_batch(&self) -> bool {
        self.shared.waiting.load(Relaxed) >= self.shared.batch
    }

    /// Lasts until a batch has come together.
    pub async fn batch_ready(&self) {
        self.shared.batch_ready.notified().await;
    }

    /// What became of all spans.
    pub fn counters(&self) -> &Arc<SpanCounters> {
        &self.shared.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (spans, mut ended) = queue(2, 2);
        for id in 1..=5 {
            spans.put(Span {
                trace_id: 1,
                id,
                parent: 0,
                parent_is_remote: false,
                flags: 1,
                state: None,
                start: SystemTime::UNIX_EPOCH,
                end: SystemTime::UNIX_EPOCH,
                kind: Kind::Call { worker: 0, waited: Duration::ZERO },
                error: None,
            });
        }
        assert!(ended.has_batch());
        assert_eq!(spans.counters().dropped.load(Relaxed), 3);
        let taken: Vec<u64> = std::iter::from_fn(|| ended.take()).map(|span| span.id).collect();
        assert_eq!(taken, [1, 2]);
        assert!(!ended.has_batch());
    }
}
