//! The table of languages that run behind a shim: how each is found and started. A new language is a row here and a
//! folder under `runtimes/`.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::compiled::code_for;
use super::dialects::{self, jvm_options, no_options};
use super::fork_server::ForkServer;
use super::process::{Launch, PROGRAM_PATH, SOCKET_FD, anonymous_file, compile_ahead};
use super::v1::{Dialect, Wrapper};
use crate::config::{Config, Env, RuntimeKind, ShimSource};
use crate::fields;
use crate::logging::Logger;
use crate::logging::sink::Stream;
use crate::runtime::StartError;

/// Text that marks a wrapper file as one of our shims.
const MARKER: &str = "nuclio-shim-protocol: 2";
/// The marker is looked for in this many bytes.
const MARKER_BYTES: usize = 4096;
/// First bytes of a jar.
const JAR: &[u8] = b"PK\x03\x04";
/// Name of an entry that marks a jar as one of our shims, wherever it stands: jars are merged with those of functions.
const JAR_MARKER: &str = "META-INF/nuclio-shim-protocol-2";
/// Where handlers are unless the environment says otherwise.
const HANDLER_DIR: &str = "/opt/nuclio";
/// Where the assembly of a .NET handler is.
const DOTNET_HANDLER_DIR: &str = "/opt/nuclio/handler";
/// Added to the name of a wrapper that is no text, that of the file which holds the marker.
const MARKER_ENDING: &str = ".shim";

/// One language.
#[derive(Debug)]
pub struct Language {
    /// Name in messages and logger names.
    pub name: &'static str,
    /// The runtime it serves.
    pub runtime: RuntimeKind,
    /// Its shim as part of this binary: files that it finds as descriptors from 4 on.
    embedded: &'static [(&'static str, &'static str)],
    /// Arguments that start the embedded shim.
    embedded_arguments: &'static [&'static str],
    /// Where images keep the shim.
    image_path: &'static str,
    /// Variable that names another place, and its value.
    wrapper: fn(&Env) -> Option<&Path>,
    wrapper_variable: &'static str,
    /// Programs to try, in order, and the variable that names another.
    interpreters: &'static [&'static str],
    interpreter: fn(&Env) -> Option<&str>,
    interpreter_variable: &'static str,
    /// Arguments before the shim's file.
    options: &'static [&'static str],
    /// What the function's configuration makes of them, where our shim is a file.
    configured: fn(&Config) -> Result<Vec<OsString>, StartError>,
    /// Where our shim finds its socket: the descriptor.
    socket_fd: i32,
    /// Arguments with which the interpreter starts fastest, for compiling the embedded shim into one more file behind its
    /// own. `None`: it is not compiled. Where this binary has the code for the interpreter, that is there from the beginning.
    compile_options: Option<&'static [&'static str]>,
    /// Added to the child's environment.
    environment: fn(&Config) -> Vec<(String, OsString)>,
    /// Where handlers are.
    handler_dir: fn(&Env) -> PathBuf,
    /// Where what it writes to standard error goes.
    errors_to: Stream,
    /// How the Go processor's wrapper is driven, where that is possible.
    pub dialect: Option<&'static Dialect>,
}

