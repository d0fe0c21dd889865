//! One event loop: connections, what each is at, and when the next request is due.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketType};

use super::answer::{Answer, Parser};
use super::{Latencies, Outcome, Pace, Plan, Question, latencies};

const BUFFER: usize = 256 * 1024;
const EVENTS: usize = 512;
/// How late a wait may end at a fixed rate, nanoseconds; the kernel's own value is 50 µs. With less a wait for each of very
/// many requests takes nearly a CPU, and the server has to do with what is left.
const TIMER_SLACK: u64 = 20_000;
/// After the end of a fixed rate: how long what was due is still asked.
const ASKING: Duration = Duration::from_secs(3);
/// A fixed rate is asked for so long before it counts: what connections cost when they are new, and CPUs that were idle,
/// would be the slowest hundredth of a short round.
const LEAD: Duration = Duration::from_millis(20);
/// After the end: how long answers that are owed are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Connections from one source address; ports are not endless.
const PER_SOURCE: u32 = 20_000;
/// So many failures in a row, none answered between, end a run: nobody is there.
const HOPELESS: u64 = 1_000;

struct Connection {
    stream: TcpStream,
    parser: Parser,
    question: usize,
    sent: usize,
    /// Since when an answer is owed; none: it is free.
    asked: Option<Instant>,
}

struct Drive<'a> {
    plan: &'a Plan<'a>,
    first: u32,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    free: VecDeque<usize>,
    next_question: usize,
    buffer: Vec<u8>,
    /// When the measurement begins; of what was due earlier no time counts.
    begin: Instant,
    /// When it ends; what is answered later is no throughput.
    end: Instant,
    answered: u64,
    completed: u64,
    failures: u64,
    unasked: u64,
    failures_in_a_row: u64,
    first_failure: Option<String>,
    latencies: Latencies,
    lateness: Latencies,
    /// Nothing is asked any more.
    ending: bool,
    /// CPU time of this thread at the start, and its share of the time until the end.
    cpu: Duration,
    busy: Option<f64>,
}

/// Asks as planned on connections from number `first` on.
pub(super) fn run(plan: &Plan<'_>, first: u32) -> Result<Outcome> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK)).ok();
    let mut drive = Drive {
        plan,
        first,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        connections: Vec::new(),
        free: VecDeque::new(),
        next_question: first as usize % plan.questions.len(),
        buffer: vec![0; BUFFER],
        begin: Instant::now(),
        end: Instant::now(),
        answered: 0,
        completed: 0,
        failures: 0,
        unasked: 0,
        failures_in_a_row: 0,
        first_failure: None,
        latencies: latencies()?,
        lateness: latencies()?,
        ending: false,
        cpu: Duration::ZERO,
        busy: None,
    };
    for index in 0..plan.connections {
        let stream = drive.connect(index as usize)?;
        let parser = Parser::new();
        drive.connections.push(Connection { stream, parser, question: 0, sent: 0, asked: None });
    }
    let started = Instant::now();
    drive.begin = started + if matches!(plan.pace, Pace::Rate(_)) { LEAD } else { Duration::ZERO };
    (drive.end, drive.cpu) = (drive.begin + plan.length, cpu_time());
    match plan.pace {
        Pace::Closed => drive.closed(started)?,
        Pace::Rate(rate) => drive.at_rate(started, rate)?,
    }
    drive.drain(started)?;
    let late_p99_micros = drive.lateness.value_at_quantile(0.99) as f64 / 1e3;
    let (seconds, busy) = (plan.length.as_secs_f64(), drive.busy.unwrap_or(f64::NAN));
    let Drive { answered, completed, failures, unasked, first_failure, latencies, .. } = drive;
    Ok(Outcome {
        answered,
        completed,
        seconds,
        latencies,
        failures,
        unasked,
        first_failure,
        busy,
        late_p99_micros,
    })
}

/// Of this thread.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}

