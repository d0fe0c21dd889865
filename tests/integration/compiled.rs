//! Handlers in C, C++ and Rust built for tests from one source in both forms: a library, and a program that is linked
//! with what the handler crate has for it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use crate::golang_build::Form;

/// A compiler, as far as the forms differ.
struct Compiler {
    program: &'static str,
    ending: &'static str,
    options: &'static [&'static str],
}

const C: Compiler =
    Compiler { program: "cc", ending: "c", options: &["-std=c11", "-D_POSIX_C_SOURCE=200809L"] };
const CPP: Compiler = Compiler { program: "c++", ending: "cpp", options: &["-std=c++17"] };

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where everything is built.
fn out() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("handlers")
}

/// The handler of `tests/handlers/<language>/<case>` in that form; `None`: it cannot be built here, and that is said.
pub fn fixture(language: &str, case: &str, form: Form) -> Option<PathBuf> {
    let source = root().join("tests/handlers").join(language).join(case);
    match language {
        "rust" => rust_case(case, form),
        "c" => native(&C, &source, form, &[]),
        "cpp" => native(&CPP, &source, form, &[]),
        other => panic!("{other} is not compiled"),
    }
}

/// The test handler in Rust, `tests/handlers/rust/src/lib.rs`, as a program.
pub fn rust_program() -> PathBuf {
    rust(&["--bin", "test-handler"], "test-handler")
}

/// A handler in Rust that counts the bytes of bodies as they come, as a program.
pub fn rust_counting_program() -> PathBuf {
    rust(&["--bin", "count"], "count")
}

/// A handler in C or C++, one file, as a program with more options.
pub fn program(file: &str, options: &[&str]) -> Option<PathBuf> {
    let compiler = if file.ends_with(".c") { &C } else { &CPP };
    native(compiler, &root().join(file), Form::Executable, options)
}

fn rust_case(case: &str, form: Form) -> Option<PathBuf> {
    // All at once, so that cargo is started twice and not for each.
    Some(match form {
        Form::Library => {
            rust(&["--examples"], "examples");
            out().join(format!("release/examples/lib{case}.so"))
        }
        Form::Executable => {
            rust(&["--bins"], "");
            out().join("release").join(case)
        }
    })
}

/// Builds targets of `tests/handlers/rust`.
fn rust(targets: &[&str], file: &str) -> PathBuf {
    let mut command = cargo("build");
    command.args(targets).arg("--manifest-path").arg(root().join("tests/handlers/rust/Cargo.toml"));
    once(&targets.join(" "), || run(command)).unwrap();
    out().join("release").join(file)
}

/// A case in Rust as a program for another target.
pub fn rust_for(target: &str, case: &str) -> PathBuf {
    let target_option = format!("--target={target}");
    rust(&["--bin", case, &target_option], "");
    out().join(target).join("release").join(case)
}

fn cargo(what: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args([what, "--release", "--quiet", "--target-dir"]).arg(out());
    command
}

/// What programs in C and C++ are linked with.
pub fn static_library(target: Option<&str>) -> PathBuf {
    let mut command = cargo("rustc");
    command.args(["--features", "nh-main", "--crate-type", "staticlib"]);
    command.args(target.map(|target| format!("--target={target}")));
    command.arg("--manifest-path").arg(root().join("runtimes/rust/Cargo.toml"));
    once(&format!("nh_main {target:?}"), || run(command)).unwrap();
    out().join(target.unwrap_or_default()).join("release/libnuclio_handler.a")
}

/// A C or C++ source, a file or `handler.<ending>` in a folder.
fn native(compiler: &Compiler, source: &Path, form: Form, options: &[&str]) -> Option<PathBuf> {
    let file =
        if source.is_dir() { source.join("handler").with_extension(compiler.ending) } else { source.into() };
    let name = file.strip_prefix(root()).unwrap().display().to_string().replace('/', "-");
    let name = format!("{name}-{form:?}{}", options.concat());
    let out = out().join(&name);
    std::fs::create_dir_all(out.parent().unwrap()).unwrap();
    let mut command = Command::new(compiler.program);
    command.args(compiler.options).args(options).args(["-Wall", "-Wextra", "-Werror", "-I"]);
    command.arg(root().join("runtimes/rust/include")).arg(&file).arg("-o").arg(&out);
    match form {
        Form::Library => command.args(["-fPIC", "-shared", "-fvisibility=hidden"]),
        Form::Executable => {
            let main = root().join("runtimes/rust/exec/nh_main.c");
            command.arg("-x").arg(if compiler.ending == "c" { "c" } else { "c++" }).arg(main);
            command.args(["-x", "none"]).arg(static_library(None)).args(["-lpthread", "-ldl", "-lm"])
        }
    };
    match once(&name, || run(command)) {
        Ok(()) => Some(out),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

/// Does it once per run of the tests. `Err`: a program is not there.
fn once(name: &str, make: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    type Made = Arc<OnceLock<Result<(), String>>>;
    static ALL: OnceLock<Mutex<HashMap<String, Made>>> = OnceLock::new();
    let made = ALL.get_or_init(Mutex::default).lock().unwrap().entry(name.to_owned()).or_default().clone();
    made.get_or_init(make).clone()
}

fn run(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?} did not start: {error}"))?;
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
