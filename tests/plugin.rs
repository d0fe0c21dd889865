//! Handler libraries in C, C++ and Rust, built here and driven as a pool would drive them; and files that are no
//! handler libraries.
//!
//! Without a compiler a language is left out with a line on stderr.
#![expect(clippy::unwrap_used, reason = "a test that cannot prepare has failed")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use nuclio_processor::config::Level;
use nuclio_processor::event::{
    Body, Deadline, Event, EventBody, EventId, Extra, HandlerError, OwnValue, Response, Target, TriggerInfo,
    WorkerId,
};
use nuclio_processor::logging::{LogBuffer, Logger};
use nuclio_processor::runtime::plugin::{
    self, CANCELLED_CLIENT_GONE, CallOutcome, Control, HandlerForm, Library, Loaded, PluginConfig, Pull,
    Worker,
};
use tempfile::TempDir;

/// Runs a compiler; `None`, with the reason, when it is not there or the file does not build.
fn run(command: &mut Command) -> Option<()> {
    match command.output() {
        Ok(output) if output.status.success() => Some(()),
        Ok(output) => panic!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            eprintln!("skipped: {command:?} did not start: {error}");
            None
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| TempDir::new().unwrap()).path()
}

/// A fresh file name; every test has its own libraries, and so its own statics in them.
fn fresh(name: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    folder().join(format!("{}-{name}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn build_c(options: &[&str]) -> Option<PathBuf> {
    let out = fresh("c.so");
    let mut command = Command::new("cc");
    command.args([
        "-std=c11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fPIC",
        "-shared",
        "-D_POSIX_C_SOURCE=200809L",
    ]);
    command.arg("-I").arg(root().join("runtimes/rust/include")).args(options);
    command.arg(root().join("tests/handlers/c/handler.c")).arg("-o").arg(&out);
    run(&mut command).map(|()| out)
}

fn build_cpp() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let out = fresh("cpp.so");
            let mut command = Command::new("c++");
            command.args([
                "-std=c++17",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-fPIC",
                "-shared",
                "-fvisibility=hidden",
            ]);
            command.arg("-I").arg(root().join("runtimes/rust/include"));
            command.arg(root().join("tests/handlers/cpp/handler.cpp")).arg("-o").arg(&out);
            run(&mut command).map(|()| out)
        })
        .clone()
}

fn build_rust() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| build_crate("tests/handlers/rust", "libtest_handler.so")).clone()
}

fn build_crate(folder: &str, library: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("handlers");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--release", "--quiet", "--manifest-path"]);
    command.arg(root().join(folder).join("Cargo.toml")).arg("--target-dir").arg(&target);
    run(&mut command).map(|()| target.join("release").join(library))
}

fn config() -> PluginConfig {
    PluginConfig {
        function_name: "f".into(),
        platform_kind: "local",
        handler: "main:Handler".into(),
        ..PluginConfig::default()
    }
}

fn load(path: &Path) -> Arc<Library> {
    match plugin::load(Some(path), &config()).unwrap() {
        Loaded::Library(library) => library,
        Loaded::Executable(path) => panic!("{} is a program", path.display()),
    }
}

fn refusal(path: &Path) -> String {
    plugin::load(Some(path), &config()).unwrap_err().to_string()
}

fn worker_id(index: usize) -> WorkerId {
    WorkerId { trigger_kind: "http".into(), trigger_name: "default-http".into(), index }
}

fn start(library: &Arc<Library>, index: usize) -> Worker {
    Worker::start(Arc::clone(library), &worker_id(index), Logger::silent()).unwrap()
}

fn worker(path: &Path) -> Worker {
    start(&load(path), 0)
}

fn event(path: &str, body: &'static [u8]) -> Event {
    Event {
        id: EventId::random(),
        trigger: TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "default-http".into() }
            .forever(),
        timestamp: SystemTime::now(),
        target: Target::Http { method: Method::POST, uri: path.parse().unwrap(), path: None },
        header_map: HeaderMap::new(),
        body: EventBody::from(Bytes::from_static(body)),
        log_buffer: None,
        trace: None,
        extra: None,
        web: None,
    }
}

