//! How much of a record is kept: a handler that logs its whole input must not fill the disk or the queue, and whoever
//! reads our lines may end at one that is longer than 64 KiB. Sizes are those of the JSON that is written.

use std::borrow::Cow;

use serde_json::Value;

use super::Fields;

/// Most bytes of a message; what is beyond is cut off, with a mark.
pub const MESSAGE_BYTES_MAX: usize = 28 << 10;
/// Most bytes of a record's variables together; values beyond are cut short, with a mark.
pub const FIELDS_BYTES_MAX: usize = 28 << 10;
/// What JSON writes for a byte at most: `\u0001`.
const ESCAPED_BYTES_MAX: usize = 6;
/// A name's quotes and colon, and the comma before it.
const AROUND_NAME: usize = 4;
/// A number at most, with what is between it and the next.
const NUMBER: usize = 28;
/// Name of the variable that says how many others are missing.
const LEFT_OUT: &str = "left_out";

/// The message, or its beginning.
pub(super) fn message(text: &str) -> Cow<'_, str> {
    cut(text, MESSAGE_BYTES_MAX)
}

/// At most `bytes_max` bytes of a text, and a mark that says how many are missing.
pub(super) fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    let Some(kept) = fitting(text, bytes_max) else { return Cow::Borrowed(text) };
    Cow::Owned(format!("{} … ({} bytes left out)", &text[..kept], text.len() - kept))
}

/// How many bytes of a text fit into that many bytes of JSON; `None`: all of them.
fn fitting(text: &str, bytes_max: usize) -> Option<usize> {
    if text.len() <= bytes_max / ESCAPED_BYTES_MAX {
        return None;
    }
    let mut written = 0;
    let fits = |byte: &u8| {
        written += escaped(*byte);
        written <= bytes_max
    };
    let kept = text.bytes().take_while(fits).count();
    (kept < text.len()).then(|| text.floor_char_boundary(kept))
}

/// Bytes that JSON writes for one of a text.
fn escaped(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => ESCAPED_BYTES_MAX,
        _ => 1,
    }
}

fn written(text: &str) -> usize {
    text.bytes().map(escaped).sum()
}

/// The variables as they are, or cut short: those at the end first.
pub(super) fn fields(mut fields: Fields) -> Fields {
    let mut room = FIELDS_BYTES_MAX;
    if fits(fields.iter(), &mut room) {
        return fields;
    }
    let mut room = FIELDS_BYTES_MAX;
    let mut kept = Fields::new();
    let mut left_out = 0;
    for (name, value) in std::mem::take(&mut fields) {
        let before = room;
        if fits(std::iter::once((&name, &value)), &mut room) {
            kept.insert(name, value);
            continue;
        }
        room = before.saturating_sub(written(&name) + AROUND_NAME);
        if room == 0 {
            left_out += 1;
            continue;
        }
        let text = match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        kept.insert(name, Value::from(cut(&text, room).into_owned()));
        room = 0;
    }
    if left_out > 0 {
        kept.insert(LEFT_OUT.to_owned(), Value::from(left_out));
    }
    kept
}

/// Takes the size of all of them from the room; false as soon as there is none left.
fn fits<'a>(fields: impl Iterator<Item = (&'a String, &'a Value)>, room: &mut usize) -> bool {
    for (name, value) in fields {
        if !take(room, written(name) + AROUND_NAME) || !value_fits(value, room) {
            return false;
        }
    }
    true
}

fn value_fits(value: &Value, room: &mut usize) -> bool {
    match value {
        Value::String(text) => take(room, written(text) + 3),
        Value::Array(items) => take(room, 3) && items.iter().all(|item| value_fits(item, room)),
        Value::Object(members) => take(room, 3) && fits(members.iter(), room),
        Value::Null | Value::Bool(_) | Value::Number(_) => take(room, NUMBER),
    }
}

fn take(room: &mut usize, bytes: usize) -> bool {
    match room.checked_sub(bytes) {
        Some(left) => {
            *room = left;
            true
        }
        None => {
            *room = 0;
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields as vars;

    #[test]
    fn a_long_message_keeps_its_beginning_and_whole_characters() {
        assert!(matches!(message("short"), Cow::Borrowed("short")));
        let long = format!("a{}", "é".repeat(MESSAGE_BYTES_MAX));
        let cut = message(&long);
        assert!(cut.len() < MESSAGE_BYTES_MAX + 40);
        let missing = long.len() - (MESSAGE_BYTES_MAX - 1);
        assert!(cut.ends_with(&format!("é … ({missing} bytes left out)")), "{}", &cut[cut.len() - 40..]);
    }

    #[test]
    fn variables_beyond_the_limit_are_cut_short_or_counted() {
        let small = vars! {"a" => 1, "b" => serde_json::json!({"c": [1, 2]})};
        assert_eq!(fields(small.clone()), small);
        let big = "x".repeat(FIELDS_BYTES_MAX);
        let list: Vec<u32> = (0..100_000).collect();
        let cut = fields(vars! {"a" => 1, "big" => big, "list" => list, "z" => 2});
        assert_eq!(cut["a"], 1);
        assert!(cut["big"].as_str().unwrap().ends_with("bytes left out)"));
        assert_eq!(cut["left_out"], 2);
        let text = fields(vars! {"list" => list})["list"].as_str().unwrap().to_owned();
        assert!(text.starts_with("[0,1,2,") && text.ends_with("bytes left out)"));
        assert!(text.len() < FIELDS_BYTES_MAX + 40);
        let names: Fields = (0..50_000).map(|n| (format!("name-{n:020}"), Value::Null)).collect();
        assert!(fields(names).len() < 8000);
    }
}
