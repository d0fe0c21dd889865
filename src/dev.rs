//! `processor dev`: one handler file, no configuration files. It makes a [`Config`], runs it, and starts over when a
//! source changes. The socket outlives all starts, so that a request made meanwhile waits; where the handler does not
//! start, why is served in its place.

mod broken;
mod go;
mod handler;
mod resume;
mod signals;
mod watch;

use std::io::{IsTerminal, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, WaitOptions};
use tokio_util::sync::CancellationToken;

use crate::app::{self, App, Purpose};
use crate::cli::{Dev, LogFormat};
use crate::config::{AdoptedListener, Config, Env, LogEncoding, TriggerKind, Unanswered};
use crate::fields;
use crate::logging::Logger;
use crate::logging::sink::Writer;
use crate::reaper::{self, Children};
use crate::run::{self, Stops};
use broken::Broken;
use resume::Folder;
use watch::{Subject, Watch};

/// Time for requests in work when a source has changed. What is then left is cut off if it has begun to be answered, as
/// streams have, which may have no end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Time after that for requests that wait for their answers.
const LAST_REQUESTS: Duration = Duration::from_secs(9);
/// How often is looked whether they have all been answered.
const LOOK: Duration = Duration::from_millis(10);
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
        signals::release()?; // Those that came between two starts.
        let listener = resume::listener(self.arguments)?;
        let mut watch = Watch::new(self.subject());
        let writer = Writer::start()?;
        let logger = self.logger(&prepared, &writer);
        let unanswered = Unanswered::default();
        let started = tokio::select! {
            started = self.start(prepared, &listener, &unanswered, writer) => started?,
            // Children end with us.
            _ = stops.next() => return Ok(()),
            changed = watch.changed() => return self.again(&changed, listener, stops).await,
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
                        let all_ended = drain(*app, &mut stops, &mut watch, &unanswered).await;
                        if all_ended { self.again(&changed, listener, stops).await } else { Ok(()) }
                    }
                }
            }
            Started::Broken(why) => {
                watch.add_named_in(&why);
                say(&self.tone.bad(&format!("\n{why}")));
                say("\nThe handler did not start; waiting for its source to change (Ctrl-C ends)");
                say(&format!("Until then this is the answer at {}", url(&listener)));
                let broken = Broken::serve(&listener, &why, &logger)?;
                let changed = tokio::select! {
                    _ = stops.next() => None,
                    changed = watch.changed() => Some(changed),
                };
                broken.stop().await;
                match changed {
                    Some(changed) => self.again(&changed, listener, stops).await,
                    None => Ok(()),
                }
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
        unanswered: &Unanswered,
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
        let adopted =
            AdoptedListener { listener: Arc::new(listener.try_clone()?), unanswered: unanswered.clone() };
        for trigger in &mut config.function.triggers {
            if let TriggerKind::Http(http) = &mut trigger.kind {
                http.request_records = true;
                http.adopted = Some(adopted.clone());
            }
        }
        let library = config.env.golang_plugin.clone().filter(|_| build.is_none());
        match App::start(config, writer, Purpose::Trial, &Children::default()).await {
            Ok(app) => Ok(Started::Running(Box::new(app))),
            Err(error) => match &self.arguments.file {
                None => Err(error),
                Some(file) => {
                    Ok(Started::Broken(handler::in_words_of(&explain(&error), file, library.as_deref())))
                }
            },
        }
    }

    /// Tells a person what to do next.
    fn greet(&self, listener: &TcpListener) {
        if let Some(millis) = resume::since_change(self.arguments) {
            let text = format!("Serving what has changed at {}, after {millis} ms", url(listener));
            return say(&self.tone.good(&text));
        }
        let url = url(listener);
        say(&format!("\nHandler answers at {}\nTry: curl -i {url}/ -d 'hello'", self.tone.good(&url)));
        if let Some(samples) = samples(self.arguments.file.as_deref()) {
            let at = if url.ends_with(":8080") { String::new() } else { format!(" --url {url}") };
            say(&format!("     processor invoke {samples}{at}"));
        }
        say("");
    }

    /// A new program in the place of this one,
    /// unless a stop has been asked for.
    async fn again(&self, changed: &Path, listener: TcpListener, mut stops: Stops) -> anyhow::Result<()> {
        end_processes();
        say(&format!("{} has changed, starting again", changed.display()));
        signals::hold().context("cannot keep signals for the next start")?;
        tokio::select! {
            biased;
            _ = stops.next() => Ok(()),
            // One look at what has happened so far.
            () = tokio::time::sleep(Duration::from_millis(1)) => Err(resume::restart(self.arguments, listener)),
        }
    }
}

