//! The onbuild images of Go: folders, networks, forms, and functions that cannot be built.

use serde_json::json;

use crate::docker::{Build, Builder, Image, available, base, folder, image};

const HANDLER: &str = "package main\n\nimport \"github.com/nuclio/nuclio-sdk-go\"\n\n\
    func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) { return \"built\", nil }\n";

const DOCKERFILE: &str = "ARG ONBUILD\nARG BASE\nARG PROCESSOR=builder\n\
    FROM ${ONBUILD} as builder\n\
    FROM nuclio/processor:latest-amd64 as other\n\
    FROM ${PROCESSOR} as processor\n\
    FROM ${BASE}\n\
    COPY --from=processor /home/nuclio/bin/processor /usr/local/bin/processor\n\
    COPY --from=builder /home/nuclio/bin/handler.so /opt/nuclio/handler.so\n\
    CMD [ \"processor\" ]\n";

/// Makes what every build here needs; the build of these files with the onbuild image of that name.
fn build(name: &str, on: &str, files: &[(&str, &str)]) -> Build {
    image(name);
    image("processor");
    let ending = if name == "golang-alpine" { "-alpine" } else { "" };
    let mut all = vec![("Dockerfile", DOCKERFILE)];
    all.extend(files);
    Build::of(folder(&all).keep())
        .arg("ONBUILD", &format!("nuclio/handler-builder-golang-onbuild:latest-amd64{ending}"))
        .arg("BASE", &base(on))
}

fn answers(image: &Image) {
    let container = image.function(json!({"spec": {"runtime": "golang", "handler": "main:Handler"}})).start();
    container.wait_for("it answers", || {
        assert_eq!(container.inspect("{{.State.Status}}"), "running");
        crate::harness::get(container.port(), "/").is_ok_and(|answer| answer.text() == "built")
    });
}

#[test]
fn a_function_in_a_subfolder_is_built_by_both_builders_and_without_a_network() {
    if !available() {
        return;
    }
    for builder in [Builder::Classic, Builder::BuildKit] {
        let build =
            build("golang-alpine", "musl", &[("handler/handler.go", HANDLER), ("other.go", "nonsense")])
                .with(builder)
                .option(&["--network", "none"])
                .arg("NUCLIO_BUILD_LOCAL_HANDLER_DIR", "handler")
                .arg("NUCLIO_BUILD_OFFLINE", "true")
                .arg("SOMETHING_UNKNOWN", "1");
        let Some(built) = build.try_run() else { continue };
        answers(&built.unwrap_or_else(|said| panic!("{said}")));
    }
}

#[test]
fn a_function_that_does_not_compile_ends_the_build_with_the_compilers_words() {
    if !available() {
        return;
    }
    let broken = HANDLER.replace("\"built\"", "undefinedName");
    for builder in [Builder::Classic, Builder::BuildKit] {
        let Some(built) = build("golang-alpine", "musl", &[("handler.go", &broken)]).with(builder).try_run()
        else {
            continue;
        };
        let said = built.err().expect("it must not be built");
        let words = said.rfind("./handler.go:5").unwrap_or_else(|| panic!("{said}"));
        let mut lines = said[words..].lines();
        assert!(lines.next().is_some_and(|line| line.contains("undefined: undefinedName")), "{said}");
        // What comes next is the builder's, which says only which step it was.
        let next = lines.next().unwrap_or_default().trim_start_matches("\u{1b}[0m").trim();
        let of_builder =
            ["Removing intermediate container", "The command '/bin/sh", "executor failed", "-", "#"];
        assert!(next.is_empty() || of_builder.iter().any(|begin| next.starts_with(begin)), "{next}: {said}");
    }
}

#[test]
fn a_folder_without_a_handler_says_what_a_handler_is() {
    if !available() {
        return;
    }
    let without = "package main\n\nfunc other() {}\n";
    let built = build("golang-alpine", "musl", &[("handler.go", without)]).run();
    let said = &built.said;
    assert!(said.contains("func(*nuclio.Context, nuclio.Event) (interface{}, error)"), "{said}");
}

#[test]
fn a_build_argument_chooses_the_form() {
    if !available() {
        return;
    }
    let executable =
        build("golang", "glibc", &[("handler.go", HANDLER)]).arg("NUCLIO_HANDLER_FORM", "executable").run();
    assert!(executable.said.contains("handler.so is a static executable"), "{}", executable.said);
    answers(&executable);
    let library =
        build("golang-alpine", "musl", &[("handler.go", HANDLER)]).arg("NUCLIO_HANDLER_FORM", "library");
    let said = library.try_run().unwrap().err().unwrap();
    assert!(said.contains("use the onbuild image whose tag does not end in -alpine"), "{said}");
}

#[test]
fn a_library_beside_the_static_processor_is_refused_with_the_remedy() {
    if !available() {
        return;
    }
    // The wrong tag in one of two places.
    let image = build("golang", "glibc", &[("handler.go", HANDLER)]).arg("PROCESSOR", "other").run();
    let container = image.function(json!({"spec": {"runtime": "golang", "handler": "main:Handler"}})).start();
    assert_eq!(container.wait_exit(), 1);
    let logs = container.logs();
    assert!(logs.contains("/opt/nuclio/handler.so") && logs.contains("executable"), "{logs}");
}

#[test]
#[ignore = "with scripts/test --full"]
fn a_plugin_of_the_go_processors_builder_is_refused_with_the_remedy() {
    if !available() {
        return;
    }
    image("golang");
    let dockerfile = format!(
        "FROM {} as builder\nWORKDIR /handler\nCOPY *.go go.mod ./\n\
         RUN CGO_ENABLED=1 go build -buildmode=plugin -o /handler.so .\n\
         FROM nuclio/handler-builder-golang-onbuild:latest-amd64 as processor\n\
         FROM {}\n\
         COPY --from=processor /home/nuclio/bin/processor /usr/local/bin/processor\n\
         COPY --from=builder /handler.so /opt/nuclio/handler.so\nCMD [ \"processor\" ]\n",
        base("go"),
        base("glibc")
    );
    let files = [
        ("Dockerfile", dockerfile.as_str()),
        ("go.mod", "module handler\n\ngo 1.21\n"),
        ("handler.go", "package main\n\nfunc Handler() string { return \"plugin\" }\n\nfunc main() {}\n"),
    ];
    let image = Build::of(folder(&files).path()).run();
    let container = image.function(json!({"spec": {"runtime": "golang", "handler": "main:Handler"}})).start();
    assert_eq!(container.wait_exit(), 1);
    let logs = container.logs();
    assert!(logs.contains("-buildmode=plugin") && logs.contains("golang onbuild image"), "{logs}");
}
