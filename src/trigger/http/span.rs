//! The span of a request: from its head until its answer is complete.

use std::sync::Arc;

use http::request::Parts;
use http::{StatusCode, header};

use crate::event::{Event, TriggerInfo};
use crate::trace::EventTrace;
use crate::trace::span::{HttpRequest, Kind};

/// A request under way that is recorded. Dropping it ends the span: without a status the client has left.
pub(super) struct RequestSpan {
    trace: Arc<EventTrace>,
    request: Option<Box<HttpRequest>>,
    error: Option<&'static str>,
}

impl RequestSpan {
    /// `None`: the trace is not recorded.
    pub(super) fn begin(trace: &Arc<EventTrace>, parts: &Parts, trigger: &TriggerInfo) -> Option<Box<Self>> {
        if !trace.recorded() {
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
        Some(Box::new(Self { trace: trace.clone(), request: Some(Box::new(request)), error: None }))
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
    }

    /// How it failed, as a word of few.
    pub(super) fn fail(&mut self, error: &'static str) {
        self.error = Some(error);
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            let left = request.status.is_none().then_some("client_left");
            self.trace.end_event(Kind::Http(request), self.error.or(left));
        }
    }
}
