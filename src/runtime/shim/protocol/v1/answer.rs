//! Answers of a wrapper: JSON with a body that is text or base64.
//!
//! Decoded by hand over serde: keys match without regard to case, the last of equal keys counts, texts may hold lone
//! surrogates and bytes that are no UTF-8, and a number with a fraction is no status.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::event::{HeaderFault, append_header, header_value};

/// Header with which a handler asks not to acknowledge a stream's message. It is not for the client.
const NO_ACK: &str = "x-nuclio-stream-no-ack";

/// Headers up to this number are compared with each other.
const HEADERS_COMPARED_MAX: usize = 1024;

/// As the reference reads it: padding must be there, the bits behind the last byte do not matter.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// One answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 0: not set.
    pub status: i64,
    /// `None`: not set.
    pub content_type: Option<HeaderValue>,
    /// Legal headers.
    pub headers: HeaderMap,
    /// Illegal ones, which are dropped.
    pub dropped: Vec<(String, HeaderFault)>,
    /// The body, or why there is none.
    pub body: Result<Bytes, String>,
    /// Which event of a batch it answers; empty: not set.
    pub event_id: String,
    /// Do not acknowledge.
    pub no_ack: bool,
    /// It has headers, if only empty ones. The Python wrapper's own error answers have none.
    pub has_headers: bool,
}

/// What stands in one line.
#[derive(Debug)]
pub enum Answers {
    /// A single object.
    One(Box<Answer>),
    /// A list; `None` is a null in it.
    List(Vec<Option<Answer>>),
}

impl Answers {
    /// The answer to a single event.
    ///
    /// # Errors
    /// There is none, which the text says.
    pub fn single(self) -> Result<Answer, &'static str> {
        match self {
            Self::One(answer) => Ok(*answer),
            Self::List(answers) => match answers.into_iter().next() {
                None => Err("handler returned an empty list of responses"),
                Some(None) => Err("handler returned a list of responses whose first element is null"),
                Some(Some(answer)) => Ok(answer),
            },
        }
    }
}

/// Decodes what follows the letter of an answer.
///
/// # Errors
/// What is wrong, for the client.
pub fn read_answers(json: &[u8]) -> Result<Answers, String> {
    let text = String::from_utf8_lossy(json);
    let explain = |error: serde_json::Error| format!("cannot decode the handler's answer: {error}");
    match text.trim_start().bytes().next() {
        Some(b'[') => {
            let raw: Vec<Option<Raw>> = serde_json::from_str(&text).map_err(explain)?;
            Ok(Answers::List(raw.into_iter().map(|raw| raw.map(Answer::from)).collect()))
        }
        _ => {
            let raw: Option<Raw> = serde_json::from_str(&text).map_err(explain)?;
            Ok(raw.map_or_else(|| Answers::List(Vec::new()), |raw| Answers::One(Box::new(raw.into()))))
        }
    }
}

/// Decodes a piece of a streamed answer.
///
/// # Errors
/// It is not base64.
pub fn read_chunk(text: &[u8]) -> Result<Bytes, String> {
    decode_base64(text.trim_ascii_end().to_vec())
}

fn decode_base64(mut text: Vec<u8>) -> Result<Bytes, String> {
    if memchr::memchr2(b'\n', b'\r', &text).is_some() {
        text.retain(|byte| !matches!(byte, b'\n' | b'\r'));
    }
    let decoded = BASE64.decode(&text).map(Bytes::from);
    decoded.map_err(|error| format!("cannot decode the handler's answer: its body is not base64: {error}"))
}

/// The members as they stand in the JSON.
#[derive(Default)]
struct Raw {
    status: i64,
    content_type: Vec<u8>,
    body: Vec<u8>,
    body_encoding: Vec<u8>,
    event_id: Vec<u8>,
    headers: Vec<(Vec<u8>, Box<RawValue>)>,
    has_headers: bool,
}

impl From<Raw> for Answer {
    fn from(raw: Raw) -> Self {
        let body = match &raw.body_encoding[..] {
            b"text" => Ok(Bytes::from(raw.body)),
            b"base64" => decode_base64(raw.body),
            other => Err(format!("Unknown body encoding - \"{}\"", String::from_utf8_lossy(other))),
        };
        let event_id = String::from_utf8_lossy(&raw.event_id).into_owned();
        let has_headers = raw.has_headers;
        let mut answer = Self {
            status: raw.status,
            content_type: None,
            headers: HeaderMap::new(),
            dropped: Vec::new(),
            body,
            event_id,
            no_ack: false,
            has_headers,
        };
        if !raw.content_type.is_empty() {
            match header_value(&raw.content_type) {
                Ok(value) => answer.content_type = Some(value),
                Err(fault) => answer.dropped.push(("Content-Type".to_owned(), fault)),
            }
        }
        for (name, value) in &raw.headers {
            answer.add_header(name, value.get());
        }
        answer
    }
}

