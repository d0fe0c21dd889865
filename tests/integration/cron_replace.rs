//! `concurrencyPolicy: Replace`: a tick ends the one before it, in whatever way its handler runs, and harms nobody else.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Processor, Setup, alive, free_port, wait_until};
use crate::triggers::{recording, starts, wait_starts};

/// What all handlers here begin with. `mark` writes down who does what, whole lines at a time.
const MARKS: &str = "
import asyncio, os, time
HERE = os.path.dirname(os.path.abspath(__file__))
def mark(event, what):
    file = os.open(HERE + '/marks', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, ('%s %d %s\\n' % (event.id, os.getpid(), what)).encode())
    os.close(file)
def held():
    while not os.path.exists(HERE + '/open'):
        time.sleep(0.01)
    return 'held'
";
const SYNC: &str = "
def handler(context, event):
    if event.trigger.kind == 'http':
        return held() if event.body else 'quick'
    mark(event, 'start')
    while True:
        time.sleep(0.01)
        mark(event, 'beat')
";
const STREAM: &str = "
def handler(context, event):
    if event.trigger.kind == 'http':
        return 'quick'
    mark(event, 'start')
    return beats(event)
def beats(event):
    while True:
        yield b'x'
        time.sleep(0.01)
        mark(event, 'beat')
";
const ASYNC: &str = "
async def handler(context, event):
    if event.trigger.kind == 'http':
        open(HERE + '/holding', 'w').close()
        while not os.path.exists(HERE + '/open'):
            await asyncio.sleep(0.01)
        return 'held'
    mark(event, 'start')
    try:
        while True:
            await asyncio.sleep(0.01)
            mark(event, 'beat')
    except asyncio.CancelledError:
        mark(event, 'cancelled')
        raise
";

/// One line of a handler here.
struct Mark {
    event: String,
    pid: i32,
    what: String,
}

fn marks(processor: &Processor) -> Vec<Mark> {
    let text = std::fs::read_to_string(processor.directory.path().join("marks")).unwrap_or_default();
    let mark = |line: &str| {
        let mut words = line.split(' ');
        let mut next = || words.next().unwrap().to_owned();
        Mark { event: next(), pid: next().parse().unwrap(), what: next() }
    };
    // The last one may be half written.
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(mark).collect()
}

/// Waits until so many ticks have begun; the process of each.
fn wait_begun(processor: &Processor, count: usize) -> Vec<i32> {
    let begun = || marks(processor).into_iter().filter(|mark| mark.what == "start").map(|mark| mark.pid);
    wait_until("ticks have begun", || begun().count() >= count);
    begun().collect()
}

/// Of no two events is something done beside each other.
fn check_one_at_a_time(processor: &Processor) {
    let mut order: Vec<String> = marks(processor).into_iter().map(|mark| mark.event).collect();
    order.dedup();
    let distinct: BTreeSet<&String> = order.iter().collect();
    assert_eq!(distinct.len(), order.len(), "an event went on after the next had begun: {order:?}");
}

fn tick(interval: &str, more: Value) -> Value {
    let mut tick =
        json!({"kind": "cron", "attributes": {"interval": interval, "concurrencyPolicy": "Replace"}});
    crate::harness::merge(&mut tick, more);
    tick
}

fn replaced(processor: &Processor) -> usize {
    let parts = ["trigger_id=\"tick\"", "cause=\"replaced\""];
    processor.metric("nuclio_processor_event_failures_total", &parts) as usize
}

/// How often workers of the timer were replaced for it.
fn recycled(processor: &Processor) -> usize {
    let parts = ["trigger_id=\"tick\"", "reason=\"recycle\""];
    processor.metric("nuclio_processor_worker_restarts_total", &parts) as usize
}

/// Two triggers and their common workers.
fn shared(source: &str, interval: &str, web: Value) -> (Setup, u16) {
    let port = free_port();
    let mut http = json!({"kind": "http", "url": format!("127.0.0.1:{port}"), "workerAllocatorName": "pool"});
    crate::harness::merge(&mut http, web);
    let mut setup = Setup::python(&format!("{MARKS}{source}"));
    let tick = tick(interval, json!({"workerAllocatorName": "pool"}));
    setup.function["spec"]["triggers"] = json!({"web": http, "tick": tick});
    (setup, port)
}

fn start(source: &str, tick: Value) -> Processor {
    Setup::python(&format!("{MARKS}{source}")).spec(json!({"triggers": {"tick": tick}})).start()
}

