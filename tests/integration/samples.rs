//! The configuration samples, as files of the real binary: those that can run start as `EXPECTED.md` says, the others
//! are refused in the words that it gives. What they resolve to in full is tested beside the configuration.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Answer, Client, Ports, Processor, Setup, free_port, get, python};
use crate::library::rust_library;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/config");
const HANDLER: &str = "def handler(context, event):\n    context.logger.info('told')\n    \
                       context.logger.warn('warned')\n    context.logger.error('failed')\n    \
                       return event.body or b'served'\n";
/// By this variable of theirs all processes of one test are known.
const MARK: &str = "SAMPLE_TEST";

fn sample(name: &str) -> String {
    std::fs::read_to_string(Path::new(FOLDER).join(name)).unwrap()
}

/// The text with an address behind each line that needs one, and without the addresses that are in it.
fn with_addresses(text: &str, ports: Ports) -> String {
    let mut out = String::new();
    let elsewhere = text.contains("127.0.0.1:9090");
    let http = format!(r#""kind":"http","url":"127.0.0.1:{}""#, ports.http);
    let text = &text.replace(r#""kind":"http""#, &http); // The sample in JSON.
    for line in text.lines() {
        let indent = " ".repeat(line.len() - line.trim_start().len());
        let port = match line.trim().to_ascii_lowercase().as_str() {
            "kind: http" if !elsewhere => Some(ports.http),
            "kind: prometheuspull" if !text.contains(":9999") => Some(ports.metrics),
            _ => None,
        };
        out += &line
            .replace("127.0.0.1:9090", &format!("127.0.0.1:{}", ports.http))
            .replace(":18082", &format!("127.0.0.1:{}", ports.health));
        out += "\n";
        if let Some(port) = port {
            out += &format!("{indent}url: 127.0.0.1:{port}\n");
        }
    }
    out
}

/// Runs a sample, on a platform sample or on platform defaults.
fn run(function: &str, platform: Option<&str>, environment: &[(&str, &str)]) -> Processor {
    let ports = Ports { http: free_port(), health: free_port(), admin: free_port(), metrics: free_port() };
    let mut platform = platform.map(|name| with_addresses(&sample(name), ports)).unwrap_or_default();
    // A file that is cut off stays as it is.
    let whole = !platform.contains("[\n") && !platform.ends_with('[');
    for (key, port) in [("webAdmin", ports.admin), ("healthCheck", ports.health)] {
        if whole && !platform.contains(key) {
            platform += &format!("{key}: {{listenAddress: \"127.0.0.1:{port}\"}}\n");
        }
    }
    let setup = Setup::builtin();
    setup.write(function, &with_addresses(&sample(function), ports));
    setup.write("platform.yaml", &platform);
    let handlers =
        ["hello", "browser", "quiet", "audited", "loose", "words", "main", "bad", "embed", "shared"];
    for module in handlers {
        setup.write(&format!("{module}.py"), HANDLER);
    }
    setup.write("jobs.js", "exports.run = (context, event) => context.callback(event.body);\n");
    setup.write("echo.sh", "echo \"$1 $2 $A\"\n");
    setup.write("orders/__init__.py", "");
    setup.write("orders/main.py", &HANDLER.replace("def handler", "def handle"));
    let folder = setup.directory.path().to_owned();
    let mut command = Command::new(crate::harness::processor_bin());
    // As the platform does, with Go's single dash.
    command
        .arg("-config")
        .arg(folder.join(function))
        .arg("-platform-config")
        .arg(folder.join("platform.yaml"));
    command.env("NUCLIO_PYTHON_PATH", &folder).env("NUCLIO_PYTHON_EXE_PATH", python()).env(MARK, &folder);
    command.env("NUCLIO_HANDLER_DIR", &folder).env("NUCLIO_SHELL_HANDLER_DIR", &folder);
    command.envs(environment.iter().copied());
    Processor::spawn(command, ports, setup.directory)
}

fn start(function: &str, platform: Option<&str>) -> Processor {
    let processor = run(function, platform, &[]);
    processor.wait_ready();
    processor
}

fn admin(processor: &Processor, path: &str) -> Value {
    get(processor.ports.admin, path).unwrap().json()
}

fn post(processor: &Processor, headers: &str) -> Answer {
    processor.request(&format!("POST /x HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 2\r\n\r\n"), b"hi")
}

/// One trigger of `/triggers`, which must be the only one.
fn only_trigger(processor: &Processor, name: &str) -> Value {
    let triggers = admin(processor, "/triggers");
    assert_eq!(triggers.as_object().unwrap().keys().collect::<Vec<_>>(), [name]);
    triggers[name].clone()
}

fn check_limits(trigger: &Value, workers: u64, head: u64, body: u64, wait_ms: u64) {
    assert_eq!(trigger["kind"], "http");
    assert_eq!(trigger["numWorkers"], workers);
    assert_eq!(trigger["readBufferSize"], head);
    assert_eq!(trigger["maxRequestBodySize"], body);
    assert_eq!(trigger["workerAvailabilityTimeoutMilliseconds"], wait_ms);
}

#[test]
fn python_samples_start_with_their_workers_and_limits() {
    for (function, name, workers, head, body, wait_ms) in [
        ("01-minimal-python.yaml", "default-http", 1, 16384, 4_194_304, 10000),
        ("02-python-env-and-platform-fields.yaml", "default-http", 4, 16384, 4_194_304, 2500),
        ("12-key-case-and-unknown-keys.yaml", "web", 2, 8192, 1024, 10000),
        ("13-yaml11-words.yaml", "web", 8, 16384, 1_048_576, 10000),
        ("14-as-written-by-the-platform.yaml", "default-http", 4, 16384, 4_194_304, 10000),
        ("bad-04-number-for-text.yaml", "default-http", 1, 16384, 4_194_304, 10000),
        ("bad-05-text-for-number.yaml", "default-http", 4, 16384, 4_194_304, 10000),
        ("bad-06-attribute-type.yaml", "default-http", 1, 16384, 4_194_304, 10000),
    ] {
        println!("{function}");
        let processor = start(function, None);
        check_limits(&only_trigger(&processor, name), workers, head, body, wait_ms);
        assert_eq!(processor.children().len() as u64, workers);
        let folder = processor.directory.path().display().to_string();
        assert_eq!(left(&folder).len() as u64, workers + 1, "processor and workers are known by the mark");
        let answer = post(&processor, "Origin: https://a.example\r\n");
        assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
    }
}

#[test]
fn the_batching_sample_gathers_events() {
    let processor = run("07-batching.yaml", None, &[]);
    let handler =
        "def handler(context, events):\n    return '%s of %d' % (type(events).__name__, len(events))\n";
    std::fs::write(processor.directory.path().join("embed.py"), handler).unwrap();
    processor.wait_ready();
    let trigger = only_trigger(&processor, "default-http");
    check_limits(&trigger, 2, 16384, 4_194_304, 10000);
    assert_eq!(trigger["batch"], serde_json::json!({"mode": "enable", "batchSize": 16, "timeout": "250ms"}));
    let begun = std::time::Instant::now();
    let answer = post(&processor, "");
    assert_eq!((answer.status, answer.text().as_str()), (200, "list of 1"));
    assert!(begun.elapsed() >= std::time::Duration::from_millis(250), "{:?}", begun.elapsed());
}

#[test]
fn the_shared_allocator_has_the_larger_number_of_workers_and_both_triggers() {
    let processor = start("05-shared-allocator.yaml", None);
    processor.stdout.wait_for("the warning", |line| line.contains("triggers share allocator `pool`"));
    assert_eq!(processor.children().len(), 8);
    let triggers = admin(&processor, "/triggers");
    check_limits(&triggers["web"], 8, 16384, 4_194_304, 0);
    assert_eq!(
        (&triggers["tick"]["kind"], &triggers["tick"]["numWorkers"]),
        (&Value::from("cron"), &Value::from(8))
    );
    assert_eq!(triggers["tick"]["Interval"], "1s");
    assert_eq!(post(&processor, "").text(), "hi");
    crate::harness::wait_until("it has ticked", || {
        admin(&processor, "/triggers/tick/stats")["stats"]["success"].as_u64().unwrap() >= 1
    });
}

#[test]
fn several_triggers_of_the_sample_run_beside_each_other() {
    if crate::languages::nodejs().is_none() {
        println!("skipped: there is no Node.js of version 18 or newer");
        return;
    }
    let processor = start("04-several-triggers.yaml", None);
    assert_eq!(processor.children().len(), 6);
    let stats =
        |name: &str| admin(&processor, &format!("/triggers/{name}/stats"))["stats"]["success"].clone();
    crate::harness::wait_until("the kickstart is over", || stats("once") == 1);
    assert_eq!((stats("heartbeat"), stats("nightly")), (Value::from(0), Value::from(0)));
    assert_eq!(admin(&processor, "/triggers")["nightly"]["Schedule"], "0 30 2 * * *");
}

#[test]
fn unknown_keys_are_warned_of_once_each() {
    let processor = start("12-key-case-and-unknown-keys.yaml", Some("platform-01-production.yaml"));
    for key in ["notAField", "unknownAttribute"] {
        let warns = |line: &&String| line.contains(key) && line.contains("\"warn\"");
        processor.stdout.wait_for(key, |line| warns(&&line.to_owned()));
        assert_eq!(processor.stdout.lines().iter().filter(warns).count(), 1, "{key}");
    }
}

#[test]
fn the_go_sample_runs_a_library() {
    let library = rust_library().display().to_string();
    let processor = run("03-go-plugin.yaml", None, &[("NUCLIO_GOLANG_HANDLER_PLUGIN_PATH", &library)]);
    processor.wait_ready();
    let trigger = only_trigger(&processor, "web");
    check_limits(&trigger, 2, 32768, 33_554_432, 10000);
    assert_eq!(trigger["reduceMemoryUsage"], true);
    let answer = processor.request("POST /echo HTTP/1.1\r\nContent-Length: 2\r\n\r\n", b"hi");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hi"));
}

#[test]
fn the_cors_sample_answers_preflights() {
    let processor = start("06-cors.yaml", None);
    let head = "OPTIONS /x HTTP/1.1\r\nOrigin: https://b.example\r\nAccess-Control-Request-Method: PATCH\r\n\
                Access-Control-Request-Headers: x-custom\r\n\r\n";
    let answer = processor.request(head, b"");
    assert_eq!(answer.status, 200);
    for (name, value) in [
        ("Origin", "https://b.example"),
        ("Methods", "HEAD, GET, POST, PUT, DELETE, OPTIONS, PATCH"),
        ("Headers", "X-Custom"),
        ("Credentials", "true"),
    ] {
        assert_eq!(answer.values(&format!("Access-Control-Allow-{name}")), [value]);
    }
    assert_eq!(answer.values("Access-Control-Max-Age"), ["0"]);
    // The words of version 1.1: `yes` turns CORS on, with its defaults.
    let processor = start("13-yaml11-words.yaml", None);
    let answer = post(&processor, "Origin: https://any.example\r\n");
    assert_eq!(answer.values("Access-Control-Allow-Origin"), ["https://any.example"]);
}

#[test]
fn log_sinks_follow_the_function() {
    let told = |processor: &Processor, text: &str| {
        post(processor, "");
        processor.stdout.wait_for(text, |line| line.contains(text));
        processor.stdout.lines()
    };
    let lines = told(&start("08-logger-level-only.yaml", None), "failed");
    assert!(
        lines.iter().any(|line| line.contains("warned")) && !lines.iter().any(|line| line.contains("told"))
    );
    let lines = told(&start("08-logger-level-only.yaml", Some("platform-01-production.yaml")), "failed");
    let levels: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|record| {
            record["message"].as_str().is_some_and(|text| ["told", "warned", "failed"].contains(&text))
        })
        .map(|record| record["level"].clone())
        .collect();
    assert_eq!(levels, ["warn", "error"]);
    // Two sinks of their own: `flat` at info, `production` at error; both write to stdout.
    let processor = start("09-logger-sink-named.yaml", Some("platform-01-production.yaml"));
    post(&processor, "");
    let count = |text: &str| processor.stdout.lines().iter().filter(|line| line.contains(text)).count();
    crate::harness::wait_until("both sinks have the error", || count("\"failed\"") == 2);
    assert_eq!((count("\"told\""), count("\"warned\"")), (1, 1));
}

#[test]
fn the_production_platform_logs_json_and_serves_metrics() {
    let processor = start("01-minimal-python.yaml", Some("platform-01-production.yaml"));
    let record = processor.stdout.wait_for_record("Starting processor");
    assert_eq!((&record["level"], &record["name"]), (&Value::from("info"), &Value::from("processor")));
    assert!(record["more"]["version"].is_object(), "{record}");
    let time = record["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    post(&processor, "");
    let parts = ["instance=\"-hello\"", "result=\"success\"", "trigger_id=\"default-http\""];
    assert!(processor.metric("nuclio_processor_handled_events_total", &parts) >= 1.0);
}

#[test]
fn the_platform_moves_and_removes_side_servers() {
    let processor = start("01-minimal-python.yaml", Some("platform-02-ports-and-push.yaml"));
    assert_eq!(post(&processor, "").text(), "hi");
    assert!(get(processor.ports.admin, "/triggers").is_err(), "web admin is off");
    assert!(get(9999, "/metrics").is_err(), "the idle sink does not listen");
}

#[test]
fn odd_platforms_start() {
    for platform in ["platform-03-text-coercion.yaml", "platform-bad-03-metric-sink.yaml"] {
        println!("{platform}");
        assert_eq!(post(&start("01-minimal-python.yaml", Some(platform)), "").text(), "hi");
    }
    let processor = start("01-minimal-python.yaml", Some("platform-bad-01-sink-not-bound.yaml"));
    let about = |line: &str| line.contains("mine");
    processor.stdout.wait_for("a warning about the sink", about);
}

/// Pids of processes that a run has left.
fn left(folder: &str) -> Vec<String> {
    let mark = format!("{MARK}={folder}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let marked = processes.filter(|process| {
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    });
    marked.map(|process| process.file_name().to_string_lossy().into_owned()).collect()
}

fn check_refused(function: &str, platform: Option<&str>, environment: &[(&str, &str)], texts: &[&str]) {
    println!("{function} on {platform:?}");
    let mut processor = run(function, platform, environment);
    let status = processor.wait();
    let folder = processor.directory.path().display().to_string();
    for text in texts {
        processor.stderr.wait_for(text, |line| line.contains(text));
    }
    let (out, err) = (processor.stdout.text(), processor.stderr.text());
    assert_eq!(status.code(), Some(1), "{function}: {err}");
    assert!(err.trim_start().starts_with("Error - "), "{function}: {err}");
    for claim in ["ready", "started", "istening", "running", "serving"] {
        assert!(!out.contains(claim), "{function}: {out}");
    }
    assert_eq!(left(&folder), [""; 0], "{function}");
}

#[test]
fn bad_function_files_are_refused_by_name() {
    for (function, texts) in [
        (
            "bad-01-trigger-kind.yaml",
            &[
                "Registry for trigger failed to find: carrierPigeon",
                "Trigger of kind `carrierPigeon` is not supported",
            ][..],
        ),
        (
            "bad-02-event-timeout.yaml",
            &[
                r#"time: unknown unit " minutes" in duration "2 minutes""#,
                r#"Can't parse Spec.EventTimeout ("2 minutes") into time.Duration"#,
            ],
        ),
        ("bad-03-event-timeout-zero.yaml", &["eventTimeout <= 0 (0s)", r#"("0s") into time.Duration"#]),
        (
            "bad-07-tab.yaml",
            &["error converting YAML to JSON: yaml: line 2: found character that cannot start"],
        ),
        ("bad-08-runtime.yaml", &["Registry for runtime failed to find: cobol", "python"]),
        (
            "bad-09-termination-timeout.yaml",
            &["Failed to parse worker termination timeout from trigger configuration", "default-http"],
        ),
        ("bad-10-batch-timeout.yaml", &["Could not parse batch timeout: soon", "default-http"]),
        ("bad-11-logger-sink.yaml", &["Failed to find logger sink nowhere", "stdout"]),
        (
            "bad-12-top-level-list.yaml",
            &[
                "json: cannot unmarshal array into Go value of type processor.Configuration",
                "`metadata` and `spec`",
            ],
        ),
        (
            "bad-13-cron-without-schedule.yaml",
            &["Cron trigger configuration must contain either interval or schedule", "tick"],
        ),
        ("09-logger-sink-named.yaml", &["Failed to find logger sink"]),
        ("16-empty.yaml", &["spec.runtime"]),
        ("17-null-trigger.yaml", &["Trigger of kind `` is not supported", "`http`", "kind"]),
    ] {
        check_refused(function, None, &[], texts);
    }
}

#[test]
fn bad_platform_files_are_refused_by_name() {
    for (platform, texts) in [
        ("platform-bad-02-no-logger.yaml", &["Must configure at least one logger"][..]),
        ("platform-bad-04-unknown-sinks.yaml", &["Registry for loggersink failed to find: elasticsearch"]),
        (
            "platform-bad-05-syntax.yaml",
            &["error converting YAML to JSON: yaml: line ", "Failed to read platform configuration"],
        ),
    ] {
        check_refused("01-minimal-python.yaml", Some(platform), &[], texts);
    }
}

#[test]
fn what_this_build_does_not_serve_is_refused_by_name() {
    check_refused("11-secret-references.yaml", None, &[], &["queue", "mqtt"]);
}

#[test]
fn the_json_sample_runs_a_script() {
    let processor = start("15-json.yaml", None);
    check_limits(&only_trigger(&processor, "default-http"), 1, 16384, 4_194_304, 10000);
    let answer = post(&processor, "");
    assert_eq!((answer.text().as_str(), answer.values("X-Shell")), ("-n hello b\n", vec!["1"]));
}

#[test]
fn a_secret_that_is_not_mounted_ends_the_start() {
    let restore = ("NUCLIO_RESTORE_FUNCTION_CONFIG_FROM_SECRET", "true");
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().display().to_string();
    let environment = [restore, ("NUCLIO_FUNCTION_SECRET_VOLUME_PATH", empty.as_str())];
    let texts = ["Secret is not mounted to function pod"];
    check_refused("11-secret-references.yaml", None, &environment, &texts);
}

#[test]
fn a_restored_secret_is_not_shown() {
    let restore = ("NUCLIO_RESTORE_FUNCTION_CONFIG_FROM_SECRET", "true");
    let secrets = format!("{FOLDER}/11-secrets");
    let environment = [restore, ("NUCLIO_FUNCTION_SECRET_VOLUME_PATH", secrets.as_str())];
    let mut processor = run("11-secret-references.yaml", None, &environment);
    processor.wait();
    let shown = format!("{}{}", processor.stdout.text(), processor.stderr.text());
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn a_file_that_does_not_exist_is_named() {
    let setup = Setup::builtin();
    let path = setup.directory.path().join("absent.yaml");
    let mut command = Command::new(crate::harness::processor_bin());
    command.arg("-config").arg(&path);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("open {}: no such file or directory", path.display())), "{text}");
    assert!(text.contains("Failed to open configuration file"), "{text}");
}

#[test]
fn a_port_in_use_is_a_start_error() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let mut processor = Setup::builtin().trigger(serde_json::json!({"url": address})).no_wait().start();
    assert_eq!(processor.wait().code(), Some(1));
    processor.stderr.wait_for("the address", |line| line.contains(&address));
    drop(Client::connect(held.local_addr().unwrap()));
}
