//! [`Context`]: what a worker knows about itself and may ask of the processor.

use std::borrow::Cow;

use crate::abi;
use crate::export::Home;

/// A worker's surroundings. Records logged during `handle` belong to the event that is handled; a caller who asked
/// for its logs gets them.
pub struct Context {
    pub(crate) home: Home,
    pub(crate) trigger_kind: String,
    pub(crate) trigger_name: String,
    pub(crate) worker_id: i32,
}

/// Severity of a log record, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Debug = abi::LOG_DEBUG as isize,
    /// Normal operation.
    Info = abi::LOG_INFO as isize,
    /// Something odd.
    Warn = abi::LOG_WARN as isize,
    /// Something failed.
    Error = abi::LOG_ERROR as isize,
}

/// Value of a log field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'v> {
    /// Text.
    Text(&'v str),
    /// Integer.
    Int(i64),
    /// Double.
    Float(f64),
    /// Truth.
    Bool(bool),
    /// A finished JSON text; embedded as it is.
    Json(&'v str),
    /// Any bytes.
    Bytes(&'v [u8]),
    /// Nothing.
    Null,
}

impl Context {
    /// The function's name.
    pub fn function_name(&self) -> Cow<'_, str> {
        self.home.config(|config| config.function_name)
    }

    /// The function's namespace.
    pub fn namespace(&self) -> Cow<'_, str> {
        self.home.config(|config| config.namespace)
    }

    /// The function's project.
    pub fn project(&self) -> Cow<'_, str> {
        self.home.config(|config| config.project)
    }

    /// `local` or `kube`.
    pub fn platform_kind(&self) -> Cow<'_, str> {
        self.home.config(|config| config.platform_kind)
    }

    /// `spec.handler` as written.
    pub fn handler(&self) -> Cow<'_, str> {
        self.home.config(|config| config.handler)
    }

    /// The whole function file.
    pub fn config_yaml(&self) -> Cow<'_, str> {
        self.home.config(|config| config.config_yaml)
    }

    /// The function's version.
    pub fn function_version(&self) -> i64 {
        self.home.function_version()
    }

    /// Kind of the trigger this worker serves; empty when several share it.
    pub fn trigger_kind(&self) -> &str {
        &self.trigger_kind
    }

    /// Name of the trigger this worker serves.
    pub fn trigger_name(&self) -> &str {
        &self.trigger_name
    }

    /// Number of this worker, from 0.
    pub fn worker_id(&self) -> i32 {
        self.worker_id
    }

    /// Whether anybody wants records of this level now.
    pub fn wants(&self, level: Level) -> bool {
        level as u32 >= self.home.log_level()
    }

    /// Logs one record with fields.
    pub fn log(&self, level: Level, message: &str, fields: &[(&str, Value<'_>)]) {
        if self.wants(level) {
            self.home.log(level as u32, message, fields);
        }
    }

    /// Logs a message.
    pub fn debug(&self, message: &str) {
        self.log(Level::Debug, message, &[]);
    }

    /// Logs a message.
    pub fn info(&self, message: &str) {
        self.log(Level::Info, message, &[]);
    }

    /// Logs a message.
    pub fn warn(&self, message: &str) {
        self.log(Level::Warn, message, &[]);
    }

    /// Logs a message.
    pub fn error(&self, message: &str) {
        self.log(Level::Error, message, &[]);
    }
}

macro_rules! value_from {
    ($($type:ty => $make:expr;)*) => {
        $(impl<'v> From<$type> for Value<'v> {
            fn from(value: $type) -> Self {
                $make(value)
            }
        })*
    };
}

value_from! {
    &'v str => Value::Text;
    &'v String => |text: &'v String| Value::Text(text);
    &'v [u8] => Value::Bytes;
    i64 => Value::Int;
    i32 => |number| Value::Int(i64::from(number));
    u32 => |number| Value::Int(i64::from(number));
    f64 => Value::Float;
    bool => Value::Bool;
}
