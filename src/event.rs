//! The vocabulary: what came in ([`Event`]) and what goes back ([`Response`]). No I/O, no workers, no triggers.
//!
//! [`cloudevent`] makes of an event what it carries.
//!
//! An event owns its bytes, but copies none: an HTTP event keeps the parsed head as hyper made it and hands out
//! views of it. Everything an HTTP event leaves empty lives in [`Extra`], which most events do not have.

mod body;
pub mod cloudevent;
mod incoming;
mod recall;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use futures_core::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use crate::config::percent;
use crate::logging::{LogBuffer, Origin};
use crate::trace::EventTrace;
use crate::trace::context::{TRACEPARENT, TRACESTATE, write_hex};

pub use self::body::{BodyBudget, BodyPermit, EventBody};
pub use self::incoming::{BodyFault, BodyStream};
pub use self::recall::Recall;

/// Where an event comes from; one per trigger, and as long as the process there: events refer to it, and to count
/// their references would cost them more than a few texts that are never freed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerInfo {
    /// Place in the list of triggers given to shims.
    pub index: u16,
    /// `sync` or `async`.
    pub class: &'static str,
    /// `http`, `cron`, …
    pub kind: String,
    /// The trigger's id.
    pub name: String,
}

impl TriggerInfo {
    /// For events to refer to.
    pub fn forever(self) -> &'static Self {
        Box::leak(Box::new(self))
    }
}

/// Something that happened, on its way to a handler.
#[derive(Debug)]
pub struct Event {
    /// Unique text id: a random (version 4) UUID unless the event brought its own.
    pub id: EventId,
    /// Its trigger.
    pub trigger: &'static TriggerInfo,
    /// When it had arrived completely.
    pub timestamp: SystemTime,
    /// Method and target, as the trigger knows them.
    pub target: Target,
    /// Headers; names in lower case, repeats kept. [`Event::headers`] shows them as handlers see them.
    pub header_map: HeaderMap,
    /// The body.
    pub body: EventBody,
    /// Where the handler's log records go besides the processor's log, when the caller asked for them.
    pub log_buffer: Option<Arc<LogBuffer>>,
    /// Its place in its trace; `None`: tracing is off.
    pub trace: Option<Arc<EventTrace>>,
    /// What HTTP events leave empty.
    pub extra: Option<Box<Extra>>,
    /// What only web applications are told of a request; `None` for functions.
    pub web: Option<WebRequest>,
}

/// What a request is besides an event.
#[derive(Debug, Clone)]
pub struct WebRequest {
    /// Of its head.
    pub version: http::Version,
    /// Both ends of its connection, as `net` writes them.
    pub ends: Arc<str>,
}

/// Method and target of an event.
#[derive(Debug, Clone)]
pub enum Target {
    /// As hyper parsed them.
    Http {
        /// As sent, any token.
        method: Method,
        /// As sent.
        uri: Uri,
        /// The decoded, cleaned path where it differs from the one in `uri`. Any bytes.
        path: Option<Box<[u8]>>,
    },
    /// Given by a trigger that is not HTTP.
    Plain {
        /// May be empty.
        method: String,
        /// May be empty.
        path: String,
        /// May be empty.
        url: String,
    },
}

/// What only cloud events, streams and timers fill in.
#[derive(Debug, Default)]
pub struct Extra {
    /// Replaces the header `Content-Type`.
    pub content_type: Option<String>,
    /// Replaces the headers that handlers see; names stay as they are.
    pub headers: Option<Vec<(String, OwnValue)>>,
    /// Shown in front of the query arguments.
    pub fields: Vec<(String, String)>,
    /// Event type.
    pub event_type: String,
    /// Event type version.
    pub type_version: String,
    /// Version of the event format.
    pub version: String,
    /// Stream topic.
    pub topic: String,
    /// Stream offset.
    pub offset: i64,
    /// Stream shard; -1 for none.
    pub shard_id: i32,
    /// Number of shards.
    pub num_shards: i32,
    /// It says that it is the last of a batch.
    pub last_in_batch: bool,
    /// Replaces kind and name of the trigger (cloud events).
    pub trigger: Option<(String, String)>,
    /// The body is the JSON text of a structured cloud event's data.
    pub body_is_json: bool,
    /// Structured or binary cloud event.
    pub cloud: bool,
    /// Its trigger may take it back.
    pub recall: Option<Recall>,
}

