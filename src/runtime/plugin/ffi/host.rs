//! The functions a plugin may call. None of them panics; each trusts its pointers as the ABI describes them.

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use nuclio_handler::abi;
use nuclio_handler::host::{ack, call_function, fields_json};

use crate::config::Level;
use crate::event::Event;
use crate::logging::{Logger, Origin};
use crate::runtime::plugin::frame::Frame;

/// The table handed to every plugin.
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

/// What `worker_ref` stands for: the worker's place in the processor. Stays at one address.
#[derive(Clone)]
pub(in crate::runtime::plugin) struct Home(Arc<Logger>);

impl Home {
    pub(in crate::runtime::plugin) fn new(logger: Logger) -> Self {
        Self(Arc::new(logger))
    }

    pub(in crate::runtime::plugin) fn logger(&self) -> &Logger {
        &self.0
    }

    pub(super) fn as_worker_ref(&self) -> *mut c_void {
        Arc::as_ptr(&self.0).cast_mut().cast()
    }
}

/// # Safety
/// `worker_ref` comes from [`Home::as_worker_ref`], and its worker has not stopped.
unsafe fn logger<'a>(worker_ref: *mut c_void) -> &'a Logger {
    // SAFETY: the worker keeps its `Home`.
    unsafe { &*worker_ref.cast::<Logger>() }
}

/// # Safety
/// `event` is NULL or the raw event of a loaded frame.
unsafe fn frame<'a>(event: *const abi::Event) -> Option<&'a Frame> {
    // SAFETY: a loaded frame's event leads back to the frame.
    unsafe { event.as_ref().and_then(|event| event.host.cast::<Frame>().as_ref()) }
}

/// # Safety
/// As [`frame`].
unsafe fn origin<'a>(event: *const abi::Event) -> Origin<'a> {
    // SAFETY: passed on to the caller.
    let event = unsafe { frame(event) }.and_then(Frame::event);
    event.map(Event::origin).unwrap_or_default()
}

unsafe extern "C" fn log_level(worker_ref: *mut c_void, event: *const abi::Event) -> u32 {
    // SAFETY: the plugin's arguments are what it was given.
    let (logger, buffer) = unsafe { (logger(worker_ref), origin(event).buffer) };
    let levels = [Level::Debug, Level::Info, Level::Warn, Level::Error];
    match levels.iter().position(|level| logger.wants(*level, buffer)) {
        Some(place) => place as u32,
        None => abi::LOG_NONE,
    }
}

unsafe extern "C" fn log(
    worker_ref: *mut c_void,
    event: *const abi::Event,
    level: u32,
    message: abi::Str,
    fields: *const abi::Field,
    n: usize,
) {
    let level = match level {
        abi::LOG_DEBUG => Level::Debug,
        abi::LOG_INFO => Level::Info,
        abi::LOG_WARN => Level::Warn,
        abi::LOG_ERROR => Level::Error,
        _ => return,
    };
    // SAFETY: the plugin's arguments are what it was given, and its texts live during this call.
    let (logger, origin, message) = unsafe { (logger(worker_ref), origin(event), message.bytes()) };
    if !logger.wants(level, origin.buffer) {
        return;
    }
    // SAFETY: the plugin's fields are readable during this call.
    let record = unsafe { fields_json(fields, n) }.collect();
    logger.record_of(origin, level, &String::from_utf8_lossy(message), record);
}

unsafe extern "C" fn alloc(event: *const abi::Event, size: usize, align: usize) -> *mut c_void {
    // SAFETY: the plugin's event is the one it was given.
    unsafe { frame(event) }.map_or(ptr::null_mut(), |frame| frame.alloc(size, align).cast())
}

unsafe extern "C" fn header(event: *const abi::Event, name: abi::Str) -> abi::Str {
    // SAFETY: as in `alloc`; the name lives during this call.
    let value = unsafe { frame(event).and_then(|frame| frame.header(name.bytes())) };
    value.map_or(abi::Str::EMPTY, abi::Str::new)
}

unsafe extern "C" fn fields(event: *const abi::Event) -> abi::Pairs {
    // SAFETY: as in `alloc`.
    unsafe { frame(event) }.map_or(abi::Pairs::EMPTY, |frame| abi::Pairs::new(frame.fields()))
}

unsafe extern "C" fn cancelled(event: *const abi::Event) -> i32 {
    // SAFETY: as in `alloc`; the flag is valid during the call, which is when this may be called.
    unsafe { frame(event).and_then(|frame| frame.cancelled.as_ref()) }
        .map_or(0, |flag| flag.load(Ordering::Relaxed).into())
}

unsafe extern "C" fn read(
    event: *const abi::Event,
    buffer: *mut u8,
    size: usize,
    n: *mut usize,
) -> abi::CallResult {
    if n.is_null() || buffer.is_null() && size > 0 {
        return abi::ARGUMENT;
    }
    // SAFETY: the plugin's event is the one it was given.
    let piece = unsafe { frame(event) }.map_or(Ok(Bytes::new()), |frame| frame.read(size));
    let (piece, end) = match piece {
        Ok(piece) if piece.is_empty() => (piece, if size == 0 { abi::OK } else { abi::END }),
        Ok(piece) => (piece, abi::OK),
        Err(_) => (Bytes::new(), abi::CLOSED),
    };
    // SAFETY: `size` bytes may be written at `buffer`, and the piece has no more than that. One number may be written at `n`.
    unsafe {
        ptr::copy_nonoverlapping(piece.as_ptr(), buffer, piece.len());
        n.write(piece.len());
    }
    end
}
