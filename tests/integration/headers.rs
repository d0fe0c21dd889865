//! Headers that come several times, both ways, and answers whose headers or statuses try to be more than that.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::{Processor, Setup};
use crate::library::rust_library;

/// Answers with what the request's body says, a JSON object.
const PYTHON: &str = "
import json
def handler(context, event):
    wanted = json.loads(event.body)
    if wanted == 'show':
        shown = {'headers': event.headers, 'pairs': event.header_pairs, 'values': event.get_header_values('x-many'),
                 'one': event.get_header('X-MANY')}
        event.headers = {}
        shown['after'] = [pair for pair in event.header_pairs if pair[0] == 'X-Many']
        return shown
    return context.Response(headers=wanted['headers'], body='body', status_code=wanted.get('status', 200))
";

const MANY: &str = "POST /x HTTP/1.1\r\nX-Many: one\r\nX-Other: 1\r\nx-many: two\r\nX-MANY: three, four\r\n\
    Cookie: a=b\r\nCookie: c=d\r\n";

#[test]
fn python_handlers_see_the_last_of_each_header_and_all_of_them_when_they_ask() {
    let processor = Setup::python(PYTHON).start();
    let head = format!("{MANY}Content-Length: 6\r\n\r\n");
    let shown = processor.request(&head, b"\"show\"").json();
    assert_eq!(shown["headers"]["X-Many"], "three, four", "compat: the last");
    assert_eq!(shown["headers"]["Cookie"], "a=b; c=d");
    assert_eq!(shown["one"], "three, four");
    assert_eq!(shown["values"], json!(["one", "two", "three, four"]));
    let pairs = shown["pairs"].as_array().unwrap();
    let named = |name: &str| pairs.iter().filter(|pair| pair[0] == name).count();
    assert_eq!((named("X-Many"), named("X-Other"), named("Content-Length")), (3, 1, 1));
    assert_eq!(shown["after"].as_array().unwrap().len(), 3, "whatever becomes of `headers`");
}

fn behave(processor: &Processor, behaviour: &Value) -> crate::harness::Answer {
    processor.request(&format!("GET / HTTP/1.1\r\nX-Behaviour: {behaviour}\r\n\r\n"), b"")
}

fn python(processor: &Processor, headers: &Value, status: u32) -> String {
    let body = json!({"headers": headers, "status": status}).to_string();
    let mut stream = TcpStream::connect(processor.http()).unwrap();
    let head = format!("POST / HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer.into_iter().map(|byte| byte as char).collect()
}

#[test]
fn answers_may_repeat_a_header() {
    let processor = Setup::python(PYTHON).start();
    let answer =
        python(&processor, &json!({"Set-Cookie": ["a=1; Path=/", "b=2", 3, null], "x-one": []}), 200);
    let cookies: Vec<&str> = answer.lines().filter(|line| line.starts_with("Set-Cookie: ")).collect();
    assert_eq!(cookies, ["Set-Cookie: a=1; Path=/", "Set-Cookie: b=2", "Set-Cookie: 3"]);
    assert!(!answer.contains("X-One"), "{answer}");
    let answer = python(&processor, &json!({"Set-Cookie": "a=1", "set-cookie": "b=2"}), 200);
    assert_eq!(answer.matches("Set-Cookie: ").count(), 2, "compat: names that differ in case");
    let compiled = Setup::library(rust_library()).start();
    let answer = behave(&compiled, &json!({"kind": "respond", "headers": {"Set-Cookie": ["a=1", "b=2"]}}));
    assert_eq!(answer.values("Set-Cookie"), ["a=1", "b=2"]);
}

/// What an answer with these headers looks like, when it must be one answer with the body `body`.
fn check(processor: &Processor, headers: Value, present: &[&str], absent: &[&str]) {
    let answer = python(processor, &headers, 200);
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{headers}: {answer}");
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nbody"),
        "{headers}: {answer}"
    );
    assert_eq!(answer.matches("\r\n\r\n").count(), 1, "{headers}: {answer}");
    let lower = answer.to_lowercase();
    assert_eq!(lower.matches("\r\ncontent-length: 4\r\n").count(), 1, "{headers}: {answer}");
    assert_eq!(
        lower.matches("content-length").count() + lower.matches("transfer-encoding").count(),
        1,
        "{answer}"
    );
    for line in present {
        assert!(answer.contains(&format!("\r\n{line}\r\n")), "{headers}: no {line} in {answer}");
    }
    for text in absent {
        assert!(!answer.contains(text), "{headers}: {text} in {answer}");
    }
}

