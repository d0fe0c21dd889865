//! Whom a blocked handler delays: probes ask beside it, and every late answer shows.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::client::{self, Client};
use crate::functions::Runtime;
use crate::harness::Harness;
use crate::server::Server;
use crate::side::Task;
use crate::table::{Table, median, micros, names, percentile, whole};
use crate::workload::Work;

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
pub(crate) fn blocking(harness: &Harness, runtime: Runtime) -> Result<Vec<Table>> {
    let length = Duration::from_secs_f64(harness.arguments.seconds()) * harness.arguments.rounds();
    let workers = harness.arguments.workers.unwrap_or(WORKERS);
    let task = Task { runtime, work: Work::Sleep10ms, workers: Some(workers) };
    let mut table = Table {
        title: format!(
            "mixed-blocking: {}, beside {BLOCKERS} calls of 10 ms at a time on {workers} workers, {length:?}",
            runtime.name()
        ),
        header: names(&HEADER),
        ..Table::default()
    };
    let other = probe_question(Work::Empty);
    for contender in std::iter::once(&harness.a).chain(&harness.b) {
        let server = harness.start(contender, &task)?;
        let alone = probe_during(&server, &other, || {
            thread::sleep(length);
            Ok(())
        })?;
        let beside = probe_during(&server, &other, || block_in_parallel(server.http, length));
        let beside = beside.with_context(|| format!("{}{}", contender.name, server.last_words()))?;
        for (when, seen) in [("alone", alone), ("beside", beside)] {
            table.rows.extend(rows(&format!("{}, {when}", contender.name), &seen));
            table.failed.extend(failures(&format!("{}, {when}", contender.name), &seen));
        }
    }
    Ok(vec![table])
}

/// One call blocks for 5 s under a time-out of 1 s: it gets its 408 in time, the others notice nothing.
pub(crate) fn blocked_5s(harness: &Harness) -> Result<Vec<Table>> {
    let mut function = harness.functions.sleeping(WORKERS)?;
    function.event_timeout = Some("1s");
    let server = harness.start_function(&function)?;
    let mut outcome = None;
    let other = (client::post("0 probe"), b"0 probe".to_vec());
    let beside = probe_during(&server, &other, || {
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
        header: names(&HEADER),
        rows: rows("beside", &beside),
        failed: failures("beside", &beside)
            .chain((answer.status != 408).then(|| format!("the blocked call got {}, not 408", answer.status)))
            .collect(),
        ..Table::default()
    }])
}

/// A request and its answer.
type Probe = (Vec<u8>, Vec<u8>);

fn probe_question(work: Work) -> Probe {
    let exchange = work.exchange();
    (exchange.request, exchange.answer)
}

/// Probes the event port, and `/ready` where there is one, as long as `load` runs.
fn probe_during(
    server: &Server,
    (request, answer): &Probe,
    load: impl FnOnce() -> Result<()>,
) -> Result<Vec<(&'static str, Seen)>> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let event = scope.spawn(|| probe(server.http, request, Some(answer), PROBE_PAUSE, &stop));
        let ready = server.health.map(|health| {
            let stop = &stop;
            scope.spawn(move || probe(health, &client::get("/ready"), None, PROBE_PAUSE, stop))
        });
        let outcome = load();
        stop.store(true, Ordering::Relaxed);
        let mut seen = vec![("other requests", joined(event)?)];
        if let Some(ready) = ready {
            seen.push(("/ready", joined(ready)?));
        }
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
    let (request, answer) = probe_question(Work::Sleep10ms);
    while Instant::now() < end {
        let (got, _) = client.call(&request).context("a blocking call failed")?;
        if got.status != 200 || got.body != answer {
            bail!("a blocking call was answered {} with {} bytes", got.status, got.body.len());
        }
    }
    Ok(())
}

pub(crate) fn joined<T>(handle: ScopedJoinHandle<'_, T>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a client thread panicked"))
}

fn rows(when: &str, seen: &[(&str, Seen)]) -> Vec<Vec<String>> {
    seen.iter().map(|(name, seen)| row(&format!("{name}, {when}"), seen)).collect()
}

fn failures(when: &str, seen: &[(&'static str, Seen)]) -> impl Iterator<Item = String> {
    let failed = seen.iter().filter(|(_, seen)| seen.failures > 0 || seen.latencies_micros.is_empty());
    let line = |(name, seen): &(&str, Seen)| {
        format!("{name}, {when}: {} failed, {} answered", seen.failures, seen.latencies_micros.len())
    };
    failed.map(line).collect::<Vec<_>>().into_iter()
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
