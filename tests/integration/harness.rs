//! Starts a processor (ours, or any binary named by `PROCESSOR_BIN`) with a configuration of the test's, waits until
//! it is ready, collects what it logs, kills it in the end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Generous: the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test.
pub fn processor_bin() -> PathBuf {
    std::env::var_os("PROCESSOR_BIN").map_or_else(|| env!("CARGO_BIN_EXE_processor").into(), PathBuf::from)
}

/// Ports below those that the kernel gives to clients: a port of that range could be taken between the look and the
/// processor's start.
const PORTS: std::ops::Range<u32> = 10_000..32_000;

/// A port of the loopback interface that is free, and that no other test of this run gets.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        // Runs at the same time begin at different places.
        let number = std::process::id().wrapping_mul(1009).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + number % (PORTS.end - PORTS.start)) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

/// What to run.
pub struct Setup {
    pub function: Value,
    pub platform: Value,
    pub environment: Vec<(String, String)>,
    pub directory: TempDir,
    /// Wait for `/ready` before [`Processor`] is handed out.
    pub wait: bool,
    redirect: Option<Redirect>,
}

/// Changes the command just before it is spawned.
type Redirect = Box<dyn FnOnce(&mut Command)>;

impl Setup {
    /// The function of the vectors: one HTTP trigger with one worker.
    pub fn new(runtime: &str, handler: &str) -> Self {
        let function = json!({
            "metadata": {
                "name": "conformance",
                "namespace": "default",
                "labels": {"nuclio.io/project-name": "default"},
            },
            "spec": {
                "runtime": runtime,
                "handler": handler,
                "triggers": {"default-http": {"kind": "http", "numWorkers": 1}},
            },
        });
        let directory = tempfile::tempdir().unwrap();
        Self { function, platform: json!({}), environment: Vec::new(), directory, wait: true, redirect: None }
    }

    /// The demonstration handler.
    pub fn builtin() -> Self {
        Self::new("golang", "nuclio:builtin")
    }

    /// A Python handler `main:handler` with this source.
    pub fn python(source: &str) -> Self {
        let setup = Self::new("python", "main:handler");
        setup.write("main.py", source);
        setup.python_environment()
    }

    /// The interpreter and the folder of the test.
    pub fn python_environment(self) -> Self {
        let folder = self.directory.path().display().to_string();
        self.env("NUCLIO_PYTHON_PATH", &folder).env("NUCLIO_PYTHON_EXE_PATH", python())
    }

    /// A handler library.
    pub fn library(path: &Path) -> Self {
        Self::new("golang", "main:Handler")
            .env("NUCLIO_GOLANG_HANDLER_PLUGIN_PATH", &path.display().to_string())
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Writes a file into the test's folder.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Merges into `spec`.
    pub fn spec(mut self, more: Value) -> Self {
        merge(&mut self.function["spec"], more);
        self
    }

    /// Merges into the HTTP trigger.
    pub fn trigger(self, more: Value) -> Self {
        self.spec(json!({"triggers": {"default-http": more}}))
    }

    /// Do not wait until it is ready.
    pub fn no_wait(mut self) -> Self {
        self.wait = false;
        self
    }

    /// Starts it, on ports of its own.
    pub fn start(mut self) -> Processor {
        let ports =
            Ports { http: free_port(), health: free_port(), admin: free_port(), metrics: free_port() };
        for (_, trigger) in self.function["spec"]["triggers"].as_object_mut().into_iter().flatten() {
            if trigger["kind"] == "http" && trigger.get("url").is_none() {
                trigger["url"] = json!(format!("127.0.0.1:{}", ports.http));
            }
        }
        let mut platform = json!({
            "webAdmin": {"listenAddress": format!("127.0.0.1:{}", ports.admin)},
            "healthCheck": {"listenAddress": format!("127.0.0.1:{}", ports.health)},
            "logger": {
                "sinks": {"out": {"kind": "stdout", "attributes": {"encoding": "json", "varGroupName": "more"}}},
                "functions": [{"level": "debug", "sink": "out"}],
            },
            "metrics": {
                "sinks": {"pull": {"kind": "prometheusPull"}},
                "functions": ["pull"],
            },
        });
        merge(&mut platform, self.platform.take());
        for (_, sink) in platform["metrics"]["sinks"].as_object_mut().into_iter().flatten() {
            if sink["kind"] == "prometheusPull" && sink.get("url").is_none() {
                sink["url"] = json!(format!("127.0.0.1:{}", ports.metrics));
            }
        }
        self.write("processor.yaml", &self.function.to_string());
        self.write("platform.yaml", &platform.to_string());
        let folder = self.directory.path().to_owned();
        let mut command = Command::new(processor_bin());
        command.arg("--config").arg(folder.join("processor.yaml"));
        command.arg("--platform-config").arg(folder.join("platform.yaml"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let wait = self.wait;
        let processor = match self.redirect {
            None => Processor::spawn(command, ports, self.directory),
            Some(redirect) => Processor::spawn_redirected(command, ports, self.directory, redirect),
        };
        if wait {
            processor.wait_ready();
        }
        processor
    }
}

/// The interpreter that tests run handlers with: a version manager's wrapper script only costs time.
pub fn python() -> &'static str {
    if Path::new("/usr/bin/python3").exists() { "/usr/bin/python3" } else { "python3" }
}

/// Objects are merged, everything else is replaced.
pub fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, more) => *base = more,
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub http: u16,
    pub health: u16,
    pub admin: u16,
    pub metrics: u16,
}

