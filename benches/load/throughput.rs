//! How fast: closed loop at several numbers of connections, the processor and bare hyper taking turns.

use anyhow::Result;

use crate::handlers::Function;
use crate::server::{Program, Server};
use crate::table::{Table, mebibytes, median, micros, millis};
use crate::{Arguments, wrk};

/// Starts timed for the start figures; the last one of each side goes on to serve.
const STARTS: usize = 5;
/// Before the first figure at a number of connections.
const WARM_UP_SECONDS: u32 = 1;

/// One measurement of one side.
struct Sample {
    requests_per_second: f64,
    run: wrk::Run,
    cpu_micros: f64,
}

pub(crate) fn run(
    name: &str,
    arguments: &Arguments,
    program: &Program,
    function: &Function,
) -> Result<Vec<Table>> {
    let bare = Side::start("bare hyper", &Program::BareHyper, function)?;
    let name_of_ours = if matches!(program, Program::BareHyper) { "bare, again" } else { "processor" };
    let ours = Side::start(name_of_ours, program, function)?;
    let idle = [bare.server.memory(), ours.server.memory()];
    let mut speed = Table {
        title: format!("{name}: {} worker(s), {}", function.workers, describe(arguments)),
        header: vec!["", "req/s", "p50 µs", "p99 µs", "p99.9 µs", "CPU µs/req", "failed"],
        rows: Vec::new(),
    };
    for connections in &arguments.connections {
        speed.rows.extend(compare(&bare, &ours, *connections, arguments)?);
    }
    let mut footprint = Table {
        title: format!("{name}: start and memory of the process tree"),
        header: vec!["", "listening ms", "ready ms", "idle RSS MiB", "PSS", "after load RSS MiB", "PSS"],
        rows: Vec::new(),
    };
    for (side, idle) in [&bare, &ours].into_iter().zip(idle) {
        let after = side.server.memory();
        let memory = [idle.rss_kib, idle.pss_kib, after.rss_kib, after.pss_kib].map(mebibytes);
        let start = [side.listening_after.clone(), side.ready_after.clone()];
        footprint.rows.push([side.name.to_owned()].into_iter().chain(start).chain(memory).collect());
    }
    Ok(vec![speed, footprint])
}

fn describe(arguments: &Arguments) -> String {
    format!("medians of {} alternating rounds of {} s", arguments.rounds, arguments.seconds)
}

struct Side {
    name: &'static str,
    server: Server,
    listening_after: String,
    ready_after: String,
}

impl Side {
    fn start(name: &'static str, program: &Program, function: &Function) -> Result<Self> {
        let mut times = (Vec::new(), Vec::new());
        let mut server = Server::start(program, function)?;
        for _ in 1..STARTS {
            drop(server);
            server = Server::start(program, function)?;
            times.0.push(server.listening_after.as_secs_f64());
            times.1.push(server.ready_after.as_secs_f64());
        }
        let middle = |times: &[f64]| millis(std::time::Duration::from_secs_f64(median(times)));
        Ok(Self { name, server, listening_after: middle(&times.0), ready_after: middle(&times.1) })
    }

    fn sample(&self, connections: u32, seconds: u32) -> Result<Sample> {
        let before = self.server.cpu_time();
        let run = wrk::run(self.server.http, connections, seconds)?;
        let cpu = self.server.cpu_time().saturating_sub(before);
        let requests_per_second = run.requests / run.seconds;
        Ok(Sample { requests_per_second, run, cpu_micros: micros(cpu) / run.requests })
    }
}

/// Rows of one number of connections: both sides and their ratio.
fn compare(bare: &Side, ours: &Side, connections: u32, arguments: &Arguments) -> Result<Vec<Vec<String>>> {
    let mut samples: [Vec<Sample>; 2] = Default::default();
    for side in [bare, ours] {
        side.sample(connections, WARM_UP_SECONDS)?;
    }
    for _ in 0..arguments.rounds {
        for (side, samples) in [bare, ours].into_iter().zip(&mut samples) {
            samples.push(side.sample(connections, arguments.seconds)?);
        }
    }
    let mut rows: Vec<Vec<String>> = [bare, ours]
        .into_iter()
        .zip(&samples)
        .map(|(side, samples)| row(&format!("{connections} conn, {}", side.name), samples))
        .collect();
    let [bare_samples, our_samples] = &samples;
    rows.push(ratio_row(bare_samples, our_samples));
    Ok(rows)
}

fn row(name: &str, samples: &[Sample]) -> Vec<String> {
    let middle = |figure: fn(&Sample) -> f64| median(&samples.iter().map(figure).collect::<Vec<_>>());
    vec![
        name.to_owned(),
        format!("{:.0}", middle(|sample| sample.requests_per_second)),
        format!("{:.0}", middle(|sample| sample.run.p50_micros)),
        format!("{:.0}", middle(|sample| sample.run.p99_micros)),
        format!("{:.0}", middle(|sample| sample.run.p999_micros)),
        format!("{:.1}", middle(|sample| sample.cpu_micros)),
        format!("{:.0}", samples.iter().map(|sample| sample.run.failures).sum::<f64>()),
    ]
}

/// The median of the rounds' ratios: what disturbed one round disturbed both of its sides.
fn ratio_row(bare: &[Sample], ours: &[Sample]) -> Vec<String> {
    let ratio = |figure: fn(&Sample) -> f64| {
        let ratios: Vec<f64> =
            bare.iter().zip(ours).map(|(bare, ours)| figure(ours) / figure(bare)).collect();
        format!("{:.2}×", median(&ratios))
    };
    vec![
        "  ratio".to_owned(),
        ratio(|sample| sample.requests_per_second),
        ratio(|sample| sample.run.p50_micros),
        ratio(|sample| sample.run.p99_micros),
        ratio(|sample| sample.run.p999_micros),
        ratio(|sample| sample.cpu_micros),
        String::new(),
    ]
}
