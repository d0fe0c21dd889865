//! Runs the HTTP vectors against the real binary, with a Python handler and with a handler library.
//!
//! Every area is a test per runtime. A vector passes in its reference form or in a form that it allows instead.
//! Reading order: [`vectors`] (what is right), [`exchange`] (what is seen), [`matchers`] (whether they agree),
//! [`scenes`] (what some vectors need to be so first).

mod exchange;
mod matchers;
mod predicates;
mod scenes;
mod vectors;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use serde_json::Value;

use crate::compiled::rust_program;
use crate::harness::{Processor, Setup};
use crate::library::rust_library;
use exchange::{Observed, timed_out};
use vectors::{Step, Vector};

/// Vectors of areas that the processor does not serve yet: name, runtime (or `*`), reason. One that passes must go.
const NOT_SERVED: &[(&str, &str, &str)] = &[];

macro_rules! areas {
    ($($name:ident $area:literal)*) => {
        /// What there are tests for.
        const AREAS: &[&str] = &[$($area),*];

        $(mod $name {
        #[test]
        fn python() {
            super::run($area, super::Runtime::Python);
        }

        #[test]
        fn library() {
            super::run($area, super::Runtime::Library);
        }

        #[test]
        fn executable() {
            super::run($area, super::Runtime::Executable);
        }
    })* };
}

#[test]
fn every_vector_is_run() {
    for vector in vectors::load() {
        assert!(AREAS.contains(&vector.area.as_str()), "{}: no test runs area {}", vector.name, vector.area);
        let runs =
            [Runtime::Python, Runtime::Library].iter().any(|runtime| vector.applies_to(runtime.name()));
        assert!(runs, "{}: applies to nothing", vector.name);
    }
}

areas! {
    basics "basics"
    batch "batch"
    cloudevents "cloudevents"
    connection "connection"
    cors "cors"
    errors "errors"
    file "file"
    headers "headers"
    health "health"
    limits "limits"
    logs "logs"
    path "path"
    query "query"
    response "response"
    shutdown "shutdown"
    side_servers "side-servers"
    timeout "timeout"
    workers "workers"
}

/// How the handler of the vectors is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runtime {
    Python,
    Library,
    Executable,
}

impl Runtime {
    fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            // What a vector says of libraries holds for the same handler as a program.
            Self::Library | Self::Executable => "library",
        }
    }

    /// A processor to be, with the vectors' handler.
    fn setup(self) -> Setup {
        let setup = match self {
            Self::Python => {
                let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handlers/python/vectors");
                Setup::new("python", "main:handler").python_environment().env("NUCLIO_PYTHON_PATH", folder)
            }
            Self::Library => Setup::library(rust_library()),
            Self::Executable => Setup::library(&rust_program()),
        };
        let behaviour = setup.directory.path().join("behaviour.json").display().to_string();
        setup.env("BEHAVIOUR_FILE", &behaviour)
    }

    /// The same with a vector's configuration.
    fn setup_for(self, vector: &Vector) -> Setup {
        let mut setup = self.setup().spec(vector.spec());
        setup.platform = vector.overrides.get("platform").cloned().unwrap_or_else(|| serde_json::json!({}));
        setup
    }
}

