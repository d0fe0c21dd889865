//! What the shim protocol costs: an event into bytes, an answer out of bytes, frames out of a socket. No shim and no
//! runtime of workers is involved.

use std::future::poll_fn;
use std::hint::black_box;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use nuclio_processor::event::{Event, EventBody, EventId, Target, TriggerInfo};
use nuclio_processor::runtime::shim::connection::{Reader, Writer};
use nuclio_processor::runtime::shim::protocol::v2::{self, HEADER_BYTES, Header, kind};
use nuclio_processor::runtime::shim::socket::Socket;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

/// Bytes of a body.
const BODY_BYTES: usize = 1024;
/// Frames of one round over the socket; they fit into its buffer.
const FRAMES: usize = 64;

fn event(headers: usize) -> Event {
    let mut header_map = HeaderMap::with_capacity(headers);
    for index in 0..headers {
        let name = HeaderName::from_bytes(format!("x-header-{index}").as_bytes()).expect("a token");
        header_map.insert(name, HeaderValue::from_static("a value of usual length"));
    }
    let trigger = TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "default-http".into() };
    Event {
        id: EventId::random(),
        trigger: trigger.forever(),
        timestamp: SystemTime::now(),
        target: Target::Http {
            method: Method::POST,
            uri: Uri::from_static("/some/path?a=1&b=two"),
            path: None,
        },
        header_map,
        body: EventBody::from(Bytes::from(vec![b'x'; BODY_BYTES])),
        log_buffer: None,
        trace: None,
        extra: None,
        web: None,
    }
}

fn encode_event(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode event, 1 KiB body");
    for headers in [0, 8, 20] {
        let event = event(headers);
        let mut writer = Writer::default();
        group.bench_function(BenchmarkId::new("headers", headers), |bencher| {
            bencher.iter(|| {
                writer.frames().clear();
                v2::write_event(writer.frames(), 7, black_box(&event), Some(Duration::from_secs(5)));
                writer.body(event.body.len(), event.body.pieces());
                black_box(writer.frames().len())
            });
        });
    }
    group.finish();
}

/// The head of an ANSWER: duration, pairs, content type, headers.
fn answer_head(headers: usize) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend_from_slice(&350u32.to_le_bytes());
    head.extend_from_slice(&(headers as u16).to_le_bytes());
    head.extend_from_slice(&[0, 0]);
    head.extend_from_slice(b"application/json");
    for index in 0..headers {
        head.extend_from_slice(format!("\0X-Header-{index}\0a value of usual length").as_bytes());
    }
    head
}

fn answer(headers: usize, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    v2::write_frame(&mut out, kind::ANSWER, 200, 7, &answer_head(headers), body);
    out
}

fn decode_answer(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode answer");
    for headers in [0, 8] {
        let bytes = answer(headers, &[]);
        let (header, head) = bytes.split_first_chunk::<HEADER_BYTES>().expect("a whole frame");
        group.bench_function(BenchmarkId::new("headers", headers), |bencher| {
            bencher.iter(|| {
                let header = Header::decode(black_box(*header)).expect("a frame of a shim");
                v2::read_answer(header, head).expect("a sound head")
            });
        });
    }
    group.finish();
}

/// Writes and reads a round of frames through a socket pair; `step` bytes per write.
async fn round(pair: &mut (UnixStream, Socket), reader: &mut Reader, bytes: &[u8], step: usize) {
    let (theirs, ours) = pair;
    let mut seen = 0;
    for piece in bytes.chunks(step) {
        theirs.write_all(piece).await.expect("the other end is ours");
        poll_fn(|cx| reader.poll_fill(cx, ours)).await.expect("the other end is ours");
        seen += whole_frames(reader);
    }
    while seen < FRAMES {
        poll_fn(|cx| reader.poll_fill(cx, ours)).await.expect("the other end is ours");
        seen += whole_frames(reader);
    }
}

fn whole_frames(reader: &mut Reader) -> usize {
    let mut seen = 0;
    while let Some(frame) = reader.next_frame().expect("sound frames") {
        black_box(frame.body.into_bytes());
        seen += 1;
    }
    seen
}

fn read_frames(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bytes = answer(2, &[b'x'; BODY_BYTES]).repeat(FRAMES);
    let frame_bytes = bytes.len() / FRAMES;
    let mut group = criterion.benchmark_group("read 64 frames with 1 KiB bodies from a socket");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for (name, step) in [
        ("sixteen in one write", 16 * frame_bytes),
        ("each in one write", frame_bytes),
        ("each cut in three", frame_bytes.div_ceil(3)),
    ] {
        let mut pair = {
            let _entered = runtime.enter();
            let (theirs, ours) = UnixStream::pair().expect("a socket pair");
            let ours = ours.into_std().expect("it was just made");
            (theirs, Socket::new(ours).expect("a socket that does not block"))
        };
        let mut reader = Reader::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(round(&mut pair, &mut reader, &bytes, step)));
        });
    }
    group.finish();
}

criterion_group!(benches, encode_event, decode_answer, read_frames);
criterion_main!(benches);
