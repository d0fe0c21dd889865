//! Cloud events in all their forms, and what is none.

use http::{HeaderValue, Method};
use serde_json::{Value, json};

use super::*;
use crate::event::{BodyBudget, Target, TriggerInfo};

fn event(headers: &[(&'static str, &str)], body: &str) -> Event {
    let mut header_map = HeaderMap::new();
    for (name, value) in headers {
        header_map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    let mut body = EventBody::from(Bytes::from(body.to_owned()));
    body.permit = BodyBudget::new(1 << 20).take(body.len());
    Event {
        id: EventId::Text("own".into()),
        trigger: TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "web".into() }.forever(),
        timestamp: UNIX_EPOCH,
        target: Target::Http { method: Method::POST, uri: "/p?q=1".parse().unwrap(), path: None },
        header_map,
        body,
        log_buffer: None,
        trace: None,
        extra: None,
        web: None,
    }
}

fn structured_event(body: &Value) -> Event {
    event(
        &[("content-type", "application/cloudevents+json; charset=utf-8"), ("x-http", "h")],
        &body.to_string(),
    )
}

fn unwrapped(body: &Value) -> Event {
    let mut event = structured_event(body);
    unwrap(&mut event).unwrap();
    event
}

fn body(event: &mut Event) -> String {
    String::from_utf8(event.body.contiguous().to_vec()).unwrap()
}

fn headers(event: &Event) -> Vec<(&str, &str)> {
    event.own_headers().unwrap().iter().map(|(name, value)| (name.as_str(), value.text().as_str())).collect()
}

fn seconds(event: &Event) -> i64 {
    match event.timestamp.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs() as i64,
        Err(before) => -(before.duration().as_secs() as i64),
    }
}

#[test]
fn structured_0_1_fills_in_everything() {
    let mut event = unwrapped(&json!({
        "cloudEventsVersion": "0.1", "eventType": "com.example.some", "eventTypeVersion": "1.0", "source": "/ctx",
        "eventID": "A-1", "eventTime": "2018-04-05T17:31:00Z", "contentType": "text/xml", "data": "<é/>",
        "extensions": {"comExample": "v", "aNumber": 1.50, "aList": [1, "a b"], "nothing": null},
        "offset": 7, "last_in_batch": true,
    }));
    assert_eq!(
        (event.id.as_str(), seconds(&event), event.trigger_class()),
        ("A-1", 1_522_949_460, "unsupported")
    );
    assert_eq!((event.method(), event.path(), event.query()), ("POST", &b"/p"[..], "q=1"));
    assert_eq!(event.content_type(), b"text/xml");
    assert_eq!(headers(&event), [("aList", r#"[1,"a b"]"#), ("aNumber", "1.5"), ("comExample", "v")]);
    let extra = event.extra.as_deref().unwrap();
    assert_eq!(
        (&*extra.event_type, &*extra.type_version, &*extra.version),
        ("com.example.some", "1.0", "0.1")
    );
    assert_eq!(extra.trigger, Some(("/ctx".to_owned(), "/ctx".to_owned())));
    assert_eq!((extra.offset, extra.shard_id), (7, -1));
    assert!(extra.last_in_batch && extra.cloud && !extra.body_is_json);
    assert_eq!(body(&mut event), "<é/>");
    assert!(event.body.permit.is_some());
}

#[test]
fn structured_1_0_fills_in_the_same_fields() {
    let mut event = unwrapped(&json!({
        "specversion": "1.0", "type": "t", "source": "/s", "id": "B", "time": "2018-04-05T19:31:00+02:00",
        "datacontenttype": "text/plain", "data": "text", "subject": "sub", "myExt": true,
        "eventID": "no attribute of 1.0",
    }));
    assert_eq!((event.id.as_str(), seconds(&event)), ("B", 1_522_949_460));
    assert_eq!(event.content_type(), b"text/plain");
    assert_eq!(headers(&event), [("eventID", "no attribute of 1.0"), ("myExt", "true"), ("subject", "sub")]);
    let extra = event.extra.as_deref().unwrap();
    assert_eq!((&*extra.event_type, &*extra.type_version, &*extra.version), ("t", "", "1.0"));
    assert_eq!(body(&mut event), "text");
}

#[test]
fn data_is_bytes_of_a_text_or_the_text_of_json() {
    for (data, expected, is_json) in [
        (r#""a\u00e9\n""#, "a\u{e9}\n", false),
        (r#""""#, "", false),
        (
            r#"{"a": [1, 1e400, 12345678901234567890123], "b c": "x \" y\\"}"#,
            r#"{"a":[1,1e400,12345678901234567890123],"b c":"x \" y\\"}"#,
            true,
        ),
        ("[1, 2]", "[1,2]", false),
        ("1.50", "1.50", false),
        ("true", "true", false),
        ("null", "null", false),
    ] {
        for version in ["cloudEventsVersion", "specversion"] {
            let text = format!(r#"{{ "{version}" : "x" , "data" : {data} }}"#);
            let mut event = event(&[("content-type", "application/CloudEvents")], &text);
            unwrap(&mut event).unwrap();
            assert_eq!(event.extra.as_deref().unwrap().body_is_json, is_json, "{data}");
            let json_type = version == "specversion" && !data.starts_with('"');
            assert_eq!(event.content_type(), if json_type { &b"application/json"[..] } else { b"" });
            assert!(event.body.present);
            assert_eq!(body(&mut event), expected);
        }
    }
}

#[test]
fn data_in_base64_is_bytes_in_1_0_only() {
    let mut event = unwrapped(&json!({"specversion": "1.0", "data_base64": "AP8=", "data": {}}));
    assert_eq!(event.body.contiguous()[..], [0, 0xff]);
    assert!(!event.extra.as_deref().unwrap().body_is_json && headers(&event).is_empty());
    assert!(!unwrapped(&json!({"data_base64": "AP8="})).body.present);
}

#[test]
fn what_an_event_leaves_out_is_empty() {
    for text in [json!({}), json!({"source": null, "eventID": null, "extensions": null, "eventTime": null})] {
        let event = unwrapped(&text);
        assert_eq!((event.id.as_str(), seconds(&event)), ("own", -62_135_596_800));
        assert!(!event.body.present && headers(&event).is_empty() && event.content_type().is_empty());
        assert_eq!(event.extra.as_deref().unwrap().trigger, Some((String::new(), String::new())));
    }
}

#[test]
fn malformed_events_are_refused() {
    for text in [
        "",
        "{not json",
        "[]",
        "null",
        "\"text\"",
        "{} {}",
        r#"{"eventID": 1}"#,
        r#"{"source": ["/s"]}"#,
        r#"{"eventTime": "yesterday"}"#,
        r#"{"eventTime": "0000-01-01T00:00:00Z"}"#,
        r#"{"eventTime": ""}"#,
        r#"{"extensions": []}"#,
        r#"{"offset": "1"}"#,
        r#"{"last_in_batch": 1}"#,
        r#"{"data": "\ud800"}"#,
        r#"{"specversion": 1}"#,
        r#"{"specversion": "1.0", "id": 1}"#,
        r#"{"specversion": "1.0", "data_base64": "*"}"#,
        r#"{"specversion": "1.0", "data_base64": {}}"#,
    ] {
        let mut event = event(&[("content-type", "application/cloudevents+json")], text);
        assert!(unwrap(&mut event).is_err(), "{text}");
    }
}

#[test]
fn binary_0_1_keeps_headers_and_body() {
    let mut event = event(
        &[
            ("content-type", "text/xml"),
            ("ce-cloudeventsversion", "0.1"),
            ("ce-eventid", "B-2"),
            ("ce-source", "/c%20x"),
            ("ce-name", "nm"),
            ("ce-eventtime", "2018-04-05T17:31:00Z"),
            ("ce-eventtype", "t"),
            ("ce-eventtypeversion", "2"),
        ],
        "body",
    );
    unwrap(&mut event).unwrap();
    assert_eq!(
        (event.id.as_str(), seconds(&event), event.trigger_class()),
        ("B-2", 1_522_949_460, "unsupported")
    );
    assert_eq!((event.content_type(), event.headers().count()), (&b"text/xml"[..], 8));
    assert!(event.own_headers().is_none());
    let extra = event.extra.as_deref().unwrap();
    assert_eq!((&*extra.event_type, &*extra.type_version, &*extra.version), ("t", "2", "0.1"));
    assert_eq!(extra.trigger, Some(("/c%20x".to_owned(), "nm".to_owned())));
    assert!(extra.cloud && !extra.body_is_json);
    assert_eq!(body(&mut event), "body");
}

#[test]
fn binary_1_0_has_its_values_unescaped() {
    let mut event = event(
        &[
            ("ce-specversion", "1.0"),
            ("ce-id", "%E2%82%AC"),
            ("ce-source", "/a+b%20c"),
            ("ce-type", "t%zz"),
            ("ce-time", "nope"),
        ],
        "body",
    );
    unwrap(&mut event).unwrap();
    assert_eq!((event.id.as_str(), seconds(&event)), ("\u{20ac}", -62_135_596_800));
    let extra = event.extra.as_deref().unwrap();
    assert_eq!((&*extra.event_type, &*extra.version), ("t%zz", "1.0"));
    assert_eq!(extra.trigger, Some(("/a+b c".to_owned(), "/a+b c".to_owned())));
}

#[test]
fn others_are_left_alone() {
    for headers in [
        &[("content-type", "application/json")][..],
        &[("content-type", "application/cloudevent")],
        &[("content-type", "application/cloudevents-batch+avro")],
        &[("content-type", "application/cloudevents-batch+jsonx")],
        &[("ce-eventid", "x")],
        &[("ce-cloudeventsversion", "")],
        &[],
    ] {
        let mut event = event(headers, "{not json");
        unwrap(&mut event).unwrap();
        assert!(event.extra.is_none());
        assert_eq!((event.id.as_str(), event.trigger_class()), ("own", "sync"));
    }
}

#[test]
fn a_batch_becomes_events_of_their_own() {
    let headers = &[("content-type", "Application/CloudEvents-Batch+JSON; charset=utf-8"), ("x-own", "1")];
    let mut carrier = event(
        headers,
        r#" [{"specversion": "1.0", "id": "a", "source": "/s", "type": "t", "data": "one"},
             {"specversion": "1.0", "source": "/r", "data": {"n": 2}, "data_base64": null},
             {"cloudEventsVersion": "0.1", "eventID": "c", "data": [3]}] "#,
    );
    let budget = crate::event::BodyBudget::new(1000);
    carrier.body.permit = budget.take(900);
    let mut events = unwrap(&mut carrier).unwrap().unwrap();
    drop(carrier);
    assert!(budget.take(700).is_some(), "only what the events hold is counted");
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!((ids[0], ids[1].len(), ids[2]), ("a", 36, "c"));
    let bodies: Vec<Bytes> = events.iter_mut().map(|event| event.body.contiguous().clone()).collect();
    assert_eq!(bodies, ["one", r#"{"n":2}"#, "[3]"]);
    let extra = events[1].extra.as_deref().unwrap();
    assert_eq!(extra.trigger, Some(("/r".to_owned(), "/r".to_owned())));
    assert_eq!(events[1].content_type(), b"application/json");
    assert!(extra.body_is_json && extra.headers.as_deref() == Some(&[]));
    assert!(budget.take(1000).is_none());
    drop(events);
    assert!(budget.take(1000).is_some());
}

#[test]
fn a_batch_is_refused_as_a_whole() {
    let check = |body: &str| {
        unwrap(&mut event(&[("content-type", "application/cloudevents-batch+json")], body)).unwrap_err()
    };
    assert!(check(r#"{"specversion": "1.0"}"#).to_string().starts_with("body:"));
    assert!(check(r#"[{"specversion": "1.0"}, 1]"#).to_string().starts_with("body:"));
    assert!(check(r#"[{"specversion": "1.0", "id": 1}]"#).to_string().starts_with("id:"));
    assert!(check("[{}").to_string().starts_with("body:"));
    let many = format!("[{}{{}}]", "{},".repeat(BATCH_EVENTS_MAX));
    assert_eq!(check(&many).to_string(), "the batch holds 1001 events, more than 1000");
    let just = format!("[{}{{}}]", "{},".repeat(BATCH_EVENTS_MAX - 1));
    let mut carrier = event(&[("content-type", "application/cloudevents-batch+json")], &just);
    assert_eq!(unwrap(&mut carrier).unwrap().unwrap().len(), BATCH_EVENTS_MAX);
}

#[test]
fn headers_that_make_a_timers_event_a_cloud_event_leave_its_own_headers_and_fields() {
    let mut event = event(
        &[
            ("ce-cloudeventsversion", "0.1"),
            ("ce-eventid", "e1"),
            ("content-type", "application/cloudevents"),
        ],
        "d",
    );
    event.extra = Some(Box::new(Extra {
        content_type: Some(String::new()),
        headers: Some(vec![("CE-EventID".to_owned(), "e1".to_owned().into())]),
        fields: vec![("f".to_owned(), "1".to_owned())],
        ..Extra::default()
    }));
    unwrap_headers(&mut event);
    assert_eq!((event.id.as_str(), event.content_type()), ("e1", &b""[..]));
    assert_eq!(headers(&event), [("CE-EventID", "e1")]);
    let fields: Vec<_> = event.fields().collect();
    assert_eq!(fields, [(b"f".to_vec(), b"1".to_vec()), (b"q".to_vec(), b"1".to_vec())]);
    assert_eq!(body(&mut event), "d");
}
