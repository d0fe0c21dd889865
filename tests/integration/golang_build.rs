//! Go functions built for tests with `runtimes/golang/build`, in both forms, each once per run and all with one cache:
//! what Go has compiled before costs nothing again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock};

use crate::harness::Setup;

/// How a Go function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// In the processor's process.
    Library,
    /// In one of its own.
    Executable,
}

/// Both.
pub const FORMS: [Form; 2] = [Form::Library, Form::Executable];

type Built = Arc<OnceLock<PathBuf>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Go itself, with the cache that all tests share.
pub fn go(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env("GOCACHE", root().join("target/tools/go-cache"))
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "");
    command
}

/// Whether functions can be built here; says why if not.
pub fn available() -> bool {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let mut download = go("go");
        download.args(["mod", "download"]).current_dir(root().join("runtimes/golang"));
        let output = download.output().map_err(|error| format!("Go does not start: {error}"))?;
        let text = || String::from_utf8_lossy(&output.stderr).replace('\n', " ");
        if output.status.success() { Ok(()) } else { Err(format!("nuclio-sdk-go cannot be had: {}", text())) }
    });
    if let Err(reason) = found {
        println!("skipped: {reason}");
    }
    found.is_ok()
}

/// The builder on a folder.
pub fn build(folder: &Path, out: &Path, more: &[&str]) -> Output {
    build_command(folder, out, more).output().unwrap()
}

/// The builder, to be run.
pub fn build_command(folder: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = go(root().join("runtimes/golang/build"));
    command.arg(folder).arg("-o").arg(out).args(more);
    command
}

/// A function of these files in that form; `None`: there is no Go here.
pub fn go_function(name: &str, files: &[(String, String)], form: Form) -> Option<PathBuf> {
    static ALL: OnceLock<Mutex<HashMap<(String, Form), Built>>> = OnceLock::new();
    if !available() {
        return None;
    }
    let built = {
        let mut all = ALL.get_or_init(Mutex::default).lock().unwrap();
        all.entry((name.to_owned(), form)).or_default().clone()
    };
    let make = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("go-{name}-{form:?}"));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(folder.join("source")).unwrap();
        for (file, text) in files {
            std::fs::write(folder.join("source").join(file), text).unwrap();
        }
        let (out, form) = match form {
            Form::Library => (folder.join("handler.so"), "library"),
            Form::Executable => (folder.join("handler"), "executable"),
        };
        let output = build(&folder.join("source"), &out, &["--form", form]);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        out
    };
    Some(built.get_or_init(make).clone())
}

/// A function in one file whose handler gets a name of its own, so that many share a build.
pub fn renamed(source: &str, handler: &str) -> String {
    assert!(source.contains("func Handler("), "no handler in {source}");
    source.replace("func Handler(", &format!("func {handler}("))
}

/// The handler of `tests/handlers/golang/<case>`, and its name. All but the slow one come from one build.
pub fn fixture(case: &str, form: Form) -> Option<(PathBuf, String)> {
    let folder = root().join("tests/handlers/golang");
    let read = |case: &str| std::fs::read_to_string(folder.join(case).join("main.go")).unwrap();
    if case == "slow_start" {
        let files = [("main.go".to_owned(), read(case))];
        return Some((go_function(case, &files, form)?, "main:Handler".to_owned()));
    }
    let name = |case: &str| format!("Handler_{case}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let other = entry.unwrap().file_name().into_string().unwrap();
        if other != "slow_start" {
            files.push((format!("{other}_main.go"), renamed(&read(&other), &name(&other))));
        }
    }
    Some((go_function("fixtures", &files, form)?, name(case)))
}

impl Setup {
    /// A Go function's file.
    pub fn go(self, file: &Path) -> Self {
        self.env("NUCLIO_GOLANG_HANDLER_PLUGIN_PATH", &file.display().to_string())
    }

    /// The handler of a fixture.
    pub fn go_fixture(case: &str, form: Form) -> Option<Self> {
        let (file, handler) = fixture(case, form)?;
        Some(Self::new("golang", &handler).go(&file))
    }
}
