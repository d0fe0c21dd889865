//! Batches over shim protocol 1: every event gets its own answer, or one clear error.

use std::thread;

use serde_json::json;

use crate::harness::{Answer, Processor, Setup};

fn start(spec: serde_json::Value) -> Processor {
    let setup = Setup::python("");
    setup.write("wrapper.py", include_str!("../handlers/python/wrapper_v1/wrapper.py"));
    setup.write("wrapper_common.py", "# A generator is answered piece by piece.\n");
    let path = setup.directory.path().join("wrapper.py").display().to_string();
    let batch = json!({"batch": {"mode": "enable", "batchSize": 3, "timeout": "5s"}});
    setup.env("NUCLIO_PYTHON_WRAPPER_PATH", &path).trigger(batch).spec(spec).start()
}

/// Three events at once, which are one batch; their answers in order.
fn send(processor: &Processor, path: &str) -> Vec<Answer> {
    thread::scope(|scope| {
        let post = |number: usize| {
            let body = format!("body {number}");
            let length = body.len();
            let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {length}\r\n\r\n");
            processor.request(&head, body.as_bytes())
        };
        let posts: Vec<_> = (0..3).map(|number| scope.spawn(move || post(number))).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    })
}

fn serves(processor: &Processor) {
    for (number, answer) in send(processor, "/").iter().enumerate() {
        assert_eq!((answer.status, answer.text()), (200, format!("body {number}")));
    }
}

/// All fail with this, and the worker serves on.
fn all_fail(processor: &Processor, path: &str, text: &str) {
    for answer in send(processor, path) {
        assert_eq!(answer.status, 500, "{path}: {}", answer.text());
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    serves(processor);
}

#[test]
fn answers_of_a_wrappers_batch_find_their_events_in_any_order() {
    let processor = start(json!({}));
    serves(&processor);
    serves(&processor);
    assert_eq!(processor.metric("nuclio_processor_events_in_flight", &[]), 0.0);
}

#[test]
fn an_exception_an_unreadable_answer_and_a_stream_fail_every_event_of_a_wrappers_batch() {
    let processor = start(json!({}));
    let pids = processor.children();
    all_fail(&processor, "/raises", "it raised");
    all_fail(&processor, "/garbage", "cannot decode the handler's answer");
    all_fail(&processor, "/streams", "piece by piece");
    assert_eq!(processor.children(), pids);
    assert_eq!(processor.metric("nuclio_processor_events_in_flight", &[]), 0.0);
}

#[test]
fn answers_without_an_id_or_for_nobody_are_warned_of_and_the_event_left_out_fails() {
    let mut processor = start(json!({}));
    let answers = send(&processor, "/partly");
    let failed: Vec<_> = answers.iter().filter(|answer| answer.status == 500).collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0].text().contains("hasn't received corresponding response"));
    let message = "The handler answered an event that is not in its batch";
    processor.stdout.wait_for_record(message);
    send(&processor, "/partly");
    serves(&processor);
    // Two in each batch: for nobody, and without an id.
    processor.signal(libc::SIGTERM);
    assert_eq!(processor.wait().code(), Some(0));
    processor.stdout.wait_for_record(&format!("{message}, and 3 more"));
    let records = processor.stdout.records();
    assert_eq!(records.iter().filter(|record| record["message"] == message).count(), 1);
}

#[test]
fn a_wrappers_batch_ends_with_its_worker_or_at_its_deadline() {
    let mut processor = start(json!({"eventTimeout": "1s"}));
    for answer in send(&processor, "/exits") {
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains("exited with code 3"), "{}", answer.text());
    }
    processor.wait_ready();
    assert!(send(&processor, "/hangs").iter().all(|answer| answer.status == 408));
    processor.wait_ready();
    serves(&processor);
    processor.signal(libc::SIGTERM);
    assert_eq!(processor.wait().code(), Some(0));
}
