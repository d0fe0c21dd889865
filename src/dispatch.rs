//! The only door from triggers to workers: hands an event in, waits for its answer, counts how it ended.

use std::sync::Arc;
use std::time::Duration;

use crate::event::{Event, HandlerError};
use crate::metrics::{Cause, TriggerCounters};
use crate::pool::Pool;
use crate::queue::{Member, Reply, SubmitError};

/// One trigger's way to its pool. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    pool: Arc<Pool>,
    counters: Arc<TriggerCounters>,
    wait: Duration,
}

impl Dispatcher {
    /// `wait`: how long an event may wait for a worker.
    pub fn new(pool: Arc<Pool>, counters: Arc<TriggerCounters>, wait: Duration) -> Self {
        Self { pool, counters, wait }
    }

    /// Hands an event to a worker and waits for the answer. Dropping the future is a client that left: the handler
    /// goes on undisturbed and its answer is thrown away.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn submit(&self, event: Box<Event>) -> Reply {
        let reply = self.pool.submit(event, self.wait);
        // The other end is dropped unanswered only when everything is cut off.
        self.counted(async { reply.await.unwrap_or(Err(SubmitError::Stopping)) }).await
    }

    /// Hands several events to one worker at once. Each is answered through its own reply, which whoever waits for it
    /// gives to [`Dispatcher::counted`].
    pub fn submit_batch(&self, members: Vec<Member>) {
        self.pool.submit_batch(members, self.wait);
    }

    /// Waits for an answer and counts how its event ended; a future that is dropped before is a failure.
    pub async fn counted(&self, reply: impl Future<Output = Reply>) -> Reply {
        let mut abandoned = Abandoned(Some(&self.counters));
        let reply = reply.await;
        abandoned.0 = None;
        self.counters.count(reply.as_ref().map(|_| ()).map_err(cause));
        reply
    }

    /// How long an event may wait for a worker.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.pool.counters().workers.len()
    }

    /// Whether handlers take bodies as they come.
    pub fn streams_bodies(&self) -> bool {
        self.pool.streams_bodies()
    }

    /// Counts an event that was settled or refused before it reached a worker.
    pub fn count(&self, success: bool) {
        self.counters.count(if success { Ok(()) } else { Err(Cause::Refused) });
    }

    /// The trigger's counters.
    pub fn counters(&self) -> &TriggerCounters {
        &self.counters
    }
}

fn cause(error: &SubmitError) -> Cause {
    match error {
        SubmitError::NoWorkers => Cause::NoWorker,
        SubmitError::Stopping => Cause::Stopping,
        SubmitError::Handler(HandlerError::TimedOut) => Cause::Timeout,
        SubmitError::Handler(HandlerError::Lost(_)) => Cause::WorkerLost,
        SubmitError::Handler(HandlerError::Failed { .. } | HandlerError::Unsupported) => Cause::Handler,
    }
}

/// Counts an event whose client left before its answer as a failure.
struct Abandoned<'a>(Option<&'a TriggerCounters>);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.0 {
            counters.count(Err(Cause::ClientLeft));
        }
    }
}
