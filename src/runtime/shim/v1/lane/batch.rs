//! Batches on a connection: one frame with a list, one line with the answers, each with the id of its event.

use std::time::Instant;

use std::collections::VecDeque;

use super::{Current, Lane};
use crate::event::{Event, HandlerError};
use crate::fields;
use crate::queue::{Member, Reply, ReplySender};
use crate::runtime::shim::protocol::v1::answer::{Answer, Answers};
use crate::trace::Call;

/// What an event of a batch gets that has been left out.
const NO_ANSWER: &str = "processor hasn't received corresponding response for the event";

impl Current {
    /// All events in work, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = &Event> {
        std::iter::once(&*self.event).chain(self.rest().map(|member| &*member.event))
    }

    /// The events of a batch beside the first.
    fn rest(&self) -> impl Iterator<Item = &Member> {
        self.batch.iter().flatten()
    }

    /// Begins the spans of those whose traces are recorded.
    pub(super) fn trace(&mut self, worker: usize, submitted: Instant) {
        let begun = self.begun;
        let call = |event: &Event| Call::begin(event.trace.as_ref(), worker, submitted, begun);
        self.calls = self.events().filter_map(call).map(|call| *call).collect();
    }

    /// How all of them failed, for their spans; the first word counts.
    pub(super) fn fail(&mut self, error: &'static str) {
        self.calls.drain(..).for_each(|mut call| call.fail(error));
    }

    /// Those who wait for answers, in the order of their events.
    pub(super) fn into_replies(self) -> Vec<ReplySender> {
        let rest = self.batch.into_iter().flatten().map(|member| member.reply);
        self.reply.into_iter().chain(rest).collect()
    }
}

impl Lane {
    /// Hands the answers of one line out to the events of the batch in work.
    pub(super) fn finish_batch(&mut self, answers: Result<Answers, String>) {
        let Some(mut current) = self.take_current() else { return };
        if answers.as_ref().map_or(true, |answers| matches!(answers, Answers::One(one) if one.status >= 500))
        {
            current.fail("handler_failed");
        }
        let Current { event, reply, batch, .. } = current;
        let first = reply.map(|reply| Member { event, reply });
        let mut members: VecDeque<Member> = first.into_iter().chain(batch.into_iter().flatten()).collect();
        let answers = match answers {
            Ok(Answers::List(answers)) => answers,
            // This is how the wrapper reports what its handler raised.
            Ok(Answers::One(answer)) if answer.event_id.is_empty() => {
                for member in members {
                    let reply = self.reply((*answer).clone());
                    self.done.push((member.reply, reply));
                }
                return;
            }
            Ok(Answers::One(answer)) => vec![Some(*answer)],
            Err(text) => return self.fail(members.into_iter().map(|member| member.reply), &text),
        };
        for answer in answers {
            let Some(answer) = answer else { continue };
            match members.iter().position(|member| member.event.id.as_str() == answer.event_id) {
                Some(at) => {
                    let reply = self.reply(answer);
                    self.done.extend(members.remove(at).map(|member| (member.reply, reply)));
                }
                None => self.warn_of_id(&answer),
            }
        }
        self.fail(members.into_iter().map(|member| member.reply), NO_ANSWER);
    }

    /// All of them fail with this.
    pub(super) fn fail(&mut self, replies: impl IntoIterator<Item = ReplySender>, text: &str) {
        let failed = |reply| -> (ReplySender, Reply) { (reply, Err(HandlerError::failed(text).into())) };
        self.done.extend(replies.into_iter().map(failed));
    }

    fn warn_of_id(&self, answer: &Answer) {
        let fields = fields! {"event_id" => answer.event_id};
        self.shared.logger.warn("The handler answered an event that is not in its batch", fields);
    }
}
