//! What a scrape of the metrics costs under full load: those who ask for it, and those who send events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::client;
use crate::functions::builtin;
use crate::generator::{Pace, Question};
use crate::harness::Harness;
use crate::server::Server;
use crate::stalls::{Seen, joined, probe};
use crate::table::{Table, median, names, percentile, whole};

const CONNECTIONS: u32 = 64;
/// Between two scrapes: a thousand times what a Prometheus does.
const PAUSE: Duration = Duration::from_millis(10);

/// Rounds with and without scrapes take turns.
pub(crate) fn run(harness: &Harness) -> Result<Vec<Table>> {
    let (arguments, function) = (&harness.arguments, builtin());
    let server = harness.start_function(&function)?;
    let (mut alone, mut scraped, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut scrapes = Seen::default();
    for _ in 0..arguments.rounds() {
        let quiet = load(harness, &server)?;
        let (busy, seen) = while_scraped(harness, &server)?;
        alone.push(quiet);
        scraped.push(busy);
        ratios.push(busy / quiet);
        scrapes.failures += seen.failures;
        scrapes.latencies_micros.extend(seen.latencies_micros);
    }
    let samples = &scrapes.latencies_micros;
    let latencies = [median(samples), percentile(samples, 0.99), percentile(samples, 1.0)].map(whole);
    let mut busy = vec![
        "scraped".to_owned(),
        whole(median(&scraped)),
        format!("{:.3}", median(&ratios)),
        samples.len().to_string(),
    ];
    busy.extend(latencies);
    busy.push(scrapes.failures.to_string());
    let dash = || "–".to_owned();
    let quiet = vec![
        "alone".to_owned(),
        whole(median(&alone)),
        "1".to_owned(),
        dash(),
        dash(),
        dash(),
        dash(),
        dash(),
    ];
    Ok(vec![Table {
        title: format!(
            "scrape: built-in handler, {} workers, {CONNECTIONS} connections, a scrape {PAUSE:?} after the last; \
             medians of {} rounds of {} s",
            function.workers,
            arguments.rounds(),
            arguments.seconds()
        ),
        header: names(&["", "req/s", "ratio", "scrapes", "p50 µs", "p99 µs", "max µs", "failed"]),
        rows: vec![quiet, busy],
        failed: (scrapes.failures > 0 || samples.is_empty())
            .then(|| format!("{} of {} scrapes failed", scrapes.failures, scrapes.failures + samples.len()))
            .into_iter()
            .collect(),
        ..Table::default()
    }])
}

/// Requests per second.
fn load(harness: &Harness, server: &Server) -> Result<f64> {
    let questions =
        [Question { bytes: client::get("/"), answer: Some(crate::harness::BUILTIN_ANSWER.to_vec()) }];
    let seconds = harness.arguments.seconds();
    let figures = harness.sample(server, &questions, CONNECTIONS, Pace::Closed, seconds)?;
    Ok(figures.requests_per_second)
}

fn while_scraped(harness: &Harness, server: &Server) -> Result<(f64, Seen)> {
    let metrics = server.metrics.context("a processor has metrics")?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| probe(metrics, &client::get("/metrics"), None, PAUSE, &stop));
        let rate = load(harness, server);
        stop.store(true, Ordering::Relaxed);
        let seen = joined(scraper)?;
        rate.map(|rate| (rate, seen))
    })
}
