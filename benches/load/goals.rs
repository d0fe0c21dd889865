//! What has to be reached: one row per goal, measured one after the other, and a table that says which are.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::arguments::{Arguments, Rate};
use crate::compare::{self, Comparison};
use crate::figures::Figures;
use crate::functions::Runtime::{self, Asgi, C, Fastapi, Flask, Go, Nodejs, Python, Rust, Wsgi};
use crate::harness::{Harness, contender};
use crate::side::{Preset, Side, Task};
use crate::table::{Table, median, names, whole};
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
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Figure {
    /// Our requests per second over theirs, at least.
    Throughput,
    /// p99 over p50 at half of the peak, at most.
    Tail,
    /// CPU time of an event in copies of its body by `memcpy`, at most, beyond what the other side takes that makes
    /// [`COPIES_OF_A_SERVER`].
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

/// Out of the socket and into it; TCP itself, which costs as much again, any server has as well.
const COPIES_OF_A_SERVER: f64 = 2.0;

/// Length of a round in which a tail is measured, unless another was asked for. A machine that stands still for a few
/// milliseconds now and then spoils p99 of every long round, and only some of many short ones. So would a server's own
/// rare stalls: p99 of all rounds together stands beside it.
const TAIL_SECONDS: f64 = 0.2;

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
    goal("Python, echo 4 MiB, copies", (Python, Work::Echo4m, 1), HYPER, Figure::Copies, 6.0),
    goal("C, p99/p50 at half of peak", (C, Work::Empty, 64), HYPER, Figure::Tail, 6.0),
    goal("Python, p99/p50 at half of peak", (Python, Work::Empty, 64), HYPER, Figure::Tail, 6.0),
    goal("Node.js, p99/p50 at half of peak", (Nodejs, Work::Empty, 64), HYPER, Figure::Tail, 6.0),
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
    pub(crate) failed: bool,
    /// Why it was not measured, or what must be known.
    note: Option<String>,
}

/// Every row that is wanted, not measured yet.
pub(crate) fn planned(row: Option<&str>) -> Vec<Outcome> {
    wanted(row).map(|goal| goal.outcome(None)).collect()
}

fn wanted(row: Option<&str>) -> impl Iterator<Item = &'static Goal> {
    GOALS.iter().filter(move |goal| row.is_none_or(|text| goal.name.contains(text)))
}

/// # Errors
/// No row is wanted.
pub(crate) fn check_row(row: Option<&str>) -> Result<()> {
    if wanted(row).next().is_none() {
        let names: Vec<&str> = GOALS.iter().map(|goal| goal.name).collect();
        bail!("no row has `{}` in its name; they are:\n{}", row.unwrap_or_default(), names.join("\n"));
    }
    Ok(())
}

/// Measures row after row; each is shown when it is done, with all that was compared for it.
pub(crate) fn run(
    harness: &mut Harness,
    mut show: impl FnMut(usize, Outcome, Option<Comparison>) -> Result<()>,
) -> Result<()> {
    let row = harness.arguments.row.clone();
    let before = (harness.arguments.clone(), harness.b.take());
    for (index, goal) in wanted(row.as_deref()).enumerate() {
        let (outcome, comparison) = match goal.measure(harness) {
            Ok((outcome, comparison)) => (outcome, Some(comparison)),
            Err(error) => {
                let skipped = error.downcast_ref::<Skipped>().is_some();
                let note = if skipped { format!("skipped: {error:#}") } else { format!("FAILED: {error:#}") };
                (Outcome { failed: !skipped, ..goal.outcome(Some(note)) }, None)
            }
        };
        show(index, outcome, comparison)?;
    }
    (harness.arguments, harness.b) = before;
    Ok(())
}

impl Outcome {
    /// For whoever watches.
    pub(crate) fn line(&self) -> String {
        let Self { row, note, .. } = self;
        let figure = self.figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}"));
        let note = note.as_ref().map_or_else(String::new, |note| format!(" ({note})"));
        format!("{row}: {figure}{note}")
    }
}

impl Goal {
    fn against_name(&self) -> String {
        match self.against {
            Against::Preset(preset) => Side::Preset(preset).to_string(),
            Against::Reference => "reference".to_owned(),
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
        };
        harness.arguments.connections = vec![self.connections];
        harness.arguments.rate = (self.figure == Figure::Tail).then_some(Rate::Half);
        harness.arguments.rate_seconds.get_or_insert(TAIL_SECONDS);
        let task = Task { runtime: self.runtime, work: self.work, workers: harness.arguments.workers };
        let comparison = compare::run(harness, &task)?;
        let outcome = self.read(&comparison)?;
        Ok((outcome, comparison))
    }

