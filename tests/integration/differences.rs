//! Differences from the Go processor that no other test shows; the page that lists them is `docs/compatibility.md`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Client, Processor, Setup, alive, free_port, get, wait_until};
use crate::library::rust_library;

/// Everything that comes of a request, with the status line as sent.
fn raw(processor: &Processor, request: &str) -> String {
    let mut stream = TcpStream::connect(processor.http()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn more_than_a_hundred_headers_are_refused() {
    let processor = Setup::builtin().start();
    let with = |count: usize| {
        let lines: String = (0..count).map(|number| format!("X-{number}: 1\r\n")).collect();
        processor.request(&format!("GET / HTTP/1.1\r\n{lines}\r\n"), b"").status
    };
    assert_eq!((with(100), with(101)), (200, 431));
}

#[test]
fn the_status_line_is_of_the_version_asked_for_and_close_counts_in_any_case() {
    let processor = Setup::builtin().start();
    assert!(raw(&processor, "GET / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200"));
    assert!(raw(&processor, "GET / HTTP/1.1\r\nConnection: CLOSE\r\n\r\n").starts_with("HTTP/1.1 200"));
}

#[test]
fn control_bytes_in_header_values_of_answers_are_dropped() {
    let handler = "def handler(context, event):\n    return context.Response(body='x', headers={'X-Bad': \
                   'a\\x01b', 'X-Line': 'a\\r\\nb', 'X-Good': 'c'})\n";
    let processor = Setup::python(handler).start();
    let answer = processor.get("/");
    assert_eq!((answer.status, answer.header("X-Bad"), answer.header("X-Good")), (200, None, Some("c")));
    assert!(answer.header("X-Line").is_some_and(|value| value.starts_with('a') && value.ends_with('b')));
    processor.stdout.wait_for("a warning", |line| line.contains("\"warn\"") && line.contains("X-Bad"));
}

#[test]
fn an_address_of_ipv6_is_served() {
    if TcpListener::bind("[::1]:0").is_err() {
        return println!("skipped: no IPv6 on the loopback interface");
    }
    let port = free_port();
    let processor = Setup::builtin().trigger(json!({"url": format!("[::1]:{port}")})).start();
    let mut client = Client::over(TcpStream::connect(("::1", port)).unwrap());
    client.send(b"GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n");
    assert_eq!(client.read_answer(false).unwrap().status, 200);
    drop(processor);
}

#[test]
fn credentials_from_any_origin_are_warned_about() {
    let cors = json!({"enabled": true, "allowCredentials": true});
    let processor = Setup::builtin().trigger(json!({"attributes": {"cors": cors}})).start();
    let warns = |line: &str| line.contains("CORS allows credentials") && line.contains("\"warn\"");
    processor.stdout.wait_for("a warning", warns);
}

#[test]
fn more_than_eight_callers_at_once_get_their_logs() {
    let handler = "import time\ndef handler(context, event):\n    context.logger.info('mine ' + event.path)\n    \
                   time.sleep(0.02)\n    return 'x'\n";
    let processor = Setup::python(handler).trigger(json!({"numWorkers": 4})).start();
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(processor.http())).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("GET /{number} HTTP/1.1\r\nX-Nuclio-Log-Level: info\r\n\r\n").as_bytes());
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = client.read_answer(false).unwrap();
        let logs: serde_json::Value = serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap();
        let messages: Vec<&str> =
            logs.as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap()).collect();
        assert_eq!(messages, [format!("mine /{number}")]);
    }
}

#[test]
fn a_port_of_web_admin_in_use_is_a_line_in_the_log() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let mut setup = Setup::builtin();
    setup.platform = json!({"webAdmin": {"listenAddress": address}});
    let processor = setup.start();
    let line = processor
        .stdout
        .wait_for("the address", |line| line.contains(&address) && line.contains("\"error\""));
    assert!(line.contains("in use"), "{line}");
    assert_eq!(processor.get("/").status, 200);
}

#[test]
fn workers_end_with_a_processor_that_is_killed() {
    let processor = Setup::python("def handler(context, event):\n    return 'x'\n")
        .trigger(json!({"numWorkers": 2}))
        .start();
    let children = processor.children();
    assert_eq!(children.len(), 2);
    processor.signal(9);
    wait_until("the workers are gone", || !children.iter().any(|pid| alive(*pid)));
}

#[test]
fn web_admin_shows_no_secrets() {
    let setup = Setup::builtin().spec(json!({"env": [{"name": "TOKEN", "value": "hidden-1"}]}));
    let trigger = json!({"password": "hidden-2", "secret": "hidden-3", "annotations": {"a": "hidden-4"}});
    let processor = setup.trigger(trigger).start();
    for path in ["/triggers", "/triggers/default-http", "/triggers/default-http/stats"] {
        let answer = get(processor.ports.admin, path).unwrap();
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.text().contains("hidden"), "{path}: {}", answer.text());
    }
    assert!(!processor.stdout.text().contains("hidden"));
}

