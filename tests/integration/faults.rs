//! What a shim can do wrong, one fault at a time: exactly the event it held fails, with a text that says why, every
//! other event is answered, the worker is replaced and counted.

use std::path::Path;

use serde_json::json;

use crate::harness::{Answer, Client, Processor, Setup, alive, get, wait_until};
use crate::support::kill;

/// A shim that echoes; an event for `/fault` is held until the test says go, then the fault happens.
fn faulty(fault: &str) -> Setup {
    let fault = fault.trim().replace('\n', "\n        ");
    Setup::fake_shim(&format!(
        r#"
def each(id, path, body):
    if path == "/fault":
        log("holding")
        wait_for("go")
        {fault}
    else:
        echo(id, path, body)


hello()
ready()
serve(each)
"#
    ))
}

/// Lets the fault happen while five more events wait.
fn check_fault(setup: Setup, cause: &str, reason: &str) -> Processor {
    let processor = setup.start();
    let before = processor.children();
    let answer = fault_among_others(&processor, cause);
    assert_eq!(answer.status, 500, "{}", answer.text());
    wait_until("it is counted", || processor.restarts(reason) == 1);
    assert_eq!(processor.all_restarts(), 1);
    processor.wait_ready();
    assert_eq!(processor.children().len(), 1, "one process in the place of the other");
    before.iter().for_each(|pid| {
        wait_until("the old process is gone", || !Path::new(&format!("/proc/{pid}")).exists())
    });
    processor.wait_in_flight(0);
    processor.wait_waiting(0);
    processor
}

/// The answer to the faulty event; the others have been checked.
fn fault_among_others(processor: &Processor, cause: &str) -> Answer {
    let faulty = processor.send("/fault", "");
    processor.stdout.wait_for_record("holding");
    let others: Vec<_> =
        (0..5).map(|n| (format!("token {n}"), processor.send("/ok", &format!("token {n}")))).collect();
    processor.wait_waiting(5);
    processor.touch("go");
    let answer = faulty.join().unwrap();
    assert!(answer.text().contains(cause), "{:?} in {}", cause, answer.text());
    for (token, other) in others {
        let other = other.join().unwrap();
        assert_eq!((other.status, other.text()), (200, token));
    }
    answer
}

#[test]
fn a_shim_that_exits_in_the_middle_of_an_event_fails_that_event_alone() {
    check_fault(faulty("os._exit(3)"), "exited with code 3", "exit");
}

#[test]
fn a_shim_that_exits_with_code_0_is_replaced_like_any_other() {
    let processor = check_fault(faulty("os._exit(0)"), "exited with code 0", "exit");
    let record = processor.stdout.wait_for_record("Unexpected termination of child process");
    assert_eq!(record["more"]["exitCode"], 0, "{record}");
}

#[test]
fn a_shim_killed_in_the_middle_of_an_event_fails_that_event_alone() {
    check_fault(faulty("os.kill(os.getpid(), 9)"), "killed by signal 9 (SIGKILL)", "signal");
}

#[test]
fn a_shim_that_crashes_tells_the_signal() {
    check_fault(faulty("os.kill(os.getpid(), 11)"), "killed by signal 11 (SIGSEGV)", "signal");
}

#[test]
fn half_a_frame_and_the_end_is_a_lost_worker() {
    check_fault(
        faulty("send(frame(0x83, id, bytes(8), b'x' * 100)[:50])\nos._exit(0)"),
        "exited with code 0",
        "exit",
    );
}

#[test]
fn half_a_header_and_the_end_is_a_lost_worker() {
    check_fault(faulty("send(frame(0x83, id, bytes(8))[:7])\nos._exit(1)"), "exited with code 1", "exit");
}

#[test]
fn a_frame_that_never_ends_is_a_lost_worker_once_its_shim_ends() {
    check_fault(
        faulty("send(struct.pack('<IBBHII', 1 << 29, 0x83, 0, 200, id, 8) + bytes(100000))\nos._exit(1)"),
        "exited with code 1",
        "exit",
    );
}

