//! How fast: the two sides take turns, closed loop and at fixed rates, at several numbers of connections.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::arguments::{Rate, Rounds};
use crate::figures::{Figures, HEADER, Ratios};
use crate::generator::{BUSY_MAX, Pace, Question};
use crate::harness::{Harness, question};
use crate::process_tree::Memory;
use crate::server::{Contender, Server, Start};
use crate::side::{Side, Task};
use crate::table::{Table, mebibytes, median, names, tenths};

/// Starts that are timed; the last one of each side goes on to serve.
const STARTS: usize = 5;
/// Before the first figure at a number of connections.
const WARM_UP_SECONDS: f64 = 0.5;

/// Everything that one scenario said of two sides.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Comparison {
    pub(crate) scenario: String,
    pub(crate) runtime: String,
    pub(crate) workers: u32,
    pub(crate) rounds: Rounds,
    /// None: no rate was measured.
    pub(crate) rounds_at_rate: Option<Rounds>,
    pub(crate) points: Vec<Point>,
    pub(crate) footprints: Vec<Footprint>,
}

/// One number of connections at one pace.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    pub(crate) connections: u32,
    /// Of each side; none: closed loop.
    pub(crate) rates: Option<Vec<f64>>,
    pub(crate) sides: Vec<Measured>,
    pub(crate) ratios: Option<Ratios>,
}

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measured {
    pub(crate) name: String,
    pub(crate) figures: Figures,
}

/// Start and memory of one side, medians.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Footprint {
    pub(crate) name: String,
    pub(crate) listening_millis: f64,
    pub(crate) ready_millis: Option<f64>,
    pub(crate) first_answer_millis: f64,
    pub(crate) idle_rss_kib: u64,
    pub(crate) idle_pss_kib: u64,
    pub(crate) loaded_rss_kib: u64,
    pub(crate) loaded_pss_kib: u64,
}

pub(crate) fn run(harness: &Harness, task: &Task) -> Result<Comparison> {
    let arguments = &harness.arguments;
    let sides: Vec<Running> = std::iter::once(&harness.a)
        .chain(&harness.b)
        .map(|contender| Running::start(harness, contender, task))
        .collect::<Result<_>>()?;
    let mut points = Vec::new();
    for connections in &arguments.connections {
        let turn = Turn { harness, sides: &sides, connections: *connections };
        turn.warm_up()?;
        match arguments.rate {
            Some(Rate::PerSecond(rate)) => points.push(turn.measure(Some(vec![rate; sides.len()]))?),
            None => points.push(turn.measure(None)?),
            Some(Rate::Half) => {
                let peak = turn.measure(None)?;
                let half = |side: &Measured| side.figures.requests_per_second / 2.0;
                let rates = peak.sides.iter().map(half).collect();
                points.push(peak);
                points.push(turn.measure(Some(rates))?);
            }
        }
    }
    Ok(Comparison {
        scenario: task.work.name(),
        runtime: task.runtime.name(),
        workers: task.workers(),
        rounds: arguments.rounds_at(false),
        rounds_at_rate: arguments.rate.map(|_| arguments.rounds_at(true)),
        points,
        footprints: sides.iter().map(Running::footprint).collect(),
    })
}

/// A side that serves.
struct Running {
    name: String,
    server: Server,
    question: Question,
    starts: Vec<Start>,
    idle: Memory,
}

impl Running {
    fn start(harness: &Harness, contender: &Contender, task: &Task) -> Result<Self> {
        let start = || harness.start(contender, task);
        // The first one fills the caches, and is not timed.
        let count = if harness.arguments.few_starts() { 2 } else { STARTS };
        let (mut server, mut starts) = (start()?, Vec::new());
        for _ in 1..count {
            drop(server);
            server = start()?;
            starts.push(server.start);
        }
        let idle = server.memory();
        let name = match contender.side {
            // Its name says nothing of what it runs.
            Side::Processor(_) => format!("{} ({})", contender.name, task.runtime.name()),
            _ => contender.name.clone(),
        };
        Ok(Self { name, server, question: question(contender, task), starts, idle })
    }

    fn footprint(&self) -> Footprint {
        let loaded = self.server.memory();
        let middle = |time: fn(&Start) -> Option<std::time::Duration>| {
            let times: Vec<f64> =
                self.starts.iter().filter_map(time).map(|time| time.as_secs_f64() * 1e3).collect();
            (!times.is_empty()).then(|| median(&times))
        };
        Footprint {
            name: self.name.clone(),
            listening_millis: middle(|start| Some(start.listening)).unwrap_or(f64::NAN),
            ready_millis: middle(|start| start.ready),
            first_answer_millis: middle(|start| Some(start.first_answer)).unwrap_or(f64::NAN),
            idle_rss_kib: self.idle.rss_kib,
            idle_pss_kib: self.idle.pss_kib,
            loaded_rss_kib: loaded.rss_kib,
            loaded_pss_kib: loaded.pss_kib,
        }
    }
}

