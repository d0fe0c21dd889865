//! Makes the schemas of the structs, for the test that compares them with the files in `docs/schema`.
//!
//! A new key is a field with a comment and needs nothing here. A new kind of trigger or sink whose attributes are a
//! struct gets a row in [`trigger_attributes`], [`log_sinks`] or [`metric_sinks`].

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema as Tree, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::Schema;
use crate::config::function_keys::Top;
use crate::config::platform::Settings;
use crate::config::sinks::DefinitionFile;
use crate::config::trigger::{OTHER_KINDS, TriggerFile};
use crate::config::{RuntimeKind, cron_trigger, http_trigger, log_sinks::StdoutAttributes, metric_sinks};

/// Kinds of triggers and the schemas of their attributes.
fn trigger_attributes(generator: &mut SchemaGenerator) -> Vec<(&'static str, Tree)> {
    vec![
        ("http", generator.subschema_for::<http_trigger::Attributes>()),
        ("cron", generator.subschema_for::<cron_trigger::CronAttributes>()),
        ("kickstart", generator.subschema_for::<cron_trigger::KickstartAttributes>()),
    ]
}

/// `logger.sinks`.
pub(crate) fn log_sinks(generator: &mut SchemaGenerator) -> Tree {
    let stdout = generator.subschema_for::<StdoutAttributes>();
    sinks(generator, &["stdout", "appinsights"], &[("stdout", stdout)])
}

/// `metrics.sinks`.
pub(crate) fn metric_sinks(generator: &mut SchemaGenerator) -> Tree {
    let prometheus = generator.subschema_for::<metric_sinks::Attributes>();
    let kinds = ["prometheusPull", "prometheusPush", "appinsights"];
    sinks(generator, &kinds, &[("prometheusPull", prometheus.clone()), ("prometheusPush", prometheus)])
}

fn sinks(generator: &mut SchemaGenerator, kinds: &[&str], attributes: &[(&str, Tree)]) -> Tree {
    let mut sink = generator.subschema_for::<DefinitionFile>();
    sink.insert("properties".into(), json!({ "kind": { "enum": kinds } }));
    sink.insert("allOf".into(), by_kind(attributes));
    json_schema!({ "type": "object", "additionalProperties": sink })
}

/// `if` the kind is this one, `then` the attributes are these.
fn by_kind(attributes: &[(&str, Tree)]) -> Value {
    let rule = |(kind, attributes): &(&str, Tree)| {
        json!({
            "if": { "properties": { "kind": { "const": kind } }, "required": ["kind"] },
            "then": { "properties": { "attributes": attributes } },
        })
    };
    attributes.iter().map(rule).collect()
}

/// `spec.runtime`.
pub(crate) fn runtime(_: &mut SchemaGenerator) -> Tree {
    let names: Vec<&str> = RuntimeKind::NAMED.iter().map(|(name, _)| *name).collect();
    let versioned = format!("^({}):", names.join("|"));
    json_schema!({ "type": "string", "anyOf": [{ "enum": names }, { "pattern": versioned }] })
}

/// A level in any case.
pub(crate) fn level(_: &mut SchemaGenerator) -> Tree {
    let any_case = |word: &str| word.chars().map(|c| format!("[{}{c}]", c.to_ascii_uppercase())).collect();
    let words: Vec<String> = ["debug", "info", "warn", "warning", "error"].map(any_case).to_vec();
    let others = format!("^({})$", words.join("|"));
    json_schema!({ "type": "string", "anyOf": [{ "enum": ["debug", "info", "warn", "error"] }, { "pattern": others }] })
}

/// `kind` of a trigger.
pub(crate) fn trigger_kind(_: &mut SchemaGenerator) -> Tree {
    let kinds: Vec<&str> = std::iter::once("http").chain(OTHER_KINDS.iter().copied()).collect();
    json_schema!({ "type": "string", "enum": kinds })
}

/// A Go duration; empty counts as absent.
pub(crate) fn duration(_: &mut SchemaGenerator) -> Tree {
    json_schema!({
        "type": "string",
        "pattern": r"^$|^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$",
    })
}

