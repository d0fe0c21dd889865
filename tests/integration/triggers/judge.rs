//! Compares what a case expects with what its handler has recorded. Every member of an expectation has a row here; an
//! unknown one fails, so that none is passed over.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Run;
use crate::harness::Processor;

/// The key of the tested trigger, unless the case names one.
pub const KEY: &str = "tested";
/// What a busy machine may add to a moment, seconds.
const SLACK: f64 = 0.4;

/// A start that must fail, with these texts.
pub fn failed_start(case: &Value, mut processor: Processor) -> Vec<String> {
    let code = processor.end().code();
    let text = processor.stderr.text();
    let mut wrong = Vec::new();
    if code != Some(1) {
        wrong.push(format!("exit code {code:?}"));
    }
    for wanted in case["expect"]["error_contains"].as_array().into_iter().flatten() {
        if !text.contains(wanted.as_str().unwrap()) {
            wrong.push(format!("no {wanted} in {text}"));
        }
    }
    wrong
}

/// What is not as it should be.
pub fn differences(case: &Value, runs: &[Run]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (member, wanted) in case["expect"].as_object().unwrap() {
        if let Err(found) = check(member, wanted, case, runs) {
            wrong.push(format!("{member}: {wanted}, found {found}"));
        }
    }
    wrong
}

fn check(member: &str, wanted: &Value, case: &Value, runs: &[Run]) -> Result<(), String> {
    let run = runs.last().ok_or("no run")?;
    let starts: Vec<Value> = runs.iter().flat_map(Run::starts).collect();
    let is = |holds: bool, found: String| if holds { Ok(()) } else { Err(found) };
    let all = |key: &str| starts.iter().map(|start| start[key].clone()).collect::<Vec<_>>();
    match member {
        "start" => is(wanted == "ready", String::new()),
        "invocations" => {
            let count = starts.len() as u64;
            let holds = wanted.as_u64().map_or(wanted["min"].as_u64() <= Some(count), |exact| exact == count);
            is(holds, count.to_string())
        }
        "each" => own(case, &starts).into_iter().try_for_each(|start| each(wanted, start, case)),
        "ids" => {
            let ids: BTreeSet<String> = all("id").iter().map(Value::to_string).collect();
            is(wanted == "all distinct" && ids.len() == starts.len(), format!("{ids:?}"))
        }
        "bodies_by_run" => {
            let bodies =
                |run: &Run| run.starts().iter().map(|start| start["body"].clone()).collect::<Value>();
            let found: Value = runs.iter().map(bodies).collect();
            is(found == *wanted, found.to_string())
        }
        "kinds_seen" => {
            let kinds: BTreeSet<&str> =
                starts.iter().filter_map(|start| start["trigger"]["kind"].as_str()).collect();
            is(json!(kinds) == *wanted, format!("{kinds:?}"))
        }
        "context_trigger_kind" | "context_trigger_name" => {
            is(all(member).iter().all(|found| found == wanted), format!("{:?}", all(member)))
        }
        "max_concurrent" => {
            let most = most_at_once(&run.records());
            is(wanted.as_u64() == Some(most), most.to_string())
        }
        "metrics" => wanted.as_array().unwrap().iter().try_for_each(|metric| check_metric(metric, run)),
        "exit_code" => is(run.exit_code.map(i64::from) == wanted.as_i64(), format!("{:?}", run.exit_code)),
        // Looked at by the one who plays.
        "processor" => is(wanted == "same process", String::new()),
        _ => check_times(member, wanted, run, &times(&own(case, &starts))),
    }
}

/// When an event began, and when it was to: the processor says so itself, which holds on a busy machine too.
struct Times {
    began: f64,
    scheduled: f64,
}

fn times(starts: &[&Value]) -> Vec<Times> {
    let scheduled = |start: &Value| -> f64 {
        let time: jiff::Timestamp = start["fields"]["scheduledTime"].as_str().unwrap().parse().unwrap();
        time.as_nanosecond() as f64 / 1e9
    };
    starts
        .iter()
        .map(|start| Times { began: start["at"].as_f64().unwrap(), scheduled: scheduled(start) })
        .collect()
}

