//! Events on their way to a wrapper: a map with 19 keys, as msgpack behind a length or as a line of JSON.
//!
//! A [`View`] shows an event as that map; its body stays where it is: what is written has *cuts*, places where the
//! caller puts the bytes of a body.

mod json;
mod msgpack;

use std::borrow::Cow;
use std::time::UNIX_EPOCH;

use crate::event::{Event, EventBody, Extra, OwnValue, Target};

use json::Json;
use msgpack::MsgPack;

/// Keys of an event's map.
const KEYS: usize = 19;

/// How a wrapper wants its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// 4 bytes of length, big-endian, then one msgpack object.
    MsgPack,
    /// One line of ASCII, bodies as base64.
    Json,
}

/// A value inside headers or the data of a cloud event.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Nothing.
    Nil,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text, not necessarily UTF-8.
    Text(Cow<'a, [u8]>),
    /// Bytes that are no text.
    Bytes(Cow<'a, [u8]>),
    /// Values in order.
    List(Vec<Value<'a>>),
    /// Names and values in order.
    Map(Vec<(Cow<'a, [u8]>, Value<'a>)>),
}

/// The body of an event as its map shows it.
#[derive(Debug)]
pub enum BodyView<'a> {
    /// No body at all.
    Absent,
    /// Bytes, which the caller writes.
    Bytes(&'a EventBody),
    /// The data of a structured cloud event.
    Object(Value<'a>),
}

/// Name of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// Written as it is.
    Exact(&'a [u8]),
    /// In lower case; written in canonical form.
    Http(&'a str),
}

/// Names and texts in order.
pub type Texts<'a> = Vec<(Cow<'a, [u8]>, Cow<'a, [u8]>)>;

/// An event as the map that wrappers get.
#[derive(Debug)]
pub struct View<'a> {
    /// `body`, and what `size` says of it.
    pub body: BodyView<'a>,
    /// `content_type` and, once more, `content-type`.
    pub content_type: &'a [u8],
    /// Kind and name of `trigger`.
    pub trigger: (&'a str, &'a str),
    /// Arguments of the query; `None`: the trigger has none.
    pub fields: Option<Texts<'a>>,
    /// Headers; `None`: the trigger has none.
    pub headers: Option<Vec<(Name<'a>, Value<'a>)>>,
    /// `id`.
    pub id: &'a str,
    /// `method`.
    pub method: &'a str,
    /// `path`, any bytes.
    pub path: &'a [u8],
    /// `url`.
    pub url: &'a str,
    /// Seconds since 1970.
    pub timestamp: i64,
    /// `shard_id`, -1 for none.
    pub shard_id: i64,
    /// `num_shards`.
    pub num_shards: i64,
    /// `offset`.
    pub offset: i64,
    /// `topic`.
    pub topic: &'a str,
    /// `type`.
    pub event_type: &'a str,
    /// `type_version`.
    pub type_version: &'a str,
    /// `version`.
    pub version: &'a str,
}

impl<'a> View<'a> {
    /// Shows an event.
    pub fn of(event: &'a Event) -> Self {
        let extra = event.extra.as_deref();
        let text = |pick: fn(&Extra) -> &str| extra.map_or("", pick);
        let own_trigger = extra.and_then(|extra| extra.trigger.as_ref());
        Self {
            body: body(event),
            content_type: event.content_type(),
            trigger: own_trigger
                .map_or((&event.trigger.kind, &event.trigger.name), |(kind, name)| (kind, name)),
            fields: matches!(event.target, Target::Http { .. }).then(|| fields(event)),
            headers: headers(event),
            id: event.id.as_str(),
            method: event.method(),
            path: event.path(),
            url: event.url(),
            timestamp: seconds(event),
            shard_id: extra.map_or(-1, |extra| i64::from(extra.shard_id)),
            num_shards: extra.map_or(0, |extra| i64::from(extra.num_shards)),
            offset: extra.map_or(0, |extra| extra.offset),
            topic: text(|extra| &extra.topic),
            event_type: text(|extra| &extra.event_type),
            type_version: text(|extra| &extra.type_version),
            version: text(|extra| &extra.version),
        }
    }

    /// The body, where it is the caller who writes its bytes.
    pub fn bytes(&self) -> Option<&'a EventBody> {
        match self.body {
            BodyView::Bytes(body) => Some(body),
            BodyView::Absent | BodyView::Object(_) => None,
        }
    }

    fn size(&self) -> i64 {
        match &self.body {
            BodyView::Bytes(body) => body.len() as i64,
            BodyView::Absent | BodyView::Object(_) => 0,
        }
    }

    /// Writes the map; keys in the order of the alphabet.
    fn write(&self, form: &mut impl Form) {
        form.open_map(KEYS);
        form.key(b"body");
        form.body(&self.body);
        for key in ["content-type", "content_type"] {
            form.key(key.as_bytes());
            form.text(self.content_type);
        }
        form.key(b"fields");
        write_pairs(form, self.fields.as_deref(), |form, (name, value)| {
            form.key(name);
            form.text(value);
        });
        form.key(b"headers");
        write_pairs(form, self.headers.as_deref(), |form, (name, value)| {
            match name {
                Name::Exact(name) => form.key(name),
                Name::Http(name) => form.canonical_key(name),
            }
            form.value(value);
        });
        write_text(form, "id", self.id);
        write_text(form, "method", self.method);
        write_int(form, "num_shards", self.num_shards);
        write_int(form, "offset", self.offset);
        form.key(b"path");
        form.text(self.path);
        write_int(form, "shard_id", self.shard_id);
        write_int(form, "size", self.size());
        write_int(form, "timestamp", self.timestamp);
        write_text(form, "topic", self.topic);
        form.key(b"trigger");
        form.open_map(2);
        write_text(form, "kind", self.trigger.0);
        write_text(form, "name", self.trigger.1);
        form.close_map();
        write_text(form, "type", self.event_type);
        write_text(form, "type_version", self.type_version);
        write_text(form, "url", self.url);
        write_text(form, "version", self.version);
        form.close_map();
    }
}

fn body(event: &Event) -> BodyView<'_> {
    if event.extra.as_deref().is_some_and(|extra| extra.body_is_json)
        && let Ok(data) = serde_json::from_slice::<serde_json::Value>(&joined(&event.body))
    {
        return BodyView::Object(data_value(data));
    }
    if event.body.present { BodyView::Bytes(&event.body) } else { BodyView::Absent }
}

/// compat: numbers of a cloud event's data are floats.
fn data_value(data: serde_json::Value) -> Value<'static> {
    match data {
        serde_json::Value::Null => Value::Nil,
        serde_json::Value::Bool(value) => Value::Bool(value),
        serde_json::Value::Number(number) => Value::Float(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Value::Text(text.into_bytes().into()),
        serde_json::Value::Array(items) => Value::List(items.into_iter().map(data_value).collect()),
        serde_json::Value::Object(map) => Value::Map(
            map.into_iter().map(|(name, value)| (name.into_bytes().into(), data_value(value))).collect(),
        ),
    }
}

/// compat: the last of several arguments of one name wins.
fn fields(event: &Event) -> Texts<'_> {
    let mut fields = Texts::new();
    if event.query().is_empty() {
        return fields;
    }
    for (name, value) in event.fields() {
        match fields.iter_mut().find(|(other, _)| **other == *name) {
            Some((_, old)) => *old = value.into(),
            None => fields.push((name.into(), value.into())),
        }
    }
    fields
}

