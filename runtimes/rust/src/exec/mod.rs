//! The executable form: a handler as a program of its own, one process per worker, over shim protocol 2.
//!
//! [`run`] is the whole program. It reads an event, calls the table as the processor does with a library, and writes the
//! answer with one call, all on the main thread. `frames` has the bytes, `event` shows a frame to the handler, `input`
//! is what comes while a handler runs, `host` what the handler may call, `process` what signals and forks mean.
//! The protocol is in `runtimes/README.md`.
#![expect(unsafe_code, reason = "the C boundary: calls the handler's table; signals and descriptors")]

mod event;
mod frames;
mod host;
mod input;
mod process;

use std::ffi::CStr;
use std::io::Write as _;
use std::mem::size_of;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::abi;
use crate::host::Answer;
use event::{BATCH, BATCH_END, Slot, Trigger};
use frames::{ABORT, END, Fault, Frame, Reader, Writer, kind, pairs};
use input::{Input, Shared, lock};
use process::{BUSY, ENDING, FORKED, listen_to_signals, watch_forks};

/// Version of the protocol.
const VERSION: u16 = 2;
/// Events that the processor may write ahead.
const PREFETCH: &str = "32";
/// Flags of ANSWER.
const MORE: u8 = 0x01;
const FAILED: u8 = 0x02;
const NO_ACK: u8 = 0x04;
const CANCELLED: u8 = 0x10;
/// Codes of FAILED.
const LOAD: u16 = 1;
const INIT: u16 = 2;
const PROTOCOL: u16 = 3;
const FATAL: u16 = 4;
/// How the processor answers for what a handler does not have.
const NOT_IMPLEMENTED: (u16, &[u8]) = (501, b"Not Implemented");
const ADVICE: &str = "This is a handler for the processor, which starts it by itself: give it this file as \
                      /opt/nuclio/handler.so or in NUCLIO_GOLANG_HANDLER_PLUGIN_PATH, with spec.runtime golang.\n";

/// Writes the `main` of a program for a type that implements [`Handler`](crate::Handler), so that one source is both
/// a library and an executable.
#[macro_export]
macro_rules! main {
    ($handler:ty) => {
        #[allow(dead_code, reason = "the same file may be a library, too")]
        fn main() -> std::process::ExitCode {
            $crate::exec::main::<$handler>()
        }
    };
}

/// The program of a handler type; see [`main!`](crate::main).
pub fn main<H: crate::Handler>() -> std::process::ExitCode {
    let code = run(crate::export::table::<H>());
    u8::try_from(code).map_or(std::process::ExitCode::FAILURE, Into::into)
}

/// `nh_main` of the header: the program of a handler in another language.
///
/// # Safety
/// `table` points to a table that lasts as long as the process and keeps the ABI.
#[cfg(feature = "nh-main")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nh_main(
    table: *const abi::Plugin,
    _argc: std::ffi::c_int,
    _argv: *mut *mut std::ffi::c_char,
) -> std::ffi::c_int {
    // SAFETY: passed on to the caller; a shorter table has no functions at its end.
    run(&unsafe { abi::copy_sized(table) })
}

/// Serves the processor that started this program, until it says that it is enough. Returns the exit code.
pub fn run(table: &abi::Plugin) -> i32 {
    let Some(socket) = connect() else {
        std::io::stderr().write_all(ADVICE.as_bytes()).unwrap_or_default(); // Nobody reads it then.
        return 2;
    };
    let Ok(other) = socket.try_clone() else { return 1 };
    watch_forks([&socket, &other]);
    listen_to_signals();
    let (mut reader, mut writer) = (Reader::new(socket), Writer::new(other));
    hello(&mut writer, table);
    let told = match reader.next(true) {
        Ok(Some(frame)) if frame.kind == kind::INIT && frame.code == VERSION => Told::read(&frame),
        Ok(_) => {
            writer.send(kind::FAILED, 0, PROTOCOL, 0, &[], b"INIT for protocol version 2 expected");
            return 1;
        }
        Err(_) => return 1, // Nobody is left who could be told.
    };
    reader.size_max = told.number("max_frame").unwrap_or(reader.size_max);
    let shared = host::share(Shared {
        level: told.number("log_level").unwrap_or(abi::LOG_DEBUG),
        input: Mutex::new(Input::new(reader)),
        writer: Mutex::new(writer),
        cancelled: AtomicI32::new(0),
    });
    match Program::start(table, &told, shared) {
        Ok(program) => program.serve(),
        Err((code, text)) => {
            lock(&shared.writer).send(kind::FAILED, 0, code, 0, &[], text.as_bytes());
            1
        }
    }
}

