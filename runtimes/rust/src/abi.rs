//! `include/nuclio_handler.h` in Rust: the structs and numbers that cross the boundary, nothing else.
//!
//! Shared by this crate's front and by the processor, so the layout is written once in C and once here; both check it
//! when they are compiled. Everything is plain data: the rules of ownership are in `README.md`.

use std::ffi::{c_char, c_void};
use std::mem::{offset_of, size_of};
use std::ptr;

/// Major version; part of the entry symbol.
pub const ABI_MAJOR: u32 = 1;
/// Minor version; any is fine in both directions.
pub const ABI_MINOR: u32 = 2;
/// Value of the symbol `nh_abi_version`.
pub const ABI_VERSION: u32 = ABI_MAJOR << 16 | ABI_MINOR;
/// Name of the data symbol that is looked up first.
pub const VERSION_SYMBOL: &str = "nh_abi_version";
/// Name of the function that returns the table.
pub const ENTRY_SYMBOL: &str = "nh_plugin_v1";

/// Result of every call that can fail: one of the constants below.
pub type CallResult = i32;
/// Done.
pub const OK: CallResult = 0;
/// No more chunks.
pub const END: CallResult = 1;
/// The handler returned an error.
pub const ERROR: CallResult = -1;
/// A panic or exception was caught.
pub const PANIC: CallResult = -2;
/// Not implemented.
pub const UNSUPPORTED: CallResult = -3;
/// An argument makes no sense.
pub const ARGUMENT: CallResult = -4;
/// What was asked for is gone.
pub const CLOSED: CallResult = -5;

/// Log level: everything.
pub const LOG_DEBUG: u32 = 0;
/// Log level: normal operation.
pub const LOG_INFO: u32 = 1;
/// Log level: odd.
pub const LOG_WARN: u32 = 2;
/// Log level: failed.
pub const LOG_ERROR: u32 = 3;
/// Log level: nothing is wanted.
pub const LOG_NONE: u32 = 4;

/// Kind of a [`Value`]: UTF-8 text.
pub const TEXT: u32 = 0;
/// Kind of a [`Value`]: 64-bit integer.
pub const INT: u32 = 1;
/// Kind of a [`Value`]: double.
pub const FLOAT: u32 = 2;
/// Kind of a [`Value`]: truth in `integer`.
pub const BOOL: u32 = 3;
/// Kind of a [`Value`]: a finished JSON text.
pub const JSON: u32 = 4;
/// Kind of a [`Value`]: any bytes.
pub const BYTES: u32 = 5;
/// Kind of a [`Value`]: nothing.
pub const NULL: u32 = 6;

/// Flag of an [`Event`]: the request carried no body at all.
pub const EVENT_NO_BODY: u32 = 1 << 0;
/// Flag of an [`Event`]: the body is the JSON text of a structured cloud event's data.
pub const EVENT_BODY_JSON: u32 = 1 << 1;
/// Flag of an [`Event`]: structured or binary cloud event.
pub const EVENT_CLOUD: u32 = 1 << 2;
/// Flag of an [`Event`]: the last of its batch.
pub const EVENT_LAST_IN_BATCH: u32 = 1 << 3;
/// Flag of an [`Event`]: `body` is not all of it, `read` has the rest. Since 1.2.
pub const EVENT_MORE: u32 = 1 << 4;

/// Flag of a [`Response`]: do not acknowledge the stream message.
pub const RESPONSE_NO_ACK: u16 = 1 << 0;
/// Flag of a [`Response`]: the body is pulled with `next`.
pub const RESPONSE_STREAM: u16 = 1 << 1;

/// Feature: all calls of one worker come from one thread.
pub const FEATURE_FIXED_THREAD: u64 = 1 << 0;
/// Feature: `handle` returns within about 100 µs and never blocks.
pub const FEATURE_SHORT: u64 = 1 << 1;
/// Feature: brings a run-time (Go); one per process.
pub const FEATURE_OWNS_RUNTIME: u64 = 1 << 2;
/// Feature: takes bodies while they arrive, with `read`. Since 1.2.
pub const FEATURE_STREAM_BODY: u64 = 1 << 3;

