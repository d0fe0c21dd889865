//! `processor dev`: from a file to a URL, and again when the file changes.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::harness::{Client, Ports, Processor, free_port, get, processor_bin, python, wait_until};

const FIRST: &str = "def handler(context, event):\n    return 'first'\n";
const SECOND: &str = "def handler(context, event):\n    return 'second'\n";

pub fn dev(source: &str) -> Processor {
    dev_of("hello.py", "", source)
}

/// `handler`: its name with a colon in front, or nothing.
pub fn dev_of(name: &str, handler: &str, source: &str) -> Processor {
    dev_with(name, handler, source, |_| {})
}

/// The same; `more` adds to the command.
pub fn dev_with(name: &str, handler: &str, source: &str, more: impl FnOnce(&mut Command)) -> Processor {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(name);
    std::fs::write(&file, source).unwrap();
    let file = format!("{}{handler}", file.display());
    let port = free_port();
    let ports = Ports { http: port, health: free_port(), admin: 0, metrics: 0 };
    let mut command = Command::new(processor_bin());
    command.args(["dev", "--port", &port.to_string()]).arg(&file);
    command.env("NUCLIO_PYTHON_EXE_PATH", python());
    for name in ["NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "CLICOLOR"] {
        command.env_remove(name);
    }
    more(&mut command);
    Processor::spawn(command, ports, directory)
}

/// Serves a file until it has answered with that text, then stops it. `environment`: one variable more, or none.
pub fn serves(file: &Path, environment: Option<(&str, &OsStr)>, text: &str) {
    let ports = Ports { http: free_port(), health: 0, admin: 0, metrics: 0 };
    let mut command = Command::new(processor_bin());
    command.args(["dev", "--port", &ports.http.to_string()]).arg(file).envs(environment);
    let mut processor = Processor::spawn(command, ports, tempfile::tempdir().unwrap());
    answers(&processor, text);
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0));
}

pub fn answers(processor: &Processor, text: &str) {
    wait_until(text, || get(processor.ports.http, "/").is_ok_and(|answer| answer.text() == text));
}

