//! Timers beside the vectors: handlers in process, slow, failing and dying ones, several triggers in one processor,
//! stops, what the side servers tell.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Processor, Setup, free_port, get, wait_until};
use crate::triggers::{recording, records, starts, wait_starts};

const TERM: i32 = 15;
const STOP: i32 = 19;
const CONT: i32 = 18;

/// A handler that holds every event until there is a file `gate-g`.
fn gated() -> Value {
    json!([{"do": [{"gate": "g"}, {"reply": {"status": 200}}]}])
}

fn handled(processor: &Processor, trigger: &str, result: &str) -> f64 {
    let parts = [format!("trigger_id=\"{trigger}\""), format!("result=\"{result}\"")];
    processor.metric("nuclio_processor_handled_events_total", &[&parts[0], &parts[1]])
}

fn dropped(processor: &Processor, trigger: &str, reason: &str) -> f64 {
    let parts = [format!("trigger_id=\"{trigger}\""), format!("reason=\"{reason}\"")];
    processor.metric("nuclio_processor_events_dropped_total", &[&parts[0], &parts[1]])
}

#[test]
fn ticks_reach_every_kind_of_handler() {
    let event = json!({
        "body": "tick", "path": "/p", "method": "PUT", "headers": {"X-One": "1", "n": 7, "o": {"x": [1]}, "Content-Type": "a/b"},
    });
    for compiled in [false, true] {
        let tick = json!({"kind": "cron", "attributes": {"interval": "100ms", "event": event}});
        let mut processor = recording(compiled, &json!([]), json!({"tick": tick})).start();
        let all = wait_starts(&processor, 3);
        for start in &all {
            assert_eq!(
                (&start["body"], &start["path"], &start["method"]),
                (&json!("tick"), &json!("/p"), &json!("PUT"))
            );
            assert_eq!(start["trigger"], json!({"kind": "cron", "name": "tick"}));
            assert_eq!(
                (&start["content_type"], &start["shard_id"], &start["size"]),
                (&json!(""), &json!(-1), &json!(4))
            );
            // Libraries see text.
            let (number, map) =
                if compiled { (json!("7"), json!(r#"{"x":[1]}"#)) } else { (json!(7), json!({"x": [1]})) };
            let headers = json!({"X-One": "1", "n": number, "o": map, "Content-Type": "a/b"});
            assert_eq!(start["headers"], headers);
            assert_eq!(start["fields"]["missed"], "0", "{start}");
            let scheduled: jiff::Timestamp =
                start["fields"]["scheduledTime"].as_str().unwrap().parse().unwrap();
            assert_eq!(start["timestamp"], scheduled.as_second(), "{start}");
        }
        assert_eq!(processor.health("/ready"), 200);
        processor.signal(TERM);
        assert_eq!(processor.end().code(), Some(0));
        assert!(!processor.stdout.text().contains("\"error\""), "{}", processor.stdout.text());
    }
}

#[test]
fn the_demonstration_handler_ticks_too() {
    let processor = Setup::builtin()
        .spec(json!({"triggers": {"t": {"kind": "cron", "attributes": {"schedule": "@every 1s"}}, "k": {"kind": "kickstart"}}}))
        .start();
    wait_until("both have been handled", || {
        handled(&processor, "t", "success") >= 1.0 && handled(&processor, "k", "success") == 1.0
    });
}

#[test]
fn a_slow_handler_loses_ticks_which_are_counted_and_logged_once() {
    let tick = json!({"kind": "cron", "numWorkers": 3, "attributes": {"interval": "20ms"}});
    let processor = recording(false, &gated(), json!({"tick": tick})).start();
    wait_starts(&processor, 1);
    wait_until("ticks are dropped", || dropped(&processor, "tick", "busy") >= 5.0);
    assert_eq!(starts(&processor).len(), 1);
    let warned = |record: &&Value| {
        record["level"] == "warn"
            && record["message"].as_str().is_some_and(|text| text.starts_with("Dropped a tick"))
    };
    assert_eq!(processor.stdout.records().iter().filter(warned).count(), 1);
    processor.touch("gate-g");
    wait_starts(&processor, 3);
}

#[test]
fn failures_are_logged_once_with_their_cause_and_ticks_go_on() {
    let rules = json!([
        {"first": 1, "do": [{"error": "no luck"}]},
        {"first": 1, "do": [{"panic": "no nerves"}]},
    ]);
    let tick = json!({"kind": "cron", "attributes": {"interval": "50ms"}});
    let processor = recording(true, &rules, json!({"tick": tick})).start();
    wait_starts(&processor, 4);
    wait_until("failures are counted", || handled(&processor, "tick", "failure") == 2.0);
    wait_until("successes are counted", || handled(&processor, "tick", "success") >= 1.0);
    let failed: Vec<Value> =
        processor.stdout.records().into_iter().filter(|record| record["message"] == "Event failed").collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    for (record, cause) in failed.iter().zip(["no luck", "no nerves"]) {
        assert_eq!((&record["level"], &record["more"]["trigger"]), (&json!("error"), &json!("tick")));
        assert!(record["more"]["err"].as_str().unwrap().contains(cause), "{record}");
        assert!(record["name"].as_str().unwrap().ends_with("processor.cron"), "{record}");
    }
}

#[test]
fn a_worker_that_dies_fails_its_tick_only() {
    let rules = json!([{"first": 1, "do": [{"exit": 3}]}]);
    let triggers = json!({"tick": {"kind": "cron", "attributes": {"interval": "100ms"}}});
    let processor = recording(false, &rules, triggers).start();
    wait_starts(&processor, 3);
    wait_until("success is counted", || handled(&processor, "tick", "success") >= 1.0);
    assert_eq!(handled(&processor, "tick", "failure"), 1.0);
    let pids: std::collections::BTreeSet<String> =
        starts(&processor).iter().map(|start| start["pid"].to_string()).collect();
    assert_eq!(pids.len(), 2);
}

/// What a generator does it does while its answer is read.
#[test]
fn a_streamed_answer_is_read_to_its_end() {
    let source = "
import os
def handler(context, event):
    for n in range(100):
        yield b'x' * 100000
    open(os.path.dirname(__file__) + '/done', 'w').close()
";
    let mut setup = Setup::python(source).spec(json!({"triggers": {"k": {"kind": "kickstart"}}}));
    setup.function["spec"]["triggers"]["k"]["attributes"] = json!({"event": {"body": "go"}});
    let processor = setup.start();
    wait_until("the generator has ended", || processor.directory.path().join("done").exists());
}

#[test]
fn triggers_of_one_processor_have_workers_ports_and_counters_of_their_own() {
    let ports = [free_port(), free_port()];
    let http = |port: u16, workers: u64| json!({"kind": "http", "url": format!("127.0.0.1:{port}"), "numWorkers": workers});
    let cron =
        |body: &str| json!({"kind": "cron", "attributes": {"interval": "50ms", "event": {"body": body}}});
    // Whatever the first web trigger gets waits for the gate; so its only worker is taken.
    let rules = json!([{"when": {"trigger_kind": "http", "body": "held"}, "do": [{"gate": "g"}]}]);
    for compiled in [false, true] {
        let triggers =
            json!({"a": http(ports[0], 1), "b": http(ports[1], 2), "one": cron("1"), "two": cron("2")});
        let mut setup = recording(compiled, &rules, triggers);
        setup.function["spec"]["triggers"].as_object_mut().unwrap().remove("default-http");
        let mut processor = setup.start();
        if !compiled {
            assert_eq!(processor.children().len(), 5);
        }
        processor.ports.http = ports[0];
        let held = processor.send("/", "held");
        wait_until("it is held", || starts(&processor).iter().any(|start| start["body"] == "held"));
        let ticks = |body: &str| starts(&processor).iter().filter(|start| start["body"] == body).count();
        let before = (ticks("1"), ticks("2"));
        for _ in 0..3 {
            assert_eq!(get(ports[1], "/").unwrap().status, 200);
        }
        wait_until("both timers tick on", || ticks("1") > before.0 + 1 && ticks("2") > before.1 + 1);
        wait_until("b is counted", || handled(&processor, "b", "success") == 3.0);
        assert_eq!(handled(&processor, "a", "success"), 0.0);
        processor.touch("gate-g");
        assert_eq!(held.join().unwrap().status, 200);
        wait_until("a is counted", || handled(&processor, "a", "success") == 1.0);
        for start in starts(&processor) {
            let body = start["body"].as_str().unwrap_or_default();
            let name = start["trigger"]["name"].as_str().unwrap();
            let expected = match body {
                "1" => "one",
                "2" => "two",
                "held" => "a",
                _ => "b",
            };
            assert_eq!(name, expected, "{start}");
        }
        let shown = get(processor.ports.admin, "/triggers").unwrap().json();
        assert_eq!((&shown["a"]["class"], &shown["one"]["class"]), (&json!("sync"), &json!("async")));
        assert_eq!(shown["b"]["numWorkers"], 2);
        processor.signal(TERM);
        assert_eq!(processor.end().code(), Some(0));
    }
}

#[test]
fn triggers_may_share_workers() {
    let url = free_port();
    let triggers = json!({
        "web": {"kind": "http", "url": format!("127.0.0.1:{url}"), "workerAllocatorName": "pool", "numWorkers": 2},
        "tick": {"kind": "cron", "workerAllocatorName": "pool", "numWorkers": 1, "attributes": {"interval": "50ms"}},
        "start": {"kind": "kickstart", "workerAllocatorName": "pool", "numWorkers": 2, "attributes": {"event": {"body": "go"}}},
    });
    let mut setup = recording(false, &json!([]), triggers);
    setup.function["spec"]["triggers"].as_object_mut().unwrap().remove("default-http");
    let processor = setup.start();
    assert_eq!(processor.children().len(), 2);
    assert_eq!(get(url, "/").unwrap().status, 200);
    wait_starts(&processor, 4);
    let kinds: std::collections::BTreeSet<String> = starts(&processor)
        .iter()
        .map(|start| start["trigger"]["kind"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["cron", "http", "kickstart"]);
}

#[test]
fn a_stop_finishes_the_tick_in_work_and_begins_none() {
    for compiled in [false, true] {
        let triggers = json!({"tick": {"kind": "cron", "attributes": {"interval": "30ms"}}});
        let mut processor = recording(compiled, &gated(), triggers).start();
        wait_starts(&processor, 1);
        processor.signal(TERM);
        processor.stdout.wait_for_record("Got system signal");
        std::thread::sleep(Duration::from_millis(200)); // Some ticks would have been due.
        processor.touch("gate-g");
        let begun = Instant::now();
        assert_eq!(processor.end().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(8), "it waits for the handler, not for its limit");
        let whats: Vec<Value> = records(&processor).iter().map(|record| record["what"].clone()).collect();
        assert_eq!(whats, ["start", "end"]);
        assert!(!processor.stdout.text().contains("Stopping before everything has ended"));
    }
}

#[test]
fn a_tick_that_does_not_end_is_cut_off_at_the_termination_timeout() {
    let triggers = json!({
        "default-http": {"workerTerminationTimeout": "500ms"},
        "tick": {"kind": "cron", "workerTerminationTimeout": "500ms", "attributes": {"interval": "30ms"}},
    });
    let mut processor = recording(false, &gated(), triggers).start();
    wait_starts(&processor, 1);
    processor.signal(TERM);
    assert_eq!(processor.end().code(), Some(0));
    processor.stdout.wait_for_record("Stopping before everything has ended");
}

#[test]
fn missed_runs_are_made_up_for_as_the_trigger_says() {
    for (word, expected) in [("all", 5), ("none", 0)] {
        let attributes = json!({"schedule": "*/1 * * * * *", "missedRuns": word});
        let processor =
            recording(true, &json!([]), json!({"tick": {"kind": "cron", "attributes": attributes}})).start();
        wait_starts(&processor, 1);
        processor.signal(STOP);
        std::thread::sleep(Duration::from_millis(5500));
        let resumed = jiff::Timestamp::now();
        processor.signal(CONT);
        let scheduled = |start: &Value| {
            start["fields"]["scheduledTime"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap()
        };
        wait_until("the next tick in time has come", || {
            starts(&processor).iter().any(|start| scheduled(start) > resumed)
        });
        let all: Vec<jiff::Timestamp> = starts(&processor).iter().map(scheduled).collect();
        let late =
            |time: &&jiff::Timestamp| resumed.duration_since(**time).as_secs_f64() > 1.5 && **time > all[0];
        let made_up = all.iter().filter(late).count();
        assert!(if expected == 0 { made_up == 0 } else { made_up + 2 >= expected }, "{word}: {all:?}");
        assert!(all.is_sorted(), "{all:?}");
        processor
            .stdout
            .wait_for("a warning or all of them", |line| expected > 0 || line.contains("Ticks were missed"));
        if word == "none" {
            assert!(dropped(&processor, "tick", "missed") >= 3.0);
        }
    }
}

#[test]
fn a_function_of_timers_alone_answers_probes_on_8080() {
    if std::net::TcpListener::bind(("0.0.0.0", 8080)).is_err() {
        println!("skipped: port 8080 is taken, and the platform knows no other");
        return;
    }
    let mut setup =
        recording(true, &json!([]), json!({"tick": {"kind": "cron", "attributes": {"interval": "50ms"}}}))
            .spec(json!({"disableDefaultHTTPTrigger": true}));
    setup.function["spec"]["triggers"].as_object_mut().unwrap().remove("default-http");
    let processor = setup.start();
    wait_starts(&processor, 2);
    let answer = get(8080, "/__internal/health").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
}

#[test]
fn the_web_admin_shows_timers_without_what_may_be_secret() {
    let event = json!({"body": "s3cret", "path": "/p?token=s3cret", "headers": {"Authorization": "s3cret"}});
    let processor = Setup::builtin()
        .spec(json!({"triggers": {
            "by-clock": {"kind": "cron", "attributes": {"schedule": "TZ=Europe/Berlin 30 2 * * *", "event": event}},
            "by-rate": {"kind": "cron", "attributes": {"interval": "90m", "concurrencyPolicy": "Allow"}},
            "once": {"kind": "kickstart", "attributes": {"event": event}},
        }}))
        .start();
    let answer = get(processor.ports.admin, "/triggers").unwrap();
    assert!(!answer.text().contains("s3cret") && !processor.stdout.text().contains("s3cret"));
    let shown = answer.json();
    assert_eq!(shown["by-clock"]["Schedule"], "TZ=Europe/Berlin 30 2 * * *");
    assert_eq!(shown["by-rate"]["Interval"], "1h30m0s");
    assert_eq!(shown["by-rate"]["ConcurrencyPolicy"], "Allow");
    let event = json!({"Method": "", "Path": "/p", "Headers": ["Authorization"]});
    assert_eq!((&shown["by-clock"]["Event"], &shown["once"]["Event"]), (&event, &event));
}

#[test]
fn mistakes_are_named_with_key_and_remedy() {
    for (attributes, key, words) in [
        (
            json!({"schedule": "61 * * * *"}),
            "schedule",
            &["end of range (61) above maximum (59): 61", "30 2 * * *"][..],
        ),
        (
            json!({"schedule": "TZ=Mars/Base 0 * * * *"}),
            "schedule",
            &["unknown time zone Mars/Base", "Europe/Berlin"],
        ),
        (json!({"schedule": "0 0 31 6 *"}), "schedule", &["never comes", "choose a day"]),
        (json!({"interval": "-5s"}), "interval", &["longer than nothing", "positive time"]),
        (json!({"interval": "5"}), "interval", &["missing unit", "with a unit"]),
        (
            json!({"interval": "5s", "concurrencyPolicy": "Sometimes"}),
            "concurrencyPolicy",
            &["Sometimes", "Forbid, Allow or Replace"],
        ),
        (json!({"interval": "5s", "missedRuns": "some"}), "missedRuns", &["some", "once, all or none"]),
        (
            json!({"interval": "5s", "event": {"path": []}}),
            "event.path",
            &["Failed to decode attributes", "expected text"],
        ),
    ] {
        let mut processor = Setup::builtin()
            .spec(json!({"triggers": {"t": {"kind": "cron", "attributes": attributes}}}))
            .no_wait()
            .start();
        assert_eq!(processor.end().code(), Some(1), "{key}");
        let text = processor.stderr.text();
        let place = format!("spec.triggers.t.attributes.{key}");
        for wanted in words.iter().copied().chain([place.as_str(), "processor.yaml"]) {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
    }
}

#[test]
fn what_has_no_effect_is_warned_of() {
    let triggers = json!({"t": {
        "kind": "cron",
        "workerAvailabilityTimeoutMilliseconds": 5,
        "attributes": {"interval": "1h", "schedule": "0 * * * *", "concurrencyPolicy": "Replace", "jobBackoffLimit": 3},
    }});
    let mut processor = Setup::builtin().spec(json!({"triggers": triggers})).start();
    processor.signal(TERM);
    assert_eq!(processor.end().code(), Some(0));
    let warnings: Vec<String> = processor
        .stdout
        .records()
        .iter()
        .filter(|record| record["level"] == "warn")
        .map(|record| record["message"].as_str().unwrap().to_owned())
        .collect();
    for key in ["attributes.schedule", "concurrencyPolicy Replace", "workerAvailabilityTimeoutMilliseconds"] {
        assert!(warnings.iter().any(|warning| warning.contains(key)), "{key} in {warnings:?}");
    }
    assert!(!warnings.iter().any(|warning| warning.contains("jobBackoffLimit")), "{warnings:?}");
}
