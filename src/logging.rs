//! Log records, the lines they become, and the buffer of those returned to a caller.
//!
//! Writing is the business of one thread behind a bounded queue ([`sink`]): an event never waits for a sink. What
//! does not fit is dropped and counted; what is too large is cut short ([`bounds`]).

pub mod bounds;
pub mod format;
pub mod sink;
mod text;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde_json::Value;

use crate::config::{Level, LogSink};
use crate::trace::EventTrace;
use sink::{Loss, Writer};

/// Variables of a record, in order. Values are JSON.
pub type Fields = serde_json::Map<String, Value>;

/// Builds the [`Fields`] of a record: `fields! { "worker" => 3, "cause" => text }`.
#[macro_export]
macro_rules! fields {
    ($($name:expr => $value:expr),* $(,)?) => {{
        #[allow(unused_mut)]
        let mut fields = $crate::logging::Fields::new();
        $(fields.insert($name.to_string(), ::serde_json::json!($value));)*
        fields
    }};
}

/// Name of the logger that all others descend from.
const ROOT: &str = "processor";

/// What a record belongs to, where it belongs to an event.
#[derive(Debug, Clone, Copy, Default)]
pub struct Origin<'a> {
    /// Records of the event's caller.
    pub buffer: Option<&'a LogBuffer>,
    /// The event's trace: its ids become variables of the record in the sinks. The caller knows them.
    pub trace: Option<&'a EventTrace>,
}

/// Writes records under one name. Cheap to clone.
#[derive(Clone)]
pub struct Logger {
    shared: Arc<Shared>,
    name: Arc<str>,
}

struct Shared {
    sinks: Vec<LogSink>,
    lowest: Level,
    color: bool,
    writer: Writer,
    losses: Vec<Arc<Loss>>,
}

impl std::fmt::Debug for Logger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Logger({})", self.name)
    }
}

impl Logger {
    /// A logger named `processor` that writes to the given sinks through `writer`.
    pub fn new(sinks: Vec<LogSink>, color: bool, writer: Writer) -> Self {
        let lowest = sinks.iter().map(|sink| sink.level).min().unwrap_or(Level::Error);
        let losses = sinks.iter().map(|sink| loss(sink.clone(), color)).collect();
        let shared = Shared { sinks, lowest, color, writer, losses };
        Self { shared: Arc::new(shared), name: Arc::from(ROOT) }
    }

    /// A logger whose records nobody sees; for unit tests.
    pub fn silent() -> Self {
        Self::new(Vec::new(), false, Writer::discarding())
    }

    /// A logger named `<this>.<part>`.
    pub fn child(&self, part: &str) -> Self {
        Self { shared: self.shared.clone(), name: Arc::from(format!("{}.{part}", self.name)) }
    }

    /// The logger's name, for example `processor.http.w0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Lowest level that any sink wants.
    pub fn lowest(&self) -> Level {
        self.shared.lowest
    }

    /// Whether any sink or the event's caller wants records of this level.
    pub fn wants(&self, level: Level, buffer: Option<&LogBuffer>) -> bool {
        level >= self.shared.lowest || buffer.is_some_and(|buffer| level >= buffer.level)
    }

    /// One record to the processor's sinks and, when given, to the event's buffer. Never blocks.
    pub fn record(&self, level: Level, message: &str, fields: Fields, buffer: Option<&LogBuffer>) {
        self.record_of(Origin { buffer, trace: None }, level, message, fields);
    }

    /// One record of an event: to the processor's sinks, and to the event's caller if it asked for such. Never
    /// blocks.
    pub fn record_of(&self, origin: Origin<'_>, level: Level, message: &str, fields: Fields) {
        let now = SystemTime::now();
        let message = &*bounds::message(message);
        let mut fields = bounds::fields(fields);
        if let Some(buffer) = origin.buffer.filter(|buffer| level >= buffer.level) {
            buffer.push(format::buffer_entry(level, now, &buffer.name, message, &fields));
        }
        if let Some(trace) = origin.trace {
            // What the handler says of itself counts.
            fields.entry("trace_id").or_insert_with(|| trace.trace_id().into());
            fields.entry("span_id").or_insert_with(|| trace.span_id().into());
        }
        for (sink, loss) in self.shared.sinks.iter().zip(&self.shared.losses) {
            if level >= sink.level {
                let line =
                    format::line(&sink.encoding, self.shared.color, level, now, &self.name, message, &fields);
                self.shared.writer.write(line.into_bytes(), loss);
            }
        }
    }

    /// A record at debug level.
    pub fn debug(&self, message: &str, fields: Fields) {
        self.record(Level::Debug, message, fields, None);
    }

