//! The configuration of one processor: function file, platform file and environment, read once.
//!
//! After [`Config::load`] nothing is a string that means something else: durations are durations, kinds are enums,
//! every default is filled in. Nothing outside this module reads the environment or knows a configuration key.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

mod address;
mod adopted;
mod cron_trigger;
mod decode;
pub mod duration;
mod env;
pub mod env_file;
mod error;
mod for_handler;
mod function;
mod function_keys;
mod http_trigger;
mod ignored;
pub mod lint;
mod load;
mod log_sinks;
mod metric_sinks;
mod nearest;
pub mod percent;
mod platform;
mod redacted;
pub mod report;
mod scalar;
pub mod schedule;
pub mod schema;
mod secrets;
mod sinks;
mod source;
mod tabs;
mod template;
#[cfg(test)]
mod tests;
mod tracing;
mod trigger;
mod workers;
mod yaml;
mod zone;

pub use adopted::{AdoptedListener, Owed, Unanswered};
pub use cron_trigger::{ConcurrencyPolicy, CronTrigger, EventTemplate, MissedRuns, Timetable};
pub use error::{ConfigError, Problem};
pub(crate) use nearest::nearest;
pub use report::report;
pub use tracing::{Export, Root, Sampler, Tracing};
pub use trigger::SERVED_KINDS;
pub use workers::Recycle;
pub use zone::local_zone;

/// Everything the processor was told, resolved.
#[derive(Debug, Clone)]
pub struct Config {
    /// `processor.yaml`.
    pub function: Function,
    /// `platform.yaml`, or its defaults.
    pub platform: Platform,
    /// The environment variables we read.
    pub env: Env,
    /// What was odd but not wrong: unknown keys, ignored settings, mended values. One line each.
    pub warnings: Vec<String>,
}

/// The function: `metadata` and `spec` of `processor.yaml`.
#[derive(Debug, Clone, Default)]
pub struct Function {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// Label `nuclio.io/project-name`, else empty.
    pub project: String,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.description`.
    pub description: String,
    /// `spec.version`.
    pub version: i64,
    /// `spec.runtime`, the part before the colon.
    pub runtime: RuntimeKind,
    /// `spec.handler` as written.
    pub handler: String,
    /// `spec.eventTimeout`; `None` when absent or empty.
    pub event_timeout: Option<Duration>,
    /// `spec.readinessTimeoutSeconds`, when positive.
    pub readiness_timeout: Option<Duration>,
    /// `spec.triggers`, in the order of the file; disabled ones are left out (with a warning).
    pub triggers: Vec<Trigger>,
    /// `spec.loggerSinks` resolved against the platform: the sinks of processor and function logs, never empty.
    pub log_sinks: Vec<LogSink>,
    /// `spec.runtimeAttributes`.
    pub runtime_attributes: serde_json::Map<String, serde_json::Value>,
    /// `spec.runtimeAttributes.preload`: workers are forked from a process that has loaded the handler.
    pub preload: bool,
    /// `spec.runtimeAttributes.recycle`: when workers are replaced by fresh ones.
    pub recycle: Option<Recycle>,
    /// `spec.env` entries with a literal value, in order (only the shell runtime gives them to children).
    pub env: Vec<(String, String)>,
    /// No HTTP trigger, and none wanted: `disableDefaultHTTPTrigger` of function or platform.
    pub default_http_trigger_disabled: bool,
    /// The whole function file as YAML after secrets were restored; handed to compiled handlers.
    pub yaml: String,
}

/// Kinds of `spec.runtime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RuntimeKind {
    /// The demonstration handler inside the processor: handler or build path `nuclio:builtin`.
    #[default]
    Builtin,
    /// `golang`: a compiled handler, in process or as executable.
    Golang,
    /// `python`.
    Python,
    /// `nodejs`.
    NodeJs,
    /// `java`.
    Java,
    /// `dotnetcore`.
    DotNetCore,
    /// `ruby`.
    Ruby,
    /// `shell`.
    Shell,
}

impl RuntimeKind {
    /// Every kind that `spec.runtime` can name, sorted by name.
    pub const NAMED: [(&str, RuntimeKind); 7] = [
        ("dotnetcore", RuntimeKind::DotNetCore),
        ("golang", RuntimeKind::Golang),
        ("java", RuntimeKind::Java),
        ("nodejs", RuntimeKind::NodeJs),
        ("python", RuntimeKind::Python),
        ("ruby", RuntimeKind::Ruby),
        ("shell", RuntimeKind::Shell),
    ];

