//! What log sinks and metric sinks have in common in the files: definitions by name, and lists that bind them.

use serde::Deserialize;

use super::decode::Fractions;
use super::error::Problem;
use super::ignored::Ignored;
#[cfg(test)]
use super::schema::generate;
use super::source::{Place, Source};
use super::yaml::{Node, Value};

/// An entry of `logger.sinks` or `metrics.sinks`.
#[derive(Debug, Clone)]
pub(super) struct SinkDefinition {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) url: String,
    pub(super) enabled: bool,
    pub(super) attributes: Option<Node>,
    /// Where the entry stands.
    pub(super) place: Place,
}

/// A sink under its name.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "SinkFile"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DefinitionFile {
    /// What the sink does.
    kind: String,
    /// Its address; what it means depends on the kind.
    url: String,
    /// A sink that is off is checked and left out; metric sinks only.
    #[cfg_attr(test, schemars(extend("default" = true)))]
    enabled: Option<bool>,
    /// Settings of the sink's kind.
    #[cfg_attr(test, schemars(with = "std::collections::BTreeMap<String, serde_json::Value>"))]
    _attributes: Ignored,
}

/// A sink to use.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "SinkBinding"))]
#[serde(default)]
pub(super) struct BindingFile {
    /// Lowest level that is written, in any case; everything unknown is `debug`.
    #[cfg_attr(test, schemars(schema_with = "generate::level", extend("default" = "debug")))]
    pub(super) level: String,
    /// Name of the sink.
    pub(super) sink: String,
}

/// A sink to use, and where that is said.
#[derive(Debug, Clone, Default)]
pub(super) struct Binding {
    pub(super) level: String,
    pub(super) sink: String,
    pub(super) place: Place,
}

/// Reads a mapping of sinks.
pub(super) fn definitions(
    source: &mut Source,
    node: &Node,
    path: &str,
) -> Result<Vec<SinkDefinition>, Box<Problem>> {
    let Value::Mapping(entries) = &node.value else {
        let problem = source.place(node.line, path).problem("expected a map of sinks by name");
        return Err(problem.remedy("write `name: {kind: …}`"));
    };
    let mut definitions = Vec::new();
    for entry in entries {
        let key = format!("{path}.{}", entry.key);
        let file: DefinitionFile = source
            .decode(&entry.value, &key, Fractions::Refuse)
            .map_err(|error| source.decode_problem(error).remedy("write kind, url and attributes"))?;
        definitions.push(SinkDefinition {
            name: entry.key.clone(),
            kind: file.kind,
            url: file.url,
            enabled: file.enabled.unwrap_or(true),
            attributes: entry.value.child("attributes").cloned(),
            place: source.place(entry.line, key),
        });
    }
    Ok(definitions)
}

/// Gives the entries of a list their places; `parent` is the node that holds it under `key`.
pub(super) fn bindings(
    source: &Source,
    files: &[BindingFile],
    parent: Option<&Node>,
    key: &str,
    path: &str,
) -> Vec<Binding> {
    let lines = lines(parent, key);
    let binding = |(index, file): (usize, &BindingFile)| Binding {
        level: file.level.clone(),
        sink: file.sink.clone(),
        place: source.place(lines.get(index).copied().unwrap_or(0), format!("{path}.{key}[{index}]")),
    };
    files.iter().enumerate().map(binding).collect()
}

/// The names in `metrics.functions`, with their places.
pub(super) fn names(source: &Source, names: &[String], metrics: Option<&Node>) -> Vec<Binding> {
    let lines = lines(metrics, "functions");
    let binding = |(index, name): (usize, &String)| Binding {
        level: String::new(),
        sink: name.clone(),
        place: source.place(lines.get(index).copied().unwrap_or(0), format!("metrics.functions[{index}]")),
    };
    names.iter().enumerate().map(binding).collect()
}

fn lines(parent: Option<&Node>, key: &str) -> Vec<usize> {
    match parent.and_then(|node| node.child(key)).map(|node| &node.value) {
        Some(Value::Sequence(items)) => items.iter().map(|item| item.line).collect(),
        _ => Vec::new(),
    }
}

/// `a, b, c`, for remedies.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().collect();
    if names.is_empty() { "none is defined".to_owned() } else { names.join(", ") }
}
