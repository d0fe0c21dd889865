//! Shim protocol, version 2: 16-byte little-endian frame headers, NUL-separated texts, raw bodies. The page
//! `runtimes/README.md` has the whole protocol; this file has what the processor writes and reads.

mod table;
pub mod web;

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
use memchr::memmem;

use crate::config::Level;
use crate::event::{Event, Extra, HeaderFault, OwnValue, append_header, header_value};

use self::table::Table;

/// The shim's first bytes.
pub const MAGIC: [u8; 4] = *b"NSH2";
/// The only version we speak.
pub const VERSION: u16 = 2;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 16;
/// Most bytes of a frame after its header.
pub const FRAME_BYTES_MAX: u32 = 1 << 30;
/// Bytes of a stream that may be under way without a CREDIT.
pub const CREDIT_BYTES: u32 = 256 << 10;

/// Frame kinds. Bit 7: shim to processor.
pub mod kind {
    #![allow(missing_docs, reason = "the names are those of the protocol page")]
    pub const INIT: u8 = 0x01;
    pub const EVENT: u8 = 0x02;
    pub const DATA_IN: u8 = 0x03;
    pub const CREDIT_OUT: u8 = 0x04;
    pub const CANCEL: u8 = 0x05;
    pub const CONTROL: u8 = 0x06;
    pub const CALL_ANSWER: u8 = 0x07;
    pub const HELLO: u8 = 0x81;
    pub const READY: u8 = 0x82;
    pub const ANSWER: u8 = 0x83;
    pub const DATA: u8 = 0x84;
    pub const CREDIT_IN: u8 = 0x85;
    pub const LOG: u8 = 0x86;
    pub const CONTROL_DONE: u8 = 0x87;
    pub const ACK: u8 = 0x88;
    pub const CALL: u8 = 0x89;
    pub const METRIC: u8 = 0x8a;
    pub const PONG: u8 = 0x8b;
    pub const FAILED: u8 = 0x8f;
}

/// In the place of a head's length, beside it: see [`Header::apart`].
const APART: u32 = 1 << 31;

/// Any frame: skip it if its kind is unknown.
const FLAG_OPTIONAL: u8 = 0x80;

/// EVENT flags.
mod event_flag {
    pub(super) const MORE: u8 = 0x01;
    pub(super) const NO_BODY: u8 = 0x02;
    pub(super) const BODY_JSON: u8 = 0x04;
    pub(super) const BATCH: u8 = 0x08;
    pub(super) const BATCH_END: u8 = 0x10;
    pub(super) const TYPED: u8 = 0x20;
    pub(super) const NOT_UTF8: u8 = 0x40;
}

/// ANSWER flags.
mod answer_flag {
    pub(super) const MORE: u8 = 0x01;
    pub(super) const FAILED: u8 = 0x02;
    pub(super) const NO_ACK: u8 = 0x04;
    pub(super) const NONE: u8 = 0x08;
    pub(super) const CANCELLED: u8 = 0x10;
}

/// Last piece of a stream.
pub const DATA_END: u8 = 0x01;
/// The stream ends here because something failed; the payload says what.
pub const DATA_ABORT: u8 = 0x02;

/// Of a CANCEL: the deadline has not passed; its trigger took the event back. Shims may take one for the other.
pub const CANCEL_TAKEN_BACK: u8 = 0x01;

/// Why CANCEL is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// Nobody waits for the answer any more.
    ClientGone = 1,
    /// The event's deadline passed.
    Deadline = 2,
    /// The processor stops.
    Shutdown = 3,
    /// Its trigger has something newer. On the wire it is a deadline that has passed, with [`CANCEL_TAKEN_BACK`].
    TakenBack = 4,
}

impl CancelReason {
    /// Code and flags of the frame.
    fn wire(self) -> (u16, u8) {
        match self {
            Self::TakenBack => (Self::Deadline as u16, CANCEL_TAKEN_BACK),
            other => (other as u16, 0),
        }
    }
}

