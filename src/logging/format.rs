//! How a record looks: the console line for people, the JSON line for machines, the entry returned to a caller.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{Timestamp, Zoned};
use serde_json::Value;

use super::{Fields, bounds, text};
use crate::config::{Level, LogEncoding, local_zone};

/// The last part of the name of loggers whose records are requests that have been answered.
pub const REQUESTS: &str = "requests";

/// One line, with its line end, as `encoding` wants it.
pub fn line(
    encoding: &LogEncoding,
    color: bool,
    level: Level,
    time: SystemTime,
    name: &str,
    message: &str,
    fields: &Fields,
) -> String {
    match encoding {
        LogEncoding::Console => console_line(color, level, time, name, message, fields),
        LogEncoding::Text => text::record(color, level, time, name, message, fields),
        LogEncoding::Json { time_field, time_iso8601, group, flattened } => {
            let time = if *time_iso8601 { quote(&iso8601(time)) } else { millis(time) };
            let mut out = format!(
                r#"{{"level":"{}",{}:{time},"name":{},"message":{}"#,
                level.as_str(),
                quote(time_field),
                quote(name),
                quote(message)
            );
            write_variables(&mut out, fields, group, *flattened);
            out.push_str("}\n");
            out
        }
    }
}

fn write_variables(out: &mut String, fields: &Fields, group: &str, flattened: bool) {
    if fields.is_empty() {
        return;
    }
    if group.is_empty() {
        for (name, value) in fields {
            append(out, format_args!(",{}:{value}", quote(name)));
        }
    } else if flattened {
        let pairs: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect();
        // Values that are no texts are escaped twice, and may have become too long by that.
        let pairs = pairs.join(" || ");
        append(
            out,
            format_args!(",{}:{}", quote(group), quote(&bounds::cut(&pairs, bounds::FIELDS_BYTES_MAX))),
        );
    } else {
        append(out, format_args!(",{}:{}", quote(group), Value::Object(fields.clone())));
    }
}

fn console_line(
    color: bool,
    level: Level,
    time: SystemTime,
    name: &str,
    message: &str,
    fields: &Fields,
) -> String {
    let (letter, tint) = match level {
        Level::Debug => ('D', "32"),
        Level::Info => ('I', "34"),
        Level::Warn => ('W', "33"),
        Level::Error => ('E', "31"),
    };
    let time = local(time).strftime("%y.%m.%d %H:%M:%S%.3f").to_string();
    // Exactly 25 characters: the last 25, or padded on the left.
    let skipped = name.chars().count().saturating_sub(25);
    let name: String = name.chars().skip(skipped).collect();
    let mut out = if color {
        format!("{time} \x1b[{tint}m({letter})\x1b[0m \x1b[37m{name:>25}\x1b[0m {message}")
    } else {
        format!("{time} ({letter}) {name:>25} {message}")
    };
    if !fields.is_empty() {
        let pairs: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}: {value}", quote(name))).collect();
        append(&mut out, format_args!(" {{{}}}", pairs.join(", ")));
    }
    out.push('\n');
    out
}

/// One entry of the array returned to a caller. Fit for a header: visible ASCII and blanks only.
pub fn buffer_entry(level: Level, time: SystemTime, name: &str, message: &str, fields: &Fields) -> String {
    let mut out = format!(
        r#"{{"level":"{}","time":{},"name":{},"message":{}"#,
        level.as_str(),
        millis(time),
        quote(name),
        quote(message)
    );
    write_variables(&mut out, fields, "", false);
    out.push('}');
    ascii(out)
}

/// JSON with everything escaped that is not visible ASCII. JSON itself leaves DEL and all beyond it as they are.
fn ascii(json: String) -> String {
    let plain = |byte: u8| byte < 0x7f;
    if json.bytes().all(plain) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + json.len() / 2);
    for unit in json.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if plain(byte) => out.push(char::from(byte)),
            _ => append(&mut out, format_args!("\\u{unit:04x}")),
        }
    }
    out
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).unwrap_or_default(); // a String takes everything
}

