//! The HTTP trigger: the order of decisions for one request. Reading it is `request`'s business, answering
//! `response`'s.

mod cors;
mod file;
mod request;
mod response;
mod span;

use std::convert::Infallible;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{Trigger, TriggerContext, TriggerError};
use crate::config::HttpTrigger;
use crate::event::{Event, cloudevent};
use crate::net::{Activity, Limits, Phase, Server, bind};
use request::Refusal;
use response::{Answer, HttpBody};
use span::RequestSpan;

/// Paths that start like this answer probes without a worker.
const HEALTH_PATH: &[u8] = b"/__internal/health";
/// Time for a head, and longest time without progress on a body or an answer.
const STALL: Duration = Duration::from_secs(60);
/// Connections at once.
const CONNECTIONS_MAX: usize = 262_144;

struct Http {
    cx: TriggerContext,
    config: HttpTrigger,
}

/// Binds the address; serves nothing yet.
pub(super) fn build(config: &HttpTrigger, cx: TriggerContext) -> Result<Trigger, TriggerError> {
    let failed =
        |error| TriggerError::Bind { trigger: cx.info.name.clone(), address: config.listen.clone(), error };
    let listener = bind(&config.listen).map_err(failed)?;
    let limits =
        Limits { head_bytes_max: config.head_bytes_max, stall: STALL, connections_max: CONNECTIONS_MAX };
    let info = cx.info.clone();
    let shutdown = cx.shutdown.clone();
    let http = Arc::new(Http { cx, config: config.clone() });
    if http.config.cors.as_ref().is_some_and(|cors| cors.allow_credentials && cors.allows_any_origin()) {
        let message = "CORS allows credentials from every origin, because allowOrigins holds *";
        http.cx.logger.warn(message, crate::fields! {"trigger" => info.name});
    }
    let service = {
        let http = http.clone();
        // Not wrapped once more: the future is moved into its place for every request.
        move |request, activity| http.clone().handle(request, activity)
    };
    let logger = http.cx.logger.clone();
    let server = Server::new(listener, limits, logger, service).map_err(|error| TriggerError::Bind {
        trigger: info.name.clone(),
        address: config.listen.clone(),
        error,
    })?;
    Ok(Trigger { info, task: Box::pin(server.run(shutdown)) })
}

impl Http {
    async fn handle(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        activity: Arc<Activity>,
    ) -> Result<http::Response<HttpBody>, Infallible> {
        activity.set_phase(Phase::Service);
        let mut answer = self.answer(request, &activity).await;
        if activity.answer_closes() {
            answer.close();
        }
        let streamed = answer.is_streamed();
        activity.set_phase(if streamed { Phase::Streaming } else { Phase::Idle });
        Ok(answer.finish(streamed.then_some(activity)))
    }

    async fn answer(&self, request: http::Request<Incoming>, activity: &Activity) -> Answer {
        let (mut parts, body) = request.into_parts();
        let path = request::decoded_path(&parts.uri);
        let answer = match self.settle(&parts, path.as_deref()) {
            Break(mut answer) => {
                if !body.is_end_stream() {
                    answer.close(); // What is not read of a body stands before the next request.
                }
                return answer;
            }
            Continue(answer) => answer,
        };
        let mut answer = answer;
        let trace = self.cx.events.tracer().map(|tracer| tracer.begin(&parts.headers));
        if let Some(trace) = &trace {
            answer.span = RequestSpan::begin(trace, &parts, &self.cx.info);
        }
        let logs = answer.logs.clone();
        activity.set_phase(Phase::Body);
        let body =
            request::read_body(&mut parts, body, self.config.body_bytes_max, &self.cx.bodies, activity).await;
        activity.set_phase(Phase::Service);
        match body {
            Ok(body) => {
                let mut event = request::event(parts, path, body, logs, self.cx.info.clone());
                if let Some(trace) = trace {
                    answer.describe(&event);
                    trace.stamp(&mut event.header_map);
                    event.trace = Some(trace);
                }
                self.submit(event, answer).await
            }
            Err(Refusal::TooLarge) => answer.too_large(self.config.body_bytes_max),
            Err(Refusal::NoRoom) => {
                self.cx.events.count(false);
                let mut answer = answer.no_room();
                answer.close();
                answer
            }
            Err(Refusal::Broken) if activity.expired() => answer.too_slow(),
            Err(Refusal::Broken) => answer.malformed(),
        }
    }

    /// The event's way to a worker, and its answer's way back.
    async fn submit(&self, mut event: Box<Event>, mut answer: Answer) -> Answer {
        if let Err(error) = cloudevent::unwrap(&mut event) {
            self.cx.logger.debug("Refused a cloud event", crate::fields! {"err" => error.to_string()});
            self.cx.events.count(false);
            return answer.bad_cloud_event();
        }
        let mut reply = self.cx.events.submit(event).await;
        if let Ok(response) = &mut reply
            && let Some(file) = file::wanted(&mut response.headers)
        {
            answer.length = file.send(response, &self.cx.logger).await;
        }
        answer.reply(reply, self.cx.events.counters(), &self.cx.logger)
    }

    /// Breaks with the answer to what needs no event; else continues with the beginning of one.
    fn settle(&self, parts: &Parts, path: Option<&[u8]>) -> ControlFlow<Answer, Answer> {
        let mut answer = Answer::to(parts);
        if !request::host_is_sound(&parts.headers) {
            return Break(answer.malformed());
        }
        answer.logs = request::log_buffer(&parts.headers, &self.cx.info.name);
        if let Some(cors) = self.config.cors.as_ref().filter(|_| cors::is_preflight(parts)) {
            let accepted = cors::preflight(cors, parts, &mut answer);
            self.cx.events.count(accepted);
            return Break(answer);
        }
        if path.unwrap_or(parts.uri.path().as_bytes()).starts_with(HEALTH_PATH) {
            let draining = self.cx.shutdown.draining.is_cancelled();
            return Break(if draining { answer.status(503) } else { answer });
        }
        if let Some(cors) = &self.config.cors
            && !cors::admit(cors, parts, &mut answer)
        {
            self.cx.events.count(false);
            return Break(answer.status(403));
        }
        Continue(answer)
    }
}

/// Whether a request's method never has a body of its own accord: no `Content-Length: 0` is shown for it.
fn bodiless(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// The header of requests for logs, and of answers with them.
const LOG_LEVEL: header::HeaderName = header::HeaderName::from_static("x-nuclio-log-level");
