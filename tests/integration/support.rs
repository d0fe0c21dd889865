//! What the tests of faults and of the life cycle share: scripted shims, requests in the background, libraries, what
//! the metrics say.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Answer, Client, Processor, Setup, get, wait_until};

/// What every scripted shim begins with: the frames of protocol 2, and a loop that answers events by their path.
const FAKE_SHIM: &str = r#"# nuclio-shim-protocol: 2
import os, signal, socket, struct, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
S = socket.socket(fileno=int(os.environ["NUCLIO_SHIM_FD"]))


def frame(kind, id=0, head=b"", body=b"", code=0, flags=0):
    return struct.pack("<IBBHII", len(head) + len(body), kind, flags, code, id, len(head)) + head + body


def send(data):
    S.sendall(data)


def read(count):
    data = b""
    while len(data) < count:
        piece = S.recv(min(count - len(data), 1 << 20))
        if not piece:
            sys.stdout.flush()
            os._exit(0)
        data += piece
    return data


def receive():
    size, kind, flags, code, id, head = struct.unpack("<IBBHII", read(16))
    data = read(size)
    return kind, code, id, data[:head], data[head:]


def hello(capabilities="control", max_inflight="1", prefetch="8"):
    pairs = ["protocol_min", "2", "protocol_max", "2", "language", "fake", "version", "1", "sdk", "none",
             "capabilities", capabilities, "max_inflight", max_inflight, "prefetch", prefetch]
    send(b"NSH2" + frame(0x81, head="\0".join(pairs).encode()))
    return receive()


def ready():
    send(frame(0x82))


def answer(id, body=b"", status=200, flags=0):
    send(frame(0x83, id, struct.pack("<IHH", 0, 0, 0) + b"text/plain", body, status, flags))


def log(text, level=1, id=0):
    send(frame(0x86, id, struct.pack("<q", 0) + text.encode(), b"", level))


def start_number():
    number = 1
    while True:
        try:
            os.close(os.open("%s/start-%d" % (HERE, number), os.O_CREAT | os.O_EXCL))
            return number
        except FileExistsError:
            number += 1


def wait_for(name):
    while not os.path.exists(os.path.join(HERE, name)):
        time.sleep(0.001)


def serve(each):
    while True:
        kind, code, id, head, body = receive()
        if kind == 2:
            each(id, head[32:].split(b"\0")[2].decode(), body)
        elif kind == 6:
            send(frame(0x87, id))


def echo(id, path, body):
    answer(id, body or path.encode())


"#;

impl Setup {
    /// Our shim of this language, driven as if it were a wrapper of the Go processor.
    pub fn over_protocol_1(self, language: &str) -> Self {
        let (variable, file) = match language {
            "nodejs" => ("NUCLIO_NODEJS_WRAPPER_PATH", "nodejs/wrapper.js"),
            _ => ("NUCLIO_PYTHON_WRAPPER_PATH", "python/_nuclio_wrapper.py"),
        };
        let path = format!("{}/runtimes/{file}", env!("CARGO_MANIFEST_DIR"));
        self.env(variable, &path).env("NUCLIO_SHIM_PROTOCOL", "1")
    }

    /// A shim written by the test: what follows [`FAKE_SHIM`].
    pub fn fake_shim(script: &str) -> Self {
        let setup = Self::new("python", "main:handler");
        setup.write("fake.py", &format!("{FAKE_SHIM}{script}"));
        let path = setup.directory.path().join("fake.py").display().to_string();
        setup.python_environment().env("NUCLIO_PYTHON_WRAPPER_PATH", &path)
    }
}

impl Processor {
    /// Sends one request in the background.
    pub fn send(&self, path: &str, body: &str) -> std::thread::JoinHandle<Answer> {
        let (address, path, body) = (self.http(), path.to_owned(), body.to_owned());
        std::thread::spawn(move || post(address, &path, &body))
    }

