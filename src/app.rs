//! Assembly: from a [`Config`] to a running processor ([`App::start`]) and back to nothing ([`App::drain`]). The
//! order of starting and stopping is here and nowhere else.
//!
//! Threads: this one (signals, keepers, processes), the admin thread, the event threads, the log writer.

mod plan;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::admin::readiness::{Readiness, Watched};
use crate::admin::{Admin, Push, TriggerView};
use crate::config::{
    self, Config, MetricSinkKind, Platform, PlatformKind, SeveralFor, Timetable, TriggerKind,
};
use crate::dispatch::Dispatcher;
use crate::event::{BodyBudget, TriggerInfo};
use crate::fields;
use crate::link::Link;
use crate::logging::Logger;
use crate::logging::sink::Writer;
use crate::metrics::TriggerCounters;
use crate::metrics::text::{Exposition, Source};
use crate::otlp::Otlp;
use crate::pool::{CALLS_MAX, Pool};
use crate::reaper::{self, Children};
use crate::runtime::Runtime;
use crate::runtime::inprocess::STACK_BYTES;
use crate::runtime::inprocess::balance::Awake;
use crate::runtime::inprocess::reserve::Reserve;
use crate::runtime::plugin::Library;
use crate::shutdown::Shutdown;
use crate::trigger::{self, TriggerContext};
use crate::turns::own;
use plan::{plan_pools, pool_name};

/// Threads beside those that may be inside handlers: one polls I/O, one is on its way.
const SPARE_THREADS: usize = 2;
/// Every which turn of a thread goes to the queue that all share. There is what does not fit into the thread's own, of 256
/// tasks, and nobody else to take it while one thread takes turns; the queue is seldom looked into, as it is mostly empty.
const OVERFLOW_TURN: u32 = 2;
/// Files to send that are read at the same moment.
const BLOCKING_THREADS_MAX: usize = 32;
/// Linger on Kubernetes, where requests arrive for a while after the stop was asked for.
const KUBE_LINGER: Duration = Duration::from_secs(5);
/// Time for the last spans to reach their collector.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// Time for what is left once a drain has run out of time.
const LAST_MOMENTS: Duration = Duration::from_millis(500);

/// Where `/__internal/health` is served when the function has no HTTP trigger and wants none.
const INTERNAL_HEALTH: &str = ":8080";

/// A running processor.
pub struct App {
    config: Arc<Config>,
    logger: Logger,
    shutdown: Shutdown,
    admin: Admin,
    /// `None`: tracing is off.
    otlp: Option<Otlp>,
    runtime: Runtime,
    pools: Vec<Arc<Pool>>,
    triggers: Vec<JoinHandle<()>>,
    /// Ends the event threads.
    events: EventThreads,
}

/// Whom the processor runs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A container: a health port that cannot be bound ends the start.
    Service,
    /// A person who tries a handler: side servers are a bonus, and nobody asked about configuration or metrics.
    Trial,
}

