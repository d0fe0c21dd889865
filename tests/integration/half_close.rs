//! Clients that close their sending half: who still waits is answered, who has left is noticed.

use std::io::Read;
use std::net::Shutdown;
use std::time::Duration;

use crate::harness::{Client, Processor, Setup, wait_until};
use crate::library::rust_library;

const SLOW: &str = "
import time
def handler(context, event):
    context.logger.warn('began %s' % event.path)
    time.sleep(float(event.path[1:] or 0))
    return event.body
";

fn python() -> Processor {
    Setup::python(SLOW).start()
}

fn compiled() -> Processor {
    Setup::library(rust_library()).start()
}

/// A request whose sending half is closed behind it.
pub fn half_closed(processor: &Processor, request: &str) -> Client {
    let mut client = Client::connect(processor.http());
    client.stream().set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.send(request.as_bytes());
    client.stream().shutdown(Shutdown::Write).unwrap();
    client
}

#[test]
fn a_client_that_closes_its_half_behind_its_request_is_answered() {
    let python = python();
    for path in ["/0", "/0.3", "/2.5"] {
        for (framing, body) in
            [("Content-Length: 2", "hi"), ("Transfer-Encoding: chunked", "2\r\nhi\r\n0\r\n\r\n")]
        {
            let mut client =
                half_closed(&python, &format!("POST {path} HTTP/1.1\r\n{framing}\r\n\r\n{body}"));
            assert_eq!(client.read_answer(false).unwrap().text(), "hi", "{path} {framing}");
            assert!(client.is_closed());
        }
    }
    let compiled = compiled();
    let two = "POST /echo HTTP/1.1\r\nContent-Length: 1\r\n\r\naGET /stream HTTP/1.1\r\n\r\n";
    let mut client = half_closed(&compiled, two);
    assert_eq!(client.read_answer(false).unwrap().text(), "a");
    assert_eq!(
        client.read_answer(false).unwrap().text(),
        "chunk3;chunk2;chunk1;",
        "what had come before is answered"
    );
    assert!(client.is_closed());
    let mut client = half_closed(&compiled, "GET /stream HTTP/1.1\r\n\r\n");
    assert_eq!(client.read_answer(false).unwrap().text(), "chunk3;chunk2;chunk1;");
    let mut client = half_closed(
        &compiled,
        &format!("POST /echo HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n{}", "x".repeat(3_000_000)),
    );
    assert_eq!(client.read_answer(false).unwrap().body.len(), 3_000_000);
}

#[test]
fn a_request_that_is_cut_off_is_answered_400_or_ends() {
    let processor = compiled();
    let whole = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
    for cut in [whole.len() - 1, whole.len() - 2, 20, 3, 0] {
        let mut client = half_closed(&processor, &whole[..cut]);
        let in_body = cut >= whole.len() - 2;
        match client.read_answer(false) {
            Ok(answer) => assert_eq!(answer.status, 400, "cut at {cut}"),
            Err(error) => assert!(!in_body && error.kind() != std::io::ErrorKind::WouldBlock, "cut at {cut}"),
        }
        assert!(client.is_closed(), "cut at {cut}");
    }
    assert_eq!(processor.post("/echo", "next").text(), "next");
}

/// Events of clients that left while they waited are dropped, so that the worker does not run for nobody.
#[test]
fn a_client_that_leaves_after_a_while_is_noticed() {
    let processor = python();
    let mut first = Client::connect(processor.http());
    first.send_post("/6", b"first");
    let mut leaver = Client::connect(processor.http());
    leaver.send_post("/0", b"leaver");
    processor.wait_waiting(1);
    std::thread::sleep(Duration::from_millis(3200));
    drop(leaver);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(first.read_answer(false).unwrap().text(), "first");
    processor.wait_in_flight(0);
    let began: Vec<_> = processor.stdout.records();
    let began =
        began.iter().filter(|record| record["message"].as_str().is_some_and(|m| m.starts_with("began")));
    assert_eq!(began.count(), 1, "its event never began");
}

/// An answer that nobody takes is noticed by the reset that its first bytes bring.
#[test]
fn a_client_that_leaves_at_once_is_noticed_when_its_stream_is_written() {
    let source = "
import time
def handler(context, event):
    def pieces():
        try:
            while True:
                yield b'x' * 1000
                time.sleep(0.02)
        finally:
            context.logger.warn('closed')
    return pieces()
";
    let processor = Setup::python(source).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/", b"");
    assert_eq!(client.read_head().unwrap().status, 200);
    drop(client);
    processor.stdout.wait_for_record("closed");
    processor.wait_in_flight(0);
    // A reset is seen at once, whatever the phase.
    let client = Client::connect(processor.http());
    let mut stream = client.stream().try_clone().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(stream.read(&mut [0; 10]).unwrap() > 0);
    drop((client, stream));
    wait_until("the second stream is closed", || {
        processor.stdout.records().iter().filter(|record| record["message"] == "closed").count() == 2
    });
}
