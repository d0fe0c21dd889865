//! What is known of a request from its head until its answer is complete: its span, and the record for whoever
//! develops its handler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{StatusCode, header};

use crate::config::{Level, Owed};
use crate::event::{Event, TriggerInfo};
use crate::fields;
use crate::logging::{Logger, format};
use crate::trace::EventTrace;
use crate::trace::span::{HttpRequest, Kind};

/// A request under way that is recorded. Dropping it ends the span: without a status the client has left.
pub(super) struct RequestSpan {
    trace: Option<Arc<EventTrace>>,
    record: Option<Record>,
    request: Option<Box<HttpRequest>>,
    error: Option<&'static str>,
}

/// What goes to the log of it.
struct Record {
    logger: Logger,
    began: Instant,
    sent_bytes: u64,
    /// For whoever waits until everything has been answered.
    owed: Option<Owed>,
}

impl RequestSpan {
    /// `None`: the trace is not recorded, and nobody wants a record in the log.
    pub(super) fn begin(
        trace: Option<&Arc<EventTrace>>,
        recorder: Option<(&Logger, Option<Owed>)>,
        parts: &Parts,
        trigger: &TriggerInfo,
    ) -> Option<Box<Self>> {
        let trace = trace.filter(|trace| trace.recorded()).cloned();
        if trace.is_none() && recorder.is_none() {
            return None;
        }
        let request = HttpRequest {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            host: parts.headers.get(header::HOST).cloned(),
            user_agent: parts.headers.get(header::USER_AGENT).cloned(),
            trigger: trigger.name.clone(),
            event_id: String::new(),
            body_bytes: None,
            status: None,
        };
        let begin = |(logger, owed): (&Logger, Option<Owed>)| Record {
            logger: logger.child(format::REQUESTS),
            began: Instant::now(),
            sent_bytes: 0,
            owed,
        };
        let record = recorder.map(begin);
        Some(Box::new(Self { trace, record, request: Some(Box::new(request)), error: None }))
    }

    /// What is known once the request has been read.
    pub(super) fn describe(&mut self, event: &Event) {
        if let Some(request) = &mut self.request {
            request.event_id = event.id.as_str().to_owned();
            request.body_bytes = event.body.stream.is_none().then(|| event.body.len());
        }
    }

    /// The answer has a status.
    pub(super) fn answered(&mut self, status: StatusCode) {
        if let Some(request) = &mut self.request {
            request.status = Some(status.as_u16());
        }
        if let Some(record) = &mut self.record {
            record.owed = None;
        }
    }

    /// So much of the answer's body has been handed on.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent_bytes += bytes as u64;
        }
    }

    /// How it failed, as a word of few.
    pub(super) fn fail(&mut self, error: &'static str) {
        self.error = Some(error);
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        let Some(request) = self.request.take() else { return };
        let left = request.status.is_none().then_some("client_left");
        let error = self.error.or(left);
        if let Some(record) = &self.record {
            record.write(&request, error);
        }
        if let Some(trace) = &self.trace {
            trace.end_event(Kind::Http(request), error);
        }
    }
}

impl Record {
    fn write(&self, request: &HttpRequest, error: Option<&'static str>) {
        let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
        let mut fields = fields! {
            "method" => request.method.as_str(),
            "path" => target,
            "status" => request.status,
            "milliseconds" => millis(self.began.elapsed()),
            "bytes" => self.sent_bytes,
        };
        if let Some(error) = error {
            fields.insert("err".to_owned(), error.into());
        }
        let level = match request.status {
            Some(500..) => Level::Error,
            Some(400..) | None => Level::Warn,
            Some(_) => Level::Info,
        };
        self.logger.record(level, "Request", fields, None);
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}
