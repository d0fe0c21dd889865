//! Descriptors that the event loop watches, and calls that move bytes through them: what connections with clients and
//! with shims have in common.
//!
//! The kernel is called without the C library, which would make each call one at which the thread can be cancelled;
//! that costs more than it sounds.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, Result, retry_on_intr};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// A descriptor that does not block, and that the event loop watches until this is dropped.
#[derive(Debug)]
pub struct Watched<T: AsRawFd>(AsyncFd<T>);

impl<T: AsRawFd + Into<OwnedFd>> Watched<T> {
    /// Watches what does not block on the current runtime, for what is of interest.
    ///
    /// # Errors
    /// The kernel's: it has no room for more.
    ///
    /// # Panics
    /// There is no runtime.
    #[expect(unsafe_code, reason = "the only way to choose what is asked of the kernel")]
    pub fn new(descriptor: T, interest: Interest) -> io::Result<Self> {
        // SAFETY: types that can be made into an owned descriptor own it, and keep it as long as they are.
        let watched = unsafe { AsyncFd::register_with_interest(descriptor, interest) };
        Ok(Self(watched?))
    }

    /// Takes it back; it is no longer watched.
    pub fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

impl<T: AsRawFd> Watched<T> {
    /// What is watched.
    pub fn get(&self) -> &T {
        self.0.get_ref()
    }

    /// Makes a call that needs something to be there, once something is.
    ///
    /// # Errors
    /// The call's, and the event loop's that is being closed.
    pub async fn once_readable<R>(&self, mut call: impl FnMut(&T) -> Result<R>) -> io::Result<R> {
        self.0.async_io(Interest::READABLE, |descriptor| Ok(call(descriptor)?)).await
    }

    /// Makes a call that takes up to `room` bytes of what has come, once something has.
    ///
    /// # Errors
    /// As [`Watched::once_readable`].
    pub fn poll_in(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        call: impl FnMut(&T) -> Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, Interest::READABLE, room, call)
    }

    /// Makes a call that gives up to `room` bytes away, once some are taken.
    ///
    /// # Errors
    /// As [`Watched::once_readable`].
    pub fn poll_out(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        call: impl FnMut(&T) -> Result<usize>,
    ) -> Poll<io::Result<usize>> {
        self.poll(cx, Interest::WRITABLE, room, call)
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        room: usize,
        mut call: impl FnMut(&T) -> Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(match interest {
                Interest::READABLE => self.0.poll_read_ready(cx),
                _ => self.0.poll_write_ready(cx),
            })?;
            match retry_on_intr(|| call(self.get())) {
                Ok(bytes) => {
                    // Fewer than there is room for: that is all for now, and what comes is told anew. Otherwise the
                    // next call would be made in vain.
                    if 0 < bytes && bytes < room {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(bytes));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Reads into what is left of `buffer`, whose memory is not cleared first; 0 bytes at the end.
    ///
    /// # Errors
    /// As [`Watched::once_readable`].
    #[expect(unsafe_code, reason = "to clear the memory first would cost more than to receive into it")]
    pub fn poll_read_by(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        read: impl Fn(&T, &mut [MaybeUninit<u8>]) -> Result<usize>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        // SAFETY: the kernel writes there, which makes no byte uninitialized that was not.
        let space = unsafe { buffer.unfilled_mut() };
        let bytes = ready!(self.poll_in(cx, room, |descriptor| read(descriptor, space)))?;
        // SAFETY: the kernel has written so many bytes there.
        unsafe { buffer.assume_init(bytes) };
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsRawFd + AsFd> AsFd for Watched<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get().as_fd()
    }
}