/// Both sides at one number of connections.
struct Turn<'a> {
    harness: &'a Harness,
    sides: &'a [Running],
    connections: u32,
}

impl Turn<'_> {
    fn warm_up(&self) -> Result<()> {
        self.sides.iter().try_for_each(|side| self.sample(side, Pace::Closed, WARM_UP_SECONDS).map(drop))
    }

    fn sample(&self, side: &Running, pace: Pace, seconds: f64) -> Result<Figures> {
        let questions = std::slice::from_ref(&side.question);
        let sample = self.harness.sample(&side.server, questions, self.connections, pace, seconds);
        sample.with_context(|| format!("{}, {} connections", side.name, self.connections))
    }

    /// Rounds, each with both sides; they take turns in being first.
    fn measure(&self, rates: Option<Vec<f64>>) -> Result<Point> {
        let mut samples = vec![Vec::new(); self.sides.len()];
        let rounds = self.harness.arguments.rounds_at(rates.is_some());
        for round in 0..rounds.count as usize {
            for place in 0..self.sides.len() {
                let index = (round + place) % self.sides.len();
                let pace = rates.as_ref().map_or(Pace::Closed, |rates| Pace::Rate(rates[index]));
                samples[index].push(self.sample(&self.sides[index], pace, rounds.seconds)?);
            }
        }
        let ratios = match &samples[..] {
            [a, b] => Some(Ratios::of(a, b)),
            _ => None,
        };
        let sides = self.sides.iter().zip(&samples);
        let sides = sides
            .map(|(side, samples)| Measured { name: side.name.clone(), figures: Figures::medians(samples) })
            .collect();
        Ok(Point { connections: self.connections, rates, sides, ratios })
    }
}

impl Comparison {
    pub(crate) fn tables(&self) -> Vec<Table> {
        vec![self.speed_table(), self.footprint_table()]
    }

    pub(crate) fn speed_table(&self) -> Table {
        let Self { scenario, runtime, workers, rounds, rounds_at_rate, .. } = self;
        let at_rate = rounds_at_rate.filter(|other| other != rounds);
        let at_rate = at_rate.map_or_else(String::new, |rounds| format!(", at a rate {rounds}"));
        let mut speed = Table {
            title: format!(
                "{scenario}, {runtime}, {workers} worker(s): medians of alternating rounds, {rounds}{at_rate}"
            ),
            header: names(&HEADER),
            ..Table::default()
        };
        for point in &self.points {
            for (index, side) in point.sides.iter().enumerate() {
                let pace = point
                    .rates
                    .as_ref()
                    .map_or_else(String::new, |rates| format!(" at {:.0}/s", rates[index]));
                let name = format!("{} conn{pace}, {}", point.connections, side.name);
                speed.notes.extend(note(&name, &side.figures));
                speed.rows.push([name].into_iter().chain(side.figures.cells()).collect());
            }
            if let Some(ratios) = &point.ratios {
                speed.rows.push(["  A over B".to_owned()].into_iter().chain(ratios.cells()).collect());
            }
        }
        speed
    }

    fn footprint_table(&self) -> Table {
        let rows = self.footprints.iter().map(|side| {
            let memory = [side.idle_rss_kib, side.idle_pss_kib, side.loaded_rss_kib, side.loaded_pss_kib];
            let start = [Some(side.listening_millis), side.ready_millis, Some(side.first_answer_millis)];
            let start = start.map(|time| time.map_or_else(|| "–".to_owned(), tenths));
            [side.name.clone()].into_iter().chain(start).chain(memory.map(mebibytes)).collect()
        });
        Table {
            title: format!(
                "{}, {}: exec until …, and memory of the process tree",
                self.scenario, self.runtime
            ),
            header: names(&[
                "",
                "accepts ms",
                "ready ms",
                "first answer ms",
                "idle RSS MiB",
                "PSS",
                "after load RSS MiB",
                "PSS",
            ]),
            rows: rows.collect(),
            ..Table::default()
        }
    }
}

/// What must be known to read a row.
fn note(name: &str, figures: &Figures) -> Option<String> {
    let (busy, late) = (figures.generator_busy, figures.generator_late_p99_micros);
    if figures.generator_limits && busy > BUSY_MAX {
        let remedy = "see --generator-threads";
        return Some(format!(
            "{name}: the generator was the bottleneck, {:.0}% busy: {remedy}",
            busy * 100.0
        ));
    }
    if figures.generator_limits {
        return Some(format!(
            "{name}: the generator did not get a core in time, it asked {late:.0} µs late: latencies are too long"
        ));
    }
    (figures.unasked > 0.0).then(|| {
        let unasked = figures.unasked;
        format!("{name}: the rate was too high, {unasked} requests found no free connection until the end")
    })
}