/// The connection to the processor: a descriptor that it left us, or a path for those who run us by hand.
#[expect(clippy::disallowed_methods, reason = "a program of its own: the processor's environment is another")]
fn connect() -> Option<UnixStream> {
    if let Ok(number) = std::env::var("NUCLIO_SHIM_FD") {
        let descriptor: RawFd = number.parse().ok()?;
        // SAFETY: the processor left this descriptor for us and nobody else in this process knows of it. What the
        // handler starts must not hold it.
        return unsafe {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
            Some(UnixStream::from_raw_fd(descriptor))
        };
    }
    UnixStream::connect(std::env::var_os("NUCLIO_SHIM_SOCKET")?).ok()
}

/// Nanoseconds of the clock that handlers know deadlines by.
fn monotonic_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes into `now` only; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn hello(writer: &mut Writer, table: &abi::Plugin) {
    let text = |text: *const std::ffi::c_char| match text.is_null() {
        true => String::new(),
        // SAFETY: not NULL, and the ABI promises a static text with a NUL at its end.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    };
    let mut capabilities = "cancel,client-gone,stream-out".to_owned();
    for (offered, name) in [
        (table.handle_batch.is_some(), ",batch"),
        (table.control.is_some(), ",control"),
        (table.features & abi::FEATURE_STREAM_BODY != 0, ",stream-in"),
    ] {
        capabilities.push_str(if offered { name } else { "" });
    }
    let table = [
        ("language", text(table.language)),
        ("version", format!("ABI {}.{}", table.abi_version >> 16, table.abi_version & 0xffff)),
        ("sdk", text(table.sdk_version)),
        ("protocol_min", VERSION.to_string()),
        ("protocol_max", VERSION.to_string()),
        ("capabilities", capabilities),
        ("max_inflight", "1".to_owned()),
        ("prefetch", PREFETCH.to_owned()),
        ("pid", std::process::id().to_string()),
    ];
    let table = table.map(|(name, value)| format!("{name}\0{value}")).join("\0");
    writer.prefix(b"NSH2");
    writer.send(kind::HELLO, 0, VERSION, 0, &[table.as_bytes()], &[]);
}

/// What INIT says. Lasts as long as the process, as the ABI asks for.
struct Told(&'static [(String, String)]);

impl Told {
    fn read(frame: &Frame) -> Self {
        Self(pairs(frame.head()).leak())
    }

    fn text(&self, name: &str) -> &'static str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.text(name).parse().ok()
    }

    fn raw(&self, name: &str) -> abi::Str {
        abi::Str::new(self.text(name).as_bytes())
    }

    fn config(&self) -> abi::Config {
        abi::Config {
            size: size_of::<abi::Config>() as u32,
            reserved: 0,
            function_name: self.raw("function_name"),
            namespace: self.raw("namespace"),
            project: self.raw("project"),
            platform_kind: self.raw("platform_kind"),
            handler: self.raw("handler"),
            config_yaml: self.raw("config_yaml"),
            function_version: self.number("function_version").unwrap_or_default(),
        }
    }

    fn triggers(&self) -> Vec<Trigger> {
        let part = |index: usize, part: &str| self.text(&format!("trigger.{index}.{part}")).to_owned();
        let trigger = |index| Trigger {
            class: part(index, "class"),
            kind: part(index, "kind"),
            name: part(index, "name"),
        };
        (0..self.number("triggers").unwrap_or(0)).map(trigger).collect()
    }
}

/// A started handler.
struct Program<'a> {
    table: &'a abi::Plugin,
    plugin: *mut std::ffi::c_void,
    worker: *mut std::ffi::c_void,
    shared: &'static Shared,
    triggers: Vec<Trigger>,
    /// Bytes that a stream may send before it is given credit.
    credit: u32,
    /// Ready for the next event.
    slot: Box<Slot>,
}

/// What a call of the handler came to.
enum Verdict {
    Answered,
    Failed(u16, Vec<u8>),
    /// The handler broke the contract.
    Broken(String),
}

/// Ends the loop, with this exit code.
type Served = Result<(), i32>;

