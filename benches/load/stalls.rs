//! Whom a blocked handler delays: probes ask beside it, and every late answer shows.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::client::{self, Client};
use crate::harness::Harness;
use crate::server::Server;
use crate::table::{Table, median, micros, percentile, whole};

const WORKERS: u32 = 8;
const BLOCKERS: usize = 4;
/// Between two questions of a probe.
const PROBE_PAUSE: Duration = Duration::from_millis(1);
const HEADER: [&str; 7] = ["", "asked", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "failed"];

/// What one probe saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) latencies_micros: Vec<f64>,
    pub(crate) failures: usize,
}

/// Four callers block 10 ms each, again and again, on eight workers: the other four must answer as if alone.
pub(crate) fn blocking(harness: &Harness) -> Result<Vec<Table>> {
    let server = harness.start_function(&harness.functions.sleeping(WORKERS)?)?;
    let length = Duration::from_secs_f64(harness.arguments.seconds) * harness.arguments.rounds;
    let alone = probe_during(&server, || {
        thread::sleep(length);
        Ok(())
    })?;
    let beside = probe_during(&server, || block_in_parallel(server.http, length))?;
    Ok(vec![Table {
        title: format!(
            "mixed-blocking: beside {BLOCKERS} calls of 10 ms at a time on {WORKERS} workers, {length:?}"
        ),
        header: HEADER.to_vec(),
        rows: rows("alone", &alone).into_iter().chain(rows("beside", &beside)).collect(),
        notes: Vec::new(),
    }])
}

/// One call blocks for 5 s under a time-out of 1 s: it gets its 408 in time, the others notice nothing.
pub(crate) fn blocked_5s(harness: &Harness) -> Result<Vec<Table>> {
    let mut function = harness.functions.sleeping(WORKERS)?;
    function.event_timeout = Some("1s");
    let server = harness.start_function(&function)?;
    let mut outcome = None;
    let beside = probe_during(&server, || {
        let started = Instant::now();
        outcome = Some(Client::new(server.http).call(&client::post("5000000 blocked"))?);
        // The worker may stay blocked after its caller was answered.
        thread::sleep(Duration::from_secs(6).saturating_sub(started.elapsed()));
        Ok(())
    })?;
    let (answer, latency) = outcome.context("the blocked call has an outcome")?;
    Ok(vec![Table {
        title: format!(
            "blocked-5s: eventTimeout 1s; the blocked call got {} after {:.3} s; beside it, 6 s",
            answer.status,
            latency.as_secs_f64()
        ),
        header: HEADER.to_vec(),
        rows: rows("beside", &beside),
        notes: Vec::new(),
    }])
}

/// Probes the event port and `/ready` as long as `load` runs.
fn probe_during(server: &Server, load: impl FnOnce() -> Result<()>) -> Result<[Seen; 2]> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let event = scope
            .spawn(|| probe(server.http, &client::post("0 probe"), Some(b"0 probe"), PROBE_PAUSE, &stop));
        let ready = scope.spawn(|| probe(server.health, &client::get("/ready"), None, PROBE_PAUSE, &stop));
        let outcome = load();
        stop.store(true, Ordering::Relaxed);
        let seen = [joined(event)?, joined(ready)?];
        outcome.map(|()| seen)
    })
}

/// Asks again and again; an answer without 200, or with another body than this one, is a failure.
pub(crate) fn probe(
    address: SocketAddr,
    request: &[u8],
    body: Option<&[u8]>,
    pause: Duration,
    stop: &AtomicBool,
) -> Seen {
    let mut client = Client::new(address);
    let mut seen = Seen::default();
    while !stop.load(Ordering::Relaxed) {
        match client.call(request) {
            Ok((answer, latency)) if answer.status == 200 && body.is_none_or(|body| answer.body == body) => {
                seen.latencies_micros.push(micros(latency));
            }
            _ => seen.failures += 1,
        }
        thread::sleep(pause);
    }
    seen
}

fn block_in_parallel(address: SocketAddr, length: Duration) -> Result<()> {
    let end = Instant::now() + length;
    thread::scope(|scope| {
        let blockers: Vec<_> = (0..BLOCKERS).map(|_| scope.spawn(|| block_until(address, end))).collect();
        blockers.into_iter().try_for_each(|blocker| joined(blocker)?)
    })
}

fn block_until(address: SocketAddr, end: Instant) -> Result<()> {
    let mut client = Client::new(address);
    while Instant::now() < end {
        let (answer, _) = client.call(&client::post("10000 block"))?;
        if answer.status != 200 {
            bail!("a blocking call was answered {}", answer.status);
        }
    }
    Ok(())
}

pub(crate) fn joined<T>(handle: ScopedJoinHandle<'_, T>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a client thread panicked"))
}

fn rows(when: &str, [event, ready]: &[Seen; 2]) -> Vec<Vec<String>> {
    vec![row(&format!("other requests, {when}"), event), row(&format!("/ready, {when}"), ready)]
}

fn row(name: &str, seen: &Seen) -> Vec<String> {
    let samples = &seen.latencies_micros;
    let figures =
        [median(samples), percentile(samples, 0.99), percentile(samples, 0.999), percentile(samples, 1.0)];
    [name.to_owned(), samples.len().to_string()]
        .into_iter()
        .chain(figures.map(whole))
        .chain([seen.failures.to_string()])
        .collect()
}