/// What the other side did wrong. The worker that did it is replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Not `NSH2`.
    #[error("the shim's first bytes are {0:02x?}, not NSH2: this is no shim of protocol 2")]
    Magic([u8; 4]),
    /// A header that cannot be.
    #[error("impossible frame header {0:02x?}")]
    Header([u8; HEADER_BYTES]),
    /// A kind we do not know and may not skip.
    #[error("unknown frame kind {0:#04x}")]
    Kind(u8),
    /// A kind that has no place here.
    #[error("frame kind {0:#04x} is not allowed now")]
    Unexpected(u8),
    /// A payload that does not decode.
    #[error("frame of kind {kind:#04x} is malformed: {what}")]
    Payload {
        /// Of the frame.
        kind: u8,
        /// What is wrong.
        what: &'static str,
    },
    /// An answer to an event that is not open.
    #[error("answer to event {0}, which is not open")]
    UnknownEvent(u32),
    /// More of a streamed answer than the shim had credit for.
    #[error("the shim sent more of a streamed answer than its credit allows")]
    Credit,
    /// It said itself that it cannot go on.
    #[error("the shim cannot go on: {0}")]
    Failed(String),
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// Bytes after the header.
    pub size: u32,
    /// See [`kind`].
    pub kind: u8,
    /// Per kind.
    pub flags: u8,
    /// Per kind.
    pub code: u16,
    /// Event, control or call; 0 none.
    pub id: u32,
    /// First bytes of the payload that are not the body.
    pub head: u32,
    /// The body does not follow: it goes over the socket, while frames go through a pipe.
    pub apart: bool,
}

impl Header {
    /// Reads a header that a shim wrote.
    ///
    /// # Errors
    /// Sizes that contradict each other or the limit, and frames that only the processor sends.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, ProtocolError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let header = Self {
            size: u32_at(0),
            kind: bytes[4],
            flags: bytes[5],
            code: u16::from_le_bytes([bytes[6], bytes[7]]),
            id: u32_at(8),
            head: u32_at(12) & !APART,
            apart: u32_at(12) & APART != 0,
        };
        if header.head > header.size || header.size > FRAME_BYTES_MAX || header.kind & 0x80 == 0 {
            return Err(ProtocolError::Header(bytes));
        }
        Ok(header)
    }

    /// The header as it goes over the wire.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&self.size.to_le_bytes());
        out[4] = self.kind;
        out[5] = self.flags;
        out[6..8].copy_from_slice(&self.code.to_le_bytes());
        out[8..12].copy_from_slice(&self.id.to_le_bytes());
        out[12..16].copy_from_slice(&(self.head | if self.apart { APART } else { 0 }).to_le_bytes());
        out
    }

    /// Bytes of the payload that follow the header.
    pub fn inline(self) -> usize {
        if self.apart { self.head as usize } else { self.size as usize }
    }

    /// Whether a reader that does not know the kind may skip the frame.
    pub fn optional(self) -> bool {
        self.flags & FLAG_OPTIONAL != 0
    }
}

/// Appends one frame.
pub fn write_frame(out: &mut Vec<u8>, kind: u8, code: u16, id: u32, head: &[u8], body: &[u8]) {
    let header = Header {
        size: (head.len() + body.len()) as u32,
        kind,
        code,
        id,
        head: head.len() as u32,
        ..Header::default()
    };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(head);
    out.extend_from_slice(body);
}

/// Appends INIT.
pub fn write_init<'a>(out: &mut Vec<u8>, pairs: impl IntoIterator<Item = (&'a str, String)>) {
    let mut head = Vec::new();
    for (name, value) in pairs {
        push_text(&mut head, name.as_bytes());
        // A NUL would end the text early and shift every pair after it.
        push_text(&mut head, value.replace('\0', "").as_bytes());
    }
    head.pop();
    write_frame(out, kind::INIT, VERSION, 0, &head, &[]);
}

/// Appends CANCEL.
pub fn write_cancel(out: &mut Vec<u8>, id: u32, reason: CancelReason) {
    let (code, flags) = reason.wire();
    let header = Header { kind: kind::CANCEL, flags, code, id, ..Header::default() };
    out.extend_from_slice(&header.encode());
}

