//! Load harness: two servers over loopback, by turns, and what one is over the other.
//!
//! It knows the processor only from outside: a program, two configuration files, three ports. How to run it:
//! `benches/README.md`; how to read what it prints: `docs/performance.md`. Start at `main`; a scenario is one function
//! returning tables.

#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

mod arguments;
mod bare_hyper;
mod client;
mod compare;
mod figures;
mod functions;
mod generator;
mod goals;
mod groups;
mod harness;
mod overload;
mod plot;
mod process_tree;
mod scale;
mod scrapes;
mod server;
mod side;
mod soak;
mod stalls;
mod table;
mod tools;
mod workload;
mod wrk;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use crate::arguments::{Arguments, Special};
use crate::compare::Comparison;
use crate::harness::Harness;
use crate::side::Task;
use crate::table::Table;
use crate::tools::Skipped;

/// Everything that was said.
#[derive(Default, Serialize)]
struct Report {
    machine: String,
    a: String,
    b: Option<String>,
    comparisons: Vec<Comparison>,
    goals: Vec<goals::Outcome>,
    tables: Vec<Table>,
    skipped: Vec<String>,
    failed: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse().settled();
    let outcome = match arguments.serve_bare_hyper {
        Some(port) => bare_hyper::serve(port).map(|()| ExitCode::SUCCESS),
        None => run(arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("load: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs what was asked for; one scenario that cannot run does not keep the others from it.
fn run(arguments: Arguments) -> Result<ExitCode> {
    groups::end_with_this_program()?;
    let harness = Harness::new(arguments);
    let arguments = &harness.arguments;
    let mut report = Report {
        machine: machine(),
        a: harness.a.name.clone(),
        b: harness.b.as_ref().map(|b| b.name.clone()),
        ..Report::default()
    };
    println!("A: {}; B: {}\n{}", report.a, report.b.as_deref().unwrap_or("none"), report.machine);
    if let Some(warning) = busy_machine() {
        println!("{warning}");
    }
    if arguments.against_all {
        let (table, goals, comparisons) = goals::run(arguments, |line| println!("  {line}"))?;
        println!("\n{}", table.render(arguments.markdown));
        (report.goals, report.tables) = (goals, vec![table]);
        comparisons.iter().try_for_each(|comparison| plots(arguments, comparison))?;
        report.comparisons = comparisons;
    } else {
        for scenario in arguments.scenarios() {
            match scenario {
                Special::Work(work) => {
                    for runtime in arguments.runtimes() {
                        let task = Task { runtime, work, workers: arguments.workers };
                        let comparison = compare::run(&harness, &task);
                        report.compared(
                            &format!("{}, {}", work.name(), runtime.name()),
                            arguments,
                            comparison,
                        )?;
                    }
                }
                Special::Scale => report.each_runtime(&harness, scenario, scale::run),
                Special::Soak => report.each_runtime(&harness, scenario, soak::run),
                Special::MixedBlocking => report.add(&harness, scenario, stalls::blocking(&harness)),
                Special::Blocked5s => report.add(&harness, scenario, stalls::blocked_5s(&harness)),
                Special::Overload => report.add(&harness, scenario, overload::run(&harness)),
                Special::Scrape => report.add(&harness, scenario, scrapes::run(&harness)),
            }
        }
    }
    if let Some(path) = &arguments.json {
        let text = serde_json::to_string_pretty(&report).context("failed to write figures as JSON")?;
        fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(if report.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Report {
    fn each_runtime(
        &mut self,
        harness: &Harness,
        scenario: Special,
        run: fn(&Harness, functions::Runtime) -> Result<Vec<Table>>,
    ) {
        for runtime in harness.arguments.runtimes() {
            self.add(harness, scenario, run(harness, runtime));
        }
    }

    fn add(&mut self, harness: &Harness, scenario: Special, outcome: Result<Vec<Table>>) {
        match outcome {
            Ok(tables) => self.show(&harness.arguments, tables),
            Err(error) => self.missing(&format!("{scenario:?}"), &error),
        }
    }

    fn show(&mut self, arguments: &Arguments, tables: Vec<Table>) {
        tables.iter().for_each(|table| println!("\n{}", table.render(arguments.markdown)));
        self.tables.extend(tables);
    }

    fn compared(&mut self, name: &str, arguments: &Arguments, outcome: Result<Comparison>) -> Result<()> {
        match outcome {
            Ok(comparison) => {
                comparison
                    .tables()
                    .iter()
                    .for_each(|table| println!("\n{}", table.render(arguments.markdown)));
                plots(arguments, &comparison)?;
                self.comparisons.push(comparison);
            }
            Err(error) => self.missing(name, &error),
        }
        Ok(())
    }

    /// What the machine lacks is skipped; everything else has failed.
    fn missing(&mut self, name: &str, error: &anyhow::Error) {
        let line = format!("{name}: {error:#}");
        if error.downcast_ref::<Skipped>().is_some() {
            println!("\nskipped: {line}");
            self.skipped.push(line);
        } else {
            println!("\nFAILED: {line}");
            self.failed.push(line);
        }
    }
}

fn plots(arguments: &Arguments, comparison: &Comparison) -> Result<()> {
    arguments.plots.as_ref().map_or(Ok(()), |directory| plot::write(directory, comparison))
}

/// Other work on the machine is in every figure.
fn busy_machine() -> Option<String> {
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = load.split(' ').next()?.parse().ok()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let warning = "the machine has other work: ratios are bearings, absolute figures mean little";
    (load > cores as f64 / 2.0).then(|| format!("WARNING: load {load} on {cores} cores; {warning}"))
}

/// Figures mean nothing without the machine they came from.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let (kernel, cpus) = (read("/proc/sys/kernel/osrelease"), read("/proc/cpuinfo"));
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let kernel = kernel.trim();
    format!("{cores} cores ({model}), Linux {kernel}, load {load} before; generator and servers share them")
}
