//! Events that must end: those that pass their deadline, and those that their trigger takes back. A worker that has one
//! event at a time is condemned by it; one that has several, and whose shim gives events up when told, only if the shim
//! does not answer: it hangs. One that is taken back while no other is in work condemns its worker, too: that ends it
//! whatever its language can.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::batch::fail;
use super::protocol::v2::{self, CancelReason};
use super::worker::{Ended, InFlight, Worker};
use crate::event::HandlerError;
use crate::fields;

/// How long a shim may take to give up an event that it was told to, before it counts as hanging.
const GIVE_UP: Duration = Duration::from_millis(100);

/// Why an event must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Its deadline has passed.
    Deadline,
    /// Its trigger has something newer.
    TakenBack,
}

impl Why {
    fn reason(self) -> CancelReason {
        match self {
            Self::Deadline => CancelReason::Deadline,
            Self::TakenBack => CancelReason::TakenBack,
        }
    }

    /// What those get who still wait for it.
    fn error(self) -> HandlerError {
        match self {
            Self::Deadline => HandlerError::TimedOut,
            Self::TakenBack => HandlerError::Lost("the event was taken back".to_owned()),
        }
    }

    /// For the span of the call.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Deadline => "timeout",
            Self::TakenBack => "replaced",
        }
    }
}

impl Worker {
    /// Answers events whose time is over, and winds the alarm for the next.
    pub(super) fn check_deadline(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let mut next = None;
        let mut last = None;
        while let Some(key) = self.order.begun(last) {
            last = Some(key);
            let event = &self.in_flight[key];
            let due = match (event.expired, self.settings.event_timeout) {
                (Some((told, _)), _) => told + GIVE_UP,
                (None, Some(limit)) => event.begun.unwrap_or(now) + limit,
                (None, None) => continue,
            };
            if due <= now {
                self.give_up(key, now, event.expired.map_or(Why::Deadline, |(_, why)| why))?;
            }
            let due = if due > now { due } else { now + GIVE_UP };
            next = Some(next.map_or(due, |next: Instant| next.min(due)));
        }
        if let Some(next) = next {
            self.post.wake_at(next);
        }
        Ok(())
    }

    /// The shim has until [`GIVE_UP`] to end that event, which it has been told of. Meanwhile the worker gets no others:
    /// they would be lost with it if it hangs.
    pub(super) fn expect_end(&mut self, key: usize, now: Instant) {
        let event = &mut self.in_flight[key];
        event.expired = Some((now, Why::TakenBack));
        self.hold();
        self.post.wake_at(now + GIVE_UP);
    }

    /// Ends an event that is in work, and its worker if that cannot be done otherwise.
    pub(super) fn give_up(&mut self, key: usize, now: Instant, why: Why) -> Result<(), Ended> {
        let alone = self.places.begun == 1;
        let event = &mut self.in_flight[key];
        let first = event.expired.is_none();
        let id = event.id;
        let (reply, stream) = (event.reply.take(), event.stream.take());
        if first && why == Why::Deadline {
            event.expired = Some((now, why));
            self.count_timeout(why);
        }
        fail(reply, why.error());
        if let Some(stream) = stream {
            self.count_stream(false);
            stream.end(Err(why.error()));
        }
        if first && self.hello.cancel {
            v2::write_cancel(self.link.writer.frames(), id, why.reason());
        }
        let spares_others = self.settings.in_flight_max > 1 && !(alone && why == Why::TakenBack);
        if first && self.hello.deadline && spares_others {
            match why {
                Why::TakenBack => self.expect_end(key, now),
                Why::Deadline => {
                    let elapsed = self.settings.event_timeout.unwrap_or_default().as_secs_f64();
                    let fields = fields! {"elapsed" => elapsed};
                    self.logger.warn("Event timed out; the others of its worker go on", fields);
                }
            }
            return Ok(());
        }
        let ahead = self.order.next().is_some();
        self.leaving = true; // What was written ahead does not begin here any more.
        // Its own caller has been answered; those of the rest of its batch are now.
        for event in self.remove_place(key, Some(why.word())) {
            if event.expired.is_none() {
                self.count_timeout(why);
            }
            self.fail_in_flight(event, why);
        }
        Err(match why {
            Why::Deadline => Ended::TimedOut { ahead },
            // One that was told before, or cannot be, has had its time.
            Why::TakenBack => Ended::Replaced { at_once: ahead || !first || !self.hello.cancel },
        })
    }

    fn fail_in_flight(&self, event: InFlight, why: Why) {
        fail(event.reply, why.error());
        if let Some(stream) = event.stream {
            self.count_stream(false);
            stream.end(Err(why.error()));
        }
    }

    fn count_timeout(&self, why: Why) {
        if why == Why::Deadline {
            self.queue.counters().event_timeouts.fetch_add(1, Ordering::Relaxed);
        }
    }
}