    /// The kind of a name, without the version behind the colon.
    pub fn from_name(name: &str) -> Option<RuntimeKind> {
        Self::NAMED.iter().find(|(other, _)| *other == name).map(|(_, kind)| *kind)
    }

    /// The name in `spec.runtime`; the demonstration handler is `builtin`.
    pub fn name(self) -> &'static str {
        Self::NAMED.iter().find(|(_, kind)| *kind == self).map_or("builtin", |(name, _)| name)
    }
}

/// One entry of `spec.triggers`.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// The key under `spec.triggers`; it is the trigger's id and name.
    pub name: String,
    /// Workers of its pool, 1 to 100000.
    pub workers: usize,
    /// `workerAllocatorName`, when not empty: pools are shared by this name.
    pub allocator: Option<String>,
    /// How long an event waits for a worker; zero: not at all. Always 10 s for `cron` and `kickstart`.
    pub availability_timeout: Duration,
    /// How long a worker may take to end (drain, terminate).
    pub termination_timeout: Duration,
    /// What is particular to its kind.
    pub kind: TriggerKind,
}

/// What is particular to a trigger's kind.
#[derive(Debug, Clone)]
pub enum TriggerKind {
    /// Kind `http`.
    Http(HttpTrigger),
    /// Kind `cron`.
    Cron(CronTrigger),
    /// Kind `kickstart`: one event, at the start.
    Kickstart(EventTemplate),
    /// A kind of the reference that this build cannot serve yet; starting it is refused by name.
    Unsupported {
        /// The kind.
        kind: String,
        /// Where it is written, `file:line: key`.
        place: String,
    },
}

/// Settings of an `http` trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct HttpTrigger {
    /// `url`: `host:port`; an empty host means every address, IPv6 and IPv4.
    pub listen: String,
    /// `readBufferSize`: bytes of request line and headers, with the empty line.
    pub head_bytes_max: usize,
    /// `maxRequestBodySize`: bytes of body.
    pub body_bytes_max: usize,
    /// `reduceMemoryUsage`: give buffers back between requests.
    pub reduce_memory: bool,
    /// Cross-origin rules, when enabled.
    pub cors: Option<Cors>,
    /// `batch.mode: enable`.
    pub batch: Option<Batch>,
    /// `mode: async` with `async.maxConnectionsNumber`: events in flight per worker; 1 for `sync`.
    pub in_flight_per_worker: usize,
    /// Which handlers get as many.
    pub several_for: SeveralFor,
    /// A record for every request that has been answered; nothing in a file asks for it.
    pub request_records: bool,
    /// A bound socket that is to be served in the place of `listen`; nothing in a file names one.
    pub adopted: Option<AdoptedListener>,
}

/// Which handlers of a runtime get several events at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeveralFor {
    /// `mode` says it for any.
    Any,
    /// No `mode` is set: those that are async by themselves.
    Async,
    /// No `mode` is set: asynchronous web applications.
    Applications,
}

impl SeveralFor {
    /// Its name in the shim protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Async => "async",
            Self::Applications => "web",
        }
    }
}

/// `attributes.cors`.
#[derive(Debug, Clone, PartialEq)]
pub struct Cors {
    /// Allowed origins; `*` allows all.
    pub allow_origins: Vec<String>,
    /// Allowed methods.
    pub allow_methods: Vec<String>,
    /// Allowed request headers.
    pub allow_headers: Vec<String>,
    /// Whether credentials are allowed.
    pub allow_credentials: bool,
    /// Response headers that scripts may read.
    pub expose_headers: Vec<String>,
    /// `Access-Control-Max-Age`, seconds, any integer.
    pub preflight_max_age_seconds: i64,
}

/// `batch` of a trigger.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Events in a batch, at least 1.
    pub size: usize,
    /// Longest time the first event of a batch waits for more.
    pub timeout: Duration,
}

