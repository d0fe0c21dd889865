//! The generator against servers whose answers and pauses are known.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A server that answers what it is told, each connection on a thread of its own; `pause` is given the number of the
/// question.
fn server(answer: &'static [u8], pause: fn(u64) -> Duration) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let number: &'static AtomicU64 = Box::leak(Box::default());
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer), Ok(1..)) {
                    thread::sleep(pause(number.fetch_add(1, Ordering::Relaxed)));
                    if stream.write_all(answer).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn question() -> Question {
    Question { bytes: b"GET / HTTP/1.1\r\nHost: load\r\n\r\n".to_vec(), answer: Some(b"hello".to_vec()) }
}

const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

fn plan(target: SocketAddr, questions: &[Question], pace: Pace) -> Plan<'_> {
    let length = Duration::from_millis(300);
    Plan { target, questions, connections: 4, pace, length, threads: 2 }
}

#[test]
fn a_closed_loop_gets_answers_on_all_connections() {
    let questions = [question()];
    let outcome = run(&plan(server(HELLO, |_| Duration::ZERO), &questions, Pace::Closed)).unwrap();
    assert_eq!(outcome.failures, 0, "{:?}", outcome.first_failure);
    assert!(outcome.completed >= 4);
    assert_eq!(outcome.completed, outcome.latencies.len());
}

#[test]
fn what_is_answered_after_the_end_is_complete_but_not_throughput() {
    let questions = [question()];
    let slow = |_| Duration::from_millis(700);
    let outcome = run(&plan(server(HELLO, slow), &questions, Pace::Closed)).unwrap();
    assert_eq!((outcome.answered, outcome.completed, outcome.failures), (0, 4, 0));
    assert_eq!((outcome.per_second(), outcome.seconds), (0.0, 0.3));
    assert!(outcome.micros(0.01) >= 699_000.0, "{}", outcome.micros(0.01));
}

/// One connection, 100 questions a second for a second, the server stalls once, for 400 ms. A generator that waits for
/// its answer before it looks at the clock sees one late answer in a hundred; forty were due meanwhile.
#[test]
fn a_stall_is_seen_by_all_who_would_have_come_meanwhile() {
    let questions = [question()];
    let stall = |number| Duration::from_millis(if number == 20 { 400 } else { 0 });
    let target = server(HELLO, stall);
    let length = Duration::from_secs(1);
    let plan =
        Plan { target, questions: &questions, connections: 1, pace: Pace::Rate(100.0), length, threads: 1 };
    let outcome = run(&plan).unwrap();
    assert_eq!((outcome.completed, outcome.failures, outcome.unasked), (102, 0, 0), "two in the lead");
    assert_eq!(outcome.latencies.len(), 100);
    let late = |millis: u64| {
        let latencies = outcome.latencies.iter_recorded();
        let late = latencies.filter(|value| value.value_iterated_to() >= millis * 1_000_000);
        late.map(|value| value.count_at_value()).sum::<u64>()
    };
    // 400, 390, 380, … 10 ms: lower bounds that hold however slow the machine is.
    for (millis, least) in [(395, 1), (295, 11), (195, 21), (95, 31)] {
        assert!(late(millis) >= least, "{} of at least {least} took {millis} ms", late(millis));
    }
}

#[test]
fn a_rate_beyond_the_capacity_shows_in_latencies_and_in_what_was_never_asked() {
    let questions = [question()];
    // Four connections with answers after 500 ms serve 8 a second; 120 are due in 300 ms, and 3 s later most still wait.
    let slow = |_| Duration::from_millis(500);
    let outcome = run(&plan(server(HELLO, slow), &questions, Pace::Rate(400.0))).unwrap();
    assert_eq!(outcome.failures, 0, "{:?}", outcome.first_failure);
    assert_eq!(outcome.completed + outcome.unasked, 8 + 120, "eight in the lead");
    assert!(outcome.unasked >= 120 - 4 * 8, "{}", outcome.unasked);
    assert_eq!(outcome.answered, 0, "none within the 300 ms");
    assert_eq!(outcome.latencies.len(), 120);
    assert!(outcome.micros(0.5) > 1_000_000.0, "{}", outcome.micros(0.5));
}

#[test]
fn wrong_answers_are_failures() {
    let questions = [question()];
    let busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nhello";
    let short = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhe";
    let other = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhallo";
    let closing = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    for (answer, right) in [(busy.as_slice(), false), (short, false), (other, false), (closing, true)] {
        match run(&plan(server(answer, |_| Duration::ZERO), &questions, Pace::Closed)) {
            Ok(outcome) => {
                assert_eq!(outcome.failures == 0, right, "{:?}", outcome.first_failure);
                assert_eq!(outcome.completed > 0, right);
            }
            // Nothing but failures ends a run.
            Err(error) => assert!(!right && error.to_string().contains("in a row"), "{error:#}"),
        }
    }
}

#[test]
fn nobody_there_is_an_error() {
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let questions = [question()];
    let error = run(&plan(gone, &questions, Pace::Closed)).unwrap_err();
    assert!(format!("{error:#}").contains("failed to open connection"), "{error:#}");
}

#[test]
fn percentiles_are_those_of_the_latencies() {
    let mut outcome = Outcome {
        answered: 900,
        completed: 1000,
        seconds: 2.0,
        latencies: latencies().unwrap(),
        failures: 0,
        unasked: 0,
        first_failure: None,
        busy: 0.5,
        late_p99_micros: 0.0,
    };
    assert!(outcome.micros(0.5).is_nan());
    (1..=1000).for_each(|micros| outcome.latencies.record(micros * 1000).unwrap());
    // Three digits: at most a thousandth away.
    for (quantile, micros) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
        let got = outcome.micros(quantile);
        assert!((got - micros).abs() <= micros / 1000.0, "{quantile}: {got}");
    }
    assert_eq!(outcome.per_second(), 450.0);
    let sum = merged(vec![outcome.clone(), Outcome { busy: 0.9, unasked: 3, ..outcome }]).unwrap();
    assert_eq!((sum.answered, sum.completed, sum.unasked, sum.busy), (1800, 2000, 3, 0.9));
    assert_eq!((sum.per_second(), sum.latencies.len()), (900.0, 2000));
}
