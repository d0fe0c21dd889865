//! Starting one shim worker: process, handshake, then its task on the event threads.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::answers::worker_logger;
use super::desk::Desk;
use super::handshake::{HandshakeError, Hello, Link};
use super::languages::Language;
use super::process::{Launch, Process, describe};
use super::socket::Socket;
use super::v1;
use super::worker::{Command, Ended, Settings, Worker};
use crate::config::SeveralFor;
use crate::event::{HandlerError, WorkerId};
use crate::fields;
use crate::logging::Logger;
use crate::queue::{Queue, ReplySender};
use crate::reaper::Children;
use crate::runtime::StartError;

/// While a shim loads, a line says so this often.
const PROGRESS: Duration = Duration::from_secs(10);
/// A process that leaves its socket is given this long to be reaped.
pub(super) const REAP: Duration = Duration::from_millis(500);

/// Everything that all workers of a pool share.
pub struct Recipe {
    /// The language.
    pub language: &'static Language,
    /// How to start its shim.
    pub launch: Arc<Launch>,
    /// INIT settings that do not depend on the worker.
    pub init: Vec<(&'static str, String)>,
    /// Longest time of one event.
    pub event_timeout: Option<Duration>,
    /// Events in work at once that the function asks for.
    pub in_flight_max: usize,
    /// The trigger gathers batches.
    pub batches: bool,
    /// Events written ahead at most.
    pub ahead_max: usize,
    /// Longest time until a shim is ready.
    pub start_timeout: Duration,
    /// Where workers' tasks run.
    pub runtime: Handle,
    /// The pool's queue.
    pub queue: Arc<Queue<Desk>>,
    /// The processor's root logger.
    pub logger: Logger,
    /// Where its processes are entered.
    pub children: Children,
}

/// Why a worker did not become ready.
pub(super) enum Failure {
    /// In the shim's words.
    Said(String),
    /// In ours.
    Seen(String),
}

/// A worker that serves.
pub struct Running {
    /// Its process.
    pub process: Process,
    /// Its task.
    pub commands: mpsc::Sender<Command>,
    /// Ready when its task has ended, with the callers who still wait.
    pub ended: oneshot::Receiver<(Ended, Vec<ReplySender>)>,
}

impl Recipe {
    /// Starts a worker and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be spawned, ends, fails to load, or takes too long; with its last words.
    pub async fn start(&self, id: &WorkerId) -> Result<Running, StartError> {
        if let Some(wrapper) = &self.launch.wrapper {
            return v1::start::start(self, wrapper, id).await;
        }
        let begun = Instant::now();
        let forked = match &self.launch.fork_server {
            Some(server) => server.fork(self, id).await?,
            None => None,
        };
        let spawn = || Process::spawn(&self.launch, self.logger.writer(), &self.children);
        let (mut process, socket) =
            forked.map_or_else(spawn, Ok).map_err(|error| self.cannot_spawn(&error))?;
        let logger = worker_logger(&self.logger, &id.trigger_kind, id.index, self.language.name);
        let (ready, readied) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (commands, inbox) = mpsc::channel(4);
        self.runtime.spawn(self.run(id, socket, inbox, logger.clone(), ready, end));
        self.wait_ready(&mut process, readied, &logger, id, begun).await?;
        Ok(Running { process, commands, ended })
    }

    pub(super) fn cannot_spawn(&self, error: &io::Error) -> StartError {
        let program = self.launch.program.display();
        StartError::new(format!("cannot start {program}"), error.to_string())
    }

    /// Waits until the worker whose handshake goes on elsewhere is ready.
    ///
    /// # Errors
    /// As [`Recipe::start`].
    pub(super) async fn wait_ready(
        &self,
        process: &mut Process,
        readied: oneshot::Receiver<Result<Hello, HandshakeError>>,
        logger: &Logger,
        id: &WorkerId,
        begun: Instant,
    ) -> Result<(), StartError> {
        match self.wait_hello(process, readied, logger).await {
            Ok(hello) => {
                let fields = fields! {
                    "pid" => process.pid(), "shim" => hello.about, "capabilities" => hello.capabilities,
                    "took" => format!("{:.1?}", begun.elapsed())
                };
                logger.debug("Worker is ready", fields);
                // Where only handlers of some kind get several, nobody has asked for them.
                let asked = self.init.contains(&("max_inflight_for", SeveralFor::Any.name().to_owned()));
                if asked && self.in_flight_max > hello.in_flight_max && id.index == 0 {
                    let fields = fields! {"asked" => self.in_flight_max, "offered" => hello.in_flight_max};
                    logger.warn("Fewer events in work per worker than mode: async asks for", fields);
                }
                if self.batches && !hello.batch && id.index == 0 {
                    let advice = "The handler takes no batches, so every event of this trigger is answered with 501; \
                                  remove batch from the trigger, or take a handler that does";
                    logger.warn(advice, fields! {"trigger" => id.trigger_name});
                }
                Ok(())
            }
            Err(failure) => Err(self.explain(id, process, failure).await),
        }
    }

    /// A shim that failed to load its handler has said all there is to say; of others the end and the last words are
    /// told.
    pub(super) async fn explain(&self, id: &WorkerId, process: &mut Process, failure: Failure) -> StartError {
        let found = format!("{} worker {}", self.language.name, id.index);
        let exited = process.exited(REAP).await;
        process.kill_group();
        let text = match failure {
            Failure::Said(text) => return StartError::new(found, text.trim_end()),
            Failure::Seen(text) => text,
        };
        let status = exited.map_or_else(|| "see the log".to_owned(), |status| describe(status, false));
        let advice = if text.contains(&status) { text } else { format!("{text} ({status})") };
        match process.last_words().trim_end() {
            "" => StartError::new(found, advice),
            words => StartError::new(found, format!("{advice}; its last words:\n{words}")),
        }
    }