#[test]
fn a_frame_larger_than_any_may_be_breaks_the_protocol() {
    check_fault(
        faulty("send(struct.pack('<IBBHII', (1 << 30) + 1, 0x83, 0, 200, id, 8))\ntime.sleep(60)"),
        "impossible frame header",
        "protocol",
    );
}

#[test]
fn garbage_in_the_place_of_a_frame_breaks_the_protocol() {
    check_fault(
        faulty("send(b'Traceback (most recent call last):')\ntime.sleep(60)"),
        "impossible frame header",
        "protocol",
    );
}

#[test]
fn a_frame_in_the_wrong_direction_breaks_the_protocol() {
    check_fault(faulty("send(frame(0x03, id))\ntime.sleep(60)"), "impossible frame header", "protocol");
}

#[test]
fn an_unknown_kind_that_must_not_be_skipped_breaks_the_protocol() {
    check_fault(faulty("send(frame(0xf0, id))\ntime.sleep(60)"), "unknown frame kind 0xf0", "protocol");
}

#[test]
fn an_answer_to_an_unknown_event_breaks_the_protocol() {
    check_fault(
        faulty("answer(777, b'whose?')\ntime.sleep(60)"),
        "answer to event 777, which is not open",
        "protocol",
    );
}

#[test]
fn an_answer_whose_head_is_too_short_breaks_the_protocol() {
    check_fault(
        faulty("send(frame(0x83, id, b'abc'))\ntime.sleep(60)"),
        "head shorter than 8 bytes",
        "protocol",
    );
}

#[test]
fn an_answer_with_fewer_texts_than_announced_breaks_the_protocol() {
    check_fault(
        faulty("send(frame(0x83, id, struct.pack('<IHH', 0, 9, 0) + b'text/plain'))\ntime.sleep(60)"),
        "fewer texts than header pairs announced",
        "protocol",
    );
}

#[test]
fn a_shim_that_says_it_cannot_go_on_is_believed() {
    let processor = check_fault(
        faulty("send(frame(0x8f, body=b'out of ideas', code=4))\ntime.sleep(60)"),
        "out of ideas",
        "protocol",
    );
    let record = processor.stdout.wait_for_record("The shim cannot go on");
    assert_eq!(record["more"]["err"], "out of ideas", "{record}");
}

#[test]
fn a_shim_that_closes_its_socket_and_lives_on_is_replaced() {
    check_fault(faulty("S.close()\ntime.sleep(60)"), "closed its connection", "exit");
}

#[test]
fn a_second_answer_to_one_event_never_reaches_another() {
    // Both in one write, and the second one when the next event is open already.
    for late in ["", "time.sleep(0.05)\n"] {
        let fault = format!("answer(id, b'first')\n{late}answer(id, b'second')\ntime.sleep(60)");
        let processor = faulty(&fault).start();
        let faulty = processor.send("/fault", "");
        processor.stdout.wait_for_record("holding");
        let next = processor.send("/ok", "own");
        processor.wait_waiting(1);
        processor.touch("go");
        assert_eq!(faulty.join().unwrap().text(), "first");
        let next = next.join().unwrap();
        assert!(next.text() == "own" || next.status == 500, "{} {}", next.status, next.text());
        wait_until("it is counted", || processor.restarts("protocol") == 1);
    }
}