/// Appends CREDIT for a stream of the shim.
pub fn write_credit(out: &mut Vec<u8>, id: u32, bytes: u32) {
    write_frame(out, kind::CREDIT_OUT, 0, id, &bytes.to_le_bytes(), &[]);
}

/// Appends the header of a DATA frame with `bytes` bytes of a request's body; the caller writes them right after it.
/// `flags`: [`DATA_END`], [`DATA_ABORT`] or none.
pub fn write_data(out: &mut Vec<u8>, id: u32, flags: u8, bytes: u32) {
    let header = Header { size: bytes, kind: kind::DATA_IN, flags, id, ..Header::default() };
    out.extend_from_slice(&header.encode());
}

/// What a CONTROL frame asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlCode {
    /// No more events for now; run the drain callback.
    Drain = 1,
    /// Events come again.
    Continue = 2,
    /// Run the termination callback, then end at end of file.
    Terminate = 3,
}

/// Appends CONTROL.
pub fn write_control(out: &mut Vec<u8>, id: u32, code: ControlCode, allowed: Duration) {
    let millis = u32::try_from(allowed.as_millis()).unwrap_or(u32::MAX);
    write_frame(out, kind::CONTROL, code as u16, id, &millis.to_le_bytes(), &[]);
}

fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// Bytes before the texts of an EVENT head.
const EVENT_FIXED_BYTES: usize = 32;

/// Appends the EVENT frame of `event` up to its body; the caller writes `event.body`'s pieces right after it.
/// `timeout` is what is left of its deadline.
pub fn write_event(out: &mut Vec<u8>, id: u32, event: &Event, timeout: Option<Duration>) {
    let start = out.len();
    out.resize(start + HEADER_BYTES + EVENT_FIXED_BYTES, 0);
    let plain = !event.path().contains(&0)
        && memmem::find(event.query().as_bytes(), b"%00").is_none()
        && !event.extra.as_deref().is_some_and(|extra| needs_types(event, extra));
    let mut table = Table { out, typed: !plain, utf8: true };
    let counts = write_texts(&mut table, event);
    let utf8 = table.utf8;
    if plain {
        out.pop(); // no NUL after the last text
    }

    fill_fixed(&mut out[start + HEADER_BYTES..], event, timeout, counts);
    let head = (out.len() - start - HEADER_BYTES) as u32;
    let header = Header {
        size: head + event.body.len() as u32,
        kind: kind::EVENT,
        flags: event_flags(event, plain, utf8),
        code: event.trigger.index & 0x0fff | event_level(event) << 12,
        id,
        head,
        apart: false,
    };
    out[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
}

/// The fixed part of an EVENT's head. `counts`: of headers and fields.
fn fill_fixed(fixed: &mut [u8], event: &Event, timeout: Option<Duration>, counts: (u16, u16)) {
    let extra = event.extra.as_deref();
    let timestamp = match event.timestamp.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_micros() as i64,
        Err(before) => -(before.duration().as_micros() as i64),
    };
    let millis = timeout.map_or(0, |left| u32::try_from(left.as_millis().max(1)).unwrap_or(u32::MAX));
    fixed[0..8].copy_from_slice(&timestamp.to_le_bytes());
    fixed[8..16].copy_from_slice(&extra.map_or(0, |extra| extra.offset).to_le_bytes());
    fixed[16..20].copy_from_slice(&extra.map_or(-1, |extra| extra.shard_id).to_le_bytes());
    fixed[20..24].copy_from_slice(&extra.map_or(0, |extra| extra.num_shards).to_le_bytes());
    fixed[24..28].copy_from_slice(&millis.to_le_bytes());
    fixed[28..30].copy_from_slice(&counts.0.to_le_bytes());
    fixed[30..32].copy_from_slice(&counts.1.to_le_bytes());
}

/// Makes of the EVENT frame that starts `frame` one of a batch, which ends with the `last`.
pub fn mark_batch(frame: &mut [u8], last: bool) {
    frame[5] |= if last { event_flag::BATCH | event_flag::BATCH_END } else { event_flag::BATCH };
}

