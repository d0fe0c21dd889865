//! The counters as Prometheus text, format 0.0.4. Names and labels of the reference stay as they are; ours stand
//! beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as HistogramProto, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder, TextEncoder};

use super::process::Process;
use super::{Cause, Distribution, DropReason, PoolCounters, RestartReason, TriggerCounters, WORKER_STATES};
use crate::config::Function;
use crate::event::TriggerInfo;
use crate::logging::Logger;
use crate::trace::span::SpanCounters;

/// One trigger as a scrape sees it.
#[derive(Debug, Clone)]
pub struct Source {
    /// Kind and name.
    pub trigger: &'static TriggerInfo,
    /// Its own counters.
    pub counters: Arc<TriggerCounters>,
    /// Those of its pool; a pool that several triggers share is reported under each.
    pub pool: Arc<PoolCounters>,
}

/// Makes the text.
#[derive(Debug, Clone)]
pub struct Exposition {
    namespace: String,
    function: String,
    project: String,
    sources: Vec<Source>,
    process: Arc<Process>,
    logger: Logger,
    spans: Arc<SpanCounters>,
}

type Labels = Vec<(&'static str, String)>;

impl Exposition {
    /// Of all triggers of a function.
    pub fn new(function: &Function, sources: Vec<Source>, logger: Logger) -> Self {
        Self {
            namespace: function.namespace.clone(),
            function: function.name.clone(),
            project: function.project.clone(),
            sources,
            process: Arc::default(),
            logger,
            spans: Arc::default(),
        }
    }

    /// The same, with what became of spans; `None`: tracing is off.
    pub fn with_spans(mut self, spans: Option<Arc<SpanCounters>>) -> Self {
        self.spans = spans.unwrap_or_default();
        self
    }

    /// All metrics as text; `instance` is the sink's label of that name.
    pub fn text(&self, instance: &str) -> Vec<u8> {
        let mut families = self.reference_families(instance);
        families.extend(self.own_families(instance));
        families.extend(self.process_families(instance));
        let mut out = Vec::new();
        // Writing to a Vec cannot fail, and empty families are left out.
        families.retain(|family| !family.get_metric().is_empty());
        TextEncoder::new().encode(&families, &mut out).unwrap_or_default();
        out
    }

    fn labels(&self, instance: &str, source: &Source) -> Labels {
        vec![
            ("instance", instance.to_owned()),
            ("trigger_kind", source.trigger.kind.clone()),
            ("trigger_id", source.trigger.name.clone()),
            ("namespace", self.namespace.clone()),
            ("function", self.function.clone()),
            ("project", self.project.clone()),
        ]
    }

    /// Of what belongs to no trigger.
    fn process_labels(&self, instance: &str) -> Labels {
        vec![
            ("instance", instance.to_owned()),
            ("namespace", self.namespace.clone()),
            ("function", self.function.clone()),
            ("project", self.project.clone()),
        ]
    }

    fn reference_families(&self, instance: &str) -> Vec<MetricFamily> {
        let mut handled = counter("nuclio_processor_handled_events_total", "Events that ended, by result");
        let mut count = counter("nuclio_processor_worker_allocation_count", "Attempts to get a worker");
        let mut total =
            counter("nuclio_processor_worker_allocation_total", "Attempts to get a worker, by result");
        let mut wait = counter(
            "nuclio_processor_worker_allocation_wait_duration_milliseconds_sum",
            "Milliseconds waited by attempts that got a worker after waiting",
        );
        let mut wait_short = counter(
            "nuclio_processor_worker_allocation_wait_duration_ms_sum",
            "The same under the name that auto-scaling asks for",
        );
        let mut idle = counter(
            "nuclio_processor_worker_allocation_workers_available_percentage",
            "Sum over attempts of the percentage of idle workers",
        );
        let mut busy =
            counter("nuclio_processor_handled_events_duration_milliseconds_sum", "Milliseconds in handlers");
        let mut events =
            counter("nuclio_processor_handled_events_duration_milliseconds_count", "Measured events");
        let mut pending =
            gauge("nuclio_processor_worker_pending_allocation_current", "Events waiting for a worker");
        for source in &self.sources {
            let labels = self.labels(instance, source);
            let pool = &source.pool;
            add(&mut handled, &labels, &[("result", "success")], source.counters.success() as f64);
            add(&mut handled, &labels, &[("result", "failure")], load(&source.counters.failure));
            add(&mut count, &labels, &[], pool.allocations() as f64);
            add(&mut total, &labels, &[("result", "success_immediate")], pool.allocations_at_once() as f64);
            add(&mut total, &labels, &[("result", "success_after_wait")], load(&pool.allocated_after_wait));
            add(&mut total, &labels, &[("result", "error_timeout")], load(&pool.allocation_failures));
            add(&mut wait, &labels, &[], (load(&pool.wait_micros) / 1000.0).floor());
            add(&mut wait_short, &labels, &[], load(&pool.wait_micros) / 1000.0);
            add(&mut idle, &labels, &[], pool.idle_percent_sum() as f64);
            add(&mut pending, &labels, &[], pool.waiting.load(Relaxed) as f64);
            for (index, worker) in pool.workers.iter().enumerate() {
                let index = index.to_string();
                add(&mut busy, &labels, &[("worker_index", &index)], load(&worker.busy_micros) / 1000.0);
                add(&mut events, &labels, &[("worker_index", &index)], load(&worker.events));
            }
        }
        vec![handled, count, total, wait, wait_short, idle, busy, events, pending]
    }

    fn own_families(&self, instance: &str) -> Vec<MetricFamily> {
        let mut handler =
            family("nuclio_processor_handler_duration_seconds", "Time in handlers", MetricType::HISTOGRAM);
        let mut queue = family(
            "nuclio_processor_queue_wait_seconds",
            "Time events waited for a worker",
            MetricType::HISTOGRAM,
        );
        let mut sizes =
            family("nuclio_processor_response_size_bytes", "Bytes of answer bodies", MetricType::HISTOGRAM);
        let mut failures =
            counter("nuclio_processor_event_failures_total", "Events that ended without success, by cause");
        let mut in_flight = gauge("nuclio_processor_events_in_flight", "Events with a worker");
        let mut workers = gauge("nuclio_processor_workers", "Workers, by what they do now");
        let mut restarts = counter("nuclio_processor_worker_restarts_total", "Replaced workers, by reason");
        let mut timeouts =
            counter("nuclio_processor_event_timeouts_total", "Events that passed their deadline");
        let mut streams = counter("nuclio_processor_streams_total", "Streamed answers, by result");
        let mut lost = counter(
            "nuclio_processor_events_dropped_total",
            "Events that were due and not handled, by reason",
        );
        for source in &self.sources {
            let labels = self.labels(instance, source);
            let pool = &source.pool;
            // Requests are refused, not dropped.
            for (reason, count) in DropReason::ALL
                .iter()
                .zip(&source.counters.dropped)
                .filter(|_| source.trigger.class == "async")
            {
                add(&mut lost, &labels, &[("reason", reason.label())], load(count));
            }
            add_histogram(&mut handler, &labels, &pool.handler_micros(), 1e6);
            add_histogram(&mut queue, &labels, &pool.queue_wait_micros(), 1e6);
            add_histogram(&mut sizes, &labels, &source.counters.response_bytes(), 1.0);
            for (cause, count) in Cause::ALL.iter().zip(&source.counters.failures) {
                add(&mut failures, &labels, &[("cause", cause.label())], load(count));
            }
            add(&mut in_flight, &labels, &[], pool.in_flight() as f64);
            for (state, count) in WORKER_STATES.iter().zip(&pool.states) {
                add(&mut workers, &labels, &[("state", state)], load(count));
            }
            for (reason, count) in RestartReason::ALL.iter().zip(&pool.restarts) {
                add(&mut restarts, &labels, &[("reason", reason.label())], load(count));
            }
            add(&mut timeouts, &labels, &[], load(&pool.event_timeouts));
            add(&mut streams, &labels, &[("result", "success")], load(&pool.streams[0]));
            add(&mut streams, &labels, &[("result", "failure")], load(&pool.streams[1]));
        }
        vec![handler, queue, sizes, failures, in_flight, workers, restarts, timeouts, streams, lost]
    }

    /// What belongs to no trigger.
    fn process_families(&self, instance: &str) -> Vec<MetricFamily> {
        let labels = self.process_labels(instance);
        let mut dropped = counter("nuclio_processor_log_records_dropped_total", "Log records lost, by sink");
        for (sink, count) in self.logger.dropped() {
            add(&mut dropped, &labels, &[("sink", sink)], count as f64);
        }
        let mut traced = counter("nuclio_processor_spans_total", "Spans of traces, by what became of them");
        let spans = &self.spans;
        for (result, count) in
            [("exported", &spans.exported), ("dropped", &spans.dropped), ("failed", &spans.failed)]
        {
            add(&mut traced, &labels, &[("result", result)], load(count));
        }
        let mut build = gauge("nuclio_processor_build_info", "Version of the processor");
        add(&mut build, &labels, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        let usage = self.process.usage();
        let one = |mut family: MetricFamily, value: f64| {
            add(&mut family, &labels, &[], value);
            family
        };
        // compat: names as the client library of Go has them.
        vec![
            dropped,
            traced,
            build,
            one(
                counter("process_cpu_seconds_total", "Processor time of this process, without its children"),
                usage.cpu_seconds,
            ),
            one(gauge("process_open_fds", "Open file descriptors"), usage.open_fds as f64),
            one(gauge("process_max_fds", "Most open file descriptors"), usage.max_fds as f64),
            one(gauge("process_virtual_memory_bytes", "Address space"), usage.virtual_bytes as f64),
            one(
                gauge("process_virtual_memory_max_bytes", "Most address space"),
                usage.virtual_max_bytes as f64,
            ),
            one(
                gauge("process_resident_memory_bytes", "Memory of this process, without its children"),
                usage.resident_bytes as f64,
            ),
            one(gauge("process_start_time_seconds", "When it was started, since 1970"), usage.started),
            one(gauge("nuclio_processor_children", "Processes of shims"), usage.children as f64),
            one(
                counter(
                    "nuclio_processor_children_cpu_seconds_total",
                    "Processor time of all shims so far, the ended ones included",
                ),
                usage.children_cpu_seconds,
            ),
            one(
                gauge("nuclio_processor_children_resident_memory_bytes", "Memory of the processes of shims"),
                usage.children_resident_bytes as f64,
            ),
        ]
    }
}

fn load(counter: &AtomicU64) -> f64 {
    counter.load(Relaxed) as f64
}

fn counter(name: &str, help: &str) -> MetricFamily {
    family(name, help, MetricType::COUNTER)
}

fn gauge(name: &str, help: &str) -> MetricFamily {
    family(name, help, MetricType::GAUGE)
}

fn family(name: &str, help: &str, kind: MetricType) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family
}

fn label_pairs(labels: &Labels, more: &[(&str, &str)]) -> Vec<LabelPair> {
    let base = labels.iter().map(|(name, value)| (*name, value.as_str()));
    let mut all: Vec<(&str, &str)> = base.chain(more.iter().copied()).collect();
    // compat: the Go processor's client library sorts them, and people match lines with patterns.
    all.sort_unstable();
    all.into_iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        })
        .collect()
}

