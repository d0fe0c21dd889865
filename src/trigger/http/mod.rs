//! The HTTP trigger: the order of decisions for one request. Reading it is `request`'s business, answering
//! `response`'s.

mod cloud_batch;
mod cors;
mod file;
mod incoming;
mod request;
mod response;
mod span;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::batch::Batcher;
use super::{Trigger, TriggerContext, TriggerError};
use crate::config::{HttpTrigger, Owed};
use crate::event::{Event, EventBody, cloudevent};
use crate::logging::Logger;
use crate::net::{Activity, Limits, Listener, Phase, Server, Service, bind};
use crate::queue::Reply;
use crate::trace::EventTrace;
use incoming::Feed;
use request::{Known, Refusal};
use response::{Answer, HttpBody};
use span::RequestSpan;

/// Paths that start like this answer probes without a worker.
const HEALTH_PATH: &[u8] = b"/__internal/health";
/// Time for a head, and longest time without progress on a body or an answer.
const STALL: Duration = Duration::from_secs(60);
/// Connections at once.
const CONNECTIONS_MAX: usize = 262_144;

/// The path as handlers see it, where that differs from the one in the target.
type CleanPath = Option<Box<[u8]>>;

struct Http {
    cx: TriggerContext,
    config: HttpTrigger,
    /// Gathers events where the handler takes several at once.
    batches: Option<Batcher>,
}

/// Binds the address; serves nothing yet.
pub(super) fn build(config: &HttpTrigger, cx: TriggerContext) -> Result<Trigger, TriggerError> {
    let failed =
        |error| TriggerError::Bind { trigger: cx.info.name.clone(), address: config.listen.clone(), error };
    let listener = match &config.adopted {
        None => bind(&config.listen),
        Some(listener) => Listener::adopt(&listener.listener),
    };
    let listener = listener.map_err(failed)?;
    let limits =
        Limits { head_bytes_max: config.head_bytes_max, stall: STALL, connections_max: CONNECTIONS_MAX };
    let info = cx.info;
    let shutdown = cx.shutdown.clone();
    let batches = config.batch.as_ref().map(|batch| {
        Batcher::new(cx.events.clone(), batch.clone(), cx.event_timeout, shutdown.closing.clone())
    });
    let http = Arc::new(Http { cx, config: config.clone(), batches });
    if http.config.cors.as_ref().is_some_and(|cors| cors.allow_credentials && cors.allows_any_origin()) {
        let message = "CORS allows credentials from every origin, because allowOrigins holds *";
        http.cx.logger.warn(message, crate::fields! {"trigger" => info.name});
    }
    let logger = http.cx.logger.clone();
    let server = Server::new(listener, limits, logger, Requests(http.clone())).map_err(|error| {
        TriggerError::Bind { trigger: info.name.clone(), address: config.listen.clone(), error }
    })?;
    let serve = server.keep_ends(http.cx.events.serves_web()).run(shutdown);
    let task: super::Task = if http.batches.is_none() {
        Box::pin(serve)
    } else {
        Box::pin(async move {
            let gather = async {
                if let Some(batches) = &http.batches {
                    batches.run().await;
                }
            };
            tokio::select! {
                () = serve => {}
                () = gather => {}
            }
        })
    };
    Ok(Trigger { info, task })
}

/// A connection's way to the trigger. Requests borrow it: one more reference for each would be counted where the
/// connections of all threads count theirs.
#[derive(Clone)]
struct Requests(Arc<Http>);

impl Service for Requests {
    type Body = HttpBody;