/// `platform.yaml`.
#[derive(Debug, Clone)]
pub struct Platform {
    /// Where we run.
    pub kind: PlatformKind,
    /// Web admin's listen address; `None` when disabled.
    pub web_admin: Option<String>,
    /// Health server's listen address; `None` when disabled.
    pub health: Option<String>,
    /// Metric sinks named by `metrics.functions`, in order, disabled ones left out.
    pub metric_sinks: Vec<MetricSink>,
    /// `cronTriggerCreationMode: kube`.
    pub cron_by_platform: bool,
}

impl Platform {
    /// The key that gives [`Self::health`].
    pub const HEALTH_KEY: &str = "healthCheck.listenAddress";
    /// The key that gives [`Self::web_admin`].
    pub const WEB_ADMIN_KEY: &str = "webAdmin.listenAddress";

    /// The addresses its own servers listen on, each with the key that gives it.
    pub fn listens(&self) -> Vec<(String, &str)> {
        let health = self.health.as_deref().map(|address| (Self::HEALTH_KEY.to_owned(), address));
        let web_admin = self.web_admin.as_deref().map(|address| (Self::WEB_ADMIN_KEY.to_owned(), address));
        let metrics = self.metric_sinks.iter().filter_map(|sink| match &sink.kind {
            MetricSinkKind::PrometheusPull { listen } => Some((sink.url_key(), listen.as_str())),
            MetricSinkKind::PrometheusPush { .. } => None,
        });
        health.into_iter().chain(web_admin).chain(metrics).collect()
    }
}

/// Where we run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformKind {
    /// A plain container or a laptop.
    Local,
    /// Kubernetes: both `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` are set.
    Kube,
}

/// Severity of a log record, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// Everything.
    #[default]
    Debug,
    /// Normal operation.
    Info,
    /// Something odd.
    Warn,
    /// Something failed.
    Error,
}

/// One log sink after resolution. The only kind we serve is `stdout`.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSink {
    /// Its name in `platform.yaml`.
    pub name: String,
    /// Lowest level written.
    pub level: Level,
    /// How records look.
    pub encoding: LogEncoding,
}

/// How records look on `stdout`.
#[derive(Debug, Clone, PartialEq)]
pub enum LogEncoding {
    /// For people, as the Go processor does it.
    Console,
    /// For people who develop a handler: what it logs and how requests ended; the processor's own records from warnings on.
    Text,
    /// One JSON object a line.
    Json {
        /// `timeFieldName`.
        time_field: String,
        /// `timeFieldEncoding: iso8601`; otherwise milliseconds since the epoch.
        time_iso8601: bool,
        /// `varGroupName`, empty for variables at top level.
        group: String,
        /// `varGroupMode: flattened`.
        flattened: bool,
    },
}

/// One metric sink.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSink {
    /// Its name in `platform.yaml`.
    pub name: String,
    /// Label `instance`.
    pub instance: String,
    /// What it does.
    pub kind: MetricSinkKind,
}

impl MetricSink {
    /// The key that gives its address.
    pub fn url_key(&self) -> String {
        format!("metrics.sinks.{}.url", self.name)
    }
}

/// What a metric sink does.
#[derive(Debug, Clone, PartialEq)]
pub enum MetricSinkKind {
    /// Serves `/metrics`.
    PrometheusPull {
        /// Listen address.
        listen: String,
    },
    /// Posts to a push gateway.
    PrometheusPush {
        /// Base address of the gateway, with scheme, without trailing slash.
        url: String,
        /// Job name.
        job: String,
        /// Time between pushes.
        interval: Duration,
    },
}

