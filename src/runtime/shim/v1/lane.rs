//! One connection for events: it takes a job, writes it, reads lines until the answer, and never mixes two events up:
//! an answer that nobody waits for ends the connection.
//!
//! One turn of the loop is that of [`super::super::worker`]: the next event is written before the answer just read
//! is handed out.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::lines::Lines;
use super::socket::Socket;
use super::transit::Passage;
use super::{Shared, Transport};
use crate::event::{Event, EventBody, HandlerError, Response};
use crate::fields;
use crate::queue::{Job, Member, Reply, ReplySender};
use crate::runtime::shim::connection::Writer;
use crate::runtime::shim::protocol::v1::answer::Answers;
use crate::runtime::shim::protocol::v1::event::{Frame, View};
use crate::runtime::shim::stream::PipeWriter;
use crate::runtime::shim::wake::{Post, Wake, Wakes};
use crate::runtime::shim::worker::Ended;
use crate::trace::Call;

mod batch;
mod said;
mod wake;

/// Bytes of a streamed answer that may wait for the client before nothing more is read.
const HELD_BYTES_MAX: usize = 256 << 10;
/// A wrapper whose handler has ended has said by then what it has to say.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// A stream that nobody takes any more may end by itself within this time.
const GONE_GRACE: Duration = Duration::from_secs(1);
/// Bytes of a line that are shown in a message.
const SHOWN_BYTES: usize = 120;

/// What the crew tells a lane.
#[derive(Debug)]
pub(super) enum Order {
    /// Take no more events; drop the sender when none is in work.
    Pause(mpsc::Sender<()>),
    /// Take events again.
    Resume,
    /// Close the connection when no event is in work, and end when the wrapper has closed it, too.
    Close,
    /// End now.
    Abort,
}

/// How a lane ended, and the callers who still wait because only the crew or the keeper knows what to say.
pub(super) struct LaneEnd {
    pub(super) ended: Ended,
    pub(super) waiting: Vec<ReplySender>,
}

/// The event in work, or the batch.
struct Current {
    event: Box<Event>,
    /// `None` once answered; a stream is still open then.
    reply: Option<ReplySender>,
    /// The further events of a batch; `None`: this is no batch.
    batch: Option<Vec<Member>>,
    begun: Instant,
    stream: Option<Streaming>,
    /// The wrapper said how long the handler took, and has not said what it answered.
    measured: Option<Instant>,
    /// Spans of the events that are recorded; they end with this.
    calls: Vec<Call>,
}

/// A streamed answer under way.
struct Streaming {
    /// `None`: it is thrown away.
    pipe: Option<PipeWriter>,
    /// Bytes that the client has not taken.
    held: usize,
    /// Since when nobody takes it, be it that the client has left or that it has failed.
    gone: Option<Instant>,
}

/// See the module.
pub(super) struct Lane {
    shared: Arc<Shared>,
    socket: Socket,
    lines: Lines,
    writer: Writer,
    frame: Frame,
    /// The way of the frame being written, where it has to be waited for.
    passage: Option<Passage>,
    post: Post,
    idle: bool,
    orders: mpsc::Receiver<Order>,
    current: Option<Current>,
    /// Answers read but not yet handed out.
    done: Vec<(ReplySender, Reply)>,
    /// The wrapper still owes the duration of the event before.
    owes_metric: bool,
    quiet: Option<mpsc::Sender<()>>,
    paused: bool,
    closing: bool,
    shut: bool,
    /// The trigger of the event in work wants it no more.
    taken_back: bool,
    quick_ack: bool,
}

