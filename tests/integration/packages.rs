//! Interpreters with published Python packages, for tests against programs of others.

use std::path::PathBuf;
use std::process::Command;

use crate::harness::python;

/// An interpreter that has the packages, in an environment of its own that is kept between runs; else the reason.
pub fn python_with(name: &str, packages: &[&str]) -> Result<PathBuf, String> {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let (interpreter, complete) = (folder.join("bin/python3"), folder.join(packages.join(" ")));
    if !complete.exists() {
        drop(std::fs::remove_dir_all(&folder));
        succeeds(name, Command::new(python()).args(["-m", "venv"]).arg(&folder))?;
        let mut pip = Command::new(&interpreter);
        pip.args(["-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20"]);
        succeeds(name, pip.args(packages))?;
        std::fs::write(complete, "").unwrap();
    }
    Ok(interpreter)
}

fn succeeds(name: &str, command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let reason =
        || format!("{name} cannot be had: {}", String::from_utf8_lossy(&output.stderr).replace('\n', " "));
    if output.status.success() { Ok(()) } else { Err(reason()) }
}