impl<'a> Program<'a> {
    /// Starts plugin and worker. `Err`: what FAILED says.
    fn start(table: &'a abi::Plugin, told: &Told, shared: &'static Shared) -> Result<Self, (u16, String)> {
        let config: &'static abi::Config = Box::leak(Box::new(told.config()));
        let (mut plugin, mut worker, mut error) = (ptr::null_mut(), ptr::null_mut(), Answer::new());
        if let Some(start) = table.start {
            // SAFETY: host and configuration last as long as the process; the out parameters as long as the call.
            let code = unsafe { start(&raw const host::HOST, config, &mut plugin, error.raw_mut()) };
            if code != abi::OK {
                return Err((LOAD, error.failure_text(code)));
            }
        }
        let worker_config = abi::WorkerConfig {
            size: size_of::<abi::WorkerConfig>() as u32,
            worker_id: told.number("worker_id").unwrap_or_default(),
            trigger_kind: told.raw("trigger_kind"),
            trigger_name: told.raw("trigger_name"),
            worker_ref: ptr::from_ref(shared).cast_mut().cast(),
        };
        if let Some(worker_start) = table.worker_start {
            let mut error = Answer::new();
            // SAFETY: the plugin is started; configuration and out parameters live during the call.
            let code = unsafe { worker_start(plugin, &worker_config, &mut worker, error.raw_mut()) };
            if code != abi::OK {
                return Err((INIT, error.failure_text(code)));
            }
        }
        let stream_in = u8::from(table.features & abi::FEATURE_STREAM_BODY != 0);
        let ready = format!("handler_async\x000\0max_inflight\x001\0stream_in\0{stream_in}");
        lock(&shared.writer).send(kind::READY, 0, 0, 0, &[ready.as_bytes()], &[]);
        let credit = told.number("credit").unwrap_or_default();
        let slot = Box::default();
        Ok(Self { table, plugin, worker, shared, triggers: told.triggers(), credit, slot })
    }

    /// Handles events until there are no more. Returns the exit code.
    fn serve(mut self) -> i32 {
        let code = loop {
            BUSY.store(false, Ordering::SeqCst);
            if ENDING.load(Ordering::SeqCst) {
                break 0;
            }
            let work = self.shared.work();
            BUSY.store(true, Ordering::SeqCst);
            let served = work.and_then(|(frame, cancelled)| self.frame(frame, cancelled));
            if FORKED.load(Ordering::SeqCst) {
                // It came back from the handler as if the event were its own. There is nobody to answer.
                // SAFETY: ends the process, whatever its state is.
                unsafe { libc::_exit(0) }
            }
            match served {
                Ok(Ok(())) => {}
                Ok(Err(code)) => break code,
                Err(Fault::End) => break 0,
                Err(Fault::Protocol(text)) => {
                    self.failed(PROTOCOL, &text);
                    break 1;
                }
            }
        };
        if code == 0 {
            // SAFETY: called once each, last; no answer is left.
            unsafe {
                self.table.worker_stop.inspect(|worker_stop| worker_stop(self.worker));
                self.table.stop.inspect(|stop| stop(self.plugin));
            }
        }
        code
    }

    fn frame(&mut self, frame: Frame, cancelled: i32) -> Result<Served, Fault> {
        if frame.kind == kind::CONTROL {
            self.control(&frame);
            return Ok(Ok(()));
        }
        if frame.flags & BATCH != 0 {
            return self.batch(frame, cancelled);
        }
        if cancelled != 0 {
            // Nobody waits for it, and it has not begun.
            lock(&self.shared.writer).send(kind::ANSWER, CANCELLED, 0, frame.id, &[&[0; 8]], &[]);
            return Ok(Ok(()));
        }
        let mut slot = std::mem::take(&mut self.slot);
        slot.load(frame, &self.triggers, monotonic_ns())?;
        let served = self.event(&slot);
        let frame = slot.unload();
        lock(&self.shared.input).reader.recycle(frame);
        self.slot = slot;
        Ok(served)
    }

