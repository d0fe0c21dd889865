//! What wakes the task that owns a connection, and in which order it looks: what is to be written, what has been read,
//! everything else. The same for a worker ([`super::worker`]) and for a connection to a wrapper of protocol 1.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use super::desk::Desk;
use crate::queue::Job;

/// Reads in a row after which everything else is looked at, however much the other side still says.
const READS_IN_A_ROW: u32 = 16;

/// What woke the task. `T`: what it may be told.
pub(super) enum Wake<T> {
    /// So many bytes have been read; 0: the other side has closed.
    Read(usize),
    /// An event is lent to it.
    Lent(Job),
    /// The alarm has rung.
    Alarm,
    /// It has been told something.
    Told(T),
    /// Something else has changed.
    Again,
}

/// What both kinds of tasks look at.
#[derive(Debug, Default)]
pub(super) struct Post {
    pub(super) desk: Desk,
    /// Keys of events to look at.
    pub(super) rung: Vec<usize>,
    alarm: Option<Pin<Box<Sleep>>>,
    /// Reads since everything else was looked at.
    reads: u32,
}

impl Post {
    /// Rings at that time, or before: whoever it wakes looks at the time.
    pub(super) fn wake_at(&mut self, at: Instant) {
        match &mut self.alarm {
            Some(alarm) if alarm.deadline() <= at.into() => {}
            Some(alarm) => alarm.as_mut().reset(at.into()),
            None => self.alarm = Some(Box::pin(tokio::time::sleep_until(at.into()))),
        }
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(alarm) = &mut self.alarm else { return Poll::Pending };
        std::task::ready!(alarm.as_mut().poll(cx));
        self.alarm = None;
        Poll::Ready(())
    }
}

/// A task that owns a connection.
pub(super) trait Wakes {
    /// What it may be told.
    type Told;

    /// What it looks at.
    fn post(&mut self) -> &mut Post;

    /// Writes as far as that goes. True: something has just been written to its end.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool>;

    /// One read.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// What it is told.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Self::Told>;

    /// What became of its events outside. True: there is something to do about it.
    fn poll_events(&mut self, cx: &mut Context<'_>) -> bool;

    /// What comes next.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Wake<Self::Told>>> {
        if self.poll_write(cx)? {
            return Poll::Ready(Ok(Wake::Again));
        }
        let others_first = self.post().reads >= READS_IN_A_ROW;
        if !others_first && let Poll::Ready(read) = self.poll_read(cx) {
            self.post().reads += 1;
            return Poll::Ready(read.map(Wake::Read));
        }
        self.post().reads = 0;
        match self.poll_others(cx) {
            Poll::Pending if others_first => self.poll_read(cx).map_ok(Wake::Read),
            other => other.map(Ok),
        }
    }

    /// Everything but the connection.
    fn poll_others(&mut self, cx: &mut Context<'_>) -> Poll<Wake<Self::Told>> {
        let Post { desk, rung, .. } = self.post();
        let lent = desk.poll_take(cx, rung);
        // Before the event just lent is begun: one that was taken back may be in its way.
        let again = self.poll_events(cx);
        if let Poll::Ready(job) = lent {
            return Poll::Ready(Wake::Lent(job));
        }
        if self.post().poll_alarm(cx).is_ready() {
            return Poll::Ready(Wake::Alarm);
        }
        if let Poll::Ready(told) = self.poll_told(cx) {
            return Poll::Ready(Wake::Told(told));
        }
        if again { Poll::Ready(Wake::Again) } else { Poll::Pending }
    }
}