/// Control: stop taking new work from streams.
pub const DRAIN: u32 = 1;
/// Control: go on after a drain.
pub const CONTINUE: u32 = 2;
/// Control: the end is near.
pub const TERMINATE: u32 = 3;

/// `nh_str`: bytes owned by someone else.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Str {
    /// First byte; NULL only if `len` is 0.
    pub ptr: *const u8,
    /// Number of bytes.
    pub len: usize,
}

impl Str {
    /// No bytes, NULL.
    pub const EMPTY: Self = Self { ptr: ptr::null(), len: 0 };

    /// A view of `bytes`; the caller keeps them alive.
    pub const fn new(bytes: &[u8]) -> Self {
        Self { ptr: bytes.as_ptr(), len: bytes.len() }
    }

    /// NULL although there should be bytes.
    pub fn is_broken(self) -> bool {
        self.ptr.is_null() && self.len != 0
    }

    /// The bytes.
    ///
    /// # Safety
    /// `ptr` is NULL, or `len` bytes there stay readable and unchanged during `'a`.
    #[expect(unsafe_code, reason = "turns the pointer of the other side into a slice")]
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() {
            return &[];
        }
        // SAFETY: not NULL, and the caller vouches for the memory.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

/// `nh_pair`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// Name.
    pub name: Str,
    /// Value.
    pub value: Str,
}

/// `nh_pairs`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Pairs {
    /// First pair; NULL only if `len` is 0.
    pub items: *const Pair,
    /// Number of pairs.
    pub len: usize,
}

impl Pairs {
    /// No pairs, NULL.
    pub const EMPTY: Self = Self { items: ptr::null(), len: 0 };

    /// A view of `pairs`; the caller keeps them alive.
    pub const fn new(pairs: &[Pair]) -> Self {
        Self { items: pairs.as_ptr(), len: pairs.len() }
    }

    /// NULL although there should be pairs.
    pub fn is_broken(self) -> bool {
        self.items.is_null() && self.len != 0
    }

    /// The pairs.
    ///
    /// # Safety
    /// `items` is NULL, or `len` pairs there stay readable and unchanged during `'a`.
    #[expect(unsafe_code, reason = "turns the pointer of the other side into a slice")]
    pub unsafe fn pairs<'a>(self) -> &'a [Pair] {
        if self.items.is_null() {
            return &[];
        }
        // SAFETY: not NULL, and the caller vouches for the memory.
        unsafe { std::slice::from_raw_parts(self.items, self.len) }
    }
}

/// The union in [`Value`].
#[repr(C)]
#[derive(Clone, Copy)]
pub union ValueAs {
    /// For text, JSON and bytes.
    pub text: Str,
    /// For integers and truth.
    pub integer: i64,
    /// For doubles.
    pub real: f64,
}

/// `nh_value`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Value {
    /// [`TEXT`] to [`NULL`].
    pub kind: u32,
    /// 0.
    pub reserved: u32,
    /// Which member: see `kind`.
    pub value: ValueAs,
}

/// `nh_field`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Field {
    /// Name.
    pub name: Str,
    /// Value.
    pub value: Value,
}

/// `nh_event`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the names are those of the header and say what they hold")]
pub struct Event {
    /// Bytes of this struct as the host knows it.
    pub size: u32,
    /// `EVENT_…`.
    pub flags: u32,
    pub id: Str,
    pub method: Str,
    pub path: Str,
    pub query: Str,
    pub url: Str,
    pub content_type: Str,
    pub trigger_class: Str,
    pub trigger_kind: Str,
    pub trigger_name: Str,
    pub type_: Str,
    pub type_version: Str,
    pub version: Str,
    pub topic: Str,
    pub body: Str,
    /// Names as the trigger gives them; repeated names allowed.
    pub headers: Pairs,
    /// Since 1970, UTC.
    pub timestamp_ns: i64,
    /// `CLOCK_MONOTONIC`; 0: none.
    pub deadline_ns: i64,
    pub offset: i64,
    pub shard_id: i32,
    pub num_shards: i32,
    /// The host's own.
    pub host: *mut c_void,
}

