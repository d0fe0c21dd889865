//! Cloud events: how malformed ones are counted, what a shim makes of odd ones, version 1.0 as vectors and as made by the
//! official SDK.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Answer, Processor, Setup};
use crate::packages::python_with;

const HANDLER: &str = r#"
def handler(context, event):
    trigger = event.trigger.kind + "," + event.trigger.name
    return repr((event.id, event.type, event.version, trigger, event.content_type, event.headers, event.body))
"#;

fn start() -> Processor {
    Setup::python(HANDLER).start()
}

fn send(processor: &Processor, body: &str) -> Answer {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: test\r\nContent-Type: application/cloudevents+json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    processor.request(&head, body.as_bytes())
}

#[test]
fn a_malformed_cloud_event_is_its_senders_fault_and_counts_as_a_failure() {
    let processor = start();
    for body in ["{not json", r#"{"eventID": 1}"#, ""] {
        let answer = send(&processor, body);
        assert_eq!((answer.status, answer.text()), (400, "Failed to wrap structured cloud event".to_owned()));
        assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    }
    let handled = |result: &str| {
        processor.metric("nuclio_processor_handled_events_total", &[&format!("result=\"{result}\"")])
    };
    assert_eq!((handled("success"), handled("failure")), (0.0, 3.0));
}

#[test]
fn an_event_of_version_1_0_reaches_the_handler_in_the_same_fields() {
    let processor = start();
    let event = json!({
        "specversion": "1.0", "id": "i\u{0}d", "source": "/s", "type": "t", "myExt": 1, "data": {"a": [1, "b"]},
    });
    assert_eq!(
        send(&processor, &event.to_string()).text(),
        "('i\\x00d', 't', '1.0', '/s,/s', 'application/json', {'myExt': '1'}, {'a': [1.0, 'b']})"
    );
}

