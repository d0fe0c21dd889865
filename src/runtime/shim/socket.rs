//! Our end of the connection to a shim. The kernel says of a Unix socket that it may be written to whenever the other
//! side has read, which would wake the thread for nothing: here it is asked only while something waits to be written.
//!
//! What a shim says may come through a pipe beside the socket, to which the shim has an end: many small frames, each of
//! them written at once, cost less there, because the kernel makes no packet of each. For large bodies it is the other
//! way round, so those come over the socket all the same.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Most descriptors that go with some bytes.
const DESCRIPTORS_MAX: usize = 3;

/// See the module.
#[derive(Debug)]
pub struct Socket {
    stream: AsyncFd<UnixStream>,
    /// The same once more, to be told when there is room; from a write that found none to the end of what is written.
    full: Option<AsyncFd<OwnedFd>>,
    /// Where frames come from, if not from the socket.
    pipe: Option<AsyncFd<OwnedFd>>,
}

/// What comes over the socket itself while frames come through a pipe.
pub struct Apart<'a>(&'a mut Socket);

impl Socket {
    /// Over a socket that does not block. Call it where its events are to be handled.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { stream: watch(stream, Interest::READABLE)?, full: None, pipe: None })
    }

    /// Writes these bytes, or some of them, and with them one end of a pipe; what is read afterwards comes through it.
    ///
    /// # Errors
    /// The kernel's; nothing has been written or changed then.
    pub fn send_with_pipe(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let ours = watch(ours, Interest::READABLE)?;
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
        write: impl Fn(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            match write(self.stream.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
            let full = match self.full.take() {
                Some(full) => full,
                None => watch(self.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?,
            };
            let full = self.full.insert(full);
            // Cleared before the next attempt, so that no room is missed that comes behind it.
            ready!(full.poll_write_ready(cx))?.clear_ready();
        }
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

#[expect(unsafe_code, reason = "the only way to choose what is asked of the kernel")]
fn watch<T: AsRawFd + Into<OwnedFd>>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: types that can be made into an owned descriptor own it, and keep it as long as they are.
    let watched = unsafe { AsyncFd::register_with_interest(socket, interest) };
    Ok(watched?)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// One read of what is watched.
#[expect(unsafe_code, reason = "a large body's buffer is not cleared before it is read into")]
fn poll_read_from<T: AsRawFd>(
    watched: &AsyncFd<T>,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    read: impl Fn(&T, &mut [MaybeUninit<u8>]) -> rustix::io::Result<usize>,
) -> Poll<io::Result<()>> {
    loop {
        let mut ready = ready!(watched.poll_read_ready(cx))?;
        // SAFETY: nothing but the kernel writes to it, so what is initialized stays so.
        let space = unsafe { buffer.unfilled_mut() };
        let room = space.len();
        let read = match read(watched.get_ref(), space) {
            Ok(read) => read,
            Err(rustix::io::Errno::AGAIN) => {
                ready.clear_ready();
                continue;
            }
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Poll::Ready(Err(error.into())),
        };
        if 0 < read && read < room {
            ready.clear_ready(); // There was no more; what comes now is told anew.
        }
        // SAFETY: the kernel has written so many bytes there.
        unsafe { buffer.assume_init(read) };
        buffer.advance(read);
        return Poll::Ready(Ok(()));
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
            Some(pipe) => poll_read_from(pipe, cx, buffer, |pipe, space| {
                rustix::io::read(pipe, space).map(|(filled, _)| filled.len())
            }),
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
        poll_read_from(&self.0.stream, cx, buffer, |stream, space| {
            recv(stream, space, RecvFlags::empty()).map(|(_, read)| read)
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, |stream| Ok(send(stream, bytes, SendFlags::NOSIGNAL)?))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, |mut stream| stream.write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.full = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        rustix::net::shutdown(self.stream.get_ref(), rustix::net::Shutdown::Write)?;
        Poll::Ready(Ok(()))
    }
}