/// Every environment variable the processor reads, and its own additions.
#[derive(Debug, Clone)]
pub struct Env {
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT` are set and not empty.
    pub kubernetes: bool,
    /// `NUCLIO_RESTORE_FUNCTION_CONFIG_FROM_SECRET` is `true`.
    pub restore_secrets: bool,
    /// `NUCLIO_FUNCTION_SECRET_VOLUME_PATH`, default `/etc/nuclio/secrets`.
    pub secrets_directory: PathBuf,
    /// `PATH`.
    pub path: Option<String>,
    /// `PYTHONPATH`.
    pub python_path_inherited: Option<String>,
    /// `NUCLIO_PYTHON_EXE_PATH`.
    pub python_exe: Option<String>,
    /// `NUCLIO_PYTHON_WRAPPER_PATH`.
    pub python_wrapper: Option<PathBuf>,
    /// `NUCLIO_PYTHON_PATH` (`nil` and `none` already turned into empty).
    pub python_path: Option<String>,
    /// `NUCLIO_PYTHON_DECODE_EVENT_STRINGS`: true unless turned off.
    pub python_decode_strings: bool,
    /// `NUCLIO_PYTHON_EVENT_LOOP`, `uvloop` or `asyncio`. Without it only ASGI applications run in uvloop, where it is
    /// installed.
    pub python_uvloop: Option<bool>,
    /// `NUCLIO_HANDLER_DIR`: directory of the Node.js, Ruby or .NET handler; of the last also its file.
    pub handler_directory: Option<PathBuf>,
    /// `NUCLIO_NODEJS_EXE`.
    pub nodejs_exe: Option<String>,
    /// `NUCLIO_NODEJS_WRAPPER_PATH`.
    pub nodejs_wrapper: Option<PathBuf>,
    /// `NUCLIO_WRAPPER_JAR`.
    pub java_wrapper: Option<PathBuf>,
    /// `NUCLIO_RUBY_EXE`.
    pub ruby_exe: Option<String>,
    /// `NUCLIO_WRAPPER_PATH`, the Ruby wrapper (`nil` and `none` already turned into empty).
    pub ruby_wrapper: Option<PathBuf>,
    /// `NUCLIO_DOTNETCORE_WRAPPER_PATH`.
    pub dotnetcore_wrapper: Option<PathBuf>,
    /// `NUCLIO_SHELL_HANDLER_DIR`.
    pub shell_handler_directory: Option<PathBuf>,
    /// `NUCLIO_GOLANG_HANDLER_PLUGIN_PATH`.
    pub golang_plugin: Option<PathBuf>,
    /// `NUCLIO_GO_BUILD`: what builds Go sources, for `processor dev`.
    pub go_build: Option<PathBuf>,
    /// `TMPDIR`: where `processor dev` puts what it builds.
    pub temporary_directory: PathBuf,
    /// `NUCLIO_FUNCTION_INSTANCE`.
    pub function_instance: Option<String>,
    /// `NUCLIO_SHIM_SOURCE`.
    pub shim_source: ShimSource,
    /// `NUCLIO_SHIM_PROTOCOL`: 1, 2, or `None` for auto.
    pub shim_protocol: Option<u8>,
    /// `NUCLIO_SHIM_PREFETCH`: most events written ahead to a shim; `None` for our default.
    pub shim_prefetch: Option<usize>,
    /// `NUCLIO_WORKER_START_TIMEOUT`: Go duration; longest wait for a shim to become ready.
    pub worker_start_timeout: Option<Duration>,
    /// `NUCLIO_STUCK_THREADS_MAX`, default 4.
    pub stuck_threads_max: usize,
    /// `NUCLIO_DRAIN_LINGER`: Go duration; `None`: 5 s on Kubernetes, 0 elsewhere.
    pub drain_linger: Option<Duration>,
    /// `NUCLIO_WAITING_EVENTS_MAX`: events that may wait for a worker, per pool; default 1024.
    pub waiting_events_max: usize,
    /// `NUCLIO_BODY_BYTES_IN_FLIGHT_MAX`: bytes of request bodies held at once; default 1 GiB.
    pub body_bytes_in_flight_max: usize,
    /// `NUCLIO_MAX_ANSWER_BYTES`: bytes of an answer over shim protocol 1 or of a command; default 1 GiB.
    pub answer_bytes_max: usize,
    /// `NO_COLOR` is set and not empty.
    pub no_color: bool,
    /// Whether output for people has colours, where the environment says so: not with `NO_COLOR`, `CLICOLOR=0` or a
    /// terminal that is `dumb`; with `FORCE_COLOR` or `CLICOLOR_FORCE`. `None`: where it goes to a terminal.
    pub color: Option<bool>,
    /// Where shims list the sources that they have loaded, for `processor dev`; no variable names it.
    pub source_list: Option<PathBuf>,
    /// The `OTEL_*` variables; `None`: tracing is off.
    pub tracing: Option<Tracing>,
    /// What of them cannot be used, one line each.
    pub tracing_warnings: Vec<String>,
}

/// Which shim program is started (decision: environment variable, else image, else embedded).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ShimSource {
    /// The file named by the environment, else the one in the image, else the embedded one.
    #[default]
    Auto,
    /// Only a file.
    Image,
    /// Only the embedded one.
    Embedded,
}
