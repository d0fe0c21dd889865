//! Samples that must resolve.

use super::*;

fn names(config: &Config) -> Vec<&str> {
    config.function.triggers.iter().map(|trigger| trigger.name.as_str()).collect()
}

fn console(level: Level) -> LogSink {
    LogSink { name: "stdout".into(), level, encoding: LogEncoding::Console }
}

#[test]
fn s01_minimal_python_has_all_defaults() {
    let config = config("01-minimal-python.yaml");
    let function = &config.function;
    assert_eq!((function.runtime, function.handler.as_str()), (RuntimeKind::Python, "hello:handler"));
    assert_eq!(
        (function.name.as_str(), function.namespace.as_str(), function.project.as_str()),
        ("hello", "", "")
    );
    assert_eq!(names(&config), ["default-http"]);
    let several =
        HttpTrigger { in_flight_per_worker: 1000, several_for: SeveralFor::Applications, ..http_defaults() };
    assert_eq!(http(&config, "default-http"), &several);
    let trigger = trigger(&config, "default-http");
    assert_eq!((trigger.workers, &trigger.allocator), (1, &None));
    assert_eq!(trigger.availability_timeout, Duration::from_secs(10));
    assert_eq!(trigger.termination_timeout, Duration::from_secs(10));
    let platform = &config.platform;
    assert_eq!(platform.kind, PlatformKind::Local);
    assert_eq!(platform.web_admin.as_deref(), Some(":8081"));
    assert_eq!(platform.health.as_deref(), Some(":8082"));
    assert!(platform.metric_sinks.is_empty() && !platform.cron_by_platform);
    assert_eq!(function.log_sinks, [console(Level::Debug)]);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn s02_platform_fields_are_ignored_without_warnings() {
    let config = config("02-python-env-and-platform-fields.yaml");
    let function = &config.function;
    assert_eq!((function.project.as_str(), function.namespace.as_str()), ("checkout", "shop"));
    assert_eq!((function.name.as_str(), function.version), ("orders", 3));
    assert_eq!(function.event_timeout, None);
    assert_eq!(function.readiness_timeout, Some(Duration::from_secs(60)));
    assert_eq!(function.env, [("LEVEL".to_owned(), "5".to_owned())]);
    assert_eq!(function.annotations["nuclio.io/force-update"], "false");
    let trigger = trigger(&config, "default-http");
    assert_eq!((trigger.workers, trigger.availability_timeout), (4, Duration::from_millis(2500)));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn s03_go_plugin_has_its_limits() {
    let config = config("03-go-plugin.yaml");
    assert_eq!(config.function.runtime, RuntimeKind::Golang);
    assert_eq!(config.function.event_timeout, Some(Duration::from_secs(30)));
    assert_eq!(names(&config), ["web"]);
    assert_eq!(trigger(&config, "web").workers, 2);
    let expected = HttpTrigger {
        listen: "127.0.0.1:9090".into(),
        head_bytes_max: 32768,
        body_bytes_max: 33_554_432,
        reduce_memory: true,
        ..http_defaults()
    };
    assert_eq!(http(&config, "web"), &expected);
}

#[test]
fn s04_crons_are_left_to_a_platform_that_calls_them() {
    let here = config("04-several-triggers.yaml");
    assert_eq!(names(&here), ["api", "heartbeat", "nightly", "once"]);
    let workers: Vec<_> = here.function.triggers.iter().map(|trigger| trigger.workers).collect();
    assert_eq!(workers, [3, 1, 1, 1]);
    let only_configured = config_on("04-several-triggers.yaml", "platform-01-production.yaml");
    assert_eq!(only_configured.function.triggers.len(), 4);
    let on_kube = load("04-several-triggers.yaml", "platform-01-production.yaml", kube()).unwrap();
    assert_eq!(names(&on_kube), ["api", "once"]);
    assert_eq!(on_kube.warnings.iter().filter(|warning| warning.contains("skipping cron")).count(), 2);
}

#[test]
fn s05_a_shared_allocator_has_the_largest_size() {
    let config = config("05-shared-allocator.yaml");
    for name in ["web", "tick"] {
        assert_eq!(trigger(&config, name).allocator.as_deref(), Some("pool"));
        assert_eq!(trigger(&config, name).workers, 8);
    }
    assert_eq!(trigger(&config, "web").availability_timeout, Duration::ZERO);
    assert!(
        config.warnings.iter().any(|warning| warning.contains("allocator `pool`")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn s06_cors_lists_that_are_empty_mean_defaults() {
    let config = config("06-cors.yaml");
    let cors = http(&config, "default-http").cors.as_ref().unwrap();
    assert_eq!(cors.allow_origins, ["https://a.example", "https://b.example"]);
    assert_eq!(cors.allow_methods, ["HEAD", "GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"]);
    assert_eq!(cors.allow_headers, ["X-Custom"]);
    assert!(cors.allow_credentials && cors.expose_headers.is_empty());
    assert_eq!(cors.preflight_max_age_seconds, 0);
}

#[test]
fn s07_batching() {
    let config = config("07-batching.yaml");
    let batch = http(&config, "default-http").batch.as_ref().unwrap();
    assert_eq!(batch, &Batch { size: 16, timeout: Duration::from_millis(250) });
    assert_eq!(trigger(&config, "default-http").availability_timeout, Duration::from_secs(10));
}

#[test]
fn s08_a_level_alone_is_for_all_sinks_of_the_platform() {
    assert_eq!(config("08-logger-level-only.yaml").function.log_sinks, [console(Level::Warn)]);
    let config = config_on("08-logger-level-only.yaml", "platform-01-production.yaml");
    let [sink] = &config.function.log_sinks[..] else { panic!("{:?}", config.function.log_sinks) };
    assert_eq!((sink.name.as_str(), sink.level), ("production", Level::Warn));
}

#[test]
fn s09_named_sinks() {
    let config = config_on("09-logger-sink-named.yaml", "platform-01-production.yaml");
    let json = |group: &str, time_iso8601, flattened| LogEncoding::Json {
        time_field: "time".into(),
        time_iso8601,
        group: group.into(),
        flattened,
    };
    let expected = [
        LogSink { name: "flat".into(), level: Level::Info, encoding: json("vars", false, true) },
        LogSink { name: "production".into(), level: Level::Error, encoding: json("more", true, false) },
    ];
    assert_eq!(config.function.log_sinks, expected);
}

#[test]
fn s10_no_http_trigger_is_added_where_none_is_wanted() {
    for config in [
        config("10-no-http-trigger.yaml"),
        config_on("10-no-http-trigger.yaml", "platform-02-ports-and-push.yaml"),
    ] {
        assert_eq!(names(&config), ["tick"]);
        assert!(config.function.default_http_trigger_disabled);
    }
}

#[test]
fn s11_secrets_replace_whole_values_only() {
    let directory = sample("11-secrets");
    let restoring = Env { restore_secrets: true, secrets_directory: directory, ..Env::default() };
    let config = load("11-secret-references.yaml", "absent", restoring.clone()).unwrap();
    let yaml: serde_json::Value = serde_yaml::from_str(&config.function.yaml).unwrap();
    let queue = &yaml["spec"]["triggers"]["queue"];
    assert_eq!(queue["password"], "s3cret!");
    assert_eq!(queue["attributes"]["subscriptions"][0]["topic"], "s3cret!");
    assert_eq!(queue["attributes"]["clientID"], "x$ref:/spec/triggers/queue/password");
    assert!(!config.redacted().to_string().contains("s3cret!"));
    assert!(!config.warnings.iter().any(|warning| warning.contains("s3cret!")));

    let unrestored = load("11-secret-references.yaml", "absent", Env::default()).unwrap();
    assert!(!unrestored.function.yaml.contains("s3cret!"));

    let empty = tempfile::tempdir().unwrap();
    let env = Env { secrets_directory: empty.path().to_owned(), ..restoring };
    let error = load("11-secret-references.yaml", "absent", env.clone()).unwrap_err();
    assert!(matches!(error, ConfigError::Secret(_)));
    assert_eq!(error.chain()[0], "Secret is not mounted to function pod");
    std::fs::write(empty.path().join("content"), "").unwrap();
    let nothing = load("11-secret-references.yaml", "absent", env).unwrap();
    assert!(nothing.function.yaml.contains("password: $ref:/spec/triggers/queue/password"));
    assert!(nothing.warnings.iter().any(|warning| warning.contains("no secret is mounted")));
}

#[test]
fn s12_keys_match_in_any_case_and_unknown_ones_are_warned_about() {
    let config = config("12-key-case-and-unknown-keys.yaml");
    assert_eq!((config.function.name.as_str(), config.function.runtime), ("loose", RuntimeKind::Python));
    assert_eq!(trigger(&config, "web").workers, 2);
    let http = http(&config, "web");
    assert_eq!((http.head_bytes_max, http.body_bytes_max), (8192, 1024));
    let path = sample("12-key-case-and-unknown-keys.yaml");
    let expected = [
        format!("{}:6: metadata.owner: unknown key, ignored", path.display()),
        format!("{}:10: spec.notAField: unknown key, ignored", path.display()),
        format!("{}:18: spec.triggers.web.attributes.unknownAttribute: unknown key, ignored", path.display()),
    ];
    assert_eq!(config.warnings, expected);
}

#[test]
fn s13_words_and_numbers_of_yaml_11() {
    let config = config("13-yaml11-words.yaml");
    assert!(!config.function.default_http_trigger_disabled);
    assert_eq!(trigger(&config, "web").workers, 8);
    let http = http(&config, "web");
    assert!(http.reduce_memory);
    assert_eq!(http.body_bytes_max, 1_048_576);
    let cors = http.cors.as_ref().unwrap();
    assert_eq!((cors.allow_origins.as_slice(), cors.preflight_max_age_seconds), (&["*".to_owned()][..], 5));
    assert_eq!(cors.allow_headers.len(), 5);
}

#[test]
fn s14_a_file_as_the_platform_writes_it() {
    let config = config("14-as-written-by-the-platform.yaml");
    assert_eq!((config.function.version, config.function.project.as_str()), (-1, "default"));
    assert_eq!(config.function.log_sinks, [console(Level::Debug)]);
    assert_eq!(trigger(&config, "default-http").workers, 4);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn s15_json() {
    let config = config("15-json.yaml");
    assert_eq!(
        (config.function.runtime, config.function.handler.as_str()),
        (RuntimeKind::Shell, "echo.sh:main")
    );
    assert_eq!(config.function.runtime_attributes["arguments"], "-n hello");
    assert_eq!(config.function.runtime_attributes["responseHeaders"]["X-Shell"], "1");
    assert_eq!(config.function.env, [("A".to_owned(), "b".to_owned())]);
}

#[test]
fn platform_01_production() {
    let env = Env { function_instance: Some("pod-7".into()), ..kube() };
    let config = load("01-minimal-python.yaml", "platform-01-production.yaml", env).unwrap();
    let pull = |instance: &str| MetricSink {
        name: "pull".into(),
        instance: instance.into(),
        kind: MetricSinkKind::PrometheusPull { listen: ":8090".into() },
    };
    assert_eq!(config.platform.metric_sinks, [pull("pod-7")]);
    assert_eq!(config.platform.kind, PlatformKind::Kube);
    assert!(config.platform.cron_by_platform);
    assert_eq!(config.warnings, Vec::<String>::new());
    let local = config_on("01-minimal-python.yaml", "platform-01-production.yaml");
    assert_eq!(local.platform.metric_sinks, [pull("-hello")]);
}

#[test]
fn platform_02_ports_and_push() {
    let config = config_on("01-minimal-python.yaml", "platform-02-ports-and-push.yaml");
    assert_eq!(config.platform.web_admin, None);
    assert_eq!(config.platform.health.as_deref(), Some(":18082"));
    let kind = MetricSinkKind::PrometheusPush {
        url: "http://gateway.example:9091".into(),
        job: "team/jobs".into(),
        interval: Duration::from_secs(5),
    };
    let push = MetricSink { name: "push".into(), instance: "one".into(), kind };
    assert_eq!(config.platform.metric_sinks, [push]);
    assert!(!config.function.default_http_trigger_disabled);
}

#[test]
fn platform_03_scalars_become_text() {
    let config = config_on("01-minimal-python.yaml", "platform-03-text-coercion.yaml");
    assert_eq!(config.function.log_sinks, [console(Level::Debug)]);
}

#[test]
fn platform_bad_01_the_only_sink_is_bound() {
    let config = config_on("01-minimal-python.yaml", "platform-bad-01-sink-not-bound.yaml");
    assert_eq!(config.function.log_sinks, [LogSink { name: "mine".into(), ..console(Level::Debug) }]);
    assert!(config.warnings[0].contains("logger.functions is missing"), "{:?}", config.warnings);
}

#[test]
fn platform_bad_03_pushes_every_ten_seconds() {
    let config = config_on("01-minimal-python.yaml", "platform-bad-03-metric-sink.yaml");
    let MetricSinkKind::PrometheusPush { interval, .. } = &config.platform.metric_sinks[0].kind else {
        panic!()
    };
    assert_eq!(*interval, Duration::from_secs(10));
}

#[test]
fn sinks_that_cannot_be_served_are_left_out_with_a_warning_and_the_others_kept() {
    let push = "kind: prometheusPush, attributes: {jobName: j, instanceName: i}";
    let platform = format!(
        "metrics:
  functions: [plain, insights, tls, idle, plain]
  sinks:
    insights: {{kind: appinsights, attributes: {{instrumentationKey: k}}}}
    tls: {{{push}, url: 'HTTPS://gateway'}}
    idle: {{{push}, url: gateway, enabled: false}}
    plain: {{{push}, url: 'gateway:9091/prefix/'}}
"
    );
    let config = config_of_files("spec: {runtime: ruby}", &platform).unwrap();
    let kind = MetricSinkKind::PrometheusPush {
        url: "http://gateway:9091/prefix".into(),
        job: "j".into(),
        interval: Duration::from_secs(10),
    };
    assert_eq!(
        config.platform.metric_sinks,
        [MetricSink { name: "plain".into(), instance: "i".into(), kind }]
    );
    let [insights, tls] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
    assert!(
        insights.contains("p.yaml:4: metrics.sinks.insights") && insights.contains("appinsights"),
        "{insights}"
    );
    assert!(tls.contains("metrics.sinks.tls.url") && tls.contains("http://"), "{tls}");
}

#[test]
fn bad_04_05_06_are_accepted() {
    let numbers = config("bad-04-number-for-text.yaml");
    assert_eq!(numbers.function.env, [("PORT".to_owned(), "8080".to_owned())]);
    assert_eq!(trigger(&config("bad-05-text-for-number.yaml"), "default-http").workers, 4);
    let attributes = config("bad-06-attribute-type.yaml");
    let http = http(&attributes, "default-http");
    assert_eq!(http.head_bytes_max, 16384);
    assert_eq!(http.cors.as_ref().unwrap().allow_origins, ["*"]);
}

#[test]
fn a_file_without_http_trigger_gets_one() {
    let config = config_of("  {runtime: golang, handler: 'nuclio:builtin'}\n").unwrap();
    assert_eq!(config.function.runtime, RuntimeKind::Builtin);
    assert_eq!(http(&config, "default-http"), &http_defaults());
    let disabled = config_of("  runtime: ruby\n  triggers: {w: {kind: http, disabled: yes}}\n").unwrap();
    assert!(disabled.function.triggers.is_empty() && !disabled.function.default_http_trigger_disabled);
    assert!(disabled.warnings[0].contains("spec.triggers.w.disabled: the trigger is disabled"));
    let text = "spec: {runtime: ruby, triggers: {default-http: {kind: nats}}}";
    let taken = config_of_files(text, "").unwrap();
    assert_eq!(names(&taken), ["default-http", "default-http-"]);
}

#[test]
fn the_function_overrules_the_platform_about_the_default_trigger() {
    let platform = "disableDefaultHTTPTrigger: true\n";
    let silent = config_of_files("spec: {runtime: ruby}", platform).unwrap();
    assert!(silent.function.triggers.is_empty() && silent.function.default_http_trigger_disabled);
    let wants = config_of_files("spec: {runtime: ruby, disableDefaultHTTPTrigger: no}", platform).unwrap();
    assert_eq!(names(&wants), ["default-http"]);
}

#[test]
fn async_mode_has_its_own_number_of_events_in_flight() {
    let cases = [
        ("python", "{kind: http, mode: async}", 1000, SeveralFor::Any),
        ("nodejs", "{kind: http, mode: async, async: {maxConnectionsNumber: 7}}", 7, SeveralFor::Any),
        ("nodejs", "{kind: http}", 100, SeveralFor::Async),
        ("nodejs", "{kind: http, mode: sync}", 1, SeveralFor::Any),
        ("ruby", "{kind: http}", 1, SeveralFor::Any),
        ("python", "{kind: http, mode: sync, async: {maxConnectionsNumber: 7}}", 1, SeveralFor::Any),
        ("python", "{kind: http, attributes: {mode: async}}", 1000, SeveralFor::Applications),
    ];
    for (runtime, trigger, expected, several_for) in cases {
        let config =
            config_of(&format!("  runtime: {runtime}\n  triggers: {{w: {trigger}}}\n")).expect(trigger);
        let found = http(&config, "w");
        let found = (found.in_flight_per_worker, found.several_for);
        assert_eq!(found, (expected, several_for), "{trigger}");
    }
}

#[test]
fn numbers_out_of_the_ordinary_mean_defaults() {
    let spec = "  runtime: python\n  triggers:\n    w:\n      kind: http\n      workerAvailabilityTimeoutMilliseconds: \
                -1\n      batch: {mode: enable}\n      attributes: {readBufferSize: -1, maxRequestBodySize: -1}\n";
    let config = config_of(spec).unwrap();
    let http = http(&config, "w");
    assert_eq!((http.head_bytes_max, http.body_bytes_max), (4096, 4_194_304));
    assert_eq!(http.batch, Some(Batch { size: 10, timeout: Duration::from_secs(1) }));
    assert_eq!(trigger(&config, "w").availability_timeout, Duration::from_secs(10));
}

#[test]
fn a_batch_has_at_most_ten_thousand_events() {
    for (size, expected, warnings) in [(10_000, 10_000, 0), (10_001, 10_000, 1)] {
        let file = format!(
            "  runtime: python\n  triggers: {{w: {{kind: http, batch: {{mode: enable, batchSize: {size}}}}}}}\n"
        );
        let config = config_of(&file).unwrap();
        assert_eq!(http(&config, "w").batch.as_ref().unwrap().size, expected);
        assert_eq!(config.warnings.len(), warnings, "{:?}", config.warnings);
    }
}

#[test]
fn batches_are_off_where_nobody_answers_them() {
    let config =
        config_of("  runtime: java\n  triggers: {w: {kind: http, batch: {mode: enable}}}\n").unwrap();
    assert_eq!(http(&config, "w").batch, None);
    assert!(config.warnings[0].contains("batching is off"), "{:?}", config.warnings);
}

#[test]
fn the_yaml_for_handlers_reads_back_as_the_same_tree() {
    for name in ["02-python-env-and-platform-fields.yaml", "13-yaml11-words.yaml", "15-json.yaml"] {
        let text = std::fs::read_to_string(sample(name)).unwrap();
        let written = yaml::parse(&text).unwrap().unwrap().to_json();
        let read = yaml::parse(&config(name).function.yaml).unwrap().unwrap().to_json();
        assert_eq!(read, written, "{name}");
    }
}

#[test]
fn redacted_shows_limits_and_no_values() {
    let spec = "  runtime: python\n  handler: h:h\n  env: [{name: TOKEN, value: hunter2}]\n  triggers:\n    q: {kind: \
                nats, password: hunter2, url: 'nats://u:hunter2@h'}\n";
    let config = config_of(spec).unwrap();
    let redacted = config.redacted();
    assert!(!redacted.to_string().contains("hunter2"), "{redacted}");
    assert_eq!(redacted["function"]["env"], serde_json::json!(["TOKEN"]));
    assert_eq!(redacted["function"]["triggers"][1]["maxRequestBodySize"], 4_194_304);
}

#[test]
fn a_handler_alone_makes_a_configuration() {
    let config = Config::for_handler(RuntimeKind::Python, "a:b", "127.0.0.1:9000", 3, Env::default());
    assert_eq!(config.function.handler, "a:b");
    assert_eq!(http(&config, "default-http").listen, "127.0.0.1:9000");
    assert_eq!(trigger(&config, "default-http").workers, 3);
    assert_eq!(config.platform.health.as_deref(), Some(":8082"));
    assert_eq!(config.function.log_sinks, [console(Level::Debug)]);
    assert!(config.function.yaml.contains("handler: a:b"));
}

#[test]
fn keys_that_are_ignored_may_hold_anything() {
    let config = config_of_files(
        "status: [1]\nspec: {runtime: python, replicas: x, resources: [2], build: 7, tolerations: {a: {b: 1}}}\n",
        "kube: 1\nscaleToZero: [x]\nfunctionReadinessTimeout: soon\nsensitiveFields: '('\n",
    );
    assert_eq!(config.unwrap().warnings, [""; 0]);
}

#[test]
fn sinks_of_application_insights_are_left_out() {
    let platform = "\
logger:
  sinks: {a: {kind: appinsights}, out: {kind: stdout}}
  functions: [{sink: a}, {sink: out}]
metrics:
  sinks: {m: {kind: appinsights}}
  functions: [m]
";
    let config = config_of_files("spec: {runtime: python}\n", platform).unwrap();
    assert_eq!(config.function.log_sinks.len(), 1);
    assert!(config.platform.metric_sinks.is_empty());
    assert_eq!(
        config.warnings.iter().filter(|line| line.contains("appinsights are not supported")).count(),
        2
    );
}