impl App {
    /// Starts everything in the order that images depend on: health answers first, triggers listen only once every
    /// worker is ready. Call it on a thread that lasts as long as the process.
    ///
    /// # Errors
    /// What could not be started and what to do about it; nothing is left running then.
    pub async fn start(
        config: Config,
        writer: Writer,
        purpose: Purpose,
        children: &Children,
    ) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let logger = Logger::new(config.function.log_sinks.clone(), !config.env.no_color, writer);
        let version = serde_json::json!({"label": env!("CARGO_PKG_VERSION"), "os": "linux", "arch": std::env::consts::ARCH});
        logger.info("Starting processor", fields! {"version" => version});
        if purpose == Purpose::Service {
            logger.debug("Read configuration", fields! {"config" => config.redacted()});
        }
        for warning in &config.warnings {
            logger.warn(warning, fields! {});
        }
        let shutdown = Shutdown::default();
        let readiness = Arc::new(Readiness::new(shutdown.clone()));
        let admin = Admin::start(logger.clone()).context("Failed to start the side servers")?;
        if let Some(address) = &config.platform.health {
            let started = admin.health(address, readiness.clone());
            side_server(started, "health", Platform::HEALTH_KEY, address, purpose, &logger)?;
        }
        for trigger in &config.function.triggers {
            trigger::check(trigger).context("Failed to create triggers")?;
        }
        // Before a library is loaded, as every handler of signals must be.
        reaper::start(children.clone());
        let runtime = Runtime::load(&config, &logger).context("Failed to create triggers")?;
        warn_of_batches(&config, &runtime, &logger);
        if config.function.recycle.is_some() && matches!(runtime, Runtime::InProcess(_)) {
            let message = "spec.runtimeAttributes.recycle has no effect: this handler is a library inside the processor, \
                           not a process; remove it, or build the handler as a program";
            logger.warn(message, fields! {});
        }
        let events = EventThreads::start(&runtime, &config).context("Failed to start the event threads")?;
        let (pools, triggers) = (Vec::new(), Vec::new());
        let otlp = Otlp::start(&config, &logger).context("Failed to start the export of traces")?;
        let mut app = Self { config, logger, shutdown, admin, otlp, runtime, pools, triggers, events };
        match app.start_triggers(&readiness, children, purpose).await {
            Ok(()) => {
                readiness.started();
                app.logger.debug("Processor started", fields! {});
                Ok(app)
            }
            Err(error) => {
                app.abandon().await;
                Err(error)
            }
        }
    }

    async fn start_triggers(
        &mut self,
        readiness: &Arc<Readiness>,
        children: &Children,
        purpose: Purpose,
    ) -> anyhow::Result<()> {
        let plans = plan_pools(&self.config);
        let starts = plans.iter().map(|plan| {
            let mut settings = plan.settings(&self.config, children, &self.events);
            if purpose == Purpose::Trial {
                settings.init.push(("late_handler", "0".to_owned())); // Somebody waits for mistakes to be named.
            }
            Pool::start(&self.runtime, settings, self.events.handle.clone(), &self.logger)
        });
        let mut pools = BTreeMap::new();
        for (plan, started) in plans.iter().zip(join_all(starts).await) {
            let pool = started.context("Failed to create triggers")?;
            self.pools.push(pool.clone());
            pools.insert((plan.name.clone(), plan.shared), pool);
        }
        let statuses = pools.iter().map(|((name, _), pool)| (name.clone(), pool.status().clone()));
        let mut watched = Watched { pools: statuses.collect(), links: Vec::new() };
        let bodies = BodyBudget::new(self.config.env.body_bytes_in_flight_max);
        let (mut sources, mut views, mut built) = (Vec::new(), Vec::new(), Vec::new());
        for (index, trigger) in self.config.function.triggers.iter().enumerate() {
            // A trigger may be named like an allocator.
            let pool = &pools[&(pool_name(trigger).to_owned(), trigger.allocator.is_some())];
            let info = TriggerInfo {
                index: index as u16,
                class: trigger.kind.class(),
                kind: trigger.kind.name().to_owned(),
                name: trigger.name.clone(),
            }
            .forever();
            let counters = Arc::new(TriggerCounters::default());
            let link = Link::default();
            watched.links.push((trigger.name.clone(), link.clone()));
            let cx = TriggerContext {
                info,
                events: Dispatcher::new(pool.clone(), counters.clone(), trigger.availability_timeout)
                    .with_tracer(self.otlp.as_ref().map(|otlp| otlp.tracer().clone())),
                event_timeout: self.config.function.event_timeout,
                bodies: bodies.clone(),
                shutdown: self.shutdown.clone(),
                link: link.clone(),
                logger: self.logger.child(&info.kind),
            };
            let _entered = self.events.handle.enter();
            let logger = cx.logger.clone();
            let task = trigger::build(trigger, cx).context("Failed to start trigger")?.task;
            built.push(trigger::guarded(task, trigger.name.clone(), link, logger));
            views.push(view(trigger, &self.config, &counters, pool));
            sources.push(Source { trigger: info, counters, pool: pool.counters().clone() });
        }
        readiness.watch(watched);
        self.start_internal_health(readiness)?;
        self.triggers = built.into_iter().map(|task| self.events.handle.spawn(own(task))).collect();
        self.start_side_servers(views, sources, purpose);
        Ok(())
    }

    /// Kubernetes probes port 8080 of every function, also of those without an HTTP trigger.
    fn start_internal_health(&self, readiness: &Arc<Readiness>) -> anyhow::Result<()> {
        if !self.config.function.default_http_trigger_disabled {
            return Ok(());
        }
        let started = self.admin.internal_health(INTERNAL_HEALTH, readiness.clone());
        let key = "disableDefaultHTTPTrigger";
        side_server(started, "internal health", key, INTERNAL_HEALTH, Purpose::Service, &self.logger)
    }

    fn start_side_servers(&self, views: Vec<TriggerView>, sources: Vec<Source>, purpose: Purpose) {
        if let Some(address) = &self.config.platform.web_admin {
            let started = self.admin.web_admin(address, views);
            drop(side_server(
                started,
                "web admin",
                Platform::WEB_ADMIN_KEY,
                address,
                Purpose::Trial,
                &self.logger,
            ));
        }
        let spans = self.otlp.as_ref().and_then(|otlp| otlp.counters().cloned());
        let exposition = Exposition::new(&self.config.function, sources, self.logger.clone());
        let exposition = Arc::new(exposition.with_spans(spans));
        for sink in &self.config.platform.metric_sinks {
            match &sink.kind {
                MetricSinkKind::PrometheusPull { listen } => {
                    let started = self.admin.metrics(listen, exposition.clone(), &sink.instance);
                    let key = sink.url_key();
                    drop(side_server(started, "metrics", &key, listen, Purpose::Trial, &self.logger));
                }
                MetricSinkKind::PrometheusPush { url, job, interval } => {
                    let (sink, instance) = (sink.name.clone(), sink.instance.clone());
                    let push =
                        Push { sink, url: url.clone(), job: job.clone(), instance, interval: *interval };
                    self.admin.push(push, exposition.clone());
                }
            }
        }
        if self.config.platform.metric_sinks.is_empty() && purpose == Purpose::Service {
            self.logger.warn("No metric sinks configured, metrics will not be published", fields! {});
        }
    }

    /// The logger.
    pub fn logger(&self) -> &Logger {
        &self.logger
    }

    /// Stops: nothing accepted is lost, and it takes no longer than that. `hurry`: whoever asks again. False: calls of
    /// a handler library still run, so the process must [`leave`].
    pub async fn drain(mut self, hurry: CancellationToken) -> bool {
        self.shutdown.drain();
        let limit = self.config.function.triggers.iter().map(|trigger| trigger.termination_timeout).max();
        let limit = limit.unwrap_or(Duration::from_secs(10));
        let drained = tokio::select! {
            drained = self.drain_steps(limit) => drained,
            () = hurry.cancelled() => false,
        };
        if !drained {
            self.logger.warn("Stopping before everything has ended", fields! {});
        }
        self.shutdown.kill.cancel();
        let stopped = stop_runtime(self.runtime, &self.logger).await;
        self.logger.info("All triggers are terminated", fields! {});
        self.logger.info("Processor quitting", fields! {});
        // Side by side: each may have to wait for somebody who does not answer.
        tokio::join!(self.admin.stop(), stop_tracing(self.otlp));
        self.events.stop.cancel();
        self.logger.writer().flush(LAST_MOMENTS);
        stopped
    }

    /// False: time ran out.
    async fn drain_steps(&mut self, limit: Duration) -> bool {
        let linger = self.config.env.drain_linger.unwrap_or(match self.config.platform.kind {
            PlatformKind::Kube => KUBE_LINGER,
            PlatformKind::Local => Duration::ZERO,
        });
        tokio::time::sleep(linger).await;
        self.shutdown.closing.cancel();
        let triggers = std::mem::take(&mut self.triggers);
        let finish = async {
            for trigger in triggers {
                drop(trigger.await); // One that panicked has nothing left to wait for.
            }
            self.pools.iter().for_each(|pool| pool.close());
            for pool in &self.pools {
                pool.drained().await;
            }
        };
        let deadline = Instant::now() + limit;
        let finished = tokio::time::timeout_at(deadline, finish).await.is_ok();
        let left = deadline.saturating_duration_since(Instant::now()).max(LAST_MOMENTS);
        join_all(self.pools.iter().map(|pool| pool.stop(left))).await;
        finished
    }

    /// A start that failed leaves nothing behind.
    async fn abandon(self) {
        let stops = join_all(self.pools.iter().map(|pool| pool.stop(LAST_MOMENTS)));
        drop(tokio::time::timeout(LAST_MOMENTS, stops).await);
        self.admin.stop().await;
        self.events.stop.cancel();
    }
}