fn own_value(value: &OwnValue) -> Value<'_> {
    match value {
        OwnValue::Text(text) => Value::Text(text.as_bytes().into()),
        OwnValue::Json { value, .. } => data_value(value.clone()),
    }
}

/// compat: the last of several headers of one name wins.
fn headers(event: &Event) -> Option<Vec<(Name<'_>, Value<'_>)>> {
    if let Some(own) = event.own_headers() {
        let headers = own.iter().map(|(name, value)| (Name::Exact(name.as_bytes()), own_value(value)));
        return Some(headers.collect());
    }
    if event.header_map.is_empty() && !matches!(event.target, Target::Http { .. }) {
        return None;
    }
    let mut headers = Vec::with_capacity(event.header_map.keys_len());
    for name in event.header_map.keys() {
        let last = event.header_map.get_all(name).iter().next_back();
        let value = last.map_or(&b""[..], http::HeaderValue::as_bytes);
        headers.push((Name::Http(name.as_str()), Value::Text(value.into())));
    }
    Some(headers)
}

fn seconds(event: &Event) -> i64 {
    match event.timestamp.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs() as i64,
        Err(before) => -(before.duration().as_secs() as i64),
    }
}

/// What the two encodings have in common.
trait Form {
    fn open_map(&mut self, len: usize);
    fn close_map(&mut self);
    fn open_list(&mut self, len: usize);
    fn next_item(&mut self);
    fn close_list(&mut self);
    fn key(&mut self, name: &[u8]);
    fn canonical_key(&mut self, name: &str);
    fn nil(&mut self);
    fn bool(&mut self, value: bool);
    fn int(&mut self, value: i64);
    fn float(&mut self, value: f64);
    fn text(&mut self, text: &[u8]);
    fn bytes(&mut self, bytes: &[u8]);
    fn body(&mut self, body: &BodyView<'_>);

    fn value(&mut self, value: &Value<'_>) {
        match value {
            Value::Nil => self.nil(),
            Value::Bool(value) => self.bool(*value),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => self.float(*value),
            Value::Text(text) => self.text(text),
            Value::Bytes(bytes) => self.bytes(bytes),
            Value::List(items) => {
                self.open_list(items.len());
                for item in items {
                    self.next_item();
                    self.value(item);
                }
                self.close_list();
            }
            Value::Map(pairs) => {
                self.open_map(pairs.len());
                for (name, value) in pairs {
                    self.key(name);
                    self.value(value);
                }
                self.close_map();
            }
        }
    }
}

fn write_text(form: &mut impl Form, key: &str, text: &str) {
    form.key(key.as_bytes());
    form.text(text.as_bytes());
}

fn write_int(form: &mut impl Form, key: &str, value: i64) {
    form.key(key.as_bytes());
    form.int(value);
}

fn write_pairs<F: Form, P>(form: &mut F, pairs: Option<&[P]>, mut write: impl FnMut(&mut F, &P)) {
    let Some(pairs) = pairs else { return form.nil() };
    form.open_map(pairs.len());
    pairs.iter().for_each(|pair| write(form, pair));
    form.close_map();
}

/// Everything of a frame but the bodies. Kept from event to event for its memory.
#[derive(Debug, Default)]
pub struct Frame {
    bytes: Vec<u8>,
    /// Where bodies belong, and how long they are, in order.
    cuts: Vec<(usize, usize)>,
}

impl Frame {
    /// Writes one event.
    pub fn write(&mut self, encoding: Encoding, view: &View<'_>) {
        self.begin(encoding);
        match encoding {
            Encoding::MsgPack => view.write(&mut MsgPack { frame: self }),
            Encoding::Json => view.write(&mut Json::new(&mut self.bytes)),
        }
        self.end(encoding);
    }

