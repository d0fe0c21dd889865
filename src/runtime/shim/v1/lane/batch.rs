//! Batches on a connection: one frame with a list, one line with the answers, each with the id of its event.

use std::time::Instant;

use std::collections::HashMap;

use super::{Current, Lane};
use crate::config::Level;
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
        let members = first.into_iter().chain(batch.into_iter().flatten());
        let (events, mut replies): (Vec<_>, Vec<_>) =
            members.map(|member| (member.event, Some(member.reply))).unzip();
        let answers = match answers {
            Ok(Answers::List(answers)) => answers,
            // This is how the wrapper reports what its handler raised.
            Ok(Answers::One(answer)) if answer.event_id.is_empty() => {
                for sender in replies.into_iter().flatten() {
                    let reply = self.reply((*answer).clone());
                    self.done.push((sender, reply));
                }
                return;
            }
            Ok(Answers::One(answer)) => vec![Some(*answer)],
            Err(text) => return self.fail(replies.into_iter().flatten(), &text),
        };
        let mut places = Places::new(events.iter().map(|event| event.id.as_str()));
        for answer in answers {
            let Some(answer) = answer else { continue };
            match places.take(&answer.event_id).and_then(|at| replies[at].take()) {
                Some(sender) => {
                    let reply = self.reply(answer);
                    self.done.push((sender, reply));
                }
                None => self.complain_of_id(&answer),
            }
        }
        self.fail(replies.into_iter().flatten(), NO_ANSWER);
    }

    /// All of them fail with this.
    pub(super) fn fail(&mut self, replies: impl IntoIterator<Item = ReplySender>, text: &str) {
        let failed = |reply| -> (ReplySender, Reply) { (reply, Err(HandlerError::failed(text).into())) };
        self.done.extend(replies.into_iter().map(failed));
    }

    fn complain_of_id(&self, answer: &Answer) {
        let message = "The handler answered an event that is not in its batch";
        self.shared.complain(Level::Warn, message, || fields! {"event_id" => answer.event_id});
    }
}

/// Places of a batch's events by their ids, each to be taken once. Of events with the same id the first goes first.
struct Places<'a> {
    first: HashMap<&'a str, usize>,
    /// The next place with the same id.
    next: Vec<Option<usize>>,
}

impl<'a> Places<'a> {
    fn new(ids: impl DoubleEndedIterator<Item = &'a str> + ExactSizeIterator) -> Self {
        let mut places = Self { first: HashMap::with_capacity(ids.len()), next: vec![None; ids.len()] };
        for (at, id) in ids.enumerate().rev() {
            places.next[at] = places.first.insert(id, at);
        }
        places
    }

    fn take(&mut self, id: &str) -> Option<usize> {
        let (id, at) = self.first.remove_entry(id)?;
        if let Some(next) = self.next[at] {
            self.first.insert(id, next);
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_taken_once_by_its_id_also_where_ids_come_twice() {
        let mut places = Places::new(["a", "b", "a", "", "a"].into_iter());
        let taken = ["b", "a", "c", "", "a", "b", "a", "a", ""].map(|id| places.take(id));
        let expected = [Some(1), Some(0), None, Some(3), Some(2), None, Some(4), None, None];
        assert_eq!(taken, expected);
    }
}
