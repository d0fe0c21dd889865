//! Batches in a shim worker: which events belong together, and how many places they take. An event takes one of the
//! places that were agreed in the handshake, and so does a whole batch.

use std::time::{Duration, Instant};

use slab::Slab;

use super::protocol::v2;
use super::worker::{InFlight, Worker};
use crate::event::HandlerError;
use crate::queue::{Job, Member, ReplySender};

/// How an event sits in the shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seat {
    /// On a place of its own.
    Alone,
    /// Beside the others of a batch, whose number in [`Places`] this is.
    InBatch(usize),
}

impl Seat {
    /// Its batch, if it has one.
    pub(super) fn batch(self) -> Option<usize> {
        match self {
            Self::Alone => None,
            Self::InBatch(batch) => Some(batch),
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
    begun: bool,
}

impl Places {
    fn take_for_batch(&mut self, events: usize) -> usize {
        self.taken += 1;
        self.batches.insert(Batch { events, left: events, begun: false })
    }

    /// The shim works on the event from now on, if no more than `places_max` places are worked on then. Of a batch
    /// any event may be the first to begin: a shim may have answered others before their turn.
    pub(super) fn begin(&mut self, seat: Seat, places_max: usize) -> bool {
        let batch = seat.batch().map(|number| &mut self.batches[number]);
        if batch.as_ref().is_some_and(|batch| batch.begun) {
            return true;
        }
        if self.begun == places_max {
            return false;
        }
        batch.into_iter().for_each(|batch| batch.begun = true);
        self.begun += 1;
        true
    }

    /// An event has left. True: its place is free, so it was the last one there.
    pub(super) fn leave(&mut self, seat: Seat, begun: bool) -> bool {
        let mut begun = begun;
        if let Some(number) = seat.batch() {
            let batch = &mut self.batches[number];
            batch.left -= 1;
            if batch.left > 0 {
                return false;
            }
            begun = self.batches.remove(number).begun;
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
        let seat = Seat::InBatch(number);
        let mut members = std::iter::once(first).chain(rest).peekable();
        while let Some(Member { event, reply }) = members.next() {
            let last = members.peek().is_none();
            self.write_event(event, reply, submitted, seat, |frame| v2::mark_batch(frame, last));
        }
    }

    /// Takes out all events that the one of that key shares its place with, itself first. `error`: as in
    /// [`Worker::remove`].
    pub(super) fn remove_place(&mut self, key: usize, error: Option<&'static str>) -> Vec<InFlight> {
        let mut keys = vec![key];
        if let Some(batch) = self.in_flight[key].seat.batch() {
            let same = |other: &usize| *other != key && self.in_flight[*other].seat.batch() == Some(batch);
            keys.extend(self.order.keys().filter(same));
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
        event.body.stream = intake.map(|intake| intake.into_stream());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_takes_one_place_whichever_of_its_events_begins_first_and_ends_last() {
        for before in 0..3 {
            let mut places = Places::default();
            let ahead = Seat::InBatch(places.take_for_batch(3));
            places.taken += 1;
            assert!(places.begin(Seat::Alone, 1) && !places.begin(ahead, 1));
            for _ in 0..before {
                assert!(!places.leave(ahead, false), "answered before its turn");
            }
            assert!(places.leave(Seat::Alone, true));
            for _ in before..3 {
                assert!(places.begin(ahead, 1));
            }
            assert_eq!((places.taken, places.begun), (1, 1));
            let ends: Vec<bool> = (before..3).map(|_| places.leave(ahead, true)).collect();
            assert_eq!(ends.iter().filter(|last| **last).count(), 1);
            assert_eq!((places.taken, places.begun, places.batches.len()), (0, 0, 0));
        }
    }
}
