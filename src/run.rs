//! One run of the processor, from configuration files to exit code: signals from the first moment on, errors in the
//! form that other programs look for.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::{self, App, Purpose};
use crate::config::{self, Config, ConfigError, Env};
use crate::fields;
use crate::logging::sink::Writer;
use crate::reaper::Children;

/// Most files of this process at once, where the system lets it choose: its connections and some.
const FILES_MAX: u64 = 524_288;

/// Runs the function of the given files until it is told to stop. `if_missing`: what else to do where the function's
/// file does not exist.
pub fn run(function: &Path, platform: &Path, if_missing: Option<&str>) -> ExitCode {
    let config = match Env::from_process().and_then(|env| Config::load(function, platform, env)) {
        Ok(config) => config,
        Err(error) => return refuse(&error.if_missing(if_missing)),
    };
    match block_on(serve(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Runs a future on the runtime of this thread: signals, keepers, processes. Events have threads of their own.
///
/// # Errors
/// There is no runtime, or what the future says.
pub fn block_on(future: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(future);
    // A handler that does not return from its initialization or its end is not waited for.
    runtime.shutdown_background();
    outcome
}

/// Every connection is a file, and the usual limit of 1024 is soft: it protects programs that use `select`.
// compat: the Go processor's runtime does the same.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(FILES_MAX).min(FILES_MAX);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).unwrap_or_default(); // Then it stays as it was.
    }
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut stops = Stops::new()?;
    let writer = Writer::start()?;
    let children = Children::default();
    let app = tokio::select! {
        app = App::start(config, writer, Purpose::Service, &children) => app?,
        // Children end with us.
        _ = stops.next() => return Ok(()),
    };
    let name = stops.next().await;
    app.logger().warn("Got system signal", fields! {"signal" => name});
    if !drain(app, stops).await {
        app::leave();
    }
    Ok(())
}

/// Some parents signal the process and then the whole group it is in: what follows this soon is the same request.
const ONE_REQUEST: Duration = Duration::from_millis(100);

/// Drains; a second signal shortens it. False: the process must [`app::leave`].
pub async fn drain(app: App, mut stops: Stops) -> bool {
    let hurry = CancellationToken::new();
    let again = hurry.clone();
    let listening = tokio::spawn(async move {
        let asked = Instant::now();
        stops.next().await;
        while asked.elapsed() < ONE_REQUEST {
            stops.next().await;
        }
        again.cancel();
    });
    let ended = app.drain(hurry).await;
    listening.abort();
    ended
}

/// The signals that ask for a stop.
pub struct Stops {
    terminate: Signal,
    interrupt: Signal,
    abort: Signal,
}

impl Stops {
    /// Catches them from now on.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            abort: signal(SignalKind::from_raw(libc::SIGABRT))?,
        })
    }

    /// The name of the next one, as the reference logs it.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "terminated",
            _ = self.interrupt.recv() => "interrupt",
            _ = self.abort.recv() => "aborted",
        }
    }
}

/// A configuration that cannot be used: exit code 1 and why.
pub fn refuse(error: &ConfigError) -> ExitCode {
    write_stderr(&config::report(error));
    ExitCode::FAILURE
}

/// A start that failed, root first, in the form that the platform shows to people.
pub fn print_error(error: &anyhow::Error) {
    let mut chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    chain.reverse();
    write_stderr(&config::report::print_out(&chain, ""));
}

fn write_stderr(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).unwrap_or_default(); // Nowhere else to say it.
}
