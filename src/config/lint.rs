//! A file against its schema: everything odd in it at once, with line, path and the word that may be meant.
//!
//! Loading stops at the first mistake and mends what is clear without a word; whoever writes a file wants to know all
//! of it. The rules are those of `decode.rs`: what that accepts is at most a hint here.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value as Json;

use super::load::read_text_and_tree;
use super::nearest::nearest;
use super::scalar::{self, Scalar};
use super::schema::Schema;
use super::source::{Source, unknown_key};
use super::yaml::{Entry, Node, Value, further_document};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// A start is refused.
    Error,
    /// Without effect, which can hardly be meant.
    Warning,
    /// Accepted, but other readers may refuse it or read something else.
    Hint,
}

/// Something odd in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// `file:line: path`.
    pub place: String,
    /// What is odd, and what to do.
    pub text: String,
    /// Loading never says it, whatever else it says of this place.
    pub beside: bool,
}

/// Compares a file with its schema. One that cannot be read or is not YAML has no findings: loading it says why.
pub fn lint(file: &Path, schema: Schema) -> Vec<Finding> {
    let Ok((text, Some(root))) = read_text_and_tree(file, &[], &[]) else { return Vec::new() };
    let tree = schema.tree();
    let mut lint = Lint { source: Source::new(file), tree: &tree, findings: Vec::new() };
    let top = Position { path: "", line: root.line, in_attributes: false };
    lint.node(&root, &tree, top);
    if let Some(line) = further_document(&text) {
        let text = "a further YAML document begins here; only the first document is read";
        lint.find_beside(Severity::Warning, Position { line, ..top }, text);
    }
    // Where a kind has rules of its own, these say again what those of all kinds say.
    let mut seen = HashSet::new();
    lint.findings.retain(|finding| seen.insert((finding.place.clone(), finding.text.clone())));
    lint.findings.sort_by_key(|finding| finding.severity);
    lint.findings
}

struct Lint<'a> {
    source: Source,
    tree: &'a Json,
    findings: Vec<Finding>,
}

#[derive(Clone, Copy)]
struct Position<'a> {
    path: &'a str,
    line: usize,
    /// Below a key `attributes`, where fractions are cut off.
    in_attributes: bool,
}

impl<'a> Lint<'a> {
    fn find(&mut self, severity: Severity, at: Position<'_>, text: impl AsRef<str>) {
        let problem = self.source.place(at.line, at.path).problem(text.as_ref());
        let text = problem.wrong.clone();
        self.findings.push(Finding { severity, place: problem.place(), text, beside: false });
    }

    /// What loading never says.
    fn find_beside(&mut self, severity: Severity, at: Position<'_>, text: impl AsRef<str>) {
        self.find(severity, at, text);
        self.findings.last_mut().into_iter().for_each(|finding| finding.beside = true);
    }

    /// Of a key that is written twice only the last counts.
    fn find_twice(&mut self, before: usize, at: Position<'_>) {
        let text = format!("written before, at line {before}; only the last one counts");
        self.find_beside(Severity::Warning, at, text);
    }