#[test]
fn durations_of_python_handlers_and_our_own_metrics_are_measured() {
    let handler = "import time\ndef handler(context, event):\n    time.sleep(0.02)\n    return 'x'\n";
    let processor = Setup::python(handler).start();
    assert_eq!(processor.get("/").status, 200);
    let sum = processor.metric("nuclio_processor_handled_events_duration_milliseconds_sum", &[]);
    assert!(sum >= 20.0, "{sum} ms");
    let text = get(processor.ports.metrics, "/metrics").unwrap().text();
    for name in [
        "worker_pending_allocation_current",
        "worker_allocation_wait_duration_ms_sum",
        "handler_duration_seconds_bucket",
        "queue_wait_seconds_bucket",
        "response_size_bytes_bucket",
        "events_in_flight",
        "worker_restarts_total",
        "event_timeouts_total",
        "streams_total",
        "log_records_dropped_total",
        "build_info",
    ] {
        assert!(text.contains(&format!("\nnuclio_processor_{name}{{")), "{name} in\n{text}");
    }
}

#[test]
fn metrics_are_pushed_as_text_and_once_more_at_the_end() {
    let gateway = TcpListener::bind("127.0.0.1:0").unwrap();
    let attributes = json!({"jobName": "job", "instanceName": "one", "interval": "1h"});
    let url = format!("http://{}", gateway.local_addr().unwrap());
    let mut setup = Setup::builtin();
    setup.platform = json!({"metrics": {
        "sinks": {"push": {"kind": "prometheusPush", "url": url, "attributes": attributes}},
        "functions": ["pull", "push"],
    }});
    let mut processor = setup.start();
    assert_eq!(processor.get("/").status, 200);
    // A push at the start would come before the event was counted.
    let reader = std::thread::spawn(move || {
        loop {
            let request = take_push(&gateway);
            let counted = request.lines().any(|line| {
                let family = line.starts_with("nuclio_processor_handled_events_total{");
                family && line.contains("result=\"success\"") && line.ends_with(" 1")
            });
            if counted {
                return request;
            }
        }
    });
    processor.signal(15);
    assert_eq!(processor.wait().code(), Some(0));
    let request = reader.join().unwrap();
    assert!(request.contains(" /metrics/job/job"), "{request}");
    assert!(request.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{request}");
}

/// One push as text, accepted.
fn take_push(gateway: &TcpListener) -> String {
    let (stream, _) = gateway.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    loop {
        let start = request.len();
        assert!(reader.read_line(&mut request).unwrap() > 0, "the push ends early: {request}");
        let line = request[start..].trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    reader.get_mut().write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").unwrap();
    request + &String::from_utf8(body).unwrap()
}

#[test]
fn two_pull_sinks_serve() {
    let other = free_port();
    let mut setup = Setup::builtin();
    setup.platform = json!({"metrics": {
        "sinks": {"second": {"kind": "prometheusPull", "url": format!("127.0.0.1:{other}")}},
        "functions": ["pull", "second"],
    }});
    let processor = setup.start();
    for port in [processor.ports.metrics, other] {
        let answer = get(port, "/metrics").unwrap();
        assert!(answer.status == 200 && answer.text().contains("nuclio_processor_build_info"), "{port}");
    }
}

#[test]
fn colours_are_left_out_on_request() {
    let start = |setup: Setup| {
        let mut setup = setup;
        setup.platform = json!({"logger": {"sinks": {"out": {"attributes": {"encoding": "console"}}}}});
        let processor = setup.start();
        processor.stdout.wait_for("the end of the start", |line| line.contains("Processor started"));
        processor.stdout.text()
    };
    assert!(start(Setup::builtin().env("NO_COLOR", "")).contains("\x1b["));
    let plain = start(Setup::builtin().env("NO_COLOR", "1"));
    assert!(!plain.contains('\x1b') && plain.contains("(I)"), "{plain}");
}

#[test]
fn records_keep_their_name_with_several_sinks() {
    let mut setup = Setup::library(rust_library());
    let second = json!({"kind": "stdout", "attributes": {"encoding": "json", "varGroupName": "second"}});
    setup.platform = json!({"logger": {
        "sinks": {"two": second},
        "functions": [{"level": "debug", "sink": "out"}, {"level": "debug", "sink": "two"}],
    }});
    let processor = setup.start();
    let names = || {
        let started =
            processor.stdout.records().into_iter().filter(|record| record["message"] == "Processor started");
        started.map(|record| record["name"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    wait_until("both sinks have it", || names().len() == 2);
    assert_eq!(names(), ["processor"; 2]);
}
