//! What a person sees of requests and answers. Bodies go to standard output, what is said about them to standard error.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Request, Response, Version, header};
use serde_json::Value;

use crate::config::{Env, Level, LogEncoding};
use crate::logging::{Fields, format};

/// Where the function says what it has logged.
const LOGS: &str = "x-nuclio-logs";

/// How much is shown, and in which colours.
#[derive(Debug, Clone, Copy)]
pub(super) struct Show {
    /// Headers of answers, on standard output.
    pub(super) include: bool,
    /// Headers of both, on standard error.
    pub(super) verbose: bool,
    out_is_terminal: bool,
    color_out: bool,
    color_err: bool,
}

impl Show {
    pub(super) fn new(include: bool, verbose: bool, env: &Env) -> Self {
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            include,
            verbose,
            out_is_terminal: out,
            color_out: env.color.unwrap_or(out),
            color_err: env.color.unwrap_or(err),
        }
    }

    /// A line for people.
    pub(super) fn say(&self, text: &str) {
        writeln!(io::stderr(), "{text}").unwrap_or_default(); // Nobody reads it then.
    }

    /// What is wrong.
    pub(super) fn complain(&self, text: &str) {
        self.say(&self.tinted("31", text));
    }

    fn tinted(&self, tint: &str, text: &str) -> String {
        if self.color_err { format!("\x1b[{tint}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The request, where everything is to be seen.
    pub(super) fn request<B>(&self, request: &Request<B>) {
        if self.verbose {
            self.say(&format!("> {} {} HTTP/1.1", request.method(), request.uri()));
            self.headers('>', request.headers());
        }
    }

    fn headers(&self, mark: char, headers: &HeaderMap) {
        for (name, value) in headers {
            self.say(&format!("{mark} {name}: {}", printable(&String::from_utf8_lossy(value.as_bytes()))));
        }
    }

    /// Status line, and headers as far as they are wanted.
    pub(super) fn head<B>(&self, title: &str, response: &Response<B>, time: Duration) {
        let version = if response.version() == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
        let reason = response.status().canonical_reason().unwrap_or_default();
        let status = response.status().as_u16();
        let line = format!("{version} {status} {reason}").trim_end().to_owned();
        let tint = match status {
            500.. => "31",
            400.. => "33",
            _ => "32",
        };
        let millis = time.as_secs_f64() * 1e3;
        self.say(&format!("{title}{} ({millis:.1} ms)", self.tinted(tint, &line)));
        if self.verbose {
            self.headers('<', response.headers());
        }
        if self.include {
            let mut text = format!("{line}\r\n").into_bytes();
            for (name, value) in response.headers() {
                text.extend_from_slice(format!("{name}: ").as_bytes());
                text.extend_from_slice(value.as_bytes());
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"\r\n");
            self.write(&text);
        }
        self.logs(response.headers());
    }

    /// What the function has logged for this request.
    fn logs(&self, headers: &HeaderMap) {
        let Some(logs) = headers.get(LOGS) else { return };
        let Ok(entries) = serde_json::from_slice::<Vec<Fields>>(logs.as_bytes()) else {
            return self.complain("The logs that came with the answer cannot be read");
        };
        for mut entry in entries {
            let mut take = |name: &str| entry.shift_remove(name).unwrap_or_default();
            let level = Level::parse(take("level").as_str().unwrap_or_default());
            let millis =
                take("time").as_f64().filter(|millis| (0.0..1e15).contains(millis)).unwrap_or_default();
            let time: SystemTime = UNIX_EPOCH + Duration::from_secs_f64(millis / 1e3);
            let (name, message) = (take("name"), take("message"));
            // Of its own records the processor would leave some out.
            let name = format!("function.{}", name.as_str().unwrap_or_default());
            let message = message.as_str().unwrap_or_default();
            let line = format::line(&LogEncoding::Text, self.color_err, level, time, &name, message, &entry);
            self.say(line.trim_end());
        }
    }

    /// Whether the body has to be there as a whole before it is shown.
    pub(super) fn wants_whole(&self, headers: &HeaderMap) -> bool {
        self.out_is_terminal && is_json(headers)
    }

    /// A whole body.
    pub(super) fn body(&self, headers: &HeaderMap, body: &[u8]) {
        if self.out_is_terminal
            && is_json(headers)
            && let Ok(value) = serde_json::from_slice::<Value>(body)
        {
            return self.write(&pretty(&value, self.color_out));
        }
        self.piece(body);
    }

    /// A piece of a body, as it comes.
    pub(super) fn piece(&self, piece: &[u8]) {
        if self.out_is_terminal && piece.contains(&0) {
            return self
                .say(&format!("({} bytes that are no text; send them to a file: > FILE)", piece.len()));
        }
        self.write(piece);
    }

    /// After a body: the next thing begins on a line of its own.
    pub(super) fn end(&self, last: Option<u8>, several: bool) {
        if (self.out_is_terminal || several) && last.is_some_and(|byte| byte != b'\n') {
            self.write(b"\n");
        }
    }

    fn write(&self, bytes: &[u8]) {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).unwrap_or_default(); // A reader that has left has seen enough.
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || kind.ends_with("+json")
}

/// JSON over several lines; names in a colour of their own.
fn pretty(value: &Value, color: bool) -> Vec<u8> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let at = line.len() - line.trim_start().len();
        // Within a line of such JSON only a name is followed by `": `, unless a text holds that; then its first end counts.
        match line[at..].strip_prefix('"').and_then(name_end).filter(|_| color) {
            Some(end) => {
                let (name, rest) = line[at..].split_at(end + 2);
                out.push_str(&format!("{}\x1b[34m{name}\x1b[0m{rest}\n", &line[..at]));
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out.into_bytes()
}

/// Where the name ends that a line of an object begins with, behind its opening quote.
fn name_end(rest: &str) -> Option<usize> {
    let mut escaped = false;
    let end = rest.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    rest[end..].starts_with("\": ").then_some(end)
}

fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_json_are_tinted() {
        let value: Value = serde_json::from_str(r#"{"a\"": "x\": y", "b": ["p\": q"]}"#).unwrap();
        let text = String::from_utf8(pretty(&value, true)).unwrap();
        let expected = "{\n  \x1b[34m\"a\\\"\"\x1b[0m: \"x\\\": y\",\n  \x1b[34m\"b\"\x1b[0m: [\n    \"p\\\": q\"\n  ]\n}\n";
        assert_eq!(text, expected);
        assert!(!String::from_utf8(pretty(&value, false)).unwrap().contains('\x1b'));
    }
}
