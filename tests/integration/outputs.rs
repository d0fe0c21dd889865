//! Standard streams that take nothing: events are answered all the same.

use std::fs::OpenOptions;
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Processor, Setup};

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
