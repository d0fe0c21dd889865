//! Bodies that handlers take while they arrive: nothing is gathered, the handler's pace is the client's, and every way
//! a body can end has its answer.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::json;

use crate::compiled::{program, rust_counting_program};
use crate::half_close::half_closed;
use crate::harness::{Client, Processor, Setup, wait_until};
use crate::support::{cpp_counter, rust_counter};

/// Counts bytes; what it does besides is the path's to say.
const PYTHON: &str = "
import time
def handler(context, event):
    body = event.body
    if event.path == '/ignore':
        return 'ignored'
    if event.path == '/hold':
        context.logger.warn('holding')
        time.sleep(3)
    if event.path == '/first':
        piece = next(iter(body))
        context.logger.info_with('first', bytes=len(piece))
    if event.path == '/exact':
        total = 0
        for piece in body:
            total += len(piece)
            if total == 200000:
                break
        context.logger.warn('has all')
        time.sleep(5)
        return 'slow'
    if event.path == '/echo':
        return (piece for piece in body)
    try:
        if event.path == '/read':
            return body.read()
        total = sum(len(piece) for piece in body)
    except OSError as error:
        context.logger.info_with('broke off', error=str(error))
        return context.Response(status_code=418, body='late')
    return '%d %s' % (total, event.size)
handler.stream_body = True
";

const ASYNC: &str = "
import asyncio
async def handler(context, event):
    total, first = 0, await event.body.read_async(1)
    async for piece in event.body:
        total += len(piece)
    return str(total + len(first))
handler.stream_body = True
";

/// A library that counts bytes with the header alone.
fn counter() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let build = || {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("count.so");
        let mut command = Command::new("cc");
        command.args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-O1",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
        ]);
        command.arg("-I").arg(root.join("runtimes/rust/include"));
        command.arg(root.join("tests/handlers/c/count.c")).arg("-o").arg(&out);
        let Ok(output) = command.output() else {
            println!("skipped: no C compiler");
            return None;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(out)
    };
    BUILT.get_or_init(build).clone()
}

/// Each way to run a handler that counts.
fn everywhere(check: impl Fn(Setup)) {
    check(Setup::python(PYTHON));
    check(Setup::python(ASYNC));
    if let Some(library) = counter() {
        check(Setup::library(&library));
        check(Setup::library(&library).env("COUNT_FIXED_THREAD", "1"));
    }
    for library in [cpp_counter(), rust_counter()].into_iter().flatten() {
        check(Setup::library(&library));
    }
    let programs = [Some(rust_counting_program()), program("tests/handlers/cpp/count.cpp", &[])];
    for program in programs.into_iter().flatten() {
        check(Setup::library(&program));
    }
}

fn limited(setup: Setup, bytes: usize) -> Setup {
    setup.trigger(json!({"attributes": {"maxRequestBodySize": bytes}}))
}

/// Sends a body in pieces, as chunks or as it is.
fn send(client: &mut Client, chunked: bool, pieces: usize, piece: &[u8]) {
    for _ in 0..pieces {
        if chunked {
            client.send(format!("{:x}\r\n", piece.len()).as_bytes());
        }
        client.send(piece);
        if chunked {
            client.send(b"\r\n");
        }
    }
    if chunked {
        client.send(b"0\r\n\r\n");
    }
}

fn head(path: &str, chunked: bool, bytes: usize) -> Vec<u8> {
    let framing =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {bytes}") };
    format!("POST {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n").into_bytes()
}

/// Most memory a process has ever had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn large_bodies_pass_through_with_flat_memory() {
    let (pieces, piece) = (256, vec![b'x'; 1 << 18]);
    let bytes = pieces * piece.len();
    everywhere(|setup| {
        let processor = limited(setup, bytes).start();
        let pids: Vec<u32> = std::iter::once(processor.child.id())
            .chain(processor.children().iter().map(|pid| *pid as u32))
            .collect();
        let before: u64 = pids.iter().map(|pid| peak(*pid)).sum();
        for chunked in [false, true] {
            let mut client = Client::connect(processor.http());
            client.send(&head("/", chunked, bytes));
            send(&mut client, chunked, pieces, &piece);
            let answer = client.read_answer(false).unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.text().starts_with(&bytes.to_string()), "{}", answer.text());
            assert_eq!(answer.header("Connection"), None, "all of it was read");
            client.send(&head("/", true, 0));
            send(&mut client, true, 3, b"next");
            assert!(client.read_answer(false).unwrap().text().starts_with("12"));
        }
        let grown = pids.iter().map(|pid| peak(*pid)).sum::<u64>() - before;
        assert!(grown < 24 << 20, "{grown} bytes more for a body of {bytes}");
    });
}

