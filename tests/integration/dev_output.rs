//! What `processor dev` shows people: lines of requests and records, colours where they are wanted, JSON when asked.

use std::process::Command;

use serde_json::Value;

use crate::dev::{answers, dev_with};
use crate::harness::{Ports, Processor, Setup, free_port, get, processor_bin, python, wait_until};

const SOURCE: &str = "
def handler(context, event):
    if event.path == '/fail':
        raise ValueError('on purpose')
    if event.path == '/log':
        context.logger.info_with('told', n=1, text='a b')
    return 'twelve bytes'
";

fn dev(more: impl FnOnce(&mut Command)) -> Processor {
    let processor = dev_with("hello.py", "", SOURCE, more);
    answers(&processor, "twelve bytes");
    for path in ["/log?x=1", "/fail"] {
        get(processor.ports.http, path).unwrap();
    }
    processor.stdout.wait_for("the last request", |line| line.contains("/fail"));
    processor
}

#[test]
fn requests_records_and_tracebacks_are_lines_for_people_without_colours_in_a_pipe() {
    let processor = dev(|_| {});
    let text = processor.stdout.text();
    assert!(!text.contains('\x1b'), "{text:?}");
    let line = |part: &str| {
        text.lines().find(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}: {text}"))
    };
    let request = line("GET /log?x=1 200 ");
    assert!(request.contains(" ms 12 B"), "{request}");
    assert!(line("INFO  told").contains(" n=1 text=\"a b\""), "{text}");
    assert!(line("GET /fail 500 ").contains(" ms "), "{text}");
    // Of the shim's own frames none, of the handler's all, each on a line of its own.
    for part in ["    traceback:", "    Traceback (most recent call last):", "    ValueError: on purpose"] {
        assert!(text.lines().any(|line| line == part), "{part}: {text}");
    }
    assert!(
        text.lines()
            .any(|line| line.starts_with("      File ") && line.ends_with("hello.py\", line 4, in handler")),
        "{text}"
    );
    assert!(!text.contains("Starting processor"), "{text}");
}

#[test]
fn colours_are_forced_and_refused_by_the_usual_variables() {
    for (variables, expected) in [
        (&[("FORCE_COLOR", "1")][..], true),
        (&[("CLICOLOR_FORCE", "1")], true),
        (&[("FORCE_COLOR", "1"), ("NO_COLOR", "1")], false),
    ] {
        let processor = dev(|command| {
            command.envs(variables.iter().copied());
        });
        let text = processor.stdout.text();
        assert_eq!(text.contains("\x1b[32m200\x1b[0m"), expected, "{variables:?}: {text:?}");
        assert_eq!(text.contains("\x1b[31mERROR\x1b[0m"), expected, "{variables:?}: {text:?}");
        assert_eq!(processor.stderr.text().contains("\x1b["), expected, "{variables:?}");
    }
}

#[test]
fn a_terminal_gets_colours() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hello.py");
    std::fs::write(&file, SOURCE).unwrap();
    let ports = Ports { http: free_port(), health: 0, admin: 0, metrics: 0 };
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: no script (util-linux), which makes a terminal");
        return;
    }
    let run = format!("exec '{}' dev --port {} '{}'", processor_bin().display(), ports.http, file.display());
    let mut command = Command::new("script");
    command.args(["-qefc", &run, "/dev/null"]).env("NUCLIO_PYTHON_EXE_PATH", python()).env("TERM", "xterm");
    for name in ["NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
        command.env_remove(name);
    }
    let processor = Processor::spawn(command, ports, folder);
    answers(&processor, "twelve bytes");
    processor.stdout.wait_for("the request", |line| line.contains("\x1b[32m200\x1b[0m"));
    processor.stdout.wait_for("the address", |line| line.contains("\x1b[32mhttp://127.0.0.1:"));
}

#[test]
fn json_lines_are_written_when_they_are_asked_for() {
    let processor = dev(|command| {
        command.args(["--log-format", "json"]);
    });
    wait_until("every line is there", || processor.stdout.text().contains("\"/fail\""));
    let records: Vec<Value> = processor
        .stdout
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
        .collect();
    let request = records.iter().find(|record| record["path"] == "/log?x=1").unwrap();
    assert_eq!(
        (&request["method"], &request["status"], &request["bytes"]),
        (&"GET".into(), &200.into(), &12.into())
    );
    assert!(request["milliseconds"].is_number() && request["message"] == "Request", "{request}");
    assert!(records.iter().any(|record| record["message"] == "told" && record["n"] == 1));
}

#[test]
fn production_writes_no_lines_of_requests() {
    let processor = Setup::python(SOURCE).start();
    assert_eq!(processor.get("/log").text(), "twelve bytes");
    processor.stdout.wait_for("the record", |line| line.contains("told"));
    assert!(!processor.stdout.text().contains("/log"), "{}", processor.stdout.text());
}
