//! Clients that leave at the wrong moment, and streamed answers: no answer ever reaches another request, and nothing
//! runs on for nobody.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Setup, wait_until};

/// Answers with what came, after the time or the file that the path names.
const HOLD: &str = "
def each(id, path, body):
    if path == '/hold':
        log('holding')
        wait_for('go')
    answer(id, body)
hello()
ready()
serve(each)
";

#[test]
fn clients_that_leave_while_their_event_is_in_work_or_waits_shift_no_answer() {
    let processor = Setup::fake_shim(HOLD).start();
    let mut held = Client::connect(processor.http());
    held.send_post("/hold", b"held");
    processor.stdout.wait_for_record("holding");
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(processor.http())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send_post("/", format!("token {n}").as_bytes());
        processor.wait_waiting(n + 1);
    }
    drop(held);
    let mut staying = Vec::new();
    for (n, client) in clients.into_iter().enumerate() {
        if n % 2 == 0 {
            staying.push((n, client));
        }
    }
    processor.touch("go");
    for (n, client) in &mut staying {
        let answer = client.read_answer(false).unwrap();
        assert_eq!((answer.status, answer.text()), (200, format!("token {n}")));
    }
    processor.wait_in_flight(0);
    processor.wait_waiting(0);
    assert_eq!(processor.all_restarts(), 0, "a client that leaves costs no worker");
}

