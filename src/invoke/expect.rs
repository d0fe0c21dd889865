//! What an answer has to be, and how it differs.

use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Characters shown of a text that differs.
const SHOWN_MAX: usize = 300;

/// What an answer has to be.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    status: Option<u16>,
    /// Values as a whole.
    #[serde(default)]
    headers: Map<String, Value>,
    /// A text as a whole, or JSON as a value.
    body: Option<Value>,
    /// A part of the body.
    contains: Option<String>,
}

impl Expectation {
    /// How an answer differs; empty: not at all. Without a status those below 400 are expected.
    pub(super) fn differences(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        match self.status {
            Some(wanted) if wanted != status => {
                found.push(format!("status: expected {wanted}, got {status}"))
            }
            None if status >= 400 => found.push(format!("status: expected one below 400, got {status}")),
            _ => {}
        }
        for (name, wanted) in &self.headers {
            let wanted = wanted.as_str().map_or_else(|| wanted.to_string(), str::to_owned);
            let got = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            if got.as_ref() != Some(&wanted) {
                let got = got.map_or_else(|| "none".to_owned(), |got| format!("{got:?}"));
                found.push(format!("header {name}: expected {wanted:?}, got {got}"));
            }
        }
        let text = String::from_utf8_lossy(body);
        match &self.body {
            Some(Value::String(wanted)) if wanted.as_bytes() != body => {
                found.push(format!("body: {}", differs(wanted, &text)));
            }
            Some(Value::String(_)) | None => {}
            Some(wanted) => match serde_json::from_slice::<Value>(body) {
                Ok(got) => compare("body", wanted, &got, &mut found),
                Err(_) => found.push(format!("body: expected JSON, got {:?}", cut(&text))),
            },
        }
        if let Some(part) = self.contains.as_ref().filter(|part| !text.contains(part.as_str())) {
            found.push(format!("body: expected to contain {part:?}, got {:?}", cut(&text)));
        }
        found
    }
}

/// Names the places that differ.
fn compare(path: &str, wanted: &Value, got: &Value, found: &mut Vec<String>) {
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(got)) => {
            for (name, value) in wanted {
                match got.get(name) {
                    Some(other) => compare(&format!("{path}.{name}"), value, other, found),
                    None => found.push(format!("{path}.{name}: expected {}, got none", short(value))),
                }
            }
            for (name, value) in got.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
                found.push(format!("{path}.{name}: not expected, got {}", short(value)));
            }
        }
        (Value::Array(wanted), Value::Array(got)) if wanted.len() == got.len() => {
            for (at, (wanted, got)) in wanted.iter().zip(got).enumerate() {
                compare(&format!("{path}[{at}]"), wanted, got, found);
            }
        }
        _ if wanted == got => {}
        _ => found.push(format!("{path}: expected {}, got {}", short(wanted), short(got))),
    }
}

/// Both texts, from where they differ if they are long.
fn differs(wanted: &str, got: &str) -> String {
    let same = wanted.chars().zip(got.chars()).take_while(|(one, other)| one == other).count();
    if same < SHOWN_MAX / 4 {
        return format!("expected {:?}, got {:?}", cut(wanted), cut(got));
    }
    let rest = |text: &str| cut(&text.chars().skip(same).collect::<String>());
    format!("from character {} on expected {:?}, got {:?}", same + 1, rest(wanted), rest(got))
}

fn short(value: &Value) -> String {
    cut(&value.to_string())
}

fn cut(text: &str) -> String {
    let mut out: String = text.chars().take(SHOWN_MAX).collect();
    if out.len() < text.len() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(expected: &str, status: u16, body: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", http::HeaderValue::from_static("1"));
        let expected: Expectation = serde_json::from_str(expected).unwrap();
        expected.differences(status, &headers, body.as_bytes()).join("; ")
    }

    #[test]
    fn answers_as_expected_do_not_differ() {
        for expected in [
            "{}",
            r#"{"status": 200, "headers": {"X-A": "1"}, "body": {"a": [1, {"b": null}]}, "contains": "null"}"#,
            r#"{"body": "{\"a\": [1, {\"b\": null}]}"}"#,
        ] {
            assert_eq!(of(expected, 200, r#"{"a": [1, {"b": null}]}"#), "");
        }
        assert_eq!(of(r#"{"status": 404}"#, 404, ""), "");
    }

    #[test]
    fn the_places_that_differ_are_named() {
        for (expected, found) in [
            ("{}", "status: expected one below 400, got 500"),
            (r#"{"status": 200}"#, "status: expected 200, got 500"),
            (
                r#"{"status": 500, "headers": {"x-a": 2, "x-b": "3"}}"#,
                "header x-a: expected \"2\", got \"1\"; header x-b: expected \"3\", got none",
            ),
            (
                r#"{"status": 500, "body": {"a": [1, 3], "c": 1}}"#,
                "body.a[1]: expected 3, got 2; body.c: expected 1, got none; body.b: not expected, got 0",
            ),
            (
                r#"{"status": 500, "body": "x"}"#,
                "body: expected \"x\", got \"{\\\"a\\\": [1, 2], \\\"b\\\": 0}\"",
            ),
            (
                r#"{"status": 500, "contains": "zz"}"#,
                "body: expected to contain \"zz\", got \"{\\\"a\\\": [1, 2], \\\"b\\\": 0}\"",
            ),
        ] {
            assert_eq!(of(expected, 500, r#"{"a": [1, 2], "b": 0}"#), found);
        }
        assert_eq!(of(r#"{"body": 1}"#, 200, "no"), "body: expected JSON, got \"no\"");
        let long = "x".repeat(500);
        let found = of(&format!("{{\"body\": \"{long}a\"}}"), 200, &format!("{long}b"));
        assert_eq!(found, "body: from character 501 on expected \"a\", got \"b\"");
    }
}
