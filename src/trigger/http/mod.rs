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
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio_util::either::Either;

use super::batch::Batcher;
use super::{Trigger, TriggerContext, TriggerError};
use crate::config::{HttpTrigger, Owed};
use crate::dispatch::Waiting;
use crate::event::{Event, EventBody, Response, cloudevent};
use crate::logging::Logger;
use crate::net::{Activity, Limits, Listener, Phase, Server, Service, bind};
use crate::queue::Reply;
use crate::trace::EventTrace;
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

    /// Most requests are answered here and now, or have but to wait for their handler. What more takes time is boxed:
    /// this future is made and moved for each request.
    fn answer(
        &self,
        request: http::Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> impl Future<Output = Result<http::Response<HttpBody>, Infallible>> + Send {
        activity.set_phase(Phase::Service);
        let http = &*self.0;
        let (mut parts, body) = request.into_parts();
        let known = Known::of(&parts.headers);
        let mut answer = Answer::to(&parts, known);
        match http.begin(&mut parts, &body, known, activity, &mut answer) {
            // A body that nobody reads stays until then: hyper begins to throw away one that is dropped.
            Step::Answered if body.is_end_stream() => Either::Left(ready(Ok(finish(answer, activity)))),
            // No `async fn`: what is given to one lies in its future twice.
            Step::Wait(waiting) => Either::Right(Either::Left(async move {
                let reply = http.cx.events.wait_for(waiting).await;
                if let Some(sending) = http.send_back(reply, &mut answer) {
                    sending.await;
                }
                Ok(finish(answer, activity))
            })),
            step => Either::Right(Either::Right(Box::pin(async move {
                http.go_on(step, &mut parts, body, known, activity, &mut answer).await;
                Ok(finish(answer, activity))
            }))),
        }
    }
}

fn finish(mut answer: Answer, activity: &Arc<Activity>) -> http::Response<HttpBody> {
    if activity.answer_closes() {
        answer.close();
    }
    let streamed = answer.is_streamed();
    activity.set_phase(if streamed { Phase::Streaming } else { Phase::Idle });
    answer.finish(activity)
}

/// What comes next for a request.
enum Step {
    /// Nothing: the answer is given.
    Answered,
    /// Wait for the handler.
    Wait(Waiting),
    /// Read the body.
    Read(CleanPath, Option<Arc<EventTrace>>),
    /// Look for a cloud event, or several, in the event.
    Unwrap(Box<Event>),
    /// Wait for others, with which it makes a batch.
    Gather(Box<Event>),
    /// Open the file that the handler has named.
    Open(Box<Response>),
}

impl Http {
    /// As far as a request comes without waiting for anything.
    fn begin(
        &self,
        parts: &mut Parts,
        body: &Incoming,
        known: Known,
        activity: &Activity,
        answer: &mut Answer,
    ) -> Step {
        let Some((path, trace)) = self.look(parts, body, known, answer) else { return Step::Answered };
        if !body.is_end_stream() {
            return Step::Read(path, trace);
        }
        let event = self.event(parts, known, (path, EventBody::none()), trace, activity, answer);
        self.hand_in(event, known, activity, answer)
    }

    /// All the rest.
    #[expect(clippy::manual_async_fn, reason = "what is given to an `async fn` lies in its future twice")]
    fn go_on(
        &self,
        step: Step,
        parts: &mut Parts,
        body: Incoming,
        known: Known,
        activity: &Arc<Activity>,
        answer: &mut Answer,
    ) -> impl Future<Output = ()> + Send {
        async move {
            let step = match step {
                Step::Read(path, trace) if self.takes_as_it_comes(parts, &body) => {
                    // Boxed, as below: what few requests need must not make the future of the others larger.
                    let feed = self.feed((path, trace), parts, body, known, activity, answer);
                    return Box::pin(feed).await;
                }
                Step::Read(path, trace) => match self.read_body(parts, body, activity).await {
                    Ok(body) => {
                        let known = Known::of(&parts.headers); // Trailers have joined them.
                        let event = self.event(parts, known, (path, body), trace, activity, answer);
                        self.hand_in(event, known, activity, answer)
                    }
                    Err(refusal) => return self.refuse(answer, refusal, activity),
                },
                step => step,
            };
            let step = match step {
                Step::Unwrap(mut event) => match cloudevent::unwrap(&mut event) {
                    Ok(None) => self.submit(event, activity, answer),
                    Ok(Some(events)) => {
                        activity.share_turn();
                        return Box::pin(self.submit_cloud_batch(events, answer)).await;
                    }
                    Err(error) => return self.refuse_cloud_event(answer, &error),
                },
                step => step,
            };
            let reply = match step {
                Step::Wait(waiting) => self.cx.events.wait_for(waiting).await,
                Step::Gather(event) => self.gather(event).await,
                Step::Open(response) => Ok(*response),
                Step::Answered | Step::Read(..) | Step::Unwrap(_) => return,
            };
            if let Some(sending) = self.send_back(reply, answer) {
                sending.await;
            }
        }
    }