/// Ends the process with code 0, whatever a handler library is still doing.
pub fn leave() -> ! {
    Library::leave()
}

/// Sends the last spans, within a bound.
async fn stop_tracing(otlp: Option<Otlp>) {
    if let Some(mut otlp) = otlp {
        otlp.stop(LAST_SPANS).await;
    }
}

/// Ends what the workers shared; whoever takes long over it is not waited for. False: it has not ended.
async fn stop_runtime(runtime: Runtime, logger: &Logger) -> bool {
    let stop = tokio::task::spawn_blocking(move || runtime.stop());
    match tokio::time::timeout(LAST_MOMENTS, stop).await {
        Ok(Ok(true)) => return true,
        Ok(_) => logger.debug("Handler library is still in use and not stopped", fields! {}),
        Err(_) => logger.warn("Handler library takes too long to stop", fields! {}),
    }
    false
}

/// Batches for a handler that takes none are refused one by one; better said once at the start.
fn warn_of_batches(config: &Config, runtime: &Runtime, logger: &Logger) {
    for trigger in &config.function.triggers {
        if let TriggerKind::Http(http) = &trigger.kind
            && http.batch.is_some()
            && !runtime.takes_batches()
        {
            let message = "The handler library has no handle_batch, so every event of this trigger is answered \
                           with 501; add it, or remove batch from the trigger";
            logger.warn(message, fields! {"trigger" => trigger.name});
        }
    }
}

