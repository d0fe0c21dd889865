//! A wrapper of shim protocol 1 in async mode: many events at once over many connections, each of them replaceable.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Answer, Processor, Setup, wait_until};

fn start(spec: serde_json::Value) -> Processor {
    let setup = Setup::python("");
    setup.write("wrapper.py", include_str!("../handlers/python/wrapper_v1/wrapper.py"));
    setup.write("_nuclio_async_wrapper.py", include_str!("../handlers/python/wrapper_v1/async_wrapper.py"));
    setup.write("wrapper_common.py", "# A generator is answered piece by piece.\n");
    let path = setup.directory.path().join("wrapper.py").display().to_string();
    let asynchronous = json!({"mode": "async", "async": {"maxConnectionsNumber": 40}});
    setup.env("NUCLIO_PYTHON_WRAPPER_PATH", &path).trigger(asynchronous).spec(spec).start()
}

fn post(processor: &Processor, path: &str, body: &[u8]) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", body.len());
    processor.request(&head, body)
}

#[test]
fn many_events_are_in_work_at_once_and_connections_are_opened_as_they_are_needed() {
    let processor = start(json!({}));
    let connections = || processor.get("/connections").text().parse::<usize>().unwrap();
    assert!(connections() <= 8, "no more than a few before there is anything to do");
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..60 {
            scope.spawn(|| assert_eq!(processor.get("/late/0.5").text(), "late"));
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "one after the other takes 30 s");
    assert!((20..=40).contains(&connections()), "{}", connections());
    assert_eq!(processor.children().len(), 1);
}

#[test]
fn large_and_small_bodies_arrive_whole_side_by_side() {
    let processor = start(json!({}));
    thread::scope(|scope| {
        for number in 0..24_usize {
            let processor = &processor;
            scope.spawn(move || {
                let size = if number % 4 == 0 { 1 << 20 } else { 10 + number };
                let body = vec![b'a' + number as u8; size];
                let answer = post(processor, "/echo", &body);
                assert!(answer.status == 200 && answer.body == body, "{number}: {}", answer.status);
            });
        }
    });
}

#[test]
fn an_event_that_times_out_costs_its_connection_and_the_others_go_on() {
    let processor = start(json!({"eventTimeout": "1s"}));
    let pids = processor.children();
    thread::scope(|scope| {
        let late = scope.spawn(|| processor.get("/late/30"));
        assert_eq!(processor.get("/late/0.4").text(), "late");
        assert_eq!(late.join().unwrap().status, 408);
    });
    assert_eq!(post(&processor, "/echo", b"alive").text(), "alive");
    assert_eq!(processor.children(), pids);
}

#[test]
fn a_connection_that_the_wrapper_closes_is_replaced() {
    let processor = start(json!({}));
    let pids = processor.children();
    for _ in 0..10 {
        let answer = processor.get("/close");
        assert_eq!(answer.status, 500);
        assert!(answer.text().contains("closed the connection"), "{}", answer.text());
    }
    assert_eq!(post(&processor, "/echo", b"alive").text(), "alive");
    assert_eq!(processor.children(), pids);
}

#[test]
fn a_wrapper_that_never_stops_talking_keeps_no_caller_waiting() {
    let processor = start(json!({}));
    assert_eq!(processor.get("/chatter").text(), "chatters");
    let answer = processor.get("/close");
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("closed the connection"), "{}", answer.text());
}

#[test]
fn a_second_answer_costs_its_connection_only() {
    let processor = start(json!({}));
    let pids = processor.children();
    assert_eq!(processor.get("/again").text(), "first");
    processor.stdout.wait_for_record("Connection to the wrapper is replaced");
    assert_eq!(post(&processor, "/echo", b"alive").text(), "alive");
    assert_eq!(processor.children(), pids);
}

#[test]
fn an_exit_fails_all_events_of_the_process_and_a_new_one_serves() {
    let processor = start(json!({}));
    thread::scope(|scope| {
        let other = scope.spawn(|| processor.get("/late/20"));
        wait_until("it is in work", || processor.metric("nuclio_processor_events_in_flight", &[]) == 1.0);
        for answer in [processor.get("/exit/7"), other.join().unwrap()] {
            assert_eq!(answer.status, 500);
            assert!(answer.text().contains("exited with code 7"), "{}", answer.text());
        }
    });
    processor.wait_ready();
    assert_eq!(post(&processor, "/echo", b"alive").text(), "alive");
}

#[test]
fn a_stop_answers_what_is_in_work_then_runs_the_callback_once() {
    let mut processor = start(json!({}));
    let address = processor.http();
    let late = thread::spawn(move || {
        let mut client = crate::harness::Client::connect(address);
        client.send(b"GET /late/0.7 HTTP/1.1\r\nHost: t\r\n\r\n");
        client.read_answer(false).unwrap().text()
    });
    wait_until("it is in work", || processor.metric("nuclio_processor_events_in_flight", &[]) == 1.0);
    let begun = Instant::now();
    processor.signal(libc::SIGTERM);
    assert_eq!(late.join().unwrap(), "late");
    assert_eq!(processor.wait().code(), Some(0));
    processor.stdout.wait_closed();
    assert_eq!(processor.stdout.text().matches("the callback has ended").count(), 1);
    assert!(begun.elapsed() < Duration::from_secs(8), "it does not wait for the whole of the allowed 10 s");
}

#[test]
fn without_its_async_form_a_wrapper_takes_one_event_at_a_time_and_the_log_says_so() {
    let setup = Setup::python("");
    setup.write("wrapper.py", include_str!("../handlers/python/wrapper_v1/wrapper.py"));
    let path = setup.directory.path().join("wrapper.py").display().to_string();
    let processor = setup.env("NUCLIO_PYTHON_WRAPPER_PATH", &path).trigger(json!({"mode": "async"})).start();
    processor.stdout.wait_for_record("Fewer events in work per worker than mode: async asks for");
    assert_eq!(post(&processor, "/echo", b"alive").text(), "alive");
}
