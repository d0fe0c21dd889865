//! Heap allocations of the processor per event, counted: the whole processor runs inside of this program, whose
//! allocator counts. The client allocates nothing, so all that is counted is the processor's.
//!
//! An allocation more per event fails here. Whoever needs one raises the bound and says in the commit why.
#![allow(clippy::disallowed_methods, reason = "tests may read their environment")]
#![allow(clippy::print_stdout, reason = "a test that cannot run says so, the others what they found")]
#![allow(clippy::unwrap_used, reason = "a test that cannot prepare has failed")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use nuclio_processor::app::{App, Purpose};
use nuclio_processor::config::{Config, Env};
use nuclio_processor::logging::sink::Writer;
use nuclio_processor::reaper::Children;
use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, which counts; what grows in place counts as well.
struct Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
// SAFETY: everything is the system allocator's work; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes as u64, Relaxed);
}

/// What one event took on average.
#[derive(Debug, Clone, Copy)]
struct PerEvent {
    allocations: f64,
    bytes: f64,
}

/// One processor counts at a time.
static ONE: Mutex<()> = Mutex::new(());

/// A processor in this process.
struct Processor {
    port: u16,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _directory: TempDir,
}

impl Processor {
    /// `spec`: of the function, with its runtime and handler. `environment`: what it would find in the process's.
    fn start(
        mut spec: serde_json::Value,
        workers: usize,
        environment: Vec<(&'static str, String)>,
        files: &[(&str, &str)],
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        spec["triggers"]["http"] =
            json!({"kind": "http", "numWorkers": workers, "url": format!("127.0.0.1:{port}")});
        let function = write(
            &directory,
            "processor.yaml",
            &json!({"metadata": {"name": "f"}, "spec": spec}).to_string(),
        );
        let platform = json!({
            "webAdmin": {"enabled": false},
            "healthCheck": {"enabled": false},
            "logger": {"sinks": {"out": {"kind": "stdout"}}, "functions": [{"level": "warn", "sink": "out"}]},
        });
        let platform = write(&directory, "platform.yaml", &platform.to_string());
        files.iter().for_each(|(name, text)| drop(write(&directory, name, text)));
        let folder = directory.path().display().to_string();
        let environment: Vec<_> =
            environment.into_iter().map(|(name, value)| (name, value.replace("{folder}", &folder))).collect();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (ready, is_ready) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let find = |name: &str| {
                environment.iter().find(|(other, _)| *other == name).map(|(_, value)| value.clone())
            };
            let config = Config::load(&function, &platform, Env::from_lookup(find).unwrap()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let writer = Writer::start().unwrap();
                let app = App::start(config, writer, Purpose::Trial, &Children::default()).await.unwrap();
                ready.send(()).unwrap();
                stopped.cancelled().await;
                app.drain(CancellationToken::new()).await;
            });
        });
        is_ready.recv_timeout(Duration::from_secs(60)).expect("it starts");
        Self { port, stop, thread: Some(thread), _directory: directory }
    }

    /// What an event takes once everything is warm.
    fn measure(&self, connections: usize, request: &[u8]) -> PerEvent {
        const EVENTS: u64 = 2000;
        let connect = || {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream
        };
        let mut clients: Vec<TcpStream> = (0..connections).map(|_| connect()).collect();
        send(&mut clients, request, 500);
        let before = (ALLOCATIONS.load(Relaxed), BYTES.load(Relaxed));
        send(&mut clients, request, EVENTS);
        let after = (ALLOCATIONS.load(Relaxed), BYTES.load(Relaxed));
        let per_event = |before: u64, after: u64| (after - before) as f64 / EVENTS as f64;
        PerEvent { allocations: per_event(before.0, after.0), bytes: per_event(before.1, after.1) }
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn write(directory: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Keeps one request under way on every connection. Allocates nothing, so that only the processor's is counted.
fn send(clients: &mut [TcpStream], request: &[u8], events: u64) {
    let mut answer = [0; 4096];
    for _ in 0..events / clients.len() as u64 {
        for client in clients.iter_mut() {
            client.write_all(request).unwrap();
        }
        for client in clients.iter_mut() {
            let mut read = 0;
            while !is_whole(&answer[..read]) {
                let more = client.read(&mut answer[read..]).unwrap();
                assert!(more > 0, "the processor closed");
                read += more;
            }
        }
    }
}

/// Whether these bytes are an answer with its body.
fn is_whole(answer: &[u8]) -> bool {
    let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { return false };
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(answer));
    let text = std::str::from_utf8(&answer[..head]).unwrap();
    let mut lines = text.split("\r\n").filter_map(|line| line.split_once(": "));
    let length = lines.find(|(name, _)| name.eq_ignore_ascii_case("content-length")).unwrap().1;
    answer.len() - head - 4 == length.parse::<usize>().unwrap()
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const POST: &[u8] = b"POST /a/b?c=d HTTP/1.1\r\nHost: localhost\r\nUser-Agent: test\r\nAccept: */*\r\n\
    Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";

/// `bounds`: allocations of a GET and of a POST.
fn check(name: &str, processor: &Processor, bounds: [f64; 2]) {
    for connections in [1, 16] {
        for (request, bound, method) in [(GET, bounds[0], "GET"), (POST, bounds[1], "POST")] {
            let found = processor.measure(connections, request);
            println!(
                "{name}, {connections} connections, {method}: {:.2} allocations, {:.0} bytes",
                found.allocations, found.bytes
            );
            assert!(
                found.allocations <= bound + 0.5,
                "{name}, {connections} connections, {method}: {found:?} per event, at most {bound} allocations are allowed"
            );
        }
    }
}

#[test]
fn an_event_in_process_allocates_no_more_than_it_did() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let processor =
        Processor::start(json!({"runtime": "golang", "handler": "nuclio:builtin"}), 4, Vec::new(), &[]);
    check("in process", &processor, [1.0, 3.0]);
}

#[test]
fn an_event_behind_a_shim_allocates_no_more_than_it_did() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let python = if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" };
    let environment =
        vec![("NUCLIO_PYTHON_PATH", "{folder}".to_owned()), ("NUCLIO_PYTHON_EXE_PATH", python.to_owned())];
    let source = "def handler(context, event):\n    return 'hello'\n";
    let spec = json!({"runtime": "python", "handler": "main:handler"});
    let processor = Processor::start(spec, 1, environment, &[("main.py", source)]);
    check("behind a shim", &processor, [3.0, 5.0]);
}
