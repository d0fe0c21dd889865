//! One server under load: a program started with its own files and ports, timed until it answers, ended on drop.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::json;

use crate::client::{self, Client};
use crate::functions::Function;
use crate::generator::Question;
use crate::groups::{self, Folder, Group};
use crate::process_tree::{self, Memory, Size};
use crate::side::{self, Side, Task};

const START_LIMIT: Duration = Duration::from_secs(120);
/// How long one that has failed is given to end.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);
/// Once it is ready.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
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
    directory: Folder,
    /// Where events go.
    pub(crate) http: SocketAddr,
    /// Where `/ready` is; of a processor only.
    pub(crate) health: Option<SocketAddr>,
    /// Where `/metrics` is; of a processor only.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) start: Start,
}

impl Server {
    /// Starts a side; `function` is what a processor is given. Ready when it gives the right answer to the question.
    pub(crate) fn start(
        contender: &Contender,
        task: &Task,
        function: &Function,
        question: &Question,
    ) -> Result<Self> {
        let directory = groups::folder().context("failed to make a temporary directory")?;
        let [http, health, web_admin, metrics] = free_addresses()?;
        let mut command = side::command(&contender.side, task, http, directory.path())?;
        let is_processor = matches!(contender.side, Side::Processor(_));
        if is_processor {
            write_configuration(directory.path(), function, [http, health, web_admin, metrics])?;
            command.envs(function.environment.iter().map(|(name, value)| (name, value)));
        }
        command.envs(contender.environment.iter().map(|(name, value)| (name, value)));
        // Appended to, so that it can be emptied meanwhile.
        let log = File::options().create(true).append(true).open(directory.path().join("log"));
        let log = log.context("failed to create the log file")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let program = command.get_program().to_owned();
        let spawned = groups::spawn(&mut command);
        let (child, group) = spawned.with_context(|| format!("failed to run {}", program.display()))?;
        let (health, metrics) = (is_processor.then_some(health), is_processor.then_some(metrics));
        let start = Start::default();
        let mut server = Self { child, group, directory, http, health, metrics, start };
        server.start.listening = server.wait("accept connections", START_LIMIT, started, |server| {
            TcpStream::connect(server.http).map(drop).map_err(|error| Reason::Not(error.to_string()))
        })?;
        if let Some(health) = health {
            let request = client::get("/ready");
            let ready = |_: &Self| ask(health, &request, None);
            server.start.ready = Some(server.wait("be ready", START_LIMIT, started, ready)?);
        }
        let right = |server: &Self| ask(server.http, &question.bytes, question.answer.as_deref());
        server.start.first_answer = server.wait("give the right answer", ANSWER_LIMIT, started, right)?;
        Ok(server)
    }

