//! The vectors of shim protocol 1, against the codec alone: what we write byte for byte, what we make of what wrappers
//! write.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use nuclio_processor::event::EventBody;

use nuclio_processor::runtime::shim::protocol::v1::answer::{Answers, read_answers};
use nuclio_processor::runtime::shim::protocol::v1::event::{
    BodyView, Encoding, Frame, Name, Value as Wire, View,
};
use nuclio_processor::runtime::shim::protocol::v1::line::{
    Control, ControlError, Line, parse, read_control, read_log, read_metric,
};
use nuclio_processor::runtime::shim::v1::lines::Lines;
use serde_json::Value;

fn cases(file: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/wire-v1/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    vectors["cases"].as_array().unwrap().clone()
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A value of a vector; maps in the order of the alphabet, as the expected bytes have them.
fn wire(value: &Value) -> Wire<'static> {
    let object = |name: &str| value.get(name).and_then(Value::as_str).map(unhex);
    match value {
        Value::Null => Wire::Nil,
        Value::Bool(value) => Wire::Bool(*value),
        Value::Number(number) => Wire::Int(number.as_i64().unwrap()),
        Value::String(text) => Wire::Text(text.clone().into_bytes().into()),
        Value::Array(items) => Wire::List(items.iter().map(wire).collect()),
        Value::Object(_) if object("$bytes_hex").is_some() => {
            Wire::Bytes(object("$bytes_hex").unwrap().into())
        }
        Value::Object(_) if object("$raw_str_hex").is_some() => {
            Wire::Text(object("$raw_str_hex").unwrap().into())
        }
        Value::Object(map) if map.contains_key("$float") => Wire::Float(map["$float"].as_f64().unwrap()),
        Value::Object(map) => {
            let mut pairs: Vec<_> =
                map.iter().map(|(name, value)| (name.clone().into_bytes().into(), wire(value))).collect();
            pairs.sort_by(|(a, _): &(Cow<'_, [u8]>, _), (b, _)| a.cmp(b));
            Wire::Map(pairs)
        }
    }
}

fn pairs(value: &Value) -> Option<Vec<(String, Wire<'static>)>> {
    let mut pairs: Vec<_> =
        value.as_object()?.iter().map(|(name, value)| (name.clone(), wire(value))).collect();
    pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
    Some(pairs)
}

fn body(event: &Value) -> Option<EventBody> {
    let body = &event["body"];
    let bytes = match body["kind"].as_str().unwrap() {
        "bytes" => match body["hex"].as_str() {
            Some(hex) => unhex(hex),
            None => body["utf8"].as_str().unwrap().as_bytes().to_vec(),
        },
        "repeat" => {
            vec![body["byte"].as_u64().unwrap() as u8; body["count"].as_u64().unwrap() as usize]
        }
        _ => return None,
    };
    Some(Bytes::from(bytes).into())
}

/// What an event of a vector borrows from.
struct Parts {
    body: Option<EventBody>,
    fields: Option<Vec<(String, Wire<'static>)>>,
    headers: Option<Vec<(String, Wire<'static>)>>,
}

impl Parts {
    fn of(event: &Value) -> Self {
        Self { body: body(event), fields: pairs(&event["fields"]), headers: pairs(&event["headers"]) }
    }

    fn view<'a>(&'a self, event: &'a Value) -> View<'a> {
        let text = |key: &str| event[key].as_str().unwrap();
        let int = |key: &str| event[key].as_i64().unwrap();
        let fields = self.fields.as_ref().map(|fields| {
            let pair = |(name, value): &'a (String, Wire<'static>)| match value {
                Wire::Text(text) => (Cow::Borrowed(name.as_bytes()), Cow::Borrowed(&text[..])),
                other => panic!("{other:?} as a field"),
            };
            fields.iter().map(pair).collect()
        });
        let headers = self.headers.as_ref().map(|headers| {
            headers.iter().map(|(name, value)| (Name::Exact(name.as_bytes()), value.clone())).collect()
        });
        View {
            body: match (&self.body, event["body"]["kind"].as_str()) {
                (Some(body), _) => BodyView::Bytes(body),
                (None, Some("object")) => BodyView::Object(wire(&event["body"]["value"])),
                (None, _) => BodyView::Absent,
            },
            content_type: text("content_type").as_bytes(),
            trigger: (event["trigger"]["kind"].as_str().unwrap(), event["trigger"]["name"].as_str().unwrap()),
            fields,
            headers,
            id: text("id"),
            method: text("method"),
            path: event["path"].as_str().unwrap().as_bytes(),
            url: text("url"),
            timestamp: int("timestamp"),
            shard_id: int("shard_id"),
            num_shards: int("num_shards"),
            offset: int("offset"),
            topic: text("topic"),
            event_type: text("type"),
            type_version: text("type_version"),
            version: text("version"),
        }
    }
}

/// The whole frame, as it goes over the wire.
fn whole(frame: &Frame, bodies: &[&Option<EventBody>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bodies = bodies.iter().filter_map(|body| body.as_ref());
    for before in frame.before_bodies() {
        out.extend_from_slice(before);
        bodies.next().unwrap().pieces().for_each(|piece| out.extend_from_slice(piece));
    }
    out.extend_from_slice(frame.rest());
    assert_eq!(out.len(), frame.size());
    out
}

/// SHA-256 by the system's own tool; `None`: there is none.
fn sha256(bytes: &[u8]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytes");
    std::fs::write(&path, bytes).unwrap();
    let output = std::process::Command::new("sha256sum").arg(path).output().ok()?;
    String::from_utf8(output.stdout).ok()?.split_whitespace().next().map(str::to_owned)
}

#[test]
fn events_are_written_byte_for_byte_as_the_vectors_say() {
    let mut frame = Frame::default();
    let cases = cases("events");
    assert!(cases.len() >= 30);
    for case in &cases {
        let (name, event) = (&case["name"], &case["event"]);
        let parts = Parts::of(event);
        frame.write(Encoding::MsgPack, &parts.view(event));
        let bytes = whole(&frame, &[&parts.body]);
        frame.write(Encoding::Json, &parts.view(event));
        let line = String::from_utf8(frame.rest().to_vec()).unwrap();
        assert!(line.is_ascii() && line.find('\n') == Some(line.len() - 1), "{name}");
        if let Some(expected) = case["msgpack_compact_hex"].as_str() {
            let length = case["msgpack_compact_frame_length_hex"].as_str().unwrap();
            assert_eq!(hex(&bytes), format!("{length}{expected}"), "{name}");
            if event["body"]["kind"] == "object" {
                // A body of base64 in place of an object, which those wrappers cannot take.
                let mut ours: Value = serde_json::from_str(&line).unwrap();
                let text = base64_text(ours["body"].as_str().unwrap());
                let expected: Value = serde_json::from_str(case["json_ascii"].as_str().unwrap()).unwrap();
                assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected["body"]);
                ours["body"] = expected["body"].clone();
                assert_eq!(ours, expected, "{name}");
                continue;
            }
            assert_eq!(line.trim_end(), case["json_ascii"].as_str().unwrap(), "{name}");
        } else {
            assert_eq!(bytes.len() as u64 - 4, case["msgpack_compact_length"].as_u64().unwrap(), "{name}");
            match (sha256(&bytes[4..]), sha256(line.as_bytes())) {
                (Some(payload), Some(json)) => {
                    assert_eq!(payload, case["msgpack_compact_sha256"].as_str().unwrap(), "{name}");
                    assert_eq!(json, case["json_ascii_sha256"].as_str().unwrap(), "{name}");
                }
                _ => println!("skipped: no sha256sum"),
            }
        }
    }
}

fn base64_text(text: &str) -> String {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn batches_are_written_byte_for_byte_as_the_vectors_say() {
    let mut frame = Frame::default();
    for case in cases("batches") {
        let events = case["events"].as_array().unwrap();
        let parts: Vec<Parts> = events.iter().map(Parts::of).collect();
        let views = || -> Vec<View<'_>> {
            parts.iter().zip(events).map(|(parts, event)| parts.view(event)).collect()
        };
        frame.write_batch(Encoding::MsgPack, &views());
        let bodies: Vec<_> = parts.iter().map(|parts| &parts.body).collect();
        let expected = format!(
            "{}{}",
            case["msgpack_compact_frame_length_hex"].as_str().unwrap(),
            case["msgpack_compact_hex"].as_str().unwrap()
        );
        assert_eq!(hex(&whole(&frame, &bodies)), expected, "{}", case["name"]);
        frame.write_batch(Encoding::Json, &views());
        let line = String::from_utf8(frame.rest().to_vec()).unwrap();
        assert_eq!(line.trim_end(), case["json_ascii"].as_str().unwrap(), "{}", case["name"]);
    }
}

#[test]
fn the_events_of_the_transcripts_are_written_byte_for_byte() {
    let mut seen = 0;
    for case in cases("transcripts") {
        for step in case["steps"].as_array().unwrap() {
            let Some(expected) = step["hex"].as_str().filter(|hex| hex.len() > 8) else { continue };
            let event = serde_json::json!({
                "content_type": "text/plain", "trigger": {"kind": "http", "name": "default-http"}, "fields": {},
                "headers": {"Content-Type": "text/plain", "X-Case": "echo"}, "id": "id-1", "method": "POST",
                "path": "/", "url": "", "timestamp": 1_735_689_600, "shard_id": -1, "num_shards": 0, "offset": 0,
                "topic": "", "type": "", "type_version": "", "version": "", "body": {"kind": "bytes", "utf8": "hi"},
            });
            let parts = Parts::of(&event);
            let mut frame = Frame::default();
            frame.write(Encoding::MsgPack, &parts.view(&event));
            assert_eq!(hex(&whole(&frame, &[&parts.body])), expected, "{}", case["name"]);
            seen += 1;
        }
    }
    assert!(seen >= 3);
}

/// The bytes of a line, given as text or in hexadecimal.
fn line_of(case: &Value) -> Vec<u8> {
    case["line_hex"].as_str().map_or_else(|| case["line"].as_str().unwrap().as_bytes().to_vec(), unhex)
}

#[test]
fn answers_are_decoded_as_the_vectors_say() {
    for case in cases("responses") {
        let name = case["name"].as_str().unwrap();
        let line = line_of(&case);
        let (false, Line::Answer(json)) = parse(&line) else { panic!("{name}: not an answer") };
        let read = read_answers(json);
        match case["reference"]["outcome"].as_str().unwrap() {
            "error" if name.starts_with("base64-") => {
                let answer = read.unwrap().single().unwrap();
                assert!(answer.body.unwrap_err().contains("base64"), "{name}");
            }
            "error" => assert!(read.is_err(), "{name}: {read:?}"),
            "panic" => {
                let text = read.unwrap().single().unwrap_err();
                if let Some(expected) = case["ours"]["body"].as_str().filter(|text| *text != "any") {
                    assert_eq!(text, expected, "{name}");
                }
            }
            _ => compare_answers(&case, name, read.unwrap()),
        }
    }
}

fn compare_answers(case: &Value, name: &str, read: Answers) {
    let answers: Vec<_> = match read {
        Answers::One(answer) => vec![*answer],
        Answers::List(answers) => answers.into_iter().map(Option::unwrap).collect(),
    };
    let expected = case["reference"]["results"].as_array().unwrap();
    assert_eq!(answers.len(), expected.len(), "{name}");
    for (answer, expected) in answers.iter().zip(expected) {
        assert_eq!(answer.status, expected["status_code"].as_i64().unwrap(), "{name}");
        assert_eq!(answer.event_id, expected["event_id"].as_str().unwrap(), "{name}");
        let content_type = answer.content_type.as_ref().map_or("", |value| value.to_str().unwrap());
        assert_eq!(content_type, expected["content_type"].as_str().unwrap(), "{name}");
        if name == "batch-base64-error-overwritten" && answer.event_id == "i1" {
            assert!(answer.body.is_err(), "{name}");
        } else if let Some(error) = expected["error"].as_str() {
            assert_eq!(answer.body.as_ref().unwrap_err(), error, "{name}");
        } else {
            let text = expected["body_utf8"].as_str().map(|text| text.as_bytes().to_vec());
            let body = text.unwrap_or_else(|| unhex(expected["body_hex"].as_str().unwrap()));
            assert_eq!(answer.body.as_ref().unwrap()[..], body[..], "{name}");
        }
    }
    let ours = case.get("ours").and_then(|ours| ours.get("headers"));
    if let Some(headers) = ours.or_else(|| case.get("http").and_then(|http| http.get("headers"))) {
        for (header, value) in headers.as_object().unwrap() {
            assert_eq!(answers[0].headers[&header.to_lowercase()], value.as_str().unwrap(), "{name}");
        }
    }
    let no_ack = case.get("ours").and_then(|ours| ours["no_ack"].as_bool()).unwrap_or_default();
    assert_eq!(answers[0].no_ack, no_ack, "{name}");
    assert!(!answers[0].headers.contains_key("x-nuclio-stream-no-ack"), "{name}");
}

#[test]
fn other_lines_are_decoded_as_the_vectors_say() {
    for case in cases("lines") {
        let (name, bytes) = (&case["name"], line_of(&case));
        let (glued, line) = parse(&bytes);
        assert_eq!(glued, name == "dotnet-initialized", "{name}");
        match (case["expect"]["kind"].as_str().unwrap(), line) {
            ("start", Line::Start) => {}
            ("metric", Line::Metric(json)) => {
                assert_eq!(read_metric(json).ok(), case["expect"]["duration_seconds"].as_f64(), "{name}");
            }
            ("log", Line::Log(json)) => {
                let log = read_log(json).unwrap();
                let level = format!("{:?}", log.level).to_lowercase();
                assert_eq!(level, case["expect"]["level"].as_str().unwrap(), "{name}");
                assert_eq!(log.message, case["expect"]["message"].as_str().unwrap(), "{name}");
                assert_eq!(Value::Object(log.fields), case["expect"]["with"], "{name}");
            }
            ("ignored", Line::Metric(_)) if glued => {}
            ("ignored", Line::Metric(json)) => {
                assert_eq!(read_metric(json).err(), case["expect"]["log"].as_str(), "{name}");
            }
            ("ignored", Line::Log(json)) => assert!(read_log(json).is_none(), "{name}"),
            ("ignored", Line::Empty | Line::Unknown) => {}
            (kind, line) => panic!("{name}: {line:?} instead of {kind}"),
        }
    }
}

#[test]
fn control_messages_are_decoded_as_the_vectors_say() {
    for case in cases("control") {
        let name = case["name"].as_str().unwrap();
        let expect = case.get("ours").unwrap_or(&case["expect"]);
        match (read_control(case["line"].as_str().unwrap().as_bytes()), expect["outcome"].as_str().unwrap()) {
            (Ok(Control::Ready | Control::Other), "no-subscriber") => {
                assert!(matches!(name, "initialized" | "unknown-kind"));
            }
            (Ok(Control::Ack { topic, partition, offset }), "ack") => {
                assert_eq!(topic, expect["topic"].as_str().unwrap(), "{name}");
                assert_eq!(i64::from(partition), expect["partition"].as_i64().unwrap(), "{name}");
                assert_eq!(offset, expect["offset"].as_i64().unwrap(), "{name}");
            }
            (Err(ControlError::Attributes), "bad-attributes") | (Err(ControlError::Json), "bad-json") => {}
            (found, outcome) => panic!("{name}: {found:?} instead of {outcome}"),
        }
    }
    assert_eq!(read_control(br#"{"kind": "drain", "attributes": {"workerId": "0"}}"#), Ok(Control::Drained));
    let log = br#"{"kind": "log", "attributes": {"level": "warning", "message": "m", "with": {"a": 1}}}"#;
    let Ok(Control::Log(log)) = read_control(log) else { panic!("not a log record") };
    assert_eq!((format!("{:?}", log.level), &log.message[..]), ("Warn".to_owned(), "m"));
}

#[tokio::test]
async fn lines_are_found_however_the_reads_are_cut() {
    use tokio::io::AsyncWriteExt as _;

    for case in cases("streams") {
        let name = case["name"].as_str().unwrap();
        let (mut ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let chunks: Vec<Vec<u8>> = case["chunks_hex"]
            .as_array()
            .unwrap()
            .iter()
            .map(|chunk| unhex(chunk.as_str().unwrap()))
            .collect();
        let (mut lines, mut found) = (Lines::new(16, 1 << 20), Vec::new());
        for chunk in chunks.iter().map(Some).chain([None]) {
            match chunk {
                Some(chunk) => theirs.write_all(chunk).await.unwrap(),
                None => theirs.shutdown().await.unwrap(),
            }
            // Whatever one write brings may take several reads.
            let mut left = chunk.map_or(1, Vec::len);
            while left > 0 {
                let read = std::future::poll_fn(|cx| lines.poll_fill(cx, &mut ours)).await.unwrap();
                if read == 0 {
                    found.push(("eof", String::new()));
                    break;
                }
                left -= read;
                while let Some(line) = lines.next_line().unwrap() {
                    found.push(match parse(line).1 {
                        Line::Answer(json) => {
                            let body = read_answers(json).unwrap().single().unwrap().body.unwrap();
                            ("answer", String::from_utf8(body.to_vec()).unwrap())
                        }
                        Line::Log(json) => ("log", read_log(json).unwrap().message),
                        Line::Metric(_) => ("metric", String::new()),
                        other => panic!("{name}: {other:?}"),
                    });
                }
            }
        }
        let mut expected: Vec<(&str, String)> = Vec::new();
        for item in case["expect"].as_array().unwrap() {
            let kind = item["kind"].as_str().unwrap();
            // Whether an event is in work is not for the reader to say.
            let kind = if kind == "unexpected-answer" { "answer" } else { kind };
            let text = item["body"].as_str().or(item["message"].as_str()).unwrap_or_default();
            let text = if item["kind"] == "unexpected-answer" { "x" } else { text };
            expected.push((kind, text.to_owned()));
        }
        if expected.last().is_none_or(|(kind, _)| *kind != "eof") {
            assert_eq!(found.pop().unwrap().0, "eof", "{name}");
        }
        assert_eq!(found, expected, "{name}");
    }
}
