//! The example of docs/adding-a-language.md: a shim for a language that is not served, with the real processor.

use std::process::Command;

use serde_json::json;

use crate::harness::{Client, Setup};
use crate::support::kill;

/// The shim, started as the page says, with the handler of the example; `None`: no Perl with its core modules.
fn perl() -> Option<Setup> {
    let mut check = Command::new("perl");
    check.args(["-MJSON::PP", "-MTime::HiRes", "-e", "1"]);
    if !check.output().is_ok_and(|output| output.status.success()) {
        println!("skipped: no perl with JSON::PP and Time::HiRes");
        return None;
    }
    let setup = Setup::new("nodejs", "hello.pl:handler").env("NUCLIO_NODEJS_EXE", "perl");
    let setup = setup.env("NUCLIO_NODEJS_WRAPPER_PATH", "examples/perl/shim.pl");
    Some(setup.env("NUCLIO_HANDLER_DIR", "examples/perl/hello"))
}

#[test]
fn the_example_answers_logs_and_fails_as_other_languages_do() {
    let Some(setup) = perl() else { return };
    let mut processor = setup.start();
    let answer = processor.post("/", "Perl");
    assert_eq!((answer.status, answer.text().as_str()), (201, "Hello, Perl"));
    assert_eq!(answer.values("X-Language"), ["perl"]);
    assert_eq!(processor.stdout.wait_for_record("called")["more"]["path"], "/");
    let answer = processor.get("/missing");
    assert!(answer.status == 500 && answer.text().contains("no such page"), "{}", answer.text());
    let large = "x".repeat(3 << 20);
    assert_eq!(processor.post("/", &large).text(), format!("Hello, {large}"));
    assert_eq!(processor.all_restarts(), 0);
    processor.signal(15);
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn the_example_is_replaced_when_it_ends_and_serves_many_at_once() {
    let Some(setup) = perl() else { return };
    let processor = setup.trigger(json!({"numWorkers": 2})).start();
    let waiting: Vec<_> = (0..40).map(|n| processor.send("/", &n.to_string())).collect();
    for (n, answer) in waiting.into_iter().enumerate() {
        assert_eq!(answer.join().unwrap().text(), format!("Hello, {n}"));
    }
    kill(processor.children()[0]);
    crate::harness::wait_until("it is replaced", || processor.restarts("signal") == 1);
    processor.wait_ready();
    let mut client = Client::connect(processor.http());
    client.send_post("/", b"again");
    assert_eq!(client.read_answer(false).unwrap().text(), "Hello, again");
}
