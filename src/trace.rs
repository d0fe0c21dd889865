//! Distributed tracing: to which trace an event belongs ([`EventTrace`]), whether it is recorded ([`Tracer`]) and the
//! spans that come of it. Headers in and out are [`context`]'s business, the queue of ended spans is [`span`]'s.
//!
//! Knows no events and no collector: triggers begin traces, workers add calls, `otlp` takes the spans out. Where
//! tracing is off there is no `Tracer` and events carry nothing.

pub mod context;
pub mod span;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderValue};

use crate::config::{Root, Sampler};
use context::{FLAG_RANDOM, FLAG_SAMPLED, Parent, TRACEPARENT, TRACESTATE};
use span::{Kind, Span, Spans};

/// Begins traces. One per processor, shared by its triggers.
#[derive(Debug)]
pub struct Tracer {
    sampler: Sampler,
    spans: Option<Spans>,
}

impl Tracer {
    /// `spans`: where ended spans go; `None`: contexts are made and passed on, nothing is recorded.
    pub fn new(sampler: Sampler, spans: Option<Spans>) -> Self {
        Self { sampler, spans }
    }

    /// The trace of an event that came with these headers: the one that they name, or a new one.
    pub fn begin(&self, headers: &HeaderMap) -> Arc<EventTrace> {
        let parent = Parent::read(headers);
        let (trace_id, flags) = match &parent {
            Some(parent) => (parent.context.trace_id, parent.context.flags),
            None => (random_trace_id(), FLAG_RANDOM),
        };
        let sampled = self.sampler.samples(trace_id, parent.as_ref().map(|_| flags & FLAG_SAMPLED != 0));
        let flags = flags & !FLAG_SAMPLED | if sampled { FLAG_SAMPLED } else { 0 };
        let (parent, state) = parent.map_or((0, None), |parent| (parent.context.span_id, parent.state));
        Arc::new(EventTrace {
            trace_id,
            parent,
            event: random_span_id(),
            call: random_span_id(),
            flags,
            state,
            recording: self.spans.as_ref().filter(|_| sampled).map(|spans| Recording {
                spans: spans.clone(),
                wall: SystemTime::now(),
                steady: Instant::now(),
            }),
        })
    }
}

/// The place of one event in its trace: our span for the event below its sender's, our span for the handler's call
/// below that one, and below this whatever the handler does.
#[derive(Debug)]
pub struct EventTrace {
    trace_id: u128,
    /// 0: the trace begins here.
    parent: u64,
    event: u64,
    call: u64,
    flags: u8,
    state: Option<HeaderValue>,
    recording: Option<Recording>,
}

/// Of a trace that is recorded.
#[derive(Debug, Clone)]
struct Recording {
    spans: Spans,
    /// When the event began, by both clocks.
    wall: SystemTime,
    steady: Instant,
}

impl EventTrace {
    /// Whether its spans go anywhere.
    pub fn recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// The trace's id as 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The id of the handler's span as 16 hexadecimal digits: what the handler logs belongs to it.
    pub fn span_id(&self) -> String {
        format!("{:016x}", self.call)
    }

    /// Puts the context into an event's headers as its handler shall see it: the handler's own work goes below our
    /// span. What the sender wrote there is replaced, invalid state is removed.
    pub fn stamp(&self, headers: &mut HeaderMap) {
        let context = context::Context { trace_id: self.trace_id, span_id: self.call, flags: self.flags };
        let mut header = Some(context.header());
        // In place, as a rule: that costs less than looking up two names, which hashes them.
        let (mut parents, mut has_state) = (0, false);
        for (name, value) in headers.iter_mut() {
            if *name == TRACEPARENT {
                parents += 1;
                *value = header.take().unwrap_or(HeaderValue::from_static(""));
            } else if *name == TRACESTATE {
                has_state = true;
            }
        }
        if parents != 1 {
            headers.insert(TRACEPARENT, header.unwrap_or_else(|| context.header()));
        }
        match &self.state {
            Some(state) => drop(headers.insert(TRACESTATE, state.clone())),
            None if has_state => drop(headers.remove(TRACESTATE)),
            None => {}
        }
    }

    /// The same for another event that came in the same request: it has a call of its own.
    pub fn another(&self) -> Arc<Self> {
        Arc::new(Self {
            call: random_span_id(),
            state: self.state.clone(),
            recording: self.recording.clone(),
            ..*self
        })
    }

    /// The event itself has ended, now: its span.
    pub fn end_event(&self, kind: Kind, error: Option<&'static str>) {
        if let Some(Recording { steady, .. }) = self.recording {
            self.end(self.event, self.parent, kind, (steady, Instant::now()), error);
        }
    }

    fn end(&self, id: u64, parent: u64, kind: Kind, times: (Instant, Instant), error: Option<&'static str>) {
        let Some(recording) = &self.recording else { return };
        recording.spans.put(Span {
            trace_id: self.trace_id,
            id,
            parent,
            parent_is_remote: parent == self.parent && parent != 0,
            flags: self.flags,
            state: self.state.clone(),
            start: recording.time(times.0),
            end: recording.time(times.1),
            kind,
            error,
        });
    }
}

impl Recording {
    /// Both clocks were read together, so that an event's spans fit each other whatever the wall clock does.
    fn time(&self, at: Instant) -> SystemTime {
        match at.checked_duration_since(self.steady) {
            Some(later) => self.wall + later,
            None => self.wall - self.steady.duration_since(at),
        }
    }
}

