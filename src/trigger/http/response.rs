//! From an answer, or the lack of one, to a response: the only table of status codes.

use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use http_body::{Frame, SizeHint};
use hyper::ext::ReasonPhrase;

use super::incoming::Feed;
use super::request::Known;
use super::span::RequestSpan;
use crate::event::{Body, Event, HandlerError, Response, header_value};
use crate::fields;
use crate::logging::{LogBuffer, Logger};
use crate::metrics::TriggerCounters;
use crate::net::{Activity, Phase};
use crate::queue::{Reply, SubmitError};
use crate::trace::EventTrace;

const SERVER: HeaderValue = HeaderValue::from_static("nuclio");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
const LOGS: HeaderName = HeaderName::from_static("x-nuclio-logs");
/// Body of a 408 when the handler took too long.
const TIMED_OUT: &str = r#"{"error": "handler timed out"}"#;
/// Body of a 408 when the client did.
const TOO_SLOW: &str = "The request took too long to be received.";

/// compat: what the Go processor says of a status that has no name.
const UNKNOWN_STATUS: ReasonPhrase = ReasonPhrase::from_static(b"Unknown Status Code");

/// A response in the making.
pub(super) struct Answer {
    status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Body,
    /// Of a streamed body, where it is known.
    pub(super) length: Option<u64>,
    /// Returned to a caller who asked for them.
    pub(super) logs: Option<Arc<LogBuffer>>,
    /// `None`: not recorded.
    pub(super) span: Option<Box<RequestSpan>>,
    /// The request's body, as long as a handler may read it.
    pub(super) feed: Option<Feed>,
    version: Version,
    closes: bool,
    web: Option<Web>,
}

/// What is different about the answers of a web application: they say themselves what they are.
#[derive(Debug, Clone, Copy)]
struct Web {
    /// The request was HEAD: a length is that of a body which is not sent.
    head: bool,
    /// The answer is the application's own, not one about it.
    answered: bool,
}