impl Drive<'_> {
    fn closed(&mut self, started: Instant) -> Result<()> {
        for index in 0..self.connections.len() {
            self.ask(index, Instant::now())?;
        }
        let mut events = Vec::with_capacity(EVENTS);
        while Instant::now() < self.end {
            self.wait(&mut events, self.end)?;
        }
        self.note_end(started);
        Ok(())
    }

    fn at_rate(&mut self, started: Instant, rate: f64) -> Result<()> {
        self.free.extend(0..self.connections.len());
        let (end, mut number) = (self.end, 0_u64);
        let due_at = |number: u64| started + Duration::from_secs_f64(number as f64 / rate);
        let mut events = Vec::with_capacity(EVENTS);
        // Whether those that are due now had to wait for a connection.
        let mut starved = false;
        loop {
            let now = Instant::now();
            let mut due = due_at(number);
            while due <= now && due < end {
                let Some(index) = self.free.pop_front() else {
                    starved = true;
                    break;
                };
                if !starved && due >= self.begin {
                    self.lateness.saturating_record(nanos(now.elapsed() + (now - due)));
                }
                self.ask(index, due)?;
                number += 1;
                due = due_at(number);
            }
            if due > now {
                starved = false;
            }
            if now >= end {
                self.note_end(started);
            }
            if due >= end && now >= end || now >= end + ASKING {
                break;
            }
            let until = if due <= now { end + ASKING } else { due.min(end) };
            self.wait(&mut events, until)?;
        }
        self.count_unasked(number, due_at);
        Ok(())
    }

    /// The measurement is over; what follows is not the server's throughput.
    fn note_end(&mut self, started: Instant) {
        let share = || (cpu_time() - self.cpu).as_secs_f64() / started.elapsed().as_secs_f64();
        self.busy = self.busy.or_else(|| Some(share()));
    }

    /// What was due and never asked would have taken at least until now.
    fn count_unasked(&mut self, mut number: u64, due_at: impl Fn(u64) -> Instant) {
        let now = Instant::now();
        while due_at(number) < self.end {
            let due = due_at(number);
            self.unasked += u64::from(due >= self.begin);
            self.record(due, now);
            number += 1;
        }
    }

    /// What was asked or due since then has been answered, or given up, now.
    fn record(&mut self, since: Instant, now: Instant) {
        if since >= self.begin {
            self.latencies.saturating_record(nanos(now - since));
        }
    }

    /// Waits for the answers that are owed: the next measurement is not to find the server busy with them, and one that
    /// never comes is a failure.
    fn drain(&mut self, started: Instant) -> Result<()> {
        self.ending = true;
        let last = Instant::now() + PATIENCE;
        let mut events = Vec::with_capacity(EVENTS);
        while self.connections.iter().any(|connection| connection.asked.is_some()) && Instant::now() < last {
            self.wait(&mut events, last)?;
        }
        self.note_end(started);
        for index in 0..self.connections.len() {
            if let Some(since) = self.connections[index].asked {
                self.record(since, Instant::now());
                self.count_failure(&format!("no answer within {PATIENCE:?} after the end"))?;
            }
        }
        Ok(())
    }

    /// Waits for sockets until then, and serves them.
    fn wait(&mut self, events: &mut Vec<epoll::Event>, until: Instant) -> Result<()> {
        events.clear();
        let timeout = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(timeout).context("a wait is too long")?;
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll failed"),
        }
        for event in events.iter() {
            self.serve(event.data.u64() as usize)?;
        }
        Ok(())
    }

    fn ask(&mut self, index: usize, since: Instant) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.question = self.next_question;
        self.next_question = (self.next_question + 1) % self.plan.questions.len();
        (connection.sent, connection.asked) = (0, Some(since));
        if let Err(error) = connection.send(self.plan.questions) {
            self.fail(index, &error)?;
        }
        Ok(())
    }

    /// Something has happened on this connection.
    fn serve(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        if let Err(error) = connection.send(self.plan.questions) {
            return self.fail(index, &error);
        }
        loop {
            match self.connections[index].stream.read(&mut self.buffer) {
                Ok(0) => return self.closed_by_server(index),
                Ok(count) => {
                    let connection = &mut self.connections[index];
                    let expected = self.plan.questions[connection.question].answer.as_deref();
                    match connection.parser.take(&self.buffer[..count], expected) {
                        Ok(Some(answer)) => self.got(index, answer)?,
                        Ok(None) => {}
                        Err(error) => return self.fail(index, &error),
                    }
                    if count < BUFFER {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.fail(index, &error.into()),
            }
        }
    }

    fn closed_by_server(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        let expected = self.plan.questions[connection.question].answer.as_deref();
        match (connection.parser.closed(expected), connection.asked) {
            (Some(answer), _) => self.got(index, answer),
            (None, Some(_)) => self.fail(index, &anyhow!("the connection ended before the answer did")),
            (None, None) => self.reconnect_unless_ending(index),
        }
    }

    fn got(&mut self, index: usize, answer: Answer) -> Result<()> {
        let connection = &mut self.connections[index];
        let Some(since) = connection.asked.take() else {
            return self.fail(index, &anyhow!("an answer nobody asked for"));
        };
        if answer.status == 200 && answer.right {
            self.completed += 1;
            self.failures_in_a_row = 0;
            let now = Instant::now();
            self.answered += u64::from((self.begin..=self.end).contains(&now));
            self.record(since, now);
        } else {
            let what = if answer.right { "the expected body" } else { "a wrong body" };
            self.count_failure(&format!("{} with {what} of {} bytes", answer.status, answer.length))?;
        }
        if answer.closes {
            self.reconnect_unless_ending(index)?;
        }
        self.go_on(index)
    }

    fn go_on(&mut self, index: usize) -> Result<()> {
        match self.plan.pace {
            _ if self.ending => Ok(()),
            Pace::Closed => self.ask(index, Instant::now()),
            Pace::Rate(_) => {
                self.free.push_back(index);
                Ok(())
            }
        }
    }

    fn fail(&mut self, index: usize, error: &anyhow::Error) -> Result<()> {
        self.count_failure(&format!("{error:#}"))?;
        self.reconnect_unless_ending(index)?;
        self.go_on(index)
    }

    fn count_failure(&mut self, reason: &str) -> Result<()> {
        self.failures += 1;
        self.failures_in_a_row += 1;
        self.first_failure.get_or_insert_with(|| reason.to_owned());
        if self.failures_in_a_row > HOPELESS {
            return Err(anyhow!("{HOPELESS} failures in a row, the last: {reason}"));
        }
        Ok(())
    }

    fn reconnect(&mut self, index: usize) -> Result<()> {
        let stream = self.connect(index)?;
        let connection = &mut self.connections[index];
        connection.stream = stream;
        (connection.parser, connection.asked) = (Parser::new(), None);
        Ok(())
    }

    /// Of a server that is gone the next connection would fail as well: at the end there is none.
    fn reconnect_unless_ending(&mut self, index: usize) -> Result<()> {
        if self.ending {
            self.connections[index].asked = None;
            return epoll::delete(&self.epoll, &self.connections[index].stream).context("epoll failed");
        }
        self.reconnect(index)
    }

    fn connect(&self, index: usize) -> Result<TcpStream> {
        let source = (self.first + index as u32) / PER_SOURCE;
        let stream = match source {
            0 => TcpStream::connect(self.plan.target).map_err(Into::into),
            _ => connect_from(Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + source), self.plan.target),
        };
        let stream = stream.with_context(|| format!("failed to open connection {index}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), events)?;
        Ok(stream)
    }
}

impl Connection {
    /// As much of the question as the socket takes.
    fn send(&mut self, questions: &[Question]) -> Result<()> {
        let bytes = &questions[self.question].bytes;
        while self.asked.is_some() && self.sent < bytes.len() {
            match self.stream.write(&bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn connect_from(source: Ipv4Addr, target: SocketAddr) -> Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::new(IpAddr::V4(source), 0))?;
    rustix::net::connect(&socket, &target)?;
    Ok(socket.into())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
