//! The command line. Reads arguments, runs nothing.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};

use crate::functions::Runtime;
use crate::side::Side;
use crate::workload::Work;

/// Drives two servers by turns and compares them: a processor binary and whatever is set against it.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Arguments {
    /// empty, echo-1k, echo-100k, echo-4m, cpu-100us, sleep-10ms, logs, streaming, async-fanout, detector,
    /// mixed-blocking, blocked-5s, overload, scrape; scale, soak; all: those before the semicolon.
    #[arg(long, value_delimiter = ',', default_value = "empty")]
    pub(crate) scenario: Vec<Scenario>,
    /// builtin, c, rust, go, go-program, python, python-async, asgi, wsgi, fastapi, flask, nodejs, java, ruby, dotnet;
    /// all. Of the scenarios up to detector, of scale and of soak.
    #[arg(long, value_delimiter = ',', default_value = "c,python")]
    pub(crate) runtime: Vec<Runtimes>,
    /// One side: self, hyper, node-http, fasthttp, granian, granian-rsgi, uvicorn, gunicorn, the path of a processor
    /// binary, or cmd:COMMAND with {port} and perhaps {dir}.
    #[arg(long, default_value = "self")]
    pub(crate) a: Side,
    /// The other side; none: there is no other.
    #[arg(long, default_value = "hyper")]
    pub(crate) b: Other,
    /// NAME=VALUE for the environment of side A; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) a_env: Vec<Variable>,
    /// NAME=VALUE for the environment of side B; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) b_env: Vec<Variable>,
    /// Connections.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256")]
    pub(crate) connections: Vec<u32>,
    /// Workers; by default 8 in process, 1 otherwise, 2 for detector.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) workers: Option<u32>,
    /// Requests per second of each side, or half: of the peak that was measured before, each side its own.
    #[arg(long)]
    pub(crate) rate: Option<Rate>,
    /// Length of one measurement.
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Measurements of each side; the sides take turns, medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Threads of the load generator; 0: as many as it takes, one for four cores.
    #[arg(long, default_value_t = 0)]
    pub(crate) generator_threads: u32,
    /// Ask with wrk in the place of our own generator, where no body is sent.
    #[arg(long)]
    pub(crate) wrk: bool,
    /// Length of soak.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) minutes: f64,
    /// Length of the overload scenario, over all its parts.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=600))]
    pub(crate) overload_seconds: u32,
    /// Measure what has to be reached, one row after the other, and say which rows are.
    #[arg(long)]
    pub(crate) against_all: bool,
    /// The rows of --against-all whose name contains this; without it all.
    #[arg(long, value_name = "TEXT")]
    pub(crate) row: Option<String>,
    /// A binary of the Go processor, for the rows that compare with it.
    #[arg(long, value_name = "PATH")]
    pub(crate) reference: Option<PathBuf>,
    /// NAME=VALUE for the environment of the reference; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) reference_env: Vec<Variable>,
    /// Short measurements: bearings only.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print Markdown tables.
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Write all figures into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write SVG plots into this directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
    /// Be the bare hyper server on this port, and nothing else.
    #[arg(long, value_name = "PORT", hide = true)]
    pub(crate) serve_bare_hyper: Option<u16>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

impl Arguments {
    /// What `--quick` makes of the lengths.
    pub(crate) fn settled(mut self) -> Self {
        if self.quick {
            (self.seconds, self.rounds) = (self.seconds.min(0.7), self.rounds.min(3));
        }
        if self.generator_threads == 0 {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            self.generator_threads = u32::try_from(cores / 4).unwrap_or(1).max(1);
        }
        self
    }

    /// The runtimes that were asked for.
    pub(crate) fn runtimes(&self) -> Vec<Runtime> {
        self.runtime.iter().flat_map(|runtimes| runtimes.0.clone()).collect()
    }

    /// The scenarios that were asked for.
    pub(crate) fn scenarios(&self) -> Vec<Special> {
        self.scenario.iter().flat_map(|scenario| scenario.0.clone()).collect()
    }
}

/// One scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Work(Work),
    /// Other requests and `/ready` beside four calls that block for 10 ms each, on eight workers.
    MixedBlocking,
    /// Other requests and `/ready` beside one call that blocks for 5 s under `eventTimeout: 1s`.
    Blocked5s,
    /// Ten times the capacity.
    Overload,
    /// The metrics are read again and again beside a full load.
    Scrape,
    /// Many workers, many connections.
    Scale,
    /// All kinds of events for a long time.
    Soak,
}

const SPECIAL: &[(&str, Special)] = &[
    ("mixed-blocking", Special::MixedBlocking),
    ("blocking", Special::MixedBlocking),
    ("blocked-5s", Special::Blocked5s),
    ("overload", Special::Overload),
    ("scrape", Special::Scrape),
    ("scale", Special::Scale),
    ("soak", Special::Soak),
];