    /// No `async fn`: what is given to one lies in its future twice, which is made and moved for each request.
    fn answer(
        &self,
        request: http::Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> impl Future<Output = Result<http::Response<HttpBody>, Infallible>> + Send {
        activity.set_phase(Phase::Service);
        let (mut parts, body) = request.into_parts();
        let known = Known::of(&parts.headers);
        let mut answer = Answer::to(&parts, known);
        async move {
            self.0.answer(&mut parts, body, known, activity, &mut answer).await;
            if activity.answer_closes() {
                answer.close();
            }
            let streamed = answer.is_streamed();
            activity.set_phase(if streamed { Phase::Streaming } else { Phase::Idle });
            Ok(answer.finish(streamed.then(|| activity.clone())))
        }
    }
}

impl Http {
    async fn answer(
        &self,
        parts: &mut Parts,
        body: Incoming,
        mut known: Known,
        activity: &Arc<Activity>,
        answer: &mut Answer,
    ) {
        let Some((path, trace)) = self.begin(parts, &body, known, answer) else { return };
        if self.takes_as_it_comes(parts, &body) {
            activity.share_turn();
            return match incoming::open(parts, body, self.config.body_bytes_max, &self.cx.bodies, activity) {
                Ok((feed, body)) => {
                    let event = self.event(parts, known, (path, body), trace, activity, answer);
                    // Boxed, as below: what few requests need must not make the future of all larger.
                    Box::pin(self.submit_with(event, answer, feed, activity)).await;
                }
                Err(refusal) => self.refuse(answer, refusal, activity),
            };
        }
        let body = if body.is_end_stream() {
            EventBody::none()
        } else {
            let read = self.read_body(parts, body, activity).await;
            known = Known::of(&parts.headers); // Trailers have joined them.
            match read {
                Ok(body) => body,
                Err(refusal) => return self.refuse(answer, refusal, activity),
            }
        };
        let mut event = self.event(parts, known, (path, body), trace, activity, answer);
        // Cloud events to a web application are its own business.
        if event.web.is_some() || !known.may_be_cloud_event() {
            return self.submit(event, answer, activity).await;
        }
        match cloudevent::unwrap(&mut event) {
            Ok(None) => self.submit(event, answer, activity).await,
            Ok(Some(events)) => {
                activity.share_turn();
                Box::pin(self.submit_cloud_batch(events, answer)).await;
            }
            Err(error) => self.refuse_cloud_event(answer, &error),
        }
    }

    /// What comes before a body is read: the path, if it differs from the target's, and the trace. `None`: the answer
    /// is given.
    fn begin(
        &self,
        parts: &Parts,
        body: &Incoming,
        known: Known,
        answer: &mut Answer,
    ) -> Option<(CleanPath, Option<Arc<EventTrace>>)> {
        let path = request::decoded_path(&parts.uri);
        let settled = self.settle(parts, body, known, path.as_deref(), answer);
        let trace = self.cx.events.tracer().filter(|_| !settled).map(|tracer| tracer.begin(&parts.headers));
        let recorder = self.recorder();
        if trace.is_some() || recorder.is_some() {
            answer.span = RequestSpan::begin(trace.as_ref(), recorder, parts, self.cx.info);
        }
        if settled {
            if !body.is_end_stream() {
                answer.close(); // What is not read of a body stands before the next request.
            }
            return None;
        }
        if self.cx.events.serves_web() {
            if request::wants_web_socket(&parts.headers) {
                self.cx.events.count(false);
                answer.no_web_socket();
                return None;
            }
            answer.serve_web(&parts.method);
        }
        Some((path, trace))
    }

    /// The event of a request, of whose parts nothing is left.
    fn event(
        &self,
        parts: &mut Parts,
        known: Known,
        (path, body): (CleanPath, EventBody),
        trace: Option<Arc<EventTrace>>,
        activity: &Activity,
        answer: &mut Answer,
    ) -> Box<Event> {
        let ends = self.cx.events.serves_web().then(|| activity.ends());
        let (logs, trigger) = (answer.logs.clone(), self.cx.info);
        let mut event = request::event(parts, known, path, body, logs, trigger, ends);
        answer.trace(&mut event, trace);
        event
    }

    async fn read_body(
        &self,
        parts: &mut Parts,
        body: Incoming,
        activity: &Activity,
    ) -> Result<EventBody, Refusal> {
        activity.begin_body();
        let body =
            request::read_body(parts, body, self.config.body_bytes_max, &self.cx.bodies, activity).await;
        activity.end_body();
        activity.set_phase(Phase::Service);
        body
    }

    /// Where a record of each request goes, if somebody wants to see such.
    fn recorder(&self) -> Option<(&Logger, Option<Owed>)> {
        let owe = || self.config.adopted.as_ref().map(|adopted| adopted.unanswered.owe());
        self.config.request_records.then(|| (&self.cx.logger, owe()))
    }

    /// What a body gets that cannot be read or must not be.
    fn refuse(&self, answer: &mut Answer, refusal: Refusal, activity: &Activity) {
        match refusal {
            Refusal::TooLarge => answer.too_large(self.config.body_bytes_max),
            Refusal::NoRoom => {
                self.cx.events.count(false);
                answer.no_room();
                answer.close();
            }
            Refusal::Broken if activity.expired() => answer.too_slow(),
            Refusal::Broken => answer.malformed(),
        }
    }

    /// Whether the handler gets the body while it arrives. Cloud events are unwrapped and batches gathered, which takes
    /// all of it.
    fn takes_as_it_comes(&self, parts: &Parts, body: &Incoming) -> bool {
        self.cx.events.streams_bodies()
            && self.batches.is_none()
            && !body.is_end_stream()
            && body.size_hint().exact().is_none_or(|bytes| bytes > incoming::WHOLE_BYTES_MAX)
            && (self.cx.events.serves_web() || !cloudevent::is_one(&parts.headers))
    }

