//! Cloud events, beyond the vectors: how malformed ones are counted, and what a shim makes of odd ones.

use serde_json::json;

use crate::harness::{Answer, Processor, Setup};

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
