//! From a [`Handler`] to the table of the ABI and back: everything that touches the other side's memory.
//!
//! No panic leaves a function of the table. What the host hands in is trusted as the ABI describes it; what a handler
//! hands out is checked.
#![expect(unsafe_code, reason = "the C boundary: pointers come from and go to the host")]

use std::any::Any;
use std::borrow::Cow;
use std::cell::Cell;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::mem::size_of;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::abi::{self, copy_sized};
use crate::context::{Context, Value};
use crate::event::Event;
use crate::response::{Body, Chunks, Response};
use crate::{Control, Error, Handler};

/// Writes the two symbols of a handler library for a type that implements [`Handler`]. Once per library.
#[macro_export]
macro_rules! export_handler {
    ($handler:ty) => {
        const _: () = {
            #[unsafe(no_mangle)]
            #[used]
            static nh_abi_version: u32 = $crate::abi::ABI_VERSION;

            #[unsafe(no_mangle)]
            extern "C" fn nh_plugin_v1() -> *const $crate::abi::Plugin {
                $crate::export::table::<$handler>()
            }
        };
    };
}

/// The table of functions for a handler type.
pub fn table<H: Handler>() -> &'static abi::Plugin {
    &Table::<H>::TABLE
}

struct Table<H>(PhantomData<H>);

impl<H: Handler> Table<H> {
    const TABLE: abi::Plugin = abi::Plugin {
        size: size_of::<abi::Plugin>() as u32,
        abi_version: abi::ABI_VERSION,
        features: (if H::FIXED_THREAD { abi::FEATURE_FIXED_THREAD } else { 0 })
            | (if H::SHORT { abi::FEATURE_SHORT } else { 0 })
            | (if H::STREAMS_BODY { abi::FEATURE_STREAM_BODY } else { 0 }),
        language: c"rust".as_ptr(),
        sdk_version: concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast(),
        start: Some(start),
        worker_start: Some(worker_start::<H>),
        handle: Some(handle::<H>),
        handle_batch: if H::BATCHES { Some(handle_batch::<H>) } else { None },
        control: Some(control::<H>),
        worker_stop: Some(worker_stop::<H>),
        stop: Some(stop),
    };
}

/// What `start` leaves for the workers: the host's table and the configuration, cut or filled up to what we know.
#[derive(Clone, Copy)]
struct Process {
    host: abi::Host,
    config: abi::Config,
}

/// One worker: the handler and its surroundings.
struct Worker<H> {
    handler: H,
    context: Context,
}

/// The processor as one worker sees it.
pub(crate) struct Home {
    process: Process,
    worker_ref: *mut c_void,
    /// The event in `handle`, or NULL.
    event: Cell<*const abi::Event>,
    /// Number of that event, unique in this library.
    serial: Cell<u64>,
}

// SAFETY: the pointers stay valid until `worker_stop` whichever thread uses them, and a worker has one user at a time.
unsafe impl Send for Home {}