impl Extra {
    /// Its texts that others chose, in which any character may stand.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let trigger = self.trigger.iter().flat_map(|(kind, name)| [kind, name]);
        let headers = self.headers.iter().flatten().flat_map(|(name, value)| [name, value.text()]);
        let fields = self.fields.iter().flat_map(|(name, value)| [name, value]);
        [&self.event_type, &self.type_version, &self.version, &self.topic]
            .into_iter()
            .chain(&self.content_type)
            .chain(trigger)
            .chain(headers)
            .chain(fields)
            .map(String::as_str)
    }

    /// Whether some header is more than text.
    pub fn has_json_headers(&self) -> bool {
        self.headers.iter().flatten().any(|(_, value)| matches!(value, OwnValue::Json { .. }))
    }
}

/// Value of a header that an event brought itself.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnValue {
    /// Text.
    Text(String),
    /// Anything else that JSON knows: handlers in scripting languages get what it means, others the text.
    Json {
        /// What it means.
        value: serde_json::Value,
        /// Its JSON.
        text: String,
    },
}

impl OwnValue {
    /// The value as text.
    pub fn text(&self) -> &String {
        let (Self::Text(text) | Self::Json { text, .. }) = self;
        text
    }
}

impl From<String> for OwnValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&serde_json::Value> for OwnValue {
    fn from(value: &serde_json::Value) -> Self {
        match value {
            serde_json::Value::String(text) => Self::Text(text.clone()),
            value => Self::Json { value: value.clone(), text: value.to_string() },
        }
    }
}

/// Text id of an event: a UUID kept in place, or a text of any length.
#[derive(Clone, PartialEq, Eq)]
pub enum EventId {
    /// Hyphenated lower-case UUID.
    Uuid([u8; 36]),
    /// Anything else.
    Text(Box<str>),
}

impl EventId {
    /// A fresh random (RFC 9562 version 4) UUID. Unique, not secret.
    pub fn random() -> Self {
        let high = fastrand::u64(..) & !0xf000 | 0x4000; // version
        let low = fastrand::u64(..) & !(0x3 << 62) | 0x2 << 62; // variant
        let mut text = [b'-'; 36];
        write_hex(high >> 32, &mut text[..8]);
        write_hex(high >> 16, &mut text[9..13]);
        write_hex(high, &mut text[14..18]);
        write_hex(low >> 48, &mut text[19..23]);
        write_hex(low, &mut text[24..]);
        Self::Uuid(text)
    }

    /// The bytes of the text.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Uuid(text) => text,
            Self::Text(text) => text.as_bytes(),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Uuid(text) => std::str::from_utf8(text).unwrap_or_default(),
            Self::Text(text) => text,
        }
    }
}

impl fmt::Debug for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Event {
    /// What is left of its headers once it has been handled: an empty map with the memory of a usual one.
    pub fn into_empty_headers(mut self: Box<Self>) -> HeaderMap {
        let mut headers = std::mem::take(&mut self.header_map);
        if headers.capacity() > KEPT_HEADERS_MAX {
            return HeaderMap::new();
        }
        headers.clear();
        headers
    }

    /// Makes it part of a trace: its handler finds the context in its headers, also where the event brought its own.
    /// A structured cloud event says of itself what its headers are.
    pub fn join(&mut self, trace: Arc<EventTrace>) {
        trace.stamp(&mut self.header_map);
        if let Some(extra) = self.extra.as_deref_mut().filter(|extra| !extra.cloud)
            && let Some(own) = &mut extra.headers
        {
            for (name, shown) in [(TRACEPARENT, "Traceparent"), (TRACESTATE, "Tracestate")] {
                own.retain(|(other, _)| !other.eq_ignore_ascii_case(shown));
                let value = self.header_map.get(name).and_then(|value| value.to_str().ok());
                own.extend(value.map(|value| (shown.to_owned(), OwnValue::from(value.to_owned()))));
            }
        }
        self.trace = Some(trace);
    }

    /// Its trigger's way to take it back, where it has one.
    pub fn recall(&self) -> Option<&Recall> {
        self.extra.as_deref()?.recall.as_ref()
    }

