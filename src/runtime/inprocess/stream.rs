//! Streamed answers: pulled from the handler piece by piece, at the client's pace.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_core::Stream;
use tokio::sync::mpsc::Permit;
use tokio::sync::{SemaphorePermit, mpsc};

use super::monitor::Slot;
use super::{Desk, Workers, fail};
use crate::event::{Body, HandlerError, Response};
use crate::queue::ReplySender;
use crate::runtime::plugin::worker::Pull;
use crate::trace::Call;
use crate::turns::give_way;

/// Pieces of a streamed answer that may wait for the client.
const STREAM_PIECES: usize = 2;

/// A streamed answer that is still to be pulled.
pub(super) struct Streamed {
    pub(super) head: Response,
    pub(super) pull: Pull,
    pub(super) reply: Option<ReplySender>,
    pub(super) begun: Instant,
    pub(super) span: Option<Box<Call>>,
}

impl Workers {
    /// Has a streamed answer pulled, then lends the worker on.
    pub(super) async fn stream(&self, desk: Box<Desk>, answer: Box<Streamed>) {
        let (slot, index) = (desk.slot.clone(), desk.index);
        let Some(taken) = self.pump(&slot, answer).await else { return desk.abandon() };
        self.free(desk, false, || self.queue.finished(index, taken));
    }

    /// Pulls a streamed answer piece by piece; the client's pace is the handler's, up to the deadline. With the
    /// time it took; `None`: the worker was given up.
    async fn pump(&self, slot: &Arc<Slot>, answer: Box<Streamed>) -> Option<Duration> {
        let Streamed { mut head, mut pull, reply, begun, mut span } = *answer;
        let (pieces, stream) = mpsc::channel(STREAM_PIECES);
        let whole = Arc::new(AtomicBool::new(false));
        head.body =
            Body::Stream(Box::pin(Pieces { pieces: stream, slot: slot.clone(), whole: whole.clone() }));
        let deadline = self.event_timeout.map(|limit| begun + limit);
        let mut failed = reply.is_none_or(|reply| reply.send(Ok(head)).is_err());
        while !failed {
            // Whoever takes what there is has its turn before the next call, which may block this thread.
            give_way().await;
            let Some((place, permit)) = self.room(&pieces, deadline).await else {
                failed = true;
                break;
            };
            self.monitor.mark(slot, begun);
            let piece = pull.next();
            slot.unmark();
            drop(permit);
            if slot.given_up() {
                std::mem::forget(pull);
                fail(&mut span, "timeout");
                self.monitor.returned();
                return None;
            }
            match piece {
                Ok(Some(piece)) => place.send(Ok(piece)),
                Ok(None) => {
                    whole.store(true, Ordering::Release);
                    break;
                }
                Err(error) => {
                    failed = true;
                    place.send(Err(error));
                }
            }
        }
        drop(pull);
        if failed {
            fail(&mut span, "stream_failed");
        }
        let counters = self.queue.counters();
        counters.streams[usize::from(failed)].fetch_add(1, Ordering::Relaxed);
        Some(begun.elapsed())
    }

    /// Room for one more piece and leave to call for it; `None`: the client left, or the deadline came first.
    async fn room<'a, T>(
        &'a self,
        pieces: &'a mpsc::Sender<T>,
        deadline: Option<Instant>,
    ) -> Option<(Permit<'a, T>, Option<SemaphorePermit<'a>>)> {
        let ready = async {
            let place = pieces.reserve().await.ok()?;
            Some((place, self.permit().await))
        };
        let Some(deadline) = deadline else { return ready.await };
        tokio::select! {
            biased; // A client that keeps up does not move the deadline.
            () = tokio::time::sleep_until(deadline.into()) => None,
            ready = ready => ready,
        }
    }
}

/// Pieces of a streamed answer.
struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, HandlerError>>,
    slot: Arc<Slot>,
    /// The last piece has been sent, so that the end is no accident.
    whole: Arc<AtomicBool>,
}

impl Stream for Pieces {
    type Item = Result<Bytes, HandlerError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.pieces.poll_recv(cx) {
            Poll::Ready(None) if !self.whole.swap(true, Ordering::AcqRel) => {
                return Poll::Ready(Some(Err(HandlerError::TimedOut)));
            }
            Poll::Ready(piece) => return Poll::Ready(piece),
            Poll::Pending => {}
        }
        self.slot.poll_cut(cx).map(|()| Some(Err(HandlerError::TimedOut)))
    }
}
