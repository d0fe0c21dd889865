//! One event's process, from its start to its end: its input is written and its output read side by side, so that
//! neither waits for the other, and whatever ends the event early ends the process and all of its group.

use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, ChildStdin};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Command, Errors, environment};
use crate::config::Level;
use crate::event::{Body, Event, HandlerError, Response};
use crate::fields;
use crate::logging::Logger;
use crate::queue::ReplySender;
use crate::reaper::Children;
use crate::runtime::shim::process::spawn_child;
use crate::runtime::shim::stream::{PipeWriter, pipe};

/// From SIGTERM to the group to its SIGKILL.
const KILL_AFTER: Duration = Duration::from_millis(400);
/// Bytes of output that are read at once.
const READ_BYTES: usize = 64 << 10;
/// Bytes of a streamed answer that wait for the client.
const HELD_BYTES_MAX: usize = 256 << 10;
/// Bytes of a line of standard error that become one record.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Bytes of standard error that are still read of a process that was ended, which is what a pipe holds.
const LAST_ERRORS_BYTES_MAX: usize = 64 << 10;

/// What a call needs beside its event.
pub(super) struct Surroundings<'a> {
    pub(super) command: &'a Command,
    pub(super) children: &'a Children,
    pub(super) logger: &'a Logger,
    /// When the event has to be answered.
    pub(super) deadline: Option<Instant>,
    /// The processor does not wait any longer.
    pub(super) stop: &'a CancellationToken,
}

/// Who gets what is written.
pub(super) enum Caller {
    /// Nothing has been sent.
    Waiting(ReplySender),
    /// The answer is on its way.
    Streaming(PipeWriter),
    /// It is answered or gone.
    Nobody,
}

/// How the process ended.
pub(super) enum Ending {
    /// By itself: its status, and its output where that was not streamed.
    Exited(ExitStatus, Bytes),
    /// The deadline came first.
    TimedOut,
    /// The client left.
    ClientGone,
    /// Its trigger wants it no more.
    TakenBack,
    /// The processor stops.
    Stopped,
    /// It wrote more than an answer may have.
    TooLarge,
}

/// Waits for what may happen to the caller: bytes of a stream that were taken, or its leaving (`None`).
fn poll_caller(caller: &mut Caller, cx: &mut Context<'_>) -> Poll<Option<u32>> {
    match caller {
        Caller::Waiting(reply) => reply.poll_closed(cx).map(|()| None),
        Caller::Streaming(writer) => match writer.poll_passed_on(cx) {
            (_, true) => Poll::Ready(None),
            (0, false) => Poll::Pending,
            (bytes, false) => Poll::Ready(Some(bytes)),
        },
        Caller::Nobody => Poll::Pending,
    }
}

/// A process that runs. Dropped before its end, it is killed with its group.
pub(super) struct Running {
    pid: Pid,
    child: Child,
    children: Children,
    stdin: Option<ChildStdin>,
    output: Receiver,
    errors: Option<Receiver>,
    /// Of its standard error, what is no whole line yet.
    lines: BytesMut,
    status: Option<ExitStatus>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.signal(Signal::KILL);
            self.children.release(self.pid());
        }
    }
}

impl Running {
    /// Starts the process. Call it on a thread that lasts as long as the processor.
    ///
    /// # Errors
    /// What the caller is told.
    pub(super) fn start(event: &Event, around: &Surroundings<'_>) -> Result<Self, HandlerError> {
        let Surroundings { command: what, children, .. } = around;
        let (arguments, variables) = (what.arguments(event), environment::variables(event));
        if let Some(name) = environment::with_nul(&arguments, &variables) {
            let message = format!("the event holds a NUL byte, which no process can be given: {name}");
            return Err(HandlerError::Failed { status: http::StatusCode::BAD_REQUEST, message });
        }
        let mut command = std::process::Command::new(&what.shell);
        if !what.inherits_environment {
            command.env_clear();
        }
        command.args(arguments);
        command.envs(what.environment.iter().map(|(name, value)| (name, value))).envs(variables);
        let has_body = !event.body.is_empty();
        command.stdin(if has_body { Stdio::piped() } else { Stdio::null() });
        let spawn = || -> io::Result<Self> {
            let (output, writer) = io::pipe()?;
            let errors = match what.errors {
                Errors::Answer => {
                    command.stderr(writer.try_clone()?);
                    None
                }
                Errors::Log => {
                    let (errors, writer) = io::pipe()?;
                    command.stderr(writer);
                    Some(errors)
                }
            };
            command.stdout(writer);
            let receiver = |pipe: io::PipeReader| Receiver::from_owned_fd(OwnedFd::from(pipe));
            let (output, errors) = (receiver(output)?, errors.map(receiver).transpose()?);
            // Our own ends for writing go with the command.
            let (pid, mut child) = spawn_child(command, Vec::new(), children)?;
            let stdin = child.stdin.take();
            let (children, lines) = ((*children).clone(), BytesMut::new());
            Ok(Self { pid, child, children, stdin, output, errors, lines, status: None })
        };
        spawn().map_err(|error| {
            HandlerError::failed(format!("Failed to run shell command.\nError: {error}\nOutput:"))
        })
    }