    /// Whether its trigger has taken it back.
    pub fn is_taken_back(&self) -> bool {
        self.recall().is_some_and(Recall::is_asked)
    }

    /// Where records about it belong.
    pub fn origin(&self) -> Origin<'_> {
        Origin { buffer: self.log_buffer.as_deref(), trace: self.trace.as_deref() }
    }

    /// Method; empty for triggers that have none.
    pub fn method(&self) -> &str {
        match &self.target {
            Target::Http { method, .. } => method.as_str(),
            Target::Plain { method, .. } => method,
        }
    }

    /// Decoded path, any bytes.
    pub fn path(&self) -> &[u8] {
        match &self.target {
            Target::Http { path: Some(path), .. } => path,
            Target::Http { uri, .. } => uri.path().as_bytes(),
            Target::Plain { path, .. } => path.as_bytes(),
        }
    }

    /// Raw query text after the question mark, or empty.
    pub fn query(&self) -> &str {
        match &self.target {
            Target::Http { uri, .. } => uri.query().unwrap_or_default(),
            Target::Plain { .. } => "",
        }
    }

    /// URL; empty over HTTP (compat: the Go processor leaves it empty).
    pub fn url(&self) -> &str {
        match &self.target {
            Target::Http { .. } => "",
            Target::Plain { url, .. } => url,
        }
    }

    /// Content type, or empty.
    pub fn content_type(&self) -> &[u8] {
        match self.extra.as_deref().and_then(|extra| extra.content_type.as_deref()) {
            Some(text) => text.as_bytes(),
            // The last of several wins, as everywhere in the header map that handlers see.
            None => self
                .header_map
                .get_all(header::CONTENT_TYPE)
                .iter()
                .next_back()
                .map_or(b"", HeaderValue::as_bytes),
        }
    }

    /// Class of the trigger. Cloud events come from another source than the trigger, whose class nobody knows.
    pub fn trigger_class(&self) -> &str {
        let replaced = self.extra.as_deref().is_some_and(|extra| extra.trigger.is_some());
        if replaced { "unsupported" } else { self.trigger.class }
    }

    /// Headers in place of those of HTTP, if the event brought its own; their names are shown as they are.
    pub fn own_headers(&self) -> Option<&[(String, OwnValue)]> {
        self.extra.as_deref()?.headers.as_deref()
    }

    /// Headers in order with repeats; write a name with [`write_canonical`] to show it as handlers know it.
    pub fn headers(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.header_map.iter()
    }

    /// Fields that the event brought itself, then query arguments, decoded, in order, repeats kept: split at `&`, the first `=` separates, `+` and `%XX` are
    /// decoded, bad escapes stay, a pair with empty name and value is dropped.
    pub fn fields(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
        let own = self.own_fields().iter();
        let own = own.map(|(name, value)| (name.clone().into_bytes(), value.clone().into_bytes()));
        let decode = |text: &str| percent::decode(text.as_bytes(), true);
        own.chain(self.query_pairs().map(move |(name, value)| (decode(name), decode(value))))
    }

    /// Fields that the event brought itself.
    pub fn own_fields(&self) -> &[(String, String)] {
        self.extra.as_deref().map_or(&[], |extra| &extra.fields)
    }

    /// Query arguments as [`Event::fields`] shows them, still encoded.
    pub fn query_pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let pairs = self.query().split('&').filter(|pair| !matches!(*pair, "" | "="));
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

/// Appends a lower-case header name in canonical form: first byte and the byte after each `-` in upper case
/// (`x-foo-bar` becomes `X-Foo-Bar`).
pub fn write_canonical(name: &str, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    let mut upper = true;
    for byte in &mut out[start..] {
        if upper {
            byte.make_ascii_uppercase();
        }
        upper = *byte == b'-';
    }
}

/// What a handler answered.
#[derive(Debug, Default)]
pub struct Response {
    /// 0 means 200.
    pub status: u16,
    /// Wins over a header of that name. `None`: the header, else the trigger's default for non-empty bodies.
    pub content_type: Option<HeaderValue>,
    /// Checked headers; see [`append_header`].
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// Do not acknowledge the stream message this answers.
    pub no_ack: bool,
}

