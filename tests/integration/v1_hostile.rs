//! Wrappers of shim protocol 1 that break in every way we could think of: one clear answer to the caller, one line in
//! the log, and the next event is served.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Processor, Setup, wait_until};

const WRAPPER: &str = include_str!("../handlers/python/wrapper_v1/wrapper.py");
/// What stands beside newer wrappers.
const COMMON: &str = "# The newer wrapper, which answers generators piece by piece.\n";
/// A whole answer.
const OK: &str = r#"r{"body":"ok","body_encoding":"text","headers":{}}"#;

fn setup() -> Setup {
    let setup = Setup::python("");
    setup.write("wrapper.py", WRAPPER);
    let path = setup.directory.path().join("wrapper.py").display().to_string();
    setup.env("NUCLIO_PYTHON_WRAPPER_PATH", &path)
}

fn newer() -> Setup {
    let setup = setup();
    setup.write("wrapper_common.py", COMMON);
    setup
}

fn post(processor: &Processor, path: &str, body: &[u8]) -> Answer {
    processor.request(
        &format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len()),
        body,
    )
}

/// What the wrapper writes for the next event, as it is.
fn raw(processor: &Processor, lines: &[&str]) -> Answer {
    post(processor, "/raw", format!("{}\n", lines.join("\n")).as_bytes())
}

fn serves(processor: &Processor) {
    let answer = post(processor, "/echo", b"alive");
    assert_eq!((answer.status, answer.text()), (200, "alive".to_owned()));
}

/// The event fails, and the worker serves on without having been replaced.
fn fails_alone(processor: &Processor, lines: &[&str], text: &str) {
    let pids = processor.children();
    let answer = raw(processor, lines);
    assert_eq!(answer.status, 500, "{lines:?}: {}", answer.text());
    assert!(answer.text().contains(text), "{lines:?}: {}", answer.text());
    serves(processor);
    assert_eq!(processor.children(), pids, "{lines:?}");
}

/// The event fails with the worker, which is replaced.
fn fails_with_its_worker(processor: &Processor, path: &str, text: &str, line: &str) {
    let answer = post(processor, path, b"");
    assert_eq!(answer.status, 500, "{path}: {}", answer.text());
    assert!(answer.text().contains(text), "{path}: {}", answer.text());
    processor.stdout.wait_for_record(line);
    processor.wait_ready();
    serves(processor);
}

fn restarts(processor: &Processor, reason: &str) -> f64 {
    let reason = format!("reason=\"{reason}\"");
    processor.metric("nuclio_processor_worker_restarts_total", &[&reason])
}

fn no_start(mode: &str, texts: &[&str]) {
    let setup = setup().env("WRAPPER_START", mode).env("NUCLIO_WORKER_START_TIMEOUT", "2s").no_wait();
    let mut processor = setup.start();
    assert_eq!(processor.wait().code(), Some(1), "{mode}");
    processor.stdout.wait_closed();
    processor.stderr.wait_closed();
    let said = format!("{}\n{}", processor.stdout.text(), processor.stderr.text());
    assert!(texts.iter().all(|text| said.contains(text)), "{mode}: {said}");
}

#[test]
fn a_wrapper_gets_the_arguments_and_the_event_of_the_go_processor() {
    let processor = setup().start();
    processor.stdout.wait_for_record("Using the wrapper of the Go processor");
    processor.stdout.wait_for_record("before the start");
    let arguments: Vec<String> = serde_json::from_slice(&post(&processor, "/arguments", b"").body).unwrap();
    let names: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|text| text.starts_with("--")).collect();
    assert_eq!(
        names,
        [
            "--handler",
            "--event-socket-path",
            "--control-socket-path",
            "--platform-kind",
            "--namespace",
            "--worker-id",
            "--trigger-kind",
            "--trigger-name",
            "--decode-event-strings",
        ]
    );
    let value = |name: &str| &arguments[arguments.iter().position(|other| other == name).unwrap() + 1];
    assert_eq!((value("--handler").as_str(), value("--namespace").as_str()), ("main:handler", "default"));
    assert_eq!((value("--platform-kind").as_str(), value("--worker-id").as_str()), ("local", "0"));
    assert_eq!(
        (value("--trigger-kind").as_str(), value("--trigger-name").as_str()),
        ("http", "default-http")
    );
    for name in ["--event-socket-path", "--control-socket-path"] {
        assert!(value(name).starts_with("/tmp/nuclio-rpc-") && value(name).len() == 41, "{}", value(name));
        assert!(!std::path::Path::new(value(name)).exists(), "its name is gone once it is connected");
    }
    let head =
        "POST /event?a=1&a=2&b=%20 HTTP/1.1\r\nHost: f:8080\r\nX-a: 1\r\nx-A: 2\r\nContent-Length: 2\r\n\r\n";
    let event = processor.request(head, b"hi").json();
    assert_eq!(event["fields"], json!({"a": "2", "b": " "}));
    assert_eq!(event["headers"], json!({"Host": "f:8080", "X-A": "2", "Content-Length": "2"}));
    assert_eq!((&event["body"], &event["path"], &event["size"]), (&json!("hi"), &json!("/event"), &json!(2)));
    assert_eq!(event["trigger"], json!({"kind": "http", "name": "default-http"}));
    assert_eq!((&event["shard_id"], &event["url"], &event["topic"]), (&json!(-1), &json!(""), &json!("")));
}

