//! The task that owns the connections of one wrapper process: it starts and replaces lanes, reads the control
//! connection, and tells the wrapper by signals what protocol 1 has no messages for.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinSet};
use tokio::time::{Interval, MissedTickBehavior};

use super::Shared;
use super::lane::{Lane, LaneEnd, Order};
use super::lines::Lines;
use super::socket::Socket;
use super::start::dial;
use crate::config::Level;
use crate::fields;
use crate::logging::Origin;
use crate::queue::ReplySender;
use crate::runtime::shim::process::Signals;
use crate::runtime::shim::protocol::v1::ProtocolError;
use crate::runtime::shim::protocol::v1::line::{Control, read_control};
use crate::runtime::shim::protocol::v2::ControlCode;
use crate::runtime::shim::start::answer_all;
use crate::runtime::shim::worker::{Command, Ended};

/// Lanes of an async wrapper that are opened at once, at most.
const LANES_AT_ONCE: usize = 16;
/// How long an async wrapper may take to accept one more connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a connection that the wrapper closed before it served.
const DIAL_AGAIN: Duration = Duration::from_millis(100);
/// How long a lane's end may wait for the end of the process that explains it.
const EXPLAIN_WAIT: Duration = Duration::from_millis(100);
/// A callback is taken for ended when the wrapper has been silent for so long after it began.
const SILENCE: Duration = Duration::from_millis(200);
/// How often a callback that ends without a word is looked after.
const TICK: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Crew {
    shared: Arc<Shared>,
    /// `None`: the wrapper has none, and no callbacks either.
    control: Option<(UnixStream, Lines)>,
    signals: Signals,
    /// Where further lanes are dialled, and how many there may be.
    more: Option<(SocketAddr, usize)>,
    lanes: JoinSet<Result<LaneEnd, ProtocolError>>,
    /// How each running lane is told something.
    orders: Vec<(Id, mpsc::Sender<Order>)>,
    commands: mpsc::Receiver<Command>,
    /// Callers of lanes that ended, until it is known why.
    waiting: Vec<ReplySender>,
    explain_by: Option<Instant>,
    callback: Option<Callback>,
    /// Told when no event is in work; the receiver ends when that is so.
    finishing: Option<(mpsc::Receiver<()>, oneshot::Sender<()>)>,
    /// No further events are taken.
    finished: bool,
    closing: bool,
    /// Ticks while there is something to look after, however much else happens.
    tick: Interval,
}

/// A control that the pool has asked for.
struct Callback {
    code: ControlCode,
    done: oneshot::Sender<Result<(), String>>,
    until: Instant,
    stage: Stage,
}

enum Stage {
    /// Until no event is in work: an event or half a length on the connection would get lost.
    Quiescing(mpsc::Receiver<()>),
    /// The wrapper has its signal.
    Signalled,
    /// It ends when the wrapper closes this connection.
    Closing(Id),
}

/// What woke the task.
enum Wake {
    Lane(Id, Result<LaneEnd, ProtocolError>),
    Control(usize),
    Command(Option<Command>),
    NoneIdle,
    Tick,
    Quiet,
    Finished,
}

