//! The functions under load: which handler, how it is built, what its configuration says. One row of `runtimes` per way
//! to run a handler.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::tools::{self, folder, handlers, run, skip};
use crate::workload::Work;

/// How the handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Runtime {
    /// `nuclio:builtin`: HTTP and the dispatcher, no handler.
    Builtin,
    /// A library in C.
    C,
    /// A library in Rust.
    Rust,
    /// A Go function as a library.
    Go,
    /// A Go function as a program.
    GoProgram,
    Python,
    /// `async def` with `mode: async`.
    PythonAsync,
    /// An ASGI application without a framework.
    Asgi,
    /// A WSGI application without a framework.
    Wsgi,
    Fastapi,
    Flask,
    Nodejs,
    Java,
    Ruby,
    Dotnet,
}

/// What goes into `processor.yaml`, and the environment beside it.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) runtime: &'static str,
    pub(crate) handler: String,
    pub(crate) workers: u32,
    pub(crate) event_timeout: Option<&'static str>,
    pub(crate) availability_timeout_ms: u32,
    pub(crate) asynchronous: bool,
    /// The lowest level that is written.
    pub(crate) log_level: &'static str,
    pub(crate) environment: Vec<(String, OsString)>,
}

impl Runtime {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Runs in the processor's own process, where several workers cost nothing.
    pub(crate) fn in_process(self) -> bool {
        matches!(self, Self::Builtin | Self::C | Self::Rust | Self::Go)
    }

    /// Serves HTTP by itself elsewhere.
    pub(crate) fn is_web(self) -> bool {
        matches!(self, Self::Asgi | Self::Wsgi | Self::Fastapi | Self::Flask)
    }

    /// Whether there is a handler for that; why not, if there is none.
    pub(crate) fn does(self, work: Work) -> Result<()> {
        let able = match work {
            Work::Empty => true,
            _ if self == Self::Builtin => false,
            Work::AsyncFanout => {
                matches!(self, Self::PythonAsync | Self::Asgi | Self::Fastapi | Self::Nodejs | Self::Dotnet)
            }
            Work::Detector => !matches!(self, Self::C | Self::Rust),
            Work::Logs => !self.is_web(),
            _ => true,
        };
        if able { Ok(()) } else { skip(format!("{} has no handler for {}", self.name(), work.name())) }
    }

    /// Workers where nobody says how many.
    pub(crate) fn workers(self, work: Work) -> u32 {
        match (self.in_process(), work) {
            (_, Work::Detector) => 2,
            (true, _) => 8,
            (false, _) => 1,
        }
    }
}

/// Builds each function once.
#[derive(Default)]
pub(crate) struct Functions {
    built: Mutex<HashMap<String, PathBuf>>,
}

impl Functions {
    /// The function that does this work.
    pub(crate) fn get(&self, runtime: Runtime, work: Work, workers: Option<u32>) -> Result<Function> {
        runtime.does(work)?;
        let empty = work == Work::Empty;
        let name =
            |of_empty: &str, of_work: &str| if empty { of_empty.to_owned() } else { of_work.to_owned() };
        let mut function = match runtime {
            Runtime::Builtin => builtin(),
            Runtime::C => compiled("main:Handler", self.c(&name("empty", "work"))?),
            Runtime::Rust => compiled("main:Handler", self.once("rust", rust)?),
            Runtime::Go => compiled(&name("main:Empty", "main:Work"), self.once("go", || go("library"))?),
            Runtime::GoProgram => {
                compiled(&name("main:Empty", "main:Work"), self.once("go-program", || go("executable"))?)
            }
            Runtime::Python => python(&name("empty:handler", "work:handler"), &python_path()),
            Runtime::PythonAsync => python(&name("work_async:empty", "work_async:handler"), &python_path()),
            Runtime::Asgi => python("web_asgi:app", &tools::python_packages()?),
            Runtime::Wsgi => python("web_wsgi:app", &tools::python_packages()?),
            Runtime::Fastapi => python("web_fastapi:app", &tools::python_packages()?),
            Runtime::Flask => python("web_flask:app", &tools::python_packages()?),
            Runtime::Nodejs => nodejs(&name("work.js:empty", "work.js:handler"))?,
            Runtime::Java => java(&name("Empty", "Work"), self.once("java", java_jar)?),
            Runtime::Ruby => ruby(&name("work:empty", "work:handler"))?,
            Runtime::Dotnet => {
                dotnet(&name("Work:Empty", "Work:Handle"), &self.once("dotnet", dotnet_folder)?)
            }
        };
        function.workers = workers.unwrap_or_else(|| runtime.workers(work));
        function.asynchronous = match runtime {
            Runtime::PythonAsync => true,
            Runtime::Nodejs | Runtime::Dotnet => work == Work::AsyncFanout,
            _ => false,
        };
        if work == Work::Logs {
            function.log_level = "info";
        }
        Ok(function)
    }

    /// The C handler of scenarios that block, the body says how long.
    pub(crate) fn sleeping(&self, workers: u32) -> Result<Function> {
        Ok(Function { workers, ..compiled("main:Handler", self.c("sleep")?) })
    }

