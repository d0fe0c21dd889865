//! The task of one shim worker: it takes jobs, writes them, reads answers, completes replies. It owns the connection
//! and every event on it; a client that leaves only drops the other end of a reply.
//!
//! One turn of the loop: refill the shim with one write, only then hand out the answers just read, then wait.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use super::batch::{Places, Seat, fail, jobs_again};
use super::deadline::Why;
use super::desk::{Bells, Desk};
use super::handshake::{Hello, Link};
use super::intake::Intake;
use super::order::Order;
use super::pace::Pace;
use super::protocol::v2::{self, ControlCode};
use super::stream::PipeWriter;
use super::wake::{Post, Wake, Wakes};
use crate::event::{Event, HandlerError};
use crate::logging::Logger;
use crate::queue::{Job, Member, Queue, Reply, ReplySender};
use crate::trace::Call;

/// Bits of an event's id on the wire that are its key; the rest counts up, so that a late second answer to one event
/// is not taken for the answer to the next.
const KEY_BITS: u32 = 16;
/// Events that one worker may hold; their keys fit into [`KEY_BITS`].
const HELD_MAX: usize = 1 << 15;

/// What the pool asks of a worker beside events.
#[derive(Debug)]
pub enum Command {
    /// Send a control frame when no event is in work; drain and terminate take no more events.
    Control(ControlCode, Duration, oneshot::Sender<Result<(), String>>),
    /// Take no more events, and say when none is in work.
    Finish(oneshot::Sender<()>),
    /// Close the connection when no event is in work.
    Close,
    /// End now: the process is gone, though something it forked may hold its socket.
    Abort,
}

/// How a worker's service ended.
#[derive(Debug)]
pub enum Ended {
    /// It was asked to close and the shim closed too.
    Closed,
    /// The shim's end of the connection is gone.
    Lost,
    /// It broke the protocol; what it did.
    Protocol(String),
    /// It is replaced although it broke nothing; why.
    Recycled(String),
    /// An event passed its deadline; its caller has been answered.
    TimedOut {
        /// Events had been written ahead, which go to other workers now: the shim must not get to them.
        ahead: bool,
    },
    /// An event was taken back that cannot be ended otherwise.
    Replaced {
        /// The shim has had its time to end it, or must not get to events that were written ahead.
        at_once: bool,
    },
}

/// An event that the shim holds.
#[derive(Debug)]
pub(super) struct InFlight {
    /// On the wire; never 0.
    pub(super) id: u32,
    /// `None` once answered (a stream is still open then).
    pub(super) reply: Option<ReplySender>,
    pub(super) event: Box<Event>,
    pub(super) submitted: Instant,
    /// Alone or in a batch.
    pub(super) seat: Seat,
    /// `None`: written ahead, not begun.
    pub(super) begun: Option<Instant>,
    /// What still comes of its body.
    pub(super) intake: Option<Box<Intake>>,
    pub(super) stream: Option<PipeWriter>,
    /// The shim has been told that nobody takes the answer any more.
    pub(super) cancelled: bool,
    /// When the shim was told that it must end, and why.
    pub(super) expired: Option<(Instant, Why)>,
}

/// Fixed settings of a worker.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Place in the pool.
    pub index: usize,
    /// Longest time of one event.
    pub event_timeout: Option<Duration>,
    /// Events in work at once.
    pub in_flight_max: usize,
    /// Events written ahead beyond those.
    pub ahead_max: usize,
}

/// See the module.
pub struct Worker {
    pub(super) link: Link,
    pub(super) hello: Hello,
    pub(super) settings: Settings,
    pub(super) queue: Arc<Queue<Desk>>,
    pub(super) post: Post,
    pub(super) bells: Bells,
    /// Keys of events whose bodies wait for room on the connection.
    pub(super) blocked: Vec<usize>,
    /// Keys of events that were taken back.
    pub(super) taken_back: Vec<usize>,
    /// Events taken back that the shim is given time to end.
    held_by: usize,
    listed: Listed,
    commands: mpsc::Receiver<Command>,
    pub(super) in_flight: Slab<InFlight>,
    /// Keys of `in_flight`.
    pub(super) order: Order,
    /// What they take of the shim's places.
    pub(super) places: Places,
    /// Answers read but not yet handed out.
    pub(super) done: Vec<(ReplySender, Reply)>,
    pace: Pace,
    /// Events written so far.
    written: u32,
    paused: bool,
    /// The connection is given up.
    pub(super) leaving: bool,
    closing: bool,
    control: Option<PendingControl>,
    /// Told when no event is in work.
    finishing: Option<oneshot::Sender<()>>,
    next_control: u32,
    pub(super) logger: Logger,
    /// How often an event was looked at.
    #[cfg(test)]
    pub(super) looks: usize,
}

