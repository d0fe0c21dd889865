//! Ten times the capacity at a fixed rate: what is refused is refused at once, the rest is served at full capacity,
//! every answer belongs to its question, memory stays bounded.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{self, Answer};
use crate::harness::Harness;
use crate::process_tree;
use crate::table::{Table, mebibytes, median, micros, names, percentile, whole};

const WORKERS: u32 = 8;
const CALL: Duration = Duration::from_millis(10);
const OVER_CAPACITY: u32 = 10;
/// Enough that each has its answer before its next turn, also where a request waits for a worker.
const CONNECTIONS: u32 = 1200;
/// Waits for a worker that the parts of the scenario allow, in milliseconds.
const WAITS_MS: [u32; 2] = [0, 100];
const MEMORY_EVERY: Duration = Duration::from_millis(100);

/// What the clients saw.
#[derive(Default)]
struct Seen {
    accepted_micros: Vec<f64>,
    refused_micros: Vec<f64>,
    /// 200 with somebody else's body.
    wrong: usize,
    failures: usize,
}

pub(crate) fn run(harness: &Harness) -> Result<Vec<Table>> {
    let length = Duration::from_secs(harness.arguments.overload_seconds.into()) / WAITS_MS.len() as u32;
    let mut table = Table {
        title: format!(
            "overload: {OVER_CAPACITY} times the capacity of {WORKERS} workers with calls of {CALL:?}, \
             {CONNECTIONS} connections, {length:?} each"
        ),
        header: names(&[
            "wait for a worker",
            "offered/s",
            "served/s",
            "of capacity",
            "served p50 µs",
            "p99 µs",
            "refused/s",
            "refused p50 µs",
            "p99 µs",
            "wrong",
            "failed",
            "idle RSS MiB",
            "peak",
        ]),
        ..Table::default()
    };
    for wait_ms in WAITS_MS {
        part(harness, wait_ms, length, &mut table)?;
    }
    Ok(vec![table])
}

fn part(harness: &Harness, wait_ms: u32, length: Duration, table: &mut Table) -> Result<()> {
    let mut function = harness.functions.sleeping(WORKERS)?;
    function.availability_timeout_ms = wait_ms;
    let server = harness.start_function(&function)?;
    let idle = server.memory().rss_kib;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let started = Instant::now();
    let (seen, peak) = runtime.block_on(async {
        let load = tokio::spawn(offer(server.http, length));
        let memory = watch_memory(server.pid(), &load).await;
        load.await.map(|seen| (seen, memory))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let [served, refused] = [&seen.accepted_micros, &seen.refused_micros];
    let capacity = f64::from(WORKERS) / CALL.as_secs_f64();
    let per_second = |count: usize| count as f64 / seconds;
    let offered = served.len() + refused.len() + seen.wrong + seen.failures;
    if seen.wrong + seen.failures > 0 || served.is_empty() {
        let Seen { wrong, failures, .. } = &seen;
        table.failed.push(format!(
            "wait of {wait_ms} ms: {} served, {wrong} answered wrongly, {failures} neither served nor refused{}",
            served.len(),
            server.last_words()
        ));
    }
    table.rows.push(vec![
        format!("{wait_ms} ms"),
        whole(per_second(offered)),
        whole(per_second(served.len())),
        format!("{:.2}×", per_second(served.len()) / capacity),
        whole(median(served)),
        whole(percentile(served, 0.99)),
        whole(per_second(refused.len())),
        whole(median(refused)),
        whole(percentile(refused, 0.99)),
        seen.wrong.to_string(),
        seen.failures.to_string(),
        mebibytes(idle),
        mebibytes(peak),
    ]);
    Ok(())
}

/// The tree's largest memory while the load runs.
async fn watch_memory(pid: u32, load: &tokio::task::JoinHandle<Seen>) -> u64 {
    let mut peak = 0;
    while !load.is_finished() {
        peak = peak.max(process_tree::memory(pid).rss_kib);
        tokio::time::sleep(MEMORY_EVERY).await;
    }
    peak
}

/// All connections together keep the rate, each at its own place in the interval.
async fn offer(address: SocketAddr, length: Duration) -> Seen {
    let interval = CALL * CONNECTIONS / (WORKERS * OVER_CAPACITY);
    let start = Instant::now();
    let connections: Vec<_> = (0..CONNECTIONS)
        .map(|index| {
            let first = start + interval * index / CONNECTIONS;
            tokio::spawn(ask_on_schedule(address, index, first, interval, start + length))
        })
        .collect();
    let mut all = Seen::default();
    for connection in connections {
        let seen = connection.await.unwrap_or_else(|_| Seen { failures: 1, ..Seen::default() });
        all.accepted_micros.extend(seen.accepted_micros);
        all.refused_micros.extend(seen.refused_micros);
        all.wrong += seen.wrong;
        all.failures += seen.failures;
    }
    all
}

/// Asks at fixed times. Latency counts from the time that was due, so that a late client hides nothing.
async fn ask_on_schedule(
    address: SocketAddr,
    index: u32,
    first: Instant,
    interval: Duration,
    end: Instant,
) -> Seen {
    let mut seen = Seen::default();
    let mut connection = None;
    let mut due = first;
    for number in 0_u32.. {
        tokio::time::sleep_until(due.into()).await;
        if due >= end {
            break;
        }
        let body = format!("{} {index}-{number}", CALL.as_micros());
        match ask(address, &mut connection, &body).await {
            Ok(answer) if answer.status == 200 && answer.body == body.as_bytes() => {
                seen.accepted_micros.push(micros(due.elapsed()));
            }
            Ok(answer) if answer.status == 200 => seen.wrong += 1,
            Ok(answer) if answer.status == 503 => seen.refused_micros.push(micros(due.elapsed())),
            _ => seen.failures += 1,
        }
        due += interval;
    }
    seen
}

async fn ask(address: SocketAddr, connection: &mut Option<TcpStream>, body: &str) -> Result<Answer> {
    const ANSWER_LIMIT: Duration = Duration::from_secs(10);
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address).await.context("failed to connect")?,
    };
    let answer = tokio::time::timeout(ANSWER_LIMIT, exchange(&mut stream, body)).await;
    let answer = answer.map_err(|_| anyhow!("no answer within {ANSWER_LIMIT:?}"))??;
    if !answer.closes {
        *connection = Some(stream);
    }
    Ok(answer)
}

async fn exchange(stream: &mut TcpStream, body: &str) -> io::Result<Answer> {
    stream.write_all(&client::post(body)).await?;
    let mut received = Vec::with_capacity(512);
    loop {
        if let Some(answer) = client::take_answer(&mut received)? {
            return Ok(answer);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