impl Event {
    /// Nothing happened: no texts, no body, no shard.
    pub const EMPTY: Self = Self {
        size: size_of::<Self>() as u32,
        flags: 0,
        id: Str::EMPTY,
        method: Str::EMPTY,
        path: Str::EMPTY,
        query: Str::EMPTY,
        url: Str::EMPTY,
        content_type: Str::EMPTY,
        trigger_class: Str::EMPTY,
        trigger_kind: Str::EMPTY,
        trigger_name: Str::EMPTY,
        type_: Str::EMPTY,
        type_version: Str::EMPTY,
        version: Str::EMPTY,
        topic: Str::EMPTY,
        body: Str::EMPTY,
        headers: Pairs::EMPTY,
        timestamp_ns: 0,
        deadline_ns: 0,
        offset: 0,
        shard_id: -1,
        num_shards: 0,
        host: ptr::null_mut(),
    };
}

/// `nh_response`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Response {
    /// Set by the host; also tells which fields exist.
    pub size: u32,
    /// 0: 200, or 500 when the call failed.
    pub status: u16,
    /// `RESPONSE_…`.
    pub flags: u16,
    /// Content type.
    pub content_type: Str,
    /// Headers.
    pub headers: Pairs,
    /// When the call failed: the error text.
    pub body: Str,
    /// For `release` and `next`.
    pub owner: *mut c_void,
    /// `None`: nothing to release.
    pub release: Option<unsafe extern "C" fn(owner: *mut c_void)>,
    /// With [`RESPONSE_STREAM`]: pulled until [`END`].
    pub next: Option<unsafe extern "C" fn(owner: *mut c_void, chunk: *mut Str) -> CallResult>,
}

impl Response {
    /// As the host hands it to the plugin.
    pub const EMPTY: Self = Self {
        size: size_of::<Self>() as u32,
        status: 0,
        flags: 0,
        content_type: Str::EMPTY,
        headers: Pairs::EMPTY,
        body: Str::EMPTY,
        owner: ptr::null_mut(),
        release: None,
        next: None,
    };
}

/// `nh_call`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the names are those of the header and say what they hold")]
pub struct Call {
    /// Bytes of this struct as the plugin knows it.
    pub size: u32,
    /// 0.
    pub reserved: u32,
    pub function: Str,
    pub method: Str,
    pub path: Str,
    pub content_type: Str,
    pub body: Str,
    pub headers: Pairs,
    /// 0: the host's default.
    pub timeout_ns: i64,
}

/// `nh_host::log`.
pub type LogFn = unsafe extern "C" fn(
    worker_ref: *mut c_void,
    event: *const Event,
    level: u32,
    message: Str,
    fields: *const Field,
    n: usize,
);

/// `nh_host`. `None` is a function the host does not have.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the functions are described in the header and README.md")]
pub struct Host {
    /// Bytes of this struct as the host knows it.
    pub size: u32,
    /// The host's [`ABI_VERSION`].
    pub abi_version: u32,
    pub log_level: Option<unsafe extern "C" fn(worker_ref: *mut c_void, event: *const Event) -> u32>,
    pub log: Option<LogFn>,
    pub alloc: Option<unsafe extern "C" fn(event: *const Event, size: usize, align: usize) -> *mut c_void>,
    pub header: Option<unsafe extern "C" fn(event: *const Event, name: Str) -> Str>,
    pub fields: Option<unsafe extern "C" fn(event: *const Event) -> Pairs>,
    pub cancelled: Option<unsafe extern "C" fn(event: *const Event) -> i32>,
    pub ack: Option<
        unsafe extern "C" fn(worker_ref: *mut c_void, topic: Str, partition: i32, offset: i64) -> CallResult,
    >,
    pub call_function: Option<
        unsafe extern "C" fn(worker_ref: *mut c_void, call: *const Call, answer: *mut Response) -> CallResult,
    >,
    /// Since 1.2.
    pub read: Option<
        unsafe extern "C" fn(event: *const Event, buffer: *mut u8, size: usize, n: *mut usize) -> CallResult,
    >,
}

/// `nh_config`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the names are those of the header and say what they hold")]
pub struct Config {
    /// Bytes of this struct as the host knows it.
    pub size: u32,
    /// 0.
    pub reserved: u32,
    pub function_name: Str,
    pub namespace: Str,
    pub project: Str,
    pub platform_kind: Str,
    /// `spec.handler` as written.
    pub handler: Str,
    /// The whole function file.
    pub config_yaml: Str,
    pub function_version: i64,
}

