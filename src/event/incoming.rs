//! The body of an event that is handed on while it arrives, for handlers that ask for that.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;

/// Why no more of a body comes. The texts are for handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// Its sender has left, or what it sent cannot be read.
    #[error("the request's body broke off: its sender left, or sent what is no body")]
    Broken,
    /// It stood still for too long, or came too slowly.
    #[error("the request's body came too slowly")]
    TooSlow,
    /// It is over the limit.
    #[error("the request's body is larger than maxRequestBodySize")]
    TooLarge,
    /// Its event has been answered, or nobody waits for an answer.
    #[error("the request's body is not read any more: its event has ended")]
    Ended,
}

/// What is still to come of a body. Not polled: not taken from the client.
pub struct BodyStream {
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, BodyFault>> + Send>>,
    /// The sender waits to be asked for it (`Expect: 100-continue`): polling asks.
    pub on_demand: bool,
}

impl BodyStream {
    /// A body in pieces, none of them empty.
    pub fn new(
        pieces: impl Stream<Item = Result<Bytes, BodyFault>> + Send + 'static,
        on_demand: bool,
    ) -> Self {
        Self { pieces: Box::pin(pieces), on_demand }
    }

    /// The next piece; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyFault>>> {
        self.pieces.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyStream")
    }
}
