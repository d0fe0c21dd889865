//! The standard set: what `docs/performance.md` shows, measured by one command. A set starts out planned, every cell *not
//! measured*, and is filled in part by part.

use anyhow::Result;
use serde::Serialize;

use crate::compare::{self, Comparison};
use crate::figures::{Figures, HEADER};
use crate::functions::Runtime;
use crate::goals;
use crate::harness::{Harness, contender};
use crate::side::{Preset, Side, Task};
use crate::table::{Table, mebibytes, names, tenths, whole};
use crate::tools::Skipped;
use crate::workload::Work;
use crate::{overload, scrapes, stalls};

/// Columns of the tables of scenarios.
const WORKS: [Work; 10] = [
    Work::Empty,
    Work::Echo1k,
    Work::Echo100k,
    Work::Echo4m,
    Work::Cpu100us,
    Work::Sleep10ms,
    Work::Logs,
    Work::Streaming,
    Work::AsyncFanout,
    Work::Detector,
];
/// Their rows.
const RUNTIMES: [Runtime; 14] = [
    Runtime::C,
    Runtime::Rust,
    Runtime::Go,
    Runtime::GoProgram,
    Runtime::Python,
    Runtime::PythonAsync,
    Runtime::Asgi,
    Runtime::Wsgi,
    Runtime::Fastapi,
    Runtime::Flask,
    Runtime::Nodejs,
    Runtime::Java,
    Runtime::Ruby,
    Runtime::Dotnet,
];
const CONNECTIONS: u32 = 64;
/// Where one event is much work.
const CONNECTIONS_OF_LARGE: u32 = 8;
/// There are many cells: each gets this share of a measurement's length.
const CELL_SHARE: f64 = 0.35;
/// The same of curves, which have many points.
const CURVE_SHARE: f64 = 0.5;
/// Empty handlers beside others, over connections.
const CURVES: [(Runtime, Preset); 3] =
    [(Runtime::C, Preset::Hyper), (Runtime::Python, Preset::Granian), (Runtime::Nodejs, Preset::NodeHttp)];
const CURVE_CONNECTIONS: [u32; 4] = [1, 8, 64, 256];
/// A scenario that makes tables of its own.
type Run = fn(&Harness) -> Result<Vec<Table>>;
/// Who delays whom.
const STALLS: [(&str, Run); 5] = [
    ("mixed-blocking, c", |harness| stalls::blocking(harness, Runtime::C)),
    ("mixed-blocking, python", |harness| stalls::blocking(harness, Runtime::Python)),
    ("blocked-5s", stalls::blocked_5s),
    ("overload", overload::run),
    ("scrape", scrapes::run),
];
const NOT_MEASURED: &str = "not measured";

/// Something that is to be measured.
#[derive(Debug, Clone, Default, Serialize)]
enum State<T> {
    #[default]
    NotMeasured,
    Skipped(String),
    Failed(String),
    Measured(T),
}

#[derive(Debug, Clone, Serialize)]
struct Cell {
    name: String,
    #[serde(skip)]
    task: Task,
    comparison: State<Comparison>,
}

#[derive(Debug, Clone, Serialize)]
struct Curve {
    name: String,
    #[serde(skip)]
    task: Task,
    #[serde(skip)]
    against: Preset,
    comparison: State<Comparison>,
}

#[derive(Debug, Clone, Serialize)]
struct Stall {
    name: &'static str,
    tables: State<Vec<Table>>,
}

/// All of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Set {
    goals: Vec<goals::Outcome>,
    goal_comparisons: Vec<Comparison>,
    cells: Vec<Cell>,
    curves: Vec<Curve>,
    stalls: Vec<Stall>,
}

impl<T> State<T> {
    fn of(outcome: Result<T>) -> Self {
        match outcome {
            Ok(value) => Self::Measured(value),
            Err(error) if error.downcast_ref::<Skipped>().is_some() => Self::Skipped(format!("{error:#}")),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }

    fn measured(&self) -> Option<&T> {
        match self {
            Self::Measured(value) => Some(value),
            _ => None,
        }
    }

    /// What a cell says in the place of a figure.
    fn word(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            _ => NOT_MEASURED,
        }
    }