    /// `handlers/NAME.c` as a library. `NUCLIO_GOLANG_HANDLER_PLUGIN_PATH` puts another library in the place of
    /// `empty`.
    fn c(&self, name: &str) -> Result<PathBuf> {
        match tools::environment(LIBRARY).filter(|_| name == "empty") {
            Some(library) => Ok(library),
            None => self.once(&format!("c-{name}"), || c(name)),
        }
    }

    fn once(&self, name: &str, build: impl FnOnce() -> Result<PathBuf>) -> Result<PathBuf> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = built.get(name) {
            return Ok(path.clone());
        }
        let path = build()?;
        built.insert(name.to_owned(), path.clone());
        Ok(path)
    }
}

const LIBRARY: &str = "NUCLIO_GOLANG_HANDLER_PLUGIN_PATH";
const PYTHON: &str = "NUCLIO_PYTHON_EXE_PATH";

pub(crate) fn builtin() -> Function {
    Function {
        runtime: "golang",
        handler: "nuclio:builtin".to_owned(),
        workers: 8,
        event_timeout: None,
        availability_timeout_ms: 10_000,
        asynchronous: false,
        log_level: "warn",
        environment: Vec::new(),
    }
}

fn function(
    runtime: &'static str,
    handler: &str,
    environment: impl IntoIterator<Item = (&'static str, PathBuf)>,
) -> Function {
    let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    Function { runtime, handler: handler.to_owned(), environment: environment.collect(), ..builtin() }
}

fn compiled(handler: &str, file: PathBuf) -> Function {
    function("golang", handler, [(LIBRARY, file)])
}

/// The interpreter of Python functions: the same under our shim and under its competitors.
pub(crate) fn python_path() -> PathBuf {
    tools::environment(PYTHON).unwrap_or_else(|| {
        let system = PathBuf::from("/usr/bin/python3");
        if system.exists() { system } else { "python3".into() }
    })
}

fn python(handler: &str, interpreter: &Path) -> Function {
    function("python", handler, [(PYTHON, interpreter.into()), ("NUCLIO_PYTHON_PATH", handlers())])
}

fn nodejs(handler: &str) -> Result<Function> {
    tools::found("node", "Node.js 18 or newer")?;
    Ok(function("nodejs", handler, [("NUCLIO_HANDLER_DIR", handlers())]))
}

fn ruby(handler: &str) -> Result<Function> {
    tools::found("ruby", "Ruby")?;
    Ok(function("ruby", handler, [("NUCLIO_HANDLER_DIR", handlers())]))
}

fn java(handler: &str, jar: PathBuf) -> Function {
    function("java", handler, [("NUCLIO_WRAPPER_JAR", jar)])
}

fn dotnet(handler: &str, built: &Path) -> Function {
    let wrapper = built.join("wrapper/wrapper.dll");
    let mut function = function(
        "dotnetcore",
        handler,
        [("NUCLIO_HANDLER_DIR", built.join("handler")), ("NUCLIO_DOTNETCORE_WRAPPER_PATH", wrapper)],
    );
    function.environment.push(("PATH".to_owned(), tools::dotnet_path()));
    function
}

fn c(name: &str) -> Result<PathBuf> {
    let library = folder("c")?.join(format!("{name}.so"));
    let compiler = tools::environment("CC").unwrap_or_else(|| "cc".into());
    let compiler = compiler.to_str().context("CC is not UTF-8")?;
    tools::found(compiler, "a C compiler (apt-get install gcc)")?;
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-O2", "-fPIC", "-shared", "-I"]).arg(tools::root("runtimes/rust/include"));
    command.arg("-o").arg(&library).arg(handlers().join(format!("{name}.c")));
    run(&mut command)?;
    Ok(library)
}

fn rust() -> Result<PathBuf> {
    let target = folder("rust")?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--release", "--quiet", "--target-dir"]).arg(&target);
    run(command.arg("--manifest-path").arg(handlers().join("rust/Cargo.toml")))?;
    Ok(target.join("release/libload_handlers.so"))
}

fn go(form: &str) -> Result<PathBuf> {
    tools::found("go", "Go 1.21 or newer")?;
    let file = folder("go")?.join(form);
    let mut command = Command::new(tools::root("runtimes/golang/build"));
    command.arg(handlers().join("golang")).arg("-o").arg(&file).args(["--form", form]);
    run(tools::go_environment(&mut command))?;
    Ok(file)
}

fn java_jar() -> Result<PathBuf> {
    tools::found("javac", "a JDK")?;
    let jar = folder("java")?.join("nuclio-java-wrapper.jar");
    let mut command = Command::new(tools::root("runtimes/java/build"));
    run(command.arg(handlers().join("java")).arg("-o").arg(&jar))?;
    Ok(jar)
}

fn dotnet_folder() -> Result<PathBuf> {
    let path = tools::dotnet_path();
    let version = Command::new("dotnet").arg("--version").env("PATH", &path).output();
    if !version.is_ok_and(|version| version.status.success()) {
        return skip("there is no .NET SDK; scripts/get-dotnet gets one".to_owned());
    }
    let out = folder("dotnet")?;
    let mut command = Command::new(tools::root("runtimes/dotnetcore/build"));
    run(command.env("PATH", path).arg("-o").arg(&out).arg(handlers().join("dotnetcore")))?;
    Ok(out)
}
