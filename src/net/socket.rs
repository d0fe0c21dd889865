//! The socket under a connection: tells the connection's [`Activity`] what moves, and closes so that the last answer
//! arrives.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::ioctl::{Getter, Opcode, ioctl};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::connection::{Activity, Phase};

/// After our last byte, what the client still sends is thrown away for at most this long: closing with unread bytes
/// would reset the connection and could destroy an answer that is still under way.
const LINGER: Duration = Duration::from_secs(1);

/// Written to a client that takes too long to send the head of its request.
const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nServer: nuclio\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 41\r\nConnection: close\r\n\r\nThe request took too long to be received.";

/// See the module.
pub(super) struct Socket {
    stream: TcpStream,
    activity: Arc<Activity>,
    closing: Closing,
}

enum Closing {
    Open,
    Lingering(Pin<Box<Sleep>>),
    Done,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity, closing: Closing::Open }
    }
}

/// Bytes that the kernel holds for the client.
#[expect(unsafe_code, reason = "no library has this call")]
fn unacknowledged(stream: &TcpStream) -> u32 {
    type OutQueue = Getter<{ libc::TIOCOUTQ as Opcode }, libc::c_int>;
    // SAFETY: for a TCP socket this call, also named SIOCOUTQ, writes one int.
    let bytes = unsafe { ioctl(stream, OutQueue::new()) };
    bytes.map_or(0, libc::c_int::cast_unsigned)
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.activity.read_expired() {
            // The service answers for a body; in the middle of an answer there is nothing left to say.
            if self.activity.in_head() {
                // As much as fits at once; whoever does not read gets no more.
                drop(self.stream.try_write(TIMED_OUT));
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        match buffer.filled().len() - before {
            0 => self.closing = Closing::Done, // The client's end is closed: nothing to linger for.
            _ => self.activity.read(&buffer.filled()[before..]),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.wrote(written.is_pending(), || unacknowledged(&self.stream))?;
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.activity.wrote(written.is_pending(), || unacknowledged(&self.stream))?;
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // TCP has nothing to flush.
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.closing, Closing::Open) {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.activity.set_phase(Phase::Lingering);
            self.closing = Closing::Lingering(Box::pin(tokio::time::sleep(LINGER)));
        }
        let mut scratch = [0; 4096];
        loop {
            let Self { stream, closing, .. } = &mut *self;
            let Closing::Lingering(limit) = closing else { return Poll::Ready(Ok(())) };
            let mut buffer = ReadBuf::new(&mut scratch);
            let ended = match Pin::new(stream).poll_read(cx, &mut buffer) {
                Poll::Ready(read) => read.is_err() || buffer.filled().is_empty(),
                Poll::Pending => {
                    ready!(limit.as_mut().poll(cx));
                    true
                }
            };
            // A client that sends without end is cut off when the time is over, too.
            if ended || limit.as_mut().poll(cx).is_ready() {
                self.closing = Closing::Done;
            }
        }
    }
}