impl Answer {
    /// An empty 200.
    pub(super) fn to(request: &Parts, known: Known) -> Self {
        let connection = known.has_connection().then(|| request.headers.get(header::CONNECTION)).flatten();
        let closes = match connection {
            Some(value) if value.as_bytes().eq_ignore_ascii_case(b"close") => true,
            Some(value) if value.as_bytes().eq_ignore_ascii_case(b"keep-alive") => false,
            _ => request.version < Version::HTTP_11,
        };
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Body::Empty,
            length: None,
            logs: None,
            span: None,
            feed: None,
            version: request.version,
            closes,
            web: None,
        }
    }

    /// Puts the event into its trace and tells the span about it, where there are such.
    pub(super) fn trace(&mut self, event: &mut Event, trace: Option<Arc<EventTrace>>) {
        let Some(trace) = trace else { return };
        event.join(trace);
        if let Some(span) = &mut self.span {
            span.describe(event);
        }
    }

    /// An empty 200 to one of several events that came in one request.
    pub(super) fn to_part() -> Self {
        Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Body::Empty,
            length: None,
            logs: None,
            feed: None,
            span: None,
            version: Version::HTTP_11,
            closes: false,
            web: None,
        }
    }

    /// What is shown of such an answer.
    pub(super) fn into_part(mut self) -> (u16, HeaderMap, Body) {
        self.default_content_type();
        (self.status.as_u16(), self.headers, self.body)
    }

    /// The answers to several events, as JSON.
    pub(super) fn parts(&mut self, status: u16, body: Bytes) {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.body = body.into();
        self.set_status(status);
    }

    /// Another status.
    pub(super) fn set_status(&mut self, status: u16) {
        self.status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    }

    /// The connection ends with this answer.
    pub(super) fn close(&mut self) {
        self.closes = true;
    }

    fn text(&mut self, status: StatusCode, text: impl Into<Bytes>) {
        self.status = status;
        self.body = Body::from(text.into());
    }

    /// It is a web application's.
    pub(super) fn serve_web(&mut self, method: &Method) {
        self.web = Some(Web { head: method == Method::HEAD, answered: false });
    }

    /// What the handler, or the lack of a worker, makes of it.
    pub(super) fn reply(&mut self, reply: Reply, counters: &TriggerCounters, logger: &Logger) {
        match reply {
            Ok(response) => self.response(response, counters, logger),
            Err(SubmitError::NoWorkers) => self.no_room(),
            Err(SubmitError::Stopping | SubmitError::Replaced) => self.set_status(503),
            Err(SubmitError::Handler(HandlerError::Failed { status, message })) => self.text(status, message),
            Err(SubmitError::Handler(HandlerError::TimedOut)) => {
                self.text(StatusCode::REQUEST_TIMEOUT, TIMED_OUT)
            }
            Err(SubmitError::Handler(error @ HandlerError::Lost(_))) => {
                self.text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
            }
            Err(SubmitError::Handler(error @ HandlerError::Unsupported)) => {
                self.text(StatusCode::NOT_IMPLEMENTED, error.to_string())
            }
        }
    }

    fn response(&mut self, response: Response, counters: &TriggerCounters, logger: &Logger) {
        match response.status {
            0 => {}
            200..=999 => self.set_status(response.status),
            other => {
                let message = format!("handler answered with status {other}, which is no final HTTP status");
                logger.warn("Handler's answer cannot be sent", fields! {"err" => message});
                return self.text(StatusCode::INTERNAL_SERVER_ERROR, message);
            }
        }
        if self.headers.is_empty() {
            self.headers = response.headers;
        } else {
            merge(&mut self.headers, response.headers);
        }
        let framing = self.web.and_then(|_| self.headers.remove(header::CONTENT_LENGTH));
        if !self.headers.is_empty() {
            self.drop_framing();
        }
        if let Some(web) = &mut self.web {
            web.answered = true;
        }
        if let Some(length) = framing {
            self.keep_length(length, &response.body);
        }
        if let Some(content_type) = response.content_type {
            self.headers.insert(header::CONTENT_TYPE, content_type);
        }
        self.body = response.body;
        match &self.body {
            Body::Bytes(bytes) => counters.responded(bytes.len() as u64),
            Body::Empty => counters.responded(0),
            Body::Stream(_) => {
                if let Some(length) = self.length {
                    counters.responded(length);
                }
            }
        }
    }

    /// The length that an application gives its answer, where nobody else knows it.
    fn keep_length(&mut self, length: HeaderValue, body: &Body) {
        if self.web.is_some_and(|web| web.head) {
            self.headers.insert(header::CONTENT_LENGTH, length);
        } else if let Body::Stream(_) = body {
            self.length = length.to_str().ok().and_then(|text| text.parse().ok());
        }
    }

    /// Headers that are the server's business, and what asks it to close.
    fn drop_framing(&mut self) {
        for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::DATE] {
            self.headers.remove(name);
        }
        let closes = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"close");
        if self.headers.get(header::CONNECTION).is_some_and(closes) {
            self.closes = true;
        }
        // Only the trailers' names may be announced, and we send none.
        if let Some(names) = self.headers.remove(header::TRAILER) {
            for name in names.as_bytes().split(|byte| *byte == b',') {
                if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                    self.headers.remove(name);
                }
            }
        }
    }

    /// A body over the limit.
    pub(super) fn too_large(&mut self, bytes_max: usize) {
        self.closes = true;
        let text = format!("Request body is larger than maxRequestBodySize, which is {bytes_max} bytes");
        self.text(StatusCode::PAYLOAD_TOO_LARGE, text);
    }

    /// No worker in time, or too much waits already.
    pub(super) fn no_room(&mut self) {
        self.headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        self.set_status(503);
    }

    /// A body that has stood still for too long.
    pub(super) fn too_slow(&mut self) {
        self.closes = true;
        self.text(StatusCode::REQUEST_TIMEOUT, TOO_SLOW);
    }

    /// A body that cannot be read.
    pub(super) fn malformed(&mut self) {
        self.closes = true;
        self.text(StatusCode::BAD_REQUEST, "Error when parsing request");
    }

    /// CONNECT: whoever sends it takes a success for a tunnel, and what follows for anything.
    pub(super) fn no_tunnel(&mut self) {
        self.closes = true;
        self.text(StatusCode::NOT_IMPLEMENTED, "CONNECT is not served: this is no proxy");
    }

    /// A WebSocket: whoever asks for one understands no other answer, so it is refused before it costs a worker.
    pub(super) fn no_web_socket(&mut self) {
        let text = "WebSocket is not served here: the application gets HTTP requests only; use server-sent events, or \
                    run it under an ASGI server";
        self.text(StatusCode::NOT_IMPLEMENTED, text);
    }

    /// `Expect` with something else than `100-continue`.
    pub(super) fn unknown_expectation(&mut self) {
        self.closes = true;
        self.text(StatusCode::EXPECTATION_FAILED, "Expect can only be 100-continue");
    }

    /// A body in another transfer coding than chunks alone.
    pub(super) fn unknown_coding(&mut self) {
        self.closes = true;
        self.text(StatusCode::NOT_IMPLEMENTED, "Transfer-Encoding can only be chunked, once");
    }

    /// A structured cloud event that cannot be unwrapped.
    pub(super) fn bad_cloud_event(&mut self) {
        self.text(StatusCode::BAD_REQUEST, "Failed to wrap structured cloud event");
    }

    pub(super) fn is_streamed(&self) -> bool {
        matches!(self.body, Body::Stream(_))
    }

    fn default_content_type(&mut self) {
        if !matches!(self.body, Body::Empty) && !self.headers.contains_key(header::CONTENT_TYPE) {
            self.headers.insert(header::CONTENT_TYPE, TEXT);
        }
    }

    /// The response as hyper sends it. `activity` is told that the answer is given, or that it is streamed now and, by
    /// its body, that this has ended.
    pub(super) fn finish(mut self, activity: &Arc<Activity>) -> http::Response<HttpBody> {
        self.closes |= activity.answer_closes();
        if matches!(self.status.as_u16(), 204 | 304) {
            self.body = Body::Empty;
        }
        activity.set_phase(if self.is_streamed() { Phase::Streaming } else { Phase::Idle });
        // What an application does not say of its answer it does not want to say.
        if !self.web.is_some_and(|web| web.answered) {
            self.default_content_type();
        }
        if let Some(logs) = &self.logs {
            // JSON has no control bytes left, so this cannot fail.
            self.headers.insert(
                LOGS,
                header_value(logs.header().as_bytes()).unwrap_or(HeaderValue::from_static("[]")),
            );
        }
        self.headers.entry(header::SERVER).or_insert(SERVER);
        // Without chunks only the end of the connection ends a stream.
        if self.closes || self.version < Version::HTTP_11 && self.is_streamed() {
            self.headers.insert(header::CONNECTION, CLOSE);
        } else if self.version < Version::HTTP_11 {
            self.headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        if let Some(span) = &mut self.span {
            span.answered(self.status);
        }
        if let (Some(span), Body::Bytes(bytes)) = (&mut self.span, &self.body) {
            span.sent(bytes.len());
        }
        let body = match self.body {
            Body::Empty => HttpBody::Whole(Bytes::new()),
            Body::Bytes(bytes) => HttpBody::Whole(bytes),
            Body::Stream(stream) => {
                let (length, feed, activity, span) = (self.length, self.feed, activity.clone(), self.span);
                HttpBody::Streamed(Box::new(Streamed { stream, length, failure: None, feed, activity, span }))
            }
        };
        let mut response = http::Response::new(body);
        // To a response of a newer version hyper would add `keep-alive`, also beside `close`.
        *response.version_mut() = self.version;
        *response.status_mut() = self.status;
        if self.status.canonical_reason().is_none() {
            response.extensions_mut().insert(UNKNOWN_STATUS);
        }
        *response.headers_mut() = self.headers;
        response
    }
}

