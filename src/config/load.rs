//! From files and environment to a [`Config`]: reading, waiting for a late file, the order of the steps.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::{ConfigError, Problem};
use super::source::Source;
use super::yaml::{self, Node};
use super::{Config, Env, function, platform};

/// How long a file may be missing, empty or half written in a directory that was mounted for it.
const LATE_FILE_WAIT_MAX: Duration = Duration::from_secs(3);
/// Time between two looks at a late file.
const LATE_FILE_STEP: Duration = Duration::from_millis(20);
/// Largest configuration file read.
const FILE_BYTES_MAX: u64 = 32 << 20;

impl Config {
    /// Reads both files and resolves everything; a missing platform file means defaults.
    ///
    /// When the function file's directory is a mount point and the file is not there, empty or not yet YAML, it is
    /// waited for, at most three seconds: the platform writes it while the processor starts. Blocks meanwhile.
    pub fn load(function_file: &Path, platform_file: &Path, env: Env) -> Result<Config, ConfigError> {
        let mounted = function_file.parent().is_some_and(is_mount_point);
        let patience = if mounted { LATE_FILE_WAIT_MAX } else { Duration::ZERO };
        load_patiently(function_file, platform_file, env, patience)
    }
}

pub(super) fn load_patiently(
    function_file: &Path,
    platform_file: &Path,
    env: Env,
    patience: Duration,
) -> Result<Config, ConfigError> {
    let mut platform_source = Source::new(platform_file);
    let platform = platform::read(&mut platform_source)?;
    let mut source = Source::new(function_file);
    let (root, waited) = read_late(&source, patience)?;
    if !waited.is_zero() {
        source.warnings.push(format!("{}: waited {} ms for it", function_file.display(), waited.as_millis()));
    }
    let function = function::read(root, &mut source, &env)?;
    let function_resolved = function.resolve(&mut source, &platform, &mut platform_source, &env)?;
    let platform = platform.resolve(&function_resolved, &mut platform_source, &env)?;
    let mut warnings = platform_source.warnings;
    warnings.append(&mut source.warnings);
    warnings.extend(env.tracing_warnings.iter().cloned());
    Ok(Config { function: function_resolved, platform, env, warnings })
}

/// The function file's tree, waited for if need be, and how long that took.
fn read_late(source: &Source, patience: Duration) -> Result<(Node, Duration), ConfigError> {
    let start = Instant::now();
    let mut waited = Duration::ZERO;
    let mut seen = None;
    loop {
        let result = read_function_tree(&source.file);
        let in_time = start.elapsed() < patience;
        match result {
            // A file that appeared while we looked may still be growing: it counts when two looks agree.
            Ok(root) if waited.is_zero() || seen.as_ref() == Some(&root) || !in_time => {
                return Ok((root, waited));
            }
            Ok(root) => seen = Some(root),
            Err(ConfigError::Missing(_) | ConfigError::Syntax(_)) if in_time => seen = None,
            Err(error) => return Err(error),
        }
        std::thread::sleep(LATE_FILE_STEP);
        waited = start.elapsed();
    }
}

fn read_function_tree(file: &Path) -> Result<Node, ConfigError> {
    let outer = ["Failed to open configuration file"];
    match read_tree(file, &outer, &["Failed to write configuration", outer[0]])? {
        Some(root) if !root.is_null() => Ok(root),
        _ => {
            let problem = Problem::new("the file is empty, so spec.runtime is missing").file(file);
            let problem = problem
                .key("spec.runtime")
                .remedy("write `metadata` and `spec` with `runtime` and `handler`");
            Err(ConfigError::Syntax(problem))
        }
    }
}

/// Reads a YAML file; the messages wrap its errors, when it cannot be read and when it cannot be parsed.
pub(super) fn read_tree(
    file: &Path,
    unread: &[&str],
    unparsed: &[&str],
) -> Result<Option<Node>, ConfigError> {
    read_text_and_tree(file, unread, unparsed).map(|(_, root)| root)
}

