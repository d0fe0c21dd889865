//! Compiled handlers in our process: a shared library with the handler ABI, loaded once and never unloaded.
//!
//! [`Library`] is the loaded handler, [`Worker`] one of its workers, called where the caller is (`direct`) or on a
//! thread of its own (`fixed`). `elf` says what a file is before it is loaded, `frame` shows an event to the plugin,
//! `ffi` makes the calls. Knows no triggers and no pools.

mod crash;
mod direct;
mod elf;
mod ffi;
mod fixed;
mod frame;
mod reader;
pub mod worker;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nuclio_handler::abi;

pub use worker::{BatchOutcome, CallOutcome, Control, Pull, Worker};

use crate::config::{Config, PlatformKind};
use crate::runtime::StartError;

/// Where handlers are when the environment names no file.
const DEFAULT_PATHS: [&str; 2] = ["/opt/nuclio/handler.so", "/opt/nuclio/handler"];

/// Value of a call's cancelled flag: the deadline passed.
pub const CANCELLED_DEADLINE: u8 = 1;
/// Value of a call's cancelled flag: the client left.
pub const CANCELLED_CLIENT_GONE: u8 = 2;
/// Value of a call's cancelled flag: the processor ends.
pub const CANCELLED_SHUTDOWN: u8 = 3;

/// What a plugin is told about its function.
#[derive(Debug, Clone, Default)]
pub struct PluginConfig {
    /// Name.
    pub function_name: String,
    /// Namespace.
    pub namespace: String,
    /// Project.
    pub project: String,
    /// `local` or `kube`.
    pub platform_kind: &'static str,
    /// `spec.handler` as written.
    pub handler: String,
    /// The whole function file.
    pub config_yaml: String,
    /// Version.
    pub function_version: i64,
    /// `handlerForm`.
    pub form: HandlerForm,
}

/// `spec.runtimeAttributes.handlerForm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HandlerForm {
    /// What the file is.
    #[default]
    Auto,
    /// Only a library.
    Library,
    /// Only an executable.
    Executable,
}

impl PluginConfig {
    /// From the processor's configuration.
    pub fn new(config: &Config) -> Result<Self, StartError> {
        let function = &config.function;
        let form = match function.runtime_attributes.get("handlerForm").and_then(|form| form.as_str()) {
            None | Some("" | "auto") => HandlerForm::Auto,
            Some("library") => HandlerForm::Library,
            Some("executable") => HandlerForm::Executable,
            Some(other) => {
                let found = format!("spec.runtimeAttributes.handlerForm is `{other}`");
                return Err(StartError::new(found, "use auto, library or executable"));
            }
        };
        Ok(Self {
            function_name: function.name.clone(),
            namespace: function.namespace.clone(),
            project: function.project.clone(),
            platform_kind: match config.platform.kind {
                PlatformKind::Local => "local",
                PlatformKind::Kube => "kube",
            },
            handler: function.handler.clone(),
            config_yaml: function.yaml.clone(),
            function_version: function.version,
            form,
        })
    }
}

/// What became of the handler's file.
#[derive(Debug)]
pub enum Loaded {
    /// Loaded and started.
    Library(Arc<Library>),
    /// A program, to be started for each worker.
    Executable(PathBuf),
}

/// Finds and inspects the handler's file, and loads and starts it if it is a library. Call it on the main thread, after
/// our signal handlers are installed and SIGPIPE is ignored, before event threads exist.
///
/// # Errors
/// There is no file, it is no handler, or it does not start.
pub fn load(env_path: Option<&Path>, config: &PluginConfig) -> Result<Loaded, StartError> {
    let path = find(env_path, &DEFAULT_PATHS.map(Path::new))?;
    match elf::check(&path, config.form, elf::PROCESSOR)? {
        elf::Kind::Executable => Ok(Loaded::Executable(path)),
        elf::Kind::Library => Library::start(path, config).map(Loaded::Library),
    }
}

/// A loaded and started handler library. Its workers and their unreleased answers hold it.
pub struct Library {
    instance: ffi::Instance,
    path: PathBuf,
    features: u64,
    language: String,
    sdk_version: String,
}

impl Library {
    fn start(path: PathBuf, config: &PluginConfig) -> Result<Arc<Self>, StartError> {
        crash::explain(&path);
        let inside = crash::inside();
        let (table, features) = open(&path)?;
        let instance = ffi::Instance::start(table, config.clone()).map_err(|(code, answer)| {
            let found = format!("the handler library {} failed to start", path.display());
            StartError::new(found, answer.failure_text(code))
        })?;
        drop(inside);
        Ok(Arc::new(Self {
            instance,
            path,
            features,
            language: ffi::static_text(table.language),
            sdk_version: ffi::static_text(table.sdk_version),
        }))
    }

    /// Calls the plugin's `stop`, if nothing of it is in use any more: `false` means a worker was given up or an
    /// answer is still being read, and the plugin stays as it is.
    pub fn stop(library: Arc<Self>) -> bool {
        match Arc::into_inner(library) {
            Some(library) => {
                library.instance.stop();
                true
            }
            None => false,
        }
    }

