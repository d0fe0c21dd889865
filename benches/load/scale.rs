//! Whether an event costs the same with many workers and many connections, and what one more of each takes.

use std::fs;

use anyhow::{Context, Result};

use crate::functions::Runtime;
use crate::generator::Pace;
use crate::harness::{Harness, question};
use crate::process_tree::Memory;
use crate::server::Server;
use crate::side::Task;
use crate::table::{Table, mebibytes, names, tenths, whole};
use crate::tools::Skipped;
use crate::workload::Work;

const WORKERS: [u32; 4] = [1, 10, 100, 1000];
const CONNECTIONS: [u32; 5] = [1, 10, 100, 1000, 10_000];
/// A measurement lasts as long as one request of every connection takes at this pace, at least.
const REQUESTS_OF_ALL_PER_SECOND: f64 = 2000.0;
/// How many events may wait; what is given by `--a-env` overrules it.
const WAITING_MAX: &str = "NUCLIO_WAITING_EVENTS_MAX";
const CONNECTIONS_BESIDE_WORKERS: u32 = 64;

pub(crate) fn run(harness: &Harness, runtime: Runtime) -> Result<Vec<Table>> {
    raise_descriptor_limit()?;
    Ok(vec![over_workers(harness, runtime)?, over_connections(harness, runtime)?])
}

/// The processor inherits the limit, too.
fn raise_descriptor_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("failed to raise the limit of open files")
}

fn over_workers(harness: &Harness, runtime: Runtime) -> Result<Table> {
    let mut table = Table {
        title: format!(
            "scale: empty, {}, {CONNECTIONS_BESIDE_WORKERS} connections, by workers",
            runtime.name()
        ),
        header: names(&[
            "workers",
            "req/s",
            "p99 µs",
            "CPU µs/req",
            "of the first",
            "ready ms",
            "idle RSS MiB",
            "PSS",
            "per further worker KiB",
            "failed",
        ]),
        ..Table::default()
    };
    // Of processes only that is theirs which they do not share; of one process all is.
    let own = |memory: &Memory| if runtime.in_process() { memory.rss_kib } else { memory.pss_kib };
    let mut first: Option<(f64, u32, u64)> = None;
    for workers in WORKERS {
        let task = Task { runtime, work: Work::Empty, workers: Some(workers) };
        if let Some((_, before, kib)) = first
            && !runtime.in_process()
            && !has_memory(kib / u64::from(before) * u64::from(workers))
        {
            table
                .notes
                .push(format!("{workers} workers: skipped, the machine has too little memory for them"));
            break;
        }
        let server = match harness.start(&harness.a, &task) {
            Ok(server) => server,
            Err(error) if error.downcast_ref::<Skipped>().is_some() => return Err(error),
            Err(error) => {
                table.failed.push(format!("{workers} workers: {error:#}"));
                break;
            }
        };
        let (idle, ready) = (server.memory(), server.start.ready.unwrap_or(server.start.listening));
        let figures = measure(harness, &server, &task, CONNECTIONS_BESIDE_WORKERS)?;
        table.failed.extend(figures.failed().map(|failed| format!("{workers} workers: {failed}")));
        let cpu = figures.cpu_micros_per_request;
        let (first_cpu, first_workers, first_kib) = *first.get_or_insert((cpu, workers, own(&idle)));
        let further = workers - first_workers;
        let per_worker = own(&idle).saturating_sub(first_kib) as f64 / f64::from(further);
        table.rows.push(vec![
            workers.to_string(),
            whole(figures.requests_per_second),
            whole(figures.p99_micros),
            tenths(cpu),
            format!("{:.2}×", cpu / first_cpu),
            whole(ready.as_secs_f64() * 1e3),
            mebibytes(idle.rss_kib),
            mebibytes(idle.pss_kib),
            if further == 0 { "–".to_owned() } else { format!("{per_worker:.1}") },
            whole(figures.failures),
        ]);
    }
    Ok(table)
}

fn over_connections(harness: &Harness, runtime: Runtime) -> Result<Table> {
    let task = Task { runtime, work: Work::Empty, workers: harness.arguments.workers };
    // Every connection asks at once, and all but a few wait for a worker: more than usually may.
    let mut contender = harness.a.clone();
    let waiting = (WAITING_MAX.to_owned(), CONNECTIONS[CONNECTIONS.len() - 1].to_string());
    contender.environment.insert(0, waiting);
    let server = harness.start(&contender, &task)?;
    let idle = server.memory();
    let mut table = Table {
        title: format!(
            "scale: empty, {}, {} worker(s), by connections; {:.1} MiB RSS without any",
            runtime.name(),
            task.workers(),
            idle.rss_kib as f64 / 1024.0
        ),
        header: names(&[
            "connections",
            "req/s",
            "p50 µs",
            "p99 µs",
            "CPU µs/req",
            "of the first",
            "RSS MiB under load",
            "RSS per connection KiB",
            "failed",
        ]),
        ..Table::default()
    };
    let mut first = None;
    for connections in CONNECTIONS {
        let (figures, loaded) = std::thread::scope(|scope| {
            let load = scope.spawn(|| measure(harness, &server, &task, connections));
            let mut peak = 0;
            while !load.is_finished() {
                peak = peak.max(server.memory().rss_kib);
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            crate::stalls::joined(load).and_then(|figures| Ok((figures?, peak)))
        })?;
        let cpu = figures.cpu_micros_per_request;
        let first = *first.get_or_insert(cpu);
        table.rows.push(vec![
            connections.to_string(),
            whole(figures.requests_per_second),
            whole(figures.p50_micros),
            whole(figures.p99_micros),
            tenths(cpu),
            format!("{:.2}×", cpu / first),
            mebibytes(loaded),
            format!("{:.1}", loaded.saturating_sub(idle.rss_kib) as f64 / f64::from(connections)),
            whole(figures.failures),
        ]);
        table.failed.extend(figures.failed().map(|failed| format!("{connections} connections: {failed}")));
    }
    Ok(table)
}

fn measure(
    harness: &Harness,
    server: &Server,
    task: &Task,
    connections: u32,
) -> Result<crate::figures::Figures> {
    let questions = [question(&harness.a, task)];
    let observe = |seconds| {
        let figures = harness.observe(server, &questions, connections, Pace::Closed, seconds);
        figures.with_context(|| format!("{connections} connections"))
    };
    // Opening connections costs the server something, too; many must not be all that is measured.
    let least = f64::from(connections) / REQUESTS_OF_ALL_PER_SECOND;
    observe(0.3_f64.max(least))?;
    observe(harness.arguments.seconds().max(least))
}

/// Whether that would leave half of what is free.
fn has_memory(kib: u64) -> bool {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("MemAvailable:"));
    let available: u64 = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0);
    kib < available / 2
}
