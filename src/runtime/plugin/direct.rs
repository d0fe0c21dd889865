//! [`Direct`]: a plugin's worker called on the caller's thread, and what its answers become.
//!
//! An event goes in, its answer comes out; where the answer's bytes stay in the plugin's or the event's memory, the
//! answer keeps that memory. Nothing here decides what becomes of a broken worker.

mod batch;

use std::sync::Arc;
use std::sync::atomic::AtomicU8;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use nuclio_handler::abi;

use super::crash;
use super::ffi::{self, Answer, Home, RawWorker};
use super::frame::Frame;
use super::{CallOutcome, Library, Pull};
use crate::config::Level;
use crate::event::{
    Deadline, Event, HandlerError, HeaderFault, Response, WorkerId, append_header, header_value,
};
use crate::logging::{Fields, Logger};
use crate::runtime::StartError;

/// Answers up to this size are copied: as many allocations as keeping them, and the plugin's and the event's memory
/// is free at once, on the thread that made it.
const COPIED_BODY_BYTES_MAX: usize = 1024;

/// A started worker; dropping it stops it.
#[repr(align(128))] // Each is written to at each call, and they are made one after the other.
pub(super) struct Direct {
    plugin: RawWorker,
    /// Ready for the next event; `None` while an answer keeps the last one.
    frame: Option<Box<Frame>>,
    home: Home,
    clock: Clock,
    library: Arc<Library>,
}

impl Direct {
    /// Starts a worker: runs the handler's own initialization.
    pub(super) fn start(library: Arc<Library>, id: &WorkerId, logger: Logger) -> Result<Self, StartError> {
        let home = Home::new(logger);
        let index = i32::try_from(id.index).unwrap_or(i32::MAX);
        let trigger = (id.trigger_kind.as_str(), id.trigger_name.as_str());
        let _inside = crash::inside();
        let plugin = library.instance.worker_start(index, trigger, &home).map_err(|(code, answer)| {
            let found = format!("worker {index} of {} failed to start", library.path.display());
            StartError::new(found, answer.failure_text(code))
        })?;
        Ok(Self { plugin, frame: None, home, clock: Clock::now(), library })
    }

    /// Calls the handler and waits for it.
    pub(super) fn call(
        &mut self,
        event: Box<Event>,
        cancelled: &AtomicU8,
        deadline: Deadline,
    ) -> CallOutcome {
        let mut frame = self.frame.take().unwrap_or_default();
        frame.load(event, self.clock.nanoseconds(deadline), cancelled);
        let inside = crash::inside();
        let (code, answer) = self.plugin.handle(frame.raw());
        drop(inside);
        frame.end_reading();
        let outcome = match (answer.fault(), code) {
            (Some(fault), _) => self.broken(&format!("the handler answered with {fault}")),
            (None, abi::OK) => match self.head(&answer) {
                Ok(head) => return self.answered(head, answer, frame),
                Err(error) => CallOutcome::Failed(error),
            },
            (None, code) => self.failure(code, &answer),
        };
        drop(answer);
        self.keep(frame);
        outcome
    }

    /// Calls the control callback. Handlers without one agree.
    pub(super) fn control(&mut self, what: u32) -> Result<(), HandlerError> {
        let _inside = crash::inside();
        match self.plugin.control(what) {
            abi::OK => Ok(()),
            abi::UNSUPPORTED => Err(HandlerError::Unsupported),
            code => Err(HandlerError::failed(format!("the handler's control callback returned {code}"))),
        }
    }

    fn answered(&mut self, mut head: Response, answer: Answer, frame: Box<Frame>) -> CallOutcome {
        if answer.has(abi::RESPONSE_STREAM) {
            let library = Arc::clone(&self.library);
            let pulled = Pulled { answer, _frame: frame, _library: library, ended: false };
            return CallOutcome::Stream { head, pull: Pull::new(pulled) };
        }
        let (body, emptied) = self.body(answer, frame);
        head.body = body.into();
        if head.headers.is_empty() {
            head.headers = emptied; // The trigger's headers go there, which needs no new memory.
        }
        CallOutcome::Answer(head)
    }

    /// Status, content type and headers of an answer.
    fn head(&self, answer: &Answer) -> Result<Response, HandlerError> {
        let mut head = Response {
            status: checked_status(answer)?,
            no_ack: answer.has(abi::RESPONSE_NO_ACK),
            ..Response::default()
        };
        if !answer.content_type().is_empty() {
            match header_value(answer.content_type()) {
                Ok(value) => head.content_type = Some(value),
                Err(fault) => self.warn_of_header(b"Content-Type", fault),
            }
        }
        for (name, value) in answer.headers() {
            if let Err(fault) = append_header(&mut head.headers, name, value) {
                self.warn_of_header(name, fault);
            }
        }
        Ok(head)
    }