fn call_with(worker: &mut Worker, event: Event, deadline: Deadline) -> CallOutcome {
    worker.call(Box::new(event), &Arc::new(AtomicU8::new(0)), deadline)
}

fn call(worker: &mut Worker, path: &str) -> CallOutcome {
    call_with(worker, event(path, b"the body"), None)
}

/// The answer of a call that must have one.
fn answer(outcome: CallOutcome) -> Response {
    match outcome {
        CallOutcome::Answer(response) => response,
        other => panic!("{other:?}"),
    }
}

/// Status and text of a call that must fail.
fn failure(outcome: CallOutcome) -> (u16, String) {
    match outcome {
        CallOutcome::Failed(HandlerError::Failed { status, message }) => (status.as_u16(), message),
        other => panic!("{other:?}"),
    }
}

fn body(response: Response) -> Bytes {
    match response.body {
        Body::Empty => Bytes::new(),
        Body::Bytes(bytes) => bytes,
        Body::Stream(_) => panic!("a stream"),
    }
}

fn text(outcome: CallOutcome) -> String {
    String::from_utf8(body(answer(outcome)).to_vec()).unwrap()
}

fn stream(outcome: CallOutcome) -> (Response, Pull) {
    match outcome {
        CallOutcome::Stream { head, pull } => (head, pull),
        other => panic!("{other:?}"),
    }
}

fn drain(mut pull: Pull) -> (String, Option<String>) {
    let mut all = Vec::new();
    loop {
        match pull.next() {
            Ok(Some(chunk)) => all.extend_from_slice(&chunk),
            Ok(None) => return (String::from_utf8(all).unwrap(), None),
            Err(error) => {
                assert!(matches!(pull.next(), Ok(None)), "a failed stream has ended");
                return (String::from_utf8(all).unwrap(), Some(error.to_string()));
            }
        }
    }
}

/// What every handler library of the three does alike.
fn check_common(path: &Path) {
    let worker = &mut worker(path);
    let empty = answer(call(worker, "/empty"));
    assert_eq!((empty.status, empty.no_ack, body(empty).len()), (0, false, 0));
    assert_eq!(text(call(worker, "/echo")), "the body");
    assert_eq!(text(call(worker, "/owned")), "the body");
    assert_eq!(failure(call(worker, "/nothing")), (404, "unknown behaviour".into()));
    assert_eq!(drain(stream(call(worker, "/stream")).1), ("chunk3;chunk2;chunk1;".into(), None));
    let (pieces, error) = drain(stream(call(worker, "/stream-fails")).1);
    assert_eq!(pieces, "chunk3;chunk2;chunk1;");
    assert!(error.unwrap().contains("stream failed with -"));
    // A client that leaves before the end, or before the start.
    let (_, mut pull) = stream(call(worker, "/stream"));
    assert!(pull.next().unwrap().is_some());
    drop(pull);
    drop(call(worker, "/stream"));
    assert_eq!(text(call(worker, "/echo")), "the body");
}

static LARGE: [u8; 100_000] = [b'l'; 100_000];

/// Large bodies stay where they are, and outlive worker and next events.
fn check_large_bodies(path: &Path) {
    let mut worker = worker(path);
    for way in ["/echo", "/owned"] {
        let request = Bytes::from(LARGE.to_vec());
        let at = request.as_ptr();
        let mut large = event(way, b"");
        large.body = EventBody::from(request);
        let kept = body(answer(call_with(&mut worker, large, None)));
        assert_eq!(kept.as_ptr() == at, way == "/echo");
        assert_eq!(text(call(&mut worker, "/echo")), "the body");
        assert_eq!(kept, &LARGE[..]);
    }
    let mut large = event("/echo", b"");
    large.body = EventBody::from(Bytes::from(LARGE.to_vec()));
    let kept = body(answer(call_with(&mut worker, large, None)));
    worker.stop();
    let kept = std::thread::spawn(move || {
        assert_eq!(kept, &LARGE[..]);
        kept
    });
    drop(kept.join().unwrap());
}

