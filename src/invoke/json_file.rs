//! Requests as JSON: one object, or a list of such.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::expect::Expectation;
use super::sample::{Fault, Sample};

/// One request as it is written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(default)]
    name: String,
    #[serde(default)]
    method: String,
    /// A path, or an address with a host.
    #[serde(default = "root")]
    path: String,
    #[serde(default)]
    query: Map<String, Value>,
    #[serde(default)]
    headers: Map<String, Value>,
    /// A text as it is; anything else as JSON.
    body: Option<Value>,
    body_base64: Option<String>,
    expect: Option<Expectation>,
}

fn root() -> String {
    "/".to_owned()
}

/// All requests of a file, in its order.
///
/// # Errors
/// What is wrong, with the line.
pub(super) fn parse(file: &Path, text: &str) -> Result<Vec<Sample>, Fault> {
    let text = text.trim_start_matches('\u{feff}');
    let written: Result<Vec<Written>, _> = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text),
        false => serde_json::from_str(text).map(|one| vec![one]),
    };
    let written = written.map_err(|error| {
        let whole = error.to_string();
        let wrong = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(wrong, _)| wrong);
        Fault::new(file, error.line(), wrong)
    })?;
    if written.is_empty() {
        return Err(Fault::new(
            file,
            0,
            "there is no request in it; write objects such as {\"path\": \"/\"}",
        ));
    }
    let read = |(at, one): (usize, Written)| {
        let which = if one.name.is_empty() { format!("request {}", at + 1) } else { one.name.clone() };
        one.read().map_err(|wrong| Fault::new(file, 0, format!("{which}: {wrong}")))
    };
    written.into_iter().enumerate().map(read).collect()
}

impl Written {
    fn read(self) -> Result<Sample, String> {
        if !self.method.is_empty() && http::Method::from_bytes(self.method.as_bytes()).is_err() {
            return Err(format!("method {:?} is none", self.method));
        }
        let mut sample = Sample {
            name: self.name,
            method: self.method,
            target: self.path,
            expect: self.expect,
            ..Sample::default()
        };
        for (name, value) in &self.query {
            for text in texts(name, value)? {
                sample.target.push(if sample.target.contains('?') { '&' } else { '?' });
                sample.target.push_str(&format!("{}={}", encode(name), encode(&text)));
            }
        }
        for (name, value) in &self.headers {
            for text in texts(name, value)? {
                sample.headers.push(super::header(&format!("{name}: {text}"))?);
            }
        }
        sample.body = match (self.body, self.body_base64) {
            (Some(_), Some(_)) => return Err("give body or bodyBase64, not both".to_owned()),
            (None, None) => Vec::new(),
            (Some(Value::String(text)), None) => text.into_bytes(),
            (Some(value), None) => {
                if sample.header("Content-Type").is_none() {
                    sample.headers.push(("Content-Type".to_owned(), "application/json".to_owned()));
                }
                value.to_string().into_bytes()
            }
            (None, Some(text)) => STANDARD
                .decode(text.split_whitespace().collect::<String>())
                .map_err(|error| format!("bodyBase64 is not base64: {error}"))?,
        };
        Ok(sample)
    }
}

/// A text, a number, or several of them.
fn texts(name: &str, value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Number(_) | Value::Bool(_) => Ok(vec![value.to_string()]),
        Value::Array(list) => {
            let texts: Result<Vec<Vec<String>>, String> = list.iter().map(|one| texts(name, one)).collect();
            Ok(texts?.concat())
        }
        Value::Null | Value::Object(_) => {
            Err(format!("the value of {name} has to be a text, a number or a list of such"))
        }
    }
}

fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Sample>, String> {
        parse(Path::new("r.json"), text).map_err(|fault| fault.to_string())
    }

    #[test]
    fn an_object_is_a_request_and_a_list_several() {
        let text = r#"{"name": "n", "path": "/p?z=0", "query": {"a b": "ü&", "n": [1, true]},
            "headers": {"X-A": "1", "X-B": ["2", "3"]}, "body": {"k": [1]}, "expect": {"status": 201}}"#;
        let all = of(text).unwrap();
        let one = &all[0];
        assert_eq!(one.target, "/p?z=0&a%20b=%C3%BC%26&n=1&n=true");
        assert_eq!((one.method(), one.body.as_slice()), ("POST", &br#"{"k":[1]}"#[..]));
        assert_eq!((one.header("content-type"), one.headers.len()), (Some("application/json"), 4));
        let all = of(r#"[{}, {"method": "PUT", "body": "text"}, {"bodyBase64": "AAEC /w=="}]"#).unwrap();
        assert_eq!((all[0].method(), all[0].target.as_str()), ("GET", "/"));
        assert_eq!((all[1].body.as_slice(), all[1].headers.len()), (&b"text"[..], 0));
        assert_eq!(all[2].body, [0, 1, 2, 255]);
    }

    #[test]
    fn mistakes_are_named_with_their_line_or_request() {
        for (text, expected) in [
            ("", "r.json:1: EOF while parsing"),
            ("{\n \"path\": \"/\",\n \"pth\": 1}", "r.json:3: unknown field `pth`, expected one of"),
            ("{\n \"path\": 1}", "r.json:2: invalid type: integer `1`, expected a string"),
            ("[]", "r.json: there is no request in it"),
            (r#"{"body": 1, "bodyBase64": ""}"#, "r.json: request 1: give body or bodyBase64"),
            (r#"{"bodyBase64": "?"}"#, "r.json: request 1: bodyBase64 is not base64"),
            (r#"[{}, {"name": "b", "headers": {"a": {}}}]"#, "r.json: b: the value of a has to be"),
            (r#"{"headers": {"a b": "1"}}"#, "r.json: request 1: cannot read"),
            (r#"{"method": "a b"}"#, "r.json: request 1: method \"a b\" is none"),
            (&"[".repeat(100_000), "r.json:1: "),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