    /// As [`Http::submit`], with a body that is still arriving.
    async fn submit_with(&self, event: Box<Event>, answer: &mut Answer, mut feed: Feed, activity: &Activity) {
        // A handler that has been told of it may have answered, which is not the reason any more.
        let reply = match self.cx.events.submit_until(event, feed.refused()).await {
            Ok(reply) => reply,
            Err(refusal) => return self.refuse(answer, refusal, activity),
        };
        self.give_back(reply, answer).await;
        if !feed.is_whole() {
            answer.close(); // What is not read of a body stands before the next request.
        }
        if answer.is_streamed() {
            answer.feed = Some(feed); // A handler may read on while it answers.
        }
    }

    /// What a request gets that is no cloud event although it says so.
    fn refuse_cloud_event(&self, answer: &mut Answer, error: &cloudevent::CloudEventError) {
        self.cx.logger.debug("Refused a cloud event", crate::fields! {"err" => error.to_string()});
        self.cx.events.count(false);
        answer.bad_cloud_event();
    }

    /// The event's way to a worker, and its answer's way back.
    async fn submit(&self, event: Box<Event>, answer: &mut Answer, activity: &Activity) {
        if self.batches.is_some() || !activity.is_turn_free() {
            return self.submit_elsewhere(event, answer).await;
        }
        let reply = match self.cx.events.submit_here(event) {
            Ok(reply) => reply,
            Err(waiting) => {
                activity.share_turn();
                self.cx.events.wait_for(waiting).await
            }
        };
        self.give_back(reply, answer).await;
    }

    /// The same where others wait for this thread.
    async fn submit_elsewhere(&self, event: Box<Event>, answer: &mut Answer) {
        let reply = match &self.batches {
            None => self.cx.events.submit(event).await,
            Some(batches) => Box::pin(batches.submit(event)).await,
        };
        self.give_back(reply, answer).await;
    }

    async fn give_back(&self, mut reply: Reply, answer: &mut Answer) {
        // The file that a handler has named becomes the body.
        if let Ok(response) = &mut reply
            && let Some(file) = file::wanted(&mut response.headers)
        {
            answer.length = Box::pin(file.send(response, &self.cx.logger)).await;
        }
        answer.reply(reply, self.cx.events.counters(), &self.cx.logger);
    }

    /// Whether the answer is given, because no event is needed for it.
    fn settle(
        &self,
        parts: &Parts,
        body: &Incoming,
        known: Known,
        path: Option<&[u8]>,
        answer: &mut Answer,
    ) -> bool {
        if parts.method == Method::CONNECT {
            answer.no_tunnel();
            return true;
        }
        if known.has_host() && !request::host_is_sound(&parts.headers)
            || !request::target_is_sound(&parts.method, &parts.uri)
        {
            answer.malformed();
            return true;
        }
        if !body.is_end_stream() {
            if !request::expects_continue_only(&parts.headers) {
                answer.unknown_expectation();
                return true;
            }
            if body.size_hint().exact().is_none() && !request::is_chunked_only(&parts.headers) {
                answer.unknown_coding();
                return true;
            }
        }
        if known.asks_for_logs() {
            answer.logs = request::log_buffer(&parts.headers, &self.cx.info.name);
        }
        if let Some(cors) = self.config.cors.as_ref().filter(|_| cors::is_preflight(parts)) {
            let accepted = cors::preflight(cors, parts, answer);
            self.cx.events.count(accepted);
            return true;
        }
        if path.unwrap_or(parts.uri.path().as_bytes()).starts_with(HEALTH_PATH) {
            let draining = self.cx.shutdown.draining.is_cancelled();
            if draining {
                answer.set_status(503);
            }
            return true;
        }
        if let Some(cors) = &self.config.cors
            && !cors::admit(cors, parts, answer)
        {
            self.cx.events.count(false);
            answer.set_status(403);
            return true;
        }
        false
    }
}

/// Whether a request's method never has a body of its own accord: no `Content-Length: 0` is shown for it.
fn bodiless(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// The header of requests for logs, and of answers with them.
const LOG_LEVEL: header::HeaderName = header::HeaderName::from_static("x-nuclio-log-level");

#[cfg(test)]
mod tests {
    use super::*;

    /// Most bytes of the future of a request, which is made and moved for each of them. What few requests need is
    /// boxed.
    const FUTURE_BYTES_MAX: usize = 1408;

    fn bytes_of<'a, F: Future>(
        _: impl Fn(&'a Requests, http::Request<Incoming>, &'a Arc<Activity>) -> F,
    ) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_future_of_a_request_stays_small() {
        let bytes = bytes_of(Requests::answer);
        assert!(bytes <= FUTURE_BYTES_MAX, "{bytes}");
    }
}
