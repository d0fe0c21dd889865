//! Handlers for the processor in Rust: implement [`Handler`], name the type in [`export_handler!`], build a `cdylib`.
//!
//! ```
//! use nuclio_handler::{Context, Error, Event, Handler, Response, export_handler};
//!
//! struct Hello;
//!
//! impl Handler for Hello {
//!     fn init(_context: &Context) -> Result<Self, Error> {
//!         Ok(Self)
//!     }
//!
//!     fn handle(&mut self, context: &Context, event: Event<'_>) -> Result<Response, Error> {
//!         context.info("called");
//!         Ok(Response::text(format!("Hello, {}!", event.path_text())))
//!     }
//! }
//!
//! export_handler!(Hello);
//! ```
//!
//! Modules in reading order: what an event is, what an answer is, what a handler may ask for, how it all crosses the
//! boundary ([`export`]), and the boundary itself ([`abi`], which the processor shares). With the feature `exec` a handler
//! can be a program, too: see `main!`. Only what is beyond the boundary holds unsafe code.

pub mod abi;
mod context;
mod event;
#[cfg(feature = "exec")]
pub mod exec;
pub mod export;
#[cfg(feature = "host")]
#[doc(hidden)]
pub mod host;
mod response;

pub use context::{Context, Level, Value};
pub use event::{BodyReader, Cancelled, Event};
pub use response::{Body, Chunks, EventSlice, HeaderValue, Response};

/// The function: one value per worker, called with one event at a time.
pub trait Handler: Sized + Send + 'static {
    /// All calls of one worker come from one thread. Costs a hand-over between threads per event.
    const FIXED_THREAD: bool = false;
    /// `handle` returns within about 100 µs and never blocks. A hint.
    const SHORT: bool = false;
    /// [`Handler::handle_batch`] answers the events of a trigger that gathers batches. Without it such a trigger answers
    /// each of its events with 501.
    const BATCHES: bool = false;
    /// Large bodies and those of unknown length are not gathered first: `handle` reads them with
    /// [`Event::reader`] while they arrive.
    const STREAMS_BODY: bool = false;

    /// Called once per worker, before its first event. An error stops the processor's start.
    fn init(context: &Context) -> Result<Self, Error>;

    /// Answers one event. A panic is caught and answered as a failure; the value is used for the next event as the
    /// panic left it.
    fn handle(&mut self, context: &Context, event: Event<'_>) -> Result<Response, Error>;

    /// Answers the events of a batch, each in its place of the list; an event whose place is not there fails. A panic is
    /// caught and fails them all. Called only if [`Handler::BATCHES`] says so; unless overridden it handles one after
    /// the other. A stream cannot answer an event of a batch.
    fn handle_batch(&mut self, context: &Context, events: &[Event<'_>]) -> Vec<Result<Response, Error>> {
        events.iter().map(|event| self.handle(context, *event)).collect()
    }

    /// The processor drains, continues or ends; called between events. Returning is the acknowledgement.
    fn control(&mut self, context: &Context, control: Control) {
        let _ = (context, control);
    }
}

/// What [`Handler::control`] is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// No new work comes from streams.
    Drain,
    /// Work comes again.
    Continue,
    /// The worker ends soon.
    Terminate,
}

/// Why a handler has no answer: a status for the client and a text.
///
/// Every `std::error::Error` turns into one with status 500, so `?` works on all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    status: u16,
    message: String,
}

impl Error {
    /// Answered with status 500.
    pub fn new(message: impl Into<String>) -> Self {
        Self { status: 0, message: message.into() }
    }

    /// Answered with `status`, which should be between 100 and 999.
    pub fn with_status(status: u16, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The status; 0 stands for 500.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The text.
    pub fn message(&self) -> &str {
        &self.message
    }
}

// `Error` itself is no `std::error::Error`: the blanket conversion would overlap with `From<T> for T`.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::new(error.to_string())
    }
}