/// The handler's headers replace the trigger's of the same name.
fn merge(headers: &mut HeaderMap, handlers: HeaderMap) {
    let mut last = None;
    for (name, value) in handlers {
        match name {
            Some(name) => {
                headers.insert(name.clone(), value);
                last = Some(name);
            }
            None => {
                if let Some(name) = &last {
                    headers.append(name.clone(), value);
                }
            }
        }
    }
}

/// A body as hyper takes it.
pub(super) enum HttpBody {
    Whole(Bytes),
    Streamed(Box<Streamed>),
}

pub(super) struct Streamed {
    stream: Pin<Box<dyn Stream<Item = Result<Bytes, HandlerError>> + Send>>,
    /// Bytes to come, where that is known.
    length: Option<u64>,
    /// Why the body ends here, once everything before has been written.
    failure: Option<HandlerError>,
    feed: Option<Feed>,
    activity: Arc<Activity>,
    span: Option<Box<RequestSpan>>,
}

impl http_body::Body for HttpBody {
    type Data = Bytes;
    type Error = HandlerError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HandlerError>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(take(bytes))))),
            Self::Streamed(streamed) => streamed.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Streamed(streamed) => streamed.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Streamed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HandlerError>>> {
        if let Some(failure) = self.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        match ready!(self.stream.as_mut().poll_next(cx)) {
            Some(Ok(piece)) => {
                self.length = self.length.map(|length| length.saturating_sub(piece.len() as u64));
                if let Some(span) = &mut self.span {
                    span.sent(piece.len());
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Some(Err(failure)) => {
                if let Some(span) = &mut self.span {
                    span.fail("stream_failed");
                }
                // hyper drops what it has not written when a body fails, the head among it. It writes while the body
                // is not ready, and then asks again.
                self.failure = Some(failure);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        self.feed = None; // Before the phase is set, which a body that is still read would set, too.
        self.activity.set_phase(Phase::Idle);
    }
}
