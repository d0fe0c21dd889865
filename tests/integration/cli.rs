//! The command line, and starts that fail: the exit code, what was found, and what to do about it.

use std::net::TcpListener;
use std::process::{Command, Output};

use serde_json::json;

use crate::harness::{Setup, free_port, processor_bin};
use crate::support::{c_library, plain_c_library};

pub fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = Command::new(processor_bin()).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[test]
fn version_and_runtimes_go_to_standard_output() {
    let (code, out, err) = run(&["--version"]);
    assert!(code == 0 && out.starts_with("Processor version:\n") && err.is_empty(), "{code} {out} {err}");
    let (code, out, err) = run(&["-list-runtimes"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.lines().any(|line| line == "python") && out.lines().any(|line| line == "golang"), "{out}");
}

#[test]
fn bad_flags_end_with_2_and_the_usage() {
    for arguments in [&["--nonsense"][..], &["-config"], &["-version=perhaps"], &["dev", "--workers", "none"]]
    {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.to_lowercase().contains("usage") || err.contains("--help"), "{err}");
    }
}

#[test]
fn check_says_whether_a_start_would_get_past_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let good = file("good.yaml", "spec: {runtime: python, handler: 'main:handler', eventTimeout: 5s}\n");
    let bad = file("bad.yaml", "spec:\n  runtime: python\n  eventTimeout: soon\n");
    let kind = file("kind.yaml", "spec: {runtime: python, triggers: {a: {kind: kafka-cluster}}}\n");
    let (code, out, err) = run(&["check", &good]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("python") && out.contains("5s"), "{out}");
    let (code, out, _) = run(&["check", &bad]);
    assert_eq!(code, 1);
    assert!(out.contains("eventTimeout") && out.contains("soon"), "{out}");
    let (code, out, _) = run(&["check", &kind]);
    assert_eq!(code, 1);
    assert!(out.contains("kafka-cluster"), "{out}");
    let (code, out, _) = run(&["check", "/nowhere/at/all.yaml"]);
    assert_eq!(code, 1);
    assert!(out.contains("/nowhere/at/all.yaml"), "{out}");
}

#[test]
fn check_names_what_a_start_does_not_read_or_cannot_serve_together() {
    let check = |text: &str| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.yaml");
        std::fs::write(&path, text).unwrap();
        let (code, out, err) = run(&["check", path.to_str().unwrap()]);
        assert_eq!(err, "");
        (code, out)
    };
    let (code, out) = check("spec: {runtime: python, handler: 'a:b'}\n---\nspec: {handler: 'c:d'}\n");
    assert!(code == 0 && out.contains("f.yaml:2: a further YAML document"), "{out}");
    assert!(out.contains("warning: ") && out.contains("only the first document is read"), "{out}");
    let (code, out) = check("# nothing\n---\n---\nspec: {runtime: python, handler: 'a:b'}\n");
    assert!(code == 1 && out.contains("f.yaml:3: a further YAML document"), "{out}");
    let (_, out) = check("---\nspec: {runtime: python, handler: 'a:b'}\n---\n");
    assert!(!out.contains("document"), "{out}");

    let triggers = |one: &str, other: &str| {
        let trigger = |url: &str| format!("{{kind: http, url: '{url}'}}");
        let (one, other) = (trigger(one), trigger(other));
        check(&format!("spec: {{runtime: python, handler: 'a:b', triggers: {{web: {one}, api: {other}}}}}\n"))
    };
    let (code, out) = triggers(":9000", "127.0.0.1:9000");
    let error = out.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert_eq!(code, 1);
    for text in ["web", "api", ":9000", "127.0.0.1:9000", "spec.triggers."] {
        assert!(error.contains(text), "no {text:?} in {out}");
    }
    let (code, out) = triggers(":9000", ":9001");
    assert_eq!(code, 0, "{out}");
    let (code, out) = check("spec: {runtime: python, triggers: {a: {kind: carrierPigeon}}}\n");
    assert!(
        code == 1 && out.contains("served are http, cron, kickstart; known, but not served yet: "),
        "{out}"
    );
}

#[test]
fn a_word_that_is_no_command_is_named_where_the_configuration_is_missing() {
    // The usual path is there on machines that have functions.
    if std::path::Path::new("/etc/nuclio/config/processor/processor.yaml").exists() {
        return println!("skipped: this machine has a processor.yaml at its usual place");
    }
    let (code, _, err) = run(&["devv", "x.py"]);
    assert!(code == 1 && err.contains("unknown command devv, ignored; did you mean dev?"), "{code} {err}");
    let (before, _) = err.split_once("Call stack:").unwrap();
    assert!(before.contains("did you mean dev?"), "{err}");
    let (code, _, err) = run(&["-config", "/nowhere/at/all.yaml", "devv"]);
    assert!(code == 1 && !err.contains("devv"), "{code} {err}");
}

#[test]
fn a_missing_or_broken_configuration_ends_with_1_and_names_the_file() {
    let (code, _, err) = run(&["-config", "/nowhere/at/all.yaml"]);
    assert!(code == 1 && err.contains("/nowhere/at/all.yaml"), "{code} {err}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.yaml");
    std::fs::write(&path, "spec: [\n").unwrap();
    let (code, _, err) = run(&["-config", path.to_str().unwrap()]);
    assert!(code == 1 && err.contains("broken.yaml"), "{code} {err}");
}