    /// A record at info level.
    pub fn info(&self, message: &str, fields: Fields) {
        self.record(Level::Info, message, fields, None);
    }

    /// A record at warn level.
    pub fn warn(&self, message: &str, fields: Fields) {
        self.record(Level::Warn, message, fields, None);
    }

    /// A record at error level.
    pub fn error(&self, message: &str, fields: Fields) {
        self.record(Level::Error, message, fields, None);
    }

    /// Records lost so far, per sink.
    pub fn dropped(&self) -> impl Iterator<Item = (&str, u64)> {
        let counts = self.shared.losses.iter().map(|loss| loss.count());
        self.shared.sinks.iter().map(|sink| sink.name.as_str()).zip(counts)
    }

    /// Where raw output of workers goes.
    pub fn writer(&self) -> &Writer {
        &self.shared.writer
    }
}

/// What is lost of a sink, and the record that says so.
fn loss(sink: LogSink, color: bool) -> Arc<Loss> {
    Loss::new(move |lost| {
        let fields = fields! {"lost" => lost, "sink" => sink.name};
        let message = "Log records were lost: standard output took no more";
        let now = SystemTime::now();
        format::line(&sink.encoding, color, Level::Warn, now, ROOT, message, &fields).into_bytes()
    })
}

/// Most bytes of the JSON array in the header `X-Nuclio-Logs`.
const HEADER_BYTES_MAX: usize = 4095;
/// Most bytes of records kept for one caller.
const BUFFER_BYTES_MAX: usize = 1 << 20;

/// Records of one event, kept for the caller who asked for them.
#[derive(Debug)]
pub struct LogBuffer {
    level: Level,
    name: String,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    texts: Vec<String>,
    bytes: usize,
    lost: usize,
}

impl LogBuffer {
    /// A buffer for records of `level` and above; `name` is the trigger's id.
    pub fn new(level: Level, name: &str) -> Self {
        Self { level, name: name.to_owned(), entries: Mutex::default() }
    }

    /// Lowest level the caller asked for.
    pub fn level(&self) -> Level {
        self.level
    }

    fn push(&self, text: String) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.bytes + text.len() > BUFFER_BYTES_MAX {
            entries.lost += 1;
            return;
        }
        entries.bytes += text.len();
        entries.texts.push(text);
    }

    /// The records as a JSON array that fits into a header: the oldest are left out whole when it would not, and a
    /// last entry says how many.
    pub fn header(&self) -> String {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let whole: usize = entries.texts.iter().map(|text| text.len() + 1).sum::<usize>() + 1;
        if whole <= HEADER_BYTES_MAX && entries.lost == 0 {
            return format!("[{}]", entries.texts.join(","));
        }
        let room = HEADER_BYTES_MAX - 256; // for the entry that says what is missing
        let mut taken = 0;
        let kept = entries.texts.iter().rev().take_while(|text| {
            taken += text.len() + 1;
            taken <= room
        });
        let kept = kept.count();
        let lost = entries.texts.len() - kept + entries.lost;
        let message = format!("{lost} log records left out, the response header is full");
        let note = format::buffer_entry(Level::Warn, SystemTime::now(), &self.name, &message, &Fields::new());
        let mut texts = entries.texts[entries.texts.len() - kept..].to_vec();
        texts.push(note);
        format!("[{}]", texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer_with(count: usize, message: &str) -> LogBuffer {
        let buffer = LogBuffer::new(Level::Info, "http");
        for _ in 0..count {
            Logger::silent().record(Level::Info, message, fields! {"k" => 1}, Some(&buffer));
        }
        buffer
    }

    #[test]
    fn a_callers_records_are_a_json_array() {
        assert_eq!(buffer_with(0, "").header(), "[]");
        let buffer = buffer_with(2, "a\u{7f}b");
        Logger::silent().record(Level::Debug, "not wanted", Fields::new(), Some(&buffer));
        let entries: Vec<Value> = serde_json::from_str(&buffer.header()).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!((&entries[0]["level"], &entries[0]["k"]), (&Value::from("info"), &Value::from(1)));
        assert!(http::HeaderValue::from_str(&buffer.header()).is_ok());
    }

    #[test]
    fn an_array_that_is_too_long_loses_its_oldest_entries_and_says_so() {
        let header = buffer_with(100, &"x".repeat(200)).header();
        assert!(header.len() <= HEADER_BYTES_MAX);
        let entries: Vec<Value> = serde_json::from_str(&header).unwrap();
        let last = entries.last().unwrap();
        assert_eq!(last["level"], "warn");
        let lost = 100 - (entries.len() - 1);
        assert!(last["message"].as_str().unwrap().starts_with(&format!("{lost} log records")));
    }
}