#[test]
fn bodies_of_all_sizes_arrive_whole() {
    let processor = setup().start();
    for size in [0, 1, 255, 256, 4096, 4097, 65_535, 65_536, 1 << 20, 4 << 20] {
        let body: Vec<u8> = (0..size).map(|at| b'a' + (at % 23) as u8).collect();
        let answer = post(&processor, "/echo", &body);
        assert!(answer.status == 200 && answer.body == body, "{size}: {}", answer.status);
    }
}

#[test]
fn an_exit_before_the_handshake_ends_the_start_whatever_its_code() {
    for code in ["0", "1", "42"] {
        no_start(&format!("exit-first-{code}"), &[&format!("exited with code {code}")]);
    }
}

#[test]
fn an_exit_after_connecting_ends_the_start() {
    for code in ["0", "3"] {
        no_start(&format!("exit-connected-{code}"), &[&format!("exited with code {code}")]);
    }
}

#[test]
fn a_wrapper_that_never_connects_or_never_gets_ready_ends_the_start_in_time() {
    for mode in ["deaf", "silent"] {
        no_start(mode, &["not ready within 2s", "NUCLIO_WORKER_START_TIMEOUT"]);
    }
}

#[test]
fn words_that_are_not_those_of_a_wrapper_are_quoted() {
    no_start("garbage", &["not those of protocol 1", "NUCLIO_SHIM_PROTOCOL"]);
    no_start("version-2", &["NSH2", "not those of protocol 1"]);
    no_start("answers", &["to nobody", "not those of protocol 1"]);
}

#[test]
fn the_control_connection_alone_may_say_that_a_wrapper_is_ready() {
    serves(&setup().env("WRAPPER_START", "controls").start());
}

#[test]
fn an_answer_before_the_first_event_condemns_the_worker() {
    let processor = setup().env("WRAPPER_START", "surplus").no_wait().start();
    let record = processor.stdout.wait_for_record("Worker broke the shim protocol");
    assert!(record["more"]["err"].as_str().unwrap().contains("while no event was in work"), "{record}");
    processor.wait_ready();
    serves(&processor);
    assert_eq!(restarts(&processor, "protocol"), 1.0);
}

#[test]
fn an_exit_in_the_middle_of_an_event_fails_that_event_whatever_its_code() {
    let processor = setup().start();
    for (number, code) in ["0", "1", "42"].iter().enumerate() {
        let text = format!("exited with code {code}");
        fails_with_its_worker(
            &processor,
            &format!("/exit/{code}"),
            &text,
            "Unexpected termination of child process",
        );
        assert_eq!(restarts(&processor, "exit"), number as f64 + 1.0);
    }
    fails_with_its_worker(&processor, "/kill", "SIGKILL", "Unexpected termination of child process");
    assert_eq!(restarts(&processor, "signal"), 1.0);
}

#[test]
fn half_a_line_and_an_exit_fail_the_event() {
    let processor = setup().start();
    fails_with_its_worker(
        &processor,
        "/half",
        "exited with code 0",
        "The wrapper's connection ended in the middle of a line",
    );
}

#[test]
fn a_closed_connection_is_the_end_of_a_worker() {
    let processor = setup().start();
    for connection in ["event", "control"] {
        let path = format!("/close/{connection}");
        fails_with_its_worker(
            &processor,
            &path,
            "closed its connection",
            "Unexpected termination of child process",
        );
    }
}

