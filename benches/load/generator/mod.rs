//! The load generator: keep-alive connections on one event loop per thread, closed loop or at a fixed rate.
//!
//! At a fixed rate requests are due at even distances whatever the server does; one that finds no free connection waits
//! its turn, and its latency counts from the time it was due, so that a stall is seen by all who would have come
//! meanwhile. It knows neither processors nor scenarios.

mod answer;
mod drive;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hdrhistogram::Histogram;

/// Nanoseconds, three digits.
pub(crate) type Latencies = Histogram<u64>;

/// Above this share of its time on a core the generator may have been what was measured.
pub(crate) const BUSY_MAX: f64 = 0.95;
/// Requests this late though a connection was free show that the generator did not keep up.
pub(crate) const LATE_MAX_MICROS: f64 = 1000.0;

/// One thing to ask, and how long the body of a right answer is, where that is known.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) bytes: Vec<u8>,
    pub(crate) answer_length: Option<u64>,
}

/// When to ask.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// Each connection asks again when it has its answer.
    Closed,
    /// So many requests per second, over all connections.
    Rate(f64),
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) target: SocketAddr,
    /// Asked by turns.
    pub(crate) questions: &'a [Question],
    pub(crate) connections: u32,
    pub(crate) pace: Pace,
    pub(crate) length: Duration,
    /// Event loops; more than one only where one is not enough.
    pub(crate) threads: u32,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// Right answers.
    pub(crate) answered: u64,
    pub(crate) seconds: f64,
    pub(crate) latencies: Latencies,
    /// Wrong answers, broken connections, and at a fixed rate what was not answered at all.
    pub(crate) failures: u64,
    pub(crate) first_failure: Option<String>,
    /// The busiest thread's share of its time on a core.
    pub(crate) busy: f64,
    /// At a fixed rate: 99 of 100 requests that had a free connection were sent within this after they were due.
    pub(crate) late_p99_micros: f64,
}

impl Outcome {
    pub(crate) fn per_second(&self) -> f64 {
        self.answered as f64 / self.seconds
    }

    /// A latency in microseconds; not a number where nothing was answered.
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        if self.latencies.is_empty() {
            return f64::NAN;
        }
        self.latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// Whether figures say more about the generator than about the server.
    pub(crate) fn generator_limits(&self, pace: Pace) -> bool {
        match pace {
            Pace::Closed => self.busy > BUSY_MAX,
            Pace::Rate(_) => self.late_p99_micros > LATE_MAX_MICROS,
        }
    }
}

/// A histogram of latencies up to ten minutes.
pub(crate) fn latencies() -> Result<Latencies> {
    const LONGEST_NANOS: u64 = 600_000_000_000;
    Histogram::new_with_bounds(1, LONGEST_NANOS, 3).map_err(|error| anyhow!("no histogram: {error}"))
}

/// Asks as planned.
pub(crate) fn run(plan: &Plan<'_>) -> Result<Outcome> {
    let threads = plan.threads.clamp(1, plan.connections.max(1));
    if threads == 1 {
        return drive::run(plan, 0);
    }
    thread::scope(|scope| {
        let parts: Vec<_> = (0..threads)
            .map(|index| {
                let share = plan.connections / threads + u32::from(index < plan.connections % threads);
                let pace = match plan.pace {
                    Pace::Closed => Pace::Closed,
                    Pace::Rate(rate) => Pace::Rate(rate / f64::from(threads)),
                };
                let first = plan.connections / threads * index;
                let part = Plan { connections: share, pace, ..*plan };
                scope.spawn(move || drive::run(&part, first))
            })
            .collect();
        let outcomes = parts.into_iter().map(|part| part.join().map_err(|_| anyhow!("a thread panicked"))?);
        merged(outcomes.collect::<Result<_>>()?)
    })
}

fn merged(outcomes: Vec<Outcome>) -> Result<Outcome> {
    let mut outcomes = outcomes.into_iter();
    let mut all = outcomes.next().context("a generator has a thread")?;
    for one in outcomes {
        all.answered += one.answered;
        all.failures += one.failures;
        all.seconds = all.seconds.max(one.seconds);
        all.latencies.add(&one.latencies).map_err(|error| anyhow!("no sum of histograms: {error}"))?;
        all.first_failure = all.first_failure.or(one.first_failure);
        all.busy = all.busy.max(one.busy);
        all.late_p99_micros = all.late_p99_micros.max(one.late_p99_micros);
    }
    Ok(all)
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A server that answers what it is told, each connection on a thread of its own.
    fn server(answer: &'static [u8], pause: Duration) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while matches!(stream.read(&mut buffer), Ok(1..)) {
                        thread::sleep(pause);
                        if stream.write_all(answer).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn question() -> Question {
        Question { bytes: b"GET / HTTP/1.1\r\nHost: load\r\n\r\n".to_vec(), answer_length: Some(5) }
    }

    const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    fn plan(target: SocketAddr, questions: &[Question], pace: Pace) -> Plan<'_> {
        let length = Duration::from_millis(300);
        Plan { target, questions, connections: 4, pace, length, threads: 2 }
    }

    #[test]
    fn a_closed_loop_gets_answers_on_all_connections() {
        let questions = [question()];
        let outcome = run(&plan(server(HELLO, Duration::ZERO), &questions, Pace::Closed)).unwrap();
        assert_eq!(outcome.failures, 0, "{:?}", outcome.first_failure);
        assert!(outcome.answered >= 4);
        assert_eq!(outcome.answered, outcome.latencies.len());
    }

    #[test]
    fn a_fixed_rate_asks_so_often_and_counts_from_when_it_was_due() {
        let questions = [question()];
        // Four connections with answers after 50 ms serve 80 a second at most; 400 are due, so most wait long.
        let outcome =
            run(&plan(server(HELLO, Duration::from_millis(50)), &questions, Pace::Rate(400.0))).unwrap();
        assert!((100..=130).contains(&(outcome.answered + outcome.failures)), "{outcome:?}");
        assert!(outcome.micros(0.5) > 100_000.0, "{}", outcome.micros(0.5));
    }

    #[test]
    fn wrong_answers_and_lengths_are_failures() {
        let questions = [question()];
        let busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nhello";
        let short = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe";
        let closing = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        for (answer, right) in [(busy.as_slice(), false), (short.as_slice(), false), (closing, true)] {
            match run(&plan(server(answer, Duration::ZERO), &questions, Pace::Closed)) {
                Ok(outcome) => {
                    assert_eq!(outcome.failures == 0, right, "{:?}", outcome.first_failure);
                    assert_eq!(outcome.answered > 0, right);
                }
                // Nothing but failures ends a run.
                Err(error) => assert!(!right && error.to_string().contains("in a row"), "{error:#}"),
            }
        }
    }
}
