//! The task of a shell worker: takes an event, runs its process to the end, answers, takes the next. It runs on the
//! thread that spawns processes, because the kernel kills a child when its parent thread ends.

use std::future::poll_fn;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio_util::sync::CancellationToken;

use super::Command;
use super::call::{Caller, Ending, Running, Surroundings, describe};
use crate::config::Level;
use crate::event::{Event, HandlerError, Response, WorkerId};
use crate::fields;
use crate::logging::Logger;
use crate::queue::{Job, Member, Queue, Reply};
use crate::reaper::Children;
use crate::runtime::shim::desk::Desk;
use crate::trace::Call;

/// Bytes at the end of a failed command's output that are logged.
const LAST_WORDS_BYTES: usize = 2000;

/// What all workers of a pool share.
pub struct Recipe {
    /// What is run.
    pub command: Arc<Command>,
    /// The pool's queue.
    pub queue: Arc<Queue<Desk>>,
    /// Longest time of one event.
    pub event_timeout: Option<Duration>,
    /// The processor's root logger.
    pub logger: Logger,
    /// Where processes are entered.
    pub children: Children,
}

/// One worker.
struct Worker {
    recipe: Arc<Recipe>,
    index: usize,
    logger: Logger,
    stop: CancellationToken,
}

/// Serves events until it is told to stop; what runs then is killed.
pub async fn serve(recipe: Arc<Recipe>, id: WorkerId, stop: CancellationToken) {
    let kind = if id.trigger_kind.is_empty() { "shared" } else { &id.trigger_kind };
    let logger = recipe.logger.child(&format!("{kind}.w{}.shell", id.index));
    let worker = Worker { recipe, index: id.index, logger, stop };
    let (desk, queue) = (Desk::default(), worker.recipe.queue.clone());
    while !worker.stop.is_cancelled() {
        let job = match queue.next(desk.clone()) {
            Some((_, job)) => job,
            None => tokio::select! {
                job = poll_fn(|cx| desk.poll_job(cx)) => job,
                () = worker.stop.cancelled() => break,
            },
        };
        worker.handle(job).await;
    }
    queue.withdraw(&desk);
    while let Some(job) = desk.take() {
        if let Some((other, job)) = queue.put_back(job) {
            other.hand(job);
        }
    }
}

impl Worker {
    async fn handle(&self, mut job: Job) {
        let begun = Instant::now();
        let waited = begun.duration_since(job.submitted);
        if let Some(rest) = job.batch {
            return self.refuse(Member { event: job.event, reply: job.reply }, rest, waited);
        }
        self.recipe.queue.counters().started(waited);
        let mut span = Call::begin(job.event.trace.as_ref(), self.index, job.submitted, begun);
        let mut caller = Caller::Waiting(job.reply);
        let answer = self.run(&mut job.event, begun, &mut caller).await;
        let error = match &answer {
            Ok(response) => (response.status >= 500).then_some("handler_failed"),
            Err(HandlerError::TimedOut) => Some("timeout"),
            Err(HandlerError::Lost(_)) => Some("worker_lost"),
            Err(_) => Some("handler_failed"),
        };
        if let (Some(span), Some(error)) = (&mut span, error) {
            span.fail(error);
        }
        drop(span); // Ended before the caller's, which is above it.
        self.recipe.queue.finished(self.index, begun.elapsed());
        self.answer(caller, answer);
    }

    /// One command gets one event.
    fn refuse(&self, first: Member, rest: Vec<Member>, waited: Duration) {
        let queue = &self.recipe.queue;
        for member in std::iter::once(first).chain(rest) {
            queue.counters().started(waited);
            queue.finished_beside_others(self.index, Duration::ZERO);
            drop(member.reply.send(Err(HandlerError::Unsupported.into()))); // The client may have left.
        }
    }

