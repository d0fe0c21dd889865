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
mod report;
mod scale;
mod scrapes;
mod server;
mod side;
mod soak;
mod stalls;
mod standard;
mod table;
mod tools;
mod workload;
mod wrk;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use crate::arguments::{Arguments, Special};
use crate::harness::Harness;
use crate::report::Report;
use crate::side::Task;
use crate::standard::Set;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.serve_bare_hyper {
        Some(port) => bare_hyper::serve(port).map(|()| ExitCode::SUCCESS),
        None => arguments.settled().and_then(run),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("load: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs what was asked for; one scenario that cannot run does not keep the others from it.
fn run(mut arguments: Arguments) -> Result<ExitCode> {
    groups::end_with_this_program()?;
    // What can be wrong is found before anything is built or measured.
    arguments.document.as_deref().map_or(Ok(()), report::check_document)?;
    goals::check_row(arguments.row.as_deref())?;
    if arguments.dist {
        arguments.a = side::shipped()?;
    }
    let mut harness = Harness::new(arguments);
    let mut report = Report::new(&harness.a.name, harness.b.as_ref().map(|b| b.name.as_str()));
    println!("{}", report.head());
    if harness.arguments.standard {
        standard(&mut harness, &mut report)?;
    } else if harness.arguments.against_all {
        against_all(&mut harness, &mut report)?;
    } else {
        scenarios(&harness, &mut report)?;
    }
    Ok(if report.has_failed() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn standard(harness: &mut Harness, report: &mut Report) -> Result<()> {
    let arguments = harness.arguments.clone();
    let mut set = Set::planned();
    // Titles say how long was measured, so they are made by a harness that nothing is measured with.
    let titles = Harness::new(arguments.clone());
    if !arguments.plan {
        set.run(harness, |set, line| {
            println!("  {line}");
            report::write_set(&arguments, report, set, &set.tables(&titles))
        })?;
    }
    let tables = set.tables(&titles);
    println!("{}", report::rendered(&tables, arguments.markdown));
    report::write_set(&arguments, report, &set, &tables)?;
    if let Some(directory) = &arguments.plots {
        set.curves().try_for_each(|curve| plot::write(directory, curve))?;
        plot::write_page(directory, &report.head(), &tables)?;
    }
    report.fail(set.failures());
    Ok(())
}

fn against_all(harness: &mut Harness, report: &mut Report) -> Result<()> {
    let arguments = harness.arguments.clone();
    goals::run(harness, |_, outcome, comparison| {
        println!("  {}", outcome.line());
        report.fail(outcome.failed.then(|| outcome.line()));
        report.goals.push(outcome);
        if let (Some(directory), Some(comparison)) = (&arguments.plots, &comparison) {
            plot::write(directory, comparison)?;
        }
        report.comparisons.extend(comparison);
        Ok(())
    })?;
    let table = goals::table(&arguments, &report.goals);
    println!("{}", report.add(&arguments, "goals", Ok(vec![table])));
    report.write(&arguments)
}

fn scenarios(harness: &Harness, report: &mut Report) -> Result<()> {
    let arguments = &harness.arguments;
    for scenario in arguments.scenarios() {
        let each = |report: &mut Report,
                    run: fn(&Harness, functions::Runtime) -> Result<Vec<table::Table>>| {
            for runtime in arguments.runtimes() {
                let name = format!("{scenario:?}, {}", runtime.name());
                println!("{}", report.add(arguments, &name, run(harness, runtime)));
            }
        };
        let name = format!("{scenario:?}");
        match scenario {
            Special::Work(work) => {
                for runtime in arguments.runtimes() {
                    let task = Task { runtime, work, workers: arguments.workers };
                    let name = format!("{}, {}", work.name(), runtime.name());
                    println!("{}", report.compared(arguments, &name, compare::run(harness, &task))?);
                }
            }
            Special::Scale => each(report, scale::run),
            Special::Soak => each(report, soak::run),
            Special::MixedBlocking => each(report, stalls::blocking),
            Special::Blocked5s => {
                println!("{}", report.add(arguments, &name, stalls::blocked_5s(harness)));
            }
            Special::Overload => println!("{}", report.add(arguments, &name, overload::run(harness))),
            Special::Scrape => println!("{}", report.add(arguments, &name, scrapes::run(harness))),
        }
        // After each, so that an interrupted run leaves what it has.
        report.write(arguments)?;
    }
    Ok(())
}
