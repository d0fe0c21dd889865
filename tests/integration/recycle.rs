//! Workers that are replaced by fresh ones in time: by number of events, memory, age. Nobody who calls notices.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::compiled::program;
use crate::harness::{Client, PATIENCE, Processor, Setup, alive, wait_until};
use crate::support::{kill, plain_c_library};

const TELLS: &str = "import os\ndef handler(context, event): return str(os.getpid())\n";

fn recycled(source: &str, workers: usize, limits: Value) -> Setup {
    Setup::python(source)
        .trigger(json!({"numWorkers": workers}))
        .spec(json!({"runtimeAttributes": {"recycle": limits}}))
}

/// Clients that call without a pause until they are told to stop; each answer must be a good one. How many there were.
fn load(
    processor: &Processor,
    clients: usize,
    stop: &Arc<AtomicBool>,
) -> Vec<std::thread::JoinHandle<usize>> {
    let call = |address, stop: Arc<AtomicBool>| {
        let mut client = Client::connect(address);
        let mut answers = 0;
        while !stop.load(Ordering::Relaxed) {
            client.send(b"GET /empty HTTP/1.1\r\nHost: t\r\n\r\n");
            let answer = client.read_answer(false).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            answers += 1;
        }
        answers
    };
    let start = || {
        let (address, stop) = (processor.http(), stop.clone());
        std::thread::spawn(move || call(address, stop))
    };
    (0..clients).map(|_| start()).collect()
}

/// Under load until the test is true; then nobody may have had a bad answer.
fn under_load(processor: &Processor, clients: usize, what: &str, test: impl FnMut() -> bool) -> usize {
    let stop = Arc::new(AtomicBool::new(false));
    let clients = load(processor, clients, &stop);
    wait_until(what, test);
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().map(|client| client.join().unwrap()).sum()
}

/// Nothing but the workers is left, none ended otherwise, and the pool has been ready all the time.
fn is_well(processor: &Processor, workers: usize) {
    wait_until("as many processes as workers", || processor.children().len() == workers);
    assert_eq!(processor.all_restarts(), processor.restarts("recycle"));
    assert!(!processor.stdout.text().contains("Unexpected termination"), "{}", processor.stdout.text());
    processor.wait_in_flight(0);
    assert_eq!(processor.health("/ready"), 200);
}

#[test]
fn workers_are_recycled_after_so_many_events_and_no_caller_notices() {
    let processor = recycled(TELLS, 2, json!({"events": 100})).start();
    let answers =
        under_load(&processor, 4, "workers have been recycled", || processor.restarts("recycle") >= 6);
    assert!(answers >= 300, "{answers} events are too few for that");
    is_well(&processor, 2);
    let record = processor.stdout.wait_for_record("Recycling worker");
    assert!(record.to_string().contains("events"), "{record}");
}

#[test]
fn every_runtime_behind_a_shim_is_recycled() {
    let nodejs = "exports.handler = (context, event) => context.callback(String(process.pid))\n";
    let ruby = "def handler(context, event)\n  Process.pid.to_s\nend\n";
    let cases = [
        ("python", "python3", "main.py", TELLS),
        ("nodejs", "node", "main.js", nodejs),
        ("ruby", "ruby", "main.rb", ruby),
    ];
    for (runtime, program, file, source) in cases {
        if std::process::Command::new(program).arg("--version").output().is_err() {
            println!("skipped: {program} is not installed");
            continue;
        }
        let setup = Setup::new(runtime, "main:handler");
        setup.write(file, source);
        let folder = setup.directory.path().display().to_string();
        let setup = match runtime {
            "python" => setup.python_environment(),
            _ => setup.env("NUCLIO_HANDLER_DIR", &folder),
        };
        let attributes = json!({"runtimeAttributes": {"recycle": {"events": 20, "jitter": 0}}});
        let processor = setup.spec(attributes).start();
        under_load(&processor, 2, runtime, || processor.restarts("recycle") >= 2);
        is_well(&processor, 1);
    }
}

#[test]
fn a_program_is_recycled_and_a_library_cannot_be() {
    let attributes = json!({"runtimeAttributes": {"recycle": {"events": 20, "jitter": 0}}});
    if let Some(file) = program("tests/handlers/c/handler.c", &[]) {
        let processor = Setup::library(&file).spec(attributes.clone()).start();
        under_load(&processor, 2, "it has been recycled", || processor.restarts("recycle") >= 2);
        is_well(&processor, 1);
    }
    if let Some(file) = plain_c_library() {
        let processor = Setup::library(&file).spec(attributes).start();
        processor.stdout.wait_for("a warning", |line| line.contains("recycle has no effect"));
    }
}

