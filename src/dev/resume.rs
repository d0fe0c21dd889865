//! Starting again: a new program in the place of this one, because compiled handlers cannot be loaded twice. It keeps
//! its process, the listening socket as its standard input, and a folder.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::cli::Dev;
use crate::config::{Env, env_file};
use crate::net;

/// Variables by name, in the order of the files.
pub(super) type Variables = Vec<(String, String)>;

/// The socket that all starts share: requests made between two of them wait in it.
pub(super) fn listener(arguments: &Dev) -> anyhow::Result<TcpListener> {
    if arguments.resumed.resumed.is_some() {
        let inherited = std::io::stdin().as_fd().try_clone_to_owned();
        return Ok(TcpListener::from(inherited.context("cannot take over the listening socket")?));
    }
    net::bind_tcp(&arguments.listen).with_context(|| {
        format!("cannot listen on {}; stop whoever listens there, or choose another --port", arguments.listen)
    })
}

/// The variables of the files that count: those that the environment has already stay as they are, unless they came
/// from a file before.
pub(super) fn variables(arguments: &Dev) -> anyhow::Result<Variables> {
    let mut found: Variables = Vec::new();
    for file in &arguments.env_files {
        for (name, value) in env_file::read(file).map_err(|error| anyhow::anyhow!("{error}"))? {
            found.retain(|(other, _)| *other != name);
            found.push((name, value));
        }
    }
    let ours = arguments.resumed.file_variables.as_deref().unwrap_or_default();
    found.retain(|(name, _)| !Env::has(name) || ours.contains(name));
    Ok(found)
}

/// Starts the program again with those variables, for the first time: nothing else has happened yet.
pub(super) fn with_variables(arguments: &Dev, variables: &Variables) -> anyhow::Error {
    let mut command = program(arguments, None);
    command.arg(named(variables)).args(own_arguments()).envs(variables.iter().cloned());
    anyhow::anyhow!("cannot start again with the variables: {}", command.exec())
}

/// Starts the program again after a change that has been seen just now.
pub(super) fn restart(arguments: &Dev, listener: TcpListener) -> anyhow::Error {
    let mut command = program(arguments, Some(listener));
    // Those of files that cannot be read stay as they were until they can.
    if let (Ok(variables), false) = (variables(arguments), arguments.env_files.is_empty()) {
        for name in arguments.resumed.file_variables.iter().flatten() {
            command.env_remove(name);
        }
        command.arg(named(&variables)).envs(variables);
    } else if let Some(names) = &arguments.resumed.file_variables {
        command.arg(format!("--file-variables={}", names.join(",")));
    }
    command.args(own_arguments());
    anyhow::anyhow!("cannot start again: {}", command.exec())
}

fn program(arguments: &Dev, listener: Option<TcpListener>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("dev");
    let seen = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    if let Some(listener) = listener {
        command.arg(format!("--resumed={seen}")).stdin(Stdio::from(OwnedFd::from(listener)));
    } else if let Some(before) = arguments.resumed.resumed {
        command.arg(format!("--resumed={before}"));
    }
    command
}

fn named(variables: &Variables) -> String {
    let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
    format!("--file-variables={}", names.join(","))
}

/// What was given by who started us, without `dev` itself.
fn own_arguments() -> impl Iterator<Item = OsString> {
    let ours = |argument: &OsString| {
        let text = argument.to_string_lossy();
        text.starts_with("--resumed=") || text.starts_with("--file-variables=")
    };
    std::env::args_os().skip(2).skip_while(ours)
}

/// How long ago the change was seen that this start is for, milliseconds.
pub(super) fn since_change(arguments: &Dev) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    arguments.resumed.resumed.map(|seen| (now as u64).saturating_sub(seen))
}

/// A folder for what is made meanwhile, the same for every start of this process; removed when dropped. Where none can
/// be made, only what needs it fails.
pub(super) struct Folder {
    path: PathBuf,
    made: std::io::Result<()>,
}

impl Folder {
    /// Ours alone: what lies there is run.
    pub(super) fn new(env: &Env) -> Self {
        let path = env.temporary_directory.join(format!("processor-dev-{}", std::process::id()));
        Self { made: make(&path), path }
    }

    /// Where it is.
    ///
    /// # Errors
    /// It could not be made.
    pub(super) fn path(&self) -> anyhow::Result<&Path> {
        match &self.made {
            Ok(()) => Ok(&self.path),
            Err(error) => {
                anyhow::bail!("cannot make the folder {}: {error}; correct TMPDIR", self.path.display())
            }
        }
    }

    /// The list of sources that shims write, empty at first.
    pub(super) fn source_list(&self) -> Option<PathBuf> {
        let list = self.path().ok()?.join("sources");
        std::fs::write(&list, "").is_ok().then_some(list)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.made.is_ok() {
            std::fs::remove_dir_all(&self.path).unwrap_or_default(); // A leftover in the folder for such.
        }
    }
}

fn make(folder: &Path) -> std::io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = std::fs::symlink_metadata(folder)?;
            let ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
            if ours && found.mode() & 0o077 == 0 { Ok(()) } else { Err(error) }
        }
        made => made,
    }
}