/// A side server that could not be started: an error, or a line in the log.
fn side_server(
    started: std::io::Result<()>,
    name: &str,
    key: &str,
    address: &str,
    purpose: Purpose,
    logger: &Logger,
) -> anyhow::Result<()> {
    let Err(error) = started else { return Ok(()) };
    let message = format!("cannot listen on {address} for {name}: {error}; free the port or change {key}");
    if purpose == Purpose::Service {
        return Err(anyhow::anyhow!(message).context("Failed to start the side servers"));
    }
    logger.error("Side server does not run", fields! {"err" => message});
    Ok(())
}

/// The threads that run triggers, connections and in-process handlers.
struct EventThreads {
    handle: Handle,
    stop: CancellationToken,
    /// For in-process calls, when there may be more than threads.
    calls: Option<Arc<Semaphore>>,
    /// Those of the threads that sleep while calls are short.
    reserve: Arc<Reserve>,
}

impl EventThreads {
    /// In-process handlers may block their threads: as many as calls, and some to spare. Shims need one thread; a
    /// second one only costs wake-ups.
    fn start(runtime: &Runtime, config: &Config) -> std::io::Result<Self> {
        let stop = CancellationToken::new();
        let workers: usize = plan_pools(config).iter().map(|plan| plan.trigger.workers).sum();
        let calls = (workers > CALLS_MAX).then(|| Arc::new(Semaphore::new(CALLS_MAX)));
        let (mut builder, threads) = match runtime {
            Runtime::InProcess(_) => {
                // Calls that do not return keep their threads.
                let stuck = config.function.event_timeout.map_or(0, |_| config.env.stuck_threads_max);
                let threads = workers.min(CALLS_MAX) + SPARE_THREADS + stuck;
                let mut builder = Builder::new_multi_thread();
                builder.worker_threads(threads).thread_stack_size(STACK_BYTES);
                builder.global_queue_interval(OVERFLOW_TURN);
                (builder, threads)
            }
            Runtime::Shim(..) | Runtime::Shell(_) => (Builder::new_current_thread(), 1),
        };
        builder.max_blocking_threads(BLOCKING_THREADS_MAX);
        let awake = Arc::new(Awake::default());
        let (joining, leaving) = (awake.clone(), awake.clone());
        // Threads for blocking work start and stop as well, but do not park.
        builder.on_thread_park(move || joining.join()).on_thread_stop(move || leaving.leave());
        let runtime = builder.enable_all().thread_name("events").build()?;
        let handle = runtime.handle().clone();
        let cpus = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let reserve = Reserve::start(&handle, threads - 1, cpus, awake);
        let (end, sleepers) = (stop.clone(), reserve.clone());
        let main = move || {
            runtime.block_on(end.cancelled());
            sleepers.dismiss();
            runtime.shutdown_background(); // Calls that do not return are not waited for.
        };
        std::thread::Builder::new().name("events".into()).spawn(main)?;
        Ok(Self { handle, stop, calls, reserve })
    }
}