/// `nh_worker_config`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the names are those of the header and say what they hold")]
pub struct WorkerConfig {
    /// Bytes of this struct as the host knows it.
    pub size: u32,
    pub worker_id: i32,
    pub trigger_kind: Str,
    pub trigger_name: Str,
    /// First argument of `log`, `ack`, `call_function`.
    pub worker_ref: *mut c_void,
}

/// `nh_plugin::handle_batch`.
pub type HandleBatchFn = unsafe extern "C" fn(
    worker: *mut c_void,
    events: *const *const Event,
    n: usize,
    responses: *const *mut Response,
) -> CallResult;

/// `nh_plugin`. A copy of a shorter table of an older plugin holds `None` at the end.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the functions are described in the header and README.md")]
pub struct Plugin {
    /// Bytes of this struct as the plugin knows it.
    pub size: u32,
    /// The plugin's [`ABI_VERSION`].
    pub abi_version: u32,
    /// `FEATURE_…`.
    pub features: u64,
    /// NUL-terminated, static.
    pub language: *const c_char,
    /// NUL-terminated, static.
    pub sdk_version: *const c_char,
    pub start: Option<
        unsafe extern "C" fn(
            host: *const Host,
            config: *const Config,
            plugin: *mut *mut c_void,
            error: *mut Response,
        ) -> CallResult,
    >,
    pub worker_start: Option<
        unsafe extern "C" fn(
            plugin: *mut c_void,
            config: *const WorkerConfig,
            worker: *mut *mut c_void,
            error: *mut Response,
        ) -> CallResult,
    >,
    pub handle: Option<
        unsafe extern "C" fn(worker: *mut c_void, event: *const Event, response: *mut Response) -> CallResult,
    >,
    pub handle_batch: Option<HandleBatchFn>,
    pub control: Option<unsafe extern "C" fn(worker: *mut c_void, what: u32) -> CallResult>,
    pub worker_stop: Option<unsafe extern "C" fn(worker: *mut c_void)>,
    pub stop: Option<unsafe extern "C" fn(plugin: *mut c_void)>,
}

/// Copies a struct of the other side, which may be shorter or longer than the one we know.
///
/// # Safety
/// `from` points to a struct that starts with its size, as many bytes of which are readable; all-zero bytes are a
/// valid `T`.
#[expect(unsafe_code, reason = "reads a struct of the other side")]
pub unsafe fn copy_sized<T: Copy>(from: *const T) -> T {
    // SAFETY: every struct of the ABI starts with its size, and the caller vouches for the rest.
    unsafe {
        let mut copy = std::mem::zeroed::<T>();
        let size = (from.cast::<u32>().read() as usize).min(size_of::<T>());
        ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut copy).cast::<u8>(), size);
        copy
    }
}

/// Fails the build when a struct is not laid out as the header says.
macro_rules! assert_layout {
    ($($type:ty: $size:literal $(, $field:ident $offset:literal)*;)*) => {
        $(const _: () = {
            assert!(size_of::<$type>() == $size);
            $(assert!(offset_of!($type, $field) == $offset);)*
        };)*
    };
}

assert_layout! {
    Str: 16, ptr 0, len 8;
    Pair: 32, name 0, value 16;
    Pairs: 16, items 0, len 8;
    Value: 24, kind 0, value 8;
    Field: 40, name 0, value 16;
    Event: 288, id 8, body 216, headers 232, timestamp_ns 248, shard_id 272, host 280;
    Response: 80, status 4, flags 6, content_type 8, headers 24, body 40, owner 56, release 64, next 72;
    Call: 112, function 8, headers 88, timeout_ns 104;
    Host: 80, log_level 8, log 16, alloc 24, header 32, fields 40, cancelled 48, ack 56, call_function 64, read 72;
    Config: 112, function_name 8, config_yaml 88, function_version 104;
    WorkerConfig: 48, trigger_kind 8, worker_ref 40;
    Plugin: 88, features 8, language 16, start 32, worker_start 40, handle 48, control 64, stop 80;
}
