//! [`Event`]: what came in. Borrows everything from the processor, copies nothing.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::abi;
use crate::export::Frame;
use crate::response::EventSlice;

/// Something that happened. All its bytes stay where the processor has them; they are valid during `handle`, and as
/// long as an answer made with [`Event::share`] is on its way.
#[derive(Clone, Copy)]
pub struct Event<'e> {
    frame: Frame<'e>,
}

/// Why an event needs no answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// Its deadline passed; the client has been answered.
    Deadline,
    /// The client left.
    ClientGone,
    /// The processor ends.
    Shutdown,
}

impl<'e> Event<'e> {
    pub(crate) fn new(frame: Frame<'e>) -> Self {
        Self { frame }
    }

    /// Unique id.
    pub fn id(&self) -> &'e str {
        text(self.frame.bytes(|event| event.id))
    }

    /// Method, for example `POST`; may be empty for triggers that have none.
    pub fn method(&self) -> &'e str {
        text(self.frame.bytes(|event| event.method))
    }

    /// Decoded path, any bytes.
    pub fn path(&self) -> &'e [u8] {
        self.frame.bytes(|event| event.path)
    }

    /// Decoded path; bytes that are no UTF-8 are replaced.
    pub fn path_text(&self) -> Cow<'e, str> {
        String::from_utf8_lossy(self.path())
    }

    /// Raw query text after the question mark.
    pub fn query(&self) -> &'e [u8] {
        self.frame.bytes(|event| event.query)
    }

    /// URL; empty over HTTP.
    pub fn url(&self) -> &'e [u8] {
        self.frame.bytes(|event| event.url)
    }

    /// Content type, or empty; also empty when it is no UTF-8.
    pub fn content_type(&self) -> &'e str {
        text(self.frame.bytes(|event| event.content_type))
    }

    /// `sync` or `async`.
    pub fn trigger_class(&self) -> &'e str {
        text(self.frame.bytes(|event| event.trigger_class))
    }

    /// `http`, `cron`, …
    pub fn trigger_kind(&self) -> &'e str {
        text(self.frame.bytes(|event| event.trigger_kind))
    }

    /// The trigger's name.
    pub fn trigger_name(&self) -> &'e str {
        text(self.frame.bytes(|event| event.trigger_name))
    }

    /// Type of a cloud event.
    pub fn event_type(&self) -> &'e str {
        text(self.frame.bytes(|event| event.type_))
    }

    /// Version of the type of a cloud event.
    pub fn type_version(&self) -> &'e str {
        text(self.frame.bytes(|event| event.type_version))
    }

    /// Version of the event format.
    pub fn version(&self) -> &'e str {
        text(self.frame.bytes(|event| event.version))
    }

    /// Stream topic.
    pub fn topic(&self) -> &'e str {
        text(self.frame.bytes(|event| event.topic))
    }

    /// The body.
    pub fn body(&self) -> &'e [u8] {
        self.frame.bytes(|event| event.body)
    }

    /// The body as a reader. For handlers with [`STREAMS_BODY`](crate::Handler::STREAMS_BODY), which get large bodies
    /// and those of unknown length while they arrive: [`Event::body`] is empty then, and reading waits for the client.
    pub fn reader(&self) -> BodyReader<'e> {
        BodyReader { frame: self.frame, here: self.body(), more: self.flag(abi::EVENT_MORE) != 0 }
    }

    /// Whether there was a body at all, empty or not.
    pub fn has_body(&self) -> bool {
        self.flag(abi::EVENT_NO_BODY) == 0
    }

    /// The body is the JSON text of a structured cloud event's data.
    pub fn body_is_json(&self) -> bool {
        self.flag(abi::EVENT_BODY_JSON) != 0
    }

    /// Structured or binary cloud event.
    pub fn is_cloud_event(&self) -> bool {
        self.flag(abi::EVENT_CLOUD) != 0
    }

    /// Headers in order with repeats; names such as `X-Abc`.
    pub fn headers(&self) -> impl Iterator<Item = (&'e str, &'e [u8])> {
        self.frame.headers().map(|(name, value)| (text(name), value))
    }

    /// First value of a header; names are compared without case.
    pub fn header(&self, name: &str) -> Option<&'e [u8]> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All values of a header, in order; names are compared without case.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &'e [u8]> {
        let named = self.headers().filter(move |(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value)
    }

    /// Query arguments, decoded, in order with repeats. Parsed on first use.
    pub fn fields(&self) -> impl Iterator<Item = (&'e [u8], &'e [u8])> {
        self.frame.fields()
    }

    /// First value of a query argument.
    pub fn field(&self, name: &str) -> Option<&'e [u8]> {
        self.fields().find(|(known, _)| *known == name.as_bytes()).map(|(_, value)| value)
    }

    /// When it had arrived.
    pub fn timestamp(&self) -> SystemTime {
        let since_1970 = Duration::from_nanos(self.timestamp_ns().unsigned_abs());
        if self.timestamp_ns() < 0 {
            SystemTime::UNIX_EPOCH - since_1970
        } else {
            SystemTime::UNIX_EPOCH + since_1970
        }
    }

    /// When it had arrived: nanoseconds since 1970, UTC.
    pub fn timestamp_ns(&self) -> i64 {
        self.frame.raw().timestamp_ns
    }

    /// When it must be answered: nanoseconds of `CLOCK_MONOTONIC`.
    pub fn deadline_ns(&self) -> Option<i64> {
        Some(self.frame.raw().deadline_ns).filter(|at| *at != 0)
    }

    /// Stream offset.
    pub fn offset(&self) -> i64 {
        self.frame.raw().offset
    }

    /// Stream shard; -1 for none.
    pub fn shard_id(&self) -> i32 {
        self.frame.raw().shard_id
    }

    /// Number of shards.
    pub fn num_shards(&self) -> i32 {
        self.frame.raw().num_shards
    }

    /// Whether nobody waits for the answer any more; worth asking in long loops. While calls are short the processor
    /// does not look whether clients leave, so the first long one may not be told.
    pub fn cancelled(&self) -> Option<Cancelled> {
        match self.frame.cancelled() {
            1 => Some(Cancelled::Deadline),
            2 => Some(Cancelled::ClientGone),
            3 => Some(Cancelled::Shutdown),
            _ => None,
        }
    }

    /// Zeroed scratch memory that lives as long as the event and can be answered with [`Event::share`]. `None` when
    /// the event's limit (64 MiB) is reached.
    pub fn alloc(&self, len: usize) -> Option<&'e mut [u8]> {
        self.frame.alloc(len)
    }

    /// Bytes of this event (its body, a header, memory from [`Event::alloc`]) as the body of its answer, without a
    /// copy.
    pub fn share(&self, bytes: &'e [u8]) -> EventSlice {
        EventSlice::new(bytes, self.frame.serial())
    }

    fn flag(&self, flag: u32) -> u32 {
        self.frame.raw().flags & flag
    }
}

/// The body of an event. An error means that no more comes and nobody waits for an answer: the client left, sent too
/// slowly or too much, or the deadline passed.
pub struct BodyReader<'e> {
    frame: Frame<'e>,
    /// What need not be waited for.
    here: &'e [u8],
    more: bool,
}

impl std::io::Read for BodyReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.here.is_empty() && self.more {
            return self.frame.read(buffer);
        }
        self.here.read(buffer)
    }
}

/// As text; empty when it is no UTF-8.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