    /// One POST on a connection of its own.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        post(self.http(), path, body)
    }

    /// Creates a file that the handler waits for.
    pub fn touch(&self, name: &str) {
        std::fs::write(self.directory.path().join(name), "").unwrap();
    }

    /// Waits until that many events wait for a worker.
    pub fn wait_waiting(&self, count: usize) {
        let name = "nuclio_processor_worker_pending_allocation_current";
        wait_until("events wait", || self.metric(name, &[]) as usize == count);
    }

    /// Waits until that many events are with workers.
    pub fn wait_in_flight(&self, count: usize) {
        wait_until("events are in work", || {
            self.metric("nuclio_processor_events_in_flight", &[]) as usize == count
        });
    }

    /// How often workers were replaced for that reason.
    pub fn restarts(&self, reason: &str) -> usize {
        self.metric("nuclio_processor_worker_restarts_total", &[&format!("reason=\"{reason}\"")]) as usize
    }

    /// How often workers were replaced.
    pub fn all_restarts(&self) -> usize {
        ["exit", "signal", "oom", "timeout", "protocol", "recycle"]
            .iter()
            .map(|reason| self.restarts(reason))
            .sum()
    }

    /// Waits until it has ended and reads everything it still had to say.
    pub fn end(&mut self) -> ExitStatus {
        let status = self.wait();
        self.stdout.wait_closed();
        self.stderr.wait_closed();
        status
    }

    /// Status of a side server's page.
    pub fn health(&self, path: &str) -> u16 {
        get(self.ports.health, path).map_or(0, |answer| answer.status)
    }
}

impl Client {
    /// Sends a POST and does not wait for the answer.
    pub fn send_post(&mut self, path: &str, body: &[u8]) {
        let mut request =
            format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(body);
        self.send(&request);
    }

    /// Leaves so that it is seen at once: one that merely closes may only have finished sending, for a moment.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(self.stream(), Some(Duration::ZERO)).unwrap();
    }
}

fn post(address: SocketAddr, path: &str, body: &str) -> Answer {
    let mut client = Client::connect(address);
    client.send_post(path, body.as_bytes());
    client.read_answer(false).unwrap()
}

/// What ends the start of these handlers, given as `spec.handler`, source, and texts on standard error. `setup`: how a source
/// is made a function; `None` where its language is not installed.
pub fn said_at_the_start<S: AsRef<str> + Sync>(
    cases: &[(&str, S, &[&str])],
    setup: impl Fn(&str) -> Option<Setup> + Copy + Send,
) {
    std::thread::scope(|scope| {
        for (handler, source, texts) in cases {
            scope.spawn(move || {
                let source = source.as_ref();
                let Some(setup) = setup(source) else { return };
                let mut setup = setup.no_wait();
                setup.function["spec"]["handler"] = (*handler).into();
                let mut processor = setup.start();
                assert_eq!(processor.end().code(), Some(1), "{source}");
                let said = processor.stderr.text();
                for text in *texts {
                    assert!(said.contains(text), "{text:?} is not in:\n{said}");
                }
            });
        }
    });
}

/// Kills a process.
pub fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap_or_default();
}

/// The test handler in C, built with these options; `None`: no compiler.
pub fn c_library(name: &str, options: &[&str]) -> Option<PathBuf> {
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-fPIC", "-shared", "-D_POSIX_C_SOURCE=200809L"]).args(options);
    compile(command, "tests/handlers/c/handler.c", name)
}

/// The test handler in C as most tests want it.
pub fn plain_c_library() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| c_library("plain", &[])).clone()
}

/// The test handler in C++.
pub fn cpp_library() -> Option<PathBuf> {
    compile(cpp(), "tests/handlers/cpp/handler.cpp", "cpp")
}

/// A handler in C++ that counts the bytes of bodies as they come.
pub fn cpp_counter() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| compile(cpp(), "tests/handlers/cpp/count.cpp", "cpp-count")).clone()
}

fn cpp() -> Command {
    let mut command = Command::new("c++");
    command.args(["-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden"]);
    command
}

/// The test handler in Rust.
pub fn rust_library() -> Option<PathBuf> {
    rust("--lib", "libtest_handler.so")
}

/// A handler in Rust that counts the bytes of bodies as they come.
pub fn rust_counter() -> Option<PathBuf> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(|| rust("--example=count", "examples/libcount.so")).clone()
}

fn rust(what: &str, file: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("handlers");
    let mut command = Command::new(env!("CARGO"));
    command.args(["build", "--release", "--quiet", what, "--manifest-path"]);
    command.arg(root().join("tests/handlers/rust/Cargo.toml")).arg("--target-dir").arg(&target);
    built(command, target.join("release").join(file))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn compile(mut command: Command, source: &str, name: &str) -> Option<PathBuf> {
    let out =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("integration-{name}-{}.so", std::process::id()));
    command.arg("-I").arg(root().join("runtimes/rust/include")).arg(root().join(source)).arg("-o").arg(&out);
    built(command, out)
}

fn built(mut command: Command, out: PathBuf) -> Option<PathBuf> {
    match command.output() {
        Ok(output) if output.status.success() => Some(out),
        Ok(output) => panic!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            println!("skipped: {command:?} did not start: {error}");
            None
        }
    }
}
