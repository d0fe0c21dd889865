//! When a frame may go out to a wrapper that decodes the frames of all its connections with one decoder: the pieces of
//! two frames must not mix there. Small frames arrive whole and may go out any time, except while a large one is
//! on its way.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Frames above this size may arrive in pieces.
const LARGE_BYTES: usize = 32 << 10;
/// What was written this long ago has been read.
const SETTLE: Duration = Duration::from_millis(100);

/// Shared by the connections of one process.
#[derive(Debug)]
pub(super) struct Transit {
    /// Who has it may write.
    turn: Arc<Semaphore>,
    last_small: Mutex<Option<Instant>>,
}

impl Transit {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { turn: Arc::new(Semaphore::new(1)), last_small: Mutex::default() })
    }

    fn last_small(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.last_small.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way of one frame.
pub(super) struct Passage {
    transit: Arc<Transit>,
    large: bool,
    stage: Stage,
}

enum Stage {
    Waiting(Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>),
    /// Small frames written before have to be read first.
    Settling(OwnedSemaphorePermit, Pin<Box<Sleep>>),
    Writing(OwnedSemaphorePermit),
    /// A large frame is written, but perhaps not read.
    Written {
        _turn: OwnedSemaphorePermit,
        settled: Pin<Box<Sleep>>,
    },
    Over,
}

impl Passage {
    /// For a frame of so many bytes.
    pub(super) fn new(transit: &Arc<Transit>, bytes: usize) -> Self {
        let turn = transit.turn.clone();
        let wait = Box::pin(async move { turn.acquire_owned().await.ok() });
        Self { transit: transit.clone(), large: bytes > LARGE_BYTES, stage: Stage::Waiting(wait) }
    }

    /// Ready once the frame may be written.
    pub(super) fn poll_may_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.stage {
                Stage::Waiting(wait) => {
                    self.stage = match ready!(wait.as_mut().poll(cx)) {
                        None => Stage::Over, // Never closed.
                        Some(turn) => match *self.transit.last_small() {
                            Some(last) if self.large => Stage::Settling(
                                turn,
                                Box::pin(tokio::time::sleep_until((last + SETTLE).into())),
                            ),
                            _ => Stage::Writing(turn),
                        },
                    };
                }
                Stage::Settling(_, sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    if let Stage::Settling(turn, _) = std::mem::replace(&mut self.stage, Stage::Over) {
                        self.stage = Stage::Writing(turn);
                    }
                }
                Stage::Writing(_) | Stage::Written { .. } | Stage::Over => return Poll::Ready(()),
            }
        }
    }

    /// The frame has been written to its end.
    pub(super) fn written(&mut self) {
        let Stage::Writing(turn) = std::mem::replace(&mut self.stage, Stage::Over) else { return };
        if self.large {
            self.stage = Stage::Written { _turn: turn, settled: Box::pin(tokio::time::sleep(SETTLE)) };
        } else {
            *self.transit.last_small() = Some(Instant::now());
        }
    }

    /// Whether the frame is being written, or may be.
    pub(super) fn is_writing(&self) -> bool {
        matches!(self.stage, Stage::Writing(_))
    }

    /// Whether nothing of the frame is left to write.
    pub(super) fn is_written(&self) -> bool {
        matches!(self.stage, Stage::Written { .. } | Stage::Over)
    }

    /// Ready once others may write.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.stage {
            Stage::Written { settled, .. } => ready!(settled.as_mut().poll(cx)),
            Stage::Over => return Poll::Ready(()),
            _ => return Poll::Pending,
        }
        self.stage = Stage::Over;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn may_write(passage: &mut Passage) -> bool {
        poll_fn(|cx| Poll::Ready(passage.poll_may_write(cx).is_ready())).await
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_else_goes_out_while_a_large_frame_is_on_its_way() {
        let transit = Transit::new();
        let mut large = Passage::new(&transit, LARGE_BYTES + 1);
        assert!(may_write(&mut large).await);
        let mut small = Passage::new(&transit, 10);
        assert!(!may_write(&mut small).await);
        large.written();
        assert!(!may_write(&mut small).await, "it may not have been read");
        poll_fn(|cx| large.poll_over(cx)).await;
        assert!(may_write(&mut small).await);
        small.written();
        let mut other = Passage::new(&transit, 10);
        assert!(may_write(&mut other).await, "small ones do not wait for each other");
        drop(other);
        let mut large = Passage::new(&transit, LARGE_BYTES + 1);
        assert!(!may_write(&mut large).await, "a small one may not have been read");
        poll_fn(|cx| large.poll_may_write(cx)).await;
        drop(large); // Its first line has come, or its connection is gone.
        assert!(may_write(&mut Passage::new(&transit, 10)).await);
    }
}
