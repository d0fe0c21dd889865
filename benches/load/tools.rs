//! What the machine has: compilers, interpreters, packages; and where what is built for measurements goes.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::functions::python_path;
use crate::groups;

/// Of what is served by others, and beside which our own applications run.
const PYTHON_PACKAGES: &[&str] = &[
    "fastapi==0.165.0",
    "flask==3.1.3",
    "uvloop==0.23.0",
    "uvicorn==0.54.0",
    "httptools==0.9.0",
    "granian==2.8.9",
    "gunicorn==27.0.1",
];

/// Why something was not measured. No failure: the machine lacks what it takes.
#[derive(Debug)]
pub(crate) struct Skipped(String);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

pub(crate) fn skip<T>(reason: String) -> Result<T> {
    Err(Skipped(reason).into())
}

/// Fails as skipped if that program cannot be started.
pub(crate) fn found(program: &str, what: &str) -> Result<()> {
    let started = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    match started {
        Ok(_) => Ok(()),
        Err(_) => skip(format!("there is no {what} on this machine (`{program}`)")),
    }
}

/// Of the repository.
pub(crate) fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn handlers() -> PathBuf {
    root("benches/load/handlers")
}

/// A folder for what is built, below `target`.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    Ok(folder)
}

/// Runs a builder; what it said is shown if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program to its end, in a group of its own, so that it ends with this one; what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (child, _group) = groups::spawn(command).with_context(|| format!("failed to run {command:?}"))?;
    let output = child.wait_with_output().with_context(|| format!("failed to wait for {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a builder that takes long: what it says is shown as it comes.
pub(crate) fn watch(command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    let (mut child, _group) = groups::spawn(command).with_context(|| format!("failed to run {command:?}"))?;
    let status = child.wait().with_context(|| format!("failed to wait for {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}

/// Go with the cache of the tests, so that a second build is fast.
pub(crate) fn go_environment(command: &mut Command) -> &mut Command {
    command.env("GOCACHE", root("target/tools/go-cache")).env("GOTOOLCHAIN", "local").env("GOFLAGS", "")
}

/// A virtual environment with the packages above, made once; its interpreter.
pub(crate) fn python_packages() -> Result<PathBuf> {
    let venv = folder("python")?;
    let (interpreter, complete) = (venv.join("bin/python3"), venv.join("complete"));
    let wanted = format!("{}\n{}\n", python_path().display(), PYTHON_PACKAGES.join("\n"));
    if fs::read_to_string(&complete).is_ok_and(|have| have == wanted) {
        return Ok(interpreter);
    }
    let made = run(Command::new(python_path()).args(["-m", "venv", "--clear"]).arg(&venv)).and_then(|()| {
        let mut pip = Command::new(&interpreter);
        run(pip
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PYTHON_PACKAGES))
    });
    if let Err(error) = made {
        return skip(format!("Python packages cannot be installed: {error:#}"));
    }
    fs::write(&complete, wanted).with_context(|| format!("failed to write {}", complete.display()))?;
    Ok(interpreter)
}

/// `PATH` with the SDK of `scripts/get-dotnet` before the rest.
pub(crate) fn dotnet_path() -> OsString {
    let mut path = root("target/tools/dotnet/bin").into_os_string();
    path.push(":");
    path.push(environment("PATH").unwrap_or_default());
    path
}

/// The one place of the harness that reads the environment.
#[expect(clippy::disallowed_methods, reason = "a harness has no configuration files of its own")]
pub(crate) fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