    /// Calls the handler with one event and answers.
    fn event(&mut self, slot: &Slot) -> Served {
        let id = slot.id();
        self.shared.open(id, self.credit, slot.has_more(), 0);
        let (mut answer, begun) = (Answer::new(), Instant::now());
        let code = match self.table.handle {
            // SAFETY: the worker is started; event and answer live during the call, and the slot until the answer is
            // released.
            Some(handle) => unsafe { handle(self.worker, &raw const slot.raw, answer.raw_mut()) },
            None => abi::UNSUPPORTED,
        };
        let took = begun.elapsed();
        let verdict = verdict(code, &answer, &answer);
        if code == abi::PANIC {
            self.log_error(answer.body());
        }
        if matches!(verdict, Verdict::Answered) && answer.has(abi::RESPONSE_STREAM) {
            self.stream(id, &mut answer, took);
            self.shared.close();
            return Ok(());
        }
        self.shared.close();
        self.answer(id, &answer, &verdict, took);
        self.finish();
        self.unbroken(&verdict)
    }

    /// The run of events that begins with this one, in one call.
    fn batch(&mut self, first: Frame, cancelled: i32) -> Result<Served, Fault> {
        let mut slots: Vec<Box<Slot>> = Vec::new();
        let mut next = first;
        loop {
            let last = next.flags & BATCH_END != 0;
            let mut slot = Box::<Slot>::default();
            slot.load(next, &self.triggers, monotonic_ns())?;
            slots.push(slot);
            if last {
                break;
            }
            next = self.shared.work()?.0;
            if next.kind != kind::EVENT || next.flags & BATCH == 0 {
                return Err(Fault::Protocol("a batch was interrupted".to_owned()));
            }
        }
        self.shared.open(slots[0].id(), 0, false, cancelled);
        let mut answers: Vec<Answer> = slots.iter().map(|_| Answer::new()).collect();
        let begun = Instant::now();
        let code = match self.table.handle_batch {
            Some(handle_batch) => {
                let events: Vec<*const abi::Event> = slots.iter().map(|slot| &raw const slot.raw).collect();
                let responses: Vec<*mut abi::Response> =
                    answers.iter_mut().map(|answer| ptr::from_mut(answer.raw_mut())).collect();
                // SAFETY: as in `event`, for each event and each answer; both lists live during the call.
                unsafe { handle_batch(self.worker, events.as_ptr(), events.len(), responses.as_ptr()) }
            }
            None => abi::UNSUPPORTED,
        };
        let took = begun.elapsed();
        self.shared.close();
        if code == abi::PANIC {
            self.log_error(answers[0].body());
        }
        let fault = answers.iter().find_map(Answer::fault);
        let mut broken = None;
        for (slot, answer) in slots.iter().zip(&answers) {
            let mut verdict = match fault {
                Some(fault) => of_fault(fault),
                None => verdict(code, answer, &answers[0]),
            };
            if matches!(verdict, Verdict::Answered) && answer.has(abi::RESPONSE_STREAM) {
                let text = b"the handler answered an event of a batch with a stream";
                verdict = Verdict::Failed(0, text.to_vec());
            }
            self.answer(slot.id(), answer, &verdict, took);
            broken = Some(verdict).filter(|verdict| matches!(verdict, Verdict::Broken(_))).or(broken);
        }
        self.finish();
        Ok(broken.map_or(Ok(()), |verdict| self.unbroken(&verdict)))
    }

    /// Adds an answer to what goes out.
    fn answer(&self, id: u32, answer: &Answer, verdict: &Verdict, took: Duration) {
        let mut writer = lock(&self.shared.writer);
        match verdict {
            Verdict::Answered => {
                let flags = if answer.has(abi::RESPONSE_NO_ACK) { NO_ACK } else { 0 };
                writer.add(kind::ANSWER, flags, answer.status(), id, &[&head(answer, took)], answer.body());
            }
            Verdict::Failed(status, text) => {
                writer.add(kind::ANSWER, FAILED, *status, id, &[&head(&Answer::new(), took)], text);
            }
            Verdict::Broken(text) => {
                writer.add(kind::ANSWER, FAILED, 0, id, &[&head(&Answer::new(), took)], text.as_bytes());
            }
        }
    }

    /// Sends the answers.
    fn finish(&self) {
        let mut writer = lock(&self.shared.writer);
        writer.flush();
        writer.busy = false;
    }

    /// A handler that broke the contract gets no further event.
    fn unbroken(&self, verdict: &Verdict) -> Served {
        let Verdict::Broken(text) = verdict else { return Ok(()) };
        self.failed(FATAL, text);
        Err(1)
    }

