//! `spec.triggers`: what all triggers have in common, and which of them run here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::cron_trigger;
use super::decode::Fractions;
use super::error::{ConfigError, Problem};
use super::http_trigger::{self, AsyncFile, BatchFile};
use super::ignored::Ignored;
#[cfg(test)]
use super::schema::generate;
use super::sinks::list;
use super::source::{Place, Source, setting};
use super::yaml::{Entry, Node, Value};
use super::{RuntimeKind, Trigger, TriggerKind};

const WORKERS_MAX: i64 = 100_000;
const AVAILABILITY_TIMEOUT: Duration = Duration::from_secs(10);
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(10);
/// Name of the HTTP trigger a file without one gets, as the platform would write it.
pub(super) const DEFAULT_HTTP_NAME: &str = "default-http";

/// Kinds of the reference other than `http`.
pub(super) const OTHER_KINDS: &[&str] = &[
    "cron",
    "eventhub",
    "iotCoreMqtt",
    "kafka",
    "kafka-cluster",
    "kickstart",
    "kinesis",
    "mqtt",
    "nats",
    "natsjetstream",
    "pubsub",
    "rabbit-mq",
    "rabbitMq",
    "v3ioItemPoller",
    "v3ioStream",
];

/// What decides about triggers beside their own settings.
pub(super) struct Setup {
    pub(super) runtime: RuntimeKind,
    /// The platform calls cron triggers itself.
    pub(super) cron_by_platform: bool,
    /// A file without HTTP trigger gets one.
    pub(super) add_http: bool,
}

/// The triggers that run.
pub(super) struct Triggers {
    pub(super) list: Vec<Trigger>,
    /// The file has an HTTP trigger, disabled ones included.
    pub(super) file_has_http: bool,
}

/// A source of events. Its name is the key it stands under.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "Trigger"))]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TriggerFile {
    /// Where events come from. Kinds that this build does not serve are refused at start, by name.
    #[cfg_attr(test, schemars(schema_with = "generate::trigger_kind"))]
    kind: String,
    /// The trigger does not run. (The Go processor ignores this key.)
    disabled: bool,
    /// Workers, each of which handles one event at a time.
    #[cfg_attr(test, schemars(range(min = 0, max = 100_000), extend("default" = 1)))]
    num_workers: i64,
    /// Counts where `numWorkers` is missing or 0: for files of old platforms.
    #[cfg_attr(test, schemars(range(min = 0, max = 100_000)))]
    max_workers: i64,
    /// Address. `http`: where to listen, `host:port`, `:port` or `unix:/path`; default `:8080`.
    pub(super) url: String,
    /// How long a worker may take to end, as Go duration.
    #[cfg_attr(test, schemars(schema_with = "generate::duration", extend("default" = "10s")))]
    worker_termination_timeout: String,
    /// How long an event waits for a worker, milliseconds. 0: not at all; negative: the default.
    #[cfg_attr(test, schemars(extend("default" = 10_000)))]
    worker_availability_timeout_milliseconds: Option<i64>,
    /// Triggers with the same name here share their workers.
    worker_allocator_name: String,
    /// `sync`: a worker handles one event at a time. `async`: several, in Python, Node.js and .NET.
    #[cfg_attr(test, schemars(extend("enum" = ["sync", "async"], "default" = "sync")))]
    pub(super) mode: String,
    /// How many events a worker handles at once with `mode: async`.
    #[serde(rename = "async")]
    pub(super) async_mode: AsyncFile,
    /// Events are gathered and handled together; `http` only.
    pub(super) batch: BatchFile,
    /// Settings of the trigger's kind.
    #[cfg_attr(test, schemars(with = "BTreeMap<String, serde_json::Value>"))]
    _attributes: Ignored,
    /// Annotations for the platform.
    _annotations: Ignored,
    /// Each kind has a class of its own.
    _class: Ignored,
    /// When a stream's position is stored: `enable`, `disable` or `explicitOnly`.
    _explicit_ack_mode: Ignored,
    /// Division of work of old stream triggers.
    #[serde(rename = "max_task_allocation")]
    _max_task_allocation: Ignored,
    /// The key that the trigger stands under replaces it.
    _name: Ignored,
    /// Partitions of old stream triggers.
    _partitions: Ignored,
    /// Password of stream triggers.
    _password: Ignored,
    /// Paths of stream triggers.
    _paths: Ignored,
    /// Secret of stream triggers.
    _secret: Ignored,
    /// Division of work of old stream triggers.
    #[serde(rename = "total_tasks")]
    _total_tasks: Ignored,
    /// User name of stream triggers.
    _username: Ignored,
    /// Wait for acknowledgements while Kafka moves partitions.
    _wait_explicit_ack_during_rebalance_timeout: Ignored,
}

/// A trigger's settings with their places.
pub(super) struct TriggerSource<'a> {
    entry: &'a Entry,
    /// `spec.triggers.<name>`.
    pub(super) path: String,
}

