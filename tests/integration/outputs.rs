//! Standard streams that take nothing: events are answered all the same.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Processor, Setup, wait_until};

const CHATTY: &str = "
def handler(context, event):
    for number in range(50):
        context.logger.info_with('a line of the handler', number=number, filler='x' * 200)
    return event.body
";

/// More lines than any pipe or queue holds.
fn check(mut processor: Processor) {
    for n in 0..400 {
        let answer = processor.post("/", &n.to_string());
        assert_eq!((answer.status, answer.text()), (200, n.to_string()));
    }
    assert_eq!((processor.health("/ready"), processor.health("/live")), (200, 200));
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
}

#[test]
fn a_full_disk_under_the_logs_delays_no_event() {
    check(Setup::python(CHATTY).start_redirected(|command| {
        let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
        command.stdout(full()).stderr(full());
    }));
}

#[test]
fn a_closed_standard_output_delays_no_event() {
    check(Setup::python(CHATTY).start_redirected(|command| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        command.stdout(writer);
    }));
}

#[test]
fn a_standard_output_that_nobody_reads_delays_no_event_and_no_end() {
    let (reader, writer) = std::io::pipe().unwrap();
    let processor = Setup::python(CHATTY).start_redirected(|command| {
        command.stdout(writer);
    });
    check(processor);
    drop(reader);
}

#[test]
fn lines_lost_for_want_of_a_reader_are_counted() {
    let (reader, writer) = std::io::pipe().unwrap();
    let processor = Setup::python(CHATTY).trigger(json!({"numWorkers": 2})).start_redirected(|command| {
        command.stdout(writer);
    });
    for _ in 0..400 {
        assert_eq!(processor.post("/", "x").status, 200);
    }
    assert!(processor.metric("nuclio_processor_log_records_dropped_total", &[]) > 0.0);
    drop(reader);
}

#[test]
fn what_was_lost_is_said_once_it_flows_again() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut processor = Setup::python(CHATTY).start_redirected(|command| {
        command.stdout(writer);
    });
    for _ in 0..400 {
        assert_eq!(processor.post("/", "x").status, 200);
    }
    let lost = processor.metric("nuclio_processor_log_records_dropped_total", &[]);
    assert!(lost > 0.0);
    let read = Arc::new(AtomicUsize::new(0));
    let counter = read.clone();
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map_while(Result::ok);
        let lines = lines.inspect(|_| {
            counter.fetch_add(1, Relaxed);
        });
        lines.map(|line| serde_json::from_str(&line).unwrap()).collect::<Vec<Value>>()
    });
    wait_until("the queue has room again", || {
        let before = processor.metric("nuclio_processor_log_records_dropped_total", &[]);
        processor.post("/", "x");
        processor.metric("nuclio_processor_log_records_dropped_total", &[]) <= before
    });
    let lost = processor.metric("nuclio_processor_log_records_dropped_total", &[]);
    // A stop does not wait for all that is queued.
    wait_until("all of it has been read", || {
        let before = read.load(Relaxed);
        std::thread::sleep(Duration::from_millis(200));
        read.load(Relaxed) == before
    });
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
    let records = reading.join().unwrap();
    let said: Vec<&Value> = records
        .iter()
        .filter(|record| record["message"] == "Log records were lost: standard output took no more")
        .collect();
    assert!((1..10).contains(&said.len()), "{said:?}");
    let counts = said.iter().map(|record| record["more"]["lost"].as_f64().unwrap());
    assert_eq!(counts.sum::<f64>(), lost);
    assert_eq!((&said[0]["level"], &said[0]["more"]["sink"]), (&json!("warn"), &json!("out")));
}

#[test]
fn lines_that_a_full_disk_refuses_are_counted() {
    let processor = Setup::python(CHATTY).start_redirected(|command| {
        command.stdout(OpenOptions::new().write(true).open("/dev/full").unwrap());
    });
    assert_eq!(processor.post("/", "x").status, 200);
    wait_until("they are counted", || {
        processor.metric("nuclio_processor_log_records_dropped_total", &["sink=\"out\""]) >= 50.0
    });
}

#[test]
fn a_standard_output_that_others_made_non_blocking_loses_nothing() {
    let (reader, writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&writer, true).unwrap();
    let mut processor = Setup::python(CHATTY).start_redirected(|command| {
        command.stdout(writer);
    });
    for _ in 0..20 {
        assert_eq!(processor.post("/", "x").status, 200);
    }
    let reading = std::thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map_while(Result::ok);
        lines.filter(|line| line.contains("a line of the handler")).count()
    });
    assert_eq!(processor.metric("nuclio_processor_log_records_dropped_total", &[]), 0.0);
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
    assert_eq!(reading.join().unwrap(), 20 * 50);
}
