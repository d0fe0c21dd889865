//! What `processor check` finds in files beside what loading says.

use super::*;
use crate::config::lint::{Finding, Severity, lint};
use crate::config::schema::Schema;

/// The findings of a text as `severity line: path: text`.
fn findings(schema: Schema, text: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("f.yaml");
    std::fs::write(&file, text).unwrap();
    let shown = |Finding { severity, place, text, .. }: Finding| {
        let place = place.strip_prefix(&format!("{}:", file.display())).unwrap().to_owned();
        format!("{severity:?} {place}: {text}")
    };
    lint(&file, schema).into_iter().map(shown).collect()
}

#[test]
fn keys_that_are_written_twice_are_named_and_merged_ones_are_not() {
    let text = "\
x: &x {runtime: python, handler: 'a:b'}
spec:
  <<: *x
  runtime: nodejs
  handler: c:d
  env: [{name: a, value: b}]
  handler: e:f
";

    let twice: Vec<String> = findings(Schema::Processor, text)
        .into_iter()
        .filter(|found| found.contains("written before"))
        .collect();
    assert_eq!(twice, ["Warning 7: spec.handler: written before, at line 5; only the last one counts"]);
}

#[test]
fn nothing_is_found_twice() {
    let text = "spec: {runtime: python, triggers: {d: {kind: http, attributes: [1]}}}\n";
    let expected = "Error 1: spec.triggers.d.attributes: expected a map, found a list";
    assert_eq!(findings(Schema::Processor, text), [expected]);
}

