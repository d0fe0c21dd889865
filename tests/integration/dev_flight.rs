//! `processor dev`: requests that are in work when a source changes, and a stop that is asked for meanwhile.

use std::path::PathBuf;
use std::time::Duration;

use crate::dev::{answers, change, count, dev, dev_with};
use crate::harness::{Client, Processor, alive, wait_until};

const WAITS: &str = "not answered yet";

/// Answers with TEXT; `/hold` only once a file `go` is there, `/stream` never to its end.
const SOURCE: &str = "
import os, time
folder = os.path.dirname(__file__)
def endless():
    while True:
        yield b'piece '
        time.sleep(0.01)
def handler(context, event):
    if event.path == '/stream':
        return context.Response(body=endless(), content_type='text/plain')
    if event.path == '/hold':
        context.logger.warn('holding')
        while not os.path.exists(folder + '/go'):
            time.sleep(0.01)
        return 'TEXT held ' + str(len(event.body or b''))
    return 'TEXT'
";

fn source(text: &str) -> String {
    SOURCE.replace("TEXT", text)
}

/// One that serves, with a request in work.
fn holding() -> (Processor, Client) {
    let processor = dev(&source("first"));
    answers(&processor, "first");
    let mut client = Client::connect(processor.http());
    client.send(b"GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    processor.stdout.wait_for("the record", |line| line.contains("holding"));
    (processor, client)
}

fn made(processor: &Processor) -> PathBuf {
    std::env::temp_dir().join(format!("processor-dev-{}", processor.child.id()))
}

fn ends_cleanly(mut processor: Processor) {
    let (made, children) = (made(&processor), processor.children());
    assert_eq!(processor.end().code(), Some(0), "{}", processor.stderr.text());
    assert!(!made.exists(), "{} is left", made.display());
    wait_until("no process is left", || !children.iter().any(|child| alive(*child)));
}

fn ends(processor: Processor) {
    processor.signal(2);
    ends_cleanly(processor);
}

#[test]
fn a_slow_request_is_answered_by_the_code_it_began_with() {
    let (processor, mut client) = holding();
    change(&processor, "hello.py", &source("second"));
    processor.stderr.wait_for("what it waits for", |line| line.contains("1 request is not answered yet"));
    processor.touch("go");
    assert_eq!(client.read_answer(false).unwrap().text(), "first held 0");
    answers(&processor, "second");
    ends(processor);
}

#[test]
fn a_request_whose_body_is_still_coming_is_answered_too() {
    let processor = dev(&source("first"));
    answers(&processor, "first");
    let mut client = Client::connect(processor.http());
    client.send(b"POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n");
    client.wait_for_continue();
    client.send(b"12345");
    change(&processor, "hello.py", &source("second"));
    processor.stderr.wait_for("what it waits for", |line| line.contains(WAITS));
    processor.touch("go");
    client.send(b"67890");
    assert_eq!(client.read_answer(false).unwrap().text(), "first held 10");
    answers(&processor, "second");
    ends(processor);
}

#[test]
fn saving_again_cuts_off_what_does_not_end() {
    let (processor, mut client) = holding();
    let children = processor.children();
    change(&processor, "hello.py", &source("second"));
    processor.stderr.wait_for("what it waits for", |line| line.contains(WAITS));
    change(&processor, "hello.py", &source("third"));
    assert!(client.read_answer(false).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    answers(&processor, "third");
    assert!(!children.iter().any(|child| alive(*child)), "a process is left");
    ends(processor);
}

#[test]
fn a_request_that_never_ends_is_cut_off_in_the_end() {
    let (processor, mut client) = holding();
    change(&processor, "hello.py", &source("second"));
    assert!(client.read_answer(false).is_err_and(|error| error.kind() != std::io::ErrorKind::WouldBlock));
    answers(&processor, "second");
    wait_until("only the new one is left", || processor.children().len() == 1);
    ends(processor);
}

#[test]
fn a_stream_without_end_is_cut_off_and_not_waited_for() {
    let processor = dev(&source("first"));
    answers(&processor, "first");
    let mut client = Client::connect(processor.http());
    client.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status, 200);
    assert!(client.read_chunk().unwrap().is_some());
    change(&processor, "hello.py", &source("second"));
    let mut pieces = 0;
    while client.read_chunk().is_ok_and(|piece| piece.is_some()) {
        pieces += 1;
    }
    answers(&processor, "second");
    assert_eq!(count(&processor, WAITS), 0, "{pieces} {}", processor.stderr.text());
    ends(processor);
}

#[test]
fn connections_without_a_request_are_closed_and_new_ones_served() {
    let processor = dev(&source("first"));
    answers(&processor, "first");
    let (fresh, mut used) = (Client::connect(processor.http()), Client::connect(processor.http()));
    used.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(used.read_answer(false).unwrap().text(), "first");
    change(&processor, "hello.py", &source("second"));
    answers(&processor, "second");
    for mut client in [fresh, used] {
        assert!(client.is_closed());
    }
    ends(processor);
}

#[test]
fn a_stop_while_requests_are_waited_for_ends_it() {
    let (processor, _client) = holding();
    change(&processor, "hello.py", &source("second"));
    processor.stderr.wait_for("what it waits for", |line| line.contains(WAITS));
    ends(processor);
}

#[test]
fn a_stop_while_a_handler_is_loaded_again_ends_it() {
    let processor = dev(&source("first"));
    answers(&processor, "first");
    let hangs =
        "import os, time\nopen(os.path.dirname(__file__) + '/loading', 'w').close()\ntime.sleep(600)\n";
    change(&processor, "hello.py", hangs);
    let loading = processor.directory.path().join("loading");
    wait_until("it is being loaded", || loading.exists());
    ends(processor);
}

/// Whatever moment it comes in, it is neither lost nor does it end the process without its clean-up.
#[test]
fn a_stop_at_any_moment_of_a_reload_ends_it_cleanly() {
    for (round, signal) in [2, 15].into_iter().cycle().take(24).enumerate() {
        let processor = dev_with("hello.py", "", &source("first"), |_| {});
        answers(&processor, "first");
        change(&processor, "hello.py", &source("second"));
        if round % 4 == 0 {
            // Right when it executes itself.
            processor.stderr.wait_for("the change", |line| line.contains("has changed, starting again"));
        }
        // Any moment will do; these spread over what a reload takes on an idle machine.
        std::thread::sleep(Duration::from_micros(
            1000 * (round as u64 / 4) * if round % 4 == 0 { 1 } else { 20 },
        ));
        processor.signal(signal);
        ends_cleanly(processor);
    }
}
