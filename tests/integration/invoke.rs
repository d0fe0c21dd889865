//! `processor invoke`: requests of files and of the command line against a function, exit codes, and what is shown.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::harness::{Ports, Processor, Setup, free_port, processor_bin, python};

const ECHO: &str = "
import json
def handler(context, event):
    context.logger.info_with('told', n=1)
    if event.path == '/status':
        return context.Response(body='{\"a\": [1]}', content_type='application/json', status_code=int(event.fields['code']))
    if event.path == '/large':
        return 'x' * int(event.body)
    seen = {'method': event.method, 'path': event.path, 'query': dict(event.fields), 'body': event.body.decode() if isinstance(event.body, bytes) else event.body}
    seen['headers'] = {name: event.get_header(name) for name in ('X-A', 'Content-Type') if event.get_header(name)}
    return context.Response(body=json.dumps(seen), content_type='text/plain')
";

fn function() -> Processor {
    Setup::python(ECHO).start()
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn said(output: Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn invoke(arguments: &[&str]) -> Said {
    let mut command = Command::new(processor_bin());
    command
        .arg("invoke")
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("FORCE_COLOR")
        .env_remove("CLICOLOR_FORCE");
    said(command.output().unwrap())
}

/// Writes a file of requests beside the function, and sends it there.
fn send(processor: &Processor, name: &str, text: &str, more: &[&str]) -> Said {
    let file = processor.directory.path().join(name);
    std::fs::write(&file, text.replace("PORT", &processor.ports.http.to_string())).unwrap();
    let url = format!("http://127.0.0.1:{}", processor.ports.http);
    let mut arguments = vec![file.to_str().unwrap()];
    arguments.extend_from_slice(more);
    if !more.contains(&"--url") && !text.contains("PORT") {
        arguments.extend_from_slice(&["--url", &url]);
    }
    invoke(&arguments)
}

#[test]
fn a_file_of_requests_is_sent_and_its_answers_are_shown() {
    let processor = function();
    std::fs::write(processor.directory.path().join("body.txt"), "from a file").unwrap();
    let text = "@host = http://127.0.0.1:PORT\n\n### first\nPOST {{host}}/a?q=1\nX-A: {{word}}\n\n< body.txt\n\n### second\nGET {{host}}/b\n";
    let all = send(&processor, "r.http", text, &["--var", "word=given"]);
    assert_eq!(all.code, 0, "{}", all.err);
    let answers: Vec<serde_json::Value> =
        all.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers[0]["method"], "POST");
    assert_eq!((&answers[0]["query"]["q"], &answers[0]["body"]), (&"1".into(), &"from a file".into()));
    assert_eq!((&answers[0]["headers"]["X-A"], &answers[1]["path"]), (&"given".into(), &"/b".into()));
    assert!(all.err.contains("### first POST ") && all.err.contains("HTTP/1.1 200 OK ("), "{}", all.err);
    let one = send(&processor, "r.http", text, &["--var", "word=x", "--name", "second", "-i"]);
    assert!(
        one.out.starts_with("HTTP/1.1 200 OK\r\n") && one.out.contains("content-type: text/plain\r\n"),
        "{}",
        one.out
    );
    let none = send(&processor, "r.http", text, &["--var", "word=x", "--name", "third"]);
    assert!(
        none.code == 2 && none.err.contains("no request is called third; there are first, second"),
        "{}",
        none.err
    );
}

#[test]
fn json_says_what_to_send_and_what_to_expect() {
    let processor = function();
    let good = r#"[{"path": "/p", "query": {"a": 1}, "headers": {"X-A": "v"}, "body": {"k": "ü"},
        "expect": {"status": 200, "body": {"method": "POST", "path": "/p", "query": {"a": "1"}, "body": {"k": "ü"},
        "headers": {"X-A": "v", "Content-Type": "application/json"}}}},
        {"path": "/status?code=418", "expect": {"status": 418, "body": {"a": [1]}}}]"#;
    let said = send(&processor, "r.json", good, &[]);
    assert_eq!(said.code, 0, "{}", said.err);
    let bad = r#"{"path": "/status?code=200", "expect": {"status": 201, "body": {"a": [2]}}}"#;
    let said = send(&processor, "r.json", bad, &[]);
    assert_eq!(said.code, 1);
    for part in ["status: expected 201, got 200", "body.a[0]: expected 2, got 1"] {
        assert!(said.err.contains(part), "{}", said.err);
    }
}