    /// What comes before a body is read: the path, if it differs from the target's, and the trace. `None`: the answer
    /// is given.
    fn look(
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

    /// The event's way to a worker and its answer's way back, with a body that is still arriving.
    async fn feed(
        &self,
        (path, trace): (CleanPath, Option<Arc<EventTrace>>),
        parts: &mut Parts,
        body: Incoming,
        known: Known,
        activity: &Arc<Activity>,
        answer: &mut Answer,
    ) {
        activity.share_turn();
        let opened = incoming::open(parts, body, self.config.body_bytes_max, &self.cx.bodies, activity);
        let (mut feed, body) = match opened {
            Ok(opened) => opened,
            Err(refusal) => return self.refuse(answer, refusal, activity),
        };
        let event = self.event(parts, known, (path, body), trace, activity, answer);
        // A handler that has been told of it may have answered, which is not the reason any more.
        let reply = match self.cx.events.submit_until(event, feed.refused()).await {
            Ok(reply) => reply,
            Err(refusal) => return self.refuse(answer, refusal, activity),
        };
        if let Some(sending) = self.send_back(reply, answer) {
            sending.await;
        }
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

    /// What becomes of an event whose body is here.
    fn hand_in(&self, event: Box<Event>, known: Known, activity: &Activity, answer: &mut Answer) -> Step {
        // Cloud events to a web application are its own business.
        if event.web.is_none() && known.may_be_cloud_event() {
            return Step::Unwrap(event);
        }
        self.submit(event, activity, answer)
    }

    /// The event's way to a worker, and its answer's way back if it is here already.
    fn submit(&self, event: Box<Event>, activity: &Activity, answer: &mut Answer) -> Step {
        if self.batches.is_some() {
            return Step::Gather(event);
        }
        if !activity.is_turn_free() {
            return Step::Wait(self.cx.events.hand_in(event)); // Others wait for this thread.
        }
        match self.cx.events.submit_here(event) {
            Ok(reply) => match self.give_back(reply, answer) {
                None => Step::Answered,
                Some(response) => Step::Open(Box::new(response)),
            },
            Err(waiting) => {
                activity.share_turn();
                Step::Wait(waiting)
            }
        }
    }

    async fn gather(&self, event: Box<Event>) -> Reply {
        match &self.batches {
            None => self.cx.events.submit(event).await,
            Some(batches) => Box::pin(batches.submit(event)).await,
        }
    }

    /// The answer's way back. A response is returned for which a file has to be opened first.
    fn give_back(&self, reply: Reply, answer: &mut Answer) -> Option<Response> {
        match reply {
            Ok(response) if file::is_said(&response.headers) => return Some(response),
            reply => answer.reply(reply, self.cx.events.counters(), &self.cx.logger),
        }
        None
    }

    /// The file that a handler has named becomes the body of its answer.
    async fn open(&self, mut response: Response, answer: &mut Answer) {
        if let Some(file) = file::wanted(&mut response.headers) {
            answer.length = file.send(&mut response, &self.cx.logger).await;
        }
        answer.reply(Ok(response), self.cx.events.counters(), &self.cx.logger);
    }

    /// The answer's way back, which takes time if there is a file to be opened.
    fn send_back<'a>(
        &'a self,
        reply: Reply,
        answer: &'a mut Answer,
    ) -> Option<Pin<Box<impl Future<Output = ()> + Send + 'a>>> {
        let response = self.give_back(reply, answer)?;
        Some(Box::pin(self.open(response, answer)))
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
    const FUTURE_BYTES_MAX: usize = 320;

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