#[test]
fn handlers_in_c_answer() {
    let Some(path) = build_c(&[]) else { return };
    check_common(&path);
    check_large_bodies(&path);
    let worker = &mut worker(&path);
    let response = answer(call(worker, "/respond"));
    assert_eq!(response.status, 201);
    assert_eq!(response.content_type.as_ref().unwrap(), "text/x-test");
    let values: Vec<&HeaderValue> = response.headers.get_all("x-a").iter().collect();
    assert_eq!(values, ["1", "a  b"]);
    assert_eq!(response.headers.len(), 2);
    assert_eq!(body(response), "fixed");
    assert_eq!(failure(call(worker, "/error")), (500, "it broke".into()));
    assert_eq!(failure(call(worker, "/error-status")), (404, "no such thing".into()));
    assert_eq!(failure(call(worker, "/panic")), (500, "Caught panic: boom".into()));
    assert!(matches!(call(worker, "/unsupported"), CallOutcome::Failed(HandlerError::Unsupported)));
    assert!(answer(call(worker, "/no-ack")).no_ack);
    assert_eq!(body(answer(call(worker, "/large-static"))), vec![b'x'; 4096]);
    assert!(worker.control(Control::Drain).is_ok());
    assert!(worker.control(Control::Continue).is_err());
    assert!(worker.control(Control::Terminate).is_ok());
}

