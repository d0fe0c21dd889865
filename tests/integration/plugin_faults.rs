//! Handlers in our own process: blocked, stuck, panicking, broken, crashing.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread::JoinHandle;

use serde_json::json;

use crate::harness::{Answer, Client, Processor, Setup, get, wait_until};
use crate::support::{c_library, cpp_library, plain_c_library, rust_library};

fn go(processor: &Processor) -> String {
    processor.directory.path().join("go").display().to_string()
}

/// A processor, before anything or after so many short calls that the next one is made where its request was read.
fn started(setup: Setup, warmed_up: bool) -> Processor {
    let processor = setup.start();
    if warmed_up {
        warm_up(&processor);
    }
    processor
}

/// Four calls that wait for a worker.
fn four_waiting(processor: &Processor) -> Vec<JoinHandle<Answer>> {
    let waiting = (0..4).map(|n| processor.send("/echo", &n.to_string())).collect();
    processor.wait_waiting(4);
    waiting
}

fn each_has_its_own_answer(waiting: Vec<JoinHandle<Answer>>) {
    for (n, answer) in waiting.into_iter().enumerate() {
        assert_eq!(answer.join().unwrap().text(), n.to_string());
    }
}

fn warm_up(processor: &Processor) {
    let mut client = Client::connect(processor.http());
    for n in 0..400 {
        client.send_post("/echo", n.to_string().as_bytes());
        assert_eq!(client.read_answer(false).unwrap().text(), n.to_string());
    }
}

