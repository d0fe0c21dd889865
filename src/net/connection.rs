//! One connection: hyper's state machine, and what the server knows of it from outside.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, Sleep};

use super::listener::Shared;
use super::socket::Socket;
use super::stream::{Stream, peek};

/// How long an idle connection is kept for one more request when the server closes.
pub(super) const LAST_CALL: Duration = Duration::from_secs(1);
/// The same where somebody else goes on listening: clients connect anew, and wait for nothing else.
pub(super) const LAST_CALL_SHARED: Duration = Duration::from_millis(100);
/// A client that closes its sending half within so many ticks of its request still waits for the answer; one that
/// closes later has left.
const HALF_CLOSE_TICKS: u32 = 1;
/// A body that is longer under way than a client may stand still comes at least this fast, on average.
const BODY_BYTES_PER_TICK_MIN: u32 = 240;

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Waiting for the first byte of a request; an answer may still be in the write buffer.
    Idle = 0,
    /// A request's head is arriving.
    Head = 1,
    /// A request's body is arriving.
    Body = 2,
    /// The request is with its service.
    Service = 3,
    /// The answer is streamed.
    Streaming = 4,
    /// Nothing is owed any more; only the other side has to close.
    Lingering = 5,
}

/// What moves on a connection. Written by its task, read by the server's sweep.
#[derive(Debug)]
pub struct Activity {
    phase: AtomicU8,
    /// The server's clock, in ticks.
    clock: Arc<AtomicU32>,
    /// When the phase or the last byte was.
    since: AtomicU32,
    write_blocked: AtomicBool,
    /// Bytes that the client had not taken when the write was found blocked.
    unacknowledged: AtomicU32,
    /// Bytes of a body that have not moved `since` yet: not enough for a whole tick.
    uncredited: AtomicU32,
    /// Ticks that the client had used up when a body was last not waited for.
    owed: AtomicU32,
    /// A body is arriving, or what has come of it is not taken yet.
    body_open: AtomicBool,
    /// The client has closed its sending half.
    ended: AtomicBool,
    /// The same, and what came before has been read.
    half_closed: AtomicBool,
    /// Whoever waits for a body, to be told that no more of it comes.
    body_reader: Mutex<Option<Waker>>,
    expired: AtomicBool,
    last_answer: AtomicBool,
    closing: AtomicBool,
    turn_free: AtomicBool,
    waker: OnceLock<Waker>,
    tail: Tail,
    ends: Ends,
}

/// Where a connection comes from and where it arrived.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) client: Option<SocketAddr>,
    pub(super) server: Option<SocketAddr>,
    /// Both as text, once somebody wants to know.
    text: OnceLock<Arc<str>>,
}

impl Ends {
    fn write(&self) -> Arc<str> {
        let text = |end: Option<SocketAddr>| {
            end.map_or_else(String::new, |end| format!("{} {}", end.ip().to_canonical(), end.port()))
        };
        format!("{}\0{}", text(self.client), text(self.server)).into()
    }
}

/// The last bytes that arrived of a request's head and what came with it.
#[derive(Debug, Default)]
struct Tail([AtomicU64; TAIL_WORDS]);

/// Enough for the end of a head and a chunk's size line.
const TAIL_WORDS: usize = 4;

impl Tail {
    fn keep(&self, bytes: &[u8]) {
        let mut last = [0; TAIL_WORDS * 8];
        let kept = bytes.len().min(last.len());
        last[TAIL_WORDS * 8 - kept..].copy_from_slice(&bytes[bytes.len() - kept..]);
        for (word, bytes) in self.0.iter().zip(last.chunks_exact(8)) {
            word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Relaxed);
        }
    }

    fn take(&self) -> [u8; TAIL_WORDS * 8] {
        let mut last = [0; TAIL_WORDS * 8];
        for (word, bytes) in self.0.iter().zip(last.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.load(Relaxed).to_le_bytes());
            word.store(0, Relaxed); // Only the connection's task comes here.
        }
        last
    }
}

