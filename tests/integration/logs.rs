//! What is logged, where, how it looks, and what is never logged. Streams that take nothing are in `outputs`.

use serde_json::{Value, json};

use crate::harness::{Processor, Setup, wait_until};

/// Logs at every level, at a path of its own more than is good.
const HANDLER: &str = "
def handler(context, event):
    if event.path == '/raise':
        raise RuntimeError('no')
    context.logger.debug_with('at debug', n=1)
    context.logger.info_with('at info', n=2, text='x<y&z>', nested={'a': [1, None, True]})
    context.logger.warn_with('at warn', n=3)
    context.logger.error_with('at error', n=4)
    return context.Response(body='', headers={'bad name': '1'})
";
const MESSAGES: [&str; 4] = ["at debug", "at info", "at warn", "at error"];

/// A function whose records go to these sinks.
fn with_sinks(sinks: Value, functions: Value) -> Setup {
    let mut setup = Setup::python(HANDLER);
    setup.platform = json!({"logger": {"sinks": sinks, "functions": functions}});
    setup
}

fn json_sink(attributes: Value) -> Value {
    let mut all = json!({"encoding": "json"});
    crate::harness::merge(&mut all, attributes);
    json!({"kind": "stdout", "attributes": all})
}

/// The handler's lines once all of them are there.
fn lines(processor: &Processor, last: &str) -> Vec<String> {
    processor.stdout.wait_for(last, |line| line.contains(last));
    let is_ours = |line: &&String| MESSAGES.iter().any(|message| line.contains(message));
    processor.stdout.lines().iter().filter(is_ours).cloned().collect()
}