    /// The worker's whole life, on the event threads.
    fn run(
        &self,
        id: &WorkerId,
        socket: std::os::unix::net::UnixStream,
        commands: mpsc::Receiver<Command>,
        logger: Logger,
        ready: oneshot::Sender<Result<Hello, HandshakeError>>,
        end: oneshot::Sender<(Ended, Vec<ReplySender>)>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let mut init = self.init.clone();
        init.extend([
            ("worker_id", id.index.to_string()),
            ("trigger_kind", id.trigger_kind.clone()),
            ("trigger_name", id.trigger_name.clone()),
        ]);
        let mut settings = Settings {
            index: id.index,
            event_timeout: self.event_timeout,
            in_flight_max: self.in_flight_max,
            ahead_max: self.ahead_max,
        };
        let queue = self.queue.clone();
        async move {
            match handshake(socket, init, &mut settings, &logger).await {
                Err(error) => ready.send(Err(error)).unwrap_or_default(),
                Ok((link, hello)) => {
                    if ready.send(Ok(hello.clone())).is_ok() {
                        let worker = Worker::new(link, hello, settings, queue, commands, logger);
                        if let Err((_, waiting)) = end.send(worker.serve().await) {
                            answer_all(waiting, "the worker was stopped"); // Its keeper is gone: the processor ends.
                        }
                    }
                }
            }
        }
    }

    /// Waits for the outcome of a handshake that goes on elsewhere, as long as a start may take.
    pub(super) async fn wait_hello(
        &self,
        process: &mut Process,
        mut readied: oneshot::Receiver<Result<Hello, HandshakeError>>,
        logger: &Logger,
    ) -> Result<Hello, Failure> {
        let mut progress = tokio::time::interval_at(tokio::time::Instant::now() + PROGRESS, PROGRESS);
        let limit = tokio::time::sleep(self.start_timeout);
        tokio::pin!(limit);
        loop {
            tokio::select! {
                biased; // A worker that is ready has taken events already, so that counts before everything else.
                ready = &mut readied => return match ready {
                    Ok(Ok(hello)) => Ok(hello),
                    Ok(Err(HandshakeError::Failed(text))) => Err(Failure::Said(text)),
                    Ok(Err(error)) => Err(Failure::Seen(error.to_string())),
                    Err(_) => Err(Failure::Seen("its task ended".to_owned())),
                },
                // The socket may outlive the process: something it forked holds it.
                status = process.exit() => {
                    // What it said before it ended counts more than its status.
                    return match close(&mut readied, REAP).await {
                        Some(Ok(hello)) => Ok(hello),
                        Some(Err(HandshakeError::Failed(text))) => Err(Failure::Said(text)),
                        _ => Err(Failure::Seen(format!("{} before it was ready", describe(status, false)))),
                    };
                }
                _ = progress.tick() => {
                    let fields = fields! {"pid" => process.pid(), "timeout" => format!("{:?}", self.start_timeout)};
                    logger.info("Still waiting for the handler to be loaded and its init_context to end", fields);
                }
                () = &mut limit => {
                    if let Some(Ok(hello)) = close(&mut readied, Duration::ZERO).await {
                        return Ok(hello);
                    }
                    process.signal(Signal::ABORT); // Shows where it is.
                    return Err(Failure::Seen(format!(
                        "not ready within {:?}; NUCLIO_WORKER_START_TIMEOUT sets how long loading may take",
                        self.start_timeout
                    )));
                }
            }
        }
    }
}

/// Tells callers that their events are lost, and why.
pub(super) fn answer_all(waiting: Vec<ReplySender>, text: &str) {
    for reply in waiting {
        drop(reply.send(Err(HandlerError::Lost(text.to_owned()).into()))); // The client may have left.
    }
}

/// What arrives within `limit`; nothing can be sent any more after that, so nothing is lost.
async fn close<T>(receiver: &mut oneshot::Receiver<T>, limit: Duration) -> Option<T> {
    match tokio::time::timeout(limit, &mut *receiver).await {
        Ok(received) => received.ok(),
        Err(_) => {
            receiver.close();
            receiver.try_recv().ok()
        }
    }
}

/// From a socket to a worker that is ready.
pub(super) async fn handshake(
    socket: std::os::unix::net::UnixStream,
    mut init: Vec<(&'static str, String)>,
    settings: &mut Settings,
    logger: &Logger,
) -> Result<(Link, Hello), HandshakeError> {
    let stream = Socket::new(socket).map_err(|_: io::Error| HandshakeError::Ended)?;
    let mut link = Link::new(stream);
    let mut hello = link.hello(logger).await?;
    settings.in_flight_max = settings.in_flight_max.min(hello.in_flight_max).max(1);
    if !hello.web && init.contains(&("max_inflight_for", SeveralFor::Applications.name().to_owned())) {
        settings.in_flight_max = 1; // A shim that does not know whom they are meant for.
    }
    init.push(("max_inflight", settings.in_flight_max.to_string()));
    // Only the loaded handler tells whether it can have several events, and how it wants their bodies.
    let forked_from = init.contains(&("preload", "1".to_owned())); // It says little: a pipe would be for nothing.
    let ready = link.init(&init, hello.pipe && !forked_from, logger).await?;
    settings.in_flight_max = settings.in_flight_max.min(ready.in_flight_max.unwrap_or(usize::MAX));
    hello.streams_bodies &= ready.streams_bodies;
    hello.web &= ready.web;
    hello.batch &= !hello.web;
    Ok((link, hello))
}
