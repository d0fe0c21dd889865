//! A request of a file or of the command line, and what is wrong with a file of such.

use std::fmt;
use std::path::{Path, PathBuf};

use super::expect::Expectation;

/// A request that is to be sent.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Its name, or empty.
    pub(super) name: String,
    /// Method, in upper case as far as it was given so; empty: by the body.
    pub(super) method: String,
    /// An address with a host, or a path with query.
    pub(super) target: String,
    /// Headers in order.
    pub(super) headers: Vec<(String, String)>,
    /// The body.
    pub(super) body: Vec<u8>,
    /// What its answer has to be.
    pub(super) expect: Option<Expectation>,
}

impl Sample {
    /// A header's first value.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The method, be it said or not.
    pub(super) fn method(&self) -> &str {
        match self.method.as_str() {
            "" if self.body.is_empty() => "GET",
            "" => "POST",
            said => said,
        }
    }
}

/// A file of requests that cannot be used.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    pub(super) file: PathBuf,
    /// From 1; 0: the file as a whole.
    pub(super) line: usize,
    pub(super) wrong: String,
}

impl Fault {
    pub(super) fn new(file: &Path, line: usize, wrong: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, wrong: wrong.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        write!(f, " {}", self.wrong)
    }
}