#[test]
fn small_bodies_and_none_look_the_same_to_the_handler() {
    everywhere(|setup| {
        let processor = setup.start();
        assert!(processor.post("/", "12345").text().starts_with('5'));
        assert!(processor.get("/").text().starts_with('0'));
        assert!(processor.post("/", &"x".repeat(65_536)).text().starts_with("65536"));
        assert!(processor.post("/", &"x".repeat(65_537)).text().starts_with("65537"));
    });
}

#[test]
fn a_handler_in_c_repeats_headers_of_its_answer() {
    let Some(library) = counter() else { return };
    let processor = Setup::library(&library).start();
    for body in [3, 100_000] {
        let answer = processor.post("/", &"x".repeat(body));
        assert_eq!(answer.text(), format!("{body} c"));
        assert_eq!(answer.values("Set-Cookie"), ["a=1", "b=2"]);
        assert_eq!(answer.values("X-Counted"), ["1"]);
    }
}

#[test]
fn bodies_up_to_64_kib_are_read_before_a_worker_has_them_and_larger_ones_are_not() {
    everywhere(|setup| {
        let processor = setup.start();
        let mut whole = Client::connect(processor.http());
        whole.send(&head("/", false, 65_536));
        whole.send(&[b'x'; 65_535]);
        std::thread::sleep(Duration::from_millis(50));
        let mut streamed = Client::connect(processor.http());
        streamed.send(&head("/", false, 65_537));
        processor.wait_in_flight(1); // The one worker has it, so that the other one does not.
        streamed.send(&[b'x'; 65_537]);
        assert!(streamed.read_answer(false).unwrap().text().starts_with("65537"));
        processor.wait_in_flight(0);
        whole.send(b"x");
        assert!(whole.read_answer(false).unwrap().text().starts_with("65536"));
    });
}

/// A body on its way counts 256 KiB, or what it can have at most.
#[test]
fn bodies_on_their_way_find_room_for_what_is_under_way_of_them() {
    let room = |bytes: &str, body_bytes_max: usize| {
        let setup = Setup::python(PYTHON).env("NUCLIO_BODY_BYTES_IN_FLIGHT_MAX", bytes);
        limited(setup, body_bytes_max).trigger(json!({"numWorkers": 2})).start()
    };
    let two = 2 * (256 << 10);
    for (bytes, fits) in [(two, true), (two - 1, false)] {
        let processor = room(&bytes.to_string(), 1 << 20);
        let mut clients: Vec<Client> = (0..2).map(|_| Client::connect(processor.http())).collect();
        for (place, client) in clients.iter_mut().enumerate() {
            client.send(&head("/", true, 0));
            client.send(b"3\r\nabc\r\n");
            if place == 0 || fits {
                processor.wait_in_flight(place + 1);
            }
        }
        clients[0].send(b"0\r\n\r\n");
        if fits {
            clients[1].send(b"0\r\n\r\n");
        }
        let statuses = clients.iter_mut().map(|client| client.read_answer(false).unwrap().status);
        assert_eq!(statuses.collect::<Vec<_>>(), [200, if fits { 200 } else { 503 }]);
    }
    let processor = room("100000", 100_000);
    let mut client = Client::connect(processor.http());
    client.send(&head("/", true, 0));
    send(&mut client, true, 1, b"abc");
    assert_eq!(
        client.read_answer(false).unwrap().text(),
        "3 None",
        "it cannot have more than there is room for"
    );
    client.send(&head("/", false, 100_000));
    client.send(&[b'x'; 100_000]);
    assert_eq!(client.read_answer(false).unwrap().text(), "100000 None");
}