    /// Process id, which is its group's, too.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    fn signal(&self, signal: Signal) {
        kill_process_group(self.pid, signal).unwrap_or_default(); // Gone already is as good.
    }

    /// Keeps the status. From now on the pid may belong to the process of another event, which must keep its place among
    /// the children.
    fn reaped(&mut self, status: io::Result<ExitStatus>) {
        self.status = Some(status.unwrap_or_default());
        self.children.release(self.pid());
    }

    /// Until the process has ended and everything it wrote has been read, or something ends the event before.
    pub(super) async fn attend(
        &mut self,
        event: &mut Event,
        around: &Surroundings<'_>,
        caller: &mut Caller,
    ) -> Ending {
        let streams = around.command.streams;
        let mut feed = pin!(feed(self.stdin.take(), event.body.pieces().cloned().collect()));
        let (mut fed, mut read_all) = (false, false);
        let (mut output, mut held) = (BytesMut::new(), 0_usize);
        loop {
            if read_all && let (Some(status), None) = (self.status, &self.errors) {
                return Ending::Exited(status, output.freeze());
            }
            output.reserve(READ_BYTES);
            // Nobody takes any more of what was held for a client that has left.
            let room = !streams || matches!(caller, Caller::Nobody) || held + READ_BYTES <= HELD_BYTES_MAX;
            let mut limited = (&mut output).limit(READ_BYTES); // The buffer may have grown beyond that.
            tokio::select! {
                biased; // Whoever writes without end does not move the deadline.
                () = around.stop.cancelled() => return Ending::Stopped,
                () = at(around.deadline) => return Ending::TimedOut,
                news = poll_fn(|cx| poll_caller(caller, cx)) => match news {
                    Some(bytes) => held -= bytes as usize,
                    None if event.is_taken_back() => return Ending::TakenBack,
                    None if around.command.ends_with_client => return Ending::ClientGone,
                    None => *caller = Caller::Nobody,
                },
                () = &mut feed, if !fed => fed = true,
                read = self.output.read_buf(&mut limited), if !read_all && room => {
                    read_all = matches!(read, Ok(0) | Err(_));
                    match caller {
                        Caller::Nobody => output.clear(),
                        _ if !streams && output.len() > around.command.answer_bytes_max => return Ending::TooLarge,
                        _ if streams && !read_all => {
                            held += output.len();
                            caller.pass_on(output.split().freeze(), around.command);
                        }
                        _ => {}
                    }
                }
                read = read_errors(&mut self.errors, &mut self.lines) => {
                    let end = matches!(read, Ok(0) | Err(_));
                    log_lines(&mut self.lines, end, event, around.logger);
                    if end {
                        self.errors = None;
                    }
                }
                status = self.child.wait(), if self.status.is_none() => {
                    self.reaped(status);
                }
            }
        }
    }

    /// Makes records of what it has said since, when it was told to end for example. Waits for nothing: what has left the
    /// group may hold the other end for ever.
    pub(super) fn log_rest(&mut self, event: &Event, logger: &Logger) {
        if let Some(errors) = &self.errors {
            self.lines.reserve(LAST_ERRORS_BYTES_MAX);
            let full = |lines: &BytesMut| lines.len() >= LAST_ERRORS_BYTES_MAX;
            while !full(&self.lines) && matches!(errors.try_read_buf(&mut self.lines), Ok(1..)) {}
        }
        log_lines(&mut self.lines, true, event, logger);
    }

    /// Until the process has ended. What it writes is thrown away, what it says becomes records: a shell that waits for
    /// room in a pipe would not come to its trap. An event cannot be shared among threads, so it is lent whole.
    async fn last_wait(&mut self, event: &mut Event, logger: &Logger) -> io::Result<ExitStatus> {
        let (mut output, mut open) = (BytesMut::new(), true);
        loop {
            output.clear();
            output.reserve(READ_BYTES);
            tokio::select! {
                biased;
                status = self.child.wait() => return status,
                read = self.output.read_buf(&mut output), if open => open = matches!(read, Ok(1..)),
                read = read_errors(&mut self.errors, &mut self.lines) => {
                    log_lines(&mut self.lines, false, event, logger);
                    if !matches!(read, Ok(1..)) {
                        self.errors = None;
                    }
                }
            }
        }
    }

    /// Ends the process and its whole group: SIGTERM first, so that a script may clean up.
    pub(super) async fn end(&mut self, event: &mut Event, logger: &Logger) {
        if self.status.is_none() {
            self.signal(Signal::TERM);
            let exit = tokio::time::timeout(KILL_AFTER, self.last_wait(event, logger)).await;
            // Before anything else: what the shell had started may live on.
            self.signal(Signal::KILL);
            let status = match exit {
                Ok(status) => status,
                Err(_) => self.child.wait().await,
            };
            self.reaped(status);
        } else if !self.children.owns(self.pid()) {
            // Something it left behind still holds its output. It may have left the group, too, so that there is none and
            // the number has been given out anew.
            self.signal(Signal::KILL);
        }
    }
}