#[test]
fn an_answer_byte_by_byte_is_an_answer() {
    let answer = post(&setup().start(), "/slowly", b"");
    assert_eq!((answer.status, answer.text()), (200, "slow".to_owned()));
}

#[test]
fn garbage_between_lines_is_ignored_with_one_warning() {
    let processor = setup().start();
    for _ in 0..2 {
        let answer = raw(&processor, &["\u{1}\u{7f}what?", "", "X{}", OK]);
        assert_eq!((answer.status, answer.text()), (200, "ok".to_owned()));
    }
    processor.stdout.wait_for_record("The wrapper sends lines of an unknown kind, which are ignored");
    let warned = |record: &&Value| record["message"].as_str().unwrap().contains("unknown kind");
    assert_eq!(processor.stdout.records().iter().filter(warned).count(), 1);
}

#[test]
fn an_endless_answer_fails_at_its_bound() {
    let processor = setup().env("NUCLIO_MAX_ANSWER_BYTES", "1000000").start();
    fails_with_its_worker(
        &processor,
        "/endless/r",
        "NUCLIO_MAX_ANSWER_BYTES",
        "Worker broke the shim protocol",
    );
}

#[test]
fn an_endless_line_of_any_other_kind_ends_the_worker() {
    let processor = setup().env("NUCLIO_MAX_ANSWER_BYTES", "1000000").start();
    for letter in ["l", "m", "z"] {
        let path = format!("/endless/{letter}");
        fails_with_its_worker(&processor, &path, "is longer than", "Worker broke the shim protocol");
    }
}

#[test]
fn a_long_log_line_is_dropped_and_the_answer_is_not() {
    let processor = setup().start();
    let long = format!("l{}", "x".repeat(2 << 20));
    assert_eq!(raw(&processor, &[&long, OK]).status, 200);
    processor.stdout.wait_for_record("Dropped log lines of the wrapper that are too long");
    serves(&processor);
}