/// An event under way that is recorded. Dropping it ends the span: whoever waited for its end has left.
#[derive(Debug)]
pub struct EventSpan {
    trace: Arc<EventTrace>,
    kind: Option<Kind>,
    error: Option<&'static str>,
}

impl EventSpan {
    /// `None`: the trace is not recorded.
    pub fn begin(trace: &Arc<EventTrace>, kind: Kind) -> Option<Box<Self>> {
        let span = || Box::new(Self { trace: trace.clone(), kind: Some(kind), error: Some("client_left") });
        trace.recorded().then(span)
    }

    /// The event has ended; what is left to do is to drop this.
    pub fn end(&mut self, failed: bool) {
        self.error = failed.then_some("event_failed");
    }
}

impl Drop for EventSpan {
    fn drop(&mut self) {
        if let Some(kind) = self.kind.take() {
            self.trace.end_event(kind, self.error);
        }
    }
}

/// A call of the handler that is under way; its span ends when this is dropped.
#[derive(Debug)]
pub struct Call {
    trace: Arc<EventTrace>,
    worker: usize,
    submitted: Instant,
    begun: Instant,
    error: Option<&'static str>,
}

impl Call {
    /// A call that worker number `worker` began at `begun`; `None` where nothing is recorded.
    pub fn begin(
        trace: Option<&Arc<EventTrace>>,
        worker: usize,
        submitted: Instant,
        begun: Instant,
    ) -> Option<Box<Self>> {
        let trace = trace.filter(|trace| trace.recorded())?;
        Some(Box::new(Self { trace: trace.clone(), worker, submitted, begun, error: None }))
    }

    /// How it failed, as a word of few.
    pub fn fail(&mut self, error: &'static str) {
        self.error = Some(error);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let kind = Kind::Call { worker: self.worker, waited: self.begun.duration_since(self.submitted) };
        let trace = &self.trace;
        trace.end(trace.call, trace.event, kind, (self.begun, Instant::now()), self.error);
    }
}

impl Sampler {
    /// Whether a trace is recorded. `parent`: its sender does, if it has one.
    fn samples(self, trace_id: u128, parent: Option<bool>) -> bool {
        if let Some(parent) = parent.filter(|_| self.follows_parent) {
            return parent;
        }
        match self.root {
            Root::Always => true,
            Root::Never => false,
            // As other libraries choose, so that all of them choose the same traces: the lower half without its
            // lowest bit, as a part of all there are.
            Root::Ratio(ratio) => ((trace_id as u64 >> 1) as f64) < ratio * (1_u64 << 63) as f64,
        }
    }
}

/// Never 0, which means "none".
fn random_trace_id() -> u128 {
    fastrand::u128(1..)
}

/// Never 0, which means "none".
fn random_span_id() -> u64 {
    fastrand::u64(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(root: Root, follows_parent: bool) -> (Tracer, span::Ended) {
        let (spans, ended) = span::queue(8, 8);
        (Tracer::new(Sampler { root, follows_parent }, Some(spans)), ended)
    }

    fn headers(parent: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(parent));
        headers
    }

    #[test]
    fn the_parents_decision_holds_where_the_sampler_follows_it() {
        let yes = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
        let no = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00";
        for (root, follows, parent, recorded) in [
            (Root::Never, true, yes, true),
            (Root::Always, true, no, false),
            (Root::Never, false, yes, false),
            (Root::Always, false, no, true),
        ] {
            let (tracer, _ended) = tracer(root, follows);
            let trace = tracer.begin(&headers(parent));
            assert_eq!(trace.recorded(), recorded, "{root:?} {follows} {parent}");
            let mut shown = headers(parent);
            trace.stamp(&mut shown);
            let flags = if recorded { "-01" } else { "-00" };
            assert!(shown[TRACEPARENT].to_str().unwrap().ends_with(flags));
        }
    }

    #[test]
    fn a_ratio_takes_that_part_of_the_traces_and_the_same_ones_everywhere() {
        let (tracer, _ended) = tracer(Root::Ratio(0.25), true);
        let taken = (0..4000).filter(|_| tracer.begin(&HeaderMap::new()).recorded()).count();
        assert!((800..1200).contains(&taken), "{taken}");
        let sampler = Sampler { root: Root::Ratio(0.25), follows_parent: true };
        assert!(sampler.samples(0x1000_0000_0000_0000, None));
        assert!(!sampler.samples(0xf000_0000_0000_0000, None));
    }

    #[test]
    fn a_call_is_below_the_event_which_is_below_the_sender() {
        let (tracer, mut ended) = tracer(Root::Always, true);
        let trace = tracer.begin(&headers("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"));
        let now = Instant::now();
        drop(Call::begin(Some(&trace), 3, now, now));
        trace.end_event(Kind::Trigger { kind: "cron".into(), name: "c".into() }, None);
        let (call, event) = (ended.take().unwrap(), ended.take().unwrap());
        assert_eq!((call.parent, event.parent), (event.id, 0x00f0_67aa_0ba9_02b7));
        assert!(event.parent_is_remote && !call.parent_is_remote);
        assert_eq!(format!("{:016x}", call.id), trace.span_id());
        assert!(event.start <= call.start && call.end <= event.end);
    }
}
