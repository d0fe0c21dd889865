//! The vectors as data: what is sent, how the handler behaves, which answers are right. Sends nothing itself.

use serde_json::{Map, Value, json};

use crate::harness::merge;

/// What a vector may hold; anything else is a mistake.
const KEYS: &[&str] = &[
    "name",
    "area",
    "config-override",
    "request",
    "handler_behaviour",
    "expected",
    "evidence",
    "better",
    "applies_to",
    "level",
    "reference_differs",
    "reference_expected",
    "setup",
    "steps",
];

/// What `better` allows in words only, as the expectation it means; merged over the reference's.
const IN_WORDS: &[(&str, &str)] = &[
    // "answering 400 or closing after the answer is also right": closing is not asked about, so only 400 is missing.
    ("length-and-chunked", r#"{"status": 400, "body": {}, "connection": "close"}"#),
    // "Content-Length instead of chunks is fine when the size is known"
    (
        "file-stream",
        r#"{"headers": {"Content-Length": "12", "Transfer-Encoding": {"absent": true}, "Content-Type": "text/csv",
            "X-A": "1", "X-Nuclio-Filestream-Path": {"absent": true}}}"#,
    ),
];

/// What a `better` form leaves out: merged over that form. A 413 names the limit; an answer of the handler is not the
/// refusal that the reference gives.
const DECIDED: &[(&str, &str)] = &[
    ("body-over-limit", r#"{"body": {"regex": "\\b1024\\b"}}"#),
    ("body-over-limit-chunked", r#"{"body": {"regex": "\\b1024\\b"}}"#),
    ("body-over-default-limit-declared", r#"{"body": {"regex": "\\b4194304\\b"}}"#),
    (
        "multipart-body-malformed",
        r#"{"headers": {"Content-Type": "application/json", "Server": "nuclio"}, "connection": "keep-alive"}"#,
    ),
    (
        "file-stream-directory",
        r#"{"dropped_connection": false, "body": {"empty": true}, "connection": "keep-alive"}"#,
    ),
    ("expect-100-over-limit", r#"{"body": {"regex": "\\b4194304\\b"}}"#),
];

/// One vector, as the runner needs it.
pub struct Vector {
    pub name: String,
    pub area: String,
    /// `config-override`: `trigger`, `spec`, `platform`.
    pub overrides: Value,
    pub setup: Option<String>,
    pub steps: Vec<Step>,
    /// A quirk: whatever else happens is fine as long as the connection survives it sanely.
    pub may: bool,
    pub applies_to: Option<String>,
}

/// One request (or several at once) and what must come of it.
pub struct Step {
    pub request: Value,
    pub behaviour: Value,
    /// Any of these is right.
    pub forms: Vec<Form>,
}

/// One right outcome.
pub struct Form {
    pub name: &'static str,
    pub expected: Map<String, Value>,
}

/// All vectors of the file.
pub fn load() -> Vec<Vector> {
    let file: Value = serde_json::from_str(include_str!("../../vectors/http.json")).unwrap();
    assert_eq!(file["format"], 1);
    file["vectors"].as_array().unwrap().iter().map(vector).collect()
}

fn vector(raw: &Value) -> Vector {
    let name = raw["name"].as_str().unwrap();
    for key in raw.as_object().unwrap().keys() {
        assert!(KEYS.contains(&key.as_str()), "{name}: unknown key {key}");
    }
    let steps = match raw["steps"].as_array() {
        Some(steps) => steps.iter().map(|raw| step(name, raw)).collect(),
        None => vec![step(name, raw)],
    };
    let text = |key: &str| raw[key].as_str().map(str::to_owned);
    let level = raw["level"].as_str().unwrap_or("must");
    assert!(["must", "should", "may"].contains(&level), "{name}: unknown level {level}");
    Vector {
        name: name.to_owned(),
        area: text("area").unwrap(),
        overrides: raw["config-override"].clone(),
        setup: text("setup"),
        steps,
        may: level == "may",
        applies_to: text("applies_to"),
    }
}

fn step(name: &str, raw: &Value) -> Step {
    let expected = raw["expected"].as_object().unwrap().clone();
    let mut forms = Vec::new();
    if let Some(better) = raw["better"]["expected"].as_object() {
        let decided = overlay(DECIDED, name);
        forms.push(Form { name: "better", expected: over(&over(&expected, better), &decided) });
    }
    let words = overlay(IN_WORDS, name);
    if !words.is_empty() {
        forms.push(Form { name: "allowed in words", expected: over(&expected, &words) });
    }
    forms.insert(0, Form { name: "expected", expected });
    Step { request: raw["request"].clone(), behaviour: raw["handler_behaviour"].clone(), forms }
}

fn overlay(table: &[(&str, &str)], name: &str) -> Map<String, Value> {
    let found = table.iter().find(|(other, _)| *other == name);
    found.map_or_else(Map::new, |(_, text)| serde_json::from_str(text).unwrap())
}

/// Merged over: headers one by one, everything else as a whole.
fn over(base: &Map<String, Value>, more: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = base.clone();
    for (key, value) in more {
        match (key.as_str(), merged.get_mut(key)) {
            ("headers", Some(Value::Object(headers))) => {
                headers.extend(value.as_object().unwrap().clone());
            }
            _ => drop(merged.insert(key.clone(), value.clone())),
        }
    }
    merged
}

impl Vector {
    /// `spec` as the overrides make it.
    pub fn spec(&self) -> Value {
        let mut spec = self.overrides.get("spec").cloned().unwrap_or_else(|| json!({}));
        if let Some(trigger) = self.overrides.get("trigger") {
            merge(&mut spec, json!({"triggers": {"default-http": trigger}}));
        }
        for key in self.overrides.as_object().unwrap().keys() {
            assert!(["trigger", "spec", "platform"].contains(&key.as_str()), "{}: override {key}", self.name);
        }
        spec
    }

    pub fn applies_to(&self, runtime: &str) -> bool {
        match self.applies_to.as_deref() {
            None => true,
            Some("plugin") => runtime == "library",
            Some("shim" | "python") => runtime == "python",
            Some(other) => panic!("{}: applies to {other}", self.name),
        }
    }
}
