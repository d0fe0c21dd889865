//! The only door from triggers to workers: hands an event in, waits for its answer, counts how it ended.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::event::{Event, HandlerError, Recall};
use crate::metrics::{Cause, TriggerCounters};
use crate::pool::{Pool, Submitted};
use crate::queue::{Member, Reply, SubmitError};
use crate::trace::span::Kind;
use crate::trace::{EventSpan, Tracer};

/// One trigger's way to its pool. Cheap to clone.
#[derive(Clone)]
pub struct Dispatcher {
    pool: Arc<Pool>,
    counters: Arc<TriggerCounters>,
    wait: Duration,
    tracer: Option<Arc<Tracer>>,
}

/// An event that has been handed in and not been answered yet.
pub struct Waiting {
    reply: oneshot::Receiver<Reply>,
    span: Option<Box<EventSpan>>,
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
    pub async fn submit(&self, event: Box<Event>) -> Reply {
        self.wait_for(self.hand_in(event)).await
    }

    /// Hands an event to a worker. Its answer has to be waited for.
    pub fn hand_in(&self, mut event: Box<Event>) -> Waiting {
        let span = self.trace(&mut event);
        let reply = self.pool.submit(event, self.wait);
        Waiting { reply, span }
    }

    /// The same for who has given nobody else anything to do in this turn of its task: where handlers are quick and run
    /// in process, one may be called right away on this thread.
    ///
    /// # Errors
    /// There is no answer yet: it has to be waited for.
    pub fn submit_here(&self, mut event: Box<Event>) -> Result<Reply, Waiting> {
        let span = self.trace(&mut event);
        match self.pool.submit_here(event, self.wait) {
            Submitted::Waits(reply) => Err(Waiting { reply, span }),
            Submitted::Answered(reply) => {
                count(&self.counters, &reply);
                end(span, &reply);
                Ok(reply)
            }
        }
    }

    /// Waits for the answer, as [`Dispatcher::submit`] does.
    ///
    /// # Errors
    /// Why there is none.
    pub fn wait_for(&self, waiting: Waiting) -> Awaited<'_> {
        Awaited { waiting, abandoned: Abandoned(Some(&self.counters)) }
    }

    /// The same for an event whose wait may end otherwise: once `end` has come, even beside the answer, the event is
    /// given up as by a client that left, and counted under the cause that `end` says.
    ///
    /// # Errors
    /// What `end` says besides.
    pub async fn submit_until<T>(
        &self,
        mut event: Box<Event>,
        end: impl Future<Output = (Cause, T)>,
    ) -> Result<Reply, T> {
        let span = self.trace(&mut event);
        let mut answer = self.pool.submit(event, self.wait);
        let mut end = pin!(end);
        let mut abandoned = Abandoned(Some(&self.counters));
        let ended = std::future::poll_fn(|cx| {
            // Looked at behind the answer, too: another thread may have brought both between two looks.
            let answered = Pin::new(&mut answer).poll(cx);
            match (end.as_mut().poll(cx), answered) {
                (Poll::Ready(end), _) => Poll::Ready(Err(end)),
                (Poll::Pending, answered) => answered.map(Ok),
            }
        });
        let ended = ended.await.map(|reply| reply.unwrap_or(Err(SubmitError::Stopping)));
        abandoned.0 = None;
        match &ended {
            Ok(reply) => count(&self.counters, reply),
            Err((cause, _)) => self.counters.count(Err(*cause)),
        }
        if let Some(mut span) = span {
            span.end(!matches!(ended, Ok(Ok(_))));
        }
        ended.map_err(|(_, said)| said)
    }

    /// The same for an event that its trigger may take back with this: then what runs of it is ended, too, if
    /// [`Dispatcher::ends_handlers`].
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn submit_recallable(&self, mut event: Box<Event>, recall: &Recall) -> Reply {
        event.extra.get_or_insert_default().recall = Some(recall.clone());
        let taken_back = async {
            recall.asked().await;
            (Cause::Replaced, SubmitError::Replaced)
        };
        self.submit_until(event, taken_back).await.unwrap_or_else(Err)
    }

    /// Whether a handler that runs can be ended: not in process.
    pub fn ends_handlers(&self) -> bool {
        self.pool.ends_handlers()
    }

    /// Begins the trace of an event whose trigger has not done so, where tracing is on.
    fn trace(&self, event: &mut Event) -> Option<Box<EventSpan>> {
        let tracer = self.tracer.as_ref().filter(|_| event.trace.is_none())?;
        let trace = tracer.begin(&event.header_map);
        let kind = Kind::Trigger { kind: event.trigger.kind.clone(), name: event.trigger.name.clone() };
        let span = EventSpan::begin(&trace, kind);
        event.join(trace);
        span
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
        abandoned.answered(&reply);
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

    /// Whether the handler is a web application, which gets requests as they are.
    pub fn serves_web(&self) -> bool {
        self.pool.serves_web()
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

/// The answer to an event, or why there is none. By hand: as `async fn` in `async fn` it would be several times as
/// large, and is moved for each request.
#[must_use = "an event that nobody waits for has been left by its client"]
pub struct Awaited<'a> {
    waiting: Waiting,
    abandoned: Abandoned<'a>,
}

impl Future for Awaited<'_> {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Reply> {
        let reply = ready!(Pin::new(&mut self.waiting.reply).poll(cx));
        // The other end is dropped unanswered only when everything is cut off.
        let reply = reply.unwrap_or(Err(SubmitError::Stopping));
        self.abandoned.answered(&reply);
        end(self.waiting.span.take(), &reply);
        Poll::Ready(reply)
    }
}

fn end(span: Option<Box<EventSpan>>, reply: &Reply) {
    if let Some(mut span) = span {
        span.end(reply.is_err());
    }
}

fn count(counters: &TriggerCounters, reply: &Reply) {
    counters.count(reply.as_ref().map(|_| ()).map_err(cause));
}

fn cause(error: &SubmitError) -> Cause {
    match error {
        SubmitError::NoWorkers => Cause::NoWorker,
        SubmitError::Stopping => Cause::Stopping,
        SubmitError::Replaced => Cause::Replaced,
        SubmitError::Handler(HandlerError::TimedOut) => Cause::Timeout,
        SubmitError::Handler(HandlerError::Lost(_)) => Cause::WorkerLost,
        SubmitError::Handler(HandlerError::Failed { .. } | HandlerError::Unsupported) => Cause::Handler,
    }
}

/// Counts an event whose client left before its answer as a failure.
struct Abandoned<'a>(Option<&'a TriggerCounters>);

impl Abandoned<'_> {
    /// It has stayed.
    fn answered(&mut self, reply: &Reply) {
        if let Some(counters) = self.0.take() {
            count(counters, reply);
        }
    }
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.0 {
            counters.count(Err(Cause::ClientLeft));
        }
    }
}