    /// Why there is no figure: for the notes, and for the failures.
    fn reason(&self, name: &str) -> (Option<String>, Option<String>) {
        match self {
            Self::Skipped(reason) => (Some(format!("{name}: skipped: {}", first_line(reason))), None),
            Self::Failed(reason) => (None, Some(format!("{name}: {}", first_line(reason)))),
            _ => (None, None),
        }
    }
}

/// What follows are lines of a server's log.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn is_large(work: Work) -> bool {
    matches!(work, Work::Echo4m | Work::Detector)
}

impl Set {
    /// Nothing measured yet.
    pub(crate) fn planned() -> Self {
        let tasks = RUNTIMES.iter().flat_map(|runtime| {
            WORKS.iter().map(|work| Task { runtime: *runtime, work: *work, workers: None })
        });
        let cells = tasks.filter(|task| task.runtime.does(task.work).is_ok()).map(|task| Cell {
            name: format!("{}, {}", task.work.name(), task.runtime.name()),
            task,
            comparison: State::default(),
        });
        let curves = CURVES.iter().map(|(runtime, preset)| Curve {
            name: format!("empty, {}, beside {}", runtime.name(), Side::Preset(*preset)),
            task: Task { runtime: *runtime, work: Work::Empty, workers: None },
            against: *preset,
            comparison: State::default(),
        });
        Self {
            goals: goals::planned(None),
            goal_comparisons: Vec::new(),
            cells: cells.collect(),
            curves: curves.collect(),
            stalls: STALLS.iter().map(|(name, _)| Stall { name, tables: State::default() }).collect(),
        }
    }

    /// Measures part after part; `show` is called after each, with a line about it.
    pub(crate) fn run(
        &mut self,
        harness: &mut Harness,
        show: impl Fn(&Self, &str) -> Result<()>,
    ) -> Result<()> {
        goals::run(harness, |index, outcome, comparison| {
            let line = outcome.line();
            self.goals[index] = outcome;
            self.goal_comparisons.extend(comparison);
            show(self, &line)
        })?;
        let (seconds, rounds) = (harness.arguments.seconds(), harness.arguments.rounds());
        harness.b = None;
        harness.arguments.seconds = Some(seconds * CELL_SHARE);
        for index in 0..self.cells.len() {
            let Cell { name, task, .. } = self.cells[index].clone();
            let connections = if is_large(task.work) { CONNECTIONS_OF_LARGE } else { CONNECTIONS };
            harness.arguments.connections = vec![connections];
            let comparison = State::of(compare::run(harness, &task));
            let line = format!("{name}: {}", speed(&comparison));
            self.cells[index].comparison = comparison;
            show(self, &line)?;
        }
        harness.arguments.connections = CURVE_CONNECTIONS.to_vec();
        harness.arguments.seconds = Some(seconds * CURVE_SHARE);
        for index in 0..self.curves.len() {
            let Curve { name, task, against, .. } = self.curves[index].clone();
            harness.b = Some(contender(&Side::Preset(against), &[]));
            let comparison = State::of(compare::run(harness, &task));
            let line = format!("{name}: {}", speed(&comparison));
            self.curves[index].comparison = comparison;
            show(self, &line)?;
        }
        harness.b = None;
        (harness.arguments.seconds, harness.arguments.rounds) = (Some(seconds), Some(rounds));
        for (index, (name, run)) in STALLS.iter().enumerate() {
            let tables = State::of(run(harness));
            let line = format!("{name}: {}", tables.measured().map_or(tables.word(), |_| "measured"));
            self.stalls[index].tables = tables;
            show(self, &line)?;
        }
        Ok(())
    }

    /// For plots.
    pub(crate) fn curves(&self) -> impl Iterator<Item = &Comparison> {
        self.curves.iter().filter_map(|curve| curve.comparison.measured())
    }

    /// Why the run has failed; nothing: it has not.
    pub(crate) fn failures(&self) -> Vec<String> {
        let goals = self.goals.iter().filter(|goal| goal.failed).map(goals::Outcome::line);
        let cells = self.cells.iter().filter_map(|cell| cell.comparison.reason(&cell.name).1);
        let curves = self.curves.iter().filter_map(|curve| curve.comparison.reason(&curve.name).1);
        let stalls = self.stalls.iter().flat_map(|stall| {
            let inside = stall.tables.measured().into_iter().flatten().flat_map(|table| &table.failed);
            let inside = inside.map(|failed| format!("{}: {failed}", stall.name));
            inside.chain(stall.tables.reason(stall.name).1)
        });
        goals.chain(cells).chain(curves).chain(stalls).collect()
    }

