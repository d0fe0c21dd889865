//! The process that workers are forked from (`preload`): it has loaded the handler once, so that they share its memory
//! and need no time for it. Which process that is, when a new one is started, how a worker comes of it.
//!
//! A worker is no child of that process: it forks twice, and the process in between ends once the worker's number is
//! known here. So the worker becomes a child of this process, the parent of orphans, and is watched, signalled and
//! reaped like one that was spawned; the process that it was forked from may end without its doing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::sync::{Mutex, oneshot};

use super::answers::worker_logger;
use super::handshake::Hello;
use super::process::{Process, describe, oom_kills, socket_pair};
use super::socket::send_with_descriptors;
use super::start::{Recipe, handshake};
use super::worker::Settings;
use crate::event::WorkerId;
use crate::fields;
use crate::reaper;
use crate::runtime::StartError;

/// What a shim offers that can be forked from.
const CAPABILITY: &str = "preload";
/// Bytes of a worker's number, or of why there is none.
const BIRTH_BYTES: usize = 4096;
/// First wait after a start that failed, in which no other is tried.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest such wait.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// See the module. One for all pools of a function.
#[derive(Debug, Default)]
pub struct ForkServer {
    state: Mutex<State>,
    /// It ends because it shall.
    stopping: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    live: Option<Live>,
    /// What it forks becomes ours.
    adopting: bool,
    /// The shim cannot be forked from: workers are started one by one.
    unfit: bool,
    /// Starts that failed in a row.
    failures: u32,
    /// Until when a start that failed stands for the next ones.
    failed: Option<(Instant, StartError)>,
}

#[derive(Debug)]
struct Live {
    process: Process,
    /// Requests go out here; it ends with it.
    socket: UnixStream,
}

impl ForkServer {
    /// A process for a worker, and our end of its socket. `None`: workers have to be started by themselves.
    ///
    /// # Errors
    /// The handler cannot be loaded, or the process that has it cannot fork.
    pub(super) async fn fork(
        &self,
        recipe: &Recipe,
        id: &WorkerId,
    ) -> Result<Option<(Process, StdStream)>, StartError> {
        let mut state = self.state.lock().await;
        if state.live.as_ref().is_some_and(|live| !live.process.running()) {
            state.live = None;
        }
        if state.live.is_none() && !state.unfit {
            self.start(&mut state, recipe, id).await?;
        }
        let Some(live) = &mut state.live else { return Ok(None) };
        let forked = tokio::time::timeout(recipe.start_timeout, live.fork(recipe)).await;
        let failed = match forked {
            Ok(Ok(forked)) => return Ok(Some(forked)),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no worker after {:?}", recipe.start_timeout),
        };
        let ended = live.process.exited(super::start::REAP).await;
        state.live = None; // Whatever ails it: the next worker is forked from a fresh one.
        let found = format!("{} worker {}", recipe.language.name, id.index);
        let advice = match ended {
            Some(status) => format!("the process it is forked from {}", describe(status, false)),
            None => format!("cannot be forked: {failed}"),
        };
        Err(StartError::new(found, advice))
    }

