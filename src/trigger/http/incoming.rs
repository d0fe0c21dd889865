//! A request's body on its way to a handler that takes it as it comes: the worker pulls, hyper reads no more of the
//! connection than is pulled, so the handler's pace is the client's. Limit, pace and end are watched here.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_core::Stream;
use http::request::Parts;
use http::{HeaderValue, header};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::request::{HEAD_ONLY, Refusal};
use crate::event::{BodyBudget, BodyFault, BodyPermit, BodyStream, EventBody};
use crate::metrics::Cause;
use crate::net::Activity;

/// Bodies up to this size are read whole all the same: they are here, or nearly so.
pub(super) const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// What a body on its way counts against all bodies together: what is under way of it at most, give or take what
/// hyper and the kernel hold.
const UNDER_WAY_BYTES: usize = 256 << 10;

/// What both ends share.
struct State {
    /// `None`: all of it has been read, or nobody reads on.
    body: Option<Incoming>,
    read: u64,
    whole: bool,
    reader: Option<Waker>,
    refusal: Option<oneshot::Sender<(Cause, Refusal)>>,
}

/// The trigger's end. While it is there the body may be read; dropped when the request has been answered.
pub(super) struct Feed {
    state: Arc<Mutex<State>>,
    refusal: oneshot::Receiver<(Cause, Refusal)>,
}

/// The worker's end.
struct Source {
    state: Arc<Mutex<State>>,
    activity: Arc<Activity>,
    bytes_max: u64,
    _permit: BodyPermit,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both ends of a body; nothing is read of it yet.
///
/// # Errors
/// It is announced too large, or there is no room.
pub(super) fn open(
    parts: &Parts,
    body: Incoming,
    bytes_max: usize,
    budget: &BodyBudget,
    activity: &Arc<Activity>,
) -> Result<(Feed, EventBody), Refusal> {
    let announced = body.size_hint().exact();
    let first_chunk = activity.take_first_chunk_size().filter(|_| announced.is_none());
    if announced.or(first_chunk).is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(Refusal::TooLarge);
    }
    // No more than it can have: a small bound on all bodies must not shut out what would fit.
    let under_way = announced.unwrap_or(bytes_max as u64).min(UNDER_WAY_BYTES as u64);
    let permit = budget.take(under_way as usize).ok_or(Refusal::NoRoom)?;
    activity.begin_body();
    activity.body_came();
    let (sender, refusal) = oneshot::channel();
    let state = State { body: Some(body), read: 0, whole: false, reader: None, refusal: Some(sender) };
    let state = Arc::new(Mutex::new(state));
    let source = Source {
        state: state.clone(),
        activity: activity.clone(),
        bytes_max: bytes_max as u64,
        _permit: permit,
    };
    let expects = parts.headers.get(header::EXPECT).map(HeaderValue::as_bytes);
    let on_demand = expects.is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let body = EventBody::streamed(BodyStream::new(source, on_demand));
    Ok((Feed { state, refusal }, body))
}

impl Feed {
    /// Lasts until the body turns out to be one that is refused. With what its event counts under: a body that has
    /// just stopped coming is that of a client that left.
    pub(super) async fn refused(&mut self) -> (Cause, Refusal) {
        match (&mut self.refusal).await {
            Ok(refusal) => refusal,
            Err(_) => std::future::pending().await, // It has been read, or nobody reads it: no reason to refuse.
        }
    }

    /// Whether all of the body has been read.
    pub(super) fn is_whole(&self) -> bool {
        lock(&self.state).whole
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.body = None;
        state.reader.take().into_iter().for_each(Waker::wake);
    }
}

impl Stream for Source {
    type Item = Result<Bytes, BodyFault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.state);
        loop {
            if state.whole {
                return Poll::Ready(None);
            }
            let Some(body) = &mut state.body else { return Poll::Ready(Some(Err(BodyFault::Ended))) };
            let polled = Pin::new(body).poll_frame(cx);
            if polled.is_pending() {
                // Asked only now: what had come before the end is here.
                if self.activity.poll_half_closed(cx) {
                    return self.fail(&mut state, BodyFault::Broken, Cause::ClientLeft);
                }
                self.activity.await_body();
                state.reader = Some(cx.waker().clone());
            }
            let frame = ready!(polled);
            self.activity.body_came();
            match frame {
                None => self.end(&mut state),
                Some(Err(_)) if self.activity.expired() => {
                    return self.fail(&mut state, BodyFault::TooSlow, Cause::Refused);
                }
                Some(Err(error)) => {
                    let cause = if is_cut_off(&error) { Cause::ClientLeft } else { Cause::Refused };
                    return self.fail(&mut state, BodyFault::Broken, cause);
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => {
                        state.read += piece.len() as u64;
                        if state.read > self.bytes_max {
                            return self.fail(&mut state, BodyFault::TooLarge, Cause::Refused);
                        }
                        // Known where its length is: a handler need not ask once more.
                        if state.body.as_ref().is_some_and(Body::is_end_stream) {
                            self.end(&mut state);
                        }
                        if !piece.is_empty() {
                            return Poll::Ready(Some(Ok(piece)));
                        }
                    }
                    // The handler has its headers already, so that trailers come too late for it.
                    Err(frame)
                        if frame.trailers_ref().is_some_and(|t| t.keys().any(|n| HEAD_ONLY.contains(n))) =>
                    {
                        return self.fail(&mut state, BodyFault::Broken, Cause::Refused);
                    }
                    Err(_) => {}
                },
            }
        }
    }
}

/// Whether the connection has ended, and not what came over it is wrong.
fn is_cut_off(error: &hyper::Error) -> bool {
    let error = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    error.is_some_and(|error| {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
    })
}

impl Source {
    /// All of the body has been read. Without the refusal nobody waits for one, which wakes the connection to look
    /// after its client again.
    fn end(&self, state: &mut State) {
        self.activity.end_body();
        state.whole = true;
        (state.body, state.refusal) = (None, None);
    }

    /// The body ends here, for both ends.
    fn fail(
        &self,
        state: &mut State,
        fault: BodyFault,
        cause: Cause,
    ) -> Poll<Option<Result<Bytes, BodyFault>>> {
        state.body = None;
        if let Some(refusal) = state.refusal.take() {
            let why = match fault {
                BodyFault::TooLarge => Refusal::TooLarge,
                _ => Refusal::Broken,
            };
            refusal.send((cause, why)).unwrap_or_default(); // Nobody waits for it once the answer has begun.
        }
        Poll::Ready(Some(Err(fault)))
    }
}
