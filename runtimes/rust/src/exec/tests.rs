//! Frames in every way they can come, and what becomes of them while an event is in work.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use super::event::{Slot, Trigger};
use super::frames::{ABORT, END, Fault, Frame, Reader, Writer, kind};
use super::input::{Input, Shared};
use crate::abi;

fn frame(kind: u8, flags: u8, code: u16, id: u32, head: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = ((head.len() + body.len()) as u32).to_le_bytes().to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(code.to_le_bytes());
    bytes.extend(id.to_le_bytes());
    bytes.extend((head.len() as u32).to_le_bytes());
    [&bytes, head, body].concat()
}

/// The event of the protocol's description: POST `/a?x=1` with two headers and a field.
fn event(id: u32) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend(1_735_689_600_000_000_i64.to_le_bytes());
    head.extend(0_i64.to_le_bytes());
    head.extend((-1_i32).to_le_bytes());
    head.extend(0_i32.to_le_bytes());
    head.extend(5000_u32.to_le_bytes());
    head.extend(2_u16.to_le_bytes());
    head.extend(1_u16.to_le_bytes());
    head.extend(b"e1\0POST\0/a\0x=1\0\0text/plain\0\0\0\0\0\0\0Content-Type\0text/plain\0Host\0f\0x\x001");
    frame(kind::EVENT, 0, 0, id, &head, b"hello")
}

/// What a connection of the shim shares, and the processor's end of it.
fn shared() -> (Shared, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let writer = Writer::new(ours.try_clone().unwrap());
    let input = Mutex::new(Input::new(Reader::new(ours)));
    (Shared { input, writer: Mutex::new(writer), level: 0, cancelled: AtomicI32::new(0) }, theirs)
}

fn loaded(frame: Frame) -> Result<Box<Slot>, Fault> {
    let trigger = Trigger { class: "sync".into(), kind: "http".into(), name: "web".into() };
    let mut slot = Box::<Slot>::default();
    slot.load(frame, Vec::leak(vec![trigger]), 1_000).map(|()| slot)
}

#[expect(unsafe_code, reason = "looks at what a handler would see")]
fn text(text: abi::Str) -> String {
    // SAFETY: the slot that holds it is still there.
    String::from_utf8(unsafe { text.bytes() }.to_vec()).unwrap()
}

#[test]
fn an_event_cut_anywhere_arrives_whole() {
    let bytes = event(7);
    for cut in 1..bytes.len() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut reader = Reader::new(ours);
        theirs.write_all(&bytes[..cut]).unwrap();
        assert!(reader.next(false).unwrap().is_none(), "{cut}");
        theirs.write_all(&bytes[cut..]).unwrap();
        let slot = loaded(reader.next(true).unwrap().unwrap()).unwrap();
        let raw = &slot.raw;
        let texts = [raw.id, raw.method, raw.path, raw.query, raw.content_type, raw.body, raw.trigger_kind];
        assert_eq!(texts.map(text), ["e1", "POST", "/a", "x=1", "text/plain", "hello", "http"]);
        assert_eq!((raw.headers.len, slot.fields().len), (2, 1));
        assert_eq!((raw.timestamp_ns, raw.deadline_ns), (1_735_689_600_000_000_000, 5_000_001_000));
        assert_eq!(slot.header(b"content-TYPE").map(text).as_deref(), Some("text/plain"));
    }
}

#[test]
fn many_events_in_one_read_and_one_larger_than_the_buffer_come_in_order() {
    let (shared, mut theirs) = shared();
    let large = frame(kind::EVENT, 0, 0, 11, &[0; 44], &vec![b'x'; 300_000]);
    let mut bytes: Vec<u8> = (1..=10).flat_map(event).collect();
    bytes.extend(large);
    bytes.extend(frame(kind::CONTROL, 0, 3, 12, &[0; 4], b""));
    let sender = std::thread::spawn(move || theirs.write_all(&bytes));
    for id in 1..=12 {
        let (frame, cancelled) = shared.work().unwrap();
        assert_eq!((frame.id, cancelled), (id, 0));
        assert_eq!(frame.body().len(), [5, 300_000, 0][usize::from(id > 10) + usize::from(id > 11)]);
    }
    sender.join().unwrap().unwrap();
    assert!(matches!(shared.work(), Err(Fault::End)));
}

#[test]
fn heads_that_lie_and_typed_items_that_are_cut_are_faults() {
    let whole = event(1);
    for cut in 16..whole.len() - 5 {
        let head = &whole[16..cut];
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&frame(kind::EVENT, 0, 0, 1, head, b"")).unwrap();
        let found = loaded(Reader::new(ours).next(true).unwrap().unwrap());
        // A last text may be shorter than it was.
        let complete = head.len() > 32 && head[32..].iter().filter(|byte| **byte == 0).count() == 17;
        assert_eq!(found.is_ok(), complete, "{cut}");
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&frame(kind::EVENT, 0x20, 0, 1, head, b"")).unwrap();
        assert!(loaded(Reader::new(ours).next(true).unwrap().unwrap()).is_err(), "{cut}, typed");
    }
}

