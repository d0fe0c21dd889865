//! Spans as messages of OTLP, with the attributes that OpenTelemetry's conventions have for them. No I/O.

use std::time::{SystemTime, UNIX_EPOCH};

use http::Version;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::{
    self as proto, ResourceSpans, ScopeSpans, Status, status::StatusCode,
};
use prost::Message;

use crate::config::{Config, PlatformKind, Tracing};
use crate::trace::span::{HttpRequest, Kind, Span};

/// Bytes of an attribute that a client chooses.
const TEXT_BYTES_MAX: usize = 1024;
/// Methods that are told by name; others would be as many as clients like.
const METHODS: [&str; 10] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];
/// Bits of a span's flags: what follows says whether the parent is remote.
const KNOWS_REMOTE: u32 = 0x100;
/// The parent is another program's.
const IS_REMOTE: u32 = 0x200;

/// Makes requests for a collector.
pub(super) struct Encoder {
    resource: Resource,
    handler: String,
}

impl Encoder {
    /// For the spans of this function.
    pub(super) fn new(config: &Config, tracing: &Tracing) -> Self {
        let function = &config.function;
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        let name = tracing.service_name.clone();
        let name = name.unwrap_or_else(|| or(&function.name, "unknown_service:processor"));
        let mut attributes = vec![
            text("service.name", name),
            text("faas.name", function.name.clone()),
            text("faas.version", function.version.to_string()),
            text("nuclio.project", function.project.clone()),
            text("telemetry.sdk.language", "rust"),
            text("telemetry.sdk.name", "nuclio-processor"),
            text("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
        ];
        if config.platform.kind == PlatformKind::Kube {
            attributes.push(text("k8s.namespace.name", function.namespace.clone()));
        }
        if let Some(instance) = &config.env.function_instance {
            attributes.push(text("faas.instance", instance.clone()));
        }
        // What is configured wins.
        attributes.retain(|one| !tracing.resource.iter().any(|(key, _)| *key == one.key));
        attributes.extend(tracing.resource.iter().map(|(key, value)| text(key, value.clone())));
        let resource = Resource { attributes, ..Resource::default() };
        Self { resource, handler: or(&function.handler, "handler") }
    }

    /// The body of one request.
    pub(super) fn request(&self, spans: &[Span]) -> Vec<u8> {
        let scope = InstrumentationScope {
            name: "nuclio-processor".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let spans = spans.iter().map(|span| self.span(span)).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource_spans =
            ResourceSpans { resource: Some(self.resource.clone()), scope_spans, ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
    }

    fn span(&self, span: &Span) -> proto::Span {
        let (name, kind, mut attributes) = match &span.kind {
            Kind::Http(request) => (method(request).to_owned(), SpanKind::Server, of_request(request)),
            Kind::Trigger { kind, name } => {
                let (role, sort) = match kind.as_str() {
                    "cron" => (SpanKind::Internal, "timer"),
                    _ => (SpanKind::Consumer, "pubsub"),
                };
                let attributes = vec![text("faas.trigger", sort), text("nuclio.trigger.name", name.clone())];
                (format!("{kind} {name}"), role, attributes)
            }
            Kind::Call { worker, waited } => {
                let attributes = vec![
                    number("nuclio.worker.index", *worker as i64),
                    attribute("nuclio.queue.wait", Value::DoubleValue(waited.as_secs_f64())),
                ];
                (self.handler.clone(), SpanKind::Internal, attributes)
            }
        };
        let error = error(span);
        if let Some(error) = &error {
            attributes.push(text("error.type", error.clone()));
        }
        let status = error.map(|message| Status { code: StatusCode::Error as i32, message });
        let state = span.state.as_ref().map(|state| String::from_utf8_lossy(state.as_bytes()).into_owned());
        proto::Span {
            trace_id: span.trace_id.to_be_bytes().to_vec(),
            span_id: span.id.to_be_bytes().to_vec(),
            parent_span_id: if span.parent == 0 { Vec::new() } else { span.parent.to_be_bytes().to_vec() },
            trace_state: state.unwrap_or_default(),
            flags: u32::from(span.flags) | KNOWS_REMOTE | if span.parent_is_remote { IS_REMOTE } else { 0 },
            name,
            kind: kind as i32,
            start_time_unix_nano: nanoseconds(span.start),
            end_time_unix_nano: nanoseconds(span.end),
            attributes,
            status,
            ..proto::Span::default()
        }
    }
}

/// A status of 5xx is a failure of ours, one of 4xx the client's.
fn error(span: &Span) -> Option<String> {
    if let Some(error) = span.error {
        return Some(error.to_owned());
    }
    match &span.kind {
        Kind::Http(request) => request.status.filter(|status| *status >= 500).map(|s| s.to_string()),
        _ => None,
    }
}

fn method(request: &HttpRequest) -> &str {
    let method = request.method.as_str();
    if METHODS.contains(&method) { method } else { "HTTP" }
}

fn of_request(request: &HttpRequest) -> Vec<KeyValue> {
    let mut out = vec![
        text("url.path", bounded(request.uri.path().as_bytes())),
        text("url.scheme", "http"),
        text("faas.trigger", "http"),
        text("nuclio.trigger.name", request.trigger.clone()),
        text("network.protocol.version", if request.version == Version::HTTP_10 { "1.0" } else { "1.1" }),
    ];
    match method(request) {
        "HTTP" => {
            out.push(text("http.request.method", "_OTHER"));
            let sent = bounded(request.method.as_str().as_bytes());
            out.push(text("http.request.method_original", sent));
        }
        known => out.push(text("http.request.method", known)),
    }
    if let Some(status) = request.status {
        out.push(number("http.response.status_code", status.into()));
    }
    if let Some(bytes) = request.body_bytes {
        out.push(number("http.request.body.size", bytes as i64));
    }
    if !request.event_id.is_empty() {
        out.push(text("faas.invocation_id", request.event_id.clone()));
    }
    if let Some(agent) = &request.user_agent {
        out.push(text("user_agent.original", bounded(agent.as_bytes())));
    }
    if let Some(host) = &request.host
        && let Ok(authority) = http::uri::Authority::try_from(host.as_bytes())
    {
        out.push(text("server.address", authority.host().to_owned()));
        if let Some(port) = authority.port_u16() {
            out.push(number("server.port", port.into()));
        }
    }
    out
}

/// A client's bytes as a text of bounded length.
fn bounded(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned()
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn text(key: &str, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
