//! What some vectors need to be so first, in the words of their `setup`. Each has a processor of its own.

use std::time::{Duration, Instant};

use serde_json::json;

use super::exchange::{self, After, Observed, Reply};
use super::{Outcome, Runtime, compare, mark, play, prepare};
use crate::conformance::vectors::Vector;
use crate::harness::{Client, Processor, get, wait_until};

/// How long a worker's start takes where a vector has five seconds, and a busy worker's event.
const SLOW: Duration = Duration::from_secs(2);

/// A client whose event keeps the worker busy.
fn play_busy(processor: &Processor, ms: u64) -> Client {
    prepare(
        processor,
        &json!({"kind": "sleep", "ms": ms, "then": {"kind": "respond", "status": 200, "body": "slept"}}),
    );
    let mut client = Client::connect(processor.http());
    client.send(b"GET /busy HTTP/1.1\r\nHost: conformance\r\n\r\n");
    wait_until("the worker is busy", || mark(processor, ".sleeping").exists());
    client
}

/// Plays the vector after its setup.
pub fn play_scene(vector: &Vector, setup: &str, runtime: Runtime) -> Outcome {
    let step = &vector.steps[0];
    match setup {
        "the only worker is busy for 2 s" => {
            let processor = runtime.setup_for(vector).start();
            let start = Instant::now();
            let mut busy = play_busy(&processor, SLOW.as_millis() as u64);
            let outcome = play(vector, step, &processor);
            assert!(start.elapsed() < SLOW, "the worker was not busy any more");
            assert_eq!(busy.read_answer(false).unwrap().text(), "slept");
            outcome
        }
        "a worker's init takes 5 s; ask before it ends" => {
            let delay = SLOW.as_millis().to_string();
            let processor = runtime.setup_for(vector).env("INIT_DELAY_MS", &delay).no_wait().start();
            wait_until("health is served", || get(processor.ports.health, "/live").is_ok());
            let outcome = play(vector, step, &processor);
            processor.wait_ready();
            outcome
        }
        "SIGTERM was received; a worker still runs an event" => draining(vector, runtime),
        "the trigger was stopped (event timeout on a runtime that cannot restart) while this connection had sent \
         the first bytes of its request" => stopped(vector, runtime),
        other => panic!("unknown setup: {other}"),
    }
}

/// The connection exists already, as it does behind every proxy.
fn draining(vector: &Vector, runtime: Runtime) -> Outcome {
    let processor = runtime.setup_for(vector).start();
    let mut client = Client::connect(processor.http());
    assert_eq!(exchange::after(&mut client), After::KeptAlive);
    let mut busy = play_busy(&processor, 500);
    processor.signal(libc::SIGTERM);
    wait_until("it drains", || {
        get(processor.ports.health, "/ready").map_or(true, |answer| answer.status == 503)
    });
    // Served after the other one, if at all; only the reference refuses it before the handler.
    processor.write("behaviour.json", &json!({"kind": "respond", "body": "served"}).to_string());
    let (bytes, _) = exchange::bytes(&vector.steps[0].request, 0);
    let reply = finish(&mut client, &bytes);
    assert_eq!(busy.read_answer(false).unwrap().text(), "slept");
    let observed = Observed { total: reply.elapsed, replies: vec![reply] };
    compare(vector, &vector.steps[0], &observed, &processor)
}

fn stopped(vector: &Vector, runtime: Runtime) -> Outcome {
    let processor = runtime.setup_for(vector).start();
    let (bytes, _) = exchange::bytes(&vector.steps[0].request, 0);
    let mut client = Client::connect(processor.http());
    client.send(&bytes[..8]);
    let mut busy = play_busy(&processor, 3000);
    assert_eq!(busy.read_answer(false).unwrap().status, 408);
    processor.write("behaviour.json", &json!({"kind": "respond", "body": "served"}).to_string());
    let reply = finish(&mut client, &bytes[8..]);
    let observed = Observed { total: reply.elapsed, replies: vec![reply] };
    compare(vector, &vector.steps[0], &observed, &processor)
}

/// Sends the rest of a request and reads its answer.
fn finish(client: &mut Client, rest: &[u8]) -> Reply {
    let start = Instant::now();
    client.send(rest);
    let answer = client.read_answer(false);
    let elapsed = start.elapsed();
    let after = Some(exchange::after(client));
    Reply { answer, elapsed, sent: Vec::new(), after }
}