#[test]
fn an_unknown_kind_that_may_be_skipped_is_skipped() {
    let processor = faulty("send(frame(0xf0, id, b'', b'new', 0, 0x80))\nanswer(id, b'fine')").start();
    processor.touch("go");
    assert_eq!(processor.get("/fault").text(), "fine");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn an_answer_without_a_legal_status_fails_that_event_and_keeps_the_worker() {
    let processor = faulty("answer(id, b'', int(body))").start();
    processor.touch("go");
    for (status, expected) in [("0", 200), ("299", 299), ("101", 500), ("1000", 500), ("65535", 500)] {
        let answer = processor.post("/fault", status);
        assert_eq!(answer.status, expected, "{status}: {}", answer.text());
    }
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_shim_killed_while_idle_costs_no_event() {
    let processor = Setup::fake_shim("hello()\nready()\nserve(echo)\n").start();
    for round in 1..=5 {
        let pid = processor.children()[0];
        kill(pid);
        wait_until("it is counted", || processor.restarts("signal") == round);
        let answer = processor.post("/", "after");
        assert_eq!((answer.status, answer.text().as_str()), (200, "after"));
    }
}

#[test]
fn something_forked_that_holds_the_socket_keeps_no_event() {
    let fault = "if os.fork() == 0:\n    time.sleep(60)\nos._exit(4)";
    check_fault(faulty(fault), "exited with code 4", "exit");
}

#[test]
fn something_forked_in_a_session_of_its_own_that_holds_the_socket_keeps_no_event() {
    let fault = "pid = os.fork()\nif pid == 0:\n    os.setsid()\n    log('forked')\n    wait_for('end')\n    os._exit(0)\nos._exit(4)";
    let processor = check_fault(faulty(fault), "exited with code 4", "exit");
    processor.touch("end");
}

#[test]
fn a_shim_that_stops_reading_fails_the_event_at_its_deadline() {
    let setup = Setup::fake_shim(
        "hello()\nready()\nif start_number() == 1:\n    read(16)\n    time.sleep(60)\nserve(echo)\n",
    );
    let processor = setup.spec(json!({"eventTimeout": "300ms"})).start();
    let body = "x".repeat(4_000_000);
    let answer = processor.post("/", &body);
    assert_eq!(answer.status, 408, "{}", answer.text());
    wait_until("it is counted", || processor.restarts("timeout") == 1);
    let answer = processor.post("/", &body);
    assert_eq!((answer.status, answer.body.len()), (200, body.len()));
}

#[test]
fn a_slow_reader_gets_all_of_a_large_body() {
    let script = "
class Slow:
    def recv(self, count):
        time.sleep(0.0005)
        return REAL.recv(min(count, 20000))
    def sendall(self, data):
        REAL.sendall(data)
hello()
ready()
REAL, S = S, Slow()
serve(echo)
";
    let processor = Setup::fake_shim(script).start();
    let body: String = (0..300_000).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    assert!(processor.post("/", &body).text() == body);
}

#[test]
fn a_flood_of_log_records_delays_no_deadline_and_no_other_worker() {
    let script = r#"
def each(id, path, body):
    if path == "/flood":
        record = frame(0x86, 0, struct.pack("<q", 0) + b"flood" * 20, b"", 0) * 200
        while True:
            send(record)
    echo(id, path, body)

hello()
ready()
serve(each)
"#;
    let setup =
        Setup::fake_shim(script).spec(json!({"eventTimeout": "500ms"})).trigger(json!({"numWorkers": 2}));
    let processor = setup.start();
    let flood = processor.send("/flood", "");
    processor.stdout.wait_for("a record", |line| line.contains("floodflood"));
    for n in 0..10 {
        assert_eq!(processor.post("/", &n.to_string()).text(), n.to_string());
    }
    assert_eq!(flood.join().unwrap().status, 408);
}

#[test]
fn a_stream_that_ignores_its_credit_breaks_the_protocol() {
    let script = r#"
def each(id, path, body):
    if path == "/fault":
        answer(id, b"first", flags=1)
        while True:
            send(frame(0x84, id, b"", bytes(1 << 20)))
    echo(id, path, body)

hello()
ready()
serve(each)
"#;
    let processor = Setup::fake_shim(script).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/fault", b"");
    drop(client.read_head()); // Cut off before or after it.
    wait_until("it is counted", || processor.restarts("protocol") == 1);
    assert_eq!(processor.post("/", "next").text(), "next");
}

#[test]
fn frames_cut_at_every_byte_make_the_same_answer() {
    let script = r#"
def each(id, path, body):
    whole = frame(0x83, id, struct.pack("<IHH", 0, 1, 0) + b"text/x\0X-A\0b", body, 201)
    cut = int(path[1:])
    send(whole[:cut])
    time.sleep(0.001)
    send(whole[cut:])

S.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
hello()
ready()
serve(each)
"#;
    let processor = Setup::fake_shim(script).start();
    for cut in 1..42 {
        let answer = processor.post(&format!("/{cut}"), "body");
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.header("X-A")),
            (201, "body", Some("b")),
            "{cut}"
        );
    }
}