    /// In the order of the document.
    pub(crate) fn tables(&self, harness: &Harness) -> Vec<Table> {
        let mut tables = vec![goals::table(&harness.arguments, &self.goals)];
        let seconds = harness.arguments.seconds() * CELL_SHARE;
        let how = format!(
            "{CONNECTIONS} connections, of echo-4m and detector {CONNECTIONS_OF_LARGE}; medians of {} rounds of \
             {seconds} s",
            harness.arguments.rounds()
        );
        tables.push(self.matrix("requests per second", &how, |figures| whole(figures.requests_per_second)));
        tables
            .push(self.matrix("CPU µs per request", &how, |figures| tenths(figures.cpu_micros_per_request)));
        tables.push(self.matrix("p50 µs", &how, |figures| whole(figures.p50_micros)));
        tables.push(self.matrix("p99 µs", &how, |figures| whole(figures.p99_micros)));
        if let (Some(last), notes) = (tables.last_mut(), self.cells.iter()) {
            let reasons = notes.map(|cell| cell.comparison.reason(&cell.name));
            let (notes, failed): (Vec<_>, Vec<_>) = reasons.unzip();
            last.notes.extend(notes.into_iter().flatten());
            last.failed.extend(failed.into_iter().flatten());
        }
        tables.push(self.footprints());
        tables.extend(self.curves.iter().map(Curve::table));
        tables.extend(self.stalls.iter().flat_map(Stall::tables));
        tables
    }

    /// Runtimes by scenarios.
    fn matrix(&self, what: &str, how: &str, value: fn(&Figures) -> String) -> Table {
        let mut header = vec![String::new()];
        header.extend(WORKS.iter().map(|work| work.name()));
        let rows = RUNTIMES.iter().map(|runtime| {
            let mut row = vec![runtime.name()];
            row.extend(WORKS.iter().map(|work| {
                let is_it = |cell: &&Cell| cell.task.runtime == *runtime && cell.task.work == *work;
                let Some(cell) = self.cells.iter().find(is_it) else { return "–".to_owned() };
                let figures = cell
                    .comparison
                    .measured()
                    .and_then(|comparison| Some(&comparison.points.first()?.sides.first()?.figures));
                figures.map_or_else(|| cell.comparison.word().to_owned(), value)
            }));
            row
        });
        Table { title: format!("{what}: {how}"), header, rows: rows.collect(), ..Table::default() }
    }

    fn footprints(&self) -> Table {
        let rows = self.cells.iter().filter(|cell| cell.task.work == Work::Empty).map(|cell| {
            let name = format!("{}, {} worker(s)", cell.task.runtime.name(), cell.task.workers());
            let Some(side) = cell.comparison.measured().and_then(|comparison| comparison.footprints.first())
            else {
                let mut row = vec![name, cell.comparison.word().to_owned()];
                row.resize(FOOTPRINT.len(), String::new());
                return row;
            };
            let times = [Some(side.listening_millis), side.ready_millis, Some(side.first_answer_millis)];
            let memory = [side.idle_rss_kib, side.idle_pss_kib, side.loaded_rss_kib, side.loaded_pss_kib];
            let times = times.map(|time| time.map_or_else(|| "–".to_owned(), tenths));
            [name].into_iter().chain(times).chain(memory.map(mebibytes)).collect()
        });
        Table {
            title: "start and memory of an empty handler: exec until …, the whole process tree".to_owned(),
            header: names(&FOOTPRINT),
            rows: rows.collect(),
            ..Table::default()
        }
    }
}

const FOOTPRINT: [&str; 8] =
    ["", "accepts ms", "ready ms", "first answer ms", "idle RSS MiB", "PSS", "after load RSS MiB", "PSS"];

impl Curve {
    fn table(&self) -> Table {
        if let Some(comparison) = self.comparison.measured() {
            let mut table = comparison.speed_table();
            table.title = format!("{}: {}", self.name, table.title);
            return table;
        }
        let rows = CURVE_CONNECTIONS.iter().map(|connections| {
            let mut row = vec![format!("{connections} conn"), self.comparison.word().to_owned()];
            row.resize(HEADER.len(), String::new());
            row
        });
        let (note, failed) = self.comparison.reason(&self.name);
        Table {
            title: self.name.clone(),
            header: names(&HEADER),
            rows: rows.collect(),
            notes: note.into_iter().collect(),
            failed: failed.into_iter().collect(),
        }
    }
}