#[test]
fn a_wrapper_of_protocol_1_is_recycled_too() {
    let setup = recycled(TELLS, 1, json!({"events": 20})).over_protocol_1("python");
    let processor = setup.start();
    under_load(&processor, 2, "it has been recycled", || processor.restarts("recycle") >= 2);
    is_well(&processor, 1);
}

/// How long the leaking handler is under load; `TEST_LEAK_MINUTES=60` is the whole of it.
fn leak_for() -> Duration {
    let minutes: u64 =
        std::env::var("TEST_LEAK_MINUTES").map_or(0, |text| text.parse().expect("a number of minutes"));
    Duration::from_secs(minutes * 60)
}

#[test]
fn a_handler_that_leaks_never_has_much_more_memory_than_its_limit() {
    // At most 50 MiB a second.
    let source = "import os, time\nkept = []\ndef handler(context, event):
    time.sleep(0.01)
    kept.append(b'x' * (500 << 10))
    return str(os.getpid())\n";
    let processor = recycled(source, 1, json!({"memory": "50Mi", "jitter": 0.2})).start();
    let (begun, end) = (Instant::now(), leak_for());
    let (mut highest, mut answers, mut recycled, mut own_early) = (0, 0, 0, None);
    while recycled < 2 || begun.elapsed() < end {
        answers += under_load(&processor, 1, "it has been recycled for its memory", || {
            let sizes = processor.children().into_iter().map(resident);
            highest = highest.max(sizes.max().unwrap_or_default());
            std::thread::sleep(Duration::from_millis(10)); // An hour of looking must not be the load itself.
            processor.restarts("recycle") > recycled
        });
        recycled = processor.restarts("recycle");
        own_early =
            own_early.or_else(|| (begun.elapsed() > end / 10).then(|| resident(processor.child.id() as i32)));
    }
    let record = processor.stdout.wait_for_record("Recycling worker");
    assert!(record.to_string().contains("MiB of memory, more than"), "{record}");
    // What it keeps until somebody looks, and while its replacement starts on a busy machine.
    let highest = highest >> 20;
    let (early, late) = (own_early.unwrap_or_default(), resident(processor.child.id() as i32));
    println!(
        "{answers} answers, {recycled} workers, {highest} MiB at most; processor {early}, then {late} bytes"
    );
    assert!(highest < 50 + 150, "{highest} MiB");
    assert!(late < early + (8 << 20), "the processor itself grew from {early} to {late} bytes");
    is_well(&processor, 1);
}

/// Bytes of memory of a process.
fn resident(pid: i32) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).unwrap_or_default() << 10
}

#[test]
fn workers_are_recycled_at_an_age_one_after_the_other() {
    let processor = recycled(TELLS, 3, json!({"age": "300ms", "jitter": 0})).start();
    let most = AtomicUsize::new(0);
    under_load(&processor, 2, "each has been recycled", || {
        most.fetch_max(processor.children().len(), Ordering::Relaxed);
        processor.restarts("recycle") >= 6
    });
    assert!(most.load(Ordering::Relaxed) <= 4, "{most:?} processes at once");
}

#[test]
fn an_event_in_work_ends_on_the_worker_that_has_it() {
    let source = "import os, time
def handler(context, event):
    if event.path == '/long':
        context.logger.warn('begun')
        while not os.path.exists(os.path.join(os.path.dirname(__file__), 'go')): time.sleep(0.005)
    return str(os.getpid())\n";
    let processor = recycled(source, 1, json!({"age": "300ms", "jitter": 0})).start();
    let old = processor.get("/").text();
    let long = processor.send("/long", "");
    processor.stdout.wait_for_record("begun");
    processor.stdout.wait_for_record("Recycling worker");
    // The successor serves; of the other one its events are awaited, and so long nobody else is recycled.
    let new = processor.get("/").text();
    assert_ne!(old, new);
    processor.touch("go");
    assert_eq!(long.join().unwrap().text(), old);
    wait_until("the old one is gone", || !alive(old.parse().unwrap()));
}

#[test]
fn an_event_that_hangs_on_a_worker_that_was_recycled_times_out_as_ever() {
    let source = "import os, time\ndef far_away(): time.sleep(60)\ndef handler(context, event):
    if event.path == '/hang': far_away()
    return str(os.getpid())\n";
    let setup = recycled(source, 1, json!({"age": "200ms", "jitter": 0}));
    let processor = setup.spec(json!({"eventTimeout": "2s"})).start();
    let hung = processor.send("/hang", "");
    processor.stdout.wait_for_record("Recycling worker");
    assert_eq!(processor.get("/").status, 200);
    assert_eq!(hung.join().unwrap().status, 408);
    processor.stderr.wait_for("its stack", |line| line.contains("far_away"));
    assert_eq!(processor.health("/ready"), 200);
}