#[test]
fn a_shim_that_ignores_sigterm_at_the_end_is_killed() {
    let script = "
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os._exit = lambda code: time.sleep(60)
hello()
ready()
serve(echo)
";
    let mut processor = Setup::fake_shim(script).start();
    let pid = processor.children()[0];
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
    wait_until("it is gone", || !alive(pid));
}

#[test]
fn workers_that_die_again_and_again_are_replaced_ever_later_and_say_so() {
    let script = "
if start_number() > 1:
    sys.stderr.write('no more starts\\n')
    os._exit(7)
hello()
ready()
serve(lambda id, path, body: os._exit(6))
";
    let processor = Setup::fake_shim(script).start();
    assert_eq!(processor.get("/").status, 500);
    wait_until("starts fail", || {
        let records = processor.stdout.records();
        records.iter().filter(|record| record["message"] == "Can't restart worker").count() >= 4
    });
    let reasons = get(processor.ports.health, "/ready?verbose=1").unwrap();
    assert_eq!(reasons.status, 503);
    let reason = reasons.json()["reasons"][1].clone();
    assert_eq!(reason["code"], "worker_restarting", "{reason}");
    assert!(reason["cause"].as_str().unwrap().contains("exited with code 7"), "{reason}");
    assert_eq!(processor.health("/live"), 200);
}

#[test]
fn a_shim_that_dies_as_soon_as_it_is_ready_loses_no_caller() {
    // Whether its death or its readiness is seen first is a matter of luck, so there are several of them.
    let script = "
number = start_number()
hello()
ready()
if number > 2 and number < 8:
    os._exit(3)
serve(lambda id, path, body: os._exit(4) if path == '/fault' else echo(id, path, body))
";
    let processor = Setup::fake_shim(script).trigger(json!({"numWorkers": 2})).start();
    let faults: Vec<_> = (0..2).map(|_| processor.send("/fault", "")).collect();
    faults.into_iter().for_each(|fault| assert_eq!(fault.join().unwrap().status, 500));
    let waiting: Vec<_> = (0..12).map(|n| (n, processor.send("/", &n.to_string()))).collect();
    for (n, answer) in waiting {
        let answer = answer.join().unwrap();
        match answer.status {
            200 => assert_eq!(answer.text(), n.to_string()),
            500 => assert!(answer.text().contains("exited with code 3"), "{}", answer.text()),
            other => panic!("{other}: {:?}", answer.lines),
        }
    }
    processor.wait_ready();
    processor.wait_in_flight(0);
    processor.wait_waiting(0);
}

#[test]
fn an_answer_with_more_headers_than_anything_can_hold_costs_no_worker() {
    let source = "
def handler(context, event):
    count = int(event.body or 0)
    return context.Response(headers={'x-%d' % n: 'v' for n in range(count)}, body='made')
";
    let mut processor = Setup::python(source).start();
    for count in ["40000", "10"] {
        // What the client makes of thousands of headers is its business.
        drop(processor.send("/", count).join());
    }
    assert_eq!(processor.post("/", "1").text(), "made");
    assert_eq!(processor.all_restarts(), 0);
    processor.wait_in_flight(0);
    processor.signal(15);
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn what_init_context_logs_is_in_the_log() {
    let source = "
def init_context(context):
    context.logger.info_with('loading the model', layers=3)
def handler(context, event):
    pass
";
    let processor = Setup::python(source).start();
    let record = processor.stdout.wait_for_record("loading the model");
    assert_eq!(record["more"]["layers"], 3, "{record}");
    let failing = source.replace("layers=3)", "layers=3)\n    raise ValueError('no model')");
    let mut processor = Setup::python(&failing).no_wait().start();
    assert_eq!(processor.end().code(), Some(1));
    processor.stdout.wait_for_record("loading the model");
}
