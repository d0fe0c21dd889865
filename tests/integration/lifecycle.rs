//! Starting and stopping: what signals do at any time, what is answered meanwhile, what is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Processor, Setup, alive, children_of, wait_until};
use crate::support::{c_library, plain_c_library};

const TERM: i32 = 15;
const INT: i32 = 2;
const ABRT: i32 = 6;

/// Holds an event for `/hold` until there is a file `go`.
const HOLD: &str = "
def each(id, path, body):
    if path == '/hold':
        log('holding')
        wait_for('go')
    answer(id, body or path.encode())
hello()
ready()
serve(each)
";

const ECHO: &str = "hello()\nready()\nserve(echo)\n";

fn hold() -> Setup {
    Setup::fake_shim(HOLD).spec(json!({"triggers": {"default-http": {"workerTerminationTimeout": "10s"}}}))
}

fn assert_gone(processor: &mut Processor, children: &[i32]) {
    assert_eq!(processor.end().code(), Some(0), "{}", processor.stderr.text());
    children.iter().for_each(|pid| wait_until("children are gone", || !alive(*pid)));
}

#[test]
fn a_stop_waits_for_the_event_in_work_and_the_events_that_wait() {
    for signal in [TERM, INT, ABRT] {
        let mut processor = hold().start();
        let children = processor.children();
        let held = processor.send("/hold", "held");
        processor.stdout.wait_for_record("holding");
        let waiting: Vec<_> = (0..4).map(|n| processor.send("/x", &format!("waiting {n}"))).collect();
        processor.wait_waiting(4);
        processor.signal(signal);
        wait_until("not ready any more", || processor.health("/ready") == 503);
        assert_eq!(processor.health("/live"), 200);
        processor.touch("go");
        let held = held.join().unwrap();
        assert_eq!((held.status, held.text().as_str()), (200, "held"));
        assert_eq!(held.header("Connection"), Some("close"));
        for (n, answer) in waiting.into_iter().enumerate() {
            assert_eq!(answer.join().unwrap().text(), format!("waiting {n}"));
        }
        assert_gone(&mut processor, &children);
        let record = processor.stdout.wait_for_record("Got system signal");
        let name = [(TERM, "terminated"), (INT, "interrupt"), (ABRT, "aborted")];
        assert_eq!(record["more"]["signal"], name.iter().find(|(number, _)| *number == signal).unwrap().1);
        processor.stdout.wait_for_record("Processor quitting");
    }
}

#[test]
fn an_event_whose_client_left_is_finished_before_the_end() {
    let script = HOLD.replace(
        "        wait_for('go')\n",
        "        wait_for('go')\n        open(HERE + '/done', 'w').close()\n",
    );
    let mut processor = Setup::fake_shim(&script).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/hold", b"");
    processor.stdout.wait_for_record("holding");
    // Nobody waits for these when their turn comes, the last of them least of all.
    let mut others: Vec<_> = (0..3).map(|_| Client::connect(processor.http())).collect();
    others.iter_mut().for_each(|other| other.send_post("/x", b"left"));
    processor.wait_waiting(3);
    drop((client, others));
    processor.signal(TERM);
    processor.stdout.wait_for_record("Got system signal");
    processor.touch("go");
    let begun = Instant::now();
    assert_eq!(processor.end().code(), Some(0));
    assert!(processor.directory.path().join("done").exists());
    assert!(!processor.stdout.text().contains("Stopping before everything has ended"));
    assert!(begun.elapsed() < Duration::from_secs(9), "it did not wait for its limit");
}