#[test]
fn two_answers_at_once_condemn_the_worker_and_nobody_gets_the_second() {
    let processor = setup().start();
    let answer = raw(&processor, &[OK, r#"r{"body":"second","body_encoding":"text"}"#]);
    assert_eq!(answer.text(), "ok");
    processor.stdout.wait_for_record("Worker broke the shim protocol");
    processor.wait_ready();
    serves(&processor);
    assert_eq!(restarts(&processor, "protocol"), 1.0);
}

#[test]
fn a_second_answer_that_comes_late_condemns_the_worker() {
    let processor = setup().start();
    assert_eq!(post(&processor, "/again", b"").text(), "first");
    processor.stdout.wait_for_record("Worker broke the shim protocol");
    processor.wait_ready();
    serves(&processor);
}

#[test]
fn a_late_answer_dies_with_its_worker() {
    let processor = setup().spec(json!({"eventTimeout": "300ms"})).start();
    let begun = Instant::now();
    let answer = post(&processor, "/late/1.2", b"");
    assert_eq!((answer.status, answer.json()), (408, json!({"error": "handler timed out"})));
    assert!(begun.elapsed() < Duration::from_secs(5));
    processor.stdout.wait_for_record("Restarting worker due to timeout");
    processor.wait_ready();
    serves(&processor);
    assert_eq!(restarts(&processor, "timeout"), 1.0);
    // The interpreter shows where it was.
    processor.stderr.wait_for("the stack", |line| line.contains("Fatal Python error: Aborted"));
}

#[test]
fn a_status_of_another_type_or_out_of_range_fails_its_event_alone() {
    let processor = setup().start();
    for status in ["\"200\"", "200.0", "2e2", "true", "[200]", "99999999999999999999"] {
        let line = format!(r#"r{{"body":"x","body_encoding":"text","status_code":{status}}}"#);
        fails_alone(&processor, &[&line], "cannot decode the handler's answer");
    }
    for status in ["1", "99", "100", "1000", "-1", "70000"] {
        let line = format!(r#"r{{"body":"x","body_encoding":"text","status_code":{status}}}"#);
        fails_alone(&processor, &[&line], "no final HTTP status");
    }
}

#[test]
fn an_unknown_encoding_or_bad_base64_fails_its_event_alone() {
    let processor = setup().start();
    fails_alone(
        &processor,
        &[r#"r{"body":"x","body_encoding":"gzip"}"#],
        r#"Unknown body encoding - "gzip""#,
    );
    fails_alone(&processor, &["r{}"], r#"Unknown body encoding - """#);
    fails_alone(&processor, &[r#"r{"body":"a*b=","body_encoding":"base64"}"#], "base64");
}

#[test]
fn an_empty_list_null_and_lists_of_null_fail_their_event_alone() {
    let processor = setup().start();
    fails_alone(&processor, &["r[]"], "handler returned an empty list of responses");
    fails_alone(&processor, &["rnull"], "handler returned an empty list of responses");
    fails_alone(&processor, &["r[null]"], "null");
}

#[test]
fn an_answer_that_is_no_json_fails_its_event_alone() {
    let processor = setup().start();
    for line in ["r", "r{", "r5", "r\"x\"", "r{'body': 1}", "r{\"body\":\"x\"} x", "r{\"body\":1}", "r[{},]"]
    {
        fails_alone(&processor, &[line], "cannot decode the handler's answer");
    }
}

#[test]
fn bad_records_and_metrics_are_said_and_the_answer_counts() {
    let processor = setup().start();
    assert_eq!(raw(&processor, &["l{bad", "mxyz", "m{}", OK]).status, 200);
    for message in ["Can't decode log", "Can't decode metric", "No duration in metrics"] {
        processor.stdout.wait_for_record(message);
    }
    assert_eq!(post(&processor, "/control", b"").status, 200);
    processor.stdout.wait_for_record("by control");
    processor.stdout.wait_for_record("Failed to read control message");
    serves(&processor);
}

#[test]
fn the_callers_records_come_with_the_answer_however_many_there_are() {
    let processor = setup().start();
    let head = "GET /logs/3 HTTP/1.1\r\nHost: t\r\nX-Nuclio-Log-Level: debug\r\n\r\n";
    let answer = processor.request(head, b"");
    let logs: Vec<Value> = serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap();
    assert_eq!(logs.len(), 3);
    assert_eq!((&logs[0]["message"], &logs[0]["level"]), (&json!("record 0"), &json!("warn")));
    assert_eq!(processor.get("/logs/5000").text(), "logged");
}

#[test]
fn pieces_of_a_stream_that_is_not_open_are_dropped() {
    let processor = newer().start();
    assert_eq!(raw(&processor, &["beHg=", "e", OK]).text(), "ok");
    processor.stdout.wait_for_record("Dropped a piece of a stream that is not open");
    serves(&processor);
}

/// The start of a streamed answer.
const STREAM: &str = r#"c{"status_code":201,"content_type":"text/x","headers":{"A":"b"},"body":"one ","body_encoding":"text"}"#;

#[test]
fn streams_end_with_their_end_or_with_the_duration_that_known_wrappers_send_last() {
    let processor = newer().start();
    for end in [&["e", "m{\"duration\":0.1}"][..], &["e"], &["m{\"duration\":0.1}"]] {
        let lines = [&[STREAM, "bdHdvIA==", "bdGhyZWU="][..], end].concat();
        let answer = raw(&processor, &lines);
        assert_eq!((answer.status, answer.text()), (201, "one two three".to_owned()), "{end:?}");
        assert_eq!((answer.header("Content-Type"), answer.header("A")), (Some("text/x"), Some("b")));
        assert_eq!(answer.header("Transfer-Encoding"), Some("chunked"));
        serves(&processor);
    }
    let only_its_start = raw(&processor, &[STREAM, "m{\"duration\":0.1}"]);
    assert_eq!(only_its_start.text(), "one ");
    assert_eq!(processor.metric("nuclio_processor_streams_total", &["result=\"success\""]), 4.0);
    assert!(!processor.stdout.text().contains("Restarting worker"));
}

/// The client's connection is cut before the answer is complete.
fn is_cut(processor: &Processor, lines: &[&str]) {
    let mut client = Client::connect(processor.http());
    let body = format!("{}\n", lines.join("\n"));
    client
        .send(format!("POST /raw HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    client.send(body.as_bytes());
    let answer = client.read_answer(false);
    assert!(answer.is_err(), "{lines:?}: {answer:?}");
}

#[test]
fn a_stream_that_fails_in_the_middle_cuts_the_clients_connection() {
    let processor = newer().start();
    let failed = r#"r{"status_code":500,"body":"handler raised","body_encoding":"text"}"#;
    is_cut(&processor, &[STREAM, "bdHdvIA==", failed]);
    let record = processor.stdout.wait_for_record("A streamed answer failed");
    assert_eq!(record["more"]["err"], "handler raised");
    serves(&processor);
    is_cut(&processor, &[STREAM, "b*not base64*", "e"]);
    serves(&processor);
    assert_eq!(processor.metric("nuclio_processor_streams_total", &["result=\"failure\""]), 2.0);
}

#[test]
fn a_stream_with_a_bad_start_is_a_500_and_what_follows_is_not_mistaken_for_anything() {
    let processor = newer().start();
    for start in [
        "c{",
        "c[]",
        r#"c{"body":"x","body_encoding":"zip"}"#,
        r#"c{"body":"","body_encoding":"text","status_code":1}"#,
    ] {
        fails_alone(&processor, &[start, "bdHdvIA==", "e", "m{\"duration\":0.1}"], "");
    }
}

#[test]
fn a_second_start_of_a_stream_condemns_the_worker() {
    let processor = newer().start();
    is_cut(&processor, &[STREAM, STREAM]);
    processor.stdout.wait_for_record("Worker broke the shim protocol");
    processor.wait_ready();
    serves(&processor);
}

#[test]
fn an_empty_generator_is_an_empty_answer() {
    let processor = newer().start();
    let answer = raw(&processor, &["m{\"duration\":0.1}"]);
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    processor.wait_ready();
    serves(&processor);
    assert_eq!(restarts(&processor, "recycle"), 1.0);
}

#[test]
fn the_duration_of_the_event_before_is_not_taken_for_an_empty_answer() {
    let processor = newer().start();
    // Newer wrappers say it after the answer, so it may come when the next event is in work.
    for _ in 0..3 {
        assert_eq!(raw(&processor, &[OK]).text(), "ok");
        let answer = post(&processor, "/raw", format!("m{{\"duration\":0.1}}\n{OK}\n").as_bytes());
        assert_eq!(answer.text(), "ok");
    }
    assert_eq!(restarts(&processor, "recycle"), 0.0);
}

#[test]
fn a_client_that_leaves_an_endless_stream_costs_the_worker_and_nothing_else() {
    let processor = newer().start();
    let mut client = Client::connect(processor.http());
    client.send(b"GET /stream HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 200);
    client.read_chunk().unwrap();
    drop(client);
    processor.stdout.wait_for_record("Restarting worker");
    processor.wait_ready();
    serves(&processor);
}

#[test]
fn an_endless_stream_with_a_bad_start_costs_the_worker_too() {
    let processor = newer().start();
    let answer = processor.get("/stream/99");
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("no final HTTP status"), "{}", answer.text());
    processor.stdout.wait_for_record("Restarting worker");
    processor.wait_ready();
    serves(&processor);
}

#[test]
fn a_slow_client_holds_a_stream_back() {
    let processor = newer().start();
    let mut client = Client::connect(processor.http());
    client.send(b"GET /stream HTTP/1.1\r\nHost: t\r\n\r\n");
    client.read_head().unwrap();
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", processor.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(500));
    assert!(memory() < 200_000, "{} kB", memory()); // Unbounded it would have taken gigabytes.
}

#[test]
fn a_stop_lets_the_callback_finish_however_long_it_is_silent() {
    let mut processor = setup().env("WRAPPER_CALLBACK_SECONDS", "1.5").start();
    serves(&processor);
    let begun = Instant::now();
    processor.signal(libc::SIGTERM);
    assert_eq!(processor.wait().code(), Some(0));
    processor.stderr.wait_closed();
    assert!(processor.stderr.text().contains("the callback has ended"));
    assert!(begun.elapsed() < Duration::from_secs(8), "it does not wait for the whole of the allowed 10 s");
}

#[test]
fn an_event_in_work_is_answered_before_the_callback_runs() {
    let mut processor = setup().start();
    let mut client = Client::connect(processor.http());
    client.send(b"GET /late/0.7 HTTP/1.1\r\nHost: t\r\n\r\n");
    wait_until("the event is in work", || processor.metric("nuclio_processor_events_in_flight", &[]) == 1.0);
    processor.signal(libc::SIGTERM);
    assert_eq!(client.read_answer(false).unwrap().text(), "late");
    assert_eq!(processor.wait().code(), Some(0));
    processor.stderr.wait_closed();
    assert!(processor.stderr.text().contains("the callback has ended"));
}
