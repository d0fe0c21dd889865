//! Masked fields restored from the secret that the platform mounts.
//!
//! The platform writes `$ref:<path>` in place of a secret and the secret itself into one file. Values are only ever
//! replaced whole; nothing here prints one.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::error::{ConfigError, Problem};
use super::yaml::{Node, Value};

/// Largest secret file read.
const CONTENT_BYTES_MAX: u64 = 16 << 20;
const KEY_PREFIX: &str = "NUCLIO_B64_";
const REFERENCE_PREFIX: &str = "$ref:";

/// Reference text to secret.
pub(crate) type Secrets = BTreeMap<String, String>;

/// Reads the file `content` of a directory; an empty file has no secrets.
pub(crate) fn load(directory: &Path) -> Result<Secrets, ConfigError> {
    let file = directory.join("content");
    let text = super::load::read_bounded(&file, CONTENT_BYTES_MAX).map_err(|error| {
        let problem = if error.kind() == std::io::ErrorKind::NotFound {
            Problem::new("Secret is not mounted to function pod")
                .remedy("mount it, or set NUCLIO_FUNCTION_SECRET_VOLUME_PATH to its directory")
        } else {
            Problem::new(format!("open {}: {error}", file.display())).remedy("make it readable")
        };
        secret_error(problem.cause("Failed to get secrets map"), &file)
    })?;
    if text.trim_ascii().is_empty() {
        return Ok(Secrets::new());
    }
    decode(&text).map_err(|wrong| {
        let problem = Problem::new(wrong).remedy("write base64 of a JSON object of texts");
        secret_error(problem, &file)
    })
}

fn secret_error(problem: Box<Problem>, file: &Path) -> ConfigError {
    ConfigError::Secret(problem.file(file).cause("Failed to restore function configuration"))
}

fn decode(content: &[u8]) -> Result<Secrets, String> {
    // compat: line breaks are ignored, no other blank.
    let content: Vec<u8> = content.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let json =
        STANDARD.decode(content).map_err(|error| format!("Failed to decode object secret: {error}"))?;
    let values: BTreeMap<String, Option<String>> = serde_json::from_slice(&json)
        // serde_json's own message would quote the text around the mistake's value.
        .map_err(|error| format!("Failed to unmarshal object secret: line {} of the JSON", error.line()))?;
    let wanted = values.into_iter().filter(|(key, _)| key != "content");
    wanted.map(|(key, value)| Ok((decode_key(&key)?, value.unwrap_or_default()))).collect()
}

fn decode_key(key: &str) -> Result<String, String> {
    let Some(encoded) = key.strip_prefix(KEY_PREFIX) else { return Ok(key.to_owned()) };
    let bytes = STANDARD.decode(encoded.replace('_', "="));
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| format!("Failed to decode secret key: {key:?} is not base64 of a text"))
}

/// Replaces every text that is a known reference; answers the references left over.
pub(crate) fn restore(node: &mut Node, secrets: &Secrets) -> Vec<String> {
    let mut left_over = Vec::new();
    walk(node, secrets, &mut left_over);
    left_over
}

fn walk(node: &mut Node, secrets: &Secrets, left_over: &mut Vec<String>) {
    match &mut node.value {
        Value::Sequence(items) => items.iter_mut().for_each(|item| walk(item, secrets, left_over)),
        Value::Mapping(entries) => {
            entries.iter_mut().for_each(|entry| walk(&mut entry.value, secrets, left_over));
        }
        Value::Scalar { text, plain } => match secrets.get(text.as_str()) {
            Some(secret) => {
                text.clone_from(secret);
                *plain = false;
            }
            None if text.starts_with(REFERENCE_PREFIX) => left_over.push(text.clone()),
            None => {}
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(json: &str) -> Result<Secrets, String> {
        decode(STANDARD.encode(json).as_bytes())
    }

    #[test]
    fn the_worked_example_of_the_specification_decodes() {
        let json =
            r#"{"NUCLIO_B64_JHJlZjovc3BlYy90cmlnZ2Vycy9rL3Bhc3N3b3Jk":"s3cret","content":"x","plain":"p"}"#;
        let secrets = secrets(json).unwrap();
        assert_eq!(secrets["$ref:/spec/triggers/k/password"], "s3cret");
        assert_eq!(secrets["plain"], "p");
        assert_eq!(secrets.len(), 2);
    }

    #[test]
    fn line_breaks_in_the_base64_are_ignored_and_padding_is_needed() {
        assert!(decode(b"e\r\n30=\n").unwrap().is_empty());
        assert!(decode(b"e30").unwrap_err().starts_with("Failed to decode object secret"));
    }

    #[test]
    fn broken_content_is_named_without_the_secret() {
        let error = secrets(r#"{"a": hunter2}"#).unwrap_err();
        assert_eq!(error, "Failed to unmarshal object secret: line 1 of the JSON");
        assert!(secrets(r#"{"NUCLIO_B64_!": "x"}"#).unwrap_err().starts_with("Failed to decode secret key"));
    }

    #[test]
    fn only_whole_values_are_replaced_and_nulls_survive() {
        let text = "a: $ref:/x\nb: [$ref:/x, p$ref:/x, ~]\n$ref:/x: 1\nc: $ref:/gone\n";
        let mut node = super::super::yaml::parse(text).unwrap().unwrap();
        let left_over = restore(&mut node, &Secrets::from([("$ref:/x".to_owned(), "true".to_owned())]));
        assert_eq!(left_over, ["$ref:/gone"]);
        let json = r#"{"a":"true","b":["true","p$ref:/x",null],"$ref:/x":1,"c":"$ref:/gone"}"#;
        assert_eq!(node.to_json().to_string(), json);
    }
}
