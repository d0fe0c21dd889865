//! Runs the trigger vectors of kinds that need no broker against the real binary: `cron`, `kickstart` and those that
//! hold for any kind. A handler records what it gets ([`Run`]), the steps of a case are played, [`judge`] compares.
//!
//! All cases run side by side, because most of what they do is to wait.

mod judge;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Processor, Setup, get, wait_until};
use crate::library::rust_library;

/// Cases at the same time.
const AT_ONCE: usize = 6;
const TERM: i32 = 15;
const STOP: i32 = 19;
const CONT: i32 = 18;

/// What a case was played with.
pub struct Run {
    processor: Processor,
    /// Of the HTTP trigger that the case names.
    exit_code: Option<i32>,
    signalled: Option<f64>,
    resumed: Option<f64>,
    /// Of requests that were sent: when, and when they were answered.
    requests: Vec<(f64, f64)>,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

impl Run {
    /// All that the handler has recorded, in order.
    pub fn records(&self) -> Vec<Value> {
        records(&self.processor)
    }

    /// Starts of the handler.
    pub fn starts(&self) -> Vec<Value> {
        starts(&self.processor)
    }
}

/// All that a recording handler has recorded.
pub fn records(processor: &Processor) -> Vec<Value> {
    let text = std::fs::read_to_string(processor.directory.path().join("record")).unwrap_or_default();
    // The last line may not be there yet as a whole.
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The beginnings of events that a recording handler has recorded.
pub fn starts(processor: &Processor) -> Vec<Value> {
    records(processor).into_iter().filter(|record| record["what"] == "start").collect()
}

/// Waits until that many events have begun.
pub fn wait_starts(processor: &Processor, count: usize) -> Vec<Value> {
    wait_until("the handler has been called often enough", || starts(processor).len() >= count);
    starts(processor)
}

/// A processor to be with a recording handler that follows these rules, and these triggers beside an HTTP trigger.
pub fn recording(compiled: bool, rules: &Value, triggers: Value) -> Setup {
    let setup = if compiled {
        Setup::library(rust_library())
    } else {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handlers/python/recorder");
        Setup::new("python", "main:handler").python_environment().env("NUCLIO_PYTHON_PATH", folder)
    };
    setup.write("rules.json", &rules.to_string());
    let folder = setup.directory.path().display().to_string();
    setup.env("RECORD_FOLDER", &folder).spec(json!({"triggers": triggers}))
}

/// A processor to be as the case has it.
fn setup(case: &Value) -> Setup {
    let key = case["function"]["trigger_key"].as_str().unwrap_or(judge::KEY);
    let mut triggers = case.get("other_triggers").cloned().unwrap_or_else(|| json!({}));
    triggers[key] = case["trigger"].clone();
    let rules = case.get("handler").cloned().unwrap_or_else(|| json!([]));
    let mut setup = recording(case["runtime"] == "compiled", &rules, triggers);
    if case["other_triggers"].is_object() {
        setup.function["spec"]["triggers"].as_object_mut().unwrap().remove("default-http");
    }
    if let Some(mode) = case["platform"]["cronTriggerCreationMode"].as_str() {
        setup.platform = json!({"cronTriggerCreationMode": mode});
    }
    if case["platform"]["kind"] == "kube" {
        setup = setup.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
    }
    setup
}

fn play(case: &Value) -> Vec<String> {
    if case["expect"]["start"] == "fails" {
        return judge::failed_start(case, setup(case).no_wait().start());
    }
    let mut runs: Vec<Run> = Vec::new();
    let start = vec![json!({"op": "start"})];
    for step in case["steps"].as_array().unwrap_or(&start) {
        if step["op"] == "start" {
            let processor = setup(case).start();
            runs.push(Run {
                processor,
                exit_code: None,
                signalled: None,
                resumed: None,
                requests: Vec::new(),
            });
        } else {
            do_step(step, runs.last_mut().expect("a start before everything else"));
        }
    }
    let rising =
        runs.last().is_some_and(|run| run.exit_code.is_none() && case["expect"].get("processor").is_some());
    let mut wrong = judge::differences(case, &runs);
    if rising && runs.last_mut().is_some_and(|run| run.processor.child.try_wait().unwrap().is_some()) {
        wrong.push("the processor has ended".to_owned());
    }
    wrong
}

fn do_step(step: &Value, run: &mut Run) {
    match step["op"].as_str().unwrap() {
        "await" => drop(wait_starts(&run.processor, step["invocations"].as_u64().unwrap() as usize)),
        "quiet" => std::thread::sleep(Duration::from_secs(step["seconds"].as_u64().unwrap_or(1))),
        "sleep_ms" => std::thread::sleep(Duration::from_millis(step["fixed"].as_u64().unwrap())),
        "open" => run.processor.touch(&format!("gate-{}", step["gate"].as_str().unwrap())),
        "signal" => {
            let stop = step["name"] == "STOP";
            if stop {
                // An answer that was still to be read afterwards would hold up the tick that is due then.
                run.processor.wait_in_flight(0);
            }
            run.resumed = (!stop).then(now);
            run.processor.signal(if stop { STOP } else { CONT });
        }
        "sigterm" => {
            run.signalled = Some(now());
            let begun = Instant::now();
            run.processor.signal(TERM);
            run.exit_code = run.processor.end().code();
            if step.get("within").is_some() {
                assert!(begun.elapsed() < Duration::from_secs(15), "half of the termination timeout");
            }
        }
        "http" => {
            let begun = now();
            let status = get(run.processor.ports.http, "/").unwrap().status;
            assert_eq!(u64::from(status), step["expect_status"].as_u64().unwrap_or(200));
            run.requests.push((begun, now()));
        }
        other => panic!("unknown step {other}"),
    }
}

#[test]
fn cases_hold() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/triggers.json")).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    let (queue, failed) = (Mutex::new(cases.iter()), Mutex::new(Vec::new()));
    rust_library(); // built before the clocks run
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().next() else { return };
                    let id = case["id"].as_str().unwrap();
                    if let Some(need) = case["needs"][0].as_str() {
                        // A unit test of the clock has the one case there is.
                        assert_eq!((id, need), ("cron-tick-08", "fake clock"));
                        println!("skipped: {id} needs a {need}");
                        continue;
                    }
                    let wrong = catch_unwind(AssertUnwindSafe(|| play(case))).unwrap_or_else(|panic| {
                        let text = panic.downcast_ref::<String>().cloned();
                        vec![text.unwrap_or_else(|| "panicked".to_owned())]
                    });
                    if !wrong.is_empty() {
                        failed.lock().unwrap().push(format!("{id}:\n    {}", wrong.join("\n    ")));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cases fail:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
