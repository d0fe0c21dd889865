//! The probe as an image runs it: the real binary against small servers, judged by exit code and output.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Serves one connection with `serve` and answers the address to ask.
fn server(bind: &str, serve: impl FnOnce(TcpStream) + Send + 'static) -> Option<String> {
    let listener = TcpListener::bind(bind).ok()?;
    let address = listener.local_addr().expect("a bound listener has an address");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("the probe connects");
        serve(stream);
    });
    Some(address.to_string())
}

/// A server that reads the request's head and answers with these bytes.
fn answering(bytes: &'static [u8]) -> String {
    server("127.0.0.1:0", move |stream| answer(stream, bytes)).expect("IPv4 loopback can be bound")
}

fn answer(mut stream: TcpStream, bytes: &[u8]) {
    read_head(&mut stream);
    stream.write_all(bytes).expect("the probe reads");
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).expect("the probe writes") == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a request head is ASCII")
}

fn uhttpc(arguments: &[&str]) -> Output {
    // A proxy in the environment must change nothing.
    Command::new(env!("CARGO_BIN_EXE_uhttpc"))
        .args(arguments)
        .env("http_proxy", "http://127.0.0.1:1")
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env_remove("no_proxy")
        .stdin(Stdio::null())
        .output()
        .expect("the probe starts")
}

#[track_caller]
fn check(arguments: &[&str], code: i32, stdout: &str) {
    let output = uhttpc(arguments);
    let found = String::from_utf8_lossy(&output.stdout);
    assert_eq!((output.status.code(), found.as_ref()), (Some(code), stdout), "{arguments:?}");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn two_hundred_is_success_and_says_nothing() {
    let address = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n");
    check(&["--url", &format!("http://{address}/ready")], 0, "");
}

#[test]
fn no_content_is_success_and_a_missing_scheme_means_http() {
    let address = answering(b"HTTP/1.1 204 No Content\r\n\r\n");
    check(&[&format!("-url={address}/ready")], 0, "");
}

#[test]
fn the_request_is_a_plain_get() {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let address = server("127.0.0.1:0", move |mut stream| {
        sender.send(read_head(&mut stream)).expect("the test waits");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("the probe reads");
    })
    .expect("IPv4 loopback can be bound");
    check(&["--url", &format!("http://{address}/ready?a=b c#d")], 0, "");
    let head = receiver.recv().expect("the server saw a request");
    let expected = format!(
        "GET /ready?a=b%20c HTTP/1.1\r\nHost: {address}\r\nUser-Agent: uhttpc\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(head, expected);
}

#[test]
fn service_unavailable_is_failure_and_named() {
    let address = answering(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 3\r\n\r\n{}\n");
    let url = format!("http://{address}/ready");
    check(&["--url", &url], 1, &format!("{url}: answered 503 Service Unavailable\n"));
}

#[test]
fn any_status_restores_the_old_rule() {
    let address = answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n");
    check(&["--any-status", "--url", &address], 0, "");
}

#[test]
fn a_redirect_is_failure_and_not_followed() {
    let address = answering(b"HTTP/1.1 301 Moved Permanently\r\nLocation: http://127.0.0.1:1/\r\n\r\n");
    let url = format!("http://{address}/");
    check(&["--url", &url], 1, &format!("{url}: answered 301 Moved Permanently\n"));
}

#[test]
fn a_server_that_closes_after_the_status_line_is_tolerated() {
    check(&["--url", &answering(b"HTTP/1.1 200 OK\r\n")], 0, "");
}

#[test]
fn garbage_is_failure_and_escaped() {
    let address = answering(b"\x1b[2J\x00%s%n");
    check(&["--url", &address], 1, "the answer is not HTTP: \"\\x1b[2J\\x00%s%n\"\n");
}

#[test]
fn a_closed_port_is_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("IPv4 loopback can be bound");
    let address = listener.local_addr().expect("a bound listener has an address").to_string();
    drop(listener);
    check(&["--url", &address], 1, &format!("failed to connect to {address}: connection refused\n"));
}

#[test]
fn a_server_without_an_answer_is_left_at_the_deadline() {
    let address = server("127.0.0.1:0", |mut stream| {
        read_head(&mut stream);
        // Held open until the probe leaves.
        assert_eq!(stream.read(&mut [0]).expect("the probe closes"), 0);
    })
    .expect("IPv4 loopback can be bound");
    let started = Instant::now();
    let arguments = ["--timeout", "300ms", "--url", &address];
    check(&arguments, 1, "no answer within 300ms (while reading the answer)\n");
    assert!((300..1500).contains(&started.elapsed().as_millis()), "took {:?}", started.elapsed());
}

#[test]
fn trickling_bytes_do_not_move_the_default_deadline() {
    let address = server("127.0.0.1:0", |mut stream| {
        read_head(&mut stream);
        let endless = b"HTTP/1.1 200 OK\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x'));
        for byte in endless {
            thread::sleep(Duration::from_millis(50));
            if stream.write_all(&[*byte]).is_err() {
                break;
            }
        }
    })
    .expect("IPv4 loopback can be bound");
    let started = Instant::now();
    check(&["--url", &address], 1, "no answer within 2.5s (while reading the answer)\n");
    assert!((2500..2950).contains(&started.elapsed().as_millis()), "took {:?}", started.elapsed());
}

#[test]
fn ipv6_is_asked_by_address_and_by_localhost() {
    let serve = |stream| answer(stream, b"HTTP/1.1 200 OK\r\n\r\n");
    let (Some(address), Some(again)) = (server("[::1]:0", serve), server("[::1]:0", serve)) else {
        println!("skipped: no IPv6 loopback");
        return;
    };
    check(&["--url", &format!("http://{address}/")], 0, "");
    let port = again.rsplit(':').next().expect("an address ends in its port");
    check(&["--url", &format!("http://localhost:{port}/")], 0, "");
}

#[test]
fn localhost_falls_back_to_ipv4() {
    let address = answering(b"HTTP/1.1 200 OK\r\n\r\n");
    let port = address.rsplit(':').next().expect("an address ends in its port");
    check(&["--url", &format!("http://localhost:{port}/")], 0, "");
}

#[test]
fn what_cannot_be_asked_is_refused_with_the_reason() {
    check(&[], 1, "URL must be set\n");
    check(&["--url", ""], 1, "URL must be set\n");
    check(&["--url", "https://127.0.0.1/"], 1, "scheme \"https\" is not supported: use http://\n");
    let named = "host \"example\" is a name: only localhost and addresses (127.0.0.1, [::1]) can be probed\n";
    check(&["--url", "http://example/"], 1, named);
}

#[test]
fn usage_goes_to_stderr_with_two_for_mistakes_and_zero_for_help() {
    let cases = [
        (&["--no-such-flag"][..], 2, "flag provided but not defined: -no-such-flag\nUsage of uhttpc:\n"),
        (&["--url"], 2, "flag needs an argument: -url\nUsage of uhttpc:\n"),
        (&["--timeout", "soon", "--url", "x"], 2, "invalid value \"soon\" for flag -timeout: "),
        (&["-h"], 0, "Usage of uhttpc:\n"),
        (&["--help"], 0, "Usage of uhttpc:\n"),
    ];
    for (arguments, code, start) in cases {
        let output = uhttpc(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(stderr.starts_with(start), "{arguments:?}: {stderr}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}