impl Home {
    /// A text of the configuration, valid until `stop` and thus as long as any worker.
    pub(crate) fn config(&self, pick: impl FnOnce(&abi::Config) -> abi::Str) -> Cow<'_, str> {
        // SAFETY: the host keeps everything `nh_config` points to until `stop` has returned.
        String::from_utf8_lossy(unsafe { pick(&self.process.config).bytes() })
    }

    pub(crate) fn function_version(&self) -> i64 {
        self.process.config.function_version
    }

    pub(crate) fn log_level(&self) -> u32 {
        match self.process.host.log_level {
            // SAFETY: `worker_ref` lives until `worker_stop`; the event is the one in `handle`, or NULL.
            Some(log_level) => unsafe { log_level(self.worker_ref, self.event.get()) },
            None => abi::LOG_DEBUG,
        }
    }

    pub(crate) fn log(&self, level: u32, message: &str, fields: &[(&str, Value<'_>)]) {
        let Some(log) = self.process.host.log else { return };
        let fields: Vec<abi::Field> = fields
            .iter()
            .map(|(name, value)| abi::Field {
                name: abi::Str::new(name.as_bytes()),
                value: raw_value(*value),
            })
            .collect();
        let message = abi::Str::new(message.as_bytes());
        // SAFETY: as in `log_level`; texts and fields live during the call, which is all the host asks for.
        unsafe { log(self.worker_ref, self.event.get(), level, message, fields.as_ptr(), fields.len()) }
    }
}

fn raw_value(value: Value<'_>) -> abi::Value {
    let text = |text: &[u8]| abi::ValueAs { text: abi::Str::new(text) };
    let (kind, value) = match value {
        Value::Text(value) => (abi::TEXT, text(value.as_bytes())),
        Value::Json(value) => (abi::JSON, text(value.as_bytes())),
        Value::Bytes(value) => (abi::BYTES, text(value)),
        Value::Int(value) => (abi::INT, abi::ValueAs { integer: value }),
        Value::Bool(value) => (abi::BOOL, abi::ValueAs { integer: value.into() }),
        Value::Float(value) => (abi::FLOAT, abi::ValueAs { real: value }),
        Value::Null => (abi::NULL, abi::ValueAs { integer: 0 }),
    };
    abi::Value { kind, reserved: 0, value }
}

/// The event in `handle`.
///
/// Invariant in `'e` (the last field), so that nobody can pass shorter-lived bytes off as the event's own.
#[derive(Clone, Copy)]
pub(crate) struct Frame<'e> {
    raw: &'e abi::Event,
    host: &'e abi::Host,
    serial: u64,
    invariant: PhantomData<fn(&'e ()) -> &'e ()>,
}

impl<'e> Frame<'e> {
    pub(crate) fn raw(&self) -> &'e abi::Event {
        self.raw
    }

    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    pub(crate) fn bytes(&self, pick: impl FnOnce(&abi::Event) -> abi::Str) -> &'e [u8] {
        // SAFETY: `nh_event` and all it points to are valid and unchanged during the call, and so during `'e`.
        unsafe { pick(self.raw).bytes() }
    }

    pub(crate) fn headers(&self) -> impl Iterator<Item = (&'e [u8], &'e [u8])> {
        // SAFETY: as in `bytes`.
        unsafe { pairs(self.raw.headers) }
    }

    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'e [u8], &'e [u8])> {
        let fields = match self.host.fields {
            // SAFETY: the event is in `handle`.
            Some(fields) => unsafe { fields(self.raw) },
            None => abi::Pairs::EMPTY,
        };
        // SAFETY: results of host functions live as long as the event.
        unsafe { pairs(fields) }
    }

    pub(crate) fn cancelled(&self) -> i32 {
        // SAFETY: the event is in `handle`.
        self.host.cancelled.map_or(0, |cancelled| unsafe { cancelled(self.raw) })
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let Some(read) = self.host.read else { return Err(std::io::ErrorKind::Unsupported.into()) };
        let mut bytes = 0;
        // SAFETY: the event is in `handle`, and the host writes no more than the buffer's length.
        match unsafe { read(self.raw, buffer.as_mut_ptr(), buffer.len(), &mut bytes) } {
            abi::OK => Ok(bytes),
            abi::END => Ok(0),
            _ => Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "no more of the body comes")),
        }
    }

    pub(crate) fn alloc(&self, len: usize) -> Option<&'e mut [u8]> {
        // SAFETY: the event is in `handle`.
        let memory = unsafe { self.host.alloc?(self.raw, len, 1) }.cast::<u8>();
        if memory.is_null() {
            return None;
        }
        // SAFETY: `len` fresh bytes that nobody else knows of, valid as long as the event, initialized here.
        unsafe {
            ptr::write_bytes(memory, 0, len);
            Some(std::slice::from_raw_parts_mut(memory, len))
        }
    }
}

/// # Safety
/// The pairs and what they point to stay valid and unchanged during `'a`.
unsafe fn pairs<'a>(pairs: abi::Pairs) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    // SAFETY: passed on to the caller, for the array and for each text.
    unsafe { pairs.pairs::<'a>() }.iter().map(|pair| unsafe { (pair.name.bytes(), pair.value.bytes()) })
}

