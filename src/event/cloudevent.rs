//! Cloud events over HTTP and in the headers of timers, versions 0.1 and 1.0 of their specification, unwrapped into
//! the [`Event`] that carried them. Knows the ways they come: structured (all of it is the JSON body), binary
//! (attributes are headers) and batched (the body is a JSON list of structured ones). Start at [`unwrap`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{Event, EventBody, EventId, Extra, OwnValue};
use crate::config::percent;
use crate::trace::EventTrace;

/// Content types that start like this are structured cloud events.
const STRUCTURED: &[u8] = b"application/cloudevents";
/// Unless they start like this: the batched mode, of which only the JSON format is unwrapped.
const BATCHED: &[u8] = b"application/cloudevents-batch";
const BATCHED_JSON: &[u8] = b"application/cloudevents-batch+json";
/// Most events of one batch; each costs memory beyond its bytes.
pub const BATCH_EVENTS_MAX: usize = 1000;
/// What the headers of a binary cloud event begin with.
pub const BINARY: &str = "ce-";
/// From the start of year 1, Go's zero time, to 1970.
const ZERO_TIME: Duration = Duration::from_secs(62_135_596_800);

/// Why a structured cloud event cannot be unwrapped. Its sender is at fault.
#[derive(Debug, thiserror::Error)]
pub enum CloudEventError {
    /// The body is no JSON object, or a member has the wrong type.
    #[error("{member}: {error}")]
    Json {
        /// Its name, or `body`.
        member: String,
        /// What is wrong.
        error: serde_json::Error,
    },
    /// Not RFC 3339.
    #[error("the time of the event is not as RFC 3339 has it")]
    Time,
    /// Not base64.
    #[error("data_base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// Too many in one batch.
    #[error("the batch holds {0} events, more than {BATCH_EVENTS_MAX}")]
    TooMany(usize),
}

/// Makes of a cloud event what a handler sees; leaves other events alone. Method, path and query stay those of HTTP.
/// Of a batch it makes several events, which it returns; the one that carried them is of no more use then.
///
/// # Errors
/// A structured cloud event that is malformed, alone or in a batch.
pub fn unwrap(event: &mut Event) -> Result<Option<Vec<Event>>, CloudEventError> {
    match mode(&event.header_map) {
        Mode::Structured => structured(event)?,
        Mode::Batched => return batched(event).map(Some),
        Mode::Other => unwrap_headers(event),
    }
    Ok(None)
}

/// The same for triggers whose events have no content type: headers may make a binary cloud event, and nothing is
/// malformed.
pub fn unwrap_headers(event: &mut Event) {
    if is_binary(&event.header_map) {
        binary(event);
    }
}

/// Whether a request with these headers carries a cloud event, or several.
pub fn is_one(headers: &HeaderMap) -> bool {
    !matches!(mode(headers), Mode::Other) || is_binary(headers)
}

fn is_binary(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(BINARY))
}

/// What the content type says.
enum Mode {
    Structured,
    Batched,
    Other,
}

fn mode(headers: &HeaderMap) -> Mode {
    let value = headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let starts =
        |start: &[u8]| value.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start));
    if !starts(STRUCTURED) {
        return Mode::Other;
    }
    match value.get(BATCHED_JSON.len()) {
        None | Some(b';' | b' ' | b'\t') if starts(BATCHED_JSON) => Mode::Batched,
        _ if starts(BATCHED) => Mode::Other,
        _ => Mode::Structured,
    }
}

/// One event for each of the list, all of which are sound.
fn batched(carrier: &mut Event) -> Result<Vec<Event>, CloudEventError> {
    let body = carrier.body.contiguous().clone();
    let list: Vec<&RawValue> =
        serde_json::from_slice(&body).map_err(|error| CloudEventError::json("body", error))?;
    if list.len() > BATCH_EVENTS_MAX {
        return Err(CloudEventError::TooMany(list.len()));
    }
    let mut events = Vec::with_capacity(list.len());
    for raw in list {
        let mut json = EventBody::from(body.slice_ref(raw.get().as_bytes()));
        json.permit = carrier.body.permit.as_mut().map(|permit| permit.split(json.len()));
        let mut event = Event {
            id: EventId::random(),
            trigger: carrier.trigger,
            timestamp: carrier.timestamp,
            target: carrier.target.clone(),
            header_map: carrier.header_map.clone(),
            body: json,
            log_buffer: carrier.log_buffer.clone(),
            trace: carrier.trace.as_deref().map(EventTrace::another),
            extra: None,
            web: None,
        };
        structured(&mut event)?;
        events.push(event);
    }
    Ok(events)
}