#[test]
fn what_no_plugin_may_answer_is_contained() {
    let Some(path) = build_c(&[]) else { return };
    let worker = &mut worker(&path);
    for (way, expected) in [
        ("code", "returned -77"),
        ("body", "a body at"),
        ("headers", "headers at"),
        ("stream", "without `next`"),
    ] {
        match call(worker, &format!("/broken/{way}")) {
            CallOutcome::Broken(HandlerError::Lost(message)) => {
                assert!(message.contains(expected), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }
    let (status, message) = failure(call(worker, "/broken/status"));
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(message.contains("status 42"), "{message}");
}

#[test]
fn plugins_reach_the_processor() {
    let Some(path) = build_c(&[]) else { return };
    let mut worker = start(&load(&path), 7);
    let mut asked = event("/describe?a+b=%41&c=d&a", b"");
    asked.header_map.append("x-thing", HeaderValue::from_static("one"));
    asked.header_map.append("x-thing", HeaderValue::from_static("two"));
    let cancelled = Arc::new(AtomicU8::new(CANCELLED_CLIENT_GONE));
    let outcome = worker.call(Box::new(asked), &cancelled, Some(Instant::now() + Duration::from_secs(1)));
    assert_eq!(
        text(outcome),
        "worker=7 handler=main:Handler header=one absent=1 fields=3 first=a b:A cancelled=2 ack=-3 huge=1 \
         name0=X-Thing deadline=1 shard=-1"
    );
    // Of an event that brings headers itself those count, as in its list.
    let mut timer = event("/describe?a", b"");
    timer.header_map.append("x-absent", HeaderValue::from_static("of HTTP"));
    let own = vec![("x-Thing".to_owned(), OwnValue::from(&serde_json::json!({"n": 1})))];
    timer.extra = Some(Box::new(Extra { headers: Some(own), ..Extra::default() }));
    let described = text(call_with(&mut worker, timer, None));
    assert!(described.contains(r#" header={"n":1} absent=1 "#), "{described}");
    assert!(described.contains(" name0=x-Thing "), "{described}");
    let mut logged = event("/log", b"");
    let buffer = Arc::new(LogBuffer::new(Level::Debug, "default-http"));
    logged.log_buffer = Some(Arc::clone(&buffer));
    assert_eq!(text(call_with(&mut worker, logged, None)), "logged");
    let records: serde_json::Value = serde_json::from_str(&buffer.header()).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 1, "{records}");
    let shown = records[0].to_string();
    for part in
        ["hello from C", r#""t":"v""#, r#""i":-5"#, r#""f":1.5"#, r#""b":true"#, "[1,{}]", r#""n":null"#]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn every_owned_answer_is_released_once() {
    let Some(path) = build_c(&[]) else { return };
    let library = load(&path);
    let mut worker = start(&library, 0);
    let mut large = event("/owned", b"");
    large.body = EventBody::from(Bytes::from_static(&LARGE));
    let kept = body(answer(call_with(&mut worker, large, None)));
    for way in ["/owned", "/error", "/stream", "/stream-fails", "/echo", "/respond", "/empty"] {
        drop(call(&mut worker, way));
    }
    let stream = stream(call(&mut worker, "/stream"));
    assert!(Worker::start(Arc::clone(&library), &worker_id(13), Logger::silent()).is_err());
    assert_eq!(text(call(&mut worker, "/counts")), "7 5");
    let second = kept.clone();
    drop(kept);
    assert_eq!(text(call(&mut worker, "/counts")), "7 5");
    drop(second);
    drop(stream);
    assert_eq!(text(call(&mut worker, "/counts")), "7 7");
    assert!(!Library::stop(Arc::clone(&library)), "its worker is still there");
    worker.stop();
    assert!(Library::stop(library));
}

#[test]
fn exceptions_of_cpp_handlers_are_contained() {
    let Some(path) = build_cpp() else { return };
    check_common(&path);
    check_large_bodies(&path);
    let library = load(&path);
    assert_eq!(library.language(), "c++");
    let mut worker = start(&library, 0);
    let worker = &mut worker;
    assert_eq!(failure(call(worker, "/error")), (500, "it broke".into()));
    assert_eq!(failure(call(worker, "/error-status")), (404, "no such thing".into()));
    assert_eq!(failure(call(worker, "/panic")), (500, "Caught panic: boom".into()));
    assert_eq!(
        failure(call(worker, "/panic-int")),
        (500, "Caught panic: an exception of unknown type".into())
    );
    let response = answer(call(worker, "/respond"));
    assert_eq!((response.status, &response.headers["x-a"]), (201, &HeaderValue::from_static("1")));
    let mut asked = event("/describe?a=1&b=%20", b"");
    asked.header_map.append("x-thing", HeaderValue::from_static("one"));
    assert_eq!(text(call_with(worker, asked, None)), "a=1;b= ;one0");
    assert_eq!(text(call(worker, "/log")), "logged");
    assert!(worker.control(Control::Drain).is_ok());
    assert!(worker.control(Control::Continue).is_err());
    for (index, expected) in [(13, "no worker 13 today"), (14, "Caught panic: odd worker")] {
        let error = Worker::start(Arc::clone(&library), &worker_id(index), Logger::silent()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

fn behave(worker: &mut Worker, behaviour: &str) -> CallOutcome {
    let mut event = event("/a%20b?x=1&x=2", b"the body");
    event.header_map.append("x-behaviour", HeaderValue::from_str(behaviour).unwrap());
    call_with(worker, event, None)
}

#[test]
fn panics_of_rust_handlers_are_contained() {
    let Some(path) = build_rust() else { return };
    let library = load(&path);
    assert_eq!(library.language(), "rust");
    let mut worker = start(&library, 0);
    let worker = &mut worker;
    assert_eq!(
        failure(behave(worker, r#"{"kind": "panic", "message": "boom"}"#)),
        (500, "Caught panic: boom".into())
    );
    assert_eq!(text(call(worker, "/echo")), "the body");
    assert!(worker.control(Control::Drain).is_ok());
    assert!(worker.control(Control::Continue).is_err());
    for (index, expected) in [(13, "no worker 13 today"), (14, "Caught panic: odd worker")] {
        let error = Worker::start(Arc::clone(&library), &worker_id(index), Logger::silent()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn handlers_in_rust_answer() {
    let Some(path) = build_rust() else { return };
    check_common(&path);
    check_large_bodies(&path);
    let worker = &mut worker(&path);
    let echoed = text(behave(
        worker,
        r#"{"kind": "echo", "fields": ["method", "body", "size", "fields", "shard_id", "trigger", "url"]}"#,
    ));
    let echoed: serde_json::Value = serde_json::from_str(&echoed).unwrap();
    assert_eq!(
        echoed,
        serde_json::json!({
            "method": "POST", "body": "the body", "size": 8, "fields": {"x": "2"}, "shard_id": -1,
            "trigger": {"kind": "http", "name": "default-http"}, "url": "",
        })
    );
    let response = answer(behave(
        worker,
        r#"{"kind": "respond", "status": 700, "body_b64": "AAE=", "headers": {"x-b": "2"}, "int_headers": {"x-n": 5}}"#,
    ));
    assert_eq!((response.status, &response.headers["x-n"]), (700, &HeaderValue::from_static("5")));
    assert_eq!(body(response), [0, 1].as_slice());
    assert_eq!(failure(behave(worker, r#"{"kind": "error", "message": "bad"}"#)), (500, "bad".into()));
    let with_status = r#"{"kind": "error_status", "status": 202, "message": "Accepted"}"#;
    assert_eq!(failure(behave(worker, with_status)), (202, "Accepted".into()));
    assert_eq!(body(answer(call(worker, "/scratch"))), vec![b's'; 2000]);
    let nested = r#"{"kind": "log", "entries": [{"level": "info", "message": "i", "with": {"n": 5}}],
        "then": {"kind": "sleep", "ms": 1, "then": {"kind": "string", "body": "hi"}}}"#;
    assert_eq!(text(behave(worker, &nested.replace('\n', ""))), "hi");
}

#[test]
fn examples_greet() {
    let include = root().join("runtimes/rust/include");
    let compile = |compiler: &str, standard: &str, source: &str| {
        let out = fresh("hello.so");
        let mut command = Command::new(compiler);
        command.args([
            standard,
            "-Wall",
            "-Wextra",
            "-Werror",
            "-O2",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
            "-I",
        ]);
        command.arg(&include).arg(root().join(source)).arg("-o").arg(&out);
        run(&mut command).map(|()| out)
    };
    let libraries = [
        compile("cc", "-std=c11", "examples/c/hello/hello.c"),
        compile("c++", "-std=c++17", "examples/cpp/hello/hello.cpp"),
        build_crate("examples/rust/hello", "libhello.so"),
    ];
    for path in libraries.into_iter().flatten() {
        let mut worker = worker(&path);
        let greeting = text(call_with(&mut worker, event("/", b"World"), None));
        assert!(greeting.starts_with("Hello, World"), "{greeting}");
    }
}

#[test]
fn bytes_of_another_event_are_no_answer() {
    let Some(path) = build_rust() else { return };
    let worker = &mut worker(&path);
    call(worker, "/keep");
    assert_eq!(failure(call(worker, "/kept")), (500, "the answer holds bytes of another event".into()));
}

#[test]
fn workers_run_at_the_same_time() {
    let Some(path) = build_rust() else { return };
    let library = load(&path);
    let threads: Vec<_> = (0..4)
        .map(|index| {
            let mut worker = start(&library, index);
            std::thread::spawn(move || {
                for _ in 0..2000 {
                    assert_eq!(text(call(&mut worker, "/owned")), "the body");
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(Library::stop(library));
}

#[test]
fn handlers_with_a_fixed_thread_are_called_on_it() {
    let Some(path) = build_c(&["-DTEST_FEATURES=NH_FEATURE_FIXED_THREAD"]) else { return };
    check_common(&path);
    check_large_bodies(&path);
    let library = load(&path);
    let error = Worker::start(Arc::clone(&library), &worker_id(13), Logger::silent()).unwrap_err();
    assert!(error.to_string().contains("no worker 13 today"), "{error}");
    let mut worker = start(&library, 0);
    let first = text(call(&mut worker, "/thread"));
    let mut worker = std::thread::spawn(move || {
        assert_eq!(text(call(&mut worker, "/thread")), first);
        worker
    })
    .join()
    .unwrap();
    assert!(worker.control(Control::Drain).is_ok());
    let (_, mut pull) = stream(call(&mut worker, "/stream"));
    worker.stop();
    assert!(pull.next().is_err(), "its worker is gone");
}

#[test]
fn older_plugins_with_shorter_tables_are_fine() {
    // Everything after `handle` is cut off.
    let Some(path) = build_c(&["-DTEST_TABLE_SIZE=56"]) else { return };
    let mut worker = worker(&path);
    assert_eq!(text(call(&mut worker, "/echo")), "the body");
    assert!(worker.control(Control::Continue).is_ok(), "no callback, nothing to do");
    let Some(without_handle) = build_c(&["-DTEST_TABLE_SIZE=48"]) else { return };
    assert!(refusal(&without_handle).contains("no `handle`"));
}

#[test]
fn versions_start_failures_and_run_times_have_their_messages() {
    let Some(other) = build_c(&["-DTEST_ABI_VERSION=(2u<<16|3u)"]) else { return };
    let message = refusal(&other);
    assert!(message.contains("version 2.3") && message.contains("version 1.2"), "{message}");
    let Some(minor) = build_c(&["-DTEST_ABI_VERSION=(1u<<16|9u)"]) else { return };
    load(&minor);
    let missing = PluginConfig { handler: "missing:Handler".into(), ..config() };
    let error = plugin::load(Some(&minor), &missing).unwrap_err().to_string();
    assert!(error.contains("there is no handler missing:Handler"), "{error}");
    let Some(first) = build_c(&["-DTEST_FEATURES=NH_FEATURE_OWNS_RUNTIME"]) else { return };
    let Some(second) = build_c(&["-DTEST_FEATURES=(NH_FEATURE_OWNS_RUNTIME|NH_FEATURE_FIXED_THREAD)"]) else {
        return;
    };
    assert!(!load(&first).wants_fixed_thread());
    assert!(refusal(&second).contains("second language run-time"));
}

/// Writes a file and says why it is refused.
fn refusal_of(name: &str, bytes: &[u8]) -> String {
    let path = fresh(name);
    std::fs::write(&path, bytes).unwrap();
    refusal(&path)
}

#[test]
fn files_that_are_no_libraries_are_named_for_what_they_are() {
    assert!(refusal(Path::new("/nonexistent/handler.so")).contains("there is no /nonexistent/handler.so"));
    assert!(refusal_of("empty.so", b"").contains("is empty"));
    assert!(refusal_of("script.so", b"#!/bin/sh\nexit 0\n").contains("is a script"));
    assert!(refusal_of("text.so", b"hello").contains("is no ELF file"));
    assert!(refusal(folder()).contains("failed to read"));
    let Some(path) = build_c(&[]) else { return };
    let good = std::fs::read(path).unwrap();
    assert!(refusal_of("cut.so", &good[..10]).contains("its header is cut"));
    for len in [20, 63, 64, 200, 1000, good.len() / 2, good.len() - 1] {
        let message = refusal_of("cut.so", &good[..len]);
        assert!(message.contains("damaged ELF file"), "{len}: {message}");
    }
    let patch = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        refusal_of("patched.so", &bytes)
    };
    assert!(patch(18, 243).contains("built for 64-bit little-endian RISC-V"));
    assert!(patch(4, 1).contains("built for 32-bit"));
    assert!(patch(5, 2).contains("big-endian"));
}

#[test]
fn executables_are_told_from_libraries() {
    let source = fresh("main.c");
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    for options in [&["-pie", "-fPIE"][..], &["-no-pie"], &["-static"], &["-static-pie", "-fPIE"]] {
        let out = fresh("main");
        let built = Command::new("cc").args(options).arg(&source).arg("-o").arg(&out).output();
        if !built.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: cc {options:?} does not work here");
            continue;
        }
        assert!(matches!(plugin::load(Some(&out), &config()), Ok(Loaded::Executable(path)) if path == out));
        let as_library = PluginConfig { form: HandlerForm::Library, ..config() };
        let error = plugin::load(Some(&out), &as_library).unwrap_err().to_string();
        assert!(error.contains("handlerForm asks for a library"), "{error}");
    }
    let Some(library) = build_c(&[]) else { return };
    let as_executable = PluginConfig { form: HandlerForm::Executable, ..config() };
    let error = plugin::load(Some(&library), &as_executable).unwrap_err().to_string();
    assert!(error.contains("handlerForm asks for an executable"), "{error}");
}

#[test]
fn libraries_without_the_symbols_are_refused() {
    let source = fresh("other.c");
    std::fs::write(&source, "int other(void) { return 0; }\n").unwrap();
    let out = fresh("other.so");
    let mut command = Command::new("cc");
    if run(command.args(["-shared", "-fPIC"]).arg(&source).arg("-o").arg(&out)).is_none() {
        return;
    }
    let message = refusal(&out);
    assert!(message.contains("does not export nh_abi_version and nh_plugin_v1"), "{message}");
    // The note that every Go build leaves.
    let assembly = fresh("note.s");
    std::fs::write(
        &assembly,
        ".section .note.go.buildid, \"a\", @note\n.long 4, 4, 4\n.asciz \"Go\\0\"\n.long 0\n",
    )
    .unwrap();
    let out = fresh("go.so");
    let mut command = Command::new("cc");
    run(command.args(["-shared", "-fPIC"]).arg(&source).arg(&assembly).arg("-o").arg(&out)).unwrap();
    let message = refusal(&out);
    assert!(message.contains("-buildmode=plugin") && message.contains("rebuild"), "{message}");
}

#[test]
fn go_plugins_are_refused_with_advice() {
    if Command::new("go").arg("version").output().is_err() {
        eprintln!("skipped: no go");
        return;
    }
    let package = fresh("goplugin");
    std::fs::create_dir(&package).unwrap();
    std::fs::write(package.join("go.mod"), "module handler\n").unwrap();
    std::fs::write(
        package.join("main.go"),
        "package main\n\nfunc Handler() int { return 1 }\n\nfunc main() {}\n",
    )
    .unwrap();
    let out = fresh("plugin.so");
    let mut command = Command::new("go");
    command
        .args(["build", "-buildmode=plugin", "-o"])
        .arg(&out)
        .current_dir(&package)
        .env("CGO_ENABLED", "1");
    command.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=mod");
    run(&mut command).unwrap();
    let message = refusal(&out);
    assert!(message.contains("-buildmode=plugin"), "{message}");
}

/// `cargo test --release --test plugin cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn cost_of_a_call() {
    let large: &'static [u8] = &LARGE[..16_384];
    for (language, path) in [("rust", build_rust()), ("c", build_c(&["-O2"])), ("c++", build_cpp())] {
        let Some(path) = path else { continue };
        let mut worker = worker(&path);
        let dropping = (0..2000).map(|_| measure_drop()).min().unwrap();
        eprintln!("dropping an event with 8 headers: {dropping} ns");
        for (way, headers, sent) in [
            ("/empty", 0, &b""[..]),
            ("/empty", 8, b""),
            ("/echo", 8, &LARGE[..100]),
            ("/owned", 8, &LARGE[..100]),
            ("/echo", 8, large),
            ("/owned", 8, large),
        ] {
            let best = (0..2000).map(|_| measure(&mut worker, way, headers, sent)).min().unwrap();
            eprintln!("{language} {way} {headers} headers {} bytes: {best} ns per call", sent.len());
        }
    }
}

fn measure_drop() -> u128 {
    let events: Vec<Event> = (0..32).map(|_| bench_event("/empty", 8, b"")).collect();
    let start = Instant::now();
    drop(events);
    start.elapsed().as_nanos() / 32
}

/// Nanoseconds per call, over some calls; making the events and dropping the answers is not measured.
fn measure(worker: &mut Worker, way: &str, headers: usize, sent: &'static [u8]) -> u128 {
    let events: Vec<Event> = (0..32).map(|_| bench_event(way, headers, sent)).collect();
    let (count, cancelled) = (events.len() as u128, Arc::new(AtomicU8::new(0)));
    let mut outcomes = Vec::with_capacity(events.len());
    let start = Instant::now();
    for event in events {
        outcomes.push(worker.call(Box::new(event), &cancelled, None));
    }
    start.elapsed().as_nanos() / count
}

fn bench_event(way: &str, headers: usize, sent: &'static [u8]) -> Event {
    const NAMES: [&str; 8] = [
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "content-type",
        "content-length",
        "x-request-id",
        "x-forwarded-for",
    ];
    let mut event = event(way, sent);
    for name in &NAMES[..headers] {
        event.header_map.append(*name, HeaderValue::from_static("some value of a header"));
    }
    event
}
