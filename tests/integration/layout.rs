//! The layout of the sources: data flows down, files stay small and say what they are, the environment is read in one
//! place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Which of our modules a module may use, besides itself. A new edge is a decision: it goes into this table first.
const ALLOWED: &[(&str, &[&str])] = &[
    ("shutdown", &[]),
    ("reaper", &[]),
    ("link", &[]),
    ("turns", &[]),
    ("per_thread", &[]),
    ("watched", &[]),
    ("config", &[]),
    ("trace", &["config"]),
    ("logging", &["config", "trace"]),
    ("event", &["logging", "config", "trace"]),
    ("metrics", &["config", "event", "logging", "per_thread", "reaper", "trace"]),
    ("otlp", &["config", "logging", "trace"]),
    ("queue", &["event", "metrics", "per_thread"]),
    ("runtime", &["config", "event", "logging", "metrics", "queue", "reaper", "trace", "turns", "watched"]),
    ("pool", &["runtime", "queue", "event", "logging", "metrics", "reaper", "turns"]),
    ("dispatch", &["pool", "queue", "metrics", "event", "trace"]),
    ("net", &["shutdown", "logging", "turns", "watched"]),
    (
        "trigger",
        &[
            "dispatch", "config", "event", "link", "net", "shutdown", "logging", "metrics", "queue", "trace",
            "turns",
        ],
    ),
    ("admin", &["pool", "net", "shutdown", "metrics", "config", "logging", "link"]),
    (
        "app",
        &[
            "config", "logging", "event", "metrics", "queue", "runtime", "pool", "dispatch", "net",
            "trigger", "admin", "shutdown", "reaper", "link", "otlp", "turns",
        ],
    ),
    ("cli", &["config"]),
    ("check", &["config", "trigger"]),
    ("blueprint", &["cli", "config"]),
    ("run", &["app", "config", "logging", "reaper"]),
    ("invoke", &["cli", "config", "logging", "run"]),
    ("dev", &["app", "cli", "run", "config", "logging", "net", "reaper", "shutdown"]),
];
/// Macros live at the root of the crate and belong to `logging`.
const MACROS: &[&str] = &["fields"];
/// Lines of a file, its tests aside.
const LINES_MAX: usize = 600;
/// Uses of the environment outside `config`: arguments of the program, and constants.
const NOT_THE_ENVIRONMENT: &[&str] = &["std::env::args", "std::env::consts", "std::env::args_os"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|other| other == ending) {
            found.push(path);
        }
    }
    found
}

/// Every source file: its path below `src/`, and its text without tests.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let tests =
        |path: &Path| path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs");
    let all = files(&src, "rs").into_iter().filter(|path| !tests(path));
    all.map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap().to_owned();
        (path.strip_prefix(&src).unwrap().display().to_string(), code)
    })
    .collect()
}

/// The top-level module that a file belongs to.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The top-level modules that a text names as `crate::…`, also in groups.
fn used(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in code.lines().map(str::trim_start).filter(|line| !line.starts_with("//")) {
        let mut rest = line;
        while let Some(at) = rest.find("crate::") {
            let whole_word = !rest[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
            rest = &rest[at + "crate::".len()..];
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(!rest.starts_with('{'), "write one `use crate::` per module: {line}");
            if whole_word && !MACROS.contains(&name.as_str()) {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        let from = module(&path);
        if matches!(from, "lib" | "bin") {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == from) else {
            wrong.push(format!("{path}: module {from} has no row in the table"));
            continue;
        };
        for to in used(&code).iter().filter(|to| *to != from && !allowed.contains(&to.as_str())) {
            wrong.push(format!("{path}: {from} may not use {to}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_a_row_for_every_module_of_the_crate_and_no_cycle() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules: BTreeSet<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let rows: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(modules, rows);
    let mut below = BTreeSet::new();
    while below.len() < ALLOWED.len() {
        let next = ALLOWED
            .iter()
            .find(|(name, uses)| !below.contains(name) && uses.iter().all(|to| below.contains(to)));
        below.insert(next.unwrap_or_else(|| panic!("a cycle above {below:?}")).0);
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        if code.lines().count() > LINES_MAX {
            wrong.push(format!("{path}: {} lines", code.lines().count()));
        }
    }
    for folder in ["src", "tests/integration", "runtimes/rust/src", "benches"] {
        for path in files(&root().join(folder), "rs") {
            if !std::fs::read_to_string(&path).unwrap().starts_with("//!") && !path.ends_with("tests.rs") {
                wrong.push(format!("{}: does not begin with //!", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_environment_is_read_in_one_place() {
    let mut wrong = Vec::new();
    for (path, code) in sources() {
        if module(&path) == "config" {
            continue;
        }
        for line in code.lines().filter(|line| line.contains("env::") && !line.trim_start().starts_with("//"))
        {
            let constants = NOT_THE_ENVIRONMENT.iter().any(|allowed| line.contains(allowed));
            if line.contains("std::env") && !constants {
                wrong.push(format!("{path}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