/// Body of a response.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// All of them.
    Bytes(Bytes),
    /// Pieces as the handler makes them. What the stream holds (a worker, a plugin's memory) is given back when
    /// it is dropped. An error cuts the client's connection.
    Stream(Pin<Box<dyn Stream<Item = Result<Bytes, HandlerError>> + Send>>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Bytes(bytes) }
    }
}

/// Room for headers that is used again for those of the answer, and then for the connection's next request.
const KEPT_HEADERS_MAX: usize = 64;

/// Most headers of an answer; the map itself would panic at eight times as many.
const HEADERS_MAX: usize = 4096;

/// Appends one header of a handler's answer, mended as the trigger does it: line breaks in the value become blanks.
/// A name that is no HTTP token, a value with other control bytes, and what is too much are refused; the caller drops
/// them with a warning.
pub fn append_header(headers: &mut HeaderMap, name: &[u8], value: &[u8]) -> Result<(), HeaderFault> {
    let name = HeaderName::from_bytes(name).map_err(|_| HeaderFault::Name)?;
    let value = header_value(value)?;
    if headers.len() >= HEADERS_MAX {
        return Err(HeaderFault::TooMany);
    }
    headers.append(name, value);
    Ok(())
}

/// A header value from a handler's bytes, mended as in [`append_header`].
pub fn header_value(value: &[u8]) -> Result<HeaderValue, HeaderFault> {
    if value.contains(&b'\n') || value.contains(&b'\r') {
        let mended: Vec<u8> =
            value.iter().map(|b| if matches!(b, b'\r' | b'\n') { b' ' } else { *b }).collect();
        return HeaderValue::from_maybe_shared(Bytes::from(mended)).map_err(|_| HeaderFault::Value);
    }
    HeaderValue::from_bytes(value).map_err(|_| HeaderFault::Value)
}

/// Why a header of an answer was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Not an HTTP token.
    #[error("the name is not an HTTP token")]
    Name,
    /// Control bytes.
    #[error("the value holds control bytes")]
    Value,
    /// Beyond all reason.
    #[error("the answer has more than {HEADERS_MAX} headers")]
    TooMany,
}

/// Why there is no answer from the handler.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandlerError {
    /// The handler said so, or broke in a way that is contained to its event.
    #[error("{message}")]
    Failed {
        /// For the client.
        status: StatusCode,
        /// For the client.
        message: String,
    },
    /// Its deadline passed.
    #[error("handler timed out")]
    TimedOut,
    /// The worker died or broke the protocol while it had this event.
    #[error("{0}")]
    Lost(String),
    /// The runtime cannot do what was asked (batches).
    #[error("Not Implemented")]
    Unsupported,
}

impl HandlerError {
    /// A failure with status 500.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.into() }
    }
}

/// Which worker of which pool; names it in logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerId {
    /// Kind of the trigger that owns the pool; empty for a shared pool.
    pub trigger_kind: String,
    /// Trigger, or allocator of a shared pool.
    pub trigger_name: String,
    /// Place in the pool, from 0.
    pub index: usize,
}

/// When an event must be answered; `None`: no limit.
pub type Deadline = Option<Instant>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_version_4_uuids() {
        let (a, b) = (EventId::random(), EventId::random());
        assert_ne!(a, b);
        let text = a.as_str();
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'4');
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'));
        assert_eq!(text.matches('-').count(), 4);
    }

    #[test]
    fn canonical_names_follow_the_dashes() {
        for (name, expected) in
            [("x-foo-bar", "X-Foo-Bar"), ("etag", "Etag"), ("x_under", "X_under"), ("-lead", "-Lead")]
        {
            let mut out = Vec::new();
            write_canonical(name, &mut out);
            assert_eq!(out, expected.as_bytes());
        }
    }

    #[test]
    fn line_breaks_in_header_values_become_blanks() {
        let mut headers = HeaderMap::new();
        append_header(&mut headers, b"X-Nl", b"a\r\nb: c").unwrap();
        assert_eq!(headers["x-nl"], "a  b: c");
        assert_eq!(append_header(&mut headers, b"X-A\r\nB", b"v"), Err(HeaderFault::Name));
        assert_eq!(append_header(&mut headers, b"X-C", b"\x00"), Err(HeaderFault::Value));
    }
}
