//! The last words of a processor that its handler library brings down: which handler, by what, and what would help.
//!
//! A fault inside a library cannot be survived, only explained. The handlers of signals here do what is safe there:
//! compose a line on the stack, write it to standard error, and leave the fault to whoever had the signal before.
//! Install them before the library is loaded and with an alternate stack, as libraries with a runtime of their own
//! (Go) ask for.
#![expect(unsafe_code, reason = "handlers of signals are installed and run")]

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{sigaction, siginfo_t};

/// The signals that a fault raises, their names, and what they mean.
const FAULTS: [(c_int, &str, &str); 5] = [
    (libc::SIGSEGV, "SIGSEGV", "invalid memory access"),
    (libc::SIGBUS, "SIGBUS", "invalid memory access"),
    (libc::SIGILL, "SIGILL", "illegal instruction"),
    (libc::SIGFPE, "SIGFPE", "arithmetic fault"),
    (libc::SIGABRT, "SIGABRT", "it gave up by itself"),
];
/// Bytes of the message; what is longer is cut.
const MESSAGE_BYTES: usize = 1024;

/// The library's file.
static LIBRARY: OnceLock<Box<[u8]>> = OnceLock::new();
/// What was to be done about the signals before.
static BEFORE: [OnceLock<sigaction>; FAULTS.len()] = [const { OnceLock::new() }; FAULTS.len()];
/// One message is enough, however many threads fault.
static SAID: AtomicBool = AtomicBool::new(false);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// While it exists, this thread is inside the library.
pub(super) struct Inside {
    before: bool,
}

/// This thread goes into the library.
pub(super) fn inside() -> Inside {
    Inside { before: INSIDE.replace(true) }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}

/// From now on a fault is explained. Only the first library of a process is named.
pub(super) fn explain(library: &Path) {
    LIBRARY.get_or_init(|| library.as_os_str().as_bytes().into());
    for ((signal, ..), before) in FAULTS.iter().zip(&BEFORE) {
        before.get_or_init(|| install(*signal));
    }
}

fn install(signal: c_int) -> sigaction {
    // SAFETY: a sigaction of zeros is a valid one: default action, empty mask, no flags.
    let mut ours: sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    ours.sa_sigaction = on_fault as extern "C" fn(c_int, *mut siginfo_t, *mut c_void) as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut before = ours;
    // SAFETY: both point to sigactions that outlive the call; `on_fault` has the signature that SA_SIGINFO asks for and
    // does only what is async-signal-safe. On failure `before` stays ours, which `on_fault` then replaces by default.
    unsafe { libc::sigaction(signal, &raw const ours, &raw mut before) };
    before
}

extern "C" fn on_fault(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(place) = FAULTS.iter().position(|(other, ..)| *other == signal) else { return };
    let before = BEFORE[place].get().copied();
    // SAFETY: the kernel hands a valid siginfo to handlers with SA_SIGINFO.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr()) };
    // Sent by a thread to itself or by a process, not raised by an instruction.
    let sent = code <= 0;
    if signal == libc::SIGABRT && !(code == libc::SI_TKILL && INSIDE.get()) {
        return hand_on(before, signal, info, context); // Somebody asks us to stop.
    }
    if !SAID.swap(true, Ordering::SeqCst) {
        say(place, (!sent).then_some(address as usize));
    }
    // SAFETY: sigaction, raise and signal are async-signal-safe; `before` came from the kernel.
    unsafe {
        match before {
            Some(before)
                if before.sa_sigaction != on_fault as *const () as usize && signal != libc::SIGABRT =>
            {
                libc::sigaction(signal, &raw const before, std::ptr::null_mut());
            }
            _ => drop(libc::signal(signal, libc::SIG_DFL)),
        }
        if sent {
            libc::raise(signal);
        } // Else the instruction is tried again and meets whoever had the signal before.
    }
}

/// Calls the handler that was there before.
fn hand_on(before: Option<sigaction>, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let Some(before) = before else { return };
    match before.sa_sigaction {
        libc::SIG_DFL => {
            // SAFETY: signal and raise are async-signal-safe.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
        libc::SIG_IGN => {}
        handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: with SA_SIGINFO the address is that of a function of this signature.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: without SA_SIGINFO the address is that of a function of this signature.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

fn say(place: usize, address: Option<usize>) {
    let (_, name, meaning) = FAULTS[place];
    let mut message = Message { bytes: [0; MESSAGE_BYTES], len: 0 };
    message.add(b"processor: ended by ");
    message.add(name.as_bytes());
    message.add(b" (");
    message.add(meaning.as_bytes());
    if let Some(address) = address {
        message.add(b" at 0x");
        message.add_hex(address);
    }
    message.add(if INSIDE.get() { b") in the handler " } else { b"), probably in the handler " });
    message.add(LIBRARY.get().map_or(b"", |path| path));
    message.add(
        b". A handler library shares the processor's memory, so its faults end both; in exec form \
        (spec.runtimeAttributes.handlerForm: executable) it runs in a process of its own and is replaced.\n",
    );
    // SAFETY: the bytes are initialized; write is async-signal-safe. Whether it succeeds makes no difference.
    unsafe { libc::write(2, message.bytes.as_ptr().cast(), message.len) };
}

/// A text put together without allocating.
struct Message {
    bytes: [u8; MESSAGE_BYTES],
    len: usize,
}

impl Message {
    fn add(&mut self, text: &[u8]) {
        let room = &mut self.bytes[self.len..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text[..count]);
        self.len += count;
    }

    fn add_hex(&mut self, number: usize) {
        let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            self.add(&[b"0123456789abcdef"[number >> (4 * digit) & 0xf]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_hold_numbers_and_never_more_than_there_is_room_for() {
        for (number, expected) in [(0, "0"), (0x1f, "1f"), (usize::MAX, "ffffffffffffffff")] {
            let mut message = Message { bytes: [0; MESSAGE_BYTES], len: 0 };
            message.add_hex(number);
            assert_eq!(&message.bytes[..message.len], expected.as_bytes());
        }
        let mut message = Message { bytes: [0; MESSAGE_BYTES], len: 0 };
        message.add(&[b'x'; MESSAGE_BYTES - 1]);
        message.add(b"yz");
        assert_eq!((message.len, message.bytes[MESSAGE_BYTES - 1]), (MESSAGE_BYTES, b'y'));
    }
}
