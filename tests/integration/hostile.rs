//! Requests that nobody should send: each has its answer, and afterwards the processor serves as before.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::harness::{Answer, Client, Processor, Setup};
use crate::library::rust_library;

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Serves,
    Closes,
}
use Then::{Closes, Serves};

/// Longest wait for an answer or the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A processor whose handler answers `/echo` with the body.
fn start(attributes: serde_json::Value) -> Processor {
    Setup::library(rust_library()).trigger(json!({"numWorkers": 2, "attributes": attributes})).start()
}

fn client(processor: &Processor) -> Client {
    let client = Client::connect(processor.http());
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// One whole exchange on a connection of its own.
fn serves(processor: &Processor) -> bool {
    let mut client = client(processor);
    client.send(b"POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nalive");
    client.read_answer(false).is_ok_and(|answer| (answer.status, answer.body.as_slice()) == (200, b"alive"))
}

/// Sends bytes and expects that answer; `None`: an end without one.
fn check(
    processor: &Processor,
    name: &str,
    bytes: &[u8],
    status: Option<u16>,
    body: Option<&[u8]>,
    then: Then,
) {
    let mut client = client(processor);
    client.send(bytes);
    match (client.read_answer(false), status) {
        (Ok(answer), Some(status)) => {
            assert_eq!(answer.status, status, "{name}: {}", answer.text());
            if let Some(body) = body {
                assert_eq!(answer.text(), String::from_utf8_lossy(body), "{name}");
            }
        }
        (Err(error), None) => assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{name}"),
        (other, status) => panic!("{name}: {other:?}, wanted {status:?}"),
    }
    match then {
        Closes => assert!(client.is_closed(), "{name}: the connection stays open"),
        Serves => {
            client.send(b"POST /echo HTTP/1.1\r\nContent-Length: 4\r\n\r\nnext");
            let next =
                client.read_answer(false).unwrap_or_else(|error| panic!("{name}: no next answer: {error}"));
            assert_eq!(next.text(), "next", "{name}");
        }
    }
    assert!(serves(processor), "{name}: nobody is served afterwards");
}

/// A POST to `/echo` with these header lines and this body.
fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /echo HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}").into_bytes()
}