#[test]
fn a_tick_ends_the_one_before_it_and_then_runs_on_a_fresh_worker() {
    for source in [SYNC, STREAM] {
        let processor = start(source, tick("1s", json!({})));
        let pids = wait_begun(&processor, 4);
        check_one_at_a_time(&processor);
        assert_eq!(pids.iter().collect::<BTreeSet<_>>().len(), pids.len(), "{pids:?}");
        assert!(!alive(pids[0]) && !alive(pids[1]), "they have ended");
        assert!(recycled(&processor) >= 3);
        if source == SYNC {
            assert!(replaced(&processor) >= 3);
        }
        // Replacing is no failure of the worker.
        wait_until("it is ready", || processor.health("/ready") == 200);
        let records = processor.stdout.records();
        assert!(records.iter().all(|record| record["level"] != "error"), "{records:?}");
        let warned = |record: &&Value| {
            record["level"] == "warn"
                && record["message"].as_str().is_some_and(|text| text.starts_with("Replaced an event"))
        };
        assert_eq!(records.iter().filter(warned).count(), 1);
    }
}

#[test]
fn a_tick_that_only_waits_is_withdrawn_for_the_next_one_and_disturbs_nobody() {
    let (setup, port) = shared(SYNC, "150ms", json!({"numWorkers": 1}));
    let mut processor = setup.no_wait().start();
    processor.ports.http = port;
    // The only worker is taken, by whoever came first; ticks that had begun give way.
    processor.wait_ready();
    let held = processor.send("/", "hold");
    wait_until("ticks are withdrawn while the request holds the worker", || {
        let restarts = recycled(&processor);
        thread::sleep(Duration::from_millis(900));
        recycled(&processor) == restarts && processor.children().len() == 1
    });
    let (restarts, before) = (recycled(&processor), replaced(&processor));
    wait_until("more of them are withdrawn", || replaced(&processor) >= before + 4);
    assert_eq!(recycled(&processor), restarts);
    let begun = marks(&processor).len();
    processor.touch("open");
    let answer = held.join().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "held"));
    wait_until("the last of them runs", || marks(&processor).len() > begun);
}

#[test]
fn other_triggers_of_the_same_workers_do_not_notice() {
    let (setup, port) = shared(SYNC, "1s", json!({"numWorkers": 3}));
    let mut processor = setup.start();
    processor.ports.http = port;
    let held = processor.send("/", "hold");
    for _ in 0..3 {
        let before = wait_begun(&processor, 1).len();
        assert_eq!(processor.post("/", "").text(), "quick");
        wait_begun(&processor, before + 1);
    }
    processor.touch("open");
    let answer = held.join().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "held"));
    let parts = ["trigger_id=\"web\"", "result=\"failure\""];
    assert_eq!(processor.metric("nuclio_processor_handled_events_total", &parts), 0.0);
}

#[test]
fn a_coroutine_is_cancelled_while_others_are_in_work_beside_it_and_they_go_on() {
    let web = json!({"numWorkers": 1, "mode": "async", "async": {"maxConnectionsNumber": 10}});
    let (setup, port) = shared(ASYNC, "1s", web);
    let mut processor = setup.start();
    processor.ports.http = port;
    let held = processor.send("/", "hold");
    wait_until("it is held", || processor.directory.path().join("holding").exists());
    let pids = wait_begun(&processor, 3);
    let (pid, others) = (pids[pids.len() - 1], processor.children());
    assert_eq!(others, [pid]);
    let restarts = recycled(&processor);
    let begun = wait_begun(&processor, pids.len() + 2);
    assert!(begun[pids.len()..].iter().all(|other| *other == pid), "{begun:?}");
    assert_eq!(recycled(&processor), restarts);
    check_one_at_a_time(&processor);
    assert!(marks(&processor).iter().filter(|mark| mark.what == "cancelled").count() >= 2);
    let told = processor.stdout.wait_for("it says where it waited", |line| line.contains("was taken back"));
    assert!(!told.contains("timed out"), "{told}");
    processor.touch("open");
    assert_eq!(held.join().unwrap().text(), "held");
    // Alone, it goes with its worker.
    wait_until("the worker is replaced", || recycled(&processor) > restarts);
    wait_until("the next one runs", || marks(&processor).last().is_some_and(|mark| mark.pid != pid));
}

#[test]
fn a_coroutine_that_blocks_its_loop_is_ended_with_its_worker() {
    let source =
        ASYNC.replace("await asyncio.sleep(0.01)\n            mark", "time.sleep(0.01)\n            mark");
    let web = json!({"numWorkers": 1, "mode": "async", "async": {"maxConnectionsNumber": 10}});
    let (setup, port) = shared(&source, "1s", web);
    let mut processor = setup.start();
    processor.ports.http = port;
    // They are lost as with an event that hangs, but whoever comes later is served.
    let lost = processor.send("/", "hold");
    let pids = wait_begun(&processor, 3);
    check_one_at_a_time(&processor);
    assert!(pids.iter().collect::<BTreeSet<_>>().len() >= 3, "{pids:?}");
    processor.touch("open");
    drop(lost.join().unwrap());
}

