//! The command line. Reads arguments, runs nothing.

use std::fmt::{self, Display, Formatter};
use std::fs::{self, File};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde::Serialize;

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
    /// all. Of the scenarios up to mixed-blocking, of scale and of soak.
    #[arg(long, value_delimiter = ',', default_value = "c,python")]
    pub(crate) runtime: Vec<Runtimes>,
    /// One side: self, hyper, node-http, fasthttp, granian, granian-rsgi, uvicorn, gunicorn, the path of a processor
    /// binary, or cmd:COMMAND with {port} and perhaps {dir}, a folder with the answer of an empty handler.
    #[arg(long, default_value = "self")]
    pub(crate) a: Side,
    /// The other side; none: there is no other.
    #[arg(long, default_value = "hyper")]
    pub(crate) b: Other,
    /// Side A is the processor as it ships, optimized with a profile. scripts/dist makes it first, which takes minutes where
    /// it is not made yet.
    #[arg(long, conflicts_with_all = ["a", "plan"])]
    pub(crate) dist: bool,
    /// NAME=VALUE for the environment of side A; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) a_env: Vec<Variable>,
    /// NAME=VALUE for the environment of side B; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) b_env: Vec<Variable>,
    /// Connections.
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) connections: Vec<u32>,
    /// Workers; by default 8 in process, 1 otherwise, 2 for detector.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) workers: Option<u32>,
    /// Requests per second of each side, or half: of the peak that was measured before, each side its own.
    #[arg(long)]
    pub(crate) rate: Option<Rate>,
    /// Length of a round at a fixed rate, if it is to be shorter than the others; there are more, so that they last as long
    /// together. They keep the median free of what the machine itself does now and then, and of rare stalls of the server,
    /// too. p99 needs a thousand requests in each. [default: --seconds; 0.2 for the p99/p50 of --against-all]
    #[arg(long, value_parser = seconds)]
    pub(crate) rate_seconds: Option<f64>,
    /// Length of one measurement; 3, with --standard 2.
    #[arg(long, value_parser = seconds)]
    pub(crate) seconds: Option<f64>,
    /// Measurements of each side, 3; the sides take turns, medians are printed.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: Option<u32>,
    /// Threads of the load generator; 0: as many as it takes, one for four cores.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=256))]
    pub(crate) generator_threads: u32,
    /// Ask with wrk in the place of our own generator, where no body is sent.
    #[arg(long)]
    pub(crate) wrk: bool,
    /// Length of soak.
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    pub(crate) minutes: f64,
    /// Length of the overload scenario, over all its parts.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=600))]
    pub(crate) overload_seconds: u32,
    /// Measure what has to be reached, one row after the other, and say which rows are.
    #[arg(long, conflicts_with_all = ["scenario", "runtime", "b", "connections", "rate"])]
    pub(crate) against_all: bool,
    /// Measure the standard set: what has to be reached, every scenario with every runtime, curves over connections,
    /// who delays whom.
    #[arg(long, conflicts_with_all = ["scenario", "runtime", "b", "connections", "rate", "against_all", "workers"])]
    pub(crate) standard: bool,
    /// With --standard: measure nothing, say what would be measured.
    #[arg(long, requires = "standard")]
    pub(crate) plan: bool,
    /// With --standard: write the tables between the marks in this file, after each part.
    #[arg(long, value_name = "FILE", requires = "standard")]
    pub(crate) document: Option<PathBuf>,
    /// The rows of --against-all whose name contains this; without it all.
    #[arg(long, value_name = "TEXT", requires = "against_all")]
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
    /// Write SVG plots into this directory, and index.html with all tables and plots.
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
    /// Be the bare hyper server on this port, and nothing else.
    #[arg(long, value_name = "PORT", hide = true)]
    pub(crate) serve_bare_hyper: Option<u16>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// Of one measurement where nobody says how long.
const SECONDS: f64 = 3.0;
/// The same in the standard set, which has many.
const STANDARD_SECONDS: f64 = 2.0;
const ROUNDS: u32 = 3;
/// With `--quick` at most.
const QUICK_SECONDS: f64 = 0.7;
const QUICK_ROUNDS: u32 = 3;

/// How often a side is measured, and how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Rounds {
    pub(crate) count: u32,
    pub(crate) seconds: f64,
}

impl Display for Rounds {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} of {} s", self.count, self.seconds)
    }
}

impl Arguments {
    /// With the generator's threads counted. What would only be found to be wrong at the end is found here.
    ///
    /// # Errors
    /// A file that cannot be written, or is not there.
    pub(crate) fn settled(mut self) -> Result<Self> {
        if self.generator_threads == 0 {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            self.generator_threads = u32::try_from(cores / 4).unwrap_or(1).max(1);
        }
        let given = self.reference.clone().map(Side::Processor);
        let sides = [
            ("--a", (!self.dist).then_some(&self.a)),
            ("--b", self.b.0.as_ref()),
            ("--reference", given.as_ref()),
        ];
        for (option, side) in sides {
            if let Some(Side::Processor(path)) = side
                && !path.is_file()
            {
                bail!("{option}: there is no program {}", path.display());
            }
        }
        if let Some(path) = &self.json {
            let file = File::options().append(true).create(true).open(path);
            file.with_context(|| format!("--json: {} cannot be written", path.display()))?;
        }
        if let Some(path) = &self.plots {
            fs::create_dir_all(path)
                .with_context(|| format!("--plots: {} cannot be made", path.display()))?;
        }
        Ok(self)
    }