/// The languages this build serves.
pub static LANGUAGES: &[Language] = &[
    Language {
        name: "python",
        runtime: RuntimeKind::Python,
        embedded: &[
            ("bootstrap.py", include_str!("../../../runtimes/python/bootstrap.py")),
            ("_nuclio_wrapper.py", include_str!("../../../runtimes/python/_nuclio_wrapper.py")),
            // Loaded when they are needed, so they share a file: each behind its name.
            (
                "parts",
                concat!(
                    "\0_nuclio_more\0",
                    include_str!("../../../runtimes/python/_nuclio_more.py"),
                    "\0_nuclio_several\0",
                    include_str!("../../../runtimes/python/_nuclio_several.py"),
                    "\0_nuclio_streams\0",
                    include_str!("../../../runtimes/python/_nuclio_streams.py"),
                    "\0_nuclio_sdk\0",
                    include_str!("../../../runtimes/python/_nuclio_sdk.py"),
                    "\0_nuclio_web\0",
                    include_str!("../../../runtimes/python/_nuclio_web.py"),
                    "\0_nuclio_preload\0",
                    include_str!("../../../runtimes/python/_nuclio_preload.py"),
                ),
            ),
        ],
        embedded_arguments: &[PROGRAM_PATH],
        image_path: "/opt/nuclio/_nuclio_wrapper.py",
        wrapper: |env| env.python_wrapper.as_deref(),
        wrapper_variable: "NUCLIO_PYTHON_WRAPPER_PATH",
        interpreters: &["python3", "python"],
        interpreter: |env| env.python_exe.as_deref(),
        interpreter_variable: "NUCLIO_PYTHON_EXE_PATH",
        options: &["-u"],
        configured: no_options,
        socket_fd: SOCKET_FD,
        compile_options: Some(&["-I", "-S"]),
        environment: python_environment,
        handler_dir: |env| env.python_path.as_deref().unwrap_or(HANDLER_DIR).into(),
        errors_to: Stream::Err,
        dialect: Some(&dialects::PYTHON),
    },
    Language {
        name: "nodejs",
        runtime: RuntimeKind::NodeJs,
        embedded: &[("wrapper.js", include_str!("../../../runtimes/nodejs/wrapper.js"))],
        // The type is said because NODE_OPTIONS may say another.
        embedded_arguments: &[
            "--input-type=commonjs",
            "-e",
            include_str!("../../../runtimes/nodejs/bootstrap.js"),
        ],
        image_path: "/opt/nuclio/wrapper.js",
        wrapper: |env| env.nodejs_wrapper.as_deref(),
        wrapper_variable: "NUCLIO_NODEJS_WRAPPER_PATH",
        interpreters: &["node"],
        interpreter: |env| env.nodejs_exe.as_deref(),
        interpreter_variable: "NUCLIO_NODEJS_EXE",
        options: &[],
        configured: no_options,
        socket_fd: SOCKET_FD,
        compile_options: None,
        environment: |_| Vec::new(),
        handler_dir: |env| env.handler_directory.clone().unwrap_or_else(|| HANDLER_DIR.into()),
        errors_to: Stream::Out,
        dialect: Some(&dialects::NODEJS),
    },
    Language {
        name: "ruby",
        runtime: RuntimeKind::Ruby,
        embedded: &[("wrapper.rb", include_str!("../../../runtimes/ruby/wrapper.rb"))],
        embedded_arguments: &[PROGRAM_PATH],
        image_path: "/opt/nuclio/wrapper.rb",
        wrapper: |env| env.ruby_wrapper.as_deref(),
        wrapper_variable: "NUCLIO_WRAPPER_PATH",
        interpreters: &["ruby"],
        interpreter: |env| env.ruby_exe.as_deref(),
        interpreter_variable: "NUCLIO_RUBY_EXE",
        options: &[],
        configured: no_options,
        socket_fd: SOCKET_FD,
        compile_options: None,
        environment: |_| Vec::new(),
        handler_dir: ruby_handler_dir,
        errors_to: Stream::Err,
        dialect: Some(&dialects::RUBY),
    },
    Language {
        name: "dotnetcore",
        runtime: RuntimeKind::DotNetCore,
        // Compiled: images bring it.
        embedded: &[],
        embedded_arguments: &[],
        image_path: "/opt/nuclio/wrapper/wrapper.dll",
        wrapper: |env| env.dotnetcore_wrapper.as_deref(),
        wrapper_variable: "NUCLIO_DOTNETCORE_WRAPPER_PATH",
        interpreters: &["dotnet"],
        interpreter: |_| None,
        interpreter_variable: "",
        options: &[],
        configured: no_options,
        socket_fd: SOCKET_FD,
        compile_options: None,
        environment: |_| Vec::new(),
        handler_dir: |env| env.handler_directory.clone().unwrap_or_else(|| DOTNET_HANDLER_DIR.into()),
        errors_to: Stream::Out,
        dialect: Some(&dialects::DOTNETCORE),
    },
    Language {
        name: "java",
        runtime: RuntimeKind::Java,
        embedded: &[],
        embedded_arguments: &[],
        image_path: "/opt/nuclio/nuclio-java-wrapper.jar",
        wrapper: |env| env.java_wrapper.as_deref(),
        wrapper_variable: "NUCLIO_WRAPPER_JAR",
        interpreters: &["java"],
        interpreter: |_| None,
        interpreter_variable: "",
        options: &[],
        configured: |config| {
            let mut options = jvm_options(config)?;
            options.push("-jar".into());
            Ok(options)
        },
        // Java has no public way to adopt another one.
        socket_fd: 0,
        compile_options: None,
        environment: |_| Vec::new(),
        handler_dir: |env| env.handler_directory.clone().unwrap_or_else(|| HANDLER_DIR.into()),
        errors_to: Stream::Err,
        dialect: Some(&dialects::JAVA),
    },
];