#[test]
fn a_wrapper_of_the_go_processor_is_ended_and_started_again() {
    for path in ["/late/60", "/stream"] {
        let mut setup = Setup::python("");
        setup.write("wrapper.py", include_str!("../handlers/python/wrapper_v1/wrapper.py"));
        let wrapper = setup.directory.path().join("wrapper.py").display().to_string();
        setup = setup.env("NUCLIO_PYTHON_WRAPPER_PATH", &wrapper);
        setup.function["spec"]["triggers"]["tick"] =
            tick("1s", json!({"attributes": {"event": {"path": path}}}));
        let processor = setup.start();
        let first = processor.children();
        assert_eq!(first.len(), 2);
        wait_until("it is replaced again and again", || recycled(&processor) >= 3);
        assert_eq!(processor.post("/echo", "alive").text(), "alive");
        // Each of the timer's processes is gone by the time the next one has an event; that of HTTP stays.
        assert_eq!(first.iter().filter(|pid| alive(**pid)).count(), 1, "{path}");
        if path.starts_with("/late") {
            assert!(replaced(&processor) >= 3);
        }
    }
}

/// Each event is a process of its own, and a child of that marks, too.
#[test]
fn a_command_is_ended_with_all_that_it_has_started() {
    let source = "mark() { echo \"$NUCLIO_EVENT_ID $$ $1\" >>\"$FOLDER/marks\"; }
        mark start
        (trap '' TERM; while :; do sleep 0.01; mark beat; done) &
        while :; do echo x; sleep 0.01; mark beat; done";
    for streams in [false, true] {
        let setup = crate::shell::script(source).spec(json!({"triggers": {"tick": tick("1s", json!({}))}}));
        let processor = crate::shell::attributes(setup, json!({"stream": streams})).start();
        let pids = wait_begun(&processor, 4);
        check_one_at_a_time(&processor);
        assert_eq!(pids.iter().collect::<BTreeSet<_>>().len(), pids.len(), "{pids:?}");
        assert!(!alive(pids[0]) && !alive(pids[1]), "they have ended");
        assert_eq!((processor.all_restarts(), processor.health("/ready")), (0, 200));
        if !streams {
            assert!(replaced(&processor) >= 3);
        }
        let records = processor.stdout.records();
        assert!(records.iter().all(|record| record["level"] != "error"), "{records:?}");
    }
}

/// Nothing can end a promise that stays open, but the process.
#[test]
fn an_async_function_of_node_that_is_alone_is_ended_with_its_process() {
    let source = "const fs = require('fs')
        exports.handler = async (context, event) => {
            const mark = (what) => fs.appendFileSync(__dirname + '/marks', `${event.id} ${process.pid} ${what}\\n`)
            mark('start')
            for (;;) {
                await new Promise((resolve) => setTimeout(resolve, 10))
                mark('beat')
            }
        }";
    let Some(setup) = Setup::nodejs(source) else { return };
    let processor = setup.spec(json!({"triggers": {"tick": tick("1s", json!({}))}})).start();
    let pids = wait_begun(&processor, 3);
    check_one_at_a_time(&processor);
    assert_eq!(pids.iter().collect::<BTreeSet<_>>().len(), pids.len(), "{pids:?}");
    assert!(!alive(pids[0]));
}

#[test]
fn a_call_in_process_cannot_be_ended_so_that_the_tick_is_dropped() {
    let rules = json!([{"do": [{"gate": "g"}, {"reply": {"status": 200}}]}]);
    let processor = recording(true, &rules, json!({"tick": tick("50ms", json!({}))})).start();
    let warned = |record: &&Value| {
        record["level"] == "warn"
            && record["message"].as_str().is_some_and(|text| text.contains("Replace counts as Forbid"))
    };
    wait_starts(&processor, 1);
    processor.stdout.wait_for("the warning", |line| line.contains("Replace counts as Forbid"));
    assert_eq!(processor.stdout.records().iter().filter(warned).count(), 1);
    let parts = ["trigger_id=\"tick\"", "reason=\"busy\""];
    wait_until("ticks are dropped", || {
        processor.metric("nuclio_processor_events_dropped_total", &parts) >= 3.0
    });
    assert_eq!(starts(&processor).len(), 1);
    processor.touch("gate-g");
    wait_starts(&processor, 2);
}