/// The number in `…CRLF CRLF <hex digits> [; extension] CRLF…`.
fn first_chunk_size(tail: &[u8]) -> Option<u64> {
    let head_end = tail.windows(4).rposition(|bytes| bytes == b"\r\n\r\n")? + 4;
    let line = &tail[head_end..];
    let line = &line[..line.windows(2).position(|bytes| bytes == b"\r\n")?];
    let digits = line.split(|byte| *byte == b';').next()?.trim_ascii();
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

impl Activity {
    pub(super) fn new(clock: Arc<AtomicU32>) -> Self {
        let since = AtomicU32::new(clock.load(Relaxed));
        Self {
            phase: AtomicU8::new(Phase::Idle as u8),
            clock,
            since,
            write_blocked: AtomicBool::new(false),
            unacknowledged: AtomicU32::new(0),
            uncredited: AtomicU32::new(0),
            owed: AtomicU32::new(0),
            body_open: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            half_closed: AtomicBool::new(false),
            body_reader: Mutex::default(),
            expired: AtomicBool::new(false),
            last_answer: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            turn_free: AtomicBool::new(false),
            waker: OnceLock::new(),
            tail: Tail::default(),
            ends: Ends::default(),
        }
    }

    pub(super) fn with_ends(mut self, client: Option<SocketAddr>, server: Option<SocketAddr>) -> Self {
        (self.ends.client, self.ends.server) = (client, server);
        self
    }

    /// Both ends of the connection, the client's and the server's with a NUL in between: each an IP address, a blank
    /// and a port, or nothing for a socket file; the server's is there if it keeps the ends.
    pub fn ends(&self) -> Arc<str> {
        self.ends.text.get_or_init(|| self.ends.write()).clone()
    }

    fn touch(&self) {
        self.since.store(self.clock.load(Relaxed), Relaxed);
    }

    /// The connection goes on to another phase.
    pub fn set_phase(&self, phase: Phase) {
        if phase == Phase::Idle {
            self.end_body(); // What has not been read of it nobody will read.
        }
        self.phase.store(phase as u8, Relaxed);
        self.touch();
    }

    fn phase(&self) -> u8 {
        self.phase.load(Relaxed)
    }

    /// Whether the connection's task has woken nobody in this turn, which began with no answer owed. Whom it has woken
    /// may be the one task that waits for this very thread, which must not be kept busy for long then.
    pub fn is_turn_free(&self) -> bool {
        self.turn_free.load(Relaxed)
    }

    /// In the middle of a request somebody else is concerned, who is told when its answer is given, taken or dropped.
    fn begin_turn(&self) {
        let phase = self.phase();
        self.turn_free.store(phase == Phase::Idle as u8 || phase == Phase::Head as u8, Relaxed);
    }

    /// The connection's task wakes others in this turn.
    pub fn share_turn(&self) {
        self.turn_free.store(false, Relaxed);
    }

    /// Whether the answer must announce the end of the connection.
    pub fn answer_closes(&self) -> bool {
        self.last_answer.load(Relaxed)
    }

    /// The next answer is the connection's last.
    pub(super) fn close_after_answer(&self) {
        self.last_answer.store(true, Relaxed);
    }

    /// Bytes have arrived.
    pub(super) fn read(&self, bytes: &[u8]) {
        match self.phase() {
            phase if phase == Phase::Idle as u8 => {
                // Empty lines before a request are none of it (RFC 9112, section 2.2).
                if bytes.iter().any(|byte| !matches!(byte, b'\r' | b'\n')) {
                    self.set_phase(Phase::Head);
                }
                self.tail.keep(bytes);
            }
            // The head has its time as a whole, however slowly its bytes come.
            phase if phase == Phase::Head as u8 => self.tail.keep(bytes),
            phase if phase == Phase::Body as u8 => self.credit(bytes.len()),
            _ => {}
        }
    }

    /// Bytes of a body buy time, so that a byte now and then does not keep a connection for ever.
    fn credit(&self, bytes: usize) {
        let bytes = self.uncredited.load(Relaxed).saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.uncredited.store(bytes % BODY_BYTES_PER_TICK_MIN, Relaxed);
        let (now, since) = (self.clock.load(Relaxed), self.since.load(Relaxed));
        let used_up = now.wrapping_sub(since).saturating_sub(bytes / BODY_BYTES_PER_TICK_MIN);
        self.since.store(now.wrapping_sub(used_up), Relaxed);
    }

    /// A new request's body is to be read.
    pub fn begin_body(&self) {
        self.body_open.store(true, Relaxed);
        self.owed.store(0, Relaxed);
        self.uncredited.store(0, Relaxed);
        self.set_phase(Phase::Body);
    }

    /// All of the body has been read.
    pub fn end_body(&self) {
        self.body_open.store(false, Relaxed);
    }

    /// The next piece of a body is waited for: its time is the client's.
    pub fn await_body(&self) {
        if self.phase() != Phase::Body as u8 {
            self.since.store(self.clock.load(Relaxed).wrapping_sub(self.owed.load(Relaxed)), Relaxed);
            self.phase.store(Phase::Body as u8, Relaxed);
        }
    }

    /// A piece has come: until the next one is waited for, time is the handler's.
    pub fn body_came(&self) {
        if self.phase() == Phase::Body as u8 {
            self.owed.store(self.clock.load(Relaxed).wrapping_sub(self.since.load(Relaxed)), Relaxed);
            self.set_phase(Phase::Service);
        }
    }

    /// Whether the client has closed its sending half, so that a body which is not complete never will be.
    pub fn half_closed(&self) -> bool {
        self.half_closed.load(Relaxed)
    }

    /// The same; `cx` is woken when it happens.
    pub fn poll_half_closed(&self, cx: &Context<'_>) -> bool {
        let mut reader = self.body_reader.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.half_closed() && !reader.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *reader = Some(cx.waker().clone());
        }
        self.half_closed()
    }

    /// The client has closed its sending half. True: it may still wait for an answer, so hyper, which would end the
    /// connection, must not know yet. What had come before may still be unread.
    pub(super) fn note_end(&self) -> bool {
        let age = self.clock.load(Relaxed).wrapping_sub(self.since.load(Relaxed));
        let waits = self.phase() == Phase::Body as u8 || self.is_served() && age <= HALF_CLOSE_TICKS;
        if waits {
            self.ended.store(true, Relaxed);
        }
        waits
    }

    /// More is asked for than the client has sent before its end.
    pub(super) fn close_half(&self) {
        let mut reader = self.body_reader.lock().unwrap_or_else(PoisonError::into_inner);
        self.half_closed.store(true, Relaxed);
        reader.take().into_iter().for_each(Waker::wake);
    }

    /// Whether a request is with its service, or its answer is streamed.
    pub(super) fn is_served(&self) -> bool {
        [Phase::Service, Phase::Streaming].iter().any(|phase| *phase as u8 == self.phase())
    }

    /// Whether a body is not read to its end.
    pub(super) fn is_body_open(&self) -> bool {
        self.body_open.load(Relaxed)
    }

    /// Whether an answer is owed.
    pub(super) fn owes(&self) -> bool {
        self.phase() == Phase::Body as u8 || self.is_served()
    }

    /// The size of a request's first chunk, when its size line arrived together with the end of the head and nothing
    /// of the chunk itself has come yet. hyper knows it, but says nothing before the bytes are there. Asking a second
    /// time gives nothing.
    pub fn take_first_chunk_size(&self) -> Option<u64> {
        first_chunk_size(&self.tail.take())
    }

    /// A write went through or is blocked. `unacknowledged`: bytes that the client still has to take. An error: it has
    /// taken none for too long.
    pub(super) fn wrote(&self, blocked: bool, unacknowledged: impl Fn() -> u32) -> io::Result<()> {
        let was_blocked = self.write_blocked.load(Relaxed);
        if !blocked && !was_blocked {
            return Ok(());
        }
        if blocked && was_blocked && !self.expired() {
            return Ok(()); // Tried again for some other reason: no progress.
        }
        if blocked {
            // The kernel calls a socket writable only when a third of its buffer is free, which may take minutes.
            let before = self.unacknowledged.swap(unacknowledged(), Relaxed);
            if was_blocked && self.unacknowledged.load(Relaxed) >= before {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.expired.store(false, Relaxed);
        }
        self.write_blocked.store(blocked, Relaxed);
        self.touch();
        Ok(())
    }

    /// The client has taken too long; what it still sends is not read any more.
    pub fn expired(&self) -> bool {
        self.expired.load(Relaxed)
    }

    /// The client has taken too long to send, and not because it has an answer to read first.
    pub(super) fn read_expired(&self) -> bool {
        self.expired() && !self.write_blocked.load(Relaxed)
    }

    /// A request's head is arriving.
    pub(super) fn in_head(&self) -> bool {
        self.phase() == Phase::Head as u8
    }

    /// Nothing is owed and nothing has begun.
    pub(super) fn idle(&self) -> bool {
        self.phase() == Phase::Idle as u8 && !self.write_blocked.load(Relaxed)
    }

    /// Only the other side has to close.
    pub(super) fn lingering(&self) -> bool {
        self.phase() == Phase::Lingering as u8
    }

    /// Cuts the connection off if its client has taken too long: with a head, or without taking or giving a byte.
    pub(super) fn sweep(&self, limit_ticks: u32) {
        let phase = self.phase();
        let bounded =
            phase == Phase::Head as u8 || phase == Phase::Body as u8 || self.write_blocked.load(Relaxed);
        if bounded && self.clock.load(Relaxed).wrapping_sub(self.since.load(Relaxed)) > limit_ticks {
            self.expired.store(true, Relaxed);
            self.wake();
        } else if self.ended.load(Relaxed) {
            self.wake(); // To look whether the client is still there: nothing else would say so.
        }
    }

    /// The server closes: the connection ends once it owes nothing.
    pub(super) fn close(&self) {
        self.close_after_answer();
        self.closing.store(true, Relaxed);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }
}

/// What answers the requests of a server. A connection has one of its own.
pub trait Service: Clone + Send + Sync + 'static {
    /// The body of its answers.
    type Body: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static;

    /// Answers one request of a connection, about whose phases `activity` is told.
    fn answer(
        &self,
        request: http::Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> impl Future<Output = Result<http::Response<Self::Body>, Infallible>> + Send;
}

impl<S, F, B> Service for S
where
    S: Fn(http::Request<Incoming>, Arc<Activity>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<http::Response<B>, Infallible>> + Send,
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    type Body = B;

    fn answer(
        &self,
        request: http::Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> impl Future<Output = Result<http::Response<B>, Infallible>> + Send {
        self(request, activity.clone())
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve(
    stream: Stream,
    shared: Arc<Shared>,
    activity: Arc<Activity>,
    service: impl Service,
) {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&std::os::fd::AsFd::as_fd(&stream));
    let socket = Socket::new(stream, activity.clone());
    let patience = shared.last_call;
    let service = service_fn(|request| service.answer(request, &activity));
    let mut http = pin!(shared.builder.serve_connection(TokioIo::new(socket), service));
    let mut last_call: Option<Pin<Box<Sleep>>> = None;
    let mut closed = false;
    let ended = poll_fn(|cx: &mut Context<'_>| {
        activity.waker.get_or_init(|| cx.waker().clone());
        activity.begin_turn();
        if !closed && activity.closing.load(Relaxed) {
            let timer = last_call.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
            while !closed && timer.as_mut().poll(cx).is_ready() {
                if activity.idle() && !unread(fd) {
                    http.as_mut().graceful_shutdown();
                    closed = true;
                } else {
                    timer.as_mut().reset(Instant::now() + patience);
                }
            }
        }
        http.as_mut().poll(cx)
    });
    // Errors of a connection are its client's: a reset, a malformed request that has been answered.
    drop(ended.await);
}

/// Whether bytes of the client wait in the kernel that nobody has read yet.
#[expect(unsafe_code, reason = "the stream is inside hyper, only its descriptor is at hand")]
fn unread(fd: std::os::fd::RawFd) -> bool {
    // SAFETY: called only while the connection, which owns the descriptor, is alive and being polled.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    matches!(peek(fd), Ok(1..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_first_chunk_is_seen_only_right_behind_a_head() {
        for (tail, expected) in [
            (&b"chunked\r\n\r\n401\r\n"[..], Some(0x401)),
            (b"\r\n\r\n401;a=b\r\nxy", Some(0x401)),
            (b"\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", None),
            (b"\r\n\r\n401", None),
            (b"401\r\n", None),
            (b"\r\n\r\n", None),
            (b"\r\n\r\nzz\r\n", None),
        ] {
            let activity = Activity::new(Arc::default());
            activity.read(tail);
            assert_eq!(activity.take_first_chunk_size(), expected, "{}", tail.escape_ascii());
            assert_eq!(activity.take_first_chunk_size(), None);
        }
    }
}
