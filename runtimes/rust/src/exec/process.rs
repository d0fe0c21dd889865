//! What signals mean to the program, and what becomes of processes that a handler forks.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

/// SIGTERM has come.
pub(super) static ENDING: AtomicBool = AtomicBool::new(false);
/// An event is in work.
pub(super) static BUSY: AtomicBool = AtomicBool::new(false);

extern "C" fn on_term(_: libc::c_int) {
    ENDING.store(true, Ordering::SeqCst);
    if !BUSY.load(Ordering::SeqCst) {
        // SAFETY: may be called by a handler of signals.
        unsafe { libc::_exit(0) }
    }
}

extern "C" fn on_other(_: libc::c_int) {}

/// A terminal's SIGINT is for the processor; SIGTERM ends after the event in work; a closed socket is seen by who reads.
/// None of them is ignored, because programs that the handler starts would ignore it, too.
pub(super) fn listen_to_signals() {
    // SAFETY: `on_term` and `on_other` do nothing that a handler of signals must not do.
    unsafe {
        for (signal, ours) in OURS {
            libc::signal(signal, ours as libc::sighandler_t);
        }
    }
}

/// What we do about signals.
const OURS: [(libc::c_int, extern "C" fn(libc::c_int)); 3] =
    [(libc::SIGINT, on_other), (libc::SIGPIPE, on_other), (libc::SIGTERM, on_term)];
/// This is a process that a handler has forked.
pub(super) static FORKED: AtomicBool = AtomicBool::new(false);
/// What `ENDING` was before the last fork.
static ENDING_BEFORE: AtomicBool = AtomicBool::new(false);
/// Descriptors of the connection.
static CONNECTION: [AtomicI32; 2] = [const { AtomicI32::new(-1) }; 2];

/// Keeps what a handler forks away from the connection, which has one reader and one writer.
pub(super) fn watch_forks(connection: [&UnixStream; 2]) {
    for (place, socket) in CONNECTION.iter().zip(connection) {
        place.store(socket.as_raw_fd(), Ordering::SeqCst);
    }
    // SAFETY: both may run around the fork of a process with threads.
    unsafe { libc::pthread_atfork(Some(before_fork), None, Some(in_fork)) };
}

unsafe extern "C" fn before_fork() {
    ENDING_BEFORE.store(ENDING.load(Ordering::SeqCst), Ordering::SeqCst);
}

/// The connection ends for the new process, and signals mean to it what they mean to others.
unsafe extern "C" fn in_fork() {
    FORKED.store(true, Ordering::SeqCst);
    // SAFETY: only functions that are async-signal-safe; the descriptors keep their numbers, so that nothing else the
    // process opens is taken for them.
    unsafe {
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        for place in &CONNECTION {
            let descriptor = place.load(Ordering::SeqCst);
            if nothing < 0 {
                libc::close(descriptor);
            } else {
                libc::dup3(nothing, descriptor, libc::O_CLOEXEC);
            }
        }
        libc::close(nothing);
        for (signal, ours) in OURS {
            let now = libc::signal(signal, libc::SIG_DFL);
            if now != ours as libc::sighandler_t {
                libc::signal(signal, now); // The handler's own.
            }
        }
        if ENDING.load(Ordering::SeqCst) && !ENDING_BEFORE.load(Ordering::SeqCst) {
            libc::raise(libc::SIGTERM); // It was sent to this process, before it could mean anything here.
        }
    }
}