#[test]
fn data_that_is_nested_too_deeply_costs_its_own_event_only() {
    let processor = start();
    let before = processor.children();
    let nested = format!(r#"{{"data": {{"a": {}{}}}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let status = send(&processor, &nested).status;
    assert!(matches!(status, 400 | 500), "{status}");
    assert_eq!(send(&processor, r#"{"eventID": "next"}"#).status, 200);
    assert_eq!(processor.children(), before);
}

/// Shows the event; texts of the body as they are, everything that is no text as bytes in hexadecimal digits.
const SHOW: &str = r#"
import datetime, json
def handler(context, event):
    shown = {"id": event.id, "type": event.type, "version": event.version, "source": event.trigger.kind,
             "content_type": event.content_type,
             "headers": {str(name).lower(): str(value) for name, value in event.headers.items()}}
    time = event.timestamp
    if time.year > 1:
        shown["time"] = time.replace(tzinfo=datetime.timezone.utc).isoformat().replace("+00:00", "Z")
    if event.body is None:
        shown["body"] = ""
    elif isinstance(event.body, bytes):
        shown["body_hex"] = event.body.hex()
        shown["body"] = event.body.decode("utf-8", "replace")
    else:
        shown["body_json"] = event.body
    return json.dumps(shown)
"#;

/// What is not as a vector says.
fn differences(processor: &Processor, case: &Value) -> Vec<String> {
    let body = match case["body_hex"].as_str() {
        Some(digits) => bytes_of(digits),
        None => case["body"].as_str().unwrap().as_bytes().to_vec(),
    };
    let mut head = format!("POST /path HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in case["headers"].as_object().unwrap() {
        head += &format!("{name}: {}\r\n", value.as_str().unwrap());
    }
    let answer = processor.request(&(head + "\r\n"), &body);
    let status = case["status"].as_u64().unwrap_or(200);
    if u64::from(answer.status) != status {
        return vec![format!("status {} and {:?}, not {status}", answer.status, answer.text())];
    }
    if case["status"].is_u64() {
        return Vec::new();
    }
    let shown: Value = answer.json();
    let mut found = Vec::new();
    for (key, expected) in case["event"].as_object().unwrap() {
        let same = match expected.as_object() {
            Some(headers) if key == "headers" => {
                headers.iter().all(|(name, value)| shown[key][name] == *value)
            }
            // compat: a handler sees integers of a structured event as floats.
            _ if key == "body_json" => with_floats(&shown[key]) == with_floats(expected),
            _ => shown[key] == *expected,
        };
        if !same {
            found.push(format!("{key} is {}, not {expected}", shown[key]));
        }
    }
    found
}

fn with_floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(with_floats).collect(),
        Value::Object(members) => {
            members.iter().map(|(key, value)| (key.clone(), with_floats(value))).collect()
        }
        other => other.clone(),
    }
}

fn bytes_of(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn events_of_version_1_0_are_seen_as_the_vectors_say() {
    let file: Value = serde_json::from_str(include_str!("../vectors/cloudevents-1.0.json")).unwrap();
    assert_eq!(file["format"], 1);
    let processor = Setup::python(SHOW).start();
    let cases = file["cases"].as_array().unwrap();
    let mut failed = Vec::new();
    for case in cases {
        let found = differences(&processor, case);
        if !found.is_empty() {
            failed.push(format!("{}:\n    {}", case["name"], found.join("\n    ")));
        }
    }
    println!("{} of {} cloud events are as the vectors say", cases.len() - failed.len(), cases.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Sends what the official SDK makes of events, in both modes; prints what does not arrive.
const SDK_CLIENT: &str = r#"
import http.client, json, sys
from cloudevents.conversion import to_binary, to_structured
from cloudevents.http import CloudEvent

# The SDK writes texts in quotes unless told what bytes they are.
def binary(event):
    return to_binary(event, lambda data: data if isinstance(data, (str, bytes)) else json.dumps(data))

def attributes(number, **more):
    return {"type": "com.example.sdk", "source": "/sdk", "id": f"sdk-{number}", **more}

EVENTS = [
    (CloudEvent(attributes(1), {"message": "Hello", "n": [1, None, 2.5]}), "body_json", {"message": "Hello", "n": [1, None, 2.5]}),
    (CloudEvent(attributes(2, datacontenttype="text/plain"), "plain"), "body", "plain"),
    (CloudEvent(attributes(3, datacontenttype="application/octet-stream"), bytes(range(256))), "body_hex", bytes(range(256)).hex()),
    (CloudEvent(attributes(4, datacontenttype="application/json", time="2024-05-06T07:08:09Z"), {"a": "\u00e9\U0001f600"}), "body_json", {"a": "\u00e9\U0001f600"}),
    (CloudEvent(attributes(5, subject="a subject", extension="value"), {"x": 1}), "body_json", {"x": 1}),
]
port, count = int(sys.argv[1]), 0
for event, key, data in EVENTS:
    for mode, make in (("binary", binary), ("structured", to_structured)):
        headers, body = make(event)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("POST", "/", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, (mode, event["id"], answer.status, text)
        shown = json.loads(text)
        # In binary mode the SDK does not name the type of data that is JSON by default.
        if key == "body_json" and key not in shown:
            shown[key] = json.loads(shown["body"])
        expected = {"id": event["id"], "type": event["type"], "source": event["source"], "version": event["specversion"], key: data}
        if event["id"] == "sdk-4":
            expected["time"] = "2024-05-06T07:08:09Z"
        for name, value in expected.items():
            assert shown.get(name) == value, (mode, event["id"], name, shown.get(name), value)
        prefix = "ce-" if mode == "binary" else ""
        for name in ("subject", "extension"):
            if name in event:
                assert shown["headers"][prefix + name] == event[name], (mode, name, shown["headers"])
        count += 1
print(count)
"#;

#[test]
fn events_made_by_the_official_sdk_arrive_intact() {
    let python = match python_with("cloudevents-sdk", &["cloudevents==1.12.0"]) {
        Ok(python) => python,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let processor = Setup::python(SHOW).start();
    let port = processor.ports.http.to_string();
    let output = Command::new(python).args(["-c", SDK_CLIENT, &port]).output().unwrap();
    let shown =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(shown.trim(), "10", "two modes of five events");
}