    /// Writes several events as one batch, which is a list also if it holds one event.
    pub fn write_batch(&mut self, encoding: Encoding, views: &[View<'_>]) {
        self.begin(encoding);
        match encoding {
            Encoding::MsgPack => write_list(&mut MsgPack { frame: self }, views),
            Encoding::Json => write_list(&mut Json::new(&mut self.bytes), views),
        }
        self.end(encoding);
    }

    fn begin(&mut self, encoding: Encoding) {
        self.bytes.clear();
        self.cuts.clear();
        if encoding == Encoding::MsgPack {
            self.bytes.extend_from_slice(&[0; 4]);
        }
    }

    fn end(&mut self, encoding: Encoding) {
        match encoding {
            Encoding::Json => self.bytes.push(b'\n'),
            Encoding::MsgPack => {
                let length = self.size() - 4;
                self.bytes[..4].copy_from_slice(&(length as u32).to_be_bytes());
            }
        }
    }

    /// Bytes of the whole frame, its bodies and length included.
    pub fn size(&self) -> usize {
        self.bytes.len() + self.cuts.iter().map(|(_, len)| len).sum::<usize>()
    }

    /// What comes before each body, in order; the bodies are those that are not absent, and none in JSON.
    pub fn before_bodies(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.cuts.iter().map(move |(at, _)| &self.bytes[std::mem::replace(&mut start, *at)..*at])
    }

    /// What comes after the last body.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.cuts.last().map_or(0, |(at, _)| *at)..]
    }
}

fn write_list(form: &mut impl Form, views: &[View<'_>]) {
    form.open_list(views.len());
    for view in views {
        form.next_item();
        view.write(form);
    }
    form.close_list();
}

/// All bytes of a body; copied only if they are in several pieces.
fn joined(body: &EventBody) -> Cow<'_, [u8]> {
    let mut pieces = body.pieces();
    match (pieces.next(), pieces.next()) {
        (None, _) => Cow::Borrowed(&[]),
        (Some(only), None) => Cow::Borrowed(only),
        _ => {
            let mut whole = Vec::with_capacity(body.len());
            body.pieces().for_each(|piece| whole.extend_from_slice(piece));
            Cow::Owned(whole)
        }
    }
}
