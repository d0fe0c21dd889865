//! Wrappers of shim protocol 1 in every language that has none of our making in images: small ones with the habits of
//! those of the Go processor, in real interpreters.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use nuclio_processor::runtime::shim::dialects;
use nuclio_processor::runtime::shim::protocol::v2::ControlCode;
use nuclio_processor::runtime::shim::v1::Dialect;
use nuclio_processor::runtime::shim::worker::Command as WorkerCommand;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{PATIENCE, Setup, python, wait_until};
use crate::languages::nodejs;
use crate::v1_bench::{Bench, text};

/// One of them.
struct Sample {
    name: &'static str,
    dialect: &'static Dialect,
    /// The interpreter. `None`: it is not on this machine, which has been said.
    program: fn() -> Option<&'static str>,
    /// Folder under `tests/handlers`.
    folder: &'static str,
    /// The wrapper in the folder of a test, made of that folder. `None`: it cannot be, which has been said.
    make: fn(&Path) -> Option<&'static str>,
    handler: &'static str,
    /// What follows path and size in answers.
    more: &'static str,
}

const SAMPLES: &[Sample] = &[
    Sample {
        name: "nodejs",
        dialect: &dialects::NODEJS,
        program: nodejs,
        folder: "nodejs",
        make: |_| Some("wrapper.js"),
        handler: "handler",
        more: "",
    },
    Sample {
        name: "java",
        dialect: &dialects::JAVA,
        program: || found("java", "-version"),
        folder: "java",
        make: jar,
        handler: "any.jar:Wrapper$Echo",
        more: " none",
    },
    Sample {
        name: "ruby",
        dialect: &dialects::RUBY,
        program: || found("ruby", "--version"),
        folder: "ruby",
        make: |_| Some("wrapper.rb"),
        handler: "handler:run",
        more: "",
    },
    Sample {
        name: "dotnetcore",
        dialect: &dialects::DOTNETCORE,
        program: || Some(python()),
        folder: "dotnetcore",
        make: |_| Some("wrapper.py"),
        handler: "nuclio:run",
        more: "",
    },
];

fn found(program: &'static str, argument: &str) -> Option<&'static str> {
    let works = Command::new(program).arg(argument).output().is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: no {program}");
    }
    works.then_some(program)
}

/// Compiles the Java wrapper.
fn jar(folder: &Path) -> Option<&'static str> {
    found("javac", "-version")?;
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(folder).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("javac", &["-d", "classes", "Wrapper.java"]);
    run("jar", &["cfe", "wrapper.jar", "Wrapper", "-C", "classes", "."]);
    Some("wrapper.jar")
}

impl Sample {
    fn folder(&self) -> (TempDir, Option<&'static str>) {
        let folder = tempfile::tempdir().unwrap();
        let from = format!("{}/tests/handlers/{}/wrapper_v1", env!("CARGO_MANIFEST_DIR"), self.folder);
        for entry in std::fs::read_dir(from).unwrap().flatten() {
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let file = (self.make)(folder.path());
        (folder, file)
    }

    async fn start(&self, environment: &[(&str, &str)], handler: &str) -> Option<Result<Bench, String>> {
        let program = (self.program)()?;
        let (folder, file) = self.folder();
        println!("{}", self.name);
        Some(Bench::start(folder, file?, self.dialect, program, environment, handler).await)
    }
}

async fn each(test: impl AsyncFn(&Sample, Bench)) {
    for sample in SAMPLES {
        let environment = [("NUCLIO_FUNCTION_HANDLER", sample.handler)];
        if let Some(bench) = sample.start(&environment, sample.handler).await {
            tokio::time::timeout(PATIENCE, test(sample, bench.unwrap())).await.expect(sample.name);
        }
    }
}

#[tokio::test]
async fn events_of_any_size_are_answered_one_after_the_other() {
    each(async |sample, bench| {
        for size in [1, 40_000, 0, 65_536, 700_000, 3] {
            let answer =
                bench.submit_body("/gr\u{fc}\u{df}e/\u{1f600}", Bytes::from(vec![b'x'; size])).await.unwrap();
            let wanted = format!("/gr\u{fc}\u{df}e/\u{1f600} {size}{}", sample.more);
            let answer = text(answer);
            // The Java sample does not undo the escapes of JSON.
            let tail = format!(" {size}{}", sample.more);
            let same = answer == wanted || sample.name == "java" && answer.ends_with(&tail);
            assert!(same, "{}: {answer}", sample.name);
        }
        // Waiting together, they are written one at a time.
        let many: Vec<_> = (0..8).map(|number| bench.submit(&format!("/{number}"))).collect();
        for (number, reply) in many.into_iter().enumerate() {
            assert_eq!(text(reply.await.unwrap()), format!("/{number} 5{}", sample.more), "{}", sample.name);
        }
    })
    .await;
}

#[tokio::test]
async fn wrappers_without_callbacks_drain_at_once_and_end_with_their_connection() {
    each(async |sample, mut bench| {
        bench.control(ControlCode::Drain, PATIENCE).await.await.unwrap().unwrap();
        let mut during = bench.submit("/during");
        tokio::task::yield_now().await;
        assert!(during.try_recv().is_err(), "{}: a drained worker gets no event", sample.name);
        bench.control(ControlCode::Continue, PATIENCE).await.await.unwrap().unwrap();
        assert_eq!(text(during.await.unwrap()), format!("/during 5{}", sample.more));
        bench.control(ControlCode::Terminate, PATIENCE).await.await.unwrap().unwrap();
        bench.running.commands.send(WorkerCommand::Close).await.unwrap();
        let status = bench.running.process.exited(PATIENCE).await;
        assert!(status.is_some(), "{} goes on", sample.name);
    })
    .await;
}

#[tokio::test]
async fn a_java_wrapper_that_cannot_load_its_handler_fails_the_start_with_its_words() {
    let java = SAMPLES.iter().find(|sample| sample.name == "java").unwrap();
    let Some(bench) = java.start(&[], "Missing").await else { return };
    let error = bench.err().unwrap();
    assert!(error.contains("exited with code 1") && error.contains("no class Missing"), "{error}");
}

#[test]
fn a_nodejs_wrapper_of_an_image_serves_large_bodies_and_its_death_costs_one_event() {
    let Some(setup) = Setup::nodejs(include_str!("../handlers/nodejs/wrapper_v1/handler.js")) else { return };
    setup.write("wrapper.js", include_str!("../handlers/nodejs/wrapper_v1/wrapper.js"));
    let path = setup.directory.path().join("wrapper.js").display().to_string();
    let processor =
        setup.env("NUCLIO_NODEJS_WRAPPER_PATH", &path).spec(json!({"eventTimeout": "20s"})).start();
    let body = "x".repeat(3_000_000);
    assert_eq!(processor.post("/large", &body).text(), "/large 3000000");
    let thrown = processor.post("/throw", "");
    assert_eq!((thrown.status, thrown.text().as_str()), (500, "Error: thrown"));
    // It may have answered before it died.
    processor.post("/reject", "");
    wait_until("the wrapper has been replaced", || processor.restarts("exit") == 1);
    processor.wait_ready();
    assert_eq!(processor.post("/after", "1").text(), "/after 1");
    let record = processor.stdout.wait_for_record("called");
    assert_eq!(record["more"]["path"], "/large");
}
