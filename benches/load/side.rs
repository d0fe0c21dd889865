//! What can be measured against what: a processor binary, a preset, any command that serves HTTP.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use crate::functions::Runtime;
use crate::tools::{self, folder, handlers, root, run, skip};
use crate::workload::Work;

/// One of the two that take turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Side {
    /// A binary that takes `--config` and `--platform-config`: ours, or the reference processor.
    Processor(PathBuf),
    Preset(Preset),
    /// A shell command with `{port}`, and `{dir}` for a directory whose `index.html` is the answer of an empty handler.
    Command(String),
}

/// Servers that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preset {
    Hyper,
    NodeHttp,
    Fasthttp,
    Granian,
    GranianRsgi,
    Uvicorn,
    Gunicorn,
}

const PRESETS: &[(&str, Preset)] = &[
    ("hyper", Preset::Hyper),
    ("node-http", Preset::NodeHttp),
    ("fasthttp", Preset::Fasthttp),
    ("granian", Preset::Granian),
    ("granian-rsgi", Preset::GranianRsgi),
    ("uvicorn", Preset::Uvicorn),
    ("gunicorn", Preset::Gunicorn),
];

/// The processor that was built beside this program, or that of `PROCESSOR_BIN`.
pub(crate) fn ours() -> Side {
    let path = tools::environment("PROCESSOR_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_processor").into());
    Side::Processor(path)
}

/// The processor as it ships, made by now; what is said meanwhile goes to standard error.
///
/// # Errors
/// It cannot be built, or not with a profile.
pub(crate) fn shipped() -> Result<Side> {
    tools::watch(Command::new(root("scripts/dist")).arg("--processor"))?;
    if !root("dist/.profiled-processor").exists() {
        bail!("--dist: dist/processor has no profile, see above; leave the option out to measure without");
    }
    Ok(Side::Processor(root("dist/processor")))
}

impl FromStr for Side {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(command) = text.strip_prefix("cmd:") {
            if !command.contains("{port}") {
                bail!("`{text}` has no {{port}}: the command would not know where to listen");
            }
            return Ok(Self::Command(command.to_owned()));
        }
        if text == "self" {
            return Ok(ours());
        }
        if let Some((_, preset)) = PRESETS.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Preset(*preset));
        }
        if text.contains('/') {
            return Ok(Self::Processor(text.into()));
        }
        let names: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
        bail!(
            "`{text}` is none of self, {}; a binary is written with a slash (./{text}), a command as cmd:…",
            names.join(", ")
        )
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor(path) => f.write_str(
                &path.file_name().map_or_else(|| "processor".into(), |name| name.to_string_lossy()),
            ),
            Self::Preset(preset) => {
                let name = PRESETS.iter().find(|(_, other)| other == preset).map(|(name, _)| *name);
                f.write_str(name.unwrap_or("preset"))
            }
            Self::Command(command) => f.write_str(command.split(' ').next().unwrap_or("command")),
        }
    }
}

/// What a side is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) runtime: Runtime,
    pub(crate) work: Work,
    pub(crate) workers: Option<u32>,
}

impl Task {
    pub(crate) fn workers(&self) -> u32 {
        self.workers.unwrap_or_else(|| self.runtime.workers(self.work))
    }
}

/// A side's command line, once its program is there.
pub(crate) fn command(side: &Side, task: &Task, http: SocketAddr, directory: &Path) -> Result<Command> {
    match side {
        Side::Processor(path) => {
            let mut command = Command::new(path);
            command.arg("--config").arg(directory.join("processor.yaml"));
            command.arg("--platform-config").arg(directory.join("platform.yaml"));
            Ok(command)
        }
        Side::Command(text) => {
            let port = http.port().to_string();
            fs::write(directory.join("index.html"), Work::Empty.exchange().answer)?;
            let directory = directory.to_str().context("the temporary directory is not UTF-8")?;
            let mut command = Command::new("sh");
            command.arg("-c").arg(text.replace("{port}", &port).replace("{dir}", directory));
            Ok(command)
        }
        Side::Preset(preset) => preset.command(task, http.port()),
    }
}

impl Preset {
    fn command(self, task: &Task, port: u16) -> Result<Command> {
        match self {
            Self::Hyper => {
                let mut command =
                    Command::new(std::env::current_exe().context("failed to find this program")?);
                command.arg("--serve-bare-hyper").arg(port.to_string());
                Ok(command)
            }
            Self::NodeHttp => {
                tools::found("node", "Node.js")?;
                let mut command = Command::new("node");
                command.arg(handlers().join("competitors/server.js")).arg(port.to_string());
                Ok(command)
            }
            Self::Fasthttp => {
                let mut command = Command::new(fasthttp()?);
                command.arg(port.to_string());
                Ok(command)
            }
            Self::Granian | Self::GranianRsgi | Self::Uvicorn | Self::Gunicorn => self.python(task, port),
        }
    }

