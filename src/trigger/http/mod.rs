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
    /// this future is made and moved for each request. For the same reason there is no `async fn`: what is given to one
    /// lies in its future twice.
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
            // A body that nobody reads is kept until hyper asks for the answer: it would begin to throw it away.
            Ok(Step::Answered) if body.is_end_stream() => Either::Left(ready(Ok(answer.finish(activity)))),
            Ok(Step::Wait(waiting)) => {
                let reply = http.cx.events.wait_for(waiting);
                Either::Right(Either::Left(async move {
                    let reply = reply.await;
                    if let Step::Open(named) = http.give_back(reply, &mut answer) {
                        Box::pin(http.open(named, &mut answer)).await;
                    }
                    Ok(answer.finish(activity))
                }))
            }
            begun => Either::Right(Either::Right(Box::pin(async move {
                let step = match begun {
                    Ok(step) => step,
                    Err(unread) => http.read(unread, &mut parts, body, known, activity, &mut answer).await,
                };
                http.go_on(step, activity, &mut answer).await;
                Ok(answer.finish(activity))
            }))),
        }
    }
}

/// A request whose body has to be read first: its path, if it differs from the target's, and its trace.
type Unread = (CleanPath, Option<Arc<EventTrace>>);

/// What comes next for a request.
enum Step {
    /// Nothing: the answer is given.
    Answered,
    /// Wait for the handler.
    Wait(Waiting),
    /// Look for a cloud event, or several, in the event.
    Unwrap(Box<Event>),
    /// Wait for others, with which it makes a batch.
    Gather(Box<Event>),
    /// Open the file that the handler has named in its response.
    Open(Box<(file::Wanted, Response)>),
}

impl Http {
    /// As far as a request comes without waiting for anything: up to its body, if it has one.
    fn begin(
        &self,
        parts: &mut Parts,
        body: &Incoming,
        known: Known,
        activity: &Activity,
        answer: &mut Answer,
    ) -> Result<Step, Unread> {
        let Some(unread) = self.look(parts, body, known, answer) else { return Ok(Step::Answered) };
        if !body.is_end_stream() {
            return Err(unread);
        }
        let event = self.event(parts, known, unread, EventBody::none(), activity, answer);
        Ok(self.admit(event, known, activity, answer))
    }

    /// Reads the body and goes on as [`Http::begin`], or hands it on as it comes.
    async fn read(
        &self,
        unread: Unread,
        parts: &mut Parts,
        body: Incoming,
        known: Known,
        activity: &Arc<Activity>,
        answer: &mut Answer,
    ) -> Step {
        if self.takes_as_it_comes(parts, &body) {
            // Boxed, as below: what few requests need must not make the future of the others larger.
            Box::pin(self.feed(unread, parts, body, known, activity, answer)).await;
            return Step::Answered;
        }
        match self.read_body(parts, body, activity).await {
            Ok(body) => {
                let known = Known::of(&parts.headers); // Trailers have joined them.
                let event = self.event(parts, known, unread, body, activity, answer);
                self.admit(event, known, activity, answer)
            }
            Err(refusal) => {
                self.refuse(answer, refusal, activity);
                Step::Answered
            }
        }
    }

    /// Until the answer is given.
    async fn go_on(&self, mut step: Step, activity: &Activity, answer: &mut Answer) {
        loop {
            step = match step {
                Step::Answered => return,
                Step::Wait(waiting) => {
                    let reply = self.cx.events.wait_for(waiting).await;
                    self.give_back(reply, answer)
                }
                Step::Unwrap(mut event) => match cloudevent::unwrap(&mut event) {
                    Ok(None) => self.submit(event, activity, answer),
                    Ok(Some(events)) => {
                        activity.share_turn();
                        return Box::pin(self.submit_cloud_batch(events, answer)).await;
                    }
                    Err(error) => return self.refuse_cloud_event(answer, &error),
                },
                Step::Gather(event) => {
                    let reply = self.submit_elsewhere(event).await;
                    self.give_back(reply, answer)
                }
                Step::Open(named) => return Box::pin(self.open(named, answer)).await,
            }
        }
    }

    /// What comes before a body is read: the path, if it differs from the target's, and the trace. `None`: the answer
    /// is given.
    fn look(&self, parts: &Parts, body: &Incoming, known: Known, answer: &mut Answer) -> Option<Unread> {
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
        (path, trace): Unread,
        body: EventBody,
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
            && body.size_hint().exact().is_none_or(|bytes| bytes > incoming::WHOLE_BYTES_MAX)
            && (self.cx.events.serves_web() || !cloudevent::is_one(&parts.headers))
    }

    /// The event's way to a worker and its answer's way back, with a body that is still arriving.
    async fn feed(
        &self,
        unread: Unread,
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
        let event = self.event(parts, known, unread, body, activity, answer);
        // A handler that has been told of it may have answered, which is not the reason any more.
        let reply = match self.cx.events.submit_until(event, feed.refused()).await {
            Ok(reply) => reply,
            Err(refusal) => return self.refuse(answer, refusal, activity),
        };
        self.give_all_back(reply, answer).await;
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
    fn admit(&self, event: Box<Event>, known: Known, activity: &Activity, answer: &mut Answer) -> Step {
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
            Ok(reply) => self.give_back(reply, answer),
            Err(waiting) => {
                activity.share_turn();
                Step::Wait(waiting)
            }
        }
    }

    /// The event's way to a worker where others wait for this thread, by a batch if there are such.
    async fn submit_elsewhere(&self, event: Box<Event>) -> Reply {
        match &self.batches {
            None => self.cx.events.submit(event).await,
            Some(batches) => Box::pin(batches.submit(event)).await,
        }
    }

    /// What the handler, or the lack of a worker, makes of the answer.
    fn give_back(&self, mut reply: Reply, answer: &mut Answer) -> Step {
        let file = reply.as_mut().ok().and_then(|response| file::wanted(&mut response.headers));
        match (file, reply) {
            (Some(file), Ok(response)) => Step::Open(Box::new((file, response))),
            (_, reply) => {
                answer.reply(reply, self.cx.events.counters(), &self.cx.logger);
                Step::Answered
            }
        }
    }

    /// The file becomes the body of the answer.
    async fn open(&self, named: Box<(file::Wanted, Response)>, answer: &mut Answer) {
        let (file, mut response) = *named;
        answer.length = file.send(&mut response, &self.cx.logger).await;
        answer.reply(Ok(response), self.cx.events.counters(), &self.cx.logger);
    }

    /// Both.
    async fn give_all_back(&self, reply: Reply, answer: &mut Answer) {
        if let Step::Open(named) = self.give_back(reply, answer) {
            self.open(named, answer).await;
        }
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
