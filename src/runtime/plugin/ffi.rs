//! The calls into a plugin and the memory it hands out; [`host`] has the functions it calls back.
//!
//! All unsafe code of the plugin runtime is here. It relies on the ABI's contract (ownership in §5, threads in §6 of
//! its description) and on nothing a plugin could break without breaking the process anyway.
#![expect(unsafe_code, reason = "the C boundary: calls into libraries and pointers they hand out")]

mod host;

use std::ffi::{CStr, c_char, c_void};
use std::mem::{ManuallyDrop, size_of};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::ptr;

use libloading::os::unix;
use nuclio_handler::{abi, host as host_side};

pub(super) use host::Home;

use super::PluginConfig;
use super::crash;
use super::frame::Frame;

// SAFETY: the pointers of a frame lead into memory the frame owns, and to the flag of a caller who waits for the call;
// whoever holds the frame may use them from any thread. What is written through shared references is behind a lock.
unsafe impl Send for Frame {}
// SAFETY: as above.
unsafe impl Sync for Frame {}

/// A library in memory, for ever: neither Go nor thread-locals survive `dlclose`.
pub(super) struct Module {
    library: std::mem::ManuallyDrop<unix::Library>,
}

impl Module {
    /// Loads the library. Its constructors run now.
    pub(super) fn open(path: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: running the constructors of the user's handler is what we are for; they end before this returns.
        let library = unsafe { unix::Library::open(Some(path), unix::RTLD_NOW | unix::RTLD_LOCAL) }?;
        Ok(Self { library: std::mem::ManuallyDrop::new(library) })
    }

    /// The version of the ABI the library was built for; runs none of its code.
    pub(super) fn version(&self) -> Result<u32, libloading::Error> {
        // SAFETY: a symbol of this name is a `const uint32_t`.
        unsafe { Ok(**self.library.get::<*const u32>(abi::VERSION_SYMBOL)?) }
    }

    /// The library's table; where it is shorter than ours the rest is `None`.
    pub(super) fn table(&self) -> Result<Option<abi::Plugin>, libloading::Error> {
        type Entry = unsafe extern "C" fn() -> *const abi::Plugin;
        // SAFETY: a symbol of this name is a function of this type, returning a static table or NULL.
        unsafe {
            let table = self.library.get::<Entry>(abi::ENTRY_SYMBOL)?();
            Ok((!table.is_null()).then(|| abi::copy_sized(table)))
        }
    }
}

/// A static, NUL-terminated text of a table.
pub(super) fn static_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not NULL, and the ABI promises such a text.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// A started plugin, and what it was told.
pub(super) struct Instance {
    table: abi::Plugin,
    plugin: *mut c_void,
    /// The plugin may look at both until it is stopped.
    _raw_config: Box<abi::Config>,
    _config: Box<PluginConfig>,
}

// SAFETY: the ABI lets different workers, and so threads, use the plugin at the same time; our part is never written.
unsafe impl Send for Instance {}
// SAFETY: as above.
unsafe impl Sync for Instance {}

impl Instance {
    /// Calls `start`. `Err`: the code and what the plugin said.
    pub(super) fn start(table: abi::Plugin, config: PluginConfig) -> Result<Self, (abi::CallResult, Answer)> {
        let config = Box::new(config);
        let raw_config = Box::new(raw_config(&config));
        let (mut plugin, mut error) = (ptr::null_mut(), Answer::new());
        let result = match table.start {
            // SAFETY: the table is static and so is the code; host and config live as long as the instance.
            Some(start) => unsafe {
                start(&raw const host::HOST, &raw const *raw_config, &mut plugin, error.raw_mut())
            },
            None => abi::OK,
        };
        if result != abi::OK {
            return Err((result, error));
        }
        Ok(Self { table, plugin, _raw_config: raw_config, _config: config })
    }

    /// Whether it has `handle_batch`.
    pub(super) fn takes_batches(&self) -> bool {
        self.table.handle_batch.is_some()
    }

    /// Calls `worker_start`.
    pub(super) fn worker_start(
        &self,
        worker_id: i32,
        trigger: (&str, &str),
        home: &Home,
    ) -> Result<RawWorker, (abi::CallResult, Answer)> {
        let config = abi::WorkerConfig {
            size: size_of::<abi::WorkerConfig>() as u32,
            worker_id,
            trigger_kind: abi::Str::new(trigger.0.as_bytes()),
            trigger_name: abi::Str::new(trigger.1.as_bytes()),
            worker_ref: home.as_worker_ref(),
        };
        let (mut worker, mut error) = (ptr::null_mut(), Answer::new());
        let result = match self.table.worker_start {
            // SAFETY: `plugin` is started and not stopped; config and out parameters live during the call.
            Some(worker_start) => unsafe { worker_start(self.plugin, &config, &mut worker, error.raw_mut()) },
            None => abi::OK,
        };
        if result != abi::OK {
            return Err((result, error));
        }
        Ok(RawWorker { table: self.table, worker, _home: home.clone() })
    }