impl Caller {
    /// Sends a piece of a streamed answer; the first one begins it.
    fn pass_on(&mut self, piece: Bytes, command: &Command) {
        if matches!(self, Self::Waiting(_)) {
            let (writer, reader) = pipe(HELD_BYTES_MAX);
            let body = Body::Stream(Box::pin(reader));
            let head = Response { headers: command.headers.clone(), body, ..Response::default() };
            let waiting = std::mem::replace(self, Self::Streaming(writer));
            if let Self::Waiting(reply) = waiting {
                drop(reply.send(Ok(head))); // One that has left is seen at the stream.
            }
        }
        if let Self::Streaming(writer) = self {
            drop(writer.push(piece)); // Never more than was counted as free.
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Writes the body, as much of it as is wanted, then closes the input.
async fn feed(stdin: Option<ChildStdin>, body: Vec<Bytes>) {
    let Some(mut stdin) = stdin else { return };
    for piece in body {
        if stdin.write_all(&piece).await.is_err() {
            return; // It reads no more, which is its business.
        }
    }
}

async fn read_errors(errors: &mut Option<Receiver>, lines: &mut BytesMut) -> io::Result<usize> {
    match errors {
        Some(errors) => {
            lines.reserve(READ_BYTES);
            errors.read_buf(lines).await
        }
        None => std::future::pending().await,
    }
}

/// Makes records of whole lines, and at the end of what is left.
fn log_lines(lines: &mut BytesMut, end: bool, event: &Event, logger: &Logger) {
    loop {
        let line = match memchr::memchr(b'\n', lines) {
            Some(at) => {
                let mut line = lines.split_to(at + 1);
                line.truncate(at);
                line
            }
            None if lines.len() >= LINE_BYTES_MAX || (end && !lines.is_empty()) => lines.split(),
            None => return,
        };
        let text = String::from_utf8_lossy(&line);
        logger.record_of(event.origin(), Level::Info, text.trim_end_matches('\r'), fields! {});
    }
}

/// The end of a process in the words of the Go processor.
pub(super) fn describe(status: ExitStatus) -> String {
    let core = if status.core_dumped() { " (core dumped)" } else { "" };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {}{core}", signal_words(signal)),
        (None, None) => "ended".to_owned(),
    }
}

fn signal_words(signal: i32) -> String {
    let words = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        other => return format!("signal {other}"),
    };
    words.to_owned()
}
