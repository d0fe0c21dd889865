//! A streamed answer on its way from the worker's task to the client: pieces in, pieces out, bytes counted so that
//! the shim gets its credit back for what has been passed on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;

use super::protocol::v2::ProtocolError;
use crate::event::HandlerError;

/// Pieces below this size are gathered while nobody takes them.
const GATHERED_BYTES: usize = 4 << 10;

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Bytes>,
    gathered: BytesMut,
    end: Option<Result<(), HandlerError>>,
    passed_on: u32,
    /// Bytes that have come and were not passed on yet, and how many there may be.
    held: usize,
    held_max: usize,
    reader_gone: bool,
    reader: Option<Waker>,
    worker: Option<Waker>,
}

/// The worker's end.
#[derive(Debug)]
pub struct PipeWriter(Arc<Mutex<State>>);

/// The client's end.
#[derive(Debug)]
pub struct PipeReader(Arc<Mutex<State>>);

impl State {
    /// So many bytes need not be held any more.
    fn pass_on(&mut self, bytes: usize) {
        self.held -= bytes;
        self.passed_on += bytes as u32;
    }
}

/// Both ends of a new stream, in which so many bytes may wait.
pub fn pipe(held_max: usize) -> (PipeWriter, PipeReader) {
    let state = Arc::new(Mutex::new(State { held_max, ..State::default() }));
    (PipeWriter(state.clone()), PipeReader(state))
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PipeWriter {
    /// Passes a piece on.
    ///
    /// # Errors
    /// More than may wait here: the shim has not kept to its credit.
    pub fn push(&self, piece: Bytes) -> Result<(), ProtocolError> {
        let mut state = lock(&self.0);
        state.held += piece.len();
        if state.held > state.held_max {
            return Err(ProtocolError::Credit);
        }
        if state.reader_gone {
            state.pass_on(piece.len());
            return Ok(());
        }
        if piece.len() < GATHERED_BYTES {
            state.gathered.extend_from_slice(&piece);
        } else {
            let gathered = state.gathered.split().freeze();
            state.pieces.extend(Some(gathered).filter(|gathered| !gathered.is_empty()));
            state.pieces.push_back(piece);
        }
        wake(&mut state.reader);
        Ok(())
    }

    /// The stream is over; an error cuts the client's connection.
    pub fn end(self, result: Result<(), HandlerError>) {
        self.finish(result);
    }

    fn finish(&self, result: Result<(), HandlerError>) {
        let mut state = lock(&self.0);
        if state.end.is_none() {
            state.end = Some(result);
            wake(&mut state.reader);
        }
    }

    /// Bytes passed on since the last call, and whether the client has left. `cx` is woken when either changes.
    pub fn poll_passed_on(&self, cx: &Context<'_>) -> (u32, bool) {
        let mut state = lock(&self.0);
        if !state.worker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.worker = Some(cx.waker().clone());
        }
        (std::mem::take(&mut state.passed_on), state.reader_gone)
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        self.finish(Err(HandlerError::Lost("the worker ended in the middle of a streamed answer".into())));
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

impl Stream for PipeReader {
    type Item = Result<Bytes, HandlerError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.0);
        let piece = state.pieces.pop_front().unwrap_or_else(|| state.gathered.split().freeze());
        if !piece.is_empty() {
            state.pass_on(piece.len());
            if let Some(worker) = &state.worker {
                worker.wake_by_ref();
            }
            return Poll::Ready(Some(Ok(piece)));
        }
        match state.end.take() {
            Some(Ok(())) => {
                state.end = Some(Ok(()));
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                state.end = Some(Ok(()));
                Poll::Ready(Some(Err(error)))
            }
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.reader_gone = true;
        state.pieces.clear();
        state.gathered.clear();
        let waiting = state.held;
        state.pass_on(waiting);
        wake(&mut state.worker);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn next(reader: &mut PipeReader) -> Option<Result<Bytes, HandlerError>> {
        poll_fn(|cx| Pin::new(&mut *reader).poll_next(cx)).await
    }

    async fn passed_on(writer: &PipeWriter) -> (u32, bool) {
        poll_fn(|cx| Poll::Ready(writer.poll_passed_on(cx))).await
    }

    #[tokio::test]
    async fn small_pieces_are_gathered_and_all_bytes_counted() {
        let (writer, mut reader) = pipe(1 << 20);
        writer.push(Bytes::from_static(b"ab")).unwrap();
        writer.push(Bytes::from_static(b"cd")).unwrap();
        assert_eq!(passed_on(&writer).await, (0, false));
        assert_eq!(next(&mut reader).await.unwrap().unwrap(), "abcd");
        assert_eq!(passed_on(&writer).await, (4, false));
        writer.push(Bytes::from(vec![b'x'; GATHERED_BYTES])).unwrap();
        writer.end(Ok(()));
        assert_eq!(next(&mut reader).await.unwrap().unwrap().len(), GATHERED_BYTES);
        assert!(next(&mut reader).await.is_none());
    }

    #[tokio::test]
    async fn a_worker_that_ends_early_fails_the_stream() {
        let (writer, mut reader) = pipe(1 << 20);
        drop(writer);
        assert!(matches!(next(&mut reader).await, Some(Err(HandlerError::Lost(_)))));
        assert!(next(&mut reader).await.is_none());
    }

    #[tokio::test]
    async fn what_nobody_reads_any_more_counts_as_passed_on() {
        let (writer, reader) = pipe(1 << 20);
        writer.push(Bytes::from_static(b"ab")).unwrap();
        drop(reader);
        writer.push(Bytes::from_static(b"c")).unwrap();
        assert_eq!(passed_on(&writer).await, (3, true));
    }

    #[tokio::test]
    async fn more_than_may_wait_is_refused() {
        let (writer, mut reader) = pipe(4);
        writer.push(Bytes::from_static(b"abcd")).unwrap();
        assert_eq!(next(&mut reader).await.unwrap().unwrap(), "abcd");
        writer.push(Bytes::from_static(b"efgh")).unwrap();
        assert_eq!(writer.push(Bytes::from_static(b"i")), Err(ProtocolError::Credit));
    }
}