    /// Calls `stop`. All workers have stopped and all answers are released: they hold the library.
    pub(super) fn stop(self) {
        let _inside = crash::inside();
        if let Some(stop) = self.table.stop {
            // SAFETY: called once, last.
            unsafe { stop(self.plugin) }
        }
    }
}

fn raw_config(config: &PluginConfig) -> abi::Config {
    let text = |text: &str| abi::Str::new(text.as_bytes());
    abi::Config {
        size: size_of::<abi::Config>() as u32,
        reserved: 0,
        function_name: text(&config.function_name),
        namespace: text(&config.namespace),
        project: text(&config.project),
        platform_kind: text(config.platform_kind),
        handler: text(&config.handler),
        config_yaml: text(&config.config_yaml),
        function_version: config.function_version,
    }
}

/// A started worker of a plugin; stopped when it is dropped.
pub(super) struct RawWorker {
    table: abi::Plugin,
    worker: *mut c_void,
    /// The plugin knows its address.
    _home: Home,
}

// SAFETY: the ABI lets the calls of a worker come from changing threads, one at a time, which `&mut self` ensures.
unsafe impl Send for RawWorker {}

impl RawWorker {
    /// Calls `handle`.
    pub(super) fn handle(&mut self, event: &abi::Event) -> (abi::CallResult, Answer) {
        let mut answer = Answer::new();
        let Some(handle) = self.table.handle else { return (abi::UNSUPPORTED, answer) };
        // SAFETY: `worker` is started and not stopped; event and answer live during the call, and the frame around
        // the event stays until the answer is released.
        let result = unsafe { handle(self.worker, event, answer.raw_mut()) };
        (result, answer)
    }

    /// Calls `handle_batch`: one answer for each event, in the same order.
    pub(super) fn handle_batch(&mut self, frames: &[Box<Frame>]) -> (abi::CallResult, Vec<Answer>) {
        let mut answers: Vec<Answer> = frames.iter().map(|_| Answer::new()).collect();
        let Some(handle_batch) = self.table.handle_batch else { return (abi::UNSUPPORTED, answers) };
        let events: Vec<*const abi::Event> = frames.iter().map(|frame| ptr::from_ref(frame.raw())).collect();
        let responses: Vec<*mut abi::Response> =
            answers.iter_mut().map(|answer| ptr::from_mut(answer.raw_mut())).collect();
        // SAFETY: as in `handle`, for each event and each answer; both lists live during the call.
        let result = unsafe { handle_batch(self.worker, events.as_ptr(), events.len(), responses.as_ptr()) };
        (result, answers)
    }

    /// Calls `control`; a plugin without it has nothing to do.
    pub(super) fn control(&mut self, what: u32) -> abi::CallResult {
        match self.table.control {
            // SAFETY: as in `handle`.
            Some(control) => unsafe { control(self.worker, what) },
            None => abi::OK,
        }
    }
}

impl Drop for RawWorker {
    fn drop(&mut self) {
        let _inside = crash::inside();
        if let Some(worker_stop) = self.table.worker_stop {
            // SAFETY: called once, and nothing uses the worker afterwards.
            unsafe { worker_stop(self.worker) }
        }
    }
}

/// What a plugin wrote into a response; released exactly once, when it is dropped.
pub(super) struct Answer(ManuallyDrop<host_side::Answer>);

impl Answer {
    fn new() -> Self {
        Self(ManuallyDrop::new(host_side::Answer::new()))
    }
}

impl Deref for Answer {
    type Target = host_side::Answer;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Answer {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let _inside = crash::inside();
        // SAFETY: dropped here and nowhere else.
        unsafe { ManuallyDrop::drop(&mut self.0) }
    }
}

/// Ends the process as it is. A regular exit would run the destructors of libraries, and pull their static objects from
/// under calls that have not returned.
pub(super) fn leave(code: i32) -> ! {
    // SAFETY: has no preconditions; what is not written yet is lost, as the caller knows.
    unsafe { libc::_exit(code) }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, which plugins know deadlines by.
pub(super) fn monotonic_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into `now` only; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
