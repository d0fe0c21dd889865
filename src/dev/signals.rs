//! Signals that come between two starts of the program: the next start gets them. Without that a Ctrl-C in this moment
//! would either end the process without its clean-up, or be forgotten.

use std::io;
use std::mem::MaybeUninit;
use std::ptr::null_mut;

/// Those that ask for a stop.
const STOPS: [libc::c_int; 2] = [libc::SIGTERM, libc::SIGINT];

/// From now on they wait, also for the program that is executed next. What came before has been handled as ever. To be
/// called on the process's first thread, which is the one that such a program goes on with.
///
/// # Errors
/// The kernel refuses.
#[expect(unsafe_code, reason = "no library has these calls")]
pub(super) fn hold() -> io::Result<()> {
    mask(libc::SIG_BLOCK)?;
    // Other threads do not block them. What the kernel gives to one of those is sent on, and stays pending.
    for signal in STOPS {
        // SAFETY: zeros are a valid `sigaction` without flags and with an empty mask; the handler only makes system calls.
        let installed = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = send_on as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &raw const action, null_mut())
        };
        if installed != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// They arrive, and so do those that have waited.
///
/// # Errors
/// The kernel refuses.
pub(super) fn release() -> io::Result<()> {
    mask(libc::SIG_UNBLOCK)
}

/// Sends a signal to the first thread, whose number is that of the process.
#[expect(unsafe_code, reason = "a signal handler may make system calls and little else")]
extern "C" fn send_on(signal: libc::c_int) {
    // SAFETY: both calls take and keep no memory, and are allowed in signal handlers.
    unsafe {
        let process = libc::getpid();
        libc::syscall(libc::SYS_tgkill, process, process, signal);
    }
}

#[expect(unsafe_code, reason = "no library has this call")]
fn mask(how: libc::c_int) -> io::Result<()> {
    // SAFETY: the set is initialized by `sigemptyset` before anything reads it, and outlives the calls.
    let error = unsafe {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(set.as_mut_ptr());
        for signal in STOPS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}