fn quote(text: &str) -> String {
    Value::from(text).to_string()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Milliseconds since the epoch with fraction.
fn millis(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{:04}", since.as_millis(), since.subsec_micros() % 1000 * 10)
}

fn iso8601(time: SystemTime) -> String {
    let local = local(time);
    let format = if local.offset().is_zero() { "%Y-%m-%dT%H:%M:%S%.3fZ" } else { "%Y-%m-%dT%H:%M:%S%.3f%z" };
    local.strftime(format).to_string()
}

pub(super) fn local(time: SystemTime) -> Zoned {
    let time = Timestamp::try_from(time).unwrap_or_default();
    time.to_zoned(local_zone().clone())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::fields;

    fn json(group: &str, flattened: bool, iso: bool) -> LogEncoding {
        LogEncoding::Json { time_field: "time".into(), time_iso8601: iso, group: group.into(), flattened }
    }

    fn check(encoding: &LogEncoding, expected: &str) {
        let time = UNIX_EPOCH + Duration::from_micros(1_735_822_446_123_456);
        let fields = fields! {"a" => 1, "b" => "x<y"};
        assert_eq!(line(encoding, false, Level::Info, time, "processor", "m\"", &fields), expected);
    }

    #[test]
    fn json_lines_have_the_variables_where_the_sink_wants_them() {
        let head = r#"{"level":"info","time":1735822446123.4560,"name":"processor","message":"m\"""#;
        check(&json("", false, false), &format!("{head},\"a\":1,\"b\":\"x<y\"}}\n"));
        check(&json("more", false, false), &format!("{head},\"more\":{{\"a\":1,\"b\":\"x<y\"}}}}\n"));
        check(&json("more", true, false), &format!("{head},\"more\":\"a=1 || b=x<y\"}}\n"));
    }

    #[test]
    fn console_lines_pad_or_cut_the_name_to_25_characters() {
        let long = console_line(false, Level::Warn, UNIX_EPOCH, &"n".repeat(30), "m", &Fields::new());
        assert!(long.ends_with(&format!("(W) {} m\n", "n".repeat(25))), "{long}");
        let short = console_line(false, Level::Debug, UNIX_EPOCH, "p", "m", &fields! {"a" => 1, "b" => [1]});
        assert!(short.ends_with(&format!("(D) {:>25} m {{\"a\": 1, \"b\": [1]}}\n", "p")), "{short}");
    }

    #[test]
    fn entries_for_a_caller_are_visible_ascii_and_mean_the_same() {
        let message = "é, 😀, \x7f, \u{80}, \n, \", \\";
        let entry = buffer_entry(Level::Info, UNIX_EPOCH, "http", message, &fields! {"é" => "ü"});
        assert!(entry.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{entry}");
        let entry: Value = serde_json::from_str(&entry).unwrap();
        assert_eq!((&entry["message"], &entry["é"]), (&Value::from(message), &Value::from("ü")));
    }

    #[test]
    fn no_json_line_is_longer_than_60_kib_whatever_is_logged() {
        let nasty = "\u{1}\"\\é".repeat(100_000);
        let nested: Fields =
            (0..5000).map(|n| (format!("k\"{n}"), serde_json::json!([nasty[..40], n, null]))).collect();
        for (message, fields) in [
            (nasty.clone(), fields! {"a" => nasty.clone(), "b" => 1}),
            ("m".repeat(100_000), nested.clone()),
            (nasty.clone(), fields! {"deep" => Value::Object(nested)}),
        ] {
            let (message, fields) = (bounds::message(&message), bounds::fields(fields));
            for encoding in [json("", false, true), json("more", false, true), json("more", true, true)] {
                let line = line(
                    &encoding,
                    false,
                    Level::Info,
                    UNIX_EPOCH,
                    "processor.http.w0.python",
                    &message,
                    &fields,
                );
                assert!(line.len() <= 60 << 10, "{} bytes", line.len());
                assert!(serde_json::from_str::<Value>(&line).is_ok());
            }
        }
    }
}
