//! What has to be reached: one row per goal, measured one after the other, and a table that says which are.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::arguments::{Arguments, Rate};
use crate::compare::{self, Comparison};
use crate::functions::Runtime::{self, Asgi, C, Fastapi, Flask, Go, Nodejs, Python, Rust, Wsgi};
use crate::harness::{Harness, contender};
use crate::side::{Preset, Side, Task};
use crate::table::{Table, median, whole};
use crate::tools::{Skipped, skip};
use crate::workload::Work;

/// One goal.
struct Goal {
    name: &'static str,
    runtime: Runtime,
    work: Work,
    connections: u32,
    against: Against,
    figure: Figure,
    goal: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Against {
    Preset(Preset),
    /// The Go processor, if its binary was given.
    Reference,
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    /// Our requests per second over theirs, at least.
    Throughput,
    /// p99 over p50 at half of the peak, at most.
    Tail,
    /// CPU time of an event in copies of its body by `memcpy`, at most.
    Copies,
}

const fn goal(
    name: &'static str,
    (runtime, work, connections): (Runtime, Work, u32),
    against: Against,
    figure: Figure,
    goal: f64,
) -> Goal {
    Goal { name, runtime, work, connections, against, figure, goal }
}

const HYPER: Against = Against::Preset(Preset::Hyper);
const UVICORN: Against = Against::Preset(Preset::Uvicorn);
const GUNICORN: Against = Against::Preset(Preset::Gunicorn);

/// All rows. A further one is a line.
const GOALS: &[Goal] = &[
    goal("C, empty, 64 conn", (C, Work::Empty, 64), HYPER, Figure::Throughput, 0.92),
    goal("C, empty, 1 conn", (C, Work::Empty, 1), HYPER, Figure::Throughput, 0.95),
    goal("Rust, empty, 64 conn", (Rust, Work::Empty, 64), HYPER, Figure::Throughput, 0.92),
    goal("Rust, empty, 1 conn", (Rust, Work::Empty, 1), HYPER, Figure::Throughput, 0.95),
    goal(
        "Go library, empty, 64 conn",
        (Go, Work::Empty, 64),
        Against::Preset(Preset::Fasthttp),
        Figure::Throughput,
        0.95,
    ),
    goal("Python, empty, 64 conn", (Python, Work::Empty, 64), Against::Reference, Figure::Throughput, 14.0),
    goal("Python, empty, 1 conn", (Python, Work::Empty, 1), Against::Reference, Figure::Throughput, 2.3),
    goal(
        "Python, empty, 64 conn, ASGI",
        (Python, Work::Empty, 64),
        Against::Preset(Preset::Granian),
        Figure::Throughput,
        1.3,
    ),
    goal(
        "Python, empty, 64 conn, RSGI",
        (Python, Work::Empty, 64),
        Against::Preset(Preset::GranianRsgi),
        Figure::Throughput,
        1.3,
    ),
    goal(
        "Node.js, empty, 64 conn",
        (Nodejs, Work::Empty, 64),
        Against::Preset(Preset::NodeHttp),
        Figure::Throughput,
        0.6,
    ),
    goal("Python, echo 4 MiB, copies", (Python, Work::Echo4m, 1), Against::Nothing, Figure::Copies, 6.0),
    goal("C, p99/p50 at half of peak", (C, Work::Empty, 64), Against::Nothing, Figure::Tail, 6.0),
    goal("Python, p99/p50 at half of peak", (Python, Work::Empty, 64), Against::Nothing, Figure::Tail, 6.0),
    goal("Node.js, p99/p50 at half of peak", (Nodejs, Work::Empty, 64), Against::Nothing, Figure::Tail, 6.0),
    goal("FastAPI, hello, 64 conn", (Fastapi, Work::Empty, 64), UVICORN, Figure::Throughput, 1.0),
    goal("FastAPI, streaming, 64 conn", (Fastapi, Work::Streaming, 64), UVICORN, Figure::Throughput, 1.0),
    goal("ASGI, hello, 64 conn", (Asgi, Work::Empty, 64), UVICORN, Figure::Throughput, 1.0),
    goal("Flask, hello, 64 conn", (Flask, Work::Empty, 64), GUNICORN, Figure::Throughput, 1.0),
    goal("Flask, streaming, 64 conn", (Flask, Work::Streaming, 64), GUNICORN, Figure::Throughput, 1.0),
    goal("WSGI, hello, 64 conn", (Wsgi, Work::Empty, 64), GUNICORN, Figure::Throughput, 1.0),
];

/// What came of a row.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Outcome {
    row: String,
    ours: String,
    theirs: String,
    figure: Option<f64>,
    goal: f64,
    at_most: bool,
    reached: Option<bool>,
    /// Why it was not measured, or what must be known.
    note: Option<String>,
}

/// The table, what it says as data, and all that was compared for it.
pub(crate) fn run(
    arguments: &Arguments,
    mut show: impl FnMut(&str),
) -> Result<(Table, Vec<Outcome>, Vec<Comparison>)> {
    let wanted = |goal: &&Goal| arguments.row.as_ref().is_none_or(|text| goal.name.contains(text.as_str()));
    let (mut outcomes, mut comparisons) = (Vec::new(), Vec::new());
    let mut harness = Harness::new(Arguments { b: crate::arguments::Other(None), ..arguments.clone() });
    for goal in GOALS.iter().filter(wanted) {
        let against = goal.against_name();
        let outcome = match goal.measure(&mut harness) {
            Ok((outcome, comparison)) => {
                comparisons.push(comparison);
                outcome
            }
            Err(error) => {
                let skipped = error.downcast_ref::<Skipped>().is_some();
                let note = if skipped { format!("skipped: {error:#}") } else { format!("FAILED: {error:#}") };
                Outcome { reached: (!skipped).then_some(false), ..goal.outcome(Some(note)) }
            }
        };
        let figure = outcome.figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}"));
        show(&format!("{}, against {against}: {figure}", goal.name));
        outcomes.push(outcome);
    }
    Ok((table(arguments, &outcomes), outcomes, comparisons))
}

