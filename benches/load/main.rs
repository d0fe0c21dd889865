//! Load harness: drives a real processor binary over loopback beside a bare hyper server in the same run.
//!
//! It knows the processor only from outside: a program, two configuration files, three ports. How to run it and how
//! to read what it prints: `benches/README.md`. Start at `main`; a scenario is one function returning tables.

#![expect(clippy::print_stdout, reason = "the tables are what this program is for")]

mod bare_hyper;
mod client;
mod handlers;
mod overload;
mod process_tree;
mod scrapes;
mod server;
mod stalls;
mod table;
mod throughput;
mod wrk;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::handlers::Handlers;
use crate::server::Program;
use crate::table::Table;

/// Drives a processor binary (PROCESSOR_BIN, else the one built beside this bench) and a bare hyper server.
#[derive(Debug, Parser)]
pub(crate) struct Arguments {
    /// Scenarios to run, in this order; all when absent.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenario: Vec<Scenario>,
    /// Connections of the throughput scenarios.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    connections: Vec<u32>,
    /// Length of one measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Measurements of each side; the sides take turns, medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Workers of the compiled and built-in handlers.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    workers: u32,
    /// Length of the overload scenario, over all its parts.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=600))]
    overload_seconds: u32,
    /// Print Markdown tables.
    #[arg(long)]
    markdown: bool,
    /// Test the harness: a second bare hyper server takes the processor's place.
    #[arg(long)]
    self_test: bool,
    /// Be the bare hyper server on this port, and nothing else.
    #[arg(long, value_name = "PORT")]
    serve_bare_hyper: Option<u16>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// `nuclio:builtin`: HTTP and the dispatcher, no handler.
    Builtin,
    /// An empty handler library in C.
    Compiled,
    /// An empty Python handler, one worker.
    Python,
    /// Other requests and `/ready` beside four calls that block for 10 ms each, on eight workers.
    Blocking,
    /// Other requests and `/ready` beside one call that blocks for 5 s under `eventTimeout: 1s`.
    #[value(name = "blocked-5s")]
    Blocked5s,
    /// Ten times the capacity.
    Overload,
    /// The metrics are read again and again beside a full load.
    Scrape,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.serve_bare_hyper {
        Some(port) => bare_hyper::serve(port).map(|()| ExitCode::SUCCESS),
        None => run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("load: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs what was asked for; one scenario that cannot run does not keep the others from it.
fn run(arguments: &Arguments) -> Result<ExitCode> {
    wrk::find()?;
    let handlers = Handlers::new()?;
    let program = if arguments.self_test { Program::BareHyper } else { Program::Processor(processor_path()) };
    let all = Scenario::value_variants();
    let chosen = if arguments.scenario.is_empty() { all } else { &arguments.scenario };
    println!("program: {program}; {}", machine());
    let mut code = ExitCode::SUCCESS;
    for scenario in chosen {
        match run_scenario(*scenario, arguments, &program, &handlers) {
            Ok(tables) => tables.iter().for_each(|table| println!("\n{}", table.render(arguments.markdown))),
            Err(error) => {
                println!("\nFAILED: {scenario:?}: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn run_scenario(
    scenario: Scenario,
    arguments: &Arguments,
    program: &Program,
    handlers: &Handlers,
) -> Result<Vec<Table>> {
    match scenario {
        Scenario::Builtin => {
            throughput::run("builtin", arguments, program, &handlers.builtin(arguments.workers))
        }
        Scenario::Compiled => {
            throughput::run("compiled", arguments, program, &handlers.compiled("empty", arguments.workers)?)
        }
        Scenario::Python => throughput::run("python", arguments, program, &handlers.python()),
        Scenario::Blocking => stalls::blocking(arguments, program, handlers),
        Scenario::Blocked5s => stalls::blocked_5s(program, handlers),
        Scenario::Scrape => scrapes::run(arguments, program, &handlers.builtin(arguments.workers)),
        Scenario::Overload => overload::run(arguments, program, handlers),
    }
}

fn processor_path() -> PathBuf {
    environment("PROCESSOR_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_processor").into())
}

/// The one place of the harness that reads the environment.
#[expect(clippy::disallowed_methods, reason = "a harness has no configuration files of its own")]
fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Figures mean nothing without the machine they came from.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, Linux {}; generator and server share them", kernel.trim())
}

/// A path as text, for configuration files and arguments.
fn utf8(path: &std::path::Path) -> Result<&str> {
    path.to_str().with_context(|| format!("path {} is not UTF-8", path.display()))
}
