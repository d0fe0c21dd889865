//! What users' Dockerfiles and `nuctl` rely on: names of images, paths in them, what can be copied out.

use std::path::Path;

use crate::docker::{Build, Image, available, docker, folder, image, unique};

const GO: &str = "package main\n\nimport \"github.com/nuclio/nuclio-sdk-go\"\n\n\
    func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) { return \"built\", nil }\n";

/// A file or folder that Dockerfiles copy.
type Paths = &'static [&'static str];

/// An image of ours: its name in `scripts/images`, what it is called without label, what is to be found in it.
const IMAGES: [(&str, &str, Paths); 4] = [
    ("processor", "processor:latest-amd64", &["processor"]),
    ("uhttpc", "uhttpc:0.0.1-amd64", &["uhttpc"]),
    (
        "python",
        "handler-builder-python-onbuild:latest-amd64",
        &["processor", "py/_nuclio_wrapper.py", "py3.9-whl/", "py3.10-whl/", "py3.11-whl/", "py3.12-whl/"],
    ),
    ("nodejs", "handler-builder-nodejs-onbuild:latest-amd64", &["processor", "wrapper.js"]),
];

/// What `nuctl` copies out of a container that never runs; what is missing or no plain file fails.
fn copy_out(image: &str, paths: &[&str]) {
    let container = unique("copied");
    docker(&["create", "--name", &container, image, "/bin/sh"]);
    let folder = tempfile::tempdir().unwrap();
    let copied: Vec<(String, std::process::Output)> = paths
        .iter()
        .map(|path| {
            let from = format!("{container}:/home/nuclio/bin/{}", path.trim_end_matches('/'));
            let to = folder.path().display().to_string();
            let output = std::process::Command::new("docker").args(["cp", &from, &to]).output().unwrap();
            ((*path).to_owned(), output)
        })
        .collect();
    docker(&["rm", "-f", &container]);
    for (path, output) in copied {
        assert!(output.status.success(), "{image}: {path}: {}", crate::docker::text(&output));
        let found = folder.path().join(Path::new(&path).file_name().unwrap());
        let kind = std::fs::symlink_metadata(&found).unwrap();
        assert_eq!(kind.is_dir(), path.ends_with('/'), "{image}: {path}");
        assert!(kind.is_dir() || kind.is_file(), "{image}: {path} is a link");
        assert!(kind.is_dir() || kind.len() > 100, "{image}: {path} is empty");
    }
}

#[test]
fn every_image_has_all_its_names_and_files_that_can_be_copied_out() {
    if !available() {
        return;
    }
    for (name, tag, paths) in IMAGES {
        image(name);
        let id = |prefix: &str, tag: &str| {
            docker(&["image", "inspect", "-f", "{{.Id}}", &format!("{prefix}{tag}")])
        };
        let first = id("nuclio/", tag);
        assert_eq!(first, id("quay.io/nuclio/", tag), "{name}");
        let version = tag.replace("latest", env!("CARGO_PKG_VERSION"));
        assert_eq!(first, id("nuclio/", &version), "{name}");
        copy_out(&first, paths);
    }
}

/// As `nuctl` writes it: three lines, the handler in a folder of its own.
fn onbuild(tag: &str, files: &[(&str, &str)]) -> Build {
    let dockerfile = format!("FROM {tag}\nARG NUCLIO_LABEL\nARG NUCLIO_ARCH\n");
    let mut all = vec![("Dockerfile.onbuild", dockerfile.as_str())];
    all.extend(files);
    let directory = folder(&all).keep();
    let file = directory.join("Dockerfile.onbuild").display().to_string();
    Build::of(&directory)
        .option(&["--network", "host", "--file", &file])
        .arg("NUCLIO_LABEL", "latest")
        .arg("NUCLIO_ARCH", "amd64")
        .arg("NUCLIO_BUILD_LOCAL_HANDLER_DIR", "handler")
}

#[test]
fn the_images_pass_through_what_nuctl_does_with_them() {
    if !available() {
        return;
    }
    for name in ["uhttpc", "golang-alpine", "python"] {
        image(name);
    }
    let files = [("handler/handler.go", GO)];
    let build = |tag: &str| -> Image { onbuild(tag, &files).run() };
    copy_out(&build("nuclio/uhttpc:0.0.1-amd64").name, &["uhttpc"]);
    let python = build("nuclio/handler-builder-python-onbuild:latest-amd64");
    copy_out(&python.name, &["processor", "py/", "py3.9-whl/", "py3.10-whl/", "py3.11-whl/"]);
    let go = build("nuclio/handler-builder-golang-onbuild:latest-amd64-alpine");
    copy_out(&go.name, &["processor", "handler.so"]);
}