#[test]
fn one_request_of_the_command_line_is_sent_and_statuses_from_400_on_fail() {
    let processor = function();
    let url = format!("127.0.0.1:{}", processor.ports.http);
    let good = invoke(&["/c", "--url", &url, "--method", "PUT", "--body", "text", "-H", "X-A: h", "-v"]);
    assert!(
        good.code == 0 && good.out.contains(r#""method": "PUT""#) && good.out.contains(r#""X-A": "h""#),
        "{}",
        good.out
    );
    assert!(
        good.err.contains("> PUT /c HTTP/1.1") && good.err.contains("< content-type: text/plain"),
        "{}",
        good.err
    );
    let bad = invoke(&["/status?code=404", "--url", &url]);
    assert!(
        bad.code == 1 && bad.out.contains("\"a\"") && bad.err.contains("answered with status 404"),
        "{}",
        bad.err
    );
    let mut command = Command::new(processor_bin());
    command
        .args(["invoke", "/d", "--url", &url, "--body", "@-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"piped").unwrap();
    assert!(said(child.wait_with_output().unwrap()).out.contains(r#""body": "piped""#));
}

#[test]
fn bodies_come_from_a_file_or_standard_input_with_method_and_headers() {
    let processor = function();
    let url = format!("http://127.0.0.1:{}", processor.ports.http);
    let file = processor.directory.path().join("body.json");
    std::fs::write(&file, "from a file\n").unwrap();
    let at = format!("@{}", file.display());
    let said = invoke(&[
        "/f?a=1",
        "--url",
        &url,
        "-X",
        "PATCH",
        "-b",
        &at,
        "-H",
        "Content-Type: text/x",
        "-H",
        "X-A: 1",
    ]);
    let seen: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&seen["method"], &seen["body"]), (&"PATCH".into(), &"from a file\n".into()));
    assert_eq!((&seen["headers"]["Content-Type"], &seen["headers"]["X-A"]), (&"text/x".into(), &"1".into()));
    // Without a method it is POST with a body and GET without, also where a file of requests says nothing.
    let said = send(&processor, "r.http", "/g\n", &["--body", &at]);
    assert!(said.code == 0 && said.out.contains("\"method\": \"POST\""), "{}{}", said.out, said.err);
    let said = invoke(&["/g", "--url", &url]);
    assert!(said.code == 0 && said.out.contains("\"method\": \"GET\""), "{}{}", said.out, said.err);
    let said = invoke(&["/", "--url", &url, "--body", "@-"]);
    assert!(
        said.code == 0 && said.out.contains("\"method\":"),
        "an empty one is none: {}{}",
        said.out,
        said.err
    );
}

#[test]
fn a_function_under_dev_that_does_not_start_answers_with_why_and_exit_code_1() {
    let processor = crate::dev::dev("def handler(:\n");
    processor.stderr.wait_for("what to do", |line| line.contains("waiting for its source to change"));
    let url = format!("http://127.0.0.1:{}", processor.ports.http);
    let said = invoke(&["/", "--url", &url]);
    assert!(said.code == 1 && said.err.contains("answered with status 500"), "{} {}", said.code, said.err);
    assert!(said.out.contains("SyntaxError"), "{}", said.out);
    crate::dev::change(&processor, "hello.py", "def handler(context, event):\n    return 'mended'\n");
    crate::dev::answers(&processor, "mended");
    let said = invoke(&["/", "--url", &url]);
    assert_eq!((said.code, said.out.as_str()), (0, "mended"), "{}", said.err);
}

#[test]
fn what_the_function_logs_is_shown_when_asked_for() {
    let processor = function();
    let url = format!("http://127.0.0.1:{}", processor.ports.http);
    let with = invoke(&["/", "--url", &url, "--log-level", "info"]);
    assert!(with.err.lines().any(|line| line.contains(" INFO  told n=1")), "{}", with.err);
    assert!(!invoke(&["/", "--url", &url]).err.contains("told"));
}

#[test]
fn large_bodies_go_and_come() {
    let processor = function();
    let url = format!("http://127.0.0.1:{}", processor.ports.http);
    let said = invoke(&["/large", "--url", &url, "--body", "20000000"]);
    assert_eq!((said.code, said.out.len()), (0, 20_000_000), "{}", said.err);
    let body = processor.directory.path().join("large");
    std::fs::write(&body, vec![b'x'; 5_000_000]).unwrap();
    let said = invoke(&["/", "--url", &url, "--body", &format!("@{}", body.display())]);
    assert!(said.code == 1 && said.err.contains("413"), "{}", said.err);
}

#[test]
fn files_and_arguments_that_cannot_be_used_end_with_2_and_say_where() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    let cases = [
        (vec![write("a.http", b"GET /\n\n###\nGET\n")], "a.http:4: cannot read \"GET\" as a request"),
        (vec![write("b.http", b"GET /{{x}}\n")], "b.http:1: no variable x"),
        (vec![write("c.http", b"POST /\n\n< /nowhere/body\n")], "c.http:3: cannot read /nowhere/body"),
        (vec![write("d.http", b"")], "d.http: there is no request in it"),
        (vec![write("e.json", b"{\n\"pth\": 1}")], "e.json:2: unknown field `pth`"),
        (vec![write("f.json", b"\xff\xfe")], "f.json: cannot read it"),
        (vec![write("g.http", b"GET https://h/\n")], "https is not supported, this program carries no TLS"),
        (
            vec![folder.path().join("none.http").display().to_string()],
            "none.http: cannot read it: No such file",
        ),
        (vec!["nonsense".to_owned()], "nonsense is neither a file of requests"),
        (vec!["/".to_owned(), "--url".to_owned(), "ftp://h".to_owned()], "write http://host:port/path"),
        (vec!["/".to_owned(), "--timeout".to_owned(), "soon".to_owned()], "write a time such as"),
        (
            vec!["/".to_owned(), "--body".to_owned(), "@/nowhere".to_owned()],
            "cannot read the body from /nowhere",
        ),
    ];
    for (arguments, expected) in cases {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = invoke(&arguments);
        assert!(said.code == 2 && said.err.contains(expected), "{arguments:?}: {} {}", said.code, said.err);
    }
}

/// A server that reads a request, writes this, and ends.
fn server(answer: &'static [u8], hold: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0, "it asks");
        stream.write_all(answer).unwrap();
        if hold {
            stream.read_to_end(&mut Vec::new()).unwrap_or_default();
        }
    });
    url
}