/// A word of `--scenario`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario(Vec<Special>);

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let works = Work::value_variants().iter().copied();
        if text == "all" {
            let others = [Special::MixedBlocking, Special::Blocked5s, Special::Overload, Special::Scrape];
            return Ok(Self(works.map(Special::Work).chain(others).collect()));
        }
        let special = SPECIAL.iter().find(|(name, _)| *name == text).map(|(_, special)| *special);
        let work = works.map(|work| (work.name(), work)).find(|(name, _)| name == text);
        match special.or(work.map(|(_, work)| Special::Work(work))) {
            Some(scenario) => Ok(Self(vec![scenario])),
            None => bail!("there is no scenario `{text}`; --help lists them"),
        }
    }
}

/// A word of `--runtime`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runtimes(Vec<Runtime>);

impl FromStr for Runtimes {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let all = Runtime::value_variants();
        match all.iter().find(|runtime| runtime.name() == text) {
            Some(runtime) => Ok(Self(vec![*runtime])),
            None if text == "all" => Ok(Self(all.to_vec())),
            None => bail!("there is no runtime `{text}`; --help lists them"),
        }
    }
}

/// The value of `--b`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Other(pub(crate) Option<Side>);

impl FromStr for Other {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "none" { Ok(Self(None)) } else { Ok(Self(Some(text.parse()?))) }
    }
}

/// The value of `--rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    Half,
    PerSecond(f64),
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.parse::<f64>() {
            _ if text == "half" => Ok(Self::Half),
            Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(Self::PerSecond(rate)),
            _ => bail!("`{text}` is neither half nor a number of requests per second"),
        }
    }
}

/// A variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable(pub(crate) String, pub(crate) String);

impl FromStr for Variable {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self(name.to_owned(), value.to_owned())),
            _ => bail!("`{text}` is not NAME=VALUE"),
        }
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("load").chain(text.split_whitespace()))
    }

    #[test]
    fn without_arguments_an_empty_handler_is_set_against_hyper() {
        let arguments = parsed("").unwrap();
        assert_eq!(arguments.scenarios(), [Special::Work(Work::Empty)]);
        assert_eq!(arguments.runtimes(), [Runtime::C, Runtime::Python]);
        assert_eq!(arguments.b, Other(Some("hyper".parse().unwrap())));
        assert_eq!(arguments.connections, [1, 8, 64, 256]);
    }

    #[test]
    fn lists_names_and_all_are_understood() {
        let arguments =
            parsed("--scenario echo-4m,soak,blocking --runtime python-async,go --b none").unwrap();
        let scenarios = [Special::Work(Work::Echo4m), Special::Soak, Special::MixedBlocking];
        assert_eq!(arguments.scenarios(), scenarios);
        assert_eq!(arguments.runtimes(), [Runtime::PythonAsync, Runtime::Go]);
        assert_eq!(arguments.b, Other(None));
        let all = parsed("--scenario all --runtime all").unwrap();
        assert!(all.scenarios().contains(&Special::Overload) && !all.scenarios().contains(&Special::Soak));
        assert_eq!(all.runtimes().len(), Runtime::value_variants().len());
    }

    #[test]
    fn every_name_in_the_help_is_one() {
        let help = <Arguments as clap::CommandFactory>::command().render_long_help().to_string();
        for work in Work::value_variants() {
            assert!(help.contains(&work.name()), "{} is not in the help", work.name());
        }
        for runtime in Runtime::value_variants() {
            assert!(help.contains(&runtime.name()), "{} is not in the help", runtime.name());
        }
        for (name, _) in SPECIAL.iter().filter(|(name, _)| *name != "blocking") {
            assert!(help.contains(name), "{name} is not in the help");
        }
    }

    #[test]
    fn rates_variables_and_mistakes() {
        assert_eq!(parsed("--rate half").unwrap().rate, Some(Rate::Half));
        assert_eq!(parsed("--rate 2500").unwrap().rate, Some(Rate::PerSecond(2500.0)));
        let environment = parsed("--b-env A=b=c --b-env D=").unwrap().b_env;
        assert_eq!(environment, ["A=b=c".parse().unwrap(), Variable("D".into(), String::new())]);
        for wrong in [
            "--rate -1",
            "--rate x",
            "--b-env =x",
            "--scenario nothing",
            "--runtime perl",
            "--b nginx",
            "--rounds 0",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn quick_shortens_and_never_lengthens() {
        let quick = parsed("--quick --seconds 0.2").unwrap().settled();
        assert_eq!((quick.seconds, quick.rounds), (0.2, 3));
        assert!(quick.generator_threads >= 1);
    }
}