/// What an answer points into until it is released.
struct Owner {
    body: Vec<u8>,
    content_type: Cow<'static, str>,
    /// Named by `pairs`.
    _headers: Vec<(Cow<'static, str>, Cow<'static, [u8]>)>,
    pairs: Vec<abi::Pair>,
    chunks: Option<Chunks>,
    /// Where a failing stream says why; used by `next` only.
    log: Option<abi::LogFn>,
    worker_ref: *mut c_void,
}

impl Owner {
    /// The client sees a cut connection only, so the reason goes to the log.
    fn log_failure(&self, text: &str) {
        let Some(log) = self.log else { return };
        let message = format!("streamed answer failed: {text}");
        let message = abi::Str::new(message.as_bytes());
        // SAFETY: streams are pulled before `worker_stop`; without an event any thread may log.
        unsafe { log(self.worker_ref, ptr::null(), abi::LOG_ERROR, message, ptr::null(), 0) }
    }
}

unsafe extern "C" fn start(
    host: *const abi::Host,
    config: *const abi::Config,
    plugin: *mut *mut c_void,
    _error: *mut abi::Response,
) -> abi::CallResult {
    // SAFETY: the host's structs, valid until `stop`; NULL functions and empty texts are valid in ours.
    let process = unsafe { Process { host: copy_sized(host), config: copy_sized(config) } };
    // SAFETY: the host's out parameter.
    unsafe { *plugin = Box::into_raw(Box::new(process)).cast() };
    abi::OK
}

unsafe extern "C" fn worker_start<H: Handler>(
    plugin: *mut c_void,
    config: *const abi::WorkerConfig,
    worker: *mut *mut c_void,
    error: *mut abi::Response,
) -> abi::CallResult {
    static WORKERS: AtomicU64 = AtomicU64::new(1);
    // SAFETY: `plugin` is what `start` made; workers only read it. `config` is valid during this call.
    let (process, config) = unsafe { (*plugin.cast::<Process>(), copy_sized(config)) };
    // SAFETY: as above.
    let text = |text: abi::Str| String::from_utf8_lossy(unsafe { text.bytes() }).into_owned();
    let serial = WORKERS.fetch_add(1, Ordering::Relaxed) << 40;
    let context = Context {
        trigger_kind: text(config.trigger_kind),
        trigger_name: text(config.trigger_name),
        worker_id: config.worker_id,
        home: Home {
            process,
            worker_ref: config.worker_ref,
            event: Cell::new(ptr::null()),
            serial: Cell::new(serial),
        },
    };
    let result = catch_unwind(AssertUnwindSafe(|| H::init(&context)));
    // SAFETY: the host's out parameters.
    unsafe {
        match result {
            Ok(Ok(handler)) => {
                *worker = Box::into_raw(Box::new(Worker { handler, context })).cast();
                abi::OK
            }
            Ok(Err(failure)) => fail(error, abi::ERROR, failure, &context.home),
            Err(panic) => fail(error, abi::PANIC, Error::new(panic_text(panic)), &context.home),
        }
    }
}

unsafe extern "C" fn handle<H: Handler>(
    worker: *mut c_void,
    event: *const abi::Event,
    response: *mut abi::Response,
) -> abi::CallResult {
    // SAFETY: `worker` is what `worker_start` made, and its calls come one at a time; the event lives during the call.
    let (Worker { handler, context }, raw) = unsafe { (&mut *worker.cast::<Worker<H>>(), &*event) };
    let home = &context.home;
    let serial = home.serial.get() + 1;
    home.serial.set(serial);
    home.event.set(event);
    let frame = Frame { raw, host: &home.process.host, serial, invariant: PhantomData };
    let result = catch_unwind(AssertUnwindSafe(|| handler.handle(context, Event::new(frame))));
    home.event.set(ptr::null());
    // SAFETY: the host's out parameter, zeroed except for its size.
    unsafe {
        match result {
            Ok(Ok(answer)) => fill(response, answer, home),
            Ok(Err(failure)) => fail(response, abi::ERROR, failure, home),
            Err(panic) => fail(response, abi::PANIC, Error::new(panic_text(panic)), home),
        }
    }
}