/// Names of the attributes in one version of the specification.
struct Names {
    id: &'static str,
    event_type: &'static str,
    version: &'static str,
    time: &'static str,
    content_type: &'static str,
}

const V0_1: Names = Names {
    id: "eventID",
    event_type: "eventType",
    version: "cloudEventsVersion",
    time: "eventTime",
    content_type: "contentType",
};
const V1_0: Names = Names {
    id: "id",
    event_type: "type",
    version: "specversion",
    time: "time",
    content_type: "datacontenttype",
};

fn structured(event: &mut Event) -> Result<(), CloudEventError> {
    let body = event.body.contiguous().clone();
    let mut members =
        Members(serde_json::from_slice(&body).map_err(|error| CloudEventError::json("body", error))?);
    let is_1_0 = members.0.contains_key(V1_0.version);
    let names = if is_1_0 { V1_0 } else { V0_1 };
    let source = members.take_text("source")?;
    let mut extra = Extra {
        content_type: Some(members.take_text(names.content_type)?),
        event_type: members.take_text(names.event_type)?,
        version: members.take_text(names.version)?,
        trigger: Some((source.clone(), source)),
        ..cloud_extra()
    };
    let id = members.take_text(names.id)?;
    let time: Option<String> = members.take(names.time)?;
    let timestamp = time.map_or(Ok(zero_time()), |text| parse_time(&text).ok_or(CloudEventError::Time))?;
    let mut data = if is_1_0 { data_1_0(&mut members, &mut extra)? } else { data(&mut members, &mut extra)? };
    extra.headers = Some(if is_1_0 {
        members.into_headers()
    } else {
        extra.type_version = members.take_text("eventTypeVersion")?;
        extra.offset = members.take("offset")?.unwrap_or(0);
        extra.last_in_batch = members.take("last_in_batch")?.unwrap_or(false);
        members.take_object("extensions")?.into_headers()
    });
    data.permit = event.body.permit.take();
    event.body = data;
    set_id(event, id);
    event.timestamp = timestamp;
    event.extra = Some(Box::new(extra));
    Ok(())
}

/// The data as a body: the bytes of a text, and the JSON text of everything else, which for an object is marked as
/// such.
fn data(members: &mut Members<'_>, extra: &mut Extra) -> Result<EventBody, CloudEventError> {
    let Some(json) = members.0.remove("data").map(RawValue::get) else { return Ok(EventBody::none()) };
    if json.starts_with('"') {
        let text: String =
            serde_json::from_str(json).map_err(|error| CloudEventError::json("data", error))?;
        return Ok(Bytes::from(text).into());
    }
    extra.body_is_json = json.starts_with('{');
    Ok(Bytes::from(compact(json)).into())
}

/// What 1.0 adds: bytes as base64, and JSON without a content type is of type JSON.
fn data_1_0(members: &mut Members<'_>, extra: &mut Extra) -> Result<EventBody, CloudEventError> {
    if let Some(text) = members.take::<String>("data_base64")? {
        members.0.remove("data");
        return Ok(Bytes::from(STANDARD.decode(text)?).into());
    }
    let is_json = members.0.get("data").is_some_and(|raw| !raw.get().starts_with('"'));
    if is_json && extra.content_type.as_deref() == Some("") {
        extra.content_type = Some("application/json".to_owned());
    }
    data(members, extra)
}

/// The members of a JSON object that have not been taken yet. Of two of the same name the last counts.
struct Members<'a>(BTreeMap<String, &'a RawValue>);

