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

/// One thing to ask, and the body of a right answer, where that is known.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) bytes: Vec<u8>,
    pub(crate) answer: Option<Vec<u8>>,
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
    /// Right answers within the length of the measurement.
    pub(crate) answered: u64,
    /// Right answers, those included that were waited for afterwards and those of the lead: what the server's CPU time went
    /// into.
    pub(crate) completed: u64,
    /// The length of the measurement.
    pub(crate) seconds: f64,
    /// Of all that was asked or due.
    pub(crate) latencies: Latencies,
    /// Wrong answers, broken connections, questions that were never answered.
    pub(crate) failures: u64,
    /// At a fixed rate: due, but never asked, because no connection became free. No failure: the rate was too high.
    pub(crate) unasked: u64,
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

    /// See [`micros`].
    pub(crate) fn micros(&self, quantile: f64) -> f64 {
        micros(&self.latencies, quantile)
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

/// A latency in microseconds; not a number where nothing was answered.
pub(crate) fn micros(latencies: &Latencies, quantile: f64) -> f64 {
    if latencies.is_empty() {
        return f64::NAN;
    }
    latencies.value_at_quantile(quantile) as f64 / 1e3
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
        all.completed += one.completed;
        all.unasked += one.unasked;
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
mod tests;