/// A control frame asked for, and the one that was sent.
pub(super) struct PendingControl {
    code: ControlCode,
    allowed: Duration,
    /// 0: not sent yet.
    pub(super) id: u32,
    pub(super) done: oneshot::Sender<Result<(), String>>,
}

/// In which of the queue's lists the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    /// In none.
    No,
    /// Idle: it gets the next event.
    Idle,
    /// Busy, but would take an event ahead.
    Hungry,
}

impl Worker {
    /// A worker over a connection whose shim is ready.
    pub fn new(
        link: Link,
        hello: Hello,
        settings: Settings,
        queue: Arc<Queue<Desk>>,
        commands: mpsc::Receiver<Command>,
        logger: Logger,
    ) -> Self {
        if hello.streams_bodies {
            queue.stream_bodies();
        }
        if hello.web {
            queue.serve_web();
        }
        let pace = Pace::new(settings.ahead_max.min(hello.prefetch).min(HELD_MAX));
        let settings = Settings { in_flight_max: settings.in_flight_max.min(HELD_MAX), ..settings };
        let post = Post::default();
        if settings.in_flight_max > 1 {
            post.desk.set_places(settings.in_flight_max);
        }
        Self {
            link,
            hello,
            settings,
            queue,
            post,
            bells: Bells::default(),
            blocked: Vec::new(),
            taken_back: Vec::new(),
            held_by: 0,
            listed: Listed::No,
            commands,
            in_flight: Slab::new(),
            order: Order::default(),
            places: Places::default(),
            done: Vec::new(),
            pace,
            written: 0,
            paused: false,
            leaving: false,
            closing: false,
            control: None,
            finishing: None,
            next_control: 0,
            logger,
            #[cfg(test)]
            looks: 0,
        }
    }

    /// Serves events until the connection ends. The second value: events whose callers still wait, because only the
    /// end of the process tells what to say to them.
    pub async fn serve(mut self) -> (Ended, Vec<ReplySender>) {
        let ended = match self.turns().await {
            Ok(ended) | Err(ended) => ended,
        };
        let waiting = self.leave(&ended);
        if matches!(ended, Ended::TimedOut { .. } | Ended::Replaced { .. }) {
            // The CANCEL goes out, as far as there is room.
            let goodbye = poll_fn(|cx| Poll::Ready(self.link.writer.poll_flush(cx, &mut self.link.stream)));
            drop(goodbye.await);
        }
        (ended, waiting)
    }

    async fn turns(&mut self) -> Result<Ended, Ended> {
        loop {
            self.end_taken_back()?;
            self.refill();
            if self.settings.in_flight_max > 1 {
                self.post.desk.set_taken(self.places.taken);
            }
            self.send_control();
            let flushed =
                poll_fn(|cx| Poll::Ready(self.link.writer.poll_flush(cx, &mut self.link.stream))).await;
            if let Poll::Ready(Err(_)) = flushed {
                return Err(Ended::Lost);
            }
            for (reply, answer) in self.done.drain(..) {
                drop(reply.send(answer)); // The client may have left.
            }
            match poll_fn(|cx| self.poll_wake(cx)).await.map_err(|_| Ended::Lost)? {
                Wake::Read(0) if self.closing && self.in_flight.is_empty() => return Ok(Ended::Closed),
                Wake::Read(0) => return Err(Ended::Lost),
                Wake::Read(_) => self.read_frames().map_err(|error| Ended::Protocol(error.to_string()))?,
                Wake::Lent(job) => self.write_lent(job),
                Wake::Alarm => self.check_deadline()?,
                Wake::Told(Command::Abort) => return Err(Ended::Lost),
                Wake::Told(command) => self.obey(command),
                Wake::Again => {}
            }
        }
    }

    /// Writes what has been lent, all of it at once.
    fn write_lent(&mut self, job: Job) {
        self.listed = Listed::No;
        // One that was lent just before it was withdrawn would overtake what it was withdrawn for.
        let withdrawn = self.paused || self.is_held();
        if withdrawn {
            self.unlist();
        }
        let mut next = Some(job);
        while let Some(job) = next {
            if withdrawn {
                self.give_back(job)
            } else {
                self.write_job(job)
            }
            next = self.post.desk.take();
        }
    }