#[test]
fn typed_values_become_their_json() {
    let item = |kind: u8, bytes: &[u8]| [&[kind][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let mut head = event(1)[16..48].to_vec();
    head[28..32].copy_from_slice(&[3, 0, 0, 0]);
    (0..12).for_each(|_| head.extend(item(b's', b"a\0b")));
    let list = [item(b'i', &7_i64.to_le_bytes()), item(b't', &[1]), item(b'n', &[])].concat();
    for (kind, bytes) in
        [(b'i', 7_i64.to_le_bytes().to_vec()), (b'l', list), (b'f', 1.5_f64.to_le_bytes().to_vec())]
    {
        head.extend(item(b's', b"name"));
        head.extend(item(kind, &bytes));
    }
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&frame(kind::EVENT, 0x20, 0, 1, &head, b"")).unwrap();
    let slot = loaded(Reader::new(ours).next(true).unwrap().unwrap()).unwrap();
    assert_eq!(text(slot.raw.path), "a\0b");
    assert_eq!(slot.header(b"NAME").map(text).as_deref(), Some("7"));
    assert_eq!(slot.raw.headers.len, 3);
}

#[test]
fn impossible_headers_and_unknown_kinds_are_faults_unless_they_may_be_skipped() {
    for bytes in [
        frame(0x83, 0, 0, 1, b"", b""),
        frame(0x7f, 0, 0, 1, b"", b"x"),
        [&[1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0], &[2, 0, 0, 0][..]].concat(),
        [&u32::MAX.to_le_bytes()[..], &[2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]].concat(),
    ] {
        let (shared, mut theirs) = shared();
        theirs.write_all(&bytes).unwrap();
        assert!(matches!(shared.work(), Err(Fault::Protocol(_))), "{bytes:x?}");
    }
    let (shared, mut theirs) = shared();
    theirs.write_all(&[frame(0x7f, 0x80, 0, 1, b"", b"x"), event(3)].concat()).unwrap();
    assert_eq!(shared.work().unwrap().0.id, 3);
}

#[test]
fn a_cancel_reaches_the_event_in_work_and_one_that_waits_and_no_other() {
    let (shared, mut theirs) = shared();
    shared.open(1, 0, false, 0);
    let cancel = |id| frame(kind::CANCEL, 0, 1, id, b"", b"");
    theirs.write_all(&[event(2), cancel(2), cancel(9)].concat()).unwrap();
    shared.look();
    assert_eq!(shared.cancelled.load(Ordering::Relaxed), 0);
    theirs.write_all(&cancel(1)).unwrap();
    shared.look();
    assert_eq!(shared.cancelled.load(Ordering::Relaxed), 1);
    shared.close();
    let (next, cancelled) = shared.work().unwrap();
    assert_eq!((next.id, cancelled), (2, 1));
}

#[test]
fn a_stream_sends_within_its_credit_and_stops_with_its_client() {
    let (shared, mut theirs) = shared();
    shared.open(1, 100, false, 0);
    assert_eq!((shared.credit(60), shared.credit(60)), (Some(60), Some(40)));
    theirs.write_all(&frame(kind::CREDIT, 0, 0, 1, &7_u32.to_le_bytes(), b"")).unwrap();
    assert_eq!(shared.credit(60), Some(7));
    drop(theirs);
    assert_eq!(shared.credit(60), None);
}

#[test]
fn a_body_is_asked_for_read_in_pieces_and_ends_or_breaks_off() {
    let (shared, mut theirs) = shared();
    shared.open(1, 0, true, 0);
    let data = |flags, body: &[u8]| frame(kind::BODY, flags, 0, 1, b"", body);
    theirs.write_all(&[data(0, b"abcde"), data(END, b"f")].concat()).unwrap();
    let mut buffer = [0; 3];
    let mut read = Vec::<u8>::new();
    while let Some(bytes) = shared.read_body(&mut buffer).unwrap() {
        read.extend(&buffer[..bytes]);
    }
    assert_eq!(read, b"abcdef");
    let mut asked = [0; 20];
    theirs.read_exact(&mut asked).unwrap();
    assert_eq!((asked[4], &asked[16..]), (kind::BODY_CREDIT, &[0; 4][..]), "wanted, before anything is read");
    shared.open(1, 0, true, 0);
    theirs.write_all(&data(ABORT, b"the client left")).unwrap();
    assert!(shared.read_body(&mut buffer).is_err());
}