#[test]
fn mistakes_in_a_function_are_all_found_the_worst_first() {
    let text = "\
metadata: {Name: x, labels: {any: 1}}
spec:
  runtime: python
  hanlder: a:b
  eventTimout: 3s
  triggers:
    web:
      kind: htp
      numWorker: 4
      batch: {mode: enabled, batchsize: \"3\"}
    w2:
      kind: http
      numWorkers: [1]
      disabled: \"yes\"
      attributes: {cors: {allowOrigin: x, allowOrigins: '*'}, readBufferSize: 12.5, maxRequestBodySize: 5.0}
    w3:
      kind: kafka
      attributes: {anything: {goes: 1}}
      maxWorkers: 2.5
  build: {commands: [1], whatever: 2}
  resources: [3]
  env:
  - {name: a, value: on}
";
    let expected = [
        "Error 13: spec.triggers.w2.numWorkers: expected an integer, found a list",
        "Error 19: spec.triggers.w3.maxWorkers: expected an integer, found \"2.5\"",
        "Warning 4: spec.hanlder: unknown key, ignored; did you mean handler?",
        "Warning 5: spec.eventTimout: unknown key, ignored; did you mean eventTimeout?",
        "Warning 8: spec.triggers.web.kind: \"htp\" is not one of: ",
        "Warning 9: spec.triggers.web.numWorker: unknown key, ignored; did you mean numWorkers?",
        "Warning 10: spec.triggers.web.batch.mode: \"enabled\" is not one of: enable, disable; did you mean enable?",
        "Warning 15: spec.triggers.w2.attributes.cors.allowOrigin: unknown key, ignored; did you mean allowOrigins?",
        "Hint 1: metadata.Name: read as name; write it so",
        "Hint 1: metadata.labels.any: looks like a number; quote the text",
        "Hint 10: spec.triggers.web.batch.batchsize: read as batchSize; write it so",
        "Hint 10: spec.triggers.web.batch.batchsize: written as text; remove the quotes",
        "Hint 14: spec.triggers.w2.disabled: written as text; remove the quotes",
        "Hint 15: spec.triggers.w2.attributes.cors.allowOrigins: read as a list of one; write it as a list",
        "Hint 15: spec.triggers.w2.attributes.readBufferSize: the fraction is cut off; write an integer",
        "Hint 23: spec.env[0].value: looks like a boolean; quote the text",
    ];
    let found = findings(Schema::Processor, text);
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn mistakes_in_a_platform_are_found_by_the_kind_of_the_sink() {
    let text = "\
webAdmin: {enabled: maybe}
logger:
  sinks:
    a: {kind: stdout, attributes: {encodng: json, timeFieldEncoding: iso}}
    b: {kind: appinsights, attributes: {key: k}}
metrics:
  sinks:
    p: {kind: prometheusPush, attributes: {intervall: 1s}}
    q: {kind: prometheuspull}
  functions: p
kube: 7
";
    let expected = [
        "Error 1: webAdmin.enabled: expected true or false, found \"maybe\"",
        "Warning 4: logger.sinks.a.attributes.encodng: unknown key, ignored; did you mean encoding?",
        "Warning 4: logger.sinks.a.attributes.timeFieldEncoding: \"iso\" is not one of: epoch-millis, iso8601",
        "Warning 8: metrics.sinks.p.attributes.intervall: unknown key, ignored; did you mean interval?",
        "Warning 9: metrics.sinks.q.kind: \"prometheuspull\" is not one of: prometheusPull, prometheusPush, \
         appinsights; did you mean prometheusPull?",
        "Hint 10: metrics.functions: read as a list of one; write it as a list",
    ];
    assert_eq!(findings(Schema::Platform, text), expected);
}

#[test]
fn good_samples_have_no_findings_and_loose_ones_only_hints_and_unknown_keys() {
    let clean = ["01", "02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "13", "14", "15", "16"];
    for entry in std::fs::read_dir(sample("")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !entry.file_type().unwrap().is_file() || name.ends_with(".md") {
            continue;
        }
        let platform = name.starts_with("platform");
        let found = lint(&entry.path(), if platform { Schema::Platform } else { Schema::Processor });
        if clean.iter().any(|number| name.starts_with(number)) {
            assert_eq!(found, [], "{name}");
        }
        let loads = if platform {
            load("01-minimal-python.yaml", &name, Env::default())
        } else {
            load(&name, "absent", Env::default())
        };
        let refused = found.iter().any(|finding| finding.severity == Severity::Error);
        assert!(loads.is_err() || !refused, "{name} loads, but: {found:?}");
    }
}

#[test]
fn what_is_not_there_or_no_yaml_has_no_findings() {
    assert_eq!(lint(Path::new("/nowhere/at/all.yaml"), Schema::Processor), []);
    assert!(findings(Schema::Platform, "a: [").is_empty());
    assert!(findings(Schema::Processor, "").is_empty());
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(200))]

    #[test]
    fn random_values_in_known_places_never_panic(
        key in "[a-zA-Z_.\\-]{0,12}", value in r"([a-z0-9&*{}\[\],:'\x22 -]|null|yes|1\.5){0,20}"
    ) {
        let text = format!(
            "spec:\n  {key}: {value}\n  triggers:\n    web:\n      kind: http\n      {key}: {value}\n      attributes:\n        \
             cors: {value}\n"
        );
        findings(Schema::Processor, &text);
        findings(Schema::Platform, &format!("logger: {value}\nmetrics: {{sinks: {value}}}\n{key}: {value}\n"));
    }
}

#[test]
fn loading_says_which_key_may_be_meant() {
    let config = config_of("  runtime: python\n  hanlder: a:b\n").unwrap();
    assert!(config.warnings[0].ends_with("spec.hanlder: unknown key, ignored; did you mean handler?"));
}

#[test]
fn what_is_said_of_workers_is_looked_at_and_other_attributes_are_not() {
    let text = "\
spec:
  runtime: python
  runtimeAttributes:
    anything: [1]
    preload: perhaps
    recycle: {event: 3, events: many, jitter: 0.2, memory: 512Mi}
";
    let expected = [
        "Error 5: spec.runtimeAttributes.preload: expected true or false, found \"perhaps\"",
        "Error 6: spec.runtimeAttributes.recycle.events: expected an integer, found \"many\"",
        "Warning 6: spec.runtimeAttributes.recycle.event: unknown key, ignored; did you mean events?",
    ];
    assert_eq!(findings(Schema::Processor, text), expected);
}