impl TriggerSource<'_> {
    /// The node of the trigger.
    pub(super) fn node(&self) -> &Node {
        &self.entry.value
    }

    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.entry.key
    }

    /// What `attributes` says; keys no field has are warned about.
    pub(super) fn attributes<T: DeserializeOwned + Default>(
        &self,
        source: &mut Source,
    ) -> Result<T, Box<Problem>> {
        let Some(node) = self.node().child("attributes") else { return Ok(T::default()) };
        let path = format!("{}.attributes", self.path);
        source.decode(node, &path, Fractions::Drop).map_err(|error| {
            let problem =
                source.decode_problem(error).remedy("mend the value, or remove the key for its default");
            let wrong = problem.wrong.clone();
            let problem = problem.root(format!("1 error(s) decoding: {wrong}"));
            problem.cause("Failed to decode attributes").cause("Failed to create configuration")
        })
    }

    /// The place of a setting, given as path below the trigger.
    pub(super) fn place(&self, source: &Source, key: &str) -> Place {
        let mut line = self.entry.line;
        let mut node = Some(&self.entry.value);
        for name in key.split('.') {
            let Some(entry) = node.and_then(|node| node.entry(name)) else { break };
            line = entry.line;
            node = Some(&entry.value);
        }
        source.place(line, format!("{}.{key}", self.path))
    }
}

/// Resolves all triggers; adds the default one when wanted.
pub(super) fn resolve(
    spec: Option<&Node>,
    setup: &Setup,
    source: &mut Source,
) -> Result<Triggers, ConfigError> {
    resolve_all(spec, setup, source).map_err(|problem| setting(problem.cause("Failed to create triggers")))
}

fn resolve_all(spec: Option<&Node>, setup: &Setup, source: &mut Source) -> Result<Triggers, Box<Problem>> {
    let mut triggers = Triggers { list: Vec::new(), file_has_http: false };
    let node = spec.and_then(|spec| spec.child("triggers"));
    for entry in entries(node, source)? {
        let place = TriggerSource { entry, path: format!("spec.triggers.{}", entry.key) };
        let file: TriggerFile = source
            .decode(&entry.value, &place.path, Fractions::Refuse)
            .map_err(|error| source.decode_problem(error).remedy("mend the value, or remove the key"))?;
        triggers.file_has_http |= file.kind == "http";
        if let Some(trigger) = resolve_one(&file, &place, setup, source)? {
            triggers.list.push(trigger);
        }
    }
    if setup.add_http && !triggers.file_has_http {
        triggers.list.push(default_http(&triggers.list, setup.runtime));
    }
    share_allocators(&mut triggers.list, source);
    Ok(triggers)
}

fn entries<'a>(node: Option<&'a Node>, source: &Source) -> Result<&'a [Entry], Box<Problem>> {
    match node {
        None => Ok(&[]),
        Some(Node { value: Value::Mapping(entries), .. }) => Ok(entries),
        Some(node) => {
            let problem =
                source.place(node.line, "spec.triggers").problem("expected a map of triggers by name");
            Err(problem.remedy("write `name: {kind: http}`"))
        }
    }
}

/// One trigger; `None` when it does not run here.
fn resolve_one(
    file: &TriggerFile,
    place: &TriggerSource<'_>,
    setup: &Setup,
    source: &mut Source,
) -> Result<Option<Trigger>, Box<Problem>> {
    check_kind(file, place, source)?;
    if file.disabled {
        source.warn(&place.place(source, "disabled"), "the trigger is disabled and does not run");
        return Ok(None);
    }
    if file.kind == "cron" && setup.cron_by_platform {
        let text = "skipping cron trigger creation inside the processor: the platform calls it";
        source.warn(&place.place(source, "kind"), text);
        return Ok(None);
    }
    Ok(Some(Trigger {
        name: place.entry.key.clone(),
        workers: workers(file, place, source)?,
        allocator: (!file.worker_allocator_name.is_empty()).then(|| file.worker_allocator_name.clone()),
        availability_timeout: availability_timeout(file, place, source),
        termination_timeout: termination_timeout(file, place, source)?,
        kind: kind(file, place, setup, source)?,
    }))
}

fn check_kind(file: &TriggerFile, place: &TriggerSource<'_>, source: &Source) -> Result<(), Box<Problem>> {
    let kind = file.kind.as_str();
    if kind == "http" || OTHER_KINDS.contains(&kind) {
        return Ok(());
    }
    let message = format!("Trigger of kind `{kind}` is not supported");
    let known = list(std::iter::once("http").chain(OTHER_KINDS.iter().copied()));
    let missing = if kind.is_empty() { "add the missing key `kind`" } else { "change the kind" };
    let problem = place.place(source, "kind").problem(&*message);
    let problem = problem.remedy(format!("in trigger `{}` {missing}; known kinds: {known}", place.entry.key));
    Err(problem.root(format!("Registry for trigger failed to find: {kind}")).cause(message))
}

