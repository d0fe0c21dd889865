//! One server under load: a program started with its own files and ports, timed until it answers, ended on drop.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::client::{self, Client};
use crate::functions::Function;
use crate::groups::Group;
use crate::process_tree::{self, Memory, Size};
use crate::side::{self, Side, Task};

const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_micros(200);
const LOG_LINES_SHOWN: usize = 15;

/// A side with its name in tables and its environment.
#[derive(Debug, Clone)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) side: Side,
    pub(crate) environment: Vec<(String, String)>,
}

/// Times from exec on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Start {
    /// Until the event port accepts.
    pub(crate) listening: Duration,
    /// Until `/ready` answers 200; only where there is one.
    pub(crate) ready: Option<Duration>,
    /// Until the first right answer.
    pub(crate) first_answer: Duration,
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    group: Group,
    directory: TempDir,
    /// Where events go.
    pub(crate) http: SocketAddr,
    /// Where `/ready` is.
    pub(crate) health: SocketAddr,
    /// Where `/metrics` is.
    pub(crate) metrics: SocketAddr,
    pub(crate) start: Start,
}

impl Server {
    /// Starts a side; `function` is what a processor is given. Ready when it gives this answer, or any with 200.
    pub(crate) fn start(
        contender: &Contender,
        task: &Task,
        function: &Function,
        request: &[u8],
        answer: Option<&[u8]>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir().context("failed to make a temporary directory")?;
        let [http, health, web_admin, metrics] = free_addresses()?;
        let mut command = side::command(&contender.side, task, http, directory.path())?;
        let has_health = matches!(contender.side, Side::Processor(_));
        if has_health {
            write_configuration(directory.path(), function, [http, health, web_admin, metrics])?;
            command.envs(function.environment.iter().map(|(name, value)| (name, value)));
        }
        command.envs(contender.environment.iter().map(|(name, value)| (name, value)));
        // Appended to, so that it can be emptied meanwhile.
        let log = File::options().create(true).append(true).open(directory.path().join("log"));
        let log = log.context("failed to create the log file")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("failed to start {}", contender.name))?;
        let (health, metrics) = if has_health { (health, metrics) } else { (http, http) };
        let group = Group::new(child.id());
        let mut server = Self { child, group, directory, http, health, metrics, start: Start::default() };
        server.start.listening =
            server.wait(started, "accept", |server| TcpStream::connect(server.http).is_ok())?;
        if has_health {
            let ready = |server: &Self| {
                let answer = Client::new(server.health).call(&client::get("/ready"));
                answer.is_ok_and(|(answer, _)| answer.status == 200)
            };
            server.start.ready = Some(server.wait(started, "be ready", ready)?);
        }
        server.start.first_answer = server.wait(started, "give the right answer", |server| {
            let got = Client::new(server.http).call(request);
            got.is_ok_and(|(got, _)| got.status == 200 && answer.is_none_or(|answer| got.body == answer))
        })?;
        Ok(server)
    }

    /// Polls until `holds`, watching that the program lives.
    fn wait(&mut self, started: Instant, what: &str, holds: impl Fn(&Self) -> bool) -> Result<Duration> {
        loop {
            if holds(self) {
                return Ok(started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the program ended before it could {what} ({status}):\n{}", self.log_end());
            }
            if started.elapsed() > START_LIMIT {
                bail!("the program did not {what} within {START_LIMIT:?}:\n{}", self.log_end());
            }
            thread::sleep(POLL);
        }
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// Throws away what has been logged: the file lies in memory on some machines.
    pub(crate) fn forget_log(&self) -> Result<()> {
        let log = File::options().write(true).open(self.directory.path().join("log"))?;
        log.set_len(0).context("failed to empty the log file")
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        process_tree::cpu_time(self.child.id())
    }

    pub(crate) fn memory(&self) -> Memory {
        process_tree::memory(self.child.id())
    }

    pub(crate) fn size(&self) -> Size {
        process_tree::size(self.child.id())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    /// Asks, waits, then kills the whole group, so that no shim outlives its scenario.
    fn drop(&mut self) {
        self.group.signal(Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < STOP_LIMIT && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        self.group.signal(Signal::KILL);
        self.child.wait().ok();
    }
}

/// Ports that were free a moment ago.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let bound: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for (address, listener) in addresses.iter_mut().zip(&bound) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}

/// JSON, which is YAML too. The keys are those of the Go processor, so that it can be a side.
fn write_configuration(directory: &Path, function: &Function, addresses: [SocketAddr; 4]) -> Result<()> {
    let [http, health, web_admin, metrics] = addresses.map(|address| address.to_string());
    let mut trigger = json!({
        "kind": "http",
        "url": http,
        "numWorkers": function.workers,
        "maxWorkers": function.workers,
        "workerAvailabilityTimeoutMilliseconds": function.availability_timeout_ms,
        "attributes": {"maxRequestBodySize": 64 << 20},
    });
    if function.asynchronous {
        trigger["mode"] = json!("async");
    }
    let mut processor = json!({
        "metadata": {"name": "load", "namespace": "default"},
        "spec": {
            "runtime": function.runtime,
            "handler": function.handler,
            "loggerSinks": [{"level": function.log_level, "sink": "stdout"}],
            "triggers": {"web": trigger},
        },
    });
    if let Some(timeout) = function.event_timeout {
        processor["spec"]["eventTimeout"] = json!(timeout);
    }
    let platform = json!({
        "webAdmin": {"enabled": true, "listenAddress": web_admin},
        "healthCheck": {"enabled": true, "listenAddress": health},
        "logger": {
            "sinks": {"stdout": {"kind": "stdout"}},
            "system": [{"level": "warn", "sink": "stdout"}],
            "functions": [{"level": function.log_level, "sink": "stdout"}],
        },
        "metrics": {
            "sinks": {"pull": {"kind": "prometheusPull", "url": metrics, "enabled": true}},
            "functions": ["pull"],
        },
    });
    let write = |name: &str, value: &serde_json::Value| {
        fs::write(directory.join(name), format!("{value:#}\n"))
            .with_context(|| format!("failed to write {name}"))
    };
    write("processor.yaml", &processor)?;
    write("platform.yaml", &platform)
}
