//! The value of a key that is known and not looked at.
//!
//! A field of this type keeps its key from being reported as unknown; whatever stands there is accepted.

use serde::de::{Deserialize, Deserializer, IgnoredAny};

/// Any value, thrown away.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// The schema accepts everything; the description gets a sentence that says so.
#[cfg(test)]
impl schemars::JsonSchema for Ignored {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Ignored".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "ignored": true })
    }
}
