//! Events that pass their deadline. A worker that has one event at a time is condemned by it; one that has several, and
//! whose shim gives events up when told, only if the shim does not answer: it hangs.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::batch::fail;
use super::protocol::v2::{self, CancelReason};
use super::worker::{Ended, Worker};
use crate::event::HandlerError;
use crate::fields;

/// How long a shim may take to give up an event that has passed its deadline, before it counts as hanging.
const GIVE_UP: Duration = Duration::from_millis(100);

impl Worker {
    /// Answers events whose time is over, and winds the alarm for the next.
    pub(super) fn check_deadline(&mut self) -> Result<(), Ended> {
        let Some(limit) = self.settings.event_timeout else { return Ok(()) };
        let now = Instant::now();
        let mut next = None;
        for place in 0..self.begun {
            let key = self.order[place];
            let event = &self.in_flight[key];
            let due = event.expired.map_or(event.begun.unwrap_or(now) + limit, |told| told + GIVE_UP);
            if due <= now {
                self.time_out(key, now)?;
            }
            // Those that were told are at the front, the rest began in this order.
            let due = if due > now { due } else { now + GIVE_UP };
            next = Some(next.map_or(due, |next: Instant| next.min(due)));
        }
        self.alarm = next.map(|next| Box::pin(tokio::time::sleep_until(next.into())));
        Ok(())
    }

    fn time_out(&mut self, key: usize, now: Instant) -> Result<(), Ended> {
        let event = &mut self.in_flight[key];
        let first = event.expired.replace(now).is_none();
        let (id, reply, stream) = (event.id, event.reply.take(), event.stream.take());
        if first {
            self.queue.counters().event_timeouts.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(reply) = reply {
            drop(reply.send(Err(HandlerError::TimedOut.into()))); // The client may have left.
        }
        if let Some(stream) = stream {
            self.count_stream(false);
            stream.end(Err(HandlerError::TimedOut));
        }
        if first && self.hello.cancel {
            v2::write_cancel(self.link.writer.frames(), id, CancelReason::Deadline);
        }
        if first && self.hello.deadline && self.settings.in_flight_max > 1 {
            let elapsed = self.settings.event_timeout.unwrap_or_default().as_secs_f64();
            self.logger
                .warn("Event timed out; the others of its worker go on", fields! {"elapsed" => elapsed});
            return Ok(());
        }
        let ahead = self.order.len() > self.begun;
        self.leaving = true; // What was written ahead does not begin here any more.
        // Its own caller has been answered; those of the rest of its batch are now.
        for event in self.remove_place(key, Some("timeout")) {
            if event.expired.is_none() {
                self.queue.counters().event_timeouts.fetch_add(1, Ordering::Relaxed);
            }
            fail(event.reply, HandlerError::TimedOut);
            if let Some(stream) = event.stream {
                self.count_stream(false);
                stream.end(Err(HandlerError::TimedOut));
            }
        }
        Err(Ended::TimedOut { ahead })
    }
}