impl Answer {
    /// Texts as they are, numbers and booleans as JSON writes them, a list as repeated headers; nulls and objects are
    /// left out.
    fn add_header(&mut self, name: &[u8], json: &str) {
        if name.eq_ignore_ascii_case(NO_ACK.as_bytes()) {
            self.no_ack = matches!(json, "true" | "\"true\"" | "\"True\"" | "1");
            return;
        }
        match json.as_bytes().first() {
            Some(b'[') => {
                let items: Vec<Box<RawValue>> = serde_json::from_str(json).unwrap_or_default();
                items.iter().filter(|item| !item.get().starts_with('[')).for_each(|item| {
                    self.add_header(name, item.get());
                });
            }
            Some(b'"') => {
                let text = read_text(json);
                self.append(name, &text);
            }
            Some(b'{' | b'n') | None => {}
            Some(_) => self.append(name, json.as_bytes()),
        }
    }

    fn append(&mut self, name: &[u8], value: &[u8]) {
        if let Err(fault) = append_header(&mut self.headers, name, value) {
            self.dropped.push((String::from_utf8_lossy(name).into_owned(), fault));
        }
    }
}

fn read_text(json: &str) -> Vec<u8> {
    Text.deserialize(&mut serde_json::Deserializer::from_str(json)).ok().flatten().unwrap_or_default()
}

/// A text or null. Lone surrogates become U+FFFD.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<Vec<u8>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Option<Vec<u8>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        // Asked for as bytes: a lone surrogate is no reason to fail then.
        deserializer.deserialize_bytes(self)
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        self.visit_byte_buf(bytes.to_vec())
    }

    fn visit_byte_buf<E: de::Error>(self, mut bytes: Vec<u8>) -> Result<Self::Value, E> {
        replace_surrogates(&mut bytes);
        Ok(Some(bytes))
    }
}

/// The only thing in these texts that is not UTF-8: surrogates, three bytes each as U+FFFD has.
fn replace_surrogates(text: &mut [u8]) {
    let mut from = 0;
    while let Err(error) = std::str::from_utf8(&text[from..]) {
        let at = from + error.valid_up_to();
        let Some(place) = text.get_mut(at..at + 3) else { return };
        place.copy_from_slice("\u{fffd}".as_bytes());
        from = at + 3;
    }
}

/// The members of an answer, in any case and any order.
impl<'de> de::Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Raw;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an answer: an object, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut raw = Raw::default();
                while let Some(key) = map.next_key_seed(Text)? {
                    raw.read_member(&key.unwrap_or_default(), &mut map)?;
                }
                Ok(raw)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl Raw {
    fn read_member<'de, A: MapAccess<'de>>(&mut self, key: &[u8], map: &mut A) -> Result<(), A::Error> {
        let is = |name: &str| key.eq_ignore_ascii_case(name.as_bytes());
        let text = if is("body") {
            &mut self.body
        } else if is("body_encoding") {
            &mut self.body_encoding
        } else if is("content_type") {
            &mut self.content_type
        } else if is("event_id") {
            &mut self.event_id
        } else if is("status_code") {
            self.status = map.next_value::<Option<i64>>()?.unwrap_or(self.status);
            return Ok(());
        } else if is("headers") {
            if let Some(headers) = map.next_value_seed(Headers)? {
                self.headers = headers;
                self.has_headers = true;
            }
            return Ok(());
        } else {
            return map.next_value::<IgnoredAny>().map(drop);
        };
        if let Some(value) = map.next_value_seed(Text)? {
            *text = value;
        }
        Ok(())
    }
}

/// An object of any values, or null.
struct Headers;

impl<'de> DeserializeSeed<'de> for Headers {
    type Value = Option<Vec<(Vec<u8>, Box<RawValue>)>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Headers {
    type Value = Option<Vec<(Vec<u8>, Box<RawValue>)>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of headers")
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut headers: Vec<(Vec<u8>, Box<RawValue>)> = Vec::new();
        while let Some(name) = map.next_key_seed(Text)? {
            let (name, value) = (name.unwrap_or_default(), map.next_value()?);
            // Of equal names the last counts; where there are too many anyway nobody looks.
            let known = if headers.len() < HEADERS_COMPARED_MAX { headers.iter_mut() } else { [].iter_mut() };
            match known.into_iter().find(|(other, _)| *other == name) {
                Some((_, old)) => *old = value,
                None => headers.push((name, value)),
            }
        }
        Ok(Some(headers))
    }
}
