//! All kinds of events for a long time: memory, descriptors and threads are looked at again and again, and what grows is
//! said.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::functions::Runtime;
use crate::generator::{Pace, Question};
use crate::harness::Harness;
use crate::process_tree::Size;
use crate::side::Task;
use crate::stalls::joined;
use crate::table::{Table, median, names, whole};
use crate::workload::Work;

const CONNECTIONS: u32 = 32;
const WORKERS: u32 = 2;
/// Below this, verdicts are not worth much.
const MINUTES_MIN: f64 = 5.0;
const SAMPLES: f64 = 200.0;
/// All in one handler, so that one function serves them.
const MIX: [Work; 6] =
    [Work::Cpu100us, Work::Echo1k, Work::Logs, Work::Streaming, Work::Echo100k, Work::Cpu100us];

/// What is watched: its name, its unit, and how much more is no growth.
struct Watched {
    name: &'static str,
    value: fn(&Size) -> f64,
    slack: f64,
    /// Whether growth fails the run. Of PSS it does not: a page's share grows when others that map it end.
    decides: bool,
}

const WATCHED: [Watched; 5] = [
    Watched { name: "RSS MiB", value: |size| size.memory.rss_kib as f64 / 1024.0, slack: 1.0, decides: true },
    Watched {
        name: "PSS MiB",
        value: |size| size.memory.pss_kib as f64 / 1024.0,
        slack: 1.0,
        decides: false,
    },
    Watched { name: "descriptors", value: |size| size.descriptors as f64, slack: 2.0, decides: true },
    Watched { name: "threads", value: |size| size.threads as f64, slack: 1.0, decides: true },
    Watched { name: "processes", value: |size| size.processes as f64, slack: 0.0, decides: true },
];
/// A share of the first value that is no growth either.
const SLACK_SHARE: f64 = 0.05;

pub(crate) fn run(harness: &Harness, runtime: Runtime) -> Result<Vec<Table>> {
    let workers = harness.arguments.workers.unwrap_or(WORKERS);
    // Where logs are asked for, they are written.
    let work = if runtime.does(Work::Logs).is_ok() { Work::Logs } else { Work::Cpu100us };
    let task = Task { runtime, work, workers: Some(workers) };
    let mix: Vec<Question> =
        MIX.into_iter().filter(|work| runtime.does(*work).is_ok()).map(Work::question).collect();
    let server = harness.start(&harness.a, &task)?;
    let seconds = harness.arguments.minutes * 60.0;
    let pause = Duration::from_secs_f64((seconds / SAMPLES).clamp(0.1, 5.0));
    let started = Instant::now();
    let (figures, samples) = thread::scope(|scope| {
        let load = scope.spawn(|| harness.observe(&server, &mix, CONNECTIONS, Pace::Closed, seconds));
        let mut samples = Vec::new();
        while !load.is_finished() {
            samples.push(server.size());
            server.forget_log()?;
            thread::sleep(pause);
        }
        joined(load).and_then(|figures| Ok((figures?, samples)))
    })?;
    let long_enough = harness.arguments.minutes >= MINUTES_MIN;
    let mut failed: Vec<String> =
        figures.failed().map(|failed| format!("{failed}{}", server.last_words())).into_iter().collect();
    let rows: Vec<_> = WATCHED
        .iter()
        .map(|watched| {
            let values: Vec<f64> = samples.iter().map(watched.value).collect();
            let verdict = Verdict::of(&values, watched.slack);
            if verdict.grows && watched.decides && long_enough {
                failed.push(format!(
                    "{} grows, from {:.1} to {:.1}",
                    watched.name, verdict.early, verdict.late
                ));
            }
            let text = |value: f64| if value.fract() == 0.0 { whole(value) } else { format!("{value:.1}") };
            vec![
                watched.name.to_owned(),
                text(verdict.first),
                text(verdict.early),
                text(verdict.late),
                text(verdict.last),
                text(verdict.peak),
                if verdict.grows { "grows" } else { "flat" }.to_owned(),
            ]
        })
        .collect();
    let mix_names: Vec<String> = MIX.iter().map(|work| work.name()).collect();
    let mut notes = vec![format!("asked by turns: {}", mix_names.join(", "))];
    if !long_enough {
        notes.push(format!("less than {MINUTES_MIN} minutes: what looks like growth may be the warm-up"));
    }
    Ok(vec![Table {
        title: format!(
            "soak: {}, {workers} workers, {CONNECTIONS} connections, {:.1} minutes: {} requests/s, p99 {} µs, {} \
             failed, {} samples",
            runtime.name(),
            started.elapsed().as_secs_f64() / 60.0,
            whole(figures.requests_per_second),
            whole(figures.p99_micros),
            whole(figures.failures),
            samples.len()
        ),
        header: names(&["", "first", "early", "late", "last", "peak", "verdict"]),
        rows,
        notes,
        failed,
    }])
}

/// What became of one thing that was watched.
#[derive(Debug, PartialEq)]
struct Verdict {
    first: f64,
    last: f64,
    peak: f64,
    /// Medians of the second fifth, when everything is warm, and of the last fifth.
    early: f64,
    late: f64,
    grows: bool,
}

impl Verdict {
    fn of(values: &[f64], slack: f64) -> Self {
        let fifth = values.len().div_ceil(5);
        let early = median(values.get(fifth..2 * fifth).unwrap_or(values));
        let late = median(&values[values.len().saturating_sub(fifth)..]);
        Self {
            first: values.first().copied().unwrap_or(f64::NAN),
            last: values.last().copied().unwrap_or(f64::NAN),
            peak: values.iter().copied().fold(f64::NAN, f64::max),
            early,
            late,
            grows: late - early > slack.max(early * SLACK_SHARE),
        }
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    fn grows(value: impl Fn(f64) -> f64, slack: f64) -> bool {
        let values: Vec<f64> = (0..100).map(|number| value(f64::from(number))).collect();
        Verdict::of(&values, slack).grows
    }

    #[test]
    fn a_slope_grows_and_a_warm_up_does_not() {
        assert!(grows(|number| 10.0 + number / 10.0, 1.0));
        assert!(!grows(|number| 10.0 + number.min(15.0), 1.0));
        assert!(!grows(|number| if number == 50.0 { 99.0 } else { 10.0 }, 1.0));
        assert!(!grows(|number| 100.0 + number / 25.0, 1.0));
        assert!(!grows(|_| 3.0, 0.0));
        assert!(grows(|number| 3.0 + (number / 50.0).floor(), 0.0));
    }

    #[test]
    fn few_values_are_no_reason_to_fail() {
        assert!(!Verdict::of(&[], 0.0).grows);
        let one = Verdict::of(&[7.0], 0.0);
        assert_eq!((one.first, one.last, one.peak, one.grows), (7.0, 7.0, 7.0, false));
    }
}
