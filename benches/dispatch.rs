//! What lending a worker costs: the queue alone, then an event through a pool of the built-in handler and back, on event
//! threads as the processor has them. What a request through the HTTP trigger costs is the load harness' question.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, Method, Uri};
use nuclio_processor::event::{Event, EventBody, EventId, Target, TriggerInfo};
use nuclio_processor::logging::Logger;
use nuclio_processor::metrics::{PoolCounters, TriggerCounters};
use nuclio_processor::pool::{Pool, Settings};
use nuclio_processor::queue::{Job, Lend, Queue};
use nuclio_processor::reaper::Children;
use nuclio_processor::runtime::Runtime;
use nuclio_processor::runtime::inprocess::Source;
use nuclio_processor::runtime::inprocess::reserve::Reserve;
use tokio::runtime::{Builder, Handle};

/// Workers of a pool.
const WORKERS: usize = 8;
/// Longest wait for a worker.
const WAIT: Duration = Duration::from_secs(10);
/// Callers that submit at the same time.
const CALLERS: u64 = 64;

fn trigger() -> &'static TriggerInfo {
    TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "default-http".into() }.forever()
}

fn event(trigger: &'static TriggerInfo) -> Box<Event> {
    Box::new(Event {
        id: EventId::random(),
        trigger,
        timestamp: SystemTime::now(),
        target: Target::Http { method: Method::GET, uri: Uri::from_static("/"), path: None },
        header_map: HeaderMap::new(),
        body: EventBody::none(),
        log_buffer: None,
        trace: None,
        extra: None,
        web: None,
    })
}

/// A worker, by its number.
#[derive(PartialEq)]
struct Worker(usize);

impl Lend for Worker {}

fn queue(criterion: &mut Criterion) {
    let trigger = trigger();
    let mut group = criterion.benchmark_group("queue");
    group.bench_function("an event and its reply handle, nothing else", |bencher| {
        bencher.iter(|| Job::new(event(trigger), WAIT));
    });
    group.bench_function("admit with an idle worker, next", |bencher| {
        let queue = Queue::new(PoolCounters::new(WORKERS), 1024);
        (0..WORKERS).for_each(|worker| drop(queue.next(Worker(worker))));
        bencher.iter(|| {
            let (job, reply) = Job::new(event(trigger), WAIT);
            let (worker, job) = queue.admit(job).expect("a worker is idle");
            queue.counters().started(Duration::ZERO);
            queue.finished(worker.0, Duration::ZERO);
            black_box(queue.next(worker));
            (job, reply)
        });
    });
    group.bench_function("admit with no idle worker, next", |bencher| {
        let queue = Queue::new(PoolCounters::new(1), 1024);
        bencher.iter(|| {
            let (job, reply) = Job::new(event(trigger), WAIT);
            assert!(queue.admit(job).is_none(), "it waits");
            let (worker, job) = queue.next(Worker(0)).expect("one waits");
            queue.counters().started(Duration::ZERO);
            queue.finished(worker.0, Duration::ZERO);
            (job, reply)
        });
    });
    group.finish();
}

/// All that is counted for one event of a handler in process that finds an idle worker, and nothing else.
fn counters(criterion: &mut Criterion) {
    criterion.bench_function("counters/one event", |bencher| {
        let (pool, trigger) = (PoolCounters::new(WORKERS), TriggerCounters::default());
        let taken = Duration::from_micros(3);
        bencher.iter(|| {
            pool.allocating(black_box(700) / WORKERS as u64);
            pool.allocated_at_once();
            pool.started(black_box(taken));
            pool.finished(black_box(5), black_box(taken));
            trigger.count(Ok(()));
            trigger.responded(black_box(20));
        });
    });
}

/// `reserve`: of the event threads.
fn settings(reserve: Arc<Reserve>) -> Settings {
    Settings {
        trigger_kind: "http".into(),
        name: "default-http".into(),
        workers: WORKERS,
        event_timeout: Some(Duration::from_secs(30)),
        in_flight_per_worker: 1,
        batches: false,
        ahead_max: 0,
        start_timeout: WAIT,
        waiting_max: 1024,
        stuck_max: 4,
        calls: None,
        reserve,
        init: Vec::new(),
        recycling: None,
        children: Children::default(),
    }
}

/// Submits `count` events one after the other, as a connection does.
async fn submit(pool: Arc<Pool>, trigger: &'static TriggerInfo, count: u64) {
    for _ in 0..count {
        let reply = pool.submit(event(trigger), WAIT).await;
        black_box(reply.expect("it is answered").expect("the handler answers"));
    }
}

/// The time that `callers` take for `each` events a caller, on the event threads.
async fn measure(
    pool: &Arc<Pool>,
    trigger: &'static TriggerInfo,
    events: &Handle,
    callers: u64,
    each: u64,
) -> Duration {
    let begun = Instant::now();
    let running: Vec<_> = (0..callers).map(|_| events.spawn(submit(pool.clone(), trigger, each))).collect();
    for caller in running {
        caller.await.expect("no caller panics");
    }
    begun.elapsed()
}

fn pool(criterion: &mut Criterion) {
    let events =
        Builder::new_multi_thread().worker_threads(WORKERS + 2).enable_all().build().expect("threads");
    let main = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let runtime = Runtime::InProcess(Source::Builtin);
    let handle = events.handle().clone();
    let reserve = Reserve::start(&handle, WORKERS + 1, 1, Arc::default()); // One is awake.
    let pool = main
        .block_on(Pool::start(&runtime, settings(reserve.clone()), handle.clone(), &Logger::silent()))
        .expect("the built-in handler starts");
    let trigger = trigger();
    let mut group = criterion.benchmark_group("event through a pool of the built-in handler");
    group.throughput(Throughput::Elements(1));
    for (name, callers) in [("one caller", 1), ("64 callers", CALLERS)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let each = count.div_ceil(callers);
                let taken = main.block_on(measure(&pool, trigger, &handle, callers, each));
                taken.mul_f64(count as f64 / (each * callers) as f64)
            });
        });
    }
    group.finish();
    main.block_on(pool.stop(WAIT));
    reserve.dismiss();
}

criterion_group!(benches, queue, counters, pool);
criterion_main!(benches);