fn add(family: &mut MetricFamily, labels: &Labels, more: &[(&str, &str)], value: f64) {
    let mut metric = Metric::from_label(label_pairs(labels, more));
    if family.get_field_type() == MetricType::GAUGE {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    } else {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    }
    push(family, metric);
}

fn add_histogram(family: &mut MetricFamily, labels: &Labels, histogram: &Distribution, unit: f64) {
    let (bounds, count, sum) = histogram.cumulative();
    let mut proto = HistogramProto::default();
    proto.set_sample_count(count);
    proto.set_sample_sum(sum as f64 / unit);
    proto.set_bucket(
        bounds
            .into_iter()
            .map(|(bound, cumulative)| {
                let mut bucket = Bucket::default();
                bucket.set_upper_bound(bound as f64 / unit);
                bucket.set_cumulative_count(cumulative);
                bucket
            })
            .collect(),
    );
    let mut metric = Metric::from_label(label_pairs(labels, &[]));
    metric.set_histogram(proto);
    push(family, metric);
}

fn push(family: &mut MetricFamily, metric: Metric) {
    let mut metrics = family.take_metric();
    metrics.push(metric);
    family.set_metric(metrics);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_results_exist_from_the_first_scrape_with_the_reference_labels() {
        let trigger = TriggerInfo { index: 0, class: "sync", kind: "http".into(), name: "web".into() };
        let source =
            Source { trigger: trigger.forever(), counters: Arc::default(), pool: PoolCounters::new(2) };
        source.counters.count(Ok(()));
        source.counters.count(Err(Cause::Timeout));
        source.pool.finished(1, std::time::Duration::from_micros(2500));
        let function =
            Function { name: "f".into(), namespace: "n".into(), project: "p".into(), ..Function::default() };
        let text = Exposition::new(&function, vec![source], Logger::silent()).text("i");
        let text = String::from_utf8(text).unwrap();
        let (before, after) = (
            r#"function="f",instance="i",namespace="n",project="p""#,
            r#"trigger_id="web",trigger_kind="http""#,
        );
        for line in [
            format!("nuclio_processor_handled_events_total{{{before},result=\"success\",{after}}} 1"),
            format!("nuclio_processor_handled_events_total{{{before},result=\"failure\",{after}}} 1"),
            format!("nuclio_processor_event_failures_total{{cause=\"timeout\",{before},{after}}} 1"),
            format!(
                "nuclio_processor_handled_events_duration_milliseconds_sum{{{before},{after},worker_index=\"1\"}} 2.5"
            ),
            format!("nuclio_processor_worker_restarts_total{{{before},reason=\"oom\",{after}}} 0"),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
}
