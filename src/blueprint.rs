//! `processor blueprint`: writes the files that a first function image is built from.
//!
//! The files are those of `examples/docker/`, carried in the program, so that they cannot differ from what is built in
//! tests. Only the function's name is filled in. Knows nothing of how handlers run.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::cli::{Blueprint, is_function_name};
use crate::config::RuntimeKind;

/// What the function is called in the templates.
const NAME_LINE: &str = "name: hello\n";

/// A file of a blueprint: its path below the folder, and its text.
type Template = (&'static str, &'static str);

macro_rules! templates {
    ($runtime:literal, $($file:literal),+) => {
        &[$(($file, include_str!(concat!("../examples/docker/", $runtime, "/", $file)))),+]
    };
}

/// The files for a runtime. The demonstration handler needs none.
fn templates(runtime: RuntimeKind) -> &'static [Template] {
    match runtime {
        RuntimeKind::Builtin => &[],
        RuntimeKind::DotNetCore => templates!("dotnetcore", "Dockerfile", "function.yaml", "handler.cs"),
        RuntimeKind::Golang => templates!("golang", "Dockerfile", "function.yaml", "handler.go"),
        RuntimeKind::Java => {
            templates!("java", "Dockerfile", "function.yaml", "src/main/java/Handler.java")
        }
        RuntimeKind::NodeJs => templates!("nodejs", "Dockerfile", "function.yaml", "handler.js"),
        RuntimeKind::Python => templates!("python", "Dockerfile", "function.yaml", "main.py"),
        RuntimeKind::Ruby => templates!("ruby", "Dockerfile", "function.yaml", "handler.rb"),
        RuntimeKind::Shell => templates!("shell", "Dockerfile", "function.yaml", "handler.sh"),
    }
}

/// Why a blueprint was not written.
#[derive(Debug, thiserror::Error)]
pub enum BlueprintError {
    /// Files of the same names are there, and nobody said that they may go. Nothing was written.
    #[error("{} exists; nothing was written: take another folder, or --force to replace it", list(.0))]
    Exists(Vec<PathBuf>),
    /// A folder or file cannot be written. What was written before it is left.
    #[error("cannot write {}", .path.display())]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// What was done cannot be said.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Writes the files of a blueprint and says what to do with them.
///
/// # Errors
/// Files are in the way, or cannot be written.
pub fn write(arguments: &Blueprint, out: &mut dyn Write) -> Result<(), BlueprintError> {
    let folder = &arguments.folder;
    let name = arguments.name.clone().unwrap_or_else(|| name_of(folder));
    let files = templates(arguments.runtime);
    let paths = || files.iter().map(|(file, _)| folder.join(file));
    // A link that leads nowhere is in the way too.
    let existing: Vec<PathBuf> = paths().filter(|path| path.symlink_metadata().is_ok()).collect();
    if !existing.is_empty() && !arguments.force {
        return Err(BlueprintError::Exists(existing));
    }
    for (path, (_, text)) in paths().zip(files) {
        write_file(&path, &text.replacen(NAME_LINE, &format!("name: {name}\n"), 1), arguments.force)?;
        writeln!(out, "{}", path.display()).map_err(BlueprintError::Output)?;
    }
    out.write_all(next_steps(folder, &name).as_bytes()).map_err(BlueprintError::Output)
}

fn write_file(path: &Path, text: &str, force: bool) -> Result<(), BlueprintError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .map_err(|source| BlueprintError::Write { path: folder.to_owned(), source })?;
    }
    let mut options = OpenOptions::new();
    options.write(true);
    // One that has come since we looked is nobody's to overwrite either.
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| BlueprintError::Write { path: path.to_owned(), source })
}

/// The folder's name where it can be a function's, else the templates' own.
fn name_of(folder: &Path) -> String {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if is_function_name(&name) { name } else { "hello".to_owned() }
}

fn next_steps(folder: &Path, name: &str) -> String {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let folder = quoted(&folder.display().to_string());
    format!(
        "
Build it, run it, call it:
  docker build -t {name} {folder}
  docker run --rm -p 8080:8080 -v {folder}/function.yaml:/etc/nuclio/config/processor/processor.yaml:ro {name}
  curl -i http://127.0.0.1:8080/
"
    )
}

/// A path as a word of a shell.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/docker")
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
        }
        found
    }

    #[test]
    fn the_program_carries_every_file_of_the_examples() {
        for (name, runtime) in RuntimeKind::NAMED {
            let folder = examples().join(name);
            let mut carried: Vec<PathBuf> =
                templates(runtime).iter().map(|(file, _)| folder.join(file)).collect();
            // The variant is a second Dockerfile for the same function.
            let mut there = files(&folder);
            there.retain(|path| path.extension().is_none_or(|ending| ending != "shell-less"));
            carried.sort();
            there.sort();
            assert_eq!(carried, there, "{name}");
            for (file, text) in templates(runtime) {
                assert_eq!(fs::read_to_string(folder.join(file)).unwrap(), *text);
                assert_eq!(text.matches(NAME_LINE).count(), usize::from(*file == "function.yaml"), "{file}");
            }
        }
    }

    #[test]
    fn the_folder_names_the_function_where_it_can() {
        for (folder, name) in [
            ("/a/resize", "resize"),
            ("/a/resize/", "resize"),
            ("/a/My Function", "hello"),
            ("/", "hello"),
            ("thumbs", "thumbs"),
        ] {
            assert_eq!(name_of(Path::new(folder)), name, "{folder}");
        }
    }

    #[test]
    fn commands_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("/a/b-1.0"), "/a/b-1.0");
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("/it's"), r"'/it'\''s'");
    }
}
