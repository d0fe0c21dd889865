//! Runtimes make workers, workers handle events. One module per way of running a handler.

pub mod builtin;
pub mod inprocess;
pub mod plugin;
pub mod shell;
pub mod shim;

use std::sync::Arc;

use crate::config::{Config, RuntimeKind};
use crate::logging::Logger;
use shim::languages::{self, Language};
use shim::process::Launch;

/// Why a runtime or one of its workers cannot start: what was found, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}: {advice}")]
pub struct StartError {
    found: String,
    advice: String,
}

impl StartError {
    /// `found` names the thing and what is wrong with it, `advice` what to do.
    pub fn new(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { found: found.into(), advice: advice.into() }
    }
}

/// How the function's handler runs. Loaded once, before any event thread exists.
#[derive(Clone)]
pub enum Runtime {
    /// In our own process.
    InProcess(inprocess::Source),
    /// Behind a shim.
    Shim(&'static Language, Arc<Launch>),
    /// A process of its own for each event.
    Shell(Arc<shell::Command>),
}

impl Runtime {
    /// Finds and loads what the function needs.
    ///
    /// # Errors
    /// Handler, interpreter or shim are missing or unfit, or this build does not serve the runtime.
    pub fn load(config: &Config, logger: &Logger) -> Result<Self, StartError> {
        let kind = config.function.runtime;
        if let Some(language) = languages::of(kind) {
            return Ok(Self::Shim(language, Arc::new(language.launch(config, logger)?)));
        }
        match kind {
            RuntimeKind::Builtin => Ok(Self::InProcess(inprocess::Source::Builtin)),
            RuntimeKind::Shell => Ok(Self::Shell(Arc::new(shell::Command::load(config)?))),
            RuntimeKind::Golang => {
                let settings = plugin::PluginConfig::new(config)?;
                match plugin::load(config.env.golang_plugin.as_deref(), &settings)? {
                    plugin::Loaded::Library(library) => {
                        Ok(Self::InProcess(inprocess::Source::Library(library)))
                    }
                    plugin::Loaded::Executable(program) => {
                        let language = &languages::EXECUTABLE;
                        Ok(Self::Shim(language, Arc::new(language.launch_program(program, config)?)))
                    }
                }
            }
            other => Err(without_shim(other)),
        }
    }

    /// Ends what all workers share, once they have ended: a library's `stop`, the process they were forked from. False: somebody still uses it, so it
    /// stays as it is.
    pub fn stop(self) -> bool {
        match self {
            Self::InProcess(inprocess::Source::Library(library)) => plugin::Library::stop(library),
            Self::Shim(_, launch) => {
                launch.fork_server.iter().for_each(|server| server.stop());
                true
            }
            Self::InProcess(inprocess::Source::Builtin) | Self::Shell(_) => true,
        }
    }

    /// Whether its workers take several events at once, as far as that is known before they start.
    pub fn takes_batches(&self) -> bool {
        match self {
            Self::InProcess(inprocess::Source::Builtin) | Self::Shell(_) => false,
            Self::InProcess(inprocess::Source::Library(library)) => library.takes_batches(),
            Self::Shim(..) => true,
        }
    }

    /// Name in messages and logger names.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InProcess(inprocess::Source::Builtin) => "builtin",
            Self::InProcess(inprocess::Source::Library(_)) => "golang",
            Self::Shim(language, _) => language.name,
            Self::Shell(_) => "shell",
        }
    }
}

/// Every other kind has a row, unless somebody forgot it.
fn without_shim(kind: RuntimeKind) -> StartError {
    let found = format!("spec.runtime is {}, for which this build has no shim", kind.name());
    StartError::new(found, "processor -list-runtimes shows the kinds there are")
}
