//! The only door from triggers to workers: hands an event in, waits for its answer, counts how it ended.

use std::sync::Arc;
use std::time::Duration;

use crate::event::{Event, HandlerError};
use crate::metrics::{Cause, TriggerCounters};
use crate::pool::Pool;
use crate::queue::{Reply, SubmitError};
use crate::trace::Tracer;
use crate::trace::span::Kind;

/// One trigger's way to its pool. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    pool: Arc<Pool>,
    counters: Arc<TriggerCounters>,
    wait: Duration,
    tracer: Option<Arc<Tracer>>,
}

impl Dispatcher {
    /// `wait`: how long an event may wait for a worker.
    pub fn new(pool: Arc<Pool>, counters: Arc<TriggerCounters>, wait: Duration) -> Self {
        Self { pool, counters, wait, tracer: None }
    }

    /// The same, with traces for its events; `None`: tracing is off.
    pub fn with_tracer(mut self, tracer: Option<Arc<Tracer>>) -> Self {
        self.tracer = tracer;
        self
    }

    /// Begins traces, if tracing is on. A trigger that knows more of its events than this module begins theirs
    /// itself.
    pub fn tracer(&self) -> Option<&Arc<Tracer>> {
        self.tracer.as_ref()
    }

    /// Hands an event to a worker and waits for the answer. Dropping the future is a client that left: the handler
    /// goes on undisturbed and its answer is thrown away.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn submit(&self, mut event: Box<Event>) -> Reply {
        if let Some(tracer) = &self.tracer
            && event.trace.is_none()
        {
            let trace = tracer.begin(&event.header_map);
            trace.stamp(&mut event.header_map);
            let kind = Kind::Trigger { kind: event.trigger.kind.clone(), name: event.trigger.name.clone() };
            event.trace = Some(trace.clone());
            let reply = Box::pin(self.hand_in(event)).await;
            trace.end_event(kind, reply.is_err().then_some("event_failed"));
            return reply;
        }
        self.hand_in(event).await
    }

    async fn hand_in(&self, event: Box<Event>) -> Reply {
        let mut abandoned = Abandoned(Some(&self.counters));
        let reply = self.pool.submit(event, self.wait).await;
        abandoned.0 = None;
        // The other end is dropped unanswered only when everything is cut off.
        let reply = reply.unwrap_or(Err(SubmitError::Stopping));
        self.counters.count(reply.as_ref().map(|_| ()).map_err(cause));
        reply
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