unsafe extern "C" fn handle_batch<H: Handler>(
    worker: *mut c_void,
    events: *const *const abi::Event,
    n: usize,
    responses: *const *mut abi::Response,
) -> abi::CallResult {
    // SAFETY: as in `handle`; the host's lists hold `n` events and `n` responses during the call.
    let (Worker { handler, context }, raw, responses) = unsafe {
        let lists = (std::slice::from_raw_parts(events, n), std::slice::from_raw_parts(responses, n));
        (&mut *worker.cast::<Worker<H>>(), lists.0, lists.1)
    };
    let home = &context.home;
    let before = home.serial.get();
    home.serial.set(before + n as u64);
    let frame = |(place, event): (usize, &*const abi::Event)| {
        // SAFETY: the host's events live during the call.
        let raw = unsafe { &**event };
        let serial = before + 1 + place as u64;
        Event::new(Frame { raw, host: &home.process.host, serial, invariant: PhantomData })
    };
    let events: Vec<Event<'_>> = raw.iter().enumerate().map(frame).collect();
    let result = catch_unwind(AssertUnwindSafe(|| handler.handle_batch(context, &events)));
    let answers = match result {
        Ok(answers) => answers,
        Err(panic) => {
            let error = Error::new(panic_text(panic));
            let Some(first) = responses.first() else { return abi::PANIC };
            // SAFETY: the host's out parameter, zeroed except for its size.
            return unsafe { fail(*first, abi::PANIC, error, home) };
        }
    };
    let missing = || Err(Error::new("the handler has no answer to this event of a batch"));
    let answers = answers.into_iter().chain(std::iter::repeat_with(missing));
    for (place, (response, answer)) in responses.iter().zip(answers).enumerate() {
        home.serial.set(before + 1 + place as u64); // The event whose bytes this answer may hold.
        // SAFETY: as above. One call has one result, so a failure is an answer with the status of one.
        unsafe {
            let result = match answer {
                Ok(answer) => fill(*response, answer, home),
                Err(error) => fail(*response, abi::ERROR, error, home),
            };
            let response = &mut **response;
            if result != abi::OK && response.status == 0 {
                response.status = 500;
            }
        }
    }
    home.serial.set(before + n as u64);
    abi::OK
}

unsafe extern "C" fn control<H: Handler>(worker: *mut c_void, what: u32) -> abi::CallResult {
    // SAFETY: as in `handle`.
    let Worker { handler, context } = unsafe { &mut *worker.cast::<Worker<H>>() };
    let control = match what {
        abi::DRAIN => Control::Drain,
        abi::CONTINUE => Control::Continue,
        abi::TERMINATE => Control::Terminate,
        _ => return abi::UNSUPPORTED,
    };
    match catch_unwind(AssertUnwindSafe(|| handler.control(context, control))) {
        Ok(()) => abi::OK,
        Err(panic) => {
            context.error(&panic_text(panic));
            abi::PANIC
        }
    }
}

unsafe extern "C" fn worker_stop<H: Handler>(worker: *mut c_void) {
    // SAFETY: what `worker_start` made; the host never uses it again.
    drop_quietly(unsafe { Box::from_raw(worker.cast::<Worker<H>>()) });
}

unsafe extern "C" fn stop(plugin: *mut c_void) {
    // SAFETY: what `start` made; the host never uses it again.
    drop(unsafe { Box::from_raw(plugin.cast::<Process>()) });
}