    /// The body, with the memory it needs; and the event's map of headers, empty, if the body does not need the event.
    fn body(&mut self, answer: Answer, frame: Box<Frame>) -> (Bytes, HeaderMap) {
        let body = answer.body();
        if body.len() <= COPIED_BODY_BYTES_MAX {
            let body = Bytes::copy_from_slice(body);
            drop(answer);
            return (body, self.keep(frame));
        }
        // What is released later may point into the event, and may be looked at by `release`; without `release` the
        // bytes are the event's or static.
        let (frame, emptied) = if answer.is_owned() || frame.holds(body) {
            (Some(frame), HeaderMap::new())
        } else {
            (None, self.keep(frame))
        };
        let kept = Kept { answer, _frame: frame, _library: Arc::clone(&self.library) };
        (Bytes::from_owner(kept), emptied)
    }

    /// Drops the event but for its map of headers, which comes back empty, and keeps its buffers for the next one.
    fn keep(&mut self, mut frame: Box<Frame>) -> HeaderMap {
        let emptied = frame.clear();
        self.frame = Some(frame);
        emptied
    }

    fn failure(&self, code: abi::CallResult, answer: &Answer) -> CallOutcome {
        let message = String::from_utf8_lossy(answer.body()).into_owned();
        match code {
            abi::ERROR => match checked_status(answer) {
                Ok(status) => CallOutcome::Failed(HandlerError::Failed {
                    status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                    message,
                }),
                Err(error) => CallOutcome::Failed(error),
            },
            abi::PANIC => {
                self.home.logger().record(Level::Error, &message, Fields::new(), None);
                CallOutcome::Failed(HandlerError::failed(message))
            }
            abi::UNSUPPORTED => CallOutcome::Failed(HandlerError::Unsupported),
            code => self.broken(&format!("the handler returned {code}, which is no result of the ABI")),
        }
    }

    fn broken(&self, message: &str) -> CallOutcome {
        self.home.logger().record(Level::Error, message, Fields::new(), None);
        CallOutcome::Broken(HandlerError::Lost(message.to_owned()))
    }

    fn warn_of_header(&self, name: &[u8], fault: HeaderFault) {
        let mut fields = Fields::new();
        fields.insert("header".into(), String::from_utf8_lossy(name).into());
        fields.insert("reason".into(), fault.to_string().into());
        self.home.logger().record(Level::Warn, "Dropped a header of the answer", fields, None);
    }
}

/// 0 and 100 to 999 pass.
fn checked_status(answer: &Answer) -> Result<u16, HandlerError> {
    match answer.status() {
        status @ (0 | 100..=999) => Ok(status),
        status => {
            let message =
                format!("the handler answered with status {status}, which is not between 100 and 999");
            Err(HandlerError::failed(message))
        }
    }
}

/// Bytes of an answer and what they live in. Released in the order of the fields.
struct Kept {
    answer: Answer,
    _frame: Option<Box<Frame>>,
    _library: Arc<Library>,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.answer.body()
    }
}

/// The body of a streamed answer.
pub(super) struct Pulled {
    // Released in the order of the fields.
    answer: Answer,
    _frame: Box<Frame>,
    _library: Arc<Library>,
    ended: bool,
}

impl Pulled {
    /// The next piece; `None` at the end, and after an error.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, HandlerError> {
        if self.ended {
            return Ok(None);
        }
        let inside = crash::inside();
        let (code, chunk) = self.answer.pull();
        drop(inside);
        match (code, chunk) {
            (abi::OK, Some(chunk)) => return Ok(Some(Bytes::copy_from_slice(chunk))),
            _ => self.ended = true,
        }
        match code {
            abi::END => Ok(None),
            abi::OK => Err(HandlerError::Lost("the handler's stream gave a piece at address 0".into())),
            code => Err(HandlerError::Lost(format!("the handler's stream failed with {code}"))),
        }
    }
}

/// One moment on both clocks, so that a deadline costs no system call.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    monotonic_ns: i64,
}

impl Clock {
    fn now() -> Self {
        Self { instant: Instant::now(), monotonic_ns: ffi::monotonic_ns() }
    }

    /// A deadline as plugins know it; 0 for none.
    fn nanoseconds(self, deadline: Deadline) -> i64 {
        let Some(deadline) = deadline else { return 0 };
        let whole = |nanos: u128| i64::try_from(nanos).unwrap_or(i64::MAX);
        match deadline.checked_duration_since(self.instant) {
            Some(after) => self.monotonic_ns.saturating_add(whole(after.as_nanos())),
            None => self.monotonic_ns.saturating_sub(whole((self.instant - deadline).as_nanos())),
        }
    }
}