/// Handlers that are programs by themselves, whatever they are written in: nothing has to be found but their file.
pub static EXECUTABLE: Language = Language {
    name: "golang",
    runtime: RuntimeKind::Golang,
    embedded: &[],
    embedded_arguments: &[],
    image_path: "",
    wrapper: |_| None,
    wrapper_variable: "",
    interpreters: &[],
    interpreter: |_| None,
    interpreter_variable: "",
    options: &[],
    configured: no_options,
    socket_fd: SOCKET_FD,
    compile_options: None,
    environment: |_| Vec::new(),
    handler_dir: |_| HANDLER_DIR.into(),
    errors_to: Stream::Err,
    dialect: None,
};

/// The language of a runtime, if it runs behind a shim.
pub fn of(runtime: RuntimeKind) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| language.runtime == runtime)
}

/// What every process that handles events is told of its function.
pub(in crate::runtime) fn function_environment(config: &Config) -> Vec<(String, OsString)> {
    let function = &config.function;
    vec![
        ("NUCLIO_HANDLER".to_owned(), function.handler.clone().into()),
        ("NUCLIO_FUNCTION_NAME".to_owned(), function.name.clone().into()),
        ("NUCLIO_FUNCTION_DESCRIPTION".to_owned(), function.description.clone().into()),
        ("NUCLIO_FUNCTION_VERSION".to_owned(), function.version.to_string().into()),
        ("NUCLIO_FUNCTION_HANDLER".to_owned(), function.handler.clone().into()),
    ]
}

/// Whether compiling a shim in a process of its own saves more than that process costs. A single worker is ready as soon
/// without, for two thirds of the processor time.
fn pays_off(config: &Config) -> bool {
    config.function.triggers.iter().map(|trigger| trigger.workers).sum::<usize>() > 1
}

fn python_environment(config: &Config) -> Vec<(String, OsString)> {
    let first = config.env.python_path.clone().unwrap_or_else(|| "/opt/nuclio".to_owned());
    let inherited = config.env.python_path_inherited.clone().filter(|path| !path.is_empty());
    let path: Vec<String> =
        [Some(first).filter(|first| !first.is_empty()), inherited].into_iter().flatten().collect();
    vec![("PYTHONPATH".to_owned(), path.join(":").into())]
}

/// compat: the Go processor's wrapper looks for handlers beside itself.
fn ruby_handler_dir(env: &Env) -> PathBuf {
    let beside = env.ruby_wrapper.as_deref().and_then(Path::parent).filter(|folder| folder.is_absolute());
    env.handler_directory.as_deref().or(beside).map_or_else(|| HANDLER_DIR.into(), Path::to_owned)
}

/// What workers are forked from, where the function asks for it. `foreign`: the shim is a wrapper of the Go processor.
fn fork_server(config: &Config, foreign: bool, logger: &Logger) -> Option<Arc<ForkServer>> {
    if config.function.preload && foreign {
        let message = "spec.runtimeAttributes.preload has no effect with a wrapper of the Go processor; \
                       NUCLIO_SHIM_SOURCE=embedded runs the handler with the shim inside this binary";
        logger.warn(message, fields! {});
    }
    (config.function.preload && !foreign).then(Arc::default)
}

