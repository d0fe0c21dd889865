//! What a connection of protocol 1 is woken by, see [`crate::runtime::shim::wake`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use rustix::net::sockopt::set_tcp_quickack;
use tokio::io::AsyncWrite as _;

use super::{GONE_GRACE, HELD_BYTES_MAX, Lane, Order};
use crate::event::HandlerError;
use crate::runtime::shim::v1::socket::Socket;
use crate::runtime::shim::wake::{Post, Wakes};
use crate::runtime::shim::worker::Ended;

impl Wakes for Lane {
    type Told = Order;

    fn post(&mut self) -> &mut Post {
        &mut self.post
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if let Some(passage) = &mut self.passage {
            if passage.poll_may_write(cx).is_pending() {
                return Ok(false);
            }
            if !passage.is_writing() {
                if passage.poll_over(cx).is_pending() {
                    return Ok(false);
                }
                self.passage = None;
                // One that was answered before all of it had gone out kept the next event waiting.
                return Ok(self.current.is_none());
            }
        }
        if self.writer.is_empty() || self.writer.poll_flush(cx, &mut self.socket)?.is_pending() {
            return Ok(false);
        }
        if let Some(passage) = &mut self.passage {
            passage.written();
        }
        Ok(true)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let stream = self.current.as_ref().and_then(|current| current.stream.as_ref());
        if stream.is_some_and(|stream| stream.held >= HELD_BYTES_MAX) {
            return Poll::Pending; // At the client's pace.
        }
        if let Socket::Right(socket) = &self.socket
            && self.quick_ack
        {
            // A wrapper that writes twice for an event would wait for us in between. The kernel forgets what it was told.
            set_tcp_quickack(socket, true).unwrap_or_default();
        }
        self.lines.poll_fill(cx, &mut self.socket)
    }

    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Order> {
        self.orders.poll_recv(cx).map(|order| order.unwrap_or(Order::Abort))
    }

    fn poll_events(&mut self, cx: &mut Context<'_>) -> bool {
        if self.closing && !self.shut && self.current.is_none() && self.writer.is_empty() {
            self.shut = true;
            // Fails only if the other side is gone already, which the next read says.
            drop(Pin::new(&mut self.socket).poll_shutdown(cx));
        }
        let more = self.poll_stream(cx);
        self.poll_taken_back(cx);
        more || self.taken_back
    }
}

impl Lane {
    /// What the client of a streamed answer has taken, and whether it is still there. True: there is more to do.
    fn poll_stream(&mut self, cx: &Context<'_>) -> bool {
        let stream = self.current.as_mut().and_then(|current| current.stream.as_mut());
        let Some(stream) = stream else { return false };
        let Some(pipe) = &stream.pipe else { return false };
        let was_full = stream.held >= HELD_BYTES_MAX;
        let (bytes, gone) = pipe.poll_passed_on(cx);
        stream.held = stream.held.saturating_sub(bytes as usize);
        let more = was_full && stream.held < HELD_BYTES_MAX;
        if gone && stream.gone.is_none() {
            let now = Instant::now();
            stream.gone = Some(now);
            self.post.wake_at(now + GONE_GRACE);
            return true;
        }
        more
    }

    /// Whether the trigger of the event in work has taken it back.
    fn poll_taken_back(&mut self, cx: &mut Context<'_>) {
        let Some(current) = &mut self.current else { return };
        if current.event.recall().is_none() {
            return;
        }
        let gone = match &mut current.reply {
            Some(reply) => reply.poll_closed(cx).is_ready(),
            None => current.stream.as_ref().is_some_and(|stream| stream.gone.is_some()),
        };
        self.taken_back = gone && current.event.is_taken_back();
    }

    /// A wrapper cannot be told to end an event: the connection, or the process, goes with it.
    pub(super) fn end_taken_back(&mut self) -> Ended {
        if let Some(mut current) = self.take_current() {
            current.fail("replaced");
            let taken_back = HandlerError::Lost("the event was taken back".to_owned());
            self.end_stream(&mut current, Err(taken_back));
        }
        Ended::Replaced { at_once: true }
    }
}
