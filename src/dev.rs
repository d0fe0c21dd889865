//! `processor dev`: one handler file, no configuration files. It makes a [`Config`], runs it, and starts over when a
//! source changes. The socket outlives all starts, so that a request made meanwhile waits; where the handler does not
//! start, why is served in its place.

mod broken;
mod go;
mod handler;
mod resume;
mod watch;

use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};
use tokio_util::sync::CancellationToken;

use crate::app::{self, App, Purpose};
use crate::cli::{Dev, LogFormat};
use crate::config::{AdoptedListener, Config, Env, LogEncoding, TriggerKind};
use crate::fields;
use crate::logging::Logger;
use crate::logging::sink::Writer;
use crate::reaper::{self, Children};
use crate::run::{self, Stops};
use broken::Broken;
use resume::Folder;
use watch::{Subject, Watch};

/// Time for requests in work when a source has changed; what is then left is cut off.
const LAST_REQUESTS: Duration = Duration::from_secs(1);
/// Time for processes of the start before to go, once they have been killed.
const LAST_PROCESSES: Duration = Duration::from_millis(500);

/// Runs the handler until it is told to stop.
pub fn run(arguments: &Dev) -> ExitCode {
    match begin(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("processor dev: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn begin(arguments: &Dev) -> anyhow::Result<()> {
    if arguments.resumed.file_variables.is_none() && !arguments.env_files.is_empty() {
        let variables = resume::variables(arguments)?;
        return Err(resume::with_variables(arguments, &variables));
    }
    let env = Env::from_process().map_err(|error| anyhow::anyhow!("{error}"));
    let is_first = arguments.resumed.resumed.is_none();
    if let (true, Err(error)) = (is_first, &env) {
        anyhow::bail!("{error}");
    }
    let tone = Tone::new(env.as_ref().ok());
    let folder = Folder::new(env.as_ref().unwrap_or(&Env::default()));
    let prepared = env.and_then(|env| prepare(arguments, env, &folder));
    if is_first && prepared.is_err() {
        return prepared.map(drop);
    }
    let session = Session { arguments, tone, folder };
    run::block_on(session.serve(prepared))
}

/// A start, as far as it is known without waiting.
type Prepared = (Config, Option<go::Build>);

fn prepare(arguments: &Dev, mut env: Env, folder: &Folder) -> anyhow::Result<Prepared> {
    resume::variables(arguments)?; // Those that cannot be read.
    env.no_color = !env.color.unwrap_or_else(|| std::io::stdout().is_terminal());
    env.source_list = folder.source_list();
    let (mut config, build) = handler::prepare(arguments, env, folder)?;
    for sink in &mut config.function.log_sinks {
        sink.encoding = encoding(arguments.log_format);
    }
    Ok((config, build))
}

fn encoding(format: LogFormat) -> LogEncoding {
    match format {
        LogFormat::Text => LogEncoding::Text,
        LogFormat::Json => LogEncoding::Json {
            time_field: "time".to_owned(),
            time_iso8601: true,
            group: String::new(),
            flattened: false,
        },
    }
}

/// One start of the program.
struct Session<'a> {
    arguments: &'a Dev,
    tone: Tone,
    folder: Folder,
}

/// How far a start has come.
enum Started {
    Running(Box<App>),
    /// Why it has not, for people.
    Broken(String),
}

impl Session<'_> {
    async fn serve(self, prepared: anyhow::Result<Prepared>) -> anyhow::Result<()> {
        let mut stops = Stops::new()?;
        let listener = resume::listener(self.arguments)?;
        let mut watch = Watch::new(self.subject());
        let writer = Writer::start()?;
        let logger = self.logger(&prepared, &writer);
        let started = tokio::select! {
            started = self.start(prepared, &listener, writer) => started?,
            // Children end with us.
            _ = stops.next() => return Ok(()),
            changed = watch.changed() => return self.again(&changed, listener),
        };
        match started {
            Started::Running(app) => {
                self.greet(&listener);
                tokio::select! {
                    name = stops.next() => {
                        app.logger().warn("Got system signal", fields! {"signal" => name});
                        if !run::drain(*app, stops).await {
                            drop(self.folder);
                            app::leave();
                        }
                        Ok(())
                    }
                    changed = watch.changed() => {
                        if drain(*app, stops).await { self.again(&changed, listener) } else { Ok(()) }
                    }
                }
            }
            Started::Broken(why) => {
                watch.add_named_in(&why);
                say(&self.tone.bad(&format!("\n{why}")));
                say("\nThe handler did not start; waiting for its source to change (Ctrl-C ends)");
                let broken = Broken::serve(&listener, &why, &logger)?;
                let changed = tokio::select! {
                    _ = stops.next() => None,
                    changed = watch.changed() => Some(changed),
                };
                broken.stop().await;
                changed.map_or(Ok(()), |changed| self.again(&changed, listener))
            }
        }
    }

    /// For what is served in the handler's place.
    fn logger(&self, prepared: &anyhow::Result<Prepared>, writer: &Writer) -> Logger {
        let (sinks, color) = match prepared {
            Ok((config, _)) => (config.function.log_sinks.clone(), !config.env.no_color),
            Err(_) => (Vec::new(), false),
        };
        Logger::new(sinks, color, writer.clone())
    }

    fn subject(&self) -> Subject {
        let file = self.arguments.file.as_deref();
        Subject {
            handler: file.map(Path::to_owned),
            endings: file.map(handler::endings).unwrap_or_default(),
            root: file.and_then(handler::root),
            more: self.arguments.env_files.iter().chain(&self.arguments.watch).cloned().collect(),
            source_list: self.folder.path().ok().map(|folder| folder.join("sources")),
        }
    }

    async fn start(
        &self,
        prepared: anyhow::Result<Prepared>,
        listener: &TcpListener,
        writer: Writer,
    ) -> anyhow::Result<Started> {
        let (mut config, build) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Ok(Started::Broken(explain(&error))),
        };
        if let Some(build) = &build {
            say("Building");
            if let Err(said) = build.run().await? {
                return Ok(Started::Broken(said));
            }
        }
        let adopted = AdoptedListener(Arc::new(listener.try_clone()?));
        for trigger in &mut config.function.triggers {
            if let TriggerKind::Http(http) = &mut trigger.kind {
                http.request_records = true;
                http.adopted = Some(adopted.clone());
            }
        }
        match App::start(config, writer, Purpose::Trial, &Children::default()).await {
            Ok(app) => Ok(Started::Running(Box::new(app))),
            Err(error) if self.arguments.file.is_none() => Err(error),
            Err(error) => Ok(Started::Broken(explain(&error))),
        }
    }

    /// Tells a person what to do next.
    fn greet(&self, listener: &TcpListener) {
        if let Some(millis) = resume::since_change(self.arguments) {
            return say(&self.tone.good(&format!("Serving what has changed, after {millis} ms")));
        }
        let Ok(address) = listener.local_addr() else { return };
        let url = match address.ip() {
            ip if ip.is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
            _ => format!("http://{address}"),
        };
        say(&format!("\nHandler answers at {}\nTry: curl -i {url}/ -d 'hello'", self.tone.good(&url)));
        if let Some(samples) = samples(self.arguments.file.as_deref()) {
            let at = if address.port() == 8080 { String::new() } else { format!(" --url {url}") };
            say(&format!("     processor invoke {samples}{at}"));
        }
        say("");
    }

    /// A new program in the place of this one.
    fn again(&self, changed: &Path, listener: TcpListener) -> anyhow::Result<()> {
        end_processes();
        say(&format!("{} has changed, starting again", changed.display()));
        Err(resume::restart(self.arguments, listener))
    }
}

