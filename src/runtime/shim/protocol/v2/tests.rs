//! The frames of the protocol page byte for byte, round trips, garbage.

use std::time::SystemTime;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::event::{EventBody, EventId, Target, TriggerInfo};

fn event(uri: &str, headers: &[(&'static str, &str)], body: &'static str) -> Event {
    let mut header_map = HeaderMap::new();
    for (name, value) in headers {
        header_map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    Event {
        id: EventId::Text("e1".into()),
        trigger: TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "web".into() }.forever(),
        timestamp: SystemTime::UNIX_EPOCH + Duration::from_micros(1_735_689_600_000_000),
        target: Target::Http { method: http::Method::POST, uri: uri.parse().unwrap(), path: None },
        header_map,
        body: EventBody::from(Bytes::from_static(body.as_bytes())),
        log_buffer: None,
        trace: None,
        extra: None,
        web: None,
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn an_event_taken_back_is_cancelled_as_one_past_its_deadline_with_a_flag() {
    for (reason, code, flags) in [
        (CancelReason::ClientGone, 1, 0),
        (CancelReason::Deadline, 2, 0),
        (CancelReason::TakenBack, 2, CANCEL_TAKEN_BACK),
    ] {
        let mut out = Vec::new();
        write_cancel(&mut out, 7, reason);
        let expected = Header { kind: kind::CANCEL, flags, code, id: 7, ..Header::default() };
        assert_eq!(out, expected.encode(), "{reason:?}");
    }
}

#[test]
fn the_event_of_the_protocol_page() {
    let event = event("/a?x=1", &[("content-type", "text/plain"), ("host", "f")], "hello");
    let mut out = Vec::new();
    write_event(&mut out, 7, &event, Some(Duration::from_secs(5)));
    event.body.pieces().for_each(|piece| out.extend_from_slice(piece));
    let expected = hex("
        68000000 02 00 0000 07000000 63000000
        00600cba992a0600  0000000000000000
        ffffffff 00000000 88130000 0200 0100
        6531 00 504f5354 00 2f61 00 783d31 00 00 746578742f706c61696e 00 00 00 00 00 00
        00 436f6e74656e742d54797065 00 746578742f706c61696e 00 486f7374 00 66
        00 78 00 31
        68656c6c6f");
    assert_eq!(out, expected);
}

#[test]
fn the_answer_of_the_protocol_page() {
    let bytes = hex(
        "1a000000 83 00 c900 07000000 18000000 5e010000 0100 0000 746578742f706c61696e 00 6831 00 7631 6f6b",
    );
    let header = Header::decode(bytes[..16].try_into().unwrap()).unwrap();
    assert_eq!((header.size, header.kind, header.id, header.head), (26, kind::ANSWER, 7, 24));
    assert_eq!(header.encode()[..], bytes[..16]);
    let answer = read_answer(header, &bytes[16..16 + 24]).unwrap();
    assert_eq!((answer.status, answer.duration), (201, Duration::from_micros(350)));
    assert_eq!(answer.content_type.unwrap(), "text/plain");
    assert_eq!(answer.headers["h1"], "v1");
}

#[test]
fn control_and_log_of_the_protocol_page() {
    let mut out = Vec::new();
    write_control(&mut out, 3, ControlCode::Drain, Duration::from_secs(10));
    assert_eq!(out, hex("04000000 06 00 0100 03000000 04000000 10270000"));
    let bytes = hex("14000000 86 00 0100 07000000 0d000000 40420eba992a0600 68656c6c6f 7b2261223a317d");
    let header = Header::decode(bytes[..16].try_into().unwrap()).unwrap();
    let log = read_log(header, &bytes[16..29], &bytes[29..]).unwrap();
    assert_eq!(log, Log { level: Level::Info, message: "hello".into(), fields: b"{\"a\":1}" });
}

#[test]
fn a_nul_in_the_path_makes_the_texts_typed() {
    let mut event = event("/x", &[], "");
    let Target::Http { path, .. } = &mut event.target else { unreachable!() };
    *path = Some(Box::from(&b"/a\0b"[..]));
    let mut out = Vec::new();
    write_event(&mut out, 1, &event, None);
    assert_eq!(out[5] & event_flag::TYPED, event_flag::TYPED);
    let items = &out[HEADER_BYTES + EVENT_FIXED_BYTES..];
    assert!(items.starts_with(b"s\x02\0\0\0e1s\x04\0\0\0POSTs\x04\0\0\0/a\0b"));
}

#[test]
fn texts_that_are_not_utf8_are_marked() {
    let mut event = event("/x", &[], "");
    event.header_map.insert("x-bad", HeaderValue::from_bytes(b"\xc0\xaf").unwrap());
    let mut out = Vec::new();
    write_event(&mut out, 1, &event, None);
    assert_eq!(out[5] & event_flag::NOT_UTF8, event_flag::NOT_UTF8);
}

#[test]
fn impossible_headers_are_refused() {
    let good = Header { size: 8, kind: kind::ANSWER, id: 1, head: 8, ..Header::default() };
    assert!(Header::decode(good.encode()).is_ok());
    for bad in [
        Header { head: 9, ..good },
        Header { size: FRAME_BYTES_MAX + 1, ..good },
        Header { kind: kind::EVENT, ..good },
    ] {
        assert!(matches!(Header::decode(bad.encode()), Err(ProtocolError::Header(_))), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn headers_survive_the_wire(size in 0..FRAME_BYTES_MAX, kind in 0x80u8.., flags: u8, code: u16, id: u32, cut: u32, apart: bool) {
        let header = Header { size, kind, flags, code, id, head: if size == 0 { 0 } else { cut % size }, apart };
        prop_assert_eq!(Header::decode(header.encode()), Ok(header));
    }

    #[test]
    fn garbage_never_panics(head: Vec<u8>, body: Vec<u8>, flags: u8, code: u16) {
        let header = Header { kind: kind::ANSWER, flags, code, id: 1, head: head.len() as u32, ..Header::default() };
        // Whatever comes out, decoding ends; what it says is checked elsewhere.
        drop(read_answer(header, &head));
        drop(read_log(header, &head, &body));
        drop(read_pairs(&head));
        drop(read_credit(&head));
    }

    #[test]
    fn every_event_has_as_many_texts_as_it_says(path in "/[a-z0-9]{0,9}", query in "[a-z=&%0-9+]{0,20}", value in "[ -~]{0,20}") {
        let event = event(&format!("{path}?{query}"), &[("x-v", value.trim())], "b");
        let mut out = Vec::new();
        write_event(&mut out, 1, &event, None);
        let header_count = u16::from_le_bytes([out[16 + 28], out[16 + 29]]);
        let field_count = u16::from_le_bytes([out[16 + 30], out[16 + 31]]);
        if out[5] & event_flag::TYPED == 0 {
            let texts = out[HEADER_BYTES + EVENT_FIXED_BYTES..].split(|byte| *byte == 0).count();
            prop_assert_eq!(texts, 12 + 2 * usize::from(header_count) + 2 * usize::from(field_count));
        }
    }
}

#[test]
fn headers_that_an_event_brought_keep_their_names() {
    let mut event = event("/", &[("x-http", "h")], "");
    let headers = Some(vec![("comExample".to_owned(), "v".to_owned().into())]);
    event.extra = Some(Box::new(Extra { headers, ..Extra::default() }));
    event.timestamp = SystemTime::UNIX_EPOCH - Duration::from_secs(62_135_596_800);
    let mut out = Vec::new();
    write_event(&mut out, 1, &event, None);
    assert!(out.ends_with(b"\0comExample\0v"));
    assert_eq!(out[16..24], (-62_135_596_800_000_000_i64).to_le_bytes());
    assert_eq!(out[44..46], 1_u16.to_le_bytes());
}

#[test]
fn a_nul_in_what_a_cloud_event_says_makes_the_texts_typed() {
    for extra in [
        Extra { event_type: "a\0b".to_owned(), ..Extra::default() },
        Extra { content_type: Some("a\0b".to_owned()), ..Extra::default() },
        Extra { trigger: Some(("a\0b".to_owned(), String::new())), ..Extra::default() },
        Extra { headers: Some(vec![("a\0b".to_owned(), String::new().into())]), ..Extra::default() },
    ] {
        let mut event = event("/", &[], "");
        event.extra = Some(Box::new(extra));
        let mut out = Vec::new();
        write_event(&mut out, 1, &event, None);
        assert_ne!(out[5] & event_flag::TYPED, 0);
        assert!(out.windows(8).any(|item| item == b"s\x03\0\0\0a\0b"));
    }
}

#[test]
fn headers_that_are_more_than_text_keep_their_types() {
    let mut event = event("/", &[], "");
    let value = serde_json::json!({"k": [null, true, -5, 1.5, "x"]});
    let headers = Some(vec![("h".to_owned(), OwnValue::from(&value))]);
    event.extra = Some(Box::new(Extra { headers, ..Extra::default() }));
    let mut out = Vec::new();
    write_event(&mut out, 1, &event, None);
    assert_ne!(out[5] & event_flag::TYPED, 0);
    let expected = hex("
        73 01000000 68
        6d 36000000  73 01000000 6b  6c 2b000000
            6e 00000000  74 01000000 01  69 08000000 fbffffffffffffff  66 08000000 000000000000f83f
            73 01000000 78");
    assert!(out.ends_with(&expected), "{out:x?}");
}