    /// Takes jobs while the shim may have more; otherwise the queue lists the worker.
    fn refill(&mut self) {
        let mut bunch = false;
        while !self.paused && !self.is_held() {
            let room = self.has_room(0);
            let taken = match self.listed {
                Listed::Idle => return,
                Listed::No | Listed::Hungry if room => {
                    self.queue.next(self.post.desk.clone()).map(|(_, job)| job)
                }
                Listed::Hungry => return,
                Listed::No if self.wants_ahead(bunch) => {
                    bunch = true;
                    self.queue.take_ahead(self.post.desk.clone())
                }
                Listed::No => return,
            };
            match taken {
                Some(job) => {
                    self.listed = Listed::No;
                    self.write_job(job);
                }
                None => self.listed = if room { Listed::Idle } else { Listed::Hungry },
            }
        }
    }

    /// Events are written ahead in bunches: not before half of them are used up, but then all in one write.
    fn wants_ahead(&self, begun_to: bool) -> bool {
        let ahead = self.pace.ahead();
        self.has_room(if begun_to { ahead } else { ahead.div_ceil(2) })
    }

    /// Whether a place is free, of those for events in work and `ahead` more.
    fn has_room(&self, ahead: usize) -> bool {
        self.places.taken < self.settings.in_flight_max + ahead && self.in_flight.len() < HELD_MAX
    }

    pub(super) fn write_job(&mut self, job: Job) {
        let Job { event, reply, submitted, batch, .. } = job;
        match batch {
            None => {
                self.places.taken += 1;
                self.write_event(event, reply, submitted, Seat::Alone, |_| {});
            }
            Some(rest) => self.write_batch(Member { event, reply }, rest, submitted),
        }
        self.begin(Instant::now());
    }

    /// Writes one event; `mark` may change its frame.
    pub(super) fn write_event(
        &mut self,
        mut event: Box<Event>,
        reply: ReplySender,
        submitted: Instant,
        seat: Seat,
        mark: impl FnOnce(&mut [u8]),
    ) {
        let place = self.in_flight.vacant_entry();
        let key = place.key();
        self.written = self.written.wrapping_add(1);
        let id = self.written << KEY_BITS | (key as u32 + 1);
        let reply = Some(reply);
        let frames = self.link.writer.frames();
        let start = frames.len();
        let write = if self.hello.web { v2::web::write_event } else { v2::write_event };
        write(frames, id, &event, self.settings.event_timeout);
        mark(&mut frames[start..]);
        self.link.writer.body(event.body.len(), event.body.pieces());
        let intake = event.body.stream.take().map(|stream| Box::new(Intake::new(stream)));
        place.insert(InFlight {
            id,
            reply,
            event,
            submitted,
            seat,
            begun: None,
            intake,
            stream: None,
            cancelled: false,
            expired: None,
        });
        self.order.push(key);
        self.post.rung.push(key);
    }

    /// Starts the clock of the events that the shim works on from now on.
    fn begin(&mut self, now: Instant) {
        while !self.leaving
            && let Some(key) = self.order.next()
        {
            let event = &mut self.in_flight[key];
            if !self.places.begin(event.seat, self.settings.in_flight_max) {
                return;
            }
            event.begun = Some(now);
            if event.intake.is_some() || event.cancelled {
                self.post.rung.push(key);
            }
            self.queue.counters().started(now.duration_since(event.submitted));
            self.order.begin();
            if let Some(limit) = self.settings.event_timeout {
                // Not moved for every event: when it rings it looks at who is oldest then.
                self.post.wake_at(now + limit);
            }
        }
    }

    /// The event is no longer with the shim. `handler`: the time in the handler as the shim saw it, which does not count
    /// how long either side waited for a processor. `error`: how the call failed, for its span.
    pub(super) fn remove(
        &mut self,
        key: usize,
        handler: Option<Duration>,
        error: Option<&'static str>,
    ) -> InFlight {
        let now = Instant::now();
        let event = self.in_flight.remove(key);
        self.trace(&event, error);
        self.order.remove(key);
        self.held_by -= usize::from(matches!(event.expired, Some((_, Why::TakenBack))));
        let taken = event.begun.map(|begun| now.duration_since(begun));
        let last = self.places.leave(event.seat, taken.is_some());
        if let Some(taken) = taken {
            // A batch is one call, and each of its events has that one's time.
            if last {
                self.pace.observe(handler.unwrap_or(taken), now);
            }
            self.count_finished(last, taken);
        } else {
            self.queue.dropped();
        }
        self.begin(now);
        event
    }

    /// The span of a call that ends now, where it is recorded.
    fn trace(&self, event: &InFlight, error: Option<&'static str>) {
        let Some(trace) = &event.event.trace else { return };
        let Some(begun) = event.begun else { return };
        let call = Call::begin(Some(trace), self.settings.index, event.submitted, begun);
        let error = event.expired.map(|(_, why)| why.word()).or(error);
        if let (Some(mut call), Some(error)) = (call, error) {
            call.fail(error);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Control(code, allowed, done) => {
                self.paused = code != ControlCode::Continue;
                if !self.hello.control {
                    done.send(Ok(())).unwrap_or_default();
                } else {
                    self.control = Some(PendingControl { code, allowed, id: 0, done });
                }
            }
            Command::Finish(done) => {
                self.paused = true;
                self.finishing = Some(done);
            }
            Command::Close | Command::Abort => {
                self.paused = true;
                self.closing = true;
            }
        }
        if self.paused {
            self.unlist();
        }
    }

