//! `processor blueprint`: what it writes can be checked, run and served as it stands, and nothing of the user's is lost.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::cli::run;
use crate::golang_build::{available, build};
use crate::harness::{Setup, python};
use crate::languages::nodejs;

const RUNTIMES: [&str; 7] = ["dotnetcore", "golang", "java", "nodejs", "python", "ruby", "shell"];

/// Every file below a folder, with its text.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, std::fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

fn write(runtime: &str, folder: &Path, more: &[&str]) -> (i32, String, String) {
    let mut arguments = vec!["blueprint", "--runtime", runtime];
    arguments.extend(more);
    let folder = folder.display().to_string();
    arguments.push(&folder);
    run(&arguments)
}

#[test]
fn a_blueprint_of_every_runtime_is_what_the_examples_say_and_a_start_takes_its_configuration() {
    for runtime in RUNTIMES {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("deep/resize-images");
        let (code, out, err) = write(runtime, &below, &[]);
        assert_eq!((code, err.as_str()), (0, ""), "{runtime}");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/docker").join(runtime);
        let mut expected = files(&examples);
        expected.remove("Dockerfile.shell-less");
        let function = expected.get_mut("function.yaml").unwrap();
        *function = function.replace("name: hello", "name: resize-images");
        assert_eq!(files(&below), expected, "{runtime}");
        let image = "docker build -t resize-images ";
        assert!(expected.keys().all(|name| out.contains(name.as_str())) && out.contains(image), "{out}");
        let (code, out, _) = run(&["check", &below.join("function.yaml").display().to_string()]);
        if out.contains("cannot serve yet") {
            println!("not served yet: blueprint {runtime}: the runtime is refused at start");
            continue;
        }
        assert_eq!(code, 0, "{out}");
        assert!(out.starts_with("function resize-images\n"), "no word about it but what it is: {out}");
    }
}

#[test]
fn blueprints_answer_without_a_change() {
    for runtime in ["python", "nodejs", "golang"] {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(write(runtime, folder.path(), &["--name", "first"]).0, 0);
        let written = std::fs::read_to_string(folder.path().join("function.yaml")).unwrap();
        let written: serde_json::Value = serde_yaml::from_str(&written).unwrap();
        let mut setup = Setup::new(runtime, written["spec"]["handler"].as_str().unwrap());
        setup.function["metadata"]["name"] = json!("first");
        let path = folder.path().display().to_string();
        setup = match runtime {
            "python" => setup.env("NUCLIO_PYTHON_PATH", &path).env("NUCLIO_PYTHON_EXE_PATH", python()),
            "nodejs" if nodejs().is_some() => setup.env("NUCLIO_HANDLER_DIR", &path),
            "golang" if available() => {
                let out = folder.path().join("handler.so");
                let output = build(folder.path(), &out, &["--form", "library"]);
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                setup.env("NUCLIO_GOLANG_HANDLER_PLUGIN_PATH", &out.display().to_string())
            }
            _ => continue,
        };
        let answer = setup.start().get("/");
        assert_eq!((answer.status, answer.text().trim()), (200, &*format!("Hello from {runtime}")));
    }
}

#[test]
fn files_that_are_there_are_replaced_only_by_force() {
    let folder = tempfile::tempdir().unwrap();
    let handler = folder.path().join("handler.sh");
    std::fs::write(&handler, "mine\n").unwrap();
    std::fs::write(folder.path().join("other.txt"), "mine too\n").unwrap();
    let before = files(folder.path());
    let (code, out, err) = write("shell", folder.path(), &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains(&handler.display().to_string()) && err.contains("--force"), "{err}");
    assert_eq!(files(folder.path()), before, "nothing was written, the other files neither");
    let (code, _, err) = write("shell", folder.path(), &["--force"]);
    assert_eq!((code, err.as_str()), (0, ""));
    let after = files(folder.path());
    assert!(after["handler.sh"].contains("Hello from shell") && after["other.txt"] == "mine too\n");
    assert_eq!(after.len(), 4);
}

#[test]
fn a_blueprint_that_cannot_be_written_says_what_to_mend() {
    let folder = tempfile::tempdir().unwrap();
    let cases: [(&[&str], i32, &[&str]); 6] = [
        (&["--runtime", "cobol", "D"], 2, &["cobol", "use one of: dotnetcore, golang, java"]),
        (&["--runtime", "python:3.11", "D"], 2, &["python:3.11", "use one of"]),
        (&["--runtime", "shell", "--name", "My_Function", "D"], 2, &["My_Function", "letters in lower case"]),
        (&["--runtime", "shell"], 2, &["<DIR>"]),
        (&["D"], 2, &["--runtime"]),
        (
            &["--runtime", "shell", "/proc/version/below"],
            1,
            &["cannot write /proc/version/below", "Not a directory"],
        ),
    ];
    let inside = folder.path().join("new").display().to_string();
    for (arguments, expected, texts) in cases {
        let arguments: Vec<&str> =
            arguments.iter().map(|word| if *word == "D" { &inside } else { *word }).collect();
        let (code, out, err) = run(&[&["blueprint"], &arguments[..]].concat());
        assert_eq!((code, out.as_str()), (expected, ""), "{arguments:?} {err}");
        for text in texts {
            assert!(err.contains(text), "no {text:?} in {err}");
        }
    }
    assert!(files(folder.path()).is_empty());
}