/// Whether a text that others chose holds what separates texts, or some header is more than text.
fn needs_types(event: &Event, extra: &Extra) -> bool {
    let nul = |text: &str| text.contains('\0');
    // Method and URL are tokens over HTTP and anybody's text elsewhere.
    [event.id.as_str(), event.method(), event.url()].into_iter().any(nul)
        || extra.texts().any(nul)
        || extra.has_json_headers()
}

fn event_flags(event: &Event, plain: bool, utf8: bool) -> u8 {
    let mut flags = 0;
    for (set, flag) in [
        (event.body.stream.is_some(), event_flag::MORE),
        (!event.body.present, event_flag::NO_BODY),
        (event.extra.as_deref().is_some_and(|extra| extra.body_is_json), event_flag::BODY_JSON),
        (!plain, event_flag::TYPED),
        (!utf8, event_flag::NOT_UTF8),
    ] {
        if set {
            flags |= flag;
        }
    }
    flags
}

/// The level the event's caller asked for, plus one; 0: the worker's.
fn event_level(event: &Event) -> u16 {
    event.log_buffer.as_ref().map_or(0, |buffer| buffer.level() as u16 + 1)
}

/// The twelve texts, the headers, the fields. Returns how many headers and fields were written.
fn write_texts(table: &mut Table<'_>, event: &Event) -> (u16, u16) {
    let extra = event.extra.as_deref();
    let text = |pick: fn(&Extra) -> &str| extra.map_or("", pick).as_bytes();
    let (trigger_kind, trigger_name) =
        extra.and_then(|extra| extra.trigger.as_ref()).map_or(("", ""), |(kind, name)| (kind, name));
    table.push(event.id.as_bytes());
    table.push(event.method().as_bytes());
    table.push(event.path());
    table.push(event.query().as_bytes());
    table.push(event.url().as_bytes());
    table.push(event.content_type());
    table.push(text(|extra| &extra.topic));
    table.push(text(|extra| &extra.event_type));
    table.push(text(|extra| &extra.type_version));
    table.push(text(|extra| &extra.version));
    table.push(trigger_kind.as_bytes());
    table.push(trigger_name.as_bytes());
    (write_headers(table, event), write_fields(table, event))
}

/// Those the event brought itself, then its query's, which are decoded in their place.
fn write_fields(table: &mut Table<'_>, event: &Event) -> u16 {
    let mut fields = 0;
    for (name, value) in event.own_fields().iter().take(usize::from(u16::MAX)) {
        table.push(name.as_bytes());
        table.push(value.as_bytes());
        fields += 1;
    }
    for (name, value) in event.query_pairs().take(usize::from(u16::MAX - fields)) {
        table.push_encoded(name.as_bytes());
        table.push_encoded(value.as_bytes());
        fields += 1;
    }
    fields
}

fn write_headers(table: &mut Table<'_>, event: &Event) -> u16 {
    let mut headers = 0;
    if let Some(own) = event.own_headers() {
        for (name, value) in own.iter().take(usize::from(u16::MAX)) {
            table.push(name.as_bytes());
            match value {
                OwnValue::Text(text) => table.push(text.as_bytes()),
                OwnValue::Json { value, .. } => table.push_json(value),
            }
            headers += 1;
        }
        return headers;
    }
    for (name, value) in event.headers().take(usize::from(u16::MAX)) {
        table.push_name(name.as_str());
        table.push(value.as_bytes());
        headers += 1;
    }
    headers
}

/// A decoded ANSWER, without its body.
#[derive(Debug, Default)]
pub struct Answer {
    /// 0 means 200, or 500 with `failed`.
    pub status: u16,
    /// The body follows in DATA frames.
    pub more: bool,
    /// The handler failed; the body is the error text.
    pub failed: bool,
    /// Do not acknowledge.
    pub no_ack: bool,
    /// Batch member that the handler left out.
    pub none: bool,
    /// The event had been cancelled.
    pub cancelled: bool,
    /// As the shim measured it.
    pub duration: Duration,
    /// `None`: not set.
    pub content_type: Option<HeaderValue>,
    /// Legal headers.
    pub headers: HeaderMap,
    /// Illegal ones, which are dropped.
    pub dropped: Vec<(String, HeaderFault)>,
}

