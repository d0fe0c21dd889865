//! Records for whoever develops a handler: short lines, fields as `name=value`, long texts such as tracebacks on lines
//! of their own, one line for a request. What the processor says of itself is left out unless something is odd.

use std::fmt::Write;
use std::time::SystemTime;

use serde_json::Value;

use super::format::{REQUESTS, local};
use super::{Fields, ROOT};
use crate::config::Level;

/// How lines of a field's text are set off.
const INDENT: &str = "    ";
const DIM: &str = "2";
const PLAIN: &str = "0";

/// One record with its line ends; empty: it is not shown.
pub(super) fn record(
    color: bool,
    level: Level,
    time: SystemTime,
    name: &str,
    message: &str,
    fields: &Fields,
) -> String {
    if name == ROOT && level < Level::Warn {
        return String::new();
    }
    let paint = Paint { color };
    let time = local(time).strftime("%H:%M:%S%.3f").to_string();
    let mut out = paint.text(DIM, &time);
    out.push(' ');
    if name.strip_suffix(REQUESTS).is_some_and(|rest| rest.ends_with('.')) {
        request(&mut out, paint, fields);
        return out;
    }
    let (word, tint) = match level {
        Level::Debug => ("DEBUG", DIM),
        Level::Info => ("INFO ", "34"),
        Level::Warn => ("WARN ", "33"),
        Level::Error => ("ERROR", "31"),
    };
    out.push_str(&paint.text(tint, word));
    out.push(' ');
    out.push_str(&visible(message).replace('\n', &format!("\n{INDENT}")));
    let mut long = String::new();
    for (name, value) in fields {
        let name = visible(name).replace('\n', " ");
        match value {
            Value::String(text) if text.trim_end().contains('\n') => {
                append(&mut long, format_args!("{INDENT}{}\n", paint.text(DIM, &format!("{name}:"))));
                for line in visible(text.trim_end()).lines() {
                    append(&mut long, format_args!("{INDENT}{line}\n"));
                }
            }
            other => {
                let value = short(other);
                append(&mut out, format_args!(" {}{value}", paint.text(DIM, &format!("{name}="))));
            }
        }
    }
    out.push('\n');
    out.push_str(&long);
    out
}

/// `GET /path 200 1.2 ms 12 B`.
fn request(out: &mut String, paint: Paint, fields: &Fields) {
    let text = |name: &str| fields.get(name).and_then(Value::as_str).map(visible).unwrap_or_default();
    let status = fields.get("status").and_then(Value::as_u64);
    let tint = match status {
        Some(500..) => "31",
        Some(400..) => "33",
        Some(300..) => "36",
        Some(_) => "32",
        None => "31",
    };
    let status = status.map_or_else(|| "---".to_owned(), |status| status.to_string());
    let millis = fields.get("milliseconds").and_then(Value::as_f64).unwrap_or_default();
    let bytes = fields.get("bytes").and_then(Value::as_u64).unwrap_or_default();
    append(
        out,
        format_args!(
            "{} {} {} {}",
            paint.text("1", &text("method")),
            text("path"),
            paint.text(tint, &status),
            paint.text(DIM, &format!("{millis:.1} ms {}", size(bytes)))
        ),
    );
    if !text("err").is_empty() {
        append(out, format_args!(" {}", paint.text("31", &text("err").replace('_', " "))));
    }
    out.push('\n');
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

#[derive(Clone, Copy)]
struct Paint {
    color: bool,
}

impl Paint {
    fn text(self, tint: &str, text: &str) -> String {
        if self.color { format!("\x1b[{tint}m{text}\x1b[{PLAIN}m") } else { text.to_owned() }
    }
}

/// A value on the line: a text of one word as it is.
fn short(value: &Value) -> String {
    match value.as_str() {
        Some(text)
            if !text.is_empty() && !text.chars().any(|c| c.is_whitespace() || c == '"' || c.is_control()) =>
        {
            text.to_owned()
        }
        _ => visible(&value.to_string()),
    }
}

/// Without what would move the cursor or change the terminal.
fn visible(text: &str) -> String {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(harmless) {
        return text.to_owned();
    }
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if harmless(c) {
            out.push(c)
        } else if c != '\r' {
            out.extend(c.escape_default())
        }
        out
    })
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).unwrap_or_default(); // a String takes everything
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::fields;

    fn shown(color: bool, level: Level, name: &str, message: &str, fields: Fields) -> String {
        let text = record(color, level, UNIX_EPOCH, name, message, &fields);
        text.split_once(' ').map_or(text.clone(), |(_, rest)| rest.to_owned())
    }

    #[test]
    fn fields_stand_behind_the_message_and_long_texts_below() {
        let fields = fields! {"n" => 1, "word" => "a", "text" => "a b", "traceback" => "one\n  two\n", "o" => serde_json::json!({"k": [1]})};
        let text = shown(false, Level::Error, "processor.http.w0.python", "failed", fields);
        assert_eq!(
            text,
            "ERROR failed n=1 word=a text=\"a b\" o={\"k\":[1]}\n    traceback:\n    one\n      two\n"
        );
    }

    #[test]
    fn a_request_is_one_line() {
        let fields = |status| fields! {"method" => "GET", "path" => "/a?b=1", "status" => status, "milliseconds" => 1.25, "bytes" => 12_345};
        let text = shown(false, Level::Info, "processor.http.requests", "Request", fields(Some(200)));
        assert_eq!(text, "GET /a?b=1 200 1.2 ms 12.3 kB\n");
        let text = shown(true, Level::Info, "processor.http.requests", "Request", fields(Some(404)));
        assert!(text.contains("\x1b[33m404\x1b[0m"), "{text}");
        assert!(shown(false, Level::Warn, "a.requests", "", fields(None)).contains(" --- "));
    }

    #[test]
    fn the_processors_own_records_are_shown_only_where_something_is_odd() {
        assert_eq!(record(false, Level::Info, UNIX_EPOCH, "processor", "m", &Fields::new()), "");
        assert_eq!(shown(false, Level::Warn, "processor", "m", Fields::new()), "WARN  m\n");
    }

    #[test]
    fn nothing_of_a_record_reaches_the_terminal_as_a_command() {
        let nasty = "a\x1b[2Jb\rc\u{9b}d\ne";
        let text = shown(false, Level::Info, "p.w0", nasty, fields! {nasty => nasty, "x" => "\x1b]0;t\x07"});
        assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }
}