    /// The queue lends it nothing more until it asks again.
    fn unlist(&mut self) {
        self.queue.withdraw(&self.post.desk);
        self.listed = Listed::No;
    }

    /// One more event that was taken back is given time to end; no others begin meanwhile.
    pub(super) fn hold(&mut self) {
        self.held_by += 1;
        self.unlist();
    }

    fn is_held(&self) -> bool {
        self.held_by > 0 || !self.taken_back.is_empty()
    }

    /// What had to wait until no event is in work.
    fn send_control(&mut self) {
        if !self.in_flight.is_empty() {
            return;
        }
        if let Some(finishing) = self.finishing.take() {
            finishing.send(()).unwrap_or_default();
        }
        if let Some(control) = &mut self.control
            && control.id == 0
        {
            self.next_control += 1;
            control.id = self.next_control;
            v2::write_control(self.link.writer.frames(), control.id, control.code, control.allowed);
        }
        if self.closing && self.control.is_none() && self.link.writer.is_empty() {
            // Fails only if the other side is gone already, which the next read says.
            rustix::net::shutdown(&self.link.stream, rustix::net::Shutdown::Write).unwrap_or_default();
        }
    }

    /// A streamed answer has ended, well or not.
    pub(super) fn count_stream(&self, well: bool) {
        let result = usize::from(!well);
        self.queue.counters().streams[result].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// The key of an open event.
    pub(super) fn key(&self, id: u32) -> Option<usize> {
        let key = (id & ((1 << KEY_BITS) - 1)).checked_sub(1)? as usize;
        self.in_flight.get(key).is_some_and(|event| event.id == id).then_some(key)
    }

    pub(super) fn take_control(&mut self, id: u32) -> Option<PendingControl> {
        self.control.take_if(|control| control.id == id && id != 0)
    }

    /// Leaves the queue; gives back what had not begun; returns the callers of what had.
    fn leave(&mut self, ended: &Ended) -> Vec<ReplySender> {
        self.queue.withdraw(&self.post.desk);
        for (reply, answer) in self.done.drain(..) {
            drop(reply.send(answer));
        }
        let mut waiting = Vec::new();
        let keys: Vec<usize> = self.order.keys().collect();
        let mut unbegun = Vec::new();
        for key in keys {
            let mut event = self.in_flight.remove(key);
            let last = self.places.leave(event.seat, event.begun.is_some());
            let Some(begun) = event.begun else {
                if event.reply.is_some() {
                    unbegun.push(event);
                } else {
                    // Its streamed answer had begun before its turn.
                    self.queue.dropped();
                    self.count_stream(false);
                }
                continue;
            };
            self.trace(&event, Some("worker_lost"));
            self.count_finished(last, begun.elapsed());
            if event.stream.is_some() {
                self.count_stream(false);
            }
            match ended {
                Ended::TimedOut { .. } | Ended::Replaced { .. } => {
                    fail(event.reply.take(), HandlerError::Lost("worker restarted".into()));
                }
                _ => waiting.extend(event.reply.take()),
            }
        }
        // From the last to the first, so that the first ends up at the head of the queue.
        for job in jobs_again(unbegun).into_iter().rev() {
            self.give_back(job);
        }
        while let Some(job) = self.post.desk.take() {
            self.give_back(job);
        }
        waiting
    }

    fn give_back(&self, job: Job) {
        if let Some((desk, job)) = self.queue.put_back(job) {
            desk.hand(job);
        }
    }

    pub(super) fn reply_later(&mut self, reply: Option<ReplySender>, answer: Reply) {
        if let Some(reply) = reply {
            self.done.push((reply, answer));
        }
    }
}

impl Wakes for Worker {
    type Told = Command;

    fn post(&mut self) -> &mut Post {
        &mut self.post
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let writer = &mut self.link.writer;
        Ok(!writer.is_empty() && writer.poll_flush(cx, &mut self.link.stream)?.is_ready())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.link.reader.poll_fill(cx, &mut self.link.stream)
    }

    fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<Command> {
        match self.commands.poll_recv(cx) {
            Poll::Ready(Some(command)) => Poll::Ready(command),
            _ => Poll::Pending, // Nobody asks anything any more.
        }
    }

    fn poll_events(&mut self, _: &mut Context<'_>) -> bool {
        self.look()
    }
}