#[test]
fn servers_that_cannot_be_reached_or_misbehave_are_named() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (url, expected) in [
        (nobody, "cannot connect to 127.0.0.1:"),
        (server(b"", true), "no answer from 127.0.0.1:"),
        (server(b"", false), "broke: connection closed before message completed"),
        (server(b"nonsense\r\n\r\n", false), "broke: invalid HTTP"),
        (server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", false), "the answer broke off"),
        (
            server(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true),
            "the answer was not complete within",
        ),
    ] {
        let said = invoke(&["/", "--url", &url, "--timeout", "2s"]);
        assert!(said.code == 1 && said.err.contains(expected), "{expected}: {} {}", said.code, said.err);
    }
    let nasty = server(b"HTTP/1.1 200 OK\r\nX-Nuclio-Logs: [{\"level\": 1, \"time\": 1e300, \"message\": \"a\\u001b[2J\"}]\r\nContent-Length: 2\r\n\r\nok", false);
    let said = invoke(&["/", "--url", &nasty, "--log-level", "debug"]);
    assert!(said.code == 0 && said.out == "ok" && !said.err.contains('\x1b'), "{}", said.err);
}

#[test]
fn a_terminal_gets_readable_json_and_a_pipe_what_was_sent() {
    let processor = function();
    let url = format!("http://127.0.0.1:{}", processor.ports.http);
    let target = "/status?code=200";
    assert_eq!(invoke(&[target, "--url", &url]).out, "{\"a\": [1]}");
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: no script (util-linux), which makes a terminal");
        return;
    }
    let run = format!("'{}' invoke '{target}' --url {url}", processor_bin().display());
    let mut command = Command::new("script");
    command
        .args(["-qefc", &run, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    let output = said(command.output().unwrap());
    assert!(
        output.code == 0 && output.out.contains("\x1b[34m\"a\"\x1b[0m: [\r\n    1\r\n"),
        "{:?}",
        output.out
    );
}

#[test]
fn the_requests_beside_examples_are_answered_as_expected() {
    for (handler, requests) in [
        ("python/hello/hello.py", "python/hello/request.http"),
        ("python/json/sum.py", "python/json/request.json"),
        ("nodejs/json/sum.js", "nodejs/json/request.json"),
    ] {
        let node = crate::languages::nodejs();
        if handler.starts_with("nodejs") && node.is_none() {
            continue;
        }
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let port = free_port();
        let mut command = Command::new(processor_bin());
        command.args(["dev", "--port", &port.to_string()]).arg(examples.join(handler));
        command.env("NUCLIO_PYTHON_EXE_PATH", python()).envs(node.map(|node| ("NUCLIO_NODEJS_EXE", node)));
        let ports = Ports { http: port, health: 0, admin: 0, metrics: 0 };
        let processor = Processor::spawn(command, ports, tempfile::tempdir().unwrap());
        processor.stderr.wait_for("the URL", |line| line.contains("Handler answers at"));
        let hint = format!("processor invoke {}", examples.join(requests).display());
        processor.stderr.wait_for("the hint", |line| line.contains(&hint));
        let url = format!("http://127.0.0.1:{port}");
        let said = invoke(&[examples.join(requests).to_str().unwrap(), "--url", &url]);
        assert_eq!(said.code, 0, "{handler}: {}{}", said.out, said.err);
    }
}
