//! What goes wrong in containers, and what the user is told.

use std::time::Duration;

use serde_json::json;

use crate::docker::{Image, Run, available, docker, python, python_function};

const HELLO: &str = "def handler(context, event):\n    return 'hello'\n";

fn hello() -> Option<Image> {
    available().then(|| python(HELLO))
}

#[test]
fn a_missing_handler_ends_the_container_and_is_named() {
    let Some(image) = hello() else { return };
    for (handler, named) in [("main:nowhere", "nowhere"), ("elsewhere:handler", "elsewhere")] {
        let container = image.function(json!({"spec": {"runtime": "python", "handler": handler}})).start();
        assert_eq!(container.wait_exit(), 1, "{handler}");
        let logs = container.logs();
        let said = logs.lines().find(|line| line.starts_with("Error - ")).unwrap_or_default();
        assert!(said.contains(named), "{handler}: {logs}");
    }
}

#[test]
fn a_shim_that_is_asked_for_and_missing_is_named_by_its_path() {
    let Some(image) = hello() else { return };
    let container = image
        .function(python_function())
        .option(&["--env", "NUCLIO_PYTHON_WRAPPER_PATH=/opt/nuclio/elsewhere.py"])
        .start();
    assert_eq!(container.wait_exit(), 1);
    assert!(container.logs().contains("/opt/nuclio/elsewhere.py"), "{}", container.logs());
}

#[test]
fn a_missing_configuration_ends_the_container_at_once_or_after_the_wait_for_a_mount() {
    let Some(image) = hello() else { return };
    let path = "/etc/nuclio/config/processor/processor.yaml";
    let without = Run::new(&image.name).start();
    assert_eq!(without.wait_exit(), 1);
    assert!(without.logs().contains(path), "{}", without.logs());
    let empty = tempfile::tempdir().unwrap();
    let mount = format!("{}:/etc/nuclio/config/processor:ro", empty.path().display());
    let mounted = Run::new(&image.name).option(&["--volume", &mount]).start();
    assert_eq!(mounted.wait_exit(), 1);
    assert!(mounted.logs().contains(path), "{}", mounted.logs());
}

#[test]
fn a_configuration_that_comes_late_is_waited_for() {
    let Some(image) = hello() else { return };
    let run = image.function(python_function());
    let container = run.start_late(Duration::from_millis(500));
    container.wait_healthy();
    assert_eq!(container.get("/").text(), "hello");
}

#[test]
fn a_function_that_is_not_ready_is_not_healthy() {
    if !available() {
        return;
    }
    let image = python(
        "import os, time\ndef init_context(context):\n    while not os.path.exists('/tmp/go'):\n        \
         time.sleep(0.05)\n\ndef handler(context, event):\n    return 'hello'\n",
    );
    let container = image.function(python_function()).start();
    container.wait_for("it is probed", || container.inspect("{{len .State.Health.Log}}") != "0");
    let probes = container.inspect("{{range .State.Health.Log}}{{.ExitCode}} {{.Output}};{{end}}");
    assert!(!probes.split(';').any(|probe| probe.starts_with('0')), "{probes}");
    container.wait_for("it is unhealthy", || container.health() == "unhealthy");
    assert_eq!(container.exec(&["touch", "/tmp/go"]).0, Some(0));
    container.wait_healthy();
    assert_eq!(container.get("/").text(), "hello");
}

#[test]
fn a_killed_worker_is_replaced_and_the_container_stays() {
    if !available() {
        return;
    }
    let image = python("import os\ndef handler(context, event):\n    return str(os.getpid())\n");
    let container = image.function(python_function()).start();
    container.wait_healthy();
    let first = container.get("/").text();
    assert_eq!(container.exec(&["kill", "-9", &first]).0, Some(0));
    container.wait_for("another worker answers", || {
        let answer = container.get("/");
        answer.status == 200 && answer.text() != first
    });
    container.wait_healthy();
    assert_eq!(container.inspect("{{.RestartCount}} {{.State.Status}}"), "0 running");
    assert!(container.logs().contains("signal 9"), "{}", container.logs());
    assert_eq!(container.zombies(), Vec::<String>::new());
}

#[test]
fn a_read_only_root_without_any_temporary_folder_and_an_unknown_user_are_served() {
    let Some(image) = hello() else { return };
    for options in [&["--read-only"][..], &["--read-only", "--user", "1000:2000", "--env", "HOME="]] {
        let container = image.function(python_function()).option(options).start();
        container.wait_healthy();
        assert_eq!(container.get("/").text(), "hello", "{options:?}");
        assert_eq!(container.stop().1, 0, "{options:?}");
    }
}

#[test]
fn a_worker_that_hits_the_memory_limit_is_replaced_and_the_cause_is_named() {
    if !available() {
        return;
    }
    let image = python(
        "def handler(context, event):\n    if event.path == '/eat':\n        \
         return str(len([bytearray(1 << 20) for _ in range(4096)]))\n    return 'hello'\n",
    );
    let limit = ["--memory", "96m", "--memory-swap", "96m"];
    let container = image.function(python_function()).option(&limit).start();
    container.wait_healthy();
    let answer = container.get("/eat");
    assert!(answer.status >= 500, "{}", answer.status);
    container.wait_for("it answers again", || container.get("/").text() == "hello");
    let logs = container.logs();
    assert!(logs.contains("killed by the kernel: out of memory"), "{logs}");
    assert_eq!(docker(&["inspect", "-f", "{{.State.Status}}", &container.name]), "running");
}
