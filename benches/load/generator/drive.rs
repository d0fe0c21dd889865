//! One event loop: connections, what each is at, and when the next request is due.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketType};

use super::answer::{Answer, Parser};
use super::{Latencies, Outcome, Pace, Plan, Question, latencies};

const BUFFER: usize = 256 * 1024;
const EVENTS: usize = 512;
/// After the end of a fixed rate: how long answers that are owed are waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Connections from one source address; ports are not endless.
const PER_SOURCE: u32 = 20_000;
/// So many failures in a row, none answered between, end a run: nobody is there.
const HOPELESS: u64 = 5_000;

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
    answered: u64,
    failures: u64,
    failures_in_a_row: u64,
    first_failure: Option<String>,
    latencies: Latencies,
    lateness: Latencies,
    /// Nothing is asked any more.
    ending: bool,
}

/// Asks as planned on connections from number `first` on.
pub(super) fn run(plan: &Plan<'_>, first: u32) -> Result<Outcome> {
    // Else the kernel rounds every wait up by 50 µs.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1)).ok();
    let mut drive = Drive {
        plan,
        first,
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        connections: Vec::new(),
        free: VecDeque::new(),
        next_question: first as usize % plan.questions.len(),
        buffer: vec![0; BUFFER],
        answered: 0,
        failures: 0,
        failures_in_a_row: 0,
        first_failure: None,
        latencies: latencies()?,
        lateness: latencies()?,
        ending: false,
    };
    for index in 0..plan.connections {
        let stream = drive.connect(index as usize)?;
        let parser = Parser::new();
        drive.connections.push(Connection { stream, parser, question: 0, sent: 0, asked: None });
    }
    let (started, cpu) = (Instant::now(), cpu_time());
    match plan.pace {
        Pace::Closed => drive.closed(started)?,
        Pace::Rate(rate) => drive.at_rate(started, rate)?,
    }
    let seconds = started.elapsed().min(plan.length).as_secs_f64();
    let busy = (cpu_time() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
    let late_p99_micros = drive.lateness.value_at_quantile(0.99) as f64 / 1e3;
    let Drive { answered, failures, first_failure, latencies, .. } = drive;
    Ok(Outcome { answered, seconds, latencies, failures, first_failure, busy, late_p99_micros })
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
        let end = started + self.plan.length;
        let mut events = Vec::with_capacity(EVENTS);
        while Instant::now() < end {
            self.wait(&mut events, Some(end))?;
        }
        Ok(())
    }

    fn at_rate(&mut self, started: Instant, rate: f64) -> Result<()> {
        self.free.extend(0..self.connections.len());
        let (end, mut number) = (started + self.plan.length, 0_u64);
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
                if !starved {
                    self.lateness.saturating_record(nanos(now.elapsed() + (now - due)));
                }
                self.ask(index, due)?;
                number += 1;
                due = due_at(number);
            }
            if due > now {
                starved = false;
            }
            if due >= end && now >= end || now >= end + PATIENCE {
                break;
            }
            let until = if due <= now { end + PATIENCE } else { due.min(end) };
            self.wait(&mut events, Some(until))?;
        }
        self.ending = true;
        let last = end + PATIENCE;
        while self.connections.iter().any(|connection| connection.asked.is_some()) && Instant::now() < last {
            self.wait(&mut events, Some(last))?;
        }
        self.give_up(number, end, due_at);
        Ok(())
    }

    /// What was due and never answered took at least until now.
    fn give_up(&mut self, mut number: u64, end: Instant, due_at: impl Fn(u64) -> Instant) {
        let now = Instant::now();
        let mut owed: Vec<Instant> = self.connections.iter().filter_map(|one| one.asked).collect();
        while due_at(number) < end {
            owed.push(due_at(number));
            number += 1;
        }
        for since in owed {
            self.failures += 1;
            self.first_failure.get_or_insert_with(|| "no answer until the end".to_owned());
            self.latencies.saturating_record(nanos(now - since));
        }
    }

    /// Waits for sockets until then, and serves them.
    fn wait(&mut self, events: &mut Vec<epoll::Event>, until: Option<Instant>) -> Result<()> {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        events.clear();
        ready(&self.epoll, events, &AT_ONCE)?;
        if events.is_empty() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.unwrap_or(Duration::from_secs(1));
            // epoll's own timeout knows milliseconds only on older kernels.
            let timeout = Timespec::try_from(left).context("a wait is too long")?;
            match poll(&mut [PollFd::new(&self.epoll, PollFlags::IN)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("poll failed"),
            }
            ready(&self.epoll, events, &AT_ONCE)?;
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
                    let taken = self.connections[index].parser.take(&self.buffer[..count]);
                    match taken {
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
        match (self.connections[index].parser.closed(), self.connections[index].asked) {
            (Some(answer), _) => self.got(index, answer),
            (None, Some(_)) => self.fail(index, &anyhow!("the connection ended before the answer did")),
            (None, None) => self.reconnect(index),
        }
    }

    fn got(&mut self, index: usize, answer: Answer) -> Result<()> {
        let connection = &mut self.connections[index];
        let Some(since) = connection.asked.take() else {
            return self.fail(index, &anyhow!("an answer nobody asked for"));
        };
        let wanted = self.plan.questions[connection.question].answer_length;
        if answer.status == 200 && wanted.is_none_or(|length| length == answer.length) {
            self.answered += 1;
            self.failures_in_a_row = 0;
            self.latencies.saturating_record(nanos(since.elapsed()));
        } else {
            self.count_failure(&format!("{} with {} bytes", answer.status, answer.length))?;
        }
        if answer.closes {
            self.reconnect(index)?;
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
        self.reconnect(index)?;
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

fn ready(epoll: &OwnedFd, events: &mut Vec<epoll::Event>, timeout: &Timespec) -> Result<()> {
    match epoll::wait(epoll, rustix::buffer::spare_capacity(events), Some(timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("epoll failed"),
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