/// How a vector ended.
enum Outcome {
    /// In the form of this name.
    Met(&'static str),
    /// In no form, which a quirk may.
    Quirk(Vec<String>),
    Failed(Vec<String>),
}

fn run(area: &str, runtime: Runtime) {
    let all = vectors::load();
    let chosen: Vec<&Vector> =
        all.iter().filter(|vector| vector.area == area && vector.applies_to(runtime.name())).collect();
    if chosen.is_empty() {
        println!("skipped: no vector of {area} applies to {}", runtime.name());
        return;
    }
    let mut processors = HashMap::new();
    let (mut passed, mut better, mut quirks, mut failed) = (0, 0, 0, Vec::new());
    let mut unexplained = Vec::new();
    for vector in &chosen {
        let outcome = judge(vector, runtime, &mut processors);
        if let Some(reason) = not_served(&vector.name, runtime) {
            assert!(
                matches!(outcome, Outcome::Failed(_)),
                "{} is served now: take it off the list",
                vector.name
            );
            assert!(
                explains(&vector.name),
                "no row of docs/compatibility.md says that {} is not served",
                vector.name
            );
            println!("not served yet: {}: {reason}", vector.name);
            continue;
        }
        let as_the_reference = matches!(outcome, Outcome::Met("expected") | Outcome::Failed(_));
        if !as_the_reference && !explains(&vector.name) {
            unexplained.push(&vector.name);
        }
        match outcome {
            Outcome::Met(form) => {
                passed += 1;
                better += usize::from(form != "expected");
            }
            Outcome::Quirk(differences) => {
                quirks += 1;
                println!("quirk: {}: neither form, but sane: {}", vector.name, differences.join("; "));
            }
            Outcome::Failed(differences) => failed.push((&vector.name, differences)),
        }
    }
    let total = chosen.len();
    let runtime = runtime.name();
    println!(
        "{area}, {runtime}: {passed} of {total} vectors pass, {better} in a better form, {quirks} quirks"
    );
    let report: Vec<String> =
        failed.iter().map(|(name, lines)| format!("{name}:\n    {}", lines.join("\n    "))).collect();
    assert!(failed.is_empty(), "{} vectors of {area} fail ({runtime}):\n{}", failed.len(), report.join("\n"));
    assert!(unexplained.is_empty(), "no row of docs/compatibility.md explains why {unexplained:?} differ");
}

/// Whether a row of `docs/compatibility.md` names the vector.
fn explains(name: &str) -> bool {
    crate::compatibility::explains(&format!("http:{name}"))
}

fn not_served(name: &str, runtime: Runtime) -> Option<&'static str> {
    let is_it =
        |entry: &&(&str, &str, &str)| entry.0 == name && (entry.1 == "*" || entry.1 == runtime.name());
    NOT_SERVED.iter().find(is_it).map(|(_, _, reason)| *reason)
}

/// Plays a vector; what panics on the way has failed.
fn judge(vector: &Vector, runtime: Runtime, processors: &mut HashMap<String, Processor>) -> Outcome {
    let played = catch_unwind(AssertUnwindSafe(|| {
        if let Some(setup) = &vector.setup {
            return scenes::play_scene(vector, setup, runtime);
        }
        let key = vector.overrides.to_string();
        let processor = processors.entry(key).or_insert_with(|| runtime.setup_for(vector).start());
        let mut outcome = Outcome::Met("expected");
        for step in &vector.steps {
            outcome = play(vector, step, processor);
            if !matches!(outcome, Outcome::Met(_)) {
                break;
            }
        }
        outcome
    }));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Outcome::Failed(vec![text.unwrap_or_default()])
    })
}

/// Tells the handler what to do, sends the request, compares.
fn play(vector: &Vector, step: &Step, processor: &Processor) -> Outcome {
    prepare(processor, &step.behaviour);
    let answers = step.forms[0].expected.get("responses").and_then(Value::as_array).map_or(1, Vec::len);
    let observed = exchange::exchange(&step.request, processor.ports, answers);
    let mut outcome = compare(vector, step, &observed, processor);
    if mark(processor, ".called").exists() {
        outcome = Outcome::Failed(vec!["the handler was called".to_owned()]);
    }
    outcome
}

/// Tells the handler what to do from now on.
fn prepare(processor: &Processor, behaviour: &Value) {
    processor.write("behaviour.json", &behaviour.to_string());
    for entry in std::fs::read_dir(processor.directory.path()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("streamed-") || name.ends_with(".called") || name.ends_with(".sleeping") {
            drop(std::fs::remove_file(entry.path()).or_else(|_| std::fs::remove_dir(entry.path())));
        }
    }
}

/// A file by which the handler says how far it is.
fn mark(processor: &Processor, what: &str) -> PathBuf {
    processor.directory.path().join(format!("behaviour.json{what}"))
}

fn compare(vector: &Vector, step: &Step, observed: &Observed, processor: &Processor) -> Outcome {
    let mut differences = Vec::new();
    for form in &step.forms {
        let found = matchers::differences(&form.expected, observed, processor.directory.path());
        if found.is_empty() {
            return Outcome::Met(form.name);
        }
        differences.extend(found.into_iter().map(|line| format!("{}: {line}", form.name)));
    }
    let sane = observed.replies.iter().all(|reply| {
        let odd = matches!(reply.after, Some(exchange::After::Odd(_)));
        !odd && reply.answer.as_ref().err().is_none_or(|error| !timed_out(error))
    });
    if vector.may && sane && exchange::serves(processor.ports.http) {
        Outcome::Quirk(differences)
    } else {
        Outcome::Failed(differences)
    }
}