    /// Runs the process of an event. Its answer, if the caller still waits for one; of a stream, how it ended.
    async fn run(
        &self,
        event: &mut Event,
        begun: Instant,
        caller: &mut Caller,
    ) -> Result<Response, HandlerError> {
        let around = Surroundings {
            command: &self.recipe.command,
            children: &self.recipe.children,
            logger: &self.logger,
            deadline: self.recipe.event_timeout.map(|limit| (begun + limit).into()),
            stop: &self.stop,
        };
        let mut running = Running::start(event, &around).inspect_err(|error| {
            let fields = fields! {"err" => error.to_string()};
            self.logger.record_of(event.origin(), Level::Error, "Failed to run shell command", fields);
        })?;
        let ending = running.attend(event, &around, caller).await;
        if let Ending::Exited(status, output) = ending {
            return self.exited(event, status, output, matches!(caller, Caller::Streaming(_)));
        }
        let error = self.cut_off(&ending, running.pid());
        if let Ending::TimedOut = ending {
            // Its caller does not wait until the processes have ended.
            self.answer(std::mem::replace(caller, Caller::Nobody), Err(error.clone()));
        }
        running.end(event, &self.logger).await;
        running.log_rest(event, &self.logger);
        Err(error)
    }

    /// What a status and an output mean.
    fn exited(
        &self,
        event: &Event,
        status: ExitStatus,
        output: Bytes,
        streamed: bool,
    ) -> Result<Response, HandlerError> {
        let headers = self.recipe.command.headers.clone();
        if status.success() {
            return Ok(Response { headers, body: output.into(), ..Response::default() });
        }
        let how = describe(status);
        let words = &output[output.len().saturating_sub(LAST_WORDS_BYTES)..];
        let fields = fields! {"err" => how, "output" => String::from_utf8_lossy(words).into_owned()};
        self.logger.record_of(event.origin(), Level::Error, "Failed to run shell command", fields);
        let mut body =
            BytesMut::from(format!("Failed to run shell command.\nError: {how}\nOutput:").as_bytes());
        if streamed {
            return Err(HandlerError::failed(String::from_utf8_lossy(&body)));
        }
        body.extend_from_slice(&output);
        Ok(Response { status: 500, headers, body: body.freeze().into(), ..Response::default() })
    }

    /// Says why a process is killed before its end.
    fn cut_off(&self, ending: &Ending, pid: i32) -> HandlerError {
        let logger = &self.logger;
        match ending {
            Ending::TimedOut => {
                self.recipe.queue.counters().event_timeouts.fetch_add(1, Ordering::Relaxed);
                let elapsed = self.recipe.event_timeout.unwrap_or_default().as_secs_f64();
                let fields = fields! {"pid" => pid, "elapsed" => elapsed};
                logger.warn("Event timed out; its processes are killed", fields);
                HandlerError::TimedOut
            }
            Ending::ClientGone => {
                logger.debug("Client is gone; the processes of its event are killed", fields! {"pid" => pid});
                HandlerError::Lost("the client is gone".to_owned())
            }
            Ending::TakenBack => {
                logger.info(
                    "Event taken back by its trigger; its processes are killed",
                    fields! {"pid" => pid},
                );
                HandlerError::Lost("its trigger has taken the event back".to_owned())
            }
            Ending::TooLarge => {
                let limit = self.recipe.command.answer_bytes_max;
                let message = format!(
                    "the command wrote more than {limit} bytes; NUCLIO_MAX_ANSWER_BYTES sets the limit, and \
                     spec.runtimeAttributes.stream: true has none"
                );
                logger.error("Failed to run shell command", fields! {"pid" => pid, "err" => message});
                HandlerError::failed(message)
            }
            Ending::Stopped | Ending::Exited(..) => {
                logger.warn("Stopping before a command has ended", fields! {"pid" => pid});
                HandlerError::Lost("the processor was stopped before the command had ended".to_owned())
            }
        }
    }

    /// Tells the caller what came of it, wherever it is.
    fn answer(&self, caller: Caller, answer: Result<Response, HandlerError>) {
        match caller {
            Caller::Waiting(reply) => {
                let answer: Reply = answer.map_err(Into::into);
                drop(reply.send(answer)); // The client may have left.
            }
            Caller::Streaming(writer) => {
                let result = answer.map(drop);
                self.recipe.queue.counters().streams[usize::from(result.is_err())]
                    .fetch_add(1, Ordering::Relaxed);
                writer.end(result);
            }
            Caller::Nobody => {}
        }
    }
}