/// What concerns the moments at which events began.
fn check_times(member: &str, wanted: &Value, run: &Run, all: &[Times]) -> Result<(), String> {
    let count = |test: &dyn Fn(&Times) -> bool| all.iter().filter(|times| test(times)).count();
    let off_the_second = |seconds: f64| (seconds - seconds.round()).abs() > 0.01;
    let holds = match (member, wanted.as_str().unwrap_or_default()) {
        ("starts_spacing", "1 s, on the second") => count(&|times| off_the_second(times.scheduled)) == 0,
        ("starts_spacing", "multiples of 1 s from the start, no drift over 10 ticks") => {
            let first = all[0].scheduled;
            // A tick may be lost to a busy machine; a handler of 400 ms loses none by itself.
            let last = all[9].scheduled - first;
            count(&|times| off_the_second(times.scheduled - first)) == 0 && last < 12.0
        }
        ("ticks_after_signal", _) => count(&|times| times.scheduled > run.signalled.unwrap() + SLACK) == 0,
        ("ticks_during_block", _) => {
            // What had been admitted when the request came may still begin.
            let (begun, ended) = run.requests[0];
            count(&|times| times.began > begun + SLACK && times.began < ended - SLACK) == 0
        }
        ("no_burst_after", _) => {
            let (_, ended) = run.requests[0];
            count(&|times| times.began > ended - SLACK && times.scheduled < ended) <= 1
        }
        ("first_after_resume", "at once") => {
            let resumed = run.resumed.unwrap();
            count(&|times| times.began >= resumed && times.scheduled < resumed) > 0
        }
        ("burst", "one tick for all that were missed") => {
            let resumed = run.resumed.unwrap();
            count(&|times| times.began >= resumed && times.scheduled < resumed) == 1
        }
        _ => return Err("an expectation nobody knows".to_owned()),
    };
    let found =
        || all.iter().map(|times| format!("{} for {}", times.began, times.scheduled)).collect::<Vec<_>>();
    if holds { Ok(()) } else { Err(found().join(", ")) }
}

/// The events of the tested trigger, cloud events included.
fn own<'a>(case: &Value, starts: &'a [Value]) -> Vec<&'a Value> {
    let has_http = case["other_triggers"].is_object();
    starts.iter().filter(|start| !has_http || start["trigger"]["kind"] != "http").collect()
}

fn each(wanted: &Value, start: &Value, case: &Value) -> Result<(), String> {
    for (member, wanted) in wanted.as_object().unwrap() {
        let found = &start[member];
        // The SDK shows an empty path as the root.
        let root = member == "path" && wanted == "" && found == "/";
        if !root && !matches(wanted, found, case) {
            return Err(format!("{member} {found}"));
        }
    }
    Ok(())
}

fn matches(wanted: &Value, found: &Value, case: &Value) -> bool {
    let key = case["function"]["trigger_key"].as_str().unwrap_or(KEY);
    match wanted {
        Value::String(text) => found.as_str() == Some(&text.replace("{trigger}", key)),
        Value::Object(members) => match members.iter().next() {
            Some((name, choices)) if name == "$any" => {
                choices.as_array().unwrap().iter().any(|choice| matches(choice, found, case))
            }
            Some((name, seconds)) if name == "$near_now_s" => found
                .as_f64()
                .is_some_and(|found| (found - super::now()).abs() < seconds.as_f64().unwrap() + 5.0),
            _ => found.as_object().is_some_and(|found| {
                found.len() == members.len()
                    && members.iter().all(|(name, wanted)| {
                        found.get(name).is_some_and(|found| matches(wanted, found, case))
                    })
            }),
        },
        wanted => wanted == found,
    }
}

/// How many events were in work at the same moment.
fn most_at_once(records: &[Value]) -> u64 {
    let (mut now, mut most) = (0_u64, 0);
    for record in records {
        if record["what"] == "start" {
            now += 1;
        } else {
            now -= 1;
        }
        most = most.max(now);
    }
    most
}

fn check_metric(metric: &Value, run: &Run) -> Result<(), String> {
    let labels = metric["labels"].as_object().unwrap();
    // That label is of a pusher that the reference no longer runs.
    let labels = labels.iter().filter(|(name, _)| *name != "trigger_class");
    let parts: Vec<String> = labels
        .map(|(name, value)| format!("{name}=\"{}\"", value.as_str().unwrap().replace("{trigger}", KEY)))
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let name = metric["name"].as_str().unwrap();
    // The handler has been called, but its answer may not have been counted yet.
    let wanted = metric["value"]["min"].as_f64().unwrap();
    crate::harness::wait_until("the metric is there", || run.processor.metric(name, &parts) >= wanted);
    Ok(())
}
