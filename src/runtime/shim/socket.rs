//! Our end of the connection to a shim. The kernel says of a Unix socket that it may be written to whenever the other
//! side has read, which would wake the thread for nothing: here it is asked only while something waits to be written.

use std::io::{self, IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// See the module.
#[derive(Debug)]
pub struct Socket {
    stream: AsyncFd<UnixStream>,
    /// The same once more, to be told when there is room; from a write that found none to the end of what is written.
    full: Option<AsyncFd<OwnedFd>>,
}

impl Socket {
    /// Over a socket that does not block. Call it where its events are to be handled.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        Ok(Self { stream: watch(stream, Interest::READABLE)?, full: None })
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

impl AsyncRead for Socket {
    #[expect(unsafe_code, reason = "a large body's buffer is not cleared before it is read into")]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.stream.poll_read_ready(cx))?;
            // SAFETY: nothing but the kernel writes to it, so what is initialized stays so.
            let space = unsafe { buffer.unfilled_mut() };
            let room = space.len();
            let read = match recv(&self.stream, space, RecvFlags::empty()) {
                Ok((_, read)) => read,
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
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, |mut stream| stream.write(bytes))
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
