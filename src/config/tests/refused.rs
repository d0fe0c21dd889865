//! Samples that must be refused, with the texts that tell why, and texts that must never bring us down.

use proptest::prelude::*;

use super::*;

/// The error of a sample: its chain holds `texts`, its line names `place` and `words`.
fn check(name: &str, platform: &str, texts: &[&str], place: &str, words: &[&str]) {
    let error = load(name, platform, Env::default()).expect_err(name);
    check_error(name, &error, texts, place, words);
}

fn check_error(name: &str, error: &ConfigError, texts: &[&str], place: &str, words: &[&str]) {
    let chain = error.chain();
    assert!(chain[0].starts_with(texts[0]), "{name}: root of {chain:?}");
    for text in &texts[1..] {
        assert!(chain.iter().any(|message| message == text), "{name}: {text:?} in {chain:?}");
    }
    let line = error.to_string();
    assert!(!line.contains('\n'), "{name}: {line}");
    let head = format!("{place}: ");
    assert!(line.contains(&head), "{name}: {head:?} in {line}");
    assert!(line.contains("; "), "{name} has no remedy: {line}");
    for word in words {
        assert!(line.contains(word), "{name}: {word:?} in {line}");
    }
}

/// The same for a function sample without platform file; `place` is `line: key`.
fn refused(name: &str, texts: &[&str], place: &str, words: &[&str]) {
    check(name, "absent", texts, &format!("{name}:{place}"), words);
}

#[test]
fn s16_an_empty_file_names_the_missing_key() {
    check("16-empty.yaml", "absent", &["the file is empty"], "16-empty.yaml: spec.runtime", &["runtime"]);
    let error = config_of("  handler: a\n").unwrap_err();
    check_error(
        "no runtime",
        &error,
        &["Registry for runtime"],
        "f.yaml:2: spec.runtime",
        &["missing", "python"],
    );
}

#[test]
fn s17_a_null_trigger_lacks_its_kind() {
    let texts = ["Registry for trigger failed to find: ", "Trigger of kind `` is not supported"];
    refused("17-null-trigger.yaml", &texts, "7: spec.triggers.http.kind", &["`http`", "missing key `kind`"]);
}

#[test]
fn bad_01_trigger_kind() {
    let texts = [
        "Registry for trigger failed to find: carrierPigeon",
        "Trigger of kind `carrierPigeon` is not supported",
        "Failed to create triggers",
    ];
    let words = ["Trigger of kind `carrierPigeon` is not supported", "`q`", "kafka-cluster"];
    refused("bad-01-trigger-kind.yaml", &texts, "8: spec.triggers.q.kind", &words);
}

