//! The Java shim and Java handlers built for tests: the shim's jar once per run, classes with one run of the compiler.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::harness::Setup;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder for what this run builds.
fn folder(name: &str) -> PathBuf {
    let folder =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("java-{}", std::process::id())).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// `runtimes/java/build` with these arguments.
pub fn build(arguments: &[&str]) -> Command {
    let mut command = Command::new(root().join("runtimes/java/build"));
    command.args(arguments);
    command
}

/// A function built into one jar with the shim, as images have it.
pub fn built(function: &Path, out: &Path) -> Result<(), String> {
    let output = build(&[function.to_str().unwrap(), "-o", out.to_str().unwrap()]).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}", said());
    output
}

/// The shim's jar; says why if there is no JDK.
pub fn wrapper() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        Command::new("javac").arg("-version").output().ok()?;
        let out = folder("wrapper");
        succeeds(&mut build(&["-o", out.to_str().unwrap()]));
        Some(out.join("nuclio-java-wrapper.jar"))
    });
    if built.is_none() {
        println!("skipped: no JDK");
    }
    built.as_deref()
}

/// Classes of sources, each in a package of its own; `None`: no JDK.
fn compile(name: &str, sources: impl Iterator<Item = (String, String)>) -> Option<PathBuf> {
    let wrapper = wrapper()?;
    let (from, to) = (folder(&format!("{name}-sources")), folder(&format!("{name}-classes")));
    let mut command = Command::new("javac");
    command.args(["-encoding", "UTF-8", "--release", "11", "-cp"]).arg(wrapper).arg("-d").arg(&to);
    for (package, source) in sources {
        let file = from.join(&package).join("Handler.java");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, source).unwrap();
        command.arg(file);
    }
    succeeds(&mut command);
    Some(to)
}

/// Classes of all fixtures: `<case>.Handler`.
pub fn fixtures() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let read = || {
        let entries = std::fs::read_dir(root().join("tests/handlers/java")).unwrap();
        let sources = entries.filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.to_owned();
            Some((name, std::fs::read_to_string(path.join("Handler.java")).ok()?))
        });
        compile("fixtures", sources)
    };
    BUILT.get_or_init(read).as_deref()
}

/// Classes of handlers without a package, each put into the package of its name.
pub fn packaged(name: &str, sources: &[(String, String)]) -> Option<PathBuf> {
    let sources =
        sources.iter().map(|(package, source)| (package.clone(), format!("package {package};\n{source}")));
    compile(name, sources)
}

/// Head of the handlers that tests write.
const IMPORTS: &str = "import io.nuclio.*;\nimport java.util.*;\n";

impl Setup {
    /// A handler of this class, in a folder of classes, a jar or a source file.
    pub fn java(handler: &str, place: &Path) -> Option<Self> {
        Self::new("java", handler).java_environment(place)
    }

    /// The shim, and where the handler is.
    pub fn java_environment(self, place: &Path) -> Option<Self> {
        let wrapper = wrapper()?.display().to_string();
        Some(self.env("NUCLIO_WRAPPER_JAR", &wrapper).env("NUCLIO_HANDLER_DIR", &place.display().to_string()))
    }

    /// A handler `Handler` of which the test says the members; the shim compiles it.
    pub fn java_source(members: &str) -> Option<Self> {
        Self::java_text(&format!("{IMPORTS}public class Handler implements EventHandler {{\n{members}\n}}\n"))
    }

    /// A handler `Handler` with this source.
    pub fn java_text(source: &str) -> Option<Self> {
        let setup = Self::new("java", "Handler");
        setup.write("Handler.java", source);
        let place = setup.directory.path().join("Handler.java");
        setup.java_environment(&place)
    }
}
