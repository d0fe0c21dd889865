//! From a handler's file to a configuration: its runtime, where it is imported from, what must be built for it first.

use std::path::{Path, PathBuf};

use super::go;
use super::resume::Folder;
use crate::cli::Dev;
use crate::config::{Config, Env, RuntimeKind};

/// Class and method of a .NET handler, where nothing is said.
const DOTNET_HANDLER: &str = "Handler:Handle";

/// The configuration that a handler file amounts to, and what must be built for it first.
pub(super) fn prepare(
    arguments: &Dev,
    mut env: Env,
    folder: &Folder,
) -> anyhow::Result<(Config, Option<go::Build>)> {
    let wanted = arguments.runtime.is_none_or(|runtime| runtime == RuntimeKind::Golang);
    let source = arguments.file.as_deref().filter(|file| wanted && go::is_source(file) && file.exists());
    let Some(source) = source else { return Ok((config(arguments, env, folder)?, None)) };
    let source = source.canonicalize()?;
    let build = go::Build::new(&source, arguments.handler.as_deref(), &env, folder)?;
    env.golang_plugin = Some(build.program());
    let handler = arguments.handler.as_deref().unwrap_or_default();
    let mut config =
        Config::for_handler(RuntimeKind::Golang, handler, &arguments.listen, arguments.workers, env);
    config.function.name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((config, Some(build)))
}

/// The configuration of a file that is run as it is.
fn config(arguments: &Dev, mut env: Env, made: &Folder) -> anyhow::Result<Config> {
    let Some(file) = &arguments.file else {
        return Ok(Config::for_handler(RuntimeKind::Builtin, "", &arguments.listen, arguments.workers, env));
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
            env.golang_plugin = Some(copy(&file, made).unwrap_or_else(|| file.clone()));
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
    Ok(config)
}

/// A copy of a library to be loaded in its place: one that is written over while it is loaded takes the process with it.
/// None of what is no library, or finds others by where it lies, or where copies cannot be loaded.
fn copy(library: &Path, made: &Folder) -> Option<PathBuf> {
    const BY_PLACE: &[u8] = b"$ORIGIN";
    let folder = made.path().ok().filter(|_| library.extension().is_some_and(|ending| ending == "so"))?;
    let mount = rustix::fs::statvfs(folder).ok()?;
    let bytes = std::fs::read(library).ok()?;
    let by_place = memchr::memmem::find(&bytes, BY_PLACE).is_some();
    if by_place || mount.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
        return None;
    }
    let copy = folder.join(library.file_name()?);
    std::fs::write(&copy, bytes).ok().map(|()| copy)
}

/// A message about what is loaded, which may be a copy, as one about the file that was given.
pub(super) fn in_words_of(message: &str, file: &Path, loaded: Option<&Path>) -> String {
    match loaded {
        Some(loaded) => message.replace(&loaded.display().to_string(), &file.display().to_string()),
        None => message.to_owned(),
    }
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

/// What its sources end with.
pub(super) fn endings(file: &Path) -> Vec<String> {
    let ending = file.extension().unwrap_or_default().to_string_lossy().into_owned();
    let all: &[&str] = match ending.as_str() {
        _ if go::is_source(file) => &["go", "mod", "sum"],
        "js" | "mjs" | "cjs" => &["js", "mjs", "cjs", "ts", "mts", "cts", "jsx", "tsx"],
        "java" | "jar" => &["java", "jar"],
        other => &[other],
    };
    all.iter().map(|ending| (*ending).to_owned()).collect()
}

/// The folder that its sources are below, where that is not its own: that of the package it is imported from.
pub(super) fn root(file: &Path) -> Option<PathBuf> {
    let file = file.canonicalize().ok()?;
    let is_python = file.extension().is_some_and(|ending| ending == "py");
    let folder = file.parent().filter(|folder| is_python && folder.join("__init__.py").is_file())?;
    Some(PathBuf::from(python_module(folder, "").0))
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
}
