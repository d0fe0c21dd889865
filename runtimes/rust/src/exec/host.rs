//! The functions a handler may call. None of them panics; each trusts its pointers as the ABI describes them.
#![expect(unsafe_code, reason = "the C boundary: called by handlers, with pointers they were given")]

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr;
use std::sync::atomic::Ordering;

use super::event::Slot;
use super::input::{Shared, lock};
use crate::abi;
use crate::host::{ack, call_function, fields_json};

/// The table handed to the handler.
pub(super) static HOST: abi::Host = abi::Host {
    size: size_of::<abi::Host>() as u32,
    abi_version: abi::ABI_VERSION,
    log_level: Some(log_level),
    log: Some(log),
    alloc: Some(alloc),
    header: Some(header),
    fields: Some(fields),
    cancelled: Some(cancelled),
    ack: Some(ack),
    call_function: Some(call_function),
    read: Some(read),
};

/// What `log_level`, `log`, `cancelled` and `read` reach: there is one connection per process.
static SHARED: std::sync::OnceLock<Shared> = std::sync::OnceLock::new();

/// Keeps what the functions reach for as long as the process lasts.
pub(super) fn share(shared: Shared) -> &'static Shared {
    SHARED.get_or_init(|| shared)
}

/// # Safety
/// `event` is NULL or the raw event of a loaded slot.
unsafe fn slot<'a>(event: *const abi::Event) -> Option<&'a Slot> {
    // SAFETY: a loaded slot's event leads back to the slot.
    unsafe { event.as_ref().and_then(|event| event.host.cast::<Slot>().as_ref()) }
}

/// # Safety
/// As [`slot`].
unsafe fn wanted(shared: &Shared, event: *const abi::Event) -> u32 {
    // SAFETY: passed on to the caller.
    let own = unsafe { slot(event) }.and_then(|slot| slot.level);
    own.map_or(shared.level, |level| level.min(shared.level))
}

unsafe extern "C" fn log_level(_: *mut c_void, event: *const abi::Event) -> u32 {
    // SAFETY: the handler's event is the one it was given.
    SHARED.get().map_or(abi::LOG_NONE, |shared| unsafe { wanted(shared, event) })
}

unsafe extern "C" fn log(
    _: *mut c_void,
    event: *const abi::Event,
    level: u32,
    message: abi::Str,
    fields: *const abi::Field,
    n: usize,
) {
    let Some(shared) = SHARED.get() else { return };
    // SAFETY: as above.
    if level > abi::LOG_ERROR || level < unsafe { wanted(shared, event) } {
        return;
    }
    // SAFETY: the handler's texts and fields live during this call.
    let (message, fields) = unsafe { (message.bytes(), fields_json(fields, n)) };
    // Member by member, because a map would sort them.
    let members = fields.map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name)));
    let members = members.collect::<Vec<_>>().join(",");
    let fields = if members.is_empty() { members } else { format!("{{{members}}}") };
    // SAFETY: as above.
    let id = unsafe { slot(event) }.map_or(0, Slot::id);
    let message = String::from_utf8_lossy(message);
    lock(&shared.writer).log(level, id, message.as_bytes(), fields.as_bytes());
}

unsafe extern "C" fn alloc(event: *const abi::Event, size: usize, align: usize) -> *mut c_void {
    // SAFETY: the handler's event is the one it was given.
    unsafe { slot(event) }.map_or(ptr::null_mut(), |slot| slot.alloc(size, align).cast())
}

unsafe extern "C" fn header(event: *const abi::Event, name: abi::Str) -> abi::Str {
    // SAFETY: as in `alloc`; the name lives during this call.
    unsafe { slot(event).and_then(|slot| slot.header(name.bytes())) }.unwrap_or(abi::Str::EMPTY)
}

unsafe extern "C" fn fields(event: *const abi::Event) -> abi::Pairs {
    // SAFETY: as in `alloc`.
    unsafe { slot(event) }.map_or(abi::Pairs::EMPTY, Slot::fields)
}

unsafe extern "C" fn cancelled(_: *const abi::Event) -> i32 {
    let Some(shared) = SHARED.get() else { return 0 };
    shared.look();
    // The processor says when the time is over, so that nobody stops before it has answered 408. Its reasons are client
    // gone 1 and deadline 2, the handler's the other way round.
    match shared.cancelled.load(Ordering::Relaxed) {
        1 => 2,
        2 => 1,
        other => other,
    }
}

unsafe extern "C" fn read(
    event: *const abi::Event,
    buffer: *mut u8,
    size: usize,
    n: *mut usize,
) -> abi::CallResult {
    let (Some(shared), false) = (SHARED.get(), n.is_null() || buffer.is_null() && size > 0) else {
        return abi::ARGUMENT;
    };
    // SAFETY: as in `alloc`; `size` bytes may be written at `buffer`.
    let (more, buffer) = unsafe {
        let more = slot(event).is_some_and(Slot::has_more);
        (more, if size == 0 { &mut [][..] } else { std::slice::from_raw_parts_mut(buffer, size) })
    };
    let (result, bytes) = match (more, size) {
        (_, 0) => (abi::OK, 0),
        (false, _) => (abi::END, 0),
        (true, _) => match shared.read_body(buffer) {
            Ok(Some(bytes)) => (abi::OK, bytes),
            Ok(None) => (abi::END, 0),
            Err(()) => (abi::CLOSED, 0),
        },
    };
    // SAFETY: one number may be written at `n`.
    unsafe { n.write(bytes) }
    result
}