pub fn change(processor: &Processor, name: &str, source: &str) {
    // Written aside and moved, as editors do: there is no moment with half a file.
    let path = processor.directory.path().join(name);
    std::fs::write(path.with_extension("new"), source).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

pub fn count(processor: &Processor, part: &str) -> usize {
    processor.stderr.lines().iter().filter(|line| line.contains(part)).count()
}

#[test]
fn dev_prints_the_url_and_a_command_that_works() {
    let mut processor = dev(FIRST);
    let url = format!("http://127.0.0.1:{}", processor.ports.http);
    processor.stderr.wait_for("the URL", |line| line.contains(&url) && !line.contains("curl"));
    processor.stderr.wait_for("the command", |line| line.contains(&format!("curl -i {url}/")));
    assert_eq!(processor.get("/").text(), "first");
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn dev_serves_an_application_by_its_name_in_the_file() {
    let source = "def site(environ, start_response):\n    start_response('200 OK', [])\n    \
                  return [environ['PATH_INFO'].encode()]\n";
    let mut processor = dev_of("app.py", ":site", source);
    processor.stderr.wait_for("the URL", |line| line.contains("http://127.0.0.1"));
    assert_eq!(processor.get("/a//b").text(), "/a//b");
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn dev_starts_again_when_a_source_changes_and_says_so() {
    let mut processor = dev(FIRST);
    answers(&processor, "first");
    let pid = processor.child.id();
    change(&processor, "hello.py", SECOND);
    processor.stderr.wait_for("the change", |line| line.contains("hello.py has changed"));
    answers(&processor, "second");
    change(&processor, "other.py", "x = 1\n");
    processor.stderr.wait_for("the change", |line| line.contains("other.py has changed"));
    wait_until("it serves again", || count(&processor, "Serving what has changed at ") == 2);
    assert_eq!(count(&processor, "curl -i"), 1, "it says the URL once");
    answers(&processor, "second");
    assert_eq!(processor.child.id(), pid);
    assert_eq!(processor.children().len(), 1, "no shim is left of the starts before");
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn dev_waits_for_a_change_while_the_source_is_broken() {
    let mut processor = dev("def handler(:\n");
    processor.stderr.wait_for("the fault", |line| line.contains("SyntaxError"));
    processor.stderr.wait_for("what to do", |line| line.contains("waiting for its source to change"));
    change(&processor, "hello.py", FIRST);
    answers(&processor, "first");
    change(&processor, "hello.py", "import absent_module\n");
    processor.stderr.wait_for("the fault", |line| line.contains("absent_module"));
    wait_until("it waits again", || count(&processor, "waiting for its source to change") == 2);
    processor.signal(2);
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn dev_names_a_function_that_is_missing_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("hello.js");
    std::fs::write(&file, "exports.handler = () => {}\n").unwrap();
    let Some(node) = crate::languages::nodejs() else { return };
    let ports = Ports { http: free_port(), health: free_port(), admin: 0, metrics: 0 };
    let mut command = Command::new(processor_bin());
    command.args(["dev", "--port", &ports.http.to_string()]).arg(format!("{}:other", file.display()));
    command.env("NUCLIO_NODEJS_EXE", node);
    let processor = Processor::spawn(command, ports, directory);
    processor.stderr.wait_for("the fault", |line| line.contains("no function \"other\""));
    assert!(!processor.stdout.text().contains("looked for again"), "{}", processor.stdout.text());
}

#[test]
fn dev_finishes_the_event_in_work_on_ctrl_c() {
    let source = "
import os, time
def handler(context, event):
    context.logger.warn('holding')
    while not os.path.exists(os.path.dirname(__file__) + '/go'):
        time.sleep(0.002)
    return 'done'
";
    let mut processor = dev(source);
    processor.stderr.wait_for("the URL", |line| line.contains("http://"));
    let mut client = Client::connect(SocketAddr::from(([127, 0, 0, 1], processor.ports.http)));
    client.send_post("/", b"");
    processor.stdout.wait_for("the record", |line| line.contains("holding"));
    processor.signal(2);
    processor.stdout.wait_for("the signal", |line| line.contains("Got system signal"));
    processor.touch("go");
    assert_eq!(client.read_answer(false).unwrap().text(), "done");
    assert_eq!(processor.end().code(), Some(0));
}

#[test]
fn dev_builds_go_sources_shows_what_the_compiler_says_and_builds_again() {
    // Built once before, so that the waits below are not for a compiler that meets its standard library for the first time.
    if crate::golang_build::fixture("echo", crate::golang_build::Form::Executable).is_none() {
        return;
    }
    let source = |text: &str| {
        format!(
            "package main\n\nimport \"github.com/nuclio/nuclio-sdk-go\"\n\n\
             func Handler(context *nuclio.Context, event nuclio.Event) (interface{{}}, error) {{\n\
             \treturn {text}, nil\n}}\n"
        )
    };
    for file in ["main.go", ""] {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("main.go"), source("missing")).unwrap();
        let port = free_port();
        let ports = Ports { http: port, health: free_port(), admin: 0, metrics: 0 };
        let mut command = crate::golang_build::go(processor_bin());
        command.env("NUCLIO_GO_BUILD", concat!(env!("CARGO_MANIFEST_DIR"), "/runtimes/golang/build"));
        command.args(["dev", "--port", &port.to_string()]).arg(directory.path().join(file));
        let mut processor = Processor::spawn(command, ports, directory);
        processor.stderr.wait_for("the fault", |line| line.contains("main.go") && line.contains("missing"));
        processor.stderr.wait_for("what to do", |line| line.contains("waiting for its source to change"));
        change(&processor, "main.go", &source("\"first\""));
        answers(&processor, "first");
        change(&processor, "main.go", &source("\"second\""));
        answers(&processor, "second");
        processor.signal(2);
        assert_eq!(processor.end().code(), Some(0));
    }
}

#[test]
fn dev_refuses_what_it_cannot_serve() {
    let (folder, bare) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |name: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, "package main\n").unwrap();
        file.display().to_string()
    };
    for (file, text) in [
        ("/nowhere/a.py".to_owned(), "/nowhere/a.py: no such file"),
        (bare.path().display().to_string(), "is no file, and no folder with Go sources"),
        (write("main.c"), "build it into"),
        (write("main.go"), "NUCLIO_GO_BUILD names /nowhere/build, which is no file"),
    ] {
        let mut command = Command::new(processor_bin());
        command.env("NUCLIO_GO_BUILD", "/nowhere/build").args(["dev", &file]);
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && err.contains(text), "{err}");
    }
}
