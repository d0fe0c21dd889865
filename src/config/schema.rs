//! The JSON Schemas of both configuration files: for editors, and for `processor check`.
//!
//! A test makes them from the structs that the files are decoded into, so neither can be without the other; the program
//! carries the finished text only. What they cannot say (durations that are too short, names that nobody defined) is
//! found where the files are resolved.

#[cfg(test)]
pub(super) mod generate;

/// Which file a schema is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schema {
    /// `processor.yaml`.
    Processor,
    /// `platform.yaml`.
    Platform,
}

impl Schema {
    /// Both.
    pub const ALL: [Schema; 2] = [Schema::Processor, Schema::Platform];

    /// The file's name without its ending, as the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Schema::Processor => "processor",
            Schema::Platform => "platform",
        }
    }

    /// The schema as JSON text, draft 2020-12.
    pub fn text(self) -> &'static str {
        match self {
            Schema::Processor => include_str!("../../docs/schema/processor.schema.json"),
            Schema::Platform => include_str!("../../docs/schema/platform.schema.json"),
        }
    }

    /// The schema as a tree.
    pub(super) fn tree(self) -> serde_json::Value {
        serde_json::from_str(self.text()).expect("a test compares it with generated JSON")
    }
}
