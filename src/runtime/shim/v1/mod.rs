//! Workers behind a wrapper of the Go processor, over shim protocol 1.
//!
//! A worker is a process with one connection for events (`lane`) or, in the wrapper's async mode, many, and, for
//! Python, one for everything else. Each connection has at most one event in work: it is what the queue lends.
//! `crew` is the task that owns the process's connections; `start` makes them. Languages differ by a [`Dialect`].

mod complaints;
mod crew;
mod lane;
pub mod lines;
mod socket;
pub(super) mod start;
mod transit;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::desk::Desk;
use super::protocol::v1::event::Encoding;
use super::protocol::v1::line::Log;
use crate::config::{Config, Level};
use crate::logging::{Fields, Logger, Origin};
use crate::queue::Queue;
use crate::runtime::StartError;
use complaints::Complaints;
use transit::Transit;

/// What stands beside the Python wrapper since its second generation.
const COMMON_FILE: &str = "wrapper_common.py";
/// The Python wrapper's async form, by its names so far.
const ASYNC_FILES: [&str; 2] = ["_nuclio_async_wrapper.py", "_nuclio_wrapper_as_server.py"];
/// Words that stand there since generators are answered piece by piece.
const STREAM_WORDS: [&str; 3] = ["generator", "GENERATOR", "PacketType"];
/// What a wrapper logs when its connection ends, though it was told to end.
const COMPLAINT: &str = "Exception caught while serving";
/// The message that a wrapper logs once it knows what a signal asks for.
const SIGNAL_MESSAGE: &str = "Received signal";
/// How the message ends that an async wrapper logs when it is through with a connection. It does not always close it.
const CONNECTION_MESSAGE: &str = " removed from tracking";
/// The message that a wrapper logs right before a callback.
const CALLBACK_MESSAGES: [&str; 2] =
    ["Calling platform termination handler", "Calling platform drain handler"];

/// A wrapper file of the Go processor, and what is known about it.
#[derive(Debug, Clone)]
pub struct Wrapper {
    /// How it is driven.
    pub dialect: &'static Dialect,
    /// The file.
    pub path: PathBuf,
    /// Its async form, which serves many events at once.
    pub async_path: Option<PathBuf>,
    /// Of 1.15 or newer: reports durations after answers.
    pub newer: bool,
    /// Answers generators piece by piece. It says nothing at all where a generator is empty.
    pub streams: bool,
}

impl Wrapper {
    /// Looks at what stands beside the file.
    pub fn find(path: &Path, dialect: &'static Dialect) -> Self {
        let folder = path.parent().unwrap_or(Path::new(""));
        let common = std::fs::read_to_string(folder.join(COMMON_FILE)).ok();
        let async_path = ASYNC_FILES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
        Self {
            dialect,
            path: path.to_owned(),
            async_path: async_path.filter(|_| common.is_some()),
            newer: common.is_some(),
            streams: common.is_some_and(|text| STREAM_WORDS.iter().any(|word| text.contains(word))),
        }
    }
}

impl Wrapper {
    /// For the log: which releases had it.
    pub fn generation(&self) -> &'static str {
        match (self.newer, self.dialect.control) {
            (true, _) => "1.15 and newer",
            (false, true) => "up to 1.14",
            (false, false) => "any", // They have not changed.
        }
    }
}

/// What differs between languages on protocol 1.
#[derive(Debug)]
pub struct Dialect {
    /// How events are written.
    pub encoding: Encoding,
    /// Options of the interpreter that the configuration asks for, or the wrapper needs.
    pub options: fn(&Config) -> Result<Vec<OsString>, StartError>,
    /// Arguments after those, with the wrapper's file among them.
    pub arguments: fn(&Arguments<'_>) -> Result<Vec<OsString>, StartError>,
    /// Added to the child's environment.
    pub environment: &'static [(&'static str, &'static str)],
    /// What the wrapper connects over.
    pub transport: Transport,
    /// It has a connection for control messages, and callbacks that signals ask for. Without: it is told nothing.
    pub control: bool,
    /// `None`: it says when it is ready. Else it is taken for ready this long after it connected, if it has not said
    /// so before.
    pub notice_within: Option<Duration>,
    /// It ends by itself when its connection ends; else it takes a signal.
    pub ends_with_connection: bool,
}

/// How a wrapper connects to the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A socket with a path.
    Unix,
    /// TCP over the loopback interface.
    Tcp,
}

/// What a wrapper's arguments are made of.
pub struct Arguments<'a> {
    /// The wrapper.
    pub file: &'a Path,
    /// Path of the event socket, or address to connect to or listen on.
    pub event: &'a str,
    /// Path of the control socket; empty where there is none.
    pub control: &'a str,
    /// Settings by the names of INIT.
    pub setting: &'a dyn Fn(&str) -> String,
}

/// What the lanes of one worker share.
struct Shared {
    /// Place of the worker in the pool.
    index: usize,
    event_timeout: Option<Duration>,
    answer_bytes_max: usize,
    encoding: Encoding,
    wrapper: Wrapper,
    /// Many connections; `None`: one.
    transit: Option<Arc<Transit>>,
    queue: Arc<Queue<Desk>>,
    logger: Logger,
    /// Lanes that wait for an event.
    idle: AtomicUsize,
    /// Told when the last idle lane got an event.
    none_idle: Notify,
    /// What the wrapper does wrong.
    complaints: Complaints,
    /// The wrapper is being ended.
    closing: AtomicBool,
    /// The wrapper has said that it has its signal.
    signal_seen: AtomicBool,
    /// The async wrapper has said that it is through with a connection, and so with a callback.
    callback_ended: AtomicBool,
    /// The wrapper has said that a callback is about to run.
    callback_begun: AtomicBool,
    /// Milliseconds from `started` to the last record of the wrapper.
    last_record: AtomicU64,
    started: Instant,
}

impl Shared {
    /// A record of the wrapper's goes where records go.
    fn record(&self, log: Log, origin: Origin<'_>) {
        self.last_record.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        if log.message == SIGNAL_MESSAGE {
            self.signal_seen.store(true, Ordering::Relaxed);
        }
        if log.message.ends_with(CONNECTION_MESSAGE) {
            let begun = self.callback_begun.load(Ordering::Relaxed);
            self.callback_ended.store(begun, Ordering::Relaxed);
        }
        if CALLBACK_MESSAGES.contains(&log.message.as_str()) {
            self.callback_begun.store(true, Ordering::Relaxed);
        }
        let complains = log.message == COMPLAINT && self.closing.load(Ordering::Relaxed);
        if self.logger.wants(log.level, origin.buffer) && !complains {
            self.logger.record_of(origin, log.level, &log.message, log.fields);
        }
    }

    /// The wrapper does something that helps nobody; its worker serves on.
    fn complain(&self, level: Level, message: &'static str, fields: impl FnOnce() -> Fields) {
        self.complaints.say(&self.logger, level, message, fields);
    }

    /// How long the wrapper has logged nothing.
    fn silent_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_record.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }
}
