//! Events that take too long, workers that are never ready, more events than there is room for.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Setup, alive, get, wait_until};
use crate::support::{c_library, plain_c_library};

#[test]
fn a_python_handler_that_hangs_is_answered_408_shows_its_stack_and_is_replaced() {
    let source = "
import time
def handler(context, event):
    if event.path == '/hang':
        return hang_here()
    return event.body
def hang_here():
    context = 0
    while True:
        time.sleep(1000)
";
    let setup =
        Setup::python(source).spec(json!({"eventTimeout": "400ms"})).trigger(json!({"numWorkers": 2}));
    let processor = setup.start();
    let children = processor.children();
    let mut client = Client::connect(processor.http());
    let begun = Instant::now();
    client.send_post("/hang", b"");
    for n in 0..5 {
        assert_eq!(processor.post("/", &n.to_string()).text(), n.to_string(), "the sibling is undisturbed");
    }
    let answer = client.read_answer(false).unwrap();
    let taken = begun.elapsed();
    assert_eq!((answer.status, answer.text().as_str()), (408, r#"{"error": "handler timed out"}"#));
    assert!(taken >= Duration::from_millis(395), "{taken:?}");
    assert!(taken < Duration::from_secs(3), "{taken:?}");
    processor.stderr.wait_for("the stack", |line| line.contains("hang_here"));
    processor.stdout.wait_for_record("Restarting worker due to timeout");
    wait_until("it is counted", || processor.restarts("timeout") == 1);
    assert_eq!(processor.metric("nuclio_processor_event_timeouts_total", &[]), 1.0);
    processor.wait_ready();
    wait_until("the old one is gone", || children.iter().filter(|pid| alive(**pid)).count() == 1);
    wait_until("the new one is there", || processor.children().len() == 2);
    for n in 0..10 {
        assert_eq!(processor.post("/", &n.to_string()).status, 200);
    }
    assert_eq!(processor.all_restarts(), 1);
    processor.wait_in_flight(0);
}

#[test]
fn events_written_ahead_of_one_that_times_out_are_handled_once_by_the_replacement() {
    let source = "
import time
def handler(context, event):
    if event.path == '/hang':
        time.sleep(1000)
    if event.body:
        with open('handled', 'a') as file:
            file.write(event.body.decode() + ' ')
    return event.body
";
    let setup = Setup::python(source).spec(json!({"eventTimeout": "400ms"}));
    let handled = setup.directory.path().join("handled");
    setup.write("main.py", &source.replace("'handled'", &format!("{:?}", handled.display().to_string())));
    let processor = setup.start();
    (0..50).for_each(|_| assert_eq!(processor.get("/").status, 200)); // Fast: events are written ahead from now on.
    let mut hanging = Client::connect(processor.http());
    hanging.send_post("/hang", b"");
    processor.wait_in_flight(1);
    let behind: Vec<_> = (0..6).map(|n| processor.send("/", &n.to_string())).collect();
    assert_eq!(hanging.read_answer(false).unwrap().status, 408);
    for (n, answer) in behind.into_iter().enumerate() {
        let answer = answer.join().unwrap();
        assert_eq!((answer.status, answer.text()), (200, n.to_string()));
    }
    let text = std::fs::read_to_string(&handled).unwrap();
    let mut seen: Vec<&str> = text.split_whitespace().collect();
    seen.sort_unstable();
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
    processor.wait_in_flight(0);
}

#[test]
fn a_handler_that_blocks_every_signal_it_can_is_killed_after_its_deadline() {
    let script = "
def each(id, path, body):
    if path == '/hang':
        for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(60)
        time.sleep(60)
    answer(id, body)
hello()
ready()
serve(each)
";
    let processor = Setup::fake_shim(script).spec(json!({"eventTimeout": "200ms"})).start();
    let pid = processor.children()[0];
    assert_eq!(processor.get("/hang").status, 408);
    wait_until("it is gone", || !alive(pid));
    assert_eq!(processor.post("/", "next").text(), "next");
}

#[test]
fn an_event_that_times_out_takes_none_of_the_waiting_ones_with_it() {
    let script = "
def each(id, path, body):
    if path == '/hang':
        log('holding')
        time.sleep(60)
    answer(id, body)
hello()
ready()
serve(each)
";
    let processor = Setup::fake_shim(script).spec(json!({"eventTimeout": "500ms"})).start();
    let hang = processor.send("/hang", "");
    processor.stdout.wait_for_record("holding");
    let others: Vec<_> = (0..5).map(|n| processor.send("/", &n.to_string())).collect();
    assert_eq!(hang.join().unwrap().status, 408);
    for (n, other) in others.into_iter().enumerate() {
        assert_eq!(other.join().unwrap().text(), n.to_string());
    }
    processor.wait_in_flight(0);
    processor.wait_waiting(0);
}

#[test]
fn an_answer_after_the_deadline_reaches_nobody() {
    let script = "
def each(id, path, body):
    if path == '/late':
        time.sleep(0.35)
        answer(id, b'late')
    answer(id, body)
hello()
ready()
serve(each)
";
    let processor = Setup::fake_shim(script).spec(json!({"eventTimeout": "300ms"})).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/late", b"");
    assert_eq!(client.read_answer(false).unwrap().status, 408);
    for n in 0..5 {
        client.send_post("/", n.to_string().as_bytes());
        assert_eq!(client.read_answer(false).unwrap().text(), n.to_string());
    }
}

#[test]
fn other_events_of_a_worker_that_timed_out_fail_and_say_so() {
    let script = "
hello(max_inflight='4')
ready()
serve(lambda id, path, body: log('holding ' + path))
";
    let setup = Setup::fake_shim(script)
        .spec(json!({"eventTimeout": "500ms"}))
        .trigger(json!({"mode": "async", "async": {"maxConnectionsNumber": 4}}));
    let processor = setup.start();
    let first = processor.send("/first", "");
    processor.stdout.wait_for_record("holding /first");
    let second = processor.send("/second", "");
    assert_eq!(first.join().unwrap().status, 408);
    let second = second.join().unwrap();
    assert!(second.status == 408 || second.text().contains("worker restarted"), "{}", second.text());
    processor.wait_in_flight(0);
}

#[test]
fn a_shim_that_is_never_ready_ends_the_start() {
    for script in
        ["time.sleep(60)", "hello()\ntime.sleep(60)", "hello()\nwhile True: log('loading'); time.sleep(0.01)"]
    {
        let mut processor =
            Setup::fake_shim(&format!("import faulthandler; faulthandler.enable()\n{script}\n"))
                .env("NUCLIO_WORKER_START_TIMEOUT", "400ms")
                .no_wait()
                .start();
        assert_eq!(processor.end().code(), Some(1));
        let text = processor.stderr.text();
        assert!(
            text.contains("not ready within 400ms") && text.contains("NUCLIO_WORKER_START_TIMEOUT"),
            "{text}"
        );
        assert!(text.contains("fake.py"), "its stack tells where it was: {text}");
    }
}

#[test]
fn more_events_than_may_wait_are_refused_at_once_and_the_others_answered() {
    let script = "
def each(id, path, body):
    if path == '/hold':
        log('holding')
        wait_for('go')
    answer(id, body)
hello(prefetch='0')
ready()
serve(each)
";
    let processor = Setup::fake_shim(script).env("NUCLIO_WAITING_EVENTS_MAX", "10").start();
    let held = processor.send("/hold", "held");
    processor.stdout.wait_for_record("holding");
    let mut clients: Vec<Client> = (0..50).map(|_| Client::connect(processor.http())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send_post("/", format!("token {n}").as_bytes());
    }
    wait_until("40 are refused while the worker is held", || {
        processor.metric("nuclio_processor_worker_allocation_total", &["error_timeout"]) as usize == 40
    });
    processor.wait_waiting(10);
    processor.touch("go");
    assert_eq!(held.join().unwrap().text(), "held");
    let mut refused = 0;
    for (n, client) in clients.iter_mut().enumerate() {
        let answer = client.read_answer(false).unwrap();
        if answer.status == 503 {
            assert_eq!(answer.header("Retry-After"), Some("1"));
            refused += 1;
        } else {
            assert_eq!((answer.status, answer.text()), (200, format!("token {n}")));
        }
    }
    assert_eq!(refused, 40);
    processor.wait_waiting(0);
}

#[test]
fn an_event_that_waited_too_long_gets_503_and_the_next_its_own_answer() {
    let script = "
def each(id, path, body):
    if path == '/hold':
        log('holding')
        wait_for('go')
    answer(id, body)
hello()
ready()
serve(each)
";
    let setup = Setup::fake_shim(script).trigger(json!({"workerAvailabilityTimeoutMilliseconds": 200}));
    let processor = setup.start();
    let held = processor.send("/hold", "held");
    processor.stdout.wait_for_record("holding");
    let late = processor.post("/", "late");
    assert_eq!((late.status, late.header("Retry-After")), (503, Some("1")));
    processor.touch("go");
    assert_eq!(held.join().unwrap().text(), "held");
    assert_eq!(processor.post("/", "next").text(), "next");
}

#[test]
fn side_servers_answer_while_every_handler_is_blocked() {
    let Some(library) = plain_c_library() else { return };
    let processor = Setup::library(&library).trigger(json!({"numWorkers": 8})).start();
    let go = processor.directory.path().join("go").display().to_string();
    let blocked: Vec<_> = (0..8).map(|_| processor.send("/block", &go)).collect();
    processor.wait_in_flight(8);
    for _ in 0..5 {
        assert_eq!((processor.health("/ready"), processor.health("/live")), (200, 200));
        assert_eq!(get(processor.ports.admin, "/triggers").unwrap().status, 200);
        assert_eq!(processor.get("/__internal/health").status, 200, "the trigger itself polls its sockets");
    }
    processor.touch("go");
    blocked.into_iter().for_each(|blocked| assert_eq!(blocked.join().unwrap().status, 200));
}

#[test]
fn side_servers_answer_while_python_handlers_burn_the_processor() {
    let source = "
import os
def handler(context, event):
    while not os.path.exists(os.path.dirname(__file__) + '/go'):
        sum(range(20000))
";
    let processor = Setup::python(source).trigger(json!({"numWorkers": 4})).start();
    let busy: Vec<_> = (0..4).map(|_| processor.send("/", "")).collect();
    processor.wait_in_flight(4);
    for _ in 0..5 {
        assert_eq!((processor.health("/ready"), processor.health("/live")), (200, 200));
        assert_eq!(processor.get("/__internal/health").status, 200);
    }
    processor.touch("go");
    busy.into_iter().for_each(|busy| assert_eq!(busy.join().unwrap().status, 200));
}

#[test]
fn calls_beyond_the_number_of_threads_block_neither_sockets_nor_timers() {
    let Some(library) = c_library("all-workers", &["-DTEST_ALL_WORKERS"]) else { return };
    let processor = Setup::library(&library).trigger(json!({"numWorkers": 300})).start();
    let go = processor.directory.path().join("go").display().to_string();
    let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(processor.http())).collect();
    clients.iter_mut().for_each(|client| client.send_post("/block", go.as_bytes()));
    processor.wait_in_flight(256);
    for _ in 0..5 {
        assert_eq!(processor.get("/__internal/health").status, 200);
    }
    processor.touch("go");
    clients.iter_mut().for_each(|client| assert_eq!(client.read_answer(false).unwrap().status, 200));
    processor.wait_in_flight(0);
}