/// A running processor.
pub struct Processor {
    pub child: Child,
    pub ports: Ports,
    pub directory: TempDir,
    pub stdout: Output,
    pub stderr: Output,
}

/// Lines of one stream, as they come.
#[derive(Clone, Default)]
pub struct Output(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Output {
    fn collect(stream: impl Read + Send + 'static) -> Self {
        let output = Self::default();
        let lines = output.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                lines.0.0.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                lines.0.1.notify_all();
            }
        });
        output
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.0.lock().unwrap().clone()
    }

    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits for a line that satisfies the test.
    pub fn wait_for(&self, what: &str, test: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.0.0.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| test(line)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line with {what} in:\n{}", lines.join("\n"));
            lines = self.0.1.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Waits for a log record with this message.
    pub fn wait_for_record(&self, message: &str) -> Value {
        let is_it =
            |line: &str| serde_json::from_str::<Value>(line).is_ok_and(|record| record["message"] == message);
        serde_json::from_str(&self.wait_for(message, is_it)).unwrap()
    }

    /// All log records so far.
    pub fn records(&self) -> Vec<Value> {
        self.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl Processor {
    /// Writes a file into the test's folder, in one step.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.directory.path().join(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Runs any command as the processor.
    pub fn spawn(command: Command, ports: Ports, directory: TempDir) -> Self {
        Self::spawn_redirected(command, ports, directory, |_| {})
    }

    /// The same; `redirect` may give it other streams.
    pub fn spawn_redirected(
        mut command: Command,
        ports: Ports,
        directory: TempDir,
        redirect: impl FnOnce(&mut Command),
    ) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        redirect(&mut command);
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(Output::collect).unwrap_or_default();
        let stderr = child.stderr.take().map(Output::collect).unwrap_or_default();
        Self { child, ports, directory, stdout, stderr }
    }

    pub fn wait_ready(&self) {
        wait_until("ready", || {
            if let Ok(Some(status)) = process_status(self.child.id()) {
                panic!("processor ended ({status}):\n{}\n{}", self.stdout.text(), self.stderr.text());
            }
            get(self.ports.health, "/ready").is_ok_and(|answer| answer.status == 200)
        });
        // The process that has compiled the embedded shim is about to be gone, and tests count children.
        wait_until("only workers are left", || {
            children_of(self.child.id()).into_iter().all(|pid| alive(pid) && !compiles(pid))
        });
    }

    pub fn http(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports.http).into()
    }

    /// One GET on a connection of its own.
    pub fn get(&self, path: &str) -> Answer {
        get(self.ports.http, path).unwrap()
    }

    /// One request on a connection of its own.
    pub fn request(&self, head: &str, body: &[u8]) -> Answer {
        let mut client = Client::connect(self.http());
        client.send(head.as_bytes());
        client.send(body);
        client.read_answer(head.starts_with("HEAD ")).unwrap()
    }

    pub fn signal(&self, signal: i32) {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).unwrap();
        let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "processor does not end:\n{}", self.stdout.text());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Value of a metric: the first line that starts with the name and contains all the parts.
    pub fn metric(&self, name: &str, parts: &[&str]) -> f64 {
        let text = get(self.ports.metrics, "/metrics").unwrap().text();
        let line = text.lines().find(|line| {
            line.starts_with(&format!("{name}{{")) && parts.iter().all(|part| line.contains(part))
        });
        let line = line.unwrap_or_else(|| panic!("no {name} with {parts:?} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Pids of its children.
    pub fn children(&self) -> Vec<i32> {
        children_of(self.child.id())
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Pids of the children of a process.
pub fn children_of(pid: u32) -> Vec<i32> {
    let mut pids = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        pids.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    pids
}

/// Whether it is the process that compiles the embedded shim.
fn compiles(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0compile\0"))
}

/// Whether a process exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn process_status(pid: u32) -> std::io::Result<Option<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.contains(") Z ").then(|| "zombie".to_owned()))
}

/// Waits until something is true; that takes no fixed time.
pub fn wait_until(what: &str, mut test: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !test() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub fn get(port: u16, path: &str) -> std::io::Result<Answer> {
    let stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut client = Client::over(stream);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    client.read_answer(false)
}

/// One answer as it came over the wire.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    /// Lines of the head after the first, as sent.
    pub lines: Vec<String>,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Status codes sent before it.
    pub interim: Vec<u16>,
}

impl Answer {
    /// All values of a header, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let matching = self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        matching.map(|(_, value)| value.as_str()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.values(name).first().copied()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// A client that sends any bytes and reads answers strictly.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    /// Sends bytes; a server that has closed already is noticed when reading.
    pub fn send(&mut self, bytes: &[u8]) {
        drop(self.stream.get_mut().write_all(bytes));
    }

    pub fn stream(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// What comes after a head that was read.
    pub fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.stream
    }

    /// Whether the server has closed: the next read finds the end (or a reset) and no byte.
    pub fn is_closed(&mut self) -> bool {
        self.stream
            .fill_buf()
            .map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, <[u8]>::is_empty)
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        assert_eq!(line.pop(), Some(b'\r'), "a line of the head ends with LF alone");
        Ok(line.iter().map(|byte| *byte as char).collect())
    }

    /// Reads one answer with its body. `head`: it answers a HEAD request.
    pub fn read_answer(&mut self, head: bool) -> std::io::Result<Answer> {
        let mut answer = self.read_head()?;
        if head || matches!(answer.status, 204 | 304) {
            return Ok(answer);
        }
        if answer.header("Transfer-Encoding") == Some("chunked") {
            while let Some(piece) = self.read_chunk()? {
                answer.body.extend(piece);
            }
        } else if let Some(length) = answer.header("Content-Length") {
            answer.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut answer.body)?;
        } else {
            self.stream.read_to_end(&mut answer.body)?;
        }
        Ok(answer)
    }

    /// Waits for the interim answer that asks for a body.
    pub fn wait_for_continue(&mut self) {
        assert_eq!(self.line().unwrap(), "HTTP/1.1 100 Continue");
        assert_eq!(self.line().unwrap(), "");
    }

    /// Reads status line and headers only.
    pub fn read_head(&mut self) -> std::io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let first = self.line()?;
            let mut words = first.splitn(3, ' ');
            assert!(matches!(words.next(), Some("HTTP/1.1" | "HTTP/1.0")), "{first}");
            answer.status = words.next().unwrap().parse().unwrap();
            loop {
                let line = self.line()?;
                if line.is_empty() {
                    break;
                }
                let (name, value) = line.split_once(": ").or_else(|| line.split_once(':')).unwrap();
                answer.headers.push((name.to_owned(), value.to_owned()));
                answer.lines.push(line);
            }
            if answer.status / 100 != 1 {
                return Ok(answer);
            }
            answer.interim.push(answer.status);
            answer.headers.clear();
            answer.lines.clear();
        }
    }

    /// One chunk; `None` after the last.
    pub fn read_chunk(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let size = usize::from_str_radix(&self.line()?, 16).unwrap();
        let mut piece = vec![0; size];
        self.stream.read_exact(&mut piece)?;
        assert_eq!(self.line()?, "");
        Ok(if size == 0 { None } else { Some(piece) })
    }
}

impl Output {
    /// Waits until the stream has ended, for a short time: a stray child may hold it.
    pub fn wait_closed(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Arc::strong_count(&self.0) > 1 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Setup {
    /// Starts it with something else than pipes: `redirect` gets the command last.
    pub fn start_redirected(mut self, redirect: impl FnOnce(&mut Command) + 'static) -> Processor {
        self.redirect = Some(Box::new(redirect));
        self.start()
    }
}
