//! Commands and scripts as handlers: every event is a process of its own, the body its standard input, what it writes
//! the answer. This file knows what is run and how the function configures it; [`worker`] runs it, one event at a time.

mod call;
mod environment;
pub mod worker;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use http::HeaderMap;
use serde_json::Value;

use super::StartError;
use super::shim::languages::{find_program, function_environment};
use crate::config::Config;
use crate::event::{Event, append_header};

/// Where handlers are unless the environment says otherwise.
const HANDLER_DIR: &str = "/opt/nuclio";
/// Header whose value replaces the configured arguments.
const ARGUMENTS_HEADER: &str = "x-nuclio-arguments";

/// What is run for an event, and how.
#[derive(Debug, PartialEq)]
pub struct Command {
    shell: PathBuf,
    form: Form,
    arguments: String,
    headers: HeaderMap,
    environment: Vec<(String, OsString)>,
    inherits_environment: bool,
    errors: Errors,
    streams: bool,
    ends_with_client: bool,
    answer_bytes_max: usize,
}

/// What the handler is.
#[derive(Debug, PartialEq)]
enum Form {
    /// A file that the shell reads.
    Script(PathBuf),
    /// A program in `PATH`.
    Program(String),
}

/// Where standard error goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errors {
    /// Into the answer, in the order in which it is written.
    Answer,
    /// Line by line into the log.
    Log,
}

impl Command {
    /// Finds shell and handler and reads `spec.runtimeAttributes`.
    ///
    /// # Errors
    /// One of them is missing, or an attribute cannot be used.
    pub fn load(config: &Config) -> Result<Self, StartError> {
        let path = config.env.path.as_deref().unwrap_or("/usr/local/bin:/usr/bin:/bin");
        let shell = find_program("sh", path).ok_or_else(|| {
            StartError::new("Can't find sh executable", format!("no sh in PATH ({path}); install a shell"))
        })?;
        let attributes = Attributes(&config.function.runtime_attributes);
        let mut environment = function_environment(config);
        // Other runtimes are told the handler twice.
        environment.retain(|(name, _)| name != "NUCLIO_HANDLER");
        for (name, value) in &config.function.env {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                let found = format!("spec.env has an entry {name:?} that no environment can hold");
                return Err(StartError::new(found, "give it a name without = and without NUL bytes"));
            }
            environment.push((name.clone(), value.into()));
        }
        Ok(Self {
            shell,
            form: Form::find(&config.function.handler, config.env.shell_handler_directory.as_deref(), path)?,
            arguments: attributes.text("arguments")?.unwrap_or_default().to_owned(),
            headers: attributes.headers("responseHeaders")?,
            environment,
            inherits_environment: attributes.flag("inheritEnvironment")?,
            errors: match attributes.text("stderr")? {
                None | Some("answer") => Errors::Answer,
                Some("log") => Errors::Log,
                Some(other) => return Err(unusable("stderr", other, "use answer or log")),
            },
            streams: attributes.flag("stream")?,
            ends_with_client: match attributes.text("clientGone")? {
                None | Some("kill") => true,
                Some("continue") => false,
                Some(other) => return Err(unusable("clientGone", other, "use kill or continue")),
            },
            answer_bytes_max: config.env.answer_bytes_max,
        })
    }

    /// Arguments of the shell for an event. Those from a header never reach a shell as text to evaluate.
    fn arguments(&self, event: &Event) -> Vec<OsString> {
        let header = header_arguments(event).filter(|value| !value.is_empty());
        let split = |text: &[u8]| -> Vec<OsString> {
            text.split(|byte| *byte == b' ').map(|argument| OsStr::from_bytes(argument).to_owned()).collect()
        };
        match (&self.form, header) {
            (Form::Script(path), header) => {
                let mut arguments = vec![path.clone().into_os_string()];
                arguments.extend(split(header.as_deref().unwrap_or(self.arguments.as_bytes())));
                arguments
            }
            (Form::Program(name), None) => vec!["-c".into(), format!("{name} {}", self.arguments).into()],
            (Form::Program(name), Some(header)) => {
                let mut arguments = vec!["-c".into(), format!("{name} \"$@\"").into(), name.into()];
                arguments.extend(split(&header));
                arguments
            }
        }
    }
}

/// The last header of that name, or the one that the event brought itself.
fn header_arguments(event: &Event) -> Option<Vec<u8>> {
    if let Some(own) = event.own_headers() {
        let mut found = own.iter().filter(|(name, _)| name.eq_ignore_ascii_case(ARGUMENTS_HEADER));
        return found.next_back().map(|(_, value)| value.text().clone().into_bytes());
    }
    let value = event.header_map.get_all(ARGUMENTS_HEADER).iter().next_back()?;
    Some(value.as_bytes().to_vec())
}

impl Form {
    /// A file in the folder of handlers, else a file as named, else a program.
    fn find(handler: &str, folder: Option<&Path>, path: &str) -> Result<Self, StartError> {
        let module = handler.split(':').next().unwrap_or_default();
        if module.is_empty() {
            let advice = "write the name of a script or of a program into spec.handler";
            return Err(StartError::new("the shell handler has no name", advice));
        }
        let folder = folder.unwrap_or(Path::new(HANDLER_DIR));
        let candidates = [folder.join(module), PathBuf::from(module)];
        if let Some(file) = candidates.iter().find(|candidate| candidate.is_file()) {
            std::fs::File::open(file).map_err(|error| {
                StartError::new(format!("cannot read the script {}", file.display()), error.to_string())
            })?;
            // A name that begins with a dash would be an option of the shell.
            let is_option = file.as_os_str().as_bytes().starts_with(b"-");
            return Ok(Self::Script(if is_option { Path::new(".").join(file) } else { file.clone() }));
        }
        if !module.contains('/') && find_program(module, path).is_some() {
            return Ok(Self::Program(module.to_owned()));
        }
        Err(StartError::new(
            "File doesn't exist neither in working dir nor in PATH",
            format!(
                "spec.handler names {module:?}: there is no file {}, and no program of that name in PATH ({path})",
                candidates[0].display()
            ),
        ))
    }
}

/// `spec.runtimeAttributes`.
struct Attributes<'a>(&'a serde_json::Map<String, Value>);

impl<'a> Attributes<'a> {
    /// Keys match in any case, as everywhere.
    fn get(&self, key: &str) -> Option<&'a Value> {
        let found = self.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, StartError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(unusable(key, &other.to_string(), "write a text, in quotes")),
        }
    }

    fn flag(&self, key: &str) -> Result<bool, StartError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(unusable(key, &other.to_string(), "use true or false")),
        }
    }

    fn headers(&self, key: &str) -> Result<HeaderMap, StartError> {
        let mut headers = HeaderMap::new();
        let map = match self.get(key) {
            None => return Ok(headers),
            Some(Value::Object(map)) => map,
            Some(other) => return Err(unusable(key, &other.to_string(), "write `name: value` pairs")),
        };
        for (name, value) in map {
            let key = format!("{key}.{name}");
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => return Err(unusable(&key, &value.to_string(), "write a text")),
            };
            append_header(&mut headers, name.as_bytes(), text.as_bytes())
                .map_err(|fault| unusable(&key, &text, &fault.to_string()))?;
        }
        Ok(headers)
    }
}

fn unusable(key: &str, value: &str, remedy: &str) -> StartError {
    StartError::new(format!("spec.runtimeAttributes.{key}: cannot use the value {value}"), remedy)
}

#[cfg(test)]
mod tests;
