//! Compiled handlers as programs: what differs from the same handler as a library.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::compiled::{program, rust_program, static_library};
use crate::golang_build::Form;
use crate::harness::{Client, Setup, wait_until};

const MUSL: &str = "x86_64-unknown-linux-musl";

/// The test handler in C as a program.
fn c_program() -> Option<Setup> {
    program("tests/handlers/c/handler.c", &[]).map(|file| Setup::library(&file))
}

#[test]
fn a_program_asks_the_host_and_logs_as_a_library_does() {
    let Some(setup) = c_program() else { return };
    let processor = setup.spec(json!({"eventTimeout": "1m"})).start();
    let mut client = Client::connect(processor.http());
    client.send(b"GET /describe?a%20b=c%26d&x HTTP/1.1\r\nHost: t\r\nx-thing: here\r\n\r\n");
    let text = client.read_answer(false).unwrap().text();
    let wanted = "worker=0 handler=main:Handler header=here absent=1 fields=2 first=a b:c&d cancelled=0 ack=-3 huge=1 \
                  name0=Host deadline=1 shard=-1";
    assert_eq!(text, wanted);
    assert_eq!(processor.get("/log").text(), "logged");
    let record = processor.stdout.wait_for_record("hello from C");
    assert!(record["more"].is_object(), "{record}");
    processor.stdout.wait_for_record("without event");
}

#[test]
fn a_program_is_told_of_the_end_and_ends_by_itself() {
    let Some(setup) = c_program() else { return };
    let mut processor = setup.start();
    assert_eq!(processor.get("/empty").status, 200);
    processor.signal(15);
    assert_eq!(processor.end().code(), Some(0));
    processor.stdout.wait_for_record("terminating");
}

#[test]
fn a_program_sees_that_its_client_has_left_and_that_its_time_is_over() {
    let Some(setup) = c_program() else { return };
    let processor = setup.spec(json!({"eventTimeout": "3s"})).start();
    let mut client = Client::connect(processor.http());
    client.send_post("/until-cancelled", b"");
    processor.stdout.wait_for_record("waiting");
    client.reset();
    processor.stderr.wait_for("the end", |line| line.contains("told: client gone"));
    assert_eq!(processor.post("/echo", "on").text(), "on");
    assert_eq!(processor.all_restarts(), 0);
    let answer = processor.get("/until-cancelled");
    assert_eq!(answer.status, 408);
    processor.stderr.wait_for("the end", |line| line.contains("told: deadline"));
}

/// It has the socket's descriptor, so that it could answer, and take the events of the worker.
#[test]
fn what_a_program_forks_has_no_part_in_its_connection_and_what_it_starts_inherits_nothing() {
    let Some(file) = program("tests/handlers/c/fork.c", &["-D_GNU_SOURCE"]) else { return };
    let processor = Setup::library(&file).start();
    for _ in 0..3 {
        for (path, text) in [("/", "parent 1 0"), ("/logs", "parent 1 0"), ("/killed", "parent 0 15")] {
            assert_eq!(processor.get(path).text(), text, "{path}");
        }
    }
    let ignored = processor.get("/started").text();
    let ignored = u64::from_str_radix(ignored.trim().trim_start_matches("SigIgn:").trim(), 16).unwrap();
    let of = |signal: rustix::process::Signal| 1 << (signal.as_raw() - 1);
    assert_eq!(
        ignored & (of(rustix::process::Signal::INT) | of(rustix::process::Signal::PIPE)),
        0,
        "{ignored:x}"
    );
    assert_eq!(processor.all_restarts(), 0);
}

#[test]
fn a_program_that_breaks_the_abi_fails_its_event_and_is_replaced() {
    let Some(setup) = c_program() else { return };
    let processor = setup.start();
    for (round, path) in
        ["/broken/code", "/broken/body", "/broken/headers", "/broken/stream"].iter().enumerate()
    {
        let answer = processor.get(path);
        assert!(answer.status == 500 && answer.text().contains("the handler"), "{path}: {}", answer.text());
        wait_until("it is replaced", || processor.all_restarts() == round + 1);
        assert_eq!(processor.post("/echo", path).text(), *path);
    }
}

#[test]
fn what_a_program_says_of_its_start_is_shown() {
    let Some(setup) = c_program() else { return };
    let mut setup = setup.no_wait();
    setup.function["spec"]["handler"] = json!("missing:Handler");
    let mut processor = setup.start();
    assert_eq!(processor.end().code(), Some(1));
    let said = processor.stdout.text() + &processor.stderr.text();
    assert!(said.contains("there is no handler missing:Handler"), "{said}");
}

#[test]
fn a_program_that_nobody_has_started_says_what_it_is_for() {
    let output = Command::new(rust_program()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("handler for the processor"), "{said}");
}

#[test]
fn programs_are_static_with_musl() {
    let have = |program: &str| Command::new(program).arg("--version").output().is_ok();
    let sysroot = Command::new("rustc").args(["--print", "target-libdir", "--target", MUSL]).output();
    let libraries = sysroot.map(|found| String::from_utf8_lossy(&found.stdout).trim().to_owned());
    let unwinder = Path::new(&libraries.unwrap_or_default()).join("self-contained/libunwind.a");
    if !unwinder.is_file() || !have("musl-gcc") {
        println!("skipped: no {MUSL} (rustup target add {MUSL}) or no musl-gcc (musl-tools)");
        return;
    }
    let rust = crate::compiled::rust_for(MUSL, "echo");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("echo-musl");
    let mut command = Command::new("musl-gcc");
    command.args(["-std=c11", "-static", "-Iruntimes/rust/include", "tests/handlers/c/echo/handler.c"]);
    command
        .arg("runtimes/rust/exec/nh_main.c")
        .arg(static_library(Some(MUSL)))
        .arg(unwinder)
        .arg("-o")
        .arg(&out);
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for file in [rust, out] {
        let headers = Command::new("readelf").arg("-l").arg(&file).output().unwrap();
        assert!(
            !String::from_utf8_lossy(&headers.stdout).contains("INTERP"),
            "{} is not static",
            file.display()
        );
        let processor = Setup::library(&file).start();
        assert_eq!(processor.post("/", "as it was").text(), "as it was");
    }
}

#[test]
fn a_program_runs_once_per_worker() {
    let Some(file) = crate::compiled::fixture("rust", "echo", Form::Executable) else { return };
    let processor = Setup::library(&file).trigger(json!({"numWorkers": 4})).start();
    assert_eq!(processor.children().len(), 4, "a process per worker");
    assert_eq!(processor.post("/", "x").text(), "x");
}