    /// Ends the process, last of all.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.state.blocking_lock().live = None;
    }

    /// One start at a time, and none for a while after one that failed: all workers would fail in the same way.
    async fn start(&self, state: &mut State, recipe: &Recipe, id: &WorkerId) -> Result<(), StartError> {
        if let Some((until, error)) = &state.failed
            && Instant::now() < *until
        {
            return Err(error.clone());
        }
        match self.load(state, recipe, id).await {
            Ok(live) => {
                state.unfit = live.is_none();
                state.live = live;
                (state.failures, state.failed) = (0, None);
                Ok(())
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << state.failures.min(16)).min(LONGEST_PAUSE);
                state.failures += 1;
                state.failed = Some((Instant::now() + pause, error.clone()));
                Err(error)
            }
        }
    }

    /// Starts the process and waits until it has loaded the handler.
    async fn load(
        &self,
        state: &mut State,
        recipe: &Recipe,
        id: &WorkerId,
    ) -> Result<Option<Live>, StartError> {
        if let Some(Err(error)) = (!state.adopting).then(|| reaper::adopt_orphans(recipe.children.clone())) {
            let fields = fields! {"err" => error.to_string()};
            let message = "Workers are started one by one in spite of preload: this kernel does not give us children \
                           that another process has forked";
            recipe.logger.warn(message, fields);
            return Ok(None);
        }
        state.adopting = true;
        let kills_before = oom_kills();
        let (mut process, socket) = Process::spawn(&recipe.launch, recipe.logger.writer(), &recipe.children)
            .map_err(|error| recipe.cannot_spawn(&error))?;
        let logger = worker_logger(&recipe.logger, &id.trigger_kind, id.index, recipe.language.name);
        let (ready, readied) = oneshot::channel();
        let (give, given) = oneshot::channel();
        let mut init = recipe.init.clone();
        init.extend([("worker_id", id.index.to_string()), ("preload", "1".to_owned())]);
        let mut settings = Settings { index: id.index, event_timeout: None, in_flight_max: 1, ahead_max: 0 };
        let begun = Instant::now();
        tokio::spawn({
            let logger = logger.clone();
            async move {
                let (outcome, link) = match handshake(socket, init, &mut settings, &logger).await {
                    Ok((link, hello)) => (Ok(hello), Some(link)),
                    Err(error) => (Err(error), None),
                };
                drop(give.send(link));
                drop(ready.send(outcome));
            }
        });
        let hello = match recipe.wait_hello(&mut process, readied, &logger).await {
            Ok(hello) => hello,
            Err(failure) => return Err(recipe.explain(id, &mut process, failure).await),
        };
        if !can_fork(&hello) {
            let message = "Workers are started one by one in spite of preload: the shim in the image is too old for it; \
                           NUCLIO_SHIM_SOURCE=embedded takes the one inside this binary";
            recipe.logger.warn(message, fields! {"shim" => hello.about});
            return Ok(None);
        }
        let Some(link) = given.await.ok().flatten() else {
            return Err(StartError::new("the process that workers are forked from", "lost its connection"));
        };
        // Requests carry descriptors, which is written in a way of its own.
        let socket = UnixStream::from_std(link.stream.into_std()).map_err(|error| {
            StartError::new("the process that workers are forked from", format!("gives no requests: {error}"))
        })?;
        let fields = fields! {"pid" => process.pid(), "took" => format!("{:?}", begun.elapsed())};
        recipe.logger.info("Handler is loaded in the process that workers are forked from", fields);
        self.watch(&process, recipe, kills_before);
        Ok(Some(Live { process, socket }))
    }

    /// Says in one line when it ends although nobody asked for it.
    fn watch(&self, process: &Process, recipe: &Recipe, kills_before: u64) {
        let (mut status, pid) = (process.status(), process.pid());
        let (logger, stopping) = (recipe.logger.clone(), self.stopping.clone());
        tokio::spawn(async move {
            let Ok(ended) = status.wait_for(Option::is_some).await.map(|status| *status) else { return };
            if !stopping.load(Ordering::Relaxed) {
                let cause = describe(ended.unwrap_or_default(), oom_kills() > kills_before);
                let message = "The process that workers are forked from has ended; they go on, and the next one that \
                               is needed starts it anew";
                logger.error(message, fields! {"pid" => pid, "status" => cause});
            }
        });
    }
}

fn can_fork(hello: &Hello) -> bool {
    hello.capabilities.split(',').any(|offered| offered.trim() == CAPABILITY)
}

impl Live {
    /// Asks for one worker and takes it over.
    async fn fork(&mut self, recipe: &Recipe) -> io::Result<(Process, StdStream)> {
        let (ours, theirs) = socket_pair()?;
        let (errors, their_errors) = pipe_with(PipeFlags::CLOEXEC)?;
        // The child's ends block.
        let (birth, their_birth) = StdStream::pair()?;
        birth.set_nonblocking(true)?;
        self.request(&[theirs.as_fd(), their_errors.as_fd(), their_birth.as_fd()]).await?;
        drop((theirs, their_errors, their_birth));
        let process = take_over(UnixStream::from_std(birth)?, errors, recipe).await?;
        Ok((process, ours))
    }

    /// With the worker's socket, its standard error, and where its number is told.
    async fn request(&self, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            self.socket.writable().await?;
            let sent = self
                .socket
                .try_io(Interest::WRITABLE, || send_with_descriptors(&self.socket, b"f", descriptors));
            match sent {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Learns a worker's number, enters it where ours are, and only then lets go of it whoever has forked it: nobody can
/// reap it before.
async fn take_over(mut birth: UnixStream, errors: OwnedFd, recipe: &Recipe) -> io::Result<Process> {
    let mut text = String::new();
    let mut piece = [0; 256];
    while !text.ends_with('\n') && text.len() < BIRTH_BYTES {
        match birth.read(&mut piece).await? {
            0 => break,
            read => text.push_str(&String::from_utf8_lossy(&piece[..read])),
        }
    }
    let pid = text.trim_end().parse().ok().and_then(Pid::from_raw);
    let Some(pid) = pid else {
        let text = if text.is_empty() { "it has ended" } else { text.trim_end() };
        return Err(io::Error::other(text.to_owned()));
    };
    recipe.children.adopt(|| Ok::<_, io::Error>((pid.as_raw_nonzero().get(), ())))?;
    let process = Process::forked(pid, errors, &recipe.launch, recipe.logger.writer(), &recipe.children)?;
    birth.write_all(b"!").await?;
    Ok(process)
}