#[test]
fn a_blocked_call_is_answered_408_while_others_are_served() {
    let Some(library) = plain_c_library() else { return };
    let setup =
        Setup::library(&library).spec(json!({"eventTimeout": "300ms"})).trigger(json!({"numWorkers": 2}));
    let processor = setup.start();
    let blocked = processor.send("/block", &go(&processor));
    processor.stdout.wait_for_record("blocking");
    for n in 0..10 {
        assert_eq!(processor.post("/echo", &n.to_string()).text(), n.to_string());
    }
    let blocked = blocked.join().unwrap();
    assert_eq!((blocked.status, blocked.text().as_str()), (408, r#"{"error": "handler timed out"}"#));
    processor.stdout.wait_for_record("Handler does not return; its thread is given up");
    wait_until("it is replaced", || processor.restarts("timeout") == 1);
    processor.wait_ready();
    processor.wait_in_flight(0);
    // Both places serve again, though the old call still blocks.
    let again: Vec<_> = (0..2).map(|_| processor.send("/sleep", "")).collect();
    again.into_iter().for_each(|again| assert_eq!(again.join().unwrap().status, 200));
    processor.touch("go");
    assert_eq!(processor.post("/echo", "after").text(), "after");
    assert_eq!(processor.all_restarts(), 1);
}

#[test]
fn a_piece_of_a_stream_arrives_while_the_handler_is_blocked_over_the_next() {
    let Some(library) = plain_c_library() else { return };
    let processor = Setup::library(&library).start();
    for n in 0..20 {
        if n % 4 == 0 {
            warm_up(&processor);
        }
        let name = format!("go{n}");
        let mut client = Client::connect(processor.http());
        client.send_post(
            "/stream-waits",
            processor.directory.path().join(&name).display().to_string().as_bytes(),
        );
        assert_eq!(client.read_head().unwrap().status, 200);
        assert_eq!(client.read_chunk().unwrap().unwrap(), b"first");
        processor.touch(&name);
        assert_eq!(client.read_chunk().unwrap().unwrap(), b"second");
        assert_eq!(client.read_chunk().unwrap(), None);
    }
}

#[test]
fn a_call_that_returns_soon_after_its_deadline_keeps_its_worker() {
    let Some(library) = plain_c_library() else { return };
    let processor = Setup::library(&library).spec(json!({"eventTimeout": "20ms"})).start();
    for n in 0..5 {
        assert_eq!(processor.get("/sleep").status, 408);
        assert_eq!(processor.post("/echo", &n.to_string()).text(), n.to_string());
    }
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn calls_stuck_beyond_the_limit_turn_liveness_false_and_the_rest_goes_on() {
    let Some(library) = plain_c_library() else { return };
    let setup = Setup::library(&library)
        .spec(json!({"eventTimeout": "100ms"}))
        .trigger(json!({"numWorkers": 3}))
        .env("NUCLIO_STUCK_THREADS_MAX", "1");
    let mut processor = setup.start();
    for stuck in 1..=2 {
        assert_eq!(processor.post("/block", &go(&processor)).status, 408);
        wait_until("it is counted", || processor.restarts("timeout") == stuck);
        if stuck == 1 {
            processor.wait_ready();
            assert_eq!(processor.health("/live"), 200);
        }
    }
    wait_until("it says so", || processor.health("/live") == 503);
    let reasons = get(processor.ports.health, "/live?verbose=1").unwrap().json();
    assert_eq!(reasons["reasons"][0]["code"], "stuck", "{reasons}");
    for n in 0..4 {
        assert_eq!(processor.post("/echo", &n.to_string()).text(), n.to_string());
    }
    processor.touch("go");
    wait_until("the calls have returned", || processor.health("/live") == 200);
    wait_until("all workers are back", || {
        let workers = get(processor.ports.admin, "/triggers/default-http/stats").unwrap().text();
        workers.matches(r#""state":"ready""#).count() == 3
    });
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
}

#[test]
fn a_client_that_leaves_a_blocked_call_shifts_no_answer() {
    let Some(library) = plain_c_library() else { return };
    for warmed_up in [false, true] {
        let processor = started(Setup::library(&library), warmed_up);
        let mut client = Client::connect(processor.http());
        client.send_post("/block", go(&processor).as_bytes());
        processor.stdout.wait_for_record("blocking");
        drop(client);
        let others = four_waiting(&processor);
        processor.touch("go");
        each_has_its_own_answer(others);
        processor.wait_in_flight(0);
    }
}

#[test]
fn a_call_that_blocks_after_short_ones_holds_back_nobody_else() {
    let Some(library) = plain_c_library() else { return };
    let processor = started(Setup::library(&library).trigger(json!({"numWorkers": 8})), true);
    // In one packet: what is before the blocked call is answered, what is behind it waits.
    let request = |path: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let go = go(&processor);
    let mut first = Client::connect(processor.http());
    first.send(
        (request("/echo", "before") + &request("/block", &go) + &request("/echo", "behind")).as_bytes(),
    );
    assert_eq!(first.read_answer(false).unwrap().text(), "before");
    processor.stdout.wait_for_record("blocking");
    warm_up(&processor);
    let others: Vec<_> = (1..7).map(|_| processor.send("/block", &go)).collect();
    processor.wait_in_flight(7);
    for n in 0..20 {
        assert_eq!(processor.post("/echo", &n.to_string()).text(), n.to_string(), "one worker is left");
    }
    let last = processor.send("/block", &go);
    processor.wait_in_flight(8);
    let waiting = four_waiting(&processor);
    assert_eq!(processor.get("/__internal/health").status, 200, "sockets are polled");
    processor.touch("go");
    assert_eq!(first.read_answer(false).unwrap().status, 200);
    assert_eq!(first.read_answer(false).unwrap().text(), "behind");
    for other in others.into_iter().chain([last]) {
        assert_eq!(other.join().unwrap().status, 200);
    }
    each_has_its_own_answer(waiting);
    processor.wait_in_flight(0);
}

#[test]
fn a_worker_that_breaks_the_abi_is_replaced() {
    let Some(library) = plain_c_library() else { return };
    for warmed_up in [false, true] {
        check_broken(&started(Setup::library(&library), warmed_up));
    }
}

fn check_broken(processor: &Processor) {
    for (round, path) in
        ["/broken/code", "/broken/body", "/broken/headers", "/broken/stream"].iter().enumerate()
    {
        let answer = processor.get(path);
        assert_eq!(answer.status, 500, "{path}");
        assert!(answer.text().contains("the handler"), "{path}: {}", answer.text());
        wait_until("it is replaced", || processor.restarts("protocol") == round + 1);
        assert_eq!(processor.post("/echo", path).text(), *path);
    }
    processor.wait_ready();
    processor.wait_in_flight(0);
}

#[test]
fn a_worker_whose_replacement_fails_to_start_is_replaced_later() {
    let Some(library) = c_library("second-start", &["-DTEST_SECOND_START_FAILS"]) else { return };
    let processor = Setup::library(&library).start();
    assert_eq!(processor.get("/broken/code").status, 500);
    let record = processor.stdout.wait_for_record("Can't restart worker");
    assert!(record["more"]["err"].as_str().unwrap().contains("not this time"), "{record}");
    assert_eq!(processor.post("/echo", "waited for it").text(), "waited for it");
    processor.wait_ready();
    assert_eq!(processor.restarts("protocol"), 1);
}

/// Every path, what comes of it, and that the worker is the same afterwards.
fn check_contained(library: &Path, cases: &[(&str, u16, &str)]) {
    let processor = Setup::library(library).start();
    for (path, status, text) in cases {
        let answer = processor.get(path);
        assert_eq!(answer.status, *status, "{path}");
        assert!(answer.text().contains(text), "{path}: {}", answer.text());
    }
    assert_eq!(processor.all_restarts(), 0);
    assert_eq!(processor.post("/echo", "still here").text(), "still here");
}

#[test]
fn exceptions_of_cpp_handlers_are_contained() {
    let Some(library) = cpp_library() else { return };
    let cases = [
        ("/error", 500, "it broke"),
        ("/error-status", 404, "no such thing"),
        ("/panic", 500, "boom"),
        ("/panic-int", 500, ""),
        ("/stream", 200, "chunk3;chunk2;chunk1;"),
    ];
    check_contained(&library, &cases);
}

#[test]
fn panics_of_rust_handlers_are_contained() {
    let Some(library) = rust_library() else { return };
    let processor = Setup::library(&library).start();
    let panic = r#"{"kind": "panic", "message": "all is lost"}"#;
    let answer = processor.request(&format!("GET / HTTP/1.1\r\nX-Behaviour: {panic}\r\n\r\n"), b"");
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("all is lost"), "{}", answer.text());
    assert_eq!(processor.post("/echo", "still here").text(), "still here");
    assert_eq!(processor.get("/stream").text(), "chunk3;chunk2;chunk1;");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_stream_that_fails_cuts_the_connection_and_keeps_the_worker() {
    let Some(library) = plain_c_library() else { return };
    let processor = Setup::library(&library).start();
    for _ in 0..3 {
        let mut client = Client::connect(processor.http());
        client.send_post("/stream-fails", b"");
        assert!(client.read_answer(false).is_err(), "no end of the chunks");
        assert_eq!(processor.get("/stream").text(), "chunk3;chunk2;chunk1;");
    }
    assert_eq!(processor.metric("nuclio_processor_streams_total", &["failure"]), 3.0);
    processor.wait_in_flight(0);
}

#[test]
fn a_stream_whose_client_stalls_is_cut_at_its_deadline_and_its_worker_serves_others() {
    let Some(library) = plain_c_library() else { return };
    let setup = Setup::library(&library).spec(json!({"eventTimeout": "300ms"}));
    let processor = setup.trigger(json!({"workerAvailabilityTimeoutMilliseconds": 20000})).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/stream-endless", b"");
    assert_eq!(client.read_head().unwrap().status, 200);
    let sent = std::time::Instant::now();
    assert_eq!(processor.post("/echo", "next").text(), "next");
    assert!(sent.elapsed() < std::time::Duration::from_secs(5), "{:?}", sent.elapsed());
    let end = loop {
        match client.read_chunk() {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_err(), "what was cut does not look whole");
    assert_eq!(processor.all_restarts(), 0, "the handler always returned at once");
    assert_eq!(processor.metric("nuclio_processor_streams_total", &["failure"]), 1.0);
    processor.wait_in_flight(0);
}

#[test]
fn streams_whose_clients_stall_keep_no_call_from_being_made() {
    let Some(library) = c_library("stalled-streams", &["-DTEST_ALL_WORKERS"]) else { return };
    let processor = Setup::library(&library).trigger(json!({"numWorkers": 300})).start();
    // More than may call at once.
    let clients: Vec<_> = (0..260)
        .map(|_| {
            let mut client = Client::connect(processor.http());
            client.send_post("/stream-endless", b"");
            client.read_head().unwrap();
            client
        })
        .collect();
    assert_eq!(processor.post("/echo", "next").text(), "next");
    drop(clients);
    processor.wait_in_flight(0);
}

/// A fault ends the processor; it says of what, where and what would help.
fn check_crash(library: &Path, path: &str, signal: i32, name: &str) {
    let mut processor = Setup::library(library).start();
    let mut client = Client::connect(processor.http());
    client.send_post(path, b"");
    assert!(client.read_answer(false).is_err());
    let status = processor.end();
    assert_eq!(status.signal(), Some(signal), "{status}");
    let text = processor.stderr.text();
    for part in [name, "in the handler", &library.display().to_string(), "handlerForm: executable"] {
        assert!(text.contains(part), "no {part} in {text:?}");
    }
}

#[test]
fn a_memory_fault_of_a_handler_ends_the_processor_which_says_why() {
    let Some(library) = plain_c_library() else { return };
    check_crash(&library, "/crash", 11, "SIGSEGV");
    let Some(library) = c_library("fixed", &["-DTEST_FEATURES=NH_FEATURE_FIXED_THREAD"]) else { return };
    check_crash(&library, "/crash", 11, "SIGSEGV");
}

#[test]
fn an_abort_of_a_handler_ends_the_processor_which_says_why() {
    let Some(library) = plain_c_library() else { return };
    check_crash(&library, "/abort", 6, "SIGABRT");
}
