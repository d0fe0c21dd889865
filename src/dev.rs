//! `processor dev`: one handler file, no configuration files. It makes a [`Config`], runs it, and starts over when a
//! source changes.

mod go;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use crate::app::{self, App, Purpose};
use crate::cli::Dev;
use crate::config::{Config, Env, LogEncoding, RuntimeKind};
use crate::fields;
use crate::logging::sink::Writer;
use crate::reaper::Children;
use crate::run::{self, Stops};

/// How often sources are looked at.
const LOOK: Duration = Duration::from_millis(300);
/// A source folder with more files is not watched beyond these.
const FILES_MAX: usize = 2000;
/// Folders that hold no sources of the user's.
const SKIPPED: &[&str] = &["__pycache__", "node_modules", "target", "venv"];

/// Class and method of a .NET handler, where nothing is said.
const DOTNET_HANDLER: &str = "Handler:Handle";

/// Runs the handler until it is told to stop.
pub fn run(arguments: &Dev) -> ExitCode {
    let outcome =
        prepare(arguments).and_then(|(config, build)| run::block_on(serve(arguments, config, build)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("processor dev: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The configuration that a handler file amounts to, and what must be built for it first.
fn prepare(arguments: &Dev) -> anyhow::Result<(Config, Option<go::Build>)> {
    let mut env = Env::from_process().map_err(|error| anyhow::anyhow!("{error}"))?;
    let wanted = arguments.runtime.is_none_or(|runtime| runtime == RuntimeKind::Golang);
    let source = arguments.file.as_deref().filter(|file| wanted && go::is_source(file) && file.exists());
    let Some(source) = source else { return Ok((config(arguments, env)?, None)) };
    let source = source.canonicalize()?;
    let build = go::Build::new(&source, arguments.handler.as_deref(), &env)?;
    env.golang_plugin = Some(build.program());
    let handler = arguments.handler.as_deref().unwrap_or_default();
    let mut config =
        Config::for_handler(RuntimeKind::Golang, handler, &arguments.listen, arguments.workers, env);
    config.function.name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((dress(config), Some(build)))
}

/// The configuration of a file that is run as it is.
fn config(arguments: &Dev, mut env: Env) -> anyhow::Result<Config> {
    let Some(file) = &arguments.file else {
        return Ok(dress(Config::for_handler(
            RuntimeKind::Builtin,
            "",
            &arguments.listen,
            arguments.workers,
            env,
        )));
    };
    anyhow::ensure!(file.exists(), "{}: no such file; give the handler's source or library", file.display());
    anyhow::ensure!(
        file.is_file(),
        "{} is no file, and no folder with Go sources; give the handler's source or library",
        file.display()
    );
    let file = file.canonicalize()?;
    let runtime = arguments.runtime.map_or_else(|| guess_runtime(&file), Ok)?;
    let folder = file.parent().unwrap_or(Path::new("/"));
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let handler = match runtime {
        RuntimeKind::Golang => {
            env.golang_plugin = Some(file.clone());
            arguments.handler.clone().unwrap_or_default()
        }
        RuntimeKind::NodeJs => {
            env.handler_directory.get_or_insert_with(|| folder.to_owned());
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            format!("{name}:{}", arguments.handler.as_deref().unwrap_or("handler"))
        }
        RuntimeKind::Ruby => {
            env.handler_directory.get_or_insert_with(|| folder.to_owned());
            format!("{stem}:{}", arguments.handler.as_deref().unwrap_or("handler"))
        }
        RuntimeKind::Shell => file.display().to_string(),
        RuntimeKind::DotNetCore => {
            env.handler_directory.get_or_insert_with(|| file.clone());
            // Where runtimes/dotnetcore/build puts it.
            let shim = folder.join("../wrapper/wrapper.dll");
            if env.dotnetcore_wrapper.is_none() && shim.is_file() {
                env.dotnetcore_wrapper = Some(shim);
            }
            arguments.handler.clone().unwrap_or_else(|| DOTNET_HANDLER.to_owned())
        }
        RuntimeKind::Java => {
            env.handler_directory = Some(file.clone());
            env.java_wrapper = env.java_wrapper.or_else(java_wrapper);
            // A source file is named as its class. Of a jar the shim takes the only handler.
            let source = file.extension().is_some_and(|ending| ending == "java");
            arguments.handler.clone().unwrap_or_else(|| if source { stem.to_string() } else { String::new() })
        }
        _ => {
            let (root, module) = match &env.python_path {
                Some(path) => (path.clone(), stem.to_string()),
                None => python_module(folder, &stem),
            };
            env.python_path = Some(root);
            format!("{module}:{}", arguments.handler.as_deref().unwrap_or("handler"))
        }
    };
    let mut config = Config::for_handler(runtime, &handler, &arguments.listen, arguments.workers, env);
    config.function.name = stem.into_owned();
    Ok(dress(config))
}

/// The folder that a Python file is imported from, and its name there: what is in a package goes by the package's name,
/// as the file of a Django project does.
fn python_module(folder: &Path, stem: &str) -> (String, String) {
    let (mut root, mut name) = (folder, stem.to_owned());
    while root.join("__init__.py").is_file()
        && let (Some(package), Some(parent)) = (root.file_name(), root.parent())
    {
        name = format!("{}.{name}", package.to_string_lossy());
        root = parent;
    }
    (root.display().to_string(), name)
}

/// The Java shim beside this program, where `scripts/dist` puts it, or where `runtimes/java/build` does.
fn java_wrapper() -> Option<PathBuf> {
    let folder = std::fs::read_link("/proc/self/exe").ok()?.parent()?.to_owned();
    let places = ["nuclio-java-wrapper.jar", "../java/nuclio-java-wrapper.jar"];
    places.iter().map(|place| folder.join(place)).find(|path| path.is_file())
}

/// Readable logs for people, JSON for pipes.
fn dress(mut config: Config) -> Config {
    if !std::io::stdout().is_terminal() {
        for sink in &mut config.function.log_sinks {
            sink.encoding = LogEncoding::Json {
                time_field: "time".to_owned(),
                time_iso8601: true,
                group: String::new(),
                flattened: false,
            };
        }
    }
    config
}

fn guess_runtime(file: &Path) -> anyhow::Result<RuntimeKind> {
    let ending = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let shown = file.display();
    match ending.as_str() {
        "py" => Ok(RuntimeKind::Python),
        "js" | "mjs" | "cjs" => Ok(RuntimeKind::NodeJs),
        "rb" => Ok(RuntimeKind::Ruby),
        "sh" => Ok(RuntimeKind::Shell),
        "java" | "jar" => Ok(RuntimeKind::Java),
        "so" => Ok(RuntimeKind::Golang),
        "dll" => Ok(RuntimeKind::DotNetCore),
        "cs" | "csproj" => anyhow::bail!(
            "{shown} is source of a .NET handler: build it into a handler.dll with runtimes/dotnetcore/build and give that file"
        ),
        "c" | "cc" | "cpp" | "cxx" | "rs" => {
            anyhow::bail!(
                "{shown} is source of a compiled handler: build it into a handler.so and give that file"
            )
        }
        _ => anyhow::bail!("cannot tell the runtime of {shown} from its name; say --runtime"),
    }
}

async fn serve(arguments: &Dev, config: Config, build: Option<go::Build>) -> anyhow::Result<()> {
    let mut stops = Stops::new()?;
    let watched = Watched::new(arguments.file.as_deref());
    if let Some(build) = &build {
        say("Building");
        let built = tokio::select! {
            built = build.run() => built?,
            _ = stops.next() => return Ok(()),
        };
        if !built {
            return wait_for_change(&watched, &mut stops).await;
        }
    }
    let writer = Writer::start()?;
    let children = Children::default();
    let started = tokio::select! {
        started = App::start(config, writer, Purpose::Trial, &children) => started,
        _ = stops.next() => return Ok(()),
    };
    let app = match started {
        Ok(app) => app,
        Err(error) if watched.file.is_none() => return Err(error),
        Err(error) => {
            run::print_error(&error);
            return wait_for_change(&watched, &mut stops).await;
        }
    };
    greet(&app);
    tokio::select! {
        name = stops.next() => {
            app.logger().warn("Got system signal", fields! {"signal" => name});
            if !run::drain(app, stops).await {
                app::leave();
            }
            Ok(())
        }
        changed = watched.changed() => {
            run::drain(app, stops).await; // What still runs ends with the program.
            restart(&changed)
        }
    }
}

/// What is there cannot be served.
async fn wait_for_change(watched: &Watched, stops: &mut Stops) -> anyhow::Result<()> {
    say("The handler did not start; waiting for its source to change (Ctrl-C ends)");
    tokio::select! {
        _ = stops.next() => Ok(()),
        changed = watched.changed() => restart(&changed),
    }
}

/// Tells a person what to do next.
fn greet(app: &App) {
    for address in app.addresses() {
        let address = match address.strip_prefix(':') {
            Some(port) => format!("127.0.0.1:{port}"),
            None => address.to_owned(),
        };
        say(&format!("\nHandler answers at http://{address}\nTry: curl -i http://{address}/ -d 'hello'\n"));
    }
}

/// A new program in the place of this one: compiled handlers cannot be loaded twice.
fn restart(changed: &Path) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt;
    say(&format!("{} has changed, starting again", changed.display()));
    let error = std::process::Command::new("/proc/self/exe").args(std::env::args_os().skip(1)).exec();
    Err(anyhow::anyhow!("cannot start again: {error}"))
}

/// For people: standard error keeps standard output clean for records.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").unwrap_or_default(); // Nobody reads it then.
}

/// The sources of a handler.
struct Watched {
    file: Option<PathBuf>,
    seen: Vec<(PathBuf, SystemTime)>,
}

impl Watched {
    fn new(file: Option<&Path>) -> Self {
        let file = file.map(Path::to_owned);
        let seen = file.as_deref().map(sources).unwrap_or_default();
        Self { file, seen }
    }

    /// Waits until a source changes, appears or disappears; without a file, for ever.
    async fn changed(&self) -> PathBuf {
        let Some(file) = &self.file else { return std::future::pending().await };
        loop {
            tokio::time::sleep(LOOK).await;
            let now = sources(file);
            if let Some(changed) = difference(&self.seen, &now) {
                return changed;
            }
        }
    }
}

fn difference(before: &[(PathBuf, SystemTime)], now: &[(PathBuf, SystemTime)]) -> Option<PathBuf> {
    let added = now.iter().find(|source| !before.contains(source));
    let removed = || before.iter().find(|(path, _)| !now.iter().any(|(other, _)| other == path));
    added.or_else(removed).map(|(path, _)| path.clone())
}

/// The handler's file and its neighbours with the same ending, with the times they changed. Of a folder, and beside a
/// Go file, all that Go builds of.
fn sources(file: &Path) -> Vec<(PathBuf, SystemTime)> {
    let mut found = Vec::new();
    let beside = || file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = if file.is_dir() { file } else { beside() };
    let of_go = go::is_source(file);
    let ours = |path: &Path| match path.extension() {
        Some(ending) if of_go => ending == "go" || ending == "mod" || ending == "sum",
        ending => ending == file.extension(),
    };
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with('.') || SKIPPED.contains(&name.as_ref()) || found.len() >= FILES_MAX {
                continue;
            }
            let Ok(kind) = entry.metadata() else { continue };
            if kind.is_dir() {
                folders.push(path);
            } else if ours(&path)
                && let Ok(time) = kind.modified()
            {
                found.push((path, time));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_tells_the_runtime_or_what_to_do() {
        assert_eq!(guess_runtime(Path::new("a/hello.py")).unwrap(), RuntimeKind::Python);
        assert_eq!(guess_runtime(Path::new("handler.so")).unwrap(), RuntimeKind::Golang);
        assert_eq!(guess_runtime(Path::new("a.rb")).unwrap(), RuntimeKind::Ruby);
        assert_eq!(guess_runtime(Path::new("a.sh")).unwrap(), RuntimeKind::Shell);
        assert_eq!(guess_runtime(Path::new("a.mjs")).unwrap(), RuntimeKind::NodeJs);
        for (file, expected) in [("a.c", "build it"), ("a.cs", "dotnetcore/build"), ("a", "say --runtime")] {
            let error = guess_runtime(Path::new(file)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_python_file_in_a_package_goes_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let shop = folder.path().join("shop");
        std::fs::create_dir(&shop).unwrap();
        let (inside, outside) = (shop.display().to_string(), folder.path().display().to_string());
        assert_eq!(python_module(&shop, "asgi"), (inside, "asgi".to_owned()));
        std::fs::write(shop.join("__init__.py"), "").unwrap();
        assert_eq!(python_module(&shop, "asgi"), (outside, "shop.asgi".to_owned()));
    }

    #[test]
    fn changes_additions_and_removals_of_sources_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (main, other) = (folder.path().join("main.py"), folder.path().join("other.py"));
        std::fs::write(&main, "1").unwrap();
        let before = sources(&main);
        std::fs::write(folder.path().join("data.txt"), "1").unwrap();
        assert_eq!(difference(&before, &sources(&main)), None);
        std::fs::write(&other, "1").unwrap();
        let both = sources(&main);
        assert_eq!(difference(&before, &both), Some(other.clone()));
        std::fs::remove_file(&other).unwrap();
        assert_eq!(difference(&both, &sources(&main)), Some(other));
    }
}
