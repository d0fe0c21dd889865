//! The JSON Schemas under `docs/schema`, judged by a validator of others: the samples say what it must find.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::processor_bin;
use crate::packages::python_with;

const PACKAGES: &[&str] = &["jsonschema==4.25.1", "PyYAML==6.0.3"];

/// Reads `{schema, files}` from standard input; for each file, the sorted `path: keyword` of what is wrong with it.
const VALIDATE: &str = r#"
import json, sys, yaml
from jsonschema import Draft202012Validator
task = json.load(sys.stdin)
schema = json.load(open(task["schema"]))
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
found = {}
for name, path in task["files"].items():
    try:
        tree = next(yaml.safe_load_all(open(path)), None)
    except yaml.YAMLError:
        found[name] = ["not YAML"]
        continue
    errors = validator.iter_errors(tree)
    found[name] = sorted(".".join(map(str, e.absolute_path)) + ": " + e.validator for e in errors)
print(json.dumps(found))
"#;

/// Samples that editors find something in, and what; all others are clean.
const FOUND: &[(&str, &[&str])] = &[
    // Keys in any case are read, but not known to editors.
    ("12-key-case-and-unknown-keys.yaml", &[": additionalProperties"]),
    ("16-empty.yaml", &[": type"]),
    ("17-null-trigger.yaml", &["spec.triggers.http: type"]),
    ("bad-01-trigger-kind.yaml", &["spec.triggers.q.kind: enum"]),
    ("bad-02-event-timeout.yaml", &["spec.eventTimeout: pattern"]),
    ("bad-04-number-for-text.yaml", &["spec.env.0.value: type"]),
    ("bad-05-text-for-number.yaml", &["spec.triggers.default-http.numWorkers: type"]),
    (
        "bad-06-attribute-type.yaml",
        &[
            "spec.triggers.default-http.attributes.cors.allowOrigins: type",
            "spec.triggers.default-http.attributes.readBufferSize: type",
        ],
    ),
    ("bad-07-tab.yaml", &["not YAML"]),
    ("bad-08-runtime.yaml", &["spec.runtime: anyOf"]),
    ("bad-09-termination-timeout.yaml", &["spec.triggers.default-http.workerTerminationTimeout: pattern"]),
    ("bad-10-batch-timeout.yaml", &["spec.triggers.default-http.batch.timeout: pattern"]),
    ("bad-12-top-level-list.yaml", &[": type"]),
    ("platform-03-text-coercion.yaml", &["logger.functions.0.level: type"]),
    ("platform-bad-04-unknown-sinks.yaml", &["logger.sinks.stdout.kind: enum"]),
    ("platform-bad-05-syntax.yaml", &["not YAML"]),
];

/// Samples that are called bad and are good here, in schema and at start: the Go processor refuses them.
const GOOD_HERE: &[&str] = &["platform-bad-01-sink-not-bound.yaml", "platform-bad-03-metric-sink.yaml"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Names of the samples that are for one of the schemas.
fn samples(schema: &str) -> Vec<String> {
    let names = std::fs::read_dir(root().join("tests/vectors/config")).unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter(|name| name.ends_with(".yaml") && name.starts_with("platform") == (schema == "platform"))
        .collect();
    names.sort();
    names
}

fn validate(python: &PathBuf, schema: &str) -> Value {
    let folder = root().join("tests/vectors/config");
    let files: Value =
        samples(schema).into_iter().map(|name| (name.clone(), json!(folder.join(&name)))).collect();
    let task = json!({ "schema": root().join(format!("docs/schema/{schema}.schema.json")), "files": files });
    let mut child = Command::new(python)
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(task.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the validator fails");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_validator_of_others_finds_in_the_samples_what_is_wrong_with_them() {
    let python = match python_with("jsonschema", PACKAGES) {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let mut wrong = Vec::new();
    for schema in ["processor", "platform"] {
        for (name, found) in validate(&python, schema).as_object().unwrap() {
            let expected = FOUND.iter().find(|(other, _)| other == name).map_or(&[][..], |(_, found)| *found);
            let found: Vec<&str> =
                found.as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
            if found != expected {
                wrong.push(format!("{name}: found {found:?}, expected {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With the test above: every bad sample fails in schema or start.
#[test]
fn every_bad_sample_fails_in_schema_or_start() {
    let folder = root().join("tests/vectors/config");
    for name in
        samples("processor").into_iter().chain(samples("platform")).filter(|name| name.contains("bad-"))
    {
        let (function, platform) = if name.starts_with("platform") {
            ("01-minimal-python.yaml", &*name)
        } else {
            (&*name, "absent")
        };
        let mut check = Command::new(processor_bin());
        check.arg("check").arg(folder.join(function)).arg("--platform-config").arg(folder.join(platform));
        let refused = check.output().unwrap().status.code() == Some(1);
        let in_schema = FOUND.iter().any(|(other, _)| *other == name);
        assert_eq!(refused || in_schema, !GOOD_HERE.contains(&&*name), "{name}");
    }
}

#[test]
fn check_prints_the_schemas() {
    for schema in ["processor", "platform"] {
        let output = Command::new(processor_bin()).args(["check", "--schema", schema]).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        let file = std::fs::read(root().join(format!("docs/schema/{schema}.schema.json"))).unwrap();
        assert!(output.stdout == file, "{schema}");
    }
}