impl Members<'_> {
    /// Takes a member out; `null` is as good as none.
    fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, CloudEventError> {
        let Some(raw) = self.0.remove(name) else { return Ok(None) };
        serde_json::from_str(raw.get()).map_err(|error| CloudEventError::json(name, error))
    }

    fn take_text(&mut self, name: &str) -> Result<String, CloudEventError> {
        self.take(name).map(Option::unwrap_or_default)
    }

    /// Takes a member out that is an object itself.
    fn take_object(&mut self, name: &str) -> Result<Self, CloudEventError> {
        let Some(raw) = self.0.remove(name) else { return Ok(Self(BTreeMap::new())) };
        let members = serde_json::from_str::<Option<_>>(raw.get());
        Ok(Self(members.map_err(|error| CloudEventError::json(name, error))?.unwrap_or_default()))
    }

    /// What is left as headers: texts as they are, everything else as JSON, `null` not at all.
    fn into_headers(self) -> Vec<(String, OwnValue)> {
        let shown = self.0.into_iter().filter(|(_, raw)| raw.get() != "null");
        let text =
            |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or_else(|_| compact(raw.get())).into();
        shown.map(|(name, raw)| (name, text(raw))).collect()
    }
}

/// Valid JSON without the blanks between its tokens; numbers and texts stay as they were written.
fn compact(json: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let keep = |char: &char| {
        let blank = !in_text && char.is_ascii_whitespace();
        in_text ^= *char == '"' && !escaped;
        escaped = *char == '\\' && !escaped;
        !blank
    };
    json.chars().filter(keep).collect()
}

/// Headers and body stay; what the `ce-` headers say is shown in its places as well.
fn binary(event: &mut Event) {
    let headers = &event.header_map;
    let raw = |name: &str| headers.get(name).map_or(&b""[..], |value| value.as_bytes());
    let is_1_0 = !raw("ce-specversion").is_empty();
    if !is_1_0 && raw("ce-cloudeventsversion").is_empty() {
        return;
    }
    // Since 1.0 values are percent-encoded, and may stand in quotes around that.
    let text = |name: &str| {
        let value = raw(name);
        let value = if is_1_0 { percent::decode(&unquoted(value), false) } else { value.to_vec() };
        String::from_utf8_lossy(&value).into_owned()
    };
    let source = text("ce-source");
    let ([id, event_type, version, time], type_version, name) = if is_1_0 {
        (["ce-id", "ce-type", "ce-specversion", "ce-time"], String::new(), source.clone())
    } else {
        let names = ["ce-eventid", "ce-eventtype", "ce-cloudeventsversion", "ce-eventtime"];
        (names, text("ce-eventtypeversion"), text("ce-name"))
    };
    let before = event.extra.take().map(|extra| *extra).unwrap_or_default();
    let extra = Extra {
        content_type: before.content_type,
        headers: before.headers,
        fields: before.fields,
        event_type: text(event_type),
        type_version,
        version: text(version),
        trigger: Some((source, name)),
        ..cloud_extra()
    };
    let (id, timestamp) = (text(id), parse_time(&text(time)).unwrap_or_else(zero_time));
    set_id(event, id);
    event.timestamp = timestamp;
    event.extra = Some(Box::new(extra));
}

/// A quoted string without its quotes and backslashes; everything else as it is.
fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let Some(inner) = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")) else {
        return Cow::Borrowed(value);
    };
    let mut bytes = inner.iter();
    let mut plain = Vec::with_capacity(inner.len());
    while let Some(byte) = bytes.next() {
        let escaped = if *byte == b'\\' { bytes.next() } else { None };
        plain.push(*escaped.unwrap_or(byte));
    }
    Cow::Owned(plain)
}

/// What all cloud events share.
fn cloud_extra() -> Extra {
    Extra { shard_id: -1, cloud: true, ..Extra::default() }
}

/// An event without an id of its own keeps the one it has.
fn set_id(event: &mut Event, id: String) {
    if !id.is_empty() {
        event.id = EventId::Text(id.into());
    }
}

// compat: an event that does not say when it happened is of year 1.
fn zero_time() -> SystemTime {
    UNIX_EPOCH - ZERO_TIME
}

/// RFC 3339, from year 1 on.
fn parse_time(text: &str) -> Option<SystemTime> {
    let time = text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)?;
    (time >= zero_time()).then_some(time)
}

impl CloudEventError {
    fn json(member: &str, error: serde_json::Error) -> Self {
        Self::Json { member: member.to_owned(), error }
    }
}

#[cfg(test)]
mod tests;
