//! What the pool asks of a worker behind a wrapper of shim protocol 1: drain, continue. Nothing of the pool but the
//! queue is there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
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
use nuclio_processor::runtime::shim::v1::Wrapper;
use nuclio_processor::runtime::shim::worker::Command;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::harness::{PATIENCE, python};

/// A worker and its queue.
struct Bench {
    queue: Arc<Queue<Desk>>,
    running: Running,
    _folder: TempDir,
}

impl Bench {
    async fn start(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wrapper.py");
        std::fs::write(&path, include_str!("../handlers/python/wrapper_v1/wrapper.py")).unwrap();
        let queue = Arc::new(Queue::new(PoolCounters::new(1), 10));
        let language = LANGUAGES.iter().find(|language| language.name == "python").unwrap();
        let launch = Launch {
            program: python().into(),
            arguments: vec!["-u".into()],
            environment: environment.iter().map(|(name, value)| ((*name).into(), value.into())).collect(),
            wrapper: Some(Wrapper::find(&path, language.dialect.as_ref().unwrap())),
            answer_bytes_max: 1 << 20,
            files: Vec::new(),
            errors_to: Stream::Err,
        };
        let recipe = Recipe {
            language,
            launch: Arc::new(launch),
            init: vec![("handler", "main:handler".to_owned())],
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
        let running = recipe.start(&id).await.unwrap();
        Self { queue, running, _folder: folder }
    }

    fn submit(&self, path: &str) -> oneshot::Receiver<Reply> {
        let event = Event {
            id: EventId::random(),
            trigger: Arc::new(TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "h".into() }),
            timestamp: SystemTime::now(),
            target: Target::Plain { method: String::new(), path: path.into(), url: String::new() },
            header_map: http::HeaderMap::new(),
            body: Bytes::from_static(b"alive").into(),
            log_buffer: None,
            trace: None,
            extra: None,
        };
        let (job, reply) = Job::new(Box::new(event), PATIENCE);
        if let Some((desk, job)) = self.queue.admit(job) {
            desk.hand(job);
        }
        reply
    }

    async fn control(&self, code: ControlCode, allowed: Duration) -> oneshot::Receiver<Result<(), String>> {
        let (done, outcome) = oneshot::channel();
        self.running.commands.send(Command::Control(code, allowed, done)).await.unwrap();
        outcome
    }
}

fn text(reply: Reply) -> String {
    match reply.unwrap().body {
        Body::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Events in work are answered first; then nothing is sent to the worker until it may continue.
async fn check_drain(environment: &[(&str, &str)]) {
    let bench = Bench::start(environment).await;
    let late = bench.submit("/late/0.4");
    let drained = bench.control(ControlCode::Drain, PATIENCE).await;
    let mut during = bench.submit("/echo");
    assert_eq!(text(late.await.unwrap()), "late");
    drained.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(during.try_recv().is_err(), "a drained worker gets no event");
    bench.control(ControlCode::Continue, PATIENCE).await.await.unwrap().unwrap();
    assert_eq!(text(during.await.unwrap()), "alive");
    assert_eq!(text(bench.submit("/echo").await.unwrap()), "alive");
}

#[tokio::test]
async fn a_drain_waits_for_the_event_in_work_and_for_the_wrappers_word() {
    tokio::time::timeout(PATIENCE, check_drain(&[])).await.unwrap();
}

#[tokio::test]
async fn a_drain_of_a_wrapper_that_says_nothing_ends_with_its_silence() {
    tokio::time::timeout(PATIENCE, check_drain(&[("WRAPPER_DRAIN", "silent")])).await.unwrap();
}
