//! The socket under a connection: tells the connection's [`Activity`] what moves, and closes so that the last answer
//! arrives.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Getter, Opcode, ioctl};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::connection::{Activity, Phase};
use super::stream::Stream;

/// After our last byte, what the client still sends is thrown away until it has been silent for this long: closing
/// with unread bytes would reset the connection and could destroy an answer that is still under way.
const LINGER_SILENCE: Duration = Duration::from_secs(1);

/// The longest time for which a client that goes on sending is listened to after our last byte.
const LINGER_MAX: Duration = Duration::from_secs(30);

/// Pieces of so few bytes together are joined: to copy them costs less than the kernel's way with several.
const JOINED_BYTES_MAX: usize = 1024;

/// Written to a client that takes too long to send the head of its request.
const TIMED_OUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nServer: nuclio\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 41\r\nConnection: close\r\n\r\nThe request took too long to be received.";

/// What the parser's own answers to heads that it cannot read become, by the beginning of its status line. It writes
/// them bare; nothing else is written while a head is arriving.
const UNREADABLE: [(&[u8], &[u8]); 3] = [
    (
        b"HTTP/1.1 400",
        b"HTTP/1.1 400 Bad Request\r\nServer: nuclio\r\nContent-Type: text/plain; charset=utf-8\r\n\
        Content-Length: 26\r\nConnection: close\r\n\r\nError when parsing request",
    ),
    (
        b"HTTP/1.1 414",
        b"HTTP/1.1 414 URI Too Long\r\nServer: nuclio\r\nContent-Type: text/plain; charset=utf-8\r\n\
        Content-Length: 23\r\nConnection: close\r\n\r\nToo long request target",
    ),
    (
        b"HTTP/1.1 431",
        b"HTTP/1.1 431 Request Header Fields Too Large\r\nServer: nuclio\r\n\
        Content-Type: text/plain; charset=utf-8\r\nContent-Length: 22\r\nConnection: close\r\n\r\n\
        Too big request header",
    ),
];

/// See the module.
pub(super) struct Socket {
    stream: Stream,
    activity: Arc<Activity>,
    closing: Closing,
    end: End,
    /// There is more to read than the request in work, which is done when that is answered.
    more: bool,
    /// Everything that was to be written has been, so that the next write begins an answer.
    flushed: bool,
    /// What is left of an answer that is written in the place of another.
    instead: &'static [u8],
}

/// Of what the client sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    NotSeen,
    /// hyper is told at its next look: it may have read a whole request that nobody serves yet.
    Seen,
    /// The client still waits for an answer, as far as anybody can know.
    HalfClosed,
    /// The client has left; what it had sent before is still being read.
    Left,
}

enum Closing {
    Open,
    Lingering { silence: Pin<Box<Sleep>>, until: Instant },
    Done,
}

impl Socket {
    pub(super) fn new(stream: Stream, activity: Arc<Activity>) -> Self {
        Self {
            stream,
            activity,
            closing: Closing::Open,
            end: End::NotSeen,
            more: false,
            flushed: true,
            instead: &[],
        }
    }

    /// Nothing more comes from the client, and hyper asks for more. It, which would end the connection, learns of that
    /// when the answer has been given.
    fn poll_end(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.end {
            End::HalfClosed => {
                self.activity.close_half();
                return self.poll_half_closed();
            }
            End::NotSeen | End::Seen if self.activity.note_end() => {
                self.end = End::HalfClosed;
                self.activity.close_half();
                return Poll::Pending; // The server's sweep wakes the connection.
            }
            End::Seen | End::Left => return Poll::Ready(Ok(())),
            End::NotSeen => {}
        }
        self.end = End::Seen;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the client of a request in work has left, which is judged when its end is seen. hyper does not look: it
    /// would read ahead, which takes a buffer for each request. What has come of a body hyper may have read and still
    /// keep, so that whoever has left fails only when all of it has been taken.
    fn look_for_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.end == End::NotSeen && !self.more {
            match self.stream.poll_peek(cx)? {
                Poll::Pending => {}
                Poll::Ready(0) => {
                    self.closing = Closing::Done; // Nothing to linger for.
                    self.end = if self.activity.note_end() { End::HalfClosed } else { End::Left };
                }
                Poll::Ready(_) => self.more = true, // Its end would stand behind it.
            }
        }
        match self.end {
            End::HalfClosed if self.has_client_gone() => Err(io::ErrorKind::ConnectionReset.into()),
            End::Left if !self.activity.is_body_open() => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(()),
        }
    }

