//! `/ready` and `/live`: they say what is true, why, and soon, whatever goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, Processor, Setup, get, wait_until};
use crate::support::{kill, plain_c_library};

/// What the probe of images waits at most, and generous: the machine may be busy.
const PROBE_LIMIT: Duration = Duration::from_millis(2500);

/// Workers after the first `first` start only once the file `go` exists.
fn held_replacements(first: usize) -> String {
    format!("if start_number() > {first}:\n    wait_for('go')\nhello()\nready()\nserve(echo)\n")
}

fn verbose(processor: &Processor, path: &str) -> (u16, Value) {
    let answer = get(processor.ports.health, &format!("{path}?verbose=1")).unwrap();
    (answer.status, answer.json())
}

fn codes(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().map(|reason| reason["code"].as_str().unwrap()).collect()
}

#[test]
fn one_of_two_workers_that_is_replaced_is_told_and_leaves_the_processor_ready() {
    let setup = Setup::fake_shim(&held_replacements(2)).trigger(json!({"numWorkers": 2}));
    let processor = setup.start();
    assert_eq!(verbose(&processor, "/ready"), (200, json!({"ready": true, "reasons": []})));
    kill(processor.children()[0]);
    wait_until("it is told", || !codes(&verbose(&processor, "/ready").1["degraded"]).is_empty());
    let (status, body) = verbose(&processor, "/ready");
    assert_eq!((status, &body["ready"], &body["reasons"]), (200, &json!(true), &json!([])));
    let worker = &body["degraded"][0];
    assert_eq!((&worker["code"], &worker["trigger"]), (&json!("worker_restarting"), &json!("default-http")));
    assert_eq!(worker["cause"], "killed by signal 9 (SIGKILL)", "{worker}");
    assert_eq!((processor.health("/ready"), processor.health("/live")), (200, 200));
    for n in 0..5 {
        assert_eq!(processor.post("/", &n.to_string()).text(), n.to_string());
    }
    assert_eq!(processor.metric("nuclio_processor_workers", &["state=\"ready\""]), 1.0);
    assert_eq!(processor.metric("nuclio_processor_workers", &["state=\"restarting\""]), 1.0);
    processor.touch("go");
    wait_until("all is well", || verbose(&processor, "/ready").1 == json!({"ready": true, "reasons": []}));
}

#[test]
fn without_any_worker_it_is_not_ready_until_one_is_back() {
    let processor = Setup::fake_shim(&held_replacements(1)).start();
    kill(processor.children()[0]);
    wait_until("it says so", || processor.health("/ready") == 503);
    let (status, body) = verbose(&processor, "/ready");
    assert_eq!((status, &body["ready"]), (503, &json!(false)));
    assert_eq!(codes(&body["reasons"]), ["no_worker", "worker_restarting"], "{body}");
    assert_eq!(body["reasons"][0]["cause"], "none of its 1 workers is ready");
    assert_eq!(get(processor.ports.health, "/ready").unwrap().text(), "{}\n");
    assert_eq!(processor.health("/live"), 200);
    let waits = processor.send("/", "waits");
    processor.touch("go");
    assert_eq!(waits.join().unwrap().text(), "waits");
    processor.wait_ready();
}

#[test]
fn a_worker_that_dies_again_and_again_makes_it_unready_until_it_stays() {
    let script = "
if start_number() > 2 and not os.path.exists(HERE + '/healed'):
    os._exit(7)
hello()
ready()
serve(echo)
";
    let processor = Setup::fake_shim(script).trigger(json!({"numWorkers": 2})).start();
    kill(processor.children()[1]);
    wait_until("it restarts repeatedly", || processor.health("/ready") == 503);
    let load = Hammer::start(&processor, 20);
    let slowest = probe(&processor, 40, |ready, live| assert_eq!((ready, live), (503, 200)));
    let (_, body) = verbose(&processor, "/ready");
    assert_eq!(codes(&body["reasons"]), ["worker_restarting"], "{body}");
    let reason = &body["reasons"][0];
    assert!(reason["failures"].as_u64().unwrap() >= 3, "{reason}");
    assert!(reason["cause"].as_str().unwrap().contains("exited with code 7"), "{reason}");
    assert_eq!(verbose(&processor, "/live"), (200, json!({"live": true, "reasons": []})));
    assert!(load.stop() > 0, "the other worker serves on");
    assert!(slowest < PROBE_LIMIT, "a probe took {slowest:?}");
    processor.touch("healed");
    processor.wait_ready();
    let (_, body) = verbose(&processor, "/ready");
    assert_eq!(body, json!({"ready": true, "reasons": []}));
}

#[test]
fn probes_are_answered_while_every_worker_is_blocked_and_the_queue_is_full() {
    let Some(library) = plain_c_library() else { return };
    let processor = Setup::library(&library)
        .trigger(json!({"numWorkers": 4, "workerAvailabilityTimeoutMilliseconds": 120_000}))
        .env("NUCLIO_WAITING_EVENTS_MAX", "50")
        .start();
    let go = processor.directory.path().join("go").display().to_string();
    let mut clients: Vec<Client> = (0..54).map(|_| Client::connect(processor.http())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send_post("/block", go.as_bytes());
        processor.wait_in_flight((n + 1).min(4));
    }
    processor.wait_waiting(50);
    let load = Hammer::start(&processor, 200);
    wait_until("events are refused", || load.answers() > 200);
    let slowest = probe(&processor, 100, |ready, live| assert_eq!((ready, live), (200, 200)));
    assert!(get(processor.ports.metrics, "/metrics").unwrap().text().contains("no_worker"));
    assert!(load.stop() > 200);
    assert!(slowest < PROBE_LIMIT, "a probe took {slowest:?}");
    assert!(processor.metric("nuclio_processor_event_failures_total", &["cause=\"no_worker\""]) > 200.0);
    processor.touch("go");
    clients.iter_mut().for_each(|client| assert_eq!(client.read_answer(false).unwrap().status, 200));
}

/// Asks both probes so often; the longest time of one.
fn probe(processor: &Processor, times: usize, check: impl Fn(u16, u16)) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..times {
        let mut timed = |path| {
            let begun = Instant::now();
            let status = processor.health(path);
            slowest = slowest.max(begun.elapsed());
            status
        };
        check(timed("/ready"), timed("/live"));
    }
    slowest
}

/// Connections that send one request after another.
struct Hammer {
    over: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Hammer {
    fn start(processor: &Processor, connections: usize) -> Self {
        let (over, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let threads = 10;
        let thread = |_| {
            let (address, over, answers) = (processor.http(), over.clone(), answers.clone());
            std::thread::spawn(move || {
                let mut clients: Vec<Client> =
                    (0..connections / threads).map(|_| Client::connect(address)).collect();
                while !over.load(Ordering::Relaxed) {
                    clients.iter_mut().for_each(|client| client.send_post("/", b"more"));
                    for client in &mut clients {
                        client.read_answer(false).unwrap();
                        answers.fetch_add(1, Ordering::Relaxed);
                    }
                }
            })
        };
        let threads = (0..threads).map(thread).collect();
        Self { over, answers, threads }
    }

    fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }

    /// Ends it; how many answers there were.
    fn stop(self) -> usize {
        self.over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.answers.load(Ordering::Relaxed)
    }
}