/// Bytes as Kubernetes writes them.
pub(crate) fn quantity(_: &mut SchemaGenerator) -> Tree {
    json_schema!({ "type": "string", "pattern": r"^[0-9]+(\.[0-9]*)?([eE][0-9]+|[KMGTP]i|[kMGTP])?$" })
}

/// The schema of a file, as it stands in `docs/schema`.
fn generate(schema: Schema) -> String {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let attributes = trigger_attributes(&mut generator);
    let mut tree = match schema {
        Schema::Processor => generator.into_root_schema_for::<Top>(),
        Schema::Platform => {
            SchemaGenerator::from(SchemaSettings::draft2020_12()).into_root_schema_for::<Settings>()
        }
    };
    if schema == Schema::Processor {
        let trigger = &mut tree.get_mut("$defs").expect("there are triggers")[&*TriggerFile::schema_name()];
        trigger["allOf"] = by_kind(&attributes);
        trigger["required"] = json!(["kind"]);
    }
    tree.insert("title".into(), format!("{}.yaml", schema.name()).into());
    let mut tree = tree.to_value();
    let mut definitions = tree["$defs"].take();
    finish(&mut tree);
    definitions.as_object_mut().expect("there are structs").values_mut().for_each(finish);
    tree["$defs"] = definitions;
    serde_json::to_string_pretty(&tree).expect("it is a tree") + "\n"
}

/// One struct: closed, and its keys with what people need to know.
fn finish(tree: &mut Value) {
    let Some(Value::Object(properties)) = tree.get_mut("properties") else { return };
    for (key, property) in properties {
        let property = property.as_object_mut().unwrap_or_else(|| panic!("{key} has no description"));
        assert!(
            property.contains_key("description"),
            "{key} has no description: write a comment above its field"
        );
        if property.remove("ignored").is_some() {
            let description = property["description"].as_str().expect("it is text");
            let description = format!("{description} Accepted and ignored by the processor.");
            property.insert("description".into(), description.into());
            property.remove("default");
        }
        property.remove("format");
        // What serde starts from is no default unless it says something.
        let nothing = [json!(null), json!(""), json!(0), json!([]), json!({})];
        let default = property.get("default");
        if default.is_some_and(|default| nothing.contains(default) || default.is_object()) {
            property.remove("default");
        }
    }
    let tree = tree.as_object_mut().expect("it has properties");
    tree.entry("additionalProperties").or_insert(Value::Bool(false));
}

/// A struct that is read and in no schema would be unknown to `processor check` and to editors.
#[test]
fn every_struct_that_is_read_is_in_a_schema() {
    let trees = Schema::ALL.map(generate);
    let mut seen = 0;
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/config"))];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()) {
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    // This file has the words it looks for.
    for path in files.iter().filter(|path| !path.ends_with("schema/generate.rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        for block in text.split("#[derive(").skip(1).filter(|block| {
            block.split(')').next().is_some_and(|names| names.split(", ").any(|name| name == "Deserialize"))
        }) {
            let (attributes, rest) = block.split_once("struct ").expect("only structs are read");
            let name = rest.split([' ', '(', '<']).next().unwrap();
            assert!(attributes.contains("derive(schemars::JsonSchema)"), "{name} derives no JsonSchema");
            let renamed =
                attributes.split_once("schemars(rename = \"").and_then(|(_, rest)| rest.split('"').next());
            let root = ["Function", "Platform"].contains(&renamed.unwrap_or(name));
            let reached =
                trees.iter().any(|tree| tree.contains(&format!("/$defs/{}\"", renamed.unwrap_or(name))));
            assert!(root || reached, "{name} is in no schema: see the head of this file");
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen} structs");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a switch for the test alone")]
fn the_files_are_what_the_structs_make() {
    for schema in Schema::ALL {
        let path = format!("{}/docs/schema/{}.schema.json", env!("CARGO_MANIFEST_DIR"), schema.name());
        let made = generate(schema);
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            there == made,
            "{path} is out of date: run `UPDATE_SCHEMA=1 cargo test --lib schema`, then build"
        );
    }
}
