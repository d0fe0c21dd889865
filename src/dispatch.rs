//! The only door from triggers to workers: hands an event in, waits for its answer, counts how it ended.

use std::sync::Arc;
use std::time::Duration;

use crate::event::Event;
use crate::metrics::TriggerCounters;
use crate::pool::Pool;
use crate::queue::{Reply, SubmitError};

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
        let mut abandoned = Abandoned(Some(&self.counters));
        let reply = self.pool.submit(event, self.wait).await;
        abandoned.0 = None;
        // The other end is dropped unanswered only when everything is cut off.
        let reply = reply.unwrap_or(Err(SubmitError::Stopping));
        self.counters.count(reply.is_ok());
        reply
    }

    /// Whether handlers take bodies as they come.
    pub fn streams_bodies(&self) -> bool {
        self.pool.streams_bodies()
    }

    /// Counts an event that ended before it reached a worker.
    pub fn count(&self, success: bool) {
        self.counters.count(success);
    }

    /// The trigger's counters.
    pub fn counters(&self) -> &TriggerCounters {
        &self.counters
    }
}

/// Counts an event whose client left before its answer as a failure.
struct Abandoned<'a>(Option<&'a TriggerCounters>);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.0 {
            counters.count(false);
        }
    }
}