/// Writes an answer into the host's struct.
///
/// # Safety
/// `response` is the host's struct for the latest event of `home`, zeroed except for its size.
unsafe fn fill(response: *mut abi::Response, answer: Response, home: &Home) -> abi::CallResult {
    let Response { status, content_type, headers, body, no_ack } = answer;
    let mut owner = Owner {
        body: Vec::new(),
        content_type,
        pairs: raw_pairs(&headers),
        _headers: headers,
        chunks: None,
        log: home.process.host.log,
        worker_ref: home.worker_ref,
    };
    let mut shown = abi::Str::EMPTY;
    match body {
        Body::Empty => {}
        Body::Static(bytes) => shown = abi::Str::new(bytes),
        Body::Owned(bytes) => {
            owner.body = bytes;
            shown = abi::Str::new(&owner.body);
        }
        Body::Event(slice) => match slice.of_event(home.serial.get()) {
            Some((address, len)) => shown = abi::Str { ptr: ptr::with_exposed_provenance(address), len },
            None => {
                let error = Error::new("the answer holds bytes of another event");
                // SAFETY: passed on to the caller.
                return unsafe { fail(response, abi::ERROR, error, home) };
            }
        },
        Body::Stream(chunks) => owner.chunks = Some(chunks),
    }
    let streams = owner.chunks.is_some();
    let owned = streams
        || owner.body.capacity() > 0
        || !owner.pairs.is_empty()
        || matches!(owner.content_type, Cow::Owned(_));
    // SAFETY: passed on to the caller. What is pointed to is static, in the event, or in `owner`, whose heap memory
    // does not move with it.
    unsafe {
        let response = &mut *response;
        response.status = status;
        response.flags = (if no_ack { abi::RESPONSE_NO_ACK } else { 0 })
            | (if streams { abi::RESPONSE_STREAM } else { 0 });
        response.content_type = abi::Str::new(owner.content_type.as_bytes());
        response.headers = abi::Pairs::new(&owner.pairs);
        response.body = shown;
        if owned {
            response.release = Some(release);
            response.next = if streams { Some(next) } else { None };
            response.owner = Box::into_raw(Box::new(owner)).cast();
        }
    }
    abi::OK
}

fn raw_pairs(headers: &[(Cow<'static, str>, Cow<'static, [u8]>)]) -> Vec<abi::Pair> {
    headers
        .iter()
        .map(|(name, value)| abi::Pair { name: abi::Str::new(name.as_bytes()), value: abi::Str::new(value) })
        .collect()
}

/// Writes an error into the host's struct.
///
/// # Safety
/// `response` is the host's struct, zeroed except for its size.
unsafe fn fail(
    response: *mut abi::Response,
    result: abi::CallResult,
    error: Error,
    home: &Home,
) -> abi::CallResult {
    let status = error.status();
    let answer = Response::text(error.message().to_owned()).status(status);
    // SAFETY: passed on to the caller; there are no event bytes in this answer.
    unsafe { fill(response, answer, home) };
    result
}

unsafe extern "C" fn release(owner: *mut c_void) {
    // SAFETY: what `fill` made; the host calls this once and never uses it again.
    drop_quietly(unsafe { Box::from_raw(owner.cast::<Owner>()) });
}

unsafe extern "C" fn next(owner: *mut c_void, chunk: *mut abi::Str) -> abi::CallResult {
    // SAFETY: what `fill` made, not released yet; pulls come one at a time.
    let owner = unsafe { &mut *owner.cast::<Owner>() };
    let Some(chunks) = &mut owner.chunks else { return abi::END };
    match catch_unwind(AssertUnwindSafe(|| chunks.next())) {
        Ok(Some(Ok(bytes))) => {
            owner.body = bytes;
            // SAFETY: the host's out parameter; the bytes stay in `owner` until the next pull.
            unsafe { *chunk = abi::Str::new(&owner.body) };
            abi::OK
        }
        Ok(None) => abi::END,
        Ok(Some(Err(error))) => {
            owner.log_failure(error.message());
            abi::ERROR
        }
        Err(panic) => {
            owner.log_failure(&panic_text(panic));
            abi::PANIC
        }
    }
}

/// Drops a value of the user's; a panic in its destructor stays here.
fn drop_quietly<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        // A payload may panic when it is dropped.
        std::mem::forget(panic);
    }
}

/// The text of a panic.
fn panic_text(panic: Box<dyn Any + Send>) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => format!("Caught panic: {text}"),
        (_, Some(text)) => format!("Caught panic: {text}"),
        _ => "Caught panic".to_owned(),
    };
    drop_quietly(panic);
    text
}
