//! Batches in process: one call takes several events. The monitor watches it as it does every call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::{Callable, Desk, Workers, fail};
use crate::event::{Event, HandlerError};
use crate::queue::{Job, Member, ReplySender};
use crate::runtime::plugin::worker::BatchOutcome;
use crate::trace::Call;

/// Who waits for what a call answers.
#[derive(Debug)]
pub enum Callers {
    /// The one of its event.
    One(ReplySender),
    /// Those of its batch, in the order of the events.
    Batch(Vec<ReplySender>),
}

impl Callers {
    fn each(&self) -> &[ReplySender] {
        match self {
            Self::One(reply) => std::slice::from_ref(reply),
            Self::Batch(replies) => replies,
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.each().len()
    }

    /// Whether all of them have left.
    pub fn all_left(&self) -> bool {
        self.each().iter().all(ReplySender::is_closed)
    }

    /// Answers all of them with the same error.
    pub fn fail(self, error: &HandlerError) {
        let replies = match self {
            Self::One(reply) => return drop(reply.send(Err(error.clone().into()))), // It may have left.
            Self::Batch(replies) => replies,
        };
        for reply in replies {
            drop(reply.send(Err(error.clone().into())));
        }
    }
}

impl Workers {
    /// Calls the handler with a whole batch.
    pub(super) fn call_batch(&self, mut desk: Box<Desk>, job: Job) {
        let begun = Instant::now();
        let waited = begun.duration_since(job.submitted);
        let first = Member { event: job.event, reply: job.reply };
        let members: Vec<Member> = std::iter::once(first).chain(job.batch.into_iter().flatten()).collect();
        let mut spans = spans(&members, desk.index, job.submitted, begun);
        let (events, replies): (Vec<Box<Event>>, Vec<ReplySender>) =
            members.into_iter().map(|member| (member.event, member.reply)).unzip();
        let count = events.len();
        (0..count).for_each(|_| self.queue.counters().started(waited));
        let slot = desk.slot.clone();
        slot.set_events(count);
        self.monitor.open(&slot, Some(Callers::Batch(replies)), begun);
        let deadline = self.event_timeout.map(|limit| begun + limit);
        let outcome = catch_unwind(AssertUnwindSafe(|| match &mut desk.callable {
            Callable::Plugin(worker) => worker.call_batch(events, slot.cancelled(), deadline),
            Callable::Builtin => Ok((0..count).map(|_| Err(HandlerError::Unsupported)).collect()),
        }));
        // Not the handler's fault, whose own panics never come this far; the callers must not wait for ever.
        let outcome = outcome.unwrap_or_else(|_| {
            Err(HandlerError::Lost("the processor failed to handle the batch".to_owned()))
        });
        let callers = slot.close(); // None: the deadline took them.
        if slot.given_up() {
            spans.iter_mut().for_each(|span| fail(span, "timeout"));
            self.monitor.returned();
            desk.abandon();
            return;
        }
        slot.set_events(1);
        end(spans, &outcome);
        let taken = begun.elapsed();
        slot.took(taken);
        self.conclude_batch(desk, outcome, callers, count, taken);
    }

    fn conclude_batch(
        &self,
        desk: Box<Desk>,
        outcome: BatchOutcome,
        callers: Option<Callers>,
        count: usize,
        taken: Duration,
    ) {
        let index = desk.index;
        let finish = || {
            (1..count).for_each(|_| self.queue.finished_beside_others(index, taken));
            self.queue.finished(index, taken);
        };
        match outcome {
            Ok(answers) => {
                self.free(desk, false, finish);
                let Some(Callers::Batch(replies)) = callers else { return };
                for (reply, answer) in replies.into_iter().zip(answers) {
                    drop(reply.send(answer.map_err(Into::into))); // The client may have left.
                }
            }
            Err(error) => {
                finish();
                if let Some(callers) = callers {
                    callers.fail(&error);
                }
                self.replace(desk);
            }
        }
    }
}

/// A span for each event whose trace is recorded; nothing at all where none is.
fn spans(members: &[Member], worker: usize, submitted: Instant, begun: Instant) -> Vec<Option<Box<Call>>> {
    if members.iter().all(|member| member.event.trace.is_none()) {
        return Vec::new();
    }
    let span = |member: &Member| Call::begin(member.event.trace.as_ref(), worker, submitted, begun);
    members.iter().map(span).collect()
}

/// The call has returned.
fn end(mut spans: Vec<Option<Box<Call>>>, outcome: &BatchOutcome) {
    match outcome {
        Ok(answers) => {
            for (span, answer) in spans.iter_mut().zip(answers) {
                if answer.as_ref().map_or(true, |response| response.status >= 500) {
                    fail(span, "handler_failed");
                }
            }
        }
        Err(_) => spans.iter_mut().for_each(|span| fail(span, "worker_lost")),
    }
}
