//! [`Frame`]: an event as the plugin sees it, and the memory that belongs to it.
//!
//! The frame owns the event; its `abi::Event` points into the event, into the frame's buffers and nowhere else. It
//! stays at one address (boxed) and untouched from the call until the answer is released. Buffers are kept for the
//! next event. Knows nothing of plugins.

use std::ptr;
use std::sync::atomic::AtomicU8;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use http::HeaderMap;
use nuclio_handler::{abi, host::Scratch};

use super::reader::Reader;
use crate::event::{BodyFault, Event, Extra, write_canonical};

/// An event in the shape of the ABI.
pub(super) struct Frame {
    raw: abi::Event,
    event: Option<Box<Event>>,
    pairs: Vec<abi::Pair>,
    /// The header names in canonical form, one after the other.
    names: Vec<u8>,
    fields: OnceLock<Fields>,
    scratch: Mutex<Scratch>,
    reader: Mutex<Option<Reader>>,
    /// The caller's flag; valid during the call.
    pub(super) cancelled: *const AtomicU8,
}

/// Query arguments, parsed on first use.
struct Fields {
    _bytes: Vec<(Vec<u8>, Vec<u8>)>,
    pairs: Vec<abi::Pair>,
}

impl Default for Frame {
    fn default() -> Self {
        Self {
            raw: abi::Event::EMPTY,
            event: None,
            pairs: Vec::new(),
            names: Vec::new(),
            fields: OnceLock::new(),
            scratch: Mutex::default(),
            reader: Mutex::default(),
            cancelled: ptr::null(),
        }
    }
}

impl Frame {
    /// Takes an event in. `self` must stay where it is until [`Frame::clear`].
    pub(super) fn load(&mut self, event: Box<Event>, deadline_ns: i64, cancelled: &AtomicU8) {
        let event = self.event.insert(event);
        let body = abi::Str::new(event.body.contiguous());
        let more = event.body.stream.take();
        write_headers(event, &mut self.names, &mut self.pairs);
        let (kind, name) = match event.extra.as_deref().and_then(|extra| extra.trigger.as_ref()) {
            Some((kind, name)) => (kind, name),
            None => (&event.trigger.kind, &event.trigger.name),
        };
        self.raw = abi::Event {
            flags: match (event.body.present, &more) {
                (true, None) => 0,
                (true, Some(_)) => abi::EVENT_MORE,
                (false, _) => abi::EVENT_NO_BODY,
            },
            id: abi::Str::new(event.id.as_bytes()),
            method: text(event.method()),
            path: abi::Str::new(event.path()),
            query: text(event.query()),
            url: text(event.url()),
            content_type: abi::Str::new(event.content_type()),
            trigger_class: text(event.trigger_class()),
            trigger_kind: text(kind),
            trigger_name: text(name),
            body,
            headers: abi::Pairs::new(&self.pairs),
            timestamp_ns: nanoseconds(event),
            deadline_ns,
            ..abi::Event::EMPTY
        };
        if let Some(extra) = event.extra.as_deref() {
            write_extra(extra, &mut self.raw);
        }
        if more.is_some() {
            let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner);
            *reader = more.map(Reader::new);
        }
        self.cancelled = cancelled;
        self.raw.host = ptr::from_ref(self).cast_mut().cast();
    }

    /// For the plugin.
    pub(super) fn raw(&self) -> &abi::Event {
        &self.raw
    }

    /// The event taken in, if any.
    pub(super) fn event(&self) -> Option<&Event> {
        self.event.as_deref()
    }

    /// Query arguments.
    pub(super) fn fields(&self) -> &[abi::Pair] {
        let fields = self.fields.get_or_init(|| {
            let bytes: Vec<_> = self.event().into_iter().flat_map(Event::fields).collect();
            let pair = |(name, value): &(Vec<u8>, Vec<u8>)| abi::Pair {
                name: abi::Str::new(name),
                value: abi::Str::new(value),
            };
            Fields { pairs: bytes.iter().map(pair).collect(), _bytes: bytes }
        });
        &fields.pairs
    }

    /// First value of a header among those that the plugin sees.
    pub(super) fn header(&self, name: &[u8]) -> Option<&[u8]> {
        let (event, name) = (self.event()?, std::str::from_utf8(name).ok()?);
        match event.own_headers() {
            Some(own) => {
                let (_, value) = own.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
                Some(value.text().as_bytes())
            }
            None => event.header_map.get(name).map(http::HeaderValue::as_bytes),
        }
    }

    /// Up to `bytes_max` bytes more of the body, and none at its end. Waits for them.
    pub(super) fn read(&self, bytes_max: usize) -> Result<Bytes, BodyFault> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.as_mut().map_or(Ok(Bytes::new()), |reader| reader.read(bytes_max))
    }

    /// The call has returned: what it has not read of the body it will not read.
    pub(super) fn end_reading(&mut self) {
        *self.reader.get_mut().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Scratch memory that lives as long as the event; NULL past the limit and for an impossible alignment.
    pub(super) fn alloc(&self, size: usize, align: usize) -> *mut u8 {
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).take(size, align)
    }

    /// Whether `bytes` lie in memory of this event.
    pub(super) fn holds(&self, bytes: &[u8]) -> bool {
        let at = bytes.as_ptr().addr();
        let within = |start: usize, len: usize| (start..=start + len).contains(&at);
        let inside = |text: &abi::Str| within(text.ptr.addr(), text.len);
        let raw = &self.raw;
        let scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        [raw.body, raw.path, raw.query, raw.id, raw.method, raw.url, raw.content_type].iter().any(inside)
            || [raw.trigger_kind, raw.trigger_name, raw.type_, raw.type_version, raw.version, raw.topic]
                .iter()
                .any(inside)
            || self.pairs.iter().any(|pair| inside(&pair.name) || inside(&pair.value))
            || scratch.blocks().any(|(start, len)| within(start, len))
            || self
                .fields
                .get()
                .is_some_and(|known| known.pairs.iter().any(|pair| inside(&pair.name) || inside(&pair.value)))
    }

    /// Gives the event and its memory back; the buffers stay. What comes back is the event's map of headers, empty.
    pub(super) fn clear(&mut self) -> HeaderMap {
        self.cancelled = ptr::null();
        self.raw = abi::Event::EMPTY;
        let emptied = self.event.take().map_or_else(HeaderMap::new, |event| event.into_empty_headers());
        if self.fields.get().is_some() {
            self.fields = OnceLock::new();
        }
        let scratch = self.scratch.get_mut().unwrap_or_else(PoisonError::into_inner);
        scratch.clear();
        emptied
    }
}