#[test]
fn bodies_arrive_whole_and_in_order_and_can_be_sent_back_while_they_arrive() {
    let processor = limited(Setup::python(PYTHON), 1 << 20).start();
    let body: Vec<u8> = (0..700_000_u32).flat_map(|n| [(n % 251) as u8]).collect();
    for path in ["/read", "/echo"] {
        for chunked in [false, true] {
            let mut client = Client::connect(processor.http());
            client.stream().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut sender = Client::over(client.stream().try_clone().unwrap());
            let (bytes, head) = (body.clone(), head(path, chunked, body.len()));
            let sending = std::thread::spawn(move || {
                sender.send(&head);
                if chunked {
                    for piece in bytes.chunks(70_001) {
                        sender.send(format!("{:x};x=y\r\n", piece.len()).as_bytes());
                        sender.send(piece);
                        sender.send(b"\r\n");
                    }
                    sender.send(b"0\r\nX-Late: 1\r\n\r\n");
                } else {
                    sender.send(&bytes);
                }
            });
            let answer = client.read_answer(false).unwrap();
            assert!(answer.status == 200 && answer.body == body, "{path} {chunked} {}", answer.body.len());
            sending.join().unwrap();
        }
    }
}

#[test]
fn a_handler_sees_what_has_come_before_the_rest() {
    let processor = Setup::python(PYTHON).start();
    let mut client = Client::connect(processor.http());
    client.send(&head("/first", true, 0));
    client.send(b"3\r\nabc\r\n");
    assert_eq!(processor.stdout.wait_for_record("first")["more"]["bytes"], 3);
    client.send(b"2\r\nde\r\n0\r\n\r\n");
    assert_eq!(client.read_answer(false).unwrap().text(), "2 None");
}

/// Writes until nothing more is taken for a while; returns how much was.
fn fill(stream: &mut TcpStream) -> usize {
    stream.set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let (piece, mut sent) = (vec![b'x'; 1 << 16], 0);
    while let Ok(bytes) = stream.write(&piece) {
        sent += bytes;
    }
    sent
}

#[test]
fn a_handler_that_does_not_read_holds_its_client_up() {
    let processor = limited(Setup::python(PYTHON), 1 << 30).start();
    let mut stream = TcpStream::connect(processor.http()).unwrap();
    stream.write_all(&head("/hold", false, 1 << 30)).unwrap();
    processor.stdout.wait_for_record("holding");
    let before = peak(processor.child.id());
    let sent = fill(&mut stream);
    assert!(sent < 32 << 20, "{sent} bytes were taken that nobody reads");
    assert!(peak(processor.child.id()) - before < 8 << 20);
}

