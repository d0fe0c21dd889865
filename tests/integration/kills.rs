//! Shim processes killed at random under load: every request is answered, by its own answer or by a failure, and never
//! more of them fail than processes were killed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Client, Setup, alive, children_of, wait_until};
use crate::support::kill;

const WORKERS: usize = 4;
const CONNECTIONS: usize = 16;
const LASTS: Duration = Duration::from_secs(10);

#[test]
fn shims_killed_at_random_under_load_cost_their_own_event_at_most() {
    let source = "
import random, time
def handler(context, event):
    if random.random() < 0.3:
        time.sleep(random.random() / 100)
    return event.body
";
    let processor = Setup::python(source).trigger(json!({"numWorkers": WORKERS})).start();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|id| {
            let (address, stop) = (processor.http(), stop.clone());
            std::thread::spawn(move || load(address, id, &stop))
        })
        .collect();
    let mut killed = HashSet::new();
    let mut random = fastrand::Rng::with_seed(7);
    let end = Instant::now() + LASTS;
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.u64(200..600)));
        let children: Vec<i32> =
            processor.children().into_iter().filter(|pid| !killed.contains(pid)).collect();
        if let Some(pid) = random.choice(&children).copied()
            && alive(pid)
        {
            kill(pid);
            killed.insert(pid);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let (mut answered, mut failed) = (0, 0);
    for client in clients {
        let (good, bad) = client.join().unwrap();
        answered += good;
        failed += bad;
    }
    println!("{answered} answered, {failed} failed, {} killed", killed.len());
    assert!(killed.len() >= 10 && answered > 100);
    assert!(failed <= killed.len(), "{failed} failed, {} killed", killed.len());
    processor.wait_ready();
    wait_until("as many processes as workers", || processor.children().len() == WORKERS);
    assert!(processor.children().iter().all(|pid| alive(*pid) && children_of(*pid as u32).is_empty()));
    assert!(killed.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()), "no zombie");
    // One that was killed before it was ready for the first time was no worker yet.
    assert!(processor.restarts("signal") <= killed.len());
    assert_eq!(processor.restarts("signal"), processor.all_restarts());
    processor.wait_in_flight(0);
    processor.wait_waiting(0);
    let counted = |result| processor.metric("nuclio_processor_handled_events_total", &[result]) as usize;
    assert_eq!((counted("result=\"success\""), counted("result=\"failure\"")), (answered, failed));
}

/// One request after the other on a kept connection; how many were answered, and how many failed.
fn load(address: std::net::SocketAddr, id: usize, stop: &AtomicBool) -> (usize, usize) {
    let mut client = Client::connect(address);
    let (mut answered, mut failed) = (0, 0);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let token = format!("{id}-{number}");
        client.send_post("/", token.as_bytes());
        let answer = client.read_answer(false).unwrap();
        match answer.status {
            200 => {
                assert_eq!(answer.text(), token);
                answered += 1;
            }
            500 => {
                assert!(answer.text().contains("killed by signal 9"), "{}", answer.text());
                failed += 1;
            }
            other => panic!("{other}: {:?}", answer.lines),
        }
    }
    (answered, failed)
}
