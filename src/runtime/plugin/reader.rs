//! [`Reader`]: a body that a plugin reads while it arrives. Reading waits on the plugin's own thread; it never keeps
//! the runtime from polling connections, without which nothing would arrive.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use bytes::Bytes;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::event::{BodyFault, BodyStream};

/// What is left of a body.
pub(super) struct Reader {
    stream: BodyStream,
    piece: Bytes,
    /// How it ended.
    end: Option<Result<(), BodyFault>>,
}

/// Wakes a thread that waits.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Reader {
    pub(super) fn new(stream: BodyStream) -> Self {
        Self { stream, piece: Bytes::new(), end: None }
    }

    /// Up to `bytes_max` bytes, and none at the end. Waits for them.
    pub(super) fn read(&mut self, bytes_max: usize) -> Result<Bytes, BodyFault> {
        if self.piece.is_empty() && self.end.is_none() {
            match self.next() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(fault)) => self.end = Some(Err(fault)),
                None => self.end = Some(Ok(())),
            }
        }
        if self.piece.is_empty() {
            return self.end.unwrap_or(Ok(())).map(|()| Bytes::new());
        }
        Ok(self.piece.split_to(bytes_max.min(self.piece.len())))
    }

    fn next(&mut self) -> Option<Result<Bytes, BodyFault>> {
        let on_event_thread =
            Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
        // Polling a body wakes its connection, and a task that is woken on an event thread is run by that very thread:
        // it has to give its place to another one before it waits.
        if on_event_thread { tokio::task::block_in_place(|| self.wait()) } else { self.wait() }
    }

    fn wait(&mut self) -> Option<Result<Bytes, BodyFault>> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = Context::from_waker(&waker);
        loop {
            match self.stream.poll_next(&mut cx) {
                Poll::Ready(piece) => return piece,
                Poll::Pending => std::thread::park(), // Ends with the event, whose trigger wakes whoever reads.
            }
        }
    }
}