    /// Length of one measurement.
    pub(crate) fn seconds(&self) -> f64 {
        let usual = if self.standard { STANDARD_SECONDS } else { SECONDS };
        let seconds = self.seconds.unwrap_or(usual);
        if self.quick { seconds.min(QUICK_SECONDS) } else { seconds }
    }

    /// Measurements of each side.
    pub(crate) fn rounds(&self) -> u32 {
        let rounds = self.rounds.unwrap_or(ROUNDS);
        if self.quick { rounds.min(QUICK_ROUNDS) } else { rounds }
    }

    /// The measurements of each side, at a fixed rate or in a closed loop.
    pub(crate) fn rounds_at(&self, fixed_rate: bool) -> Rounds {
        let usual = Rounds { count: self.rounds(), seconds: self.seconds() };
        match self.rate_seconds {
            Some(seconds) if fixed_rate && seconds < usual.seconds => {
                let count = (f64::from(usual.count) * usual.seconds / seconds).round() as u32;
                Rounds { count, seconds }
            }
            _ => usual,
        }
    }

    /// Whether the time that starts take is not worth many of them.
    pub(crate) fn few_starts(&self) -> bool {
        self.quick || self.standard
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

/// At least ten of the kernel's steps of CPU time.
const SECONDS_MIN: f64 = 0.1;
const SECONDS_MAX: f64 = 3600.0;
/// More than any generator of this kind can ask for.
const RATE_MAX: f64 = 10e6;
/// A week.
const MINUTES_MAX: f64 = 7.0 * 24.0 * 60.0;

fn seconds(text: &str) -> Result<f64> {
    within(text, SECONDS_MIN, SECONDS_MAX, "seconds")
}

fn minutes(text: &str) -> Result<f64> {
    within(text, SECONDS_MIN / 60.0, MINUTES_MAX, "minutes")
}

fn within(text: &str, least: f64, most: f64, unit: &str) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => bail!("`{text}` is no number of {unit} from {least:.3} to {most}"),
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
            Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(Self::PerSecond(rate)),
            _ => bail!("`{text}` is neither half nor a number of requests per second up to {RATE_MAX}"),
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
            "--rate 1e300",
            "--rounds 0",
            "--rounds 1e3",
            "--seconds 0",
            "--seconds NaN",
            "--seconds -1",
            "--seconds inf",
            "--minutes 0",
            "--connections 0",
            "--connections 1,,8",
            "--connections 4000000000",
            "--workers 0",
            "--overload-seconds 1",
            "--a cmd:server",
            "--dist --a hyper",
            "--standard --plan --dist",
            "--row x",
            "--plan",
            "--document x",
            "--standard --against-all",
            "--standard --scenario empty",
            "--against-all --b hyper",
            "surplus",
            "--no-such-option",
        ] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_before_anything_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let inside = file.join("inside").display().to_string();
        for (wrong, part) in [
            (format!("--json {inside}"), "--json:"),
            (format!("--plots {inside}"), "--plots:"),
            (format!("--b {inside}"), "--b: there is no program"),
            (format!("--against-all --reference {inside}"), "--reference: there is no program"),
        ] {
            let error = parsed(&wrong).unwrap().settled().unwrap_err();
            assert!(format!("{error:#}").contains(part), "{error:#}");
        }
    }

    #[test]
    fn rounds_at_a_fixed_rate_are_shorter_if_asked_for_and_last_as_long() {
        let rounds = |text: &str, fixed_rate| parsed(text).unwrap().rounds_at(fixed_rate).to_string();
        assert_eq!(rounds("--rounds 7 --seconds 2 --rate-seconds 0.2", true), "70 of 0.2 s");
        assert_eq!(rounds("--rounds 7 --seconds 2 --rate-seconds 0.2", false), "7 of 2 s");
        assert_eq!(rounds("--rounds 7 --seconds 2", true), "7 of 2 s");
        assert_eq!(rounds("--quick --rate-seconds 0.3", true), "7 of 0.3 s");
        assert_eq!(rounds("--rounds 2 --seconds 0.25 --rate-seconds 0.3", true), "2 of 0.25 s");
    }

    #[test]
    fn quick_shortens_and_never_lengthens() {
        let settled = |text: &str| {
            let arguments = parsed(text).unwrap().settled().unwrap();
            (arguments.seconds(), arguments.rounds())
        };
        assert_eq!(settled(""), (3.0, 3));
        assert_eq!(settled("--standard"), (2.0, 3));
        assert_eq!(settled("--standard --seconds 5 --rounds 7"), (5.0, 7));
        assert_eq!(settled("--quick"), (0.7, 3));
        assert_eq!(settled("--quick --seconds 0.2 --rounds 1"), (0.2, 1));
        assert!(parsed("").unwrap().settled().unwrap().generator_threads >= 1);
    }
}