impl Language {
    /// Finds interpreter and shim.
    ///
    /// # Errors
    /// One of them is missing, or the shim cannot speak the protocol asked for.
    pub fn launch(&'static self, config: &Config, logger: &Logger) -> Result<Launch, StartError> {
        let program = self.find_interpreter(&config.env)?;
        let mut arguments: Vec<OsString> = self.options.iter().map(OsString::from).collect();
        let (mut files, mut wrapper) = (Vec::new(), None);
        match self.find_shim(&config.env)? {
            Some(path) if protocol(&path, config.env.shim_protocol)? == 1 => {
                let dialect = self.dialect.ok_or_else(|| self.cannot_drive(&path))?;
                let found = Wrapper::find(&path, dialect);
                arguments.extend((dialect.options)(config)?);
                let fields = fields! {
                    "language" => self.name, "path" => path.display().to_string(), "protocol" => 1,
                    "generation" => found.generation()
                };
                logger.info("Using the wrapper of the Go processor", fields);
                wrapper = Some(found);
            }
            Some(path) => {
                let fields =
                    fields! {"language" => self.name, "path" => path.display().to_string(), "protocol" => 2};
                logger.debug("Using the shim in the image", fields);
                arguments.extend((self.configured)(config)?);
                arguments.push(path.into());
            }
            None if config.env.shim_protocol == Some(1) => {
                let advice = format!(
                    "the shim inside this binary speaks protocol 2 only; unset it, or name a wrapper in {}",
                    self.wrapper_variable
                );
                return Err(StartError::new("NUCLIO_SHIM_PROTOCOL is 1", advice));
            }
            None => {
                let code = self.compile_options.and_then(|_| code_for(&program));
                files = self.embedded_files(code)?;
                arguments.extend(self.embedded_arguments.iter().map(OsString::from));
                if let Some(options) = self.compile_options.filter(|_| code.is_none())
                    && pays_off(config)
                    && let Err(error) = compile_ahead(&program, options, &files)
                {
                    let fields = fields! {"language" => self.name, "err" => error.to_string()};
                    logger.debug("Every worker compiles the embedded shim by itself", fields);
                }
                let fields = fields! {"language" => self.name, "compiled" => code.is_some()};
                logger.info("Using the shim embedded in the processor", fields);
            }
        }
        let mut environment = function_environment(config);
        environment.extend((self.environment)(config));
        let more = wrapper.iter().flat_map(|wrapper| wrapper.dialect.environment);
        environment.extend(more.map(|(name, value)| ((*name).to_owned(), OsString::from(value))));
        let answer_bytes_max = config.env.answer_bytes_max;
        let fork_server = fork_server(config, wrapper.is_some(), logger);
        Ok(Launch {
            program,
            arguments,
            environment,
            wrapper,
            answer_bytes_max,
            files,
            fork_server,
            socket_fd: self.socket_fd,
            errors_to: self.errors_to,
        })
    }

    /// The embedded shim as files, behind them the one that has or takes its code.
    fn embedded_files(&self, code: Option<&[u8]>) -> Result<Vec<Arc<OwnedFd>>, StartError> {
        let sources = self.embedded.iter().map(|(name, text)| (*name, text.as_bytes()));
        let compiled = self.compile_options.map(|_| ("code", code.unwrap_or_default()));
        let held = sources.chain(compiled).map(|(name, content)| anonymous_file(name, content));
        held.collect::<std::io::Result<_>>().map_err(|error| {
            StartError::new(format!("cannot hold the embedded {} shim", self.name), error.to_string())
        })
    }

    /// For a handler that is a program.
    ///
    /// # Errors
    /// The file may not be executed.
    pub fn launch_program(&self, program: PathBuf, config: &Config) -> Result<Launch, StartError> {
        if rustix::fs::access(&program, rustix::fs::Access::EXEC_OK).is_err() {
            let found = format!("{} is a program that may not be executed", program.display());
            return Err(StartError::new(found, "chmod +x it, and look at the options of its mount (noexec)"));
        }
        Ok(Launch {
            program,
            arguments: Vec::new(),
            environment: function_environment(config),
            wrapper: None,
            answer_bytes_max: config.env.answer_bytes_max,
            files: Vec::new(),
            fork_server: None,
            socket_fd: self.socket_fd,
            errors_to: self.errors_to,
        })
    }

    /// Directory that the shim looks for handlers in.
    pub fn handler_dir(&self, env: &Env) -> PathBuf {
        (self.handler_dir)(env)
    }

    fn cannot_drive(&self, path: &Path) -> StartError {
        let path = path.display();
        StartError::new(
            format!("the wrapper {path} is one of the Go processor's (shim protocol 1)"),
            format!(
                "this build cannot drive it for {}; NUCLIO_SHIM_SOURCE=embedded runs the handler with the shim inside \
                 this binary",
                self.name
            ),
        )
    }

    fn find_interpreter(&self, env: &Env) -> Result<PathBuf, StartError> {
        let path = env.path.as_deref().unwrap_or("/usr/local/bin:/usr/bin:/bin");
        if let Some(wanted) = (self.interpreter)(env).filter(|wanted| !wanted.is_empty()) {
            return find_program(wanted, path).ok_or_else(|| {
                let (variable, name) = (self.interpreter_variable, self.name);
                let advice = format!(
                    "{variable} names {wanted:?}, which is no executable file in {path}; correct or unset it"
                );
                StartError::new(format!("Can't find {name} executable"), advice)
            });
        }
        self.interpreters.iter().find_map(|name| find_program(name, path)).ok_or_else(|| {
            let names = self.interpreters.join(" or ");
            let otherwise = match self.interpreter_variable {
                "" => String::new(),
                variable => format!(" or name it in {variable}"),
            };
            let advice = format!("no {names} in PATH ({path}); install it{otherwise}");
            StartError::new(format!("Can't find {} executable", self.name), advice)
        })
    }

