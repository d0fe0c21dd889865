//! Descriptors that the event loop watches, and calls that move bytes through them: what connections with clients and
//! with shims have in common.
//!
//! The kernel is called without the C library, which would make each call one at which the thread can be cancelled;
//! that costs more than it sounds.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, Result, read, retry_on_intr};
use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// A descriptor that does not block, and that the event loop watches until this is dropped.
#[derive(Debug)]
pub struct Watched<T: AsRawFd> {
    descriptor: AsyncFd<T>,
    /// It is not known yet whether it is ready, so that the next call may as well be made: for reading, for writing.
    untried: [AtomicBool; 2],
}

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
        Ok(Self { descriptor: watched?, untried: [AtomicBool::new(false), AtomicBool::new(false)] })
    }

    /// The first call each way is made without waiting for the event loop to say that it can be: a turn less for what is
    /// probably ready, as a connection that has just been accepted.
    pub fn try_first(mut self) -> Self {
        self.untried = [AtomicBool::new(true), AtomicBool::new(true)];
        self
    }

    /// Takes it back; it is no longer watched.
    pub fn into_inner(self) -> T {
        self.descriptor.into_inner()
    }
}

impl<T: AsRawFd> Watched<T> {
    /// What is watched.
    pub fn get(&self) -> &T {
        self.descriptor.get_ref()
    }

    /// Makes a call that needs something to be there, once something is.
    ///
    /// # Errors
    /// The call's, and the event loop's that is being closed.
    pub async fn once_readable<R>(&self, mut call: impl FnMut(&T) -> Result<R>) -> io::Result<R> {
        self.descriptor.async_io(Interest::READABLE, |descriptor| Ok(call(descriptor)?)).await
    }

    /// Makes a call that moves up to `room` bytes the way that is of interest, once it can; 0 where that is not known.
    ///
    /// # Errors
    /// As [`Watched::once_readable`].
    pub fn poll_call(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        room: usize,
        mut call: impl FnMut(&T) -> Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let untried = &self.untried[usize::from(interest.is_writable())];
        loop {
            let mut ready = None;
            if untried.load(Relaxed) {
                untried.store(false, Relaxed);
            } else {
                ready = Some(ready!(match interest {
                    Interest::READABLE => self.descriptor.poll_read_ready(cx),
                    _ => self.descriptor.poll_write_ready(cx),
                })?);
            }
            let called = retry_on_intr(|| call(self.get()));
            // Fewer bytes than there is room for: that is all for now, and what comes is told anew. Otherwise the next
            // call would be made in vain.
            let all_for_now =
                called.map_or_else(|error| error == Errno::AGAIN, |bytes| 0 < bytes && bytes < room);
            if all_for_now && let Some(ready) = &mut ready {
                ready.clear_ready();
            }
            match called {
                Err(Errno::AGAIN) => {}
                called => return Poll::Ready(Ok(called?)),
            }
        }
    }

    /// Makes a call that fills the beginning of what is left of `buffer`, whose memory is not cleared first.
    #[expect(unsafe_code, reason = "to clear the memory first would cost more than to receive into it")]
    fn poll_fill(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        fill: impl Fn(&T, &mut [MaybeUninit<u8>]) -> Result<usize>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        // SAFETY: `recv` and `read`, which are all that is called with it, make no byte uninitialized that was not.
        let space = unsafe { buffer.unfilled_mut() };
        let bytes =
            ready!(self.poll_call(cx, Interest::READABLE, room, |descriptor| fill(descriptor, space)))?;
        // SAFETY: those two say how many bytes they have written there.
        unsafe { buffer.assume_init(bytes) };
        buffer.advance(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsRawFd + AsFd> Watched<T> {
    /// Reads from a socket into what is left of `buffer`; nothing at the end.
    ///
    /// # Errors
    /// As [`Watched::once_readable`].
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_fill(cx, buffer, |socket, space| Ok(recv(socket, space, RecvFlags::empty())?.1))
    }

    /// As [`Watched::poll_recv`], from what is no socket.
    ///
    /// # Errors
    /// As [`Watched::once_readable`].
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_fill(cx, buffer, |pipe, space| Ok(read(pipe, space)?.0.len()))
    }
}

impl<T: AsRawFd + AsFd> AsFd for Watched<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.get().as_fd()
    }
}
