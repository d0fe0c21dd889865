//! .NET functions built for tests with `runtimes/dotnetcore/build`, each once per run; the shim comes with each.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock};

use crate::harness::Setup;

type Built = Arc<OnceLock<PathBuf>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `PATH` in which `dotnet` is found; says why if there is no SDK.
pub fn dotnet() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let ours = root().join("target/tools/dotnet");
        let ours = ours.join("complete").exists().then(|| ours.join("bin").display().to_string());
        let path = std::env::var("PATH").unwrap_or_default();
        // That of `scripts/get-dotnet`, or one that is installed.
        let path = match std::env::var("TEST_DOTNET").ok().or(ours) {
            Some(folder) => format!("{folder}:{path}"),
            None => path,
        };
        let version = Command::new("dotnet").arg("--version").env("PATH", &path).output().ok()?;
        version.status.success().then_some(path)
    });
    if found.is_none() {
        println!("skipped: no .NET SDK (scripts/get-dotnet gets one)");
    }
    found.as_deref()
}

/// The builder, with these arguments.
pub fn build(path: &str, arguments: &[&Path]) -> Output {
    let mut command = Command::new(root().join("runtimes/dotnetcore/build"));
    command.env("PATH", path).args(arguments).output().unwrap()
}

/// A function of these files: the folder with `wrapper` and `handler` in it. `None`: there is no SDK here.
pub fn dotnet_function(name: &str, files: &[(String, String)]) -> Option<PathBuf> {
    static ALL: OnceLock<Mutex<HashMap<String, Built>>> = OnceLock::new();
    let path = dotnet()?;
    let built = ALL.get_or_init(Mutex::default).lock().unwrap().entry(name.to_owned()).or_default().clone();
    let make = || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dotnet-{name}"));
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(folder.join("source")).unwrap();
        for (file, text) in files {
            std::fs::write(folder.join("source").join(file), text).unwrap();
        }
        let output = build(path, &[Path::new("-o"), &folder, &folder.join("source")]);
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&said));
        folder
    };
    Some(built.get_or_init(make).clone())
}

/// All handlers of `tests/handlers/dotnetcore`, built as one function.
pub fn fixtures() -> Option<PathBuf> {
    let mut files = Vec::new();
    for folder in std::fs::read_dir(root().join("tests/handlers/dotnetcore")).unwrap().flatten() {
        for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            if name.ends_with(".cs") {
                files.push((name, std::fs::read_to_string(file.path()).unwrap()));
            }
        }
    }
    dotnet_function("fixtures", &files)
}

impl Setup {
    /// The function that was built into this folder.
    pub fn dotnet_environment(self, built: &Path) -> Self {
        let file = |name: &str| built.join(name).display().to_string();
        self.env("PATH", dotnet().unwrap_or_default())
            .env("NUCLIO_HANDLER_DIR", &file("handler"))
            .env("NUCLIO_DOTNETCORE_WRAPPER_PATH", &file("wrapper/wrapper.dll"))
    }

    /// A class among the handlers for tests, with the method `Handle`.
    pub fn dotnet(class: &str) -> Option<Self> {
        Some(Self::new("dotnetcore", &format!("{class}:Handle")).dotnet_environment(&fixtures()?))
    }
}