#[test]
fn a_termination_callback_runs_before_a_recycled_worker_ends() {
    let source = "def init_context(context):
    context.platform.set_termination_callback(lambda: context.logger.warn('called back'))
def handler(context, event): return 'fine'\n";
    let processor = recycled(source, 1, json!({"events": 1})).start();
    assert_eq!(processor.get("/").text(), "fine");
    processor.stdout.wait_for_record("called back");
}

#[test]
fn a_worker_whose_replacement_does_not_start_stays_in_service_with_one_warning() {
    let source = "import os
first = os.path.join(os.path.dirname(__file__), 'first')
try: os.close(os.open(first, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    with open(first, 'a') as file: file.write('x')
    if not os.path.exists(os.path.join(os.path.dirname(__file__), 'mended')): raise RuntimeError('not again')
def handler(context, event): return str(os.getpid())\n";
    let processor = recycled(source, 1, json!({"events": 5, "jitter": 0})).start();
    let tries = || std::fs::metadata(processor.directory.path().join("first")).unwrap().len();
    let old = processor.get("/").text();
    wait_until("it has been tried twice", || {
        assert_eq!(processor.get("/").text(), old);
        tries() >= 2
    });
    let message = "Worker cannot be recycled, because its replacement does not start; it stays in service";
    let record = processor.stdout.wait_for_record(message);
    assert!(record["level"] == "warn" && record.to_string().contains("not again"), "{record}");
    assert_eq!((processor.all_restarts(), processor.health("/ready")), (0, 200));
    processor.touch("mended");
    wait_until("it has been recycled after all", || processor.get("/").text() != old);
    let warnings = processor.stdout.records().into_iter();
    let warnings = warnings.filter(|record| record["message"] == message && record["level"] == "warn");
    assert_eq!(warnings.count(), 1);
}

#[test]
fn a_worker_that_dies_while_its_replacement_starts_is_replaced_as_ever() {
    let source = "import os, time
first = os.path.join(os.path.dirname(__file__), 'first')
try: os.close(os.open(first, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    open(os.path.join(os.path.dirname(__file__), 'starting'), 'w').close()
    time.sleep(1)
def handler(context, event): return str(os.getpid())\n";
    let processor = recycled(source, 1, json!({"events": 1})).start();
    let old = processor.get("/").text();
    wait_until("its replacement starts", || processor.directory.path().join("starting").exists());
    kill(old.parse().unwrap());
    wait_until("another one serves", || processor.post("/", "").text() != old);
    wait_until("only workers are left", || processor.children().len() <= 2);
    assert_eq!(processor.restarts("signal"), 1);
}

#[test]
fn a_stop_in_the_middle_of_recycling_ends_everything_in_time() {
    let mut processor = recycled(TELLS, 2, json!({"events": 20})).start();
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (address, stop) = (processor.http(), stop.clone());
        clients.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok(stream) = std::net::TcpStream::connect(address) else { return };
                let mut client = Client::over(stream);
                client.send(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n");
                if let Ok(answer) = client.read_answer(false) {
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            }
        }));
    }
    wait_until("workers are being recycled", || processor.restarts("recycle") >= 2);
    let pids: HashSet<i32> = processor.children().into_iter().collect();
    processor.signal(15);
    let begun = std::time::Instant::now();
    assert_eq!(processor.end().code(), Some(0));
    assert!(begun.elapsed() < PATIENCE);
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    wait_until("all are gone", || !pids.iter().any(|pid| alive(*pid)));
}

#[test]
fn a_preloaded_worker_is_recycled_by_a_fork() {
    let source = "import os\nIMPORTED = os.getpid()\ndef handler(context, event): return str(IMPORTED)\n";
    let mut setup = recycled(source, 2, json!({"events": 50}));
    setup.function["spec"]["runtimeAttributes"]["preload"] = json!(true);
    let processor = setup.start();
    let imported = processor.get("/").text();
    under_load(&processor, 4, "workers have been recycled", || processor.restarts("recycle") >= 6);
    assert_eq!(processor.get("/").text(), imported);
    is_well(&processor, 3);
}

#[test]
fn limits_that_mean_nothing_are_refused_with_the_place_and_a_remedy() {
    let cases = [
        (json!({"events": 0}), "recycle.events", "write 1 or more"),
        (json!({"memory": "much"}), "recycle.memory", "512Mi"),
        (json!({"age": "1 day"}), "recycle.age", "30s"),
        (json!({"age": "-1s"}), "recycle.age", "positive"),
        (json!({"events": 1, "jitter": 1}), "recycle.jitter", "0.1"),
        (json!(true), "spec.runtimeAttributes.recycle", "events: 10000"),
    ];
    for (limits, place, remedy) in cases {
        let mut processor = recycled(TELLS, 1, limits).no_wait().start();
        assert_eq!(processor.end().code(), Some(1));
        let said = processor.stderr.text();
        assert!(said.contains(place) && said.contains(remedy), "{said}");
    }
}