/// The requests that lie beside a handler.
fn samples(handler: Option<&Path>) -> Option<String> {
    let folder = handler?.parent()?;
    let found = ["request.http", "request.json"].map(|name| folder.join(name));
    found.into_iter().find(|file| file.is_file()).map(|file| file.display().to_string())
}

/// Lets requests in work end, not for long. False: a stop was asked for meanwhile.
async fn drain(app: App, mut stops: Stops) -> bool {
    let hurry = CancellationToken::new();
    let again = hurry.clone();
    let waiting = async {
        let stopped = tokio::time::timeout(LAST_REQUESTS, stops.next()).await.is_ok();
        again.cancel();
        stopped
    };
    let draining = app.drain(hurry);
    tokio::pin!(draining, waiting);
    tokio::select! {
        _ = &mut draining => true, // What still runs ends with the program.
        stopped = &mut waiting => {
            draining.await;
            !stopped
        }
    }
}

/// Children of this process that are left, whose handlers do not return, are none of the next start's.
fn end_processes() {
    let children: Vec<Pid> = reaper::children().into_iter().filter_map(Pid::from_raw).collect();
    for child in &children {
        // Most lead a group of their own.
        rustix::process::kill_process_group(*child, Signal::KILL).unwrap_or_default();
        rustix::process::kill_process(*child, Signal::KILL).unwrap_or_default();
    }
    let end = std::time::Instant::now() + LAST_PROCESSES;
    for child in children {
        while matches!(rustix::process::waitpid(Some(child), WaitOptions::NOHANG), Ok(None)) {
            if std::time::Instant::now() > end {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The cause of a start that failed, as the shim or we have put it, without where in the start it was.
fn explain(error: &anyhow::Error) -> String {
    match error.root_cause().to_string() {
        cause if cause.contains('\n') => cause,
        _ => format!("{error:#}").trim_start_matches("Failed to create triggers: ").to_owned(),
    }
}

/// For people: standard error keeps standard output clean for records.
fn say(text: &str) {
    writeln!(std::io::stderr(), "{text}").unwrap_or_default(); // Nobody reads it then.
}

/// Colours of what is said.
struct Tone {
    color: bool,
}

impl Tone {
    fn new(env: Option<&Env>) -> Self {
        let wanted = env.and_then(|env| env.color);
        Self { color: wanted.unwrap_or_else(|| std::io::stderr().is_terminal()) }
    }

    fn good(&self, text: &str) -> String {
        if self.color { format!("\x1b[32m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bad(&self, text: &str) -> String {
        if self.color { format!("\x1b[31m{text}\x1b[0m") } else { text.to_owned() }
    }
}