    fn read(&self, comparison: &Comparison) -> Result<Outcome> {
        let point = comparison.points.last().context("there is a point")?;
        let ours = &point.sides.first().context("there is a side")?.figures;
        let theirs = &point.sides.last().context("there is another side")?.figures;
        let mut outcome = self.outcome(None);
        let figure = match self.figure {
            Figure::Throughput => {
                (outcome.ours, outcome.theirs) = (
                    format!("{}/s", whole(ours.requests_per_second)),
                    format!("{}/s", whole(theirs.requests_per_second)),
                );
                point.ratios.as_ref().map_or(f64::NAN, |ratios| ratios.requests_per_second)
            }
            Figure::Tail => {
                let tail = |figures: &Figures| {
                    let times = [figures.p50_micros, figures.p99_micros, figures.p99_micros_of_all()];
                    let [p50, p99, of_all] = times.map(whole);
                    format!("p50 {p50} µs, p99 {p99} µs, of all rounds together {of_all} µs")
                };
                // Not what is compared: theirs shows what the machine itself makes of tails.
                (outcome.ours, outcome.theirs) =
                    (tail(ours), format!("{}: {:.1}", tail(theirs), theirs.tail()));
                ours.tail()
            }
            Figure::Copies => {
                let copy = copy_micros(self.work.body_length());
                let (cpu, theirs) = (ours.cpu_micros_per_request, theirs.cpu_micros_per_request);
                let told =
                    |cpu: f64| format!("{} µs CPU: {:.1} × {} µs", whole(cpu), cpu / copy, whole(copy));
                (outcome.ours, outcome.theirs) = (told(cpu), told(theirs));
                COPIES_OF_A_SERVER + (cpu - theirs) / copy
            }
        };
        if ours.generator_limits {
            outcome.note = Some("the generator was the bottleneck".to_owned());
        }
        let reached = if outcome.at_most { figure <= self.goal } else { figure >= self.goal };
        outcome.reached = Some(reached);
        outcome.figure = Some(figure);
        Ok(outcome)
    }
}

/// What follows in a note are lines of a server's log.
fn first_line(outcome: &Outcome) -> Option<&str> {
    outcome.note.as_ref()?.lines().next()
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

/// What is reached, and what is not.
pub(crate) fn table(arguments: &Arguments, outcomes: &[Outcome]) -> Table {
    let rows = outcomes.iter().map(|outcome| {
        let sign = if outcome.at_most { "≤" } else { "≥" };
        let figure = outcome.figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}"));
        let reached = match outcome.reached {
            Some(true) => "yes",
            Some(false) => "no",
            None if outcome.failed => "failed",
            None => "not measured",
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
        outcomes.iter().filter_map(|outcome| Some(format!("{}: {}", outcome.row, first_line(outcome)?)));
    let arguments =
        Arguments { rate_seconds: arguments.rate_seconds.or(Some(TAIL_SECONDS)), ..arguments.clone() };
    Table {
        title: format!(
            "what has to be reached: medians of alternating rounds, {}, of p99/p50 {}",
            arguments.rounds_at(false),
            arguments.rounds_at(true),
        ),
        header: names(&["row : against", "ours", "theirs", "ratio", "goal", "reached"]),
        rows: rows.collect(),
        notes: notes.collect(),
        failed: Vec::new(),
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;
    use crate::compare::{Measured, Point};
    use crate::figures::Ratios;

    fn comparison(rates: Option<Vec<f64>>, sides: &[(f64, f64, f64)]) -> Comparison {
        let figures = |&(rate, p99, cpu): &(f64, f64, f64)| Figures {
            requests_per_second: rate,
            p50_micros: 10.0,
            p99_micros: p99,
            cpu_micros_per_request: cpu,
            ..Figures::default()
        };
        let all: Vec<Figures> = sides.iter().map(figures).collect();
        let ratios = (all.len() == 2).then(|| Ratios::of(&all[..1], &all[1..]));
        let sides = all.into_iter().map(|figures| Measured { name: String::new(), figures }).collect();
        let points = vec![Point { connections: 64, rates, sides, ratios }];
        Comparison { points, ..Comparison::default() }
    }

    fn read(name: &str, comparison: &Comparison) -> (f64, bool) {
        let goal = GOALS.iter().find(|goal| goal.name == name).unwrap();
        let outcome = goal.read(comparison).unwrap();
        (outcome.figure.unwrap(), outcome.reached.unwrap())
    }

    #[test]
    fn throughput_is_ours_over_theirs_and_has_to_be_as_much() {
        let against = |ours: f64| comparison(None, &[(ours, 20.0, 1.0), (100.0, 20.0, 1.0)]);
        assert_eq!(read("C, empty, 64 conn", &against(92.0)), (0.92, true));
        assert_eq!(read("C, empty, 64 conn", &against(91.0)), (0.91, false));
    }

    #[test]
    fn a_tail_has_to_be_as_short() {
        let tail = |p99: f64| comparison(Some(vec![50.0]), &[(50.0, p99, 1.0)]);
        assert_eq!(read("C, p99/p50 at half of peak", &tail(60.0)), (6.0, true));
        assert_eq!(read("C, p99/p50 at half of peak", &tail(61.0)), (6.1, false));
    }

    #[test]
    fn copies_are_cpu_time_beyond_a_servers_over_that_of_one() {
        let sides = |cpu: f64| [(1.0, 1.0, cpu), (1.0, 1.0, 1000.0)];
        let outcome = |cpu: f64| read("Python, echo 4 MiB, copies", &comparison(None, &sides(cpu)));
        assert!(outcome(1e9).0 > 1000.0 && !outcome(1e9).1);
        assert_eq!(outcome(1000.0), (2.0, true));
    }

    #[test]
    fn rows_have_names_of_their_own_and_what_is_not_measured_is_said() {
        let mut names: Vec<&str> = GOALS.iter().map(|goal| goal.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), GOALS.len());
        assert_eq!(planned(None).len(), GOALS.len());
        assert!(planned(Some("Flask")).len() < GOALS.len() && planned(Some("no such row")).is_empty());
        assert!(check_row(Some("Flask")).is_ok() && check_row(Some("no such row")).is_err());
        let arguments = <Arguments as clap::Parser>::try_parse_from(["load"]).unwrap();
        let table = table(&arguments, &planned(None));
        assert!(table.rows.iter().all(|row| row.last().unwrap() == "not measured"));
    }
}
