//! Compiles the core of the Python shim with the interpreters of the build machine, so that workers on the same versions
//! of Python need not: reading the code takes half a millisecond, compiling it as long as the interpreter's own start.
//!
//! `NUCLIO_BUILD_PYTHONS` names the interpreters, with spaces between them; empty: none. Otherwise those in `PATH` are
//! taken. One that is missing or fails is left out: its workers compile by themselves.

#![expect(clippy::disallowed_methods, reason = "the environment is how Cargo speaks to a build script")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

const USUAL: &str =
    "/usr/bin/python3 python3 python3.9 python3.10 python3.11 python3.12 python3.13 python3.14";
const VARIABLE: &str = "NUCLIO_BUILD_PYTHONS";
/// Where `bootstrap.py` reads the source of the core, and writes its code.
const COMPILE: &str = r#"exec "$0" -I -S "$1" compile 5<"$2" 7<>"$3""#;

fn main() {
    let folder = Path::new("runtimes/python");
    let (bootstrap, core) = (folder.join("bootstrap.py"), folder.join("_nuclio_wrapper.py"));
    for path in [&folder.join("build.rs"), &bootstrap, &core] {
        println!("cargo:rerun-if-changed={}", path.display());
    }
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo says where to write"));
    let wanted = env::var(VARIABLE).unwrap_or_else(|_| USUAL.to_owned());
    let mut codes: Vec<(String, PathBuf)> = Vec::new();
    for (n, python) in wanted.split_whitespace().enumerate() {
        let path = out.join(format!("python-{n}.code"));
        drop(fs::remove_file(&path)); // Of an earlier build, if at all.
        let run = Command::new("sh")
            .args(["-c", COMPILE, python])
            .args([&bootstrap, &core, &path])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let Some(version) = run.is_ok_and(|status| status.success()).then(|| version_of(&path)).flatten()
        else {
            continue;
        };
        if codes.iter().all(|(known, _)| *known != version) {
            codes.push((version, path));
        }
    }
    let mut text = "&[\n".to_owned();
    for (version, path) in &codes {
        writeln!(text, "    ({version:?}, include_bytes!({path:?})),").expect("texts take everything");
    }
    text.push_str("]\n");
    fs::write(out.join("python_codes.rs"), text).expect("the build's folder can be written to");
}

/// "cpython-311", with which the first line of the code begins.
fn version_of(path: &Path) -> Option<String> {
    let code = fs::read(path).ok()?;
    let version = code.split(|byte| *byte == b' ').next()?;
    String::from_utf8(version.to_vec()).ok().filter(|version| version.starts_with("cpython-"))
}
