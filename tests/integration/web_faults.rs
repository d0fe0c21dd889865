//! What web applications do wrong, and what is done to them: each mistake is answered, said once, and costs no worker.

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Processor, Setup, wait_until};

/// An application that needs no framework.
fn raw(source: &str) -> Setup {
    let setup = Setup::new("python", "main:app");
    setup.write("main.py", source);
    setup.python_environment()
}

fn get(processor: &Processor, path: &str) -> Answer {
    processor.request(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"), b"")
}

/// A client that has sent its request and reads as it likes.
fn asking(processor: &Processor, path: &str) -> Client {
    let mut client = Client::connect(processor.http());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    client
}

fn errors(processor: &Processor) -> Vec<Value> {
    let records = processor.stdout.records();
    records.into_iter().filter(|record| record["level"] == "error").collect()
}

/// Each path gets a plain 500, and the log one error that says so; the worker serves on.
fn check_mistakes(processor: &Processor, mistakes: &[(&str, &str)]) {
    for (number, (path, said)) in mistakes.iter().enumerate() {
        let answer = get(processor, &format!("/{path}"));
        assert_eq!((answer.status, answer.text().as_str()), (500, "Internal Server Error"), "{path}");
        assert_eq!(get(processor, "/fine").text(), "fine", "after {path}");
        wait_until("it is logged", || errors(processor).len() > number);
        let errors = errors(processor);
        assert_eq!(errors.len(), number + 1, "{path}: {errors:?}");
        assert!(errors[number].to_string().contains(said), "{path}: {}", errors[number]);
    }
    assert_eq!(processor.all_restarts(), 0);
}

/// `start` and `body` send, each path is a function.
const ASGI: &str = "
import asyncio, time
seen = []
async def app(scope, receive, send):
    if scope['type'] != 'http':
        raise ValueError('none here')
    async def start(status=200, headers=()):
        await send({'type': 'http.response.start', 'status': status, 'headers': headers})
    async def body(data=b'', more=False):
        await send({'type': 'http.response.body', 'body': data, 'more_body': more})
    await globals()[scope['path'][1:]](receive, start, body)
async def fine(receive, start, body): await start(); await body(b'fine')
async def show(receive, start, body): await start(); await body(repr(seen).encode())
";

fn asgi(functions: &str) -> Setup {
    raw(&format!("{ASGI}{functions}"))
}

const ASGI_MISTAKES: &str = "
async def raises(receive, start, body): raise ValueError('early')
async def exits(receive, start, body): raise SystemExit(3)
async def interrupts(receive, start, body): raise KeyboardInterrupt
async def base(receive, start, body): raise BaseException('odd')
async def nothing(receive, start, body): pass
async def half(receive, start, body): await start()
async def start_twice(receive, start, body): await start(); await start()
async def body_first(receive, start, body): await body(b'x')
async def text_body(receive, start, body): await start(); await body('text')
async def text_status(receive, start, body): await start('200'); await body(b'')
async def negative(receive, start, body): await start(-1); await body(b'')
async def interim(receive, start, body): await start(100); await body(b'')
async def out_of_range(receive, start, body): await start(70000); await body(b'')
async def no_status(receive, start, body): await start(None); await body(b'')
async def no_headers(receive, start, body): await start(200, None); await body(b'')
async def lone_header(receive, start, body): await start(200, [(b'a',)]); await body(b'')
async def int_length(receive, start, body): await start(200, [(b'content-length', 2)]); await body(b'ab')
async def text_headers(receive, start, body): await start(200, [('a', 'b')]); await body(b'')
async def split(receive, start, body): await start(200, [(b'a', b'b\\r\\nc: d')]); await body(b'')
async def nul(receive, start, body): await start(200, [(b'a', b'b\\0')]); await body(b'')
async def no_number(receive, start, body): await start(200, [(b'content-length', b'many')]); await body(b'')
async def too_long(receive, start, body): await start(200, [(b'content-length', b'1')]); await body(b'ab')
async def too_short(receive, start, body): await start(200, [(b'content-length', b'3')]); await body(b'ab')
async def unsent(receive, start, body): await start(); await body(b'a', True); raise ValueError('nothing was sent')
";

#[test]
fn mistakes_of_asgi_applications_before_anything_was_sent_are_a_500_and_one_error_each() {
    let processor = asgi(ASGI_MISTAKES).start();
    check_mistakes(
        &processor,
        &[
            ("raises", "ValueError: early"),
            ("exits", "SystemExit: 3"),
            ("interrupts", "KeyboardInterrupt"),
            ("base", "BaseException: odd"),
            ("nothing", "returned without starting response"),
            ("half", "returned without completing response"),
            ("start_twice", "Expected ASGI message 'http.response.body', but got 'http.response.start'"),
            ("body_first", "Expected ASGI message 'http.response.start', but got 'http.response.body'"),
            ("text_body", "a bytes-like object is required, not 'str'"),
            ("text_status", "the status of a response must be an int, not '200'"),
            ("negative", "the status -1 is not one of a final response"),
            ("interim", "the status 100 is not one of a final response"),
            ("out_of_range", "the status 70000 is not one of a final response"),
            ("no_status", "the status of a response must be an int, not None"),
            ("no_headers", "names and values of headers must be bytes: None"),
            ("lone_header", "names and values of headers must be bytes: [(b'a',)]"),
            ("int_length", "names and values of headers must be bytes: [(b'content-length', 2)]"),
            ("text_headers", "names and values of headers must be bytes: [('a', 'b')]"),
            ("split", "a header has a NUL or the end of a line in it"),
            ("nul", "a header has a NUL or the end of a line in it"),
            ("no_number", "the Content-Length is no number: b'many'"),
            ("too_long", "Response content longer than Content-Length"),
            ("too_short", "Response content shorter than Content-Length"),
            ("unsent", "ValueError: nothing was sent"),
        ],
    );
}

const WSGI: &str = "
import os, sys, time
closed = []
def app(environ, start):
    return globals()[environ['PATH_INFO'][1:]](environ, start)
def fine(environ, start): start('200 OK', []); return [b'fine']
def show(environ, start): start('200 OK', []); return [repr(closed).encode()]
";

fn wsgi(functions: &str) -> Setup {
    raw(&format!("{WSGI}{functions}"))
}

const WSGI_MISTAKES: &str = "
def raises(environ, start): raise ValueError('early')
def exits(environ, start): sys.exit(3)
def interrupts(environ, start): raise KeyboardInterrupt
def unstarted(environ, start): return [b'x']
def nothing(environ, start): start('200 OK', [])
def bytes_alone(environ, start): start('200 OK', []); return b'bytes'
def text_alone(environ, start): start('200 OK', []); return 'text'
def numbers(environ, start): start('200 OK', []); return iter([1, 2])
def int_length(environ, start): start('200 OK', [('Content-Length', 2)]); return [b'ab']
def start_twice(environ, start): start('200 OK', []); start('200 OK', []); return []
def text_body(environ, start): start('200 OK', []); return ['text']
def text_pieces(environ, start): start('200 OK', []); return iter(['text'])
def number(environ, start): start(200, []); return []
def negative(environ, start): start('-1 No', []); return []
def interim(environ, start): start('100 Continue', []); return []
def bytes_headers(environ, start): start('200 OK', [(b'a', b'b')]); return []
def split(environ, start): start('200 OK', [('a', 'b\\r\\nc: d')]); return []
def wide(environ, start): start('200 OK', [('a', '\\u20ac')]); return []
def no_number(environ, start): start('200 OK', [('Content-Length', '-1')]); return []
def too_long(environ, start): start('200 OK', [('Content-Length', '1')]); return [b'ab']
def too_short(environ, start): start('200 OK', [('Content-Length', '3')]); return [b'ab']
def first(environ, start):
    start('200 OK', [])
    raise ValueError('before the first piece')
    yield b''
";

#[test]
fn mistakes_of_wsgi_applications_before_anything_was_sent_are_a_500_and_one_error_each() {
    let processor = wsgi(WSGI_MISTAKES).start();
    check_mistakes(
        &processor,
        &[
            ("raises", "ValueError: early"),
            ("exits", "SystemExit: 3"),
            ("interrupts", "KeyboardInterrupt"),
            ("unstarted", "before it has called start_response"),
            ("nothing", "the application must return an iterable of bytes, such as a list, not NoneType"),
            ("bytes_alone", "the application must return an iterable of bytes, such as a list, not bytes"),
            ("text_alone", "the application must return an iterable of bytes, such as a list, not str"),
            ("numbers", "a bytes-like object is required, not 'int'"),
            ("int_length", "names and values of headers must be str: [('Content-Length', 2)]"),
            ("start_twice", "start_response() is called a second time, without exc_info"),
            ("text_body", "expected a bytes-like object, str found"),
            ("text_pieces", "a bytes-like object is required, not 'str'"),
            ("number", "the status must be a str like '200 OK', not 200"),
            ("negative", "the status must be a str like '200 OK', not '-1 No'"),
            ("interim", "the status 100 is not one of a final response"),
            ("bytes_headers", "names and values of headers must be str: [(b'a', b'b')]"),
            ("split", "a header has a NUL or the end of a line in it"),
            ("wide", "UnicodeEncodeError"),
            ("no_number", "the Content-Length is no number: '-1'"),
            ("too_long", "the answer has 2 bytes, its Content-Length is 1"),
            ("too_short", "the answer has 2 bytes, its Content-Length is 3"),
            ("first", "ValueError: before the first piece"),
        ],
    );
}

/// Status line, headers and the first piece are there; then the connection ends without the last chunk.
fn check_cut_off(mut client: Client, first: &[u8]) {
    assert_eq!(client.read_head().unwrap().status, 200);
    assert_eq!(client.read_chunk().unwrap().as_deref(), Some(first));
    assert!(client.read_chunk().is_err(), "an end like that of a whole answer");
}

#[test]
fn an_asgi_application_that_fails_in_the_middle_of_its_answer_is_cut_off_behind_what_it_has_sent() {
    let processor = asgi("
go = asyncio.Event()
async def fails(receive, start, body): await start(); await body(b'a', True); await go.wait(); raise ValueError('middle')
async def ends(receive, start, body): await start(); await body(b'a', True); await asyncio.sleep(0)
async def release(receive, start, body): go.set(); await start(); await body(b'')
")
    .start();
    let client = asking(&processor, "/fails");
    processor.wait_in_flight(1);
    get(&processor, "/release");
    check_cut_off(client, b"a");
    processor.stdout.wait_for("the traceback", |line| line.contains("ValueError: middle"));
    check_cut_off(asking(&processor, "/ends"), b"a");
    assert_eq!(get(&processor, "/fine").text(), "fine");
    processor.stdout.wait_for("the other", |line| line.contains("returned without completing response"));
    assert_eq!(errors(&processor).len(), 2, "one for each");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_wsgi_application_that_fails_right_behind_its_first_piece_has_sent_that_and_its_head() {
    let processor = wsgi(
        "
def fails(environ, start):
    start('200 OK', [])
    yield b'a'
    raise ValueError('middle')
def short(environ, start):
    start('200 OK', [('Content-Length', '2')])
    yield b'a'
def restarted(environ, start):
    start('200 OK', [])
    yield b'a'
    try:
        raise ValueError('replaced')
    except ValueError:
        start('500 Late', [], sys.exc_info())
",
    )
    .start();
    // Several times: whether the head goes out first must not be a matter of luck.
    for _ in 0..20 {
        check_cut_off(asking(&processor, "/fails"), b"a");
    }
    wait_until("all tracebacks are there", || errors(&processor).len() >= 20);
    assert!(errors(&processor).iter().all(|error| error.to_string().contains("ValueError: middle")));
    assert_eq!(errors(&processor).len(), 20, "one for each");
    check_cut_off(asking(&processor, "/restarted"), b"a");
    let mut short = asking(&processor, "/short");
    assert_eq!(short.read_head().unwrap().header("content-length"), Some("2"));
    let mut body = Vec::new();
    drop(std::io::Read::read_to_end(short.reader(), &mut body));
    assert_eq!(body, b"a");
    assert_eq!(get(&processor, "/fine").text(), "fine");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_generator_that_fails_right_behind_its_first_piece_has_sent_that_and_its_head() {
    let source = "def handler(context, event):\n    yield 'a'\n    raise ValueError('middle')\n";
    let asynchronous = source.replace("def handler", "async def handler");
    for source in [source, &asynchronous] {
        let processor = Setup::python(source).start();
        for _ in 0..20 {
            check_cut_off(asking(&processor, "/"), b"a");
        }
        assert_eq!(processor.all_restarts(), 0);
    }
}

#[test]
fn a_client_that_leaves_an_asgi_answer_or_its_own_body_is_a_disconnect() {
    let processor = asgi(
        "
async def streams(receive, start, body):
    await receive(); await start(); await body(b'a' * 100000, True)
    seen.append((await receive())['type'])
async def takes(receive, start, body):
    kind = 'http.request'
    while kind == 'http.request': kind = (await receive())['type']
    seen.append(kind)
async def forever(receive, start, body):
    await start()
    try:
        while True: await body(b'x' * 1000, True)
    finally:
        seen.append('ended')
async def slow(receive, start, body):
    await start()
    try:
        while True:
            await body(b'x', True)
            await asyncio.sleep(0.1)
    finally:
        seen.append('slow')
",
    )
    .start();
    let count = |expected: &str| get(&processor, "/show").text().matches(expected).count();
    let mut client = asking(&processor, "/streams");
    assert_eq!(client.read_head().unwrap().status, 200);
    drop(client);
    wait_until("it is told of the first", || count("http.disconnect") == 1);
    let mut client = Client::connect(processor.http());
    client.send(b"POST /takes HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n");
    client.send(&[b'x'; 1_500_000]);
    processor.wait_in_flight(1);
    drop(client);
    wait_until("it is told of the second", || count("http.disconnect") == 2);
    // Those that look for nothing are ended by an error from `send`.
    for (path, end) in [("/forever", "ended"), ("/slow", "slow")] {
        let mut client = asking(&processor, path);
        assert_eq!(client.read_head().unwrap().status, 200);
        drop(client);
        wait_until("it has ended", || count(end) == 1);
    }
    wait_until("all places are free", || {
        processor.metric("nuclio_processor_events_in_flight", &[]) as usize == 0
    });
    assert_eq!(errors(&processor), Vec::<Value>::new());
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_client_that_leaves_a_wsgi_answer_has_its_iterable_closed() {
    let processor = wsgi(
        "
class Pieces:
    def __init__(self, name, piece, seconds): self.name, self.piece, self.seconds = name, piece, seconds
    def __iter__(self): return self
    def __next__(self):
        time.sleep(self.seconds)
        return self.piece
    def close(self): closed.append(self.name)
def many(environ, start): start('200 OK', []); return Pieces('many', b'x' * 1000, 0)
def slow(environ, start): start('200 OK', []); return Pieces('slow', b'x', 0.05)
def empty(environ, start): start('200 OK', [])(b'x' * 100000); return Pieces('empty', b'', 0.001)
def takes(environ, start):
    try:
        environ['wsgi.input'].read()
    except OSError:
        closed.append('body')
        raise
",
    )
    .start();
    for (path, name) in [("/many", "many"), ("/slow", "slow"), ("/empty", "empty")] {
        let mut client = asking(&processor, path);
        assert_eq!(client.read_head().unwrap().status, 200);
        drop(client);
        // One request at a time: it has been closed before the next is handled.
        let closed = get(&processor, "/show").text();
        assert!(closed.contains(name), "{path}: {closed}");
    }
    let mut client = Client::connect(processor.http());
    client.send(b"POST /takes HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n");
    client.send(&[b'x'; 1_500_000]);
    processor.wait_in_flight(1);
    drop(client);
    assert!(get(&processor, "/show").text().contains("body"));
    assert_eq!(errors(&processor), Vec::<Value>::new(), "a client that leaves is no error");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn what_comes_after_an_answer_reaches_no_client_and_is_said_once() {
    let processor = asgi(
        "
async def writes(receive, start, body): await start(); await body(b'whole'); await body(b'more')
async def fails(receive, start, body):
    await start(); await body(b'whole')
    await asyncio.sleep(0.01)
    raise ValueError('in the background')
",
    )
    .start();
    let mut client = Client::connect(processor.http());
    for path in ["/writes", "/fails", "/fine"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let answer = client.read_answer(false).unwrap();
        assert_eq!((answer.status, answer.body.len()), (200, if path == "/fine" { 4 } else { 5 }), "{path}");
    }
    for said in ["sent, after response already completed", "ValueError: in the background"] {
        processor.stdout.wait_for(said, |line| line.contains(said));
    }
    assert_eq!(errors(&processor).len(), 2);
    let processor = wsgi(
        "
def late(environ, start):
    closed.append(start('200 OK', []))
    return [b'whole']
def writes(environ, start): closed[0](b'more')
",
    )
    .start();
    assert_eq!(get(&processor, "/late").text(), "whole");
    assert_eq!(get(&processor, "/writes").status, 500);
    let said = "write() is called after the end of the response";
    processor.stdout.wait_for(said, |line| line.contains(said));
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn an_application_that_blocks_past_the_deadline_is_replaced_and_its_caller_gets_408() {
    let block = "async def block(receive, start, body): time.sleep(600)\n";
    let wsgi_block = "def block(environ, start): time.sleep(600)\n";
    for setup in [asgi(block), wsgi(wsgi_block)] {
        let processor = setup.spec(json!({"eventTimeout": "1s"})).start();
        assert_eq!(get(&processor, "/block").status, 408);
        processor.stderr.wait_for("where it was", |line| line.contains("in block"));
        assert_eq!(get(&processor, "/fine").text(), "fine");
        assert_eq!(processor.all_restarts(), 1);
    }
}

#[test]
fn an_application_whose_lifespan_raises_in_the_middle_of_its_start_says_why() {
    let source = "async def app(scope, receive, send):\n    await receive()\n    try:\n        1 / 0\n    \
                  except ZeroDivisionError:\n        await send({'type': 'lifespan.startup.failed', 'message': ''})\n        raise\n";
    let mut processor = raw(source).no_wait().start();
    assert_eq!(processor.wait().code(), Some(1));
    let text = processor.stdout.text() + &processor.stderr.text();
    assert!(text.contains("lifespan startup failed") && text.contains("ZeroDivisionError"), "{text}");
}

#[test]
fn huge_headers_go_both_ways_up_to_the_limit_of_the_trigger() {
    let processor = asgi(
        "
async def large(receive, start, body): await start(200, [(b'x-large', b'x' * 100000)]); await body(b'fine')
",
    )
    .start();
    let answer = get(&processor, "/large");
    assert_eq!((answer.status, answer.header("x-large").unwrap().len()), (200, 100_000));
    let head = format!("GET /fine HTTP/1.1\r\nHost: x\r\nX-Large: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(processor.request(&head, b"").status, 431);
    assert_eq!(get(&processor, "/fine").text(), "fine");
    assert_eq!(processor.all_restarts(), 0);
}

/// How many requests each worker has handled, as the workers themselves say.
fn shares(processor: &Processor, path: &str) -> Vec<usize> {
    let mut counts = std::collections::HashMap::new();
    let clients: Vec<_> = (0..64).map(|_| asking(processor, path)).collect();
    for mut client in clients {
        *counts.entry(client.read_answer(false).unwrap().text()).or_insert(0) += 1;
    }
    let mut counts: Vec<usize> = counts.into_values().collect();
    counts.sort_unstable();
    counts
}

#[test]
fn requests_are_spread_over_the_workers_of_an_application() {
    let processor = asgi("
import os
async def waits(receive, start, body): await asyncio.sleep(0.3); await start(); await body(b'%d' % os.getpid())
async def works(receive, start, body): time.sleep(0.01); await start(); await body(b'%d' % os.getpid())
")
    .trigger(json!({"numWorkers": 2}))
    .start();
    for path in ["/waits", "/works"] {
        let shares = shares(&processor, path);
        assert!(shares.len() == 2 && shares[0] >= 16, "{path}: {shares:?} of 64");
    }
    assert_eq!(processor.all_restarts(), 0);
}