#[test]
fn bad_02_and_03_event_timeout() {
    let texts = [
        r#"time: unknown unit " minutes" in duration "2 minutes""#,
        r#"Can't parse Spec.EventTimeout ("2 minutes") into time.Duration"#,
        "Failed to open configuration file",
    ];
    refused("bad-02-event-timeout.yaml", &texts, "6: spec.eventTimeout", &["30s"]);
    let texts = ["eventTimeout <= 0 (0s)", r#"Can't parse Spec.EventTimeout ("0s") into time.Duration"#];
    refused("bad-03-event-timeout-zero.yaml", &texts, "6: spec.eventTimeout", &["positive"]);
}

#[test]
fn bad_07_tab() {
    let texts = [
        "error converting YAML to JSON: yaml: line 2: found character that cannot start any token",
        "Failed to write configuration",
    ];
    let error = load("bad-07-tab.yaml", "absent", Env::default()).unwrap_err();
    check_error("bad-07", &error, &texts, "bad-07-tab.yaml:2", &["tab"]);
}

#[test]
fn bad_08_runtime() {
    let texts = ["Registry for runtime failed to find: cobol"];
    refused("bad-08-runtime.yaml", &texts, "4: spec.runtime", &["dotnetcore", "shell"]);
}

#[test]
fn bad_09_termination_timeout() {
    let texts = [
        r#"time: missing unit in duration "10""#,
        "Failed to parse worker termination timeout from trigger configuration",
    ];
    let place = "9: spec.triggers.default-http.workerTerminationTimeout";
    refused("bad-09-termination-timeout.yaml", &texts, place, &["unit"]);
}

#[test]
fn bad_10_batch_timeout() {
    let texts = ["Could not parse batch timeout: soon"];
    refused("bad-10-batch-timeout.yaml", &texts, "12: spec.triggers.default-http.batch.timeout", &["250ms"]);
}

#[test]
fn bad_11_logger_sink() {
    let texts = ["Failed to find logger sink nowhere", "Failed to create logger"];
    refused("bad-11-logger-sink.yaml", &texts, "7: spec.loggerSinks[0]", &["one of: stdout"]);
    let error = load("09-logger-sink-named.yaml", "absent", Env::default()).unwrap_err();
    assert_eq!(error.chain()[0], "Failed to find logger sink flat");
}

#[test]
fn bad_12_top_level_list() {
    let texts = [
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type \
         processor.Configuration",
        "Failed to write configuration",
    ];
    refused("bad-12-top-level-list.yaml", &texts, "1", &["`metadata` and `spec`"]);
}

#[test]
fn bad_13_cron_without_schedule() {
    let texts = ["Cron trigger configuration must contain either interval or schedule"];
    refused("bad-13-cron-without-schedule.yaml", &texts, "9: spec.triggers.tick.attributes", &["`tick`"]);
}

#[test]
fn a_missing_file_is_named() {
    let path = sample("absent.yaml");
    let error = Config::load(&path, &path, Env::default()).unwrap_err();
    let root = format!("open {}: no such file or directory", path.display());
    assert_eq!(error.chain(), [root.as_str(), "Failed to open configuration file"]);
}

#[test]
fn platform_files_are_refused_by_name() {
    let function = "01-minimal-python.yaml";
    let around = "Failed to get platform configuration";
    let cases: [(&str, &[&str], &str); 3] = [
        ("platform-bad-02-no-logger.yaml", &["Must configure at least one logger"], ": logger.functions"),
        (
            "platform-bad-04-unknown-sinks.yaml",
            &["Registry for loggersink failed to find: elasticsearch"],
            ":3: logger.sinks.stdout",
        ),
        ("platform-bad-05-syntax.yaml", &["error converting YAML to JSON: yaml: line ", around], ":2"),
    ];
    for (name, texts, place) in cases {
        check(function, name, texts, &format!("{name}{place}"), &[]);
    }
    let ghost = config_of_files("spec: {runtime: ruby}", "metrics: {functions: [ghost]}").unwrap_err();
    let texts = ["Failed to find metric sink ghost", "Failed to create metric sinks"];
    check_error("ghost", &ghost, &texts, "p.yaml:1: metrics.functions[0]", &["none is defined"]);
}

#[test]
fn settings_of_triggers_are_refused_with_their_place() {
    let cases = [
        ("{kind: http, numWorkers: -1}", "numWorkers", "1 to 100000"),
        ("{kind: http, numWorkers: 100001}", "numWorkers", "1 to 100000"),
        ("{kind: http, numWorkers: 3.5}", "numWorkers", "an integer"),
        ("{kind: http, numWorkers: many}", "numWorkers", "an integer"),
        ("{kind: http, disabled: maybe}", "disabled", "true or false"),
        ("{kind: http, url: '8080'}", "url", ":8080"),
        ("{kind: http, url: 'http://x:80/'}", "url", ":8080"),
        ("{kind: http, mode: fast}", "mode", "sync or async"),
        ("{kind: http, mode: async}", "mode", "java"),
        ("{kind: cron, mode: async, attributes: {interval: 1s}}", "mode", "cron"),
        ("{kind: http, batch: {mode: enable, batchSize: -1}}", "batch.batchSize", "10"),
        ("{kind: http, attributes: {readBufferSize: [1]}}", "attributes.readBufferSize", "a list"),
        ("{kind: http, attributes: {cors: {allowOrigins: {}}}}", "attributes.cors.allowOrigins", "a list"),
        ("text", "", "a map"),
    ];
    for (trigger, key, words) in cases {
        let error =
            config_of(&format!("  runtime: java\n  triggers:\n    w: {trigger}\n")).expect_err(trigger);
        let dot = if key.is_empty() { "" } else { "." };
        check_error(trigger, &error, &[""], &format!("f.yaml:5: spec.triggers.w{dot}{key}"), &[words]);
    }
}

#[test]
fn data_bindings_are_refused() {
    let error = config_of("  runtime: ruby\n  dataBindings: {db: {kind: v3io}}\n").unwrap_err();
    let texts = ["Registry for databinding failed to find: v3io"];
    check_error("data bindings", &error, &texts, "f.yaml:4: spec.dataBindings.db", &["not supported"]);
    assert!(config_of("  runtime: ruby\n  dataBindings: {}\n").is_ok());
}

#[test]
fn metric_sinks_are_refused_with_their_place() {
    let cases = [
        ("{kind: statsd}", "Registry for metricsink failed to find: statsd"),
        ("{kind: prometheusPush, url: a}", "Job name is required for metric sink m"),
        (
            "{kind: prometheusPush, url: a, attributes: {jobName: j}}",
            "Instance name is required for metric sink m",
        ),
        ("{kind: prometheusPush, attributes: {jobName: j}}", "URL is required for metric sink m"),
        (
            "{kind: prometheusPush, url: 'ftp://a', attributes: {jobName: j}}",
            "not the address of a push gateway",
        ),
        (
            "{kind: prometheusPush, url: 'http://', attributes: {jobName: j}}",
            "not the address of a push gateway",
        ),
        (
            "{kind: prometheusPush, url: 'http://user:pass/word@a:1', attributes: {jobName: j}}",
            "not the address of a push gateway",
        ),
        (
            "{kind: prometheusPush, url: 'a:1/?x', attributes: {jobName: j}}",
            "not the address of a push gateway",
        ),
        (
            "{kind: prometheusPush, url: a, attributes: {jobName: j, instanceName: i, interval: soon}}",
            "time: invalid duration",
        ),
        ("{kind: prometheusPull, attributes: {instanceName: '{{ .Pod }}'}}", "template: "),
        ("{kind: prometheusPull, enabled: no, attributes: {instanceName: '{{'}}", "template: "),
    ];
    for (sink, root) in cases {
        let platform = format!("metrics:\n  functions: [m]\n  sinks:\n    m: {sink}\n");
        let error = config_of_files("spec: {runtime: ruby}", &platform).expect_err(sink);
        let key = match root {
            "not the address of a push gateway" => "metrics.sinks.m.url",
            "time: invalid duration" => "metrics.sinks.m.attributes.interval",
            _ => "metrics.sinks.m",
        };
        check_error(sink, &error, &[root], &format!("p.yaml:4: {key}"), &[]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(yaml::parse(&String::from_utf8_lossy(&bytes)));
    }

    #[test]
    fn random_yaml_never_panics(text in r"([a-z&*<!|>'\x22{}\[\]:,?#%@~ \t\n-]|spec|: |\n  |&a |\*a|<<: ){0,60}") {
        drop(yaml::parse(&text));
        drop(config_of(&text));
    }

    #[test]
    fn random_settings_never_panic(
        key in "(kind|url|numWorkers|maxWorkers|batch|mode|async|attributes|workerTerminationTimeout)",
        value in r"(http|async|enable|-?[0-9]{1,20}|[0-9.e_+-]{0,12}|\[[a-z,]{0,5}\]|\{\}|~|'[^']{0,9}'|[a-z0-9]{0,6})",
    ) {
        drop(config_of(&format!("  runtime: python\n  triggers:\n    w:\n      kind: http\n      {key}: {value}\n")));
    }
}