impl Lane {
    /// Over a connection whose wrapper is ready; `lines` may hold what it has said since.
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: Socket,
        lines: Lines,
        orders: mpsc::Receiver<Order>,
    ) -> Self {
        let quick_ack = shared.wrapper.dialect.transport == Transport::Tcp;
        Self {
            shared,
            socket,
            lines,
            writer: Writer::default(),
            frame: Frame::default(),
            passage: None,
            post: Post::default(),
            idle: false,
            orders,
            current: None,
            done: Vec::new(),
            owes_metric: false,
            quiet: None,
            paused: false,
            closing: false,
            shut: false,
            taken_back: false,
            quick_ack,
        }
    }

    /// Serves events until the connection ends.
    pub(super) async fn serve(mut self) -> LaneEnd {
        let ended = match self.turns().await {
            Ok(ended) | Err(ended) => ended,
        };
        let waiting = self.leave(&ended);
        LaneEnd { ended, waiting }
    }

    async fn turns(&mut self) -> Result<Ended, Ended> {
        self.read_lines()?;
        loop {
            if std::mem::take(&mut self.taken_back) {
                return Err(self.end_taken_back());
            }
            self.refill();
            poll_fn(|cx| Poll::Ready(self.poll_write(cx))).await.map_err(|_| Ended::Lost)?;
            for (reply, answer) in self.done.drain(..) {
                drop(reply.send(answer)); // The client may have left.
            }
            if self.current.is_none() {
                self.quiet = None;
            }
            // A wrapper that ends may reset the connection, or be seen to end by another one first.
            let Ok(wake) = poll_fn(|cx| self.poll_wake(cx)).await else { return self.ended_by_wrapper() };
            match wake {
                Wake::Read(0) => return self.ended_by_wrapper(),
                Wake::Read(_) => self.read_lines()?,
                Wake::Lent(job) => {
                    self.not_idle();
                    // One that was lent just before the lane was withdrawn would reach the wrapper beside a signal.
                    if self.paused { self.give_back(job) } else { self.write_job(job) }
                }
                Wake::Alarm => self.check_time()?,
                Wake::Told(Order::Abort) => {
                    self.tell_unfinished();
                    return Err(Ended::Lost);
                }
                Wake::Told(order) => self.obey(order),
                Wake::Again => {}
            }
        }
    }

    fn ended_by_wrapper(&mut self) -> Result<Ended, Ended> {
        self.tell_unfinished();
        if self.closing && self.current.is_none() { Ok(Ended::Closed) } else { Err(Ended::Lost) }
    }

    fn tell_unfinished(&self) {
        let unfinished = self.lines.unfinished();
        if !unfinished.is_empty() && !self.closing {
            let shown = String::from_utf8_lossy(&unfinished[..unfinished.len().min(SHOWN_BYTES)]);
            let fields = fields! {"line" => shown};
            self.shared.logger.warn("The wrapper's connection ended in the middle of a line", fields);
        }
    }

    /// Takes a job while there is none; otherwise the queue lists the lane.
    fn refill(&mut self) {
        if self.current.is_some() || self.idle || self.paused || self.passage.is_some() {
            return;
        }
        match self.shared.queue.next(self.post.desk.clone()) {
            Some((_, job)) => {
                self.write_job(job);
                if self.shared.idle.load(Ordering::Relaxed) == 0 {
                    self.shared.none_idle.notify_one();
                }
            }
            None => {
                self.idle = true;
                self.shared.idle.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn not_idle(&mut self) {
        if std::mem::take(&mut self.idle) && self.shared.idle.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.none_idle.notify_one();
        }
    }

    fn write_job(&mut self, job: Job) {
        let Job { event, reply, submitted, batch, .. } = job;
        let begun = Instant::now();
        let reply = Some(reply);
        let calls = Vec::new();
        let mut current = Current { event, reply, batch, begun, stream: None, measured: None, calls };
        current.trace(self.shared.index, submitted);
        self.write_events(&current);
        self.passage = self.shared.transit.as_ref().map(|transit| Passage::new(transit, self.frame.size()));
        for _ in current.events() {
            self.shared.queue.counters().started(begun.duration_since(submitted));
        }
        if let Some(limit) = self.shared.event_timeout {
            // Not moved for every event: when it rings it looks at how old the event of then is.
            self.post.wake_at(begun + limit);
        }
        self.current = Some(current);
    }

    fn write_events(&mut self, current: &Current) {
        if current.batch.is_none() {
            let view = View::of(&current.event);
            self.frame.write(self.shared.encoding, &view);
            return self.write_frame(view.bytes());
        }
        let views: Vec<View<'_>> = current.events().map(View::of).collect();
        self.frame.write_batch(self.shared.encoding, &views);
        self.write_frame(views.iter().filter_map(View::bytes));
    }

    fn write_frame<'a>(&mut self, bodies: impl IntoIterator<Item = &'a EventBody>) {
        for (before, body) in self.frame.before_bodies().zip(bodies) {
            self.writer.frames().extend_from_slice(before);
            self.writer.body(body.len(), body.pieces());
        }
        self.writer.frames().extend_from_slice(self.frame.rest());
    }

    fn check_time(&mut self) -> Result<(), Ended> {
        let Some(current) = &self.current else { return Ok(()) };
        let now = Instant::now();
        let due = self.shared.event_timeout.map(|limit| current.begun + limit);
        let measured = current.measured.filter(|_| self.shared.wrapper.streams);
        let answer_due = measured.map(|at| at + ANSWER_GRACE);
        let gone = current.stream.as_ref().and_then(|stream| stream.gone);
        let gone_due = gone.map(|at| at + GONE_GRACE);
        if due.is_some_and(|due| due <= now) {
            return Err(self.time_out());
        }
        if gone_due.is_some_and(|due| due <= now) {
            return Err(Ended::Recycled("nobody takes the streamed answer that it goes on with".into()));
        }
        if answer_due.is_some_and(|due| due <= now) {
            self.finish_without_a_word();
            return Err(Ended::Recycled("it did not say what the handler answered".into()));
        }
        if let Some(next) = [due, answer_due, gone_due].into_iter().flatten().min() {
            self.post.wake_at(next);
        }
        Ok(())
    }

    /// The handler has ended, and the wrapper says nothing more: a generator that yielded nothing.
    fn finish_without_a_word(&mut self) {
        if self.current.as_ref().is_some_and(|current| current.batch.is_some()) {
            return self.finish_batch(Ok(Answers::List(Vec::new())));
        }
        self.finish(Ok(Response::default()));
    }

    fn time_out(&mut self) -> Ended {
        self.shared.queue.counters().event_timeouts.fetch_add(1, Ordering::Relaxed);
        if let Some(mut current) = self.take_current() {
            current.fail("timeout");
            self.end_stream(&mut current, Err(HandlerError::TimedOut));
            for reply in current.into_replies() {
                drop(reply.send(Err(HandlerError::TimedOut.into())));
            }
        }
        Ended::TimedOut { ahead: false }
    }

    /// The event has left the wrapper.
    fn take_current(&mut self) -> Option<Current> {
        let current = self.current.take()?;
        let taken = current.begun.elapsed();
        for _ in 1..current.events().count() {
            self.shared.queue.finished_beside_others(self.shared.index, taken);
        }
        self.shared.queue.finished(self.shared.index, taken);
        Some(current)
    }

    /// The event in work ends with this.
    fn finish(&mut self, answer: Reply) {
        let Some(mut current) = self.take_current() else { return };
        if answer.as_ref().map_or(true, |response| response.status >= 500) {
            current.fail("handler_failed");
        }
        if let Some(reply) = current.reply.take() {
            self.done.push((reply, answer));
        }
    }

    /// A streamed answer has ended, well or not.
    fn end_stream(&self, current: &mut Current, result: Result<(), HandlerError>) {
        let Some(stream) = current.stream.take() else { return };
        // One that is thrown away has failed before.
        let place = usize::from(result.is_err() || stream.pipe.is_none());
        if place == 1 {
            current.fail("stream_failed");
        }
        self.shared.queue.counters().streams[place].fetch_add(1, Ordering::Relaxed);
        if let Some(pipe) = stream.pipe {
            pipe.end(result);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Pause(quiet) => {
                self.paused = true;
                self.quiet = Some(quiet);
            }
            Order::Resume => self.paused = false,
            Order::Close | Order::Abort => {
                self.paused = true;
                self.closing = true;
            }
        }
        if self.paused {
            self.shared.queue.withdraw(&self.post.desk);
            if std::mem::take(&mut self.idle) {
                self.shared.idle.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// What was lent, and has not begun.
    fn give_back(&self, job: Job) {
        if let Some((desk, job)) = self.shared.queue.put_back(job) {
            desk.hand(job);
        }
    }

    /// Leaves the queue; gives back what had not begun; returns the callers of what had.
    fn leave(&mut self, ended: &Ended) -> Vec<ReplySender> {
        self.shared.queue.withdraw(&self.post.desk);
        self.not_idle();
        for (reply, answer) in self.done.drain(..) {
            drop(reply.send(answer));
        }
        while let Some(job) = self.post.desk.take() {
            self.give_back(job);
        }
        let Some(mut current) = self.take_current() else { return Vec::new() };
        current.fail("worker_lost");
        let cause = match ended {
            Ended::Protocol(error) => error.clone(),
            _ => "the worker ended in the middle of a streamed answer".to_owned(),
        };
        self.end_stream(&mut current, Err(HandlerError::Lost(cause)));
        current.into_replies()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;
    use tokio::sync::Notify;

    use super::*;
    use crate::logging::Logger;
    use crate::metrics::PoolCounters;
    use crate::queue::Queue;
    use crate::queue::tests::event;
    use crate::runtime::shim::dialects::PYTHON;
    use crate::runtime::shim::v1::Wrapper;

    fn shared() -> Shared {
        Shared {
            index: 0,
            event_timeout: None,
            answer_bytes_max: 1 << 10,
            encoding: PYTHON.encoding,
            wrapper: Wrapper::find(Path::new("/nonexistent"), &PYTHON),
            transit: None,
            queue: Arc::new(Queue::new(PoolCounters::new(1), 1)),
            logger: Logger::silent(),
            idle: AtomicUsize::new(0),
            none_idle: Notify::new(),
            warned: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            signal_seen: AtomicBool::new(false),
            callback_ended: AtomicBool::new(false),
            callback_begun: AtomicBool::new(false),
            last_record: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    #[tokio::test]
    async fn an_event_lent_to_a_lane_that_has_just_been_paused_waits_until_it_may_go_on() {
        let (ours, mut wrapper) = UnixStream::pair().unwrap();
        let shared = Arc::new(shared());
        let (orders, inbox) = mpsc::channel(4);
        let lane = Lane::new(shared.clone(), Socket::Left(ours), Lines::new(64, 64), inbox);
        let desk = lane.post.desk.clone();
        let serving = tokio::spawn(lane.serve());
        let (busy, mut quiet) = mpsc::channel(1);
        orders.send(Order::Pause(busy)).await.unwrap();
        assert!(quiet.recv().await.is_none());
        let (job, _client) = Job::new(event("late"), Duration::ZERO);
        desk.hand(job); // As whoever had taken the lane from the queue does.
        let given_back = async {
            while shared.queue.counters().waiting.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), given_back).await.unwrap();
        assert!(wrapper.try_read(&mut [0; 1]).is_err(), "nothing has been written");
        orders.send(Order::Resume).await.unwrap();
        assert!(wrapper.read_u32().await.unwrap() > 0);
        drop(orders);
        assert_eq!(serving.await.unwrap().waiting.len(), 1);
    }
}