impl Stall {
    fn tables(&self) -> Vec<Table> {
        if let Some(tables) = self.tables.measured() {
            return tables.clone();
        }
        let (note, failed) = self.tables.reason(self.name);
        vec![Table {
            title: self.name.to_owned(),
            header: vec![String::new(), String::new()],
            rows: vec![vec![self.name.to_owned(), self.tables.word().to_owned()]],
            notes: note.into_iter().collect(),
            failed: failed.into_iter().collect(),
        }]
    }
}

/// For whoever watches.
fn speed(comparison: &State<Comparison>) -> String {
    match comparison {
        State::Skipped(reason) => format!("skipped: {}", first_line(reason)),
        State::Failed(reason) => format!("FAILED: {reason}"),
        State::NotMeasured => NOT_MEASURED.to_owned(),
        State::Measured(comparison) => {
            let speeds = comparison.points.iter().filter_map(|point| point.sides.first());
            let speeds: Vec<String> =
                speeds.map(|side| format!("{}/s", whole(side.figures.requests_per_second))).collect();
            speeds.join(", ")
        }
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::Arguments;
    use crate::compare::{Measured, Point};

    fn harness() -> Harness {
        Harness::new(Arguments::try_parse_from(["load", "--standard"]).unwrap())
    }

    #[test]
    fn a_planned_set_says_of_every_cell_that_it_is_not_measured() {
        let (set, harness) = (Set::planned(), harness());
        let tables = set.tables(&harness);
        assert!(tables.iter().flat_map(|table| &table.rows).all(|row| {
            row[1..].iter().any(|cell| cell == NOT_MEASURED) && row.iter().all(|cell| !cell.contains("NaN"))
        }));
        assert!(tables.iter().all(|table| table.rows.iter().all(|row| row.len() == table.header.len())));
        assert_eq!(set.failures(), Vec::<String>::new());
    }

    #[test]
    fn figures_failures_and_skips_come_where_they_belong() {
        let (mut set, harness) = (Set::planned(), harness());
        let figures = Figures { requests_per_second: 1234.0, ..Figures::default() };
        let sides = vec![Measured { name: "ours".to_owned(), figures }];
        let points = vec![Point { connections: 64, rates: None, sides, ratios: None }];
        set.cells[0].comparison = State::Measured(Comparison { points, ..Comparison::default() });
        set.cells[1].comparison = State::Failed("broken\n | log".to_owned());
        set.curves[0].comparison = State::Skipped("no compiler".to_owned());
        set.stalls[0].tables =
            State::Measured(vec![Table { failed: vec!["late".to_owned()], ..Table::default() }]);
        let tables = set.tables(&harness);
        assert_eq!(tables[1].rows[0][..3], ["c", "1234", "failed"]);
        let curve = tables.iter().find(|table| table.title == set.curves[0].name).unwrap();
        assert_eq!(curve.notes, ["empty, c, beside hyper: skipped: no compiler"]);
        assert_eq!(set.failures(), ["echo-1k, c: broken", "mixed-blocking, c: late"]);
    }

    #[test]
    fn the_document_has_a_row_for_all_that_is_measured() {
        let document = std::fs::read_to_string(crate::tools::root("docs/performance.md")).unwrap();
        let (_, rest) = document.split_once(crate::report::BEGIN).unwrap();
        let (figures, _) = rest.split_once(crate::report::END).unwrap();
        let (set, mut missing) = (Set::planned(), Vec::new());
        let goals = goals::table(&harness().arguments, &set.goals).rows.into_iter();
        let goals = goals.map(|row| row[0].clone());
        for name in goals
            .chain(RUNTIMES.map(|runtime| format!("| {} |", runtime.name())))
            .chain(set.curves.iter().map(|curve| curve.name.clone()))
        {
            if !figures.contains(&name) {
                missing.push(name);
            }
        }
        assert!(missing.is_empty(), "`--standard --plan --document docs/performance.md` adds {missing:?}");
    }
}