#[test]
fn heads_that_cannot_be_read_are_answered_and_end_the_connection() {
    let processor = start(json!({}));
    for (name, line) in [
        ("folded line", "X-Fold: a\r\n b\r\n"),
        ("no colon", "X-Fold\r\n"),
        ("empty name", ": x\r\n"),
        ("blank before the colon", "X-A : b\r\n"),
        ("blank in the name", "X A: b\r\n"),
        ("NUL in a name", "X\0A: b\r\n"),
        ("NUL in a value", "X-A: a\0b\r\n"),
        ("CR in a value", "X-A: a\rb\r\n"),
        ("control byte in a value", "X-A: a\x01b\r\n"),
        ("conflicting lengths", "Content-Length: 3\r\nContent-Length: 5\r\n"),
        ("length in a list", "Content-Length: 3, 3\r\n"),
        ("length with a sign", "Content-Length: +3\r\n"),
        ("length below zero", "Content-Length: -3\r\n"),
        ("length in words", "Content-Length: abc\r\n"),
        ("no length", "Content-Length:\r\n"),
        ("endless length", "Content-Length: 99999999999999999999999\r\n"),
        ("unknown transfer encoding", "Transfer-Encoding: gzip\r\n"),
        ("chunked is not the last", "Transfer-Encoding: chunked, gzip\r\n"),
    ] {
        let text: &[u8] = b"Error when parsing request";
        check(&processor, name, &post(line, "abcde"), Some(400), Some(text), Closes);
    }
    for (name, bytes) in [
        ("blank in the host", "GET /echo HTTP/1.1\r\nHost: x y\r\n\r\n"),
        ("port in words", "GET /echo HTTP/1.1\r\nHost: x:http\r\n\r\n"),
        ("open bracket", "GET /echo HTTP/1.1\r\nHost: [::1\r\n\r\n"),
        ("blank in the last host", "GET /echo HTTP/1.1\r\nHost: x\r\nHost: x y\r\n\r\n"),
        ("blank before the first name", "GET /echo HTTP/1.1\r\n Host: x\r\n\r\n"),
        ("NUL in the target", "GET /e\0cho HTTP/1.1\r\n\r\n"),
        ("empty target", "GET  HTTP/1.1\r\n\r\n"),
        ("blank in the target", "GET /e cho HTTP/1.1\r\n\r\n"),
        ("no version", "GET /echo\r\n\r\n"),
        ("another protocol", "GET /echo FOO/1.1\r\n\r\n"),
        ("a version to come", "GET /echo HTTP/3.7\r\n\r\n"),
        ("method that is no token", "G(T /echo HTTP/1.1\r\n\r\n"),
        ("TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"),
    ] {
        check(&processor, name, bytes.as_bytes(), Some(400), None, Closes);
    }
    check(&processor, "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None, None, Closes);
}

#[test]
fn odd_heads_that_can_be_read_are_served() {
    let processor = start(json!({}));
    let many: String = (0..97).map(|number| format!("X-{number}: {number}\r\n")).collect();
    for (name, line) in [
        ("the same length twice", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("blanks round the length", "Content-Length:  5  \r\n"),
        ("bytes that are no UTF-8", "X-A: \u{ff}\u{fe}\r\nContent-Length: 5\r\n"),
        ("a tab in a value", "X-A: a\tb\r\nContent-Length: 5\r\n"),
        ("an upgrade", "Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n"),
        ("many headers", &format!("{many}Content-Length: 5\r\n")),
    ] {
        let latin: Vec<u8> =
            String::from_utf8(post(line, "abcde")).unwrap().chars().map(|c| c as u8).collect();
        check(&processor, name, &latin, Some(200), Some(b"abcde"), Serves);
    }
    let plain = String::from_utf8(post("Content-Length: 5\r\n", "abcde")).unwrap();
    check(&processor, "bare LF", plain.replace("\r\n", "\n").as_bytes(), Some(200), Some(b"abcde"), Serves);
    check(
        &processor,
        "empty lines first",
        format!("\r\n\r\n{plain}").as_bytes(),
        Some(200),
        Some(b"abcde"),
        Serves,
    );
    check(&processor, "no host", b"GET /echo HTTP/1.1\r\n\r\n", Some(200), Some(b""), Serves);
    check(&processor, "any method", b"M-SEARCH /echo HTTP/1.1\r\n\r\n", Some(200), Some(b""), Serves);
    check(&processor, "HTTP/1.0", b"GET /echo HTTP/1.0\r\n\r\n", Some(200), Some(b""), Closes);
    let kept = b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    check(&processor, "HTTP/1.0 kept alive", kept, Some(200), Some(b""), Serves);
}

#[test]
fn chunks_are_read_strictly() {
    let processor = start(json!({"maxRequestBodySize": 1000}));
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    for (name, body) in [
        ("no size", "zz\r\nhi\r\n0\r\n\r\n"),
        ("a size with a sign", "-2\r\nhi\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x2\r\nhi\r\n0\r\n\r\n"),
        ("an endless size", "ffffffffffffffffff\r\nhi\r\n0\r\n\r\n"),
        ("no end of line", "2\r\nhiXX0\r\n\r\n"),
        ("bare LF", "2\nhi\n0\n\n"),
    ] {
        check(&processor, name, &chunked(body), Some(400), Some(b"Error when parsing request"), Closes);
    }
    for (name, extra) in [
        ("a long extension", format!("2;{}\r\nhi\r\n0\r\n\r\n", "e".repeat(20_000))),
        ("a long trailer", format!("2\r\nhi\r\n0\r\nX: {}\r\n\r\n", "t".repeat(20_000))),
    ] {
        check(&processor, name, &chunked(&extra), Some(400), None, Closes);
    }
    for name in ["Host", "Content-Length", "content-type", "Authorization", "Cookie", "X-Nuclio-Log-Level"] {
        let late = chunked(&format!("2\r\nhi\r\n0\r\nX-Fine: 1\r\n{name}: 1\r\n\r\n"));
        check(&processor, name, &late, Some(400), Some(b"Error when parsing request"), Closes);
    }
    let late = chunked("2\r\nhi\r\n0\r\nX-Fine: 1\r\n\r\n");
    check(&processor, "a trailer", &late, Some(200), Some(b"hi"), Serves);
    let extended = chunked("2;a=b;c=\"d\"\r\nhi\r\n0;x\r\n\r\n");
    check(&processor, "extensions", &extended, Some(200), Some(b"hi"), Serves);
    let both = post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "5\r\nabcde\r\n0\r\n\r\n");
    check(&processor, "length and chunks", &both, Some(200), Some(b"abcde"), Closes);
    let piece = format!("1f4\r\n{}\r\n", "b".repeat(500));
    let at_limit = chunked(&format!("{piece}{piece}0\r\n\r\n"));
    check(&processor, "at the limit", &at_limit, Some(200), Some("b".repeat(1000).as_bytes()), Serves);
    let over = chunked(&format!("{piece}{piece}1\r\nb\r\n0\r\n\r\n"));
    check(&processor, "over the limit", &over, Some(413), None, Closes);
}

/// A head of exactly so many bytes.
fn head_of(bytes: usize) -> Vec<u8> {
    let frame = "GET /echo HTTP/1.1\r\nX: \r\n\r\n".len();
    format!("GET /echo HTTP/1.1\r\nX: {}\r\n\r\n", "h".repeat(bytes - frame)).into_bytes()
}

#[test]
fn the_limits_hold_to_the_byte() {
    let limits = json!({"readBufferSize": 8192, "maxRequestBodySize": 100_000});
    for (processor, head, body) in [(start(json!({})), 16_384, 4_194_304), (start(limits), 8192, 100_000)] {
        check(&processor, "head at the limit", &head_of(head), Some(200), None, Serves);
        let text: &[u8] = b"Too big request header";
        check(&processor, "head over the limit", &head_of(head + 1), Some(431), Some(text), Closes);
        check(&processor, "head far over the limit", &head_of(head * 20), Some(431), None, Closes);
        let of = |bytes: usize| post(&format!("Content-Length: {bytes}\r\n"), &"b".repeat(bytes));
        check(
            &processor,
            "body at the limit",
            &of(body),
            Some(200),
            Some("b".repeat(body).as_bytes()),
            Serves,
        );
        check(&processor, "body over the limit", &of(body + 1), Some(413), None, Closes);
        check(&processor, "body far over the limit", &of(body * 3), Some(413), None, Closes);
        // The head comes in two pieces, so that the limit is not that of one read.
        let mut client = client(&processor);
        let bytes = head_of(head);
        client.send(&bytes[..head / 2]);
        std::thread::sleep(Duration::from_millis(20));
        client.send(&bytes[head / 2..]);
        assert_eq!(client.read_answer(false).unwrap().status, 200);
    }
}

#[test]
fn a_hundred_headers_are_served_and_one_more_is_refused() {
    let processor = start(json!({}));
    for (number, status, text, then) in
        [(99, 200, &b"abcde"[..], Serves), (100, 431, b"Too big request header", Closes)]
    {
        let many: String = (2..=number).map(|number| format!("X-{number}: {number}\r\n")).collect();
        let bytes = post(&format!("{many}Content-Length: 5\r\n"), "abcde");
        check(&processor, "headers", &bytes, Some(status), Some(text), then);
    }
    let target = |bytes: usize| {
        let query = "q".repeat(bytes - "/echo?".len());
        format!("GET /echo?{query} HTTP/1.1\r\n\r\n").into_bytes()
    };
    let processor = start(json!({"readBufferSize": 200_000}));
    check(&processor, "the longest target", &target(65_534), Some(200), None, Serves);
    check(
        &processor,
        "too long a target",
        &target(65_535),
        Some(414),
        Some(b"Too long request target"),
        Closes,
    );
}

#[test]
fn a_slow_sender_is_served() {
    let processor = start(json!({}));
    let mut client = client(&processor);
    for byte in post("Content-Length: 5\r\n", "abcde") {
        client.send(&[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(client.read_answer(false).unwrap().text(), "abcde");
    assert!(serves(&processor));
}

#[test]
fn a_hundred_requests_in_a_row_are_answered_in_order() {
    let processor = start(json!({}));
    let mut client = client(&processor);
    let requests: Vec<u8> =
        (100..200).flat_map(|number| post("Content-Length: 3\r\n", &number.to_string())).collect();
    client.send(&requests);
    for number in 100..200 {
        assert_eq!(client.read_answer(false).unwrap().text(), number.to_string());
    }
    // What follows a request and is none ends the connection, after the answer.
    client.send(&[post("Content-Length: 2\r\n", "hi"), b"\0\0\0 what\r\n\r\n".to_vec()].concat());
    assert_eq!(client.read_answer(false).unwrap().text(), "hi");
    assert_eq!(client.read_answer(false).unwrap().status, 400);
    assert!(client.is_closed() && serves(&processor));
}

/// Sends a head that announces a body, and no body.
fn announce(processor: &Processor, line: &str, headers: &str) -> Answer {
    let mut client = client(processor);
    client.send(format!("{line} HTTP/1.1\r\nContent-Length: 10\r\n{headers}\r\n").as_bytes());
    let answer = client.read_answer(false).unwrap();
    assert!(client.is_closed(), "{line}");
    answer
}

#[test]
fn an_answer_that_does_not_wait_for_the_body_says_that_it_is_the_last() {
    let setup = Setup::library(rust_library()).env("NUCLIO_BODY_BYTES_IN_FLIGHT_MAX", "9");
    let cors = json!({"enabled": true, "allowOrigins": ["http://ok.example"]});
    let processor = setup.trigger(json!({"attributes": {"cors": cors}})).start();
    let refused = "Origin: http://bad.example\r\nX-Nuclio-Log-Level: info\r\n";
    let preflight = "Origin: http://ok.example\r\nAccess-Control-Request-Method: GET\r\n";
    for (line, headers, status) in [
        ("POST /__internal/health", "", 200),
        ("OPTIONS /echo", preflight, 200),
        ("POST /echo", refused, 403),
        ("POST /echo", "", 503),
    ] {
        let answer = announce(&processor, line, headers);
        assert_eq!((answer.status, answer.header("Connection")), (status, Some("close")), "{line}");
        assert_eq!(answer.header("X-Nuclio-Logs"), headers.contains("Log-Level").then_some("[]"), "{line}");
    }
    let handled = |result| processor.metric("nuclio_processor_handled_events_total", &[result]);
    assert_eq!((handled("success"), handled("failure")), (1.0, 2.0), "the preflight; the two refused");
}

#[test]
fn bodies_that_are_only_announced_keep_nobody_out() {
    let processor = Setup::library(rust_library()).env("NUCLIO_BODY_BYTES_IN_FLIGHT_MAX", "3000000").start();
    let announced = post("Content-Length: 900000\r\n", "a");
    let mut idle: Vec<Client> = (0..20).map(|_| client(&processor)).collect();
    idle.iter_mut().for_each(|client| client.send(&announced));
    assert!(serves(&processor));
    let sent = "b".repeat(1_000_000);
    assert_eq!(processor.post("/echo", &sent).status, 200);
    let too_much = "b".repeat(3_500_000);
    assert_eq!(processor.post("/echo", &too_much).status, 503);
    assert_eq!(processor.post("/echo", &sent).status, 200, "what was refused gave its room back");
}

/// A slow upload reads its answer only when it has sent everything.
#[test]
fn who_still_sends_after_a_refusal_reads_it_at_the_end() {
    let processor = start(json!({"maxRequestBodySize": 10}));
    let mut client = client(&processor);
    client.send(&post("Content-Length: 2500\r\n", ""));
    for _ in 0..25 {
        client.stream().write_all(&[b'x'; 100]).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(client.read_answer(false).unwrap().status, 413);
    assert!(client.is_closed());
}

#[test]
fn a_stream_without_chunks_ends_with_its_connection_and_says_so() {
    let processor = start(json!({}));
    let mut client = client(&processor);
    client.send(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.read_answer(false).unwrap();
    assert_eq!((answer.status, answer.header("Connection")), (202, Some("close")));
    assert_eq!(answer.text(), "chunk3;chunk2;chunk1;");
}

#[test]
fn a_status_without_a_name_is_called_unknown() {
    let processor = start(json!({}));
    let mut stream = std::net::TcpStream::connect(processor.http()).unwrap();
    let request = b"GET / HTTP/1.0\r\nX-Behaviour: {\"kind\": \"respond\", \"status\": 799}\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.0 799 Unknown Status Code\r\n"), "{answer}");
}

/// Starts it with these limits of open files.
fn start_with_files(limits: &'static str) -> Processor {
    Setup::builtin().start_redirected(move |command| {
        let mut limited = Command::new("sh");
        let script = format!("ulimit {limits} && exec \"$0\" \"$@\"");
        limited.arg("-c").arg(script).arg(command.get_program()).args(command.get_args());
        limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        limited.stdout(Stdio::piped()).stderr(Stdio::piped());
        *command = limited;
    })
}

#[test]
fn a_soft_limit_of_files_is_no_limit_of_connections() {
    let processor = start_with_files("-S -n 64");
    let idle: Vec<Client> = (0..100).map(|_| client(&processor)).collect();
    assert_eq!(processor.get("/").status, 200);
    drop(idle);
}

#[test]
fn without_files_new_clients_wait_and_the_operator_is_told() {
    let processor = start_with_files("-n 64");
    let idle: Vec<Client> = (0..100).map(|_| client(&processor)).collect();
    let record = processor.stdout.wait_for_record("Failed to accept a connection");
    assert!(record["more"]["err"].as_str().unwrap().contains("open files"), "{record}");
    drop(idle);
    assert_eq!(processor.get("/").status, 200);
    let records = processor.stdout.records();
    let told = records.iter().filter(|record| record["message"] == "Failed to accept a connection").count();
    assert_eq!(told, 1, "once in a while is enough");
}

/// Answers that the trigger gives by itself bring the logs that were asked for.
#[test]
fn logs_come_with_refusals_too() {
    let processor = start(json!({"maxRequestBodySize": 10}));
    let answer = processor
        .request("POST /echo HTTP/1.1\r\nX-Nuclio-Log-Level: info\r\nContent-Length: 11\r\n\r\n", b"");
    assert_eq!((answer.status, answer.header("X-Nuclio-Logs")), (413, Some("[]")));
}

/// Sends bytes that may be anything, ends the sending half, reads to the end: the processor must be there afterwards.
fn survives(processor: &Processor, bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut client = client(processor);
    client.send(bytes);
    drop(client.stream().shutdown(Shutdown::Write));
    let mut rest = Vec::new();
    let read = std::io::Read::read_to_end(&mut client.stream(), &mut rest);
    let waits = read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    prop_assert!(!waits, "the connection does not end");
    prop_assert!(rest.is_empty() || rest.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&rest));
    prop_assert!(serves(processor));
    Ok(())
}

fn generate<S: Strategy<Value = Vec<u8>>>(cases: u32, bytes: S) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let processor = start(json!({"maxRequestBodySize": 4096}));
    runner.run(&bytes, |bytes| survives(&processor, &bytes)).unwrap();
}

#[test]
fn any_bytes_leave_the_processor_serving() {
    generate(300, prop::collection::vec(any::<u8>(), 0..2000));
}

#[test]
fn requests_with_a_few_bytes_changed_leave_the_processor_serving() {
    let seeds = [
        post("Content-Length: 5\r\nCookie: a=b\r\nX-Nuclio-Log-Level: debug\r\n", "abcde"),
        post(
            "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n",
            "3;e=f\r\nabc\r\n2\r\nde\r\n0\r\nX-T: t\r\n\r\n",
        ),
        post("Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n", "{}"),
        b"OPTIONS http://h.example:80/a/../%2e/%00?a=%zz&b#c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
            .to_vec(),
    ];
    let changed =
        (0..seeds.len(), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..8));
    let changed = changed.prop_map(move |(seed, changes)| {
        let mut bytes = seeds[seed].clone();
        for (at, byte, how) in changes {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    });
    generate(500, changed);
}