/// Fails with 1 and all these texts on standard error, which comes last and is short; leaves no process behind.
fn check_start(setup: Setup, texts: &[&str]) {
    let mut processor = setup.no_wait().start();
    assert_eq!(processor.end().code(), Some(1));
    let err = processor.stderr.text();
    for text in texts {
        assert!(err.contains(text), "no {text:?} in:\n{err}");
    }
    assert!(err.len() < 8000, "{err}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check_start(Setup::builtin().trigger(json!({"url": address})), &[&address, "in use", "url"]);
    let mut setup = Setup::builtin();
    setup.platform = json!({"healthCheck": {"listenAddress": address}});
    check_start(setup, &[&address, "in use", "healthCheck.listenAddress"]);
    // The others are no reason not to serve.
    let mut setup = Setup::builtin();
    setup.platform = json!({"webAdmin": {"listenAddress": address}});
    let processor = setup.start();
    assert_eq!(processor.get("/").status, 200);
    let record = processor.stdout.wait_for_record("Side server does not run");
    assert!(record["more"]["err"].as_str().unwrap().contains(&address), "{record}");
}

#[test]
fn two_triggers_on_one_port_are_named() {
    let address = format!("127.0.0.1:{}", free_port());
    let setup = Setup::builtin().spec(json!({"triggers": {
        "default-http": {"url": address},
        "other": {"kind": "http", "url": address},
    }}));
    check_start(setup, &[&address, "in use"]);
}

#[test]
fn a_handler_that_cannot_be_found_is_named() {
    let python = |source: &str, handler: &str| {
        let mut setup = Setup::python(source);
        setup.function["spec"]["handler"] = json!(handler);
        setup
    };
    check_start(python("", "absent:handler"), &["absent", "python worker 0"]);
    check_start(
        python("x = 1\n", "main:handler"),
        &["no function \"handler\"", "main", "correct spec.handler"],
    );
    check_start(python("import absent_module\n", "main:handler"), &["No module named 'absent_module'"]);
    check_start(python("def handler(:\n", "main:handler"), &["SyntaxError", "main.py"]);
    check_start(python("raise ValueError('on purpose')\n", "main:handler"), &["ValueError", "on purpose"]);
    let source = "def init_context(context):\n    raise ValueError('not today')\ndef handler(c, e): pass\n";
    check_start(python(source, "main:handler"), &["init_context", "not today"]);
}

#[test]
fn an_interpreter_or_shim_that_cannot_be_found_is_named() {
    let setup = || Setup::python("def handler(c, e): pass\n");
    check_start(setup().env("NUCLIO_PYTHON_EXE_PATH", "python9"), &["NUCLIO_PYTHON_EXE_PATH", "python9"]);
    check_start(setup().env("NUCLIO_PYTHON_EXE_PATH", "").env("PATH", "/nowhere"), &["python3", "/nowhere"]);
    check_start(
        setup().env("NUCLIO_PYTHON_WRAPPER_PATH", "/nowhere/shim.py"),
        &["/nowhere/shim.py", "NUCLIO_PYTHON_WRAPPER_PATH"],
    );
}

#[test]
fn a_shim_that_ends_before_it_is_ready_is_quoted() {
    let cases = [
        ("sys.stderr.write('first\\nlast words\\n')\nos._exit(3)", &["exited with code 3", "last words"][..]),
        ("os._exit(0)", &["exited with code 0"]),
        ("os.kill(os.getpid(), 9)", &["killed by signal 9"]),
        ("hello()\nos._exit(5)", &["exited with code 5"]),
        ("hello()\nsend(frame(0x8f, body=b'no way', code=1))\nos._exit(1)", &["no way"]),
        ("send(b'GET / HTTP/1.1\\r\\n\\r\\n')\ntime.sleep(60)", &["not NSH2"]),
        ("print('HELLO', file=os.fdopen(3, 'w'))\ntime.sleep(60)", &["not NSH2"]),
        ("send(b'NSH2' + b'x' * 64)\ntime.sleep(60)", &["impossible frame header"]),
        (
            "send(b'NSH2' + frame(0x81, head=b'protocol_min\\x003\\0protocol_max\\x009'))\ntime.sleep(60)",
            &["versions 3 to 9"],
        ),
        ("send(b'NSH2' + frame(0x83, 1, bytes(8)))\ntime.sleep(60)", &["not allowed now"]),
        ("hello()\nif os.fork() == 0:\n    time.sleep(60)\nos._exit(9)", &["exited with code 9"]),
    ];
    for (script, texts) in cases {
        check_start(Setup::fake_shim(&format!("{script}\n")), texts);
    }
}

#[test]
fn a_library_that_cannot_be_used_is_named() {
    let missing = std::path::Path::new("/nowhere/handler.so");
    check_start(Setup::library(missing), &["/nowhere/handler.so", "NUCLIO_GOLANG_HANDLER_PLUGIN_PATH"]);
    check_start(Setup::library(std::path::Path::new("/etc/passwd")), &["/etc/passwd"]);
    let Some(library) = plain_c_library() else { return };
    let mut setup = Setup::library(&library);
    setup.function["spec"]["handler"] = json!("missing:Handler");
    check_start(setup, &["there is no handler missing:Handler"]);
    check_start(Setup::library(&library).trigger(json!({"numWorkers": 20})), &["no worker 13 today"]);
    let Some(library) = c_library("old-abi", &["-DTEST_ABI_VERSION=0x00630000"]) else { return };
    check_start(Setup::library(&library), &["99"]);
}
