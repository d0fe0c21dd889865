//! Batches in a shim worker: which events belong together, and how many places they take. An event takes one of the
//! places that were agreed in the handshake, and so does a whole batch.

use std::time::{Duration, Instant};

use slab::Slab;

use super::intake::Intake;
use super::protocol::v2;
use super::worker::{InFlight, Worker};
use crate::event::HandlerError;
use crate::queue::{Job, Member, ReplySender};

/// How an event sits in the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    /// On a place of its own.
    Alone,
    /// First of a batch, whose number in [`Places`] this is.
    First(usize),
    /// A later event of that batch.
    Beside(usize),
}

impl Seat {
    /// Whether a place begins with it.
    pub(super) fn opens_place(self) -> bool {
        !matches!(self, Self::Beside(_))
    }

    /// Its batch, if it has one.
    pub(super) fn batch(self) -> Option<usize> {
        match self {
            Self::Alone => None,
            Self::First(batch) | Self::Beside(batch) => Some(batch),
        }
    }
}

/// The places that are taken, and how many of them the shim works on.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) taken: usize,
    pub(super) begun: usize,
    batches: Slab<Batch>,
}

#[derive(Debug)]
struct Batch {
    events: usize,
    left: usize,
}

impl Places {
    fn take_for_batch(&mut self, events: usize) -> usize {
        self.taken += 1;
        self.batches.insert(Batch { events, left: events })
    }

    /// An event has left. True: its place is free, so it was the last one there.
    pub(super) fn leave(&mut self, seat: Seat, begun: bool) -> bool {
        if let Some(number) = seat.batch() {
            let batch = &mut self.batches[number];
            batch.left -= 1;
            if batch.left > 0 {
                return false;
            }
            self.batches.remove(number);
        }
        self.taken -= 1;
        self.begun -= usize::from(begun);
        true
    }

    /// Whether what the handler says now may concern other clients as well.
    pub(super) fn is_shared(&self, seat: Seat) -> bool {
        seat.batch().and_then(|number| self.batches.get(number)).is_some_and(|batch| batch.events > 1)
    }
}

impl Worker {
    /// Writes all events of a batch in one run, or refuses them where the shim takes no batches.
    pub(super) fn write_batch(&mut self, first: Member, rest: Vec<Member>, submitted: Instant) {
        if !self.hello.batch {
            for member in std::iter::once(first).chain(rest) {
                self.queue.dropped();
                self.reply_later(Some(member.reply), Err(HandlerError::Unsupported.into()));
            }
            return;
        }
        let number = self.places.take_for_batch(1 + rest.len());
        let mut seat = Seat::First(number);
        let mut members = std::iter::once(first).chain(rest).peekable();
        while let Some(Member { event, reply }) = members.next() {
            let last = members.peek().is_none();
            self.write_event(event, reply, submitted, seat, |frame| v2::mark_batch(frame, last));
            seat = Seat::Beside(number);
        }
    }

    /// Takes out all events that the one of that key shares its place with, itself first. `error`: as in
    /// [`Worker::remove`].
    pub(super) fn remove_place(&mut self, key: usize, error: Option<&'static str>) -> Vec<InFlight> {
        let mut keys = vec![key];
        if let Some(batch) = self.in_flight[key].seat.batch() {
            let same = |other: &usize| *other != key && self.in_flight[*other].seat.batch() == Some(batch);
            keys.extend(self.order.iter().copied().filter(same));
        }
        keys.into_iter().map(|key| self.remove(key, None, error)).collect()
    }

    /// An event that has begun leaves the worker's counts.
    pub(super) fn count_finished(&self, last_of_place: bool, taken: Duration) {
        if last_of_place {
            self.queue.finished(self.settings.index, taken);
        } else {
            self.queue.finished_beside_others(self.settings.index, taken);
        }
    }
}

/// The jobs that events had come as, in the same order. Those whose callers have been answered are left out.
pub(super) fn jobs_again(events: Vec<InFlight>) -> Vec<Job> {
    let mut jobs = Vec::new();
    // Events of a batch stand side by side.
    let mut events = events.into_iter().peekable();
    while let Some(InFlight { mut event, reply, submitted, seat, intake, .. }) = events.next() {
        event.body.stream = intake.map(Intake::into_stream);
        let Some(number) = seat.batch() else {
            jobs.extend(reply.map(|reply| Job::again(event, reply, submitted)));
            continue;
        };
        let mut members: Vec<Member> = reply.map(|reply| Member { event, reply }).into_iter().collect();
        while let Some(next) = events.next_if(|next| next.seat.batch() == Some(number)) {
            let event = next.event;
            members.extend(next.reply.map(|reply| Member { event, reply }));
        }
        jobs.extend(Job::batch_again(members, submitted));
    }
    jobs
}

/// Answers that all get the same error.
pub(super) fn fail(reply: Option<ReplySender>, error: HandlerError) {
    if let Some(reply) = reply {
        drop(reply.send(Err(error.into()))); // The client may have left.
    }
}
