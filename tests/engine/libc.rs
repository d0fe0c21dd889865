//! Which build runs on which base image.

use serde_json::json;

use crate::docker::{Build, Image, available, base, folder, image};

/// The processor of that image on that base, with the demonstration handler: nothing else is needed.
fn bare(from: &str, on: &str) -> Image {
    let dockerfile = format!(
        "FROM nuclio/uhttpc:0.0.1-amd64 as uhttpc\nFROM {from} as processor\nFROM {on}\n\
         COPY --from=processor /home/nuclio/bin/processor /usr/local/bin/processor\n\
         COPY --from=uhttpc /home/nuclio/bin/uhttpc /usr/local/bin/uhttpc\n\
         HEALTHCHECK --interval=1s --timeout=3s --start-period=60s \
         CMD [\"/usr/local/bin/uhttpc\", \"--url\", \"http://127.0.0.1:8082/ready\"]\n\
         CMD [ \"processor\" ]\n"
    );
    image("uhttpc");
    Build::of(folder(&[("Dockerfile", &dockerfile)]).path()).run()
}

fn serves(image: &Image, on: &str) {
    let function = json!({"spec": {"runtime": "golang", "handler": "nuclio:builtin"}});
    let container = image.function(function).option(&["--user", "4711:4712", "--read-only"]).start();
    container.wait_healthy();
    let answer = container.get("/");
    assert_eq!((answer.status, answer.text().as_str()), (200, "Built in handler called"), "{on}");
    assert_eq!(container.stop().1, 0, "{on}");
}

#[test]
fn the_static_processor_and_the_probe_run_on_musl_on_old_glibc_and_on_nothing() {
    if !available() {
        return;
    }
    image("processor");
    for on in [base("musl"), base("glibc-2.31"), "scratch".to_owned()] {
        serves(&bare("nuclio/processor:latest-amd64", &on), &on);
    }
}

#[test]
#[ignore = "with scripts/test --full: the unoptimized build is linked with this machine's glibc"]
fn the_dynamic_processor_runs_on_old_glibc() {
    if !available() {
        return;
    }
    image("golang");
    let dockerfile = "FROM nuclio/handler-builder-golang-onbuild:latest-amd64\n";
    let handler = "package main\n\nimport \"github.com/nuclio/nuclio-sdk-go\"\n\n\
        func Handler(context *nuclio.Context, event nuclio.Event) (interface{}, error) { return nil, nil }\n";
    let built = Build::of(folder(&[("Dockerfile", dockerfile), ("handler.go", handler)]).path()).run();
    let on = base("glibc-2.31");
    serves(&bare(&built.name, &on), &on);
}