/// Decodes flags, code and head of an ANSWER.
///
/// # Errors
/// A head that is too short for what it announces.
pub fn read_answer(header: Header, head: &[u8]) -> Result<Answer, ProtocolError> {
    let fault = |what| ProtocolError::Payload { kind: kind::ANSWER, what };
    let Some((fixed, table)) = head.split_at_checked(8) else {
        return Err(fault("head shorter than 8 bytes"));
    };
    let micros = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
    let pairs = u16::from_le_bytes([fixed[4], fixed[5]]);
    let flag = |flag: u8| header.flags & flag != 0;
    let mut answer = Answer {
        status: header.code,
        more: flag(answer_flag::MORE),
        failed: flag(answer_flag::FAILED),
        no_ack: flag(answer_flag::NO_ACK),
        none: flag(answer_flag::NONE),
        cancelled: flag(answer_flag::CANCELLED),
        duration: Duration::from_micros(u64::from(micros)),
        ..Answer::default()
    };
    let mut texts = table.split(|byte| *byte == 0);
    let content_type = texts.next().unwrap_or_default();
    if !content_type.is_empty() {
        match known_content_type(content_type).map_or_else(|| header_value(content_type), Ok) {
            Ok(value) => answer.content_type = Some(value),
            Err(fault) => answer.dropped.push(("Content-Type".into(), fault)),
        }
    }
    for _ in 0..pairs {
        let (Some(name), Some(value)) = (texts.next(), texts.next()) else {
            return Err(fault("fewer texts than header pairs announced"));
        };
        if let Err(fault) = append_header(&mut answer.headers, name, value) {
            answer.dropped.push((String::from_utf8_lossy(name).into_owned(), fault));
        }
    }
    Ok(answer)
}

/// The common ones without an allocation.
fn known_content_type(text: &[u8]) -> Option<HeaderValue> {
    Some(HeaderValue::from_static(match text {
        b"text/plain" => "text/plain",
        b"application/json" => "application/json",
        b"text/html" => "text/html",
        _ => return None,
    }))
}

/// A decoded LOG.
#[derive(Debug, PartialEq, Eq)]
pub struct Log<'a> {
    /// Severity.
    pub level: Level,
    /// The message.
    pub message: std::borrow::Cow<'a, str>,
    /// JSON object of fields, or nothing.
    pub fields: &'a [u8],
}

/// Decodes a LOG.
///
/// # Errors
/// A head without its time.
pub fn read_log<'a>(header: Header, head: &'a [u8], body: &'a [u8]) -> Result<Log<'a>, ProtocolError> {
    let Some((_time, message)) = head.split_at_checked(8) else {
        return Err(ProtocolError::Payload { kind: kind::LOG, what: "head shorter than 8 bytes" });
    };
    let level = match header.code {
        0 => Level::Debug,
        1 => Level::Info,
        2 => Level::Warn,
        _ => Level::Error,
    };
    Ok(Log { level, message: String::from_utf8_lossy(message), fields: body })
}

/// A decoded HELLO or READY: pairs of texts.
pub fn read_pairs(head: &[u8]) -> Vec<(String, String)> {
    let mut texts = head.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    let mut pairs = Vec::new();
    while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
        pairs.push((name, value));
    }
    pairs
}

/// The text of a FAILED, wherever its shim put it.
pub fn read_failed(head: &[u8], body: &[u8]) -> String {
    String::from_utf8_lossy(&[head, body].concat()).into_owned()
}

/// The little-endian u32 at the start of a CREDIT's head.
///
/// # Errors
/// A shorter head.
pub fn read_credit(head: &[u8]) -> Result<u32, ProtocolError> {
    match head {
        [a, b, c, d, ..] => Ok(u32::from_le_bytes([*a, *b, *c, *d])),
        _ => Err(ProtocolError::Payload { kind: kind::CREDIT_IN, what: "head shorter than 4 bytes" }),
    }
}

#[cfg(test)]
mod tests;
