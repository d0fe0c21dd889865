//! Cloud events that come several in one request: handled one by one or in batches, answered together.

use serde_json::{Value, json};

use crate::harness::{Answer, Processor, Setup};

fn send_batch(processor: &Processor, events: &Value) -> Answer {
    let body = events.to_string();
    let head = format!(
        "POST /p HTTP/1.1\r\nHost: test\r\nContent-Type: application/cloudevents-batch+json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    processor.request(&head, body.as_bytes())
}

/// An event of version 1.0 for each data.
fn events(data: &[Value]) -> Value {
    let event = |(n, data): (usize, &Value)| json!({"specversion": "1.0", "id": format!("i{n}"), "source": "/s", "type": "t", "data": data});
    data.iter().enumerate().map(event).collect()
}

const PARTS: &str = r#"
def handler(context, event):
    word = event.body
    if word == b"raise":
        raise ValueError("no")
    if word == b"missing":
        return context.Response(body="", status_code=404, headers={"X-A": "1"})
    if word == b"stream":
        return (piece for piece in ("a", "b"))
    if word == b"endless":
        return ("x" * 65536 for _ in iter(int, 1))
    if word == b"bytes":
        return context.Response(body=b"\xff", content_type="image/png")
    return {"path": event.path, "id": event.id, "data": word if isinstance(word, dict) else word.decode()}
"#;

#[test]
fn events_of_one_request_are_handled_one_by_one_and_answered_together() {
    let processor = Setup::python(PARTS).trigger(json!({"numWorkers": 2})).start();
    let words = [json!("a"), json!({"n": 1}), json!("stream"), json!("bytes")];
    let answer = send_batch(&processor, &events(&words));
    assert_eq!((answer.status, answer.header("Content-Type")), (200, Some("application/json")));
    let part = |n: usize, kind: &str| json!({"id": format!("i{n}"), "source": "/s", "status": 200, "datacontenttype": kind});
    let mut expected = vec![
        part(0, "application/json"),
        part(1, "application/json"),
        part(2, "text/plain"),
        part(3, "image/png"),
    ];
    expected[0]["data"] = json!({"path": "/p", "id": "i0", "data": "a"});
    expected[1]["data"] = json!({"path": "/p", "id": "i1", "data": {"n": 1.0}});
    expected[2]["data"] = json!("ab");
    expected[3]["data_base64"] = json!("/w==");
    assert_eq!(answer.json(), json!(expected));
    let answer = send_batch(&processor, &json!([]));
    assert_eq!((answer.status, answer.json()), (200, json!([])));
    let handled = processor.metric("nuclio_processor_handled_events_total", &["result=\"success\""]);
    assert_eq!(handled, 4.0, "each event counts");
}

#[test]
fn the_worst_of_the_events_decides_the_status() {
    let processor = Setup::python(PARTS).start();
    let answer = send_batch(&processor, &events(&[json!("a"), json!("missing")]));
    assert_eq!(answer.status, 404, "{}", answer.text());
    let missing = &answer.json()[1];
    assert_eq!((&missing["status"], &missing["headers"]), (&json!(404), &json!({"x-a": "1"})));
    assert_eq!(missing.get("data"), None);
    let answer = send_batch(&processor, &events(&[json!("missing"), json!("raise"), json!("a")]));
    assert_eq!(answer.status, 500);
    let statuses: Vec<Value> =
        answer.json().as_array().unwrap().iter().map(|part| part["status"].clone()).collect();
    assert_eq!(statuses, [404, 500, 200]);
    let answer = send_batch(&processor, &events(&[json!("endless"), json!("a")]));
    let parts = answer.json();
    assert_eq!((answer.status, &parts[0]["status"], &parts[1]["status"]), (500, &json!(500), &json!(200)));
    assert!(parts[0]["data"].as_str().unwrap().contains("1048576 bytes"), "{parts}");
}

#[test]
fn a_malformed_event_refuses_the_request_before_any_is_handled() {
    let processor = Setup::python(PARTS).start();
    let mut list = events(&[json!("a"), json!("b")]);
    list[1]["id"] = json!(7);
    assert_eq!(send_batch(&processor, &list).status, 400);
    assert_eq!(send_batch(&processor, &events(&vec![json!("a"); 1001])).status, 400);
    assert_eq!(send_batch(&processor, &json!({"specversion": "1.0"})).status, 400);
    let handled = |result: &str| {
        processor.metric("nuclio_processor_handled_events_total", &[&format!("result=\"{result}\"")])
    };
    assert_eq!((handled("success"), handled("failure")), (0.0, 3.0));
}

#[test]
fn events_of_one_request_are_gathered_like_others_where_the_handler_takes_batches() {
    let handler = "
def handler(context, events):
    return [context.Response(body='%s of %d' % (event.body.decode(), len(events)), event_id=event.id)
            for event in reversed(events)]
";
    let batch = json!({"batch": {"mode": "enable", "batchSize": 4, "timeout": "1s"}});
    let processor = Setup::python(handler).trigger(batch).start();
    let mut list = events(&[json!("a"), json!("b"), json!("c"), json!("d"), json!("e"), json!("f")]);
    // Ids are unique for one source only.
    (0..6).for_each(|n| list[n]["id"] = json!("same"));
    let answer = send_batch(&processor, &list);
    let shown: Vec<String> =
        answer.json().as_array().unwrap().iter().map(|part| part["data"].to_string()).collect();
    let expected = ["a of 4", "b of 4", "c of 4", "d of 4", "e of 2", "f of 2"];
    assert_eq!(shown, expected.map(|text| format!("{text:?}")));
    assert_eq!((answer.status, &answer.json()[5]["id"]), (200, &json!("same")));
}