/// The same, with the text.
pub(super) fn read_text_and_tree(
    file: &Path,
    unread: &[&str],
    unparsed: &[&str],
) -> Result<(String, Option<Node>), ConfigError> {
    let text = read_bounded(file, FILE_BYTES_MAX).map_err(|error| open_error(file, &error, unread))?;
    let syntax = |line: usize, wrong: String| {
        let root = format!("error converting YAML to JSON: yaml: line {line}: {wrong}");
        let problem =
            Problem::new(wrong).file(file).line(line).remedy("mend the YAML at this line").root(root);
        ConfigError::Syntax(wrap(problem, unparsed))
    };
    let text = String::from_utf8(text).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let utf_16 = matches!(error.as_bytes(), [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
        let wrong = if utf_16 { "the text is UTF-16; save it as UTF-8" } else { "the text is not UTF-8" };
        syntax(1 + valid.iter().filter(|byte| **byte == b'\n').count(), wrong.into())
    })?;
    let root = yaml::parse(&text)
        .map_err(|error| syntax(error.line, format!("{} (column {})", error.wrong, error.column)))?;
    Ok((text, root))
}

fn wrap(problem: Box<Problem>, messages: &[&str]) -> Box<Problem> {
    messages.iter().fold(problem, |problem, message| problem.cause(*message))
}

fn open_error(file: &Path, error: &io::Error, around: &[&str]) -> ConfigError {
    let (reason, remedy) = match error.kind() {
        io::ErrorKind::NotFound => ("no such file or directory".to_owned(), "create it or name another file"),
        io::ErrorKind::PermissionDenied => {
            ("permission denied".to_owned(), "let the processor's user read it")
        }
        _ => (error.to_string(), "name a readable YAML file"),
    };
    let problem = Problem::new(format!("open {}: {reason}", file.display())).remedy(remedy);
    let problem = wrap(problem, around);
    match error.kind() {
        io::ErrorKind::NotFound => ConfigError::Missing(problem),
        _ => ConfigError::Unreadable(problem),
    }
}

/// Reads a whole file of at most `bytes_max` bytes.
pub(super) fn read_bounded(file: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

/// Whether a directory is one that was mounted, bind mounts included.
fn is_mount_point(directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else { return false };
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mountinfo") else { return false };
    mount_points(&mounts).any(|mounted| mounted == directory)
}

/// The mount points of `/proc/self/mountinfo`: the fifth word of each line, blanks written as `\040`.
fn mount_points(mountinfo: &str) -> impl Iterator<Item = PathBuf> {
    let fifth = |line: &str| line.split(' ').nth(4).map(|word| PathBuf::from(word.replace("\\040", " ")));
    mountinfo.lines().filter_map(fifth)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "spec: {runtime: python, handler: 'a:b'}\n";

    fn load(file: &Path, patience: u64) -> Result<Config, ConfigError> {
        let absent = file.with_file_name("absent.yaml");
        load_patiently(file, &absent, Env::default(), Duration::from_millis(patience))
    }

    #[test]
    fn a_file_that_appears_late_is_waited_for_until_it_stops_growing() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("processor.yaml");
        let writer = file.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            std::fs::write(&writer, "").unwrap();
            std::thread::sleep(Duration::from_millis(60));
            std::fs::write(&writer, GOOD).unwrap();
        });
        let config = load(&file, 10_000).unwrap();
        thread.join().unwrap();
        assert_eq!(config.function.handler, "a:b");
        assert!(config.warnings[0].contains("waited"), "{:?}", config.warnings);
    }

    #[test]
    fn the_wait_for_a_late_file_ends() {
        let directory = tempfile::tempdir().unwrap();
        let error = load(&directory.path().join("processor.yaml"), 50).unwrap_err();
        assert!(matches!(error, ConfigError::Missing(_)));
    }

    #[test]
    fn a_file_that_is_there_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("processor.yaml");
        std::fs::write(&file, GOOD).unwrap();
        assert!(load(&file, 10_000).unwrap().warnings.iter().all(|warning| !warning.contains("waited")));
    }

    #[test]
    fn a_platform_file_that_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("processor.yaml");
        std::fs::write(&file, GOOD).unwrap();
        // A directory stands for a file without permission: tests may run as root, who may read everything.
        let error = load_patiently(&file, directory.path(), Env::default(), Duration::ZERO).unwrap_err();
        assert!(matches!(error, ConfigError::Unreadable(_)), "{error}");
        assert_eq!(error.chain().last().unwrap(), "Failed to get platform configuration");
    }

    #[test]
    fn mount_points_are_the_fifth_word() {
        let text = "36 35 98:0 /m /etc/a\\040b rw,noatime - ext3 /dev/root rw\n37 35 0:1 / /proc rw - proc proc rw\n";
        let points: Vec<_> = mount_points(text).collect();
        assert_eq!(points, [PathBuf::from("/etc/a b"), PathBuf::from("/proc")]);
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self")));
    }
}