#[test]
fn no_header_of_an_answer_is_more_than_a_header() {
    let processor = Setup::python(PYTHON).start();
    check(&processor, json!({"X-A": "b\r\nX-Evil: 1"}), &["X-A: b  X-Evil: 1"], &["\r\nX-Evil"]);
    check(&processor, json!({"X-A": "b\nX-Evil: 1"}), &["X-A: b X-Evil: 1"], &["\r\nX-Evil"]);
    check(&processor, json!({"X-A": "b\rX-Evil: 1"}), &["X-A: b X-Evil: 1"], &["\rX-Evil"]);
    check(&processor, json!({"X-A": "b\r\n\r\n<html>"}), &["X-A: b    <html>"], &[]);
    check(
        &processor,
        json!({"X-A": ["b", "c\r\nX-Evil: 1"]}),
        &["X-A: b", "X-A: c  X-Evil: 1"],
        &["\r\nX-Evil"],
    );
    // Characters whose low byte is a line break, and Unicode's own line ends: UTF-8 holds no line break.
    check(&processor, json!({"X-A": "b\u{10d}\u{10a}X-Evil: 1"}), &[], &["\nX-Evil", "\rX-Evil"]);
    check(
        &processor,
        json!({"X-A": "b\u{2028}\u{2029}\u{85}\u{560d}\u{560a}X-Evil: 1"}),
        &[],
        &["\nX-Evil", "\rX-Evil"],
    );
    for name in [
        "X-A\r\nX-Evil",
        "X-A: b\r\nX-Evil",
        "X A",
        " X-A",
        "X-A ",
        "X-A:",
        "",
        "X\u{0}A",
        "X-\u{e4}",
        "X-\u{ff21}",
        "X-A\n",
        "(X)",
    ] {
        check(&processor, json!({name: "evil", "X-Kept": "1"}), &["X-Kept: 1"], &["evil"]);
    }
    for value in ["a\u{0}evil", "a\u{8}evil", "a\u{1b}[2Jevil", "a\u{7f}evil", "a\u{b}evil"] {
        check(&processor, json!({"X-A": value, "X-Kept": "1"}), &["X-Kept: 1"], &["evil"]);
    }
    for (name, value) in [
        ("Content-Length", json!("100")),
        ("content-length", json!(0)),
        ("CONTENT-LENGTH", json!(["4", "5"])),
        ("Transfer-Encoding", json!("chunked")),
        ("transfer-encoding", json!(["gzip", "chunked"])),
    ] {
        check(&processor, json!({name: value}), &[], &["chunked", "gzip"]);
    }
    check(&processor, json!({"Trailer": "X-A", "X-A": "b"}), &[], &["Trailer"]);
    check(&processor, json!({"X-A": "b\tc \u{e4}"}), &["X-A: b\tc Ã¤"], &[]);
}

#[test]
fn only_final_statuses_are_sent() {
    let processor = Setup::python(PYTHON).start();
    for status in [1, 99, 100, 101, 103, 199, 1000, 70000] {
        let answer = python(&processor, &json!({}), status);
        assert!(answer.starts_with("HTTP/1.1 500 "), "{status}: {answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{status}: {answer}");
    }
    for status in [204, 304] {
        let answer = python(&processor, &json!({"Content-Length": "9"}), status);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
        assert!(!answer.to_lowercase().contains("content-length"), "{answer}");
    }
    let answer = python(&processor, &json!({}), 599);
    assert!(answer.starts_with("HTTP/1.1 599 ") && answer.ends_with("\r\n\r\nbody"), "{answer}");
}
