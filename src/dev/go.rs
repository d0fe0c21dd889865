//! Go sources for `processor dev`: finds the builder, and has it make a program of them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::resume::Folder;
use crate::config::Env;

/// The builder under a name of its own, for who has it in `PATH`.
const IN_PATH: &str = "nuclio-go-build";
/// The builder in the source tree of the processor.
const IN_TREE: &str = "runtimes/golang/build";

/// What to build, and with what.
pub(super) struct Build {
    builder: PathBuf,
    source: PathBuf,
    /// Name of the handler that must be there.
    handler: Option<String>,
    /// The program that is made.
    program: PathBuf,
}

impl Build {
    /// A function's folder or one of its files.
    pub(super) fn new(
        source: &Path,
        handler: Option<&str>,
        env: &Env,
        folder: &Folder,
    ) -> anyhow::Result<Self> {
        let (source, handler) = (source.to_owned(), handler.map(str::to_owned));
        Ok(Self { builder: find(env)?, source, handler, program: folder.path()?.join("handler") })
    }

    /// The program that is made.
    pub(super) fn program(&self) -> PathBuf {
        self.program.clone()
    }

    /// Builds. An error inside is what the compiler says is wrong.
    pub(super) async fn run(&self) -> anyhow::Result<Result<(), String>> {
        let mut command = tokio::process::Command::new(&self.builder);
        command.arg(&self.source).arg("-o").arg(&self.program).args(["--form", "executable"]);
        command.args(self.handler.iter().flat_map(|handler| ["--handler", handler]));
        let output = command.kill_on_drop(true).stdin(std::process::Stdio::null()).output().await;
        let output = output.with_context(|| format!("{} does not start", self.builder.display()))?;
        if output.status.success() {
            return Ok(Ok(()));
        }
        let said = [output.stdout, output.stderr].concat();
        Ok(Err(String::from_utf8_lossy(&said).trim_end().to_owned()))
    }
}

/// Whether it is a Go source, or a folder that holds some.
pub(super) fn is_source(path: &Path) -> bool {
    let go = |path: &Path| path.extension().is_some_and(|ending| ending == "go");
    go(path) || std::fs::read_dir(path).is_ok_and(|entries| entries.flatten().any(|entry| go(&entry.path())))
}

fn find(env: &Env) -> anyhow::Result<PathBuf> {
    if let Some(named) = &env.go_build {
        anyhow::ensure!(
            named.is_file(),
            "NUCLIO_GO_BUILD names {}, which is no file; correct or unset it",
            named.display()
        );
        return Ok(named.clone());
    }
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let in_tree = own.ancestors().skip(1).map(|folder| folder.join(IN_TREE));
    let path = env.path.as_deref().unwrap_or_default();
    let in_path = path.split(':').map(|folder| Path::new(folder).join(IN_PATH));
    in_tree.chain(in_path).find(|candidate| candidate.is_file()).with_context(|| {
        format!(
            "Go sources need the builder of Go functions: name {IN_TREE} of the processor's sources in NUCLIO_GO_BUILD, \
             or put a link to it into PATH as {IN_PATH}"
        )
    })
}
