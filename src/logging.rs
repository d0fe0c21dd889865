//! Log records, the sinks they go to, and the buffer of those returned to a caller.
//!
//! Writing is the business of one thread behind a bounded queue: an event never waits for a sink. What does not fit
//! is dropped and counted.

use std::sync::Arc;

use crate::config::Level;

/// Records of one event, kept for the caller who asked for them.
#[derive(Debug)]
pub struct LogBuffer;

/// Writes records under one name. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Logger {
    name: Arc<str>,
}

/// Variables of a record, in order. Values are JSON.
pub type Fields = serde_json::Map<String, serde_json::Value>;

impl Logger {
    /// Whether any sink or the event's caller wants records of this level.
    pub fn wants(&self, _level: Level, _buffer: Option<&LogBuffer>) -> bool {
        true
    }

    /// One record to the processor's sinks and, when given, to the event's buffer. Never blocks.
    pub fn record(&self, _level: Level, _message: &str, _fields: Fields, _buffer: Option<&LogBuffer>) {}

    /// The logger's name, for example `processor.http.w0`.
    pub fn name(&self) -> &str {
        &self.name
    }
}
