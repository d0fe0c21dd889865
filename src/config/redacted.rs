//! The configuration for the debug log.
//!
//! Only what is listed here is shown, so that a new field cannot leak: no values of variables, no passwords, no
//! attributes, no source code.

use serde_json::{Value, json};

use super::address::shown;
use super::duration::format;
use super::{
    Config, CronTrigger, Export, Function, HttpTrigger, LogEncoding, LogSink, MetricSink, MetricSinkKind,
    Tracing, Trigger, TriggerKind,
};

impl Config {
    /// The resolved configuration without secrets, for logs.
    pub fn redacted(&self) -> Value {
        json!({
            "function": function(&self.function),
            "platform": {
                "kind": if self.env.kubernetes { "kube" } else { "local" },
                "webAdmin": self.platform.web_admin,
                "healthCheck": self.platform.health,
                "metricSinks": self.platform.metric_sinks.iter().map(metric_sink).collect::<Vec<_>>(),
                "tracing": self.env.tracing.as_ref().map(tracing),
                "cronTriggerCreationMode": if self.platform.cron_by_platform { "kube" } else { "processor" },
            },
        })
    }
}

fn tracing(tracing: &Tracing) -> Value {
    let export = tracing.export.as_ref();
    let sampler = format!("{:?}", tracing.sampler.root);
    json!({
        "endpoint": export.map(Export::shown_url),
        "headers": export.map(|export| export.headers.iter().map(|(name, _)| name).collect::<Vec<_>>()),
        "sampler": sampler,
        "followsParent": tracing.sampler.follows_parent,
    })
}

fn function(function: &Function) -> Value {
    json!({
        "name": function.name,
        "namespace": function.namespace,
        "project": function.project,
        "version": function.version,
        "runtime": function.runtime.name(),
        "handler": function.handler,
        "eventTimeout": function.event_timeout.map(format),
        "annotations": function.annotations.keys().collect::<Vec<_>>(),
        "runtimeAttributes": function.runtime_attributes.keys().collect::<Vec<_>>(),
        "env": function.env.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "loggerSinks": function.log_sinks.iter().map(log_sink).collect::<Vec<_>>(),
        "triggers": function.triggers.iter().map(trigger).collect::<Vec<_>>(),
    })
}

fn trigger(trigger: &Trigger) -> Value {
    let mut shown = json!({
        "name": trigger.name,
        "kind": trigger.kind.name(),
        "numWorkers": trigger.workers,
        "workerAllocatorName": trigger.allocator,
        "workerAvailabilityTimeout": format(trigger.availability_timeout),
        "workerTerminationTimeout": format(trigger.termination_timeout),
    });
    match (&trigger.kind, shown.as_object_mut()) {
        (TriggerKind::Http(settings), Some(shown)) => http(settings, shown),
        (TriggerKind::Cron(settings), Some(shown)) => cron(settings, shown),
        _ => {}
    }
    shown
}

fn http(settings: &HttpTrigger, shown: &mut serde_json::Map<String, Value>) {
    let batch = settings.batch.as_ref();
    let batch = batch.map(|batch| json!({ "batchSize": batch.size, "timeout": format(batch.timeout) }));
    shown.insert("url".into(), json!(settings.listen));
    shown.insert("readBufferSize".into(), json!(settings.head_bytes_max));
    shown.insert("maxRequestBodySize".into(), json!(settings.body_bytes_max));
    shown.insert("reduceMemoryUsage".into(), json!(settings.reduce_memory));
    shown.insert("cors".into(), json!(settings.cors.is_some()));
    shown.insert("batch".into(), json!(batch));
    shown.insert("eventsInFlightPerWorker".into(), json!(settings.in_flight_per_worker));
}

fn cron(settings: &CronTrigger, shown: &mut serde_json::Map<String, Value>) {
    shown.insert("timetable".into(), json!(settings.timetable.describe()));
    shown.insert("concurrencyPolicy".into(), json!(settings.concurrency.name()));
    shown.insert("missedRuns".into(), json!(settings.missed.name()));
}

fn log_sink(sink: &LogSink) -> Value {
    let encoding = match sink.encoding {
        LogEncoding::Console => "console",
        LogEncoding::Text => "text",
        LogEncoding::Json { .. } => "json",
    };
    json!({ "name": sink.name, "level": sink.level.as_str(), "encoding": encoding })
}

fn metric_sink(sink: &MetricSink) -> Value {
    let (kind, address) = sink.kind.kind_and_address();
    json!({ "name": sink.name, "kind": kind, "url": address })
}

impl TriggerKind {
    /// The kind as written in the file.
    pub fn name(&self) -> &str {
        match self {
            TriggerKind::Http(_) => "http",
            TriggerKind::Cron(_) => "cron",
            TriggerKind::Kickstart(_) => "kickstart",
            TriggerKind::Unsupported { kind, .. } => kind,
        }
    }

    /// Whether somebody waits for the answer.
    pub fn class(&self) -> &'static str {
        match self {
            TriggerKind::Http(_) => "sync",
            _ => "async",
        }
    }
}

impl MetricSinkKind {
    /// The kind as written in the file, and its address without user, password and query.
    pub fn kind_and_address(&self) -> (&'static str, String) {
        match self {
            MetricSinkKind::PrometheusPull { listen } => ("prometheusPull", listen.clone()),
            MetricSinkKind::PrometheusPush { url, .. } => ("prometheusPush", shown(url)),
        }
    }
}