#[test]
fn clients_that_come_and_leave_all_the_time_shift_no_answer() {
    let source = "
import random, time
def handler(context, event):
    time.sleep(random.random() / 300)
    return event.body
";
    let processor = Setup::python(source).trigger(json!({"numWorkers": 3})).start();
    let threads: Vec<_> = (0..6)
        .map(|id| {
            let address = processor.http();
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(id);
                for number in 0..150 {
                    let token = format!("{id}-{number}");
                    let mut client = Client::connect(address);
                    client.send_post("/", token.as_bytes());
                    if random.u8(..3) == 0 {
                        std::thread::sleep(Duration::from_micros(random.u64(..3000)));
                        continue; // Leaves.
                    }
                    let answer = client.read_answer(false).unwrap();
                    assert_eq!((answer.status, answer.text()), (200, token));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    processor.wait_in_flight(0);
    processor.wait_waiting(0);
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn clients_that_leave_in_the_middle_of_a_body_reach_no_worker() {
    let processor = Setup::fake_shim(HOLD).start();
    for n in 0..20 {
        let mut client = Client::connect(processor.http());
        let head: &[u8] = if n % 2 == 0 {
            b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf of it"
        } else {
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf \r\n5\r\nof"
        };
        client.send(head);
    }
    for n in 0..10 {
        assert_eq!(processor.post("/", &n.to_string()).text(), n.to_string());
    }
    assert_eq!(processor.metric("nuclio_processor_worker_allocation_count", &[]), 10.0);
    processor.wait_in_flight(0);
}

/// Streams for ever; says how many pieces it made when it is closed.
const ENDLESS: &str = "
def handler(context, event):
    if event.path != '/stream':
        return event.body
    def pieces():
        count = 0
        try:
            while True:
                count += 1
                yield b'x' * 10000
        finally:
            context.logger.info_with('closed', pieces=count)
    return pieces()
";

#[test]
fn a_stream_whose_client_leaves_is_stopped_and_the_worker_serves_on() {
    for source in [
        ENDLESS.to_owned(),
        ENDLESS.replace("def ", "async def ").replace("async def handler", "def handler"),
    ] {
        let processor = Setup::python(&source).start();
        for round in 1..=3 {
            let mut client = Client::connect(processor.http());
            client.send_post("/stream", b"");
            assert_eq!(client.read_head().unwrap().status, 200);
            assert!(!client.read_chunk().unwrap().unwrap().is_empty());
            drop(client);
            let closed = || {
                let records = processor.stdout.records();
                records.iter().filter(|record| record["message"] == "closed").count() == round
            };
            wait_until("the generator is closed", closed);
            assert_eq!(processor.post("/", "next").text(), "next");
        }
        processor.wait_in_flight(0);
        assert_eq!(processor.all_restarts(), 0);
        assert_eq!(processor.metric("nuclio_processor_streams_total", &["failure"]), 3.0);
    }
}

#[test]
fn a_stream_whose_client_does_not_read_stops_at_its_credit() {
    let processor = Setup::python(ENDLESS).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/stream", b"");
    assert_eq!(client.read_head().unwrap().status, 200);
    // The sockets' buffers and the credit fill; then the generator stands still, whatever these numbers are.
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", processor.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    std::thread::sleep(Duration::from_millis(500));
    let before = resident();
    std::thread::sleep(Duration::from_millis(300));
    assert!(resident() < before + 4096, "{before} KiB, then {}", resident());
    drop(client);
    let record = processor.stdout.wait_for_record("closed");
    assert!(record["more"]["pieces"].as_u64().unwrap() < 5000, "{record}");
}

#[test]
fn a_stream_whose_shim_dies_is_cut_and_never_looks_complete() {
    let script = "
def each(id, path, body):
    if path == '/stream':
        answer(id, b'first', flags=1)
        send(frame(0x84, id, b'', b'second'))
        wait_for('go')
        os._exit(3)
    answer(id, body)
hello()
ready()
serve(each)
";
    let processor = Setup::fake_shim(script).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/stream", b"");
    assert_eq!(client.read_head().unwrap().status, 200);
    assert!(client.read_chunk().unwrap().unwrap().starts_with(b"first"));
    processor.touch("go");
    let cut = loop {
        match client.read_chunk() {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(cut, "no last chunk");
    assert_eq!(processor.post("/", "next").text(), "next");
    assert_eq!(processor.metric("nuclio_processor_streams_total", &["failure"]), 1.0);
    processor.wait_in_flight(0);
}

#[test]
fn a_generator_that_raises_cuts_the_connection_and_keeps_the_worker() {
    let source = "
def handler(context, event):
    if event.path != '/stream':
        return event.body
    def pieces():
        yield b'first'
        raise RuntimeError('no more')
    return pieces()
";
    let processor = Setup::python(source).start();
    for _ in 0..3 {
        let mut client = Client::connect(processor.http());
        client.send_post("/stream", b"");
        assert!(client.read_answer(false).is_err());
        assert_eq!(processor.post("/", "next").text(), "next");
    }
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_stream_past_its_deadline_is_cut_and_the_worker_replaced() {
    let source =
        ENDLESS.replace("yield b'x' * 10000", "yield b'x'\n                import time; time.sleep(0.01)");
    let processor = Setup::python(&source).spec(json!({"eventTimeout": "400ms"})).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/stream", b"");
    assert_eq!(client.read_head().unwrap().status, 200);
    let cut = loop {
        match client.read_chunk() {
            Ok(Some(_)) => {}
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(cut, "no last chunk");
    wait_until("it is counted", || processor.restarts("timeout") == 1);
    assert_eq!(processor.post("/", "next").text(), "next");
    processor.wait_in_flight(0);
}

#[test]
fn a_streamed_answer_is_finished_before_the_end() {
    let source = "
import os, time
def handler(context, event):
    def pieces():
        yield b'first;'
        while not os.path.exists(os.path.dirname(__file__) + '/go'):
            time.sleep(0.002)
        yield b'last'
    return pieces()
";
    let mut processor = Setup::python(source).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/", b"");
    assert_eq!(client.read_head().unwrap().status, 200);
    assert_eq!(client.read_chunk().unwrap().unwrap(), b"first;");
    processor.signal(15);
    processor.stdout.wait_for_record("Got system signal");
    processor.touch("go");
    assert_eq!(client.read_chunk().unwrap().unwrap(), b"last");
    assert_eq!(client.read_chunk().unwrap(), None);
    assert_eq!(processor.wait().code(), Some(0));
}