fn text(text: &str) -> abi::Str {
    abi::Str::new(text.as_bytes())
}

/// Names in canonical form into `names`, and pairs that point there and into the event. Headers that the event
/// brought itself need no other form.
fn write_headers(event: &Event, names: &mut Vec<u8>, pairs: &mut Vec<abi::Pair>) {
    names.clear();
    pairs.clear();
    if let Some(own) = event.own_headers() {
        pairs.extend(
            own.iter().map(|(name, value)| abi::Pair { name: text(name), value: text(value.text()) }),
        );
        return;
    }
    // All at once: pointers into `names` must stay good.
    names.reserve(event.headers().map(|(name, _)| name.as_str().len()).sum());
    pairs.reserve(event.header_map.len());
    for (name, value) in event.headers() {
        let start = names.len();
        write_canonical(name.as_str(), names);
        let name = abi::Str::new(&names[start..]);
        pairs.push(abi::Pair { name, value: abi::Str::new(value.as_bytes()) });
    }
}

fn write_extra(extra: &Extra, raw: &mut abi::Event) {
    raw.type_ = text(&extra.event_type);
    raw.type_version = text(&extra.type_version);
    raw.version = text(&extra.version);
    raw.topic = text(&extra.topic);
    raw.offset = extra.offset;
    raw.shard_id = extra.shard_id;
    raw.num_shards = extra.num_shards;
    if extra.body_is_json {
        raw.flags |= abi::EVENT_BODY_JSON;
    }
    if extra.cloud {
        raw.flags |= abi::EVENT_CLOUD;
    }
    if extra.last_in_batch {
        raw.flags |= abi::EVENT_LAST_IN_BATCH;
    }
}

fn nanoseconds(event: &Event) -> i64 {
    match event.timestamp.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        // What is earlier than the year 1677, such as Go's zero time, becomes the lowest number.
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |nanos| -nanos),
    }
}
