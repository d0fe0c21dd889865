//! [`Worker`]: one worker of a plugin, called on the caller's thread or, where the plugin asks for it, on its own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use bytes::Bytes;
use nuclio_handler::abi;

use super::Library;
use super::direct::{Direct, Pulled};
use super::fixed::{Jobs, Thread};
use crate::event::{Deadline, Event, HandlerError, Response, WorkerId};
use crate::logging::Logger;
use crate::runtime::StartError;

/// One worker of a plugin. One call at a time, from any thread; dropping it stops it. A worker whose call does not
/// return is never dropped, so the plugin never sees it stopped.
pub struct Worker {
    place: Place,
}

/// Where calls run.
enum Place {
    Direct(Box<Direct>),
    Fixed(Thread),
}

/// What became of an event.
#[derive(Debug)]
pub enum CallOutcome {
    /// The handler's answer.
    Answer(Response),
    /// An answer whose body is still to be pulled. The worker takes no other call before `pull` is dropped.
    Stream {
        /// Everything but the body.
        head: Response,
        /// The body.
        pull: Pull,
    },
    /// The handler failed; the worker is fine.
    Failed(HandlerError),
    /// The plugin broke the contract; the worker must be replaced.
    Broken(HandlerError),
}

/// What became of a batch: of each event, in their order; or the plugin broke the contract and the worker must be
/// replaced.
pub type BatchOutcome = Result<Vec<Result<Response, HandlerError>>, HandlerError>;

/// What a worker is told between events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// No new work comes from streams.
    Drain,
    /// Work comes again.
    Continue,
    /// The worker ends soon.
    Terminate,
}

impl Worker {
    /// Starts a worker: runs the handler's own initialization.
    pub fn start(library: Arc<Library>, id: &WorkerId, logger: Logger) -> Result<Self, StartError> {
        let place = if library.wants_fixed_thread() {
            let owned_id = id.clone();
            let start = move || Direct::start(library, &owned_id, logger);
            Place::Fixed(Thread::start(format!("handler-{}", id.index), start)?)
        } else {
            Place::Direct(Box::new(Direct::start(library, id, logger)?))
        };
        Ok(Self { place })
    }

    /// Calls the handler and waits for it. `cancelled` may be set meanwhile (see [`super::CANCELLED_DEADLINE`] and its
    /// siblings); a handler may look at it, nothing else does.
    pub fn call(&mut self, event: Box<Event>, cancelled: &Arc<AtomicU8>, deadline: Deadline) -> CallOutcome {
        match &mut self.place {
            Place::Direct(worker) => worker.call(event, cancelled, deadline),
            Place::Fixed(thread) => {
                let (jobs, cancelled) = (thread.jobs(), Arc::clone(cancelled));
                let called = jobs.run(move |worker| worker.call(event, &cancelled, deadline));
                let mut outcome = called.unwrap_or_else(|| CallOutcome::Broken(thread_gone()));
                if let CallOutcome::Stream { pull, .. } = &mut outcome {
                    pull.jobs = Some(jobs.clone());
                }
                outcome
            }
        }
    }

    /// Calls the handler with several events at once, as [`Worker::call`] does it with one.
    pub fn call_batch(
        &mut self,
        events: Vec<Box<Event>>,
        cancelled: &Arc<AtomicU8>,
        deadline: Deadline,
    ) -> BatchOutcome {
        match &mut self.place {
            Place::Direct(worker) => worker.call_batch(events, cancelled, deadline),
            Place::Fixed(thread) => {
                let cancelled = Arc::clone(cancelled);
                let call = move |worker: &mut Direct| worker.call_batch(events, &cancelled, deadline);
                thread.jobs().run(call).unwrap_or_else(|| Err(thread_gone()))
            }
        }
    }

    /// Tells the handler, and returns when its callback has. Handlers without one agree.
    pub fn control(&mut self, control: Control) -> Result<(), HandlerError> {
        let what = match control {
            Control::Drain => abi::DRAIN,
            Control::Continue => abi::CONTINUE,
            Control::Terminate => abi::TERMINATE,
        };
        match &mut self.place {
            Place::Direct(worker) => worker.control(what),
            Place::Fixed(thread) => {
                thread.jobs().run(move |worker| worker.control(what)).unwrap_or_else(|| Err(thread_gone()))
            }
        }
    }

    /// Stops the worker; the same as dropping it.
    pub fn stop(self) {
        drop(self);
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.place {
            Place::Direct(_) => "Worker(direct)",
            Place::Fixed(_) => "Worker(fixed thread)",
        })
    }
}

fn thread_gone() -> HandlerError {
    HandlerError::Lost("the worker's thread is gone".into())
}

/// The body of a streamed answer. Pulling calls the handler, so the rules of its worker apply: one call at a time.
pub struct Pull {
    /// `None` while the worker's thread has it, and after that thread is gone.
    pulled: Option<Box<Pulled>>,
    /// Where to pull, if not here.
    jobs: Option<Jobs>,
}

impl Pull {
    pub(super) fn new(pulled: Pulled) -> Self {
        Self { pulled: Some(Box::new(pulled)), jobs: None }
    }

    /// The next piece; `None` at the end, and after an error. Waits for the handler.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results would have to be transposed twice"
    )]
    pub fn next(&mut self) -> Result<Option<Bytes>, HandlerError> {
        let Some(mut pulled) = self.pulled.take() else { return Ok(None) };
        let (pulled, piece) = match &self.jobs {
            None => {
                let piece = pulled.next();
                (pulled, piece)
            }
            Some(jobs) => jobs
                .run(move |_| {
                    let piece = pulled.next();
                    (pulled, piece)
                })
                .ok_or_else(thread_gone)?,
        };
        self.pulled = Some(pulled);
        piece
    }
}

impl fmt::Debug for Pull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pull")
    }
}