#[test]
fn json_lines_have_the_keys_in_the_references_order_and_place() {
    let line = |attributes: Value| {
        let processor =
            with_sinks(json!({"mine": json_sink(attributes)}), json!([{"level": "info", "sink": "mine"}]))
                .start();
        processor.get("/");
        lines(&processor, "at error").into_iter().find(|line| line.contains("at info")).unwrap()
    };
    let keys = |line: &str| {
        let record: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        record.keys().cloned().collect::<Vec<_>>().join(" ")
    };
    let plain = line(json!({}));
    assert_eq!(keys(&plain), "level time name message n text nested worker_id");
    assert!(plain.contains(r#""text":"x<y&z>""#), "{plain}");
    let record: Value = serde_json::from_str(&plain).unwrap();
    assert!(
        record["time"].is_f64() && record["name"].as_str().unwrap().starts_with("processor.http.w0.python")
    );
    assert_eq!(record["nested"], json!({"a": [1, null, true]}));

    let production =
        line(json!({"timeFieldName": "time", "timeFieldEncoding": "iso8601", "varGroupName": "more"}));
    assert_eq!(keys(&production), "level time name message more");
    let record: Value = serde_json::from_str(&production).unwrap();
    let time = record["time"].as_str().unwrap();
    assert!(time.len() >= 24 && time.as_bytes()[10] == b'T' && time.as_bytes()[19] == b'.', "{time}");
    assert_eq!(record["more"]["text"], "x<y&z>");

    let flat = line(json!({"timeFieldName": "at", "varGroupName": "more", "varGroupMode": "flattened"}));
    assert_eq!(keys(&flat), "level at name message more");
    let record: Value = serde_json::from_str(&flat).unwrap();
    assert!(record["more"].as_str().unwrap().starts_with("n=2 || text=x<y&z> || nested="), "{flat}");
}

#[test]
fn console_lines_are_coloured_unless_that_is_not_wanted() {
    for (variable, coloured) in [("SOMETHING_ELSE", true), ("NO_COLOR", false)] {
        let sinks = json!({"mine": {"kind": "stdout", "attributes": {"format": "humanReadable"}}});
        let setup = with_sinks(sinks, json!([{"level": "warn", "sink": "mine"}])).env(variable, "1");
        let processor = setup.start();
        processor.get("/");
        let found = lines(&processor, "at error");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].contains("\x1b[33m(W)\x1b[0m"), coloured);
        assert!(found[0].ends_with(r#"at warn {"n": 3, "worker_id": "0"}"#), "{}", found[0]);
    }
}

#[test]
fn every_sink_has_its_own_level_and_form_and_the_functions_wish_wins() {
    let sinks = json!({"all": json_sink(json!({})), "some": {"kind": "stdout"}});
    let both = json!([{"level": "debug", "sink": "all"}, {"level": "error", "sink": "some"}]);
    let check = |wish: Value, json_lines: usize, console_lines: usize| {
        let mut setup = with_sinks(sinks.clone(), both.clone()).env("NO_COLOR", "1");
        if !wish.is_null() {
            setup = setup.spec(json!({"loggerSinks": wish}));
        }
        let processor = setup.start();
        processor.get("/");
        let found = lines(&processor, "at error");
        wait_until("all lines are there", || {
            lines(&processor, "at error").len() == json_lines + console_lines
        });
        let found =
            if found.len() < json_lines + console_lines { lines(&processor, "at error") } else { found };
        let is_json = |line: &&String| line.starts_with('{');
        assert_eq!(found.iter().filter(is_json).count(), json_lines, "{found:#?}");
    };
    check(Value::Null, 4, 1);
    check(json!([{"level": "WARNING"}]), 2, 2);
    check(json!([{"level": "info", "sink": "all"}]), 3, 0);
}

#[test]
fn a_caller_gets_the_records_it_asks_for_whatever_the_sinks_want() {
    let sinks = json!({"out": json_sink(json!({}))});
    let processor = with_sinks(sinks, json!([{"level": "error", "sink": "out"}])).start();
    let ask = |level: &str| {
        let answer = processor
            .request(&format!("GET / HTTP/1.1\r\nHost: test\r\nX-Nuclio-Log-Level: {level}\r\n\r\n"), b"");
        let logs: Vec<Value> = serde_json::from_str(answer.header("X-Nuclio-Logs").unwrap()).unwrap();
        logs.iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ask("debug"), MESSAGES);
    assert_eq!(ask("Info"), MESSAGES[1..]);
    assert_eq!(ask("warn"), MESSAGES[2..]);
    assert_eq!(ask("fatal"), MESSAGES[3..]);
    assert_eq!(processor.get("/").header("X-Nuclio-Logs"), None);
    wait_until("the sink has its own", || lines(&processor, "at error").len() == 5);
    assert!(lines(&processor, "at error").iter().all(|line| line.contains("at error")));
}

#[test]
fn a_sink_for_application_insights_is_left_out_with_a_warning() {
    let sinks = json!({"out": json_sink(json!({})), "ai": {"kind": "appinsights", "attributes": {"instrumentationKey": "s3cret"}}});
    let functions = json!([{"level": "debug", "sink": "out"}, {"level": "debug", "sink": "ai"}]);
    let processor = with_sinks(sinks, functions).start();
    let line = processor.stdout.wait_for("a warning", |line| line.contains("appinsights"));
    assert!(line.contains(r#""level":"warn""#) && line.contains("not supported"), "{line}");
    assert!(!processor.stdout.text().contains("s3cret"));
}

/// What a shim may send as a record. Bodies are bytes, as only a faulty or hostile shim sends them.
const RECORDS: &str = r#"
import json
hello()
ready()

def record(id, message, body=b""):
    send(frame(0x86, id, struct.pack("<q", 0) + message, body, 1))

def each(id, path, body):
    if path == "/control":
        record(id, b"a\x00b\x01c\x1b[31m\r\nd\x7f\te", json.dumps({"k\n\x02": "v\r\n\x03"}).encode())
    if path == "/invalid":
        record(id, b"broken \xff\xfe text", b'{"ok": 1}')
        record(id, b"broken fields", b"\xff{")
    if path == "/long":
        record(id, b"m" * (10 << 20), json.dumps({"small": 1}).encode())
        record(id, b"long field", json.dumps({"first": 1, "big": "f" * (10 << 20), "last": 2}).encode())
    if path == "/deep":
        record(id, b"deep", b'{"d": ' + b"[" * 100 + b"]" * 100 + b"}")
        record(id, b"too deep", b'{"d": ' + b"[" * 100000 + b"]" * 100000 + b"}")
    record(id, b"done " + path.encode())
    answer(id, b"ok")

serve(each)
"#;

#[test]
fn control_characters_and_invalid_text_stay_one_valid_line() {
    let processor = Setup::fake_shim(RECORDS).start();
    assert_eq!(processor.get("/control").text(), "ok");
    let line = processor.stdout.wait_for("the record", |line| line.contains("[31m"));
    assert!(!line.bytes().any(|byte| byte < 0x20), "{line:?}");
    let record: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(record["message"], "a\u{0}b\u{1}c\u{1b}[31m\r\nd\u{7f}\te");
    assert_eq!(record["more"], json!({"k\n\u{2}": "v\r\n\u{3}"}));

    assert_eq!(processor.get("/invalid").text(), "ok");
    assert_eq!(processor.stdout.wait_for_record("broken \u{fffd}\u{fffd} text")["more"]["ok"], 1);
    assert_eq!(processor.stdout.wait_for_record("broken fields")["more"]["with"], "\u{fffd}{");
}

#[test]
fn records_returned_to_a_caller_are_fit_for_a_header() {
    let processor = Setup::fake_shim(RECORDS).start();
    for path in ["/control", "/invalid", "/long", "/deep"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: test\r\nX-Nuclio-Log-Level: debug\r\n\r\n");
        let answer = processor.request(&head, b"");
        let logs = answer.header("X-Nuclio-Logs").unwrap();
        let bare = logs.chars().all(|c| c >= ' ' && c != '\u{7f}');
        assert!(answer.status == 200 && logs.len() < 4096 && bare, "{path}: {logs:?}");
        // Its bytes were read one character each.
        let bytes: Vec<u8> = logs.chars().map(|c| c as u8).collect();
        let entries: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
        assert!(entries.iter().all(|entry| entry["level"].is_string() && entry["message"].is_string()));
    }
}

#[test]
fn a_record_of_ten_mebibytes_is_cut_with_a_mark() {
    let processor = Setup::fake_shim(RECORDS).start();
    assert_eq!(processor.get("/long").text(), "ok");
    processor.stdout.wait_for_record("done /long");
    let mib = 1 << 20;
    let kept = 28 << 10;
    let line = processor.stdout.wait_for("the long message", |line| line.contains("mmmm"));
    let record: Value = serde_json::from_str(&line).unwrap();
    assert!(line.len() < 2 * kept);
    let mark = format!("m … ({} bytes left out)", 10 * mib - kept);
    assert!(record["message"].as_str().unwrap().ends_with(&mark));
    assert_eq!(record["more"]["small"], 1);
    let fields = processor.stdout.wait_for_record("long field")["more"].clone();
    assert!(fields["big"].as_str().unwrap().ends_with("bytes left out)"));
    assert_eq!((&fields["first"], &fields["left_out"]), (&json!(1), &json!(1)));
}

#[test]
fn deep_fields_are_kept_or_become_a_text() {
    let processor = Setup::fake_shim(RECORDS).start();
    assert_eq!(processor.get("/deep").text(), "ok");
    assert!(processor.stdout.wait_for_record("deep")["more"]["d"].is_array());
    let text = processor.stdout.wait_for_record("too deep")["more"]["with"].as_str().unwrap().to_owned();
    assert!(text.starts_with(r#"{"d": [[["#) && text.ends_with("bytes left out)"));
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn secrets_of_requests_and_of_the_configuration_are_never_logged() {
    let setup = Setup::python(HANDLER)
        .spec(json!({
            "env": [{"name": "PASSWORD", "value": "s3cret-env"}],
            "runtimeAttributes": {"token": "s3cret-attribute"},
            "build": {"codeEntryAttributes": {"password": "s3cret-build"}},
        }))
        .trigger(json!({"attributes": {"cors": {"enabled": true, "allowOrigins": ["https://a"]}}, "password": "s3cret-trigger"}))
        .env("OTEL_TRACES_EXPORTER", "none");
    let processor = setup.start();
    let secret =
        "Authorization: Bearer s3cret-header\r\nCookie: session=s3cret-cookie\r\nX-Api-Key: s3cret-key\r\n";
    let ask = |first: &str, more: &str, body: &[u8]| {
        let head = format!("{first} HTTP/1.1\r\n{secret}{more}\r\n");
        processor.request(&head, body).status
    };
    assert_eq!(ask("GET /", "Host: test\r\n", b""), 200);
    assert_eq!(ask("GET /raise", "Host: test\r\n", b""), 500);
    assert_eq!(ask("GET /", "Host: test\r\nOrigin: https://evil\r\n", b""), 403);
    assert_eq!(ask("GET /", "Host: a b\r\n", b""), 400);
    let cloud = "Host: test\r\nContent-Type: application/cloudevents+json\r\nContent-Length: 13\r\n";
    assert_eq!(ask("POST /", cloud, b"{s3cret-body}"), 400);
    assert_eq!(ask("POST /", "Host: test\r\nContent-Length: 99999999\r\n", b""), 413);
    processor.stdout.wait_for_record("Refused a cloud event");
    processor.stdout.wait_for_record("Dropped a header of the handler's answer");
    for output in [processor.stdout.text(), processor.stderr.text()] {
        let shown: Vec<&str> = output.lines().filter(|line| line.contains("s3cret")).collect();
        assert!(shown.is_empty(), "{shown:#?}");
    }
}
