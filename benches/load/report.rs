//! Everything that was said: on the terminal, in a document, as JSON, as a page with plots.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::arguments::Arguments;
use crate::compare::Comparison;
use crate::goals;
use crate::plot;
use crate::standard::Set;
use crate::table::Table;
use crate::tools::{self, Skipped};

/// More than this and the machine is not ours: what it does of itself takes less.
const BUSY_PERCENT_MAX: u64 = 25;

/// Before the figures of a document.
pub(crate) const BEGIN: &str = "<!-- figures: begin -->\n";
/// Behind them.
pub(crate) const END: &str = "<!-- figures: end -->";

/// See the module.
#[derive(Serialize)]
pub(crate) struct Report {
    version: String,
    warnings: Vec<String>,
    machine: String,
    a: String,
    b: Option<String>,
    pub(crate) comparisons: Vec<Comparison>,
    pub(crate) goals: Vec<goals::Outcome>,
    pub(crate) tables: Vec<Table>,
    skipped: Vec<String>,
    failed: Vec<String>,
    #[serde(skip)]
    started: Instant,
}

impl Report {
    pub(crate) fn new(a: &str, b: Option<&str>) -> Self {
        Self {
            version: version(),
            warnings: warnings(),
            machine: machine(),
            a: a.to_owned(),
            b: b.map(str::to_owned),
            comparisons: Vec::new(),
            goals: Vec::new(),
            tables: Vec::new(),
            skipped: Vec::new(),
            failed: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Above all tables.
    pub(crate) fn head(&self) -> String {
        let head = format!("A: {}; B: {}\n{}", self.a, self.b.as_deref().unwrap_or("none"), self.machine);
        self.warnings.iter().fold(head, |head, warning| format!("{head}\n{warning}"))
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Takes tables in; what to print.
    pub(crate) fn add(&mut self, arguments: &Arguments, name: &str, outcome: Result<Vec<Table>>) -> String {
        match outcome {
            Ok(tables) => self.add_tables(arguments, name, tables),
            Err(error) => self.missing(name, &error),
        }
    }

    fn add_tables(&mut self, arguments: &Arguments, name: &str, tables: Vec<Table>) -> String {
        let failed = tables.iter().flat_map(|table| &table.failed);
        self.failed.extend(failed.map(|failed| format!("{name}: {failed}")));
        let text = rendered(&tables, arguments.markdown);
        self.tables.extend(tables);
        text
    }

    /// Takes a comparison in; what to print.
    pub(crate) fn compared(
        &mut self,
        arguments: &Arguments,
        name: &str,
        outcome: Result<Comparison>,
    ) -> Result<String> {
        match outcome {
            Ok(comparison) => {
                let text = self.add_tables(arguments, name, comparison.tables());
                if let Some(directory) = &arguments.plots {
                    plot::write(directory, &comparison)?;
                }
                self.comparisons.push(comparison);
                Ok(text)
            }
            Err(error) => Ok(self.missing(name, &error)),
        }
    }

    /// What the machine lacks is skipped; everything else has failed.
    fn missing(&mut self, name: &str, error: &anyhow::Error) -> String {
        let line = format!("{name}: {error:#}");
        if error.downcast_ref::<Skipped>().is_some() {
            self.skipped.push(line.clone());
            format!("\nskipped: {line}")
        } else {
            self.failed.push(line.clone());
            format!("\nFAILED: {line}")
        }
    }

    pub(crate) fn fail(&mut self, failures: impl IntoIterator<Item = String>) {
        self.failed.extend(failures);
    }

    /// JSON and the page of plots, where they are asked for.
    pub(crate) fn write(&self, arguments: &Arguments) -> Result<()> {
        if let Some(path) = &arguments.json {
            write_json(path, self)?;
        }
        match &arguments.plots {
            Some(directory) => plot::write_page(directory, &self.head(), &self.tables),
            None => Ok(()),
        }
    }
}

pub(crate) fn rendered(tables: &[Table], markdown: bool) -> String {
    let rendered: Vec<String> = tables.iter().map(|table| format!("\n{}", table.render(markdown))).collect();
    rendered.join("\n")
}

/// Writes a set as far as it has come: into the document between its marks, and as JSON.
pub(crate) fn write_set(arguments: &Arguments, report: &Report, set: &Set, tables: &[Table]) -> Result<()> {
    if let Some(path) = &arguments.json {
        write_json(path, &(report, set))?;
    }
    let Some(path) = &arguments.document else { return Ok(()) };
    let head = match arguments.plan {
        true => "Not measured yet.".to_owned(),
        false => {
            let minutes = report.started.elapsed().max(Duration::from_secs(1)).as_secs_f64() / 60.0;
            format!("{}, {}; in {minutes:.1} minutes.", report.version, report.machine)
        }
    };
    let figures = format!("\n{head}\n{}\n\n", rendered(tables, true));
    let text = fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let text = replaced(&text, &figures).with_context(|| path.display().to_string())?;
    fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
}

/// Says at once what else would be found at the end of the first part.
pub(crate) fn check_document(path: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("--document: {}", path.display()))?;
    replaced(&text, "").with_context(|| format!("--document: {}", path.display())).map(drop)
}

/// The text with other figures between its marks.
fn replaced(text: &str, figures: &str) -> Result<String> {
    let Some((before, rest)) = text.split_once(BEGIN) else {
        bail!("there is no line `{}`", BEGIN.trim_end())
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("there is no line `{END}` behind the other mark")
    };
    Ok(format!("{before}{BEGIN}{figures}{END}{after}"))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context("failed to write figures as JSON")?;
    fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
}

/// The day, and the commit where there is one.
fn version() -> String {
    let day = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty"]).current_dir(tools::root(""));
    match tools::output(&mut git) {
        Ok(commit) => format!("{day}, commit {}", commit.trim()),
        Err(_) => day,
    }
}

/// What makes figures mean less: other work on the machine is in every one, and so is a bare server built as for tests.
fn warnings() -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(busy) = busy_percent(Duration::from_millis(500)).filter(|busy| *busy > BUSY_PERCENT_MAX) {
        let remark = "ratios are bearings, absolute figures mean little";
        warnings.push(format!("WARNING: other work takes {busy} % of the CPUs: {remark}"));
    }
    if cfg!(debug_assertions) {
        let remark = "nor is the bare hyper in it: leave `--profile dev` out";
        warnings.push(format!("WARNING: the harness is not optimized, {remark}"));
    }
    warnings
}

/// How much of all CPUs is in use, in percent.
fn busy_percent(time: Duration) -> Option<u64> {
    let (all, idle) = cpu_times()?;
    std::thread::sleep(time);
    let (all_then, idle_then) = cpu_times()?;
    let (all, idle) = (all_then.checked_sub(all)?, idle_then.checked_sub(idle)?);
    (100 * all.checked_sub(idle)?).checked_div(all)
}

/// CPU time of the machine since it started, all of it and the idle part, in ticks (proc_stat(5)).
fn cpu_times() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let times = text.lines().next()?.split_whitespace().skip(1).take(8).map(str::parse);
    let times = times.collect::<Result<Vec<u64>, _>>().ok()?;
    Some((times.iter().sum(), times.get(3)? + times.get(4)?))
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
    // The rest of the release names who built the kernel.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    format!("{cores} cores ({model}), Linux {kernel}, load {load} before; generator and servers share them")
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    #[test]
    fn figures_are_replaced_between_the_marks_and_nothing_else_is() {
        let text = format!("# Title\n{BEGIN}old\n{END}\nrest\n");
        assert_eq!(replaced(&text, "new\n").unwrap(), format!("# Title\n{BEGIN}new\n{END}\nrest\n"));
        assert!(replaced("# Title", "").unwrap_err().to_string().contains("figures: begin"));
        let unended = format!("# Title\n{BEGIN}");
        assert!(replaced(&unended, "").unwrap_err().to_string().contains("figures: end"));
    }

    #[test]
    fn what_the_machine_lacks_is_skipped_and_the_rest_fails() {
        let arguments = <Arguments as clap::Parser>::try_parse_from(["load"]).unwrap();
        let mut report = Report::new("a", None);
        let said = report.add(&arguments, "ruby", tools::skip("no Ruby".to_owned()));
        assert!(said.contains("skipped: ruby: no Ruby") && !report.has_failed());
        let table = Table { failed: vec!["lost".to_owned()], ..Table::default() };
        report.add(&arguments, "soak", Ok(vec![Table::default(), table]));
        assert_eq!(report.failed, ["soak: lost"]);
        let said = report.add(&arguments, "c", Err(anyhow::anyhow!("broken")));
        assert!(said.contains("FAILED: c: broken") && report.failed.len() == 2);
    }
}
