//! What a process is told of its event through its environment. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use jiff::{Timestamp, Unit};

use crate::event::Event;

/// Every variable that says something of an event, in the Go processor's names.
pub(super) fn variables(event: &Event) -> Vec<(&'static str, OsString)> {
    let extra = event.extra.as_deref();
    let of = |text: Option<&str>| OsString::from(text.unwrap_or_default());
    let bytes = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let kind = extra.and_then(|extra| extra.trigger.as_ref()).map_or(&event.trigger.kind, |(kind, _)| kind);
    vec![
        ("NUCLIO_EVENT_ID", event.id.as_str().into()),
        ("NUCLIO_TRIGGER_CLASS", event.trigger_class().into()),
        ("NUCLIO_TRIGGER_KIND", kind.into()),
        ("NUCLIO_EVENT_CONTENT_TYPE", bytes(event.content_type())),
        ("NUCLIO_EVENT_TIMESTAMP", timestamp(event).into()),
        ("NUCLIO_EVENT_PATH", bytes(event.path())),
        ("NUCLIO_EVENT_URL", event.url().into()),
        ("NUCLIO_EVENT_METHOD", event.method().into()),
        ("NUCLIO_EVENT_SHARD_ID", extra.map_or(-1, |extra| extra.shard_id).to_string().into()),
        ("NUCLIO_EVENT_NUM_SHARDS", extra.map_or(0, |extra| extra.num_shards).to_string().into()),
        ("NUCLIO_EVENT_TYPE", of(extra.map(|extra| extra.event_type.as_str()))),
        ("NUCLIO_EVENT_TYPE_VERSION", of(extra.map(|extra| extra.type_version.as_str()))),
        ("NUCLIO_EVENT_VERSION", of(extra.map(|extra| extra.version.as_str()))),
    ]
}

/// RFC 3339, UTC, whole seconds; a time that no calendar knows is left empty.
fn timestamp(event: &Event) -> String {
    let whole = Timestamp::try_from(event.timestamp).and_then(|time| {
        // Downwards, as whoever cuts the fraction off does.
        time.round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Floor))
    });
    whole.map(|time| time.to_string()).unwrap_or_default()
}

/// The first text that a process cannot be given, because a NUL byte ends its texts.
pub(super) fn with_nul<'a>(
    arguments: &'a [OsString],
    variables: &'a [(&'static str, OsString)],
) -> Option<&'a str> {
    let has_nul = |text: &OsStr| text.as_bytes().contains(&0);
    if arguments.iter().any(|argument| has_nul(argument)) {
        return Some("its arguments");
    }
    variables.iter().find(|(_, value)| has_nul(value)).map(|(name, _)| *name)
}