/// Where clients on this computer find it.
fn url(listener: &TcpListener) -> String {
    let Ok(address) = listener.local_addr() else { return String::new() };
    match address.ip() {
        ip if ip.is_unspecified() => format!("http://127.0.0.1:{}", address.port()),
        _ => format!("http://{address}"),
    }
}

/// The requests that lie beside a handler.
fn samples(handler: Option<&Path>) -> Option<String> {
    let folder = handler?.parent()?;
    let found = ["request.http", "request.json"].map(|name| folder.join(name));
    found.into_iter().find(|file| file.is_file()).map(|file| file.display().to_string())
}

/// Lets requests in work end. False: a stop was asked for meanwhile.
async fn drain(app: App, stops: &mut Stops, watch: &mut Watch, unanswered: &Unanswered) -> bool {
    let hurry = CancellationToken::new();
    let draining = app.drain(hurry.clone());
    tokio::pin!(draining);
    let stopped = tokio::select! {
        _ = &mut draining => return true, // What still runs ends with the program.
        stopped = patience(stops, watch, unanswered) => stopped,
    };
    hurry.cancel();
    draining.await;
    !stopped
}

/// Waits until requests in work have had their time. True: a stop was asked for.
async fn patience(stops: &mut Stops, watch: &mut Watch, unanswered: &Unanswered) -> bool {
    // What has been answered may still be on its way.
    let answered = async {
        let mut last = Instant::now();
        while last.elapsed() < LAST_ANSWERS {
            tokio::time::sleep(LOOK).await;
            if unanswered.count() > 0 {
                last = Instant::now();
            }
        }
    };
    let cut_off = async {
        let saves = async {
            loop {
                watch.changed().await; // They belong together, and all will be loaded.
            }
        };
        drop(tokio::time::timeout(LAST_ANSWERS, saves).await);
        match unanswered.count() {
            0 => std::future::pending().await,
            1 => say_waiting("1 request is"),
            count => say_waiting(&format!("{count} requests are")),
        }
        drop(tokio::time::timeout(LAST_REQUESTS, watch.changed()).await);
    };
    tokio::select! {
        _ = stops.next() => true,
        () = answered => false,
        () = cut_off => false,
    }
}

fn say_waiting(left: &str) {
    let seconds = LAST_REQUESTS.as_secs();
    say(&format!(
        "A source has changed, and {left} not answered yet: waiting {seconds} s at most (saving again cuts off, Ctrl-C ends)"
    ));
}

/// Children of this process that are left, whose handlers do not return, are none of the next start's.
fn end_processes() {
    let children: Vec<Pid> = reaper::children().into_iter().filter_map(Pid::from_raw).collect();
    for child in &children {
        // Most lead a group of their own.
        rustix::process::kill_process_group(*child, Signal::KILL).unwrap_or_default();
        rustix::process::kill_process(*child, Signal::KILL).unwrap_or_default();
    }
    let end = Instant::now() + LAST_PROCESSES;
    for child in children {
        while matches!(rustix::process::waitpid(Some(child), WaitOptions::NOHANG), Ok(None)) {
            if Instant::now() > end {
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
