//! Runs the handler cases of the languages behind a shim through the whole processor: a minimal handler, one request,
//! what the client sees and what is logged. Python without the published SDK, and with it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::dotnet_build::dotnet_function;
use crate::golang_build::{FORMS, Form, go_function, renamed};
use crate::harness::{Answer, Client, Processor, Setup, python};
use crate::java_build;
use crate::languages::{nodejs, ruby};
use crate::packages::python_with;

/// Cases with another rule than the one they name: generators are streamed, as in newer releases of the reference; a
/// value that a Node.js handler returns is its answer, which the case allows.
const NEWER: &[(&str, &str)] = &[
    ("generator", r#"{"status": 200, "body_utf8": "x", "headers": {"Transfer-Encoding": "chunked"}}"#),
    ("return-value-ignored", r#"{"status": 200, "body_utf8": "ignored", "content_type": "text/plain"}"#),
];

/// What a client does not see over HTTP, so that nothing is said about it here.
const NOT_SHOWN: &[&str] = &["control", "no_ack"];

/// What a case may hold; anything else is a mistake.
const KEYS: &[&str] = &[
    "language",
    "name",
    "handler_behaviour",
    "handler_spec",
    "handler",
    "request",
    "expect",
    "checked",
    "quirk",
    "reference",
    "reference_expect",
    "requests_before",
    "env",
    "ours",
    "trigger_name",
    "file",
    "event_override",
    "note",
    "batch",
    "spec_env",
    "arguments",
    "response_headers",
    "event_timeout",
];

/// How long a record may take to the log.
const LOGGED_WITHIN: Duration = Duration::from_secs(5);
const SDK: &str = "nuclio-sdk==0.6.3";

#[test]
fn python_cases_hold_without_the_sdk() {
    run("python", python());
}

#[test]
fn python_cases_hold_over_protocol_1() {
    run_over_protocol_1("python", python());
}

#[test]
fn python_cases_hold_with_the_sdk() {
    match sdk_python() {
        Ok(python) => run("python", &python.display().to_string()),
        Err(reason) => println!("skipped: {reason}"),
    }
}

#[test]
fn nodejs_cases_hold() {
    if let Some(node) = nodejs() {
        run("nodejs", node);
    }
}

#[test]
fn java_cases_hold_over_both_protocols() {
    let file: Value = serde_json::from_str(include_str!("../vectors/handlers.json")).unwrap();
    let cases: Vec<&Value> =
        file["cases"].as_array().unwrap().iter().filter(|case| case["language"] == "java").collect();
    let text = |case: &Value, key: &str| case[key].as_str().unwrap().to_owned();
    let package = |case: &Value| format!("case_{}", text(case, "name").replace('-', "_"));
    let sources: Vec<(String, String)> =
        cases.iter().map(|case| (package(case), text(case, "handler"))).collect();
    let Some(classes) = java_build::packaged("cases", &sources) else { return };
    let mut failed = Vec::new();
    for protocol in ["2", "1"] {
        for case in &cases {
            let mut setup = setup(case).env("NUCLIO_SHIM_PROTOCOL", protocol);
            setup.function["spec"]["handler"] =
                format!("{}.{}", package(case), text(case, "handler_spec")).into();
            let differences = play(case, setup.java_environment(&classes).unwrap().start());
            if !differences.is_empty() {
                failed.push(format!(
                    "{}, protocol {protocol}:\n    {}",
                    case["name"],
                    differences.join("\n    ")
                ));
            }
        }
    }
    println!("{} handler cases pass", 2 * cases.len() - failed.len());
    assert!(cases.len() >= 20 && failed.is_empty(), "{} fail:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn nodejs_cases_hold_over_protocol_1() {
    if let Some(node) = nodejs() {
        run_over_protocol_1("nodejs", node);
    }
}

#[test]
fn ruby_cases_hold_over_protocol_2() {
    if let Some(ruby) = ruby() {
        run("ruby", ruby);
    }
}

/// Our wrapper as the Go processor would drive it.
#[test]
fn ruby_cases_hold_over_protocol_1() {
    let Some(ruby) = ruby() else { return };
    run_with("ruby", &|case| {
        let (setup, file) = (setup(case), file_of(case));
        setup.write(file, case["handler"].as_str().unwrap());
        setup.write("wrapper.rb", include_str!("../../runtimes/ruby/wrapper.rb"));
        let wrapper = setup.directory.path().join("wrapper.rb").display().to_string();
        let setup = setup.env("NUCLIO_RUBY_EXE", ruby).env("NUCLIO_WRAPPER_PATH", &wrapper);
        setup.env("NUCLIO_SHIM_PROTOCOL", "1").start()
    });
}

#[test]
fn shell_cases_hold() {
    run("shell", "sh");
}

#[test]
fn go_cases_hold_in_both_forms() {
    FORMS.iter().all(|form| run_go(*form));
}

#[test]
fn dotnet_cases_hold_over_both_protocols() {
    let cases = cases_of("dotnetcore");
    let class = |case: &Value| format!("Case_{}", case["name"].as_str().unwrap().replace('-', "_"));
    // Every case has a class of the same name: under names of their own they share a build.
    let files: Vec<(String, String)> = cases
        .iter()
        .map(|case| {
            let source = case["handler"].as_str().unwrap();
            let renamed = source.replace("class nuclio", &format!("class {}", class(case)));
            assert_ne!(source, renamed);
            (format!("{}.cs", class(case)), renamed)
        })
        .collect();
    let Some(built) = dotnet_function("cases", &files) else { return };
    for protocol in ["2", "1"] {
        run_with("dotnetcore", &|case| {
            let mut setup = setup(case).dotnet_environment(&built).env("NUCLIO_SHIM_PROTOCOL", protocol);
            let handler = case["handler_spec"].as_str().unwrap();
            setup.function["spec"]["handler"] = handler.replace("nuclio:", &(class(case) + ":")).into();
            setup.start()
        });
    }
}

/// Cases with a function of their own by this name have a build of their own.
const ALONE: &str = "func InitContext(";

/// All cases in one form; false: they cannot be built here.
fn run_go(form: Form) -> bool {
    let cases = cases_of("golang");
    let text = |case: &Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    // The handler of the case without a setting keeps its name, the others get one of their own in a common build.
    let own = |case: &Value| match text(case, "handler_spec").as_str() {
        "" => "Handler".to_owned(),
        _ => format!("Handler_{}", text(case, "name").replace('-', "_")),
    };
    let together: Vec<(String, String)> = cases
        .iter()
        .filter(|case| !text(case, "handler").contains(ALONE))
        .map(|case| (format!("{}.go", own(case)), renamed(&text(case, "handler"), &own(case))))
        .collect();
    let mut failed = Vec::new();
    for case in &cases {
        let (name, source) = (text(case, "name"), text(case, "handler"));
        let built = if source.contains(ALONE) {
            go_function(&format!("case-{name}"), &[("main.go".to_owned(), source.clone())], form)
        } else {
            go_function("cases", &together, form)
        };
        let Some(built) = built else { return false };
        let mut setup = setup(case);
        let handler = text(case, "handler_spec");
        if !source.contains(ALONE) {
            setup.function["spec"]["handler"] = handler.replace("Handler", &own(case)).into();
        }
        let differences = play_go(case, setup.go(&built));
        if !differences.is_empty() {
            failed.push(format!("{name}:\n    {}", differences.join("\n    ")));
        }
    }
    println!("{} handler cases pass", cases.len() - failed.len());
    assert!(failed.is_empty(), "{} handler cases fail ({form:?}):\n{}", failed.len(), failed.join("\n"));
    true
}

fn play_go(case: &Value, mut setup: Setup) -> Vec<String> {
    if let Some(timeout) = case["event_timeout"].as_str() {
        setup = setup.spec(json!({"eventTimeout": timeout}));
    }
    if let Some(version) = case["function_version"].as_i64() {
        setup = setup.spec(json!({"version": version}));
    }
    if case["expect"]["start_fails"] != true {
        return play(case, setup.start());
    }
    let mut processor = setup.no_wait().start();
    let (status, words) = (processor.end(), case["expect"]["message_contains"].as_str().unwrap());
    let said = (processor.stdout.text() + &processor.stderr.text()).replace("\\\"", "\"");
    if status.code() == Some(1) && said.contains(words) {
        return Vec::new();
    }
    vec![format!("{status}, wanted a failing start with {words}:\n{said}")]
}

/// An interpreter that has the SDK.
fn sdk_python() -> &'static Result<PathBuf, String> {
    static MADE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MADE.get_or_init(|| python_with("nuclio-sdk", &[SDK]))
}

fn cases_of(language: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../vectors/handlers.json")).unwrap();
    let cases = file["cases"].as_array().unwrap().iter();
    cases.filter(|case| case["language"] == language).cloned().collect()
}

fn run(language: &str, interpreter: &str) {
    run_with(language, &|case| start(case, interpreter));
}

/// Our shim as the Go processor would drive it.
fn run_over_protocol_1(language: &str, interpreter: &str) {
    run_with(language, &|case| prepare(case, interpreter).over_protocol_1(language).start());
}

/// All cases of a language, each with a processor that `start` makes.
fn run_with(language: &str, start: &dyn Fn(&Value) -> Processor) {
    let (mut passed, mut failed) = (0, Vec::new());
    for case in &cases_of(language) {
        let name = case["name"].as_str().unwrap();
        for key in case.as_object().unwrap().keys() {
            assert!(KEYS.contains(&key.as_str()), "{name}: unknown key {key}");
        }
        let batch = case.get("batch").map(|batch| batch.as_array().unwrap());
        let differences =
            batch.map_or_else(|| play(case, start(case)), |batch| play_batch(case, batch, start(case)));
        passed += usize::from(differences.is_empty());
        if !differences.is_empty() {
            failed.push(format!("{name}:\n    {}", differences.join("\n    ")));
        }
    }
    println!("{passed} handler cases pass");
    assert!(passed > 0, "no case in {language}");
    assert!(failed.is_empty(), "{} handler cases fail:\n{}", failed.len(), failed.join("\n"));
}

/// Sends the requests of a case to its handler; returns what is not as expected.
fn play(case: &Value, processor: Processor) -> Vec<String> {
    let mut client = Client::connect(processor.http());
    for request in case["requests_before"].as_array().into_iter().flatten() {
        client.send(&bytes(request));
        client.read_answer(false).unwrap();
    }
    client.send(&bytes(&case["request"]));
    let Ok(answer) = client.read_answer(false) else {
        return vec![format!("no answer; the processor says:\n{}", processor.stdout.text())];
    };
    let mut expect = case["expect"].as_object().unwrap().clone();
    let ours = case["ours"].as_object().cloned().unwrap_or_default();
    if ours.keys().any(|key| key.starts_with("body")) {
        expect.retain(|key, _| !key.starts_with("body")); // It may be given in another form.
    }
    expect.extend(ours);
    if case["ours"].get("status").is_some() {
        // What the reference does not survive is answered here.
        expect.retain(|key, _| !matches!(key.as_str(), "dies" | "timeout" | "start_fails"));
    }
    expect.remove("note");
    if expect.get("content_type") == Some(&Value::Null) && case["ours"].get("body_utf8").is_some() {
        // That was said of the empty body of the reference.
        expect.remove("content_type");
    }
    if let Some((_, newer)) = NEWER.iter().find(|(name, _)| case["name"] == *name) {
        expect = serde_json::from_str(newer).unwrap();
    }
    let asked = case["request"]["headers"].get("X-Nuclio-Log-Level").is_some();
    let mut found = of_answer(&expect, &answer);
    if let Some(logs) = expect.get("logs") {
        found.extend(of_log(logs.as_array().unwrap(), &processor));
        found.extend(asked.then(|| of_log_header(logs.as_array().unwrap(), &answer)).flatten());
    } else if asked {
        found.push("logs are asked for, none expected".to_owned());
    }
    found
}

/// The events of a batch, each with the id that the case gives it: over HTTP only cloud events have one of their own.
fn play_batch(case: &Value, members: &[Value], processor: Processor) -> Vec<String> {
    let request = case["request"].as_object().unwrap();
    let send = |member: &Value| {
        let mut client = Client::connect(processor.http());
        let mut request = request.clone();
        let body = member["body_utf8"].as_str().unwrap();
        request.insert("body_utf8".into(), body.into());
        request["headers"]["CE-CloudEventsVersion"] = "0.1".into();
        request["headers"]["CE-EventID"] = member["id"].clone();
        client.send(&bytes(&Value::Object(request)));
        client
    };
    let clients: Vec<Client> = members.iter().map(send).collect();
    let mut found = Vec::new();
    for (member, mut client) in members.iter().zip(clients) {
        let id = member["id"].as_str().unwrap();
        match client.read_answer(false) {
            Ok(answer) => {
                let expect = case["expect"]["results"][id].as_object().unwrap();
                found.extend(of_answer(expect, &answer).into_iter().map(|line| format!("{id}: {line}")));
            }
            Err(error) => found.push(format!("{id}: no answer: {error}\n{}", processor.stdout.text())),
        }
    }
    found
}

/// The configuration of a case.
fn setup(case: &Value) -> Setup {
    let text = |key: &str, default: &str| case[key].as_str().unwrap_or(default).to_owned();
    let mut setup = Setup::new(case["language"].as_str().unwrap(), &text("handler_spec", "main:handler"));
    setup.function["metadata"] = json!({"name": "fn", "namespace": "nuclio"});
    setup.function["spec"]["triggers"] =
        json!({text("trigger_name", "http"): {"kind": "http", "numWorkers": 1}});
    if let Some(batch) = case["batch"].as_array() {
        setup.function["spec"]["triggers"]["http"]["batch"] =
            json!({"mode": "enable", "batchSize": batch.len(), "timeout": "5m"});
    }
    setup
}

fn start(case: &Value, interpreter: &str) -> Processor {
    prepare(case, interpreter).start()
}

fn prepare(case: &Value, interpreter: &str) -> Setup {
    let text = |key: &str, default: &str| case[key].as_str().unwrap_or(default).to_owned();
    let language = case["language"].as_str().unwrap();
    let setup = setup(case);
    let file = file_of(case);
    setup.write(file, &text("handler", ""));
    if let Some((package, _)) = file.split_once('/') {
        setup.write(&format!("{package}/__init__.py"), "");
    }
    let mut setup = match language {
        "nodejs" => setup.nodejs_environment(interpreter),
        "ruby" => setup.ruby_environment(interpreter),
        "shell" => shell(case, setup),
        _ => setup.python_environment().env("NUCLIO_PYTHON_EXE_PATH", interpreter),
    };
    for (name, value) in case["env"].as_object().into_iter().flatten() {
        setup = setup.env(name, value.as_str().unwrap());
    }
    setup
}

/// Where the handler of a case is written.
fn file_of(case: &Value) -> &str {
    case["file"].as_str().unwrap_or(match case["language"].as_str().unwrap() {
        "nodejs" => "handler.js",
        "ruby" => "handler.rb",
        "shell" => "handler.sh",
        _ => "main.py",
    })
}

/// What only cases with commands have.
fn shell(case: &Value, setup: Setup) -> Setup {
    let folder = setup.directory.path().display().to_string();
    let mut setup = setup.env("NUCLIO_SHELL_HANDLER_DIR", &folder);
    for (name, value) in case["spec_env"].as_object().into_iter().flatten() {
        let mut env = setup.function["spec"]["env"].as_array().cloned().unwrap_or_default();
        env.push(json!({"name": name, "value": value}));
        setup.function["spec"]["env"] = env.into();
    }
    for (key, attribute) in [("arguments", "arguments"), ("response_headers", "responseHeaders")] {
        if let Some(value) = case.get(key) {
            setup = setup.spec(json!({"runtimeAttributes": {attribute: value}}));
        }
    }
    match case.get("event_timeout") {
        Some(timeout) => setup.spec(json!({"eventTimeout": timeout})),
        None => setup,
    }
}

/// Bytes given as text, in hexadecimal or as one byte often. `None`: not given.
fn content(of: &Map<String, Value>, prefix: &str) -> Option<Vec<u8>> {
    let get = |kind: &str| of.get(&format!("{prefix}{kind}"));
    if let Some(text) = get("_utf8") {
        return Some(text.as_str().unwrap().as_bytes().to_vec());
    }
    if let Some(hex) = get("_hex") {
        return Some(from_hex(hex.as_str().unwrap()));
    }
    get("_repeat").map(|repeat| {
        let number = |key: &str| usize::try_from(repeat[key].as_u64().unwrap()).unwrap();
        vec![u8::try_from(number("byte")).unwrap(); number("count")]
    })
}

fn from_hex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn bytes(request: &Value) -> Vec<u8> {
    let request = request.as_object().unwrap();
    let known = ["method", "path", "headers", "body_utf8", "body_hex", "body_repeat"];
    for key in request.keys() {
        assert!(known.contains(&key.as_str()), "unknown key {key} of a request");
    }
    let (method, path) = (request["method"].as_str().unwrap(), request["path"].as_str().unwrap());
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: fn\r\n").into_bytes();
    for (name, value) in request["headers"].as_object().unwrap() {
        bytes.extend(format!("{name}: ").bytes());
        match value {
            Value::String(text) => bytes.extend(text.bytes()),
            raw => bytes.extend(from_hex(raw["$raw_str_hex"].as_str().unwrap())),
        }
        bytes.extend(b"\r\n");
    }
    let body = content(request, "body");
    if let Some(body) = &body {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body.unwrap_or_default());
    bytes
}

fn of_answer(expect: &Map<String, Value>, answer: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: String| found.push(what);
    for (key, wanted) in expect {
        match key.as_str() {
            "status" if json!(answer.status) != *wanted => {
                differ(format!("status {}, wanted {wanted}", answer.status))
            }
            "content_type" => {
                let values = answer.values("Content-Type");
                if values != wanted.as_str().into_iter().collect::<Vec<_>>() {
                    differ(format!("content type {values:?}, wanted {wanted}"));
                }
            }
            "headers" => {
                for (name, wanted) in wanted.as_object().unwrap() {
                    if answer.values(name) != [wanted.as_str().unwrap()] {
                        differ(format!("header {name} {:?}, wanted {wanted}", answer.values(name)));
                    }
                }
            }
            "absent_headers" => {
                for name in wanted.as_array().unwrap().iter().filter_map(Value::as_str) {
                    if answer.header(name).is_some() {
                        differ(format!("header {name} {:?}, wanted none", answer.values(name)));
                    }
                }
            }
            "body" if wanted == "any" => {}
            "body_regex" => {
                if !Regex::new(wanted.as_str().unwrap()).unwrap().is_match(&answer.text()) {
                    differ(format!("body {:?}, wanted {wanted}", answer.text()));
                }
            }
            "status" | "body_utf8" | "body_hex" | "body_repeat" | "logs" => {}
            other if NOT_SHOWN.contains(&other) => {}
            other => differ(format!("unknown expectation {other}: {wanted}")),
        }
    }
    if content(expect, "body").is_some_and(|wanted| wanted != answer.body) {
        let text: String = answer.text().chars().take(300).collect();
        found.push(format!(
            "body {text:?} ({} bytes), wanted {:?}",
            answer.body.len(),
            expect.get("body_utf8")
        ));
    }
    found
}

/// The wanted records must come in this order, others may stand between them.
fn of_log(wanted: &[Value], processor: &Processor) -> Option<String> {
    let deadline = Instant::now() + LOGGED_WITHIN;
    loop {
        let records = processor.stdout.records();
        let in_order = in_order(wanted, &records, |record, name| record["more"].get(name).cloned());
        if in_order {
            return None;
        }
        if Instant::now() > deadline {
            return Some(format!("log {}, wanted {}", processor.stdout.text(), json!(wanted)));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn of_log_header(wanted: &[Value], answer: &Answer) -> Option<String> {
    let header = answer.header("X-Nuclio-Logs").unwrap_or_default();
    let records: Vec<Value> = serde_json::from_str(header).unwrap_or_default();
    let same =
        records.len() == wanted.len() && in_order(wanted, &records, |record, name| record.get(name).cloned());
    (!same).then(|| format!("X-Nuclio-Logs {header}, wanted {}", json!(wanted)))
}

fn in_order(wanted: &[Value], records: &[Value], field: impl Fn(&Value, &str) -> Option<Value>) -> bool {
    let mut records = records.iter();
    wanted.iter().all(|wanted| {
        records.any(|record| {
            let fields = wanted["with"].as_object().into_iter().flatten();
            record["level"] == wanted["level"]
                && record["message"] == wanted["message"]
                && fields.into_iter().all(|(name, value)| field(record, name).as_ref() == Some(value))
        })
    })
}
