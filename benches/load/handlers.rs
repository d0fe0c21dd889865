//! The functions under load: which handler, how it is built, what its configuration says.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::{environment, utf8};

/// What goes into `processor.yaml`, and the environment beside it.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) runtime: &'static str,
    pub(crate) handler: &'static str,
    pub(crate) workers: u32,
    pub(crate) event_timeout: Option<&'static str>,
    pub(crate) availability_timeout_ms: u32,
    pub(crate) environment: Vec<(&'static str, PathBuf)>,
}

/// Builds handlers into a directory that goes away at the end.
pub(crate) struct Handlers {
    built: TempDir,
}

impl Handlers {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { built: tempfile::tempdir().context("failed to make a temporary directory")? })
    }

    pub(crate) fn builtin(&self, workers: u32) -> Function {
        Function {
            runtime: "golang",
            handler: "nuclio:builtin",
            workers,
            event_timeout: None,
            availability_timeout_ms: 10_000,
            environment: Vec::new(),
        }
    }

    /// `handlers/NAME.c` as a library. `NUCLIO_GOLANG_HANDLER_PLUGIN_PATH` puts another library in the place of
    /// `empty`, for example a Go one.
    pub(crate) fn compiled(&self, name: &str, workers: u32) -> Result<Function> {
        const LIBRARY: &str = "NUCLIO_GOLANG_HANDLER_PLUGIN_PATH";
        let given = environment(LIBRARY).filter(|_| name == "empty");
        let library = given.map_or_else(|| self.compile(name), Ok)?;
        Ok(Function {
            handler: "main:Handler",
            environment: vec![(LIBRARY, library)],
            ..self.builtin(workers)
        })
    }

    pub(crate) fn python(&self) -> Function {
        let interpreter = environment("NUCLIO_PYTHON_EXE_PATH").unwrap_or_else(|| "/usr/bin/python3".into());
        Function {
            runtime: "python",
            handler: "empty:handler",
            environment: vec![("NUCLIO_PYTHON_EXE_PATH", interpreter), ("NUCLIO_PYTHON_PATH", sources())],
            ..self.builtin(1)
        }
    }

    fn compile(&self, name: &str) -> Result<PathBuf> {
        let library = self.built.path().join(format!("{name}.so"));
        let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("runtimes/rust/include");
        let compiler = environment("CC").unwrap_or_else(|| "cc".into());
        let status = Command::new(&compiler)
            .args(["-std=gnu11", "-O2", "-fPIC", "-shared", "-I", utf8(&header)?, "-o", utf8(&library)?])
            .arg(sources().join(format!("{name}.c")))
            .status()
            .with_context(|| format!("failed to run the C compiler `{}`", compiler.display()))?;
        if !status.success() {
            bail!("failed to compile handlers/{name}.c: {status}");
        }
        Ok(library)
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/load/handlers")
}

/// The number that a body starts with, as `handlers/sleep.c` reads it.
pub(crate) fn leading_number(body: &[u8]) -> u64 {
    let digits = body.iter().take(9).take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}