    fn python(self, task: &Task, port: u16) -> Result<Command> {
        let application = self.application(task.runtime)?;
        let mut command = Command::new(tools::python_packages()?);
        command.current_dir(handlers()).env("PYTHONPATH", handlers()).env("PYTHONDONTWRITEBYTECODE", "1");
        let (port, workers) = (port.to_string(), task.workers().to_string());
        match self {
            Self::Uvicorn => command
                .args(["-m", "uvicorn", application, "--host", "127.0.0.1", "--port", &port])
                .args([
                    "--loop",
                    "uvloop",
                    "--http",
                    "httptools",
                    "--no-access-log",
                    "--log-level",
                    "warning",
                ])
                .args(["--workers", &workers]),
            Self::Gunicorn => command
                .args(["-m", "gunicorn", application, "--bind", &format!("127.0.0.1:{port}")])
                // Threads, because plain workers close the connection behind each answer.
                .args(["--worker-class", "gthread", "--threads", "4", "--workers", &workers]),
            _ => command
                .args(["-m", "granian", application, "--host", "127.0.0.1", "--port", &port])
                .args(["--interface", if self == Self::GranianRsgi { "rsgi" } else { "asgi" }])
                .args(["--loop", "uvloop", "--no-ws", "--log-level", "warning", "--workers", &workers]),
        };
        Ok(command)
    }

    /// What a server for Python is given where the processor runs this.
    fn application(self, runtime: Runtime) -> Result<&'static str> {
        match (self, runtime) {
            (Self::Gunicorn, Runtime::Flask) => Ok("web_flask:app"),
            (Self::Gunicorn, Runtime::Python | Runtime::Wsgi) => Ok("web_wsgi:app"),
            (Self::Uvicorn | Self::Granian, Runtime::Fastapi) => Ok("web_fastapi:app"),
            (Self::Uvicorn | Self::Granian, Runtime::Python | Runtime::PythonAsync | Runtime::Asgi) => {
                Ok("web_asgi:app")
            }
            (Self::GranianRsgi, Runtime::Python | Runtime::PythonAsync) => Ok("web_rsgi:app"),
            _ => skip(format!("{} serves nothing like {}", Side::Preset(self), runtime.name())),
        }
    }
}

/// Our functions in Go behind fasthttp alone.
fn fasthttp() -> Result<PathBuf> {
    tools::found("go", "Go 1.21 or newer")?;
    let (source, binary) = (folder("fasthttp")?, folder("fasthttp")?.join("fasthttp"));
    for file in ["golang/work.go", "competitors/fasthttp/main.go", "competitors/fasthttp/go.mod"] {
        let from = handlers().join(file);
        let name = from.file_name().context("a source has a name")?;
        fs::copy(&from, source.join(name)).with_context(|| format!("failed to copy {}", from.display()))?;
    }
    let mut build = Command::new("go");
    build.args(["build", "-mod=mod", "-o"]).arg(&binary).arg(".").current_dir(&source).env("GOWORK", "off");
    match run(tools::go_environment(&mut build)) {
        Ok(()) => Ok(binary),
        Err(error) => skip(format!("fasthttp cannot be built: {error:#}")),
    }
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    #[test]
    fn sides_are_presets_binaries_and_commands() {
        let side = |text: &str| text.parse::<Side>().unwrap();
        for (name, preset) in PRESETS {
            assert_eq!(side(name), Side::Preset(*preset));
            assert_eq!(side(name).to_string(), *name);
        }
        assert_eq!(side("./old/processor"), Side::Processor("./old/processor".into()));
        assert_eq!(side("./old/processor").to_string(), "processor");
        assert!(matches!(side("self"), Side::Processor(_)));
        let command = side("cmd:server --port {port} --dir {dir}");
        assert_eq!(command, Side::Command("server --port {port} --dir {dir}".to_owned()));
        assert_eq!(command.to_string(), "server");
    }

    #[test]
    fn what_is_no_side_is_said_with_the_remedy() {
        let error = |text: &str| text.parse::<Side>().unwrap_err().to_string();
        assert!(error("nginx").contains("node-http") && error("nginx").contains("./nginx"));
        assert!(error("cmd:server").contains("{port}"));
    }
}