#[test]
fn a_handler_that_answers_without_reading_ends_the_connection() {
    let processor = limited(Setup::python(PYTHON), 1 << 30).start();
    for chunked in [false, true] {
        let mut client = Client::connect(processor.http());
        client.send(&head("/ignore", chunked, 10 << 20));
        client.send(b"5\r\nabcde\r\n");
        let answer = client.read_answer(false).unwrap();
        assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
        assert!(client.is_closed());
    }
    assert_eq!(processor.post("/", "abc").text(), "3 3");
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn the_limit_of_a_body_holds_while_it_arrives() {
    let over = |processor: &Processor, chunked: bool| {
        let mut client = Client::connect(processor.http());
        client.send(&head("/", chunked, 300_001));
        if chunked {
            send(&mut client, true, 3, &[b'x'; 100_000]);
        }
        client
    };
    everywhere(|setup| {
        let processor = limited(setup, 300_000).start();
        let mut client = over(&processor, true);
        assert_eq!(client.read_answer(false).unwrap().text().split(' ').next(), Some("300000"));
        let mut client = Client::connect(processor.http());
        client.send(&head("/", true, 0));
        send(&mut client, true, 4, &[b'x'; 80_000]);
        let answer = client.read_answer(false).unwrap();
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert!(answer.text().contains("maxRequestBodySize") && client.is_closed());
        let answer = over(&processor, false).read_answer(false).unwrap();
        assert_eq!(answer.status, 413, "announced");
        assert!(processor.post("/", "abc").text().starts_with('3'), "the worker serves on");
        processor.wait_in_flight(0);
        assert_eq!(processor.all_restarts(), 0);
    });
}

#[test]
fn a_client_that_leaves_in_the_middle_fails_the_read_and_nothing_else() {
    everywhere(|setup| {
        let processor = setup.start();
        for (chunked, half) in [(false, &b"half"[..]), (true, b"4\r\nhalf\r\n"), (true, b"400\r\nhalf")] {
            for way in [Shutdown::Write, Shutdown::Both] {
                let mut client = Client::connect(processor.http());
                client.send(&head("/", chunked, 100_000));
                client.send(half);
                std::thread::sleep(Duration::from_millis(20));
                client.stream().shutdown(way).unwrap();
                if way == Shutdown::Write {
                    assert_eq!(client.read_answer(false).unwrap().status, 400);
                }
            }
        }
        assert!(processor.post("/", "abc").text().starts_with('3'));
        processor.wait_in_flight(0);
        assert_eq!(processor.all_restarts(), 0);
    });
}

/// A request whose chunks are all there, and no further ones.
fn whole(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n")
}

#[test]
fn what_has_come_whole_is_handled_although_its_client_has_closed_its_half() {
    let two = format!("POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\na{}", whole("/"));
    everywhere(|setup| {
        let processor = setup.start();
        for _ in 0..20 {
            let answer = half_closed(&processor, &whole("/")).read_answer(false).unwrap();
            assert!(answer.text().starts_with('2'), "{} {}", answer.status, answer.text());
        }
        let mut client = half_closed(&processor, &two);
        for bytes in ['1', '2'] {
            let answer = client.read_answer(false).unwrap();
            assert!(answer.text().starts_with(bytes), "{} {}", answer.status, answer.text());
        }
        assert!(client.is_closed());
    });
    // The end has been seen for long when they are read.
    let processor = Setup::python(PYTHON).start();
    let mut first = Client::connect(processor.http());
    first.send_post("/hold", b"abc");
    processor.stdout.wait_for_record("holding");
    let mut waits = half_closed(&processor, &whole("/"));
    let mut pipelined = half_closed(&processor, &two);
    processor.wait_waiting(2);
    assert_eq!(first.read_answer(false).unwrap().text(), "3 3");
    assert_eq!(waits.read_answer(false).unwrap().text(), "2 None");
    assert_eq!(pipelined.read_answer(false).unwrap().text(), "1 1");
    assert_eq!(pipelined.read_answer(false).unwrap().text(), "2 None");
    let more_than_is_read_ahead =
        format!("POST /hold HTTP/1.1\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000));
    let mut waits = half_closed(&processor, &more_than_is_read_ahead);
    assert_eq!(waits.read_answer(false).unwrap().text(), "300000 None");
}

#[test]
fn a_client_that_leaves_is_noticed_although_the_handler_does_not_ask_for_the_end_of_its_body() {
    let processor = Setup::python(PYTHON).start();
    let mut client = Client::connect(processor.http());
    client.send(&head("/exact", false, 200_000));
    client.send(&[b'x'; 200_000]);
    processor.stdout.wait_for_record("has all");
    client.reset();
    wait_until("its leaving is counted", || {
        processor.metric("nuclio_processor_event_failures_total", &["cause=\"client_left\""]) == 1.0
    });
    assert_eq!(processor.metric("nuclio_processor_events_in_flight", &[]), 1.0, "the handler goes on");
}

#[test]
fn an_event_whose_body_is_refused_on_the_way_counts_as_refused_and_not_as_left_by_its_client() {
    everywhere(|setup| {
        let processor = limited(setup, 100_000).start();
        let failed = |cause: &str| {
            let parts = [format!("cause=\"{cause}\"")];
            processor.metric("nuclio_processor_event_failures_total", &[&parts[0]])
        };
        let begin = |chunk: &[u8]| {
            let mut client = Client::connect(processor.http());
            client.send(&head("/", true, 0));
            client.send(b"4\r\nhalf\r\n");
            client.send(chunk);
            client
        };
        let mut client = begin(b"");
        send(&mut client, true, 2, &[b'x'; 60_000]);
        assert_eq!(client.read_answer(false).unwrap().status, 413);
        wait_until("the limit is counted", || failed("refused") == 1.0);
        assert_eq!(begin(b"no size\r\n").read_answer(false).unwrap().status, 400);
        wait_until("the malformed chunk is counted", || failed("refused") == 2.0);
        assert_eq!(failed("client_left"), 0.0);
        drop(begin(b""));
        wait_until("the client that left is counted", || failed("client_left") == 1.0);
        assert_eq!(failed("refused"), 2.0);
        assert_eq!(failed("handler"), 0.0);
        let parts = ["result=\"failure\""];
        assert_eq!(processor.metric("nuclio_processor_handled_events_total", &parts), 3.0);
    });
}

#[test]
fn what_a_handler_is_told_names_the_reason() {
    let processor = Setup::python(PYTHON).start();
    let mut client = Client::connect(processor.http());
    client.send(&head("/", false, 100_000));
    client.send(b"half");
    drop(client);
    let record = processor.stdout.wait_for_record("broke off");
    assert!(record["more"]["error"].as_str().unwrap().contains("broke off"), "{record}");
}

#[test]
fn a_body_that_never_ends_ends_at_the_deadline() {
    everywhere(|setup| {
        let processor = setup.spec(json!({"eventTimeout": "400ms"})).start();
        let mut client = Client::connect(processor.http());
        client.send(&head("/", true, 0));
        client.send(b"3\r\nabc\r\n");
        let answer = client.read_answer(false).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (408, r#"{"error": "handler timed out"}"#));
        assert!(client.is_closed());
        wait_until("the worker is back", || processor.post("/", "abc").text().starts_with('3'));
    });
}

#[test]
fn a_client_is_asked_for_its_body_when_the_handler_wants_it() {
    let expect = |path: &str, bytes: usize| {
        format!("POST {path} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {bytes}\r\n\r\n")
            .into_bytes()
    };
    let processor = limited(Setup::python(PYTHON), 1 << 20).start();
    let mut client = Client::connect(processor.http());
    client.send(&expect("/ignore", 100_000));
    let answer = client.read_answer(false).unwrap();
    assert_eq!((answer.status, answer.interim.len()), (200, 0), "nobody wanted it");
    assert!(client.is_closed());
    let mut client = Client::connect(processor.http());
    client.send(&expect("/", 100_000));
    client.wait_for_continue();
    client.send(&[b'x'; 100_000]);
    assert_eq!(client.read_answer(false).unwrap().text(), "100000 None");
    let mut client = Client::connect(processor.http());
    client.send(&expect("/", (1 << 20) + 1));
    let answer = client.read_answer(false).unwrap();
    assert_eq!((answer.status, answer.interim.len()), (413, 0));
    let mut client = Client::connect(processor.http());
    client.send(&expect("/__internal/health", 5));
    let answer = client.read_answer(false).unwrap();
    assert_eq!((answer.status, answer.interim.len()), (200, 0), "nobody reads it");
    assert!(client.is_closed());
}

#[test]
fn many_bodies_at_once_do_not_stop_the_threads_that_bring_them() {
    let Some(library) = counter() else { return };
    let setup = Setup::library(&library).trigger(json!({"numWorkers": 40}));
    let processor = limited(setup, 1 << 20).start();
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(processor.http())).collect();
    for client in &mut clients {
        client.send(&head("/", true, 0));
        client.send(b"3\r\nabc\r\n");
    }
    processor.wait_in_flight(40);
    for client in &mut clients {
        send(client, true, 10, &[b'x'; 10_000]);
    }
    for client in &mut clients {
        assert!(client.read_answer(false).unwrap().text().starts_with("100003"));
    }
}

#[test]
fn an_answer_is_whole_whether_it_is_written_in_one_piece_or_two() {
    let processor = Setup::fake_shim("hello()\nready()\nserve(echo)\n").start();
    let mut client = Client::connect(processor.http());
    for bytes in (1..1200).chain([5000, 100_000]) {
        let body: Vec<u8> = (0..bytes).map(|at| b'a' + (at % 23) as u8).collect();
        client.send_post("/", &body);
        assert_eq!(client.read_answer(false).unwrap().body, body);
    }
}