impl Crew {
    /// Over the connections of a wrapper that is ready.
    pub(super) fn new(
        shared: Arc<Shared>,
        control: Option<(UnixStream, Lines)>,
        signals: Signals,
        more: Option<(SocketAddr, usize)>,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared,
            control,
            signals,
            more,
            lanes: JoinSet::new(),
            orders: Vec::new(),
            commands,
            waiting: Vec::new(),
            explain_by: None,
            callback: None,
            finishing: None,
            finished: false,
            closing: false,
            tick,
        }
    }

    /// Lets a connection serve.
    pub(super) fn add(&mut self, socket: Socket, lines: Lines) {
        let (orders, inbox) = mpsc::channel(4);
        let lane = Lane::new(self.shared.clone(), socket, lines, inbox);
        let lane = self.lanes.spawn(async move { Ok(lane.serve().await) });
        self.orders.push((lane.id(), orders));
    }

    /// Opens one more connection and lets it serve.
    fn dial(&mut self, address: SocketAddr) {
        let (orders, mut inbox) = mpsc::channel(4);
        let shared = self.shared.clone();
        let lane = self.lanes.spawn(async move {
            let dialled = tokio::select! {
                dialled = tokio::time::timeout(DIAL_TIMEOUT, dial_until(address, &shared)) => dialled,
                // Whatever it is told, it need not begin any more.
                _ = inbox.recv() => return Ok(LaneEnd { ended: Ended::Closed, waiting: Vec::new() }),
            };
            match dialled {
                Ok((socket, lines)) => Ok(Lane::new(shared, socket, lines, inbox).serve().await),
                Err(_) => Err(ProtocolError::Deaf(address.to_string())),
            }
        });
        self.orders.push((lane.id(), orders));
    }

    /// Serves until the worker ends. The second value: events whose callers still wait, because only the end of the
    /// process tells what to say to them.
    pub(super) async fn serve(mut self) -> (Ended, Vec<ReplySender>) {
        // What it has said since it was ready.
        let mut woken = self.read_control();
        let ended = loop {
            if let Err(ended) = woken {
                break ended;
            }
            woken = match self.wake().await {
                Wake::Lane(id, end) => self.lane_ended(id, end),
                Wake::Control(0) => Err(self.lost()),
                Wake::Control(_) => self.read_control(),
                Wake::Command(command) => self.obey(command),
                Wake::NoneIdle => {
                    self.open_more();
                    Ok(())
                }
                Wake::Quiet => {
                    self.signal();
                    Ok(())
                }
                Wake::Finished => {
                    if let Some((_, done)) = self.finishing.take() {
                        done.send(()).unwrap_or_default();
                    }
                    Ok(())
                }
                Wake::Tick => self.check_time(),
            };
        };
        self.leave(&ended).await;
        (ended, self.waiting)
    }

    async fn wake(&mut self) -> Wake {
        let ticking = self.callback.is_some() || self.explain_by.is_some();
        let quiet = async {
            match &mut self.callback {
                Some(Callback { stage: Stage::Quiescing(quiet), .. }) => drop(quiet.recv().await),
                _ => std::future::pending().await,
            }
        };
        let finished = async {
            match &mut self.finishing {
                Some((quiet, _)) => drop(quiet.recv().await),
                None => std::future::pending().await,
            }
        };
        let control = async {
            match &mut self.control {
                Some((socket, lines)) => poll_fn(|cx| lines.poll_fill(cx, socket)).await.unwrap_or(0),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(end) = self.lanes.join_next_with_id() => match end {
                Ok((id, end)) => Wake::Lane(id, end),
                Err(error) => {
                    let id = error.id(); // It panicked.
                    Wake::Lane(id, Ok(LaneEnd { ended: Ended::Lost, waiting: Vec::new() }))
                }
            },
            read = control => Wake::Control(read),
            command = self.commands.recv() => Wake::Command(command),
            () = self.shared.none_idle.notified(), if self.more.is_some() && !self.closing => Wake::NoneIdle,
            () = quiet => Wake::Quiet,
            () = finished => Wake::Finished,
            _ = self.tick.tick(), if ticking => Wake::Tick,
        }
    }

    /// What the end of a connection means for the worker.
    fn lane_ended(&mut self, id: Id, end: Result<LaneEnd, ProtocolError>) -> Result<(), Ended> {
        self.orders.retain(|(lane, _)| *lane != id);
        let LaneEnd { ended, waiting } = end.map_err(|error| Ended::Protocol(error.to_string()))?;
        let Some((address, _)) = self.more else {
            self.waiting.extend(waiting);
            return Err(ended);
        };
        match ended {
            // Only this connection is out of step; the process and its other events go on.
            Ended::Protocol(error) => {
                self.shared.logger.error("Connection to the wrapper is replaced", fields! {"err" => error});
                answer_all(waiting, &format!("the connection that had this event was lost: {error}"));
            }
            Ended::TimedOut { .. } | Ended::Replaced { .. } | Ended::Recycled(_) => {
                answer_all(waiting, "worker restarted")
            }
            Ended::Closed => {
                if matches!(self.callback, Some(Callback { stage: Stage::Closing(lane), .. }) if lane == id) {
                    self.callback_done();
                }
                return Ok(());
            }
            Ended::Lost => {
                self.waiting.extend(waiting);
                self.explain_by.get_or_insert_with(|| Instant::now() + EXPLAIN_WAIT);
            }
        }
        if !self.closing && !self.finished && self.callback.is_none() {
            self.dial(address);
        }
        Ok(())
    }

    /// More connections, as there is more to do: twice as many as there are, within bounds.
    fn open_more(&mut self) {
        if self.callback.is_none() && !self.finished {
            let now = self.lanes.len();
            self.open(now + now.clamp(1, LANES_AT_ONCE));
        }
    }

    /// Opens connections until there are so many, if there may be.
    pub(super) fn open(&mut self, lanes: usize) {
        let Some((address, lanes_max)) = self.more else { return };
        (self.lanes.len()..lanes.min(lanes_max)).for_each(|_| self.dial(address));
    }

    fn read_control(&mut self) -> Result<(), Ended> {
        while let Some((_, lines)) = &mut self.control {
            let message = match lines.next_line() {
                Ok(Some(line)) => read_control(line),
                Ok(None) => return Ok(()),
                Err(error) => return Err(Ended::Protocol(error.to_string())),
            };
            match message {
                Ok(Control::Log(log)) => self.shared.record(log, Origin::default()),
                Ok(Control::Drained) => {
                    if self.callback.as_ref().is_some_and(|callback| callback.code == ControlCode::Drain) {
                        self.callback_done();
                    }
                }
                // No trigger of ours needs explicit acknowledgements yet.
                Ok(Control::Ready | Control::Ack { .. } | Control::Other) => {}
                Err(error) => self.shared.complain(Level::Warn, error.text(), || fields! {}),
            }
        }
        Ok(())
    }

    fn obey(&mut self, command: Option<Command>) -> Result<(), Ended> {
        match command {
            None | Some(Command::Abort) => return Err(Ended::Lost),
            Some(Command::Control(ControlCode::Continue, _, done)) => {
                self.signals.send(Signal::CONT);
                self.callback = None;
                self.tell(|| Order::Resume);
                self.open_more();
                done.send(Ok(())).unwrap_or_default();
            }
            Some(Command::Control(code, allowed, done)) => {
                let (busy, quiet) = mpsc::channel(1);
                self.tell(|| Order::Pause(busy.clone()));
                let until = Instant::now() + allowed;
                self.callback = Some(Callback { code, done, until, stage: Stage::Quiescing(quiet) });
            }
            Some(Command::Finish(done)) => {
                let (busy, quiet) = mpsc::channel(1);
                self.tell(|| Order::Pause(busy.clone()));
                self.finished = true;
                self.finishing = Some((quiet, done));
            }
            Some(Command::Close) => {
                self.close();
                if self.more.is_some() || !self.shared.wrapper.dialect.ends_with_connection {
                    self.signals.send(Signal::TERM); // This wrapper does not end by itself.
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        self.closing = true;
        self.shared.closing.store(true, Ordering::Relaxed);
        self.tell(|| Order::Close);
    }

    fn tell(&self, order: impl Fn() -> Order) {
        for (_, lane) in &self.orders {
            // A lane reads all its orders in time; one that has ended needs none.
            drop(lane.try_send(order()));
        }
    }

    /// No event is in work: the signal can neither lose one nor interrupt its handler.
    fn signal(&mut self) {
        if !self.shared.wrapper.dialect.control {
            return self.callback_done(); // There is nothing to call.
        }
        self.shared.signal_seen.store(false, Ordering::Relaxed);
        self.shared.callback_ended.store(false, Ordering::Relaxed);
        self.shared.callback_begun.store(false, Ordering::Relaxed);
        let Some(callback) = &mut self.callback else { return };
        callback.stage = Stage::Signalled;
        match callback.code {
            ControlCode::Drain => self.signals.send(Signal::USR2),
            ControlCode::Terminate | ControlCode::Continue => self.signals.send(Signal::USR1),
        }
    }

    fn check_time(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        if self.explain_by.is_some_and(|by| by <= now) {
            // The process goes on without that connection.
            self.explain_by = None;
            answer_all(
                std::mem::take(&mut self.waiting),
                "the wrapper closed the connection that had this event",
            );
        }
        let Some(callback) = &self.callback else { return Ok(()) };
        let begun = self.shared.callback_begun.load(Ordering::Relaxed);
        let seen = self.shared.signal_seen.load(Ordering::Relaxed);
        match (&callback.stage, callback.code) {
            (Stage::Signalled, _) if self.more.is_some() && seen => self.close_one(),
            (Stage::Closing(_), _) if self.shared.callback_ended.load(Ordering::Relaxed) => {
                self.callback_done()
            }
            // The wrapper reads the end of the stream once its callback has returned, and ends: that cannot be missed.
            (Stage::Signalled, ControlCode::Terminate) if begun && !self.closing => {
                self.close();
            }
            (Stage::Signalled, ControlCode::Drain) if begun && self.shared.silent_for() >= SILENCE => {
                self.callback_done();
            }
            _ if callback.until <= now || callback.done.is_closed() => {
                self.callback = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// An async wrapper calls back at the end of a connection, before it closes its side.
    fn close_one(&mut self) {
        let closed = self.orders.iter().find(|(_, lane)| lane.try_send(Order::Close).is_ok());
        if let (Some((id, _)), Some(callback)) = (closed, &mut self.callback) {
            callback.stage = Stage::Closing(*id);
        }
    }

    fn callback_done(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback.done.send(Ok(())).unwrap_or_default();
        }
    }

    /// The control connection has ended. One that was told to ends that way, too.
    fn lost(&self) -> Ended {
        if self.closing { Ended::Closed } else { Ended::Lost }
    }

    /// Ends all lanes and collects their callers.
    async fn leave(&mut self, ended: &Ended) {
        self.callback_done();
        self.orders.clear(); // Which they read as an order to end.
        while let Some(end) = self.lanes.join_next().await {
            let Ok(Ok(end)) = end else { continue };
            if matches!(ended, Ended::TimedOut { .. } | Ended::Replaced { .. }) {
                answer_all(end.waiting, "worker restarted");
            } else {
                self.waiting.extend(end.waiting);
            }
        }
        self.shared.complaints.say_rest(&self.shared.logger);
    }
}

/// Connects until that works. What does not is said by the end of the process, or by nobody in time.
async fn dial_until(address: SocketAddr, shared: &Shared) -> (Socket, Lines) {
    loop {
        match dial(address, shared).await {
            Ok(connection) => return connection,
            Err(_) => tokio::time::sleep(DIAL_AGAIN).await,
        }
    }
}
