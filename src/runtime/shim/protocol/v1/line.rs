//! Lines of a wrapper: a letter and what belongs to it; and the JSON lines of the control connection.

use serde::Deserialize;
use serde_json::Value;

use crate::config::Level;
use crate::logging::Fields;

/// The .NET wrapper's notice that it is ready: neither a letter before nor a line end after it.
const DOTNET_READY: &[u8] = b"{ 'kind': 'wrapperInitialized', 'attributes': {'ready': 'true'}";

/// A line of the event connection, by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line<'a> {
    /// The wrapper is ready.
    Start,
    /// A log record.
    Log(&'a [u8]),
    /// How long the handler took.
    Metric(&'a [u8]),
    /// An answer, or a list of them.
    Answer(&'a [u8]),
    /// The start of a streamed answer.
    StreamStart(&'a [u8]),
    /// A piece of a streamed answer.
    Chunk(&'a [u8]),
    /// The end of a streamed answer.
    StreamEnd,
    /// Nothing.
    Empty,
    /// A letter nobody knows.
    Unknown,
}

/// Takes a line apart. True: a start notice was glued to its front.
pub fn parse(line: &[u8]) -> (bool, Line<'_>) {
    let (glued, line) = match line.strip_prefix(DOTNET_READY) {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let Some((letter, rest)) = line.split_first() else { return (glued, Line::Empty) };
    let line = match letter {
        b's' => Line::Start,
        b'l' => Line::Log(rest),
        b'm' => Line::Metric(rest),
        b'r' => Line::Answer(rest),
        b'c' => Line::StreamStart(rest),
        b'b' => Line::Chunk(rest),
        b'e' => Line::StreamEnd,
        _ => Line::Unknown,
    };
    (glued, line)
}

/// What a ready notice without a line end looks like: [`parse`] cannot see it before its line ends.
pub fn is_ready_notice(unfinished: &[u8]) -> bool {
    unfinished == DOTNET_READY
}

/// A decoded log record.
#[derive(Debug, PartialEq)]
pub struct Log {
    /// Severity.
    pub level: Level,
    /// The message.
    pub message: String,
    /// Its variables.
    pub fields: Fields,
}

#[derive(Deserialize)]
struct RawLog {
    #[serde(default)]
    level: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    with: Option<Fields>,
}

impl From<RawLog> for Log {
    fn from(raw: RawLog) -> Self {
        let level = match raw.level.as_deref() {
            Some("error" | "critical" | "fatal") => Level::Error,
            Some("warning") => Level::Warn,
            Some("info") => Level::Info,
            _ => Level::Debug,
        };
        Self { level, message: raw.message.unwrap_or_default(), fields: raw.with.unwrap_or_default() }
    }
}

/// Decodes a log record; `None`: it is none.
pub fn read_log(json: &[u8]) -> Option<Log> {
    serde_json::from_str::<RawLog>(&String::from_utf8_lossy(json)).ok().map(Log::from)
}

/// Decodes a metric: seconds in the handler.
///
/// # Errors
/// What is wrong with it, in the reference's words.
pub fn read_metric(json: &[u8]) -> Result<f64, &'static str> {
    #[derive(Deserialize)]
    struct Metric {
        #[serde(default)]
        duration: Option<f64>,
    }
    let metric: Metric = serde_json::from_slice(json).map_err(|_| "Can't decode metric")?;
    metric.duration.filter(|seconds| *seconds != 0.0).ok_or("No duration in metrics")
}

/// A message of the control connection.
#[derive(Debug, PartialEq)]
pub enum Control {
    /// The wrapper is ready.
    Ready,
    /// A handler acknowledges a message of a stream.
    Ack {
        /// Its topic.
        topic: String,
        /// Its partition or shard.
        partition: i32,
        /// Its offset or sequence number.
        offset: i64,
    },
    /// A log record outside of events.
    Log(Log),
    /// The drain callback has ended.
    Drained,
    /// A kind nobody knows.
    Other,
}

/// Why a control message cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub enum ControlError {
    /// It is no JSON object with a kind.
    Json,
    /// Its attributes are missing or of other types.
    Attributes,
}

impl ControlError {
    /// In the reference's words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Json => "Failed to read control message",
            Self::Attributes => "Failed decoding control message attributes",
        }
    }
}

/// Decodes a line of the control connection. Keys match without regard to case.
///
/// # Errors
/// See [`ControlError`].
pub fn read_control(line: &[u8]) -> Result<Control, ControlError> {
    let text = String::from_utf8_lossy(line);
    let Ok(Value::Object(message)) = serde_json::from_str::<Value>(&text) else {
        return Err(ControlError::Json);
    };
    let kind = find(&message, "kind").and_then(Value::as_str).unwrap_or_default();
    let attributes = find(&message, "attributes");
    match kind {
        "wrapperInitialized" => Ok(Control::Ready),
        "drain" => Ok(Control::Drained),
        "log" => {
            let attributes = attributes.cloned().ok_or(ControlError::Attributes)?;
            let log: RawLog = serde_json::from_value(attributes).map_err(|_| ControlError::Attributes)?;
            Ok(if log.message.is_some() { Control::Log(log.into()) } else { Control::Other })
        }
        "streamMessageAck" => read_ack(attributes.and_then(Value::as_object)).ok_or(ControlError::Attributes),
        _ => Ok(Control::Other),
    }
}

/// All three have to be there: committing offset 0 by accident would replay a partition.
fn read_ack(attributes: Option<&Fields>) -> Option<Control> {
    let attributes = attributes?;
    Some(Control::Ack {
        topic: find(attributes, "topic")?.as_str()?.to_owned(),
        partition: i32::try_from(find(attributes, "partition")?.as_i64()?).ok()?,
        offset: find(attributes, "offset")?.as_i64()?,
    })
}

fn find<'a>(map: &'a Fields, key: &str) -> Option<&'a Value> {
    map.get(key).or_else(|| map.iter().find(|(other, _)| other.eq_ignore_ascii_case(key)).map(|(_, v)| v))
}
