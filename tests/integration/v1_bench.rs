//! One worker behind a wrapper of shim protocol 1, and its queue: nothing else of the processor is there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nuclio_processor::config::{Config, Env};
use nuclio_processor::event::{Body, Event, EventId, Target, TriggerInfo, WorkerId};
use nuclio_processor::logging::Logger;
use nuclio_processor::logging::sink::Stream;
use nuclio_processor::metrics::PoolCounters;
use nuclio_processor::queue::{Job, Queue, Reply};
use nuclio_processor::reaper::Children;
use nuclio_processor::runtime::shim::desk::Desk;
use nuclio_processor::runtime::shim::languages::LANGUAGES;
use nuclio_processor::runtime::shim::process::Launch;
use nuclio_processor::runtime::shim::protocol::v2::ControlCode;
use nuclio_processor::runtime::shim::start::{Recipe, Running};
use nuclio_processor::runtime::shim::v1::{Dialect, Wrapper};
use nuclio_processor::runtime::shim::worker::Command;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::harness::PATIENCE;

/// A worker and its queue.
pub struct Bench {
    queue: Arc<Queue<Desk>>,
    /// Its process and its task.
    pub running: Running,
    _folder: TempDir,
}

impl Bench {
    /// With a wrapper in this folder, where its handlers are, too. The environment gets what the dialect adds.
    pub async fn start(
        folder: TempDir,
        file: &str,
        dialect: &'static Dialect,
        program: &str,
        environment: &[(&str, &str)],
        handler: &str,
    ) -> Result<Self, String> {
        let queue = Arc::new(Queue::new(PoolCounters::new(1), 10));
        let given = environment.iter().chain(dialect.environment);
        let launch = Launch {
            fork_server: None,
            program: program.into(),
            arguments: (dialect.options)(&config()).unwrap(),
            environment: given.map(|(name, value)| ((*name).into(), value.into())).collect(),
            wrapper: Some(Wrapper::find(&folder.path().join(file), dialect)),
            answer_bytes_max: 1 << 20,
            files: Vec::new(),
            socket_fd: 3,
            errors_to: Stream::Err,
        };
        let handler_dir = folder.path().display().to_string();
        let recipe = Recipe {
            language: &LANGUAGES[0], // For its name in messages alone.
            launch: Arc::new(launch),
            init: vec![("handler", handler.to_owned()), ("handler_dir", handler_dir)],
            event_timeout: None,
            in_flight_max: 1,
            batches: false,
            ahead_max: 0,
            start_timeout: PATIENCE,
            runtime: tokio::runtime::Handle::current(),
            queue: queue.clone(),
            logger: Logger::silent(),
            children: Children::default(),
        };
        let id = WorkerId { trigger_kind: "http".into(), trigger_name: "h".into(), index: 0 };
        let running = recipe.start(&id).await.map_err(|error| error.to_string())?;
        Ok(Self { queue, running, _folder: folder })
    }

    /// Gives it an event with this path.
    pub fn submit(&self, path: &str) -> oneshot::Receiver<Reply> {
        self.submit_body(path, Bytes::from_static(b"alive"))
    }

    /// Gives it an event with this path and body.
    pub fn submit_body(&self, path: &str, body: Bytes) -> oneshot::Receiver<Reply> {
        let event = Event {
            id: EventId::random(),
            trigger: TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "h".into() }.forever(),
            timestamp: SystemTime::now(),
            target: Target::Plain { method: String::new(), path: path.into(), url: String::new() },
            header_map: http::HeaderMap::new(),
            body: body.into(),
            log_buffer: None,
            trace: None,
            extra: None,
            web: None,
        };
        let (job, reply) = Job::new(Box::new(event), PATIENCE);
        if let Some((desk, job)) = self.queue.admit(job) {
            desk.hand(job);
        }
        reply
    }

    /// Asks for a control.
    pub async fn control(
        &self,
        code: ControlCode,
        allowed: Duration,
    ) -> oneshot::Receiver<Result<(), String>> {
        let (done, outcome) = oneshot::channel();
        self.running.commands.send(Command::Control(code, allowed, done)).await.unwrap();
        outcome
    }
}

/// As if nothing were configured.
fn config() -> Config {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("processor.yaml");
    std::fs::write(&file, "{metadata: {name: f}, spec: {runtime: java, handler: H}}").unwrap();
    let env = Env::from_lookup(|_| None).unwrap();
    Config::load(&file, Path::new("/nonexistent"), env).unwrap()
}

/// The body of an answer.
pub fn text(reply: Reply) -> String {
    match reply.unwrap().body {
        Body::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}
