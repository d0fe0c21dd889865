//! Our end of the connection to a shim. The kernel says of a Unix socket that it may be written to whenever the other
//! side has read, which would wake the thread for nothing: here it is asked only while something waits to be written.
//!
//! What a shim says may come through a pipe beside the socket, to which the shim has an end: many small frames, each of
//! them written at once, cost less there, because the kernel makes no packet of each. For large bodies it is the other
//! way round, so those come over the socket all the same.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::{Errno, retry_on_intr, writev};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::watched::Watched;

/// Most descriptors that go with some bytes.
const DESCRIPTORS_MAX: usize = 3;

/// See the module.
#[derive(Debug)]
pub struct Socket {
    stream: Watched<UnixStream>,
    /// The same once more, to be told when there is room; from a write that found none to the end of what is written.
    full: Option<Watched<OwnedFd>>,
    /// Where frames come from, if not from the socket.
    pipe: Option<Watched<OwnedFd>>,
}

/// What comes over the socket itself while frames come through a pipe.
pub struct Apart<'a>(&'a mut Socket);

impl Socket {
    /// Over a socket that does not block. Call it where its events are to be handled.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { stream: Watched::new(stream, Interest::READABLE)?, full: None, pipe: None })
    }

    /// Writes these bytes, or some of them, and with them one end of a pipe; what is read afterwards comes through it.
    ///
    /// # Errors
    /// The kernel's; nothing has been written or changed then.
    pub fn send_with_pipe(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let ours = Watched::new(ours, Interest::READABLE)?;
        let sent = send_with_descriptors(&self.stream, bytes, &[theirs.as_fd()])?;
        self.pipe = Some(ours);
        Ok(sent)
    }

    /// The socket itself, where bodies come apart from their frames. Without a pipe frames come there too.
    pub fn apart(&mut self) -> Apart<'_> {
        Apart(self)
    }

    /// Takes it back; its events are no longer handled.
    pub fn into_std(self) -> UnixStream {
        self.stream.into_inner()
    }

    fn poll_write_by(
        &mut self,
        cx: &mut Context<'_>,
        room: usize,
        write: impl Fn(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let full = match &mut self.full {
            Some(full) => full,
            none => match retry_on_intr(|| write(self.stream.as_fd())) {
                Err(Errno::AGAIN) => {
                    none.insert(Watched::new(self.stream.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?)
                }
                done => return Poll::Ready(Ok(done?)),
            },
        };
        full.poll_call(cx, Interest::WRITABLE, room, |socket| write(socket.as_fd()))
    }
}

/// Writes these bytes, or some of them, and with them at most `DESCRIPTORS_MAX` descriptors.
///
/// # Errors
/// The kernel's; nothing has been written then.
///
/// # Panics
/// More descriptors.
pub fn send_with_descriptors(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fits = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    assert!(fits, "more than {DESCRIPTORS_MAX} descriptors");
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match &this.pipe {
            Some(pipe) => pipe.poll_read(cx, buffer),
            None => Pin::new(&mut this.apart()).poll_read(cx, buffer),
        }
    }
}

impl AsyncRead for Apart<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.stream.poll_recv(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, bytes.len(), |stream| send(stream, bytes, SendFlags::NOSIGNAL))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, 0, |stream| writev(stream, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.full = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write)?;
        Poll::Ready(Ok(()))
    }
}