#[test]
fn an_idle_processor_stops_at_once() {
    for setup in [Setup::builtin(), Setup::fake_shim(ECHO)] {
        let mut processor = setup.start();
        assert_eq!(processor.get("/").status, 200);
        let children = processor.children();
        let begun = Instant::now();
        processor.signal(TERM);
        assert_gone(&mut processor, &children);
        // The reference sleeps for 5 s; nothing here may wait for a fixed time.
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}

#[test]
fn a_second_signal_skips_the_wait() {
    for second in [TERM, INT] {
        let mut processor = hold().start();
        let children = processor.children();
        let held = std::thread::spawn({
            let address = processor.http();
            move || {
                let mut client = Client::connect(address);
                client.send_post("/hold", b"");
                client.read_answer(false).is_ok_and(|answer| answer.status == 200)
            }
        });
        processor.stdout.wait_for_record("holding");
        processor.signal(TERM);
        processor.stdout.wait_for_record("Got system signal");
        wait_until("the first was seen", || processor.health("/ready") == 503);
        std::thread::sleep(Duration::from_millis(150)); // What comes sooner belongs to the first.
        processor.signal(second);
        assert_gone(&mut processor, &children);
        assert!(!held.join().unwrap(), "it was cut off");
        processor.stdout.wait_for_record("Stopping before everything has ended");
    }
}

/// `timeout` signals its child and then the group that the child is in.
#[test]
fn two_signals_at_once_are_one_request_to_stop() {
    let mut processor = hold().start();
    let mut client = Client::connect(processor.http());
    client.send_post("/hold", b"");
    processor.stdout.wait_for_record("holding");
    processor.signal(TERM);
    processor.signal(INT);
    processor.stdout.wait_for_record("Got system signal");
    wait_until("the stop has begun", || processor.health("/ready") == 503);
    std::thread::sleep(Duration::from_millis(150)); // A hurried stop would be over by now.
    processor.touch("go");
    assert_eq!(client.read_answer(false).unwrap().status, 200);
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn an_event_that_does_not_end_is_cut_off_at_the_termination_timeout() {
    let setup = hold().trigger(json!({"workerTerminationTimeout": "700ms"}));
    let mut processor = setup.start();
    let children = processor.children();
    let mut client = Client::connect(processor.http());
    client.send_post("/hold", b"");
    processor.stdout.wait_for_record("holding");
    let begun = Instant::now();
    processor.signal(TERM);
    assert_gone(&mut processor, &children);
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert!(begun.elapsed() < Duration::from_secs(10), "one limit bounds all of it: {:?}", begun.elapsed());
    if let Ok(answer) = client.read_answer(false) {
        assert_eq!(answer.status / 100, 5, "{}", answer.text());
    }
}

#[test]
fn a_termination_callback_runs_and_its_time_is_bounded() {
    let source = "
import os, time
def init_context(context):
    def ending():
        context.logger.info('ending')
        if os.environ.get('STUCK'):
            time.sleep(60)
        open(os.path.dirname(__file__) + '/ended', 'w').close()
    context.platform.set_termination_callback(ending)
def handler(context, event):
    return 'x'
";
    for stuck in [false, true] {
        let setup = Setup::python(source).trigger(json!({"workerTerminationTimeout": "700ms"}));
        let setup = if stuck { setup.env("STUCK", "1") } else { setup };
        let mut processor = setup.start();
        let children = processor.children();
        let begun = Instant::now();
        processor.signal(TERM);
        assert_gone(&mut processor, &children);
        processor.stdout.wait_for_record("ending");
        assert_eq!(processor.directory.path().join("ended").exists(), !stuck);
        if stuck {
            processor.stdout.wait_for_record("Termination callback took too long");
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_library_learns_of_the_end_and_cannot_delay_it_for_ever() {
    let Some(library) = plain_c_library() else { return };
    let mut processor = Setup::library(&library).start();
    processor.signal(TERM);
    assert_gone(&mut processor, &[]);
    processor.stdout.wait_for_record("terminating");
    let Some(library) = c_library("slow-end", &["-DTEST_SLOW_END"]) else { return };
    let mut processor =
        Setup::library(&library).trigger(json!({"workerTerminationTimeout": "500ms"})).start();
    processor.signal(TERM);
    assert_gone(&mut processor, &[]);
    processor.stdout.wait_for_record("terminating");
}

#[test]
fn a_library_is_stopped_once_after_its_last_worker_and_not_while_one_is_stuck() {
    let Some(library) = c_library("stop-speaks", &["-DTEST_STOP_SPEAKS"]) else { return };
    for (path, reason, expected) in [
        ("/echo", "", &["stopped with 0 workers left"][..]),
        ("/broken/code", "protocol", &["stopped with 0 workers left"]), // replaced, as all workers are stopped
        ("/block", "timeout", &[]),
    ] {
        let setup = Setup::library(&library)
            .spec(json!({"eventTimeout": "300ms"}))
            .trigger(json!({"numWorkers": 2, "workerTerminationTimeout": "1s"}));
        let mut processor = setup.start();
        processor.post(path, &processor.directory.path().join("never").display().to_string());
        if !reason.is_empty() {
            wait_until("it is replaced", || processor.restarts(reason) == 1);
            processor.wait_ready();
        }
        processor.signal(TERM);
        assert_gone(&mut processor, &[]);
        let lines = processor.stderr.lines();
        let said: Vec<_> = lines.iter().filter(|line| line.starts_with("stopped")).collect();
        assert_eq!(said, expected, "{path}");
    }
}

#[test]
fn a_stop_runs_no_destructors_under_a_call_that_does_not_return() {
    let Some(library) = c_library("destructor", &["-DTEST_DESTRUCTOR"]) else { return };
    for (path, expected) in [("/echo", true), ("/block", false)] {
        let setup = Setup::library(&library).spec(json!({"eventTimeout": "300ms"}));
        let mut processor = setup.trigger(json!({"workerTerminationTimeout": "1s"})).start();
        processor.post(path, &processor.directory.path().join("never").display().to_string());
        if !expected {
            wait_until("it is given up", || processor.restarts("timeout") == 1);
        }
        processor.signal(TERM);
        assert_gone(&mut processor, &[]);
        assert_eq!(processor.stderr.lines().iter().any(|line| line == "destroyed"), expected, "{path}");
    }
}

#[test]
fn a_stop_while_a_handler_is_loaded_ends_at_once_and_leaves_nobody() {
    let source = "import os, sys, time\nos.fork()\nsys.stderr.write('loading\\n')\ntime.sleep(60)\n";
    for signal in [TERM, INT, ABRT] {
        let mut processor = Setup::python(source).trigger(json!({"numWorkers": 2})).no_wait().start();
        processor.stderr.wait_for("loading", |line| line == "loading");
        wait_until("both are there", || {
            let all = processor.children();
            all.len() == 2 && all.iter().all(|pid| children_of(*pid as u32).len() == 1)
        });
        let children = processor.children();
        let grandchildren = children.iter().flat_map(|pid| children_of(*pid as u32)).collect::<Vec<_>>();
        assert_eq!((processor.health("/ready"), processor.health("/live")), (503, 200));
        processor.signal(signal);
        assert_gone(&mut processor, &[children, grandchildren].concat());
    }
}

#[test]
fn a_stop_while_a_library_starts_its_workers_ends_at_once() {
    let Some(library) = c_library("slow-start", &["-DTEST_SLOW_START"]) else { return };
    let mut processor = Setup::library(&library).no_wait().start();
    processor.stdout.wait_for_record("starting slowly");
    processor.signal(TERM);
    assert_gone(&mut processor, &[]);
}

#[test]
fn no_client_on_a_kept_connection_is_cut_between_request_and_answer() {
    for linger in ["0s", "300ms"] {
        let setup = Setup::python("def handler(context, event):\n    return event.body\n")
            .trigger(json!({"numWorkers": 2}))
            .env("NUCLIO_DRAIN_LINGER", linger);
        let mut processor = setup.start();
        let (answered, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let clients: Vec<_> = (0..8).map(|id| hammer(&processor, id, &answered, &stop)).collect();
        wait_until("all are at it", || answered.load(Ordering::Relaxed) > 200);
        processor.signal(TERM);
        assert_eq!(processor.wait().code(), Some(0));
        stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> =
            clients.into_iter().filter_map(|client| client.join().unwrap().err()).collect();
        assert!(failures.is_empty(), "{failures:?}");
    }
}

/// Sends one request after the other until the server says or shows that it closes; an error is a request whose bytes
/// had been sent on a connection that was open, and that got no complete answer.
fn hammer(
    processor: &Processor,
    id: usize,
    answered: &Arc<AtomicUsize>,
    stop: &Arc<AtomicBool>,
) -> std::thread::JoinHandle<Result<(), String>> {
    let (address, answered, stop) = (processor.http(), answered.clone(), stop.clone());
    let mut client = Client::connect(address);
    std::thread::spawn(move || {
        for number in 0.. {
            client.stream().set_nonblocking(true).unwrap();
            let closed = client.is_closed();
            client.stream().set_nonblocking(false).unwrap();
            if closed || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let token = format!("{id}-{number}");
            client.send_post("/", token.as_bytes());
            let answer = client.read_answer(false).map_err(|error| format!("{token}: {error}"))?;
            if (answer.status, answer.text()) != (200, token.clone()) {
                return Err(format!("{token}: {} {}", answer.status, answer.text()));
            }
            answered.fetch_add(1, Ordering::Relaxed);
            if answer.header("Connection") == Some("close") {
                return Ok(());
            }
        }
        Ok(())
    })
}

#[test]
fn during_linger_everything_is_served_and_every_answer_closes_its_connection() {
    let mut processor = Setup::fake_shim(ECHO).env("NUCLIO_DRAIN_LINGER", "1s").start();
    let mut kept = Client::connect(processor.http());
    kept.send_post("/", b"before");
    assert_eq!(kept.read_answer(false).unwrap().header("Connection"), None);
    processor.signal(TERM);
    wait_until("not ready any more", || processor.health("/ready") == 503);
    let fresh = processor.post("/", "fresh");
    assert_eq!((fresh.text().as_str(), fresh.header("Connection")), ("fresh", Some("close")));
    assert_eq!(processor.get("/__internal/health").status, 503);
    wait_until("the kept connection knows", || {
        processor.post("/", "x").header("Connection") == Some("close")
    });
    kept.send_post("/", b"after");
    let answer = kept.read_answer(false).unwrap();
    assert_eq!((answer.text().as_str(), answer.header("Connection")), ("after", Some("close")));
    assert!(kept.is_closed());
    assert_eq!(processor.wait().code(), Some(0));
}

#[test]
fn a_stream_that_is_not_sent_because_of_its_status_keeps_no_connection_open() {
    let handler = "
def handler(context, event):
    def pieces():
        yield b'x'
    return context.Response(status_code=int(event.path[1:]), body=pieces())
";
    for status in ["204", "304"] {
        let mut processor = Setup::python(handler).start();
        let mut kept = Client::connect(processor.http());
        kept.send(format!("GET /{status} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert_eq!(kept.read_answer(false).unwrap().status.to_string(), status);
        processor.signal(TERM);
        assert_eq!(processor.end().code(), Some(0));
        assert!(kept.is_closed());
        let text = processor.stdout.text();
        assert!(!text.contains("Stopping before everything has ended"), "{text}");
    }
}

#[test]
fn an_idle_kept_connection_gets_one_more_request_in_and_is_closed_then() {
    let mut processor = Setup::fake_shim(ECHO).start();
    let mut used = Client::connect(processor.http());
    let mut unused = Client::connect(processor.http());
    used.send_post("/", b"1");
    used.read_answer(false).unwrap();
    processor.signal(TERM);
    wait_until("not ready any more", || processor.health("/ready") == 503);
    used.send_post("/", b"last");
    let answer = used.read_answer(false).unwrap();
    assert_eq!((answer.text().as_str(), answer.header("Connection")), ("last", Some("close")));
    assert!(unused.is_closed(), "closed without a byte");
    assert_eq!(processor.wait().code(), Some(0));
}

#[test]
fn a_request_whose_body_is_still_arriving_is_served() {
    let mut processor = Setup::fake_shim(ECHO).start();
    let mut client = Client::connect(processor.http());
    client.send(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n01234");
    assert_eq!(processor.get("/").status, 200);
    processor.signal(TERM);
    wait_until("not ready any more", || processor.health("/ready") == 503);
    client.send(b"56789");
    let answer = client.read_answer(false).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "0123456789"));
    assert_eq!(processor.wait().code(), Some(0));
}

#[test]
fn a_stop_while_no_worker_can_be_started_ends() {
    let script = "
if start_number() > 1:
    time.sleep(60)
hello()
ready()
serve(lambda id, path, body: os._exit(6))
";
    let mut processor = Setup::fake_shim(script).start();
    assert_eq!(processor.get("/").status, 500);
    wait_until("the next one starts", || processor.directory.path().join("start-2").exists());
    let children = processor.children();
    processor.signal(TERM);
    assert_gone(&mut processor, &children);
}
