//! One server under load: a program started with its own files and ports, timed until it answers, ended on drop.

use std::fmt;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::client::{self, Client};
use crate::handlers::Function;
use crate::process_tree::{self, Memory};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_micros(200);
const LOG_LINES_SHOWN: usize = 15;

/// What is run.
#[derive(Debug, Clone)]
pub(crate) enum Program {
    BareHyper,
    Processor(PathBuf),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BareHyper => f.write_str("bare hyper"),
            Self::Processor(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    directory: TempDir,
    /// Where events go.
    pub(crate) http: SocketAddr,
    /// Where `/ready` is.
    pub(crate) health: SocketAddr,
    /// Where `/metrics` is.
    pub(crate) metrics: SocketAddr,
    /// From exec until the event port accepts.
    pub(crate) listening_after: Duration,
    /// From exec until `/ready` answers 200.
    pub(crate) ready_after: Duration,
}

impl Server {
    pub(crate) fn start(program: &Program, function: &Function) -> Result<Self> {
        let directory = tempfile::tempdir().context("failed to make a temporary directory")?;
        let [http, health, web_admin, metrics] = free_addresses()?;
        let (mut command, health, metrics) = match program {
            Program::BareHyper => (bare_hyper_command(http)?, http, http),
            Program::Processor(path) => {
                write_configuration(directory.path(), function, [http, health, web_admin, metrics])?;
                (processor_command(path, directory.path(), function), health, metrics)
            }
        };
        let log = File::create(directory.path().join("log")).context("failed to create the log file")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("failed to start {program}"))?;
        let (listening_after, ready_after) = (Duration::ZERO, Duration::ZERO);
        let mut server = Self { child, directory, http, health, metrics, listening_after, ready_after };
        server.listening_after = server.wait(started, |server| TcpStream::connect(server.http).is_ok())?;
        server.ready_after = server.wait(started, |server| {
            let answer = Client::new(server.health).call(&client::get("/ready"));
            answer.is_ok_and(|(answer, _)| answer.status == 200)
        })?;
        Ok(server)
    }

    /// Polls until `holds`, watching that the program lives.
    fn wait(&mut self, started: Instant, holds: impl Fn(&Self) -> bool) -> Result<Duration> {
        loop {
            if holds(self) {
                return Ok(started.elapsed());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("the program ended before it was ready ({status}):\n{}", self.log_end());
            }
            if started.elapsed() > START_LIMIT {
                bail!("the program was not ready within {START_LIMIT:?}:\n{}", self.log_end());
            }
            thread::sleep(POLL);
        }
    }

    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    pub(crate) fn cpu_time(&self) -> Duration {
        process_tree::cpu_time(self.child.id())
    }

    pub(crate) fn memory(&self) -> Memory {
        process_tree::memory(self.child.id())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    /// Asks, waits, then kills the whole group, so that no shim outlives its scenario.
    fn drop(&mut self) {
        let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else { return };
        kill_process_group(group, Signal::TERM).ok();
        let asked = Instant::now();
        while asked.elapsed() < STOP_LIMIT && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(5));
        }
        kill_process_group(group, Signal::KILL).ok();
        self.child.wait().ok();
    }
}

fn bare_hyper_command(address: SocketAddr) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("failed to find this program")?);
    command.arg("--serve-bare-hyper").arg(address.port().to_string());
    Ok(command)
}

fn processor_command(path: &Path, directory: &Path, function: &Function) -> Command {
    let mut command = Command::new(path);
    command.arg("--config").arg(directory.join("processor.yaml"));
    command.arg("--platform-config").arg(directory.join("platform.yaml"));
    command.envs(function.environment.iter().map(|(name, value)| (name, value)));
    command
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

fn write_configuration(directory: &Path, function: &Function, addresses: [SocketAddr; 4]) -> Result<()> {
    let [http, health, web_admin, metrics] = addresses;
    let Function { runtime, handler, workers, availability_timeout_ms, .. } = function;
    let event_timeout = function.event_timeout.map(|text| format!("  eventTimeout: {text}\n"));
    let event_timeout = event_timeout.unwrap_or_default();
    let processor = format!(
        "metadata:\n  name: load\n  namespace: default\n\
         spec:\n  runtime: {runtime}\n  handler: {handler}\n{event_timeout}  \
         triggers:\n    web:\n      kind: http\n      url: \"{http}\"\n      numWorkers: {workers}\n      \
         workerAvailabilityTimeoutMilliseconds: {availability_timeout_ms}\n"
    );
    let platform = format!(
        "webAdmin:\n  listenAddress: \"{web_admin}\"\n\
         healthCheck:\n  listenAddress: \"{health}\"\n\
         logger:\n  sinks:\n    stdout:\n      kind: stdout\n  \
         functions:\n  - level: warn\n    sink: stdout\n\
         metrics:\n  sinks:\n    pull:\n      kind: prometheusPull\n      url: \"{metrics}\"\n  \
         functions: [pull]\n"
    );
    fs::write(directory.join("processor.yaml"), processor).context("failed to write processor.yaml")?;
    fs::write(directory.join("platform.yaml"), platform).context("failed to write platform.yaml")
}