    /// Ends the process with code 0 while the plugin is in use, without the destructors that it may have registered.
    pub fn leave() -> ! {
        ffi::leave(0)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the handler is written in, as it says.
    pub fn language(&self) -> &str {
        &self.language
    }

    /// Version of the SDK it was built with, as it says.
    pub fn sdk_version(&self) -> &str {
        &self.sdk_version
    }

    /// All calls of one worker must come from one thread.
    pub fn wants_fixed_thread(&self) -> bool {
        self.features & abi::FEATURE_FIXED_THREAD != 0
    }

    /// Its handler takes several events in one call.
    pub fn takes_batches(&self) -> bool {
        self.instance.takes_batches()
    }

    /// It reads bodies while they arrive.
    pub fn streams_bodies(&self) -> bool {
        self.features & abi::FEATURE_STREAM_BODY != 0
    }

    /// Its calls return at once and never block.
    pub fn is_short(&self) -> bool {
        self.features & abi::FEATURE_SHORT != 0
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("path", &self.path)
            .field("language", &self.language)
            .field("sdk_version", &self.sdk_version)
            .finish_non_exhaustive()
    }
}

/// The handler's file. A file named by the environment is the only candidate.
fn find(env_path: Option<&Path>, defaults: &[&Path]) -> Result<PathBuf, StartError> {
    let candidates = env_path.as_ref().map_or(defaults, std::slice::from_ref);
    if let Some(path) = candidates.iter().find(|path| path.exists()) {
        // Absolute, because the loader searches its own directories for bare names.
        return std::path::absolute(path).map_err(|error| {
            StartError::new(format!("failed to resolve {}", path.display()), error.to_string())
        });
    }
    let found = match env_path {
        Some(path) => {
            format!("there is no {}, which NUCLIO_GOLANG_HANDLER_PLUGIN_PATH names", path.display())
        }
        None => format!(
            "NUCLIO_GOLANG_HANDLER_PLUGIN_PATH is not set, and there is no {}",
            defaults.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" or ")
        ),
    };
    Err(StartError::new(found, "put the compiled handler there"))
}

/// Loads the library and takes its table after checking that we can talk to it.
fn open(path: &Path) -> Result<(abi::Plugin, u64), StartError> {
    let refuse = |error: libloading::Error| {
        StartError::new(format!("failed to load {}", path.display()), error_chain(&error))
    };
    let module = ffi::Module::open(path).map_err(refuse)?;
    let version = module.version().map_err(refuse)?;
    if version >> 16 != abi::ABI_MAJOR {
        let found = format!(
            "{} speaks version {}.{} of the handler ABI and this processor version {}.{}",
            path.display(),
            version >> 16,
            version & 0xffff,
            abi::ABI_MAJOR,
            abi::ABI_MINOR
        );
        return Err(StartError::new(
            found,
            format!("rebuild the handler with an SDK for version {}", abi::ABI_MAJOR),
        ));
    }
    let Some(table) = module.table().map_err(refuse)?.filter(|table| table.handle.is_some()) else {
        let found = format!("{} has no `handle` in its table", path.display());
        return Err(StartError::new(found, "rebuild the handler with an SDK of this processor"));
    };
    claim_runtime(table.features, path)?;
    Ok((table, table.features))
}

/// A run-time such as Go's wants the process for itself.
fn claim_runtime(features: u64, path: &Path) -> Result<(), StartError> {
    static CLAIMED: AtomicBool = AtomicBool::new(false);
    if features & abi::FEATURE_OWNS_RUNTIME != 0 && CLAIMED.swap(true, Ordering::Relaxed) {
        let found = format!("{} brings a second language run-time into this process", path.display());
        return Err(StartError::new(found, "load one such library per process"));
    }
    Ok(())
}

/// An error with its sources.
fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_file_names_every_place_looked_at() {
        let nowhere = [Path::new("/nonexistent/handler.so"), Path::new("/nonexistent/handler")];
        let text = find(None, &nowhere).unwrap_err().to_string();
        for part in ["NUCLIO_GOLANG_HANDLER_PLUGIN_PATH", "/nonexistent/handler.so", "/nonexistent/handler:"]
        {
            assert!(text.contains(part), "{text}");
        }
        let text = find(Some(Path::new("/nonexistent/mine.so")), &nowhere).unwrap_err().to_string();
        assert!(text.contains("/nonexistent/mine.so, which NUCLIO_GOLANG"), "{text}");
    }

    #[test]
    fn second_runtime_is_refused() {
        let path = Path::new("second.so");
        claim_runtime(0, path).unwrap();
        claim_runtime(abi::FEATURE_OWNS_RUNTIME, path).unwrap();
        claim_runtime(0, path).unwrap();
        assert!(claim_runtime(abi::FEATURE_OWNS_RUNTIME, path).is_err());
    }
}
