//! One configuration file while it is read: its name for messages, and the warnings about it.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::decode::{self, DecodeError, Fractions};
use super::duration::GoDuration;
use super::error::{ConfigError, Problem};
use super::yaml::Node;

/// A file being read.
pub(crate) struct Source {
    /// Its path.
    pub(crate) file: PathBuf,
    /// One line each.
    pub(crate) warnings: Vec<String>,
}

/// A setting's place in a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) line: usize,
    pub(crate) key: String,
}

impl Place {
    /// A problem here.
    pub(crate) fn problem(&self, wrong: impl Into<String>) -> Box<Problem> {
        let problem = Problem::new(wrong).file(&self.file).key(&*self.key);
        if self.line > 0 { problem.line(self.line) } else { problem }
    }

    /// Reads a duration that stands here.
    pub(crate) fn duration(&self, text: &str) -> Result<GoDuration, Box<Problem>> {
        GoDuration::parse(text).map_err(|error| {
            self.problem(error.to_string())
                .remedy("write a number with a unit, for example 30s, 1m30s or 500ms")
        })
    }
}

impl Source {
    pub(crate) fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), warnings: Vec::new() }
    }

    /// A place in this file.
    pub(crate) fn place(&self, line: usize, key: impl Into<String>) -> Place {
        Place { file: self.file.clone(), line, key: key.into() }
    }

    /// Notes something odd.
    pub(crate) fn warn(&mut self, place: &Place, text: &str) {
        self.warnings.push(place.problem(text).to_string());
    }

    /// Decodes what stands at `path`. Unknown keys are warned about.
    pub(crate) fn decode<T: DeserializeOwned>(
        &mut self,
        node: &Node,
        path: &str,
        fractions: Fractions,
    ) -> Result<T, DecodeError> {
        let mut unknown = Vec::new();
        let result = decode::decode(node, path, fractions, &mut unknown);
        for key in unknown {
            let dot = if key.parent.is_empty() { "" } else { "." };
            let place = self.place(key.line, format!("{}{dot}{}", key.parent, key.key));
            self.warn(&place, &unknown_key(key.nearest));
        }
        result
    }

    /// The problem of a value of the wrong type.
    pub(crate) fn decode_problem(&self, error: DecodeError) -> Box<Problem> {
        let target = match error.path.as_str() {
            "" => "Go value".to_owned(),
            path => format!("Go struct field {path}"),
        };
        let (found, wanted) = (error.found, error.wanted);
        self.place(error.line, error.path).problem(error.wrong).root(format!(
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {found} into {target} of type \
             {wanted}"
        ))
    }
}

/// What is said of a key that nobody knows.
pub(super) fn unknown_key(nearest: Option<&str>) -> String {
    let meant = nearest.map(|name| format!("; did you mean {name}?"));
    format!("unknown key, ignored{}", meant.unwrap_or_default())
}

/// A problem in a setting.
pub(crate) fn setting(problem: Box<Problem>) -> ConfigError {
    ConfigError::Setting(problem)
}