    /// `None`: the embedded one.
    fn find_shim(&self, env: &Env) -> Result<Option<PathBuf>, StartError> {
        let carried = !self.embedded.is_empty();
        match (env.shim_source, carried) {
            (ShimSource::Embedded, true) => return Ok(None),
            (ShimSource::Embedded, false) => {
                let found =
                    format!("NUCLIO_SHIM_SOURCE is embedded, and this binary carries no {} shim", self.name);
                return Err(StartError::new(
                    found,
                    format!("unset it; {} names the file", self.wrapper_variable),
                ));
            }
            _ => {}
        }
        let missing = |path: &Path, remedy: &str| {
            StartError::new(
                format!("Can't find wrapper at \"{}\"", path.display()),
                format!("no such file; {remedy}"),
            )
        };
        if let Some(path) = (self.wrapper)(env).filter(|path| !path.as_os_str().is_empty()) {
            let remedy = format!("correct or unset {}", self.wrapper_variable);
            return if path.is_file() { Ok(Some(path.to_owned())) } else { Err(missing(path, &remedy)) };
        }
        let path = Path::new(self.image_path);
        match (path.is_file(), env.shim_source) {
            (true, _) => Ok(Some(path.to_owned())),
            (false, ShimSource::Image) if carried => {
                Err(missing(path, "NUCLIO_SHIM_SOURCE=image asks for it; auto takes the embedded shim"))
            }
            (false, _) if carried => Ok(None),
            (false, _) => {
                let remedy = format!(
                    "images have it there; runtimes/{}/build makes it, and {} names another place",
                    self.name, self.wrapper_variable
                );
                Err(missing(path, &remedy))
            }
        }
    }
}

/// Which protocol a wrapper file speaks, unless the operator says so.
fn protocol(path: &Path, wanted: Option<u8>) -> Result<u8, StartError> {
    let explain = |error: std::io::Error| {
        StartError::new(format!("cannot read the wrapper {}", path.display()), error.to_string())
    };
    let mut text = std::fs::read(path).map_err(explain)?;
    let marker = if text.starts_with(JAR) { JAR_MARKER } else { MARKER };
    if marker == MARKER {
        text.truncate(MARKER_BYTES);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(MARKER_ENDING);
    text.extend(std::fs::read(beside).unwrap_or_default()); // Scripts have none.
    let ours = memchr::memmem::find(&text, marker.as_bytes()).is_some();
    Ok(wanted.unwrap_or(if ours { 2 } else { 1 }))
}

/// An executable file: a path as it is, a name through `path`.
pub(in crate::runtime) fn find_program(name: &str, path: &str) -> Option<PathBuf> {
    let executable = |candidate: &Path| {
        candidate.is_file() && rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|candidate| executable(candidate));
    }
    path.split(':').map(|folder| Path::new(folder).join(name)).find(|candidate| executable(candidate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jar_is_ours_by_the_name_of_an_entry_wherever_it_stands_and_a_script_by_its_head() {
        let folder = tempfile::tempdir().unwrap();
        let spoken = |bytes: &[u8], wanted| {
            let path = folder.path().join("wrapper");
            std::fs::write(&path, bytes).unwrap();
            protocol(&path, wanted).unwrap()
        };
        let far = vec![b'x'; 2 * MARKER_BYTES];
        assert_eq!(spoken(&[JAR, &far, JAR_MARKER.as_bytes(), &far].concat(), None), 2);
        assert_eq!(spoken(&[JAR, &far].concat(), None), 1);
        // The text alone says nothing in a jar, nor the entry's name elsewhere.
        assert_eq!(spoken(&[JAR, MARKER.as_bytes()].concat(), None), 1);
        assert_eq!(spoken(JAR_MARKER.as_bytes(), None), 1);
        assert_eq!(spoken(format!("# {MARKER}").as_bytes(), None), 2);
        assert_eq!(spoken(&[&far, MARKER.as_bytes()].concat(), None), 1);
        assert_eq!(spoken(format!("# {MARKER}").as_bytes(), Some(1)), 1);
    }
}