fn workers(
    file: &TriggerFile,
    place: &TriggerSource<'_>,
    source: &mut Source,
) -> Result<usize, Box<Problem>> {
    let (key, workers) = match (file.num_workers, file.max_workers) {
        // Platforms of old wrote `maxWorkers` and copied it when deploying.
        (0, workers) if workers != 0 => ("maxWorkers", workers),
        (workers, _) => ("numWorkers", workers),
    };
    let refused = || {
        let problem = place
            .place(source, key)
            .problem(format!("trigger `{}` cannot have {workers} workers", place.entry.key));
        problem.remedy(format!("write a number from 1 to {WORKERS_MAX}"))
    };
    let count = usize::try_from(workers).ok().filter(|_| workers <= WORKERS_MAX).ok_or_else(refused)?;
    Ok(count.max(1))
}

fn availability_timeout(file: &TriggerFile, place: &TriggerSource<'_>, source: &mut Source) -> Duration {
    let milliseconds = file.worker_availability_timeout_milliseconds;
    // compat: these wait equally long whatever the file says.
    if matches!(file.kind.as_str(), "cron" | "kickstart") {
        if milliseconds.is_some_and(|wait| {
            wait >= 0 && u128::from(wait.unsigned_abs()) != AVAILABILITY_TIMEOUT.as_millis()
        }) {
            let text =
                format!("events of a {} trigger always wait up to 10s for a worker; ignored", file.kind);
            source.warn(&place.place(source, "workerAvailabilityTimeoutMilliseconds"), &text);
        }
        return AVAILABILITY_TIMEOUT;
    }
    // compat: negative means the default, zero means not to wait.
    let milliseconds = milliseconds.and_then(|milliseconds| u64::try_from(milliseconds).ok());
    milliseconds.map_or(AVAILABILITY_TIMEOUT, Duration::from_millis)
}

fn termination_timeout(
    file: &TriggerFile,
    place: &TriggerSource<'_>,
    source: &mut Source,
) -> Result<Duration, Box<Problem>> {
    let text = &file.worker_termination_timeout;
    if text.is_empty() {
        return Ok(TERMINATION_TIMEOUT);
    }
    let place = place.place(source, "workerTerminationTimeout");
    let timeout = place.duration(text).map_err(|problem| {
        problem.cause("Failed to parse worker termination timeout from trigger configuration")
    })?;
    Ok(timeout.to_std().unwrap_or_else(|| {
        source.warn(&place, "a negative time counts as none");
        Duration::ZERO
    }))
}

fn kind(
    file: &TriggerFile,
    place: &TriggerSource<'_>,
    setup: &Setup,
    source: &mut Source,
) -> Result<TriggerKind, Box<Problem>> {
    if file.kind == "http" {
        return http_trigger::resolve(file, place, setup.runtime, source).map(TriggerKind::Http);
    }
    if file.mode == "async" {
        let problem =
            place.place(source, "mode").problem(format!("triggers of kind {} have no async mode", file.kind));
        return Err(problem.remedy("remove the key, or use kind http"));
    }
    if file.batch.is_enabled() {
        source.warn(&place.place(source, "batch"), "only http triggers gather batches; ignored");
    }
    match file.kind.as_str() {
        "cron" => cron_trigger::cron(place, source).map(TriggerKind::Cron),
        "kickstart" => cron_trigger::kickstart(place, source).map(TriggerKind::Kickstart),
        other => {
            let place = place.place(source, "kind").problem("").place();
            Ok(TriggerKind::Unsupported { kind: other.to_owned(), place })
        }
    }
}

/// The trigger the platform adds to a function without an HTTP trigger.
fn default_http(others: &[Trigger], runtime: RuntimeKind) -> Trigger {
    let is_taken = |name: &str| others.iter().any(|trigger| trigger.name == name);
    let mut name = DEFAULT_HTTP_NAME.to_owned();
    while is_taken(&name) {
        name.push('-');
    }
    http_trigger::plain(&name, http_trigger::DEFAULT_LISTEN, 1, runtime)
}

/// Gives every member of a shared pool the largest number of workers any of them asks for.
fn share_allocators(triggers: &mut [Trigger], source: &mut Source) {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for trigger in triggers.iter() {
        if let Some(name) = &trigger.allocator {
            groups.entry(name.clone()).or_default().push(trigger.workers);
        }
    }
    for (name, sizes) in groups {
        let largest = sizes.iter().copied().max().unwrap_or(1);
        if sizes.iter().any(|size| *size != largest) {
            let place = source.place(0, "spec.triggers");
            let text =
                format!("triggers share allocator `{name}` with different numWorkers; all get {largest}");
            source.warn(&place, &text);
        }
        let members = triggers.iter_mut().filter(|trigger| trigger.allocator.as_ref() == Some(&name));
        members.for_each(|trigger| trigger.workers = largest);
    }
}

/// A trigger of kind `http` around its settings, everything else by default.
pub(super) fn with_defaults(name: &str, workers: usize, kind: TriggerKind) -> Trigger {
    Trigger {
        name: name.to_owned(),
        workers,
        allocator: None,
        availability_timeout: AVAILABILITY_TIMEOUT,
        termination_timeout: TERMINATION_TIMEOUT,
        kind,
    }
}