impl Goal {
    fn against_name(&self) -> String {
        match self.against {
            Against::Preset(preset) => Side::Preset(preset).to_string(),
            Against::Reference => "reference".to_owned(),
            Against::Nothing => "–".to_owned(),
        }
    }

    fn outcome(&self, note: Option<String>) -> Outcome {
        Outcome {
            row: format!("{} : {}", self.name, self.against_name()),
            goal: self.goal,
            at_most: self.figure != Figure::Throughput,
            note,
            ..Outcome::default()
        }
    }

    fn measure(&self, harness: &mut Harness) -> Result<(Outcome, Comparison)> {
        let given = harness.arguments.reference.clone();
        harness.b = match (self.against, given) {
            (Against::Preset(preset), _) => Some(contender(&Side::Preset(preset), &[])),
            (Against::Reference, Some(path)) => {
                let mut reference = contender(&Side::Processor(path), &harness.arguments.reference_env);
                reference.name = "reference".to_owned();
                Some(reference)
            }
            (Against::Reference, None) => return skip("no --reference was given".to_owned()),
            (Against::Nothing, _) => None,
        };
        harness.arguments.connections = vec![self.connections];
        harness.arguments.rate = (self.figure == Figure::Tail).then_some(Rate::Half);
        let task = Task { runtime: self.runtime, work: self.work, workers: harness.arguments.workers };
        let comparison = compare::run(harness, &task)?;
        let outcome = self.read(&comparison)?;
        Ok((outcome, comparison))
    }

    fn read(&self, comparison: &Comparison) -> Result<Outcome> {
        let point = comparison.points.last().context("there is a point")?;
        let ours = &point.sides.first().context("there is a side")?.figures;
        let mut outcome = self.outcome(None);
        let figure = match self.figure {
            Figure::Throughput => {
                let theirs = &point.sides.last().context("there is another side")?.figures;
                (outcome.ours, outcome.theirs) = (
                    format!("{}/s", whole(ours.requests_per_second)),
                    format!("{}/s", whole(theirs.requests_per_second)),
                );
                if theirs.failures > 0.0 {
                    outcome.note = Some(format!("{} of theirs failed", theirs.failures));
                }
                point.ratios.as_ref().map_or(f64::NAN, |ratios| ratios.requests_per_second)
            }
            Figure::Tail => {
                outcome.ours =
                    format!("p50 {} µs, p99 {} µs", whole(ours.p50_micros), whole(ours.p99_micros));
                ours.tail()
            }
            Figure::Copies => {
                let copy = copy_micros(self.work.body_length());
                let cpu = ours.cpu_micros_per_request;
                (outcome.ours, outcome.theirs) =
                    (format!("{} µs CPU", whole(cpu)), format!("{} µs a copy", whole(copy)));
                cpu / copy
            }
        };
        if ours.failures > 0.0 {
            let first = ours.first_failure.clone().unwrap_or_default();
            outcome.note = Some(format!("{} of ours failed, first with {first}", ours.failures));
        } else if ours.generator_limits {
            outcome.note = Some("the generator was the bottleneck".to_owned());
        }
        let reached = if outcome.at_most { figure <= self.goal } else { figure >= self.goal };
        outcome.reached = Some(reached && ours.failures == 0.0);
        outcome.figure = Some(figure);
        Ok(outcome)
    }
}

/// The median time of a copy of so many bytes that are in no cache.
fn copy_micros(length: usize) -> f64 {
    const BUFFERS: usize = 16;
    const COPIES: usize = 64;
    let sources = vec![vec![1_u8; length]; BUFFERS];
    let mut targets = vec![vec![2_u8; length]; BUFFERS];
    let times: Vec<f64> = (0..COPIES)
        .map(|number| {
            let started = Instant::now();
            targets[number % BUFFERS].copy_from_slice(&sources[number % BUFFERS]);
            std::hint::black_box(&mut targets);
            started.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    median(&times)
}

fn table(arguments: &Arguments, outcomes: &[Outcome]) -> Table {
    let rows = outcomes.iter().map(|outcome| {
        let sign = if outcome.at_most { "≤" } else { "≥" };
        let figure = outcome.figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}"));
        let reached = match outcome.reached {
            Some(true) => "yes",
            Some(false) => "no",
            None => "skipped",
        };
        vec![
            outcome.row.clone(),
            outcome.ours.clone(),
            outcome.theirs.clone(),
            figure,
            format!("{sign} {}", outcome.goal),
            reached.to_owned(),
        ]
    });
    let notes =
        outcomes.iter().filter_map(|outcome| Some(format!("{}: {}", outcome.row, outcome.note.as_ref()?)));
    Table {
        title: format!(
            "what has to be reached: medians of {} alternating rounds of {} s",
            arguments.rounds, arguments.seconds
        ),
        header: vec!["row : against", "ours", "theirs", "ratio", "goal", "reached"],
        rows: rows.collect(),
        notes: notes.collect(),
    }
}
