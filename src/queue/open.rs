//! Whether events are under way, and when none is any more: what a stop waits for.

use std::sync::atomic::Ordering;

use super::Queue;
use super::lend::Lend;

impl<W: Lend> Queue<W> {
    /// Events come in. False: none do any more.
    pub(super) fn open(&self, events: usize) -> bool {
        // Counted before the look at `closed`: whoever closes waits for them, or they are refused.
        self.open.mine().fetch_add(events.cast_signed(), Ordering::SeqCst);
        let open = !self.closed.load(Ordering::SeqCst);
        if !open {
            self.ended(events);
        }
        open
    }

    pub(super) fn ended(&self, events: usize) {
        if events > 0 {
            self.open.mine().fetch_sub(events.cast_signed(), Ordering::SeqCst);
            if self.closed.load(Ordering::SeqCst) {
                self.all_ended.notify_waiters(); // Whoever waits looks whether it was the last.
            }
        }
    }

    pub(super) fn open_events(&self) -> isize {
        self.open.all().map(|events| events.load(Ordering::SeqCst)).sum()
    }

    /// Refuses new events from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether new events are refused.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Lasts until no event waits or is with a worker. Call after [`Queue::close`].
    pub async fn drained(&self) {
        loop {
            let ended = self.all_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            // An event that came in before the queue was closed is seen; its end may be missed, but is told.
            if self.open_events() == 0 {
                return;
            }
            ended.await;
        }
    }
}