    /// Sends a stream piece by piece, as fast as the client takes it.
    fn stream(&self, id: u32, answer: &mut Answer, took: Duration) {
        let flags = MORE | if answer.has(abi::RESPONSE_NO_ACK) { NO_ACK } else { 0 };
        let head = head(answer, took);
        lock(&self.shared.writer).add(kind::ANSWER, flags, answer.status(), id, &[&head], &[]);
        self.finish();
        let (flag, text) = self.pieces(id, answer);
        lock(&self.shared.writer).send(kind::DATA, flag, 0, id, &[], text.as_bytes());
    }

    /// How the stream ended.
    fn pieces(&self, id: u32, answer: &mut Answer) -> (u8, String) {
        loop {
            self.shared.look();
            if self.shared.cancelled.load(Ordering::Relaxed) != 0 {
                return (ABORT, "cancelled".to_owned());
            }
            let mut piece = match answer.pull() {
                (abi::OK, Some(piece)) => piece,
                (abi::OK, None) => {
                    return (ABORT, "the handler's stream gave a piece at address 0".to_owned());
                }
                (abi::END, _) => return (END, String::new()),
                (code, _) => return (ABORT, format!("the handler's stream failed with {code}")),
            };
            while !piece.is_empty() {
                let Some(bytes) = self.shared.credit(piece.len()) else {
                    return (ABORT, "cancelled".to_owned());
                };
                let (now, later) = piece.split_at(bytes);
                lock(&self.shared.writer).send(kind::DATA, 0, 0, id, &[], now);
                piece = later;
            }
        }
    }

    /// Tells the handler; returning is its acknowledgement. One without a callback agrees.
    fn control(&self, frame: &Frame) {
        // SAFETY: the worker is started, and no event is in work.
        let code = self.table.control.map(|control| unsafe { control(self.worker, frame.code.into()) });
        let (failed, text) = match code {
            None | Some(abi::OK | abi::UNSUPPORTED) => (0, String::new()),
            Some(code) => (1, format!("the handler's control callback returned {code}")),
        };
        lock(&self.shared.writer).send(kind::CONTROL_DONE, 0, failed, frame.id, &[], text.as_bytes());
    }

    fn log_error(&self, text: &[u8]) {
        lock(&self.shared.writer).log(
            abi::LOG_ERROR,
            0,
            &String::from_utf8_lossy(text).into_owned().into_bytes(),
            &[],
        );
    }

    fn failed(&self, code: u16, text: &str) {
        lock(&self.shared.writer).send(kind::FAILED, 0, code, 0, &[], text.as_bytes());
    }
}

/// What a result means for an event; what failed without words says what the first of its batch does.
fn verdict(code: abi::CallResult, answer: &Answer, first: &Answer) -> Verdict {
    if let Some(fault) = answer.fault() {
        return of_fault(fault);
    }
    let answer = if answer.is_empty() { first } else { answer };
    match code {
        abi::OK => Verdict::Answered,
        abi::ERROR => Verdict::Failed(answer.status(), answer.body().to_vec()),
        abi::PANIC => Verdict::Failed(0, answer.body().to_vec()),
        abi::UNSUPPORTED => Verdict::Failed(NOT_IMPLEMENTED.0, NOT_IMPLEMENTED.1.to_vec()),
        code => Verdict::Broken(format!("the handler returned {code}, which is no result of the ABI")),
    }
}

fn of_fault(fault: &str) -> Verdict {
    Verdict::Broken(format!("the handler answered with {fault}"))
}

/// The head of ANSWER.
fn head(answer: &Answer, took: Duration) -> Vec<u8> {
    let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
    let mut head = Vec::with_capacity(64);
    head.extend_from_slice(&micros.to_le_bytes());
    head.extend_from_slice(&[0; 4]);
    let put = |head: &mut Vec<u8>, text: &[u8]| head.extend_from_slice(text);
    let whole = |text: &[u8]| !text.contains(&0); // No header may hold a NUL.
    put(&mut head, if whole(answer.content_type()) { answer.content_type() } else { b"" });
    let mut count: u16 = 0;
    for (name, value) in answer.headers().filter(|(name, value)| whole(name) && whole(value)) {
        let Some(next) = count.checked_add(1) else { break };
        count = next;
        put(&mut head, b"\0");
        put(&mut head, name);
        put(&mut head, b"\0");
        put(&mut head, value);
    }
    head[4..6].copy_from_slice(&count.to_le_bytes());
    head
}

#[cfg(test)]
mod tests;