    fn poll_half_closed(&self) -> Poll<io::Result<()>> {
        if !self.activity.owes() {
            return Poll::Ready(Ok(()));
        }
        if self.has_client_gone() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Pending
    }

    /// Whether a client that has closed its sending half has closed the other one, too.
    fn has_client_gone(&self) -> bool {
        let mut look = [PollFd::new(&self.stream, PollFlags::empty())];
        matches!(poll(&mut look, Some(&Timespec::default())), Ok(1..))
    }

    /// Writes our own answer in the place of the parser's, which is `bytes` long.
    fn poll_write_instead(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
        while !self.instead.is_empty() {
            let written = Pin::new(&mut self.stream).poll_write(cx, self.instead);
            self.activity.wrote(written.is_pending(), || unacknowledged(&self.stream))?;
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.instead = &self.instead[written..],
            }
        }
        Poll::Ready(Ok(bytes))
    }

    /// Looks at the beginning of an answer. True: something else is written in its place.
    fn replaces(&mut self, bytes: &[u8]) -> bool {
        if std::mem::take(&mut self.flushed) && self.activity.in_head() {
            let found = UNREADABLE.iter().find(|(start, _)| bytes.starts_with(start));
            self.instead = found.map_or(&[], |(_, answer)| answer);
        }
        !self.instead.is_empty()
    }
}

/// Bytes that the kernel holds for the client.
#[expect(unsafe_code, reason = "no library has this call")]
fn unacknowledged(stream: &Stream) -> u32 {
    type OutQueue = Getter<{ libc::TIOCOUTQ as Opcode }, libc::c_int>;
    // SAFETY: for a TCP or Unix socket this call, also named SIOCOUTQ, writes one int.
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
        if self.end != End::NotSeen {
            return self.poll_end(cx);
        }
        self.more = false;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        match buffer.filled().len() - before {
            0 => {
                self.closing = Closing::Done; // The client's end is closed: nothing to linger for.
                return self.poll_end(cx);
            }
            _ => self.activity.read(&buffer.filled()[before..]),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.replaces(bytes) {
            return self.poll_write_instead(cx, bytes.len());
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.wrote(written.is_pending(), || unacknowledged(&self.stream))?;
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = pieces.iter().map(|piece| piece.len()).sum();
        if self.replaces(pieces.first().map_or(&[], |piece| piece)) {
            return self.poll_write_instead(cx, bytes);
        }
        let stream = Pin::new(&mut self.stream);
        let written = match pieces {
            [piece] => stream.poll_write(cx, piece),
            pieces if bytes <= JOINED_BYTES_MAX => {
                let mut room = [MaybeUninit::uninit(); JOINED_BYTES_MAX];
                let mut joined = ReadBuf::uninit(&mut room);
                pieces.iter().for_each(|piece| joined.put_slice(piece));
                stream.poll_write(cx, joined.filled())
            }
            pieces => stream.poll_write_vectored(cx, pieces),
        };
        self.activity.wrote(written.is_pending(), || unacknowledged(&self.stream))?;
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper calls this when it has written all it has; the socket itself has nothing to flush.
        self.flushed = true;
        Poll::Ready(if self.activity.is_served() { self.look_for_client(cx) } else { Ok(()) })
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.closing, Closing::Open) {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.activity.set_phase(Phase::Lingering);
            self.closing = Closing::Lingering {
                silence: Box::pin(tokio::time::sleep(LINGER_SILENCE)),
                until: Instant::now() + LINGER_MAX,
            };
        }
        let mut scratch = [MaybeUninit::uninit(); 16 << 10];
        loop {
            let Self { stream, closing, .. } = &mut *self;
            let Closing::Lingering { silence, until } = closing else { return Poll::Ready(Ok(())) };
            let mut buffer = ReadBuf::uninit(&mut scratch);
            let now = Instant::now();
            match Pin::new(stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() && now < *until => {
                    silence.as_mut().reset((now + LINGER_SILENCE).min(*until));
                }
                Poll::Ready(_) => *closing = Closing::Done,
                Poll::Pending => {
                    ready!(silence.as_mut().poll(cx));
                    *closing = Closing::Done;
                }
            }
        }
    }
}