    /// Polls until `holds`, watching that the program lives.
    fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        started: Instant,
        holds: impl Fn(&Self) -> Result<(), Reason>,
    ) -> Result<Duration> {
        let asked = Instant::now();
        loop {
            let reason = match holds(self) {
                Ok(()) => return Ok(started.elapsed()),
                Err(Reason::Wrong(reason)) => {
                    bail!("the program did not {what}: {reason}{}", self.last_words())
                }
                Err(Reason::Not(reason)) => reason,
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("the program ended before it could {what} ({status}){}", self.log_end());
            }
            if asked.elapsed() > limit {
                bail!("the program did not {what} within {limit:?}: {reason}{}", self.log_end());
            }
            thread::sleep(POLL);
        }
    }

    /// For the end of a message: whether the program has ended, and how; the end of its log.
    pub(crate) fn last_words(&self) -> String {
        use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let look = || pid.and_then(|pid| waitid(WaitId::Pid(pid), look).ok().flatten());
        // Its sockets are closed before it has ended.
        let (asked, mut ended) = (Instant::now(), look());
        while ended.is_none() && asked.elapsed() < LAST_WORDS_LIMIT {
            thread::sleep(Duration::from_millis(5));
            ended = look();
        }
        let how = match ended.map(|status| (status.exit_status(), status.terminating_signal())) {
            None => "",
            Some((Some(code), _)) => &format!("; the program has ended with exit code {code}"),
            Some((None, Some(signal))) => &format!("; the program was ended by signal {signal}"),
            Some((None, None)) => "; the program has ended",
        };
        format!("{how}{}", self.log_end())
    }

    /// Its last lines, each behind a line break.
    fn log_end(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        last.iter().map(|line| format!("\n    | {line}")).collect()
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

    fn has_ended(&self) -> bool {
        process_tree::has_ended(self.child.id())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    /// Asks, waits, then kills all that it started, so that no shim outlives its scenario.
    fn drop(&mut self) {
        self.group.signal(Signal::TERM);
        let asked = Instant::now();
        while asked.elapsed() < STOP_LIMIT && !self.has_ended() {
            thread::sleep(Duration::from_millis(5));
        }
        // Before anybody waits for it, while its number is its own.
        self.group.kill();
        self.child.wait().ok();
    }
}

/// Why something does not hold.
enum Reason {
    /// Yet.
    Not(String),
    /// And never will.
    Wrong(String),
}

/// Whether a server gives this answer, or any with 200.
fn ask(address: SocketAddr, request: &[u8], answer: Option<&[u8]>) -> Result<(), Reason> {
    const SHOWN: usize = 80;
    let (got, _) = Client::new(address).call(request).map_err(|error| Reason::Not(error.to_string()))?;
    let begin = |body: &[u8]| format!("`{}`", body[..body.len().min(SHOWN)].escape_ascii());
    let said = format!("{} {}", got.status, begin(&got.body));
    match answer {
        // It may still be starting.
        _ if got.status != 200 => Err(Reason::Not(format!("it answers {said}"))),
        Some(answer) if got.body != answer => {
            let lengths = format!("{} bytes for {}", got.body.len(), answer.len());
            Err(Reason::Wrong(format!("it answers {said} where {} is right, {lengths}", begin(answer))))
        }
        _ => Ok(()),
    }
}

/// Ports that were free a moment ago, below those that the kernel takes for connections: else one that is polled while
/// nobody listens there would sooner or later be connected to itself.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    const PORTS: u32 = 10_000;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768_u32);
    // Where that range leaves no room below it, above the privileged ones.
    let first = lowest.saturating_sub(PORTS).max(1024);
    // Another harness beside this one begins elsewhere.
    let begin = std::process::id().wrapping_mul(97);
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let free = (0..PORTS).find_map(|_| {
            let place = begin.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS;
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(first + place).ok()?));
            TcpListener::bind(address).is_ok().then_some(address)
        });
        *address = free.context("no port is free")?;
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

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;
    use crate::functions::{Runtime, builtin};
    use crate::harness::{Harness, contender, question};
    use crate::workload::Work;

    const EMPTY: Task = Task { runtime: Runtime::Builtin, work: Work::Empty, workers: Some(1) };

    fn side(text: &str) -> Contender {
        contender(&text.parse().unwrap(), &[])
    }

    fn started(side: &Contender, task: &Task) -> Result<Server> {
        Server::start(side, task, &builtin(), &question(side, task))
    }

    fn error(side: &Contender, task: &Task) -> String {
        format!("{:#}", started(side, task).err().unwrap())
    }

    #[test]
    fn a_processor_serves_and_leaves_nothing_behind() {
        let server = started(&side("self"), &EMPTY).unwrap();
        let (pid, start) = (server.pid(), server.start);
        assert!(start.listening <= start.ready.unwrap() && start.ready.unwrap() <= start.first_answer);
        assert!(server.memory().rss_kib > 0 && server.size().descriptors > 0);
        let directory = server.directory.path().to_owned();
        drop(server);
        assert!(process_tree::has_ended(pid) && !directory.exists());
    }

    #[test]
    fn a_side_that_does_not_start_says_so_with_its_last_lines() {
        let dying = error(&side("cmd:echo no licence >&2; exit 3; # {port}"), &EMPTY);
        assert!(dying.contains("exit status: 3") && dying.contains("| no licence"), "{dying}");
        let missing = error(&side("/nowhere/processor"), &EMPTY);
        assert!(missing.contains("failed to run /nowhere/processor"), "{missing}");
    }

    #[test]
    fn a_side_that_answers_wrong_is_refused_at_once() {
        // The built-in handler, where another answer is right.
        let task = Task { runtime: Runtime::C, ..EMPTY };
        let wrong = error(&side("self"), &task);
        assert!(wrong.contains("200 `Built in handler called` where `hello` is right"), "{wrong}");
    }

    #[test]
    fn a_side_that_dies_midway_fails_its_sample_and_is_named() {
        use clap::Parser;
        let harness = Harness::new(crate::arguments::Arguments::try_parse_from(["load"]).unwrap());
        let server = started(&harness.a, &EMPTY).unwrap();
        let questions = [question(&harness.a, &EMPTY)];
        let sample =
            |seconds| harness.sample(&server, &questions, 2, crate::generator::Pace::Closed, seconds);
        assert!(sample(0.2).unwrap().answers > 0.0);
        let outcome = thread::scope(|scope| {
            let load = scope.spawn(|| sample(60.0));
            thread::sleep(Duration::from_millis(300));
            server.group.signal(Signal::KILL);
            load.join().unwrap()
        });
        let error = format!("{:#}", outcome.unwrap_err());
        assert!(error.contains("stopped answering") && error.contains("ended by signal 9"), "{error}");
    }

    #[test]
    fn ports_differ_and_are_below_those_of_connections() {
        let (one, other) = (free_addresses::<4>().unwrap(), free_addresses::<4>().unwrap());
        let mut all: Vec<u16> = one.iter().chain(&other).map(SocketAddr::port).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 8);
        let connection = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        assert!(all.iter().all(|port| *port >= 1024) && connection.port() >= 1024);
    }
}
