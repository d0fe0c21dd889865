//! Batches in process: one call takes several events. The monitor watches it as it does every call; what it says at
//! the deadline is passed on to every event of the batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{Broken, Callable, Desk, Workers, locked};
use crate::event::{Event, HandlerError};
use crate::metrics::RestartReason;
use crate::queue::{Job, Member, Reply, ReplySender};
use crate::runtime::plugin::worker::BatchOutcome;

/// Where the answers of a batch go; empty once somebody answers.
type Replies = Arc<Mutex<Vec<ReplySender>>>;

impl Workers {
    /// Calls the handler with a whole batch, on a task of its own.
    pub(super) fn launch_batch(self: &Arc<Self>, desk: Box<Desk>, job: Job) {
        let workers = self.clone();
        self.runtime.spawn(async move {
            let permit = workers.permit().await;
            workers.call_batch(desk, job);
            drop(permit);
        });
    }

    fn call_batch(self: &Arc<Self>, mut desk: Box<Desk>, job: Job) {
        let begun = Instant::now();
        let waited = begun.duration_since(job.submitted);
        let first = Member { event: job.event, reply: job.reply };
        let members = std::iter::once(first).chain(job.batch.into_iter().flatten());
        let (events, replies): (Vec<Event>, Vec<ReplySender>) =
            members.map(|member| (*member.event, member.reply)).unzip();
        let count = events.len();
        (0..count).for_each(|_| self.queue.counters().started(waited));
        let replies: Replies = Arc::new(Mutex::new(replies));
        let slot = desk.slot.clone();
        slot.set_events(count);
        self.monitor.open(&slot, self.pass_on(&replies), begun);
        let deadline = self.event_timeout.map(|limit| begun + limit);
        let outcome = catch_unwind(AssertUnwindSafe(|| match &mut desk.callable {
            Callable::Plugin(worker) => worker.call_batch(events, slot.cancelled(), deadline),
            Callable::Builtin => Ok((0..count).map(|_| Err(HandlerError::Unsupported)).collect()),
        }));
        // Not the handler's fault, whose own panics never come this far; the callers must not wait for ever.
        let outcome = outcome.unwrap_or_else(|_| {
            Err(HandlerError::Lost("the processor failed to handle the batch".to_owned()))
        });
        let in_time = slot.close().is_some();
        if slot.given_up() {
            self.monitor.returned();
            std::mem::forget(desk); // The plugin must not see its worker stopped.
            return;
        }
        slot.set_events(1);
        let replies = if in_time { std::mem::take(&mut *locked(&replies)) } else { Vec::new() };
        self.conclude_batch(desk, outcome, replies, count, begun.elapsed());
    }

    /// Where the monitor answers at the deadline: all of the batch gets that.
    fn pass_on(&self, replies: &Replies) -> ReplySender {
        let (reply, late) = oneshot::channel::<Reply>();
        let (replies, queue) = (replies.clone(), self.queue.clone());
        self.runtime.spawn(async move {
            let Ok(late) = late.await else { return }; // The call returned in time.
            let Err(error) = late else { return };
            let replies = std::mem::take(&mut *locked(&replies));
            // One has been counted where the deadline was noticed.
            let others = replies.len().saturating_sub(1) as u64;
            queue.counters().event_timeouts.fetch_add(others, Ordering::Relaxed);
            for reply in replies {
                drop(reply.send(Err(error.clone()))); // The client may have left.
            }
        });
        reply
    }

    fn conclude_batch(
        self: &Arc<Self>,
        desk: Box<Desk>,
        outcome: BatchOutcome,
        replies: Vec<ReplySender>,
        count: usize,
        taken: Duration,
    ) {
        let index = desk.index;
        (1..count).for_each(|_| self.queue.finished_beside_others(index, taken));
        self.queue.finished(index, taken);
        match outcome {
            Ok(answers) => {
                self.free(desk);
                for (reply, answer) in replies.into_iter().zip(answers) {
                    drop(reply.send(answer.map_err(Into::into)));
                }
            }
            Err(error) => {
                for reply in replies {
                    drop(reply.send(Err(error.clone().into())));
                }
                self.monitor.forget(&desk.slot);
                let broken = Broken { index, reason: RestartReason::Protocol };
                self.broken.try_send(broken).unwrap_or_default(); // As many places as workers.
            }
        }
    }
}
