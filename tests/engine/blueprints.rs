//! Every blueprint of `examples/docker`, built as a user would copy it, run, asked, stopped.

use std::time::Duration;

use crate::docker::{Build, Builder, Image, Run, available, base, image, root};

/// The folders there, with our images that each needs and the base image that stands in for the one it names.
const BLUEPRINTS: [(&str, &[&str], &str); 7] = [
    ("golang", &["golang-alpine"], "musl"),
    ("python", &["python"], "python"),
    ("nodejs", &["nodejs"], "node"),
    ("java", &["java"], "java"),
    ("dotnetcore", &["dotnetcore"], "dotnet"),
    ("ruby", &["ruby"], "ruby"),
    ("shell", &["processor"], "musl"),
];

/// `docker stop` kills after 10 s, and the exit code tells; the engine's own part grows with what else the machine does.
const STOP_MAX: Duration = Duration::from_secs(4);

fn build(runtime: &str, builder: Builder, more: &[(&str, &str)]) -> Option<Image> {
    let (_, needs, on) = BLUEPRINTS.iter().find(|(name, ..)| *name == runtime).unwrap();
    for name in needs.iter().chain(&["uhttpc"]) {
        image(name);
    }
    let on = base(on);
    let mut build = Build::of(root().join("examples/docker").join(runtime)).with(builder);
    if more.iter().all(|(name, _)| *name != "NUCLIO_BASE_IMAGE") {
        build = build.arg("NUCLIO_BASE_IMAGE", &on);
    }
    for (name, value) in more {
        build = build.arg(name, value);
    }
    build.try_run().map(|built| built.unwrap_or_else(|said| panic!("{said}")))
}

/// Runs it as the README of the blueprints says, and goes through the life of a function.
fn serve(runtime: &str, image: &Image, options: &[&str]) {
    let function = root().join("examples/docker").join(runtime).join("function.yaml");
    let mount = format!("{}:/etc/nuclio/config/processor/processor.yaml:ro", function.display());
    let container = Run::new(&image.name).option(&["--volume", &mount]).option(options).start();
    container.wait_healthy();
    let answer = container.get("/");
    assert_eq!(answer.status, 200, "{runtime}: {}", answer.text());
    assert!(answer.text().contains(runtime), "{runtime}: {}", answer.text());
    assert!(container.logs().contains("Processor started"), "{runtime}: {}", container.logs());
    assert_eq!(container.zombies(), Vec::<String>::new(), "{runtime}");
    let (took, code) = container.stop();
    assert_eq!(code, 0, "{runtime}: after a stop that took {took:?}");
    assert!(took < STOP_MAX, "{runtime}: {took:?}");
    println!("{runtime}: stopped within {} ms", took.as_millis());
}

fn build_and_serve(runtime: &str) {
    if !available() {
        return;
    }
    let image = build(runtime, Builder::Classic, &[]).unwrap();
    serve(runtime, &image, &[]);
}

#[test]
fn the_go_blueprint_serves_on_musl() {
    build_and_serve("golang");
}

#[test]
fn the_go_blueprint_serves_as_a_library_on_glibc() {
    if !available() {
        return;
    }
    image("golang");
    let (onbuild, on) = ("nuclio/handler-builder-golang-onbuild:latest-amd64", base("glibc"));
    let arguments = [("NUCLIO_BASE_IMAGE", on.as_str()), ("NUCLIO_ONBUILD_IMAGE", onbuild)];
    let image = build("golang", Builder::Classic, &arguments).unwrap();
    assert!(
        image.said.contains("handler.so is a shared library for base images with glibc"),
        "{}",
        image.said
    );
    serve("golang", &image, &[]);
}

#[test]
fn the_python_blueprint_serves() {
    build_and_serve("python");
}

#[test]
fn buildkit_builds_the_blueprints_too() {
    if !available() {
        return;
    }
    for runtime in ["golang", "python"] {
        let Some(image) = build(runtime, Builder::BuildKit, &[]) else { return };
        serve(runtime, &image, &["--init"]);
    }
}

#[test]
fn the_variant_without_a_shell_serves_from_nothing() {
    if !available() {
        return;
    }
    for name in ["golang-alpine", "uhttpc"] {
        image(name);
    }
    let folder = root().join("examples/docker/golang");
    let file = folder.join("Dockerfile.shell-less").display().to_string();
    let image = Build::of(&folder).option(&["--file", &file]).run();
    serve("golang", &image, &["--read-only", "--user", "4711:4712"]);
}

#[test]
#[ignore = "with scripts/test --full"]
fn the_nodejs_blueprint_serves() {
    build_and_serve("nodejs");
}

#[test]
#[ignore = "with scripts/test --full"]
fn the_java_blueprint_serves() {
    build_and_serve("java");
}

#[test]
#[ignore = "with scripts/test --full"]
fn the_dotnet_blueprint_serves() {
    build_and_serve("dotnetcore");
}

#[test]
#[ignore = "with scripts/test --full"]
fn the_ruby_blueprint_serves() {
    build_and_serve("ruby");
}

#[test]
#[ignore = "with scripts/test --full"]
fn the_shell_blueprint_serves() {
    build_and_serve("shell");
}

#[test]
fn every_blueprint_is_in_the_list() {
    let mut found: Vec<String> = std::fs::read_dir(root().join("examples/docker"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut listed: Vec<&str> = BLUEPRINTS.iter().map(|(name, ..)| *name).collect();
    listed.sort_unstable();
    assert_eq!(found, listed);
}