fn view(
    trigger: &config::Trigger,
    config: &Config,
    counters: &Arc<TriggerCounters>,
    pool: &Arc<Pool>,
) -> TriggerView {
    let function = &config.function;
    let mut configuration = serde_json::json!({
        "class": trigger.kind.class(),
        "kind": trigger.kind.name(),
        "name": trigger.name,
        "numWorkers": trigger.workers,
        "workerTerminationTimeout": config::duration::format(trigger.termination_timeout),
        "workerAvailabilityTimeoutMilliseconds": trigger.availability_timeout.as_millis() as u64,
        "RuntimeConfiguration": {
            "metadata": {"name": function.name, "namespace": function.namespace},
            "TriggerName": trigger.name,
            "TriggerKind": trigger.kind.name(),
            "runtime": function.runtime.name(),
        },
    });
    if let TriggerKind::Cron(cron) = &trigger.kind {
        let (interval, schedule) = match &cron.timetable {
            Timetable::Every(interval) => (config::duration::format(*interval), String::new()),
            Timetable::Schedule(schedule) => (String::new(), schedule.text().to_owned()),
        };
        configuration["Interval"] = interval.into();
        configuration["Schedule"] = schedule.into();
        configuration["ConcurrencyPolicy"] = cron.concurrency.name().into();
        configuration["MissedRuns"] = cron.missed.name().into();
    }
    if let TriggerKind::Cron(config::CronTrigger { event, .. }) | TriggerKind::Kickstart(event) =
        &trigger.kind
    {
        // Body, values of headers and a query may hold secrets.
        let path = event.path.split('?').next().unwrap_or_default();
        let headers: Vec<&String> = event.headers.keys().collect();
        configuration["Event"] =
            serde_json::json!({"Method": event.method, "Path": path, "Headers": headers});
    }
    if let TriggerKind::Http(http) = &trigger.kind {
        configuration["url"] = http.listen.as_str().into();
        configuration["readBufferSize"] = http.head_bytes_max.into();
        configuration["maxRequestBodySize"] = http.body_bytes_max.into();
        configuration["reduceMemoryUsage"] = http.reduce_memory.into();
        if let Some(batch) = &http.batch {
            let timeout = config::duration::format(batch.timeout);
            configuration["batch"] =
                serde_json::json!({"mode": "enable", "batchSize": batch.size, "timeout": timeout});
        }
        let asynchronous = http.in_flight_per_worker > 1 && http.several_for == SeveralFor::Any;
        configuration["mode"] = if asynchronous { "async" } else { "sync" }.into();
        if let Some(cors) = &http.cors {
            configuration["cors"] = serde_json::json!({
                "Enabled": true,
                "AllowOrigins": cors.allow_origins,
                "AllowMethods": cors.allow_methods,
                "AllowHeaders": cors.allow_headers,
                "AllowCredentials": cors.allow_credentials,
                "ExposeHeaders": cors.expose_headers,
                "PreflightMaxAgeSeconds": cors.preflight_max_age_seconds,
            });
        }
    }
    TriggerView {
        name: trigger.name.clone(),
        configuration,
        counters: counters.clone(),
        pool: pool.counters().clone(),
        status: pool.status().clone(),
    }
}

/// All results, in order; the futures run side by side.
async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, result) in &mut running {
            if result.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *result = Some(value),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, result)| result).collect()
}
