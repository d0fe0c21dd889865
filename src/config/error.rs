//! Why a configuration cannot be used: one line for people, and the chain of messages the Go processor would print.

use std::fmt;
use std::path::{Path, PathBuf};

/// A configuration that cannot be used. Displays as one line: file, line, key, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file does not exist.
    #[error("{0}")]
    Missing(Box<Problem>),
    /// The file exists and cannot be read.
    #[error("{0}")]
    Unreadable(Box<Problem>),
    /// The file is empty or not YAML.
    #[error("{0}")]
    Syntax(Box<Problem>),
    /// A setting in a file is missing or wrong.
    #[error("{0}")]
    Setting(Box<Problem>),
    /// An environment variable has a value we cannot use.
    #[error("{0}")]
    Environment(Box<Problem>),
    /// The mounted secret is missing or broken.
    #[error("{0}")]
    Secret(Box<Problem>),
}

impl ConfigError {
    /// The details, whatever the variant.
    pub fn problem(&self) -> &Problem {
        match self {
            Self::Missing(problem)
            | Self::Unreadable(problem)
            | Self::Syntax(problem)
            | Self::Setting(problem)
            | Self::Environment(problem)
            | Self::Secret(problem) => problem,
        }
    }

    /// With one more thing to do, where the file does not exist: it may not be meant at all.
    pub(crate) fn if_missing(mut self, remedy: Option<&str>) -> Self {
        if let (Self::Missing(problem), Some(remedy)) = (&mut self, remedy) {
            problem.remedy = one_line(&format!("{}; {remedy}", problem.remedy));
        }
        self
    }

    /// The chain of messages, root first, in the words of the Go processor where it has some.
    pub fn chain(&self) -> Vec<String> {
        self.problem().chain()
    }
}

/// What is wrong, where, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// The file, when a file is to blame.
    pub file: Option<PathBuf>,
    /// Line in the file, counted from 1.
    pub line: Option<usize>,
    /// The key (`spec.triggers.web.numWorkers`) or environment variable, or empty.
    pub key: String,
    /// What is wrong.
    pub wrong: String,
    /// What to do.
    pub remedy: String,
    causes: Vec<String>,
}

impl Problem {
    pub(crate) fn new(wrong: impl Into<String>) -> Box<Self> {
        Box::new(Self { wrong: one_line(&wrong.into()), ..Self::default() })
    }

    pub(crate) fn file(mut self: Box<Self>, file: &Path) -> Box<Self> {
        self.file = Some(file.to_owned());
        self
    }

    pub(crate) fn line(mut self: Box<Self>, line: usize) -> Box<Self> {
        self.line = Some(line);
        self
    }

    pub(crate) fn key(mut self: Box<Self>, key: impl Into<String>) -> Box<Self> {
        self.key = one_line(&key.into());
        self
    }

    pub(crate) fn remedy(mut self: Box<Self>, remedy: impl Into<String>) -> Box<Self> {
        self.remedy = one_line(&remedy.into());
        self
    }

    /// A message of the Go processor's chain; the first one added is the root. Without any, `wrong` is the root.
    pub(crate) fn cause(mut self: Box<Self>, message: impl Into<String>) -> Box<Self> {
        if self.causes.is_empty() {
            self.causes.push(self.wrong.clone());
        }
        self.causes.push(one_line(&message.into()));
        self
    }

    /// Like `cause`, but below everything there is: the new root.
    pub(crate) fn root(mut self: Box<Self>, message: impl Into<String>) -> Box<Self> {
        let message = one_line(&message.into());
        match self.causes.first_mut() {
            Some(first) => *first = message,
            None => self.causes.push(message),
        }
        self
    }

    fn chain(&self) -> Vec<String> {
        if self.causes.is_empty() { vec![self.wrong.clone()] } else { self.causes.clone() }
    }

    /// Where and what to do, without what is wrong.
    pub(crate) fn place_and_remedy(&self) -> String {
        let parts = [self.place(), self.remedy.clone()];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// `file:line: key`, as much as is known.
    pub(crate) fn place(&self) -> String {
        let mut parts = Vec::new();
        if let Some(file) = &self.file {
            let line = self.line.map(|line| format!(":{line}")).unwrap_or_default();
            parts.push(format!("{}{line}", file.display()));
        }
        if !self.key.is_empty() {
            parts.push(self.key.clone());
        }
        one_line(&parts.join(": "))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.place();
        if !place.is_empty() {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.wrong)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Values end up in messages, and messages are one line.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_one_line_with_place_and_remedy() {
        let problem =
            Problem::new("bad\nvalue").file(Path::new("/a.yaml")).line(3).key("spec.x").remedy("write 3");
        assert_eq!(problem.to_string(), "/a.yaml:3: spec.x: bad value; write 3");
    }

    #[test]
    fn chain_starts_with_the_root() {
        let plain = Problem::new("wrong").cause("outer");
        assert_eq!(plain.chain(), ["wrong", "outer"]);
        let rooted = Problem::new("ours").root("root").cause("ours again").cause("outer");
        assert_eq!(rooted.chain(), ["root", "ours again", "outer"]);
    }
}