    fn node(&mut self, node: &Node, schema: &'a Json, at: Position<'_>) {
        if node.is_null() {
            return;
        }
        if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
            self.node(node, &self.tree["$defs"][name], at);
        }
        match wanted(schema) {
            Some("object") => self.object(node, schema, at),
            Some("array") => self.array(node, schema, at),
            Some(wanted) => self.scalar(node, wanted, at),
            None if matches!(node.value, Value::Mapping(_)) => self.object(node, schema, at),
            None => {}
        }
        self.one_of(node, schema, at);
        for rule in schema["allOf"].as_array().into_iter().flatten() {
            if applies(rule, node) {
                self.node(node, &rule["then"], at);
            }
        }
    }

    fn object(&mut self, node: &Node, schema: &'a Json, at: Position<'_>) {
        let Value::Mapping(entries) = &node.value else {
            return self.mismatch(node, "a map", at);
        };
        for entry in entries {
            let path =
                if at.path.is_empty() { entry.key.clone() } else { format!("{}.{}", at.path, entry.key) };
            let in_attributes = at.in_attributes || entry.key.eq_ignore_ascii_case("attributes");
            let inner = Position { path: &path, line: entry.line, in_attributes };
            if let Some(before) = entry.before {
                self.find_twice(before, inner);
            }
            if let Some(schema) = self.schema_of(entry, schema, inner) {
                self.node(&entry.value, schema, inner);
            }
        }
    }

    /// What a key's value should look like; `None` when nothing is said of it.
    fn schema_of(&mut self, entry: &Entry, schema: &'a Json, at: Position<'_>) -> Option<&'a Json> {
        if let Some(properties) = schema["properties"].as_object() {
            if let Some(property) = properties.get(&entry.key) {
                return Some(property);
            }
            let other = properties.iter().find(|(name, _)| name.eq_ignore_ascii_case(&entry.key));
            if let Some((name, property)) = other {
                self.find(Severity::Hint, at, format!("read as {name}; write it so"));
                return Some(property);
            }
            if schema["additionalProperties"] == false {
                let meant = nearest(&entry.key, properties.keys().map(String::as_str));
                self.find(Severity::Warning, at, unknown_key(meant));
            }
        }
        Some(&schema["additionalProperties"]).filter(|other| other.is_object())
    }

    fn array(&mut self, node: &Node, schema: &'a Json, at: Position<'_>) {
        match &node.value {
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{}[{index}]", at.path);
                    self.node(item, &schema["items"], Position { path: &path, line: item.line, ..at });
                }
            }
            Value::Scalar { .. } => {
                self.find(Severity::Hint, at, "read as a list of one; write it as a list");
                self.node(node, &schema["items"], at);
            }
            Value::Mapping(_) => self.mismatch(node, "a list", at),
        }
    }

    fn scalar(&mut self, node: &Node, wanted: &str, at: Position<'_>) {
        let Value::Scalar { text, plain } = &node.value else {
            return self.mismatch(node, in_words(wanted), at);
        };
        // Quotes do not matter to the processor, but to others.
        match (wanted, scalar::resolve(text.trim(), true)) {
            ("string", _) => match node.scalar() {
                Some(Scalar::Bool(_)) => {
                    self.find(Severity::Hint, at, "looks like a boolean; quote the text")
                }
                Some(Scalar::Integer(_) | Scalar::Float(_)) => {
                    self.find(Severity::Hint, at, "looks like a number; quote the text");
                }
                _ => {}
            },
            ("boolean", Scalar::Bool(_)) | ("integer", Scalar::Integer(_)) if *plain => {}
            ("integer", Scalar::Float(value)) if value.fract() == 0.0 && *plain => {}
            ("number", Scalar::Integer(_) | Scalar::Float(_)) if *plain => {}
            ("boolean", Scalar::Bool(_)) | ("integer", Scalar::Integer(_)) => {
                self.find(Severity::Hint, at, "written as text; remove the quotes");
            }
            ("integer", Scalar::Float(value)) if value.fract() == 0.0 => {
                self.find(Severity::Hint, at, "written as text; remove the quotes");
            }
            ("integer", Scalar::Float(_)) if at.in_attributes => {
                self.find(Severity::Hint, at, "the fraction is cut off; write an integer");
            }
            (_, Scalar::Null) => {}
            _ => self.mismatch(node, in_words(wanted), at),
        }
    }

    fn one_of(&mut self, node: &Node, schema: &Json, at: Position<'_>) {
        // Other spellings of the words, and words with more behind them, are in the second member of `anyOf`.
        let (words, open) = match &schema["enum"] {
            Json::Null => (&schema["anyOf"][0]["enum"], true),
            words => (words, false),
        };
        let (Some(words), Value::Scalar { text, .. }) = (words.as_array(), &node.value) else { return };
        let words: Vec<&str> = words.iter().filter_map(Json::as_str).collect();
        let fits = |word: &&str| *word == text || open && text.to_lowercase().starts_with(*word);
        if text.is_empty() || words.iter().any(fits) {
            return;
        }
        let written = text.split(':').next().unwrap_or(text);
        let meant = nearest(written, words.iter().copied()).map(|word| format!("; did you mean {word}?"));
        let known = words.join(", ");
        let text = format!("{text:?} is not one of: {known}{}", meant.unwrap_or_default());
        self.find(Severity::Warning, at, text);
    }

    fn mismatch(&mut self, node: &Node, wanted: &str, at: Position<'_>) {
        let found = match &node.value {
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a map".to_owned(),
        };
        self.find(Severity::Error, at, format!("expected {wanted}, found {found}"));
    }
}

/// The type that is wanted, null aside.
fn wanted(schema: &Json) -> Option<&str> {
    match &schema["type"] {
        Json::Array(types) => types.iter().filter_map(Json::as_str).find(|name| *name != "null"),
        name => name.as_str(),
    }
}

fn in_words(wanted: &str) -> &str {
    match wanted {
        "string" => "text",
        "boolean" => "true or false",
        "integer" => "an integer",
        "number" => "a number",
        other => other,
    }
}

/// Whether the kind of a node is the one of a rule.
fn applies(rule: &Json, node: &Node) -> bool {
    let kind = rule["if"]["properties"]["kind"]["const"].as_str();
    let text = node.child("kind").map(|kind| &kind.value);
    matches!((kind, text), (Some(kind), Some(Value::Scalar { text, .. })) if kind == text)
}
